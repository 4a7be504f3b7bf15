//! Where backups lie: immutable objects under keys.
//!
//! [`BackupStore`] is the port; [`local::LocalStore`], [`s3::S3Store`], [`sftp::SftpStore`] and
//! [`memory::MemoryStore`] implement it, and pass the conformance suite `testing::store`.

use std::{fmt, ops::Range, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{StreamExt, stream::BoxStream};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind, Result},
    layer::retry::RetryStore,
    stream::ByteStream,
    system::StoreSettings,
};

pub(crate) mod absent;
mod lazy;
pub mod local;
pub mod memory;
pub(crate) mod pipe;
pub mod s3;
pub mod sftp;
mod url;
#[doc = include_str!("../docs/stores.md")]
pub mod stores {}

use url::StoreUrl;

/// Tells by a prefix of keys, which ends at a `/`, that nothing below it is asked for.
pub type Skip = fn(&str) -> bool;

/// Immutable objects.
#[async_trait]
pub trait BackupStore: fmt::Debug + Send + Sync + 'static {
    /// Names the store without any secret, as a URL.
    fn url(&self) -> String;

    /// Writes a new object; it is visible when complete and durable, or not at all.
    ///
    /// # Errors
    /// `AlreadyExists`: the key is taken; what is there stays. `NoSpace`: the store is full; nothing is left behind.
    async fn put_new(&self, key: &Key, body: ByteStream) -> Result<ObjectInfo>;

    /// Reads an object or a range of it. The stream fails with `Corrupt` when it ends early.
    ///
    /// # Errors
    /// `NotFound`: no such object.
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<ByteStream>;

    /// Looks at an object.
    async fn stat(&self, key: &Key) -> Result<Option<ObjectInfo>>;

    /// Lists the objects whose keys start with `prefix`, which ends at a `/` or is empty, in order of keys.
    ///
    /// An entry that cannot be read is an error item, never left out.
    async fn list(&self, prefix: &str) -> Result<BoxStream<'static, Result<ObjectInfo>>>;

    /// Lists as [`BackupStore::list`] does, but nothing below the folders that `skip` names by their prefixes, which end at
    /// a `/`. Where folders are walked through, those are not entered.
    async fn list_except(&self, prefix: &str, skip: Skip) -> Result<BoxStream<'static, Result<ObjectInfo>>> {
        let below = prefix.len();
        let listed = self.list(prefix).await?.filter(move |item| {
            let is_skipped = item.as_ref().is_ok_and(|object| {
                let key = object.key.as_str();
                key.match_indices('/').any(|(at, _)| at >= below && skip(&key[..=at]))
            });
            std::future::ready(!is_skipped)
        });
        Ok(listed.boxed())
    }

    /// Deletes an object; an absent one is success.
    async fn delete(&self, key: &Key) -> Result<()>;

    /// Replaces a small object if its version is still the one given; `None` means that it must not exist.
    ///
    /// # Errors
    /// `Conflict`: another version is there.
    async fn compare_and_swap(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version>;

    /// Asks the store for its time.
    async fn now(&self) -> Result<DateTime<Utc>>;

    /// Returns the free bytes, where the store can tell.
    async fn free_bytes(&self) -> Result<Option<u64>>;

    /// Removes what writers that died left behind, when nothing was written to it for so long by the store's clock.
    /// Objects are never touched. Returns how many leftovers are gone.
    async fn sweep_leftovers(&self, older_than: Duration) -> Result<u64>;
}

/// Opens a store; nothing is made. A remote one is connected to when it is first used, and its reads are repeated
/// after a lost connection.
///
/// `file:/absolute/path` is a folder, `s3://bucket/prefix` a bucket, `sftp://[user@]host[:port]/absolute/path` a folder
/// of another host; paths are taken as they stand, without percent-decoding. See [`stores`](mod@crate::store::stores).
///
/// # Errors
/// `InvalidInput`: not a URL of that form. `Unsupported`: a scheme that this version does not have. `NotFound`: the
/// local folder does not exist: perhaps its disk is not mounted.
pub fn open(settings: &StoreSettings) -> Result<Arc<dyn BackupStore>> {
    Ok(match StoreUrl::parse(&settings.url)? {
        StoreUrl::Local(path) => Arc::new(local::LocalStore::open(&path)?),
        StoreUrl::S3 { bucket, prefix } => {
            Arc::new(RetryStore::new(Arc::new(s3::S3Store::new(&bucket, &prefix, &settings.s3)?)))
        }
        StoreUrl::Sftp { user, host, port, path } => {
            let place = sftp::Place { user, host, port, path };
            Arc::new(RetryStore::new(Arc::new(sftp::SftpStore::new(place, &settings.sftp))))
        }
    })
}

/// Names a store without asking it. It is opened by what first needs it, which then fails as [`open`] does.
pub fn open_later(settings: &StoreSettings) -> Arc<dyn BackupStore> {
    let same = settings.clone();
    Arc::new(lazy::LazyStore::new(&settings.url, move || open(&same)))
}

/// Opens a store for a new repository: makes the last folder of its path where it is missing, and checks that a
/// remote one can be reached and does what is asked of it.
///
/// # Errors
/// As [`open`]; `NotFound`: the folder above, or the bucket, does not exist. `Authentication`, `Precondition`,
/// `Unreachable`: the store cannot be used so.
pub async fn create(settings: &StoreSettings) -> Result<Arc<dyn BackupStore>> {
    Ok(match StoreUrl::parse(&settings.url)? {
        StoreUrl::Local(path) => Arc::new(pipe::blocking(move || local::LocalStore::create(&path)).await?),
        StoreUrl::S3 { bucket, prefix } => {
            let store = s3::S3Store::new(&bucket, &prefix, &settings.s3)?;
            store.capabilities().await?;
            Arc::new(RetryStore::new(Arc::new(store)))
        }
        StoreUrl::Sftp { user, host, port, path } => {
            let store = sftp::SftpStore::new(sftp::Place { user, host, port, path }, &settings.sftp);
            store.make_root().await?;
            Arc::new(RetryStore::new(Arc::new(store)))
        }
    })
}

/// Checks the prefix of a listing: empty, or segments of a key that end at a `/`.
pub(crate) fn check_prefix(prefix: &str) -> Result<()> {
    let is_good = prefix.is_empty() || prefix.strip_suffix('/').is_some_and(|p| p.parse::<Key>().is_ok());
    if is_good {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::InvalidInput, format!("`{}` is not a prefix of keys", prefix.escape_debug())))
    }
}

/// Checks a range against the length of an object.
pub(crate) fn check_range(key: &Key, length: u64, range: Option<Range<u64>>) -> Result<Range<u64>> {
    let range = range.unwrap_or(0..length);
    if range.start > range.end {
        return Err(Error::new(ErrorKind::InvalidInput, format!("a range of `{key}` ends before it begins")));
    }
    if range.end > length {
        return Err(Error::new(ErrorKind::Corrupt, format!("object `{key}` is too short"))
            .with("length", length)
            .with("wanted up to", range.end));
    }
    Ok(range)
}

/// Name of an object: segments of `[A-Za-z0-9._-]{1,64}` joined by `/`, none of them `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

impl Key {
    /// Returns the key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Key {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let ok = text.len() <= 512
            && text.split('/').all(|segment| {
                (1..=64).contains(&segment.len())
                    && segment != "."
                    && segment != ".."
                    && !segment.starts_with(".tmp-")
                    && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            });
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::new(ErrorKind::InvalidInput, format!("`{}` is not a key of a store", text.escape_debug())))
        }
    }
}

impl TryFrom<String> for Key {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0)
    }
}

/// What a store knows of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Key.
    pub key: Key,
    /// Length in bytes.
    pub length: u64,
    /// When it became visible, by the store's clock.
    pub modified: DateTime<Utc>,
    /// Version, for [`BackupStore::compare_and_swap`].
    pub version: Version,
}

/// Opaque version of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_is_not_made_by_opening() {
        let error = open(&"file:/nonexistent/chom".into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.hint_text().unwrap().contains("mounted"));
    }

    #[test]
    fn keys_hold_nothing_that_leads_elsewhere() {
        for bad in ["", "/a", "a/", "a//b", ".", "a/../b", "a/./b", "a b", "a\\b", "\u{e9}", ".tmp-x", "a/.tmp-1"] {
            assert!(bad.parse::<Key>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(65).parse::<Key>().is_err());
        for good in ["a", "a/b", "A-_.9/..x", "chom-repo.json"] {
            assert!(good.parse::<Key>().is_ok(), "{good:?}");
        }
    }
}
