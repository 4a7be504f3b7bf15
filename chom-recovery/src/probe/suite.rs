//! Suites: the probes of a mode, asked at once, and the report of their answers.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::{
    Answer, Health, Role, SharedProbe, Status, ask,
    certificate::CertificateProbe,
    code::CodeProbe,
    container::ContainerProbe,
    disk::DiskProbe,
    dns::DnsProbe,
    fpm::FpmProbe,
    http::HttpProbe,
    latency::LatencyHistory,
    logs::LogProbe,
    monitoring,
    mysql::{FailedJobsProbe, MysqlProbe, TablesProbe},
    queue::{HeartbeatProbe, QueueProbe},
    redis::RedisProbe,
    statements::StatementsProbe,
    store::StoreProbe,
    synthetic::SyntheticProbe,
    vantage::VantageProbe,
    web::WebConfigurationProbe,
};
use crate::{
    backend::Backend,
    error::{Error, ErrorKind},
    store::BackupStore,
    system::System,
};

/// What a suite is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthMode {
    /// Everything.
    Full,
    /// Before a recovery: everything that tells what is broken.
    PreRecovery,
    /// After a recovery: everything that proves the service.
    PostRecovery,
    /// Cheap enough to be asked every minute: no table is checked and no log read.
    Monitoring,
}

impl HealthMode {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::Full, Self::PreRecovery, Self::PostRecovery, Self::Monitoring];

    /// Returns the name that the command line and JSON use.
    pub fn code(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::PreRecovery => "pre-recovery",
            Self::PostRecovery => "post-recovery",
            Self::Monitoring => "monitoring",
        }
    }
}

impl fmt::Display for HealthMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl FromStr for HealthMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|m| m.code() == text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("`{text}` is not a mode of the health suite"))
                .hint("use one of full, pre-recovery, post-recovery, monitoring")
        })
    }
}

/// What a suite asks, beyond its mode.
#[derive(Debug, Clone, Copy)]
pub struct SuiteOptions {
    /// Mode.
    pub mode: HealthMode,
    /// Logs are read from here on. `None`: the last 15 minutes (runbook, post-recovery checklist).
    pub since: Option<DateTime<Utc>>,
}

impl From<HealthMode> for SuiteOptions {
    fn from(mode: HealthMode) -> Self {
        Self { mode, since: None }
    }
}

/// How far back logs are read when nothing else is said: "no errors in logs for 15 minutes".
const LOG_WINDOW: chrono::TimeDelta = chrono::TimeDelta::minutes(15);

/// Makes the probes of a mode, in order of dependency: host, containers, database, redis, queue, application, edge.
///
/// Nothing is asked yet.
pub fn suite(
    system: &System,
    backend: &Arc<dyn Backend>,
    store: Option<&Arc<dyn BackupStore>>,
    options: impl Into<SuiteOptions>,
) -> Vec<SharedProbe> {
    suite_against(system, backend, store, options.into(), None)
}

/// The same, with the latency of HTTP checks held against what is usual.
pub(crate) fn suite_against(
    system: &System,
    backend: &Arc<dyn Backend>,
    store: Option<&Arc<dyn BackupStore>>,
    SuiteOptions { mode, since }: SuiteOptions,
    history: Option<&LatencyHistory>,
) -> Vec<SharedProbe> {
    let mut probes: Vec<SharedProbe> = vec![Arc::new(DiskProbe::new(system, backend.clone()))];
    if let Some(store) = store {
        probes.push(Arc::new(StoreProbe::new(store.clone(), system.limits.keep_free_bytes)));
    }
    let services = services(system);
    for (service, role) in &services {
        probes.push(Arc::new(ContainerProbe::new(backend.clone(), service, *role)));
    }
    probes.push(Arc::new(MysqlProbe::new(system.database.clone(), backend.clone())));
    if mode != HealthMode::Monitoring {
        // Within the suite's deadline, with time left to log in and to answer.
        let cap = system.limits.check_table_cap.min(system.limits.health_deadline.mul_f64(0.7));
        probes.push(Arc::new(TablesProbe::new(system.database.clone(), backend.clone(), cap)));
    }
    if let Some(redis) = &system.redis {
        probes.push(Arc::new(RedisProbe::new(redis.clone(), backend.clone())));
        if !redis.queues.is_empty() {
            probes.push(Arc::new(QueueProbe::new(redis.clone(), backend.clone())));
        }
        if redis.heartbeat_key.is_some() {
            probes.push(Arc::new(HeartbeatProbe::new(redis.clone(), backend.clone())));
        }
    }
    if matches!(mode, HealthMode::Full | HealthMode::PreRecovery) {
        probes.push(Arc::new(StatementsProbe::new(system.database.clone(), backend.clone())));
    }
    let since = since.unwrap_or_else(|| Utc::now() - LOG_WINDOW);
    if system.redis.as_ref().is_some_and(|r| !r.queues.is_empty()) {
        let probe = FailedJobsProbe::new(system.database.clone(), backend.clone(), since);
        probes.push(Arc::new(probe));
    }
    if mode != HealthMode::Monitoring {
        for (service, role) in &services {
            let files = if *role == Role::Application { system.application.logs.clone() } else { Vec::new() };
            probes.push(Arc::new(LogProbe::new(backend.clone(), service, *role, since).files(files)));
        }
    }
    if let Some(probe) = FpmProbe::of(system, backend.clone()) {
        probes.push(Arc::new(probe));
    }
    // These run commands in containers, which a recovery does not do unasked.
    if mode == HealthMode::Full {
        if let Some(probe) = CodeProbe::of(system, backend.clone()) {
            probes.push(Arc::new(probe));
        }
        probes.push(Arc::new(WebConfigurationProbe::new(backend.clone(), &system.application.web_service)));
    }
    for check in &system.http {
        let probe = HttpProbe::new(check.clone());
        probes.push(Arc::new(match history {
            Some(history) => probe.against(history.baseline(check, Utc::now())),
            None => probe,
        }));
    }
    for certificate in CertificateProbe::of(&system.http) {
        probes.push(Arc::new(certificate));
    }
    if mode == HealthMode::Full {
        for place in &system.vantage {
            probes.push(Arc::new(VantageProbe::new(place.clone(), system.http.first().cloned())));
        }
    }
    for name in DnsProbe::of(&system.http) {
        probes.push(Arc::new(name));
    }
    // What is asked every minute is often asked by Prometheus: it is not asked back.
    if mode != HealthMode::Monitoring {
        probes.extend(monitoring::probes(&system.monitoring));
    }
    // It writes, if only a session and a file of its own.
    if let (HealthMode::PostRecovery, Some(account)) = (mode, &system.synthetic) {
        probes.push(Arc::new(SyntheticProbe::new(account.clone())));
    }
    probes
}

/// Services of the system, each once, in order of dependency.
fn services(system: &System) -> Vec<(&str, Role)> {
    let application = &system.application;
    let mut services = vec![(system.database.service.as_str(), Role::Database)];
    services.extend(system.redis.as_ref().map(|r| (r.service.as_str(), Role::Redis)));
    services.push((&application.service, Role::Application));
    services.push((&application.web_service, Role::Web));
    services.extend(application.workers.iter().map(|w| (w.as_str(), Role::Worker)));
    let mut seen = std::collections::BTreeSet::new();
    services.retain(|(name, _)| !name.is_empty() && seen.insert(*name));
    services
}

/// What a suite found.
///
/// # Examples
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use chom_recovery::probe::{HealthMode, Status, run_suite};
/// let report = run_suite(HealthMode::Monitoring, Vec::new(), std::time::Duration::from_secs(1)).await;
/// assert_eq!(report.overall, Status::Inconclusive, "nothing asked is not health");
/// # });
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthReport {
    /// Mode asked.
    pub mode: HealthMode,
    /// Worst of the answers; inconclusive counts as worse than degraded.
    pub overall: Status,
    /// Answers, in the order of the suite.
    pub answers: Vec<Answer>,
    /// When the suite began.
    pub started: DateTime<Utc>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

impl HealthReport {
    /// Makes a report of answers.
    pub fn new(mode: HealthMode, answers: Vec<Answer>, started: DateTime<Utc>, took: Duration) -> Self {
        let overall = answers.iter().map(|a| a.health.status).max().unwrap_or(Status::Inconclusive);
        Self { mode, overall, answers, started, took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX) }
    }

    /// Finds an answer by the name of its probe.
    pub fn answer(&self, probe: &str) -> Option<&Answer> {
        self.answers.iter().find(|a| a.probe == probe)
    }

    /// Returns the answers, worst first; those alike stay in the order of the suite.
    pub fn by_severity(&self) -> Vec<&Answer> {
        let mut answers: Vec<_> = self.answers.iter().collect();
        answers.sort_by_key(|a| std::cmp::Reverse(a.health.status));
        answers
    }

    /// Counts the answers of a status.
    pub fn count(&self, status: Status) -> usize {
        self.answers.iter().filter(|a| a.health.status == status).count()
    }
}

/// Asks all probes at once, under one deadline. A probe that has not answered by then, or that panicked, counts as
/// inconclusive.
///
/// # Cancel
/// A dropped future ends all probes.
pub async fn run_suite(mode: HealthMode, probes: Vec<SharedProbe>, deadline: Duration) -> HealthReport {
    let started = Utc::now();
    let begun = tokio::time::Instant::now();
    let mut tasks = JoinSet::new();
    let mut answers: Vec<Answer> = Vec::with_capacity(probes.len());
    for (index, probe) in probes.into_iter().enumerate() {
        answers.push(Answer {
            probe: probe.name().to_owned(),
            health: Health::inconclusive("the probe itself failed"),
            latency_ms: 0,
        });
        tasks.spawn(async move { (index, ask(&probe, deadline).await) });
    }
    while let Some(done) = tasks.join_next().await {
        // A panic leaves the answer that was put in advance.
        if let Ok((index, answer)) = done {
            answers[index] = answer;
        }
    }
    HealthReport::new(mode, answers, started, begun.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::tests::Fixed;

    fn fixed(name: &str, status: Status) -> SharedProbe {
        Arc::new(Fixed::new(name, Health::new(status, "as told")))
    }

    #[tokio::test(start_paused = true)]
    async fn one_deadline_holds_for_all_and_the_silent_are_inconclusive() {
        let probes: Vec<SharedProbe> = vec![
            fixed("good", Status::Healthy),
            Arc::new(Fixed::silent("silent-1")),
            Arc::new(Fixed::silent("silent-2")),
            fixed("slow", Status::Degraded),
        ];
        let begun = tokio::time::Instant::now();
        let report = run_suite(HealthMode::Full, probes, Duration::from_secs(30)).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(30), "concurrent, not one after another");
        assert_eq!(report.overall, Status::Inconclusive);
        assert_eq!(report.count(Status::Inconclusive), 2);
        let order: Vec<_> = report.answers.iter().map(|a| a.probe.as_str()).collect();
        assert_eq!(order, ["good", "silent-1", "silent-2", "slow"]);
        let worst: Vec<_> = report.by_severity().iter().map(|a| a.probe.as_str()).collect();
        assert_eq!(worst, ["silent-1", "silent-2", "slow", "good"]);
    }

    #[tokio::test]
    async fn a_probe_that_panics_is_inconclusive_and_does_not_end_the_suite() {
        #[derive(Debug)]
        struct Panics;
        #[async_trait::async_trait]
        impl crate::probe::HealthProbe for Panics {
            fn name(&self) -> &'static str {
                "panics"
            }
            async fn check(&self) -> Health {
                panic!("on purpose")
            }
        }
        let report =
            run_suite(HealthMode::Full, vec![Arc::new(Panics), fixed("good", Status::Healthy)], Duration::from_secs(5))
                .await;
        assert_eq!(report.answer("panics").unwrap().health.status, Status::Inconclusive);
        assert_eq!(report.answer("good").unwrap().health.status, Status::Healthy);
    }

    #[tokio::test]
    async fn a_report_survives_json() {
        let report = run_suite(HealthMode::PreRecovery, vec![fixed("a", Status::Down)], Duration::from_secs(1)).await;
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.contains(r#""mode":"pre-recovery","overall":"down""#), "{json}");
        assert_eq!(serde_json::from_str::<HealthReport>(&json).unwrap(), report);
    }

    #[test]
    fn modes_read_back_and_others_are_refused() {
        for mode in HealthMode::ALL {
            assert_eq!(mode.code().parse::<HealthMode>().unwrap(), mode);
        }
        assert_eq!("most".parse::<HealthMode>().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
