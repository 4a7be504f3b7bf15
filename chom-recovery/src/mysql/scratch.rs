//! Rows of our own: written, read back, dropped, and seen by nobody else.
//!
//! They lie in a temporary table of InnoDB, which no other session sees and which is gone with ours, however that ends. What
//! this proves: the storage engine takes, keeps and returns rows, and on MySQL, whose temporary tablespaces are cut back
//! after each session, that it finds room for them on its disk. What it does not: a commit that outlives the server, and
//! that ordinary accounts may write, since servers that are read-only take temporary tables ([`read_only`] tells that).
//!
//! Nothing of it gets into the binary log: `sql_log_bin` is switched off for the session. An account that may not do that
//! writes only where rows are logged as rows, since servers then log nothing of temporary tables.
//!
//! # Source
//! MySQL 9 manual, "Binary Logging Formats" and "CREATE TEMPORARY TABLE Statement"; MariaDB server documentation, "Binary
//! Log Formats" and "CREATE TABLE", section "CREATE TEMPORARY TABLE".

use std::{collections::BTreeMap, time::Duration};

use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout};

use super::{
    info::ServerInfo,
    quote,
    server::Server,
    session::{Role, Session, server_code},
};
use crate::error::{Error, ErrorKind, Result};

/// Name of the table. One of that name that others have is not touched: ours hides it, from us alone.
const TABLE: &str = "chom_recovery_scratch";
/// Rows and their size: together far more than the 80 KiB that a temporary tablespace of MySQL has at first.
const ROWS: usize = 16;
const ROW_BYTES: usize = 64 << 10;
/// How long the server may take to end a session of ours that hangs.
const KILL: Duration = Duration::from_secs(3);

/// What became of rows of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScratchWrite {
    /// They were taken, read back the same, and dropped.
    Taken {
        /// How long that took, in milliseconds.
        ms: u64,
    },
    /// The server takes no rows at all, and says why.
    ReadOnly(String),
    /// They were not written, and why: nothing is known then.
    NotTried(String),
}

impl Server {
    /// Writes rows into a temporary table of `schema`, reads them back and drops them. Nothing of it is written to the binary
    /// log.
    ///
    /// # Errors
    /// `NoSpace`: the server finds no room. `Timeout`: they were not taken within `deadline`, as on a full disk, where servers
    /// wait for room. `Corrupt`: they came back as others.
    pub async fn scratch_write(&self, schema: &str, deadline: Duration) -> Result<ScratchWrite> {
        let end = Instant::now() + deadline;
        let mut session = self.session(Role::Scratch).await?;
        let connection = session.id();
        let Ok(written) = tokio::time::timeout_at(end, write(&mut session, self.info(), schema)).await else {
            // Left to itself, it would go on waiting for room for as long as the server does.
            let _ = timeout(KILL, self.kill(&[connection])).await;
            let seconds = deadline.as_secs_f64();
            return Err(Error::new(
                ErrorKind::Timeout,
                format!("rows of our own were not taken within {seconds:.0} s"),
            ));
        };
        session.close().await;
        written
    }
}

async fn write(session: &mut Session, info: &ServerInfo, schema: &str) -> Result<ScratchWrite> {
    if info.log_bin && !is_kept_out_of_log(session).await? {
        return Ok(ScratchWrite::NotTried(
            "the account may not switch `sql_log_bin` off, and the server's format would log it".into(),
        ));
    }
    let begun = Instant::now();
    let table = quote::qualified(schema, TABLE);
    let create = format!("CREATE TEMPORARY TABLE {table} (id INT PRIMARY KEY, data MEDIUMBLOB NOT NULL) ENGINE=InnoDB");
    match session.run(create).await {
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::Precondition => {
            return Ok(ScratchWrite::NotTried("the account lacks the privilege CREATE TEMPORARY TABLES".into()));
        }
        Err(e) => return refused(e),
    }
    // Drawn anew each time, so that what comes back cannot be of an earlier one.
    let word = hex::encode(rand::random::<[u8; 24]>());
    let times = ROW_BYTES / word.len();
    let row = |id: usize| format!("({id}, REPEAT({}, {times}))", quote::text(&word));
    let rows = (1..=ROWS).map(row).collect::<Vec<_>>().join(", ");
    if let Err(e) = session.run(format!("INSERT INTO {table} VALUES {rows}")).await {
        return refused(e);
    }
    let wanted = hex::encode(Sha256::digest(word.repeat(times)));
    let found = session.rows(format!("SELECT id, SHA2(data, 256) FROM {table} ORDER BY id")).await?;
    for (index, row) in found.iter().enumerate() {
        if row.number(0)? != Some(index as u64 + 1) || row.text(1)? != wanted {
            return Err(Error::new(ErrorKind::Corrupt, "rows of our own came back as others"));
        }
    }
    if found.len() != ROWS {
        let count = found.len();
        return Err(Error::new(ErrorKind::Corrupt, format!("{count} of {ROWS} rows of our own came back")));
    }
    session.run(format!("DROP TEMPORARY TABLE {table}")).await?;
    Ok(ScratchWrite::Taken { ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX) })
}

/// Switches the session's binary log off; tells whether nothing of a temporary table gets into it.
async fn is_kept_out_of_log(session: &mut Session) -> Result<bool> {
    match session.run("SET SESSION sql_log_bin = 0").await {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::Precondition => {
            let format = session.row("SELECT @@session.binlog_format").await?;
            Ok(format.map_or(Ok(String::new()), |row| row.text(0))? == "ROW")
        }
        Err(e) => Err(e),
    }
}

/// Tells a server that takes no rows by intent from one that fails.
fn refused(error: Error) -> Result<ScratchWrite> {
    match server_code(&error) {
        // A table, an option, a transaction, a mode, InnoDB, or its forced recovery forbids it.
        Some(1036 | 1290 | 1792 | 1836 | 1874 | 1881) => Ok(ScratchWrite::ReadOnly(error.message().to_owned())),
        _ => Err(error.during("rows of our own")),
    }
}

/// Names the settings by which a server refuses the writes of ordinary accounts, as `name = value`.
pub(crate) fn read_only(variables: &BTreeMap<String, String>) -> Vec<String> {
    let switches =
        ["read_only", "super_read_only", "innodb_read_only", "transaction_read_only", "tx_read_only", "offline_mode"];
    let is_on = |value: &str| !matches!(value, "" | "0" | "OFF");
    let mut found: Vec<String> = switches
        .iter()
        .filter_map(|name| variables.get(*name).filter(|value| is_on(value)).map(|value| format!("{name} = {value}")))
        .collect();
    // From 4 on, InnoDB changes nothing any more.
    let forced = variables.get("innodb_force_recovery").and_then(|value| value.parse::<u8>().ok()).unwrap_or(0);
    if forced >= 4 {
        found.push(format!("innodb_force_recovery = {forced}"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_switch_that_refuses_writes_is_named() {
        let usual = [("read_only", "OFF"), ("super_read_only", "0"), ("innodb_force_recovery", "3")];
        assert_eq!(read_only(&variables(&usual)), Vec::<String>::new());
        // MariaDB 12 has more than two values.
        let found = read_only(&variables(&[
            ("read_only", "NO_LOCK"),
            ("innodb_read_only", "ON"),
            ("innodb_force_recovery", "4"),
        ]));
        assert_eq!(found, ["read_only = NO_LOCK", "innodb_read_only = ON", "innodb_force_recovery = 4"]);
    }

    #[test]
    fn a_refusal_by_intent_is_told_from_a_failure() {
        let error = |code: u16| Error::new(ErrorKind::Failed, "as told").with("code", code);
        assert_eq!(refused(error(1836)).unwrap(), ScratchWrite::ReadOnly("as told".into()));
        assert_eq!(refused(error(1064)).unwrap_err().kind(), ErrorKind::Failed);
        let full = Error::new(ErrorKind::NoSpace, "full").with("code", 1114);
        assert_eq!(refused(full).unwrap_err().kind(), ErrorKind::NoSpace);
    }
}
