//! Where a system stands, and what to do next: what an operator sees first.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    CopyStatus, Recovery,
    closing::{Unclosed, unclosed},
};
use crate::{
    backend::Engine,
    catalog::{BackupId, BackupInfo, Catalog, ComponentKind, Listing},
    error::{Error, ErrorKind, ErrorRecord, Result},
    probe::{HealthMode, HealthReport, Status},
    procedure::database::mysql_ops::kept_backups,
    report,
    run::{
        RunId,
        summary::{RunStatus, RunSummary},
    },
    system::DATABASE,
    triage::{Diagnosis, diagnose},
};

/// Where a system stands. What could not be found out is an error beside what could.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// System.
    pub system: String,
    /// Compose project.
    pub project: String,
    /// Address of the Engine.
    pub engine_address: String,
    /// The Engine; `None` when it does not answer.
    pub engine: Option<Engine>,
    /// Why it does not answer.
    pub engine_error: Option<ErrorRecord>,
    /// Backups.
    pub backups: BackupStatus,
    /// Runs that are not over, oldest first.
    pub open_runs: Vec<OpenRun>,
    /// Recoveries that succeeded and were not closed, oldest first.
    #[serde(default)]
    pub unclosed: Vec<Unclosed>,
    /// Runs whose journal cannot be read.
    pub unreadable_runs: Vec<UnreadableRun>,
    /// Answers of the monitoring suite.
    pub health: HealthReport,
    /// What may be broken, the most probable first.
    pub diagnoses: Vec<Diagnosis>,
    /// What to do, the most urgent first.
    pub next: Vec<NextStep>,
}

/// A run that is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRun {
    /// Run.
    pub run: RunId,
    /// Procedure.
    pub procedure: String,
    /// Where it stands.
    pub status: RunStatus,
    /// When it began.
    pub began: DateTime<Utc>,
    /// Why it stands.
    pub error: Option<ErrorRecord>,
}

/// A run whose journal cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadableRun {
    /// Run.
    pub run: RunId,
    /// Why.
    pub error: ErrorRecord,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextStep {
    /// Command to type; `None` where `because` says what a person has to do.
    pub command: Option<String>,
    /// Why.
    pub because: String,
}

impl NextStep {
    fn run(command: impl Into<String>, because: impl Into<String>) -> Self {
        Self { command: Some(command.into()), because: because.into() }
    }
}

/// Whether the newest backup would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupStatus {
    /// Healthy: young enough and verified. Degraded: not verified, others are damaged, the copy is out of date or out of
    /// reach, or the newest physical backup is not kept unpacked although it should be. Down: none, or too old.
    /// Inconclusive: the repository could not be read.
    pub status: Status,
    /// The newest usable backup.
    pub newest: Option<BackupInfo>,
    /// Number of usable backups.
    pub usable: u64,
    /// Age of its data in seconds.
    pub age_s: Option<u64>,
    /// Oldest age allowed, in seconds.
    pub allowed_age_s: u64,
    /// What the copy of the repository holds, where one is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyStatus>,
    /// The unpacked copy of the newest physical backup, where `database.keep_warm` wants one and the Engine answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<WarmCopy>,
    /// What is not as it should be.
    pub findings: Vec<String>,
    /// Why the repository could not be read.
    pub error: Option<ErrorRecord>,
}

/// What `database.keep_warm` is to keep, and whether it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmCopy {
    /// The newest physical backup.
    pub backup: BackupId,
    /// Whether a copy of it lies unpacked on the Engine's host.
    pub is_kept: bool,
}

impl WarmCopy {
    /// Looks for the newest physical backup among those of which a copy is kept; `None`: there is none.
    fn of(listing: &Listing, kept: &[BackupId]) -> Option<Self> {
        let is_physical = |b: &&BackupInfo| b.is_choosable() && b.database_kind == Some(ComponentKind::Physical);
        let backup = listing.backups.iter().rfind(is_physical)?.id();
        Some(Self { backup, is_kept: kept.contains(&backup) })
    }
}

impl BackupStatus {
    fn unreadable(error: &Error, allowed_age_s: u64) -> Self {
        Self {
            status: Status::Inconclusive,
            newest: None,
            usable: 0,
            age_s: None,
            allowed_age_s,
            copy: None,
            warm: None,
            findings: vec![error.to_string()],
            error: Some(error.to_record()),
        }
    }

    fn of(listing: Listing, allowed_age_s: u64, copy: Option<CopyStatus>, warm: Option<WarmCopy>) -> Self {
        let mut findings = Vec::new();
        let mut status = Status::Healthy;
        let mut worse = |findings: &mut Vec<String>, to: Status, text: String| {
            status = status.max(to);
            findings.push(text);
        };
        let usable = listing.backups.len() as u64;
        let newest = listing.backups.into_iter().rfind(BackupInfo::is_choosable);
        let age_s = newest.as_ref().map(|b| b.age(listing.now).as_secs());
        match (&newest, age_s) {
            (Some(backup), Some(age)) => {
                if age > allowed_age_s {
                    worse(
                        &mut findings,
                        Status::Down,
                        format!("the newest backup {} is older than the objective allows", backup.id()),
                    );
                }
                if !backup.is_proven() {
                    worse(&mut findings, Status::Degraded, format!("backup {} is not verified", backup.id()));
                }
            }
            _ => worse(&mut findings, Status::Down, "there is no usable backup".into()),
        }
        for damaged in &listing.damaged {
            worse(
                &mut findings,
                Status::Degraded,
                format!("backup {} cannot be used: {}", damaged.place.id, damaged.error.message),
            );
        }
        for problem in &listing.problems {
            worse(&mut findings, Status::Inconclusive, format!("a part could not be listed: {}", problem.message));
        }
        if let Some(finding) = copy.as_ref().and_then(|copy| outdated(copy, listing.now, allowed_age_s)) {
            worse(&mut findings, Status::Degraded, finding);
        }
        if let Some(warm) = warm.as_ref().filter(|warm| !warm.is_kept) {
            let finding = format!("no copy of backup {} is kept: restoring it takes until it is unpacked", warm.backup);
            worse(&mut findings, Status::Degraded, finding);
        }
        Self { status, newest, usable, age_s, allowed_age_s, copy, warm, findings, error: None }
    }
}

/// Says what is wrong with a copy that would not do.
fn outdated(copy: &CopyStatus, now: DateTime<Utc>, allowed_age_s: u64) -> Option<String> {
    if let Some(error) = &copy.error {
        return Some(format!("the copy cannot be read: {}", error.message));
    }
    let Some(point) = copy.point else { return Some("the copy holds no usable backup".into()) };
    let age = u64::try_from((now - point).num_seconds()).unwrap_or(0);
    (age > allowed_age_s).then(|| "the newest backup in the copy is older than the objective allows".into())
}

impl Recovery {
    /// Says whether the newest backup is young enough and verified.
    ///
    /// # Errors
    /// As [`Recovery::backups`].
    pub async fn backup_status(&self) -> Result<BackupStatus> {
        let listed = async { Catalog::new(&self.repository().await?, &self.system.id).holding(DATABASE).list().await };
        let (listing, copy) = tokio::join!(listed, self.copy_status());
        let listing = listing?;
        // An Engine that does not answer says nothing of backups.
        let kept = if self.system.database.keep_warm { kept_backups(&*self.backend).await.ok() } else { None };
        let warm = kept.and_then(|kept| WarmCopy::of(&listing, &kept));
        Ok(BackupStatus::of(listing, self.system.objectives.backup_age.as_secs(), copy, warm))
    }

    /// Looks at everything that an operator needs first, and says what to do next.
    ///
    /// # Errors
    /// The state directory cannot be read. Anything else that fails is part of the answer.
    pub async fn overview(&self) -> Result<Overview> {
        let limit = self.system.limits.health_deadline;
        let (engine, health, backups) = tokio::join!(
            self.backend.engine(),
            self.look(HealthMode::Monitoring),
            tokio::time::timeout(limit, self.backup_status())
        );
        let (engine, engine_error) = match engine {
            Ok(engine) => (Some(engine), None),
            Err(error) => (None, Some(error.to_record())),
        };
        let late = || Error::new(ErrorKind::Timeout, format!("no backup was listed within {} s", limit.as_secs()));
        let backups = backups
            .unwrap_or_else(|_| Err(late()))
            .unwrap_or_else(|error| BackupStatus::unreadable(&error, self.system.objectives.backup_age.as_secs()));
        let (runs, unreadable) = self.runs()?;
        let unclosed = unclosed(&runs);
        let open: Vec<RunSummary> = runs.into_iter().filter(|run| !run.is_over).collect();
        let diagnoses = diagnose(&health);
        Ok(Overview {
            system: self.system.id.to_string(),
            project: self.system.compose.project.clone(),
            engine_address: self.backend.engine_address(),
            engine,
            engine_error,
            next: {
                let had_repository = !self.system.repository.signers.is_empty();
                let mut next = next_steps(&open, &health, &diagnoses, &backups, had_repository);
                // The newest first: it says most about the system as it is.
                next.extend(unclosed.iter().rev().map(|one| {
                    let because = format!("the recovery of {} is not closed", one.ended.format("%F %T UTC"));
                    NextStep::run(format!("chom-recovery close {}", one.run), because)
                }));
                next
            },
            unclosed,
            backups,
            open_runs: open.into_iter().map(OpenRun::from).collect(),
            unreadable_runs: unreadable
                .into_iter()
                .map(|(run, error)| UnreadableRun { run, error: error.to_record() })
                .collect(),
            health,
            diagnoses,
        })
    }
}

impl From<RunSummary> for OpenRun {
    fn from(run: RunSummary) -> Self {
        Self { run: run.run, procedure: run.procedure, status: run.status, began: run.began, error: run.error }
    }
}

/// Ranks what to do: what was begun is brought to its end before anything new begins. `had_repository`: one was made
/// once, since its key is pinned.
fn next_steps(
    open: &[RunSummary],
    health: &HealthReport,
    diagnoses: &[Diagnosis],
    backups: &BackupStatus,
    had_repository: bool,
) -> Vec<NextStep> {
    let mut next = Vec::new();
    for run in open {
        let because = format!("run {} of `{}` {}", run.run, run.procedure, report::standing(run.status));
        next.extend(report::next_commands(run).into_iter().map(|command| NextStep::run(command, because.clone())));
    }
    // Backups and where they lie are spoken of below: without them the service may be well.
    let is_of_service = |probe: &str| !matches!(probe, "store" | "backup");
    let is_down = health.answers.iter().any(|a| a.health.status > Status::Degraded && is_of_service(&a.probe));
    if let Some(first) = diagnoses.first().filter(|_| is_down && next.is_empty()) {
        // What it would do is shown first; `recover` asks in any case.
        let plan =
            first.command.as_ref().map(|c| c.replacen("chom-recovery recover ", "chom-recovery plan recover ", 1));
        let command = Some(plan.unwrap_or_else(|| "chom-recovery diagnose".to_owned()));
        let because = format!("{} ({} %): {}", first.hypothesis, first.confidence, first.advice);
        next.push(NextStep { command, because });
    }
    match (&backups.error, &backups.newest) {
        // A second one beside that which is out of reach would look like the first, and be empty.
        (Some(error), _) if error.kind == ErrorKind::NotFound && !had_repository => next.push(NextStep::run(
            "chom-recovery repo init --encryption none --pin",
            format!("there is no backup repository: {}", error.message),
        )),
        (Some(error), _) => {
            let because = error.hint.clone().map_or_else(String::new, |hint| format!(": {hint}"));
            next.push(NextStep::run("chom-recovery config check", format!("{}{because}", error.message)));
        }
        // A backup of something broken would be kept as if it were good.
        (None, _) if is_down => {}
        (None, Some(backup)) if backups.status == Status::Degraded && !backup.is_proven() => next.push(NextStep::run(
            format!("chom-recovery backup verify --backup {}", backup.id()),
            "it was never proven",
        )),
        (None, _) if backups.status >= Status::Down => {
            next.push(NextStep::run("chom-recovery backup create", backups.findings.join("; ")));
        }
        _ => {}
    }
    next
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        backend::BackendExt,
        probe::{Answer, Class, Health},
        procedure::database::ops::{BackUp, DatabaseKind, Production},
        store,
        testing::stack::SimStack,
    };

    fn health(status: Status, class: Class) -> HealthReport {
        let health = Health::new(status, "as told").class(class);
        let answer = Answer { probe: "mysql-tables".into(), health, latency_ms: 1 };
        HealthReport::new(HealthMode::Monitoring, vec![answer], Utc::now(), Duration::ZERO)
    }

    fn backups(status: Status) -> BackupStatus {
        BackupStatus {
            status,
            newest: None,
            usable: 0,
            age_s: None,
            allowed_age_s: 60,
            copy: None,
            warm: None,
            findings: vec![],
            error: None,
        }
    }

    fn commands(next: &[NextStep]) -> Vec<&str> {
        next.iter().filter_map(|n| n.command.as_deref()).collect()
    }

    #[test]
    fn damage_leads_to_a_plan_and_never_to_a_backup_of_the_damage() {
        let health = health(Status::Down, Class::Corrupt);
        let next = next_steps(&[], &health, &diagnose(&health), &backups(Status::Down), true);
        assert_eq!(commands(&next), ["chom-recovery plan recover database"]);
    }

    #[test]
    fn a_copy_that_would_not_do_is_told() {
        let now = Utc::now();
        let at = |age_s| Some(now - chrono::TimeDelta::seconds(age_s));
        let copy = |point, error| CopyStatus { usable: 1, newest: None, point, error };
        assert_eq!(outdated(&copy(at(59), None), now, 60), None);
        assert_eq!(outdated(&copy(at(-5), None), now, 60), None, "clocks differ");
        let unreadable = Some(Error::new(ErrorKind::Unreachable, "as told").to_record());
        for (copy, why) in
            [(copy(at(61), None), "older"), (copy(None, None), "no usable"), (copy(at(1), unreadable), "as told")]
        {
            assert!(outdated(&copy, now, 60).is_some_and(|text| text.contains(why)), "{why}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_should_be_kept_is_missed_and_an_engine_that_is_gone_is_no_fault_of_backups() {
        let directory = tempfile::tempdir().unwrap();
        SimStack::create(directory.path()).await.unwrap();
        let stack = SimStack::open_with(directory.path(), "state", |s| s.database.keep_warm = true).await.unwrap();
        let system = (*stack.parts.system).clone();
        let servers = stack.backend.service_containers("mysql").await.unwrap();
        let production = Production::of(&servers[0], &system.database.data_dir);
        let store = store::create(&system.repository.store()).await.unwrap();
        let recovery = Recovery::with_ports(system.clone(), stack.backend.clone(), store);
        assert_eq!(recovery.backup_status().await.unwrap().warm, None, "there is no physical backup");
        let request = BackUp { kind: DatabaseKind::Physical, ..BackUp::default() };
        let backup = stack.parts.database.back_up(&production, &request, Arc::new(|_, _| {})).await.unwrap();
        let status = recovery.backup_status().await.unwrap();
        assert_eq!(status.warm, Some(WarmCopy { backup: backup.id(), is_kept: false }));
        assert!(status.findings.iter().any(|finding| finding.contains("no copy of backup")), "{:?}", status.findings);
        let status = Recovery::without_engine(system).backup_status().await.unwrap();
        assert_eq!((status.warm, status.newest.map(|b| b.id())), (None, Some(backup.id())));
    }

    #[test]
    fn a_healthy_system_without_a_backup_is_told_to_take_one() {
        let health = health(Status::Healthy, Class::Ok);
        let next = next_steps(&[], &health, &diagnose(&health), &backups(Status::Down), true);
        assert_eq!(commands(&next), ["chom-recovery backup create"]);
        assert!(next_steps(&[], &health, &diagnose(&health), &backups(Status::Healthy), true).is_empty());
    }

    #[test]
    fn a_missing_repository_is_made_and_an_unreadable_one_is_looked_into() {
        let health = health(Status::Healthy, Class::Ok);
        for (kind, had_repository, wanted) in [
            (ErrorKind::NotFound, false, "chom-recovery repo init --encryption none --pin"),
            (ErrorKind::NotFound, true, "chom-recovery config check"),
            (ErrorKind::Precondition, true, "chom-recovery config check"),
        ] {
            let status = BackupStatus::unreadable(&Error::new(kind, "as told"), 60);
            assert_eq!(status.status, Status::Inconclusive);
            let next = next_steps(&[], &health, &diagnose(&health), &status, had_repository);
            assert_eq!(commands(&next), [wanted]);
        }
    }
}
