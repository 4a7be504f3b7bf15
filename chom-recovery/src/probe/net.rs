//! Ways to a service's port, and what it means when there is none.

use std::{sync::Arc, time::Duration};

use tokio::net::TcpStream;

use super::{Class, Health};
use crate::{
    backend::{Backend, Connection, Container, ContainerState, Endpoint},
    error::{Error, ErrorKind},
};

/// How long a TCP connection may take to be made.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// How long one answer of a server may take.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// Longest time of a whole probe, where it has no reason for more.
pub(crate) const WHOLE: Duration = Duration::from_secs(30);

/// Ends a probe that hangs although each of its parts has a limit; its answer is then inconclusive.
pub(crate) async fn bounded(limit: Duration, work: impl Future<Output = Health> + Send) -> Health {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Health::inconclusive(format!("no answer within {} s", limit.as_secs())).class(Class::Stalled)
    })
}

/// Finds where to dial a service: the configured address, else what the backend can reach.
///
/// The error is already the probe's answer.
pub(crate) async fn reach(
    backend: &Arc<dyn Backend>,
    service: &str,
    port: u16,
    address: Option<&str>,
) -> Result<Endpoint, Health> {
    if let Some(address) = address {
        return split(address)
            .map(|(host, port)| Endpoint::new(host, port, None))
            .ok_or_else(|| Health::inconclusive(format!("`{address}` is not `host:port`")));
    }
    let container = running(backend, service).await?;
    backend.endpoint(&container.name, port).await.map_err(|error| {
        let class = if error.kind() == ErrorKind::Precondition { Class::Unreachable } else { Class::Engine };
        Health::inconclusive(format!("no way to port {port} of `{}`: {error}", container.name))
            .class(class)
            .fact("hint", error.hint_text().unwrap_or_default())
    })
}

/// Finds the running container of a service.
pub(crate) async fn running(backend: &Arc<dyn Backend>, service: &str) -> Result<Container, Health> {
    let containers = backend.containers().await.map_err(|e| engine(&e))?;
    let mut of_service = containers.into_iter().filter(|c| c.service == service).peekable();
    if of_service.peek().is_none() {
        return Err(Health::down(format!("service `{service}` has no container")).class(Class::Absent));
    }
    of_service
        .find(|c| c.state == ContainerState::Running)
        .ok_or_else(|| Health::down(format!("no container of service `{service}` is running")).class(Class::NotRunning))
}

/// The answer when the Engine could not be asked.
pub(crate) fn engine(error: &Error) -> Health {
    Health::inconclusive(format!("the Engine could not be asked: {error}"))
        .class(Class::Engine)
        .fact("error", error.kind())
}

/// Connects to an endpoint and says what it means when that fails.
pub(crate) async fn dial(endpoint: &Endpoint) -> Result<Connection, Health> {
    match endpoint.connect_within() {
        Some(connection) => Ok(connection),
        None => Ok(Box::new(dial_host(&endpoint.host, endpoint.port).await?)),
    }
}

/// Opens a TCP connection and says what it means when that fails.
pub(crate) async fn dial_host(host: &str, port: u16) -> Result<TcpStream, Health> {
    let place = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            // A name that does not resolve has no portable kind of its own.
            let text = error.to_string();
            let class = if text.contains("lookup") { Class::Name } else { Class::Unreachable };
            Err(Health::down(format!("{place}: {text}")).class(class).fact("address", place))
        }
        Err(_) => Err(Health::down(format!("{place}: no connection within {} s", CONNECT_TIMEOUT.as_secs()))
            .class(Class::Unreachable)
            .fact("address", place)),
    }
}

/// Splits `host:port` and `[v6]:port`.
pub(crate) fn split(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok()?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// Shortens text to at most `limit` characters, for facts.
pub(crate) fn short(text: &str, limit: usize) -> String {
    let text = text.trim();
    match text.char_indices().nth(limit) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split_at_the_last_colon() {
        assert_eq!(split("db.example:3306"), Some(("db.example".into(), 3306)));
        assert_eq!(split("[::1]:3306"), Some(("::1".into(), 3306)));
        assert_eq!(split("db.example"), None);
        assert_eq!(split(":3306"), None);
        assert_eq!(split("db:99999"), None);
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(short("  äöü ", 3), "äöü");
        assert_eq!(short("äöüx", 3), "äöü…");
    }

    #[tokio::test]
    async fn a_closed_port_is_down_and_unreachable() {
        let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let health = dial_host("127.0.0.1", port).await.unwrap_err();
        assert_eq!(health.status, crate::probe::Status::Down);
        assert_eq!(health.class_of(), Some(Class::Unreachable));
    }

    #[tokio::test]
    async fn each_reason_for_no_way_has_its_own_answer() {
        use crate::{
            backend::ContainerState,
            probe::{
                Status,
                testing::backend::{Told, container},
            },
        };
        let stopped = Container { state: ContainerState::Exited, ..container("mysql") };
        for (containers, status, class) in [
            (None, Status::Inconclusive, Class::Engine),
            (Some(vec![]), Status::Down, Class::Absent),
            (Some(vec![stopped]), Status::Down, Class::NotRunning),
            (Some(vec![container("mysql")]), Status::Inconclusive, Class::Unreachable),
        ] {
            let backend: Arc<dyn Backend> = Arc::new(Told { containers, ..Told::default() });
            let health = reach(&backend, "mysql", 3306, None).await.unwrap_err();
            assert_eq!((health.status, health.class_of()), (status, Some(class)));
            assert_eq!(
                reach(&backend, "mysql", 3306, Some("db:1")).await.unwrap().port,
                1,
                "a configured address wins"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_hangs_is_ended() {
        let health = bounded(WHOLE, std::future::pending()).await;
        assert_eq!((health.status, health.class_of()), (crate::probe::Status::Inconclusive, Some(Class::Stalled)));
    }
}
