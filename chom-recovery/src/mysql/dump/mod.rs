//! Dump: a consistent snapshot of every schema that is not the server's own.
//!
//! Definitions are read before the snapshot is taken and once more after the last row; a difference means that a
//! definition changed while rows were read, and the dump fails with `Conflict` instead of mixing two states. On MySQL
//! `LOCK INSTANCE FOR BACKUP` keeps such changes waiting for that time.
//!
//! # Encoding of rows
//! One line a row, as `LOAD DATA` reads it: columns divided by tab, ended by line feed, `\N` for NULL, and `\\`,
//! `\t`, `\n`, `\0` for those bytes. Cells are the raw stored bytes, except: FLOAT as the double it equals, which
//! loses nothing; ENUM and SET as their number, which also tells the invalid value 0 from a member `''`; a JSON
//! document of MySQL as its text and, in a second cell, the types that its text does not tell.

mod encode;
pub(super) mod instance;
pub(super) mod key;
pub(super) mod objects;
pub(super) mod pieces;
pub(super) mod readers;
pub(super) mod rows;
pub(super) mod snapshot;
pub(super) mod throttle;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    baseline::{Baseline, RowHash, TableBaseline},
    objects::Objects,
    server::Server,
    wire::Wire,
};
use crate::{
    error::{Error, ErrorKind, Result},
    system::Throttle,
};
use snapshot::Snapshot;
use throttle::Pace;

/// How to dump.
#[derive(Debug, Clone)]
pub struct Options {
    /// Encoded bytes after which a chunk ends; a row is never divided. Three chunks are held in memory for each connection.
    pub chunk_bytes: usize,
    /// Connections that read at once. More than processors and disks serve only slow one another, and the application.
    pub connections: usize,
    /// Bytes of rows, as the server estimates them, above which a table is read in several pieces.
    pub piece_bytes: u64,
    /// Longest wait for one lock; statements of the application wait behind ours for as long.
    pub lock_wait: Duration,
    /// How often a lock is tried.
    pub lock_attempts: u32,
    /// Pauses between two chunks while the server is busy.
    pub throttle: Option<Throttle>,
    /// Stops the dump between two chunks.
    pub cancel: CancellationToken,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            chunk_bytes: 8 << 20,
            connections: std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4),
            piece_bytes: 64 << 20,
            lock_wait: Duration::from_secs(3),
            lock_attempts: 10,
            throttle: None,
            cancel: CancellationToken::new(),
        }
    }
}

/// A part of a table.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// Schema.
    pub schema: String,
    /// Table.
    pub table: String,
    /// Number within the table, from 0.
    pub number: u32,
    /// Rows.
    pub rows: u64,
    /// Hash of the rows.
    pub row_hash: RowHash,
    /// Encoded rows.
    pub bytes: Bytes,
}

/// How far a dump or load is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Schema.
    pub schema: String,
    /// Table.
    pub table: String,
    /// Tables finished.
    pub tables_done: usize,
    /// Tables in all.
    pub tables: usize,
    /// Rows so far, over all tables.
    pub rows: u64,
    /// Encoded bytes so far.
    pub bytes: u64,
}

/// Takes what a dump produces: definitions, then the chunks of all tables in any order, one at a time.
#[async_trait]
pub trait DumpSink: Send {
    /// Takes the definitions.
    async fn objects(&mut self, objects: &Objects) -> Result<()>;

    /// Takes a chunk. The dump waits for it: a slow sink slows the dump and costs no memory.
    async fn chunk(&mut self, chunk: Chunk) -> Result<()>;

    /// Reports progress.
    fn progress(&mut self, progress: &Progress) {
        let _ = progress;
    }
}

/// How the snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockReport {
    /// What kept writers out while the snapshot was opened: `none` on MariaDB, whose snapshots carry their position.
    pub method: String,
    /// How long writers were kept out, in microseconds.
    pub held_us: u64,
    /// Longest time in which statements of the application may have waited behind ours, in microseconds.
    pub waited_us: u64,
    /// Attempts.
    pub attempts: u32,
    /// Whether changes of definitions had to wait until the dump was finished.
    pub definitions_locked: bool,
}

/// What was dumped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// What a restored server must equal.
    pub baseline: Baseline,
    /// How the snapshot was taken.
    pub lock: LockReport,
    /// Chunks.
    pub chunks: u64,
    /// Rows.
    pub rows: u64,
    /// Encoded bytes.
    pub bytes: u64,
    /// Begin of the dump, by the server's clock.
    pub begun: DateTime<Utc>,
    /// The moment whose data the dump holds, by the server's clock.
    pub point: DateTime<Utc>,
    /// End of the dump, by the server's clock.
    pub ended: DateTime<Utc>,
    /// How long the dump paused for others, in milliseconds.
    #[serde(default)]
    pub paused_ms: u64,
    /// What the dump cannot promise.
    pub warnings: Vec<String>,
}

/// Dumps a server into a sink.
///
/// # Errors
/// `Locked`: no lock within the attempts; nothing was changed and nobody waits. `Conflict`: a definition changed
/// during the dump; run it again. `Unreachable`: a connection was lost; what the sink got is not a backup.
/// `Precondition`: a privilege is missing. `Corrupt`: a table cannot be read. `Cancelled`.
///
/// # Cancel
/// A dropped future closes its connections; the server frees locks and snapshot with them.
pub async fn dump(server: &Server, options: &Options, sink: &mut dyn DumpSink) -> Result<Summary> {
    let mut connections = Vec::new();
    let result = attempt(server, options, sink, &mut connections).await;
    if result.is_err() {
        // Closing would first read what is left of a result, and a snapshot that stays holds on to its tables.
        server.kill(&connections).await;
    }
    result
}

/// Dumps, and notes the ids of its connections.
async fn attempt(
    server: &Server,
    options: &Options,
    sink: &mut dyn DumpSink,
    connections: &mut Vec<u32>,
) -> Result<Summary> {
    let mut guard = snapshot::Guard::open(server, options).await?;
    connections.push(guard.session.id());
    let begun = guard.session.now().await?;
    let mut before = objects::collect(server).await?;
    let identities = instance::identities(server).await?;
    let mut snapshot = Snapshot::open(server, &mut guard, options).await?;
    connections.extend(snapshot.readers.iter().map(Wire::id));
    let guard_locked = snapshot.lock.definitions_locked;
    before.position = snapshot.position.clone();
    sink.objects(&before).await?;

    let jobs = pieces::plan(snapshot.first(), &before.tables, options).await?;
    let readers = std::mem::take(&mut snapshot.readers);
    let pace = options
        .throttle
        .as_ref()
        .map_or_else(Pace::free, |throttle| Pace::watching(server, throttle, readers.len() as u64));
    let (readers, read, pace) = readers::read(readers, &before.tables, jobs, options, pace, sink).await?;
    snapshot.readers = readers;
    let mut tables: Vec<_> = before
        .tables
        .iter()
        .zip(&read.tables)
        .map(|(table, read)| TableBaseline {
            schema: table.schema.clone(),
            table: table.name.clone(),
            rows: read.rows,
            row_hash: read.row_hash,
            auto_increment: table.auto_increment,
        })
        .collect();
    snapshot.close().await?;
    let after = objects::collect(server).await?;
    refuse_changed_definitions(&before, &after)?;
    match (&identities, instance::identities(server).await?) {
        (Some(before), Some(after)) => refuse_exchanged_tables(before, &after)?,
        _ if guard_locked => {}
        _ => before.warnings.push(
            "the account may not see the identities of tables (PROCESS): tables that were exchanged during the dump \
             would not be noticed"
                .into(),
        ),
    }
    let ended = guard.session.now().await?;
    guard.close().await?;

    for (table, after) in tables.iter_mut().zip(&after.tables) {
        table.auto_increment = table.auto_increment.max(after.auto_increment);
    }
    let baseline = Baseline {
        flavour: before.flavour,
        version: before.version,
        position: before.position.clone(),
        tables,
        census: before.census(),
    };
    Ok(Summary {
        baseline,
        lock: snapshot.lock,
        chunks: read.chunks,
        rows: read.rows,
        bytes: read.bytes,
        begun,
        point: snapshot.point,
        ended,
        paused_ms: pace.held_ms(),
        warnings: before.warnings,
    })
}

/// Fails when the server has other objects after the dump than before it.
fn refuse_changed_definitions(before: &Objects, after: &Objects) -> Result<()> {
    let (a, b) = (before.census(), after.census());
    let mut changed = Vec::new();
    let empty = std::collections::BTreeMap::new();
    for kind in a.keys().chain(b.keys()).collect::<std::collections::BTreeSet<_>>() {
        let (a, b) = (a.get(kind).unwrap_or(&empty), b.get(kind).unwrap_or(&empty));
        for name in a.keys().chain(b.keys()).collect::<std::collections::BTreeSet<_>>() {
            if a.get(name) != b.get(name) {
                changed.push(format!("{kind} `{name}`"));
            }
        }
    }
    if changed.is_empty() {
        return Ok(());
    }
    let shown = changed.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    Err(Error::new(ErrorKind::Conflict, format!("definitions changed while rows were read: {shown}"))
        .with("changed", changed.len())
        .hint("run the backup again, not at the time of a deployment"))
}

/// Fails when other rows are under a table's or partition's name: definitions stay as they are when two tables of one
/// shape change names, or a partition is exchanged.
fn refuse_exchanged_tables(before: &instance::Identities, after: &instance::Identities) -> Result<()> {
    let exchanged: Vec<_> = before.iter().filter(|(name, id)| after.get(*name).is_some_and(|a| a != *id)).collect();
    let Some((name, _)) = exchanged.first() else { return Ok(()) };
    Err(Error::new(ErrorKind::Conflict, format!("the rows of `{name}` were exchanged while rows were read"))
        .with("exchanged", exchanged.len())
        .hint("run the backup again, not while tables are exchanged, emptied or rebuilt"))
}

impl fmt::Display for LockReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {} µs, attempt {}", self.method, self.held_us, self.attempts)
    }
}
