//! The manifest: what a backup holds, and what a restore of it must look like.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    catalog::{
        READER,
        codec::Compression,
        id::{BackupId, Hash, HostId, Name, RepositoryId},
        layout::Place,
    },
    error::{Error, ErrorKind, Result},
    system::SystemId,
};

/// Longest manifest, in bytes.
pub const MANIFEST_LIMIT: usize = 16 << 20;
/// Deepest nesting of a manifest's JSON.
const DEPTH_LIMIT: usize = 16;

/// What a backup holds. The bytes of this, signed, are the commit of the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format.
    pub format: u32,
    /// Oldest reader that understands the backup.
    pub min_reader: u32,
    /// Id of the backup; equals the one in its key.
    pub id: BackupId,
    /// Repository that it was made for.
    pub repository: RepositoryId,
    /// Host that made it; equals the one in its key.
    pub host: HostId,
    /// System that it holds; equals the one in its key.
    pub system: SystemId,
    /// When the manifest was written, by the host's clock.
    pub created: DateTime<Utc>,
    /// Name and version of the writer.
    pub tool: String,
    /// What the maker of the backup knows.
    pub facts: Facts,
    /// Components, in the order in which they are restored.
    pub components: Vec<ComponentRecord>,
}

/// What the maker of a backup knows of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// What a person should know before restoring it.
    pub warnings: Vec<String>,
    /// What a restored database is compared with.
    pub baselines: Baselines,
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
            warnings: Vec::new(),
            baselines: Baselines::default(),
        }
    }
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
    pub images: BTreeMap<String, String>,
}

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
    pub objects: BTreeMap<String, u64>,
    /// Accounts.
    pub accounts: Option<u64>,
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

/// A component, as the manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComponentRecord {
    /// Name, part of its keys.
    pub name: Name,
    /// What its bytes are.
    pub kind: ComponentKind,
    /// Position among the components; they are restored in this order.
    pub order: u32,
    /// Compression of each part.
    pub compression: Compression,
    /// Parts.
    pub parts: u64,
    /// Bytes of all parts as stored.
    pub stored_len: u64,
    /// Bytes of all parts once decompressed.
    pub plain_len: u64,
    /// BLAKE3 over the parts' own BLAKE3 hashes (32 bytes each), in order of index: the same content has the same
    /// value however it was compressed.
    pub blake3: Hash,
    /// SHA-256 of the index object.
    pub index_sha256: Hash,
    /// Length of the index object.
    pub index_len: u64,
}

/// What the bytes of a component are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComponentKind {
    /// A logical dump: a part is one table chunk or one script.
    Logical,
    /// Data files of a server.
    Physical,
    /// Files of the application.
    Files,
    /// Redis.
    Redis,
    /// Configuration.
    Config,
    /// Certificates and their keys.
    Certificates,
}

impl Manifest {
    /// Finds a component.
    ///
    /// # Errors
    /// `NotFound`, with the names that exist.
    pub fn component(&self, name: &str) -> Result<&ComponentRecord> {
        self.components.iter().find(|c| c.name.as_str() == name).ok_or_else(|| {
            let names: Vec<_> = self.components.iter().map(|c| c.name.as_str()).collect();
            Error::new(ErrorKind::NotFound, format!("backup {} has no component `{name}`", self.id))
                .with("components", names.join(", "))
        })
    }

    /// Bytes of all parts as stored.
    pub fn stored_len(&self) -> u64 {
        self.components.iter().map(|c| c.stored_len).fold(0, u64::saturating_add)
    }

    /// Bytes of all parts once decompressed.
    pub fn plain_len(&self) -> u64 {
        self.components.iter().map(|c| c.plain_len).fold(0, u64::saturating_add)
    }

    pub(super) fn encode(&self) -> Result<Bytes> {
        let mut text = serde_json::to_vec(self)
            .map_err(|e| Error::new(ErrorKind::Failed, "cannot encode the manifest").caused_by(e))?;
        text.push(b'\n');
        if text.len() > MANIFEST_LIMIT {
            return Err(Error::new(ErrorKind::Unsupported, "the manifest would be longer than format 1 allows")
                .with("bytes", text.len())
                .with("limit", MANIFEST_LIMIT)
                .hint("back up fewer tables at once"));
        }
        Ok(text.into())
    }

    /// Reads a payload whose signature was verified.
    pub(super) fn decode(payload: &[u8], place: &Place) -> Result<Self> {
        let manifest: Self = decode("manifest", payload)?;
        let own = Place { host: manifest.host.clone(), system: manifest.system.clone(), id: manifest.id };
        if own != *place {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "the manifest belongs to another backup: it was moved or replayed",
            )
            .with("lies at", place.prefix())
            .with("belongs to", own.prefix()));
        }
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        for (position, component) in self.components.iter().enumerate() {
            if !names.insert(&component.name) || component.order as usize != position {
                return Err(Error::new(ErrorKind::Corrupt, format!("component `{}` is out of order", component.name)));
            }
        }
        Ok(())
    }
}

/// Reads JSON with limits, and tells a newer format from damage.
pub(super) fn decode<T: DeserializeOwned>(what: &str, payload: &[u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct Versions {
        min_reader: u32,
    }
    let bad = |e: serde_json::Error| Error::new(ErrorKind::Corrupt, format!("the {what} cannot be read")).caused_by(e);
    if payload.len() > MANIFEST_LIMIT || depth(payload) > DEPTH_LIMIT {
        return Err(Error::new(ErrorKind::Corrupt, format!("the {what} is larger or deeper than its format allows")));
    }
    let versions: Versions = serde_json::from_slice(payload).map_err(bad)?;
    if versions.min_reader > READER {
        return Err(Error::new(ErrorKind::Unsupported, format!("the {what} has a newer format"))
            .with("needs reader", versions.min_reader)
            .with("this is reader", READER)
            .hint("use a newer version of chom-recovery"));
    }
    serde_json::from_slice(payload).map_err(bad)
}

/// Deepest nesting of a JSON text.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
