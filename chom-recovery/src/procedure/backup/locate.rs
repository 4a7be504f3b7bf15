//! Where the files of a component lie on this host.

use std::{
    path::{Component as Step, Path, PathBuf},
    sync::Arc,
};

use super::redis::rdb_file;
use crate::{
    backend::{Backend, BackendExt, MountSource},
    error::{Error, ErrorKind, Result},
    system::{Component, System, TreeKind},
};

/// Finds the folder of a component. The Engine has to run here, unless the folder is said by its path on this host.
///
/// # Errors
/// `Unsupported`: the Engine is elsewhere, or the path is not a mount of the container: what lies in an image comes back
/// with it. `NotFound`: there is no such service or volume.
pub(crate) async fn locate(system: &System, backend: &Arc<dyn Backend>, component: &Component) -> Result<PathBuf> {
    let folder = match (&component.service, &component.path, &component.volume) {
        _ if component.kind == TreeKind::Redis => rdb_file(system, backend).await?.folder,
        (None, Some(path), None) => return Ok(path.clone()),
        (Some(service), Some(path), _) => in_container(&**backend, service, path).await?,
        (_, _, Some(volume)) => of_volume(&**backend, volume).await?,
        _ => return Err(Error::new(ErrorKind::InvalidInput, "neither `path` nor `volume` is said")),
    };
    if !backend.engine().await?.is_local {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "the Engine runs on another host, and its files are not read from here",
        )
        .hint("take backups with files on the Engine's own host"));
    }
    Ok(folder)
}

pub(super) async fn in_container(backend: &dyn Backend, service: &str, path: &Path) -> Result<PathBuf> {
    if path.components().any(|step| step == Step::ParentDir) {
        return Err(Error::new(ErrorKind::InvalidInput, format!("`{}` leads upwards", path.display())));
    }
    let containers = backend.service_containers(service).await?;
    let container = containers.first().ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("service `{service}` has no container"))
            .hint("`docker compose up -d` makes one; it need not run")
    })?;
    let mount = container.mounts.iter().filter(|m| path.starts_with(&m.target)).max_by_key(|m| m.target.len());
    let not_mounted = |why: &str| {
        Error::new(ErrorKind::Unsupported, format!("`{}` of service `{service}` {why}", path.display()))
            .hint("name a folder that is mounted there; what lies in an image comes back with the image")
    };
    let mount = mount.ok_or_else(|| not_mounted("lies in its image"))?;
    let below = path.strip_prefix(&mount.target).map_err(|_| not_mounted("lies in its image"))?;
    let source = match &mount.source {
        MountSource::HostPath(folder) => PathBuf::from(folder),
        MountSource::Volume(name) => of_volume(backend, name).await?,
        MountSource::Tmpfs => return Err(not_mounted("lies in memory")),
    };
    Ok(if below.as_os_str().is_empty() { source } else { source.join(below) })
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
    if volume.driver != "local" {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("volume `{}` is of driver `{}`", volume.name, volume.driver),
        )
        .hint("back up where that driver keeps its files, by `path`"));
    }
    Ok(volume.mount_point.into())
}
