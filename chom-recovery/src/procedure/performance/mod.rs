//! Recovery from bad performance (runbook 3.5): find what is busy, mitigate what the evidence asks for, and hold until
//! users are served in time again.
//!
//! What is measured first is kept beside what is measured last. Only what was seen is ended, by name and with approval;
//! caches are never cleared and tables never rebuilt during an incident. Where latency does not come back, what can be
//! undone is undone, and the run fails with what was tried.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

mod act;
mod choose;
mod latency;
mod measure;
mod proof;

pub use act::EndStatements;
pub use latency::Latency;

use self::{
    choose::{Choice, Mitigation},
    measure::Use,
};
use super::{Parts, Procedure, Recovered, proof::moment};
use crate::{
    error::{Error, ErrorKind, Result},
    objective::Objective,
    run::{Effect, Run, Step, Wait},
    system::System,
};

/// Name of the procedure in journals.
pub const PROCEDURE: &str = "recover-performance";

/// Between two looks whether users are served in time.
const EVERY: Duration = Duration::from_secs(3);

/// What it is asked for: nothing more than to do it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {}

/// Gets latency and errors back under their thresholds.
#[derive(Debug, Clone, Copy, Default)]
pub struct RecoverPerformance;

#[async_trait]
impl Procedure for RecoverPerformance {
    type Request = Request;

    fn name(&self) -> &'static str {
        PROCEDURE
    }

    fn objective(&self, system: &System) -> Objective {
        system.objectives.performance
    }

    fn check(&self, parts: &Parts, _request: &Request) -> Result<()> {
        if parts.system.http.is_empty() {
            return Err(Error::new(ErrorKind::Precondition, "nothing tells how fast users are served: no HTTP check")
                .hint("add an `[[http]]` table with a `url`; its `slow_after` is the threshold"));
        }
        Ok(())
    }

    async fn recover(&self, run: &Run, parts: &Parts, _request: &Request) -> Result<Recovered> {
        let run = run.scope("performance");
        let began = moment(&run, "began").await?;
        let before = look(&run, parts, "before").await?;
        let choice = choose(&run, parts, &before).await?;
        let mut done = Vec::new();
        mitigate(&run, parts, &choice, &mut done).await?;
        if let Err(error) = hold(&run, parts).await {
            let is_lost = error.kind() == ErrorKind::Unhealthy;
            return Err(if is_lost { give_up(&run, error, &done, &choice).await } else { error });
        }
        let proven = moment(&run, "proven").await?;
        let after = look(&run, parts, "after").predict(Use::default).await?;
        let mut found = choice.found;
        found.extend(before.lines());
        Ok(Recovered {
            found,
            done,
            measured: measure::compare(&before, &after),
            to_review: choice.left,
            ..Recovered::new(self.objective(&parts.system), began, proven)
        })
    }
}

/// Measures everything, once for the whole run.
fn look(run: &Run, parts: &Parts, name: &str) -> Step<Use> {
    let parts = parts.clone();
    run.step(name).effect(Effect::Observe).kept().budget(Duration::from_mins(1)).timeout(Duration::from_mins(5)).run(
        async move |cx| {
            let found = measure::measure(&parts).await?;
            // The whole table, for whoever asks later why.
            cx.attach("use.json", &serde_json::to_vec_pretty(&found).map_err(std::io::Error::from)?).await?;
            Ok(found)
        },
    )
}

async fn choose(run: &Run, parts: &Parts, before: &Use) -> Result<Choice> {
    run.decide("mitigations", async {
        let model = parts.backend.model().await.ok();
        Ok(choose::choose(&parts.system, model.as_ref(), before))
    })
    .await
}

/// Does what was chosen, those of least risk first.
async fn mitigate(run: &Run, parts: &Parts, choice: &Choice, done: &mut Vec<String>) -> Result<()> {
    let is_end = |m: &&Mitigation| matches!(m, Mitigation::EndStatement { .. } | Mitigation::EndIdle { .. });
    let to_end: Vec<_> = choice.mitigations.iter().filter(is_end).collect();
    if !to_end.is_empty() {
        let ask = to_end.iter().map(|m| m.text()).collect::<Vec<_>>().join("\n");
        let approval = run.approve::<EndStatements>(&ask).await?;
        for one in to_end {
            done.push(act::end(run, parts, one, approval.clone()).await?);
        }
    }
    for one in &choice.mitigations {
        match one {
            Mitigation::Drain { service, .. } => {
                act::renew(run, parts, service).await?;
                done.push(format!("`{service}` ended its jobs and was started again"));
            }
            Mitigation::Scale { service, from, to } => {
                act::scale(run, parts, service, *from, *to).await?;
                done.push(format!("`{service}` has {to} containers instead of {from}"));
            }
            Mitigation::EndStatement { .. } | Mitigation::EndIdle { .. } => {}
        }
    }
    Ok(())
}

/// Waits until users have been served in time for the whole window.
async fn hold(run: &Run, parts: &Parts) -> Result<()> {
    let limits = &parts.system.performance;
    let wait = Wait { ask: Duration::from_mins(1), ..Wait::soak(limits.window, EVERY, limits.deadline) };
    run.until_healthy(Arc::new(proof::InTime::new(parts)), wait).await.map(drop)
}

/// Undoes what can be undone, and says what was tried.
async fn give_up(run: &Run, error: Error, done: &[String], choice: &Choice) -> Error {
    let error = error
        .with("tried", if done.is_empty() { "nothing: no evidence asked for it".into() } else { done.join("; ") })
        .with("found", choice.found.join("; "))
        .hint("`chom-recovery runs show` has what was measured, in `use.json` of its evidence; look at the slowest statements");
    match run.roll_back("users are not served in time after all").await {
        Ok(_) => error,
        Err(left) => error.with("left behind", left),
    }
}
