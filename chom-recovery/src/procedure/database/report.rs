//! What a database recovery achieved, measured.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    jobs::HeldJobs,
    ops::{Assessment, Filled, RaisedCounter, Verified},
    service::Proven,
    source::Origin,
};
use crate::{catalog::BackupId, objective::Achieved, procedure::Parts};

/// Result of a database recovery.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatabaseReport {
    /// What was wrong.
    pub assessment: Assessment,
    /// What took the place of the old data; `None`: starting the server was enough.
    pub restored: Option<Restored>,
    /// From the begin of the run to users being served again, seen from outside.
    pub rto: Achieved,
    /// From the backup's snapshot to the begin of the incident; `None` where no data was replaced.
    pub rpo: Option<Achieved>,
    /// When the database answered steadily.
    pub database_at: DateTime<Utc>,
    /// When users were served again.
    pub service_at: DateTime<Utc>,
    /// Backup taken and verified after the recovery.
    pub new_backup: Option<BackupId>,
    /// What is left for a person to look at.
    pub to_review: Vec<String>,
}

/// What took the place of the old data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// Backup.
    pub backup: Origin,
    /// Why this one; empty where somebody named it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub chosen_because: String,
    /// What was compared with the backup before the swap.
    pub verified: Verified,
    /// Of a physical backup: how its files came to their place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filled: Option<Filled>,
    /// Volume that now holds the old data.
    pub kept: KeptVolume,
    /// Newest value of each column that `application.newest_row` names: how far the data really reaches.
    pub newest_rows: BTreeMap<String, String>,
    /// Counters that were raised above lost ids.
    pub raised: Vec<RaisedCounter>,
    /// Queued jobs set aside.
    pub held: HeldJobs,
}

/// A volume that holds what production had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptVolume {
    /// Full name.
    pub volume: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// What the phases found and did.
pub(super) struct Facts {
    pub(super) began: DateTime<Utc>,
    pub(super) incident_began: Option<DateTime<Utc>>,
    pub(super) assessment: Assessment,
    pub(super) restored: Option<Restored>,
    pub(super) proven: Proven,
    pub(super) new_backup: Option<BackupId>,
}

pub(super) fn conclude(parts: &Parts, facts: Facts) -> DatabaseReport {
    let objective = parts.system.objectives.database;
    let incident = facts.incident_began.unwrap_or(facts.began);
    let mut to_review = Vec::new();
    if facts.proven.users_stay_out {
        to_review.push(
            "maintenance mode was on before the run and still is: `chom-recovery maintenance off` lets users in".into(),
        );
    }
    if let Some(restored) = &facts.restored {
        to_review.push(format!(
            "volume `{}` holds what production had before ({} MiB): `runs prune` removes it",
            restored.kept.volume,
            restored.kept.bytes >> 20,
        ));
        for key in &restored.held.keys {
            to_review.push(format!(
                "{} queued jobs may speak of lost rows and are held: review them, then `RENAME {} {}` in redis",
                key.jobs, key.held_as, key.key,
            ));
        }
        if let Some(why) = restored.filled.as_ref().and_then(|filled| filled.kept_copy_refused.as_ref()) {
            to_review.push(format!("the copy that was kept unpacked was not used: {why}"));
        }
        to_review.extend(restored.backup.warnings().iter().map(|w| format!("the backup says: {w}")));
    }
    DatabaseReport {
        rto: Achieved::new(objective.rto, facts.proven.service_at - facts.began),
        rpo: facts.restored.as_ref().map(|r| Achieved::new(objective.rpo, incident - r.backup.point())),
        database_at: facts.proven.database_at,
        service_at: facts.proven.service_at,
        assessment: facts.assessment,
        restored: facts.restored,
        new_backup: facts.new_backup,
        to_review,
    }
}
