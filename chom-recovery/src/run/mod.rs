//! Runs and steps: what makes a procedure survive a crash, prove itself and be undone.
//!
//! A procedure is a plain `async fn(&Run, Request) -> Result<Report>`. It acts on the world through [`Run::step`]
//! only; everything between steps has to be free of effects and to depend on nothing but the request and the results
//! of steps, since resuming, planning and rolling back run the same code again:
//!
//! | mode | observations | effects |
//! |---|---|---|
//! | execute | run | run; those that the journal knows as done return their recorded output |
//! | plan | run | refused and listed; a prediction stands in for the output |
//! | unwind | recorded output | recorded output; nothing runs, undos are collected, then run in reverse |
//!
//! The journal is written and synced before a step acts and after. What a process that was killed leaves behind is
//! an intent without an outcome: the step's `reconcile` finds out whether it happened, and where nothing can tell,
//! the run stops and asks a person ([`Engine::resolve`]).
//!
//! # Examples
//! ```
//! use chom_recovery::run::{Effect, Engine, NewRun};
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! # let dir = tempfile::tempdir()?;
//! let engine = Engine::new(dir.path());
//! let run = engine.start(NewRun::new("chom", "greet", &"world")?).await?;
//! let cx = run.clone();
//! let length = run
//!     .execute(async move {
//!         let whom: String = cx.request()?;
//!         cx.step("measure").effect(Effect::Observe).run(async move |_| Ok(whom.len())).await
//!     })
//!     .await?;
//! assert_eq!(length, 5);
//! # Ok::<(), chom_recovery::Error>(())
//! # })?;
//! # Ok::<(), chom_recovery::Error>(())
//! ```

use std::{
    collections::{HashMap, HashSet},
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    error::{Error, ErrorKind, Result},
    objective::Objective,
};

mod approval;
mod checklist;
mod clock;
mod cx;
mod engine;
mod estimate;
mod events;
#[cfg(feature = "testing")]
pub mod failpoint;
#[cfg(not(feature = "testing"))]
pub(crate) mod failpoint;
mod id;
pub mod journal;
mod ledger;
mod lock;
mod plan;
pub mod record;
mod resolve;
mod step;
pub mod summary;
mod undo;
mod wait;

pub use approval::{AlwaysYes, Approvable, Approval, Approver, AskLater, AskWith, Question, Reply};
pub use checklist::{Item, ItemKind, Waiver};
pub use clock::{Clock, SystemClock};
pub use cx::{Attachment, StepCx};
pub use engine::{Engine, Header, NewRun};
pub use estimate::{Basis, Estimate, Work};
pub use events::{Event, EventStream};
pub use id::{EffectKey, RunId};
pub use lock::SystemLock;
pub use plan::{Plan, PlanItem, PlannedStep};
pub use record::{Effect, ItemVerdict, Outcome, UndoPlan, Verdict};
pub use resolve::{OutputSource, Resolution, Word};
pub use step::{Observed, Step, StepOutput};
pub use undo::{Undo, UndoFn};
pub use wait::Wait;

use estimate::History;
use events::Events;
use journal::Journal;
use ledger::{ApprovalEntry, Ledger, StepEntry};
use lock::LocalLock;
use record::Entry;
use undo::Registered;

/// One run of one procedure. Clones are the same run.
#[derive(Clone)]
pub struct Run {
    inner: Arc<Inner>,
    scope: String,
    scope_budget: Option<(String, Duration)>,
}

/// What the run's code is being run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Execute,
    Plan,
    Unwind,
}

/// What a path names. Steps, decisions and approvals do not get in each other's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Step,
    Decision,
    /// Approvals and items of checklists: `chom-recovery approve` takes either.
    Approval,
}

pub(crate) struct Inner {
    id: RunId,
    mode: Mode,
    system: String,
    procedure: String,
    request: Value,
    objective: Option<Objective>,
    /// Hash of the plan that approvals are bound to.
    plan_hash: String,
    operator: String,
    state_dir: PathBuf,
    directory: PathBuf,
    book: Arc<Mutex<Book>>,
    clock: Arc<dyn Clock>,
    approver: Arc<dyn Approver>,
    waivers: Vec<Waiver>,
    cancel: CancellationToken,
    events: Events,
    /// Step bodies that are running. They belong to the run, not to whoever awaits them.
    tasks: TaskTracker,
    /// Paths used by this process: one used twice would mix up two steps.
    paths: Mutex<HashSet<(Kind, String)>>,
    undos: Mutex<HashMap<String, Registered>>,
    /// A step that is to say, in mode unwind, what a person's word on it comes to.
    asked: resolve::Pending,
    /// Rings in mode unwind when a step was registered.
    registered: Notify,
    planned: Mutex<Planned>,
    local_lock: Mutex<Option<LocalLock>>,
    system_lock: Option<Arc<dyn SystemLock>>,
}

/// The journal and its sum, changed together.
#[derive(Debug)]
struct Book {
    journal: Option<Journal>,
    ledger: Ledger,
    /// Remarks, written with the next record.
    notes: Vec<Entry>,
}

#[derive(Debug, Default)]
struct Planned {
    /// How long steps took before.
    history: History,
    items: Vec<PlanItem>,
    boundary: Option<String>,
    /// Whether an effect was refused, so that later observations may look at what is not there yet.
    refused: bool,
}

impl Run {
    /// Returns the run's id; [`RunId::PLANNED`] when planning.
    pub fn id(&self) -> RunId {
        self.inner.id
    }

    /// Names the procedure.
    pub fn procedure(&self) -> &str {
        &self.inner.procedure
    }

    /// Names the system.
    pub fn system(&self) -> &str {
        &self.inner.system
    }

    /// Returns the request that the run was started with.
    ///
    /// # Errors
    /// `InvalidInput`: it is not a `T`.
    pub fn request<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.inner.request.clone()).map_err(|e| {
            Error::new(ErrorKind::InvalidInput, format!("the request of run `{}` has another form", self.id()))
                .caused_by(e)
        })
    }

    /// Returns the objectives in force.
    pub fn objective(&self) -> Option<Objective> {
        self.inner.objective
    }

    /// Returns the hash of the plan that approvals are bound to.
    pub fn plan_hash(&self) -> &str {
        &self.inner.plan_hash
    }

    /// Returns the run's directory. It does not exist when planning.
    pub fn directory(&self) -> &std::path::Path {
        &self.inner.directory
    }

    /// Tells whether effects are refused, because this is a plan.
    pub fn is_planning(&self) -> bool {
        self.inner.mode == Mode::Plan
    }

    /// Returns the token that stops the run at the next step boundary.
    pub fn cancellation(&self) -> CancellationToken {
        self.inner.cancel.clone()
    }

    /// Subscribes to what happens from now on.
    pub fn events(&self) -> EventStream {
        self.inner.events.subscribe()
    }

    /// Returns the run with `name/` in front of the names of all steps: this is how procedures are put together.
    #[must_use]
    pub fn scope(&self, name: impl AsRef<str>) -> Self {
        Self { scope: self.path(name.as_ref()), ..self.clone() }
    }

    /// Gives this scope a soft limit, shown beside what its steps took.
    #[must_use]
    pub fn budget(mut self, budget: Duration) -> Self {
        self.scope_budget = Some((self.scope.clone(), budget));
        self
    }

    /// Begins to describe a step. It does nothing until it is awaited.
    ///
    /// The name is the step's identity in journals: it stays the same from version to version.
    pub fn step<T: StepOutput>(&self, name: impl Into<String>) -> Step<T> {
        Step::new(self.clone(), name.into())
    }

    /// Takes a branch, once: a resumed run takes the same branch though the world has changed.
    ///
    /// `choose` observes and decides; it changes nothing.
    pub async fn decide<T: StepOutput>(&self, name: &str, choose: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let path = self.enter(Kind::Decision, name, None)?;
        let recorded = self.inner.ledger(|l| l.decisions.get(&path).cloned());
        match (self.inner.mode, recorded) {
            (Mode::Execute | Mode::Unwind, Some(value)) => return from_recorded(&path, value),
            (Mode::Unwind, None) => return self.inner.park().await,
            _ => {}
        }
        self.inner.check_going()?;
        let chosen = choose.await?;
        let value = to_recorded(&path, &chosen)?;
        self.inner.events.send(Event::Decided { name: path.clone(), value: value.clone() });
        if self.is_planning() {
            self.inner.plan(PlanItem::Decision { name: path, value });
        } else {
            self.inner.append(Entry::Decision { name: path, value }).await?;
        }
        Ok(chosen)
    }

    /// Asks for approval of what follows; recorded, and bound to the run's plan.
    ///
    /// # Errors
    /// `NeedsConfirmation`: nobody is there to answer; the run pauses. `Denied`: the answer is no.
    /// `Conflict`: what was approved is another plan.
    pub async fn approve<A: Approvable>(&self, ask: &str) -> Result<Approval<A>> {
        let path = self.enter(Kind::Approval, A::NAME, None)?;
        if self.is_planning() {
            self.inner.plan(PlanItem::Approval { name: path, ask: ask.into() });
            return Ok(Approval::new("plan".into(), self.inner.plan_hash.clone()));
        }
        let by = self.ask(&path, ask, None).await?;
        Ok(Approval::new(by, self.inner.plan_hash.clone()))
    }

    /// Gets a recorded yes or asks for one, and names who said it.
    async fn ask(&self, path: &str, ask: &str, role: Option<&str>) -> Result<String> {
        let recorded = self.inner.ledger(|l| l.approvals.get(path).cloned());
        match (&recorded, self.inner.mode) {
            (Some(ApprovalEntry::Approved { by, plan }), _) => {
                approval::check_plan(path, plan, &self.inner.plan_hash)?;
                return Ok(by.clone());
            }
            (Some(ApprovalEntry::Denied { by, because }), Mode::Unwind) => {
                return Err(approval::denied(path, by, because));
            }
            (_, Mode::Unwind) => return self.inner.park().await,
            _ => {}
        }
        self.inner.check_going()?;
        if recorded.is_none() {
            self.inner.append(Entry::ApprovalAsked { name: path.into(), ask: ask.into() }).await?;
        }
        self.inner.events.send(Event::ApprovalNeeded { name: path.into(), ask: ask.into() });
        let question = Question {
            run: self.id().to_string(),
            name: path.into(),
            ask: ask.into(),
            role: role.map(Into::into),
            plan: Some(self.inner.plan_hash.clone()),
        };
        let reply = tokio::select! {
            reply = self.inner.approver.ask(&question) => reply,
            () = self.inner.cancel.cancelled() => return Err(self.inner.cancelled()),
        };
        match reply {
            Reply::Yes { by } => {
                let entry = Entry::Approved { name: path.into(), by: by.clone(), plan: self.inner.plan_hash.clone() };
                self.inner.append(entry).await?;
                self.inner.events.send(Event::Approved { name: path.into(), by: by.clone() });
                Ok(by)
            }
            Reply::No { by, because } => {
                let entry = Entry::Denied { name: path.into(), by: by.clone(), because: because.clone() };
                self.inner.append(entry).await?;
                Err(approval::denied(path, &by, &because))
            }
            Reply::Later => Err(approval::needs_confirmation(&question.run, path, ask)),
        }
    }

    /// Runs a procedure to its end and records how it ended.
    ///
    /// A run that waits for a person, was cancelled or has an unknown outcome is paused; any other error makes it
    /// failed. Both can be resumed and rolled back.
    ///
    /// # Cancel
    /// Dropping this future stops the procedure between steps; a step that has begun goes on in its own task and its
    /// outcome is recorded.
    pub async fn execute<T>(&self, procedure: impl Future<Output = Result<T>>) -> Result<T> {
        let result = AssertUnwindSafe(procedure).catch_unwind().await.unwrap_or_else(|panic| {
            Err(Error::new(ErrorKind::Failed, format!("the procedure panicked: {}", panic_text(panic.as_ref()))))
        });
        self.inner.settle_tasks().await;
        let error = result.as_ref().err().map(Error::to_record);
        let outcome = match result.as_ref().err().map(Error::kind) {
            None => Outcome::Succeeded,
            Some(ErrorKind::NeedsConfirmation | ErrorKind::OutcomeUnknown | ErrorKind::Cancelled) => Outcome::Paused,
            Some(_) => Outcome::Failed,
        };
        let recorded = self.inner.end(outcome, error).await;
        let value = result?;
        recorded?;
        Ok(value)
    }

    /// Checks a name and makes the path of a step, decision or approval, which nothing else of this run may have.
    fn enter(&self, kind: Kind, name: &str, key: Option<&str>) -> Result<String> {
        for part in self.scope.split('/').filter(|p| !p.is_empty()) {
            id::check_name(part)?;
        }
        id::check_name(name)?;
        let mut path = self.path(name);
        if let Some(key) = key {
            id::check_key(key)?;
            path = format!("{path}[{key}]");
        }
        if !lock(&self.inner.paths).insert((kind, path.clone())) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("{kind:?} `{path}` occurs twice in this run"))
                .hint("give it a `key` of its own"));
        }
        Ok(path)
    }

    fn path(&self, name: &str) -> String {
        if self.scope.is_empty() { name.to_owned() } else { format!("{}/{name}", self.scope) }
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("id", &self.inner.id).field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl Inner {
    fn ledger<R>(&self, look: impl FnOnce(&Ledger) -> R) -> R {
        look(&lock(&self.book).ledger)
    }

    fn known(&self, path: &str) -> Option<StepEntry> {
        self.ledger(|l| l.steps.get(path).cloned())
    }

    fn plan(&self, item: PlanItem) {
        lock(&self.planned).items.push(item);
    }

    /// Writes a record; it is on the disk when this returns, also when the returned future is dropped.
    async fn append(&self, entry: Entry) -> Result<()> {
        let (book, clock) = (self.book.clone(), self.clock.clone());
        let write = move || {
            let mut book = lock(&book);
            let Book { journal, ledger, notes } = &mut *book;
            let journal = journal
                .as_mut()
                .ok_or_else(|| Error::new(ErrorKind::Failed, "nothing is recorded when planning (this is a bug)"))?;
            // A remark that cannot be written must not keep an outcome from being written.
            for note in notes.drain(..) {
                let _ = journal.append(note, clock.as_ref());
            }
            ledger.apply(&journal.append(entry, clock.as_ref())?);
            Ok(())
        };
        tokio::task::spawn_blocking(write).await.unwrap_or_else(|e| {
            Err(Error::new(ErrorKind::Failed, "a journal record was not written").caused_by(e.to_string()))
        })
    }

    /// Refuses to begin anything new after a cancel or once the run is being unwound.
    fn check_going(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(self.cancelled());
        }
        if self.ledger(|l| l.rollback) {
            return Err(Error::new(ErrorKind::Conflict, format!("run `{}` is being rolled back", self.id))
                .hint(format!("chom-recovery rollback {}", self.id)));
        }
        Ok(())
    }

    fn cancelled(&self) -> Error {
        let error = Error::new(ErrorKind::Cancelled, "stopped at a step boundary, as asked");
        if self.mode == Mode::Plan { error } else { error.hint(format!("chom-recovery resume {}", self.id)) }
    }

    /// Where unwinding comes to what the run never finished: the procedure waits here and is dropped.
    async fn park<T>(&self) -> Result<T> {
        self.registered.notify_one();
        std::future::pending().await
    }

    /// Waits for every step body that still runs.
    async fn settle_tasks(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    /// Records how this stretch ended and gives the locks back when the run is closed.
    async fn end(&self, outcome: Outcome, error: Option<crate::ErrorRecord>) -> Result<()> {
        // Given back before the record: a run that is over on record is never taken up again, not even for this.
        let released = match &self.system_lock {
            Some(system_lock) if self.ledger(|l| l.closes_with(outcome)) => system_lock.release(&self.id).await,
            _ => Ok(()),
        };
        let unwound = self.ledger(|l| matches!(l.ended, Some((Outcome::RolledBack, _))));
        if !unwound {
            self.append(Entry::RunEnded { outcome, error: error.clone() }).await?;
        }
        if let Err(error) = released {
            // What the run did is done all the same. On this host the next run takes the lock over.
            let text = format!("the lock that other hosts see was not given back (`runs prune` removes it): {error}");
            tracing::warn!(run = %self.id, "{text}");
            self.events.send(Event::Note { step: "lock".into(), text });
        }
        self.events.send(Event::RunEnded { outcome, error });
        if self.ledger(Ledger::is_closed) {
            lock(&self.local_lock).take();
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn to_recorded(path: &str, value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|e| {
        Error::new(ErrorKind::InvalidInput, format!("the output of `{path}` cannot be written as JSON")).caused_by(e)
    })
}

fn from_recorded<T: DeserializeOwned>(path: &str, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| {
        Error::new(ErrorKind::Conflict, format!("the recorded output of `{path}` has another form"))
            .caused_by(e)
            .hint("use the version that began the run; `chom-recovery runs show` tells it")
    })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests;
