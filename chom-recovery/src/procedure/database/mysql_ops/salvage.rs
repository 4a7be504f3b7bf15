//! A server on a copy of production's data files, with as little of InnoDB's forced recovery as it comes up with.

use std::{collections::BTreeMap, path::Path, time::Duration};

use async_trait::async_trait;
use tokio::time::{Instant, sleep, timeout};

use super::{
    super::{candidate::Site, ops::BackUp, ops::Progress, space::require_space},
    MySqlOps, Reached,
};
use crate::{
    backend::{ContainerState, MountSource, Place},
    catalog::{Facts, SALVAGE_NOTE, logical, physical},
    error::{Error, ErrorKind, Result},
    mysql::{
        Server,
        dump::Progress as Done,
        physical::pages::Dialect,
        salvage::{Options, Patient},
    },
    procedure::{
        backup::{Taking, take},
        salvage::{
            HIGHEST_LEVEL, missing,
            ops::{Attempt, Found, Note, SalvageOps, Wanted},
        },
        volume_copy::{Copying, copy_volume, require_unused},
    },
    system::DATABASE,
};

/// Longest time for a copy of the data files.
const COPY: Duration = Duration::from_hours(6);
/// Longest time until a server on a copy answers: it may have much to recover.
const START: Duration = Duration::from_mins(20);
/// How long it has to stay after that: what runs by itself, such as purging, ends it at once where it meets damage.
const SETTLE: Duration = Duration::from_secs(2);
/// How often a server is started before its level is given up.
const STARTS: u32 = 2;
/// Room beside the copy, for logs and temporary files of its server, in bytes.
const BESIDE_COPY: u64 = 256 << 20;
/// Longest time for an answer of a server that runs.
const ANSWER: Duration = Duration::from_secs(15);
/// File of MySQL's dictionary.
const DICTIONARY: &str = "mysql.ibd";
/// Page size of both servers where nobody chose another.
const PAGE_SIZE: usize = 16384;

#[async_trait]
impl SalvageOps for MySqlOps {
    async fn require_dead(&self, site: &Site) -> Result<()> {
        let production = site.production();
        let runs = self.backend.container(&production.container).await?;
        let runs = runs.is_some_and(|c| c.state == ContainerState::Running);
        if runs && self.production(&production.container).await.is_ok() {
            let what = format!("the server in `{}` answers: what it holds can be read from it", production.container);
            return Err(Error::new(ErrorKind::Precondition, what).hint(
                "`chom-recovery backup create` takes a backup of it, `chom-recovery check` names damaged tables",
            ));
        }
        require_unused(&*self.backend, &data_of(site)?).await
    }

    async fn salvage(&self, site: &Site, wanted: &Wanted, progress: Progress, note: Note) -> Result<Found> {
        let found = self.read_copy(site, wanted, progress, note).await;
        if found.is_err() {
            // It takes as much room as the data, and another attempt makes its own.
            SalvageOps::discard(self, site).await?;
        }
        found
    }

    async fn discard(&self, site: &Site) -> Result<()> {
        self.backend.remove_container(&helper(site)).await?;
        site.clear().await
    }
}

impl MySqlOps {
    async fn read_copy(&self, site: &Site, wanted: &Wanted, progress: Progress, note: Note) -> Result<Found> {
        self.require_dead(site).await?;
        let ended = self.backend.container(&site.production().container).await?.and_then(|c| c.finished_at);
        let request = BackUp {
            tags: wanted.tags.clone(),
            run: Some(wanted.run.clone()),
            components: vec![DATABASE.to_owned()],
            ..BackUp::default()
        };
        let taking =
            Taking { system: &self.system, backend: &self.backend, repository: &self.repository, request: &request };
        let mut ladder = Ladder::new(self, site, wanted.up_to_level, note);
        let mut salvaged = None;
        let told = progress.clone();
        let dump = async |component: &crate::catalog::ComponentWriter| {
            let mut report = |p: &Done| told(p.bytes, None);
            let read = logical::salvage_to(&mut ladder, component, &Options::default(), &mut report).await?;
            let server = ladder.server().await?;
            let mut facts: Facts = logical::facts(server.info(), &read.summary);
            facts.capture.point = ended.unwrap_or(facts.capture.point).min(facts.capture.end);
            facts.notes.insert(SALVAGE_NOTE.into(), ladder.level.to_string());
            facts.warnings.extend(missing(&read.tables, &read.lost));
            salvaged = Some(read);
            Ok(facts)
        };
        let backup = take(taking, dump, progress).await?;
        let read = salvaged.ok_or_else(|| Error::new(ErrorKind::Failed, "the backup holds no database"))?;
        let damaged_pages = ladder.damaged.unwrap_or_default().into_values().collect();
        let (level, attempts) = (ladder.level, ladder.attempts);
        Ok(Found { backup, level, attempts, tables: read.tables, lost: read.lost, damaged_pages })
    }
}

/// Name of the container that copies.
fn helper(site: &Site) -> String {
    format!("{}-copy", site.container_name())
}

/// What holds production's data.
fn data_of(site: &Site) -> Result<MountSource> {
    let production = site.production();
    let mount = production.mounts.iter().find(|mount| mount.target == production.data_dir);
    mount.map(|mount| mount.source.clone()).ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            format!("container `{}` has no volume at `{}`", production.container, production.data_dir),
        )
    })
}

/// A server on a copy, at one level of forced recovery.
pub(super) struct Ladder<'a> {
    ops: &'a MySqlOps,
    site: &'a Site,
    level: u8,
    up_to: u8,
    /// Whether the copy for this level is made, and the server's container.
    is_built: bool,
    /// Which server wrote the files.
    is_mysql: bool,
    /// Keeps the way to it open.
    reached: Option<Reached>,
    attempts: Vec<Attempt>,
    /// First damaged page of each file, by schema and table; `None`: nobody looked yet.
    damaged: Option<BTreeMap<(String, String), String>>,
    note: Note,
}

#[async_trait]
impl Patient for Ladder<'_> {
    async fn server(&mut self) -> Result<Server> {
        loop {
            if !self.is_built {
                self.build().await?;
            }
            let mut starts = 0;
            let error = loop {
                match self.up().await {
                    Ok(server) => return Ok(server),
                    // It serves, and lets nobody in: no level changes that.
                    Err(error) if error.kind() == ErrorKind::Authentication => {
                        return Err(error.hint("the data files have another password: configure the one of their time"));
                    }
                    Err(error) => {
                        starts += 1;
                        if starts >= STARTS {
                            break error;
                        }
                    }
                }
            };
            self.climb(&error).await?;
        }
    }

    async fn climb(&mut self, why: &Error) -> Result<()> {
        let why = self.ops.last_errors(&self.site.container_name()).await.unwrap_or_else(|| why.to_string());
        (self.note)(format!("level {} is given up: {why}", self.level));
        self.attempts.push(Attempt { level: self.level, why });
        self.reached = None;
        if self.level >= self.up_to {
            let said = self.attempts.iter().map(|a| format!("level {}: {}", a.level, a.why));
            let error = Error::new(
                ErrorKind::Precondition,
                format!("no server comes up on a copy of the data files, up to level {}", self.up_to),
            )
            .with("said", said.collect::<Vec<_>>().join("; "));
            return Err(if self.up_to < HIGHEST_LEVEL {
                error.hint(format!(
                    "restore a backup; where there is none, `--up-to-level {}` tries more, on the copy alone: from 4 on rows \
                     may be wrong",
                    self.up_to.max(3) + 1
                ))
            } else {
                error.hint("restore a backup: chom-recovery backup list")
            });
        }
        self.level += 1;
        // What a failed start wrote is in the copy, and a level may change InnoDB's own files for good.
        self.is_built = false;
        Ok(())
    }

    fn level(&self) -> u8 {
        self.level
    }

    fn damaged_page(&self, schema: &str, table: &str) -> Option<String> {
        self.damaged.as_ref()?.get(&(schema.to_owned(), table.to_owned())).cloned()
    }
}

impl<'a> Ladder<'a> {
    pub(super) fn new(ops: &'a MySqlOps, site: &'a Site, up_to: u8, note: Note) -> Self {
        Self {
            ops,
            site,
            level: 0,
            up_to,
            is_built: false,
            is_mysql: false,
            reached: None,
            attempts: Vec::new(),
            damaged: None,
            note,
        }
    }

    /// Makes a fresh copy, and the container of a server on it.
    async fn build(&mut self) -> Result<()> {
        let (backend, site) = (&self.ops.backend, self.site);
        let (container, volume) = (site.container_name(), site.volume_name());
        SalvageOps::discard(self.ops, site).await?;
        let labels = site.labels(site.role());
        // Beside the original a filesystem may share blocks; where that cannot be, any place does.
        match backend.check_exchangeable(site.volume()).await {
            Ok(()) => backend.create_volume_beside(&volume, &labels, site.volume()).await?,
            Err(_) => backend.create_volume(&volume, &labels).await?,
        }
        let needed = backend.measure_volume(site.volume()).await?.bytes + BESIDE_COPY;
        let free = backend.measure_volume(&volume).await?.free_bytes;
        let keep_free = self.ops.system.limits.keep_free_bytes;
        require_space(&format!("a copy of volume `{}`", site.volume()), free, needed, keep_free)?;
        let production = site.production();
        let copying = Copying {
            helper: &helper(site),
            image: &production.image_id,
            from: &data_of(site)?,
            to: &volume,
            labels: &labels,
        };
        let copied = copy_volume(&**backend, &copying, COPY).await?;
        (self.note)(format!("level {}: a copy of {} files and {} MiB", self.level, copied.entries, copied.bytes >> 20));
        if self.damaged.is_none() {
            // Only MySQL keeps its dictionary in a file of that name.
            self.is_mysql = match backend.read_archive(&Place::Volume(volume.clone()), DICTIONARY).await {
                Ok(_) => true,
                Err(error) if error.kind() == ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            };
            let damaged = self.ops.damaged_pages(&volume, !self.is_mysql).await?;
            for page in damaged.values() {
                (self.note)(page.clone());
            }
            self.damaged = Some(damaged);
        }
        let mut spec = self.ops.server_on(production, &container, &volume, arguments(self.level, self.is_mysql));
        spec.labels = labels;
        backend.one_off(&spec).await?;
        self.is_built = true;
        Ok(())
    }

    /// Finds the server answering, or starts it.
    async fn up(&mut self) -> Result<Server> {
        let (backend, name) = (&self.ops.backend, self.site.container_name());
        let state = backend.container(&name).await?.map(|c| c.state);
        if state == Some(ContainerState::Running) {
            if let Some(reached) = &self.reached
                && timeout(ANSWER, reached.server.ping()).await.is_ok_and(|answer| answer.is_ok())
            {
                return Ok(reached.server.clone());
            }
            // One that is ending is waited for; one that hangs is ended.
            backend.stop_container(&name, ANSWER).await?;
        }
        self.reached = None;
        backend.start_container(&name).await?;
        let ops = self.ops;
        let ready = async {
            let reached = ops.reach_started(&name).await?;
            let end = Instant::now() + SETTLE;
            while Instant::now() < end {
                sleep(Duration::from_millis(250)).await;
                timeout(ANSWER, reached.server.ping()).await.unwrap_or_else(|_| {
                    Err(Error::new(ErrorKind::Timeout, "the server on the copy does not answer any more"))
                })?;
            }
            Ok::<_, Error>(reached)
        };
        let reached = tokio::select! {
            ended = ops.candidate_ended(&name) => Err(ended),
            ready = ready => ready,
        }?;
        Ok(self.reached.insert(reached).server.clone())
    }
}

impl MySqlOps {
    /// Waits until a server that was just started answers.
    async fn reach_started(&self, name: &str) -> Result<Reached> {
        let endpoint = self.candidate_endpoint(name, START).await?;
        let database = &self.system.database;
        self.reach(endpoint, &database.user, database.password.resolve().await?, START).await
    }

    /// Finds damaged pages of a volume's files; none are known where they are not reached from here.
    async fn damaged_pages(&self, volume: &str, is_mariadb: bool) -> Result<BTreeMap<(String, String), String>> {
        if !self.backend.engine().await?.is_local {
            return Ok(BTreeMap::new());
        }
        let Ok(root) = self.root_of(volume).await else { return Ok(BTreeMap::new()) };
        let dialect = Dialect { is_mariadb, page_size: PAGE_SIZE };
        let damaged = physical::damaged_pages(&root, dialect).await?;
        let told = |(file, page, why): (std::path::PathBuf, u64, String)| {
            (table_of(&file), format!("page {page} of `{}` is damaged: {why}", file.display()))
        };
        Ok(damaged.into_iter().map(told).collect())
    }

    /// Reads the last errors that a server logged; `None`: it logged none.
    async fn last_errors(&self, container: &str) -> Option<String> {
        use futures::StreamExt;
        let request = crate::backend::LogRequest { since: None, tail: Some(200) };
        let lines = async {
            let stream = self.backend.logs(container, request).await.ok()?;
            let lines: Vec<String> =
                stream.filter_map(|line| std::future::ready(line.ok().map(|l| l.text))).collect().await;
            Some(lines)
        };
        let lines = timeout(ANSWER, lines).await.ok()??;
        let errors: Vec<_> = lines.iter().filter(|line| line.contains("[ERROR]")).collect();
        let last: Vec<_> = errors.iter().rev().take(3).rev().map(|line| short(line)).collect();
        (!last.is_empty()).then(|| last.join(" | "))
    }
}

/// Cuts the time stamp off, and what is too long.
fn short(line: &str) -> String {
    let text = line.split_once("[ERROR]").map_or(line, |(_, text)| text).trim();
    text.chars().take(240).collect()
}

/// Arguments of a server that is only read. Its binary log stays on: it decides what becomes of transactions that were
/// prepared, and MariaDB does not start where nothing does.
fn arguments(level: u8, is_mysql: bool) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "--event-scheduler=OFF",
        "--max-allowed-packet=1073741824",
        "--skip-name-resolve",
        "--loose-skip-replica-start",
        "--loose-skip-slave-start",
        "--loose-mysqlx=OFF",
        "--innodb-buffer-pool-load-at-startup=OFF",
        "--innodb-buffer-pool-dump-at-shutdown=OFF",
    ]
    .map(str::to_owned)
    .into();
    if level > 0 {
        arguments.push(format!("--innodb-force-recovery={level}"));
        if is_mysql {
            // At its start it would write down what the log holds, which forced recovery forbids, and end.
            arguments.push("--skip-log-bin".to_owned());
        }
    }
    arguments
}

/// Finds the table whose rows a file holds, by its name: `schema/table.ibd` or `schema/table#p#partition.ibd`, with `@` and
/// four digits for what is no letter of a file's name.
fn table_of(file: &Path) -> (String, String) {
    let part = |name: Option<&std::ffi::OsStr>| decoded(&name.unwrap_or_default().to_string_lossy());
    let schema = part(file.parent().and_then(Path::file_name));
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let table = stem.split('#').next().unwrap_or_default();
    (schema, decoded(table))
}

fn decoded(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find('@') {
        text.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 5).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        if let Some(letter) = digits.and_then(char::from_u32) {
            text.push(letter);
            rest = &rest[at + 5..];
        } else {
            text.push('@');
            rest = &rest[at + 1..];
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_tells_its_table() {
        let of = |file: &str| table_of(Path::new(file));
        let name = |schema: &str, table: &str| (schema.to_owned(), table.to_owned());
        assert_eq!(of("shop/orders.ibd"), name("shop", "orders"));
        assert_eq!(of("my@002dshop/a@0020b#p#p0.ibd"), name("my-shop", "a b"));
        assert_eq!(of("shop/t#P#p1#SP#s0.ibd"), name("shop", "t"));
        assert_eq!(of("ibdata1"), name("", "ibdata1"));
    }

    #[test]
    fn forced_recovery_is_asked_for_above_level_0_alone() {
        assert!(!arguments(0, true).iter().any(|a| a.contains("force-recovery") || a.contains("log-bin")));
        assert!(arguments(4, true).contains(&"--innodb-force-recovery=4".to_owned()));
        assert!(!arguments(4, false).contains(&"--skip-log-bin".to_owned()));
    }
}
