//! A store that fails as real ones do, where a test wants it to.
//!
//! Faults wait in a queue for each operation; a call takes the first. Without faults the store below answers alone.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};

use crate::{
    error::{Error, ErrorKind, Result},
    store::{BackupStore, Key, ObjectInfo, Skip, Version},
    stream::{self, ByteStream},
};

/// Longest body that a fault holds in memory.
const BODY_LIMIT: usize = 1 << 30;

/// An operation of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoreOp {
    /// [`BackupStore::put_new`]
    Put,
    /// [`BackupStore::get`]
    Get,
    /// [`BackupStore::stat`]
    Stat,
    /// [`BackupStore::list`]
    List,
    /// [`BackupStore::delete`]
    Delete,
    /// [`BackupStore::compare_and_swap`]
    Swap,
    /// [`BackupStore::now`]
    Now,
    /// [`BackupStore::free_bytes`]
    FreeBytes,
    /// [`BackupStore::sweep_leftovers`]
    Sweep,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The call fails, and nothing happened.
    Error(ErrorKind),
    /// The effect happens, and the answer is lost: the caller sees `Unreachable`.
    LostAnswer,
    /// The effect is sent twice, as by a proxy that repeats requests; the second answer counts.
    Twice,
    /// The call takes this much longer.
    Latency(Duration),
    /// Get: the body fails with this kind after so many bytes.
    CutAfter(u64, ErrorKind),
    /// Get: the body ends after so many bytes as if that were all.
    EndsAfter(u64),
    /// Put: only the first bytes are kept, and all are reported as written.
    KeepsOnly(u64),
    /// List: ends after so many entries as if those were all.
    ListsOnly(usize),
    /// List: the newest entries, so many of them, are not there yet.
    Stale(usize),
}

/// A store with faults.
#[derive(Debug, Clone)]
pub struct FaultyStore {
    inner: Arc<dyn BackupStore>,
    faults: Arc<Mutex<Faults>>,
}

#[derive(Debug, Default)]
struct Faults {
    waiting: BTreeMap<StoreOp, VecDeque<Fault>>,
    calls: BTreeMap<StoreOp, usize>,
}

impl FaultyStore {
    /// Wraps a store.
    pub fn new(inner: Arc<dyn BackupStore>) -> Self {
        Self { inner, faults: Arc::default() }
    }

    /// Adds a fault for the next call of an operation that has none yet.
    pub fn fail(&self, op: StoreOp, fault: Fault) -> &Self {
        self.lock().waiting.entry(op).or_default().push_back(fault);
        self
    }

    /// Tells how often an operation was called.
    pub fn calls(&self, op: StoreOp) -> usize {
        self.lock().calls.get(&op).copied().unwrap_or(0)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and returns its fault; those that are alike for every operation have their way here.
    async fn begin(&self, op: StoreOp) -> Result<Option<Fault>> {
        let fault = {
            let mut faults = self.lock();
            *faults.calls.entry(op).or_default() += 1;
            faults.waiting.get_mut(&op).and_then(VecDeque::pop_front)
        };
        match fault {
            Some(Fault::Error(kind)) => Err(injected(kind)),
            Some(Fault::Latency(time)) => {
                tokio::time::sleep(time).await;
                Ok(None)
            }
            other => Ok(other),
        }
    }
}

fn injected(kind: ErrorKind) -> Error {
    Error::new(kind, "fault of a test")
}

fn answer<T>(fault: Option<Fault>, answer: Result<T>) -> Result<T> {
    match (fault, answer) {
        (Some(Fault::LostAnswer), Ok(_)) => Err(injected(ErrorKind::Unreachable)),
        (_, answer) => answer,
    }
}

/// The first bytes of a body, and then what `end` says.
fn cut(body: ByteStream, after: u64, end: Option<ErrorKind>) -> ByteStream {
    let pieces = futures::stream::try_unfold((body, after, end), |(mut body, left, end)| async move {
        let piece = if left == 0 { None } else { body.try_next().await? };
        match (piece, end) {
            (Some(mut piece), _) => {
                piece.truncate(usize::try_from(left).unwrap_or(usize::MAX).min(piece.len()));
                let left = left - piece.len() as u64;
                Ok(Some((piece, (body, left, end))))
            }
            (None, Some(kind)) => Err(injected(kind)),
            (None, None) => Ok(None),
        }
    });
    Box::pin(pieces)
}

#[async_trait]
impl BackupStore for FaultyStore {
    fn url(&self) -> String {
        self.inner.url()
    }

    async fn put_new(&self, key: &Key, body: ByteStream) -> Result<ObjectInfo> {
        match self.begin(StoreOp::Put).await? {
            Some(Fault::KeepsOnly(bytes)) => {
                let whole = stream::collect(body, BODY_LIMIT).await?;
                let kept = whole.slice(..usize::try_from(bytes).unwrap_or(usize::MAX).min(whole.len()));
                let info = self.inner.put_new(key, stream::once(kept)).await?;
                Ok(ObjectInfo { length: whole.len() as u64, ..info })
            }
            Some(Fault::Twice) => {
                let whole = stream::collect(body, BODY_LIMIT).await?;
                self.inner.put_new(key, stream::once(whole.clone())).await?;
                self.inner.put_new(key, stream::once(whole)).await
            }
            fault => answer(fault, self.inner.put_new(key, body).await),
        }
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<ByteStream> {
        let fault = self.begin(StoreOp::Get).await?;
        let body = answer(fault, self.inner.get(key, range).await)?;
        Ok(match fault {
            Some(Fault::CutAfter(bytes, kind)) => cut(body, bytes, Some(kind)),
            Some(Fault::EndsAfter(bytes)) => cut(body, bytes, None),
            _ => body,
        })
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectInfo>> {
        let fault = self.begin(StoreOp::Stat).await?;
        answer(fault, self.inner.stat(key).await)
    }

    async fn list(&self, prefix: &str) -> Result<BoxStream<'static, Result<ObjectInfo>>> {
        self.list_except(prefix, |_| false).await
    }

    async fn list_except(&self, prefix: &str, skip: Skip) -> Result<BoxStream<'static, Result<ObjectInfo>>> {
        let fault = self.begin(StoreOp::List).await?;
        let items = answer(fault, self.inner.list_except(prefix, skip).await)?;
        Ok(match fault {
            Some(Fault::ListsOnly(entries)) => items.take(entries).boxed(),
            Some(Fault::Stale(missing)) => {
                let mut all: Vec<ObjectInfo> = items.try_collect().await?;
                let mut times: Vec<_> = all.iter().map(|i| (i.modified, i.key.clone())).collect();
                times.sort();
                let newest = times.split_off(times.len().saturating_sub(missing));
                all.retain(|i| !newest.iter().any(|(_, key)| *key == i.key));
                futures::stream::iter(all.into_iter().map(Ok)).boxed()
            }
            _ => items,
        })
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let fault = self.begin(StoreOp::Delete).await?;
        if fault == Some(Fault::Twice) {
            self.inner.delete(key).await?;
        }
        answer(fault, self.inner.delete(key).await)
    }

    async fn compare_and_swap(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version> {
        let fault = self.begin(StoreOp::Swap).await?;
        if fault == Some(Fault::Twice) {
            self.inner.compare_and_swap(key, expected, body.clone()).await?;
        }
        answer(fault, self.inner.compare_and_swap(key, expected, body).await)
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        let fault = self.begin(StoreOp::Now).await?;
        answer(fault, self.inner.now().await)
    }

    async fn free_bytes(&self) -> Result<Option<u64>> {
        let fault = self.begin(StoreOp::FreeBytes).await?;
        answer(fault, self.inner.free_bytes().await)
    }

    async fn sweep_leftovers(&self, older_than: Duration) -> Result<u64> {
        let fault = self.begin(StoreOp::Sweep).await?;
        answer(fault, self.inner.sweep_leftovers(older_than).await)
    }
}
