//! How long steps will take: measured in earlier runs, else computed from bytes, else as long as their budgets allow.

use std::{collections::BTreeMap, path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    clock::millis,
    record::Done,
    summary::{self, RunSummary},
};

/// Newest runs that are looked at.
const RUNS: usize = 20;
/// Newest durations of a step that count: a system changes, and so does the machine below it.
const SAMPLES: usize = 5;

/// What a step works through, and how fast that is expected to go where nobody has measured it yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    bytes: u64,
    bytes_per_s: u64,
    fixed: Duration,
}

impl Work {
    /// Describes work on `bytes`, of which about `bytes_per_s` are done in a second.
    pub const fn new(bytes: u64, bytes_per_s: u64) -> Self {
        Self { bytes, bytes_per_s, fixed: Duration::ZERO }
    }

    /// Adds what has to be waited for however few bytes there are.
    #[must_use]
    pub const fn fixed(mut self, fixed: Duration) -> Self {
        self.fixed = fixed;
        self
    }

    pub(crate) fn bytes(self) -> u64 {
        self.bytes
    }

    /// Computes the duration in milliseconds.
    pub(crate) fn ms(self) -> u64 {
        let moving = u128::from(self.bytes) * 1000 / u128::from(self.bytes_per_s.max(1));
        millis(self.fixed).saturating_add(u64::try_from(moving).unwrap_or(u64::MAX))
    }

    /// Scales a duration that was measured with another number of bytes. Its fixed part scales with the machine only.
    fn scale(self, ms: u64, bytes: u64) -> u64 {
        let then = Self { bytes, ..self }.ms().max(1);
        u64::try_from(u128::from(ms) * u128::from(self.ms()) / u128::from(then)).unwrap_or(u64::MAX)
    }
}

/// How long something is expected to take, and how that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// Milliseconds.
    pub ms: u64,
    /// How that is known.
    #[serde(flatten)]
    pub basis: Basis,
}

/// How an estimate is known; the surest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "basis", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Basis {
    /// It was really done for this plan, and took so long.
    Observed,
    /// The same step took so long in earlier runs of this system: the median of the newest five, scaled where its work
    /// depends on a number of bytes.
    Measured {
        /// Runs that were measured.
        runs: u32,
    },
    /// Computed from the bytes to work through, at a rate that the procedure documents.
    Computed {
        /// Bytes.
        bytes: u64,
    },
    /// What the procedure expects. A wait: the shortest that it can be.
    Expected,
    /// Nobody knows: its soft limit.
    Budget,
}

/// Durations of steps in earlier runs of the same procedure on the same system, newest first.
#[derive(Debug, Default)]
pub(crate) struct History(BTreeMap<String, Vec<Sample>>);

#[derive(Debug, Clone, Copy)]
struct Sample {
    ms: u64,
    bytes: Option<u64>,
}

impl History {
    /// Reads the journals of runs that are over; those that cannot be read have measured nothing.
    pub(crate) fn read(state_dir: &Path, system: &str, procedure: &str) -> Self {
        let ids = summary::ids(state_dir).unwrap_or_default();
        let runs = ids.into_iter().rev().filter_map(|id| RunSummary::read(state_dir, id).ok());
        let runs = runs.filter(|run| run.is_over && run.system == system && run.procedure == procedure);
        let mut history = Self::default();
        for run in runs.take(RUNS) {
            history.add(&run);
        }
        history
    }

    fn add(&mut self, run: &RunSummary) {
        for step in &run.steps {
            // What was reconciled or vouched for took the time of looking, not of acting.
            let (Some(Done::Ran), Some(ms)) = (step.how, step.ms) else { continue };
            self.0.entry(step.step.clone()).or_default().push(Sample { ms, bytes: step.work_bytes });
        }
    }

    /// Estimates a step from what was measured; `None`: it was not.
    pub(crate) fn estimate(&self, step: &str, work: Option<Work>) -> Option<Estimate> {
        let scaled = |sample: &Sample| match work {
            None => Some(sample.ms),
            Some(work) => Some(work.scale(sample.ms, sample.bytes?)),
        };
        let mut durations: Vec<u64> = self.0.get(step)?.iter().filter_map(scaled).take(SAMPLES).collect();
        durations.sort_unstable();
        let ms = *durations.get(durations.len() / 2)?;
        Some(Estimate { ms, basis: Basis::Measured { runs: u32::try_from(durations.len()).unwrap_or(u32::MAX) } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(samples: &[(u64, Option<u64>)]) -> History {
        let samples = samples.iter().map(|&(ms, bytes)| Sample { ms, bytes }).collect();
        History([("load".to_owned(), samples)].into())
    }

    #[test]
    fn the_median_of_the_newest_five_counts() {
        let seven = history(&[(9, None), (1, None), (5, None), (4, None), (6, None), (1000, None), (1000, None)]);
        let estimate = seven.estimate("load", None).unwrap();
        assert_eq!(estimate, Estimate { ms: 5, basis: Basis::Measured { runs: 5 } });
        assert_eq!(history(&[(3, None), (8, None)]).estimate("load", None).unwrap().ms, 8, "of two the longer");
        assert_eq!(seven.estimate("other", None), None);
    }

    #[test]
    fn a_duration_scales_with_bytes_and_what_is_fixed_does_not() {
        let work = |bytes| Work::new(bytes, 10_000).fixed(Duration::from_secs(10));
        assert_eq!(work(100_000).ms(), 20_000);
        // Twice as fast as documented, and so it will be with ten times as many bytes.
        let measured = history(&[(10_000, Some(100_000))]);
        assert_eq!(measured.estimate("load", Some(work(1_000_000))).unwrap().ms, 55_000);
        assert_eq!(measured.estimate("load", Some(work(100_000))).unwrap().ms, 10_000);
        // Nobody knows how many bytes that was for.
        assert_eq!(history(&[(10_000, None)]).estimate("load", Some(work(1))), None);
        assert_eq!(Work::new(u64::MAX, 0).ms(), u64::MAX);
        assert_eq!(Work::new(0, 0).scale(7, 0), 0);
    }
}
