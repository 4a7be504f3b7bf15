//! Putting a component of files in production's place: a tree of the application, uploads, configuration, redis's data.
//!
//! As with the database, the backup is restored *beside* production, read back and compared there, and only then takes
//! production's place, by one rename; what production had before stays under a name that carries the run. What the
//! component's rules leave out (caches, logs) stays as it is, in both.

use std::{path::PathBuf, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    Parts, locate,
    proof::{STEADY, is_outer, moment, pick},
    quiesce, redis,
};
use crate::{
    catalog::{
        BackupInfo, Catalog, Place, Selector,
        tree::{self, RestoreOptions},
    },
    error::{Error, ErrorKind, Result},
    files::{
        Root, Rules, carry_over, refuse_mounts_below,
        unpack::{Policy, Unpacked},
        walk::Troubles,
    },
    probe::all_of,
    run::{Approvable, Approval, Effect, Observed, Run, Undo, Work},
    store::pipe,
    system::{Component, DATABASE, TreeKind},
};

mod site;

pub(super) use site::{CANDIDATE, FolderId, Site, beside_of, remove, stage, staging};
use site::{clear, id_of};
pub(crate) use site::{kept, remove_kept};

/// Name of the procedure in journals.
pub const PROCEDURE: &str = "restore-files";

/// Bytes a second that are unpacked and read back, where no earlier run has measured it.
const UNPACK_RATE: u64 = 100_000_000;

/// Most paths that a question shows.
const SHOWN: usize = 20;

const fn mins(minutes: u64) -> Duration {
    Duration::from_mins(minutes)
}

/// What to put in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Which backup; the newest is the newest that holds the component.
    pub backup: Selector,
    /// Component, by its name in the configuration.
    pub component: String,
    /// setuid and setgid of files are set again.
    #[serde(default)]
    pub keep_setid: bool,
}

/// What was put in place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FilesReport {
    /// Backup.
    pub backup: BackupInfo,
    /// Its component.
    pub component: String,
    /// The folder, on the Engine's host.
    pub path: PathBuf,
    /// Where that lies now which was there before.
    pub kept: PathBuf,
    /// What was put there, read back and compared with the backup.
    pub unpacked: Unpacked,
    /// Entries that the backup leaves out on purpose, and that stayed as they were.
    pub carried: u64,
    /// What was not as it should be when the backup was taken.
    pub troubles: Troubles,
    /// Objects that are damaged in the repository, and were read from its copy.
    pub objects_from_copy: u64,
    /// Name that was taken for redis's AOF because nobody could say it.
    #[serde(default)]
    pub guessed_aof: Option<String>,
    /// Services that were stopped for it and run again.
    pub restarted: Vec<String>,
    /// From the moment that they were stopped until they were proven, in seconds.
    pub outage_s: f64,
}

impl FilesReport {
    /// Names what is left for a person to look at.
    pub fn to_review(&self) -> Vec<String> {
        let mut lines =
            vec![format!("`{}` holds what production had before: `runs prune` removes it", self.kept.display())];
        if self.objects_from_copy > 0 {
            lines.push(format!(
                "{} objects of the backup are damaged in the repository and came from its copy",
                self.objects_from_copy
            ));
        }
        if let Some(name) = &self.guessed_aof {
            lines.push(format!("redis's AOF is taken to be `{name}`: compare `appendfilename`, if it is switched on"));
        }
        if !self.troubles.is_complete() {
            lines.push(format!("the backup is INCOMPLETE: {} entries could not be read", self.troubles.unreadable));
        }
        lines.extend(self.troubles.list.iter().map(|t| format!("`{}` when it was backed up: {}", t.path, t.why)));
        if self.unpacked.setid_dropped > 0 {
            lines.push(format!("setuid or setgid was left out of {} files", self.unpacked.setid_dropped));
        }
        lines
    }
}

/// Marks an approval to replace files of production.
#[derive(Debug)]
pub struct ReplaceProductionFiles;

impl Approvable for ReplaceProductionFiles {
    const NAME: &'static str = "replace-production-files";
}

/// A tree beside production, equal to its backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Staged {
    id: FolderId,
    unpacked: Unpacked,
    troubles: Troubles,
    objects_from_copy: u64,
    #[serde(default)]
    guessed_aof: Option<String>,
}

/// Restores a component beside production and puts it in place.
///
/// # Errors
/// Where a step fails, the run stops there in a safe state; `resume` goes on, `rollback` undoes. `NotFound`: there is no
/// such component, or no backup holds it. `Unsupported`: its folder is on a filesystem of its own, or on another host.
/// `Corrupt`: the backup is damaged. `NoSpace`: there is no room beside production.
pub async fn restore(run: &Run, parts: &Parts, request: &Request) -> Result<FilesReport> {
    put_in_place(&run.scope("files"), parts, request, None).await
}

/// As [`restore`], in the scope of the caller's choice and as a part of other procedures. With `broken`, what is
/// replaced does not work, so that nothing need serve after a rollback; these paths differ, and are shown to whoever approves.
pub(super) async fn put_in_place(
    run: &Run,
    parts: &Parts,
    request: &Request,
    broken: Option<&[String]>,
) -> Result<FilesReport> {
    let beside = make_beside(run, parts, request, broken).await?;
    let mut report = FilesReport::of(&beside);
    let (site, component) = (beside.site.clone(), beside.component);
    let stopped_at = moment(run, "stopping").await?;
    report.carried = exchange(run, parts, beside).await?;
    start_users(run, parts, &site).await?;
    let proven_at = prove(run, parts, component, &site, stopped_at).await?;
    report.outage_s = (proven_at - stopped_at).as_seconds_f64().max(0.0);
    Ok(report)
}

/// A tree that is ready to take production's place, and may.
pub(super) struct Beside<'a> {
    pub(super) site: Site,
    component: &'a Component,
    backup: BackupInfo,
    staged: Staged,
    approval: Approval<ReplaceProductionFiles>,
    is_broken: bool,
}

impl FilesReport {
    /// What is known before the exchange.
    pub(super) fn of(beside: &Beside<'_>) -> Self {
        let Beside { site, component, backup, staged, .. } = beside;
        Self {
            component: component.name.clone(),
            path: site.located.folder(),
            kept: site.stage.clone(),
            unpacked: staged.unpacked,
            carried: 0,
            troubles: staged.troubles.clone(),
            objects_from_copy: staged.objects_from_copy,
            guessed_aof: staged.guessed_aof.clone(),
            restarted: site.running().into_iter().map(str::to_owned).collect(),
            outage_s: 0.0,
            backup: backup.clone(),
        }
    }
}

/// Restores the tree beside production, and asks whether it may take its place. Nobody is stopped.
pub(super) async fn make_beside<'a>(
    run: &Run,
    parts: &'a Parts,
    request: &Request,
    broken: Option<&[String]>,
) -> Result<Beside<'a>> {
    let component = configured(parts, &request.component)?;
    let differing = broken.unwrap_or_default();
    let site = survey(run, parts, component).await?;
    let backup = choose(run, parts, request).await?;
    let staged = restore_beside(run, parts, component, request, &site, &backup).await?;
    let approval = run
        .approve::<ReplaceProductionFiles>(&format!(
            "replace `{}` of project `{}` on {}, in `{}`, with backup {}, {}; what it holds now is kept{}{}",
            component.name,
            parts.backend.project(),
            parts.backend.engine_address(),
            site.located.folder().display(),
            backup.id(),
            backup.point.format("%F %T UTC"),
            match &site.running()[..] {
                [] => String::new(),
                running => format!("; stopped for it: {}", running.join(", ")),
            },
            match differing.len() {
                0 => String::new(),
                many => format!("; {many} paths differ: {}", differing[..many.min(SHOWN)].join(", ")),
            },
        ))
        .await?;
    Ok(Beside { site, component, backup, staged, approval, is_broken: broken.is_some() })
}

/// Stops whoever uses the folder and exchanges it. Returns how many entries were carried over. Nobody is started again.
pub(super) async fn exchange(run: &Run, parts: &Parts, beside: Beside<'_>) -> Result<u64> {
    let Beside { site, component, staged, approval, is_broken, .. } = beside;
    quiesce::stop_step(run, parts, "stop-users", &site.users, !is_broken).await?;
    let before = prepare(run, &site).await?;
    let carried = carry(run, component, &site).await?;
    swap(run, parts, &site, (before, staged.id), approval).await?;
    Ok(carried)
}

/// Refuses a request for what cannot be put in place, before anything begins.
///
/// # Errors
/// `NotFound`: no such component is configured. `InvalidInput`: it is the database.
pub(crate) fn check(parts: &Parts, request: &Request) -> Result<()> {
    configured(parts, &request.component).map(drop)
}

fn configured<'a>(parts: &'a Parts, name: &str) -> Result<&'a Component> {
    if name == DATABASE {
        return Err(Error::new(ErrorKind::InvalidInput, "the database is no component of files")
            .hint("`chom-recovery restore` without `--component` restores it"));
    }
    parts.system.components.iter().find(|c| c.name == name).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("component `{name}` is not configured: nobody knows its place"))
            .hint("add it as `[[components]]` to the configuration, or restore it into a new folder: `--target FOLDER`")
    })
}

/// Finds the folder, and who uses it.
async fn survey(run: &Run, parts: &Parts, component: &Component) -> Result<Site> {
    run.decide("survey", async {
        let located = locate::find(&parts.system, &parts.backend, component).await?;
        let stage = stage(&located, &component.name, &run.id().to_string())?;
        let users = locate::users(&*parts.backend, &located.folder()).await?;
        let users = quiesce::remember(&*parts.backend, &users).await?;
        let aof = match component.kind {
            TreeKind::Redis => redis::aof_name(&parts.system, &parts.backend).await?,
            _ => None,
        };
        refuse_mounts_below(&located.folder())?;
        let site = Site { located, stage, aof, users };
        // Now: where it cannot be exchanged, nobody must be stopped for it.
        match id_of(&site.opened()?.path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(site),
        }
    })
    .await
}

/// Chooses the backup, once, and tells what the catalogue knows of it.
async fn choose(run: &Run, parts: &Parts, request: &Request) -> Result<BackupInfo> {
    let catalog = Arc::new(Catalog::clone(&parts.catalog).holding(&request.component));
    let choosing = async {
        let chosen = catalog.select(&request.backup).await.map_err(|e| match e.kind() {
            ErrorKind::NotFound => e.during(format!("component `{}`", request.component)),
            _ => e,
        })?;
        Ok(chosen.place)
    };
    let place: Place = run.decide("choose-backup", choosing).await?;
    let id = place.id.to_string();
    run.step("look-up-backup")
        .effect(Effect::Observe)
        .kept()
        .timeout(mins(5))
        .run(async move |_| catalog.select(&Selector::Id(id)).await)
        .await
}

/// Restores the tree beside production, and reads it back. Needs no outage.
async fn restore_beside(
    run: &Run,
    parts: &Parts,
    component: &Component,
    request: &Request,
    site: &Site,
    backup: &BackupInfo,
) -> Result<Staged> {
    let (catalog, place, name) = (parts.catalog.clone(), backup.place.clone(), component.name.clone());
    let policy = Policy { keep_setid: request.keep_setid, ..Policy::default() };
    let mut options = RestoreOptions::new(policy, parts.system.limits.keep_free_bytes);
    options.staging = site.beside("restoring").file_name().map(std::ffi::OsStr::to_owned);
    let is_redis = component.kind == TreeKind::Redis;
    let (building, clearing) = (site.clone(), site.clone());
    let nothing = Staged {
        id: (0, 0),
        unpacked: Unpacked::default(),
        troubles: Troubles::default(),
        objects_from_copy: 0,
        guessed_aof: None,
    };
    run.step("restore-beside")
        // It begins by removing what an earlier attempt left, so doing it again is harmless.
        .effect(Effect::Idempotent)
        .input(&(&place, &name))
        .predict(move || nothing)
        .work(Work::new(backup.plain_len, UNPACK_RATE))
        .budget(mins(10))
        .timeout(mins(240))
        .undo_text("remove the restored tree")
        .undo_with(async move |_, staged: Option<Staged>| {
            pipe::blocking(move || clear(&clearing, staged.map(|s| s.id))).await
        })
        .run(async move |cx| {
            let (to_clear, stage) = (building.clone(), building.stage.clone());
            pipe::blocking(move || clear(&to_clear, None)).await?;
            let reader = catalog.open(&place).await?;
            let component = reader.component(&name).await?;
            let troubles = tree::read_troubles(&component).await?;
            let told = Arc::new(move |done, all| cx.progress(done, all));
            let (unpacked, _) = tree::restore_tree(&component, &stage, &options, told).await?;
            let mut guessed_aof = None;
            if is_redis {
                let noted = reader.private().await?.notes.get(&redis::aof_note(&name)).cloned();
                let known = building.aof.or(noted).map(redis::check_name).transpose()?;
                let aof = known.unwrap_or_else(|| guessed_aof.insert(redis::AOF.to_owned()).clone());
                let stage = stage.clone();
                pipe::blocking(move || redis::snapshot_as_aof(&stage, &aof)).await?;
            }
            let id = pipe::blocking(move || id_of(&stage)).await?;
            Ok(Staged { id, unpacked, troubles, objects_from_copy: reader.objects_from_copy(), guessed_aof })
        })
        .await
}

/// Makes sure that there is a folder to exchange, and tells which.
async fn prepare(run: &Run, site: &Site) -> Result<FolderId> {
    let site = site.clone();
    run.step("prepare")
        .effect(Effect::Idempotent)
        .undo(Undo::Unnecessary("an empty folder harms nobody"))
        .predict(|| (0, 0))
        .timeout(mins(1))
        .run(async move |_| {
            pipe::blocking(move || {
                let opened = site.opened()?;
                match std::fs::DirBuilder::new().create(&opened.path) {
                    Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e.into()),
                    _ => id_of(&opened.path),
                }
            })
            .await
        })
        .await
}

/// Gives the restored tree what the backup leaves out on purpose. Redis's folder holds nothing else than its data.
async fn carry(run: &Run, component: &Component, site: &Site) -> Result<u64> {
    if component.kind == TreeKind::Redis {
        return Ok(0);
    }
    let (site, rules) = (site.clone(), Rules::new(&component.include, &component.exclude)?);
    run.step("carry-over")
        .effect(Effect::Idempotent)
        .undo(Undo::Unnecessary("it goes with the restored tree"))
        .predict(|| 0)
        .budget(mins(1))
        .timeout(mins(30))
        .run(async move |_| {
            pipe::blocking(move || {
                let here = Root::open(&site.located.mount)?.below(&site.located.below)?;
                carry_over(&here, &Root::open(&site.stage)?, &rules)
            })
            .await
        })
        .await
}

/// Puts the restored tree in production's place.
async fn swap(
    run: &Run,
    parts: &Parts,
    site: &Site,
    (before, restored): (FolderId, FolderId),
    approval: Approval<ReplaceProductionFiles>,
) -> Result<()> {
    let (making, looking, undoing, proving) = (site.clone(), site.clone(), site.clone(), site.clone());
    let (backend, stopping, grace) =
        (parts.backend.clone(), parts.backend.clone(), parts.system.application.stop_grace);
    run.step("swap-folders")
        .effect(Effect::Destructive)
        .approved(approval)
        .input(&(before, restored))
        .predict(|| ())
        .budget(mins(1))
        .timeout(mins(5))
        .undo_text(
            "stop the services and exchange the folders back: the old files are in place again, the others are kept",
        )
        .undo_with(async move |_, _: Option<()>| {
            quiesce::stop(&*stopping, &undoing.users, grace).await?;
            quiesce::prove_stopped(&*stopping, &undoing.users).await?;
            locate::refuse_in_use(&*stopping, &undoing.located.folder()).await?;
            undoing.take_back(before, restored).await
        })
        .reconcile(async move |_| {
            Ok(match looking.seen().await? {
                [here, beside, None] if here == Some(before) && beside == Some(restored) => Observed::NotApplied,
                [here, beside, None] if here == Some(restored) && beside == Some(before) => Observed::Applied(()),
                _ => Observed::Partial("the folders are neither as before nor as after the swap".into()),
            })
        })
        .derive(async move |_| Ok(()))
        .run(async move |_| {
            // Somebody's deployment may have started them since.
            quiesce::prove_stopped(&*backend, &making.users).await?;
            locate::refuse_in_use(&*backend, &making.located.folder()).await?;
            making.exchange(before, restored).await
        })
        .verify(async move |_, _| match proving.seen().await? {
            [here, _, None] if here == Some(restored) => Ok("the restored tree is in place"),
            _ => Err(Error::new(ErrorKind::Conflict, "something else is in production's place than was put there")),
        })
        .await
}

/// Starts whoever ran, as before.
pub(super) async fn start_users(run: &Run, parts: &Parts, site: &Site) -> Result<()> {
    let (backend, users) = (parts.backend.clone(), site.users.clone());
    run.step("start-users")
        .effect(Effect::Idempotent)
        .input(&site.users)
        .predict(|| ())
        .budget(mins(2))
        .timeout(mins(15))
        .undo(Undo::Unnecessary("undoing the swap stops them"))
        .run(async move |_| quiesce::start_again(&backend, &users, mins(5)).await)
        .await
}

/// Waits until the services that served before serve again, seen from inside and outside.
async fn prove(
    run: &Run,
    parts: &Parts,
    component: &Component,
    site: &Site,
    since: DateTime<Utc>,
) -> Result<DateTime<Utc>> {
    let served = |service: &str| site.users.iter().any(|u| u.service == service && u.was_running && u.was_ready);
    let application = &parts.system.application;
    let is_web = served(&application.service) || served(&application.web_service);
    let probes = pick(parts, since, |name| {
        name.strip_prefix("container-").is_some_and(&served)
            || (is_web && is_outer(name))
            || (component.kind == TreeKind::Redis && name == "redis" && site.users.iter().any(|u| u.was_running))
    });
    if !probes.is_empty() {
        run.until_healthy(all_of("users", probes), STEADY).await?;
    }
    moment(run, "proven").await
}
