//! Statements that wait for locks.

use super::{Server, session::Role};
use crate::error::Result;

/// A statement that waits for a lock of InnoDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockWait {
    /// Its connection.
    pub connection: u64,
    /// How long it has waited, in seconds.
    pub seconds: u64,
    /// Its text, at most 200 characters; it may hold data of users.
    pub statement: String,
}

impl Server {
    /// Lists the statements that wait for a lock of InnoDB, the longest first.
    ///
    /// # Errors
    /// `Denied`: the account has no `PROCESS` privilege. Those of [`Server::connect`].
    pub async fn lock_waits(&self) -> Result<Vec<LockWait>> {
        let mut session = self.session(Role::Read).await?;
        let rows = session
            .rows(
                "SELECT trx_mysql_thread_id, GREATEST(TIMESTAMPDIFF(SECOND, trx_wait_started, NOW()), 0), \
                 COALESCE(LEFT(trx_query, 200), '') FROM information_schema.INNODB_TRX \
                 WHERE trx_state = 'LOCK WAIT' AND trx_wait_started IS NOT NULL ORDER BY 2 DESC LIMIT 50"
                    .to_owned(),
            )
            .await?;
        session.close().await;
        rows.iter()
            .map(|row| {
                Ok(LockWait {
                    connection: row.number(0)?.unwrap_or_default(),
                    seconds: row.number(1)?.unwrap_or_default(),
                    statement: row.text(2)?,
                })
            })
            .collect()
    }
}
