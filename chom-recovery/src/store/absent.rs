//! The store that cannot be opened: every question fails in the way in which opening it failed.

use std::{ops::Range, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;

use super::{BackupStore, Key, ObjectInfo, Version};
use crate::{
    error::{Error, ErrorRecord, Result},
    stream::ByteStream,
};

/// Stands in for a store that could not be opened.
#[derive(Debug, Clone)]
pub(crate) struct AbsentStore {
    url: String,
    why: ErrorRecord,
}

impl AbsentStore {
    /// Makes it; `why` is what every call answers.
    pub(crate) fn new(url: &str, why: &Error) -> Self {
        Self { url: url.to_owned(), why: why.to_record() }
    }

    fn refuse<T>(&self) -> Result<T> {
        Err(self.why.clone().into())
    }
}

#[async_trait]
impl BackupStore for AbsentStore {
    fn url(&self) -> String {
        self.url.clone()
    }

    async fn put_new(&self, _key: &Key, _body: ByteStream) -> Result<ObjectInfo> {
        self.refuse()
    }

    async fn get(&self, _key: &Key, _range: Option<Range<u64>>) -> Result<ByteStream> {
        self.refuse()
    }

    async fn stat(&self, _key: &Key) -> Result<Option<ObjectInfo>> {
        self.refuse()
    }

    async fn list(&self, _prefix: &str) -> Result<BoxStream<'static, Result<ObjectInfo>>> {
        self.refuse()
    }

    async fn delete(&self, _key: &Key) -> Result<()> {
        self.refuse()
    }

    async fn compare_and_swap(&self, _key: &Key, _expected: Option<&Version>, _body: Bytes) -> Result<Version> {
        self.refuse()
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        self.refuse()
    }

    async fn free_bytes(&self) -> Result<Option<u64>> {
        self.refuse()
    }

    async fn sweep_leftovers(&self, _older_than: Duration) -> Result<u64> {
        self.refuse()
    }
}
