//! Latency and errors as users see them: a number of requests to each HTTP check.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    probe::{http::fetch, latency::percentile},
    system::{HttpCheck, Performance},
};

/// What the requests to a check took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Check.
    pub check: String,
    /// Requests.
    pub requests: u32,
    /// How many got another status, another body or no answer.
    pub errors: u32,
    /// Half of the answers took less, in milliseconds; `None`: there was none.
    pub p50_ms: Option<f64>,
    /// 95 of 100 took less, in milliseconds.
    pub p95_ms: Option<f64>,
    /// Over this the check is slow, in milliseconds.
    pub slow_after_ms: f64,
}

/// Asks every check, one after the other, each so many times. One that does not answer is not asked to the end.
pub(super) async fn measure(checks: &[HttpCheck], requests: u32) -> Vec<Latency> {
    let mut all = Vec::new();
    for check in checks {
        let (mut took, mut errors, mut asked) = (Vec::new(), 0, 0);
        for _ in 0..requests {
            asked += 1;
            match fetch(check).await {
                Ok(answer) => {
                    took.push(answer.took);
                    errors += u32::from(!is_wanted(check, answer.status, &answer.body));
                }
                Err(_) => errors += 1,
            }
            // A check that waits for its timeout each time would take all the time there is.
            if errors >= 3 && errors == asked {
                break;
            }
        }
        all.push(Latency::of(check, asked, errors, &took));
    }
    all
}

fn is_wanted(check: &HttpCheck, status: u16, body: &[u8]) -> bool {
    let wanted = check.contains.as_deref().unwrap_or_default().as_bytes();
    status == check.status && (wanted.is_empty() || body.windows(wanted.len()).any(|window| window == wanted))
}

impl Latency {
    fn of(check: &HttpCheck, requests: u32, errors: u32, took: &[Duration]) -> Self {
        let mut took: Vec<f64> = took.iter().map(|took| took.as_secs_f64() * 1e3).collect();
        took.sort_by(f64::total_cmp);
        Self {
            check: check.name.clone(),
            requests,
            errors,
            p50_ms: percentile(&took, 50),
            p95_ms: percentile(&took, 95),
            slow_after_ms: check.slow_after.as_secs_f64() * 1e3,
        }
    }

    /// Per cent of the requests that failed.
    pub fn errors_percent(&self) -> f64 {
        f64::from(self.errors) * 100.0 / f64::from(self.requests.max(1))
    }

    /// Says what is over its threshold, where something is.
    pub(super) fn fault(&self, limits: &Performance) -> Option<String> {
        let check = &self.check;
        if self.errors_percent() > f64::from(limits.errors_percent) {
            return Some(format!("check `{check}`: {} of {} requests failed", self.errors, self.requests));
        }
        let p95 = self.p95_ms?;
        (p95 > self.slow_after_ms).then(|| {
            format!("check `{check}`: 95 of 100 answers take up to {p95:.0} ms, over {:.0} ms", self.slow_after_ms)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_count_before_latency() {
        let latency = |errors, p95| Latency {
            check: "health".into(),
            requests: 20,
            errors,
            p50_ms: p95,
            p95_ms: p95,
            slow_after_ms: 2_000.0,
        };
        let limits = Performance::default();
        assert_eq!(latency(0, Some(1_999.0)).fault(&limits), None);
        assert!(latency(0, Some(2_001.0)).fault(&limits).unwrap().contains("2001 ms"));
        assert!(latency(20, None).fault(&limits).unwrap().contains("20 of 20"));
        assert!(latency(1, Some(1.0)).fault(&limits).is_some(), "one of twenty is five per cent");
        assert_eq!(latency(1, Some(1.0)).fault(&Performance { errors_percent: 5, ..limits }), None);
    }
}
