//! Services that are recovered one at a time (runbook 3.6).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::System;
use crate::error::{Error, ErrorKind, Result};

/// Which worker does what, and what proves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Partial {
    /// Services that take jobs, of `application.workers`. Empty: every worker that is not the scheduler.
    pub queue_services: Vec<String>,
    /// Service that runs scheduled tasks, of `application.workers`. `None`: the one whose name says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler_service: Option<String>,
    /// Key of redis that a queue worker refreshes, without prefix; its value is a Unix time in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_heartbeat_key: Option<String>,
    /// How old that may be.
    #[serde(with = "humantime_serde")]
    pub queue_heartbeat_age: Duration,
    /// How long a service may take until it is proven.
    #[serde(with = "humantime_serde")]
    pub proof_deadline: Duration,
}

impl Default for Partial {
    fn default() -> Self {
        Self {
            queue_services: Vec::new(),
            scheduler_service: None,
            queue_heartbeat_key: None,
            queue_heartbeat_age: Duration::from_mins(1),
            // A scheduler refreshes its heartbeat once a minute.
            proof_deadline: Duration::from_mins(4),
        }
    }
}

impl Partial {
    /// Refuses services that a swap would not stop.
    pub(super) fn check(&self, workers: &[String]) -> Result<()> {
        for service in self.queue_services.iter().chain(&self.scheduler_service) {
            if !workers.contains(service) {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!(
                        "configuration: `partial` names service `{service}`, which is not in `application.workers`"
                    ),
                )
                .hint("add it there: workers are stopped before the database is replaced"));
            }
        }
        Ok(())
    }
}

impl System {
    /// Names the service that runs scheduled tasks.
    pub fn scheduler_service(&self) -> Option<&str> {
        let by_name = || self.application.workers.iter().find(|w| w.contains("schedul") || w.contains("cron"));
        self.partial.scheduler_service.as_ref().or_else(by_name).map(String::as_str)
    }

    /// Names the services that take jobs.
    pub fn queue_services(&self) -> Vec<&str> {
        if !self.partial.queue_services.is_empty() {
            return self.partial.queue_services.iter().map(String::as_str).collect();
        }
        let scheduler = self.scheduler_service();
        self.application.workers.iter().map(String::as_str).filter(|w| Some(*w) != scheduler).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(more: &str) -> Result<System> {
        System::parse(&format!(
            "id = \"shop\"\n[compose]\nproject = \"shop\"\n[database]\nservice = \"mysql\"\npassword = {{ file = \"/x\" }}\n\
             [repository]\nurl = \"file:/x\"\n[application]\nworkers = [\"mails\", \"imports\", \"cron\"]\n{more}"
        ))
    }

    #[test]
    fn workers_are_told_apart_by_name_or_by_what_is_said() {
        let guessed = system("").unwrap();
        assert_eq!((guessed.queue_services(), guessed.scheduler_service()), (vec!["mails", "imports"], Some("cron")));
        let said = system("[partial]\nqueue_services = [\"cron\"]\nscheduler_service = \"mails\"").unwrap();
        assert_eq!((said.queue_services(), said.scheduler_service()), (vec!["cron"], Some("mails")));
        let unknown = system("[partial]\nscheduler_service = \"nobody\"").unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::InvalidInput);
        assert!(unknown.hint_text().is_some());
    }
}
