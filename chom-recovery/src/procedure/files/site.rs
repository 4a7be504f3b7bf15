//! Where the folder of a component and what a run puts beside it lie, and how the two change places.

use std::{
    ffi::OsString,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    backend::{
        Backend,
        exchange::{self, Folders as _, LocalFolders},
    },
    error::{Error, ErrorKind, Result},
    files::{Root, refuse_mounts_below},
    procedure::{
        locate::{self, Located},
        quiesce::Remembered,
    },
    run::{RunId, failpoint, summary::RunSummary},
    store::pipe,
};

/// Device and inode: what tells one folder from another, whatever their names.
pub(in crate::procedure) type FolderId = (u64, u64);

/// Where everything lies: decided once, so that a resumed run works on what the first one saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::procedure) struct Site {
    pub(in crate::procedure) located: Located,
    /// Beside the mount, where nobody but the host's operator can write.
    pub(in crate::procedure) stage: PathBuf,
    /// Name of redis's AOF, as redis says it.
    pub(in crate::procedure) aof: Option<String>,
    pub(in crate::procedure) users: Vec<Remembered>,
}

/// Tells what the run put beside production.
pub(crate) fn kept(run: &RunSummary) -> Vec<PathBuf> {
    let surveys = run.decisions.iter().filter(|(name, _)| name.ends_with("/survey")).map(|(_, site)| site);
    let sites = surveys.filter_map(|site| serde_json::from_value::<Site>(site.clone()).ok());
    let candidates = run.decisions.iter().filter(|(name, _)| name.ends_with(&format!("/{CANDIDATE}")));
    let candidates = candidates.filter_map(|(_, folder)| serde_json::from_value::<PathBuf>(folder.clone()).ok());
    let mut kept: Vec<PathBuf> =
        sites.map(|site| site.stage).chain(candidates).flat_map(|stage| left_beside(&stage)).collect();
    kept.sort();
    kept.dedup();
    kept
}

/// Name of the decision where a backup is restored only to be tried.
pub(in crate::procedure) const CANDIDATE: &str = "candidate-folder";

fn left_beside(stage: &Path) -> Vec<PathBuf> {
    let Some(folder) = stage.parent() else { return Vec::new() };
    // Its name ends in that of the run, and all others begin with it.
    let is_of_run = |path: &PathBuf| path.to_string_lossy().starts_with(&*stage.to_string_lossy());
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    entries.filter(is_of_run).collect()
}

/// Removes what a run put beside production.
///
/// # Errors
/// `Conflict`: a container runs on it. `Unsupported`: something is mounted below it.
pub(crate) async fn remove_kept(backend: &dyn Backend, path: &Path) -> Result<()> {
    locate::refuse_in_use(backend, path).await?;
    let path = path.to_owned();
    pipe::blocking(move || remove(&path)).await
}

/// Names a folder beside production for what is only tried; it goes with what else the run left there.
pub(in crate::procedure) fn beside_of(located: &Located, component: &str, run: RunId) -> Result<PathBuf> {
    let mut name = stage(located, component, &run.to_string())?.into_os_string();
    name.push(".candidate");
    Ok(name.into())
}

/// Names what a folder is called until everything is in it.
pub(in crate::procedure) fn staging(folder: &Path) -> Option<OsString> {
    let mut name = folder.file_name()?.to_owned();
    name.push(".restoring");
    Some(name)
}

/// Removes a folder with all that is in it, or a file; nothing there is success.
pub(in crate::procedure) fn remove(path: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::from(e).during(format!("cannot remove `{}`", path.display()));
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed(e)),
        Ok(meta) if meta.is_dir() => {
            refuse_mounts_below(path)?;
            std::fs::remove_dir_all(path).map_err(failed)
        }
        Ok(_) => std::fs::remove_file(path).map_err(failed),
    }
}

impl Site {
    /// Services that ran when they were found.
    pub(in crate::procedure) fn running(&self) -> Vec<&str> {
        let mut running: Vec<_> = self.users.iter().filter(|u| u.was_running).map(|u| u.service.as_str()).collect();
        running.dedup();
        running
    }

    /// The folder by its name in the folder that holds it, which is opened without following what users of the mount put
    /// in the way.
    pub(in crate::procedure) fn opened(&self) -> Result<Opened> {
        let located = &self.located;
        let (Some(above), Some(name)) = (located.below.parent(), located.below.file_name()) else {
            return Ok(Opened { path: located.mount.clone(), _above: None });
        };
        let above = Root::open(&located.mount)?.below(above)?;
        Ok(Opened { path: above.path_by_descriptor().join(name), _above: Some(above) })
    }

    fn folders(&self, opened: &Opened) -> LocalFolders {
        LocalFolders::below(Path::new("/"), &[opened.path.clone(), self.stage.clone(), self.beside("aside")])
    }

    /// Names something else of the run beside production.
    pub(in crate::procedure) fn beside(&self, what: &str) -> PathBuf {
        let mut name = self.stage.clone().into_os_string();
        name.push(format!(".{what}"));
        name.into()
    }

    /// Takes the exchange back; harmless when it was never made. A tree that has served holds what users wrote since: it
    /// is kept, as what production had before was kept, until `runs prune`.
    pub(in crate::procedure) async fn take_back(&self, before: FolderId, restored: FolderId) -> Result<()> {
        let (served, undone) = (self.beside("served"), self.beside("undone"));
        let was_never = |seen: [Option<FolderId>; 3]| seen == [Some(before), Some(restored), None];
        if !served.exists() {
            if was_never(self.seen().await?) {
                return Ok(());
            }
            // First: whoever goes on after a crash has to know.
            std::fs::File::create(&served)?.sync_all()?;
        }
        // Gone from beside production already, or still to be exchanged.
        if self.seen().await? != [Some(before), None, None] {
            self.exchange(restored, before).await?;
            std::fs::rename(&self.stage, &undone)?;
        }
        let above = self.stage.parent().unwrap_or(Path::new("/"));
        Ok(std::fs::File::open(above)?.sync_all()?)
    }

    /// Exchanges the folder and what lies beside it, which are told by their inodes; asked again, it finds that done.
    pub(in crate::procedure) async fn exchange(&self, here: FolderId, beside: FolderId) -> Result<()> {
        let opened = self.opened()?;
        failpoint::hit("before folders are exchanged");
        exchange::exchange(&self.folders(&opened), here, beside).await?;
        failpoint::hit("after folders are exchanged");
        Ok(())
    }

    pub(in crate::procedure) async fn seen(&self) -> Result<[Option<FolderId>; 3]> {
        let opened = self.opened()?;
        self.folders(&opened).look().await
    }
}

pub(in crate::procedure) struct Opened {
    pub(in crate::procedure) path: PathBuf,
    /// Keeps the path valid.
    _above: Option<Root>,
}

pub(super) fn id_of(path: &Path) -> Result<FolderId> {
    let meta = std::fs::symlink_metadata(path)
        .map_err(|e| Error::from(e).during(format!("cannot look at `{}`", path.display())))?;
    if meta.is_dir() {
        return Ok((meta.dev(), meta.ino()));
    }
    Err(Error::new(ErrorKind::InvalidInput, format!("`{}` is no folder", path.display()))
        .hint("links are not followed: name the folder itself"))
}

/// Names the place beside the mount, on the same filesystem: between two no rename leads.
pub(in crate::procedure) fn stage(located: &Located, component: &str, run: &str) -> Result<PathBuf> {
    let own = |why: &str| {
        Err(Error::new(ErrorKind::Unsupported, format!("`{}` {why}", located.mount.display())).hint(
            "restore into a new folder, `--target FOLDER`, and move what is in it into place while nobody uses it",
        ))
    };
    let Some(above) = located.mount.parent() else { return own("is the root of this host") };
    let device = std::fs::metadata(above)
        .map_err(|e| Error::from(e).during(format!("cannot look at `{}`", above.display())))?
        .dev();
    let is_alone = match std::fs::metadata(&located.mount) {
        // It is made anew.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        mount => mount?.dev() != device,
    };
    if is_alone {
        return own("is on a filesystem of its own");
    }
    Ok(above.join(format!(".chom-recovery-{component}-{run}")))
}

/// Removes what an attempt left beside production, unless that is something else than was put there.
pub(super) fn clear(site: &Site, staged: Option<FolderId>) -> Result<()> {
    remove(&site.beside("restoring"))?;
    let found = match std::fs::symlink_metadata(&site.stage) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if staged.is_some_and(|id| id != (found.dev(), found.ino())) {
        return Err(Error::new(ErrorKind::Conflict, format!("`{}` is not what was restored", site.stage.display()))
            .hint("look at it: it may be what production had before"));
    }
    remove(&site.stage)
}
