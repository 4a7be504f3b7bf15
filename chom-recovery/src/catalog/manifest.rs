//! The manifest: what a backup holds, and what a restore of it must look like.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    catalog::{
        codec,
        compress::Compression,
        crypt::{Opener, Recipient, Recipients},
        facts::{Capture, PrivateFacts, PublicFacts},
        id::{BackupId, Hash, HostId, Name, RepositoryId},
        json,
        layout::Place,
        repo::Cipher,
    },
    error::{Error, ErrorKind, Result},
    system::SystemId,
};

/// Longest manifest, in bytes.
pub const MANIFEST_LIMIT: usize = 16 << 20;
/// Longest private facts once they are open, in bytes.
const PRIVATE_LIMIT: usize = 64 << 20;

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
    /// Who can read what is encrypted of it; empty where nothing is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<Recipient>,
    /// What the maker of the backup knows and everybody may read.
    pub facts: PublicFacts,
    /// What the maker of the backup knows besides, where it is not sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<PrivateFacts>,
    /// The same, sealed for the recipients: base64 of an age file of a Zstandard frame of JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<String>,
    /// Components, in the order in which they are restored.
    pub components: Vec<ComponentRecord>,
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
    /// Encryption of each part, after compression; also of what the index says of their content.
    pub encryption: Cipher,
    /// Parts.
    pub parts: u64,
    /// Bytes of all parts as stored, wherever they lie.
    pub stored_len: u64,
    /// Those of them that lie in this backup.
    pub own_len: u64,
    /// Bytes of all parts once decrypted and decompressed.
    pub plain_len: u64,
    /// Earlier backups of the same host and system in which some of the parts lie.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty", deserialize_with = "json::set")]
    pub sources: BTreeSet<BackupId>,
    /// SHA-256 of the index object.
    pub index_sha256: Hash,
    /// Length of the index object.
    pub index_len: u64,
    /// What its maker counted of it.
    pub facts: ComponentFacts,
}

/// What the maker of a component counted. Everybody may read it who can read the store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComponentFacts {
    /// When it was read, where that is not the whole backup's capture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<Capture>,
    /// What is in it: rows, files or keys, where they were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// What could not be read and is missing: more than none, and the component is incomplete.
    #[serde(default)]
    pub unread: u64,
    /// What changed while it was read.
    #[serde(default)]
    pub changed: u64,
    /// Anything else, by name; a reader ignores names that it does not know.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "json::map")]
    pub notes: BTreeMap<String, String>,
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
    /// A named volume.
    Volume,
    /// A file of SQL statements, as `mysqldump` writes it.
    Sql,
    /// A container image, as `docker save` writes it.
    Image,
    /// Something else: the notes say what.
    Other,
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
            return Err(too_long("manifest", text.len(), MANIFEST_LIMIT));
        }
        Ok(text.into())
    }

    /// Reads a payload whose signature was verified.
    pub(super) fn decode(payload: &[u8], place: &Place) -> Result<Self> {
        let manifest: Self = json::decode("manifest", payload)?;
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
                return Err(bad(format!("component `{}` is out of order", component.name)));
            }
            if component.sources.last().is_some_and(|last| *last >= self.id) {
                return Err(bad(format!("component `{}` refers to a backup that is not earlier", component.name)));
            }
            if component.encryption != Cipher::None && self.recipients.is_empty() {
                return Err(bad(format!("component `{}` is encrypted for nobody", component.name)));
            }
        }
        if self.details.is_some() == self.sealed.is_some() || self.sealed.is_some() == self.recipients.is_empty() {
            return Err(bad("the manifest is neither sealed nor open".into()));
        }
        Ok(())
    }

    /// Backups whose parts this one needs.
    pub fn sources(&self) -> BTreeSet<BackupId> {
        self.components.iter().flat_map(|c| c.sources.iter().copied()).collect()
    }

    /// Tells whether anything of it is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.sealed.is_some()
    }

    /// Puts the private facts in, sealed where there are recipients.
    pub(super) fn set_private(&mut self, private: PrivateFacts, recipients: Option<&Recipients>) -> Result<()> {
        let Some(recipients) = recipients else {
            self.details = Some(private);
            return Ok(());
        };
        let text = serde_json::to_vec(&private)
            .map_err(|e| Error::new(ErrorKind::Failed, "cannot encode the private facts").caused_by(e))?;
        if text.len() > PRIVATE_LIMIT {
            return Err(too_long("private facts", text.len(), PRIVATE_LIMIT));
        }
        self.recipients = recipients.as_slice().to_vec();
        self.sealed = Some(codec::seal(&text, recipients)?);
        Ok(())
    }

    /// Returns the private facts; sealed ones are opened.
    pub(super) fn private(&self, opener: &Opener) -> Result<PrivateFacts> {
        let bad = |e: Error| e.during("the sealed facts of the manifest");
        match (&self.details, &self.sealed) {
            (Some(details), _) => Ok(details.clone()),
            (None, Some(sealed)) => {
                let text = codec::unseal(sealed, opener, PRIVATE_LIMIT as u64).map_err(bad)?;
                serde_json::from_slice(&text)
                    .map_err(|e| bad(Error::new(ErrorKind::Corrupt, "they cannot be read").caused_by(e)))
            }
            (None, None) => Err(bad(Error::new(ErrorKind::Corrupt, "there are none"))),
        }
    }
}

fn bad(why: String) -> Error {
    Error::new(ErrorKind::Corrupt, why)
}

fn too_long(what: &str, length: usize, limit: usize) -> Error {
    Error::new(ErrorKind::Unsupported, format!("the {what} would be longer than format 1 allows"))
        .with("bytes", length)
        .with("limit", limit)
        .hint("back up fewer tables at once")
}
