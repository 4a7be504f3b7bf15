//! Questions about health.
//!
//! A [`HealthProbe`] asks one question and gives one of four answers with evidence. A probe that could not tell says
//! [`Status::Inconclusive`], which nothing ever counts as healthy.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// One question about health.
#[async_trait]
pub trait HealthProbe: fmt::Debug + Send + Sync + 'static {
    /// Names the probe: lower-case words joined by `-`, unique within a suite.
    fn name(&self) -> &str;

    /// Asks. It may take for ever: [`ask`] sets the deadline.
    async fn check(&self) -> Health;
}

/// The four answers, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Healthy,
    /// Works, but not as it should.
    Degraded,
    /// The probe could not tell; never counted as healthy.
    Inconclusive,
    /// Does not work.
    Down,
}

/// An answer with its evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Verdict.
    pub status: Status,
    /// What was seen, in a line.
    pub summary: String,
    /// Facts behind it, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
}

impl Health {
    /// Makes an answer.
    pub fn new(status: Status, summary: impl Into<String>) -> Self {
        Self { status, summary: crate::secret::scrub(&summary.into()), facts: BTreeMap::new() }
    }

    /// As it should be.
    pub fn healthy(summary: impl Into<String>) -> Self {
        Self::new(Status::Healthy, summary)
    }

    /// Works, but not as it should.
    pub fn degraded(summary: impl Into<String>) -> Self {
        Self::new(Status::Degraded, summary)
    }

    /// Does not work.
    pub fn down(summary: impl Into<String>) -> Self {
        Self::new(Status::Down, summary)
    }

    /// The probe could not tell.
    pub fn inconclusive(summary: impl Into<String>) -> Self {
        Self::new(Status::Inconclusive, summary)
    }

    /// Adds a fact.
    #[must_use]
    pub fn fact(mut self, name: impl Into<String>, value: impl fmt::Display) -> Self {
        self.facts.insert(name.into(), crate::secret::scrub(&value.to_string()));
        self
    }
}

/// A probe's answer as reports show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Probe's name.
    pub probe: String,
    /// Answer.
    #[serde(flatten)]
    pub health: Health,
    /// How long it took, in milliseconds.
    pub latency_ms: u64,
}

/// Asks a probe, for at most `deadline`; after that the answer is [`Status::Inconclusive`].
pub async fn ask(probe: &Arc<dyn HealthProbe>, deadline: Duration) -> Answer {
    let begun = tokio::time::Instant::now();
    let health = tokio::time::timeout(deadline, probe.check())
        .await
        .unwrap_or_else(|_| Health::inconclusive(format!("no answer within {:.1} s", deadline.as_secs_f64())));
    let latency_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Answer { probe: probe.name().to_owned(), health, latency_ms }
}
