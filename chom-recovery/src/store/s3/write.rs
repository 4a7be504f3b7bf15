//! Writes an object, whole or in parts, or replaces a small one.
//!
//! Every write has a name, which the object bears. After an answer that was lost, the object is looked at: it is ours,
//! another's, or not there. So a write can be repeated without the risk that it is taken for a second one.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use object_store::{
    Attribute, Attributes, Error as Cause, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    UpdateVersion,
    multipart::{MultipartStore, PartId},
    path::Path,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Inner,
    client::{Client, SWAP, Seen, WRITER},
    error, info_of, plain, version_of,
};
use crate::{
    error::{Error, ErrorKind, Result},
    store::{Key, ObjectInfo, Version},
    stream::ByteStream,
};

/// Bytes of a part of a large object. Two are in memory: one on its way, one being filled.
///
/// # Source
/// Amazon S3, "Multipart upload limits": at least 5 MiB, at most 10,000 parts.
const PART: usize = 8 << 20;
const MOST_PARTS: usize = 10_000;
/// Attempts at one request.
const ATTEMPTS: u32 = 4;
/// Pause before the second attempt; each further one is twice as long, and shortened by chance by up to a half.
const PAUSE: Duration = Duration::from_millis(300);

async fn pause(attempt: u32) {
    tokio::time::sleep(PAUSE.saturating_mul(1 << attempt.min(8)).mul_f64(rand::random_range(0.5..=1.0))).await;
}

/// Whether a request may have been carried out although it failed, or would be if it came again.
fn is_transient(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout)
}

fn taken(key: &Key) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("object `{key}` exists already"))
}

fn named(key: &'static str, value: &str) -> Attributes {
    [(Attribute::Metadata(key.into()), value.to_owned())].into_iter().collect()
}

/// A body in parts of one size; a shorter one is the last.
struct Parts {
    body: ByteStream,
    rest: Bytes,
    read: u64,
}

impl Parts {
    async fn next(&mut self) -> Result<PutPayload> {
        let (mut pieces, mut length) = (Vec::new(), 0);
        while length < PART {
            if self.rest.is_empty() {
                match self.body.next().await {
                    Some(piece) => self.rest = piece?,
                    None => break,
                }
            }
            let piece = self.rest.split_to(self.rest.len().min(PART - length));
            length += piece.len();
            if !piece.is_empty() {
                pieces.push(piece);
            }
        }
        self.read += length as u64;
        Ok(pieces.into_iter().collect())
    }
}

/// An upload in parts; aborted when dropped, unless it was completed.
struct Upload {
    client: Arc<Client>,
    path: Path,
    id: String,
    is_complete: bool,
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.is_complete {
            return;
        }
        let (client, path, id) = (self.client.clone(), self.path.clone(), std::mem::take(&mut self.id));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // What cannot be aborted now is swept later.
            runtime.spawn(async move { client.store.abort_multipart(&path, &id).await });
        }
    }
}

/// A write under way.
struct Writing<'a> {
    inner: &'a Inner,
    client: &'a Arc<Client>,
    key: &'a Key,
    path: String,
    /// Name of this write.
    writer: String,
    what: String,
}

impl Inner {
    pub(super) async fn put_new(&self, key: &Key, body: ByteStream) -> Result<ObjectInfo> {
        let capabilities = self.capabilities().await?;
        let writing = Writing {
            inner: self,
            client: self.client().await?,
            key,
            path: self.path(key),
            writer: ulid::Ulid::new().to_string(),
            what: format!("cannot write `{key}`"),
        };
        let mut parts = Parts { body, rest: Bytes::new(), read: 0 };
        let first = parts.next().await?;
        let is_large = first.content_length() == PART;
        if (is_large || !capabilities.create_only) && writing.look().await?.is_some() {
            return Err(taken(key));
        }
        if is_large {
            writing.upload(first, parts).await
        } else {
            let mode = if capabilities.create_only { PutMode::Create } else { PutMode::Overwrite };
            writing.put(first, mode, parts.read).await
        }
    }

    /// Replaces a small object if its version is still the one given.
    ///
    /// The server compares ETags, which are hashes of the content for most: of two swaps at once whose bodies both equal
    /// the present one, both could succeed. A lease names its holder, so its bodies differ.
    pub(super) async fn compare_and_swap(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version> {
        let conflict = || Error::new(ErrorKind::Conflict, format!("object `{key}` has another version"));
        if !self.capabilities().await?.swap {
            return Err(Error::new(ErrorKind::Unsupported, "the S3 server cannot replace an object under a condition")
                .hint("backups can be made and restored there; prune needs a server that knows `If-Match`"));
        }
        let (client, what, path) = (self.client().await?, format!("cannot replace `{key}`"), self.path(key));
        let swap = ulid::Ulid::new().to_string();
        let mut last = None;
        for attempt in 0..ATTEMPTS {
            let present = client.head(&what, &path).await?;
            if let Some(ours) = present.as_ref().filter(|p| p.swap.as_ref() == Some(&swap)) {
                return Ok(version_of(ours));
            }
            if present.as_ref().map(version_of).as_ref() != expected {
                return Err(conflict());
            }
            let mode = match &present {
                None => PutMode::Create,
                Some(seen) => {
                    let e_tag = Some(format!("\"{}\"", plain(&seen.etag)));
                    PutMode::Update(UpdateVersion { e_tag, version: None })
                }
            };
            let options = PutOptions { mode, attributes: named(SWAP, &swap), ..PutOptions::default() };
            match client.store.put_opts(&Path::from(path.as_str()), body.clone().into(), options).await {
                Ok(put) => {
                    let etag = put.e_tag.unwrap_or_default();
                    return Ok(Version(format!("{}/{swap}", plain(&etag))));
                }
                // The next look tells who was faster.
                Err(cause) if error::is_condition(&cause) => last = Some(conflict()),
                Err(cause) => {
                    let error = error::map(&what, &cause);
                    if !is_transient(&error) {
                        return Err(error);
                    }
                    last = Some(error);
                }
            }
            pause(attempt).await;
        }
        match client.head(&what, &path).await {
            Ok(Some(seen)) if seen.swap.as_ref() == Some(&swap) => Ok(version_of(&seen)),
            Ok(_) => Err(last.unwrap_or_else(conflict)),
            Err(error) => Err(error.of_kind(ErrorKind::OutcomeUnknown)),
        }
    }
}

impl Writing<'_> {
    /// Looks at the object; repeated after a lost connection.
    async fn look(&self) -> Result<Option<Seen>> {
        let mut attempt = 0;
        loop {
            match self.client.head(&self.what, &self.path).await {
                Err(error) if is_transient(&error) && attempt + 1 < ATTEMPTS => pause(attempt).await,
                other => return other,
            }
            attempt += 1;
        }
    }

    /// Judges what is there after a write: `None` means that nothing is.
    fn judge(&self, seen: Option<Seen>, length: u64) -> Result<Option<ObjectInfo>> {
        let Some(seen) = seen else { return Ok(None) };
        if seen.writer.as_ref() != Some(&self.writer) {
            return Err(taken(self.key));
        }
        if seen.length != length {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("object `{}` has another length than was written", self.key),
            )
            .with("length", seen.length)
            .with("written", length)
            .hint("the S3 server lost bytes that it had confirmed; do not use it for backups"));
        }
        Ok(Some(info_of(self.key.clone(), &seen)))
    }

    /// Finds out what became of a write that failed with `error` or was told to exist already. `None`: nothing is
    /// there, and the write may be repeated.
    async fn settle(&self, length: u64, error: &Error) -> Result<Option<ObjectInfo>> {
        match self.look().await {
            Ok(seen) => self.judge(seen, length),
            Err(blind) => Err(Error::new(
                ErrorKind::OutcomeUnknown,
                format!("the connection was lost while `{}` was written: {}", self.key, error.message()),
            )
            .caused_by(blind)
            .hint("look whether it is there when the store can be reached again")),
        }
    }

    /// Checks a write that the server confirmed.
    async fn confirmed(&self, length: u64) -> Result<ObjectInfo> {
        self.judge(self.look().await?, length)?.ok_or_else(|| {
            Error::new(
                ErrorKind::Corrupt,
                format!("object `{}` is not there, although the S3 server took it", self.key),
            )
            .hint("do not use this server for backups")
        })
    }

    async fn put(&self, payload: PutPayload, mode: PutMode, length: u64) -> Result<ObjectInfo> {
        let at = Path::from(self.path.as_str());
        let mut attempt = 0;
        loop {
            let options =
                PutOptions { mode: mode.clone(), attributes: named(WRITER, &self.writer), ..PutOptions::default() };
            let error = match self.client.store.put_opts(&at, payload.clone(), options).await {
                Ok(_) => return self.confirmed(length).await,
                Err(cause) if error::is_condition(&cause) => {
                    Error::new(ErrorKind::Conflict, format!("{}: others write it at the same time", self.what))
                }
                Err(cause) => {
                    let error = error::map(&self.what, &cause);
                    if !is_transient(&error) {
                        return Err(error);
                    }
                    error
                }
            };
            if let Some(info) = self.settle(length, &error).await? {
                return Ok(info);
            }
            attempt += 1;
            if attempt == ATTEMPTS {
                return Err(error.with("attempts", attempt));
            }
            pause(attempt).await;
        }
    }

    async fn upload(&self, first: PutPayload, mut parts: Parts) -> Result<ObjectInfo> {
        let at = Path::from(self.path.as_str());
        let options = || PutMultipartOptions { attributes: named(WRITER, &self.writer), ..Default::default() };
        let id = repeat(&self.what, || self.client.store.create_multipart_opts(&at, options())).await?;
        let mut upload = Upload { client: self.client.clone(), path: at.clone(), id, is_complete: false };

        let mut done: Vec<PartId> = Vec::new();
        let mut under_way = Some(self.send_part(&upload, 0, first));
        while let Some(sending) = under_way.take() {
            let next = parts.next().await?;
            done.push(sending.await.map_err(|e| {
                Error::new(ErrorKind::Failed, format!("{}: a part ended by panic", self.what)).caused_by(e)
            })??);
            if next.content_length() > 0 {
                if done.len() == MOST_PARTS {
                    return Err(Error::new(
                        ErrorKind::InvalidInput,
                        format!("{}: it is longer than 78 GiB", self.what),
                    ));
                }
                under_way = Some(self.send_part(&upload, done.len(), next));
            }
        }
        self.complete(&mut upload, done, parts.read).await
    }

    /// Sends a part from a task of its own, while the next one is filled.
    fn send_part(&self, upload: &Upload, index: usize, payload: PutPayload) -> AbortOnDropHandle<Result<PartId>> {
        let (client, path, id, what) = (self.client.clone(), upload.path.clone(), upload.id.clone(), self.what.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            repeat(&what, || client.store.put_part(&path, &id, index, payload.clone())).await
        }))
    }

    async fn complete(&self, upload: &mut Upload, parts: Vec<PartId>, length: u64) -> Result<ObjectInfo> {
        let create_only = self.inner.capabilities().await?.create_only_large;
        if !create_only && self.look().await?.is_some() {
            return Err(taken(self.key));
        }
        let mut attempt = 0;
        loop {
            let error = match self.client.store.complete_multipart(&upload.path, &upload.id, parts.clone()).await {
                Ok(_) => {
                    upload.is_complete = true;
                    return self.confirmed(length).await;
                }
                Err(cause) => {
                    let error = error::map(&self.what, &cause);
                    // An upload that is gone was completed, by a request whose answer was lost.
                    let tells = error::is_condition(&cause) || matches!(cause, Cause::NotFound { .. });
                    if !tells && !is_transient(&error) {
                        return Err(error);
                    }
                    error
                }
            };
            if let Some(info) = self.settle(length, &error).await? {
                upload.is_complete = true;
                return Ok(info);
            }
            attempt += 1;
            if attempt == ATTEMPTS || error.kind() == ErrorKind::NotFound {
                return Err(error.with("attempts", attempt));
            }
            pause(attempt).await;
        }
    }
}

/// Repeats a request that does the same however often it is carried out.
async fn repeat<T, F>(what: &str, request: impl Fn() -> F + Send) -> Result<T>
where
    F: Future<Output = object_store::Result<T>> + Send,
{
    let mut attempt = 0;
    loop {
        let error = match request().await {
            Ok(value) => return Ok(value),
            Err(cause) => error::map(what, &cause),
        };
        attempt += 1;
        if attempt == ATTEMPTS || !is_transient(&error) {
            return Err(if attempt > 1 { error.with("attempts", attempt) } else { error });
        }
        pause(attempt).await;
    }
}
