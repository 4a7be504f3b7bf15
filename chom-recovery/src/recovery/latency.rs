//! What the HTTP checks usually take: read before they are asked, remembered afterwards.

use std::{sync::Arc, time::Duration};

use chrono::Utc;

use super::Recovery;
use crate::{
    error::{Error, ErrorKind, Result},
    probe::{
        HealthMode, HealthReport, SharedProbe, Status,
        http::{HttpProbe, MILLISECONDS},
        latency::LatencyHistory,
        monitoring, run_suite,
    },
    system::{HttpCheck, System},
};

impl Recovery {
    /// Reads what is remembered; `None`: it cannot be read, and nothing is compared.
    pub(super) async fn latency_history(&self) -> Option<LatencyHistory> {
        let system = self.system.clone();
        match blocking(move || LatencyHistory::open(&system)).await {
            Ok(history) => Some(history),
            Err(error) => {
                tracing::warn!("latency is not compared with what is usual: {error}");
                None
            }
        }
    }

    /// Remembers how long the HTTP checks took that answered as they must; nothing where a part of the service is down. A file
    /// that cannot be written is no reason to give no answer.
    pub(super) async fn remember_latency(&self, report: &HealthReport) {
        if self.system.http.is_empty() || !is_well(report) {
            return;
        }
        let (system, report) = (self.system.clone(), report.clone());
        if let Err(error) = blocking(move || remember(&system, &report)).await {
            // Whoever may ask and not write, as a monitor's account, is told where that is asked for.
            tracing::info!("latency was not remembered: {error}");
        }
    }

    /// Asks the HTTP checks, and remembers how long they took.
    pub(super) async fn measure_latency(&self) {
        let history = self.latency_history().await;
        let probe = |check: &HttpCheck| -> SharedProbe {
            let probe = HttpProbe::new(check.clone());
            Arc::new(match &history {
                Some(history) => probe.against(history.baseline(check, Utc::now())),
                None => probe,
            })
        };
        let probes: Vec<SharedProbe> = self.system.http.iter().map(probe).collect();
        let report = run_suite(HealthMode::Monitoring, probes, self.system.limits.health_deadline).await;
        self.remember_latency(&report).await;
    }
}

/// Tells whether nothing is down that serves users: backups, and those who watch, make nothing slower.
fn is_well(report: &HealthReport) -> bool {
    let serves = |probe: &str| !matches!(probe, "store" | "backup") && !monitoring::is_of_monitoring(probe);
    !report.answers.iter().any(|a| a.health.status == Status::Down && serves(&a.probe))
}

/// Notes the answers that are as they must be.
fn remember(system: &System, report: &HealthReport) -> Result<()> {
    let mut history = match LatencyHistory::open(system) {
        // What is damaged is of no use to anybody.
        Err(error) if error.kind() == ErrorKind::Corrupt => LatencyHistory::empty(system),
        opened => opened?,
    };
    let before = history.clone();
    for check in &system.http {
        let answer = report.answer(&format!("http-{}", check.name));
        let took = answer
            .filter(|answer| answer.health.status == Status::Healthy)
            .and_then(|answer| answer.health.facts.get(MILLISECONDS)?.parse().ok())
            .map(Duration::from_millis);
        if let Some(took) = took {
            history.note(check, took, report.started);
        }
    }
    if history == before { Ok(()) } else { history.save(&system.http, report.started) }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Error::new(ErrorKind::Failed, "a task ended early").caused_by(e.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Answer, Health};

    fn report(health: Health) -> HealthReport {
        let answer = Answer { probe: "http-health".into(), health, latency_ms: 1 };
        HealthReport::new(HealthMode::Monitoring, vec![answer], Utc::now(), Duration::ZERO)
    }

    #[test]
    fn a_missing_backup_is_no_reason_to_remember_nothing_and_a_database_that_is_down_is_one() {
        for (probe, wanted) in [("backup", true), ("store", true), ("targets", true), ("mysql", false)] {
            let answer = Answer { probe: probe.into(), health: Health::down("as told"), latency_ms: 1 };
            let report = HealthReport::new(HealthMode::Monitoring, vec![answer], Utc::now(), Duration::ZERO);
            assert_eq!(is_well(&report), wanted, "{probe}");
        }
    }

    #[test]
    fn only_what_is_healthy_is_remembered_and_a_damaged_file_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "id = \"shop\"\nstate_dir = \"{}\"\n[compose]\nproject = \"shop\"\n[database]\nservice = \"db\"\n\
             password = {{ file = \"/x\" }}\n[repository]\nurl = \"file:/b\"\n\
             [[http]]\nname = \"health\"\nurl = \"https://shop.example/health\"",
            folder.path().display()
        );
        let system = System::parse(&text).unwrap();
        let file = folder.path().join("latency-shop.json");
        remember(&system, &report(Health::degraded("slow").fact(MILLISECONDS, 9_000))).unwrap();
        assert!(!file.exists());
        std::fs::write(&file, "{").unwrap();
        remember(&system, &report(Health::healthy("fine").fact(MILLISECONDS, 12))).unwrap();
        let baseline = LatencyHistory::open(&system).unwrap().baseline(&system.http[0], Utc::now());
        assert_eq!(baseline.measurements, 1);
        std::fs::write(&file, "{\"format\":9}").unwrap();
        let error = remember(&system, &report(Health::healthy("fine").fact(MILLISECONDS, 12))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "a newer version's file stays");
    }
}
