//! Taking a backup, as a run of its own: it holds the system's lock, so that no recovery swaps what is being read.

use std::sync::Arc;

mod take;

pub(crate) use take::{CONFIGURATION, Taking, check, take};

use super::{
    Parts,
    database::{self, ops::BackUp},
};
use crate::{
    catalog::BackupInfo,
    error::Result,
    run::{Effect, Run, Undo},
};

/// Name of the procedure in journals.
pub const PROCEDURE: &str = "back-up";

/// Takes a backup of the running system and verifies its bytes.
///
/// # Errors
/// `Locked`: another run of the system is going on. `Corrupt`: a table cannot be read. `NoSpace`: the store is full;
/// nothing of the backup is visible then.
pub async fn create(run: &Run, parts: &Parts, request: &BackUp) -> Result<BackupInfo> {
    let site = database::survey(run, parts).await?;
    let (ops, production) = (parts.database.clone(), site.production().clone());
    let mut request = request.clone();
    request.run = Some(run.id().to_string());
    run.step("dump")
        // A dump that was interrupted left nothing that anybody can see; the next one is a backup of its own.
        .effect(Effect::Idempotent)
        // With an undo it would count as in force, and nobody could roll back a recovery that came before it.
        .undo(Undo::Unnecessary("a backup harms nobody"))
        .retry(1, std::time::Duration::from_secs(5))
        .timeout(std::time::Duration::from_hours(12))
        .run(async move |cx| {
            // Of a backup that was killed: it takes as much room as the data.
            ops.discard_copies(&production).await?;
            ops.back_up(&production, &request, Arc::new(move |done, total| cx.progress(done, total))).await
        })
        .await
}
