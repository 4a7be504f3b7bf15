//! Volumes: finding, making, removing and measuring them.

use std::{collections::HashMap, path::Path, sync::Arc};

use bollard::{
    models::{Volume as EngineVolume, VolumeCreateRequest},
    query_parameters::{ListVolumesOptionsBuilder, RemoveVolumeOptions},
};

use super::{
    client::{Connection, checked_name},
    error::optional,
    helper::{HELPER_MOUNT, volume_mount},
    inspect::time,
};
use crate::{
    backend::{
        Labels, RUN_LABEL, Volume, VolumeContent, VolumeIdentity,
        compose::PROJECT_LABEL,
        measure::{identity_of, measure_folder},
    },
    error::{Error, ErrorKind, Result},
};

/// Measures the folder `$1`; nothing is ever put into the text itself.
const MEASURE: &str = "set -e; cd \"$1\"; stat -c '%d %i %u %g' .; printf '%d\\n' \"0$(stat -c %a .)\"; \
    du -s -k . | cut -f1; find . -mindepth 1 -print0 | tr -dc '\\000' | wc -c; stat -f -c '%a %S %d' .";

impl Connection {
    /// Finds a volume.
    ///
    /// # Errors
    /// `NotFound`: there is none.
    pub(super) async fn volume(&self, name: &str) -> Result<Volume> {
        let request = self.control.inspect_volume(checked_name(name)?);
        Ok(volume(self.read(format!("inspect volume `{name}`"), request).await?))
    }

    /// Lists the volumes of a project, and ours.
    pub(super) async fn volumes(&self, project: &str) -> Result<Vec<Volume>> {
        let mut found = std::collections::BTreeMap::new();
        for label in [format!("{PROJECT_LABEL}={project}"), RUN_LABEL.to_owned()] {
            let filters = HashMap::from([("label".to_owned(), vec![label])]);
            let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
            let listed = self.read("list volumes", self.control.list_volumes(Some(options))).await?;
            // A warning says that a volume driver did not answer: its volumes would be missing.
            if let Some(warning) = listed.warnings.unwrap_or_default().first() {
                return Err(Error::new(ErrorKind::Incomplete, format!("cannot list all volumes: {warning}")));
            }
            for volume in listed.volumes.unwrap_or_default().into_iter().map(self::volume) {
                found.insert(volume.name.clone(), volume);
            }
        }
        Ok(found.into_values().collect())
    }

    /// Makes a volume of the `local` driver.
    pub(super) async fn create_volume(&self, name: &str, labels: &Labels, options: &[(&str, &str)]) -> Result<()> {
        checked_name(name)?;
        let options: HashMap<String, String> =
            options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let is_wanted =
            |there: &Volume| there.labels == *labels && there.options == options.clone().into_iter().collect();
        let taken = |there: &Volume| {
            Error::new(ErrorKind::AlreadyExists, format!("volume `{name}` exists and has other labels"))
                .with("labels", format!("{:?}", there.labels))
        };
        if let Some(there) = optional(self.volume(name).await)? {
            return if is_wanted(&there) { Ok(()) } else { Err(taken(&there)) };
        }
        let request = VolumeCreateRequest {
            name: Some(name.into()),
            driver: Some("local".into()),
            driver_opts: Some(options.clone()).filter(|options| !options.is_empty()),
            labels: Some(labels.clone().into_iter().collect()),
            ..Default::default()
        };
        self.change(format!("create volume `{name}`"), self.control.create_volume(request)).await?;
        // Creating is silent about a volume that somebody else made in between.
        let there = self.volume(name).await?;
        if is_wanted(&there) { Ok(()) } else { Err(taken(&there)) }
    }

    /// Removes a volume of ours.
    pub(super) async fn remove_volume(self: &Arc<Self>, project: &str, name: &str) -> Result<()> {
        let Some(there) = optional(self.volume(name).await)? else { return Ok(()) };
        if !there.labels.contains_key(RUN_LABEL) {
            return Err(Error::new(
                ErrorKind::Denied,
                format!("volume `{name}` does not carry the label `{RUN_LABEL}`: it is not ours to remove"),
            ));
        }
        self.remove_folder_of(project, &there).await?;
        let request = self.control.remove_volume(name, None::<RemoveVolumeOptions>);
        match self.change(format!("remove volume `{name}`"), request).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Tells whether a folder of the Engine's host can be used from here.
    pub(super) async fn reaches(&self, folder: &str) -> Result<bool> {
        if self.options.always_use_helpers || !self.is_local().await? || !rustix::process::geteuid().is_root() {
            return Ok(false);
        }
        Ok(Path::new(folder).parent().is_some_and(Path::is_dir))
    }

    /// Finds the root of a running container's files. It is reached through its first process, whatever stores the layers.
    pub(super) async fn container_root(&self, container: &str) -> Result<Option<std::path::PathBuf>> {
        let pid = self.inspect(container).await?.state.and_then(|state| state.pid).filter(|pid| *pid > 0);
        let root = pid.map(|pid| std::path::PathBuf::from(format!("/proc/{pid}/root")));
        match root {
            Some(root) if self.reaches(&root.to_string_lossy()).await? => Ok(Some(root)),
            _ => Ok(None),
        }
    }

    /// Tells which content a volume's name leads to.
    pub(super) async fn volume_identity(self: &Arc<Self>, project: &str, name: &str) -> Result<VolumeIdentity> {
        if let Some(folder) = self.host_folder(name).await? {
            if self.reaches(&folder.path.to_string_lossy()).await? {
                return identity_of(name, &folder.path);
            }
            let printed = self.in_parent(project, &folder, &["stat", "-c", "%d %i", &folder.in_helper()]).await?;
            let [device, inode] = numbers(&printed)?;
            return Ok(VolumeIdentity { volume: name.into(), device, inode });
        }
        let there = self.volume(name).await?;
        if self.reaches(&there.mount_point).await? {
            return identity_of(name, Path::new(&there.mount_point));
        }
        let helper = self.working_helper(project, volume_mount(name, true)).await?;
        let printed = helper.run(&["stat", "-c", "%d %i", HELPER_MOUNT]).await;
        helper.remove().await?;
        let [device, inode] = numbers(&printed?)?;
        Ok(VolumeIdentity { volume: name.into(), device, inode })
    }

    /// Measures what a volume holds.
    pub(super) async fn measure_volume(self: &Arc<Self>, project: &str, name: &str) -> Result<VolumeContent> {
        let bound = self.host_folder(name).await?;
        let folder = match &bound {
            Some(folder) => folder.path.clone(),
            None => self.volume(name).await?.mount_point.into(),
        };
        if self.reaches(&folder.to_string_lossy()).await? {
            let volume = name.to_owned();
            return tokio::task::spawn_blocking(move || measure_folder(&volume, &folder))
                .await
                .map_err(|e| Error::new(ErrorKind::Failed, format!("measuring a volume was cut short: {e}")))?;
        }
        let printed = if let Some(folder) = &bound {
            self.in_parent(project, folder, &["sh", "-c", MEASURE, "sh", &folder.in_helper()]).await
        } else {
            let helper = self.working_helper(project, volume_mount(name, true)).await?;
            let printed = helper.run(&["sh", "-c", MEASURE, "sh", HELPER_MOUNT]).await;
            helper.remove().await?;
            printed
        };
        let [device, inode, uid, gid, mode, kilobytes, entries, free_blocks, block, free_inodes] = numbers(&printed?)?;
        let small = |number: u64| u32::try_from(number).map_err(|_| odd_output());
        Ok(VolumeContent {
            identity: VolumeIdentity { volume: name.into(), device, inode },
            bytes: kilobytes.saturating_mul(1024),
            entries,
            uid: small(uid)?,
            gid: small(gid)?,
            mode: small(mode)? & 0o7777,
            free_bytes: free_blocks.saturating_mul(block),
            free_inodes,
        })
    }
}

fn numbers<const N: usize>(text: &str) -> Result<[u64; N]> {
    let numbers: Vec<u64> =
        text.split_whitespace().map(str::parse).collect::<Result<_, _>>().map_err(|_| odd_output())?;
    numbers.try_into().map_err(|_| odd_output())
}

fn odd_output() -> Error {
    Error::new(ErrorKind::Unsupported, "the tools of the helper image print something else than expected")
        .hint("name an image with coreutils or busybox as helper image")
}

fn volume(found: EngineVolume) -> Volume {
    Volume {
        name: found.name,
        driver: found.driver,
        mount_point: found.mountpoint,
        options: found.options.into_iter().collect(),
        labels: found.labels.into_iter().collect(),
        created_at: time(found.created_at.as_deref()),
    }
}
