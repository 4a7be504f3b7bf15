//! Triage on the reference stack: each fault is made for real, and the first diagnosis has to name it.
//!
//! A scenario breaks the stack, waits until the fault is effective, runs `chom-recovery diagnose` on a configuration that
//! the program drafted, mends exactly what it broke, and proves that all is well before the next one begins. Each result
//! is a line of JSON in the file that [`RESULTS`] names, for `tests/scenarios.sh`; [`ONLY`] chooses some scenarios.

mod application;
mod database;
mod far;
mod redis;
mod site;
mod web;
mod workers;

use std::{io::Write, panic::AssertUnwindSafe, time::Instant};

use chom_recovery_tests::{chaos, cli::Bench};
use serde_json::{Value, json};
use site::{Fault, Site};

/// Variable with the file that results are appended to.
const RESULTS: &str = "CHOM_TEST_RESULTS";
/// Variable with the names of the scenarios that are wanted, separated by spaces.
const ONLY: &str = "CHOM_TEST_SCENARIOS";

/// What is broken, and what triage has to say first.
struct Scenario {
    name: &'static str,
    /// Broken in this order, mended in reverse.
    faults: &'static [&'static Fault],
    /// Causes, the first first.
    wanted: &'static [&'static str],
}

const fn one(fault: &'static [&'static Fault], wanted: &'static [&'static str]) -> Scenario {
    Scenario { name: fault[0].name, faults: fault, wanted }
}

const SCENARIOS: &[Scenario] = &[
    Scenario { name: "nothing-broken", faults: &[], wanted: &["nothing"] },
    one(&[&web::BAD_CONFIGURATION], &["web-configuration"]),
    one(&[&web::EXPIRED_CERTIFICATE], &["certificate-expired"]),
    one(&[&web::MISMATCHED_CERTIFICATE], &["certificate-mismatched"]),
    one(&[&web::WRONG_UPSTREAM], &["upstream-not-reached"]),
    one(&[&application::DEAD_UPSTREAM], &["upstream-dead"]),
    one(&[&application::KILLED_PHP_FPM], &["application-down"]),
    one(&[&application::SYNTAX_ERROR], &["code-broken"]),
    one(&[&application::BROKEN_ENVIRONMENT], &["environment-broken"]),
    one(&[&workers::STUCK_QUEUE], &["queue-stuck"]),
    one(&[&workers::DEAD_SCHEDULER], &["scheduler-dead"]),
    one(&[&redis::READ_ONLY], &["redis-read-only"]),
    one(&[&redis::DOWN], &["redis-down"]),
    one(&[&database::OUR_PASSWORD], &["database-credentials"]),
    one(&[&database::APPLICATION_PASSWORD], &["application-credentials"]),
    one(&[&database::SLOW_STATEMENTS], &["slow-statements"]),
    one(&[&database::LOCK_WAITS], &["lock-waits"]),
    one(&[&database::STOPPED], &["database-down"]),
    one(&[&database::DELETED_ROWS], &["rows-missing"]),
    one(&[&database::CORRUPT_TABLE], &["database-corrupt"]),
    one(&[&database::FULL_DISK], &["disk-full"]),
    one(&[&site::EVERYTHING_DOWN], &["everything-down"]),
    Scenario {
        name: "database-stopped-and-certificate-expired",
        faults: &[&database::STOPPED, &web::EXPIRED_CERTIFICATE],
        wanted: &["database-down", "certificate-expired"],
    },
    Scenario {
        name: "redis-down-and-syntax-error",
        faults: &[&redis::DOWN, &application::SYNTAX_ERROR],
        wanted: &["redis-down", "code-broken"],
    },
    Scenario {
        name: "stuck-queue-and-dead-scheduler",
        faults: &[&workers::STUCK_QUEUE, &workers::DEAD_SCHEDULER],
        wanted: &["queue-stuck", "scheduler-dead"],
    },
    Scenario {
        name: "killed-php-fpm-and-mismatched-certificate",
        faults: &[&application::KILLED_PHP_FPM, &web::MISMATCHED_CERTIFICATE],
        wanted: &["application-down", "certificate-mismatched"],
    },
];

#[test]
fn each_fault_is_named_first() {
    let Some(bench) = Bench::open("each_fault_is_named_first") else { return };
    chaos::mend(bench.stack());
    let site = Site::new(bench);
    site.until_well();
    site.back_up();
    let mut wrong = Vec::new();
    for scenario in SCENARIOS.iter().filter(|s| is_wanted(s.name)) {
        if !site.is_root && scenario.faults.iter().any(|f| f.needs_root) {
            chom_recovery_tests::skip(scenario.name, "it needs root");
            continue;
        }
        let begun = Instant::now();
        let found = site.attempt(scenario.faults);
        let causes = causes(&found);
        let is_right = causes.iter().take(scenario.wanted.len()).eq(scenario.wanted);
        record(scenario.name, scenario.wanted, &causes, is_right, begun);
        if !is_right {
            wrong.push(format!("{}: wanted {:?}, found {found:#}", scenario.name, scenario.wanted));
        }
        // A stack that is not well again would make the next fault two.
        let well = std::panic::catch_unwind(AssertUnwindSafe(|| site.until_well()));
        assert!(well.is_ok(), "after {}: the stack is not well again; wrong so far: {wrong:#?}", scenario.name);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Tells whether a scenario was chosen; all are by default.
fn is_wanted(name: &str) -> bool {
    std::env::var(ONLY).map_or(true, |only| only.trim().is_empty() || only.split_whitespace().any(|one| one == name))
}

/// Returns the causes in the order of their rank.
fn causes(found: &Value) -> Vec<&str> {
    let ranked = found["diagnoses"].as_array().into_iter().flatten();
    ranked.filter_map(|diagnosis| diagnosis["cause"].as_str()).collect()
}

/// Appends a result to the file that the environment names.
fn record(name: &str, wanted: &[&str], found: &[&str], is_right: bool, begun: Instant) {
    let seconds = begun.elapsed().as_secs();
    let line = json!({ "scenario": name, "wanted": wanted, "found": found, "right": is_right, "seconds": seconds });
    println!("{line}");
    if let Some(file) = std::env::var_os(RESULTS) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).expect("the file of results");
        writeln!(file, "{line}").expect("the file of results");
    }
}
