//! Recoveries of parts of the system: how a procedure is found, planned, run and taken up again.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use serde::Serialize;

use super::{Going, Recovery, Report, RunOptions};
use crate::{
    error::{Error, ErrorKind, Result},
    procedure::{
        Parts, Procedure, Recovered,
        application::RecoverApplication,
        backup,
        database::{self, ops::BackUp},
        drill, files,
        nginx::RecoverNginx,
    },
    run::{NewRun, Plan, Run},
};

/// A procedure whose request is in the journal.
#[async_trait]
trait Performs: fmt::Debug + Send + Sync {
    async fn perform(&self, run: &Run, parts: &Parts) -> Result<Recovered>;
}

#[async_trait]
impl<P: Procedure> Performs for P {
    async fn perform(&self, run: &Run, parts: &Parts) -> Result<Recovered> {
        let request: P::Request = run.request()?;
        self.recover(run, parts, &request).await
    }
}

/// Procedures by their names.
#[derive(Debug, Clone, Default)]
pub(super) struct Procedures(Arc<BTreeMap<&'static str, Arc<dyn Performs>>>);

impl Procedures {
    /// Those of this crate.
    pub(super) fn of_this_crate() -> Self {
        Self::default().with(RecoverNginx).with(RecoverApplication)
    }

    fn with(&self, procedure: impl Procedure) -> Self {
        let mut all = BTreeMap::clone(&self.0);
        all.insert(procedure.name(), Arc::new(procedure));
        Self(Arc::new(all))
    }

    /// Runs the procedure that a run is about.
    ///
    /// # Errors
    /// `Unsupported`: it is not known.
    pub(super) async fn perform(&self, run: &Run, parts: &Parts) -> Result<Report> {
        match run.procedure() {
            database::PROCEDURE => {
                let request: database::Request = run.request()?;
                Ok(Report::RecoverDatabase(Box::new(database::recover(run, parts, &request).await?)))
            }
            backup::PROCEDURE => {
                let request: BackUp = run.request()?;
                Ok(Report::BackUp(Box::new(backup::create(run, parts, &request).await?)))
            }
            drill::PROCEDURE => {
                let request: drill::Request = run.request()?;
                Ok(Report::Drill(Box::new(drill::rehearse(run, parts, &request).await?)))
            }
            files::PROCEDURE => {
                let request: files::Request = run.request()?;
                Ok(Report::RestoreFiles(Box::new(files::restore(run, parts, &request).await?)))
            }
            _ => Ok(Report::Recovered(Box::new(self.recover(run, parts).await?))),
        }
    }

    async fn recover(&self, run: &Run, parts: &Parts) -> Result<Recovered> {
        let Some(procedure) = self.0.get(run.procedure()) else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("this version knows no procedure `{}`", run.procedure()),
            )
            .hint("use the program that began the run; `chom-recovery runs show` tells its version"));
        };
        procedure.perform(run, parts).await
    }
}

impl Recovery {
    /// Makes a procedure of your own known, so that its runs can be resumed and rolled back. Another of that name is
    /// replaced.
    #[must_use]
    pub fn with_procedure(mut self, procedure: impl Procedure) -> Self {
        self.procedures = self.procedures.with(procedure);
        self
    }

    /// Finds out what a recovery would do now, without doing it.
    ///
    /// # Errors
    /// Those of [`Procedure::check`], and of what is looked at.
    pub async fn plan_recovery<P: Procedure>(
        &self,
        procedure: &P,
        request: &P::Request,
        options: &RunOptions,
    ) -> Result<Plan> {
        // A repository that cannot be opened stops the steps that need it, and no others.
        let parts = self.parts_to_resume().await;
        procedure.check(&parts, request)?;
        let new = self.new_recovery(procedure, request)?;
        self.engine(options).plan(&new, async |run: Run| procedure.recover(&run, &parts, request).await).await
    }

    /// Recovers a part of the system. Where the repository cannot be opened, it goes on to the first step that needs it.
    ///
    /// # Errors
    /// Those of [`Procedure::check`]: nothing was begun. `Conflict`: the plan in the options no longer fits. `Locked`:
    /// another run is going on or unfinished.
    pub async fn recover<P: Procedure>(&self, procedure: P, request: P::Request, options: RunOptions) -> Result<Going> {
        let parts = self.parts_to_resume().await;
        procedure.check(&parts, &request)?;
        let mut new = self.new_recovery(&procedure, &request)?;
        if let Some(plan) = &options.plan {
            plan.check_same(&self.plan_recovery(&procedure, &request, &options).await?)?;
            new = new.planned(plan);
        }
        let run = self.engine(&options).start(new).await?;
        Ok(self.clone().with_procedure(procedure).go(run, parts, options))
    }

    fn new_recovery<P: Procedure>(&self, procedure: &P, request: &impl Serialize) -> Result<NewRun> {
        Ok(self.new_run(procedure.name(), request)?.objective(procedure.objective(&self.system)))
    }
}
