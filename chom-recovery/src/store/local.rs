//! A store in a folder.
//!
//! An object is written under a temporary name, synced, given its name by a rename that replaces nothing, and its
//! folder is synced. Every step works on folder handles and follows no symbolic link, so that somebody who may write
//! to the store cannot lead a recovery that runs as root elsewhere.

use std::{
    collections::HashSet,
    fmt,
    fs::File,
    io::{self, Write},
    ops::Range,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use rustix::{
    fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps},
    io::Errno,
};
use tokio::sync::mpsc;

use crate::{
    error::{Error, ErrorKind, Result},
    store::{
        BackupStore, Key, ObjectInfo, Skip, Version, check_prefix, check_range,
        pipe::{self, Input},
    },
    stream::ByteStream,
};

mod read;
mod walk;

use read::Reading;

/// Begin of the names of unfinished files; no key has a segment like it.
const TEMPORARY: &str = ".tmp-";
/// How long another process may hold the lock of [`BackupStore::compare_and_swap`], which takes milliseconds.
const LOCK_DEADLINE: Duration = Duration::from_secs(10);

/// Keeps objects as files of mode 0600 below a folder.
#[derive(Debug, Clone)]
pub struct LocalStore {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    root: OwnedFd,
    /// Folders whose entry above them this process has synced.
    durable: Mutex<HashSet<String>>,
    /// Makes the bytes of a new file durable; another one than the system's is a disk that fails, in a test.
    sync: fn(&File) -> io::Result<()>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A file that vanishes unless it is published.
struct Temporary {
    directory: OwnedFd,
    name: String,
    file: File,
    is_published: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_published {
            // What cannot be removed now is swept later.
            let _ = rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

impl LocalStore {
    /// Opens an existing folder.
    ///
    /// # Errors
    /// `NotFound`: it does not exist. `InvalidInput`: not an absolute path. `Precondition`: not a folder that can be
    /// read.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_absolute() {
            return Err(Error::new(ErrorKind::InvalidInput, format!("`{}` is not an absolute path", path.display())));
        }
        let root = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| {
                let error = Error::from(io::Error::from(e)).during(format!("cannot open store `{}`", path.display()));
                match e {
                    Errno::NOENT => error.hint("check that its disk is mounted; `chom-recovery repo init` makes one"),
                    Errno::NOTDIR => error.of_kind(ErrorKind::Precondition),
                    _ => error,
                }
            })?;
        Ok(Self { inner: Arc::new(Inner { path: path.into(), root, durable: Mutex::default(), sync: File::sync_all }) })
    }

    /// Opens a folder; makes it, with mode 0700, when only its last part is missing.
    pub fn create(path: &Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        match std::fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {
                if let Some(parent) = path.parent() {
                    File::open(parent).and_then(|d| d.sync_all()).map_err(Error::from)?;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => {
                return Err(Error::from(e)
                    .during(format!("cannot make store `{}`", path.display()))
                    .hint("check that its disk is mounted"));
            }
        }
        Self::open(path)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = self.inner.clone();
        pipe::blocking(move || work(&inner)).await
    }
}

fn failed(what: &str, key: &Key, error: impl Into<io::Error>) -> Error {
    let error = error.into();
    // A link where a folder should be answers as a file in the way does.
    let is_obstructed = [Errno::LOOP, Errno::NOTDIR].iter().any(|e| error.raw_os_error() == Some(e.raw_os_error()));
    let error = Error::from(error).during(format!("cannot {what} `{key}`"));
    if is_obstructed {
        error.of_kind(ErrorKind::Precondition).hint("a store holds no symbolic links, and no file in place of a folder")
    } else {
        error
    }
}

fn missing(key: &Key) -> Error {
    Error::new(ErrorKind::NotFound, format!("object `{key}` does not exist"))
}

fn taken(key: &Key) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("object `{key}` exists already"))
}

/// Splits a key into its folder, which may be empty, and its name.
fn split(key: &Key) -> (&str, &str) {
    key.as_str().rsplit_once('/').unwrap_or(("", key.as_str()))
}

fn open_directory(at: impl AsFd, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

fn time_of(stat: &Stat) -> DateTime<Utc> {
    let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    DateTime::from_timestamp(stat.st_mtime, nanoseconds).unwrap_or_default()
}

fn info_of(key: Key, stat: &Stat) -> Result<ObjectInfo> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::new(ErrorKind::Corrupt, format!("`{key}` in the store is not a regular file")));
    }
    Ok(ObjectInfo {
        length: u64::try_from(stat.st_size).unwrap_or(0),
        modified: time_of(stat),
        version: version_of(stat),
        key,
    })
}

/// Moves a file's time behind that of the file it is about to replace; clocks tick too slowly for that, or jump.
fn set_later_than(old: DateTime<Utc>, file: &File) -> io::Result<()> {
    if time_of(&rustix::fs::fstat(file)?) <= old {
        let later = old + chrono::Duration::nanoseconds(1);
        let time = Timespec { tv_sec: later.timestamp(), tv_nsec: later.timestamp_subsec_nanos().into() };
        rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time })?;
    }
    Ok(())
}

/// A new file for every write, and a later time than the one it replaces: no two writes of a key share a version.
fn version_of(stat: &Stat) -> Version {
    Version(format!("{}-{}.{:09}-{}", stat.st_ino, stat.st_mtime, stat.st_mtime_nsec, stat.st_size))
}

impl Inner {
    /// Opens the folder of a key. `None`: it does not exist.
    fn directory(&self, path: &str) -> rustix::io::Result<Option<OwnedFd>> {
        let mut at = open_directory(&self.root, ".")?;
        for segment in path.split('/').filter(|s| !s.is_empty()) {
            at = match open_directory(&at, segment) {
                Ok(next) => next,
                Err(Errno::NOENT) => return Ok(None),
                Err(e) => return Err(e),
            };
        }
        Ok(Some(at))
    }

    /// Opens the folder of a key, makes what is missing of it, and makes sure that its entries will outlive a crash:
    /// also those that another writer made a moment ago and has not synced yet.
    fn make_directory(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        let mut at = open_directory(&self.root, ".")?;
        let mut reached = String::new();
        for segment in path.split('/').filter(|s| !s.is_empty()) {
            reached.push_str(segment);
            reached.push('/');
            let is_new = match rustix::fs::mkdirat(&at, segment, Mode::RWXU) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(e) => return Err(e),
            };
            if is_new || !self.durable().contains(&reached) {
                rustix::fs::fsync(&at)?;
                self.durable().insert(reached.clone());
            }
            at = open_directory(&at, segment)?;
        }
        Ok(at)
    }

    fn durable(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.durable.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Makes a temporary file in a folder, which is made where it is missing.
    fn temporary(&self, path: &str, name: &str) -> io::Result<Temporary> {
        let name = format!("{TEMPORARY}{}-{name}", ulid::Ulid::new());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut attempts = 0;
        loop {
            let made = self.make_directory(path).and_then(|directory| {
                let file = rustix::fs::openat(&directory, &name, flags, Mode::RUSR | Mode::WUSR)?;
                Ok((directory, File::from(file)))
            });
            match made {
                Ok((directory, file)) => return Ok(Temporary { directory, name, file, is_published: false }),
                // A deletion just removed the folder, which was empty.
                Err(Errno::NOENT) if attempts < 3 => attempts += 1,
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn put_new(&self, key: &Key, input: &mut Input) -> Result<ObjectInfo> {
        let (path, name) = split(key);
        if self.stat(key)?.is_some() {
            return Err(taken(key));
        }
        let mut temporary = self.temporary(path, name).map_err(|e| failed("write", key, e))?;
        while let Some(piece) = input.next()? {
            temporary.file.write_all(&piece).map_err(|e| failed("write", key, e))?;
        }
        let stat = self.publish(temporary, name, true).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => taken(key),
            _ => failed("write", key, e),
        })?;
        info_of(key.clone(), &stat)
    }

    /// Syncs a temporary file, gives it its name and syncs the folder.
    ///
    /// After a failed sync the kernel may have dropped the pages, and a second sync would lie: the file goes away and
    /// the caller writes it anew.
    fn publish(&self, mut temporary: Temporary, name: &str, is_new: bool) -> io::Result<Stat> {
        (self.sync)(&temporary.file)?;
        let stat = rustix::fs::fstat(&temporary.file)?;
        let (directory, from) = (&temporary.directory, temporary.name.as_str());
        if is_new {
            match rustix::fs::renameat_with(directory, from, directory, name, RenameFlags::NOREPLACE) {
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                    // A filesystem without the flag: a hard link does not replace either.
                    rustix::fs::linkat(directory, from, directory, name, AtFlags::empty())?;
                    rustix::fs::unlinkat(directory, from, AtFlags::empty())?;
                }
                other => other?,
            }
        } else {
            rustix::fs::renameat(directory, from, directory, name)?;
        }
        let synced = rustix::fs::fsync(directory);
        if synced.is_err() && is_new {
            let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
        }
        temporary.is_published = true;
        synced?;
        Ok(stat)
    }

    fn stat(&self, key: &Key) -> Result<Option<ObjectInfo>> {
        let (path, name) = split(key);
        let Some(directory) = self.directory(path).map_err(|e| failed("look at", key, e))? else { return Ok(None) };
        match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Ok(None),
            Ok(stat) => info_of(key.clone(), &stat).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(failed("look at", key, e)),
        }
    }

    fn open_object(&self, key: &Key) -> Result<(File, u64)> {
        let (path, name) = split(key);
        let directory = self.directory(path).map_err(|e| failed("read", key, e))?.ok_or_else(|| missing(key))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&directory, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Err(missing(key)),
            Err(e) => return Err(failed("read", key, e)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|e| failed("read", key, e))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(missing(key));
        }
        let info = info_of(key.clone(), &stat)?;
        Ok((File::from(file), info.length))
    }

    fn delete(&self, key: &Key) -> Result<()> {
        let (path, name) = split(key);
        let Some(directory) = self.directory(path).map_err(|e| failed("delete", key, e))? else { return Ok(()) };
        match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
            Ok(()) => rustix::fs::fsync(&directory).map_err(|e| failed("delete", key, e))?,
            Err(Errno::NOENT) => {}
            Err(e) => return Err(failed("delete", key, e)),
        }
        self.remove_empty(path);
        Ok(())
    }

    /// Removes folders that became empty, from the inside out. Best effort: an empty folder harms nobody.
    fn remove_empty(&self, path: &str) {
        let mut path = path;
        while !path.is_empty() {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            let Ok(Some(directory)) = self.directory(parent) else { return };
            self.durable().remove(&format!("{path}/"));
            if rustix::fs::unlinkat(&directory, name, AtFlags::REMOVEDIR).is_err() {
                return;
            }
            path = parent;
        }
    }

    fn compare_and_swap(&self, key: &Key, expected: Option<&Version>, body: &[u8]) -> Result<Version> {
        let _lock = self.lock()?;
        let present = self.stat(key)?;
        if present.as_ref().map(|i| &i.version) != expected {
            return Err(Error::new(ErrorKind::Conflict, format!("object `{key}` has another version")));
        }
        let (path, name) = split(key);
        let swap = || {
            let mut temporary = self.temporary(path, name)?;
            temporary.file.write_all(body)?;
            if let Some(old) = &present {
                set_later_than(old.modified, &temporary.file)?;
            }
            self.publish(temporary, name, present.is_none())
        };
        match swap() {
            Ok(stat) => Ok(version_of(&stat)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::new(ErrorKind::Conflict, format!("object `{key}` was made by another writer")))
            }
            Err(e) => Err(failed("replace", key, e)),
        }
    }

    /// Locks the root folder; the kernel frees the lock when this process ends, however it ends.
    fn lock(&self) -> Result<OwnedFd> {
        let begun = Instant::now();
        let lock = open_directory(&self.root, ".").map_err(io::Error::from)?;
        loop {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(lock),
                Err(Errno::WOULDBLOCK | Errno::INTR) if begun.elapsed() < LOCK_DEADLINE => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    return Err(Error::new(
                        ErrorKind::Locked,
                        format!("another process has held the lock of `{}` for 10 s", self.path.display()),
                    ));
                }
                Err(e) => return Err(Error::from(io::Error::from(e)).during("cannot lock the store")),
            }
        }
    }

    /// Asks the filesystem for its time. On one that cannot be written to, the host's time has to do.
    fn now(&self) -> Result<DateTime<Utc>> {
        let ask = || {
            let mut temporary = self.temporary("", "now")?;
            temporary.file.write_all(b"?")?;
            Ok(time_of(&rustix::fs::fstat(&temporary.file)?))
        };
        ask().or_else(|e: io::Error| {
            let e = Error::from(e);
            match e.kind() {
                ErrorKind::Precondition | ErrorKind::NoSpace => Ok(Utc::now()),
                _ => Err(e.during("cannot ask the store for its time")),
            }
        })
    }
}

#[async_trait]
impl BackupStore for LocalStore {
    fn url(&self) -> String {
        format!("file:{}", self.inner.path.display())
    }

    async fn put_new(&self, key: &Key, body: ByteStream) -> Result<ObjectInfo> {
        let (inner, key) = (self.inner.clone(), key.clone());
        pipe::consume(body, move |input| inner.put_new(&key, input)).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<ByteStream> {
        let key = key.clone();
        // With the first piece: most objects are small, and a thread of its own for each costs more than reading it.
        let (first, mut reading) = self
            .run(move |inner| {
                let (file, length) = inner.open_object(&key)?;
                let range = check_range(&key, length, range)?;
                let mut reading = Reading::begin(file, key, &range)?;
                Ok((reading.piece()?, reading))
            })
            .await?;
        if reading.is_done() {
            return Ok(Box::pin(futures::stream::iter(first.map(Ok))));
        }
        Ok(pipe::produce(move |output| {
            first.map_or(Ok(()), |piece| output.send(piece))?;
            while let Some(piece) = reading.piece()? {
                output.send(piece)?;
            }
            Ok(())
        }))
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectInfo>> {
        let key = key.clone();
        self.run(move |inner| inner.stat(&key)).await
    }

    async fn list(&self, prefix: &str) -> Result<BoxStream<'static, Result<ObjectInfo>>> {
        self.list_except(prefix, |_| false).await
    }

    async fn list_except(&self, prefix: &str, skip: Skip) -> Result<BoxStream<'static, Result<ObjectInfo>>> {
        check_prefix(prefix)?;
        let (inner, prefix) = (self.inner.clone(), prefix.to_owned());
        let (sender, receiver) = mpsc::channel(256);
        let walking = tokio::task::spawn_blocking(move || walk::objects(&inner, &prefix, skip, &sender));
        Ok(walk::stream(receiver, walking))
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let key = key.clone();
        self.run(move |inner| inner.delete(&key)).await
    }

    async fn compare_and_swap(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version> {
        let (key, expected) = (key.clone(), expected.cloned());
        self.run(move |inner| inner.compare_and_swap(&key, expected.as_ref(), &body)).await
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        self.run(Inner::now).await
    }

    async fn free_bytes(&self) -> Result<Option<u64>> {
        self.run(|inner| {
            let stat = rustix::fs::fstatvfs(&inner.root).map_err(io::Error::from)?;
            Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
        })
        .await
    }

    async fn sweep_leftovers(&self, older_than: Duration) -> Result<u64> {
        self.run(move |inner| {
            let age = chrono::Duration::from_std(older_than).unwrap_or(chrono::Duration::MAX);
            let before = inner.now()?.checked_sub_signed(age).unwrap_or(DateTime::<Utc>::MIN_UTC);
            walk::sweep(inner, before)
        })
        .await
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests;
