//! Recoveries of parts of the system: how a procedure is found, planned, run and taken up again.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;

use super::{Going, Recovery, Report, RunOptions};
use crate::{
    error::{Error, ErrorKind, Result},
    procedure::{
        Parts, Procedure, Recovered,
        application::RecoverApplication,
        backup, close,
        database::{self, ops::BackUp},
        drill, files, fix,
        nginx::RecoverNginx,
        partial, performance, salvage, tables,
    },
    run::{NewRun, Plan, Run},
};

/// A procedure whose request is in the journal.
#[async_trait]
trait Performs: fmt::Debug + Send + Sync {
    async fn perform(&self, run: &Run, parts: &Parts) -> Result<Recovered>;
    async fn start(&self, recovery: &Recovery, request: Value, options: &RunOptions) -> Result<(Run, Parts)>;
    async fn plan(&self, recovery: &Recovery, request: Value, options: &RunOptions) -> Result<Plan>;
}

#[async_trait]
impl<P: Procedure> Performs for P {
    async fn perform(&self, run: &Run, parts: &Parts) -> Result<Recovered> {
        let request: P::Request = run.request()?;
        self.recover(run, parts, &request).await
    }

    async fn start(&self, recovery: &Recovery, request: Value, options: &RunOptions) -> Result<(Run, Parts)> {
        recovery.start_recovery(self, &read(self, request)?, options).await
    }

    async fn plan(&self, recovery: &Recovery, request: Value, options: &RunOptions) -> Result<Plan> {
        recovery.plan_recovery(self, &read(self, request)?, options).await
    }
}

fn read<P: Procedure>(procedure: &P, request: Value) -> Result<P::Request> {
    serde_json::from_value(request)
        .map_err(|e| Error::new(ErrorKind::InvalidInput, format!("this is no request of `{}`: {e}", procedure.name())))
}

/// Procedures by their names.
#[derive(Debug, Clone, Default)]
pub(super) struct Procedures(Arc<BTreeMap<&'static str, Arc<dyn Performs>>>);

impl Procedures {
    /// The recoveries that this library comes with.
    pub(super) fn built_in() -> Self {
        Self::default()
            .with(fix::Fix)
            .with(RecoverApplication)
            .with(RecoverNginx)
            .with(partial::RecoverQueue)
            .with(partial::RecoverScheduler)
            .with(partial::RecoverRedis)
            .with(performance::RecoverPerformance)
            .with(tables::RestoreTables)
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
            salvage::PROCEDURE => {
                let request: salvage::Request = run.request()?;
                Ok(Report::SalvageDatabase(Box::new(salvage::salvage(run, parts, &request).await?)))
            }
            files::PROCEDURE => {
                let request: files::Request = run.request()?;
                Ok(Report::RestoreFiles(Box::new(files::restore(run, parts, &request).await?)))
            }
            close::PROCEDURE => {
                let request: close::Request = run.request()?;
                Ok(Report::Close(Box::new(close::close(run, parts, &request).await?)))
            }
            _ => Ok(Report::Recovered(Box::new(self.recover(run, parts).await?))),
        }
    }

    async fn recover(&self, run: &Run, parts: &Parts) -> Result<Recovered> {
        let hint = "use the program that began the run; `chom-recovery runs show` tells its version";
        self.get(run.procedure()).map_err(|e| e.hint(hint))?.perform(run, parts).await
    }

    fn get(&self, name: &str) -> Result<&Arc<dyn Performs>> {
        self.0.get(name).ok_or_else(|| {
            let known: Vec<_> = self.0.keys().copied().collect();
            Error::new(ErrorKind::Unsupported, format!("this version knows no procedure `{}`", name.escape_debug()))
                .with("recoveries of parts", known.join(", "))
        })
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
        let (run, parts) = self.start_recovery(&procedure, &request, &options).await?;
        Ok(self.clone().with_procedure(procedure).go(run, parts, options))
    }

    /// As [`Recovery::recover`], for callers that name the procedure and give its request as JSON.
    ///
    /// # Errors
    /// `Unsupported`: there is no such recovery. `InvalidInput`: the request has another form. Else as
    /// [`Recovery::recover`].
    pub async fn recover_by_name(&self, name: &str, request: Value, options: RunOptions) -> Result<Going> {
        let (run, parts) = self.procedures.get(name)?.start(self, request, &options).await?;
        Ok(self.go(run, parts, options))
    }

    /// As [`Recovery::plan_recovery`], for callers that name the procedure and give its request as JSON.
    ///
    /// # Errors
    /// As [`Recovery::recover_by_name`].
    pub async fn plan_by_name(&self, name: &str, request: Value, options: &RunOptions) -> Result<Plan> {
        self.procedures.get(name)?.plan(self, request, options).await
    }

    async fn start_recovery<P: Procedure>(
        &self,
        procedure: &P,
        request: &P::Request,
        options: &RunOptions,
    ) -> Result<(Run, Parts)> {
        let parts = self.parts_to_resume().await;
        procedure.check(&parts, request)?;
        let mut new = self.new_recovery(procedure, request)?;
        if let Some(plan) = &options.plan {
            plan.check_same(&self.plan_recovery(procedure, request, options).await?)?;
            new = new.planned(plan);
        }
        Ok((self.engine(options).start(new).await?, parts))
    }

    fn new_recovery<P: Procedure>(&self, procedure: &P, request: &impl Serialize) -> Result<NewRun> {
        Ok(self.new_run(procedure.name(), request)?.objective(procedure.objective(&self.system)))
    }
}
