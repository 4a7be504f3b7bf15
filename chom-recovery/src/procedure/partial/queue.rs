//! The queue: workers that were stopped, or that run and take no job.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use chrono::DateTime;
use serde::{Deserialize, Serialize};

use super::{
    Request,
    containers::{self, Site},
    count, look, redis_of, without_redis,
};
use crate::{
    backend::{ContainerState, HealthCheck},
    error::{Error, ErrorKind, Result},
    objective::Objective,
    probe::{
        Class, Health, HealthMode, HealthProbe, Status, ask,
        queue::{Queue, Queues, beat, look as look_at_queues},
    },
    procedure::{Measured, Parts, Procedure, Recovered, proof::moment},
    run::{Run, Wait},
    system::System,
};

/// Name of the procedure in journals.
pub const PROCEDURE: &str = "recover-queue";

/// A worker that waits for jobs looks for them every few seconds: within this it takes one.
const TAKES_WITHIN: Duration = Duration::from_secs(10);

/// Gets the queue to move again: starts workers that do not run, drains and starts those that do not work.
#[derive(Debug, Clone, Copy, Default)]
pub struct RecoverQueue;

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Found {
    site: Site,
    queues: Queues,
    /// Age of the workers' sign of life in seconds; `None`: there is none, or no key is configured.
    beat_age: Option<u64>,
    /// Jobs waited, and none was taken while it was looked.
    is_stalled: bool,
    /// What is known of jobs that failed, where that is not good.
    failed_jobs: Option<String>,
}

/// What is done about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Mend {
    drain: Vec<String>,
    start: Vec<String>,
    why: Vec<String>,
}

#[async_trait]
impl Procedure for RecoverQueue {
    type Request = Request;

    fn name(&self) -> &'static str {
        PROCEDURE
    }

    fn objective(&self, system: &System) -> Objective {
        system.objectives.partial
    }

    fn check(&self, parts: &Parts, _request: &Request) -> Result<()> {
        redis_of(parts)?;
        if parts.system.queue_services().is_empty() {
            return Err(Error::new(ErrorKind::Precondition, "no service takes jobs")
                .hint("name it in `application.workers`, and in `partial.queue_services` if there are several"));
        }
        Ok(())
    }

    async fn recover(&self, run: &Run, parts: &Parts, _request: &Request) -> Result<Recovered> {
        let run = run.scope("queue");
        let began = moment(&run, "began").await?;
        let found = look_at(&run, parts).await?;
        let limit = parts.system.partial.queue_heartbeat_age.as_secs();
        let mend = run.decide("mend", async { Ok(judge(&found, knows_beat(parts), limit)) }).await?;
        let grace = parts.system.application.stop_grace;
        let mut done = Vec::new();
        let mut killed = Vec::new();
        for service in &mend.drain {
            killed.extend(containers::drain(&run, parts, &found.site, service, grace).await?);
            done.push(format!("`{service}` was given {} s to end its job, and stopped", grace.as_secs()));
        }
        for service in mend.drain.iter().chain(&mend.start) {
            containers::start(&run, parts, &found.site, service, grace).await?;
            done.push(format!("`{service}` was started"));
        }
        let deadline = parts.system.partial.proof_deadline;
        let proof = Moves::new(parts, &found.queues, !done.is_empty());
        run.until_healthy(Arc::new(proof), Wait::new(Duration::from_secs(1), 2, deadline)).await?;
        let proven = moment(&run, "proven").await?;
        let after = counted(&run, parts).await?;
        Ok(Recovered {
            measured: measured(&found, &after),
            to_review: to_review(&found, &after, &killed),
            found: mend.why,
            done,
            ..Recovered::new(self.objective(&parts.system), began, proven)
        })
    }
}

fn knows_beat(parts: &Parts) -> bool {
    parts.system.partial.queue_heartbeat_key.is_some()
}

async fn look_at(run: &Run, parts: &Parts) -> Result<Found> {
    let parts = parts.clone();
    look(run, "look")
        .budget(Duration::from_secs(30))
        .timeout(Duration::from_mins(3))
        .run(async move |cx| {
            if parts.application.is_in_maintenance().await? {
                return Err(Error::new(
                    ErrorKind::Precondition,
                    "maintenance mode is on: workers take no job until it ends",
                )
                .hint("chom-recovery maintenance off"));
            }
            let redis = redis_of(&parts)?;
            let services: Vec<String> = parts.system.queue_services().into_iter().map(str::to_owned).collect();
            let site = Site::look(&*parts.backend, &services).await?;
            let first = look_at_queues(redis, &parts.backend).await.map_err(|h| without_redis(&h))?;
            let beat_age = match &parts.system.partial.queue_heartbeat_key {
                Some(key) => {
                    let (now, at) = beat(redis, &parts.backend, key).await.map_err(|h| without_redis(&h))?;
                    at.map(|at| now.saturating_sub(at))
                }
                None => None,
            };
            let mut queues = first.clone();
            let mut is_stalled = first.queues.iter().any(is_waiting);
            let end = tokio::time::Instant::now() + TAKES_WITHIN;
            while is_stalled && tokio::time::Instant::now() < end {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    () = cx.cancelled() => return Err(Error::new(ErrorKind::Cancelled, "stopped looking, as asked")),
                }
                queues = look_at_queues(redis, &parts.backend).await.map_err(|h| without_redis(&h))?;
                is_stalled = queues.queues.iter().zip(&first.queues).any(|(now, then)| !moved(then, now));
            }
            Ok(Found { site, queues, beat_age, is_stalled, failed_jobs: failed_jobs(&parts).await })
        })
        .await
}

/// Tells whether jobs wait and no worker is busy with one.
fn is_waiting(queue: &Queue) -> bool {
    queue.pending > 0 && queue.in_work() == 0
}

/// Tells whether a job was taken between two looks, or none had to be.
fn moved(then: &Queue, now: &Queue) -> bool {
    now.pending == 0 || now.in_work() > 0 || now.pending < then.pending || now.head != then.head
}

async fn failed_jobs(parts: &Parts) -> Option<String> {
    let probes = parts.application.probes(HealthMode::Full, None);
    let probe = probes.into_iter().find(|p| p.name() == "failed-jobs")?;
    let health = ask(&probe, Duration::from_secs(20)).await.health;
    (health.status != Status::Healthy).then_some(health.summary)
}

/// Decides what to do with each service that takes jobs.
fn judge(found: &Found, knows_beat: bool, limit: u64) -> Mend {
    let mut mend = Mend::default();
    let mut services: Vec<&str> = found.site.seen.iter().map(|one| one.service.as_str()).collect();
    services.dedup();
    let all_up = found.site.seen.iter().all(|one| one.state == ContainerState::Running);
    let is_silent = knows_beat && found.beat_age.is_none_or(|age| age > limit);
    if found.is_stalled {
        let pending: u64 = found.queues.queues.iter().map(|q| q.pending).sum();
        mend.why.push(format!("{pending} jobs wait, and none was taken within {} s", TAKES_WITHIN.as_secs()));
    }
    if is_silent {
        let age = found.beat_age.map_or_else(|| "never".to_owned(), |age| format!("{age} s ago"));
        mend.why.push(format!("the workers' last sign of life: {age}"));
    }
    for service in services {
        mend.why.extend(found.site.of(service).filter_map(containers::Seen::fault));
        let is_unwell = found.site.of(service).any(|one| one.health == HealthCheck::Unhealthy && one.is_up());
        if found.site.of(service).any(|one| !one.is_up()) {
            mend.start.push(service.to_owned());
        } else if is_unwell || (all_up && (found.is_stalled || is_silent)) {
            mend.drain.push(service.to_owned());
        }
    }
    mend
}

/// Whether jobs are taken: a sign of life after the fault and, where jobs wait, fewer or other ones than before.
#[derive(Debug)]
struct Moves {
    parts: Parts,
    before: Mutex<Vec<Queue>>,
    /// Redis's time after which a sign of life counts; 0: its age counts.
    since: u64,
}

impl Moves {
    fn new(parts: &Parts, before: &Queues, has_acted: bool) -> Self {
        let since = if has_acted { before.now } else { 0 };
        Self { parts: parts.clone(), before: Mutex::new(before.queues.clone()), since }
    }

    async fn ask(&self) -> Result<Health, Health> {
        let unusable = |e: Error| Health::inconclusive(e.to_string());
        let redis = redis_of(&self.parts).map_err(unusable)?;
        let alive = match &self.parts.system.partial.queue_heartbeat_key {
            Some(key) => {
                let (now, at) = beat(redis, &self.parts.backend, key).await?;
                self.judge_beat(now, at)?
            }
            None => self.judge_containers().await?,
        };
        let sight = look_at_queues(redis, &self.parts.backend).await?;
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        for (then, now) in before.iter_mut().zip(&sight.queues) {
            if then.pending == 0 {
                // Jobs that came since: whether they are taken is seen from now on.
                *then = now.clone();
            }
            if !moved(then, now) {
                let what = format!("{} jobs wait in queue `{}`, and none was taken", now.pending, now.name);
                return Err(Health::down(what).class(Class::Backlog));
            }
        }
        let pending: u64 = sight.queues.iter().map(|q| q.pending).sum();
        Ok(Health::healthy(format!("{alive}; {pending} jobs wait")).class(Class::Ok))
    }

    fn judge_beat(&self, now: u64, at: Option<u64>) -> Result<String, Health> {
        let limit = self.parts.system.partial.queue_heartbeat_age.as_secs();
        match at {
            Some(at) if at > self.since && now.saturating_sub(at) <= limit => {
                Ok(format!("a worker gave a sign of life {} s ago", now.saturating_sub(at)))
            }
            _ => Err(Health::down("no worker has given a sign of life yet").class(Class::Stale)),
        }
    }

    /// Without a sign of life in redis, the containers' own health checks have to do.
    async fn judge_containers(&self) -> Result<String, Health> {
        let services = self.parts.system.queue_services();
        let containers = self.parts.backend.containers().await.map_err(|e| Health::inconclusive(e.to_string()))?;
        let ours: Vec<_> = containers.iter().filter(|c| services.contains(&c.service.as_str())).collect();
        if ours.iter().any(|c| c.state != ContainerState::Running) {
            return Err(Health::down("a worker does not run").class(Class::NotRunning));
        }
        if ours.is_empty() || ours.iter().any(|c| c.health != HealthCheck::Healthy) {
            return Err(Health::inconclusive(
                "nothing tells whether the workers work: no `partial.queue_heartbeat_key`, and no health check that passes",
            ));
        }
        Ok("the workers' health checks pass".to_owned())
    }
}

#[async_trait]
impl HealthProbe for Moves {
    fn name(&self) -> &'static str {
        "queue"
    }

    async fn check(&self) -> Health {
        self.ask().await.unwrap_or_else(|failure| failure)
    }
}

async fn counted(run: &Run, parts: &Parts) -> Result<Queues> {
    let parts = parts.clone();
    look(run, "count")
        .predict(Queues::default)
        .timeout(Duration::from_mins(1))
        .run(async move |_| look_at_queues(redis_of(&parts)?, &parts.backend).await.map_err(|h| without_redis(&h)))
        .await
}

fn measured(found: &Found, after: &Queues) -> Vec<Measured> {
    let mut lines = Vec::new();
    for (then, now) in found.queues.queues.iter().zip(&after.queues) {
        let values = [
            ("pending", "", count(then.pending), count(now.pending)),
            ("delayed", "", count(then.delayed), count(now.delayed)),
            ("reserved", "", count(then.reserved), count(now.reserved)),
            (
                "oldest job waits",
                "s",
                then.oldest_seconds.or((then.pending == 0).then_some(0)).and_then(count),
                now.oldest_seconds.or((now.pending == 0).then_some(0)).and_then(count),
            ),
        ];
        lines.extend(values.map(|(name, unit, before, after)| Measured {
            name: format!("queue `{}`: {name}", then.name),
            unit: unit.into(),
            before,
            after,
        }));
    }
    for one in &found.site.seen {
        let name = format!("`{}`: memory", one.container);
        lines.push(Measured { name, unit: "bytes".into(), before: one.memory.and_then(count), after: None });
    }
    lines
}

fn to_review(found: &Found, after: &Queues, killed: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = killed
        .iter()
        .map(|name| format!("`{name}` did not end in time and was killed: find out what its job hung on"))
        .collect();
    for queue in after.queues.iter().filter(|q| q.reserved > 0) {
        let by = queue.back_at.and_then(|at| DateTime::from_timestamp(i64::try_from(at).ok()?, 0));
        let by = by.map_or_else(String::new, |at| format!(", the last at {} UTC", at.format("%T")));
        lines.push(format!(
            "queue `{}`: {} jobs are taken; those of a dead worker come back by themselves{by}",
            queue.name, queue.reserved
        ));
    }
    if let Some(failed) = &found.failed_jobs {
        lines.push(format!("look at failed jobs before they are retried: {failed}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procedure::partial::containers::seen;

    fn queue(pending: u64, reserved: u64, head: &str) -> Queue {
        Queue { name: "default".into(), pending, reserved, head: Some(head.into()), ..Queue::default() }
    }

    fn found(states: &[(&str, ContainerState)], beat_age: Option<u64>, is_stalled: bool) -> Found {
        let seen = states.iter().map(|(service, state)| seen(service, *state)).collect();
        let queues = Queues { now: 100, queues: vec![queue(3, 0, "a")] };
        Found { site: Site { seen, remembered: Vec::new() }, queues, beat_age, is_stalled, failed_jobs: None }
    }

    #[test]
    fn what_does_not_run_is_started_and_what_does_not_work_is_drained() {
        use ContainerState::{Exited, Running};
        let both = |queue, mails| [("queue", queue), ("mails", mails)];
        for (states, beat_age, is_stalled, drain, start) in [
            (both(Running, Running), Some(5), false, vec![], vec![]),
            (both(Exited, Running), Some(500), true, vec![], vec!["queue"]),
            (both(Running, Running), Some(500), false, vec!["queue", "mails"], vec![]),
            (both(Running, Running), None, false, vec!["queue", "mails"], vec![]),
            (both(Running, Running), Some(5), true, vec!["queue", "mails"], vec![]),
        ] {
            let mend = judge(&found(&states, beat_age, is_stalled), true, 60);
            assert_eq!((&mend.drain[..], &mend.start[..]), (&own(&drain)[..], &own(&start)[..]), "{states:?}");
            assert_eq!(mend.why.is_empty(), drain.is_empty() && start.is_empty());
        }
        let unknown = judge(&found(&both(Running, Running), None, false), false, 60);
        assert_eq!(unknown, Mend::default(), "no sign of life is configured, and nothing waits");
    }

    fn own(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn a_job_that_a_worker_is_busy_with_is_no_stall() {
        assert!(is_waiting(&queue(3, 0, "a")));
        assert!(!is_waiting(&queue(3, 1, "a")));
        assert!(is_waiting(&Queue { abandoned: 1, ..queue(3, 1, "a") }), "its worker is gone");
        assert!(!moved(&queue(3, 0, "a"), &queue(3, 0, "a")));
        for now in [queue(2, 0, "a"), queue(3, 0, "b"), queue(4, 1, "a"), queue(0, 0, "")] {
            assert!(moved(&queue(3, 0, "a"), &now), "{now:?}");
        }
    }
}
