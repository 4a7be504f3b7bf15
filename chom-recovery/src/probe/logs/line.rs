//! One line of a log: whether it is an event, how bad, and what it is about.

use std::fmt;

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};

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
    /// Code cannot be parsed.
    Syntax,
    /// The application's environment file cannot be used.
    Environment,
    /// The web server's configuration cannot be used.
    WebConfiguration,
    /// A certificate does not belong to its key.
    CertificateKey,
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
            Self::Syntax => "syntax",
            Self::Environment => "environment",
            Self::WebConfiguration => "web_configuration",
            Self::CertificateKey => "certificate_key",
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
    if is_refused_environment(line) {
        return Some(Event { level: Level::Critical, topic: Topic::Environment, at: None });
    }
    let level = read_level(line)?;
    Some(Event { level, topic: topic(line), at: read_time(line) })
}

/// Laravel says this on standard error, without a level, and ends. The line after it shows a piece of the file, and is
/// no event.
fn is_refused_environment(line: &str) -> bool {
    line.trim() == "The environment file is invalid!"
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
    // `nginx: [emerg] …` before it has a log.
    if let Some((word, _)) = line.strip_prefix("nginx: [").and_then(|rest| rest.split_once(']')) {
        return Level::read(word);
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
    (&["key values mismatch"], Topic::CertificateKey),
    (&["syntax error, unexpected", "php parse error", "(parseerror(code"], Topic::Syntax),
    (
        &[
            "environment file is invalid",
            "failed to parse dotenv file",
            "no application encryption key has been specified",
            "unsupported cipher or incorrect key length",
        ],
        Topic::Environment,
    ),
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
    // nginx uses this level for what keeps it from starting.
    (&["[emerg]"], Topic::WebConfiguration),
    (&["allowed memory size of", "cannot allocate memory", "out of memory"], Topic::OutOfMemory),
    (&["permission denied", "errno: 13", "errcode: 13", "error number 13"], Topic::Permission),
];

pub(crate) fn topic(line: &str) -> Topic {
    let lower = line.to_lowercase();
    if let Some((_, topic)) = MARKS.iter().find(|(marks, _)| marks.iter().any(|m| lower.contains(m))) {
        return topic.clone();
    }
    exception(line).map_or(Topic::Other, Topic::Exception)
}

/// Finds the exception's class: `[object] (Vendor\Name(code: 0): …)`, in JSON with doubled backslashes.
pub(crate) fn exception(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("[object] (")?;
    let (class, _) = rest.split_once('(')?;
    let class = class.replace("\\\\", "\\");
    let ok =
        (1..=120).contains(&class.len()) && class.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'\\' || b == b'_');
    ok.then_some(class)
}
