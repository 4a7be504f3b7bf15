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
    run::{NewRun, Run, RunId, summary::RunStatus},
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

const GOOD: &str = "APP_KEY=0123456789abcdef\nAPP_ENV=production\nDB_HOST=mysql\nDB_DATABASE=shop\nDB_USERNAME=app\n\
                    DB_PASSWORD=Password-of-app-1\n";
const BROKEN: &str = "APP_KEY=0123456789abcdef\nNEW=1\nAPP_ENV=production\nDB_HOST=my sql\nDB_DATABASE=shop\n\
                      DB_USERNAME=app\nDB_PASSWORD=Password-of-app-1\n";
const MENDED: &str = "APP_KEY=0123456789abcdef\nNEW=1\nAPP_ENV=production\nDB_HOST=mysql\nDB_DATABASE=shop\n\
                      DB_USERNAME=app\nDB_PASSWORD=Password-of-app-1\n";
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

/// What is told of a run that was refused or done, with its error or report.
async fn recovered(stack: &SimStack) -> (RunId, Result<Recovered>) {
    let run = stack.engine(yes()).start(new_run()).await.unwrap();
    let ended = run.execute(recover(run.clone(), stack)).await;
    (run.id(), ended)
}

#[tokio::test(start_paused = true)]
async fn settings_that_the_database_refuses_come_from_the_newest_backup_that_it_lets_in() {
    let directory = tempfile::tempdir().unwrap();
    let stack = create(directory.path()).await;
    // The newest backup has another wrong password; the file has a wrong schema too, which is seen once the account is let in.
    let other = GOOD.replace("Password-of-app-1", "Hunter2-of-a-backup");
    fs::write(file(directory.path()), other).unwrap();
    stack.back_up_tree("config", &folder(directory.path())).await.unwrap();
    let refused = GOOD.replace("Password-of-app-1", "Hunter2-of-the-file").replace("DATABASE=shop", "DATABASE=shp");
    fs::write(file(directory.path()), format!("NEW=1\n{refused}")).unwrap();
    let (id, report) = recovered(&stack).await;
    let report = report.unwrap();
    assert!(report.found.iter().any(|line| line.starts_with("`DB_PASSWORD`")), "{report:?}");
    assert!(report.done[0].ends_with(": `DB_DATABASE` set, `DB_PASSWORD` set"), "{report:?}");
    assert!(report.to_review.iter().any(|line| line.contains("a newer backup would not do")), "{report:?}");
    let told = serde_json::to_string(&report).unwrap();
    assert!(!told.contains("Hunter2") && !told.contains("Password-of"), "{told}");
    assert_eq!(fs::read_to_string(file(directory.path())).unwrap(), format!("NEW=1\n{GOOD}"), "and no other key");
    stack.engine(yes()).roll_back(id, "a test", |run| recover(run, &stack)).await.unwrap();
    assert_eq!(fs::read_to_string(file(directory.path())).unwrap(), format!("NEW=1\n{refused}"));
}

#[tokio::test(start_paused = true)]
async fn where_no_backup_logs_in_nothing_is_stopped_and_no_password_is_changed() {
    let directory = tempfile::tempdir().unwrap();
    let stack = create(directory.path()).await;
    let refused = GOOD.replace("USERNAME=app", "USERNAME=nobody");
    fs::write(file(directory.path()), &refused).unwrap();
    // As after a change of the account in the server: what was backed up does not count any more.
    let accounts = stack.backend.volume_folder("shop_data").join("accounts");
    fs::write(&accounts, "root\n").unwrap();
    let before = stack.looks().await.unwrap();
    let (_, ended) = recovered(&stack).await;
    let error = ended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
    assert!(error.hint_text().unwrap().contains("by hand"), "{error:?}");
    assert_eq!(stack.looks().await.unwrap(), before);
    assert_eq!(fs::read_to_string(file(directory.path())).unwrap(), refused);
}

#[tokio::test(start_paused = true)]
async fn a_password_of_the_containers_own_environment_is_not_looked_for_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let stack = create(directory.path()).await;
    fs::write(file(directory.path()), GOOD).unwrap();
    for (name, value) in [("DB_USERNAME", "app"), ("DB_PASSWORD", "Hunter2-of-compose")] {
        stack.backend.set_variable("shop-app-1", name, value).unwrap();
    }
    let before = stack.looks().await.unwrap();
    let (_, ended) = recovered(&stack).await;
    let error = ended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
    assert!(error.to_string().contains("its own environment") && !error.to_string().contains("Hunter2"), "{error}");
    assert_eq!(stack.looks().await.unwrap(), before);
}

/// Image of a release that the backup does not know.
const RELEASED: &str = "sha256:released";

fn image_run() -> NewRun {
    let request = Request { method: Some(Method::Image), ..request() };
    NewRun::new("shop", PROCEDURE, &request).unwrap().supersede([backup::PROCEDURE, drill::PROCEDURE])
}

/// Deploys a release, as its images alone.
fn release(stack: &SimStack) {
    for container in ["shop-app-1", "shop-queue-1"] {
        let released = |c: &mut chom_recovery::backend::Container| {
            (c.image, c.image_id) = ("php:2".into(), RELEASED.into());
        };
        stack.backend.change(container, released).unwrap();
    }
}

async fn images(stack: &SimStack) -> Vec<bool> {
    let mut released = Vec::new();
    for service in ["app", "queue", "scheduler"] {
        released.push(stack.parts.backend.service_containers(service).await.unwrap()[0].image_id == RELEASED);
    }
    released
}

fn begin_released(directory: &Path) {
    block_on(async {
        let stack = create(directory).await;
        fs::write(file(directory), GOOD).unwrap();
        release(&stack);
        stack.keep_looks().await.unwrap();
    });
}

#[test]
fn images_whose_replacement_is_killed_anywhere_can_be_put_back_as_they_were() {
    fn work(directory: &Path) {
        block_on(async {
            let stack = open(directory).await;
            undone_in_the_end(&stack.engine(yes()), image_run(), |run| recover(run, &stack)).await.unwrap();
        });
    }
    fn as_before(directory: &Path) {
        assert_eq!(status(directory), RunStatus::RolledBack);
        block_on(async {
            let stack = open(directory).await;
            assert_eq!(images(&stack).await, [true, true, false]);
            assert_eq!(stack.looks().await.unwrap(), SimStack::looked(directory).unwrap());
        });
    }
    let places = kill_matrix(
        "images_whose_replacement_is_killed_anywhere_can_be_put_back_as_they_were",
        Kills::Once,
        &Promises { begin: &begin_released, work: &work, always: &|_, _| {}, at_end: &as_before },
    );
    assert_killed_at(&places, &["undo ended"]);
}

#[tokio::test(start_paused = true)]
async fn services_are_put_back_on_the_images_of_the_backup() {
    let directory = tempfile::tempdir().unwrap();
    let stack = create(directory.path()).await;
    fs::write(file(directory.path()), GOOD).unwrap();
    release(&stack);
    let run = stack.engine(yes()).start(image_run()).await.unwrap();
    let report = run.execute(recover(run.clone(), &stack)).await.unwrap();
    assert_eq!(images(&stack).await, [false; 3]);
    assert!(report.done[0].contains(RELEASED) && report.done[0].contains("php:2"), "{report:?}");
    assert!(report.to_review.iter().any(|line| line.contains("docker compose up")), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn images_that_are_the_recorded_ones_or_gone_are_refused_before_anything_stops() {
    let directory = tempfile::tempdir().unwrap();
    let stack = create(directory.path()).await;
    fs::write(file(directory.path()), GOOD).unwrap();
    for (is_released, why) in [(false, "runs on the image that backup"), (true, "is not on the Engine's host")] {
        if is_released {
            // The backup's image is nobody's any more: no container has it.
            let before = |c: &mut chom_recovery::backend::Container| c.image_id = "sha256:before".into();
            stack.backend.change("shop-app-1", before).unwrap();
            stack.back_up_tree("config", &folder(directory.path())).await.unwrap();
            release(&stack);
        }
        let before = stack.looks().await.unwrap();
        let run = stack.engine(yes()).start(image_run()).await.unwrap();
        let refused = run.execute(recover(run.clone(), &stack)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Precondition, "{refused}");
        assert!(refused.to_string().contains(why) && refused.hint_text().is_some(), "{refused:?}");
        assert_eq!(stack.looks().await.unwrap(), before);
        let id = run.id();
        drop(run);
        stack.engine(yes()).roll_back(id, "a test", |run| recover(run, &stack)).await.unwrap();
    }
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
