//! What a recovery of a part of the system achieved.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::objective::{Achieved, Objective};

/// What was found, what was done about it, and how long it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recovered {
    /// What was wrong, a line each.
    pub found: Vec<String>,
    /// What was done about it, a line each; empty: nothing had to be.
    pub done: Vec<String>,
    /// Values before and after, where the procedure measures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measured: Vec<Measured>,
    /// From the begin of the run to the proof, seen from outside where users are concerned.
    pub rto: Achieved,
    /// What is left for a person to look at.
    pub to_review: Vec<String>,
}

/// A value before and after a recovery.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// What was measured.
    pub name: String,
    /// Its unit: `ms`, `s`, `%`, `bytes`, or empty for a number of things.
    pub unit: String,
    /// Before.
    pub before: Option<f64>,
    /// After.
    pub after: Option<f64>,
}

impl Recovered {
    /// Makes a report of a recovery that began and was proven at these times, without findings yet.
    pub fn new(objective: Objective, began: DateTime<Utc>, proven_at: DateTime<Utc>) -> Self {
        Self {
            found: Vec::new(),
            done: Vec::new(),
            measured: Vec::new(),
            rto: Achieved::new(objective.rto, proven_at - began),
            to_review: Vec::new(),
        }
    }
}
