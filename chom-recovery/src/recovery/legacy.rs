//! Backups of other programs.

use super::Recovery;
use crate::{
    catalog::{
        Selector,
        legacy::{LegacyBackup, LegacyCatalog, LegacyContents, LegacyListing, LegacyReport},
    },
    error::{Error, ErrorKind, Result},
};

impl Recovery {
    /// Lists the legacy backups; `None` where the configuration knows none.
    ///
    /// # Errors
    /// `NotFound`: their directory is not there.
    pub async fn legacy_backups(&self) -> Result<Option<LegacyListing>> {
        match &self.system.legacy {
            Some(settings) => LegacyCatalog::new(settings).list().await.map(Some),
            None => Ok(None),
        }
    }

    /// Finds one legacy backup by its path, its file name, or `latest`.
    ///
    /// # Errors
    /// As [`LegacyListing::select`]; `Precondition`: the configuration knows none.
    pub async fn legacy_backup(&self, name: &str) -> Result<LegacyBackup> {
        let listing = self.legacy_backups().await?.ok_or_else(|| {
            Error::new(ErrorKind::Precondition, "the configuration knows no legacy backups")
                .hint("name their directory in `legacy.directory`")
        })?;
        listing.select(name).cloned()
    }

    /// Reads a legacy backup to its end. Nothing is recorded: nobody signed it.
    pub async fn verify_legacy(
        &self,
        name: &str,
        progress: impl Fn(u64, u64) + Send + 'static,
    ) -> Result<LegacyReport> {
        let backup = self.legacy_backup(name).await?;
        let Some(settings) = &self.system.legacy else {
            return Err(Error::new(ErrorKind::Precondition, "no legacy backups"));
        };
        let mut report = LegacyCatalog::new(settings).verify(&backup, progress).await?;
        if let LegacyContents::Dump(contents) = &report.contents
            && let (Some(flavour), Ok(newest)) = (contents.header.flavour(), self.backup(&Selector::Latest).await)
            && let Some(server) = newest.database
            && flavour.to_string() != server.flavour.to_string()
        {
            report.findings.push(format!(
                "it is of a {flavour} server, and the newest backup is of {} {}: it cannot be restored there",
                server.flavour, server.version
            ));
        }
        Ok(report)
    }
}
