//! What the simulated world does for each call of the port.

use std::{
    os::unix::fs::PermissionsExt,
    sync::PoisonError,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};

use super::{
    IN_FLIGHT, Op, Port, SimBackend, SimCommand, add_replica, image_id, new_id,
    state::{Record, pack, unpack},
};
use crate::{
    backend::{
        Backend, Container, ContainerEnvironment, ContainerState, Endpoint, Engine, Exec, ExecOutput, ExecRequest,
        HealthCheck, Image, Labels, LogRequest, LogStream, MountSource, OneOff, Pins, Place, Project, RUN_LABEL,
        RestartPolicy, Signal, StopOutcome, Usage, Volume, VolumeContent, VolumeIdentity,
        exchange::{LocalFolders, exchange},
        measure::{identity_of, measure_folder},
        tar_scan::TarScan,
    },
    error::{Error, ErrorKind, Result},
    stream::{ByteStream, collect},
};

/// Largest input or archive that is simulated, in bytes.
const LARGEST: usize = 1 << 30;
/// Size of the pieces in which output comes, in bytes.
const PIECE: usize = 32 << 10;

#[async_trait]
impl Backend for SimBackend {
    fn project(&self) -> &str {
        &self.name
    }

    fn engine_address(&self) -> String {
        "sim://".into()
    }

    async fn engine(&self) -> Result<Engine> {
        self.look(Op::Engine, "", || {
            Ok(Engine {
                id: format!("sim-{}", self.name),
                host: "simulated".into(),
                version: env!("CARGO_PKG_VERSION").into(),
                api_version: "1.0".into(),
                root: self.world.volumes().to_string_lossy().into_owned(),
                is_local: true,
            })
        })
        .await
    }

    async fn model(&self) -> Result<Project> {
        self.look(Op::Model, "", || self.world.project()).await
    }

    async fn containers(&self) -> Result<Vec<Container>> {
        self.look(Op::Containers, "", || {
            let records = self.world.records()?.into_iter().map(|record| record.container);
            Ok(records.filter(|c| !c.service.is_empty() && !c.labels.contains_key(RUN_LABEL)).collect())
        })
        .await
    }

    async fn container(&self, name: &str) -> Result<Option<Container>> {
        self.look(Op::Container, name, || Ok(self.world.record(name)?.map(|record| record.container))).await
    }

    async fn environment(&self, container: &str) -> Result<ContainerEnvironment> {
        self.look(Op::Environment, container, || Ok(self.record(container)?.environment.into_iter().collect())).await
    }

    async fn start(&self, service: &str, wait: Duration) -> Result<()> {
        self.act(Op::Start, service, || {
            for record in self.of_service(service)? {
                let container = self.run(record)?.container;
                match container.state {
                    ContainerState::Running if container.is_ready() => {}
                    ContainerState::Running => {
                        return Err(Error::new(
                            ErrorKind::Timeout,
                            format!("container `{}` is not healthy after {} s", container.name, wait.as_secs()),
                        ));
                    }
                    _ => {
                        return Err(Error::new(
                            ErrorKind::Unhealthy,
                            format!("container `{}` did not start: it ended", container.name),
                        )
                        .with("exit code", container.exit_code.unwrap_or(-1)));
                    }
                }
            }
            Ok(())
        })
        .await
    }

    async fn stop(&self, service: &str, _grace: Duration) -> Result<Vec<StopOutcome>> {
        self.act(Op::Stop, service, || self.of_service(service)?.into_iter().map(|r| self.halt(r)).collect()).await
    }

    async fn set_restart_policy(&self, container: &str, policy: &RestartPolicy) -> Result<()> {
        self.act(Op::SetRestartPolicy, container, || {
            let mut record = self.record(container)?;
            record.container.restart_policy = policy.clone();
            self.world.put(&record)
        })
        .await
    }

    async fn signal(&self, container: &str, signal: Signal) -> Result<()> {
        self.act(Op::Signal, container, || match self.record(container)? {
            record if record.container.state == ContainerState::Running => self.tell(&record, signal),
            _ => Err(Error::new(ErrorKind::Conflict, format!("container `{container}` is not running"))),
        })
        .await
    }

    async fn scale(&self, service: &str, replicas: u32) -> Result<()> {
        self.act(Op::Scale, service, || {
            let project = self.world.project()?;
            let described = project.service(service)?;
            if described.has_fixed_name && replicas > 1 {
                return Err(Error::new(
                    ErrorKind::Precondition,
                    format!("service `{service}` has a fixed `container_name`"),
                ));
            }
            let name = |number: u32| format!("{}-{service}-{number}", self.name);
            for number in 1..=replicas {
                if self.world.record(&name(number))?.is_none() {
                    add_replica(&self.world, &self.name, described, number)?;
                }
            }
            let wanted: Vec<String> = (1..=replicas).map(name).collect();
            for record in self.of_service(service).unwrap_or_default() {
                if !wanted.contains(&record.container.name) {
                    self.world.remove(&record.container.name)?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn image(&self, name: &str) -> Result<Option<Image>> {
        self.look(Op::Image, name, || {
            // Those of the project's own files, and those that containers have.
            let project = self.world.project()?;
            let described = project.services.iter().filter_map(|service| service.image.as_deref());
            let mut known: Vec<String> = described.map(image_id).collect();
            known.extend(self.world.records()?.into_iter().map(|record| record.container.image_id));
            let id = known.iter().find(|id| *id == name).cloned();
            let id = id.or_else(|| Some(image_id(name)).filter(|id| known.contains(id)));
            Ok(id.map(|id| Image { id, digests: Vec::new() }))
        })
        .await
    }

    async fn recreate(&self, services: &[String], pins: Option<&Pins>) -> Result<()> {
        self.act(Op::Recreate, &services.join(" "), || {
            let project = self.world.project()?;
            for service in services {
                let described = project.service(service)?.image.clone().unwrap_or_default();
                let (image, image_id) = match pins.and_then(|pins| pins.images.get(service)) {
                    Some(id) => (id.clone(), id.clone()),
                    None => (described.clone(), image_id(&described)),
                };
                for mut record in self.of_service(service)? {
                    if record.container.image_id == image_id && record.container.image == image {
                        continue;
                    }
                    let made = Container {
                        id: new_id(),
                        image: image.clone(),
                        image_id: image_id.clone(),
                        state: ContainerState::Created,
                        exit_code: None,
                        restart_policy: RestartPolicy::No,
                        ..record.container
                    };
                    record.container = made;
                    self.world.put(&record)?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn exec(&self, container: &str, request: ExecRequest) -> Result<Exec> {
        let cut = self.faults.take_cut(Op::Exec);
        let program = request.argv.first().cloned().unwrap_or_default();
        let (record, run) = self
            .look(Op::Exec, &format!("{container} {program}"), || {
                if program.is_empty() {
                    return Err(Error::new(ErrorKind::InvalidInput, "a command is an empty list"));
                }
                let record = self.record(container)?;
                if record.container.state != ContainerState::Running {
                    return Err(Error::new(ErrorKind::Conflict, format!("container `{container}` is not running")));
                }
                let run = self.commands.lock().unwrap_or_else(PoisonError::into_inner).get(&program).cloned();
                Ok((record, run))
            })
            .await?;
        let Some(run) = run else {
            // As the Engine does: an ordinary end, with the shell's code for "not found".
            let said = Bytes::from(format!("no command `{program}` is registered\n"));
            let items = [Ok(ExecOutput::Stderr(said)), Ok(ExecOutput::Exited(127))];
            return Ok(stream::iter(items).boxed());
        };
        let stdin = match request.stdin {
            Some(stdin) => collect(stdin, LARGEST).await?,
            None => Bytes::new(),
        };
        let files = self.world.files_of(&record.container.name);
        let (argv, user, world) = (request.argv, request.user, self.world.clone());
        let result = run(SimCommand { container: record.container, argv, user, stdin, files, world }).await?;
        let mut items: Vec<Result<ExecOutput>> = Vec::new();
        items.extend(result.stdout.chunks(PIECE).map(|piece| Ok(ExecOutput::Stdout(Bytes::copy_from_slice(piece)))));
        items.extend(result.stderr.chunks(PIECE).map(|piece| Ok(ExecOutput::Stderr(Bytes::copy_from_slice(piece)))));
        items.push(Ok(ExecOutput::Exited(result.exit_code)));
        if let Some(after) = cut {
            items = cut_output(items, after, &program);
        }
        Ok(stream::iter(items).boxed())
    }

    async fn logs(&self, container: &str, request: LogRequest) -> Result<LogStream> {
        self.look(Op::Logs, container, || {
            let name = self.record(container)?.container.name;
            let mut lines = self.world.log(&name)?;
            lines.retain(|line| request.since.is_none_or(|since| line.at.is_none_or(|at| at >= since)));
            if let Some(tail) = request.tail {
                lines.drain(..lines.len().saturating_sub(tail));
            }
            Ok(stream::iter(lines.into_iter().map(Ok)).boxed())
        })
        .await
    }

    async fn usage(&self, container: &str) -> Result<Usage> {
        self.look(Op::Usage, container, || {
            let record = self.record(container)?;
            if record.container.state == ContainerState::Running {
                return Ok(record.usage);
            }
            Err(Error::new(ErrorKind::Precondition, format!("container `{container}` does not run")))
        })
        .await
    }

    async fn read_archive(&self, place: &Place, path: &str) -> Result<ByteStream> {
        let cut = self.faults.take_cut(Op::ReadArchive);
        let packed = self
            .look(Op::ReadArchive, &format!("{place:?} {path}"), || {
                let (root, path) = self.resolve(place, path)?;
                pack(&root, &path)
            })
            .await?;
        let whole = Bytes::from(packed);
        let given = whole.slice(..cut.unwrap_or(whole.len()).min(whole.len()));
        let mut items: Vec<Result<Bytes>> =
            (0..given.len()).step_by(PIECE).map(|at| Ok(given.slice(at..given.len().min(at + PIECE)))).collect();
        if cut.is_some() {
            items.push(Err(Error::new(ErrorKind::Corrupt, format!("the archive of `{path}` was cut"))));
        }
        Ok(stream::iter(items).boxed())
    }

    async fn write_archive(&self, place: &Place, path: &str, tar: ByteStream) -> Result<()> {
        let packed = collect(tar, LARGEST).await?;
        let mut scan = TarScan::default();
        scan.push(&packed)?;
        scan.finish()?;
        self.act(Op::WriteArchive, &format!("{place:?} {path}"), || {
            let (root, path) = self.resolve(place, path)?;
            unpack(&root, &path, &packed)
        })
        .await
    }

    async fn volumes(&self) -> Result<Vec<Volume>> {
        self.look(Op::Volumes, "", || self.world.all_volumes()).await
    }

    async fn volume(&self, name: &str) -> Result<Option<Volume>> {
        self.look(Op::Volume, name, || self.world.volume(name)).await
    }

    async fn create_volume(&self, name: &str, labels: &Labels) -> Result<()> {
        self.act(Op::CreateVolume, name, || match self.world.volume(name)? {
            Some(there) if there.labels == *labels => Ok(()),
            Some(_) => {
                Err(Error::new(ErrorKind::AlreadyExists, format!("volume `{name}` exists and has other labels")))
            }
            None => self.world.add_volume(name, labels),
        })
        .await
    }

    async fn create_volume_beside(&self, name: &str, labels: &Labels, beside: &str) -> Result<()> {
        self.check_exchangeable(beside).await?;
        self.create_volume(name, labels).await
    }

    async fn check_exchangeable(&self, name: &str) -> Result<()> {
        // All of its volumes lie in one folder.
        self.look(Op::Volume, name, || self.existing_volume(name).map(drop)).await
    }

    async fn remove_volume(&self, name: &str) -> Result<()> {
        self.act(Op::RemoveVolume, name, || {
            let Some(there) = self.world.volume(name)? else { return Ok(()) };
            if !there.labels.contains_key(RUN_LABEL) {
                return Err(Error::new(
                    ErrorKind::Denied,
                    format!("volume `{name}` does not carry the label `{RUN_LABEL}`"),
                ));
            }
            self.refuse_in_use(name, false)?;
            self.world.remove_volume(name)
        })
        .await
    }

    async fn measure_volume(&self, name: &str) -> Result<VolumeContent> {
        self.look(Op::MeasureVolume, name, || {
            self.existing_volume(name)?;
            measure_folder(name, &self.world.content_of(name))
        })
        .await
    }

    async fn exchange_volumes(&self, first: &VolumeIdentity, second: &VolumeIdentity) -> Result<()> {
        self.act(Op::ExchangeVolumes, &format!("{} {}", first.volume, second.volume), || {
            for side in [first, second] {
                self.existing_volume(&side.volume)?;
                self.refuse_in_use(&side.volume, true)?;
            }
            if first.volume == second.volume || first.inode == second.inode {
                return Err(Error::new(ErrorKind::InvalidInput, "a volume cannot be exchanged with itself"));
            }
            let folders = LocalFolders::new(&self.world.volumes(), &first.volume, &second.volume);
            let work = exchange(&folders, (first.device, first.inode), (second.device, second.inode));
            // Local folders never wait.
            work.now_or_never().unwrap_or_else(|| Err(Error::new(ErrorKind::Failed, "a rename waited")))
        })
        .await
    }

    async fn volume_identity(&self, name: &str) -> Result<VolumeIdentity> {
        self.look(Op::VolumeIdentity, name, || {
            self.existing_volume(name)?;
            identity_of(name, &self.world.content_of(name))
        })
        .await
    }

    async fn one_off(&self, spec: &OneOff) -> Result<Container> {
        self.act(Op::OneOff, &spec.name, || {
            if !spec.labels.contains_key(RUN_LABEL) {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("container `{}` needs the label `{RUN_LABEL}`", spec.name),
                ));
            }
            for mount in &spec.mounts {
                if let MountSource::Volume(volume) = &mount.source {
                    self.existing_volume(volume)?;
                }
            }
            let record = Record {
                container: Container {
                    id: new_id(),
                    name: spec.name.clone(),
                    service: String::new(),
                    image: spec.image.clone(),
                    image_id: image_id(&spec.image),
                    state: ContainerState::Created,
                    health: HealthCheck::Absent,
                    exit_code: None,
                    oom_killed: false,
                    start_error: None,
                    restart_count: 0,
                    started_at: None,
                    finished_at: None,
                    restart_policy: RestartPolicy::No,
                    mounts: spec.mounts.clone(),
                    command: spec.command.clone(),
                    labels: spec.labels.clone(),
                    published: Vec::new(),
                },
                argv: spec.entrypoint.iter().flatten().chain(&spec.command).cloned().collect(),
                usage: Usage::default(),
                environment: spec.env.iter().cloned().collect(),
            };
            self.world.add(&record)?;
            let files = self.world.files_of(&spec.name);
            std::fs::create_dir_all(&files)?;
            for file in &spec.files {
                let path = files.join(file.path.trim_start_matches('/'));
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                std::fs::write(&path, file.content.expose())?;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(file.mode))?;
            }
            if spec.start { Ok(self.run(record)?.container) } else { Ok(record.container) }
        })
        .await
    }

    async fn start_container(&self, name: &str) -> Result<()> {
        self.act(Op::StartContainer, name, || self.run(self.own(name)?).map(drop)).await
    }

    async fn stop_container(&self, name: &str, _grace: Duration) -> Result<()> {
        self.act(Op::StopContainer, name, || self.halt(self.own(name)?).map(drop)).await
    }

    async fn wait_container(&self, name: &str, timeout: Duration) -> Result<i64> {
        let deadline = Instant::now() + timeout;
        loop {
            let record = self.look(Op::WaitContainer, name, || self.record(name)).await?;
            match (record.container.state, record.container.exit_code) {
                (ContainerState::Exited, Some(code)) => return Ok(code),
                (ContainerState::Created, _) => {
                    return Err(Error::new(
                        ErrorKind::Precondition,
                        format!("container `{name}` was never started, so it cannot end"),
                    ));
                }
                _ if Instant::now() >= deadline => {
                    return Err(Error::new(ErrorKind::Timeout, format!("container `{name}` has not ended")));
                }
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    async fn remove_container(&self, name: &str) -> Result<()> {
        self.act(Op::RemoveContainer, name, || {
            if self.world.record(name)?.is_none() {
                return Ok(());
            }
            let name = self.own(name)?.container.name;
            self.world.remove(&name)
        })
        .await
    }

    async fn own_containers(&self) -> Result<Vec<Container>> {
        self.look(Op::OwnContainers, "", || {
            let records = self.world.records()?.into_iter().map(|record| record.container);
            Ok(records.filter(|c| c.labels.contains_key(RUN_LABEL)).collect())
        })
        .await
    }

    async fn endpoint(&self, container: &str, port: u16) -> Result<Endpoint> {
        self.look(Op::Endpoint, container, || {
            let record = self.record(container)?;
            let known = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
            let known = known.get(&(record.container.name, port)).cloned();
            match (record.container.state, known) {
                (ContainerState::Running, Some(Port::Address(host, port))) => Ok(Endpoint::new(host, port, None)),
                (ContainerState::Running, Some(Port::Server(serve))) => {
                    Ok(Endpoint::within_process(container, port, move || {
                        let (client, server) = tokio::io::duplex(IN_FLIGHT);
                        serve(server);
                        Box::new(client)
                    }))
                }
                (ContainerState::Running, None) => Err(Error::new(
                    ErrorKind::Precondition,
                    format!("no address is registered for port {port} of container `{container}`"),
                )),
                _ => Err(Error::new(ErrorKind::Precondition, format!("container `{container}` does not run"))),
            }
        })
        .await
    }
}

/// Output up to the cut, then the error that a cut stream ends with.
fn cut_output(items: Vec<Result<ExecOutput>>, after: usize, program: &str) -> Vec<Result<ExecOutput>> {
    let mut left = after;
    let mut given = Vec::new();
    for item in items {
        let (bytes, make): (Bytes, fn(Bytes) -> ExecOutput) = match item {
            Ok(ExecOutput::Stdout(bytes)) => (bytes, ExecOutput::Stdout),
            Ok(ExecOutput::Stderr(bytes)) => (bytes, ExecOutput::Stderr),
            _ => break,
        };
        let taken = bytes.len().min(left);
        if taken > 0 {
            given.push(Ok(make(bytes.slice(..taken))));
        }
        left -= taken;
        if taken < bytes.len() {
            break;
        }
    }
    given.push(Err(Error::new(ErrorKind::OutcomeUnknown, format!("`{program}` was cut off by the Engine"))));
    given
}
