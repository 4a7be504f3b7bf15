//! Loads the rows of all tables over several connections, and builds each table's keys when its rows are there.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::{Incoming, TableName, infile, keys};
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        dump::Progress,
        objects::Table,
        server::Server,
        session::{Role, Session, server_code},
    },
};

/// Memory in which a MySQL sorts the entries of keys that it builds, in bytes for each table; by default it has 1 MiB.
const SORT_BUFFER: u64 = 64 << 20;

/// What connections share.
pub(in crate::mysql) struct Work {
    tables: BTreeMap<TableName, Table>,
    queue: Mutex<Queue>,
    changed: Notify,
}

/// What is to be done.
struct Queue {
    chunks: VecDeque<Incoming>,
    /// Keys of tables whose rows are there.
    ready: VecDeque<(TableName, Vec<Vec<u8>>)>,
    /// Keys of tables whose rows are not.
    waiting: BTreeMap<TableName, Vec<Vec<u8>>>,
    /// Chunks of each table that are not loaded yet.
    left: BTreeMap<TableName, usize>,
    /// Chunks that are being loaded.
    running: usize,
}

enum Task {
    Chunk(Incoming),
    Keys(TableName, Vec<Vec<u8>>),
}

/// What a connection has to tell.
enum Told {
    Chunk { table: TableName, number: u32, rows: u64, bytes: u64 },
    Table,
    Failed(Error),
}

/// What was loaded.
#[derive(Debug, Default)]
pub(in crate::mysql) struct Loaded {
    pub(in crate::mysql) chunks: Vec<(TableName, u32)>,
    pub(in crate::mysql) rows: u64,
    pub(in crate::mysql) bytes: u64,
}

impl Work {
    /// Puts the chunks of the largest table first; `sizes` are bytes of encoded rows. `waiting` are keys to be built when
    /// their table's last chunk is loaded.
    pub(in crate::mysql) fn new(
        tables: BTreeMap<TableName, Table>,
        mut chunks: Vec<Incoming>,
        sizes: &BTreeMap<TableName, u64>,
        waiting: BTreeMap<TableName, Vec<Vec<u8>>>,
    ) -> Self {
        let size = |chunk: &Incoming| sizes.get(&chunk.table_name()).copied().unwrap_or_default();
        chunks.sort_by(|a, b| size(b).cmp(&size(a)).then_with(|| a.table_name().cmp(&b.table_name())));
        let mut left = BTreeMap::new();
        for chunk in &chunks {
            *left.entry(chunk.table_name()).or_default() += 1;
        }
        let queue = Queue { chunks: chunks.into(), ready: VecDeque::new(), waiting, left, running: 0 };
        Self { tables, queue: Mutex::new(queue), changed: Notify::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next task; `None` when there will be none.
    async fn next(&self) -> Option<Task> {
        loop {
            let changed = self.changed.notified();
            {
                let mut queue = self.queue();
                if let Some((table, keys)) = queue.ready.pop_front() {
                    return Some(Task::Keys(table, keys));
                }
                if let Some(chunk) = queue.chunks.pop_front() {
                    queue.running += 1;
                    return Some(Task::Chunk(chunk));
                }
                if queue.running == 0 {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// Notes that a chunk is loaded; tells whether its table has all rows now.
    fn loaded(&self, table: &TableName) -> bool {
        let mut queue = self.queue();
        queue.running -= 1;
        let left = queue.left.get_mut(table).map_or(0, |left| {
            *left -= 1;
            *left
        });
        if left == 0
            && let Some(keys) = queue.waiting.remove(table)
        {
            queue.ready.push_back((table.clone(), keys));
        }
        drop(queue);
        self.changed.notify_waiters();
        left == 0
    }
}

/// Does all of the work over these connections.
///
/// # Errors
/// Those of the first connection that failed; the others end with it.
pub(in crate::mysql) async fn run(
    sessions: Vec<Session>,
    work: Work,
    on_progress: &mut (dyn FnMut(&Progress) + Send),
) -> Result<Loaded> {
    let tables = work.tables.len();
    // Tables without a row have no chunk.
    let mut tables_done = tables - work.queue().left.len();
    let work = Arc::new(work);
    let (teller, mut told) = mpsc::unbounded_channel();
    let mut working = Vec::new();
    for session in sessions {
        let task = work_on(session, Arc::clone(&work), teller.clone());
        working.push(AbortOnDropHandle::new(tokio::spawn(task)));
    }
    drop(teller);
    let mut loaded = Loaded::default();
    while let Some(told) = told.recv().await {
        match told {
            Told::Chunk { table, number, rows, bytes } => {
                loaded.rows += rows;
                loaded.bytes += bytes;
                let (schema, name) = table.clone();
                loaded.chunks.push((table, number));
                let (rows, bytes) = (loaded.rows, loaded.bytes);
                on_progress(&Progress { schema, table: name, tables_done, tables, rows, bytes });
            }
            Told::Table => tables_done += 1,
            Told::Failed(error) => return Err(error),
        }
    }
    for one in working {
        one.await.map_err(|e| Error::new(ErrorKind::Failed, "a connection's work ended early").caused_by(e))?;
    }
    Ok(loaded)
}

/// Opens a connection to a candidate.
pub(super) async fn open(server: &Server) -> Result<Session> {
    let mut session = server.session(Role::Load).await?;
    match session.run(format!("SET SESSION innodb_ddl_buffer_size = {SORT_BUFFER}")).await {
        Ok(_) => Ok(session),
        // MariaDB, and MySQL before 8.0.27, do not know it (1193).
        Err(e) if server_code(&e) == Some(1193) => Ok(session),
        Err(e) => Err(e),
    }
}

/// Does one task after the other, until none is left or one fails.
async fn work_on(mut session: Session, work: Arc<Work>, teller: mpsc::UnboundedSender<Told>) {
    while let Some(task) = work.next().await {
        let told = match task {
            Task::Chunk(chunk) => load_chunk(&mut session, &work, chunk).await,
            Task::Keys(table, keys) => add_keys(&mut session, &table, &keys).await.map(|()| None),
        };
        let told = match told {
            Ok(told) => told,
            Err(error) => Some(Told::Failed(error)),
        };
        let has_failed = matches!(told, Some(Told::Failed(_)));
        if let Some(Told::Chunk { table, .. }) = &told
            && work.loaded(table)
        {
            let _ = teller.send(Told::Table);
        }
        // Nobody listens any more when another connection failed.
        if told.is_some_and(|told| teller.send(told).is_err()) || has_failed {
            return;
        }
    }
    session.close().await;
}

async fn load_chunk(session: &mut Session, work: &Work, chunk: Incoming) -> Result<Option<Told>> {
    let (name, table, number, rows) = (chunk.name(), chunk.table_name(), chunk.number, chunk.rows);
    let known = work.tables.get(&table);
    let definition =
        known.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{name}: the dump has no such table")))?;
    let bytes = infile::load(session, definition, chunk).await.map_err(|e| e.during(&name))?;
    Ok(Some(Told::Chunk { table, number, rows, bytes }))
}

/// Builds keys, all in one pass over the rows.
pub(super) async fn add_keys(session: &mut Session, (schema, table): &TableName, keys: &[Vec<u8>]) -> Result<()> {
    let added = session.run(keys::add(schema, table, keys)).await.map(drop);
    added.map_err(|e| {
        let duplicate = server_code(&e) == Some(1062);
        let e = e.during(format!("keys of table `{schema}.{table}`"));
        if duplicate {
            e.of_kind(ErrorKind::Corrupt).hint("rows of the backup break a unique key of their table")
        } else {
            e
        }
    })
}
