//! Redis recovered in the simulated world: killed at every place, undone. What it has written to its disk is never lost, and
//! what it holds only where somebody has approved that.

use std::{path::Path, time::Duration};

use chom_recovery::{
    ErrorKind, Result, System,
    backend::{Backend, BackendExt, Container},
    procedure::{
        Recovered, backup, drill,
        partial::{
            RecoverRedis,
            redis::{PROCEDURE, Request},
        },
    },
    run::{AskLater, NewRun, Run, summary::RunStatus},
    testing::{
        kill::{
            self, Crash, Kills, Promises, assert_killed_at, block_on, done_in_the_end, kill_matrix, newest,
            undone_in_the_end, yes,
        },
        redis::{self, State},
        stack::{SimStack, Snapshot},
        tree::tree,
    },
};

/// What is recovered, and from what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    NotRunning,
    Silent,
    Replica,
    CannotSave,
    /// None: somebody wants it to be started anew.
    ToRestart,
}

fn new_run(fault: Fault) -> NewRun {
    let request = Request { restart: fault == Fault::ToRestart };
    NewRun::new("shop", PROCEDURE, &request).unwrap().supersede([backup::PROCEDURE, drill::PROCEDURE])
}

async fn recover(run: Run, stack: &SimStack) -> Result<Recovered> {
    kill::recover(RecoverRedis, run, stack.parts.clone()).await
}

async fn open(directory: &Path) -> SimStack {
    let configure = |system: &mut System| system.redis = Some(redis::configured());
    SimStack::open_with(directory, "state", configure).await.unwrap()
}

fn source() -> (String, u16) {
    ("10.0.0.9".into(), 6379)
}

fn begin(directory: &Path, fault: Fault) {
    block_on(async {
        SimStack::create(directory).await.unwrap();
        let stack = open(directory).await;
        // Nobody else writes meanwhile.
        stack.backend.stop("queue", Duration::ZERO).await.unwrap();
        let change = |state: &mut State| {
            state.snapshot.strings = tree(&[("shop_session", "ada")]);
            state.memory.strings = tree(&[("shop_session", "ada"), ("shop_since", "not saved yet")]);
            state.memory.jobs = vec!["job 1".into(), "job 2".into()];
            state.cannot_save = fault == Fault::CannotSave;
            state.source = (fault == Fault::Replica).then(source);
        };
        stack.redis.change(change).unwrap();
        match fault {
            Fault::Silent => stack.redis.hang("redis").unwrap(),
            Fault::NotRunning => drop(stack.backend.stop("redis", Duration::ZERO).await.unwrap()),
            Fault::Replica | Fault::CannotSave | Fault::ToRestart => {}
        }
        keep(directory, &stack).await;
    });
}

/// Keeps how redis and its container were, beside how everything looks.
async fn keep(directory: &Path, stack: &SimStack) {
    stack.keep_looks().await.unwrap();
    let was = (stack.redis.state().unwrap(), container(stack).await);
    std::fs::write(directory.join("was"), serde_json::to_vec(&was).unwrap()).unwrap();
}

fn was(directory: &Path) -> (State, Container) {
    serde_json::from_slice(&std::fs::read(directory.join("was")).unwrap()).unwrap()
}

async fn container(stack: &SimStack) -> Container {
    stack.parts.backend.service_containers("redis").await.unwrap().swap_remove(0)
}

/// Without the key that is written and removed as a proof.
fn without_proof(mut state: State) -> State {
    for data in [&mut state.memory, &mut state.snapshot] {
        data.strings.retain(|key, _| !key.contains("chom-recovery"));
    }
    state
}

/// Nobody else is touched, what is on the disk stays, and what is not there is lost only where that was approved.
fn always(directory: &Path, crash: &Crash, fault: Fault) {
    block_on(async {
        let stack = open(directory).await;
        let (now, (then, before)) = (without_proof(stack.redis.state().unwrap()), was(directory));
        assert!(now.snapshot == then.snapshot || now.snapshot == then.memory, "{crash:?}: {now:?}");
        let may_be_lost = matches!(fault, Fault::Silent | Fault::NotRunning);
        assert!(now.memory == then.memory || (may_be_lost && now.memory == then.snapshot), "{crash:?}: {now:?}");
        if matches!(fault, Fault::Replica | Fault::CannotSave) {
            assert_eq!(container(&stack).await, before, "{crash:?}: it is never started anew");
        }
        let others = |mut looks: Snapshot| {
            looks.containers.remove("shop-redis-1");
            looks
        };
        assert_eq!(others(stack.looks().await.unwrap()), others(SimStack::looked(directory).unwrap()), "{crash:?}");
    });
}

fn status(directory: &Path) -> RunStatus {
    newest(&directory.join("state")).unwrap().1.status
}

fn works_in_the_end(test: &str, fault: Fault) -> Vec<String> {
    let begin = |directory: &Path| begin(directory, fault);
    let always = |directory: &Path, crash: &Crash| always(directory, crash, fault);
    let work = |directory: &Path| {
        block_on(async {
            let stack = open(directory).await;
            done_in_the_end(&stack.engine(yes()), new_run(fault), |run| recover(run, &stack)).await.unwrap();
        });
    };
    let at_end = |directory: &Path| {
        assert_eq!(status(directory), RunStatus::Succeeded);
        always(directory, &Crash { at: 0, place: "the end".into() });
        block_on(async {
            let stack = open(directory).await;
            let (now, redis) = (stack.redis.state().unwrap(), container(&stack).await);
            assert!(redis.is_ready() && now.source.is_none() && !now.cannot_save, "{redis:?} {now:?}");
            assert_eq!(without_proof(now.clone()), now, "the proof is gone");
            let (then, before) = was(directory);
            if matches!(fault, Fault::ToRestart | Fault::CannotSave) {
                assert_eq!((&now.memory, &now.snapshot), (&then.memory, &then.memory), "all of it is kept");
            }
            assert_eq!(redis.restart_policy, before.restart_policy);
            let is_anew = redis.started_at != before.started_at;
            assert_eq!(is_anew, !matches!(fault, Fault::Replica | Fault::CannotSave));
        });
    };
    kill_matrix(test, Kills::Once, &Promises { begin: &begin, work: &work, always: &always, at_end: &at_end })
}

fn is_as_before_in_the_end(test: &str, fault: Fault) {
    let begin = |directory: &Path| begin(directory, fault);
    let always = |directory: &Path, crash: &Crash| always(directory, crash, fault);
    let work = |directory: &Path| {
        block_on(async {
            let stack = open(directory).await;
            undone_in_the_end(&stack.engine(yes()), new_run(fault), |run| recover(run, &stack)).await.unwrap();
        });
    };
    let as_before = |directory: &Path| {
        assert_eq!(status(directory), RunStatus::RolledBack);
        always(directory, &Crash { at: 0, place: "the end".into() });
        block_on(async {
            let stack = open(directory).await;
            assert_eq!(stack.looks().await.unwrap(), SimStack::looked(directory).unwrap());
            assert_eq!(stack.redis.state().unwrap().source, was(directory).0.source);
        });
    };
    let places =
        kill_matrix(test, Kills::Once, &Promises { begin: &begin, work: &work, always: &always, at_end: &as_before });
    assert_killed_at(&places, &["after undo_intent", "undo ended"]);
}

#[test]
fn a_redis_that_is_stopped_and_whose_recovery_is_killed_anywhere_runs_in_the_end() {
    let places = works_in_the_end(
        "a_redis_that_is_stopped_and_whose_recovery_is_killed_anywhere_runs_in_the_end",
        Fault::NotRunning,
    );
    assert_killed_at(&places, &["body ended", "after an effect", "before SET", "after DEL"]);
}

#[test]
fn a_redis_that_is_stopped_and_whose_recovery_is_killed_anywhere_can_be_stopped_again() {
    is_as_before_in_the_end(
        "a_redis_that_is_stopped_and_whose_recovery_is_killed_anywhere_can_be_stopped_again",
        Fault::NotRunning,
    );
}

#[test]
fn a_redis_that_is_silent_and_whose_restart_is_killed_anywhere_has_what_it_saved_in_the_end() {
    let places = works_in_the_end(
        "a_redis_that_is_silent_and_whose_restart_is_killed_anywhere_has_what_it_saved_in_the_end",
        Fault::Silent,
    );
    assert_killed_at(&places, &["body ended", "before an effect", "after an effect"]);
}

#[test]
fn a_replica_whose_recovery_is_killed_anywhere_takes_writes_in_the_end() {
    let places =
        works_in_the_end("a_replica_whose_recovery_is_killed_anywhere_takes_writes_in_the_end", Fault::Replica);
    assert_killed_at(&places, &["before REPLICAOF", "after REPLICAOF", "body ended"]);
}

#[test]
fn a_replica_whose_recovery_is_killed_anywhere_can_be_made_one_again() {
    is_as_before_in_the_end("a_replica_whose_recovery_is_killed_anywhere_can_be_made_one_again", Fault::Replica);
}

#[test]
fn a_redis_that_could_not_save_and_whose_recovery_is_killed_anywhere_has_saved_all_in_the_end() {
    let places = works_in_the_end(
        "a_redis_that_could_not_save_and_whose_recovery_is_killed_anywhere_has_saved_all_in_the_end",
        Fault::CannotSave,
    );
    assert_killed_at(&places, &["before BGSAVE", "after BGSAVE"]);
}

#[test]
fn a_redis_that_works_loses_nothing_by_a_restart_that_is_killed_anywhere() {
    let places =
        works_in_the_end("a_redis_that_works_loses_nothing_by_a_restart_that_is_killed_anywhere", Fault::ToRestart);
    assert_killed_at(&places, &["after BGSAVE", "before an effect", "after an effect"]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_redis_is_not_stopped_until_somebody_has_approved_what_it_may_lose() {
    let directory = tempfile::tempdir().unwrap();
    SimStack::create(directory.path()).await.unwrap();
    let stack = open(directory.path()).await;
    stack.redis.hang("redis").unwrap();
    let (run, before) = (
        stack.engine(std::sync::Arc::new(AskLater)).start(new_run(Fault::Silent)).await.unwrap(),
        container(&stack).await,
    );
    let waits = run.execute(recover(run.clone(), &stack)).await.unwrap_err();
    assert_eq!(waits.kind(), ErrorKind::NeedsConfirmation, "{waits}");
    assert_eq!(container(&stack).await, before);
}
