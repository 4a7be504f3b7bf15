//! What watches the project, among its own containers: asked, and drafted only where it answers as it must.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{
    backend::{Backend, Container, ContainerState},
    probe::{
        Health, HealthProbe, Status,
        monitoring::{
            AlertsProbe, LogIngestionProbe, TargetsProbe, alertmanager_version, loki_values, prometheus_jobs,
        },
    },
    system::{Monitoring, MonitoringServer},
};

/// How long each server may take to prove itself.
const ASK: Duration = Duration::from_secs(10);
/// Label that collectors of logs give to those of a Compose project.
const PROJECT_LABEL: &str = "compose_project";

/// A kind of server: the name of its key, and the port on which it listens by default.
type Kind = (&'static str, u16);
const PROMETHEUS: Kind = ("prometheus", 9090);
const ALERTMANAGER: Kind = ("alertmanager", 9093);
const LOKI: Kind = ("loki", 3100);

/// What was found, and what has to be said of it.
#[derive(Debug, Default)]
pub(super) struct FoundMonitoring {
    pub(super) settings: Monitoring,
    pub(super) guessed: Vec<String>,
    pub(super) missing: Vec<String>,
}

/// Looks for monitoring servers among the containers of a project, and asks each.
pub(super) async fn look(backend: &Arc<dyn Backend>, containers: &[Container]) -> FoundMonitoring {
    let mut found = FoundMonitoring::default();
    let is_local = backend.engine().await.is_ok_and(|engine| engine.is_local);
    let place = |kind, found: &mut FoundMonitoring| place(kind, containers, is_local, found);
    if let Some((server, service)) = place(PROMETHEUS, &mut found) {
        match within(prometheus(&server)).await {
            Ok(jobs) => {
                let of_jobs = if jobs.is_empty() { String::new() } else { format!(", scrapes {}", jobs.join(", ")) };
                found.guessed.push(format!("monitoring.prometheus = {}: `{service}` answers{of_jobs}", server.url));
                (found.settings.prometheus, found.settings.targets) = (Some(server), jobs);
            }
            Err(why) => found.missing.push(format!("monitoring.prometheus: `{service}` runs, and {why}")),
        }
    }
    if let Some((server, service)) = place(ALERTMANAGER, &mut found) {
        match within(alertmanager(&server, found.settings.prometheus.as_ref())).await {
            Ok(version) => {
                let text = format!("monitoring.alertmanager = {}: `{service}` answers, version {version}", server.url);
                found.guessed.push(text);
                found.settings.alertmanager = Some(server);
            }
            Err(why) => found.missing.push(format!("monitoring.alertmanager: `{service}` runs, and {why}")),
        }
    }
    if let Some((server, service)) = place(LOKI, &mut found) {
        match within(loki(&server, backend.project(), found.settings.logs_age)).await {
            Ok(selector) => {
                let text = format!("monitoring.loki = {}: `{service}` has new lines of {selector}", server.url);
                found.guessed.push(text);
                (found.settings.loki, found.settings.logs) = (Some(server), selector);
            }
            Err(why) => found.missing.push(format!("monitoring.loki: `{service}` runs, and {why}")),
        }
    }
    found
}

async fn within<T>(asked: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    timeout(ASK, asked).await.unwrap_or_else(|_| Err(format!("did not answer within {} s", ASK.as_secs())))
}

/// Finds where a kind of server can be asked from this host also tomorrow: containers get other addresses.
fn place(
    (kind, port): Kind,
    containers: &[Container],
    is_local: bool,
    found: &mut FoundMonitoring,
) -> Option<(MonitoringServer, String)> {
    let runs = || containers.iter().filter(|c| c.state == ContainerState::Running);
    let url = |container: &Container| {
        let mut published = container.published.iter().filter(|published| published.port == port);
        published.find_map(|p| Some(format!("http://{}:{}", here(&p.host)?, p.host_port)))
    };
    let at_port = runs().find_map(|c| Some((url(c)?, c.service.clone()))).filter(|_| is_local);
    if let Some((url, service)) = at_port {
        return Some((server(url), service));
    }
    let named = runs().find(|c| {
        let names = format!("{} {}", c.service, c.image).to_ascii_lowercase();
        names.contains(kind) && !names.contains("export")
    })?;
    found.missing.push(format!(
        "monitoring.{kind}: `{}` runs, and is not published on this host's own address; publish its port as \
         `127.0.0.1:{port}:{port}`, or give a URL with https",
        named.service
    ));
    None
}

/// Returns the address to ask at, where only this host hears what is said: the configuration refuses others without TLS.
fn here(host: &str) -> Option<String> {
    if host.is_empty() {
        return Some("127.0.0.1".into());
    }
    let address: IpAddr = host.parse().ok().filter(IpAddr::is_loopback)?;
    Some(if address.is_ipv6() { format!("[{address}]") } else { address.to_string() })
}

fn server(url: String) -> MonitoringServer {
    MonitoringServer {
        url,
        ca_file: None,
        connect_to: None,
        token: None,
        user: None,
        password: None,
        plain_http: false,
    }
}

fn said(health: &Health) -> String {
    format!("says: {}", health.summary)
}

/// Takes an answer of the very probe that will ask.
fn proven(health: &Health) -> Result<(), String> {
    if health.status <= Status::Degraded { Ok(()) } else { Err(said(health)) }
}

async fn prometheus(server: &MonitoringServer) -> Result<Vec<String>, String> {
    let jobs = prometheus_jobs(server).await.map_err(|health| said(&health))?;
    proven(&TargetsProbe::new(server, &jobs, Monitoring::default().scrape_age).check().await)?;
    Ok(jobs)
}

async fn alertmanager(server: &MonitoringServer, prometheus: Option<&MonitoringServer>) -> Result<String, String> {
    let version = alertmanager_version(server).await.map_err(|health| said(&health))?;
    proven(&AlertsProbe::new(server, &[], prometheus).check().await)?;
    Ok(version)
}

async fn loki(server: &MonitoringServer, project: &str, age: Duration) -> Result<String, String> {
    let projects = loki_values(server, PROJECT_LABEL).await.map_err(|health| said(&health))?;
    if !projects.iter().any(|one| one == project) {
        return Err(format!(
            "has no logs with `{PROJECT_LABEL}=\"{project}\"`: give a selector with `monitoring.logs`"
        ));
    }
    let selector = format!("{{{PROJECT_LABEL}=\"{project}\"}}");
    proven(&LogIngestionProbe::new(server, &selector, age).check().await)?;
    Ok(selector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backend::PublishedPort, probe::testing};

    fn container(service: &str, port: u16, host: &str, host_port: u16) -> Container {
        let published = vec![PublishedPort { port, host: host.into(), host_port }];
        Container { published, ..testing::backend::container(service) }
    }

    #[test]
    fn only_ports_that_this_host_alone_hears_are_asked() {
        for (host, wanted) in
            [("", Some("http://127.0.0.1:19090")), ("::1", Some("http://[::1]:19090")), ("192.0.2.7", None)]
        {
            let containers = [container("prometheus", 9090, host, 19_090)];
            let mut found = FoundMonitoring::default();
            let url = place(PROMETHEUS, &containers, true, &mut found).map(|(server, _)| server.url);
            assert_eq!(url.as_deref(), wanted, "{host}");
            assert_eq!(found.missing.len(), usize::from(wanted.is_none()), "{found:?}");
        }
        let mut found = FoundMonitoring::default();
        let containers = [container("prometheus", 9090, "", 19_090)];
        assert!(place(PROMETHEUS, &containers, false, &mut found).is_none(), "published on another host");
        let exporter = [container("node-exporter-of-prometheus", 9100, "", 9100)];
        let mut found = FoundMonitoring::default();
        assert!(place(PROMETHEUS, &exporter, true, &mut found).is_none() && found.missing.is_empty());
    }

    fn json(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn what_listens_at_the_port_and_is_something_else_is_not_drafted() {
        let port = testing::http(json("{\"hello\":1}"), Duration::ZERO).await;
        let server = server(format!("http://127.0.0.1:{port}"));
        assert!(prometheus(&server).await.unwrap_err().contains("another form"));
        assert!(alertmanager(&server, None).await.unwrap_err().contains("another form"));
        assert!(loki(&server, "shop", ASK).await.unwrap_err().contains("has no logs with"));
    }

    #[tokio::test]
    async fn jobs_that_are_up_become_targets_and_a_prometheus_that_scrapes_nothing_does_not_count() {
        let target = |job: &str, health: &str| {
            let now = chrono::Utc::now().to_rfc3339();
            format!(
                r#"{{"labels":{{"job":"{job}","instance":"a:1"}},"health":"{health}","lastScrape":"{now}","lastError":""}}"#
            )
        };
        let answers = async |targets: &str| {
            let body = json(&format!(r#"{{"data":{{"activeTargets":[{targets}]}}}}"#));
            prometheus(&server(format!("http://127.0.0.1:{}", testing::http(body, Duration::ZERO).await))).await
        };
        let both = format!("{},{}", target("node", "up"), target("other", "down"));
        assert_eq!(answers(&both).await.unwrap(), ["node"]);
        assert!(answers("").await.unwrap_err().contains("scrapes nothing"));
    }
}
