//! A recovery that is disturbed from outside.

use std::time::{Duration, Instant};

use chom_recovery::{
    ErrorKind,
    catalog::Selector,
    procedure::database::Extent,
    run::{Event, RunId},
};
use chom_recovery_tests::chaos;
use futures::StreamExt;

use crate::bench::{Bench, database, request};

#[tokio::test]
async fn a_candidate_that_dies_while_it_is_loaded_is_built_again() {
    let Some(bench) = Bench::open("a_candidate_that_dies_while_it_is_loaded_is_built_again").await else { return };
    let before = bench.fingerprint().await;
    bench.back_up().await;
    bench.sql().await.run("DROP TABLE chom.orders").await;

    let mut going = bench.start(Extent::Recover).await.unwrap();
    let (run, mut events) = (going.id(), going.events().unwrap());
    let candidate = format!("{}-candidate-{}", bench.stack.project, run.to_string().to_lowercase());
    let mut is_killed = false;
    while let Some(event) = events.next().await {
        if let Event::Progress { step, .. } = event
            && step == "database/restore-beside"
            && !std::mem::replace(&mut is_killed, true)
        {
            chaos::docker(&["kill", "-s", "KILL", &candidate]);
        }
    }

    let report = database(going.finish().await).unwrap();
    assert!(is_killed);
    assert_eq!(attempts(&bench, run, "database/restore-beside"), 2);
    assert!(report.restored.is_some());
    assert_eq!(bench.fingerprint().await, before);
}

#[tokio::test]
async fn a_candidate_that_never_comes_up_is_told_with_its_log_and_leaves_production_alone() {
    let Some(bench) =
        Bench::open("a_candidate_that_never_comes_up_is_told_with_its_log_and_leaves_production_alone").await
    else {
        return;
    };
    bench.back_up().await;
    let before = bench.production().await;
    // Too little for any server: the kernel kills it.
    let cramped = bench.reopen(|s| s.limits.candidate_memory = 16 << 20).await;
    let begun = Instant::now();

    let error = bench.refused(&cramped, request(Selector::Latest, Extent::Restore)).await;

    assert_eq!(error.kind(), ErrorKind::Failed, "{error:?}");
    assert!(error.to_string().contains("candidate"), "{error}");
    assert!(begun.elapsed() < Duration::from_mins(2), "it was noticed after {:?}", begun.elapsed());
    assert_eq!(bench.production().await, before);
}

#[tokio::test]
async fn a_run_that_is_asked_to_stop_does_so_between_two_steps_and_goes_on_later() {
    let Some(bench) = Bench::open("a_run_that_is_asked_to_stop_does_so_between_two_steps_and_goes_on_later").await
    else {
        return;
    };
    let before = bench.fingerprint().await;
    bench.back_up().await;
    bench.sql().await.run("DROP TABLE chom.orders").await;

    let mut going = bench.start(Extent::Recover).await.unwrap();
    let (run, mut events, stop) = (going.id(), going.events().unwrap(), going.cancellation());
    while let Some(event) = events.next().await {
        if matches!(event, Event::StepStarted { step, .. } if step == "database/stop-writers") {
            stop.cancel();
        }
    }
    let error = database(going.finish().await).expect_err("it was stopped");
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:?}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("resume")), "{error:?}");
    assert_eq!(attempts(&bench, run, "database/retire-candidate"), 0);

    let report = bench.resume(run).await.unwrap();
    assert!(report.restored.is_some());
    assert_eq!(attempts(&bench, run, "database/stop-writers"), 1);
    assert_eq!(bench.fingerprint().await, before);
}

/// A deployment that runs `docker compose up -d` starts the writers that the run stopped.
#[tokio::test]
async fn writers_that_somebody_starts_before_the_swap_stop_the_run_before_it_changes_data() {
    let Some(bench) =
        Bench::open("writers_that_somebody_starts_before_the_swap_stop_the_run_before_it_changes_data").await
    else {
        return;
    };
    let before = bench.fingerprint().await;
    bench.back_up().await;
    bench.sql().await.run("DROP TABLE chom.orders").await;
    let old = bench.recovery.backend().volume_identity(&bench.volume()).await.unwrap();
    let writer = format!("{}-app-1", bench.stack.project);

    let mut going = bench.start(Extent::Recover).await.unwrap();
    let (run, mut events) = (going.id(), going.events().unwrap());
    while let Some(event) = events.next().await {
        // While the database stops, so that nothing of it is in use and only the writers tell.
        if matches!(event, Event::StepStarted { step, .. } if step == "database/stop-database") {
            chaos::docker(&["start", &writer]);
        }
    }
    let error = database(going.finish().await).expect_err("a writer runs");
    println!("{error:?}");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains(&writer)), "{error:?}");
    assert_eq!(bench.recovery.backend().volume_identity(&bench.volume()).await.unwrap(), old);

    chaos::docker(&["stop", &writer]);
    assert!(bench.resume(run).await.unwrap().restored.is_some());
    assert_eq!(bench.fingerprint().await, before);
}

fn attempts(bench: &Bench, run: RunId, step: &str) -> u32 {
    let (runs, _) = bench.recovery.runs().unwrap();
    let summary = runs.iter().find(|summary| summary.run == run).expect("the run");
    summary.steps.iter().find(|s| s.step == step).map_or(0, |s| s.attempts)
}
