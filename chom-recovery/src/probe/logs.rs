//! What went wrong lately, by the logs: events of level error and above, by class.
//!
//! Levels are read from where each format puts them, never searched for in the text, so that `0 errors` is no error.
//! A log tells of the past: errors in it never mean down, only degraded.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use super::{Class, Health, HealthProbe, ROLE, Role, net};
use crate::{
    backend::{Backend, BackendExt, ExecRequest, LogRequest},
    error::{Error, ErrorKind, Result},
};

mod group;
mod line;
#[cfg(test)]
mod tests;

pub use group::{ErrorGroup, ErrorGroups};
pub(crate) use line::topic;
pub use line::{Event, Level, Topic, read_line};

/// Most lines that are read of one log.
const LINES: usize = 20_000;
/// Most bytes that are read of one log.
const BYTES: usize = 4 << 20;
/// Bytes read from the end of a log file in a container.
const TAIL: usize = 1 << 20;
/// Samples kept.
const SAMPLES: usize = 5;

/// Events of one or more logs, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSummary {
    /// Lines read.
    pub lines: usize,
    /// Whether a limit ended the reading early.
    pub truncated: bool,
    /// Events by topic.
    pub events: BTreeMap<String, u64>,
    /// Topic of the newest event of the log that was read last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<String>,
    /// The last lines that were events, scrubbed and shortened.
    pub samples: Vec<String>,
}

impl LogSummary {
    /// Adds a line; those that carry a time before `since` are left out.
    pub fn add(&mut self, line: &str, since: Option<DateTime<Utc>>) {
        self.lines += 1;
        let Some(event) = read_line(line) else { return };
        if event.at.zip(since).is_some_and(|(at, since)| at < since) {
            return;
        }
        let topic = event.topic.to_string();
        *self.events.entry(topic.clone()).or_default() += 1;
        self.newest = Some(topic);
        if self.samples.len() == SAMPLES {
            self.samples.remove(0);
        }
        self.samples.push(net::short(&crate::secret::scrub(line), 300));
    }

    /// Counts all events.
    pub fn total(&self) -> u64 {
        self.events.values().sum()
    }
}

/// Counts the errors in the logs of a service since a time: both streams of its containers, and log files.
#[derive(Debug)]
pub struct LogProbe {
    name: String,
    backend: Arc<dyn Backend>,
    service: String,
    role: Role,
    since: DateTime<Utc>,
    files: Vec<String>,
}

impl LogProbe {
    /// Makes the probe `logs-<service>`.
    pub fn new(backend: Arc<dyn Backend>, service: &str, role: Role, since: DateTime<Utc>) -> Self {
        Self { name: format!("logs-{service}"), backend, service: service.to_owned(), role, since, files: Vec::new() }
    }

    /// Reads the end of log files in the service's container as well.
    #[must_use]
    pub fn files(mut self, files: Vec<String>) -> Self {
        self.files = files;
        self
    }

    async fn ask(&self) -> Health {
        let containers = match self.backend.containers().await {
            Ok(all) => all.into_iter().filter(|c| c.service == self.service).collect::<Vec<_>>(),
            Err(error) => return net::engine(&error),
        };
        if containers.is_empty() {
            return Health::inconclusive(format!("service `{}` has no container, hence no log", self.service))
                .class(Class::Absent);
        }
        let (mut summary, mut unread) = (LogSummary::default(), Vec::new());
        for container in &containers {
            let request = LogRequest { since: Some(self.since), tail: Some(LINES) };
            if let Err(error) = read_log(&self.backend, &container.name, request, self.since, &mut summary).await {
                unread.push(format!("log of `{}`: {error}", container.name));
            }
        }
        for file in &self.files {
            match tail_file(&self.backend, &containers[0], file, TAIL).await {
                Ok(Some(bytes)) => {
                    String::from_utf8_lossy(&bytes).lines().for_each(|line| summary.add(line, Some(self.since)));
                }
                // A log that was never written to has no errors in it.
                Ok(None) => {}
                Err(error) => unread.push(format!("`{file}`: {error}")),
            }
        }
        judge(&summary, &unread).fact("since", self.since.to_rfc3339())
    }
}

#[async_trait]
impl HealthProbe for LogProbe {
    fn name(&self) -> &str {
        &self.name
    }

    async fn check(&self) -> Health {
        net::bounded(net::WHOLE, self.ask()).await.fact("service", &self.service).fact(ROLE, self.role)
    }
}

async fn read_log(
    backend: &Arc<dyn Backend>,
    container: &str,
    request: LogRequest,
    since: DateTime<Utc>,
    summary: &mut LogSummary,
) -> Result<()> {
    let mut log = backend.logs(container, request).await?;
    let mut bytes = 0;
    while let Some(line) = log.next().await {
        let line = line?;
        bytes += line.text.len();
        if bytes > BYTES {
            summary.truncated = true;
            break;
        }
        // The Engine's time decides; that in the line may be in another zone.
        if line.at.is_none_or(|at| at >= since) {
            summary.add(&line.text, None);
        }
    }
    Ok(())
}

/// Reads the last bytes of a file in a container; `None` when it does not exist.
pub(crate) async fn tail_file(
    backend: &Arc<dyn Backend>,
    container: &crate::backend::Container,
    path: &str,
    bytes: usize,
) -> Result<Option<Bytes>> {
    if container.state != crate::backend::ContainerState::Running {
        return Err(Error::new(ErrorKind::Precondition, format!("`{}` does not run", container.name)));
    }
    let request = ExecRequest::new(["tail", "-c", &bytes.to_string(), "--", path]);
    let result = backend.run(&container.name, request, Duration::from_secs(10)).await?;
    if result.exit_code != 0 && String::from_utf8_lossy(&result.stderr).contains("No such file") {
        return Ok(None);
    }
    Ok(Some(result.success("tail")?.stdout))
}

fn judge(summary: &LogSummary, unread: &[String]) -> Health {
    let total = summary.total();
    let topics: Vec<_> = summary.events.iter().map(|(topic, count)| format!("{count} {topic}")).collect();
    let health = if total > 0 {
        Health::degraded(format!("{total} errors: {}", net::short(&topics.join(", "), 300))).class(Class::Errors)
    } else if !unread.is_empty() {
        Health::inconclusive(net::short(&unread.join("; "), 300))
    } else if summary.truncated {
        Health::inconclusive("no error in what was read, and the log is longer than what may be read")
    } else {
        Health::healthy(format!("no error in {} lines", summary.lines)).class(Class::Ok)
    };
    let mut health = health.fact("lines", summary.lines).fact("truncated", summary.truncated);
    for (topic, count) in summary.events.iter().take(20) {
        health = health.fact(format!("errors.{topic}"), count);
    }
    if let Some(newest) = &summary.newest {
        health = health.fact("newest", newest);
    }
    for (i, sample) in summary.samples.iter().enumerate() {
        health = health.fact(format!("sample.{i}"), sample);
    }
    health
}
