//! `recover`, `restore`, `resume`, `rollback`: what changes production.

use std::path::Path;

use chom_recovery::{
    Error, ErrorKind, Recovery, Result,
    procedure::{
        backup,
        database::{Extent, Request},
        drill,
    },
    recovery::RunOptions,
    run::Plan,
};
use chrono::{DateTime, Utc};

use crate::{
    args::{Component, Consent, Recover, Waivers, Which},
    exit::Exit,
    session::{Session, run_options},
    watch::watch,
};

pub(crate) async fn recover(session: &Session, command: Recover) -> Result<Exit> {
    let Recover::Database { which, plan, since, waivers, consent } = command;
    let recovery = session.open().await?;
    let consent = session.consent(&consent, &recovery)?;
    consent.can_be_given(&replacing(&recovery))?;
    let mut options = RunOptions { waivers: consent.waivers(&waivers), ..run_options(&consent) };
    let mut request = Request { backup: which.selector()?, extent: Extent::Recover, incident_began: since };
    if let Some(file) = plan {
        let plan = read_plan(&file)?;
        request = serde_json::from_value(plan.request.clone()).map_err(|e| not_a_plan(&file).caused_by(e))?;
        options.plan = Some(plan);
    }
    start(session, &recovery, request, options).await
}

pub(crate) async fn restore(
    session: &Session,
    Component::Database: Component,
    which: &Which,
    since: Option<DateTime<Utc>>,
    consent: &Consent,
) -> Result<Exit> {
    let recovery = session.open().await?;
    let consent = session.consent(consent, &recovery)?;
    consent.can_be_given(&replacing(&recovery))?;
    let request = Request { backup: which.selector()?, extent: Extent::Restore, incident_began: since };
    start(session, &recovery, request, run_options(&consent)).await
}

async fn start(session: &Session, recovery: &Recovery, request: Request, options: RunOptions) -> Result<Exit> {
    let going = recovery.recover_database(request, options).await?;
    watch(session, recovery, going).await
}

pub(crate) async fn resume(session: &Session, run: Option<&str>, waivers: &Waivers, consent: &Consent) -> Result<Exit> {
    let recovery = session.open().await?;
    let consent = session.consent(consent, &recovery)?;
    let run = recovery.find_run(run, |run| !run.is_over)?;
    let options = RunOptions { waivers: consent.waivers(waivers), ..run_options(&consent) };
    let going = recovery.resume(run.run, options).await?;
    watch(session, &recovery, going).await
}

pub(crate) async fn rollback(session: &Session, run: Option<&str>, because: &str, consent: &Consent) -> Result<Exit> {
    let recovery = session.open().await?;
    let consent = session.consent(consent, &recovery)?;
    let leaves_nothing = [backup::PROCEDURE, drill::PROCEDURE];
    let run = recovery.find_run(run, |run| !leaves_nothing.contains(&run.procedure.as_str()))?;
    consent.get(&format!(
        "undo run {} of `{}`, begun {}: what production had before it is put back, what was written since is set aside",
        run.run,
        run.procedure,
        run.began.format("%F %T UTC"),
    ))?;
    let going = recovery.begin_roll_back(run.run, because, run_options(&consent)).await?;
    watch(session, &recovery, going).await
}

fn replacing(recovery: &Recovery) -> String {
    format!(
        "replace the database of project `{}` on {}",
        recovery.system().compose.project,
        recovery.backend().engine_address()
    )
}

fn not_a_plan(file: &Path) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("`{}` holds no plan of a database recovery", file.display()))
        .hint("make one: chom-recovery plan recover database -o FILE")
}

fn read_plan(file: &Path) -> Result<Plan> {
    let text =
        std::fs::read(file).map_err(|e| Error::from(e).during(format!("cannot read the plan `{}`", file.display())))?;
    serde_json::from_slice(&text).map_err(|e| not_a_plan(file).caused_by(e))
}
