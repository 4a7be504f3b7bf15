//! A store in a folder of another host, over the operator's own `ssh`.
//!
//! An object is written under a temporary name that must not exist, synced where the server offers that, looked at,
//! and given its name by a rename that replaces nothing. The version 3 protocol tells times in seconds, says no more
//! than "failure" for a full disk, and has no compare-and-swap; what that means is said where it matters.

use std::{
    collections::HashSet,
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use openssh_sftp_client_lowlevel::{FileAttrs, FileType};

use crate::{
    error::{Error, ErrorKind, Result},
    store::{BackupStore, Key, ObjectInfo, Skip, Version, check_prefix, check_range},
    stream::ByteStream,
    system::SftpSettings,
};
use error::Failure;
use session::Session;

mod error;
mod read;
mod session;
mod walk;
mod write;

/// Begin of the names of unfinished files; no key has a segment like it.
const TEMPORARY: &str = ".tmp-";

/// Which folder of which host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Account; else what the ssh configuration says.
    pub user: Option<String>,
    /// Host, or its alias in the ssh configuration.
    pub host: String,
    /// Port; else what the ssh configuration says.
    pub port: Option<u16>,
    /// Absolute path, as the account sees it.
    pub path: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sftp://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.path)
    }
}

/// Keeps objects as files of mode 0600 below a folder of another host.
#[derive(Debug, Clone)]
pub struct SftpStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    place: Place,
    settings: SftpSettings,
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    /// Folders that this process has seen or made.
    folders: Mutex<HashSet<String>>,
    /// One swap at a time in this process.
    swapping: tokio::sync::Mutex<()>,
    /// The file that tells the time, where this account may not delete what it made.
    clock: tokio::sync::Mutex<Option<String>>,
}

impl SftpStore {
    /// Makes the store. Nothing is connected to until it is used.
    pub fn new(place: Place, settings: &SftpSettings) -> Self {
        Self {
            inner: Arc::new(Inner {
                place,
                settings: settings.clone(),
                session: tokio::sync::Mutex::default(),
                folders: Mutex::default(),
                swapping: tokio::sync::Mutex::default(),
                clock: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Connects, and makes the store's folder, with mode 0700, when only the last part of its path is missing.
    ///
    /// # Errors
    /// `NotFound`: the folder above does not exist. `Precondition`: not a folder, or the account may not make it.
    pub async fn make_root(&self) -> Result<()> {
        let (session, path) = (self.inner.session().await?, &self.inner.place.path);
        match session.make_folder(path).await {
            Ok(()) => Ok(()),
            Err(failure) => match session.stat(path).await {
                Ok(attributes) if attributes.get_filetype() == Some(FileType::Directory) => Ok(()),
                Ok(_) => Err(Error::new(ErrorKind::Precondition, format!("`{}` is not a folder", self.inner.place))),
                Err(_) => Err(failure
                    .during(format!("cannot make store `{}`", self.inner.place))
                    .hint("make the folder above")),
            },
        }
    }
}

impl Inner {
    /// Returns an open session; opens one where there is none, or where the last one was lost.
    async fn session(&self) -> Result<Arc<Session>> {
        let mut slot = self.session.lock().await;
        if let Some(session) = slot.as_ref().filter(|s| !s.is_lost()) {
            return Ok(session.clone());
        }
        *slot = None;
        let session = Arc::new(Session::open(&self.place, &self.settings).await?);
        *slot = Some(session.clone());
        Ok(session)
    }

    /// Path of an object, or of a folder where `relative` ends at a `/`, on the other host.
    fn path(&self, relative: &str) -> String {
        format!("{}/{}", self.place.path, relative).trim_end_matches('/').to_owned()
    }

    fn folders(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `NotFound` of an object means that it is absent only while the store's own folder is there.
    async fn check_root(&self, session: &Session) -> Result<()> {
        match session.stat(&self.place.path).await {
            Ok(_) => Ok(()),
            Err(Failure::Absent) => {
                Err(Error::new(ErrorKind::NotFound, format!("store `{}` does not exist", self.place))
                    .hint("check that its disk is mounted there; `chom-recovery repo init` makes a new one"))
            }
            Err(failure) => Err(failure.during(format!("cannot look at `{}`", self.place))),
        }
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectInfo>> {
        let session = self.session().await?;
        match session.stat(&self.path(key.as_str())).await {
            Ok(attributes) if attributes.get_filetype() == Some(FileType::Directory) => Ok(None),
            Ok(attributes) => info_of(key.clone(), &attributes).map(Some),
            Err(Failure::Absent) => self.check_root(&session).await.map(|()| None),
            Err(failure) => Err(failure.during(format!("cannot look at `{key}`"))),
        }
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let session = self.session().await?;
        match session.remove(&self.path(key.as_str())).await {
            Ok(()) => self.remove_empty(&session, key).await,
            Err(Failure::Absent) => self.check_root(&session).await?,
            Err(Failure::Forbidden(said)) => {
                return Err(Error::new(
                    ErrorKind::Denied,
                    format!("cannot delete `{key}`: the sftp server says: {said}"),
                )
                .hint("this account may not delete here, which protects backups from this host; prune with another"));
            }
            Err(failure) => return Err(failure.during(format!("cannot delete `{key}`"))),
        }
        Ok(())
    }

    /// Removes folders that became empty, from the inside out. Best effort: an empty folder harms nobody.
    async fn remove_empty(&self, session: &Session, key: &Key) {
        let mut path = key.as_str();
        while let Some((folder, _)) = path.rsplit_once('/') {
            self.folders().remove(folder);
            if session.remove_folder(&self.path(folder)).await.is_err() {
                return;
            }
            path = folder;
        }
    }

    async fn free_bytes(&self) -> Result<Option<u64>> {
        let session = self.session().await?;
        let what = || format!("cannot ask `{}` how much is free", self.place);
        let room = session.room(&self.place.path).await.map_err(|f| f.during(what()))?;
        Ok(room.map(|r| r.bavail.saturating_mul(r.frsize)))
    }

    /// Asks the other host for its time: that of a file written to just now. Where nothing may be written, this
    /// host's time has to do.
    async fn now(&self) -> Result<DateTime<Utc>> {
        let session = self.session().await?;
        let mut kept = self.clock.lock().await;
        let fail = |f: Failure| f.during("cannot ask the store for its time");
        let (path, handle) = if let Some(path) = kept.as_ref() {
            (path.clone(), session.open_file(path, true).await)
        } else {
            let path = self.path(&format!("{TEMPORARY}{}-now", ulid::Ulid::new()));
            let handle = session.create(&path).await;
            (path, handle)
        };
        let handle = match handle {
            Ok(handle) => handle,
            Err(Failure::Forbidden(_) | Failure::Unexplained(_)) => return Ok(Utc::now()),
            Err(Failure::Absent) => {
                *kept = None;
                return Err(self.check_root(&session).await.err().unwrap_or_else(|| fail(Failure::Absent)));
            }
            Err(failure) => return Err(fail(failure)),
        };
        // On a full disk the write fails, and the file is new nevertheless.
        let written = session.write(&handle, 0, Bytes::from_static(b"?")).await;
        let attributes = session.stat_open(&handle).await.map_err(fail)?;
        session.close(handle).await.map_err(fail)?;
        if let Err(lost @ Failure::Lost(_)) = written {
            return Err(fail(lost));
        }
        *kept = session.remove(&path).await.is_err().then_some(path);
        Ok(modified(&attributes))
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

fn modified(attributes: &FileAttrs) -> DateTime<Utc> {
    let seconds = attributes.get_time().map_or(0, |(_, modified)| modified.into_raw());
    DateTime::from_timestamp(seconds.into(), 0).unwrap_or_default()
}

/// A swap moves the time on by a second at least, so no two writes of a key share a version while it exists.
fn version_of(attributes: &FileAttrs) -> Version {
    Version(format!("{}-{}", modified(attributes).timestamp(), attributes.get_size().unwrap_or(0)))
}

fn info_of(key: Key, attributes: &FileAttrs) -> Result<ObjectInfo> {
    let (Some(FileType::RegularFile), Some(length)) = (attributes.get_filetype(), attributes.get_size()) else {
        return Err(Error::new(ErrorKind::Corrupt, format!("`{key}` in the store is not a regular file")));
    };
    Ok(ObjectInfo { length, modified: modified(attributes), version: version_of(attributes), key })
}

#[async_trait]
impl BackupStore for SftpStore {
    fn url(&self) -> String {
        self.inner.place.to_string()
    }

    async fn put_new(&self, key: &Key, body: ByteStream) -> Result<ObjectInfo> {
        self.inner.put_new(key, body).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<ByteStream> {
        let (file, length) = self.inner.open_object(key).await?;
        let range = check_range(key, length, range)?;
        Ok(file.stream(range))
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectInfo>> {
        self.inner.stat(key).await
    }

    async fn list(&self, prefix: &str) -> Result<BoxStream<'static, Result<ObjectInfo>>> {
        self.list_except(prefix, |_| false).await
    }

    async fn list_except(&self, prefix: &str, skip: Skip) -> Result<BoxStream<'static, Result<ObjectInfo>>> {
        check_prefix(prefix)?;
        let session = self.inner.session().await?;
        self.inner.check_root(&session).await?;
        Ok(walk::objects(self.inner.clone(), session, prefix, skip))
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key).await
    }

    async fn compare_and_swap(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version> {
        self.inner.compare_and_swap(key, expected, body).await
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        self.inner.now().await
    }

    async fn free_bytes(&self) -> Result<Option<u64>> {
        self.inner.free_bytes().await
    }

    async fn sweep_leftovers(&self, older_than: Duration) -> Result<u64> {
        let age = chrono::Duration::from_std(older_than).unwrap_or(chrono::Duration::MAX);
        let before = self.inner.now().await?.checked_sub_signed(age).unwrap_or(DateTime::<Utc>::MIN_UTC);
        let session = self.inner.session().await?;
        walk::sweep(&self.inner, &session, before).await
    }
}
