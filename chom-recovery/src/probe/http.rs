//! Whether a URL answers as it must: status, body, verified TLS, latency.

use std::{net::SocketAddr, path::Path, time::Duration};

use async_trait::async_trait;
use reqwest::{
    Client, RequestBuilder, Url,
    header::{HOST, RETRY_AFTER},
    redirect,
};
use tokio::time::Instant;

use super::{
    Class, Health, HealthProbe, Status,
    latency::LatencyBaseline,
    net::{CONNECT_TIMEOUT, short},
    tls,
};
use crate::system::HttpCheck;

/// Longest body that is read.
const BODY_LIMIT: usize = 1 << 20;
/// Longest time for the whole answer.
const TOTAL: Duration = Duration::from_secs(20);
/// An answer that is slower than usual is asked for again, so that a single one is not taken for the rule.
const AGAIN: usize = 2;

/// Name of the fact that holds how long an answer took, in milliseconds.
pub(crate) const MILLISECONDS: &str = "milliseconds";
/// Name of the fact that holds what 95 of 100 answers took at most while all was well, in milliseconds.
pub(crate) const BASELINE: &str = "baseline_p95_ms";
/// Name of the fact that says why there is no baseline.
pub(crate) const NO_BASELINE: &str = "no_baseline";

/// Asks a URL with GET. Redirects are answers, not followed; proxies of the environment are not used.
#[derive(Debug)]
pub struct HttpProbe {
    name: String,
    check: HttpCheck,
    baseline: Option<LatencyBaseline>,
}

impl HttpProbe {
    /// Makes the probe `http-<name>`.
    pub fn new(check: HttpCheck) -> Self {
        Self { name: format!("http-{}", check.name), check, baseline: None }
    }

    /// Holds answers against what is usual, too: markedly slower ones are degraded, also under the check's `slow_after`.
    #[must_use]
    pub fn against(mut self, baseline: LatencyBaseline) -> Self {
        self.baseline = Some(baseline);
        self
    }

    async fn ask(&self) -> Result<Health, Health> {
        let answer = fetch(&self.check).await?;
        let health = judge(&self.check, &answer);
        let Some(baseline) = self.baseline else { return Ok(health) };
        let Some(p95) = baseline.p95_ms else {
            let (has, needed) = (baseline.measurements, LatencyBaseline::NEEDED);
            return Ok(health.fact(NO_BASELINE, format!("{has} of {needed} measurements were remembered")));
        };
        let health = health.fact(BASELINE, format!("{p95:.0}"));
        if health.status > Status::Healthy || !self.is_slower_than_usual(&baseline, answer.took).await {
            return Ok(health);
        }
        let took = answer.took.as_millis();
        let slower = Health::degraded(format!(
            "status {} after {took} ms, and as slow when asked again: usually 95 of 100 take up to {p95:.0} ms",
            answer.status
        ));
        Ok(Health { facts: health.facts, ..slower }.class(Class::Slow))
    }

    /// Tells whether an answer took markedly longer than usual, and more of them do.
    async fn is_slower_than_usual(&self, baseline: &LatencyBaseline, took: Duration) -> bool {
        let mut took = Some(took);
        for left in (0..=AGAIN).rev() {
            if !took.is_some_and(|took| baseline.is_exceeded_by(took)) {
                return false;
            }
            if left > 0 {
                // One that fails now is another matter, for the next look to tell.
                took = fetch(&self.check).await.ok().map(|answer| answer.took);
            }
        }
        true
    }
}

#[async_trait]
impl HealthProbe for HttpProbe {
    fn name(&self) -> &str {
        &self.name
    }

    async fn check(&self) -> Health {
        self.ask().await.unwrap_or_else(|failure| failure).fact("url", shown(&self.check.url))
    }
}

/// What a server answered.
#[derive(Debug, Clone)]
pub(crate) struct HttpAnswer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<String>,
    pub(crate) location: Option<String>,
    pub(crate) body: Vec<u8>,
    pub(crate) truncated: bool,
    pub(crate) took: Duration,
}

/// Asks once; the error is already the probe's answer.
pub(crate) async fn fetch(check: &HttpCheck) -> Result<HttpAnswer, Health> {
    let server = Server { ca_file: check.ca_file.as_deref(), connect_to: check.connect_to };
    let unusable = |why| Health::inconclusive(format!("check `{}`: {why}", check.name));
    exchange(&server, &check.url, Client::get).await.map_err(|e| e.into_health(unusable))
}

/// How a server is reached, beyond its URL.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Server<'a> {
    pub(crate) ca_file: Option<&'a Path>,
    pub(crate) connect_to: Option<SocketAddr>,
}

/// Why there is no answer.
pub(crate) enum NoAnswer {
    /// It could not even be asked.
    Unusable(String),
    /// The probe's answer.
    Failed(Health),
}

impl NoAnswer {
    pub(crate) fn into_health(self, unusable: impl FnOnce(String) -> Health) -> Health {
        match self {
            Self::Unusable(why) => unusable(why),
            Self::Failed(health) => health,
        }
    }
}

/// Sends one request and reads the answer, up to the limit.
pub(crate) async fn exchange(
    server: &Server<'_>,
    url: &str,
    request: impl FnOnce(&Client, Url) -> RequestBuilder,
) -> Result<HttpAnswer, NoAnswer> {
    let unusable = NoAnswer::Unusable;
    let mut url: Url = url.parse().map_err(|e| unusable(format!("its URL cannot be used: {e}")))?;
    let (config, _) = tls::config(server.ca_file).await.map_err(|e| unusable(e.to_string()))?;
    let mut builder = Client::builder()
        .tls_backend_preconfigured(config)
        .redirect(redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TOTAL)
        .user_agent(concat!("chom-recovery/", env!("CARGO_PKG_VERSION")));
    let mut host_header = None;
    if let Some(to) = server.connect_to {
        builder = divert(builder, &mut url, to, &mut host_header).map_err(unusable)?;
    }
    let client = builder.build().map_err(|e| unusable(format!("no HTTP client: {e}")))?;
    let mut request = request(&client, url);
    if let Some(host) = host_header {
        request = request.header(HOST, host);
    }
    let begun = Instant::now();
    let failed = |e: reqwest::Error| NoAnswer::Failed(failure(&e));
    let mut response = request.send().await.map_err(failed)?;
    let text = |name| response.headers().get(name).and_then(|v: &reqwest::header::HeaderValue| v.to_str().ok());
    let (retry_after, location) =
        (text(RETRY_AFTER).map(str::to_owned), text(reqwest::header::LOCATION).map(str::to_owned));
    let status = response.status().as_u16();
    let (mut body, mut truncated) = (Vec::new(), false);
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        let room = BODY_LIMIT - body.len();
        body.extend_from_slice(&piece[..piece.len().min(room)]);
        if piece.len() > room {
            truncated = true;
            break;
        }
    }
    Ok(HttpAnswer { status, retry_after, location, body, truncated, took: begun.elapsed() })
}

/// Sends the request to another address, with the name in SNI, `Host` and verification as the URL has it.
fn divert(
    builder: reqwest::ClientBuilder,
    url: &mut Url,
    to: SocketAddr,
    host_header: &mut Option<String>,
) -> Result<reqwest::ClientBuilder, String> {
    let host = url.host_str().unwrap_or_default().to_owned();
    if url.domain().is_none() {
        return Err(format!("`connect_to` needs a URL with a host name, not `{host}`"));
    }
    // An explicit port in the URL would win over that of the address: take it out, and say it in `Host`.
    if let Some(port) = url.port() {
        *host_header = Some(format!("{host}:{port}"));
        url.set_port(None).map_err(|()| "the port of its URL cannot be taken out".to_owned())?;
    }
    Ok(builder.resolve_to_addrs(&host, &[to]))
}

fn failure(error: &reqwest::Error) -> Health {
    let text = causes(error);
    if let Some(tls) = tls::find(error) {
        return Health::down(format!("TLS: {tls}")).class(tls::class(tls));
    }
    let class = if error.is_timeout() && !error.is_connect() {
        Class::Stalled
    } else if text.contains("dns error") || text.contains("lookup") {
        Class::Name
    } else {
        Class::Unreachable
    };
    Health::down(text).class(class)
}

fn causes(error: &reqwest::Error) -> String {
    // The outermost text repeats the URL, which may carry a password.
    let mut texts = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        next = cause.source();
    }
    if texts.is_empty() { "the request failed".into() } else { short(&texts.join(": "), 400) }
}

/// Drops user, password and query of a URL.
pub(crate) fn shown(url: &str) -> String {
    let Ok(mut url) = url.parse::<Url>() else { return "[not a URL]".into() };
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.into()
}

fn judge(check: &HttpCheck, answer: &HttpAnswer) -> Health {
    let status = answer.status;
    let wanted_text = check.contains.as_deref().unwrap_or_default();
    let found =
        wanted_text.is_empty() || answer.body.windows(wanted_text.len()).any(|window| window == wanted_text.as_bytes());
    let health = if status != check.status {
        let class = match status {
            503 if answer.retry_after.is_some() => Class::Maintenance,
            502 | 504 => Class::Upstream,
            500 => Class::Application,
            _ => Class::HttpStatus,
        };
        Health::down(format!("status {status} instead of {}", check.status)).class(class)
    } else if !found {
        let more = if answer.truncated { " in its first mebibyte" } else { "" };
        Health::down(format!("status {status}, and the body lacks `{wanted_text}`{more}")).class(Class::Body)
    } else if answer.took > check.slow_after {
        Health::degraded(format!(
            "status {status} after {:.1} s, slower than {:.1} s",
            answer.took.as_secs_f64(),
            check.slow_after.as_secs_f64()
        ))
        .class(Class::Slow)
    } else {
        Health::healthy(format!("status {status} after {} ms", answer.took.as_millis())).class(Class::Ok)
    };
    let mut health =
        health.fact("status", status).fact(MILLISECONDS, answer.took.as_millis()).fact("bytes", answer.body.len());
    if let Some(after) = &answer.retry_after {
        health = health.fact("retry_after", short(after, 60));
    }
    if let Some(location) = &answer.location {
        health = health.fact("location", shown(location));
    }
    if health.status == Status::Down {
        health = health.fact("body", short(&String::from_utf8_lossy(&answer.body), 300));
    }
    health
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::testing;

    fn check(port: u16, path: &str) -> HttpCheck {
        HttpCheck {
            name: "test".into(),
            url: format!("http://127.0.0.1:{port}{path}"),
            status: 200,
            contains: None,
            ca_file: None,
            connect_to: None,
            slow_after: Duration::from_secs(2),
        }
    }

    async fn ask(check: HttpCheck) -> Health {
        HttpProbe::new(check).check().await
    }

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{\"status\":\"ok\"}";

    #[tokio::test]
    async fn status_body_and_latency_each_count() {
        let port = testing::http(OK, Duration::ZERO).await;
        assert_eq!(ask(check(port, "/")).await.status, Status::Healthy);
        let with = |text: &str| HttpCheck { contains: Some(text.into()), ..check(port, "/") };
        assert_eq!(ask(with("\"ok\"")).await.status, Status::Healthy);
        assert_eq!(ask(with("\"down\"")).await.class_of(), Some(Class::Body));
        assert_eq!(ask(HttpCheck { status: 204, ..check(port, "/") }).await.class_of(), Some(Class::HttpStatus));
        let slow = testing::http(OK, Duration::from_millis(60)).await;
        let slow = HttpCheck { slow_after: Duration::from_millis(50), ..check(slow, "/") };
        assert_eq!(ask(slow).await.class_of(), Some(Class::Slow));
    }

    #[tokio::test]
    async fn slower_than_usual_is_degraded_under_the_threshold_and_without_a_baseline_that_is_said() {
        let port = testing::http(OK, Duration::from_millis(400)).await;
        let against = async |measurements, p95_ms| {
            HttpProbe::new(check(port, "/")).against(LatencyBaseline { measurements, p95_ms }).check().await
        };
        let slow = against(20, Some(50.0)).await;
        assert_eq!((slow.status, slow.class_of()), (Status::Degraded, Some(Class::Slow)), "{slow:?}");
        assert_eq!(slow.facts[BASELINE], "50");
        let usual = against(20, Some(300.0)).await;
        assert_eq!((usual.status, usual.class_of()), (Status::Healthy, Some(Class::Ok)), "{usual:?}");
        let unknown = against(3, None).await;
        assert_eq!(unknown.status, Status::Healthy);
        assert!(unknown.facts[NO_BASELINE].starts_with("3 of 20"), "{unknown:?}");
    }

    #[tokio::test]
    async fn failures_are_told_apart() {
        for (answer, class) in [
            ("HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n", Class::Application),
            ("HTTP/1.1 502 X\r\ncontent-length: 0\r\n\r\n", Class::Upstream),
            ("HTTP/1.1 503 X\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n", Class::Maintenance),
            ("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n", Class::HttpStatus),
        ] {
            let port = testing::http(answer, Duration::ZERO).await;
            let health = ask(check(port, "/")).await;
            assert_eq!((health.status, health.class_of()), (Status::Down, Some(class)), "{answer}");
        }
        let closed = testing::closed_port().await;
        assert_eq!(ask(check(closed, "/")).await.class_of(), Some(Class::Unreachable));
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_is_not_followed() {
        let good = testing::http(OK, Duration::ZERO).await;
        let answer = format!("HTTP/1.1 302 X\r\nlocation: http://127.0.0.1:{good}/\r\ncontent-length: 0\r\n\r\n");
        let port = testing::http(answer, Duration::ZERO).await;
        let health = ask(check(port, "/")).await;
        assert_eq!((health.status, health.class_of()), (Status::Down, Some(Class::HttpStatus)));
        assert_eq!(health.facts["location"], format!("http://127.0.0.1:{good}/"));
    }

    #[tokio::test]
    async fn a_body_cut_short_is_not_healthy() {
        let port = testing::http("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nshort", Duration::ZERO).await;
        assert_eq!(ask(check(port, "/")).await.status, Status::Down);
    }

    #[tokio::test]
    async fn an_endless_body_is_read_up_to_the_limit() {
        let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(2 << 20));
        let port = testing::http(long, Duration::ZERO).await;
        let health = ask(HttpCheck { contains: Some("end".into()), ..check(port, "/") }).await;
        assert_eq!(health.class_of(), Some(Class::Body));
        assert_eq!(health.facts["bytes"], BODY_LIMIT.to_string());
    }

    #[tokio::test]
    async fn the_name_of_the_url_is_kept_when_another_address_is_dialled() {
        let port = testing::http(testing::ECHO_HOST, Duration::ZERO).await;
        let check = HttpCheck {
            url: "http://app.example:8443/".into(),
            connect_to: Some(SocketAddr::from(([127, 0, 0, 1], port))),
            contains: Some("app.example:8443".into()),
            ..check(port, "/")
        };
        assert_eq!(ask(check).await.status, Status::Healthy);
    }

    #[tokio::test]
    async fn tls_is_verified_and_its_failures_are_classed() {
        let ca = testing::Ca::new();
        for (server, class) in [
            (ca.server("localhost", 0, 30), None),
            (ca.server("localhost", -40, -10), Some(Class::Expired)),
            (ca.server("other.example", 0, 30), Some(Class::WrongName)),
            (testing::Ca::new().server("localhost", 0, 30), Some(Class::Untrusted)),
        ] {
            let port = testing::https(server, OK).await;
            let url = format!("https://localhost:{port}/");
            let health = ask(HttpCheck { url, ca_file: Some(ca.file()), ..check(port, "/") }).await;
            match class {
                None => assert_eq!(health.status, Status::Healthy, "{health:?}"),
                Some(class) => assert_eq!((health.status, health.class_of()), (Status::Down, Some(class))),
            }
        }
    }

    #[tokio::test]
    async fn a_ca_file_that_cannot_be_read_is_inconclusive() {
        let missing = HttpCheck { ca_file: Some("/nowhere/ca.pem".into()), ..check(1, "/") };
        assert_eq!(ask(missing).await.status, Status::Inconclusive);
    }

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        assert_eq!(shown("https://u:p@h.example/x?token=1"), "https://h.example/x");
    }
}
