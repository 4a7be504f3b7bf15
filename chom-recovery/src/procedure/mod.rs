//! One file per procedure of the runbook, and what they have in common.

use std::sync::Arc;

use self::{application_ops::ApplicationOps, database::ops::DatabaseOps};
use crate::{backend::Backend, catalog::Catalog, system::System};

pub mod application_ops;
pub mod backup;
pub mod database;
pub mod drill;
pub mod files;
mod locate;
pub mod lock;
pub mod maintenance;
pub mod quiesce;
mod redis;

pub(crate) use locate::locate;

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
