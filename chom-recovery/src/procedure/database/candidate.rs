//! A server beside production: new volume, no way out, one-time password.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    ops::{DatabaseOps, Loaded, Production, Progress},
    source::Source,
};
use crate::{
    backend::{Backend, Labels, ROLE_LABEL, RUN_LABEL, VolumeIdentity},
    error::{Error, ErrorKind, Result},
    secret::Secret,
};

/// Journalled record behind [`super::Candidate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateRecord {
    /// Container that serves it.
    pub container: String,
    /// Its volume's name and content.
    pub volume: VolumeIdentity,
    /// What was loaded.
    pub loaded: Loaded,
}

/// What a candidate is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::procedure) enum Purpose {
    /// To take production's place. Its volume may hold the only copy of production's data one day.
    Swap,
    /// To be looked at and thrown away.
    Drill,
    /// To be read: its volume is a copy of production's.
    Salvage,
}

/// Role of a candidate that is to take production's place.
pub(super) const CANDIDATE_ROLE: &str = "candidate";

impl Purpose {
    pub(super) fn undo_text(self) -> &'static str {
        match self {
            Self::Swap => "remove the candidate's container; its volume stays until `runs prune`",
            Self::Drill | Self::Salvage => "remove the candidate's container and its volume",
        }
    }

    /// Role of the candidate, by which what a killed run left is found.
    fn role(self) -> &'static str {
        match self {
            Self::Swap => CANDIDATE_ROLE,
            Self::Drill => "drill",
            Self::Salvage => "salvage",
        }
    }
}

/// Production's database as [`survey`](super::survey) found it, and where a candidate for it is built.
#[derive(Debug, Clone)]
pub struct Site {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) ops: Arc<dyn DatabaseOps>,
    /// Production's database container.
    pub(super) production: Production,
    /// Production's volume and what its name led to when the run began.
    pub(super) original: VolumeIdentity,
    pub(super) run_id: String,
    pub(super) purpose: Purpose,
}

impl Site {
    /// Tells what lasts of production's container.
    pub fn production(&self) -> &Production {
        &self.production
    }

    /// Names production's volume.
    pub(crate) fn volume(&self) -> &str {
        &self.original.volume
    }

    /// The same place for a candidate that is only to be looked at.
    pub(in crate::procedure) fn for_drill(self) -> Self {
        Self { purpose: Purpose::Drill, ..self }
    }

    /// The same place for a server that is to be read.
    pub(in crate::procedure) fn for_salvage(self) -> Self {
        Self { purpose: Purpose::Salvage, ..self }
    }

    /// A place for a copy of production's files.
    pub(super) fn for_copy(
        backend: Arc<dyn Backend>,
        ops: Arc<dyn DatabaseOps>,
        production: Production,
        original: VolumeIdentity,
        run_id: String,
    ) -> Self {
        Self { backend, ops, production, original, run_id, purpose: Purpose::Salvage }
    }

    /// What candidates of this purpose are called in labels.
    pub(crate) fn role(&self) -> &'static str {
        self.purpose.role()
    }

    /// How the names of candidates that are thrown away, and of their volumes, begin.
    pub(in crate::procedure) fn prefixes(&self) -> (String, String) {
        let role = self.role();
        (format!("{}-{role}-", self.backend.project()), format!("{}__{role}_", self.base_name()))
    }

    /// Name of the candidate's container: found again by it after a crash.
    pub(crate) fn container_name(&self) -> String {
        format!("{}-{}-{}", self.backend.project(), self.purpose.role(), self.run_id.to_lowercase())
    }

    /// Name of the candidate's volume. After the swap it holds what production had.
    pub(crate) fn volume_name(&self) -> String {
        match self.purpose {
            Purpose::Swap => format!("{}__r_{}", self.base_name(), self.run_id),
            Purpose::Drill | Purpose::Salvage => format!("{}{}", self.prefixes().1, self.run_id),
        }
    }

    /// What the names of candidates' volumes begin with: a folder of the host is known by its path, which is no name.
    fn base_name(&self) -> String {
        base_name(self.backend.project(), &self.original.volume)
    }

    /// Removes what was built, as far as nobody can need it.
    pub(crate) async fn clear(&self) -> Result<()> {
        self.backend.remove_container(&self.container_name()).await?;
        match self.purpose {
            Purpose::Swap => Ok(()),
            Purpose::Drill | Purpose::Salvage => self.backend.remove_volume(&self.volume_name()).await,
        }
    }

    /// Removes what other runs of this purpose left that were killed; returns how many things. Whoever calls it holds the
    /// system's lock: none of them can be running.
    pub(in crate::procedure) async fn sweep(&self, note: &(dyn Fn(String) + Send + Sync)) -> Result<u64> {
        let is_left = |labels: &Labels| {
            labels.get(ROLE_LABEL).is_some_and(|role| role == self.role())
                && labels.get(RUN_LABEL).is_some_and(|run| *run != self.run_id)
        };
        let (containers, volumes) = self.prefixes();
        let mut removed = 0;
        for container in self.backend.own_containers().await? {
            if is_left(&container.labels) && container.name.starts_with(&containers) {
                note(format!("removes container `{}` of a {} that was killed", container.name, self.role()));
                self.backend.remove_container(&container.name).await?;
                removed += 1;
            }
        }
        for volume in self.backend.volumes().await? {
            if is_left(&volume.labels) && volume.name.starts_with(&volumes) {
                note(format!("removes volume `{}` of a {} that was killed", volume.name, self.role()));
                self.backend.remove_volume(&volume.name).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    pub(crate) fn labels(&self, role: &str) -> Labels {
        [(RUN_LABEL.to_owned(), self.run_id.clone()), (ROLE_LABEL.to_owned(), role.to_owned())].into()
    }

    /// Refuses to go on when production's volume no longer leads to what it did at the begin: then the candidate's
    /// name may lead to the only copy of production's data.
    pub(super) async fn prove_not_swapped(&self) -> Result<()> {
        let now = self.backend.volume_identity(&self.original.volume).await?;
        if now == self.original {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!("volume `{}` no longer leads to the data it had when this run began", self.original.volume),
        )
        .with("recorded inode", self.original.inode)
        .with("inode now", now.inode)
        .hint("nothing was touched; look at both volumes before anything else, then roll back or start a new run"))
    }

    /// Builds the candidate from nothing, whatever an earlier attempt left.
    pub(super) async fn build(&self, backup: &Source, progress: Progress) -> Result<CandidateRecord> {
        self.prove_not_swapped().await?;
        let (container, volume) = (self.container_name(), self.volume_name());
        self.backend.remove_container(&container).await?;
        self.backend.remove_volume(&volume).await?;

        let labels = self.labels(self.purpose.role());
        match self.purpose {
            Purpose::Swap => self.backend.create_volume_beside(&volume, &labels, &self.original.volume).await?,
            Purpose::Drill | Purpose::Salvage => self.backend.create_volume(&volume, &labels).await?,
        }
        let password = Secret::random();
        let mut spec = self.ops.candidate(&self.production, backup, &container, &volume, &password)?;
        spec.labels = labels;
        self.backend.one_off(&spec).await?;
        let loaded = self.ops.load(&container, &password, backup, progress).await?;
        let volume = self.backend.volume_identity(&volume).await?;
        Ok(CandidateRecord { container, volume, loaded })
    }

    /// Shuts the candidate down cleanly and removes its container; its volume stays.
    pub(super) async fn retire(&self, grace: Duration) -> Result<()> {
        let name = self.container_name();
        if self.backend.container(&name).await?.is_none() {
            return Ok(());
        }
        self.shut_down(&name, grace).await?;
        self.backend.remove_container(&name).await
    }

    /// Shuts the candidate down cleanly.
    pub(in crate::procedure) async fn end(&self, grace: Duration) -> Result<()> {
        self.shut_down(&self.container_name(), grace).await
    }

    async fn shut_down(&self, name: &str, grace: Duration) -> Result<()> {
        self.backend.stop_container(name, grace).await?;
        match self.backend.container(name).await?.and_then(|c| c.exit_code) {
            Some(0) => Ok(()),
            code => Err(Error::new(
                ErrorKind::Failed,
                format!("candidate `{name}` did not shut down cleanly, so its files cannot be trusted"),
            )
            .with("exit code", code.map_or_else(|| "none".into(), |c| c.to_string()))
            .hint("start the recovery again; it builds a new candidate")),
        }
    }
}

/// What the names of volumes that belong to production's begin with.
pub(super) fn base_name(project: &str, original: &str) -> String {
    match original.rsplit_once('/') {
        Some((_, folder)) => format!("{project}_{}", folder.replace(|c| !is_of_name(c), "-")),
        None => original.to_owned(),
    }
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}
