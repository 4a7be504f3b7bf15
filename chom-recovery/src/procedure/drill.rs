//! A drill: the newest backup is restored beside production, compared, shut down and thrown away, against the clock.
//!
//! Only a drill proves that a backup can be restored. It needs no outage and no approval, since production is not
//! touched: its candidate has a volume of its own, and a network without a way out, so that nothing of what it holds
//! (events, mails, queues) can reach anybody.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{
    Parts,
    database::{self, CheckedBackup, Site, Wanted, WantedKind, ops::Verified},
    proof::moment,
};
use crate::{
    catalog::{self, BackupId, BackupInfo, Finding, Level, Selector, Signer, VerifyReport},
    error::{ErrorKind, Result},
    objective::Achieved,
    run::{Effect, Run, Undo},
    store::pipe,
    system::DATABASE,
};

/// Name of the procedure in journals.
pub const PROCEDURE: &str = "drill";

/// What to rehearse with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Which backup.
    pub backup: Selector,
    /// Which kind of backup, where that names no single one.
    #[serde(default)]
    pub kind: WantedKind,
}

/// What a drill measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillReport {
    /// Backup, as verified to [`Level::L3`] now.
    pub backup: BackupInfo,
    /// What was compared with the backup.
    pub verified: Verified,
    /// From the begin of the drill to a server that holds the backup and was proven equal to it. A recovery takes the
    /// swap and the start of the application on top of that.
    pub rto: Achieved,
    /// Age of the backup's data when the drill began: what an incident would have cost then.
    pub rpo: Achieved,
    /// Signed record of the result in the repository.
    pub record: BackupId,
}

/// Rehearses a recovery of the database, and leaves nothing behind but the signed result.
///
/// Where it fails, what it built is removed all the same.
///
/// # Errors
/// `Corrupt`: the backup cannot be restored, or is not equal to its manifest; this is recorded with it, so that it no
/// longer counts as verified. `NoSpace`: there is no room for a candidate.
pub async fn rehearse(run: &Run, parts: &Parts, request: &Request) -> Result<DrillReport> {
    let scope = run.scope("drill").budget(parts.system.objectives.database.rto);
    // What a copy had to make up for is not proven of the repository.
    let parts = Parts { catalog: Arc::new(parts.catalog.as_ref().clone().with_copy(None)), ..parts.clone() };
    match rehearse_in(&scope, &parts, request).await {
        // Whatever went wrong, nobody resumes a drill: the next one begins from nothing.
        Err(error) => match run.roll_back("a drill leaves nothing behind").await {
            Ok(_) => Err(error),
            Err(left) => Err(error.with("left behind", left)),
        },
        done => done,
    }
}

async fn rehearse_in(run: &Run, parts: &Parts, request: &Request) -> Result<DrillReport> {
    let began = moment(run, "began").await?;
    let site = Arc::new(database::survey(run, parts).await?.for_drill());
    sweep(run, &site).await?;
    let wanted = Wanted { backup: &request.backup, kind: request.kind, assessment: None, incident: began };
    let backup = database::check_backup(run, parts, &site, wanted).await?;
    let (info, proof) = backup.in_repository()?;
    database::check_space(run, parts, &site, &backup).await?;
    match prove(run, parts, &site, &backup).await {
        Ok(verified) => {
            let proven_at = moment(run, "proven").await?;
            let report = VerifyReport { level: Level::L3, ended: proven_at, ..proof.clone() };
            let record = record(run, parts, info, "record-result", report).await?;
            discard(run, &site).await?;
            Ok(conclude(parts, info, verified, (began, proven_at), record))
        }
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            let failed_at = moment(run, "failed").await?;
            let finding = Finding { component: DATABASE.parse()?, part: None, error: error.to_record() };
            let report = VerifyReport {
                level: Level::L3,
                ended: failed_at,
                findings: vec![finding],
                findings_total: 1,
                ..proof.clone()
            };
            record(run, parts, info, "record-failure", report).await?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// Restores, compares, and shuts down as a server does that is to be started again.
async fn prove(run: &Run, parts: &Parts, site: &Arc<Site>, backup: &CheckedBackup) -> Result<Verified> {
    let candidate = database::restore_beside(run, site, backup).await?;
    let verified = database::verify_candidate(run, site, candidate, backup).await?.verified().clone();
    shut_down(run, parts, site).await?;
    Ok(verified)
}

/// Shuts the candidate down: one that cannot end cleanly could not be swapped in.
async fn shut_down(run: &Run, parts: &Parts, site: &Arc<Site>) -> Result<()> {
    let (site, grace) = (site.clone(), parts.system.database.stop_grace);
    run.step("shut-down-candidate")
        .effect(Effect::Idempotent)
        .undo(Undo::Unnecessary("the candidate is removed"))
        .predict(|| ())
        .budget(Duration::from_mins(1))
        .timeout(grace + Duration::from_mins(2))
        .run(async move |_| site.end(grace).await)
        .await
}

/// Removes what runs of this purpose left that were killed. None of them can be running: this one holds the system's lock.
pub(super) async fn sweep(run: &Run, site: &Arc<Site>) -> Result<u64> {
    let site = site.clone();
    run.step("sweep")
        .effect(Effect::Idempotent)
        .undo(Undo::Unnecessary("a killed run left what nobody needs"))
        .predict(|| 0)
        .budget(Duration::from_mins(1))
        .timeout(Duration::from_mins(10))
        .run(async move |cx| site.sweep(&|text| cx.note(text)).await)
        .await
}

/// Removes the candidate and its volume.
pub(super) async fn discard(run: &Run, site: &Arc<Site>) -> Result<()> {
    let site = site.clone();
    run.step("discard")
        .effect(Effect::Idempotent)
        .undo(Undo::Unnecessary("what was thrown away is needed by nobody"))
        .predict(|| ())
        .budget(Duration::from_mins(1))
        .timeout(Duration::from_mins(10))
        .run(async move |_| site.clear().await)
        .await
}

/// Keeps the result with the backup, signed.
async fn record(run: &Run, parts: &Parts, backup: &BackupInfo, name: &str, report: VerifyReport) -> Result<BackupId> {
    let (catalog, system, place) = (parts.catalog.clone(), parts.system.clone(), backup.place.clone());
    let id = run.id().to_string();
    run.step(name)
        .effect(Effect::Idempotent)
        .undo(Undo::Unnecessary("what was found out stays true"))
        .input(&report.backup)
        .budget(Duration::from_mins(1))
        .timeout(Duration::from_mins(5))
        .run(async move |_| {
            let signer = pipe::blocking(move || Signer::load(&system.state_dir(), &system.id)).await?;
            let record = catalog::record(catalog.repository(), &signer, &place, report, Some(id)).await?;
            Ok(record.id)
        })
        .await
}

fn conclude(
    parts: &Parts,
    info: &BackupInfo,
    verified: Verified,
    (began, proven_at): (DateTime<Utc>, DateTime<Utc>),
    record: BackupId,
) -> DrillReport {
    let objective = parts.system.objectives.database;
    DrillReport {
        rto: Achieved::new(objective.rto, proven_at - began),
        rpo: Achieved::new(objective.rpo, (began - info.point).max(TimeDelta::zero())),
        backup: BackupInfo { level: Some(Level::L3), verified: Some(proven_at), ..info.clone() },
        verified,
        record,
    }
}
