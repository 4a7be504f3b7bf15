//! Schemas of the run's own that are still there: what production had before, and what a rollback took out.

use super::is_own;
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{quote, server::Server, session::Role},
};

/// A schema that a restore of single tables left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnSchema {
    /// Its name.
    pub(crate) schema: String,
    /// Id of the run that made it, as runs are named.
    pub(crate) run: String,
    /// Tables in it.
    pub(crate) tables: u64,
    /// Bytes of them, as the server estimates.
    pub(crate) bytes: u64,
}

impl Server {
    /// Lists the schemas that restores of single tables left, whoever made them.
    pub(crate) async fn own_schemas(&self) -> Result<Vec<OwnSchema>> {
        let mut session = self.session(Role::Read).await?;
        let rows = session
            .rows(
                "SELECT s.SCHEMA_NAME, COUNT(t.TABLE_NAME), \
                 CAST(COALESCE(SUM(COALESCE(t.DATA_LENGTH, 0) + COALESCE(t.INDEX_LENGTH, 0)), 0) AS UNSIGNED) \
                 FROM information_schema.SCHEMATA s LEFT JOIN information_schema.TABLES t ON t.TABLE_SCHEMA = s.SCHEMA_NAME \
                 WHERE s.SCHEMA_NAME LIKE 'chom\\_%' GROUP BY s.SCHEMA_NAME ORDER BY s.SCHEMA_NAME",
            )
            .await?;
        session.close().await;
        let mut found = Vec::new();
        for row in rows {
            let schema = row.text(0)?;
            if let Some(run) = run_of(&schema) {
                let (tables, bytes) = (row.number(1)?.unwrap_or_default(), row.number(2)?.unwrap_or_default());
                found.push(OwnSchema { schema, run, tables, bytes });
            }
        }
        Ok(found)
    }

    /// Drops a schema that a restore of single tables left, on replicas as well.
    ///
    /// # Errors
    /// `InvalidInput`: it is not such a schema. `Locked`: somebody uses one of its tables.
    pub(crate) async fn drop_own_schema(&self, schema: &str) -> Result<()> {
        if !is_own(schema) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("schema `{schema}` is no run's own")));
        }
        let mut session = self.session(Role::Restore).await?;
        session.run(format!("DROP DATABASE IF EXISTS {}", quote::ident(schema))).await?;
        session.close().await;
        Ok(())
    }
}

/// Reads the id of a run from the name of a schema of its own.
fn run_of(schema: &str) -> Option<String> {
    let rest = super::OWN.iter().find_map(|prefix| schema.strip_prefix(prefix))?;
    is_own(schema).then(|| rest[..26].to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_tells_the_run_that_made_it() {
        let run = Some("01JDQ0000000000000000000AB".to_owned());
        assert_eq!(run_of("chom_kept_01jdq0000000000000000000ab"), run);
        assert_eq!(run_of("chom_undone_01jdq0000000000000000000ab_2"), run);
        assert_eq!(run_of("chom_kept_orders"), None);
    }
}
