//! Faults of queue and scheduler.

use chom_recovery_tests::chaos;

use crate::site::{Fault, QUEUE, Site};

/// Jobs that are queued behind a worker that hangs.
const JOBS: &str = "5";
const HEARTBEAT: &str = "chom_database_scheduler:heartbeat";

pub(crate) const STUCK_QUEUE: Fault = Fault {
    name: "stuck-queue",
    needs_root: false,
    make: |site| {
        site.signal("queue", "php", "STOP");
        queue_jobs(site);
    },
    is_effective: |site| chaos::redis(site.stack(), &["LLEN", QUEUE]) == JOBS,
    mend: |site| site.signal("queue", "php", "CONT"),
};

/// The scheduler hangs, and has for an hour.
pub(crate) const DEAD_SCHEDULER: Fault = Fault {
    name: "dead-scheduler",
    needs_root: false,
    make: |site| {
        site.signal("scheduler", "php", "STOP");
        let hour_ago = (chrono::Utc::now().timestamp() - 3_600).to_string();
        chaos::redis(site.stack(), &["SET", HEARTBEAT, &hour_ago]);
    },
    is_effective: |site| {
        let beat = chaos::redis(site.stack(), &["GET", HEARTBEAT]).parse().unwrap_or(i64::MAX);
        beat < chrono::Utc::now().timestamp() - 3_000
    },
    mend: |site| {
        site.signal("scheduler", "php", "CONT");
        chaos::compose(site.stack(), &["exec", "-T", "scheduler", "php", "artisan", "chom:heartbeat", "scheduler"]);
    },
};

/// Queues jobs as a client does.
fn queue_jobs(site: &Site) {
    let file = site.stack().site.join("secrets/synthetic_password");
    let password = std::fs::read_to_string(file).expect("the password");
    let login = serde_json::json!({ "email": "synthetic@example.test", "password": password.trim() });
    let answer = post(site, "/api/login", None, &login);
    let token = answer["token"].as_str().unwrap_or_else(|| panic!("no token: {answer}")).to_owned();
    let count: u64 = JOBS.parse().unwrap();
    let answer = post(site, "/api/jobs", Some(&token), &serde_json::json!({ "count": count }));
    assert_eq!(answer["ids"].as_array().map(Vec::len), Some(5), "{answer}");
}

fn post(site: &Site, path: &str, token: Option<&str>, body: &serde_json::Value) -> serde_json::Value {
    let body = body.to_string();
    let header = format!("Authorization: Bearer {}", token.unwrap_or_default());
    let headers = ["--header", "Content-Type: application/json", "--header", "Accept: application/json"];
    let output = site.curl(&[&headers[..], &["--header", &header, "--data", &body]].concat(), path);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{path}: {e}: {output:?}"))
}
