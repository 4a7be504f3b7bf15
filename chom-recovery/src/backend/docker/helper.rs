//! Helper containers: never started ones that only mount a volume for the archive API, and short-lived ones that
//! look at or rename folders on the Engine's host.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bollard::{
    models::{
        ContainerCreateBody, HostConfig, Mount as EngineMount, MountType, MountVolumeOptions, RestartPolicy,
        RestartPolicyNameEnum,
    },
    query_parameters::{CreateContainerOptionsBuilder, ListImagesOptions, RemoveContainerOptionsBuilder},
};
use futures::StreamExt;

use super::{client::Connection, error::optional};
use crate::{
    backend::{ContainerState, ExecOutput, ExecRequest, ROLE_LABEL, RUN_LABEL},
    error::{Error, ErrorKind, Result},
};

/// Value of [`ROLE_LABEL`] on helper containers.
pub const HELPER_ROLE: &str = "helper";
/// Where a helper sees what it helps with: a path that no image uses.
pub(super) const HELPER_MOUNT: &str = "/.chom-recovery";
/// How long a started helper lives when nobody removes it, in seconds.
const HELPER_LIFE: &str = "900";
/// Age after which a never-started helper counts as left over.
const LEFT_OVER_AFTER: chrono::Duration = chrono::Duration::hours(48);

/// A helper container; removed when dropped, by [`sweep`](Connection::sweep_helpers) where that could not happen.
#[derive(Debug)]
pub(super) struct Helper {
    connection: Arc<Connection>,
    pub(super) id: String,
    removed: bool,
}

impl Helper {
    /// Removes it now.
    pub(super) async fn remove(mut self) -> Result<()> {
        self.removed = true;
        self.connection.force_remove(&self.id, "helper").await
    }

    /// Runs a command in it and returns what it printed.
    ///
    /// # Errors
    /// `Failed`: it did not end with 0.
    pub(super) async fn run(&self, argv: &[&str]) -> Result<String> {
        let work = async {
            let mut exec = self.connection.exec(&self.id, ExecRequest::new(argv.iter().copied())).await?;
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            while let Some(item) = exec.next().await {
                match item? {
                    ExecOutput::Stdout(bytes) => stdout.extend_from_slice(&bytes),
                    ExecOutput::Stderr(bytes) => stderr.extend_from_slice(&bytes),
                    ExecOutput::Exited(0) => return Ok(String::from_utf8_lossy(&stdout).into_owned()),
                    ExecOutput::Exited(code) => {
                        let said = String::from_utf8_lossy(&stderr).trim().to_owned();
                        return Err(Error::new(ErrorKind::Failed, format!("helper container: exit code {code}"))
                            .with("command", argv.join(" "))
                            .with("output", said));
                    }
                }
            }
            Err(Error::new(ErrorKind::OutcomeUnknown, "helper container: the command was cut off"))
        };
        let deadline = self.connection.options.stall_timeout.max(Duration::from_secs(30));
        tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, format!("helper container: a command took over {deadline:?}")))
        })
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if self.removed {
            return;
        }
        let (connection, id) = (Arc::clone(&self.connection), std::mem::take(&mut self.id));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = connection.force_remove(&id, "helper").await {
                    tracing::warn!(%error, "a helper container is left over");
                }
            });
        }
    }
}

/// Mounts a volume where a helper looks for it.
pub(super) fn volume_mount(volume: &str, read_only: bool) -> EngineMount {
    EngineMount {
        typ: Some(MountType::VOLUME),
        source: Some(volume.into()),
        target: Some(HELPER_MOUNT.into()),
        read_only: Some(read_only),
        // An empty volume must stay empty.
        volume_options: Some(MountVolumeOptions { no_copy: Some(true), ..Default::default() }),
        ..Default::default()
    }
}

/// Mounts a folder of the Engine's host where a helper looks for it.
pub(super) fn folder_mount(folder: &str) -> EngineMount {
    EngineMount {
        typ: Some(MountType::BIND),
        source: Some(folder.into()),
        target: Some(HELPER_MOUNT.into()),
        ..Default::default()
    }
}

impl Connection {
    /// Makes a helper that is never started. Any image does.
    pub(super) async fn idle_helper(self: &Arc<Self>, project: &str, mount: EngineMount) -> Result<Helper> {
        let mut images = self.helper_images(project).await?;
        if images.is_empty() {
            let all = self.read("list images", self.control.list_images(None::<ListImagesOptions>)).await?;
            images.extend(all.into_iter().map(|image| image.id).next());
        }
        let mut last = no_image();
        for image in images {
            match self.create_helper(&image, mount.clone(), &["chom-recovery: never started"]).await {
                Ok(helper) => return Ok(helper),
                // An image may be gone while its containers live on.
                Err(error) if error.kind() == ErrorKind::NotFound => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Makes a helper and starts it; it has a shell and the usual tools.
    pub(super) async fn working_helper(self: &Arc<Self>, project: &str, mount: EngineMount) -> Result<Helper> {
        let mut last = no_image();
        for image in self.helper_images(project).await? {
            // `sleep` ends by itself should nobody be left to remove the container.
            let helper = match self.create_helper(&image, mount.clone(), &["sleep", HELPER_LIFE]).await {
                Ok(helper) => helper,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    last = error;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let tried = async {
                self.start(&helper.id, "helper").await?;
                helper.run(&["sh", "-c", "command -v stat du find mv sync >/dev/null"]).await
            };
            match tried.await {
                Ok(_) => return Ok(helper),
                Err(error) if error.kind() == ErrorKind::Timeout || error.kind() == ErrorKind::Unreachable => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::debug!(%image, %error, "image is of no use for a helper");
                    helper.remove().await?;
                    last = Error::new(ErrorKind::Precondition, "no image on the Engine's host can serve as a helper")
                        .hint("name one with a shell and coreutils or busybox as helper image")
                        .caused_by(error);
                }
            }
        }
        Err(last)
    }

    async fn helper_images(&self, project: &str) -> Result<Vec<String>> {
        if let Some(image) = &self.options.helper_image {
            return Ok(vec![image.clone()]);
        }
        let mut images: Vec<String> = Vec::new();
        for container in self.project_containers(project).await? {
            if !images.contains(&container.image_id) {
                images.push(container.image_id);
            }
        }
        Ok(images)
    }

    async fn create_helper(self: &Arc<Self>, image: &str, mount: EngineMount, command: &[&str]) -> Result<Helper> {
        let name = format!("chom-recovery-helper-{}", ulid::Ulid::new().to_string().to_lowercase());
        let labels = HashMap::from([
            (RUN_LABEL.to_owned(), self.options.run.clone()),
            (ROLE_LABEL.to_owned(), HELPER_ROLE.to_owned()),
        ]);
        let body = ContainerCreateBody {
            image: Some(image.into()),
            entrypoint: Some(command.iter().map(|part| (*part).to_owned()).collect()),
            cmd: Some(Vec::new()),
            user: Some("0:0".into()),
            labels: Some(labels),
            host_config: Some(HostConfig {
                network_mode: Some("none".into()),
                mounts: Some(vec![mount]),
                restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), ..Default::default() }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let created =
            self.change("create a helper container", self.control.create_container(Some(options), body)).await?;
        Ok(Helper { connection: Arc::clone(self), id: created.id, removed: false })
    }

    /// Removes a container whatever its state, with its anonymous volumes, and sees it gone.
    pub(super) async fn force_remove(&self, id: &str, name: &str) -> Result<()> {
        let deadline = std::time::Instant::now() + self.options.control_timeout;
        loop {
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            let removed = self
                .change(format!("remove container `{name}`"), self.control.remove_container(id, Some(options)))
                .await;
            match removed {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                // "Removal is already in progress": somebody else's, wait for its end.
                Err(error) if error.kind() == ErrorKind::Conflict && std::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes helper containers that nobody can be using any more.
    pub(super) async fn sweep_helpers(&self) -> Result<usize> {
        let label = format!("{ROLE_LABEL}={HELPER_ROLE}");
        let mut swept = 0;
        for helper in self.matching(&[("label", &label), ("label", RUN_LABEL)]).await? {
            let left_over = match helper.state {
                ContainerState::Exited | ContainerState::Dead => true,
                ContainerState::Created => {
                    let inspected = optional(self.inspect(&helper.id).await)?;
                    let created = inspected.and_then(|c| c.created);
                    super::inspect::time(created.as_deref())
                        .is_some_and(|at| chrono::Utc::now().signed_duration_since(at) > LEFT_OVER_AFTER)
                }
                _ => false,
            };
            if left_over {
                self.force_remove(&helper.id, &helper.name).await?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}

fn no_image() -> Error {
    Error::new(ErrorKind::Precondition, "there is no image for a helper container")
        .hint("name an image that is on the Engine's host as helper image")
}
