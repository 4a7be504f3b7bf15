//! The journal of a run: an append-only file of JSON lines, each chained to the one before by its hash.
//!
//! A line is a [`Record`] with one more member, `hash`, at its end: the SHA-256, in hex, of the line's bytes without
//! that member. Every record is synced before appending it returns. Only the last line can be torn by a crash;
//! it is repaired when the file is opened for writing. Damage anywhere else is [`ErrorKind::Corrupt`]. Somebody who
//! can write the file can cut whole records off its end unnoticed; the chain guards against accidents and edits.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    error::{Error, ErrorKind, Result},
    run::{
        clock::{Clock, millis},
        failpoint,
        record::{Entry, Record},
    },
    secret,
};

/// Name of the file in a run's directory.
pub const FILE: &str = "journal.jsonl";
/// Space set aside in a run's directory, given up when the disk is full so that outcomes can still be written.
const RESERVE: &str = "reserve";
/// Size of the reserve in bytes: several hundred records.
const RESERVE_BYTES: u64 = 1 << 20;
const HASH_MEMBER: &str = ",\"hash\":\"";
/// `HASH_MEMBER`, 64 digits, `"}`.
const TAIL_LENGTH: usize = HASH_MEMBER.len() + 64 + 2;

/// A journal opened for writing. It holds the run's lock.
#[derive(Debug)]
pub(crate) struct Journal {
    medium: Box<dyn Medium>,
    path: PathBuf,
    boot: String,
    length: u64,
    seq: u64,
    prev: String,
    /// After a failed sync nobody knows what is on the disk: nothing more is written.
    poisoned: Option<String>,
    /// The disk was full, and the reserve went to an outcome: nothing new is begun before there is a reserve again.
    is_spent: bool,
}

/// What a journal needs of a file; tests put a disk that fills up in its place.
pub(crate) trait Medium: std::fmt::Debug + Send {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    /// Gives up the reserve; false when there is none left.
    fn release_reserve(&mut self) -> io::Result<bool>;
}

/// What a file held.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) records: Vec<Record>,
    /// Bytes up to the end of the last good record, its line end included.
    good: u64,
    /// Bytes behind it.
    torn: u64,
    /// The last good record lacks only its line end.
    lacks_line_end: bool,
    last_hash: String,
}

impl Journal {
    /// Makes the journal of a new run in `directory`, which must not hold one.
    pub(crate) fn create(directory: &Path, clock: &dyn Clock) -> Result<Self> {
        let path = directory.join(FILE);
        let fail = |e: io::Error| {
            Error::from(e)
                .during(format!("cannot make journal `{}`", path.display()))
                .hint("nothing was begun; see that the state directory can be written and has a few MiB free")
        };
        let file = OpenOptions::new().append(true).read(true).create_new(true).mode(0o600).open(&path).map_err(fail)?;
        lock(&file, &path)?;
        file.sync_all().map_err(fail)?;
        make_reserve(directory).map_err(fail)?;
        sync_directory(directory).map_err(fail)?;
        let medium = Box::new(Disk { file, directory: directory.to_owned() });
        Ok(Self {
            medium,
            path,
            boot: boot(clock),
            length: 0,
            seq: 0,
            prev: "0".repeat(64),
            poisoned: None,
            is_spent: false,
        })
    }

    /// Opens the journal in `directory` for writing and repairs its tail.
    ///
    /// # Errors
    /// `NotFound`: there is none. `Locked`: another process has it open. `Corrupt`: damaged elsewhere than at its end.
    pub(crate) fn open(directory: &Path, clock: &dyn Clock) -> Result<(Self, Vec<Record>)> {
        let path = directory.join(FILE);
        let fail = |e: io::Error| Error::from(e).during(format!("cannot open journal `{}`", path.display()));
        let mut file = OpenOptions::new().append(true).read(true).open(&path).map_err(fail)?;
        lock(&file, &path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(fail)?;
        let content = parse(&bytes, &path)?;
        // A disk that is still full must not keep a run from being rolled back.
        match make_reserve(directory) {
            Err(e) if e.kind() != io::ErrorKind::StorageFull => return Err(fail(e)),
            _ => {}
        }
        let mut journal = Self {
            medium: Box::new(Disk { file, directory: directory.to_owned() }),
            path,
            boot: boot(clock),
            length: content.good,
            seq: content.records.len() as u64,
            prev: content.last_hash,
            poisoned: None,
            is_spent: false,
        };
        let mut records = content.records;
        if content.torn > 0 {
            journal.medium.truncate(content.good).map_err(|e| Error::from(e).during("cannot repair the journal"))?;
            records.push(journal.append(Entry::TailRepaired { dropped: content.torn }, clock)?);
        } else if content.lacks_line_end {
            journal.put(b"\n", true)?;
        }
        Ok((journal, records))
    }

    /// Writes a record and returns after it is on the disk.
    ///
    /// # Errors
    /// `NoSpace`: the disk is full, and nothing was written; only entries that begin something fail so while there is
    /// a reserve. `Failed`: the disk did not take it, and the journal takes nothing more.
    pub(crate) fn append(&mut self, entry: Entry, clock: &dyn Clock) -> Result<Record> {
        let (name, due) = (entry.name(), entry.is_due());
        let mut record = Record {
            seq: self.seq,
            time: clock.now(),
            boot: self.boot.clone(),
            up_ms: millis(clock.since_boot()),
            prev: self.prev.clone(),
            entry,
        };
        let (line, hash) = encode(&record)?;
        failpoint::hit(&format!("before {name}"));
        self.put(&line, due)?;
        tracing::debug!(seq = self.seq, "journalled: {name}");
        failpoint::hit(&format!("after {name}"));
        self.seq += 1;
        self.prev = hash;
        // What goes on in memory is what a later process would read.
        record = decode(&line[..line.len() - 1]).map_err(|why| Error::new(ErrorKind::Failed, why))?.0;
        Ok(record)
    }

    fn put(&mut self, line: &[u8], due: bool) -> Result<()> {
        if let Some(why) = &self.poisoned {
            return Err(Error::new(ErrorKind::Failed, format!("journal `{}` is closed: {why}", self.path.display()))
                .hint("mend the disk, then resume the run"));
        }
        let is_refused = !due && self.is_spent;
        let mut result = if is_refused { Err(io::ErrorKind::StorageFull.into()) } else { self.medium.write(line) };
        if is_full(&result) && due {
            self.is_spent = true;
            self.medium
                .truncate(self.length)
                .and_then(|()| self.medium.release_reserve())
                .map_err(|e| self.poison(&e))?;
            result = self.medium.write(line);
        }
        match result {
            Ok(()) => {}
            Err(e) => {
                let full = is_full(&Err(e.kind().into()));
                self.medium.truncate(self.length).map_err(|e| self.poison(&e))?;
                return Err(Error::from(e)
                    .of_kind(if full { ErrorKind::NoSpace } else { ErrorKind::Failed })
                    .during(format!("cannot write journal `{}`", self.path.display()))
                    .hint("nothing was begun; free space on that disk, then resume the run"));
            }
        }
        failpoint::hit("before sync");
        self.medium.sync().map_err(|e| self.poison(&e))?;
        self.length += line.len() as u64;
        Ok(())
    }

    fn poison(&mut self, error: &io::Error) -> Error {
        let why = format!("its disk failed: {error}");
        self.poisoned = Some(why.clone());
        Error::new(ErrorKind::Failed, format!("journal `{}`: {why}", self.path.display()))
            .hint("mend the disk, then resume the run")
    }
}

/// Reads a journal without changing it; a torn tail is left out.
///
/// # Errors
/// `NotFound`: no such file. `Corrupt`: damage elsewhere than at the end. `Unsupported`: written by a newer version.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let bytes =
        std::fs::read(path).map_err(|e| Error::from(e).during(format!("cannot read journal `{}`", path.display())))?;
    Ok(parse(&bytes, path)?.records)
}

fn parse(bytes: &[u8], path: &Path) -> Result<Content> {
    let mut content =
        Content { records: Vec::new(), good: 0, torn: 0, lacks_line_end: false, last_hash: "0".repeat(64) };
    let mut rest = bytes;
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == b'\n');
        let line = &rest[..end.unwrap_or(rest.len())];
        let is_last = end.is_none_or(|end| end + 1 == rest.len());
        match decode(line).and_then(|(record, hash)| follows(&record, &content).map(|()| (record, hash))) {
            Ok((record, hash)) => {
                content.records.push(record);
                content.last_hash = hash;
                content.lacks_line_end = end.is_none();
            }
            // A crash leaves a prefix of the last line, or zeros where a page never reached the disk.
            Err(_) if end.is_none() || (is_last && line.contains(&0)) => {
                content.torn = rest.len() as u64;
                return Ok(content);
            }
            Err(why) => return Err(corrupt(path, content.records.len(), &why)),
        }
        let used = line.len() + usize::from(end.is_some());
        content.good += used as u64;
        rest = &rest[used..];
    }
    Ok(content)
}

fn follows(record: &Record, content: &Content) -> Result<(), String> {
    if record.seq != content.records.len() as u64 {
        return Err(format!("it says that it is record {}", record.seq));
    }
    if record.prev != content.last_hash {
        return Err("it does not follow the record before it".into());
    }
    Ok(())
}

fn corrupt(path: &Path, line: usize, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("journal `{}` is damaged at line {}: {why}", path.display(), line + 1))
        .hint("nothing is repaired automatically there; keep the file and look at the system itself")
}

fn encode(record: &Record) -> Result<(Vec<u8>, String)> {
    let fail = |e| Error::new(ErrorKind::InvalidInput, "a journal record cannot be written as JSON").caused_by(e);
    let mut value = serde_json::to_value(record).map_err(fail)?;
    scrub(&mut value);
    let text = serde_json::to_string(&value).map_err(fail)?;
    let hash = hex::encode(Sha256::digest(text.as_bytes()));
    let open = text.strip_suffix('}').unwrap_or(&text);
    Ok((format!("{open}{HASH_MEMBER}{hash}\"}}\n").into_bytes(), hash))
}

fn decode(line: &[u8]) -> Result<(Record, String), String> {
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8")?;
    let cut = text.len().checked_sub(TAIL_LENGTH).filter(|cut| text.is_char_boundary(*cut));
    let (open, tail) = text.split_at(cut.ok_or("it is too short")?);
    let hash =
        tail.strip_prefix(HASH_MEMBER).and_then(|t| t.strip_suffix("\"}")).ok_or("it does not end with its hash")?;
    let body = format!("{open}}}");
    if hex::encode(Sha256::digest(body.as_bytes())) != hash {
        return Err("its hash is wrong".into());
    }
    let record = serde_json::from_str(&body).map_err(|e| format!("it is unknown to this version: {e}"))?;
    Ok((record, hash.to_owned()))
}

/// Takes the secrets out of every text of a value, names of members included.
pub(crate) fn scrub(value: &mut Value) {
    match value {
        Value::String(text) => *text = secret::scrub(text),
        Value::Array(items) => items.iter_mut().for_each(scrub),
        Value::Object(members) => {
            *members = std::mem::take(members)
                .into_iter()
                .map(|(name, mut member)| {
                    scrub(&mut member);
                    (secret::scrub(&name), member)
                })
                .collect();
        }
        _ => {}
    }
}

fn lock(file: &File, path: &Path) -> Result<()> {
    // Somebody who lists runs holds a lock for an instant.
    for _ in 0..20 {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
            Err(TryLockError::Error(e)) => {
                return Err(Error::from(e).during(format!("cannot lock `{}`", path.display())));
            }
            Ok(()) => return Ok(()),
        }
    }
    Err(Error::new(ErrorKind::Locked, format!("journal `{}` is open in another process", path.display()))
        .hint("wait until that process has ended"))
}

/// Eight digits tell one boot from the next.
fn boot(clock: &dyn Clock) -> String {
    clock.boot_id().chars().take(8).collect()
}

fn is_full(result: &io::Result<()>) -> bool {
    result.as_ref().is_err_and(|e| {
        matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
    })
}

fn make_reserve(directory: &Path) -> io::Result<()> {
    let path = directory.join(RESERVE);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
    if file.metadata()?.len() < RESERVE_BYTES
        && let Err(e) = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RESERVE_BYTES)
    {
        if e != rustix::io::Errno::OPNOTSUPP {
            drop(file);
            std::fs::remove_file(&path)?;
            return Err(e.into());
        }
        (&file).write_all(&vec![0; 1 << 20])?;
    }
    file.sync_all()
}

/// Makes a directory that only its owner can enter, with its parents, and syncs those that it changed.
pub(crate) fn make_directory(path: &Path) -> Result<()> {
    let fail = |e: io::Error| Error::from(e).during(format!("cannot make directory `{}`", path.display()));
    let mut missing: Vec<&Path> = path.ancestors().take_while(|p| !p.exists()).collect();
    while let Some(next) = missing.pop() {
        match DirBuilder::new().mode(0o700).create(next) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(fail(e)),
            _ => {}
        }
        if let Some(parent) = next.parent() {
            sync_directory(if parent.as_os_str().is_empty() { Path::new(".") } else { parent }).map_err(fail)?;
        }
    }
    Ok(())
}

pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[derive(Debug)]
struct Disk {
    file: File,
    directory: PathBuf,
}

impl Medium for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.sync_data()
    }

    fn release_reserve(&mut self) -> io::Result<bool> {
        match std::fs::remove_file(self.directory.join(RESERVE)) {
            Ok(()) => sync_directory(&self.directory).map(|()| true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests;
