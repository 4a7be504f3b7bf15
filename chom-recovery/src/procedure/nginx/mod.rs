//! Recovery of the web server (runbook 3.3), where it is nginx.
//!
//! It is looked at from inside and outside, and its configuration is tested in a container of ours, since one that ends at
//! its start cannot be asked. What is bad is replaced by the newest backup that passes the same test, and nothing else is.
//! A server that runs is told to read its files again where that is enough, so that no connection ends.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    Parts, Procedure, Recovered,
    candidate::{self, Candidate, Test},
    files, locate,
    proof::{STEADY, is_outer, moment, pick},
    quiesce,
};
use crate::{
    backend::{Backend, Signal},
    catalog::Selector,
    error::{Error, ErrorKind, Result},
    objective::Objective,
    probe::all_of,
    run::{Effect, Run, Undo, Wait},
    system::{Component, System},
};

mod certificate;
mod look;
mod tested;

pub use look::Looked;
pub use tested::Fault;

use look::look;

/// Name of the procedure in journals.
pub const PROCEDURE: &str = "recover-nginx";

const fn mins(minutes: u64) -> Duration {
    Duration::from_mins(minutes)
}

/// Recovers the web server.
#[derive(Debug, Clone, Copy, Default)]
pub struct RecoverNginx;

/// What a recovery of the web server may take.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// Which backup; [`Selector::Latest`] takes the newest that passes the tests.
    pub backup: Selector,
}

#[async_trait]
impl Procedure for RecoverNginx {
    type Request = Request;

    fn name(&self) -> &'static str {
        PROCEDURE
    }

    fn objective(&self, system: &System) -> Objective {
        system.objectives.nginx
    }

    fn check(&self, parts: &Parts, _request: &Request) -> Result<()> {
        if parts.system.application.web_service.is_empty() {
            return Err(Error::new(ErrorKind::Precondition, "no web server is configured")
                .hint("name its service: `application.web_service`"));
        }
        Ok(())
    }

    async fn recover(&self, run: &Run, parts: &Parts, request: &Request) -> Result<Recovered> {
        recover(&run.scope("nginx"), parts, request).await
    }
}

async fn recover(run: &Run, parts: &Parts, request: &Request) -> Result<Recovered> {
    let began = run.id().time();
    let first = observe(run, parts, "look").await?;
    refuse_what_is_behind(&first)?;
    let mut done = Done::default();
    if first.is_configuration() {
        mend_configuration(run, parts, request, &mut done).await?;
    }
    // A bad configuration hides what is wrong with certificates.
    let files = if first.is_configuration() { observe(run, parts, "look-again").await? } else { first.clone() };
    if files.is_certificate() {
        mend_certificates(run, parts, request, &mut done).await?;
    }
    if done.lines.is_empty() && first.is_stale() {
        reload(run, parts).await?;
        done.lines.push("the web server read its files again".into());
    } else if !first.is_ready || !first.silent.is_empty() {
        restart(run, parts, &first, done.lines.is_empty()).await?;
        done.lines.push("the web server was started".into());
    }
    let probes = pick(parts, began, |name| {
        is_outer(name) || name.strip_prefix("container-") == Some(&*parts.system.application.web_service)
    });
    run.until_healthy(all_of("web", probes), Wait { timeout: mins(4), ..STEADY }).await?;
    let proven_at = moment(run, "proven").await?;
    let mut report = Recovered::new(parts.system.objectives.nginx, began, proven_at);
    report.found = first.found();
    report.found.extend(first.log.iter().map(|line| format!("its log: {line}")));
    (report.done, report.to_review) = (done.lines, done.to_review);
    if let Some(days) = files.days_left.filter(|days| *days < crate::probe::certificate::DEGRADED_BELOW_DAYS) {
        report.to_review.push(format!("a certificate had {days} days left: look at what renews it"));
    }
    Ok(report)
}

/// Tells at which path the web server sees a component.
///
/// # Errors
/// `Precondition`: it does not see it. `NotFound`: there is no such folder, or no web server.
pub(crate) async fn seen_at(system: &System, backend: &Arc<dyn Backend>, component: &Component) -> Result<String> {
    let web = look::container(&**backend, system).await?;
    let located = locate::find(system, backend, component).await?;
    tested::target(&**backend, &web, &located).await
}

/// What was done, and what it leaves.
#[derive(Debug, Default)]
struct Done {
    lines: Vec<String>,
    to_review: Vec<String>,
}

/// Looks, and keeps what was seen.
async fn observe(run: &Run, parts: &Parts, name: &str) -> Result<Looked> {
    let (parts, id) = (parts.clone(), run.id());
    let nothing = Looked {
        before: Vec::new(),
        state: crate::backend::ContainerState::Running,
        is_ready: true,
        exit_code: None,
        fault: None,
        certificates: Vec::new(),
        days_left: None,
        served: Vec::new(),
        silent: Vec::new(),
        behind: Vec::new(),
        log: Vec::new(),
    };
    run.step(name)
        .effect(Effect::Observe)
        .kept()
        .predict(move || nothing)
        .budget(mins(3))
        .timeout(mins(5))
        .run(async move |_| look(&parts, id).await)
        .await
}

/// A web server that does its work is not mended for what is behind it.
fn refuse_what_is_behind(looked: &Looked) -> Result<()> {
    let is_well = looked.is_ready
        && looked.fault.is_none()
        && looked.certificates.is_empty()
        && looked.served.is_empty()
        && looked.silent.is_empty();
    if !is_well || looked.behind.is_empty() {
        return Ok(());
    }
    let what = format!("the web server does its work; what is behind it does not: {}", looked.behind.join("; "));
    Err(Error::new(ErrorKind::Precondition, what)
        .hint("chom-recovery diagnose; an application that is down: chom-recovery recover application"))
}

/// Puts the newest configuration in place that nginx takes.
async fn mend_configuration(run: &Run, parts: &Parts, request: &Request, done: &mut Done) -> Result<()> {
    let component = parts.system.nginx_configuration().ok_or_else(|| {
        Error::new(ErrorKind::Precondition, "nginx refuses its configuration, and no backup is known to hold it")
            .hint("mend the file that it names; for the next time, `[nginx]` says which component holds it")
    })?;
    let run = run.scope("configuration");
    let test = test_with(&run, parts, component, |tested, _, _, _| match tested.fault {
        // The certificates come later.
        Some(fault) if !fault.is_of_certificate => Ok(vec![fault.to_string()]),
        _ => Ok(Vec::new()),
    });
    let chosen =
        candidate::choose(&run, parts, component, &request.backup, test, None).await.map_err(|e| match e.kind() {
            ErrorKind::Precondition => {
                e.hint("mend the file that nginx names, or look at older backups: `--backup ID`")
            }
            _ => e,
        })?;
    put_in_place(&run, parts, component, &chosen, done).await
}

/// Puts the newest certificates in place that clients would accept.
async fn mend_certificates(run: &Run, parts: &Parts, request: &Request, done: &mut Done) -> Result<()> {
    const BY_HAND: &str = "get a new certificate where yours come from (`certbot renew`, your CA), put it and its key in \
                           place, then run `chom-recovery recover nginx` again: it loads and proves it";
    let component = parts.system.nginx_certificates().ok_or_else(|| {
        Error::new(ErrorKind::Precondition, "the certificates would not serve, and no backup is known to hold others")
            .hint(BY_HAND)
    })?;
    let run = run.scope("certificates");
    let servers = Arc::new(certificate::servers(&parts.system).await?);
    let test = test_with(&run, parts, component, move |tested, folder, target, _| {
        if let Some(fault) = tested.fault {
            return Ok(vec![fault.to_string()]);
        }
        let files = certificate::read_in_folder(folder, target, &tested.pairs)?;
        if files.is_empty() {
            return Ok(vec![format!("it holds none of the certificates that nginx names in `{target}`")]);
        }
        Ok(certificate::problems(&files, &servers))
    });
    let chosen =
        candidate::choose(&run, parts, component, &request.backup, test, None).await.map_err(|e| match e.kind() {
            ErrorKind::Precondition | ErrorKind::NotFound => e.of_kind(ErrorKind::Precondition).hint(BY_HAND),
            _ => e,
        })?;
    put_in_place(&run, parts, component, &chosen, done).await
}

/// Makes a test of restored files: nginx is asked with them in place of those of production.
fn test_with(
    run: &Run,
    parts: &Parts,
    component: &Component,
    judge: impl Fn(tested::Tested, &std::path::Path, &str, &Parts) -> Result<Vec<String>> + Send + Sync + 'static,
) -> Test {
    let (parts, component, id, judge) = (parts.clone(), component.clone(), run.id(), Arc::new(judge));
    Arc::new(move |folder| {
        let (parts, component, judge) = (parts.clone(), component.clone(), judge.clone());
        Box::pin(async move {
            let web = look::container(&*parts.backend, &parts.system).await?;
            let located = locate::find(&parts.system, &parts.backend, &component).await?;
            let target = tested::target(&*parts.backend, &web, &located).await?;
            let tested = tested::test(&*parts.backend, id, &web, Some((&folder, &target))).await?;
            judge(tested, &folder, &target, &parts)
        })
    })
}

async fn put_in_place(
    run: &Run,
    parts: &Parts,
    component: &Component,
    chosen: &Candidate,
    done: &mut Done,
) -> Result<()> {
    let differing: Vec<String> = chosen.differences.iter().map(ToString::to_string).collect();
    let request = files::Request {
        backup: Selector::Id(chosen.backup.to_string()),
        component: component.name.clone(),
        keep_setid: false,
    };
    let report = files::put_in_place(run, parts, &request, Some(&differing)).await?;
    let of = if differing.is_empty() { String::new() } else { format!(": {}", differing.join(", ")) };
    done.lines.push(format!("`{}` is that of backup {}{of}", component.name, chosen.backup));
    done.to_review.extend(chosen.refused.iter().map(|why| format!("a newer backup would not do: {why}")));
    done.to_review.extend(report.to_review());
    Ok(())
}

/// Lets a running server read its files again.
async fn reload(run: &Run, parts: &Parts) -> Result<()> {
    let parts = parts.clone();
    run.step("reload")
        .effect(Effect::Idempotent)
        .undo(Undo::Unnecessary("no file was changed, and it goes on with those that lie there"))
        .predict(|| ())
        .budget(Duration::from_secs(30))
        .timeout(mins(1))
        .run(async move |_| {
            let web = look::container(&*parts.backend, &parts.system).await?;
            parts.backend.signal(&web.name, Signal::Hangup).await
        })
        .await
}

/// Starts a server that does not run; one that runs and does not answer is stopped before.
async fn restart(run: &Run, parts: &Parts, looked: &Looked, is_stopped_first: bool) -> Result<()> {
    let (stopping, starting, undoing) = (parts.backend.clone(), parts.backend.clone(), parts.backend.clone());
    let (to_stop, to_start, to_undo) = (looked.before.clone(), looked.before.clone(), looked.before.clone());
    let grace = Duration::from_secs(10);
    let service = parts.system.application.web_service.clone();
    run.step("start")
        .effect(Effect::Idempotent)
        .predict(|| ())
        .budget(mins(1))
        .timeout(mins(4))
        .undo_text("stop it, where it did not run")
        .undo_with(async move |_, _: Option<()>| quiesce::stop_again(&*undoing, &to_undo, grace).await)
        .run(async move |_| {
            if is_stopped_first {
                quiesce::stop(&*stopping, &to_stop, grace).await?;
            }
            quiesce::put_policies_back(&*starting, &to_start).await?;
            starting.start(&service, mins(2)).await
        })
        .await
}
