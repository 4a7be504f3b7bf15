//! A store in a bucket of an S3 server.
//!
//! An object becomes visible by one request, and its key is free before: the server is asked to insist on that where
//! it can. Each object bears the name of the write that made it, so that a write whose answer was lost is found out
//! about instead of repeated blindly.

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, DurationRound, Utc};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use http::{Method, StatusCode};
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutPayload, path::Path};
use tokio::sync::OnceCell;

use crate::{
    error::{Error, ErrorKind, Result},
    store::{BackupStore, Key, ObjectInfo, Version, check_prefix, check_range},
    stream::ByteStream,
    system::S3Settings,
};
pub use capability::Capabilities;
use client::{Client, Seen};

mod capability;
mod client;
mod error;
mod leftovers;
mod transport;
mod write;

/// Begin of the names of what is no object; no key has a segment like it.
const TEMPORARY: &str = ".tmp-";

/// Keeps objects below a prefix of a bucket.
#[derive(Debug, Clone)]
pub struct S3Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    bucket: String,
    /// Begin of every key in the bucket: empty, or ends at a `/`.
    prefix: String,
    settings: S3Settings,
    client: OnceCell<Arc<Client>>,
    capabilities: OnceCell<Capabilities>,
}

impl S3Store {
    /// Makes the store. Nothing is sent, and no key is read, until it is used.
    ///
    /// # Errors
    /// `InvalidInput`: a timeout of nothing.
    pub fn new(bucket: &str, prefix: &str, settings: &S3Settings) -> Result<Self> {
        if settings.timeout.is_zero() {
            return Err(Error::new(ErrorKind::InvalidInput, "`repository.s3.timeout` is zero"));
        }
        Ok(Self {
            inner: Arc::new(Inner {
                bucket: bucket.into(),
                prefix: prefix.into(),
                settings: settings.clone(),
                client: OnceCell::new(),
                capabilities: OnceCell::new(),
            }),
        })
    }

    /// Finds out what the server does, with a few small objects that it deletes again; once for each process.
    ///
    /// # Errors
    /// `Authentication`, `Precondition`: the key was refused, or may not write. `NotFound`: no such bucket.
    /// `Unreachable`: no answer.
    pub async fn capabilities(&self) -> Result<Capabilities> {
        self.inner.capabilities().await
    }
}

impl Inner {
    async fn client(&self) -> Result<&Arc<Client>> {
        self.client.get_or_try_init(|| async { Client::make(&self.bucket, &self.settings).await.map(Arc::new) }).await
    }

    async fn capabilities(&self) -> Result<Capabilities> {
        let probe = || async { capability::probe(self.client().await?, &self.prefix).await };
        self.capabilities.get_or_try_init(probe).await.copied()
    }

    fn path(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectInfo>> {
        let (client, what) = (self.client().await?, format!("cannot look at `{key}`"));
        match client.head(&what, &self.path(key)).await? {
            Some(seen) => Ok(Some(info_of(key.clone(), &seen))),
            // Absence counts only while the bucket is there.
            None => client.check_bucket(&what).await.map(|()| None),
        }
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<ByteStream> {
        let (client, what) = (self.client().await?, format!("cannot read `{key}`"));
        if let Some(range) = range.clone().filter(|r| r.start >= r.end) {
            let object = self.stat(key).await?.ok_or_else(|| missing(key))?;
            check_range(key, object.length, Some(range))?;
            return Ok(Box::pin(futures::stream::empty()));
        }
        let options = GetOptions { range: range.clone().map(Into::into), ..GetOptions::default() };
        let got = match client.store.get_opts(&Path::from(self.path(key)), options).await {
            Ok(got) => got,
            Err(object_store::Error::NotFound { .. }) => {
                client.check_bucket(&what).await?;
                return Err(missing(key));
            }
            Err(cause) => {
                let error = error::map(&what, &cause);
                let is_beyond = error.to_string().contains("InvalidRange");
                return Err(if is_beyond { error.of_kind(ErrorKind::Corrupt) } else { error });
            }
        };
        let wanted = check_range(key, got.meta.size, range)?;
        if got.range != wanted {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{what}: the S3 server gave another range than asked for"),
            ));
        }
        let body = got.into_stream().map_err(move |cause| error::map(&what, &cause)).boxed();
        Ok(exactly(key.clone(), body, wanted.end - wanted.start))
    }

    async fn list(&self, prefix: &str) -> Result<BoxStream<'static, Result<ObjectInfo>>> {
        check_prefix(prefix)?;
        let client = self.client().await?;
        let (what, own) = (format!("cannot list `{prefix}`"), self.prefix.clone());
        let below = format!("{own}{prefix}");
        let below = (!below.is_empty()).then(|| Path::from(below.trim_end_matches('/')));
        let mut last: Option<String> = None;
        let items = client.store.list(below.as_ref()).map(move |item| {
            let meta = item.map_err(|cause| error::map(&what, &cause))?;
            let path = meta.location.as_ref();
            // Pages that do not follow each other are how a part of a listing gets lost.
            if last.as_deref().is_some_and(|last| last >= path) {
                return Err(Error::new(ErrorKind::Corrupt, format!("{what}: the S3 server's pages are out of order")));
            }
            last = Some(path.to_owned());
            // A name that no key can have is nothing of ours.
            let Some(key) = path.strip_prefix(&own).and_then(|k| k.parse::<Key>().ok()) else { return Ok(None) };
            Ok(Some(ObjectInfo {
                length: meta.size,
                modified: whole_seconds(meta.last_modified),
                version: Version(plain(meta.e_tag.as_deref().unwrap_or_default()).to_owned()),
                key,
            }))
        });
        Ok(items.filter_map(|item| std::future::ready(item.transpose())).boxed())
    }

    /// Asks the server for its time: that of an object made just now. Where none can be made, or none deleted again,
    /// the time of the server's answers has to do.
    async fn now(&self) -> Result<DateTime<Utc>> {
        const WHAT: &str = "cannot ask the store for its time";
        let client = self.client().await?;
        if self.capabilities.get().is_some_and(|c| c.locks) {
            return client.server_time(WHAT).await;
        }
        let path = format!("{}{TEMPORARY}now-{}", self.prefix, ulid::Ulid::new());
        if let Err(cause) = client.store.put(&Path::from(path.as_str()), PutPayload::from_static(b"?")).await {
            let error = error::map(WHAT, &cause);
            let may_not_write = matches!(error.kind(), ErrorKind::Precondition | ErrorKind::NoSpace);
            return if may_not_write { client.server_time(WHAT).await } else { Err(error) };
        }
        let seen = client.head(WHAT, &path).await?;
        // What cannot be deleted now is swept later.
        let _ = delete_at(client, &path, WHAT).await;
        seen.map(|s| s.modified)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("{WHAT}: the S3 server has not kept what it took")))
    }
}

/// Deletes what is at a path.
///
/// In a bucket that keeps versions, a plain deletion would hide the object and keep its bytes: the version itself goes
/// away. Older ones, which only a lease has, are hidden.
async fn delete_at(client: &Client, path: &str, what: &str) -> Result<()> {
    let Some(seen) = client.head(what, path).await? else { return client.check_bucket(what).await };
    let Some(version) = &seen.version else { return delete_request(client, path, what, &[], &seen).await };
    delete_request(client, path, what, &[("versionId", version)], &seen).await?;
    match client.head(what, path).await? {
        Some(older) => delete_request(client, path, what, &[], &older).await,
        None => Ok(()),
    }
}

async fn delete_request(client: &Client, path: &str, what: &str, query: &[(&str, &str)], seen: &Seen) -> Result<()> {
    let response = client.request(what, Method::DELETE, path, query).await?;
    if response.status().is_success() || response.status() == StatusCode::NOT_FOUND {
        return Ok(());
    }
    let refused = client.refused(what, response).await;
    if refused.kind() != ErrorKind::Precondition {
        return Err(refused);
    }
    let said = refused.message().to_lowercase();
    let is_locked = seen.lock.is_some() || ["object lock", "worm", "retention"].iter().any(|word| said.contains(word));
    if is_locked {
        let why = seen.lock.clone().unwrap_or_else(|| "locked by the bucket".to_owned());
        return Err(Error::new(ErrorKind::Retained, format!("{what}: it is {why}"))
            .hint("this is what the lock is for: nothing is wrong; prune again when it is over"));
    }
    Err(refused.of_kind(ErrorKind::Denied).hint(
        "this key may not delete here, which protects backups from this host; prune with a key that may \
         (`s3:DeleteObject`, and `s3:DeleteObjectVersion` where the bucket keeps versions)",
    ))
}

fn missing(key: &Key) -> Error {
    Error::new(ErrorKind::NotFound, format!("object `{key}` does not exist"))
}

/// Passes on a body that has the length told before; the end of a body proves nothing.
fn exactly(key: Key, body: BoxStream<'static, Result<Bytes>>, length: u64) -> ByteStream {
    let left = (body, length, key);
    Box::pin(futures::stream::try_unfold(left, |(mut body, left, key)| async move {
        match body.try_next().await? {
            Some(piece) if piece.len() as u64 <= left => {
                let left = left - piece.len() as u64;
                Ok(Some((piece, (body, left, key))))
            }
            Some(_) => Err(Error::new(ErrorKind::Corrupt, format!("more of object `{key}` came than its length"))),
            None if left == 0 => Ok(None),
            None => {
                Err(Error::new(ErrorKind::Corrupt, format!("object `{key}` ended early")).with("missing bytes", left))
            }
        }
    }))
}

/// An ETag without what differs between an answer and a listing.
fn plain(etag: &str) -> &str {
    etag.trim_start_matches("W/").trim_matches('"')
}

/// Headers tell seconds, listings more.
fn whole_seconds(time: DateTime<Utc>) -> DateTime<Utc> {
    time.duration_trunc(chrono::Duration::seconds(1)).unwrap_or(time)
}

/// An ETag is the same for the same bytes: what a swap made bears a name of its own too. A listing does not show it.
fn version_of(seen: &Seen) -> Version {
    let etag = plain(&seen.etag);
    Version(seen.swap.as_ref().map_or_else(|| etag.to_owned(), |swap| format!("{etag}/{swap}")))
}

fn info_of(key: Key, seen: &Seen) -> ObjectInfo {
    ObjectInfo { length: seen.length, modified: seen.modified, version: version_of(seen), key }
}

#[async_trait]
impl BackupStore for S3Store {
    fn url(&self) -> String {
        format!("s3://{}/{}", self.inner.bucket, self.inner.prefix).trim_end_matches('/').to_owned()
    }

    async fn put_new(&self, key: &Key, body: ByteStream) -> Result<ObjectInfo> {
        self.inner.put_new(key, body).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<ByteStream> {
        self.inner.get(key, range).await
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectInfo>> {
        self.inner.stat(key).await
    }

    async fn list(&self, prefix: &str) -> Result<BoxStream<'static, Result<ObjectInfo>>> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        delete_at(self.inner.client().await?, &self.inner.path(key), &format!("cannot delete `{key}`")).await
    }

    async fn compare_and_swap(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version> {
        self.inner.compare_and_swap(key, expected, body).await
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        self.inner.now().await
    }

    async fn free_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn sweep_leftovers(&self, older_than: Duration) -> Result<u64> {
        let age = chrono::Duration::from_std(older_than).unwrap_or(chrono::Duration::MAX);
        let before = self.inner.now().await?.checked_sub_signed(age).unwrap_or(DateTime::<Utc>::MIN_UTC);
        leftovers::sweep(self.inner.client().await?, &self.inner.prefix, before).await
    }
}
