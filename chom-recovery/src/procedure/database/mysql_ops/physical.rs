//! Physical backups: production's server copies its data files, which are stored, and a candidate that starts on them.

use std::time::{Duration, Instant};

use super::{
    super::ops::{Filled, Loaded, Production, Progress, Verified},
    FIRST_START, MySqlOps, check_version,
    copies::Copy,
    of_backups_accounts,
};
use crate::{
    backend::MountSource,
    catalog::{
        self, BackupReader, Capture, ComponentKind, ComponentReader, ComponentWriter, DatabaseFacts, Facts, physical,
    },
    error::{Error, ErrorKind, Result},
    mysql::{
        Server,
        physical::{CopyBaseline, dialect, pages::PageReport, require_copyable, require_same, settings},
    },
    system::DATABASE,
};

/// Longest time in which a server reads all of its tables.
const CHECK: Duration = Duration::from_mins(100);
/// How often a copy is made in which a page is damaged.
const ATTEMPTS: u32 = 3;
/// Note that tells how exact the position is.
pub(super) const POSITION: &str = "position";

impl MySqlOps {
    /// Copies production's data files and stores them.
    pub(super) async fn copy_to(
        &self,
        production: &Production,
        component: &ComponentWriter,
        run: Option<&str>,
        progress: Progress,
    ) -> Result<Facts> {
        let id = run.map_or_else(|| ulid::Ulid::new().to_string(), str::to_owned);
        let reached = self.production(&production.container).await?;
        let server = &reached.server;
        let mut warnings = require_copyable(server).await?;
        self.require_room(production).await?;
        let before = CopyBaseline::of(server).await?;
        let copied = async {
            let (copy, pages, torn) = self.make_sound_copy(server, production, &id, &before).await?;
            warnings.extend(torn);
            let after = CopyBaseline::of(server).await?;
            before.require_unchanged(&after)?;
            let stored = physical::store(component, &copy.root, pages, &before, progress).await?;
            Ok::<_, Error>((copy, stored))
        }
        .await;
        // It takes as much room as the data.
        let removed = self.discard(production).await;
        let (copy, stored) = copied?;
        if let Err(error) = removed {
            warnings.push(format!("the copy of the data files is still in `{}`: {error}", production.container));
        }
        warnings.extend(copy.warnings);
        if stored.pages.unchecked > 0 {
            warnings.push(unchecked(stored.pages.unchecked));
        }
        let capture = Capture { begin: copy.begun, point: copy.ended, end: copy.ended };
        let mut facts = physical::facts(server.info(), &before, capture, copy.position.as_ref());
        facts.warnings = warnings;
        facts.notes.insert(POSITION.into(), copy.position_is.into());
        Ok(facts)
    }

    /// Copies until every page is sound. One that was caught half written is whole in the next copy; one that is damaged on
    /// the disk stays so.
    async fn make_sound_copy(
        &self,
        server: &Server,
        production: &Production,
        id: &str,
        baseline: &CopyBaseline,
    ) -> Result<(Copy, PageReport, Option<String>)> {
        let dialect = dialect(baseline.flavour, &baseline.settings);
        let mut torn = None;
        for attempt in 1.. {
            let copy = self.make_copy(server, production, id).await?;
            match physical::check_pages(&copy.root, dialect).await {
                Ok(pages) => return Ok((copy, pages, torn)),
                Err(e) if e.kind() == ErrorKind::Corrupt && attempt < ATTEMPTS => {
                    torn = Some(format!("copy {attempt} was not sound, and made again: {e}"));
                    drop(copy);
                    self.discard(production).await?;
                }
                Err(e) => return Err(e),
            }
        }
        Err(Error::new(ErrorKind::Failed, "no copy was made"))
    }

    /// Refuses files that this server, or this host, cannot take.
    pub(super) async fn check_copy(
        &self,
        backup: &BackupReader,
        from: &DatabaseFacts,
        production: &Production,
    ) -> Result<Vec<String>> {
        if !self.backend.engine().await?.is_local {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the Engine runs on another host, and data files are put in place on its own alone",
            )
            .hint("run it there, or choose a logical backup: `chom-recovery backup list`"));
        }
        if !rustix::process::geteuid().is_root() {
            let what = "data files with the server's own owner are put in place by root alone";
            return Err(Error::new(ErrorKind::Unsupported, what)
                .hint("run it as root, or choose a logical backup: `--kind logical`"));
        }
        match self.production(&production.container).await {
            Ok(reached) => {
                check_version(ComponentKind::Physical, from, reached.server.info())?;
                require_same(&from.variables, &settings(&reached.server).await?)?;
            }
            // The rest is judged when the candidate, made from its image, has started.
            Err(_) => {
                if let Some(version) = self.version_of_image(production).await {
                    catalog::compatible(
                        ComponentKind::Physical,
                        (from.flavour, &from.version),
                        (from.flavour, &version),
                    )?;
                }
            }
        }
        let baseline = physical::read_baseline(&backup.component(DATABASE).await?).await?;
        Ok(vec![format!(
            "it holds the data files of {} tables, and no binary logs: the server begins new ones, under an identity of its own",
            baseline.tables().count()
        )])
    }

    /// Version of a server that does not answer, as the official images say it in their environment.
    async fn version_of_image(&self, production: &Production) -> Option<String> {
        let environment = self.backend.environment(&production.container).await.ok()?;
        let said = ["MYSQL_VERSION", "MARIADB_VERSION"].iter().find_map(|name| environment.get(name))?;
        // As of a package: `1:11.8.2+maria~ubu2404`.
        Some(said.rsplit_once(':').map_or(said, |(_, version)| version).to_owned())
    }

    /// Fills a candidate's volume, starts its server, and waits until that answers with the accounts of the backup.
    pub(super) async fn start_on_copy(
        &self,
        candidate: &str,
        backup: &BackupReader,
        progress: Progress,
    ) -> Result<Loaded> {
        let component = backup.component(DATABASE).await?;
        let begun = Instant::now();
        let volume = self.volume_of(candidate).await?;
        let kept = self.move_kept(candidate, &volume, backup, &component).await;
        let (bytes, from_kept_copy) = match kept {
            Ok(Some(bytes)) => (bytes, true),
            _ => {
                let root = self.root_of(&volume).await?;
                let keep_free = self.system.limits.keep_free_bytes;
                (physical::restore(&component, &root, keep_free, progress).await?.bytes, false)
            }
        };
        let filled = Filled {
            from_kept_copy,
            took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            kept_copy_refused: kept.err().map(|error| error.to_string()),
        };
        self.backend.start_container(candidate).await?;
        tokio::select! {
            ended = self.candidate_ended(candidate) => Err(ended),
            ready = self.await_copy(candidate, backup) => ready,
        }?;
        let tables = backup.private().await?.baselines.tables.len() as u64;
        Ok(Loaded { rows: 0, bytes, tables, warnings: Vec::new(), filled: Some(filled) })
    }

    /// Waits until a server that was started on a copy answers as what it was.
    async fn await_copy(&self, candidate: &str, backup: &BackupReader) -> Result<()> {
        let endpoint = self.candidate_endpoint(candidate, FIRST_START).await?;
        let database = &self.system.database;
        let reached = self.reach(endpoint, &database.user, database.password.resolve().await?, FIRST_START).await;
        let reached = match reached.map_err(of_backups_accounts) {
            Ok(reached) => reached,
            Err(e) => return Err(e.with("log", self.last_lines(candidate).await)),
        };
        let Some(from) = &backup.manifest().facts.database else {
            return Err(Error::new(ErrorKind::Unsupported, "this backup holds no database"));
        };
        check_version(ComponentKind::Physical, from, reached.server.info())
    }

    /// Names a candidate's volume.
    async fn volume_of(&self, candidate: &str) -> Result<String> {
        let container = self.backend.container(candidate).await?;
        let data_dir = &self.system.database.data_dir;
        let mounts = container.map(|c| c.mounts).unwrap_or_default();
        let name = mounts.into_iter().find_map(|mount| match mount.source {
            MountSource::Volume(name) if mount.target == *data_dir && !mount.read_only => Some(name),
            _ => None,
        });
        name.ok_or_else(|| {
            Error::new(ErrorKind::Failed, format!("candidate `{candidate}` has no volume at `{data_dir}`"))
        })
    }
}

/// Warns of pages that nobody could check.
pub(super) fn unchecked(number: u64) -> String {
    format!("{number} pages are encrypted or compressed as a whole: their checksums are not known")
}

/// Proves that a server on a copy has what was copied, and can read all of it.
pub(super) async fn verify_copy(server: &Server, component: &ComponentReader) -> Result<Verified> {
    let baseline = physical::read_baseline(component).await?;
    let verdict = baseline.verify(server, CHECK).await?;
    Ok(Verified {
        tables: (verdict.check.good + verdict.check.unchecked.len()) as u64,
        rows: 0,
        definitions: verdict.definitions as u64,
        is_physical: true,
    })
}
