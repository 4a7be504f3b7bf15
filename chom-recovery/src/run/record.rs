//! What a journal holds: one [`Record`] a line.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{error::ErrorRecord, objective::Objective, run::id::RunId};

/// Version of the journal's form.
pub const FORMAT: u32 = 1;

/// One line of a journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Position, from 0, without gaps.
    pub seq: u64,
    /// Wall time, for people.
    pub time: DateTime<Utc>,
    /// Begin of the boot's id.
    pub boot: String,
    /// Milliseconds since that boot, for durations.
    pub up_ms: u64,
    /// Hash of the record before, in hex; 64 zeros in the first.
    pub prev: String,
    /// What happened.
    #[serde(flatten)]
    pub entry: Entry,
}

/// What a step does to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Reads only. Runs again on resume, and for real when planning.
    Observe,
    /// Harmless when applied twice. Runs again on resume when its outcome is unknown.
    Idempotent,
    /// Must not be applied twice: reconciled on resume when its outcome is unknown.
    Once,
    /// Like `Once`, and somebody has to approve it.
    Destructive,
}

/// What undoing a step means, as journals and plans show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum UndoPlan {
    /// Nothing was said. Plans and runs refuse a step with an effect that says nothing.
    Undeclared,
    /// There is an undo; the text says what it does.
    With {
        /// What it does, in a line.
        text: String,
    },
    /// Point of no return.
    Pivot,
    /// Nothing has to be undone.
    Unnecessary {
        /// Why.
        because: String,
    },
}

/// How a step came to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// Its body ran to the end.
    Ran,
    /// After an interruption it was found applied.
    Reconciled,
    /// After an interruption a person said that it was applied.
    Resolved,
}

/// What a person found out about a step whose outcome was unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The effect happened, wholly.
    Applied,
    /// The effect did not happen.
    NotApplied,
}

/// Outcome of one item of a checklist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemVerdict {
    /// A probe found it in order.
    Passed,
    /// A person vouched for it.
    Attested,
    /// It is not in order, and somebody took the responsibility to go on.
    Waived,
    /// It is not in order.
    Failed,
}

/// How one stretch of a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The procedure returned its report. Final, but can be rolled back.
    Succeeded,
    /// The procedure failed; it can be resumed or rolled back.
    Failed,
    /// It waits for a person, or was cancelled; it can be resumed or rolled back.
    Paused,
    /// Everything was undone. Final.
    RolledBack,
    /// Somebody gave it up. Final.
    Abandoned,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Entry {
    /// First record of every journal.
    RunStarted {
        /// [`FORMAT`] when written.
        format: u32,
        /// This run.
        run: RunId,
        /// System it acts on.
        system: String,
        /// Procedure.
        procedure: String,
        /// Request, as the procedure's own type serialises.
        request: Value,
        /// Objectives in force.
        objective: Option<Objective>,
        /// Hash of the plan that approvals are bound to.
        plan: String,
        /// Who began it.
        operator: String,
        /// Where.
        host: String,
        /// Version of this library.
        version: String,
    },
    /// A process took the run up again.
    RunResumed {
        /// Who.
        operator: String,
        /// Where.
        host: String,
        /// Version of this library.
        version: String,
    },
    /// The end of the file was damaged by an interrupted write and was cut off.
    TailRepaired {
        /// Bytes removed.
        dropped: u64,
    },
    /// A step is about to act.
    StepIntent {
        /// Path of the step.
        step: String,
        /// Attempt, from 1.
        attempt: u32,
        /// Effect class.
        effect: Effect,
        /// Hash of the step's input.
        input: Option<String>,
        /// Version of the step's code.
        version: u32,
        /// How it is undone.
        undo: UndoPlan,
        /// Soft limit in milliseconds.
        budget_ms: Option<u64>,
        /// Hard limit in milliseconds.
        timeout_ms: Option<u64>,
        /// Scope that carries a budget, and that budget in milliseconds.
        scope_budget: Option<(String, u64)>,
        /// Who approved it.
        approved_by: Option<String>,
        /// Bytes that it works through, where its duration depends on them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        work_bytes: Option<u64>,
    },
    /// The effect happened; its verification is still to come.
    StepApplied {
        /// Path of the step.
        step: String,
        /// Attempt.
        attempt: u32,
        /// Output.
        output: Value,
    },
    /// The step is done and, where it has a verification, verified.
    StepDone {
        /// Path of the step.
        step: String,
        /// Attempt.
        attempt: u32,
        /// Output; a resumed run uses it instead of running the step.
        output: Value,
        /// How it came to be done.
        how: Done,
        /// Duration in milliseconds, monotonic.
        ms: u64,
        /// What the verification saw.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        evidence: Option<Value>,
    },
    /// The step failed, for certain.
    StepFailed {
        /// Path of the step.
        step: String,
        /// Attempt.
        attempt: u32,
        /// Why.
        error: ErrorRecord,
        /// Duration in milliseconds, monotonic.
        ms: u64,
    },
    /// Nobody can tell whether the effect happened.
    StepUnknown {
        /// Path of the step.
        step: String,
        /// Attempt.
        attempt: u32,
        /// What is known.
        evidence: String,
    },
    /// After an interruption the effect was found not to have happened.
    StepAbsent {
        /// Path of the step.
        step: String,
        /// Attempt.
        attempt: u32,
    },
    /// A person settled an unknown outcome.
    Resolved {
        /// Path of the step.
        step: String,
        /// What the person found.
        verdict: Verdict,
        /// Output to use, for [`Verdict::Applied`].
        output: Value,
        /// Who.
        by: String,
        /// Why.
        because: String,
    },
    /// A branch was taken; a resumed run takes it again.
    Decision {
        /// Path of the decision.
        name: String,
        /// What was decided.
        value: Value,
    },
    /// An approval is needed.
    ApprovalAsked {
        /// Path of the approval.
        name: String,
        /// Question.
        ask: String,
    },
    /// Somebody said yes, to this run's plan.
    Approved {
        /// Path of the approval.
        name: String,
        /// Who.
        by: String,
        /// Plan's hash.
        plan: String,
    },
    /// Somebody said no.
    Denied {
        /// Path of the approval.
        name: String,
        /// Who.
        by: String,
        /// Why.
        because: String,
    },
    /// An item of a checklist was settled.
    ChecklistItem {
        /// Path of the item.
        item: String,
        /// Its text.
        text: String,
        /// Verdict.
        verdict: ItemVerdict,
        /// What was seen, or who vouched or waived and why.
        evidence: String,
    },
    /// Evidence was stored beside the journal.
    Attached {
        /// Path of the step.
        step: String,
        /// Name given by the step.
        name: String,
        /// File below the run's directory.
        file: String,
        /// Length in bytes.
        bytes: u64,
        /// SHA-256 of the file, in hex.
        sha256: String,
    },
    /// A remark of a step.
    Note {
        /// Path of the step.
        step: String,
        /// Text.
        text: String,
    },
    /// From here on the run is unwound.
    RollbackStarted {
        /// Who.
        by: String,
        /// Why.
        because: String,
    },
    /// An undo is about to act.
    UndoIntent {
        /// Path of the step.
        step: String,
    },
    /// A step was undone.
    UndoDone {
        /// Path of the step.
        step: String,
        /// Duration in milliseconds, monotonic.
        ms: u64,
    },
    /// An undo failed; the steps before it are still in force.
    UndoFailed {
        /// Path of the step.
        step: String,
        /// Why.
        error: ErrorRecord,
        /// Duration in milliseconds, monotonic.
        ms: u64,
    },
    /// This stretch of the run ended.
    RunEnded {
        /// How.
        outcome: Outcome,
        /// Why, unless it succeeded.
        error: Option<ErrorRecord>,
    },
}

impl Entry {
    /// Tells whether it must be written even on a full disk. What begins something new may be refused instead.
    pub(crate) fn is_due(&self) -> bool {
        !matches!(
            self,
            Self::RunStarted { .. }
                | Self::RunResumed { .. }
                | Self::StepIntent { .. }
                | Self::ApprovalAsked { .. }
                | Self::Attached { .. }
                | Self::Note { .. }
        )
    }

    /// Names the entry for failpoints and messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::RunStarted { .. } => "run_started",
            Self::RunResumed { .. } => "run_resumed",
            Self::TailRepaired { .. } => "tail_repaired",
            Self::StepIntent { .. } => "step_intent",
            Self::StepApplied { .. } => "step_applied",
            Self::StepDone { .. } => "step_done",
            Self::StepFailed { .. } => "step_failed",
            Self::StepUnknown { .. } => "step_unknown",
            Self::StepAbsent { .. } => "step_absent",
            Self::Resolved { .. } => "resolved",
            Self::Decision { .. } => "decision",
            Self::ApprovalAsked { .. } => "approval_asked",
            Self::Approved { .. } => "approved",
            Self::Denied { .. } => "denied",
            Self::ChecklistItem { .. } => "checklist_item",
            Self::Attached { .. } => "attached",
            Self::Note { .. } => "note",
            Self::RollbackStarted { .. } => "rollback_started",
            Self::UndoIntent { .. } => "undo_intent",
            Self::UndoDone { .. } => "undo_done",
            Self::UndoFailed { .. } => "undo_failed",
            Self::RunEnded { .. } => "run_ended",
        }
    }
}
