//! Runs as their journals tell them, for lists and reports.

use std::path::{Path, PathBuf};

use super::RunId;
use crate::error::{Error, ErrorKind, Result};

pub(crate) fn runs_directory(state_dir: &Path) -> PathBuf {
    state_dir.join("runs")
}

pub(crate) fn directory(state_dir: &Path, run: RunId) -> PathBuf {
    runs_directory(state_dir).join(run.to_string())
}

/// Lists the ids of all runs, oldest first.
///
/// # Errors
/// `Failed`: the directory cannot be read; one that does not exist holds no runs.
pub fn ids(state_dir: &Path) -> Result<Vec<RunId>> {
    let path = runs_directory(state_dir);
    let entries = match std::fs::read_dir(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries,
    };
    let fail = |e: std::io::Error| Error::from(e).during(format!("cannot list runs in `{}`", path.display()));
    let mut ids = Vec::new();
    for entry in entries.map_err(fail)? {
        let entry = entry.map_err(fail)?;
        match entry.file_name().to_str().map(str::parse::<RunId>) {
            Some(Ok(id)) => ids.push(id),
            Some(Err(e)) if e.kind() != ErrorKind::InvalidInput => return Err(e),
            _ => {}
        }
    }
    ids.sort_unstable();
    Ok(ids)
}
