use std::time::Duration;

use futures::TryStreamExt;

use super::*;
use crate::{
    layer::fault::{Fault, FaultyStore, StoreOp},
    store::memory::MemoryStore,
    stream,
    testing::store as conformance,
};

const QUICK: RetryPolicy = RetryPolicy {
    attempts: 3,
    pause: Duration::from_millis(1),
    longest_pause: Duration::from_millis(2),
    deadline: Duration::from_secs(30),
};

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

fn stores() -> (FaultyStore, RetryStore) {
    let faulty = FaultyStore::new(Arc::new(MemoryStore::new()));
    let store = RetryStore::new(Arc::new(faulty.clone())).with_policy(QUICK);
    (faulty, store)
}

async fn read(store: &RetryStore, range: Option<Range<u64>>) -> Result<Bytes> {
    stream::collect(store.get(&key("a"), range).await?, 1 << 20).await
}

#[tokio::test]
async fn a_wrapped_store_keeps_every_promise_of_a_store() {
    let (_, store) = stores();
    conformance::all(&store).await;
}

#[tokio::test]
async fn a_download_goes_on_where_it_was_cut() {
    let (faulty, store) = stores();
    let body: Bytes = (0..100_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>().into();
    store.put_new(&key("a"), stream::once(body.clone())).await.unwrap();
    faulty
        .fail(StoreOp::Get, Fault::CutAfter(10_001, ErrorKind::Unreachable))
        .fail(StoreOp::Get, Fault::CutAfter(7, ErrorKind::Timeout))
        .fail(StoreOp::Get, Fault::EndsAfter(100_000))
        .fail(StoreOp::Get, Fault::Error(ErrorKind::Unreachable));
    assert!(read(&store, None).await.unwrap() == body);
    assert_eq!(faulty.calls(StoreOp::Get), 5, "each cut led to one more request");

    faulty.fail(StoreOp::Get, Fault::CutAfter(5, ErrorKind::Unreachable));
    assert!(read(&store, Some(1000..3000)).await.unwrap() == body.slice(1000..3000));
}

#[tokio::test]
async fn a_download_that_does_not_get_on_fails_after_the_attempts() {
    let (faulty, store) = stores();
    store.put_new(&key("a"), stream::once("0123456789")).await.unwrap();
    for _ in 0..9 {
        faulty.fail(StoreOp::Get, Fault::CutAfter(0, ErrorKind::Unreachable));
    }
    let error = read(&store, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert_eq!(faulty.calls(StoreOp::Get), 3);
    assert!(error.to_string().contains("attempts: 3"), "{error}");
}

#[tokio::test]
async fn an_early_end_is_never_taken_for_the_end() {
    let (faulty, store) = stores();
    store.put_new(&key("a"), stream::once("0123456789")).await.unwrap();
    for _ in 0..3 {
        faulty.fail(StoreOp::Get, Fault::EndsAfter(0));
    }
    assert_eq!(read(&store, None).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn the_rest_never_comes_from_another_object() {
    let (faulty, store) = stores();
    let version = store.compare_and_swap(&key("a"), None, "0123456789".into()).await.unwrap();
    faulty.fail(StoreOp::Get, Fault::CutAfter(4, ErrorKind::Unreachable));
    let mut body = store.get(&key("a"), None).await.unwrap();
    assert_eq!(body.try_next().await.unwrap().unwrap(), "0123");
    store.compare_and_swap(&key("a"), Some(&version), "abcdefghij".into()).await.unwrap();
    assert_eq!(stream::collect(body, 99).await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn errors_that_a_repetition_does_not_cure_are_told_at_once() {
    let (faulty, store) = stores();
    faulty.fail(StoreOp::Stat, Fault::Error(ErrorKind::Authentication));
    assert_eq!(store.stat(&key("a")).await.unwrap_err().kind(), ErrorKind::Authentication);
    assert_eq!(faulty.calls(StoreOp::Stat), 1);
    faulty.fail(StoreOp::Now, Fault::Error(ErrorKind::Unreachable));
    assert!(store.now().await.is_ok());
}

#[tokio::test]
async fn effects_are_never_repeated() {
    let (faulty, store) = stores();
    for op in [StoreOp::Put, StoreOp::Delete, StoreOp::Swap, StoreOp::Sweep] {
        faulty.fail(op, Fault::Error(ErrorKind::Unreachable));
    }
    let lost = |e: Error| assert_eq!(e.kind(), ErrorKind::Unreachable);
    lost(store.put_new(&key("a"), stream::once("x")).await.unwrap_err());
    lost(store.delete(&key("a")).await.unwrap_err());
    lost(store.compare_and_swap(&key("a"), None, "x".into()).await.unwrap_err());
    lost(store.sweep_leftovers(Duration::ZERO).await.unwrap_err());
    for op in [StoreOp::Put, StoreOp::Delete, StoreOp::Swap, StoreOp::Sweep] {
        assert_eq!(faulty.calls(op), 1, "{op:?}");
    }
}

/// A listing that fails in the middle of its first pass.
#[derive(Debug)]
struct BrokenListing(MemoryStore, std::sync::atomic::AtomicBool);

#[async_trait]
impl BackupStore for BrokenListing {
    fn url(&self) -> String {
        self.0.url()
    }

    async fn put_new(&self, key: &Key, body: ByteStream) -> Result<ObjectInfo> {
        self.0.put_new(key, body).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<ByteStream> {
        self.0.get(key, range).await
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectInfo>> {
        self.0.stat(key).await
    }

    async fn list(&self, prefix: &str) -> Result<BoxStream<'static, Result<ObjectInfo>>> {
        let items = self.0.list(prefix).await?;
        if self.1.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return Ok(items);
        }
        let lost = Err(Error::new(ErrorKind::Unreachable, "the line was cut"));
        let bad = Err(Error::new(ErrorKind::Corrupt, "an entry that is no file"));
        Ok(items.take(2).chain(futures::stream::iter([bad, lost])).boxed())
    }

    async fn list_except(&self, prefix: &str, _skip: Skip) -> Result<BoxStream<'static, Result<ObjectInfo>>> {
        self.list(prefix).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.0.delete(key).await
    }

    async fn compare_and_swap(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version> {
        self.0.compare_and_swap(key, expected, body).await
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        self.0.now().await
    }

    async fn free_bytes(&self) -> Result<Option<u64>> {
        self.0.free_bytes().await
    }

    async fn sweep_leftovers(&self, older_than: Duration) -> Result<u64> {
        self.0.sweep_leftovers(older_than).await
    }
}

#[tokio::test]
async fn a_listing_goes_on_behind_the_last_key_and_keeps_its_errors() {
    let below = BrokenListing(MemoryStore::new(), false.into());
    for name in ["a", "b", "c", "d"] {
        below.put_new(&key(name), stream::once(name)).await.unwrap();
    }
    let store = RetryStore::new(Arc::new(below)).with_policy(QUICK);
    let items: Vec<_> = store.list("").await.unwrap().collect().await;
    let shown: Vec<_> = items.iter().map(|i| i.as_ref().map_or_else(|e| e.kind().code(), |i| i.key.as_str())).collect();
    assert_eq!(shown, ["a", "b", "corrupt", "c", "d"]);
}
