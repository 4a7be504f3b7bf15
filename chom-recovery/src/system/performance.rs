//! What counts as bad performance, and how far a recovery from it may go (runbook 3.5).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// Thresholds and limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Performance {
    /// Requests to each HTTP check for one measurement. A check is slow when its 95th percentile is over its `slow_after`.
    pub requests: u32,
    /// So many per cent of them may fail.
    pub errors_percent: u8,
    /// How long latency, errors and locks have to stay under their thresholds before the run ends well.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// Longest time until they do.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// A statement that only reads, and runs for longer, may be ended, with approval.
    #[serde(with = "humantime_serde")]
    pub long_statement: Duration,
    /// A transaction that idles for longer while others wait for it may be ended, with approval.
    #[serde(with = "humantime_serde")]
    pub idle_transaction: Duration,
    /// Accounts whose statements and transactions are never ended, besides those of the server and of backups.
    pub never_end: Vec<String>,
    /// More pending jobs than this are a backlog.
    pub backlog: u64,
    /// A service that takes jobs gets at most so many containers. 1: none is added.
    pub most_workers: u32,
    /// Added workers may not bring the host's processors above so many per cent.
    pub cpu_percent: u8,
    /// Nor the host's memory.
    pub memory_percent: u8,
    /// Nor the database's connections.
    pub connections_percent: u8,
}

impl Default for Performance {
    fn default() -> Self {
        Self {
            requests: 20,
            errors_percent: 1,
            window: Duration::from_mins(1),
            deadline: Duration::from_mins(5),
            long_statement: Duration::from_secs(10),
            idle_transaction: Duration::from_secs(10),
            never_end: Vec::new(),
            backlog: 1_000,
            most_workers: 3,
            cpu_percent: 80,
            memory_percent: 80,
            connections_percent: 80,
        }
    }
}

impl Performance {
    /// Refuses what cannot be measured or kept.
    pub(super) fn check(&self) -> Result<()> {
        let bad = |what: &str| Err(Error::new(ErrorKind::InvalidInput, format!("configuration: `performance.{what}")));
        if !(1..=1_000).contains(&self.requests) {
            return bad("requests` is 1 to 1000");
        }
        if self.deadline <= self.window {
            return bad("deadline` is longer than `performance.window`: it has to fit in");
        }
        let percent = [self.errors_percent, self.cpu_percent, self.memory_percent, self.connections_percent];
        if percent.iter().any(|p| *p > 100) {
            return bad("*_percent` is 0 to 100");
        }
        if self.most_workers == 0 {
            return bad("most_workers` is at least 1");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_kept_is_refused_by_name() {
        Performance::default().check().unwrap();
        for (bad, name) in [
            (Performance { requests: 0, ..Performance::default() }, "performance.requests"),
            (Performance { deadline: Duration::from_secs(1), ..Performance::default() }, "performance.deadline"),
            (Performance { cpu_percent: 101, ..Performance::default() }, "_percent"),
            (Performance { most_workers: 0, ..Performance::default() }, "performance.most_workers"),
        ] {
            assert!(bad.check().unwrap_err().message().contains(name), "{name}");
        }
    }
}
