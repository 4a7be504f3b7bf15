//! The web server recovered in the simulated world: its configuration replaced, and told to read its files again. Killed at
//! every place, undone.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use chom_recovery::{
    Result,
    backend::{Backend, Container, ContainerState, Mount, MountSource},
    procedure::{
        Recovered, backup, drill,
        nginx::{PROCEDURE, RecoverNginx, Request},
    },
    run::{NewRun, Run, summary::RunStatus},
    system::{Component, TreeKind},
    testing::{
        kill::{
            self, Crash, Kills, Promises, assert_killed_at, block_on, done_in_the_end, kill_matrix, newest,
            undone_in_the_end, yes,
        },
        sim::Op,
        stack::{SimStack, Snapshot},
        tree::{self, Tree, tree},
        web,
    },
};

const WEB: &str = "shop-nginx-1";

fn new_run() -> NewRun {
    NewRun::new("shop", PROCEDURE, &Request::default()).unwrap().supersede([backup::PROCEDURE, drill::PROCEDURE])
}

fn folder(directory: &Path) -> PathBuf {
    directory.join("site/nginx")
}

/// Where the web server has its certificates, in its container.
const CERTIFICATES: &str = "/etc/certificates";

fn certificates(directory: &Path) -> PathBuf {
    directory.join("site/certificates")
}

fn good() -> Tree {
    tree(&[(web::CONFIGURATION, "server {\n    listen 80;\n}\n")])
}

fn broken() -> Tree {
    tree(&[(web::CONFIGURATION, "server {\n    listen 80\n}\n"), ("since.conf", "# newer than the backup\n")])
}

fn component(name: &str, kind: TreeKind, path: &str) -> Component {
    Component {
        name: name.into(),
        kind,
        service: Some("nginx".into()),
        path: Some(path.into()),
        volume: None,
        include: Vec::new(),
        exclude: Vec::new(),
    }
}

async fn open(directory: &Path) -> SimStack {
    let components = [
        component("web", TreeKind::Config, web::FOLDER),
        component("certificates", TreeKind::Certificates, CERTIFICATES),
    ];
    SimStack::open_with(directory, "state", |system| system.components.extend(components)).await.unwrap()
}

/// A system whose web server has its configuration and its certificates in folders of the host.
async fn create(directory: &Path) -> SimStack {
    SimStack::create(directory).await.unwrap();
    let stack = open(directory).await;
    for (folder, target) in [(folder(directory), web::FOLDER), (certificates(directory), CERTIFICATES)] {
        fs::create_dir_all(&folder).unwrap();
        let source = MountSource::HostPath(folder.to_str().unwrap().into());
        let mount = Mount { source, target: target.into(), read_only: true };
        stack.backend.change(WEB, |c| c.mounts.push(mount)).unwrap();
    }
    stack
}

async fn restart(stack: &SimStack) -> Result<()> {
    stack.backend.stop("nginx", Duration::ZERO).await?;
    stack.backend.start("nginx", Duration::ZERO).await
}

/// Its configuration was backed up, and broken since; the web server was started anew, and ended.
fn begin(directory: &Path) {
    block_on(async {
        let (stack, folder) = (create(directory).await, folder(directory));
        tree::write(&folder, &good()).unwrap();
        stack.back_up_tree("web", &folder).await.unwrap();
        tree::write(&folder, &broken()).unwrap();
        restart(&stack).await.unwrap_err();
        stack.keep_looks().await.unwrap();
    });
}

async fn recover(run: Run, stack: &SimStack) -> Result<Recovered> {
    kill::recover(RecoverNginx, run, stack.parts.clone()).await
}

fn status(directory: &Path) -> RunStatus {
    newest(&directory.join("state")).unwrap().1.status
}

async fn server(stack: &SimStack) -> Container {
    stack.parts.backend.container(WEB).await.unwrap().unwrap()
}

/// The configuration that the web server has read.
fn loaded(stack: &SimStack, server: &Container) -> Option<String> {
    web::loaded(&stack.backend.path_in(server, "/")).unwrap()
}

/// How everything looks but the web server, and a container in which a killed process tested a configuration: it is removed
/// by the next test, or by `runs prune`.
fn others(mut looks: Snapshot) -> Snapshot {
    looks.containers.retain(|name, _| name != WEB && !name.contains("-nginx-test-"));
    looks
}

/// A folder has all that it had or all of the backup, and then what it had is kept.
fn assert_is_one_of(folder: &Path, before: &Tree, restored: &Tree, crash: &Crash) {
    let found = tree::read(folder).unwrap();
    if found == *restored {
        let is_kept = |path: &PathBuf| path.is_dir() && tree::read(path).unwrap() == *before;
        assert!(tree::beside(folder).unwrap().iter().any(is_kept), "{crash:?}: the old files are gone");
    } else {
        assert_eq!(found, *before, "{crash:?}");
    }
}

/// The configuration is all that it was or all of the backup's, and what it was is kept. Nobody but the web server is touched,
/// which runs on what it can read.
fn always(directory: &Path, crash: &Crash) {
    assert_is_one_of(&folder(directory), &broken(), &good(), crash);
    block_on(async {
        let stack = open(directory).await;
        let looks = stack.looks().await.unwrap();
        assert_eq!(others(looks), others(SimStack::looked(directory).unwrap()), "{crash:?}");
        let server = server(&stack).await;
        if server.state == ContainerState::Running {
            assert_eq!(loaded(&stack, &server).as_ref(), good().get(web::CONFIGURATION), "{crash:?}");
        }
    });
}

#[test]
fn a_configuration_whose_replacement_is_killed_anywhere_is_the_backups_and_served_in_the_end() {
    fn work(directory: &Path) {
        block_on(async {
            let stack = open(directory).await;
            let report = done_in_the_end(&stack.engine(yes()), new_run(), |run| recover(run, &stack)).await.unwrap();
            let Some(report) = report else { return };
            assert!(report.found.iter().any(|line| line.contains("nginx.conf:2: directive \"listen\"")), "{report:?}");
            assert!(report.done.iter().any(|line| line == "the web server was started"), "{report:?}");
        });
    }
    fn at_end(directory: &Path) {
        assert_eq!(status(directory), RunStatus::Succeeded);
        assert_eq!(tree::read(&folder(directory)).unwrap(), good());
        block_on(async {
            let stack = open(directory).await;
            let server = server(&stack).await;
            assert!(server.is_ready(), "{server:?}");
            assert_eq!(loaded(&stack, &server).as_ref(), good().get(web::CONFIGURATION));
            assert_eq!(server.restart_policy, SimStack::looked(directory).unwrap().containers[WEB].1);
            assert_eq!(stack.parts.backend.own_containers().await.unwrap(), [], "no test is left");
        });
    }
    let places = kill_matrix(
        "a_configuration_whose_replacement_is_killed_anywhere_is_the_backups_and_served_in_the_end",
        Kills::Once,
        &Promises { begin: &begin, work: &work, always: &always, at_end: &at_end },
    );
    assert_killed_at(&places, &["body ended", "after folders are exchanged", "before put configuration"]);
}

#[test]
fn a_configuration_whose_replacement_is_killed_anywhere_can_be_put_back_as_it_was() {
    fn work(directory: &Path) {
        block_on(async {
            let stack = open(directory).await;
            undone_in_the_end(&stack.engine(yes()), new_run(), |run| recover(run, &stack)).await.unwrap();
        });
    }
    fn as_before(directory: &Path) {
        assert_eq!(status(directory), RunStatus::RolledBack);
        assert_eq!(tree::read(&folder(directory)).unwrap(), broken());
        for path in tree::beside(&folder(directory)).unwrap() {
            let name = path.to_str().unwrap();
            assert!(
                path == certificates(directory) || name.ends_with(".undone") || name.ends_with(".served"),
                "{name}"
            );
        }
        block_on(async {
            let stack = open(directory).await;
            let before = SimStack::looked(directory).unwrap();
            let server = server(&stack).await;
            // Its exit code tells how it ended last.
            assert_eq!((server.state, &server.restart_policy), (ContainerState::Exited, &before.containers[WEB].1));
            assert_eq!(others(stack.looks().await.unwrap()), others(before));
        });
    }
    let places = kill_matrix(
        "a_configuration_whose_replacement_is_killed_anywhere_can_be_put_back_as_it_was",
        Kills::Once,
        &Promises { begin: &begin, work: &work, always: &always, at_end: &as_before },
    );
    assert_killed_at(&places, &["after undo_intent", "undo ended", "after folders are exchanged"]);
}

/// A certificate that is valid from one day to another, counted from now, and its key.
fn certificate(from: i64, to: i64) -> Tree {
    let mut params = rcgen::CertificateParams::new(vec!["shop.example".to_owned()]).unwrap();
    let at = |days: i64| {
        let span = Duration::from_hours(24 * days.unsigned_abs());
        let now = std::time::SystemTime::now();
        if days < 0 { now - span } else { now + span }
    };
    (params.not_before, params.not_after) = (at(from).into(), at(to).into());
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    tree(&[("tls.crt", &certificate.pem()), ("tls.key", &key.serialize_pem())])
}

/// A configuration with a certificate; `end` ends one of its directives.
fn with_certificate(end: &str) -> Tree {
    let text = format!(
        "server {{\n    listen 443 ssl{end}\n    ssl_certificate {CERTIFICATES}/tls.crt;\n    \
         ssl_certificate_key {CERTIFICATES}/tls.key;\n}}\n"
    );
    tree(&[(web::CONFIGURATION, &text)])
}

/// The certificate was renewed after the web server had read the old one, which has ended.
fn begin_stale(directory: &Path) {
    block_on(async {
        let (stack, certificates) = (create(directory).await, certificates(directory));
        tree::write(&folder(directory), &with_certificate(";")).unwrap();
        tree::write(&certificates, &certificate(-90, -1)).unwrap();
        restart(&stack).await.unwrap();
        tree::write(&certificates, &certificate(-1, 90)).unwrap();
        stack.keep_looks().await.unwrap();
        fs::write(directory.join("server"), serde_json::to_vec(&server(&stack).await).unwrap()).unwrap();
    });
}

#[test]
fn a_web_server_that_is_told_to_read_its_files_again_never_ends_wherever_that_is_killed() {
    fn work(directory: &Path) {
        block_on(async {
            let stack = open(directory).await;
            let report = done_in_the_end(&stack.engine(yes()), new_run(), |run| recover(run, &stack)).await.unwrap();
            let is_told = |report: Recovered| report.done == ["the web server read its files again"];
            assert!(report.is_none_or(is_told));
        });
    }
    fn always(directory: &Path, crash: &Crash) {
        block_on(async {
            let before: Container = serde_json::from_slice(&fs::read(directory.join("server")).unwrap()).unwrap();
            assert_eq!(server(&open(directory).await).await, before, "{crash:?}");
        });
    }
    fn at_end(directory: &Path) {
        assert_eq!(status(directory), RunStatus::Succeeded);
        always(directory, &Crash { at: 0, place: "the end".into() });
        block_on(async {
            let stack = open(directory).await;
            let served = stack.backend.path_in(&server(&stack).await, "/loaded/certificate");
            assert_eq!(fs::read(served).unwrap(), fs::read(certificates(directory).join("tls.crt")).unwrap());
            assert!(stack.backend.calls().unwrap().iter().any(|call| call.op == Op::Signal && call.applied));
        });
    }
    let places = kill_matrix(
        "a_web_server_that_is_told_to_read_its_files_again_never_ends_wherever_that_is_killed",
        Kills::Once,
        &Promises { begin: &begin_stale, work: &work, always: &always, at_end: &at_end },
    );
    assert_killed_at(&places, &["body ended", "before put certificate", "after put certificate"]);
}

/// A configuration that is broken hides that the key is of another certificate.
fn begin_both(directory: &Path) {
    block_on(async {
        let stack = create(directory).await;
        let (folder, certificates) = (folder(directory), certificates(directory));
        tree::write(&folder, &with_certificate(";")).unwrap();
        tree::write(&certificates, &certificate(-1, 90)).unwrap();
        stack.back_up_tree("web", &folder).await.unwrap();
        stack.back_up_tree("certificates", &certificates).await.unwrap();
        tree::write(&directory.join("backed-up"), &tree::read(&certificates).unwrap()).unwrap();
        tree::write(&folder, &with_certificate("")).unwrap();
        let other = certificate(-1, 90).remove("tls.key").unwrap();
        tree::write(&certificates, &tree(&[("tls.key", &other)])).unwrap();
        tree::write(&directory.join("bad"), &tree::read(&certificates).unwrap()).unwrap();
        restart(&stack).await.unwrap_err();
        stack.keep_looks().await.unwrap();
    });
}

#[test]
fn a_configuration_and_certificates_that_are_both_bad_are_both_replaced_wherever_that_is_killed() {
    fn work(directory: &Path) {
        block_on(async {
            let stack = open(directory).await;
            let report = done_in_the_end(&stack.engine(yes()), new_run(), |run| recover(run, &stack)).await.unwrap();
            assert!(report.is_none_or(|report| report.done.len() == 3), "two folders and a start");
        });
    }
    fn always(directory: &Path, crash: &Crash) {
        let read = |name: &str| tree::read(&directory.join(name)).unwrap();
        assert_is_one_of(&folder(directory), &with_certificate(""), &with_certificate(";"), crash);
        assert_is_one_of(&certificates(directory), &read("bad"), &read("backed-up"), crash);
        block_on(async {
            let stack = open(directory).await;
            if server(&stack).await.state == ContainerState::Running {
                assert_eq!(tree::read(&folder(directory)).unwrap(), with_certificate(";"), "{crash:?}");
                assert_eq!(tree::read(&certificates(directory)).unwrap(), read("backed-up"), "{crash:?}");
            }
        });
    }
    fn at_end(directory: &Path) {
        assert_eq!(status(directory), RunStatus::Succeeded);
        always(directory, &Crash { at: 0, place: "the end".into() });
        block_on(async { assert!(server(&open(directory).await).await.is_ready()) });
    }
    let places = kill_matrix(
        "a_configuration_and_certificates_that_are_both_bad_are_both_replaced_wherever_that_is_killed",
        Kills::Once,
        &Promises { begin: &begin_both, work: &work, always: &always, at_end: &at_end },
    );
    let exchanges = places.iter().filter(|place| *place == "after folders are exchanged").count();
    assert_eq!(exchanges, 2, "{places:?}");
}
