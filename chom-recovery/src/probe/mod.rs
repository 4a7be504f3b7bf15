//! Questions about health.
//!
//! A [`HealthProbe`] asks one question and gives one of four answers with evidence. A probe that could not tell says
//! [`Status::Inconclusive`], which nothing ever counts as healthy.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub mod certificate;
mod class;
pub mod code;
mod combine;
pub mod container;
pub mod disk;
pub mod dns;
pub mod evidence;
pub mod fpm;
pub mod http;
pub mod latency;
pub mod logs;
pub mod monitoring;
pub mod mysql;
pub(crate) mod net;
pub mod queue;
pub mod redis;
pub mod statements;
pub mod store;
mod suite;
pub mod synthetic;
#[cfg(test)]
pub(crate) mod testing;
mod tls;
pub mod vantage;
pub mod web;

pub use class::{CLASS, Class, ROLE, Role};
pub use combine::{SharedProbe, all_of, any_of, map, named, not, silent, with_deadline};
pub(crate) use suite::suite_against;
pub use suite::{HealthMode, HealthReport, SuiteOptions, run_suite, suite};

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

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Inconclusive => "inconclusive",
            Self::Down => "down",
        })
    }
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
        Self { status, summary: net::short(&crate::secret::scrub(&summary.into()), 600), facts: BTreeMap::new() }
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

    /// Adds a fact; its value is scrubbed and cut at 1000 characters.
    #[must_use]
    pub fn fact(mut self, name: impl Into<String>, value: impl fmt::Display) -> Self {
        self.facts.insert(name.into(), net::short(&crate::secret::scrub(&value.to_string()), 1_000));
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

/// Finds where to dial the database.
///
/// # Errors
/// `Unreachable`: there is no way, or nothing runs.
pub(crate) async fn reach(
    backend: &Arc<dyn crate::backend::Backend>,
    database: &crate::system::Database,
) -> crate::Result<crate::backend::Endpoint> {
    net::reach(backend, &database.service, database.port, database.address.as_deref())
        .await
        .map_err(|health| crate::Error::new(crate::ErrorKind::Unreachable, health.summary))
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A probe that answers as told, or never.
    #[derive(Debug)]
    pub(crate) struct Fixed {
        name: String,
        health: Option<Health>,
    }

    impl Fixed {
        pub(crate) fn new(name: impl Into<String>, health: Health) -> Self {
            Self { name: name.into(), health: Some(health) }
        }

        pub(crate) fn silent(name: impl Into<String>) -> Self {
            Self { name: name.into(), health: None }
        }
    }

    #[async_trait]
    impl HealthProbe for Fixed {
        fn name(&self) -> &str {
            &self.name
        }

        async fn check(&self) -> Health {
            match &self.health {
                Some(health) => health.clone(),
                None => std::future::pending().await,
            }
        }
    }

    #[test]
    fn inconclusive_is_worse_than_degraded_and_better_than_down() {
        assert!(Status::Healthy < Status::Degraded);
        assert!(Status::Degraded < Status::Inconclusive);
        assert!(Status::Inconclusive < Status::Down);
    }
}
