//! Runs the statements of a dump on a candidate.

use std::path::Path;

use tokio::sync::mpsc;

use super::{
    Contents, Input, Kind, Limits, Name, Object, Piece, Splitter, SqlFile, Token, contents::is_system, header::Header,
};
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        load::check_empty,
        quote,
        server::Server,
        session::{Role, Session, server_code},
    },
};

/// Pieces that wait for the server.
const WAITING: usize = 4;
/// Bytes of statements after which a transaction is committed.
const COMMIT: usize = 32 << 20;
/// Warnings that are kept one by one.
const KEPT: usize = 50;

/// Warnings that only speak of old ways of writing, or of what is not there to be removed: deprecated syntax, integer
/// widths, utf8mb3, `IF EXISTS`, and values of generated columns, which MariaDB's own program dumps and MariaDB computes
/// anew.
///
/// # Source
/// MySQL "Server Error Message Reference"; MariaDB "Error Codes".
const HARMLESS: [u64; 13] = [1007, 1008, 1051, 1287, 1305, 1360, 1539, 1681, 1831, 1906, 3719, 3720, 3778];
/// "Data truncated": what a server says to an ENUM value that is invalid and was so at the source.
const TRUNCATED: u64 = 1265;

/// Dates that no calendar knows come back as they were dumped: without this a server turns them into zeros, whatever mode
/// they were stored in. For rows alone: routines and triggers remember the mode that they were made in.
const ALLOW_DATES: &str = "SET @chom_recovery_sql_mode = @@SESSION.sql_mode, \
    SESSION sql_mode = CONCAT_WS(',', NULLIF(@@SESSION.sql_mode, ''), 'ALLOW_INVALID_DATES')";
const MODE_OF_THE_DUMP: &str = "SET SESSION sql_mode = @chom_recovery_sql_mode";

/// How a dump is loaded.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// How much is held at a time.
    pub limits: Limits,
    /// Schema for what names none, and the statement that makes it; `None` makes one with the server's defaults.
    pub default_schema: Option<(String, Option<Vec<u8>>)>,
    /// Whether the server's own schemas and accounts are taken from the dump. Only a server of the same version may.
    pub with_system: bool,
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
}

/// Runs a dump on an empty candidate. `file` is what an earlier reading of the same file found; `progress` gets stored
/// bytes read and in all.
///
/// Every INSERT must add as many rows as stand in it, and no value may be changed on the way.
///
/// # Errors
/// `Precondition`: the server is no empty candidate. `Corrupt`: the dump is not sound. `Conflict`: the file is another
/// one now. `Unsupported`: the dump needs a schema, and none is given. `Failed`: the server refused a statement or
/// changed a value; the place is named. After any of them discard the candidate.
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
    let mut session = server.session(Role::Load).await?;
    check_empty(server, &mut session).await?;
    let mut work = Work {
        session,
        with_system: options.with_system,
        current: String::new(),
        since_commit: 0,
        allows_dates: false,
        report: LoadReport::default(),
    };
    work.make_schemas(&file.contents, options).await?;
    work.session.run("SET SESSION autocommit = 0").await?;

    let (sender, mut pieces) = mpsc::channel(WAITING);
    let (path, limits) = (path.to_owned(), options.limits);
    let reading = super::blocking(move || {
        let mut input = Input::open(&path)?;
        let counter = input.counter();
        let mut splitter = Splitter::new(&mut input, limits);
        while let Some(piece) = splitter.next_piece()? {
            let done = counter.load(std::sync::atomic::Ordering::Relaxed);
            if sender.blocking_send((piece, done)).is_err() {
                // The load failed: its own error is told.
                return Ok(None);
            }
        }
        input.into_stored().map(Some)
    });
    let running = async {
        while let Some((piece, done)) = pieces.recv().await {
            work.piece(piece).await?;
            progress(done, file.stored.bytes);
        }
        // Seen at once by the reader when this failed.
        drop(pieces);
        Ok::<_, Error>(work)
    };
    let (running, stored) = tokio::join!(running, reading);
    let mut work = running?;
    if stored?.as_ref() != Some(&file.stored) {
        return Err(Error::new(ErrorKind::Conflict, "the dump is not the file any more that was verified")
            .hint("something writes to it: run it again when that has ended"));
    }
    work.session.run("COMMIT").await?;
    if options.with_system {
        work.session.run("FLUSH PRIVILEGES").await?;
    }
    work.session.close().await;
    Ok(work.report)
}

struct Work {
    session: Session,
    with_system: bool,
    current: String,
    since_commit: usize,
    allows_dates: bool,
    report: LoadReport,
}

impl Work {
    /// Makes the schemas that the dump fills and does not make itself.
    async fn make_schemas(&mut self, contents: &Contents, options: &LoadOptions) -> Result<()> {
        for schema in contents.schemas.difference(&contents.made_schemas) {
            self.session.run(format!("CREATE DATABASE IF NOT EXISTS {}", quote::ident(schema))).await?;
        }
        if contents.needs_schema() {
            let (schema, create) = options.default_schema.clone().ok_or_else(|| {
                Error::new(ErrorKind::Unsupported, "the dump does not say into which schema it belongs")
                    .hint("name it in `legacy.schema` of the configuration")
            })?;
            let create = create
                .unwrap_or_else(|| format!("CREATE DATABASE IF NOT EXISTS {}", quote::ident(&schema)).into_bytes());
            self.session.run(create).await.map_err(|e| e.during(format!("schema `{schema}`")))?;
            self.session.run(format!("USE {}", quote::ident(&schema))).await?;
            self.current = schema;
        }
        Ok(())
    }

    async fn piece(&mut self, piece: Piece) -> Result<()> {
        let kind = match &piece.token {
            Token::Statement(kind) => kind.clone(),
            Token::Unfinished(what) => {
                return Err(Error::new(ErrorKind::Corrupt, format!("the dump ends inside {what}")));
            }
            _ => return Ok(()),
        };
        if let Kind::Use(schema) = &kind {
            self.current.clone_from(schema);
        }
        if !self.is_run(&kind) {
            return Ok(());
        }
        let (offset, line) = (piece.offset, piece.line);
        let sql = piece.into_sql();
        let at = |e: Error| e.during(format!("{} at byte {offset} (line {line})", described(&kind)));
        self.run(&kind, sql).await.map_err(at)
    }

    /// Tells whether a statement is run. What is left out without harm is left out in silence.
    fn is_run(&mut self, kind: &Kind) -> bool {
        match kind {
            // Nobody else is there; a lock would only keep us from other tables.
            Kind::Empty | Kind::Lock | Kind::Transaction => false,
            Kind::Replication => {
                self.report.warn("orders to a replica were left out".into());
                false
            }
            Kind::Administration(word) => {
                if !matches!(word.as_str(), "FLUSH" | "ANALYZE" | "OPTIMIZE") {
                    self.report.warn(format!("{word} was left out: it changes the server"));
                }
                false
            }
            Kind::Set(settings) => {
                let globals = settings.globals();
                if !globals.is_empty() {
                    self.report.warn(format!("the server's {} was not set", globals.join(", ")));
                }
                globals.is_empty()
            }
            Kind::Account => self.with_system || self.left_out("accounts"),
            Kind::Use(schema) => !is_system(schema) || (self.with_system && is_accounts(schema)),
            Kind::Create { object: Object::Schema, name } | Kind::Alter { object: Object::Schema, name } => {
                !is_system(&name.name)
            }
            Kind::Drop { object: Object::Schema, names } => !names.iter().any(|n| is_system(&n.name)),
            Kind::Create { name, .. } | Kind::Alter { name, .. } => self.is_wanted(name),
            Kind::Drop { names, .. } => names.iter().all(|name| self.is_wanted(name)),
            Kind::Insert(insert) => self.is_wanted(&insert.table),
            Kind::SetValue => !is_system(&self.current),
            // Refused when it was read; never run.
            Kind::Other(_) => false,
        }
    }

    fn is_wanted(&mut self, name: &Name) -> bool {
        let schema = name.schema.as_ref().unwrap_or(&self.current);
        if is_accounts(schema) {
            return self.with_system || self.left_out("the server's own schema");
        }
        // The rest of what is the server's own it makes itself.
        !is_system(schema)
    }

    fn left_out(&mut self, what: &str) -> bool {
        self.report.warn(format!(
            "{what} of the dump were left out: it is of another version, or accounts come from elsewhere"
        ));
        false
    }

    async fn run(&mut self, kind: &Kind, sql: Vec<u8>) -> Result<()> {
        let length = sql.len();
        let is_comment = sql.starts_with(b"/*");
        let is_rows = matches!(kind, Kind::Insert(_));
        if is_rows != self.allows_dates {
            self.session.run(if is_rows { ALLOW_DATES } else { MODE_OF_THE_DUMP }).await?;
            self.allows_dates = is_rows;
        }
        let done = match self.session.run(sql).await {
            // A conditional comment of another version is no statement at all.
            Err(e) if is_comment && server_code(&e) == Some(1065) => return Ok(()),
            done => done?,
        };
        self.report.statements += 1;
        self.report.bytes += length as u64;
        if let Kind::Insert(insert) = kind {
            self.report.rows += done.affected;
            if done.affected != insert.rows && !insert.is_lenient {
                return Err(Error::new(ErrorKind::Failed, "the server did not take every row")
                    .with("rows", insert.rows)
                    .with("taken", done.affected));
            }
            self.since_commit += length;
        }
        if done.warnings > 0 {
            self.judge(kind).await?;
        }
        if self.since_commit >= COMMIT {
            self.session.run("COMMIT").await?;
            self.since_commit = 0;
        }
        Ok(())
    }

    /// A value that was changed is not the value that was dumped.
    async fn judge(&mut self, kind: &Kind) -> Result<()> {
        for (code, text) in self.session.warnings().await? {
            match kind {
                _ if HARMLESS.contains(&code) => {}
                Kind::Insert(insert) if !insert.is_lenient && code != TRUNCATED => {
                    return Err(Error::new(ErrorKind::Failed, "the server changed a value")
                        .with("warning", format!("{code}: {text}")));
                }
                _ => self.report.warn(format!("{}: {code}: {text}", described(kind))),
            }
        }
        Ok(())
    }
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
