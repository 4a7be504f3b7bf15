//! Objectives of a recovery: how long it may take, and how much it may lose.

use std::time::Duration;

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
    /// How old the newest good backup may be.
    #[serde(with = "humantime_serde")]
    pub backup_age: Duration,
}

impl Default for Objectives {
    fn default() -> Self {
        Self { database: Objective::minutes(30, 15), backup_age: Duration::from_hours(24) }
    }
}
