//! Recovery of the application (runbook 3.2): what is stopped is started, and code that cannot work is replaced.
//!
//! PHP is asked whether it can read the code. Only code that it cannot read is replaced, and what differs is told by content,
//! not by times; a release that is newer than the backup and can be read is left alone.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::join_all;
use serde::{Deserialize, Serialize};

use super::{
    Parts, Procedure, Recovered,
    candidate::{self, Candidate},
    files, locate,
    proof::{STEADY, is_outer, moment, pick},
    quiesce::{self, Remembered},
};
use crate::{
    backend::BackendExt,
    catalog::Selector,
    error::{Error, ErrorKind, Result},
    files::Change,
    objective::Objective,
    probe::{Answer, HealthMode, Status, all_of, ask},
    run::{Effect, Run, RunId, Wait},
    system::{Component, System},
};

mod code;

/// Name of the procedure in journals.
pub const PROCEDURE: &str = "recover-application";

const fn mins(minutes: u64) -> Duration {
    Duration::from_mins(minutes)
}

/// Recovers the application.
#[derive(Debug, Clone, Copy, Default)]
pub struct RecoverApplication;

/// What a recovery of the application may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Which backup; [`Selector::Latest`] takes the newest whose code PHP can read.
    pub backup: Selector,
}

#[async_trait]
impl Procedure for RecoverApplication {
    type Request = Request;

    fn name(&self) -> &'static str {
        PROCEDURE
    }

    fn objective(&self, system: &System) -> Objective {
        system.objectives.application
    }

    async fn recover(&self, run: &Run, parts: &Parts, request: &Request) -> Result<Recovered> {
        recover(&run.scope("application"), parts, request).await
    }
}

/// What was seen of the application.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Looked {
    /// Containers of the application and its workers as they were.
    before: Vec<Remembered>,
    /// What does not run, a line each.
    stopped: Vec<String>,
    /// What users get, where that is bad, a line each.
    outside: Vec<String>,
    /// Files that PHP cannot read, a line each.
    code: Vec<String>,
}

async fn recover(run: &Run, parts: &Parts, request: &Request) -> Result<Recovered> {
    let began = run.id().time();
    let (looking, id) = (parts.clone(), run.id());
    let looked = run
        .step("look")
        .effect(Effect::Observe)
        .kept()
        .predict(Looked::default)
        .budget(mins(5))
        .timeout(mins(10))
        .run(async move |_| look(&looking, id).await)
        .await?;
    let (mut done, mut to_review) = (Vec::new(), Vec::new());
    if !looked.code.is_empty() {
        replace_code(run, parts, request, &mut done, &mut to_review).await?;
    }
    if looked.before.iter().any(|one| !one.was_ready) {
        start(run, parts, &looked).await?;
        done.extend(looked.stopped.iter().map(|what| format!("started: {what}")));
    }
    let services = parts.system.writers();
    let proof = || {
        pick(parts, began, |name| {
            is_outer(name) || name.strip_prefix("container-").is_some_and(|service| services.contains(&service))
        })
    };
    let failed = |e: Error| match e.kind() {
        ErrorKind::Timeout => {
            e.hint("chom-recovery diagnose: what is wrong may be something that the application needs")
        }
        _ => e,
    };
    run.until_healthy(all_of("application", proof()), Wait { timeout: mins(4), ..STEADY }).await.map_err(failed)?;
    let proven_at = moment(run, "proven").await?;
    let soak = parts.system.application.soak;
    run.until_healthy(all_of("soak", proof()), Wait::soak(soak, Duration::from_secs(5), soak * 2 + mins(1))).await?;
    let mut report = Recovered::new(parts.system.objectives.application, began, proven_at);
    report.found = [looked.stopped, looked.outside, looked.code].concat();
    (report.done, report.to_review) = (done, to_review);
    Ok(report)
}

/// Looks at the application: nothing is changed.
async fn look(parts: &Parts, run: RunId) -> Result<Looked> {
    let backend = &*parts.backend;
    let system = &parts.system;
    let services: Vec<String> = system.writers().into_iter().map(str::to_owned).collect();
    let before = quiesce::remember(backend, &services).await?;
    let containers = backend.containers().await?;
    let stopped = containers.iter().filter(|c| services.contains(&c.service) && !c.is_ready()).map(|c| {
        let code = c.exit_code.map_or_else(String::new, |code| format!(", exit code {code}"));
        format!("`{}` was {}{code}", c.name, format!("{:?}", c.state).to_lowercase())
    });
    let mut probes = parts.application.probes(HealthMode::Monitoring, None);
    probes.retain(|probe| probe.name().starts_with("http-") || probe.name() == "mysql");
    let answers: Vec<Answer> = join_all(probes.iter().map(|probe| ask(probe, Duration::from_secs(15)))).await;
    let bad = |answer: &&Answer| answer.health.status == Status::Down;
    if let Some(database) = answers.iter().filter(bad).find(|answer| answer.probe == "mysql") {
        let what = format!("the database does not serve, and the application needs it: {}", database.health.summary);
        return Err(Error::new(ErrorKind::Precondition, what).hint("chom-recovery recover database"));
    }
    let outside = answers.iter().filter(bad).map(|a| format!("{}: {}", a.probe, a.health.summary)).collect();
    let code = match code_of(system) {
        Some(component) => {
            let located = locate::find(system, &parts.backend, component).await?;
            let app = backend.service_containers(&system.application.service).await?.swap_remove(0);
            code::faults(backend, run, &app, &located.folder()).await?
        }
        None => Vec::new(),
    };
    Ok(Looked { before, stopped: stopped.collect(), outside, code })
}

/// Returns the component that holds the code: the folder of `artisan`, as the application's service sees it.
fn code_of(system: &System) -> Option<&Component> {
    let crate::system::Maintenance::Laravel { directory, .. } = &system.application.maintenance else { return None };
    system.components.iter().find(|component| {
        component.service.as_ref() == Some(&system.application.service)
            && component.path.as_deref() == Some(std::path::Path::new(directory))
    })
}

/// Puts the newest code in place that PHP can read.
async fn replace_code(
    run: &Run,
    parts: &Parts,
    request: &Request,
    done: &mut Vec<String>,
    to_review: &mut Vec<String>,
) -> Result<()> {
    let component = code_of(&parts.system).ok_or_else(|| {
        Error::new(ErrorKind::Precondition, "no component of the configuration holds the application's code")
    })?;
    let run = run.scope("code");
    let (testing, id) = (parts.clone(), run.id());
    let test: candidate::Test = Arc::new(move |folder| {
        let parts = testing.clone();
        Box::pin(async move {
            let app = parts.backend.service_containers(&parts.system.application.service).await?.swap_remove(0);
            code::faults(&*parts.backend, id, &app, &folder).await
        })
    });
    let chosen =
        candidate::choose(&run, parts, component, &request.backup, test).await.map_err(|e| match e.kind() {
            ErrorKind::Precondition => e.hint("deploy a release that works, or look at older backups: `--backup ID`"),
            _ => e,
        })?;
    let differing: Vec<String> = chosen.differences.iter().map(ToString::to_string).collect();
    let put = files::Request {
        backup: Selector::Id(chosen.backup.to_string()),
        component: component.name.clone(),
        keep_setid: false,
    };
    let report = files::put_in_place(&run, parts, &put, Some(&differing)).await?;
    done.push(told(component, &chosen));
    to_review.extend(chosen.refused.iter().map(|why| format!("a newer backup would not do: {why}")));
    to_review.extend(report.to_review());
    Ok(())
}

fn told(component: &Component, chosen: &Candidate) -> String {
    let content = chosen.differences.iter().filter(|d| d.change != Change::Permissions).count();
    let permissions = chosen.differences.len() - content;
    format!(
        "`{}` is that of backup {}: {content} paths had another content, {permissions} other permissions",
        component.name, chosen.backup
    )
}

/// Starts what does not run, those first that others depend on.
async fn start(run: &Run, parts: &Parts, looked: &Looked) -> Result<()> {
    let (starting, undoing) = (parts.backend.clone(), parts.backend.clone());
    let (to_start, to_undo, grace) =
        (looked.before.clone(), looked.before.clone(), parts.system.application.stop_grace);
    run.step("start")
        .effect(Effect::Idempotent)
        .input(&looked.before)
        .predict(|| ())
        .budget(mins(3))
        .timeout(mins(15))
        .undo_text("stop what did not run")
        .undo_with(async move |_, _: Option<()>| quiesce::stop_again(&*undoing, &to_undo, grace).await)
        .run(async move |_| {
            quiesce::put_policies_back(&*starting, &to_start).await?;
            let services: Vec<&str> = to_start.iter().map(|one| one.service.as_str()).collect();
            quiesce::start_all(&*starting, &services, mins(3)).await
        })
        .await
}
