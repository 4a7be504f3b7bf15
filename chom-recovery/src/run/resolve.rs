//! A person's word on a step whose outcome nobody can tell.
//!
//! The word is weighed against what can be seen: the procedure is run again without effects, as for a rollback, up to
//! the step in question, and the step looks once more. What it sees for certain is not overruled, and what it returns
//! need not be typed.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;

use super::{
    Engine, Inner, Mode, NewRun, Run, RunId,
    engine::never_began,
    ledger::StepState,
    lock,
    lock::LocalLock,
    record::{Entry, Verdict},
};
use crate::error::{Error, ErrorKind, Result};

/// How long the procedure may go on without coming to another recorded step.
const IDLE: Duration = Duration::from_secs(10);

/// What a person says about a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    /// Whether it took effect.
    pub verdict: Verdict,
    /// What it would have returned, as JSON; `None` lets the step find that out.
    pub output: Option<Value>,
    /// How that person knows.
    pub because: String,
}

/// What a person's word came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resolution {
    /// Run.
    pub run: RunId,
    /// Path of the step.
    pub step: String,
    /// Whether it took effect.
    pub verdict: Verdict,
    /// What a resumed run takes for its output; null for a step that returns nothing or did not take effect.
    pub output: Value,
    /// Where that comes from.
    pub source: OutputSource,
}

/// Where the output of a settled step comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputSource {
    /// There is none.
    Nothing,
    /// The person gave it.
    Given,
    /// The step saw that it took effect, as the person says.
    Seen,
    /// Derived by the step on that person's word.
    Derived,
}

/// The question put to one step while its procedure is run without effects.
pub(super) struct Asked {
    pub(super) step: String,
    pub(super) word: Word,
    pub(super) answer: oneshot::Sender<Result<(Value, OutputSource)>>,
}

/// A question that its step has not come to yet.
pub(super) type Pending = Mutex<Option<Asked>>;

impl Inner {
    /// Takes the question about a step, once.
    pub(super) fn take_question(&self, path: &str) -> Option<Asked> {
        lock(&self.asked).take_if(|asked| asked.step == path)
    }
}

impl Engine {
    /// Records what a person found out about a step whose outcome is unknown, after the step has looked once more.
    ///
    /// For [`Verdict::Applied`] the output is what the person gives, else what the step sees or derives.
    ///
    /// # Errors
    /// `NotFound`: no such step. `Conflict`: its outcome is known, or it can be seen that it is not as the person says.
    /// `InvalidInput`: its output is needed, or has another form; the error shows one of the right form.
    /// `Locked`: the run is running. `Unreachable`, `Timeout`: what the step looks at does not answer. Nothing is
    /// recorded then.
    pub async fn resolve<T, F, Fut>(&self, id: RunId, step: &str, word: Word, procedure: F) -> Result<Resolution>
    where
        F: FnOnce(Run) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let header = self.header(id)?;
        let local = LocalLock::acquire(self.state_dir(), &header.system, id, self.clock.as_ref())?;
        let (journal, ledger) = self.open(id)?;
        let objective = ledger.header.as_ref().ok_or_else(|| never_began(id))?.objective;
        let known = ledger
            .steps
            .get(step)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("run `{id}` has no step `{step}`")))?;
        if !matches!(known.state, StepState::Unknown(_) | StepState::ResolvedApplied(_)) {
            return Err(Error::new(ErrorKind::Conflict, format!("the outcome of step `{step}` is known"))
                .hint(format!("`chom-recovery runs show {id}` tells it")));
        }
        let new = NewRun {
            system: header.system,
            procedure: header.procedure,
            request: header.request,
            objective,
            plan: Some(header.plan),
            supersede: Vec::new(),
        };
        let run = self.run(Mode::Unwind, id, new, Some(journal), ledger, Some(local));
        let (verdict, because) = (word.verdict, word.because.clone());
        let (output, source) = run.inner.ask_step(step, word, procedure(run.clone())).await?;
        let entry = Entry::Resolved {
            step: step.to_owned(),
            verdict,
            output: output.clone(),
            by: self.operator.clone(),
            because,
        };
        run.inner.append(entry).await?;
        Ok(Resolution { run: id, step: step.to_owned(), verdict, output, source })
    }
}

impl Inner {
    /// Runs the procedure without effects until the step has answered.
    async fn ask_step<T>(
        self: &Arc<Self>,
        step: &str,
        word: Word,
        procedure: impl Future<Output = T>,
    ) -> Result<(Value, OutputSource)> {
        let (answer, mut answered) = oneshot::channel();
        *lock(&self.asked) = Some(Asked { step: step.to_owned(), word, answer });
        tokio::pin!(procedure);
        let mut is_over = false;
        loop {
            let is_taken = lock(&self.asked).is_none();
            tokio::select! {
                biased;
                Ok(answer) = &mut answered => return answer,
                _ = &mut procedure, if !is_over => is_over = true,
                () = self.registered.notified(), if !is_over => {}
                // A step that looks is bounded by itself.
                () = tokio::time::sleep(IDLE), if !is_taken && !is_over => is_over = true,
                else => break,
            }
            if is_over && !is_taken {
                break;
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("this version of the procedure does not come to step `{step}`"))
            .hint("use the version that began the run; `chom-recovery runs show` tells it"))
    }
}
