//! Runs the statements of a dump on a candidate.
//!
//! One connection runs what must keep its place: definitions, routines, triggers, views, events. Before each of these, all
//! rows that stand in front of it are there. Rows go to several connections at once, each of which runs the dump's `SET`
//! and `USE` statements at the same place. Rows that depend on their order stay with the first: those of REPLACE and
//! INSERT IGNORE, those that fire triggers, and all while foreign keys are checked.
//!
//! As with our own dumps, the candidate goes without its redo log, doublewrite buffer and flushes meanwhile.

mod beside;
mod connection;
mod indexes;
mod keys;
mod order;
mod plan;
mod values;

use std::path::Path;

use tokio::sync::mpsc;

use super::{Contents, Input, Kind, Limits, Name, Object, Piece, Selection, Splitter, SqlFile, header::Header};
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        load::{check_empty, relax},
        quote,
        server::Server,
        session::{Role, Session},
    },
};
use beside::Redirect;
pub(in crate::mysql) use beside::{Beside, computed, load_beside};
use connection::Connection;

/// Pieces that wait to be run.
const WAITING: usize = 4;
/// Warnings that are kept one by one.
const KEPT: usize = 50;

/// How a dump is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// How much is held at a time.
    pub limits: Limits,
    /// Schema for what names none, and the statement that makes it; `None` makes one with the server's defaults.
    pub default_schema: Option<(String, Option<Vec<u8>>)>,
    /// Whether the server's own schemas and accounts are taken from the dump. Only a server of the same version may.
    pub with_system: bool,
    /// What is loaded; `None`: everything. No statement about anything else reaches the server.
    pub only: Option<Selection>,
    /// Connections that add rows at once; at least 1. Each holds about 15 MB.
    pub connections: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            limits: Limits::default(),
            default_schema: None,
            with_system: false,
            only: None,
            connections: processors.clamp(2, 4),
        }
    }
}

/// What a load did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Rows that the server took.
    pub rows: u64,
    /// Statements that were run.
    pub statements: u64,
    /// Bytes of these statements.
    pub bytes: u64,
    /// What a person should read: what was left out, and what the server warned of.
    pub warnings: Vec<String>,
}

impl LoadReport {
    fn warn(&mut self, text: String) {
        if self.warnings.len() < KEPT && !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }

    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.statements += other.statements;
        self.bytes += other.bytes;
        for warning in other.warnings {
            self.warn(warning);
        }
    }
}

/// Runs a dump on an empty candidate. `file` is what an earlier reading of the same file found; `progress` gets stored
/// bytes read and in all.
///
/// Every INSERT must add as many rows as stand in it, and no value may be changed on the way.
///
/// # Errors
/// `Precondition`: the server is no empty candidate. `Corrupt`: the dump is not sound. `Conflict`: the file is another
/// one now. `Unsupported`: the dump needs a schema, and none is given. `NotFound`: it does not hold what is selected.
/// `Failed`: the server refused a statement or changed a value; the place is named, and all connections stop. After any
/// of them discard the candidate.
pub async fn load(
    server: &Server,
    path: &Path,
    file: &SqlFile,
    options: &LoadOptions,
    progress: impl Fn(u64, u64) + Send + Sync,
) -> Result<LoadReport> {
    if let Some(problem) = file.contents.problems.first() {
        return Err(Error::new(ErrorKind::Corrupt, format!("the dump is not sound: {}", problem.text)));
    }
    let default = options.default_schema.as_ref().map(|(schema, _)| schema.as_str());
    let contents = match &options.only {
        Some(selection) => &file.contents.only(selection, default)?,
        None => &file.contents,
    };
    let mut first = server.session(Role::Load).await?;
    check_empty(server, &mut first).await?;
    // Stays open: a dump of all databases may replace the account that would open another.
    let mut guard = server.session(Role::Load).await?;
    let relaxed = relax(&mut guard, server.info().flavour).await?;
    let mut first = Connection::new(first);
    let current = make_schemas(&mut first, contents, options).await?;

    let mut sessions = Vec::new();
    for _ in 0..options.connections.max(1) {
        let mut session = server.session(Role::Load).await?;
        if !current.is_empty() {
            session.run(format!("USE {}", quote::ident(&current))).await?;
        }
        sessions.push(session);
    }
    let sessions = Sessions { first, others: sessions, indexing: server.session(Role::Load).await? };
    let reading = Reading { path, file, limits: options.limits, redirect: None };
    let report = run(sessions, reading, contents, options, current, progress).await?;
    relaxed.restore(&mut guard).await?;
    guard.close().await;
    Ok(report)
}

/// Connections of a load.
struct Sessions {
    first: Connection,
    others: Vec<Session>,
    indexing: Session,
}

/// Where pieces come from.
struct Reading<'a> {
    path: &'a Path,
    file: &'a SqlFile,
    limits: Limits,
    /// What becomes of each of them on its way; `None`: they stay as they are.
    redirect: Option<Redirect>,
}

async fn run(
    sessions: Sessions,
    reading: Reading<'_>,
    contents: &Contents,
    options: &LoadOptions,
    current: String,
    progress: impl Fn(u64, u64) + Send + Sync,
) -> Result<LoadReport> {
    let (mut jobs, mut workers) = (Vec::new(), Vec::new());
    for session in sessions.others {
        let (sender, receiver) = mpsc::channel(1);
        jobs.push(sender);
        workers.push(Connection::new(session).serve(receiver));
    }
    let (tables, lacking) = mpsc::unbounded_channel();
    let indexing = indexes::serve(sessions.indexing, lacking);
    let work = order::Order::new(sessions.first, jobs, indexes::Indexes::new(tables), contents, options, current);

    let (sender, pieces) = mpsc::channel(WAITING);
    let Reading { path, file, limits, redirect } = reading;
    let path = path.to_owned();
    let reading = super::blocking(move || read_pieces(&path, limits, redirect, &sender));
    let running = work.run(pieces, |done| progress(done, file.stored.bytes));
    // In this order: who waits for another in vain never ends, and the other's error is told.
    let all = async move { tokio::try_join!(futures::future::try_join_all(workers), indexing, running) };
    let (all, stored) = tokio::join!(all, reading);
    let (reports, (), mut report) = all?;
    if stored?.as_ref() != Some(&file.stored) {
        return Err(Error::new(ErrorKind::Conflict, "the dump is not the file any more that was verified")
            .hint("something writes to it: run it again when that has ended"));
    }
    for of_one in reports {
        report.add(of_one);
    }
    Ok(report)
}

/// Hands out the pieces of a file with the stored bytes read so far; `None`: nobody takes them any more.
fn read_pieces(
    path: &Path,
    limits: Limits,
    mut redirect: Option<Redirect>,
    sender: &mpsc::Sender<(Piece, u64)>,
) -> Result<Option<super::Stored>> {
    let mut input = Input::open(path)?;
    let counter = input.counter();
    let mut splitter = Splitter::new(&mut input, limits);
    while let Some(piece) = splitter.next_piece()? {
        let done = counter.load(std::sync::atomic::Ordering::Relaxed);
        let piece = match &mut redirect {
            Some(redirect) => redirect.piece(piece)?,
            None => Some(piece),
        };
        let Some(piece) = piece else { continue };
        if sender.blocking_send((piece, done)).is_err() {
            // The load failed: its own error is told.
            return Ok(None);
        }
    }
    input.into_stored().map(Some)
}

/// Makes the schemas that the dump fills and does not make itself; returns the one for what names none.
async fn make_schemas(first: &mut Connection, contents: &Contents, options: &LoadOptions) -> Result<String> {
    let session = &mut first.session;
    for schema in contents.schemas.difference(&contents.made_schemas) {
        session.run(format!("CREATE DATABASE IF NOT EXISTS {}", quote::ident(schema))).await?;
    }
    if !contents.needs_schema() {
        return Ok(String::new());
    }
    let (schema, create) = options.default_schema.clone().ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "the dump does not say into which schema it belongs")
            .hint("name it in `legacy.schema` of the configuration")
    })?;
    let create =
        create.unwrap_or_else(|| format!("CREATE DATABASE IF NOT EXISTS {}", quote::ident(&schema)).into_bytes());
    session.run(create).await.map_err(|e| e.during(format!("schema `{schema}`")))?;
    session.run(format!("USE {}", quote::ident(&schema))).await?;
    Ok(schema)
}

/// The schema in which servers keep accounts.
fn is_accounts(schema: &str) -> bool {
    schema.eq_ignore_ascii_case("mysql")
}

/// Says what a statement is about, without any of its values.
fn described(kind: &Kind) -> String {
    let full = |name: &Name| match &name.schema {
        Some(schema) => format!("{schema}.{}", name.name),
        None => name.name.clone(),
    };
    let word = |object: &Object| format!("{object:?}").to_lowercase();
    match kind {
        Kind::Use(schema) => format!("USE `{schema}`"),
        Kind::Create { object, name } => format!("{} `{}`", word(object), full(name)),
        Kind::Drop { object, .. } => format!("DROP of a {}", word(object)),
        Kind::Alter { object, name } => format!("ALTER of {} `{}`", word(object), full(name)),
        Kind::Insert(insert) => format!("rows of table `{}`", full(&insert.table)),
        Kind::Set(_) => "a SET statement".into(),
        Kind::Account => "a statement about accounts".into(),
        _ => "a statement".into(),
    }
}

/// Tells whether a dump comes from the same series as a server, so that definitions are written alike and system
/// schemas fit.
pub fn is_same_series(header: &Header, server: &Server) -> bool {
    let info = server.info();
    let series = |v: crate::mysql::Version| (v.0, v.1);
    let from = header.server_version.as_deref().and_then(|v| crate::mysql::Version::parse(v).ok());
    header.flavour() == Some(info.flavour) && from.map(series) == Some(series(info.version))
}
