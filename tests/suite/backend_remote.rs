//! The Docker backend on the Engine of another machine, over ssh and TLS, also when it breaks.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chom_recovery::{
    ErrorKind,
    backend::{
        Backend, BackendExt, ContainerState, Exec, ExecOutput, ExecRequest, Place,
        docker::{DockerBackend, DockerOptions, address::Environment},
    },
    system::Compose,
    testing::backend::{self as conformance, Fixture},
};
use chom_recovery_tests::{
    engine::{EngineProject, IMAGE},
    remote::{ALIAS, Machine, other_engines},
};
use futures::{StreamExt, future::join_all, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const WAIT: Duration = Duration::from_mins(1);

fn fixture<'a>(backend: &'a DockerBackend, run: &'a str, port: Option<u16>, bulk: usize) -> Fixture<'a> {
    Fixture {
        backend,
        service: "store",
        dependent: "web",
        image: IMAGE,
        lasting: &["sleep", "600"],
        ending: &["sh", "-c", "echo out; echo err >&2; exit 7"],
        echo: &["cat"],
        failing: &["sh", "-c", "echo out; echo err >&2; exit 3"],
        port,
        bulk,
        run,
    }
}

async fn refused(machine: &Machine, compose: &Compose, options: DockerOptions) -> chom_recovery::Error {
    let error = DockerBackend::connect(compose, machine.options(options)).await.expect_err("it must not connect");
    println!("{error:?}");
    error
}

/// What a web server answers to a request for its `/etc/passwd`.
async fn fetch(host: &str, port: u16) -> String {
    let mut connection = TcpStream::connect((host, port)).await.unwrap();
    connection.write_all(b"GET /etc/passwd HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(WAIT, connection.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_over_ssh_keeps_its_promises() {
    let Some(machine) = Machine::start("ssh") else { return };
    let project = EngineProject::start_on("ssh", Some(machine.socket()));
    let compose = machine.over_ssh(project.compose());
    let backend = DockerBackend::connect(&compose, machine.options(project.options())).await.unwrap();
    let engine = backend.engine().await.unwrap();
    assert!(!engine.is_local);
    assert_eq!(engine.api_version, project.docker(&["version", "--format", "{{.Server.APIVersion}}"]).trim());
    assert_eq!(engine.id, project.docker(&["info", "--format", "{{.ID}}"]).trim());
    let f = fixture(&backend, &project.name, Some(7000), 20 << 20);
    conformance::all(&f).await;
    assert_eq!(project.left_over(), "");
    assert_eq!(machine.sessions(), 0, "requests go through one forward");
    // More at once than sshd takes sessions of one connection, which are ten.
    let store = backend.service_containers("store").await.unwrap().remove(0).name;
    let many = (0..15).map(|i| {
        let request = ExecRequest::new(["cat"]).stdin(stream::iter([Ok(Bytes::from(format!("{i}")))]).boxed());
        backend.run(&store, request, WAIT)
    });
    for (i, out) in join_all(many).await.into_iter().enumerate() {
        assert_eq!(out.unwrap().stdout, i.to_string());
    }
    backend.scale("web", 2).await.unwrap();
    assert_eq!(backend.service_containers("web").await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forwards_no_sockets_is_asked_by_command() {
    let Some(mut machine) = Machine::start("command") else { return };
    machine.start_sshd("AllowStreamLocalForwarding no");
    let project = EngineProject::start_on("command", Some(machine.socket()));
    let compose = machine.over_ssh(project.compose());
    let backend = DockerBackend::connect(&compose, machine.options(project.options())).await.unwrap();
    let f = fixture(&backend, &project.name, Some(7000), 1 << 20);
    conformance::the_engine_tells_who_it_is(&f).await;
    conformance::commands_get_their_input_and_its_end(&f).await;
    conformance::archives_that_are_cut_are_refused(&f).await;
    let store = backend.service_containers("store").await.unwrap().remove(0).name;
    let exec = first_words(&backend, &store).await;
    assert_eq!(machine.sessions(), 1, "one session for the one request that is open");
    machine.cut_ssh();
    assert_eq!(broken_end(exec).await, ErrorKind::OutcomeUnknown);
    let out = backend.run(&store, ExecRequest::new(["echo", "again"]), WAIT).await.unwrap();
    assert_eq!(out.stdout, "again\n");
    machine.kill_engine();
    let error = backend.containers().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(format!("{error:?}").contains("docker.sock"), "what the other side said is told: {error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_leaves_nothing_behind() {
    let Some(machine) = Machine::start("clean") else { return };
    let project = EngineProject::start_on("clean", Some(machine.socket()));
    let compose = machine.over_ssh(project.compose());
    let backend = DockerBackend::connect(&compose, machine.options(project.options())).await.unwrap();
    let store = backend.service_containers("store").await.unwrap().remove(0).name;
    let endpoint = backend.endpoint(&store, 7000).await.unwrap();
    let exec = first_words(&backend, &store).await;
    let [master] = machine.clients()[..] else { panic!("one connection: {:?}", machine.clients()) };
    let folder = machine.control_folder(master);
    let mode = std::fs::metadata(&folder).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "{}", folder.display());
    drop((exec, endpoint, backend));
    let deadline = Instant::now() + WAIT;
    while !machine.clients().is_empty() || folder.exists() {
        assert!(Instant::now() < deadline, "{:?} and {} are left", machine.clients(), folder.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_engines_keep_every_promise() {
    for root in other_engines("other engines") {
        let name = root.file_name().unwrap().to_string_lossy().into_owned();
        let Some(machine) = Machine::start_with("other engines", Some(root)) else { return };
        let project = EngineProject::start_on(&name, Some(machine.socket()));
        let backend = project.backend(machine.options(project.options())).await;
        let engine = backend.engine().await.unwrap();
        println!("Debian {name}: Engine {}, API {}", engine.version, engine.api_version);
        assert_eq!(engine.api_version, project.docker(&["version", "--format", "{{.Server.APIVersion}}"]).trim());
        // Its containers are in the machine's own network, so that this address leads nowhere.
        conformance::all(&fixture(&backend, &project.name, None, 4 << 20)).await;
        let compose = machine.over_ssh(project.compose());
        let backend = DockerBackend::connect(&compose, machine.options(project.options())).await.unwrap();
        let f = fixture(&backend, &project.name, Some(7000), 4 << 20);
        conformance::endpoints_can_be_dialled(&f).await;
        conformance::commands_get_their_input_and_its_end(&f).await;
        assert_eq!(project.left_over(), "", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_behind_ssh_is_reached_as_long_as_its_endpoint_lives() {
    let Some(mut machine) = Machine::start("endpoint") else { return };
    let project = EngineProject::start_on("endpoint", Some(machine.socket()));
    let compose = machine.over_ssh(project.compose());
    let connect = || DockerBackend::connect(&compose, machine.options(project.options()));
    let backend = connect().await.unwrap();
    let store = backend.service_containers("store").await.unwrap().remove(0).name;
    let endpoint = backend.endpoint(&store, 7000).await.unwrap();
    let (host, port) = (endpoint.host.clone(), endpoint.port);
    let answers = join_all((0..4).map(|_| fetch(&host, port))).await;
    assert!(answers.iter().all(|answer| answer.contains("root:x:0:0")), "{answers:?}");
    // Nobody listens there: the connection ends, it does not hang.
    let nobody = backend.endpoint(&store, 7009).await.unwrap();
    assert_eq!(fetch(&nobody.host, nobody.port).await, "");
    let mut open = TcpStream::connect((host.as_str(), port)).await.unwrap();
    drop(endpoint);
    let ended = tokio::time::timeout(WAIT, open.read(&mut [0])).await.expect("an open connection ends too");
    assert_eq!(ended.unwrap_or(0), 0, "nothing may come any more");
    let deadline = Instant::now() + WAIT;
    while TcpStream::connect((host.as_str(), port)).await.is_ok() {
        assert!(Instant::now() < deadline, "the port is still open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The backend may go first.
    let endpoint = backend.endpoint(&store, 7000).await.unwrap();
    drop(backend);
    assert!(fetch(&endpoint.host, endpoint.port).await.contains("root:x:0:0"));
    drop(endpoint);

    machine.start_sshd("AllowTcpForwarding no");
    let backend = DockerBackend::connect(&compose, machine.options(project.options())).await.unwrap();
    let error = backend.endpoint(&store, 7000).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("sshd")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_is_strict_about_hosts_and_keys() {
    let Some(mut machine) = Machine::start("strict") else { return };
    let options = || DockerOptions { control_timeout: Duration::from_secs(10), ..DockerOptions::default() };
    let compose = machine.over_ssh(Compose { project: "none".into(), ..Compose::default() });
    DockerBackend::connect(&compose, machine.options(options())).await.expect("it is configured well");
    machine.forget_host();
    let error = refused(&machine, &compose, options()).await;
    assert_eq!(error.kind(), ErrorKind::Authentication);
    assert!(error.message().contains("is not known"));
    assert_eq!(std::fs::read_to_string(machine.path("known_hosts")).unwrap(), "", "nothing is accepted by itself");
    machine.know_host("other_key");
    let error = refused(&machine, &compose, options()).await;
    assert_eq!(error.kind(), ErrorKind::Authentication);
    assert!(error.message().contains("is not the known one"));
    machine.know_host("host_key");
    machine.use_key("other_key");
    let error = refused(&machine, &compose, options()).await;
    assert_eq!(error.kind(), ErrorKind::Authentication);
    assert!(error.message().contains("Permission denied"));
    machine.use_key("user_key");
    let named = Compose { host: Some(format!("ssh://root@{}:22/run/no.sock", machine.address())), ..compose.clone() };
    let error = refused(&machine, &named, options()).await;
    assert_eq!(error.kind(), ErrorKind::Unreachable, "there is no Engine");
    assert!(format!("{error:?}").contains("/run/no.sock"), "{error:?}");
    let socket = machine.path("docker.sock");
    let named = Compose { host: Some(format!("ssh://root@{ALIAS}{}", socket.display())), ..compose.clone() };
    DockerBackend::connect(&named, machine.options(options())).await.expect("the socket is named");
    let nobody = Compose { host: Some(format!("ssh://{ALIAS}:23")), ..compose.clone() };
    assert_eq!(refused(&machine, &nobody, options()).await.kind(), ErrorKind::Unreachable);
    machine.kill_engine();
    let error = refused(&machine, &compose, options()).await;
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(format!("{error:?}").contains("docker.sock"), "what the other side said is told: {error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_of_the_docker_cli_leads_through_ssh() {
    let Some(machine) = Machine::start("context") else { return };
    let config = machine.path("cli").display().to_string();
    let host = format!("host=ssh://{ALIAS}");
    for arguments in [&["context", "create", "other", "--docker", &host][..], &["context", "use", "other"]] {
        assert!(Command::new("docker").args(["--config", &config]).args(arguments).status().unwrap().success());
    }
    let compose = Compose { project: "none".into(), ..Compose::default() };
    let direct = Compose { host: Some(machine.socket()), ..compose.clone() };
    let direct = DockerBackend::connect(&direct, DockerOptions::default()).await.unwrap().engine().await.unwrap();
    for context in [Some("other".to_owned()), None] {
        let environment = Environment {
            docker_context: context,
            docker_config: Some(Path::new(&config).into()),
            ..Environment::default()
        };
        let options = DockerOptions { environment, ..machine.options(DockerOptions::default()) };
        let backend = DockerBackend::connect(&compose, options).await.unwrap();
        assert_eq!(backend.engine_address(), format!("ssh://{ALIAS}"));
        assert_eq!(backend.engine().await.unwrap().id, direct.id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_checks_both_sides() {
    let Some(machine) = Machine::start("tls") else { return };
    let project = EngineProject::start_on("tls", Some(machine.socket()));
    let compose = machine.over_tls(project.compose());
    let options = machine.options(project.options());
    let backend = DockerBackend::connect(&compose, options.clone()).await.unwrap();
    assert!(!backend.engine().await.unwrap().is_local);
    for foreign_client in [false, true] {
        let mut options = options.clone();
        options.environment.docker_cert_path = Some(machine.foreign_certificates(foreign_client));
        let mut error = DockerBackend::connect(&compose, options.clone()).await.unwrap_err();
        // On a loaded machine its daemon may answer too late to say why it refuses, or its word is lost as the connection ends.
        for _ in 0..3 {
            if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unreachable) {
                error = DockerBackend::connect(&compose, options.clone()).await.unwrap_err();
            }
        }
        println!("{error:?}");
        assert_eq!(error.kind(), ErrorKind::Authentication, "foreign client: {foreign_client}: {error:?}");
    }
    let mut plain = options.clone();
    plain.environment = Environment::default();
    let without = Compose { host: Some(format!("tcp://{}:2376", machine.address())), ..compose.clone() };
    let error = DockerBackend::connect(&without, plain).await.unwrap_err();
    println!("{error:?}");
    assert_ne!(error.kind(), ErrorKind::OutcomeUnknown, "nothing was changed");
    conformance::all(&fixture(&backend, &project.name, None, 1 << 20)).await;
    assert_eq!(project.left_over(), "");

    let store = backend.service_containers("store").await.unwrap().remove(0).name;
    let error = backend.endpoint(&store, 7000).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("ssh://") && hint.contains("address")), "{error:?}");
    let published = format!("{}-published", project.name);
    let label = format!("{}={}", chom_recovery::backend::RUN_LABEL, project.name);
    project.docker(&[
        "run",
        "-d",
        "--name",
        &published,
        "--label",
        &label,
        "-p",
        "7005:7000",
        IMAGE,
        "httpd",
        "-f",
        "-p",
        "7000",
        "-h",
        "/",
    ]);
    let endpoint = backend.endpoint(&published, 7000).await.unwrap();
    assert_eq!((endpoint.host.as_str(), endpoint.port), (machine.address().as_str(), 7005));
    assert!(fetch(&endpoint.host, endpoint.port).await.contains("root:x:0:0"));
}

async fn first_words(backend: &DockerBackend, container: &str) -> Exec {
    let endless = ExecRequest::new(["sh", "-c", "while :; do echo still; sleep 0.1; done"]);
    let mut exec = backend.exec(container, endless).await.unwrap();
    assert!(matches!(exec.next().await, Some(Ok(ExecOutput::Stdout(_)))));
    exec
}

/// How a command ended that cannot have ended by itself.
async fn broken_end(mut exec: Exec) -> ErrorKind {
    let end = async {
        loop {
            match exec.next().await {
                Some(Ok(ExecOutput::Stdout(_))) => {}
                Some(Err(error)) => return error.kind(),
                other => panic!("an endless command ended with {other:?}"),
            }
        }
    };
    tokio::time::timeout(WAIT, end).await.expect("a broken connection is noticed")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_is_told_and_found_again() {
    let Some(mut machine) = Machine::start("dies") else { return };
    let project = EngineProject::start_on("dies", Some(machine.socket()));
    let mut backends = Vec::new();
    for compose in [project.compose(), machine.over_ssh(project.compose()), machine.over_tls(project.compose())] {
        backends.push(DockerBackend::connect(&compose, machine.options(project.options())).await.unwrap());
    }
    let store = backends[0].service_containers("store").await.unwrap().remove(0).name;
    let mut running = Vec::new();
    for backend in &backends {
        running.push(first_words(backend, &store).await);
    }
    machine.kill_engine();
    for (backend, exec) in backends.iter().zip(running) {
        let address = backend.engine_address();
        assert_eq!(broken_end(exec).await, ErrorKind::OutcomeUnknown, "{address}");
        let begun = Instant::now();
        let error = backend.containers().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{address}: {error:?}");
        assert_eq!(backend.volume("any").await.unwrap_err().kind(), ErrorKind::Unreachable, "{address}");
        let error = backend.exec(&store, ExecRequest::new(["true"])).await.err().expect("nobody could run it");
        assert!(matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::OutcomeUnknown), "{address}: {error:?}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{address}: it is told at once");
    }
    machine.start_engine();
    for backend in &backends {
        let address = backend.engine_address();
        let containers = backend.containers().await.unwrap_or_else(|e| panic!("{address}: {e:?}"));
        assert!(containers.len() >= 2, "{address}: {containers:?}");
        backend.start_all(&["store", "web"], WAIT).await.unwrap();
        let out = backend.run(&store, ExecRequest::new(["echo", "again"]), WAIT).await.unwrap();
        assert_eq!(out.stdout, "again\n", "{address}");
    }
    let states: Vec<_> = backends[0].containers().await.unwrap().into_iter().map(|c| (c.service, c.state)).collect();
    assert!(states.contains(&("web".into(), ContainerState::Running)), "{states:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_ssh_connection_is_opened_again() {
    let Some(machine) = Machine::start("lost") else { return };
    let project = EngineProject::start_on("lost", Some(machine.socket()));
    let compose = machine.over_ssh(project.compose());
    let backend = DockerBackend::connect(&compose, machine.options(project.options())).await.unwrap();
    let store = backend.service_containers("store").await.unwrap().remove(0).name;
    for round in 0..2 {
        let exec = first_words(&backend, &store).await;
        machine.cut_ssh();
        assert_eq!(broken_end(exec).await, ErrorKind::OutcomeUnknown, "round {round}");
        let out = backend.run(&store, ExecRequest::new(["echo", "again"]), WAIT).await.unwrap();
        assert_eq!(out.stdout, "again\n", "round {round}");
        let endpoint = backend.endpoint(&store, 7000).await.unwrap();
        assert!(fetch(&endpoint.host, endpoint.port).await.contains("root:x:0:0"), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wedged_engine_is_late_and_never_empty() {
    const LIMIT: Duration = Duration::from_secs(3);
    let Some(machine) = Machine::start("wedged") else { return };
    let project = EngineProject::start_on("wedged", Some(machine.socket()));
    let options = machine.options(DockerOptions { control_timeout: LIMIT, stall_timeout: LIMIT, ..project.options() });
    let composes = [project.compose(), machine.over_ssh(project.compose()), machine.over_tls(project.compose())];
    let mut backends = Vec::new();
    for compose in &composes {
        backends.push(DockerBackend::connect(compose, options.clone()).await.unwrap());
    }
    let before = backends[0].containers().await.unwrap();
    let store = backends[0].service_containers("store").await.unwrap().remove(0).name;
    let fill = ExecRequest::new(["dd", "if=/dev/zero", "of=/data/big", "bs=1M", "count=64"]);
    backends[0].run(&store, fill, WAIT).await.unwrap().success("dd").unwrap();
    let mut archives = Vec::new();
    // Of the volume: the Engine gives one archive of a container at a time.
    let volume = Place::Volume(format!("{}_data", project.name));
    for backend in &backends {
        let mut archive = backend.read_archive(&volume, "big").await.unwrap();
        archive.next().await.unwrap().unwrap();
        archives.push(archive);
    }
    machine.signal_engine("STOP");
    let wedged = backends.iter().zip(&composes).zip(archives).map(async |((backend, compose), mut archive)| {
        let address = backend.engine_address();
        let late = |begun: Instant, what: &str| {
            let took = begun.elapsed();
            assert!(took < LIMIT * 3, "{address}: {what} took {took:?}");
        };
        let begun = Instant::now();
        assert_eq!(backend.containers().await.unwrap_err().kind(), ErrorKind::Timeout, "{address}");
        late(begun, "listing");
        let begun = Instant::now();
        assert_eq!(backend.container(&store).await.unwrap_err().kind(), ErrorKind::Timeout, "{address}");
        assert_eq!(backend.volume("none").await.unwrap_err().kind(), ErrorKind::Timeout, "{address}");
        late(begun, "two questions");
        let begun = Instant::now();
        let error = backend.create_volume("none", &project_label(&project)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::OutcomeUnknown), "{address}: {error:?}");
        late(begun, "a volume");
        let begun = Instant::now();
        let error = DockerBackend::connect(compose, options.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{address}: {error:?}");
        late(begun, "connecting");
        // What was on its way still comes; then nothing, which is no end.
        let end = async {
            loop {
                match archive.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return error.kind(),
                    None => panic!("{address}: half an archive ended well"),
                }
            }
        };
        let end = tokio::time::timeout(WAIT, end).await.expect("a stalled archive is noticed");
        assert_eq!(end, ErrorKind::Timeout, "{address}");
    });
    tokio::time::timeout(WAIT * 2, join_all(wedged)).await.expect("nothing waits for ever");
    machine.signal_engine("CONT");
    for backend in &backends {
        let ids = |containers: &[chom_recovery::backend::Container]| {
            containers.iter().map(|c| (c.id.clone(), c.state)).collect::<Vec<_>>()
        };
        let after = backend.containers().await.unwrap();
        assert_eq!(ids(&after), ids(&before), "{}", backend.engine_address());
    }
}

fn project_label(project: &EngineProject) -> chom_recovery::backend::Labels {
    [(chom_recovery::backend::RUN_LABEL.to_owned(), project.name.clone())].into()
}
