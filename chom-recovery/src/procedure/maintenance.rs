//! Maintenance mode of the application: switched inside, proven from outside.
//!
//! Laravel keeps the mode in each container of the application (`storage/framework/down`), so that it is switched in
//! all of them. What was on before a run stays on after it: [`MaintenanceRecord`] remembers.
//!
//! When the application does not run there is nothing to switch: the web server then answers 502 or not at all, and
//! what is verified is that nothing answers with success.

use std::{fmt, time::Duration};

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    backend::{Backend, BackendExt, Container, ContainerState, ExecRequest, Place},
    error::{Error, ErrorKind, Result},
    probe::http::{HttpAnswer, fetch},
    stream,
    system::{HttpCheck, Maintenance, System},
};

/// Longest time of one `artisan` command.
const COMMAND: Duration = Duration::from_secs(45);
/// Longest time until the change is seen from outside.
const SEEN: Duration = Duration::from_secs(20);
/// Between two looks from outside.
const PAUSE: Duration = Duration::from_millis(500);
/// First major version of Laravel that knows `--refresh` and no longer knows `--message` (laravel/framework#34211).
const LARAVEL_WITH_REFRESH: u32 = 8;

/// Whether users are kept out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaintenanceState {
    /// Users are served.
    Off,
    /// Maintenance mode is on in every container of the application.
    On,
    /// It is on in some containers only.
    Mixed,
    /// The system has no maintenance mode.
    NotConfigured,
}

impl fmt::Display for MaintenanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Mixed => "on in some containers",
            Self::NotConfigured => "not configured",
        })
    }
}

/// How users were kept out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// By the application's own maintenance mode.
    Application,
    /// The application does not run, and nothing else answers with success.
    NotRunning,
    /// Not at all: the system has no maintenance mode.
    NotConfigured,
}

/// What [`down`] found and did; [`up`] needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceRecord {
    /// Whether it was on before: then [`up`] leaves it on.
    pub was_down_before: bool,
    /// How users are kept out.
    pub method: Method,
    /// Checks that answered 503, with `Retry-After` unless the mode was on before. Empty where no check is configured: then nothing outside was seen.
    pub seen_by: Vec<String>,
    /// Checks that still answer with success, for example because the web server serves a file itself.
    pub still_served: Vec<String>,
}

impl MaintenanceRecord {
    /// What switching it on is expected to find, for plans.
    pub(crate) fn expected() -> Self {
        Self { was_down_before: false, method: Method::Application, seen_by: Vec::new(), still_served: Vec::new() }
    }
}

/// Asks each container of the application whether maintenance mode is on; stopped containers are looked into as well.
///
/// # Errors
/// `NotFound`: the application has no container. Errors of the backend.
pub async fn state(system: &System, backend: &dyn Backend) -> Result<MaintenanceState> {
    let Some(artisan) = Artisan::of(system) else { return Ok(MaintenanceState::NotConfigured) };
    state_of(&artisan, backend, &backend.service_containers(&system.application.service).await?).await
}

/// Switches maintenance mode on and waits until it is seen from outside. Harmless when it is on.
///
/// # Errors
/// `Failed`: the command failed. `Unhealthy`: the service still answers users after 20 seconds.
///
/// # Cancel
/// The mode may be on or off; calling again is safe.
pub async fn down(system: &System, backend: &dyn Backend) -> Result<MaintenanceRecord> {
    let Some(artisan) = Artisan::of(system) else {
        return Ok(MaintenanceRecord {
            was_down_before: false,
            method: Method::NotConfigured,
            seen_by: Vec::new(),
            still_served: Vec::new(),
        });
    };
    let containers = backend.service_containers(&system.application.service).await?;
    let was_down_before = state_of(&artisan, backend, &containers).await? == MaintenanceState::On;
    let running: Vec<_> = containers.iter().filter(|c| c.state == ContainerState::Running).collect();
    if running.is_empty() {
        verify_unserved(system).await?;
        return Ok(MaintenanceRecord {
            was_down_before,
            method: Method::NotRunning,
            seen_by: Vec::new(),
            still_served: Vec::new(),
        });
    }
    if !was_down_before {
        for container in &running {
            artisan.down(backend, container).await?;
        }
        let found = state_of(&artisan, backend, &running.into_iter().cloned().collect::<Vec<_>>()).await?;
        if found != MaintenanceState::On {
            return Err(Error::new(ErrorKind::Failed, format!("`artisan down` succeeded, and the mode is {found}")));
        }
    }
    let (seen_by, still_served) = verify_down(system, was_down_before).await?;
    Ok(MaintenanceRecord { was_down_before, method: Method::Application, seen_by, still_served })
}

/// Switches maintenance mode off and waits until that is seen from outside. Does nothing when it was on before
/// [`down`]. Harmless when it is off.
///
/// # Errors
/// `Precondition`: the application does not run. `Failed`: the command failed. `Unhealthy`: maintenance mode is still
/// seen from outside after 20 seconds.
pub async fn up(system: &System, backend: &dyn Backend, record: &MaintenanceRecord) -> Result<()> {
    let Some(artisan) = Artisan::of(system) else { return Ok(()) };
    if record.was_down_before {
        return Ok(());
    }
    let service = &system.application.service;
    let containers = backend.service_containers(service).await?;
    let running: Vec<_> = containers.into_iter().filter(|c| c.state == ContainerState::Running).collect();
    if running.is_empty() {
        return Err(Error::new(
            ErrorKind::Precondition,
            format!("cannot switch maintenance mode off: no container of service `{service}` runs"),
        )
        .hint(format!("start service `{service}` first")));
    }
    for container in &running {
        artisan.up(backend, container).await?;
    }
    let found = state_of(&artisan, backend, &running).await?;
    if found != MaintenanceState::Off {
        return Err(Error::new(ErrorKind::Failed, format!("`artisan up` succeeded, and maintenance mode is {found}")));
    }
    verify_up(system).await
}

/// Looks from outside until every check is answered with success, at most 20 seconds. Returns those that are, and
/// those that are not.
pub async fn served(system: &System) -> (Vec<String>, Vec<String>) {
    let checks = &system.http;
    let (Ok(seen) | Err(seen)) = look_until(checks, false, |seen| seen.success.len() == checks.len()).await;
    let unserved = checks.iter().map(|check| &check.name).filter(|name| !seen.success.contains(name));
    (seen.success.clone(), unserved.cloned().collect())
}

async fn state_of(artisan: &Artisan<'_>, backend: &dyn Backend, containers: &[Container]) -> Result<MaintenanceState> {
    let mut on = 0;
    for container in containers {
        on += usize::from(artisan.is_down(backend, container).await?);
    }
    Ok(match on {
        0 => MaintenanceState::Off,
        n if n == containers.len() => MaintenanceState::On,
        _ => MaintenanceState::Mixed,
    })
}

/// Laravel's command in a container.
pub(in crate::procedure) struct Artisan<'a> {
    directory: &'a str,
    user: Option<&'a str>,
    retry_seconds: u32,
}

impl<'a> Artisan<'a> {
    pub(in crate::procedure) fn of(system: &'a System) -> Option<Self> {
        match &system.application.maintenance {
            Maintenance::Laravel { directory, user, retry_seconds } => {
                Some(Self { directory, user: user.as_deref(), retry_seconds: *retry_seconds })
            }
            Maintenance::None => None,
        }
    }

    /// Runs a command that only looks, or that may be given again.
    pub(in crate::procedure) async fn run(
        &self,
        backend: &dyn Backend,
        container: &Container,
        arguments: &[String],
    ) -> Result<String> {
        let mut argv = vec!["php".to_owned(), format!("{}/artisan", self.directory.trim_end_matches('/'))];
        argv.extend_from_slice(arguments);
        let mut request = ExecRequest::new(argv);
        request.user = self.user.map(str::to_owned);
        let what = format!("`artisan {}` in `{}`", arguments.first().map_or("", String::as_str), container.name);
        let result = backend.run(&container.name, request, COMMAND).await.map_err(|e| e.during(&what))?;
        Ok(String::from_utf8_lossy(&result.success(&what)?.stdout).into_owned())
    }

    async fn down(&self, backend: &dyn Backend, container: &Container) -> Result<()> {
        let version = self.run(backend, container, &["--version".into(), "--no-ansi".into()]).await?;
        self.run(backend, container, &down_arguments(major_version(&version), self.retry_seconds)).await.map(drop)
    }

    async fn up(&self, backend: &dyn Backend, container: &Container) -> Result<()> {
        self.run(backend, container, &["up".into(), "--no-interaction".into()]).await.map(drop)
    }

    /// Looks for the file that the framework's default driver keeps. The archive also opens stopped containers.
    async fn is_down(&self, backend: &dyn Backend, container: &Container) -> Result<bool> {
        let path = format!("{}/storage/framework/down", self.directory.trim_end_matches('/'));
        match backend.read_archive(&Place::Container(container.name.clone()), &path).await {
            Ok(tar) => {
                // One small file; reading it to its end proves that it is there.
                stream::collect(tar, 1 << 20).await?;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.during(format!("cannot look for maintenance mode in `{}`", container.name))),
        }
    }
}

/// Arguments that this version understands; an unknown one is taken for a current one.
fn down_arguments(major: Option<u32>, retry_seconds: u32) -> Vec<String> {
    let mut arguments = vec!["down".into(), "--no-interaction".into(), format!("--retry={retry_seconds}")];
    if major.is_none_or(|major| major >= LARAVEL_WITH_REFRESH) {
        arguments.push(format!("--refresh={retry_seconds}"));
    }
    arguments
}

/// Reads `Laravel Framework 10.48.22`.
fn major_version(text: &str) -> Option<u32> {
    text.split_whitespace().find_map(|word| word.split_once('.')?.0.parse().ok())
}

/// What the checks see from outside. A check that got no answer is in neither list.
#[derive(Debug, Default)]
struct Outside {
    maintenance: Vec<String>,
    success: Vec<String>,
}

/// `any_503`: it is known from inside that the mode is on; who switched it on may have set no `Retry-After`.
async fn look(checks: &[HttpCheck], any_503: bool) -> Outside {
    let mut outside = Outside::default();
    for (check, answer) in checks.iter().zip(join_all(checks.iter().map(fetch)).await) {
        match answer {
            Ok(answer) if is_maintenance(&answer, any_503) => outside.maintenance.push(check.name.clone()),
            Ok(answer) if (200..300).contains(&answer.status) => outside.success.push(check.name.clone()),
            _ => {}
        }
    }
    outside
}

fn is_maintenance(answer: &HttpAnswer, any_503: bool) -> bool {
    answer.status == 503 && (any_503 || answer.retry_after.is_some())
}

/// Looks from outside until `enough` is true; on the deadline gives back what was seen last.
async fn look_until(
    checks: &[HttpCheck],
    any_503: bool,
    enough: impl Fn(&Outside) -> bool,
) -> Result<Outside, Outside> {
    let begun = Instant::now();
    loop {
        let outside = look(checks, any_503).await;
        if enough(&outside) {
            return Ok(outside);
        }
        if begun.elapsed() >= SEEN {
            return Err(outside);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn verify_down(system: &System, was_down_before: bool) -> Result<(Vec<String>, Vec<String>)> {
    if system.http.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    match look_until(&system.http, was_down_before, |seen| !seen.maintenance.is_empty()).await {
        Ok(seen) => Ok((seen.maintenance, seen.success)),
        Err(seen) => Err(Error::new(
            ErrorKind::Unhealthy,
            format!(
                "maintenance mode is on, and no check saw status 503 with `Retry-After` within {} s",
                SEEN.as_secs()
            ),
        )
        .with("still served", seen.success.join(", "))
        .hint("see what the web server answers; users may still reach the application")),
    }
}

async fn verify_unserved(system: &System) -> Result<()> {
    match look_until(&system.http, false, |seen| seen.success.is_empty()).await {
        Ok(_) => Ok(()),
        Err(seen) => Err(Error::new(
            ErrorKind::Unhealthy,
            format!(
                "no container of service `{}` runs, and something still answers users with success",
                system.application.service
            ),
        )
        .with("checks", seen.success.join(", "))
        .hint("find out what answers: another host, a cache, or a service of another name")),
    }
}

async fn verify_up(system: &System) -> Result<()> {
    match look_until(&system.http, false, |seen| seen.maintenance.is_empty()).await {
        Ok(_) => Ok(()),
        Err(seen) => Err(Error::new(
            ErrorKind::Unhealthy,
            format!("maintenance mode is off, and still seen from outside after {} s", SEEN.as_secs()),
        )
        .with("checks", seen.maintenance.join(", "))
        .hint("a cache in front, or a container of another host, may still answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_fit_the_version_and_a_message_is_never_given() {
        assert_eq!(major_version("Laravel Framework 10.48.22\n"), Some(10));
        assert_eq!(major_version("Laravel Framework 7.30.6"), Some(7));
        assert_eq!(major_version("?"), None);
        assert_eq!(down_arguments(Some(7), 60), ["down", "--no-interaction", "--retry=60"]);
        for major in [Some(8), Some(12), None] {
            assert_eq!(down_arguments(major, 60), ["down", "--no-interaction", "--retry=60", "--refresh=60"]);
        }
    }

    #[test]
    fn an_overloaded_server_is_not_taken_for_maintenance() {
        let answer = |status, retry_after: Option<&str>| HttpAnswer {
            status,
            retry_after: retry_after.map(str::to_owned),
            location: None,
            body: Vec::new(),
            truncated: false,
            took: Duration::ZERO,
        };
        assert!(is_maintenance(&answer(503, Some("60")), false));
        assert!(!is_maintenance(&answer(503, None), false));
        assert!(!is_maintenance(&answer(200, Some("60")), false));
        // Known from inside: somebody switched it on without `--retry`.
        assert!(is_maintenance(&answer(503, None), true));
        assert!(!is_maintenance(&answer(502, None), true));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_the_outside_ends() {
        let begun = Instant::now();
        assert!(look_until(&[], false, |_| false).await.is_err());
        assert!(begun.elapsed() >= SEEN && begun.elapsed() < SEEN + Duration::from_secs(2));
    }
}
