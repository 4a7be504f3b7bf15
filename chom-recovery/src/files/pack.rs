//! Reading files into an archive.
//!
//! Files change and vanish while they are read. What a header promised is always kept, so that the archive stays in
//! step; what could not be read as one moment is read again where it is small, and told otherwise.

use std::{
    ffi::OsStr,
    ops::Range,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use bytes::Bytes;
use rustix::{
    buffer::spare_capacity,
    fs::{FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    beneath::{Folders, Root},
    entry::{Entry, Extent, Kind, TreePath},
    tar::{padding, write_header},
    walk::{Large, Link, Planned, Seen, TroubleKind, Troubles, attributes_of, extents_of},
};
use crate::error::{Error, ErrorKind, Result};

/// Bytes that are handed on at once.
const PIECE: usize = 256 << 10;
/// A file up to this size is read as a whole, and again when it changed meanwhile.
const SMALL: u64 = 1 << 20;
/// How often.
const ATTEMPTS: u32 = 3;

/// Takes bytes of an archive.
pub type Send<'a> = &'a mut dyn FnMut(Bytes) -> Result<()>;

/// What went into an archive.
#[derive(Debug, Default, Clone)]
pub struct Packed {
    /// Entries.
    pub entries: u64,
    /// Bytes of files, holes included.
    pub bytes: u64,
    /// Bytes that the files will take on a filesystem with blocks of 4 KiB, holes not counted.
    pub allocated: u64,
    /// What was not as it should be.
    pub troubles: Troubles,
    /// First names of files with several names that are not in the archive.
    pub missing: Vec<TreePath>,
    /// Whether every file was what the walk had seen.
    pub is_as_walked: bool,
}

impl Packed {
    fn new() -> Self {
        Self { is_as_walked: true, ..Self::default() }
    }

    fn count(&mut self, kind: &Kind) {
        self.entries += 1;
        if let Kind::File { size, .. } = kind {
            self.bytes += size;
        }
        self.allocated += kind.data_len().next_multiple_of(4096);
    }
}

struct Buffer<'a> {
    bytes: Vec<u8>,
    send: Send<'a>,
}

impl<'a> Buffer<'a> {
    fn new(send: Send<'a>) -> Self {
        Self { bytes: Vec::with_capacity(PIECE), send }
    }

    /// Hands on what there is, if it is enough.
    fn pass(&mut self) -> Result<()> {
        if self.bytes.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(PIECE));
        (self.send)(bytes.into())
    }

    fn zeros(&mut self, mut length: u64) -> Result<()> {
        while length > 0 {
            let some = usize::try_from(length).unwrap_or(PIECE).min(PIECE);
            self.bytes.resize(self.bytes.len() + some, 0);
            length -= some as u64;
            self.pass()?;
        }
        Ok(())
    }
}

/// Reads files into an archive. Files that cannot be read are left out, and told.
///
/// # Errors
/// Those of `send`.
pub fn pack_files(root: &Root, files: &[Planned], send: Send<'_>) -> Result<Packed> {
    let mut packed = Packed::new();
    let mut buffer = Buffer::new(send);
    let mut folders = Folders::new(root);
    for planned in files {
        let opened = folders.of(&planned.path).and_then(|(folder, name)| open_file(folder, name));
        let result = match opened {
            Ok(file) => pack_file(planned, &file, &mut buffer, &mut packed)?,
            Err(e) => Err(e),
        };
        if let Err(e) = result {
            packed.troubles.failed(&planned.path, e);
            packed.is_as_walked = false;
            if planned.is_linked {
                packed.missing.push(planned.path.clone());
            }
        }
        buffer.pass()?;
    }
    buffer.flush()?;
    Ok(packed)
}

fn open_file(folder: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    // Without waiting: in its place there may be a named pipe by now.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

/// The inner result is about the file, the outer one about the way out.
fn pack_file(
    planned: &Planned,
    file: &OwnedFd,
    buffer: &mut Buffer<'_>,
    packed: &mut Packed,
) -> Result<rustix::io::Result<()>> {
    let begin = buffer.bytes.len();
    for attempt in 1..=ATTEMPTS {
        let (entry, seen) = match describe(planned, file) {
            Ok(found) => found,
            Err(e) => return Ok(Err(e)),
        };
        packed.is_as_walked &= seen == planned.seen;
        write_header(&entry, &mut buffer.bytes);
        let length = entry.kind.data_len();
        let is_small = length <= SMALL;
        let outcome = match &entry.kind {
            Kind::File { extents: Some(extents), .. } if is_small => {
                extents.iter().try_for_each(|e| read_whole(file, *e, &mut buffer.bytes))
            }
            _ if is_small => read_whole(file, Extent { offset: 0, length }, &mut buffer.bytes),
            kind => return stream(planned, file, seen, kind, buffer, packed).map(Ok),
        };
        let changed = match outcome {
            Ok(()) => rustix::fs::fstat(file).is_ok_and(|stat| Seen::of(&stat) != seen),
            Err(Errno::NODATA) => true,
            Err(e) => {
                buffer.bytes.truncate(begin);
                return Ok(Err(e));
            }
        };
        if changed {
            packed.is_as_walked = false;
            if attempt < ATTEMPTS {
                buffer.bytes.truncate(begin);
                continue;
            }
            packed.troubles.add(TroubleKind::Changed, &planned.path, "it changed each time it was read");
            if matches!(outcome, Err(Errno::NODATA)) {
                // What is missing of the promised length.
                let mut headers = Vec::new();
                write_header(&entry, &mut headers);
                let whole = begin + headers.len() + usize::try_from(length).unwrap_or(0);
                buffer.bytes.resize(whole, 0);
            }
        }
        packed.count(&entry.kind);
        buffer.bytes.resize(buffer.bytes.len() + padding(length), 0);
        return Ok(Ok(()));
    }
    Ok(Ok(()))
}

fn describe(planned: &Planned, file: &OwnedFd) -> rustix::io::Result<(Entry, Seen)> {
    let stat = rustix::fs::fstat(file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        // Something else has the name by now.
        return Err(Errno::STALE);
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let kind = Kind::File { size, extents: extents_of(&stat, file)? };
    let attributes = attributes_of(&stat, file.as_fd())?;
    Ok((Entry { path: planned.path.clone(), kind, attributes }, Seen::of(&stat)))
}

/// Reads a stretch to the end of a buffer. `ENODATA`: the file is shorter by now.
fn read_whole(file: &OwnedFd, extent: Extent, out: &mut Vec<u8>) -> rustix::io::Result<()> {
    let length = usize::try_from(extent.length).unwrap_or(usize::MAX);
    let end = out.len() + length;
    out.reserve(length);
    while out.len() < end {
        let done = (length - (end - out.len())) as u64;
        // There may be room beyond the end: what is read too much is cut off.
        let before = out.len();
        match rustix::io::pread(file, spare_capacity(out), extent.offset + done) {
            Ok(0) => return Err(Errno::NODATA),
            Ok(n) => out.truncate((before + n).min(end)),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Reads a file that is too large to be kept.
fn stream(
    planned: &Planned,
    file: &OwnedFd,
    seen: Seen,
    kind: &Kind,
    buffer: &mut Buffer<'_>,
    packed: &mut Packed,
) -> Result<()> {
    let length = kind.data_len();
    let result = copy(file, kind, 0..length, buffer)?;
    packed.count(kind);
    let changed = match result {
        Ok(()) => rustix::fs::fstat(file).is_ok_and(|stat| Seen::of(&stat) != seen),
        Err(_) => true,
    };
    if changed {
        packed.is_as_walked = false;
    }
    tell(&planned.path, changed, result, &mut packed.troubles);
    buffer.zeros(padding(length) as u64)
}

fn tell(path: &TreePath, changed: bool, result: rustix::io::Result<()>, troubles: &mut Troubles) {
    match result {
        Err(e) if e != Errno::NODATA => troubles.failed(path, e),
        _ if changed => troubles.add(TroubleKind::Changed, path, "it changed while it was read"),
        _ => {}
    }
}

/// Copies a range of a file's data. Where the file fails or ends early, zeros stand for what was promised.
fn copy(file: &OwnedFd, kind: &Kind, range: Range<u64>, buffer: &mut Buffer<'_>) -> Result<rustix::io::Result<()>> {
    let whole;
    let extents = match kind {
        Kind::File { extents: Some(extents), .. } => &extents[..],
        kind => {
            whole = [Extent { offset: 0, length: kind.data_len() }];
            &whole[..]
        }
    };
    let mut outcome = Ok(());
    // Data before this extent.
    let mut before = 0;
    for extent in extents {
        let from = range.start.max(before);
        let to = range.end.min(before + extent.length);
        let mut at = from;
        while at < to {
            let wanted = (to - at).min(PIECE as u64);
            let length = usize::try_from(wanted).unwrap_or(PIECE);
            let begin = buffer.bytes.len();
            if outcome.is_ok() {
                let stretch = Extent { offset: extent.offset + (at - before), length: wanted };
                outcome = read_whole(file, stretch, &mut buffer.bytes);
            }
            buffer.bytes.resize(begin + length, 0);
            at += wanted;
            buffer.pass()?;
        }
        before += extent.length;
    }
    Ok(outcome)
}

/// Reads a range of a large file into an archive: with its header, when it is the first range, and with what pads it,
/// when it is the last.
///
/// # Errors
/// Those of `send`.
pub fn pack_piece(large: &Large, range: Range<u64>, send: Send<'_>) -> Result<Packed> {
    let mut packed = Packed::new();
    let mut buffer = Buffer::new(send);
    let kind = &large.entry.kind;
    let length = kind.data_len();
    if range.start == 0 {
        write_header(&large.entry, &mut buffer.bytes);
        packed.count(kind);
    }
    let is_last = range.end == length;
    let result = copy(&large.file, kind, range, &mut buffer)?;
    let changed = result.is_err() || rustix::fs::fstat(&large.file).is_ok_and(|stat| Seen::of(&stat) != large.seen);
    packed.is_as_walked = !changed;
    // Told once, and by the last that saw it.
    if is_last || matches!(result, Err(e) if e != Errno::NODATA) {
        tell(&large.entry.path, changed, result, &mut packed.troubles);
    }
    if is_last {
        buffer.zeros(padding(length) as u64)?;
    }
    buffer.flush()?;
    Ok(packed)
}

/// Writes further names of files. `missing` are first names that are not in the archive; the files that depend on one
/// are returned, to be read themselves.
pub fn pack_links(links: &[Link], missing: &[TreePath], out: &mut Vec<u8>) -> (u64, Vec<TreePath>) {
    let (mut entries, mut orphans) = (0, Vec::new());
    for link in links {
        if missing.contains(&link.target) {
            orphans.push(link.path.clone());
            continue;
        }
        let kind = Kind::HardLink { target: link.target.clone() };
        let entry = Entry { path: link.path.clone(), kind, attributes: link.attributes.clone() };
        write_header(&entry, out);
        entries += 1;
    }
    (entries, orphans)
}

/// Looks at files that the walk knew by another name, so that they can be packed.
pub fn plan_orphans(root: &Root, orphans: Vec<TreePath>, troubles: &mut Troubles) -> Vec<Planned> {
    let mut folders = Folders::new(root);
    let mut planned = Vec::new();
    for path in orphans {
        let look = folders
            .of(&path)
            .and_then(|(folder, name)| rustix::fs::statat(folder, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW));
        match look {
            Ok(stat) => planned.push(Planned { seen: Seen::of(&stat), path, is_linked: false }),
            Err(e) => troubles.failed(&path, e),
        }
    }
    planned
}

/// Refuses to call a tree read that was not.
///
/// # Errors
/// `Incomplete`, with the first path that could not be read.
pub fn demand_complete(troubles: &Troubles) -> Result<()> {
    if troubles.is_complete() {
        return Ok(());
    }
    let first = troubles.list.iter().find(|t| t.kind == TroubleKind::Unreadable);
    let mut error = Error::new(ErrorKind::Incomplete, format!("{} entries could not be read", troubles.unreadable));
    if let Some(first) = first {
        error = error.with("first", &first.path).with("because", &first.why);
    }
    Err(error.hint("run as root, or exclude what need not be kept"))
}
