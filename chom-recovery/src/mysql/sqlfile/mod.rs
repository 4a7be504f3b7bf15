//! Files that mysqldump and mariadb-dump wrote: `.sql`, plain or compressed.
//!
//! A file is read as bytes, never as characters, by a [`Splitter`] that knows quotes, comments, conditional comments,
//! `DELIMITER`, the settings that change quoting, and the character sets whose characters may end in a quote. Each
//! byte is handed out once, in [`Piece`]s. [`read`] makes [`Contents`] of a whole file: what it holds, whether it is
//! whole, and what is wrong. [`load`] runs its statements on a candidate, rows on several connections at once, and counts
//! what the server took; [`compare`] proves that the candidate holds what the file promised. A [`Selection`] of tables
//! can be taken out of a file.
//!
//! Nothing in a file is trusted: statements that no dump holds are refused, and what would act on a server as a whole
//! is left out. `USE`, `CREATE DATABASE` and `DROP DATABASE` are run like all others, which is safe only because
//! [`load`] takes none but an empty, isolated candidate. Single tables are filled beside production's as well: then nothing
//! but literal values and settings of the session come out of the file.
//!
//! Memory does not grow with the file: a long INSERT is cut between two rows ([`Limits::split`]), and a row or another
//! statement that is longer than [`Limits::longest`] is an error.

use std::path::Path;

mod compare;
mod contents;
mod header;
mod input;
mod load;
mod mode;
mod noise;
mod scan;
mod select;
mod splitter;
mod statement;
#[cfg(test)]
mod tests;
mod tokens;
pub(crate) mod write;

pub use compare::compare;
pub use contents::{Completion, Contents, Place, TableContents};
pub use header::Header;
pub use input::{FileCompression, Input, Stored};
pub(in crate::mysql) use load::{Beside, computed, load_beside};
pub use load::{LoadOptions, LoadReport, is_same_series, load};
pub use select::Selection;
pub use splitter::{Limits, Piece, Splitter, Token};
pub(in crate::mysql) use statement::trigger_table;
pub use statement::{Assignment, Insert, Kind, Name, Object, Settings, Source};

use crate::error::{Error, Result};

/// A file that was read to its end.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SqlFile {
    /// The file as stored.
    pub stored: Stored,
    /// What it holds.
    pub contents: Contents,
}

/// Reads a file to its end. What is wrong with its content is part of the answer. `progress` gets stored bytes done
/// and in all.
///
/// # Errors
/// Those of [`Input::open`], and of a task that ended early.
pub async fn read(path: &Path, limits: Limits, progress: impl Fn(u64, u64) + Send + 'static) -> Result<SqlFile> {
    let path = path.to_owned();
    blocking(move || read_now(&path, limits, &progress)).await
}

/// Does what [`read`] does, on this thread.
pub(crate) fn read_now(path: &Path, limits: Limits, progress: &dyn Fn(u64, u64)) -> Result<SqlFile> {
    /// Stored bytes between two calls of `progress`.
    const STEP: u64 = 1 << 20;
    let mut input = Input::open(path)?;
    let (counter, total) = (input.counter(), input.len());
    let mut reader = contents::Reader::default();
    let mut splitter = Splitter::new(&mut input, limits);
    let mut told = 0;
    loop {
        match splitter.next_piece() {
            Ok(Some(piece)) => reader.piece(&piece),
            Ok(None) => break,
            Err(error) => {
                reader.failed(splitter.offset(), error.message().to_owned());
                break;
            }
        }
        let done = counter.load(std::sync::atomic::Ordering::Relaxed);
        if done - told >= STEP {
            told = done;
            progress(done, total);
        }
    }
    Ok(SqlFile { stored: input.into_stored()?, contents: reader.finish() })
}

/// Runs what blocks on a thread of its own.
pub(in crate::mysql) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Error::new(crate::ErrorKind::Failed, "reading a dump ended early").caused_by(e)))
}
