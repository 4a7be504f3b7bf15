//! People: who says yes, and what they must never get to see.

use std::{
    fs,
    time::{Duration, Instant},
};

use chom_recovery::{
    ErrorKind,
    catalog::Selector,
    probe::{HealthMode, Status},
    procedure::{database::Extent, maintenance::MaintenanceState},
    recovery::RunOptions,
    run::RunId,
};
use chom_recovery_tests::{
    chaos,
    watch::{Watch, assert_clean},
};

use crate::bench::{Bench, database, request};

#[tokio::test]
async fn a_run_waits_for_approval_and_no_secret_is_ever_seen() {
    let Some(bench) = Bench::open("a_run_waits_for_approval_and_no_secret_is_ever_seen").await else { return };
    let before = bench.fingerprint().await;
    bench.back_up().await;
    bench.sql().await.run("DROP TABLE chom.orders").await;
    let old = bench.recovery.backend().volume_identity(&bench.volume()).await.unwrap();
    let watch = Watch::begin(&bench.stack.project);

    let wanted = request(Selector::Latest, Extent::Recover);
    let mut going = bench.recovery.recover_database(wanted, RunOptions::default()).await.unwrap();
    let run = going.id();
    let mut approved = Vec::new();
    let report = loop {
        match database(going.finish().await) {
            Ok(report) => break report,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NeedsConfirmation, "{error:?}");
                let now = bench.recovery.backend().volume_identity(&bench.volume()).await.unwrap();
                assert_eq!(now, old, "production is as it was while the run waits");
                approved.push(bench.recovery.approve(run, None, "ann").unwrap());
            }
        }
        assert!(approved.len() < 10, "{approved:?}");
        going = bench.recovery.resume(run, RunOptions::default()).await.unwrap();
    };
    assert!(approved.last().is_some_and(|name| name.contains("replace-production-database")), "{approved:?}");
    assert!(report.restored.is_some());
    assert_eq!(bench.fingerprint().await, before);

    let seen = watch.end();
    assert!(!seen.passwords.is_empty(), "the candidate's password was never there to be looked for");
    let secrets: Vec<_> = seen.passwords.iter().cloned().chain(bench.stack.secrets()).collect();
    seen.assert_clean(&secrets);
    for secret in &secrets {
        assert_clean(&bench.run_directory(run), secret);
        assert!(!format!("{report:?}").contains(secret));
    }
    assert!(was_recorded(&bench, run));
}

#[tokio::test]
async fn a_restore_while_somebody_keeps_users_out_leaves_them_out() {
    let Some(bench) = Bench::open("a_restore_while_somebody_keeps_users_out_leaves_them_out").await else { return };
    let before = bench.fingerprint().await;
    bench.back_up().await;
    // By hand, as in the runbook: without `--retry` there is no `Retry-After`.
    chaos::compose(&bench.stack, &["exec", "-T", "--user", "www-data", "app", "php", "/srv/app/artisan", "down"]);
    bench.sql().await.run("DROP TABLE chom.orders").await;

    let report = bench.recover(Extent::Restore).await.unwrap();
    assert_eq!(bench.fingerprint().await, before);
    assert!(report.to_review.iter().any(|line| line.contains("maintenance off")), "{:?}", report.to_review);
    assert_eq!(bench.recovery.maintenance_state().await.unwrap(), MaintenanceState::On);

    let off = bench.recovery.maintenance_off().await.unwrap();
    assert_eq!(off.state, MaintenanceState::Off);
    // A worker that kept ending in maintenance mode is begun again within a minute: so long the Engine waits at most.
    let deadline = Instant::now() + Duration::from_mins(3);
    loop {
        let health = bench.recovery.health(HealthMode::PostRecovery).await;
        if health.overall <= Status::Degraded {
            break;
        }
        assert!(Instant::now() < deadline, "{health:#?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Tells whether the run left a journal and evidence: an empty directory would be clean as well.
fn was_recorded(bench: &Bench, run: RunId) -> bool {
    let directory = bench.run_directory(run);
    directory.join("journal.jsonl").is_file() && fs::read_dir(directory.join("evidence")).unwrap().count() > 0
}
