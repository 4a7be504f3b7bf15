//! A server beside production: new volume, no way out, one-time password.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::ops::{DatabaseOps, Loaded, Production, Progress};
use crate::{
    backend::{Backend, Labels, ROLE_LABEL, RUN_LABEL, VolumeIdentity},
    catalog::BackupReader,
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
}

impl Site {
    /// Tells what lasts of production's container.
    pub fn production(&self) -> &Production {
        &self.production
    }

    /// Name of the candidate's container: found again by it after a crash.
    pub(super) fn container_name(&self) -> String {
        format!("{}-candidate-{}", self.backend.project(), self.run_id.to_lowercase())
    }

    /// Name of the candidate's volume. After the swap it holds what production had.
    pub(super) fn volume_name(&self) -> String {
        format!("{}__r_{}", self.original.volume, self.run_id)
    }

    pub(super) fn labels(&self, role: &str) -> Labels {
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
    pub(super) async fn build(&self, backup: &BackupReader, progress: Progress) -> Result<CandidateRecord> {
        self.prove_not_swapped().await?;
        let (container, volume) = (self.container_name(), self.volume_name());
        self.backend.remove_container(&container).await?;
        self.backend.remove_volume(&volume).await?;

        self.backend.create_volume(&volume, &self.labels("candidate")).await?;
        let password = Secret::random();
        let mut spec = self.ops.candidate(&self.production, backup, &container, &volume, &password)?;
        spec.labels = self.labels("candidate");
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
        self.backend.stop_container(&name, grace).await?;
        match self.backend.container(&name).await?.and_then(|c| c.exit_code) {
            Some(0) => self.backend.remove_container(&name).await,
            code => Err(Error::new(
                ErrorKind::Failed,
                format!("candidate `{name}` did not shut down cleanly, so its files cannot be trusted"),
            )
            .with("exit code", code.map_or_else(|| "none".into(), |c| c.to_string()))
            .hint("start the recovery again; it builds a new candidate")),
        }
    }
}
