//! Conformance of a [`BackupStore`]: one function per promise, each in a folder of its own, so that they can run on
//! a store that holds other things.
//!
//! A store keeps its promises when [`all`] returns; a broken one panics with what went wrong.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::join_all};

use crate::{
    error::{Error, ErrorKind, Result},
    store::{BackupStore, Key, Skip},
    stream::{self, ByteStream},
};

/// Checks every promise that holds for all stores.
pub async fn all(store: &dyn BackupStore) {
    an_object_is_read_back_as_written(store).await;
    a_taken_key_is_never_overwritten(store).await;
    one_of_many_writers_wins(store).await;
    a_broken_body_leaves_nothing(store).await;
    a_dropped_write_leaves_nothing(store).await;
    ranges_are_exact(store).await;
    absent_objects_are_told_apart_from_failures(store).await;
    listing_is_complete_and_in_order_of_keys(store).await;
    delete_is_idempotent(store).await;
    versions_never_repeat(store).await;
    one_of_many_swaps_wins(store).await;
    the_clock_matches_the_objects(store).await;
    sweeping_touches_no_object(store).await;
}

fn folder() -> String {
    format!("conformance-{}", hex::encode(rand::random::<[u8; 8]>()))
}

fn key(folder: &str, name: &str) -> Key {
    format!("{folder}/{name}").parse().expect("the suite's keys are keys")
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|i| u8::try_from((i * 31 + i / 251) % 256).expect("below 256")).collect::<Vec<_>>().into()
}

fn pieces(bytes: &Bytes, size: usize) -> ByteStream {
    let pieces: Vec<Result<Bytes>> = bytes.chunks(size).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    Box::pin(futures::stream::iter(pieces))
}

async fn read(store: &dyn BackupStore, key: &Key) -> Bytes {
    stream::collect(store.get(key, None).await.expect("object exists"), 64 << 20).await.expect("object is whole")
}

async fn names(store: &dyn BackupStore, prefix: &str) -> Vec<String> {
    let listed: Vec<_> = store.list(prefix).await.expect("list").try_collect().await.expect("list item");
    listed.into_iter().map(|i| i.key.as_str().strip_prefix(prefix).expect("below the prefix").to_owned()).collect()
}

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.map(|_| ()).expect_err("it had to fail").kind()
}

/// Bytes come back as written, for empty, small and large bodies, however they were cut into pieces.
pub async fn an_object_is_read_back_as_written(store: &dyn BackupStore) {
    let folder = folder();
    for (length, size) in [(0, 1), (1, 1), (4096, 1000), (3_000_000, 70_001)] {
        let key = key(&folder, &format!("a/b/{length}"));
        let body = pattern(length);
        let put = store.put_new(&key, pieces(&body, size)).await.expect("put");
        assert_eq!((&put.key, put.length), (&key, length as u64));
        assert!(read(store, &key).await == body, "{length} bytes come back changed");
        assert_eq!(store.stat(&key).await.expect("stat"), Some(put), "put and stat agree");
    }
}

/// Writing to a taken key is `AlreadyExists` and changes nothing.
pub async fn a_taken_key_is_never_overwritten(store: &dyn BackupStore) {
    let key = key(&folder(), "object");
    let first = store.put_new(&key, stream::once("first")).await.expect("put");
    assert_eq!(kind(store.put_new(&key, stream::once("second")).await), ErrorKind::AlreadyExists);
    assert_eq!(read(store, &key).await, "first");
    assert_eq!(store.stat(&key).await.expect("stat").expect("exists").version, first.version);
}

/// Of many concurrent writers of one key exactly one succeeds, and its bytes are there.
pub async fn one_of_many_writers_wins(store: &dyn BackupStore) {
    let key = key(&folder(), "raced");
    let bodies: Vec<_> = (0..8).map(|i| Bytes::from(format!("writer {i} ").repeat(10_000))).collect();
    let results = join_all(bodies.iter().map(|b| store.put_new(&key, pieces(b, 1000)))).await;
    let winners: Vec<_> = results.iter().enumerate().filter(|(_, r)| r.is_ok()).map(|(i, _)| i).collect();
    assert_eq!(winners.len(), 1, "winners: {winners:?}");
    for result in results.into_iter().filter_map(Result::err) {
        assert_eq!(result.kind(), ErrorKind::AlreadyExists);
    }
    assert!(read(store, &key).await == bodies[winners[0]]);
}

/// A body that fails gives its own error, and no object is visible.
pub async fn a_broken_body_leaves_nothing(store: &dyn BackupStore) {
    let folder = folder();
    let key = key(&folder, "broken");
    let items = [Ok(pattern(100_000)), Err(Error::new(ErrorKind::Unreachable, "the source went away"))];
    assert_eq!(kind(store.put_new(&key, Box::pin(futures::stream::iter(items))).await), ErrorKind::Unreachable);
    assert_eq!(store.stat(&key).await.expect("stat"), None);
    assert!(names(store, &format!("{folder}/")).await.is_empty());
}

/// A write that is dropped half-way leaves nothing visible, and the key stays free.
pub async fn a_dropped_write_leaves_nothing(store: &dyn BackupStore) {
    let folder = folder();
    let key = key(&folder, "dropped");
    let body = futures::stream::iter([Ok(pattern(100_000))]).chain(futures::stream::pending());
    let write = tokio::time::timeout(Duration::from_millis(50), store.put_new(&key, Box::pin(body)));
    assert!(write.await.is_err(), "the body never ends");
    assert_eq!(store.stat(&key).await.expect("stat"), None);
    assert!(names(store, &format!("{folder}/")).await.is_empty());
    store.put_new(&key, stream::once("whole")).await.expect("the key is free");
    assert_eq!(read(store, &key).await, "whole");
}

/// A range gives those bytes; one beyond the end is `Corrupt`, one that ends before it begins is `InvalidInput`.
pub async fn ranges_are_exact(store: &dyn BackupStore) {
    let key = key(&folder(), "object");
    let body = pattern(600_000);
    store.put_new(&key, stream::once(body.clone())).await.expect("put");
    for range in [0..0_usize, 0..1, 1..600_000, 262_143..262_145, 599_999..600_000, 600_000..600_000] {
        let wanted = Some(range.start as u64..range.end as u64);
        let got = stream::collect(store.get(&key, wanted).await.expect("get"), 1 << 20).await.expect("read");
        assert!(got == body.slice(range.clone()), "{range:?}");
    }
    let beyond = match store.get(&key, Some(599_999..600_001)).await {
        Ok(body) => stream::collect(body, 1 << 20).await,
        Err(e) => Err(e),
    };
    assert_eq!(kind(beyond), ErrorKind::Corrupt);
    // A range that ends before it begins, as a caller's mistake would make it.
    let backwards = std::ops::Range { start: 2, end: 1 };
    assert_eq!(kind(store.get(&key, Some(backwards)).await), ErrorKind::InvalidInput);
}

/// What is not there: `NotFound` for reading, `None` for looking, nothing for listing.
pub async fn absent_objects_are_told_apart_from_failures(store: &dyn BackupStore) {
    let folder = folder();
    let absent = key(&folder, "a/absent");
    assert_eq!(kind(store.get(&absent, None).await), ErrorKind::NotFound);
    assert_eq!(store.stat(&absent).await.expect("stat"), None);
    assert!(names(store, &format!("{folder}/a/")).await.is_empty());
    store.put_new(&key(&folder, "a/b/object"), stream::once("x")).await.expect("put");
    assert_eq!(store.stat(&key(&folder, "a/b")).await.expect("stat"), None, "a folder is no object");
    assert_eq!(kind(store.get(&key(&folder, "a/b"), None).await), ErrorKind::NotFound);
}

/// Listing gives every object below the prefix and no other, in byte order of keys.
pub async fn listing_is_complete_and_in_order_of_keys(store: &dyn BackupStore) {
    let folder = folder();
    let mut wanted = BTreeSet::new();
    for name in ["b", "a/2", "a/10", "a/1/x", "a-b", "a.b", "a0", "B", "_", "a-b.c/d", "b0/x"] {
        store.put_new(&key(&folder, name), stream::once(name)).await.expect("put");
        wanted.insert(name.to_owned());
    }
    store.put_new(&key(&format!("{folder}2"), "other"), stream::once("x")).await.expect("put");
    assert_eq!(names(store, &format!("{folder}/")).await, wanted.into_iter().collect::<Vec<_>>());
    assert_eq!(names(store, &format!("{folder}/a/")).await, ["1/x", "10", "2"]);
    let everything: Vec<_> = store.list("").await.expect("list").try_collect().await.expect("list item");
    assert!(everything.iter().any(|i| i.key.as_str() == format!("{folder}/a-b") && i.length == 3));
    let except = async |prefix: String, skip: Skip| -> Vec<String> {
        let listed = store.list_except(&prefix, skip).await.expect("list");
        let keys = listed.map_ok(|object| object.key.as_str().replacen(&format!("{folder}/"), "", 1));
        keys.try_collect().await.expect("list item")
    };
    let without_a = ["B", "_", "a-b", "a-b.c/d", "a.b", "a0", "b", "b0/x"];
    assert_eq!(except(format!("{folder}/"), |prefix| prefix.ends_with("/a/")).await, without_a);
    assert_eq!(
        except(format!("{folder}/a/"), |prefix| prefix.ends_with("/a/")).await,
        ["a/1/x", "a/10", "a/2"],
        "asked for"
    );
    assert_eq!(except(format!("{folder}/a/"), |prefix| prefix.ends_with("/a/1/")).await, ["a/10", "a/2"]);
    for bad in [folder.as_str(), "/", "../"] {
        assert_eq!(kind(store.list(bad).await.map(|_| ())), ErrorKind::InvalidInput, "{bad}");
    }
}

/// Deleting takes the object away; deleting again is success; neighbours stay.
pub async fn delete_is_idempotent(store: &dyn BackupStore) {
    let folder = folder();
    let (one, two) = (key(&folder, "p/one"), key(&folder, "p/two"));
    store.put_new(&one, stream::once("1")).await.expect("put");
    store.put_new(&two, stream::once("2")).await.expect("put");
    store.delete(&one).await.expect("delete");
    store.delete(&one).await.expect("delete what is gone");
    assert_eq!(names(store, &format!("{folder}/")).await, ["p/two"]);
    store.delete(&two).await.expect("delete");
    store.put_new(&two, stream::once("again")).await.expect("a deleted key is free");
    assert_eq!(read(store, &two).await, "again");
}

/// A swap needs the present version; versions of one key never repeat, also for equal bodies in quick succession.
pub async fn versions_never_repeat(store: &dyn BackupStore) {
    let key = key(&folder(), "lease");
    let stale = crate::store::Version("of nothing".into());
    assert_eq!(kind(store.compare_and_swap(&key, Some(&stale), "x".into()).await), ErrorKind::Conflict);
    let mut version = store.compare_and_swap(&key, None, "same".into()).await.expect("make");
    assert_eq!(kind(store.compare_and_swap(&key, None, "x".into()).await), ErrorKind::Conflict);
    let mut seen = vec![version.clone()];
    for _ in 0..50 {
        version = store.compare_and_swap(&key, Some(&version), "same".into()).await.expect("swap");
        assert!(!seen.contains(&version), "{version:?} twice");
        assert_eq!(store.stat(&key).await.expect("stat").expect("exists").version, version);
        seen.push(version.clone());
    }
    assert_eq!(kind(store.compare_and_swap(&key, Some(&seen[0]), "x".into()).await), ErrorKind::Conflict);
    assert_eq!(read(store, &key).await, "same");
}

/// Of many concurrent swaps from one version exactly one succeeds.
pub async fn one_of_many_swaps_wins(store: &dyn BackupStore) {
    let key = key(&folder(), "lease");
    for round in 0..5 {
        let present = store.stat(&key).await.expect("stat").map(|i| i.version);
        let bodies: Vec<_> = (0..8).map(|i| Bytes::from(format!("{round}/{i}"))).collect();
        let swaps = bodies.iter().map(|b| store.compare_and_swap(&key, present.as_ref(), b.clone()));
        let results = join_all(swaps).await;
        let winners: Vec<_> = results.iter().enumerate().filter(|(_, r)| r.is_ok()).map(|(i, _)| i).collect();
        assert_eq!(winners.len(), 1, "round {round}: {results:?}");
        assert_eq!(read(store, &key).await, bodies[winners[0]]);
    }
}

/// The store's clock does not go back, and objects bear its times.
pub async fn the_clock_matches_the_objects(store: &dyn BackupStore) {
    let key = key(&folder(), "object");
    let before = store.now().await.expect("now");
    let object = store.put_new(&key, stream::once("x")).await.expect("put");
    let after = store.now().await.expect("now");
    // A filesystem rounds its times down to a tick.
    let tick = chrono::Duration::milliseconds(20);
    assert!(before - tick <= object.modified && object.modified <= after + tick, "{before} {object:?} {after}");
}

/// Sweeping leftovers, however young, takes no object away.
pub async fn sweeping_touches_no_object(store: &dyn BackupStore) {
    let key = key(&folder(), "object");
    store.put_new(&key, stream::once("x")).await.expect("put");
    store.sweep_leftovers(Duration::ZERO).await.expect("sweep");
    assert_eq!(read(store, &key).await, "x");
}

/// A store that gets full (`too_much` bytes do not fit) says `NoSpace`, keeps what it had and nothing of the new
/// object. Not part of [`all`]: it needs a store of limited size.
pub async fn full_store_is_left_as_it_was(store: &dyn BackupStore, too_much: usize) {
    let folder = folder();
    let small = key(&folder, "small");
    store.put_new(&small, stream::once("kept")).await.expect("put");
    let before = names(store, "").await;
    let large = key(&folder, "large");
    assert_eq!(kind(store.put_new(&large, pieces(&pattern(too_much), 10_000)).await), ErrorKind::NoSpace);
    assert_eq!(names(store, "").await, before);
    assert_eq!(read(store, &small).await, "kept");
    store.put_new(&large, stream::once("small enough")).await.expect("there is space again");
    assert_eq!(read(store, &large).await, "small enough");
}
