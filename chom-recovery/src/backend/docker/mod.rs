//! [`Backend`] on the Docker Engine API.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    Backend, BackendExt, Condition, Container, ContainerEnvironment, Endpoint, Engine, Exec, ExecRequest, Image,
    Labels, LogRequest, LogStream, OneOff, Pins, Place, Project, RUN_LABEL, RestartPolicy, Signal, StopOutcome, Usage,
    Volume, VolumeContent, VolumeIdentity,
};
use crate::{
    error::{Error, ErrorKind, Result},
    stream::ByteStream,
    system::Compose,
};

pub mod address;
mod archive;
mod client;
mod data;
mod error;
mod exchange;
mod exec;
mod helper;
mod inspect;
mod lifecycle;
mod logs;
mod oneoff;
mod project;
mod reach;
mod ssh;
mod volume;

pub use client::DockerOptions;
pub use helper::HELPER_ROLE;

use client::Connection;
use error::optional;

/// Targets of log records that hold request bodies or environments at `debug` and below: keep them at `info`, or
/// passwords reach the log.
pub const NOISY_LOG_TARGETS: &[&str] =
    &["bollard", "hyper", "hyper_util", "hyperlocal", "reqwest", "rustls", "mysql_async", "h2", "tower"];

/// One Compose project on one Docker Engine.
///
/// # Examples
/// ```no_run
/// # async fn example(system: &chom_recovery::System) -> chom_recovery::Result<()> {
/// use chom_recovery::backend::{Backend, docker::{DockerBackend, DockerOptions}};
/// let backend = DockerBackend::connect(&system.compose, DockerOptions::default()).await?;
/// println!("{} on {}", backend.project(), backend.engine_address());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct DockerBackend {
    connection: Arc<Connection>,
    compose: Compose,
}

impl DockerBackend {
    /// Finds the Engine as the Docker CLI would, connects, and agrees on an API version.
    ///
    /// # Errors
    /// `InvalidInput`, `NotFound`, `Precondition`: the address, context or certificates cannot be used.
    /// `Unreachable`, `Timeout`: the Engine does not answer. `Authentication`: ssh refused. `Unsupported`: no API
    /// version in common.
    pub async fn connect(compose: &Compose, options: DockerOptions) -> Result<Self> {
        let address = address::resolve(compose, &options.environment)?;
        tracing::info!(%address, project = %compose.project, "connecting to the Engine");
        let connection = Connection::open(address, options).await?;
        Ok(Self { connection: Arc::new(connection), compose: compose.clone() })
    }

    /// Removes helper containers that nobody can be using any more, and returns how many.
    pub async fn sweep_helpers(&self) -> Result<usize> {
        self.connection.sweep_helpers().await
    }
}

impl Connection {
    /// Tells whether the Engine's folders are this machine's.
    ///
    /// A socket alone does not: it may be forwarded. Host name and kernel have to be the same too, and the data
    /// root has to be there.
    async fn is_local(&self) -> Result<bool> {
        Ok(self.engine().await?.is_local)
    }

    async fn engine(&self) -> Result<Engine> {
        let info = self.read("ask the Engine who it is", self.control.info()).await?;
        let host = info.name.unwrap_or_default();
        let root = info.docker_root_dir.unwrap_or_default();
        let here = rustix::system::uname();
        let is_local = matches!(self.address, address::Address::Unix(_))
            && here.nodename().to_str() == Ok(host.as_str())
            && here.release().to_str().ok() == info.kernel_version.as_deref()
            && Path::new(&root).is_dir();
        Ok(Engine {
            id: info.id.unwrap_or_default(),
            host,
            version: info.server_version.unwrap_or_default(),
            api_version: self.api_version.clone(),
            root,
            is_local,
        })
    }
}

#[async_trait]
impl Backend for DockerBackend {
    fn project(&self) -> &str {
        &self.compose.project
    }

    fn engine_address(&self) -> String {
        self.connection.address.to_string()
    }

    async fn engine(&self) -> Result<Engine> {
        self.connection.engine().await
    }

    async fn model(&self) -> Result<Project> {
        self.connection.model(&self.compose).await
    }

    async fn containers(&self) -> Result<Vec<Container>> {
        self.connection.project_containers(&self.compose.project).await
    }

    async fn all_containers(&self) -> Result<Vec<Container>> {
        self.connection.matching(&[]).await
    }

    async fn container(&self, name: &str) -> Result<Option<Container>> {
        optional(self.connection.container(name).await)
    }

    async fn environment(&self, container: &str) -> Result<ContainerEnvironment> {
        let config = self.connection.inspect(container).await?.config.unwrap_or_default();
        Ok(config.env.unwrap_or_default().iter().filter_map(|line| line.split_once('=')).collect())
    }

    async fn start(&self, service: &str, wait: Duration) -> Result<()> {
        let containers = self.service_containers(service).await?;
        let starting = containers.iter().map(|container| self.connection.start_and_wait(container, wait));
        let started: Result<()> = futures::future::join_all(starting).await.into_iter().collect();
        match started {
            Ok(()) => Ok(()),
            // A job that others wait for has done its work when it ended well.
            Err(error) if error.kind() == ErrorKind::Unhealthy && self.is_done_job(service).await? => Ok(()),
            Err(error) => Err(error.with("service", service)),
        }
    }

    async fn stop(&self, service: &str, grace: Duration) -> Result<Vec<StopOutcome>> {
        let containers = self.service_containers(service).await?;
        let stopping = containers.iter().map(|container| self.connection.stop_and_see(container, grace));
        // All of them, also where one fails: a writer must not be left running because another would not end.
        futures::future::join_all(stopping).await.into_iter().collect()
    }

    async fn set_restart_policy(&self, container: &str, policy: &RestartPolicy) -> Result<()> {
        self.connection.update_restart_policy(container, policy).await
    }

    async fn signal(&self, container: &str, signal: Signal) -> Result<()> {
        self.connection.signal(container, signal).await
    }

    async fn scale(&self, service: &str, replicas: u32) -> Result<()> {
        self.connection.scale(&self.compose, service, replicas).await
    }

    async fn image(&self, name: &str) -> Result<Option<Image>> {
        self.connection.image(name).await
    }

    async fn recreate(&self, services: &[String], pins: Option<&Pins>) -> Result<()> {
        self.connection.recreate(&self.compose, services, pins).await
    }

    async fn exec(&self, container: &str, request: ExecRequest) -> Result<Exec> {
        self.connection.exec(container, request).await
    }

    async fn logs(&self, container: &str, request: LogRequest) -> Result<LogStream> {
        self.connection.logs(container, request).await
    }

    async fn usage(&self, container: &str) -> Result<Usage> {
        self.connection.usage(container).await
    }

    async fn read_archive(&self, place: &Place, path: &str) -> Result<ByteStream> {
        self.connection.read_archive(&self.compose.project, place, path).await
    }

    async fn write_archive(&self, place: &Place, path: &str, tar: ByteStream) -> Result<()> {
        self.connection.write_archive(&self.compose.project, place, path, tar).await
    }

    async fn volumes(&self) -> Result<Vec<Volume>> {
        self.connection.volumes(&self.compose.project).await
    }

    async fn volume(&self, name: &str) -> Result<Option<Volume>> {
        optional(self.connection.volume(name).await)
    }

    async fn create_volume(&self, name: &str, labels: &Labels) -> Result<()> {
        self.connection.create_volume(name, labels, &[]).await
    }

    async fn create_volume_beside(&self, name: &str, labels: &Labels, beside: &str) -> Result<()> {
        self.connection.create_volume_beside(&self.compose.project, name, labels, beside).await
    }

    async fn check_exchangeable(&self, name: &str) -> Result<()> {
        self.connection.check_exchangeable(&self.compose.project, name).await
    }

    async fn remove_volume(&self, name: &str) -> Result<()> {
        self.connection.remove_volume(&self.compose.project, name).await
    }

    async fn measure_volume(&self, name: &str) -> Result<VolumeContent> {
        self.connection.measure_volume(&self.compose.project, name).await
    }

    async fn exchange_volumes(&self, first: &VolumeIdentity, second: &VolumeIdentity) -> Result<()> {
        self.connection.exchange_volumes(&self.compose.project, first, second).await
    }

    async fn volume_identity(&self, name: &str) -> Result<VolumeIdentity> {
        self.connection.volume_identity(&self.compose.project, name).await
    }

    async fn one_off(&self, spec: &OneOff) -> Result<Container> {
        self.connection.one_off(spec).await
    }

    async fn start_container(&self, name: &str) -> Result<()> {
        self.own(name).await?;
        self.connection.start(name, name).await
    }

    async fn stop_container(&self, name: &str, grace: Duration) -> Result<()> {
        let container = self.own(name).await?;
        self.connection.stop_and_see(&container, grace).await.map(drop)
    }

    async fn wait_container(&self, name: &str, timeout: Duration) -> Result<i64> {
        self.connection.wait_for_end(name, timeout).await
    }

    async fn remove_container(&self, name: &str) -> Result<()> {
        self.connection.remove_one_off(name).await
    }

    async fn own_containers(&self) -> Result<Vec<Container>> {
        self.connection.matching(&[("label", RUN_LABEL)]).await
    }

    async fn container_root(&self, container: &str) -> Result<Option<std::path::PathBuf>> {
        self.connection.container_root(container).await
    }

    async fn endpoint(&self, container: &str, port: u16) -> Result<Endpoint> {
        self.connection.endpoint(container, port).await
    }
}

impl DockerBackend {
    /// Finds a container of ours.
    async fn own(&self, name: &str) -> Result<Container> {
        let container = self.connection.container(name).await?;
        if container.labels.contains_key(RUN_LABEL) {
            return Ok(container);
        }
        Err(Error::new(
            ErrorKind::Denied,
            format!("container `{name}` does not carry the label `{RUN_LABEL}`: it is not ours"),
        ))
    }

    /// Tells whether a service is a job that ended well and whose end another service waits for.
    async fn is_done_job(&self, service: &str) -> Result<bool> {
        let ended_well = self.service_containers(service).await?.iter().all(|c| c.exit_code == Some(0));
        Ok(ended_well
            && self
                .model()
                .await?
                .services
                .iter()
                .flat_map(|other| &other.depends_on)
                .any(|edge| edge.service == service && edge.condition == Condition::Completed))
    }
}
