//! Whether logs arrive in Loki.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{LOG_INGESTION, api, prometheus::Wrapped};
use crate::{
    probe::{Class, Health, HealthProbe, http::shown, net},
    system::MonitoringServer,
};

/// Tolerated difference of clocks.
const SKEW: Duration = Duration::from_mins(1);

/// Whether the newest line of this system's logs is a short time old.
#[derive(Debug)]
pub struct LogIngestionProbe {
    server: MonitoringServer,
    selector: String,
    age: Duration,
}

impl LogIngestionProbe {
    /// Makes the probe `log-ingestion`.
    pub fn new(server: &MonitoringServer, selector: &str, age: Duration) -> Self {
        Self { server: server.clone(), selector: selector.to_owned(), age }
    }

    async fn ask(&self) -> Result<Health, Health> {
        let now = Utc::now();
        let nanoseconds = |at: DateTime<Utc>| at.timestamp_nanos_opt().unwrap_or_default().to_string();
        let (start, end) = (nanoseconds(now - self.age - SKEW), nanoseconds(now + SKEW));
        let query = [
            ("query", self.selector.as_str()),
            ("start", &start),
            ("end", &end),
            ("limit", "1"),
            ("direction", "backward"),
        ];
        api::fetch(&self.server, "/ready", &[]).await?;
        let answer: Wrapped<Streams> = api::get(&self.server, "/loki/api/v1/query_range", &query).await?;
        Ok(judge(&answer.data, self.age, now))
    }
}

#[async_trait]
impl HealthProbe for LogIngestionProbe {
    fn name(&self) -> &str {
        LOG_INGESTION
    }

    async fn check(&self) -> Health {
        let asked = async { self.ask().await.unwrap_or_else(|failure| failure) };
        net::bounded(net::WHOLE, asked).await.fact("server", shown(&self.server.url)).fact("selector", &self.selector)
    }
}

/// Lists the values of a label that Loki has logs of. The error is already a probe's answer.
pub(crate) async fn values(server: &MonitoringServer, label: &str) -> Result<Vec<String>, Health> {
    #[derive(Deserialize)]
    struct Values {
        /// Left out where there is none.
        #[serde(default)]
        data: Vec<String>,
    }
    let values: Values = api::get(server, &format!("/loki/api/v1/label/{label}/values"), &[]).await?;
    Ok(values.data)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Streams {
    result_type: String,
    result: Vec<Stream>,
}

#[derive(Debug, Deserialize)]
struct Stream {
    /// Nanoseconds since 1970 as text, then the line, then what else Loki knows of it.
    #[serde(default)]
    values: Vec<Vec<serde_json::Value>>,
}

fn judge(streams: &Streams, age: Duration, now: DateTime<Utc>) -> Health {
    if streams.result_type != "streams" {
        return Health::inconclusive("the selector counts lines instead of selecting them: leave out functions");
    }
    let times = streams.result.iter().flat_map(|s| &s.values).map(|entry| {
        let text = entry.first().and_then(serde_json::Value::as_str);
        text.and_then(|text| text.parse().ok()).map(DateTime::from_timestamp_nanos)
    });
    let Some(times) = times.collect::<Option<Vec<_>>>() else {
        return Health::inconclusive("a line of the answer has no time");
    };
    let Some(newest) = times.into_iter().max() else {
        return Health::down(format!("no line arrived within {} s", age.as_secs())).class(Class::Stale);
    };
    let since = (now - newest).to_std().unwrap_or_default();
    let health = if newest > now + SKEW {
        Health::inconclusive("the newest line lies ahead of this host's clock").class(Class::Clock)
    } else if since > age {
        Health::down(format!("the newest line is {} s old, over {} s", since.as_secs(), age.as_secs()))
            .class(Class::Stale)
    } else {
        Health::healthy(format!("the newest line is {} s old", since.as_secs())).class(Class::Ok)
    };
    health.fact("newest", newest.to_rfc3339())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Status;

    #[test]
    fn only_a_line_of_late_counts() {
        let now = "2026-01-02T03:04:05Z".parse::<DateTime<Utc>>().unwrap();
        let judged = |values: &str, kind: &str| {
            let text = format!(r#"{{"resultType":"{kind}","result":[{{"stream":{{}},"values":{values}}}]}}"#);
            judge(&serde_json::from_str(&text).unwrap(), Duration::from_mins(5), now)
        };
        let line = |seconds_ago: i64| {
            let at = now - chrono::TimeDelta::seconds(seconds_ago);
            format!(r#"[["{}","text"]]"#, at.timestamp_nanos_opt().unwrap())
        };
        for (values, kind, status) in [
            (line(10), "streams", Status::Healthy),
            (line(301), "streams", Status::Down),
            (line(-120), "streams", Status::Inconclusive),
            ("[]".to_owned(), "streams", Status::Down),
            (r#"[["soon","text"]]"#.to_owned(), "streams", Status::Inconclusive),
            (line(10), "matrix", Status::Inconclusive),
        ] {
            let health = judged(&values, kind);
            assert_eq!(health.status, status, "{values} {kind}: {health:?}");
        }
    }
}
