//! Rows that refer to rows which are not there.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ForeignKey, Placed, TableName};
use crate::{
    error::Result,
    mysql::{quote, server::Server, session::Role},
};

/// Rows of one foreign key whose parents are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphans {
    /// Table that has the key.
    pub table: TableName,
    /// Name of the key.
    pub key: String,
    /// Table that it refers to.
    pub parent: TableName,
    /// Rows without a parent; `None`: they could not be counted in time.
    pub rows: Option<u64>,
}

impl Server {
    /// Counts the rows without a parent among the tables of a run and those that refer to them, for at most `cap` in all.
    /// Keys without any are left out.
    pub async fn count_orphans(&self, places: &[Placed], cap: Duration) -> Result<Vec<Orphans>> {
        let end = tokio::time::Instant::now() + cap;
        let mut session = self.session(Role::Read).await?;
        let mut keys: Vec<(&TableName, &ForeignKey)> = Vec::new();
        for place in places {
            keys.extend(place.keys.iter().map(|key| (&place.target, key)));
            keys.extend(place.children.iter().map(|child| (&child.table, &child.key)));
        }
        let mut found = Vec::new();
        for (table, key) in keys {
            let rows = match tokio::time::timeout_at(end, session.row(count(table, key))).await {
                Ok(Ok(row)) => row.map_or(Ok(None), |row| row.number(0))?,
                // A table that cannot be read is for other checks to judge.
                Ok(Err(_)) => None,
                Err(_) => {
                    self.kill(&[session.id()]).await;
                    session = self.session(Role::Read).await?;
                    None
                }
            };
            if rows != Some(0) {
                found.push(Orphans { table: table.clone(), key: key.name.clone(), parent: key.parent.clone(), rows });
            }
        }
        session.close().await;
        Ok(found)
    }
}

fn count(table: &TableName, key: &ForeignKey) -> String {
    let pairs = || key.columns.iter().zip(&key.parent_columns);
    let same: Vec<_> = pairs().map(|(c, p)| format!("c.{} = p.{}", quote::ident(c), quote::ident(p))).collect();
    let known: Vec<_> = key.columns.iter().map(|c| format!("c.{} IS NOT NULL", quote::ident(c))).collect();
    format!(
        "SELECT COUNT(*) FROM {} c WHERE {} AND NOT EXISTS (SELECT 1 FROM {} p WHERE {})",
        table.quoted(),
        known.join(" AND "),
        key.parent.quoted(),
        same.join(" AND ")
    )
}
