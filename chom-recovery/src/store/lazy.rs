//! The store that is opened when it is first needed: a rollback, a list of runs and a look around have to work while
//! its disk is not mounted or its host is down.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use tokio::sync::OnceCell;

use super::{BackupStore, Key, ObjectInfo, Skip, Version, pipe};
use crate::{error::Result, stream::ByteStream};

type Open = Arc<dyn Fn() -> Result<Arc<dyn BackupStore>> + Send + Sync>;

/// A store that is opened by its first call. Opening that failed is tried again by the next one.
pub(crate) struct LazyStore {
    url: String,
    open: Open,
    opened: OnceCell<Arc<dyn BackupStore>>,
}

impl LazyStore {
    /// Makes it; `open` may block.
    pub(crate) fn new(url: &str, open: impl Fn() -> Result<Arc<dyn BackupStore>> + Send + Sync + 'static) -> Self {
        Self { url: url.to_owned(), open: Arc::new(open), opened: OnceCell::new() }
    }

    async fn opened(&self) -> Result<&Arc<dyn BackupStore>> {
        let open = self.open.clone();
        self.opened.get_or_try_init(|| pipe::blocking(move || open())).await
    }
}

impl fmt::Debug for LazyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyStore").field("url", &self.url).field("opened", &self.opened.get()).finish()
    }
}

#[async_trait]
impl BackupStore for LazyStore {
    fn url(&self) -> String {
        self.opened.get().map_or_else(|| self.url.clone(), |store| store.url())
    }

    async fn put_new(&self, key: &Key, body: ByteStream) -> Result<ObjectInfo> {
        self.opened().await?.put_new(key, body).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<ByteStream> {
        self.opened().await?.get(key, range).await
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectInfo>> {
        self.opened().await?.stat(key).await
    }

    async fn list(&self, prefix: &str) -> Result<BoxStream<'static, Result<ObjectInfo>>> {
        self.opened().await?.list(prefix).await
    }

    async fn list_except(&self, prefix: &str, skip: Skip) -> Result<BoxStream<'static, Result<ObjectInfo>>> {
        self.opened().await?.list_except(prefix, skip).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.opened().await?.delete(key).await
    }

    async fn compare_and_swap(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version> {
        self.opened().await?.compare_and_swap(key, expected, body).await
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        self.opened().await?.now().await
    }

    async fn free_bytes(&self) -> Result<Option<u64>> {
        self.opened().await?.free_bytes().await
    }

    async fn sweep_leftovers(&self, older_than: Duration) -> Result<u64> {
        self.opened().await?.sweep_leftovers(older_than).await
    }
}

#[cfg(test)]
mod tests {
    use crate::{error::ErrorKind, store};

    #[tokio::test]
    async fn a_disk_that_is_mounted_later_is_found_then() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("backups");
        let store = store::open_later(&format!("file:{}", folder.display()).as_str().into());
        let gone = store.now().await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
        assert!(gone.hint_text().unwrap().contains("mounted"), "{gone:?}");
        std::fs::create_dir(&folder).unwrap();
        assert!(store.free_bytes().await.unwrap().is_some());
        let listed = store.list("").await.unwrap();
        assert_eq!(futures::StreamExt::count(listed).await, 0);
    }
}
