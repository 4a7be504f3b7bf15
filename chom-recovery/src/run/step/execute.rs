//! A step that acts: what an earlier process left is settled, the intent is recorded, then the outcome.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Observed, RECONCILE_TIMEOUT, Step, StepOutput, guarded, unknown};
use crate::{
    error::{Error, ErrorKind, Result},
    run::{
        StepCx,
        clock::millis,
        estimate::Work,
        events::Event,
        failpoint, from_recorded,
        ledger::{StepEntry, StepState},
        panic_text,
        record::{Done, Effect, Entry},
        to_recorded,
    },
};

/// How long a body may tidy up after its time is over before it is ended.
const GRACE: Duration = Duration::from_secs(2);
/// Longest pause between two attempts.
const LONGEST_BACKOFF: Duration = Duration::from_mins(1);

impl<T: StepOutput> Step<T> {
    pub(super) async fn execute(mut self) -> Result<T> {
        let path = self.enter()?;
        let inner = self.run.inner.clone();
        let mut attempt = 1;
        if let Some(known) = inner.known(&path) {
            attempt = known.attempt + 1;
            let is_kept = self.is_kept && matches!(known.state, StepState::Done(..));
            if self.effect != Effect::Observe || is_kept {
                self.check_same(&path, &known)?;
                self.register_undo(&path);
                if let Some(output) = self.settle(&path, &known).await? {
                    return Ok(output);
                }
            }
        }
        let last = attempt + self.retries;
        loop {
            match self.act(&path, attempt).await {
                Err(error) if attempt < last && is_worth_retrying(&error) && !self.is_applied(&path) => {
                    self.pause(&path, attempt, &error).await?;
                    attempt += 1;
                }
                result => {
                    if let Err(error) = &result {
                        inner.events.send(Event::StepFailed { step: path, error: error.to_record() });
                    }
                    return result;
                }
            }
        }
    }

    /// Checks that the step is the one that was recorded.
    fn check_same(&self, path: &str, known: &StepEntry) -> Result<()> {
        let same = known.input == self.input_hash() && known.version == self.version && known.effect == self.effect;
        if same || known.state == StepState::Absent {
            return Ok(());
        }
        let what = if known.version != self.version {
            "its code has another version"
        } else if known.effect == self.effect {
            "its input is another one"
        } else {
            "its effect class is another one"
        };
        Err(Error::new(ErrorKind::Conflict, format!("step `{path}` was run before, but {what} now"))
            .hint("roll the run back and begin a new one, or resume it with what it was begun with"))
    }

    /// Finds out what an earlier process left: the output, or `None` when the step has to act.
    async fn settle(&self, path: &str, known: &StepEntry) -> Result<Option<T>> {
        let inner = &self.run.inner;
        let is_safe_twice = self.effect == Effect::Idempotent;
        match &known.state {
            StepState::Done(output, _) => {
                inner.events.send(Event::StepReplayed { step: path.to_owned() });
                from_recorded(path, output.clone()).map(Some)
            }
            StepState::ResolvedApplied(output) => {
                let output: T = from_recorded(path, output.clone())
                    .map_err(|e| e.hint("resolve the step again and give its output as JSON"))?;
                self.finish(path, known.attempt, output, Done::Resolved, Instant::now()).await.map(Some)
            }
            StepState::Absent => Ok(None),
            StepState::Applied(_) if is_safe_twice => Ok(None),
            StepState::Applied(output) => {
                let output: T = from_recorded(path, output.clone())?;
                self.finish(path, known.attempt, output, Done::Ran, Instant::now()).await.map(Some)
            }
            StepState::Failed(_) if is_safe_twice || self.reconcile.is_none() => Ok(None),
            StepState::Unknown(_) if is_safe_twice && self.reconcile.is_none() => Ok(None),
            StepState::Failed(_) | StepState::Unknown(_) => self.look(path, known, is_safe_twice).await,
        }
    }

    /// Reconciles an interrupted step.
    async fn look(&self, path: &str, known: &StepEntry, is_safe_twice: bool) -> Result<Option<T>> {
        let inner = &self.run.inner;
        let attempt = known.attempt;
        let observed = match &self.reconcile {
            Some(reconcile) => {
                let limit = self.timeout.unwrap_or(RECONCILE_TIMEOUT);
                guarded(reconcile(self.cx(path, attempt)), limit)
                    .await
                    .map_err(|e| e.during(format!("cannot find out whether `{path}` happened")))?
            }
            None => Observed::CannotTell(match &known.state {
                StepState::Unknown(Some(evidence)) => evidence.clone(),
                _ => "the process ended between its intent and its outcome".into(),
            }),
        };
        let evidence = match observed {
            Observed::Applied(output) => {
                return self.finish(path, attempt, output, Done::Reconciled, Instant::now()).await.map(Some);
            }
            Observed::NotApplied => {
                inner.append(Entry::StepAbsent { step: path.to_owned(), attempt }).await?;
                return Ok(None);
            }
            Observed::Partial(_) | Observed::CannotTell(_) if is_safe_twice => return Ok(None),
            Observed::Partial(what) => format!("it happened in part: {what}"),
            Observed::CannotTell(why) => why,
        };
        let entry = Entry::StepUnknown { step: path.to_owned(), attempt, evidence: evidence.clone() };
        inner.append(entry).await?;
        let error = unknown(inner, path, &evidence);
        inner.events.send(Event::StepFailed { step: path.to_owned(), error: error.to_record() });
        Err(error)
    }

    /// Records the intent, acts, records the outcome.
    async fn act(&self, path: &str, attempt: u32) -> Result<T> {
        let inner = &self.run.inner;
        inner.check_going()?;
        let intent = Entry::StepIntent {
            step: path.to_owned(),
            attempt,
            effect: self.effect,
            input: self.input_hash(),
            version: self.version,
            undo: self.undo_plan(),
            budget_ms: self.budget.map(millis),
            timeout_ms: self.timeout.map(millis),
            scope_budget: self.run.scope_budget.clone().map(|(scope, budget)| (scope, millis(budget))),
            approved_by: self.approval.as_ref().map(|(by, _)| by.clone()),
            work_bytes: self.work.map(Work::bytes),
        };
        inner.append(intent).await?;
        self.register_undo(path);
        inner.events.send(Event::StepStarted {
            step: path.to_owned(),
            attempt,
            effect: self.effect,
            budget_ms: self.budget.map(millis),
        });
        let begun = Instant::now();
        let result = self.attempt(path, attempt).await;
        failpoint::hit("body ended");
        let Ended { error, is_definite } = match result {
            Ok(output) => return self.finish(path, attempt, output, Done::Ran, begun).await,
            Err(ended) => ended,
        };
        if is_definite || matches!(self.effect, Effect::Observe | Effect::Idempotent) {
            let (error_record, ms) = (error.to_record(), millis(begun.elapsed()));
            inner.append(Entry::StepFailed { step: path.to_owned(), attempt, error: error_record, ms }).await?;
            return Err(error);
        }
        let evidence = error.to_string();
        inner.append(Entry::StepUnknown { step: path.to_owned(), attempt, evidence: evidence.clone() }).await?;
        // A caller that asked to stop wants to hear just that; the journal knows the rest.
        if error.kind() == ErrorKind::Cancelled {
            Err(error)
        } else {
            Err(unknown(inner, path, &evidence).caused_by(error))
        }
    }

    /// Runs the body once, within its limits.
    pub(super) async fn attempt(&self, path: &str, attempt: u32) -> Result<T, Ended> {
        let Some(body) = &self.body else {
            return Err(Ended::definite(Error::new(
                ErrorKind::InvalidInput,
                format!("step `{path}` has nothing to run"),
            )));
        };
        let cancel = self.run.inner.cancel.child_token();
        let cx = StepCx::new(&self.run.inner, path, attempt, cancel.clone());
        let mut task = tokio::spawn(body(cx));
        let begun = Instant::now();
        let over_budget = self.budget.map(|budget| begun + budget);
        let deadline = self.timeout.map(|timeout| begun + timeout);
        let mut is_told = false;
        loop {
            tokio::select! {
                joined = &mut task => return self.joined(joined),
                () = at(over_budget), if !is_told => {
                    is_told = true;
                    let budget_ms = self.budget.map_or(0, millis);
                    self.run.inner.events.send(Event::OverBudget { step: path.to_owned(), budget_ms });
                }
                () = at(deadline) => break,
            }
        }
        self.time_out(path, &cancel, task).await
    }

    async fn time_out(
        &self,
        path: &str,
        cancel: &CancellationToken,
        mut task: tokio::task::JoinHandle<Result<T>>,
    ) -> Result<T, Ended> {
        cancel.cancel();
        if let Ok(joined) = tokio::time::timeout(GRACE, &mut task).await
            && let Ok(Ok(output)) = joined
        {
            return Ok(output);
        }
        task.abort();
        let limit = self.timeout.unwrap_or_default().as_secs_f64();
        let error = Error::new(ErrorKind::Timeout, format!("step `{path}` did not end within {limit:.1} s"));
        Err(Ended { error, is_definite: false })
    }

    fn joined(&self, joined: Result<Result<T>, tokio::task::JoinError>) -> Result<T, Ended> {
        match joined {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(error)) => Err(Ended { is_definite: !is_ambiguous(error.kind()), error }),
            Err(join) => {
                let why = match join.try_into_panic() {
                    Ok(panic) => format!("its code panicked: {}", panic_text(panic.as_ref())),
                    Err(join) => join.to_string(),
                };
                let error = Error::new(ErrorKind::Failed, format!("step `{}`: {why}", self.name));
                Err(Ended { error, is_definite: false })
            }
        }
    }

    /// Verifies and records the outcome.
    async fn finish(&self, path: &str, attempt: u32, output: T, how: Done, begun: Instant) -> Result<T> {
        let inner = &self.run.inner;
        let recorded = to_recorded(path, &output)?;
        let output = Arc::new(output);
        let mut evidence = None;
        if let Some(verify) = &self.verify {
            if !self.is_applied(path) {
                let entry = Entry::StepApplied { step: path.to_owned(), attempt, output: recorded.clone() };
                inner.append(entry).await?;
            }
            let limit = self.timeout.unwrap_or(Duration::MAX);
            match guarded(verify(self.cx(path, attempt), output.clone()), limit).await {
                Ok(seen) => evidence = Some(seen).filter(|seen| !seen.is_null()),
                Err(error) => {
                    let error = error.during(format!("step `{path}` acted, but its verification failed"));
                    let (error_record, ms) = (error.to_record(), millis(begun.elapsed()));
                    inner.append(Entry::StepFailed { step: path.to_owned(), attempt, error: error_record, ms }).await?;
                    return Err(error);
                }
            }
        }
        let ms = millis(begun.elapsed());
        inner
            .append(Entry::StepDone { step: path.to_owned(), attempt, output: recorded.clone(), how, ms, evidence })
            .await?;
        inner.events.send(Event::StepDone { step: path.to_owned(), ms, budget_ms: self.budget.map(millis) });
        // A verification that kept the output leaves the recorded one, which a resumed run would get too.
        Arc::try_unwrap(output).or_else(|_| from_recorded(path, recorded))
    }

    /// Tells whether an effect that must not be applied twice is in force.
    fn is_applied(&self, path: &str) -> bool {
        let known = self.run.inner.known(path);
        self.effect != Effect::Idempotent && known.is_some_and(|k| k.output().is_some())
    }

    pub(super) async fn pause(&self, path: &str, attempt: u32, error: &Error) -> Result<()> {
        let factor = 2u32.saturating_pow((attempt - 1).min(16));
        let wait = self.backoff.saturating_mul(factor).min(LONGEST_BACKOFF);
        let inner = &self.run.inner;
        inner.events.send(Event::Retrying { step: path.to_owned(), error: error.to_record(), wait_ms: millis(wait) });
        tokio::select! {
            () = sleep(wait) => Ok(()),
            () = inner.cancel.cancelled() => Err(inner.cancelled()),
        }
    }
}

/// Why an attempt did not succeed.
pub(super) struct Ended {
    pub(super) error: Error,
    /// Whether it is certain that the effect did not happen.
    is_definite: bool,
}

impl Ended {
    fn definite(error: Error) -> Self {
        Self { error, is_definite: true }
    }
}

fn is_ambiguous(kind: ErrorKind) -> bool {
    use ErrorKind as K;
    matches!(kind, K::OutcomeUnknown | K::Timeout | K::Unreachable | K::Cancelled)
}

/// Tells whether the same attempt may succeed later.
pub(super) fn is_worth_retrying(error: &Error) -> bool {
    use ErrorKind as K;
    matches!(
        error.kind(),
        K::Failed | K::Incomplete | K::Unhealthy | K::Unreachable | K::Timeout | K::Locked | K::NotFound | K::Conflict
    )
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
