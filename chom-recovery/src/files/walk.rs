//! Looking at a tree, and cutting it into pieces of work.
//!
//! The cuts hang on names and sizes alone, never on what else the tree holds: what did not change gives the same
//! pieces in the next backup, wherever something else came or went.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    ops::Range,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{
    beneath::Root,
    entry::{Attributes, Entry, Kind, Time, TreePath, Xattr},
    exclude::Rules,
    sparse,
    tar::write_header,
};
use crate::error::{Error, ErrorKind, Result};

/// Fewest bytes between two cuts, unless a large file or the end of the tree comes before.
const LEAST: u64 = 8 << 20;
/// Bytes after which, on average, a cut follows.
const TARGET: u64 = 24 << 20;
/// Most bytes between two cuts.
const MOST: u64 = 64 << 20;
/// Most files between two cuts.
const MOST_FILES: usize = 8192;
/// A file of this size has pieces of its own.
const LARGE: u64 = 32 << 20;
/// Bytes of data in a piece of a large file.
const PIECE: u64 = 64 << 20;
/// What an entry costs besides its data.
const OVERHEAD: u64 = 1024;
/// Bytes of headers that are handed over together.
const HEADERS: usize = 4 << 20;
/// Most bytes of a file's extended attributes: they have to fit an extended header.
const MOST_XATTRS: usize = 512 << 10;
/// Troubles that are kept one by one; the rest is counted.
const MOST_TROUBLES: usize = 1000;

/// What identifies the state of a file: two looks that agree saw the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    device: u64,
    inode: u64,
    size: u64,
    modified: Time,
    changed: Time,
}

impl Seen {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            changed: time(stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// A file to be read.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Where it lies.
    pub path: TreePath,
    /// What it was when the walk saw it.
    pub seen: Seen,
    /// Whether it has other names, which depend on this one.
    pub is_linked: bool,
}

/// A file that is read in pieces. It is held open, so that all of them are of the same file.
#[derive(Debug)]
pub struct Large {
    pub(super) entry: Entry,
    pub(super) seen: Seen,
    pub(super) file: OwnedFd,
}

/// Which entries a part holds, and so when they are put in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Files.
    Files,
    /// The next bytes of a large file, which began in an earlier part.
    Piece,
    /// Further names of files.
    HardLinks,
    /// Symbolic links and named pipes.
    Symlinks,
    /// Folders.
    Folders,
}

/// A piece of work.
#[derive(Debug)]
pub enum Job {
    /// Files to be read.
    Files {
        /// Which.
        files: Vec<Planned>,
        /// Identifies their state.
        fingerprint: String,
        /// Whether all of them were at rest, so that the fingerprint can be trusted later.
        is_settled: bool,
    },
    /// A range of the data of a large file.
    Piece {
        /// Which.
        file: Arc<Large>,
        /// Range of its data, holes not counted.
        range: Range<u64>,
        /// Identifies its state.
        fingerprint: String,
        /// Whether it was at rest.
        is_settled: bool,
    },
    /// Entries without data, already written.
    Headers {
        /// What they are.
        role: Role,
        /// Bytes of the archive.
        tar: Vec<u8>,
        /// Entries.
        entries: u64,
    },
}

/// Something that is not in the backup as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What is the matter.
    pub kind: TroubleKind,
    /// Where; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// Why.
    pub why: String,
}

/// What can be the matter with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TroubleKind {
    /// It could not be read: the backup is incomplete.
    Unreadable,
    /// It changed while it was read, each time: what is kept may be of no moment.
    Changed,
    /// It was gone before it could be read.
    Vanished,
    /// A socket or a device: there is nothing to keep.
    Skipped,
}

/// All troubles of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Troubles {
    /// The first thousand.
    pub list: Vec<Trouble>,
    /// Entries that could not be read.
    pub unreadable: u64,
    /// Files that changed while they were read.
    pub changed: u64,
    /// Entries that vanished.
    pub vanished: u64,
    /// Sockets and devices.
    pub skipped: u64,
}

impl Troubles {
    pub(super) fn add(&mut self, kind: TroubleKind, path: &TreePath, why: impl Into<String>) {
        *match kind {
            TroubleKind::Unreadable => &mut self.unreadable,
            TroubleKind::Changed => &mut self.changed,
            TroubleKind::Vanished => &mut self.vanished,
            TroubleKind::Skipped => &mut self.skipped,
        } += 1;
        if self.list.len() < MOST_TROUBLES {
            self.list.push(Trouble { kind, path: path.display().into_owned(), why: why.into() });
        }
    }

    /// Notes that a call failed: what is gone is no fault, everything else is.
    pub(super) fn failed(&mut self, path: &TreePath, error: Errno) {
        let kind = match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE => TroubleKind::Vanished,
            _ => TroubleKind::Unreadable,
        };
        self.add(kind, path, io::Error::from(error).to_string());
    }

    /// Takes over those of another.
    pub fn merge(&mut self, other: Self) {
        self.unreadable += other.unreadable;
        self.changed += other.changed;
        self.vanished += other.vanished;
        self.skipped += other.skipped;
        let room = MOST_TROUBLES.saturating_sub(self.list.len());
        self.list.extend(other.list.into_iter().take(room));
    }

    /// Tells whether everything that should be there is.
    pub fn is_complete(&self) -> bool {
        self.unreadable == 0
    }
}

/// A further name of a file.
#[derive(Debug, Clone)]
pub struct Link {
    /// The name.
    pub path: TreePath,
    /// The first name.
    pub target: TreePath,
    /// What both have in common.
    pub attributes: Attributes,
}

/// What a walk saw besides the jobs it handed over.
#[derive(Debug, Default)]
pub struct Walked {
    /// Folders, the root among them.
    pub folders: u64,
    /// Symbolic links and named pipes.
    pub symlinks: u64,
    /// Further names of files. Kept until all files are read: what one of them leads to may vanish.
    pub links: Vec<Link>,
    /// What was not as it should be.
    pub troubles: Troubles,
}

/// Walks a tree in an order that hangs on names alone, and hands over jobs as it goes.
///
/// Every folder comes before what it holds. The last job holds folders, the root at least.
///
/// # Errors
/// Those of `hand_over`; `Precondition`: the root cannot be read. Everything below it that fails is a trouble.
pub fn walk(root: &Root, rules: &Rules, hand_over: &mut dyn FnMut(Job) -> Result<()>) -> Result<Walked> {
    let begun = now();
    let mut walk = Walk {
        rules,
        hand_over,
        begun,
        batch: Batch::default(),
        names: HashMap::new(),
        symlinks: Headers::default(),
        folders: Headers::default(),
        pending: Vec::new(),
        walked: Walked::default(),
    };
    let path = TreePath::root();
    let fail = |e: Errno| {
        Error::from(io::Error::from(e))
            .during(format!("cannot read folder `{}`", root.path().display()))
            .of_kind(ErrorKind::Precondition)
    };
    let folder = root.folder(b"").map_err(fail)?;
    let attributes = attributes_of(&rustix::fs::fstat(&folder).map_err(fail)?, folder.as_fd()).map_err(fail)?;
    walk.emit_folder(Entry { path: path.clone(), kind: Kind::Folder, attributes })?;
    walk.folder(&path, folder)?;
    walk.cut()?;
    if !walk.symlinks.tar.is_empty() {
        (walk.hand_over)(walk.symlinks.take(Role::Symlinks))?;
    }
    (walk.hand_over)(walk.folders.take(Role::Folders))?;
    Ok(walk.walked)
}

#[derive(Default)]
struct Headers {
    tar: Vec<u8>,
    entries: u64,
}

impl Headers {
    fn take(&mut self, role: Role) -> Job {
        let Self { tar, entries } = std::mem::take(self);
        Job::Headers { role, tar, entries }
    }
}

#[derive(Default)]
struct Batch {
    files: Vec<Planned>,
    bytes: u64,
    hash: blake3::Hasher,
    is_unsettled: bool,
}

struct Walk<'a> {
    rules: &'a Rules,
    hand_over: &'a mut dyn FnMut(Job) -> Result<()>,
    begun: Time,
    batch: Batch,
    /// First names of files that have several.
    names: HashMap<(u64, u64), TreePath>,
    symlinks: Headers,
    folders: Headers,
    /// Folders that are kept only if something below them is.
    pending: Vec<Entry>,
    walked: Walked,
}

impl Walk<'_> {
    fn folder(&mut self, path: &TreePath, folder: OwnedFd) -> Result<()> {
        let names = match names_in(folder.as_fd()) {
            Ok(names) => names,
            Err(e) => {
                self.walked.troubles.failed(path, e);
                return Ok(());
            }
        };
        for name in names {
            let at = match path.join(&name) {
                Ok(at) => at,
                Err(e) => {
                    self.walked.troubles.add(TroubleKind::Unreadable, path, e.message());
                    continue;
                }
            };
            self.entry(at, folder.as_fd(), OsStr::from_bytes(&name))?;
        }
        Ok(())
    }

    fn entry(&mut self, path: TreePath, folder: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(e) => {
                self.walked.troubles.failed(&path, e);
                return Ok(());
            }
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !self.rules.takes(&path, kind == FileType::Directory) {
            return Ok(());
        }
        match kind {
            FileType::Directory => self.subfolder(path, folder, name, &stat),
            FileType::RegularFile => {
                self.emit_pending()?;
                self.file(path, folder, name, &stat)
            }
            FileType::Symlink => {
                self.emit_pending()?;
                match rustix::fs::readlinkat(folder, name, Vec::new()) {
                    Ok(target) => {
                        let kind = Kind::Symlink { target: target.into_bytes() };
                        self.symlink(Entry { path, kind, attributes: plain_attributes(&stat) })
                    }
                    Err(e) => {
                        self.walked.troubles.failed(&path, e);
                        Ok(())
                    }
                }
            }
            FileType::Fifo => {
                self.emit_pending()?;
                self.symlink(Entry { path, kind: Kind::Fifo, attributes: plain_attributes(&stat) })
            }
            FileType::Socket => self.skip(&path, "a socket"),
            FileType::BlockDevice | FileType::CharacterDevice => self.skip(&path, "a device"),
            FileType::Unknown => self.skip(&path, "of an unknown kind"),
        }
    }

    fn skip(&mut self, path: &TreePath, what: &str) -> Result<()> {
        self.walked.troubles.add(TroubleKind::Skipped, path, what);
        Ok(())
    }

    fn subfolder(&mut self, path: TreePath, parent: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(parent, name, flags, Mode::empty());
        let attributes = match &opened {
            Ok(fd) => rustix::fs::fstat(fd).and_then(|stat| attributes_of(&stat, fd.as_fd())),
            // A folder that cannot be opened is still known to be there.
            Err(Errno::ACCESS | Errno::PERM) => Ok(plain_attributes(stat)),
            Err(e) => Err(*e),
        };
        let attributes = match attributes {
            Ok(attributes) => attributes,
            Err(e) => {
                self.walked.troubles.failed(&path, e);
                return Ok(());
            }
        };
        let depth = self.pending.len();
        let entry = Entry { path: path.clone(), kind: Kind::Folder, attributes };
        if self.rules.is_selective() && !self.rules.asks_for(&path) {
            self.pending.push(entry);
        } else {
            self.emit_pending()?;
            self.emit_folder(entry)?;
        }
        match opened {
            Ok(folder) => self.folder(&path, folder)?,
            Err(e) => self.walked.troubles.failed(&path, e),
        }
        // Nothing below it was taken.
        self.pending.truncate(depth);
        Ok(())
    }

    fn emit_pending(&mut self) -> Result<()> {
        for entry in std::mem::take(&mut self.pending) {
            self.emit_folder(entry)?;
        }
        Ok(())
    }

    fn emit_folder(&mut self, entry: Entry) -> Result<()> {
        if self.folders.tar.len() > HEADERS {
            (self.hand_over)(self.folders.take(Role::Folders))?;
        }
        write_header(&entry, &mut self.folders.tar);
        self.folders.entries += 1;
        self.walked.folders += 1;
        Ok(())
    }

    fn symlink(&mut self, entry: Entry) -> Result<()> {
        write_header(&entry, &mut self.symlinks.tar);
        self.symlinks.entries += 1;
        self.walked.symlinks += 1;
        if self.symlinks.tar.len() > HEADERS {
            (self.hand_over)(self.symlinks.take(Role::Symlinks))?;
        }
        Ok(())
    }

    fn file(&mut self, path: TreePath, folder: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> Result<()> {
        let seen = Seen::of(stat);
        let is_linked = stat.st_nlink > 1;
        if is_linked {
            if let Some(target) = self.names.get(&(seen.device, seen.inode)) {
                let link = Link { path, target: target.clone(), attributes: plain_attributes(stat) };
                self.walked.links.push(link);
                return Ok(());
            }
            self.names.insert((seen.device, seen.inode), path.clone());
        }
        if seen.size >= LARGE {
            self.cut()?;
            return self.large(path, folder, name);
        }
        let weight = seen.size + OVERHEAD;
        let is_boundary = is_boundary(&path, weight);
        let batch = &mut self.batch;
        describe(&mut batch.hash, &path, stat);
        batch.is_unsettled |= !is_settled(&seen, self.begun);
        batch.bytes += weight;
        batch.files.push(Planned { path, seen, is_linked });
        if batch.bytes >= MOST || batch.files.len() >= MOST_FILES || (batch.bytes >= LEAST && is_boundary) {
            self.cut()?;
        }
        Ok(())
    }

    fn cut(&mut self) -> Result<()> {
        if self.batch.files.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        let fingerprint = batch.hash.finalize().to_hex().to_string();
        (self.hand_over)(Job::Files { files: batch.files, fingerprint, is_settled: !batch.is_unsettled })
    }

    fn large(&mut self, path: TreePath, folder: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let look = || -> rustix::io::Result<(Large, String)> {
            let file = rustix::fs::openat(folder, name, flags, Mode::empty())?;
            let stat = rustix::fs::fstat(&file)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(Errno::STALE);
            }
            let seen = Seen::of(&stat);
            let mut hash = blake3::Hasher::new();
            describe(&mut hash, &path, &stat);
            let kind = Kind::File { size: seen.size, extents: extents_of(&stat, &file)? };
            let attributes = attributes_of(&stat, file.as_fd())?;
            let large = Large { entry: Entry { path: path.clone(), kind, attributes }, seen, file };
            Ok((large, hash.finalize().to_hex().to_string()))
        };
        let (large, fingerprint) = match look() {
            Ok(found) => found,
            Err(e) => {
                self.walked.troubles.failed(&path, e);
                return Ok(());
            }
        };
        let (length, file) = (large.entry.kind.data_len(), Arc::new(large));
        let is_settled = is_settled(&file.seen, self.begun);
        let mut at = 0;
        loop {
            let end = (at + PIECE).min(length);
            let fingerprint = format!("{fingerprint}-{at}-{end}");
            (self.hand_over)(Job::Piece { file: file.clone(), range: at..end, fingerprint, is_settled })?;
            at = end;
            if at >= length {
                return Ok(());
            }
        }
    }
}

fn now() -> Time {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Time { seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX), nanoseconds: now.subsec_nanos() }
}

/// A file that changed moments ago may change again within the same tick of the filesystem's clock.
fn is_settled(seen: &Seen, begun: Time) -> bool {
    seen.changed.seconds + 2 < begun.seconds && seen.modified.seconds + 2 < begun.seconds
}

/// Tells whether a cut may follow a file: the heavier, the more probably.
fn is_boundary(path: &TreePath, weight: u64) -> bool {
    let hash = blake3::hash(path.as_bytes());
    let mut head = [0; 8];
    head.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(head) < (u64::MAX / TARGET).saturating_mul(weight)
}

fn describe(hash: &mut blake3::Hasher, path: &TreePath, stat: &Stat) {
    let seen = Seen::of(stat);
    hash.update(&(path.as_bytes().len() as u64).to_le_bytes());
    hash.update(path.as_bytes());
    for number in [
        seen.size,
        seen.inode,
        seen.modified.seconds.cast_unsigned(),
        seen.modified.nanoseconds.into(),
        seen.changed.seconds.cast_unsigned(),
        seen.changed.nanoseconds.into(),
        stat.st_mode.into(),
        stat.st_uid.into(),
        stat.st_gid.into(),
    ] {
        hash.update(&number.to_le_bytes());
    }
}

/// Lists a folder in order of names.
pub(super) fn names_in(folder: BorrowedFd<'_>) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn time(seconds: i64, nanoseconds: impl TryInto<u32>) -> Time {
    Time { seconds, nanoseconds: nanoseconds.try_into().unwrap_or(0) }
}

/// Attributes that a stat tells; the extended ones take an open file.
pub(super) fn plain_attributes(stat: &Stat) -> Attributes {
    Attributes {
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode & 0o7777,
        modified: time(stat.st_mtime, stat.st_mtime_nsec),
        xattrs: Vec::new(),
    }
}

pub(super) fn attributes_of(stat: &Stat, file: BorrowedFd<'_>) -> rustix::io::Result<Attributes> {
    Ok(Attributes { xattrs: xattrs_of(file)?, ..plain_attributes(stat) })
}

/// Reads the extended attributes that are kept, in order of name.
pub(super) fn xattrs_of(file: BorrowedFd<'_>) -> rustix::io::Result<Vec<Xattr>> {
    let mut space = [0_u8; 512];
    let mut large;
    let list = match rustix::fs::flistxattr(file, &mut space) {
        Ok(0) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
        Ok(length) => &space[..length],
        Err(Errno::RANGE) => {
            large = vec![0; 64 << 10];
            let length = rustix::fs::flistxattr(file, &mut large)?;
            &large[..length]
        }
        Err(e) => return Err(e),
    };
    let (mut xattrs, mut room) = (Vec::new(), MOST_XATTRS);
    for name in list.split(|b| *b == 0) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        if !Xattr::is_kept(name) {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        match rustix::fs::fgetxattr(file, name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                room = room.checked_sub(length).ok_or(Errno::TOOBIG)?;
                xattrs.push(Xattr { name: name.to_owned(), value });
            }
            // Gone since it was listed.
            Err(Errno::NODATA) => {}
            Err(e) => return Err(e),
        }
    }
    xattrs.sort();
    Ok(xattrs)
}

/// Finds the stretches with data of a file that takes less room than its size.
pub(super) fn extents_of(stat: &Stat, file: &OwnedFd) -> rustix::io::Result<Option<Vec<super::entry::Extent>>> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let allocated = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    if size == 0 || allocated >= size {
        return Ok(None);
    }
    sparse::find(file, size)
}
