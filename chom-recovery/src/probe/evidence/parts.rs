//! What is read of containers: logs, files, errors in them, use of resources.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use tokio::time::Instant;

use super::json;
use crate::{
    backend::{Backend, Container, ContainerState, LogRequest},
    error::Result,
    probe::logs::{ErrorGroups, tail_file},
    system::System,
};

/// Most lines of one container's log.
const LINES: usize = 5_000;
/// Most bytes of one log; the end is kept.
const BYTES: usize = 2 << 20;
/// Samples of the use of resources, and the pause between two.
const SAMPLES: usize = 3;
const BETWEEN: Duration = Duration::from_secs(2);

/// Reads the end of a container's log, both streams, each line with its time and stream.
pub(super) async fn log(backend: &Arc<dyn Backend>, container: &str, since: Option<DateTime<Utc>>) -> Result<Bytes> {
    let mut stream = backend.logs(container, LogRequest { since, tail: Some(LINES) }).await?;
    let (mut lines, mut bytes): (VecDeque<String>, usize) = (VecDeque::new(), 0);
    let mut dropped = 0_u64;
    while let Some(line) = stream.next().await {
        let line = line?;
        let at = line.at.map_or_else(|| "-".to_owned(), |at| at.to_rfc3339());
        let text = format!("{at} {} {}\n", if line.is_stderr { "err" } else { "out" }, line.text);
        bytes += text.len();
        lines.push_back(text);
        while bytes > BYTES {
            let Some(oldest) = lines.pop_front() else { break };
            bytes -= oldest.len();
            dropped += 1;
        }
    }
    let head = if dropped > 0 { format!("[{dropped} earlier lines left out]\n") } else { String::new() };
    Ok(std::iter::once(head).chain(lines).collect::<String>().into())
}

/// Reads the end of a log file in a container. One that was never written to is told, and is no failure.
pub(super) async fn file(backend: &Arc<dyn Backend>, container: &Container, path: &str) -> Result<Bytes> {
    let found = tail_file(backend, container, path, BYTES).await?;
    Ok(found.unwrap_or_else(|| format!("[`{path}` does not exist]\n").into()))
}

/// Samples what running containers use, several times as far as the time goes: one sample is a moment.
pub(super) async fn usage(backend: &Arc<dyn Backend>, containers: &[Container], until: Instant) -> Result<Bytes> {
    let running: Vec<_> = containers.iter().filter(|c| c.state == ContainerState::Running).collect();
    let mut series = Vec::new();
    for index in 0..SAMPLES {
        if index > 0 {
            // A sample takes about as long as the pause.
            if running.is_empty() || Instant::now() + BETWEEN * 2 > until {
                break;
            }
            tokio::time::sleep(BETWEEN).await;
        }
        let at = Utc::now();
        let samples = futures::future::join_all(running.iter().map(|c| async {
            let value = match backend.usage(&c.name).await {
                Ok(usage) => serde_json::json!(usage),
                Err(error) => serde_json::json!({ "error": error.to_string() }),
            };
            (c.name.clone(), value)
        }))
        .await;
        let samples: serde_json::Map<_, _> = samples.into_iter().collect();
        series.push(serde_json::json!({ "at": at, "containers": samples }));
    }
    json(&series)
}

/// Errors of the application: of its log files, and of what it and its workers print.
pub(super) struct Errors {
    backend: Arc<dyn Backend>,
    containers: Vec<Container>,
    service: String,
    files: Vec<String>,
    since: Option<DateTime<Utc>>,
}

impl Errors {
    pub(super) fn of(
        system: &System,
        backend: &Arc<dyn Backend>,
        containers: &[Container],
        since: Option<DateTime<Utc>>,
    ) -> Self {
        let application = &system.application;
        let is_ours = |c: &&Container| c.service == application.service || application.workers.contains(&c.service);
        Self {
            backend: backend.clone(),
            containers: containers.iter().filter(is_ours).cloned().collect(),
            service: application.service.clone(),
            files: application.logs.clone(),
            since,
        }
    }

    /// Reads them, and groups them by level and class.
    pub(super) async fn gather(self) -> Result<Bytes> {
        let (mut groups, mut unread) = (ErrorGroups::default(), Vec::new());
        for container in &self.containers {
            if let Err(error) = self.read_log(container, &mut groups).await {
                unread.push(format!("log of `{}`: {error}", container.name));
            }
        }
        // Their log files are shared.
        if let Some(container) = self.containers.iter().find(|c| c.service == self.service) {
            for path in &self.files {
                match tail_file(&self.backend, container, path, BYTES).await {
                    Ok(found) => {
                        let text = found.unwrap_or_default();
                        String::from_utf8_lossy(&text).lines().for_each(|line| groups.add(line, None, self.since));
                    }
                    Err(error) => unread.push(format!("`{path}`: {error}")),
                }
            }
        }
        json(&serde_json::json!({ "since": self.since, "groups": groups.into_ranked(), "unread": unread }))
    }

    async fn read_log(&self, container: &Container, groups: &mut ErrorGroups) -> Result<()> {
        let request = LogRequest { since: self.since, tail: Some(LINES) };
        let mut log = self.backend.logs(&container.name, request).await?;
        while let Some(line) = log.next().await {
            let line = line?;
            groups.add(&line.text, line.at, self.since);
        }
        Ok(())
    }
}
