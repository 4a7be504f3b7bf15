//! Recovery of a single service, while the others go on (runbook 3.6): queue, redis, scheduler.
//!
//! Nothing is restarted because it might help: each procedure looks first, mends what it found, and ends when the service
//! has given a sign of life that is younger than the fault. Jobs and tasks are never run as a test.

pub(in crate::procedure) mod containers;
mod missed;
pub mod queue;
pub mod redis;
pub mod scheduler;

pub use queue::RecoverQueue;
pub use redis::RecoverRedis;
pub use scheduler::RecoverScheduler;

use serde::{Deserialize, Serialize};

use super::Parts;
use crate::{
    error::{Error, ErrorKind, Result},
    probe::Health,
    run::{Effect, Run, Step, StepOutput},
    system::Redis,
};

/// What a recovery of queue or scheduler is asked for: nothing more than to do it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {}

/// Finds redis in the configuration.
fn redis_of(parts: &Parts) -> Result<&Redis> {
    parts.system.redis.as_ref().ok_or_else(|| {
        Error::new(ErrorKind::Precondition, "the configuration knows no redis, where jobs and signs of life are kept")
            .hint("add a `[redis]` table with its `service` and `prefix`")
    })
}

/// Makes an error of redis's answer to somebody who needs it for something else.
fn without_redis(health: &Health) -> Error {
    Error::new(ErrorKind::Precondition, format!("redis has to work first: {}", health.summary))
        .hint("chom-recovery recover redis")
}

/// Begins a look whose answer counts for the whole run, also after a crash: it says what was found.
fn look<T: StepOutput>(run: &Run, name: &str) -> Step<T> {
    run.step(name).effect(Effect::Observe).kept()
}

/// Number for a report.
#[expect(clippy::cast_precision_loss, reason = "nobody counts beyond 2^53")]
fn count(number: u64) -> Option<f64> {
    Some(number as f64)
}
