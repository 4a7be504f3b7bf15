//! A salvage in the simulated world, killed at every place: production's files stay as they are, nothing is left of the copy,
//! and what was read is a backup that nobody chooses by accident.

use std::{path::Path, sync::Arc};

use chom_recovery::{
    ErrorKind,
    backend::Backend,
    catalog::Selector,
    procedure::{
        backup, drill,
        salvage::{self, PROCEDURE, Request, SalvageReport},
    },
    run::{AlwaysYes, Engine, NewRun, Run, summary::RunStatus},
    testing::{
        database::{corrupt, damage},
        kill::{
            Crash, Kills, Promises, assert_killed_at, block_on, done_in_the_end, kill_matrix, newest, undone_in_the_end,
        },
        sim::{Fault, Op},
        stack::{SimStack, Snapshot, VOLUME},
    },
};

fn new_run() -> NewRun {
    NewRun::new("shop", PROCEDURE, &Request::default()).unwrap().supersede([
        backup::PROCEDURE,
        drill::PROCEDURE,
        PROCEDURE,
    ])
}

fn engine(stack: &SimStack) -> Engine {
    stack.engine(Arc::new(AlwaysYes { by: "nobody is asked".into() }))
}

async fn read(run: Run, stack: &SimStack) -> chom_recovery::Result<SalvageReport> {
    let request: Request = run.request()?;
    salvage::salvage(&run, &stack.parts, &request).await
}

async fn open(directory: &Path) -> SimStack {
    SimStack::open(directory, "state").await.unwrap()
}

/// A server that ends when it is started, and one of whose tables nobody can read.
async fn dead(directory: &Path) -> SimStack {
    let stack = SimStack::create(directory).await.unwrap();
    let folder = stack.backend.volume_folder(VOLUME);
    damage(&folder, false).unwrap();
    corrupt(&folder, &["audit_log"]).unwrap();
    stack.backend.stop("mysql", std::time::Duration::ZERO).await.unwrap();
    stack.keep_looks().await.unwrap();
    stack
}

fn begin(directory: &Path) {
    block_on(async { drop(dead(directory).await) });
}

/// Without what is the salvage's own.
async fn looks(stack: &SimStack) -> Snapshot {
    let mut looks = stack.looks().await.unwrap();
    looks.volumes.retain(|path, _| path.starts_with(&format!("{VOLUME}/")));
    looks.containers.retain(|name, _| !name.contains("-salvage-"));
    looks
}

fn always(directory: &Path, crash: &Crash) {
    block_on(async {
        let stack = open(directory).await;
        assert_eq!(looks(&stack).await, SimStack::looked(directory).unwrap(), "{crash:?}");
        // Whatever was read by then, the whole backup is the one that is chosen.
        let chosen = stack.parts.catalog.select(&Selector::Latest).await.unwrap();
        assert!(!chosen.is_salvaged, "{crash:?}");
    });
}

async fn nothing_is_left(stack: &SimStack) {
    assert_eq!(stack.backend.own_containers().await.unwrap(), []);
    let volumes: Vec<_> = stack.backend.volumes().await.unwrap().into_iter().map(|v| v.name).collect();
    assert_eq!(volumes, [VOLUME]);
}

#[test]
fn a_salvage_killed_anywhere_is_done_in_the_end() {
    let work = |directory: &Path| {
        block_on(async {
            let stack = open(directory).await;
            done_in_the_end(&engine(&stack), new_run(), |run| read(run, &stack)).await.unwrap();
        });
    };
    let at_end = |directory: &Path| {
        block_on(async {
            let stack = open(directory).await;
            assert_eq!(newest(&directory.join("state")).unwrap().1.status, RunStatus::Succeeded);
            nothing_is_left(&stack).await;
            let backups = stack.parts.catalog.list().await.unwrap().backups;
            let salvaged: Vec<_> = backups.iter().filter(|b| b.is_salvaged).collect();
            // One that was killed between its backup and the note of it reads again.
            assert!((1..=2).contains(&salvaged.len()), "{backups:?}");
            assert!(salvaged.iter().all(|b| !b.incomplete.is_empty()), "{salvaged:?}");
        });
    };
    let places = kill_matrix(
        "a_salvage_killed_anywhere_is_done_in_the_end",
        Kills::Once,
        &Promises { begin: &begin, work: &work, always: &always, at_end: &at_end },
    );
    assert_killed_at(
        &places,
        &["after put tables/users", "after part", "before manifest", "after manifest", "body ended"],
    );
}

#[test]
fn a_salvage_killed_anywhere_and_undone_leaves_no_copy() {
    let work = |directory: &Path| {
        block_on(async {
            let stack = open(directory).await;
            undone_in_the_end(&engine(&stack), new_run(), |run| read(run, &stack)).await.unwrap();
        });
    };
    let at_end = |directory: &Path| {
        block_on(async { nothing_is_left(&open(directory).await).await });
    };
    let places = kill_matrix(
        "a_salvage_killed_anywhere_and_undone_leaves_no_copy",
        Kills::Once,
        &Promises { begin: &begin, work: &work, always: &always, at_end: &at_end },
    );
    assert_killed_at(&places, &["after put tables/users", "after manifest", "after undo_intent"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_read_is_told_table_by_table() {
    let directory = tempfile::tempdir().unwrap();
    let stack = dead(directory.path()).await;
    let run = engine(&stack).start(new_run()).await.unwrap();
    let report = run.execute(read(run.clone(), &stack)).await.unwrap();
    assert_eq!((report.whole, report.part, report.nothing, report.rows), (1, 0, 1, 3));
    assert_eq!(report.missing(), ["table `shop.audit_log`: no row was read: a page is damaged"]);
    assert!(report.backup.is_salvaged && !report.is_whole());
    nothing_is_left(&stack).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_is_left_alone_and_a_failure_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let stack = SimStack::create(directory.path()).await.unwrap();
    let run = engine(&stack).start(new_run()).await.unwrap();
    let error = run.execute(read(run.clone(), &stack)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
    nothing_is_left(&stack).await;

    let directory = tempfile::tempdir().unwrap();
    let stack = dead(directory.path()).await;
    let run = engine(&stack).start(new_run()).await.unwrap();
    stack.backend.fault(Op::OneOff, 1, Fault::Fail(ErrorKind::Unreachable));
    let error = run.execute(read(run.clone(), &stack)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    drop(run);
    undone_in_the_end(&engine(&stack), new_run(), |run| read(run, &stack)).await.unwrap();
    nothing_is_left(&stack).await;
    assert_eq!(looks(&stack).await, SimStack::looked(directory.path()).unwrap());
}
