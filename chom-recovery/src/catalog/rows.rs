//! Whether the tables still hold the rows of the newest backup, or about so many.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;

use super::{Catalog, Selector, TableBaseline};
use crate::{
    backend::Backend,
    error::Result,
    probe::{
        Class, Health, HealthProbe,
        mysql::{Session, failure},
        net,
    },
    system::Database,
};

/// Tables up to this size are counted; of larger ones the server's own estimate is taken.
const COUNTED: u64 = 64 << 20;
/// Fewer missing rows than this are everyday work.
const FEW: u64 = 10;
/// Names and ends of names of tables that are emptied by design.
const VOLATILE: &[&str] =
    &["jobs", "job_batches", "sessions", "cache", "cache_locks", "tokens", "resets", "heartbeats", "locks"];

/// What the newest backup says of its rows.
#[derive(Debug, Clone)]
pub struct BackedUpRows {
    /// The backup.
    pub backup: String,
    /// Its tables.
    pub tables: Vec<TableBaseline>,
}

impl BackedUpRows {
    /// Reads them from the newest backup.
    ///
    /// # Errors
    /// `NotFound`: there is no backup. `Precondition`: it is sealed, and there is no identity to read it with.
    pub async fn of_newest(catalog: &Catalog) -> Result<Self> {
        let newest = catalog.select(&Selector::Latest).await?;
        let reader = catalog.open(&newest.place).await?;
        let tables = reader.private().await?.baselines.tables.clone();
        Ok(Self { backup: newest.id().to_string(), tables })
    }
}

/// Compares the number of rows of each table with a backup's.
#[derive(Debug)]
pub struct RowsProbe {
    database: Database,
    backend: Arc<dyn Backend>,
    backed_up: BackedUpRows,
}

impl RowsProbe {
    /// Makes the probe `mysql-rows`.
    pub fn new(database: Database, backend: Arc<dyn Backend>, backed_up: BackedUpRows) -> Self {
        Self { database, backend, backed_up }
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
        Ok(judge(&self.backed_up.backup, &found))
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

/// Judges tables: name, rows in the backup, rows now.
fn judge(backup: &str, tables: &[(String, u64, u64)]) -> Health {
    let lost: Vec<_> = tables
        .iter()
        .map(|(name, rows, now)| (name, rows, rows.saturating_sub(*now)))
        .filter(|(_, rows, missing)| *missing >= FEW && *missing >= **rows / 10)
        .collect();
    let health = if lost.is_empty() {
        Health::healthy(format!("{} tables hold about the rows of backup {backup}, or more", tables.len()))
            .class(Class::Ok)
    } else {
        let some: Vec<_> =
            lost.iter().take(4).map(|(name, rows, missing)| format!("{name} lacks {missing} of {rows}")).collect();
        Health::degraded(format!("rows of backup {backup} are gone: {}", some.join(", "))).class(Class::RowsMissing)
    };
    let health = health.fact("backup", backup).fact("tables", tables.len());
    lost.iter().take(20).fold(health, |health, (name, rows, missing)| {
        health.fact(format!("missing.{name}"), format!("{missing} of {rows}"))
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
            let health = judge("B", &[("shop.orders".into(), rows, now)]);
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
