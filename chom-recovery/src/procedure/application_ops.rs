//! What procedures ask of the application around a database: the port between their phases and a real stack.

use std::{fmt, path::Path, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{
    database::jobs::{HeldJobs, Queues},
    maintenance::{self, MaintenanceRecord, MaintenanceState},
};
use crate::{
    backend::Backend,
    error::Result,
    probe::{
        HealthMode, SharedProbe, SuiteOptions,
        evidence::{self, EvidenceManifest, EvidenceOptions},
        suite,
    },
    store::BackupStore,
    system::System,
};

/// An application that can be probed, put into maintenance mode, and whose queued jobs can be set aside.
///
/// [`StackApplication`] is the real one. The kill matrix uses a simulated one.
#[async_trait]
pub trait ApplicationOps: fmt::Debug + Send + Sync + 'static {
    /// Makes the probes of a mode; logs are judged from `since` on.
    fn probes(&self, mode: HealthMode, since: Option<DateTime<Utc>>) -> Vec<SharedProbe>;

    /// Tells whether maintenance mode is on by now.
    async fn is_in_maintenance(&self) -> Result<bool>;

    /// Switches maintenance mode on and proves it from outside.
    async fn maintenance_on(&self) -> Result<MaintenanceRecord>;

    /// Switches it off, if `record` says that it was off before.
    async fn maintenance_off(&self, record: &MaintenanceRecord) -> Result<()>;

    /// Sets the queued jobs aside under names that carry the run's id. Doing it again changes nothing.
    async fn hold_jobs(&self, run_id: &str) -> Result<HeldJobs>;

    /// Puts jobs that were set aside back in front of the queues. Doing it again changes nothing.
    async fn release_jobs(&self, run_id: &str) -> Result<u64>;

    /// Gathers evidence into a directory; what could not be had is named, never an error.
    async fn gather_evidence(&self, into: &Path) -> EvidenceManifest;
}

/// A real application: Laravel in a Compose project, with redis queues.
#[derive(Debug, Clone)]
pub struct StackApplication {
    system: Arc<System>,
    backend: Arc<dyn Backend>,
    store: Arc<dyn BackupStore>,
}

impl StackApplication {
    /// Makes it from what a system is made of.
    pub fn new(system: Arc<System>, backend: Arc<dyn Backend>, store: Arc<dyn BackupStore>) -> Self {
        Self { system, backend, store }
    }
}

#[async_trait]
impl ApplicationOps for StackApplication {
    fn probes(&self, mode: HealthMode, since: Option<DateTime<Utc>>) -> Vec<SharedProbe> {
        suite(&self.system, &self.backend, Some(&self.store), SuiteOptions { mode, since })
    }

    async fn is_in_maintenance(&self) -> Result<bool> {
        Ok(maintenance::state(&self.system, &*self.backend).await? == MaintenanceState::On)
    }

    async fn maintenance_on(&self) -> Result<MaintenanceRecord> {
        maintenance::down(&self.system, &*self.backend).await
    }

    async fn maintenance_off(&self, record: &MaintenanceRecord) -> Result<()> {
        maintenance::up(&self.system, &*self.backend, record).await
    }

    async fn hold_jobs(&self, run_id: &str) -> Result<HeldJobs> {
        match &self.system.redis {
            Some(redis) => Queues::open(redis, &self.backend, run_id).await?.hold().await,
            None => Ok(HeldJobs::default()),
        }
    }

    async fn release_jobs(&self, run_id: &str) -> Result<u64> {
        match &self.system.redis {
            Some(redis) => Queues::open(redis, &self.backend, run_id).await?.release().await,
            None => Ok(0),
        }
    }

    async fn gather_evidence(&self, into: &Path) -> EvidenceManifest {
        evidence::collect(&self.system, &self.backend, into, EvidenceOptions::new(&self.system)).await
    }
}
