//! Holds: backups that somebody wants kept, whatever the policy says.
//!
//! A hold and its release are records of their own, so that it stays known who wanted what, when and why.

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::{
    catalog::{
        FORMAT, READER,
        id::{BackupId, HostId, RepositoryId},
        layout::Place,
        repo::Repository,
        sign::{HOLD, Signer, SignerId},
        statement::{self, Statement},
    },
    error::{Error, ErrorKind, Result},
    store::Key,
    system::SystemId,
};

/// A hold, or the release of one, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldRecord {
    /// Version of the format.
    pub format: u32,
    /// Oldest reader that understands the record.
    pub min_reader: u32,
    /// Id of the record; equals the one in its key.
    pub id: BackupId,
    /// Repository of the backup.
    pub repository: RepositoryId,
    /// Host of the backup.
    pub host: HostId,
    /// System of the backup.
    pub system: SystemId,
    /// Backup.
    pub backup: BackupId,
    /// Record of the hold that this one ends; `None`: this is a hold.
    pub releases: Option<BackupId>,
    /// Why.
    pub reason: String,
    /// Who wanted it: a name, in nobody's word but the signer's.
    pub by: String,
    /// When, by the clock of the host that wrote it.
    pub created: DateTime<Utc>,
}

impl Statement for HoldRecord {
    const KIND: &'static str = HOLD;
    const WHAT: &'static str = "hold record";

    fn repository(&self) -> &RepositoryId {
        &self.repository
    }

    fn key(&self) -> Key {
        self.place().hold(self.id)
    }
}

impl HoldRecord {
    fn place(&self) -> Place {
        Place { host: self.host.clone(), system: self.system.clone(), id: self.backup }
    }
}

/// A hold in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Its record, which a release names.
    pub id: BackupId,
    /// Why; `None`: the record cannot be read, and holds all the same.
    pub reason: Option<String>,
    /// Who wanted it.
    pub by: Option<String>,
    /// Key that signed it.
    pub signer: Option<SignerId>,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// Holds a backup: nothing that expires backups touches it until the hold is released.
///
/// # Errors
/// `NotFound`: there is no such backup. `InvalidInput`: no reason is given.
pub async fn hold(
    repository: &Repository,
    signer: &Signer,
    place: &Place,
    reason: &str,
    by: &str,
) -> Result<HoldRecord> {
    if repository.store().stat(&place.manifest()).await?.is_none() {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no backup {}", place.id)));
    }
    write(repository, signer, place, None, reason, by).await
}

/// Releases a hold.
///
/// # Errors
/// `NotFound`: no such hold is in force. `InvalidInput`: no reason is given.
pub async fn release(
    repository: &Repository,
    signer: &Signer,
    place: &Place,
    hold: BackupId,
    reason: &str,
    by: &str,
) -> Result<HoldRecord> {
    let holds = holds(repository, place).await?;
    if !holds.iter().any(|h| h.id == hold) {
        let ids: Vec<_> = holds.iter().map(|h| h.id.to_string()).collect();
        return Err(Error::new(ErrorKind::NotFound, format!("backup {} has no hold {hold}", place.id))
            .with("holds", ids.join(", ")));
    }
    write(repository, signer, place, Some(hold), reason, by).await
}

async fn write(
    repository: &Repository,
    signer: &Signer,
    place: &Place,
    releases: Option<BackupId>,
    reason: &str,
    by: &str,
) -> Result<HoldRecord> {
    if reason.trim().is_empty() || by.trim().is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "a hold and its release need a reason and a name")
            .hint("whoever finds it in a year has to know whether it still counts"));
    }
    if !repository.trusted().contains(&signer.id()) {
        return Err(Error::new(ErrorKind::Precondition, "this host's signing key is not trusted by the configuration")
            .with("key", signer.id())
            .hint("add the key to `repository.signers`: without it the record would count for nothing"));
    }
    let record = HoldRecord {
        format: FORMAT,
        min_reader: READER,
        id: repository.ids().next(None),
        repository: repository.id().clone(),
        host: place.host.clone(),
        system: place.system.clone(),
        backup: place.id,
        releases,
        reason: reason.trim().to_owned(),
        by: by.trim().to_owned(),
        created: repository.ids().now(),
    };
    statement::publish(repository, signer, &record).await?;
    Ok(record)
}

/// Reads the holds of a backup that are in force, oldest first.
///
/// A record that cannot be read holds: whether it is a release that would end another hold, nobody can tell.
pub async fn holds(repository: &Repository, place: &Place) -> Result<Vec<Hold>> {
    let listed: Vec<_> = repository.store().list(&place.hold_prefix()).await?.try_collect().await?;
    read(repository, place, listed.iter().map(|o| &o.key)).await
}

pub(super) async fn read<'a>(
    repository: &Repository,
    place: &Place,
    keys: impl Iterator<Item = &'a Key>,
) -> Result<Vec<Hold>> {
    let (mut holds, mut released) = (Vec::new(), Vec::new());
    for key in keys {
        let Some(id) = key.as_str().strip_prefix(&place.hold_prefix()).and_then(|id| id.parse::<BackupId>().ok())
        else {
            continue;
        };
        match statement::read::<HoldRecord>(repository, key).await {
            Ok((HoldRecord { releases: Some(hold), .. }, _)) => released.push(hold),
            Ok((record, signer)) => holds.push(Hold {
                id,
                reason: Some(record.reason),
                by: Some(record.by),
                signer: Some(signer),
                since: record.created,
            }),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) if statement::is_about_the_record(&e) => {
                tracing::warn!(%key, error = %e, "a hold record cannot be read: it holds");
                holds.push(Hold { id, reason: None, by: None, signer: None, since: id.time() });
            }
            Err(e) => return Err(e),
        }
    }
    holds.retain(|hold| !released.contains(&hold.id));
    holds.sort_by_key(|hold| hold.id);
    Ok(holds)
}
