//! Where data lies on the Engine's host: in a volume of the Engine's own, in a folder that a volume stands for, or in a
//! folder that a container mounts directly.

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use super::{
    client::Connection,
    helper::{HELPER_MOUNT, folder_mount},
};
use crate::{
    backend::{Labels, MountSource, Volume, exchange::CONTENT},
    error::{Error, ErrorKind, Result},
};

/// A folder whose content can be exchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DataFolder {
    /// Name of the volume, or the path itself.
    pub(super) name: String,
    /// The folder.
    pub(super) path: PathBuf,
    /// Whether it is `<data root>/volumes/<name>/_data`, which the Engine made.
    pub(super) is_plain: bool,
}

impl DataFolder {
    /// Reads a volume as the Engine describes it.
    ///
    /// # Errors
    /// `Unsupported`: it is nothing of which the folder is known.
    pub(super) fn of(volume: &Volume) -> Result<Self> {
        let unsupported = |why: String| {
            Error::new(
                ErrorKind::Unsupported,
                format!("the content of volume `{}` cannot be exchanged: {why}", volume.name),
            )
            .hint("only `local` volumes and folders of the Engine's host can be exchanged without copying")
        };
        if volume.driver != "local" {
            return Err(unsupported(format!("its driver is `{}`", volume.driver)));
        }
        let name = volume.name.clone();
        if let Some(device) = volume.bound_folder() {
            return Ok(Self { name, ..Self::at(device)? });
        }
        if !volume.options.is_empty() {
            let keys: Vec<_> = volume.options.keys().map(String::as_str).collect();
            return Err(unsupported(format!("it is a mount of something else (driver options {})", keys.join(", "))));
        }
        let path = Path::new(&volume.mount_point);
        let is_usual = path.ends_with(CONTENT) && path.parent().is_some_and(|parent| parent.ends_with(&volume.name));
        if !is_usual {
            return Err(unsupported(format!("its folder `{}` is not the usual one", volume.mount_point)));
        }
        Ok(Self { name, path: path.into(), is_plain: true })
    }

    /// A folder by its path.
    fn at(path: &str) -> Result<Self> {
        let folder = Path::new(path);
        let is_direct = folder.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
        if !is_direct || !folder.is_absolute() || folder.parent().is_none_or(|parent| parent == Path::new("/")) {
            return Err(Error::new(ErrorKind::Unsupported, format!("the folder `{path}` cannot be exchanged"))
                .hint("it needs a place of its own: an absolute path, not directly below `/`"));
        }
        Ok(Self { name: path.into(), path: folder.into(), is_plain: false })
    }

    /// The folder around it.
    pub(super) fn parent(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Its name in the folder around it.
    pub(super) fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Its path in a helper that mounts the folder around it.
    pub(super) fn in_helper(&self) -> String {
        format!("{HELPER_MOUNT}/{}", self.file_name())
    }
}

/// Fails unless `$1` is a folder of its parent's filesystem and no link.
const CHECK: &str = "[ ! -L \"$1\" ] && [ -d \"$1\" ] && [ \"$(stat -c %d \"$1\")\" = \"$(stat -c %d \"$1/..\")\" ]";
/// Makes the empty folder `$2` with owner and mode of `$1`.
const MAKE: &str = "mkdir -p \"$2\" && [ -z \"$(ls -A \"$2\")\" ] && chown \"$(stat -c %u:%g \"$1\")\" \"$2\" && \
    chmod \"$(stat -c %a \"$1\")\" \"$2\" && sync";

impl Connection {
    /// Finds the folder behind a name.
    pub(super) async fn data_folder(&self, name: &str) -> Result<DataFolder> {
        if name.starts_with('/') { DataFolder::at(name) } else { DataFolder::of(&self.volume(name).await?) }
    }

    /// Makes sure that a content can be exchanged.
    pub(super) async fn check_exchangeable(self: &Arc<Self>, project: &str, name: &str) -> Result<()> {
        let folder = self.data_folder(name).await?;
        if folder.is_plain {
            return Ok(());
        }
        let is_fit = if self.reaches(&folder.path.to_string_lossy()).await? {
            let of = |path: &Path| std::fs::symlink_metadata(path);
            let inner = of(&folder.path)
                .map_err(|e| Error::from(e).during(format!("cannot look at `{}`", folder.path.display())))?;
            inner.is_dir() && of(folder.parent())?.dev() == inner.dev()
        } else {
            self.in_parent(project, &folder, &["sh", "-c", CHECK, "sh", &folder.in_helper()])
                .await
                .map_or_else(|e| if e.kind() == ErrorKind::Failed { Ok(false) } else { Err(e) }, |_| Ok(true))?
        };
        if is_fit {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the folder `{}` cannot be exchanged: it is a link or a filesystem of its own",
                folder.path.display()
            ),
        )
        .hint("keep the data in a folder inside of that filesystem, and mount that folder"))
    }

    /// Makes a volume beside a content, such that the two can be exchanged.
    pub(super) async fn create_volume_beside(
        self: &Arc<Self>,
        project: &str,
        name: &str,
        labels: &Labels,
        beside: &str,
    ) -> Result<()> {
        self.check_exchangeable(project, beside).await?;
        let original = self.data_folder(beside).await?;
        if original.is_plain {
            return self.create_volume(name, labels, &[]).await;
        }
        let folder = DataFolder { name: name.into(), path: original.parent().join(name), is_plain: false };
        let device = folder.path.to_string_lossy().into_owned();
        // First: a folder that no volume tells of would never be removed.
        self.create_volume(name, labels, &[("type", "none"), ("o", "bind"), ("device", &device)]).await?;
        if self.reaches(&device).await? {
            return make_folder(&original.path, &folder.path)
                .map_err(|e| Error::from(e).during(format!("cannot make folder `{device}`")));
        }
        let (from, to) = (original.in_helper(), folder.in_helper());
        self.in_parent(project, &original, &["sh", "-c", MAKE, "sh", &from, &to]).await.map(drop)
    }

    /// Removes the folder that stands behind a volume of ours, where one does. The volume itself stays.
    pub(super) async fn remove_folder_of(self: &Arc<Self>, project: &str, volume: &Volume) -> Result<()> {
        let Some(device) = volume.bound_folder() else { return Ok(()) };
        let folder = DataFolder { name: volume.name.clone(), ..DataFolder::at(device)? };
        if folder.file_name() != volume.name {
            return Err(Error::new(
                ErrorKind::Denied,
                format!(
                    "the folder `{device}` of volume `{}` was not made for it: it is not ours to remove",
                    volume.name
                ),
            ));
        }
        if let Some(container) = self.users_of(&folder).await?.first() {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("volume `{}` is in use by container `{}`", volume.name, container.name),
            ));
        }
        if self.reaches(device).await? {
            let path = folder.path.clone();
            let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(path)).await;
            return match removed.map_err(|e| Error::new(ErrorKind::Failed, "removing was cut short").caused_by(e))? {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
                other => other.map_err(|e| Error::from(e).during(format!("cannot remove folder `{device}`"))),
            };
        }
        self.in_parent(project, &folder, &["rm", "-rf", &folder.in_helper()]).await.map(drop)
    }

    /// Lists the containers, running or not, that mount a content.
    pub(super) async fn users_of(&self, folder: &DataFolder) -> Result<Vec<crate::backend::Container>> {
        let path = folder.path.to_string_lossy().into_owned();
        let mut users: Vec<crate::backend::Container> = Vec::new();
        for key in [&folder.name, &path] {
            for container in self.matching(&[("volume", key)]).await? {
                let uses = container.mounts.iter().any(|mount| match &mount.source {
                    MountSource::Volume(volume) => *volume == folder.name,
                    MountSource::HostPath(host) => Path::new(host) == folder.path,
                    MountSource::Tmpfs => false,
                });
                if uses && users.iter().all(|user| user.id != container.id) {
                    users.push(container);
                }
            }
        }
        Ok(users)
    }

    /// Runs a command in a helper that mounts the folder around a content.
    pub(super) async fn in_parent(
        self: &Arc<Self>,
        project: &str,
        folder: &DataFolder,
        argv: &[&str],
    ) -> Result<String> {
        let helper = self.working_helper(project, folder_mount(&folder.parent().to_string_lossy())).await?;
        let printed = helper.run(argv).await;
        helper.remove().await?;
        printed
    }

    /// Finds the folder behind a name where it is not the Engine's own; `None`: a volume that the Engine has to mount.
    pub(super) async fn host_folder(&self, name: &str) -> Result<Option<DataFolder>> {
        match self.data_folder(name).await {
            Ok(folder) => Ok(Some(folder).filter(|folder| !folder.is_plain)),
            Err(error) if error.kind() == ErrorKind::Unsupported && !name.starts_with('/') => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Makes an empty folder with owner and mode of another: an image's entry point may rely on them.
fn make_folder(original: &Path, folder: &Path) -> std::io::Result<()> {
    match std::fs::create_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && std::fs::read_dir(folder)?.next().is_none() => {}
        other => other?,
    }
    let meta = std::fs::symlink_metadata(original)?;
    std::os::unix::fs::chown(folder, Some(meta.uid()), Some(meta.gid()))?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    if let Some(parent) = folder.parent() {
        std::fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, driver: &str, options: &[(&str, &str)]) -> Volume {
        Volume {
            name: name.into(),
            driver: driver.into(),
            mount_point: format!("/var/lib/docker/volumes/{name}/_data"),
            options: options.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            labels: Labels::default(),
            created_at: None,
        }
    }

    #[test]
    fn volumes_and_bound_folders_are_found_and_other_drivers_and_mounts_refused() {
        let plain = DataFolder::of(&volume("a", "local", &[])).unwrap();
        assert!(plain.is_plain && plain.path == Path::new("/var/lib/docker/volumes/a/_data"));
        let bind = [("type", "none"), ("o", "bind,rw"), ("device", "/srv/chom/data")];
        let bound = DataFolder::of(&volume("b", "local", &bind)).unwrap();
        assert!(!bound.is_plain && bound.name == "b" && bound.path == Path::new("/srv/chom/data"));
        assert_eq!((bound.parent(), bound.file_name()), (Path::new("/srv/chom"), "data".to_owned()));

        let nfs = [("type", "nfs"), ("o", "addr=10.0.0.1,rw"), ("device", ":/export")];
        let tmpfs = [("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=100m")];
        for other in [volume("c", "rexray", &[]), volume("c", "local", &nfs), volume("c", "local", &tmpfs)] {
            let error = DataFolder::of(&other).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.hint_text().is_some(), "{error:?}");
        }
        for path in ["/", "/data", "/srv/../data/x", "data/x"] {
            assert_eq!(DataFolder::at(path).unwrap_err().kind(), ErrorKind::Unsupported, "{path}");
        }
    }

    #[test]
    fn a_folder_is_made_with_the_owner_and_mode_of_the_original_and_only_where_it_is_empty() {
        let root = tempfile::tempdir().unwrap();
        let (original, new) = (root.path().join("data"), root.path().join("data__r_1"));
        std::fs::create_dir(&original).unwrap();
        std::fs::set_permissions(&original, std::fs::Permissions::from_mode(0o1770)).unwrap();
        for _ in 0..2 {
            make_folder(&original, &new).unwrap();
            assert_eq!(std::fs::metadata(&new).unwrap().mode() & 0o7777, 0o1770);
        }
        std::fs::write(new.join("ibdata1"), "rows").unwrap();
        assert_eq!(make_folder(&original, &new).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    }
}
