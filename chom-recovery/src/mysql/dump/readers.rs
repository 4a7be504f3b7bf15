//! Reads the pieces of all tables, on every connection of a snapshot at once.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::sync::{Notify, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Chunk, DumpSink, Options, Progress,
    pieces::{Job, Piece},
    rows::ChunkReader,
    throttle::Pace,
};
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{baseline::RowHash, objects::Table, wire::Wire},
};

/// What was read of a table.
#[derive(Debug, Clone, Default)]
pub(in crate::mysql) struct TableRead {
    pub(in crate::mysql) rows: u64,
    pub(in crate::mysql) row_hash: RowHash,
    pieces_left: usize,
}

/// What was read of all tables.
#[derive(Debug, Default)]
pub(in crate::mysql) struct Read {
    /// In the order of the definitions.
    pub(in crate::mysql) tables: Vec<TableRead>,
    pub(in crate::mysql) chunks: u64,
    pub(in crate::mysql) rows: u64,
    pub(in crate::mysql) bytes: u64,
}

/// What a connection has to tell.
enum Told {
    Chunk(usize, Chunk),
    /// One more piece of this table is to be read.
    More(usize),
    /// A piece of this table was read to its end.
    Done(usize),
    Failed(Error),
}

/// Work that connections share.
struct Work {
    tables: Vec<Table>,
    /// The next number of a chunk, for each table.
    numbers: Vec<AtomicU32>,
    queue: Mutex<Queue>,
    changed: Notify,
    options: Options,
    pace: Pace,
}

struct Queue {
    jobs: VecDeque<Job>,
    /// Connections that cut a piece off, after which there may be one more job.
    walking: usize,
}

impl Work {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next job; `None` when there will be none.
    async fn next(&self) -> Option<Job> {
        loop {
            let changed = self.changed.notified();
            {
                let mut queue = self.queue();
                if let Some(job) = queue.jobs.pop_front() {
                    queue.walking += usize::from(matches!(job, Job::Walk(_)));
                    return Some(job);
                }
                if queue.walking == 0 {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// Notes that a piece was cut off, and what is left.
    fn walked(&self, rest: Option<Job>) {
        let mut queue = self.queue();
        queue.walking -= 1;
        if let Some(rest) = rest {
            queue.jobs.push_front(rest);
        }
        drop(queue);
        self.changed.notify_waiters();
    }
}

/// Does all jobs; gives back the connections, whose snapshot lived until here.
pub(in crate::mysql) async fn read(
    readers: Vec<Wire>,
    tables: &[Table],
    jobs: Vec<Job>,
    options: &Options,
    pace: Pace,
    sink: &mut dyn DumpSink,
) -> Result<(Vec<Wire>, Read, Pace)> {
    let mut read = Read { tables: vec![TableRead::default(); tables.len()], ..Read::default() };
    for job in &jobs {
        read.tables[job.table()].pieces_left += 1;
    }
    let mut tables_done = read.tables.iter().filter(|table| table.pieces_left == 0).count();
    let work = Arc::new(Work {
        tables: tables.to_vec(),
        numbers: tables.iter().map(|_| AtomicU32::new(0)).collect(),
        queue: Mutex::new(Queue { jobs: jobs.into(), walking: 0 }),
        changed: Notify::new(),
        options: options.clone(),
        pace,
    });
    // One chunk may wait: a slow sink slows the dump and costs no memory.
    let (teller, mut told) = mpsc::channel(1);
    let reading: Vec<_> = readers
        .into_iter()
        .map(|reader| AbortOnDropHandle::new(tokio::spawn(work_on(reader, Arc::clone(&work), teller.clone()))))
        .collect();
    drop(teller);
    while let Some(told) = told.recv().await {
        let (index, chunk) = match told {
            Told::Chunk(index, chunk) => (index, chunk),
            Told::More(index) => {
                read.tables[index].pieces_left += 1;
                continue;
            }
            Told::Done(index) => {
                read.tables[index].pieces_left -= 1;
                tables_done += usize::from(read.tables[index].pieces_left == 0);
                continue;
            }
            Told::Failed(error) => return Err(error),
        };
        let table = &mut read.tables[index];
        table.rows += chunk.rows;
        table.row_hash += chunk.row_hash;
        read.chunks += 1;
        read.rows += chunk.rows;
        read.bytes += chunk.bytes.len() as u64;
        let (schema, table) = (chunk.schema.clone(), chunk.table.clone());
        sink.chunk(chunk).await?;
        let tables = tables.len();
        sink.progress(&Progress { schema, table, tables_done, tables, rows: read.rows, bytes: read.bytes });
    }
    let mut back = Vec::new();
    for one in reading {
        back.push(one.await.map_err(|e| Error::new(ErrorKind::Failed, "a reader ended early").caused_by(e))?);
    }
    let work = Arc::into_inner(work).ok_or_else(|| Error::new(ErrorKind::Failed, "a reader is still at work"))?;
    Ok((back, read, work.pace))
}

/// Does one job after the other, until none is left or one fails.
async fn work_on(mut reader: Wire, work: Arc<Work>, teller: mpsc::Sender<Told>) -> Wire {
    while let Some(job) = work.next().await {
        let index = job.table();
        let told = match do_job(&mut reader, &work, job, &teller).await {
            Ok(()) => Told::Done(index),
            Err(error) => {
                let table = &work.tables[index];
                Told::Failed(error.during(format!("rows of table `{}.{}`", table.schema, table.name)))
            }
        };
        let has_failed = matches!(told, Told::Failed(_));
        if teller.send(told).await.is_err() || has_failed {
            return reader;
        }
    }
    reader
}

async fn do_job(reader: &mut Wire, work: &Work, job: Job, teller: &mpsc::Sender<Told>) -> Result<()> {
    // Rolling back to here lets go of the table: a change of its definition must not queue behind a long dump, and the
    // application behind that change.
    reader.run("SAVEPOINT chom_table").await?;
    let piece = match job {
        Job::Read(piece) => piece,
        Job::Walk(walk) => {
            let index = walk.table;
            let (piece, rest) = walk.step(reader, &work.tables[index]).await?;
            // First: the next piece may be read to its end before this one.
            if rest.is_some() && teller.send(Told::More(index)).await.is_err() {
                return Err(ended());
            }
            work.walked(rest.map(Job::Walk));
            piece
        }
    };
    read_piece(reader, work, &piece, teller).await?;
    reader.run("ROLLBACK TO SAVEPOINT chom_table").await
}

async fn read_piece(reader: &mut Wire, work: &Work, piece: &Piece, teller: &mpsc::Sender<Told>) -> Result<()> {
    let table = &work.tables[piece.table];
    let mut rows = ChunkReader::begin(reader, table, piece.range.as_ref(), work.options.chunk_bytes).await?;
    while let Some(mut chunk) = rows.next().await? {
        work.pace.wait().await;
        if work.options.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "the dump was cancelled"));
        }
        chunk.number = work.numbers[piece.table].fetch_add(1, Ordering::Relaxed);
        if teller.send(Told::Chunk(piece.table, chunk)).await.is_err() {
            return Err(ended());
        }
    }
    Ok(())
}

/// Nobody takes what is read any more: another connection failed.
fn ended() -> Error {
    Error::new(ErrorKind::Cancelled, "the dump ended")
}
