//! What is wrong with the production database.

use std::collections::BTreeSet;

use chrono::{TimeDelta, Utc};

use super::{
    super::ops::{Assessment, Finding, Production},
    MySqlOps,
};
use crate::{
    backend::{Container, ContainerState, LogRequest},
    catalog::BackupReader,
    error::{Error, ErrorKind, Result},
    probe::logs::{Topic, read_line},
};

/// How far back the server's log is read.
const LOG_WINDOW: TimeDelta = TimeDelta::hours(24);
/// Most lines of it.
const LOG_LINES: usize = 2_000;

impl MySqlOps {
    pub(super) async fn look(&self, production: &Production, newest: Option<&BackupReader>) -> Result<Assessment> {
        let Some(container) = self.backend.container(&production.container).await? else {
            return Ok(Assessment::of(Finding::Stopped, format!("container `{}` is gone", production.container)));
        };
        let reached = if container.state == ContainerState::Running {
            self.production(&container.name).await
        } else {
            Err(Error::new(ErrorKind::Unreachable, format!("container `{}` does not run", container.name)))
        };
        match reached {
            Ok(reached) => self.look_inside(&reached.server, newest).await,
            Err(error) => Ok(self.look_outside(&container, &error).await),
        }
    }

    async fn look_inside(&self, server: &crate::mysql::Server, newest: Option<&BackupReader>) -> Result<Assessment> {
        let mut seen = Assessment::of(Finding::Healthy, String::new());
        seen.server = Some(format!("{} {}", server.info().flavour, server.info().version_text));
        if let Some(backup) = newest {
            let here: BTreeSet<_> =
                server.sizes().await?.into_iter().map(|t| format!("{}.{}", t.schema, t.table)).collect();
            // A comparison that cannot be made must not look like one that found nothing missing.
            let baselines = &backup.private().await?.baselines;
            let backed_up = baselines.tables.iter().map(|t| format!("{}.{}", t.schema, t.table));
            seen.missing_tables = backed_up.filter(|name| !here.contains(name)).collect();
        }
        let check = server.check_tables(self.system.limits.check_table_cap).await?;
        seen.corrupt_tables = check.corrupt.iter().map(|problem| problem.table.clone()).collect();
        if let Ok(counters) = server.counters().await {
            let damaged = |name: &String| seen.corrupt_tables.contains(name);
            seen.next_ids = counters
                .into_iter()
                .map(|c| (format!("{}.{}", c.schema, c.table), c.next))
                // What a damaged table says of itself proves nothing.
                .filter(|(name, _)| !damaged(name))
                .collect();
        }
        (seen.finding, seen.summary) = if !seen.corrupt_tables.is_empty() {
            (
                Finding::Damaged,
                format!("{} tables are damaged: {}", seen.corrupt_tables.len(), some(&seen.corrupt_tables)),
            )
        } else if !seen.missing_tables.is_empty() {
            let missing = &seen.missing_tables;
            (Finding::DataMissing, format!("{} tables of the newest backup are gone: {}", missing.len(), some(missing)))
        } else if check.unchecked.is_empty() {
            (Finding::Healthy, format!("answers; all {} tables are there and sound", check.good))
        } else {
            let unchecked = check.unchecked.len();
            (
                Finding::Healthy,
                format!("answers; {} tables are sound, {unchecked} were not checked in time", check.good),
            )
        };
        Ok(seen)
    }

    /// Judges a server that cannot be asked: by how it refuses, and by its log.
    async fn look_outside(&self, container: &Container, error: &Error) -> Assessment {
        let topics = self.topics(container).await;
        let runs = container.state == ContainerState::Running;
        let code = container.exit_code.filter(|_| !runs).map_or_else(String::new, |c| format!(", exit code {c}"));
        let state = format!("container {:?}{code}", container.state).to_lowercase();
        if error.kind() == ErrorKind::Authentication {
            return Assessment::of(
                Finding::CredentialsRefused,
                format!("{state}; it refuses the credentials: {error}"),
            );
        }
        let has = |topic: &Topic| topics.contains(topic);
        if has(&Topic::FullDisk) {
            return Assessment::of(Finding::DiskFull, format!("{state}; its log says that the disk is full"));
        }
        for topic in [Topic::Corruption, Topic::MissingTablespace, Topic::Redo] {
            if has(&topic) {
                return Assessment::of(Finding::Damaged, format!("{state}; its log tells of {topic}"));
            }
        }
        if runs {
            return Assessment::of(Finding::Unclear, format!("{state}; it does not answer: {error}"));
        }
        Assessment::of(Finding::Stopped, format!("{state}; its log tells of no damage"))
    }

    /// Reads what the server's log is about since its last start, or a day, whichever is longer.
    async fn topics(&self, container: &Container) -> BTreeSet<Topic> {
        use futures::StreamExt;
        let since = (Utc::now() - LOG_WINDOW).max(container.started_at.unwrap_or_default());
        let request = LogRequest { since: Some(since), tail: Some(LOG_LINES) };
        let Ok(stream) = self.backend.logs(&container.name, request).await else { return BTreeSet::new() };
        let topics = stream
            .filter_map(|line| {
                std::future::ready(line.ok().and_then(|line| read_line(&line.text)).map(|event| event.topic))
            })
            .collect();
        tokio::time::timeout(std::time::Duration::from_secs(20), topics).await.unwrap_or_default()
    }
}

fn some(names: &[String]) -> String {
    let shown = names.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > 5 { format!("{shown}, …") } else { shown }
}
