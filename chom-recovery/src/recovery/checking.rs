//! Checking the tables of the running database.

use std::time::Duration;

use super::Recovery;
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::CheckReport,
    probe::mysql::Session,
};

impl Recovery {
    /// Runs `CHECK TABLE` over all tables of the running database, several at once, for at most `within`; `None` takes
    /// `limits.check_table_cap`. What was not reached is named in the report, and is not healthy for that. Changes nothing.
    ///
    /// # Errors
    /// `Unreachable`: the database does not answer. Bad tables are a result.
    pub async fn check_tables(&self, within: Option<Duration>) -> Result<CheckReport> {
        let session = Session::open(&self.system.database, &self.backend).await.map_err(|health| {
            Error::new(ErrorKind::Unreachable, health.summary)
                .hint("`chom-recovery diagnose` says what is wrong with it")
        })?;
        session.server.check_tables(within.unwrap_or(self.system.limits.check_table_cap)).await
    }
}
