//! Bytes and inodes of the filesystems that a recovery needs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, mpsc::RecvTimeoutError},
    time::Duration,
};

use async_trait::async_trait;

use super::{Class, Health, HealthProbe, net};
use crate::{backend::Backend, system::System};

/// Longest time for a filesystem to say how much is free.
const LONGEST: Duration = Duration::from_secs(10);

/// Looks at the filesystems of the state directory, of a local store, of the Engine's data and of the database's.
///
/// On a local Engine they are seen directly, else through the volume or folder of the database.
#[derive(Debug)]
pub struct DiskProbe {
    backend: Arc<dyn Backend>,
    places: Vec<(&'static str, PathBuf)>,
    database: String,
    data_dir: String,
    keep_free: u64,
}

impl DiskProbe {
    /// Makes the probe `disk`.
    pub fn new(system: &System, backend: Arc<dyn Backend>) -> Self {
        let mut places = vec![("state", system.state_dir())];
        if let Some(path) = system.repository.url.strip_prefix("file:") {
            places.push(("store", PathBuf::from(path)));
        }
        Self {
            backend,
            places,
            database: system.database.service.clone(),
            data_dir: system.database.data_dir.clone(),
            keep_free: system.limits.keep_free_bytes,
        }
    }

    async fn measure(&self) -> (Vec<Filesystem>, Vec<String>) {
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        let mut places = self.places.clone();
        match self.backend.engine().await {
            Ok(engine) if engine.is_local && Path::new(&engine.root).is_dir() => {
                places.push(("engine", PathBuf::from(engine.root)));
                // Often the same filesystem, and the one that matters where it is not.
                match self.database_folder().await {
                    Ok(Some(folder)) => places.push(("database", folder)),
                    // A database without a container is told by the probe of its container.
                    Ok(None) => {}
                    Err(error) => missing.push(format!("database: {error}")),
                }
            }
            Ok(_) => match self.measure_volume().await {
                Ok(filesystem) => found.push(filesystem),
                Err(why) => missing.push(format!("engine: {why}")),
            },
            Err(error) => missing.push(format!("engine: {error}")),
        }
        for (what, path) in places {
            match statvfs(path.clone()).await {
                Ok(space) => found.push(Filesystem { what, place: path.display().to_string(), space }),
                Err(error) => missing.push(format!("{what}: `{}`: {error}", path.display())),
            }
        }
        (found, missing)
    }

    /// Finds the folder of this host that holds the database's data.
    pub(crate) async fn database_folder(&self) -> crate::Result<Option<PathBuf>> {
        let containers = self.backend.containers().await?;
        let Some(data) =
            containers.iter().filter(|c| c.service == self.database).find_map(|c| c.data_at(&self.data_dir))
        else {
            return Ok(None);
        };
        if data.starts_with('/') {
            return Ok(Some(PathBuf::from(data)));
        }
        Ok(self.backend.volume(data).await?.map(|volume| PathBuf::from(volume.mount_point)))
    }

    async fn measure_volume(&self) -> crate::Result<Filesystem> {
        let containers = self.backend.containers().await?;
        let volume = containers
            .iter()
            .filter(|c| c.service == self.database)
            .find_map(|c| c.data_at(&self.data_dir))
            .ok_or_else(|| {
            crate::Error::new(
                crate::ErrorKind::NotFound,
                format!("no container of service `{}` mounts anything at `{}`", self.database, self.data_dir),
            )
        })?;
        let content = self.backend.measure_volume(volume).await?;
        let space = Space {
            bytes: None,
            free_bytes: content.free_bytes,
            inodes: None,
            free_inodes: (content.free_inodes > 0).then_some(content.free_inodes),
        };
        Ok(Filesystem { what: "engine", place: format!("volume {volume}"), space })
    }
}

#[async_trait]
impl HealthProbe for DiskProbe {
    fn name(&self) -> &'static str {
        "disk"
    }

    async fn check(&self) -> Health {
        net::bounded(net::WHOLE, async {
            let (found, missing) = self.measure().await;
            judge(&found, &missing, self.keep_free)
        })
        .await
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Filesystem {
    what: &'static str,
    place: String,
    space: Space,
}

/// Room on a filesystem. What it does not tell is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) bytes: Option<u64>,
    pub(crate) free_bytes: u64,
    pub(crate) inodes: Option<u64>,
    pub(crate) free_inodes: Option<u64>,
}

/// Asks for the room below a path, or below its nearest parent that exists.
///
/// A dead network filesystem blocks the call for ever: it runs in a thread of its own, for which nobody waits longer than
/// [`LONGEST`].
pub(crate) async fn statvfs(path: PathBuf) -> std::io::Result<Space> {
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new().name("statvfs".into()).spawn(move || {
        let mut path = path.as_path();
        let answer = loop {
            match rustix::fs::statvfs(path) {
                Err(rustix::io::Errno::NOENT) => match path.parent() {
                    Some(parent) => path = parent,
                    None => break Err(rustix::io::Errno::NOENT),
                },
                other => break other,
            }
        };
        // Nobody listens any more after a deadline.
        let _ = send.send(answer);
    })?;
    let waiting =
        tokio::task::spawn_blocking(move || receive.recv_timeout(LONGEST)).await.map_err(std::io::Error::other)?;
    let found = waiting.map_err(|e| match e {
        RecvTimeoutError::Timeout => {
            std::io::Error::new(std::io::ErrorKind::TimedOut, "the filesystem does not answer")
        }
        RecvTimeoutError::Disconnected => std::io::Error::other("the thread that asked has ended"),
    })??;
    Ok(Space {
        bytes: Some(found.f_blocks.saturating_mul(found.f_frsize)),
        free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        // Filesystems without a fixed number of inodes report 0.
        inodes: (found.f_files > 0).then_some(found.f_files),
        free_inodes: (found.f_files > 0).then_some(found.f_favail),
    })
}

fn judge(found: &[Filesystem], missing: &[String], keep_free: u64) -> Health {
    let worst = found.iter().map(|f| judge_one(f, keep_free)).max_by_key(|h| h.status);
    let health = match worst {
        Some(health) if !missing.is_empty() && health.status != super::Status::Down => Health::inconclusive(format!(
            "not every filesystem could be asked: {}",
            net::short(&missing.join("; "), 300)
        )),
        Some(health) => health,
        None => Health::inconclusive(format!("no filesystem could be asked: {}", net::short(&missing.join("; "), 300))),
    };
    let mut facts = BTreeMap::new();
    for Filesystem { what, place, space } in found {
        facts.insert(format!("{what}.place"), place.clone());
        facts.insert(format!("{what}.free_bytes"), space.free_bytes.to_string());
        if let Some(bytes) = space.bytes {
            facts.insert(format!("{what}.bytes"), bytes.to_string());
        }
        if let Some(inodes) = space.free_inodes {
            facts.insert(format!("{what}.free_inodes"), inodes.to_string());
        }
    }
    facts.into_iter().fold(health, |health, (name, value)| health.fact(name, value))
}

fn judge_one(filesystem: &Filesystem, keep_free: u64) -> Health {
    let Filesystem { what, place, space } = filesystem;
    let free = space.free_bytes;
    let part = |free: u64, all: u64, percent: u64| free < all / 100 * percent;
    let inodes = space.inodes.zip(space.free_inodes);
    if free < keep_free {
        Health::down(format!("{what} (`{place}`) has {free} bytes free, fewer than {keep_free}")).class(Class::FullDisk)
    } else if inodes.is_some_and(|(all, free)| part(free, all, 1) || free == 0) {
        Health::down(format!("{what} (`{place}`) has hardly any inode free")).class(Class::FullDisk)
    } else if free < keep_free.saturating_mul(2) || space.bytes.is_some_and(|all| part(free, all, 5)) {
        Health::degraded(format!("{what} (`{place}`) has only {free} bytes free")).class(Class::FullDisk)
    } else if inodes.is_some_and(|(all, free)| part(free, all, 5)) {
        Health::degraded(format!("{what} (`{place}`) has fewer than one inode in 20 free")).class(Class::FullDisk)
    } else {
        Health::healthy(format!("at least {free} bytes free on {what}")).class(Class::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Status;

    fn filesystem(free_bytes: u64, free_inodes: Option<u64>) -> Filesystem {
        let space = Space { bytes: Some(100_000), free_bytes, inodes: free_inodes.map(|_| 10_000), free_inodes };
        Filesystem { what: "state", place: "/x".into(), space }
    }

    #[test]
    fn bytes_and_inodes_both_fill_a_disk() {
        for (free, inodes, status) in [
            (50_000, Some(5_000), Status::Healthy),
            (50_000, None, Status::Healthy),
            (999, Some(5_000), Status::Down),
            (1_500, Some(5_000), Status::Degraded),
            (4_000, Some(5_000), Status::Degraded),
            (50_000, Some(0), Status::Down),
            (50_000, Some(99), Status::Down),
            (50_000, Some(400), Status::Degraded),
        ] {
            let health = judge(&[filesystem(free, inodes)], &[], 1_000);
            assert_eq!(health.status, status, "{free} {inodes:?}");
        }
    }

    #[test]
    fn a_filesystem_that_was_not_seen_is_not_healthy_and_does_not_hide_a_full_one() {
        let missing = ["engine: no answer".to_owned()];
        assert_eq!(judge(&[filesystem(50_000, None)], &missing, 1_000).status, Status::Inconclusive);
        assert_eq!(judge(&[filesystem(10, None)], &missing, 1_000).status, Status::Down);
        assert_eq!(judge(&[], &missing, 1_000).status, Status::Inconclusive);
    }

    #[tokio::test]
    async fn a_folder_not_made_yet_is_measured_at_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        let space = statvfs(dir.path().join("a/b/c")).await.unwrap();
        assert_eq!(space.bytes, statvfs(dir.path().to_owned()).await.unwrap().bytes);
        assert!(space.bytes.unwrap() > 0);
    }
}
