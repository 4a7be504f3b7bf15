//! Lines that are cut, reset, slow or silent: F11, F12 and F13, for both kinds of store.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chom_recovery::{
    ErrorKind,
    store::{self, BackupStore},
    stream,
    system::{S3Settings, SftpSettings, StoreSettings},
};
use chom_recovery_tests::{
    proxy::{FaultProxy, LineFault, Way},
    s3::{BUCKET, FsServer},
    sftp::{Setup, SftpServer},
};

use crate::{body, key, keys, pattern, read, until};

/// What is behind the line. Kept, so that it lives as long as the store.
struct Far {
    proxy: FaultProxy,
    store: Arc<dyn BackupStore>,
    s3: Option<FsServer>,
    sftp: Option<SftpServer>,
}

impl Far {
    async fn s3(timeout: Duration) -> Self {
        let server = FsServer::start().await;
        let proxy = FaultProxy::start(server.address()).await;
        let s3 = S3Settings { timeout, ..server.settings_at(proxy.address()) };
        let url = format!("s3://{BUCKET}/site");
        let settings = StoreSettings { s3, ..StoreSettings::from(url.as_str()) };
        let store = store::open(&settings).expect("a store");
        // Found out before the line gets bad.
        store.put_new(&key("first"), stream::once("x")).await.expect("put");
        Self { proxy, store, s3: Some(server), sftp: None }
    }

    async fn sftp(test: &str, timeout: Duration) -> Option<Self> {
        let server = SftpServer::start(test, Setup::Plain)?;
        let proxy = FaultProxy::start(server.address()).await;
        server.configure(proxy.address().port(), "key");
        let sftp = SftpSettings { timeout, ..server.settings() };
        let settings = StoreSettings { sftp, ..StoreSettings::from(server.url().as_str()) };
        let store = store::open(&settings).expect("a store");
        Some(Self { proxy, store, s3: None, sftp: Some(server) })
    }

    /// Puts an object there without the line.
    async fn place(&self, name: &str, bytes: &Bytes) {
        if let Some(server) = &self.sftp {
            std::fs::write(server.root().join(name), bytes).expect("file");
        } else if let Some(server) = &self.s3 {
            let url = format!("s3://{BUCKET}/site");
            let settings = StoreSettings { s3: server.settings(), ..StoreSettings::from(url.as_str()) };
            store::open(&settings).expect("a store").put_new(&key(name), body(bytes)).await.expect("put");
        }
    }
}

async fn both(test: &str, timeout: Duration) -> Vec<Far> {
    let mut all = vec![Far::s3(timeout).await];
    all.extend(Far::sftp(test, timeout).await);
    all
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn f11_a_store_that_cannot_be_reached_is_told_in_bounded_time() {
    let nobody = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port").local_addr().expect("address");
    let server = FsServer::start().await;
    let settings =
        StoreSettings { s3: server.settings_at(nobody), ..StoreSettings::from(format!("s3://{BUCKET}/x").as_str()) };
    let store = store::open(&settings).expect("opening asks nobody");
    let error = store.stat(&key("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("cannot be reached") && error.to_string().contains("attempts"), "{error}");
    assert_eq!(store::create(&settings).await.unwrap_err().kind(), ErrorKind::Unreachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_a_download_goes_on_after_cuts_resets_and_silence() {
    let bytes = pattern(12_000_000);
    for far in both("f13_a_download_goes_on", Duration::from_secs(2)).await {
        far.place("large", &bytes).await;
        far.proxy.cut_all();
        far.proxy
            .fail(LineFault::Cut(Way::Down, 1_000_000))
            .fail(LineFault::Reset(Way::Down, 2_500_000))
            .fail(LineFault::Stall(Way::Down, 3_000_000));
        assert!(read(&*far.store, &key("large")).await.expect("the whole object") == bytes, "{:?}", far.store);
        assert_eq!(far.proxy.faults_left(), 0, "the line failed three times");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_an_upload_that_loses_its_line_is_whole_or_not_there() {
    let bytes = pattern(20_000_000);
    for far in both("f12_an_upload_that_loses_its_line", LONG).await {
        for fault in [LineFault::Cut(Way::Up, 9_000_000), LineFault::Reset(Way::Up, 3_000_000)] {
            far.proxy.cut_all();
            far.proxy.fail(fault);
            let name = key(&format!("up-{}", far.proxy.connections()));
            let mut put = far.store.put_new(&name, body(&bytes)).await;
            if put.is_err() && far.proxy.faults_left() > 0 {
                // A session that was cut and did not know it yet: the fault waits for the next one.
                put = far.store.put_new(&name, body(&bytes)).await;
            }
            match put {
                // Parts are sent again.
                Ok(info) => assert_eq!(info.length, bytes.len() as u64),
                // One stream cannot be: the caller writes the part anew.
                Err(error) => {
                    assert!(far.sftp.is_some(), "{error:?}");
                    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
                    assert_eq!(far.store.stat(&name).await.expect("stat"), None, "nothing of it is visible");
                    far.store.put_new(&name, body(&bytes)).await.expect("a second write, on a new session");
                }
            }
            assert_eq!(far.proxy.faults_left(), 0);
            assert!(read(&*far.store, &name).await.expect("read") == bytes);
        }
        if let Some(server) = &far.sftp {
            assert!(far.store.sweep_leftovers(Duration::ZERO).await.expect("sweep") >= 1);
            assert!(server.files().iter().all(|f| !f.starts_with(".tmp-")), "{:?}", server.files());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_line_ends_a_write_in_bounded_time() {
    let bytes = pattern(9_000_000);
    for far in both("a_silent_line_ends_a_write", Duration::from_secs(1)).await {
        far.proxy.cut_all();
        for _ in 0..8 {
            far.proxy.fail(LineFault::Stall(Way::Up, 500_000));
        }
        let error = far.store.put_new(&key("silent"), body(&bytes)).await.unwrap_err();
        let told = [ErrorKind::Timeout, ErrorKind::Unreachable, ErrorKind::OutcomeUnknown];
        assert!(told.contains(&error.kind()), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_line_is_no_fault() {
    for far in both("a_slow_line_is_no_fault", LONG).await {
        far.proxy.cut_all();
        far.proxy.fail(LineFault::Delay(Duration::from_millis(5)));
        let bytes = pattern(300_000);
        far.store.put_new(&key("slow"), body(&bytes)).await.expect("put");
        assert!(read(&*far.store, &key("slow")).await.expect("read") == bytes);
        assert!(keys(&*far.store).await.contains(&"slow".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_lost_while_idle_is_opened_again() {
    for far in both("a_session_that_was_lost_while_idle", LONG).await {
        far.store.put_new(&key("a"), stream::once("x")).await.expect("put");
        let before = far.proxy.connections();
        far.proxy.cut_all();
        assert_eq!(read(&*far.store, &key("a")).await.expect("read"), "x");
        assert!(far.store.now().await.is_ok());
        until("another connection", || far.proxy.connections() > before).await;
        far.proxy.cut_all();
        // A write is not repeated blindly; a session known to be lost is not used for it.
        until("the loss is noticed", || far.sftp.is_none() || far.proxy.connections() > before).await;
        let _ = far.store.stat(&key("a")).await.expect("stat");
        far.store.put_new(&key("b"), stream::once("y")).await.expect("put");
    }
}
