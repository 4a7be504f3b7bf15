//! Whether the certificate that is served is valid, for this name, from a trusted root, and for long enough.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use reqwest::Url;
use rustls_pki_types::{CertificateDer, ServerName};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{
    Class, Health, HealthProbe,
    net::{self, ANSWER_TIMEOUT, short},
    tls,
};
use crate::system::HttpCheck;

/// Fewer days left than this is degraded.
pub const DEGRADED_BELOW_DAYS: i64 = 14;
/// Fewer days left than this is down: too short for a person to react.
pub const DOWN_BELOW_DAYS: i64 = 3;

/// Makes a TLS handshake and judges what was presented, also when the handshake fails.
#[derive(Debug)]
pub struct CertificateProbe {
    name: String,
    host: String,
    port: u16,
    dial: (String, u16),
    ca_file: Option<PathBuf>,
}

impl CertificateProbe {
    /// Makes the probe `certificate-<host>` for a name, which is dialled at `dial`.
    pub fn new(host: &str, port: u16, dial: Option<(String, u16)>, ca_file: Option<PathBuf>) -> Self {
        let name = if port == 443 { format!("certificate-{host}") } else { format!("certificate-{host}-{port}") };
        let dial = dial.unwrap_or_else(|| (host.to_owned(), port));
        Self { name, host: host.to_owned(), port, dial, ca_file }
    }

    /// Makes one probe for each different `https` server among the checks.
    pub fn of(checks: &[HttpCheck]) -> Vec<Self> {
        let mut seen = BTreeSet::new();
        checks
            .iter()
            .filter_map(|check| {
                let url: Url = check.url.parse().ok().filter(|u: &Url| u.scheme() == "https")?;
                let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']').to_owned();
                let port = url.port_or_known_default()?;
                seen.insert((host.clone(), port)).then(|| {
                    let dial = check.connect_to.map(|to| (to.ip().to_string(), to.port()));
                    Self::new(&host, port, dial, check.ca_file.clone())
                })
            })
            .collect()
    }

    async fn ask(&self) -> Result<Health, Health> {
        let (config, recorded) =
            tls::config(self.ca_file.as_deref()).await.map_err(|e| Health::inconclusive(e.to_string()))?;
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| Health::inconclusive(format!("`{}` is not a host name", self.host)))?;
        let stream = net::dial_host(&self.dial.0, self.dial.1).await?;
        let handshake = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream);
        let outcome = tokio::time::timeout(ANSWER_TIMEOUT, handshake).await.map_err(|_| {
            Health::down(format!("no TLS handshake within {} s", ANSWER_TIMEOUT.as_secs())).class(Class::Stalled)
        })?;
        let refused = match &outcome {
            Ok(_) => None,
            Err(error) => {
                let tls = tls::find(error);
                Some((tls.map_or(Class::Tls, tls::class), tls.map_or_else(|| error.to_string(), ToString::to_string)))
            }
        };
        Ok(judge(&recorded.take(), refused, Utc::now()))
    }
}

#[async_trait]
impl HealthProbe for CertificateProbe {
    fn name(&self) -> &str {
        &self.name
    }

    async fn check(&self) -> Health {
        self.ask().await.unwrap_or_else(|failure| failure).fact("server", format!("{}:{}", self.host, self.port))
    }
}

fn judge(chain: &[CertificateDer<'_>], refused: Option<(Class, String)>, now: DateTime<Utc>) -> Health {
    let parsed: Vec<_> = chain.iter().filter_map(|der| X509Certificate::from_der(der).ok().map(|(_, c)| c)).collect();
    // The chain lives as long as the shortest-lived of its certificates.
    let ends = parsed.iter().map(|c| c.validity().not_after.timestamp()).min();
    let days = ends.map(|at| (at - now.timestamp()).div_euclid(86_400));
    let health = match (refused, days) {
        (Some((class, why)), _) => Health::down(format!("the certificate is refused: {why}")).class(class),
        (None, None) => Health::inconclusive("the handshake succeeded, and the certificate cannot be read"),
        (None, Some(days)) if days < DOWN_BELOW_DAYS => {
            Health::down(format!("the certificate expires in {days} days")).class(Class::ExpiresSoon)
        }
        (None, Some(days)) if days < DEGRADED_BELOW_DAYS => {
            Health::degraded(format!("the certificate expires in {days} days")).class(Class::ExpiresSoon)
        }
        (None, Some(days)) => Health::healthy(format!("valid for {days} more days")).class(Class::Ok),
    };
    let mut health = health.fact("chain_length", chain.len());
    if let Some(days) = days {
        health = health.fact("days_left", days);
    }
    let Some(leaf) = parsed.first() else { return health };
    let names: Vec<String> = leaf
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|san| san.value.general_names.iter().filter_map(shown).collect())
        .unwrap_or_default();
    let time = |at: i64| DateTime::from_timestamp(at, 0).map_or_else(|| at.to_string(), |t| t.to_rfc3339());
    health
        .fact("subject", short(&leaf.subject().to_string(), 200))
        .fact("issuer", short(&leaf.issuer().to_string(), 200))
        .fact("names", short(&names.join(", "), 400))
        .fact("not_before", time(leaf.validity().not_before.timestamp()))
        .fact("not_after", time(leaf.validity().not_after.timestamp()))
}

fn shown(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| std::net::Ipv4Addr::from(b).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|b| std::net::Ipv6Addr::from(b).to_string()),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Status, testing};

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

    #[tokio::test]
    async fn days_left_decide_between_healthy_degraded_and_down() {
        let ca = testing::Ca::new();
        for (days, status) in [
            (30, Status::Healthy),
            (14, Status::Healthy),
            (13, Status::Degraded),
            (3, Status::Degraded),
            (2, Status::Down),
        ] {
            let port = testing::https(ca.server("localhost", -1, days), OK).await;
            let health = CertificateProbe::new("localhost", port, None, Some(ca.file())).check().await;
            assert_eq!(health.status, status, "{days}: {health:?}");
            assert_eq!(health.facts["days_left"], days.to_string());
        }
    }

    #[tokio::test]
    async fn a_refused_certificate_is_shown_and_never_accepted() {
        let ca = testing::Ca::new();
        for (server, class, name) in [
            (ca.server("localhost", -40, -10), Class::Expired, "localhost"),
            (ca.server("localhost", 10, 40), Class::NotYetValid, "localhost"),
            (ca.server("other.example", -1, 30), Class::WrongName, "other.example"),
            (testing::Ca::new().server("localhost", -1, 30), Class::Untrusted, "localhost"),
        ] {
            let port = testing::https(server, OK).await;
            let health = CertificateProbe::new("localhost", port, None, Some(ca.file())).check().await;
            assert_eq!((health.status, health.class_of()), (Status::Down, Some(class)), "{health:?}");
            assert_eq!(health.facts["names"], name, "the certificate itself is evidence");
        }
    }

    #[tokio::test]
    async fn the_name_is_verified_at_another_address() {
        let ca = testing::Ca::new();
        let port = testing::https(ca.server("app.example", -1, 30), OK).await;
        let dial = Some(("127.0.0.1".to_owned(), port));
        let health = CertificateProbe::new("app.example", 443, dial, Some(ca.file())).check().await;
        assert_eq!(health.status, Status::Healthy, "{health:?}");
    }

    #[tokio::test]
    async fn a_server_without_tls_is_down() {
        let port = testing::greets("220 mail.example\r\n").await;
        let health = CertificateProbe::new("localhost", port, None, None).check().await;
        assert_eq!(health.status, Status::Down, "{health:?}");
    }

    #[test]
    fn one_probe_is_made_for_each_server() {
        let check = |url: &str| HttpCheck {
            name: url.into(),
            url: url.into(),
            status: 200,
            contains: None,
            ca_file: None,
            connect_to: None,
            slow_after: std::time::Duration::from_secs(1),
        };
        let probes = CertificateProbe::of(&[
            check("https://a.example/x"),
            check("https://a.example/y"),
            check("https://a.example:8443/"),
            check("http://b.example/"),
        ]);
        let names: Vec<_> = probes.iter().map(HealthProbe::name).collect();
        assert_eq!(names, ["certificate-a.example", "certificate-a.example-8443"]);
    }
}
