//! A backup that cannot be trusted never gets near production.

use std::path::{Path, PathBuf};

use chom_recovery::{
    Error, ErrorKind,
    catalog::{BackupInfo, BackupWriter, ComponentKind, ComponentSpec, DatabaseFacts, Flavour, Selector, Signer},
    procedure::database::Extent,
    system::SystemId,
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
