//! What an S3 server may answer besides yes: it is busy, it refuses, its answer gets lost.

use std::time::{Duration, Instant};

use chom_recovery::{
    ErrorKind,
    store::{BackupStore, s3::S3Store},
    stream,
    system::S3Settings,
};
use chom_recovery_tests::s3::{BUCKET, FsServer, Script};

use crate::{assert_says, body, key, pattern, read};

async fn started() -> (FsServer, S3Store) {
    let server = FsServer::start().await;
    let store = S3Store::new(BUCKET, "site/", &server.settings()).expect("a store");
    store.capabilities().await.expect("capabilities");
    (server, store)
}

fn busy(status: u16, seconds: Option<&str>) -> Script {
    Script::Refuse(status, seconds.map(Into::into), "SlowDown")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_is_given_the_time_that_it_asks_for() {
    let (server, store) = started().await;
    server.on("PUT /", busy(503, Some("1"))).on("PUT /", busy(429, None)).on("HEAD /", busy(503, None));
    let begun = Instant::now();
    store.put_new(&key("a"), stream::once("x")).await.expect("put");
    assert!(begun.elapsed() >= Duration::from_secs(1), "`Retry-After` is obeyed");
    server.on("GET /", busy(503, Some("0")));
    assert_eq!(read(&store, &key("a")).await.expect("read"), "x");
    assert_eq!(server.script_left(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stays_busy_is_given_up_after_the_deadline() {
    let server = FsServer::start().await;
    server.always(busy(503, None));
    let settings = S3Settings { timeout: Duration::from_secs(1), ..server.settings() };
    let store = S3Store::new(BUCKET, "site/", &settings).expect("a store");
    let error = store.get(&key("a"), None).await.err().expect("busy");
    assert_says(&error, ErrorKind::Unreachable, "SlowDown", "patience");
    // One that asks for an hour is told at once.
    let server = FsServer::start().await;
    server.always(busy(503, Some("3600")));
    let store = S3Store::new(BUCKET, "site/", &server.settings()).expect("a store");
    assert_eq!(store.stat(&key("a")).await.unwrap_err().kind(), ErrorKind::Unreachable);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_to_do() {
    let (server, store) = started().await;
    server.on("GET /", Script::Refuse(403, None, "RequestTimeTooSkewed"));
    let error = store.get(&key("a"), None).await.err().expect("refused");
    assert_says(&error, ErrorKind::Precondition, "RequestTimeTooSkewed", "clocks");
    server.on("PUT /", Script::Refuse(403, None, "AccessDenied"));
    let error = store.put_new(&key("a"), stream::once("x")).await.unwrap_err();
    assert_says(&error, ErrorKind::Precondition, "AccessDenied", "permission");
    assert_eq!(server.script_left(), 0);
    let settings = S3Settings { secret_access_key: server.settings().access_key_id, ..server.settings() };
    let store = S3Store::new(BUCKET, "site/", &settings).expect("a store");
    let error = store.stat(&key("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "an answer to HEAD has no body: {error}");
    let error = store.put_new(&key("a"), stream::once("x")).await.unwrap_err();
    assert_says(&error, ErrorKind::Authentication, "SignatureDoesNotMatch", "secret access key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_not_delete_is_told_so() {
    let (server, store) = started().await;
    store.put_new(&key("a"), stream::once("x")).await.expect("put");
    server.on("DELETE /", Script::Refuse(403, None, "AccessDenied"));
    assert_says(&store.delete(&key("a")).await.unwrap_err(), ErrorKind::Denied, "AccessDenied", "s3:DeleteObject");
    assert_eq!(read(&store, &key("a")).await.expect("read"), "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_only_read_can_restore() {
    let (server, store) = started().await;
    store.put_new(&key("a"), stream::once("x")).await.expect("put");
    let reader = S3Store::new(BUCKET, "site/", &server.settings()).expect("a store");
    server.on("PUT /", Script::Refuse(403, None, "AccessDenied"));
    assert!(reader.now().await.is_ok(), "the server's own clock tells");
    assert_eq!(server.script_left(), 0);
    assert_eq!(read(&reader, &key("a")).await.expect("read"), "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_was_lost_is_found_out_about_and_not_repeated() {
    let (server, store) = started().await;
    server.on("PUT /", Script::LoseAnswer);
    store.put_new(&key("small"), stream::once("x")).await.expect("it was written");
    assert_eq!(read(&store, &key("small")).await.expect("read"), "x");
    let large = pattern(9 << 20);
    server.on("partNumber=2", Script::LoseAnswer).on("POST /chom-backups/site/large?uploadId", Script::LoseAnswer);
    store.put_new(&key("large"), body(&large)).await.expect("it was completed");
    assert!(read(&store, &key("large")).await.expect("read") == large);
    let version = store.compare_and_swap(&key("lease"), None, "1".into()).await.expect("make");
    server.on("PUT /chom-backups/site/lease", Script::LoseAnswer);
    let next = store.compare_and_swap(&key("lease"), Some(&version), "2".into()).await.expect("it was swapped");
    assert_eq!(store.stat(&key("lease")).await.expect("stat").expect("there").version, next);
    assert_eq!(server.script_left(), 0, "every answer was lost");
    let written = server.requests().iter().filter(|r| r.starts_with("PUT") && r.ends_with("/site/small")).count();
    assert_eq!(written, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_error_during_a_write_is_followed_by_another_attempt() {
    let (server, store) = started().await;
    server
        .on("PUT /", Script::Refuse(500, None, "InternalError"))
        .on("PUT /", Script::Refuse(500, None, "InternalError"));
    store.put_new(&key("a"), stream::once("x")).await.expect("the third attempt");
    server.on("partNumber=1", Script::Refuse(500, None, "InternalError"));
    store.put_new(&key("large"), body(&pattern(9 << 20))).await.expect("the part came again");
    assert_eq!(server.script_left(), 0);
    assert_eq!(
        store.put_new(&key("a"), stream::once("y")).await.unwrap_err().kind(),
        ErrorKind::AlreadyExists,
        "another's object is never taken for ours"
    );
}
