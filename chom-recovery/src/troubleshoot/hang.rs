//! A restore hangs: which step, whether bytes move, and what the server waits for.

use std::{sync::Arc, time::Duration};

use chrono::Utc;

use super::{Cause, Findings, Issue};
use crate::{
    backend::{Backend, Container, ContainerState},
    error::Result,
    mysql::{LockWait, Login, Server},
    probe::{HealthProbe, disk::DiskProbe},
    procedure::Parts,
    run::summary::{RunStatus, RunSummary, StepStatus},
};

/// Time between two looks at what was written.
const BETWEEN: Duration = Duration::from_secs(3);
/// Longest time for the database to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// A statement that has waited for a lock for so many seconds is told.
const WAITED: u64 = 5;

/// Looks for what a run waits for. `open` are the runs that are not over.
pub(crate) async fn hang(parts: &Parts, open: &[RunSummary]) -> Findings {
    let mut findings = Findings::new(Issue::Hang);
    let disk = DiskProbe::new(&parts.system, parts.backend.clone());
    let (health, moved, waits) =
        tokio::join!(disk.check(), written(&parts.backend), tokio::time::timeout(ANSWER, lock_waits(parts)));
    findings.disk(&health);
    if open.is_empty() {
        findings.fine("no run is open: nothing of ours hangs");
    }
    for run in open {
        judge(&mut findings, run, moved.as_deref().ok());
    }
    match &moved {
        Ok(moved) => moved.iter().for_each(|one| findings.fine(one.to_string())),
        Err(error) => findings.unclear(format!("what containers of ours write: {error}")),
    }
    match waits {
        Ok(Ok(waits)) if waits.is_empty() => findings.fine("no statement of the production database waits for a lock"),
        Ok(Ok(waits)) => findings.add(locks(&waits)),
        Ok(Err(error)) => findings.unclear(format!("locks of the production database: {error}")),
        Err(_) => findings.unclear(format!("the production database did not answer within {} s", ANSWER.as_secs())),
    }
    findings.ranked()
}

/// What a container of ours did between two looks.
struct Moved {
    container: String,
    is_running: bool,
    bytes_per_second: u64,
    cores: f64,
}

impl std::fmt::Display for Moved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.is_running {
            return write!(f, "`{}` does not run", self.container);
        }
        let rate = self.bytes_per_second >> 10;
        write!(f, "`{}` writes {rate} KiB/s and uses {:.1} of a core", self.container, self.cores)
    }
}

async fn written(backend: &Arc<dyn Backend>) -> Result<Vec<Moved>> {
    // The lock is a container that never runs.
    let ours: Vec<Container> =
        backend.own_containers().await?.into_iter().filter(|c| c.state != ContainerState::Created).collect();
    let sample = |container: &Container| {
        let (backend, name) = (backend.clone(), container.name.clone());
        async move { backend.usage(&name).await.ok() }
    };
    let before = futures::future::join_all(ours.iter().map(sample)).await;
    if ours.iter().any(|c| c.state == ContainerState::Running) {
        tokio::time::sleep(BETWEEN).await;
    }
    let after = futures::future::join_all(ours.iter().map(sample)).await;
    let pairs = ours.into_iter().zip(before).zip(after);
    Ok(pairs
        .map(|((container, before), after)| Moved {
            is_running: container.state == ContainerState::Running,
            container: container.name,
            bytes_per_second: before.zip(after).map_or(0, |(b, a)| a.written.saturating_sub(b.written))
                / BETWEEN.as_secs(),
            cores: after.map_or(0.0, |usage| usage.cpu),
        })
        .collect())
}

async fn lock_waits(parts: &Parts) -> Result<Vec<LockWait>> {
    let database = &parts.system.database;
    let reached = crate::probe::reach(&parts.backend, database).await?;
    let password = database.password.resolve().await?;
    let login = Login::new(reached.host.clone(), reached.port, database.user.clone(), password);
    Ok(Server::connect(login, Duration::ZERO).await?.busy().await?.1)
}

fn locks(waits: &[LockWait]) -> Cause {
    let longest = waits.iter().map(|w| w.seconds).max().unwrap_or_default();
    let cause = Cause::new(
        "locks",
        if longest >= WAITED { 82 } else { 30 },
        format!("{} statements of the production database wait for locks, the longest for {longest} s", waits.len()),
    );
    waits
        .iter()
        .take(5)
        .fold(cause, |cause, wait| {
            let by = wait.blocking.map_or_else(String::new, |connection| format!(" for connection {connection}"));
            cause.seen(format!("connection {} has waited for {} s{by}, {}", wait.waiting, wait.seconds, wait.object))
        })
        .mend(
            "`chom-recovery recover performance` shows who holds them, and ends that with approval",
            "a connection that is ended rolls back, which may take longer than waiting",
        )
}

fn judge(findings: &mut Findings, run: &RunSummary, moved: Option<&[Moved]>) {
    let of = format!("run {} of `{}`", run.run, run.procedure);
    match run.status {
        RunStatus::Running => going(findings, run, moved),
        RunStatus::Interrupted | RunStatus::RollingBack => findings.add(
            Cause::new("process-gone", 96, format!("{of} does not hang: its process is gone"))
                .seen(format!("last record {}", run.last.format("%F %T UTC")))
                .mend(format!("chom-recovery resume {}", run.run), "none: what was done is not done again"),
        ),
        RunStatus::Paused => findings.add(
            Cause::new("waits-for-person", 96, format!("{of} does not hang: it waits for a person"))
                .seen(run.error.as_ref().map_or("", |e| e.message.as_str()))
                .mend(
                    format!("chom-recovery approve {0}, or resolve {0}; then resume", run.run),
                    "that of what is approved",
                ),
        ),
        _ => findings.add(
            Cause::new("stopped", 90, format!("{of} does not hang: it stopped"))
                .seen(run.error.as_ref().map_or("", |e| e.message.as_str()))
                .mend("chom-recovery troubleshoot restore", "none"),
        ),
    }
}

/// A run whose process lives: the step that it is at, held against its budget.
fn going(findings: &mut Findings, run: &RunSummary, moved: Option<&[Moved]>) {
    let Some(step) = run.steps.iter().rfind(|s| matches!(s.status, StepStatus::Begun | StepStatus::Unverified)) else {
        return findings.fine(format!("run {} is between two steps", run.run));
    };
    let begun = run.began + chrono::TimeDelta::milliseconds(i64::try_from(step.offset_ms).unwrap_or(i64::MAX));
    let since = u64::try_from((Utc::now() - begun).num_milliseconds()).unwrap_or(0);
    let seconds = since / 1_000;
    let what = format!("step `{}` of run {} has gone on for {seconds} s", step.step, run.run);
    if step.budget_ms.is_none_or(|budget| since <= budget) {
        return findings.fine(format!("{what}, within its budget"));
    }
    let is_moving = moved.is_some_and(|all| all.iter().any(|m| m.bytes_per_second > 0 || m.cores > 0.05));
    let cause = if is_moving {
        Cause::new("slow", 70, format!("{what}, longer than its budget, and bytes move"))
            .mend("let it go on; it ends by itself at its timeout", "none")
    } else {
        Cause::new("stalled", 75, format!("{what}, longer than its budget, and nothing moves")).mend(
            format!("stop it with Ctrl-C, which waits for a step boundary, then: chom-recovery resume {}", run.run),
            "none: a candidate is beside production, and is built again",
        )
    };
    findings.add(moved.unwrap_or_default().iter().fold(cause, |cause, one| cause.seen(one)));
}
