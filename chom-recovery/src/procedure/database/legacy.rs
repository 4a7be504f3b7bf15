//! Choosing a legacy backup, and proving as much of it as a file without checksums allows.

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

/// Chooses a legacy dump and reads it to its end.
///
/// # Errors
/// `Corrupt`: it is not sound; the hint names the one before it. `Precondition`: the configuration knows no legacy
/// backups, or the dump lacks schemas that production has. `Unsupported`: it is no dump, or of another server.
pub(super) async fn check_backup(run: &Run, parts: &Parts, site: &Site, name: &str) -> Result<CheckedBackup> {
    let settings = parts.system.legacy.as_ref().ok_or_else(|| {
        Error::new(ErrorKind::Precondition, "the configuration knows no legacy backups")
            .hint("name their directory in `legacy.directory`")
    })?;
    let catalog = LegacyCatalog::new(settings);
    // Kept: a resumed run must not slide to a dump that was taken in between.
    let path = run.decide("choose-backup", async { Ok(catalog.list().await?.select(name)?.legacy.clone()) }).await?;
    let (looking, wanted) = (catalog.clone(), path.clone());
    let backup: LegacyBackup = run
        .step("look-up-backup")
        .effect(Effect::Observe)
        .kept()
        .timeout(mins(15))
        .run(async move |_| Ok(looking.list().await?.select(&wanted)?.clone()))
        .await?;

    let (reading, ops, production) = (catalog.clone(), site.ops.clone(), site.production().clone());
    let input = backup.clone();
    let checked: Result<Contents> = run
        .step("verify-backup")
        .effect(Effect::Observe)
        // Loading reads the file again and refuses another one.
        .kept()
        .input(&path)
        .work(Work::new(backup.stored_len, VERIFY_RATE))
        .budget(mins(5))
        .timeout(mins(240))
        .run(async move |cx| {
            let file = reading.path(&input);
            let report = reading.verify(&input, move |done, total| cx.progress(done, Some(total))).await?;
            let (mut backup, sql) = report.into_dump()?;
            let source = Source::Legacy(LegacyDump { backup: backup.clone(), path: file.clone(), file: sql.clone() });
            backup.warnings.extend(ops.check_compatible(&source, &production).await?);
            let dump = LegacyDump { backup, path: file, file: sql };
            Ok(Contents {
                objects_from_copy: 0,
                report: None,
                loaded: Loaded::promised(&dump),
                verified: Verified::promised(&dump),
                legacy: Some(dump),
            })
        })
        .await;
    match checked {
        Ok(contents) => CheckedBackup::legacy(contents),
        Err(e) if e.kind() == ErrorKind::Corrupt => Err(offer_previous(&catalog, &backup, e).await),
        Err(e) => Err(e),
    }
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
