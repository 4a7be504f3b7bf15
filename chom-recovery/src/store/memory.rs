//! A store in memory, for tests and simulations.

use std::{collections::BTreeMap, fmt, ops::Range, sync::Arc, sync::Mutex, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{StreamExt, stream::BoxStream};

use crate::{
    error::{Error, ErrorKind, Result},
    store::{BackupStore, Key, ObjectInfo, Version, check_prefix, check_range},
    stream::ByteStream,
};

/// Keeps objects in memory. Clones share them, so a clone is the store as a restarted process would find it.
#[derive(Clone)]
pub struct MemoryStore {
    clock: Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Object>,
    next_version: u64,
    capacity: Option<u64>,
}

struct Object {
    body: Bytes,
    modified: DateTime<Utc>,
    version: u64,
}

impl Object {
    fn info(&self, key: &Key) -> ObjectInfo {
        ObjectInfo {
            key: key.clone(),
            length: self.body.len() as u64,
            modified: self.modified,
            version: Version(self.version.to_string()),
        }
    }
}

impl State {
    fn used(&self) -> u64 {
        self.objects.values().map(|o| o.body.len() as u64).sum()
    }

    fn free(&self) -> Option<u64> {
        self.capacity.map(|c| c.saturating_sub(self.used()))
    }

    fn put(&mut self, key: &Key, body: Bytes, modified: DateTime<Utc>) -> Result<ObjectInfo> {
        let replaced = self.objects.get(key).map_or(0, |o| o.body.len() as u64);
        if self.free().is_some_and(|free| body.len() as u64 > free + replaced) {
            return Err(Error::new(ErrorKind::NoSpace, format!("cannot write `{key}`: the store is full")));
        }
        self.next_version += 1;
        let object = Object { body, modified, version: self.next_version };
        let info = object.info(key);
        self.objects.insert(key.clone(), object);
        Ok(info)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("objects", &self.lock().objects.len()).finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// Makes an empty store with the process's clock.
    pub fn new() -> Self {
        Self::with_clock(Utc::now)
    }

    /// Makes an empty store with a clock of its own.
    pub fn with_clock(clock: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        Self { clock: Arc::new(clock), state: Arc::default() }
    }

    /// Limits the sum of all objects' bytes.
    #[must_use]
    pub fn with_capacity(self, bytes: u64) -> Self {
        self.lock().capacity = Some(bytes);
        self
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn taken(key: &Key) -> Error {
        Error::new(ErrorKind::AlreadyExists, format!("object `{key}` exists already"))
    }
}

#[async_trait]
impl BackupStore for MemoryStore {
    fn url(&self) -> String {
        "memory:".into()
    }

    async fn put_new(&self, key: &Key, mut body: ByteStream) -> Result<ObjectInfo> {
        if self.lock().objects.contains_key(key) {
            return Err(Self::taken(key));
        }
        let mut bytes = Vec::new();
        while let Some(piece) = body.next().await {
            let piece = piece?;
            if self.lock().free().is_some_and(|free| (bytes.len() + piece.len()) as u64 > free) {
                return Err(Error::new(ErrorKind::NoSpace, format!("cannot write `{key}`: the store is full")));
            }
            bytes.extend_from_slice(&piece);
        }
        let now = (self.clock)();
        let mut state = self.lock();
        if state.objects.contains_key(key) {
            return Err(Self::taken(key));
        }
        state.put(key, bytes.into(), now)
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<ByteStream> {
        let state = self.lock();
        let object = state
            .objects
            .get(key)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("object `{key}` does not exist")))?;
        let range = check_range(key, object.body.len() as u64, range)?;
        // In range of a length that is a `usize`.
        #[allow(clippy::cast_possible_truncation)]
        let body = object.body.slice(range.start as usize..range.end as usize);
        Ok(crate::stream::once(body))
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectInfo>> {
        Ok(self.lock().objects.get(key).map(|o| o.info(key)))
    }

    async fn list(&self, prefix: &str) -> Result<BoxStream<'static, Result<ObjectInfo>>> {
        check_prefix(prefix)?;
        let found: Vec<_> = self
            .lock()
            .objects
            .iter()
            .filter(|(k, _)| k.as_str().starts_with(prefix))
            .map(|(k, o)| Ok(o.info(k)))
            .collect();
        Ok(futures::stream::iter(found).boxed())
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.lock().objects.remove(key);
        Ok(())
    }

    async fn compare_and_swap(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version> {
        let now = (self.clock)();
        let mut state = self.lock();
        let present = state.objects.get(key).map(|o| Version(o.version.to_string()));
        if present.as_ref() != expected {
            return Err(Error::new(ErrorKind::Conflict, format!("object `{key}` has another version")));
        }
        Ok(state.put(key, body, now)?.version)
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        Ok((self.clock)())
    }

    async fn free_bytes(&self) -> Result<Option<u64>> {
        Ok(self.lock().free())
    }

    async fn sweep_leftovers(&self, _older_than: Duration) -> Result<u64> {
        Ok(0)
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_keeps_every_promise_of_a_store() {
        crate::testing::store::all(&MemoryStore::new()).await;
    }

    #[tokio::test]
    async fn a_full_store_says_so_and_keeps_nothing_of_the_object() {
        let store = MemoryStore::new().with_capacity(100);
        crate::testing::store::full_store_is_left_as_it_was(&store, 1000).await;
    }
}
