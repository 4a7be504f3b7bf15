//! Drills with a real server: measured, isolated, and gone afterwards.

use std::{
    env, fs,
    process::{Command, Stdio},
    time::Duration,
};

use chom_recovery::{
    ErrorKind, Recovery, System,
    backend::{Backend, ROLE_LABEL},
    catalog::{Level, Selector},
    procedure::{
        database::WantedKind,
        drill::{DrillReport, Request},
    },
    recovery::{Report, RunOptions},
};

use crate::bench::Bench;

/// Configuration of a child that is going to be killed.
const SYSTEM: &str = "CHOM_TEST_DRILL_SYSTEM";

fn drill(report: chom_recovery::Result<Report>) -> chom_recovery::Result<DrillReport> {
    match report? {
        Report::Drill(report) => Ok(*report),
        other => panic!("{other:?}"),
    }
}

async fn rehearse(bench: &Bench) -> chom_recovery::Result<DrillReport> {
    let request = Request { backup: Selector::Latest, kind: WantedKind::Auto };
    drill(bench.recovery.drill(request, RunOptions::default()).await?.finish().await)
}

/// Everything on the Engine that a drill made.
async fn left(backend: &dyn Backend) -> Vec<String> {
    let containers = backend.own_containers().await.unwrap().into_iter().map(|c| (c.name, c.labels));
    let volumes = backend.volumes().await.unwrap().into_iter().map(|v| (v.name, v.labels));
    let of_drill = containers.chain(volumes).filter(|(_, labels)| labels.get(ROLE_LABEL).is_some_and(|r| r == "drill"));
    of_drill.map(|(name, _)| name).filter(|name| name.starts_with(backend.project())).collect()
}

#[tokio::test]
async fn a_drill_restores_compares_and_leaves_no_trace() {
    let Some(bench) = Bench::open("a_drill_restores_compares_and_leaves_no_trace").await else { return };
    let backup = bench.back_up().await;
    assert_eq!(backup.level, Some(Level::L2));
    let footprint = bench.footprint().await;

    let report = rehearse(&bench).await.unwrap();
    assert_eq!(report.backup.id(), backup.id());
    assert!(report.verified.tables >= 10 && report.verified.rows > 300, "{:?}", report.verified);
    assert!(report.rto.achieved_s > 0.0 && report.rto.is_met, "{:?}", report.rto);
    assert_eq!(bench.recovery.backup(&Selector::Latest).await.unwrap().level, Some(Level::L3));
    assert_eq!(bench.footprint().await, footprint);
    assert_eq!(left(&**bench.recovery.backend()).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_drill_that_is_killed_is_cleaned_up_by_the_next_and_reaches_nobody() {
    if let Ok(system) = env::var(SYSTEM) {
        let system = System::from_json(&fs::read_to_string(system).unwrap()).unwrap();
        let recovery = Recovery::open(system).await.unwrap();
        let going = recovery
            .drill(Request { backup: Selector::Latest, kind: WantedKind::Auto }, RunOptions::default())
            .await
            .unwrap();
        panic!("the drill ended before its death: {:?}", going.finish().await);
    }
    let Some(bench) = Bench::open("a_drill_that_is_killed_is_cleaned_up_by_the_next_and_reaches_nobody").await else {
        return;
    };
    bench.back_up().await;
    let backend = bench.recovery.backend();
    let footprint = bench.footprint().await;

    // Another process, whose death takes nothing back.
    let system = bench.folder.path().join("system.json");
    fs::write(&system, serde_json::to_string(&bench.system).unwrap()).unwrap();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["drill::a_drill_that_is_killed_is_cleaned_up_by_the_next_and_reaches_nobody", "--exact"])
        .env(SYSTEM, &system)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let candidate = tokio::time::timeout(Duration::from_mins(2), async {
        loop {
            let own = backend.own_containers().await.unwrap();
            let running = own.into_iter().find(|c| c.name.contains("-drill-") && c.is_ready());
            if let Some(found) = running {
                break found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the drill builds a candidate");
    let networks = chom_recovery_tests::engine::docker(
        None,
        &["inspect", "-f", "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}", &candidate.name],
    );
    for network in networks.split_whitespace() {
        let inspected = chom_recovery_tests::engine::docker(
            None,
            &["network", "inspect", "-f", "{{.Internal}} {{len .Containers}}", network],
        );
        assert_eq!(inspected.trim(), "true 1", "`{network}` leads nowhere, and nobody else is in it");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!left(&**backend).await.is_empty(), "it was killed in the middle");

    rehearse(&bench).await.unwrap();
    assert_eq!(left(&**backend).await, Vec::<String>::new());
    assert_eq!(bench.footprint().await, footprint);
}

#[tokio::test]
async fn a_drill_with_a_damaged_backup_fails_before_anything_is_built() {
    let Some(bench) = Bench::open("a_drill_with_a_damaged_backup_fails_before_anything_is_built").await else { return };
    let backup = bench.back_up().await;
    let part = bench.folder.path().join("backups").join(backup.place.part(&backup.components[0], 0).to_string());
    fs::remove_file(&part).unwrap();
    let footprint = bench.footprint().await;
    assert_eq!(rehearse(&bench).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(bench.footprint().await, footprint);
    assert_eq!(left(&**bench.recovery.backend()).await, Vec::<String>::new());
}
