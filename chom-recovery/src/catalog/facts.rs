//! What the maker of a backup knows of it: what everybody may read who can read the store, and what is sealed.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    catalog::{id::Name, json},
    mysql,
};

/// What the maker of a backup knows of it. In an encrypted backup, [`PublicFacts`] can be read by whoever can read the
/// store, [`PrivateFacts`] by the recipients alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// When the data was read.
    pub capture: Capture,
    /// Run that made the backup.
    pub run: Option<String>,
    /// The Compose project.
    pub compose: Option<ComposeFacts>,
    /// The database server.
    pub database: Option<DatabaseFacts>,
    /// Tags to select by.
    pub tags: BTreeSet<Name>,
    /// Anything else that is no secret, by name.
    pub notes: BTreeMap<String, String>,
    /// What a person should know before restoring it; sealed.
    pub warnings: Vec<String>,
    /// What a restored system is compared with; sealed.
    pub baselines: Baselines,
    /// Anything else, by name; sealed.
    pub private_notes: BTreeMap<String, String>,
}

impl Facts {
    /// Makes facts of which only the capture is known.
    pub fn new(capture: Capture) -> Self {
        Self {
            capture,
            run: None,
            compose: None,
            database: None,
            tags: BTreeSet::new(),
            notes: BTreeMap::new(),
            warnings: Vec::new(),
            baselines: Baselines::default(),
            private_notes: BTreeMap::new(),
        }
    }

    pub(super) fn split(self) -> (PublicFacts, PrivateFacts) {
        let Self { capture, run, compose, database, tags, notes, warnings, baselines, private_notes } = self;
        (
            PublicFacts { capture, run, compose, database, tags, notes },
            PrivateFacts { warnings, baselines, notes: private_notes },
        )
    }

    pub(super) fn join(public: PublicFacts, private: PrivateFacts) -> Self {
        let PublicFacts { capture, run, compose, database, tags, notes } = public;
        let PrivateFacts { warnings, baselines, notes: private_notes } = private;
        Self { capture, run, compose, database, tags, notes, warnings, baselines, private_notes }
    }
}

/// The part of [`Facts`] that is never sealed: what choosing, verifying and expiring a backup need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicFacts {
    /// When the data was read.
    pub capture: Capture,
    /// Run that made the backup.
    pub run: Option<String>,
    /// The Compose project.
    pub compose: Option<ComposeFacts>,
    /// The database server.
    pub database: Option<DatabaseFacts>,
    /// Tags to select by.
    #[serde(deserialize_with = "json::set")]
    pub tags: BTreeSet<Name>,
    /// Anything else, by name; a reader ignores names that it does not know.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "json::map")]
    pub notes: BTreeMap<String, String>,
}

/// The part of [`Facts`] that is sealed in an encrypted backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivateFacts {
    /// What a person should know before restoring it.
    pub warnings: Vec<String>,
    /// What a restored system is compared with.
    pub baselines: Baselines,
    /// Anything else, by name; a reader ignores names that it does not know.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "json::map")]
    pub notes: BTreeMap<String, String>,
}

/// When the data was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// Begin of reading.
    pub begin: DateTime<Utc>,
    /// The moment whose data the backup holds: that of the snapshot. Later changes are not in it.
    pub point: DateTime<Utc>,
    /// End of reading.
    pub end: DateTime<Utc>,
}

/// The Compose project at the time of the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComposeFacts {
    /// Project name.
    pub project: String,
    /// Hash of the project's configuration, where it could be read.
    pub config_hash: Option<String>,
    /// Service to the digest or id of its image.
    #[serde(deserialize_with = "json::map")]
    pub images: BTreeMap<String, String>,
}

/// Names the note of [`Facts::notes`] that holds the name by which a registry gives out the image of a service, as
/// `repository@sha256:…`.
pub(crate) fn image_note(service: &str) -> String {
    format!("image-digest-{service}")
}

/// Note of [`Facts::notes`] that marks what was read from a damaged server; its value is the level of forced recovery. Such a
/// backup is chosen by its id alone.
pub const SALVAGE_NOTE: &str = "salvaged-at-level";

/// The database server at the time of the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseFacts {
    /// Which server.
    pub flavour: Flavour,
    /// Version as the server says it, for example `10.11.6-MariaDB-0+deb12u1`.
    pub version: String,
    /// `server_uuid` of MySQL; MariaDB has none.
    pub server_uuid: Option<String>,
    /// Binlog position of the snapshot.
    pub position: Option<BinlogPosition>,
    /// GTID set executed at the snapshot, in the server's own notation.
    pub gtid_set: Option<String>,
    /// Server variables that a restore has to match, for example `lower_case_table_names`.
    #[serde(deserialize_with = "json::map")]
    pub variables: BTreeMap<String, String>,
}

/// Which database server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavour {
    /// MySQL.
    Mysql,
    /// MariaDB.
    Mariadb,
}

impl From<mysql::Flavour> for Flavour {
    fn from(flavour: mysql::Flavour) -> Self {
        match flavour {
            mysql::Flavour::Mysql => Self::Mysql,
            mysql::Flavour::Mariadb => Self::Mariadb,
        }
    }
}

impl From<Flavour> for mysql::Flavour {
    fn from(flavour: Flavour) -> Self {
        match flavour {
            Flavour::Mysql => Self::Mysql,
            Flavour::Mariadb => Self::Mariadb,
        }
    }
}

impl std::fmt::Display for Flavour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Mysql => "MySQL",
            Self::Mariadb => "MariaDB",
        })
    }
}

/// A place in the binary log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BinlogPosition {
    /// File.
    pub file: String,
    /// Offset of the next event.
    pub offset: u64,
}

/// What a restored database is compared with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baselines {
    /// Every table, ordered by schema and name.
    pub tables: Vec<TableBaseline>,
    /// Kind of object (`views`, `triggers`, `routines`, `events`...) to their number.
    #[serde(deserialize_with = "json::map")]
    pub objects: BTreeMap<String, u64>,
    /// Accounts.
    pub accounts: Option<u64>,
    /// Anything else that was counted, by name: `files`, `file_bytes`, `redis_keys`...
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "json::map")]
    pub counts: BTreeMap<String, u64>,
}

/// What a restored table is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableBaseline {
    /// Schema.
    pub schema: String,
    /// Table.
    pub table: String,
    /// Rows in the backup.
    pub rows: u64,
    /// Hash over the rows that does not depend on their order; how it is made is the dump's affair.
    pub checksum: Option<String>,
}
