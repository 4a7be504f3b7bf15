//! A backend without an Engine: the world is a folder, and outlives a killed process.
//!
//! A volume's content is a folder of plain files, so that a test can keep a "server's" data there, exchange it, and
//! look at what is left. Commands and programs are closures that a test registers.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use chrono::Utc;
use futures::{FutureExt, future::BoxFuture};
use tokio::io::DuplexStream;

mod backend;
mod fault;
mod state;
#[cfg(test)]
mod tests;

pub use fault::{Call, Fault, Moment, Op};
use fault::{Faults, injected};
use state::{Record, World, append, read_lines};

use crate::{
    backend::{
        Container, ContainerState, ExecResult, HealthCheck, LogLine, MountSource, Place, RUN_LABEL, RestartPolicy,
        Service, Signal, StopOutcome, Usage, Volume, compose,
    },
    error::{Error, ErrorKind, Result},
};

/// A command that was asked for, as its closure sees it.
#[derive(Debug, Clone)]
pub struct SimCommand {
    /// The container it runs in.
    pub container: Container,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// User.
    pub user: Option<String>,
    /// All of its input.
    pub stdin: Bytes,
    /// The container's own files; those of mounts are at [`SimCommand::path`].
    pub files: PathBuf,
    world: World,
}

impl SimCommand {
    /// Returns where a path of the container lies on this host.
    pub fn path(&self, path: &str) -> PathBuf {
        self.world.path_in(&self.container, path)
    }
}

/// A start of a container or a signal to it, as the closure that stands for its program sees it.
#[derive(Debug, Clone)]
pub struct SimStart {
    /// The container.
    pub container: Container,
    /// Entry point and arguments.
    pub argv: Vec<String>,
    /// The container's own files; those of mounts are at [`SimStart::path`].
    pub files: PathBuf,
    world: World,
    printed: Vec<LogLine>,
}

impl SimStart {
    fn of(world: &World, record: &Record) -> Self {
        Self {
            container: record.container.clone(),
            argv: record.argv.clone(),
            files: world.files_of(&record.container.name),
            world: world.clone(),
            printed: Vec::new(),
        }
    }

    /// Returns where a path of the container lies on this host.
    pub fn path(&self, path: &str) -> PathBuf {
        self.world.path_in(&self.container, path)
    }

    /// Prints a line.
    pub fn print(&mut self, text: impl Into<String>, is_stderr: bool) {
        self.printed.push(LogLine { at: Some(Utc::now()), is_stderr, text: text.into() });
    }
}

/// What a program does after its container was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimLife {
    /// It keeps running, and its health check says this.
    Runs(HealthCheck),
    /// It ends with this code.
    Ends(i64),
}

type CommandFn = Arc<dyn Fn(SimCommand) -> BoxFuture<'static, Result<ExecResult>> + Send + Sync>;
type ProgramFn = Arc<dyn Fn(&mut SimStart) -> SimLife + Send + Sync>;
type SignalFn = Arc<dyn Fn(&mut SimStart, Signal) + Send + Sync>;
type ServerFn = Arc<dyn Fn(DuplexStream) + Send + Sync>;

/// Where a container's port leads.
#[derive(Clone)]
enum Port {
    Address(String, u16),
    Server(ServerFn),
}

/// Bytes between a client and a server in this process that wait for the other side.
const IN_FLIGHT: usize = 64 << 10;

/// The simulated backend.
///
/// # Examples
/// ```
/// # async fn example() -> chom_recovery::Result<()> {
/// use chom_recovery::{backend::{Backend, Service}, testing::sim::{Fault, Op, SimBackend}, ErrorKind};
/// let dir = tempfile::tempdir()?;
/// let db = Service {
///     name: "db".into(), image: Some("mysql".into()), depends_on: vec![], mounts: vec![],
///     replicas: 1, has_health_check: true, has_fixed_name: false,
/// };
/// let backend = SimBackend::create(dir.path(), "shop", vec![db])?;
/// backend.fault(Op::Containers, 1, Fault::Fail(ErrorKind::Unreachable));
/// assert_eq!(backend.containers().await.unwrap_err().kind(), ErrorKind::Unreachable);
/// assert_eq!(backend.containers().await?.len(), 1);
/// # Ok(()) }
/// ```
pub struct SimBackend {
    name: String,
    world: World,
    faults: Faults,
    commands: Mutex<HashMap<String, CommandFn>>,
    programs: Mutex<HashMap<String, ProgramFn>>,
    signals: Mutex<HashMap<String, SignalFn>>,
    ports: Mutex<HashMap<(String, u16), Port>>,
}

impl fmt::Debug for SimBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimBackend").field("project", &self.name).field("world", &self.world).finish_non_exhaustive()
    }
}

impl SimBackend {
    /// Makes a world: every service has its containers, running and healthy, and the volumes that they mount.
    ///
    /// # Errors
    /// `InvalidInput`: the services depend on each other in a circle. `AlreadyExists`: the folder holds a world.
    pub fn create(dir: &Path, project: &str, services: Vec<Service>) -> Result<Self> {
        let world = World::new(dir);
        if world.project_file().exists() {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("`{}` holds a world already", dir.display())));
        }
        let model = compose::project(project, services)?;
        world.create(&model)?;
        for service in &model.services {
            for mount in &service.mounts {
                if let MountSource::Volume(volume) = &mount.source
                    && world.volume(volume)?.is_none()
                {
                    let key = volume.strip_prefix(&format!("{project}_")).unwrap_or(volume);
                    let labels = [(compose::PROJECT_LABEL, project), (compose::VOLUME_LABEL, key)];
                    world.add_volume(volume, &labels.map(|(k, v)| (k.into(), v.into())).into())?;
                }
            }
            for number in 1..=service.replicas {
                add_replica(&world, project, service, number)?;
            }
        }
        Self::open(dir)
    }

    /// Opens a world that was made before, by this process or another.
    ///
    /// Faults, commands, programs, signals and ports are not part of the world: register them again.
    ///
    /// # Errors
    /// `NotFound`: there is none.
    pub fn open(dir: &Path) -> Result<Self> {
        let world = World::new(dir);
        Ok(Self {
            name: world.project()?.name,
            world,
            faults: Faults::default(),
            commands: Mutex::default(),
            programs: Mutex::default(),
            signals: Mutex::default(),
            ports: Mutex::default(),
        })
    }

    /// Lets the next `times` calls of an operation go wrong.
    pub fn fault(&self, op: Op, times: usize, fault: Fault) {
        self.faults.plan(op, times, fault);
    }

    /// Lets one call go wrong, whatever it asks for: the one after `calls` more.
    pub fn fault_after(&self, calls: u32, fault: Fault) {
        self.faults.count_down(calls, fault);
    }

    /// Tells whether the fault of [`SimBackend::fault_after`] is still to come.
    pub fn fault_is_to_come(&self) -> bool {
        self.faults.is_counting()
    }

    /// Calls `hook` before and after every effect, for example to kill the process there.
    pub fn watch(&self, hook: impl Fn(Moment) + Send + Sync + 'static) {
        self.faults.watch(Arc::new(hook));
    }

    /// Says what a command does, known by its program's name.
    pub fn command<F>(&self, program: &str, run: impl Fn(SimCommand) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<ExecResult>> + Send + 'static,
    {
        let run: CommandFn = Arc::new(move |command| run(command).boxed());
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).insert(program.into(), run);
    }

    /// Says what containers of an image do when they are started; without it they run and are healthy.
    pub fn program(&self, image: &str, run: impl Fn(&mut SimStart) -> SimLife + Send + Sync + 'static) {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner).insert(image.into(), Arc::new(run));
    }

    /// Says what running containers of an image do when they get a signal; without it they take no notice.
    pub fn signals(&self, image: &str, run: impl Fn(&mut SimStart, Signal) + Send + Sync + 'static) {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner).insert(image.into(), Arc::new(run));
    }

    /// Says where a container's port can be dialled.
    pub fn address(&self, container: &str, port: u16, host: &str, at: u16) {
        self.lead(container, port, Port::Address(host.into(), at));
    }

    /// Says what answers at a container's port, once for each connection. No byte leaves this process, so that it goes
    /// together with a clock that stands still.
    pub fn server(&self, container: &str, port: u16, serve: impl Fn(DuplexStream) + Send + Sync + 'static) {
        self.lead(container, port, Port::Server(Arc::new(serve)));
    }

    fn lead(&self, container: &str, port: u16, to: Port) {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).insert((container.into(), port), to);
    }

    /// Appends a line to a container's log.
    pub fn append_log(&self, container: &str, line: &LogLine) -> Result<()> {
        self.world.append_log(container, line)
    }

    /// Changes a container as something outside would: an operator, a crash, a memory limit.
    ///
    /// # Errors
    /// `NotFound`: there is no such container.
    pub fn change(&self, container: &str, change: impl FnOnce(&mut Container)) -> Result<()> {
        let mut record = self.record(container)?;
        change(&mut record.container);
        self.world.put(&record)
    }

    /// Returns the containers of a service as something outside would see them: it is no call.
    ///
    /// # Errors
    /// `NotFound`: it has none.
    pub fn containers_of(&self, service: &str) -> Result<Vec<Container>> {
        Ok(self.of_service(service)?.into_iter().map(|record| record.container).collect())
    }

    /// Says what a container uses.
    pub fn set_usage(&self, container: &str, usage: Usage) -> Result<()> {
        let mut record = self.record(container)?;
        record.usage = usage;
        self.world.put(&record)
    }

    /// Sets a variable that a container was made with.
    ///
    /// # Errors
    /// `NotFound`: there is no such container.
    pub fn set_variable(&self, container: &str, name: &str, value: &str) -> Result<()> {
        let mut record = self.record(container)?;
        record.environment.insert(name.into(), value.into());
        self.world.put(&record)
    }

    /// Returns the folder with a volume's content; after an exchange it is another content.
    pub fn volume_folder(&self, volume: &str) -> PathBuf {
        self.world.content_of(volume)
    }

    /// Returns where a path of a container lies on this host: in a mount, or among the container's own files.
    pub fn path_in(&self, container: &Container, path: &str) -> PathBuf {
        self.world.path_in(container, path)
    }

    /// Returns all calls so far, those of killed processes included.
    pub fn calls(&self) -> Result<Vec<Call>> {
        read_lines(&self.world.calls_file())
    }

    fn record(&self, name: &str) -> Result<Record> {
        self.world
            .record(name)?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no container `{name}`")))
    }

    fn own(&self, name: &str) -> Result<Record> {
        let record = self.record(name)?;
        if record.container.labels.contains_key(RUN_LABEL) {
            return Ok(record);
        }
        Err(Error::new(ErrorKind::Denied, format!("container `{name}` does not carry the label `{RUN_LABEL}`")))
    }

    fn of_service(&self, service: &str) -> Result<Vec<Record>> {
        let found: Vec<Record> = self
            .world
            .records()?
            .into_iter()
            .filter(|r| r.container.service == service && !r.container.labels.contains_key(RUN_LABEL))
            .collect();
        if found.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, format!("service `{service}` has no container")));
        }
        Ok(found)
    }

    fn existing_volume(&self, name: &str) -> Result<Volume> {
        self.world.volume(name)?.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no volume `{name}`")))
    }

    /// Looks at the world, or fails as planned.
    async fn look<T: Send>(&self, op: Op, subject: &str, look: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match self.faults.take(op) {
            Some(Fault::Fail(kind) | Fault::DoneThenFail(kind)) => {
                self.note(op, subject, false)?;
                Err(injected(kind, op, subject))
            }
            Some(Fault::Hang) => {
                self.note(op, subject, false)?;
                std::future::pending().await
            }
            Some(Fault::Cut(_)) | None => {
                self.note(op, subject, false)?;
                look()
            }
        }
    }

    /// Changes the world, or fails as planned.
    async fn act<T: Send>(&self, op: Op, subject: &str, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.faults.reach(Moment::Before(op));
        let after = match self.faults.take(op) {
            Some(Fault::Fail(kind)) => {
                self.note(op, subject, false)?;
                return Err(injected(kind, op, subject));
            }
            Some(Fault::Hang) => {
                self.note(op, subject, false)?;
                std::future::pending().await
            }
            Some(Fault::DoneThenFail(kind)) => Some(kind),
            Some(Fault::Cut(_)) | None => None,
        };
        let done = act();
        self.note(op, subject, done.is_ok())?;
        self.faults.reach(Moment::After(op));
        let done = done?;
        match after {
            Some(kind) => Err(injected(kind, op, subject)),
            None => Ok(done),
        }
    }

    fn note(&self, op: Op, subject: &str, applied: bool) -> Result<()> {
        append(&self.world.calls_file(), &Call { op, subject: subject.into(), applied })
    }

    /// Starts a container: what its program does shows at once.
    fn run(&self, mut record: Record) -> Result<Record> {
        let container = &mut record.container;
        if container.state == ContainerState::Running {
            return Ok(record);
        }
        for mount in &container.mounts {
            if let MountSource::Volume(volume) = &mount.source {
                self.existing_volume(volume)?;
            }
        }
        let program = of_image(&self.programs, &container.image);
        let has_check =
            self.world.project()?.services.iter().any(|s| s.name == container.service && s.has_health_check);
        let healthy = if has_check { HealthCheck::Healthy } else { HealthCheck::Absent };
        (container.started_at, container.finished_at, container.exit_code) = (Some(Utc::now()), None, None);
        let mut start = SimStart::of(&self.world, &record);
        let life = program.map_or(SimLife::Runs(healthy), |program| program(&mut start));
        self.print(&start)?;
        let container = &mut record.container;
        match life {
            SimLife::Runs(health) => (container.state, container.health) = (ContainerState::Running, health),
            SimLife::Ends(code) => {
                container.state = ContainerState::Exited;
                (container.exit_code, container.finished_at) = (Some(code), Some(Utc::now()));
            }
        }
        self.world.put(&record)?;
        Ok(record)
    }

    fn print(&self, start: &SimStart) -> Result<()> {
        start.printed.iter().try_for_each(|line| self.world.append_log(&start.container.name, line))
    }

    /// Gives a running container a signal.
    fn tell(&self, record: &Record, signal: Signal) -> Result<()> {
        let Some(run) = of_image(&self.signals, &record.container.image) else { return Ok(()) };
        let mut start = SimStart::of(&self.world, record);
        run(&mut start, signal);
        self.print(&start)
    }

    fn halt(&self, mut record: Record) -> Result<StopOutcome> {
        let container = &mut record.container;
        let was_running =
            matches!(container.state, ContainerState::Running | ContainerState::Paused | ContainerState::Restarting);
        if was_running {
            container.state = ContainerState::Exited;
            (container.exit_code, container.finished_at) = (Some(0), Some(Utc::now()));
        }
        let outcome = StopOutcome {
            container: container.name.clone(),
            was_running,
            exit_code: container.exit_code,
            seconds: 0.0,
        };
        if was_running {
            self.world.put(&record)?;
        }
        Ok(outcome)
    }

    fn refuse_in_use(&self, volume: &str, only_running: bool) -> Result<()> {
        for record in self.world.records()? {
            let container = record.container;
            let uses = container.mounts.iter().any(|m| m.source == MountSource::Volume(volume.to_owned()));
            if uses && (!only_running || container.state == ContainerState::Running) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("volume `{volume}` is in use by container `{}`", container.name),
                ));
            }
        }
        Ok(())
    }

    /// The folder that a path of a place lies in, mounts followed, and the path from there.
    fn resolve(&self, place: &Place, path: &str) -> Result<(PathBuf, String)> {
        match place {
            Place::Volume(name) => {
                self.existing_volume(name)?;
                Ok((self.world.content_of(name), path.to_owned()))
            }
            Place::Container(name) => {
                let record = self.record(name)?;
                Ok(self.world.place_in(&record.container, path))
            }
        }
    }
}

fn add_replica(world: &World, project: &str, service: &Service, number: u32) -> Result<()> {
    let name = format!("{project}-{}-{number}", service.name);
    let edges: Vec<String> = service
        .depends_on
        .iter()
        .map(|edge| {
            let condition = serde_json::to_value(edge.condition).unwrap_or_default();
            format!("{}:{}:false", edge.service, condition.as_str().unwrap_or_default())
        })
        .collect();
    let labels = [
        (compose::PROJECT_LABEL, project.to_owned()),
        (compose::SERVICE_LABEL, service.name.clone()),
        (compose::DEPENDS_ON_LABEL, edges.join(",")),
    ];
    std::fs::create_dir_all(world.files_of(&name))?;
    let image = service.image.clone().unwrap_or_default();
    world.add(&Record {
        container: Container {
            id: new_id(),
            name,
            service: service.name.clone(),
            image_id: image_id(&image),
            image,
            state: ContainerState::Running,
            health: if service.has_health_check { HealthCheck::Healthy } else { HealthCheck::Absent },
            exit_code: None,
            oom_killed: false,
            start_error: None,
            restart_count: 0,
            started_at: Some(Utc::now()),
            finished_at: None,
            restart_policy: RestartPolicy::UnlessStopped,
            mounts: service.mounts.clone(),
            command: Vec::new(),
            labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
            published: Vec::new(),
        },
        argv: Vec::new(),
        usage: Usage::default(),
        environment: std::collections::BTreeMap::new(),
    })
}

fn new_id() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

/// Finds what was said of an image, which a container may name by its id.
fn of_image<T: Clone>(said: &Mutex<HashMap<String, T>>, image: &str) -> Option<T> {
    let said = said.lock().unwrap_or_else(PoisonError::into_inner);
    said.iter().find(|(name, _)| *name == image || image_id(name) == image).map(|(_, said)| said.clone())
}

fn image_id(image: &str) -> String {
    use sha2::{Digest, Sha256};
    format!("sha256:{}", hex::encode(Sha256::digest(image.as_bytes())))
}

/// Volumes by name, for assertions on the whole world.
impl SimBackend {
    /// Returns every file of every volume: `volume/path` to content.
    pub fn snapshot(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut files = BTreeMap::new();
        for volume in self.world.all_volumes()? {
            let root = self.world.content_of(&volume.name);
            let mut waiting = vec![root.clone()];
            while let Some(folder) = waiting.pop() {
                for entry in std::fs::read_dir(&folder)? {
                    let path = entry?.path();
                    if path.is_dir() {
                        waiting.push(path);
                    } else {
                        let name = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
                        files.insert(format!("{}/{name}", volume.name), std::fs::read(&path)?);
                    }
                }
            }
        }
        Ok(files)
    }
}
