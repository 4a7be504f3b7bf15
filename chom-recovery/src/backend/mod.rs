//! What runs, and how to act on it.
//!
//! [`Backend`] is the port: one Compose project on one Engine. [`docker::DockerBackend`] is the implementation on
//! the Docker Engine API; `testing::sim::SimBackend` is the simulated one. Both pass `testing::backend`.
//!
//! Every effect but a one-off container states a wanted condition, so that doing it again is harmless and observing
//! it tells whether it happened. Work whose outcome matters never runs through [`Backend::exec`]: use a one-off
//! container, which can be found again by its name.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use futures::StreamExt;

use crate::{
    error::{Error, ErrorKind, Result},
    stream::ByteStream,
};

pub(crate) mod absent;
mod command;
pub mod compose;
mod container;
pub mod docker;
pub(crate) mod exchange;
mod image;
pub(crate) mod measure;
mod own;
mod project;
pub(crate) mod tar_scan;
mod volume;

pub use command::{Exec, ExecOutput, ExecRequest, ExecResult, LogLine, LogRequest, LogStream};
pub use container::{
    Container, ContainerEnvironment, ContainerState, HealthCheck, PublishedPort, RestartPolicy, Signal, StopOutcome,
    Usage,
};
pub use image::{Image, Pins};
pub(crate) use own::Connection;
pub use own::{Endpoint, Network, OneOff, OneOffFile};
pub use project::{Condition, Dependency, Engine, ModelSource, Mount, MountSource, Project, Service};
pub use volume::{Place, Volume, VolumeContent, VolumeIdentity};

/// Label that every container, volume and network made by this library carries; its value is the run's id.
pub const RUN_LABEL: &str = "chom-recovery.run";
/// Label that names what a container, volume or network of ours is for.
pub const ROLE_LABEL: &str = "chom-recovery.role";

/// Labels of an Engine object.
pub type Labels = BTreeMap<String, String>;

/// One Compose project on one Engine.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Names the Compose project.
    fn project(&self) -> &str;

    /// Names the Engine that is spoken to, in the form of `DOCKER_HOST`; every plan shows it.
    fn engine_address(&self) -> String;

    /// Asks the Engine who it is.
    async fn engine(&self) -> Result<Engine>;

    /// Returns the project's services as its own files describe them, where they can be read, else as the labels of
    /// its containers tell; each service after those it depends on.
    ///
    /// # Errors
    /// `NotFound`: neither files nor containers of the project exist.
    async fn model(&self) -> Result<Project>;

    /// Lists the containers of the project, stopped ones included, one-off ones not.
    async fn containers(&self) -> Result<Vec<Container>>;

    /// Lists the containers of the Engine, whosesoever they are, stopped ones included. A backend that knows none but
    /// those of the project lists these.
    async fn all_containers(&self) -> Result<Vec<Container>> {
        self.containers().await
    }

    /// Finds any container by name or id, of the project or ours.
    async fn container(&self, name: &str) -> Result<Option<Container>>;

    /// Reads the environment that a container was made with: its image's and its own.
    ///
    /// # Errors
    /// `NotFound`: there is no such container.
    async fn environment(&self, container: &str) -> Result<ContainerEnvironment>;

    /// Starts every container of a service and waits until each is running and, where it has a health check, healthy.
    /// Nothing happens when they are already. Dependencies are the caller's affair: see [`BackendExt::start_all`].
    ///
    /// # Errors
    /// `Timeout`: not healthy after `wait`. `NotFound`: the service has no container. `Unhealthy`: it exited.
    async fn start(&self, service: &str, wait: Duration) -> Result<()>;

    /// Stops every container of a service; the Engine kills what has not ended after `grace`.
    async fn stop(&self, service: &str, grace: Duration) -> Result<Vec<StopOutcome>>;

    /// Sets what the Engine does when a container ends.
    async fn set_restart_policy(&self, container: &str, policy: &RestartPolicy) -> Result<()>;

    /// Sends a signal to the first process of a running container. What that makes of it is not waited for.
    ///
    /// # Errors
    /// `NotFound`: there is no such container. `Conflict`: it does not run.
    async fn signal(&self, container: &str, signal: Signal) -> Result<()>;

    /// Sets how many containers a service has, through `docker compose up --scale`.
    async fn scale(&self, service: &str, replicas: u32) -> Result<()>;

    /// Finds an image on the Engine's host, by id or by name. The default knows none.
    async fn image(&self, _name: &str) -> Result<Option<Image>> {
        Err(Error::new(ErrorKind::Unsupported, "this backend does not know images"))
    }

    /// Makes the containers of services anew where they are not as the project's files and `pins` say, through
    /// `docker compose up`, and leaves new ones stopped. Their number stays. Nothing is pulled or built. What a container
    /// held outside of volumes is gone afterwards.
    ///
    /// # Errors
    /// `Failed`: Compose could not, or a container has another image than `pins` say.
    async fn recreate(&self, _services: &[String], _pins: Option<&Pins>) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "this backend cannot make containers of a service anew"))
    }

    /// Runs a command in a running container. See [`Exec`] for how it ends.
    async fn exec(&self, container: &str, request: ExecRequest) -> Result<Exec>;

    /// Reads the log of a container, both streams, oldest first; ends at the present.
    async fn logs(&self, container: &str, request: LogRequest) -> Result<LogStream>;

    /// Samples what a running container uses.
    async fn usage(&self, container: &str) -> Result<Usage>;

    /// Reads a path as an uncompressed tar stream. The container may be stopped.
    ///
    /// # Errors
    /// `NotFound`: no such path. An error item ends the stream when no byte came for the stall limit.
    async fn read_archive(&self, place: &Place, path: &str) -> Result<ByteStream>;

    /// Unpacks an uncompressed tar stream below an existing directory, with numeric owners and modes kept.
    ///
    /// A failure leaves a half-written tree: write into new volumes and directories only.
    async fn write_archive(&self, place: &Place, path: &str, tar: ByteStream) -> Result<()>;

    /// Lists the volumes of the project and those that carry [`RUN_LABEL`].
    async fn volumes(&self) -> Result<Vec<Volume>>;

    /// Finds a volume by its full name.
    async fn volume(&self, name: &str) -> Result<Option<Volume>>;

    /// Makes a volume; an existing one of the same name *and labels* is success.
    ///
    /// # Errors
    /// `AlreadyExists`: a volume of that name with other labels.
    async fn create_volume(&self, name: &str, labels: &Labels) -> Result<()>;

    /// Makes a volume whose content [`Backend::exchange_volumes`] can put in the place of another's: on the same
    /// filesystem, and where `beside` is a folder of the Engine's host, in a folder of the volume's name beside it.
    ///
    /// # Errors
    /// Those of [`Backend::create_volume`] and of [`Backend::check_exchangeable`].
    async fn create_volume_beside(&self, name: &str, labels: &Labels, beside: &str) -> Result<()>;

    /// Makes sure that the content behind a name can be exchanged without copying. `name` is that of a volume, or the
    /// absolute path of a folder of the Engine's host that a container mounts (a bind mount).
    ///
    /// # Errors
    /// `Unsupported`: another driver, a mount of something else, a folder that is a filesystem of its own or a link.
    async fn check_exchangeable(&self, name: &str) -> Result<()>;

    /// Removes a volume that carries [`RUN_LABEL`], with the folder that [`Backend::create_volume_beside`] made for
    /// it; an absent one is success.
    ///
    /// # Errors
    /// `Denied`: it does not carry the label. `Conflict`: a container uses it.
    async fn remove_volume(&self, name: &str) -> Result<()>;

    /// Measures the content of a volume, or of a folder of the Engine's host: its root's identity, bytes and entries.
    /// Uses a helper container where the folder cannot be reached.
    async fn measure_volume(&self, name: &str) -> Result<VolumeContent>;

    /// Puts the contents of two `local` volumes, or of a folder of the Engine's host and a volume that was made beside
    /// it, in each other's place, without copying.
    ///
    /// `first` and `second` are the identities that [`Backend::measure_volume`] (or [`Backend::volume_identity`])
    /// gave: with both already in the other's place nothing happens. No running container may use either.
    ///
    /// # Errors
    /// `Conflict`: the identities are neither as given nor exchanged, or a running container uses one of them.
    async fn exchange_volumes(&self, first: &VolumeIdentity, second: &VolumeIdentity) -> Result<()>;

    /// Tells which content the name of a volume, or the path of a folder of the Engine's host, leads to now. Cheap.
    async fn volume_identity(&self, name: &str) -> Result<VolumeIdentity>;

    /// Creates a container of ours and, unless the spec says otherwise, starts it.
    ///
    /// The name is the key by which [`Backend::container`] finds it after a crash; creating it is atomic on the
    /// Engine.
    ///
    /// # Errors
    /// `AlreadyExists`: a container of that name.
    async fn one_off(&self, spec: &OneOff) -> Result<Container>;

    /// Starts a container of ours that was created before.
    async fn start_container(&self, name: &str) -> Result<()>;

    /// Stops a container of ours; one that is not running is success.
    async fn stop_container(&self, name: &str, grace: Duration) -> Result<()>;

    /// Waits until a container has ended and returns its exit code.
    async fn wait_container(&self, name: &str, timeout: Duration) -> Result<i64>;

    /// Removes a container that carries [`RUN_LABEL`], its anonymous volumes and its isolated network; an absent
    /// one is success.
    ///
    /// # Errors
    /// `Denied`: it does not carry the label.
    async fn remove_container(&self, name: &str) -> Result<()>;

    /// Lists the containers that carry [`RUN_LABEL`].
    async fn own_containers(&self) -> Result<Vec<Container>>;

    /// Finds the folder of this host that is the root of a running container's files, as its processes see them; `None`: they
    /// are not reached from here. Paths below it are for [`Root::below`](crate::files::Root::below): a link in a container
    /// would lead to this host's files. The default reaches none.
    async fn container_root(&self, _container: &str) -> Result<Option<std::path::PathBuf>> {
        Ok(None)
    }

    /// Gives an address of a container's port that this process can dial; it stays open as long as the returned
    /// value lives.
    ///
    /// # Errors
    /// `Precondition`: nothing reaches that port from here; the hint says what to configure.
    async fn endpoint(&self, container: &str, port: u16) -> Result<Endpoint>;
}

/// Comfort on top of [`Backend`].
#[async_trait]
pub trait BackendExt: Backend {
    /// Returns the containers of one service.
    ///
    /// # Errors
    /// `NotFound`: it has none.
    async fn service_containers(&self, service: &str) -> Result<Vec<Container>> {
        let found: Vec<_> = self.containers().await?.into_iter().filter(|c| c.service == service).collect();
        if found.is_empty() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("service `{service}` of project `{}` has no container", self.project()),
            )
            .hint(format!("docker compose -p {} up --no-start {service}", self.project())));
        }
        Ok(found)
    }

    /// Runs a short command to its end.
    ///
    /// # Errors
    /// `Timeout` after `timeout` (the command may go on), `Corrupt` for more than 8 MiB of output.
    async fn run(&self, container: &str, request: ExecRequest, timeout: Duration) -> Result<ExecResult> {
        const LIMIT: usize = 8 << 20;
        let what = request.argv.first().cloned().unwrap_or_default();
        let work = async {
            let mut exec = self.exec(container, request).await?;
            let (mut stdout, mut stderr, mut exit) = (Vec::new(), Vec::new(), None);
            while let Some(item) = exec.next().await {
                match item? {
                    ExecOutput::Stdout(b) => stdout.extend_from_slice(&b),
                    ExecOutput::Stderr(b) => stderr.extend_from_slice(&b),
                    ExecOutput::Exited(code) => exit = Some(code),
                }
                if stdout.len() + stderr.len() > LIMIT {
                    return Err(Error::new(ErrorKind::Corrupt, format!("`{what}` printed more than {LIMIT} bytes")));
                }
            }
            let exit_code = exit
                .ok_or_else(|| Error::new(ErrorKind::OutcomeUnknown, format!("`{what}` was cut off by the Engine")))?;
            Ok(ExecResult { exit_code, stdout: stdout.into(), stderr: stderr.into() })
        };
        tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, format!("`{what}` in `{container}` took over {timeout:?}")))
        })
    }

    /// Starts services in dependency order, each when those it depends on are in the wanted condition.
    async fn start_all(&self, services: &[&str], wait: Duration) -> Result<()> {
        for service in self.model().await?.services {
            if services.contains(&service.name.as_str()) {
                self.start(&service.name, wait).await?;
            }
        }
        Ok(())
    }

    /// Stops services in reverse dependency order.
    async fn stop_all(&self, services: &[&str], grace: Duration) -> Result<Vec<StopOutcome>> {
        let mut outcomes = Vec::new();
        for service in self.model().await?.services.into_iter().rev() {
            if services.contains(&service.name.as_str()) {
                outcomes.extend(self.stop(&service.name, grace).await?);
            }
        }
        Ok(outcomes)
    }
}

impl<B: Backend + ?Sized> BackendExt for B {}
