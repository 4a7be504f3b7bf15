//! The consistent snapshot and the locks around it.

use chrono::{DateTime, Utc};
use futures::future::try_join_all;
use tokio::time::{Duration, Instant};

use super::{LockReport, Options};
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        info::{Flavour, Position},
        server::{self, Server},
        session::{Role, Session, server_code},
        wire::Wire,
    },
};

/// The session that keeps definitions from changing during a dump.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) session: Session,
    definitions_locked: bool,
}

impl Guard {
    /// Takes `LOCK INSTANCE FOR BACKUP` where the server has it and the account may. Elsewhere definitions are
    /// compared before and after instead.
    pub(super) async fn open(server: &Server, options: &Options) -> Result<Self> {
        let mut session = server.session(Role::Read).await?;
        session.run(format!("SET SESSION lock_wait_timeout = {}", whole_seconds(options.lock_wait))).await?;
        let mut definitions_locked = false;
        if server.info().flavour == Flavour::Mysql {
            let lock = attempts(&mut session, options, "LOCK INSTANCE FOR BACKUP").await;
            definitions_locked = match lock {
                Ok(_) => true,
                // No such statement, or no BACKUP_ADMIN.
                Err(e) if matches!(server_code(&e), Some(1064 | 1227 | 1235)) => false,
                Err(e) => return Err(e.during("lock of definitions")),
            };
        }
        Ok(Self { session, definitions_locked })
    }

    /// Proves that the lock was held to the end, and lets go.
    ///
    /// # Errors
    /// `Incomplete`: the session was lost, so definitions may have changed.
    pub(super) async fn close(mut self) -> Result<()> {
        self.session.ping().await.map_err(|e| {
            Error::new(ErrorKind::Incomplete, "the session that held the dump's locks was lost: the dump is tainted")
                .hint("run the backup again")
                .caused_by(e)
        })?;
        if self.definitions_locked {
            self.session.run("UNLOCK INSTANCE").await?;
        }
        self.session.close().await;
        Ok(())
    }
}

/// Connections that see the database as it was at one position.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) readers: Vec<Wire>,
    pub(super) position: Option<Position>,
    pub(super) point: DateTime<Utc>,
    pub(super) lock: LockReport,
}

const BEGIN: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";
/// How often snapshots are opened without a lock, in the hope that nobody commits in between.
const HOPES: usize = 3;

impl Snapshot {
    /// Opens the snapshot.
    pub(super) async fn open(server: &Server, guard: &mut Guard, options: &Options) -> Result<Self> {
        let mut readers = try_join_all((0..options.connections.max(1)).map(|_| server.wire())).await?;
        let (position, mut lock) = match server.info().flavour {
            Flavour::Mysql => open_locked(&mut readers, guard, options).await?,
            Flavour::Mariadb => open_mariadb(server, &mut readers, guard, options).await?,
        };
        lock.definitions_locked = guard.definitions_locked;
        // Microseconds after the lock was let go; newer rows than this are not in the snapshot.
        let point = readers[0].now().await?;
        Ok(Self { readers, position, point, lock })
    }

    /// One of its connections: there is at least one.
    pub(super) fn first(&mut self) -> &mut Wire {
        &mut self.readers[0]
    }

    /// Proves that the snapshot lived to the end, and closes it.
    pub(super) async fn close(&mut self) -> Result<()> {
        all(&mut self.readers, "ROLLBACK").await
    }
}

/// Runs a statement on all connections at once.
async fn all(readers: &mut [Wire], sql: &'static str) -> Result<()> {
    try_join_all(readers.iter_mut().map(|reader| reader.run(sql))).await.map(|_| ())
}

/// MySQL: the global read lock makes snapshots and position one moment.
async fn open_locked(
    readers: &mut [Wire],
    guard: &mut Guard,
    options: &Options,
) -> Result<(Option<Position>, LockReport)> {
    let session = &mut guard.session;
    wait_for_long_statements(session, options).await?;
    let begun = Instant::now();
    let tried = attempts(session, options, "FLUSH TABLES WITH READ LOCK").await?;
    let held = Instant::now();
    let opened = async {
        all(readers, BEGIN).await?;
        server::position(session, Flavour::Mysql).await
    };
    // Writers wait: whatever happens, not for long.
    let opened = tokio::time::timeout(options.lock_wait, opened).await;
    session.run("UNLOCK TABLES").await?;
    let held_us = micros(held.elapsed());
    let position = opened
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "the snapshot took longer than a lock may be held")))?;
    let lock = LockReport {
        method: "flush tables with read lock".into(),
        held_us,
        waited_us: micros(held.duration_since(begun)),
        attempts: tried,
        definitions_locked: false,
    };
    Ok((position, lock))
}

/// MariaDB: a consistent snapshot is aligned with the binary log and carries its position, without any lock. Several
/// that carry the same position are one. On a server without a binary log there is no position to be had, and the
/// snapshot is one of InnoDB alone.
async fn open_mariadb(
    server: &Server,
    readers: &mut Vec<Wire>,
    guard: &mut Guard,
    options: &Options,
) -> Result<(Option<Position>, LockReport)> {
    let without =
        LockReport { method: "none".into(), held_us: 0, waited_us: 0, attempts: 1, definitions_locked: false };
    let mut found = Vec::new();
    for _ in 0..HOPES {
        all(readers, BEGIN).await?;
        found = try_join_all(readers.iter_mut().map(snapshot_position)).await?;
        if readers.len() == 1 || found[0].is_some() && found.iter().all(|position| *position == found[0]) {
            break;
        }
        all(readers, "ROLLBACK").await?;
    }
    let is_one = found.iter().all(|position| *position == found[0]);
    if found[0].is_some() && is_one || readers.len() == 1 && !server.info().log_bin {
        return Ok((found.swap_remove(0), without));
    }
    all(readers, "ROLLBACK").await?;
    match open_backup_stage(server, readers, guard, options).await {
        // Without the privilege for the lock, one connection has to do.
        Err(e) if readers.len() > 1 && matches!(server_code(&e), Some(1044 | 1045 | 1227)) => {
            readers.truncate(1);
            all(readers, BEGIN).await?;
            Ok((snapshot_position(&mut readers[0]).await?, without))
        }
        other => other,
    }
}

/// MariaDB: commits are held for a moment, in which all snapshots are opened.
async fn open_backup_stage(
    server: &Server,
    readers: &mut [Wire],
    guard: &mut Guard,
    options: &Options,
) -> Result<(Option<Position>, LockReport)> {
    let session = &mut guard.session;
    let begun = Instant::now();
    session.run("BACKUP STAGE START").await?;
    let mut tried = 0;
    let mut held = Instant::now();
    let opened = async {
        tried = attempts(session, options, "BACKUP STAGE BLOCK_COMMIT").await?;
        held = Instant::now();
        all(readers, BEGIN).await?;
        let log_bin = server.info().log_bin;
        if log_bin { server::position(session, Flavour::Mariadb).await } else { Ok(None) }
    }
    .await;
    session.run("BACKUP STAGE END").await?;
    let lock = LockReport {
        method: "backup stage block_commit".into(),
        held_us: micros(held.elapsed()),
        waited_us: micros(held.duration_since(begun)),
        attempts: tried,
        definitions_locked: false,
    };
    Ok((opened?, lock))
}

async fn snapshot_position(reader: &mut Wire) -> Result<Option<Position>> {
    let mut file = String::new();
    let mut offset = 0;
    for row in reader.rows("SHOW STATUS LIKE 'binlog\\_snapshot\\_%'").await? {
        match row.text(0)?.to_ascii_lowercase().as_str() {
            "binlog_snapshot_file" => file = row.text(1)?,
            "binlog_snapshot_position" => offset = row.number(1)?.unwrap_or_default(),
            _ => {}
        }
    }
    if file.is_empty() {
        return Ok(None);
    }
    let sql = format!("SELECT BINLOG_GTID_POS({}, {offset})", crate::mysql::quote::text(&file));
    let gtid = reader.row(sql).await?.map_or(Ok(None), |r| r.optional(0))?;
    Ok(Some(Position { file, offset, gtid: gtid.filter(|g| !g.is_empty()) }))
}

/// Waits until no statement has been running for long. `FLUSH TABLES` marks every table at once, and who opens a marked
/// table waits for the statements that still use it, even after the flush was given up: so it is not begun while one
/// runs whose end cannot be expected within the time that a lock may take.
async fn wait_for_long_statements(session: &mut Session, options: &Options) -> Result<()> {
    let sql = format!(
        "SELECT t.PROCESSLIST_ID FROM performance_schema.events_statements_current s \
         JOIN performance_schema.threads t ON t.THREAD_ID = s.THREAD_ID \
         WHERE s.END_EVENT_ID IS NULL AND t.TYPE = 'FOREGROUND' AND t.PROCESSLIST_COMMAND IN ('Query', 'Execute') \
         AND t.PROCESSLIST_ID <> CONNECTION_ID() AND s.TIMER_WAIT > {}",
        // Picoseconds.
        (options.lock_wait / 5).as_nanos() * 1000
    );
    let mut pause = Duration::from_millis(100);
    let mut running = None;
    for _ in 0..options.lock_attempts.max(1) {
        running = session.row(sql.as_str()).await?;
        if running.is_none() {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(8));
    }
    let id = running.map_or(Ok(None), |r| r.number(0))?.unwrap_or_default();
    Err(Error::new(ErrorKind::Locked, "a long statement is running: a snapshot would stall the application behind it")
        .with("connection", id)
        .hint("let it end or kill it, then run the backup again"))
}

/// Tries a lock statement until it is granted; returns the number of attempts.
async fn attempts(session: &mut Session, options: &Options, sql: &str) -> Result<u32> {
    let mut pause = Duration::from_millis(250);
    for attempt in 1..=options.lock_attempts.max(1) {
        match session.run(sql).await {
            Ok(_) => return Ok(attempt),
            Err(e) if e.kind() == ErrorKind::Locked && attempt < options.lock_attempts => {
                tracing::debug!(attempt, sql, "lock not granted, trying again");
                // The statements that queued behind ours run now.
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(4));
            }
            Err(e) if e.kind() == ErrorKind::Locked => {
                return Err(e
                    .during(format!("`{sql}` was not granted in {attempt} attempts"))
                    .hint("a long statement holds a table: let it end or kill it, then run the backup again"));
            }
            Err(e) => return Err(e),
        }
    }
    Err(Error::new(ErrorKind::Locked, format!("`{sql}` was not granted")))
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().max(1)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
