//! Kills a whole database recovery at every place, in the simulated world, and checks what it promises.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use chom_recovery::{
    ErrorKind, Result,
    backend::{Backend, BackendExt, ContainerState, RUN_LABEL, RestartPolicy},
    catalog::Selector,
    objective::Objective,
    procedure::{
        Parts, backup,
        database::{self, DatabaseReport, Extent, Request, WantedKind, ops::BackUp},
    },
    report::unresolved,
    run::{
        Approver, AskWith, Basis, NewRun, OutputSource, Plan, Question, Reply, Run, RunId, Undo, Verdict, Word,
        summary::{self, RunStatus, RunSummary, StepStatus},
    },
    testing::{
        application::SimApplication,
        database::damage,
        kill::{self, Crash, Kills, Promises, assert_killed_at, block_on, done_in_the_end, kill_matrix, yes},
        sim::{Fault, Op},
        stack::{SERVER, SimStack, Snapshot, VOLUME},
    },
};

fn request() -> Request {
    Request { backup: Selector::Latest, kind: WantedKind::Auto, extent: Extent::Recover, incident_began: None }
}

fn new_run() -> NewRun {
    NewRun::new("shop", database::PROCEDURE, &request()).unwrap()
}

async fn recover(run: Run, parts: Parts) -> Result<DatabaseReport> {
    let request: Request = run.request()?;
    database::recover(&run, &parts, &request).await
}

async fn open(directory: &Path) -> SimStack {
    SimStack::open(directory, "state").await.unwrap()
}

fn newest(directory: &Path) -> Option<(RunId, RunSummary)> {
    kill::newest(&directory.join("state"))
}

fn begin(directory: &Path) {
    block_on(async { SimStack::create(directory).await.unwrap().keep_looks().await.unwrap() });
}

fn looked(directory: &Path) -> Snapshot {
    SimStack::looked(directory).unwrap()
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
        let now = stack.snapshot().await.unwrap();
        let (now, before) = (of_volume(&now, &kept), of_volume(&looked(directory), VOLUME));
        assert_eq!(now, before, "the old data is kept, byte for byte");
        let exchanges = stack.backend.calls().unwrap();
        let exchanges = exchanges.iter().filter(|call| call.op == Op::ExchangeVolumes && call.applied).count();
        assert_eq!(exchanges, 1);

        assert_eq!(stack.backend.own_containers().await.unwrap(), [], "candidate and lock are gone");
        for container in stack.backend.containers().await.unwrap() {
            assert_eq!(container.state, ContainerState::Running, "{}", container.name);
            let policy =
                if container.service == "queue" { RestartPolicy::OnFailure(3) } else { RestartPolicy::UnlessStopped };
            assert_eq!(container.restart_policy, policy, "{}", container.name);
        }
        let files = stack.snapshot().await.unwrap().application;
        assert_eq!(
            files.keys().collect::<Vec<_>>(),
            [&format!("queue-default-held-{id}")],
            "users are served, and the jobs are held"
        );
        assert_eq!(files.values().next().unwrap(), "job 1\njob 2\n");
        let tag = Selector::Tag("after-recovery".parse().unwrap());
        let backup = stack.parts.catalog.select(&tag).await.unwrap();
        assert!(stack.parts.catalog.list().await.unwrap().backups.len() >= 2, "{backup:?}");
    });
}

/// Files of a volume by their path in it.
fn of_volume(snapshot: &Snapshot, volume: &str) -> BTreeMap<String, Vec<u8>> {
    let paths = snapshot.volumes.iter().filter_map(|(path, bytes)| Some((path.strip_prefix(volume)?, bytes)));
    paths.filter_map(|(path, bytes)| Some((path.strip_prefix('/')?.to_owned(), bytes.clone()))).collect()
}

/// Runs it, or takes it up.
fn go_on(directory: &Path) {
    block_on(async {
        let stack = open(directory).await;
        let procedure = |run| recover(run, stack.parts.clone());
        let report = done_in_the_end(&stack.engine(yes()), new_run(), procedure).await.unwrap();
        assert!(report.is_none_or(|report| report.restored.unwrap().held.count() == 2));
    });
}

#[test]
fn a_recovery_killed_anywhere_goes_on_and_ends_with_the_backup_in_place() {
    let places = kill_matrix(
        "a_recovery_killed_anywhere_goes_on_and_ends_with_the_backup_in_place",
        Kills::Once,
        &Promises { begin: &begin, work: &go_on, always: &always, at_end: &recovered },
    );
    assert_killed_at(
        &places,
        &["before sync", "body ended", "after exchange", "after put tables/users", "before put accounts"],
    );
}

/// What there was before is there again, and beside it nothing but the candidate's volume.
fn as_before(directory: &Path) {
    block_on(async {
        let stack = open(directory).await;
        assert_eq!(newest(directory).unwrap().1.status, RunStatus::RolledBack);
        let mut looks = stack.snapshot().await.unwrap();
        looks.volumes.retain(|path, _| path.starts_with(&format!("{VOLUME}/")));
        assert_eq!(looks, looked(directory));
    });
}

/// Takes the repository away, as a disk that is not mounted is away.
fn unmount(directory: &Path) {
    let folder = SimStack::repository_folder(directory);
    if folder.exists() {
        std::fs::rename(&folder, folder.with_extension("away")).unwrap();
    }
}

fn mount(directory: &Path) {
    let folder = SimStack::repository_folder(directory);
    std::fs::rename(folder.with_extension("away"), folder).unwrap();
}

#[test]
fn a_recovery_killed_anywhere_rolls_back_to_what_was_before_however_often_it_takes() {
    /// A recovery that nobody kills is rolled back as well, and killed while that goes on. None has a repository.
    fn work(directory: &Path) {
        block_on(async {
            let mut stack = open(directory).await;
            let engine = stack.engine(yes());
            let id = if let Some((id, _)) = newest(directory) {
                id
            } else {
                let run = engine.start(new_run()).await.unwrap();
                run.execute(recover(run.clone(), stack.parts.clone())).await.unwrap();
                run.id()
            };
            if newest(directory).unwrap().1.status != RunStatus::RolledBack {
                unmount(directory);
                stack = open(directory).await;
                engine.roll_back(id, "a test", |run| recover(run, stack.parts.clone())).await.unwrap();
            }
        });
    }
    let places = kill_matrix(
        "a_recovery_killed_anywhere_rolls_back_to_what_was_before_however_often_it_takes",
        Kills::Once,
        &Promises { begin: &begin, work: &work, always: &always, at_end: &as_before },
    );
    assert_killed_at(&places, &["after undo_intent", "undo ended", "after forget held jobs"]);
}

/// Makes a system in a folder of its own.
async fn system() -> (tempfile::TempDir, SimStack) {
    let directory = tempfile::tempdir().unwrap();
    let stack = SimStack::create(directory.path()).await.unwrap();
    (directory, stack)
}

async fn run_whole(stack: &SimStack, request: &Request) -> (RunId, Result<DatabaseReport>) {
    let run = stack.engine(yes()).start(NewRun::new("shop", database::PROCEDURE, request).unwrap()).await.unwrap();
    (run.id(), run.execute(recover(run.clone(), stack.parts.clone())).await)
}

async fn plan(stack: &SimStack) -> Plan {
    stack.engine(yes()).plan(&new_run(), |run| recover(run, stack.parts.clone())).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn of_two_hosts_only_one_recovers() {
    let (directory, stack) = system().await;
    let other = SimStack::open(directory.path(), "state-of-another-host").await.unwrap();
    let first = stack.engine(yes()).start(new_run()).await.unwrap();
    let before = other.snapshot().await.unwrap();
    let refused = other.engine(yes()).start(new_run()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked, "{refused}");
    assert!(refused.to_string().contains(&first.id().to_string()), "{refused}");
    assert_eq!(other.snapshot().await.unwrap(), before);

    first.execute(recover(first.clone(), stack.parts.clone())).await.unwrap();
    let second = other.engine(yes()).start(new_run()).await.unwrap();
    let cured = second.execute(recover(second.clone(), other.parts.clone())).await.unwrap_err();
    assert_eq!(cured.kind(), ErrorKind::Precondition, "{cured}");
    assert!(cured.to_string().contains("a restore is not the cure"), "{cured}");
}

#[tokio::test(start_paused = true)]
async fn an_undo_that_fails_stops_the_rollback_and_is_gone_on_with() {
    let (_directory, stack) = system().await;
    let before = stack.snapshot().await.unwrap();
    let (id, report) = run_whole(&stack, &request()).await;
    report.unwrap();
    let engine = stack.engine(yes());
    for fault in [Fault::Fail(ErrorKind::Unreachable), Fault::DoneThenFail(ErrorKind::OutcomeUnknown)] {
        stack.backend.fault(Op::ExchangeVolumes, 1, fault);
        let failed = engine.roll_back(id, "a test", |run| recover(run, stack.parts.clone())).await.unwrap_err();
        assert!(failed.to_string().contains("cannot undo `database/swap-volumes`"), "{failed}");
        assert!(failed.hint_text().unwrap().contains(&format!("chom-recovery rollback {id}")), "{failed:?}");
        let run = RunSummary::read(engine.state_dir(), id).unwrap();
        assert_ne!(run.status, RunStatus::RolledBack);
        assert!(!stack.backend.service_containers("app").await.unwrap()[0].is_ready(), "nobody writes meanwhile");
        let resumed = engine.resume(id).await.unwrap_err();
        assert_eq!(resumed.kind(), ErrorKind::Conflict, "{resumed}");
    }
    engine.roll_back(id, "a test", |run| recover(run, stack.parts.clone())).await.unwrap();
    assert_eq!(RunSummary::read(engine.state_dir(), id).unwrap().status, RunStatus::RolledBack);
    let mut now = stack.snapshot().await.unwrap();
    now.volumes.retain(|path, _| path.starts_with(&format!("{VOLUME}/")));
    assert_eq!(now, before);
}

#[tokio::test(start_paused = true)]
async fn a_rollback_needs_no_backup() {
    let (directory, stack) = system().await;
    let (id, report) = run_whole(&stack, &request()).await;
    report.unwrap();
    let backups = directory.path().join("backups/v1");
    let folder = if backups.exists() { backups } else { directory.path().join("backups") };
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    assert!(stack.parts.catalog.list().await.unwrap().backups.is_empty());
    let engine = stack.engine(yes());
    engine.roll_back(id, "a test", |run| recover(run, stack.parts.clone())).await.unwrap();
    assert_eq!(stack.data(VOLUME).unwrap(), SimStack::before());
}

/// Answers for everything but the swap.
fn yes_but_for_the_swap() -> Arc<dyn Approver> {
    Arc::new(AskWith::new(|question: &Question| {
        if question.name.ends_with("replace-production-database") {
            return Reply::Later;
        }
        Reply::Yes { by: "tester".into() }
    }))
}

#[tokio::test(start_paused = true)]
async fn a_run_that_compared_its_candidate_goes_on_to_a_proven_service_without_the_repository() {
    let (directory, stack) = system().await;
    let engine = stack.engine(yes_but_for_the_swap());
    let run = engine.start(new_run()).await.unwrap();
    let id = run.id();
    run.execute(recover(run.clone(), stack.parts.clone())).await.unwrap_err();
    drop(run);
    engine.approve(id, None, "lead").unwrap();

    unmount(directory.path());
    let stack = open(directory.path()).await;
    let run = engine.resume(id).await.unwrap();
    let stopped = run.execute(recover(run.clone(), stack.parts.clone())).await.unwrap_err();
    drop(run);
    assert_eq!(stopped.kind(), ErrorKind::Unreachable, "{stopped}");
    assert!(stack.data(VOLUME).unwrap().has_rows_of(&SimStack::backed_up()));
    let run = RunSummary::read(engine.state_dir(), id).unwrap();
    assert!(run.steps.iter().any(|s| s.step == "database/service-proven" && s.status == StepStatus::Done));
    let open_steps: Vec<_> = run.steps.iter().filter(|s| s.status != StepStatus::Done).map(|s| &s.step).collect();
    assert_eq!(open_steps, ["database/back-up-again"]);

    mount(directory.path());
    let stack = open(directory.path()).await;
    let run = engine.resume(id).await.unwrap();
    let report = run.execute(recover(run.clone(), stack.parts.clone())).await.unwrap();
    assert!(report.new_backup.is_some());
    assert_eq!(stack.data(VOLUME).unwrap().next["users"], 4);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_still_needs_its_backup_stops_where_it_is_until_the_repository_is_back() {
    let (directory, stack) = system().await;
    stack.backend.fault(Op::CreateVolume, 2, Fault::Fail(ErrorKind::Failed));
    let (id, failed) = run_whole(&stack, &request()).await;
    failed.unwrap_err();
    let before = stack.snapshot().await.unwrap();

    unmount(directory.path());
    let stack = open(directory.path()).await;
    let engine = stack.engine(yes());
    let run = engine.resume(id).await.unwrap();
    let stopped = run.execute(recover(run.clone(), stack.parts.clone())).await.unwrap_err();
    drop(run);
    assert_eq!(stopped.kind(), ErrorKind::Unreachable, "{stopped}");
    assert_eq!(stack.snapshot().await.unwrap(), before);

    mount(directory.path());
    let stack = open(directory.path()).await;
    let run = engine.resume(id).await.unwrap();
    run.execute(recover(run.clone(), stack.parts.clone())).await.unwrap();
    assert!(stack.data(VOLUME).unwrap().has_rows_of(&SimStack::backed_up()));
}

#[tokio::test(start_paused = true)]
async fn a_database_is_not_called_healthy_because_nobody_could_look_for_its_backup() {
    let (directory, _stack) = system().await;
    unmount(directory.path());
    let stack = open(directory.path()).await;
    let before = stack.snapshot().await.unwrap();
    let (_, refused) = run_whole(&stack, &request()).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unreachable, "{refused}");
    let mut now = stack.snapshot().await.unwrap();
    now.containers.retain(|name, _| before.containers.contains_key(name));
    assert_eq!(now, before);
}

#[tokio::test(start_paused = true)]
async fn a_plan_changes_nothing_and_is_the_same_while_nothing_changes() {
    let (directory, stack) = system().await;
    let before = stack.snapshot().await.unwrap();
    let first = plan(&stack).await;
    tokio::time::sleep(std::time::Duration::from_mins(1)).await;
    SimApplication::queue(&stack.application_files(), &["job 3"]).unwrap();
    let second = plan(&open(directory.path()).await).await;
    first.check_same(&second).unwrap();
    assert!(first.effects().any(|step| step.step == "database/swap-volumes" && step.needs_approval), "{first:?}");
    let mut now = stack.snapshot().await.unwrap();
    now.application = before.application.clone();
    assert_eq!(now, before);
    assert!(summary::ids(stack.engine(yes()).state_dir()).unwrap().is_empty());
    assert!(stack.backend.calls().unwrap().iter().all(|call| !call.applied || call.op == Op::Stop));

    // What matters: another backup would be restored, another table is gone.
    std::fs::remove_file(stack.backend.volume_folder(VOLUME).join("tables/audit_log")).unwrap();
    let changed = first.check_same(&plan(&stack).await).unwrap_err();
    assert_eq!(changed.kind(), ErrorKind::Conflict, "{changed}");
}

#[tokio::test(start_paused = true)]
async fn a_plan_after_a_recovery_is_estimated_from_it_and_fits() {
    let (_directory, stack) = system().await;
    let new = || new_run().objective(Objective::minutes(30, 15));
    let planned = async || stack.engine(yes()).plan(&new(), |run| recover(run, stack.parts.clone())).await.unwrap();
    let first = planned().await;
    assert_eq!(first.fits_rto(), Some(true), "{} ms by bytes and budgets", first.outage_ms.unwrap());
    assert!(first.budgeted_ms() > 0);
    let (id, report) = run_whole(&stack, &request()).await;
    report.unwrap();
    stack.engine(yes()).roll_back(id, "a test", |run| recover(run, stack.parts.clone())).await.unwrap();

    let second = planned().await;
    let guessed: Vec<_> = second
        .items
        .iter()
        .filter(|item| {
            let basis = item.estimate().map(|estimate| estimate.basis);
            !matches!(basis, None | Some(Basis::Observed | Basis::Measured { runs: 1 }))
        })
        .collect();
    assert!(guessed.is_empty(), "{guessed:?}");
    let (first, second, outage) = (first.estimate_ms, second.estimate_ms, second.outage_ms.unwrap());
    assert!(outage < second, "the soak comes after users are served: {outage} and {second} ms");
    assert!(second < first, "{second} ms by what was measured, {first} ms before");
}

#[tokio::test(start_paused = true)]
async fn a_swap_of_which_nobody_can_tell_is_settled_by_a_person_who_types_no_output() {
    let (_directory, stack) = system().await;
    stack.backend.fault(Op::ExchangeVolumes, 1, Fault::DoneThenFail(ErrorKind::OutcomeUnknown));
    let (id, result) = run_whole(&stack, &request()).await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    let engine = stack.engine(yes());
    let says = |verdict| Word { verdict, output: None, because: "looked into both volumes".into() };
    let resolve = async |verdict| {
        let again = |run| recover(run, stack.parts.clone());
        engine.resolve(id, "database/swap-volumes", says(verdict), again).await
    };
    let wrong = resolve(Verdict::NotApplied).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Conflict, "{wrong}");
    let before = stack.snapshot().await.unwrap();

    // Somebody makes the kept volume anew: now neither the old order nor the new one is to be seen.
    let kept = beside(&stack).await.unwrap();
    let labels = stack.backend.volume(&kept).await.unwrap().unwrap().labels;
    // Held open: else the new folder may get the very inode of the old one, and nobody could tell them apart.
    let _old = std::fs::File::open(stack.backend.volume_folder(&kept)).unwrap();
    stack.backend.remove_volume(&kept).await.unwrap();
    stack.backend.create_volume(&kept, &labels).await.unwrap();
    let run = engine.resume(id).await.unwrap();
    let unknown = run.execute(recover(run.clone(), stack.parts.clone())).await.unwrap_err();
    drop(run);
    assert_eq!(unknown.kind(), ErrorKind::OutcomeUnknown, "{unknown}");
    let listed = unresolved(&RunSummary::read(engine.state_dir(), id).unwrap());
    let [one] = listed.as_slice() else { panic!("{listed:?}") };
    assert_eq!(one.step, "database/swap-volumes");
    assert!(one.evidence.contains("happened in part"), "{one:?}");
    assert!(one.answers.not_applied.contains("DESTRUCTIVE") && one.answers.applied.contains("old data"), "{one:?}");

    let settled = resolve(Verdict::Applied).await.unwrap();
    assert_eq!(settled.source, OutputSource::Derived);
    assert_eq!(stack.snapshot().await.unwrap().containers, before.containers, "looking touches nothing");
    let run = engine.resume(id).await.unwrap();
    run.execute(recover(run.clone(), stack.parts.clone())).await.unwrap();
    assert!(stack.data(VOLUME).unwrap().has_rows_of(&SimStack::backed_up()));
}

#[tokio::test(start_paused = true)]
async fn without_an_approval_production_stays_and_with_it_the_run_goes_on() {
    let (_directory, stack) = system().await;
    let engine = stack.engine(yes_but_for_the_swap());
    let run = engine.start(new_run()).await.unwrap();
    let id = run.id();
    let waits = run.execute(recover(run.clone(), stack.parts.clone())).await.unwrap_err();
    drop(run);
    assert_eq!(waits.kind(), ErrorKind::NeedsConfirmation, "{waits}");
    assert_eq!(stack.data(VOLUME).unwrap(), SimStack::before());
    assert_eq!(RunSummary::read(engine.state_dir(), id).unwrap().status, RunStatus::Paused);
    assert!(stack.backend.service_containers("app").await.unwrap()[0].is_ready(), "no outage while a person thinks");

    assert_eq!(engine.approve(id, None, "lead").unwrap(), "database/replace-production-database");
    let run = engine.resume(id).await.unwrap();
    run.execute(recover(run.clone(), stack.parts.clone())).await.unwrap();
    assert!(stack.data(VOLUME).unwrap().has_rows_of(&SimStack::backed_up()));
}

#[tokio::test(start_paused = true)]
async fn a_no_stops_the_run_before_production_is_touched() {
    let (_directory, stack) = system().await;
    let denies = |question: &Question| {
        if question.name.ends_with("replace-production-database") {
            return Reply::No { by: "lead".into(), because: "wait for the vendor".into() };
        }
        Reply::Yes { by: "tester".into() }
    };
    let engine = stack.engine(Arc::new(AskWith::new(denies)));
    let run = engine.start(new_run()).await.unwrap();
    let id = run.id();
    let denied = run.execute(recover(run.clone(), stack.parts.clone())).await.unwrap_err();
    drop(run);
    assert_eq!(denied.kind(), ErrorKind::Denied, "{denied}");
    assert!(denied.to_string().contains("wait for the vendor"), "{denied}");
    assert_eq!(stack.data(VOLUME).unwrap(), SimStack::before());
    engine.roll_back(id, "denied", |run| recover(run, stack.parts.clone())).await.unwrap();
    assert!(stack.snapshot().await.unwrap().application.keys().all(|name| name != "down"), "users are served");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_merely_stopped_is_started_and_the_rollback_leaves_its_writers_alone() {
    let (_directory, stack) = system().await;
    SimStack::backed_up().write(&stack.backend.volume_folder(VOLUME)).unwrap();
    stack.backend.stop("mysql", std::time::Duration::ZERO).await.unwrap();
    let before = stack.snapshot().await.unwrap();
    let (id, report) = run_whole(&stack, &request()).await;
    assert_eq!(report.unwrap().restored, None);
    assert!(stack.backend.service_containers("scheduler").await.unwrap()[0].is_ready());
    let engine = stack.engine(yes());
    engine.roll_back(id, "a test", |run| recover(run, stack.parts.clone())).await.unwrap();
    assert_eq!(stack.snapshot().await.unwrap(), before);
}

#[tokio::test(start_paused = true)]
async fn damaged_data_is_replaced_and_put_back_by_a_rollback() {
    for starts in [true, false] {
        let (_directory, stack) = system().await;
        damage(&stack.backend.volume_folder(VOLUME), starts).unwrap();
        stack.backend.stop("mysql", std::time::Duration::ZERO).await.unwrap();
        if starts {
            // It runs, and its health check fails.
            stack.backend.start("mysql", std::time::Duration::ZERO).await.unwrap_err();
        }
        let before = stack.snapshot().await.unwrap();
        let (id, report) = run_whole(&stack, &request()).await;
        let restored = report.unwrap().restored.unwrap();
        assert!(stack.data(VOLUME).unwrap().has_rows_of(&SimStack::backed_up()));
        assert!(stack.data(&restored.kept.volume).unwrap() == SimStack::before(), "the damaged data is kept");
        let engine = stack.engine(yes());
        engine.roll_back(id, "a test", |run| recover(run, stack.parts.clone())).await.unwrap();
        assert_eq!(stack.data(VOLUME).unwrap(), SimStack::before());
        let now = stack.snapshot().await.unwrap();
        if starts {
            assert_eq!((now.containers, now.application), (before.containers, before.application), "starts: {starts}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn maintenance_mode_that_was_on_before_stays_on_and_does_not_hold_the_recovery_up() {
    let (_directory, stack) = system().await;
    stack.parts.application.maintenance_on().await.unwrap();
    let (id, report) = run_whole(&stack, &request()).await;
    let to_review = report.unwrap().to_review;
    assert!(to_review.iter().any(|line| line.contains("maintenance off")), "{to_review:?}");
    assert!(stack.parts.application.is_in_maintenance().await.unwrap());
    stack.engine(yes()).roll_back(id, "a test", |run| recover(run, stack.parts.clone())).await.unwrap();
    assert!(stack.parts.application.is_in_maintenance().await.unwrap());
}

fn restore() -> Request {
    Request { extent: Extent::Restore, ..request() }
}

#[tokio::test(start_paused = true)]
async fn a_restore_behind_maintenance_mode_is_proven_there_and_leaves_it_on() {
    let (_directory, stack) = system().await;
    stack.parts.application.maintenance_on().await.unwrap();
    let before = stack.snapshot().await.unwrap();
    let (id, report) = run_whole(&stack, &restore()).await;
    let report = report.unwrap();
    assert!(report.to_review.iter().any(|line| line.contains("maintenance off")), "{:?}", report.to_review);
    assert!(stack.parts.application.is_in_maintenance().await.unwrap());
    assert!(stack.data(VOLUME).unwrap().has_rows_of(&SimStack::backed_up()));
    let run = RunSummary::read(stack.engine(yes()).state_dir(), id).unwrap();
    assert!(
        run.steps.iter().any(|s| s.step.contains("until-outside") && s.status == StepStatus::Done),
        "seen from outside"
    );
    assert!(!run.steps.iter().any(|s| s.step.contains("maintenance-off")));
    stack.engine(yes()).roll_back(id, "a test", |run| recover(run, stack.parts.clone())).await.unwrap();
    let mut now = stack.snapshot().await.unwrap();
    now.volumes.retain(|path, _| path.starts_with(&format!("{VOLUME}/")));
    assert_eq!(now, before);
}

#[tokio::test(start_paused = true)]
async fn a_restore_behind_maintenance_mode_does_not_take_a_broken_application_for_a_proven_one() {
    let (_directory, stack) = system().await;
    stack.parts.application.maintenance_on().await.unwrap();
    // The web server never comes up: from outside nothing answers, not even maintenance mode.
    stack.backend.stop("nginx", std::time::Duration::ZERO).await.unwrap();
    let (_, report) = run_whole(&stack, &restore()).await;
    assert_eq!(report.unwrap_err().kind(), ErrorKind::Unhealthy);
}

#[test]
fn a_restore_behind_maintenance_mode_killed_anywhere_goes_on_and_leaves_it_on() {
    fn begin_in_maintenance(directory: &Path) {
        begin(directory);
        block_on(async { open(directory).await.parts.application.maintenance_on().await.unwrap() });
    }
    fn work(directory: &Path) {
        block_on(async {
            let stack = open(directory).await;
            let new = NewRun::new("shop", database::PROCEDURE, &restore()).unwrap();
            done_in_the_end(&stack.engine(yes()), new, |run| recover(run, stack.parts.clone())).await.unwrap();
        });
    }
    fn at_end(directory: &Path) {
        block_on(async {
            let stack = open(directory).await;
            assert_eq!(newest(directory).unwrap().1.status, RunStatus::Succeeded);
            assert!(stack.data(VOLUME).unwrap().has_rows_of(&SimStack::backed_up()));
            assert!(stack.parts.application.is_in_maintenance().await.unwrap());
            let exchanges = stack.backend.calls().unwrap();
            assert_eq!(exchanges.iter().filter(|call| call.op == Op::ExchangeVolumes && call.applied).count(), 1);
        });
    }
    let places = kill_matrix(
        "a_restore_behind_maintenance_mode_killed_anywhere_goes_on_and_leaves_it_on",
        Kills::Once,
        &Promises { begin: &begin_in_maintenance, work: &work, always: &always, at_end: &at_end },
    );
    assert_killed_at(&places, &["after exchange"]);
}

#[tokio::test(start_paused = true)]
async fn the_lock_of_a_run_that_nobody_will_take_up_blocks_nobody() {
    let (_directory, stack) = system().await;
    let engine = stack.engine(yes());
    // Its process died before its first effect.
    drop(engine.start(new_run()).await.unwrap());
    let holder = async || stack.backend.own_containers().await.unwrap()[0].labels[RUN_LABEL].clone();
    let backup = || NewRun::new("shop", backup::PROCEDURE, &BackUp::default()).unwrap().supersede([backup::PROCEDURE]);
    let second = engine.start(backup()).await.unwrap();
    assert_eq!(holder().await, second.id().to_string());
    // This one died in the middle; the next backup supersedes it.
    let half = second.step("dump").undo(Undo::Unnecessary("a test")).run(async |_| Ok(()));
    half.await.unwrap();
    drop(second);
    let third = engine.start(backup()).await.unwrap();
    assert_eq!(holder().await, third.id().to_string());
}
