//! `recover`, `restore`, `resume`, `rollback`: what changes production.

use std::path::Path;

use chom_recovery::{
    Error, ErrorKind, Recovery, Result,
    files::unpack::Policy,
    procedure::{
        backup,
        database::{Extent, Request},
        drill, files,
    },
    recovery::{RestoredTree, RunOptions},
    run::Plan,
    system::DATABASE,
};
use chrono::{DateTime, Utc};

use crate::{
    args::{Consent, IntoFolder, Recover, Waivers, Which},
    exit::Exit,
    human,
    output::Output,
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
    component: &str,
    files: IntoFolder,
    which: &Which,
    since: Option<DateTime<Utc>>,
    consent: &Consent,
) -> Result<Exit> {
    if component != DATABASE {
        return match files.target {
            Some(_) => restore_into_folder(session, component, files, which).await,
            None => restore_files(session, component, files.keep_setid, which, consent).await,
        };
    }
    if files.target.is_some() {
        return Err(Error::new(ErrorKind::InvalidInput, "the database is not restored into a folder")
            .hint("leave out `--target`, or name a component of files with `--component`"));
    }
    let recovery = session.open().await?;
    let consent = session.consent(consent, &recovery)?;
    consent.can_be_given(&replacing(&recovery))?;
    let request = Request { backup: which.selector()?, extent: Extent::Restore, incident_began: since };
    start(session, &recovery, request, run_options(&consent)).await
}

/// Puts files in production's place.
async fn restore_files(
    session: &Session,
    component: &str,
    keep_setid: bool,
    which: &Which,
    consent: &Consent,
) -> Result<Exit> {
    let recovery = session.open().await?;
    let consent = session.consent(consent, &recovery)?;
    let project = &recovery.system().compose.project;
    consent.can_be_given(&format!("replace `{component}` of project `{project}`"))?;
    let request = files::Request { backup: which.selector()?, component: component.to_owned(), keep_setid };
    let going = recovery.restore_files(request, run_options(&consent)).await?;
    watch(session, &recovery, going).await
}

/// Puts files into a new folder. Nobody is asked: nothing is replaced.
async fn restore_into_folder(session: &Session, component: &str, files: IntoFolder, which: &Which) -> Result<Exit> {
    let target = files.target.ok_or_else(|| Error::new(ErrorKind::InvalidInput, "no folder is named"))?;
    let recovery = session.open_without_engine()?;
    let (output, terminal) = (&session.output, session.output.terminal.clone());
    let policy = Policy { own_everything: files.own, keep_setid: files.keep_setid };
    terminal.begin("restoring");
    let advance = terminal.clone();
    let told = move |done, all| advance.advance(done, all);
    let restored = recovery.restore_tree(&which.selector()?, component, &target, policy, told).await;
    terminal.end();
    let restored = restored?;
    output.show("restored_tree", &restored, |output| print_restored(output, &restored));
    Ok(if restored.troubles.is_complete() { Exit::Ok } else { Exit::Incomplete })
}

fn print_restored(output: &Output, restored: &RestoredTree) {
    let RestoredTree { backup, component, path, unpacked, troubles, objects_from_copy } = restored;
    output.line(format!(
        "restored `{component}` of backup {backup} to {}: {} files and {} folders, {}, read back and compared",
        path.display(),
        unpacked.files,
        unpacked.folders,
        human::bytes(unpacked.bytes)
    ));
    if unpacked.outward_links > 0 {
        output.line(format!("  {} symbolic links lead out of the folder", unpacked.outward_links));
    }
    if unpacked.setid_dropped > 0 {
        output.line(format!("  setuid or setgid was left out of {} files: --keep-setid", unpacked.setid_dropped));
    }
    if *objects_from_copy > 0 {
        output.line(format!("  {objects_from_copy} objects are damaged in the repository and came from its copy"));
    }
    if !troubles.is_complete() {
        output.line(format!("  INCOMPLETE: {} entries could not be read when it was backed up", troubles.unreadable));
    }
    for trouble in &troubles.list {
        output.line(format!("  {}: {}", trouble.path, trouble.why));
    }
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
