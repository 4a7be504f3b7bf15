//! Whether the tables still hold the rows of the newest backup, or about so many.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{Catalog, ComponentKind, Selector, TableBaseline};
use crate::{
    backend::Backend,
    error::Result,
    mysql::Server,
    probe::{
        Class, Health, HealthProbe,
        mysql::{Session, failure},
        net,
    },
    system::{AuditTable, Database},
};

/// Tables up to this size are counted; of larger ones the server's own estimate is taken.
const COUNTED: u64 = 64 << 20;
/// Fewer missing rows than this are everyday work.
const FEW: u64 = 10;
/// Names and ends of names of tables that are emptied by design.
const VOLATILE: &[&str] =
    &["jobs", "job_batches", "sessions", "cache", "cache_locks", "tokens", "resets", "heartbeats", "locks"];

/// Beginnings of the names of facts that tell what removed rows: statements, accounts, the application's own notes.
pub(crate) const REMOVED: [&str; 3] = ["removed_by_statement.", "removed_by_account.", "removed_by_user."];
/// Name of the fact that says what could not be told of that.
pub(crate) const REMOVAL_UNKNOWN: &str = "removal_unknown";

/// What the newest backup says of its rows.
#[derive(Debug, Clone)]
pub struct BackedUpRows {
    /// The backup.
    pub backup: String,
    /// Time of its data.
    pub point: DateTime<Utc>,
    /// Its tables.
    pub tables: Vec<TableBaseline>,
}

impl BackedUpRows {
    /// Reads them from the newest logical backup: who copies data files counts no rows.
    ///
    /// # Errors
    /// `NotFound`: there is no backup. `Precondition`: it is sealed, and there is no identity to read it with.
    pub async fn of_newest(catalog: &Catalog) -> Result<Self> {
        let catalog = catalog.clone().of_kind(ComponentKind::Logical);
        let newest = catalog.select(&Selector::Latest).await?;
        let reader = catalog.open(&newest.place).await?;
        let tables = reader.private().await?.baselines.tables.clone();
        Ok(Self { backup: newest.id().to_string(), point: newest.point, tables })
    }
}

/// Compares the number of rows of each table with a backup's, and asks who removed those that are missing.
#[derive(Debug)]
pub struct RowsProbe {
    database: Database,
    backend: Arc<dyn Backend>,
    backed_up: BackedUpRows,
    audit: Option<AuditTable>,
}

impl RowsProbe {
    /// Makes the probe `mysql-rows`.
    pub fn new(database: Database, backend: Arc<dyn Backend>, backed_up: BackedUpRows) -> Self {
        Self { database, backend, backed_up, audit: None }
    }

    /// Asks the application's own notes too, where rows are missing.
    #[must_use]
    pub fn audited_by(mut self, audit: Option<AuditTable>) -> Self {
        self.audit = audit;
        self
    }

    async fn ask(&self) -> std::result::Result<Health, Health> {
        let session = Session::open(&self.database, &self.backend).await?;
        let sizes = session.server.sizes().await.map_err(|e| failure(&e))?;
        let sizes: BTreeMap<_, _> = sizes.into_iter().map(|t| ((t.schema.clone(), t.table.clone()), t)).collect();
        let (mut exact, mut found) = (Vec::new(), Vec::new());
        for table in self.backed_up.tables.iter().filter(|t| t.rows >= FEW && !is_volatile(&t.table)) {
            let key = (table.schema.clone(), table.table.clone());
            match sizes.get(&key) {
                // That a table is gone is another probe's affair.
                None => {}
                Some(size) if size.bytes <= COUNTED => exact.push((key, table.rows)),
                // Estimates may be off by half.
                Some(size) => found.push((key, table.rows, size.rows.saturating_mul(2))),
            }
        }
        let names: Vec<_> = exact.iter().map(|(key, _)| key.clone()).collect();
        let counts = session.server.count_rows(&names).await.map_err(|e| failure(&e))?;
        found.extend(exact.into_iter().zip(counts).map(|((key, rows), now)| (key, rows, now)));
        let found: Vec<_> =
            found.into_iter().map(|((schema, table), rows, now)| (format!("{schema}.{table}"), rows, now)).collect();
        let lost = lost(&found);
        let health = judge(&self.backed_up.backup, found.len(), &lost);
        Ok(if lost.is_empty() { health } else { self.with_removals(health, &session.server, &lost).await })
    }

    /// Adds what is known of who removed rows since the backup. What cannot be told is said.
    async fn with_removals(&self, mut health: Health, server: &Server, lost: &[Lost]) -> Health {
        let tables: Vec<String> =
            lost.iter().map(|one| one.table.split_once('.').map_or("", |(_, table)| table).to_owned()).collect();
        let since = self.backed_up.point;
        let [statement, account, user] = REMOVED;
        let mut unknown = Vec::new();
        match server.deletions(since, &tables).await {
            Ok(found) => {
                unknown.extend(found.gaps);
                for (i, one) in found.statements.iter().enumerate() {
                    let (count, rows, last) = (one.count, one.rows, one.last.format("%F %T UTC"));
                    let text = format!("{}: ran {count} times, removed {rows} rows, last at {last}", one.text);
                    health = health.fact(format!("{statement}{i}"), text);
                }
                for (i, one) in found.accounts.iter().enumerate() {
                    let text = format!(
                        "account {}: {} statements that remove, {} rows of all tables, since the server started",
                        one.account, one.count, one.rows
                    );
                    health = health.fact(format!("{account}{i}"), text);
                }
            }
            Err(error) => unknown.push(format!("what the server counted cannot be read: {error}")),
        }
        if let Some(audit) = &self.audit {
            match server.audited_removals(since, audit).await {
                Ok(found) if found.is_empty() => {
                    unknown.push(format!("`{}` notes no removal since the backup", audit.table));
                }
                Ok(found) => {
                    for (i, one) in found.iter().enumerate() {
                        let who = if one.who.is_empty() { "nobody that was noted" } else { &one.who };
                        let last = one.last.format("%F %T UTC");
                        let text =
                            format!("{who}: {} {} times, last at {last} (`{}`)", one.what, one.count, audit.table);
                        health = health.fact(format!("{user}{i}"), text);
                    }
                }
                Err(error) => unknown.push(format!("`{}` cannot be read: {error}", audit.table)),
            }
        }
        if unknown.is_empty() { health } else { health.fact(REMOVAL_UNKNOWN, unknown.join("; ")) }
    }
}

#[async_trait]
impl HealthProbe for RowsProbe {
    fn name(&self) -> &'static str {
        "mysql-rows"
    }

    async fn check(&self) -> Health {
        net::bounded(net::WHOLE, async { self.ask().await.unwrap_or_else(|failure| failure) })
            .await
            .fact("service", &self.database.service)
    }
}

fn is_volatile(table: &str) -> bool {
    VOLATILE.iter().any(|name| table == *name || table.ends_with(&format!("_{name}")))
}

/// A table that lacks rows.
#[derive(Debug)]
struct Lost {
    /// `schema.table`.
    table: String,
    /// Rows in the backup.
    rows: u64,
    missing: u64,
}

/// Finds the tables that lack rows; each is given as name, rows in the backup, rows now.
fn lost(tables: &[(String, u64, u64)]) -> Vec<Lost> {
    tables
        .iter()
        .map(|(table, rows, now)| Lost { table: table.clone(), rows: *rows, missing: rows.saturating_sub(*now) })
        .filter(|one| one.missing >= FEW && one.missing >= one.rows / 10)
        .collect()
}

fn judge(backup: &str, tables: usize, lost: &[Lost]) -> Health {
    let health = if lost.is_empty() {
        Health::healthy(format!("{tables} tables hold about the rows of backup {backup}, or more")).class(Class::Ok)
    } else {
        let some: Vec<_> =
            lost.iter().take(4).map(|one| format!("{} lacks {} of {}", one.table, one.missing, one.rows)).collect();
        Health::degraded(format!("rows of backup {backup} are gone: {}", some.join(", "))).class(Class::RowsMissing)
    };
    let health = health.fact("backup", backup).fact("tables", tables);
    lost.iter().take(20).fold(health, |health, one| {
        health.fact(format!("missing.{}", one.table), format!("{} of {}", one.missing, one.rows))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_missing_rows_are_told_and_few_are_everyday_work() {
        for (rows, now, class) in [
            (300, 150, Class::RowsMissing),
            (300, 0, Class::RowsMissing),
            (300, 295, Class::Ok),
            (300, 900, Class::Ok),
            (12, 3, Class::Ok),
            (1_000_000, 950_000, Class::Ok),
            (1_000_000, 890_000, Class::RowsMissing),
        ] {
            let health = judge("B", 1, &lost(&[("shop.orders".into(), rows, now)]));
            assert_eq!(health.class_of(), Some(class), "{rows} {now}");
        }
    }

    #[test]
    fn tables_that_are_emptied_by_design_are_left_out() {
        for (table, wanted) in
            [("jobs", true), ("failed_jobs", true), ("api_tokens", true), ("password_resets", true), ("orders", false)]
        {
            assert_eq!(is_volatile(table), wanted, "{table}");
        }
    }
}
