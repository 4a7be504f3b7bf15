//! Time, as an argument.

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};

/// Where a run gets its time from.
///
/// Wall time is written to records for people to read and never used for ordering. Durations come from
/// [`Clock::since_boot`], so that a wall clock that jumps changes no measured time.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Returns the wall time.
    fn now(&self) -> DateTime<Utc>;

    /// Returns a time that only grows, time asleep included, counted from a point that is fixed for one
    /// [`Clock::boot_id`].
    fn since_boot(&self) -> Duration;

    /// Names the boot: times of different boots cannot be subtracted.
    fn boot_id(&self) -> String;
}

/// The machine's own clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    /// # Source
    /// `proc_uptime(5)`: seconds since boot, time spent in suspend included.
    fn since_boot(&self) -> Duration {
        std::fs::read_to_string("/proc/uptime")
            .ok()
            .and_then(|text| text.split(' ').next()?.parse::<f64>().ok())
            .map_or(Duration::ZERO, Duration::from_secs_f64)
    }

    fn boot_id(&self) -> String {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |t| t.trim().into())
    }
}

/// Milliseconds as journals hold them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
