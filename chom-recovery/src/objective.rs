//! Objectives of a recovery: how long it may take, and how much it may lose.

use std::time::Duration;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

/// RTO and RPO of one procedure, as agreed with the business. What a run achieved is measured, never taken from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    /// Recovery time objective: the longest tolerated time from the begin of the run to a proven service.
    #[serde(with = "humantime_serde")]
    pub rto: Duration,
    /// Recovery point objective: the longest tolerated age of the newest data that survives.
    #[serde(with = "humantime_serde")]
    pub rpo: Duration,
}

impl Objective {
    /// Makes an objective from minutes.
    pub const fn minutes(rto: u64, rpo: u64) -> Self {
        Self { rto: Duration::from_secs(rto * 60), rpo: Duration::from_secs(rpo * 60) }
    }
}

/// Objectives of all procedures. The defaults are those of the runbook, section "Recovery Scenarios".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Objectives {
    /// Database recovery (runbook 3.1).
    pub database: Objective,
    /// Application recovery (runbook 3.2).
    pub application: Objective,
    /// Recovery of the web server (runbook 3.3), which keeps no data.
    pub nginx: Objective,
    /// Recovery from bad performance (runbook 3.5), which loses no data.
    pub performance: Objective,
    /// Recovery of a single service: queue, redis, scheduler (runbook 3.6).
    pub partial: Objective,
    /// How old the newest good backup may be.
    #[serde(with = "humantime_serde")]
    pub backup_age: Duration,
}

impl Default for Objectives {
    fn default() -> Self {
        Self {
            database: Objective::minutes(30, 15),
            application: Objective::minutes(60, 60),
            nginx: Objective::minutes(15, 0),
            performance: Objective::minutes(30, 0),
            partial: Objective::minutes(15, 0),
            backup_age: Duration::from_hours(24),
        }
    }
}

/// An objective beside what was achieved.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Achieved {
    /// Objective in seconds.
    pub objective_s: f64,
    /// Achieved, in seconds.
    pub achieved_s: f64,
    /// Whether it is within the objective.
    pub is_met: bool,
}

impl Achieved {
    /// Holds a time against an objective; a time before the begin counts as none.
    pub fn new(objective: Duration, achieved: TimeDelta) -> Self {
        let achieved = achieved.to_std().unwrap_or_default();
        Self { objective_s: objective.as_secs_f64(), achieved_s: achieved.as_secs_f64(), is_met: achieved <= objective }
    }
}
