//! What the records of a journal add up to.
//!
//! The running process and a process that resumes use the same fold, so both know the same.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    error::ErrorRecord,
    objective::Objective,
    run::{
        id::RunId,
        record::{Done, Effect, Entry, ItemVerdict, Outcome, Record, UndoPlan, Verdict},
    },
};

/// Sum of a journal's records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    pub(crate) header: Option<Header>,
    pub(crate) steps: BTreeMap<String, StepEntry>,
    pub(crate) decisions: BTreeMap<String, Value>,
    pub(crate) approvals: BTreeMap<String, ApprovalEntry>,
    pub(crate) checks: BTreeMap<String, ItemVerdict>,
    pub(crate) rollback: bool,
    /// How the newest stretch ended; `None` while it runs or when it was killed.
    pub(crate) ended: Option<(Outcome, Option<ErrorRecord>)>,
    pub(crate) evidence_files: BTreeSet<String>,
    /// Order of the latest intent.
    next_order: u64,
}

/// First record.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) run: RunId,
    pub(crate) system: String,
    pub(crate) procedure: String,
    pub(crate) request: Value,
    pub(crate) objective: Option<Objective>,
    pub(crate) plan: String,
}

/// One step.
#[derive(Debug, Clone)]
pub(crate) struct StepEntry {
    pub(crate) effect: Effect,
    pub(crate) input: Option<String>,
    pub(crate) version: u32,
    pub(crate) undo: UndoPlan,
    pub(crate) attempt: u32,
    /// Position of its latest intent among all intents.
    pub(crate) order: u64,
    pub(crate) state: StepState,
    pub(crate) undone: UndoState,
    /// Why it failed the last time; a verification that failed leaves the effect in force.
    pub(crate) error: Option<ErrorRecord>,
}

/// What is known of a step's latest attempt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum StepState {
    /// Intent without outcome, or an outcome that nobody could tell.
    Unknown(Option<String>),
    /// The effect happened; not verified yet.
    Applied(Value),
    /// Done.
    Done(Value, Done),
    /// Failed for certain.
    Failed(ErrorRecord),
    /// Found not to have happened.
    Absent,
    /// A person said that it happened.
    ResolvedApplied(Value),
}

/// How far a step is undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UndoState {
    No,
    /// Begun, or failed.
    Begun,
    Done,
}

/// One approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ApprovalEntry {
    Asked(String),
    Approved { by: String, plan: String },
    Denied { by: String, because: String },
}

impl StepEntry {
    /// Tells whether the world may differ because of this step.
    pub(crate) fn may_be_applied(&self) -> bool {
        self.effect != Effect::Observe && self.undone != UndoState::Done && self.state != StepState::Absent
    }

    /// Returns the output, where the effect is known to have happened.
    pub(crate) fn output(&self) -> Option<&Value> {
        match &self.state {
            StepState::Applied(output) | StepState::Done(output, _) | StepState::ResolvedApplied(output) => {
                Some(output)
            }
            StepState::Unknown(_) | StepState::Failed(_) | StepState::Absent => None,
        }
    }
}

impl Ledger {
    pub(crate) fn of(records: &[Record]) -> Self {
        let mut ledger = Self::default();
        for record in records {
            ledger.apply(record);
        }
        ledger
    }

    /// Tells whether the run is over for good or never touched anything.
    pub(crate) fn is_closed(&self) -> bool {
        self.ended.as_ref().map_or_else(|| !self.has_effects(), |(outcome, _)| self.closes_with(*outcome))
    }

    /// Tells whether ending so would close the run.
    pub(crate) fn closes_with(&self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Succeeded | Outcome::RolledBack | Outcome::Abandoned => true,
            Outcome::Paused => false,
            Outcome::Failed => !self.has_effects(),
        }
    }

    /// Tells whether the world may differ because of this run.
    pub(crate) fn has_effects(&self) -> bool {
        self.steps.values().any(StepEntry::may_be_applied)
    }

    /// Steps that a rollback has to undo, latest intent first.
    pub(crate) fn to_undo(&self) -> Vec<(String, StepEntry)> {
        let mut steps: Vec<_> = self
            .steps
            .iter()
            .filter(|(_, s)| s.may_be_applied())
            .filter(|(_, s)| match s.undo {
                UndoPlan::With { .. } | UndoPlan::Undeclared => true,
                // A pivot that failed for certain was not passed.
                UndoPlan::Pivot => !matches!(s.state, StepState::Failed(_)),
                UndoPlan::Unnecessary { .. } => false,
            })
            .map(|(path, s)| (path.clone(), s.clone()))
            .collect();
        steps.sort_by_key(|(_, s)| std::cmp::Reverse(s.order));
        steps
    }

    pub(crate) fn apply(&mut self, record: &Record) {
        match &record.entry {
            Entry::RunStarted { run, system, procedure, request, objective, plan, .. } => {
                self.header = Some(Header {
                    run: *run,
                    system: system.clone(),
                    procedure: procedure.clone(),
                    request: request.clone(),
                    objective: *objective,
                    plan: plan.clone(),
                });
            }
            Entry::RunResumed { .. } => self.ended = None,
            Entry::StepIntent { step, attempt, effect, input, version, undo, .. } => {
                self.next_order += 1;
                self.steps.insert(
                    step.clone(),
                    StepEntry {
                        effect: *effect,
                        input: input.clone(),
                        version: *version,
                        undo: undo.clone(),
                        attempt: *attempt,
                        order: self.next_order,
                        state: StepState::Unknown(None),
                        undone: UndoState::No,
                        error: None,
                    },
                );
            }
            Entry::StepApplied { step, output, .. } => self.set(step, StepState::Applied(output.clone())),
            Entry::StepDone { step, output, how, .. } => self.set(step, StepState::Done(output.clone(), *how)),
            Entry::StepFailed { step, error, .. } => {
                if let Some(entry) = self.steps.get_mut(step) {
                    entry.error = Some(error.clone());
                    // A verification that failed does not take the effect back.
                    if entry.output().is_none() {
                        entry.state = StepState::Failed(error.clone());
                    }
                }
            }
            Entry::StepUnknown { step, evidence, .. } => self.set(step, StepState::Unknown(Some(evidence.clone()))),
            Entry::StepAbsent { step, .. } => self.set(step, StepState::Absent),
            Entry::Resolved { step, verdict, output, .. } => self.set(
                step,
                match verdict {
                    Verdict::Applied => StepState::ResolvedApplied(output.clone()),
                    Verdict::NotApplied => StepState::Absent,
                },
            ),
            Entry::Decision { name, value } => {
                self.decisions.insert(name.clone(), value.clone());
            }
            Entry::ApprovalAsked { name, ask } => {
                self.approvals.insert(name.clone(), ApprovalEntry::Asked(ask.clone()));
            }
            Entry::Approved { name, by, plan } => {
                let entry = ApprovalEntry::Approved { by: by.clone(), plan: plan.clone() };
                self.approvals.insert(name.clone(), entry);
            }
            Entry::Denied { name, by, because } => {
                let entry = ApprovalEntry::Denied { by: by.clone(), because: because.clone() };
                self.approvals.insert(name.clone(), entry);
            }
            Entry::ChecklistItem { item, verdict, .. } => {
                self.checks.insert(item.clone(), *verdict);
            }
            Entry::Attached { file, .. } => {
                self.evidence_files.insert(file.clone());
            }
            Entry::RollbackStarted { .. } => {
                self.rollback = true;
                self.ended = None;
            }
            Entry::UndoIntent { step } | Entry::UndoFailed { step, .. } => self.set_undo(step, UndoState::Begun),
            Entry::UndoDone { step, .. } => self.set_undo(step, UndoState::Done),
            Entry::RunEnded { outcome, error } => self.ended = Some((*outcome, error.clone())),
            Entry::TailRepaired { .. } | Entry::Note { .. } => {}
        }
    }

    fn set(&mut self, step: &str, state: StepState) {
        if let Some(entry) = self.steps.get_mut(step) {
            entry.state = state;
        }
    }

    fn set_undo(&mut self, step: &str, undone: UndoState) {
        if let Some(entry) = self.steps.get_mut(step) {
            entry.undone = undone;
        }
    }
}
