//! What a run tells while it runs.

use std::pin::Pin;

use futures::Stream;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::{
    error::ErrorRecord,
    run::record::{Effect, ItemVerdict, Outcome},
};

/// Events of one run, from the moment of subscribing; it ends after [`Event::RunEnded`] or when the run is dropped.
pub type EventStream = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// How many events a slow reader may lag behind before it misses some.
const CAPACITY: usize = 1024;

/// Something happened in a run. For display only: the journal is the truth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A step begins to act.
    StepStarted {
        /// Path of the step.
        step: String,
        /// Attempt, from 1.
        attempt: u32,
        /// Effect class.
        effect: Effect,
        /// Soft limit in milliseconds.
        budget_ms: Option<u64>,
    },
    /// A step was done by an earlier process; its recorded output is used.
    StepReplayed {
        /// Path of the step.
        step: String,
    },
    /// A step advances.
    Progress {
        /// Path of the step.
        step: String,
        /// Done so far, in bytes unless the step says otherwise.
        done: u64,
        /// Expected at the end, where known.
        total: Option<u64>,
        /// Average since the step began, per second.
        rate: f64,
    },
    /// A step says something.
    Note {
        /// Path of the step.
        step: String,
        /// Text.
        text: String,
    },
    /// A step is done.
    StepDone {
        /// Path of the step.
        step: String,
        /// Duration in milliseconds.
        ms: u64,
        /// Soft limit in milliseconds.
        budget_ms: Option<u64>,
    },
    /// A step takes longer than its budget; it goes on.
    OverBudget {
        /// Path of the step.
        step: String,
        /// Soft limit in milliseconds.
        budget_ms: u64,
    },
    /// A step failed and will be tried again.
    Retrying {
        /// Path of the step.
        step: String,
        /// Why.
        error: ErrorRecord,
        /// Pause before the next attempt in milliseconds.
        wait_ms: u64,
    },
    /// A step failed.
    StepFailed {
        /// Path of the step.
        step: String,
        /// Why; kind `outcome_unknown` when nobody can tell whether the effect happened.
        error: ErrorRecord,
    },
    /// A probe is being waited for.
    Waiting {
        /// Path of the wait.
        step: String,
        /// Probe.
        probe: String,
        /// Its latest answer, in a line.
        summary: String,
        /// Healthy answers in a row.
        streak: u32,
        /// Needed in a row.
        needed: u32,
    },
    /// A branch was taken.
    Decided {
        /// Path of the decision.
        name: String,
        /// What was decided.
        value: serde_json::Value,
    },
    /// A person has to approve something.
    ApprovalNeeded {
        /// Path of the approval.
        name: String,
        /// Question.
        ask: String,
    },
    /// Somebody approved.
    Approved {
        /// Path of the approval.
        name: String,
        /// Who.
        by: String,
    },
    /// An item of a checklist was settled.
    ChecklistItem {
        /// Path of the item.
        item: String,
        /// Its text.
        text: String,
        /// Verdict.
        verdict: ItemVerdict,
        /// What was seen.
        evidence: String,
    },
    /// An undo begins.
    UndoStarted {
        /// Path of the step.
        step: String,
    },
    /// A step was undone.
    UndoDone {
        /// Path of the step.
        step: String,
        /// Duration in milliseconds.
        ms: u64,
    },
    /// An undo failed.
    UndoFailed {
        /// Path of the step.
        step: String,
        /// Why.
        error: ErrorRecord,
    },
    /// The reader was too slow.
    Missed {
        /// Number of events lost.
        events: u64,
    },
    /// The run, or this stretch of it, ended.
    RunEnded {
        /// How.
        outcome: Outcome,
        /// Why, unless it succeeded.
        error: Option<ErrorRecord>,
    },
}

/// Where events go in and out.
#[derive(Debug, Clone)]
pub(crate) struct Events(broadcast::Sender<Event>);

impl Events {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(CAPACITY))
    }

    pub(crate) fn send(&self, event: Event) {
        // Nobody listening is fine.
        let _ = self.0.send(event);
    }

    pub(crate) fn subscribe(&self) -> EventStream {
        let receiver = Some(self.0.subscribe());
        let stream = futures::stream::unfold(receiver, |receiver| async {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Ok(event @ Event::RunEnded { .. }) => Some((event, None)),
                Ok(event) => Some((event, Some(receiver))),
                Err(broadcast::error::RecvError::Lagged(events)) => Some((Event::Missed { events }, Some(receiver))),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        });
        // Asked again after its end, it says again that this was the end.
        Box::pin(futures::StreamExt::fuse(stream))
    }
}
