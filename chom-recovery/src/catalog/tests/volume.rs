//! Much data in little memory.

use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use futures::StreamExt;

use super::*;

const MIB: u64 = 1 << 20;

/// Bytes that are counted while they live.
struct Counted(Vec<u8>, Arc<AtomicI64>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(i64::try_from(self.0.len()).unwrap(), SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_goes_through_in_constant_memory() {
    const PIECE: usize = 256 << 10;
    let world = World::new().await;
    let mut writer = world.begin().await;
    let component = writer.component(database().level(1)).unwrap();
    let (alive, most) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
    let (counter, peak) = (alive.clone(), most.clone());
    let source = futures::stream::iter(0..1024 * MIB / PIECE as u64).map(move |i| {
        let mut piece = vec![0; PIECE];
        piece[..8].copy_from_slice(&i.to_le_bytes());
        let now = counter.fetch_add(i64::try_from(PIECE).unwrap(), SeqCst) + i64::try_from(PIECE).unwrap();
        peak.fetch_max(now, SeqCst);
        Ok(Bytes::from_owner(Counted(piece, counter.clone())))
    });
    let part = component.put_part(0, Box::pin(source)).await.unwrap();
    assert_eq!(part.measure().plain_len, 1024 * MIB);
    component.record(part, rows(1)).unwrap();
    let info = writer.finish(world.facts()).await.unwrap();
    assert_eq!(alive.load(SeqCst), 0);
    let most = most.load(SeqCst);
    assert!(most < 4 * i64::try_from(MIB).unwrap(), "{most} bytes alive at once");

    let reader = BackupReader::open(&world.repository, info.place).await.unwrap();
    let component = reader.component("database").await.unwrap();
    let mut plain = component.read_part(&component.parts()[0]).await.unwrap();
    let (mut length, mut largest) = (0, 0);
    while let Some(piece) = plain.next().await {
        let piece = piece.unwrap();
        length += piece.len() as u64;
        largest = largest.max(piece.len() as u64);
    }
    assert_eq!(length, 1024 * MIB);
    assert!(largest <= MIB, "a piece of {largest} bytes");
}

/// A reader that takes its time keeps the store waiting, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_read_no_faster_than_it_is_consumed() {
    let world = World::new().await;
    let mut writer = world.begin().await;
    let component = writer.component(database().level(1)).unwrap();
    component.put(0, rows(1), pieces(&noise(32 << 20, 5), 64 << 10)).await.unwrap();
    let info = writer.finish(world.facts()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    // The memory store hands out a whole object at once; a folder reads in pieces.
    let local: Arc<dyn BackupStore> = Arc::new(crate::store::local::LocalStore::open(folder.path()).unwrap());
    for key in world.keys("").await {
        local.put_new(&key, stream::once(world.object(&key).await)).await.unwrap();
    }
    let pulled = Arc::new(AtomicI64::new(0));
    let counting = Counting(local, pulled.clone());
    let repository = Repository::open(Arc::new(counting), world.signer.id().into()).await.unwrap();
    let reader = BackupReader::open(&repository, info.place).await.unwrap();
    let component = reader.component("database").await.unwrap();
    pulled.store(0, SeqCst);
    let mut plain = component.read_part(&component.parts()[0]).await.unwrap();
    let (mut consumed, mut most_ahead) = (0, 0);
    while let Some(piece) = plain.next().await {
        // Incompressible, so bytes stored and bytes consumed compare.
        most_ahead = most_ahead.max(pulled.load(SeqCst) - consumed);
        consumed += i64::try_from(piece.unwrap().len()).unwrap();
    }
    assert_eq!(consumed, 32 << 20);
    assert!(most_ahead < 6 << 20, "{most_ahead} bytes ahead");
}

/// Counts the bytes that are read from a store.
#[derive(Debug)]
struct Counting(Arc<dyn BackupStore>, Arc<AtomicI64>);

#[async_trait::async_trait]
impl BackupStore for Counting {
    fn url(&self) -> String {
        self.0.url()
    }
    async fn put_new(&self, key: &Key, body: ByteStream) -> Result<ObjectInfo> {
        self.0.put_new(key, body).await
    }
    async fn get(&self, key: &Key, range: Option<std::ops::Range<u64>>) -> Result<ByteStream> {
        let count = self.1.clone();
        let body = self.0.get(key, range).await?;
        Ok(Box::pin(body.inspect(move |piece| {
            let length = piece.as_ref().map_or(0, Bytes::len);
            count.fetch_add(i64::try_from(length).unwrap(), SeqCst);
        })))
    }
    async fn stat(&self, key: &Key) -> Result<Option<ObjectInfo>> {
        self.0.stat(key).await
    }
    async fn list(&self, prefix: &str) -> Result<futures::stream::BoxStream<'static, Result<ObjectInfo>>> {
        self.0.list(prefix).await
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
    async fn sweep_leftovers(&self, older_than: std::time::Duration) -> Result<u64> {
        self.0.sweep_leftovers(older_than).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_beyond_the_limit_is_refused_and_not_kept() {
    let world = World::new().await;
    let mut writer = world.begin().await;
    // Level 0 of gzip stores bytes as they are.
    let component = writer.component(database().compression(Compression::Gzip).level(0)).unwrap();
    let piece = Bytes::from(vec![0; 1 << 20]);
    let source = futures::stream::iter(0..PART_LIMIT / MIB).map(move |_| Ok(piece.clone()));
    let error = component.put_part(0, Box::pin(source)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.hint_text().unwrap().contains("smaller chunks"));
    assert!(world.keys(&writer.place().prefix()).await.is_empty());
}
