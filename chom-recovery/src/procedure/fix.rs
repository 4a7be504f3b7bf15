//! Fixes of troubleshooting that are safe and can be undone.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    Parts, Procedure, Recovered, permissions,
    proof::{STEADY, moment, pick},
    quiesce,
};
use crate::{
    backend::BackendExt,
    error::{Error, ErrorKind, Result},
    objective::Objective,
    probe::all_of,
    run::{Effect, Run},
    store::pipe,
    system::{Component, System, TreeKind},
    troubleshoot::{config_cache, may_start},
};

/// Name of the procedure in journals.
pub const PROCEDURE: &str = "fix";

/// Name of the cause that [`Fix`] mends by setting the cached configuration aside.
const STALE: &str = "stale-config-cache";
/// Beginning of the names of causes that it mends by starting a service.
const STOPPED: &str = "stopped-";

/// Beginning of the names of causes that it mends by giving entries of a component their recorded owners and permissions
/// back.
pub(crate) const DIFFERS: &str = "differs-";

/// Longest time until a service runs.
const STARTING: Duration = Duration::from_mins(5);

/// Mends one cause that troubleshooting found.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fix;

/// What is to be mended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Cause, by its name: `stopped-SERVICE`, `stale-config-cache` or `differs-COMPONENT`.
    pub cause: String,
}

#[async_trait]
impl Procedure for Fix {
    type Request = Request;

    fn name(&self) -> &'static str {
        PROCEDURE
    }

    fn objective(&self, system: &System) -> Objective {
        system.objectives.database
    }

    fn check(&self, parts: &Parts, request: &Request) -> Result<()> {
        if let Some(name) = request.cause.strip_prefix(DIFFERS) {
            return component(&parts.system, name).map(drop);
        }
        if request.cause == STALE || request.cause.strip_prefix(STOPPED).is_some_and(|service| !service.is_empty()) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::InvalidInput,
            format!("nothing mends `{}` without a person", request.cause.escape_debug()),
        )
        .hint("`chom-recovery troubleshoot ISSUE` says what a person does, and marks what `--fix` takes"))
    }

    async fn recover(&self, run: &Run, parts: &Parts, request: &Request) -> Result<Recovered> {
        let run = run.scope("fix");
        let began = moment(&run, "began").await?;
        let cause = request.cause.as_str();
        let mended = match (cause.strip_prefix(STOPPED), cause.strip_prefix(DIFFERS)) {
            (Some(service), _) => start(&run, parts, service).await?,
            (_, Some(name)) => give_permissions_back(&run, parts, name).await?,
            _ => set_cache_aside(&run, parts).await?,
        };
        let proven = moment(&run, "proven").await?;
        let mut report = Recovered::new(self.objective(&parts.system), began, proven);
        (report.found, report.done) = (vec![mended.found], vec![mended.done]);
        report.to_review = mended.to_review;
        Ok(report)
    }
}

/// What a fix did, a line each.
pub(super) struct Mended {
    found: String,
    pub(super) done: String,
    to_review: Vec<String>,
}

impl Mended {
    fn new(found: String, done: String) -> Self {
        Self { found, done, to_review: Vec::new() }
    }
}

/// Finds a component whose permissions a backup records.
fn component<'a>(system: &'a System, name: &str) -> Result<&'a Component> {
    let of_files = || system.components.iter().filter(|c| c.kind != TreeKind::Redis);
    of_files().find(|component| component.name == name).ok_or_else(|| {
        let known: Vec<_> = of_files().map(|c| c.name.as_str()).collect();
        let error = format!("no component of files is called `{}`", name.escape_debug());
        Error::new(ErrorKind::InvalidInput, error).with("components", known.join(", "))
    })
}

/// Starts a service that was stopped, and proves it. Undoing it stops it again.
async fn start(run: &Run, parts: &Parts, service: &str) -> Result<Mended> {
    let those = run
        .decide("survey", async {
            let containers = parts.backend.service_containers(service).await?;
            if containers.iter().any(|c| !may_start(c)) {
                return Err(Error::new(
                    ErrorKind::Precondition,
                    format!("service `{service}` runs, or did not end on purpose: starting it mends nothing"),
                )
                .hint("chom-recovery troubleshoot start"));
            }
            quiesce::remember(&*parts.backend, &[service.to_owned()]).await
        })
        .await?;
    let (starting, stopping) = (parts.backend.clone(), parts.backend.clone());
    let (name, to_stop, to_put_back) = (service.to_owned(), those.clone(), those.clone());
    let grace = parts.system.application.stop_grace;
    run.step("start")
        .effect(Effect::Idempotent)
        .input(&those)
        .predict(|| ())
        .budget(Duration::from_mins(1))
        .timeout(STARTING + Duration::from_mins(1))
        .undo_text("stop it again")
        .undo_with(async move |_, _: Option<()>| {
            quiesce::stop(&*stopping, &to_stop, grace).await?;
            quiesce::prove_stopped(&*stopping, &to_stop).await?;
            quiesce::put_policies_back(&*stopping, &to_put_back).await
        })
        .run(async move |_| starting.start(&name, STARTING).await)
        .await?;
    let since = moment(run, "started").await?;
    let probes = pick(parts, since, |probe| probe.strip_prefix("container-") == Some(service));
    if !probes.is_empty() {
        run.until_healthy(all_of("service", probes), STEADY).await?;
    }
    Ok(Mended::new(
        format!("service `{service}` was stopped"),
        format!("started service `{service}`, and saw that it runs"),
    ))
}

/// Gives the cached configuration another name beside it. Undoing it puts it back.
pub(super) async fn set_cache_aside(run: &Run, parts: &Parts) -> Result<Mended> {
    let cache = run.decide("survey", config_cache(parts)).await?;
    let aside = PathBuf::from(format!("{}.{}", cache.display(), run.id()));
    let (from, to, back_from, back_to, gone) =
        (cache.clone(), aside.clone(), aside.clone(), cache.clone(), cache.clone());
    run.step("set-cache-aside")
        .effect(Effect::Idempotent)
        .input(&(&cache, &aside))
        .predict(|| ())
        .timeout(Duration::from_mins(1))
        .undo_text("put the cached configuration back")
        .undo_with(async move |_, _: Option<()>| pipe::blocking(move || put_back(&back_from, &back_to)).await)
        .run(async move |_| pipe::blocking(move || rename(&from, &to)).await)
        .verify(async move |_, _| match gone.try_exists() {
            Ok(false) => Ok("the application reads `.env`"),
            _ => Err(Error::new(ErrorKind::Conflict, "the cache is there again: something writes it")),
        })
        .await?;
    Ok(Mended::new(
        format!("`{}` was older than `.env`", cache.display()),
        format!("it is now `{}`, and the application reads `.env`", aside.display()),
    ))
}

/// Gives the entries of a component that differ from its newest backup their recorded owners and permissions back. Undoing it
/// gives them those that they had.
async fn give_permissions_back(run: &Run, parts: &Parts, name: &str) -> Result<Mended> {
    let compared = run
        .decide("survey", async {
            // Asked for in here alone: a rollback works though the configuration no longer names the component.
            let compared = permissions::look(parts, component(&parts.system, name)?).await?;
            compared.check(name)?;
            Ok(compared)
        })
        .await?;
    let (given, left) = permissions::apply(run, &compared).await?;
    let mut mended = Mended::new(
        format!("component `{name}`: {} entries differed from backup {}", compared.differing.len(), compared.backup),
        format!("gave {given} of them their recorded owners and permissions back"),
    );
    mended.to_review = [left, compared.remarks()].concat();
    Ok(mended)
}

/// Renames, unless that was done, or there is nothing any more.
fn rename(from: &Path, to: &Path) -> Result<()> {
    match (from.try_exists()?, to.try_exists()?) {
        (true, false) => Ok(std::fs::rename(from, to)?),
        (false, _) => Ok(()),
        (true, true) => Err(Error::new(
            ErrorKind::Conflict,
            format!("`{}` and `{}` are both there: something wrote one anew", from.display(), to.display()),
        )),
    }
}

/// Renames back. What was written anew meanwhile, as images do that cache the configuration at each start, gives way.
fn put_back(aside: &Path, to: &Path) -> Result<()> {
    if !aside.try_exists()? {
        return Ok(());
    }
    if to.try_exists()? {
        std::fs::rename(to, format!("{}.undone", aside.display()))?;
    }
    Ok(std::fs::rename(aside, to)?)
}
