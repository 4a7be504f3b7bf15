//! Schemas on the running database in which restores of single tables keep what production had.

use serde::{Deserialize, Serialize};

use super::Recovery;
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::tables::OwnSchema,
    probe::mysql::Session,
    procedure::tables::PROCEDURE,
    run::{RunId, summary::RunSummary},
};

/// A schema of a finished run: what production had before it, or what its rollback took out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftoverSchema {
    /// Its name.
    pub schema: String,
    /// Run that made it.
    pub run: RunId,
    /// Tables in it.
    pub tables: u64,
    /// Bytes of them, as the server estimates.
    pub bytes: u64,
}

impl Recovery {
    /// Lists the schemas that restores of single tables left; the database is asked only where one of `known` ran.
    ///
    /// # Errors
    /// `Unreachable`: the database does not answer.
    pub(super) async fn own_schemas(&self, known: &[RunSummary]) -> Result<Vec<OwnSchema>> {
        if !known.iter().any(|run| run.procedure == PROCEDURE) {
            return Ok(Vec::new());
        }
        self.with_database().await?.server.own_schemas().await
    }

    /// Drops a schema that a restore of single tables left.
    pub(super) async fn drop_own_schema(&self, schema: &str) -> Result<()> {
        self.with_database().await?.server.drop_own_schema(schema).await
    }

    async fn with_database(&self) -> Result<Session> {
        Session::open(&self.system.database, &self.backend)
            .await
            .map_err(|health| Error::new(ErrorKind::Unreachable, health.summary))
    }
}
