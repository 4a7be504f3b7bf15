//! `recover database` on the real stack. Each test breaks the stack in its own way and leaves it healthy.

use std::sync::Arc;

use chom_recovery::{
    Recovery, System,
    catalog::{Encryption, Selector},
    probe::{HealthMode, Status},
    procedure::database::{DatabaseReport, Extent, Request, ops::BackUp},
    recovery::{Report, RunOptions},
    run::AlwaysYes,
};
use chom_recovery_tests::{Stack, chaos, sql::Sql};

struct Bench {
    stack: Stack,
    recovery: Recovery,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// Opens the stack with a repository of its own.
    async fn open(test: &str) -> Option<Self> {
        let stack = Stack::open(test)?;
        let folder = tempfile::tempdir().unwrap();
        let system = stack.system(folder.path());
        let recovery = with_repository(system).await;
        Some(Self { stack, recovery, _folder: folder })
    }

    async fn back_up(&self) -> chom_recovery::catalog::BackupInfo {
        let going = self.recovery.back_up(BackUp::default(), RunOptions::default()).await.unwrap();
        match going.finish().await.unwrap() {
            Report::BackUp(info) => *info,
            other => panic!("{other:?}"),
        }
    }

    async fn recover(&self, extent: Extent) -> chom_recovery::Result<DatabaseReport> {
        let request = Request { backup: Selector::Latest, extent, incident_began: None };
        match self.recovery.recover_database(request, yes()).await?.finish().await? {
            Report::RecoverDatabase(report) => Ok(*report),
            other => panic!("{other:?}"),
        }
    }

    async fn sql(&self) -> Sql {
        Sql::open(&self.stack, self.recovery.backend()).await
    }
}

async fn with_repository(mut system: System) -> Recovery {
    let made = Recovery::create_repository(&system, Encryption::None).await.unwrap();
    system.repository.signers = vec![made.signer.to_string()];
    Recovery::open(system).await.unwrap()
}

fn yes() -> RunOptions {
    RunOptions { approver: Arc::new(AlwaysYes { by: "test".into() }), ..RunOptions::default() }
}

const FINGERPRINT: &str = "SELECT CONCAT_WS(' ', \
    (SELECT CONCAT_WS(',', COUNT(*), SUM(CRC32(CONCAT_WS('|', id, user_id, quantity, unit_price)))) FROM chom.orders), \
    (SELECT CONCAT_WS(',', COUNT(*), SUM(CRC32(CONCAT_WS('|', id, email)))) FROM chom.users))";

#[tokio::test]
async fn deleted_tablespaces_and_a_killed_server_are_recovered() {
    let Some(bench) = Bench::open("deleted_tablespaces_and_a_killed_server_are_recovered").await else { return };
    let before = bench.sql().await.text(FINGERPRINT).await;
    let backup = bench.back_up().await;

    chaos::delete_tablespaces(&bench.stack);
    chaos::kill(&bench.stack, "mysql");

    let report = bench.recover(Extent::Recover).await.unwrap();
    let restored = report.restored.expect("data was replaced");
    assert_eq!(restored.backup.id(), backup.id());
    assert_eq!(bench.sql().await.text(FINGERPRINT).await, before);
    assert!(report.new_backup.is_some_and(|id| id > backup.id()), "a new backup was taken");
    assert!(report.rto.is_met, "{:?}", report.rto);
    let health = bench.recovery.health(HealthMode::PostRecovery).await;
    assert!(health.overall <= Status::Degraded, "{health:#?}");

    // What production had is still there, under a name that carries the run, and nobody uses it.
    let kept = bench.recovery.backend().volume(&restored.kept.volume).await.unwrap();
    assert!(kept.is_some());
    // An operator's plain `docker compose up -d` finds the restored data.
    chaos::compose(&bench.stack, &["up", "-d", "--wait"]);
    assert_eq!(bench.sql().await.text(FINGERPRINT).await, before);
}
