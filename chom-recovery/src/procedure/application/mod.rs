//! Recovery of the application (runbook 3.2): what is stopped is started, and code or settings that cannot work are replaced.
//!
//! PHP is asked whether it can read the code, the environment file is read as the application reads it, its key is tried on
//! what the database holds, and its login on the server. Only what does not pass is replaced, and what differs is told by content, not by times; a
//! release that is newer than the backup and can be read is left alone, and so is every setting that can be read.
//!
//! Nothing is switched into maintenance mode: what is replaced is tested beside production first, and users are without the
//! application only while it is exchanged and started.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Parts, Procedure, Recovered, evidence, fix, quiesce};
use crate::{
    catalog::Selector,
    error::{Error, ErrorKind, Result},
    objective::Objective,
    run::{Effect, Run},
    system::System,
    troubleshoot::pending_migrations,
};

mod code;
mod image;
mod look;
mod proof;
mod services;
mod settings;

pub use image::ReplaceImages;

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
    /// The images of its services, with those that the backup recorded. Code and settings are left to themselves.
    Image,
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
        match self.method {
            Some(Method::Both) => matches!(what, Method::Code | Method::Config | Method::Both),
            method => method == Some(what),
        }
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
    let mut looked = look::step(run, parts).await?;
    let replaces_images = request.forces(Method::Image);
    // The PHP of an image that is about to go has no say.
    let replaces_code = request.forces(Method::Code) || !looked.code.is_empty() && !replaces_images;
    let is_config_forced = request.forces(Method::Config);
    let replaces_settings = is_config_forced || looked.environment.is_broken();
    let (mut done, mut to_review) = (Vec::new(), Vec::new());
    if replaces_code || replaces_settings || replaces_images {
        evidence::gather(run, parts).await?;
    }
    // All that takes time, and every question, comes before the first service is stopped.
    let (for_code, for_settings, for_images) = (run.scope("code"), run.scope("environment"), run.scope("images"));
    let images =
        if replaces_images { Some(image::make_ready(&for_images, parts, &request.backup).await?) } else { None };
    let code = if replaces_code { Some(code::make_ready(&for_code, parts, &request.backup).await?) } else { None };
    let settings = if replaces_settings {
        settings::make_ready(&for_settings, parts, &request.backup, &looked, is_config_forced).await?
    } else {
        None
    };
    let replaces = code.is_some() || settings.is_some() || images.is_some();
    if replaces {
        let usable = request.method.is_some() && !replaces_images;
        quiesce::stop_step(run, parts, "stop", &looked.before, usable).await?;
    } else if !looked.to_restart.is_empty() {
        quiesce::stop_step(run, parts, "stop", &looked.to_restart, false).await?;
    }
    if looked.has_stale_cache || (settings.is_some() && looked.has_cache) {
        let set_aside = fix::set_cache_aside(run, parts).await?;
        done.push(format!("cached configuration: {}", set_aside.done));
    }
    if let Some(images) = images {
        image::put_in_place(&for_images, parts, images, &looked.before, &mut done, &mut to_review).await?;
    }
    if let Some(settings) = settings {
        settings::put_in_place(&for_settings, parts, settings, &mut done, &mut to_review).await?;
    }
    if let Some(code) = code {
        code::put_in_place(&for_code, parts, code, &mut done, &mut to_review).await?;
    }
    let starts = |one: &&quiesce::Remembered| replaces || !one.was_ready || looked.to_restart.contains(one);
    let started: Vec<&str> = looked.before.iter().filter(starts).map(|one| one.service.as_str()).collect();
    let suspected = |e: Error| match &looked.suspicion {
        Some(suspicion) if !replaces => e.hint(suspicion.clone()),
        _ => e,
    };
    let mut since = 0;
    if !started.is_empty() {
        since = proof::clock(run, parts).await?;
        services::start(run, parts, &looked.before).await.map_err(suspected)?;
        done.extend(looked.stopped.iter().map(|what| format!("started: {what}")));
        let anew: Vec<&str> = looked.to_restart.iter().map(|one| one.container.as_str()).collect();
        done.extend((!anew.is_empty() && !replaces).then(|| format!("started anew: {}", anew.join(", "))));
    }
    let started = proof::Started { services: &started, since };
    let proven_at = proof::prove(run, parts, began, started).await.map_err(suspected)?;
    let pending = pending(run, parts).await?;
    to_review.extend(
        pending.iter().map(|name| format!("migration `{name}` is not in the database: see the release's notes")),
    );
    if replaces_images {
        to_review.extend(looked.code.iter().map(|fault| format!("by the PHP of the image before: {fault}")));
        looked.code.clear();
    }
    to_review.extend(looked.remarks);
    let mut report = Recovered::new(parts.system.objectives.application, began, proven_at);
    report.found =
        [looked.stopped, looked.hung, looked.outside, looked.refused, looked.code, looked.environment.faults].concat();
    let stale = looked.environment.stale.iter();
    report.found.extend(stale.map(|one| format!("`{one}` runs with a broken copy of the environment file")));
    let is_behind = looked.environment.is_behind;
    let says = "what the application goes by is not what the environment file says: with that, the database lets it in";
    report.found.extend(is_behind.then(|| says.into()));
    let is_stale = looked.has_stale_cache && !is_behind;
    report.found.extend(is_stale.then(|| "the cached configuration is older than the environment file".into()));
    (report.done, report.to_review) = (done, to_review);
    Ok(report)
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
