//! What a list of backups shows.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    catalog::{
        MAX_SKEW,
        crypt::Recipient,
        facts::{DatabaseFacts, PublicFacts, SALVAGE_NOTE},
        hold::Hold,
        id::{BackupId, HostId, Name, RepositoryId},
        layout::Place,
        manifest::ComponentKind,
        reader::BackupReader,
        sign::SignerId,
        tombstone::Tombstone,
        verify::Level,
    },
    error::{Error, ErrorKind, ErrorRecord, Result},
    system::{DATABASE, SystemId},
};

/// A backup, as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupInfo {
    /// Where it lies, and whose it is.
    #[serde(flatten)]
    pub place: Place,
    /// Repository that it was made for.
    pub repository: RepositoryId,
    /// The moment whose data it holds.
    pub point: DateTime<Utc>,
    /// When it became complete, by the store's clock.
    pub committed: DateTime<Utc>,
    /// Bytes in the store, also of parts that lie in earlier backups.
    pub stored_len: u64,
    /// Bytes once decompressed.
    pub plain_len: u64,
    /// Components, in order.
    pub components: Vec<Name>,
    /// The database server that it was made from.
    pub database: Option<DatabaseFacts>,
    /// How its database is kept: as a dump, or as data files. `None`: it holds none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_kind: Option<ComponentKind>,
    /// Tags.
    pub tags: Vec<Name>,
    /// What a person should know before restoring it. Empty in a list where it is sealed: choosing a backup opens it, if
    /// there is an identity that does.
    pub warnings: Vec<String>,
    /// Who can read it; empty: it is not encrypted.
    #[serde(default)]
    pub recipients: Vec<Recipient>,
    /// Earlier backups in which some of its parts lie.
    #[serde(default)]
    pub sources: BTreeSet<BackupId>,
    /// Those of them that are gone: it cannot be restored whole.
    #[serde(default)]
    pub missing_sources: BTreeSet<BackupId>,
    /// Components of which something could not be read when the backup was taken, and is missing.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub incomplete: BTreeSet<Name>,
    /// It was read from a damaged server, may lack rows, and is chosen only by its id.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_salvaged: bool,
    /// Holds in force: it is kept, whatever the policy says.
    #[serde(default)]
    pub holds: Vec<Hold>,
    /// It is to be deleted, and chosen only by its id.
    #[serde(default)]
    pub tombstone: Option<Tombstone>,
    /// Highest level that a verification of it passed; `None`: never verified, or the newest verification failed.
    pub level: Option<Level>,
    /// Its writer decoded each part in memory before it was stored, and said so in a verification that passed.
    #[serde(default)]
    pub decoded_when_written: bool,
    /// When the newest verification ended.
    pub verified: Option<DateTime<Utc>>,
    /// Key that signed it.
    pub signer: SignerId,
    /// Its id lies in the future of the store's clock when it was made, so that its place in the order means nothing.
    /// Never chosen as latest.
    pub is_future_dated: bool,
    /// What is wrong with its manifest, when the copy had to be used.
    pub manifest_damage: Option<ErrorRecord>,
}

impl BackupInfo {
    /// Returns the id.
    pub fn id(&self) -> BackupId {
        self.place.id
    }

    /// Tells whether its stored bytes were proven to give back its content: by reading them back, or, where the host
    /// that wrote them cannot decrypt, by their hashes and the proof before they were stored.
    pub fn is_proven(&self) -> bool {
        self.level >= Some(Level::L2) || (self.level.is_some() && self.decoded_when_written)
    }

    /// Tells whether it may be chosen by somebody who does not name it: it has its place in the order, is not to be deleted,
    /// and was not read from a damaged server.
    pub fn is_choosable(&self) -> bool {
        self.tombstone.is_none() && !self.is_future_dated && !self.is_salvaged
    }

    /// Returns the system that it holds.
    pub fn system(&self) -> &SystemId {
        &self.place.system
    }

    /// Returns the host that made it.
    pub fn host(&self) -> &HostId {
        &self.place.host
    }

    /// How old its data is; not negative.
    pub fn age(&self, now: DateTime<Utc>) -> std::time::Duration {
        (now - self.point).to_std().unwrap_or_default()
    }

    /// Describes an open backup.
    pub(super) async fn read(reader: &BackupReader) -> Result<Self> {
        let place = reader.place().clone();
        let object = reader.repository().store().stat(&place.manifest()).await?;
        let committed = object.map(|o| o.modified).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("backup {} went away while it was read", place.id))
        })?;
        Ok(Self::of(reader, committed))
    }

    pub(super) fn of(reader: &BackupReader, committed: DateTime<Utc>) -> Self {
        let manifest = reader.manifest();
        let PublicFacts { capture, database, tags, notes, .. } = &manifest.facts;
        let place = reader.place().clone();
        Self {
            repository: manifest.repository.clone(),
            point: capture.point,
            committed,
            stored_len: manifest.stored_len(),
            plain_len: manifest.plain_len(),
            components: manifest.components.iter().map(|c| c.name.clone()).collect(),
            database: database.clone(),
            database_kind: manifest.components.iter().find(|c| c.name.as_str() == DATABASE).map(|c| c.kind),
            tags: tags.iter().cloned().collect(),
            warnings: manifest.details.as_ref().map(|d| d.warnings.clone()).unwrap_or_default(),
            recipients: manifest.recipients.clone(),
            sources: manifest.sources(),
            missing_sources: BTreeSet::new(),
            incomplete: manifest.components.iter().filter(|c| c.facts.unread > 0).map(|c| c.name.clone()).collect(),
            is_salvaged: notes.contains_key(SALVAGE_NOTE),
            holds: Vec::new(),
            tombstone: None,
            level: None,
            decoded_when_written: false,
            verified: None,
            signer: *reader.signer(),
            is_future_dated: place.id.time() > committed + MAX_SKEW,
            manifest_damage: reader.damage().map(Error::to_record),
            place,
        }
    }
}
