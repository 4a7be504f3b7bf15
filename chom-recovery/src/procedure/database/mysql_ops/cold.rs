//! Physical backups of a server that is stopped: its files are copied as they lie, a server on the copy does the crash recovery
//! and says what it holds, and what it leaves behind after a clean end is stored.

use std::{path::Path, sync::Arc};

use chrono::Utc;

use super::{
    super::{
        candidate::Site,
        ops::{Production, Progress},
    },
    MySqlOps,
    salvage::Ladder,
};
use crate::{
    backend::{ContainerState, VolumeIdentity},
    catalog::{Capture, ComponentWriter, Facts, physical},
    error::{Error, ErrorKind, Result},
    files::Root,
    mysql::{
        Server,
        physical::{CopyBaseline, dialect, require_copyable},
        salvage::Patient,
    },
    procedure::salvage::ops::SalvageOps,
    store::pipe,
};

/// Note that tells that the server did not run.
const COLD: &str = "cold";

impl MySqlOps {
    /// Tells whether production's server is stopped, so that its files can be copied as they lie.
    pub(super) async fn is_stopped(&self, production: &Production) -> Result<bool> {
        let container = self.backend.container(&production.container).await?;
        Ok(container.is_some_and(|c| matches!(c.state, ContainerState::Exited | ContainerState::Created)))
    }

    /// Copies the files of a server that is stopped, and stores what a server on the copy makes of them.
    pub(super) async fn cold_copy_to(
        &self,
        production: &Production,
        component: &ComponentWriter,
        run: Option<&str>,
        progress: Progress,
    ) -> Result<Facts> {
        let run = run.map_or_else(|| ulid::Ulid::new().to_string(), str::to_owned);
        let site = self.copy_site(production, run)?;
        let copied = self.store_cold(&site, component, progress).await;
        // It takes as much room as the data.
        let removed = SalvageOps::discard(self, &site).await;
        let mut facts = copied?;
        if let Err(error) = removed {
            facts.warnings.push(format!("the copy of the data files is still in `{}`: {error}", site.volume_name()));
        }
        Ok(facts)
    }

    /// Removes copies of a stopped server's files that killed backups left.
    pub(super) async fn discard_cold(&self, production: &Production) -> Result<()> {
        if production.data().is_none() {
            return Ok(());
        }
        let site = self.copy_site(production, String::new())?;
        site.sweep(&|text| tracing::info!("{text}")).await.map(drop)
    }

    fn copy_site(&self, production: &Production, run: String) -> Result<Site> {
        let data = production.data().ok_or_else(|| {
            let what = format!("container `{}` has no volume at `{}`", production.container, production.data_dir);
            Error::new(ErrorKind::Unsupported, what)
        })?;
        // Nothing is exchanged: only its name counts.
        let original = VolumeIdentity { volume: data.to_owned(), device: 0, inode: 0 };
        Ok(Site::for_copy(self.backend.clone(), Arc::new(self.clone()), production.clone(), original, run))
    }

    async fn store_cold(&self, site: &Site, component: &ComponentWriter, progress: Progress) -> Result<Facts> {
        if !self.backend.engine().await?.is_local {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the Engine runs on another host, whose files are not reached",
            )
            .hint("run it there, as root"));
        }
        self.require_dead(site).await?;
        let production = site.production();
        let ended = self.backend.container(&production.container).await?.and_then(|c| c.finished_at);
        let begin = Utc::now();
        let mut ladder = Ladder::new(self, site, 0, Arc::new(|_| {}));
        let server = ladder.server().await.map_err(|e| match e.kind() {
            ErrorKind::Precondition => e
                .during("a server does not start on a copy of the data files")
                .hint("`chom-recovery salvage database` reads what can be read of them"),
            _ => e,
        })?;
        let warnings = require_copyable(&server).await?;
        let baseline = CopyBaseline::of(&server).await?;
        let position = server.position().await?;
        let logs = binary_logs(&server, &production.data_dir).await?;
        site.end(self.system.database.stop_grace).await?;

        let root = self.root_of(&site.volume_name()).await?;
        if let Some(logs) = logs {
            // As with copies of a running server: one that starts on the files begins new ones.
            let folder = root.clone();
            pipe::blocking(move || remove_logs(&folder, &logs)).await?;
        }
        let pages = physical::check_pages(&root, dialect(baseline.flavour, &baseline.settings)).await?;
        let stored = physical::store(component, &root, pages, &baseline, progress).await?;
        let end = Utc::now();
        let capture = Capture { begin, point: ended.unwrap_or(begin).min(end), end };
        let mut facts = physical::facts(server.info(), &baseline, capture, position.as_ref());
        facts.warnings = warnings;
        if stored.pages.unchecked > 0 {
            facts.warnings.push(super::physical::unchecked(stored.pages.unchecked));
        }
        facts.notes.insert(super::physical::POSITION.into(), "after the crash recovery".into());
        facts.notes.insert(COLD.into(), "the server was stopped, and its files were copied as they lay".into());
        Ok(facts)
    }
}

/// Finds how the names of binary logs begin, where they lie in the data directory itself.
async fn binary_logs(server: &Server, data_dir: &str) -> Result<Option<String>> {
    let variables = server.variables().await?;
    let base = variables.get("log_bin_basename").map(Path::new);
    let inside = base.filter(|base| base.parent() == Some(Path::new(data_dir.trim_end_matches('/'))));
    Ok(inside.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()))
}

/// Removes binary logs and what lists them.
fn remove_logs(root: &Root, base: &str) -> Result<()> {
    let folder = root.path_by_descriptor();
    for entry in std::fs::read_dir(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let end = name.to_str().and_then(|name| name.strip_prefix(base)?.strip_prefix('.'));
        let is_log = end.is_some_and(|end| {
            matches!(end, "index" | "state") || (!end.is_empty() && end.bytes().all(|b| b.is_ascii_digit()))
        });
        if is_log && entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_logs_go_and_what_is_called_alike_stays() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["binlog.000001", "binlog.index", "binlog.state", "binlog.cnf", "binlogs.000001", "ibdata1"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        remove_logs(&Root::open(folder.path()).unwrap(), "binlog").unwrap();
        let mut left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["binlog.cnf", "binlogs.000001", "ibdata1"]);
    }
}
