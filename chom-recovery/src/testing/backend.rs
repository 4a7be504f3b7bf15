//! The promises of [`Backend`], one function each, for every implementation: ours and yours.
//!
//! A function panics where a promise is broken. [`all`] runs them one after the other; they leave the project as they
//! found it, and remove all that they made.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    backend::{
        Backend, BackendExt, Container, ContainerState, ExecOutput, ExecRequest, Labels, LogRequest, Mount,
        MountSource, Network, OneOff, OneOffFile, Place, RUN_LABEL, RestartPolicy, Signal, VolumeIdentity,
    },
    error::{Error, ErrorKind},
    secret::Secret,
    stream::{ByteStream, collect},
};

mod archive;

use archive::{entries, get_file, in_pieces, pattern, put_file, sample_archive};

/// Deadline of anything that is waited for here.
const WAIT: Duration = Duration::from_mins(1);

/// What the suite is given to work with: a project with two running services, and commands that its containers know.
#[derive(Debug, Clone)]
pub struct Fixture<'a> {
    /// The implementation.
    pub backend: &'a dyn Backend,
    /// A running service that `dependent` depends on, with one container.
    pub service: &'a str,
    /// A running service that depends on `service` and on which none depends.
    pub dependent: &'a str,
    /// An image that is on the host.
    pub image: &'a str,
    /// Program that keeps running: entry point of a one-off container.
    pub lasting: &'a [&'a str],
    /// Program that prints a line on each stream and ends with code 7: entry point of a one-off container.
    pub ending: &'a [&'a str],
    /// Command that copies its input to its output.
    pub echo: &'a [&'a str],
    /// Command that prints `out` on standard output, `err` on standard error, and ends with code 3.
    pub failing: &'a [&'a str],
    /// Port on which `service` listens; `None` skips dialling.
    pub port: Option<u16>,
    /// Bytes that are sent through a command and an archive.
    pub bulk: usize,
    /// Marks what this run of the suite makes; unique on the Engine.
    pub run: &'a str,
}

impl Fixture<'_> {
    fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.run)
    }

    fn labels(&self) -> Labels {
        [(RUN_LABEL.to_owned(), self.run.to_owned())].into()
    }

    async fn container(&self, service: &str) -> Container {
        let mut found = self.backend.service_containers(service).await.unwrap();
        assert_eq!(found.len(), 1, "the fixture's services have one container each");
        found.remove(0)
    }

    fn one_off(&self, name: &str, program: &[&str]) -> OneOff {
        OneOff {
            name: self.name(name),
            image: self.image.to_owned(),
            entrypoint: Some(program.iter().map(|part| (*part).to_owned()).collect()),
            command: Vec::new(),
            env: Vec::new(),
            user: None,
            mounts: Vec::new(),
            files: Vec::new(),
            network: Network::None,
            own_names: Vec::new(),
            labels: self.labels(),
            memory: None,
            start: true,
        }
    }

    fn volume_mount(name: &str) -> Mount {
        Mount { source: MountSource::Volume(name.into()), target: "/conformance".into(), read_only: false }
    }

    async fn is_running(&self, service: &str) -> bool {
        self.container(service).await.state == ContainerState::Running
    }
}

/// Runs every promise.
pub async fn all(f: &Fixture<'_>) {
    the_engine_tells_who_it_is(f).await;
    services_stand_after_those_they_depend_on(f).await;
    containers_are_found_by_name_and_by_id(f).await;
    stopping_goes_against_dependencies_and_starting_with_them(f).await;
    starting_and_stopping_again_changes_nothing(f).await;
    restart_policies_are_kept(f).await;
    a_signal_reaches_what_runs(f).await;
    commands_keep_their_streams_and_exit_codes_apart(f).await;
    commands_get_their_input_and_its_end(f).await;
    a_failed_input_is_not_an_end_of_input(f).await;
    archives_keep_owners_modes_links_and_names(f).await;
    archives_that_are_cut_are_refused(f).await;
    volumes_are_made_once_and_only_ours_are_removed(f).await;
    volumes_are_measured(f).await;
    an_exchange_is_told_by_identities(f).await;
    a_volume_in_use_is_not_exchanged(f).await;
    one_off_containers_are_made_once(f).await;
    one_off_containers_get_their_files_and_end(f).await;
    what_is_not_ours_is_not_removed(f).await;
    logs_have_both_streams_and_a_beginning(f).await;
    endpoints_can_be_dialled(f).await;
}

/// The Engine has an id that stays the same.
pub async fn the_engine_tells_who_it_is(f: &Fixture<'_>) {
    let engine = f.backend.engine().await.unwrap();
    assert!(!engine.id.is_empty() && !engine.version.is_empty() && !f.backend.engine_address().is_empty());
    assert_eq!(engine, f.backend.engine().await.unwrap());
}

/// [`Backend::model`] orders services.
pub async fn services_stand_after_those_they_depend_on(f: &Fixture<'_>) {
    let project = f.backend.model().await.unwrap();
    assert_eq!(project.name, f.backend.project());
    let at = |name: &str| project.services.iter().position(|s| s.name == name).unwrap();
    assert!(at(f.service) < at(f.dependent));
    let dependent = project.service(f.dependent).unwrap();
    assert!(dependent.depends_on.iter().any(|edge| edge.service == f.service));
    assert_eq!(project.service("no-such-service").unwrap_err().kind(), ErrorKind::NotFound);
}

/// [`Backend::container`] finds what is there, and nothing else.
pub async fn containers_are_found_by_name_and_by_id(f: &Fixture<'_>) {
    let container = f.container(f.service).await;
    assert_eq!(container.service, f.service);
    assert!(container.is_ready(), "{container:?}");
    assert_eq!(container.exit_code, None, "a running container has no exit code");
    for key in [&container.name, &container.id] {
        assert_eq!(f.backend.container(key).await.unwrap().unwrap().id, container.id);
    }
    assert_eq!(f.backend.container(&f.name("absent")).await.unwrap(), None);
    assert_eq!(f.backend.start("no-such-service", WAIT).await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// [`BackendExt::stop_all`] and [`BackendExt::start_all`] follow the order of the project, whatever they are given.
pub async fn stopping_goes_against_dependencies_and_starting_with_them(f: &Fixture<'_>) {
    let (first, second) = (f.container(f.service).await, f.container(f.dependent).await);
    let both = [f.service, f.dependent];
    let stopped = f.backend.stop_all(&both, Duration::from_secs(10)).await.unwrap();
    let names: Vec<_> = stopped.iter().map(|outcome| outcome.container.as_str()).collect();
    assert_eq!(names, [second.name.as_str(), first.name.as_str()]);
    for outcome in &stopped {
        assert!(outcome.was_running && outcome.exit_code.is_some(), "{outcome:?}");
    }
    assert!(!f.is_running(f.service).await && !f.is_running(f.dependent).await);
    f.backend.start_all(&[f.dependent, f.service], WAIT).await.unwrap();
    let (again, later) = (f.container(f.service).await, f.container(f.dependent).await);
    assert!(again.is_ready() && later.is_ready());
    assert!(again.started_at <= later.started_at, "{:?} {:?}", again.started_at, later.started_at);
    assert_eq!(again.id, first.id, "starting does not make new containers");
}

/// [`Backend::start`] and [`Backend::stop`] state a wanted condition.
pub async fn starting_and_stopping_again_changes_nothing(f: &Fixture<'_>) {
    let before = f.container(f.dependent).await;
    f.backend.start(f.dependent, WAIT).await.unwrap();
    assert_eq!(f.container(f.dependent).await.started_at, before.started_at);
    f.backend.stop(f.dependent, Duration::from_secs(10)).await.unwrap();
    let again = f.backend.stop(f.dependent, Duration::from_secs(10)).await.unwrap();
    assert!(!again[0].was_running);
    f.backend.start(f.dependent, WAIT).await.unwrap();
}

/// [`Backend::set_restart_policy`] is read back from the container.
pub async fn restart_policies_are_kept(f: &Fixture<'_>) {
    let container = f.container(f.dependent).await;
    let policies =
        [RestartPolicy::No, RestartPolicy::Always, RestartPolicy::OnFailure(4), RestartPolicy::UnlessStopped];
    for policy in policies.iter().chain([&container.restart_policy]) {
        f.backend.set_restart_policy(&container.name, policy).await.unwrap();
        assert_eq!(f.container(f.dependent).await.restart_policy, *policy);
    }
    let error = f.backend.set_restart_policy(&f.name("absent"), &RestartPolicy::No).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// [`Backend::signal`] needs a container that runs.
pub async fn a_signal_reaches_what_runs(f: &Fixture<'_>) {
    let spec = f.one_off("signalled", f.lasting);
    f.backend.one_off(&spec).await.unwrap();
    f.backend.signal(&spec.name, Signal::Hangup).await.unwrap();
    f.backend.stop_container(&spec.name, Duration::from_secs(1)).await.unwrap();
    let error = f.backend.signal(&spec.name, Signal::Hangup).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    f.backend.remove_container(&spec.name).await.unwrap();
    let error = f.backend.signal(&f.name("absent"), Signal::Hangup).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// [`Backend::exec`] gives each stream for itself and the exit code last.
pub async fn commands_keep_their_streams_and_exit_codes_apart(f: &Fixture<'_>) {
    let name = f.container(f.service).await.name;
    let request = ExecRequest::new(f.failing.iter().copied());
    let items: Vec<ExecOutput> = f.backend.exec(&name, request).await.unwrap().try_collect().await.unwrap();
    assert_eq!(items.last(), Some(&ExecOutput::Exited(3)));
    let exits = items.iter().filter(|item| matches!(item, ExecOutput::Exited(_))).count();
    assert_eq!(exits, 1);
    let result = f.backend.run(&name, ExecRequest::new(f.failing.iter().copied()), WAIT).await.unwrap();
    assert_eq!((&result.stdout[..], &result.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!(result.success("it").unwrap_err().kind(), ErrorKind::Failed);
    let missing = f.backend.run(&name, ExecRequest::new(["no-such-program"]), WAIT).await;
    assert!(missing.is_err() || missing.unwrap().exit_code != 0, "a program that is not there did not succeed");
    let absent = f.backend.exec(&f.name("absent"), ExecRequest::new(["true"])).await;
    assert_eq!(absent.err().map(|e| e.kind()), Some(ErrorKind::NotFound));
    let empty = f.backend.exec(&name, ExecRequest::new(Vec::<String>::new())).await;
    assert_eq!(empty.err().map(|e| e.kind()), Some(ErrorKind::InvalidInput));
}

/// [`Backend::exec`] carries input and output at the same time, every byte, and closes the input at its end.
pub async fn commands_get_their_input_and_its_end(f: &Fixture<'_>) {
    let name = f.container(f.service).await.name;
    for size in [0, 1, f.bulk] {
        let sent = pattern(size);
        let request = ExecRequest::new(f.echo.iter().copied()).stdin(in_pieces(&sent));
        let mut exec = f.backend.exec(&name, request).await.unwrap();
        let (mut got, mut exit) = (Vec::with_capacity(size), None);
        while let Some(item) = exec.next().await {
            match item.unwrap() {
                ExecOutput::Stdout(bytes) => got.extend_from_slice(&bytes),
                ExecOutput::Stderr(bytes) => panic!("{}", String::from_utf8_lossy(&bytes)),
                ExecOutput::Exited(code) => exit = Some(code),
            }
        }
        assert_eq!(exit, Some(0));
        assert!(got == sent[..], "{} bytes came back of {size}", got.len());
    }
}

/// An input that breaks off is an error of the command, of the input's own kind.
pub async fn a_failed_input_is_not_an_end_of_input(f: &Fixture<'_>) {
    let name = f.container(f.service).await.name;
    let broken: ByteStream = Box::pin(stream::iter([
        Ok(Bytes::from_static(b"half of it")),
        Err(Error::new(ErrorKind::Corrupt, "the source broke off")),
    ]));
    let result = f.backend.run(&name, ExecRequest::new(f.echo.iter().copied()).stdin(broken), WAIT).await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt);
}

/// [`Backend::write_archive`] and [`Backend::read_archive`] give back what was put in, the root folder's own owner
/// and mode included.
pub async fn archives_keep_owners_modes_links_and_names(f: &Fixture<'_>) {
    let volume = f.name("archive");
    f.backend.create_volume(&volume, &f.labels()).await.unwrap();
    let place = Place::Volume(volume.clone());
    let sent = sample_archive(f.bulk);
    f.backend.write_archive(&place, "", in_pieces(&sent)).await.unwrap();
    let read = f.backend.read_archive(&place, "").await.unwrap();
    let got = collect(read, f.bulk * 2 + (1 << 20)).await.unwrap();
    assert_eq!(entries(&got), entries(&sent));
    let content = f.backend.measure_volume(&volume).await.unwrap();
    if content.uid != 0 {
        assert_eq!((content.uid, content.gid), (999, 998));
    }
    assert_eq!(content.mode, 0o750);
    // A single file is an archive of one entry, named after it.
    let one = collect(f.backend.read_archive(&place, "folder/plain").await.unwrap(), 1 << 20).await.unwrap();
    let names: Vec<_> = entries(&one).into_iter().map(|entry| entry.path).collect();
    assert_eq!(names, ["plain"]);
    let missing = f.backend.read_archive(&place, "no/such/file").await;
    assert_eq!(missing.err().map(|e| e.kind()), Some(ErrorKind::NotFound));
    let missing = f.backend.write_archive(&place, "no/such/folder", in_pieces(&sent)).await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    let missing = f.backend.write_archive(&Place::Volume(f.name("absent")), "", in_pieces(&sent)).await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(f.backend.volume(&f.name("absent")).await.unwrap(), None, "writing must not make a volume");
    f.backend.remove_volume(&volume).await.unwrap();
}

/// An archive without its closing blocks, or whose source fails, is never taken for a whole one.
pub async fn archives_that_are_cut_are_refused(f: &Fixture<'_>) {
    let volume = f.name("cut");
    f.backend.create_volume(&volume, &f.labels()).await.unwrap();
    let place = Place::Volume(volume.clone());
    let whole = sample_archive(4096);
    for cut in [512, whole.len() / 2, whole.len() - 1024] {
        let error = f.backend.write_archive(&place, "", in_pieces(&whole[..cut])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "cut at {cut}: {error}");
    }
    let broken: ByteStream = Box::pin(stream::iter([
        Ok(Bytes::copy_from_slice(&whole[..1024])),
        Err(Error::new(ErrorKind::NoSpace, "the source broke off")),
    ]));
    assert_eq!(f.backend.write_archive(&place, "", broken).await.unwrap_err().kind(), ErrorKind::NoSpace);
    f.backend.remove_volume(&volume).await.unwrap();
}

/// [`Backend::create_volume`] and [`Backend::remove_volume`] are guarded by labels.
pub async fn volumes_are_made_once_and_only_ours_are_removed(f: &Fixture<'_>) {
    let name = f.name("volume");
    assert_eq!(f.backend.volume(&name).await.unwrap(), None);
    f.backend.create_volume(&name, &f.labels()).await.unwrap();
    f.backend.create_volume(&name, &f.labels()).await.unwrap();
    let other = [(RUN_LABEL.to_owned(), "another".to_owned())].into();
    assert_eq!(f.backend.create_volume(&name, &other).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert!(f.backend.volumes().await.unwrap().iter().any(|volume| volume.name == name));
    f.backend.remove_volume(&name).await.unwrap();
    f.backend.remove_volume(&name).await.unwrap();
    assert_eq!(f.backend.volume(&name).await.unwrap(), None);
    f.backend.create_volume(&name, &Labels::new()).await.unwrap();
    assert_eq!(f.backend.remove_volume(&name).await.unwrap_err().kind(), ErrorKind::Denied);
    assert!(f.backend.volume(&name).await.unwrap().is_some());
    assert_eq!(f.backend.volume_identity(&f.name("absent")).await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// [`Backend::measure_volume`] counts what is there, and agrees with [`Backend::volume_identity`].
pub async fn volumes_are_measured(f: &Fixture<'_>) {
    let name = f.name("measure");
    f.backend.create_volume(&name, &f.labels()).await.unwrap();
    let empty = f.backend.measure_volume(&name).await.unwrap();
    assert_eq!(empty.entries, 0);
    f.backend.write_archive(&Place::Volume(name.clone()), "", in_pieces(&sample_archive(1 << 20))).await.unwrap();
    let full = f.backend.measure_volume(&name).await.unwrap();
    assert_eq!(full.entries, entries(&sample_archive(1)).len() as u64 - 1);
    assert!(full.bytes >= empty.bytes + (1 << 20), "{full:?}");
    assert!(full.free_bytes > 0);
    assert_eq!(full.identity, empty.identity);
    assert_eq!(full.identity, f.backend.volume_identity(&name).await.unwrap());
    f.backend.remove_volume(&name).await.unwrap();
}

/// [`Backend::exchange_volumes`] is idempotent, goes back when asked the other way round, and touches nothing when
/// the contents are others than those named.
pub async fn an_exchange_is_told_by_identities(f: &Fixture<'_>) {
    let (first, second) = (f.name("first"), f.name("second"));
    f.backend.create_volume(&first, &f.labels()).await.unwrap();
    f.backend.check_exchangeable(&first).await.unwrap();
    f.backend.create_volume_beside(&second, &f.labels(), &first).await.unwrap();
    for name in [&first, &second] {
        put_file(f, name, "who", name.as_bytes()).await;
    }
    let a = f.backend.volume_identity(&first).await.unwrap();
    let b = f.backend.volume_identity(&second).await.unwrap();
    for _ in 0..2 {
        f.backend.exchange_volumes(&a, &b).await.unwrap();
        assert_eq!(get_file(f, &first, "who").await, second.as_bytes());
        assert_eq!(get_file(f, &second, "who").await, first.as_bytes());
    }
    let now = f.backend.volume_identity(&first).await.unwrap();
    assert_eq!(now, VolumeIdentity { volume: first.clone(), ..b.clone() });
    let strange = VolumeIdentity { inode: a.inode.max(b.inode) + 1, ..b.clone() };
    assert_eq!(f.backend.exchange_volumes(&a, &strange).await.unwrap_err().kind(), ErrorKind::Conflict);
    // Undo: what lies where now, the other way round.
    let back = (VolumeIdentity { volume: first.clone(), ..b }, VolumeIdentity { volume: second.clone(), ..a });
    for _ in 0..2 {
        f.backend.exchange_volumes(&back.1, &back.0).await.unwrap();
        assert_eq!(get_file(f, &first, "who").await, first.as_bytes());
    }
    for name in [&first, &second] {
        f.backend.remove_volume(name).await.unwrap();
    }
}

/// [`Backend::exchange_volumes`] refuses while somebody runs on one of them, and does it when they have stopped.
pub async fn a_volume_in_use_is_not_exchanged(f: &Fixture<'_>) {
    let (first, second) = (f.name("used"), f.name("spare"));
    for name in [&first, &second] {
        f.backend.create_volume(name, &f.labels()).await.unwrap();
    }
    let a = f.backend.volume_identity(&first).await.unwrap();
    let b = f.backend.volume_identity(&second).await.unwrap();
    let mut user = f.one_off("user", f.lasting);
    user.mounts.push(Fixture::volume_mount(&first));
    f.backend.one_off(&user).await.unwrap();
    assert_eq!(f.backend.exchange_volumes(&a, &b).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(f.backend.remove_volume(&first).await.unwrap_err().kind(), ErrorKind::Conflict);
    f.backend.stop_container(&user.name, Duration::from_secs(1)).await.unwrap();
    f.backend.exchange_volumes(&a, &b).await.unwrap();
    f.backend.remove_container(&user.name).await.unwrap();
    for name in [&first, &second] {
        f.backend.remove_volume(name).await.unwrap();
    }
}

/// [`Backend::one_off`]: of many who ask for a name, one gets it.
pub async fn one_off_containers_are_made_once(f: &Fixture<'_>) {
    let mut spec = f.one_off("once", f.lasting);
    let made = futures::future::join_all((0..4).map(|_| f.backend.one_off(&spec))).await;
    let kinds: Vec<_> = made.iter().filter_map(|result| result.as_ref().err().map(Error::kind)).collect();
    assert_eq!(kinds, [ErrorKind::AlreadyExists; 3]);
    let found = f.backend.container(&spec.name).await.unwrap().unwrap();
    assert_eq!((found.state, found.labels.get(RUN_LABEL)), (ContainerState::Running, Some(&f.run.to_owned())));
    assert_eq!(found.restart_policy, RestartPolicy::No);
    assert!(f.backend.own_containers().await.unwrap().iter().any(|c| c.id == found.id));
    assert!(f.backend.containers().await.unwrap().iter().all(|c| c.id != found.id), "it is not the project's");
    f.backend.stop_container(&spec.name, Duration::from_secs(1)).await.unwrap();
    f.backend.stop_container(&spec.name, Duration::from_secs(1)).await.unwrap();
    f.backend.start_container(&spec.name).await.unwrap();
    f.backend.remove_container(&spec.name).await.unwrap();
    f.backend.remove_container(&spec.name).await.unwrap();
    assert_eq!(f.backend.container(&spec.name).await.unwrap(), None);
    spec.labels.clear();
    assert_eq!(f.backend.one_off(&spec).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    let mut spec = f.one_off("no-volume", f.lasting);
    spec.mounts.push(Fixture::volume_mount(&f.name("absent")));
    assert_eq!(f.backend.one_off(&spec).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(f.backend.volume(&f.name("absent")).await.unwrap(), None, "a mount must not make a volume");
}

/// [`OneOff::files`] are there before the start; [`Backend::wait_container`] gives the exit code.
pub async fn one_off_containers_get_their_files_and_end(f: &Fixture<'_>) {
    let mut spec = f.one_off("ending", f.ending);
    spec.start = false;
    spec.files.push(OneOffFile {
        path: "/conformance-file".into(),
        content: Secret::new("what nobody else may read"),
        mode: 0o400,
        uid: 0,
        gid: 0,
    });
    let made = f.backend.one_off(&spec).await.unwrap();
    assert_eq!(made.state, ContainerState::Created);
    let early = f.backend.wait_container(&spec.name, Duration::from_secs(1)).await;
    assert_eq!(early.unwrap_err().kind(), ErrorKind::Precondition);
    let place = Place::Container(spec.name.clone());
    let tar = collect(f.backend.read_archive(&place, "/conformance-file").await.unwrap(), 1 << 20).await.unwrap();
    let found = entries(&tar);
    assert_eq!((found[0].mode, &found[0].content[..]), (0o400, &b"what nobody else may read"[..]));
    f.backend.start_container(&spec.name).await.unwrap();
    assert_eq!(f.backend.wait_container(&spec.name, WAIT).await.unwrap(), 7);
    let ended = f.backend.container(&spec.name).await.unwrap().unwrap();
    assert_eq!((ended.state, ended.exit_code), (ContainerState::Exited, Some(7)));
    f.backend.remove_container(&spec.name).await.unwrap();
    let lasting = f.one_off("lasting", f.lasting);
    f.backend.one_off(&lasting).await.unwrap();
    let late = f.backend.wait_container(&lasting.name, Duration::from_millis(300)).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Timeout);
    f.backend.remove_container(&lasting.name).await.unwrap();
}

/// Containers of the project cannot be removed, stopped or started as if they were ours.
pub async fn what_is_not_ours_is_not_removed(f: &Fixture<'_>) {
    let name = f.container(f.service).await.name;
    assert_eq!(f.backend.remove_container(&name).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(f.backend.stop_container(&name, Duration::ZERO).await.unwrap_err().kind(), ErrorKind::Denied);
    assert!(f.is_running(f.service).await);
}

/// [`Backend::logs`] tells the streams apart, and keeps to `since` and `tail`. The log is that of `ending`.
pub async fn logs_have_both_streams_and_a_beginning(f: &Fixture<'_>) {
    let spec = f.one_off("log", f.ending);
    f.backend.one_off(&spec).await.unwrap();
    f.backend.wait_container(&spec.name, WAIT).await.unwrap();
    let read = async |request: LogRequest| -> Vec<crate::backend::LogLine> {
        f.backend.logs(&spec.name, request).await.unwrap().try_collect().await.unwrap()
    };
    let deadline = Instant::now() + WAIT;
    let all = loop {
        let all = read(LogRequest::default()).await;
        // A logging driver may be a moment behind the end of the container.
        if all.len() >= 2 || Instant::now() > deadline {
            break all;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!(all.iter().filter(|line| line.is_stderr).count(), 1);
    assert!(all.iter().all(|line| line.at.is_some() && !line.text.is_empty() && !line.text.ends_with('\n')));
    assert_eq!(read(LogRequest { tail: Some(1), since: None }).await.len(), 1);
    let later = all.iter().filter_map(|line| line.at).max().unwrap() + chrono::Duration::milliseconds(1);
    assert!(read(LogRequest { tail: None, since: Some(later) }).await.is_empty());
    f.backend.remove_container(&spec.name).await.unwrap();
    let absent = f.backend.logs(&spec.name, LogRequest::default()).await;
    assert_eq!(absent.err().map(|e| e.kind()), Some(ErrorKind::NotFound));
}

/// [`Backend::endpoint`] leads to the container's port, and says so beforehand where nothing can be reached.
pub async fn endpoints_can_be_dialled(f: &Fixture<'_>) {
    let container = f.container(f.service).await.name;
    match f.port {
        Some(port) => {
            let endpoint = f.backend.endpoint(&container, port).await.unwrap();
            tokio::net::TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await.unwrap();
        }
        None => println!("skipped: no service of the fixture listens"),
    }
    let mut spec = f.one_off("stopped", f.lasting);
    spec.start = false;
    f.backend.one_off(&spec).await.unwrap();
    assert_eq!(f.backend.endpoint(&spec.name, 1).await.unwrap_err().kind(), ErrorKind::Precondition);
    f.backend.remove_container(&spec.name).await.unwrap();
}
