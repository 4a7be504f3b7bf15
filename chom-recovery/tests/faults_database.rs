//! A database recovery whose Engine fails, whose memory ends or whose descriptors run out: nothing is ever lost, and
//! another process takes the run up.

use std::{
    env,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use chom_recovery::{
    Error, ErrorKind, Result,
    backend::{Backend, BackendExt, ContainerState},
    catalog::Selector,
    procedure::{
        Parts,
        database::{self, DatabaseReport, Extent, Request, WantedKind},
    },
    run::{NewRun, Run, RunId, failpoint, summary::RunStatus, summary::RunSummary},
    system::System,
    testing::{
        kill::{block_on, done_in_the_end, stride, yes},
        sim::{Fault, Op},
        stack::{SimStack, VOLUME},
    },
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn request() -> Request {
    Request { backup: Selector::Latest, kind: WantedKind::Auto, extent: Extent::Recover, incident_began: None }
}

fn new_run() -> NewRun {
    NewRun::new("shop", database::PROCEDURE, &request()).unwrap()
}

async fn recover(run: Run, parts: Parts) -> Result<DatabaseReport> {
    database::recover(&run, &parts, &request()).await
}

async fn system() -> (tempfile::TempDir, SimStack) {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let stack = SimStack::create(directory.path()).await.unwrap();
    (directory, stack)
}

/// Starts a run or takes up the newest, and runs it as far as it goes.
async fn go_on(stack: &SimStack) -> Result<()> {
    done_in_the_end(&stack.engine(yes()), new_run(), |run| recover(run, stack.parts.clone())).await.map(drop)
}

/// Production has what it had, or all of the backup; in the second case what it had is kept.
async fn nothing_is_lost(stack: &SimStack, when: &str) {
    let production = stack.data(VOLUME).unwrap();
    if production == SimStack::before() {
        return;
    }
    assert!(production.has_rows_of(&SimStack::backed_up()), "{when}: production has {production:?}");
    let volumes = stack.backend.volumes().await.unwrap();
    let kept = volumes.iter().find(|v| v.name != VOLUME).unwrap_or_else(|| panic!("{when}: the old data is gone"));
    assert_eq!(stack.data(&kept.name).unwrap(), SimStack::before(), "{when}");
}

/// The backup serves, everything runs, the old data is kept, and it was exchanged once.
async fn is_recovered(stack: &SimStack, when: &str) {
    nothing_is_lost(stack, when).await;
    assert!(stack.data(VOLUME).unwrap().has_rows_of(&SimStack::backed_up()), "{when}");
    for container in stack.backend.containers().await.unwrap() {
        assert_eq!(container.state, ContainerState::Running, "{when}: {}", container.name);
    }
    let exchanges = stack.backend.calls().unwrap();
    let exchanges = exchanges.iter().filter(|call| call.op == Op::ExchangeVolumes && call.applied).count();
    assert_eq!(exchanges, 1, "{when}");
    assert!(!stack.parts.application.is_in_maintenance().await.unwrap(), "{when}");
}

/// F51 and F52: every single call of a whole recovery is the one that an Engine does not answer, answers too late or
/// answers after it has acted.
#[test]
fn an_engine_that_fails_at_any_call_leaves_a_run_that_goes_on() {
    // Not done, without an answer or with a late one in turn; and done all the same.
    let not_done =
        |call: u32| Fault::Fail(if call.is_multiple_of(2) { ErrorKind::Unreachable } else { ErrorKind::Timeout });
    let done = |_: u32| Fault::DoneThenFail(ErrorKind::OutcomeUnknown);
    for fault_at in [&not_done as &dyn Fn(u32) -> Fault, &done] {
        let mut stopped = 0;
        for call in (0..2_000).step_by(stride() as usize) {
            let fault = fault_at(call);
            let when = format!("{fault:?} at call {call}");
            let is_over = block_on(async {
                let (directory, stack) = system().await;
                stack.backend.fault_after(call, fault);
                let first = go_on(&stack).await;
                let is_over = stack.backend.fault_is_to_come();
                stack.backend.fault_after(u32::MAX, fault);
                if is_over {
                    first.unwrap();
                } else if let Err(error) = first {
                    stopped += 1;
                    assert_ne!(error.kind(), ErrorKind::Corrupt, "{when}: silence is no damage: {error}");
                    nothing_is_lost(&stack, &when).await;
                    // Another process, with an Engine that answers again.
                    let stack = SimStack::open(directory.path(), "state").await.unwrap();
                    go_on(&stack).await.unwrap_or_else(|e| panic!("{when}: {error}; then: {e:?}"));
                }
                is_recovered(&stack, &when).await;
                is_over
            });
            if is_over {
                println!("{fault:?} and the like: {call} calls, {stopped} of them stopped the run");
                assert!(call > 50 && stopped * stride() > 20, "{call} calls, {stopped} stopped the run");
                break;
            }
        }
    }
}

/// F51 and F52 for the way back.
#[test]
fn an_engine_that_fails_at_any_call_of_a_rollback_leaves_one_that_goes_on() {
    for fault in [Fault::Fail(ErrorKind::Unreachable), Fault::DoneThenFail(ErrorKind::OutcomeUnknown)] {
        let mut stopped = 0;
        for call in (0..2_000).step_by(stride() as usize) {
            let when = format!("{fault:?} at call {call}");
            let is_over = block_on(async {
                let (directory, stack) = system().await;
                let looked = stack.snapshot().await.unwrap();
                let id = start(&stack, &request()).await.0;
                let engine = stack.engine(yes());
                stack.backend.fault_after(call, fault);
                let first = engine.roll_back(id, "a test", |run| recover(run, stack.parts.clone())).await;
                let is_over = stack.backend.fault_is_to_come();
                if first.is_err() {
                    assert!(!is_over, "{when}: {first:?}");
                    stopped += 1;
                    nothing_is_lost(&stack, &when).await;
                    let again = SimStack::open(directory.path(), "state").await.unwrap();
                    let engine = again.engine(yes());
                    engine
                        .roll_back(id, "a test", |run| recover(run, again.parts.clone()))
                        .await
                        .unwrap_or_else(|e| panic!("{when}: {first:?}; then: {e:?}"));
                }
                stack.backend.fault_after(u32::MAX, fault);
                let run = RunSummary::read(engine.state_dir(), id).unwrap();
                assert_eq!(run.status, RunStatus::RolledBack, "{when}");
                let mut now = stack.snapshot().await.unwrap();
                now.volumes.retain(|path, _| path.starts_with(&format!("{VOLUME}/")));
                // A lock that could not be given back blocks nobody.
                now.containers.remove("shop-recovery-lock");
                assert_eq!(now, looked, "{when}");
                engine.start(new_run()).await.unwrap_or_else(|e| panic!("{when}: {e:?}"));
                is_over
            });
            if is_over {
                println!("{fault:?}: {call} calls, {stopped} of them stopped the rollback");
                assert!(call > 10 && stopped * stride() > 5, "{call} calls, {stopped} stopped the rollback");
                break;
            }
        }
    }
}

async fn start(stack: &SimStack, request: &Request) -> (RunId, Result<DatabaseReport>) {
    let run = stack.engine(yes()).start(NewRun::new("shop", database::PROCEDURE, request).unwrap()).await.unwrap();
    (run.id(), run.execute(database::recover(&run, &stack.parts, request)).await)
}

/// F46: the restored database does not come up. The run stops there, says what to do, and the old data comes back.
#[tokio::test(start_paused = true)]
async fn a_database_that_is_never_healthy_after_the_swap_is_rolled_back() {
    for kind in [ErrorKind::Timeout, ErrorKind::Unhealthy] {
        let (_directory, stack) = system().await;
        let looked = stack.snapshot().await.unwrap();
        stack.backend.fault(Op::Start, 1, Fault::Fail(kind));
        let (id, report) = start(&stack, &request()).await;
        let error = report.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(stack.data(VOLUME).unwrap().has_rows_of(&SimStack::backed_up()));
        for writer in ["app", "queue", "scheduler"] {
            let containers = stack.backend.service_containers(writer).await.unwrap();
            assert_eq!(containers[0].state, ContainerState::Exited, "`{writer}` waits for a proven database");
        }
        assert!(stack.parts.application.is_in_maintenance().await.unwrap(), "users stay out");

        stack.engine(yes()).roll_back(id, "it does not start", |run| recover(run, stack.parts.clone())).await.unwrap();
        let mut now = stack.snapshot().await.unwrap();
        now.volumes.retain(|path, _| path.starts_with(&format!("{VOLUME}/")));
        assert_eq!(now, looked);
    }
}

/// F56 and hazard 10: a name that leads to no data is an error before anything is touched, never an empty database.
#[tokio::test(start_paused = true)]
async fn a_wrong_service_or_data_directory_is_told_before_anything_is_touched() {
    type Change = fn(&mut System);
    let wrong: [(Change, ErrorKind, &str); 2] = [
        (|s| s.database.data_dir = "/var/lib/mysq".into(), ErrorKind::Unsupported, "/var/lib/mysq"),
        (|s| s.database.service = "mysq".into(), ErrorKind::NotFound, "mysq"),
    ];
    for (change, kind, named) in wrong {
        let (_directory, mut stack) = system().await;
        let before = stack.snapshot().await.unwrap();
        // The lock is made from the service's image, so that it takes the real name.
        let run = stack.engine(yes()).start(new_run()).await.unwrap();
        let mut wrong = System::clone(&stack.parts.system);
        change(&mut wrong);
        stack.parts.system = Arc::new(wrong);
        let error = run.execute(recover(run.clone(), stack.parts.clone())).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(named) && error.hint_text().is_some(), "{error:?}");
        let mut now = stack.snapshot().await.unwrap();
        now.containers.retain(|name, _| before.containers.contains_key(name));
        assert_eq!(now, before);
        assert!(stack.backend.calls().unwrap().iter().all(|c| !c.applied || matches!(c.op, Op::OneOff | Op::Stop)));
    }
}

/// F43 and hazard 48: a deployment starts the workers while the restored database is being proven. They must not work
/// on jobs that speak of lost rows.
#[tokio::test(start_paused = true)]
async fn writers_that_somebody_starts_after_the_swap_stop_the_run_before_jobs_are_held() {
    let (_directory, stack) = system().await;
    let backend = stack.backend.clone();
    stack.backend.watch(move |moment| {
        use chom_recovery::testing::sim::Moment;
        if moment == Moment::After(Op::ExchangeVolumes) {
            backend.change("shop-queue-1", |c| c.state = ContainerState::Running).unwrap();
        }
    });
    let (id, report) = start(&stack, &request()).await;
    let error = report.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.hint_text().unwrap().contains("shop-queue-1"), "{error:?}");
    assert!(stack.data(VOLUME).unwrap().has_rows_of(&SimStack::backed_up()));

    stack.backend.watch(|_| {});
    stack.backend.stop("queue", Duration::ZERO).await.unwrap();
    let run = stack.engine(yes()).resume(id).await.unwrap();
    let report = run.execute(recover(run.clone(), stack.parts.clone())).await.unwrap();
    assert_eq!(report.restored.unwrap().held.count(), 2);
    is_recovered(&stack, "after a resume").await;
}

const CHILD: &str = "CHOM_TEST_LIMIT_DIRECTORY";
const AT: &str = "CHOM_TEST_LIMIT_AT";
/// What a child ends with whose run failed and said so.
const RUN_FAILED: i32 = 7;

/// What a host runs out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Out {
    Memory,
    Descriptors,
}

impl Out {
    /// Lets this process run out, from now on.
    fn of(self) {
        match self {
            Self::Memory => {
                let limit = Rlimit { current: Some(1 << 20), ..getrlimit(Resource::As) };
                setrlimit(Resource::As, limit).unwrap();
                // What any library does next. Rust ends the process when there is no memory.
                std::hint::black_box(Vec::<u8>::with_capacity(1 << 30));
            }
            Self::Descriptors => {
                setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..getrlimit(Resource::Nofile) }).unwrap();
            }
        }
    }
}

/// F10: a host that runs out of memory dies without a word, one that runs out of descriptors gets errors; in both
/// cases another process finds all it needs in the journal.
#[test]
fn a_host_that_runs_out_of_memory_or_descriptors_leaves_a_run_that_goes_on() {
    const TEST: &str = "a_host_that_runs_out_of_memory_or_descriptors_leaves_a_run_that_goes_on";
    if let Some(directory) = env::var_os(CHILD) {
        return child(Path::new(&directory));
    }
    for out in [Out::Memory, Out::Descriptors] {
        for place in [
            "before sync 9",
            "before put tables/users 1",
            "after put tables/users 1",
            "before exchange 1",
            "after exchange 1",
            "body ended 12",
            "after an effect 20",
        ] {
            let when = format!("{out:?} at `{place}`");
            let directory = block_on(system()).0;
            let output = run_child(TEST, directory.path(), &format!("{out:?} {place}"));
            match out {
                Out::Memory => assert!(output.status.signal().is_some(), "{when}: {output:?}"),
                Out::Descriptors => assert_eq!(output.status.code(), Some(RUN_FAILED), "{when}: {output:?}"),
            }
            block_on(async {
                let stack = SimStack::open(directory.path(), "state").await.unwrap();
                nothing_is_lost(&stack, &when).await;
                go_on(&stack).await.unwrap_or_else(|e| panic!("{when}: {e:?}"));
                is_recovered(&stack, &when).await;
            });
        }
    }
}

fn run_child(test: &str, directory: &Path, at: &str) -> Output {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).stdin(Stdio::null());
    command.env(CHILD, directory).env(AT, at).output().unwrap()
}

fn child(directory: &Path) {
    let at = env::var(AT).unwrap();
    let (out, place) = at.split_once(' ').unwrap();
    let (place, turn) = place.rsplit_once(' ').unwrap();
    let out = if out == "Memory" { Out::Memory } else { Out::Descriptors };
    let (place, turn, passed) = (place.to_owned(), turn.parse::<u32>().unwrap(), AtomicU32::new(0));
    block_on(async {
        let stack = SimStack::open(directory, "state").await.unwrap();
        failpoint::install(move |here| {
            if here == place && passed.fetch_add(1, Ordering::SeqCst) + 1 == turn {
                out.of();
            }
        });
        let result = go_on(&stack).await;
        let failed: Error = result.expect_err("the place was never reached");
        eprintln!("{failed:?}");
    });
    std::process::exit(RUN_FAILED);
}
