//! From answers to a procedure: what is probably broken, why we think so, and what would prove us wrong.
//!
//! Rules go from causes to effects: the Engine, then disks, the database, Redis, the application, the web server. A
//! fault further down is an effect when one further up explains it, and is ranked below it. Refused credentials and a
//! full disk never lead to a restore: the data may be perfectly well.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::probe::{Answer, Class, HealthReport, Status};

mod rules;
#[cfg(test)]
mod tests;

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

/// A hypothesis about what is broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
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
    /// Next safe action.
    pub advice: String,
}

/// Ranks what may be broken, the most probable first. Never empty.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use chom_recovery::{probe::{Answer, Class, Health, HealthMode, HealthReport}, triage::{Selected, diagnose}};
/// let health = Health::down("access denied").class(Class::Authentication);
/// let answer = Answer { probe: "mysql".into(), health, latency_ms: 3 };
/// let report = HealthReport::new(HealthMode::Full, vec![answer], chrono::Utc::now(), Duration::ZERO);
/// assert_eq!(diagnose(&report)[0].procedure, Selected::None, "a wrong password is no reason to restore");
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

type Rule = fn(&View<'_>) -> Option<Diagnosis>;

/// Rules, causes before effects.
const RULES: &[Rule] = &[
    rules::engine,
    rules::everything_down,
    rules::disk_full,
    rules::credentials,
    rules::corrupt,
    rules::data_gone,
    rules::first_start,
    rules::connections,
    rules::database_down,
    rules::redis_down,
    rules::application_credentials,
    rules::application_down,
    rules::maintenance,
    rules::certificate,
    rules::web_down,
    rules::scheduler,
    rules::workers,
    rules::slow,
];

/// A report, and the questions that rules ask of it.
struct View<'a>(&'a HealthReport);

impl<'a> View<'a> {
    fn answers(&self, wanted: impl Fn(&Answer) -> bool) -> Vec<&'a Answer> {
        self.0.answers.iter().filter(|a| a.health.status > Status::Healthy && wanted(a)).collect()
    }

    fn of(&self, probe: &str, classes: &[Class]) -> Vec<&'a Answer> {
        self.answers(|a| a.probe == probe && a.class().is_some_and(|c| classes.contains(&c)))
    }

    /// Answers about the containers of services in a role, whose state is a fault.
    fn containers(&self, role: &str) -> Vec<&'a Answer> {
        self.answers(|a| {
            a.probe.starts_with("container-")
                && a.health.status == Status::Down
                && a.health.facts.get("role").is_some_and(|r| r == role)
        })
    }

    fn http(&self, classes: &[Class]) -> Vec<&'a Answer> {
        self.answers(|a| a.probe.starts_with("http-") && a.class().is_some_and(|c| classes.contains(&c)))
    }

    /// Answers about logs of a role (any for `""`) that hold events of a topic.
    fn logs(&self, role: &str, topics: &[&str]) -> Vec<&'a Answer> {
        self.answers(|a| {
            a.probe.starts_with("logs-")
                && (role.is_empty() || a.health.facts.get("role").is_some_and(|r| r == role))
                && topics.iter().any(|t| a.health.facts.contains_key(&format!("errors.{t}")))
        })
    }

    fn is_healthy(&self, probe: &str) -> bool {
        self.0.answer(probe).is_some_and(|a| a.health.status == Status::Healthy)
    }

    /// Whether something is known to be wrong with the database, however it came.
    fn database_is_bad(&self) -> bool {
        self.0.answers.iter().any(|a| a.probe.starts_with("mysql") && a.health.status == Status::Down)
            || !self.containers("database").is_empty()
    }

    fn redis_is_bad(&self) -> bool {
        self.0.answer("redis").is_some_and(|a| a.health.status == Status::Down) || !self.containers("redis").is_empty()
    }

    /// Workers that are down: the scheduler by its name, or the others.
    fn workers(&self, scheduler: bool) -> Vec<&'a Answer> {
        let is_scheduler = |a: &Answer| a.probe.contains("schedul") || a.probe.contains("cron");
        self.containers("worker").into_iter().filter(|a| is_scheduler(a) == scheduler).collect()
    }

    /// How sure it is that a worker is at fault: not where what it needs is broken.
    fn of_worker(&self, is_down: bool) -> u8 {
        match (self.database_is_bad() || self.redis_is_bad() || self.disk_is_full(), is_down) {
            (true, _) => 28,
            (false, true) => 78,
            (false, false) => 55,
        }
    }

    fn disk_is_full(&self) -> bool {
        rules::disk_full(self).is_some_and(|d| d.confidence > 80)
    }

    fn credentials_are_bad(&self) -> bool {
        !self.of("mysql", &[Class::Authentication]).is_empty()
    }
}

fn diagnosis(
    hypothesis: &str,
    procedure: Selected,
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
        hypothesis: hypothesis.into(),
        procedure,
        confidence,
        evidence,
        disproved_by: disproved_by.into(),
        advice: advice.into(),
    }
}

fn joined<'a>(lists: &[Vec<&'a Answer>]) -> Vec<&'a Answer> {
    lists.iter().flatten().copied().collect()
}
