//! A store behind OpenSSH.

use std::time::Duration;

use chom_recovery::{
    ErrorKind,
    store::{self, BackupStore},
    stream,
    system::StoreSettings,
    testing::store as conformance,
};
use chom_recovery_tests::sftp::{Setup, SftpServer};
use futures::{StreamExt, TryStreamExt};

use crate::{assert_says, body, key, keys, pattern, read, until};

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_every_promise_of_a_store() {
    for setup in [Setup::Plain, Setup::External] {
        let Some(server) = SftpServer::start("it_keeps_every_promise_of_a_store", setup) else { return };
        let store = server.store();
        conformance::all(&store).await;
        until("leftovers are gone", || server.files().iter().all(|f| !f.starts_with(".tmp-"))).await;
        assert!(store.free_bytes().await.expect("free").is_some_and(|free| free > 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_them_behind_the_layer_that_repeats_and_in_a_chroot() {
    let Some(server) = SftpServer::start("it_keeps_them_in_a_chroot", Setup::Chroot) else { return };
    let settings = StoreSettings { sftp: server.settings(), ..StoreSettings::from("sftp://chomt-nas/store") };
    let store = store::open(&settings).expect("a store");
    assert_eq!(store.url(), "sftp://chomt-nas/store");
    conformance::all(&*store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_comes_back_as_written() {
    let Some(server) = SftpServer::start("a_large_object_comes_back_as_written", Setup::Plain) else { return };
    let (store, bytes) = (server.store(), pattern(20_000_001));
    store.put_new(&key("a/large"), body(&bytes)).await.expect("put");
    assert!(std::fs::read(server.root().join("a/large")).expect("file") == bytes, "the bytes over there");
    assert!(read(&store, &key("a/large")).await.expect("read") == bytes);
    let part = stream::collect(store.get(&key("a/large"), Some(7..15_000_000)).await.expect("get"), 64 << 20).await;
    assert!(part.expect("a range") == bytes.slice(7..15_000_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_folders_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let Some(server) = SftpServer::start("files_and_folders_are_for_their_owner_alone", Setup::Plain) else { return };
    let store = server.store_at(&server.path("root/new").display().to_string());
    store.make_root().await.expect("make");
    store.make_root().await.expect("an existing one is fine");
    store.put_new(&key("a/b"), stream::once("x")).await.expect("put");
    let mode = |p: &str| std::fs::metadata(server.path(p)).expect("stat").permissions().mode() & 0o777;
    assert_eq!((mode("root/new"), mode("root/new/a"), mode("root/new/a/b")), (0o700, 0o700, 0o600));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_there_is_never_taken_for_an_empty_one() {
    let Some(server) = SftpServer::start("a_store_that_is_not_there", Setup::Plain) else { return };
    let store = server.store_at(&server.path("root/unmounted").display().to_string());
    for error in [
        store.stat(&key("a")).await.unwrap_err(),
        store.get(&key("a"), None).await.err().expect("no store"),
        store.list("").await.err().expect("no store"),
        store.delete(&key("a")).await.unwrap_err(),
        store.put_new(&key("a/b"), stream::once("x")).await.unwrap_err(),
        store.now().await.unwrap_err(),
    ] {
        assert_says(&error, ErrorKind::NotFound, "does not exist", "mounted");
    }
    assert!(!server.path("root/unmounted").exists(), "nothing is made");
    let below = server.store_at(&server.path("root/no/store").display().to_string());
    assert_says(&below.make_root().await.unwrap_err(), ErrorKind::NotFound, "no such", "folder above");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_no_space_and_leaves_nothing_behind() {
    let Some(server) = SftpServer::start("a_full_disk_is_no_space", Setup::Small(6)) else { return };
    let store = server.store();
    conformance::full_store_is_left_as_it_was(&store, 12 << 20).await;
    until("the cut file is gone", || server.files() == ["large", "small"]).await;
    let error = store.put_new(&key("again"), body(&pattern(12 << 20))).await.unwrap_err();
    assert_says(&error, ErrorKind::NoSpace, "is full", "make room");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_server_can_be_read_and_says_why_it_is_not_written_to() {
    let Some(server) = SftpServer::start("a_read_only_server", Setup::ReadOnly) else { return };
    let store = server.store();
    std::fs::create_dir(server.root().join("a")).expect("folder");
    std::fs::write(server.root().join("a/b"), "x").expect("file");
    assert_eq!(read(&store, &key("a/b")).await.expect("read"), "x");
    assert_eq!(keys(&store).await, ["a/b"]);
    assert!(store.now().await.is_ok(), "the time is this host's");
    let error = store.put_new(&key("a/c"), stream::once("x")).await.unwrap_err();
    assert_says(&error, ErrorKind::Precondition, "ermission denied", "read-only");
    assert_says(&store.delete(&key("a/b")).await.unwrap_err(), ErrorKind::Denied, "ermission denied", "may not delete");
    let swap = store.compare_and_swap(&key("lease"), None, "x".into()).await;
    assert_eq!(swap.unwrap_err().kind(), ErrorKind::Precondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_not_delete_makes_backups_and_cannot_destroy_them() {
    let Some(server) = SftpServer::start("a_key_that_may_not_delete", Setup::TwoKeys) else { return };
    server.configure(server.address().port(), "second_key");
    let store = server.store();
    store.put_new(&key("b/part"), body(&pattern(300_000))).await.expect("put");
    assert!(read(&store, &key("b/part")).await.expect("read") == pattern(300_000));
    assert_eq!(
        store.put_new(&key("b/part"), stream::once("other")).await.unwrap_err().kind(),
        ErrorKind::AlreadyExists,
        "nothing is replaced"
    );
    let error = store.delete(&key("b/part")).await.unwrap_err();
    assert_says(&error, ErrorKind::Denied, "cannot delete `b/part`", "may not delete");
    for _ in 0..5 {
        store.now().await.expect("the time");
    }
    let clocks = server.files().iter().filter(|f| f.ends_with("-now")).count();
    assert_eq!(clocks, 1, "what cannot be removed is used again: {:?}", server.files());

    server.configure(server.address().port(), "key");
    let pruner = server.store();
    assert_eq!(pruner.sweep_leftovers(Duration::ZERO).await.expect("sweep"), 1);
    pruner.delete(&key("b/part")).await.expect("this key may");
    assert!(server.files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_changed_host_keys_are_refused_and_told_apart() {
    let Some(server) = SftpServer::start("unknown_and_changed_host_keys", Setup::Plain) else { return };
    server.know_host("");
    let error = server.store().stat(&key("a")).await.unwrap_err();
    assert_says(&error, ErrorKind::Authentication, "is not known", "compare it");
    server.know_host("other_host_key");
    let error = server.store().stat(&key("a")).await.unwrap_err();
    assert_says(&error, ErrorKind::Authentication, "not the known one", "in between");
    server.know_host("host_key");
    // The account has no such key.
    server.configure(server.address().port(), "second_key");
    let error = server.store().stat(&key("a")).await.unwrap_err();
    assert_says(&error, ErrorKind::Authentication, "Permission denied", "agent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_sftp_and_a_port_without_a_server_are_told_apart() {
    let Some(server) = SftpServer::start("a_host_without_sftp", Setup::None) else { return };
    let error = server.store().stat(&key("a")).await.unwrap_err();
    assert_says(&error, ErrorKind::Precondition, "no sftp", "Subsystem");
    let nobody = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port").local_addr().expect("address");
    server.configure(nobody.port(), "key");
    assert_eq!(server.store().stat(&key("a")).await.unwrap_err().kind(), ErrorKind::Unreachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_told_and_not_followed() {
    let Some(server) = SftpServer::start("what_is_no_file_is_told", Setup::Plain) else { return };
    let store = server.store();
    std::fs::write(server.path("secret"), "secret").expect("file");
    std::os::unix::fs::symlink(server.path("secret"), server.root().join("link")).expect("link");
    assert_eq!(store.get(&key("link"), None).await.err().expect("refused").kind(), ErrorKind::Corrupt);
    assert_eq!(store.put_new(&key("link"), stream::once("x")).await.unwrap_err().kind(), ErrorKind::Corrupt);
    let items: Vec<_> = store.list("").await.expect("list").collect().await;
    assert!(items.len() == 1 && items[0].is_err(), "{items:?}");
    assert_eq!(std::fs::read_to_string(server.path("secret")).expect("file"), "secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_are_invisible_and_swept_by_age() {
    let Some(server) = SftpServer::start("leftovers_are_swept_by_age", Setup::Plain) else { return };
    let store = server.store();
    store.put_new(&key("a/b"), stream::once("x")).await.expect("put");
    let path = |name: &str| server.root().join("a").join(name);
    let (old, young) = (path(".tmp-01ARZ3NDEKTSV4RRFFQ69G5FAV-c"), path(".tmp-01ARZ3NDEKTSV4RRFFQ69G5FAW-d"));
    std::fs::write(&young, "cut").expect("file");
    let file = std::fs::File::create(&old).expect("file");
    file.set_modified(std::time::SystemTime::now() - Duration::from_hours(25)).expect("time");
    assert_eq!(keys(&store).await, ["a/b"]);
    assert_eq!(store.sweep_leftovers(Duration::from_hours(24)).await.expect("sweep"), 1);
    assert!(!old.exists() && young.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_the_last_object_takes_its_folders_away() {
    let Some(server) = SftpServer::start("deleting_the_last_object", Setup::Plain) else { return };
    let store = server.store();
    store.put_new(&key("a/b/c"), stream::once("x")).await.expect("put");
    store.put_new(&key("a/d"), stream::once("x")).await.expect("put");
    store.delete(&key("a/b/c")).await.expect("delete");
    assert!(!server.root().join("a/b").exists() && server.root().join("a/d").exists());
    store.put_new(&key("a/b/c"), stream::once("y")).await.expect("the folder is made again");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_swap_one_lease_never_both_win() {
    let Some(server) = SftpServer::start("two_processes_that_swap_one_lease", Setup::Plain) else { return };
    // Separate sessions: what two processes have.
    let stores: Vec<_> = (0..4).map(|_| server.store()).collect();
    let lease = key("lease/prune");
    for round in 0..8 {
        let present = stores[0].stat(&lease).await.expect("stat").map(|i| i.version);
        let swaps = stores.iter().map(|s| s.compare_and_swap(&lease, present.as_ref(), "same".into()));
        let results = futures::future::join_all(swaps).await;
        let won = results.iter().filter(|r| r.is_ok()).count();
        assert_eq!(won, 1, "round {round}: {results:?}");
    }
    let listed: Vec<_> = stores[0].list("").await.expect("list").try_collect().await.expect("items");
    assert_eq!(listed.len(), 1);
}
