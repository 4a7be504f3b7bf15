//! Waiting until a service is proven, and noting when it was.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};

use super::Parts;
use crate::{
    error::Result,
    probe::{
        Class, Health, HealthMode, ROLE, Role, SharedProbe, Status, container::STARTS, map,
        monitoring::is_of_monitoring, synthetic::SYNTHETIC,
    },
    run::{Effect, Run, Step, Undo, Wait},
};

/// Three answers in a row, two seconds apart: one good answer may come from a server that is about to restart.
pub const STEADY: Wait = Wait::new(Duration::from_secs(2), 3, Duration::from_mins(5));

/// Notes the time, once: a resumed run gets the time of the first.
pub async fn moment(run: &Run, name: &str) -> Result<DateTime<Utc>> {
    moment_step(run, name).await
}

pub(super) fn moment_step(run: &Run, name: &str) -> Step<DateTime<Utc>> {
    run.step(name)
        .effect(Effect::Idempotent)
        .undo(Undo::Unnecessary("it only notes the time"))
        .predict(|| DateTime::UNIX_EPOCH)
        .run(|_| async { Ok(Utc::now()) })
}

/// Makes the post-recovery probes that are wanted, as a recovery judges them. Those that watch the system
/// are asked when it is closed: a Prometheus that is down must not hold it open, nor be a reason to undo it. The synthetic user
/// is not among them either: its logins are counted, and whoever wants it asks it by itself.
pub fn pick(parts: &Parts, since: DateTime<Utc>, wanted: impl Fn(&str) -> bool) -> Vec<SharedProbe> {
    let mut probes = parts.application.probes(HealthMode::PostRecovery, Some(since));
    probes.retain(|probe| wanted(probe.name()) && !is_of_monitoring(probe.name()) && probe.name() != SYNTHETIC);
    probes.into_iter().map(|probe| tolerant(steady(probe))).collect()
}

/// A container that was started anew between two looks did not hold, however well it looked both times. Workers end on
/// purpose.
fn steady(probe: SharedProbe) -> SharedProbe {
    let last = Mutex::new(None);
    map(probe.name().to_owned(), probe, move |health| {
        let Some(starts) = health.facts.get(STARTS).filter(|_| !is_of_worker(&health)) else { return health };
        let before = last.lock().unwrap_or_else(PoisonError::into_inner).replace(starts.clone());
        match before {
            Some(before) if before != *starts && health.status < Status::Down => {
                let again = format!("{}, and was started again since the last look", health.summary);
                Health { status: Status::Down, summary: again, ..health }.class(Class::Restarting)
            }
            _ => health,
        }
    })
}

/// A service that works, but not as it should, must not hold a recovery open: its answer says so and counts. One that
/// has only just been started by the Engine may be about to end again.
pub fn tolerant(probe: SharedProbe) -> SharedProbe {
    map(probe.name().to_owned(), probe, |mut health| {
        let is_unsettled = health.class_of() == Some(Class::Restarting) && !is_of_worker(&health);
        if health.status == Status::Degraded && !is_unsettled {
            health.status = Status::Healthy;
            health.summary = format!("degraded, and good enough to go on: {}", health.summary);
        }
        health
    })
}

pub(super) fn is_of_worker(health: &Health) -> bool {
    health.facts.get(ROLE).is_some_and(|role| *role == Role::Worker.to_string())
}

/// Tells whether a probe of that name looks from outside, as users do.
pub fn is_outer(name: &str) -> bool {
    ["http-", "certificate-", "dns-"].iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;

    use super::*;
    use crate::probe::HealthProbe;

    /// Gives one answer after the other.
    #[derive(Debug)]
    struct Says(Mutex<Vec<Health>>);

    #[async_trait]
    impl HealthProbe for Says {
        fn name(&self) -> &'static str {
            "container-app"
        }

        async fn check(&self) -> Health {
            self.0.lock().unwrap().remove(0)
        }
    }

    async fn judged(answers: Vec<Health>) -> Vec<Status> {
        let count = answers.len();
        let probe = tolerant(steady(Arc::new(Says(Mutex::new(answers)))));
        let mut found = Vec::new();
        for _ in 0..count {
            found.push(probe.check().await.status);
        }
        found
    }

    /// F47.
    #[tokio::test]
    async fn a_container_that_was_started_again_between_two_good_looks_did_not_hold() {
        use Status::{Down, Healthy};
        let look = |role: Role, starts: &str| Health::healthy("runs").fact(ROLE, role).fact(STARTS, starts);
        let looks = |role| ["1", "1", "2", "2", "3"].map(|starts| look(role, starts)).to_vec();
        assert_eq!(judged(looks(Role::Application)).await, [Healthy, Healthy, Down, Healthy, Down]);
        assert_eq!(judged(looks(Role::Worker)).await, [Healthy; 5], "workers end on purpose");
    }

    /// F47.
    #[tokio::test]
    async fn what_the_engine_restarted_a_moment_ago_is_not_good_enough_to_go_on() {
        let flaps = |role| Health::degraded("runs after 3 restarts").class(Class::Restarting).fact(ROLE, role);
        let slow = Health::degraded("slow").class(Class::Slow).fact(ROLE, Role::Application);
        let found = judged(vec![flaps(Role::Application), flaps(Role::Worker), slow]).await;
        assert_eq!(found, [Status::Degraded, Status::Healthy, Status::Healthy]);
    }
}
