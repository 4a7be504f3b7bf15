//! Where backups lie.

use serde::{Deserialize, Serialize};

use super::{S3Settings, SftpSettings, StoreSettings};
use crate::{
    error::{Error, ErrorKind, Result},
    secret::SecretSource,
};

/// Where backups lie and whose signature counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    /// `file:/absolute/path`, `s3://bucket/prefix` or `sftp://[user@]host[:port]/absolute/path`, without a password.
    pub url: String,
    /// How a bucket is reached, for `s3:`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Settings>,
    /// How a host is reached, for `sftp:`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sftp: Option<SftpSettings>,
    /// Second store, with copies of the backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<StoreSettings>,
    /// Ed25519 public keys whose manifests are trusted, in hex; `repo init` prints the line to add.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signers: Vec<String>,
    /// age recipients, `age1…`, that backups are encrypted for: all of them and nobody else. Empty: the repository is
    /// not encrypted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    /// Identity files that encrypted backups are read with: one source, or a list. Taking backups needs none.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_many")]
    pub identity: Vec<SecretSource>,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<SecretSource>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected `{ file = … }`, `{ env = … }`, `{ command = [ … ] }` or a list of these")]
    enum Sources {
        Many(Vec<SecretSource>),
        One(SecretSource),
    }
    Ok(match Sources::deserialize(deserializer)? {
        Sources::Many(sources) => sources,
        Sources::One(source) => vec![source],
    })
}

impl Repository {
    /// Returns what the store is opened with.
    pub fn store(&self) -> StoreSettings {
        StoreSettings {
            url: self.url.clone(),
            s3: self.s3.clone().unwrap_or_default(),
            sftp: self.sftp.clone().unwrap_or_default(),
        }
    }

    /// Returns the settings with the stores' parts changed: the copy is read and written, and the other one is its copy.
    ///
    /// # Errors
    /// `NotFound`: no copy is configured.
    pub fn on_copy(&self) -> Result<Self> {
        let Some(copy) = self.copy.clone() else {
            return Err(Error::new(ErrorKind::NotFound, "no copy of the repository is configured")
                .hint("add `[repository.copy]` with the `url` of a second store"));
        };
        let (s3, sftp) = (Some(copy.s3), Some(copy.sftp));
        Ok(Self { url: copy.url, s3, sftp, copy: Some(self.store()), ..self.clone() })
    }
}
