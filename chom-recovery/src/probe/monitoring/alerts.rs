//! Alerts, as Alertmanager has them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::Deserialize;

use super::{ALERTS, api, prometheus::Wrapped};
use crate::{
    probe::{Class, Health, HealthProbe, http::shown, net},
    system::MonitoringServer,
};

/// Whether no alert of this system is active, silenced ones included. Where Prometheus is known, it has to have rules, and
/// an Alertmanager that it sends to: otherwise no alert means nothing.
#[derive(Debug)]
pub struct AlertsProbe {
    alertmanager: MonitoringServer,
    matchers: Vec<String>,
    prometheus: Option<MonitoringServer>,
}

impl AlertsProbe {
    /// Makes the probe `alerts`.
    pub fn new(alertmanager: &MonitoringServer, matchers: &[String], prometheus: Option<&MonitoringServer>) -> Self {
        Self { alertmanager: alertmanager.clone(), matchers: matchers.to_vec(), prometheus: prometheus.cloned() }
    }

    async fn ask(&self) -> Result<Health, Health> {
        let query: Vec<_> = self.matchers.iter().map(|matcher| ("filter", matcher.as_str())).collect();
        let alerts: Vec<Alert> = api::get(&self.alertmanager, "/api/v2/alerts", &query).await?;
        if !alerts.is_empty() {
            return Ok(judge(&alerts));
        }
        if let Some(prometheus) = &self.prometheus {
            let sent: Wrapped<Alertmanagers> = api::get(prometheus, "/api/v1/alertmanagers", &[]).await?;
            let rules: Wrapped<Groups> = api::get(prometheus, "/api/v1/rules", &[("type", "alert")]).await?;
            silent(&sent.data, &rules.data)?;
        }
        Ok(judge(&alerts))
    }
}

#[async_trait]
impl HealthProbe for AlertsProbe {
    fn name(&self) -> &str {
        ALERTS
    }

    async fn check(&self) -> Health {
        let asked = async { self.ask().await.unwrap_or_else(|failure| failure) };
        net::bounded(net::WHOLE, asked).await.fact("server", shown(&self.alertmanager.url))
    }
}

/// Returns the version of the Alertmanager that answers. The error is already a probe's answer.
pub(crate) async fn version(server: &MonitoringServer) -> Result<String, Health> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Status {
        version_info: Version,
    }
    #[derive(Deserialize)]
    struct Version {
        version: String,
    }
    let status: Status = api::get(server, "/api/v2/status", &[]).await?;
    Ok(net::short(&status.version_info.version, 40))
}

#[derive(Debug, Deserialize)]
struct Alert {
    labels: BTreeMap<String, String>,
    status: AlertStatus,
}

#[derive(Debug, Deserialize)]
struct AlertStatus {
    state: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alertmanagers {
    active_alertmanagers: Vec<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    name: String,
    health: String,
    #[serde(default, rename = "lastError")]
    last_error: String,
}

/// Says why no alert means nothing.
fn silent(sent: &Alertmanagers, rules: &Groups) -> Result<(), Health> {
    let mut every = rules.groups.iter().flat_map(|group| &group.rules).peekable();
    if every.peek().is_none() {
        return Err(
            Health::inconclusive("no alert, and Prometheus has no rule that could raise one").class(Class::Empty)
        );
    }
    if sent.active_alertmanagers.is_empty() {
        return Err(
            Health::inconclusive("no alert, and Prometheus knows no Alertmanager to send one to").class(Class::Absent)
        );
    }
    match every.find(|rule| rule.health == "err") {
        Some(rule) => Err(Health::inconclusive(format!(
            "no alert, and rule `{}` cannot be evaluated: {}",
            rule.name,
            net::short(&rule.last_error, 120)
        ))),
        None => Ok(()),
    }
}

fn judge(alerts: &[Alert]) -> Health {
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for alert in alerts {
        *names.entry(alert.labels.get("alertname").map_or("without a name", String::as_str)).or_default() += 1;
    }
    let silenced = alerts.iter().filter(|a| a.status.state == "suppressed").count();
    let health = if alerts.is_empty() {
        Health::healthy("no alert is active").class(Class::Ok)
    } else {
        let list: Vec<_> = names.iter().map(|(name, count)| format!("{name} ({count})")).collect();
        let hushed = if silenced > 0 { format!(", {silenced} of them silenced") } else { String::new() };
        Health::degraded(format!("{} alerts are active{hushed}: {}", alerts.len(), net::short(&list.join(", "), 300)))
            .class(Class::Errors)
    };
    health.fact("active", alerts.len()).fact("silenced", silenced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Status;

    #[test]
    fn an_active_alert_is_told_and_a_silenced_one_too() {
        let alerts = |state: &str| -> Vec<Alert> {
            serde_json::from_str(&format!(
                r#"[{{"labels":{{"alertname":"Down","x":"y"}},"status":{{"state":"{state}","silencedBy":[]}},"extra":1}}]"#
            ))
            .unwrap()
        };
        assert_eq!(judge(&[]).status, Status::Healthy);
        for state in ["active", "suppressed"] {
            let health = judge(&alerts(state));
            assert_eq!(health.status, Status::Degraded, "{health:?}");
            assert!(health.summary.contains("Down (1)"), "{health:?}");
        }
    }

    #[test]
    fn no_alert_means_nothing_where_none_could_be_raised() {
        let sent = |list: &str| serde_json::from_str(&format!(r#"{{"activeAlertmanagers":{list}}}"#)).unwrap();
        let rules = |list: &str| serde_json::from_str(&format!(r#"{{"groups":[{{"rules":{list}}}]}}"#)).unwrap();
        let (one, rule) = (r#"[{"url":"http://a"}]"#, r#"[{"name":"r","health":"ok"}]"#);
        assert!(silent(&sent(one), &rules(rule)).is_ok());
        for (managers, list) in [
            ("[]", rule),
            (one, "[]"),
            (one, r#"[{"name":"r","health":"ok"},{"name":"s","health":"err","lastError":"parse"}]"#),
        ] {
            assert_eq!(silent(&sent(managers), &rules(list)).unwrap_err().status, Status::Inconclusive);
        }
    }
}
