//! A step of a plan: an observation is made, an effect is listed.

use serde_json::Value;
use tokio::time::Instant;

use super::{
    Step, StepOutput,
    execute::{Ended, is_worth_retrying},
};
use crate::{
    error::{Error, ErrorKind, Result},
    run::{
        PlanItem,
        clock::millis,
        estimate::{Basis, Estimate},
        lock,
        plan::PlannedStep,
        record::Effect,
        to_recorded,
    },
};

impl<T: StepOutput> Step<T> {
    pub(super) async fn plan(mut self) -> Result<T> {
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
}
