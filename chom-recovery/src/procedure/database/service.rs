//! From a swapped volume back to a proven service: staged start, counters, jobs, maintenance off, soak.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    candidate::Site,
    jobs::HeldJobs,
    mins,
    ops::{NextIds, RaisedCounter},
    restore::Swapped,
};
use crate::{
    error::Result,
    probe::{Class, SharedProbe, Status, all_of, map},
    procedure::{
        Parts,
        maintenance::MaintenanceRecord,
        proof::{STEADY, is_of_worker, is_outer, moment, moment_step, pick},
        quiesce::{self, Remembered},
    },
    run::{Effect, Run, Undo, Wait},
};

/// When the service was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Proven {
    /// The database answered steadily.
    pub(super) database_at: DateTime<Utc>,
    /// Users were served again, seen from outside.
    pub(super) service_at: DateTime<Utc>,
    /// Maintenance mode was on before the run, and so it stays: the service was proven behind it, and nobody is served.
    #[serde(default)]
    pub(super) users_stay_out: bool,
}

/// What undoing a start has to come back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unstarted {
    /// Nobody runs: data is about to be exchanged back, and what ran before is started after that.
    Stopped,
    /// Who ran before runs.
    AsFound,
}

/// Starts the database on the restored volume.
pub(super) async fn start_database(run: &Run, parts: &Parts, swapped: &Swapped) -> Result<()> {
    let (backend, service) = (parts.backend.clone(), parts.system.database.service.clone());
    run.step("start-database")
        .effect(Effect::Idempotent)
        .input(swapped.exchange())
        .predict(|| ())
        .budget(mins(2))
        .timeout(mins(15))
        .undo(Undo::Unnecessary("undoing the swap stops it"))
        .run(async move |_| backend.start(&service, mins(10)).await)
        .await
}

/// Waits until the database answers steadily, as itself, and notes when.
pub(super) async fn prove_database(run: &Run, parts: &Parts) -> Result<DateTime<Utc>> {
    run.until_healthy(parts.database.ready(), STEADY).await?;
    moment(run, "database-proven").await
}

/// Raises AUTO_INCREMENT above every id that was handed out and lost: mails, caches and other systems still know
/// them.
pub(super) async fn raise_counters(
    run: &Run,
    parts: &Parts,
    site: &Arc<Site>,
    next: NextIds,
) -> Result<Vec<RaisedCounter>> {
    let (ops, container) = (parts.database.clone(), site.production.container.clone());
    run.step("raise-counters")
        .effect(Effect::Idempotent)
        .predict(Vec::new)
        .budget(mins(1))
        .timeout(mins(10))
        .undo(Undo::Unnecessary("a gap in ids harms nothing"))
        .run(async move |_| ops.raise_counters(&container, &next).await)
        .await
}

/// Sets queued jobs aside that may speak of rows which are gone.
///
/// # Errors
/// `Conflict`: a writer runs again, and works on jobs that nobody has looked at.
pub(super) async fn hold_jobs(run: &Run, parts: &Parts, writers: &[Remembered]) -> Result<HeldJobs> {
    let (holding, releasing, id) = (parts.application.clone(), parts.application.clone(), run.id().to_string());
    let (backend, writers, same) = (parts.backend.clone(), writers.to_vec(), id.clone());
    run.step("hold-jobs")
        .effect(Effect::Idempotent)
        .predict(HeldJobs::default)
        .budget(mins(1))
        .timeout(mins(3))
        .undo_text("put the held jobs back into their queues")
        .undo_with(async move |_, _| releasing.release_jobs(&same).await.map(drop))
        .run(async move |_| {
            // Somebody's deployment may have started them since the swap.
            quiesce::prove_stopped(&*backend, &writers).await?;
            holding.hold_jobs(&id).await
        })
        .await
}

/// Starts the application, proves it behind maintenance mode, serves users, and only then starts the workers.
pub(super) async fn start(
    run: &Run,
    parts: &Parts,
    found: &[Remembered],
    maintenance: Option<&MaintenanceRecord>,
    database_at: DateTime<Utc>,
    unstarted: Unstarted,
) -> Result<Proven> {
    let of = |wanted: &dyn Fn(&str) -> bool| -> Vec<Remembered> {
        found.iter().filter(|r| wanted(&r.service)).cloned().collect()
    };
    let application = &parts.system.application;
    let is_worker = |service: &str| application.workers.iter().any(|w| w == service);

    start_step(run, parts, "start-application", of(&|s| s == application.service), unstarted).await?;
    let users_stay_out = maintenance.is_some_and(|record| record.was_down_before);
    if let Some(record) = maintenance {
        // Behind maintenance mode HTTP answers 503: what lies below it is judged first.
        let inner = pick(parts, database_at, |name| !is_outer(name) && !is_about(name, &application.workers));
        run.until_healthy(all_of("application", inner), STEADY).await?;
        if !users_stay_out {
            maintenance_off(run, parts, record).await?;
        }
    }
    let seen = |probe: SharedProbe| {
        if !users_stay_out {
            probe
        } else if is_outer(probe.name()) {
            behind_maintenance(probe)
        } else {
            idle_in_maintenance(probe)
        }
    };
    let outer: Vec<_> = pick(parts, database_at, is_outer).into_iter().map(seen).collect();
    if !outer.is_empty() {
        run.until_healthy(all_of("outside", outer), STEADY).await?;
    }
    let service_at = moment_step(run, "service-proven").ends_outage().await?;

    start_step(run, parts, "start-workers", of(&is_worker), unstarted).await?;
    put_policies_back(run, parts, found).await?;
    let every: Vec<_> = pick(parts, database_at, |_| true).into_iter().map(seen).collect();
    run.until_healthy(all_of("post-recovery", every.clone()), STEADY).await?;
    let soak = application.soak;
    run.until_healthy(all_of("soak", every), Wait::soak(soak, Duration::from_secs(5), soak * 2 + mins(1))).await?;
    Ok(Proven { database_at, service_at, users_stay_out })
}

/// Takes maintenance mode that stays on for what it is: seen from outside, it proves that the web server and the
/// application answer. Any other failure counts. Who switched it on may have set no `Retry-After`.
fn behind_maintenance(probe: SharedProbe) -> SharedProbe {
    map(probe.name().to_owned(), probe, |mut health| {
        let says_503 = health.facts.get("status").is_some_and(|status| status == "503");
        if health.status == Status::Down && (health.class_of() == Some(Class::Maintenance) || says_503) {
            health.status = Status::Healthy;
            health.summary = format!("in maintenance mode, as before: {}", health.summary);
        }
        health
    })
}

/// A worker has nothing to do in maintenance mode, and may end and be started again: see [`quiesce::start_all`].
fn idle_in_maintenance(probe: SharedProbe) -> SharedProbe {
    map(probe.name().to_owned(), probe, |mut health| {
        let ended_well = health.facts.get("exit_code").is_none_or(|code| code == "0");
        let is_starting = matches!(health.class_of(), Some(Class::Restarting | Class::Starting));
        if is_of_worker(&health) && is_starting && ended_well {
            health.status = Status::Healthy;
            health.summary = format!("idle in maintenance mode: {}", health.summary);
        }
        health
    })
}

fn is_about(name: &str, workers: &[String]) -> bool {
    matches!(name, "queue" | "scheduler" | "heartbeat")
        || workers.iter().any(|w| name == format!("container-{w}") || name == format!("logs-{w}"))
}

async fn start_step(run: &Run, parts: &Parts, name: &str, those: Vec<Remembered>, unstarted: Unstarted) -> Result<()> {
    let (starting, stopping, to_start, to_stop) =
        (parts.backend.clone(), parts.backend.clone(), those.clone(), those.clone());
    let grace = parts.system.application.stop_grace;
    // What was found crashed is started as well: the recovery ends with a working service.
    let mut services: Vec<String> = those.into_iter().map(|r| r.service).collect();
    services.dedup();
    run.step(name)
        .effect(Effect::Idempotent)
        .input(&services)
        .predict(|| ())
        .budget(mins(2))
        .timeout(mins(15))
        .undo_text("stop it again")
        .undo_with(async move |_, _: Option<()>| match unstarted {
            Unstarted::Stopped => quiesce::stop(&*stopping, &to_stop, grace).await.map(drop),
            Unstarted::AsFound => quiesce::stop_again(&*stopping, &to_stop, grace).await,
        })
        .run(async move |_| {
            // First: a worker may end by itself, and counts on the Engine to begin it again.
            quiesce::put_policies_back(&*starting, &to_start).await?;
            let services: Vec<_> = services.iter().map(String::as_str).collect();
            quiesce::start_all(&*starting, &services, mins(5)).await
        })
        .await
}

async fn maintenance_off(run: &Run, parts: &Parts, record: &MaintenanceRecord) -> Result<()> {
    let (off, on, record) = (parts.application.clone(), parts.application.clone(), record.clone());
    run.step("maintenance-off")
        .effect(Effect::Idempotent)
        .predict(|| ())
        .budget(mins(1))
        .timeout(mins(3))
        .undo_text("switch maintenance mode on again")
        .undo_with(async move |_, _: Option<()>| on.maintenance_on().await.map(drop))
        .run(async move |_| off.maintenance_off(&record).await)
        .await
}

async fn put_policies_back(run: &Run, parts: &Parts, found: &[Remembered]) -> Result<()> {
    let (backend, found) = (parts.backend.clone(), found.to_vec());
    run.step("put-restart-policies-back")
        .effect(Effect::Idempotent)
        .input(&found)
        .predict(|| ())
        .budget(mins(1))
        .timeout(mins(3))
        .undo(Undo::Unnecessary("undoing the stops sets them again"))
        .run(async move |_| quiesce::put_policies_back(&*backend, &found).await)
        .await
}
