//! Queue and scheduler recovered in the simulated world: killed at every place, undone. No job is lost, none is run twice,
//! and nobody else is touched.

use std::{path::Path, time::Duration};

use chom_recovery::{
    Result, System,
    backend::{Backend, BackendExt},
    procedure::{
        Recovered, backup, drill,
        partial::{RecoverQueue, RecoverScheduler, Request, queue, scheduler},
    },
    run::{NewRun, Run, summary::RunStatus},
    testing::{
        kill::{
            self, Crash, Kills, Promises, assert_killed_at, block_on, done_in_the_end, kill_matrix, newest,
            undone_in_the_end, yes,
        },
        redis,
        stack::{SimStack, Snapshot},
    },
};

const JOBS: [&str; 30] = [
    "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19", "20",
    "21", "22", "23", "24", "25", "26", "27", "28", "29", "30",
];

/// What is recovered, and from what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    QueueStopped,
    QueueHangs,
    SchedulerStopped,
    SchedulerHangs,
}

impl Fault {
    fn service(self) -> &'static str {
        match self {
            Self::QueueStopped | Self::QueueHangs => "queue",
            Self::SchedulerStopped | Self::SchedulerHangs => "scheduler",
        }
    }

    fn hangs(self) -> bool {
        matches!(self, Self::QueueHangs | Self::SchedulerHangs)
    }

    fn new_run(self) -> NewRun {
        let procedure = if self.service() == "queue" { queue::PROCEDURE } else { scheduler::PROCEDURE };
        NewRun::new("shop", procedure, &Request {}).unwrap().supersede([backup::PROCEDURE, drill::PROCEDURE])
    }

    async fn recover(self, run: Run, stack: &SimStack) -> Result<Recovered> {
        match self.service() {
            "queue" => kill::recover(RecoverQueue, run, stack.parts.clone()).await,
            _ => kill::recover(RecoverScheduler, run, stack.parts.clone()).await,
        }
    }
}

async fn open(directory: &Path) -> SimStack {
    let configure = |system: &mut System| {
        system.redis = Some(redis::configured());
        system.partial.queue_heartbeat_key = Some("worker".into());
    };
    SimStack::open_with(directory, "state", configure).await.unwrap()
}

fn begin(directory: &Path, fault: Fault) {
    block_on(async {
        SimStack::create(directory).await.unwrap();
        let stack = open(directory).await;
        stack.redis.change(|state| state.memory.jobs = JOBS.map(str::to_owned).to_vec()).unwrap();
        // Made stopped, so that what stops and what hangs differs from it.
        stack.backend.start("scheduler", Duration::ZERO).await.unwrap();
        if fault.hangs() {
            stack.redis.hang(fault.service()).unwrap();
        } else {
            stack.backend.stop(fault.service(), Duration::ZERO).await.unwrap();
        }
        stack.keep_looks().await.unwrap();
    });
}

/// Every job waits or was taken, once; nobody but the service is touched.
fn always(directory: &Path, crash: &Crash, fault: Fault) {
    block_on(async {
        let stack = open(directory).await;
        let state = stack.redis.state().unwrap();
        assert_eq!([state.taken, state.memory.jobs].concat(), JOBS, "{crash:?}");
        let others = |mut looks: Snapshot| {
            looks.containers.remove(&format!("shop-{}-1", fault.service()));
            looks
        };
        let before = SimStack::looked(directory).unwrap();
        assert_eq!(others(stack.looks().await.unwrap()), others(before), "{crash:?}");
    });
}

fn status(directory: &Path) -> RunStatus {
    newest(&directory.join("state")).unwrap().1.status
}

fn works_in_the_end(test: &str, fault: Fault) {
    let service = fault.service();
    let begin = |directory: &Path| begin(directory, fault);
    let always = |directory: &Path, crash: &Crash| always(directory, crash, fault);
    let work = |directory: &Path| {
        block_on(async {
            let stack = open(directory).await;
            let recover = |run| fault.recover(run, &stack);
            let Some(report) = done_in_the_end(&stack.engine(yes()), fault.new_run(), recover).await.unwrap() else {
                return;
            };
            assert_eq!(report.done.len(), if fault.hangs() { 2 } else { 1 }, "{report:?}");
            let is_told = report.to_review.iter().any(|line| line.contains("report:send"));
            assert_eq!(is_told, service == "scheduler", "what was missed is told: {report:?}");
        });
    };
    let at_end = |directory: &Path| {
        assert_eq!(status(directory), RunStatus::Succeeded);
        always(directory, &Crash { at: 0, place: "the end".into() });
        block_on(async {
            let stack = open(directory).await;
            let state = stack.redis.state().unwrap();
            assert!(state.memory.strings.contains_key(if service == "queue" { "shop_worker" } else { "shop_beat" }));
            assert!(service != "queue" || !state.taken.is_empty(), "{state:?}");
            let worker = stack.parts.backend.service_containers(service).await.unwrap().swap_remove(0);
            assert!(worker.is_ready());
            let before = SimStack::looked(directory).unwrap();
            assert_eq!(worker.restart_policy, before.containers[&worker.name].1);
        });
    };
    let places =
        kill_matrix(test, Kills::Once, &Promises { begin: &begin, work: &work, always: &always, at_end: &at_end });
    assert_killed_at(&places, &["body ended", "before an effect", "after an effect"]);
}

fn is_as_before_in_the_end(test: &str, fault: Fault) {
    let begin = |directory: &Path| begin(directory, fault);
    let always = |directory: &Path, crash: &Crash| always(directory, crash, fault);
    let work = |directory: &Path| {
        block_on(async {
            let stack = open(directory).await;
            undone_in_the_end(&stack.engine(yes()), fault.new_run(), |run| fault.recover(run, &stack)).await.unwrap();
        });
    };
    let as_before = |directory: &Path| {
        assert_eq!(status(directory), RunStatus::RolledBack);
        always(directory, &Crash { at: 0, place: "the end".into() });
        block_on(async {
            assert_eq!(open(directory).await.looks().await.unwrap(), SimStack::looked(directory).unwrap());
        });
    };
    let places =
        kill_matrix(test, Kills::Once, &Promises { begin: &begin, work: &work, always: &always, at_end: &as_before });
    assert_killed_at(&places, &["after undo_intent", "undo ended", "after an effect"]);
}

#[test]
fn a_stopped_queue_whose_recovery_is_killed_anywhere_takes_jobs_in_the_end() {
    works_in_the_end("a_stopped_queue_whose_recovery_is_killed_anywhere_takes_jobs_in_the_end", Fault::QueueStopped);
}

#[test]
fn a_hung_queue_whose_recovery_is_killed_anywhere_takes_jobs_in_the_end() {
    works_in_the_end("a_hung_queue_whose_recovery_is_killed_anywhere_takes_jobs_in_the_end", Fault::QueueHangs);
}

#[test]
fn a_stopped_queue_whose_recovery_is_killed_anywhere_can_be_stopped_again() {
    is_as_before_in_the_end(
        "a_stopped_queue_whose_recovery_is_killed_anywhere_can_be_stopped_again",
        Fault::QueueStopped,
    );
}

#[test]
fn a_hung_queue_whose_recovery_is_killed_anywhere_runs_after_a_rollback() {
    is_as_before_in_the_end("a_hung_queue_whose_recovery_is_killed_anywhere_runs_after_a_rollback", Fault::QueueHangs);
}

#[test]
fn a_hung_scheduler_whose_recovery_is_killed_anywhere_runs_in_the_end() {
    works_in_the_end("a_hung_scheduler_whose_recovery_is_killed_anywhere_runs_in_the_end", Fault::SchedulerHangs);
}

#[test]
fn a_stopped_scheduler_whose_recovery_is_killed_anywhere_can_be_stopped_again() {
    is_as_before_in_the_end(
        "a_stopped_scheduler_whose_recovery_is_killed_anywhere_can_be_stopped_again",
        Fault::SchedulerStopped,
    );
}
