//! Dumps that a script made are restored as carefully as our own backups.

use std::{io::Write, path::PathBuf};

use chom_recovery::{
    ErrorKind, Recovery,
    catalog::Selector,
    procedure::database::{Extent, Origin, ops::Finding},
    secret::SecretSource,
    system::{Legacy, LegacyAccount, System},
};
use chom_recovery_tests::chaos;
use chrono::Utc;

use crate::bench::{Bench, database, request, yes};

/// The runbook's directory, filled by the server's own program.
struct Scripts {
    directory: PathBuf,
}

impl Scripts {
    fn new(bench: &Bench) -> Self {
        let directory = bench.folder.path().join("legacy");
        std::fs::create_dir_all(directory.join("mysql/incremental")).unwrap();
        Self { directory }
    }

    fn settings(&self) -> Legacy {
        Legacy {
            directory: self.directory.clone(),
            timezone: "UTC".into(),
            schema: None,
            longest_statement: 64 << 20,
            accounts: Vec::new(),
        }
    }

    async fn open(&self, bench: &Bench, change: impl FnOnce(&mut System)) -> Recovery {
        let settings = self.settings();
        bench
            .reopen(|system| {
                system.legacy = Some(settings);
                change(system);
            })
            .await
    }

    /// Dumps as the runbook's script does. Returns the file's path below the directory.
    fn dump(&self, bench: &Bench, arguments: &str) -> String {
        let tool = if bench.stack.db == "mysql" { "mysqldump" } else { "mariadb-dump" };
        let password = std::fs::read_to_string(&bench.stack.db_root_password_file).unwrap();
        let script = format!("MYSQL_PWD='{}' {tool} -uroot {arguments}", password.trim_end());
        let output = chaos::shell(&bench.stack, "mysql", &script);
        let name = format!("mysql/backup-{}.sql.gz", Utc::now().format("%Y%m%d-%H%M%S"));
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&output.stdout).unwrap();
        std::fs::write(self.directory.join(&name), encoder.finish().unwrap()).unwrap();
        name
    }
}

const ONE_SCHEMA: &str = "--single-transaction --routines --triggers --events chom";

#[tokio::test]
async fn a_dump_of_one_schema_takes_the_place_of_a_dropped_one() {
    let Some(bench) = Bench::open("a_dump_of_one_schema_takes_the_place_of_a_dropped_one").await else { return };
    let before = bench.fingerprint().await;
    let scripts = Scripts::new(&bench);
    let name = scripts.dump(&bench, ONE_SCHEMA);
    let recovery = scripts.open(&bench, |_| {}).await;
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
    let scripts = Scripts::new(&bench);
    let whole = scripts.dump(&bench, ONE_SCHEMA);
    let cut = "mysql/backup-20990101-000000.sql.gz";
    // As `gzip` closes what a killed `mysqldump` left: framing is good, the dump is not.
    let mut text = Vec::new();
    let file = std::fs::File::open(scripts.directory.join(&whole)).unwrap();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(file), &mut text).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&text[..text.len() / 2]).unwrap();
    std::fs::write(scripts.directory.join(cut), encoder.finish().unwrap()).unwrap();
    let recovery = scripts.open(&bench, |_| {}).await;
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
    let scripts = Scripts::new(&bench);
    let name = scripts.dump(&bench, &format!("--databases {ONE_SCHEMA}"));
    chaos::delete_tablespaces(&bench.stack);
    chaos::kill(&bench.stack, "mysql");

    let nobody = scripts.open(&bench, |_| {}).await;
    let wanted = request(Selector::Legacy(name), Extent::Restore);
    let error = bench.refused(&nobody, wanted.clone()).await;
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("legacy.accounts")), "{error:?}");

    let password = SecretSource::File(bench.stack.db_app_password_file.clone());
    let account = LegacyAccount { user: "chom".into(), host: "%".into(), password, schemas: vec!["chom".into()] };
    let recovery = scripts.open(&bench, |system| system.legacy.as_mut().unwrap().accounts = vec![account]).await;
    let report = database(recovery.recover_database(wanted, yes()).await.unwrap().finish().await).unwrap();
    assert!(matches!(report.restored.unwrap().backup, Origin::Legacy(_)));
    assert_eq!(bench.fingerprint().await, before);
}
