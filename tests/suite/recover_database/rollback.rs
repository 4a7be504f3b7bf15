//! Undoing a recovery that succeeded, and what is left of it.

use std::time::{Duration, Instant};

use chom_recovery::{procedure::database::Extent, recovery::RunOptions};
use chom_recovery_tests::chaos;

use crate::bench::{Bench, database};

/// Longest time for putting the old data back, apart from stopping and starting services.
const UNDO: Duration = Duration::from_mins(2);

#[tokio::test]
async fn a_rollback_brings_old_data_and_held_jobs_back_and_only_prune_removes_volumes() {
    let Some(bench) = Bench::open("a_rollback_brings_old_data_and_held_jobs_back_and_only_prune_removes_volumes").await
    else {
        return;
    };
    let before = bench.fingerprint().await;
    bench.back_up().await;

    // After the backup: a row, ids that are handed out and lost, queued jobs. Then the accident.
    let mut sql = bench.sql().await;
    sql.run("INSERT INTO chom.audit_log (action, subject) VALUES ('test.newer', 'row')").await;
    let newer: u64 = sql.text("SELECT CAST(MAX(id) AS CHAR) FROM chom.audit_log").await.parse().unwrap();
    let lost: u64 = sql.text("SELECT CAST(MAX(id) AS CHAR) FROM chom.orders").await.parse().unwrap();
    chaos::compose(&bench.stack, &["stop", "queue"]);
    let queue = format!("{}queues:default", bench.stack.redis_prefix);
    for job in ["first", "second"] {
        chaos::redis(&bench.stack, &["RPUSH", &queue, job]);
    }
    chaos::redis(&bench.stack, &["ZADD", &format!("{queue}:delayed"), "99999999999", "later"]);
    sql.run("DROP TABLE chom.orders").await;
    drop(sql);
    let old = bench.recovery.backend().volume_identity(&bench.volume()).await.unwrap();

    let going = bench.start(Extent::Recover).await.unwrap();
    let run = going.id();
    let report = database(going.finish().await).unwrap();
    let restored = report.restored.expect("data was replaced");
    assert_eq!(bench.fingerprint().await, before);
    assert_eq!(restored.held.count(), 3);
    assert_eq!(chaos::redis(&bench.stack, &["LRANGE", &queue, "0", "-1"]), "");
    assert!(report.to_review.iter().any(|line| line.contains("queued jobs")), "{:?}", report.to_review);

    // Ids that were handed out are not handed out again, where the counter could be read and where it could not.
    let mut sql = bench.sql().await;
    sql.run("INSERT INTO chom.audit_log (action, subject) VALUES ('test.after', 'row')").await;
    let after: u64 = sql.text("SELECT CAST(MAX(id) AS CHAR) FROM chom.audit_log").await.parse().unwrap();
    assert!(after > newer, "{after} was handed out before the incident, up to {newer}");
    let counter = restored.raised.iter().find(|raised| raised.table == "chom.orders").expect("a gap");
    assert!(counter.to >= lost + bench.system.database.id_gap, "{counter:?}");
    drop(sql);

    // The old data is kept under a name that carries the run, and is not offered for removal too early.
    assert!(restored.kept.volume.contains(&run.to_string()), "{}", restored.kept.volume);
    let early = bench.recovery.leftovers(Duration::from_hours(24)).await.unwrap();
    assert!(early.volumes.is_empty() && early.kept.iter().any(|k| k.what.contains(&restored.kept.volume)), "{early:?}");

    let begun = Instant::now();
    let undone = bench.recovery.roll_back(run, "the old data is wanted", RunOptions::default()).await.unwrap();
    println!("rolled back {} steps in {:.1} s", undone.len(), begun.elapsed().as_secs_f64());
    assert!(begun.elapsed() < UNDO, "{:?}", begun.elapsed());
    assert!(undone.iter().any(|step| step.ends_with("swap-volumes")), "{undone:?}");
    assert_eq!(bench.recovery.backend().volume_identity(&bench.volume()).await.unwrap(), old);
    assert_eq!(chaos::redis(&bench.stack, &["LRANGE", &queue, "0", "-1"]), "first\nsecond");
    assert_eq!(chaos::redis(&bench.stack, &["ZCARD", &format!("{queue}:delayed")]), "1");

    // The worker was stopped before and is now; the jobs are the test's own.
    chaos::redis(&bench.stack, &["DEL", &queue, &format!("{queue}:delayed")]);
    chaos::compose(&bench.stack, &["up", "-d", "--wait", "mysql", "app", "nginx"]);
    let mut sql = bench.sql().await;
    assert_eq!(sql.text(&format!("SELECT action FROM chom.audit_log WHERE id = {newer}")).await, "test.newer");
    assert_eq!(sql.text("SELECT CAST(COUNT(*) AS CHAR) FROM chom.audit_log WHERE action = 'test.after'").await, "0");
    drop(sql);

    // A second recovery after the first: it has volumes of its own.
    let again = bench.recover(Extent::Recover).await.unwrap().restored.expect("data was replaced");
    assert_ne!(again.kept.volume, restored.kept.volume);
    assert_eq!(bench.fingerprint().await, before);

    let left = bench.recovery.leftovers(Duration::ZERO).await.unwrap();
    let volumes: Vec<_> = left.volumes.iter().map(|v| v.volume.as_str()).collect();
    assert!(volumes.contains(&again.kept.volume.as_str()), "{left:?}");
    let pruned = bench.recovery.prune(&left).await.unwrap();
    assert_eq!(pruned.volumes.len(), left.volumes.len(), "{pruned:?}");
    for volume in &left.volumes {
        assert!(bench.recovery.backend().volume(&volume.volume).await.unwrap().is_none());
    }
    assert_eq!(bench.fingerprint().await, before);
}
