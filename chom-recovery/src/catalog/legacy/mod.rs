//! Backups that other programs made: the folders of `.sql.gz` and `.tar.gz` files that the runbook's scripts fill.
//!
//! | folder | files |
//! |---|---|
//! | `mysql/` | dumps: `.sql`, `.sql.gz`, `.sql.zst` |
//! | `mysql/incremental/` | dumps between them, `backup-YYYYMMDD-HHMMSS.sql.gz` |
//! | `app/`, `config/`, `ssl/`, `volumes/` | archives: `.tar`, `.tar.gz`, `.tgz`, `.tar.zst` |
//! | in each | `latest.…`, a link to the newest |
//!
//! They carry no signature, no checksum and no promise of what they hold. So a dump counts only once it was read to its
//! end ([`verify`](LegacyCatalog::verify)): its trailer is there, no error message stands in it, and nothing but
//! statements of dumps. What it promises is then counted from its own text.
//!
//! The time of one is the earliest that its name or its content tells, in the configured zone: data is never called
//! newer than it may be. The file's own time is the last resort, and said to be.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

mod archive;
mod list;
mod name;
#[cfg(test)]
mod tests;
mod verify;

pub use archive::ArchiveContents;
pub use verify::{LegacyContents, LegacyReport};

use crate::{
    error::{Error, ErrorKind, ErrorRecord, Result},
    mysql::sqlfile,
    system::Legacy,
};

/// Prefix of such a backup's name where backups of a repository are named by their id.
pub const PREFIX: &str = "legacy:";
/// Name that chooses the newest dump.
pub const LATEST: &str = "latest";

/// What a legacy backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LegacyKind {
    /// A dump of the database.
    Database,
    /// The application's files.
    Application,
    /// Configuration.
    Configuration,
    /// Certificates and keys.
    Certificates,
    /// Volumes.
    Volumes,
}

/// What tells the time of a legacy backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToldBy {
    /// Its name.
    Name,
    /// Its content: the trailer of a dump, the newest entry of an archive.
    Content,
    /// Only the file's own time, which a copy may have changed.
    File,
}

/// A legacy backup, as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacyBackup {
    /// Path below the directory.
    pub legacy: String,
    /// What it holds.
    pub kind: LegacyKind,
    /// Whether it was taken between two others (`incremental/`); it is read like them.
    pub is_increment: bool,
    /// The moment whose data it holds, as far as it is known.
    pub point: DateTime<Utc>,
    /// What tells that moment.
    pub told_by: ToldBy,
    /// Bytes of the file.
    pub stored_len: u64,
    /// Bytes once decompressed; known after it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_len: Option<u64>,
    /// What a person should know before restoring it.
    pub warnings: Vec<String>,
}

impl LegacyBackup {
    /// Returns the name that a command takes.
    pub fn name(&self) -> String {
        format!("{PREFIX}{}", self.legacy)
    }

    /// How old its data is; not negative.
    pub fn age(&self, now: DateTime<Utc>) -> std::time::Duration {
        (now - self.point).to_std().unwrap_or_default()
    }
}

/// A link that says which backup is the newest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatestLink {
    /// Path below the directory.
    pub link: String,
    /// Where it leads, as it is written.
    pub target: String,
    /// Why it must not be relied on.
    pub problem: Option<String>,
}

/// All legacy backups of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacyListing {
    /// Directory.
    pub directory: PathBuf,
    /// Backups, by the time of their data.
    pub backups: Vec<LegacyBackup>,
    /// `latest.…` links.
    pub links: Vec<LatestLink>,
    /// What could not be listed.
    pub problems: Vec<ErrorRecord>,
}

impl LegacyListing {
    /// Returns the newest of a kind.
    pub fn newest(&self, kind: LegacyKind) -> Option<&LegacyBackup> {
        self.backups.iter().rfind(|b| b.kind == kind)
    }

    /// Chooses one by its path, by its file name where that is unique, or the newest dump by [`LATEST`].
    ///
    /// # Errors
    /// `NotFound`: there is none. `InvalidInput`: several have this file name. `Incomplete`: a folder could not be
    /// listed, so that "newest" cannot be told.
    pub fn select(&self, name: &str) -> Result<&LegacyBackup> {
        let name = name.strip_prefix(PREFIX).unwrap_or(name);
        let nothing = || {
            Error::new(ErrorKind::NotFound, format!("there is no legacy backup `{}`", name.escape_debug()))
                .with("directory", self.directory.display())
                .hint("`chom-recovery backup list` shows what there is")
        };
        if name == LATEST {
            if let Some(problem) = self.problems.first() {
                return Err(Error::new(ErrorKind::Incomplete, "the legacy backups could not be listed completely")
                    .with("first", &problem.message)
                    .hint("mend that, or name one"));
            }
            return self.newest(LegacyKind::Database).ok_or_else(nothing);
        }
        if let Some(found) = self.backups.iter().find(|b| b.legacy == name) {
            return Ok(found);
        }
        let file_name = |b: &&LegacyBackup| b.legacy.rsplit('/').next() == Some(name);
        let found: Vec<_> = self.backups.iter().filter(file_name).collect();
        match found[..] {
            [one] => Ok(one),
            [] => Err(nothing()),
            _ => Err(Error::new(ErrorKind::InvalidInput, format!("several legacy backups are called `{name}`"))
                .with("paths", found.iter().map(|b| b.legacy.as_str()).collect::<Vec<_>>().join(", "))),
        }
    }

    /// Returns the newest dump before another one.
    pub fn before(&self, backup: &LegacyBackup) -> Option<&LegacyBackup> {
        self.backups.iter().rfind(|b| b.kind == LegacyKind::Database && b.point < backup.point)
    }
}

/// The legacy backups of a system.
#[derive(Debug, Clone)]
pub struct LegacyCatalog {
    settings: Legacy,
}

impl LegacyCatalog {
    /// Looks where the configuration says.
    pub fn new(settings: &Legacy) -> Self {
        Self { settings: settings.clone() }
    }

    /// Returns the configuration.
    pub fn settings(&self) -> &Legacy {
        &self.settings
    }

    /// Returns the file of a backup.
    pub fn path(&self, backup: &LegacyBackup) -> PathBuf {
        self.settings.directory.join(&backup.legacy)
    }

    /// Returns how much of a dump is held in memory at a time.
    pub fn limits(&self) -> sqlfile::Limits {
        let longest = usize::try_from(self.settings.longest_statement).unwrap_or(usize::MAX);
        sqlfile::Limits { longest: longest.min(sqlfile::Limits::PACKET), ..sqlfile::Limits::default() }
    }

    fn directory(&self) -> &Path {
        &self.settings.directory
    }
}
