//! The USE table: of each resource its use, what waits for it, and errors.

use std::{collections::BTreeMap, path::Path, time::Duration};

use futures::future::join_all;
use serde::{Deserialize, Serialize};

use super::latency::{self, Latency};
use crate::{
    backend::{BackendExt, Container, ContainerState, Usage},
    error::{Error, Result},
    mysql::Activity,
    probe::{HealthMode, ask, mysql::Session, queue},
    procedure::{Measured, Parts},
};

/// A service's container and what it uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Loaded {
    pub(super) service: String,
    pub(super) container: String,
    pub(super) restarts: u64,
    /// `None`: it does not run, or the Engine does not tell.
    pub(super) usage: Option<Usage>,
}

/// The host, where this process runs on it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Host {
    /// Processors.
    pub(super) cores: u64,
    /// Load over a minute.
    pub(super) load: Option<f64>,
    /// Bytes of memory, and those that can be had.
    pub(super) memory: Option<(u64, u64)>,
    /// Per cent of the last ten seconds in which something waited, by resource: processor, memory, disks.
    pub(super) pressure: BTreeMap<String, f64>,
}

/// Everything that was measured at a moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Use {
    pub(super) containers: Vec<Loaded>,
    pub(super) host: Option<Host>,
    /// What is said of disks, where it is not good.
    pub(super) disk: Option<String>,
    /// `None`: the database could not be asked.
    pub(super) database: Option<Activity>,
    /// Pending jobs by queue, and how long the oldest waits, where it is known.
    pub(super) queues: BTreeMap<String, (u64, Option<u64>)>,
    pub(super) latency: Vec<Latency>,
    /// What could not be measured, and why.
    pub(super) unknown: Vec<String>,
}

/// Measures everything. What cannot be measured is named.
pub(super) async fn measure(parts: &Parts) -> Result<Use> {
    let mut found = Use::default();
    let containers = parts.backend.containers().await?;
    found.containers = join_all(containers.into_iter().map(|c| loaded(parts, c))).await;
    if parts.backend.engine().await.is_ok_and(|engine| engine.is_local) {
        found.host = Some(Host::read(Path::new("/proc")));
    } else {
        found.unknown.push("load and memory of the host: the Engine is on another one".into());
    }
    if let Some(probe) = parts.application.probes(HealthMode::Full, None).into_iter().find(|p| p.name() == "disk") {
        let health = ask(&probe, Duration::from_secs(20)).await.health;
        found.disk = (health.status > crate::probe::Status::Healthy).then_some(health.summary);
    }
    match activity(parts).await {
        Ok(activity) => found.database = Some(activity),
        Err(error) => found.unknown.push(format!("the database: {error}")),
    }
    if let Some(redis) = &parts.system.redis {
        match queue::look(redis, &parts.backend).await {
            Ok(seen) => {
                found.queues = seen.queues.into_iter().map(|q| (q.name, (q.pending, q.oldest_seconds))).collect();
            }
            Err(health) => found.unknown.push(format!("queues: {}", health.summary)),
        }
    }
    found.latency = latency::measure(&parts.system.http, parts.system.performance.requests).await;
    Ok(found)
}

async fn loaded(parts: &Parts, container: Container) -> Loaded {
    let usage = match container.state {
        ContainerState::Running => parts.backend.usage(&container.name).await.ok(),
        _ => None,
    };
    Loaded { service: container.service, container: container.name, restarts: container.restart_count, usage }
}

/// Asks the database what it is busy with.
///
/// # Errors
/// `Precondition`: it cannot be asked.
pub(super) async fn activity(parts: &Parts) -> Result<Activity> {
    let session = reach(parts).await?;
    session.server.activity().await
}

/// Reaches the database.
pub(super) async fn reach(parts: &Parts) -> Result<Session> {
    // The Engine is asked for the service by its name: one without a container is said as such.
    parts.backend.service_containers(&parts.system.database.service).await?;
    Session::open(&parts.system.database, &parts.backend)
        .await
        .map_err(|health| Error::new(crate::error::ErrorKind::Precondition, health.summary))
}

impl Host {
    fn read(proc: &Path) -> Self {
        let text = |name: &str| std::fs::read_to_string(proc.join(name)).unwrap_or_default();
        let pressure = ["cpu", "memory", "io"]
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), waited(&text(&format!("pressure/{name}")))?)));
        Self {
            cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            load: text("loadavg").split_whitespace().next().and_then(|v| v.parse().ok()),
            memory: memory(&text("meminfo")),
            pressure: pressure.collect(),
        }
    }
}

/// Reads `MemTotal` and `MemAvailable`, in kibibytes.
fn memory(text: &str) -> Option<(u64, u64)> {
    let of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Some((of("MemTotal:")?, of("MemAvailable:")?))
}

/// Reads `some avg10=1.23 …` of `/proc/pressure`.
fn waited(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with("some"))?;
    line.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?.parse().ok()
}

impl Use {
    /// Every number, by name.
    fn values(&self) -> BTreeMap<String, (&'static str, f64)> {
        let mut values = BTreeMap::new();
        let mut add = |name: String, unit: &'static str, value: f64| values.insert(name, (unit, value));
        for one in &self.containers {
            let Some(usage) = &one.usage else { continue };
            add(format!("`{}`: processor", one.container), "%", usage.cpu * 100.0);
            add(format!("`{}`: memory", one.container), "bytes", float(usage.memory));
            if usage.throttled > 0 {
                add(format!("`{}`: times held back", one.container), "", float(usage.throttled));
            }
        }
        if let Some(host) = &self.host {
            host.load.map(|load| add("host: load".into(), "", load));
            host.memory.map(|(_, free)| add("host: memory available".into(), "bytes", float(free)));
            for (name, percent) in &host.pressure {
                add(format!("host: waiting for {name}"), "%", *percent);
            }
        }
        if let Some(activity) = &self.database {
            add("database: connections".into(), "", float(activity.connections));
            add("database: statements running".into(), "", float(activity.running));
            add("database: waits for locks".into(), "", float(activity.waits.len() as u64));
            let open = activity.sessions.iter().filter(|s| s.transaction.is_some()).count();
            add("database: open transactions".into(), "", float(open as u64));
        }
        for (name, (pending, oldest)) in &self.queues {
            add(format!("queue `{name}`: pending"), "", float(*pending));
            oldest.map(|age| add(format!("queue `{name}`: oldest job waits"), "s", float(age)));
        }
        for one in &self.latency {
            one.p50_ms.map(|p50| add(format!("check `{}`: p50", one.check), "ms", p50));
            one.p95_ms.map(|p95| add(format!("check `{}`: p95", one.check), "ms", p95));
            add(format!("check `{}`: errors", one.check), "%", one.errors_percent());
        }
        values
    }

    /// What it is busy with, a line each, for people.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.disk.iter().cloned().collect();
        for one in self.containers.iter().filter(|one| one.restarts > 0) {
            lines.push(format!("`{}` was started again {} times by the Engine", one.container, one.restarts));
        }
        if let Some(activity) = &self.database {
            let (used, most) = (activity.connections, activity.max_connections);
            lines.push(format!("database: {used} of {most} connections, {} statements running", activity.running));
            for digest in activity.digests.iter().take(5) {
                lines.push(format!(
                    "took {:.1} s in {} runs, {} rows looked at: {}",
                    digest.seconds, digest.count, digest.rows_examined, digest.text
                ));
            }
        }
        lines.extend(self.unknown.iter().map(|what| format!("not known: {what}")));
        lines
    }
}

/// Puts what was measured before and after side by side.
pub(super) fn compare(before: &Use, after: &Use) -> Vec<Measured> {
    let (before, after) = (before.values(), after.values());
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    names
        .into_iter()
        .map(|name| Measured {
            name: name.clone(),
            unit: before.get(name).or(after.get(name)).map_or("", |(unit, _)| unit).to_owned(),
            before: before.get(name).map(|(_, value)| *value),
            after: after.get(name).map(|(_, value)| *value),
        })
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "nobody reads a sixteenth digit")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_files_are_read_and_what_is_missing_stays_unknown() {
        let proc = tempfile::tempdir().unwrap();
        std::fs::create_dir(proc.path().join("pressure")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(proc.path().join(name), text).unwrap();
        write("loadavg", "3.25 1.00 0.50 2/345 6789\n");
        write("meminfo", "MemTotal:        1000 kB\nMemFree: 1 kB\nMemAvailable:    400 kB\n");
        write("pressure/cpu", "some avg10=12.50 avg60=1.00 avg300=0.00 total=1\nfull avg10=0.00\n");
        let host = Host::read(proc.path());
        assert_eq!((host.load, host.memory), (Some(3.25), Some((1_024_000, 409_600))));
        assert_eq!(host.pressure, BTreeMap::from([("cpu".to_owned(), 12.5)]));
    }

    #[test]
    fn values_of_before_and_after_stand_side_by_side() {
        let with = |pending| Use { queues: [("default".to_owned(), (pending, None))].into(), ..Use::default() };
        let compared = compare(&with(9), &with(0));
        assert_eq!((compared[0].before, compared[0].after), (Some(9.0), Some(0.0)));
        assert_eq!(compare(&with(9), &Use::default())[0].after, None, "not measured is not zero");
    }
}
