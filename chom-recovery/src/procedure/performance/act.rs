//! The mitigations, each a step.

use std::time::Duration;

use super::{choose::Mitigation, measure::reach};
use crate::{
    backend::BackendExt,
    error::{Error, ErrorKind, Result},
    mysql::{Busy, Ended},
    procedure::{
        Parts,
        partial::containers::{self, Site},
    },
    run::{Approvable, Approval, Effect, Observed, Run, Undo},
};

/// Approves that statements and idle transactions are ended; the question names each.
#[derive(Debug)]
pub struct EndStatements;

impl Approvable for EndStatements {
    const NAME: &'static str = "end-statements";
}

/// Ends a statement or an idle transaction, if it still is what was seen. Says what became of it.
pub(super) async fn end(
    run: &Run,
    parts: &Parts,
    mitigation: &Mitigation,
    approval: Approval<EndStatements>,
) -> Result<String> {
    let (seen, is_statement) = match mitigation {
        Mitigation::EndStatement { seen, .. } => (seen.as_ref().clone(), true),
        Mitigation::EndIdle { seen, .. } => (seen.as_ref().clone(), false),
        Mitigation::Drain { .. } | Mitigation::Scale { .. } => {
            return Err(Error::new(ErrorKind::InvalidInput, "a worker is not ended"));
        }
    };
    let name = if is_statement { "end-statement" } else { "end-idle-transaction" };
    let text = describe(&seen, is_statement);
    let (acting, looking, verifying) = (parts.clone(), parts.clone(), parts.clone());
    let (again, verified) = (seen.clone(), seen.clone());
    let ended = run
        .step(name)
        .key(seen.connection.to_string())
        .effect(Effect::Destructive)
        .approved(approval)
        .input(&seen)
        .budget(Duration::from_secs(10))
        .timeout(Duration::from_mins(1))
        .predict(|| Ended::Killed)
        .undo(Undo::Unnecessary(if is_statement {
            "its client got an error and may send it again"
        } else {
            "nobody was promised what it had not committed"
        }))
        .reconcile(async move |_| {
            let runs = is_there(&looking, &again, is_statement).await?;
            Ok(if runs { Observed::NotApplied } else { Observed::Applied(Ended::Killed) })
        })
        .verify(async move |_, _| verify_gone(&verifying, &verified, is_statement).await)
        .run(async move |_| {
            let session = reach(&acting).await?;
            if is_statement { session.server.kill_query(&seen).await } else { session.server.kill_idle(&seen).await }
        })
        .await?;
    Ok(match ended {
        Ended::Killed => format!("ended {text}"),
        Ended::GoneAlready => format!("had ended by itself: {text}"),
    })
}

fn describe(seen: &Busy, is_statement: bool) -> String {
    let what = if is_statement { "a statement" } else { "an idle transaction" };
    format!("{what} of `{}` on connection {} {}", seen.user, seen.connection, seen.text).trim_end().to_owned()
}

async fn is_there(parts: &Parts, seen: &Busy, is_statement: bool) -> Result<bool> {
    let session = reach(parts).await?;
    if is_statement { session.server.still_runs(seen).await } else { session.server.still_idles(seen).await }
}

/// A statement ends at its next look at its flag: it is waited for, with an end.
async fn verify_gone(parts: &Parts, seen: &Busy, is_statement: bool) -> Result<()> {
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    while is_there(parts, seen, is_statement).await? {
        if tokio::time::Instant::now() > end {
            return Err(Error::new(
                ErrorKind::Failed,
                format!("connection {} was told to end, and has not after 30 s", seen.connection),
            )
            .hint("it may be rolling back what it changed, which takes its time; nothing speeds that up"));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

/// Lets the workers of a service end their jobs, and starts them anew.
pub(super) async fn renew(run: &Run, parts: &Parts, service: &str) -> Result<()> {
    let (looking, name) = (parts.clone(), service.to_owned());
    let site = run
        .step("workers")
        .key(service)
        .effect(Effect::Observe)
        .kept()
        .timeout(Duration::from_mins(1))
        .run(async move |_| Site::look(&*looking.backend, &[name]).await)
        .await?;
    let grace = parts.system.application.stop_grace;
    containers::drain(run, parts, &site, service, grace).await?;
    containers::start(run, parts, &site, service, grace).await
}

/// Sets how many containers a service has.
pub(super) async fn scale(run: &Run, parts: &Parts, service: &str, from: u32, to: u32) -> Result<()> {
    let (acting, undoing, name, undone) = (parts.clone(), parts.clone(), service.to_owned(), service.to_owned());
    run.step("scale")
        .key(service)
        .effect(Effect::Idempotent)
        .input(&(service, from, to))
        .budget(Duration::from_mins(1))
        .timeout(Duration::from_mins(6))
        .predict(|| ())
        .undo_with(async move |_, _| scale_to(&undoing, &undone, from).await)
        .undo_text(format!("back to {from}"))
        .run(async move |_| scale_to(&acting, &name, to).await)
        .await
}

async fn scale_to(parts: &Parts, service: &str, number: u32) -> Result<()> {
    parts.backend.scale(service, number).await?;
    parts.backend.start(service, Duration::from_mins(3)).await?;
    let now = parts.backend.service_containers(service).await?.len();
    if u32::try_from(now) == Ok(number) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Failed, format!("service `{service}` has {now} containers instead of {number}")))
}
