//! What went wrong lately, by the logs: events of level error and above, by class.
//!
//! Levels are read from where each format puts them, never searched for in the text, so that `0 errors` is no error.
//! A log tells of the past: errors in it never mean down, only degraded.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, NaiveDateTime, Utc};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use super::{Class, Health, HealthProbe, ROLE, Role, net};
use crate::{
    backend::{Backend, BackendExt, ExecRequest, LogRequest},
    error::{Error, ErrorKind, Result},
};

/// Most lines that are read of one log.
const LINES: usize = 20_000;
/// Most bytes that are read of one log.
const BYTES: usize = 4 << 20;
/// Bytes read from the end of a log file in a container.
const TAIL: usize = 1 << 20;
/// Samples kept.
const SAMPLES: usize = 5;

/// How bad an event is; those below error are no events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Something failed.
    Error,
    /// A component is unavailable.
    Critical,
    /// Somebody has to act at once.
    Alert,
    /// The system is unusable.
    Emergency,
}

impl Level {
    fn read(word: &str) -> Option<Self> {
        match word.to_ascii_lowercase().as_str() {
            "error" | "err" => Some(Self::Error),
            "critical" | "crit" | "fatal" => Some(Self::Critical),
            "alert" => Some(Self::Alert),
            "emergency" | "emerg" => Some(Self::Emergency),
            _ => None,
        }
    }
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Topic {
    /// Damaged pages, tables or dictionary.
    Corruption,
    /// A table's file is not there.
    MissingTablespace,
    /// The redo log does not fit the data.
    Redo,
    /// No space left.
    FullDisk,
    /// Data of another version of the server.
    Upgrade,
    /// Credentials refused.
    Authentication,
    /// No connection left.
    TooManyConnections,
    /// A file may not be read or written.
    Permission,
    /// No memory left.
    OutOfMemory,
    /// The application does not reach its database.
    DatabaseUnreachable,
    /// The application misses a table.
    MissingTable,
    /// The application does not reach Redis.
    RedisUnreachable,
    /// The web server does not reach the application.
    Upstream,
    /// The web server answered with 5xx.
    ServerError,
    /// An exception of the application, by its class.
    Exception(String),
    /// Anything else.
    Other,
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Corruption => "corruption",
            Self::MissingTablespace => "missing_tablespace",
            Self::Redo => "redo",
            Self::FullDisk => "full_disk",
            Self::Upgrade => "upgrade",
            Self::Authentication => "authentication",
            Self::TooManyConnections => "too_many_connections",
            Self::Permission => "permission",
            Self::OutOfMemory => "out_of_memory",
            Self::DatabaseUnreachable => "database_unreachable",
            Self::MissingTable => "missing_table",
            Self::RedisUnreachable => "redis_unreachable",
            Self::Upstream => "upstream",
            Self::ServerError => "server_error",
            Self::Exception(class) => return write!(f, "exception.{class}"),
            Self::Other => "other",
        })
    }
}

/// One event of level error or above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Level.
    pub level: Level,
    /// What it is about.
    pub topic: Topic,
    /// Time the line itself carries; some formats carry none.
    pub at: Option<DateTime<Utc>>,
}

/// Reads one line of a log; `None` when it is no event of level error or above.
///
/// Understood: Laravel (Monolog's line and JSON formats), MySQL and MariaDB error logs, nginx error and access logs,
/// redis, php-fpm, PHP itself. Lines of a stack trace have no level and are no events.
///
/// # Examples
/// ```
/// use chom_recovery::probe::logs::{Topic, read_line};
/// let line = "2026-01-02T02:00:00.1Z 0 [ERROR] [MY-012592] [InnoDB] Operating system error number 28 in a file operation.";
/// assert_eq!(read_line(line).unwrap().topic, Topic::FullDisk);
/// assert!(read_line("local.INFO: import finished with 0 errors").is_none());
/// ```
pub fn read_line(line: &str) -> Option<Event> {
    let line = line.trim_end();
    if line.starts_with('{') {
        return read_json(line);
    }
    if let Some(event) = read_access(line) {
        return Some(event);
    }
    if is_redis_failure(line) {
        return Some(Event { level: Level::Error, topic: topic(line), at: None });
    }
    let level = read_level(line)?;
    Some(Event { level, topic: topic(line), at: read_time(line) })
}

fn read_json(line: &str) -> Option<Event> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let level =
        ["level_name", "level", "severity"].iter().find_map(|k| value.get(k)?.as_str().and_then(Level::read))?;
    let at = ["datetime", "time", "timestamp"]
        .iter()
        .find_map(|k| DateTime::parse_from_rfc3339(value.get(k)?.as_str()?).ok())
        .map(|t| t.to_utc());
    Some(Event { level, topic: topic(line), at })
}

/// Finds the level where the formats put it.
fn read_level(line: &str) -> Option<Level> {
    // `[2026-01-02 02:00:00] production.ERROR: …`, with or without the time.
    let body = line.strip_prefix('[').and_then(|l| l.split_once("] ")).map_or(line, |(_, rest)| rest);
    if let Some((word, _)) = body.split_once(": ")
        && let Some((channel, level)) = word.rsplit_once('.')
        && !channel.is_empty()
        && channel.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        && level.bytes().all(|b| b.is_ascii_uppercase())
        && let Some(level) = Level::read(level)
    {
        return Some(level);
    }
    // `[02-Jan-2026 02:00:00] ERROR: …` of php-fpm, `ERROR: …` without the time.
    if let Some((word, _)) = body.split_once(": ")
        && word.bytes().all(|b| b.is_ascii_uppercase())
        && let Some(level) = Level::read(word)
    {
        return Some(level);
    }
    // `PHP Fatal error:  Uncaught …`, also behind php-fpm's prefix.
    let forwarded = line.contains("FastCGI sent in stderr");
    if ["PHP Fatal error: ", "PHP Parse error: "].iter().any(|p| body.starts_with(p) || forwarded && line.contains(p)) {
        return Some(Level::Critical);
    }
    // nginx logs whatever PHP prints as an error; what PHP calls fatal was seen above.
    if forwarded {
        return None;
    }
    // `2026-01-02T02:00:00.1Z 0 [ERROR] [MY-…]`, `2026-01-02  2:00:00 0 [ERROR] InnoDB: …`,
    // `2026/01/02 02:00:00 [error] 29#29: …`: the first bracket after a date.
    if line.as_bytes().first().is_some_and(u8::is_ascii_digit) {
        let (before, rest) = line.split_once('[')?;
        let (word, _) = rest.split_once(']')?;
        let is_stamp = before.bytes().all(|b| b.is_ascii_digit() || b" TZ.:-/+".contains(&b));
        return is_stamp.then(|| Level::read(word)).flatten();
    }
    None
}

/// Reads a line of nginx's access log in the combined format: `… "GET /x HTTP/1.1" 502 …`.
fn read_access(line: &str) -> Option<Event> {
    let (before, rest) = line.split_once("] \"")?;
    let (request, rest) = rest.split_once("\" ")?;
    if !before.contains(" [") || !request.contains(" HTTP/") {
        return None;
    }
    let status: u16 = rest.split(' ').next()?.parse().ok()?;
    // 503 is what maintenance mode answers.
    let topic = match status {
        502 | 504 => Topic::Upstream,
        503 => return None,
        500..=599 => Topic::ServerError,
        _ => return None,
    };
    Some(Event { level: Level::Error, topic, at: None })
}

/// Tells a failure in Redis's own log: `1:M 02 Jan 2026 02:00:00.123 # text`. Redis knows no level above warning (`#`),
/// and uses that for advice too, so that its words for failures decide.
fn is_redis_failure(line: &str) -> bool {
    const FAILURES: &[&str] = &["error", "failed", "can't", "fatal", "bad file format", "short read", "crashed"];
    let Some((head, text)) = line.split_once(" # ") else { return false };
    // Process and role, day, month, year, time; a longer head has another mark before.
    let is_redis = head.split(' ').count() == 5
        && head.split_once(':').is_some_and(|(pid, rest)| {
            pid.bytes().all(|b| b.is_ascii_digit()) && !pid.is_empty() && rest.starts_with(['M', 'S', 'C', 'X'])
        });
    let text = text.to_lowercase();
    is_redis && !text.starts_with("warning") && FAILURES.iter().any(|f| text.contains(f))
}

fn read_time(line: &str) -> Option<DateTime<Utc>> {
    let text = line.strip_prefix('[').unwrap_or(line);
    let word = text.split([' ', ']']).next()?;
    if let Ok(at) = DateTime::parse_from_rfc3339(word) {
        return Some(at.to_utc());
    }
    let stamp = text.get(..19)?;
    ["%Y-%m-%d %H:%M:%S", "%Y/%m/%d %H:%M:%S"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(stamp, format).ok())
        .map(|at| at.and_utc())
}

/// Texts that mark a topic, the more telling first. Sources: messages of MySQL 8 to 9 and MariaDB 10 to 11
/// (`errmsg`, InnoDB), SQLSTATE codes, PHP's and nginx's own messages.
const MARKS: &[(&[&str], Topic)] = &[
    (
        &[
            "no space left on device",
            "error number 28",
            "errno: 28",
            "errcode: 28",
            "disk is full",
            "the table is full",
            "disk full",
            "[1114]",
        ],
        Topic::FullDisk,
    ),
    (
        &[
            "tablespace is missing",
            "tablespace missing",
            "cannot find space id",
            "could not find a valid tablespace file",
            "missing tablespace",
            "tablespace has been discarded",
        ],
        Topic::MissingTablespace,
    ),
    (
        &[
            "page corruption",
            "is corrupted",
            "corrupted page",
            "is corrupt",
            "corrupt file",
            "checksum mismatch",
            "is marked as crashed",
            "database page corruption",
            "data dictionary is corrupt",
            "incorrect key file",
        ],
        Topic::Corruption,
    ),
    (
        &[
            "unsupported redo log format",
            "cannot upgrade server",
            "invalid mysql server upgrade",
            "invalid mysql server downgrade",
            "downgrade",
            "upgrade is not supported",
            "upgrade after a crash is not supported",
            "was created with a newer version",
        ],
        Topic::Upgrade,
    ),
    (
        &["redo log", "log sequence number", "ib_logfile", "missing mlog_checkpoint", "log file was not found"],
        Topic::Redo,
    ),
    (&["access denied for user", "[1045]", "wrongpass", "noauth"], Topic::Authentication),
    (&["too many connections", "[1040]"], Topic::TooManyConnections),
    (&["base table or view not found", "42s02", "[1146]", "doesn't exist in engine"], Topic::MissingTable),
    (
        &["[2002]", "[2006]", "[2003]", "server has gone away", "getaddrinfo for mysql", "lost connection to mysql"],
        Topic::DatabaseUnreachable,
    ),
    (
        &["redisexception", "redis::", "getaddrinfo for redis", "predis\\connection", "predis\\\\connection"],
        Topic::RedisUnreachable,
    ),
    (&["while connecting to upstream", "upstream timed out", "no live upstreams"], Topic::Upstream),
    (&["allowed memory size of", "cannot allocate memory", "out of memory"], Topic::OutOfMemory),
    (&["permission denied", "errno: 13", "errcode: 13", "error number 13"], Topic::Permission),
];

fn topic(line: &str) -> Topic {
    let lower = line.to_lowercase();
    if let Some((_, topic)) = MARKS.iter().find(|(marks, _)| marks.iter().any(|m| lower.contains(m))) {
        return topic.clone();
    }
    exception(line).map_or(Topic::Other, Topic::Exception)
}

/// Finds the exception's class: `[object] (Vendor\Name(code: 0): …)`, in JSON with doubled backslashes.
fn exception(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("[object] (")?;
    let (class, _) = rest.split_once('(')?;
    let class = class.replace("\\\\", "\\");
    let ok =
        (1..=120).contains(&class.len()) && class.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'\\' || b == b'_');
    ok.then_some(class)
}

/// Events of one or more logs, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSummary {
    /// Lines read.
    pub lines: usize,
    /// Whether a limit ended the reading early.
    pub truncated: bool,
    /// Events by topic.
    pub events: BTreeMap<String, u64>,
    /// The last lines that were events, scrubbed and shortened.
    pub samples: Vec<String>,
}

impl LogSummary {
    /// Adds a line; those that carry a time before `since` are left out.
    pub fn add(&mut self, line: &str, since: Option<DateTime<Utc>>) {
        self.lines += 1;
        let Some(event) = read_line(line) else { return };
        if event.at.zip(since).is_some_and(|(at, since)| at < since) {
            return;
        }
        *self.events.entry(event.topic.to_string()).or_default() += 1;
        if self.samples.len() == SAMPLES {
            self.samples.remove(0);
        }
        self.samples.push(net::short(&crate::secret::scrub(line), 300));
    }

    /// Counts all events.
    pub fn total(&self) -> u64 {
        self.events.values().sum()
    }
}

/// Counts the errors in the logs of a service since a time: both streams of its containers, and log files.
#[derive(Debug)]
pub struct LogProbe {
    name: String,
    backend: Arc<dyn Backend>,
    service: String,
    role: Role,
    since: DateTime<Utc>,
    files: Vec<String>,
}

impl LogProbe {
    /// Makes the probe `logs-<service>`.
    pub fn new(backend: Arc<dyn Backend>, service: &str, role: Role, since: DateTime<Utc>) -> Self {
        Self { name: format!("logs-{service}"), backend, service: service.to_owned(), role, since, files: Vec::new() }
    }

    /// Reads the end of log files in the service's container as well.
    #[must_use]
    pub fn files(mut self, files: Vec<String>) -> Self {
        self.files = files;
        self
    }

    async fn ask(&self) -> Health {
        let containers = match self.backend.containers().await {
            Ok(all) => all.into_iter().filter(|c| c.service == self.service).collect::<Vec<_>>(),
            Err(error) => return net::engine(&error),
        };
        if containers.is_empty() {
            return Health::inconclusive(format!("service `{}` has no container, hence no log", self.service))
                .class(Class::Absent);
        }
        let (mut summary, mut unread) = (LogSummary::default(), Vec::new());
        for container in &containers {
            let request = LogRequest { since: Some(self.since), tail: Some(LINES) };
            if let Err(error) = read_log(&self.backend, &container.name, request, self.since, &mut summary).await {
                unread.push(format!("log of `{}`: {error}", container.name));
            }
        }
        for file in &self.files {
            match tail_file(&self.backend, &containers[0], file, TAIL).await {
                Ok(Some(bytes)) => {
                    String::from_utf8_lossy(&bytes).lines().for_each(|line| summary.add(line, Some(self.since)));
                }
                // A log that was never written to has no errors in it.
                Ok(None) => {}
                Err(error) => unread.push(format!("`{file}`: {error}")),
            }
        }
        judge(&summary, &unread).fact("since", self.since.to_rfc3339())
    }
}

#[async_trait]
impl HealthProbe for LogProbe {
    fn name(&self) -> &str {
        &self.name
    }

    async fn check(&self) -> Health {
        net::bounded(net::WHOLE, self.ask()).await.fact("service", &self.service).fact(ROLE, self.role)
    }
}

async fn read_log(
    backend: &Arc<dyn Backend>,
    container: &str,
    request: LogRequest,
    since: DateTime<Utc>,
    summary: &mut LogSummary,
) -> Result<()> {
    let mut log = backend.logs(container, request).await?;
    let mut bytes = 0;
    while let Some(line) = log.next().await {
        let line = line?;
        bytes += line.text.len();
        if bytes > BYTES {
            summary.truncated = true;
            break;
        }
        // The Engine's time decides; that in the line may be in another zone.
        if line.at.is_none_or(|at| at >= since) {
            summary.add(&line.text, None);
        }
    }
    Ok(())
}

/// Reads the last bytes of a file in a container; `None` when it does not exist.
pub(crate) async fn tail_file(
    backend: &Arc<dyn Backend>,
    container: &crate::backend::Container,
    path: &str,
    bytes: usize,
) -> Result<Option<Bytes>> {
    if container.state != crate::backend::ContainerState::Running {
        return Err(Error::new(ErrorKind::Precondition, format!("`{}` does not run", container.name)));
    }
    let request = ExecRequest::new(["tail", "-c", &bytes.to_string(), "--", path]);
    let result = backend.run(&container.name, request, Duration::from_secs(10)).await?;
    if result.exit_code != 0 && String::from_utf8_lossy(&result.stderr).contains("No such file") {
        return Ok(None);
    }
    Ok(Some(result.success("tail")?.stdout))
}

fn judge(summary: &LogSummary, unread: &[String]) -> Health {
    let total = summary.total();
    let topics: Vec<_> = summary.events.iter().map(|(topic, count)| format!("{count} {topic}")).collect();
    let health = if total > 0 {
        Health::degraded(format!("{total} errors: {}", net::short(&topics.join(", "), 300))).class(Class::Errors)
    } else if !unread.is_empty() {
        Health::inconclusive(net::short(&unread.join("; "), 300))
    } else if summary.truncated {
        Health::inconclusive("no error in what was read, and the log is longer than what may be read")
    } else {
        Health::healthy(format!("no error in {} lines", summary.lines)).class(Class::Ok)
    };
    let mut health = health.fact("lines", summary.lines).fact("truncated", summary.truncated);
    for (topic, count) in summary.events.iter().take(20) {
        health = health.fact(format!("errors.{topic}"), count);
    }
    for (i, sample) in summary.samples.iter().enumerate() {
        health = health.fact(format!("sample.{i}"), sample);
    }
    health
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{
        Status,
        testing::backend::{Told, container},
    };

    #[test]
    fn events_are_read_where_each_format_puts_the_level() {
        use Topic::{
            Authentication, Corruption, DatabaseUnreachable, FullDisk, MissingTable, MissingTablespace, Other,
            RedisUnreachable, Redo, ServerError, Upgrade, Upstream,
        };
        for (line, level, topic) in [
            // MySQL
            (
                "2026-01-02T02:00:00.123456Z 0 [ERROR] [MY-012224] [InnoDB] Header page consists of zero bytes in datafile: ./ibdata1",
                Level::Error,
                Other,
            ),
            (
                "2026-01-02T02:00:00.1Z 8 [ERROR] [MY-011906] [InnoDB] Database page corruption on disk or a failed file read of page [page id: space=3, page number=4].",
                Level::Error,
                Corruption,
            ),
            (
                "2026-01-02T02:00:00.1Z 8 [ERROR] [MY-012574] [InnoDB] Tablespace 5, name 'chom/users', file './chom/users.ibd' is missing! Cannot find space ID 5",
                Level::Error,
                MissingTablespace,
            ),
            (
                "2026-01-02T02:00:00.1Z 0 [ERROR] [MY-012526] [InnoDB] Upgrade after a crash is not supported. This redo log was created with MySQL 5.7.",
                Level::Error,
                Upgrade,
            ),
            (
                "2026-01-02T02:00:00.1Z 0 [ERROR] [MY-013882] [InnoDB] Missing redo log file ./#innodb_redo/#ib_redo10 (with start_lsn = 1).",
                Level::Error,
                Redo,
            ),
            // MariaDB
            (
                "2026-01-02  2:00:00 0 [ERROR] InnoDB: preallocating 1 bytes for file ./x.ibd failed with error 28: Operating system error number 28",
                Level::Error,
                FullDisk,
            ),
            // Laravel
            (
                r#"[2026-01-02 02:00:00] production.ERROR: SQLSTATE[HY000] [1045] Access denied for user 'chom'@'10.0.0.2' (using password: YES) {"exception":"[object] (Illuminate\\Database\\QueryException(code: 1045): x"#,
                Level::Error,
                Authentication,
            ),
            (
                "[2026-01-02 02:00:00] production.CRITICAL: SQLSTATE[HY000] [2002] Connection refused",
                Level::Critical,
                DatabaseUnreachable,
            ),
            (
                "[2026-01-02 02:00:00] local.EMERGENCY: SQLSTATE[42S02]: Base table or view not found: 1146 Table 'chom.users' doesn't exist",
                Level::Emergency,
                MissingTable,
            ),
            (
                r#"[2026-01-02 02:00:00] local.ALERT: x {"exception":"[object] (App\\Exceptions\\Odd(code: 0): y at /z:1)"#,
                Level::Alert,
                Topic::Exception("App\\Exceptions\\Odd".into()),
            ),
            (
                r#"[2026-01-02 02:00:00] local.ERROR: Connection refused {"exception":"[object] (RedisException(code: 111): y"#,
                Level::Error,
                RedisUnreachable,
            ),
            (
                r#"[2026-01-02 02:00:00] local.ERROR: Redis::get(): php_network_getaddresses: getaddrinfo for redis failed {"exception":"[object] (ErrorException(code: 0): x"#,
                Level::Error,
                RedisUnreachable,
            ),
            (r#"{"message":"x","level_name":"ERROR","channel":"local"}"#, Level::Error, Other),
            // nginx
            (
                "2026/01/02 02:00:00 [error] 29#29: *1 connect() failed (111: Connection refused) while connecting to upstream, client: 10.0.0.1",
                Level::Error,
                Upstream,
            ),
            (
                r#"10.0.0.1 - - [02/Jan/2026:02:00:00 +0000] "GET /x HTTP/1.1" 500 12 "-" "curl""#,
                Level::Error,
                ServerError,
            ),
            (
                r#"2026/01/02 02:00:00 [error] 11#11: *53 FastCGI sent in stderr: "PHP message: PHP Fatal error:  Uncaught x""#,
                Level::Critical,
                Other,
            ),
            // redis
            (
                "1:M 02 Jan 2026 02:00:00.123 # Error writing to the AOF file: No space left on device",
                Level::Error,
                FullDisk,
            ),
            ("1:M 02 Jan 2026 02:00:00.123 # Can't save in background: fork: x", Level::Error, Other),
            // PHP
            ("[02-Jan-2026 02:00:00] ERROR: unable to bind listening socket", Level::Error, Other),
            ("PHP Fatal error:  Uncaught Error: x in /y:1", Level::Critical, Other),
        ] {
            let event = read_line(line).unwrap_or_else(|| panic!("no event: {line}"));
            assert_eq!((event.level, event.topic), (level, topic), "{line}");
        }
    }

    #[test]
    fn the_word_error_alone_is_no_error() {
        for line in [
            "import finished with 0 errors",
            "[2026-01-02 02:00:00] production.INFO: 0 errors, ERROR: none",
            "[2026-01-02 02:00:00] production.WARNING: retry after error",
            "2026-01-02T02:00:00.1Z 0 [Warning] [MY-010055] [Server] IP address could not be resolved: error",
            "2026-01-02T02:00:00.1Z 0 [System] [MY-010931] [Server] ready for connections. [ERROR] is a word",
            r#"10.0.0.1 - - [02/Jan/2026:02:00:00 +0000] "GET /error HTTP/1.1" 200 500 "-" "curl""#,
            r#"10.0.0.1 - - [02/Jan/2026:02:00:00 +0000] "GET / HTTP/1.1" 503 12 "-" "curl""#,
            "#3 /var/www/html/vendor/x.php(12): handleError()",
            r#"{"message":"ERROR","level_name":"INFO"}"#,
            "1:M 02 Jan 2026 02:00:00.123 # WARNING Memory overcommit must be enabled! Background saving may failed",
            "1:M 02 Jan 2026 02:00:00.123 * Background saving terminated with success # 0 failed",
            r#"2026/01/02 02:00:00 [error] 11#11: *53 FastCGI sent in stderr: "PHP message: PHP Deprecated:  x""#,
            "{ERROR: this is not JSON",
            "",
        ] {
            assert_eq!(read_line(line), None, "{line}");
        }
    }

    #[test]
    fn lines_before_the_time_are_left_out_and_counts_are_by_topic() {
        let since = "2026-01-02T02:00:00Z".parse().ok();
        let mut summary = LogSummary::default();
        summary.add("[2026-01-02 01:59:59] local.ERROR: old", since);
        summary.add("[2026-01-02 02:00:00] local.ERROR: new", since);
        summary.add("[2026-01-02 02:00:01] local.ERROR: SQLSTATE[HY000] [2002] x", since);
        assert_eq!(summary.events, BTreeMap::from([("other".into(), 1), ("database_unreachable".into(), 1)]));
        assert_eq!(summary.lines, 3);
    }

    #[test]
    fn a_log_that_could_not_be_read_is_inconclusive_and_errors_are_degraded() {
        let mut summary = LogSummary { lines: 10, ..LogSummary::default() };
        assert_eq!(judge(&summary, &[]).status, Status::Healthy);
        assert_eq!(judge(&summary, &["x".into()]).status, Status::Inconclusive);
        summary.truncated = true;
        assert_eq!(judge(&summary, &[]).status, Status::Inconclusive);
        summary.add("[2026-01-02 02:00:00] local.ERROR: x", None);
        assert_eq!(judge(&summary, &["x".into()]).status, Status::Degraded);
    }

    #[tokio::test]
    async fn the_probe_reads_the_log_of_every_container_of_the_service() {
        let told = Told {
            containers: Some(vec![container("app"), container("app"), container("mysql")]),
            log: Some(vec!["[2026-01-02 02:00:00] local.ERROR: x", "fine, 0 errors"]),
        };
        let since = "2026-01-01T00:00:00Z".parse().unwrap();
        let health = LogProbe::new(Arc::new(told), "app", Role::Application, since).check().await;
        assert_eq!(health.status, Status::Degraded);
        assert_eq!((health.facts["errors.other"].as_str(), health.facts["lines"].as_str()), ("2", "4"));
    }
}
