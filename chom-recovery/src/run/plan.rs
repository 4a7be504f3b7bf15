//! What a run would do, found out by running it with every effect refused.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    error::{Error, ErrorKind, Result},
    objective::Objective,
    run::{
        estimate::{Basis, Estimate},
        record::{Effect, ItemVerdict, UndoPlan},
    },
};

/// What a procedure would do now.
///
/// Observations behind it are real. Its hash covers what would be done (steps, inputs, branches, predictions), not
/// what was seen on the way, so that it stays the same while the world stays the same in what matters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// System.
    pub system: String,
    /// Procedure.
    pub procedure: String,
    /// Request.
    pub request: Value,
    /// Objectives in force.
    pub objective: Option<Objective>,
    /// What would happen, in order.
    pub items: Vec<PlanItem>,
    /// Step at which planning stopped, because what follows depends on its result; `None`: planned to the end.
    pub boundary: Option<String>,
    /// Sum of the estimates of all steps and waits, in milliseconds; those without one count nothing. The time that
    /// people take to answer is not in it.
    pub estimate_ms: u64,
    /// The same up to the step that ends the outage, to be held against the recovery time objective; `None`: no step
    /// of the plan does.
    #[serde(default)]
    pub outage_ms: Option<u64>,
    /// Hash over all of the above but estimates and evidence, in hex.
    pub hash: String,
}

/// A line of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PlanItem {
    /// A step.
    Step(PlannedStep),
    /// A branch that was taken.
    Decision {
        /// Path of the decision.
        name: String,
        /// What was decided.
        value: Value,
    },
    /// An approval that will be needed.
    Approval {
        /// Path of the approval.
        name: String,
        /// Question.
        ask: String,
    },
    /// An item of a checklist. `verdict` is `None` for what a person will have to vouch for.
    Check {
        /// Path of the item.
        item: String,
        /// Its text.
        text: String,
        /// What a probe says now.
        verdict: Option<ItemVerdict>,
        /// What was seen.
        evidence: String,
    },
    /// A wait for a probe.
    Wait {
        /// Path of the wait.
        name: String,
        /// Probe.
        probe: String,
        /// Longest wait in milliseconds.
        timeout_ms: u64,
        /// Expected wait.
        #[serde(default)]
        estimate: Option<Estimate>,
    },
}

/// A step of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// Path.
    pub step: String,
    /// Effect class. Observations were really made.
    pub effect: Effect,
    /// Hash of the input.
    pub input: Option<String>,
    /// Version of the step's code.
    pub version: u32,
    /// How it would be undone.
    pub undo: UndoPlan,
    /// Expected duration, and how that is known; `None` for what takes no time worth the name.
    #[serde(default)]
    pub estimate: Option<Estimate>,
    /// Soft limit in milliseconds.
    pub budget_ms: Option<u64>,
    /// Predicted output of an effect.
    pub predicted: Option<Value>,
    /// Whether somebody has to approve it.
    pub needs_approval: bool,
    /// Whether the outage is over after it.
    #[serde(default)]
    pub ends_outage: bool,
}

impl PlanItem {
    /// Returns how long it is expected to take.
    pub fn estimate(&self) -> Option<Estimate> {
        match self {
            Self::Step(step) => step.estimate,
            Self::Wait { estimate, .. } => *estimate,
            Self::Decision { .. } | Self::Approval { .. } | Self::Check { .. } => None,
        }
    }
}

fn sum(items: &[PlanItem]) -> u64 {
    items.iter().filter_map(|item| Some(item.estimate()?.ms)).fold(0, u64::saturating_add)
}

impl Plan {
    pub(crate) fn new(
        (system, procedure, request): (String, String, Value),
        objective: Option<Objective>,
        items: Vec<PlanItem>,
        boundary: Option<String>,
    ) -> Self {
        let estimate_ms = sum(&items);
        let end = items.iter().rposition(|item| matches!(item, PlanItem::Step(step) if step.ends_outage));
        let outage_ms = end.map(|end| sum(&items[..=end]));
        let mut plan = Self {
            system,
            procedure,
            request,
            objective,
            items,
            boundary,
            estimate_ms,
            outage_ms,
            hash: String::new(),
        };
        plan.hash = plan.compute_hash();
        plan
    }

    /// Steps that would change something.
    pub fn effects(&self) -> impl Iterator<Item = &PlannedStep> {
        self.items.iter().filter_map(|item| match item {
            PlanItem::Step(step) if step.effect != Effect::Observe => Some(step),
            _ => None,
        })
    }

    /// Items of checklists that are not in order.
    pub fn failed_checks(&self) -> Vec<&str> {
        self.items
            .iter()
            .filter_map(|item| match item {
                PlanItem::Check { item, verdict: Some(ItemVerdict::Failed), .. } => Some(item.as_str()),
                _ => None,
            })
            .collect()
    }

    /// Tells whether the estimates up to the end of the outage fit into the recovery time objective; `None` without
    /// one.
    pub fn fits_rto(&self) -> Option<bool> {
        let ms = self.outage_ms.unwrap_or(self.estimate_ms);
        self.objective.map(|o| u128::from(ms) <= o.rto.as_millis())
    }

    /// Adds up the part of [`Plan::estimate_ms`] that nobody measured or computed: soft limits stand in for it.
    pub fn budgeted_ms(&self) -> u64 {
        let budgets = self.items.iter().filter_map(PlanItem::estimate).filter(|e| e.basis == Basis::Budget);
        budgets.map(|e| e.ms).fold(0, u64::saturating_add)
    }

    /// Checks that a plan read from a file is whole and equals what would be done now.
    ///
    /// # Errors
    /// `Corrupt`: its hash is not that of its content. `Conflict`: something else would be done now; the first
    /// difference is named.
    pub fn check_same(&self, now: &Self) -> Result<()> {
        if self.hash != self.compute_hash() {
            return Err(Error::new(ErrorKind::Corrupt, "the plan was changed after it was made"));
        }
        if self.hash == now.hash {
            return Ok(());
        }
        let (before, after) = (self.essence(), now.essence());
        let at = before.iter().zip(&after).position(|(a, b)| a != b).unwrap_or(before.len().min(after.len()));
        let show = |lines: &[Value]| lines.get(at).map_or_else(|| "nothing".into(), ToString::to_string);
        Err(Error::new(ErrorKind::Conflict, "the plan no longer fits: something else would be done now")
            .with("planned", show(&before))
            .with("now", show(&after))
            .hint("make a new plan and look at it"))
    }

    fn compute_hash(&self) -> String {
        hex::encode(Sha256::digest(Value::Array(self.essence()).to_string()))
    }

    /// What the hash covers.
    fn essence(&self) -> Vec<Value> {
        let mut lines = vec![serde_json::json!([self.system, self.procedure, self.request])];
        for item in &self.items {
            lines.extend(match item {
                PlanItem::Step(s) => Some(serde_json::json!([
                    "step",
                    s.step,
                    s.effect,
                    s.input,
                    s.version,
                    s.undo,
                    s.predicted,
                    s.needs_approval
                ])),
                PlanItem::Decision { name, value } => Some(serde_json::json!(["decision", name, value])),
                PlanItem::Approval { name, ask } => Some(serde_json::json!(["approval", name, ask])),
                PlanItem::Wait { name, probe, .. } => Some(serde_json::json!(["wait", name, probe])),
                // Checks are made again when it runs.
                PlanItem::Check { .. } => None,
            });
        }
        lines.push(serde_json::json!(["boundary", self.boundary]));
        lines
    }
}

/// Returns the hash of a step's input.
pub(crate) fn hash_input(input: &impl Serialize) -> Result<String> {
    let text = serde_json::to_vec(input)
        .map_err(|e| Error::new(ErrorKind::InvalidInput, "a step's input cannot be written as JSON").caused_by(e))?;
    Ok(hex::encode(Sha256::digest(text)))
}
