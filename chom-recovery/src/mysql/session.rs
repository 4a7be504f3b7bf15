//! One connection whose settings were pinned and read back. Nothing else in this crate names the driver; rows in numbers
//! are read by [`wire`](super::wire).

use std::{fmt::Write as _, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use mysql_async::{Conn, DriverError, Error as DriverFailure, IoError, OptsBuilder, Value, prelude::Queryable};

use super::{login::Login, quote};
use crate::error::{Error, ErrorKind, Result};

/// Connection attribute `program_name`, by which our own sessions are told from clients.
pub(super) const PROGRAM: &str = "chom-recovery";

/// What a session is for; decides its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Is let in, and asks for nothing: no setting is pinned, since MySQL lets ordinary accounts change few of them.
    Guest,
    /// Reads data or metadata as it is, changes nothing.
    Read,
    /// Recreates objects and rows on a candidate exactly as they were.
    Load,
    /// Recreates tables and rows on a server that goes on serving, whose replicas get them too.
    Restore,
    /// Writes rows that nobody else sees, and drops them.
    Scratch,
}

/// Settings of every session; those that a server does not know are left out.
const PINNED: &[(&str, &str)] = &[
    ("time_zone", "'+00:00'"),
    ("autocommit", "1"),
    ("lock_wait_timeout", "5"),
    ("net_write_timeout", "3600"),
    ("net_read_timeout", "3600"),
    ("wait_timeout", "28800"),
    ("max_execution_time", "0"),
    ("max_statement_time", "0"),
    ("idle_transaction_timeout", "0"),
    ("idle_readonly_transaction_timeout", "0"),
    ("sql_select_limit", "18446744073709551615"),
    ("sql_safe_updates", "0"),
    ("sql_big_selects", "1"),
    ("sql_quote_show_create", "1"),
    ("completion_type", "0"),
    ("max_error_count", "65535"),
    ("transaction_isolation", "'REPEATABLE-READ'"),
    ("tx_isolation", "'REPEATABLE-READ'"),
    ("information_schema_stats_expiry", "0"),
    ("print_identified_with_as_hex", "1"),
    ("show_gipk_in_create_table_and_information_schema", "1"),
    ("show_create_table_skip_secondary_engine", "0"),
    ("cte_max_recursion_depth", "1000"),
];

/// Additional settings of [`Role::Load`].
const LOADING: &[(&str, &str)] = &[
    ("sql_log_bin", "0"),
    ("foreign_key_checks", "0"),
    ("unique_checks", "1"),
    ("check_constraint_checks", "0"),
    ("explicit_defaults_for_timestamp", "1"),
    ("sql_require_primary_key", "0"),
    ("sql_generate_invisible_primary_key", "0"),
    ("restrict_fk_on_non_standard_key", "0"),
    ("innodb_strict_mode", "0"),
    ("system_versioning_insert_history", "1"),
    ("system_versioning_alter_history", "KEEP"),
];

/// `''`-class mode for reading: nothing is reinterpreted.
const READ_MODE: &str = "";
/// Id 0 stays 0, and dates that MySQL once took are taken again. Not strict: strictness would refuse values that the
/// source holds, and every warning is counted instead.
pub(super) const LOAD_MODE: &str = "NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES";

/// A connection.
#[derive(Debug)]
pub(super) struct Session {
    conn: Conn,
    address: String,
}

/// What a statement without rows reported.
#[derive(Debug, Clone)]
pub(super) struct Done {
    pub(super) warnings: u16,
    /// Rows that were added, changed or removed.
    pub(super) affected: u64,
    pub(super) info: String,
}

/// A row of the text protocol: bytes or NULL.
#[derive(Debug)]
pub(super) struct Row {
    names: Arc<[String]>,
    cells: Vec<Option<Vec<u8>>>,
}

impl Row {
    pub(super) fn new(names: &Arc<[String]>, cells: Vec<Option<Vec<u8>>>) -> Self {
        Self { names: Arc::clone(names), cells }
    }

    /// Returns a cell; `None` is NULL.
    pub(super) fn bytes(&self, index: usize) -> Option<&[u8]> {
        self.cells.get(index).and_then(Option::as_deref)
    }

    /// Returns a cell that is UTF-8 by nature (names, numbers, settings); NULL is empty.
    pub(super) fn text(&self, index: usize) -> Result<String> {
        self.optional(index).map(Option::unwrap_or_default)
    }

    /// Returns a cell that is UTF-8 by nature.
    pub(super) fn optional(&self, index: usize) -> Result<Option<String>> {
        self.bytes(index)
            .map(|b| String::from_utf8(b.to_vec()))
            .transpose()
            .map_err(|_| Error::new(ErrorKind::Corrupt, format!("column {} of an answer is not UTF-8", index + 1)))
    }

    /// Returns a number; NULL is `None`.
    pub(super) fn number(&self, index: usize) -> Result<Option<u64>> {
        let Some(text) = self.optional(index)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            Error::new(ErrorKind::Corrupt, format!("`{}` is not the number that was asked for", text.escape_debug()))
        })
    }

    /// Finds a column by name, whatever its case.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|n| n.eq_ignore_ascii_case(name))
    }

    /// Returns the cell of a named column.
    pub(super) fn named(&self, name: &str) -> Result<String> {
        self.column(name).map_or_else(|| Ok(String::new()), |i| self.text(i))
    }
}

impl Session {
    /// Connects over TCP, pins the settings of the role and reads them back.
    pub(super) async fn open(login: &Login, role: Role) -> Result<Self> {
        let address = login.address();
        tokio::time::timeout(login.connect_timeout, Self::handshake(login, role))
            .await
            .unwrap_or_else(|_| {
                Err(Error::new(
                    ErrorKind::Timeout,
                    format!("no session with {address} within {:.0} s", login.connect_timeout.as_secs_f64()),
                ))
            })
            .map_err(|e| e.with("server", &address).with("user", &login.user))
    }

    async fn handshake(login: &Login, role: Role) -> Result<Self> {
        let opts = OptsBuilder::default()
            .ip_or_hostname(login.host.clone())
            .tcp_port(login.port)
            .user(Some(login.user.clone()))
            .pass(Some(login.password.expose().to_owned()))
            // The driver would follow the server's own socket path on our file system.
            .prefer_socket(false)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(30)))
            .stmt_cache_size(0)
            .max_allowed_packet(Some(1 << 30))
            .connect_attribute("program_name".to_owned(), PROGRAM.to_owned());
        let conn = Conn::new(opts).await.map_err(from_driver)?;
        let mut session = Self { conn, address: login.address() };
        if role != Role::Guest {
            session.pin(role).await?;
        }
        Ok(session)
    }

    async fn pin(&mut self, role: Role) -> Result<()> {
        let known = self.rows(settings_query(role)).await?;
        self.run(pin_statement(role, &known)?).await?;
        check_pinned(role, &self.rows(PINNED_QUERY).await?)
    }

    /// Runs a statement and collects its rows. For answers that are small by nature.
    pub(super) async fn rows(&mut self, sql: impl Into<Statement>) -> Result<Vec<Row>> {
        let Statement(sql) = sql.into();
        let rows: Vec<mysql_async::Row> = self.conn.query(sql).await.map_err(|e| self.failed(e))?;
        let Some(first) = rows.first() else { return Ok(Vec::new()) };
        let names = first.columns_ref().iter().map(|c| c.name_str().into_owned()).collect();
        let cell = |value| match value {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        };
        Ok(rows.into_iter().map(|row| Row::new(&names, row.unwrap().into_iter().map(cell).collect())).collect())
    }

    /// Runs a statement for its first row.
    pub(super) async fn row(&mut self, sql: impl Into<Statement>) -> Result<Option<Row>> {
        Ok(self.rows(sql).await?.into_iter().next())
    }

    /// Runs a statement for its effect.
    pub(super) async fn run(&mut self, sql: impl Into<Statement>) -> Result<Done> {
        let Statement(sql) = sql.into();
        self.conn.query_drop(sql).await.map_err(|e| self.failed(e))?;
        Ok(Done {
            warnings: self.conn.get_warnings(),
            affected: self.conn.affected_rows(),
            info: self.conn.info().into_owned(),
        })
    }

    /// Returns the warnings of the last statement, as `code: message`.
    pub(super) async fn warnings(&mut self) -> Result<Vec<(u64, String)>> {
        self.rows("SHOW WARNINGS")
            .await?
            .iter()
            .map(|r| Ok((r.number(1)?.unwrap_or_default(), r.bytes(2).map(lossy).unwrap_or_default())))
            .collect()
    }

    /// Answers `LOAD DATA LOCAL` with a stream.
    pub(super) fn feed(&mut self, stream: futures::stream::BoxStream<'static, std::io::Result<bytes::Bytes>>) {
        // The driver wants a handler that is `Sync`; a stream is not, a mutex around it is.
        let stream = std::sync::Mutex::new(Some(stream));
        self.conn.set_infile_handler(async move {
            let stream = stream.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            Ok(stream.unwrap_or_else(|| Box::pin(futures::stream::empty())))
        });
    }

    /// Tells whether the connection still lives.
    pub(super) async fn ping(&mut self) -> Result<()> {
        self.conn.ping().await.map_err(|e| self.failed(e))
    }

    /// Id of this connection on the server.
    pub(super) fn id(&self) -> u32 {
        self.conn.id()
    }

    /// Reads the server's clock.
    pub(super) async fn now(&mut self) -> Result<DateTime<Utc>> {
        read_clock(self.row(CLOCK_QUERY).await?)
    }

    /// Says goodbye; a server that does not listen is not waited for.
    pub(super) async fn close(self) {
        let _ = tokio::time::timeout(Duration::from_secs(2), self.conn.disconnect()).await;
    }

    fn failed(&self, error: DriverFailure) -> Error {
        from_driver(error).with("server", &self.address)
    }
}

/// Asks for the server's clock; see [`read_clock`].
pub(super) const CLOCK_QUERY: &str = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS UNSIGNED)";

pub(super) fn read_clock(row: Option<Row>) -> Result<DateTime<Utc>> {
    row.map_or(Ok(None), |r| r.number(0))?
        .and_then(|us| DateTime::from_timestamp_micros(i64::try_from(us).ok()?))
        .ok_or_else(|| Error::new(ErrorKind::Failed, "the server did not tell the time"))
}

fn mode(role: Role) -> &'static str {
    match role {
        Role::Read | Role::Scratch | Role::Guest => READ_MODE,
        Role::Load | Role::Restore => LOAD_MODE,
    }
}

fn wanted(role: Role) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    let loading: &[_] = if matches!(role, Role::Load | Role::Restore) { LOADING } else { &[] };
    // What is written to production goes to its replicas.
    PINNED.iter().chain(loading).filter(move |(name, _)| role == Role::Load || *name != "sql_log_bin")
}

/// Asks which of the settings to be pinned the server knows.
pub(super) fn settings_query(role: Role) -> String {
    let names = wanted(role).map(|(n, _)| quote::text(n)).collect::<Vec<_>>().join(",");
    format!("SHOW SESSION VARIABLES WHERE Variable_name IN ({names})")
}

/// Pins the settings that the server knows.
pub(super) fn pin_statement(role: Role, known: &[Row]) -> Result<String> {
    let known: Vec<String> = known.iter().map(|r| r.text(0)).collect::<Result<_>>()?;
    let mut set = format!("SET NAMES utf8mb4, SESSION sql_mode = {}", quote::text(mode(role)));
    for (name, value) in wanted(role).filter(|(n, _)| known.iter().any(|k| k == n)) {
        // Two names of one setting; the old one is deprecated where both exist.
        if *name == "tx_isolation" && known.iter().any(|k| k == "transaction_isolation") {
            continue;
        }
        let _ = write!(set, ", SESSION {name} = {value}");
    }
    // Bytes come as they are stored: nothing is converted on the way.
    set.push_str(", SESSION character_set_results = NULL");
    Ok(set)
}

/// Reads the settings on which everything rests; see [`check_pinned`].
pub(super) const PINNED_QUERY: &str = "SELECT @@session.time_zone, @@session.sql_mode, @@session.character_set_results";

pub(super) fn check_pinned(role: Role, rows: &[Row]) -> Result<()> {
    let row = rows.first().ok_or_else(|| Error::new(ErrorKind::Failed, "the session did not tell its settings"))?;
    let found = (row.text(0)?, row.text(1)?, row.optional(2)?);
    if found.0 != "+00:00" || !same_mode(&found.1, mode(role)) || found.2.is_some() {
        return Err(Error::new(
            ErrorKind::Failed,
            format!("the session kept other settings than it was given: {found:?}"),
        ));
    }
    Ok(())
}

/// Bytes of a statement.
pub(super) struct Statement(Vec<u8>);

impl Statement {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl From<&String> for Statement {
    fn from(sql: &String) -> Self {
        Self(sql.as_bytes().to_vec())
    }
}

impl From<&str> for Statement {
    fn from(sql: &str) -> Self {
        Self(sql.as_bytes().to_vec())
    }
}

impl From<String> for Statement {
    fn from(sql: String) -> Self {
        Self(sql.into_bytes())
    }
}

impl From<Vec<u8>> for Statement {
    fn from(sql: Vec<u8>) -> Self {
        Self(sql)
    }
}

pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn same_mode(found: &str, wanted: &str) -> bool {
    let set = |mode: &str| {
        mode.split(',').filter(|m| !m.is_empty()).map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    set(found) == set(wanted)
}

/// Key in an error's context that holds the server's own code.
const CODE: &str = "code";

/// Returns the server's own error code, where the server answered with one.
pub(super) fn server_code(error: &Error) -> Option<u16> {
    error.context().iter().find(|(k, _)| k == CODE).and_then(|(_, v)| v.parse().ok())
}

/// Maps an error of the driver. Codes: MySQL "Server Error Message Reference", MariaDB "Error Codes".
fn from_driver(error: DriverFailure) -> Error {
    match error {
        DriverFailure::Server(server) => from_server(server.code, server.message),
        DriverFailure::Io(IoError::Io(io)) => {
            let closed = io.kind() == std::io::ErrorKind::UnexpectedEof;
            let error = Error::from(io);
            let lost = closed || matches!(error.kind(), ErrorKind::Failed | ErrorKind::Corrupt);
            let error = if lost { error.of_kind(ErrorKind::Unreachable) } else { error };
            error.during("connection to the database server")
        }
        DriverFailure::Driver(DriverError::ConnectionClosed) => {
            Error::new(ErrorKind::Unreachable, "the database server closed the connection")
        }
        other => Error::new(ErrorKind::Failed, other.to_string()).during("database driver"),
    }
}

/// Errors of files carry the number of the system's error in their text: 28 is `ENOSPC`, 122 `EDQUOT`.
fn says_no_space(code: u16, message: &str) -> bool {
    let is_of_file = matches!(code, 3 | 1004 | 1026 | 1030 | 1878);
    is_of_file && ["28", "122"].iter().any(|number| message.split(|c: char| !c.is_ascii_digit()).any(|n| n == *number))
}

/// Maps an error that the server answered with.
pub(super) fn from_server(code: u16, message: String) -> Error {
    let (kind, hint) = match classify(code) {
        // The code only says that a file was not written; why, the system's own number does.
        (_, _) if says_no_space(code, &message) => (ErrorKind::NoSpace, None),
        classified => classified,
    };
    let error = Error::new(kind, message).with(CODE, code);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn classify(code: u16) -> (ErrorKind, Option<&'static str>) {
    use ErrorKind as K;
    match code {
        1045 | 1698 | 1251 | 1524 | 1820 | 1862 | 3118 | 4151 => {
            (K::Authentication, Some("check user and password; a wrong password is no reason to restore"))
        }
        1130 => (K::Authentication, Some("the account exists, but not for connections from this address")),
        1040 | 1203 | 1226 => {
            (K::Unreachable, Some("the server has no connection to spare: raise max_connections or end idle ones"))
        }
        1205 | 1213 | 3572 => (K::Locked, None),
        1044 | 1142 | 1143 | 1227 | 1370 => (K::Precondition, Some("the account lacks a privilege")),
        3024 | 1969 => (K::Timeout, None),
        1053 | 1927 => (K::Unreachable, None),
        1021 | 1114 | 1041 => (K::NoSpace, None),
        1034 | 1035 | 1194 | 1195 | 1712 | 1877 | 1932 | 3505 => (K::Corrupt, None),
        1146 | 1049 | 1305 => (K::NotFound, None),
        1412 => (K::Conflict, Some("a table's definition changed in the meantime; run it again")),
        1193 | 1235 | 1273 | 1115 | 1286 => (K::Unsupported, None),
        1153 => (K::Precondition, Some("raise max_allowed_packet")),
        _ => (K::Failed, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: u16) -> Error {
        from_driver(DriverFailure::Server(mysql_async::ServerError {
            code,
            message: "m".into(),
            state: "HY000".into(),
        }))
    }

    #[test]
    fn a_refused_password_is_not_an_unreachable_server() {
        assert_eq!(server(1045).kind(), ErrorKind::Authentication);
        assert_eq!(server(1698).kind(), ErrorKind::Authentication);
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert_eq!(from_driver(DriverFailure::Io(IoError::Io(refused))).kind(), ErrorKind::Unreachable);
        let cut = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        assert_eq!(from_driver(DriverFailure::Io(IoError::Io(cut))).kind(), ErrorKind::Unreachable);
    }

    #[test]
    fn a_file_that_was_not_written_for_want_of_room_is_no_space() {
        let of = |code: u16, message: &str| {
            let error = mysql_async::ServerError { code, message: message.into(), state: "HY000".into() };
            from_driver(DriverFailure::Server(error)).kind()
        };
        assert_eq!(of(3, "Error writing file '/tmp/x' (OS errno 28 - No space left on device)"), ErrorKind::NoSpace);
        assert_eq!(of(1030, "Got error 28 from storage engine"), ErrorKind::NoSpace);
        assert_eq!(of(1030, "Got error 168 from storage engine"), ErrorKind::Failed);
        assert_eq!(of(1064, "near '28'"), ErrorKind::Failed);
    }

    #[test]
    fn the_servers_own_code_is_kept() {
        assert_eq!(server_code(&server(1040)), Some(1040));
        assert_eq!(server(1040).kind(), ErrorKind::Unreachable);
    }
}
