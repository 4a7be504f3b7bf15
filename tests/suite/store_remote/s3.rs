//! A store in a bucket, on servers of two makes.

use std::time::{Duration, Instant};

use chom_recovery::{
    ErrorKind,
    store::{self, BackupStore, s3::S3Store},
    stream,
    system::{S3Settings, StoreSettings},
    testing::store as conformance,
};
use chom_recovery_tests::s3::{BUCKET, FsServer, MotoServer, SECRET, Script};

use crate::{assert_says, body, key, keys, pattern, read, until};

fn store_of(bucket: &str, settings: &S3Settings) -> S3Store {
    S3Store::new(bucket, "site/a/", settings).expect("a store")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_every_promise_of_a_store_on_s3s() {
    let server = FsServer::start().await;
    let store = store_of(BUCKET, &server.settings());
    conformance::all(&store).await;
    let found = store.capabilities().await.expect("capabilities");
    assert!(
        found.create_only && found.create_only_large && found.swap && !found.versioned && !found.locks,
        "{found:?}"
    );
    assert_eq!(store.free_bytes().await.expect("free"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_them_behind_the_layer_that_repeats_and_without_a_prefix() {
    let server = FsServer::start().await;
    let settings = StoreSettings { s3: server.settings(), ..StoreSettings::from(format!("s3://{BUCKET}").as_str()) };
    let store = store::create(&settings).await.expect("a store");
    assert_eq!(store.url(), format!("s3://{BUCKET}"));
    conformance::all(&*store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_every_promise_of_a_store_on_moto() {
    let Some(server) = MotoServer::start("it_keeps_every_promise_of_a_store_on_moto").await else { return };
    server.make_bucket(BUCKET, None).await;
    let store = store_of(BUCKET, &server.settings());
    conformance::all(&store).await;
    let found = store.capabilities().await.expect("capabilities");
    assert!(
        found.create_only && found.create_only_large && found.swap && !found.versioned && !found.locks,
        "{found:?}"
    );
}

async fn large_objects(store: &S3Store) {
    // Exactly one part, a part and a byte, and several parts.
    for length in [8 << 20, (8 << 20) + 1, 20_000_001] {
        let (name, bytes) = (key(&format!("large/{length}")), pattern(length));
        let put = store.put_new(&name, body(&bytes)).await.expect("put");
        assert_eq!(put.length, length as u64);
        assert!(read(store, &name).await.expect("read") == bytes, "{length}");
        let again = store.put_new(&name, body(&pattern(length))).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        let part = store.get(&name, Some(5_000_000..8_000_000)).await.expect("get");
        assert!(stream::collect(part, 64 << 20).await.expect("a range") == bytes.slice(5_000_000..8_000_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_objects_come_back_as_written_and_are_never_replaced() {
    let server = FsServer::start().await;
    large_objects(&store_of(BUCKET, &server.settings())).await;
    if let Some(server) = MotoServer::start("large_objects_come_back_as_written (moto)").await {
        server.make_bucket(BUCKET, None).await;
        large_objects(&store_of(BUCKET, &server.settings())).await;
    }
}

/// A bucket of more than one page, with things in it that are not ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_goes_through_all_pages_and_leaves_out_what_is_not_ours() {
    let server = FsServer::start().await;
    let folder = server.bucket().join("site/a/many");
    std::fs::create_dir_all(&folder).expect("folder");
    let mut wanted: Vec<String> = (0..2_345).map(|i| format!("many/{i:05}")).collect();
    for name in &wanted {
        std::fs::write(server.bucket().join("site/a").join(name), "x").expect("file");
    }
    std::fs::write(server.bucket().join("site/other"), "x").expect("file");
    std::fs::write(server.bucket().join("site/a/not a key"), "x").expect("file");
    wanted.sort();
    let store = store_of(BUCKET, &server.settings());
    assert_eq!(keys(&store).await, wanted);
    let pages = server.requests().iter().filter(|r| r.contains("list-type=2")).count();
    assert_eq!(pages, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_given_up_is_aborted() {
    let server = FsServer::start().await;
    let store = store_of(BUCKET, &server.settings());
    store.capabilities().await.expect("capabilities");
    // More than a part, and then nothing more for ever.
    let bytes = pattern(9 << 20);
    let pending = futures::StreamExt::chain(body(&bytes), futures::stream::pending());
    let (name, writing) = (key("given-up"), store.clone());
    let write = tokio::spawn(async move { writing.put_new(&name, Box::pin(pending)).await });
    until("a part is there", || server.requests().iter().any(|r| r.contains("partNumber=1"))).await;
    write.abort();
    until("the upload was aborted", || {
        server.requests().iter().any(|r| r.starts_with("DELETE") && r.contains("uploadId"))
    })
    .await;
    assert_eq!(store.stat(&key("given-up")).await.expect("stat"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_and_probes_of_dead_writers_are_swept() {
    let Some(server) = MotoServer::start("uploads_and_probes_of_dead_writers_are_swept").await else { return };
    server.make_bucket(BUCKET, None).await;
    let (ours, others) = (store_of(BUCKET, &server.settings()), S3Store::new(BUCKET, "site/b/", &server.settings()));
    let others = others.expect("a store");
    let listing = format!("{}/{BUCKET}?uploads", server.settings().endpoint.expect("endpoint"));
    let uploads = async || {
        let answer = reqwest::get(&listing).await.expect("an answer").text().await.expect("its text");
        answer.matches("<UploadId>").count()
    };
    // A runtime that ends with an upload under way is what a killed process leaves behind.
    for (before, store) in [ours.clone(), others.clone()].into_iter().enumerate() {
        let (dies, mut death) = tokio::sync::oneshot::channel::<()>();
        let writing = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
            let bytes = pattern(17 << 20);
            let pending = futures::StreamExt::chain(body(&bytes), futures::stream::pending());
            let name = key("dead");
            // The future outlives the runtime: nothing is dropped in order.
            runtime.block_on(async {
                let mut write = Box::pin(store.put_new(&name, Box::pin(pending)));
                tokio::select! {
                    _ = &mut write => panic!("it goes on"),
                    _ = &mut death => std::mem::forget(write),
                }
            });
            runtime.shutdown_background();
        });
        let end = Instant::now() + Duration::from_mins(1);
        while uploads().await == before {
            assert!(Instant::now() < end, "no upload began");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        drop(dies);
        writing.join().expect("the writer's thread");
    }
    assert_eq!(uploads().await, 2);
    assert_eq!(ours.sweep_leftovers(Duration::from_hours(24)).await.expect("sweep"), 1);
    assert_eq!(uploads().await, 1, "another prefix is not ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_lock_is_respected_and_is_no_damage() {
    let Some(server) = MotoServer::start("an_object_lock_is_respected_and_is_no_damage").await else { return };
    server.make_bucket("locked", Some(30)).await;
    let store = store_of("locked", &server.settings());
    let found = store.capabilities().await.expect("capabilities");
    assert!(found.versioned && found.locks, "{found:?}");
    store.put_new(&key("b/part"), stream::once("small")).await.expect("put");
    store.put_new(&key("b/large"), body(&pattern(9 << 20))).await.expect("put");
    // moto's server locks what is written at once alone.
    let error = store.delete(&key("b/part")).await.unwrap_err();
    assert_says(&error, ErrorKind::Retained, "retained until", "nothing is wrong");
    assert!(store.stat(&key("b/part")).await.expect("stat").is_some(), "it is neither gone nor hidden");
    assert_eq!(read(&store, &key("b/part")).await.expect("read"), "small");
    store.now().await.expect("the time, without another object that stays");
    assert_eq!(keys(&store).await, ["b/large", "b/part"]);
    // A lease can be replaced there: each state of it stays as a version.
    let version = store.compare_and_swap(&key("lease/prune"), None, "1".into()).await.expect("make");
    store.compare_and_swap(&key("lease/prune"), Some(&version), "2".into()).await.expect("swap");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_bucket_that_keeps_versions_deleting_frees_the_bytes() {
    let Some(server) = MotoServer::start("deleting_frees_the_bytes").await else { return };
    // A lock of the bucket brings versions; without a default retention nothing is locked.
    server.make_bucket("versions", Some(0)).await;
    let store = store_of("versions", &server.settings());
    store.put_new(&key("a"), stream::once("x")).await.expect("put");
    store.delete(&key("a")).await.expect("delete");
    assert_eq!(store.stat(&key("a")).await.expect("stat"), None);
    let url = format!("{}/versions?versions", server.settings().endpoint.expect("endpoint"));
    let versions = reqwest::get(url).await.expect("an answer").text().await.expect("its text");
    assert!(!versions.contains("<Key>site/a/a</Key>"), "{versions}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_conditions_is_found_out() {
    let server = FsServer::start().await;
    server.always(Script::Unconditional);
    let store = store_of(BUCKET, &server.settings());
    let found = store.capabilities().await.expect("capabilities");
    assert!(!found.create_only && !found.create_only_large && !found.swap, "{found:?}");
    store.put_new(&key("a"), stream::once("first")).await.expect("put");
    assert_eq!(store.put_new(&key("a"), stream::once("second")).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let large = pattern(9 << 20);
    store.put_new(&key("large"), body(&large)).await.expect("put");
    assert_eq!(store.put_new(&key("large"), body(&large)).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(read(&store, &key("a")).await.expect("read"), "first");
    let error = store.compare_and_swap(&key("lease"), None, "x".into()).await.unwrap_err();
    assert_says(&error, ErrorKind::Unsupported, "condition", "If-Match");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_told_holds_a_secret() {
    let server = FsServer::start().await;
    let store = store_of(BUCKET, &server.settings());
    store.put_new(&key("a"), stream::once("x")).await.expect("put");
    let missing = store_of("no-such-bucket", &server.settings()).stat(&key("a")).await.unwrap_err();
    assert_says(&missing, ErrorKind::NotFound, "NoSuchBucket", "bucket");
    let shown = format!("{store:?} {} {:?} {missing:?}", store.url(), server.settings());
    assert!(!shown.contains(SECRET), "{shown}");
    assert!(
        server.requests().iter().all(|r| !r.contains("Signature") && !r.contains(SECRET)),
        "signed in headers only"
    );
}
