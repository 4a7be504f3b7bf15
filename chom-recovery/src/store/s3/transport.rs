//! Sends the requests of the S3 client: TLS as configured, no redirects, no proxy of the environment, and patience
//! with a server that asks for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use http_body_util::BodyExt;
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    },
};
use reqwest::header::{HeaderValue, IF_NONE_MATCH, RETRY_AFTER};
use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Result};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause where a busy server names none; doubled each time, shortened by chance by up to a half.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest pause that a server may ask for at once.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// The HTTP client.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    client: reqwest::Client,
    patience: Duration,
    /// Whether the completion of an upload must not replace an object. The S3 client has no option for it.
    pub(super) completes_new: Arc<AtomicBool>,
}

impl Transport {
    /// Makes the client. `timeout` bounds each silence, and how long a busy server is obeyed.
    pub(super) fn new(tls: rustls::ClientConfig, timeout: Duration) -> Result<Self> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            // A signed request must not be sent to where somebody else points.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            .read_timeout(timeout)
            .user_agent(concat!("chom-recovery/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Error::new(ErrorKind::Failed, "no HTTP client").caused_by(e))?;
        Ok(Self { client, patience: timeout, completes_new: Arc::default() })
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (mut parts, body) = request.into_parts();
        let is_completion = parts.method == http::Method::POST
            && parts.uri.query().is_some_and(|q| q.split('&').any(|pair| pair.starts_with("uploadId=")));
        if is_completion && self.completes_new.load(Ordering::Relaxed) {
            parts.headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        let url = parts.uri.to_string().parse().map_err(|_| HttpError::new(HttpErrorKind::Unknown, Unusable))?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        *request.body_mut() = Some(reqwest::Body::wrap(body));
        let response: http::Response<reqwest::Body> = self.client.execute(request).await.map_err(failure)?.into();
        let (parts, body) = response.into_parts();
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body.map_err(failure))))
    }
}

/// A URL that cannot be requested. Its text is not shown.
#[derive(Debug, thiserror::Error)]
#[error("the address cannot be requested")]
struct Unusable;

/// The URL is taken out: the caller names the object.
fn failure(error: reqwest::Error) -> HttpError {
    let kind = if error.is_timeout() {
        HttpErrorKind::Timeout
    } else if error.is_connect() {
        HttpErrorKind::Connect
    } else {
        HttpErrorKind::Interrupted
    };
    HttpError::new(kind, error.without_url())
}

/// How long a busy server wants to be left alone.
///
/// # Source
/// RFC 9110, section 10.2.3: seconds, or a date.
fn wanted_pause(response: &HttpResponse) -> Option<Duration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    Some((date.to_utc() - chrono::Utc::now()).to_std().unwrap_or_default())
}

#[async_trait]
impl HttpService for Transport {
    /// Repeats a request that a busy server (429, 503) did not carry out, as long as the deadline allows.
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let begun = Instant::now();
        let mut pause = PAUSE;
        loop {
            let response = self.send(request.clone()).await?;
            if !matches!(response.status().as_u16(), 429 | 503) {
                return Ok(response);
            }
            let wanted = wanted_pause(&response).unwrap_or_else(|| pause.mul_f64(rand::random_range(0.5..=1.0)));
            if wanted > LONGEST_PAUSE || begun.elapsed() + wanted >= self.patience {
                return Ok(response);
            }
            tracing::debug!(
                status = response.status().as_u16(),
                pause_ms = wanted.as_millis(),
                "the S3 server is busy"
            );
            drop(response);
            tokio::time::sleep(wanted).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Hands the client to the S3 client, whose own options play no part.
#[derive(Debug)]
pub(super) struct Connector(pub(super) Arc<Transport>);

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Transport::clone(&self.0)))
    }
}
