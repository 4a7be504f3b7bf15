//! Where backups lie: immutable objects under keys.
//!
//! [`BackupStore`] is the port; [`local::LocalStore`] and [`memory::MemoryStore`] implement it, and pass the
//! conformance suite `testing::store`.

use std::{fmt, ops::Range, str::FromStr};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind, Result},
    stream::ByteStream,
};

pub mod local;
pub mod memory;

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
