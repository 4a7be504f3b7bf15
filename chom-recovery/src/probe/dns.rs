//! Whether names resolve.

use std::{collections::BTreeSet, net::IpAddr};

use async_trait::async_trait;
use reqwest::Url;

use super::{Class, Health, HealthProbe, net};
use crate::system::HttpCheck;

/// Resolves a name as this host's programs do. Whether the right server answers there is for the `http-` probes, which dial
/// what the name resolves to and verify the certificate.
#[derive(Debug)]
pub struct DnsProbe {
    name: String,
    host: String,
}

impl DnsProbe {
    /// Makes the probe `dns-<host>`.
    pub fn new(host: &str) -> Self {
        Self { name: format!("dns-{host}"), host: host.to_owned() }
    }

    /// Makes one for each name among the checks that is dialled where it resolves to.
    pub fn of(checks: &[HttpCheck]) -> Vec<Self> {
        let asked = checks.iter().filter(|check| check.connect_to.is_none());
        let hosts: BTreeSet<String> = asked
            .filter_map(|check| Some(check.url.parse::<Url>().ok()?.domain()?.to_owned()))
            .filter(|host| host.parse::<IpAddr>().is_err())
            .collect();
        hosts.iter().map(|host| Self::new(host)).collect()
    }

    async fn ask(&self) -> Health {
        match tokio::net::lookup_host((self.host.as_str(), 443)).await {
            Ok(found) => judge(found.map(|address| address.ip()).collect()),
            Err(error) => Health::down(format!("`{}` does not resolve: {error}", self.host)).class(Class::Name),
        }
    }
}

#[async_trait]
impl HealthProbe for DnsProbe {
    fn name(&self) -> &str {
        &self.name
    }

    async fn check(&self) -> Health {
        net::bounded(net::ANSWER_TIMEOUT, self.ask()).await.fact("name", &self.host)
    }
}

fn judge(addresses: BTreeSet<IpAddr>) -> Health {
    if addresses.is_empty() {
        return Health::down("the name has no address").class(Class::Name);
    }
    let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    Health::healthy(format!("resolves to {}", list.join(", "))).class(Class::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Status;

    #[tokio::test]
    async fn a_name_that_is_nowhere_is_down() {
        let health = DnsProbe::new("nowhere.invalid").check().await;
        assert_eq!((health.status, health.class_of()), (Status::Down, Some(Class::Name)));
        assert_eq!(DnsProbe::new("localhost").check().await.status, Status::Healthy);
    }

    #[test]
    fn a_name_is_asked_once_and_not_where_another_address_is_dialled() {
        let check = |url: &str, to: Option<&str>| HttpCheck {
            name: "x".into(),
            url: url.into(),
            status: 200,
            contains: None,
            ca_file: None,
            connect_to: to.map(|to| to.parse().unwrap()),
            slow_after: std::time::Duration::from_secs(2),
        };
        let checks = [
            check("https://shop.example/health", None),
            check("https://shop.example/api", None),
            check("https://other.example/", Some("127.0.0.1:1")),
            check("https://192.0.2.1/", None),
        ];
        let names: Vec<_> = DnsProbe::of(&checks).iter().map(|p| p.name.clone()).collect();
        assert_eq!(names, ["dns-shop.example"]);
    }
}
