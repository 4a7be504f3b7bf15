//! When what is done.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// When timers run what, as calendar expressions of systemd.time(7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// Backups; at least as often as the RPO asks.
    pub backup: String,
    /// Verification of the newest backup.
    pub verify: String,
    /// Drills.
    pub drill: String,
    /// Tidying.
    pub prune: String,
    /// Metrics.
    pub metrics: String,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            backup: "*:0/15".into(),
            verify: "*-*-* 03:40:00".into(),
            drill: "Sun *-*-* 05:00:00".into(),
            prune: "*-*-* 04:30:00".into(),
            metrics: "*:0/5".into(),
        }
    }
}

impl Schedule {
    /// Refuses what cannot be written into a unit.
    pub(super) fn check(&self) -> Result<()> {
        for calendar in [&self.backup, &self.verify, &self.drill, &self.prune, &self.metrics] {
            if calendar.trim().is_empty() || calendar.chars().any(char::is_control) {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("configuration: `schedule`: `{}` is no calendar expression", calendar.escape_debug()),
                ));
            }
        }
        Ok(())
    }
}
