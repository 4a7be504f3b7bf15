//! Tombstones: the first of two phases of deleting a backup.
//!
//! A backup with a tombstone is chosen by nobody any more, unless it is named. Its objects go only after a grace period,
//! so that whoever reads it, or refers to its parts, is done with it. Until then it can be brought back.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    catalog::{
        FORMAT, READER,
        hold::holds,
        id::{BackupId, Hash, HostId, RepositoryId},
        layout::Place,
        repo::Repository,
        sign::{Signer, SignerId, TOMBSTONE},
        statement::{self, Statement},
    },
    error::{Error, ErrorKind, Result},
    store::Key,
    system::SystemId,
};

/// A tombstone, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TombstoneRecord {
    /// Version of the format.
    pub format: u32,
    /// Oldest reader that understands the record.
    pub min_reader: u32,
    /// Repository of the backup.
    pub repository: RepositoryId,
    /// Host of the backup.
    pub host: HostId,
    /// System of the backup.
    pub system: SystemId,
    /// Backup.
    pub backup: BackupId,
    /// SHA-256 of its manifest object; `None`: that could not be read.
    pub manifest_sha256: Option<Hash>,
    /// Why, for example the rule that it expired by.
    pub reason: String,
    /// Who wanted it.
    pub by: String,
    /// Run that wrote it, where there was one.
    pub run: Option<String>,
    /// When, by the clock of the host that wrote it.
    pub created: DateTime<Utc>,
}

impl Statement for TombstoneRecord {
    const KIND: &'static str = TOMBSTONE;
    const WHAT: &'static str = "tombstone";

    fn repository(&self) -> &RepositoryId {
        &self.repository
    }

    fn key(&self) -> Key {
        Place { host: self.host.clone(), system: self.system.clone(), id: self.backup }.tombstone()
    }
}

/// A tombstone that counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Since when, by the store's clock: the grace period begins here.
    pub since: DateTime<Utc>,
    /// Why.
    pub reason: String,
    /// Who wanted it.
    pub by: String,
    /// Key that signed it.
    pub signer: SignerId,
}

/// Puts a tombstone on a backup. `manifest_sha256` is that of the manifest which was judged.
///
/// Whether other backups refer to its parts is for the caller to know: [`super::Listing::references`].
///
/// # Errors
/// `Denied`: the backup is held. `AlreadyExists`: it has one. `InvalidInput`: no reason is given. `Precondition`: the
/// signer is not trusted.
pub async fn mark_dead(
    repository: &Repository,
    signer: &Signer,
    place: &Place,
    manifest_sha256: Option<Hash>,
    reason: &str,
    by: &str,
    run: Option<String>,
) -> Result<TombstoneRecord> {
    if reason.trim().is_empty() || by.trim().is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "a tombstone needs a reason and a name"));
    }
    if !repository.trusted().contains(&signer.id()) {
        return Err(Error::new(ErrorKind::Precondition, "this host's signing key is not trusted by the configuration")
            .with("key", signer.id())
            .hint("add the key to `repository.signers`: without it the record would count for nothing"));
    }
    if let Some(hold) = holds(repository, place).await?.first() {
        return Err(Error::new(ErrorKind::Denied, format!("backup {} is held", place.id))
            .with("hold", hold.id)
            .with("reason", hold.reason.as_deref().unwrap_or("its record cannot be read"))
            .hint("`chom-recovery backup release` ends a hold"));
    }
    let record = TombstoneRecord {
        format: FORMAT,
        min_reader: READER,
        repository: repository.id().clone(),
        host: place.host.clone(),
        system: place.system.clone(),
        backup: place.id,
        manifest_sha256,
        reason: reason.trim().to_owned(),
        by: by.trim().to_owned(),
        run,
        created: repository.ids().now(),
    };
    statement::publish(repository, signer, &record).await?;
    Ok(record)
}

/// Takes a tombstone away again; an absent one is success.
pub async fn mark_alive(repository: &Repository, place: &Place) -> Result<()> {
    repository.store().delete(&place.tombstone()).await
}

/// Reads the tombstone of a backup; `None`: there is none that counts.
pub async fn tombstone(repository: &Repository, place: &Place) -> Result<Option<Tombstone>> {
    let key = place.tombstone();
    let Some(object) = repository.store().stat(&key).await? else { return Ok(None) };
    let found = statement::read_valid::<TombstoneRecord>(repository, &key).await?;
    Ok(found.map(|(record, signer)| Tombstone { since: object.modified, reason: record.reason, by: record.by, signer }))
}
