//! Files put in production's place in the simulated world: killed at every place, undone, refused.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use chom_recovery::{
    ErrorKind, Result,
    backend::{BackendExt, Container, ContainerState, Mount, MountSource},
    catalog::Selector,
    procedure::{
        Procedure, Recovered, backup, drill,
        files::{self, FilesReport, Request},
        fix::{self, Fix},
    },
    run::{NewRun, Run, summary::RunStatus},
    system::{Component, TreeKind},
    testing::{
        kill::{
            self, Crash, Kills, Promises, assert_killed_at, block_on, done_in_the_end, kill_matrix, newest,
            undone_in_the_end, yes,
        },
        stack::SimStack,
        tree::{self, Tree, tree},
    },
};

fn new_run() -> NewRun {
    let request = Request { backup: Selector::Latest, component: "uploads".into(), keep_setid: false };
    let new = NewRun::new("shop", files::PROCEDURE, &request).unwrap();
    new.supersede([backup::PROCEDURE, drill::PROCEDURE])
}

fn uploads(directory: &Path) -> PathBuf {
    directory.join("site/uploads")
}

fn component(directory: &Path) -> Component {
    Component {
        name: "uploads".into(),
        kind: TreeKind::Files,
        service: None,
        path: Some(uploads(directory)),
        volume: None,
        include: Vec::new(),
        exclude: vec!["*.log".into()],
    }
}

fn before() -> Tree {
    tree(&[("a.txt", "broken"), ("deep/since.txt", "newer than the backup"), ("deep/app.log", "a log")])
}

fn restored() -> Tree {
    tree(&[("a.txt", "good"), ("deep/b.txt", "was deleted"), ("deep/app.log", "a log")])
}

async fn open(directory: &Path) -> SimStack {
    SimStack::open_with(directory, "state", |system| system.components.push(component(directory))).await.unwrap()
}

/// A system whose application has its uploads in a folder of the host, which were backed up and then damaged.
async fn create(directory: &Path) -> SimStack {
    let stack = SimStack::create(directory).await.unwrap();
    let folder = uploads(directory);
    let mount = MountSource::HostPath(directory.join("site").to_str().unwrap().into());
    let mount = Mount { source: mount, target: "/srv/site".into(), read_only: false };
    for container in ["shop-app-1", "shop-queue-1"] {
        stack.backend.change(container, |c| c.mounts.push(mount.clone())).unwrap();
    }
    let mut backed_up = restored();
    backed_up.remove("deep/app.log");
    tree::write(&folder, &backed_up).unwrap();

    let stack = open(directory).await;
    stack.back_up_tree("uploads", &folder).await.unwrap();

    fs::remove_dir_all(&folder).unwrap();
    tree::write(&folder, &before()).unwrap();
    stack
}

fn begin(directory: &Path) {
    block_on(async { create(directory).await.keep_looks().await.unwrap() });
}

async fn restore(run: Run, stack: &SimStack) -> Result<FilesReport> {
    files::restore(&run, &stack.parts, &run.request()?).await
}

fn status(directory: &Path) -> RunStatus {
    newest(&directory.join("state")).unwrap().1.status
}

/// Folders that lie beside the site.
fn beside(directory: &Path) -> Vec<PathBuf> {
    tree::beside(&uploads(directory)).unwrap().into_iter().filter(|path| path.is_dir()).collect()
}

/// Production has all that it had or all of the backup; where it has the backup, nobody who is not done with the old one
/// runs, and the old one is kept.
fn always(directory: &Path, crash: &Crash) {
    let production = tree::read(&uploads(directory)).unwrap();
    if production == restored() {
        assert!(
            beside(directory).iter().any(|path| tree::read(path).unwrap() == before()),
            "{crash:?}: the old files are gone"
        );
    } else {
        assert_eq!(production, before(), "{crash:?}");
    }
}

fn work(directory: &Path) {
    block_on(async {
        let stack = open(directory).await;
        let report = done_in_the_end(&stack.engine(yes()), new_run(), |run| restore(run, &stack)).await.unwrap();
        if let Some(report) = report {
            assert_eq!(report.restarted, ["app", "queue"]);
            assert_eq!((report.unpacked.files, report.carried), (2, 1));
        }
    });
}

fn in_place(directory: &Path) {
    assert_eq!(status(directory), RunStatus::Succeeded);
    assert_eq!(tree::read(&uploads(directory)).unwrap(), restored());
    let kept = beside(directory);
    assert_eq!(kept.iter().map(|path| tree::read(path).unwrap()).collect::<Vec<_>>(), [before()], "{kept:?}");
    block_on(async {
        assert_eq!(
            open(directory).await.looks().await.unwrap(),
            SimStack::looked(directory).unwrap(),
            "everybody runs as before"
        );
    });
}

#[test]
fn files_whose_restore_is_killed_anywhere_end_up_whole_and_in_place() {
    let places = kill_matrix(
        "files_whose_restore_is_killed_anywhere_end_up_whole_and_in_place",
        Kills::Once,
        &Promises { begin: &begin, work: &work, always: &always, at_end: &in_place },
    );
    assert_killed_at(
        &places,
        &["before sync", "body ended", "before folders are exchanged", "after folders are exchanged"],
    );
}

#[test]
fn files_whose_restore_is_killed_anywhere_can_be_put_back_as_they_were() {
    fn work(directory: &Path) {
        block_on(async {
            let stack = open(directory).await;
            undone_in_the_end(&stack.engine(yes()), new_run(), |run| restore(run, &stack)).await.unwrap();
        });
    }
    fn as_before(directory: &Path) {
        assert_eq!(status(directory), RunStatus::RolledBack);
        assert_eq!(tree::read(&uploads(directory)).unwrap(), before());
        // What has served is kept: users may have written to it.
        for path in beside(directory) {
            assert!(path.to_str().unwrap().ends_with(".undone"), "{path:?}");
            assert_eq!(tree::read(&path).unwrap(), restored());
        }
        block_on(async {
            assert_eq!(open(directory).await.looks().await.unwrap(), SimStack::looked(directory).unwrap());
        });
    }
    let places = kill_matrix(
        "files_whose_restore_is_killed_anywhere_can_be_put_back_as_they_were",
        Kills::Once,
        &Promises { begin: &begin, work: &work, always: &always, at_end: &as_before },
    );
    assert_killed_at(&places, &["after undo_intent", "undo ended", "after folders are exchanged"]);
}

/// Entries whose modes somebody changed.
const CHANGED: [(&str, u32); 3] = [("a.txt", 0o777), ("deep", 0o1777), ("deep/b.txt", 0o606)];

fn modes(directory: &Path) -> [u32; 3] {
    CHANGED.map(|(path, _)| fs::metadata(uploads(directory).join(path)).unwrap().permissions().mode() & 0o7777)
}

/// Modes of the entries in the backup.
fn recorded(directory: &Path) -> [u32; 3] {
    serde_json::from_slice(&fs::read(directory.join("recorded")).unwrap()).unwrap()
}

fn begin_changed(directory: &Path) {
    block_on(async {
        create(directory).await;
        tree::write(&uploads(directory), &restored()).unwrap();
        fs::write(directory.join("recorded"), serde_json::to_vec(&modes(directory)).unwrap()).unwrap();
        for (path, mode) in CHANGED {
            fs::set_permissions(uploads(directory).join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
    });
}

fn always_one_of_both(directory: &Path, crash: &Crash) {
    for ((now, was), (path, before)) in modes(directory).into_iter().zip(recorded(directory)).zip(CHANGED) {
        assert!(now == was || now == before, "{crash:?}: {path}: {now:o}");
    }
}

fn new_fix() -> NewRun {
    NewRun::new("shop", fix::PROCEDURE, &fix::Request { cause: "differs-uploads".into() }).unwrap()
}

async fn mend(run: Run, stack: &SimStack) -> Result<Recovered> {
    kill::recover(Fix, run, stack.parts.clone()).await
}

#[test]
fn permissions_whose_fix_is_killed_anywhere_are_those_of_the_backup_in_the_end() {
    fn work(directory: &Path) {
        block_on(async {
            let stack = open(directory).await;
            let report = done_in_the_end(&stack.engine(yes()), new_fix(), |run| mend(run, &stack)).await.unwrap();
            assert!(report.is_none_or(|report| report.done.len() == 1 && report.to_review.is_empty()));
        });
    }
    fn as_recorded(directory: &Path) {
        assert_eq!(status(directory), RunStatus::Succeeded);
        assert_eq!(modes(directory), recorded(directory));
    }
    let places = kill_matrix(
        "permissions_whose_fix_is_killed_anywhere_are_those_of_the_backup_in_the_end",
        Kills::Once,
        &Promises { begin: &begin_changed, work: &work, always: &always_one_of_both, at_end: &as_recorded },
    );
    assert_killed_at(&places, &["before an entry is given its permissions", "body ended"]);
}

#[test]
fn permissions_whose_fix_is_killed_anywhere_can_be_put_back_as_they_were() {
    fn work(directory: &Path) {
        block_on(async {
            let stack = open(directory).await;
            let engine = stack.engine(yes());
            if newest(engine.state_dir()).is_none() {
                done_in_the_end(&engine, new_fix(), |run| mend(run, &stack)).await.unwrap();
            }
            // Neither the backup nor the configuration of the component is needed for it.
            let bare = SimStack::open(directory, "state").await.unwrap();
            undone_in_the_end(&engine, new_fix(), |run| mend(run, &bare)).await.unwrap();
        });
    }
    fn as_before(directory: &Path) {
        assert_eq!(status(directory), RunStatus::RolledBack);
        assert_eq!(modes(directory), CHANGED.map(|(_, mode)| mode));
    }
    let places = kill_matrix(
        "permissions_whose_fix_is_killed_anywhere_can_be_put_back_as_they_were",
        Kills::Once,
        &Promises { begin: &begin_changed, work: &work, always: &always_one_of_both, at_end: &as_before },
    );
    assert_killed_at(&places, &["before an entry is given its permissions", "after undo_intent", "undo ended"]);
}

#[tokio::test(start_paused = true)]
async fn a_fix_of_permissions_is_refused_where_it_can_do_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let stack = create(directory.path()).await;
    for cause in ["differs-", "differs-database", "differs-other", "differs"] {
        let refused = Fix.check(&stack.parts, &fix::Request { cause: cause.into() }).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{cause}: {refused}");
    }
    Fix.check(&stack.parts, &fix::Request { cause: "differs-uploads".into() }).unwrap();
    let run = stack.engine(yes()).start(new_fix()).await.unwrap();
    let refused = run.execute(mend(run.clone(), &stack)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Precondition, "nothing differs: {refused}");
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_is_gone_comes_back_and_one_that_is_a_link_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let stack = create(directory.path()).await;
    let folder = uploads(directory.path());
    let elsewhere = directory.path().join("elsewhere");
    fs::rename(&folder, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &folder).unwrap();
    let engine = stack.engine(yes());
    let run = engine.start(new_run()).await.unwrap();
    let refused = run.execute(restore(run.clone(), &stack)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused}");
    assert_eq!(tree::read(&elsewhere).unwrap(), before());
    let id = run.id();
    drop(run);
    engine.roll_back(id, "a test", |run| restore(run, &stack)).await.unwrap();

    fs::remove_file(&folder).unwrap();
    let run = engine.start(new_run()).await.unwrap();
    run.execute(restore(run.clone(), &stack)).await.unwrap();
    let mut whole = restored();
    whole.remove("deep/app.log");
    assert_eq!(tree::read(&folder).unwrap(), whole);
}

#[tokio::test(start_paused = true)]
async fn until_somebody_says_yes_nothing_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let stack = create(directory.path()).await;
    let asking = stack.engine(Arc::new(chom_recovery::run::AskLater));
    let run = asking.start(new_run()).await.unwrap();
    let id = run.id();
    let waits = run.execute(restore(run.clone(), &stack)).await.unwrap_err();
    assert_eq!(waits.kind(), ErrorKind::NeedsConfirmation, "{waits}");
    let running = |c: &Container| c.state == ContainerState::Running;
    assert!(stack.parts.backend.service_containers("app").await.unwrap().iter().all(running), "nobody was stopped");
    assert_eq!(tree::read(&uploads(directory.path())).unwrap(), before());
    drop(run);
    asking.roll_back(id, "a test", |run| restore(run, &stack)).await.unwrap();
    assert_eq!(beside(directory.path()), Vec::<PathBuf>::new());
}
