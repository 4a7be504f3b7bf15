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
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind, Result},
    secret::Secret,
    stream::ByteStream,
};

pub(crate) mod absent;
pub mod compose;
pub mod docker;
pub(crate) mod exchange;
pub(crate) mod measure;
pub(crate) mod tar_scan;

/// Label that every container, volume and network made by this library carries; its value is the run's id.
pub const RUN_LABEL: &str = "chom-recovery.run";
/// Label that names what a container, volume or network of ours is for.
pub const ROLE_LABEL: &str = "chom-recovery.role";

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

    /// Sets how many containers a service has, through `docker compose up --scale`.
    async fn scale(&self, service: &str, replicas: u32) -> Result<()>;

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

    /// Gives an address of a container's port that this process can dial; it stays open as long as the returned
    /// value lives.
    ///
    /// # Errors
    /// `Precondition`: nothing reaches that port from here; the hint says what to configure.
    async fn endpoint(&self, container: &str, port: u16) -> Result<Endpoint>;
}

/// Variables of a container. Their values may be secrets: it prints names alone and cannot be serialised.
///
/// # Examples
/// ```
/// use chom_recovery::backend::ContainerEnvironment;
/// let environment: ContainerEnvironment = [("MYSQL_PASSWORD", "correct horse")].into_iter().collect();
/// assert_eq!(environment.get("MYSQL_PASSWORD"), Some("correct horse"));
/// assert!(!format!("{environment:?}").contains("horse"));
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ContainerEnvironment(BTreeMap<String, String>);

impl ContainerEnvironment {
    /// Returns the value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Lists the names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for ContainerEnvironment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl fmt::Debug for ContainerEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// Labels of an Engine object.
pub type Labels = BTreeMap<String, String>;

/// Who the Engine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// Engine's own id, stable over restarts.
    pub id: String,
    /// Host name as the Engine sees it.
    pub host: String,
    /// Engine version, for example `20.10.24`.
    pub version: String,
    /// API version in use after negotiation, for example `1.41`.
    pub api_version: String,
    /// Data root on the Engine's host.
    pub root: String,
    /// Whether the Engine runs on the machine of this process.
    pub is_local: bool,
}

/// A Compose project as its files (or labels) describe it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    /// Project name.
    pub name: String,
    /// Services; each stands after those it depends on.
    pub services: Vec<Service>,
    /// Key in the file to full volume name on the Engine.
    pub volumes: BTreeMap<String, String>,
    /// Where the description came from.
    pub source: ModelSource,
}

impl Project {
    /// Finds a service by name.
    ///
    /// # Errors
    /// `NotFound`, with the names that exist.
    pub fn service(&self, name: &str) -> Result<&Service> {
        self.services.iter().find(|s| s.name == name).ok_or_else(|| {
            let names: Vec<_> = self.services.iter().map(|s| s.name.as_str()).collect();
            Error::new(ErrorKind::NotFound, format!("project `{}` has no service `{name}`", self.name))
                .with("services", names.join(", "))
        })
    }
}

/// Where a [`Project`] came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelSource {
    /// `docker compose config`.
    Files,
    /// The labels of its containers; services without a container are unknown.
    Labels,
}

/// A service of the project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Name in the file.
    pub name: String,
    /// Image reference.
    pub image: Option<String>,
    /// Services that must be in a condition before this one starts.
    pub depends_on: Vec<Dependency>,
    /// Mounts of named volumes and host paths.
    pub mounts: Vec<Mount>,
    /// Wanted number of containers.
    pub replicas: u32,
    /// Whether the file gives it a health check.
    pub has_health_check: bool,
    /// Whether a fixed `container_name` forbids more than one container.
    pub has_fixed_name: bool,
}

/// An edge of the dependency graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// Service depended on.
    pub service: String,
    /// What is waited for.
    pub condition: Condition,
}

/// What a dependency waits for; the names are Compose's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Running.
    #[serde(rename = "service_started")]
    Started,
    /// Health check passes.
    #[serde(rename = "service_healthy")]
    Healthy,
    /// Ended with exit code 0.
    #[serde(rename = "service_completed_successfully")]
    Completed,
}

/// A mount into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Volume (by full name) or host path.
    pub source: MountSource,
    /// Path in the container.
    pub target: String,
    /// Whether the container cannot write it.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A volume, by its full name.
    Volume(String),
    /// A path on the Engine's host.
    HostPath(String),
    /// Memory.
    Tmpfs,
}

/// A container as the Engine reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Full id.
    pub id: String,
    /// Name without the leading slash.
    pub name: String,
    /// Compose service, empty for containers of ours.
    pub service: String,
    /// Image reference it was made from.
    pub image: String,
    /// Image id (digest of its configuration): the exact bytes.
    pub image_id: String,
    /// State now.
    pub state: ContainerState,
    /// Health check's verdict.
    pub health: HealthCheck,
    /// Exit code, once it has ended; `None` also where the Engine has not recorded it yet.
    pub exit_code: Option<i64>,
    /// Whether the kernel killed it for want of memory.
    pub oom_killed: bool,
    /// How often the Engine restarted it.
    pub restart_count: u64,
    /// Last start.
    pub started_at: Option<DateTime<Utc>>,
    /// Last end.
    pub finished_at: Option<DateTime<Utc>>,
    /// What happens when it ends.
    pub restart_policy: RestartPolicy,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Command after the image's entry point.
    pub command: Vec<String>,
    /// All labels.
    pub labels: Labels,
}

impl Container {
    /// Tells whether it runs and, where it has a health check, is healthy.
    pub fn is_ready(&self) -> bool {
        self.state == ContainerState::Running && matches!(self.health, HealthCheck::Healthy | HealthCheck::Absent)
    }

    /// Returns the full name of the volume mounted at `target`.
    pub fn volume_at(&self, target: &str) -> Option<&str> {
        self.mounts.iter().find(|m| m.target == target).and_then(|m| match &m.source {
            MountSource::Volume(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Returns what holds the data at `target`: the full name of a volume, or the path of a folder of the Engine's host.
    pub fn data_at(&self, target: &str) -> Option<&str> {
        self.mounts.iter().find(|m| m.target == target).and_then(|m| match &m.source {
            MountSource::Volume(data) | MountSource::HostPath(data) => Some(data.as_str()),
            MountSource::Tmpfs => None,
        })
    }
}

/// Engine's container states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Runs.
    Running,
    /// Frozen.
    Paused,
    /// The Engine is starting it again.
    Restarting,
    /// Being removed.
    Removing,
    /// Ended.
    Exited,
    /// The Engine failed to remove it.
    Dead,
}

/// Verdict of a container's own health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthCheck {
    /// It has none.
    Absent,
    /// No verdict yet.
    Starting,
    /// Passes.
    Healthy,
    /// Fails.
    Unhealthy,
}

/// Engine's restart policies, in Compose's spelling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Stay down.
    No,
    /// Start again whatever happened, also when the Engine starts.
    Always,
    /// Like `Always` but not after it was stopped on purpose.
    UnlessStopped,
    /// Start again after a failure, at most so many times (0: without limit).
    OnFailure(u32),
}

/// How a stop went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StopOutcome {
    /// Container.
    pub container: String,
    /// Whether it ran before.
    pub was_running: bool,
    /// Exit code; 137 tells that the grace period was not enough.
    pub exit_code: Option<i64>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// A command to run in a container. Secrets go through `stdin`, never through `argv` or `env`.
#[derive(Default)]
pub struct ExecRequest {
    /// Program and arguments; no shell.
    pub argv: Vec<String>,
    /// Additional environment, visible to everybody who can inspect the container.
    pub env: Vec<(String, String)>,
    /// User, in the Engine's form (`uid[:gid]` or name).
    pub user: Option<String>,
    /// Standard input; closed after its end. `None` is an empty input.
    pub stdin: Option<ByteStream>,
}

impl fmt::Debug for ExecRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecRequest").field("argv", &self.argv).field("user", &self.user).finish_non_exhaustive()
    }
}

impl ExecRequest {
    /// Makes a request for a program with arguments.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Sets the user.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Sets the standard input.
    #[must_use]
    pub fn stdin(mut self, stdin: ByteStream) -> Self {
        self.stdin = Some(stdin);
        self
    }
}

/// A running command: its output, then exactly one [`ExecOutput::Exited`] as the last item.
///
/// A stream that ends without it was cut, and ends with an `Err` item of kind `Corrupt` or `OutcomeUnknown`.
/// The Engine has been seen to lose output bytes without any error, so what the output means must be checked by its
/// own trailer, count or hash.
///
/// Dropping it does not end the command: the Engine cannot kill it.
pub type Exec = futures::stream::BoxStream<'static, Result<ExecOutput>>;

/// An item of [`Exec`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutput {
    /// Bytes of standard output.
    Stdout(Bytes),
    /// Bytes of standard error.
    Stderr(Bytes),
    /// The command ended with this code, and all that the Engine had of its output came before.
    Exited(i64),
}

/// Everything a short command printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecResult {
    /// Exit code.
    pub exit_code: i64,
    /// Standard output.
    pub stdout: Bytes,
    /// Standard error.
    pub stderr: Bytes,
}

impl ExecResult {
    /// Returns the result when the command succeeded.
    ///
    /// # Errors
    /// `Failed`, with the end of what it printed.
    pub fn success(self, what: &str) -> Result<Self> {
        if self.exit_code == 0 {
            return Ok(self);
        }
        let text = String::from_utf8_lossy(if self.stderr.is_empty() { &self.stdout } else { &self.stderr });
        let tail: String = text.trim_end().chars().rev().take(800).collect::<Vec<_>>().into_iter().rev().collect();
        Err(Error::new(ErrorKind::Failed, format!("{what} ended with exit code {}", self.exit_code))
            .with("output", tail))
    }
}

/// Which part of a log to read.
#[derive(Debug, Clone, Default)]
pub struct LogRequest {
    /// Only lines at or after this time.
    pub since: Option<DateTime<Utc>>,
    /// Only so many lines from the end.
    pub tail: Option<usize>,
}

/// Lines of a log.
pub type LogStream = futures::stream::BoxStream<'static, Result<LogLine>>;

/// A line of a container's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Time at which the Engine received it.
    pub at: Option<DateTime<Utc>>,
    /// Whether it came from standard error.
    pub is_stderr: bool,
    /// Text without line end; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// A sample of what a container uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Part of one core in use: 1.0 is one core.
    pub cpu: f64,
    /// Bytes of memory, page cache not counted.
    pub memory: u64,
    /// Limit of memory in bytes; the host's memory where none is set.
    pub memory_limit: u64,
    /// Bytes read from block devices since it started.
    pub read: u64,
    /// Bytes written to block devices since it started.
    pub written: u64,
}

/// Where a path lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a container, running or not.
    Container(String),
    /// In a volume; the path is relative to its root.
    Volume(String),
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Full name on the Engine.
    pub name: String,
    /// Driver; contents can be exchanged without copying for `local` alone.
    pub driver: String,
    /// Folder on the Engine's host.
    pub mount_point: String,
    /// Driver options, for example a bind or NFS mount.
    pub options: BTreeMap<String, String>,
    /// All labels.
    pub labels: Labels,
    /// When it was made.
    pub created_at: Option<DateTime<Utc>>,
}

/// Which content a volume's name leads to: the inode of its root folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeIdentity {
    /// Full name of the volume, or path of a folder of the Engine's host.
    pub volume: String,
    /// Device number of the root folder.
    pub device: u64,
    /// Inode number of the root folder.
    pub inode: u64,
}

/// What a volume holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeContent {
    /// Which content this is.
    pub identity: VolumeIdentity,
    /// Bytes allocated on disk.
    pub bytes: u64,
    /// Files and folders below the root.
    pub entries: u64,
    /// Owner of the root folder.
    pub uid: u32,
    /// Group of the root folder.
    pub gid: u32,
    /// Permission bits of the root folder.
    pub mode: u32,
    /// Bytes free on its filesystem.
    pub free_bytes: u64,
    /// Inodes free on its filesystem; 0 where the filesystem has no such number.
    pub free_inodes: u64,
}

/// A container of ours.
#[derive(Debug, Clone)]
pub struct OneOff {
    /// Name on the Engine, unique: the key to find it by.
    pub name: String,
    /// Image reference or id. It must be on the host: nothing is pulled during a recovery.
    pub image: String,
    /// Replaces the image's entry point when set.
    pub entrypoint: Option<Vec<String>>,
    /// Arguments.
    pub command: Vec<String>,
    /// Environment, visible in `inspect`: no secrets.
    pub env: Vec<(String, String)>,
    /// User.
    pub user: Option<String>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Files to put into the container before it starts.
    pub files: Vec<OneOffFile>,
    /// What it can reach.
    pub network: Network,
    /// Labels; [`RUN_LABEL`] is required.
    pub labels: Labels,
    /// Limit of memory in bytes.
    pub memory: Option<u64>,
    /// `false` only creates it.
    pub start: bool,
}

/// A file put into a container of ours before it starts; the folder must exist in the image.
#[derive(Debug, Clone)]
pub struct OneOffFile {
    /// Absolute path.
    pub path: String,
    /// Content.
    pub content: Secret,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a container of ours can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Nothing, not even this process.
    None,
    /// A network of its own without a way out, which [`Backend::endpoint`] can dial into.
    Isolated,
}

/// An address that can be dialled while this value lives.
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    _guard: Option<Box<dyn Send + Sync>>,
}

impl Endpoint {
    /// Makes an endpoint; `guard` keeps a tunnel open until it is dropped.
    pub fn new(host: impl Into<String>, port: u16, guard: Option<Box<dyn Send + Sync>>) -> Self {
        Self { host: host.into(), port, _guard: guard }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
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
