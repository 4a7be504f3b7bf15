//! What Prometheus knows: its targets, and values of expressions.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{TARGETS, api};
use crate::{
    probe::{Class, Health, HealthProbe, http::shown, net},
    system::{Bounds, MonitoringServer},
};

/// Names that an answer lists at most.
const NAMED: usize = 8;

/// What Prometheus wraps its answers in.
#[derive(Debug, Deserialize)]
pub(super) struct Wrapped<T> {
    pub(super) data: T,
}

/// Whether the targets of Prometheus are up, and were scraped a short time ago.
#[derive(Debug)]
pub struct TargetsProbe {
    server: MonitoringServer,
    expected: Vec<String>,
    age: Duration,
}

impl TargetsProbe {
    /// Makes the probe `targets`. `expected` are names as `job` or `job/instance`; empty: each target counts.
    pub fn new(server: &MonitoringServer, expected: &[String], age: Duration) -> Self {
        Self { server: server.clone(), expected: expected.to_vec(), age }
    }

    async fn ask(&self) -> Result<Health, Health> {
        let answer: Wrapped<Active> = api::get(&self.server, "/api/v1/targets", &[("state", "active")]).await?;
        Ok(judge(&answer.data.active_targets, &self.expected, self.age, Utc::now()))
    }
}

#[async_trait]
impl HealthProbe for TargetsProbe {
    fn name(&self) -> &str {
        TARGETS
    }

    async fn check(&self) -> Health {
        let asked = async { self.ask().await.unwrap_or_else(|failure| failure) };
        net::bounded(net::WHOLE, asked).await.fact("server", shown(&self.server.url))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Active {
    active_targets: Vec<Target>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    labels: BTreeMap<String, String>,
    health: String,
    last_scrape: DateTime<Utc>,
    #[serde(default)]
    last_error: String,
}

impl Target {
    fn label(&self, name: &str) -> &str {
        self.labels.get(name).map(String::as_str).unwrap_or_default()
    }

    fn name(&self) -> String {
        format!("{}/{}", self.label("job"), self.label("instance"))
    }

    fn is(&self, expected: &str) -> bool {
        expected == self.label("job") || expected == self.name()
    }

    /// Says what is wrong with it.
    fn fault(&self, age: Duration, now: DateTime<Utc>) -> Option<String> {
        let since = (now - self.last_scrape).to_std().unwrap_or_default();
        match self.health.as_str() {
            "up" if since <= age => None,
            // A target that was never scraped has a time of the year 1.
            "up" => Some(format!("{} was not scraped for more than {} s", self.name(), age.as_secs())),
            "down" => Some(format!("{} is down: {}", self.name(), net::short(&self.last_error, 120))),
            _ => Some(format!("{} was not scraped yet", self.name())),
        }
    }
}

fn judge(targets: &[Target], expected: &[String], age: Duration, now: DateTime<Utc>) -> Health {
    let missing: Vec<&str> =
        expected.iter().map(String::as_str).filter(|name| !targets.iter().any(|t| t.is(name))).collect();
    let is_wanted = |t: &&Target| expected.is_empty() || expected.iter().any(|name| t.is(name));
    let faults: Vec<String> = targets.iter().filter(is_wanted).filter_map(|t| t.fault(age, now)).collect();
    let others = targets.iter().filter(|t| !is_wanted(t)).filter(|t| t.health != "up").count();
    let named = |lines: &[String]| lines.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    let health = if !missing.is_empty() {
        Health::down(format!("Prometheus does not know the target {}", missing.join(", "))).class(Class::Absent)
    } else if targets.is_empty() {
        Health::down("Prometheus scrapes nothing").class(Class::Empty)
    } else if !faults.is_empty() {
        Health::down(named(&faults)).class(Class::Stale)
    } else {
        Health::healthy(format!("{} targets are scraped", targets.iter().filter(is_wanted).count())).class(Class::Ok)
    };
    health.fact("targets", targets.len()).fact("others_not_up", others)
}

/// Lists the jobs of Prometheus all of whose targets are up, in order. The error is already a probe's answer.
pub(crate) async fn jobs(server: &MonitoringServer) -> Result<Vec<String>, Health> {
    let answer: Wrapped<Active> = api::get(server, "/api/v1/targets", &[("state", "active")]).await?;
    let mut jobs: BTreeMap<String, bool> = BTreeMap::new();
    for target in &answer.data.active_targets {
        *jobs.entry(target.label("job").to_owned()).or_insert(true) &= target.health == "up";
    }
    Ok(jobs.into_iter().filter(|(name, is_up)| *is_up && !name.is_empty()).map(|(name, _)| name).collect())
}

/// Whether the values of an expression lie within bounds.
#[derive(Debug)]
pub struct BoundsProbe {
    name: String,
    server: MonitoringServer,
    bounds: Bounds,
}

impl BoundsProbe {
    /// Makes a probe whose name is `kind` and that of the bounds.
    pub fn new(kind: &str, server: &MonitoringServer, bounds: &Bounds) -> Self {
        Self { name: format!("{kind}{}", bounds.name), server: server.clone(), bounds: bounds.clone() }
    }

    async fn ask(&self) -> Result<Health, Health> {
        let answer: Wrapped<Outcome> =
            api::get(&self.server, "/api/v1/query", &[("query", &self.bounds.query)]).await?;
        Ok(judge_values(&answer.data, &self.bounds))
    }
}

#[async_trait]
impl HealthProbe for BoundsProbe {
    fn name(&self) -> &str {
        &self.name
    }

    async fn check(&self) -> Health {
        let asked = async { self.ask().await.unwrap_or_else(|failure| failure) };
        net::bounded(net::WHOLE, asked).await.fact("query", &self.bounds.query)
    }
}

/// A time, and a number as text.
type Sample = (f64, String);

#[derive(Debug, Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Outcome {
    Vector(Vec<Series>),
    Scalar(Sample),
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
struct Series {
    metric: BTreeMap<String, String>,
    value: Sample,
}

fn judge_values(outcome: &Outcome, bounds: &Bounds) -> Health {
    let values: Vec<(String, f64)> = match outcome {
        Outcome::Vector(series) => series.iter().map(|s| (labels(&s.metric), number(&s.value.1))).collect(),
        Outcome::Scalar(sample) => vec![(String::new(), number(&sample.1))],
        Outcome::Other => return Health::inconclusive("the expression gives neither numbers nor a number"),
    };
    if values.is_empty() {
        return Health::inconclusive("the expression has no value: nothing measures it").class(Class::Empty);
    }
    if values.iter().any(|(_, value)| value.is_nan()) {
        return Health::inconclusive("a value is not a number");
    }
    let is_out = |value: f64| bounds.min.is_some_and(|min| value < min) || bounds.max.is_some_and(|max| value > max);
    let limit = |bound: Option<f64>| bound.map_or_else(|| "…".to_owned(), |b| b.to_string());
    let range = format!("{} to {}", limit(bounds.min), limit(bounds.max));
    let out: Vec<String> =
        values.iter().filter(|(_, v)| is_out(*v)).take(NAMED).map(|(name, v)| format!("{name}{v}")).collect();
    let health = if out.is_empty() {
        let (_, first) = &values[0];
        let more = if values.len() > 1 { format!(" and {} more", values.len() - 1) } else { String::new() };
        Health::healthy(format!("{first}{more}, within {range}")).class(Class::Ok)
    } else {
        Health::degraded(format!("{}: not within {range}", out.join(", "))).class(Class::Errors)
    };
    health.fact("values", values.len())
}

fn number(text: &str) -> f64 {
    match text {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        _ => text.parse().unwrap_or(f64::NAN),
    }
}

fn labels(metric: &BTreeMap<String, String>) -> String {
    let text: Vec<_> = metric.iter().filter(|(name, _)| *name != "__name__").map(|(n, v)| format!("{n}={v}")).collect();
    if text.is_empty() { String::new() } else { format!("{}: ", net::short(&text.join(" "), 100)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Status;

    fn target(job: &str, health: &str, seconds_ago: i64) -> Target {
        let labels = [("job", job), ("instance", "a:1")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        Target {
            labels: labels.into(),
            health: health.into(),
            last_scrape: at() - chrono::TimeDelta::seconds(seconds_ago),
            last_error: "refused".into(),
        }
    }

    fn at() -> DateTime<Utc> {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    fn judged(targets: &[Target], expected: &[&str]) -> Health {
        let expected: Vec<_> = expected.iter().map(|e| (*e).to_owned()).collect();
        judge(targets, &expected, Duration::from_mins(1), at())
    }

    /// Hazard of V5: an empty list has nothing that is down.
    #[test]
    fn nothing_scraped_is_not_health() {
        assert_eq!(judged(&[], &[]).status, Status::Down);
        let missing = judged(&[target("node", "up", 1)], &["node", "app/b:2"]);
        assert_eq!((missing.status, missing.class_of()), (Status::Down, Some(Class::Absent)));
        assert!(missing.summary.contains("app/b:2"), "{missing:?}");
    }

    #[test]
    fn a_target_counts_when_it_is_up_and_was_scraped_lately() {
        assert_eq!(judged(&[target("node", "up", 59)], &["node"]).status, Status::Healthy);
        assert_eq!(judged(&[target("node", "up", 59)], &["node/a:1"]).status, Status::Healthy);
        for bad in [target("node", "up", 61), target("node", "down", 1), target("node", "unknown", 1)] {
            assert_eq!(judged(&[bad], &["node"]).class_of(), Some(Class::Stale));
        }
        let other = judged(&[target("node", "up", 1), target("other", "down", 1)], &["node"]);
        assert_eq!((other.status, other.facts["others_not_up"].as_str()), (Status::Healthy, "1"));
        assert_eq!(judged(&[target("node", "up", 1), target("other", "down", 1)], &[]).status, Status::Down);
    }

    #[test]
    fn values_are_held_against_their_bounds_and_none_is_no_answer() {
        let bounds = |min, max| Bounds { name: "x".into(), query: "x".into(), min, max };
        let of = |json: &str| serde_json::from_str::<Wrapped<Outcome>>(&format!("{{\"data\":{json}}}")).unwrap().data;
        let vector = |value: &str| {
            of(&format!(r#"{{"resultType":"vector","result":[{{"metric":{{"job":"a"}},"value":[1.5,"{value}"]}}]}}"#))
        };
        for (outcome, status) in [
            (vector("3"), Status::Healthy),
            (vector("0.5"), Status::Degraded),
            (vector("+Inf"), Status::Degraded),
            (vector("NaN"), Status::Inconclusive),
            (of(r#"{"resultType":"vector","result":[]}"#), Status::Inconclusive),
            (of(r#"{"resultType":"scalar","result":[1,"2"]}"#), Status::Healthy),
        ] {
            let health = judge_values(&outcome, &bounds(Some(1.0), Some(3.0)));
            assert_eq!(health.status, status, "{outcome:?}: {health:?}");
        }
    }
}
