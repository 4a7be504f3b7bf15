//! Recovery of the application (runbook 3.2): what is stopped is started, and code or settings that cannot work are replaced.
//!
//! PHP is asked whether it can read the code, the environment file is read as the application reads it, and its key is tried
//! on what the database holds. Only what does not pass is replaced, and what differs is told by content, not by times; a
//! release that is newer than the backup and can be read is left alone, and so is every setting that can be read.
//!
//! Nothing is switched into maintenance mode: what is replaced is tested beside production first, and users are without the
//! application only while it is exchanged and started.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    Parts, Procedure, Recovered, evidence, fix,
    proof::{STEADY, is_outer, moment, pick},
    quiesce,
};
use crate::{
    catalog::Selector,
    error::{Error, ErrorKind, Result},
    objective::Objective,
    probe::{SharedProbe, all_of, code::CodeProbe},
    run::{Effect, Run, Wait},
    system::System,
    troubleshoot::pending_migrations,
};

mod code;
mod look;
mod services;
mod settings;

/// Name of the procedure in journals.
pub const PROCEDURE: &str = "recover-application";

const fn mins(minutes: u64) -> Duration {
    Duration::from_mins(minutes)
}

/// Recovers the application.
#[derive(Debug, Clone, Copy, Default)]
pub struct RecoverApplication;

/// What is replaced, whether or not it is found to be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The code.
    Code,
    /// The whole environment file.
    Config,
    /// Both.
    Both,
}

/// What a recovery of the application may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Which backup; [`Selector::Latest`] takes the newest whose code PHP can read, or whose environment file will do.
    pub backup: Selector,
    /// What to replace; without it, what is found to be broken, and no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
}

impl Request {
    fn forces(&self, what: Method) -> bool {
        self.method.is_some_and(|method| method == what || method == Method::Both)
    }
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

    fn check(&self, parts: &Parts, request: &Request) -> Result<()> {
        if request.forces(Method::Config) && parts.system.environment_file().is_none() {
            return Err(Error::new(ErrorKind::InvalidInput, "the configuration names no environment file")
                .hint("set `application.environment`, or leave out `--method`"));
        }
        if request.forces(Method::Code) && code::component(&parts.system).is_none() {
            return Err(Error::new(ErrorKind::InvalidInput, "no component of the configuration holds the code")
                .hint("add the folder of `artisan` as `[[components]]`, or leave out `--method`"));
        }
        Ok(())
    }

    async fn recover(&self, run: &Run, parts: &Parts, request: &Request) -> Result<Recovered> {
        recover(&run.scope("application"), parts, request).await
    }
}

async fn recover(run: &Run, parts: &Parts, request: &Request) -> Result<Recovered> {
    let began = run.id().time();
    settings::learn(parts).await;
    let looked = look::step(run, parts).await?;
    let replaces_code = request.forces(Method::Code) || !looked.code.is_empty();
    let is_config_forced = request.forces(Method::Config);
    let replaces_settings = is_config_forced || looked.environment.is_broken();
    let (mut done, mut to_review) = (Vec::new(), Vec::new());
    if replaces_code || replaces_settings {
        evidence::gather(run, parts).await?;
    }
    // All that takes time, and every question, comes before the first service is stopped.
    let (for_code, for_settings) = (run.scope("code"), run.scope("environment"));
    let code = if replaces_code { Some(code::make_ready(&for_code, parts, &request.backup).await?) } else { None };
    let settings = if replaces_settings {
        settings::make_ready(&for_settings, parts, &request.backup, &looked, is_config_forced).await?
    } else {
        None
    };
    let replaces = code.is_some() || settings.is_some();
    if replaces {
        quiesce::stop_step(run, parts, "stop", &looked.before, request.method.is_some()).await?;
    } else if !looked.to_restart.is_empty() {
        quiesce::stop_step(run, parts, "stop", &looked.to_restart, false).await?;
    }
    if looked.has_stale_cache || (settings.is_some() && looked.has_cache) {
        let set_aside = fix::set_cache_aside(run, parts).await?;
        done.push(format!("cached configuration: {}", set_aside.done));
    }
    if let Some(settings) = settings {
        settings::put_in_place(&for_settings, parts, settings, &mut done, &mut to_review).await?;
    }
    if let Some(code) = code {
        code::put_in_place(&for_code, parts, code, &mut done, &mut to_review).await?;
    }
    if replaces || !looked.to_restart.is_empty() || looked.before.iter().any(|one| !one.was_ready) {
        services::start(run, parts, &looked.before).await?;
        done.extend(looked.stopped.iter().map(|what| format!("started: {what}")));
        let anew: Vec<&str> = looked.to_restart.iter().map(|one| one.container.as_str()).collect();
        done.extend((!anew.is_empty() && !replaces).then(|| format!("started anew: {}", anew.join(", "))));
    }
    let proven_at = prove(run, parts, began).await?;
    let pending = pending(run, parts).await?;
    to_review.extend(
        pending.iter().map(|name| format!("migration `{name}` is not in the database: see the release's notes")),
    );
    to_review.extend(looked.remarks);
    let mut report = Recovered::new(parts.system.objectives.application, began, proven_at);
    report.found = [looked.stopped, looked.hung, looked.outside, looked.code, looked.environment.faults].concat();
    let stale = looked.environment.stale.iter();
    report.found.extend(stale.map(|one| format!("`{one}` runs with a broken copy of the environment file")));
    let is_stale = looked.has_stale_cache;
    report.found.extend(is_stale.then(|| "the cached configuration is older than the environment file".into()));
    (report.done, report.to_review) = (done, to_review);
    Ok(report)
}

/// Proves it: users are served, services run, and the application boots and logs in to its database.
async fn prove(run: &Run, parts: &Parts, began: DateTime<Utc>) -> Result<DateTime<Utc>> {
    let services = parts.system.writers();
    let proof = || {
        pick(parts, began, |name| {
            is_outer(name) || name.strip_prefix("container-").is_some_and(|service| services.contains(&service))
        })
    };
    let boots = CodeProbe::of(&parts.system, parts.backend.clone()).map(|probe| Arc::new(probe) as SharedProbe);
    let failed = |e: Error| match e.kind() {
        ErrorKind::Timeout => {
            e.hint("chom-recovery diagnose: what is wrong may be something that the application needs")
        }
        _ => e,
    };
    let once = Wait { consecutive: 1, ..STEADY };
    if let Some(boots) = boots {
        run.until_healthy(all_of("boots", vec![boots]), once).await.map_err(failed)?;
    }
    run.until_healthy(all_of("application", proof()), Wait { timeout: mins(4), ..STEADY }).await.map_err(failed)?;
    let proven_at = moment(run, "proven").await?;
    let soak = parts.system.application.soak;
    run.until_healthy(all_of("soak", proof()), Wait::soak(soak, Duration::from_secs(5), soak * 2 + mins(1))).await?;
    Ok(proven_at)
}

/// Lists what of the code the database has not seen; that it cannot be told holds nothing up.
async fn pending(run: &Run, parts: &Parts) -> Result<Vec<String>> {
    let parts = parts.clone();
    run.step("pending-migrations")
        .effect(Effect::Observe)
        .predict(Vec::new)
        .timeout(mins(1))
        .run(async move |_| Ok(pending_migrations(&parts).await.unwrap_or_default()))
        .await
}
