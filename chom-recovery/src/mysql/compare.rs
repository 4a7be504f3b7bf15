//! Proof that a server holds what was dumped: definitions read again, rows read again and hashed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    baseline::Baseline,
    dump::{
        Chunk, DumpSink, Options, objects, pieces,
        readers::{self, Read},
        throttle::Pace,
    },
    objects::{Objects, Table},
    server::Server,
};
use crate::error::{Error, ErrorKind, Result};

/// Bytes of rows that are held at a time.
const CHUNK: usize = 4 << 20;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everything.
    Everything,
    /// Everything but accounts: for a candidate that still has its one-time ones.
    WithoutAccounts,
}

/// One thing that is not as it was dumped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "difference", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Difference {
    /// Was dumped and is not there.
    Missing {
        /// Kind of object.
        kind: String,
        /// Name.
        name: String,
    },
    /// Is there and was not dumped.
    Extra {
        /// Kind of object.
        kind: String,
        /// Name.
        name: String,
    },
    /// Its definition is another one.
    Definition {
        /// Kind of object.
        kind: String,
        /// Name.
        name: String,
    },
    /// A table has another number of rows.
    Rows {
        /// Table.
        table: String,
        /// Rows dumped.
        want: u64,
        /// Rows found.
        found: u64,
    },
    /// A table has as many rows, but other ones.
    Content {
        /// Table.
        table: String,
    },
    /// The next AUTO_INCREMENT value is lower than it was.
    AutoIncrement {
        /// Table.
        table: String,
        /// Value dumped.
        want: u64,
        /// Value found.
        found: Option<u64>,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { kind, name } => write!(f, "{kind} `{name}` is missing"),
            Self::Extra { kind, name } => write!(f, "{kind} `{name}` was not in the backup"),
            Self::Definition { kind, name } => write!(f, "{kind} `{name}` has another definition"),
            Self::Rows { table, want, found } => write!(f, "table `{table}` has {found} rows, not {want}"),
            Self::Content { table } => write!(f, "table `{table}` has other rows"),
            Self::AutoIncrement { table, want, found: Some(found) } => {
                write!(f, "table `{table}` would give id {found} again, next was {want}")
            }
            Self::AutoIncrement { table, want, found: None } => {
                write!(f, "table `{table}` has no next id, next was {want}")
            }
        }
    }
}

/// Outcome of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// What differs, by name; empty means equal.
    pub differences: Vec<Difference>,
    /// Tables whose rows were read.
    pub tables: usize,
    /// Rows read.
    pub rows: u64,
    /// Definitions compared.
    pub definitions: usize,
    /// Seconds it took.
    pub seconds: f64,
}

impl Comparison {
    /// Tells whether nothing differs.
    pub fn is_equal(&self) -> bool {
        self.differences.is_empty()
    }

    /// Turns differences into an error.
    ///
    /// # Errors
    /// `Corrupt`: something differs; up to five things are named.
    pub fn require_equal(&self) -> Result<()> {
        if self.is_equal() {
            return Ok(());
        }
        let shown = self.differences.iter().take(5).map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Err(Error::new(ErrorKind::Corrupt, format!("the server does not hold what was backed up: {shown}"))
            .with("differences", self.differences.len()))
    }
}

/// Compares a server to which nobody writes with a baseline. Reads every row; changes nothing.
///
/// # Errors
/// Only when it could not compare; differences are a result.
pub async fn compare(server: &Server, baseline: &Baseline, scope: Scope) -> Result<Comparison> {
    let begun = tokio::time::Instant::now();
    let found = objects::collect(server).await?;
    let mut differences = Vec::new();
    let mut definitions = 0;
    let census = found.census();
    let empty = BTreeMap::new();
    for kind in baseline.census.keys().chain(census.keys()).collect::<BTreeSet<_>>() {
        if kind == "account" && scope == Scope::WithoutAccounts {
            continue;
        }
        let (want, have) = (baseline.census.get(kind).unwrap_or(&empty), census.get(kind).unwrap_or(&empty));
        for name in want.keys().chain(have.keys()).collect::<BTreeSet<_>>() {
            definitions += 1;
            let (kind, owned) = (kind.clone(), name.clone());
            match (want.get(name), have.get(name)) {
                (Some(_), None) => differences.push(Difference::Missing { kind, name: owned }),
                (None, Some(_)) => differences.push(Difference::Extra { kind, name: owned }),
                (a, b) if a != b => differences.push(Difference::Definition { kind, name: owned }),
                _ => {}
            }
        }
    }
    let read = read_all(server, &found.tables).await?;
    let (mut tables, mut rows) = (0, 0);
    for want in &baseline.tables {
        // A missing table is named above.
        let position = found.tables.iter().position(|t| t.schema == want.schema && t.name == want.table);
        let Some((table, read)) = position.and_then(|at| Some((found.tables.get(at)?, read.tables.get(at)?))) else {
            continue;
        };
        let (name, count, hash) = (format!("{}.{}", want.schema, want.table), read.rows, read.row_hash);
        tables += 1;
        rows += count;
        if count != want.rows {
            differences.push(Difference::Rows { table: name.clone(), want: want.rows, found: count });
        } else if hash != want.row_hash {
            differences.push(Difference::Content { table: name.clone() });
        }
        if let Some(next) = want.auto_increment {
            // A table that never gave an id shows none: the first is 1.
            if table.auto_increment.unwrap_or(1) < next {
                differences.push(Difference::AutoIncrement { table: name, want: next, found: table.auto_increment });
            }
        }
    }
    Ok(Comparison { differences, tables, rows, definitions, seconds: begun.elapsed().as_secs_f64() })
}

/// Reads every row over several connections, each in a snapshot of its own: nobody writes to what is compared.
pub(super) async fn read_all(server: &Server, tables: &[Table]) -> Result<Read> {
    let options = Options { chunk_bytes: CHUNK, ..Options::default() };
    let mut readers = Vec::new();
    for _ in 0..options.connections {
        let mut reader = server.wire().await?;
        reader.run("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY").await?;
        readers.push(reader);
    }
    let Some(first) = readers.first_mut() else { return Ok(Read::default()) };
    let jobs = pieces::plan(first, tables, &options).await?;
    let (readers, read, _) = readers::read(readers, tables, jobs, &options, Pace::free(), &mut Nowhere).await?;
    for mut reader in readers {
        reader.run("ROLLBACK").await?;
        reader.close().await;
    }
    Ok(read)
}

/// Rows are counted and hashed where they are read.
struct Nowhere;

#[async_trait]
impl DumpSink for Nowhere {
    async fn objects(&mut self, _: &Objects) -> Result<()> {
        Ok(())
    }

    async fn chunk(&mut self, _: Chunk) -> Result<()> {
        Ok(())
    }
}
