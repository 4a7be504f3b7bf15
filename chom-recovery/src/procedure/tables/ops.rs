//! What a restore of single tables asks of a database: the port between its steps and a real server.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    mysql::tables::{Asked, Checked, Look, Orphans, Place, Placed},
    procedure::database::{Source, ops::Progress},
};

/// A running server whose tables can be restored one by one. `container` is production's, and every call may be made
/// again after it was interrupted.
#[async_trait]
pub trait TableOps: fmt::Debug + Send + Sync + 'static {
    /// Finds the tables in the backup, what production has under their names, and what depends on that. `run` names the
    /// schemas of the run's own.
    ///
    /// # Errors
    /// `NotFound`: the backup has no such table. `AlreadyExists`: another name is taken. `Unsupported`: the backup holds data
    /// files, or the server cannot take it. `Conflict`: the dump is another file than the one that was verified.
    async fn look(&self, container: &str, backup: &Source, asked: &Asked, run: &str) -> Result<Look>;

    /// Makes the tables anew beside production's, and loads their rows: of a backup of the repository only what they need is
    /// read, and verified on the way; a dump is read to its end. `switch_local_infile_on` switches it on for that time and off afterwards.
    ///
    /// # Errors
    /// `Corrupt`: a part is damaged. `Precondition`: the server takes no rows from clients.
    async fn load(
        &self,
        container: &str,
        backup: &Source,
        places: &[Placed],
        switch_local_infile_on: bool,
        progress: Progress,
    ) -> Result<Loaded>;

    /// Compares what was made with what the backup promises.
    ///
    /// # Errors
    /// `Corrupt`: they differ.
    async fn verify(&self, container: &str, backup: &Source, places: &[Placed]) -> Result<Checked>;

    /// Takes away what was made beside production's and was not exchanged.
    async fn discard(&self, container: &str, places: &[Placed], switch_local_infile_off: bool) -> Result<()>;

    /// Finds out where the tables are.
    async fn place(&self, container: &str, places: &[Placed]) -> Result<Place>;

    /// Puts the tables in production's place, and makes everything around them again.
    async fn swap(&self, container: &str, places: &[Placed]) -> Result<()>;

    /// Puts back what production had.
    async fn take_back(&self, container: &str, places: &[Placed]) -> Result<()>;

    /// Counts rows without parents, in limited time.
    async fn orphans(&self, container: &str, places: &[Placed]) -> Result<Vec<Orphans>>;
}

/// What was loaded, and how much of the backup had to be read for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Rows.
    pub rows: u64,
    /// Bytes of rows, uncompressed.
    pub bytes: u64,
    /// Stored bytes that were read, definitions among them.
    pub read: u64,
    /// Stored bytes of the whole database in the backup.
    pub of: u64,
    /// What a person should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}
