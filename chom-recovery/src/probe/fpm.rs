//! Whether php-fpm answers by itself, without the web server in between.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    Class, Health, HealthProbe,
    net::{self, ANSWER_TIMEOUT},
};
use crate::{
    backend::{Backend, Endpoint},
    system::{PhpFpm, System},
};

/// Record types of FastCGI 1.0.
const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
/// Longest answer that is read.
const LIMIT: usize = 64 << 10;

/// Asks for php-fpm's ping page over FastCGI.
#[derive(Debug)]
pub struct FpmProbe {
    backend: Arc<dyn Backend>,
    service: String,
    fpm: PhpFpm,
}

impl FpmProbe {
    /// Makes the probe `php-fpm`; `None`: it is not configured.
    pub fn of(system: &System, backend: Arc<dyn Backend>) -> Option<Self> {
        let fpm = system.application.php_fpm.clone()?;
        Some(Self::new(backend, &system.application.service, fpm))
    }

    /// Makes the probe `php-fpm` for a service.
    pub fn new(backend: Arc<dyn Backend>, service: &str, fpm: PhpFpm) -> Self {
        Self { backend, service: service.to_owned(), fpm }
    }

    async fn ask(&self) -> Result<Health, Health> {
        let endpoint = net::reach(&self.backend, &self.service, self.fpm.port, self.fpm.address.as_deref()).await?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, exchange(&endpoint, &request(&self.fpm.ping_path))).await;
        let late =
            || Health::down(format!("php-fpm took the request and said nothing for {} s", ANSWER_TIMEOUT.as_secs()));
        judge(&answer.map_err(|_| late().class(Class::Stalled))??)
    }
}

#[async_trait]
impl HealthProbe for FpmProbe {
    fn name(&self) -> &'static str {
        "php-fpm"
    }

    async fn check(&self) -> Health {
        net::bounded(net::WHOLE, async { self.ask().await.unwrap_or_else(|failure| failure) })
            .await
            .fact("service", &self.service)
    }
}

/// Sends a request and reads what comes until the connection is closed.
async fn exchange(endpoint: &Endpoint, request: &[u8]) -> Result<Vec<u8>, Health> {
    let mut stream = net::dial(endpoint).await?;
    let broken = |e: std::io::Error| Health::down(format!("php-fpm: {e}")).class(Class::Unreachable);
    stream.write_all(request).await.map_err(broken)?;
    let mut answer = Vec::new();
    (&mut stream).take(LIMIT as u64).read_to_end(&mut answer).await.map_err(broken)?;
    Ok(answer)
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    // Version 1, request 1, no padding.
    let mut bytes = vec![1, kind, 0, 1, length[0], length[1], 0, 0];
    bytes.extend_from_slice(content);
    bytes
}

/// Makes the request for a page.
fn request(path: &str) -> Vec<u8> {
    let mut params = Vec::new();
    for (name, value) in [("REQUEST_METHOD", "GET"), ("SCRIPT_NAME", path), ("SCRIPT_FILENAME", path)] {
        // Lengths below 128 are one byte.
        let value = &value[..value.len().min(127)];
        params.extend([name.len(), value.len()].map(|n| u8::try_from(n).unwrap_or(0)));
        params.extend_from_slice(name.as_bytes());
        params.extend_from_slice(value.as_bytes());
    }
    // Responder, and the connection is closed afterwards.
    let begin = record(BEGIN_REQUEST, &[0, 1, 0, 0, 0, 0, 0, 0]);
    [begin, record(PARAMS, &params), record(PARAMS, &[]), record(STDIN, &[])].concat()
}

fn judge(mut answer: &[u8]) -> Result<Health, Health> {
    let (mut out, mut has_ended) = (Vec::new(), None);
    while let [1, kind, _, _, high, low, padding, _, rest @ ..] = answer {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(content) = rest.get(..length) else { break };
        match *kind {
            STDOUT => out.extend_from_slice(content),
            END_REQUEST => has_ended = content.get(4).copied(),
            _ => {}
        }
        answer = rest.get(length + usize::from(*padding)..).unwrap_or_default();
    }
    match has_ended {
        None if out.is_empty() => {
            Err(Health::down("what answers is not php-fpm, or it ended").class(Class::Unreachable))
        }
        // FCGI_OVERLOADED.
        Some(2) => Ok(Health::degraded("php-fpm takes no more requests").class(Class::Slow)),
        _ if String::from_utf8_lossy(&out).contains("pong") => {
            Ok(Health::healthy("php-fpm answers a ping").class(Class::Ok))
        }
        _ => Ok(Health::healthy("php-fpm answers; it has no ping page at this path").class(Class::Ok)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Status, testing};

    fn answer(body: &str, status: u8) -> Vec<u8> {
        [record(STDOUT, body.as_bytes()), record(STDOUT, &[]), record(END_REQUEST, &[0, 0, 0, 0, status, 0, 0, 0])]
            .concat()
    }

    #[test]
    fn any_page_shows_that_it_lives_and_nothing_else_does() {
        let status = |bytes: &[u8]| judge(bytes).unwrap_or_else(|health| health).status;
        assert_eq!(status(&answer("Content-type: text/plain\r\n\r\npong", 0)), Status::Healthy);
        assert_eq!(status(&answer("Status: 404 Not Found\r\n\r\nFile not found.", 0)), Status::Healthy);
        assert_eq!(status(&answer("", 2)), Status::Degraded);
        for bad in [&b""[..], b"HTTP/1.1 400 Bad Request\r\n\r\n", &answer("pong", 0)[..6]] {
            assert_eq!(status(bad), Status::Down, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_unreachable() {
        let port = testing::closed_port().await;
        let fpm = PhpFpm { address: Some(format!("127.0.0.1:{port}")), ..PhpFpm::default() };
        let backend = Arc::new(testing::backend::Told::default());
        let health = FpmProbe::new(backend, "app", fpm).check().await;
        assert_eq!((health.status, health.class_of()), (Status::Down, Some(Class::Unreachable)));
    }
}
