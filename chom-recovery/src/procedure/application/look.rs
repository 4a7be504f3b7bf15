//! What is wrong with the application: nothing is changed.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use serde::{Deserialize, Serialize};

use super::{code, image, mins, settings};
use crate::{
    backend::{Container, ContainerState, HealthCheck},
    catalog::Selector,
    error::{Error, ErrorKind, Result},
    probe::{Answer, Class, HealthMode, HealthProbe, Status, ask, code::CodeProbe, fpm::FpmProbe},
    procedure::{
        Parts,
        quiesce::{self, Remembered},
    },
    run::{Effect, Run, RunId},
    troubleshoot::config_cache,
};

/// Longest time to look at the newest backup.
const LOOKING: Duration = Duration::from_secs(20);

/// What was seen of the application.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Looked {
    /// Containers of the application and its workers as they were.
    pub(super) before: Vec<Remembered>,
    /// What does not run, a line each.
    pub(super) stopped: Vec<String>,
    /// What runs and does not answer, a line each.
    #[serde(default)]
    pub(super) hung: Vec<String>,
    /// What has to be started anew: it hangs, or has read something that is not so any more.
    #[serde(default)]
    pub(super) to_restart: Vec<Remembered>,
    /// What users get, where that is bad, a line each.
    pub(super) outside: Vec<String>,
    /// That the database refuses the application, in a line.
    #[serde(default)]
    pub(super) refused: Vec<String>,
    /// Files that PHP cannot read, a line each.
    pub(super) code: Vec<String>,
    /// The environment file.
    #[serde(default)]
    pub(super) environment: settings::Seen,
    /// Why the image is what is broken, as far as can be seen, and what mends that.
    #[serde(default)]
    pub(super) suspicion: Option<String>,
    /// What is only told, a line each: images that changed since the newest backup, what was not judged.
    #[serde(default)]
    pub(super) remarks: Vec<String>,
    /// The application's configuration is cached.
    #[serde(default)]
    pub(super) has_cache: bool,
    /// It is older than the environment file, and something does not serve; or what it says is refused, and the file is not.
    #[serde(default)]
    pub(super) has_stale_cache: bool,
}

pub(super) async fn step(run: &Run, parts: &Parts) -> Result<Looked> {
    let (parts, id) = (parts.clone(), run.id());
    run.step("look")
        .effect(Effect::Observe)
        .kept()
        .predict(Looked::default)
        .budget(mins(1))
        .timeout(mins(10))
        .run(async move |_| look(&parts, id).await)
        .await
}

async fn look(parts: &Parts, run: RunId) -> Result<Looked> {
    let backend = &*parts.backend;
    let system = &parts.system;
    let services: Vec<String> = system.writers().into_iter().map(str::to_owned).collect();
    let before = quiesce::remember(backend, &services).await?;
    let containers = backend.containers().await?;
    let stopped =
        containers.iter().filter(|c| services.contains(&c.service) && c.state != ContainerState::Running).map(|c| {
            let code = c.exit_code.map_or_else(String::new, |code| format!(", exit code {code}"));
            format!("`{}` was {}{code}", c.name, format!("{:?}", c.state).to_lowercase())
        });
    let stopped: Vec<String> = stopped.collect();
    let hung = hung(parts, &containers, &services).await;
    let mut probes = parts.application.probes(HealthMode::Monitoring, None);
    probes.retain(|probe| probe.name().starts_with("http-") || probe.name() == "mysql");
    let answers: Vec<Answer> = join_all(probes.iter().map(|probe| ask(probe, Duration::from_secs(15)))).await;
    let bad = |answer: &&Answer| answer.health.status == Status::Down;
    if let Some(database) = answers.iter().filter(bad).find(|answer| answer.probe == "mysql") {
        let what = format!("the database does not serve, and the application needs it: {}", database.health.summary);
        return Err(Error::new(ErrorKind::Precondition, what).hint("chom-recovery recover database"));
    }
    let outside: Vec<String> =
        answers.iter().filter(bad).map(|a| format!("{}: {}", a.probe, a.health.summary)).collect();
    let boots = match CodeProbe::of(system, parts.backend.clone()) {
        Some(probe) => Some(probe.check().await),
        None => None,
    };
    let refused = boots.as_ref().filter(|health| health.class_of() == Some(Class::Authentication));
    let refused: Vec<String> = refused.map(|health| health.summary.clone()).into_iter().collect();
    let is_wrong = !(stopped.is_empty() && hung.is_empty() && outside.is_empty() && refused.is_empty());
    let mut remarks = Vec::new();
    let code = match code::judge(parts, run).await {
        // What nobody misses may be a fixture of a test, or for another PHP.
        Ok(faults) if !is_wrong => {
            remarks.extend(faults.iter().map(|fault| format!("the application serves, and yet: {fault}")));
            Vec::new()
        }
        Ok(faults) => faults,
        Err(error) => {
            remarks.push(format!("whether PHP can read the code is not known: {error}"));
            Vec::new()
        }
    };
    let mut environment = settings::look(parts, is_wrong, boots.as_ref()).await;
    if let Some(error) = environment.dead_end() {
        return Err(error);
    }
    remarks.append(&mut environment.remarks);
    // The repository is not needed for anything else here, and may be out of reach.
    let images = tokio::time::timeout(LOOKING, image::changes(parts, &Selector::Latest, &containers, &services)).await;
    let images = images.ok().and_then(Result::ok).map(|(_, changes)| changes).unwrap_or_default();
    let is_left = code.is_empty() && !environment.is_broken();
    let suspicion = images.iter().filter(|_| is_left).find_map(image::Change::suspicion);
    remarks.extend(images.iter().map(image::Change::remark));
    let (has_cache, is_older) = cache(parts).await;
    let has_stale_cache = has_cache && (environment.is_behind || is_older && is_wrong);
    if is_older && !is_wrong {
        remarks
            .push("the cached configuration is older than the environment file: changes in it do not count yet".into());
    }
    let mut to_restart = before.clone();
    to_restart.retain(|one| {
        one.was_running
            && (has_stale_cache
                || environment.is_behind
                || environment.stale.contains(&one.service)
                || hung.contains_key(&one.container))
    });
    let hung = hung.into_values().collect();
    Ok(Looked {
        before,
        stopped,
        hung,
        to_restart,
        outside,
        refused,
        code,
        environment,
        suspicion,
        remarks,
        has_cache,
        has_stale_cache,
    })
}

/// Finds the containers that run and do not answer, with a line about each: their health check says so, or php-fpm does not answer at its own port.
async fn hung(parts: &Parts, containers: &[Container], services: &[String]) -> BTreeMap<String, String> {
    let ours = || containers.iter().filter(|c| services.contains(&c.service) && c.state == ContainerState::Running);
    let mut hung: BTreeMap<String, String> = ours()
        .filter(|c| c.health == HealthCheck::Unhealthy)
        .map(|c| (c.name.clone(), format!("`{}` runs, and its health check fails", c.name)))
        .collect();
    if let Some(probe) = FpmProbe::of(&parts.system, parts.backend.clone()) {
        let health = probe.check().await;
        if health.status == Status::Down {
            let of_fpm = ours().filter(|c| c.service == parts.system.application.service);
            hung.extend(of_fpm.map(|c| (c.name.clone(), format!("`{}` runs, and {}", c.name, health.summary))));
        }
    }
    hung
}

/// Tells whether the configuration is cached, and whether the cache is older than what it caches. One that lies in the image
/// goes with the container.
async fn cache(parts: &Parts) -> (bool, bool) {
    let Ok(cache) = config_cache(parts).await else { return (false, false) };
    let Ok(cached) = std::fs::symlink_metadata(&cache).and_then(|meta| meta.modified()) else { return (false, false) };
    let changed = settings::changed(parts).await;
    (true, changed.is_some_and(|changed| changed > cached))
}
