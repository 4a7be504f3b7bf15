//! All services run, and the application answers with errors: caches, key, environment, migrations, log.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{Cause, Findings, Issue};
use crate::{
    backend::{Backend, BackendExt, Container, ContainerState, ExecRequest},
    environment::{Environment, KEY, LONGEST},
    error::{Error, ErrorKind, Result},
    probe::{Class, HealthMode, HealthProbe, Status, code::CodeProbe, logs::tail_file},
    procedure::Parts,
    system::{Maintenance, System},
};

/// Longest time of a command that only looks.
const LOOKING: Duration = Duration::from_secs(20);
/// Laravel's cache of its configuration, below the application's folder.
pub(crate) const CACHE: &str = "bootstrap/cache/config.php";

/// Looks for what makes the application answer with errors.
pub(crate) async fn application(parts: &Parts) -> Findings {
    let mut findings = Findings::new(Issue::Application);
    let wanted = |name: &str| name.starts_with("http-") || name.starts_with("logs-");
    for probe in parts.application.probes(HealthMode::PreRecovery, None).iter().filter(|p| wanted(p.name())) {
        let health = probe.check().await;
        let line = format!("{}: {}", probe.name(), health.summary);
        match health.status {
            Status::Healthy => findings.fine(line),
            Status::Inconclusive => findings.unclear(line),
            _ => {
                let samples = health.facts.iter().filter(|(name, _)| name.starts_with("sample.") || *name == "body");
                let cause = Cause::new(format!("errors-{}", probe.name()), 40, line)
                    .mend("the causes above it come first; else `chom-recovery diagnose`", "none");
                findings.add(samples.fold(cause, |cause, (_, value)| cause.seen(value)));
            }
        }
    }
    if let Some(probe) = CodeProbe::of(&parts.system, parts.backend.clone()) {
        let health = probe.check().await;
        if health.class_of() == Some(Class::Authentication) {
            findings.add(
                Cause::new("login-refused", 90, "the database refuses the application's account")
                    .seen(health.summary)
                    .mend(
                        "chom-recovery recover application: it takes what is refused from the newest backup that is let in",
                        "a password that was changed on purpose is in no backup: a person sets the new one",
                    ),
            );
        }
    }
    match Inside::find(&parts.system, &parts.backend).await {
        Ok(inside) => inside.look(&mut findings).await,
        Err(error) => findings.unclear(format!("the application's folder: {error}")),
    }
    findings.ranked()
}

/// The application's folder in its running container.
struct Inside<'a> {
    backend: &'a Arc<dyn Backend>,
    container: Container,
    folder: String,
    user: Option<String>,
}

impl<'a> Inside<'a> {
    async fn find(system: &System, backend: &'a Arc<dyn Backend>) -> Result<Self> {
        let Maintenance::Laravel { directory, user, .. } = &system.application.maintenance else {
            return Err(Error::new(ErrorKind::Unsupported, "only Laravel's folder is known")
                .hint("set `application.maintenance` to `{ kind = \"laravel\", directory = … }`"));
        };
        let containers = backend.service_containers(&system.application.service).await?;
        let container = containers.into_iter().find(|c| c.state == ContainerState::Running).ok_or_else(|| {
            Error::new(ErrorKind::Precondition, "no container of the application runs")
                .hint("chom-recovery troubleshoot start")
        })?;
        Ok(Self { backend, container, folder: directory.clone(), user: user.clone() })
    }

    async fn look(&self, findings: &mut Findings) {
        let elsewhere = self.backend.environment(&self.container.name).await.unwrap_or_default();
        match self.environment().await {
            Ok(environment) => judge(findings, &environment, |name| elsewhere.get(name).is_some()),
            Err(error) => findings.unclear(format!("`.env`: {error}")),
        }
        match self.changed(CACHE).await {
            Ok(None) => findings.fine("the configuration is not cached"),
            Ok(Some(cached)) => match self.changed(".env").await {
                Ok(Some(changed)) => stale(findings, cached, changed),
                Ok(None) => {
                    findings.unclear("`.env` is not there: whether the cached configuration is stale is not known");
                }
                Err(error) => findings.unclear(format!("`.env`: {error}")),
            },
            Err(error) => findings.unclear(format!("`{CACHE}`: {error}")),
        }
        match self.pending().await {
            Ok(pending) if pending.is_empty() => findings.fine("no migration is pending"),
            Ok(pending) => findings.add(migrations(&pending)),
            Err(error) => findings.unclear(format!("migrations: {error}")),
        }
    }

    async fn environment(&self) -> Result<Environment> {
        let file = format!("{}/.env", self.folder);
        let bytes = tail_file(self.backend, &self.container, &file, LONGEST).await?;
        let bytes = bytes.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("`{file}` is not there")))?;
        Ok(Environment::read(&String::from_utf8_lossy(&bytes)))
    }

    /// Tells when a file was changed, in Unix seconds; `None`: it is not there.
    async fn changed(&self, file: &str) -> Result<Option<i64>> {
        let path = format!("{}/{file}", self.folder);
        let request = ExecRequest::new(["stat", "-L", "-c", "%Y", "--", &path]);
        let found = self.backend.run(&self.container.name, request, LOOKING).await?;
        if found.exit_code != 0 && String::from_utf8_lossy(&found.stderr).contains("No such file") {
            return Ok(None);
        }
        let text = found.success("stat")?.stdout;
        let time = String::from_utf8_lossy(&text).trim().parse();
        time.map(Some).map_err(|_| Error::new(ErrorKind::Failed, format!("`{path}` has no time")))
    }

    /// Lists migrations that the database has not seen. `migrate:status` only reads.
    async fn pending(&self) -> Result<Vec<String>> {
        let artisan = format!("{}/artisan", self.folder);
        let mut request = ExecRequest::new(["php", &artisan, "migrate:status", "--no-ansi", "--no-interaction"]);
        request.user.clone_from(&self.user);
        let result = self.backend.run(&self.container.name, request, LOOKING).await?;
        let text = result.success("artisan migrate:status")?.stdout;
        Ok(pending_in(&String::from_utf8_lossy(&text)))
    }
}

/// Laravel 9 and later end the line with `Pending`; before, a table began it with `No`.
fn pending_in(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim);
    lines
        .filter_map(|line| match line.strip_suffix("Pending") {
            Some(rest) => Some(rest.trim_end_matches([' ', '.']).to_owned()),
            None => Some(line.strip_prefix("| No")?.trim_matches(['|', ' ']).split('|').next()?.trim().to_owned()),
        })
        .filter(|name| !name.is_empty())
        .collect()
}

fn judge(findings: &mut Findings, environment: &Environment, is_elsewhere: impl Fn(&str) -> bool) {
    let unreadable = environment.unreadable();
    if !unreadable.is_empty() {
        let cause = Cause::new("environment-unreadable", 95, "`.env` cannot be read, and nothing starts with it");
        let cause = unreadable.iter().take(8).fold(cause, Cause::seen);
        findings.add(cause.mend("chom-recovery recover application", "none"));
    }
    let key = (!environment.has(KEY)).then_some(KEY);
    let missing: Vec<&str> = key.into_iter().chain(environment.gaps()).filter(|name| !is_elsewhere(name)).collect();
    if missing.is_empty() {
        findings.fine("`.env` holds what the application needs");
    } else {
        findings.add(
            Cause::new("environment-incomplete", 88, "`.env` lacks what the application needs")
                .seen(missing.join(", "))
                .mend(
                    "chom-recovery recover application: it takes what is missing from the newest good backup, key by key",
                    "a key that is generated anew makes everything unreadable that was encrypted with the old one: never \
                     `key:generate`",
                ),
        );
    }
    match environment.key_fault() {
        None if !missing.contains(&KEY) => findings.fine("APP_KEY has the right form"),
        None => {}
        Some(why) => findings.add(
            Cause::new("key-malformed", 93, "APP_KEY is malformed: nothing that was encrypted can be read")
                .seen(why)
                .mend(
                    "chom-recovery recover application: it takes APP_KEY from the newest good backup",
                    "never `key:generate`: another key loses sessions and every encrypted value",
                ),
        ),
    }
    if environment.shows_errors() {
        findings.add(
            Cause::new("debug-on", 20, "APP_DEBUG is on: users see details of errors, and passwords with them")
                .mend("switch it off, then recreate the container", "none"),
        );
    }
}

fn stale(findings: &mut Findings, cached: i64, changed: i64) {
    if cached >= changed {
        return findings.fine("the cached configuration is younger than `.env`");
    }
    findings.add(
        Cause::new(
            "stale-config-cache",
            80,
            "the cached configuration is older than `.env`: changes in it do not count",
        )
        .seen(format!("`{CACHE}` is {} s older than `.env`", changed - cached))
        .mend(
            "set the cache aside: chom-recovery troubleshoot application --fix stale-config-cache",
            "the application reads `.env` again, whatever it holds now; undoing it puts the cache back",
        )
        .fixable(),
    );
}

fn migrations(pending: &[String]) -> Cause {
    let cause = Cause::new("migrations-pending", 55, format!("{} migrations are not in the database", pending.len()));
    pending.iter().take(8).fold(cause, Cause::seen).mend(
        "find out whether the code is too new or the database too old; migrate with a backup, on a day without an incident",
        "never `migrate --force` on data that was just restored: it cannot be undone",
    )
}

/// Lists migrations of the code that the database has not seen.
///
/// # Errors
/// Those of asking the application, which has to run.
pub(crate) async fn pending_migrations(parts: &Parts) -> Result<Vec<String>> {
    Inside::find(&parts.system, &parts.backend).await?.pending().await
}

/// Reads the environment file that a service of the application runs with; `None`: it has none.
///
/// # Errors
/// Those of asking it, which has to run.
pub(crate) async fn environment_of(parts: &Parts, service: &str) -> Result<Option<Environment>> {
    let Maintenance::Laravel { directory, .. } = &parts.system.application.maintenance else { return Ok(None) };
    let containers = parts.backend.service_containers(service).await?;
    let Some(container) = containers.into_iter().find(|c| c.state == ContainerState::Running) else { return Ok(None) };
    let bytes = tail_file(&parts.backend, &container, &format!("{directory}/.env"), LONGEST).await?;
    Ok(bytes.map(|bytes| Environment::read(&String::from_utf8_lossy(&bytes))))
}

/// Finds the cached configuration on this host.
///
/// # Errors
/// `Unsupported`: it lies in the image, in memory or on another host.
pub(crate) async fn config_cache(parts: &Parts) -> Result<PathBuf> {
    let Maintenance::Laravel { directory, .. } = &parts.system.application.maintenance else {
        return Err(Error::new(ErrorKind::Unsupported, "only Laravel's cache is known"));
    };
    let path = PathBuf::from(directory).join(CACHE);
    crate::procedure::path_on_host(parts, &parts.system.application.service, &path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_migrations_are_listed_in_the_words_of_each_version() {
        let ten = "\n  Migration name ........ Batch / Status  \n  2024_01_01_000000_create_schema .... [1] Ran  \n  \
                   2025_01_01_000000_add_column ...... Pending  \n";
        assert_eq!(pending_in(ten), ["2025_01_01_000000_add_column"]);
        let eight =
            "+------+-----------+\n| Ran? | Migration | Batch |\n| Yes | 2014_a | 1 |\n| No   | 2025_b    |       |\n";
        assert_eq!(pending_in(eight), ["2025_b"]);
        assert_eq!(pending_in("nothing here"), [""; 0]);
    }

    #[test]
    fn a_cache_that_is_older_than_what_it_caches_is_stale() {
        let mut findings = Findings::new(Issue::Application);
        stale(&mut findings, 10, 10);
        assert!(findings.causes.is_empty());
        stale(&mut findings, 10, 11);
        assert!(findings.cause("stale-config-cache").unwrap().is_fixable);
    }
}
