//! What a candidate is built from: a backup of the repository, or a legacy one.

use std::{path::PathBuf, sync::Arc};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    catalog::{self, BackupId, BackupInfo, BackupReader, Catalog, legacy::LegacyBackup},
    error::Result,
    mysql::{
        self,
        sqlfile::{Limits, SqlFile},
    },
};

/// An opened backup.
#[derive(Debug)]
pub enum Source {
    /// Of the repository: signed, with a manifest.
    Repository(BackupReader),
    /// Of another program: its own text is all that it promises.
    Legacy(LegacyDump),
}

/// A dump of another program that was read to its end and found sound.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LegacyDump {
    /// The backup.
    pub backup: LegacyBackup,
    /// Its file.
    pub path: PathBuf,
    /// What was found in it.
    pub file: SqlFile,
}

impl LegacyDump {
    /// Names the schema for what names none: the configured one, or that of the header.
    pub(super) fn default_schema(&self, configured: Option<&str>) -> Option<String> {
        configured.map(str::to_owned).or_else(|| self.file.contents.header.database.clone())
    }
}

impl Source {
    /// Tells the family of server that it was made from; `None`: a dump that does not say.
    pub(super) fn flavour(&self) -> Option<mysql::Flavour> {
        match self {
            Self::Repository(backup) => backup.manifest().facts.database.as_ref().map(|d| d.flavour.into()),
            Self::Legacy(dump) => dump.file.contents.header.flavour(),
        }
    }
}

/// Opens a checked backup, again in each step that needs it.
#[derive(Debug, Clone)]
pub(in crate::procedure) enum Opener {
    Repository(Arc<Catalog>, catalog::Place),
    Legacy(Arc<LegacyDump>),
}

impl Opener {
    pub(in crate::procedure) async fn open(&self) -> Result<Source> {
        Ok(match self {
            Self::Repository(catalog, place) => Source::Repository(catalog.open(place).await?),
            Self::Legacy(dump) => Source::Legacy(LegacyDump::clone(dump)),
        })
    }
}

/// Where restored data comes from, as a report tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Origin {
    /// A backup of the repository.
    Repository(Box<BackupInfo>),
    /// A legacy backup.
    Legacy(LegacyBackup),
}

impl Origin {
    /// Returns the id of a backup of the repository.
    pub fn id(&self) -> Option<BackupId> {
        match self {
            Self::Repository(info) => Some(info.id()),
            Self::Legacy(_) => None,
        }
    }

    /// Returns the name that a command takes: the id, or `legacy:` and a path.
    pub fn name(&self) -> String {
        match self {
            Self::Repository(info) => info.id().to_string(),
            Self::Legacy(backup) => backup.name(),
        }
    }

    /// Returns the moment whose data it holds; for a legacy backup, as far as it is known.
    pub fn point(&self) -> DateTime<Utc> {
        match self {
            Self::Repository(info) => info.point,
            Self::Legacy(backup) => backup.point,
        }
    }

    /// Returns its bytes once decompressed.
    pub fn plain_len(&self) -> u64 {
        match self {
            Self::Repository(info) => info.plain_len,
            Self::Legacy(backup) => backup.plain_len.unwrap_or(backup.stored_len),
        }
    }

    /// Tells whether it keeps the database as data files.
    pub fn is_physical(&self) -> bool {
        matches!(self, Self::Repository(info) if info.database_kind == Some(catalog::ComponentKind::Physical))
    }

    /// Returns what a person should know of it.
    pub fn warnings(&self) -> &[String] {
        match self {
            Self::Repository(info) => &info.warnings,
            Self::Legacy(backup) => &backup.warnings,
        }
    }
}

/// How much of a dump is held at a time.
pub(super) fn limits(settings: &crate::system::Legacy) -> Limits {
    catalog::legacy::LegacyCatalog::new(settings).limits()
}
