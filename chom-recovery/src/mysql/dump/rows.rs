//! Rows of a table, encoded and cut into chunks.

use crate::{
    error::Result,
    mysql::{
        baseline::RowHash,
        json,
        objects::{Column, Table},
        quote,
        session::{Rows, Session},
    },
};

use super::{Chunk, encode};

/// Reads a table chunk by chunk.
pub(in crate::mysql) struct ChunkReader<'a> {
    rows: Rows<'a>,
    schema: String,
    table: String,
    cells: usize,
    limit: usize,
    number: u32,
    ended: bool,
}

impl<'a> ChunkReader<'a> {
    /// Begins to read. `limit` is in encoded bytes; a chunk holds at least one row.
    pub(in crate::mysql) async fn begin(session: &'a mut Session, table: &Table, limit: usize) -> Result<Self> {
        let rows = session.begin_rows(&select(table)).await?;
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
        while bytes.len() < self.limit {
            let Some(row) = self.rows.next().await? else {
                self.ended = true;
                break;
            };
            let begin = bytes.len();
            for i in 0..self.cells {
                if i > 0 {
                    bytes.push(b'\t');
                }
                encode::cell(&mut bytes, row.bytes(i));
            }
            bytes.push(b'\n');
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

/// Writes the query for all rows of a table.
fn select(table: &Table) -> String {
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
