//! Whether queued jobs and the scheduler move, through Laravel's keys in Redis.
//!
//! Keys carry Laravel's own prefix and lie in the configured logical database: `queues:default` without the prefix is
//! always empty. Pending jobs are the list `queues:<name>`, delayed and reserved ones the sorted sets
//! `queues:<name>:delayed` and `:reserved`, whose scores are Unix times in seconds (Laravel, `RedisQueue`).

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Class, Health, HealthProbe, net, redis::Session};
use crate::{backend::Backend, system::Redis};

/// More pending jobs than this is degraded.
const MANY: u64 = 1_000;
/// A job that waits longer than this, in seconds, is degraded.
const LONG: u64 = 15 * 60;

/// Time between two looks at a queue whose jobs nobody has in hand: a worker that found nothing rests for three seconds,
/// by default, before it looks again.
const BETWEEN: Duration = Duration::from_secs(5);

/// Counts the jobs of each queue in all states, and how long the oldest one waits. Where jobs wait and nobody has one in
/// hand, it looks again: a job that is still the first then is not taken.
#[derive(Debug)]
pub struct QueueProbe {
    redis: Redis,
    backend: Arc<dyn Backend>,
}

impl QueueProbe {
    /// Makes the probe `queue`.
    pub fn new(redis: Redis, backend: Arc<dyn Backend>) -> Self {
        Self { redis, backend }
    }

    async fn ask(&self) -> Result<Health, Health> {
        let mut queues = look(&self.redis, &self.backend).await?.queues;
        if queues.iter().any(Queue::is_idle) {
            tokio::time::sleep(BETWEEN).await;
            let again = look(&self.redis, &self.backend).await?.queues;
            let pairs = queues.iter().zip(again);
            queues = pairs.map(|(before, now)| Queue { is_stuck: before.is_stuck_at(&now), ..now }).collect();
        }
        Ok(judge(&queues))
    }
}

/// Queues of one system, and the time of redis's clock at which they were looked at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Queues {
    pub(crate) now: u64,
    pub(crate) queues: Vec<Queue>,
}

/// Counts the jobs of every queue; the error is already the probe's answer.
pub(crate) async fn look(redis: &Redis, backend: &Arc<dyn Backend>) -> Result<Queues, Health> {
    let mut session = Session::open(redis, backend).await?;
    let now = server_time(&mut session).await?;
    let mut queues = Vec::new();
    for name in &redis.queues {
        let key = format!("{}queues:{name}", redis.prefix);
        let (delayed, reserved) = (format!("{key}:delayed"), format!("{key}:reserved"));
        let oldest: Option<Vec<u8>> = session.query(redis::cmd("LINDEX").arg(&key).arg(0)).await?;
        let first_due: Scored =
            session.query(redis::cmd("ZRANGE").arg(&delayed).arg(0).arg(0).arg("WITHSCORES")).await?;
        let last_back: Scored =
            session.query(redis::cmd("ZRANGE").arg(&reserved).arg(-1).arg(-1).arg("WITHSCORES")).await?;
        queues.push(Queue {
            name: name.clone(),
            pending: session.query(redis::cmd("LLEN").arg(&key)).await?,
            delayed: session.query(redis::cmd("ZCARD").arg(&delayed)).await?,
            reserved: session.query(redis::cmd("ZCARD").arg(&reserved)).await?,
            abandoned: session.query(redis::cmd("ZCOUNT").arg(&reserved).arg("-inf").arg(now)).await?,
            oldest_seconds: oldest.as_deref().and_then(waiting_since).map(|at| now.saturating_sub(at)),
            overdue_seconds: first_due.first().map(|(_, due)| now.saturating_sub(seconds(*due))),
            back_at: last_back.first().map(|(_, due)| seconds(*due)),
            head: oldest.map(|payload| hex::encode(&Sha256::digest(payload)[..8])),
            is_stuck: false,
        });
    }
    Ok(Queues { now, queues })
}

/// Members of a sorted set with their scores.
type Scored = Vec<(Vec<u8>, f64)>;

/// Reads a sign of life: redis's clock, and the Unix time in the key, where there is one.
pub(crate) async fn beat(redis: &Redis, backend: &Arc<dyn Backend>, key: &str) -> Result<(u64, Option<u64>), Health> {
    let mut session = Session::open(redis, backend).await?;
    let now = server_time(&mut session).await?;
    let value: Option<String> = session.query(redis::cmd("GET").arg(format!("{}{key}", redis.prefix))).await?;
    Ok((now, value.as_deref().and_then(unix_time)))
}

#[async_trait]
impl HealthProbe for QueueProbe {
    fn name(&self) -> &'static str {
        "queue"
    }

    async fn check(&self) -> Health {
        net::bounded(net::WHOLE, async { self.ask().await.unwrap_or_else(|failure| failure) }).await
    }
}

/// Jobs of a queue.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Queue {
    pub(crate) name: String,
    pub(crate) pending: u64,
    pub(crate) delayed: u64,
    pub(crate) reserved: u64,
    /// Reserved jobs whose time to be retried has passed: their worker is gone, and no other takes them.
    pub(crate) abandoned: u64,
    /// How long the job at the head of the list waits; unknown where payloads carry no time.
    pub(crate) oldest_seconds: Option<u64>,
    /// How long the first delayed job is overdue.
    pub(crate) overdue_seconds: Option<u64>,
    /// When the last of the reserved jobs comes back by itself, as a Unix time.
    pub(crate) back_at: Option<u64>,
    /// Tells the job at the head of the list from others.
    pub(crate) head: Option<String>,
    /// Whether that was not taken between two looks.
    #[serde(default)]
    pub(crate) is_stuck: bool,
}

impl Queue {
    /// Counts the jobs that a worker has taken and still has time for.
    pub(crate) fn in_work(&self) -> u64 {
        self.reserved.saturating_sub(self.abandoned)
    }

    /// Jobs wait, and no worker has one in hand.
    fn is_idle(&self) -> bool {
        self.pending > 0 && self.reserved == 0
    }

    /// Whether nothing was taken up to a later look.
    fn is_stuck_at(&self, later: &Self) -> bool {
        self.is_idle() && later.is_idle() && self.head == later.head
    }
}

/// Clock of the Redis server: the same for everything compared here.
async fn server_time(session: &mut Session) -> Result<u64, Health> {
    let (seconds, _): (u64, u64) = session.query(&redis::cmd("TIME")).await?;
    Ok(seconds)
}

/// Reads when a job was queued: `pushedAt` (Horizon) or `createdAt` (Laravel 12), Unix seconds as text or number.
fn waiting_since(payload: &[u8]) -> Option<u64> {
    let payload: serde_json::Value = serde_json::from_slice(payload).ok()?;
    ["pushedAt", "createdAt"].iter().find_map(|key| {
        let value = payload.get(key)?;
        let at = value.as_f64().or_else(|| value.as_str()?.parse().ok())?;
        (at > 0.0).then(|| seconds(at))
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "times of this era fit; negative becomes 0"
)]
fn seconds(at: f64) -> u64 {
    at.max(0.0) as u64
}

fn judge(queues: &[Queue]) -> Health {
    let pending: u64 = queues.iter().map(|q| q.pending).sum();
    let failing = queues.iter().find_map(|q| {
        let name = &q.name;
        if q.oldest_seconds.is_some_and(|age| age > LONG) {
            Some(format!("a job of queue `{name}` has waited for {} s", q.oldest_seconds.unwrap_or_default()))
        } else if q.overdue_seconds.is_some_and(|age| age > LONG) {
            Some(format!("a delayed job of queue `{name}` is {} s overdue", q.overdue_seconds.unwrap_or_default()))
        } else if q.abandoned > 0 {
            Some(format!("{} jobs of queue `{name}` were taken and never finished", q.abandoned))
        } else if q.pending > MANY {
            Some(format!("{} jobs wait in queue `{name}`", q.pending))
        } else {
            None
        }
    });
    let stuck = queues.iter().find(|q| q.is_stuck);
    let health = match (stuck, failing) {
        (Some(q), _) => {
            let what = format!("{} jobs wait in queue `{}`, and no worker takes them", q.pending, q.name);
            Health::degraded(what).class(Class::Stuck)
        }
        (None, Some(what)) => Health::degraded(what).class(Class::Backlog),
        (None, None) => Health::healthy(format!("{pending} jobs wait in {} queues", queues.len())).class(Class::Ok),
    };
    queues.iter().fold(health, |health, q| {
        let name = &q.name;
        let health = health
            .fact(format!("{name}.pending"), q.pending)
            .fact(format!("{name}.delayed"), q.delayed)
            .fact(format!("{name}.reserved"), q.reserved)
            .fact(format!("{name}.abandoned"), q.abandoned);
        match (q.pending, q.oldest_seconds) {
            (0, _) => health,
            (_, Some(age)) => health.fact(format!("{name}.oldest_seconds"), age),
            (_, None) => health.fact(format!("{name}.oldest_seconds"), "unknown"),
        }
    })
}

/// Reads the key that the scheduler refreshes.
#[derive(Debug)]
pub struct HeartbeatProbe {
    redis: Redis,
    backend: Arc<dyn Backend>,
}

impl HeartbeatProbe {
    /// Makes the probe `scheduler`. Without a configured key it is inconclusive.
    pub fn new(redis: Redis, backend: Arc<dyn Backend>) -> Self {
        Self { redis, backend }
    }

    async fn ask(&self) -> Result<Health, Health> {
        let Some(key) = &self.redis.heartbeat_key else {
            return Err(Health::inconclusive("no `redis.heartbeat_key` is configured"));
        };
        let key = format!("{}{key}", self.redis.prefix);
        let mut session = Session::open(&self.redis, &self.backend).await?;
        let now = server_time(&mut session).await?;
        let value: Option<String> = session.query(redis::cmd("GET").arg(&key)).await?;
        Ok(judge_beat(value.as_deref(), now, self.redis.heartbeat_age.as_secs()).fact("key", key))
    }
}

#[async_trait]
impl HealthProbe for HeartbeatProbe {
    fn name(&self) -> &'static str {
        "scheduler"
    }

    async fn check(&self) -> Health {
        net::bounded(net::WHOLE, async { self.ask().await.unwrap_or_else(|failure| failure) }).await
    }
}

/// Tolerated difference of the clocks of Redis and the application, in seconds.
const SKEW: u64 = 60;

/// Reads a Unix time in seconds.
fn unix_time(value: &str) -> Option<u64> {
    value.trim().parse::<f64>().ok().filter(|at| *at > 0.0).map(seconds)
}

fn judge_beat(value: Option<&str>, now: u64, limit: u64) -> Health {
    let Some(value) = value else {
        return Health::down("the scheduler has never set its heartbeat, or it was lost").class(Class::Stale);
    };
    let Some(at) = unix_time(value) else {
        return Health::inconclusive("the scheduler's heartbeat is not a Unix time");
    };
    if at > now + SKEW {
        return Health::inconclusive(format!("the scheduler's heartbeat lies {} s ahead", at - now))
            .class(Class::Clock);
    }
    let age = now.saturating_sub(at);
    let health = if age <= limit {
        Health::healthy(format!("the scheduler ran {age} s ago")).class(Class::Ok)
    } else if age <= limit.saturating_mul(3) {
        Health::degraded(format!("the scheduler ran {age} s ago, over {limit} s")).class(Class::Stale)
    } else {
        Health::down(format!("the scheduler ran {age} s ago, over {limit} s")).class(Class::Stale)
    };
    health.fact("age_seconds", age)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Status;

    #[test]
    fn a_payload_tells_its_age_where_it_carries_a_time() {
        assert_eq!(waiting_since(br#"{"id":"x","pushedAt":"1700000000.25"}"#), Some(1_700_000_000));
        assert_eq!(waiting_since(br#"{"id":"x","createdAt":1700000000}"#), Some(1_700_000_000));
        assert_eq!(waiting_since(br#"{"id":"x","attempts":0}"#), None);
        assert_eq!(waiting_since(b"O:8:serialised"), None);
    }

    #[test]
    fn a_backlog_is_judged_by_age_first_and_an_unknown_age_is_said() {
        let idle = Queue { name: "default".into(), ..Queue::default() };
        assert_eq!(judge(std::slice::from_ref(&idle)).status, Status::Healthy);
        let waiting = Queue { pending: 3, ..idle.clone() };
        let health = judge(std::slice::from_ref(&waiting));
        assert_eq!(health.status, Status::Healthy);
        assert_eq!(health.facts["default.oldest_seconds"], "unknown");
        for bad in [
            Queue { oldest_seconds: Some(LONG + 1), ..waiting },
            Queue { pending: MANY + 1, ..idle.clone() },
            Queue { reserved: 1, abandoned: 1, ..idle.clone() },
            Queue { delayed: 1, overdue_seconds: Some(LONG + 1), ..idle },
        ] {
            assert_eq!(judge(std::slice::from_ref(&bad)).class_of(), Some(Class::Backlog), "{bad:?}");
        }
    }

    #[test]
    fn a_job_that_stays_the_first_with_nobody_at_work_is_stuck() {
        let first = Queue { name: "q".into(), pending: 2, head: Some("a".into()), ..Queue::default() };
        assert!(first.is_stuck_at(&first));
        assert!(first.is_stuck_at(&Queue { pending: 9, ..first.clone() }), "more came");
        assert!(!first.is_stuck_at(&Queue { head: Some("b".into()), ..first.clone() }), "one was taken");
        assert!(!first.is_stuck_at(&Queue { reserved: 1, ..first.clone() }), "somebody is at work");
        assert!(!first.is_stuck_at(&Queue { pending: 0, head: None, ..first.clone() }));
        let health = judge(&[Queue { is_stuck: true, ..first }]);
        assert_eq!(health.class_of(), Some(Class::Stuck));
    }

    #[test]
    fn a_heartbeat_is_judged_by_its_age() {
        let now = 1_700_000_000;
        for (value, status) in [
            (Some("1700000000"), Status::Healthy),
            (Some("1699999900"), Status::Healthy),
            (Some("1699999800"), Status::Degraded),
            (Some("1699999000"), Status::Down),
            (None, Status::Down),
            (Some("yes"), Status::Inconclusive),
            (Some("1700009999"), Status::Inconclusive),
        ] {
            assert_eq!(judge_beat(value, now, 150).status, status, "{value:?}");
        }
    }
}
