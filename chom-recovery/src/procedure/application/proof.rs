//! Proving the application: it boots, users are served and can do what they do, services run, and workers work.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

use super::mins;
use crate::{
    error::{Error, ErrorKind, Result},
    probe::{HealthMode, SharedProbe, all_of, code::CodeProbe, queue::beat, synthetic::SYNTHETIC},
    procedure::{
        Parts,
        proof::{STEADY, is_outer, moment, pick},
        signs::SignOfLife,
    },
    run::{Effect, Run, Wait},
};

/// Logins are counted by applications, and too many of them refused: Laravel allows five a minute.
const LOGIN: Wait = Wait { ask: Duration::from_secs(40), ..Wait::new(Duration::from_secs(20), 1, mins(3)) };

/// Workers that were started, and when.
pub(super) struct Started<'a> {
    pub(super) services: &'a [&'a str],
    /// By redis's clock, in Unix seconds.
    pub(super) since: u64,
}

/// Reads redis's clock before workers are started: their signs of life have to be younger. 0 where nothing asks for them, or
/// redis does not answer yet; then their age alone counts.
pub(super) async fn clock(run: &Run, parts: &Parts) -> Result<u64> {
    let Some(redis) = parts.system.redis.clone() else { return Ok(0) };
    let keys = [redis.heartbeat_key.clone(), parts.system.partial.queue_heartbeat_key.clone()];
    let Some(key) = keys.into_iter().flatten().next() else { return Ok(0) };
    let backend = parts.backend.clone();
    run.step("clock")
        .effect(Effect::Observe)
        .kept()
        .predict(|| 0)
        .timeout(mins(1))
        .run(async move |_| Ok(beat(&redis, &backend, &key).await.map_or(0, |(now, _)| now)))
        .await
}

/// Proves it, and then for as long as is configured.
pub(super) async fn prove(
    run: &Run,
    parts: &Parts,
    began: DateTime<Utc>,
    started: Started<'_>,
) -> Result<DateTime<Utc>> {
    let services = parts.system.writers();
    let proof = || {
        pick(parts, began, |name| {
            is_outer(name) || name.strip_prefix("container-").is_some_and(|service| services.contains(&service))
        })
    };
    let failed = |e: Error| match e.kind() {
        ErrorKind::Timeout | ErrorKind::Unhealthy => {
            e.hint("chom-recovery diagnose: what is wrong may be something that the application needs")
        }
        _ => e,
    };
    let once = Wait { consecutive: 1, ..STEADY };
    if let Some(boots) = CodeProbe::of(&parts.system, parts.backend.clone()) {
        run.until_healthy(all_of("boots", vec![Arc::new(boots)]), once).await.map_err(failed)?;
    }
    run.until_healthy(all_of("application", proof()), Wait { timeout: mins(4), ..STEADY }).await.map_err(failed)?;
    let user = parts.application.probes(HealthMode::PostRecovery, Some(began));
    if let Some(user) = user.into_iter().find(|probe| probe.name() == SYNTHETIC) {
        run.until_healthy(user, LOGIN).await.map_err(failed)?;
    }
    let signs = signs(parts, &started);
    if !signs.is_empty() {
        let wait = Wait { timeout: parts.system.partial.proof_deadline, ..once };
        run.until_healthy(all_of("signs-of-life", signs), wait).await.map_err(failed)?;
    }
    let proven_at = moment(run, "proven").await?;
    let soak = parts.system.application.soak;
    run.until_healthy(all_of("soak", proof()), Wait::soak(soak, Duration::from_secs(5), soak * 2 + mins(1))).await?;
    Ok(proven_at)
}

/// Signs of life of the workers that were started, where they are configured.
fn signs(parts: &Parts, started: &Started<'_>) -> Vec<SharedProbe> {
    let (system, is_started) = (&parts.system, |service: &str| started.services.contains(&service));
    let Some(redis) = &system.redis else { return Vec::new() };
    let sign = |name, who, key: &String, age: Duration| {
        let (parts, key) = (parts.clone(), key.clone());
        Arc::new(SignOfLife { name, who, parts, key, since: started.since, age: age.as_secs() }) as SharedProbe
    };
    let queue =
        system.partial.queue_heartbeat_key.as_ref().filter(|_| system.queue_services().into_iter().any(is_started));
    let scheduler = redis.heartbeat_key.as_ref().filter(|_| system.scheduler_service().is_some_and(is_started));
    let queue = queue.map(|key| sign("queue", "a queue worker", key, system.partial.queue_heartbeat_age));
    queue.into_iter().chain(scheduler.map(|key| sign("scheduler", "the scheduler", key, redis.heartbeat_age))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::stack::SimStack;

    #[tokio::test(start_paused = true)]
    async fn only_workers_that_were_started_and_have_a_sign_of_life_configured_have_to_give_it() {
        let directory = tempfile::tempdir().unwrap();
        let stack = SimStack::create(directory.path()).await.unwrap();
        let names = |parts: &Parts, services: &[&str]| -> Vec<String> {
            let found = signs(parts, &Started { services, since: 0 });
            found.iter().map(|probe| probe.name().to_owned()).collect()
        };
        assert_eq!(names(&stack.parts, &["queue", "scheduler"]), [""; 0], "nothing is configured");
        let mut system = crate::System::clone(&stack.parts.system);
        system.redis = Some(toml::from_str("service = \"redis\"\nheartbeat_key = \"scheduler\"").unwrap());
        system.partial.queue_heartbeat_key = Some("queue".into());
        let parts = Parts { system: Arc::new(system), ..stack.parts.clone() };
        assert_eq!(names(&parts, &["app", "queue", "scheduler"]), ["queue", "scheduler"]);
        assert_eq!((names(&parts, &["scheduler"]), names(&parts, &["app"])), (vec!["scheduler".to_owned()], vec![]));
    }
}
