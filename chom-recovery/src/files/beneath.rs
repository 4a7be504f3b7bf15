//! Opening what lies below a folder, and nothing else: no symbolic link is followed and no path leads out.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::entry::TreePath;
use crate::error::{Error, ErrorKind, Result};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The root folder of a tree, held open: what its path leads to later does not matter.
#[derive(Debug, Clone)]
pub struct Root {
    path: Arc<PathBuf>,
    fd: Arc<OwnedFd>,
}

impl Root {
    /// Opens a folder.
    ///
    /// # Errors
    /// `NotFound`: it does not exist. `InvalidInput`: it is no folder. `Precondition`: it may not be read.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| {
            let error = Error::from(io::Error::from(e)).during(format!("cannot open folder `{}`", path.display()));
            if e == Errno::NOTDIR { error.of_kind(ErrorKind::InvalidInput) } else { error }
        })?;
        Ok(Self { path: Arc::new(path.into()), fd: Arc::new(fd) })
    }

    /// Returns the path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a folder below it. No link is followed on the way: else who may write in the tree would choose what is read.
    ///
    /// # Errors
    /// `NotFound`: it does not exist. `InvalidInput`: it is no folder, or a link leads there.
    pub fn below(&self, path: &Path) -> Result<Self> {
        let fd = self.folder(path.as_os_str().as_bytes()).map_err(|e| {
            let what = format!("cannot open folder `{}` in `{}`", path.display(), self.path.display());
            let error = Error::from(io::Error::from(e)).during(what);
            match e {
                Errno::LOOP | Errno::NOTDIR | Errno::INVAL | Errno::XDEV => error
                    .of_kind(ErrorKind::InvalidInput)
                    .hint("name the folder itself: links are not followed on the way to it"),
                _ => error,
            }
        })?;
        Ok(Self { path: Arc::new(self.path.join(path)), fd: Arc::new(fd) })
    }

    /// Returns a path of the open folder that does not depend on what lies on the way to it, for calls that take no
    /// descriptor. It is valid as long as the folder is held open.
    pub(crate) fn path_by_descriptor(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.fd.as_raw_fd().to_string())
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens a folder below it.
    pub(super) fn folder(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        if path.is_empty() {
            return rustix::fs::openat(self.fd(), ".", FOLDER, Mode::empty());
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(self.fd(), OsStr::from_bytes(path), FOLDER, Mode::empty(), resolve) {
            // Kernels before 5.6, and sandboxes that know no such call: the same promise, a name at a time.
            Err(Errno::NOSYS | Errno::PERM) => self.folder_by_steps(path),
            result => result,
        }
    }

    fn folder_by_steps(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let mut at = rustix::fs::openat(self.fd(), ".", FOLDER, Mode::empty())?;
        for name in path.split(|b| *b == b'/') {
            if matches!(name, b"" | b"." | b"..") {
                return Err(Errno::INVAL);
            }
            at = rustix::fs::openat(&at, OsStr::from_bytes(name), FOLDER, Mode::empty())?;
        }
        Ok(at)
    }
}

/// Remembers the folder that was opened last: neighbours come one after the other.
#[derive(Debug)]
pub(super) struct Folders<'a> {
    root: &'a Root,
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl<'a> Folders<'a> {
    pub(super) fn new(root: &'a Root) -> Self {
        Self { root, last: None }
    }

    /// Gives the folder that holds `path`, and the name in it.
    ///
    /// # Errors
    /// What opening the folder gives; `EINVAL` for the root, which lies in no folder.
    pub(super) fn of<'p>(&mut self, path: &'p TreePath) -> rustix::io::Result<(BorrowedFd<'_>, &'p OsStr)> {
        let (folder, name) = path.split().ok_or(Errno::INVAL)?;
        if self.last.as_ref().is_none_or(|(open, _)| open != folder) {
            self.last = None;
            self.last = Some((folder.to_vec(), self.root.folder(folder)?));
        }
        let (_, fd) = self.last.as_ref().ok_or(Errno::INVAL)?;
        Ok((fd.as_fd(), OsStr::from_bytes(name)))
    }
}

/// Says which entry a call failed for.
pub(super) fn failed(what: &str, path: &TreePath, error: impl Into<io::Error>) -> Error {
    Error::from(error.into()).during(format!("cannot {what} {path:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_links_nor_dots_lead_out() {
        let outside = tempfile::tempdir().unwrap();
        let inside = outside.path().join("inside");
        std::fs::create_dir_all(inside.join("a/b")).unwrap();
        std::os::unix::fs::symlink("..", inside.join("up")).unwrap();
        std::os::unix::fs::symlink("a", inside.join("link")).unwrap();
        let root = Root::open(&inside).unwrap();
        for open in [Root::folder, Root::folder_by_steps] {
            assert!(open(&root, b"a/b").is_ok());
            for bad in [&b".."[..], b"a/../..", b"up", b"link/b", b"/etc", b"a/b/c"] {
                assert!(open(&root, bad).is_err(), "{}", String::from_utf8_lossy(bad));
            }
        }
        assert_eq!(root.below(Path::new("a/b")).unwrap().path(), inside.join("a/b"));
        assert_eq!(root.below(Path::new("")).unwrap().path(), inside.join(""));
        for (bad, kind) in
            [("up", ErrorKind::InvalidInput), ("link/b", ErrorKind::InvalidInput), ("c", ErrorKind::NotFound)]
        {
            assert_eq!(root.below(Path::new(bad)).unwrap_err().kind(), kind, "{bad}");
        }
    }
}
