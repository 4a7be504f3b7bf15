//! Archives of files: read to their end, never unpacked.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::Path,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind, Result},
    mysql::sqlfile::{Input, Stored},
};

const BLOCK: usize = 512;

/// What an archive holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveContents {
    /// Entries in all.
    pub entries: u64,
    /// Entries by type: `file`, `directory`, `symlink`, `hardlink`, `other`.
    pub kinds: BTreeMap<String, u64>,
    /// Bytes of files.
    pub bytes: u64,
    /// Bytes of the decompressed archive.
    pub plain_bytes: u64,
    /// Newest change of any entry.
    pub newest: Option<DateTime<Utc>>,
    /// Entries that no careful restore would take as they are: absolute names, `..`, devices.
    pub suspicious: Vec<String>,
}

/// Keeps the end of what is read: an archive that was cut between two entries has no closing blocks.
struct Tail<'a> {
    input: &'a mut Input,
    last: Vec<u8>,
    total: u64,
}

impl Read for Tail<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.total += n as u64;
        if n >= 2 * BLOCK {
            self.last.clear();
            self.last.extend_from_slice(&buffer[n - 2 * BLOCK..n]);
        } else {
            self.last.extend_from_slice(&buffer[..n]);
            let more = self.last.len().saturating_sub(2 * BLOCK);
            self.last.drain(..more);
        }
        Ok(n)
    }
}

/// Reads an archive to its end. A blocking call.
///
/// # Errors
/// `Corrupt`: it is cut, or is no archive.
pub(super) fn read(path: &Path, progress: &dyn Fn(u64, u64)) -> Result<(ArchiveContents, Stored)> {
    let mut input = Input::open(path)?;
    let (counter, length) = (input.counter(), input.len());
    let broken = |e: io::Error| {
        Error::new(ErrorKind::Corrupt, format!("the archive cannot be read to its end: {e}")).caused_by(e)
    };
    let mut contents = ArchiveContents::default();
    let mut tail = Tail { input: &mut input, last: Vec::new(), total: 0 };
    {
        let mut archive = tar::Archive::new(&mut tail);
        for entry in archive.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            contents.add(&entry);
            io::copy(&mut entry, &mut io::sink()).map_err(broken)?;
            progress(counter.load(std::sync::atomic::Ordering::Relaxed), length);
        }
    }
    io::copy(&mut tail, &mut io::sink()).map_err(broken)?;
    let is_closed = tail.last.len() == 2 * BLOCK && tail.last.iter().all(|b| *b == 0);
    contents.plain_bytes = tail.total;
    if !is_closed {
        return Err(Error::new(ErrorKind::Corrupt, "the archive ends without its closing blocks: it was cut")
            .with("entries up to there", contents.entries));
    }
    Ok((contents, input.into_stored()?))
}

impl ArchiveContents {
    fn add(&mut self, entry: &tar::Entry<'_, impl Read>) {
        /// Suspicious entries that are kept one by one.
        const KEPT: usize = 20;
        let header = entry.header();
        let kind = match header.entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => "file",
            tar::EntryType::Directory => "directory",
            tar::EntryType::Symlink => "symlink",
            tar::EntryType::Link => "hardlink",
            _ => "other",
        };
        self.entries += 1;
        *self.kinds.entry(kind.to_owned()).or_default() += 1;
        if kind == "file" {
            self.bytes += entry.size();
        }
        if let Some(time) = header.mtime().ok().and_then(|s| DateTime::from_timestamp(i64::try_from(s).ok()?, 0)) {
            self.newest = self.newest.max(Some(time));
        }
        let path = entry.path_bytes();
        let climbs = path.split(|b| *b == b'/').any(|part| part == b"..");
        if (path.starts_with(b"/") || climbs || kind == "other") && self.suspicious.len() < KEPT {
            self.suspicious.push(format!("{kind} `{}`", path.escape_ascii()));
        }
    }
}
