//! Kills a whole database recovery at every place, in the simulated world, and checks what it promises.

use std::{path::Path, sync::Arc, time::Duration};

use chom_recovery::{
    Error, ErrorKind, Result,
    backend::{Backend, BackendExt, ContainerState, RestartPolicy},
    catalog::Selector,
    procedure::{
        Parts,
        database::{self, DatabaseReport, Extent, Request},
    },
    run::{
        AlwaysYes, Approver, AskWith, Engine, NewRun, Plan, Question, Reply, Run, RunId,
        summary::{self, RunStatus, RunSummary},
    },
    testing::{
        application::SimApplication,
        database::damage,
        kill::{Crash, Kills, Promises, TakenUp, kill_matrix, take_up},
        sim::{Fault, Op},
        stack::{SERVER, SimStack, Snapshot, VOLUME},
    },
};

fn yes() -> Arc<dyn Approver> {
    Arc::new(AlwaysYes { by: "tester".into() })
}

fn request() -> Request {
    Request { backup: Selector::Latest, extent: Extent::Recover, incident_began: None }
}

fn new_run() -> NewRun {
    NewRun::new("shop", database::PROCEDURE, &request()).unwrap()
}

async fn recover(run: Run, parts: Parts) -> Result<DatabaseReport> {
    let request: Request = run.request()?;
    database::recover(&run, &parts, &request).await
}

/// Runs on one thread whose clock stands still while there is work and leaps over every wait.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(work)
}

async fn open(directory: &Path) -> SimStack {
    SimStack::open(directory, "state").await.unwrap()
}

fn newest(directory: &Path) -> Option<(RunId, RunSummary)> {
    let runs = summary::list(&directory.join("state")).unwrap();
    runs.into_iter().filter_map(|(id, run)| Some((id, run.ok()?))).next_back()
}

/// Makes the system and keeps what it looked like.
fn begin(directory: &Path) {
    block_on(async {
        let stack = SimStack::create(directory).await.unwrap();
        let looks = stack.snapshot().await.unwrap();
        std::fs::write(directory.join("looked"), format!("{looks:#?}")).unwrap();
    });
}

/// Name of the volume beside production's, when there is one.
async fn beside(stack: &SimStack) -> Option<String> {
    let volumes = stack.backend.volumes().await.unwrap();
    volumes.into_iter().map(|v| v.name).find(|name| name != VOLUME)
}

/// Production's name leads to the old data or to all of the backup, the old data is somewhere, the journal is whole.
fn always(directory: &Path, crash: &Crash) {
    block_on(async {
        let stack = open(directory).await;
        let production = stack.data(VOLUME).unwrap();
        let is_old = production == SimStack::before();
        assert!(is_old || production.has_rows_of(&SimStack::backed_up()), "{crash:?}: production has {production:?}");
        if !is_old {
            let kept = beside(&stack).await.unwrap_or_else(|| panic!("{crash:?}: the old data is gone"));
            assert_eq!(stack.data(&kept).unwrap(), SimStack::before(), "{crash:?}");
        }
        let running = |c: &chom_recovery::backend::Container| c.state == ContainerState::Running;
        let own = stack.backend.own_containers().await.unwrap();
        let candidates = own.iter().filter(|c| c.volume_at("/var/lib/mysql").is_some());
        let servers = stack.backend.service_containers("mysql").await.unwrap();
        for server in candidates.filter(|c| running(c)).chain(servers.iter().filter(|c| running(c))) {
            let volume = server.volume_at("/var/lib/mysql").unwrap();
            assert_eq!(volume == VOLUME, server.name == SERVER, "{crash:?}: `{}` serves `{volume}`", server.name);
        }
    });
    for (id, run) in summary::list(&directory.join("state")).unwrap() {
        if let Err(e) = run {
            assert_eq!(e.kind(), ErrorKind::NotFound, "{crash:?}: {id}: {e}");
        }
    }
}

fn recovered(directory: &Path) {
    block_on(async {
        let stack = open(directory).await;
        let (id, run) = newest(directory).unwrap();
        assert_eq!(run.status, RunStatus::Succeeded);
        let production = stack.data(VOLUME).unwrap();
        assert!(production.has_rows_of(&SimStack::backed_up()), "{production:?}");
        assert_eq!(production.next["users"], 4, "the counter is above the lost id");

        let kept = beside(&stack).await.unwrap();
        let before: std::collections::BTreeMap<_, _> = looked_volumes(directory);
        let now = stack.backend.snapshot().unwrap();
        let prefix = format!("{kept}/");
        let kept: std::collections::BTreeMap<_, _> = now
            .iter()
            .filter_map(|(path, bytes)| Some((path.strip_prefix(&prefix)?.to_owned(), bytes.clone())))
            .collect();
        assert_eq!(kept, before, "the old data is kept, byte for byte");
        let exchanges = stack.backend.calls().unwrap();
        let exchanges = exchanges.iter().filter(|call| call.op == Op::ExchangeVolumes && call.applied).count();
        assert_eq!(exchanges, 1);

        assert_eq!(stack.backend.own_containers().await.unwrap(), [], "candidate and lock are gone");
        for container in stack.backend.containers().await.unwrap() {
            assert_eq!(container.state, ContainerState::Running, "{}", container.name);
            let policy = if container.service == "queue" { RestartPolicy::OnFailure(3) } else { RestartPolicy::UnlessStopped };
            assert_eq!(container.restart_policy, policy, "{}", container.name);
        }
        let files = stack.snapshot().await.unwrap().application;
        let names: Vec<_> = files.keys().map(|path| path.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, [format!("queue-default-held-{id}")], "users are served, and the jobs are held");
        assert_eq!(files.values().next().unwrap(), "job 1\njob 2\n");
        let tag = Selector::Tag("after-recovery".parse().unwrap());
        let backup = stack.parts.catalog.select(&tag).await.unwrap();
        assert!(stack.parts.catalog.list().await.unwrap().backups.len() >= 2, "{backup:?}");
    });
}

/// Files of production's volume as they were at the begin.
fn looked_volumes(_directory: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let before = SimStack::before();
    let tables = before.tables.iter().map(|(table, rows)| (format!("tables/{table}"), rows.clone()));
    let next = before.next.iter().map(|(table, next)| (format!("next/{table}"), next.to_string()));
    let accounts = std::iter::once(("accounts".to_owned(), before.accounts.clone()));
    tables.chain(next).chain(accounts).map(|(name, text)| (name, text.into_bytes())).collect()
}

/// Runs it, or takes it up.
fn go_on(directory: &Path) {
    block_on(async {
        let stack = open(directory).await;
        match take_up(&stack.engine(yes()), new_run()).await.unwrap() {
            TakenUp::Finished(_) => {}
            TakenUp::Run(run) => {
                let report = run.execute(recover(run.clone(), stack.parts.clone())).await.unwrap();
                assert_eq!(report.restored.unwrap().held.count(), 2);
            }
        }
    });
}

#[test]
fn a_recovery_killed_anywhere_goes_on_and_ends_with_the_backup_in_place() {
    let places = kill_matrix(
        "a_recovery_killed_anywhere_goes_on_and_ends_with_the_backup_in_place",
        Kills::Once,
        &Promises { begin: &begin, work: &go_on, always: &always, at_end: &recovered },
    );
    for place in ["before sync", "body ended", "after exchange", "after put tables/users", "before put accounts"] {
        assert!(places.iter().any(|p| p == place), "{place} is not among {places:?}");
    }
}

/// What there was before is there again, and beside it nothing but the candidate's volume.
fn as_before(directory: &Path) {
    block_on(async {
        let stack = open(directory).await;
        assert_eq!(newest(directory).unwrap().1.status, RunStatus::RolledBack);
        let mut looks = stack.snapshot().await.unwrap();
        looks.volumes.retain(|path, _| path.starts_with(&format!("{VOLUME}/")));
        let before = std::fs::read_to_string(directory.join("looked")).unwrap();
        assert_eq!(format!("{looks:#?}"), before);
    });
}

#[test]
fn a_recovery_killed_anywhere_rolls_back_to_what_was_before_however_often_it_takes() {
    /// A recovery that nobody kills is rolled back as well, and killed while that goes on.
    fn work(directory: &Path) {
        block_on(async {
            let stack = open(directory).await;
            let engine = stack.engine(yes());
            let id = if let Some((id, _)) = newest(directory) {
                id
            } else {
                let run = engine.start(new_run()).await.unwrap();
                run.execute(recover(run.clone(), stack.parts.clone())).await.unwrap();
                run.id()
            };
            if newest(directory).unwrap().1.status != RunStatus::RolledBack {
                engine.roll_back(id, "a test", |run| recover(run, stack.parts.clone())).await.unwrap();
            }
        });
    }
    let places = kill_matrix(
        "a_recovery_killed_anywhere_rolls_back_to_what_was_before_however_often_it_takes",
        Kills::Once,
        &Promises { begin: &begin, work: &work, always: &always, at_end: &as_before },
    );
    for place in ["after undo_intent", "undo ended", "after forget held jobs"] {
        assert!(places.iter().any(|p| p == place), "{place} is not among {places:?}");
    }
}
