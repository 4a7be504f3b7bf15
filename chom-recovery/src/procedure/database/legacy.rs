//! Choosing a legacy backup, and proving as much of it as a file without checksums allows.

use futures::{FutureExt, future::BoxFuture};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    candidate::Site,
    mins,
    ops::{Loaded, Verified},
    restore::{CheckedBackup, Contents, VERIFY_RATE},
    source::{LegacyDump, Source},
};
use crate::{
    catalog::legacy::{LegacyBackup, LegacyCatalog},
    error::{Error, ErrorKind, Result},
    procedure::Parts,
    run::{Effect, Run, Work},
};

/// Chooses a legacy dump, once.
///
/// # Errors
/// `Precondition`: the configuration knows no legacy backups. `NotFound`: there is no such dump.
pub(in crate::procedure) async fn choose(
    run: &Run,
    parts: &Parts,
    name: &str,
) -> Result<(LegacyCatalog, LegacyBackup)> {
    let settings = parts.system.legacy.as_ref().ok_or_else(|| {
        Error::new(ErrorKind::Precondition, "the configuration knows no legacy backups")
            .hint("name their directory in `legacy.directory`")
    })?;
    let catalog = LegacyCatalog::new(settings);
    // Kept: a resumed run must not slide to a dump that was taken in between.
    let path = run.decide("choose-backup", async { Ok(catalog.list().await?.select(name)?.legacy.clone()) }).await?;
    let looking = catalog.clone();
    let backup: LegacyBackup = run
        .step("look-up-backup")
        .effect(Effect::Observe)
        .kept()
        .timeout(mins(15))
        .run(async move |_| Ok(looking.list().await?.select(&path)?.clone()))
        .await?;
    Ok((catalog, backup))
}

/// Reads a dump to its end; `then` makes of a sound one what is kept of it.
///
/// # Errors
/// `Corrupt`: it is not sound; the hint names the one before it. `Unsupported`: it is no dump. Those of `then`.
pub(in crate::procedure) async fn prove<T, F>(
    run: &Run,
    catalog: &LegacyCatalog,
    backup: &LegacyBackup,
    then: F,
) -> Result<T>
where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
    F: FnOnce(LegacyDump) -> BoxFuture<'static, Result<T>> + Clone + Send + Sync + 'static,
{
    let (reading, input) = (catalog.clone(), backup.clone());
    let checked = run
        .step("verify-backup")
        .effect(Effect::Observe)
        // Loading reads the file again and refuses another one.
        .kept()
        .input(&backup.legacy)
        .work(Work::new(backup.stored_len, VERIFY_RATE))
        .budget(mins(5))
        .timeout(mins(240))
        .run(async move |cx| {
            let path = reading.path(&input);
            let report = reading.verify(&input, move |done, total| cx.progress(done, Some(total))).await?;
            let (backup, file) = report.into_dump()?;
            then(LegacyDump { backup, path, file }).await
        })
        .await;
    match checked {
        Err(e) if e.kind() == ErrorKind::Corrupt => Err(offer_previous(catalog, backup, e).await),
        checked => checked,
    }
}

/// Chooses a legacy dump and reads it to its end.
///
/// # Errors
/// Those of [`choose`] and [`prove`]. `Precondition`: the dump lacks schemas that production has. `Unsupported`: it is of
/// another server.
pub(super) async fn check_backup(run: &Run, parts: &Parts, site: &Site, name: &str) -> Result<CheckedBackup> {
    let (catalog, backup) = choose(run, parts, name).await?;
    let (ops, production) = (site.ops.clone(), site.production().clone());
    let check = move |mut dump: LegacyDump| {
        async move {
            let notes = ops.check_compatible(&Source::Legacy(dump.clone()), &production).await?;
            dump.backup.warnings.extend(notes);
            Ok(Contents {
                objects_from_copy: 0,
                report: None,
                loaded: Loaded::promised(&dump),
                verified: Verified::promised(&dump),
                legacy: Some(dump),
            })
        }
        .boxed()
    };
    CheckedBackup::legacy(prove(run, &catalog, &backup, check).await?)
}

/// Adds the way out to the error of a dump that cannot be trusted.
async fn offer_previous(catalog: &LegacyCatalog, bad: &LegacyBackup, error: Error) -> Error {
    let error = error.during(format!("backup {} cannot be trusted", bad.name()));
    let listing = catalog.list().await;
    match listing.as_ref().ok().and_then(|listing| listing.before(bad)) {
        Some(previous) => error.hint(format!(
            "production is untouched; `--backup {}` is the one before, of {}: it loses {} min more",
            previous.name(),
            previous.point.format("%F %T UTC"),
            (bad.point - previous.point).num_minutes().max(1),
        )),
        None => error.hint("production is untouched; there is no older dump in the directory"),
    }
}

impl Loaded {
    /// What the text of a dump lets expect.
    fn promised(dump: &LegacyDump) -> Self {
        let contents = &dump.file.contents;
        Self {
            rows: contents.user_tables().map(|(_, _, table)| table.rows).sum(),
            bytes: contents.plain_bytes,
            tables: contents.user_tables().count() as u64,
            warnings: Vec::new(),
            filled: None,
        }
    }
}

impl Verified {
    fn promised(dump: &LegacyDump) -> Self {
        let contents = &dump.file.contents;
        let tables = contents.user_tables().count() as u64;
        Self {
            tables,
            rows: contents.user_tables().map(|(_, _, table)| table.rows).sum(),
            definitions: tables + contents.objects.len() as u64,
            is_physical: false,
        }
    }
}
