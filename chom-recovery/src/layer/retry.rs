//! Repeats the reads of a store after a lost connection, and goes on where a download or a listing was cut.
//!
//! Effects are never repeated here: whether one happened is for the store itself to find out, or for the run.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{StreamExt, stream::BoxStream};
use tokio::time::Instant;

use crate::{
    error::{Error, ErrorKind, Result},
    store::{BackupStore, Key, ObjectInfo, Skip, Version, check_range},
    stream::ByteStream,
};

/// How often, and for how long, a read is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts that may fail one after the other; a download that gets on counts anew.
    pub attempts: u32,
    /// Pause before the second attempt; each further one is twice as long, and shortened by chance by up to a half.
    pub pause: Duration,
    /// Longest pause.
    pub longest_pause: Duration,
    /// Time since the last success after which no further attempt begins.
    pub deadline: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(10),
            deadline: Duration::from_mins(3),
        }
    }
}

/// The attempts at one thing.
struct Attempts {
    policy: RetryPolicy,
    failed: u32,
    since: Instant,
}

impl Attempts {
    fn new(policy: RetryPolicy) -> Self {
        Self { policy, failed: 0, since: Instant::now() }
    }

    /// Something was achieved: counting begins anew.
    fn progress(&mut self) {
        (self.failed, self.since) = (0, Instant::now());
    }

    /// Waits for the next attempt; gives the error back where there shall be none.
    async fn after(&mut self, error: Error) -> Result<()> {
        let is_transient = error.kind().is_transient();
        self.after_any(error, is_transient).await
    }

    /// The same, for a caller who knows whether another attempt makes sense.
    async fn after_any(&mut self, error: Error, again: bool) -> Result<()> {
        self.failed += 1;
        let pause = self.policy.pause.saturating_mul(1 << (self.failed - 1).min(16)).min(self.policy.longest_pause);
        let pause = pause.mul_f64(rand::random_range(0.5..=1.0));
        let is_over = self.failed >= self.policy.attempts || self.since.elapsed() + pause >= self.policy.deadline;
        if is_over || !again {
            return Err(if self.failed > 1 { error.with("attempts", self.failed) } else { error });
        }
        tracing::debug!(%error, attempt = self.failed, pause_ms = pause.as_millis(), "reading from the store failed");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// A store whose reads are repeated.
#[derive(Clone)]
pub struct RetryStore {
    inner: Arc<dyn BackupStore>,
    policy: RetryPolicy,
}

impl fmt::Debug for RetryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl RetryStore {
    /// Wraps a store.
    pub fn new(inner: Arc<dyn BackupStore>) -> Self {
        Self { inner, policy: RetryPolicy::default() }
    }

    /// Replaces the policy.
    #[must_use]
    pub fn with_policy(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    async fn repeat<T, F: Future<Output = Result<T>> + Send>(&self, read: impl Fn() -> F + Send) -> Result<T> {
        let mut attempts = Attempts::new(self.policy);
        loop {
            match read().await {
                Ok(value) => return Ok(value),
                Err(error) => attempts.after(error).await?,
            }
        }
    }
}

/// A download that goes on where it was cut.
struct Download {
    inner: Arc<dyn BackupStore>,
    key: Key,
    /// What the object was when the download began; another one must not supply the rest.
    object: ObjectInfo,
    left: Range<u64>,
    body: Option<ByteStream>,
    attempts: Attempts,
}

impl Download {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let step = match &mut self.body {
                Some(body) => match body.next().await {
                    Some(Ok(piece)) if piece.is_empty() => continue,
                    Some(Ok(piece)) => return self.received(piece).map(Some),
                    None if self.left.is_empty() => return Ok(None),
                    // The end of a body proves nothing: the length decides.
                    None => {
                        self.body = None;
                        let error = Error::new(ErrorKind::Corrupt, format!("object `{}` ended early", self.key))
                            .with("missing bytes", self.left.end - self.left.start);
                        self.attempts.after_any(error, true).await?;
                        continue;
                    }
                    Some(Err(error)) => Err(error),
                },
                None => self.begin().await,
            };
            if let Err(error) = step {
                self.body = None;
                self.attempts.after(error).await?;
            }
        }
    }

    fn received(&mut self, piece: Bytes) -> Result<Bytes> {
        let length = piece.len() as u64;
        if length > self.left.end - self.left.start {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("more of object `{}` came than was asked for", self.key),
            ));
        }
        self.left.start += length;
        self.attempts.progress();
        Ok(piece)
    }

    async fn begin(&mut self) -> Result<()> {
        let present = self.inner.stat(&self.key).await?;
        if present.as_ref() != Some(&self.object) {
            return Err(Error::new(ErrorKind::Conflict, format!("object `{}` changed while it was read", self.key)));
        }
        self.body = Some(self.inner.get(&self.key, Some(self.left.clone())).await?);
        Ok(())
    }
}

/// A listing that goes on behind the last key that it gave.
struct Listing {
    inner: Arc<dyn BackupStore>,
    prefix: String,
    skip: Skip,
    last: Option<Key>,
    items: Option<BoxStream<'static, Result<ObjectInfo>>>,
    attempts: Attempts,
}

impl Listing {
    /// The second value tells whether the listing goes on.
    async fn next(&mut self) -> Option<(Result<ObjectInfo>, bool)> {
        loop {
            let error = match &mut self.items {
                None => match self.inner.list_except(&self.prefix, self.skip).await {
                    Ok(items) => {
                        self.items = Some(items);
                        continue;
                    }
                    Err(error) => error,
                },
                Some(items) => match items.next().await? {
                    // Given before the listing was cut.
                    Ok(item) if self.last.as_ref().is_some_and(|last| item.key <= *last) => continue,
                    Ok(item) => {
                        self.last = Some(item.key.clone());
                        self.attempts.progress();
                        return Some((Ok(item), true));
                    }
                    // An entry that is not as it should be does not end a listing.
                    Err(error) if !error.kind().is_transient() => return Some((Err(error), true)),
                    Err(error) => error,
                },
            };
            self.items = None;
            if let Err(error) = self.attempts.after(error).await {
                return Some((Err(error), false));
            }
        }
    }
}

#[async_trait]
impl BackupStore for RetryStore {
    fn url(&self) -> String {
        self.inner.url()
    }

    async fn put_new(&self, key: &Key, body: ByteStream) -> Result<ObjectInfo> {
        self.inner.put_new(key, body).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<ByteStream> {
        let missing = || Error::new(ErrorKind::NotFound, format!("object `{key}` does not exist"));
        let object = self.repeat(|| async { self.inner.stat(key).await?.ok_or_else(missing) }).await?;
        let left = check_range(key, object.length, range)?;
        let body = self.repeat(|| self.inner.get(key, Some(left.clone()))).await?;
        let download = Download {
            inner: self.inner.clone(),
            key: key.clone(),
            object,
            left,
            body: Some(body),
            attempts: Attempts::new(self.policy),
        };
        Ok(Box::pin(futures::stream::try_unfold(download, |mut download| async move {
            Ok(download.next().await?.map(|piece| (piece, download)))
        })))
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectInfo>> {
        self.repeat(|| self.inner.stat(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<BoxStream<'static, Result<ObjectInfo>>> {
        self.list_except(prefix, |_| false).await
    }

    async fn list_except(&self, prefix: &str, skip: Skip) -> Result<BoxStream<'static, Result<ObjectInfo>>> {
        let items = self.repeat(|| self.inner.list_except(prefix, skip)).await?;
        let listing = Listing {
            inner: self.inner.clone(),
            prefix: prefix.to_owned(),
            skip,
            last: None,
            items: Some(items),
            attempts: Attempts::new(self.policy),
        };
        Ok(futures::stream::unfold(Some(listing), |listing| async move {
            let mut listing = listing?;
            let (item, goes_on) = listing.next().await?;
            Some((item, goes_on.then_some(listing)))
        })
        .boxed())
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key).await
    }

    async fn compare_and_swap(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version> {
        self.inner.compare_and_swap(key, expected, body).await
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        self.repeat(|| self.inner.now()).await
    }

    async fn free_bytes(&self) -> Result<Option<u64>> {
        self.repeat(|| self.inner.free_bytes()).await
    }

    async fn sweep_leftovers(&self, older_than: Duration) -> Result<u64> {
        self.inner.sweep_leftovers(older_than).await
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests;
