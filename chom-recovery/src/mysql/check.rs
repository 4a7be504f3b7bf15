//! `CHECK TABLE` within a time cap, on several connections.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    quote,
    server::Server,
    session::{Role, Row, Session, lossy},
};
use crate::error::{ErrorKind, Result};

/// Tables that are checked at once. More would take the server from its users: InnoDB reads a single table with several
/// threads already.
const CONNECTIONS: usize = 4;

/// How often it is asked whether the server still runs, and how long it has for an answer.
const LOOK: Duration = Duration::from_secs(5);
/// Looks in a row that did not find it, after which it is gone.
const MISSES: u32 = 3;

/// A table that the server found fault with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableProblem {
    /// `schema.table`.
    pub table: String,
    /// What the server said.
    pub message: String,
}

/// Outcome of [`Server::check_tables`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Tables found good.
    pub good: usize,
    /// Tables found bad.
    pub corrupt: Vec<TableProblem>,
    /// Tables for which no time was left, or which cannot be checked.
    pub unchecked: Vec<String>,
    /// Seconds it took.
    pub seconds: f64,
}

impl CheckReport {
    /// Tells whether every table was checked and is good.
    pub fn is_good(&self) -> bool {
        self.corrupt.is_empty() && self.unchecked.is_empty()
    }
}

impl Server {
    /// Counts the rows of tables, one after the other; a table that is gone has none.
    pub async fn count_rows(&self, tables: &[(String, String)]) -> Result<Vec<u64>> {
        let mut session = self.session(Role::Read).await?;
        let mut counts = Vec::with_capacity(tables.len());
        for (schema, table) in tables {
            let row = match session.row(format!("SELECT COUNT(*) FROM {}", quote::qualified(schema, table))).await {
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                row => row?,
            };
            counts.push(row.map_or(Ok(None), |row| row.number(0))?.unwrap_or_default());
        }
        session.close().await;
        Ok(counts)
    }

    /// Runs `CHECK TABLE` over all tables that are not the server's own, several at once, for at most `cap`.
    ///
    /// Half of the connections begin with the largest table, since one of them left for the end would be waited for
    /// alone; the others begin with the smallest, so that few large ones do not use all of the time up. What was not
    /// reached is named, and never called good. A statement that runs when the cap is reached is killed on the server.
    ///
    /// InnoDB may stop the whole server when it meets a damaged page. Then the tables that were being checked are checked
    /// again one by one, if the server comes back in time, to find the one; if it does not, all of them are reported as
    /// bad. The rest is unchecked.
    ///
    /// # Errors
    /// Only when it could not begin; bad tables are a result.
    pub async fn check_tables(&self, cap: Duration) -> Result<CheckReport> {
        let begun = Instant::now();
        let end = begun + cap;
        let tables = self.sizes().await?.into_iter().map(|t| (t.schema, t.table)).collect::<VecDeque<_>>();
        let connections = tables.len().clamp(1, CONNECTIONS);
        let waiting = Mutex::new(tables);
        let workers = (0..connections).map(|i| self.check_until(&waiting, i % 2 == 0, end));
        let mut report = CheckReport::default();
        let (mut suspects, mut refused, mut began) = (Vec::new(), None, false);
        for worker in join_all(workers).await {
            match worker {
                Ok(verdicts) => {
                    began = true;
                    for (table, verdict) in verdicts {
                        match verdict {
                            Verdict::Lost(message) => suspects.push((table, message)),
                            other => report.add(&table, other),
                        }
                    }
                }
                Err(error) => refused = Some(error),
            }
        }
        // A server that is short of connections is checked on fewer.
        if let (false, Some(error)) = (began, refused) {
            return Err(error);
        }
        self.tell_suspects(suspects, end, &mut report).await;
        let left = std::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner));
        report.unchecked.extend(left.iter().map(name));
        report.unchecked.sort();
        report.corrupt.sort_by(|a, b| a.table.cmp(&b.table));
        report.seconds = begun.elapsed().as_secs_f64();
        Ok(report)
    }

    /// Checks one table after the other, until none waits, the time is over or the server is gone.
    async fn check_until(
        &self,
        waiting: &Mutex<VecDeque<Table>>,
        from_largest: bool,
        end: Instant,
    ) -> Result<Vec<(Table, Verdict)>> {
        let mut session = self.session(Role::Read).await?;
        let mut verdicts = Vec::new();
        while Instant::now() < end {
            let next = {
                let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if from_largest { waiting.pop_front() } else { waiting.pop_back() }
            };
            let Some(table) = next else { break };
            let verdict = self.check_one(&mut session, &table, end).await?;
            let ends = matches!(verdict, Verdict::Lost(_) | Verdict::OutOfTime);
            verdicts.push((table, verdict));
            if ends {
                return Ok(verdicts);
            }
        }
        session.close().await;
        Ok(verdicts)
    }

    async fn check_one(&self, session: &mut Session, (schema, table): &Table, end: Instant) -> Result<Verdict> {
        let sql = format!("CHECK TABLE {}", quote::qualified(schema, table));
        let id = session.id();
        let answer = tokio::select! {
            answer = timeout_at(end, session.rows(sql)) => answer,
            () = self.until_gone(id) => {
                return Ok(Verdict::Lost("the server ended while it checked the table".into()));
            }
        };
        match answer {
            Ok(Ok(rows)) => judge(&rows),
            Ok(Err(error)) if error.kind() == ErrorKind::Unreachable => Ok(Verdict::Lost(format!(
                "the server closed the connection while it checked the table: {}",
                error.message()
            ))),
            Ok(Err(error)) => Ok(Verdict::Bad(error.message().to_owned())),
            Err(_) => {
                // Dropping the session would first read the rest of its answer.
                self.kill(&[session.id()]).await;
                Ok(Verdict::OutOfTime)
            }
        }
    }

    /// Waits until the server that runs a connection's statement is gone. A container takes its address along when it ends, so
    /// that nobody is left to say so on the connection itself.
    async fn until_gone(&self, id: u32) {
        let mut misses = 0;
        while misses < MISSES {
            sleep(LOOK).await;
            let gone = match timeout(LOOK, self.runs(id)).await {
                // Where it does not run, another server answers, or the answer is under way.
                Ok(Ok(runs)) => !runs,
                Ok(Err(error)) => error.kind() == ErrorKind::Unreachable,
                Err(_) => true,
            };
            misses = if gone { misses + 1 } else { 0 };
        }
    }

    /// Tells whether a connection is running a check.
    async fn runs(&self, id: u32) -> Result<bool> {
        let mut session = self.session(Role::Read).await?;
        let mut runs = false;
        for row in session.rows("SHOW PROCESSLIST").await? {
            let is_check = row.bytes(7).is_some_and(|info| info.starts_with(b"CHECK"));
            runs |= is_check && row.number(0)? == Some(u64::from(id));
        }
        session.close().await;
        Ok(runs)
    }

    /// Finds out at which of the tables that were being checked the server ended.
    async fn tell_suspects(&self, suspects: Vec<(Table, String)>, end: Instant, report: &mut CheckReport) {
        let mut suspects = suspects.into_iter();
        if suspects.len() > 1 {
            for (table, message) in suspects.by_ref() {
                let alone = async {
                    let left = end.saturating_duration_since(Instant::now());
                    let server = Self::connect(self.login().clone(), left).await?;
                    let mut session = server.session(Role::Read).await?;
                    server.check_one(&mut session, &table, end).await
                };
                match alone.await {
                    Ok(Verdict::Lost(message)) => {
                        report.add(&table, Verdict::Bad(message));
                        // The others ended with it.
                        break;
                    }
                    Ok(Verdict::OutOfTime) | Err(_) => report.add(&table, Verdict::Bad(message)),
                    Ok(verdict) => report.add(&table, verdict),
                }
            }
            report.unchecked.extend(suspects.map(|(table, _)| name(&table)));
        } else {
            for (table, message) in suspects {
                report.add(&table, Verdict::Bad(message));
            }
        }
    }
}

/// Schema and table.
type Table = (String, String);

fn name((schema, table): &Table) -> String {
    format!("{schema}.{table}")
}

/// What became of the check of a table.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    Bad(String),
    /// The engine cannot check it.
    Uncheckable,
    OutOfTime,
    /// The server was gone before it answered.
    Lost(String),
}

impl CheckReport {
    fn add(&mut self, table: &Table, verdict: Verdict) {
        let table = name(table);
        match verdict {
            Verdict::Good => self.good += 1,
            Verdict::Bad(message) | Verdict::Lost(message) => self.corrupt.push(TableProblem { table, message }),
            Verdict::Uncheckable | Verdict::OutOfTime => self.unchecked.push(table),
        }
    }
}

/// Reads the answer: any number of remarks, and a status.
fn judge(rows: &[Row]) -> Result<Verdict> {
    let (mut problem, mut status, mut uncheckable) = (None, false, false);
    for row in rows {
        let (kind, text) = (row.text(2)?, row.bytes(3).map(lossy).unwrap_or_default());
        match kind.to_ascii_lowercase().as_str() {
            "status" => status = text == "OK" || text.starts_with("Table is already up to date"),
            "note" | "info" if text.contains("doesn't support check") => uncheckable = true,
            "note" | "info" => {}
            _ => problem = Some(text),
        }
    }
    Ok(match problem {
        Some(problem) => Verdict::Bad(problem),
        None if uncheckable => Verdict::Uncheckable,
        None if status => Verdict::Good,
        None => Verdict::Bad("the server gave no verdict".into()),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn answer(lines: &[(&str, &str)]) -> Vec<Row> {
        let names: Arc<[String]> = ["Table", "Op", "Msg_type", "Msg_text"].map(str::to_owned).into();
        let cell = |text: &str| Some(text.as_bytes().to_vec());
        let row =
            |(kind, text): &(&str, &str)| Row::new(&names, vec![cell("a.b"), cell("check"), cell(kind), cell(text)]);
        lines.iter().map(row).collect()
    }

    #[test]
    fn only_a_status_without_a_problem_is_good() {
        assert_eq!(judge(&answer(&[("status", "OK")])).unwrap(), Verdict::Good);
        let bad = judge(&answer(&[("Warning", "Index x is corrupted"), ("status", "OK")])).unwrap();
        assert_eq!(bad, Verdict::Bad("Index x is corrupted".into()));
        let engine = "The storage engine for the table doesn't support check";
        assert_eq!(judge(&answer(&[("note", engine)])).unwrap(), Verdict::Uncheckable);
        assert!(matches!(judge(&[]).unwrap(), Verdict::Bad(_)));
    }
}
