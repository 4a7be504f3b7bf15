//! Tries everything that a configuration names.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    backend::{
        Backend, BackendExt, Engine,
        docker::{DockerBackend, DockerOptions},
    },
    catalog::{Recipient, Repository, Signer, legacy::LegacyCatalog},
    error::{Error, ErrorKind, Result},
    probe::{
        Answer, HealthProbe, Status, ask, fpm::FpmProbe, http::HttpProbe, monitoring, mysql::MysqlProbe, queue,
        redis::RedisProbe, synthetic::SyntheticProbe, vantage::VantageProbe,
    },
    procedure::{locate, nginx},
    store,
    system::{Redis, System},
};

/// What trying a configuration found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    /// A line for each thing that was tried, in the order in which they depend on each other.
    pub lines: Vec<CheckLine>,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckLine {
    /// What: a key of the configuration, or what it stands for.
    pub what: String,
    /// Whether it will do.
    pub verdict: Verdict,
    /// What was seen, in a line.
    pub detail: String,
    /// Next safe action.
    pub hint: Option<String>,
}

/// Whether something will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It will do.
    Ok,
    /// It will do for now; a person should know.
    Warning,
    /// It could not be tried, because something before it failed.
    Skipped,
    /// The configuration is right, and what it names is not well.
    Unhealthy,
    /// The configuration, or what it relies on, is wrong.
    Failed,
}

impl CheckReport {
    /// Returns the worst verdict.
    pub fn worst(&self) -> Verdict {
        self.lines.iter().map(|line| line.verdict).max().unwrap_or(Verdict::Failed)
    }

    /// Returns the report if a recovery could rely on the configuration.
    ///
    /// # Errors
    /// `Precondition`: something is wrong. `Unhealthy`: everything is right, and something is not well.
    pub fn into_result(self) -> Result<Self> {
        let named = |verdict| {
            let names: Vec<_> = self.lines.iter().filter(|l| l.verdict == verdict).map(|l| l.what.as_str()).collect();
            names.join(", ")
        };
        match self.worst() {
            Verdict::Failed | Verdict::Skipped => Err(Error::new(
                ErrorKind::Precondition,
                format!("the configuration will not do: {}", named(Verdict::Failed)),
            )
            .hint("mend what is marked, then `chom-recovery config check` again")),
            Verdict::Unhealthy => Err(Error::new(
                ErrorKind::Unhealthy,
                format!("the configuration is right, and something is not well: {}", named(Verdict::Unhealthy)),
            )
            .hint("chom-recovery diagnose")),
            Verdict::Ok | Verdict::Warning => Ok(self),
        }
    }

    fn add(&mut self, what: impl Into<String>, verdict: Verdict, detail: impl Into<String>, hint: Option<String>) {
        self.lines.push(CheckLine { what: what.into(), verdict, detail: detail.into(), hint });
    }

    fn tried(&mut self, what: impl Into<String>, result: Result<String>) -> bool {
        let good = result.is_ok();
        match result {
            Ok(detail) => self.add(what, Verdict::Ok, detail, None),
            Err(error) => {
                let hint = error.hint_text().map(str::to_owned);
                self.add(what, Verdict::Failed, error.to_string(), hint);
            }
        }
        good
    }

    fn answered(&mut self, what: impl Into<String>, answer: &Answer) {
        let verdict = match (answer.health.status, answer.health.facts.get(crate::probe::CLASS).map(String::as_str)) {
            (Status::Healthy, _) => Verdict::Ok,
            (Status::Degraded, _) => Verdict::Warning,
            // Refused logins and missing secrets are mistakes of the configuration, not faults of the service.
            (_, Some("authentication" | "secret" | "name")) => Verdict::Failed,
            _ => Verdict::Unhealthy,
        };
        self.add(what, verdict, answer.health.summary.clone(), None);
    }
}

/// Tries everything that a configuration names: Engine, services, volume, login, redis, repository and keys, HTTP
/// checks, other vantage points, monitoring, the synthetic user, state directory. Changes nothing but a file that it makes
/// and removes in the state directory, and a key of redis likewise.
pub async fn check(system: &System) -> CheckReport {
    let mut report = CheckReport { lines: Vec::new() };
    let engine = check_engine(system, &mut report).await;
    check_state_dir(system, engine.as_ref().map(|(_, engine)| engine), &mut report).await;
    check_repository(system, &mut report).await;
    check_legacy(system, &mut report).await;
    let secret = system.database.password.resolve().await.map(|_| format!("read from {}", system.database.password));
    report.tried("database.password", secret);
    match &engine {
        Some((backend, _)) => check_services(system, backend, &mut report).await,
        None => {
            for what in ["services", "database", "redis"] {
                report.add(what, Verdict::Skipped, "the Engine does not answer", None);
            }
        }
    }
    for http in &system.http {
        let probe: Arc<dyn HealthProbe> = Arc::new(HttpProbe::new(http.clone()));
        let answer = ask(&probe, system.limits.health_deadline).await;
        report.answered(format!("http.{}", http.name), &answer);
    }
    for place in &system.vantage {
        let probe: Arc<dyn HealthProbe> = Arc::new(VantageProbe::new(place.clone(), system.http.first().cloned()));
        let answer = ask(&probe, system.limits.health_deadline).await;
        report.answered(format!("vantage.{}", place.name), &answer);
    }
    for probe in monitoring::probes(&system.monitoring) {
        let answer = ask(&probe, system.limits.health_deadline).await;
        report.answered(format!("monitoring: {}", probe.name()), &answer);
    }
    if let Some(account) = &system.synthetic {
        let probe: Arc<dyn HealthProbe> = Arc::new(SyntheticProbe::new(account.clone()));
        report.answered("synthetic", &ask(&probe, system.limits.health_deadline).await);
    }
    if system.http.is_empty() {
        let detail = "nothing is asked over HTTP: whether users are served will not be proven";
        report.add("http", Verdict::Warning, detail, Some("add an `[[http]]` check".into()));
    }
    report
}

async fn check_engine(system: &System, report: &mut CheckReport) -> Option<(Arc<dyn Backend>, Engine)> {
    let connected = async {
        let backend: Arc<dyn Backend> =
            Arc::new(DockerBackend::connect(&system.compose, DockerOptions::default()).await?);
        let engine = backend.engine().await?;
        Ok::<_, Error>((backend, engine))
    };
    match connected.await {
        Ok((backend, engine)) => {
            let detail = format!(
                "{}: {} {} (API {})",
                backend.engine_address(),
                engine.host,
                engine.version,
                engine.api_version
            );
            report.add("engine", Verdict::Ok, detail, None);
            Some((backend, engine))
        }
        Err(error) => {
            report.tried("engine", Err(error));
            None
        }
    }
}

async fn check_services(system: &System, backend: &Arc<dyn Backend>, report: &mut CheckReport) {
    let model = match backend.model().await {
        Ok(model) => {
            let names: Vec<_> = model.services.iter().map(|s| s.name.as_str()).collect();
            report.add("compose.project", Verdict::Ok, format!("services {}", names.join(", ")), None);
            model
        }
        Err(error) => {
            report.tried("compose.project", Err(error));
            return;
        }
    };
    let application = &system.application;
    let mut wanted = vec![("application.service", application.service.as_str())];
    wanted.push(("application.web_service", &application.web_service));
    wanted.extend(application.workers.iter().map(|w| ("application.workers", w.as_str())));
    for (key, service) in wanted {
        if let Err(error) = model.service(service) {
            report.tried(key, Err(error));
        }
    }
    let volume = backend.service_containers(&system.database.service).await.and_then(|found| {
        let data_dir = &system.database.data_dir;
        match found.as_slice() {
            [one] => one.data_at(data_dir).map(str::to_owned).ok_or_else(|| {
                Error::new(ErrorKind::Precondition, format!("`{}` has no volume or folder at `{data_dir}`", one.name))
                    .hint("set `database.data_dir` to the path at which its data is mounted")
            }),
            several => Err(Error::new(
                ErrorKind::Precondition,
                format!("service `{}` has {} containers", system.database.service, several.len()),
            )
            .hint("scale it to one: a recovery has to know which is production")),
        }
    });
    let volume = match volume {
        Ok(data) => {
            backend.check_exchangeable(&data).await.map(|()| format!("`{data}` at `{}`", system.database.data_dir))
        }
        Err(error) => Err(error),
    };
    report.tried("database.data_dir", volume);
    let deadline = system.limits.health_deadline;
    let probe: Arc<dyn HealthProbe> = Arc::new(MysqlProbe::new(system.database.clone(), backend.clone()));
    report.answered("database", &ask(&probe, deadline).await);
    if let Some(probe) = FpmProbe::of(system, backend.clone()) {
        let probe: Arc<dyn HealthProbe> = Arc::new(probe);
        report.answered("application.php_fpm", &ask(&probe, deadline).await);
    }
    if let Some(redis) = &system.redis {
        let probe: Arc<dyn HealthProbe> = Arc::new(RedisProbe::new(redis.clone(), backend.clone()));
        report.answered("redis", &ask(&probe, deadline).await);
        check_beat(system, redis, backend, report).await;
    }
    for (key, component) in
        [("nginx.configuration", system.nginx_configuration()), ("nginx.certificates", system.nginx_certificates())]
    {
        if let Some(component) = component {
            let seen = nginx::seen_at(system, backend, component).await;
            let detail = |path| format!("component `{}`, which the web server sees at `{path}`", component.name);
            report.tried(key, seen.map(detail));
        }
    }
    for component in &system.components {
        let found = locate(system, backend, component).await.map(|root| root.path().display().to_string());
        report.tried(format!("component {}", component.name), found);
    }
}

/// A worker that is down now is no fault of the configuration.
async fn check_beat(system: &System, redis: &Redis, backend: &Arc<dyn Backend>, report: &mut CheckReport) {
    const WHAT: &str = "partial.queue_heartbeat_key";
    let Some(key) = &system.partial.queue_heartbeat_key else { return };
    match queue::beat(redis, backend, key).await {
        Ok((now, Some(at))) => {
            report.add(WHAT, Verdict::Ok, format!("a worker beat {} s ago", now.saturating_sub(at)), None);
        }
        Ok((_, None)) => {
            let hint = "name the key without the prefix; its value is a Unix time in seconds".to_owned();
            report.add(WHAT, Verdict::Warning, format!("`{key}` holds no time: nothing proves the queue"), Some(hint));
        }
        // What is wrong with redis was said above.
        Err(_) => {}
    }
}

async fn check_legacy(system: &System, report: &mut CheckReport) {
    let Some(settings) = &system.legacy else { return };
    let listed = LegacyCatalog::new(settings).list().await;
    for link in listed.iter().flat_map(|l| &l.links) {
        if let Some(problem) = &link.problem {
            let detail = format!("`{}` -> `{}`: {problem}", link.link, link.target);
            report.add("legacy link", Verdict::Warning, detail, Some("do not rely on it; name backups instead".into()));
        }
    }
    report
        .tried("legacy.directory", listed.map(|l| format!("{} backups in {}", l.backups.len(), l.directory.display())));
}

async fn check_repository(system: &System, report: &mut CheckReport) {
    let opened = async {
        let repository = Repository::open_with(store::open(&system.repository.store())?, &system.repository).await?;
        let free = repository.store().free_bytes().await?;
        let free = free.map_or_else(String::new, |bytes| format!(", {} MiB free", bytes >> 20));
        let detail = format!("{} (id {}{free})", system.repository.url, repository.id());
        Ok::<_, Error>((repository, detail))
    };
    let repository = match opened.await {
        Ok((repository, detail)) => {
            report.add("repository", Verdict::Ok, detail, None);
            repository
        }
        Err(error) => {
            report.tried("repository", Err(error));
            return;
        }
    };
    check_encryption(&repository, report).await;
    check_copy(system, &repository, report).await;
    // Backups need a key on this host; a host that only restores needs none.
    match Signer::load(&system.state_dir(), &system.id) {
        Ok(signer) if system.repository.signers.contains(&signer.id().to_string()) => {
            report.add("repository.signers", Verdict::Ok, format!("this host signs as {}", signer.id()), None);
        }
        Ok(signer) => report.add(
            "repository.signers",
            Verdict::Failed,
            "this host's own key is not trusted: its backups could not be restored",
            Some(format!("add \"{}\" to `repository.signers`", signer.id())),
        ),
        Err(error) => report.add(
            "repository.signers",
            Verdict::Warning,
            format!("this host cannot take backups: {error}"),
            error.hint_text().map(str::to_owned),
        ),
    }
}

async fn check_copy(system: &System, repository: &Repository, report: &mut CheckReport) {
    let Some(copy) = &system.repository.copy else { return };
    let opened = async {
        let there = Repository::open_with(store::open(copy)?, &system.repository).await?;
        if there.id() == repository.id() {
            return Ok(format!("{}, a copy of the repository", copy.url));
        }
        Err(Error::new(ErrorKind::Conflict, format!("`{}` is another repository (id {})", copy.url, there.id())))
    };
    report.tried("repository.copy", opened.await.map_err(|e: Error| e.hint("chom-recovery repo init-copy")));
}

/// Whom backups are encrypted for, and whether this host could read them.
async fn check_encryption(repository: &Repository, report: &mut CheckReport) {
    let recipients = match repository.recipients().await {
        Ok(Some(recipients)) => recipients,
        Ok(None) => {
            report.add("repository.recipients", Verdict::Ok, "backups are not encrypted", None);
            return;
        }
        Err(error) => {
            report.tried("repository.recipients", Err(error));
            return;
        }
    };
    let names: Vec<_> = recipients.as_slice().iter().map(Recipient::as_str).collect();
    report.add("repository.recipients", Verdict::Ok, format!("encrypted for {}", names.join(", ")), None);
    let own = repository.identities().recipients();
    if own.iter().any(|r| recipients.as_slice().contains(r)) {
        report.add("repository.identity", Verdict::Ok, "an identity opens what is written now", None);
    } else {
        let detail = "no identity here opens a backup: it can be taken and not be restored";
        let hint = "that is right for a host that only takes backups; a restore needs `--identity FILE`";
        report.add("repository.identity", Verdict::Warning, detail, Some(hint.into()));
    }
}

async fn check_state_dir(system: &System, engine: Option<&Engine>, report: &mut CheckReport) {
    let directory = system.state_dir();
    let tried = directory.clone();
    let written = tokio::task::spawn_blocking(move || try_to_write(&tried)).await;
    let written = written.unwrap_or_else(|e| Err(Error::new(ErrorKind::Failed, e.to_string())));
    let device = match written {
        Ok(device) => device,
        Err(error) => {
            report.tried("state_dir", Err(error));
            return;
        }
    };
    let root = engine.filter(|engine| engine.is_local).and_then(|engine| std::fs::metadata(&engine.root).ok());
    if root.is_some_and(|root| root.dev() == device) {
        let detail = format!(
            "`{}` can be written, and lies on the filesystem of the Engine's data: when that is full, journals have \
             only their reserve",
            directory.display()
        );
        report.add("state_dir", Verdict::Warning, detail, Some("put `state_dir` on another filesystem".into()));
    } else {
        report.add("state_dir", Verdict::Ok, format!("`{}` can be written", directory.display()), None);
    }
}

/// Writes and removes a file in the directory, or, where it does not exist yet, in the nearest one above. Returns the
/// device.
fn try_to_write(directory: &Path) -> Result<u64> {
    let existing = directory
        .ancestors()
        .find(|d| d.is_dir())
        .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("nothing of `{}` exists", directory.display())))?;
    let fail = |e: std::io::Error| {
        Error::from(e)
            .of_kind(ErrorKind::Precondition)
            .during(format!("`{}` cannot be written", existing.display()))
            .hint("set `state_dir` to a directory that this user can write")
    };
    let probe: PathBuf = existing.join(format!(".chom-recovery-check-{}", std::process::id()));
    std::fs::OpenOptions::new().write(true).create_new(true).open(&probe).map_err(fail)?;
    std::fs::remove_file(&probe).map_err(fail)?;
    Ok(std::fs::metadata(existing).map_err(fail)?.dev())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Health;

    fn report(verdicts: &[Verdict]) -> CheckReport {
        let line = |v: &Verdict| CheckLine { what: "x".into(), verdict: *v, detail: String::new(), hint: None };
        CheckReport { lines: verdicts.iter().map(line).collect() }
    }

    #[test]
    fn a_mistake_outweighs_bad_health_and_a_warning_passes() {
        let kind = |v: &[Verdict]| report(v).into_result().map_err(|e| e.kind());
        assert!(kind(&[Verdict::Ok, Verdict::Warning]).is_ok());
        assert_eq!(kind(&[Verdict::Ok, Verdict::Unhealthy]).unwrap_err(), ErrorKind::Unhealthy);
        assert_eq!(kind(&[Verdict::Failed, Verdict::Unhealthy]).unwrap_err(), ErrorKind::Precondition);
        assert_eq!(kind(&[]).unwrap_err(), ErrorKind::Precondition, "nothing tried is not good");
    }

    #[test]
    fn a_refused_login_is_a_mistake_of_the_configuration() {
        let mut found = report(&[]);
        let answer = |class| Answer { probe: "mysql".into(), health: Health::down("no").class(class), latency_ms: 0 };
        found.answered("database", &answer(crate::probe::Class::Authentication));
        found.answered("database", &answer(crate::probe::Class::NotRunning));
        assert_eq!(found.lines[0].verdict, Verdict::Failed);
        assert_eq!(found.lines[1].verdict, Verdict::Unhealthy);
    }

    #[test]
    fn a_state_directory_that_does_not_exist_yet_is_tried_above_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        try_to_write(&dir.path().join("not/yet")).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
