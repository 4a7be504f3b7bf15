//! The way in: one protected system, with everything that can be done to it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    backend::{
        Backend,
        docker::{DockerBackend, DockerOptions},
    },
    catalog::{
        self, BackedUpRows, BackupInfo, BackupProbe, Catalog, Encryption, Initialized, Level, Listing, PrunePlan,
        PruneReport, Repository, RowsProbe, Selector, Signer, VerifyReport, verify,
    },
    error::{Error, ErrorKind, Result},
    probe::{HealthMode, HealthReport, run_suite, silent, suite_against},
    procedure::{
        Parts, Recovered,
        application_ops::StackApplication,
        backup,
        close::Closed,
        database::{self, DatabaseReport, Request, mysql_ops::MySqlOps, ops::BackUp},
        drill::{self, DrillReport},
        files::{self as files_procedure, FilesReport},
        lock::EngineLock,
        salvage::{self, SalvageReport},
    },
    report::{ACHIEVED, Unresolved, unresolved},
    run::{
        Approver, AskLater, Engine, EventStream, NewRun, Plan, Resolution, Run, RunId, Waiver, Word,
        summary::{self, RunSummary},
    },
    store::{self, BackupStore},
    system::{DATABASE, System},
    triage::{Choice, Diagnosis, diagnose},
};

mod checking;
mod choosing;
mod closing;
mod copying;
mod exporting;
mod files;
mod gathering;
mod keeping;
mod kept_schemas;
mod latency;
mod leftovers;
mod legacy;
mod metrics;
mod overview;
mod recovering;
mod troubleshooting;
mod upkeep;

pub(crate) use choosing::recorded as recorded_choice;
use recovering::Procedures;

pub use closing::Unclosed;
pub use copying::{CopiedBackup, CopyReport, CopyStatus, NotCopied};
pub use exporting::{BackupContents, TableInBackup};
pub use files::RestoredTree;
pub use gathering::{Evidence, EvidenceRequest};
pub use kept_schemas::LeftoverSchema;
pub use leftovers::{Kept, LeftoverContainer, LeftoverFolder, LeftoverVolume, Leftovers, Pruned};
pub use overview::{BackupStatus, NextStep, OpenRun, Overview, UnreadableRun, WarmCopy};
pub use upkeep::MaintenanceSwitch;

/// One protected system. Cheap to clone.
///
/// # Examples
/// ```no_run
/// use chom_recovery::{Recovery, System, catalog::Selector, recovery::RunOptions};
/// use chom_recovery::procedure::database::{Extent, Request, WantedKind};
///
/// # async fn example() -> chom_recovery::Result<()> {
/// let recovery = Recovery::open(System::load("chom-recovery.toml".as_ref())?).await?;
/// let (backup, kind) = (Selector::Latest, WantedKind::Auto);
/// let request = Request { backup, kind, extent: Extent::Recover, incident_began: None };
/// let report = recovery.recover_database(request, RunOptions::default()).await?.finish().await?;
/// println!("{report:?}");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Recovery {
    system: Arc<System>,
    backend: Arc<dyn Backend>,
    store: Arc<dyn BackupStore>,
    copy: Option<Arc<dyn BackupStore>>,
    procedures: Procedures,
}

/// Who runs something, and who is asked.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Name of the person, for the journal; `None` takes the name of the login.
    pub operator: Option<String>,
    /// Who answers questions. The default asks nobody: the run pauses until [`Recovery::approve`].
    pub approver: Arc<dyn Approver>,
    /// Checklist items that somebody takes responsibility for.
    pub waivers: Vec<Waiver>,
    /// Plan that the run is held to: it is refused when something else would be done now.
    pub plan: Option<Plan>,
    /// Why this procedure is run, where a diagnosis selected it; kept in the journal.
    pub choice: Option<Choice>,
    /// Stops the run at the next step boundary.
    pub cancellation: CancellationToken,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            operator: None,
            approver: Arc::new(AskLater),
            waivers: Vec::new(),
            plan: None,
            choice: None,
            cancellation: CancellationToken::new(),
        }
    }
}

/// What a run achieved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "procedure", rename_all = "kebab-case")]
pub enum Report {
    /// A database recovery.
    RecoverDatabase(Box<DatabaseReport>),
    /// A backup.
    BackUp(Box<BackupInfo>),
    /// A drill.
    Drill(Box<DrillReport>),
    /// What was read of a server that does not start any more.
    SalvageDatabase(Box<SalvageReport>),
    /// Files put in production's place.
    RestoreFiles(Box<FilesReport>),
    /// A recovery of a part of the system.
    Recovered(Box<Recovered>),
    /// A recovery that was closed.
    Close(Box<Closed>),
    /// A rollback.
    RollBack {
        /// Steps that were undone, in the order in which they were.
        undone: Vec<String>,
    },
}

/// A run whose journal cannot be read, and why.
pub type Unreadable = (RunId, Error);

/// A run that is going on in a task of its own: dropping this does not stop it.
pub struct Going {
    id: RunId,
    events: Option<EventStream>,
    cancellation: CancellationToken,
    task: JoinHandle<Result<Report>>,
}

impl std::fmt::Debug for Going {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Going").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Going {
    /// Returns the run's id.
    pub fn id(&self) -> RunId {
        self.id
    }

    /// Takes the stream of what happens; `None` the second time.
    pub fn events(&mut self) -> Option<EventStream> {
        self.events.take()
    }

    /// Returns the token that stops the run at the next step boundary.
    pub fn cancellation(&self) -> CancellationToken {
        self.cancellation.clone()
    }

    /// Waits for the end.
    pub async fn finish(self) -> Result<Report> {
        self.task
            .await
            .unwrap_or_else(|e| Err(Error::new(ErrorKind::Failed, "the run's task ended").caused_by(e.to_string())))
    }
}

impl Recovery {
    /// Connects to the Engine. Store and repository are opened when they are needed: what needs no backup, such as a
    /// rollback, works while they are out of reach.
    ///
    /// # Errors
    /// `Unreachable`: no Engine answers. `InvalidInput`: the configuration names something impossible.
    pub async fn open(system: System) -> Result<Self> {
        let backend = Arc::new(DockerBackend::connect(&system.compose, DockerOptions::default()).await?);
        let store = store::open_later(&system.repository.store());
        Ok(Self::with_ports(system, backend, store))
    }

    /// Makes it from ports of the caller's choice; the copy is the configured one.
    pub fn with_ports(system: System, backend: Arc<dyn Backend>, store: Arc<dyn BackupStore>) -> Self {
        let copy = system.repository.copy.as_ref().map(store::open_later);
        Self { system: Arc::new(system), backend, store, copy, procedures: Procedures::built_in() }
    }

    /// Returns the configuration.
    pub fn system(&self) -> &System {
        &self.system
    }

    /// Returns the backend.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Opens what procedures work with.
    ///
    /// # Errors
    /// `NotFound`: there is no repository yet. `Precondition`: no trusted signer is configured.
    pub async fn parts(&self) -> Result<Parts> {
        Ok(self.parts_of(self.repository().await?))
    }

    /// What a run works with that was begun before. A repository that cannot be opened stops the steps that need it,
    /// and no others.
    async fn parts_to_resume(&self) -> Parts {
        self.parts_of(self.repository().await.unwrap_or_else(|why| {
            let hint = "mount its disk or bring its host back, then resume the run";
            Repository::absent(&self.system.repository.url, why.during("the repository cannot be opened").hint(hint))
        }))
    }

    /// What a run is undone with: no backup is needed for it, so that nobody waits for a store that does not answer.
    fn parts_to_undo(&self) -> Parts {
        let why = Error::new(ErrorKind::Unreachable, "the repository is not opened for a rollback");
        self.parts_of(Repository::absent(&self.system.repository.url, why))
    }

    fn parts_of(&self, repository: Repository) -> Parts {
        let catalog = Catalog::new(&repository, &self.system.id).holding(DATABASE).with_copy(self.copy.clone());
        let catalog = Arc::new(catalog);
        let database = MySqlOps::new(self.system.clone(), self.backend.clone(), repository);
        Parts {
            system: self.system.clone(),
            backend: self.backend.clone(),
            database: Arc::new(database),
            application: Arc::new(StackApplication::new(self.system.clone(), self.backend.clone(), self.store.clone())),
            catalog,
        }
    }

    async fn repository(&self) -> Result<Repository> {
        Repository::open_with(self.store.clone(), &self.system.repository).await.map_err(|e| {
            let Some(copy) = &self.copy else { return e };
            let hint = e.hint_text().map(|hint| format!("{hint}; or ")).unwrap_or_default();
            e.hint(format!("{hint}use the copy at `{}`: `--copy`", copy.url()))
        })
    }

    // ---- health ------------------------------------------------------------------------------------------------

    /// Asks every probe of a mode, at once, under the configured deadline, and remembers how long the HTTP checks took where
    /// all is well: [`LatencyHistory`](crate::probe::latency::LatencyHistory).
    pub async fn health(&self, mode: HealthMode) -> HealthReport {
        let report = self.look(mode).await;
        self.remember_latency(&report).await;
        report
    }

    /// Asks every probe of a mode, and remembers nothing.
    async fn look(&self, mode: HealthMode) -> HealthReport {
        let history = self.latency_history().await;
        let mut probes = suite_against(&self.system, &self.backend, Some(&self.store), mode.into(), history.as_ref());
        if mode != HealthMode::PostRecovery {
            let limit = self.system.limits.health_deadline;
            let late = || Error::new(ErrorKind::Timeout, format!("no answer within {} s", limit.as_secs()));
            let opened = tokio::time::timeout(limit, self.repository()).await;
            match opened.unwrap_or_else(|_| Err(late())) {
                Ok(repository) => {
                    let catalog = Catalog::new(&repository, &self.system.id).holding(DATABASE);
                    if mode == HealthMode::Full {
                        // Without a backup that can be read there is nothing to compare with; `backup` tells that.
                        let rows = tokio::time::timeout(limit, BackedUpRows::of_newest(&catalog)).await;
                        if let Ok(Ok(rows)) = rows {
                            let (database, backend) = (self.system.database.clone(), self.backend.clone());
                            let audit = self.system.application.audit.clone();
                            probes.push(Arc::new(RowsProbe::new(database, backend, rows).audited_by(audit)));
                        }
                    }
                    probes.push(Arc::new(BackupProbe::new(catalog, self.system.objectives.backup_age)));
                }
                Err(error) => probes.push(silent("backup", format!("the repository cannot be opened: {error}"))),
            }
        }
        run_suite(mode, probes, self.system.limits.health_deadline).await
    }

    /// Says what is wrong and which procedure mends it, most probable first. Writes nothing.
    pub async fn diagnose(&self) -> (HealthReport, Vec<Diagnosis>) {
        let report = self.look(HealthMode::Full).await;
        let found = diagnose(&report);
        (report, found)
    }

    // ---- backups -----------------------------------------------------------------------------------------------

    /// Makes the repository and, where there is none yet, this host's signing key.
    ///
    /// # Errors
    /// `AlreadyExists`: there is a repository.
    pub async fn init_repository(&self, encryption: Encryption) -> Result<Initialized> {
        Repository::init(&self.store, &self.system.id, &self.system.state_dir(), encryption).await
    }

    /// Lists the backups of the system, oldest first.
    pub async fn backups(&self) -> Result<Listing> {
        Catalog::new(&self.repository().await?, &self.system.id).list().await
    }

    /// Finds one backup.
    pub async fn backup(&self, which: &Selector) -> Result<BackupInfo> {
        Catalog::new(&self.repository().await?, &self.system.id).select(which).await
    }

    /// Reads every byte of a backup, and keeps a signed record of what was found.
    pub async fn verify_backup(
        &self,
        which: &Selector,
        level: Level,
        progress: &(dyn Fn(crate::catalog::Progress) + Send + Sync),
    ) -> Result<VerifyReport> {
        let repository = self.repository().await?;
        let catalog = Catalog::new(&repository, &self.system.id);
        let info = catalog.select(which).await?;
        let reader = catalog.open(&info.place).await?;
        let report = verify(&reader, level, progress).await?;
        let signer = crate::catalog::Signer::load(&self.system.state_dir(), &self.system.id)?;
        crate::catalog::record(&repository, &signer, &info.place, report.clone(), None).await?;
        Ok(report)
    }

    /// Takes a backup.
    ///
    /// # Errors
    /// Those of opening the repository: nothing was begun. `Locked`: another run is going on or unfinished. `NotFound`: a
    /// component that is asked for is not configured.
    pub async fn back_up(&self, request: BackUp, options: RunOptions) -> Result<Going> {
        backup::check(&self.system, &request)?;
        let parts = self.parts().await?;
        let run = self.engine(&options).start(self.new_run(backup::PROCEDURE, &request)?).await?;
        Ok(self.go(run, parts, options))
    }

    /// Rehearses a recovery with a backup, beside production, and keeps the signed result with the backup.
    ///
    /// # Errors
    /// Those of opening the repository: nothing was begun. `Locked`: another run is going on or unfinished.
    pub async fn drill(&self, request: drill::Request, options: RunOptions) -> Result<Going> {
        let parts = self.parts().await?;
        let new = self.new_run(drill::PROCEDURE, &request)?.objective(self.system.objectives.database);
        let run = self.engine(&options).start(new).await?;
        Ok(self.go(run, parts, options))
    }

    /// Reads what can be read of a database server that does not start any more, on a copy of its files, and keeps it as a
    /// backup that is chosen by its id alone. Production is not touched.
    ///
    /// # Errors
    /// Those of opening the repository and of [`salvage::check`]: nothing was begun. `Locked`: another run is going on or
    /// unfinished.
    pub async fn salvage_database(&self, request: salvage::Request, options: RunOptions) -> Result<Going> {
        salvage::check(&self.system, &request)?;
        let parts = self.parts().await?;
        let run = self.engine(&options).start(self.new_run(salvage::PROCEDURE, &request)?).await?;
        Ok(self.go(run, parts, options))
    }

    /// Describes a run that is not held up by what a killed backup, drill or salvage left.
    fn new_run(&self, procedure: &str, request: &impl Serialize) -> Result<NewRun> {
        Ok(NewRun::new(self.system.id.as_str(), procedure, request)?.supersede([
            backup::PROCEDURE,
            drill::PROCEDURE,
            salvage::PROCEDURE,
        ]))
    }

    /// Finds out what a prune of the repository would do now: which backups expire, which bytes go, and why the others
    /// stay. Touches nothing.
    ///
    /// # Errors
    /// See [`catalog::plan_prune`].
    pub async fn plan_prune(&self) -> Result<PrunePlan> {
        let catalog = Catalog::new(&self.repository().await?, &self.system.id);
        catalog::plan_prune(&catalog, &self.system.retention).await
    }

    /// Does what a plan says: backups that expired get a tombstone, and those whose grace period is over are deleted.
    ///
    /// # Errors
    /// `Conflict`: the plan would be another now. `Locked`: another prune is going on. `NotFound`: this host has no
    /// signing key, and nobody would believe its tombstones.
    pub async fn prune_backups(&self, agreed: &PrunePlan, by: &str) -> Result<PruneReport> {
        let catalog = Catalog::new(&self.repository().await?, &self.system.id);
        let (folder, id) = (self.system.state_dir(), self.system.id.clone());
        let signer = store::pipe::blocking(move || Signer::load(&folder, &id)).await?;
        catalog::prune(&catalog, &self.system.retention, agreed, &signer, by).await
    }

    // ---- recoveries --------------------------------------------------------------------------------------------

    /// Finds out what a database recovery would do now, without doing it.
    pub async fn plan_database(&self, request: &Request) -> Result<Plan> {
        self.plan(request, &RunOptions::default()).await
    }

    async fn plan(&self, request: &Request, options: &RunOptions) -> Result<Plan> {
        let parts = self.parts().await?;
        self.engine(options)
            .plan(&self.new_database(request)?, async move |run: Run| database::recover(&run, &parts, request).await)
            .await
    }

    /// Recovers the database.
    ///
    /// # Errors
    /// Those of opening the repository: nothing was begun. `Conflict`: the plan in the options no longer fits.
    /// `Locked`: another run is going on or unfinished.
    pub async fn recover_database(&self, request: Request, options: RunOptions) -> Result<Going> {
        let parts = self.parts().await?;
        let mut new = self.new_database(&request)?;
        if let Some(plan) = &options.plan {
            plan.check_same(&self.plan(&request, &options).await?)?;
            new = new.planned(plan);
        }
        let run = self.engine(&options).start(new).await?;
        Ok(self.go(run, parts, options))
    }

    fn new_database(&self, request: &Request) -> Result<NewRun> {
        Ok(self.new_run(database::PROCEDURE, request)?.objective(self.system.objectives.database))
    }

    /// Restores a component of files beside production and puts it in place; what was there before is kept.
    ///
    /// # Errors
    /// `NotFound`: no such component is configured; nothing was begun. `Locked`: another run is going on or unfinished.
    pub async fn restore_files(&self, request: files_procedure::Request, options: RunOptions) -> Result<Going> {
        let parts = self.parts().await?;
        files_procedure::check(&parts, &request)?;
        let run = self.engine(&options).start(self.new_run(files_procedure::PROCEDURE, &request)?).await?;
        Ok(self.go(run, parts, options))
    }

    /// Goes on with a run that was killed, failed or waits. Where the repository cannot be opened, it goes on to the
    /// first step that needs it: a run that has compared its candidate gets as far as the new backup.
    pub async fn resume(&self, id: RunId, options: RunOptions) -> Result<Going> {
        let parts = self.parts_to_resume().await;
        let run = self.engine(&options).resume(id).await?;
        Ok(self.go(run, parts, options))
    }

    /// Undoes a run, in reverse order. Returns the steps undone. Needs neither store nor repository.
    pub async fn roll_back(&self, id: RunId, because: &str, options: RunOptions) -> Result<Vec<String>> {
        let parts = self.parts_to_undo();
        let procedures = self.procedures.clone();
        self.engine(&options).roll_back(id, because, async move |run: Run| procedures.perform(&run, &parts).await).await
    }

    /// Records somebody's yes to what a paused run waits for. Returns what was approved.
    pub fn approve(&self, id: RunId, name: Option<&str>, by: &str) -> Result<String> {
        self.engine(&RunOptions::default()).approve(id, name, by)
    }

    /// Lists the steps whose outcome a person has to settle before their runs can go on. Needs no Engine.
    pub fn unresolved(&self) -> Result<Vec<Unresolved>> {
        Ok(self.runs()?.0.iter().flat_map(unresolved).collect())
    }

    /// Records what somebody found out about a step whose outcome is unknown, after the step has looked once more; what
    /// it returns is taken from there where `word` does not give it.
    ///
    /// # Errors
    /// As [`Engine::resolve`]; nothing is recorded then.
    pub async fn resolve(&self, id: RunId, step: &str, word: Word, by: &str) -> Result<Resolution> {
        let options = RunOptions { operator: Some(by.to_owned()), ..RunOptions::default() };
        let parts = self.parts_to_resume().await;
        let procedures = self.procedures.clone();
        self.engine(&options)
            .resolve(id, step, word, async move |run: Run| procedures.perform(&run, &parts).await)
            .await
    }

    /// Gives a run up: nothing is undone, its journal stays.
    pub async fn abandon(&self, id: RunId, because: &str) -> Result<()> {
        self.engine(&RunOptions::default()).abandon(id, because).await
    }

    /// Tells the runs of this system, oldest first, and what is wrong with those that cannot be read.
    pub fn runs(&self) -> Result<(Vec<RunSummary>, Vec<Unreadable>)> {
        let (mut runs, mut unreadable) = (Vec::new(), Vec::new());
        for (id, summary) in summary::list(&self.system.state_dir())? {
            match summary {
                Ok(one) if one.system == self.system.id.as_str() => runs.push(one),
                Ok(_) => {}
                Err(error) => unreadable.push((id, error)),
            }
        }
        Ok((runs, unreadable))
    }

    fn engine(&self, options: &RunOptions) -> Engine {
        let lock = EngineLock::new(self.backend.clone(), self.system.database.service.clone());
        let mut engine = Engine::new(self.system.state_dir())
            .approver(options.approver.clone())
            .system_lock(Arc::new(lock))
            .waive(options.waivers.iter().cloned())
            .cancellation(options.cancellation.clone());
        if let Some(operator) = &options.operator {
            engine = engine.operator(operator);
        }
        engine
    }

    fn go(&self, run: Run, parts: Parts, options: RunOptions) -> Going {
        let (id, events, procedures) = (run.id(), Some(run.events()), self.procedures.clone());
        let cancellation = options.cancellation.clone();
        let task = tokio::spawn(async move {
            let inner = run.clone();
            run.execute(async move {
                choosing::record(&inner, options.choice).await?;
                let report = procedures.perform(&inner, &parts).await?;
                // Kept in the journal, so that it can be shown again.
                inner.decide(ACHIEVED, async { Ok(report) }).await
            })
            .await
        });
        Going { id, events, cancellation, task }
    }
}
