use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;

use super::*;
use crate::{
    backend::{Backend, BackendExt, Condition, Dependency, ExecRequest, Mount},
    testing::backend::{self as conformance, Fixture},
};

fn services() -> Vec<Service> {
    let service = |name: &str, depends_on: Vec<Dependency>| Service {
        name: name.into(),
        image: Some("box".into()),
        depends_on,
        mounts: vec![Mount {
            source: MountSource::Volume("shop_data".into()),
            target: "/data".into(),
            read_only: false,
        }],
        replicas: 1,
        has_health_check: true,
        has_fixed_name: false,
    };
    let edge = Dependency { service: "store".into(), condition: Condition::Healthy };
    vec![service("web", vec![edge]), service("store", Vec::new())]
}

fn world(dir: &Path) -> SimBackend {
    let backend = SimBackend::create(dir, "shop", services()).unwrap();
    backend.command("echo-input", async |command: SimCommand| {
        Ok(ExecResult { exit_code: 0, stdout: command.stdin, stderr: Bytes::new() })
    });
    backend.command("failing", async |_| {
        Ok(ExecResult { exit_code: 3, stdout: Bytes::from_static(b"out\n"), stderr: Bytes::from_static(b"err\n") })
    });
    backend.program("box", |start| {
        if start.argv == ["ending"] {
            start.print("out", false);
            start.print("err", true);
            return SimLife::Ends(7);
        }
        let has_check = !start.container.service.is_empty();
        SimLife::Runs(if has_check { HealthCheck::Healthy } else { HealthCheck::Absent })
    });
    backend
}

#[tokio::test]
async fn the_simulated_backend_keeps_every_promise() {
    let dir = tempfile::tempdir().unwrap();
    let backend = world(dir.path());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    backend.address("shop-store-1", 7000, "127.0.0.1", listener.local_addr().unwrap().port());
    let fixture = Fixture {
        backend: &backend,
        service: "store",
        dependent: "web",
        image: "box",
        lasting: &["lasting"],
        ending: &["ending"],
        echo: &["echo-input"],
        failing: &["failing"],
        port: Some(7000),
        bulk: 3 << 20,
        run: "chomt-sim",
    };
    conformance::all(&fixture).await;
}

#[tokio::test]
async fn another_process_finds_the_world_as_it_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let first = world(dir.path());
    first.stop("web", Duration::ZERO).await.unwrap();
    drop(first);
    let second = SimBackend::open(dir.path()).unwrap();
    assert_eq!(second.service_containers("web").await.unwrap()[0].state, ContainerState::Exited);
    let ops: Vec<_> = second.calls().unwrap().into_iter().map(|call| (call.op, call.applied)).collect();
    assert_eq!(ops[0], (Op::Stop, true));
    assert_eq!(SimBackend::create(dir.path(), "x", Vec::new()).unwrap_err().kind(), ErrorKind::AlreadyExists);
}

#[tokio::test]
async fn faults_come_as_often_as_planned() {
    let dir = tempfile::tempdir().unwrap();
    let backend = world(dir.path());
    backend.fault(Op::Stop, 2, Fault::Fail(ErrorKind::Unreachable));
    for _ in 0..2 {
        assert_eq!(backend.stop("web", Duration::ZERO).await.unwrap_err().kind(), ErrorKind::Unreachable);
    }
    assert!(backend.stop("web", Duration::ZERO).await.unwrap()[0].was_running);
    backend.fault(Op::Start, 1, Fault::DoneThenFail(ErrorKind::OutcomeUnknown));
    assert_eq!(backend.start("web", Duration::ZERO).await.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    assert!(backend.service_containers("web").await.unwrap()[0].is_ready(), "it was done all the same");
    backend.fault(Op::Containers, 1, Fault::Hang);
    let hung = tokio::time::timeout(Duration::from_millis(50), backend.containers()).await;
    assert!(hung.is_err());
}

#[tokio::test]
async fn a_cut_command_ends_without_an_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let backend = world(dir.path());
    backend.fault(Op::Exec, 1, Fault::Cut(2));
    let exec = backend.exec("shop-web-1", ExecRequest::new(["failing"])).await.unwrap();
    let error = exec.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
}

#[tokio::test]
async fn the_moments_around_an_effect_are_seen() {
    let dir = tempfile::tempdir().unwrap();
    let backend = world(dir.path());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    backend.watch(move |moment| log.lock().unwrap().push(moment));
    backend.stop("web", Duration::ZERO).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [Moment::Before(Op::Stop), Moment::After(Op::Stop)]);
}
