//! What watches the system: Prometheus, Alertmanager, Loki; and the account that stands for a user.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind, Result},
    secret::SecretSource,
};

/// What watches the system. Everything is optional: what is not named is not asked, and a person has to vouch for it when a
/// recovery is closed.
///
/// # Examples
/// ```
/// let monitoring: chom_recovery::system::Monitoring = toml::from_str(r#"
///     prometheus = { url = "https://metrics.shop.example", token = { file = "/etc/chom-recovery/metrics" } }
///     targets = ["node", "shop/app-1:9100"]
///     alertmanager = { url = "http://127.0.0.1:9093" }
///     alerts = ['service="shop"']
///     loki = { url = "http://127.0.0.1:3100" }
///     logs = '{compose_project="shop"}'
///     normal = [{ name = "errors", query = 'sum(rate(http_errors_total[5m]))', max = 0.1 }]
/// "#).unwrap();
/// assert_eq!(monitoring.scrape_age.as_secs(), 120);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Monitoring {
    /// Prometheus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<MonitoringServer>,
    /// Targets that it has to scrape, as `job` or `job/instance`. Empty: each that it knows, and at least one.
    pub targets: Vec<String>,
    /// How long ago each of them was scraped at most.
    #[serde(with = "humantime_serde")]
    pub scrape_age: Duration,
    /// What the dashboards show when the system is well.
    pub normal: Vec<Bounds>,
    /// Whether users elsewhere reach the system, as something that asks from there measures it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<Bounds>,
    /// Alertmanager.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alertmanager: Option<MonitoringServer>,
    /// Matchers of this system's alerts, as Alertmanager writes them: `name="value"`. Empty: every alert is meant.
    pub alerts: Vec<String>,
    /// Loki.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loki: Option<MonitoringServer>,
    /// Selector of this system's logs, in LogQL.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub logs: String,
    /// How old their newest line is at most.
    #[serde(with = "humantime_serde")]
    pub logs_age: Duration,
}

impl Default for Monitoring {
    fn default() -> Self {
        Self {
            prometheus: None,
            targets: Vec::new(),
            scrape_age: Duration::from_mins(2),
            normal: Vec::new(),
            external: None,
            alertmanager: None,
            alerts: Vec::new(),
            loki: None,
            logs: String::new(),
            logs_age: Duration::from_mins(5),
        }
    }
}

/// How a server is reached. Over `http://` only where it runs on this host, or where that is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitoringServer {
    /// URL, without a password and without the path of its API.
    pub url: String,
    /// Additional trusted CA certificates, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Address to connect to instead of what the name resolves to, `ip:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_to: Option<SocketAddr>,
    /// Bearer token; excludes `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretSource>,
    /// User of basic authentication; needs `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Password of that user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretSource>,
    /// Allows `http://` to another host: anybody on the way reads and changes the answers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain_http: bool,
}

/// An expression of PromQL, and between which values it is when the system is well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Name: lower-case letters, digits and `-`.
    pub name: String,
    /// Expression. Each of its values counts; none at all is no answer.
    pub query: String,
    /// The least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

/// An account that stands for a user: after a recovery it logs in, and where that is configured uploads, reads and deletes
/// a file of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Synthetic {
    /// URL of the application, without a path.
    pub url: String,
    /// Additional trusted CA certificates, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Address to connect to instead of what the name resolves to, `ip:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_to: Option<SocketAddr>,
    /// Account, of its own and without rights over others.
    pub user: String,
    /// Its password.
    pub password: SecretSource,
    /// Path that takes account and password, and answers with a token.
    #[serde(default = "login")]
    pub login: String,
    /// Path that ends the session.
    #[serde(default = "logout")]
    pub logout: String,
    /// Field of the account's name in the request.
    #[serde(default = "email")]
    pub user_field: String,
    /// Field of the token in the answer.
    #[serde(default = "token")]
    pub token_field: String,
    /// Path that takes a file and answers with its `id`; `PATH/ID` reads and deletes it. `None`: nothing is uploaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<String>,
    /// Field of the file in the request.
    #[serde(default = "file")]
    pub upload_field: String,
}

fn login() -> String {
    "/api/login".into()
}

fn logout() -> String {
    "/api/logout".into()
}

fn email() -> String {
    "email".into()
}

fn token() -> String {
    "token".into()
}

fn file() -> String {
    "file".into()
}

impl Monitoring {
    /// Tells whether nothing is configured.
    pub fn is_absent(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn check(&self) -> Result<()> {
        for (key, server) in
            [("prometheus", &self.prometheus), ("alertmanager", &self.alertmanager), ("loki", &self.loki)]
        {
            server.iter().try_for_each(|server| server.check(&format!("monitoring.{key}")))?;
        }
        if self.loki.is_some() && !self.logs.trim_start().starts_with('{') {
            return bad("`monitoring.loki` needs `monitoring.logs`, a selector such as `{compose_project=\"shop\"}`");
        }
        let bounds = self.normal.iter().chain(&self.external);
        if self.prometheus.is_none() && (bounds.clone().next().is_some() || !self.targets.is_empty()) {
            return bad("`monitoring.targets`, `normal` and `external` need `monitoring.prometheus`");
        }
        let mut names = std::collections::BTreeSet::new();
        for one in bounds {
            one.check()?;
            if !names.insert(&one.name) {
                return bad(&format!("two `monitoring` expressions are called `{}`", one.name));
            }
        }
        Ok(())
    }
}

impl MonitoringServer {
    fn check(&self, key: &str) -> Result<()> {
        check_url(key, &self.url, self.plain_http)?;
        if self.token.is_some() && self.user.is_some() {
            return bad(&format!("`{key}`: `token` and `user` exclude each other"));
        }
        if self.user.is_some() != self.password.is_some() {
            return bad(&format!("`{key}`: `user` and `password` belong together"));
        }
        Ok(())
    }
}

impl Bounds {
    fn check(&self) -> Result<()> {
        let is_name = !self.name.is_empty()
            && self.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !is_name {
            return bad(&format!("`monitoring` expression `{}`: a name is made of a-z, 0-9 and -", self.name));
        }
        let order = self.min.zip(self.max).is_none_or(|(min, max)| min <= max);
        if (self.min.is_none() && self.max.is_none()) || !order {
            return bad(&format!("`monitoring` expression `{}` needs `min`, `max` or both, in order", self.name));
        }
        Ok(())
    }
}

impl Synthetic {
    pub(super) fn check(&self) -> Result<()> {
        check_url("synthetic", &self.url, false)?;
        let paths = [Some(&self.login), Some(&self.logout), self.upload.as_ref()];
        match paths.into_iter().flatten().find(|path| !path.starts_with('/')) {
            Some(path) => bad(&format!("`synthetic`: `{path}` is not a path that begins with /")),
            None => Ok(()),
        }
    }
}

fn check_url(key: &str, text: &str, plain_http: bool) -> Result<()> {
    let not_a_url = || Error::new(ErrorKind::InvalidInput, format!("configuration: `{key}.url` is not a URL"));
    let url: reqwest::Url = text.parse().map_err(|_| not_a_url())?;
    let host = url.host_str().ok_or_else(not_a_url)?.trim_start_matches('[').trim_end_matches(']');
    if !url.username().is_empty() || url.password().is_some() {
        return bad(&format!("`{key}.url` holds a user or password: use the keys for them"));
    }
    let is_here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_here || plain_http => Ok(()),
        "http" => Err(Error::new(
            ErrorKind::InvalidInput,
            format!("configuration: `{key}.url` = `{text}` is not encrypted: who is on the way reads and changes the answers"),
        )
        .hint("use https://, a tunnel to a port of this host, or, for monitoring, `plain_http = true`")),
        _ => Err(not_a_url()),
    }
}

fn bad<T>(what: &str) -> Result<T> {
    Err(Error::new(ErrorKind::InvalidInput, format!("configuration: {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let monitoring: Monitoring = toml::from_str(text).unwrap();
        monitoring.check().unwrap_err().to_string()
    }

    #[test]
    fn plain_http_to_another_host_has_to_be_said() {
        for url in ["http://127.0.0.1:9090", "http://localhost:9090", "http://[::1]:9090", "https://m.example"] {
            let text = format!("prometheus = {{ url = \"{url}\" }}");
            toml::from_str::<Monitoring>(&text).unwrap().check().unwrap();
        }
        assert!(refused("prometheus = { url = \"http://m.example\" }").contains("not encrypted"));
        let said: Monitoring =
            toml::from_str("prometheus = { url = \"http://m.example\", plain_http = true }").unwrap();
        said.check().unwrap();
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        for (text, why) in [
            ("loki = { url = \"http://localhost:3100\" }", "monitoring.logs"),
            ("targets = [\"node\"]", "monitoring.prometheus"),
            ("prometheus = { url = \"https://u:p@m.example\" }", "use the keys"),
            ("prometheus = { url = \"https://m.example\", user = \"u\" }", "belong together"),
            ("prometheus = { url = \"https://m.example\" }\nnormal = [{ name = \"x\", query = \"1\" }]", "needs `min`"),
            (
                "prometheus = { url = \"https://m.example\" }\nnormal = [{ name = \"x\", query = \"1\", min = 2, max = 1 }]",
                "in order",
            ),
        ] {
            let error = refused(text);
            assert!(error.contains(why), "{error}");
        }
    }
}
