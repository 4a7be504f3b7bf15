//! The application's environment file mended in the simulated world: killed at every place, undone, refused.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use chom_recovery::{
    ErrorKind, Result, System,
    backend::{BackendExt, ContainerState},
    catalog::Selector,
    procedure::{
        Parts, Procedure, Recovered,
        application::{Method, PROCEDURE, RecoverApplication, Request},
        backup, drill,
    },
    run::{NewRun, Run, summary::RunStatus},
    system::{Component, EnvironmentFile, Maintenance, TreeKind},
    testing::{
        kill::{
            self, Crash, Kills, Promises, assert_killed_at, block_on, done_in_the_end, kill_matrix, newest,
            undone_in_the_end, yes,
        },
        stack::SimStack,
        tree,
    },
};

const GOOD: &str = "APP_KEY=0123456789abcdef\nAPP_ENV=production\nDB_HOST=mysql\nDB_DATABASE=shop\nDB_USERNAME=shop\n";
const BROKEN: &str =
    "APP_KEY=0123456789abcdef\nNEW=1\nAPP_ENV=production\nDB_HOST=my sql\nDB_DATABASE=shop\nDB_USERNAME=shop\n";
const MENDED: &str =
    "APP_KEY=0123456789abcdef\nNEW=1\nAPP_ENV=production\nDB_HOST=mysql\nDB_DATABASE=shop\nDB_USERNAME=shop\n";
/// Of the file: neither what a new one has, nor what the backup has.
const MODE: u32 = 0o640;

fn request() -> Request {
    Request { backup: Selector::Latest, method: None }
}

fn new_run() -> NewRun {
    NewRun::new("shop", PROCEDURE, &request()).unwrap().supersede([backup::PROCEDURE, drill::PROCEDURE])
}

fn folder(directory: &Path) -> PathBuf {
    directory.join("site/config")
}

fn file(directory: &Path) -> PathBuf {
    folder(directory).join(".env")
}

fn configure(directory: &Path, system: &mut System) {
    let component = Component {
        name: "config".into(),
        kind: TreeKind::Config,
        service: None,
        path: Some(folder(directory)),
        volume: None,
        include: Vec::new(),
        exclude: Vec::new(),
    };
    system.components.push(component);
    // The code is not a component here.
    system.application.maintenance = Maintenance::None;
    let file = EnvironmentFile { component: "config".into(), path: ".env".into(), encrypted: None };
    system.application.environment = Some(file);
}

async fn open(directory: &Path) -> SimStack {
    SimStack::open_with(directory, "state", |system| configure(directory, system)).await.unwrap()
}

async fn create(directory: &Path) -> SimStack {
    SimStack::create(directory).await.unwrap();
    fs::create_dir_all(folder(directory)).unwrap();
    fs::write(file(directory), GOOD).unwrap();
    let stack = open(directory).await;
    stack.back_up_tree("config", &folder(directory)).await.unwrap();
    fs::write(file(directory), BROKEN).unwrap();
    fs::set_permissions(file(directory), fs::Permissions::from_mode(MODE)).unwrap();
    stack
}

fn begin(directory: &Path) {
    block_on(async { create(directory).await.keep_looks().await.unwrap() });
}

async fn recover(run: Run, stack: &SimStack) -> Result<Recovered> {
    kill::recover(RecoverApplication, run, stack.parts.clone()).await
}

fn status(directory: &Path) -> RunStatus {
    newest(&directory.join("state")).unwrap().1.status
}

/// Files and folders beside the component, with what is in the files.
fn beside(directory: &Path) -> Vec<(String, String)> {
    let others = tree::beside(&folder(directory)).unwrap().into_iter();
    others.map(|path| (path.display().to_string(), fs::read_to_string(&path).unwrap_or_default())).collect()
}

/// The file is whole and has its mode; where it is the mended one, the old one is kept.
fn always(directory: &Path, crash: &Crash) {
    let text = fs::read_to_string(file(directory)).unwrap();
    assert!(text == BROKEN || text == MENDED, "{crash:?}: {text}");
    assert_eq!(fs::metadata(file(directory)).unwrap().permissions().mode() & 0o777, MODE, "{crash:?}");
    assert!(
        text == BROKEN || beside(directory).iter().any(|(_, text)| text == BROKEN),
        "{crash:?}: the old file is gone"
    );
}

#[test]
fn an_environment_file_whose_mending_is_killed_anywhere_is_mended_in_the_end() {
    fn work(directory: &Path) {
        block_on(async {
            let stack = open(directory).await;
            let report = done_in_the_end(&stack.engine(yes()), new_run(), |run| recover(run, &stack)).await.unwrap();
            assert!(report.is_none_or(|report| report.done[0].ends_with("`DB_HOST` set")));
        });
    }
    fn mended(directory: &Path) {
        assert_eq!(status(directory), RunStatus::Succeeded);
        assert_eq!(fs::read_to_string(file(directory)).unwrap(), MENDED);
        let kept: Vec<String> = beside(directory).into_iter().map(|(_, text)| text).collect();
        assert_eq!(kept, [BROKEN], "the old file, and nothing else");
        block_on(async {
            let stack = open(directory).await;
            for service in ["app", "queue", "scheduler"] {
                let containers = stack.parts.backend.service_containers(service).await.unwrap();
                assert!(containers.iter().all(|c| c.state == ContainerState::Running), "{service}");
                let before = &SimStack::looked(directory).unwrap().containers[&containers[0].name];
                assert_eq!(containers[0].restart_policy, before.1, "{service}");
            }
        });
    }
    let places = kill_matrix(
        "an_environment_file_whose_mending_is_killed_anywhere_is_mended_in_the_end",
        Kills::Once,
        &Promises { begin: &begin, work: &work, always: &always, at_end: &mended },
    );
    assert_killed_at(&places, &["body ended", "before folders are exchanged", "after folders are exchanged"]);
}

#[test]
fn an_environment_file_whose_mending_is_killed_anywhere_can_be_put_back_as_it_was() {
    fn work(directory: &Path) {
        block_on(async {
            let stack = open(directory).await;
            undone_in_the_end(&stack.engine(yes()), new_run(), |run| recover(run, &stack)).await.unwrap();
        });
    }
    fn as_before(directory: &Path) {
        assert_eq!(status(directory), RunStatus::RolledBack);
        assert_eq!(fs::read_to_string(file(directory)).unwrap(), BROKEN);
        // What has served is kept, with a note that it has.
        for (name, text) in beside(directory) {
            assert!(
                name.ends_with(".undone") && text == MENDED || name.ends_with(".served") && text.is_empty(),
                "{name}"
            );
        }
        block_on(async {
            assert_eq!(open(directory).await.looks().await.unwrap(), SimStack::looked(directory).unwrap());
        });
    }
    let places = kill_matrix(
        "an_environment_file_whose_mending_is_killed_anywhere_can_be_put_back_as_it_was",
        Kills::Once,
        &Promises { begin: &begin, work: &work, always: &always, at_end: &as_before },
    );
    assert_killed_at(&places, &["after undo_intent", "undo ended", "after folders are exchanged"]);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_gone_comes_back_as_it_was_backed_up() {
    let directory = tempfile::tempdir().unwrap();
    let stack = create(directory.path()).await;
    fs::remove_file(file(directory.path())).unwrap();
    let run = stack.engine(yes()).start(new_run()).await.unwrap();
    let id = run.id();
    let report = run.execute(recover(run.clone(), &stack)).await.unwrap();
    assert!(report.found.iter().any(|line| line == "the environment file is not there"), "{report:?}");
    assert_eq!(fs::read_to_string(file(directory.path())).unwrap(), GOOD);
    let mode = fs::metadata(file(directory.path())).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o644, "that of the backup");
    drop(run);
    stack.engine(yes()).roll_back(id, "a test", |run| recover(run, &stack)).await.unwrap();
    assert_eq!(fs::read_to_string(file(directory.path())).unwrap(), "", "an empty one stays");
}

#[tokio::test(start_paused = true)]
async fn where_no_backup_would_do_nothing_is_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let stack = create(directory.path()).await;
    // The newest backup is as broken, and the one before it has a key that is none.
    fs::write(file(directory.path()), GOOD.replace("0123456789abcdef", "short")).unwrap();
    let catalog = &stack.parts.catalog;
    for info in catalog.list().await.unwrap().backups {
        if info.components.iter().any(|name| name.as_str() == "config") {
            fs::remove_dir_all(
                SimStack::repository_folder(directory.path()).join(info.place.manifest().as_str()).parent().unwrap(),
            )
            .unwrap();
        }
    }
    for text in [fs::read_to_string(file(directory.path())).unwrap(), BROKEN.to_owned()] {
        fs::write(file(directory.path()), text).unwrap();
        stack.back_up_tree("config", &folder(directory.path())).await.unwrap();
    }
    let before = stack.looks().await.unwrap();
    let run = stack.engine(yes()).start(new_run()).await.unwrap();
    let refused = run.execute(recover(run.clone(), &stack)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Precondition, "{refused}");
    assert!(
        refused.to_string().contains("`APP_KEY` is malformed") && refused.to_string().contains("`DB_HOST`"),
        "{refused}"
    );
    assert_eq!(stack.looks().await.unwrap(), before);
    assert_eq!(fs::read_to_string(file(directory.path())).unwrap(), BROKEN);
}

#[tokio::test(start_paused = true)]
async fn a_method_that_cannot_be_followed_is_refused_before_anything_begins() {
    let directory = tempfile::tempdir().unwrap();
    let stack = create(directory.path()).await;
    let check = |parts: &Parts, method| RecoverApplication.check(parts, &Request { method: Some(method), ..request() });
    check(&stack.parts, Method::Config).unwrap();
    for method in [Method::Code, Method::Both] {
        assert_eq!(check(&stack.parts, method).unwrap_err().kind(), ErrorKind::InvalidInput, "no code is configured");
    }
    let bare = SimStack::open(directory.path(), "state").await.unwrap();
    let refused = check(&bare.parts, Method::Config).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput, "no environment file is configured");
}
