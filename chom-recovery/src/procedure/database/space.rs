//! Room for what a recovery makes, asked for before it makes anything.

use super::{CheckedBackup, Site};
use crate::{
    error::{Error, ErrorKind, Result},
    probe::disk::statvfs,
    procedure::Parts,
    run::Run,
};

/// Files of a server without data: system tablespaces, redo and undo logs of the supported versions, in bytes.
const FRESH_SERVER: u64 = 320 << 20;
/// Room for the rest of a run's journal, in bytes.
const JOURNAL: u64 = 1 << 20;

/// Refuses to begin what would fill a disk: the candidate's volume lies beside production's.
///
/// Decided once, before the candidate is built: a resumed run must not count what it made itself.
///
/// # Errors
/// `NoSpace`: the Engine's filesystem or that of the state directory has too little room; the numbers are named.
pub async fn check_space(run: &Run, parts: &Parts, site: &Site, backup: &CheckedBackup) -> Result<()> {
    let keep_free = parts.system.limits.keep_free_bytes;
    let plain = backup.origin().plain_len();
    // Files take the room that they took; rows get indexes.
    let needed = if backup.origin().is_physical() { plain } else { plain.saturating_mul(5) / 2 } + FRESH_SERVER;
    let look = async {
        let volume = &site.original.volume;
        let free = parts.backend.measure_volume(volume).await?.free_bytes;
        let beside = format!("a candidate beside volume `{volume}`");
        require_space(&beside, free, needed, keep_free)?;
        let state_dir = parts.system.state_dir();
        let free = statvfs(state_dir.clone())
            .await
            .map_err(|e| Error::from(e).during(format!("cannot ask how much is free in `{}`", state_dir.display())))?;
        require_space(&format!("the journal in `{}`", state_dir.display()), free.free_bytes, JOURNAL, 0)?;
        Ok(needed)
    };
    run.decide("check-space", look).await.map(drop)
}

pub(in crate::procedure) fn require_space(what: &str, free: u64, needed: u64, keep_free: u64) -> Result<()> {
    if free >= needed.saturating_add(keep_free) {
        return Ok(());
    }
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    Err(Error::new(ErrorKind::NoSpace, format!("there is no room for {what}"))
        .with("free", mib(free))
        .with("needed", mib(needed))
        .with("to be kept free", mib(keep_free))
        .hint("production is untouched; free space (`chom-recovery runs prune` lists old volumes), then resume"))
}
