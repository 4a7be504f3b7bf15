//! Recovery from bad performance on the reference stack: statements that take all there is, an idle transaction that
//! everybody waits for, a backlog of jobs. What was measured stands beside what it became.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use chom_recovery_tests::{
    Stack, chaos,
    cli::{Bench, code, lines},
};
use serde_json::Value;

/// Drafts a configuration that does not hold for long, with these thresholds.
fn open(test: &str, performance: &str) -> Option<Bench> {
    let bench = Bench::open(test)?;
    chaos::mend(bench.stack());
    chaos::up(bench.stack(), &[]);
    let path = bench.folder().join("chom-recovery.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("[performance]\n").expect("it is drafted");
    let (_, after) = rest.split_once("most_workers = 3\n").unwrap();
    let quick =
        "requests = 5\nwindow = \"5s\"\ndeadline = \"90s\"\nlong_statement = \"4s\"\nidle_transaction = \"3s\"\n";
    std::fs::write(&path, format!("{before}[performance]\n{quick}{performance}{after}")).unwrap();
    bench.configure("");
    end_sleepers(bench.stack());
    Some(bench)
}

/// A client of the application's account; it ends with this value.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Program of the server's own client.
fn program(stack: &Stack) -> &'static str {
    if stack.db == "mysql" { "mysql" } else { "mariadb" }
}

/// Runs statements as the application does, in one session that stays open for `hold` seconds after them.
fn client(stack: &Stack, sql: &str, hold: u32) -> Client {
    let script = format!(
        "(printf '%s\\n' \"{sql}\"; exec sleep {hold}) | MYSQL_PWD=$(cat /run/secrets/db_app_password) {} \
         --user=chom --unbuffered chom",
        program(stack)
    );
    in_container(stack, &script)
}

/// Asks the server as root.
fn ask(stack: &Stack, sql: &str) -> String {
    let script = format!(
        "MYSQL_PWD=$(cat /run/secrets/db_root_password) {} --user=root --batch --skip-column-names -e \"{sql}\"",
        program(stack)
    );
    String::from_utf8_lossy(&chaos::shell(stack, "mysql", &script).stdout).trim().to_owned()
}

/// Counts connections of the application whose statement reads so, and that are old enough to be seen as slow.
fn running(stack: &Stack, like: &str, seconds: u32) -> usize {
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'chom' AND INFO LIKE '{like}' AND TIME >= {seconds}"
    );
    ask(stack, &sql).parse().unwrap()
}

/// Ends what tests left.
fn end_sleepers(stack: &Stack) {
    let sql =
        "SELECT ID FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT SLEEP%' OR (USER = 'chom' AND TIME > 2)";
    for id in ask(stack, sql).lines() {
        let script = format!(
            "MYSQL_PWD=$(cat /run/secrets/db_root_password) {} --user=root -e 'KILL {id}' || true",
            program(stack)
        );
        chaos::shell(stack, "mysql", &script);
    }
}

fn until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !is_so() {
        assert!(Instant::now() < deadline, "it does not come");
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn said(achieved: &Value, list: &str) -> String {
    achieved[list].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

fn measured(achieved: &Value, name: &str) -> (f64, f64) {
    let all = achieved["measured"].as_array().unwrap();
    let one = all.iter().find(|m| m["name"] == name).unwrap_or_else(|| panic!("{name}: {achieved}"));
    (one["before"].as_f64().unwrap(), one["after"].as_f64().unwrap())
}

/// Runs the recovery, which must succeed; what it achieved.
fn recover(bench: &Bench) -> Value {
    let output = bench.run(&["--json", "recover", "performance", "--yes"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let summary = lines(&output).pop().unwrap();
    assert_eq!(summary["status"], "succeeded", "{summary}");
    assert_eq!(summary["achieved"]["rto"]["is_met"], true, "{summary}");
    let shown = bench.run(&["runs", "show"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("BUDGET") && text.contains("RTO met") && text.contains("BEFORE"), "{text}");
    summary["achieved"].clone()
}

#[test]
fn a_storm_of_slow_statements_is_ended_by_name_and_others_are_left_alone() {
    let Some(bench) = open("a_storm_of_slow_statements_is_ended_by_name_and_others_are_left_alone", "") else { return };
    let stack = bench.stack();
    let storm: Vec<_> = (0..4).map(|n| client(stack, &format!("SELECT SLEEP(300), {n} AS storm;"), 300)).collect();
    // As a backup does, with the account of recoveries.
    let backup = client_as_root(stack, "SELECT SLEEP(120) AS of_a_backup;");
    until(|| running(stack, "%AS storm%", 4) == 4);
    until(|| {
        ask(
            stack,
            "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT SLEEP(120)%' AND TIME > 4",
        ) == "1"
    });

    let (exit, plan) = bench.query(&["--json", "plan", "recover", "performance"]);
    assert_eq!(exit, 0, "{plan}");
    let text = plan.to_string();
    assert!(text.contains("end-statements") && text.contains("AS storm") && text.contains("`chom`"), "{text}");
    assert_eq!(running(stack, "%AS storm%", 4), 4, "a plan ends nothing");
    // Nobody says yes.
    let asked = bench.run(&["recover", "performance"]);
    assert_eq!(code(&asked), 5, "{asked:?}");

    let achieved = recover(&bench);
    assert_eq!(said(&achieved, "done").matches("ended a statement of `chom`").count(), 4, "{achieved}");
    assert!(said(&achieved, "to_review").contains("account of backups"), "{achieved}");
    assert_eq!(running(stack, "%AS storm%", 0), 0);
    let backups = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT SLEEP(120)%'";
    assert_eq!(ask(stack, backups), "1", "it goes on");
    let (before, after) = measured(&achieved, "database: statements running");
    assert!(before >= after + 4.0, "{achieved}");
    assert!(measured(&achieved, "check `health`: p95").0 > 0.0);
    let undone = bench.run(&["rollback", "--yes"]);
    assert_eq!(code(&undone), 0, "nothing is left to be undone, and that is no error: {undone:?}");
    end_sleepers(stack);
    drop((storm, backup));
}

fn in_container(stack: &Stack, script: &str) -> Client {
    let child = Command::new("docker")
        .args(["compose", "-f", stack.compose.to_str().unwrap(), "exec", "-T", "mysql", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Client(child)
}

fn client_as_root(stack: &Stack, sql: &str) -> Client {
    let script = format!("MYSQL_PWD=$(cat /run/secrets/db_root_password) {} --user=root -e '{sql}'", program(stack));
    in_container(stack, &script)
}

#[test]
fn an_idle_transaction_that_holds_a_lock_is_ended_and_those_who_waited_go_on() {
    let test = "an_idle_transaction_that_holds_a_lock_is_ended_and_those_who_waited_go_on";
    let Some(bench) = open(test, "") else { return };
    let stack = bench.stack();
    ask(
        stack,
        "CREATE TABLE IF NOT EXISTS chom.pile (id INT PRIMARY KEY, n INT NOT NULL); \
                REPLACE INTO chom.pile VALUES (1, 0), (2, 0);",
    );
    let holder = client(stack, "BEGIN; UPDATE pile SET n = n + 100;", 300);
    until(|| ask(stack, "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_rows_modified = 2") == "1");
    let waiting: Vec<_> = (0..3).map(|_| client(stack, "UPDATE pile SET n = n + 1 WHERE id = 1;", 1)).collect();
    until(|| running(stack, "UPDATE pile SET n = n + 1 %", 4) == 3);

    let achieved = recover(&bench);
    let found = said(&achieved, "found");
    assert!(found.contains("3 connections wait"), "{achieved}");
    let done = said(&achieved, "done");
    assert_eq!(done.matches("ended").count(), 1, "the blocker, and none of its victims: {achieved}");
    assert!(done.contains("ended an idle transaction of `chom`"), "{achieved}");
    until(|| running(stack, "UPDATE pile%", 0) == 0);
    assert_eq!(
        ask(stack, "SELECT GROUP_CONCAT(n ORDER BY id) FROM chom.pile"),
        "3,0",
        "three waited, one was rolled back"
    );
    assert!(measured(&achieved, "database: waits for locks").1 < 1.0, "{achieved}");
    let (_, shown) = bench.query(&["--json", "runs", "show"]);
    assert!(shown.to_string().contains("end-idle-transaction"), "{shown}");
    drop((holder, waiting));
    ask(stack, "DROP TABLE chom.pile");
}

/// Containers of the queue.
fn workers(stack: &Stack) -> usize {
    let project = format!("label=com.docker.compose.project={}", stack.project);
    let of = ["ps", "-q", "--filter", &project, "--filter", "label=com.docker.compose.service=queue"];
    String::from_utf8_lossy(&chaos::docker(&of).stdout).lines().count()
}

#[test]
fn a_backlog_gets_more_workers_within_limits_and_a_rollback_takes_them_away() {
    let test = "a_backlog_gets_more_workers_within_limits_and_a_rollback_takes_them_away";
    let limits = "backlog = 2\nmost_workers = 2\ncpu_percent = 100\nmemory_percent = 100\n";
    let Some(bench) = open(test, limits) else { return };
    let stack = bench.stack();
    // Jobs of another queue's worker: they stay, so that there is a backlog when it is looked.
    chaos::compose(stack, &["pause", "queue"]);
    let push: Vec<String> = (0..5).map(|n| format!("{{\"id\":\"{n}\"}}")).collect();
    for job in &push {
        chaos::redis(stack, &["RPUSH", "chom_database_queues:default", job]);
    }
    let (_, plan) = bench.query(&["--json", "plan", "recover", "performance"]);
    assert!(plan.to_string().contains("recover queue"), "a worker that does not run is not multiplied: {plan}");
    chaos::redis(stack, &["RENAME", "chom_database_queues:default", "of-a-test"]);
    chaos::compose(stack, &["unpause", "queue"]);
    until(|| workers(stack) == 1);
    // The queue that is counted is one that nobody takes from.
    let path = bench.folder().join("chom-recovery.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("queues = [\"default\"]", "queues = [\"of-a-test\"]", 1)).unwrap();
    chaos::redis(stack, &["RENAME", "of-a-test", "chom_database_queues:of-a-test"]);

    let achieved = recover(&bench);
    assert!(said(&achieved, "found").contains("5 jobs wait, over 2"), "{achieved}");
    assert!(said(&achieved, "done").contains("`queue` has 2 containers instead of 1"), "{achieved}");
    assert_eq!(workers(stack), 2);
    let undone = bench.run(&["rollback", "--yes"]);
    assert_eq!(code(&undone), 0, "{undone:?}");
    assert_eq!(workers(stack), 1);

    // Latency that does not come back: what was done is undone, and the run says what was tried.
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replacen("connect_to =", "slow_after = \"1us\"\nconnect_to =", 1);
    std::fs::write(&path, text.replacen("deadline = \"90s\"", "deadline = \"12s\"", 1)).unwrap();
    let failed = bench.run(&["recover", "performance", "--yes"]);
    assert_ne!(code(&failed), 0, "{failed:?}");
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(said.contains("tried") && said.contains("`queue` has 2 containers instead of 1"), "{said}");
    assert_eq!(workers(stack), 1, "what could be undone was");
    chaos::redis(stack, &["DEL", "chom_database_queues:of-a-test"]);
}
