//! `CHECK TABLE` within a time cap.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    quote,
    server::Server,
    session::{Role, lossy},
};
use crate::error::{ErrorKind, Result};

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

    /// Runs `CHECK TABLE` over all tables that are not the server's own, small ones first, for at most `cap`.
    ///
    /// A statement that runs when the cap is reached is killed on the server. InnoDB may stop the whole server when
    /// it meets a damaged page: that table is then reported as bad and the rest as unchecked.
    ///
    /// # Errors
    /// Only when it could not begin; bad tables are a result.
    pub async fn check_tables(&self, cap: Duration) -> Result<CheckReport> {
        let begun = tokio::time::Instant::now();
        let end = begun + cap;
        let mut tables = self.sizes().await?;
        tables.reverse();
        let mut session = self.session(Role::Read).await?;
        let mut report = CheckReport::default();
        let mut waiting = tables.into_iter();
        for table in waiting.by_ref() {
            let name = format!("{}.{}", table.schema, table.table);
            let sql = format!("CHECK TABLE {}", quote::qualified(&table.schema, &table.table));
            let rows = match tokio::time::timeout_at(end, session.rows(sql)).await {
                Ok(Ok(rows)) => rows,
                Ok(Err(error)) => {
                    let lost = error.kind() == ErrorKind::Unreachable;
                    let message = if lost {
                        format!("the server closed the connection while it checked the table: {}", error.message())
                    } else {
                        error.message().to_owned()
                    };
                    report.corrupt.push(TableProblem { table: name, message });
                    if lost {
                        break;
                    }
                    continue;
                }
                Err(_) => {
                    // Dropping the session would first read the rest of its answer.
                    self.kill(&[session.id()]).await;
                    report.unchecked.push(name);
                    break;
                }
            };
            let mut problem = None;
            let mut status = false;
            for row in &rows {
                let (kind, text) = (row.text(2)?, row.bytes(3).map(lossy).unwrap_or_default());
                match kind.to_ascii_lowercase().as_str() {
                    "status" => status = text == "OK" || text.starts_with("Table is already up to date"),
                    "note" | "info" if text.contains("doesn't support check") => {
                        report.unchecked.push(name.clone());
                        status = true;
                    }
                    "note" | "info" => {}
                    _ => problem = Some(text),
                }
            }
            if !status || problem.is_some() {
                let message = problem.unwrap_or_else(|| "the server gave no verdict".into());
                report.corrupt.push(TableProblem { table: name, message });
            } else if report.unchecked.last() != Some(&name) {
                report.good += 1;
            }
        }
        report.unchecked.extend(waiting.map(|t| format!("{}.{}", t.schema, t.table)));
        report.seconds = begun.elapsed().as_secs_f64();
        Ok(report)
    }
}
