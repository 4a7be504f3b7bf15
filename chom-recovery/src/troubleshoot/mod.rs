//! Why a recovery fails, hangs, or leaves something that does not work: the five issues of the runbook's troubleshooting.
//!
//! Looking changes nothing: no restore is tried again, nothing is pruned, no service is restarted, no cache is emptied. Each
//! cause comes with what was seen, what mends it, and what that risks. What is safe and can be undone is a
//! [`Fix`](crate::procedure::fix::Fix) by its name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind},
    probe::{Health, Status},
    secret::scrub,
};

mod application;
mod hang;
mod listener;
mod permissions;
mod restore;
mod start;

pub(crate) use application::{CACHE, application, config_cache, environment_of, pending_migrations};
pub(crate) use hang::hang;
pub(crate) use permissions::permissions;
pub(crate) use restore::{newest_failed, restore};
pub(crate) use start::{may_start, start};

/// Longest line of evidence, in characters.
const LONGEST: usize = 300;

/// What does not go as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Issue {
    /// A restore fails.
    Restore,
    /// A restore hangs.
    Hang,
    /// Containers do not start.
    Start,
    /// Files have other owners or permissions than they should.
    Permissions,
    /// All services run, and the application answers with errors.
    Application,
}

impl Issue {
    /// Every issue.
    pub const ALL: [Self; 5] = [Self::Restore, Self::Hang, Self::Start, Self::Permissions, Self::Application];

    /// Returns the name that the command line and JSON use.
    pub fn code(self) -> &'static str {
        match self {
            Self::Restore => "restore",
            Self::Hang => "hang",
            Self::Start => "start",
            Self::Permissions => "permissions",
            Self::Application => "application",
        }
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl FromStr for Issue {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|issue| issue.code() == text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("`{}` is not an issue", text.escape_debug()))
                .hint("use one of restore, hang, start, permissions, application")
        })
    }
}

/// A cause that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Names it: lower-case words joined by `-`.
    pub name: String,
    /// What is wrong, in a line.
    pub cause: String,
    /// What was seen.
    pub evidence: Vec<String>,
    /// Percent, by judgement of the rule's author, for ranking; not a measured probability.
    pub confidence: u8,
    /// What mends it.
    pub fix: String,
    /// What mending it risks.
    pub risk: String,
    /// Whether `troubleshoot --fix NAME` does that, and can undo it.
    pub is_fixable: bool,
}

impl Cause {
    fn new(name: impl Into<String>, confidence: u8, cause: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            cause: clean(&cause.into()),
            evidence: Vec::new(),
            confidence,
            fix: String::new(),
            risk: "none: nothing is changed by it".into(),
            is_fixable: false,
        }
    }

    fn seen(mut self, evidence: impl fmt::Display) -> Self {
        self.evidence.push(clean(&evidence.to_string()));
        self
    }

    fn mend(mut self, fix: impl Into<String>, risk: impl Into<String>) -> Self {
        (self.fix, self.risk) = (clean(&fix.into()), risk.into());
        self
    }

    fn fixable(mut self) -> Self {
        self.is_fixable = true;
        self
    }
}

fn clean(text: &str) -> String {
    let text: String = scrub(text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// What was found about an issue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Issue.
    pub issue: Issue,
    /// Causes, the most probable first.
    pub causes: Vec<Cause>,
    /// What was looked at and is as it should be.
    pub ruled_out: Vec<String>,
    /// What could not be looked at: a cause may hide there.
    pub unclear: Vec<String>,
}

impl Findings {
    fn new(issue: Issue) -> Self {
        Self { issue, causes: Vec::new(), ruled_out: Vec::new(), unclear: Vec::new() }
    }

    /// Says in a word how it stands; no cause found is health only where everything could be looked at.
    pub fn status(&self) -> Status {
        match (self.causes.is_empty(), self.unclear.is_empty()) {
            (false, _) => Status::Down,
            (true, false) => Status::Inconclusive,
            (true, true) => Status::Healthy,
        }
    }

    /// Finds a cause by its name.
    pub fn cause(&self, name: &str) -> Option<&Cause> {
        self.causes.iter().find(|cause| cause.name == name)
    }

    fn add(&mut self, cause: Cause) {
        self.causes.push(cause);
    }

    fn fine(&mut self, what: impl Into<String>) {
        self.ruled_out.push(clean(&what.into()));
    }

    fn unclear(&mut self, what: impl Into<String>) {
        self.unclear.push(clean(&what.into()));
    }

    /// Takes a disk that is full for a cause.
    fn disk(&mut self, health: &Health) {
        match health.status {
            Status::Healthy => self.fine(format!("disks: {}", health.summary)),
            Status::Inconclusive => self.unclear(format!("disks: {}", health.summary)),
            status => self.add(
                Cause::new("disk-full", if status == Status::Down { 95 } else { 40 }, "a disk has no room left")
                    .seen(&health.summary)
                    .mend(
                        "free space: look at `docker system df` and at rotated logs, and remove what you can name; \
                         `chom-recovery runs prune --dry-run` lists what old runs keep",
                        "never `docker system prune`: it removes stopped containers, networks and images that a \
                         recovery needs",
                    ),
            ),
        }
    }

    fn ranked(mut self) -> Self {
        self.causes.sort_by_key(|cause| std::cmp::Reverse(cause.confidence));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cause_is_health_only_where_everything_was_looked_at() {
        let mut findings = Findings::new(Issue::Start);
        assert_eq!(findings.status(), Status::Healthy);
        findings.unclear("logs");
        assert_eq!(findings.status(), Status::Inconclusive);
        findings.disk(&Health::down("full"));
        findings.add(Cause::new("x", 99, "y\n\u{1b}[31mz"));
        let findings = findings.ranked();
        assert_eq!((findings.status(), findings.causes[0].cause.as_str()), (Status::Down, "y  [31mz"));
    }
}
