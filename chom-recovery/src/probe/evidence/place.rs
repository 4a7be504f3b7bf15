//! Where evidence goes: never to the disk that is sick.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};

use crate::{
    backend::Backend,
    error::{Error, ErrorKind, Result},
    probe::disk::{DiskProbe, statvfs},
    system::System,
};

/// Room for a bundle.
const ROOM: u64 = 64 << 20;
/// Inodes for its files.
const INODES: u64 = 200;
/// How long the disk of the database may take to be found.
const FIND: Duration = Duration::from_secs(8);

/// A folder that does not exist yet, or is empty, and what has to be said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidencePlace {
    /// Folder.
    pub directory: PathBuf,
    /// What a person should know: another place was chosen, or one that does not last.
    pub notes: Vec<String>,
}

impl EvidencePlace {
    /// Takes the folder that was asked for.
    ///
    /// # Errors
    /// `NoSpace`: its disk has no room, or is the full one of the database. `AlreadyExists`: something is in it.
    pub async fn asked_for(system: &System, backend: &Arc<dyn Backend>, directory: &Path) -> Result<Self> {
        if std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("`{}` is not empty", directory.display()))
                .hint("name a folder that does not exist yet"));
        }
        let sick = Sick::find(system, backend).await;
        if let Some(why) = sick.objection(directory).await {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!("evidence does not go to `{}`: {why}", directory.display()),
            )
            .hint("name a folder on another disk, or none: then one is chosen"));
        }
        let directory = std::path::absolute(directory)?;
        Ok(Self { notes: in_memory(&directory).into_iter().collect(), directory })
    }

    /// Chooses a folder: below the state directory, else on another disk.
    ///
    /// # Errors
    /// `NoSpace`: no place has room; each is named.
    pub async fn choose(system: &System, backend: &Arc<dyn Backend>, now: DateTime<Utc>) -> Result<Self> {
        let sick = Sick::find(system, backend).await;
        let name = format!("{}-{}-{:08x}", system.id, now.format("%Y%m%dT%H%M%SZ"), rand::random::<u32>());
        let usual = system.state_dir().join("evidence");
        let others = ["/var/tmp", "/tmp", "/dev/shm"].map(|base| Path::new(base).join("chom-recovery-evidence"));
        let mut objections = Vec::new();
        for base in std::iter::once(usual).chain(others) {
            match sick.objection(&base).await {
                None => {
                    let mut notes = Vec::new();
                    if !objections.is_empty() {
                        notes.push(format!("another place was chosen: {}", objections.join("; ")));
                    }
                    notes.extend(in_memory(&base));
                    return Ok(Self { directory: base.join(name), notes });
                }
                Some(why) => objections.push(format!("`{}`: {why}", base.display())),
            }
        }
        Err(Error::new(ErrorKind::NoSpace, format!("there is no room for evidence: {}", objections.join("; ")))
            .hint("name a folder on another disk: `--output DIR`"))
    }
}

/// The disk of the database.
struct Sick {
    device: Option<u64>,
    keep_free: u64,
}

impl Sick {
    async fn find(system: &System, backend: &Arc<dyn Backend>) -> Self {
        let probe = DiskProbe::new(system, backend.clone());
        let folder = tokio::time::timeout(FIND, probe.database_folder()).await;
        let folder = folder.ok().and_then(Result::ok).flatten();
        let device = folder.and_then(|folder| device(&folder));
        Self { device, keep_free: system.limits.keep_free_bytes }
    }

    /// Says why a folder is no place for evidence.
    async fn objection(&self, folder: &Path) -> Option<String> {
        let space = match statvfs(folder.to_owned()).await {
            Ok(space) => space,
            Err(error) => return Some(error.to_string()),
        };
        let is_of_database = self.device.is_some() && self.device == device(folder);
        let needed = if is_of_database { self.keep_free.max(ROOM) } else { ROOM };
        if space.free_bytes < needed {
            let whose = if is_of_database { "the database's disk" } else { "its disk" };
            return Some(format!("{whose} has {} MiB free, fewer than {} MiB", space.free_bytes >> 20, needed >> 20));
        }
        if space.free_inodes.is_some_and(|free| free < INODES) {
            return Some("its disk has hardly any inode free".into());
        }
        let parent = existing(folder)?;
        rustix::fs::access(&parent, rustix::fs::Access::WRITE_OK).err().map(|e| format!("it cannot be written: {e}"))
    }
}

/// The folder, or its nearest parent that exists.
fn existing(folder: &Path) -> Option<PathBuf> {
    folder.ancestors().find(|path| path.exists()).map(Path::to_owned)
}

fn device(folder: &Path) -> Option<u64> {
    std::fs::metadata(existing(folder)?).ok().map(|m| m.dev())
}

/// Says that a place does not outlive a reboot.
fn in_memory(folder: &Path) -> Option<String> {
    /// `TMPFS_MAGIC` (statfs(2)).
    const TMPFS: u64 = 0x0102_1994;
    let kind = rustix::fs::statfs(&existing(folder)?).ok()?.f_type;
    let is_memory = u64::try_from(kind).is_ok_and(|kind| kind == TMPFS);
    is_memory.then(|| format!("`{}` is in memory: copy it elsewhere before the host is restarted", folder.display()))
}
