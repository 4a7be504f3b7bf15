//! Containers of a service: how they were found, and two ways to set them right.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    backend::{Backend, BackendExt, Container, ContainerState, HealthCheck, StopOutcome},
    error::Result,
    procedure::{
        Parts,
        quiesce::{self, Remembered},
    },
    run::{Approval, Effect, Observed, Run, Step},
};

/// Longest time until a service that was started is ready.
const READY: Duration = Duration::from_mins(3);
/// Exit code of a process that was killed (128 + 9).
const KILLED: i64 = 137;

/// A container as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) service: String,
    pub(super) container: String,
    pub(super) state: ContainerState,
    pub(super) health: HealthCheck,
    pub(super) exit_code: Option<i64>,
    pub(super) oom_killed: bool,
    pub(super) restart_count: u64,
    /// Bytes in use; `None`: it does not run, or the Engine does not tell.
    pub(super) memory: Option<u64>,
}

impl Seen {
    async fn of(backend: &dyn Backend, container: Container) -> Self {
        let usage = match container.state {
            ContainerState::Running => backend.usage(&container.name).await.ok(),
            _ => None,
        };
        Self {
            service: container.service,
            container: container.name,
            state: container.state,
            health: container.health,
            exit_code: container.exit_code,
            oom_killed: container.oom_killed,
            restart_count: container.restart_count,
            memory: usage.map(|u| u.memory),
        }
    }

    /// Tells whether its process could work.
    pub(super) fn is_up(&self) -> bool {
        self.state == ContainerState::Running
    }

    /// Says what is wrong with it, where something is.
    pub(super) fn fault(&self) -> Option<String> {
        let name = &self.container;
        let exit = self.exit_code.map_or_else(|| "exit code unknown".to_owned(), |code| format!("exit code {code}"));
        let why = if self.oom_killed { ", killed for want of memory" } else { "" };
        match (self.state, self.health) {
            (ContainerState::Running, HealthCheck::Unhealthy) => {
                Some(format!("`{name}` runs, and its health check fails"))
            }
            (ContainerState::Running, _) => None,
            (ContainerState::Restarting, _) => {
                Some(format!("`{name}` ends and is started again, {} times, {exit}{why}", self.restart_count))
            }
            (ContainerState::Paused, _) => Some(format!("`{name}` is frozen")),
            (ContainerState::Created, _) => Some(format!("`{name}` was never started")),
            _ => Some(format!("`{name}` has ended, {exit}{why}")),
        }
    }
}

/// Containers of services, and what has to be put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::procedure) struct Site {
    pub(super) seen: Vec<Seen>,
    pub(super) remembered: Vec<Remembered>,
}

impl Site {
    /// Looks at the containers of services.
    ///
    /// # Errors
    /// `NotFound`: a service has none.
    pub(in crate::procedure) async fn look(backend: &dyn Backend, services: &[String]) -> Result<Self> {
        let mut seen = Vec::new();
        for service in services {
            for container in backend.service_containers(service).await? {
                seen.push(Seen::of(backend, container).await);
            }
        }
        Ok(Self { seen, remembered: quiesce::remember(backend, services).await? })
    }

    /// The containers of a service.
    pub(super) fn of<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Seen> {
        self.seen.iter().filter(move |one| one.service == service)
    }

    fn remembered(&self, service: &str) -> Vec<Remembered> {
        self.remembered.iter().filter(|one| one.service == service).cloned().collect()
    }
}

/// Lets a service end what it is doing, for at most `grace`, and stops it. Tells which of its containers had to be killed.
pub(in crate::procedure) async fn drain(
    run: &Run,
    parts: &Parts,
    site: &Site,
    service: &str,
    grace: Duration,
) -> Result<Vec<String>> {
    stop("drain", run, parts, site, service, grace).effect(Effect::Idempotent).await
}

/// Stops a service that cannot keep what it holds.
pub(super) async fn stop_unsaved<A>(
    run: &Run,
    parts: &Parts,
    site: &Site,
    service: &str,
    grace: Duration,
    approval: Approval<A>,
) -> Result<Vec<String>> {
    let (backend, name) = (parts.backend.clone(), service.to_owned());
    stop("stop-unsaved", run, parts, site, service, grace)
        .effect(Effect::Destructive)
        .approved(approval)
        .reconcile(async move |_| {
            let runs = backend.service_containers(&name).await?.iter().any(|c| {
                matches!(c.state, ContainerState::Running | ContainerState::Restarting | ContainerState::Paused)
            });
            Ok(if runs { Observed::NotApplied } else { Observed::Applied(Vec::new()) })
        })
        .await
}

fn stop(name: &str, run: &Run, parts: &Parts, site: &Site, service: &str, grace: Duration) -> Step<Vec<String>> {
    let (backend, stopped) = (parts.backend.clone(), service.to_owned());
    let (undone, those) = (parts.backend.clone(), site.remembered(service));
    run.step(name)
        .key(service)
        .input(&those)
        .budget(grace + Duration::from_secs(15))
        .timeout(grace + READY)
        .predict(Vec::new)
        .undo_with(async move |_, _| as_found(&undone, &those, grace).await)
        .undo_text("brings its containers back to running or stopped, as they were found")
        .run(async move |_| Ok(killed(&backend.stop(&stopped, grace).await?)))
}

fn killed(outcomes: &[StopOutcome]) -> Vec<String> {
    outcomes.iter().filter(|o| o.was_running && o.exit_code == Some(KILLED)).map(|o| o.container.clone()).collect()
}

/// Starts a service, and waits until the Engine calls it ready.
pub(in crate::procedure) async fn start(
    run: &Run,
    parts: &Parts,
    site: &Site,
    service: &str,
    grace: Duration,
) -> Result<()> {
    let (backend, name) = (parts.backend.clone(), service.to_owned());
    let (undone, those) = (parts.backend.clone(), site.remembered(service));
    run.step("start")
        .key(service)
        .effect(Effect::Idempotent)
        .input(&those)
        .budget(Duration::from_mins(1))
        .timeout(READY + grace)
        .predict(|| ())
        .undo_with(async move |_, _| as_found(&undone, &those, grace).await)
        .undo_text("brings its containers back to running or stopped, as they were found")
        .run(async move |_| quiesce::start_all(&*backend, &[name.as_str()], READY).await)
        .await
}

/// Starts what ran and stops what did not.
async fn as_found(backend: &Arc<dyn Backend>, those: &[Remembered], grace: Duration) -> Result<()> {
    quiesce::start_again(backend, those, READY).await?;
    quiesce::stop_again(&**backend, those, grace).await
}

#[cfg(test)]
pub(super) fn seen(service: &str, state: ContainerState) -> Seen {
    Seen {
        service: service.into(),
        container: format!("p-{service}-1"),
        state,
        health: HealthCheck::Healthy,
        exit_code: None,
        oom_killed: false,
        restart_count: 0,
        memory: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_how_it_ended() {
        assert_eq!(seen("queue", ContainerState::Running).fault(), None);
        let ended = Seen { exit_code: Some(137), oom_killed: true, ..seen("queue", ContainerState::Exited) };
        assert_eq!(ended.fault().unwrap(), "`p-queue-1` has ended, exit code 137, killed for want of memory");
        let unwell = Seen { health: HealthCheck::Unhealthy, ..seen("queue", ContainerState::Running) };
        assert!(unwell.fault().unwrap().contains("health check fails"));
    }

    #[test]
    fn only_what_ran_and_was_killed_lost_its_work() {
        let outcome =
            |was_running, exit_code| StopOutcome { container: "q".into(), was_running, exit_code, seconds: 0.0 };
        assert_eq!(killed(&[outcome(true, Some(0)), outcome(false, Some(137))]), Vec::<String>::new());
        assert_eq!(killed(&[outcome(true, Some(137))]), ["q"]);
    }
}
