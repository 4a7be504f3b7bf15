//! Who waits for whom.

use serde::{Deserialize, Serialize};

use super::Busy;
use crate::{
    error::{ErrorKind, Result},
    mysql::{
        info::Flavour,
        session::{Row, Session},
    },
};

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lock {
    /// Rows.
    Rows,
    /// The definition of a table: DDL waits for statements and transactions, and everybody behind it for DDL.
    Metadata,
}

/// A connection that waits for another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockWait {
    /// Connection that waits.
    pub waiting: u64,
    /// Connection that holds the lock; `None`: the server does not tell.
    pub blocking: Option<u64>,
    /// How long, in seconds.
    pub seconds: u64,
    /// What is waited for.
    pub lock: Lock,
    /// Table, as the server names it; empty: it does not tell.
    pub object: String,
}

const SINCE: &str = "GREATEST(0, COALESCE(TIMESTAMPDIFF(SECOND, r.trx_wait_started, \
                     CONVERT_TZ(UTC_TIMESTAMP(), '+00:00', 'SYSTEM')), 0))";

/// Lists waits for rows and for definitions of tables.
pub(super) async fn waits(session: &mut Session, flavour: Flavour, sessions: &[Busy]) -> Result<Vec<LockWait>> {
    let rows = match flavour {
        Flavour::Mysql => format!(
            "SELECT DISTINCT r.trx_mysql_thread_id, b.trx_mysql_thread_id, {SINCE}, \
             CONCAT(l.OBJECT_SCHEMA, '.', l.OBJECT_NAME) FROM performance_schema.data_lock_waits w \
             JOIN information_schema.INNODB_TRX r ON r.trx_id = w.REQUESTING_ENGINE_TRANSACTION_ID \
             JOIN information_schema.INNODB_TRX b ON b.trx_id = w.BLOCKING_ENGINE_TRANSACTION_ID \
             LEFT JOIN performance_schema.data_locks l ON l.ENGINE_LOCK_ID = w.REQUESTING_ENGINE_LOCK_ID LIMIT 500"
        ),
        Flavour::Mariadb => format!(
            "SELECT DISTINCT r.trx_mysql_thread_id, b.trx_mysql_thread_id, {SINCE}, l.lock_table \
             FROM information_schema.INNODB_LOCK_WAITS w \
             JOIN information_schema.INNODB_TRX r ON r.trx_id = w.requesting_trx_id \
             JOIN information_schema.INNODB_TRX b ON b.trx_id = w.blocking_trx_id \
             LEFT JOIN information_schema.INNODB_LOCKS l ON l.lock_id = w.requested_lock_id LIMIT 500"
        ),
    };
    let mut found: Vec<LockWait> =
        session.rows(rows).await?.iter().map(|row| wait_of(row, Lock::Rows)).collect::<Result<_>>()?;
    found.extend(metadata(session, flavour, sessions).await?);
    Ok(found)
}

fn wait_of(row: &Row, lock: Lock) -> Result<LockWait> {
    Ok(LockWait {
        waiting: row.number(0)?.unwrap_or_default(),
        blocking: row.number(1)?,
        seconds: row.text(2)?.parse().unwrap_or(0),
        lock,
        object: row.text(3)?.replace('`', ""),
    })
}

async fn metadata(session: &mut Session, flavour: Flavour, sessions: &[Busy]) -> Result<Vec<LockWait>> {
    let blockers = match flavour {
        Flavour::Mysql => {
            "SELECT pt.PROCESSLIST_ID, gt.PROCESSLIST_ID, COALESCE(pt.PROCESSLIST_TIME, 0), \
             CONCAT(p.OBJECT_SCHEMA, '.', p.OBJECT_NAME) FROM performance_schema.metadata_locks p \
             JOIN performance_schema.metadata_locks g ON g.OBJECT_TYPE = p.OBJECT_TYPE \
             AND g.OBJECT_SCHEMA = p.OBJECT_SCHEMA AND g.OBJECT_NAME = p.OBJECT_NAME \
             AND g.LOCK_STATUS = 'GRANTED' AND g.OWNER_THREAD_ID <> p.OWNER_THREAD_ID \
             JOIN performance_schema.threads pt ON pt.THREAD_ID = p.OWNER_THREAD_ID \
             JOIN performance_schema.threads gt ON gt.THREAD_ID = g.OWNER_THREAD_ID \
             WHERE p.LOCK_STATUS = 'PENDING' AND p.OBJECT_TYPE = 'TABLE' AND gt.PROCESSLIST_ID IS NOT NULL LIMIT 500"
        }
        // Of the plugin `metadata_lock_info`: who holds something, without who waits for it.
        Flavour::Mariadb => {
            "SELECT p.ID, m.THREAD_ID, COALESCE(p.TIME, 0), CONCAT(m.TABLE_SCHEMA, '.', m.TABLE_NAME) \
             FROM information_schema.PROCESSLIST p JOIN information_schema.METADATA_LOCK_INFO m \
             ON m.THREAD_ID <> p.ID AND p.DB = m.TABLE_SCHEMA \
             AND LOCATE(m.TABLE_NAME, p.INFO) > 0 WHERE p.STATE LIKE 'Waiting for table metadata lock%' LIMIT 500"
        }
    };
    let told = match session.rows(blockers).await {
        Ok(rows) => rows.iter().map(|row| wait_of(row, Lock::Metadata)).collect::<Result<Vec<_>>>()?,
        // There is no such plugin, or no such table.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::Failed) => Vec::new(),
        Err(e) => return Err(e),
    };
    let waits = sessions.iter().filter(|one| one.state.contains("metadata lock"));
    let untold = waits.filter(|one| told.iter().all(|w| w.waiting != one.connection)).map(|one| LockWait {
        waiting: one.connection,
        blocking: None,
        seconds: one.seconds,
        lock: Lock::Metadata,
        object: String::new(),
    });
    let untold: Vec<_> = untold.collect();
    Ok(told.into_iter().chain(untold).collect())
}
