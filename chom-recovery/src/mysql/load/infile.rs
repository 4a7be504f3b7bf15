//! Loads encoded rows with `LOAD DATA LOCAL`.
//!
//! `LOCAL` makes the server turn errors into warnings, and a stream that breaks off looks like one that ended. So each
//! chunk is one transaction, which is committed only when the stream ended as promised and the server counted the
//! promised rows, skipped none and warned of none.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::{Stream, StreamExt};

use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        baseline::RowHash,
        json,
        objects::{Column, Table},
        quote,
        session::Session,
    },
};

use super::{Incoming, has_rows};

/// What went over the wire.
#[derive(Default)]
struct Sent {
    ended: bool,
    bytes: u64,
    rows: RowCounter,
    failure: Option<Error>,
}

/// Loads a chunk; returns its encoded bytes.
pub(in crate::mysql) async fn load(session: &mut Session, table: &Table, chunk: Incoming) -> Result<u64> {
    if !has_rows(table) {
        return Err(Error::new(ErrorKind::Corrupt, "the table's definition says that it has no rows of its own"));
    }
    session.run("START TRANSACTION").await?;
    match attempt(session, table, chunk).await {
        Ok(bytes) => {
            session.run("COMMIT").await?;
            Ok(bytes)
        }
        Err(error) => {
            // A lost connection rolls back by itself.
            let _ = session.run("ROLLBACK").await;
            Err(error)
        }
    }
}

async fn attempt(session: &mut Session, table: &Table, chunk: Incoming) -> Result<u64> {
    let mut rows = RowCounter::default();
    for column in &table.columns {
        if column.data_type == "enum" {
            rows.enums.push(rows.cells);
        }
        rows.cells += column.cells();
    }
    let sent = Arc::new(Mutex::new(Sent { rows, ..Sent::default() }));
    session.feed(Box::pin(watched(chunk.bytes, Arc::clone(&sent))));
    let done = session.run(statement(table)).await;
    let mut sent = std::mem::take(&mut *sent.lock().unwrap_or_else(PoisonError::into_inner));
    // Our own failure explains the server's better than the server does.
    if let Some(failure) = sent.failure.take() {
        return Err(failure);
    }
    let done = done?;
    if !sent.ended {
        return Err(Error::new(ErrorKind::Failed, "the server did not read the rows to their end"));
    }
    let blanks = sent.rows.blanks;
    let (rows, hash) = sent.rows.finish()?;
    if rows != chunk.rows || chunk.row_hash.is_some_and(|h| h != hash) {
        return Err(Error::new(ErrorKind::Corrupt, "its rows are not those that were dumped")
            .with("rows", rows)
            .with("promised", chunk.rows));
    }
    check(session, table, &done.info, chunk.rows, blanks).await?;
    Ok(sent.bytes)
}

/// Compares the server's count with the promise. `blanks` is the number of invalid ENUM values among the rows, of each
/// of which the server warns.
async fn check(session: &mut Session, table: &Table, info: &str, rows: u64, blanks: u64) -> Result<()> {
    let [records, deleted, skipped, warned] = counts(info)?;
    if warned != blanks && records == rows && skipped == 0 && deleted == 0 {
        let warnings = session.warnings().await?;
        let harmless = |w: &(u64, String)| blank_enum(table, w) || is_of_expression(table, w);
        let of_expressions = warnings.iter().filter(|w| is_of_expression(table, w)).count() as u64;
        if warnings.len() as u64 == warned && warned == blanks + of_expressions {
            return Ok(());
        }
        let first = warnings.iter().find(|w| !harmless(w)).or(warnings.first());
        let shown = first.map_or_else(String::new, |(code, text)| format!("{code}: {text}"));
        return Err(Error::new(ErrorKind::Failed, "the server changed a value while it loaded it")
            .with("warnings", warned)
            .with("first", shown));
    }
    if records != rows || deleted != 0 || skipped != 0 {
        let first = session.warnings().await.unwrap_or_default().into_iter().next();
        let mut error = Error::new(ErrorKind::Failed, "the server did not take every row")
            .with("rows", rows)
            .with("records", records)
            .with("skipped", skipped)
            .with("deleted", deleted);
        if let Some((code, text)) = first {
            error = error.with("first", format!("{code}: {text}"));
        }
        return Err(error);
    }
    Ok(())
}

/// Tells whether a warning is that of an ENUM given the invalid value 0 (1265). The server stores just that value, and
/// warns all the same.
fn blank_enum(table: &Table, (code, text): &(u64, String)) -> bool {
    *code == 1265 && table.columns.iter().any(|c| c.data_type == "enum" && text.contains(&format!("'{}'", c.name)))
}

/// Tells whether a warning came from an expression of the table's, a generated column or a check (1292 without the name of a
/// column that a value was for). The rows that it computes with are those that were dumped, and it warned at the source too.
fn is_of_expression(table: &Table, (code, text): &(u64, String)) -> bool {
    let has = |word: &[u8]| quote::find(table.create.bytes(), word, 0).is_some();
    *code == 1292 && !text.contains("for column") && (has(b" AS (") || has(b"CHECK (") || has(b"(("))
}

/// Reads `Records: 3  Deleted: 0  Skipped: 0  Warnings: 0`.
fn counts(info: &str) -> Result<[u64; 4]> {
    let mut numbers = info.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty()).map(str::parse::<u64>);
    let mut next = || numbers.next().and_then(std::result::Result::ok);
    match (next(), next(), next(), next()) {
        (Some(records), Some(deleted), Some(skipped), Some(warnings)) => Ok([records, deleted, skipped, warnings]),
        _ => Err(Error::new(
            ErrorKind::Failed,
            format!("the server did not count what it loaded: `{}`", info.escape_debug()),
        )),
    }
}

/// Passes a stream on and notes how it went. After an error it ends: the driver could not pass an error on.
fn watched(
    stream: crate::stream::ByteStream,
    sent: Arc<Mutex<Sent>>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    futures::stream::unfold((stream, sent), |(mut stream, sent)| async move {
        let piece = stream.next().await;
        let mut note = sent.lock().unwrap_or_else(PoisonError::into_inner);
        let out = match piece {
            Some(Ok(bytes)) => {
                note.bytes += bytes.len() as u64;
                note.rows.feed(&bytes);
                Some(bytes)
            }
            Some(Err(error)) => {
                note.failure = Some(error);
                None
            }
            None => {
                note.ended = true;
                None
            }
        };
        drop(note);
        out.map(|bytes| (Ok(bytes), (stream, sent)))
    })
}

/// Counts and hashes rows of a stream: a line feed ends a row, and rows hold no other.
#[derive(Default)]
struct RowCounter {
    rows: u64,
    hash: RowHash,
    /// Begin of a row whose end has not come.
    begun: Vec<u8>,
    /// Cells that each row must have.
    cells: usize,
    /// Whether a row had another number of cells.
    misshapen: bool,
    /// Cells that are ENUMs.
    enums: Vec<usize>,
    /// Cells of those that hold the invalid value 0.
    blanks: u64,
}

impl RowCounter {
    fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            if self.begun.is_empty() {
                self.row(&bytes[..=end]);
            } else {
                let mut row = std::mem::take(&mut self.begun);
                row.extend_from_slice(&bytes[..=end]);
                self.row(&row);
            }
            bytes = &bytes[end + 1..];
        }
        self.begun.extend_from_slice(bytes);
    }

    fn row(&mut self, row: &[u8]) {
        self.rows += 1;
        self.hash.add_row(row);
        // The server does not warn of a missing cell when it goes through a variable.
        let cells = memchr::memchr_iter(b'\t', row).count() + 1;
        self.misshapen |= cells != self.cells;
        if !self.enums.is_empty() {
            let cells = row[..row.len() - 1].split(|b| *b == b'\t').enumerate();
            let blanks = cells.filter(|(i, cell)| *cell == b"0" && self.enums.contains(i)).count();
            self.blanks += blanks as u64;
        }
    }

    fn finish(self) -> Result<(u64, RowHash)> {
        if !self.begun.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, "its last row is cut off"));
        }
        if self.misshapen {
            return Err(Error::new(ErrorKind::Corrupt, "a row has another number of columns than its table"));
        }
        Ok((self.rows, self.hash))
    }
}

/// Writes the statement.
fn statement(table: &Table) -> String {
    let mut targets = Vec::new();
    let mut sets = Vec::new();
    for (i, column) in table.columns.iter().enumerate() {
        let name = quote::ident(&column.name);
        match conversion(column) {
            _ if column.json_types => {
                let (text, types) = (format!("@c{i}"), format!("@t{i}"));
                sets.push(format!("{name} = {}", json::document(&text, &types)));
                targets.extend([text, types]);
            }
            None => targets.push(name),
            Some(convert) => {
                targets.push(format!("@c{i}"));
                sets.push(format!("{name} = {}", convert.replace('?', &format!("@c{i}"))));
            }
        }
    }
    let set = if sets.is_empty() { String::new() } else { format!(" SET {}", sets.join(", ")) };
    format!(
        "LOAD DATA LOCAL INFILE 'chunk' INTO TABLE {} CHARACTER SET binary \
         FIELDS TERMINATED BY '\\t' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n' ({}){set}",
        quote::qualified(&table.schema, &table.name),
        targets.join(", ")
    )
}

/// Expression that turns the loaded text `?` into the column's value, where the raw bytes do not do.
fn conversion(column: &Column) -> Option<&'static str> {
    match column.data_type.as_str() {
        // These take text in a character set and refuse, or take as their binary form, bytes without one.
        "json" | "inet4" | "inet6" | "uuid" | "xmltype" => Some("CONVERT(? USING utf8mb4)"),
        // A text would be looked up among the members before it is taken for a number.
        "enum" | "set" => Some("CAST(? AS UNSIGNED)"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_counts_are_read_or_refused() {
        assert_eq!(counts("Records: 3  Deleted: 0  Skipped: 1  Warnings: 2").unwrap(), [3, 0, 1, 2]);
        assert_eq!(counts("").unwrap_err().kind(), ErrorKind::Failed);
    }

    #[test]
    fn rows_are_counted_across_pieces_and_a_cut_row_is_seen() {
        let counter = || RowCounter { cells: 2, ..RowCounter::default() };
        let mut whole = counter();
        whole.feed(b"1\ta\n2\tb\n");
        let mut pieces = counter();
        for piece in [b"1\t".as_slice(), b"a\n2", b"\tb", b"\n"] {
            pieces.feed(piece);
        }
        assert_eq!(whole.finish().unwrap(), pieces.finish().unwrap());
        let mut cut = counter();
        cut.feed(b"1\ta\n2\t");
        assert_eq!(cut.finish().unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
