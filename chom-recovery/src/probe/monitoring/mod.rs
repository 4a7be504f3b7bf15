//! Whether the system is watched, and what those who watch it say: targets of Prometheus, expressions that stand for
//! dashboards, alerts, and logs that arrive in Loki.
//!
//! An empty answer is never healthy: a Prometheus that scrapes nothing has no target that is down.

mod alerts;
mod api;
mod loki;
mod prometheus;

use super::SharedProbe;
use crate::system::Monitoring;

pub use alerts::AlertsProbe;
pub(crate) use alerts::version as alertmanager_version;
pub use loki::LogIngestionProbe;
pub(crate) use loki::values as loki_values;
pub(crate) use prometheus::jobs as prometheus_jobs;
pub use prometheus::{BoundsProbe, TargetsProbe};

/// Name of the probe that asks whether targets are scraped.
pub const TARGETS: &str = "targets";
/// Name of the probe that asks for active alerts.
pub const ALERTS: &str = "alerts";
/// Name of the probe that asks whether logs arrive.
pub const LOG_INGESTION: &str = "log-ingestion";
/// Beginning of the names of probes that stand for dashboards.
pub const METRICS: &str = "metrics-";
/// Beginning of the name of the probe that stands for users elsewhere.
pub const EXTERNAL: &str = "external-";

/// Makes a probe for each thing that is configured.
pub fn probes(monitoring: &Monitoring) -> Vec<SharedProbe> {
    let mut probes: Vec<SharedProbe> = Vec::new();
    if let Some(prometheus) = &monitoring.prometheus {
        probes.push(std::sync::Arc::new(TargetsProbe::new(prometheus, &monitoring.targets, monitoring.scrape_age)));
        for (kind, bounds) in monitoring
            .normal
            .iter()
            .map(|bounds| (METRICS, bounds))
            .chain(monitoring.external.iter().map(|bounds| (EXTERNAL, bounds)))
        {
            probes.push(std::sync::Arc::new(BoundsProbe::new(kind, prometheus, bounds)));
        }
    }
    if let Some(alertmanager) = &monitoring.alertmanager {
        let probe = AlertsProbe::new(alertmanager, &monitoring.alerts, monitoring.prometheus.as_ref());
        probes.push(std::sync::Arc::new(probe));
    }
    if let Some(loki) = &monitoring.loki {
        probes.push(std::sync::Arc::new(LogIngestionProbe::new(loki, &monitoring.logs, monitoring.logs_age)));
    }
    probes
}

/// Tells whether a probe of that name asks those who watch the system, and not the system.
pub fn is_of_monitoring(name: &str) -> bool {
    matches!(name, TARGETS | ALERTS | LOG_INGESTION) || name.starts_with(METRICS) || name.starts_with(EXTERNAL)
}
