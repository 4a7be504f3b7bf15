//! What is found decides what is done: started, restored, or left alone.

use std::os::unix::fs::PermissionsExt;

use chom_recovery::{
    ErrorKind,
    catalog::Selector,
    probe::{HealthMode, Status},
    procedure::database::{Extent, ops::Finding},
    secret::SecretSource,
};
use chom_recovery_tests::chaos;

use crate::bench::{Bench, request};

#[tokio::test]
async fn deleted_tablespaces_and_a_killed_server_are_recovered() {
    let Some(bench) = Bench::open("deleted_tablespaces_and_a_killed_server_are_recovered").await else { return };
    let before = bench.fingerprint().await;
    let backup = bench.back_up().await;

    chaos::delete_tablespaces(&bench.stack);
    chaos::kill(&bench.stack, "mysql");

    let report = bench.recover(Extent::Recover).await.unwrap();
    let restored = report.restored.expect("data was replaced");
    assert_eq!(restored.backup.id(), Some(backup.id()));
    assert_eq!(bench.fingerprint().await, before);
    assert!(report.new_backup.is_some_and(|id| id > backup.id()), "a new backup was taken");
    assert!(report.rto.is_met, "{:?}", report.rto);
    let health = bench.recovery.health(HealthMode::PostRecovery).await;
    assert!(health.overall <= Status::Degraded, "{health:#?}");

    // What production had is still there, under a name that carries the run, and nobody uses it.
    let kept = bench.recovery.backend().volume(&restored.kept.volume).await.unwrap();
    assert!(kept.is_some());
    // An operator's plain `docker compose up -d` finds the restored data.
    chaos::up(&bench.stack, &[]);
    assert_eq!(bench.fingerprint().await, before);
}

#[tokio::test]
async fn a_server_that_merely_stopped_is_started_and_keeps_what_is_newer_than_the_backup() {
    let Some(bench) =
        Bench::open("a_server_that_merely_stopped_is_started_and_keeps_what_is_newer_than_the_backup").await
    else {
        return;
    };
    bench.back_up().await;
    let mut sql = bench.sql().await;
    sql.run("CREATE TABLE chom.newer (id INT PRIMARY KEY)").await;
    sql.run("INSERT INTO chom.newer VALUES (7)").await;
    let before = bench.fingerprint().await;
    drop(sql);

    chaos::kill(&bench.stack, "mysql");

    let report = bench.recover(Extent::Recover).await.unwrap();
    assert_eq!(report.restored, None);
    assert_eq!(report.rpo, None);
    assert_eq!(report.assessment.finding, Finding::Healthy);
    assert_eq!(bench.fingerprint().await, before);
    let mut sql = bench.sql().await;
    assert_eq!(sql.text("SELECT id FROM chom.newer").await, "7");
    sql.run("DROP TABLE chom.newer").await;
}

#[tokio::test]
async fn a_dropped_schema_is_restored() {
    let Some(bench) = Bench::open("a_dropped_schema_is_restored").await else { return };
    let before = bench.fingerprint().await;
    bench.back_up().await;
    bench.sql().await.run("DROP DATABASE chom").await;

    let report = bench.recover(Extent::Recover).await.unwrap();

    assert_eq!(report.assessment.finding, Finding::DataMissing, "{}", report.assessment.summary);
    assert!(report.restored.is_some());
    assert_eq!(bench.fingerprint().await, before);
}

#[tokio::test]
async fn a_corrupt_tablespace_is_restored() {
    let Some(bench) = Bench::open("a_corrupt_tablespace_is_restored").await else { return };
    let before = bench.fingerprint().await;
    bench.back_up().await;
    chaos::compose(&bench.stack, &["stop", "mysql"]);
    chaos::overwrite_pages(&bench.stack, &bench.volume(), "chom/orders.ibd");
    chaos::compose(&bench.stack, &["start", "mysql"]);

    let report = bench.recover(Extent::Recover).await.unwrap();

    assert_eq!(report.assessment.finding, Finding::Damaged, "{}", report.assessment.summary);
    assert!(report.restored.is_some());
    assert_eq!(bench.fingerprint().await, before);
}

/// The image makes a new, empty database of an emptied volume, and that database answers `SELECT 1`.
#[tokio::test]
async fn an_emptied_volume_that_serves_an_empty_database_is_restored() {
    let Some(bench) = Bench::open("an_emptied_volume_that_serves_an_empty_database_is_restored").await else { return };
    let before = bench.fingerprint().await;
    bench.back_up().await;
    chaos::compose(&bench.stack, &["stop", "mysql"]);
    chaos::in_volume(&bench.stack, &bench.volume(), "find /v -mindepth 1 -delete");
    chaos::compose(&bench.stack, &["up", "-d", "--wait", "mysql"]);
    assert_eq!(bench.sql().await.text("SELECT 1").await, "1");

    let report = bench.recover(Extent::Recover).await.unwrap();

    assert_eq!(report.assessment.finding, Finding::DataMissing, "{}", report.assessment.summary);
    assert!(report.restored.is_some());
    assert_eq!(bench.fingerprint().await, before);
}

#[tokio::test]
async fn refused_credentials_are_no_case_for_a_restore() {
    let Some(bench) = Bench::open("refused_credentials_are_no_case_for_a_restore").await else { return };
    bench.back_up().await;
    let footprint = bench.footprint().await;
    let wrong = bench.folder.path().join("wrong-password");
    std::fs::write(&wrong, "not-the-password").unwrap();
    std::fs::set_permissions(&wrong, std::fs::Permissions::from_mode(0o600)).unwrap();
    let recovery = bench.reopen(|s| s.database.password = SecretSource::File(wrong.clone())).await;

    let error = bench.refused(&recovery, request(Selector::Latest, Extent::Recover)).await;

    assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("database.password")), "{error:?}");
    assert!(!format!("{error:?}").contains("not-the-password"));
    assert_eq!(bench.footprint().await, footprint);
}

#[tokio::test]
async fn healthy_data_is_left_alone_by_recover_and_replaced_by_restore() {
    let Some(bench) = Bench::open("healthy_data_is_left_alone_by_recover_and_replaced_by_restore").await else {
        return;
    };
    let before = bench.fingerprint().await;
    let backup = bench.back_up().await;
    let footprint = bench.footprint().await;

    let error = bench.refused(&bench.recovery, request(Selector::Latest, Extent::Recover)).await;
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("restore")), "{error:?}");
    assert_eq!(bench.footprint().await, footprint);

    bench.sql().await.run("UPDATE chom.orders SET quantity = quantity + 1").await;
    let report = bench.recover(Extent::Restore).await.unwrap();
    assert_eq!(report.assessment.finding, Finding::Healthy);
    assert_eq!(report.restored.expect("data was replaced").backup.id(), Some(backup.id()));
    assert_eq!(bench.fingerprint().await, before);
}
