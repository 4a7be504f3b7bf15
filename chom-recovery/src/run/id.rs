//! Names: of runs, of steps, of effects.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::error::{Error, ErrorKind, Result};

/// Identifies a run: a ULID, so that ids sort by the time at which runs began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(Ulid);

impl RunId {
    /// The id that a plan shows: the real one is not known before the run begins, and must not change the plan's hash.
    pub const PLANNED: Self = Self(Ulid::from_parts(0, 0));

    /// Makes the id of a run that begins at `unix_millis`, greater than `newest` even when the clock went back.
    pub(crate) fn after(unix_millis: u64, newest: Option<Self>) -> Result<Self> {
        let fresh = Self(Ulid::from_parts(unix_millis, rand::random::<u128>() >> 48));
        match newest {
            Some(newest) if fresh <= newest => newest.0.increment().map(Self).ok_or_else(|| {
                Error::new(ErrorKind::Conflict, format!("no run id is left after `{newest}`"))
                    .hint("a run directory carries a time far in the future; move it away")
            }),
            _ => Ok(fresh),
        }
    }

    /// Returns when the run began; a plan's is the epoch.
    pub fn time(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(i64::try_from(self.0.timestamp_ms()).unwrap_or_default()).unwrap_or_default()
    }

    /// Returns the last ten characters in lower case: short enough for names of volumes and containers.
    pub fn short(&self) -> String {
        self.to_string()[16..].to_ascii_lowercase()
    }
}

impl FromStr for RunId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ulid::from_string(text).map(Self).map_err(|_| {
            Error::new(ErrorKind::InvalidInput, format!("`{}` is not a run id", text.escape_debug()))
                .hint("`chom-recovery runs list` shows them")
        })
    }
}

impl TryFrom<String> for RunId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunId({self})")
    }
}

/// Names one attempt of one step of one run.
///
/// Things made outside (containers, volumes, objects) are named after it, so that they can be found again after a
/// crash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EffectKey {
    /// Run.
    pub run: RunId,
    /// Path of the step.
    pub step: String,
    /// Attempt, from 1.
    pub attempt: u32,
}

impl EffectKey {
    /// Returns a name that is the same for all attempts and safe for containers and volumes:
    /// `chom-recovery-<end of run id>-<step>-<hash of step>`, at most 63 characters of `[a-z0-9-]`.
    pub fn stable_name(&self) -> String {
        let mut words = String::new();
        for c in self.step.chars().map(|c| c.to_ascii_lowercase()) {
            if c.is_ascii_alphanumeric() {
                words.push(c);
            } else if !words.ends_with('-') && !words.is_empty() {
                words.push('-');
            }
        }
        // The end of a path tells more than its begin.
        let words = &words[words.len().saturating_sub(26)..];
        let digest = blake3::hash(self.step.as_bytes()).to_hex();
        format!("chom-recovery-{}-{}-{}", self.run.short(), words.trim_matches('-'), &digest[..8])
    }

    /// Returns [`EffectKey::stable_name`] with the attempt behind it.
    pub fn container_name(&self) -> String {
        format!("{}-{}", self.stable_name(), self.attempt)
    }

    /// Returns the key of another attempt of the same step.
    #[must_use]
    pub fn with_attempt(&self, attempt: u32) -> Self {
        Self { attempt, ..self.clone() }
    }
}

impl fmt::Display for EffectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.run, self.step, self.attempt)
    }
}

/// Checks a name of a step, scope or decision: names are part of the API and of the journal.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let ok = (1..=64).contains(&name.len())
        && !name.starts_with('-')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if ok {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::InvalidInput, format!("`{}` cannot name a step or scope", name.escape_debug()))
            .hint("use 1 to 64 of a-z, 0-9 and -; what varies goes into `key`"))
    }
}

/// Checks the key of a step in a loop.
pub(crate) fn check_key(key: &str) -> Result<()> {
    let bad = |c: char| c.is_control() || c == '[' || c == ']';
    if key.is_empty() || key.len() > 200 || key.contains(bad) {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("`{}` cannot be the key of a step", key.escape_debug()),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_although_the_clock_goes_back() {
        let first = RunId::after(2_000_000, None).unwrap();
        let second = RunId::after(1_000_000, Some(first)).unwrap();
        let third = RunId::after(0, Some(second)).unwrap();
        assert!(first < second && second < third);
        assert_eq!(third.to_string().parse::<RunId>().unwrap(), third);
    }

    #[test]
    fn names_of_containers_are_short_safe_and_distinct() {
        let run = RunId::after(1, None).unwrap();
        let key = |step: &str| EffectKey { run, step: step.into(), attempt: 3 };
        let long = key("full-system/database/a-step-with-quite-a-long-name-indeed[Some Host/é:1]");
        assert!(long.stable_name().len() <= 63, "{}", long.stable_name());
        assert!(long.container_name().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        assert!(long.container_name().ends_with("-3"));
        assert_ne!(key("a/b").stable_name(), key("a-b").stable_name());
        assert_eq!(long.stable_name(), long.with_attempt(1).stable_name());
    }
}
