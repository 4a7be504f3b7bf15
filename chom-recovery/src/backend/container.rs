//! Containers as they are: their state, what they use, and what they were made with.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Labels, Mount, MountSource};

/// A container as the Engine reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Full id.
    pub id: String,
    /// Name without the leading slash.
    pub name: String,
    /// Compose service, empty for containers of ours.
    pub service: String,
    /// Image reference it was made from.
    pub image: String,
    /// Image id (digest of its configuration): the exact bytes.
    pub image_id: String,
    /// State now.
    pub state: ContainerState,
    /// Health check's verdict.
    pub health: HealthCheck,
    /// Exit code, once it has ended, also when it is about to be started again; `None` also where the Engine has not
    /// recorded it yet.
    pub exit_code: Option<i64>,
    /// Whether the kernel killed it for want of memory.
    pub oom_killed: bool,
    /// Why the Engine could not start it, in the Engine's words; `None`: it could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_error: Option<String>,
    /// How often the Engine restarted it.
    pub restart_count: u64,
    /// Last start.
    pub started_at: Option<DateTime<Utc>>,
    /// Last end.
    pub finished_at: Option<DateTime<Utc>>,
    /// What happens when it ends.
    pub restart_policy: RestartPolicy,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Command after the image's entry point.
    pub command: Vec<String>,
    /// All labels.
    pub labels: Labels,
    /// Ports that the Engine's host passes on to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<PublishedPort>,
}

/// A port of the Engine's host that leads into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// TCP port in the container.
    pub port: u16,
    /// Address of the host that it is bound to; empty: all of them.
    pub host: String,
    /// Port of the host.
    pub host_port: u16,
}

impl Container {
    /// Tells whether it runs and, where it has a health check, is healthy.
    pub fn is_ready(&self) -> bool {
        self.state == ContainerState::Running && matches!(self.health, HealthCheck::Healthy | HealthCheck::Absent)
    }

    /// Returns the full name of the volume mounted at `target`.
    pub fn volume_at(&self, target: &str) -> Option<&str> {
        self.mounts.iter().find(|m| m.target == target).and_then(|m| match &m.source {
            MountSource::Volume(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Returns what holds the data at `target`: the full name of a volume, or the path of a folder of the Engine's host.
    pub fn data_at(&self, target: &str) -> Option<&str> {
        self.mounts.iter().find(|m| m.target == target).and_then(|m| match &m.source {
            MountSource::Volume(data) | MountSource::HostPath(data) => Some(data.as_str()),
            MountSource::Tmpfs => None,
        })
    }
}

/// Engine's container states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Runs.
    Running,
    /// Frozen.
    Paused,
    /// The Engine is starting it again.
    Restarting,
    /// Being removed.
    Removing,
    /// Ended.
    Exited,
    /// The Engine failed to remove it.
    Dead,
}

/// Verdict of a container's own health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthCheck {
    /// It has none.
    Absent,
    /// No verdict yet.
    Starting,
    /// Passes.
    Healthy,
    /// Fails.
    Unhealthy,
}

/// Engine's restart policies, in Compose's spelling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Stay down.
    No,
    /// Start again whatever happened, also when the Engine starts.
    Always,
    /// Like `Always` but not after it was stopped on purpose.
    UnlessStopped,
    /// Start again after a failure, at most so many times (0: without limit).
    OnFailure(u32),
}

/// What the first process of a container can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Signal {
    /// `SIGHUP`: a server reads its configuration again, without ending connections.
    Hangup,
}

/// How a stop went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StopOutcome {
    /// Container.
    pub container: String,
    /// Whether it ran before.
    pub was_running: bool,
    /// Exit code; 137 tells that the grace period was not enough.
    pub exit_code: Option<i64>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// A sample of what a container uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Part of one core in use: 1.0 is one core.
    pub cpu: f64,
    /// Bytes of memory, page cache not counted.
    pub memory: u64,
    /// Limit of memory in bytes; the host's memory where none is set.
    pub memory_limit: u64,
    /// Bytes read from block devices since it started.
    pub read: u64,
    /// Bytes written to block devices since it started.
    pub written: u64,
    /// How often it was held back because it had used up its share of the processor, since it started.
    #[serde(default)]
    pub throttled: u64,
}

/// Variables of a container. Their values may be secrets: it prints names alone and cannot be serialised.
///
/// # Examples
/// ```
/// use chom_recovery::backend::ContainerEnvironment;
/// let environment: ContainerEnvironment = [("MYSQL_PASSWORD", "correct horse")].into_iter().collect();
/// assert_eq!(environment.get("MYSQL_PASSWORD"), Some("correct horse"));
/// assert!(!format!("{environment:?}").contains("horse"));
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ContainerEnvironment(BTreeMap<String, String>);

impl ContainerEnvironment {
    /// Returns the value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Lists the names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for ContainerEnvironment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl fmt::Debug for ContainerEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
