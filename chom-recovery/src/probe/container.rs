//! Whether a service's containers run as they should, by the Engine's inspect API.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};

use super::{Class, Health, HealthProbe, ROLE, Role, net};
use crate::backend::{Backend, Container, ContainerState, HealthCheck};

/// A container that the Engine had to start again less than this ago is not trusted yet.
const SETTLED: TimeDelta = TimeDelta::minutes(2);
/// Workers end on purpose (`queue:restart`, `--max-time`) and are started again: for them, this many are a fault.
const WORKER_RESTARTS: u64 = 3;

/// Asks the Engine for the state of all containers of a service.
#[derive(Debug)]
pub struct ContainerProbe {
    name: String,
    backend: Arc<dyn Backend>,
    service: String,
    role: Role,
}

impl ContainerProbe {
    /// Makes the probe `container-<service>`.
    pub fn new(backend: Arc<dyn Backend>, service: &str, role: Role) -> Self {
        Self { name: format!("container-{service}"), backend, service: service.to_owned(), role }
    }
}

#[async_trait]
impl HealthProbe for ContainerProbe {
    fn name(&self) -> &str {
        &self.name
    }

    async fn check(&self) -> Health {
        let health = net::bounded(net::WHOLE, async {
            match self.backend.containers().await {
                Ok(all) => {
                    let ours: Vec<_> = all.into_iter().filter(|c| c.service == self.service).collect();
                    judge(&self.service, self.role, &ours, Utc::now())
                }
                Err(error) => net::engine(&error),
            }
        });
        health.await.fact("service", &self.service).fact(ROLE, self.role)
    }
}

/// Fact: when each container of the service was last started. Two answers that differ here have a restart between them.
pub(crate) const STARTS: &str = "starts";

/// Judges the containers of a service: as bad as the worst of them, and down when there is none.
fn judge(service: &str, role: Role, containers: &[Container], now: DateTime<Utc>) -> Health {
    let starts = containers.iter().map(|c| c.started_at.map_or_else(|| "never".into(), |at| at.to_rfc3339()));
    let starts = starts.collect::<Vec<_>>().join(" ");
    containers.iter().map(|c| judge_one(c, role, now)).max_by_key(|h| h.status).map_or_else(
        || Health::down(format!("service `{service}` has no container")).class(Class::Absent),
        |worst| worst.fact("containers", containers.len()).fact(STARTS, starts),
    )
}

fn judge_one(container: &Container, role: Role, now: DateTime<Utc>) -> Health {
    let name = &container.name;
    let exit = container.exit_code.map_or_else(|| "exit code unknown".into(), |code| format!("exit code {code}"));
    let tolerated = if role == Role::Worker { WORKER_RESTARTS } else { 1 };
    let restarted = container.restart_count >= tolerated && container.started_at.is_some_and(|at| now - at < SETTLED);
    let health = match container.state {
        ContainerState::Running => match container.health {
            HealthCheck::Unhealthy => {
                Health::down(format!("`{name}` runs, and its health check fails")).class(Class::Unhealthy)
            }
            HealthCheck::Starting => {
                Health::degraded(format!("`{name}` runs, and its health check has no verdict yet"))
                    .class(Class::Starting)
            }
            HealthCheck::Healthy | HealthCheck::Absent if restarted => {
                Health::degraded(format!("`{name}` runs after {} restarts by the Engine", container.restart_count))
                    .class(Class::Restarting)
            }
            HealthCheck::Healthy => Health::healthy(format!("`{name}` runs and is healthy")).class(Class::Ok),
            HealthCheck::Absent => Health::healthy(format!("`{name}` runs; it has no health check")).class(Class::Ok),
        },
        ContainerState::Restarting => {
            Health::down(format!("`{name}` ends and is started again, {} times, {exit}", container.restart_count))
                .class(Class::Restarting)
        }
        state => {
            let word = match state {
                ContainerState::Created => "was never started",
                ContainerState::Paused => "is frozen",
                ContainerState::Removing => "is being removed",
                ContainerState::Dead => "could not be removed by the Engine",
                _ => "has ended",
            };
            let health = Health::down(format!("`{name}` {word}, {exit}"));
            health.class(if container.oom_killed { Class::OutOfMemory } else { Class::NotRunning })
        }
    };
    let health = health
        .fact("container", name)
        .fact("state", format!("{:?}", container.state).to_lowercase())
        .fact("health_check", format!("{:?}", container.health).to_lowercase())
        .fact("restart_count", container.restart_count)
        .fact("oom_killed", container.oom_killed)
        .fact("image_id", &container.image_id);
    let health = match container.exit_code {
        Some(code) => health.fact("exit_code", code),
        None => health,
    };
    match container.started_at {
        Some(at) => health.fact("started_at", at.to_rfc3339()),
        None => health,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Status, testing};

    fn container(state: ContainerState, health: HealthCheck) -> Container {
        Container { state, health, ..testing::backend::container("mysql") }
    }

    #[test]
    fn each_state_has_its_own_class() {
        use ContainerState::{Created, Dead, Exited, Paused, Restarting, Running};
        let now = Utc::now();
        for (state, health, status, class) in [
            (Running, HealthCheck::Healthy, Status::Healthy, Class::Ok),
            (Running, HealthCheck::Absent, Status::Healthy, Class::Ok),
            (Running, HealthCheck::Starting, Status::Degraded, Class::Starting),
            (Running, HealthCheck::Unhealthy, Status::Down, Class::Unhealthy),
            (Restarting, HealthCheck::Absent, Status::Down, Class::Restarting),
            (Exited, HealthCheck::Absent, Status::Down, Class::NotRunning),
            (Created, HealthCheck::Absent, Status::Down, Class::NotRunning),
            (Paused, HealthCheck::Healthy, Status::Down, Class::NotRunning),
            (Dead, HealthCheck::Absent, Status::Down, Class::NotRunning),
        ] {
            let answer = judge("mysql", Role::Database, &[container(state, health)], now);
            assert_eq!((answer.status, answer.class_of()), (status, Some(class)), "{state:?} {health:?}");
        }
    }

    #[test]
    fn absence_is_down_and_one_bad_replica_is_enough() {
        let now = Utc::now();
        assert_eq!(judge("mysql", Role::Database, &[], now).class_of(), Some(Class::Absent));
        let good = container(ContainerState::Running, HealthCheck::Healthy);
        let mut killed = container(ContainerState::Exited, HealthCheck::Absent);
        killed.oom_killed = true;
        killed.exit_code = Some(137);
        let answer = judge("mysql", Role::Database, &[good, killed], now);
        assert_eq!(answer.class_of(), Some(Class::OutOfMemory));
        assert_eq!(answer.facts["exit_code"], "137");
        assert_eq!(answer.facts["containers"], "2");
    }

    #[test]
    fn a_container_restarted_a_moment_ago_is_degraded_and_settles() {
        let now = Utc::now();
        let mut flapping = container(ContainerState::Running, HealthCheck::Healthy);
        flapping.restart_count = 3;
        assert_eq!(judge("mysql", Role::Database, &[flapping.clone()], now).class_of(), Some(Class::Restarting));
        let worker = Container { restart_count: 1, ..flapping.clone() };
        assert_eq!(judge("queue", Role::Worker, &[worker], now).status, Status::Healthy, "workers end on purpose");
        assert_eq!(judge("queue", Role::Worker, &[flapping.clone()], now).status, Status::Degraded);
        flapping.started_at = Some(now - TimeDelta::hours(1));
        assert_eq!(judge("mysql", Role::Database, &[flapping], now).status, Status::Healthy);
    }

    #[tokio::test]
    async fn a_silent_engine_is_inconclusive_not_down() {
        let told = testing::backend::Told::default();
        let health = ContainerProbe::new(Arc::new(told), "mysql", Role::Database).check().await;
        assert_eq!((health.status, health.class_of()), (Status::Inconclusive, Some(Class::Engine)));
        assert_eq!(health.facts["role"], "database");
    }
}
