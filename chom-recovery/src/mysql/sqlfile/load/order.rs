//! Keeps the order of a dump where it matters.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::future::select_all;
use tokio::sync::{mpsc, oneshot};

use super::{
    LoadOptions, LoadReport,
    connection::{Batch, Connection, Job, Place},
    indexes::{Indexes, Key, finished},
    is_accounts, keys,
    plan::Plans,
};
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::sqlfile::{
        Contents, Insert, Kind, Name, Object, Piece, Selection, Token, contents::is_system, statement::trigger_table,
    },
};

/// Bytes of rows that are run at once; a longer INSERT is run alone.
const BATCH: usize = 2 << 20;

/// Gives the statements of a dump to connections.
pub(super) struct Order {
    first: Connection,
    others: Vec<mpsc::Sender<Job>>,
    indexes: Indexes,
    plans: Plans,
    only: Option<Selection>,
    with_system: bool,
    /// Rows that the dump holds of each table.
    expected: BTreeMap<String, BTreeMap<String, u64>>,
    current: String,
    /// Rows that were not given to anybody yet, and their table.
    waiting: Option<(Key, Batch)>,
    /// The table whose rows came last.
    filling: Option<Key>,
    /// Tables with triggers.
    firing: BTreeSet<Key>,
    /// Tables of InnoDB, which knows no `DISABLE KEYS`.
    innodb: BTreeSet<Key>,
}

impl Order {
    pub(super) fn new(
        first: Connection,
        others: Vec<mpsc::Sender<Job>>,
        indexes: Indexes,
        contents: &Contents,
        options: &LoadOptions,
        current: String,
    ) -> Self {
        let rows = |(schema, tables): (&String, &BTreeMap<String, _>)| {
            let tables =
                tables.iter().map(|(name, table): (_, &super::super::TableContents)| (name.clone(), table.rows));
            let schema = if schema.is_empty() { current.clone() } else { schema.clone() };
            (schema, tables.collect())
        };
        Self {
            first,
            others,
            indexes,
            plans: Plans::default(),
            only: options.only.clone(),
            with_system: options.with_system && options.only.is_none(),
            expected: contents.tables.iter().map(rows).collect(),
            current,
            waiting: None,
            filling: None,
            firing: BTreeSet::new(),
            innodb: BTreeSet::new(),
        }
    }

    /// Runs all pieces; `progress` gets the stored bytes done.
    pub(super) async fn run(
        mut self,
        mut pieces: mpsc::Receiver<(Piece, u64)>,
        progress: impl Fn(u64),
    ) -> Result<LoadReport> {
        while let Some((piece, done)) = pieces.recv().await {
            self.piece(piece).await?;
            progress(done);
        }
        self.settle().await?;
        self.indexes.finish().await;
        if self.with_system {
            self.first.session.run("FLUSH PRIVILEGES").await?;
        }
        self.first.session.close().await;
        Ok(self.first.report)
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
            // Whatever it is about: rows behind it are of another schema.
            self.hand_out().await?;
            self.current.clone_from(schema);
        }
        if !self.is_run(&kind, &piece) {
            return Ok(());
        }
        let place = Place::of(&piece, &kind);
        match &kind {
            Kind::Insert(insert) => {
                let insert = insert.clone();
                self.rows(&insert, piece).await.map_err(|e| place.in_error(e))
            }
            Kind::Use(_) | Kind::Set(_) => {
                self.hand_out().await?;
                let sql: Arc<[u8]> = piece.into_sql().into();
                self.plans.forget();
                self.first.statement(&kind, sql.to_vec()).await.map_err(|e| place.in_error(e))?;
                for job in &self.others {
                    give(job, Job::Setting(kind.clone(), Arc::clone(&sql), place.clone())).await;
                }
                Ok(())
            }
            _ => {
                self.settle().await?;
                self.plans.forget();
                let sql = piece.into_sql();
                self.in_place(&kind, sql).await.map_err(|e| place.in_error(e))
            }
        }
    }

    fn key(&self, name: &Name) -> Key {
        (name.schema.as_ref().unwrap_or(&self.current).clone(), name.name.clone())
    }

    /// Adds rows to those that wait; those of another INSERT are given away first.
    async fn rows(&mut self, insert: &Insert, piece: Piece) -> Result<()> {
        let table = self.key(&insert.table);
        if self.filling.as_ref() != Some(&table) {
            self.hand_out().await?;
            // The rows of a table follow one another; if more come all the same, they find its indexes there.
            if let Some(before) = self.filling.replace(table.clone())
                && self.indexes.is_lacking(&before)
            {
                self.reach().await;
                self.indexes.begin(&before);
            }
            self.indexes.wait(&table).await;
        }
        let state = self.plans.state(&mut self.first.session).await?;
        // Documents with hidden types are made by a function that keeps a value of its own.
        let calls = memchr::memmem::find(piece.text(), crate::mysql::json::HELPERS.as_bytes()).is_some();
        if insert.is_lenient || state.checks_foreign_keys || self.firing.contains(&table) || calls {
            self.hand_out().await?;
            self.reach().await;
            let bytes = piece.text().len();
            return self.first.rows(Batch { plan: None, pieces: vec![piece], bytes }).await;
        }
        let plan = self.plans.of(&mut self.first.session, &table, piece.insert().0).await?;
        let is_same = self.waiting.as_ref().is_some_and(|(of, batch)| {
            *of == table
                && match (&batch.plan, &plan) {
                    (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                    (None, None) => true,
                    _ => false,
                }
        });
        if !is_same {
            self.hand_out().await?;
        }
        let (_, batch) = self.waiting.get_or_insert_with(|| (table, Batch { plan, pieces: Vec::new(), bytes: 0 }));
        batch.bytes += piece.text().len();
        batch.pieces.push(piece);
        if batch.bytes >= BATCH { self.hand_out().await } else { Ok(()) }
    }

    /// Gives the waiting rows to the first connection that is free.
    async fn hand_out(&mut self) -> Result<()> {
        let Some((_, batch)) = self.waiting.take() else { return Ok(()) };
        let free = select_all(self.others.iter().map(|job| Box::pin(job.reserve()))).await;
        match free.0 {
            Ok(place) => place.send(Job::Rows(batch)),
            Err(_) => std::future::pending().await,
        }
        Ok(())
    }

    /// Waits until all that was given away is done.
    async fn reach(&mut self) {
        let mut replies = Vec::new();
        for job in &self.others {
            let (reply, reached) = oneshot::channel();
            give(job, Job::Reached(reply)).await;
            replies.push(reached);
        }
        for reached in replies {
            finished(reached).await;
        }
    }

    /// Sees to it that all rows so far are there, and begins the indexes of the table that they were of.
    async fn settle(&mut self) -> Result<()> {
        self.hand_out().await?;
        self.reach().await;
        if let Some(table) = self.filling.take() {
            self.indexes.begin(&table);
        }
        Ok(())
    }

    /// Runs a statement that must keep its place. All rows in front of it are there.
    async fn in_place(&mut self, kind: &Kind, sql: Vec<u8>) -> Result<()> {
        match kind {
            Kind::Create { object: Object::Table, name } => return self.create_table(kind, name, sql).await,
            Kind::Alter { object: Object::Table, name } if is_about_keys(&sql) => {
                if self.innodb.contains(&self.key(name)) {
                    return Ok(());
                }
            }
            Kind::Drop { object: Object::Table | Object::View, names } => {
                for name in names {
                    let key = self.key(name);
                    self.indexes.forget(&key).await;
                    self.innodb.remove(&key);
                }
            }
            Kind::Create { object: Object::Trigger, .. } => {
                if let Some(table) = trigger_table(&sql) {
                    let table = self.key(&table);
                    self.indexes.wait(&table).await;
                    self.firing.insert(table);
                }
            }
            // A definition may take locks on whatever it names.
            _ => self.indexes.wait_all().await,
        }
        self.with_all_indexes(kind, sql).await
    }

    /// Runs a statement; if the server refuses it, once more when no index is missing.
    async fn with_all_indexes(&mut self, kind: &Kind, sql: Vec<u8>) -> Result<()> {
        if !self.indexes.is_owed() {
            return self.first.statement(kind, sql).await;
        }
        match self.first.statement(kind, sql.clone()).await {
            Err(e) if crate::mysql::session::server_code(&e).is_some() => {
                self.indexes.finish().await;
                self.first.statement(kind, sql).await
            }
            done => done,
        }
    }

    async fn create_table(&mut self, kind: &Kind, name: &Name, sql: Vec<u8>) -> Result<()> {
        let table = self.key(name);
        if memchr::memmem::find(&sql, b"FOREIGN KEY").is_some() {
            // The server locks the tables at both ends.
            self.indexes.wait_all().await;
        }
        if memchr::memmem::find(&sql, b"\n) ENGINE=InnoDB").is_some() {
            self.innodb.insert(table.clone());
        }
        let rows = self.expected.get(&table.0).and_then(|tables| tables.get(&table.1)).copied().unwrap_or_default();
        let Some(deferred) = (rows > 0).then(|| keys::defer(&sql)).flatten() else {
            return self.with_all_indexes(kind, sql).await;
        };
        match self.first.statement(kind, deferred.create).await {
            Ok(()) => {
                self.indexes.owe(table, deferred.adds);
                Ok(())
            }
            // It is needed after all, for a foreign key of another table.
            Err(e) if crate::mysql::session::server_code(&e).is_some() => self.with_all_indexes(kind, sql).await,
            Err(e) => Err(e),
        }
    }

    /// Tells whether a statement is run. What is left out without harm is left out in silence.
    fn is_run(&mut self, kind: &Kind, piece: &Piece) -> bool {
        match kind {
            // Nobody else is there; a lock would only keep us from other tables.
            Kind::Empty | Kind::Lock | Kind::Transaction => false,
            Kind::Replication => {
                self.first.report.warn("orders to a replica were left out".into());
                false
            }
            Kind::Administration(word) => {
                if !matches!(word.as_str(), "FLUSH" | "ANALYZE" | "OPTIMIZE") {
                    self.first.report.warn(format!("{word} was left out: it changes the server"));
                }
                false
            }
            Kind::Set(settings) => {
                let globals = settings.globals();
                if !globals.is_empty() {
                    self.first.report.warn(format!("the server's {} was not set", globals.join(", ")));
                }
                globals.is_empty()
            }
            Kind::Account => self.with_system || self.left_out("accounts"),
            Kind::Use(schema) => {
                (!is_system(schema) && self.is_selected(|s| s.touches(schema)))
                    || (self.with_system && is_accounts(schema))
            }
            Kind::Create { object: Object::Schema, name } | Kind::Alter { object: Object::Schema, name } => {
                !is_system(&name.name) && self.is_selected(|s| s.touches(&name.name))
            }
            Kind::Drop { object: Object::Schema, names } => {
                !names.iter().any(|n| is_system(&n.name))
                    && self.is_selected(|s| names.iter().all(|n| s.touches(&n.name)))
            }
            Kind::Create { object: Object::Trigger, name } => {
                let table = trigger_table(piece.text()).map(|table| table.name);
                let schema = self.key(name).0;
                self.is_wanted(name)
                    && self.is_selected(|s| match &table {
                        Some(table) => s.has_table(&schema, table),
                        None => s.has_schema(&schema),
                    })
            }
            Kind::Create { object, name } | Kind::Alter { object, name } => {
                self.is_wanted(name) && self.is_chosen(*object, name)
            }
            Kind::Drop { object, names } => {
                names.iter().all(|name| self.is_wanted(name) && self.is_chosen(*object, name))
            }
            Kind::Insert(insert) => self.is_wanted(&insert.table) && self.is_chosen(Object::Table, &insert.table),
            Kind::SetValue => !is_system(&self.current) && self.is_selected(|s| s.has_schema(&self.current)),
            // Refused when it was read; never run.
            Kind::Other(_) => false,
        }
    }

    fn is_selected(&self, is: impl Fn(&Selection) -> bool) -> bool {
        self.only.as_ref().is_none_or(is)
    }

    fn is_chosen(&self, object: Object, name: &Name) -> bool {
        let (schema, name) = self.key(name);
        self.is_selected(|s| match object {
            Object::Table => s.has_table(&schema, &name),
            _ => s.has_schema(&schema),
        })
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
        if self.only.is_none() {
            self.first.report.warn(format!(
                "{what} of the dump were left out: it is of another version, or accounts come from elsewhere"
            ));
        }
        false
    }
}

/// Gives a job to one connection. When that has failed, its own error ends the load, and this future with it.
async fn give(to: &mpsc::Sender<Job>, job: Job) {
    if to.send(job).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Tells whether an ALTER only switches keys off or on for the time of the load.
pub(super) fn is_about_keys(sql: &[u8]) -> bool {
    let end = sql.strip_suffix(b"*/").unwrap_or(sql).trim_ascii_end();
    end.ends_with(b" DISABLE KEYS") || end.ends_with(b" ENABLE KEYS")
}
