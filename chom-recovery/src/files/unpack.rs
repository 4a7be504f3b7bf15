//! Putting entries of an archive into a new folder.
//!
//! The folder is fresh and nobody else's, so the filesystem itself enforces what entries must not do to each other: a
//! path that comes twice exists already, a path below a link has no folder, and no link is followed. Folders come
//! first, open to their maker alone; then files, from any number of threads; then further names, then symbolic links;
//! and last the folders again, deepest first, for their owner, mode and time.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use rustix::{
    fs::{AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{
    beneath::{Folders, Root, failed},
    check::{Placed, check_file},
    entry::{Attributes, Entry, Extent, Kind, TreePath},
    tar::{Pieces, TarReader},
};
use crate::error::{Error, ErrorKind, Result};

/// Files from this size on get their room before their data.
const RESERVED: u64 = 1 << 20;
/// setuid and setgid.
const SETID: u32 = 0o6000;
const SETUID: u32 = 0o4000;

/// What is done about attributes that not everybody may set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Everything belongs to who unpacks it, instead of the recorded owners.
    pub own_everything: bool,
    /// setuid and setgid of files are set again.
    pub keep_setid: bool,
}

impl Policy {
    /// Mode that an entry gets.
    pub(super) fn mode(self, kind: &Kind, mode: u32) -> u32 {
        match kind {
            // A folder's setgid hands its group down, which applications rely on.
            Kind::Folder => mode & !SETUID,
            _ if self.keep_setid => mode,
            _ => mode & !SETID,
        }
    }
}

/// What was put in place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// Files, further names not counted.
    pub files: u64,
    /// Folders, the root among them.
    pub folders: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Symbolic links and named pipes.
    pub symlinks: u64,
    /// Bytes of files, holes included.
    pub bytes: u64,
    /// Symbolic links whose target is absolute or leads upwards: nobody followed them, but an application may.
    pub outward_links: u64,
    /// Files whose setuid or setgid bit was dropped.
    pub setid_dropped: u64,
}

impl Unpacked {
    /// Entries in all.
    pub fn entries(&self) -> u64 {
        self.files + self.folders + self.hard_links + self.symlinks
    }

    /// Adds up.
    pub fn merge(&mut self, other: Self) {
        self.files += other.files;
        self.folders += other.folders;
        self.hard_links += other.hard_links;
        self.symlinks += other.symlinks;
        self.bytes += other.bytes;
        self.outward_links += other.outward_links;
        self.setid_dropped += other.setid_dropped;
    }
}

/// A folder that is being filled.
#[derive(Debug, Clone)]
pub struct Unpacker {
    root: Root,
    policy: Policy,
}

fn unexpected(entry: &Entry, wanted: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the archive is refused: {:?} stands among {wanted}", entry.path))
}

/// Says what a failed call means for the archive.
fn refused(what: &str, path: &TreePath, error: Errno) -> Error {
    let why = match error {
        Errno::EXIST => "something of that path came before",
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV => "the archive has no folder for it",
        Errno::PERM => {
            return failed(what, path, error)
                .of_kind(ErrorKind::Precondition)
                .hint("run as root, or restore everything as your own with `--own`");
        }
        _ => return failed(what, path, error),
    };
    Error::new(ErrorKind::Corrupt, format!("the archive is refused: cannot {what} {path:?}: {why}"))
}

impl Unpacker {
    /// Fills an empty folder.
    pub fn new(root: Root, policy: Policy) -> Self {
        Self { root, policy }
    }

    /// Makes the folders of an archive, for their maker alone.
    ///
    /// # Errors
    /// `Corrupt`: an entry is no folder, comes twice, or comes before the folder that it lies in.
    pub fn make_folders(&self, archive: &mut TarReader<impl Pieces>) -> Result<u64> {
        let mut folders = Folders::new(&self.root);
        let mut made = 0;
        while let Some(entry) = archive.next_entry()? {
            if entry.kind != Kind::Folder {
                return Err(unexpected(&entry, "folders"));
            }
            made += 1;
            if entry.path.is_root() {
                continue;
            }
            folders
                .of(&entry.path)
                .and_then(|(folder, name)| rustix::fs::mkdirat(folder, name, Mode::RWXU))
                .map_err(|e| refused("make folder", &entry.path, e))?;
        }
        Ok(made)
    }

    /// Writes the files of an archive, and reads them again to see that they are what the archive says.
    ///
    /// # Errors
    /// `Corrupt`: an entry is no file or cannot be put where it says. `NoSpace`: the disk is full. `Precondition`: an
    /// owner cannot be set.
    pub fn put_files(&self, archive: &mut TarReader<impl Pieces>) -> Result<Unpacked> {
        let (mut done, mut placed) = (Unpacked::default(), Vec::new());
        let mut folders = Folders::new(&self.root);
        while let Some(entry) = archive.next_entry()? {
            let Kind::File { size, .. } = entry.kind else { return Err(unexpected(&entry, "files")) };
            let (folder, name) = folders.of(&entry.path).map_err(|e| refused("write", &entry.path, e))?;
            let hash = self.put_file(folder, name, &entry, archive)?;
            done.files += 1;
            done.bytes += size;
            done.setid_dropped += u64::from(!self.policy.keep_setid && entry.attributes.mode & SETID != 0);
            placed.push(Placed { entry, hash });
        }
        for file in &placed {
            check_file(&mut folders, self.policy, file)?;
        }
        Ok(done)
    }

    fn put_file(
        &self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        entry: &Entry,
        archive: &mut TarReader<impl Pieces>,
    ) -> Result<blake3::Hash> {
        let path = &entry.path;
        let fail = |e| refused("write", path, e);
        let Kind::File { size, extents } = &entry.kind else { return Err(unexpected(entry, "files")) };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR).map_err(fail)?;
        let whole = [Extent { offset: 0, length: *size }];
        let stretches = match extents {
            Some(extents) => &extents[..],
            None => &whole[..],
        };
        if extents.is_none() && *size >= RESERVED {
            match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, *size) {
                // Not every filesystem can.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
                Err(e) => return Err(fail(e)),
            }
        }
        let mut hash = blake3::Hasher::new();
        let mut stretches = stretches.iter().filter(|e| e.length > 0);
        let mut room = 0..0;
        while let Some(mut data) = archive.read_data()? {
            hash.update(&data);
            while !data.is_empty() {
                if room.is_empty() {
                    let next = stretches.next().ok_or_else(|| unexpected(entry, "its own data"))?;
                    room = next.offset..next.offset + next.length;
                }
                let some = data.len().min(usize::try_from(room.end - room.start).unwrap_or(usize::MAX));
                let written = write_at(&file, &data[..some], room.start).map_err(fail)?;
                room.start += written as u64;
                let _ = data.split_to(written);
            }
        }
        if extents.is_some() {
            rustix::fs::ftruncate(&file, *size).map_err(fail)?;
        }
        self.dress(&file, entry).map_err(fail)?;
        Ok(hash.finalize())
    }

    /// Sets everything that an open file or folder has besides its content: the owner before the mode, since a change
    /// of owner clears bits of it.
    pub(super) fn dress(&self, file: &OwnedFd, entry: &Entry) -> rustix::io::Result<()> {
        let Attributes { uid, gid, mode, modified, xattrs } = &entry.attributes;
        if !self.policy.own_everything {
            rustix::fs::fchown(file, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)))?;
        }
        for xattr in xattrs {
            match rustix::fs::fsetxattr(file, xattr.name.as_str(), &xattr.value, XattrFlags::empty()) {
                Ok(()) => {}
                // A list of users that mean nothing here.
                Err(Errno::PERM | Errno::INVAL) if self.policy.own_everything => {}
                Err(e) => return Err(e),
            }
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(self.policy.mode(&entry.kind, *mode)))?;
        rustix::fs::futimens(file, &times(*modified))
    }

    /// Gives files their further names.
    ///
    /// # Errors
    /// `Corrupt`: an entry is no further name, or that of something that is no file of the archive.
    pub fn put_hard_links(&self, archive: &mut TarReader<impl Pieces>) -> Result<Unpacked> {
        let mut done = Unpacked::default();
        let (mut folders, mut targets) = (Folders::new(&self.root), Folders::new(&self.root));
        while let Some(entry) = archive.next_entry()? {
            let Kind::HardLink { target } = &entry.kind else { return Err(unexpected(&entry, "further names")) };
            let fail = |e| refused("link", &entry.path, e);
            let (from, old) = targets.of(target).map_err(fail)?;
            let (to, new) = folders.of(&entry.path).map_err(fail)?;
            let stat = rustix::fs::statat(from, old, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!(
                        "the archive is refused: {:?} is a further name of {target:?}, which is no file",
                        entry.path
                    ),
                ));
            }
            rustix::fs::linkat(from, old, to, new, AtFlags::empty()).map_err(fail)?;
            done.hard_links += 1;
        }
        Ok(done)
    }

    /// Makes symbolic links and named pipes. From here on the folder holds links that somebody might follow.
    ///
    /// # Errors
    /// `Corrupt`: an entry is something else.
    pub fn put_symlinks(&self, archive: &mut TarReader<impl Pieces>) -> Result<Unpacked> {
        let mut done = Unpacked::default();
        let mut folders = Folders::new(&self.root);
        while let Some(entry) = archive.next_entry()? {
            let fail = |e| refused("make link", &entry.path, e);
            let (folder, name) = folders.of(&entry.path).map_err(fail)?;
            match &entry.kind {
                Kind::Symlink { target } => {
                    rustix::fs::symlinkat(OsStr::from_bytes(target), folder, name).map_err(fail)?;
                    done.outward_links += u64::from(leads_out(&entry.path, target));
                }
                Kind::Fifo => {
                    rustix::fs::mknodat(folder, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).map_err(fail)?;
                }
                _ => return Err(unexpected(&entry, "links")),
            }
            self.dress_at(folder, name, &entry).map_err(fail)?;
            done.symlinks += 1;
        }
        Ok(done)
    }

    /// As [`Self::dress`], for what cannot be opened.
    fn dress_at(&self, folder: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> rustix::io::Result<()> {
        let Attributes { uid, gid, mode, modified, .. } = &entry.attributes;
        if !self.policy.own_everything {
            let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
            rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if entry.kind == Kind::Fifo {
            let mode = Mode::from_raw_mode(self.policy.mode(&entry.kind, *mode));
            rustix::fs::chmodat(folder, name, mode, AtFlags::empty())?;
        }
        rustix::fs::utimensat(folder, name, &times(*modified), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Gives folders their owner, mode and time, the last entry first. Call it with the last archive first: what lies
    /// deeper comes later.
    ///
    /// # Errors
    /// As [`Self::make_folders`].
    pub fn finish_folders(&self, archive: &mut TarReader<impl Pieces>) -> Result<Unpacked> {
        let mut entries = Vec::new();
        while let Some(entry) = archive.next_entry()? {
            entries.push(entry);
        }
        let mut done = Unpacked::default();
        for entry in entries.iter().rev() {
            let fail = |e| refused("finish folder", &entry.path, e);
            let folder = self.root.folder(entry.path.as_bytes()).map_err(fail)?;
            self.dress(&folder, entry).map_err(fail)?;
            done.folders += 1;
        }
        Ok(done)
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// `Failed`: the disk could not take it.
    pub fn sync(&self) -> Result<()> {
        // One call for all files and folders of the filesystem, in place of one for each of them.
        rustix::fs::syncfs(self.root.fd().as_fd()).map_err(|e| {
            Error::from(io::Error::from(e)).during(format!("cannot make `{}` durable", self.root.path().display()))
        })
    }
}

fn write_at(file: &OwnedFd, bytes: &[u8], offset: u64) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| rustix::io::pwrite(file, bytes, offset))
}

fn times(modified: super::entry::Time) -> Timestamps {
    let time = Timespec { tv_sec: modified.seconds, tv_nsec: modified.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Tells whether a symbolic link leads out of the tree, as far as its text says.
fn leads_out(path: &TreePath, target: &[u8]) -> bool {
    if target.first() == Some(&b'/') {
        return true;
    }
    let mut depth = path.as_bytes().iter().filter(|b| **b == b'/').count();
    for name in target.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => match depth.checked_sub(1) {
                Some(up) => depth = up,
                None => return true,
            },
            _ => depth += 1,
        }
    }
    false
}
