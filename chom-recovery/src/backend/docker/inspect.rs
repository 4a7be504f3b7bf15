//! What the Engine says about containers, in our words.

use bollard::{
    models::{
        ContainerInspectResponse, ContainerStateStatusEnum as Status, HealthStatusEnum, ImageInspect, MountPoint,
        NetworkSettings, RestartPolicy as EnginePolicy, RestartPolicyNameEnum,
    },
    query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder},
};
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};

use super::{
    client::{Connection, checked_name},
    error::optional,
};
use crate::{
    backend::{
        Container, ContainerState, HealthCheck, Image, Mount, MountSource, PublishedPort, RUN_LABEL, RestartPolicy,
        compose::{ONE_OFF_LABEL, PROJECT_LABEL, SERVICE_LABEL},
    },
    error::{Error, ErrorKind, Result},
};

/// Inspections that run at the same time.
const AT_ONCE: usize = 8;

impl Connection {
    /// Inspects a container, in the Engine's own words.
    pub(super) async fn inspect(&self, name: &str) -> Result<ContainerInspectResponse> {
        let request = self.control.inspect_container(checked_name(name)?, None::<InspectContainerOptions>);
        self.read(format!("inspect container `{name}`"), request).await
    }

    /// Inspects a container.
    pub(super) async fn container(&self, name: &str) -> Result<Container> {
        container(self.inspect(name).await?)
    }

    /// Inspects an image; `None`: it is not on the Engine's host.
    pub(super) async fn image(&self, name: &str) -> Result<Option<Image>> {
        let is_path = name.split('/').any(|part| part.is_empty() || part == "..");
        if is_path || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b":/@._-".contains(&b)) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("`{}` names no image", name.escape_debug())));
        }
        let found = self.read(format!("inspect image `{name}`"), self.control.inspect_image(name)).await;
        let image = |found: ImageInspect| Image {
            id: found.id.unwrap_or_default(),
            digests: found.repo_digests.unwrap_or_default(),
        };
        Ok(optional(found)?.map(image))
    }

    /// Inspects all containers that match every filter, in the order of their names.
    pub(super) async fn matching(&self, filters: &[(&str, &str)]) -> Result<Vec<Container>> {
        let mut map = std::collections::HashMap::<String, Vec<String>>::new();
        for (key, value) in filters {
            map.entry((*key).into()).or_default().push((*value).into());
        }
        let options = ListContainersOptionsBuilder::default().all(true).filters(&map).build();
        let found = self.read("list containers", self.control.list_containers(Some(options))).await?;
        let ids: Vec<String> = found.into_iter().filter_map(|summary| summary.id).collect();
        let mut containers: Vec<Container> = futures::stream::iter(ids)
            // One that vanished between the two questions is not there.
            .map(|id| async move { optional(self.container(&id).await) })
            .buffer_unordered(AT_ONCE)
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await?;
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(containers)
    }

    /// The containers of a Compose project, without one-off ones and ours.
    pub(super) async fn project_containers(&self, project: &str) -> Result<Vec<Container>> {
        let label = format!("{PROJECT_LABEL}={project}");
        let mut found = self.matching(&[("label", &label)]).await?;
        found.retain(|c| {
            c.labels.get(ONE_OFF_LABEL).is_none_or(|v| !v.eq_ignore_ascii_case("true"))
                && !c.labels.contains_key(RUN_LABEL)
        });
        Ok(found)
    }
}

/// Translates an inspection.
fn container(found: ContainerInspectResponse) -> Result<Container> {
    let id = found.id.ok_or_else(|| missing("id"))?;
    let state = found.state.ok_or_else(|| missing("state"))?;
    let config = found.config.unwrap_or_default();
    let labels: crate::backend::Labels = config.labels.unwrap_or_default().into_iter().collect();
    let status = match state.status {
        Some(Status::CREATED) => ContainerState::Created,
        Some(Status::RUNNING) => ContainerState::Running,
        Some(Status::PAUSED) => ContainerState::Paused,
        Some(Status::RESTARTING) => ContainerState::Restarting,
        Some(Status::REMOVING) => ContainerState::Removing,
        Some(Status::EXITED) => ContainerState::Exited,
        Some(Status::DEAD) => ContainerState::Dead,
        _ => return Err(missing("state")),
    };
    let health = match state.health.and_then(|health| health.status) {
        None | Some(HealthStatusEnum::EMPTY | HealthStatusEnum::NONE) => HealthCheck::Absent,
        Some(HealthStatusEnum::STARTING) => HealthCheck::Starting,
        Some(HealthStatusEnum::HEALTHY) => HealthCheck::Healthy,
        Some(HealthStatusEnum::UNHEALTHY) => HealthCheck::Unhealthy,
    };
    let mut mounts: Vec<Mount> = found.mounts.unwrap_or_default().into_iter().map(mount).collect();
    // The Engine lists them in another order each time, and a plan holds them.
    mounts.sort_by(|a, b| a.target.cmp(&b.target));
    let published = published(found.network_settings.as_ref());
    // The Engine reports 0 for containers that have not ended: that is no exit code. Between two lives it is the last one's.
    let ended = matches!(status, ContainerState::Exited | ContainerState::Dead | ContainerState::Restarting);
    Ok(Container {
        name: found.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        service: labels.get(SERVICE_LABEL).cloned().unwrap_or_default(),
        image: config.image.unwrap_or_default(),
        image_id: found.image.unwrap_or_default(),
        state: status,
        health,
        exit_code: state.exit_code.filter(|_| ended),
        oom_killed: state.oom_killed.unwrap_or(false),
        start_error: state.error.filter(|text| !text.is_empty()),
        restart_count: found.restart_count.and_then(|n| u64::try_from(n).ok()).unwrap_or(0),
        started_at: time(state.started_at.as_deref()),
        finished_at: time(state.finished_at.as_deref()),
        restart_policy: found
            .host_config
            .and_then(|host| host.restart_policy)
            .map_or(RestartPolicy::No, |policy| restart_policy(&policy)),
        mounts,
        command: config.cmd.unwrap_or_default(),
        labels,
        published,
        id,
    })
}

/// TCP ports of the host that lead into a container, by the container's port.
pub(super) fn published(settings: Option<&NetworkSettings>) -> Vec<PublishedPort> {
    let ports = settings.and_then(|settings| settings.ports.as_ref());
    let mut found: Vec<PublishedPort> = ports
        .into_iter()
        .flatten()
        .filter_map(|(name, bindings)| Some((name.strip_suffix("/tcp")?.parse().ok()?, bindings.as_ref()?)))
        .flat_map(|(port, bindings)| bindings.iter().map(move |binding| (port, binding)))
        .filter_map(|(port, binding)| {
            let host_port = binding.host_port.as_deref()?.parse().ok()?;
            let host = match binding.host_ip.as_deref() {
                None | Some("0.0.0.0" | "::") => String::new(),
                Some(host) => host.to_owned(),
            };
            Some(PublishedPort { port, host, host_port })
        })
        .collect();
    // The Engine lists them in no order, and one for all addresses of each family.
    found.sort_by(|a, b| (a.port, &a.host, a.host_port).cmp(&(b.port, &b.host, b.host_port)));
    found.dedup();
    found
}

fn missing(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("the Engine's answer about a container has no {what}"))
}

fn mount(found: MountPoint) -> Mount {
    let source = match found.typ.as_deref() {
        Some("volume") => MountSource::Volume(found.name.unwrap_or_default()),
        Some("tmpfs") => MountSource::Tmpfs,
        _ => MountSource::HostPath(found.source.unwrap_or_default()),
    };
    Mount { source, target: found.destination.unwrap_or_default(), read_only: !found.rw.unwrap_or(true) }
}

/// The Engine writes year 1 for "never".
pub(super) fn time(text: Option<&str>) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(text?).ok()?.with_timezone(&Utc);
    (time.timestamp() > 0).then_some(time)
}

fn restart_policy(policy: &EnginePolicy) -> RestartPolicy {
    match policy.name {
        Some(RestartPolicyNameEnum::ALWAYS) => RestartPolicy::Always,
        Some(RestartPolicyNameEnum::UNLESS_STOPPED) => RestartPolicy::UnlessStopped,
        Some(RestartPolicyNameEnum::ON_FAILURE) => {
            RestartPolicy::OnFailure(policy.maximum_retry_count.and_then(|n| u32::try_from(n).ok()).unwrap_or(0))
        }
        _ => RestartPolicy::No,
    }
}

/// Translates a policy for the Engine.
pub(super) fn engine_policy(policy: &RestartPolicy) -> EnginePolicy {
    let (name, retries) = match policy {
        RestartPolicy::No => (RestartPolicyNameEnum::NO, None),
        RestartPolicy::Always => (RestartPolicyNameEnum::ALWAYS, None),
        RestartPolicy::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, None),
        RestartPolicy::OnFailure(retries) => (RestartPolicyNameEnum::ON_FAILURE, Some(i64::from(*retries))),
    };
    EnginePolicy { name: Some(name), maximum_retry_count: retries }
}
