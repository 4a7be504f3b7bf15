//! `recover`, `restore`, `resume`, `rollback`: what changes production.

use std::path::{Path, PathBuf};

use chom_recovery::{
    Error, ErrorKind, Recovery, Result,
    files::unpack::Policy,
    mysql::tables::TableName,
    procedure::{
        Procedure,
        application::{self, RecoverApplication},
        backup, close,
        database::{Extent, Request},
        drill, files,
        nginx::{self, RecoverNginx},
        partial, performance,
        tables::{self, RestoreTables},
    },
    recovery::{RestoredTree, RunOptions},
    run::Plan,
    system::DATABASE,
};
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;

use crate::{
    args::{Consent, How, IntoFolder, OfKind, OnlyTables, Recover, Waivers, WantedKindChoice, Which},
    exit::Exit,
    human,
    output::Output,
    session::{Session, run_options},
    watch::watch,
};

pub(crate) async fn recover(session: &Session, command: Recover) -> Result<Exit> {
    match command {
        Recover::Database { which, kind, since, how } => database(session, &which, kind, since, how).await,
        Recover::Application { which, method, how } => {
            let request = application::Request { backup: which.selector()?, method: method.map(Into::into) };
            part(session, RecoverApplication, request, how, "the application").await
        }
        Recover::Nginx { which, how } => {
            let request = nginx::Request { backup: which.selector()? };
            part(session, RecoverNginx, request, how, "the web server").await
        }
        Recover::Performance { how } => {
            let request = performance::Request {};
            part(session, performance::RecoverPerformance, request, how, "end what makes the service slow").await
        }
        Recover::Queue { how } => {
            part(session, partial::RecoverQueue, partial::Request {}, how, "drain and start workers").await
        }
        Recover::Scheduler { how } => {
            part(session, partial::RecoverScheduler, partial::Request {}, how, "start the scheduler").await
        }
        Recover::Redis { restart, how } => {
            part(session, partial::RecoverRedis, partial::redis::Request { restart }, how, "mend or restart redis")
                .await
        }
    }
}

async fn database(
    session: &Session,
    which: &Which,
    kind: OfKind,
    since: Option<DateTime<Utc>>,
    how: How,
) -> Result<Exit> {
    let recovery = session.open().await?;
    let (mut options, plan) = agreed(session, &recovery, how, &replacing(&recovery))?;
    let (backup, kind) = (which.selector()?, kind.into());
    let mut request = Request { backup, kind, extent: Extent::Recover, incident_began: since };
    if let Some((file, plan)) = plan {
        request = planned_request(&file, &plan)?;
        options.plan = Some(plan);
    }
    start(session, &recovery, request, options).await
}

/// Runs a recovery of a part of the system.
async fn part<P: Procedure>(
    session: &Session,
    procedure: P,
    mut request: P::Request,
    how: How,
    what: &str,
) -> Result<Exit> {
    let recovery = session.open().await?;
    let project = &recovery.system().compose.project;
    let what = format!("recover {what} of project `{project}` on {}", recovery.backend().engine_address());
    let (mut options, plan) = agreed(session, &recovery, how, &what)?;
    if let Some((file, plan)) = plan {
        request = planned_request(&file, &plan)?;
        options.plan = Some(plan);
    }
    let going = recovery.recover(procedure, request, options).await?;
    watch(session, &recovery, going).await
}

/// Translates who says yes to what, and reads the plan that is to be held to.
fn agreed(
    session: &Session,
    recovery: &Recovery,
    how: How,
    what: &str,
) -> Result<(RunOptions, Option<(PathBuf, Plan)>)> {
    let consent = session.consent(&how.consent, recovery)?;
    consent.can_be_given(what)?;
    let options = RunOptions { waivers: consent.waivers(&how.waivers), ..run_options(&consent) };
    let plan = match how.plan {
        Some(file) => Some((file.clone(), read_plan(&file)?)),
        None => None,
    };
    Ok((options, plan))
}

pub(crate) async fn restore(
    session: &Session,
    component: &str,
    files: IntoFolder,
    which: &Which,
    kind: OfKind,
    since: Option<DateTime<Utc>>,
    consent: &Consent,
) -> Result<Exit> {
    if component != DATABASE {
        if kind.kind != WantedKindChoice::Auto {
            return Err(Error::new(ErrorKind::InvalidInput, format!("`{component}` is kept in one kind alone"))
                .hint("`--kind` is about the database: leave it out, or leave out `--component`"));
        }
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
    let (backup, kind) = (which.selector()?, kind.into());
    let request = Request { backup, kind, extent: Extent::Restore, incident_began: since };
    start(session, &recovery, request, run_options(&consent)).await
}

impl OnlyTables {
    /// Tells whether it is not about the whole database.
    pub(crate) fn are_named(&self) -> bool {
        !self.tables.is_empty() || !self.schemas.is_empty() || self.allow_local_infile
    }

    pub(crate) fn request(&self, which: &Which) -> Result<tables::Request> {
        Ok(tables::Request {
            backup: which.selector()?,
            tables: self.tables.iter().map(|name| TableName::parse(name)).collect::<Result<_>>()?,
            schemas: self.schemas.clone(),
            rename: self.rename.as_deref().map(TableName::parse).transpose()?,
            allow_local_infile: self.allow_local_infile,
        })
    }
}

/// Restores single tables on the running server.
pub(crate) async fn restore_tables(
    session: &Session,
    component: &str,
    tables: &OnlyTables,
    files: &IntoFolder,
    which: &Which,
    consent: &Consent,
) -> Result<Exit> {
    if component != DATABASE || files.target.is_some() {
        return Err(Error::new(ErrorKind::InvalidInput, "tables are restored from the database into the database")
            .hint("leave out `--component` and `--target`"));
    }
    let request = tables.request(which)?;
    let recovery = session.open().await?;
    let consent = session.consent(consent, &recovery)?;
    // A table under another name replaces nothing, and nobody is asked.
    if request.rename.is_none() {
        let project = &recovery.system().compose.project;
        let engine = recovery.backend().engine_address();
        consent.can_be_given(&format!("replace tables of project `{project}` on {engine}"))?;
    }
    let going = recovery.recover(RestoreTables, request, run_options(&consent)).await?;
    watch(session, &recovery, going).await
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
    let leaves_nothing = [backup::PROCEDURE, drill::PROCEDURE, close::PROCEDURE];
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
    Error::new(ErrorKind::InvalidInput, format!("`{}` holds no plan of this recovery", file.display()))
        .hint("make one: chom-recovery plan recover ... -o FILE")
}

fn read_plan(file: &Path) -> Result<Plan> {
    let text =
        std::fs::read(file).map_err(|e| Error::from(e).during(format!("cannot read the plan `{}`", file.display())))?;
    serde_json::from_slice(&text).map_err(|e| not_a_plan(file).caused_by(e))
}

fn planned_request<T: DeserializeOwned>(file: &Path, plan: &Plan) -> Result<T> {
    serde_json::from_value(plan.request.clone()).map_err(|e| not_a_plan(file).caused_by(e))
}
