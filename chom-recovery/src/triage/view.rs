//! A report, and the questions that rules ask of it.

use super::rules;
use crate::probe::{Answer, Class, HealthReport, Status};

pub(super) struct View<'a>(pub(super) &'a HealthReport);

impl<'a> View<'a> {
    /// Answers that are not healthy.
    pub(super) fn answers(&self, wanted: impl Fn(&Answer) -> bool) -> Vec<&'a Answer> {
        self.0.answers.iter().filter(|a| a.health.status > Status::Healthy && wanted(a)).collect()
    }

    pub(super) fn of(&self, probe: &str, classes: &[Class]) -> Vec<&'a Answer> {
        self.answers(|a| a.probe == probe && a.class().is_some_and(|c| classes.contains(&c)))
    }

    /// Answers about the containers of services in a role, whose state is a fault.
    pub(super) fn containers(&self, role: &str) -> Vec<&'a Answer> {
        self.answers(|a| {
            a.probe.starts_with("container-")
                && a.health.status == Status::Down
                && a.health.facts.get("role").is_some_and(|r| r == role)
        })
    }

    /// The same, without those that run and whose own health check fails: that may speak of something else.
    pub(super) fn stopped(&self, role: &str) -> Vec<&'a Answer> {
        self.containers(role).into_iter().filter(|a| a.class() != Some(Class::Unhealthy)).collect()
    }

    /// Containers of the database that are at fault. A health check logs in as somebody: where it fails and we get in,
    /// the server is well.
    pub(super) fn database_containers(&self) -> Vec<&'a Answer> {
        if self.is_healthy("mysql") { self.stopped("database") } else { self.containers("database") }
    }

    pub(super) fn http(&self, classes: &[Class]) -> Vec<&'a Answer> {
        self.answers(|a| a.probe.starts_with("http-") && a.class().is_some_and(|c| classes.contains(&c)))
    }

    /// HTTP checks that the application itself failed.
    pub(super) fn http_errors(&self) -> Vec<&'a Answer> {
        self.http(&[Class::Application, Class::HttpStatus, Class::Body])
    }

    /// Answers about logs of a role (any for `""`) that hold events of a topic.
    pub(super) fn logs(&self, role: &str, topics: &[&str]) -> Vec<&'a Answer> {
        self.answers(|a| {
            a.probe.starts_with("logs-")
                && (role.is_empty() || a.health.facts.get("role").is_some_and(|r| r == role))
                && topics.iter().any(|t| a.health.facts.contains_key(&format!("errors.{t}")))
        })
    }

    pub(super) fn is_healthy(&self, probe: &str) -> bool {
        self.0.answer(probe).is_some_and(|a| a.health.status == Status::Healthy)
    }

    /// Whether something is known to be wrong with the database, however it came.
    pub(super) fn database_is_bad(&self) -> bool {
        self.0.answers.iter().any(|a| a.probe.starts_with("mysql") && a.health.status == Status::Down)
            || !self.database_containers().is_empty()
    }

    pub(super) fn redis_is_bad(&self) -> bool {
        self.0.answer("redis").is_some_and(|a| a.health.status == Status::Down) || !self.containers("redis").is_empty()
    }

    pub(super) fn disk_is_full(&self) -> bool {
        rules::disk_full(self).is_some_and(|d| d.confidence > 80)
    }

    pub(super) fn credentials_are_bad(&self) -> bool {
        !self.of("mysql", &[Class::Authentication]).is_empty()
    }

    /// Whether what the application needs is broken, so that its errors are effects.
    pub(super) fn needs_are_bad(&self) -> bool {
        self.database_is_bad() || self.redis_is_bad() || self.disk_is_full()
    }
}
