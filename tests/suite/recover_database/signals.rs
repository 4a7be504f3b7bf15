//! The program during a recovery: signals, a second call, and everything that it prints.

use std::{fs, process::Command};

use chom_recovery_tests::{
    program::{Running, program},
    watch::{Watch, assert_clean},
};
use serde_json::Value;

use crate::bench::Bench;

/// F9, F38, F42 and F63: SIGTERM stops at the next step boundary, a second Ctrl-C at once, and both runs go on; nobody
/// else gets in meanwhile; and no secret is in what is printed with every log switched on.
// The test waits for programs: with one thread its own connections would stay open meanwhile, as clients do.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_told_to_stop_leaves_a_run_that_goes_on_and_prints_no_secret() {
    let Some(bench) =
        Bench::open("a_program_that_is_told_to_stop_leaves_a_run_that_goes_on_and_prints_no_secret").await
    else {
        return;
    };
    let before = bench.fingerprint().await;
    let backup = bench.back_up().await;
    bench.sql().await.run("DROP TABLE chom.orders").await;
    let (folder, project) = (bench.folder.path(), bench.stack.project.clone());
    let signers = &bench.system.repository.signers;
    fs::write(folder.join("chom-recovery.toml"), bench.stack.configuration(folder, signers)).unwrap();
    let watch = Watch::begin(&project);
    let mut said = Vec::new();

    // What would be replaced, where, and by what.
    let plan = call(&bench, &["plan", "recover", "database"]);
    let id = backup.id().to_string();
    for named in [project.as_str(), &id, "unix://", &bench.volume(), &backup.point.format("%F %T").to_string()] {
        assert!(plan.1.contains(named), "`{named}` is not in the plan: {}", plan.1);
    }
    said.push(plan.1);

    let mut first = Running::start(folder, "first", &["recover", "database", "--latest", "--confirm", &project]);
    first.wait_for("the load", |event| is_step(event, "step_started", "restore-beside"));
    let run = first.documents()[0]["run"].as_str().unwrap().to_owned();
    for arguments in [
        &["recover", "database", "--confirm", &project][..],
        &["resume", "--confirm", &project],
        &["backup", "create"],
        &["maintenance", "off"],
    ] {
        let (code, text) = call(&bench, arguments);
        assert_eq!(code, 11, "{arguments:?}: {text}");
        assert!(text.contains(&run), "it names who holds the system: {text}");
        said.push(text);
    }
    first.signal("TERM");
    let ended = first.end();
    assert_eq!(ended.code(), Some(130), "{}", first.said());
    assert!(first.talk().contains("stopping at the next step boundary"), "{}", first.talk());
    let documents = first.documents();
    let stopped_behind = documents.iter().rfind(|event| event["type"] == "step_done").unwrap();
    assert!(is_step(stopped_behind, "step_done", "restore-beside"), "what had begun was finished: {stopped_behind}");
    assert_eq!(documents.last().unwrap()["status"], "paused");
    said.push(first.said());

    let mut second = Running::start(folder, "second", &["resume", &run, "--confirm", &project]);
    second.wait_for("the stop of the writers", |event| is_step(event, "step_started", "stop-writers"));
    second.signal("INT");
    second.wait_for_text("Ctrl-C again: at once");
    second.signal("INT");
    let ended = second.end();
    assert_eq!(ended.code(), Some(130), "{}", second.said());
    assert!(second.talk().contains("stopped at once"), "{}", second.talk());
    assert!(!second.documents().iter().any(|event| is_step(event, "step_done", "stop-writers")));
    assert!(second.documents().iter().any(|event| is_step(event, "step_replayed", "restore-beside")));
    said.push(second.said());

    let mut third = Running::start(folder, "third", &["resume", "--confirm", &project]);
    let ended = third.end();
    assert_eq!(ended.code(), Some(0), "{}", third.said());
    assert_eq!(third.documents().last().unwrap()["status"], "succeeded");
    assert_eq!(bench.fingerprint().await, before);
    said.push(third.said());
    said.push(call(&bench, &["runs", "show", &run]).1);
    said.push(call(&bench, &["runs", "show", &run, "--json"]).1);
    said.push(call(&bench, &["config", "show"]).1);

    let seen = watch.end();
    assert!(!seen.passwords.is_empty(), "the candidate's password was never there to be looked for");
    let secrets: Vec<_> = seen.passwords.iter().cloned().chain(bench.stack.secrets()).collect();
    seen.assert_clean(&secrets);
    for secret in &secrets {
        assert!(!said.iter().any(|text| text.contains(secret)), "a secret was printed");
        assert_clean(&folder.join("state"), secret);
    }
    assert!(said.iter().any(|text| text.contains("DEBUG")), "the log was not on");
    assert_harmless(&seen.execs);
}

/// Rows 1, 5, 6, 7, 9, 15 to 18, 22, 23, 27 and 35 of the runbook's hazards: in production's containers a recovery runs
/// nothing but the switch of maintenance mode, and `tail` for the evidence; the rest are the health checks of the images.
fn assert_harmless(execs: &[String]) {
    let is_health_check = |command: &str| command.contains("-health") || command.contains("redis-cli ping");
    let is_evidence =
        |command: &str| command.contains("exec_create: tail -c ") && command.contains(" -- /srv/app/storage/logs/");
    let artisan: Vec<_> = execs.iter().filter(|command| !is_health_check(command) && !is_evidence(command)).collect();
    for command in &artisan {
        let is_switch = ["artisan --version", "artisan down --no-interaction", "artisan up --no-interaction"];
        assert!(is_switch.iter().any(|switch| command.contains(switch)), "a recovery ran {command:?}");
    }
    assert!(artisan.len() >= 3, "nothing was seen: {execs:?}");
}

fn is_step(event: &Value, kind: &str, step: &str) -> bool {
    event["type"] == kind && event["step"].as_str().is_some_and(|path| path.ends_with(step))
}

/// Calls the program with the log on; its exit code and all that it printed.
fn call(bench: &Bench, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(program())
        .current_dir(bench.folder.path())
        .arg("-vvv")
        .args(arguments)
        .env_remove("CHOM_CONFIG")
        .env("RUST_LOG", "trace")
        .env("USER", "ada")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).join("\n");
    (output.status.code().unwrap_or(-1), text)
}
