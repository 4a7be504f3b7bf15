//! A running stack with a repository of its own, and what tests ask of it again and again.

use std::{path::PathBuf, sync::Arc, time::Instant};

use chom_recovery::{
    Error, Recovery, Result, System,
    catalog::{BackupInfo, Encryption, Selector},
    procedure::database::{DatabaseReport, Extent, Request, WantedKind, ops::BackUp},
    recovery::{Going, Report, RunOptions},
    run::{AlwaysYes, RunId},
};
use chom_recovery_tests::{Stack, chaos, sql::Sql};

pub(crate) struct Bench {
    pub(crate) stack: Stack,
    pub(crate) system: System,
    pub(crate) recovery: Recovery,
    pub(crate) folder: tempfile::TempDir,
    test: &'static str,
    begun: Instant,
}

/// Sums up the rows that every test has to find again.
const FINGERPRINT: &str = "SELECT CONCAT_WS(' ', \
    (SELECT CONCAT_WS(',', COUNT(*), SUM(CRC32(CONCAT_WS('|', id, user_id, quantity, unit_price)))) FROM chom.orders), \
    (SELECT CONCAT_WS(',', COUNT(*), SUM(CRC32(CONCAT_WS('|', id, email)))) FROM chom.users))";

impl Bench {
    /// Opens the stack with a repository of its own, mended where a failed test left it broken.
    pub(crate) async fn open(test: &'static str) -> Option<Self> {
        let stack = Stack::open(test)?;
        chaos::mend(&stack);
        let begun = Instant::now();
        let folder = tempfile::tempdir().unwrap();
        let mut system = stack.system(folder.path());
        let made = Recovery::create_repository(&system, Encryption::None).await.unwrap();
        system.repository.signers = vec![made.signer.to_string()];
        let recovery = Recovery::open(system.clone()).await.unwrap();
        Some(Self { stack, system, recovery, folder, test, begun })
    }

    /// Opens the same system with another configuration.
    pub(crate) async fn reopen(&self, change: impl FnOnce(&mut System)) -> Recovery {
        let mut system = self.system.clone();
        change(&mut system);
        Recovery::open(system).await.unwrap()
    }

    pub(crate) async fn back_up(&self) -> BackupInfo {
        let going = self.recovery.back_up(BackUp::default(), RunOptions::default()).await.unwrap();
        match going.finish().await.unwrap() {
            Report::BackUp(info) => *info,
            other => panic!("{other:?}"),
        }
    }

    /// Runs a recovery of the newest backup that everybody says yes to.
    pub(crate) async fn recover(&self, extent: Extent) -> Result<DatabaseReport> {
        database(self.start(extent).await?.finish().await)
    }

    pub(crate) async fn start(&self, extent: Extent) -> Result<Going> {
        self.recovery.recover_database(request(Selector::Latest, extent), yes()).await
    }

    pub(crate) async fn resume(&self, run: RunId) -> Result<DatabaseReport> {
        database(self.recovery.resume(run, yes()).await?.finish().await)
    }

    /// Runs a recovery that has to fail, and gives it up so that another can begin.
    pub(crate) async fn refused(&self, recovery: &Recovery, wanted: Request) -> Error {
        let going = recovery.recover_database(wanted, yes()).await.unwrap();
        let run = going.id();
        let error = going.finish().await.expect_err("the recovery is refused");
        println!("{}: {error} | hint: {}", self.test, error.hint_text().unwrap_or("none"));
        recovery.abandon(run, "the test goes on").await.unwrap();
        error
    }

    pub(crate) async fn sql(&self) -> Sql {
        Sql::open(&self.stack, self.recovery.backend()).await
    }

    pub(crate) async fn fingerprint(&self) -> String {
        self.sql().await.text(FINGERPRINT).await
    }

    /// Tells what must not change while nothing is allowed to be touched: containers, their starts, volumes, maintenance.
    pub(crate) async fn footprint(&self) -> Vec<String> {
        let backend = self.recovery.backend();
        let mut seen: Vec<_> = backend
            .containers()
            .await
            .unwrap()
            .into_iter()
            .map(|c| format!("{} {} {:?} {:?} {:?}", c.name, c.id, c.state, c.started_at, c.restart_policy))
            .collect();
        for volume in backend.volumes().await.unwrap() {
            if volume.name.starts_with(&format!("{}_", self.stack.project)) {
                seen.push(format!("{:?}", backend.volume_identity(&volume.name).await.unwrap()));
            }
        }
        seen.push(self.recovery.maintenance_state().await.unwrap().to_string());
        seen.sort();
        seen
    }

    /// Tells what [`Bench::footprint`] does, without volumes of runs.
    pub(crate) async fn production(&self) -> Vec<String> {
        let mut seen = self.footprint().await;
        seen.retain(|line| !line.contains("__r_"));
        seen
    }

    /// Full name of production's volume.
    pub(crate) fn volume(&self) -> String {
        format!("{}_mysql_data", self.stack.project)
    }

    /// Directory with the journal and evidence of a run.
    pub(crate) fn run_directory(&self, run: RunId) -> PathBuf {
        self.folder.path().join("state/runs").join(run.to_string())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        println!("{}: {:.1} s", self.test, self.begun.elapsed().as_secs_f64());
    }
}

pub(crate) fn request(backup: Selector, extent: Extent) -> Request {
    Request { backup, kind: WantedKind::Auto, extent, incident_began: None }
}

pub(crate) fn database(report: Result<Report>) -> Result<DatabaseReport> {
    match report? {
        Report::RecoverDatabase(report) => Ok(*report),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn yes() -> RunOptions {
    RunOptions { approver: Arc::new(AlwaysYes { by: "test".into() }), ..RunOptions::default() }
}
