//! One file per procedure of the runbook, and what they have in common.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};

use self::{application_ops::ApplicationOps, database::ops::DatabaseOps};
use crate::{backend::Backend, catalog::Catalog, error::Result, objective::Objective, run::Run, system::System};

pub mod application;
pub mod application_ops;
pub mod backup;
mod candidate;
pub mod close;
pub mod database;
pub mod drill;
mod evidence;
pub mod files;
pub mod fix;
mod locate;
pub mod lock;
pub mod maintenance;
pub mod nginx;
mod one_off;
pub mod partial;
pub mod performance;
mod permissions;
pub mod proof;
pub mod quiesce;
mod recovered;
mod redis;
pub mod salvage;
mod signs;
pub mod tables;
mod volume_copy;

pub(crate) use locate::{locate, path_on_host};
pub(crate) use permissions::{Compared, look};
pub use recovered::{Measured, Recovered};

/// What every procedure works with: the system and its ports. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Parts {
    /// What is protected.
    pub system: Arc<System>,
    /// What runs.
    pub backend: Arc<dyn Backend>,
    /// The database.
    pub database: Arc<dyn DatabaseOps>,
    /// The application around it.
    pub application: Arc<dyn ApplicationOps>,
    /// Backups.
    pub catalog: Arc<Catalog>,
}

/// A procedure that recovers a part of the system: application, web server, a single service, or one of your own.
///
/// The code between steps has to be free of effects: see [`run`](crate::run). [`Recovery::recover`] runs it,
/// [`Recovery::plan_recovery`] plans it; one of your own is made known with [`Recovery::with_procedure`], so that it can be
/// resumed and rolled back as any other.
///
/// [`Recovery::recover`]: crate::Recovery::recover
/// [`Recovery::plan_recovery`]: crate::Recovery::plan_recovery
/// [`Recovery::with_procedure`]: crate::Recovery::with_procedure
#[async_trait]
pub trait Procedure: fmt::Debug + Send + Sync + 'static {
    /// What it is asked for; kept in the journal, so that a resumed run is asked for the same.
    type Request: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// Names it in journals: lower-case words joined by `-`, never changed.
    fn name(&self) -> &'static str;

    /// Returns what it is held against.
    fn objective(&self, system: &System) -> Objective;

    /// Refuses a request that cannot be fulfilled, before anything begins.
    ///
    /// # Errors
    /// What is wrong with it.
    fn check(&self, _parts: &Parts, _request: &Self::Request) -> Result<()> {
        Ok(())
    }

    /// Does it.
    ///
    /// # Errors
    /// Where a step fails, the run stops there in a safe state; `resume` goes on, `rollback` undoes.
    async fn recover(&self, run: &Run, parts: &Parts, request: &Self::Request) -> Result<Recovered>;
}
