//! Drills in the simulated world: killed at every place, failing, and in the way of nobody.

use std::{path::Path, sync::Arc};

use chom_recovery::{
    ErrorKind,
    backend::Backend,
    catalog::{
        BackupWriter, Capture, ComponentKind, ComponentSpec, Facts, HostId, Level, PartMeta, Selector, Signer,
        TableBaseline,
    },
    procedure::{
        backup,
        database::{self, Wanted, WantedKind},
        drill::{self, DrillReport},
    },
    run::{
        AlwaysYes, NewRun, Run, RunId,
        summary::{RunStatus, RunSummary},
    },
    stream,
    testing::{
        kill::{Crash, Kills, Promises, assert_killed_at, block_on, kill_matrix},
        sim::{Fault, Op},
        stack::{SimStack, Snapshot, VOLUME},
    },
};
use chrono::Utc;

fn new_run() -> NewRun {
    let request = drill::Request { backup: Selector::Latest, kind: WantedKind::Auto };
    NewRun::new("shop", drill::PROCEDURE, &request).unwrap().supersede([backup::PROCEDURE, drill::PROCEDURE])
}

fn engine(stack: &SimStack) -> chom_recovery::run::Engine {
    stack.engine(Arc::new(AlwaysYes { by: "nobody is asked".into() }))
}

async fn rehearse(run: Run, stack: &SimStack) -> chom_recovery::Result<DrillReport> {
    let request: drill::Request = run.request()?;
    run.execute(drill::rehearse(&run, &stack.parts, &request)).await
}

async fn run_whole(stack: &SimStack) -> (RunId, chom_recovery::Result<DrillReport>) {
    let run = engine(stack).start(new_run()).await.unwrap();
    (run.id(), rehearse(run.clone(), stack).await)
}

async fn open(directory: &Path) -> SimStack {
    SimStack::open(directory, "state").await.unwrap()
}

/// The system as a drill has to leave it: without what is the drill's own.
async fn looks(stack: &SimStack) -> Snapshot {
    let mut looks = stack.snapshot().await.unwrap();
    looks.volumes.retain(|path, _| path.starts_with(&format!("{VOLUME}/")));
    looks.containers.retain(|name, _| !name.contains("-drill-") && !name.ends_with("-recovery-lock"));
    looks
}

fn looked(directory: &Path) -> Snapshot {
    SimStack::looked(directory).unwrap()
}

async fn nothing_is_left(stack: &SimStack) {
    assert_eq!(stack.backend.own_containers().await.unwrap(), []);
    let volumes: Vec<_> = stack.backend.volumes().await.unwrap().into_iter().map(|v| v.name).collect();
    assert_eq!(volumes, [VOLUME]);
}

#[test]
fn a_drill_killed_anywhere_touches_nothing_and_the_next_one_cleans_up() {
    let begin = |directory: &Path| {
        block_on(async {
            let stack = SimStack::create(directory).await.unwrap();
            stack.keep_looks().await.unwrap();
        });
    };
    let work = |directory: &Path| {
        block_on(async {
            let stack = open(directory).await;
            let (_, report) = run_whole(&stack).await;
            report.unwrap();
        });
    };
    let always = |directory: &Path, crash: &Crash| {
        block_on(async { assert_eq!(looks(&open(directory).await).await, looked(directory), "{crash:?}") });
    };
    let at_end = |directory: &Path| {
        block_on(async {
            let stack = open(directory).await;
            assert_eq!(looks(&stack).await, looked(directory));
            nothing_is_left(&stack).await;
            let newest = stack.parts.catalog.select(&Selector::Latest).await.unwrap();
            assert_eq!(newest.level, Some(Level::L3));
        });
    };
    let places = kill_matrix(
        "a_drill_killed_anywhere_touches_nothing_and_the_next_one_cleans_up",
        Kills::Once,
        &Promises { begin: &begin, work: &work, always: &always, at_end: &at_end },
    );
    assert_killed_at(&places, &["before sync", "body ended", "after put tables/users", "before an effect"]);
}

#[tokio::test(start_paused = true)]
async fn a_drill_measures_and_its_result_stands_with_the_backup() {
    let directory = tempfile::tempdir().unwrap();
    let stack = SimStack::create(directory.path()).await.unwrap();
    let before = looks(&stack).await;
    assert!(stack.parts.catalog.select(&Selector::Latest).await.unwrap().level < Some(Level::L3));
    let (id, report) = run_whole(&stack).await;
    let report = report.unwrap();
    assert_eq!(report.verified.tables, 3);
    let run = RunSummary::read(engine(&stack).state_dir(), id).unwrap();
    assert_eq!(run.status, RunStatus::Succeeded);
    assert_eq!(stack.parts.catalog.select(&Selector::Latest).await.unwrap().level, Some(Level::L3));
    assert_eq!(looks(&stack).await, before);
    nothing_is_left(&stack).await;
}

/// A backup whose bytes are all in order, and whose rows are not those that its manifest promises.
async fn lying_backup(stack: &SimStack) {
    let (system, catalog) = (&stack.parts.system, &stack.parts.catalog);
    let signer = Signer::load(&system.state_dir(), &system.id).unwrap();
    let honest = catalog.open(&catalog.select(&Selector::Latest).await.unwrap().place).await.unwrap();
    let host = HostId::derive("a host");
    let mut writer = BackupWriter::begin(catalog.repository(), &signer, &host, &system.id).await.unwrap();
    let component = writer.component(ComponentSpec::new("database", ComponentKind::Logical).unwrap()).unwrap();
    let rows = PartMeta { table: Some("users".into()), ..PartMeta::default() };
    component.put(0, rows, stream::once("1 ada\n")).await.unwrap();
    component.put(1, PartMeta::default(), stream::once("root\napp\n")).await.unwrap();
    let now = Utc::now();
    let mut facts = Facts::new(Capture { begin: now, point: now, end: now });
    facts.database.clone_from(&honest.manifest().facts.database);
    facts.baselines.accounts = Some(2);
    let users = TableBaseline { schema: "shop".into(), table: "users".into(), rows: 2, checksum: None };
    facts.baselines.tables = vec![users];
    writer.finish(facts).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_fails_its_drill_counts_as_verified_no_longer_and_nothing_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let stack = SimStack::create(directory.path()).await.unwrap();
    lying_backup(&stack).await;
    let before = looks(&stack).await;
    let (id, report) = run_whole(&stack).await;
    let error = report.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let newest = stack.parts.catalog.select(&Selector::Latest).await.unwrap();
    assert_eq!((newest.level, newest.verified.is_some()), (None, true), "the failure stands with the backup");
    assert_eq!(RunSummary::read(engine(&stack).state_dir(), id).unwrap().status, RunStatus::RolledBack);
    assert_eq!(looks(&stack).await, before);
    nothing_is_left(&stack).await;
}

#[tokio::test(start_paused = true)]
async fn a_drill_that_cannot_go_on_leaves_nothing_and_says_nothing_of_the_backup() {
    let directory = tempfile::tempdir().unwrap();
    let stack = SimStack::create(directory.path()).await.unwrap();
    stack.backend.fault(Op::StopContainer, 1, Fault::Fail(ErrorKind::Unreachable));
    let (id, report) = run_whole(&stack).await;
    assert_eq!(report.unwrap_err().kind(), ErrorKind::Unreachable);
    assert_eq!(RunSummary::read(engine(&stack).state_dir(), id).unwrap().status, RunStatus::RolledBack);
    nothing_is_left(&stack).await;
    assert!(stack.parts.catalog.select(&Selector::Latest).await.unwrap().verified.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_killed_drill_is_in_the_way_of_no_recovery() {
    let directory = tempfile::tempdir().unwrap();
    let stack = SimStack::create(directory.path()).await.unwrap();
    let run = engine(&stack).start(new_run()).await.unwrap();
    let id = run.id();
    // It stands before the comparison when its process dies.
    let site = Arc::new(database::survey(&run.scope("drill"), &stack.parts).await.unwrap());
    let wanted = Wanted { backup: &Selector::Latest, kind: WantedKind::Auto, assessment: None, incident: Utc::now() };
    let checked = database::check_backup(&run.scope("drill"), &stack.parts, &site, wanted).await.unwrap();
    database::restore_beside(&run.scope("drill"), &site, &checked).await.unwrap();
    drop(run);
    let request = drill::Request { backup: Selector::Latest, kind: WantedKind::Auto };
    let recovery = NewRun::new("shop", database::PROCEDURE, &request).unwrap();
    let refused = engine(&stack).start(recovery.clone()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked);
    engine(&stack).start(recovery.supersede([drill::PROCEDURE])).await.unwrap();
    assert_eq!(RunSummary::read(engine(&stack).state_dir(), id).unwrap().status, RunStatus::Abandoned);
}
