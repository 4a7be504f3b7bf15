//! The Engine, and the project on it as its Compose file means it to be.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// Who the Engine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// Engine's own id, stable over restarts.
    pub id: String,
    /// Host name as the Engine sees it.
    pub host: String,
    /// Engine version, for example `20.10.24`.
    pub version: String,
    /// API version in use after negotiation, for example `1.41`.
    pub api_version: String,
    /// Data root on the Engine's host.
    pub root: String,
    /// Whether the Engine runs on the machine of this process.
    pub is_local: bool,
}

/// A Compose project as its files (or labels) describe it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    /// Project name.
    pub name: String,
    /// Services; each stands after those it depends on.
    pub services: Vec<Service>,
    /// Key in the file to full volume name on the Engine.
    pub volumes: BTreeMap<String, String>,
    /// Where the description came from.
    pub source: ModelSource,
}

impl Project {
    /// Finds a service by name.
    ///
    /// # Errors
    /// `NotFound`, with the names that exist.
    pub fn service(&self, name: &str) -> Result<&Service> {
        self.services.iter().find(|s| s.name == name).ok_or_else(|| {
            let names: Vec<_> = self.services.iter().map(|s| s.name.as_str()).collect();
            Error::new(ErrorKind::NotFound, format!("project `{}` has no service `{name}`", self.name))
                .with("services", names.join(", "))
        })
    }
}

/// Where a [`Project`] came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelSource {
    /// `docker compose config`.
    Files,
    /// The labels of its containers; services without a container are unknown.
    Labels,
}

/// A service of the project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Name in the file.
    pub name: String,
    /// Image reference.
    pub image: Option<String>,
    /// Services that must be in a condition before this one starts.
    pub depends_on: Vec<Dependency>,
    /// Mounts of named volumes and host paths.
    pub mounts: Vec<Mount>,
    /// Wanted number of containers.
    pub replicas: u32,
    /// Whether the file gives it a health check.
    pub has_health_check: bool,
    /// Whether a fixed `container_name` forbids more than one container.
    pub has_fixed_name: bool,
}

/// An edge of the dependency graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// Service depended on.
    pub service: String,
    /// What is waited for.
    pub condition: Condition,
}

/// What a dependency waits for; the names are Compose's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Running.
    #[serde(rename = "service_started")]
    Started,
    /// Health check passes.
    #[serde(rename = "service_healthy")]
    Healthy,
    /// Ended with exit code 0.
    #[serde(rename = "service_completed_successfully")]
    Completed,
}

/// A mount into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Volume (by full name) or host path.
    pub source: MountSource,
    /// Path in the container.
    pub target: String,
    /// Whether the container cannot write it.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A volume, by its full name.
    Volume(String),
    /// A path on the Engine's host.
    HostPath(String),
    /// Memory.
    Tmpfs,
}
