//! How long backups are kept.

use std::time::Duration;

use chrono::{FixedOffset, Offset, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// How many backups are kept: grandfather-father-son, over backups that were proven.
///
/// Nothing expires by itself: `chom-recovery prune` applies this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// So many of the newest.
    pub last: u32,
    /// The newest of each of so many hours.
    pub hourly: u32,
    /// The newest of each of so many days.
    pub daily: u32,
    /// The newest of each of so many ISO weeks.
    pub weekly: u32,
    /// The newest of each of so many months.
    pub monthly: u32,
    /// The newest of each of so many years.
    pub yearly: u32,
    /// Never fewer than so many proven backups; at least 2.
    pub min_keep: u32,
    /// Time between the tombstone of a backup and the deletion of its bytes; at least a day.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// A backup whose content is smaller than that of the ones before it by more than so many per cent pushes out
    /// none of them.
    pub shrink_percent: u8,
    /// Begin of days, weeks, months and years: minutes east of UTC.
    pub utc_offset_minutes: i32,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            last: 7,
            hourly: 24,
            daily: 7,
            weekly: 5,
            monthly: 12,
            yearly: 0,
            min_keep: 2,
            grace: Duration::from_hours(24),
            shrink_percent: 50,
            utc_offset_minutes: 0,
        }
    }
}

impl Retention {
    /// Refuses what would lose too much.
    ///
    /// # Errors
    /// `InvalidInput`: the key and what it may be.
    pub fn check(&self) -> Result<()> {
        let bad = |what: &str| Err(Error::new(ErrorKind::InvalidInput, format!("configuration: `retention.{what}")));
        if self.min_keep < 2 {
            return bad("min_keep` is at least 2: one backup is none");
        }
        if self.grace < Duration::from_hours(24) {
            return bad("grace` is at least 24h: whoever reads a backup has to be done with it");
        }
        if !(1..=99).contains(&self.shrink_percent) {
            return bad("shrink_percent` is 1 to 99");
        }
        if FixedOffset::east_opt(self.utc_offset_minutes.saturating_mul(60)).is_none() {
            return bad("utc_offset_minutes` is less than a day");
        }
        Ok(())
    }

    /// Where days begin.
    pub(crate) fn utc_offset(&self) -> FixedOffset {
        FixedOffset::east_opt(self.utc_offset_minutes.saturating_mul(60)).unwrap_or_else(|| Utc.fix())
    }
}
