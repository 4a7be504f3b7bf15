//! Dumps that a script made are restored as carefully as our own backups.

use chom_recovery::{
    ErrorKind, Recovery,
    catalog::Selector,
    procedure::database::{Extent, Origin, ops::Finding},
    secret::SecretSource,
    system::{LegacyAccount, System},
};
use chom_recovery_tests::{chaos, dumps::Dumps};

use crate::bench::{Bench, database, request, yes};

async fn open(dumps: &Dumps, bench: &Bench, change: impl FnOnce(&mut System)) -> Recovery {
    let settings = dumps.settings();
    bench
        .reopen(|system| {
            system.legacy = Some(settings);
            change(system);
        })
        .await
}

const ONE_SCHEMA: &str = "--single-transaction --routines --triggers --events chom";

#[tokio::test]
async fn a_dump_of_one_schema_takes_the_place_of_a_dropped_one() {
    let Some(bench) = Bench::open("a_dump_of_one_schema_takes_the_place_of_a_dropped_one").await else { return };
    let before = bench.fingerprint().await;
    let dumps = Dumps::new(bench.folder.path());
    let name = dumps.dump(&bench.stack, ONE_SCHEMA);
    let recovery = open(&dumps, &bench, |_| {}).await;
    assert!(recovery.verify_legacy(&name, |_, _| {}).await.unwrap().passed());
    bench.back_up().await;
    bench.sql().await.run("DROP DATABASE chom").await;

    let wanted = request(Selector::Legacy("latest".into()), Extent::Recover);
    let plan = recovery.plan_database(&wanted).await.unwrap();
    let plan = format!("{:?}", plan.items);
    assert!(plan.contains("; a legacy backup: ") && plan.contains("it holds 10 tables"), "{plan}");
    let report = database(recovery.recover_database(wanted, yes()).await.unwrap().finish().await).unwrap();

    assert_eq!(report.assessment.finding, Finding::DataMissing, "{}", report.assessment.summary);
    let restored = report.restored.expect("data was replaced");
    let Origin::Legacy(backup) = &restored.backup else { panic!("{:?}", restored.backup) };
    assert_eq!(backup.legacy, name);
    assert_eq!(bench.fingerprint().await, before);
    assert!(restored.verified.rows > 1_000 && restored.verified.tables > 5, "{:?}", restored.verified);
    let rpo = report.rpo.expect("data was replaced");
    assert!(rpo.achieved_s > 0.0 && rpo.achieved_s < 3_600.0, "{rpo:?}");
    assert!(
        report.to_review.iter().any(|line| line.contains("accounts come from production")),
        "{:?}",
        report.to_review
    );

    // What production had is one rollback away.
    let run = recovery.runs().unwrap().0.last().unwrap().run;
    println!("restored {} and took {:?}; run {run}", restored.backup.name(), report.new_backup);
}

#[tokio::test]
async fn a_dump_that_is_not_whole_or_not_enough_never_gets_near_production() {
    let Some(bench) = Bench::open("a_dump_that_is_not_whole_or_not_enough_never_gets_near_production").await else {
        return;
    };
    let dumps = Dumps::new(bench.folder.path());
    let whole = dumps.dump(&bench.stack, ONE_SCHEMA);
    let cut = "mysql/backup-20990101-000000.sql.gz";
    // As `gzip` closes what a killed `mysqldump` left: framing is good, the dump is not.
    let text = dumps.text(&whole);
    dumps.write(cut, &text[..text.len() / 2]);
    let recovery = open(&dumps, &bench, |_| {}).await;
    let footprint = bench.footprint().await;

    let error = bench.refused(&recovery, request(Selector::Legacy("latest".into()), Extent::Restore)).await;
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains(&whole)), "{error:?}");
    assert_eq!(bench.footprint().await, footprint);

    let mut sql = bench.sql().await;
    sql.run("CREATE DATABASE other").await;
    sql.run("CREATE TABLE other.t (id INT PRIMARY KEY)").await;
    let error = bench.refused(&recovery, request(Selector::Legacy(whole), Extent::Restore)).await;
    sql.run("DROP DATABASE other").await;
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
    assert!(error.to_string().contains("other"), "{error}");
    assert_eq!(bench.footprint().await, footprint);
}

/// Production is gone, and there is no backup of ours: the dump and the configuration are all there is.
#[tokio::test]
async fn a_dump_alone_brings_a_dead_server_back() {
    let Some(bench) = Bench::open("a_dump_alone_brings_a_dead_server_back").await else { return };
    let before = bench.fingerprint().await;
    let dumps = Dumps::new(bench.folder.path());
    let name = dumps.dump(&bench.stack, &format!("--databases {ONE_SCHEMA}"));
    chaos::delete_tablespaces(&bench.stack);
    chaos::kill(&bench.stack, "mysql");

    let nobody = open(&dumps, &bench, |_| {}).await;
    let wanted = request(Selector::Legacy(name), Extent::Restore);
    let error = bench.refused(&nobody, wanted.clone()).await;
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("legacy.accounts")), "{error:?}");

    let password = SecretSource::File(bench.stack.db_app_password_file.clone());
    let account = LegacyAccount { user: "chom".into(), host: "%".into(), password, schemas: vec!["chom".into()] };
    let recovery = open(&dumps, &bench, |system| system.legacy.as_mut().unwrap().accounts = vec![account]).await;
    let report = database(recovery.recover_database(wanted, yes()).await.unwrap().finish().await).unwrap();
    assert!(matches!(report.restored.unwrap().backup, Origin::Legacy(_)));
    assert_eq!(bench.fingerprint().await, before);
}
