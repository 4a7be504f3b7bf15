//! The scheduler: it does not run, or it runs and does nothing.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    Request,
    containers::{self, Site},
    count, look, missed, redis_of, without_redis,
};
use crate::{
    backend::{BackendExt, ContainerState, HealthCheck},
    error::{Error, ErrorKind, Result},
    objective::Objective,
    probe::queue::beat,
    procedure::{Measured, Parts, Procedure, Recovered, maintenance::Artisan, proof::moment, signs::SignOfLife},
    run::{Run, Wait},
    system::System,
};

/// Name of the procedure in journals.
pub const PROCEDURE: &str = "recover-scheduler";

/// Gets the scheduler to run again, and lists what it missed. Missed tasks are not run: whether one may run late, or
/// twice, only a person knows.
#[derive(Debug, Clone, Copy, Default)]
pub struct RecoverScheduler;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Found {
    site: Site,
    /// Redis's clock, a Unix time.
    now: u64,
    /// Last sign of life, a Unix time.
    beat: Option<u64>,
}

/// What is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mend {
    Nothing,
    Start,
    Restart,
}

#[async_trait]
impl Procedure for RecoverScheduler {
    type Request = Request;

    fn name(&self) -> &'static str {
        PROCEDURE
    }

    fn objective(&self, system: &System) -> Objective {
        system.objectives.partial
    }

    fn check(&self, parts: &Parts, _request: &Request) -> Result<()> {
        service(parts)?;
        heartbeat_key(parts).map(drop)
    }

    async fn recover(&self, run: &Run, parts: &Parts, _request: &Request) -> Result<Recovered> {
        let run = run.scope("scheduler");
        let (service, grace) = (service(parts)?.to_owned(), parts.system.application.stop_grace);
        let limit = redis_of(parts)?.heartbeat_age.as_secs();
        let began = moment(&run, "began").await?;
        let found = look_at(&run, parts, &service).await?;
        let mend = run.decide("mend", async { Ok(judge(&found, limit)) }).await?;
        let mut done = Vec::new();
        let mut to_review = Vec::new();
        if mend == Mend::Restart {
            for name in containers::drain(&run, parts, &found.site, &service, grace).await? {
                to_review.push(format!("`{name}` did not end in time and was killed: find out what its task hung on"));
            }
            done.push(format!("`{service}` was stopped"));
        }
        if mend != Mend::Nothing {
            containers::start(&run, parts, &found.site, &service, grace).await?;
            done.push(format!("`{service}` was started"));
        }
        let since = if mend == Mend::Nothing { found.now.saturating_sub(limit) } else { found.now };
        let (key, age) = (heartbeat_key(parts)?.to_owned(), limit);
        let (name, who, parts_of) = ("scheduler", "the scheduler", parts.clone());
        let proof = Arc::new(SignOfLife { name, who, parts: parts_of, key, since, age });
        let wait = Wait::new(Duration::from_secs(1), 1, parts.system.partial.proof_deadline);
        run.until_healthy(proof, wait).await?;
        let proven = moment(&run, "proven").await?;
        let after = age_after(&run, parts).await?;
        if mend != Mend::Nothing {
            to_review.extend(missed_tasks(&run, parts, &found).await?);
        }
        let before = found.beat.and_then(|at| count(found.now.saturating_sub(at)));
        Ok(Recovered {
            found: said(&found, mend),
            done,
            measured: vec![Measured {
                name: "age of the last sign of life".into(),
                unit: "s".into(),
                before,
                after: after.and_then(count),
            }],
            to_review,
            ..Recovered::new(self.objective(&parts.system), began, proven)
        })
    }
}

fn service(parts: &Parts) -> Result<&str> {
    parts.system.scheduler_service().ok_or_else(|| {
        Error::new(ErrorKind::Precondition, "no service is known to be the scheduler")
            .hint("name it in `partial.scheduler_service`")
    })
}

fn heartbeat_key(parts: &Parts) -> Result<&str> {
    redis_of(parts)?.heartbeat_key.as_deref().ok_or_else(|| {
        Error::new(ErrorKind::Precondition, "nothing could prove the scheduler: no `redis.heartbeat_key` is configured")
            .hint("have a scheduled task write the time into a key of redis every minute, and name that key")
    })
}

async fn look_at(run: &Run, parts: &Parts, service: &str) -> Result<Found> {
    let (parts, service) = (parts.clone(), service.to_owned());
    look(run, "look")
        .budget(Duration::from_secs(20))
        .timeout(Duration::from_mins(2))
        .run(async move |_| {
            let site = Site::look(&*parts.backend, &[service]).await?;
            let (now, beat) = read(&parts).await?;
            Ok(Found { site, now, beat })
        })
        .await
}

async fn read(parts: &Parts) -> Result<(u64, Option<u64>)> {
    beat(redis_of(parts)?, &parts.backend, heartbeat_key(parts)?).await.map_err(|h| without_redis(&h))
}

fn judge(found: &Found, limit: u64) -> Mend {
    let is_fresh = found.beat.is_some_and(|at| found.now.saturating_sub(at) <= limit);
    let seen = &found.site.seen;
    if seen.iter().any(|one| one.state != ContainerState::Running) {
        Mend::Start
    } else if !is_fresh || seen.iter().any(|one| one.health == HealthCheck::Unhealthy) {
        Mend::Restart
    } else {
        Mend::Nothing
    }
}

fn said(found: &Found, mend: Mend) -> Vec<String> {
    let mut lines: Vec<String> = found.site.seen.iter().filter_map(containers::Seen::fault).collect();
    if mend != Mend::Nothing {
        lines.push(match found.beat {
            Some(at) => format!("last sign of life {} s ago", found.now.saturating_sub(at)),
            None => "it has never given a sign of life, or that was lost".into(),
        });
    }
    lines
}

async fn age_after(run: &Run, parts: &Parts) -> Result<Option<u64>> {
    let parts = parts.clone();
    look(run, "age")
        .predict(|| None)
        .timeout(Duration::from_mins(1))
        .run(async move |_| {
            let (now, at) = read(&parts).await?;
            Ok(at.map(|at| now.saturating_sub(at)))
        })
        .await
}

/// Lists what was due between the last sign of life and now. What cannot be told is said, and stops nothing.
async fn missed_tasks(run: &Run, parts: &Parts, found: &Found) -> Result<Vec<String>> {
    let (parts, from) = (parts.clone(), found.beat);
    look(run, "missed-tasks")
        .predict(Vec::new)
        .budget(Duration::from_secs(30))
        .timeout(Duration::from_mins(2))
        .run(async move |_| {
            Ok(match listed(&parts).await {
                Ok(text) => missed::lines(&text, from, chrono::Utc::now()),
                Err(error) => vec![format!("what the scheduler missed is not known: {error}")],
            })
        })
        .await
}

async fn listed(parts: &Parts) -> Result<String> {
    let artisan = Artisan::of(&parts.system)
        .ok_or_else(|| Error::new(ErrorKind::Unsupported, "the application has no list of scheduled tasks"))?;
    let containers = parts.backend.service_containers(&parts.system.application.service).await?;
    let running = containers.iter().find(|c| c.state == ContainerState::Running).ok_or_else(|| {
        Error::new(ErrorKind::Precondition, format!("`{}` does not run", parts.system.application.service))
    })?;
    // With `-v` a command is not cut to the width of a terminal.
    let arguments = ["schedule:list", "-v", "--no-ansi", "--no-interaction"].map(str::to_owned);
    artisan.run(&*parts.backend, running, &arguments).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procedure::partial::containers::seen;

    #[test]
    fn it_is_started_or_restarted_by_state_and_age() {
        use ContainerState::{Exited, Running};
        let found = |state, beat| Found {
            site: Site { seen: vec![seen("scheduler", state)], remembered: Vec::new() },
            now: 1_000,
            beat,
        };
        assert_eq!(judge(&found(Running, Some(900)), 150), Mend::Nothing);
        assert_eq!(judge(&found(Running, Some(800)), 150), Mend::Restart);
        assert_eq!(judge(&found(Running, None), 150), Mend::Restart);
        assert_eq!(judge(&found(Exited, Some(999)), 150), Mend::Start);
    }
}
