//! The application's code replaced in the simulated world, with its environment file in the midst of it: killed at every
//! place, undone.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use chom_recovery::{
    Result, System,
    backend::{BackendExt, ContainerState, Mount, MountSource},
    catalog::Selector,
    procedure::{
        Recovered,
        application::{PROCEDURE, RecoverApplication, Request},
        backup, drill,
    },
    run::{NewRun, Run, summary::RunStatus},
    system::{Component, EnvironmentFile, TreeKind},
    testing::{
        kill::{
            self, Crash, Kills, Promises, assert_killed_at, block_on, done_in_the_end, kill_matrix, newest,
            undone_in_the_end, yes,
        },
        stack::SimStack,
        tree::{self, Tree, tree},
    },
};

/// Where the application has its code.
const FOLDER: &str = "/var/www/html";
const CACHE: &str = "bootstrap/cache/config.php";
/// Settings of the backup: they can be used, and are not those of today.
const OLD: &str = "APP_KEY=0123456789abcdef\nAPP_ENV=old\nDB_HOST=mysql\nDB_DATABASE=shop\nDB_USERNAME=app\nDB_PASSWORD=Password-of-app-1\n";
const NOW: &str = "APP_KEY=0123456789abcdef\nAPP_ENV=production\nNEW=1\nDB_HOST=mysql\nDB_DATABASE=shop\nDB_USERNAME=app\nDB_PASSWORD=Password-of-app-1\n";
const BROKEN: &str = "APP_KEY=0123456789abcdef\nAPP_ENV=production\nNEW=1\nDB_HOST=my sql\nDB_DATABASE=shop\nDB_USERNAME=app\nDB_PASSWORD=Password-of-app-1\n";
/// Of the environment file: not that of the backup's.
const MODE: u32 = 0o640;

fn new_run() -> NewRun {
    let request = Request { backup: Selector::Latest, method: None };
    NewRun::new("shop", PROCEDURE, &request).unwrap().supersede([backup::PROCEDURE, drill::PROCEDURE])
}

fn code(directory: &Path) -> PathBuf {
    directory.join("site/html")
}

fn backed_up() -> Tree {
    tree(&[
        (".env", OLD),
        ("app/Shop.php", "<?php class Shop { }"),
        ("artisan", "#!/usr/bin/env php"),
        (CACHE, "DB_USERNAME=cached"),
    ])
}

/// Code that PHP cannot read, with a file that is newer than the backup, and a log that no backup holds.
fn broken(settings: &str) -> Tree {
    tree(&[
        (".env", settings),
        ("app/New.php", "<?php class New { }"),
        ("app/Shop.php", "<?php class Shop {"),
        ("artisan", "#!/usr/bin/env php"),
        ("storage/app.log", "a log"),
    ])
}

/// The backup's code with the settings of today, and what no backup holds.
fn recovered() -> Tree {
    let mut code = backed_up();
    code.remove(CACHE);
    code.extend(tree(&[(".env", NOW), ("storage/app.log", "a log")]));
    code
}

async fn open(directory: &Path) -> SimStack {
    let configure = |system: &mut System| {
        system.components.push(Component {
            name: "code".into(),
            kind: TreeKind::Files,
            service: Some("app".into()),
            path: Some(FOLDER.into()),
            volume: None,
            include: Vec::new(),
            exclude: vec!["*.log".into()],
        });
        let file = EnvironmentFile { component: "code".into(), path: ".env".into(), encrypted: None };
        system.application.environment = Some(file);
    };
    SimStack::open_with(directory, "state", configure).await.unwrap()
}

async fn create(directory: &Path, settings: &str) -> SimStack {
    SimStack::create(directory).await.unwrap();
    let (stack, folder) = (open(directory).await, code(directory));
    let source = MountSource::HostPath(folder.to_str().unwrap().into());
    for container in ["shop-app-1", "shop-queue-1", "shop-scheduler-1"] {
        let mount = Mount { source: source.clone(), target: FOLDER.into(), read_only: false };
        stack.backend.change(container, |c| c.mounts.push(mount)).unwrap();
    }
    tree::write(&folder, &backed_up()).unwrap();
    stack.back_up_tree("code", &folder).await.unwrap();
    fs::remove_dir_all(&folder).unwrap();
    tree::write(&folder, &broken(settings)).unwrap();
    fs::set_permissions(folder.join(".env"), fs::Permissions::from_mode(MODE)).unwrap();
    stack
}

fn begin(directory: &Path) {
    block_on(async { create(directory, NOW).await.keep_looks().await.unwrap() });
}

fn begin_with_broken_settings(directory: &Path) {
    block_on(async { create(directory, BROKEN).await.keep_looks().await.unwrap() });
}

async fn recover(run: Run, stack: &SimStack) -> Result<Recovered> {
    kill::recover(RecoverApplication, run, stack.parts.clone()).await
}

fn work(directory: &Path) {
    block_on(async {
        let stack = open(directory).await;
        let report = done_in_the_end(&stack.engine(yes()), new_run(), |run| recover(run, &stack)).await.unwrap();
        assert!(
            report.is_none_or(|report| report.found.iter().any(|line| line.contains("Errors parsing app/Shop.php")))
        );
    });
}

fn status(directory: &Path) -> RunStatus {
    newest(&directory.join("state")).unwrap().1.status
}

/// The code is all that it was or all of the backup's, and what it was is kept. Nobody runs on settings that are not those of
/// today.
fn always(directory: &Path, crash: &Crash) {
    let folder = code(directory);
    let mut found = tree::read(&folder).unwrap();
    let (settings, is_cached) = (found[".env"].clone(), found.remove(CACHE).is_some());
    found.insert(".env".into(), NOW.into());
    if found == broken(NOW) {
        assert!([NOW, BROKEN].contains(&settings.as_str()) && !is_cached, "{crash:?}: {settings}");
        return;
    }
    assert_eq!(found, recovered(), "{crash:?}");
    let is_kept = |path: &PathBuf| path.is_dir() && tree::read(path).unwrap() == broken(NOW);
    assert!(tree::beside(&folder).unwrap().iter().any(is_kept), "{crash:?}: the old code is gone");
    if settings == NOW && !is_cached {
        return;
    }
    assert!([OLD, NOW].contains(&settings.as_str()), "{crash:?}: {settings}");
    block_on(async {
        let stack = open(directory).await;
        for service in ["app", "queue", "scheduler"] {
            let containers = stack.parts.backend.service_containers(service).await.unwrap();
            let is_stopped = containers.iter().all(|c| c.state != ContainerState::Running);
            assert!(is_stopped, "{crash:?}: `{service}` runs on `{settings}`");
        }
    });
}

fn at_end(directory: &Path) {
    assert_eq!(status(directory), RunStatus::Succeeded);
    let folder = code(directory);
    assert_eq!(tree::read(&folder).unwrap(), recovered());
    assert_eq!(fs::metadata(folder.join(".env")).unwrap().permissions().mode() & 0o777, MODE);
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

#[test]
fn code_whose_replacement_is_killed_anywhere_is_whole_and_has_the_settings_of_today_in_the_end() {
    let places = kill_matrix(
        "code_whose_replacement_is_killed_anywhere_is_whole_and_has_the_settings_of_today_in_the_end",
        Kills::Once,
        &Promises { begin: &begin, work: &work, always: &always, at_end: &at_end },
    );
    assert_killed_at(&places, &["body ended", "before folders are exchanged", "after folders are exchanged"]);
}

#[test]
fn code_and_settings_that_are_both_broken_are_both_mended_however_often_it_is_killed() {
    let places = kill_matrix(
        "code_and_settings_that_are_both_broken_are_both_mended_however_often_it_is_killed",
        Kills::Once,
        &Promises { begin: &begin_with_broken_settings, work: &work, always: &always, at_end: &at_end },
    );
    let exchanges = places.iter().filter(|place| *place == "after folders are exchanged").count();
    assert_eq!(exchanges, 2, "the file's and the folder's: {places:?}");
}

#[test]
fn code_and_settings_whose_recovery_is_killed_anywhere_can_be_put_back_as_they_were() {
    fn work(directory: &Path) {
        block_on(async {
            let stack = open(directory).await;
            undone_in_the_end(&stack.engine(yes()), new_run(), |run| recover(run, &stack)).await.unwrap();
        });
    }
    fn as_before(directory: &Path) {
        assert_eq!(status(directory), RunStatus::RolledBack);
        let folder = code(directory);
        assert_eq!(tree::read(&folder).unwrap(), broken(BROKEN));
        assert_eq!(fs::metadata(folder.join(".env")).unwrap().permissions().mode() & 0o777, MODE);
        // What has served is kept, with a note that it has.
        for path in tree::beside(&folder).unwrap() {
            let name = path.to_str().unwrap();
            assert!(name.ends_with(".undone") || name.ends_with(".served"), "{name}");
        }
        block_on(async {
            let mut looks = open(directory).await.looks().await.unwrap();
            // In which a killed process tested code: the next test removes it, or `runs prune`.
            looks.containers.retain(|name, _| !name.contains("-code-test-"));
            assert_eq!(looks, SimStack::looked(directory).unwrap());
        });
    }
    let places = kill_matrix(
        "code_and_settings_whose_recovery_is_killed_anywhere_can_be_put_back_as_they_were",
        Kills::Once,
        &Promises { begin: &begin_with_broken_settings, work: &work, always: &always, at_end: &as_before },
    );
    assert_killed_at(&places, &["after undo_intent", "undo ended", "after folders are exchanged"]);
}
