//! The phases that put a backup in production's place, and the proofs that keep them in order.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    KeptVolume, ReplaceProductionDatabase,
    candidate::{CandidateRecord, Site},
    choice::{self, Wanted, WantedKind},
    legacy, mins,
    ops::{Assessment, Filled, Loaded, NextIds, Verified},
    source::{LegacyDump, Opener, Origin, Source},
    swap::Exchange,
};
use crate::{
    backend::VolumeIdentity,
    catalog::{self, BackupInfo, BackupReader, Catalog, Level, Selector, VerifyReport},
    error::{Error, ErrorKind, Result},
    procedure::{
        Parts,
        quiesce::{self, Remembered},
    },
    run::{Approval, Effect, Run, Undo, Work},
};

// What plans expect where no earlier run has measured it, in bytes a second. A debug build dumped 1 GB in 15 s and loaded
// it in 29 s, on two cores with MariaDB 11.8 (`cargo test -p chom-recovery-tests --test mysql_memory`); half of that
// leaves room for slower disks.
/// Bytes of a backup that are decompressed and hashed.
pub(super) const VERIFY_RATE: u64 = 50_000_000;
/// Bytes of rows that a server loads.
const LOAD_RATE: u64 = 17_000_000;
/// Bytes of rows that a server reads to compare them.
const COMPARE_RATE: u64 = 50_000_000;
/// Bytes of rows that are dumped and verified.
pub(super) const DUMP_RATE: u64 = 30_000_000;
/// Until a new server on an empty volume answers.
const FIRST_START: Duration = Duration::from_secs(20);

/// A backup whose bytes were all hashed, decompressed and parsed to their end, and which fits this system.
#[derive(Debug)]
pub struct CheckedBackup {
    origin: Origin,
    opener: Opener,
    contents: Contents,
    why: String,
}

/// What a checked backup lets expect. Kept with the run, so that a rollback needs no backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Contents {
    /// For a backup of the repository.
    pub(super) report: Option<VerifyReport>,
    /// For a legacy backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) legacy: Option<LegacyDump>,
    pub(super) loaded: Loaded,
    pub(super) verified: Verified,
    /// Objects that are damaged in the repository and good in its copy.
    #[serde(default)]
    pub(super) objects_from_copy: u64,
}

impl CheckedBackup {
    /// Tells what is known of it.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Tells why it was chosen; empty where somebody named it.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Tells what the catalogue knows of it, and what reading every byte of it found.
    ///
    /// # Errors
    /// `Unsupported`: it is in no repository.
    pub fn in_repository(&self) -> Result<(&BackupInfo, &VerifyReport)> {
        match (&self.origin, &self.contents.report) {
            (Origin::Repository(info), Some(report)) => Ok((info, report)),
            _ => Err(Error::new(ErrorKind::Unsupported, format!("{} is in no repository", self.origin.name()))
                .hint("only a backup of the repository keeps a record of what was proven of it")),
        }
    }

    /// Returns what is to be kept with the backup once it has served: nothing where its copy had to help.
    pub(super) fn proof(&self) -> Option<(BackupInfo, VerifyReport)> {
        let (info, report) = self.in_repository().ok()?;
        (self.contents.objects_from_copy == 0).then(|| (info.clone(), report.clone()))
    }

    pub(super) fn legacy(contents: Contents) -> Result<Self> {
        let dump = contents.legacy.clone().ok_or_else(|| Error::new(ErrorKind::Failed, "the dump was not kept"))?;
        Ok(Self {
            origin: Origin::Legacy(dump.backup.clone()),
            opener: Opener::Legacy(Arc::new(dump)),
            contents,
            why: String::new(),
        })
    }
}

/// A server on a new volume, isolated, with a restored backup that nobody has compared yet.
#[derive(Debug)]
pub struct Candidate {
    record: CandidateRecord,
}

/// A candidate found equal to its backup.
#[derive(Debug)]
pub struct VerifiedCandidate {
    record: CandidateRecord,
    verified: Verified,
}

impl VerifiedCandidate {
    /// Tells what was compared.
    pub fn verified(&self) -> &Verified {
        &self.verified
    }

    /// Tells how data files came to their place; `None`: rows were loaded.
    pub fn filled(&self) -> Option<&Filled> {
        self.record.loaded.filled.as_ref()
    }
}

/// Writers are stopped, known, and will not start by themselves.
#[derive(Debug)]
pub struct Quiesced {
    writers: Vec<Remembered>,
}

impl Quiesced {
    /// Lists the writers as they were before.
    pub fn writers(&self) -> &[Remembered] {
        &self.writers
    }
}

/// Production's name leads to the restored data; the exchange tells where the old data is.
#[derive(Debug)]
pub struct Swapped {
    exchange: Exchange,
    server: Vec<Remembered>,
}

impl Swapped {
    /// Tells which volumes were exchanged.
    pub fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// Lists the database's containers as they were before.
    pub fn server(&self) -> &[Remembered] {
        &self.server
    }
}

/// Opens the newest backup for comparison, where there is a readable one.
///
/// # Errors
/// The repository did not answer: a database is not called healthy because nobody could look for what it lacks.
pub(super) async fn newest(catalog: &Catalog) -> Result<Option<BackupReader>> {
    let opened = async { catalog.open(&catalog.select(&Selector::Latest).await?.place).await };
    match opened.await {
        Ok(reader) => Ok(Some(reader)),
        Err(e) if matches!(e.kind(), ErrorKind::Unreachable | ErrorKind::Timeout | ErrorKind::Authentication) => {
            Err(e.during("cannot look for the newest backup"))
        }
        Err(_) => Ok(None),
    }
}

/// Makes sure that the backup can be decrypted, before users lose their service over a key that is not there. Whatever
/// else is wrong with it is for [`check_backup`].
///
/// # Errors
/// `Precondition`, `Authentication`: no identity here opens it; the error says which do.
pub(super) async fn check_identity(run: &Run, parts: &Parts, wanted: &Selector, kind: WantedKind) -> Result<()> {
    let (catalog, wanted) = (parts.catalog.clone(), wanted.clone());
    run.step("check-identity")
        .effect(Effect::Observe)
        .timeout(mins(5))
        .run(async move |_| {
            let Ok(info) = choice::select(&catalog, &wanted, kind).await else { return Ok(()) };
            let Ok(reader) = catalog.open(&info.place).await else { return Ok(()) };
            reader.check_identity()
        })
        .await
}

/// Chooses a backup and proves its bytes.
///
/// # Errors
/// `Corrupt`: it cannot be trusted; the hint names the one before it and what falling back to it would cost.
/// `Conflict`: it belongs to another system. `Unsupported`: this server cannot take it. `InvalidInput`: it is of another kind
/// than asked for.
pub async fn check_backup(run: &Run, parts: &Parts, site: &Site, wanted: Wanted<'_>) -> Result<CheckedBackup> {
    if let Selector::Legacy(name) = wanted.backup {
        return legacy::check_backup(run, parts, site, name).await;
    }
    // Kept: a resumed run must not slide to a backup that was taken in between.
    let choice::Chosen { place, why } = run.decide("choose-backup", choice::choose(parts, site, wanted)).await?;
    let (catalog, id) = (parts.catalog.clone(), place.id.to_string());
    let info: BackupInfo = run
        .step("look-up-backup")
        .effect(Effect::Observe)
        .kept()
        .timeout(mins(5))
        .run(async move |_| catalog.select(&Selector::Id(id)).await)
        .await?;

    let (catalog, ops, production) = (parts.catalog.clone(), site.ops.clone(), site.production.clone());
    let input = place.clone();
    let checked: Result<Contents> = run
        .step("verify-backup")
        .effect(Effect::Observe)
        // Loading hashes every part again, and after the candidate was compared nobody reads the backup any more.
        .kept()
        .input(&input)
        .work(Work::new(info.stored_len, VERIFY_RATE))
        .budget(mins(5))
        .timeout(mins(60))
        .run(async move |cx| {
            let reader = catalog.open(&place).await?;
            reader.check_identity()?;
            ops.check_compatible(&Source::Repository(reader.clone()), &production).await?;
            let progress = |p: catalog::Progress| cx.progress(p.done, Some(p.total));
            let report = catalog::verify(&reader, Level::L2, &progress).await?.into_result()?;
            let (loaded, verified) = (Loaded::expected(&reader).await?, Verified::expected(&reader).await?);
            Ok(Contents {
                report: Some(report),
                legacy: None,
                loaded,
                verified,
                objects_from_copy: reader.objects_from_copy(),
            })
        })
        .await;
    match checked {
        Ok(contents) => {
            let mut info = info;
            if contents.objects_from_copy > 0 {
                let number = contents.objects_from_copy;
                info.warnings.push(format!("{number} damaged objects were read from the copy"));
            }
            let opener = Opener::Repository(parts.catalog.clone(), info.place.clone());
            Ok(CheckedBackup { origin: Origin::Repository(Box::new(info)), opener, contents, why })
        }
        Err(e) if e.kind() == ErrorKind::Corrupt => Err(offer_previous(&parts.catalog, &info, e).await),
        Err(e) => Err(e),
    }
}

/// Adds the way out to the error of a backup that cannot be trusted: an older one, and what it costs.
async fn offer_previous(catalog: &Catalog, bad: &BackupInfo, error: Error) -> Error {
    let error = error.during(format!("backup {} cannot be trusted", bad.id()));
    match catalog.select(&Selector::Before(bad.id())).await {
        Ok(previous) => error.hint(format!(
            "production is untouched; `--backup {}` is the one before, of {}: it loses {} min more",
            previous.id(),
            previous.point.format("%F %T UTC"),
            (bad.point - previous.point).num_minutes().max(1),
        )),
        Err(_) => error.hint("production is untouched; there is no older backup in this repository"),
    }
}

/// Restores a backup into a server beside production. Needs no outage.
///
/// # Errors
/// `Corrupt`: the backup was damaged since it was checked; the hint names the one before it.
pub async fn restore_beside(run: &Run, site: &Arc<Site>, backup: &CheckedBackup) -> Result<Candidate> {
    let (building, clearing, opener) = (site.clone(), site.clone(), backup.opener.clone());
    let expected = CandidateRecord {
        container: site.container_name(),
        volume: VolumeIdentity { volume: site.volume_name(), device: 0, inode: 0 },
        loaded: backup.contents.loaded.clone(),
    };
    let built = run
        .step("restore-beside")
        // Building begins by removing what an earlier attempt left, so doing it again is harmless.
        .effect(Effect::Idempotent)
        .input(&backup.origin.name())
        .predict(move || expected)
        .work(Work::new(backup.origin.plain_len(), LOAD_RATE).fixed(FIRST_START))
        .budget(mins(10))
        .timeout(mins(240))
        // A candidate that died may have been killed for memory; one more is built from nothing.
        .retry(1, Duration::from_secs(2))
        .undo_text(site.purpose.undo_text())
        .undo_with(async move |_, _| clearing.clear().await)
        .run(async move |cx| {
            let source = opener.open().await?;
            building.build(&source, Arc::new(move |done, total| cx.progress(done, total))).await
        })
        .await;
    match built {
        Ok(record) => Ok(Candidate { record }),
        Err(e) if e.kind() == ErrorKind::Corrupt => Err(match (&backup.origin, &backup.opener) {
            (Origin::Repository(info), Opener::Repository(catalog, _)) => offer_previous(catalog, info, e).await,
            _ => e.during(format!("backup {} cannot be trusted", backup.origin.name())),
        }),
        Err(e) => Err(e),
    }
}

/// Compares the candidate with its backup: schemas, tables, rows, checksums, objects, accounts.
///
/// # Errors
/// `Corrupt`: they differ; the differences are named.
pub async fn verify_candidate(
    run: &Run,
    site: &Arc<Site>,
    candidate: Candidate,
    backup: &CheckedBackup,
) -> Result<VerifiedCandidate> {
    let (comparing, container) = (site.clone(), candidate.record.container.clone());
    let opener = backup.opener.clone();
    let expected = backup.contents.verified.clone();
    let verified = run
        .step("verify-candidate")
        // Kept, not asked again on resume: after the swap the candidate is gone.
        .effect(Effect::Idempotent)
        .undo(Undo::Unnecessary("it only reads"))
        .input(&candidate.record.volume)
        .predict(move || expected)
        .work(Work::new(backup.origin.plain_len(), COMPARE_RATE).fixed(Duration::from_secs(2)))
        .budget(mins(5))
        .timeout(mins(120))
        .run(async move |cx| {
            let source = opener.open().await?;
            let progress = Arc::new(move |done, total| cx.progress(done, total));
            comparing.ops.verify(&container, &source, progress).await
        })
        .await?;
    Ok(VerifiedCandidate { record: candidate.record, verified })
}

/// Notes every writer as it is, once.
pub(super) async fn remember_writers(run: &Run, parts: &Parts) -> Result<Vec<Remembered>> {
    let services: Vec<String> = parts.system.writers().into_iter().map(str::to_owned).collect();
    run.decide("remember-writers", async { quiesce::remember(&*parts.backend, &services).await }).await
}

/// Stops the writers and proves that nobody is connected.
///
/// # Errors
/// `Conflict`: a writer runs again, or a client is still connected.
pub async fn quiesce(run: &Run, parts: &Parts, site: &Arc<Site>) -> Result<Quiesced> {
    let writers = remember_writers(run, parts).await?;
    let (stopping, starting, proving) = (parts.backend.clone(), parts.backend.clone(), site.clone());
    let (to_stop, to_start, to_prove) = (writers.clone(), writers.clone(), writers.clone());
    let grace = parts.system.application.stop_grace;
    run.step("stop-writers")
        .effect(Effect::Idempotent)
        .input(&writers)
        .predict(|| 0)
        .budget(mins(2))
        .timeout(grace * 4 + mins(2))
        .undo_text("start the writers that ran, with their restart policies")
        .undo_with(async move |_, _: Option<u32>| quiesce::start_again(&starting, &to_start, mins(5)).await)
        .run(async move |_| quiesce::stop(&*stopping, &to_stop, grace).await)
        .verify(async move |_, _| {
            quiesce::prove_stopped(&*proving.backend, &to_prove).await?;
            prove_no_clients(&proving).await
        })
        .await?;
    Ok(Quiesced { writers })
}

/// Reads the counters again now that nobody writes: ids were handed out while the candidate was built. A server that
/// does not answer leaves those that were read before.
pub(super) async fn read_counters(run: &Run, site: &Arc<Site>, assessment: &Assessment) -> Result<NextIds> {
    let (reading, seen, predicted) = (site.clone(), assessment.clone(), assessment.next_ids.clone());
    run.step("read-counters")
        // Kept, not asked again on resume: after the swap the answer is another.
        .effect(Effect::Idempotent)
        .undo(Undo::Unnecessary("it only reads"))
        .predict(move || predicted)
        .budget(mins(1))
        .timeout(mins(3))
        .run(async move |cx| {
            let mut next = seen.next_ids;
            let name = &reading.production.container;
            // A server that is down, or restarts again and again, is not waited for: users are.
            if !reading.backend.container(name).await?.is_some_and(|c| c.is_ready()) {
                cx.note("the server does not serve: the counters are as old as the assessment");
                return Ok(next);
            }
            match reading.ops.next_ids(name).await {
                Ok(now) => {
                    for (table, id) in now {
                        // What a damaged table says of itself proves nothing.
                        if !seen.corrupt_tables.contains(&table) {
                            let known = next.entry(table).or_insert(id);
                            *known = id.max(*known);
                        }
                    }
                }
                Err(error) => cx.note(format!("the counters are as old as the assessment: {error}")),
            }
            Ok(next)
        })
        .await
}

/// Proves by the server's own list that nobody else is connected; a server that does not answer has nobody.
async fn prove_no_clients(site: &Site) -> Result<String> {
    let name = &site.production.container;
    if !site.backend.container(name).await?.is_some_and(|c| c.is_ready()) {
        return Ok("the server does not serve".into());
    }
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        match site.ops.clients(name).await {
            Ok(clients) if clients.is_empty() => return Ok("no client is connected".into()),
            Ok(clients) if tokio::time::Instant::now() > end => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "clients are still connected although the writers stopped",
                )
                .with("clients", clients.join("; "))
                .hint("stop them, or name their services in `application.workers`, then resume"));
            }
            // A damaged server may not answer; the writers that are known do not run.
            Err(e) => return Ok(format!("the server could not be asked: {e}")),
            Ok(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

/// Puts the candidate's data in production's place; what production had stays under the candidate's volume name.
///
/// # Errors
/// `Failed`: the candidate did not shut down cleanly. `Conflict`: a volume is not what it was, or in use.
pub async fn swap_in(
    run: &Run,
    parts: &Parts,
    site: &Arc<Site>,
    candidate: VerifiedCandidate,
    quiesced: &Quiesced,
    approval: Approval<ReplaceProductionDatabase>,
) -> Result<Swapped> {
    let grace = parts.system.database.stop_grace;
    let retiring = site.clone();
    run.step("retire-candidate")
        .effect(Effect::Idempotent)
        .undo(Undo::Unnecessary("the candidate's volume stays"))
        .predict(|| ())
        .budget(mins(1))
        .timeout(grace + mins(2))
        .run(async move |_| retiring.retire(grace).await)
        .await?;
    let server = stop_database(run, parts).await?;

    let exchange = Exchange { production: site.original.clone(), candidate: candidate.record.volume };
    let (making, looking, undoing) = (parts.backend.clone(), parts.backend.clone(), parts.backend.clone());
    let (to_make, to_look, to_undo, predicted, told) =
        (exchange.clone(), exchange.clone(), exchange.clone(), exchange.clone(), exchange.clone());
    let service = parts.system.database.service.clone();
    let writers = quiesced.writers.clone();
    let exchange = run
        .step("swap-volumes")
        .effect(Effect::Destructive)
        .approved(approval)
        .input(&exchange)
        .predict(move || predicted)
        .budget(mins(1))
        .timeout(mins(5))
        .undo_text("stop the database and exchange the volumes' contents back: the old data is in place again")
        .undo_with(async move |_, _| {
            undoing.stop(&service, grace).await?;
            to_undo.take_back(&*undoing).await
        })
        .reconcile(async move |_| to_look.observe(&*looking).await)
        .derive(async move |_| Ok(told))
        .run(async move |_| {
            // Somebody's deployment may have started them since: what they write now would be left behind.
            quiesce::prove_stopped(&*making, &writers).await?;
            to_make.make(&*making).await?;
            Ok(to_make)
        })
        .await?;
    Ok(Swapped { exchange, server })
}

async fn stop_database(run: &Run, parts: &Parts) -> Result<Vec<Remembered>> {
    let service = [parts.system.database.service.clone()];
    let server = run.decide("remember-database", async { quiesce::remember(&*parts.backend, &service).await }).await?;
    let grace = parts.system.database.stop_grace;
    let (stopping, starting, to_stop, to_start) =
        (parts.backend.clone(), parts.backend.clone(), server.clone(), server.clone());
    run.step("stop-database")
        .effect(Effect::Idempotent)
        .input(&server)
        .predict(|| 0)
        .budget(mins(1))
        .timeout(grace + mins(2))
        .undo_text("start the database if it ran, with its restart policy")
        .undo_with(async move |_, _: Option<u32>| quiesce::start_again(&starting, &to_start, mins(5)).await)
        .run(async move |_| quiesce::stop(&*stopping, &to_stop, grace).await)
        .await?;
    Ok(server)
}

/// Reads how far the restored data really reaches.
pub(super) async fn newest_rows(run: &Run, parts: &Parts, site: &Site) -> Result<BTreeMap<String, String>> {
    let (ops, container) = (parts.database.clone(), site.production.container.clone());
    run.step("read-newest-rows")
        .effect(Effect::Observe)
        .predict(BTreeMap::new)
        .budget(mins(1))
        .timeout(mins(10))
        .run(async move |_| ops.newest_rows(&container).await)
        .await
}

/// Measures the volume that now holds the old data.
pub(super) async fn measure_kept(run: &Run, parts: &Parts, swapped: &Swapped) -> Result<KeptVolume> {
    let (backend, volume) = (parts.backend.clone(), swapped.exchange.candidate.volume.clone());
    let predicted = KeptVolume { volume: volume.clone(), bytes: 0 };
    run.step("measure-kept-volume")
        .effect(Effect::Observe)
        .predict(move || predicted)
        .budget(mins(1))
        .timeout(mins(10))
        .run(async move |_| {
            let bytes = backend.measure_volume(&volume).await?.bytes;
            Ok(KeptVolume { volume, bytes })
        })
        .await
}
