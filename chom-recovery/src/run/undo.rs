//! Undo: what a step did is taken back, latest intent first.
//!
//! The closures that undo are code, so a run that is read back from its journal gets them by running its procedure
//! in mode unwind: every step answers with what is recorded, runs nothing and registers its undo. Where the record
//! ends, the procedure is left standing and dropped. Only when every step that may have been applied has registered,
//! the undos run; a version of the code that does not know one of them undoes nothing at all.

use std::{future::Future, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use serde_json::Value;
use tokio::time::Instant;

use super::{Inner, Mode, Run, StepCx, StepOutput, from_recorded, lock, step::guarded};
use crate::{
    error::{Error, ErrorKind, Result},
    run::{
        clock::millis,
        events::Event,
        failpoint,
        ledger::StepEntry,
        lock::LocalLock,
        record::{Entry, Outcome, UndoPlan},
    },
};

/// How long the procedure may go on without reaching another recorded step before unwinding gives up on it.
const REGISTRATION_IDLE: Duration = Duration::from_secs(10);

/// Undoes a step; gets its output, or `None` when nobody knows whether it was applied.
pub type UndoFn<T> = Arc<dyn Fn(StepCx, Option<T>) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// What undoing a step means.
pub enum Undo<T> {
    /// Nothing was said: an effect is refused.
    Undeclared,
    /// A function undoes it.
    With(UndoFn<T>),
    /// Point of no return: once it may have happened, nothing of the run is unwound.
    Pivot,
    /// Nothing has to be undone, and why.
    Unnecessary(&'static str),
}

impl<T> Undo<T> {
    pub(crate) fn plan(&self, text: &str) -> UndoPlan {
        match self {
            Self::Undeclared => UndoPlan::Undeclared,
            Self::With(_) => UndoPlan::With { text: text.into() },
            Self::Pivot => UndoPlan::Pivot,
            Self::Unnecessary(because) => UndoPlan::Unnecessary { because: (*because).into() },
        }
    }
}

impl<T> std::fmt::Debug for Undo<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.plan(""))
    }
}

type ErasedUndo = Arc<dyn Fn(StepCx, Option<Value>) -> Result<BoxFuture<'static, Result<()>>> + Send + Sync>;

/// The undo of one step of this run.
#[derive(Clone)]
pub(crate) struct Registered {
    undo: ErasedUndo,
    timeout: Duration,
}

impl Registered {
    pub(crate) fn of<T: StepOutput>(undo: &Undo<T>, path: &str, timeout: Option<Duration>) -> Option<Self> {
        let Undo::With(undo) = undo else { return None };
        let (undo, path) = (undo.clone(), path.to_owned());
        let erased: ErasedUndo = Arc::new(move |cx, output| {
            let output = output.map(|value| from_recorded(&path, value)).transpose()?;
            Ok(undo(cx, output))
        });
        Some(Self { undo: erased, timeout: timeout.unwrap_or(Duration::MAX) })
    }
}

impl Run {
    /// Undoes every step of this run that may have been applied, latest intent first, and closes the run.
    ///
    /// It cannot be cancelled, goes on when the returned future is dropped, and can be repeated after a failure.
    /// Inside of a plan it does nothing. Returns the paths of the steps that it undid.
    ///
    /// # Errors
    /// `Precondition`: the run passed its point of no return; nothing is undone. `Conflict`: this version of the code
    /// does not know a step; nothing is undone. The error of an undo that failed: steps before it are still in force.
    pub async fn roll_back(&self, because: &str) -> Result<Vec<String>> {
        match self.inner.mode {
            Mode::Plan => return Ok(Vec::new()),
            Mode::Unwind => return self.inner.park().await,
            Mode::Execute => {}
        }
        self.inner.settle_tasks().await;
        self.unwind(because, None).await
    }

    /// Unwinds in a task of its own. `resumed` is written first when another process began the run.
    pub(crate) async fn unwind(&self, because: &str, resumed: Option<Entry>) -> Result<Vec<String>> {
        let (inner, because) = (self.inner.clone(), because.to_owned());
        tokio::spawn(async move { inner.unwind(&because, resumed).await }).await.unwrap_or_else(|join| {
            Err(Error::new(ErrorKind::Failed, "the rollback's own task ended").caused_by(join.to_string()))
        })
    }

    /// Collects the undos of a run that was read back, by running its procedure without effects.
    pub(crate) async fn register_undos<T>(&self, procedure: impl Future<Output = T>) {
        let inner = &self.inner;
        tokio::pin!(procedure);
        while !inner.missing_undos().is_empty() {
            tokio::select! {
                _ = &mut procedure => break,
                () = inner.registered.notified() => {}
                () = tokio::time::sleep(REGISTRATION_IDLE) => break,
            }
        }
    }
}

impl Inner {
    /// Steps that have to be undone and whose undo is not known.
    fn missing_undos(&self) -> Vec<String> {
        let undos = lock(&self.undos);
        self.ledger(super::Ledger::to_undo)
            .into_iter()
            .filter(|(path, step)| matches!(step.undo, UndoPlan::With { .. }) && !undos.contains_key(path))
            .map(|(path, _)| path)
            .collect()
    }

    /// Runs the undos.
    async fn unwind(self: &Arc<Self>, because: &str, resumed: Option<Entry>) -> Result<Vec<String>> {
        if self.ledger(|l| matches!(l.ended, Some((Outcome::RolledBack, _)))) {
            return Ok(Vec::new());
        }
        let steps = self.ledger(super::Ledger::to_undo);
        self.check_can_unwind(&steps)?;
        self.lock_again().await?;
        if let Some(resumed) = resumed {
            self.append(resumed).await?;
        }
        if !self.ledger(|l| l.rollback) {
            let entry = Entry::RollbackStarted { by: self.operator.clone(), because: because.to_owned() };
            self.append(entry).await?;
        }
        let mut undone = Vec::new();
        for (path, step) in steps {
            self.undo_one(&path, &step).await?;
            undone.push(path);
        }
        self.end(Outcome::RolledBack, None).await?;
        Ok(undone)
    }

    /// A run that is over gave its locks back.
    async fn lock_again(&self) -> Result<()> {
        {
            let mut local = lock(&self.local_lock);
            if local.is_none() {
                *local = Some(LocalLock::acquire(&self.state_dir, &self.system, self.id, self.clock.as_ref())?);
            }
        }
        match &self.system_lock {
            Some(system_lock) => system_lock.acquire(&self.id).await,
            None => Ok(()),
        }
    }

    fn check_can_unwind(&self, steps: &[(String, StepEntry)]) -> Result<()> {
        if let Some((path, _)) = steps.iter().find(|(_, step)| step.undo == UndoPlan::Pivot) {
            return Err(Error::new(
                ErrorKind::Precondition,
                format!("cannot roll back: `{path}` is a point of no return, and it was passed"),
            )
            .hint(format!("go forward: chom-recovery resume {}", self.id)));
        }
        let missing = self.missing_undos();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, "cannot roll back: this version does not know every step of the run")
            .with("unknown", missing.join(", "))
            .hint("use the version that began the run; `chom-recovery runs show` tells it"))
    }

    async fn undo_one(self: &Arc<Self>, path: &str, step: &StepEntry) -> Result<()> {
        let Some(registered) = lock(&self.undos).get(path).cloned() else { return Ok(()) };
        self.append(Entry::UndoIntent { step: path.to_owned() }).await?;
        self.events.send(Event::UndoStarted { step: path.to_owned() });
        let begun = Instant::now();
        // An undo is not cancelled: half a rollback helps nobody.
        let cx = StepCx::new(self, path, step.attempt, tokio_util::sync::CancellationToken::new());
        let result = match (registered.undo)(cx, step.output().cloned()) {
            Ok(undo) => guarded(undo, registered.timeout).await,
            Err(error) => Err(error),
        };
        failpoint::hit("undo ended");
        let ms = millis(begun.elapsed());
        match result {
            Ok(()) => {
                self.append(Entry::UndoDone { step: path.to_owned(), ms }).await?;
                self.events.send(Event::UndoDone { step: path.to_owned(), ms });
                Ok(())
            }
            Err(error) => {
                let error = error
                    .during(format!("cannot undo `{path}`"))
                    .hint(format!("mend the cause, then `chom-recovery rollback {}` goes on from here", self.id));
                let record = error.to_record();
                self.append(Entry::UndoFailed { step: path.to_owned(), error: record.clone(), ms }).await?;
                self.events.send(Event::UndoFailed { step: path.to_owned(), error: record });
                Err(error)
            }
        }
    }
}
