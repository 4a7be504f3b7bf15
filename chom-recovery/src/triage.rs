//! From answers to a procedure: what is probably broken, why we think so, and what would prove us wrong.
//!
//! Rules go from causes to effects: the Engine, then disks, the database, Redis, the application, the web server. A
//! fault further down is an effect when one further up explains it, and is ranked below it. Refused credentials and a
//! full disk never lead to a restore: the data may be perfectly well.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::probe::{Answer, Class, HealthReport, Status};

/// What to run. The names are those of the runbook's sections 3.1 to 3.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selected {
    /// Recovery of the whole system (3.4).
    FullSystem,
    /// Recovery of the database (3.1).
    Database,
    /// Recovery of the application (3.2).
    Application,
    /// Recovery of the web server (3.3).
    Nginx,
    /// Recovery from bad performance (3.5).
    Performance,
    /// Recovery of single services (3.6).
    Partial,
    /// No recovery: the advice says what to do instead.
    None,
}

impl Selected {
    /// Returns the name that the command line and JSON use.
    pub fn code(self) -> &'static str {
        match self {
            Self::FullSystem => "full-system",
            Self::Database => "database",
            Self::Application => "application",
            Self::Nginx => "nginx",
            Self::Performance => "performance",
            Self::Partial => "partial",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Selected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A hypothesis about what is broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// What is believed, in a line.
    pub hypothesis: String,
    /// Which procedure this selects.
    pub procedure: Selected,
    /// Percent, by judgement of the rule's author, for ranking; not a measured probability.
    pub confidence: u8,
    /// Answers behind it, as `probe: summary`.
    pub evidence: Vec<String>,
    /// What would disprove it.
    pub disproved_by: String,
    /// Next safe action.
    pub advice: String,
}

/// Ranks what may be broken, the most probable first. Never empty.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use chom_recovery::{probe::{Answer, Class, Health, HealthMode, HealthReport}, triage::{Selected, diagnose}};
/// let health = Health::down("access denied").class(Class::Authentication);
/// let answer = Answer { probe: "mysql".into(), health, latency_ms: 3 };
/// let report = HealthReport::new(HealthMode::Full, vec![answer], chrono::Utc::now(), Duration::ZERO);
/// assert_eq!(diagnose(&report)[0].procedure, Selected::None, "a wrong password is no reason to restore");
/// ```
pub fn diagnose(report: &HealthReport) -> Vec<Diagnosis> {
    let view = View(report);
    let mut found = Vec::new();
    for rule in RULES {
        found.extend(rule(&view));
    }
    // What works is said as well, so that old errors in a log do not look like a reason to restore.
    let works = report.answers.iter().all(|a| a.health.status <= Status::Degraded);
    if found.is_empty() || works {
        found.push(nothing(&view));
    }
    // Stable: of equals, the rule nearer to the cause comes first.
    found.sort_by_key(|d| std::cmp::Reverse(d.confidence));
    found
}

type Rule = fn(&View<'_>) -> Option<Diagnosis>;

/// Rules, causes before effects.
const RULES: &[Rule] = &[
    engine,
    everything_down,
    disk_full,
    credentials,
    corrupt,
    data_gone,
    first_start,
    connections,
    database_down,
    redis_down,
    application_credentials,
    application_down,
    maintenance,
    certificate,
    web_down,
    workers,
    slow,
];

/// A report, and the questions that rules ask of it.
struct View<'a>(&'a HealthReport);

impl<'a> View<'a> {
    fn answers(&self, wanted: impl Fn(&Answer) -> bool) -> Vec<&'a Answer> {
        self.0.answers.iter().filter(|a| a.health.status > Status::Healthy && wanted(a)).collect()
    }

    fn of(&self, probe: &str, classes: &[Class]) -> Vec<&'a Answer> {
        self.answers(|a| a.probe == probe && a.class().is_some_and(|c| classes.contains(&c)))
    }

    /// Answers about the containers of services in a role, whose state is a fault.
    fn containers(&self, role: &str) -> Vec<&'a Answer> {
        self.answers(|a| {
            a.probe.starts_with("container-")
                && a.health.status == Status::Down
                && a.health.facts.get("role").is_some_and(|r| r == role)
        })
    }

    fn http(&self, classes: &[Class]) -> Vec<&'a Answer> {
        self.answers(|a| a.probe.starts_with("http-") && a.class().is_some_and(|c| classes.contains(&c)))
    }

    /// Answers about logs of a role (any for `""`) that hold events of a topic.
    fn logs(&self, role: &str, topics: &[&str]) -> Vec<&'a Answer> {
        self.answers(|a| {
            a.probe.starts_with("logs-")
                && (role.is_empty() || a.health.facts.get("role").is_some_and(|r| r == role))
                && topics.iter().any(|t| a.health.facts.contains_key(&format!("errors.{t}")))
        })
    }

    fn is_healthy(&self, probe: &str) -> bool {
        self.0.answer(probe).is_some_and(|a| a.health.status == Status::Healthy)
    }

    /// Whether something is known to be wrong with the database, however it came.
    fn database_is_bad(&self) -> bool {
        self.0.answers.iter().any(|a| a.probe.starts_with("mysql") && a.health.status == Status::Down)
            || !self.containers("database").is_empty()
    }

    fn redis_is_bad(&self) -> bool {
        self.0.answer("redis").is_some_and(|a| a.health.status == Status::Down) || !self.containers("redis").is_empty()
    }

    fn disk_is_full(&self) -> bool {
        disk_full(self).is_some_and(|d| d.confidence > 80)
    }

    fn credentials_are_bad(&self) -> bool {
        !self.of("mysql", &[Class::Authentication]).is_empty()
    }
}

fn diagnosis(
    hypothesis: &str,
    procedure: Selected,
    confidence: u8,
    answers: &[&Answer],
    disproved_by: &str,
    advice: &str,
) -> Diagnosis {
    let mut evidence: Vec<String> = Vec::new();
    for answer in answers {
        let line = format!("{}: {}", answer.probe, answer.health.summary);
        if !evidence.contains(&line) {
            evidence.push(line);
        }
    }
    Diagnosis {
        hypothesis: hypothesis.into(),
        procedure,
        confidence,
        evidence,
        disproved_by: disproved_by.into(),
        advice: advice.into(),
    }
}

fn joined<'a>(lists: &[Vec<&'a Answer>]) -> Vec<&'a Answer> {
    lists.iter().flatten().copied().collect()
}

fn engine(view: &View<'_>) -> Option<Diagnosis> {
    let silent = view.answers(|a| a.class() == Some(Class::Engine) && a.probe.starts_with("container-"));
    if silent.is_empty() {
        return None;
    }
    let outside = view.http(&[Class::Unreachable, Class::Stalled, Class::Name]);
    let asked = view.0.answers.iter().any(|a| a.probe.starts_with("http-"));
    Some(if !asked || outside.is_empty() {
        diagnosis(
            "the Engine cannot be asked; what runs on it is not known",
            Selected::None,
            70,
            &silent,
            "`docker version` against the same address answers",
            "restore access to the Engine (daemon, tunnel, permissions) and diagnose again",
        )
    } else {
        diagnosis(
            "host or Engine is down",
            Selected::FullSystem,
            65,
            &joined(&[silent, outside]),
            "the host answers from a second place: then the network between is at fault, and nothing is to be rebuilt",
            "look at the host from a second place and at the provider's console before anything is rebuilt",
        )
    })
}

fn everything_down(view: &View<'_>) -> Option<Diagnosis> {
    let down = [view.containers("database"), view.containers("application"), view.containers("web")];
    if down.iter().any(Vec::is_empty) {
        return None;
    }
    let full = view.disk_is_full();
    Some(diagnosis(
        "database, application and web server are all down",
        Selected::FullSystem,
        if full { 60 } else { 88 },
        &joined(&down),
        "the volumes still hold their data, and starting the project brings everything back",
        "if the project was only stopped, start it and diagnose again; nothing is lost by that",
    ))
}

fn disk_full(view: &View<'_>) -> Option<Diagnosis> {
    let disk = view.of("disk", &[Class::FullDisk]);
    let mysql = view.of("mysql", &[Class::FullDisk]);
    let logs = view.logs("", &["full_disk"]);
    let is_down = disk.iter().chain(&mysql).any(|a| a.health.status == Status::Down);
    let all = joined(&[disk, mysql, logs]);
    if all.is_empty() {
        return None;
    }
    Some(diagnosis(
        "a disk is full",
        Selected::None,
        if is_down { 95 } else { 45 },
        &all,
        "bytes and inodes are free on every filesystem, and the error stays",
        "free space (old images, rotated logs), never volumes or containers of the project; then diagnose again: \
         a full disk damages nothing that a restore would mend",
    ))
}

fn credentials(view: &View<'_>) -> Option<Diagnosis> {
    let refused = view.of("mysql", &[Class::Authentication]);
    if refused.is_empty() {
        return None;
    }
    Some(diagnosis(
        "the database runs and refuses our credentials",
        Selected::None,
        92,
        &joined(&[refused, view.logs("application", &["authentication"])]),
        "the same account logs in with the same password by another way",
        "correct the password in the configuration, or the account; the data may be perfectly well: do not restore",
    ))
}

fn corrupt(view: &View<'_>) -> Option<Diagnosis> {
    let asked = view.answers(|a| a.probe.starts_with("mysql") && a.class() == Some(Class::Corrupt));
    let logged = view.logs("database", &["corruption", "missing_tablespace", "redo"]);
    if asked.is_empty() && logged.is_empty() {
        return None;
    }
    let confidence = match (asked.is_empty(), view.database_is_bad()) {
        (false, _) => 93,
        (true, true) => 90,
        // A log tells of the past, and the database is well now.
        (true, false) => 40,
    };
    Some(diagnosis(
        "data of the database is damaged",
        Selected::Database,
        confidence,
        &joined(&[asked, logged, view.containers("database")]),
        "`CHECK TABLE` finds every table sound, and the server starts without errors of corruption",
        "recover the database beside the live data; do not repair in place, it destroys evidence",
    ))
}

fn data_gone(view: &View<'_>) -> Option<Diagnosis> {
    let asked = view
        .answers(|a| a.probe.starts_with("mysql") && matches!(a.class(), Some(Class::Empty | Class::MissingTables)));
    let logged = view.logs("application", &["missing_table"]);
    if asked.is_empty() && logged.is_empty() {
        return None;
    }
    Some(diagnosis(
        if asked.is_empty() { "the application misses tables" } else { "the database works and its tables are gone" },
        Selected::Database,
        match (asked.is_empty(), view.http(&[Class::Application, Class::HttpStatus, Class::Body]).is_empty()) {
            (false, _) => 91,
            (true, false) => 72,
            // Logged once, and the application answers.
            (true, true) => 42,
        },
        &joined(&[asked, logged]),
        "the tables are in the volume that the Compose file resolves to, or the release expects tables not yet migrated",
        "check which volume is mounted before anything else; then recover the database",
    ))
}

fn first_start(view: &View<'_>) -> Option<Diagnosis> {
    let found = view.of("mysql", &[Class::InitServer]);
    if found.is_empty() {
        return None;
    }
    Some(diagnosis(
        "the database image is setting up an empty data directory",
        Selected::Database,
        62,
        &found,
        "the volume held data before, and the server answers with it in a moment",
        "wait for the start to end, and find out why the data directory was empty: a wrong volume name does this",
    ))
}

fn connections(view: &View<'_>) -> Option<Diagnosis> {
    let found = view.of("mysql", &[Class::TooManyConnections]);
    if found.is_empty() {
        return None;
    }
    Some(diagnosis(
        "the database runs and has no connection left",
        Selected::Performance,
        86,
        &found,
        "the number of connections is far below `max_connections`",
        "find the sessions that hold connections; do not restart the database, and do not restore",
    ))
}

fn database_down(view: &View<'_>) -> Option<Diagnosis> {
    let containers = view.containers("database");
    let mysql = view.answers(|a| {
        a.probe == "mysql"
            && a.health.status == Status::Down
            && matches!(
                a.class(),
                None | Some(Class::Unreachable | Class::Stalled | Class::Absent | Class::NotRunning | Class::ReadOnly)
            )
    });
    let logged = view.logs("application", &["database_unreachable"]);
    if containers.is_empty() && mysql.is_empty() {
        return None;
    }
    let is_effect = view.disk_is_full() || view.credentials_are_bad();
    Some(diagnosis(
        "the database is down",
        Selected::Database,
        if is_effect { 50 } else { 85 },
        &joined(&[containers, mysql, logged]),
        "the server starts, and its tables are those of the newest backup's manifest",
        "the procedure assesses first: a server that was only stopped is started, and nothing is restored",
    ))
}

fn redis_down(view: &View<'_>) -> Option<Diagnosis> {
    let containers = view.containers("redis");
    let redis = view.answers(|a| a.probe == "redis" && a.health.status == Status::Down);
    if containers.is_empty() && redis.is_empty() {
        return None;
    }
    let refused = redis.iter().any(|a| a.class() == Some(Class::Authentication));
    let all = joined(&[containers, redis, view.logs("application", &["redis_unreachable"])]);
    Some(if refused {
        diagnosis(
            "redis runs and refuses our credentials",
            Selected::None,
            84,
            &all,
            "the same password is accepted by another way",
            "correct the password in the configuration; queued jobs and sessions are not lost",
        )
    } else {
        diagnosis(
            "redis is down",
            Selected::Partial,
            if view.disk_is_full() { 48 } else { 84 },
            &all,
            "redis answers PING and takes a write",
            "check that its data is saved before it is restarted: queued jobs and sessions live there",
        )
    })
}

fn application_credentials(view: &View<'_>) -> Option<Diagnosis> {
    let logged = view.logs("application", &["authentication"]);
    if logged.is_empty() || !view.is_healthy("mysql") {
        return None;
    }
    let fails = view.http(&[Class::Application, Class::HttpStatus, Class::Body]);
    Some(diagnosis(
        "the database is well, and the application's own credentials are refused",
        Selected::Application,
        if fails.is_empty() { 45 } else { 82 },
        &joined(&[logged, fails]),
        "the application logs in with the password of its configuration",
        "compare the application's configuration with the last good one; do not restore the database",
    ))
}

fn application_down(view: &View<'_>) -> Option<Diagnosis> {
    let containers = view.containers("application");
    let upstream = view.http(&[Class::Upstream]);
    let fails = view.http(&[Class::Application, Class::HttpStatus, Class::Body]);
    let all = joined(&[containers.clone(), upstream.clone(), fails, view.logs("web", &["upstream"])]);
    let only_logged = containers.is_empty() && upstream.is_empty();
    if all.is_empty() || (only_logged && view.http(&[Class::Application, Class::HttpStatus, Class::Body]).is_empty()) {
        return None;
    }
    // Its errors are effects when what it depends on is broken.
    let is_effect = view.database_is_bad() || view.redis_is_bad() || view.disk_is_full();
    let confidence = match (is_effect, only_logged) {
        (true, true) => 25,
        (true, false) => 46,
        (false, true) => 70,
        (false, false) => 83,
    };
    Some(diagnosis(
        if only_logged { "the application answers with errors" } else { "the application is down" },
        Selected::Application,
        confidence,
        &all,
        "the application answers directly, or its errors end when the database and redis are well",
        "look at the last release and the last change of configuration first",
    ))
}

fn maintenance(view: &View<'_>) -> Option<Diagnosis> {
    let found = view.http(&[Class::Maintenance]);
    if found.is_empty() {
        return None;
    }
    let is_effect = view.database_is_bad() || view.redis_is_bad();
    Some(diagnosis(
        "maintenance mode is on",
        Selected::None,
        if is_effect { 35 } else { 81 },
        &found,
        "the application is up, and the 503 comes from something else",
        "ask who switched it on and whether a run is under way; then switch it off",
    ))
}

fn certificate(view: &View<'_>) -> Option<Diagnosis> {
    let found = view.answers(|a| {
        (a.probe.starts_with("certificate-") || a.probe.starts_with("http-"))
            && matches!(
                a.class(),
                Some(
                    Class::Expired
                        | Class::NotYetValid
                        | Class::WrongName
                        | Class::Untrusted
                        | Class::ExpiresSoon
                        | Class::Tls
                )
            )
    });
    let worst = found.iter().map(|a| a.health.status).max()?;
    let soon = found.iter().all(|a| a.class() == Some(Class::ExpiresSoon));
    Some(diagnosis(
        if soon { "the certificate expires soon" } else { "the certificate is refused" },
        Selected::Nginx,
        match (worst, soon) {
            (_, false) => 89,
            (Status::Down, true) => 58,
            (_, true) => 30,
        },
        &found,
        "a client elsewhere, with the right time and the same roots, accepts the certificate",
        "renew the certificate and reload the web server; if it is not valid yet, look at the clocks",
    ))
}

fn web_down(view: &View<'_>) -> Option<Diagnosis> {
    let containers = view.containers("web");
    let closed = view.http(&[Class::Unreachable, Class::Stalled]);
    let named = view.http(&[Class::Name]);
    if containers.is_empty() && closed.is_empty() && named.is_empty() {
        return None;
    }
    if containers.is_empty() && closed.is_empty() {
        return Some(diagnosis(
            "the name of the service does not resolve here",
            Selected::None,
            66,
            &named,
            "the name resolves from a second place",
            "look at DNS, and ask from a second place",
        ));
    }
    let is_effect = view.disk_is_full();
    Some(diagnosis(
        "the web server is down",
        Selected::Nginx,
        match (containers.is_empty(), is_effect) {
            (false, false) => 82,
            (true, false) => 64,
            (_, true) => 44,
        },
        &joined(&[containers, closed]),
        "the web server answers from a second place",
        "test its configuration before it is started",
    ))
}

fn workers(view: &View<'_>) -> Option<Diagnosis> {
    let containers = view.containers("worker");
    let queue = view.of("queue", &[Class::Backlog]);
    let beat = view.of("scheduler", &[Class::Stale]);
    let failed = view.of("failed-jobs", &[Class::Errors]);
    if containers.is_empty() && queue.is_empty() && beat.is_empty() {
        return None;
    }
    let all = joined(&[containers.clone(), queue, beat.clone(), failed]);
    let is_effect = view.database_is_bad() || view.redis_is_bad() || view.disk_is_full();
    let down = !containers.is_empty() || beat.iter().any(|a| a.health.status == Status::Down);
    Some(diagnosis(
        "queue or scheduler does not move",
        Selected::Partial,
        match (is_effect, down) {
            (true, _) => 28,
            (false, true) => 78,
            (false, false) => 55,
        },
        &all,
        "the queue shrinks and the heartbeat is fresh",
        "start the workers alone; look at failed jobs before they are retried",
    ))
}

fn slow(view: &View<'_>) -> Option<Diagnosis> {
    let found = view.http(&[Class::Slow]);
    if found.is_empty() {
        return None;
    }
    Some(diagnosis(
        "the service answers, and is slow",
        Selected::Performance,
        if view.database_is_bad() || view.redis_is_bad() { 26 } else { 60 },
        &found,
        "it is no slower than usual: no baseline was compared",
        "look at load, connections and queues before anything is restarted",
    ))
}

fn nothing(view: &View<'_>) -> Diagnosis {
    let not_well = view.answers(|_| true);
    let is_blind = not_well.iter().any(|a| a.health.status == Status::Inconclusive) || view.0.answers.is_empty();
    if is_blind {
        return diagnosis(
            "no fault was found, and not every probe could tell",
            Selected::None,
            30,
            &not_well,
            "the probes that could not tell find a fault",
            "make the inconclusive probes answer, and ask again",
        );
    }
    if not_well.is_empty() {
        return diagnosis(
            "everything that was asked is up",
            Selected::None,
            90,
            &[],
            "users elsewhere report a fault: nothing here looks from their side",
            "nothing is to be recovered",
        );
    }
    diagnosis(
        "the service works, and something is not as it should be",
        Selected::None,
        50,
        &not_well,
        "the same answers get worse",
        "read the degraded answers and the logs behind them; nothing is to be recovered yet",
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::probe::{Health, HealthMode};

    /// An answer that is not healthy: probe, status, class, facts.
    type Change<'a> = (&'a str, Status, Class, &'a [(&'a str, &'a str)]);

    /// Everything healthy, but for the changes.
    fn report(changes: &[Change<'_>]) -> HealthReport {
        let roles = [
            ("container-mysql", "database"),
            ("container-redis", "redis"),
            ("container-app", "application"),
            ("container-nginx", "web"),
            ("container-queue", "worker"),
            ("container-scheduler", "worker"),
            ("logs-mysql", "database"),
            ("logs-app", "application"),
            ("logs-nginx", "web"),
            ("disk", ""),
            ("mysql", ""),
            ("mysql-tables", ""),
            ("redis", ""),
            ("queue", ""),
            ("scheduler", ""),
            ("http-health", ""),
            ("certificate-chom.example", ""),
        ];
        let answers = roles
            .iter()
            .map(|(probe, role)| {
                let mut health = Health::healthy("fine").class(Class::Ok);
                if let Some((_, status, class, facts)) = changes.iter().find(|(p, ..)| p == probe) {
                    health = Health::new(*status, format!("{class}")).class(*class);
                    for (name, value) in *facts {
                        health = health.fact(*name, value);
                    }
                }
                if !role.is_empty() {
                    health = health.fact("role", role);
                }
                Answer { probe: (*probe).into(), health, latency_ms: 1 }
            })
            .collect();
        assert!(changes.iter().all(|(p, ..)| roles.iter().any(|(r, _)| r == p)), "a change names no probe");
        HealthReport::new(HealthMode::Full, answers, chrono::Utc::now(), Duration::ZERO)
    }

    #[test]
    fn each_fault_selects_its_procedure() {
        use Status::{Degraded, Down, Inconclusive};
        let http_500: Change<'_> = ("http-health", Down, Class::Application, &[]);
        let cases: &[(&str, &[Change<'_>], Selected)] = &[
            ("everything up", &[], Selected::None),
            (
                "MySQL stopped",
                &[
                    ("container-mysql", Down, Class::NotRunning, &[]),
                    ("mysql", Down, Class::NotRunning, &[]),
                    ("mysql-tables", Down, Class::NotRunning, &[]),
                    ("logs-app", Degraded, Class::Errors, &[("errors.database_unreachable", "9")]),
                    http_500,
                ],
                Selected::Database,
            ),
            (
                "our password is wrong",
                &[
                    ("mysql", Down, Class::Authentication, &[]),
                    ("mysql-tables", Inconclusive, Class::Authentication, &[]),
                ],
                Selected::None,
            ),
            (
                "everybody's password is wrong",
                &[
                    ("mysql", Down, Class::Authentication, &[]),
                    ("logs-app", Degraded, Class::Errors, &[("errors.authentication", "9")]),
                    http_500,
                ],
                Selected::None,
            ),
            (
                "the application's password is wrong",
                &[("logs-app", Degraded, Class::Errors, &[("errors.authentication", "9")]), http_500],
                Selected::Application,
            ),
            (
                "disk full, and the database with it",
                &[
                    ("disk", Down, Class::FullDisk, &[]),
                    ("container-mysql", Down, Class::Restarting, &[]),
                    ("mysql", Down, Class::Unreachable, &[]),
                    ("logs-mysql", Degraded, Class::Errors, &[("errors.full_disk", "3")]),
                    http_500,
                ],
                Selected::None,
            ),
            ("corrupt table", &[("mysql-tables", Down, Class::Corrupt, &[]), http_500], Selected::Database),
            (
                "tablespace file deleted and server dead",
                &[
                    ("container-mysql", Down, Class::Restarting, &[]),
                    ("mysql", Down, Class::Unreachable, &[]),
                    ("logs-mysql", Degraded, Class::Errors, &[("errors.missing_tablespace", "2")]),
                    http_500,
                ],
                Selected::Database,
            ),
            (
                "tables dropped",
                &[
                    ("mysql", Down, Class::MissingTables, &[]),
                    ("logs-app", Degraded, Class::Errors, &[("errors.missing_table", "9")]),
                    http_500,
                ],
                Selected::Database,
            ),
            (
                "some tables dropped",
                &[("logs-app", Degraded, Class::Errors, &[("errors.missing_table", "9")]), http_500],
                Selected::Database,
            ),
            (
                "a table missed once, and all works",
                &[("logs-app", Degraded, Class::Errors, &[("errors.missing_table", "1")])],
                Selected::None,
            ),
            ("empty volume", &[("mysql", Down, Class::Empty, &[]), http_500], Selected::Database),
            (
                "connections used up",
                &[("mysql", Down, Class::TooManyConnections, &[]), http_500],
                Selected::Performance,
            ),
            (
                "redis down",
                &[
                    ("container-redis", Down, Class::NotRunning, &[]),
                    ("redis", Down, Class::NotRunning, &[]),
                    ("queue", Down, Class::NotRunning, &[]),
                    ("scheduler", Down, Class::NotRunning, &[]),
                    http_500,
                ],
                Selected::Partial,
            ),
            (
                "application down",
                &[
                    ("container-app", Down, Class::NotRunning, &[]),
                    ("http-health", Down, Class::Upstream, &[]),
                    ("logs-nginx", Degraded, Class::Errors, &[("errors.upstream", "4")]),
                ],
                Selected::Application,
            ),
            ("application errors", &[http_500], Selected::Application),
            (
                "nginx down",
                &[
                    ("container-nginx", Down, Class::NotRunning, &[]),
                    ("http-health", Down, Class::Unreachable, &[]),
                    ("certificate-chom.example", Down, Class::Unreachable, &[]),
                ],
                Selected::Nginx,
            ),
            (
                "certificate expired",
                &[("http-health", Down, Class::Expired, &[]), ("certificate-chom.example", Down, Class::Expired, &[])],
                Selected::Nginx,
            ),
            ("maintenance", &[("http-health", Down, Class::Maintenance, &[])], Selected::None),
            ("slow", &[("http-health", Degraded, Class::Slow, &[])], Selected::Performance),
            ("worker down", &[("container-queue", Down, Class::NotRunning, &[])], Selected::Partial),
            (
                "all stopped",
                &[
                    ("container-mysql", Down, Class::NotRunning, &[]),
                    ("container-app", Down, Class::NotRunning, &[]),
                    ("container-nginx", Down, Class::NotRunning, &[]),
                    ("mysql", Down, Class::NotRunning, &[]),
                    ("http-health", Down, Class::Unreachable, &[]),
                ],
                Selected::FullSystem,
            ),
            (
                "Engine silent, service silent",
                &[
                    ("container-mysql", Inconclusive, Class::Engine, &[]),
                    ("container-app", Inconclusive, Class::Engine, &[]),
                    ("http-health", Down, Class::Unreachable, &[]),
                ],
                Selected::FullSystem,
            ),
            (
                "Engine silent, service answers",
                &[("container-mysql", Inconclusive, Class::Engine, &[]), ("mysql", Inconclusive, Class::Engine, &[])],
                Selected::None,
            ),
        ];
        for (name, changes, wanted) in cases {
            let found = diagnose(&report(changes));
            assert_eq!(found[0].procedure, *wanted, "{name}: {found:#?}");
            assert!(found.is_sorted_by(|a, b| a.confidence >= b.confidence), "{name}");
            assert!(found.iter().all(|d| !d.disproved_by.is_empty() && !d.advice.is_empty()), "{name}");
            assert_eq!(found[0].evidence.is_empty(), changes.is_empty(), "{name}");
        }
    }

    #[test]
    fn a_wrong_password_selects_no_restore_anywhere_in_the_ranking() {
        let found = diagnose(&report(&[
            ("mysql", Status::Down, Class::Authentication, &[]),
            ("mysql-tables", Status::Inconclusive, Class::Authentication, &[]),
            ("logs-app", Status::Degraded, Class::Errors, &[("errors.authentication", "2")]),
            ("http-health", Status::Down, Class::Application, &[]),
        ]));
        assert!(found.iter().all(|d| !matches!(d.procedure, Selected::Database | Selected::FullSystem)), "{found:#?}");
    }

    #[test]
    fn what_could_not_be_told_is_never_called_up() {
        let found = diagnose(&report(&[("mysql", Status::Inconclusive, Class::Secret, &[])]));
        assert_eq!(found[0].procedure, Selected::None);
        assert!(found[0].hypothesis.contains("not every probe could tell"), "{found:#?}");
        let empty = HealthReport::new(HealthMode::Full, Vec::new(), chrono::Utc::now(), Duration::ZERO);
        assert!(diagnose(&empty)[0].confidence < 50);
    }

    #[test]
    fn old_corruption_in_a_log_ranks_low_while_the_database_is_well() {
        let found =
            diagnose(&report(&[("logs-mysql", Status::Degraded, Class::Errors, &[("errors.corruption", "1")])]));
        assert_eq!(found[0].procedure, Selected::None, "{found:#?}");
        assert_eq!((found[1].procedure, found[1].confidence), (Selected::Database, 40));
    }
}
