//! What earlier backups hold, so that it need not be stored again.
//!
//! A host that holds no identity cannot read the indexes of its own encrypted backups. So it keeps, in its state
//! directory, what it wrote there: which state of which files is in which part. Paths are not among it.

use std::{collections::HashMap, io::Write, path::Path};

use serde::{Deserialize, Serialize};

use super::FINGERPRINT;
use crate::{
    catalog::{BackupId, ComponentReader, Name, PartRecord, RepositoryId},
    error::{Error, Result},
};

/// Parts of an earlier backup, by the state of the files in them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KnownParts {
    repository: RepositoryId,
    component: Name,
    backup: BackupId,
    parts: Vec<PartRecord>,
}

impl KnownParts {
    /// Notes what a backup that was just written holds.
    pub(super) fn new(
        repository: RepositoryId,
        component: Name,
        backup: BackupId,
        parts: impl Iterator<Item = PartRecord>,
    ) -> Self {
        let parts = parts.filter(|p| p.meta.notes.contains_key(FINGERPRINT)).collect();
        Self { repository, component, backup, parts }
    }

    /// Takes them from the index of an earlier backup, which takes an identity where it is encrypted.
    pub fn of(component: &ComponentReader) -> Self {
        let (repository, place) = component.origin();
        Self::new(repository.id().clone(), component.name().clone(), place.id, component.parts().iter().cloned())
    }

    /// Returns the backup that holds them.
    pub fn backup(&self) -> BackupId {
        self.backup
    }

    /// Tells whether they are those of a component of a repository.
    pub fn fits(&self, repository: &RepositoryId, component: &Name) -> bool {
        self.repository == *repository && self.component == *component
    }

    pub(super) fn by_fingerprint(self) -> HashMap<String, PartRecord> {
        let key = |part: &PartRecord| part.meta.notes.get(FINGERPRINT).cloned().unwrap_or_default();
        self.parts.into_iter().map(|part| (key(&part), part)).collect()
    }

    /// Reads them from a file. One that is not there, or damaged, knows nothing: everything is stored anew.
    pub fn load(file: &Path) -> Option<Self> {
        let text = match std::fs::read(file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "what earlier backups hold cannot be read");
                return None;
            }
        };
        let known = text.split_first_chunk::<64>().and_then(|(hash, json)| {
            let is_whole = blake3::hash(json).to_hex().as_bytes() == hash;
            is_whole.then(|| serde_json::from_slice(json).ok()).flatten()
        });
        if known.is_none() {
            tracing::warn!(file = %file.display(), "what earlier backups hold is damaged, and not believed");
        }
        known
    }

    /// Writes them to a file, in the place of those of the backup before. Call it when the backup exists.
    ///
    /// # Errors
    /// `NoSpace` and the like; the file is then as it was.
    pub fn save(&self, file: &Path) -> Result<()> {
        let json = serde_json::to_vec(self)
            .map_err(|e| Error::new(crate::ErrorKind::Failed, "cannot encode known parts").caused_by(e))?;
        let folder = file.parent().unwrap_or_else(|| Path::new("."));
        std::fs::create_dir_all(folder)?;
        let temporary = file.with_extension("new");
        let write = || {
            let mut out = std::fs::File::create(&temporary)?;
            out.write_all(blake3::hash(&json).to_hex().as_bytes())?;
            out.write_all(&json)?;
            out.sync_all()?;
            std::fs::rename(&temporary, file)
        };
        write().map_err(|e| Error::from(e).during(format!("cannot write `{}`", file.display())))
    }
}
