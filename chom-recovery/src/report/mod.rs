//! What a run recorded, in the form in which people and programs read it.
//!
//! A [`RunReport`] is made of a journal's summary alone, so that it is the same right after a run and a month later.
//! Whoever prints it decides nothing: every verdict is in it.

mod card;
mod metrics;
mod publish;
mod unresolved;

pub use card::{Card, CardLine, card};
pub use metrics::{ComponentMetrics, CopyMetrics, DrillMetrics, LegacyMetrics, Metrics, alert_rules, exposition};
pub use publish::publish;
pub use unresolved::{Answers, Commands, Unresolved, unresolved};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    error::ErrorRecord,
    objective::Achieved,
    procedure::fix,
    recovery::{Report, recorded_choice},
    run::{
        ItemVerdict, RunId,
        summary::{ApprovalSummary, CheckSummary, RunStatus, RunSummary, StepStatus, StepSummary},
    },
    triage::Choice,
};

/// Name of the decision under which a run keeps what it achieved.
pub(crate) const ACHIEVED: &str = "report";

/// A run against its budgets and objectives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// Run.
    pub run: RunId,
    /// System.
    pub system: String,
    /// Procedure.
    pub procedure: String,
    /// Where it stands.
    pub status: RunStatus,
    /// Who began it.
    pub operator: String,
    /// Where it began.
    pub host: String,
    /// When it began.
    pub began: DateTime<Utc>,
    /// Time of its newest record.
    pub last: DateTime<Utc>,
    /// From the first record to the newest in milliseconds, time between two processes included.
    pub elapsed_ms: u64,
    /// How often a process took it up again.
    pub resumes: u32,
    /// Why this procedure was run, where a diagnosis selected it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<Choice>,
    /// Steps, in the order in which they began.
    pub steps: Vec<StepLine>,
    /// Recovery time: objective and achieved. `None`: not a recovery, or it has not got so far.
    pub rto: Option<Achieved>,
    /// Recovery point: objective and achieved.
    pub rpo: Option<Achieved>,
    /// Items of checklists that somebody took responsibility for, or that are not in order.
    pub exceptions: Vec<CheckSummary>,
    /// Items of checklists, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checklist: Vec<CheckSummary>,
    /// How it was closed; `None`: it is open, or no recovery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Closure>,
    /// What is left for a person to look at.
    pub to_review: Vec<String>,
    /// Why it is not over, or ended badly.
    pub error: Option<ErrorRecord>,
    /// Commands that bring it to an end; empty when it is over.
    pub next: Vec<String>,
    /// What it achieved, once it has succeeded.
    pub achieved: Option<Report>,
}

/// Who closed a recovery, and what they took the responsibility for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closure {
    /// Run that went through the checklist.
    pub run: RunId,
    /// Who.
    pub by: String,
    /// When.
    pub at: DateTime<Utc>,
    /// Items that somebody vouched for or waived.
    pub exceptions: Vec<CheckSummary>,
}

/// A step beside its budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepLine {
    /// Path.
    pub step: String,
    /// Where it stands.
    pub status: StepStatus,
    /// Begin, in milliseconds after the begin of the run.
    pub offset_ms: u64,
    /// Duration of the latest attempt in milliseconds.
    pub ms: Option<u64>,
    /// Soft limit in milliseconds.
    pub budget_ms: Option<u64>,
    /// Whether it took longer than that.
    pub is_over_budget: bool,
    /// Number of attempts.
    pub attempts: u32,
    /// Who approved it.
    pub approved_by: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
}

impl From<&StepSummary> for StepLine {
    fn from(step: &StepSummary) -> Self {
        Self {
            step: step.step.clone(),
            status: step.status,
            offset_ms: step.offset_ms,
            ms: step.ms,
            budget_ms: step.budget_ms,
            is_over_budget: step.is_over_budget(),
            attempts: step.attempts,
            approved_by: step.approved_by.clone(),
            error: step.error.as_ref().map(|e| e.message.clone()),
        }
    }
}

impl From<&RunSummary> for RunReport {
    fn from(run: &RunSummary) -> Self {
        // A record of another version that cannot be read leaves the rest of the report whole.
        let achieved: Option<Report> =
            run.decisions.get(ACHIEVED).and_then(|value| serde_json::from_value(value.clone()).ok());
        let (rto, rpo, mut to_review) = match &achieved {
            Some(Report::RecoverDatabase(report)) => (Some(report.rto), report.rpo, report.to_review.clone()),
            Some(Report::BackUp(info)) => (None, None, info.warnings.clone()),
            Some(Report::Drill(report)) => (Some(report.rto), Some(report.rpo), report.backup.warnings.clone()),
            Some(Report::SalvageDatabase(report)) => (None, None, report.missing()),
            Some(Report::RestoreFiles(report)) => (None, None, report.to_review()),
            // What troubleshooting mends is no recovery, and is held against no objective.
            Some(Report::Recovered(report)) => {
                ((run.procedure != fix::PROCEDURE).then_some(report.rto), None, report.to_review.clone())
            }
            Some(Report::Close(_) | Report::RollBack { .. }) | None => (None, None, Vec::new()),
        };
        let exceptions: Vec<CheckSummary> = run
            .checks
            .iter()
            .filter(|c| matches!(c.verdict, ItemVerdict::Waived | ItemVerdict::Failed))
            .cloned()
            .collect();
        to_review.extend(run.unknown_steps().map(|s| format!("nobody can tell whether `{}` took effect", s.step)));
        Self {
            run: run.run,
            system: run.system.clone(),
            procedure: run.procedure.clone(),
            status: run.status,
            operator: run.operator.clone(),
            host: run.host.clone(),
            began: run.began,
            last: run.last,
            elapsed_ms: run.elapsed_ms,
            resumes: run.resumes,
            choice: recorded_choice(run),
            steps: run.steps.iter().map(StepLine::from).collect(),
            rto,
            rpo,
            exceptions,
            checklist: run.checks.clone(),
            closed: None,
            to_review,
            error: run.error.clone(),
            next: next_commands(run),
            achieved,
        }
    }
}

/// Names the commands that bring an open run to an end, the safest first; none for a run that is over.
pub fn next_commands(run: &RunSummary) -> Vec<String> {
    let id = run.run;
    if run.is_over {
        return Vec::new();
    }
    match run.status {
        RunStatus::Succeeded | RunStatus::RolledBack | RunStatus::Abandoned => Vec::new(),
        RunStatus::Running => vec![format!("chom-recovery runs show {id}")],
        RunStatus::RollingBack => vec![format!("chom-recovery rollback {id}")],
        RunStatus::Interrupted | RunStatus::Failed | RunStatus::Paused => {
            let mut next = Vec::new();
            if run.unknown_steps().next().is_some() {
                next.push(format!("chom-recovery resolve {id}"));
            }
            let is_asking = run.approvals.values().any(|a| matches!(a, ApprovalSummary::Waiting { .. }));
            if is_asking {
                next.push(format!("chom-recovery approve {id}"));
            }
            next.push(format!("chom-recovery resume {id}"));
            next.push(format!("chom-recovery rollback {id}"));
            next
        }
    }
}

/// Says where a run stands, as the end of a sentence that begins with the run.
pub fn standing(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Running => "is going on",
        RunStatus::Interrupted => "was interrupted",
        RunStatus::Succeeded => "succeeded",
        RunStatus::Failed => "failed",
        RunStatus::Paused => "is paused",
        RunStatus::RollingBack => "is half rolled back",
        RunStatus::RolledBack => "was rolled back",
        RunStatus::Abandoned => "was given up",
    }
}
