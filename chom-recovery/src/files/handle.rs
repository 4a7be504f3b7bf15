//! Holding one entry of a tree, to see and to change its owner and mode, and never those of another.

use std::{
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{
    beneath::{Folders, Root, failed},
    entry::{Kind, TreePath},
};
use crate::error::{Error, ErrorKind, Result};

/// Owner and permission bits of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Permissions {
    /// Owner, by number.
    pub(crate) uid: u32,
    /// Group, by number.
    pub(crate) gid: u32,
    /// Permission bits, with setuid, setgid and sticky.
    pub(crate) mode: u32,
}

impl Permissions {
    /// Owner and group.
    pub(crate) fn owner(self) -> (u32, u32) {
        (self.uid, self.gid)
    }
}

/// Tells an entry from another one that has its path later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    /// File, folder or what else, as in `st_mode`.
    kind: u32,
}

impl Identity {
    pub(crate) fn is_folder(self) -> bool {
        FileType::from_raw_mode(self.kind) == FileType::Directory
    }
}

/// Opens entries of a tree one by one; neighbours are found quickly.
#[derive(Debug)]
pub(crate) struct Handles<'a> {
    root: &'a Root,
    folders: Folders<'a>,
    device: u64,
}

/// An entry that is held: whatever happens to its path, it stays this one.
#[derive(Debug)]
pub(crate) struct Handle<'p> {
    path: &'p TreePath,
    fd: OwnedFd,
    stat: Stat,
}

impl<'a> Handles<'a> {
    pub(crate) fn new(root: &'a Root) -> Result<Self> {
        let stat = rustix::fs::fstat(root.fd()).map_err(|e| failed("look at", &TreePath::root(), e))?;
        Ok(Self { root, folders: Folders::new(root), device: stat.st_dev })
    }

    /// Holds an entry; `None` where it is gone, a symbolic link stands at its end or on the way to it, or something else is
    /// mounted there.
    pub(crate) fn hold<'p>(&mut self, path: &'p TreePath) -> Result<Option<Handle<'p>>> {
        // Opening by path alone asks for no right to read, and disturbs neither pipes nor devices.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = if path.is_root() {
            rustix::fs::openat(self.root.fd(), ".", flags, Mode::empty())
        } else {
            self.folders.of(path).and_then(|(folder, name)| rustix::fs::openat(folder, name, flags, Mode::empty()))
        };
        let fd = match opened {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Ok(None),
            Err(e) => return Err(failed("look at", path, e)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|e| failed("look at", path, e))?;
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        Ok((!is_link && stat.st_dev == self.device).then_some(Handle { path, fd, stat }))
    }

    /// Makes changes durable.
    pub(crate) fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(self.root.fd()).map_err(|e| failed("make durable", &TreePath::root(), e))
    }
}

impl Handle<'_> {
    pub(crate) fn identity(&self) -> Identity {
        Identity { device: self.stat.st_dev, inode: self.stat.st_ino, kind: self.stat.st_mode & !0o7777 }
    }

    pub(crate) fn permissions(&self) -> Permissions {
        Permissions { uid: self.stat.st_uid, gid: self.stat.st_gid, mode: self.stat.st_mode & 0o7777 }
    }

    /// Tells whether it is of the kind that a backup holds.
    pub(crate) fn is_a(&self, kind: &Kind) -> bool {
        let found = FileType::from_raw_mode(self.stat.st_mode);
        match kind {
            Kind::File { .. } => found == FileType::RegularFile,
            Kind::Folder => found == FileType::Directory,
            Kind::Fifo => found == FileType::Fifo,
            Kind::HardLink { .. } | Kind::Symlink { .. } => false,
        }
    }

    /// Number of names that a file has; a folder has one.
    #[allow(clippy::useless_conversion, reason = "the field is narrower on other processors")]
    pub(crate) fn names(&self) -> u64 {
        if self.identity().is_folder() { 1 } else { u64::from(self.stat.st_nlink) }
    }

    /// Gives it an owner and a mode, and looks whether it has them.
    ///
    /// # Errors
    /// `Precondition`: who runs this may not. `Conflict`: it has others now.
    pub(crate) fn give(&mut self, wanted: Permissions) -> Result<()> {
        let fail = |what: &str, e: Errno| {
            let error = failed(what, self.path, e);
            match e {
                Errno::PERM | Errno::ACCESS | Errno::ROFS => error
                    .of_kind(ErrorKind::Precondition)
                    .hint("run as root; `lsattr -d` shows what is immutable, `findmnt` what is mounted read-only"),
                _ => error,
            }
        };
        // The owner first: a change of owner clears bits of the mode.
        if self.permissions().owner() != wanted.owner() {
            let (uid, gid) = (Uid::from_raw(wanted.uid), Gid::from_raw(wanted.gid));
            rustix::fs::chownat(&self.fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
                .map_err(|e| fail("change the owner of", e))?;
            self.stat = rustix::fs::fstat(&self.fd).map_err(|e| fail("look at", e))?;
        }
        if self.permissions().mode != wanted.mode {
            // fchmod(2) takes no descriptor that was opened by path alone; this leads to the held entry and nowhere else.
            let held = Path::new("/proc/self/fd").join(self.fd.as_raw_fd().to_string());
            rustix::fs::chmod(held.as_os_str().as_bytes(), Mode::from_raw_mode(wanted.mode))
                .map_err(|e| fail("change the mode of", e))?;
            self.stat = rustix::fs::fstat(&self.fd).map_err(|e| fail("look at", e))?;
        }
        if self.permissions() != wanted {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("{:?} does not keep the owner and mode that it was given", self.path),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::new(text).unwrap()
    }

    #[test]
    fn neither_a_link_nor_what_lies_behind_one_is_held() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("outside")).unwrap();
        std::fs::create_dir_all(folder.path().join("tree/d")).unwrap();
        for file in ["outside/f", "tree/d/f"] {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        symlink("../outside", folder.path().join("tree/away")).unwrap();
        symlink("d/f", folder.path().join("tree/link")).unwrap();
        let root = Root::open(&folder.path().join("tree")).unwrap();
        let mut handles = Handles::new(&root).unwrap();
        for nothing in ["away", "away/f", "link", "gone", "gone/f", "d/f/below"] {
            assert!(handles.hold(&path(nothing)).unwrap().is_none(), "{nothing}");
        }
        for entry in ["d", "d/f"] {
            assert!(handles.hold(&path(entry)).unwrap().is_some(), "{entry}");
        }
        assert!(handles.hold(&TreePath::root()).unwrap().unwrap().is_a(&Kind::Folder));
    }

    #[test]
    fn what_is_held_is_changed_though_a_link_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let (held, moved, other) = (folder.path().join("f"), folder.path().join("g"), folder.path().join("other"));
        for file in [&held, &other] {
            std::fs::write(file, "").unwrap();
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o666)).unwrap();
        }
        let root = Root::open(folder.path()).unwrap();
        let mut handles = Handles::new(&root).unwrap();
        let name = path("f");
        let mut handle = handles.hold(&name).unwrap().unwrap();
        std::fs::rename(&held, &moved).unwrap();
        symlink("other", &held).unwrap();
        handle.give(Permissions { mode: 0o600, ..handle.permissions() }).unwrap();
        let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&moved), mode(&other)), (0o600, 0o666));
    }
}
