//! What a server is busy with: statements, transactions, and who waits for whom.

use serde::{Deserialize, Serialize};

use super::{
    info::Flavour,
    server::Server,
    session::{PROGRAM, Role, Row, Session},
};
use crate::{error::Result, secret};

mod deletions;
mod form;
mod kill;
mod locks;

pub use deletions::{AuditedRemoval, DeletingAccount, Deletion, Deletions};
pub use kill::Ended;
pub use locks::{Lock, LockWait};

/// Statements, digests and transactions that are listed at most.
const MOST: usize = 50;
/// Characters of a statement that are kept.
const TEXT: usize = 300;

/// What a server is busy with at a moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Activity {
    /// Connections in use.
    pub connections: u64,
    /// Connections that it allows.
    pub max_connections: u64,
    /// Statements that are being worked on.
    pub running: u64,
    /// Connections that work or hold a transaction, longest first; at most 50.
    pub sessions: Vec<Busy>,
    /// Statements by their digest, those that took most time first; empty where `performance_schema` is off.
    pub digests: Vec<Digest>,
    /// Who waits for whom.
    pub waits: Vec<LockWait>,
    /// Tables that hold much free space, largest first.
    pub fragmented: Vec<Fragmented>,
}

/// A connection that works, or that holds a transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Busy {
    /// Connection.
    pub connection: u64,
    /// Id of the statement, which tells it from the next one of the same connection; MariaDB alone has one.
    pub query: Option<u64>,
    /// Account.
    pub user: String,
    /// Where it comes from.
    pub host: String,
    /// `Query`, `Sleep`, ...
    pub command: String,
    /// Seconds in this command.
    pub seconds: u64,
    /// What the server does for it.
    pub state: String,
    /// Begin of the statement, without secrets that are known; empty: none runs.
    pub text: String,
    /// Rows that the statement has looked at.
    pub rows_examined: u64,
    /// Its transaction, where one is open.
    pub transaction: Option<Transaction>,
    /// Whether it is a session of this program, where the server tells.
    pub is_ours: bool,
}

/// An open transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// Its id in `InnoDB`.
    pub id: String,
    /// How long it has been open, in seconds.
    pub seconds: u64,
    /// Rows that it changed: so many have to be changed back when it is ended.
    pub rows_changed: u64,
    /// Rows that it holds locked, about.
    pub rows_locked: u64,
}

/// Statements of one form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Digest {
    /// Form of the statement, without its values.
    pub text: String,
    /// How often it ran.
    pub count: u64,
    /// How long all of them took, in seconds.
    pub seconds: f64,
    /// Rows that all of them looked at.
    pub rows_examined: u64,
}

/// A table that would be smaller if it were built anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fragmented {
    /// `schema.table`.
    pub table: String,
    /// Bytes of data and indexes.
    pub bytes: u64,
    /// Bytes that are free in its file.
    pub free: u64,
}

impl Busy {
    /// Tells whether the connection belongs to the server or to replication, as a name or a command tells.
    pub fn is_of_server(&self) -> bool {
        let system =
            ["system user", "event_scheduler", "mysql.session", "mysql.infoschema", "mysql.sys", "mariadb.sys"];
        system.contains(&self.user.as_str())
            || self.command == "Daemon"
            || ["Binlog Dump", "Slave_", "Replica", "Register"].iter().any(|begin| self.command.starts_with(begin))
    }

    /// Tells whether it does nothing.
    pub fn is_idle(&self) -> bool {
        self.command == "Sleep"
    }

    /// Tells whether it is a statement of a client: not of this program, of the server or of replication.
    pub fn is_statement(&self) -> bool {
        !(self.is_idle() || self.is_ours || self.is_of_server() || self.text.is_empty())
    }

    /// Returns the statement without its values, shortened: values are data.
    pub fn form(&self) -> String {
        form::form(&self.text)
    }

    /// First word of the statement, in upper case; comments before it are left out.
    pub fn verb(&self) -> String {
        let mut rest = self.text.trim_start();
        while let Some(comment) = rest.strip_prefix("/*").filter(|c| !c.starts_with('!')) {
            rest = comment.split_once("*/").map_or("", |(_, after)| after).trim_start();
        }
        rest.chars().take_while(char::is_ascii_alphabetic).collect::<String>().to_ascii_uppercase()
    }
}

impl Server {
    /// Looks at the connections that work or hold a transaction, longest first, and at who waits for whom. Cheap.
    ///
    /// # Errors
    /// `Precondition`: the account may not see other accounts' connections.
    pub async fn busy(&self) -> Result<(Vec<Busy>, Vec<LockWait>)> {
        let mut session = self.session(Role::Read).await?;
        let flavour = self.info().flavour;
        let mut found = sessions(&mut session, flavour).await?;
        let waits = locks::waits(&mut session, flavour, &found).await?;
        session.close().await;
        let works = |one: &Busy| !one.is_idle() || one.transaction.is_some();
        found.retain(|one| works(one) || waits.iter().any(|w| w.blocking == Some(one.connection)));
        Ok((found, waits))
    }

    /// Looks at what the server is busy with.
    ///
    /// # Errors
    /// `Precondition`: the account may not see other accounts' connections.
    pub async fn activity(&self) -> Result<Activity> {
        let (sessions, waits) = self.busy().await?;
        let mut activity = Activity { sessions, waits, ..Activity::default() };
        let mut session = self.session(Role::Read).await?;
        activity.sessions.truncate(MOST);
        for row in
            session.rows("SHOW GLOBAL STATUS WHERE Variable_name IN ('Threads_connected', 'Threads_running')").await?
        {
            let value = row.text(1)?.parse().unwrap_or(0);
            match row.text(0)?.as_str() {
                "Threads_connected" => activity.connections = value,
                // This session is one of them.
                _ => activity.running = value.saturating_sub(1),
            }
        }
        let most = session.row("SELECT @@global.max_connections, @@global.performance_schema").await?;
        let (most, has_digests) = match &most {
            Some(row) => (row.number(0)?.unwrap_or(0), row.text(1)? == "1"),
            None => (0, false),
        };
        activity.max_connections = most;
        if has_digests {
            activity.digests = digests(&mut session).await?;
        }
        activity.fragmented = fragmented(&mut session).await?;
        session.close().await;
        Ok(activity)
    }
}

/// Time since a transaction began: the server notes that in its own zone, and this session has another.
const AGE: &str = "GREATEST(0, TIMESTAMPDIFF(SECOND, x.trx_started, CONVERT_TZ(UTC_TIMESTAMP(), '+00:00', 'SYSTEM')))";

async fn sessions(session: &mut Session, flavour: Flavour) -> Result<Vec<Busy>> {
    let transaction =
        format!("x.trx_id, COALESCE({AGE}, 0), COALESCE(x.trx_rows_modified, 0), COALESCE(x.trx_rows_locked, 0)");
    let sql = match flavour {
        Flavour::Mysql => format!(
            "SELECT t.PROCESSLIST_ID, NULL, t.PROCESSLIST_USER, t.PROCESSLIST_HOST, t.PROCESSLIST_COMMAND, \
             COALESCE(t.PROCESSLIST_TIME, 0), t.PROCESSLIST_STATE, LEFT(t.PROCESSLIST_INFO, {TEXT}), \
             COALESCE(e.ROWS_EXAMINED, 0), a.PROCESSLIST_ID IS NOT NULL, {transaction} \
             FROM performance_schema.threads t \
             LEFT JOIN performance_schema.events_statements_current e ON e.THREAD_ID = t.THREAD_ID \
             AND e.NESTING_EVENT_LEVEL = 0 \
             LEFT JOIN performance_schema.session_account_connect_attrs a \
             ON a.PROCESSLIST_ID = t.PROCESSLIST_ID AND a.ATTR_NAME = 'program_name' AND a.ATTR_VALUE = '{PROGRAM}' \
             LEFT JOIN information_schema.INNODB_TRX x ON x.trx_mysql_thread_id = t.PROCESSLIST_ID \
             WHERE t.PROCESSLIST_ID IS NOT NULL AND t.PROCESSLIST_ID <> CONNECTION_ID() \
             AND t.TYPE = 'FOREGROUND' ORDER BY t.PROCESSLIST_TIME DESC"
        ),
        Flavour::Mariadb => format!(
            "SELECT p.ID, p.QUERY_ID, p.USER, p.HOST, p.COMMAND, COALESCE(p.TIME, 0), p.STATE, LEFT(p.INFO, {TEXT}), \
             COALESCE(p.EXAMINED_ROWS, 0), 0, {transaction} FROM information_schema.PROCESSLIST p \
             LEFT JOIN information_schema.INNODB_TRX x ON x.trx_mysql_thread_id = p.ID \
             WHERE p.ID <> CONNECTION_ID() ORDER BY p.TIME DESC"
        ),
    };
    let mut busy: Vec<Busy> = session.rows(sql).await?.iter().map(busy_of).collect::<Result<_>>()?;
    // A connection with two transactions of InnoDB (one read-only) is listed once.
    let mut seen = std::collections::BTreeSet::new();
    busy.retain(|one| seen.insert(one.connection));
    Ok(busy)
}

fn busy_of(row: &Row) -> Result<Busy> {
    let id = row.optional(10)?;
    Ok(Busy {
        connection: row.number(0)?.unwrap_or_default(),
        query: row.number(1)?,
        user: row.text(2)?,
        host: row.text(3)?,
        command: row.text(4)?,
        // MariaDB has negative times for a moment.
        seconds: row.text(5)?.parse().unwrap_or(0),
        state: row.text(6)?,
        text: shown(row.bytes(7).unwrap_or_default()),
        rows_examined: row.number(8)?.unwrap_or_default(),
        is_ours: row.text(9)? == "1",
        transaction: match id {
            Some(id) => Some(Transaction {
                id,
                seconds: row.text(11)?.parse().unwrap_or(0),
                rows_changed: row.number(12)?.unwrap_or_default(),
                rows_locked: row.number(13)?.unwrap_or_default(),
            }),
            None => None,
        },
    })
}

/// A statement as people see it: one line, no control characters, and none of its texts, which may be of users or secret.
fn shown(bytes: &[u8]) -> String {
    let text = masked(&String::from_utf8_lossy(bytes));
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    secret::scrub(&line.chars().filter(|c| !c.is_control()).take(TEXT).collect::<String>())
}

/// Puts `?` in the place of what stands in quotes; names in backticks stay. A text that was cut off is masked to its end.
fn masked(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    let mut inside = None;
    while let Some(c) = chars.next() {
        match inside {
            Some(quote) if c == quote => {
                inside = None;
                out.push(quote);
            }
            Some('`') => out.push(c),
            Some(_) if c == '\\' => drop(chars.next()),
            Some(_) => {}
            None => {
                out.push(c);
                inside = Some(c).filter(|c| matches!(c, '\'' | '"' | '`'));
                if matches!(inside, Some('\'' | '"')) {
                    out.push('?');
                }
            }
        }
    }
    out
}

async fn digests(session: &mut Session) -> Result<Vec<Digest>> {
    let sql = "SELECT LEFT(DIGEST_TEXT, 300), COUNT_STAR, SUM_TIMER_WAIT / 1000000000000, SUM_ROWS_EXAMINED \
               FROM performance_schema.events_statements_summary_by_digest WHERE DIGEST_TEXT IS NOT NULL \
               AND COALESCE(SCHEMA_NAME, '') NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys') \
               ORDER BY SUM_TIMER_WAIT DESC LIMIT 10";
    let rows = session.rows(sql).await?;
    rows.iter()
        .map(|row| {
            Ok(Digest {
                text: shown(row.bytes(0).unwrap_or_default()),
                count: row.number(1)?.unwrap_or_default(),
                seconds: row.text(2)?.parse().unwrap_or(0.0),
                rows_examined: row.number(3)?.unwrap_or_default(),
            })
        })
        .collect()
}

/// Tables of which a third or more, and at least 64 MiB, is free.
async fn fragmented(session: &mut Session) -> Result<Vec<Fragmented>> {
    let sql = format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, COALESCE(DATA_LENGTH, 0) + COALESCE(INDEX_LENGTH, 0), DATA_FREE \
         FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE' AND TABLE_SCHEMA NOT IN ({}) \
         AND DATA_FREE >= 67108864 AND DATA_FREE * 2 >= DATA_LENGTH + INDEX_LENGTH ORDER BY DATA_FREE DESC LIMIT 10",
        super::quote::system_schemas()
    );
    let rows = session.rows(sql).await?;
    rows.iter()
        .map(|row| {
            Ok(Fragmented {
                table: format!("{}.{}", row.text(0)?, row.text(1)?),
                bytes: row.number(2)?.unwrap_or_default(),
                free: row.number(3)?.unwrap_or_default(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_server_and_replication_are_known_by_name_or_command() {
        let busy = |user: &str, command: &str| Busy { user: user.into(), command: command.into(), ..Busy::default() };
        for (user, command) in [
            ("system user", "Connect"),
            ("event_scheduler", "Daemon"),
            ("repl", "Binlog Dump GTID"),
            ("x", "Slave_SQL"),
        ] {
            assert!(busy(user, command).is_of_server(), "{user} {command}");
        }
        assert!(!busy("chom", "Query").is_of_server());
    }

    #[test]
    fn what_stands_in_quotes_is_not_shown() {
        for (text, wanted) in [
            ("SELECT * FROM `it's` WHERE a = 'x' AND b = \"y\"", "SELECT * FROM `it's` WHERE a = '?' AND b = \"?\""),
            ("UPDATE t SET a = 'it\\'s', b = 2", "UPDATE t SET a = '?', b = 2"),
            ("SET PASSWORD = 'hunter2 and it was cut", "SET PASSWORD = '?"),
            ("SELECT 1", "SELECT 1"),
        ] {
            assert_eq!(masked(text), wanted);
        }
    }

    #[test]
    fn a_statement_is_shown_in_a_line_and_its_verb_is_found() {
        assert_eq!(shown(b"SELECT *\n  FROM t\x07\n"), "SELECT * FROM t");
        let verb = |text: &str| Busy { text: text.into(), ..Busy::default() }.verb();
        assert_eq!(verb("  select 1"), "SELECT");
        assert_eq!(verb("/* app */ /* x */ Update t"), "UPDATE");
        assert_eq!(verb("/*!40001 SQL */"), "");
        assert_eq!(verb(""), "");
    }
}
