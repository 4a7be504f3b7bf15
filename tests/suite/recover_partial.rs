//! Recovery of a single service on the reference stack: queue, scheduler and redis, each broken as it breaks at night,
//! mended by the command that an operator types, and proven. Each mutation is undone once.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use chom_recovery_tests::{
    Stack, chaos,
    cli::{Bench, code, lines},
    program::program,
};
use serde_json::Value;

/// Drafts a configuration whose workers get little time to end.
fn open(test: &str) -> Option<Bench> {
    let bench = Bench::open(test)?;
    chaos::mend(bench.stack());
    chaos::up(bench.stack(), &[]);
    let path = bench.folder().join("chom-recovery.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replacen("[application]\n", "[application]\nstop_grace = \"5s\"\n", 1);
    std::fs::write(&path, text).unwrap();
    Some(bench)
}

/// Runs a recovery that must succeed; what it achieved.
fn recover(bench: &Bench, arguments: &[&str]) -> Value {
    let output = bench.run(&[&["--json", "recover"], arguments, &["--yes"]].concat());
    assert_eq!(code(&output), 0, "{output:?}");
    let summary = lines(&output).pop().unwrap();
    assert_eq!(summary["status"], "succeeded", "{summary}");
    let achieved = summary["achieved"].clone();
    assert_eq!(achieved["rto"]["is_met"], true, "{summary}");
    assert!(achieved["rto"]["achieved_s"].as_f64().unwrap() > 0.0, "{summary}");
    // Each step against its budget.
    let shown = bench.run(&["runs", "show"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("BUDGET") && text.contains("RTO met"), "{text}");
    achieved
}

fn roll_back(bench: &Bench) {
    let undone = bench.run(&["rollback", "--yes"]);
    assert_eq!(code(&undone), 0, "{undone:?}");
}

fn said(achieved: &Value, list: &str) -> String {
    achieved[list].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

fn state(stack: &Stack, service: &str) -> String {
    let name = format!("{}-{service}-1", stack.project);
    let output = chaos::docker(&["inspect", "--format", "{{.State.Status}}", &name]);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn started(stack: &Stack, service: &str) -> String {
    let name = format!("{}-{service}-1", stack.project);
    let output = chaos::docker(&["inspect", "--format", "{{.State.StartedAt}}", &name]);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Queues jobs as the application does.
fn queue_jobs(stack: &Stack, number: u32) {
    let script = format!(
        "cd /srv/app && setpriv --reuid=www-data --regid=www-data --init-groups php -r '\
         require \"bootstrap/autoload.php\"; $app = require \"bootstrap/app.php\"; \
         $app->make(Illuminate\\Contracts\\Console\\Kernel::class)->bootstrap(); \
         for ($i = 0; $i < {number}; $i++) \
         App\\Jobs\\RecordAudit::dispatch((string) Illuminate\\Support\\Str::uuid(), 1);'"
    );
    chaos::shell(stack, "app", &script);
}

fn waiting(stack: &Stack) -> u32 {
    chaos::redis(stack, &["LLEN", "chom_database_queues:default"]).parse().unwrap()
}

/// Freezes or thaws the worker's own process, as one that hangs.
fn signal_worker(stack: &Stack, service: &str, signal: &str) {
    let script =
        format!("for p in /proc/[0-9]*; do grep -qa art[i]san $p/cmdline && kill -{signal} ${{p#/proc/}}; done; true");
    chaos::shell(stack, service, &script);
}

fn first_diagnosis(bench: &Bench) -> Value {
    bench.query(&["--json", "diagnose"]).1["diagnoses"][0].clone()
}

#[test]
fn a_stopped_worker_is_started_and_jobs_move_again() {
    let Some(bench) = open("a_stopped_worker_is_started_and_jobs_move_again") else { return };
    let stack = bench.stack();
    let redis = started(stack, "redis");
    chaos::kill(stack, "queue");
    queue_jobs(stack, 3);
    assert_eq!(first_diagnosis(&bench)["procedure"], "queue");
    let (_, overview) = bench.query(&["--json"]);
    assert_eq!(overview["next"][0]["command"], "chom-recovery plan recover queue", "{overview}");

    let (exit, plan) = bench.query(&["--json", "plan", "recover", "queue"]);
    assert_eq!(exit, 0, "{plan}");
    assert!(plan.to_string().contains("queue/start[queue]"), "{plan}");
    assert_eq!((state(stack, "queue").as_str(), waiting(stack)), ("exited", 3), "a plan does nothing");

    let achieved = recover(&bench, &["queue"]);
    assert!(said(&achieved, "found").contains("has ended, exit code 137"), "{achieved}");
    assert!(said(&achieved, "done").contains("`queue` was started"), "{achieved}");
    assert_eq!((state(stack, "queue").as_str(), waiting(stack)), ("running", 0));
    assert_eq!(started(stack, "redis"), redis, "the others go on");

    roll_back(&bench);
    assert_eq!(state(stack, "queue"), "exited", "as it was found");
    recover(&bench, &["queue"]);
    let well = recover(&bench, &["queue"]);
    assert_eq!(well["done"], serde_json::json!([]), "nothing had to be done");
}

#[test]
fn a_worker_that_hangs_is_drained_and_started_again() {
    let Some(bench) = open("a_worker_that_hangs_is_drained_and_started_again") else { return };
    let stack = bench.stack();
    signal_worker(stack, "queue", "STOP");
    queue_jobs(stack, 4);
    let before = started(stack, "queue");
    let achieved = recover(&bench, &["queue"]);
    assert!(said(&achieved, "found").contains("4 jobs wait, and none was taken"), "{achieved}");
    assert!(said(&achieved, "to_review").contains("was killed"), "a frozen process ends by no other way: {achieved}");
    assert_ne!(started(stack, "queue"), before);
    assert_eq!(waiting(stack), 0);
    roll_back(&bench);
    assert_eq!(state(stack, "queue"), "running", "it ran before");
}

#[test]
fn a_recovery_that_is_killed_while_it_drains_is_resumed() {
    let Some(bench) = open("a_recovery_that_is_killed_while_it_drains_is_resumed") else { return };
    let stack = bench.stack();
    signal_worker(stack, "queue", "STOP");
    queue_jobs(stack, 2);
    let mut killed = bench
        .command(program())
        .current_dir(bench.folder())
        .args(["--json", "recover", "queue", "--yes"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until(|| journals(&bench).contains("queue/drain[queue]"));
    killed.kill().unwrap();
    killed.wait().unwrap();
    let refused = bench.run(&["recover", "queue", "--yes"]);
    assert_eq!(code(&refused), 11, "a run is unfinished: {refused:?}");
    let resumed = bench.run(&["--json", "resume", "--yes"]);
    assert_eq!(code(&resumed), 0, "{resumed:?}");
    let achieved = lines(&resumed).pop().unwrap()["achieved"].clone();
    assert!(said(&achieved, "found").contains("2 jobs wait, and none was taken"), "what was found is kept: {achieved}");
    assert_eq!((state(stack, "queue").as_str(), waiting(stack)), ("running", 0));
}

/// Everything that runs have written so far.
fn journals(bench: &Bench) -> String {
    let Ok(runs) = std::fs::read_dir(bench.folder().join("state/runs")) else { return String::new() };
    let files = runs.filter_map(|run| std::fs::read_dir(run.unwrap().path()).ok()).flatten();
    files.filter_map(|file| std::fs::read_to_string(file.unwrap().path()).ok()).collect()
}

#[test]
fn a_queue_in_maintenance_mode_is_not_taken_for_stuck() {
    let Some(bench) = open("a_queue_in_maintenance_mode_is_not_taken_for_stuck") else { return };
    assert_eq!(code(&bench.run(&["maintenance", "on"])), 0);
    let refused = bench.run(&["recover", "queue", "--yes"]);
    assert_eq!(code(&refused), 6, "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("maintenance off"), "{refused:?}");
    let _ = bench.run(&["rollback", "--yes"]);
    assert_eq!(code(&bench.run(&["maintenance", "off"])), 0);
}

#[test]
fn a_dead_scheduler_is_started_and_what_it_missed_is_listed() {
    let Some(bench) = open("a_dead_scheduler_is_started_and_what_it_missed_is_listed") else { return };
    let stack = bench.stack();
    chaos::kill(stack, "scheduler");
    // Dead for an hour.
    let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() - 3_600;
    chaos::redis(stack, &["SET", "chom_database_scheduler:heartbeat", &at.to_string()]);
    assert_eq!(first_diagnosis(&bench)["procedure"], "scheduler");
    let achieved = recover(&bench, &["scheduler"]);
    let to_review = said(&achieved, "to_review");
    assert!(to_review.contains("chom:heartbeat scheduler") && to_review.contains("was not run"), "{achieved}");
    let age = &achieved["measured"][0];
    assert!(age["before"].as_f64().unwrap() >= 3_600.0 && age["after"].as_f64().unwrap() < 120.0, "{achieved}");
    assert_eq!(state(stack, "scheduler"), "running");
    roll_back(&bench);
    assert_eq!(state(stack, "scheduler"), "exited", "as it was found");
    recover(&bench, &["scheduler"]);

    // It runs, and does nothing.
    signal_worker(stack, "scheduler", "STOP");
    chaos::redis(stack, &["SET", "chom_database_scheduler:heartbeat", &at.to_string()]);
    let achieved = recover(&bench, &["scheduler"]);
    assert!(said(&achieved, "done").contains("`scheduler` was stopped"), "{achieved}");
}

#[test]
fn a_redis_that_does_not_run_is_started_with_its_keys() {
    let Some(bench) = open("a_redis_that_does_not_run_is_started_with_its_keys") else { return };
    let stack = bench.stack();
    chaos::redis(stack, &["SET", "of-a-test", "kept"]);
    until(|| chaos::redis(stack, &["INFO", "persistence"]).contains("aof_pending_bio_fsync:0"));
    chaos::compose(stack, &["stop", "redis"]);
    assert_eq!(first_diagnosis(&bench)["procedure"], "redis");
    let needs = bench.run(&["recover", "queue", "--yes"]);
    assert_eq!(code(&needs), 6);
    assert!(String::from_utf8_lossy(&needs.stderr).contains("recover redis"), "{needs:?}");
    assert_eq!(code(&bench.run(&["rollback", "--yes"])), 0);

    let achieved = recover(&bench, &["redis"]);
    assert!(said(&achieved, "done").contains("`redis` was started"), "{achieved}");
    assert_eq!(chaos::redis(stack, &["GET", "of-a-test"]), "kept");
    roll_back(&bench);
    assert_eq!(state(stack, "redis"), "exited", "as it was found");
    recover(&bench, &["redis"]);

    // Asked for although it works: a snapshot comes first.
    let before = started(stack, "redis");
    let achieved = recover(&bench, &["redis", "--restart"]);
    assert!(said(&achieved, "done").contains("it wrote a snapshot"), "{achieved}");
    assert_ne!(started(stack, "redis"), before);
    assert_eq!(chaos::redis(stack, &["GET", "of-a-test"]), "kept");
    assert!(achieved["measured"].as_array().unwrap().iter().any(|m| m["name"] == "keys of db0"), "{achieved}");
    chaos::redis(stack, &["DEL", "of-a-test"]);
}

#[test]
fn a_redis_that_became_a_replica_takes_writes_again() {
    let Some(bench) = open("a_redis_that_became_a_replica_takes_writes_again") else { return };
    let stack = bench.stack();
    let before = started(stack, "redis");
    chaos::redis(stack, &["REPLICAOF", "192.0.2.1", "6379"]);
    assert!(chaos::redis(stack, &["SET", "of-a-test", "x"]).contains("READONLY"));
    let achieved = recover(&bench, &["redis"]);
    assert!(said(&achieved, "found").contains("replica of 192.0.2.1:6379, which does not answer"), "{achieved}");
    assert!(said(&achieved, "to_review").contains("find out who"), "{achieved}");
    assert_eq!(started(stack, "redis"), before, "a restart comes last");
    assert_eq!(chaos::redis(stack, &["SET", "of-a-test", "x", "EX", "60"]), "OK");
    roll_back(&bench);
    assert!(chaos::redis(stack, &["INFO", "replication"]).contains("master_host:192.0.2.1"));
    recover(&bench, &["redis"]);
}

#[test]
fn a_redis_that_cannot_save_is_told_why_and_mended_when_it_can() {
    let Some(bench) = open("a_redis_that_cannot_save_is_told_why_and_mended_when_it_can") else { return };
    let stack = bench.stack();
    chaos::shell(stack, "redis", "chown root: /data && chmod 0555 /data");
    chaos::redis(stack, &["BGSAVE"]);
    until(|| chaos::redis(stack, &["INFO", "persistence"]).contains("rdb_last_bgsave_status:err"));
    assert!(chaos::redis(stack, &["SET", "of-a-test", "x"]).contains("MISCONF"));
    assert_eq!(first_diagnosis(&bench)["procedure"], "redis");
    let before = started(stack, "redis");
    let refused = bench.run(&["recover", "redis", "--yes"]);
    assert_eq!(code(&refused), 6, "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("`/data`, which is root:root 555"), "{refused:?}");

    // The cause is gone, and redis still refuses: it has to save once.
    chaos::shell(stack, "redis", "chown redis: /data && chmod 0750 /data");
    assert!(chaos::redis(stack, &["SET", "of-a-test", "x"]).contains("MISCONF"));
    let resumed = bench.run(&["--json", "resume", "--yes"]);
    assert_eq!(code(&resumed), 0, "{resumed:?}");
    let summary = lines(&resumed).pop().unwrap();
    assert!(said(&summary["achieved"], "found").contains("cannot save its data, and refuses writes"), "{summary}");
    assert_eq!(started(stack, "redis"), before, "nothing was restarted");
    assert_eq!(chaos::redis(stack, &["SET", "of-a-test", "x", "EX", "60"]), "OK");
}

#[test]
fn a_redis_that_does_not_answer_is_restarted_only_with_a_yes() {
    let Some(bench) = open("a_redis_that_does_not_answer_is_restarted_only_with_a_yes") else { return };
    let stack = bench.stack();
    let before = started(stack, "redis");
    let name = format!("{}-redis-1", stack.project);
    chaos::docker(&["kill", "--signal", "STOP", &name]);
    assert_eq!(code(&bench.run(&["recover", "redis"])), 5, "nobody says yes");
    assert_eq!(started(stack, "redis"), before);
    let achieved = recover(&bench, &["redis"]);
    assert!(said(&achieved, "done").contains("`redis` was restarted"), "{achieved}");
    assert_ne!(started(stack, "redis"), before);
    let (_, shown) = bench.query(&["--json", "runs", "show"]);
    let steps = shown["steps"].as_array().unwrap();
    let stopped = steps.iter().find(|s| s["step"] == "redis/stop-unsaved[redis]").unwrap();
    assert_eq!(stopped["approved_by"], "ada", "{shown}");
    let up = Command::new("docker").args(["inspect", "--format", "{{.State.Status}}", &name]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&up.stdout).trim(), "running");
}

fn until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !is_so() {
        assert!(Instant::now() < deadline, "it does not come");
        std::thread::sleep(Duration::from_millis(200));
    }
}
