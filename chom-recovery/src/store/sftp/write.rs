//! Writes an object, or replaces a small one.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use futures::StreamExt;
use openssh_sftp_client_lowlevel::{FileAttrs, FileType, HandleOwned, UnixTimeStamp};
use tokio_util::task::AbortOnDropHandle;

use super::{Inner, TEMPORARY, error::Failure, info_of, read::close_later, session::Session, split, taken, version_of};
use crate::{
    error::{Error, ErrorKind, Result},
    store::{Key, ObjectInfo, Version},
    stream::{self, ByteStream},
};

/// Requests under way.
const AHEAD: usize = 8;
/// A disk with less room than this after a failed write is full; servers round in blocks, and keep some for root.
const FULL: u64 = 1 << 20;

/// A file under a temporary name; removed when dropped, unless it was published.
struct Temporary {
    session: Arc<Session>,
    path: String,
    handle: Option<Arc<HandleOwned>>,
    is_published: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            close_later(&self.session, &handle);
        }
        if !self.is_published && !self.session.is_lost() {
            let (session, path) = (self.session.clone(), std::mem::take(&mut self.path));
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                // What cannot be removed now is swept later.
                runtime.spawn(async move { session.remove(&path).await });
            }
        }
    }
}

fn cut_short(key: &Key) -> Error {
    Error::new(ErrorKind::Failed, format!("writing `{key}` ended by panic"))
}

impl Inner {
    pub(super) async fn put_new(&self, key: &Key, body: ByteStream) -> Result<ObjectInfo> {
        let session = self.session().await?;
        match session.stat(&self.path(key.as_str())).await {
            Ok(there) if there.get_filetype() != Some(FileType::Directory) => {
                return Err(info_of(key.clone(), &there).err().unwrap_or_else(|| taken(key)));
            }
            Ok(_) | Err(Failure::Absent) => {}
            Err(failure) => return Err(failure.during(format!("cannot write `{key}`"))),
        }
        let (temporary, length) = self.write_temporary(&session, key, body).await?;
        let info = self.publish(temporary, key).await?;
        if info.length != length {
            return Err(Error::new(ErrorKind::Corrupt, format!("object `{key}` has another length than was written"))
                .with("length", info.length)
                .with("written", length)
                .hint("the server changes files after the fact; do not use it for backups"));
        }
        Ok(info)
    }

    /// Makes the folder of a key where it is missing; the store's own folder is never made here.
    async fn make_folders(&self, session: &Session, folder: &str) -> Result<()> {
        let mut reached = String::new();
        for segment in folder.split('/').filter(|s| !s.is_empty()) {
            if !reached.is_empty() {
                reached.push('/');
            }
            reached.push_str(segment);
            if self.folders().contains(&reached) {
                continue;
            }
            let path = self.path(&reached);
            match session.make_folder(&path).await {
                Ok(()) => {}
                // The protocol has no word for "exists already".
                Err(failure) => match session.stat(&path).await {
                    Ok(there) if there.get_filetype() == Some(FileType::Directory) => {}
                    Ok(_) => {
                        return Err(Error::new(
                            ErrorKind::Precondition,
                            format!("`{reached}` in the store is no folder"),
                        )
                        .hint("a store holds no symbolic links, and no file in place of a folder"));
                    }
                    Err(_) => {
                        self.check_root(session).await?;
                        return Err(self.explain(session, failure, format!("cannot make folder `{reached}`")).await);
                    }
                },
            }
            self.folders().insert(reached.clone());
        }
        Ok(())
    }

    /// A path that nobody else uses, in the folder of a key.
    fn beside(&self, key: &Key) -> String {
        let (folder, name) = split(key);
        let name = format!("{TEMPORARY}{}-{name}", ulid::Ulid::new());
        if folder.is_empty() { self.path(&name) } else { self.path(&format!("{folder}/{name}")) }
    }

    /// Makes a temporary file beside where an object shall be.
    async fn temporary(&self, session: &Arc<Session>, key: &Key) -> Result<Temporary> {
        let mut attempts = 0;
        loop {
            self.make_folders(session, split(key).0).await?;
            let path = self.beside(key);
            match session.create(&path).await {
                Ok(handle) => {
                    let (session, handle) = (session.clone(), Some(Arc::new(handle)));
                    return Ok(Temporary { session, path, handle, is_published: false });
                }
                // A deletion just removed the folder, which was empty.
                Err(Failure::Absent) if attempts < 3 => {
                    self.check_root(session).await?;
                    attempts += 1;
                    self.folders().clear();
                }
                Err(failure) => return Err(self.explain(session, failure, format!("cannot write `{key}`")).await),
            }
        }
    }

    /// Writes a body under a temporary name and has it made durable. The second value is its length.
    async fn write_temporary(
        &self,
        session: &Arc<Session>,
        key: &Key,
        mut body: ByteStream,
    ) -> Result<(Temporary, u64)> {
        let temporary = self.temporary(session, key).await?;
        let handle = temporary.handle.clone().ok_or_else(|| cut_short(key))?;
        let mut ahead: VecDeque<AbortOnDropHandle<Result<(), Failure>>> = VecDeque::new();
        let mut length = 0;
        let written = async {
            while let Some(piece) = body.next().await {
                let mut piece = piece?;
                while !piece.is_empty() {
                    if ahead.len() == AHEAD
                        && let Some(oldest) = ahead.pop_front()
                    {
                        self.answered(session, key, oldest).await?;
                    }
                    let part = piece.split_to(piece.len().min(session.piece() as usize));
                    let (session, handle, offset) = (session.clone(), handle.clone(), length);
                    length += part.len() as u64;
                    let writing = tokio::spawn(async move { session.write(&handle, offset, part).await });
                    ahead.push_back(AbortOnDropHandle::new(writing));
                }
            }
            while let Some(oldest) = ahead.pop_front() {
                self.answered(session, key, oldest).await?;
            }
            Ok::<_, Error>(())
        };
        written.await?;
        let what = || format!("cannot write `{key}`");
        if let Err(failure) = session.sync(&handle).await {
            return Err(self.explain(session, failure, what()).await);
        }
        let attributes = session.stat_open(&handle).await.map_err(|f| f.during(what()))?;
        if attributes.get_size() != Some(length) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("the server kept another length of `{key}` than it took"),
            )
            .with("length", attributes.get_size().unwrap_or(0))
            .with("written", length));
        }
        Ok((temporary, length))
    }

    async fn answered(
        &self,
        session: &Session,
        key: &Key,
        writing: AbortOnDropHandle<Result<(), Failure>>,
    ) -> Result<()> {
        match writing.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => Err(self.explain(session, failure, format!("cannot write `{key}`")).await),
            Err(panic) => Err(cut_short(key).caused_by(panic)),
        }
    }

    /// Makes an error of a failed write. Servers say no more than "failure" for a full disk: the room tells.
    async fn explain(&self, session: &Session, failure: Failure, what: String) -> Error {
        if matches!(failure, Failure::Unexplained(_))
            && let Ok(Some(room)) = session.room(&self.place.path).await
        {
            let free = room.bavail.saturating_mul(room.frsize);
            if free < FULL || (room.files > 0 && room.favail == 0) {
                return Error::new(ErrorKind::NoSpace, format!("{what}: `{}` is full", self.place))
                    .with("free bytes", free)
                    .with("free inodes", room.favail)
                    .hint("make room there, or prune old backups");
            }
        }
        failure.during(what)
    }

    /// Closes a temporary file, gives it its name and looks at the result.
    async fn publish(&self, temporary: Temporary, key: &Key) -> Result<ObjectInfo> {
        let (session, path) = (temporary.session.clone(), temporary.path.clone());
        if let Some(info) = self.give_name(temporary, key).await? {
            return Ok(info);
        }
        match session.stat(&self.path(key.as_str())).await {
            Ok(attributes) => info_of(key.clone(), &attributes),
            Err(Failure::Lost(lost)) => self.settle(&path, key, lost).await,
            Err(failure) => Err(failure.during(format!("cannot write `{key}`"))),
        }
    }

    /// Closes a temporary file and gives it its name. Returns what is there where that had to be looked at.
    async fn give_name(&self, mut temporary: Temporary, key: &Key) -> Result<Option<ObjectInfo>> {
        let session = temporary.session.clone();
        let what = || format!("cannot write `{key}`");
        if let Some(handle) = temporary.handle.take().and_then(|h| Arc::try_unwrap(h).ok())
            && let Err(failure) = session.close(handle).await
        {
            return Err(self.explain(&session, failure, what()).await);
        }
        let path = self.path(key.as_str());
        match session.rename(&temporary.path, &path).await {
            Ok(()) => {
                temporary.is_published = true;
                Ok(None)
            }
            Err(Failure::Lost(lost)) => {
                temporary.is_published = true;
                self.settle(&temporary.path, key, lost).await.map(Some)
            }
            Err(failure) => Err(match session.stat(&path).await {
                Ok(_) => taken(key),
                Err(_) => self.explain(&session, failure, what()).await,
            }),
        }
    }

    /// Finds out whether a rename happened whose answer was lost. The temporary name is known to nobody else: when it
    /// is gone and the object is there, the rename happened.
    async fn settle(&self, temporary: &str, key: &Key, lost: Error) -> Result<ObjectInfo> {
        let unknown = |e: Error| {
            e.of_kind(ErrorKind::OutcomeUnknown)
                .during(format!("the connection was lost while `{key}` got its name"))
                .hint("look whether it is there when the store can be reached again")
        };
        let session = self.session().await.map_err(&unknown)?;
        match session.stat(temporary).await {
            Ok(_) => {
                // It did not happen; what cannot be removed now is swept later.
                let _ = session.remove(temporary).await;
                Err(lost.during(format!("cannot write `{key}`")))
            }
            Err(Failure::Absent) => match session.stat(&self.path(key.as_str())).await {
                Ok(attributes) => info_of(key.clone(), &attributes),
                Err(failure) => Err(unknown(failure.during(format!("cannot look at `{key}`")))),
            },
            Err(failure) => Err(unknown(failure.during(format!("cannot look at `{key}`")))),
        }
    }

    /// Replaces a small object.
    ///
    /// The protocol has no compare-and-swap. Here a writer first takes the present object away by a rename, which one
    /// of several writers can do, and then puts the new one in its place by a rename that replaces nothing. In between
    /// the object is absent; a writer that dies there leaves it so, which frees a lease.
    pub(super) async fn compare_and_swap(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version> {
        let conflict = || Error::new(ErrorKind::Conflict, format!("object `{key}` has another version"));
        let _one_at_a_time = self.swapping.lock().await;
        let present = self.stat(key).await?;
        if present.as_ref().map(|i| &i.version) != expected {
            return Err(conflict());
        }
        let session = self.session().await?;
        let (temporary, _) = self.write_temporary(&session, key, stream::once(body)).await?;
        let claimed = match &present {
            None => None,
            Some(present) => {
                let claimed = self.claim(&session, key, &present.version).await?.ok_or_else(conflict)?;
                self.move_on(&session, &temporary.path, &claimed.1).await?;
                Some(claimed.0)
            }
        };
        // Looked at before it gets its name: a slower writer may take it away for a moment, to see that it came too late.
        let written = session.stat(&temporary.path).await.map(|attributes| version_of(&attributes));
        let published = match written {
            Ok(version) => self.give_name(temporary, key).await.map(|settled| settled.map_or(version, |i| i.version)),
            Err(failure) => Err(failure.during(format!("cannot write `{key}`"))),
        };
        if let Some(claimed) = claimed {
            // What cannot be removed now is swept later.
            let _ = session.remove(&claimed).await;
        }
        match published {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(conflict()),
            other => other,
        }
    }

    /// Takes the present object away, if it has the version given. Returns its new path and what it is.
    async fn claim(&self, session: &Session, key: &Key, version: &Version) -> Result<Option<(String, FileAttrs)>> {
        let what = || format!("cannot replace `{key}`");
        let path = self.beside(key);
        match session.rename(&self.path(key.as_str()), &path).await {
            Ok(()) => {}
            Err(Failure::Absent) => return Ok(None),
            Err(failure) => return Err(failure.during(what())),
        }
        let attributes = session.stat(&path).await.map_err(|f| f.during(what()))?;
        if version_of(&attributes) == *version {
            return Ok(Some((path, attributes)));
        }
        // Another writer was faster: its object goes back where it was, unless one more took the place.
        let _ = session.rename(&path, &self.path(key.as_str())).await;
        Ok(None)
    }

    /// Moves a file's time behind that of the one it replaces: times are seconds here.
    async fn move_on(&self, session: &Session, path: &str, replaced: &FileAttrs) -> Result<()> {
        let what = || "cannot set the time of a file in the store".to_owned();
        let seconds = |attributes: &FileAttrs| attributes.get_time().map_or(0, |(_, modified)| modified.into_raw());
        let old = seconds(replaced);
        let now = seconds(&session.stat(path).await.map_err(|f| f.during(what()))?);
        if now <= old {
            let later = UnixTimeStamp::from_raw(old.saturating_add(1)).unwrap_or_default();
            session.set_modified(path, later).await.map_err(|f| f.during(what()))?;
        }
        Ok(())
    }
}
