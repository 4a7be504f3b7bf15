//! Runs as their journals tell them, for lists and reports.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Clock, RunId,
    cx::Attachment,
    journal,
    ledger::{ApprovalEntry, Ledger},
    record::{Done, Effect, Entry, ItemVerdict, Outcome, Record, UndoPlan},
};
use crate::{
    error::{Error, ErrorKind, ErrorRecord, Result},
    objective::Objective,
};

/// Prefix of a directory whose removal has begun.
const PRUNED: &str = ".pruned-";

/// What a journal says of its run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// Run.
    pub run: RunId,
    /// System.
    pub system: String,
    /// Procedure.
    pub procedure: String,
    /// Request.
    pub request: Value,
    /// Objectives in force.
    pub objective: Option<Objective>,
    /// Hash of the plan that approvals were bound to.
    pub plan: String,
    /// Who began it.
    pub operator: String,
    /// Where it began.
    pub host: String,
    /// Version that began it.
    pub version: String,
    /// Wall time of its begin.
    pub began: DateTime<Utc>,
    /// Wall time of its newest record.
    pub last: DateTime<Utc>,
    /// Time from the begin to the newest record in milliseconds, time between two processes included.
    pub elapsed_ms: u64,
    /// Whether the machine was restarted on the way, so that a part of `elapsed_ms` is taken from the wall clock.
    pub crossed_boot: bool,
    /// How often a process took it up again.
    pub resumes: u32,
    /// Where it stands.
    pub status: RunStatus,
    /// Whether it is over: it does not run, and leaves nothing that has to be resumed or undone before another begins.
    pub is_over: bool,
    /// Why, unless it goes well.
    pub error: Option<ErrorRecord>,
    /// Steps, in the order of their first intents.
    pub steps: Vec<StepSummary>,
    /// Scopes with a budget.
    pub scopes: Vec<ScopeSummary>,
    /// Items of checklists, in order.
    pub checks: Vec<CheckSummary>,
    /// Branches taken, by path.
    pub decisions: BTreeMap<String, Value>,
    /// Approvals, by path.
    pub approvals: BTreeMap<String, ApprovalSummary>,
    /// Evidence.
    pub attachments: Vec<Attachment>,
    /// Remarks with their steps, in order.
    pub notes: Vec<(String, String)>,
    /// Number of records, all of whose hashes are right.
    pub records: u64,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// A process is at it.
    Running,
    /// Its process ended without a word.
    Interrupted,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Waits for a person.
    Paused,
    /// Its rollback stopped before its end.
    RollingBack,
    /// Everything was undone.
    RolledBack,
    /// Given up.
    Abandoned,
}

/// A step of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepSummary {
    /// Path.
    pub step: String,
    /// Effect class.
    pub effect: Effect,
    /// Where it stands.
    pub status: StepStatus,
    /// Number of attempts.
    pub attempts: u32,
    /// First intent, in milliseconds after the begin of the run.
    pub offset_ms: u64,
    /// Duration of the latest attempt in milliseconds.
    pub ms: Option<u64>,
    /// Soft limit in milliseconds.
    pub budget_ms: Option<u64>,
    /// Bytes that it works through, where its duration depends on them.
    #[serde(default)]
    pub work_bytes: Option<u64>,
    /// How it is undone.
    pub undo: UndoPlan,
    /// How it came to be done.
    pub how: Option<Done>,
    /// Who approved it.
    pub approved_by: Option<String>,
    /// Output.
    pub output: Option<Value>,
    /// What its verification saw.
    pub evidence: Option<Value>,
    /// Why it failed.
    pub error: Option<ErrorRecord>,
}

impl StepSummary {
    /// Tells whether it took longer than its budget.
    pub fn is_over_budget(&self) -> bool {
        matches!((self.ms, self.budget_ms), (Some(ms), Some(budget)) if ms > budget)
    }
}

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// Intent without outcome.
    Begun,
    /// Acted, not verified.
    Unverified,
    /// Done.
    Done,
    /// Failed for certain.
    Failed,
    /// Nobody knows.
    Unknown,
    /// Found not to have happened.
    NotApplied,
    /// Its undo has begun or failed.
    Undoing,
    /// Undone.
    Undone,
}

/// A scope with a budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeSummary {
    /// Path.
    pub scope: String,
    /// Soft limit in milliseconds.
    pub budget_ms: u64,
    /// From its first intent to its newest outcome, in milliseconds.
    pub ms: u64,
}

/// An item of a checklist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckSummary {
    /// Path.
    pub item: String,
    /// Its text.
    pub text: String,
    /// Newest verdict.
    pub verdict: ItemVerdict,
    /// What was seen, or who vouched or waived and why.
    pub evidence: String,
}

/// An approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ApprovalSummary {
    /// Nobody has answered.
    Waiting {
        /// Question.
        ask: String,
    },
    /// Yes.
    Approved {
        /// Who.
        by: String,
    },
    /// No.
    Denied {
        /// Who.
        by: String,
        /// Why.
        because: String,
    },
}

impl RunSummary {
    /// Reads the journal of a run.
    ///
    /// # Errors
    /// `NotFound`: no such run, or it never began. `Corrupt`: the journal is damaged.
    pub fn read(state_dir: &Path, run: RunId) -> Result<Self> {
        let path = directory(state_dir, run).join(journal::FILE);
        let is_running = is_locked(&path);
        let records = journal::read(&path)?;
        Self::of(&records, is_running)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("run `{run}` never began")).hint("begin a new one"))
    }

    /// Sums up records. `None`: the run never began.
    pub fn of(records: &[Record], is_running: bool) -> Option<Self> {
        let ledger = Ledger::of(records);
        let first = records.first()?;
        let Entry::RunStarted { run, system, procedure, request, objective, plan, operator, host, version, .. } =
            &first.entry
        else {
            return None;
        };
        let mut summary = Self {
            run: *run,
            system: system.clone(),
            procedure: procedure.clone(),
            request: request.clone(),
            objective: *objective,
            plan: plan.clone(),
            operator: operator.clone(),
            host: host.clone(),
            version: version.clone(),
            began: first.time,
            last: first.time,
            elapsed_ms: 0,
            crossed_boot: false,
            resumes: 0,
            status: status(&ledger, is_running),
            is_over: ledger.is_closed() && !is_running,
            error: ledger.ended.as_ref().and_then(|(_, error)| error.clone()),
            steps: Vec::new(),
            scopes: Vec::new(),
            checks: Vec::new(),
            decisions: ledger.decisions.clone(),
            approvals: ledger.approvals.iter().map(|(path, a)| (path.clone(), a.into())).collect(),
            attachments: Vec::new(),
            notes: Vec::new(),
            records: records.len() as u64,
        };
        let mut timeline = Timeline { before: first, offset_ms: 0, crossed_boot: false };
        for record in records {
            timeline.advance(record);
            summary.add(record, timeline.offset_ms);
        }
        (summary.elapsed_ms, summary.crossed_boot) = (timeline.offset_ms, timeline.crossed_boot);
        Some(summary)
    }

    /// Tells whether the run can be resumed.
    pub fn can_resume(&self) -> bool {
        matches!(self.status, RunStatus::Interrupted | RunStatus::Failed | RunStatus::Paused)
    }

    /// Steps whose outcome a person has to settle before the run can go on.
    pub fn unknown_steps(&self) -> impl Iterator<Item = &StepSummary> {
        self.steps.iter().filter(|s| s.status == StepStatus::Unknown)
    }

    /// Tells whether the time taken fits into the recovery time objective; `None` without one.
    pub fn fits_rto(&self) -> Option<bool> {
        self.objective.map(|o| u128::from(self.elapsed_ms) <= o.rto.as_millis())
    }

    fn add(&mut self, record: &Record, offset_ms: u64) {
        self.last = record.time;
        match &record.entry {
            Entry::RunResumed { .. } => self.resumes += 1,
            Entry::StepIntent {
                step, attempt, effect, undo, budget_ms, approved_by, scope_budget, work_bytes, ..
            } => {
                let offset_ms = self.step(step).map_or(offset_ms, |s| s.offset_ms);
                let new = StepSummary {
                    step: step.clone(),
                    effect: *effect,
                    status: StepStatus::Begun,
                    attempts: *attempt,
                    offset_ms,
                    ms: None,
                    budget_ms: *budget_ms,
                    work_bytes: *work_bytes,
                    undo: undo.clone(),
                    how: None,
                    approved_by: approved_by.clone(),
                    output: None,
                    evidence: None,
                    error: None,
                };
                match self.step(step) {
                    Some(old) => *old = new,
                    None => self.steps.push(new),
                }
                if let Some((scope, budget_ms)) = scope_budget
                    && !self.scopes.iter().any(|s| s.scope == *scope)
                {
                    self.scopes.push(ScopeSummary { scope: scope.clone(), budget_ms: *budget_ms, ms: 0 });
                }
            }
            Entry::StepApplied { step, output, .. } => self.change(step, |s| {
                s.status = StepStatus::Unverified;
                s.output = Some(output.clone());
            }),
            Entry::StepDone { step, output, how, ms, evidence, .. } => self.change(step, |s| {
                s.status = StepStatus::Done;
                (s.output, s.how, s.ms) = (Some(output.clone()), Some(*how), Some(*ms));
                (s.evidence, s.error) = (evidence.clone(), None);
            }),
            Entry::StepFailed { step, error, ms, .. } => self.change(step, |s| {
                if s.status != StepStatus::Unverified {
                    s.status = StepStatus::Failed;
                }
                (s.error, s.ms) = (Some(error.clone()), Some(*ms));
            }),
            Entry::StepUnknown { step, evidence, .. } => self.change(step, |s| {
                s.status = StepStatus::Unknown;
                s.error = Some(Error::new(ErrorKind::OutcomeUnknown, evidence.clone()).to_record());
            }),
            Entry::StepAbsent { step, .. } => self.change(step, |s| s.status = StepStatus::NotApplied),
            Entry::Resolved { step, verdict, .. } => self.change(step, |s| {
                s.status = match verdict {
                    super::Verdict::Applied => StepStatus::Unverified,
                    super::Verdict::NotApplied => StepStatus::NotApplied,
                };
            }),
            Entry::UndoIntent { step } => self.change(step, |s| s.status = StepStatus::Undoing),
            Entry::UndoFailed { step, error, .. } => self.change(step, |s| s.error = Some(error.clone())),
            Entry::UndoDone { step, .. } => self.change(step, |s| s.status = StepStatus::Undone),
            Entry::ChecklistItem { item, text, verdict, evidence } => {
                let new = CheckSummary {
                    item: item.clone(),
                    text: text.clone(),
                    verdict: *verdict,
                    evidence: evidence.clone(),
                };
                match self.checks.iter_mut().find(|c| c.item == *item) {
                    Some(old) => *old = new,
                    None => self.checks.push(new),
                }
            }
            Entry::Attached { name, file, bytes, sha256, .. } => self.attachments.push(Attachment {
                name: name.clone(),
                file: file.clone(),
                bytes: *bytes,
                sha256: sha256.clone(),
            }),
            Entry::Note { step, text } => self.notes.push((step.clone(), text.clone())),
            _ => {}
        }
        self.extend_scopes(record, offset_ms);
    }

    fn extend_scopes(&mut self, record: &Record, offset_ms: u64) {
        let (Entry::StepDone { step, .. } | Entry::StepFailed { step, .. } | Entry::StepUnknown { step, .. }) =
            &record.entry
        else {
            return;
        };
        for scope in &mut self.scopes {
            let prefix = format!("{}/", scope.scope);
            if step.starts_with(&prefix) {
                let begin = self.steps.iter().filter(|s| s.step.starts_with(&prefix)).map(|s| s.offset_ms).min();
                scope.ms = offset_ms.saturating_sub(begin.unwrap_or(offset_ms));
            }
        }
    }

    fn step(&mut self, path: &str) -> Option<&mut StepSummary> {
        self.steps.iter_mut().find(|s| s.step == path)
    }

    fn change(&mut self, path: &str, change: impl FnOnce(&mut StepSummary)) {
        if let Some(step) = self.step(path) {
            change(step);
        }
    }
}

impl From<&ApprovalEntry> for ApprovalSummary {
    fn from(entry: &ApprovalEntry) -> Self {
        match entry {
            ApprovalEntry::Asked(ask) => Self::Waiting { ask: ask.clone() },
            ApprovalEntry::Approved { by, .. } => Self::Approved { by: by.clone() },
            ApprovalEntry::Denied { by, because } => Self::Denied { by: by.clone(), because: because.clone() },
        }
    }
}

/// Adds up time over processes and boots.
struct Timeline<'a> {
    before: &'a Record,
    offset_ms: u64,
    crossed_boot: bool,
}

impl<'a> Timeline<'a> {
    fn advance(&mut self, record: &'a Record) {
        let passed = if record.boot == self.before.boot {
            record.up_ms.saturating_sub(self.before.up_ms)
        } else {
            self.crossed_boot = true;
            u64::try_from((record.time - self.before.time).num_milliseconds()).unwrap_or(0)
        };
        self.offset_ms += passed;
        self.before = record;
    }
}

fn status(ledger: &Ledger, is_running: bool) -> RunStatus {
    match &ledger.ended {
        Some((Outcome::Succeeded, _)) => RunStatus::Succeeded,
        Some((Outcome::RolledBack, _)) => RunStatus::RolledBack,
        Some((Outcome::Abandoned, _)) => RunStatus::Abandoned,
        _ if ledger.rollback && !is_running => RunStatus::RollingBack,
        Some((Outcome::Failed, _)) => RunStatus::Failed,
        Some((Outcome::Paused, _)) => RunStatus::Paused,
        None if is_running => RunStatus::Running,
        None => RunStatus::Interrupted,
    }
}

fn is_locked(path: &Path) -> bool {
    // A shared lock disturbs no other reader; it is given back at once.
    File::open(path).is_ok_and(|f| matches!(f.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock)))
}

/// Lists all runs, oldest first; one whose journal cannot be read stands there with its error.
pub fn list(state_dir: &Path) -> Result<Vec<(RunId, Result<RunSummary>)>> {
    Ok(ids(state_dir)?.into_iter().map(|id| (id, RunSummary::read(state_dir, id))).collect())
}

/// Lists the ids of all runs, oldest first.
///
/// # Errors
/// The directory cannot be read; one that does not exist holds no runs.
pub fn ids(state_dir: &Path) -> Result<Vec<RunId>> {
    let mut ids: Vec<RunId> = names(state_dir)?.iter().filter_map(|name| name.parse().ok()).collect();
    ids.sort_unstable();
    Ok(ids)
}

pub(crate) fn runs_directory(state_dir: &Path) -> PathBuf {
    state_dir.join("runs")
}

pub(crate) fn directory(state_dir: &Path, run: RunId) -> PathBuf {
    runs_directory(state_dir).join(run.to_string())
}

/// The run of a journal that is held: it is over since long enough, and nobody can take it up meanwhile.
#[derive(Debug)]
pub(crate) struct Closed {
    directory: PathBuf,
    doomed: PathBuf,
    _lock: File,
}

impl Closed {
    /// Holds a run that ended well or was given up longer than `keep` ago; `None`: it did not, or it is being used.
    pub(crate) fn hold(state_dir: &Path, id: RunId, keep: Duration, clock: &dyn Clock) -> Option<Self> {
        let directory = directory(state_dir, id);
        let path = directory.join(journal::FILE);
        let file = File::open(&path).ok()?;
        if file.try_lock().is_err() {
            return None;
        }
        let records = journal::read(&path).ok()?;
        let last = records.last()?;
        let is_old = (clock.now() - last.time).to_std().is_ok_and(|age| age > keep);
        if !is_old || !Ledger::of(&records).is_closed() {
            return None;
        }
        let doomed = runs_directory(state_dir).join(format!("{PRUNED}{id}"));
        Some(Self { directory, doomed, _lock: file })
    }

    /// Removes its directory; it has lost its name before anything in it is gone.
    pub(crate) fn remove(self) -> Result<()> {
        std::fs::rename(&self.directory, &self.doomed)
            .and_then(|()| std::fs::remove_dir_all(&self.doomed))
            .map_err(|e| Error::from(e).during(format!("cannot remove `{}`", self.directory.display())))
    }
}

pub(crate) fn prune(state_dir: &Path, keep: Duration, clock: &dyn Clock) -> Result<Vec<RunId>> {
    let runs = runs_directory(state_dir);
    let fail = |e: std::io::Error| Error::from(e).during(format!("cannot prune runs in `{}`", runs.display()));
    // What an interrupted prune left.
    for name in names(state_dir)?.iter().filter(|name| name.starts_with(PRUNED)) {
        std::fs::remove_dir_all(runs.join(name)).map_err(fail)?;
    }
    let mut pruned = Vec::new();
    for id in ids(state_dir)? {
        if let Some(closed) = Closed::hold(state_dir, id, keep, clock) {
            closed.remove()?;
            pruned.push(id);
        }
    }
    Ok(pruned)
}

fn names(state_dir: &Path) -> Result<Vec<String>> {
    let path = runs_directory(state_dir);
    let fail = |e: std::io::Error| Error::from(e).during(format!("cannot list runs in `{}`", path.display()));
    match std::fs::read_dir(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries
            .map_err(fail)?
            .map(|entry| Ok(entry.map_err(fail)?.file_name().to_string_lossy().into_owned()))
            .collect(),
    }
}
