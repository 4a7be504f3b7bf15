//! What is wrong with the web server, and what of it this procedure mends.

use std::time::Duration;

use futures::{StreamExt, future::join_all};
use serde::{Deserialize, Serialize};

use super::{
    certificate,
    tested::{self, Fault},
};
use crate::{
    backend::{Backend, BackendExt, Container, ContainerState, HealthCheck, LogRequest},
    error::{Error, ErrorKind, Result},
    probe::{Answer, Class, HealthMode, Status, ask},
    procedure::{
        Parts,
        proof::is_outer,
        quiesce::{self, Remembered},
    },
    run::RunId,
    secret::scrub,
    system::System,
};

/// How many lines of its log are read.
const LOG_LINES: usize = 200;
/// How many of them are shown.
const LINES_SHOWN: usize = 5;

/// What was seen of the web server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    /// Its containers as they were.
    pub(super) before: Vec<Remembered>,
    /// State of the first.
    pub state: ContainerState,
    /// Whether it runs and its own health check does not fail; one without a verdict yet may pass.
    pub is_ready: bool,
    /// Exit code, where it has ended.
    pub exit_code: Option<i64>,
    /// Why its configuration, as it lies there, is refused.
    pub fault: Option<Fault>,
    /// Why its certificates, as they lie there, would not serve.
    pub certificates: Vec<String>,
    /// Days until the first certificate ends.
    pub days_left: Option<i64>,
    /// Why what it serves is refused by clients.
    pub served: Vec<String>,
    /// Checks from outside that got no answer at all.
    pub silent: Vec<String>,
    /// Checks from outside that got an answer of what is behind it.
    pub behind: Vec<String>,
    /// Last errors in its log.
    pub log: Vec<String>,
}

impl Looked {
    /// Whether the configuration has to be replaced.
    pub(super) fn is_configuration(&self) -> bool {
        self.fault.as_ref().is_some_and(|fault| !fault.is_of_certificate)
    }

    /// Whether certificates have to be replaced.
    pub(super) fn is_certificate(&self) -> bool {
        self.fault.as_ref().is_some_and(|fault| fault.is_of_certificate) || !self.certificates.is_empty()
    }

    /// Whether the files are good and what is served is not made of them.
    pub(super) fn is_stale(&self) -> bool {
        self.fault.is_none() && self.certificates.is_empty()
            // Its own health check may refuse the certificate as clients do.
            && self.state == ContainerState::Running
            && !self.served.is_empty()
    }

    /// What is wrong, a line each.
    pub(super) fn found(&self) -> Vec<String> {
        let mut found = Vec::new();
        if !self.is_ready {
            let code = self.exit_code.map_or_else(String::new, |code| format!(", exit code {code}"));
            found.push(match self.state {
                ContainerState::Running => "the web server runs, and its own health check fails".to_owned(),
                state => format!("the web server's container is {state:?}{code}").to_lowercase(),
            });
        }
        found.extend(self.fault.as_ref().map(|fault| format!("nginx refuses its configuration: {fault}")));
        found.extend(self.certificates.iter().cloned());
        found.extend(self.served.iter().chain(&self.silent).chain(&self.behind).cloned());
        found
    }
}

/// Looks at the web server: nothing is changed. Its configuration is tested in a container of ours.
pub(super) async fn look(parts: &Parts, run: RunId) -> Result<Looked> {
    let backend = &*parts.backend;
    let service = &parts.system.application.web_service;
    let web = container(backend, &parts.system).await?;
    let before = quiesce::remember(backend, std::slice::from_ref(service)).await?;
    let tested = tested::test(backend, run, &web, None).await?;
    let files = certificate::read_in_container(backend, &web.name, &tested.pairs).await;
    let (certificates, days_left) = match files {
        Ok(files) => {
            let servers = certificate::servers(&parts.system).await?;
            (certificate::problems(&files, &servers), certificate::days_left(&files))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => (vec![e.to_string()], None),
        Err(e) => return Err(e.during("cannot read the certificates of nginx")),
    };
    let outside = outside(parts).await;
    let of = |wanted: fn(Class) -> bool| {
        let bad = outside.iter().filter(|a| a.health.status == Status::Down && a.class().is_some_and(wanted));
        bad.map(|a| format!("{}: {}", a.probe, a.health.summary)).collect::<Vec<_>>()
    };
    Ok(Looked {
        state: web.state,
        is_ready: web.state == ContainerState::Running && web.health != HealthCheck::Unhealthy,
        exit_code: web.exit_code,
        fault: tested.fault,
        certificates,
        days_left,
        served: of(is_of_certificate),
        silent: of(|class| matches!(class, Class::Unreachable | Class::Stalled)),
        behind: of(is_behind),
        log: errors(parts, &web).await,
        before,
    })
}

/// Returns the container of the web server.
pub(super) async fn container(backend: &dyn Backend, system: &System) -> Result<Container> {
    let service = &system.application.web_service;
    let found = backend.service_containers(service).await?;
    found.into_iter().next().ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("service `{service}` has no container"))
            .hint("`docker compose up -d` makes one")
    })
}

async fn outside(parts: &Parts) -> Vec<Answer> {
    let mut probes = parts.application.probes(HealthMode::Monitoring, None);
    probes.retain(|probe| is_outer(probe.name()));
    join_all(probes.iter().map(|probe| ask(probe, Duration::from_secs(15)))).await
}

fn is_of_certificate(class: Class) -> bool {
    use Class::{Expired, ExpiresSoon, NotYetValid, Tls, Untrusted, WrongName};
    matches!(class, Expired | ExpiresSoon | NotYetValid | Tls | Untrusted | WrongName)
}

fn is_behind(class: Class) -> bool {
    matches!(class, Class::Upstream | Class::Application | Class::Maintenance | Class::HttpStatus | Class::Body)
}

/// Reads the last errors of the log; without a log there are none to show.
async fn errors(parts: &Parts, web: &Container) -> Vec<String> {
    let reading = async {
        let request = LogRequest { since: None, tail: Some(LOG_LINES) };
        let lines = parts.backend.logs(&web.name, request).await.ok()?;
        let is_error =
            |text: &str| ["[emerg]", "[alert]", "[crit]", "[error]"].iter().any(|level| text.contains(level));
        let errors: Vec<String> = lines
            .filter_map(|line| std::future::ready(line.ok().map(|line| line.text).filter(|text| is_error(text))))
            .map(|text| scrub(&text).chars().take(300).collect())
            .collect()
            .await;
        Some(errors)
    };
    let errors = tokio::time::timeout(Duration::from_secs(20), reading).await.ok().flatten().unwrap_or_default();
    let skipped = errors.len().saturating_sub(LINES_SHOWN);
    errors.into_iter().skip(skipped).collect()
}
