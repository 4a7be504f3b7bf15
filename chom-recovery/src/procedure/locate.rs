//! Where the files of a component lie on this host.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{Parts, redis};
use crate::{
    backend::{Backend, BackendExt, Container, ContainerState, MountSource},
    error::{Error, ErrorKind, Result},
    files::Root,
    store::pipe,
    system::{Component, System, TreeKind},
};

/// Opens the folder of a component. The Engine has to run here, unless the folder is said by its path on this host.
///
/// # Errors
/// `Unsupported`: the Engine is elsewhere, or the path is not a mount of the container: what lies in an image comes back
/// with it. `NotFound`: there is no such service, volume or folder. `InvalidInput`: a link leads there.
pub(crate) async fn locate(system: &System, backend: &Arc<dyn Backend>, component: &Component) -> Result<Root> {
    let located = find(system, backend, component).await?;
    pipe::blocking(move || located.open()).await.map_err(|e| of_component(component, e))
}

fn of_component(component: &Component, error: Error) -> Error {
    error.during(format!("component `{}`", component.name))
}

/// A folder that the operator or the Engine names, and the path below it that whoever writes there may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Located {
    /// On this host.
    pub(super) mount: PathBuf,
    /// Empty where the folder itself is meant.
    pub(super) below: PathBuf,
}

impl Located {
    /// Opens the folder; no link is followed below the mount.
    pub(super) fn open(&self) -> Result<Root> {
        Root::open(&self.mount)?.below(&self.below)
    }

    /// Returns the path of the folder.
    pub(super) fn folder(&self) -> PathBuf {
        if self.below.as_os_str().is_empty() { self.mount.clone() } else { self.mount.join(&self.below) }
    }
}

/// Finds the folder of a component, which need not exist.
///
/// # Errors
/// As [`locate`].
pub(super) async fn find(system: &System, backend: &Arc<dyn Backend>, component: &Component) -> Result<Located> {
    let found = find_folder(system, backend, component).await;
    found.map(|(mount, below)| Located { mount, below }).map_err(|e| of_component(component, e))
}

async fn find_folder(system: &System, backend: &Arc<dyn Backend>, component: &Component) -> Result<(PathBuf, PathBuf)> {
    let found = match (&component.service, &component.path, &component.volume) {
        _ if component.kind == TreeKind::Redis => {
            let service = &redis::configured(system)?.service;
            let folder = match redis::folder(system, backend).await {
                Ok(folder) => folder,
                // One that is down is to get its data back.
                Err(silent) => redis::mounted_folder(&**backend, service).await.map_err(|_| silent)?,
            };
            in_container(&**backend, service, &folder).await?
        }
        (None, Some(path), None) => return Ok((path.clone(), PathBuf::new())),
        (Some(service), Some(path), _) => in_container(&**backend, service, path).await?,
        (_, _, Some(volume)) => (of_volume(&**backend, volume).await?, PathBuf::new()),
        _ => return Err(Error::new(ErrorKind::InvalidInput, "neither `path` nor `volume` is said")),
    };
    if !backend.engine().await?.is_local {
        let elsewhere = "the Engine runs on another host, and its files are not read from here";
        return Err(
            Error::new(ErrorKind::Unsupported, elsewhere).hint("take backups with files on the Engine's own host")
        );
    }
    Ok(found)
}

/// Finds where a path of a service's container lies on this host.
///
/// # Errors
/// As [`locate`].
pub(crate) async fn path_on_host(parts: &Parts, service: &str, path: &Path) -> Result<PathBuf> {
    let (mount, below) = in_container(&*parts.backend, service, path).await?;
    if !parts.backend.engine().await?.is_local {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "the Engine runs on another host, whose files are not reached from here",
        ));
    }
    Ok(mount.join(below))
}

async fn in_container(backend: &dyn Backend, service: &str, path: &Path) -> Result<(PathBuf, PathBuf)> {
    let containers = backend.service_containers(service).await?;
    let container = containers.first().ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("service `{service}` has no container"))
            .hint("`docker compose up -d` makes one; it need not run")
    })?;
    let not_mounted = |why: &str| {
        Error::new(ErrorKind::Unsupported, format!("`{}` of service `{service}` {why}", path.display()))
            .hint("name a folder that is mounted there; what lies in an image comes back with the image")
    };
    let covering = container.mounts.iter().filter_map(|m| Some((m, path.strip_prefix(&m.target).ok()?)));
    let (mount, below) =
        covering.max_by_key(|(m, _)| m.target.len()).ok_or_else(|| not_mounted("lies in its image"))?;
    let folder = match &mount.source {
        MountSource::HostPath(folder) => PathBuf::from(folder),
        MountSource::Volume(name) => of_volume(backend, name).await?,
        MountSource::Tmpfs => return Err(not_mounted("lies in memory")),
    };
    Ok((folder, below.to_path_buf()))
}

/// Names the services that have a folder, or something above or below it, mounted.
pub(super) async fn users(backend: &dyn Backend, folder: &Path) -> Result<Vec<String>> {
    let mut users = Vec::new();
    for container in backend.containers().await? {
        if mounts(backend, &container, folder).await? {
            users.push(container.service);
        }
    }
    users.sort();
    users.dedup();
    Ok(users)
}

/// Makes sure that no container of the Engine, of whichever project, runs on a folder.
///
/// # Errors
/// `Conflict`: one does.
pub(super) async fn refuse_in_use(backend: &dyn Backend, folder: &Path) -> Result<()> {
    use ContainerState::{Created, Dead, Exited};
    for container in backend.all_containers().await? {
        if !matches!(container.state, Created | Exited | Dead) && mounts(backend, &container, folder).await? {
            let what = format!("`{}` is in use by container `{}`", folder.display(), container.name);
            return Err(Error::new(ErrorKind::Conflict, what).hint(format!("stop it: docker stop {}", container.name)));
        }
    }
    Ok(())
}

/// Tells whether a container mounts a folder, or something above or below it, however the path is spelled.
async fn mounts(backend: &dyn Backend, container: &Container, folder: &Path) -> Result<bool> {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = real(folder);
    for mount in &container.mounts {
        let source = match &mount.source {
            MountSource::HostPath(path) => Some(PathBuf::from(path)),
            MountSource::Volume(name) => backend.volume(name).await?.and_then(|v| v.host_folder().map(PathBuf::from)),
            MountSource::Tmpfs => None,
        };
        if source.map(|s| real(&s)).is_some_and(|source| folder.starts_with(&source) || source.starts_with(&folder)) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn of_volume(backend: &dyn Backend, name: &str) -> Result<PathBuf> {
    let full = format!("{}_{name}", backend.project());
    let found = match backend.volume(&full).await? {
        Some(volume) => Some(volume),
        None => backend.volume(name).await?,
    };
    let volume = found.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("there is no volume `{name}`, nor `{full}`"))
            .hint("`docker volume ls` lists them")
    })?;
    volume.host_folder().map(PathBuf::from).ok_or_else(|| {
        let what = match volume.driver.as_str() {
            "local" => format!("volume `{}` is a mount of something else", volume.name),
            driver => format!("volume `{}` is of driver `{driver}`", volume.name),
        };
        Error::new(ErrorKind::Unsupported, what).hint("back up where its files really lie, by `path`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::{Container, Mount, Volume},
        probe::testing::backend::{Told, container},
    };

    fn volume(name: &str, driver: &str) -> Volume {
        Volume {
            name: name.into(),
            driver: driver.into(),
            mount_point: format!("/volumes/{name}"),
            options: std::collections::BTreeMap::new(),
            labels: crate::backend::Labels::new(),
            created_at: None,
        }
    }

    fn told() -> Told {
        let mount = |target: &str, source| Mount { source, target: target.into(), read_only: false };
        let mounts = vec![
            mount("/srv", MountSource::HostPath("/opt/srv".into())),
            mount("/srv/app/storage", MountSource::Volume("p_storage".into())),
            mount("/run", MountSource::Tmpfs),
            mount("/nfs", MountSource::Volume("far".into())),
        ];
        Told {
            containers: Some(vec![Container { mounts, ..container("app") }]),
            volumes: vec![volume("p_storage", "local"), volume("far", "nfs")],
            ..Told::default()
        }
    }

    #[tokio::test]
    async fn a_path_is_found_by_the_nearest_mount_that_covers_it() {
        for (path, mount, below) in [
            ("/srv/app/storage", "/volumes/p_storage", ""),
            ("/srv/app/storage/app/public", "/volumes/p_storage", "app/public"),
            ("/srv/app/storage-old", "/opt/srv", "app/storage-old"),
            ("/srv", "/opt/srv", ""),
        ] {
            let found = in_container(&told(), "app", Path::new(path)).await.unwrap();
            assert_eq!(found, (PathBuf::from(mount), PathBuf::from(below)), "{path}");
        }
        for (path, why) in [("/etc/php", "its image"), ("/run/chom", "memory"), ("/nfs/a", "driver `nfs`")] {
            let error = in_container(&told(), "app", Path::new(path)).await.unwrap_err();
            assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains(why), "{path}: {error}");
        }
        assert_eq!(in_container(&told(), "web", Path::new("/srv")).await.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn who_has_a_folder_mounted_is_known_from_above_and_from_below() {
        for (folder, is_used) in [
            ("/volumes/p_storage", true),
            ("/volumes/p_storage/app", true),
            ("/opt/srv/x", true),
            ("/opt", true),
            ("/opt/srv-old", false),
            ("/volumes/other", false),
        ] {
            let users = users(&told(), Path::new(folder)).await.unwrap();
            assert_eq!(users, if is_used { vec!["app".to_owned()] } else { vec![] }, "{folder}");
        }
    }

    #[tokio::test]
    async fn a_volume_is_found_by_its_short_and_by_its_full_name() {
        for name in ["storage", "p_storage"] {
            assert_eq!(of_volume(&told(), name).await.unwrap(), Path::new("/volumes/p_storage"));
        }
        assert_eq!(of_volume(&told(), "other").await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
