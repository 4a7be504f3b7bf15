//! The Docker backend on the real Engine.

use std::{
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chom_recovery::{
    ErrorKind,
    backend::{
        Backend, BackendExt, ContainerState, ModelSource, Network, OneOff, Place, RUN_LABEL, VolumeIdentity,
        docker::{DockerBackend, DockerOptions},
    },
    stream::ByteStream,
    testing::backend::{self as conformance, Fixture},
};
use chom_recovery_tests::engine::{EngineProject, IMAGE};
use futures::{StreamExt, stream};

const WAIT: Duration = Duration::from_mins(1);

fn fixture<'a>(backend: &'a DockerBackend, run: &'a str, bulk: usize) -> Fixture<'a> {
    Fixture {
        backend,
        service: "store",
        dependent: "web",
        image: IMAGE,
        lasting: &["sleep", "600"],
        ending: &["sh", "-c", "echo out; echo err >&2; exit 7"],
        echo: &["cat"],
        failing: &["sh", "-c", "echo out; echo err >&2; exit 3"],
        port: Some(7000),
        bulk,
        run,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_keeps_every_promise() {
    let Some(project) = EngineProject::start("direct") else { return };
    let backend = project.backend(project.options()).await;
    conformance::all(&fixture(&backend, &project.name, 50 << 20)).await;
    // What is left are volumes that the suite made without our label, to see that they are not removed.
    assert_eq!(project.left_over(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_keeps_every_promise_through_helper_containers_alone() {
    let Some(project) = EngineProject::start("helpers") else { return };
    let options = DockerOptions { always_use_helpers: true, ..project.options() };
    let backend = project.backend(options).await;
    conformance::all(&fixture(&backend, &project.name, 1 << 20)).await;
    assert_eq!(project.left_over(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_or_writer_is_no_stall() {
    let Some(project) = EngineProject::start("slow") else { return };
    let options = DockerOptions { stall_timeout: Duration::from_secs(1), ..project.options() };
    let backend = project.backend(options).await;
    let name = format!("{}-slow", project.name);
    backend.create_volume(&name, &[(RUN_LABEL.into(), project.name.clone())].into()).await.unwrap();
    let place = Place::Volume(name.clone());
    let tar = one_file(24 << 20);
    let pieces: Vec<Bytes> = tar.chunks(8 << 20).map(Bytes::copy_from_slice).collect();
    let slow: ByteStream = Box::pin(stream::iter(pieces).then(async |piece| {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        Ok(piece)
    }));
    backend.write_archive(&place, "", slow).await.unwrap();
    let mut read = backend.read_archive(&place, "").await.unwrap();
    let mut got = read.next().await.unwrap().unwrap().len();
    tokio::time::sleep(Duration::from_secs(3)).await;
    while let Some(piece) = read.next().await {
        got += piece.unwrap().len();
    }
    assert!(got > 24 << 20);
    backend.remove_volume(&name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_ends_at_once_fails_the_start_with_its_last_words() {
    let Some(project) = EngineProject::start("words") else { return };
    let file = std::fs::read_to_string(project.file()).unwrap();
    let broken = "  broken:\n    image: chomt/busybox:1\n    network_mode: none\n    \
        command: [\"sh\", \"-c\", \"echo cannot open the tablespace >&2; exit 4\"]\nnetworks:";
    std::fs::write(project.file(), file.replace("networks:\n  inside", &format!("{broken}\n  inside"))).unwrap();
    project.docker(&["compose", "-p", &project.name, "-f", &project.file(), "create", "broken"]);
    let backend = project.backend(project.options()).await;
    let begun = Instant::now();
    let error = backend.start("broken", WAIT).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unhealthy);
    assert!(error.to_string().contains("cannot open the tablespace"), "{error}");
    assert!(error.to_string().contains("exit code: 4"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10), "it must not wait for the deadline");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_ended_well_is_a_started_one() {
    let Some(project) = EngineProject::start("job") else { return };
    let backend = project.backend(project.options()).await;
    backend.stop_all(&["store", "job", "web"], Duration::from_secs(5)).await.unwrap();
    backend.start_all(&["store", "job", "web"], WAIT).await.unwrap();
    assert!(backend.service_containers("web").await.unwrap()[0].is_ready());
    assert_eq!(backend.service_containers("job").await.unwrap()[0].exit_code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_describe_the_project_when_its_files_are_gone() {
    let Some(project) = EngineProject::start("labels") else { return };
    let mut compose = project.compose();
    let by_files = DockerBackend::connect(&compose, project.options()).await.unwrap().model().await.unwrap();
    assert_eq!(by_files.source, ModelSource::Files);
    assert_eq!(by_files.volumes["data"], format!("{}_data", project.name));
    compose.files.clear();
    let backend = DockerBackend::connect(&compose, project.options()).await.unwrap();
    assert_eq!(backend.model().await.unwrap(), by_files, "the files named by the labels are the same");
    std::fs::rename(project.file(), project.folder.path().join("away")).unwrap();
    let by_labels = backend.model().await.unwrap();
    assert_eq!(by_labels.source, ModelSource::Labels);
    let names = |p: &chom_recovery::backend::Project| p.services.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&by_labels), names(&by_files));
    assert_eq!(by_labels.volumes, by_files.volumes);
    compose.files = vec![project.file().into()];
    let backend = DockerBackend::connect(&compose, project.options()).await.unwrap();
    let error = backend.model().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "files that are configured have to be there");
    std::fs::rename(project.folder.path().join("away"), project.file()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_the_compose_file_do_not_come_out() {
    let Some(project) = EngineProject::start("canary") else { return };
    let backend = project.backend(project.options()).await;
    let shown = format!("{:?} {:?} {backend:?}", backend.model().await, backend.containers().await);
    assert!(!shown.contains("canary-in-compose"), "{shown}");
    std::fs::write(
        project.file(),
        "services: {store: {image: 7, environment: {A: \"canary-in-compose\"}, ports: \"x\"}}",
    )
    .unwrap();
    let error = backend.model().await.unwrap_err();
    assert!(!format!("{error:?}").contains("canary-in-compose"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_scaled_up_and_down() {
    let Some(project) = EngineProject::start("scale") else { return };
    let backend = project.backend(project.options()).await;
    for replicas in [3, 1] {
        backend.scale("web", replicas).await.unwrap();
        assert_eq!(backend.service_containers("web").await.unwrap().len(), replicas as usize);
    }
    assert_eq!(backend.scale("nobody", 2).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_container_can_be_dialled_and_takes_its_network_with_it() {
    let Some(project) = EngineProject::start("isolated") else { return };
    let backend = project.backend(project.options()).await;
    let spec = OneOff {
        name: format!("{}-candidate", project.name),
        image: IMAGE.into(),
        entrypoint: Some(["httpd", "-f", "-p", "7001", "-h", "/"].map(String::from).to_vec()),
        command: Vec::new(),
        env: Vec::new(),
        user: None,
        mounts: Vec::new(),
        files: Vec::new(),
        network: Network::Isolated,
        own_names: Vec::new(),
        labels: [(RUN_LABEL.into(), project.name.clone())].into(),
        memory: Some(64 << 20),
        start: true,
    };
    let made = backend.one_off(&spec).await.unwrap();
    assert_eq!(made.state, ContainerState::Running);
    let endpoint = backend.endpoint(&spec.name, 7001).await.unwrap();
    let deadline = Instant::now() + WAIT;
    while tokio::net::TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await.is_err() {
        assert!(Instant::now() < deadline, "{endpoint} does not accept");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let usage = backend.usage(&spec.name).await.unwrap();
    assert_eq!(usage.memory_limit, 64 << 20);
    assert!(usage.memory > 0);
    // It has no way out, not even to the project's own network.
    let internal = project.docker(&["network", "inspect", &spec.name, "--format", "{{.Internal}}"]);
    assert_eq!(internal.trim(), "true");
    let store = backend.service_containers("store").await.unwrap().remove(0);
    let address = backend.endpoint(&store.name, 7000).await.unwrap();
    let fetch =
        ["wget", "-T", "3", "-q", "-O", "/dev/null", &format!("http://{address}/bin/busybox")].map(String::from);
    let out = backend.run(&spec.name, chom_recovery::backend::ExecRequest::new(fetch), WAIT).await.unwrap();
    assert_ne!(out.exit_code, 0, "it reached {address}");
    let networks = project.docker(&["network", "ls", "--format", "{{.Name}}"]);
    assert!(networks.contains(&spec.name));
    backend.remove_container(&spec.name).await.unwrap();
    let networks = project.docker(&["network", "ls", "--format", "{{.Name}}"]);
    assert!(!networks.contains(&spec.name));
}

fn one_file(size: usize) -> Vec<u8> {
    // `tar` is not a dependency of the tests: one ustar header is quickly written.
    let mut header = [0_u8; 512];
    header[..4].copy_from_slice(b"file");
    header[100..108].copy_from_slice(b"0000600\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[136..148].copy_from_slice(b"14524731000\0");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    tar.resize(512 + size.next_multiple_of(512) + 1024, 0);
    tar
}

/// A folder of the host, as `./data:/var/lib/mysql` mounts it, and a volume that is made beside it.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_the_host_is_exchanged_with_a_volume_beside_it() {
    for (test, always_use_helpers) in [("bound", false), ("boundh", true)] {
        let Some(project) = EngineProject::start(test) else { return };
        let backend = project.backend(DockerOptions { always_use_helpers, ..project.options() }).await;
        let data = project.folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("who"), "production").unwrap();
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o1750)).unwrap();
        let path = data.to_str().unwrap();
        let (name, labels) = (format!("{}_data__r_1", project.name), [(RUN_LABEL.into(), project.name.clone())].into());
        for _ in 0..2 {
            backend.create_volume_beside(&name, &labels, path).await.unwrap();
        }
        let beside = project.folder.path().join(&name);
        assert_eq!(beside.metadata().unwrap().permissions().mode() & 0o7777, 0o1750);
        // What a server in a container writes into the volume lies in the folder.
        backend
            .write_archive(&Place::Volume(name.clone()), "", chom_recovery::stream::once(one_file(1000)))
            .await
            .unwrap();
        assert_eq!(std::fs::read_dir(&beside).unwrap().count(), 1);

        let (old, new) = (backend.volume_identity(path).await.unwrap(), backend.volume_identity(&name).await.unwrap());
        let user = format!("{}-user", project.name);
        let label = format!("{RUN_LABEL}={}", project.name);
        let mount = format!("{path}:/data");
        project.docker(&["run", "-d", "--name", &user, "--label", &label, "-v", &mount, IMAGE, "sleep", "600"]);
        let error = backend.exchange_volumes(&old, &new).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.to_string().contains(&user), "{error}");
        project.docker(&["rm", "-fv", &user]);

        for _ in 0..2 {
            backend.exchange_volumes(&old, &new).await.unwrap();
            assert!(!data.join("who").exists());
            assert_eq!(std::fs::read_to_string(beside.join("who")).unwrap(), "production");
        }
        let now = backend.measure_volume(path).await.unwrap();
        assert_eq!((now.identity.inode, now.entries, now.mode), (new.inode, 1, 0o1750));
        assert_eq!(backend.measure_volume(&name).await.unwrap().identity.inode, old.inode);
        // Back again, as an undo asks for it.
        let turn =
            |to: &VolumeIdentity, from: &VolumeIdentity| VolumeIdentity { volume: to.volume.clone(), ..from.clone() };
        backend.exchange_volumes(&turn(&old, &new), &turn(&new, &old)).await.unwrap();
        assert_eq!(std::fs::read_to_string(data.join("who")).unwrap(), "production");

        for _ in 0..2 {
            backend.remove_volume(&name).await.unwrap();
            assert!(!beside.exists());
        }
        assert_eq!(std::fs::read_to_string(data.join("who")).unwrap(), "production");
        assert_eq!(project.left_over(), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_exchanged_is_told_beforehand() {
    let Some(project) = EngineProject::start("fixed") else { return };
    let folder = project.folder.path();
    std::fs::create_dir(folder.join("data")).unwrap();
    std::os::unix::fs::symlink(folder.join("data"), folder.join("link")).unwrap();
    let (label, memory) = (format!("{RUN_LABEL}={}", project.name), format!("{}_memory", project.name));
    let options = ["--opt", "type=tmpfs", "--opt", "device=tmpfs"];
    project.docker(&[&["volume", "create", "--label", &label][..], &options, &[&memory]].concat());
    for always_use_helpers in [false, true] {
        let backend = project.backend(DockerOptions { always_use_helpers, ..project.options() }).await;
        let link = folder.join("link");
        for name in [link.to_str().unwrap(), "/dev/shm", &memory] {
            let error = backend.check_exchangeable(name).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}: {error}");
            assert!(error.hint_text().is_some(), "{name}: {error:?}");
            let refused = backend.create_volume_beside("never", &[(RUN_LABEL.into(), "x".into())].into(), name).await;
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported, "{name}");
        }
        backend.check_exchangeable(&format!("{}_data", project.name)).await.unwrap();
        backend.check_exchangeable(folder.join("data").to_str().unwrap()).await.unwrap();
    }
    assert!(project.docker(&["volume", "ls", "-q", "--filter", "name=^never$"]).is_empty());
}
