//! Reads what can be read of a damaged server: one that refuses a table, or ends when it meets a damaged page.
//!
//! Each table is read along its primary key, from its first row up to the damage, and from its last row down to it; what lies
//! between is tried in the middle, as far as the key is a number. A server that ended is started again, and goes on behind the
//! last row that was read. What could not be read is named, as the keys around it.
//!
//! From level 1 on, InnoDB passes over rows of a page that it knows to be damaged, and says nothing: a table is called whole
//! only where its files have no such page, or where the level is 0.

mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use chrono::Utc;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    baseline::{Baseline, TableBaseline},
    dump::{
        DumpSink, LockReport, Progress, Summary,
        objects::{Tolerance, collect_readable},
        pieces,
    },
    objects::{Objects, TableData},
    server::Server,
};
use crate::error::{Error, ErrorKind, Result};
use table::TableReader;

/// How often the server may end, each time at the same place or at none, before a higher level is tried.
const ENDS: usize = 3;

/// A server that may end at any question, and is started again.
#[async_trait]
pub trait Patient: Send {
    /// Returns a server that answers, started again where it has ended.
    ///
    /// # Errors
    /// It comes up at no allowed level.
    async fn server(&mut self) -> Result<Server>;

    /// Gives the present level up: the server ends there whatever is asked. The next one begins on a copy of its own.
    ///
    /// # Errors
    /// There is no higher level that is allowed.
    async fn climb(&mut self, why: &Error) -> Result<()>;

    /// Tells the level of forced recovery that it is at; 0: none.
    fn level(&self) -> u8;

    /// Names the damaged page of a table's files, where there is one.
    fn damaged_page(&self, schema: &str, table: &str) -> Option<String>;
}

/// How to read.
#[derive(Debug, Clone)]
pub struct Options {
    /// Encoded bytes after which a chunk ends.
    pub chunk_bytes: usize,
    /// Longest time without a row.
    pub stall: Duration,
    /// How often the server may end over one table.
    pub ends_of_table: u32,
    /// Stops the work between two chunks.
    pub cancel: CancellationToken,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            chunk_bytes: 8 << 20,
            stall: Duration::from_mins(5),
            ends_of_table: 16,
            cancel: CancellationToken::new(),
        }
    }
}

/// How much of a table was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// All of it.
    Whole,
    /// Some of it.
    Part,
    /// No row of it.
    Nothing,
}

/// What became of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SalvagedTable {
    /// Schema.
    pub schema: String,
    /// Table.
    pub table: String,
    /// How much of it was read.
    pub extent: Extent,
    /// Rows that were read.
    pub rows: u64,
    /// Level of forced recovery at which it was read; 0: none.
    pub level: u8,
    /// Ranges of its primary key that were not read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<KeyRange>,
    /// Why it is not whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What lies between two keys, neither of which is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRange {
    /// The last key before it, as a statement writes it; `None`: from the begin.
    pub after: Option<String>,
    /// The first key behind it; `None`: to the end.
    pub before: Option<String>,
}

/// Something other than rows that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// What: a table, a view, or all routines.
    pub what: String,
    /// Why.
    pub why: String,
}

/// What was read, and what was not.
#[derive(Debug, Clone, PartialEq)]
pub struct Salvaged {
    /// As of a dump.
    pub summary: Summary,
    /// Each table whose definition could be read.
    pub tables: Vec<SalvagedTable>,
    /// Definitions that could not be read.
    pub lost: Vec<Lost>,
}

/// Reads what can be read into a sink: the definitions, then table by table.
///
/// # Errors
/// Those of [`Patient`] and of the sink. `Authentication`: the server knows the account no more. What cannot be read is a
/// result.
pub async fn read(patient: &mut dyn Patient, options: &Options, sink: &mut dyn DumpSink) -> Result<Salvaged> {
    let begun = Utc::now();
    let (objects, lost) = definitions(patient).await?;
    sink.objects(&objects).await?;
    let mut keys = keys(patient).await?;
    let (mut tables, mut baselines, mut chunks, mut rows, mut bytes) = (Vec::new(), Vec::new(), 0, 0, 0);
    for (done, table) in objects.tables.iter().enumerate() {
        let key = keys.remove(&(table.schema.clone(), table.name.clone()));
        let mut reader = TableReader::new(table, key, options, sink);
        if table.data != TableData::None {
            reader.read(patient).await?;
        }
        let read = reader.finish(patient);
        chunks += read.chunks;
        rows += read.told.rows;
        bytes += read.bytes;
        baselines.push(TableBaseline {
            schema: table.schema.clone(),
            table: table.name.clone(),
            rows: read.told.rows,
            row_hash: read.row_hash,
            auto_increment: table.auto_increment,
        });
        tables.push(read.told);
        let (schema, table) = (table.schema.clone(), table.name.clone());
        sink.progress(&Progress { schema, table, tables_done: done + 1, tables: objects.tables.len(), rows, bytes });
    }
    let ended = Utc::now();
    let lock = LockReport {
        method: "none: nobody writes to a copy".into(),
        held_us: 0,
        waited_us: 0,
        attempts: 0,
        definitions_locked: true,
    };
    let baseline = Baseline {
        flavour: objects.flavour,
        version: objects.version,
        position: None,
        tables: baselines,
        census: objects.census(),
    };
    let warnings = objects.warnings.clone();
    let summary = Summary { baseline, lock, chunks, rows, bytes, begun, point: begun, ended, paused_ms: 0, warnings };
    Ok(Salvaged { summary, tables, lost })
}

/// Reads the definitions that can be read. What the server ends at twice is passed over.
async fn definitions(patient: &mut dyn Patient) -> Result<(Objects, Vec<Lost>)> {
    let mut tolerance = Tolerance::default();
    let mut suspects = BTreeSet::new();
    let mut ends = 0;
    loop {
        let server = patient.server().await?;
        let error = match collect_readable(&server, &mut tolerance).await {
            Ok(objects) => {
                let lost = tolerance.lost.into_iter().map(|(what, why)| Lost { what, why }).collect();
                return Ok((objects, lost));
            }
            Err(error) if is_end(&error) => error,
            Err(error) => return Err(error),
        };
        match tolerance.at.take() {
            Some(at) if !suspects.insert(at.clone()) => {
                tolerance.skipped.insert(at);
                ends = 0;
            }
            _ => {
                ends += 1;
                if ends > ENDS {
                    patient.climb(&error).await?;
                    ends = 0;
                }
            }
        }
    }
}

/// Reads the primary keys of all tables.
async fn keys(patient: &mut dyn Patient) -> Result<BTreeMap<(String, String), table::Key>> {
    let mut ends = 0;
    loop {
        let server = patient.server().await?;
        let read = async { pieces::facts(&mut server.wire().await?).await };
        match read.await {
            Ok(facts) => return Ok(facts.into_iter().map(|(name, facts)| (name, facts.key)).collect()),
            Err(error) if is_end(&error) => {
                ends += 1;
                if ends > ENDS {
                    patient.climb(&error).await?;
                    ends = 0;
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Tells whether the server ended, or does not answer any more.
fn is_end(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout)
}
