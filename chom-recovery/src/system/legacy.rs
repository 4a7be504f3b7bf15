//! Backups of other programs.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind, Result},
    secret::SecretSource,
};

/// Backups that the runbook's scripts made, and how they are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Legacy {
    /// Directory with the folders `mysql`, `app`, `config`, `ssl`, `volumes`.
    pub directory: PathBuf,
    /// Zone of the clock that named the files and dated the dumps, by its IANA name: `Europe/Paris`.
    #[serde(default = "utc")]
    pub timezone: String,
    /// Schema that a dump belongs into which names none; `None` takes the one in its header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// Longest row or statement of a dump, in bytes; at most 1 GiB, the longest packet of a server. That much memory
    /// may be used.
    #[serde(default = "longest_statement")]
    pub longest_statement: u64,
    /// Accounts to make where neither the dump, nor production, nor a backup of the repository tells them. The account
    /// of `database.user` is always made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<LegacyAccount>,
}

/// An account that dumps of one schema do not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LegacyAccount {
    /// User name.
    pub user: String,
    /// Host that it may come from.
    #[serde(default = "any_host")]
    pub host: String,
    /// Password.
    pub password: SecretSource,
    /// Schemas on which it gets all privileges.
    pub schemas: Vec<String>,
}

fn utc() -> String {
    "UTC".into()
}

fn any_host() -> String {
    "%".into()
}

fn longest_statement() -> u64 {
    256 << 20
}

impl Legacy {
    /// Refuses what cannot be used.
    pub(super) fn check(&self) -> Result<()> {
        let bad = |what: String| Err(Error::new(ErrorKind::InvalidInput, format!("configuration: {what}")));
        self.zone()?;
        if !self.directory.is_absolute() {
            return bad(format!("`legacy.directory` = `{}` is not an absolute path", self.directory.display()));
        }
        if !(1 << 20..=1 << 30).contains(&self.longest_statement) {
            return bad("`legacy.longest_statement` is not between 1 MiB and 1 GiB (in bytes)".into());
        }
        Ok(())
    }

    /// Returns the zone.
    pub(crate) fn zone(&self) -> Result<chrono_tz::Tz> {
        self.timezone.parse().map_err(|_| {
            Error::new(
                ErrorKind::InvalidInput,
                format!("configuration: `legacy.timezone` = `{}` is no time zone", self.timezone.escape_debug()),
            )
            .hint("use a name of the IANA database, such as Europe/Paris or UTC")
        })
    }
}
