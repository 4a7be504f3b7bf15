//! The step: the smallest journalled effect.

use std::{
    future::{Future, IntoFuture},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Inner, Kind, Mode, PlanItem, Run, StepCx, from_recorded, lock, panic_text, to_recorded};
use crate::{
    error::{Error, ErrorKind, Result},
    run::{
        approval::{self, Approval},
        clock::millis,
        estimate::{Basis, Estimate, Work},
        events::Event,
        failpoint,
        ledger::{StepEntry, StepState},
        plan::{PlannedStep, hash_input},
        record::{Done, Effect, Entry, UndoPlan},
        undo::{Registered, Undo},
    },
};

mod word;

/// How long a body may tidy up after its time is over before it is ended.
const GRACE: Duration = Duration::from_secs(2);
/// Longest time for finding out whether a step was applied, where the step has no timeout of its own.
const RECONCILE_TIMEOUT: Duration = Duration::from_mins(5);
/// Longest pause between two attempts.
const LONGEST_BACKOFF: Duration = Duration::from_mins(1);

/// What a step may return: recorded as JSON, read back by a resumed run.
pub trait StepOutput: Serialize + DeserializeOwned + Send + Sync + 'static {}
impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> StepOutput for T {}

/// What is found when looking whether an interrupted step was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed<T> {
    /// Not at all: the step runs again.
    NotApplied,
    /// Wholly; this is its output.
    Applied(T),
    /// In part; the text says what. A step that may be applied twice runs again, else a person has to look.
    Partial(String),
    /// Nothing can tell; the text says why.
    CannotTell(String),
}

type Body<T> = Box<dyn Fn(StepCx) -> BoxFuture<'static, Result<T>> + Send + Sync>;
type Verify<T> = Box<dyn Fn(StepCx, Arc<T>) -> BoxFuture<'static, Result<Value>> + Send + Sync>;

/// A step being described; awaiting it runs it.
///
/// Closures are called again for every attempt, on a clone of what they captured.
#[must_use = "a step does nothing until awaited"]
pub struct Step<T> {
    run: Run,
    name: String,
    key: Option<String>,
    effect: Effect,
    budget: Option<Duration>,
    timeout: Option<Duration>,
    estimate: Option<Duration>,
    work: Option<Work>,
    ends_outage: bool,
    retries: u32,
    backoff: Duration,
    input: Result<Option<String>>,
    version: u32,
    is_kept: bool,
    /// Name of who approved and hash of the approved plan.
    approval: Option<(String, String)>,
    undo: Undo<T>,
    undo_text: Option<String>,
    predict: Option<Box<dyn FnOnce() -> T + Send + Sync>>,
    reconcile: Option<Body<Observed<T>>>,
    derive: Option<Body<T>>,
    verify: Option<Verify<T>>,
    body: Option<Body<T>>,
}

impl<T: StepOutput> Step<T> {
    pub(crate) fn new(run: Run, name: String) -> Self {
        Self {
            run,
            name,
            key: None,
            effect: Effect::Once,
            budget: None,
            timeout: None,
            estimate: None,
            work: None,
            ends_outage: false,
            retries: 0,
            backoff: Duration::ZERO,
            input: Ok(None),
            version: 1,
            is_kept: false,
            approval: None,
            undo: Undo::Undeclared,
            undo_text: None,
            predict: None,
            reconcile: None,
            derive: None,
            verify: None,
            body: None,
        }
    }

    /// Sets what the step does to the world. Default: [`Effect::Once`], which allows nothing by accident.
    pub fn effect(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self
    }

    /// Sets the soft limit: exceeding it is told and recorded, and stops nothing.
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Sets the hard limit of one attempt. The body is told through its token, then ended; an effect that must not be
    /// applied twice has an unknown outcome after that.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the duration that plans expect where no earlier run has measured it. Without it, [`Step::work`] is
    /// computed, and the budget stands in for both.
    pub fn estimate(mut self, estimate: Duration) -> Self {
        self.estimate = Some(estimate);
        self
    }

    /// Says what the step works through, where its duration depends on that: what was measured with other bytes is
    /// scaled.
    pub fn work(mut self, work: Work) -> Self {
        self.work = Some(work);
        self
    }

    /// Says that the outage is over once this step is done: up to here a plan is held against the recovery time
    /// objective.
    pub fn ends_outage(mut self) -> Self {
        self.ends_outage = true;
        self
    }

    /// Tries up to `times` more often after a definite failure, with a pause that doubles from `backoff` to at most a
    /// minute.
    pub fn retry(mut self, times: u32, backoff: Duration) -> Self {
        (self.retries, self.backoff) = (times, backoff);
        self
    }

    /// Names what the step depends on. Its hash is recorded: on resume another input is a conflict, not a reuse.
    /// Types whose JSON has no fixed order (hash maps) do not belong here.
    pub fn input(mut self, input: &impl Serialize) -> Self {
        self.input = hash_input(input).map(Some);
        self
    }

    /// Sets the version of the step's code, for changes that make old outputs useless. Default: 1.
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Keeps what an observation saw: a resumed run gets the recorded answer instead of looking again. For what is dear
    /// to look at, or has another answer later. Effects are kept always.
    pub fn kept(mut self) -> Self {
        self.is_kept = true;
        self
    }

    /// Tells steps of the same name apart, for loops.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Gives the output that planning goes on with. Without one a plan ends at this step.
    ///
    /// On an observation it is used only after an effect was refused, when there may be nothing to look at yet.
    pub fn predict(mut self, predict: impl FnOnce() -> T + Send + Sync + 'static) -> Self {
        self.predict = Some(Box::new(predict));
        self
    }

    /// Shows the approval that a destructive step needs.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "showing an approval uses it up; a clone says that it covers more"
    )]
    pub fn approved<A>(mut self, approval: Approval<A>) -> Self {
        self.approval = Some((approval.by().to_owned(), approval.plan_hash().to_owned()));
        self
    }

    /// Says how the step is undone. Default: [`Undo::Undeclared`], which every effect is refused for.
    pub fn undo(mut self, undo: Undo<T>) -> Self {
        self.undo = undo;
        self
    }

    /// Undoes the step with a function, which gets the output, or `None` when nobody knows whether the step was
    /// applied. It may be called again after it was interrupted, so it has to reach its goal from any state between,
    /// and it returns `Ok` only once it has checked that goal.
    pub fn undo_with<F, Fut>(self, undo: F) -> Self
    where
        F: FnOnce(StepCx, Option<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.undo(Undo::With(Arc::new(move |cx, output| undo.clone()(cx, output).boxed())))
    }

    /// Says in a line what the undo does, for plans.
    pub fn undo_text(mut self, text: impl Into<String>) -> Self {
        self.undo_text = Some(text.into());
        self
    }

    /// Finds out, after an interruption, whether the step was applied. The key of `cx` is that of the interrupted
    /// attempt.
    pub fn reconcile<F, Fut>(mut self, reconcile: F) -> Self
    where
        F: FnOnce(StepCx) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Observed<T>>> + Send + 'static,
    {
        self.reconcile = Some(Box::new(move |cx| reconcile.clone()(cx).boxed()));
        self
    }

    /// Finds out what the step returned, once a person has said that it took effect and [`Step::reconcile`] cannot tell.
    /// Without it that person has to type the output of a step that returns something.
    pub fn derive<F, Fut>(mut self, derive: F) -> Self
    where
        F: FnOnce(StepCx) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        self.derive = Some(Box::new(move |cx| derive.clone()(cx).boxed()));
        self
    }

    /// Checks the step's promise. The step counts as done only after this; what it returns is recorded as evidence.
    pub fn verify<F, Fut, V>(mut self, verify: F) -> Self
    where
        F: FnOnce(StepCx, Arc<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<V>> + Send + 'static,
        V: Serialize,
    {
        self.verify = Some(Box::new(move |cx, output| {
            let verify = verify.clone();
            async move {
                let step = cx.key().step.clone();
                to_recorded(&step, &verify(cx, output).await?)
            }
            .boxed()
        }));
        self
    }

    /// Sets what the step does.
    ///
    /// The body runs in a task of its own that the run owns. An error of kind `OutcomeUnknown`, `Timeout`,
    /// `Unreachable` or `Cancelled` from a step that must not be applied twice means that nobody knows; any other
    /// error means that the effect did not happen.
    pub fn run<F, Fut>(mut self, body: F) -> Self
    where
        F: FnOnce(StepCx) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        self.body = Some(Box::new(move |cx| body.clone()(cx).boxed()));
        self
    }

    /// Checks what is said about the step and makes its path.
    fn enter(&mut self) -> Result<String> {
        let path = self.run.enter(Kind::Step, &self.name, self.key.as_deref())?;
        if let Err(error) = &self.input {
            return Err(Error::from(error.to_record()).during(format!("step `{path}`")));
        }
        let refuse = |why: &str| Err(Error::new(ErrorKind::InvalidInput, format!("step `{path}` {why}")));
        if self.body.is_none() {
            return refuse("has nothing to run");
        }
        if self.effect != Effect::Observe && matches!(self.undo, Undo::Undeclared) {
            return refuse("has an effect and does not say how it is undone");
        }
        if self.effect == Effect::Destructive {
            match &self.approval {
                None => return refuse("is destructive and has no approval"),
                Some((_, plan)) => approval::check_plan(&path, plan, &self.run.inner.plan_hash)?,
            }
        }
        Ok(path)
    }

    fn input_hash(&self) -> Option<String> {
        self.input.as_ref().ok().cloned().flatten()
    }

    fn undo_plan(&self) -> UndoPlan {
        self.undo.plan(self.undo_text.as_deref().unwrap_or("declared"))
    }

    fn cx(&self, path: &str, attempt: u32) -> StepCx {
        StepCx::new(&self.run.inner, path, attempt, self.run.inner.cancel.child_token())
    }

    fn register_undo(&self, path: &str) {
        if let Some(undo) = Registered::of(&self.undo, path, self.timeout) {
            lock(&self.run.inner.undos).insert(path.to_owned(), undo);
            self.run.inner.registered.notify_one();
        }
    }

    // ---------------------------------------------------------------- plan

    async fn plan(mut self) -> Result<T> {
        let path = self.enter()?;
        self.run.inner.check_going()?;
        let refused = lock(&self.run.inner.planned).refused;
        let is_real = self.effect == Effect::Observe && !(refused && self.predict.is_some());
        if is_real {
            let begun = Instant::now();
            let output = self.observe(&path).await?;
            let seen = Estimate { ms: millis(begun.elapsed()), basis: Basis::Observed };
            self.list(&path, None, Some(seen));
            return Ok(output);
        }
        let predicted = self.predict.take().map(|predict| predict());
        let recorded = predicted.as_ref().map(|p| to_recorded(&path, p)).transpose()?;
        self.list(&path, recorded, self.expected(&path));
        let mut planned = lock(&self.run.inner.planned);
        planned.refused = true;
        predicted.ok_or_else(|| {
            planned.boundary.get_or_insert(path.clone());
            Error::new(ErrorKind::PlanBoundary, format!("what follows `{path}` depends on its result"))
        })
    }

    async fn observe(&self, path: &str) -> Result<T> {
        let mut attempt = 1;
        loop {
            match self.attempt(path, attempt).await {
                Err(Ended { error, .. }) if attempt <= self.retries && is_worth_retrying(&error) => {
                    self.pause(path, attempt, &error).await?;
                    attempt += 1;
                }
                other => return other.map_err(|ended| ended.error),
            }
        }
    }

    /// Estimates how long it will take, from the surest source that there is.
    fn expected(&self, path: &str) -> Option<Estimate> {
        let measured = lock(&self.run.inner.planned).history.estimate(path, self.work);
        measured
            .or_else(|| self.estimate.map(|e| Estimate { ms: millis(e), basis: Basis::Expected }))
            .or_else(|| self.work.map(|w| Estimate { ms: w.ms(), basis: Basis::Computed { bytes: w.bytes() } }))
            .or_else(|| self.budget.map(|b| Estimate { ms: millis(b), basis: Basis::Budget }))
    }

    fn list(&self, path: &str, predicted: Option<Value>, estimate: Option<Estimate>) {
        self.run.inner.plan(PlanItem::Step(PlannedStep {
            step: path.to_owned(),
            effect: self.effect,
            input: self.input_hash(),
            version: self.version,
            undo: self.undo_plan(),
            estimate,
            budget_ms: self.budget.map(millis),
            predicted,
            needs_approval: self.effect == Effect::Destructive,
            ends_outage: self.ends_outage,
        }));
    }

    // ---------------------------------------------------------------- unwind

    /// Returns what is recorded and runs nothing.
    async fn replay(mut self) -> Result<T> {
        let path = self.enter()?;
        let inner = self.run.inner.clone();
        let Some(known) = inner.known(&path) else { return inner.park().await };
        if let Some(asked) = inner.take_question(&path) {
            let answer = self.weigh(&path, &known, asked.word).await;
            let _ = asked.answer.send(answer);
            return inner.park().await;
        }
        self.register_undo(&path);
        match (&known.state, known.error) {
            // What the procedure got then; it may have gone on after it.
            (StepState::Failed(_) | StepState::Applied(_), Some(error)) => Err(error.into()),
            (StepState::Unknown(Some(evidence)), _) => Err(unknown(&inner, &path, evidence)),
            (StepState::Done(output, _) | StepState::ResolvedApplied(output), _) => {
                from_recorded(&path, output.clone())
            }
            _ => inner.park().await,
        }
    }

    // ---------------------------------------------------------------- execute

    async fn execute(mut self) -> Result<T> {
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
    async fn attempt(&self, path: &str, attempt: u32) -> Result<T, Ended> {
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

    async fn pause(&self, path: &str, attempt: u32, error: &Error) -> Result<()> {
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

impl<T: StepOutput> IntoFuture for Step<T> {
    type Output = Result<T>;
    type IntoFuture = BoxFuture<'static, Result<T>>;

    fn into_future(self) -> Self::IntoFuture {
        let inner = self.run.inner.clone();
        match inner.mode {
            Mode::Plan => self.plan().boxed(),
            Mode::Unwind => self.replay().boxed(),
            // Intent, effect and outcome belong together: once begun, nobody's dropped future takes them apart.
            Mode::Execute => async move {
                inner.tasks.spawn(self.execute()).await.unwrap_or_else(|join| {
                    Err(Error::new(ErrorKind::Failed, "the engine's own task ended").caused_by(join.to_string()))
                })
            }
            .boxed(),
        }
    }
}

impl<T> std::fmt::Debug for Step<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Step").field("name", &self.name).field("effect", &self.effect).finish_non_exhaustive()
    }
}

/// Why an attempt did not succeed.
struct Ended {
    error: Error,
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
fn is_worth_retrying(error: &Error) -> bool {
    use ErrorKind as K;
    matches!(
        error.kind(),
        K::Failed | K::Incomplete | K::Unhealthy | K::Unreachable | K::Timeout | K::Locked | K::NotFound | K::Conflict
    )
}

fn unknown(inner: &Inner, path: &str, evidence: &str) -> Error {
    Error::new(ErrorKind::OutcomeUnknown, format!("nobody knows whether `{path}` happened: {evidence}"))
        .hint(format!("`chom-recovery resolve {}` says what to look at and how to settle it; then resume", inner.id))
}

/// Runs a closure's future within a limit; a panic is an error.
pub(crate) async fn guarded<T>(work: BoxFuture<'static, Result<T>>, limit: Duration) -> Result<T> {
    let work = AssertUnwindSafe(work).catch_unwind();
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => {
            Err(Error::new(ErrorKind::Failed, format!("its code panicked: {}", panic_text(panic.as_ref()))))
        }
        Err(_) => Err(Error::new(ErrorKind::Timeout, format!("no answer within {:.1} s", limit.as_secs_f64()))),
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
