//! The facade for what is kept, and for whom.

use super::Recovery;
use crate::{
    catalog::{self, BackupId, Catalog, HoldRecord, Identities, Recipients, RecipientsRecord, Selector, Signer},
    error::{Error, ErrorKind, Result},
};

impl Recovery {
    fn signer(&self) -> Result<Signer> {
        Signer::load(&self.system.state_dir(), &self.system.id)
    }

    /// Holds a backup: nothing that expires backups touches it until the hold is released.
    ///
    /// # Errors
    /// `NotFound`: there is no such backup. `InvalidInput`: no reason is given.
    pub async fn hold_backup(&self, which: &Selector, reason: &str, by: &str) -> Result<HoldRecord> {
        let repository = self.repository().await?;
        let info = Catalog::new(&repository, &self.system.id).select(which).await?;
        catalog::hold(&repository, &self.signer()?, &info.place, reason, by).await
    }

    /// Releases a hold of a backup; `None`: the only one that it has.
    ///
    /// # Errors
    /// `NotFound`: no such hold is in force. `InvalidInput`: there are several, or no reason is given.
    pub async fn release_backup(
        &self,
        which: &Selector,
        hold: Option<BackupId>,
        reason: &str,
        by: &str,
    ) -> Result<HoldRecord> {
        let repository = self.repository().await?;
        let info = Catalog::new(&repository, &self.system.id).select(which).await?;
        let hold = match (hold, &info.holds[..]) {
            (Some(hold), _) => hold,
            (None, [one]) => one.id,
            (None, []) => {
                return Err(Error::new(ErrorKind::NotFound, format!("backup {} is not held", info.id())));
            }
            (None, several) => {
                let ids: Vec<_> = several.iter().map(|h| h.id.to_string()).collect();
                return Err(Error::new(ErrorKind::InvalidInput, format!("backup {} has several holds", info.id()))
                    .with("holds", ids.join(", "))
                    .hint("name the one that ends: `--hold ID`"));
            }
        };
        catalog::release(&repository, &self.signer()?, &info.place, hold, reason, by).await
    }

    /// Changes who can read the backups that are made from now on. `repository.recipients` of the configuration has to
    /// say the same.
    ///
    /// # Errors
    /// `Authentication`: the escrow identity is none of the recipients'. `Unsupported`: the repository is not encrypted.
    pub async fn change_recipients(&self, recipients: &Recipients, escrow: &Identities) -> Result<RecipientsRecord> {
        self.repository().await?.change_recipients(&self.signer()?, recipients, escrow).await
    }
}
