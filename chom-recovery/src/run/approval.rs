//! Approvals: a person says yes to exactly one plan.

use std::{fmt, marker::PhantomData, sync::Arc};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// Something that has to be approved. The name is part of the journal.
pub trait Approvable: Send + Sync + 'static {
    /// Name in journals and on the command line, `a-z`, `0-9` and `-`.
    const NAME: &'static str;
}

/// Somebody approved `A` for one plan. Only [`Run::approve`](crate::run::Run::approve) makes it.
pub struct Approval<A> {
    by: String,
    plan: String,
    of: PhantomData<fn() -> A>,
}

impl<A> Approval<A> {
    pub(crate) fn new(by: String, plan: String) -> Self {
        Self { by, plan, of: PhantomData }
    }

    /// Names who approved.
    pub fn by(&self) -> &str {
        &self.by
    }

    /// Returns the hash of the plan that was approved.
    pub fn plan_hash(&self) -> &str {
        &self.plan
    }
}

impl<A> Clone for Approval<A> {
    fn clone(&self) -> Self {
        Self::new(self.by.clone(), self.plan.clone())
    }
}

impl<A> fmt::Debug for Approval<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Approval").field("by", &self.by).field("plan", &self.plan).finish()
    }
}

/// What a person is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Run.
    pub run: String,
    /// Path of the approval or of the checklist's item.
    pub name: String,
    /// What it is about.
    pub ask: String,
    /// Role that has to answer; `None`: whoever operates.
    pub role: Option<String>,
    /// Hash of the plan, where one is approved.
    pub plan: Option<String>,
}

/// What the person answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Reply {
    /// Yes.
    Yes {
        /// Who.
        by: String,
    },
    /// No.
    No {
        /// Who.
        by: String,
        /// Why.
        because: String,
    },
    /// Nobody is there to answer: the run pauses.
    Later,
}

/// Asks a person.
#[async_trait]
pub trait Approver: fmt::Debug + Send + Sync + 'static {
    /// Asks, and waits as long as that person needs.
    async fn ask(&self, question: &Question) -> Reply;
}

/// Asks nobody: every question pauses the run until its answer is recorded.
#[derive(Debug, Clone, Copy, Default)]
pub struct AskLater;

#[async_trait]
impl Approver for AskLater {
    async fn ask(&self, _question: &Question) -> Reply {
        Reply::Later
    }
}

/// Says yes to everything in somebody's name, for scripts that were told to.
#[derive(Debug, Clone)]
pub struct AlwaysYes {
    /// Whose name journals show.
    pub by: String,
}

#[async_trait]
impl Approver for AlwaysYes {
    async fn ask(&self, _question: &Question) -> Reply {
        Reply::Yes { by: self.by.clone() }
    }
}

/// Asks through a function, which may block: it runs on a thread of its own.
#[derive(Clone)]
pub struct AskWith(Arc<dyn Fn(&Question) -> Reply + Send + Sync>);

impl AskWith {
    /// Asks through `ask`.
    pub fn new(ask: impl Fn(&Question) -> Reply + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }
}

impl fmt::Debug for AskWith {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AskWith")
    }
}

#[async_trait]
impl Approver for AskWith {
    async fn ask(&self, question: &Question) -> Reply {
        let (ask, question) = (self.0.clone(), question.clone());
        // A callback that panics has not said yes.
        tokio::task::spawn_blocking(move || ask(&question)).await.unwrap_or(Reply::Later)
    }
}

/// The error of a run that waits for a person.
pub(crate) fn needs_confirmation(run: &str, name: &str, ask: &str) -> Error {
    Error::new(ErrorKind::NeedsConfirmation, format!("`{name}` needs a person: {ask}"))
        .hint(format!("`chom-recovery approve {run} {name}`, then `chom-recovery resume {run}`"))
}

pub(crate) fn denied(name: &str, by: &str, because: &str) -> Error {
    Error::new(ErrorKind::Denied, format!("`{name}` was refused by {by}: {because}"))
}

/// Checks that an approval belongs to the plan that runs.
pub(crate) fn check_plan(name: &str, approved: &str, running: &str) -> Result<()> {
    if approved == running {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, format!("`{name}` was approved for another plan"))
        .with("approved", approved)
        .with("running", running)
        .hint("look at the new plan and approve it"))
}
