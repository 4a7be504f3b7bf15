//! Errors of logs, grouped by what failed.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::line::{Level, exception, read_line};
use crate::{probe::net, secret::scrub};

/// Most groups that are kept; what comes beyond is counted together.
const GROUPS: usize = 200;

/// Errors of the same level and kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorGroup {
    /// Level.
    pub level: Level,
    /// Class of the exception, else the topic.
    pub what: String,
    /// How many.
    pub count: u64,
    /// Time of the first that carries one.
    pub first: Option<DateTime<Utc>>,
    /// Time of the last that carries one.
    pub last: Option<DateTime<Utc>>,
    /// The last of them, scrubbed and shortened.
    pub sample: String,
}

/// Counts errors as lines come; those of a stack trace belong to the line before them and are none.
#[derive(Debug, Default)]
pub struct ErrorGroups(BTreeMap<(Level, String), ErrorGroup>);

impl ErrorGroups {
    /// Adds a line; `at` is when it was written, where the line itself does not say, and one before `since` is left out.
    pub fn add(&mut self, line: &str, at: Option<DateTime<Utc>>, since: Option<DateTime<Utc>>) {
        let Some(event) = read_line(line) else { return };
        let at = at.or(event.at);
        if at.zip(since).is_some_and(|(at, since)| at < since) {
            return;
        }
        let what = exception(line).unwrap_or_else(|| event.topic.to_string());
        let mut key = (event.level, what);
        if self.0.len() >= GROUPS && !self.0.contains_key(&key) {
            key.1 = "others".into();
        }
        let (level, what) = key.clone();
        let empty = ErrorGroup { level, what, count: 0, first: None, last: None, sample: String::new() };
        let group = self.0.entry(key).or_insert(empty);
        group.count += 1;
        group.first = group.first.into_iter().chain(at).min();
        group.last = group.last.max(at);
        group.sample = net::short(&scrub(line), 300);
    }

    /// Returns the groups, the worst level first, then the most frequent.
    pub fn into_ranked(self) -> Vec<ErrorGroup> {
        let mut groups: Vec<_> = self.0.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse((group.level, group.count)));
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_grouped_by_level_and_exception_and_traces_are_part_of_them() {
        let mut groups = ErrorGroups::default();
        for line in [
            r#"[2026-01-02 02:00:00] production.ERROR: SQLSTATE[HY000] [2002] {"exception":"[object] (PDOException(code: 2002): x"#,
            "#0 /srv/app/vendor/ERROR.php(12): connect()",
            r#"[2026-01-02 02:05:00] production.ERROR: SQLSTATE[HY000] [2002] {"exception":"[object] (PDOException(code: 2002): x"#,
            "[2026-01-02 02:01:00] production.EMERGENCY: the disk is on fire",
            "[2026-01-02 02:01:00] production.INFO: import finished with 0 errors",
            "[2026-01-01 02:01:00] production.CRITICAL: long ago",
        ] {
            groups.add(line, None, Some("2026-01-02T00:00:00Z".parse().unwrap()));
        }
        let ranked = groups.into_ranked();
        let shown: Vec<_> = ranked.iter().map(|g| (g.level, g.what.as_str(), g.count)).collect();
        assert_eq!(shown, [(Level::Emergency, "other", 1), (Level::Error, "PDOException", 2)]);
        let times = (ranked[1].first.unwrap().to_rfc3339(), ranked[1].last.unwrap().to_rfc3339());
        assert_eq!(times, ("2026-01-02T02:00:00+00:00".into(), "2026-01-02T02:05:00+00:00".into()));
    }

    #[test]
    fn no_flood_of_kinds_fills_memory() {
        let mut groups = ErrorGroups::default();
        for n in 0..2 * GROUPS {
            groups.add(&format!(r#"local.ERROR: x {{"exception":"[object] (E{n}(code: 0)"#), None, None);
        }
        let ranked = groups.into_ranked();
        assert_eq!(ranked.len(), GROUPS + 1);
        assert_eq!(ranked[0].count, GROUPS as u64);
    }
}
