//! Mending the environment file with a backup's, and putting it in place.

use std::{
    fs::{Metadata, OpenOptions},
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    CLOSED, Proof, Seen, elsewhere, key_proof,
    login::{self, Login, try_login},
    place, read, read_below, read_text,
};
use crate::{
    catalog::{BackupId, Selector},
    environment::{Change, Environment, Extent, How, KEY},
    error::{Error, ErrorKind, Result},
    files::Root,
    procedure::{
        Parts,
        application::{look::Looked, mins},
        candidate::{self, Candidate},
        files::{self, FolderId, ReplaceProductionFiles, Site},
        locate, quiesce,
    },
    run::{Approval, Effect, Observed, Run, Undo},
    store::pipe,
    system::{Component, EnvironmentFile},
    troubleshoot::CACHE,
};

/// A mended file beside production's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mended {
    /// Production's, and the mended one.
    ids: (FolderId, FolderId),
    /// Length and time of the change of the one that was mended: nobody may have changed it since.
    seen: (u64, i64, i64),
    changes: Vec<Change>,
}

impl Mended {
    /// What a plan shows.
    fn expected() -> Self {
        let change = Change { what: "what is broken".into(), how: How::Set };
        Self { ids: ((0, 0), (0, 0)), seen: (0, 0, 0), changes: vec![change] }
    }
}

/// A mended file that may take production's place.
pub(in crate::procedure::application) struct Ready {
    site: Site,
    mended: Mended,
    approval: Approval<ReplaceProductionFiles>,
    backup: BackupId,
    others: Vec<String>,
    refused: Vec<String>,
    is_forced: bool,
}

/// Mends the file beside production with the newest backup's that will do, and asks whether it may take its place. Nobody is
/// stopped. `None`: nothing differs.
pub(in crate::procedure::application) async fn make_ready(
    run: &Run,
    parts: &Parts,
    which: &Selector,
    looked: &Looked,
    is_forced: bool,
) -> Result<Option<Ready>> {
    let (file, component) = parts.system.environment_file().ok_or_else(|| {
        Error::new(ErrorKind::Precondition, "no environment file is configured").hint("set `application.environment`")
    })?;
    let site = survey(run, parts, file, component, looked).await?;
    let others = run.decide("others", others(parts, &site)).await?;
    let seen = &looked.environment;
    let extent = if is_forced { Extent::All } else { Extent::Broken(seen.wanted.clone()) };
    let Candidate { backup, refused, .. } = choose(run, parts, which, (file, component), (&site, seen, &extent))
        .await
        .map_err(|e| if e.kind() == ErrorKind::Precondition && seen.is_refused { e.hint(BY_HAND) } else { e })?;
    let mended = write(run, parts, &site, backup, (extent, seen)).await?;
    if mended.changes.is_empty() {
        clear(run, &[good(&site), site.stage.clone()]).await?;
        return Ok(None);
    }
    let approval = run
        .approve::<ReplaceProductionFiles>(&format!(
            "change the environment file `{}` of project `{}` on {} with that of backup {backup}: {}; what it holds now is kept",
            site.located.folder().display(),
            parts.backend.project(),
            parts.backend.engine_address(),
            told(&mended.changes),
        ))
        .await?;
    Ok(Some(Ready { site, mended, approval, backup, others, refused, is_forced }))
}

/// What is left where no backup logs in.
const BY_HAND: &str = "the account's password was probably changed in the server: set the new one in the environment file by \
                       hand; nothing here changes a password in the server";

fn told(changes: &[Change]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Puts the mended file in place. The services are stopped.
pub(in crate::procedure::application) async fn put_in_place(
    run: &Run,
    parts: &Parts,
    ready: Ready,
    done: &mut Vec<String>,
    to_review: &mut Vec<String>,
) -> Result<()> {
    let Ready { site, mended, approval, backup, others, refused, is_forced } = ready;
    done.push(format!("environment file, with backup {backup}: {}", told(&mended.changes)));
    if !is_forced {
        let lost = mended.changes.iter().filter(|change| change.how == How::Removed);
        to_review.extend(
            lost.map(|change| format!("{} of the environment file is not in that backup: set it anew", change.what)),
        );
    }
    exchange(run, parts, &site, mended, approval).await?;
    clear(run, &[good(&site)]).await?;
    to_review.extend(refused.iter().map(|why| format!("a newer backup would not do: {why}")));
    to_review.extend(
        others.iter().map(|service| format!("`{service}` reads the environment file too: restart it when it may be")),
    );
    to_review.push(format!("`{}` holds the environment file as it was: `runs prune` removes it", site.stage.display()));
    Ok(())
}

async fn clear(run: &Run, those: &[PathBuf]) -> Result<()> {
    let those = those.to_vec();
    run.step("clear")
        .effect(Effect::Idempotent)
        .undo(Undo::Unnecessary("what it removes is only a copy"))
        .input(&those)
        .predict(|| ())
        .timeout(mins(1))
        .run(async move |_| pipe::blocking(move || those.iter().try_for_each(|path| files::remove(path))).await)
        .await
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
        let stage = files::stage(&located, STAGED, &run.id().to_string())?;
        Ok(Site { located, stage, aof: None, users: looked.before.clone() })
    })
    .await
}

/// Names services that mount the file and go on with the old one.
async fn others(parts: &Parts, site: &Site) -> Result<Vec<String>> {
    let ours = parts.system.writers();
    let mut others = locate::users(&*parts.backend, &site.located.folder()).await?;
    others.retain(|service| !ours.contains(&service.as_str()));
    Ok(others)
}

/// In the name of what lies beside production: no component may be called that.
const STAGED: &str = "ENVIRONMENT";

/// Chooses the newest backup whose file will do, and keeps that beside production.
async fn choose(
    run: &Run,
    parts: &Parts,
    which: &Selector,
    (file, component): (&EnvironmentFile, &Component),
    (site, seen, extent): (&Site, &Seen, &Extent),
) -> Result<Candidate> {
    let (testing, file, keeps, production) = (parts.clone(), file.clone(), good(site), site.located.clone());
    let (site, seen, extent) = (site.clone(), seen.clone(), extent.clone());
    let test: candidate::Test = Arc::new(move |folder| {
        let (parts, file, good, production) = (testing.clone(), file.clone(), good(&site), production.clone());
        let (seen, extent) = (seen.clone(), extent.clone());
        Box::pin(async move {
            let Seen { wanted, has_key, .. } = &seen;
            let path = file.path.clone();
            let found = pipe::blocking(move || read_below(&Root::open(&folder)?, &path)).await;
            let (text, meta) = match found {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec!["it holds no environment file".into()]),
                found => found?,
            };
            let environment = Environment::read(&text);
            let mut faults = environment.faults(*has_key);
            let lacks = wanted.iter().filter(|name| *name != KEY && !environment.has(name));
            faults.extend(lacks.map(|name| format!("`{name}` is missing or empty")));
            if let Proof::Closed = key_proof(&parts.system, &parts, &file, &environment, *has_key).await {
                faults.push(CLOSED.into());
            }
            if faults.is_empty() {
                let here = pipe::blocking(move || read(&production)).await?.unwrap_or_else(|| Environment::read(""));
                faults = mend(&parts, &here, &environment, (extent, &seen)).await?.faults;
            }
            if faults.is_empty() {
                pipe::blocking(move || put(&good, &text, &meta)).await?;
            }
            Ok(faults)
        })
    });
    candidate::choose(run, parts, component, which, test, Some(keeps)).await
}

/// Where the backup's file lies until it was used. `runs prune` finds it, whatever happens.
fn good(site: &Site) -> PathBuf {
    site.beside("good")
}

/// Writes a new file with the owner and mode of another.
fn put(path: &Path, text: &str, like: &Metadata) -> Result<()> {
    files::remove(path)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let own = file.metadata()?;
    if (like.uid(), like.gid()) != (own.uid(), own.gid()) {
        fchown(&file, Some(like.uid()), Some(like.gid()))?;
    }
    file.set_permissions(std::fs::Permissions::from_mode(like.mode() & 0o777))?;
    file.write_all(text.as_bytes())?;
    Ok(file.sync_all()?)
}

/// A text that was mended, and why it still would not do.
struct Mending {
    text: String,
    changes: Vec<Change>,
    faults: Vec<String>,
}

/// Mends a file with a backup's, and tries whether the database lets in whoever goes by it. What else it refuses then is taken
/// from the backup too, and no more of it than that.
async fn mend(
    parts: &Parts,
    here: &Environment,
    there: &Environment,
    (extent, seen): (Extent, &Seen),
) -> Result<Mending> {
    let elsewhere = elsewhere(parts).await?;
    let mut extent = if here.is_empty() { Extent::All } else { extent };
    loop {
        let (text, changes) = here.mended(there, &extent);
        let mended = Environment::read(&text);
        let mut faults = mended.faults(seen.has_key);
        match try_login(parts, &mended, &elsewhere).await {
            Login::Refused(names) => {
                let more = |taken: &[String]| {
                    let new = names.iter().filter(|name| !taken.contains(name) && elsewhere.get(name).is_none());
                    new.cloned().collect::<Vec<_>>()
                };
                if let Extent::Broken(taken) = &mut extent
                    && let new = more(taken)
                    && !new.is_empty()
                {
                    taken.extend(new);
                    continue;
                }
                faults.extend(names.iter().map(|name| login::fault(name)));
            }
            Login::Unknown(why) if seen.is_refused => {
                faults.push(format!("whether the database takes what it says is not known: {why}"));
            }
            Login::Untried if seen.is_refused => faults.push("it does not say how the database is reached".into()),
            Login::LetIn | Login::Untried | Login::Unknown(_) => {}
        }
        return Ok(Mending { text, changes, faults });
    }
}

/// Writes the mended file beside production's.
async fn write(
    run: &Run,
    parts: &Parts,
    site: &Site,
    backup: BackupId,
    (extent, seen): (Extent, &Seen),
) -> Result<Mended> {
    let (writing, clearing, parts, seen) = (site.clone(), site.clone(), parts.clone(), seen.clone());
    run.step("mend")
        .effect(Effect::Idempotent)
        .input(&(backup, &site.stage, &extent))
        .predict(Mended::expected)
        .timeout(mins(1))
        .undo_text("remove the mended file")
        .undo_with(async move |_, mended: Option<Mended>| {
            pipe::blocking(move || {
                let there = match id_of(&clearing.stage) {
                    Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
                    there => there?,
                };
                // Without an output no exchange ever began. After one that was never taken back, production's own lies there.
                let is_ours = mended.is_none_or(|mended| mended.ids.1 == there);
                if is_ours { files::remove(&clearing.stage) } else { Ok(()) }
            })
            .await
        })
        .run(async move |_| {
            let reading = writing.clone();
            let ((here, meta), (there, kept)) = pipe::blocking(move || read_both(&reading)).await?;
            let (here, there) = (Environment::read(&here), Environment::read(&there));
            let Mending { text, changes, faults } = mend(&parts, &here, &there, (extent, &seen)).await?;
            if !faults.is_empty() {
                let what = format!("the mended file still would not do: {}", faults.join("; "));
                let hint = "`--method config` takes the whole file of the backup";
                return Err(Error::new(ErrorKind::Precondition, what).hint(hint));
            }
            pipe::blocking(move || {
                put(&writing.stage, &text, if meta.len() == 0 { &kept } else { &meta })?;
                Ok(Mended { ids: ((meta.dev(), meta.ino()), id_of(&writing.stage)?), seen: version(&meta), changes })
            })
            .await
        })
        .await
}

/// Reads production's file and the backup's.
fn read_both(site: &Site) -> Result<((String, Metadata), (String, Metadata))> {
    let opened = site.opened()?;
    let there = read_text(&good(site))?;
    // One that is gone is made empty, so that there is something to exchange; an attempt before this may have made it.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&opened.path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e.into()),
        _ => {}
    }
    Ok((read_text(&opened.path)?, there))
}

fn version(meta: &Metadata) -> (u64, i64, i64) {
    (meta.len(), meta.mtime(), meta.mtime_nsec())
}

fn id_of(path: &Path) -> Result<FolderId> {
    let meta = std::fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

async fn exchange(
    run: &Run,
    parts: &Parts,
    site: &Site,
    mended: Mended,
    approval: Approval<ReplaceProductionFiles>,
) -> Result<()> {
    let Mended { ids: (before, after), seen, .. } = mended;
    let (making, looking, undoing, proving) = (site.clone(), site.clone(), site.clone(), site.clone());
    let (backend, stopping, grace) =
        (parts.backend.clone(), parts.backend.clone(), parts.system.application.stop_grace);
    run.step("exchange")
        .effect(Effect::Destructive)
        .approved(approval)
        .input(&(before, after))
        .predict(|| ())
        .budget(Duration::from_secs(10))
        .timeout(mins(1))
        .undo_text("stop the services and exchange the files back: the old one is in place again, the other is kept")
        .undo_with(async move |_, _: Option<()>| {
            quiesce::stop(&*stopping, &undoing.users, grace).await?;
            quiesce::prove_stopped(&*stopping, &undoing.users).await?;
            undoing.take_back(before, after).await
        })
        .reconcile(async move |_| {
            Ok(match looking.seen().await? {
                [here, beside, None] if here == Some(before) && beside == Some(after) => Observed::NotApplied,
                [here, beside, None] if here == Some(after) && beside == Some(before) => Observed::Applied(()),
                _ => Observed::Partial("the files are neither as before nor as after the exchange".into()),
            })
        })
        .derive(async move |_| Ok(()))
        .run(async move |_| {
            // Somebody's deployment may have started them since.
            quiesce::prove_stopped(&*backend, &making.users).await?;
            let opened = making.opened()?;
            if version(&std::fs::symlink_metadata(&opened.path)?) != seen {
                let what = format!("`{}` was changed since it was mended", making.located.folder().display());
                return Err(Error::new(ErrorKind::Conflict, what).hint("roll back, and recover again"));
            }
            making.exchange(before, after).await
        })
        .verify(async move |_, _| match proving.seen().await? {
            [here, _, None] if here == Some(after) => Ok("the mended file is in place"),
            _ => Err(Error::new(ErrorKind::Conflict, "something else is in production's place than was put there")),
        })
        .await
}

/// Gives code that was put in place the environment file that production had, where one component holds both, and takes a
/// cached configuration out of it: that of the backup counts for nothing.
pub(in crate::procedure::application) async fn carry_into(
    run: &Run,
    parts: &Parts,
    code: &Component,
    site: &Site,
) -> Result<()> {
    let file = parts.system.environment_file().filter(|(_, component)| component.name == code.name);
    let (file, site) = (file.map(|(file, _)| file.path.clone()), site.clone());
    run.step("settings-as-they-were")
        .effect(Effect::Idempotent)
        .undo(Undo::Unnecessary("it goes with the tree that was put in place"))
        .input(&file)
        .predict(|| ())
        .timeout(mins(1))
        .run(async move |_| {
            pipe::blocking(move || {
                let here = Root::open(&site.located.mount)?.below(&site.located.below)?;
                remove_cache(&here)?;
                let Some(file) = file else { return Ok(()) };
                let (text, meta) = match read_below(&Root::open(&site.stage)?, &file) {
                    Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
                    found => found?,
                };
                // Its path is good as long as it is open.
                let above = here.below(file.parent().unwrap_or(Path::new("")))?;
                let folder = above.path_by_descriptor();
                let name = file.file_name().unwrap_or_default();
                let new = folder.join(format!(".{}.new", name.to_string_lossy().trim_start_matches('.')));
                put(&new, &text, &meta)?;
                Ok(std::fs::rename(&new, folder.join(name))?)
            })
            .await
        })
        .await
}

/// Removes the cached configuration. Where a link leads to it, it lies elsewhere and came from no backup.
fn remove_cache(code: &Root) -> Result<()> {
    let cache = Path::new(CACHE);
    match code.below(cache.parent().unwrap_or(Path::new(""))) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => Ok(()),
        folder => {
            let folder = folder?;
            files::remove(&folder.path_by_descriptor().join(cache.file_name().unwrap_or_default()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_a_link_leads_to_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (code, shared) = (folder.path().join("code"), folder.path().join("shared"));
        let put = |below: &Path| {
            std::fs::create_dir_all(below.join("cache")).unwrap();
            std::fs::write(below.join("cache/config.php"), "<?php").unwrap();
        };
        put(&shared);
        std::fs::create_dir(&code).unwrap();
        std::os::unix::fs::symlink(&shared, code.join("bootstrap")).unwrap();
        remove_cache(&Root::open(&code).unwrap()).unwrap();
        assert!(shared.join("cache/config.php").exists());
        std::fs::remove_file(code.join("bootstrap")).unwrap();
        put(&code.join("bootstrap"));
        for _ in 0..2 {
            remove_cache(&Root::open(&code).unwrap()).unwrap();
            assert!(!code.join(CACHE).exists());
        }
    }
}
