//! Probes made of probes.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::join_all;

use super::{Answer, Health, HealthProbe, Status, ask};

/// A probe that can be shared.
pub type SharedProbe = Arc<dyn HealthProbe>;

/// Healthy when all are; else as bad as the worst of them. Without probes it is inconclusive.
pub fn all_of(name: impl Into<String>, probes: Vec<SharedProbe>) -> SharedProbe {
    Arc::new(Combined { name: name.into(), probes, rule: Rule::All })
}

/// As good as the best of them. Without probes it is inconclusive.
pub fn any_of(name: impl Into<String>, probes: Vec<SharedProbe>) -> SharedProbe {
    Arc::new(Combined { name: name.into(), probes, rule: Rule::Any })
}

/// Healthy when the probe is down, down when it is healthy or degraded. What could not be told stays so.
pub fn not(name: impl Into<String>, probe: SharedProbe) -> SharedProbe {
    map(name, probe, |health| {
        let status = match health.status {
            Status::Down => Status::Healthy,
            Status::Healthy | Status::Degraded => Status::Down,
            Status::Inconclusive => Status::Inconclusive,
        };
        Health { status, ..health }
    })
}

/// Asks for at most `deadline`; after that the answer is inconclusive.
pub fn with_deadline(probe: SharedProbe, deadline: Duration) -> SharedProbe {
    Arc::new(WithDeadline { probe, deadline })
}

/// Gives a probe another name.
pub fn named(name: impl Into<String>, probe: SharedProbe) -> SharedProbe {
    map(name, probe, |health| health)
}

/// Changes an answer, for example where absence is no fault.
pub fn map(
    name: impl Into<String>,
    probe: SharedProbe,
    change: impl Fn(Health) -> Health + Send + Sync + 'static,
) -> SharedProbe {
    Arc::new(Mapped { name: name.into(), probe, change })
}

/// A probe that could not even be made: it is inconclusive, and says why.
pub fn silent(name: impl Into<String>, why: impl Into<String>) -> SharedProbe {
    Arc::new(Silent { name: name.into(), why: why.into() })
}

#[derive(Debug)]
struct Silent {
    name: String,
    why: String,
}

#[async_trait]
impl HealthProbe for Silent {
    fn name(&self) -> &str {
        &self.name
    }

    async fn check(&self) -> Health {
        Health::inconclusive(self.why.clone())
    }
}

#[derive(Debug, Clone, Copy)]
enum Rule {
    All,
    Any,
}

#[derive(Debug)]
struct Combined {
    name: String,
    probes: Vec<SharedProbe>,
    rule: Rule,
}

#[async_trait]
impl HealthProbe for Combined {
    fn name(&self) -> &str {
        &self.name
    }

    async fn check(&self) -> Health {
        let answers = join_all(self.probes.iter().map(|probe| async {
            let health = probe.check().await;
            Answer { probe: probe.name().to_owned(), health, latency_ms: 0 }
        }))
        .await;
        let chosen = match self.rule {
            Rule::All => answers.iter().max_by_key(|a| a.health.status),
            Rule::Any => answers.iter().min_by_key(|a| a.health.status),
        };
        let Some(chosen) = chosen else { return Health::inconclusive("no probe was given") };
        let mut health =
            Health { summary: format!("{}: {}", chosen.probe, chosen.health.summary), ..chosen.health.clone() };
        for answer in &answers {
            health = health.fact(
                format!("probe.{}", answer.probe),
                format!("{}: {}", answer.health.status, answer.health.summary),
            );
        }
        health
    }
}

#[derive(Debug)]
struct WithDeadline {
    probe: SharedProbe,
    deadline: Duration,
}

#[async_trait]
impl HealthProbe for WithDeadline {
    fn name(&self) -> &str {
        self.probe.name()
    }

    async fn check(&self) -> Health {
        ask(&self.probe, self.deadline).await.health
    }
}

struct Mapped<F> {
    name: String,
    probe: SharedProbe,
    change: F,
}

impl<F> fmt::Debug for Mapped<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapped").field("name", &self.name).field("probe", &self.probe).finish_non_exhaustive()
    }
}

#[async_trait]
impl<F: Fn(Health) -> Health + Send + Sync + 'static> HealthProbe for Mapped<F> {
    fn name(&self) -> &str {
        &self.name
    }

    async fn check(&self) -> Health {
        (self.change)(self.probe.check().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::tests::Fixed;

    fn fixed(status: Status) -> SharedProbe {
        Arc::new(Fixed::new(format!("fixed-{status}"), Health::new(status, "as told")))
    }

    #[tokio::test]
    async fn all_of_is_as_bad_as_the_worst_and_any_of_as_good_as_the_best() {
        use Status::{Degraded, Down, Healthy, Inconclusive};
        for a in [Healthy, Degraded, Inconclusive, Down] {
            for b in [Healthy, Degraded, Inconclusive, Down] {
                let probes = vec![fixed(a), fixed(b)];
                assert_eq!(all_of("all", probes.clone()).check().await.status, a.max(b));
                assert_eq!(any_of("any", probes).check().await.status, a.min(b));
            }
        }
    }

    #[tokio::test]
    async fn nothing_asked_is_not_healthy() {
        assert_eq!(all_of("all", Vec::new()).check().await.status, Status::Inconclusive);
        assert_eq!(any_of("any", Vec::new()).check().await.status, Status::Inconclusive);
    }

    #[tokio::test]
    async fn a_probe_that_could_not_tell_cannot_be_negated_into_health() {
        assert_eq!(not("not", fixed(Status::Inconclusive)).check().await.status, Status::Inconclusive);
        assert_eq!(not("not", fixed(Status::Down)).check().await.status, Status::Healthy);
        assert_eq!(not("not", fixed(Status::Degraded)).check().await.status, Status::Down);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_never_answers_is_inconclusive_at_its_deadline() {
        let probe = with_deadline(Arc::new(Fixed::silent("silent")), Duration::from_secs(3));
        let begun = tokio::time::Instant::now();
        assert_eq!(probe.check().await.status, Status::Inconclusive);
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test]
    async fn named_and_map_change_only_what_they_say() {
        let probe = named("other", fixed(Status::Down));
        assert_eq!(probe.name(), "other");
        assert_eq!(probe.check().await.status, Status::Down);
        let probe = map("lenient", probe, |h| Health { status: Status::Degraded, ..h });
        assert_eq!(probe.check().await.status, Status::Degraded);
    }
}
