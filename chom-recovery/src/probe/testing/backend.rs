//! A backend that says what it was told, for the unit tests of probes; it has no effects.

use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;

use crate::{
    backend::{
        Backend, Container, ContainerEnvironment, ContainerState, Endpoint, Engine, Exec, ExecRequest, HealthCheck,
        Labels, LogLine, LogRequest, LogStream, OneOff, Place, Project, RestartPolicy, Signal, StopOutcome, Usage,
        Volume, VolumeContent, VolumeIdentity,
    },
    error::{Error, ErrorKind, Result},
    stream::ByteStream,
};

/// What the backend says.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Its containers; `None` is an Engine that does not answer.
    pub(crate) containers: Option<Vec<Container>>,
    /// Lines of every log; `None` is a log that never ends.
    pub(crate) log: Option<Vec<&'static str>>,
    /// Volumes of the Engine.
    pub(crate) volumes: Vec<Volume>,
    /// How every start fails; `None` is no backend to start anything with.
    pub(crate) failed_start: Option<ErrorKind>,
}

/// A running container of a service.
pub(crate) fn container(service: &str) -> Container {
    Container {
        id: format!("id-{service}"),
        name: format!("p-{service}-1"),
        service: service.into(),
        image: service.into(),
        image_id: "sha256:00".into(),
        state: ContainerState::Running,
        health: HealthCheck::Healthy,
        exit_code: None,
        oom_killed: false,
        start_error: None,
        restart_count: 0,
        started_at: Some(chrono::Utc::now()),
        finished_at: None,
        restart_policy: RestartPolicy::No,
        mounts: Vec::new(),
        command: Vec::new(),
        labels: Labels::new(),
        published: Vec::new(),
    }
}

fn unsupported<T>(what: &str) -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, format!("`{what}` is not told")))
}

#[async_trait]
impl Backend for Told {
    fn project(&self) -> &'static str {
        "p"
    }

    fn engine_address(&self) -> String {
        "unix:///told".into()
    }

    async fn engine(&self) -> Result<Engine> {
        unsupported("engine")
    }

    async fn model(&self) -> Result<Project> {
        unsupported("model")
    }

    async fn containers(&self) -> Result<Vec<Container>> {
        self.containers.clone().ok_or_else(|| Error::new(ErrorKind::Unreachable, "the Engine does not answer"))
    }

    async fn logs(&self, _container: &str, _request: LogRequest) -> Result<LogStream> {
        let Some(lines) = &self.log else { return Ok(futures::stream::pending().boxed()) };
        let lines = lines.iter().map(|text| Ok(LogLine { at: None, is_stderr: true, text: (*text).into() }));
        Ok(futures::stream::iter(lines.collect::<Vec<_>>()).boxed())
    }

    async fn usage(&self, _container: &str) -> Result<Usage> {
        Ok(Usage::default())
    }

    async fn endpoint(&self, container: &str, port: u16) -> Result<Endpoint> {
        Err(Error::new(ErrorKind::Precondition, format!("nothing reaches port {port} of `{container}`")))
    }

    async fn container(&self, _name: &str) -> Result<Option<Container>> {
        unsupported("container")
    }

    async fn environment(&self, _container: &str) -> Result<ContainerEnvironment> {
        unsupported("environment")
    }

    async fn start(&self, _service: &str, _wait: Duration) -> Result<()> {
        match self.failed_start {
            Some(kind) => Err(Error::new(kind, "it did not start")),
            None => unsupported("start"),
        }
    }

    async fn stop(&self, _service: &str, _grace: Duration) -> Result<Vec<StopOutcome>> {
        unsupported("stop")
    }

    async fn set_restart_policy(&self, _container: &str, _policy: &RestartPolicy) -> Result<()> {
        unsupported("set_restart_policy")
    }

    async fn signal(&self, _container: &str, _signal: Signal) -> Result<()> {
        unsupported("signal")
    }

    async fn scale(&self, _service: &str, _replicas: u32) -> Result<()> {
        unsupported("scale")
    }

    async fn exec(&self, _container: &str, _request: ExecRequest) -> Result<Exec> {
        unsupported("exec")
    }

    async fn read_archive(&self, _place: &Place, _path: &str) -> Result<ByteStream> {
        unsupported("read_archive")
    }

    async fn write_archive(&self, _place: &Place, _path: &str, _tar: ByteStream) -> Result<()> {
        unsupported("write_archive")
    }

    async fn volumes(&self) -> Result<Vec<Volume>> {
        unsupported("volumes")
    }

    async fn volume(&self, name: &str) -> Result<Option<Volume>> {
        Ok(self.volumes.iter().find(|volume| volume.name == name).cloned())
    }

    async fn create_volume(&self, _name: &str, _labels: &Labels) -> Result<()> {
        unsupported("create_volume")
    }

    async fn create_volume_beside(&self, _name: &str, _labels: &Labels, _beside: &str) -> Result<()> {
        unsupported("create_volume_beside")
    }

    async fn check_exchangeable(&self, _name: &str) -> Result<()> {
        unsupported("check_exchangeable")
    }

    async fn remove_volume(&self, _name: &str) -> Result<()> {
        unsupported("remove_volume")
    }

    async fn measure_volume(&self, _name: &str) -> Result<VolumeContent> {
        unsupported("measure_volume")
    }

    async fn exchange_volumes(&self, _first: &VolumeIdentity, _second: &VolumeIdentity) -> Result<()> {
        unsupported("exchange_volumes")
    }

    async fn volume_identity(&self, _name: &str) -> Result<VolumeIdentity> {
        unsupported("volume_identity")
    }

    async fn one_off(&self, _spec: &OneOff) -> Result<Container> {
        unsupported("one_off")
    }

    async fn start_container(&self, _name: &str) -> Result<()> {
        unsupported("start_container")
    }

    async fn stop_container(&self, _name: &str, _grace: Duration) -> Result<()> {
        unsupported("stop_container")
    }

    async fn wait_container(&self, _name: &str, _timeout: Duration) -> Result<i64> {
        unsupported("wait_container")
    }

    async fn remove_container(&self, _name: &str) -> Result<()> {
        unsupported("remove_container")
    }

    async fn own_containers(&self) -> Result<Vec<Container>> {
        unsupported("own_containers")
    }
}
