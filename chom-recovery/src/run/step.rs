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

use super::{Inner, Kind, Mode, Run, StepCx, from_recorded, lock, panic_text, to_recorded};
use crate::{
    error::{Error, ErrorKind, Result},
    run::{
        approval::{self, Approval},
        estimate::Work,
        ledger::StepState,
        plan::hash_input,
        record::{Effect, UndoPlan},
        undo::{Registered, Undo},
    },
};

mod execute;
mod plan;
mod word;

/// Longest time for finding out whether a step was applied, where the step has no timeout of its own.
const RECONCILE_TIMEOUT: Duration = Duration::from_mins(5);

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
