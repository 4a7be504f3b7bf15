//! Which backup a recovery of the database takes where no single one is named, in the simulated world.

use std::{fs, sync::Arc, time::Duration};

use chom_recovery::{
    ErrorKind, Result,
    backend::BackendExt,
    catalog::{BackupInfo, ComponentKind, Selector},
    procedure::database::{
        self, DatabaseReport, Extent, Request, WantedKind,
        ops::{BackUp, DatabaseKind, Production},
    },
    run::{AskLater, NewRun, PlanItem, RunId},
    system::System,
    testing::{
        database::{corrupt, upgrade},
        kill::yes,
        stack::{SimStack, VOLUME},
    },
};

fn request(backup: Selector, kind: WantedKind) -> Request {
    Request { backup, kind, extent: Extent::Recover, incident_began: None }
}

async fn back_up(stack: &SimStack, kind: DatabaseKind) -> BackupInfo {
    let servers = stack.backend.service_containers("mysql").await.unwrap();
    let production = Production::of(&servers[0], "/var/lib/mysql");
    let wanted = BackUp { kind, ..BackUp::default() };
    stack.parts.database.back_up(&production, &wanted, Arc::new(|_, _| {})).await.unwrap()
}

/// A system with a logical backup and then one of `kind`, of which a table is gone since.
async fn system(kind: DatabaseKind, configure: impl FnOnce(&mut System)) -> (tempfile::TempDir, SimStack, BackupInfo) {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    SimStack::create(directory.path()).await.unwrap();
    let stack = SimStack::open_with(directory.path(), "state", configure).await.unwrap();
    let newest = back_up(&stack, kind).await;
    fs::remove_file(stack.backend.volume_folder(VOLUME).join("tables/users")).unwrap();
    (directory, stack, newest)
}

async fn recover(stack: &SimStack, request: &Request) -> (RunId, Result<DatabaseReport>) {
    let run = stack.engine(yes()).start(NewRun::new("shop", database::PROCEDURE, request).unwrap()).await.unwrap();
    (run.id(), run.execute(database::recover(&run, &stack.parts, request)).await)
}

/// Recovers, and tells which kind of backup was taken, and why.
async fn chosen(stack: &SimStack, backup: Selector, kind: WantedKind) -> (BackupInfo, String) {
    let restored = recover(stack, &request(backup, kind)).await.1.unwrap().restored.unwrap();
    let id = restored.backup.id().unwrap().to_string();
    (stack.parts.catalog.select(&Selector::Id(id)).await.unwrap(), restored.chosen_because)
}

#[tokio::test(start_paused = true)]
async fn the_newest_is_taken_of_whichever_kind() {
    for kind in [DatabaseKind::Physical, DatabaseKind::Logical] {
        let (_directory, stack, newest) = system(kind, |_| {}).await;
        let (taken, why) = chosen(&stack, Selector::Latest, WantedKind::Auto).await;
        assert_eq!(taken.id(), newest.id(), "{why}");
        assert!(why.contains("the newest"), "{why}");
        assert!(stack.data(VOLUME).unwrap().has_rows_of(&SimStack::before()));
    }
}

#[tokio::test(start_paused = true)]
async fn files_that_do_not_go_into_this_server_give_way_to_rows() {
    let (_directory, stack, newest) = system(DatabaseKind::Physical, |_| {}).await;
    upgrade(&stack.backend.volume_folder(VOLUME), "11.4.2").unwrap();
    let (taken, why) = chosen(&stack, Selector::Latest, WantedKind::Auto).await;
    assert_eq!(taken.database_kind, Some(ComponentKind::Logical));
    assert!(why.contains("same release series") && why.contains(&newest.id().to_string()), "{why}");
    assert!(stack.data(VOLUME).unwrap().has_rows_of(&SimStack::backed_up()));
}

#[tokio::test(start_paused = true)]
async fn where_neither_kind_goes_here_both_reasons_are_told_and_nothing_is_replaced() {
    let (_directory, stack, _) = system(DatabaseKind::Physical, |_| {}).await;
    let folder = stack.backend.volume_folder(VOLUME);
    upgrade(&folder, "10.6.1").unwrap();
    let before = stack.data(VOLUME).unwrap();
    let error = recover(&stack, &request(Selector::Latest, WantedKind::Auto)).await.1.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    let told = format!("{error} {:?}", error.context());
    assert!(told.matches("the server is older").count() > 1, "{told}");
    assert_eq!(stack.data(VOLUME).unwrap(), before);
}

#[tokio::test(start_paused = true)]
async fn files_that_may_be_corrupt_as_well_give_way_only_where_the_rpo_allows() {
    for (rpo, kind) in [(Duration::from_hours(1), ComponentKind::Logical), (Duration::ZERO, ComponentKind::Physical)] {
        let (_directory, stack, _) = system(DatabaseKind::Physical, |s| s.objectives.database.rpo = rpo).await;
        corrupt(&stack.backend.volume_folder(VOLUME), &["shop.audit_log"]).unwrap();
        let (taken, why) = chosen(&stack, Selector::Latest, WantedKind::Auto).await;
        assert_eq!(taken.database_kind, Some(kind), "{why}");
        assert!(why.contains("1 tables are corrupt"), "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_asked_for_is_taken_and_one_against_a_named_backup_is_refused() {
    let (_directory, stack, files) = system(DatabaseKind::Physical, |_| {}).await;
    let before = stack.snapshot().await.unwrap();
    for (backup, kind, is) in [
        (Selector::Id(files.id().to_string()), WantedKind::Logical, "is physical"),
        (Selector::Legacy("dump.sql".into()), WantedKind::Physical, "is logical"),
    ] {
        let (id, refused) = recover(&stack, &request(backup, kind)).await;
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains(is) && error.hint_text().is_some(), "{error:?}");
        stack.engine(yes()).abandon(id, "the test goes on").await.unwrap();
        assert_eq!(stack.snapshot().await.unwrap(), before, "nothing was touched");
    }
    let (taken, why) = chosen(&stack, Selector::Latest, WantedKind::Logical).await;
    assert_eq!(taken.database_kind, Some(ComponentKind::Logical));
    assert!(why.contains("asked for"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_plan_says_why_and_a_resumed_run_does_not_slide_to_a_newer_backup() {
    let (_directory, stack, files) = system(DatabaseKind::Physical, |_| {}).await;
    let wanted = request(Selector::Latest, WantedKind::Auto);
    let new = NewRun::new("shop", database::PROCEDURE, &wanted).unwrap();
    let engine = stack.engine(yes());
    let plan = engine.plan(&new, |run| {
        let (parts, wanted) = (stack.parts.clone(), wanted.clone());
        async move { database::recover(&run, &parts, &wanted).await }
    });
    let plan = plan.await.unwrap();
    let why = plan.items.iter().find_map(|item| match item {
        PlanItem::Decision { name, value } if name.ends_with("choose-backup") => value["why"].as_str(),
        _ => None,
    });
    assert!(why.is_some_and(|why| why.starts_with("physical, the newest")), "{why:?}");
    let asks = plan.items.iter().any(|i| matches!(i, PlanItem::Approval { ask, .. } if ask.contains("the newest")));
    assert!(asks, "who approves reads it as well");

    // Nobody is there to say yes.
    let wanted = Request { extent: Extent::Restore, ..wanted };
    let new = NewRun::new("shop", database::PROCEDURE, &wanted).unwrap();
    let run = stack.engine(Arc::new(AskLater)).start(new).await.unwrap();
    let stopped = run.execute(database::recover(&run, &stack.parts, &wanted)).await;
    assert_eq!(stopped.unwrap_err().kind(), ErrorKind::NeedsConfirmation);
    let newer = back_up(&stack, DatabaseKind::Logical).await;
    assert!(newer.id() > files.id());
    let id = run.id();
    drop(run);
    let run = stack.engine(yes()).resume(id).await.unwrap();
    let report = run.execute(database::recover(&run, &stack.parts, &wanted)).await.unwrap();
    assert_eq!(report.restored.unwrap().backup.id(), Some(files.id()));
}
