//! A new folder that appears under its name only when it is whole.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags},
    io::Errno,
};

use super::beneath::Root;
use crate::error::{Error, ErrorKind, Result};

/// A folder beside its target. Dropped before [`Stage::publish`], it is gone with everything in it.
#[derive(Debug)]
pub struct Stage {
    parent: OwnedFd,
    parent_path: PathBuf,
    name: OsString,
    target: OsString,
    root: Root,
    is_published: bool,
}

impl Stage {
    /// Makes an empty folder, open to its maker alone, in the folder that holds `target`.
    ///
    /// # Errors
    /// `AlreadyExists`: there is something at `target`. `NotFound`: the folder that is to hold it does not exist.
    /// `InvalidInput`: the path ends without a name.
    pub fn new(target: &Path) -> Result<Self> {
        Self::named(target, format!(".chom-restoring-{:016x}", rand::random::<u64>()).as_ref())
    }

    /// The same under a name of the caller's choice, who has to find it after a crash.
    ///
    /// # Errors
    /// As [`Stage::new`]; `AlreadyExists` also where that name is taken.
    pub fn named(target: &Path, staging: &OsStr) -> Result<Self> {
        let name = target.file_name().ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("`{}` names no folder to be made", target.display()))
                .hint("give the path of a folder that does not exist yet")
        })?;
        let parent_path = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::open(&parent_path, flags, Mode::empty()).map_err(|e| {
            Error::from(io::Error::from(e))
                .during(format!("cannot open folder `{}`", parent_path.display()))
                .hint("the folder that is to hold the target must exist")
        })?;
        if exists(&parent, name)? {
            return Err(taken(target));
        }
        let staging = staging.to_owned();
        rustix::fs::mkdirat(&parent, &staging, Mode::RWXU).map_err(|e| {
            Error::from(io::Error::from(e)).during(format!("cannot make a folder in `{}`", parent_path.display()))
        })?;
        let root = Root::open(&parent_path.join(&staging))?;
        Ok(Self { parent, parent_path, name: staging, target: name.to_owned(), root, is_published: false })
    }

    /// Returns the folder.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Refuses to begin what would fill the disk.
    ///
    /// # Errors
    /// `NoSpace`: fewer than `bytes` and `keep_free` bytes, or fewer than `entries` inodes, are free.
    pub fn demand_room(&self, bytes: u64, entries: u64, keep_free: u64) -> Result<()> {
        demand_room(&self.root, bytes, entries, keep_free)
    }

    /// Gives the folder its name, which nothing has taken meanwhile, and makes that durable.
    ///
    /// # Errors
    /// `AlreadyExists`: something has.
    pub fn publish(mut self) -> Result<PathBuf> {
        let path = self.parent_path.join(&self.target);
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&self.parent, &self.name, &self.parent, &self.target, flags) {
            Ok(()) => {}
            // A filesystem that cannot promise it: looking first is all that is left.
            Err(Errno::INVAL | Errno::NOSYS) if !exists(&self.parent, &self.target)? => {
                rustix::fs::renameat(&self.parent, &self.name, &self.parent, &self.target).map_err(io::Error::from)?;
            }
            Err(Errno::EXIST | Errno::INVAL | Errno::NOSYS) => return Err(taken(&path)),
            Err(e) => {
                return Err(Error::from(io::Error::from(e)).during(format!("cannot make `{}`", path.display())));
            }
        }
        self.is_published = true;
        rustix::fs::fsync(&self.parent).map_err(io::Error::from)?;
        Ok(path)
    }
}

/// Refuses to begin what would fill the disk that a folder lies on.
///
/// # Errors
/// As [`Stage::demand_room`].
pub fn demand_room(root: &Root, bytes: u64, entries: u64, keep_free: u64) -> Result<()> {
    let disk = rustix::fs::fstatvfs(root.fd().as_fd()).map_err(io::Error::from)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let short = |what: &str, wanted: u64, free: u64| {
        Error::new(ErrorKind::NoSpace, format!("there are too few {what} free at `{}`", root.path().display()))
            .with("needed", wanted)
            .with("free", free)
            .hint("free space, or restore to another disk; nothing was written")
    };
    let wanted = bytes.saturating_add(keep_free);
    if free < wanted {
        return Err(short("bytes", wanted, free));
    }
    // Some filesystems make inodes as they need them, and say zero.
    if disk.f_files > 0 && disk.f_favail < entries {
        return Err(short("inodes", entries, disk.f_favail));
    }
    Ok(())
}

fn exists(parent: &OwnedFd, name: &OsStr) -> Result<bool> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(io::Error::from(e).into()),
    }
}

fn taken(target: &Path) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("there is something at `{}` already", target.display()))
        .hint("restore to a path that does not exist yet; nothing is ever written over live files")
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.is_published {
            // What cannot be removed is left under a name that says what it is.
            if let Err(error) = std::fs::remove_dir_all(self.parent_path.join(&self.name)) {
                tracing::warn!(folder = ?self.name, %error, "what was restored halfway could not be removed");
            }
        }
    }
}
