//! Whether users are served in time, and nobody waits for a lock that is held too long.

use async_trait::async_trait;

use super::{latency, measure::activity};
use crate::{
    mysql::Activity,
    probe::{Class, Health, HealthProbe},
    procedure::Parts,
    system::Performance,
};

/// Requests to each check for one look; the looks of the whole window count.
const REQUESTS: u32 = 5;

/// Asks checks and database.
#[derive(Debug)]
pub(super) struct InTime {
    parts: Parts,
}

impl InTime {
    pub(super) fn new(parts: &Parts) -> Self {
        Self { parts: parts.clone() }
    }
}

#[async_trait]
impl HealthProbe for InTime {
    fn name(&self) -> &'static str {
        "in-time"
    }

    async fn check(&self) -> Health {
        let limits = &self.parts.system.performance;
        let measured = latency::measure(&self.parts.system.http, REQUESTS).await;
        if let Some(fault) = measured.iter().find_map(|one| one.fault(limits)) {
            return Health::down(fault).class(Class::Slow);
        }
        let calm = match activity(&self.parts).await {
            Ok(activity) => held_up(&activity, limits),
            Err(error) => return Health::inconclusive(format!("the database could not be asked: {error}")),
        };
        if let Some(fault) = calm {
            return Health::down(fault).class(Class::Slow);
        }
        let slowest = measured.iter().filter_map(|one| one.p95_ms).fold(0.0, f64::max);
        let mut health =
            Health::healthy(format!("every check answers, at most after {slowest:.0} ms")).class(Class::Ok);
        for one in &measured {
            health = health
                .fact(format!("{}.p95_ms", one.check), one.p95_ms.map_or_else(String::new, |ms| format!("{ms:.1}")));
        }
        health
    }
}

/// Says who waits for too long.
fn held_up(activity: &Activity, limits: &Performance) -> Option<String> {
    let longest = activity.waits.iter().map(|wait| wait.seconds).max()?;
    (longest >= limits.idle_transaction.as_secs())
        .then(|| format!("{} connections wait for locks, the longest for {longest} s", activity.waits.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql::{Lock, LockWait};

    #[test]
    fn short_waits_for_locks_are_how_databases_work() {
        let waits = |seconds| Activity {
            waits: vec![LockWait { waiting: 2, blocking: Some(1), seconds, lock: Lock::Rows, object: String::new() }],
            ..Activity::default()
        };
        let limits = Performance::default();
        assert_eq!(held_up(&Activity::default(), &limits), None);
        assert_eq!(held_up(&waits(9), &limits), None);
        assert!(held_up(&waits(10), &limits).unwrap().contains("for 10 s"));
    }
}
