//! Which kind of backup is taken where none is named: by age, by what goes here, and by what failed.

use chom_recovery::{
    ErrorKind, Recovery,
    catalog::{BackupInfo, Selector},
    procedure::database::{DatabaseReport, Extent, Request, WantedKind},
};
use chom_recovery_tests::chaos;

use crate::{
    bench::{Bench, database, request, yes},
    physical::{back_up, forge, is_mysql},
};

async fn restore(recovery: &Recovery, kind: WantedKind, extent: Extent) -> DatabaseReport {
    let wanted = Request { kind, ..request(Selector::Latest, extent) };
    let going = recovery.recover_database(wanted, yes()).await.unwrap();
    database(going.finish().await).unwrap()
}

/// Tells why `taken` was restored, which it has to be.
fn why(report: DatabaseReport, taken: &BackupInfo) -> String {
    let restored = report.restored.expect("data was replaced");
    println!("{:?}: {}", taken.database_kind, restored.chosen_because);
    assert_eq!(restored.backup.id(), Some(taken.id()), "{}", restored.chosen_because);
    restored.chosen_because
}

#[tokio::test]
async fn the_kind_is_chosen_by_age_and_by_what_goes_here_and_by_what_failed() {
    let name = "the_kind_is_chosen_by_age_and_by_what_goes_here_and_by_what_failed";
    let Some(bench) = Bench::open(name).await else { return };
    let before = bench.fingerprint().await;
    bench.back_up().await;
    let files = back_up(&bench).await;

    // The files are the newest, and nothing speaks against them.
    bench.sql().await.run("DROP DATABASE chom").await;
    let report = restore(&bench.recovery, WantedKind::Auto, Extent::Recover).await;
    let rows = bench.recovery.backup(&Selector::Id(report.new_backup.unwrap().to_string())).await.unwrap();
    assert!(why(report, &files).starts_with("physical, the newest"));
    assert_eq!(bench.fingerprint().await, before);

    // Rows are newer by now: files are quicker, which is no reason to lose anything, unless somebody says so.
    let told = why(restore(&bench.recovery, WantedKind::Auto, Extent::Restore).await, &rows);
    assert!(told.contains("--kind physical") && told.contains(&files.id().to_string()), "{told}");
    assert!(why(restore(&bench.recovery, WantedKind::Physical, Extent::Restore).await, &files).contains("asked for"));
    let wanted =
        Request { kind: WantedKind::Physical, ..request(Selector::Id(rows.id().to_string()), Extent::Restore) };
    assert_eq!(bench.refused(&bench.recovery, wanted).await.kind(), ErrorKind::InvalidInput);
    assert_eq!(bench.fingerprint().await, before);

    // The newest files were written in another way than this server reads them.
    let forged =
        forge(&bench, &files, |facts| drop(facts.variables.insert("lower_case_table_names".into(), "2".into())));
    let forged = forged.await;
    let told = why(restore(&bench.recovery, WantedKind::Auto, Extent::Restore).await, &rows);
    assert!(told.contains("lower_case_table_names was 2") && told.contains(&forged.id().to_string()), "{told}");
    assert_eq!(bench.fingerprint().await, before);

    // Pages of a table are overwritten. A server that serves on calls the table corrupt, which its files may have been for long.
    // Where MySQL ends over it, all that is known is that these pages were sound when they were copied.
    let files = back_up(&bench).await;
    chaos::compose(&bench.stack, &["stop", "mysql"]);
    chaos::overwrite_pages(&bench.stack, &bench.volume(), "chom/orders.ibd");
    chaos::compose(&bench.stack, &["start", "mysql"]);
    // However long this test takes on a busy machine.
    let patient = bench.reopen(|s| s.objectives.database.rpo = std::time::Duration::from_hours(24)).await;
    let report = restore(&patient, WantedKind::Auto, Extent::Recover).await;
    if report.assessment.corrupt_tables.is_empty() {
        assert!(is_mysql(&bench), "{:?}", report.assessment);
        assert!(why(report, &files).starts_with("physical, the newest"));
    } else {
        let told = why(report, &rows);
        assert!(told.contains("tables are corrupt") && told.contains(&files.id().to_string()), "{told}");
    }
    assert_eq!(bench.fingerprint().await, before);
}
