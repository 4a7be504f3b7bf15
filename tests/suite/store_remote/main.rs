//! The remote stores, on real servers: OpenSSH in several set-ups, and S3 servers of two makes.
//!
//! What needs root or a server that is not installed says that it is skipped.

mod line;
mod recall;
mod s3;
mod s3_answers;
mod sftp;

use bytes::Bytes;
use chom_recovery::{
    Error, ErrorKind, Result,
    store::{BackupStore, Key},
    stream::{self, ByteStream},
};
use futures::TryStreamExt;

/// Makes a key.
fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

/// Bytes that differ everywhere.
fn pattern(length: usize) -> Bytes {
    (0..=length / 4)
        .flat_map(|i| u32::try_from(i).expect("small").to_le_bytes())
        .take(length)
        .collect::<Vec<_>>()
        .into()
}

/// A body in pieces, as a dump produces it.
fn body(bytes: &Bytes) -> ByteStream {
    let pieces: Vec<Result<Bytes>> = bytes.chunks(100_003).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    Box::pin(futures::stream::iter(pieces))
}

async fn read(store: &dyn BackupStore, key: &Key) -> Result<Bytes> {
    stream::collect(store.get(key, None).await?, 64 << 20).await
}

async fn keys(store: &dyn BackupStore) -> Vec<String> {
    let items: Vec<_> = store.list("").await.expect("list").try_collect().await.expect("every item");
    items.into_iter().map(|i| i.key.as_str().to_owned()).collect()
}

/// Checks kind, a word of the text, and a word of the hint.
#[track_caller]
fn assert_says(error: &Error, kind: ErrorKind, text: &str, hint: &str) {
    assert_eq!(error.kind(), kind, "{error:?}");
    assert!(error.to_string().contains(text), "`{text}` in {error}");
    assert!(error.hint_text().unwrap_or_default().contains(hint), "`{hint}` in {:?}", error.hint_text());
}

/// Waits until something holds that a task in the background brings about.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
