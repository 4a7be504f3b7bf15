//! The newest physical backup, kept unpacked beside production (`database.keep_warm`): restoring it is a rename and a start.
//!
//! It lies in a volume of its own, whose name ends with the backup's id, in a folder that gets its name once all of it is
//! there. So whatever else is found in such a volume, or none of it, was left by somebody who was killed. A restore reads all
//! of it and compares that with the index before it moves the folder, by one rename, into the place of the candidate's.

use std::{
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    super::{
        candidate::{CANDIDATE_ROLE, base_name},
        ops::Production,
    },
    MySqlOps,
};
use crate::{
    backend::{Backend, Labels, MountSource, ROLE_LABEL, RUN_LABEL, Volume},
    catalog::{BackupId, BackupInfo, BackupReader, ComponentReader, physical},
    error::{Error, ErrorKind, Result},
    files::Root,
    run::failpoint,
    store::pipe,
    system::DATABASE,
};

/// Role of such a volume.
pub(crate) const KEPT_ROLE: &str = "warm";
/// Folder of a copy that is whole.
const WHOLE: &str = "data";
/// Folder of one that is being made.
const FILLING: &str = "filling";

impl MySqlOps {
    /// Unpacks a backup that was just stored into a volume of its own, in the place of the one before.
    ///
    /// # Errors
    /// `NoSpace`: there is no room. `Precondition`: it cannot be read here, for want of an identity. After an error the one
    /// before is still there.
    pub(super) async fn keep(&self, production: &Production, info: &BackupInfo, run: Option<&str>) -> Result<()> {
        let (Some(data), Some(prefix)) = (production.data(), self.prefix(production)) else {
            return Err(Error::new(ErrorKind::Unsupported, "the data directory is no volume"));
        };
        let reader = BackupReader::open(&self.repository, info.place.clone()).await?;
        reader.check_identity()?;
        let component = reader.component(DATABASE).await?;
        let name = format!("{prefix}{}", info.id());
        let run = run.map_or_else(|| ulid::Ulid::new().to_string(), str::to_owned);
        let labels: Labels = [(RUN_LABEL.to_owned(), run), (ROLE_LABEL.to_owned(), KEPT_ROLE.to_owned())].into();
        self.backend.create_volume_beside(&name, &labels, data).await?;
        if let Err(error) = self.fill(&name, &component).await {
            if let Err(left) = self.backend.remove_volume(&name).await {
                tracing::warn!(volume = name, error = %left, "a copy that is not whole is left over");
            }
            return Err(error);
        }
        self.discard_kept(production, Some(info.id())).await
    }

    async fn fill(&self, volume: &str, component: &ComponentReader) -> Result<()> {
        let folder = self.folder_of(volume).await?;
        let filling = folder.join(FILLING);
        let making = filling.clone();
        let root = pipe::blocking(move || {
            std::fs::DirBuilder::new().mode(0o700).create(&making)?;
            Root::open(&making)
        })
        .await?;
        physical::restore(component, &root, self.system.limits.keep_free_bytes, Arc::new(|_, _| {})).await?;
        failpoint::hit("kept copy filled");
        pipe::blocking(move || {
            std::fs::rename(filling, folder.join(WHOLE))?;
            Ok(std::fs::File::open(folder)?.sync_all()?)
        })
        .await
    }

    /// Removes the copies that are not whole, or are of other backups than one that is named.
    pub(super) async fn discard_kept(&self, production: &Production, only: Option<BackupId>) -> Result<()> {
        // From elsewhere it cannot be seen what is whole.
        if !self.backend.engine().await?.is_local || !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        for volume in self.kept_of(production).await? {
            let is_wanted =
                self.system.database.keep_warm && only.is_none_or(|id| volume.name.ends_with(&id.to_string()));
            if !(is_wanted && is_whole(&volume).await?) {
                self.backend.remove_volume(&volume.name).await?;
            }
        }
        Ok(())
    }

    /// Moves the copy of a backup into the place of a candidate's empty folder, if there is one that is what the backup holds.
    /// Returns its bytes; `None`: none is kept.
    ///
    /// # Errors
    /// Why the one that is there is not used; nothing was moved.
    pub(super) async fn move_kept(
        &self,
        candidate: &str,
        volume: &str,
        backup: &BackupReader,
        component: &ComponentReader,
    ) -> Result<Option<u64>> {
        let container = self.backend.container(candidate).await?;
        // A drill proves what the repository holds, and leaves the copy for the day it is needed.
        if container.is_none_or(|c| c.labels.get(ROLE_LABEL).is_none_or(|role| role != CANDIDATE_ROLE)) {
            return Ok(None);
        }
        let end = format!("__{KEPT_ROLE}_{}", backup.place().id);
        let kept = self.backend.volumes().await?.into_iter().find(|v| is_kept(v) && v.name.ends_with(&end));
        let Some(kept) = kept else { return Ok(None) };
        let uses = |source: &MountSource| matches!(source, MountSource::Volume(name) if *name == kept.name);
        let all = self.backend.all_containers().await?;
        if let Some(user) = all.iter().find(|c| c.mounts.iter().any(|m| uses(&m.source))) {
            let what = format!("container `{}` uses volume `{}`", user.name, kept.name);
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        let (from, to) = (self.folder_of(&kept.name).await?.join(WHOLE), self.folder_of(volume).await?);
        let opening = from.clone();
        let root = pipe::blocking(move || Root::open(&opening)).await.map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::new(ErrorKind::Incomplete, format!("volume `{}` is not whole", kept.name)),
            _ => e,
        })?;
        let proven = physical::prove(component, &root).await?;
        failpoint::hit("kept copy proven");
        // Over the empty folder that is there: it is moved as a whole, or not at all.
        pipe::blocking(move || {
            std::fs::rename(&from, &to)?;
            for parent in [from.parent(), to.parent()].into_iter().flatten() {
                // Of no matter here: after a crash of the machine a candidate is built anew.
                if let Err(error) = std::fs::File::open(parent).and_then(|folder| folder.sync_all()) {
                    tracing::warn!(folder = %parent.display(), %error, "a rename may not be durable");
                }
            }
            Ok(())
        })
        .await?;
        failpoint::hit("kept copy moved");
        if let Err(error) = self.backend.remove_volume(&kept.name).await {
            tracing::warn!(volume = kept.name, %error, "the volume of the kept copy, empty now, is left over");
        }
        Ok(Some(proven.bytes))
    }

    async fn kept_of(&self, production: &Production) -> Result<Vec<Volume>> {
        let Some(prefix) = self.prefix(production) else { return Ok(Vec::new()) };
        let volumes = self.backend.volumes().await?.into_iter();
        Ok(volumes.filter(|volume| is_kept(volume) && volume.name.starts_with(&prefix)).collect())
    }

    fn prefix(&self, production: &Production) -> Option<String> {
        Some(format!("{}__{KEPT_ROLE}_", base_name(self.backend.project(), production.data()?)))
    }

    /// The folder of this host that a volume stands for.
    pub(super) async fn folder_of(&self, volume: &str) -> Result<PathBuf> {
        let found = self.backend.volume(volume).await?;
        let folder = found.as_ref().and_then(Volume::host_folder).map(PathBuf::from);
        folder
            .ok_or_else(|| Error::new(ErrorKind::Unsupported, format!("the folder of volume `{volume}` is not known")))
    }

    /// Opens that folder.
    pub(super) async fn root_of(&self, volume: &str) -> Result<Root> {
        let folder = self.folder_of(volume).await?;
        pipe::blocking(move || Root::open(&folder)).await
    }
}

async fn is_whole(volume: &Volume) -> Result<bool> {
    match volume.host_folder() {
        Some(folder) => Ok(tokio::fs::try_exists(Path::new(folder).join(WHOLE)).await?),
        None => Ok(false),
    }
}

/// Finds the backups of which a copy is kept. What cannot be seen from here is taken for whole.
pub(crate) async fn kept_backups(backend: &dyn Backend) -> Result<Vec<BackupId>> {
    let sees = backend.engine().await?.is_local && rustix::process::geteuid().is_root();
    let (mut kept, before_id) = (Vec::new(), format!("__{KEPT_ROLE}_"));
    for volume in backend.volumes().await?.iter().filter(|volume| is_kept(volume)) {
        let Some((_, id)) = volume.name.rsplit_once(&before_id) else { continue };
        if !sees || is_whole(volume).await? {
            kept.extend(id.parse::<BackupId>());
        }
    }
    Ok(kept)
}

fn is_kept(volume: &Volume) -> bool {
    volume.labels.get(ROLE_LABEL).is_some_and(|role| role == KEPT_ROLE) && volume.labels.contains_key(RUN_LABEL)
}
