//! Steps whose outcome nobody can tell: what is unknown, what either answer means, and what to type.

use serde::{Deserialize, Serialize};

use crate::run::{
    Effect, RunId, UndoPlan,
    summary::{RunSummary, StepSummary},
};

/// A step that waits for a person's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unresolved {
    /// Run.
    pub run: RunId,
    /// Procedure.
    pub procedure: String,
    /// Path of the step.
    pub step: String,
    /// What it does to the world.
    pub effect: Effect,
    /// Why nobody can tell.
    pub evidence: String,
    /// What the answers mean.
    pub answers: Answers,
    /// What to type.
    pub commands: Commands,
}

/// What the answers about a step mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// It took effect, wholly.
    pub applied: String,
    /// It did not take effect.
    pub not_applied: String,
}

/// Commands that settle a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commands {
    /// Lets the step look again by itself; harmless, and the first thing to try.
    pub look_again: String,
    /// It took effect.
    pub applied: String,
    /// It did not.
    pub not_applied: String,
}

/// Lists the steps of a run whose outcome a person has to settle, in the order in which they began.
pub fn unresolved(run: &RunSummary) -> Vec<Unresolved> {
    if run.is_over {
        return Vec::new();
    }
    run.unknown_steps().map(|step| of(run, step)).collect()
}

fn of(run: &RunSummary, step: &StepSummary) -> Unresolved {
    let id = run.run;
    let resolve =
        |verdict: &str| format!("chom-recovery resolve {id} {} {verdict} --because 'HOW YOU KNOW'", step.step);
    let undo = match &step.undo {
        UndoPlan::With { text } => format!("a rollback undoes it: {text}"),
        UndoPlan::Unnecessary { because } => format!("a rollback leaves it: {because}"),
        UndoPlan::Pivot => "the run cannot be rolled back any more".into(),
        UndoPlan::Undeclared => "nobody knows how to undo it".into(),
    };
    let again = match step.effect {
        Effect::Destructive => "`resume` does it again, and IT IS DESTRUCTIVE: be sure",
        _ => "`resume` does it again",
    };
    Unresolved {
        run: id,
        procedure: run.procedure.clone(),
        step: step.step.clone(),
        effect: step.effect,
        evidence: step.error.as_ref().map_or_else(|| "its process ended".into(), |e| e.message.clone()),
        answers: Answers {
            applied: format!("it took effect, wholly: `resume` goes on after it; {undo}"),
            not_applied: format!("nothing of it took effect: {again}; a rollback leaves it out"),
        },
        commands: Commands {
            look_again: format!("chom-recovery resume {id}"),
            applied: resolve("--applied"),
            not_applied: resolve("--not-applied"),
        },
    }
}
