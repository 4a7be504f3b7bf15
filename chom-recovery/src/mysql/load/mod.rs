//! Load: puts a dump into an empty candidate server.
//!
//! Order: schemas and sequences, tables, rows, then what could act on rows: routines, views, triggers, events. Accounts
//! come last and on their own ([`replace_accounts`]), since they end the one-time login that loads.

mod accounts;
mod infile;
mod objects;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    baseline::RowHash,
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

pub use accounts::{AccountsReport, NewAccount, make_accounts, replace_accounts, replace_accounts_by};

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
    session: Session,
    objects: Objects,
    tables: BTreeMap<(String, String), Table>,
    loaded: BTreeSet<(String, String, u32)>,
    report: Report,
}

impl Loader {
    /// Checks that the candidate is empty and fits the dump, and makes schemas, sequences and tables.
    ///
    /// # Errors
    /// `Precondition`: the server has tables already, has a binary log, runs events, or refuses `LOAD DATA LOCAL`.
    /// `Unsupported`: a definition needs what this server does not have; it is named. `InvalidInput`: another format.
    pub async fn begin(server: &Server, objects: Objects) -> Result<Self> {
        if objects.format != 1 {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("definitions have format {}, and this version reads format 1", objects.format),
            ));
        }
        let mut session = server.session(Role::Load).await?;
        let tables = objects.tables.iter().map(|t| ((t.schema.clone(), t.name.clone()), t.clone())).collect();
        check_candidate(server, &mut session, &objects).await?;
        let mut loader = Self { session, objects, tables, loaded: BTreeSet::new(), report: Report::default() };
        loader.make_tables().await?;
        Ok(loader)
    }

    /// Loads one chunk in a transaction of its own, or nothing of it.
    ///
    /// # Errors
    /// `Corrupt`: the stream's own errors, or other rows than promised. `Failed`: the server refused or changed a
    /// value; it is shown. `NotFound`: the chunk's table is not in the dump. `InvalidInput`: it was loaded before; a
    /// table without a key would take its rows twice.
    pub async fn chunk(&mut self, chunk: Incoming) -> Result<()> {
        let name = format!("chunk {} of table `{}.{}`", chunk.number, chunk.schema, chunk.table);
        let key = (chunk.schema.clone(), chunk.table.clone());
        let table = self
            .tables
            .get(&key)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{name}: the dump has no such table")))?;
        let place = (chunk.schema.clone(), chunk.table.clone(), chunk.number);
        if self.loaded.contains(&place) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("{name} was loaded already")));
        }
        let rows = chunk.rows;
        let bytes = infile::load(&mut self.session, table, chunk).await.map_err(|e| e.during(&name))?;
        self.loaded.insert(place);
        self.report.chunks += 1;
        self.report.rows += rows;
        self.report.bytes += bytes;
        Ok(())
    }

    /// Makes routines, views, triggers and events, after the last chunk.
    pub async fn finish(mut self) -> Result<Report> {
        self.make_stored_objects().await?;
        if json::needed(&self.objects) {
            json::drop_helpers(&mut self.session).await?;
        }
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

    async fn make_tables(&mut self) -> Result<()> {
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
            self.session
                .run(t.create.bytes().to_vec())
                .await
                .map_err(|e| context(explain(e, &self.objects, &t.create)))?;
        }
        self.report.tables = self.objects.tables.len();
        Ok(())
    }
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

/// Tells whether rows of a table are expected at all.
fn has_rows(table: &Table) -> bool {
    table.data != TableData::None
}
