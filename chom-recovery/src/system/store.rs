//! Where a store is and how it is reached.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::secret::SecretSource;

/// All that is needed to open a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSettings {
    /// `file:/absolute/path`, `s3://bucket/prefix` or `sftp://[user@]host[:port]/absolute/path`, without a password.
    pub url: String,
    /// How a bucket is reached, for `s3:`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub s3: S3Settings,
    /// How a host is reached, for `sftp:`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sftp: SftpSettings,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl From<&str> for StoreSettings {
    /// The store at a URL, reached in the default way.
    fn from(url: &str) -> Self {
        Self { url: url.to_owned(), s3: S3Settings::default(), sftp: SftpSettings::default() }
    }
}

/// How a bucket is reached. What is absent comes from the environment variables that Amazon's own tools read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Settings {
    /// Server, `https://host[:port]`; else `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, else Amazon's of the region.
    /// `http:` is accepted for this host only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Region; else `AWS_REGION`, `AWS_DEFAULT_REGION`, else `us-east-1`, which most other servers accept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Whether the bucket is named in the path, as most servers other than Amazon's want it, or in the host name.
    /// When absent: in the path where `endpoint` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Name of the key; else `AWS_ACCESS_KEY_ID`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<SecretSource>,
    /// The key; else `AWS_SECRET_ACCESS_KEY`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<SecretSource>,
    /// Token of temporary credentials; else `AWS_SESSION_TOKEN`, unless the key itself is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_token: Option<SecretSource>,
    /// Additional trusted CA certificates, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// How long the server may be silent, and how long one that asks for patience is obeyed.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            path_style: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            ca_file: None,
            timeout: Duration::from_mins(2),
        }
    }
}

/// How a host is reached over ssh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftpSettings {
    /// Configuration file for `ssh`, in place of the operator's own and the host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh_config: Option<PathBuf>,
    /// How long a request may go unanswered.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for SftpSettings {
    fn default() -> Self {
        Self { ssh_config: None, timeout: Duration::from_mins(1) }
    }
}
