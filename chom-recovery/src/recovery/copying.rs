//! The facade for copies of backups in a second store.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Recovery;
use crate::{
    catalog::{
        self, BackupId, BackupInfo, BackupReader, Catalog, Copied, Level, Listing, Progress, Repository, RepositoryId,
        Selector, Signer, VerifyReport, verify,
    },
    error::{Error, ErrorKind, ErrorRecord, Result},
    store::{self, pipe},
    system::System,
};

/// What a call to copy backups did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyReport {
    /// Backups that were copied, or read back, by this call, oldest first; their verification says whether they are whole.
    pub copied: Vec<CopiedBackup>,
    /// Backups that could not be copied, because they are damaged.
    pub failed: Vec<NotCopied>,
    /// Backups that the copy had before.
    pub present: u64,
}

/// What the copy of the repository holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyStatus {
    /// Number of usable backups in it.
    pub usable: u64,
    /// The newest of them.
    pub newest: Option<BackupId>,
    /// The moment whose data that holds.
    pub point: Option<DateTime<Utc>>,
    /// Why the copy could not be read; nothing is known of it then.
    pub error: Option<ErrorRecord>,
}

/// A backup that was copied, and read back there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiedBackup {
    /// What was copied.
    #[serde(flatten)]
    pub copied: Copied,
    /// What reading every byte of the copy found.
    pub verification: VerifyReport,
    /// Whether that was signed and recorded in the copy, which takes this host's signing key.
    pub recorded: bool,
}

/// A backup that was not copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotCopied {
    /// Backup.
    pub backup: BackupId,
    /// Why.
    pub error: ErrorRecord,
}

impl CopyReport {
    /// Returns the report if every backup is whole in the copy.
    ///
    /// # Errors
    /// `Corrupt`: one is damaged, here or there.
    pub fn into_result(self) -> Result<Self> {
        let damaged = self.copied.iter().filter(|c| !c.verification.passed()).map(|c| c.copied.backup);
        let bad: Vec<_> = self.failed.iter().map(|f| f.backup).chain(damaged).map(|id| id.to_string()).collect();
        if bad.is_empty() {
            return Ok(self);
        }
        Err(Error::new(ErrorKind::Corrupt, format!("not every backup could be copied: {}", bad.join(", ")))
            .hint("`chom-recovery backup verify --backup ID`, with and without `--copy`, tells what is damaged where"))
    }
}

impl Recovery {
    /// Makes the configured second store a copy of the repository, without any backup yet; once it is one, nothing
    /// happens.
    ///
    /// # Errors
    /// `NotFound`: no second store is configured, or there is no repository. `Conflict`: it is another repository.
    pub async fn init_copy(system: &System) -> Result<RepositoryId> {
        let there = system.repository.on_copy()?;
        let repository = Repository::open_configured(&system.repository).await?;
        catalog::init_copy(&repository, &store::create(&there.store()).await?).await?;
        Ok(repository.id().clone())
    }

    /// Says what the copy holds, within the deadline of the health suite; `None`: none is configured.
    pub async fn copy_status(&self) -> Option<CopyStatus> {
        self.system.repository.copy.as_ref()?;
        let limit = self.system.limits.health_deadline;
        let listing = async { Catalog::new(&self.copy_repository().await?, &self.system.id).list().await };
        let late = || Error::new(ErrorKind::Timeout, format!("the copy was not listed within {} s", limit.as_secs()));
        let listed = tokio::time::timeout(limit, listing).await.unwrap_or_else(|_| Err(late()));
        Some(match listed {
            Ok(listing) => {
                let mut usable = listing.backups.iter().filter(|b| b.is_choosable());
                let count = usable.clone().count() as u64;
                let newest = usable.next_back();
                CopyStatus {
                    usable: count,
                    newest: newest.map(BackupInfo::id),
                    point: newest.map(|b| b.point),
                    error: None,
                }
            }
            Err(error) => CopyStatus { usable: 0, newest: None, point: None, error: Some(error.to_record()) },
        })
    }

    async fn copy_repository(&self) -> Result<Repository> {
        let there = self.system.repository.on_copy()?;
        let store = self.copy.clone().unwrap_or_else(|| store::open_later(&there.store()));
        Repository::open_with(store, &there).await.map_err(|e| match e.kind() {
            ErrorKind::NotFound => e.during("the copy").hint(
                "check that its disk is mounted; `chom-recovery repo init-copy` makes an empty store a copy of the \
                 repository",
            ),
            _ => e.during("the copy"),
        })
    }

    /// Copies backups into the second store and reads every byte of them back there: one that is named, or all that it
    /// lacks, oldest first. Those with a tombstone, here or there, are left out. Needs no key.
    ///
    /// Killed at any moment, the next call goes on. `progress` is told how far each backup got.
    ///
    /// # Errors
    /// `NotFound`: no second store is configured, or it is no repository yet. `Conflict`: it is another repository.
    /// `NoSpace`: it is full. Damaged backups are no error: the report names them.
    pub async fn copy_backups(
        &self,
        which: Option<&Selector>,
        progress: &(dyn Fn(BackupId, Progress) + Send + Sync),
    ) -> Result<CopyReport> {
        let (from, to) = (self.repository().await?, self.copy_repository().await?);
        let (here, there) = (Catalog::new(&from, &self.system.id), Catalog::new(&to, &self.system.id));
        let (listing, copies) = (here.list().await?, there.list().await?);
        let mut report = CopyReport::default();
        let is_there = |id: BackupId| copies.backups.iter().find(|copy| copy.id() == id);
        let wanted: Vec<&BackupInfo> = match which {
            Some(which) => vec![listing.select(which)?],
            None => {
                check_whole(&listing)?;
                report.failed = unreadable(&listing);
                listing.backups.iter().filter(|b| b.tombstone.is_none()).collect()
            }
        };
        for info in wanted {
            // One that was never read back there, or was found damaged, does not count as present.
            if let Some(copy) = is_there(info.id()).filter(|copy| copy.level.is_some()) {
                report.present += 1;
                if copy.holds != info.holds {
                    catalog::copy_holds(&from, &to, &info.place).await?;
                }
                continue;
            }
            let copying = async {
                let reader = here.open(&info.place).await?;
                catalog::copy_backup(&reader, &to, &|p| progress(info.id(), p)).await
            };
            match copying.await {
                Ok(copied) => report.copied.push(self.prove_copy(&to, info, copied).await?),
                Err(e) if e.kind() == ErrorKind::Corrupt => {
                    report.failed.push(NotCopied { backup: info.id(), error: e.to_record() });
                }
                Err(e) => return Err(e.during(format!("copying backup {}", info.id()))),
            }
        }
        Ok(report)
    }

    /// Reads a copy back. A host that only copies has no signing key, and nobody would believe its word.
    async fn prove_copy(&self, to: &Repository, info: &BackupInfo, copied: Copied) -> Result<CopiedBackup> {
        let reader = BackupReader::open(to, info.place.clone()).await?;
        let verification = verify(&reader, Level::L1, &|_| {}).await?;
        let (folder, id) = (self.system.state_dir(), self.system.id.clone());
        let recorded = match pipe::blocking(move || Signer::load(&folder, &id)).await {
            Ok(signer) => {
                catalog::record(to, &signer, &info.place, verification.clone(), None).await?;
                true
            }
            Err(e) if e.kind() == ErrorKind::NotFound => false,
            Err(e) => return Err(e),
        };
        Ok(CopiedBackup { copied, verification, recorded })
    }
}

fn check_whole(listing: &Listing) -> Result<()> {
    match listing.problems.first() {
        None => Ok(()),
        Some(problem) => Err(Error::new(ErrorKind::Incomplete, "the repository could not be listed completely")
            .with("first", &problem.message)
            .hint("mend that, or name a backup by its id")),
    }
}

fn unreadable(listing: &Listing) -> Vec<NotCopied> {
    let alive = listing.damaged.iter().filter(|d| d.tombstone.is_none());
    alive.map(|d| NotCopied { backup: d.place.id, error: d.error.clone() }).collect()
}
