//! Reads the pieces of all tables, on every connection of a snapshot at once.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{Chunk, DumpSink, Options, Progress, pieces::Piece, rows::ChunkReader};
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
    /// A piece of this table was read to its end.
    Done(usize),
    Failed(Error),
}

/// Work that connections share.
struct Work {
    tables: Vec<Table>,
    /// The next number of a chunk, for each table.
    numbers: Vec<AtomicU32>,
    pieces: Mutex<VecDeque<Piece>>,
    options: Options,
}

/// Reads all pieces; gives back the connections, whose snapshot lived until here.
pub(in crate::mysql) async fn read(
    readers: Vec<Wire>,
    tables: &[Table],
    pieces: Vec<Piece>,
    options: &Options,
    sink: &mut dyn DumpSink,
) -> Result<(Vec<Wire>, Read)> {
    let mut read = Read { tables: vec![TableRead::default(); tables.len()], ..Read::default() };
    for piece in &pieces {
        read.tables[piece.table].pieces_left += 1;
    }
    let mut tables_done = read.tables.iter().filter(|table| table.pieces_left == 0).count();
    let work = Arc::new(Work {
        tables: tables.to_vec(),
        numbers: tables.iter().map(|_| AtomicU32::new(0)).collect(),
        pieces: Mutex::new(pieces.into()),
        options: options.clone(),
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
    Ok((back, read))
}

/// Reads one piece after the other, until none is left or one fails.
async fn work_on(mut reader: Wire, work: Arc<Work>, teller: mpsc::Sender<Told>) -> Wire {
    loop {
        let next = work.pieces.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(piece) = next else { return reader };
        let told = match read_piece(&mut reader, &work, &piece, &teller).await {
            Ok(()) => Told::Done(piece.table),
            Err(error) => {
                let table = &work.tables[piece.table];
                Told::Failed(error.during(format!("dump of table `{}.{}`", table.schema, table.name)))
            }
        };
        let has_failed = matches!(told, Told::Failed(_));
        if teller.send(told).await.is_err() || has_failed {
            return reader;
        }
    }
}

async fn read_piece(reader: &mut Wire, work: &Work, piece: &Piece, teller: &mpsc::Sender<Told>) -> Result<()> {
    let table = &work.tables[piece.table];
    // Rolling back to here lets go of the table: a change of its definition must not queue behind a long dump, and the
    // application behind that change.
    reader.run("SAVEPOINT chom_table").await?;
    {
        let mut rows = ChunkReader::begin(reader, table, piece.range.as_ref(), work.options.chunk_bytes).await?;
        while let Some(mut chunk) = rows.next().await? {
            if work.options.cancel.is_cancelled() {
                return Err(Error::new(ErrorKind::Cancelled, "the dump was cancelled"));
            }
            chunk.number = work.numbers[piece.table].fetch_add(1, Ordering::Relaxed);
            if teller.send(Told::Chunk(piece.table, chunk)).await.is_err() {
                return Err(Error::new(ErrorKind::Cancelled, "the dump ended"));
            }
        }
    }
    reader.run("ROLLBACK TO SAVEPOINT chom_table").await
}
