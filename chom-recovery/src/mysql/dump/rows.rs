//! Rows of a table, encoded and cut into chunks.

use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        baseline::RowHash,
        json,
        objects::{Column, Table},
        quote,
        wire::{Cells, RawRows, Wire},
    },
};

use super::{Chunk, encode, key::Range};

/// Chunks that are begun with memory for all of them, in bytes at most.
const GROWN: usize = 64 << 20;
/// Room for the end of the last row, in bytes.
const ROOM: usize = 64 << 10;

/// Reads a table chunk by chunk.
pub(in crate::mysql) struct ChunkReader<'a> {
    rows: RawRows<'a>,
    schema: String,
    table: String,
    cells: usize,
    limit: usize,
    number: u32,
    ended: bool,
}

impl<'a> ChunkReader<'a> {
    /// Begins to read the rows of a table, or a range of them. `limit` is in encoded bytes; a chunk holds at least one row.
    pub(in crate::mysql) async fn begin(
        wire: &'a mut Wire,
        table: &Table,
        range: Option<&Range>,
        limit: usize,
    ) -> Result<Self> {
        let rows = wire.begin(select(table) + &range.map(Range::condition).unwrap_or_default()).await?;
        Ok(Self {
            rows,
            schema: table.schema.clone(),
            table: table.name.clone(),
            cells: table.cells(),
            limit,
            number: 0,
            ended: false,
        })
    }

    /// Reads the next chunk; `None` after the last row.
    pub(in crate::mysql) async fn next(&mut self) -> Result<Option<Chunk>> {
        if self.ended {
            return Ok(None);
        }
        let (mut bytes, mut rows, mut row_hash) = (Vec::new(), 0, RowHash::default());
        if self.number > 0 {
            // The one before was full; growing would copy it again and again, and hold twice its memory.
            bytes.reserve(self.limit.min(GROWN) + ROOM);
        }
        while bytes.len() < self.limit {
            let Some(row) = self.rows.next().await? else {
                self.ended = true;
                break;
            };
            let begin = bytes.len();
            encode_row(&mut bytes, &row, self.cells)?;
            row_hash.add_row(&bytes[begin..]);
            rows += 1;
        }
        if rows == 0 {
            return Ok(None);
        }
        let number = self.number;
        self.number += 1;
        Ok(Some(Chunk {
            schema: self.schema.clone(),
            table: self.table.clone(),
            number,
            rows,
            row_hash,
            bytes: bytes.into(),
        }))
    }
}

/// Appends a row that has so many cells, with the line feed at its end.
pub(in crate::mysql) fn encode_row(bytes: &mut Vec<u8>, row: &[u8], wanted: usize) -> Result<()> {
    let mut cells = 0;
    for cell in Cells::of(row) {
        if cells > 0 {
            bytes.push(b'\t');
        }
        encode::cell(bytes, cell?);
        cells += 1;
    }
    if cells != wanted {
        return Err(Error::new(ErrorKind::Failed, "a row has another number of cells than was asked for"));
    }
    bytes.push(b'\n');
    Ok(())
}

/// Writes the query for all rows of a table.
pub(in crate::mysql) fn select(table: &Table) -> String {
    let columns = table.columns.iter().map(|c| expression(table, c)).collect::<Vec<_>>().join(", ");
    let history = if table.history { " FOR SYSTEM_TIME ALL" } else { "" };
    format!("SELECT {columns} FROM {}{history}", quote::qualified(&table.schema, &table.name))
}

/// Writes the expression that gives a column without loss as text, in as many cells as it takes.
fn expression(table: &Table, column: &Column) -> String {
    let name = quote::ident(&column.name);
    match column.data_type.as_str() {
        // The server prints six digits of a float, which is not enough, but all of a double.
        "float" => format!("CAST({name} AS DOUBLE)"),
        "enum" | "set" => format!("CAST({name} AS UNSIGNED)"),
        // Qualified, so that no name inside the expression hides the column's.
        _ if column.json_types => {
            format!("{name}, {}", json::types(&format!("{}.{name}", quote::qualified(&table.schema, &table.name))))
        }
        _ => name,
    }
}
