//! What removed rows: statements that the server keeps count of, and what the application itself noted.
//!
//! The server counts since it started, by form of statement and by account, where `performance_schema` is on (MariaDB has it
//! off by default); which account ran which statement it does not keep. Rows that a foreign key removed are counted with the
//! statement on the table that it refers to, or not at all.
//!
//! # Source
//! MySQL 9 manual, "Statement Summary Tables"; MariaDB server documentation, "Performance Schema
//! events_statements_summary_by_digest Table".

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::shown;
use crate::{
    error::{ErrorKind, Result},
    mysql::{
        info::Flavour,
        quote,
        server::Server,
        session::{Role, Row, Session},
    },
    system::AuditTable,
};

/// Forms that are looked at, and those that are told.
const LOOKED_AT: usize = 200;
const TOLD: usize = 5;
/// How long the application's table may take to be read, in milliseconds: it may be large, and not indexed by time.
const READ_MS: u32 = 5_000;
/// Statements that remove rows, by how their form begins or what it holds.
const REMOVES: [&str; 8] = [
    "DELETE %",
    "TRUNCATE %",
    "DROP TABLE %",
    "DROP SCHEMA %",
    "DROP DATABASE %",
    "WITH % DELETE %",
    "ALTER TABLE % DROP PARTITION %",
    "ALTER TABLE % TRUNCATE PARTITION %",
];
/// The same as events; those of partitions are not told from other changes of a table.
const EVENTS: [&str; 5] = ["delete", "delete_multi", "truncate", "drop_table", "drop_db"];

/// What removed rows, as far as the server keeps count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletions {
    /// Forms of statements that ran since the moment asked for: those that name one of the tables first, then the latest.
    pub statements: Vec<Deletion>,
    /// Accounts that ran such statements since the server started, those with most rows first.
    pub accounts: Vec<DeletingAccount>,
    /// Why the server cannot tell, or not all; empty: it counted each.
    pub gaps: Vec<String>,
}

/// Statements of one form that removed rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// Form of the statement, without its values.
    pub text: String,
    /// Default schema of those who ran it; empty: they had none.
    pub schema: String,
    /// How often it ran since the server started.
    pub count: u64,
    /// Rows that all of them removed; 0 for those that remove whole tables.
    pub rows: u64,
    /// When it ran first, since the server started.
    pub first: DateTime<Utc>,
    /// When it ran last.
    pub last: DateTime<Utc>,
}

/// An account that removed rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletingAccount {
    /// `user@host`.
    pub account: String,
    /// Statements that remove rows, since the server started.
    pub count: u64,
    /// Rows that they removed, of whatever table.
    pub rows: u64,
}

/// What the application noted of somebody who removes things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditedRemoval {
    /// Who, as the application names them; empty: nobody was noted.
    pub who: String,
    /// What was done.
    pub what: String,
    /// How often.
    pub count: u64,
    /// When last.
    pub last: DateTime<Utc>,
}

impl Server {
    /// Tells which statements removed rows since a moment, and which accounts remove rows. What the server does not keep is
    /// a gap in the answer.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn deletions(&self, since: DateTime<Utc>, tables: &[String]) -> Result<Deletions> {
        let mut found = Deletions::default();
        let mut session = self.session(Role::Read).await?;
        match ask(&mut session, since, tables, &mut found).await {
            Err(error) if matches!(error.kind(), ErrorKind::Precondition | ErrorKind::NotFound) => {
                found.gaps.push(format!("what the server counted cannot be read: {}", error.message()));
            }
            asked => asked?,
        }
        session.close().await;
        let uptime = TimeDelta::seconds(i64::try_from(self.info().uptime_seconds).unwrap_or(i64::MAX / 1_000));
        let started = Utc::now() - uptime;
        if started > since {
            let at = started.format("%F %T UTC");
            found.gaps.push(format!("the server started at {at}: what was removed before is not counted"));
        }
        Ok(found)
    }

    /// Tells who removed things since a moment, as the application noted it; those with most removals first.
    ///
    /// # Errors
    /// `NotFound`: there is no such table. `Timeout`: it could not be read in five seconds. `Failed`: it has other columns.
    pub async fn audited_removals(&self, since: DateTime<Utc>, audit: &AuditTable) -> Result<Vec<AuditedRemoval>> {
        let mut session = self.session(Role::Read).await?;
        let sql = audit_query(self.info().flavour, since, audit);
        let rows = session.rows(sql).await;
        session.close().await;
        rows?
            .iter()
            .map(|row| {
                Ok(AuditedRemoval {
                    who: shown(row.bytes(0).unwrap_or_default()),
                    what: shown(row.bytes(1).unwrap_or_default()),
                    count: row.number(2)?.unwrap_or_default(),
                    last: moment(row, 3)?,
                })
            })
            .collect()
    }
}

async fn ask(session: &mut Session, since: DateTime<Utc>, tables: &[String], found: &mut Deletions) -> Result<()> {
    let is_on = session.row("SELECT @@global.performance_schema").await?;
    if is_on.map_or(Ok(String::new()), |row| row.text(0))? != "1" {
        found.gaps.push("`performance_schema` is off: the server keeps no count of statements".into());
        return Ok(());
    }
    let off = session
        .rows(
            "SELECT NAME FROM performance_schema.setup_consumers WHERE ENABLED = 'NO' \
             AND NAME IN ('global_instrumentation', 'thread_instrumentation', 'statements_digest') \
             UNION ALL SELECT NAME FROM performance_schema.setup_instruments WHERE ENABLED = 'NO' \
             AND NAME IN ('statement/sql/delete', 'statement/sql/truncate', 'statement/sql/drop_table')",
        )
        .await?;
    for row in &off {
        found.gaps.push(format!("`{}` of `performance_schema` is off: not every statement is counted", row.text(0)?));
    }
    let lost = "SELECT COALESCE(SUM(COUNT_STAR), 0) FROM performance_schema.events_statements_summary_by_digest \
                WHERE DIGEST IS NULL";
    let lost = session.row(lost).await?.map_or(Ok(None), |row| row.number(0))?.unwrap_or_default();
    if lost > 0 {
        found.gaps.push(format!("`performance_schema` had no room for the forms of {lost} statements"));
    }
    found.statements = statements(session, since, tables).await?;
    found.accounts = accounts(session).await?;
    Ok(())
}

async fn statements(session: &mut Session, since: DateTime<Utc>, tables: &[String]) -> Result<Vec<Deletion>> {
    let removes = REMOVES.map(|form| format!("DIGEST_TEXT LIKE '{form}'")).join(" OR ");
    let sql = format!(
        "SELECT LEFT(DIGEST_TEXT, 300), SCHEMA_NAME, COUNT_STAR, SUM_ROWS_AFFECTED, {}, {} \
         FROM performance_schema.events_statements_summary_by_digest WHERE ({removes}) \
         AND COALESCE(SCHEMA_NAME, '') NOT IN ({}) AND LAST_SEEN >= FROM_UNIXTIME({}) \
         ORDER BY LAST_SEEN DESC LIMIT {LOOKED_AT}",
        microseconds("FIRST_SEEN"),
        microseconds("LAST_SEEN"),
        quote::system_schemas(),
        since.timestamp()
    );
    let rows = session.rows(sql).await?;
    let found: Result<Vec<Deletion>> = rows
        .iter()
        .map(|row| {
            Ok(Deletion {
                text: shown(row.bytes(0).unwrap_or_default()),
                schema: row.text(1)?,
                count: row.number(2)?.unwrap_or_default(),
                rows: row.number(3)?.unwrap_or_default(),
                first: moment(row, 4)?,
                last: moment(row, 5)?,
            })
        })
        .collect();
    Ok(ranked(found?, tables))
}

/// Puts those that name one of the tables first; of the others, the latest.
fn ranked(mut found: Vec<Deletion>, tables: &[String]) -> Vec<Deletion> {
    let names = |one: &Deletion| tables.iter().any(|table| one.text.contains(&quote::ident(table)));
    found.sort_by_key(|one| (!names(one), std::cmp::Reverse(one.last)));
    found.truncate(TOLD);
    found
}

async fn accounts(session: &mut Session) -> Result<Vec<DeletingAccount>> {
    let events = EVENTS.map(|event| format!("'statement/sql/{event}'")).join(", ");
    let sql = format!(
        "SELECT USER, HOST, SUM(COUNT_STAR), SUM(SUM_ROWS_AFFECTED) \
         FROM performance_schema.events_statements_summary_by_account_by_event_name \
         WHERE EVENT_NAME IN ({events}) AND COUNT_STAR > 0 AND USER IS NOT NULL \
         GROUP BY USER, HOST ORDER BY 4 DESC, 3 DESC LIMIT {TOLD}"
    );
    let rows = session.rows(sql).await?;
    rows.iter()
        .map(|row| {
            Ok(DeletingAccount {
                account: format!("{}@{}", row.text(0)?, row.text(1)?),
                count: row.number(2)?.unwrap_or_default(),
                rows: row.number(3)?.unwrap_or_default(),
            })
        })
        .collect()
}

/// Asks the application's own table, for at most a while.
fn audit_query(flavour: Flavour, since: DateTime<Utc>, audit: &AuditTable) -> String {
    let (before, hint) = match flavour {
        Flavour::Mysql => (String::new(), format!("/*+ MAX_EXECUTION_TIME({READ_MS}) */ ")),
        Flavour::Mariadb => (format!("SET STATEMENT max_statement_time = {} FOR ", READ_MS / 1_000), String::new()),
    };
    let (time, who, what) = (quote::ident(&audit.time), quote::ident(&audit.who), quote::ident(&audit.what));
    let (schema, table) = audit.table.split_once('.').unwrap_or(("", &audit.table));
    let table = quote::qualified(schema, table);
    // `|` escapes: a backslash would be one in the text and one in the pattern.
    let holds = |word: &String| {
        let word = word.to_lowercase().replace('|', "||").replace('%', "|%").replace('_', "|_");
        format!("LOWER(CONVERT({what} USING utf8mb4)) LIKE {} ESCAPE '|'", quote::text(&format!("%{word}%")))
    };
    let words = audit.removals.iter().map(holds).collect::<Vec<_>>().join(" OR ");
    format!(
        "{before}SELECT {hint}CONVERT({who} USING utf8mb4), CONVERT({what} USING utf8mb4), COUNT(*), {} FROM {table} \
         WHERE {time} >= FROM_UNIXTIME({}) AND ({words}) GROUP BY 1, 2 ORDER BY 3 DESC LIMIT {TOLD}",
        microseconds(&format!("MAX({time})")),
        since.timestamp()
    )
}

/// An expression for a moment as microseconds since 1970.
fn microseconds(moment: &str) -> String {
    format!("CAST(UNIX_TIMESTAMP({moment}) * 1000000 AS UNSIGNED)")
}

fn moment(row: &Row, index: usize) -> Result<DateTime<Utc>> {
    let microseconds = row.number(index)?.and_then(|us| i64::try_from(us).ok());
    Ok(microseconds.and_then(DateTime::from_timestamp_micros).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_on_the_tables_that_lack_rows_come_first() {
        let at = |seconds: i64| DateTime::from_timestamp(seconds, 0).unwrap();
        let one = |text: &str, seconds| Deletion {
            text: text.into(),
            schema: "shop".into(),
            count: 1,
            rows: 9,
            first: at(seconds),
            last: at(seconds),
        };
        let found = vec![
            one("DELETE FROM `sessions` WHERE `id` = ?", 9),
            one("DELETE FROM `shop` . `orders` WHERE `id` > ?", 3),
            one("TRUNCATE `orders`", 5),
            one("DELETE FROM `orders_old`", 8),
        ];
        let order: Vec<_> = ranked(found, &["orders".into()]).iter().map(|one| one.last.timestamp()).collect();
        assert_eq!(order, [5, 3, 9, 8]);
    }

    #[test]
    fn the_applications_table_is_asked_within_a_limit_and_names_and_words_are_quoted() {
        let audit = AuditTable {
            table: "shop.audit`log".into(),
            time: "at".into(),
            who: "by".into(),
            what: "what".into(),
            removals: vec!["De_'lete".into()],
        };
        let sql = audit_query(Flavour::Mysql, DateTime::from_timestamp(7, 0).unwrap(), &audit);
        assert!(sql.contains("MAX_EXECUTION_TIME(5000)"), "{sql}");
        assert!(sql.contains("FROM `shop`.`audit``log`") && sql.contains("FROM_UNIXTIME(7)"), "{sql}");
        assert!(sql.contains("LIKE '%de|_''lete%' ESCAPE '|'"), "{sql}");
        let sql = audit_query(Flavour::Mariadb, DateTime::from_timestamp(7, 0).unwrap(), &audit);
        assert!(sql.starts_with("SET STATEMENT max_statement_time = 5 FOR SELECT "), "{sql}");
    }
}
