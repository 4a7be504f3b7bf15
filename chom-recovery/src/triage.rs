//! From answers to a procedure: what is probably broken, why we think so, and what would prove us wrong.
//!
//! Rules go from causes to effects: the Engine, then disks, the database, Redis, the application, the web server. A
//! fault further down is an effect when one further up explains it, and is ranked below it; of faults that are seen
//! directly, the one that others depend on comes first. Refused credentials and a
//! full disk never lead to a restore: the data may be perfectly well.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind},
    probe::{Answer, HealthReport, Status},
};

mod cause;
mod choice;
mod rules;
#[cfg(test)]
mod tests;
mod view;

pub use cause::Cause;
pub use choice::{Choice, Selection, select};
use rules::RULES;
use view::View;

/// What to run. The names are those of the runbook's sections 3.1 to 3.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selected {
    /// Recovery of the whole system (3.4).
    FullSystem,
    /// Recovery of the database (3.1).
    Database,
    /// Recovery of the application (3.2).
    Application,
    /// Recovery of the web server (3.3).
    Nginx,
    /// Recovery from bad performance (3.5).
    Performance,
    /// Recovery of the queue alone (3.6).
    Queue,
    /// Recovery of redis alone (3.6).
    Redis,
    /// Recovery of the scheduler alone (3.6).
    Scheduler,
    /// No recovery: the advice says what to do instead.
    None,
}

impl Selected {
    /// Every answer.
    pub const ALL: [Self; 9] = [
        Self::FullSystem,
        Self::Database,
        Self::Application,
        Self::Nginx,
        Self::Performance,
        Self::Queue,
        Self::Redis,
        Self::Scheduler,
        Self::None,
    ];

    /// Returns the name that the command line and JSON use.
    pub fn code(self) -> &'static str {
        match self {
            Self::FullSystem => "full-system",
            Self::Database => "database",
            Self::Application => "application",
            Self::Nginx => "nginx",
            Self::Performance => "performance",
            Self::Queue => "queue",
            Self::Redis => "redis",
            Self::Scheduler => "scheduler",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Selected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl FromStr for Selected {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|one| one.code() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::code).join(", ");
            Error::new(ErrorKind::InvalidInput, format!("`{}` is not a procedure: {known}", text.escape_debug()))
        })
    }
}

/// A hypothesis about what is broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// What is probably broken, by its stable name.
    pub cause: Cause,
    /// What is believed, in a line.
    pub hypothesis: String,
    /// Which procedure this selects.
    pub procedure: Selected,
    /// Percent, by judgement of the rule's author, for ranking; not a measured probability.
    pub confidence: u8,
    /// Answers behind it, as `probe: summary`.
    pub evidence: Vec<String>,
    /// What would disprove it.
    pub disproved_by: String,
    /// Next safe action, and what a person has to do where there is no command.
    pub advice: String,
    /// Command to type; `None` where a person has to act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// Ranks what may be broken, the most probable first. Never empty.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use chom_recovery::{probe::{Answer, Class, Health, HealthMode, HealthReport}, triage::{Cause, diagnose}};
/// let health = Health::down("access denied").class(Class::Authentication);
/// let answer = Answer { probe: "mysql".into(), health, latency_ms: 3 };
/// let report = HealthReport::new(HealthMode::Full, vec![answer], chrono::Utc::now(), Duration::ZERO);
/// assert_eq!(diagnose(&report)[0].cause, Cause::DatabaseCredentials, "a wrong password is no reason to restore");
/// ```
pub fn diagnose(report: &HealthReport) -> Vec<Diagnosis> {
    let view = View(report);
    let mut found = Vec::new();
    for rule in RULES {
        found.extend(rule(&view));
    }
    // What works is said as well, so that old errors in a log do not look like a reason to restore.
    let works = report.answers.iter().all(|a| a.health.status <= Status::Degraded);
    if found.is_empty() || works {
        found.push(rules::nothing(&view));
    }
    // Stable: of equals, the rule nearer to the cause comes first.
    found.sort_by_key(|d| std::cmp::Reverse(d.confidence));
    found
}

/// Makes a diagnosis; each answer is evidence once.
fn diagnosis(
    cause: Cause,
    hypothesis: &str,
    confidence: u8,
    answers: &[&Answer],
    disproved_by: &str,
    advice: &str,
) -> Diagnosis {
    let mut evidence: Vec<String> = Vec::new();
    for answer in answers {
        let line = format!("{}: {}", answer.probe, answer.health.summary);
        if !evidence.contains(&line) {
            evidence.push(line);
        }
    }
    Diagnosis {
        cause,
        hypothesis: hypothesis.into(),
        procedure: cause.procedure(),
        confidence,
        evidence,
        disproved_by: disproved_by.into(),
        advice: advice.into(),
        command: cause.command().map(str::to_owned),
    }
}

fn joined<'a>(lists: &[Vec<&'a Answer>]) -> Vec<&'a Answer> {
    lists.iter().flatten().copied().collect()
}
