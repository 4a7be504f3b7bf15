//! Signs of life: keys of redis that workers refresh.

use async_trait::async_trait;

use super::Parts;
use crate::probe::{Class, Health, HealthProbe, queue::beat};

/// Whether somebody gave a sign of life after a time.
#[derive(Debug)]
pub(super) struct SignOfLife {
    /// Name of the probe.
    pub(super) name: &'static str,
    /// Whose it is.
    pub(super) who: &'static str,
    pub(super) parts: Parts,
    /// Key, without prefix.
    pub(super) key: String,
    /// Unix time by redis's clock, in seconds: it has to be younger.
    pub(super) since: u64,
    /// How old it may be, in seconds.
    pub(super) age: u64,
}

#[async_trait]
impl HealthProbe for SignOfLife {
    fn name(&self) -> &str {
        self.name
    }

    async fn check(&self) -> Health {
        let Some(redis) = &self.parts.system.redis else { return Health::inconclusive("no redis is configured") };
        match beat(redis, &self.parts.backend, &self.key).await {
            Ok((now, at)) => judge(self.who, now, at.filter(|at| *at > self.since), self.age),
            Err(health) => Health::inconclusive(format!("redis has to work first: {}", health.summary)),
        }
    }
}

fn judge(who: &str, now: u64, at: Option<u64>, limit: u64) -> Health {
    match at.map(|at| now.saturating_sub(at)) {
        Some(age) if age <= limit => Health::healthy(format!("{who} gave a sign of life {age} s ago")).class(Class::Ok),
        _ => Health::down(format!("{who} has given no sign of life yet")).class(Class::Stale),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Status;

    #[test]
    fn only_one_that_is_young_enough_counts() {
        let status = |at| judge("a worker", 1_000, at, 60).status;
        assert_eq!(status(Some(940)), Status::Healthy);
        assert_eq!(status(Some(1_001)), Status::Healthy, "written since the clock was read");
        assert_eq!((status(Some(939)), status(None)), (Status::Down, Status::Down));
    }
}
