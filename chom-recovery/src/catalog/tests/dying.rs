//! A process that is killed at any effect it has on a store.

use super::*;

/// Stops working after so many writes: before the next one has an effect, or after.
#[derive(Debug, Clone)]
pub(super) struct DyingStore {
    inner: Arc<dyn BackupStore>,
    writes_left: Arc<Mutex<u32>>,
    dies_after_effect: bool,
}

impl DyingStore {
    pub(super) fn over(inner: &Arc<dyn BackupStore>, survives: u32, dies_after_effect: bool) -> Arc<dyn BackupStore> {
        Arc::new(Self { inner: inner.clone(), writes_left: Arc::new(Mutex::new(survives)), dies_after_effect })
    }

    /// Has an effect, or dies before or after it.
    async fn effect<T>(&self, effect: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let (is_dead, is_last) = self.write();
        if is_dead {
            return Err(gone());
        }
        let result = effect.await;
        if is_last { Err(gone()) } else { result }
    }

    fn write(&self) -> (bool, bool) {
        let mut left = self.writes_left.lock().unwrap();
        let is_last = *left == 0;
        let is_dead = *left == u32::MAX;
        *left = left.wrapping_sub(1).min(if is_last || is_dead { u32::MAX } else { *left });
        (is_dead || (is_last && !self.dies_after_effect), is_last)
    }

    fn dead(&self) -> Result<()> {
        if *self.writes_left.lock().unwrap() == u32::MAX { Err(gone()) } else { Ok(()) }
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Unreachable, "the process was killed here")
}

#[async_trait::async_trait]
impl BackupStore for DyingStore {
    fn url(&self) -> String {
        self.inner.url()
    }
    async fn put_new(&self, key: &Key, body: ByteStream) -> Result<ObjectInfo> {
        self.effect(self.inner.put_new(key, body)).await
    }
    async fn get(&self, key: &Key, range: Option<std::ops::Range<u64>>) -> Result<ByteStream> {
        self.dead()?;
        self.inner.get(key, range).await
    }
    async fn stat(&self, key: &Key) -> Result<Option<ObjectInfo>> {
        self.dead()?;
        self.inner.stat(key).await
    }
    async fn list(&self, prefix: &str) -> Result<futures::stream::BoxStream<'static, Result<ObjectInfo>>> {
        self.dead()?;
        self.inner.list(prefix).await
    }
    async fn delete(&self, key: &Key) -> Result<()> {
        self.effect(self.inner.delete(key)).await
    }
    async fn compare_and_swap(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version> {
        self.effect(self.inner.compare_and_swap(key, expected, body)).await
    }
    async fn now(&self) -> Result<DateTime<Utc>> {
        self.dead()?;
        self.inner.now().await
    }
    async fn free_bytes(&self) -> Result<Option<u64>> {
        self.inner.free_bytes().await
    }
    async fn sweep_leftovers(&self, older_than: std::time::Duration) -> Result<u64> {
        self.dead()?;
        self.inner.sweep_leftovers(older_than).await
    }
}
