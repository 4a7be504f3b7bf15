//! Closing recoveries, and which of them are still open.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Going, Recovery, Report, RunOptions};
use crate::{
    error::{Error, ErrorKind, Result},
    procedure::{
        backup,
        close::{self, Attestation, Subject},
        drill, fix, salvage,
    },
    report::{ACHIEVED, Closure, RunReport},
    run::{
        ItemVerdict, Plan, Run, RunId,
        summary::{RunStatus, RunSummary},
    },
};

/// A recovery that succeeded and was not closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unclosed {
    /// Run.
    pub run: RunId,
    /// Procedure.
    pub procedure: String,
    /// When it ended.
    pub ended: DateTime<Utc>,
}

impl Recovery {
    /// Goes through the post-recovery checklist of a recovery; `None` takes the newest that is not closed. It is closed when
    /// every item is in order, vouched for or waived.
    ///
    /// # Errors
    /// `NotFound`: there is no such recovery. `Precondition`: it did not succeed. `Conflict`: it is closed already.
    /// `InvalidInput`: the checklist has no such item, or what is vouched for can be asked. Nothing was begun in all these
    /// cases. `Locked`: another run is going on or unfinished.
    pub async fn close(
        &self,
        run: Option<&str>,
        attestations: Vec<Attestation>,
        by: &str,
        options: RunOptions,
    ) -> Result<Going> {
        let parts = self.parts_to_resume().await;
        let request = self.closing(run, attestations, by)?;
        close::check(&parts, &request, &options.waivers)?;
        let run = self.engine(&options).start(self.new_run(close::PROCEDURE, &request)?).await?;
        Ok(self.go(run, parts, options))
    }

    /// Finds out what [`Recovery::close`] would say now, without recording it.
    ///
    /// # Errors
    /// As [`Recovery::close`]; items that are not in order are part of the plan.
    pub async fn plan_close(
        &self,
        run: Option<&str>,
        attestations: Vec<Attestation>,
        by: &str,
        options: &RunOptions,
    ) -> Result<Plan> {
        let parts = self.parts_to_resume().await;
        let request = self.closing(run, attestations, by)?;
        close::check(&parts, &request, &options.waivers)?;
        let new = self.new_run(close::PROCEDURE, &request)?;
        self.engine(options).plan(&new, async |run: Run| close::close(&run, &parts, &request).await).await
    }

    fn closing(&self, run: Option<&str>, attestations: Vec<Attestation>, by: &str) -> Result<close::Request> {
        let closures = closures(&self.runs()?.0);
        let found = self.find_run(run, |run| is_done(run) && !closures.contains_key(&run.run)).map_err(|e| {
            if run.is_some() { e } else { Error::new(ErrorKind::NotFound, "there is no recovery that is not closed") }
        })?;
        if !is_recovery(&found) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("run {} of `{}` is no recovery: there is nothing to close", found.run, found.procedure),
            ));
        }
        if !is_done(&found) {
            return Err(Error::new(ErrorKind::Precondition, format!("recovery {} did not succeed", found.run))
                .hint("resume it, or roll it back; `chom-recovery runs show` says how it stands"));
        }
        if let Some(closure) = closures.get(&found.run) {
            let when = closure.at.format("%F %T UTC");
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("recovery {} was closed at {when} by {}", found.run, closure.by),
            ));
        }
        let of = Subject { backup: backup_of(&found), run: found.run, procedure: found.procedure, ended: found.last };
        Ok(close::Request { of, attestations, by: by.to_owned() })
    }

    /// Reads what a run recorded, and, of a recovery, whether it was closed.
    ///
    /// # Errors
    /// `NotFound`: no such run. `Corrupt`: its journal is damaged.
    pub fn run_report(&self, id: RunId) -> Result<RunReport> {
        let mut report = RunReport::from(&RunSummary::read(&self.system.state_dir(), id)?);
        report.closed = closures(&self.runs()?.0).remove(&id);
        Ok(report)
    }
}

/// Lists the recoveries that succeeded and were not closed, oldest first.
pub(super) fn unclosed(runs: &[RunSummary]) -> Vec<Unclosed> {
    let closures = closures(runs);
    runs.iter()
        .filter(|run| is_done(run) && !closures.contains_key(&run.run))
        .map(|run| Unclosed { run: run.run, procedure: run.procedure.clone(), ended: run.last })
        .collect()
}

fn is_done(run: &RunSummary) -> bool {
    is_recovery(run) && run.is_over && run.status == RunStatus::Succeeded
}

fn is_recovery(run: &RunSummary) -> bool {
    ![backup::PROCEDURE, drill::PROCEDURE, salvage::PROCEDURE, close::PROCEDURE, fix::PROCEDURE]
        .contains(&run.procedure.as_str())
}

fn backup_of(run: &RunSummary) -> Option<crate::catalog::BackupId> {
    match serde_json::from_value(run.decisions.get(ACHIEVED)?.clone()).ok()? {
        Report::RecoverDatabase(report) => report.new_backup,
        _ => None,
    }
}

/// Finds by which run each recovery was closed.
fn closures(runs: &[RunSummary]) -> BTreeMap<RunId, Closure> {
    let closing = runs.iter().filter(|r| r.procedure == close::PROCEDURE && r.status == RunStatus::Succeeded);
    closing
        .filter_map(|run| {
            let request: close::Request = serde_json::from_value(run.request.clone()).ok()?;
            let said = |c: &&crate::run::summary::CheckSummary| c.verdict != ItemVerdict::Passed;
            let closure = Closure {
                run: run.run,
                by: request.by,
                at: run.last,
                exceptions: run.checks.iter().filter(said).cloned().collect(),
            };
            Some((request.of.run, closure))
        })
        .collect()
}
