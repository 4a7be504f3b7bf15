//! Whether the database answers, holds data, takes writes, and whether its tables are sound.
//!
//! A server that answers is not yet *the* server: images run a temporary one during their first start. It is asked
//! over TCP, with credentials, and more than once, each time with a new connection: the same identity must answer,
//! and its uptime must have grown. Then rows of our own are written to a temporary table, read back and dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, NaiveDateTime, Utc};

use super::{Class, Health, HealthProbe, Status, net};
use crate::{
    backend::{Backend, Endpoint},
    error::{Error, ErrorKind},
    mysql::{self, CheckReport, Login, ScratchWrite, Server, ServerInfo},
    system::Database,
};

/// Time between two looks: uptime counts whole seconds.
const BETWEEN: Duration = Duration::from_millis(1_100);
/// Longest time of one look.
const LOOK: Duration = Duration::from_secs(8);
/// How long the server may take to take rows of our own.
const WRITE: Duration = Duration::from_secs(5);

/// Tables that must be there: schema to names.
pub type ExpectedTables = BTreeMap<String, BTreeSet<String>>;

/// Logs in over TCP, more than once, and judges what the server says about itself.
#[derive(Debug)]
pub struct MysqlProbe {
    database: Database,
    backend: Arc<dyn Backend>,
    looks: u32,
    expected: ExpectedTables,
}

impl MysqlProbe {
    /// Makes the probe `mysql`; it looks twice.
    pub fn new(database: Database, backend: Arc<dyn Backend>) -> Self {
        Self { database, backend, looks: 2, expected: ExpectedTables::new() }
    }

    /// Sets how often in a row the same server must answer, at least once.
    #[must_use]
    pub fn looks(mut self, looks: u32) -> Self {
        self.looks = looks.max(1);
        self
    }

    /// Names tables that must be there, for example those of the newest backup's manifest.
    #[must_use]
    pub fn expecting(mut self, tables: ExpectedTables) -> Self {
        self.expected = tables;
        self
    }

    async fn ask(&self) -> Result<Health, Health> {
        let session = Session::open(&self.database, &self.backend).await?;
        let mut seen = vec![session.server.info().clone()];
        for _ in 1..self.looks {
            tokio::time::sleep(BETWEEN).await;
            match session.look().await {
                Ok(server) => seen.push(server.info().clone()),
                Err(error) => {
                    let health = failure(&error);
                    return Err(Health { summary: format!("it answered once, then: {}", health.summary), ..health });
                }
            }
        }
        if let Some(health) = stranger(&seen) {
            return Err(health);
        }
        let sight = session.sight().await.map_err(|e| failure(&e))?;
        let health = judge(&seen[seen.len() - 1], &sight, &self.expected);
        Ok(session.with_write(health, &sight).await)
    }
}

#[async_trait]
impl HealthProbe for MysqlProbe {
    fn name(&self) -> &'static str {
        "mysql"
    }

    async fn check(&self) -> Health {
        net::bounded(net::WHOLE + (LOOK + BETWEEN) * self.looks + WRITE, async {
            self.ask().await.unwrap_or_else(|failure| failure)
        })
        .await
        .fact("service", &self.database.service)
    }
}

/// Runs `CHECK TABLE` over all tables, within a time cap.
///
/// InnoDB may stop the server when it meets a damaged page: that is why no suite for monitoring asks this.
#[derive(Debug)]
pub struct TablesProbe {
    database: Database,
    backend: Arc<dyn Backend>,
    cap: Duration,
}

impl TablesProbe {
    /// Makes the probe `mysql-tables`, which takes at most about `cap`.
    pub fn new(database: Database, backend: Arc<dyn Backend>, cap: Duration) -> Self {
        Self { database, backend, cap }
    }

    async fn ask(&self) -> Result<Health, Health> {
        let session = Session::open(&self.database, &self.backend).await?;
        session.server.check_tables(self.cap).await.map(|report| judge_tables(&report)).map_err(|e| failure(&e))
    }
}

#[async_trait]
impl HealthProbe for TablesProbe {
    fn name(&self) -> &'static str {
        "mysql-tables"
    }

    async fn check(&self) -> Health {
        net::bounded(net::WHOLE + self.cap, async { self.ask().await.unwrap_or_else(|failure| failure) })
            .await
            .fact("service", &self.database.service)
    }
}

fn judge_tables(report: &CheckReport) -> Health {
    let CheckReport { good, corrupt, unchecked, seconds } = report;
    let health = if !corrupt.is_empty() {
        let some: Vec<_> =
            corrupt.iter().take(5).map(|p| format!("{}: {}", p.table, net::short(&p.message, 120))).collect();
        Health::down(format!("{} tables are damaged: {}", corrupt.len(), some.join("; "))).class(Class::Corrupt)
    } else if !unchecked.is_empty() {
        Health::inconclusive(format!("{good} tables are sound, and {} could not be checked in time", unchecked.len()))
    } else {
        Health::healthy(format!("all {good} tables are sound")).class(Class::Ok)
    };
    health
        .fact("good", good)
        .fact("corrupt", corrupt.len())
        .fact("unchecked", unchecked.len())
        .fact("seconds", format!("{seconds:.1}"))
}

/// Looks for jobs that failed lately in Laravel's table `failed_jobs`, in whichever schema holds it.
#[derive(Debug)]
pub struct FailedJobsProbe {
    database: Database,
    backend: Arc<dyn Backend>,
    since: DateTime<Utc>,
}

impl FailedJobsProbe {
    /// Makes the probe `failed-jobs`; a job that failed at or after `since` is degraded.
    pub fn new(database: Database, backend: Arc<dyn Backend>, since: DateTime<Utc>) -> Self {
        Self { database, backend, since }
    }

    async fn ask(&self) -> Result<Health, Health> {
        let session = Session::open(&self.database, &self.backend).await?;
        let sizes = session.server.sizes().await.map_err(|e| failure(&e))?;
        let mut newest = Vec::new();
        for table in sizes.iter().filter(|t| t.table == "failed_jobs") {
            let time = session.server.newest_row_time(&table.schema, &table.table, "failed_at").await;
            newest.extend(time.map_err(|e| failure(&e))?);
        }
        Ok(judge_failed_jobs(&newest, self.since))
    }
}

#[async_trait]
impl HealthProbe for FailedJobsProbe {
    fn name(&self) -> &'static str {
        "failed-jobs"
    }

    async fn check(&self) -> Health {
        net::bounded(net::WHOLE, async { self.ask().await.unwrap_or_else(|failure| failure) })
            .await
            .fact("service", &self.database.service)
    }
}

fn judge_failed_jobs(newest: &[String], since: DateTime<Utc>) -> Health {
    let mut last = None;
    for text in newest {
        let Ok(at) = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f") else {
            return Health::inconclusive(format!("`{text}` is not the time of a failed job"));
        };
        last = last.max(Some(at.and_utc()));
    }
    match last {
        None => Health::healthy("no job has ever failed").class(Class::Ok),
        Some(at) if at < since => Health::healthy(format!("no job failed since {}", since.to_rfc3339()))
            .class(Class::Ok)
            .fact("last", at.to_rfc3339()),
        Some(at) => Health::degraded(format!("a job failed at {}", at.to_rfc3339()))
            .class(Class::Errors)
            .fact("last", at.to_rfc3339()),
    }
}

/// A server that was reached, with the endpoint that keeps it reachable.
pub(crate) struct Session {
    pub(crate) server: Server,
    _endpoint: Endpoint,
}

impl Session {
    /// Finds the address, connects and logs in; the error is already the probe's answer.
    pub(crate) async fn open(database: &Database, backend: &Arc<dyn Backend>) -> Result<Self, Health> {
        let endpoint = net::reach(backend, &database.service, database.port, database.address.as_deref()).await?;
        let password = database
            .password
            .resolve()
            .await
            .map_err(|e| Health::inconclusive(format!("no password for the database: {e}")).class(Class::Secret))?;
        let mut login = Login::new(endpoint.host.clone(), endpoint.port, database.user.clone(), password);
        login.connect_timeout = LOOK;
        let server = Server::connect(login, Duration::ZERO).await.map_err(|e| failure(&e))?;
        Ok(Self { server, _endpoint: endpoint })
    }

    /// Looks again, with a new connection.
    async fn look(&self) -> crate::Result<Server> {
        Server::connect(self.server.login().clone(), Duration::ZERO).await
    }

    async fn sight(&self) -> crate::Result<Sight> {
        let variables = self.server.variables().await?;
        let mut tables = ExpectedTables::new();
        for size in self.server.sizes().await? {
            tables.entry(size.schema).or_default().insert(size.table);
        }
        let replication = self.server.replica_status().await.map_or_else(
            |error| Replication::Unknown(error.to_string()),
            |channels| match channels.iter().find(|c| !c.receiving || !c.applying) {
                _ if channels.is_empty() => Replication::NotConfigured,
                Some(broken) => Replication::Broken(broken.last_error.clone()),
                None => Replication::Runs { seconds_behind: channels.iter().filter_map(|c| c.seconds_behind).max() },
            },
        );
        Ok(Sight {
            tables,
            clients: self.server.clients().await.ok().map(|c| c.len()),
            max_connections: variables.get("max_connections").and_then(|v| v.parse().ok()),
            read_only: mysql::read_only(&variables),
            replication,
        })
    }

    /// Adds what became of rows of our own. What was found to be down already is not tried to write to.
    async fn with_write(&self, health: Health, sight: &Sight) -> Health {
        let Some(schema) = sight.tables.keys().next().filter(|_| health.status < Status::Down) else { return health };
        judge_write(health, &self.server.scratch_write(schema, WRITE).await)
    }
}

/// Judges a server by what became of rows of our own; `health` is what else was seen of it.
fn judge_write(health: Health, written: &Result<ScratchWrite, Error>) -> Health {
    let error = match written {
        Ok(ScratchWrite::Taken { ms }) => {
            return health.fact(WRITTEN, format!("taken, read back and dropped in {ms} ms"));
        }
        Ok(ScratchWrite::NotTried(why)) => return health.fact(WRITTEN, format!("not tried: {why}")),
        Ok(ScratchWrite::ReadOnly(why)) => {
            let verdict = Health::down(format!("the server takes no rows: {why}")).class(Class::ReadOnly);
            return over(health, verdict).fact(WRITTEN, format!("refused: {why}"));
        }
        Err(error) => error,
    };
    let verdict = match error.kind() {
        ErrorKind::NoSpace => {
            Health::down(format!("the server finds no room for rows: {error}")).class(Class::FullDisk)
        }
        ErrorKind::Timeout => Health::down(format!("{error}: it may wait for room on its disk")).class(Class::Stalled),
        _ => failure(error),
    };
    over(health, verdict).fact(WRITTEN, format!("failed: {error}"))
}

/// Puts a verdict over an answer, whose facts stay.
fn over(health: Health, verdict: Health) -> Health {
    let mut facts = health.facts;
    facts.remove(super::CLASS);
    facts.extend(verdict.facts);
    Health { facts, ..verdict }
}

/// Name of the fact that says what became of rows of our own.
const WRITTEN: &str = "scratch_write";

/// What the server shows of itself, beyond its identity.
#[derive(Debug, Clone)]
struct Sight {
    tables: ExpectedTables,
    clients: Option<usize>,
    max_connections: Option<usize>,
    /// Settings by which it refuses writes.
    read_only: Vec<String>,
    replication: Replication,
}

#[derive(Debug, Clone)]
enum Replication {
    NotConfigured,
    Runs { seconds_behind: Option<u64> },
    Broken(String),
    Unknown(String),
}

/// Tells what a failed login or query means.
pub(crate) fn failure(error: &Error) -> Health {
    let code = error.context().iter().find(|(key, _)| key == "code").and_then(|(_, value)| value.parse::<u16>().ok());
    let class = match (error.kind(), code) {
        // Too many connections, by server or by account.
        (_, Some(1040 | 1203 | 1226)) => Class::TooManyConnections,
        (ErrorKind::Authentication, _) => Class::Authentication,
        (ErrorKind::NoSpace, _) => Class::FullDisk,
        (ErrorKind::Corrupt, _) => Class::Corrupt,
        (ErrorKind::Timeout, _) => Class::Stalled,
        (ErrorKind::Precondition | ErrorKind::Unsupported, _) => {
            return Health::inconclusive(format!("the database answers, and could not be asked: {error}"));
        }
        _ => Class::Unreachable,
    };
    let health = Health::down(format!("database: {error}")).class(class);
    match code {
        Some(code) => health.fact("code", code),
        None => health,
    }
}

/// Tells when not the same server answered each time.
fn stranger(seen: &[ServerInfo]) -> Option<Health> {
    let pair = seen
        .windows(2)
        .find(|pair| pair[0].server_uuid != pair[1].server_uuid || pair[1].uptime_seconds <= pair[0].uptime_seconds)?;
    Some(
        Health::down("two looks met two servers: a temporary one of the first start, or one that restarts")
            .class(Class::InitServer)
            .fact("uptime_seconds.first", pair[0].uptime_seconds)
            .fact("uptime_seconds.second", pair[1].uptime_seconds),
    )
}

fn judge(info: &ServerInfo, sight: &Sight, expected: &ExpectedTables) -> Health {
    let count: usize = sight.tables.values().map(BTreeSet::len).sum();
    let missing: Vec<String> = expected
        .iter()
        .flat_map(|(schema, names)| {
            let there = sight.tables.get(schema);
            names.iter().filter(move |n| there.is_none_or(|t| !t.contains(*n))).map(move |n| format!("{schema}.{n}"))
        })
        .collect();
    let crowded = sight.clients.zip(sight.max_connections).is_some_and(|(used, most)| used * 10 >= most * 9);
    let is_replica = !matches!(sight.replication, Replication::NotConfigured | Replication::Unknown(_));
    let health = if count == 0 {
        Health::down("the server works and holds no table").class(Class::Empty)
    } else if !missing.is_empty() {
        let some = missing.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
        Health::down(format!("{} tables that should be there are not: {some}", missing.len()))
            .class(Class::MissingTables)
    } else if !sight.read_only.is_empty() && !is_replica {
        let by = sight.read_only.join(", ");
        Health::down(format!("the server is read-only ({by}): the application cannot write")).class(Class::ReadOnly)
    } else if !sight.read_only.is_empty() {
        Health::degraded("the server is a read-only replica").class(Class::ReadOnly)
    } else if let Replication::Broken(why) = &sight.replication {
        Health::degraded(format!("replication has stopped: {}", net::short(why, 200))).class(Class::Stale)
    } else if crowded {
        Health::degraded("nine tenths of all connections are in use").class(Class::TooManyConnections)
    } else {
        Health::healthy(format!("{} {} answers and holds {count} tables", info.flavour, info.version)).class(Class::Ok)
    };
    let health = health
        .fact("version", &info.version_text)
        .fact("uptime_seconds", info.uptime_seconds)
        .fact("server_uuid", info.server_uuid.as_deref().unwrap_or("unknown"))
        .fact("tables", count)
        .fact("schemas", sight.tables.len())
        .fact("log_bin", info.log_bin)
        .fact("durability_gaps", info.durability_gaps().join("; "))
        .fact(
            "replication",
            match &sight.replication {
                Replication::NotConfigured => "not configured".to_owned(),
                Replication::Runs { seconds_behind: Some(s) } => format!("runs, {s} s behind"),
                Replication::Runs { seconds_behind: None } => "runs".to_owned(),
                Replication::Broken(why) => format!("stopped: {why}"),
                Replication::Unknown(why) => format!("unknown: {why}"),
            },
        );
    match sight.clients.zip(sight.max_connections) {
        Some((used, most)) => health.fact("connections", used).fact("max_connections", most),
        None => health,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql::{Flavour, TableProblem, Version};

    fn info(uuid: Option<&str>, uptime_seconds: u64) -> ServerInfo {
        ServerInfo {
            flavour: Flavour::Mysql,
            version: Version(9, 7, 4),
            version_text: "9.7.4".into(),
            server_uuid: uuid.map(str::to_owned),
            uptime_seconds,
            data_dir: "/var/lib/mysql/".into(),
            log_bin: true,
            binlog_format: "ROW".into(),
            gtid: String::new(),
            lower_case_table_names: 0,
            max_allowed_packet: 1 << 26,
            read_only: false,
            flush_log_at_commit: "1".into(),
            sync_binlog: "1".into(),
            doublewrite: true,
            event_scheduler: true,
        }
    }

    fn tables(names: &[&str]) -> ExpectedTables {
        BTreeMap::from([("chom".to_owned(), names.iter().map(|n| (*n).to_owned()).collect())])
    }

    fn sight(names: &[&str]) -> Sight {
        Sight {
            tables: if names.is_empty() { BTreeMap::new() } else { tables(names) },
            clients: Some(3),
            max_connections: Some(150),
            read_only: vec![],
            replication: Replication::NotConfigured,
        }
    }

    #[test]
    fn rows_of_our_own_tell_a_full_disk_from_a_server_that_refuses_and_from_a_missing_privilege() {
        let well = || Health::healthy("answers").class(Class::Ok).fact("tables", 3);
        let refused = || Ok(ScratchWrite::ReadOnly("InnoDB is in read only mode.".into()));
        let cases = [
            (Ok(ScratchWrite::Taken { ms: 7 }), Status::Healthy, Class::Ok),
            (Ok(ScratchWrite::NotTried("no privilege".into())), Status::Healthy, Class::Ok),
            (refused(), Status::Down, Class::ReadOnly),
            (Err(Error::new(ErrorKind::NoSpace, "full")), Status::Down, Class::FullDisk),
            (Err(Error::new(ErrorKind::Timeout, "late")), Status::Down, Class::Stalled),
            (Err(Error::new(ErrorKind::Corrupt, "others")), Status::Down, Class::Corrupt),
        ];
        for (written, status, class) in cases {
            let health = judge_write(well(), &written);
            assert_eq!((health.status, health.class_of()), (status, Some(class)), "{written:?}");
            assert_eq!(health.facts["tables"], "3", "what else was seen stays");
            assert!(health.facts.contains_key(WRITTEN), "{health:?}");
        }
    }

    #[test]
    fn only_the_same_server_that_grows_older_is_believed() {
        assert!(stranger(&[info(Some("a"), 10), info(Some("a"), 11)]).is_none());
        assert!(stranger(&[info(None, 10), info(None, 11)]).is_none());
        for second in [info(Some("b"), 11), info(Some("a"), 0), info(Some("a"), 10)] {
            let health = stranger(&[info(Some("a"), 10), second]).unwrap();
            assert_eq!((health.status, health.class_of()), (Status::Down, Some(Class::InitServer)));
        }
    }

    #[test]
    fn an_empty_server_is_down_however_well_it_answers() {
        let health = judge(&info(Some("a"), 10), &sight(&[]), &ExpectedTables::new());
        assert_eq!((health.status, health.class_of()), (Status::Down, Some(Class::Empty)));
        let health = judge(&info(Some("a"), 10), &sight(&["users"]), &tables(&["users", "orders"]));
        assert_eq!((health.status, health.class_of()), (Status::Down, Some(Class::MissingTables)));
        assert!(health.summary.contains("chom.orders"), "{health:?}");
        let health = judge(&info(Some("a"), 10), &sight(&["users"]), &tables(&["users"]));
        assert_eq!(health.status, Status::Healthy);
        assert_eq!(health.facts["replication"], "not configured");
    }

    #[test]
    fn writes_replication_and_connections_are_judged() {
        let expected = ExpectedTables::new();
        let read_only = Sight { read_only: vec!["super_read_only = ON".into()], ..sight(&["t"]) };
        let health = judge(&info(Some("a"), 10), &read_only, &expected);
        assert_eq!((health.status, health.class_of()), (Status::Down, Some(Class::ReadOnly)));
        assert!(health.summary.contains("super_read_only = ON"), "{health:?}");
        let replica = Sight { replication: Replication::Runs { seconds_behind: Some(0) }, ..read_only };
        assert_eq!(judge(&info(Some("a"), 10), &replica, &expected).status, Status::Degraded);
        let broken = Sight { replication: Replication::Broken("1062".into()), ..sight(&["t"]) };
        assert_eq!(judge(&info(Some("a"), 10), &broken, &expected).status, Status::Degraded);
        let crowded = Sight { clients: Some(135), ..sight(&["t"]) };
        assert_eq!(judge(&info(Some("a"), 10), &crowded, &expected).class_of(), Some(Class::TooManyConnections));
    }

    #[test]
    fn tables_not_checked_are_not_called_sound_and_do_not_hide_a_damaged_one() {
        let good = CheckReport { good: 3, ..CheckReport::default() };
        assert_eq!(judge_tables(&good).status, Status::Healthy);
        let partly = CheckReport { unchecked: vec!["chom.big".into()], ..good };
        assert_eq!(judge_tables(&partly).status, Status::Inconclusive);
        let problem = TableProblem { table: "chom.users".into(), message: "Corrupt".into() };
        let bad = judge_tables(&CheckReport { corrupt: vec![problem], ..partly });
        assert_eq!((bad.status, bad.class_of()), (Status::Down, Some(Class::Corrupt)));
    }

    #[test]
    fn a_job_that_failed_lately_is_degraded() {
        let since = "2026-01-02T02:00:00Z".parse().unwrap();
        let judge =
            |times: &[&str]| judge_failed_jobs(&times.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>(), since);
        assert_eq!(judge(&[]).status, Status::Healthy);
        assert_eq!(judge(&["2026-01-02 01:59:59"]).status, Status::Healthy);
        assert_eq!(judge(&["2026-01-02 01:59:59", "2026-01-02 02:00:00.5"]).status, Status::Degraded);
        assert_eq!(judge(&["yesterday"]).status, Status::Inconclusive);
    }

    #[test]
    fn errors_of_login_are_told_apart() {
        for (kind, code, status, class) in [
            (ErrorKind::Authentication, Some(1045), Status::Down, Some(Class::Authentication)),
            (ErrorKind::Unreachable, Some(1040), Status::Down, Some(Class::TooManyConnections)),
            (ErrorKind::Unreachable, None, Status::Down, Some(Class::Unreachable)),
            (ErrorKind::NoSpace, Some(1021), Status::Down, Some(Class::FullDisk)),
            (ErrorKind::Corrupt, Some(1034), Status::Down, Some(Class::Corrupt)),
            (ErrorKind::Timeout, None, Status::Down, Some(Class::Stalled)),
            (ErrorKind::Precondition, Some(1227), Status::Inconclusive, None),
        ] {
            let mut error = Error::new(kind, "x");
            if let Some(code) = code {
                error = error.with("code", code);
            }
            let health = failure(&error);
            assert_eq!((health.status, health.class_of()), (status, class), "{kind} {code:?}");
        }
    }
}
