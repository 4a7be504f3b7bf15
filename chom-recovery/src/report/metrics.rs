//! Backups and drills as Prometheus reads them: a file for node_exporter's textfile collector, and rules that alert.
//!
//! Moments are given as Unix times as well as ages: a rule that compares a moment with `time()` still fires when the
//! file is no longer written.
//!
//! # Source
//! Prometheus documentation, "Exposition formats", "Metric and label naming", "Alerting rules".

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{catalog::Level, system::System};

/// What is measured. What is not known is left out of the file, never written as zero.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// System.
    pub system: String,
    /// Version of this program.
    pub version: String,
    /// When it was measured.
    pub at: DateTime<Utc>,
    /// Whether the repository could be listed. Where it could not, nothing is known of its backups.
    pub repository_up: bool,
    /// Usable backups.
    pub usable: u64,
    /// Backups that are there and cannot be used.
    pub damaged: u64,
    /// The newest usable backup of each component, by component.
    pub newest: Vec<ComponentMetrics>,
    /// Longest age of data that an incident may cost, in seconds.
    pub rpo_objective_s: f64,
    /// Longest time that a recovery may take, in seconds.
    pub rto_objective_s: f64,
    /// The newest drill that came to an end.
    pub drill: Option<DrillMetrics>,
    /// Runs that are not over.
    pub open_runs: u64,
    /// The newest legacy backup of each kind, where the configuration knows some.
    pub legacy: Vec<LegacyMetrics>,
    /// `latest` links that must not be relied on.
    pub legacy_links_broken: Option<u64>,
    /// The copy of the repository, where one is configured.
    pub copy: Option<CopyMetrics>,
}

/// The copy of the repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopyMetrics {
    /// Whether it could be listed.
    pub up: bool,
    /// Usable backups in it.
    pub usable: u64,
    /// The moment whose data the newest of them holds.
    pub point: Option<DateTime<Utc>>,
}

/// The newest usable backup of a component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComponentMetrics {
    /// Component.
    pub component: String,
    /// The moment whose data it holds.
    pub point: DateTime<Utc>,
    /// How long it took to read, in seconds.
    pub duration_s: f64,
    /// Bytes in the store.
    pub stored_bytes: u64,
    /// Bytes once decompressed.
    pub plain_bytes: u64,
    /// Highest level that a verification passed; `None`: none, or the newest failed.
    pub level: Option<Level>,
    /// When the newest verification ended.
    pub verified: Option<DateTime<Utc>>,
}

/// A drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillMetrics {
    /// When it ended.
    pub at: DateTime<Utc>,
    /// Whether the backup was restored and proven.
    pub succeeded: bool,
    /// How long that took, in seconds; only of one that succeeded.
    pub rto_s: Option<f64>,
}

/// The newest legacy backup of a kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LegacyMetrics {
    /// What it holds.
    pub kind: String,
    /// The moment whose data it holds.
    pub point: DateTime<Utc>,
    /// Bytes of the file.
    pub stored_bytes: u64,
}

/// Writes metrics in the text format, one family after the other.
struct Page {
    text: String,
    system: String,
}

impl Page {
    fn family(&mut self, name: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP chom_recovery_{name} {help}\n# TYPE chom_recovery_{name} gauge");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let mut all = format!("system=\"{}\"", escaped(&self.system));
        for (label, text) in labels {
            let _ = write!(all, ",{label}=\"{}\"", escaped(text));
        }
        let _ = writeln!(self.text, "chom_recovery_{name}{{{all}}} {value}");
    }

    /// A family with one sample.
    fn one(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, help);
        self.sample(name, &[], value);
    }

    /// A family with a sample for each item that has a value; none at all where no item has one.
    fn each<'a, T>(
        &mut self,
        (name, help): (&str, &str),
        (label, items): (&str, &'a [T]),
        key: impl Fn(&'a T) -> &'a str,
        value: impl Fn(&'a T) -> Option<f64>,
    ) {
        let found: Vec<_> = items.iter().filter_map(|item| Some((key(item), value(item)?))).collect();
        if !found.is_empty() {
            self.family(name, help);
            for (key, value) in found {
                self.sample(name, &[(label, key)], value);
            }
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn unix(time: DateTime<Utc>) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact for the next 285,000 years")]
    let seconds = time.timestamp() as f64;
    seconds
}

fn bytes(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a sample is a float")]
    let count = count as f64;
    count
}

/// 1 to 4 for L1 to L4, and 0 for a backup that was never proven.
fn number(level: Option<Level>) -> f64 {
    match level {
        None => 0.0,
        Some(Level::L1) => 1.0,
        Some(Level::L2) => 2.0,
        Some(Level::L3) => 3.0,
        Some(Level::L4) => 4.0,
    }
}

/// Renders metrics for a file that ends in `.prom`.
pub fn exposition(metrics: &Metrics) -> String {
    let mut page = Page { text: String::new(), system: metrics.system.clone() };
    page.family("info", "The program that wrote this file.");
    page.sample("info", &[("version", &metrics.version)], 1);
    page.one("metrics_timestamp_seconds", "Unix time at which this file was written.", unix(metrics.at));
    page.one(
        "repository_up",
        "Whether the backup repository could be listed; while it is 0, nothing is told of its backups.",
        u8::from(metrics.repository_up),
    );
    if metrics.repository_up {
        page.one("backups_usable", "Backups that can be restored as far as their manifests tell.", metrics.usable);
        page.one("backups_damaged", "Backups that are there and cannot be used.", metrics.damaged);
        newest(&mut page, metrics);
    }
    if let Some(copy) = &metrics.copy {
        page.one("copy_up", "Whether the copy of the repository could be listed.", u8::from(copy.up));
        if copy.up {
            page.one("copy_backups_usable", "Usable backups in the copy of the repository.", copy.usable);
        }
        if let Some(point) = copy.point {
            page.one(
                "copy_point_timestamp_seconds",
                "Unix time of the data of the newest backup in the copy.",
                unix(point),
            );
            let age = age(metrics.at, point);
            page.one(
                "copy_age_seconds",
                "Age of the data of the newest backup in the copy when this was written.",
                age,
            );
        }
    }
    page.one("rpo_objective_seconds", "Longest age of data that an incident may cost.", metrics.rpo_objective_s);
    page.one("rto_objective_seconds", "Longest time that a recovery may take.", metrics.rto_objective_s);
    if let Some(drill) = &metrics.drill {
        page.one("drill_timestamp_seconds", "Unix time at which the newest drill ended.", unix(drill.at));
        page.one(
            "drill_success",
            "Whether the newest drill restored and proved its backup.",
            u8::from(drill.succeeded),
        );
        if let Some(rto) = drill.rto_s {
            page.one("drill_rto_seconds", "Time from the begin of the newest drill to a proven server.", rto);
        }
    }
    page.one("runs_open", "Recoveries and backups that were begun and are not over.", metrics.open_runs);
    let kinds = ("kind", metrics.legacy.as_slice());
    page.each(
        ("legacy_point_timestamp_seconds", "Unix time of the data of the newest legacy backup."),
        kinds,
        |m| &m.kind,
        |m| Some(unix(m.point)),
    );
    page.each(
        ("legacy_age_seconds", "Age of the data of the newest legacy backup when this file was written."),
        kinds,
        |m| &m.kind,
        |m| Some(age(metrics.at, m.point)),
    );
    page.each(
        ("legacy_stored_bytes", "Size of the newest legacy backup."),
        kinds,
        |m| &m.kind,
        |m| Some(bytes(m.stored_bytes)),
    );
    if let Some(broken) = metrics.legacy_links_broken {
        page.one("legacy_links_broken", "Links called latest that lead nowhere or not to the newest.", broken);
    }
    page.text
}

fn age(now: DateTime<Utc>, point: DateTime<Utc>) -> f64 {
    (unix(now) - unix(point)).max(0.0)
}

fn newest(page: &mut Page, metrics: &Metrics) {
    let components = ("component", metrics.newest.as_slice());
    let mut each = |name, help, value: &dyn Fn(&ComponentMetrics) -> Option<f64>| {
        page.each((name, help), components, |m| &m.component, value);
    };
    each("backup_point_timestamp_seconds", "Unix time of the data of the newest usable backup.", &|m| {
        Some(unix(m.point))
    });
    each("backup_age_seconds", "Age of the data of the newest usable backup when this file was written.", &|m| {
        Some(age(metrics.at, m.point))
    });
    each("backup_rpo_gap_seconds", "By how much that age exceeds the RPO; 0 within it.", &|m| {
        Some((age(metrics.at, m.point) - metrics.rpo_objective_s).max(0.0))
    });
    each("backup_duration_seconds", "Time that the newest usable backup took to read.", &|m| Some(m.duration_s));
    each("backup_stored_bytes", "Bytes of the newest usable backup in the store.", &|m| Some(bytes(m.stored_bytes)));
    each("backup_plain_bytes", "Bytes of the newest usable backup once decompressed.", &|m| Some(bytes(m.plain_bytes)));
    each(
        "backup_verification_level",
        "Highest level that a verification of the newest usable backup passed, 1 to 4; 0: none, or the newest failed.",
        &|m| Some(number(m.level)),
    );
    each("backup_verification_timestamp_seconds", "Unix time at which its newest verification ended.", &|m| {
        m.verified.map(unix)
    });
    each("backup_verification_age_seconds", "Age of its newest verification when this file was written.", &|m| {
        m.verified.map(|at| age(metrics.at, at))
    });
}

/// An alert.
struct Rule {
    name: &'static str,
    expression: String,
    lasting: &'static str,
    severity: &'static str,
    summary: String,
    action: &'static str,
}

/// Renders alerting rules for the objectives of a system, as a rule file of Prometheus.
pub fn alert_rules(system: &System) -> String {
    let name = system.id.as_str();
    let of = |metric: &str| format!("chom_recovery_{metric}{{system=\"{name}\"}}");
    let database = |metric: &str| format!("chom_recovery_{metric}{{system=\"{name}\",component=\"database\"}}");
    let allowed = system.objectives.backup_age.as_secs();
    let critical = |name, expression, lasting, summary, action| Rule {
        name,
        expression,
        lasting,
        severity: "critical",
        summary,
        action,
    };
    let warning = |name, expression, lasting, summary, action| Rule {
        name,
        expression,
        lasting,
        severity: "warning",
        summary,
        action,
    };
    let mut rules = vec![
        critical(
            "ChomRecoveryBackupMissing",
            format!("absent({})", database("backup_point_timestamp_seconds")),
            "30m",
            format!("No backup of the database of {name} is known"),
            "chom-recovery backup status",
        ),
        critical(
            "ChomRecoveryBackupTooOld",
            format!("time() - {} > {allowed}", of("backup_point_timestamp_seconds")),
            "5m",
            format!("The newest backup of {{{{ $labels.component }}}} of {name} is older than {allowed} s"),
            "chom-recovery backup create",
        ),
        critical(
            "ChomRecoveryRepositoryDown",
            format!("{} == 0", of("repository_up")),
            "15m",
            format!("The backup repository of {name} cannot be read"),
            "chom-recovery config check",
        ),
        warning(
            "ChomRecoveryBackupNotVerified",
            format!("{} < 1", of("backup_verification_level")),
            "1h",
            format!(
                "The newest backup of {{{{ $labels.component }}}} of {name} is not verified, or its verification failed"
            ),
            "chom-recovery backup verify",
        ),
        critical(
            "ChomRecoveryBackupsDamaged",
            format!("{} > 0", of("backups_damaged")),
            "5m",
            format!("{{{{ $value }}}} backups of {name} cannot be used"),
            "chom-recovery backup list",
        ),
        warning(
            "ChomRecoveryMetricsStale",
            format!("time() - {} > 3600", of("metrics_timestamp_seconds")),
            "5m",
            format!("Nothing has measured the backups of {name} for an hour"),
            "systemctl list-timers 'chom-recovery-*'",
        ),
        warning(
            "ChomRecoveryDrillMissing",
            // Five weeks: one that runs every month may miss a day.
            format!("absent({0}) or time() - {0} > {1}", of("drill_timestamp_seconds"), 35 * 86_400),
            "1h",
            format!("No recovery of {name} was rehearsed for five weeks"),
            "chom-recovery drill",
        ),
        critical(
            "ChomRecoveryDrillFailed",
            format!("{} == 0", of("drill_success")),
            "5m",
            format!("The newest rehearsal of a recovery of {name} failed"),
            "chom-recovery runs show",
        ),
        warning(
            "ChomRecoveryDrillTooSlow",
            format!("{} > on (system) {}", of("drill_rto_seconds"), of("rto_objective_seconds")),
            "5m",
            format!("A recovery of {name} would take longer than its RTO allows"),
            "chom-recovery runs show",
        ),
        warning(
            "ChomRecoveryRunOpen",
            format!("{} > 0", of("runs_open")),
            "1h",
            format!("{{{{ $value }}}} runs of {name} were begun and are not over"),
            "chom-recovery",
        ),
    ];
    if system.repository.copy.is_some() {
        rules.push(critical(
            "ChomRecoveryCopyDown",
            format!("{} == 0", of("copy_up")),
            "1h",
            format!("The copy of the backup repository of {name} cannot be read"),
            "chom-recovery --copy config check",
        ));
        // One more period than for a backup: it is copied after it was taken.
        rules.push(critical(
            "ChomRecoveryCopyTooOld",
            format!("absent({0}) or time() - {0} > {1}", of("copy_point_timestamp_seconds"), 2 * allowed),
            "30m",
            format!("The newest backup of {name} in the copy is older than {} s", 2 * allowed),
            "chom-recovery backup copy",
        ));
    }
    if system.legacy.is_some() {
        rules.push(warning(
            "ChomRecoveryLegacyLinkBroken",
            format!("{} > 0", of("legacy_links_broken")),
            "1h",
            format!(
                "{{{{ $value }}}} links called latest of the legacy backups of {name} lead nowhere or to an old one"
            ),
            "chom-recovery backup list",
        ));
    }
    render(name, &rules)
}

fn render(system: &str, rules: &[Rule]) -> String {
    let mut text = format!(
        "# Written by `chom-recovery metrics --rules`.\ngroups:\n  - name: chom-recovery-{system}\n    rules:\n"
    );
    for rule in rules {
        let _ = write!(
            text,
            "      - alert: {}\n        expr: {}\n        for: {}\n        labels:\n          severity: {}\n        \
             annotations:\n          summary: {}\n          action: {}\n",
            rule.name,
            quoted(&rule.expression),
            rule.lasting,
            rule.severity,
            quoted(&rule.summary),
            quoted(rule.action),
        );
    }
    text
}

/// A YAML scalar in single quotes, in which only they are doubled.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        let at: DateTime<Utc> = "2026-01-02T03:00:00Z".parse().unwrap();
        Metrics {
            system: "chom".into(),
            version: "0.1.0".into(),
            at,
            repository_up: true,
            usable: 3,
            damaged: 1,
            newest: vec![ComponentMetrics {
                component: "database".into(),
                point: "2026-01-02T02:00:00Z".parse().unwrap(),
                duration_s: 12.5,
                stored_bytes: 1_000_000,
                plain_bytes: 5_000_000_000,
                level: Some(Level::L2),
                verified: Some("2026-01-02T02:30:00Z".parse().unwrap()),
            }],
            rpo_objective_s: 900.0,
            rto_objective_s: 1800.0,
            drill: Some(DrillMetrics { at, succeeded: true, rto_s: Some(61.25) }),
            open_runs: 0,
            legacy: vec![LegacyMetrics { kind: "database".into(), point: at, stored_bytes: 7 }],
            legacy_links_broken: Some(1),
            copy: Some(CopyMetrics { up: true, usable: 2, point: Some("2026-01-02T01:00:00Z".parse().unwrap()) }),
        }
    }

    #[test]
    fn every_family_has_a_help_a_type_and_a_unit() {
        let text = exposition(&metrics());
        insta::assert_snapshot!(text);
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let name = line.split('{').next().unwrap();
            assert!(
                text.contains(&format!("# HELP {name} ")) && text.contains(&format!("# TYPE {name} gauge")),
                "{line}"
            );
        }
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut unknown = metrics();
        unknown.repository_up = false;
        unknown.newest.clear();
        unknown.drill = None;
        unknown.legacy.clear();
        unknown.legacy_links_broken = None;
        unknown.copy = Some(CopyMetrics { up: false, usable: 0, point: None });
        let text = exposition(&unknown);
        assert!(text.contains("chom_recovery_repository_up{system=\"chom\"} 0"));
        assert!(text.contains("chom_recovery_copy_up{system=\"chom\"} 0") && !text.contains("copy_point"), "{text}");
        assert!(
            !text.contains("backup_")
                && !text.contains("backups_")
                && !text.contains("drill")
                && !text.contains("legacy"),
            "{text}"
        );
        let mut odd = metrics();
        odd.system = "a\"b\\c\n".into();
        assert!(exposition(&odd).contains(r#"system="a\"b\\c\n""#));
    }
}
