//! Files put in production's place in the simulated world: killed at every place, undone, refused.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use chom_recovery::{
    ErrorKind, Result, System,
    backend::{BackendExt, Container, ContainerState, Mount, MountSource},
    catalog::Selector,
    procedure::{
        Parts, Procedure, Recovered, backup, drill,
        files::{self, FilesReport, Request},
        fix::{self, Fix},
    },
    run::{
        AlwaysYes, Engine, NewRun, Run, RunId,
        summary::{RunStatus, RunSummary},
    },
    system::{Component, TreeKind},
    testing::{
        kill::{self, Crash, Kills, Promises, TakenUp, kill_matrix, take_up, undone_in_the_end},
        stack::{SimStack, Snapshot},
    },
};

type Tree = BTreeMap<String, String>;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(work)
}

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

/// Content of each file.
fn tree_of(folder: &Path) -> Tree {
    let mut found = Tree::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(at) = waiting.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

fn tree(entries: &[(&str, &str)]) -> Tree {
    entries.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect()
}

fn before() -> Tree {
    tree(&[("a.txt", "broken"), ("deep/since.txt", "newer than the backup"), ("deep/app.log", "a log")])
}

fn restored() -> Tree {
    tree(&[("a.txt", "good"), ("deep/b.txt", "was deleted"), ("deep/app.log", "a log")])
}

fn write(folder: &Path, tree: &Tree) {
    for (name, text) in tree {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

struct World {
    stack: SimStack,
    parts: Parts,
}

impl World {
    async fn open(directory: &Path) -> Self {
        let stack = SimStack::open(directory, "state").await.unwrap();
        let system = System { components: vec![component(directory)], ..System::clone(&stack.parts.system) };
        let parts = Parts { system: Arc::new(system), ..stack.parts.clone() };
        Self { stack, parts }
    }

    /// A system whose application has its uploads in a folder of the host, which were backed up and then damaged.
    async fn create(directory: &Path) -> Self {
        let stack = SimStack::create(directory).await.unwrap();
        let folder = uploads(directory);
        let mount = MountSource::HostPath(directory.join("site").to_str().unwrap().into());
        let mount = Mount { source: mount, target: "/srv/site".into(), read_only: false };
        for container in ["shop-app-1", "shop-queue-1"] {
            stack.backend.change(container, |c| c.mounts.push(mount.clone())).unwrap();
        }
        let mut backed_up = restored();
        backed_up.remove("deep/app.log");
        write(&folder, &backed_up);

        let world = Self::open(directory).await;
        world.stack.back_up_tree("uploads", &folder).await.unwrap();

        fs::remove_dir_all(&folder).unwrap();
        write(&folder, &before());
        world
    }

    fn engine(&self) -> Engine {
        self.stack.engine(Arc::new(AlwaysYes { by: "tester".into() }))
    }

    async fn looks(&self) -> Snapshot {
        let mut looks = self.stack.snapshot().await.unwrap();
        looks.containers.retain(|name, _| !name.ends_with("-recovery-lock"));
        looks
    }
}

async fn restore(run: Run, parts: Parts) -> Result<FilesReport> {
    let request: Request = run.request()?;
    files::restore(&run, &parts, &request).await
}

fn begin(directory: &Path) {
    block_on(async {
        let world = World::create(directory).await;
        fs::write(directory.join("looked"), serde_json::to_vec(&world.looks().await).unwrap()).unwrap();
    });
}

fn looked(directory: &Path) -> Snapshot {
    serde_json::from_slice(&fs::read(directory.join("looked")).unwrap()).unwrap()
}

fn newest(directory: &Path) -> Option<(RunId, RunSummary)> {
    kill::newest(&directory.join("state"))
}

/// Folders that lie beside the site.
fn beside(directory: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(directory.join("site")).unwrap().map(|entry| entry.unwrap().path());
    found.filter(|path| *path != uploads(directory) && path.is_dir()).collect()
}

/// Production has all that it had or all of the backup; where it has the backup, nobody who is not done with the old one
/// runs, and the old one is kept.
fn always(directory: &Path, crash: &Crash) {
    let production = tree_of(&uploads(directory));
    if production == restored() {
        assert!(beside(directory).iter().any(|path| tree_of(path) == before()), "{crash:?}: the old files are gone");
    } else {
        assert_eq!(production, before(), "{crash:?}");
    }
}

fn work(directory: &Path) {
    block_on(async {
        let world = World::open(directory).await;
        match take_up(&world.engine(), new_run()).await.unwrap() {
            TakenUp::Finished(_) => {}
            TakenUp::Run(run) => {
                let report = run.execute(restore(run.clone(), world.parts.clone())).await.unwrap();
                assert_eq!(report.restarted, ["app", "queue"]);
                assert_eq!((report.unpacked.files, report.carried), (2, 1));
            }
        }
    });
}

fn in_place(directory: &Path) {
    assert_eq!(newest(directory).unwrap().1.status, RunStatus::Succeeded);
    assert_eq!(tree_of(&uploads(directory)), restored());
    let kept = beside(directory);
    assert_eq!(kept.iter().map(|path| tree_of(path)).collect::<Vec<_>>(), [before()], "{kept:?}");
    block_on(async {
        assert_eq!(World::open(directory).await.looks().await, looked(directory), "everybody runs as before");
    });
}

#[test]
fn files_whose_restore_is_killed_anywhere_end_up_whole_and_in_place() {
    let places = kill_matrix(
        "files_whose_restore_is_killed_anywhere_end_up_whole_and_in_place",
        Kills::Once,
        &Promises { begin: &begin, work: &work, always: &always, at_end: &in_place },
    );
    for place in ["before sync", "body ended", "before folders are exchanged", "after folders are exchanged"] {
        assert!(places.iter().any(|p| p == place), "{place} is not among {places:?}");
    }
}

#[test]
fn files_whose_restore_is_killed_anywhere_can_be_put_back_as_they_were() {
    fn work(directory: &Path) {
        block_on(async {
            let world = World::open(directory).await;
            let procedure = |run| restore(run, world.parts.clone());
            undone_in_the_end(&world.engine(), &directory.join("state"), new_run(), procedure).await.unwrap();
        });
    }
    fn as_before(directory: &Path) {
        assert_eq!(newest(directory).unwrap().1.status, RunStatus::RolledBack);
        assert_eq!(tree_of(&uploads(directory)), before());
        // What has served is kept: users may have written to it.
        for path in beside(directory) {
            assert!(path.to_str().unwrap().ends_with(".undone"), "{path:?}");
            assert_eq!(tree_of(&path), restored());
        }
        block_on(async {
            assert_eq!(World::open(directory).await.looks().await, looked(directory));
        });
    }
    let places = kill_matrix(
        "files_whose_restore_is_killed_anywhere_can_be_put_back_as_they_were",
        Kills::Once,
        &Promises { begin: &begin, work: &work, always: &always, at_end: &as_before },
    );
    for place in ["after undo_intent", "undo ended", "after folders are exchanged"] {
        assert!(places.iter().any(|p| p == place), "{place} is not among {places:?}");
    }
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
        World::create(directory).await;
        write(&uploads(directory), &restored());
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

async fn mend(run: Run, parts: Parts) -> Result<Recovered> {
    Fix.recover(&run, &parts, &run.request()?).await
}

#[test]
fn permissions_whose_fix_is_killed_anywhere_are_those_of_the_backup_in_the_end() {
    fn work(directory: &Path) {
        block_on(async {
            let world = World::open(directory).await;
            match take_up(&world.engine(), new_fix()).await.unwrap() {
                TakenUp::Finished(_) => {}
                TakenUp::Run(run) => {
                    let report = run.execute(mend(run.clone(), world.parts.clone())).await.unwrap();
                    assert_eq!((report.done.len(), report.to_review), (1, vec![]));
                }
            }
        });
    }
    fn as_recorded(directory: &Path) {
        assert_eq!(newest(directory).unwrap().1.status, RunStatus::Succeeded);
        assert_eq!(modes(directory), recorded(directory));
    }
    let places = kill_matrix(
        "permissions_whose_fix_is_killed_anywhere_are_those_of_the_backup_in_the_end",
        Kills::Once,
        &Promises { begin: &begin_changed, work: &work, always: &always_one_of_both, at_end: &as_recorded },
    );
    for place in ["before an entry is given its permissions", "body ended"] {
        assert!(places.iter().any(|p| p == place), "{place} is not among {places:?}");
    }
}

#[test]
fn permissions_whose_fix_is_killed_anywhere_can_be_put_back_as_they_were() {
    fn work(directory: &Path) {
        block_on(async {
            let world = World::open(directory).await;
            let engine = world.engine();
            if newest(directory).is_none() {
                let run = engine.start(new_fix()).await.unwrap();
                run.execute(mend(run.clone(), world.parts.clone())).await.unwrap();
            }
            // Neither the backup nor the configuration of the component is needed for it.
            let undo = |run| mend(run, world.stack.parts.clone());
            undone_in_the_end(&engine, &directory.join("state"), new_fix(), undo).await.unwrap();
        });
    }
    fn as_before(directory: &Path) {
        assert_eq!(newest(directory).unwrap().1.status, RunStatus::RolledBack);
        assert_eq!(modes(directory), CHANGED.map(|(_, mode)| mode));
    }
    let places = kill_matrix(
        "permissions_whose_fix_is_killed_anywhere_can_be_put_back_as_they_were",
        Kills::Once,
        &Promises { begin: &begin_changed, work: &work, always: &always_one_of_both, at_end: &as_before },
    );
    for place in ["before an entry is given its permissions", "after undo_intent", "undo ended"] {
        assert!(places.iter().any(|p| p == place), "{place} is not among {places:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fix_of_permissions_is_refused_where_it_can_do_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::create(directory.path()).await;
    for cause in ["differs-", "differs-database", "differs-other", "differs"] {
        let refused = Fix.check(&world.parts, &fix::Request { cause: cause.into() }).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{cause}: {refused}");
    }
    Fix.check(&world.parts, &fix::Request { cause: "differs-uploads".into() }).unwrap();
    let run = world.engine().start(new_fix()).await.unwrap();
    let refused = run.execute(mend(run.clone(), world.parts.clone())).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Precondition, "nothing differs: {refused}");
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_is_gone_comes_back_and_one_that_is_a_link_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::create(directory.path()).await;
    let folder = uploads(directory.path());
    let elsewhere = directory.path().join("elsewhere");
    fs::rename(&folder, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &folder).unwrap();
    let engine = world.engine();
    let run = engine.start(new_run()).await.unwrap();
    let refused = run.execute(restore(run.clone(), world.parts.clone())).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused}");
    assert_eq!(tree_of(&elsewhere), before());
    let id = run.id();
    drop(run);
    engine.roll_back(id, "a test", |run| restore(run, world.parts.clone())).await.unwrap();

    fs::remove_file(&folder).unwrap();
    let run = engine.start(new_run()).await.unwrap();
    run.execute(restore(run.clone(), world.parts.clone())).await.unwrap();
    let mut whole = restored();
    whole.remove("deep/app.log");
    assert_eq!(tree_of(&folder), whole);
}

#[tokio::test(start_paused = true)]
async fn until_somebody_says_yes_nothing_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::create(directory.path()).await;
    let asking = world.stack.engine(Arc::new(chom_recovery::run::AskLater));
    let run = asking.start(new_run()).await.unwrap();
    let id = run.id();
    let waits = run.execute(restore(run.clone(), world.parts.clone())).await.unwrap_err();
    assert_eq!(waits.kind(), ErrorKind::NeedsConfirmation, "{waits}");
    let running = |c: &Container| c.state == ContainerState::Running;
    assert!(world.parts.backend.service_containers("app").await.unwrap().iter().all(running), "nobody was stopped");
    assert_eq!(tree_of(&uploads(directory.path())), before());
    drop(run);
    asking.roll_back(id, "a test", |run| restore(run, world.parts.clone())).await.unwrap();
    assert_eq!(beside(directory.path()), Vec::<PathBuf>::new());
}
