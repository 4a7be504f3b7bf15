//! What a list of backups shows.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    catalog::{
        MAX_SKEW,
        id::{BackupId, HostId, Name, RepositoryId},
        layout::Place,
        manifest::{DatabaseFacts, Facts},
        reader::BackupReader,
        sign::SignerId,
        verify::Level,
    },
    error::{Error, ErrorKind, ErrorRecord, Result},
    system::SystemId,
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
    /// Bytes in the store.
    pub stored_len: u64,
    /// Bytes once decompressed.
    pub plain_len: u64,
    /// Components, in order.
    pub components: Vec<Name>,
    /// The database server that it was made from.
    pub database: Option<DatabaseFacts>,
    /// Tags.
    pub tags: Vec<Name>,
    /// What a person should know before restoring it.
    pub warnings: Vec<String>,
    /// Highest level that a verification of it passed; `None`: never verified, or the newest verification failed.
    pub level: Option<Level>,
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
        let Facts { capture, database, tags, warnings, .. } = &manifest.facts;
        let place = reader.place().clone();
        Self {
            repository: manifest.repository.clone(),
            point: capture.point,
            committed,
            stored_len: manifest.stored_len(),
            plain_len: manifest.plain_len(),
            components: manifest.components.iter().map(|c| c.name.clone()).collect(),
            database: database.clone(),
            tags: tags.iter().cloned().collect(),
            warnings: warnings.clone(),
            level: None,
            verified: None,
            signer: *reader.signer(),
            is_future_dated: place.id.time() > committed + MAX_SKEW,
            manifest_damage: reader.damage().map(Error::to_record),
            place,
        }
    }
}
