//! Making tables beside production's, on the same server, and comparing them with the backup.
//!
//! Rows go through the binary log as any others do, so that replicas have them too; always as rows, whatever the server's
//! format is, since a replica cannot repeat the statement.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Placed, TableName, definition::Definition, look::unnamed};
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        compare::read_all,
        dump::Progress,
        json,
        load::{self, Incoming},
        objects::{Objects, Table},
        quote,
        server::Server,
        session::{Role, Session, server_code},
    },
    run::failpoint,
};

/// What may be done where the server takes no `LOAD DATA LOCAL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LocalInfile {
    /// It has to take it as it is.
    AsIs,
    /// It is off, and is switched on while rows are loaded.
    WhileLoading,
    /// Rows are inserted where it is off.
    IfOn,
}

/// What was compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Tables.
    pub tables: u64,
    /// Rows of them.
    pub rows: u64,
}

impl Checked {
    fn take(&mut self, place: &Placed, rows: u64) -> Result<()> {
        if rows != place.rows {
            return Err(differs(place, format!("{rows} rows, not {}", place.rows)));
        }
        self.tables += 1;
        self.rows += rows;
        Ok(())
    }
}

fn differs(place: &Placed, what: String) -> Error {
    let what = format!("the restored table `{}` is not as in the backup: {what}", place.source);
    Error::new(ErrorKind::Corrupt, what).hint("production is untouched; try another backup")
}

/// Tables that are being made beside production's.
#[derive(Debug)]
pub(crate) struct Restore {
    server: Server,
    session: Session,
    /// Ids of the other connections.
    others: Vec<u32>,
    /// By name in the backup.
    tables: BTreeMap<load::TableName, Table>,
    has_helpers: bool,
    switched_on: bool,
}

impl Restore {
    /// Connects. [`Restore::end`] has to follow, also after an error.
    ///
    /// # Errors
    /// `Precondition`: the account may not write rows as rows to the binary log.
    pub(super) async fn open(server: &Server) -> Result<Self> {
        Ok(Self {
            server: server.clone(),
            session: open(server).await?,
            others: Vec::new(),
            tables: BTreeMap::new(),
            has_helpers: false,
            switched_on: false,
        })
    }

    /// Makes the tables of a backup anew, whatever an earlier attempt left of them. [`Restore::end`] has to follow, also
    /// after an error.
    ///
    /// # Errors
    /// `Precondition`: the server takes no `LOAD DATA LOCAL`, or the account may not write rows as rows to the binary log.
    pub(crate) async fn begin(
        server: &Server,
        objects: &Objects,
        places: &[Placed],
        local_infile: LocalInfile,
    ) -> Result<Self> {
        let mut restore = Self::open(server).await?;
        match restore.make(objects, places, local_infile).await {
            Ok(()) => Ok(restore),
            Err(error) => {
                let _ = restore.end().await;
                Err(error)
            }
        }
    }

    /// Makes the schemas in which tables are made, empty.
    pub(super) async fn prepare(&mut self, places: &[Placed], local_infile: LocalInfile) -> Result<()> {
        self.allow(local_infile).await?;
        discard(&mut self.session, places).await?;
        for schema in schemas(places, |p| &p.fresh) {
            self.session.run(format!("CREATE DATABASE {} CHARACTER SET utf8mb4", quote::ident(schema))).await?;
        }
        Ok(())
    }

    async fn make(&mut self, objects: &Objects, places: &[Placed], local_infile: LocalInfile) -> Result<()> {
        self.prepare(places, local_infile).await?;
        for place in places {
            let context = |e: Error| e.during(format!("table `{}`", place.source));
            let table = objects
                .tables
                .iter()
                .find(|t| t.schema == place.source.schema && t.name == place.source.name)
                .ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("the backup has no table `{}`", place.source)))?;
            let unnamed = unnamed(&self.server, place.is_copy());
            let definition = Definition::read(table.create.bytes(), &table.schema, unnamed).map_err(context)?;
            self.session.run(format!("USE {}", quote::ident(&place.fresh.schema))).await?;
            self.session.run(definition.create(&place.fresh)).await.map_err(context)?;
            let made = Table { schema: place.fresh.schema.clone(), name: place.fresh.name.clone(), ..table.clone() };
            self.tables.insert((place.source.schema.clone(), place.source.name.clone()), made);
        }
        if self.tables.values().flat_map(|t| &t.columns).any(|c| c.json_types) {
            self.has_helpers = true;
            self.make_helpers().await?;
        }
        Ok(())
    }

    /// Opens more connections, which end with this one.
    pub(super) async fn sessions(&mut self, number: usize) -> Result<Vec<Session>> {
        let mut sessions = Vec::new();
        for _ in 0..number {
            let session = open(&self.server).await?;
            self.others.push(session.id());
            sessions.push(session);
        }
        Ok(sessions)
    }

    /// Switches `LOAD DATA LOCAL` on, where that is allowed and needed. An attempt that was killed may have left it on: it
    /// is switched off all the same in the end.
    async fn allow(&mut self, local_infile: LocalInfile) -> Result<()> {
        if local_infile == LocalInfile::WhileLoading {
            self.switched_on = true;
            let on = self.session.run("SET GLOBAL local_infile = ON").await;
            on.map_err(|e| e.during("cannot switch local_infile on"))?;
            failpoint::hit("after local_infile is on");
            return Ok(());
        }
        if local_infile == LocalInfile::IfOn {
            return Ok(());
        }
        let value = self.session.row("SELECT @@global.local_infile").await?.map_or(Ok(None), |r| r.number(0))?;
        if value == Some(1) { Ok(()) } else { Err(refused_infile()) }
    }

    /// The table of the helpers goes to replicas too, since a function may write to it; the functions stay here, where they
    /// are called: replicas get rows.
    async fn make_helpers(&mut self) -> Result<()> {
        json::drop_helpers(&mut self.session).await?;
        json::make_store(&mut self.session).await?;
        self.session.run("SET SESSION sql_log_bin = 0").await?;
        let made = json::make_functions(&mut self.session).await;
        self.session.run("SET SESSION sql_log_bin = 1").await?;
        made.map_err(|e| e.during("functions that make documents"))
    }

    /// Loads all chunks over several connections, the largest table first, each chunk in a transaction of its own or not at
    /// all. `sizes` are bytes of encoded rows; `progress` gets those that are loaded.
    ///
    /// # Errors
    /// `Corrupt`: the streams' own errors, or other rows than promised. `Failed`: the server refused or changed a value.
    pub(crate) async fn chunks(
        &mut self,
        chunks: Vec<Incoming>,
        sizes: &BTreeMap<load::TableName, u64>,
        connections: usize,
        mut progress: impl FnMut(u64) + Send,
    ) -> Result<(u64, u64)> {
        let mut seen = BTreeSet::new();
        for chunk in &chunks {
            if !seen.insert((&chunk.schema, &chunk.table, chunk.number)) {
                let what = format!("chunk {} of table `{}.{}` is there twice", chunk.number, chunk.schema, chunk.table);
                return Err(Error::new(ErrorKind::Corrupt, what));
            }
        }
        let connections = connections.clamp(1, chunks.len().max(1));
        let sessions = self.sessions(connections).await?;
        let work = load::Work::new(self.tables.clone(), chunks, sizes, BTreeMap::new());
        let loaded = load::run_work(sessions, work, &mut |p: &Progress| progress(p.bytes)).await?;
        Ok((loaded.rows, loaded.bytes))
    }

    /// Takes away what was only needed to load, and switches `LOAD DATA LOCAL` off again where it was switched on.
    pub(crate) async fn end(self) -> Result<()> {
        let (server, has_helpers, switched_on) = (self.server.clone(), self.has_helpers, self.switched_on);
        // An answer that is still being read would have to be read to its end.
        let ids: Vec<_> = self.others.iter().copied().chain([self.session.id()]).collect();
        server.kill(&ids).await;
        drop(self.session);
        let mut session = server.session(Role::Restore).await?;
        if switched_on {
            session.run("SET GLOBAL local_infile = OFF").await?;
        }
        if has_helpers {
            json::drop_helpers(&mut session).await?;
        }
        session.close().await;
        Ok(())
    }
}

/// Opens a session whose rows are logged as rows.
async fn open(server: &Server) -> Result<Session> {
    let mut session = server.session(Role::Restore).await?;
    log_rows(&mut session, server).await?;
    Ok(session)
}

/// The error of a server that takes no `LOAD DATA LOCAL`.
pub(crate) fn refused_infile() -> Error {
    Error::new(ErrorKind::Precondition, "the server takes no rows from clients: local_infile is OFF").hint(
        "`--allow-local-infile` switches it on while rows are loaded and off again; or have somebody run \
         `SET GLOBAL local_infile = ON`",
    )
}

impl Server {
    /// Compares the tables that were made with what the backup promises: definitions, rows, and their hashes; `tables` are
    /// those of the backup. Reads every row of them. A dump promises no hashes: that each of its rows arrived unchanged is
    /// known from the load.
    ///
    /// # Errors
    /// `Corrupt`: they differ; the first difference is named.
    pub(crate) async fn check_restored(&self, places: &[Placed], tables: &[Table]) -> Result<Checked> {
        let mut session = self.session(Role::Read).await?;
        let (mut made, mut hashed) = (Vec::new(), Vec::new());
        let mut checked = Checked::default();
        for place in places {
            let row = session.row(format!("SHOW CREATE TABLE {}", place.fresh.quoted())).await?;
            let create = row.as_ref().and_then(|r| r.bytes(1)).unwrap_or_default().to_vec();
            let definition = Definition::read(&create, &place.fresh.schema, unnamed(self, place.is_copy()))?;
            if place.definition.as_ref().is_some_and(|promised| *promised != definition.hash()) {
                return Err(differs(place, "it has another definition".into()));
            }
            if place.row_hash.is_none() {
                let has_history = quote::find(&create, b"WITH SYSTEM VERSIONING", 0).is_some();
                let rows = count_rows(&mut session, &place.fresh, has_history).await?;
                checked.take(place, rows)?;
                continue;
            }
            let source = &place.source;
            let table = tables.iter().find(|t| t.schema == source.schema && t.name == source.name);
            let table = table
                .ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("the backup has no table `{source}`")))?
                .clone();
            made.push(Table { schema: place.fresh.schema.clone(), name: place.fresh.name.clone(), ..table });
            hashed.push(place);
        }
        session.close().await;
        for (place, read) in hashed.into_iter().zip(read_all(self, &made).await?.tables) {
            checked.take(place, read.rows)?;
            if Some(read.row_hash) != place.row_hash {
                return Err(differs(place, "other rows".into()));
            }
        }
        Ok(checked)
    }

    /// Takes away what was made beside production, and what was only needed for it. What was exchanged is not touched.
    pub(crate) async fn discard_restored(&self, places: &[Placed], local_infile_off: bool) -> Result<()> {
        let mut session = self.session(Role::Restore).await?;
        if local_infile_off {
            session.run("SET GLOBAL local_infile = OFF").await?;
        }
        json::drop_helpers(&mut session).await?;
        discard(&mut session, places).await?;
        session.close().await;
        Ok(())
    }
}

/// Drops the schemas of what was not exchanged.
pub(super) async fn discard(session: &mut Session, places: &[Placed]) -> Result<()> {
    for schema in schemas(places, |p| &p.fresh) {
        session.run(format!("DROP DATABASE IF EXISTS {}", quote::ident(schema))).await?;
    }
    Ok(())
}

pub(super) fn schemas(places: &[Placed], of: impl Fn(&Placed) -> &TableName) -> BTreeSet<&str> {
    // Names are borrowed from the places, whatever `of` is.
    places.iter().map(|place| of(place).schema.as_str()).collect()
}

/// Sees to it that this session's changes are logged as rows.
async fn log_rows(session: &mut Session, server: &Server) -> Result<()> {
    if !server.info().log_bin || server.info().binlog_format == "ROW" {
        return Ok(());
    }
    session.run("SET SESSION binlog_format = 'ROW'").await.map(drop).map_err(|e| match server_code(&e) {
        Some(1227) => Error::new(
            ErrorKind::Precondition,
            "the account may not choose that its rows are logged as rows, and replicas could not repeat the statements",
        )
        .hint("use an account with the privilege BINLOG ADMIN or SUPER, or set binlog_format = ROW"),
        _ => e,
    })
}

/// Counts rows, old versions as well: a backup that holds them brings them back, and after any other there are none.
pub(in crate::mysql) async fn count_rows(session: &mut Session, table: &TableName, has_history: bool) -> Result<u64> {
    let versions = if has_history { " FOR SYSTEM_TIME ALL" } else { "" };
    let row = session.row(format!("SELECT COUNT(*) FROM {}{versions}", table.quoted())).await;
    let row = row.map_err(|e| e.during(format!("table `{table}`")))?;
    Ok(row.map_or(Ok(None), |r| r.number(0))?.unwrap_or_default())
}
