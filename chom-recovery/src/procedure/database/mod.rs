//! Runbook 3.1, database recovery, the safe way.
//!
//! The backup is restored *beside* production, compared with its manifest there, and only then takes production's
//! place; what production had before stays in a volume named after the run. Each phase is a function of its own, so
//! that other procedures and drills combine them. The dangerous order does not compile: a phase takes the proof that
//! an earlier phase returned.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use self::{
    ops::{Assessment, BackUp, Finding, Production},
    report::Facts,
    service::Unstarted,
};
use super::{
    Parts,
    maintenance::{MaintenanceRecord, Method},
    proof::{moment, tolerant},
    quiesce::Remembered,
};
use crate::{
    backend::{BackendExt, VolumeIdentity},
    catalog::{self, BackupId, BackupInfo, HostId, Level, Selector, Signer, VerifyReport},
    error::{Error, ErrorKind, Result},
    probe::HealthMode,
    run::{Approvable, Effect, Item, Run, Undo, Work},
    store::pipe,
    system::DATABASE,
};

pub mod candidate;
mod choice;
pub mod jobs;
pub(in crate::procedure) mod legacy;
pub mod mysql_ops;
pub mod ops;
mod report;
mod restore;
mod service;
pub mod source;
pub(in crate::procedure) mod space;
pub mod swap;

pub use candidate::{CandidateRecord, Site};
pub use choice::{Chosen, Wanted, WantedKind};
pub use report::{DatabaseReport, KeptVolume, Restored};
pub use restore::{
    Candidate, CheckedBackup, Quiesced, Swapped, VerifiedCandidate, check_backup, quiesce, restore_beside, swap_in,
    verify_candidate,
};
pub use source::{LegacyDump, Origin, Source};
pub use space::check_space;

/// Name of the procedure in journals.
pub const PROCEDURE: &str = "recover-database";

/// Things that a salvaged backup lacks which a question names.
const LACKING: usize = 8;

const fn mins(minutes: u64) -> Duration {
    Duration::from_mins(minutes)
}

/// What to recover from, and how much of the runbook to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Which backup.
    pub backup: Selector,
    /// Which kind of backup, where that names no single one.
    #[serde(default, skip_serializing_if = "ops::is_default")]
    pub kind: WantedKind,
    /// With triage and maintenance mode (`recover`) or without (`restore`).
    pub extent: Extent,
    /// When the incident began; `None` takes the begin of the run. The achieved RPO counts back from here.
    pub incident_began: Option<DateTime<Utc>>,
}

/// How much of the runbook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// Everything: checklist, triage, maintenance mode, soak, new backup.
    Recover,
    /// Candidate, verification, approval and swap, whatever state production is in. Maintenance mode stays as it is.
    Restore,
}

/// Marks an approval to replace production's data.
#[derive(Debug)]
pub struct ReplaceProductionDatabase;

impl Approvable for ReplaceProductionDatabase {
    const NAME: &'static str = "replace-production-database";
}

/// Recovers the database: runbook 3.1 from the checklist to the new backup.
///
/// # Errors
/// Where a phase fails, the run stops there in a safe state; `resume` goes on, `rollback` undoes. Among others
/// `Precondition`: a restore is not the cure (refused credentials, a full disk), `Corrupt`: the chosen backup cannot
/// be trusted and the hint names the one before it, `NeedsConfirmation`: the run waits for an approval.
pub async fn recover(run: &Run, parts: &Parts, request: &Request) -> Result<DatabaseReport> {
    let run = run.scope("database").budget(parts.system.objectives.database.rto);
    let began = moment(&run, "began").await?;
    if request.kind != WantedKind::Auto {
        run.decide("check-kind", choice::check_kind(&parts.catalog, &request.backup, request.kind)).await?;
    }
    let site = Arc::new(survey(&run, parts).await?);
    // Now: where this cannot be done, nothing must be stopped for it.
    run.decide("check-exchangeable", parts.backend.check_exchangeable(&site.original.volume)).await?;

    if request.extent == Extent::Recover {
        checklist(&run, parts).await?;
    }
    let mut assessment = assess(&run, parts, &site).await?;
    let maintenance = if request.extent == Extent::Recover {
        // Before anything is touched: users of a database that needs no restore keep their service.
        let finding = decide_cure(&run, &assessment).await?;
        if finding != Finding::Stopped {
            restore::check_identity(&run, parts, &request.backup, request.kind).await?;
        }
        super::evidence::gather(&run, parts).await?;
        let switched = maintenance_on(&run, parts).await?;
        if finding == Finding::Stopped {
            assessment = start_as_found(&run, parts, &site).await?;
        }
        Some(switched)
    } else {
        maintenance_as_found(&run, parts).await?
    };

    let started_is_cured = request.extent == Extent::Recover && assessment.finding == Finding::Healthy;
    let (restored, proven) = if started_is_cured {
        let writers = restore::remember_writers(&run, parts).await?;
        let since = service::prove_database(&run, parts).await?;
        let proven = service::start(&run, parts, &writers, maintenance.as_ref(), since, Unstarted::AsFound).await?;
        (None, proven)
    } else {
        let Replaced { restored, proof, writers, since } =
            Box::pin(replace(&run, parts, &site, request, began, &assessment)).await?;
        let proven = service::start(&run, parts, &writers, maintenance.as_ref(), since, Unstarted::Stopped).await?;
        if let Some(proof) = proof {
            record_recovery(&run, parts, proof, !proven.users_stay_out).await?;
        }
        (Some(restored), proven)
    };
    let new_backup = match request.extent {
        Extent::Recover => back_up_again(&run, parts, &site, restored.as_ref()).await?,
        Extent::Restore => None,
    };
    let facts = Facts { began, incident_began: request.incident_began, assessment, restored, proven, new_backup };
    Ok(report::conclude(parts, facts))
}

/// What a replaced database came from, and what is to be started on it.
struct Replaced {
    restored: Restored,
    /// What reading every byte of the backup in its repository found; `None`: there is nothing to keep a record of.
    proof: Option<(BackupInfo, VerifyReport)>,
    writers: Vec<Remembered>,
    since: DateTime<Utc>,
}

/// Puts a backup in the place of production's data, and brings the database up on it.
async fn replace(
    run: &Run,
    parts: &Parts,
    site: &Arc<Site>,
    request: &Request,
    began: DateTime<Utc>,
    assessment: &Assessment,
) -> Result<Replaced> {
    let wanted = Wanted {
        backup: &request.backup,
        kind: request.kind,
        assessment: Some(assessment),
        incident: request.incident_began.unwrap_or(began),
    };
    let backup = check_backup(run, parts, site, wanted).await?;
    check_space(run, parts, site, &backup).await?;
    let candidate = restore_beside(run, site, &backup).await?;
    let candidate = verify_candidate(run, site, candidate, &backup).await?;
    let approval = run
        .approve::<ReplaceProductionDatabase>(&format!(
            "replace the database of project `{}` on {}, in `{}`, with backup {}, {}{}; what it holds now is kept",
            parts.backend.project(),
            parts.backend.engine_address(),
            site.original.volume,
            backup.origin().name(),
            described(backup.origin()),
            if backup.why().is_empty() { String::new() } else { format!(" ({})", backup.why()) },
        ))
        .await?;
    let quiesced = quiesce(run, parts, site).await?;
    let next_ids = restore::read_counters(run, site, assessment).await?;
    let (verified, filled) = (candidate.verified().clone(), candidate.filled().cloned());
    let swapped = swap_in(run, parts, site, candidate, &quiesced, approval).await?;
    service::start_database(run, parts, &swapped).await?;
    let since = service::prove_database(run, parts).await?;
    let raised = service::raise_counters(run, parts, site, next_ids).await?;
    let held = service::hold_jobs(run, parts, quiesced.writers()).await?;
    let kept = restore::measure_kept(run, parts, &swapped).await?;
    let newest_rows = restore::newest_rows(run, parts, site).await?;
    let writers = swapped.server().iter().chain(quiesced.writers()).cloned().collect();
    let chosen_because = backup.why().to_owned();
    let restored =
        Restored { backup: backup.origin().clone(), chosen_because, verified, filled, kept, newest_rows, raised, held };
    Ok(Replaced { restored, proof: backup.proof(), writers, since })
}

/// Tells of what time the data is; for a legacy backup also what nobody signed for.
fn described(origin: &Origin) -> String {
    let point = origin.point().format("%F %T UTC");
    match origin {
        Origin::Repository(info) if info.is_salvaged => {
            let shown = info.warnings.iter().take(LACKING).cloned().collect::<Vec<_>>().join("; ");
            format!("{point}; it was salvaged from a damaged server: {shown}")
        }
        Origin::Repository(_) => point.to_string(),
        Origin::Legacy(backup) => format!("{point}; a legacy backup: {}", backup.warnings.join("; ")),
    }
}

/// Finds the database container and its volume, once: a resumed run works on what the first one saw.
///
/// # Errors
/// `NotFound`: the service has no container. `Precondition`: it has several. `Unsupported`: its data lies in the container
/// itself.
pub async fn survey(run: &Run, parts: &Parts) -> Result<Site> {
    let (production, original): (Production, VolumeIdentity) = run
        .decide("survey", async {
            let database = &parts.system.database;
            let mut containers = parts.backend.service_containers(&database.service).await?;
            if containers.len() > 1 {
                return Err(Error::new(
                    ErrorKind::Precondition,
                    format!("service `{}` has {} containers; which is production?", database.service, containers.len()),
                )
                .hint("scale it to one"));
            }
            let container = containers.remove(0);
            let Some(data) = container.data_at(&database.data_dir) else {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("`{}` has no volume or folder at `{}`", container.name, database.data_dir),
                )
                .hint("set `database.data_dir` to the path at which its data is mounted"));
            };
            let original = parts.backend.volume_identity(data).await?;
            let environment = parts.backend.environment(&container.name).await?;
            let mut production = Production::of(&container, &database.data_dir);
            production.time_zone = environment.get("TZ").map(str::to_owned);
            Ok((production, original))
        })
        .await?;
    Ok(Site {
        backend: parts.backend.clone(),
        ops: parts.database.clone(),
        production,
        original,
        run_id: run.id().to_string(),
        purpose: candidate::Purpose::Swap,
    })
}

/// The runbook's pre-recovery checklist: probes and attestations.
async fn checklist(run: &Run, parts: &Parts) -> Result<()> {
    let mut items = vec![
        Item::attest("incident", "the incident is identified: symptom, begin, impact", "incident commander"),
        Item::attest("stakeholders", "stakeholders know that a recovery begins", "incident commander"),
    ];
    for probe in parts.application.probes(HealthMode::PreRecovery, None) {
        // What the recovery is there to mend cannot be a condition for beginning it.
        if matches!(probe.name(), "disk" | "store") {
            items.push(Item::probe(format!("`{}` is in order", probe.name()), tolerant(probe)));
        }
    }
    run.scope("pre-recovery").checklist(&items).await
}

/// Asks whether maintenance mode is on, once: an attempt that was killed may have switched it on already.
async fn remember_maintenance(run: &Run, parts: &Parts) -> Result<bool> {
    run.decide("remember-maintenance", async { parts.application.is_in_maintenance().await }).await
}

/// A restore switches no maintenance mode. One that is on stays on, and the service is proven behind it.
async fn maintenance_as_found(run: &Run, parts: &Parts) -> Result<Option<MaintenanceRecord>> {
    let was_on = remember_maintenance(run, parts).await?;
    Ok(was_on.then(|| MaintenanceRecord { was_down_before: true, ..MaintenanceRecord::expected() }))
}

async fn maintenance_on(run: &Run, parts: &Parts) -> Result<MaintenanceRecord> {
    let was_on = remember_maintenance(run, parts).await?;
    let as_found = move |record: MaintenanceRecord| MaintenanceRecord { was_down_before: was_on, ..record };
    let (on, off) = (parts.application.clone(), parts.application.clone());
    run.step("maintenance-on")
        .effect(Effect::Idempotent)
        .predict(move || as_found(MaintenanceRecord::expected()))
        .budget(mins(1))
        .timeout(mins(3))
        .undo_text("switch maintenance mode off, unless it was on before")
        .undo_with(async move |_, record: Option<MaintenanceRecord>| match record {
            // Where nothing ran, nothing was switched.
            Some(record) if record.method == Method::NotRunning => Ok(()),
            Some(record) => off.maintenance_off(&as_found(record)).await,
            None => off.maintenance_off(&as_found(MaintenanceRecord::expected())).await,
        })
        .run(async move |_| on.maintenance_on().await.map(as_found))
        .await
}

/// Looks at the database from all sides.
async fn assess(run: &Run, parts: &Parts, site: &Arc<Site>) -> Result<Assessment> {
    let (catalog, looking) = (parts.catalog.clone(), site.clone());
    let seen: Assessment = run
        .step("assess")
        .effect(Effect::Observe)
        .kept()
        .budget(mins(5))
        .timeout(mins(10))
        .run(async move |_| looking.ops.assess(&looking.production, restore::newest(&catalog).await?.as_ref()).await)
        .await?;
    // Kept: after the swap the same question has another answer.
    let (keep, predicted) = (seen.clone(), seen.lasting());
    let summary = seen.summary.clone();
    let mut kept: Assessment = run
        .step("keep-assessment")
        .effect(Effect::Idempotent)
        .undo(Undo::Unnecessary("it only takes a note"))
        .predict(move || predicted)
        .run(async move |_| Ok(keep))
        .await?;
    if kept.summary.is_empty() {
        // A plan leaves it out of what it is bound to; a person wants to read it all the same.
        kept.summary = summary;
    }
    Ok(kept)
}

/// Refuses a restore that would not be the cure. The answer is kept for resumed runs.
async fn decide_cure(run: &Run, assessment: &Assessment) -> Result<Finding> {
    let refuse = |why: &str, hint: &str| {
        Err(Error::new(ErrorKind::Precondition, format!("a restore is not the cure: {why}"))
            .with("seen", &assessment.summary)
            .hint(hint))
    };
    let choose = async {
        match assessment.finding {
            Finding::Damaged | Finding::DataMissing | Finding::Stopped | Finding::Unclear => Ok(assessment.finding),
            Finding::CredentialsRefused => refuse(
                "the server runs and refuses the credentials of the configuration",
                "correct `database.password`; no data is lost",
            ),
            Finding::DiskFull => refuse("the disk of the database is full", "free space, then look again"),
            Finding::Healthy => refuse(
                "the database answers, and nothing of the newest backup is missing or corrupt",
                "`chom-recovery diagnose` looks for other causes; `chom-recovery restore` replaces healthy data as well",
            ),
        }
    };
    run.decide("cure", choose).await
}

/// A server that merely stopped may need no more than a start. What it says then decides.
async fn start_as_found(run: &Run, parts: &Parts, site: &Arc<Site>) -> Result<Assessment> {
    let (backend, catalog, site) = (parts.backend.clone(), parts.catalog.clone(), site.clone());
    let (service, stopping, to_stop) =
        (parts.system.database.service.clone(), parts.backend.clone(), parts.system.database.clone());
    run.step("start-as-found")
        .effect(Effect::Idempotent)
        // Planned for is the worse case: that starting is not enough.
        .predict(|| Assessment::of(Finding::Damaged, "planned for"))
        .budget(mins(2))
        .timeout(mins(10))
        .undo_text("stop the database again")
        .undo_with(async move |_, _| stopping.stop(&to_stop.service, to_stop.stop_grace).await.map(drop))
        .run(async move |_| {
            let started = backend.start(&service, mins(2)).await;
            let mut seen = site.ops.assess(&site.production, restore::newest(&catalog).await?.as_ref()).await?;
            if let Err(error) = started {
                seen.summary = format!("{}; starting it: {error}", seen.summary);
                if seen.finding == Finding::Stopped {
                    seen.finding = Finding::Damaged;
                }
            }
            Ok(seen)
        })
        .await
}

/// Keeps with the backup that it was restored and compared, as a drill does, and where another host had made it and users
/// are served from it, that a whole recovery was done elsewhere. That this cannot be kept is no reason to call the recovery failed.
async fn record_recovery(
    run: &Run,
    parts: &Parts,
    (backup, report): (BackupInfo, VerifyReport),
    users_are_served: bool,
) -> Result<()> {
    let (catalog, system, backend) = (parts.catalog.clone(), parts.system.clone(), parts.backend.clone());
    let id = run.id().to_string();
    run.step("record-recovery")
        .effect(Effect::Idempotent)
        .undo(Undo::Unnecessary("what was found out stays true"))
        .predict(|| None)
        .budget(mins(1))
        .timeout(mins(5))
        .run(async move |cx| {
            let recording = async {
                let is_elsewhere = HostId::derive(&backend.engine().await?.id) != backup.place.host;
                let level = if is_elsewhere && users_are_served { Level::L4 } else { Level::L3 };
                let report = VerifyReport { level, ended: Utc::now(), ..report };
                let signer = pipe::blocking(move || Signer::load(&system.state_dir(), &system.id)).await?;
                Ok::<_, Error>(
                    catalog::record(catalog.repository(), &signer, &backup.place, report, Some(id)).await?.id,
                )
            };
            let unrecorded = |error| {
                cx.note(format!("that users are served from the backup is not kept with it: {error}"));
                None
            };
            Ok(recording.await.map_or_else(unrecorded, Some))
        })
        .await
        .map(|_: Option<BackupId>| ())
}

/// Takes and verifies a backup of what now serves: the old ones no longer lead up to it.
async fn back_up_again(
    run: &Run,
    parts: &Parts,
    site: &Arc<Site>,
    restored: Option<&Restored>,
) -> Result<Option<BackupId>> {
    let (ops, production) = (parts.database.clone(), site.production.clone());
    let request = BackUp {
        tags: vec!["after-recovery".into()],
        run: Some(run.id().to_string()),
        components: vec![DATABASE.into()],
        ..BackUp::default()
    };
    let mut step = run.step("back-up-again");
    if let Some(restored) = restored {
        step = step.work(Work::new(restored.backup.plain_len(), restore::DUMP_RATE).fixed(Duration::from_secs(5)));
    }
    step.effect(Effect::Idempotent)
        .undo(Undo::Unnecessary("a backup harms nobody"))
        .predict(|| None)
        .budget(mins(5))
        .timeout(mins(240))
        .run(async move |cx| {
            let progress = Arc::new(move |done, total| cx.progress(done, total));
            Ok(Some(ops.back_up(&production, &request, progress).await?.id()))
        })
        .await
}
