//! Containers of ours: found again by name, isolated, removed with all that was made for them.

use std::collections::HashMap;

use bollard::{
    models::{
        ContainerCreateBody, HostConfig, Mount as EngineMount, MountType, MountVolumeOptions, NetworkCreateRequest,
    },
    query_parameters::{CreateContainerOptionsBuilder, ListNetworksOptionsBuilder},
};

use super::{
    client::{Connection, checked_name},
    error::optional,
    inspect::engine_policy,
};
use crate::{
    backend::{Container, Mount, MountSource, Network, OneOff, OneOffFile, RUN_LABEL, RestartPolicy},
    error::{Error, ErrorKind, Result},
};

impl Connection {
    /// Creates a container of ours. Creating it is what decides between two who try: all else is made before, and
    /// is the same for both, or after, by the one who made it.
    pub(super) async fn one_off(&self, spec: &OneOff) -> Result<Container> {
        let name = checked_name(&spec.name)?;
        if !spec.labels.contains_key(RUN_LABEL) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("container `{name}` needs the label `{RUN_LABEL}`: without it nobody would remove it"),
            ));
        }
        for file in &spec.files {
            check_file(file, &spec.mounts)?;
        }
        for mount in &spec.mounts {
            if let MountSource::Volume(volume) = &mount.source {
                // The Engine would make a missing volume, and an empty database would start on it.
                self.volume(volume).await?;
            }
        }
        if optional(self.inspect(name).await)?.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("there is a container `{name}` already")));
        }
        let network = match spec.network {
            Network::None => "none".to_owned(),
            Network::Isolated => self.isolated_network(spec).await?,
        };
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        let request = self.control.create_container(Some(options), body(spec, network));
        let created = self.change(format!("create container `{name}`"), request).await;
        let id = match created {
            Ok(created) => created.id,
            Err(error) => {
                // Of a name in use, the network is the other container's.
                if !matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::OutcomeUnknown)
                    && let Err(more) = self.remove_networks(name).await
                {
                    tracing::warn!(error = %more, network = name, "a network is left over");
                }
                return Err(if error.kind() == ErrorKind::NotFound {
                    error.hint(format!("image `{}` must be on the Engine's host: nothing is pulled", spec.image))
                } else {
                    error
                });
            }
        };
        if !spec.files.is_empty() {
            self.put(&id, "/", &format!("put files into container `{name}`"), files_tar(&spec.files)?).await?;
        }
        if spec.start {
            self.start(&id, name).await?;
        }
        self.container(&id).await
    }

    /// Removes a container of ours and what was made for it.
    pub(super) async fn remove_one_off(&self, name: &str) -> Result<()> {
        if let Some(there) = optional(self.container(name).await)? {
            if !there.labels.contains_key(RUN_LABEL) {
                return Err(Error::new(
                    ErrorKind::Denied,
                    format!("container `{name}` does not carry the label `{RUN_LABEL}`: it is not ours to remove"),
                ));
            }
            self.force_remove(&there.id, name).await?;
            return self.remove_networks(&there.name).await;
        }
        self.remove_networks(name).await
    }

    /// Finds or makes the network of a container: named after it, without a way out.
    async fn isolated_network(&self, spec: &OneOff) -> Result<String> {
        // The Engine lets two networks have one name; what counts is the id.
        if let Some(id) = self.networks_of(&spec.name).await?.into_iter().next() {
            return Ok(id);
        }
        let request = NetworkCreateRequest {
            name: spec.name.clone(),
            driver: Some("bridge".into()),
            internal: Some(true),
            labels: Some(spec.labels.clone().into_iter().collect()),
            ..Default::default()
        };
        let what = format!("create network `{}`", spec.name);
        let created = self.change(what, self.control.create_network(request)).await.map_err(|error| {
            if error.kind() == ErrorKind::Precondition {
                error.hint("the Engine has no address range left: remove unused networks with `docker network prune`")
            } else {
                error
            }
        })?;
        Ok(created.id)
    }

    async fn networks_of(&self, name: &str) -> Result<Vec<String>> {
        // The filter matches parts of names.
        let filters = HashMap::from([
            ("name".to_owned(), vec![format!("^{}$", name.replace('.', "\\."))]),
            ("label".to_owned(), vec![RUN_LABEL.to_owned()]),
        ]);
        let options = ListNetworksOptionsBuilder::default().filters(&filters).build();
        let found = self.read("list networks", self.control.list_networks(Some(options))).await?;
        let ours = found.into_iter().filter(|network| network.name.as_deref() == Some(name));
        Ok(ours.filter_map(|network| network.id).collect())
    }

    async fn remove_networks(&self, name: &str) -> Result<()> {
        for id in self.networks_of(name).await? {
            let request = self.control.remove_network(&id);
            match self.change(format!("remove network `{name}`"), request).await {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn body(spec: &OneOff, network: String) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        entrypoint: spec.entrypoint.clone(),
        cmd: Some(spec.command.clone()).filter(|command| !command.is_empty() || spec.entrypoint.is_some()),
        env: Some(spec.env.iter().map(|(key, value)| format!("{key}={value}")).collect()),
        user: spec.user.clone(),
        labels: Some(spec.labels.clone().into_iter().collect()),
        host_config: Some(HostConfig {
            network_mode: Some(network),
            extra_hosts: Some(spec.own_names.iter().map(|name| format!("{name}:127.0.0.1")).collect()),
            mounts: Some(spec.mounts.iter().map(mount).collect()),
            memory: spec.memory.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            restart_policy: Some(engine_policy(&RestartPolicy::No)),
            publish_all_ports: Some(false),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn mount(mount: &Mount) -> EngineMount {
    let (typ, source, volume_options) = match &mount.source {
        // Content of the image must not be copied into a volume that is to hold a backup.
        MountSource::Volume(name) => (
            MountType::VOLUME,
            Some(name.clone()),
            Some(MountVolumeOptions { no_copy: Some(true), ..Default::default() }),
        ),
        MountSource::HostPath(path) => (MountType::BIND, Some(path.clone()), None),
        MountSource::Tmpfs => (MountType::TMPFS, None, None),
    };
    EngineMount {
        typ: Some(typ),
        source,
        target: Some(mount.target.clone()),
        read_only: Some(mount.read_only),
        volume_options,
        ..Default::default()
    }
}

fn check_file(file: &OneOffFile, mounts: &[Mount]) -> Result<()> {
    let bad = |why: &str| {
        Err(Error::new(ErrorKind::InvalidInput, format!("cannot put a file at `{}`: {why}", file.path.escape_debug())))
    };
    if !file.path.starts_with('/') || file.path.ends_with('/') || file.path.split('/').any(|part| part == "..") {
        return bad("the path is not an absolute one of a file");
    }
    // It would go into the volume and stay there, or be hidden by what is mounted later.
    if mounts.iter().any(|m| std::path::Path::new(&file.path).starts_with(&m.target)) {
        return bad("it lies in a mount");
    }
    Ok(())
}

fn files_tar(files: &[OneOffFile]) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for file in files {
        let content = file.content.expose().as_bytes();
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(file.mode);
        header.set_uid(file.uid.into());
        header.set_gid(file.gid.into());
        header.set_mtime(u64::try_from(chrono::Utc::now().timestamp()).unwrap_or(0));
        builder.append_data(&mut header, file.path.trim_start_matches('/'), content)?;
    }
    Ok(builder.into_inner()?)
}
