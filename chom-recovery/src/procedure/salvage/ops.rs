//! What a salvage asks of a database: the port between its steps and a real server.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    catalog::BackupInfo,
    error::Result,
    mysql::salvage::{Lost, SalvagedTable},
    procedure::database::{Site, ops::Progress},
};

/// Called with what a person who watches should know.
pub type Note = Arc<dyn Fn(String) + Send + Sync>;

/// A database whose files can be read without production's server.
#[async_trait]
pub trait SalvageOps: fmt::Debug + Send + Sync + 'static {
    /// Refuses a server that answers, and files that somebody may write.
    ///
    /// # Errors
    /// `Precondition`: the server answers, or a container that uses its files runs.
    async fn require_dead(&self, site: &Site) -> Result<()>;

    /// Copies production's data files, starts an isolated server on the copy at the lowest level of forced recovery at which
    /// it comes up, and stores what can be read of it as a backup. Takes away what an earlier attempt left. The copy and its
    /// server stay.
    ///
    /// # Errors
    /// `Precondition`: no allowed level starts; what each said is told. `NoSpace`: there is no room for a copy.
    async fn salvage(&self, site: &Site, wanted: &Wanted, progress: Progress, note: Note) -> Result<Found>;

    /// Removes the copy and its server, and ends the copying.
    async fn discard(&self, site: &Site) -> Result<()>;
}

/// What is wanted of a salvage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Highest level of InnoDB's forced recovery that may be tried. From 4 on InnoDB's own files may be changed for good, on
    /// the copy, and rows may be wrong.
    pub up_to_level: u8,
    /// Tags of the backup.
    pub tags: Vec<String>,
    /// Run that takes it.
    pub run: String,
}

/// A level at which the server did not come up, or did not stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Level.
    pub level: u8,
    /// Why it was given up.
    pub why: String,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Where what was read is kept.
    pub backup: BackupInfo,
    /// Level at which the server came up, and stayed; 0: without forced recovery.
    pub level: u8,
    /// Lower levels, and why each was given up.
    pub attempts: Vec<Attempt>,
    /// What became of each table whose definition could be read.
    pub tables: Vec<SalvagedTable>,
    /// Definitions that could not be read.
    pub lost: Vec<Lost>,
    /// Damaged pages of the data files, as the first of each file; before any server touched the copy.
    pub damaged_pages: Vec<String>,
}
