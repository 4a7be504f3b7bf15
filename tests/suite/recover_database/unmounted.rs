//! While the repository is out of reach: what needs no backup works, and the rest says what is missing.

use std::fs;

use chom_recovery::{
    ErrorKind, Recovery,
    catalog::Selector,
    procedure::database::{Extent, ops::BackUp},
    recovery::RunOptions,
    run::{Basis, PlanItem},
};

use crate::bench::{Bench, request, yes};

#[tokio::test]
async fn a_rollback_needs_no_repository_and_a_plan_knows_how_long_the_last_recovery_took() {
    let Some(bench) =
        Bench::open("a_rollback_needs_no_repository_and_a_plan_knows_how_long_the_last_recovery_took").await
    else {
        return;
    };
    let before = bench.fingerprint().await;
    bench.back_up().await;
    let mut sql = bench.sql().await;
    sql.run("DROP TABLE chom.orders").await;
    sql.run("CREATE TABLE chom.newer (id INT PRIMARY KEY)").await;
    drop(sql);
    let old = bench.recovery.backend().volume_identity(&bench.volume()).await.unwrap();
    let wanted = request(Selector::Latest, Extent::Recover);
    let first = bench.recovery.plan_database(&wanted).await.unwrap();
    assert!(matches!(basis(&first.items, "restore-beside"), Basis::Computed { bytes } if bytes > 0));
    let going = bench.start(Extent::Recover).await.unwrap();
    let run = going.id();
    going.finish().await.unwrap();

    let (folder, away) = (bench.folder.path().join("backups"), bench.folder.path().join("away"));
    fs::rename(&folder, &away).unwrap();
    // Another process, as somebody would start one who comes to help.
    let recovery = Recovery::open(bench.system.clone()).await.unwrap();
    assert!(recovery.runs().unwrap().0.iter().any(|r| r.run == run));
    let overview = recovery.overview().await.unwrap();
    assert!(overview.backups.error.is_some(), "{overview:?}");
    let undone = recovery.roll_back(run, "the old data is wanted", RunOptions::default()).await.unwrap();
    assert!(undone.iter().any(|step| step.ends_with("swap-volumes")), "{undone:?}");
    assert_eq!(recovery.backend().volume_identity(&bench.volume()).await.unwrap(), old);
    assert_eq!(bench.sql().await.text("SELECT CAST(COUNT(*) AS CHAR) FROM chom.newer").await, "0");

    let runs = recovery.runs().unwrap().0.len();
    for refused in [
        recovery.recover_database(wanted.clone(), yes()).await.unwrap_err(),
        recovery.back_up(BackUp::default(), yes()).await.unwrap_err(),
        recovery.backups().await.unwrap_err(),
    ] {
        assert_eq!(refused.kind(), ErrorKind::NotFound, "{refused}");
        assert!(refused.hint_text().unwrap().contains("mounted"), "{refused:?}");
    }
    assert_eq!(recovery.runs().unwrap().0.len(), runs, "nothing was begun");

    fs::rename(&away, &folder).unwrap();
    // The same process finds it again.
    let second = recovery.plan_database(&wanted).await.unwrap();
    assert_eq!(basis(&second.items, "restore-beside"), Basis::Measured { runs: 1 });
    assert_eq!(second.fits_rto(), Some(true), "{} ms", second.outage_ms.unwrap());
    println!(
        "planned until users are served: {} ms at first, {} ms after a run; of budgets: {} ms, then {} ms",
        first.outage_ms.unwrap(),
        second.outage_ms.unwrap(),
        first.budgeted_ms(),
        second.budgeted_ms()
    );
    bench.recover(Extent::Recover).await.unwrap();
    assert_eq!(bench.fingerprint().await, before);
}

fn basis(items: &[PlanItem], wanted: &str) -> Basis {
    let of = |item: &&PlanItem| matches!(item, PlanItem::Step(step) if step.step.ends_with(wanted));
    items.iter().find(of).and_then(PlanItem::estimate).unwrap_or_else(|| panic!("no estimate of {wanted}")).basis
}
