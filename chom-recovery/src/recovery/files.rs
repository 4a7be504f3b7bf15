//! Getting trees of files back.

use std::{path::Path, path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};

use super::Recovery;
use crate::{
    catalog::{
        BackupId, BackupInfo, Catalog, Name, Selector,
        tree::{self, OnProgress, RestoreOptions},
    },
    error::{Error, ErrorKind, Result},
    files::{
        unpack::{Policy, Unpacked},
        walk::Troubles,
    },
    system::DATABASE,
};

/// A tree of files that was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredTree {
    /// Backup that it came from.
    pub backup: BackupId,
    /// Its component.
    pub component: Name,
    /// The new folder.
    pub path: PathBuf,
    /// What was put there, read back and compared with the backup.
    pub unpacked: Unpacked,
    /// What was not as it should be when the backup was taken.
    pub troubles: Troubles,
    /// Objects that are damaged in the repository, and were read from its copy.
    pub objects_from_copy: u64,
}

impl Recovery {
    /// Restores a component of files into a new folder on this host, which appears under its name when everything in it
    /// was written, read back, compared with the backup and made durable. Nothing of the running system is touched.
    ///
    /// Without a choice of one backup the newest that holds the component is taken.
    ///
    /// # Errors
    /// `NotFound`: no backup holds it. `AlreadyExists`: there is something at `target`. `NoSpace`: the disk has no room.
    /// `Corrupt`: the backup is damaged. `Precondition`: only root can give files to other owners. After an error there is
    /// nothing at `target`.
    pub async fn restore_tree(
        &self,
        which: &Selector,
        component: &str,
        target: &Path,
        policy: Policy,
        progress: impl Fn(u64, Option<u64>) + Send + Sync + 'static,
    ) -> Result<RestoredTree> {
        if component == DATABASE {
            return Err(Error::new(ErrorKind::InvalidInput, "the database is not restored into a folder")
                .hint("`chom-recovery restore` restores it beside production and swaps it in"));
        }
        let progress: OnProgress = Arc::new(progress);
        let catalog = Catalog::new(&self.repository().await?, &self.system.id).holding(component);
        let catalog = catalog.with_copy(self.copy.clone());
        let info: BackupInfo = catalog.select(which).await.map_err(|e| match e.kind() {
            ErrorKind::NotFound => e.during(format!("component `{component}`")),
            _ => e,
        })?;
        let reader = catalog.open(&info.place).await?;
        let component = reader.component(component).await?;
        let options = RestoreOptions::new(policy, self.system.limits.keep_free_bytes);
        let troubles = tree::read_troubles(&component).await?;
        let (unpacked, path) = tree::restore_tree(&component, target, &options, progress).await?;
        Ok(RestoredTree {
            backup: info.id(),
            component: component.name().clone(),
            path,
            unpacked,
            troubles,
            objects_from_copy: reader.objects_from_copy(),
        })
    }
}
