//! The application's environment file: what is wrong with it, and mending it with a backup's, key by key.

use std::{
    fs::OpenOptions,
    io::{Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{Looked, mins, services};
use crate::{
    catalog::{BackupId, Selector},
    environment::{Change, Environment, Extent, LONGEST},
    error::{Error, ErrorKind, Result},
    files::Root,
    probe::mysql::Session,
    procedure::{
        Parts,
        candidate::{self, Candidate},
        files::{self, FolderId, ReplaceProductionFiles, Site},
        locate::{self, Located},
        quiesce,
    },
    run::{Approval, Effect, Observed, Run},
    store::pipe,
    system::{Component, EnvironmentFile, System},
};

/// How many encrypted values prove a key: one may have been written with another.
const SAMPLES: u32 = 5;

/// What was seen of the environment file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// What is wrong with it, a line each, without values.
    pub(super) faults: Vec<String>,
    /// The key opens nothing that the database holds.
    pub(super) key_is_wrong: bool,
    /// Services that run with a copy that cannot be used, though the file can.
    pub(super) stale: Vec<String>,
    /// What is said of the key; empty: nothing is known to be encrypted.
    pub(super) key: String,
}

impl Seen {
    pub(super) fn is_broken(&self) -> bool {
        self.key_is_wrong || !self.faults.is_empty()
    }
}

/// Looks at the file, at what the services run with, and at the key.
pub(super) async fn look(parts: &Parts) -> Result<Seen> {
    let Some((file, component)) = parts.system.environment_file() else { return Ok(Seen::default()) };
    let place = place(parts, file, component).await?;
    let Some(environment) = pipe::blocking(move || read(&place)).await? else {
        return Ok(Seen { faults: vec!["the environment file is not there".into()], ..Seen::default() });
    };
    let mut seen = Seen { faults: environment.faults(), ..Seen::default() };
    match key_proof(&parts.system, parts, file, &environment).await {
        Proof::Unasked => {}
        Proof::Unknown(why) => seen.key = format!("whether APP_KEY is the right one is not known: {why}"),
        Proof::Opens => seen.key = "APP_KEY opens what the database holds".into(),
        Proof::Closed => {
            seen.key_is_wrong = true;
            seen.key = "APP_KEY opens nothing of what the application encrypted".into();
        }
    }
    if !seen.is_broken() {
        for service in parts.system.writers() {
            // A service that cannot be asked is looked at by its probe.
            if let Ok(Some(copy)) = crate::troubleshoot::environment_of(parts, service).await
                && !copy.faults().is_empty()
            {
                seen.stale.push(service.to_owned());
            }
        }
    }
    Ok(seen)
}

/// Tells when the file was changed; `None`: it is not configured, or not there.
pub(super) async fn changed(parts: &Parts) -> Option<SystemTime> {
    let (file, component) = parts.system.environment_file()?;
    let place = place(parts, file, component).await.ok()?;
    std::fs::symlink_metadata(place.folder()).and_then(|meta| meta.modified()).ok()
}

enum Proof {
    /// Nothing is said to be encrypted.
    Unasked,
    Unknown(String),
    Opens,
    Closed,
}

/// Tries the key on what the application has encrypted.
async fn key_proof(system: &System, parts: &Parts, file: &EnvironmentFile, environment: &Environment) -> Proof {
    let (Some(column), Some(key)) = (file.column(), environment.key()) else { return Proof::Unasked };
    let session = match Session::open(&system.database, &parts.backend).await {
        Ok(session) => session,
        Err(health) => return Proof::Unknown(health.summary),
    };
    let values = match session.server.some_values(column, SAMPLES).await {
        Ok(values) => values,
        Err(error) => return Proof::Unknown(error.to_string()),
    };
    let opened: Vec<bool> = values.iter().filter_map(|value| key.opens(value)).collect();
    match opened.iter().any(|opens| *opens) {
        true => Proof::Opens,
        false if opened.is_empty() => {
            Proof::Unknown(format!("`{}.{}.{}` holds no encrypted value", column.0, column.1, column.2))
        }
        false => Proof::Closed,
    }
}

async fn place(parts: &Parts, file: &EnvironmentFile, component: &Component) -> Result<Located> {
    let located = locate::find(&parts.system, &parts.backend, component).await?;
    Ok(Located { below: located.below.join(&file.path), ..located })
}

/// Reads the file, without following links that its users may have put in the way; `None`: it is not there.
fn read(place: &Located) -> Result<Option<Environment>> {
    let failed = |e: Error| e.during(format!("cannot read the environment file `{}`", place.folder().display()));
    let folder = Root::open(&place.mount)?.below(place.below.parent().unwrap_or(Path::new(""))).map_err(failed)?;
    let name = place.below.file_name().unwrap_or_default();
    match read_text(&folder.path_by_descriptor().join(name)) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        text => text.map(|text| Some(Environment::read(&text))).map_err(failed),
    }
}

fn read_text(path: &Path) -> Result<String> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > LONGEST as u64 {
        return Err(Error::new(ErrorKind::InvalidInput, "it is no file, or a very long one"));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST as u64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A mended file beside production's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Mended {
    /// Production's, and the mended one.
    ids: (FolderId, FolderId),
    changes: Vec<Change>,
}

/// Mends the file with the newest backup's that will do, while nobody runs with it. The services are stopped then.
pub(super) async fn mend(
    run: &Run,
    parts: &Parts,
    which: &Selector,
    looked: &Looked,
    is_forced: bool,
    done: &mut Vec<String>,
    to_review: &mut Vec<String>,
) -> Result<()> {
    let (file, component) = parts.system.environment_file().ok_or_else(|| {
        Error::new(ErrorKind::Precondition, "no environment file is configured").hint("set `application.environment`")
    })?;
    let run = run.scope("environment");
    let site = survey(&run, parts, file, component, looked).await?;
    let chosen = choose(&run, parts, which, (file, component), &site).await?;
    let extent = if is_forced { Extent::All } else { Extent::Broken { with_key: looked.environment.key_is_wrong } };
    let mended = write(&run, &site, chosen.backup, extent).await?;
    to_review.extend(chosen.refused.iter().map(|why| format!("a newer backup would not do: {why}")));
    let told: Vec<String> = mended.changes.iter().map(ToString::to_string).collect();
    let approval = run
        .approve::<ReplaceProductionFiles>(&format!(
            "change the environment file `{}` of project `{}` on {} with that of backup {}: {}; what it holds now is kept",
            site.located.folder().display(),
            parts.backend.project(),
            parts.backend.engine_address(),
            chosen.backup,
            told.join(", "),
        ))
        .await?;
    // They read the file when they start. One that still ran on what it had read before cannot start on what is broken.
    services::stop(&run, parts, &looked.before, is_forced).await?;
    exchange(&run, parts, &site, mended.ids, approval).await?;
    done.push(format!("environment file, with backup {}: {}", chosen.backup, told.join(", ")));
    to_review.push(format!("`{}` holds the environment file as it was: `runs prune` removes it", site.stage.display()));
    Ok(())
}

async fn survey(
    run: &Run,
    parts: &Parts,
    file: &EnvironmentFile,
    component: &Component,
    looked: &Looked,
) -> Result<Site> {
    run.decide("survey", async {
        let located = place(parts, file, component).await?;
        let stage = files::stage(&located, "environment", &run.id().to_string())?;
        Ok(Site { located, stage, aof: None, users: looked.before.clone() })
    })
    .await
}

/// Chooses the newest backup whose file will do, and keeps that beside production.
async fn choose(
    run: &Run,
    parts: &Parts,
    which: &Selector,
    (file, component): (&EnvironmentFile, &Component),
    site: &Site,
) -> Result<Candidate> {
    let (testing, file, good) = (parts.clone(), file.clone(), good(site));
    let test: candidate::Test = Arc::new(move |folder| {
        let (parts, file, good) = (testing.clone(), file.clone(), good.clone());
        Box::pin(async move {
            let from = folder.join(&file.path);
            let text = match pipe::blocking(move || read_text(&from)).await {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec!["it holds no environment file".into()]),
                text => text?,
            };
            let environment = Environment::read(&text);
            let mut faults = environment.faults();
            if let Proof::Closed = key_proof(&parts.system, &parts, &file, &environment).await {
                faults.push("its APP_KEY opens nothing of what the application encrypted".into());
            }
            if faults.is_empty() {
                pipe::blocking(move || put(&good, &text, None)).await?;
            }
            Ok(faults)
        })
    });
    candidate::choose(run, parts, component, which, test).await
}

/// Where the backup's file lies until it was used. `runs prune` finds it, whatever happens.
fn good(site: &Site) -> PathBuf {
    site.beside("good")
}

/// Writes a new file, readable by its owner alone or as `like` is.
fn put(path: &Path, text: &str, like: Option<&std::fs::Metadata>) -> Result<()> {
    files::remove(path)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    if let Some(like) = like {
        if (like.uid(), like.gid()) != (file.metadata()?.uid(), file.metadata()?.gid()) {
            fchown(&file, Some(like.uid()), Some(like.gid()))?;
        }
        file.set_permissions(std::fs::Permissions::from_mode(like.mode() & 0o777))?;
    }
    file.write_all(text.as_bytes())?;
    Ok(file.sync_all()?)
}

/// Writes the mended file beside production's.
async fn write(run: &Run, site: &Site, backup: BackupId, extent: Extent) -> Result<Mended> {
    let (writing, clearing) = (site.clone(), site.clone());
    run.step("mend")
        .effect(Effect::Idempotent)
        .input(&(backup, &site.stage))
        .predict(Mended::default)
        .timeout(mins(1))
        .undo_text("remove the mended file")
        .undo_with(async move |_, mended: Option<Mended>| {
            pipe::blocking(move || {
                files::remove(&good(&clearing))?;
                // After an exchange that was never taken back, production's own lies there.
                match (id_of(&clearing.stage), mended) {
                    (Ok(there), Some(mended)) if there == mended.ids.1 => files::remove(&clearing.stage),
                    _ => Ok(()),
                }
            })
            .await
        })
        .run(async move |_| pipe::blocking(move || write_mended(&writing, extent)).await)
        .await
}

fn write_mended(site: &Site, extent: Extent) -> Result<Mended> {
    let opened = site.opened()?;
    // One that is gone is made empty, so that there is something to exchange.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&opened.path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e.into()),
        _ => {}
    }
    let meta = std::fs::symlink_metadata(&opened.path)?;
    let here = Environment::read(&read_text(&opened.path)?);
    let theirs = Environment::read(&read_text(&good(site))?);
    let (text, changes) = here.mended(&theirs, extent);
    let left = Environment::read(&text).faults();
    if !left.is_empty() {
        return Err(Error::new(
            ErrorKind::Precondition,
            format!("the mended file still would not do: {}", left.join("; ")),
        )
        .hint("`--method config` takes the whole file of the backup"));
    }
    put(&site.stage, &text, Some(&meta))?;
    Ok(Mended { ids: ((meta.dev(), meta.ino()), id_of(&site.stage)?), changes })
}

fn id_of(path: &Path) -> Result<FolderId> {
    let meta = std::fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

async fn exchange(
    run: &Run,
    parts: &Parts,
    site: &Site,
    (before, mended): (FolderId, FolderId),
    approval: Approval<ReplaceProductionFiles>,
) -> Result<()> {
    let (making, looking, undoing, proving) = (site.clone(), site.clone(), site.clone(), site.clone());
    let (stopping, grace) = (parts.backend.clone(), parts.system.application.stop_grace);
    run.step("exchange")
        .effect(Effect::Destructive)
        .approved(approval)
        .input(&(before, mended))
        .predict(|| ())
        .budget(Duration::from_secs(10))
        .timeout(mins(1))
        .undo_text("stop the services and exchange the files back: the old one is in place again, the other is kept")
        .undo_with(async move |_, _: Option<()>| {
            quiesce::stop(&*stopping, &undoing.users, grace).await?;
            quiesce::prove_stopped(&*stopping, &undoing.users).await?;
            undoing.take_back(before, mended).await
        })
        .reconcile(async move |_| {
            Ok(match looking.seen().await? {
                [here, beside, None] if here == Some(before) && beside == Some(mended) => Observed::NotApplied,
                [here, beside, None] if here == Some(mended) && beside == Some(before) => Observed::Applied(()),
                _ => Observed::Partial("the files are neither as before nor as after the exchange".into()),
            })
        })
        .derive(async move |_| Ok(()))
        .run(async move |_| {
            making.exchange(before, mended).await?;
            pipe::blocking(move || files::remove(&good(&making))).await
        })
        .verify(async move |_, _| match proving.seen().await? {
            [here, _, None] if here == Some(mended) => Ok("the mended file is in place"),
            _ => Err(Error::new(ErrorKind::Conflict, "something else is in production's place than was put there")),
        })
        .await
}
