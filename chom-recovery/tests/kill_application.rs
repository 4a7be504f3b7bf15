//! The application's environment file mended in the simulated world: killed at every place, undone, refused.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
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
    run::{
        AlwaysYes, Engine, NewRun, Run, RunId,
        summary::{RunStatus, RunSummary},
    },
    system::{Component, EnvironmentFile, Maintenance, TreeKind},
    testing::{
        kill::{self, Crash, Kills, Promises, TakenUp, kill_matrix, take_up, undone_in_the_end},
        stack::{SimStack, Snapshot},
    },
};

const GOOD: &str = "APP_KEY=0123456789abcdef\nAPP_ENV=production\nDB_HOST=mysql\nDB_DATABASE=shop\nDB_USERNAME=shop\n";
const BROKEN: &str =
    "APP_KEY=0123456789abcdef\nNEW=1\nAPP_ENV=production\nDB_HOST=my sql\nDB_DATABASE=shop\nDB_USERNAME=shop\n";
const MENDED: &str =
    "APP_KEY=0123456789abcdef\nNEW=1\nAPP_ENV=production\nDB_HOST=mysql\nDB_DATABASE=shop\nDB_USERNAME=shop\n";
/// Of the file: neither what a new one has, nor what the backup has.
const MODE: u32 = 0o640;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(work)
}

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

struct World {
    stack: SimStack,
    parts: Parts,
}

impl World {
    async fn open(directory: &Path) -> Self {
        let stack = SimStack::open(directory, "state").await.unwrap();
        let component = Component {
            name: "config".into(),
            kind: TreeKind::Config,
            service: None,
            path: Some(folder(directory)),
            volume: None,
            include: Vec::new(),
            exclude: Vec::new(),
        };
        let mut system = System { components: vec![component], ..System::clone(&stack.parts.system) };
        // PHP is not simulated.
        system.application.maintenance = Maintenance::None;
        let file = EnvironmentFile { component: "config".into(), path: ".env".into(), encrypted: None };
        system.application.environment = Some(file);
        let parts = Parts { system: Arc::new(system), ..stack.parts.clone() };
        Self { stack, parts }
    }

    async fn create(directory: &Path) -> Self {
        SimStack::create(directory).await.unwrap();
        fs::create_dir_all(folder(directory)).unwrap();
        fs::write(file(directory), GOOD).unwrap();
        let world = Self::open(directory).await;
        world.stack.back_up_tree("config", &folder(directory)).await.unwrap();
        fs::write(file(directory), BROKEN).unwrap();
        fs::set_permissions(file(directory), fs::Permissions::from_mode(MODE)).unwrap();
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

async fn recover(run: Run, parts: Parts) -> Result<Recovered> {
    RecoverApplication.recover(&run, &parts, &run.request()?).await
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

/// Files and folders beside the component, with what is in the files.
fn beside(directory: &Path) -> Vec<(String, String)> {
    let found = fs::read_dir(directory.join("site")).unwrap().map(|entry| entry.unwrap().path());
    let others = found.filter(|path| *path != folder(directory));
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
            let world = World::open(directory).await;
            match take_up(&world.engine(), new_run()).await.unwrap() {
                TakenUp::Finished(_) => {}
                TakenUp::Run(run) => {
                    let report = run.execute(recover(run.clone(), world.parts.clone())).await.unwrap();
                    assert!(report.done[0].ends_with("`DB_HOST` set"), "{report:?}");
                }
            }
        });
    }
    fn mended(directory: &Path) {
        assert_eq!(newest(directory).unwrap().1.status, RunStatus::Succeeded);
        assert_eq!(fs::read_to_string(file(directory)).unwrap(), MENDED);
        let kept: Vec<String> = beside(directory).into_iter().map(|(_, text)| text).collect();
        assert_eq!(kept, [BROKEN], "the old file, and nothing else");
        block_on(async {
            let world = World::open(directory).await;
            for service in ["app", "queue", "scheduler"] {
                let containers = world.parts.backend.service_containers(service).await.unwrap();
                assert!(containers.iter().all(|c| c.state == ContainerState::Running), "{service}");
                let before = &looked(directory).containers[&containers[0].name];
                assert_eq!(containers[0].restart_policy, before.1, "{service}");
            }
        });
    }
    let places = kill_matrix(
        "an_environment_file_whose_mending_is_killed_anywhere_is_mended_in_the_end",
        Kills::Once,
        &Promises { begin: &begin, work: &work, always: &always, at_end: &mended },
    );
    for place in ["body ended", "before folders are exchanged", "after folders are exchanged"] {
        assert!(places.iter().any(|p| p == place), "{place} is not among {places:?}");
    }
}

#[test]
fn an_environment_file_whose_mending_is_killed_anywhere_can_be_put_back_as_it_was() {
    fn work(directory: &Path) {
        block_on(async {
            let world = World::open(directory).await;
            let procedure = |run| recover(run, world.parts.clone());
            undone_in_the_end(&world.engine(), &directory.join("state"), new_run(), procedure).await.unwrap();
        });
    }
    fn as_before(directory: &Path) {
        assert_eq!(newest(directory).unwrap().1.status, RunStatus::RolledBack);
        assert_eq!(fs::read_to_string(file(directory)).unwrap(), BROKEN);
        // What has served is kept, with a note that it has.
        for (name, text) in beside(directory) {
            assert!(
                name.ends_with(".undone") && text == MENDED || name.ends_with(".served") && text.is_empty(),
                "{name}"
            );
        }
        block_on(async {
            assert_eq!(World::open(directory).await.looks().await, looked(directory));
        });
    }
    let places = kill_matrix(
        "an_environment_file_whose_mending_is_killed_anywhere_can_be_put_back_as_it_was",
        Kills::Once,
        &Promises { begin: &begin, work: &work, always: &always, at_end: &as_before },
    );
    for place in ["after undo_intent", "undo ended", "after folders are exchanged"] {
        assert!(places.iter().any(|p| p == place), "{place} is not among {places:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_gone_comes_back_as_it_was_backed_up() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::create(directory.path()).await;
    fs::remove_file(file(directory.path())).unwrap();
    let run = world.engine().start(new_run()).await.unwrap();
    let id = run.id();
    let report = run.execute(recover(run.clone(), world.parts.clone())).await.unwrap();
    assert!(report.found.iter().any(|line| line == "the environment file is not there"), "{report:?}");
    assert_eq!(fs::read_to_string(file(directory.path())).unwrap(), GOOD);
    let mode = fs::metadata(file(directory.path())).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o644, "that of the backup");
    drop(run);
    world.engine().roll_back(id, "a test", |run| recover(run, world.parts.clone())).await.unwrap();
    assert_eq!(fs::read_to_string(file(directory.path())).unwrap(), "", "an empty one stays");
}

#[tokio::test(start_paused = true)]
async fn where_no_backup_would_do_nothing_is_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::create(directory.path()).await;
    // The newest backup is as broken, and the one before it has a key that is none.
    fs::write(file(directory.path()), GOOD.replace("0123456789abcdef", "short")).unwrap();
    let catalog = &world.parts.catalog;
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
        world.stack.back_up_tree("config", &folder(directory.path())).await.unwrap();
    }
    let before = world.looks().await;
    let run = world.engine().start(new_run()).await.unwrap();
    let refused = run.execute(recover(run.clone(), world.parts.clone())).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Precondition, "{refused}");
    assert!(
        refused.to_string().contains("`APP_KEY` is malformed") && refused.to_string().contains("`DB_HOST`"),
        "{refused}"
    );
    assert_eq!(world.looks().await, before);
    assert_eq!(fs::read_to_string(file(directory.path())).unwrap(), BROKEN);
}

#[tokio::test(start_paused = true)]
async fn a_method_that_cannot_be_followed_is_refused_before_anything_begins() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::create(directory.path()).await;
    let check = |parts: &Parts, method| RecoverApplication.check(parts, &Request { method: Some(method), ..request() });
    check(&world.parts, Method::Config).unwrap();
    for method in [Method::Code, Method::Both] {
        assert_eq!(check(&world.parts, method).unwrap_err().kind(), ErrorKind::InvalidInput, "no code is configured");
    }
    let refused = check(&world.stack.parts, Method::Config).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput, "no environment file is configured");
}
