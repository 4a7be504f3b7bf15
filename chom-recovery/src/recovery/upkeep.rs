//! The facade for hosts where something is missing, and for what is done outside of procedures.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{Going, Recovery, Report, RunOptions};
use crate::{
    backend::{
        Backend,
        absent::AbsentBackend,
        docker::{DockerBackend, DockerOptions, address},
    },
    catalog::{Encryption, Initialized, Repository},
    error::{Error, ErrorKind, Result},
    procedure::maintenance::{self, MaintenanceRecord, MaintenanceState, Method},
    run::{
        Run, RunId,
        summary::{RunStatus, RunSummary},
    },
    store,
    system::System,
};

/// What switching maintenance mode found and did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceSwitch {
    /// Where it stands now.
    pub state: MaintenanceState,
    /// How it was switched on; `None` when it was switched off.
    pub record: Option<MaintenanceRecord>,
    /// Where it stood before.
    pub before: MaintenanceState,
    /// Checks that are answered with success again, once it was switched off.
    pub served: Vec<String>,
    /// Checks that are not, although it was switched off.
    pub unserved: Vec<String>,
}

impl Recovery {
    /// Opens a system without asking its Engine, for what needs none: runs, backups, the card. Whatever does need it
    /// fails with `Unreachable`.
    pub fn without_engine(system: System) -> Self {
        let why = Error::new(ErrorKind::Unreachable, "the Engine was not asked");
        Self::with_absent_engine(system, &why)
    }

    /// Opens what answers: where Engine or repository do not, everything that needs them fails in the same way, and
    /// the rest works. For looking around in a disaster.
    pub async fn open_what_answers(system: System) -> Self {
        match DockerBackend::connect(&system.compose, DockerOptions::default()).await {
            Ok(backend) => {
                let store = store::open_later(&system.repository.store());
                Self::with_ports(system, Arc::new(backend), store)
            }
            Err(error) => Self::with_absent_engine(system, &error),
        }
    }

    fn with_absent_engine(system: System, why: &Error) -> Self {
        let address = address::resolve(&system.compose, &DockerOptions::default().environment)
            .map_or_else(|error| format!("none ({error})"), |address| address.to_string());
        let backend: Arc<dyn Backend> = Arc::new(AbsentBackend::new(&system.compose.project, address, why));
        let store = store::open_later(&system.repository.store());
        Self::with_ports(system, backend, store)
    }

    /// Makes the store's folder and the repository in it, and, where there is none yet, this host's signing key.
    ///
    /// # Errors
    /// `AlreadyExists`: there is a repository. `NotFound`: the folder above does not exist.
    pub async fn create_repository(system: &System, encryption: Encryption) -> Result<Initialized> {
        let store = store::create(&system.repository.store()).await?;
        Repository::init(&store, &system.id, &system.state_dir(), encryption).await
    }

    /// Finds a run by its id or a unique part of its end or begin; `None` takes the newest that `wanted` accepts.
    ///
    /// # Errors
    /// `NotFound`: none. `InvalidInput`: several.
    pub fn find_run(&self, name: Option<&str>, wanted: impl Fn(&RunSummary) -> bool) -> Result<RunSummary> {
        let (runs, _) = self.runs()?;
        let none = |what: String| {
            Err(Error::new(ErrorKind::NotFound, what).hint("`chom-recovery runs list` shows all runs of this system"))
        };
        let Some(name) = name else {
            return match runs.into_iter().rfind(wanted) {
                Some(run) => Ok(run),
                None => none(format!("there is no such run of system `{}`", self.system.id)),
            };
        };
        if let Ok(id) = name.parse::<RunId>() {
            return match RunSummary::read(&self.system.state_dir(), id) {
                Err(error) if error.kind() == ErrorKind::NotFound => none(format!("there is no run `{id}`")),
                read => read,
            };
        }
        let upper = name.to_ascii_uppercase();
        let mut found = runs.into_iter().filter(|run| {
            let id = run.run.to_string();
            name.len() >= 4 && (id.starts_with(&upper) || id.ends_with(&upper))
        });
        match (found.next(), found.next()) {
            (Some(run), None) => Ok(run),
            (Some(_), Some(_)) => {
                Err(Error::new(ErrorKind::InvalidInput, format!("`{}` names several runs", name.escape_debug()))
                    .hint("use more of the id"))
            }
            _ => none(format!("there is no run `{}`", name.escape_debug())),
        }
    }

    /// Begins to undo a run, in reverse order; what happens can be watched as with any other run. Needs neither store
    /// nor repository.
    ///
    /// # Errors
    /// Those of the rollback come from [`Going::finish`].
    pub async fn begin_roll_back(&self, id: RunId, because: &str, options: RunOptions) -> Result<Going> {
        let parts = self.parts_to_undo();
        let (this, procedures, because) = (self.clone(), self.procedures.clone(), because.to_owned());
        let cancellation = options.cancellation.clone();
        let (began, beginning) = oneshot::channel();
        let mut task = tokio::spawn(async move {
            let unwind = async move |run: Run| {
                let _ = began.send(run.events());
                procedures.perform(&run, &parts).await
            };
            let undone = this.engine(&options).roll_back(id, &because, unwind).await?;
            Ok(Report::RollBack { undone })
        });
        let events = tokio::select! {
            events = beginning => events.ok(),
            // It was refused before it began.
            ended = &mut task => {
                let ended: Result<Report> = ended.unwrap_or_else(|e| {
                    Err(Error::new(ErrorKind::Failed, "the run's task ended").caused_by(e.to_string()))
                });
                let report = ended?;
                return Ok(Going { id, events: None, cancellation, task: tokio::spawn(async { Ok(report) }) });
            }
        };
        Ok(Going { id, events, cancellation, task })
    }

    /// Switches maintenance mode on and proves it from outside.
    ///
    /// # Errors
    /// `Unhealthy`: the service still answers users.
    pub async fn maintenance_on(&self) -> Result<MaintenanceSwitch> {
        self.check_idle()?;
        let before = self.maintenance_state().await?;
        let record = maintenance::down(&self.system, &*self.backend).await?;
        Ok(MaintenanceSwitch {
            state: self.maintenance_state().await?,
            record: Some(record),
            before,
            served: Vec::new(),
            unserved: Vec::new(),
        })
    }

    /// Switches maintenance mode off, whoever switched it on, and tells what is seen from outside then: a service that
    /// is broken for another reason is not served, although the mode is off.
    ///
    /// # Errors
    /// `Locked`: a run is going on. `Unhealthy`: the mode is still seen from outside.
    pub async fn maintenance_off(&self) -> Result<MaintenanceSwitch> {
        self.check_idle()?;
        let before = self.maintenance_state().await?;
        let record = MaintenanceRecord {
            was_down_before: false,
            method: Method::Application,
            seen_by: Vec::new(),
            still_served: Vec::new(),
        };
        maintenance::up(&self.system, &*self.backend, &record).await?;
        let (served, unserved) = maintenance::served(&self.system).await;
        Ok(MaintenanceSwitch { state: self.maintenance_state().await?, record: None, before, served, unserved })
    }

    /// Asks whether maintenance mode is on.
    pub async fn maintenance_state(&self) -> Result<MaintenanceState> {
        maintenance::state(&self.system, &*self.backend).await
    }

    /// Refuses to interfere with a run that is going on.
    fn check_idle(&self) -> Result<()> {
        match self.runs()?.0.into_iter().find(|run| run.status == RunStatus::Running) {
            Some(run) => Err(Error::new(ErrorKind::Locked, format!("run {} is going on", run.run))
                .with("procedure", run.procedure)
                .hint("it switches maintenance mode itself; wait for its end")),
            None => Ok(()),
        }
    }
}
