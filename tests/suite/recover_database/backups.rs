//! A backup that cannot be trusted never gets near production.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chom_recovery::{
    Error, ErrorKind, Recovery,
    catalog::{
        BackupInfo, BackupWriter, ComponentKind, ComponentSpec, DatabaseFacts, Flavour, Selector, Signer,
        logical::PAUSE_NOTE,
    },
    procedure::database::{Extent, ops::BackUp},
    recovery::{Report, RunOptions},
    system::{SystemId, Throttle},
};

use crate::bench::{Bench, database, request, yes};

#[tokio::test]
async fn a_damaged_backup_is_refused_and_the_one_before_it_works() {
    let Some(bench) = Bench::open("a_damaged_backup_is_refused_and_the_one_before_it_works").await else { return };
    let before = bench.fingerprint().await;
    let previous = bench.back_up().await;
    let newest = bench.back_up().await;
    bench.sql().await.run("DROP TABLE chom.orders").await;
    let footprint = bench.footprint().await;

    let part = a_part(&bench, &newest);
    let sound = std::fs::read(&part).unwrap();
    let mut flipped = sound.clone();
    flipped[sound.len() / 2] ^= 1;
    overwrite(&part, &flipped);
    let error = bench.refused(&bench.recovery, request(Selector::Latest, Extent::Restore)).await;
    assert_offers(&error, &previous);
    assert_eq!(bench.footprint().await, footprint, "a flipped bit");

    std::fs::remove_file(&part).unwrap();
    let error = bench.refused(&bench.recovery, request(Selector::Latest, Extent::Restore)).await;
    assert_offers(&error, &previous);
    assert_eq!(bench.footprint().await, footprint, "a missing part");

    let wanted = request(Selector::Id(previous.id().to_string()), Extent::Recover);
    let report = database(bench.recovery.recover_database(wanted, yes()).await.unwrap().finish().await).unwrap();
    assert_eq!(report.restored.expect("data was replaced").backup.id(), Some(previous.id()));
    assert_eq!(bench.fingerprint().await, before);
}

#[tokio::test]
async fn backups_of_another_signer_or_system_are_no_backups_of_this_one() {
    let Some(bench) = Bench::open("backups_of_another_signer_or_system_are_no_backups_of_this_one").await else {
        return;
    };
    let backup = bench.back_up().await;
    let footprint = bench.footprint().await;
    let wanted = request(Selector::Id(backup.id().to_string()), Extent::Restore);

    let stranger = chom_recovery::catalog::Signer::from_seed(&[7; 32]).id().to_string();
    let distrusting = bench.reopen(|s| s.repository.signers = vec![stranger]).await;
    let error = bench.refused(&distrusting, wanted.clone()).await;
    assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Denied), "{error:?}");
    assert!(error.to_string().contains("sign"), "{error}");

    let other = bench.reopen(|s| s.id = SystemId::try_from("shop".to_owned()).unwrap()).await;
    let error = bench.refused(&other, wanted).await;
    assert!(matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound), "{error:?}");
    assert!(error.to_string().contains("chom"), "{error}");

    assert_eq!(bench.footprint().await, footprint);
}

/// F39: a backup of a newer server, signed and whole.
#[tokio::test]
async fn a_backup_of_a_newer_server_is_refused_before_anything_is_touched() {
    let Some(bench) = Bench::open("a_backup_of_a_newer_server_is_refused_before_anything_is_touched").await else {
        return;
    };
    bench.back_up().await;
    for (change, named) in [
        ((|facts| facts.version = "99.1.0".into()) as fn(&mut DatabaseFacts), "99.1"),
        (
            |facts| facts.flavour = if facts.flavour == Flavour::Mysql { Flavour::Mariadb } else { Flavour::Mysql },
            "flavour",
        ),
    ] {
        let forged = forge(&bench, change).await;
        let footprint = bench.footprint().await;
        let wanted = request(Selector::Id(forged.id().to_string()), Extent::Restore);
        let error = bench.refused(&bench.recovery, wanted).await;
        assert!(matches!(error.kind(), ErrorKind::Precondition | ErrorKind::Unsupported), "{named}: {error:?}");
        assert!(error.to_string().contains("server") && error.hint_text().is_some(), "{named}: {error:?}");
        assert_eq!(bench.footprint().await, footprint, "{named}");
    }
}

/// Others who run one short statement after the other, until they are told to stop. Long ones would keep a snapshot of MySQL
/// from being opened at all.
struct Busy {
    stop: Arc<AtomicBool>,
    working: tokio::task::JoinSet<()>,
}

impl Busy {
    async fn begin(bench: &Bench) -> Self {
        let (stop, mut working) = (Arc::new(AtomicBool::new(false)), tokio::task::JoinSet::new());
        for _ in 0..16 {
            let (mut sql, stop) = (bench.sql().await, Arc::clone(&stop));
            working.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    sql.text("SELECT CAST(SLEEP(0.1) AS CHAR)").await;
                }
            });
        }
        Self { stop, working }
    }

    fn stop_after(&self, time: Duration) {
        let stop = Arc::clone(&self.stop);
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            stop.store(true, Ordering::SeqCst);
        });
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        while self.working.join_next().await.is_some() {}
    }
}

/// Milliseconds that the manifest of a backup says the dump paused.
async fn paused(recovery: &Recovery, backup: &BackupInfo) -> u64 {
    let reader = recovery.parts().await.unwrap().catalog.open(&backup.place).await.unwrap();
    let notes = &reader.manifest().facts.notes;
    let note = notes.get(PAUSE_NOTE).expect("a note of the pause");
    note.strip_suffix(" ms").unwrap().parse().unwrap()
}

async fn back_up_with(recovery: &Recovery) -> BackupInfo {
    match recovery.back_up(BackUp::default(), RunOptions::default()).await.unwrap().finish().await.unwrap() {
        Report::BackUp(info) => *info,
        other => panic!("{other:?}"),
    }
}

/// A dump steps back while others are busy, goes on when they are done, and in any case after the longest pause.
#[tokio::test]
async fn a_dump_pauses_while_others_are_busy_and_not_for_ever() {
    let Some(bench) = Bench::open("a_dump_pauses_while_others_are_busy_and_not_for_ever").await else { return };
    // Many tables: readers are held between them.
    let mut sql = bench.sql().await;
    sql.run("DROP DATABASE IF EXISTS busy").await;
    sql.run("CREATE DATABASE busy").await;
    for number in 0..60 {
        sql.run(&format!("CREATE TABLE busy.t{number} (id INT PRIMARY KEY) SELECT 1 AS id")).await;
    }
    let throttle = |longest| Some(Throttle { running: Some(3), lag: None, longest });

    let patient = bench.reopen(|system| system.database.throttle = throttle(Duration::from_mins(2))).await;
    let busy = Busy::begin(&bench).await;
    let begun = Instant::now();
    // Longer than what a backup does before it reads rows.
    busy.stop_after(Duration::from_secs(15));
    let backup = back_up_with(&patient).await;
    assert!(busy.is_over(), "it went on before they were done, after {:?}", begun.elapsed());
    let held = paused(&patient, &backup).await;
    assert!((1_000..60_000).contains(&held), "{held} ms of {:?}", begun.elapsed());
    busy.end().await;

    let hasty = bench.reopen(|system| system.database.throttle = throttle(Duration::from_secs(2))).await;
    let busy = Busy::begin(&bench).await;
    let begun = Instant::now();
    let backup = back_up_with(&hasty).await;
    assert!(!busy.is_over(), "they are busy to the end");
    let held = paused(&hasty, &backup).await;
    assert!((2_000..10_000).contains(&held), "{held} ms of {:?}", begun.elapsed());
    busy.end().await;
    sql.run("DROP DATABASE busy").await;
    // What paused is whole all the same.
    let rows = patient.backup_contents(&Selector::Latest, |_, _| {}).await.unwrap();
    assert_eq!(rows.tables.iter().filter(|t| t.schema == "busy" && t.rows == 1).count(), 60, "{rows:?}");
}

/// Writes the newest backup again, with other facts about its server.
async fn forge(bench: &Bench, change: fn(&mut DatabaseFacts)) -> BackupInfo {
    let parts = bench.recovery.parts().await.unwrap();
    let newest = parts.catalog.select(&Selector::Latest).await.unwrap();
    let reader = parts.catalog.open(&newest.place).await.unwrap();
    let repository = parts.catalog.repository();
    let signer = Signer::load(&bench.system.state_dir(), &bench.system.id).unwrap();
    let mut writer = BackupWriter::begin(repository, &signer, &newest.place.host, &bench.system.id).await.unwrap();
    let component = writer.component(ComponentSpec::new("database", ComponentKind::Logical).unwrap()).unwrap();
    let from = reader.component("database").await.unwrap();
    for part in from.parts() {
        component.put(part.index, part.meta.clone(), from.read_part(part).await.unwrap()).await.unwrap();
    }
    let mut facts = reader.facts().await.unwrap();
    change(facts.database.as_mut().unwrap());
    writer.finish(facts).await.unwrap()
}

fn assert_offers(error: &Error, previous: &BackupInfo) {
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let hint = error.hint_text().expect("a hint");
    assert!(hint.contains(&previous.id().to_string()) && hint.contains("min more"), "{hint}");
}

fn a_part(bench: &Bench, backup: &BackupInfo) -> PathBuf {
    let place = &backup.place;
    let component = &backup.components[0];
    let key = place.part(component, 0).to_string();
    bench.folder.path().join("backups").join(key)
}

/// Backups are read-only for their owner as well.
fn overwrite(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}
