//! What is listed, what is chosen, and what is refused.

use futures::{StreamExt, stream::BoxStream};

use super::*;

/// Backups of an hour each; the third is tagged.
async fn four(world: &World) -> Vec<BackupInfo> {
    let mut made = Vec::new();
    for (i, tags) in [&[][..], &[], &["pre-deploy"], &[]].iter().enumerate() {
        world.pass(60);
        made.push(world.tagged(&[&i.to_string()], tags).await);
    }
    world.pass(5);
    made
}

#[tokio::test]
async fn the_table_of_selections() {
    let world = World::new().await;
    let made = four(&world).await;
    let listing = world.catalog().list().await.unwrap();
    assert_eq!(listing.backups, made, "what finish returned is what is listed");
    let id = |i: usize| made[i].id().to_string();
    let at = |i: usize, seconds: i64| Selector::Timestamp(made[i].point + Duration::seconds(seconds));
    for (selector, wanted) in [
        (Selector::Latest, Ok(3)),
        (Selector::Previous(0), Ok(3)),
        (Selector::Previous(1), Ok(2)),
        (Selector::Previous(3), Ok(0)),
        (Selector::Previous(4), Err(ErrorKind::NotFound)),
        (Selector::Before(made[3].id()), Ok(2)),
        (Selector::Before(made[0].id()), Err(ErrorKind::NotFound)),
        (at(1, 0), Ok(1)),
        (at(1, 1), Ok(1)),
        (at(1, -1), Ok(0)),
        (at(3, 86_400), Ok(3)),
        (at(0, -1), Err(ErrorKind::NotFound)),
        (Selector::Id(id(1)), Ok(1)),
        (Selector::Id(id(1).to_lowercase()), Ok(1)),
        (Selector::Id(id(2)[..20].to_owned()), Ok(2)),
        (Selector::Id(id(0)[..4].to_owned()), Err(ErrorKind::InvalidInput)),
        (Selector::Id(id(0)[..3].to_owned()), Err(ErrorKind::InvalidInput)),
        (Selector::Id("ZZZZ".into()), Err(ErrorKind::NotFound)),
        (Selector::Tag("pre-deploy".parse().unwrap()), Ok(2)),
        (Selector::Tag("nightly".parse().unwrap()), Err(ErrorKind::NotFound)),
    ] {
        let chosen = listing.select(&selector).map(BackupInfo::id).map_err(|e| e.kind());
        assert_eq!(chosen, wanted.map(|i: usize| made[i].id()), "{selector:?}");
    }
}

/// Nothing older is chosen silently in the place of what is damaged.
#[tokio::test]
async fn a_damaged_newest_backup_is_not_stepped_over() {
    let world = World::new().await;
    let made = four(&world).await;
    for key in [made[3].place.manifest(), made[3].place.manifest_copy()] {
        world.replace(&key, "rubbish").await;
    }
    let listing = world.catalog().list().await.unwrap();
    let select = |selector: Selector| listing.select(&selector).map(BackupInfo::id);
    let error = select(Selector::Latest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains(&made[3].id().to_string()));
    let hint = error.hint_text().unwrap();
    assert!(hint.contains(&made[2].id().to_string()) && hint.contains("65 minutes old"), "{hint}");
    assert_eq!(select(Selector::Previous(1)).unwrap(), made[2].id());
    assert_eq!(select(Selector::Before(made[3].id())).unwrap(), made[2].id());
    assert_eq!(select(Selector::Timestamp(made[2].point)).unwrap(), made[2].id());
    assert_eq!(select(Selector::Timestamp(world.now())).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(select(Selector::Id(made[3].id().to_string())).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(select(Selector::Id(made[2].id().to_string())).unwrap(), made[2].id());
}

#[tokio::test]
async fn a_future_dated_backup_is_never_latest() {
    let world = World::new().await;
    let past = world.backup(&["now"]).await;
    world.pass(60 * 24 * 365);
    // Made while the host's clock was a year ahead; the store's clock, which stamps the manifest, was right.
    let ahead = world.repository.ids().next(None);
    world.pass(-60 * 24 * 365);
    let place = Place { id: ahead, ..past.place.clone() };
    let resumed = BackupWriter::resume(&world.repository, &world.signer, place).await.unwrap();
    let Resumed::Unfinished(mut writer) = resumed else { panic!("nothing is there") };
    writer.component(database()).unwrap().put(0, rows(1), stream::once("future")).await.unwrap();
    let info = writer.finish(world.facts()).await.unwrap();
    assert!(info.is_future_dated);
    assert_eq!(world.catalog().select(&Selector::Latest).await.unwrap().id(), past.id());
    assert_eq!(world.catalog().select(&Selector::Id(ahead.to_string())).await.unwrap().id(), ahead);
    // Two years later it still is what it was.
    world.pass(60 * 24 * 730);
    assert_eq!(world.catalog().select(&Selector::Latest).await.unwrap().id(), past.id());
    // And it does not drag later ids behind it: a new process begins at the present.
    world.pass(-60 * 24 * 730);
    let clock = world.clock.clone();
    let repository = world.reopened().await.with_ids(Ids::new(move || *clock.lock().unwrap(), rand::random));
    let writer = BackupWriter::begin(&repository, &world.signer, &world.host, &world.system).await.unwrap();
    assert!(writer.id() > past.id() && writer.id() < ahead);
}

/// F37.
#[tokio::test]
async fn another_systems_backup_is_refused_by_both_names() {
    let world = World::new().await;
    let info = world.backup(&["1"]).await;
    let shop = Catalog::new(&world.repository, &system("shop"));
    for selector in [Selector::Latest, Selector::Id(info.id().to_string())] {
        let error = shop.select(&selector).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.message().contains("`chom`") && error.message().contains("`shop`"), "{error}");
        assert!(error.hint_text().unwrap().contains("--as-clone chom"));
    }
    assert_eq!(shop.open(&info.place).await.unwrap_err().kind(), ErrorKind::Conflict);
    let clone = shop.as_clone_of(&world.system);
    let chosen = clone.select(&Selector::Latest).await.unwrap();
    assert_eq!(clone.open(&chosen.place).await.unwrap().place(), &info.place);
}

#[tokio::test]
async fn a_backup_copied_from_another_repository_is_refused() {
    let (world, other) = (World::new().await, World::new().await);
    let info = other.backup(&["1"]).await;
    for key in other.keys(&info.place.prefix()).await {
        world.store.put_new(&key, stream::once(other.object(&key).await)).await.unwrap();
    }
    // The other repository's signer is trusted: it is the id that tells them apart.
    let repository = Repository::open(world.store.clone(), other.signer.id().into()).await.unwrap();
    let error = Catalog::new(&repository, &world.system).select(&Selector::Latest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let listing = Catalog::new(&repository, &world.system).list().await.unwrap();
    let text = format!("{:?}", listing.damaged[0].error);
    assert!(text.contains(&other.repository.id().to_string()) && text.contains(&world.repository.id().to_string()));
    let clone = Catalog::new(&repository, &world.system).as_clone_of(&world.system);
    assert_eq!(clone.select(&Selector::Latest).await.unwrap().id(), info.id());
}

/// A store whose listing breaks off.
#[derive(Debug)]
struct Cut(Arc<dyn BackupStore>, usize);

#[async_trait::async_trait]
impl BackupStore for Cut {
    fn url(&self) -> String {
        self.0.url()
    }
    async fn put_new(&self, key: &Key, body: ByteStream) -> Result<ObjectInfo> {
        self.0.put_new(key, body).await
    }
    async fn get(&self, key: &Key, range: Option<std::ops::Range<u64>>) -> Result<ByteStream> {
        self.0.get(key, range).await
    }
    async fn stat(&self, key: &Key) -> Result<Option<ObjectInfo>> {
        self.0.stat(key).await
    }
    async fn list(&self, prefix: &str) -> Result<BoxStream<'static, Result<ObjectInfo>>> {
        let broken = futures::stream::once(async { Err(Error::new(ErrorKind::Failed, "the listing broke off")) });
        Ok(self.0.list(prefix).await?.take(self.1).chain(broken).boxed())
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

/// F17: with a part of the listing missing, nothing is the newest, and nothing is swept.
#[tokio::test]
async fn an_incomplete_listing_chooses_nothing_but_what_is_named() {
    let world = World::new().await;
    let made = four(&world).await;
    let cut = Arc::new(Cut(world.store.clone(), 6));
    let repository = Repository::open(cut, world.signer.id().into()).await.unwrap();
    let catalog = Catalog::new(&repository, &world.system);
    for selector in [Selector::Latest, Selector::Previous(1), Selector::Timestamp(world.now())] {
        assert_eq!(catalog.select(&selector).await.unwrap_err().kind(), ErrorKind::Incomplete);
    }
    let named = catalog.select(&Selector::Id(made[0].id().to_string())).await.unwrap();
    assert_eq!(named.id(), made[0].id());
    world.pass(60 * 48);
    let swept = sweep_unfinished(&repository, &world.system, std::time::Duration::from_hours(1)).await;
    assert_eq!(swept.unwrap_err().message(), "the listing broke off");
    assert_eq!(world.catalog().list().await.unwrap().backups.len(), 4);
}

#[tokio::test]
async fn verification_counts_when_signed_for_this_manifest_and_a_failure_takes_it_back() {
    let world = World::new().await;
    let info = world.backup(&["1"]).await;
    let reader = BackupReader::open(&world.repository, info.place.clone()).await.unwrap();
    let shown = || async {
        let info = world.catalog().select(&Selector::Latest).await.unwrap();
        (info.level, info.verified)
    };
    assert_eq!(shown().await, (None, None));
    let good = verify(&reader, Level::L2, &silent()).await.unwrap();
    assert_eq!(verify(&reader, Level::L3, &silent()).await.unwrap_err().kind(), ErrorKind::Unsupported);
    let store = |signer: &Signer, report: &VerifyReport| {
        let (signer, report, place) = (signer.clone(), report.clone(), info.place.clone());
        let repository = world.repository.clone();
        async move { record(&repository, &signer, &place, report, Some("run-1".into())).await.unwrap() }
    };
    // A stranger's word, and a word about another manifest, count for nothing.
    store(&Signer::from_seed(&[9; 32]), &good).await;
    store(&world.signer, &VerifyReport { manifest_sha256: codec::sha256(b"another"), ..good.clone() }).await;
    assert_eq!(shown().await, (None, None));
    world.pass(1);
    let kept = store(&world.signer, &good).await;
    assert_eq!(shown().await, (Some(Level::L2), Some(good.ended)));
    assert_eq!(records(&world.repository, &info.place).await.unwrap().last(), Some(&kept));
    // A lower level does not lower what was proven.
    store(&world.signer, &VerifyReport { level: Level::L1, ..good.clone() }).await;
    assert_eq!(shown().await.0, Some(Level::L2));
    // A record moved to another backup vouches for nothing there.
    world.pass(1);
    let other = world.backup(&["1"]).await;
    let moved = world.object(&info.place.evidence(kept.id)).await;
    world.store.put_new(&other.place.evidence(kept.id), stream::once(moved)).await.unwrap();
    assert_eq!(shown().await, (None, None));
    world.store.delete(&other.place.manifest()).await.unwrap();

    world.replace(&info.place.part(&"database".parse().unwrap(), 0), "rubbish").await;
    let bad = verify(&reader, Level::L1, &silent()).await.unwrap();
    assert_eq!((bad.passed(), bad.findings[0].part), (false, Some(0)));
    assert_eq!(bad.clone().into_result().unwrap_err().kind(), ErrorKind::Corrupt);
    world.pass(1);
    store(&world.signer, &bad).await;
    assert_eq!(shown().await, (None, Some(bad.ended)));
}

#[tokio::test]
async fn progress_reaches_the_total() {
    let world = World::new().await;
    let info = world.backup(&["1", "22", "333"]).await;
    let reader = BackupReader::open(&world.repository, info.place.clone()).await.unwrap();
    let seen = Mutex::new(Vec::new());
    let see = |p: Progress| seen.lock().unwrap().push(p);
    let report = verify(&reader, Level::L2, &see).await.unwrap();
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.len(), 3);
    assert!(seen.windows(2).all(|w| w[0].done < w[1].done));
    assert_eq!(seen[2], Progress { done: info.stored_len, total: info.stored_len });
    assert_eq!((report.parts, report.stored_len), (3, info.stored_len));
}
