//! Stopping the writers, and putting them back as they were.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::Parts;
use crate::{
    backend::{Backend, BackendExt, ContainerState, RestartPolicy},
    error::{Error, ErrorKind, Result},
    run::{Effect, Run},
};

/// How long a service that did not serve before is waited for when it is put back.
const AS_BROKEN_AS_BEFORE: Duration = Duration::from_secs(10);

/// How long a container that is started again and again is looked at for its exit code.
const BETWEEN_TWO_LIVES: Duration = Duration::from_secs(20);

/// A container as it was before the run touched it. Recorded once, so that a resumed run puts back what was found
/// and not what it made itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Compose service.
    pub service: String,
    /// Container name.
    pub container: String,
    /// Whether it ran.
    pub was_running: bool,
    /// Whether it also served: without this, starting it again need not make it serve.
    #[serde(default)]
    pub was_ready: bool,
    /// What the Engine did when it ended.
    pub restart_policy: RestartPolicy,
}

/// Notes state and restart policy of every container of `services`.
pub(in crate::procedure) async fn remember(backend: &dyn Backend, services: &[String]) -> Result<Vec<Remembered>> {
    let mut found = Vec::new();
    for container in backend.containers().await? {
        if services.contains(&container.service) {
            found.push(Remembered {
                was_running: matches!(container.state, ContainerState::Running | ContainerState::Restarting),
                was_ready: container.is_ready(),
                service: container.service,
                container: container.name,
                restart_policy: container.restart_policy,
            });
        }
    }
    found.sort_by(|a, b| (&a.service, &a.container).cmp(&(&b.service, &b.container)));
    Ok(found)
}

/// The step in which services are stopped, proven, and started again by an undo. Where they were not `usable`, as with files
/// that do not work, one that still ran on what it had read before need not serve then.
pub(in crate::procedure) async fn stop_step(
    run: &Run,
    parts: &Parts,
    name: &str,
    those: &[Remembered],
    usable: bool,
) -> Result<()> {
    let grace = parts.system.application.stop_grace;
    let (stopping, starting, proving) = (parts.backend.clone(), parts.backend.clone(), parts.backend.clone());
    let (to_stop, mut to_start, to_prove) = (those.to_vec(), those.to_vec(), those.to_vec());
    to_start.iter_mut().for_each(|one| one.was_ready &= usable);
    run.step(name)
        .effect(Effect::Idempotent)
        .input(&those)
        .predict(|| 0)
        .budget(Duration::from_mins(2))
        .timeout(grace * 4 + Duration::from_mins(2))
        .undo_text("start the services that ran, with their restart policies")
        .undo_with(async move |_, _: Option<u32>| start_again(&starting, &to_start, Duration::from_mins(5)).await)
        .run(async move |_| stop(&*stopping, &to_stop, grace).await)
        .verify(async move |_, _| prove_stopped(&*proving, &to_prove).await)
        .await
        .map(drop)
}

/// Keeps the Engine from starting them again, then stops them, workers before those they depend on.
pub(in crate::procedure) async fn stop(backend: &dyn Backend, those: &[Remembered], grace: Duration) -> Result<u32> {
    for one in those {
        match backend.set_restart_policy(&one.container, &RestartPolicy::No).await {
            // One that somebody removed since does not start again either.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            other => other?,
        }
    }
    let mut services: Vec<_> = those.iter().map(|r| r.service.as_str()).collect();
    services.dedup();
    let outcomes = backend.stop_all(&services, grace).await?;
    Ok(u32::try_from(outcomes.iter().filter(|o| o.was_running).count()).unwrap_or(u32::MAX))
}

/// Proves that none of them runs.
///
/// # Errors
/// `Conflict`: one runs again; somebody or something else started it.
pub(in crate::procedure) async fn prove_stopped(backend: &dyn Backend, those: &[Remembered]) -> Result<()> {
    for container in backend.containers().await? {
        let ours = those.iter().any(|r| r.service == container.service);
        if ours
            && matches!(container.state, ContainerState::Running | ContainerState::Restarting | ContainerState::Paused)
        {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("`{}` runs again although this run stopped it", container.name),
            )
            .with("service", &container.service)
            .hint(format!(
                "find what starts it (a deploy tool, cron, systemd) and stop that, then `docker stop {}` and resume",
                container.name
            )));
        }
    }
    Ok(())
}

/// Gives every container its restart policy back.
pub(in crate::procedure) async fn put_policies_back(backend: &dyn Backend, those: &[Remembered]) -> Result<()> {
    for one in those {
        match backend.set_restart_policy(&one.container, &one.restart_policy).await {
            // A container that was made anew has its policy from the Compose file.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// Starts the services that ran, in dependency order, and gives them their policies back. One that did not serve
/// before, as a server on damaged data, is started and need not serve now.
pub(in crate::procedure) async fn start_again(
    backend: &Arc<dyn Backend>,
    those: &[Remembered],
    wait: Duration,
) -> Result<()> {
    // First: a worker may end by itself, and counts on the Engine to begin it again.
    put_policies_back(&**backend, those).await?;
    for service in backend.model().await?.services {
        let of = || those.iter().filter(|r| r.service == service.name && r.was_running);
        if of().next().is_none() {
            continue;
        }
        let served = of().all(|r| r.was_ready);
        match start(&**backend, &service.name, if served { wait } else { wait.min(AS_BROKEN_AS_BEFORE) }).await {
            Err(e) if !served && matches!(e.kind(), ErrorKind::Timeout | ErrorKind::Unhealthy) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Starts services in dependency order, as [`start`] does.
pub(in crate::procedure) async fn start_all(backend: &dyn Backend, services: &[&str], wait: Duration) -> Result<()> {
    for service in backend.model().await?.services {
        if services.contains(&service.name.as_str()) {
            start(backend, &service.name, wait).await?;
        }
    }
    Ok(())
}

/// Starts a service. One that keeps ending with exit code 0, and is begun again by the Engine, counts as started: whether
/// that is good enough is for probes to say. Laravel's workers do so in maintenance mode when they have a `--max-time`
/// and the machine has been up for longer (`Illuminate\Queue\Worker::pauseWorker` takes the time since boot for theirs).
async fn start(backend: &dyn Backend, service: &str, wait: Duration) -> Result<()> {
    let error = match backend.start(service, wait).await {
        Err(e) if matches!(e.kind(), ErrorKind::Timeout | ErrorKind::Unhealthy) => e,
        other => return other,
    };
    // The exit code is there between two lives alone.
    let end = tokio::time::Instant::now() + wait.min(BETWEEN_TWO_LIVES);
    while tokio::time::Instant::now() < end {
        let containers = backend.service_containers(service).await?;
        if containers.iter().all(|c| c.restart_count == 0) {
            break;
        }
        let bad = containers.iter().find(|c| !(c.is_ready() || c.state == ContainerState::Running));
        match bad {
            Some(c) if c.state != ContainerState::Restarting || c.exit_code != Some(0) => return Err(error),
            Some(_) => return Ok(()),
            None => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    Err(error)
}

/// Stops the services that did not run.
pub(in crate::procedure) async fn stop_again(
    backend: &dyn Backend,
    those: &[Remembered],
    grace: Duration,
) -> Result<()> {
    let ran = |service: &str| those.iter().any(|r| r.service == service && r.was_running);
    let services: Vec<_> = those.iter().map(|r| r.service.as_str()).filter(|service| !ran(service)).collect();
    backend.stop_all(&services, grace).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::Container,
        probe::testing::backend::{Told, container},
    };

    #[tokio::test]
    async fn a_worker_that_ends_well_again_and_again_counts_as_started() {
        use ContainerState::{Exited, Restarting, Running};
        for (state, exit_code, kind, is_started) in [
            (Restarting, Some(0), ErrorKind::Unhealthy, true),
            (Restarting, Some(0), ErrorKind::Timeout, true),
            (Restarting, Some(1), ErrorKind::Unhealthy, false),
            (Exited, Some(0), ErrorKind::Unhealthy, false),
            (Running, None, ErrorKind::Timeout, false),
            (Restarting, Some(0), ErrorKind::Unreachable, false),
        ] {
            let queue = Container { state, exit_code, restart_count: 3, ..container("queue") };
            let told = Told { containers: Some(vec![queue]), failed_start: Some(kind), ..Told::default() };
            let started = start(&told, "queue", Duration::from_millis(50)).await;
            let case = format!("{state:?} {exit_code:?} {kind:?}");
            assert_eq!(started.map_err(|e| e.kind()), if is_started { Ok(()) } else { Err(kind) }, "{case}");
        }
    }
}
