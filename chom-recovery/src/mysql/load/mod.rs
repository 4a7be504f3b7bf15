//! Load: puts a dump into an empty candidate server.
//!
//! Order: schemas and sequences, tables, rows, the keys of large tables, foreign keys, then what could act on rows: routines,
//! views, triggers, events. Accounts come last and on their own ([`replace_accounts`]), since they end the one-time login that
//! loads.
//!
//! The candidate goes without its redo log, doublewrite buffer and flushes while rows come in, as far as it lets them go, and
//! has them back, by its own word, before [`Loader::finish`] returns.

mod accounts;
mod infile;
pub(in crate::mysql) mod keys;
mod objects;
mod relaxed;
mod workers;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    baseline::RowHash,
    dump::Progress,
    json,
    objects::{Objects, Table, TableData, Text},
    quote,
    server::Server,
    session::{Role, Session, server_code},
};
use crate::{
    error::{Error, ErrorKind, Result},
    stream::ByteStream,
};

pub(in crate::mysql) use objects::make_trigger;
pub(in crate::mysql) use workers::{Work, run as run_work};

pub use accounts::{AccountsReport, NewAccount, make_accounts, replace_accounts, replace_accounts_by};
use relaxed::Relaxed;
pub(in crate::mysql) use relaxed::relax;

/// Schema and name of a table.
pub type TableName = (String, String);

/// How to load.
#[derive(Debug, Clone)]
pub struct Options {
    /// Connections that load at once. More than processors serve only slow one another.
    pub connections: usize,
    /// Bytes of encoded rows from which on a table's secondary keys are built after its rows.
    pub keys_after: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections: std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4),
            keys_after: 4 << 20,
        }
    }
}

/// A chunk to be loaded: what it must hold, and its bytes.
#[expect(missing_debug_implementations, reason = "a stream has nothing to show")]
pub struct Incoming {
    /// Schema.
    pub schema: String,
    /// Table.
    pub table: String,
    /// Number within the table.
    pub number: u32,
    /// Rows that it must hold.
    pub rows: u64,
    /// Hash of its rows, where it is known.
    pub row_hash: Option<RowHash>,
    /// Encoded rows.
    pub bytes: ByteStream,
}

impl Incoming {
    fn table_name(&self) -> TableName {
        (self.schema.clone(), self.table.clone())
    }

    /// What errors call it.
    fn name(&self) -> String {
        format!("chunk {} of table `{}.{}`", self.number, self.schema, self.table)
    }
}

/// What was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Tables made.
    pub tables: usize,
    /// Chunks loaded.
    pub chunks: u64,
    /// Rows loaded.
    pub rows: u64,
    /// Encoded bytes loaded.
    pub bytes: u64,
    /// What could not be made again as it was, by name. Empty in a whole restore.
    pub warnings: Vec<String>,
}

/// Loads one dump into one candidate.
#[derive(Debug)]
pub struct Loader {
    server: Server,
    session: Session,
    objects: Objects,
    options: Options,
    tables: BTreeMap<TableName, Table>,
    loaded: BTreeSet<(TableName, u32)>,
    /// Keys that are built after the rows of their table.
    keys: BTreeMap<TableName, Vec<Vec<u8>>>,
    /// Foreign keys of those tables: they come when both sides have their keys.
    foreign: BTreeMap<TableName, Vec<Vec<u8>>>,
    relaxed: Relaxed,
    report: Report,
}

impl Loader {
    /// Begins to load as [`Loader::begin_with`] does, with all keys in place from the begin.
    ///
    /// # Errors
    /// Those of [`Loader::begin_with`].
    pub async fn begin(server: &Server, objects: Objects) -> Result<Self> {
        Self::begin_with(server, objects, Options::default(), &BTreeMap::new()).await
    }

    /// Checks that the candidate is empty and fits the dump, relaxes it, and makes schemas, sequences and tables. `sizes` are
    /// the bytes of each table's encoded rows; one that is not named is small.
    ///
    /// # Errors
    /// `Precondition`: the server has tables already, has a binary log, runs events, or refuses `LOAD DATA LOCAL`.
    /// `Unsupported`: a definition needs what this server does not have; it is named. `InvalidInput`: another format.
    pub async fn begin_with(
        server: &Server,
        objects: Objects,
        options: Options,
        sizes: &BTreeMap<TableName, u64>,
    ) -> Result<Self> {
        if objects.format != 1 {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("definitions have format {}, and this version reads format 1", objects.format),
            ));
        }
        let mut session = server.session(Role::Load).await?;
        let tables = objects.tables.iter().map(|t| ((t.schema.clone(), t.name.clone()), t.clone())).collect();
        check_candidate(server, &mut session, &objects).await?;
        let relaxed = relax(&mut session, server.info().flavour).await?;
        let mut loader = Self {
            server: server.clone(),
            session,
            objects,
            options,
            tables,
            loaded: BTreeSet::new(),
            keys: BTreeMap::new(),
            foreign: BTreeMap::new(),
            relaxed,
            report: Report::default(),
        };
        loader.make_tables(sizes).await?;
        Ok(loader)
    }

    /// Loads one chunk in a transaction of its own, or nothing of it.
    ///
    /// # Errors
    /// `Corrupt`: the stream's own errors, or other rows than promised. `Failed`: the server refused or changed a
    /// value; it is shown. `NotFound`: the chunk's table is not in the dump. `InvalidInput`: it was loaded before; a
    /// table without a key would take its rows twice.
    pub async fn chunk(&mut self, chunk: Incoming) -> Result<()> {
        let (name, table, number) = (chunk.name(), chunk.table_name(), chunk.number);
        let definition = self
            .tables
            .get(&table)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{name}: the dump has no such table")))?;
        if self.loaded.contains(&(table.clone(), number)) {
            return Err(twice(&name));
        }
        let rows = chunk.rows;
        let bytes = infile::load(&mut self.session, definition, chunk).await.map_err(|e| e.during(&name))?;
        self.loaded.insert((table, number));
        self.report.chunks += 1;
        self.report.rows += rows;
        self.report.bytes += bytes;
        Ok(())
    }

    /// Loads all chunks of the dump over several connections, each as [`Loader::chunk`] does, the largest table first; a
    /// table's keys are built when its last chunk is there. A chunk's stream is not touched before its turn.
    ///
    /// # Errors
    /// Those of [`Loader::chunk`]. `Corrupt`: rows break a unique key.
    pub async fn chunks(
        &mut self,
        chunks: Vec<Incoming>,
        sizes: &BTreeMap<TableName, u64>,
        on_progress: &mut (dyn FnMut(&Progress) + Send),
    ) -> Result<()> {
        let mut places = self.loaded.clone();
        for chunk in &chunks {
            if !places.insert((chunk.table_name(), chunk.number)) {
                return Err(twice(&chunk.name()));
            }
        }
        let work = workers::Work::new(self.tables.clone(), chunks, sizes, std::mem::take(&mut self.keys));
        let mut sessions = Vec::new();
        for _ in 0..self.options.connections.max(1) {
            sessions.push(workers::open(&self.server).await?);
        }
        let loaded = workers::run(sessions, work, on_progress).await?;
        self.report.chunks += loaded.chunks.len() as u64;
        self.report.rows += loaded.rows;
        self.report.bytes += loaded.bytes;
        self.loaded.extend(loaded.chunks);
        Ok(())
    }

    /// Builds the keys that are left, makes routines, views, triggers and events, and has the candidate durable again.
    ///
    /// # Errors
    /// `Failed`: it refuses an object, which is named, or is not durable again.
    pub async fn finish(mut self) -> Result<Report> {
        for (table, keys) in std::mem::take(&mut self.keys) {
            workers::add_keys(&mut self.session, &table, &keys).await?;
        }
        for ((schema, table), keys) in std::mem::take(&mut self.foreign) {
            let added = self.session.run(keys::add(&schema, &table, &keys)).await;
            added.map_err(|e| e.during(format!("foreign keys of table `{schema}.{table}`")))?;
        }
        self.make_stored_objects().await?;
        if json::needed(&self.objects) {
            json::drop_helpers(&mut self.session).await?;
        }
        self.relaxed.restore(&mut self.session).await?;
        self.session.close().await;
        Ok(self.report)
    }

    /// Installs plugins and components that the candidate does not have. Whether one is missed is for what needs it to
    /// say: a table's engine, an account's plugin.
    async fn install_plugins(&mut self) -> Result<()> {
        for p in &self.objects.plugins {
            match self.session.run(p.create.bytes().to_vec()).await {
                Ok(_) => {}
                // It is there already: plugin (1125, 1968), component (3529).
                Err(e) if matches!(server_code(&e), Some(1125 | 1968 | 3529)) => {}
                Err(e) if e.kind() == ErrorKind::Unreachable => return Err(e),
                Err(e) => {
                    self.report.warnings.push(format!("plugin `{}` is not installed again: {}", p.name, e.message()));
                }
            }
        }
        Ok(())
    }

    async fn make_tables(&mut self, sizes: &BTreeMap<TableName, u64>) -> Result<()> {
        self.install_plugins().await?;
        if json::needed(&self.objects) {
            json::make_helpers(&mut self.session).await.map_err(|e| e.during("functions that make documents"))?;
        }
        for t in &self.objects.tablespaces {
            let sql = t.create.bytes().to_vec();
            self.session
                .run(sql)
                .await
                .map_err(|e| explain(e, &self.objects, &t.create).during(format!("tablespace `{}`", t.name)))?;
        }
        for schema in &self.objects.schemas {
            // The image may have made a schema for its application; it is empty, or we would not be here.
            self.session.run(format!("DROP DATABASE IF EXISTS {}", quote::ident(&schema.name))).await?;
            let sql = schema.create.bytes().to_vec();
            self.session.run(sql).await.map_err(|e| e.during(format!("schema `{}`", schema.name)))?;
        }
        for s in &self.objects.sequences {
            let context = |e: Error| e.during(format!("sequence `{}.{}`", s.schema, s.name));
            self.session.run(format!("USE {}", quote::ident(&s.schema))).await.map_err(context)?;
            self.session.run(s.create.bytes().to_vec()).await.map_err(context)?;
            let set = format!("DO SETVAL({}, {}, 0, {})", quote::qualified(&s.schema, &s.name), s.next, s.cycles);
            self.session.run(set).await.map_err(context)?;
        }
        for t in &self.objects.tables {
            let context = |e: Error| e.during(format!("table `{}.{}`", t.schema, t.name));
            self.session.run(format!("USE {}", quote::ident(&t.schema))).await.map_err(context)?;
            let name = (t.schema.clone(), t.name.clone());
            let is_large = sizes.get(&name).is_some_and(|bytes| *bytes >= self.options.keys_after);
            // Other engines build keys well by themselves, and a table with a history takes no change of its definition.
            let divided = (is_large && t.engine.eq_ignore_ascii_case("InnoDB") && !t.history)
                .then(|| keys::divide(t.create.bytes(), keys::Rows::Ours))
                .flatten();
            let create = match divided {
                None => t.create.bytes().to_vec(),
                Some(divided) => {
                    // An ALTER without a definition is none.
                    let told = |list: Vec<Vec<u8>>| Some(list).filter(|list| !list.is_empty());
                    self.keys.extend(told(divided.keys).map(|keys| (name.clone(), keys)));
                    self.foreign.extend(told(divided.foreign).map(|keys| (name, keys)));
                    divided.create
                }
            };
            self.session.run(create).await.map_err(|e| context(explain(e, &self.objects, &t.create)))?;
        }
        self.report.tables = self.objects.tables.len();
        Ok(())
    }
}

/// Makes sure that a candidate has its durability back, by the server's own word.
///
/// # Errors
/// `Failed`: its redo log is off; it would not survive a crash.
pub async fn prove_durable(server: &Server) -> Result<()> {
    let mut session = server.session(Role::Read).await?;
    relaxed::prove_durable(&mut session).await?;
    session.close().await;
    Ok(())
}

async fn check_candidate(server: &Server, session: &mut Session, objects: &Objects) -> Result<()> {
    check_empty(server, session).await?;
    let info = server.info();
    if info.flavour != objects.flavour {
        let what = format!("the dump is of {} {}, the server is {}", objects.flavour, objects.version, info.flavour);
        return Err(Error::new(ErrorKind::Unsupported, what).hint("restore into the same kind of server"));
    }
    if info.lower_case_table_names != objects.lower_case_table_names {
        return Err(no_candidate(&format!(
            "lower_case_table_names is {}, and was {} at the source",
            info.lower_case_table_names, objects.lower_case_table_names
        )));
    }
    let local = session.row("SELECT @@global.local_infile").await?.map_or(Ok(None), |r| r.number(0))?;
    if local != Some(1) {
        return Err(no_candidate("local_infile is off")
            .hint("start it with --local-infile=ON; it stays off on the production server"));
    }
    Ok(())
}

/// Refuses a server that anything but a load could be going on with: one that holds tables, writes a binary log or
/// runs events. Production is never let through.
pub(in crate::mysql) async fn check_empty(server: &Server, session: &mut Session) -> Result<()> {
    let info = server.info();
    if info.log_bin {
        return Err(no_candidate("it writes a binary log"));
    }
    if info.event_scheduler {
        return Err(no_candidate("its event scheduler is on, so restored events would fire"));
    }
    let found = session
        .row(format!(
            "SELECT MIN(CONCAT(TABLE_SCHEMA, '.', TABLE_NAME)) FROM information_schema.TABLES WHERE TABLE_SCHEMA NOT IN ({})",
            quote::system_schemas()
        ))
        .await?;
    let found = found.map_or_else(|| Ok(String::new()), |r| r.text(0))?;
    if !found.is_empty() {
        return Err(no_candidate(&format!("it has tables already, for example `{found}`")));
    }
    Ok(())
}

const KEYS: &str = "it is encrypted at rest: give the candidate a keyring or key file, as production's server has";

/// Explains why a definition was not taken. Codes: no keyring (3185; MariaDB has only 1005 for it); a syntax (1064), type
/// (4161), character set (1115), collation (1273) or engine (1286) that this server does not know.
fn explain(error: Error, objects: &Objects, create: &Text) -> Error {
    let encrypted = create.lossy().to_ascii_lowercase().contains("encrypt");
    match server_code(&error) {
        Some(3185) => error.of_kind(ErrorKind::Precondition).hint(KEYS),
        Some(1005) if encrypted && error.message().contains("errno: 140") => {
            error.of_kind(ErrorKind::Precondition).hint(KEYS)
        }
        Some(1064 | 1115 | 1273 | 1286 | 4161) => error
            .of_kind(ErrorKind::Unsupported)
            .hint(format!("restore into the version that was backed up: {} {}", objects.flavour, objects.version)),
        _ => error,
    }
}

fn no_candidate(why: &str) -> Error {
    Error::new(ErrorKind::Precondition, format!("this server is no candidate: {why}"))
}

fn twice(name: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("{name} was loaded already"))
}

/// Tells whether rows of a table are expected at all.
fn has_rows(table: &Table) -> bool {
    table.data != TableData::None
}
