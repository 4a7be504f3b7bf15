//! The program as scripts see it: exit codes, streams, JSON. Nothing here needs an Engine.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};

use assert_cmd::Command;
use chom_recovery::{
    Error, ErrorKind,
    run::{Engine, NewRun},
};
use serde_json::Value;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a configuration whose Engine nobody serves.
    fn configured() -> Self {
        let place = Self::new();
        let dir = place.path().display();
        std::fs::write(
            place.config(),
            format!(
                "# a comment\nid = \"shop\"\nstate_dir = \"{dir}/state\"\n[compose]\nproject = \"shop\"\n\
                 host = \"unix://{dir}/no-engine.sock\"\n[database]\nservice = \"db\"\n\
                 password = {{ env = \"SHOP_DB\" }}\n[repository]\nurl = \"file:{dir}/backups\"\n\
                 [[contacts]]\nrole = \"DBA\"\nreach = \"555-0100\"\nwhen = \"at once\"\n"
            ),
        )
        .unwrap();
        place
    }

    fn config(&self) -> PathBuf {
        self.path().join("chom-recovery.toml")
    }

    /// Runs the program here, with no terminal and nothing of the caller's environment that it would heed.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::cargo_bin("chom-recovery").unwrap();
        command.current_dir(self.path()).args(arguments).timeout(Duration::from_mins(1));
        for name in ["CHOM_CONFIG", "DOCKER_HOST", "DOCKER_CONTEXT", "SUDO_USER"] {
            command.env_remove(name);
        }
        command.env("HOME", self.path()).env_remove("XDG_CONFIG_HOME").env("USER", "ada").env("COLUMNS", "120");
        command.output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.run(arguments);
        let text = stdout(&output);
        assert_eq!(text.lines().count(), 1, "one document: {text}");
        (code(&output), serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")))
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("ended by itself")
}

#[test]
fn help_names_examples_and_exit_codes() {
    let output = Place::new().run(&["--help"]);
    assert_eq!(code(&output), 0);
    insta::assert_snapshot!("help", stdout(&output));
}

#[test]
fn help_of_what_changes_production() {
    for command in [&["recover", "database"][..], &["restore"], &["rollback"], &["runs", "prune"], &["config", "init"]]
    {
        let arguments: Vec<&str> = command.iter().copied().chain(["--help"]).collect();
        insta::assert_snapshot!(format!("help-{}", command.join("-")), stdout(&Place::new().run(&arguments)));
    }
}

#[test]
fn wrong_arguments_are_usage() {
    for arguments in [
        &["recover", "everything"][..],
        &["frobnicate"],
        &["health", "--mode", "most"],
        &["backup", "show", "--latest", "--previous"],
        &["repo", "init"],
        &["resolve", "X", "y", "--because", "z"],
        &["recover", "database", "--plan", "p", "--latest"],
        &["recover", "database", "--waive", "disk"],
    ] {
        let output = Place::new().run(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
        assert!(stdout(&output).is_empty() && !stderr(&output).is_empty(), "{arguments:?}");
    }
}

#[test]
fn with_json_every_failure_is_a_document_too() {
    let (exit, error) = Place::new().json(&["--json", "frobnicate"]);
    assert_eq!((exit, &error["type"], &error["exit_code"]), (2, &"exit_error".into(), &2.into()));

    let (exit, error) = Place::new().json(&["--json"]);
    assert_eq!((exit, error["code"].as_str()), (10, Some("not_found")));
    assert!(error["hint"].as_str().unwrap().contains("config init"), "{error}");
}

#[test]
fn without_a_configuration_every_place_is_named() {
    let place = Place::new();
    let output = place.run(&[]);
    assert_eq!(code(&output), 10);
    assert!(stdout(&output).is_empty());
    let shown = stderr(&output).replace(&place.path().canonicalize().unwrap().display().to_string(), "[dir]");
    insta::assert_snapshot!("no-configuration", shown.replace(&place.path().display().to_string(), "[dir]"));
}

#[test]
fn a_mistake_in_the_configuration_is_shown_with_its_line() {
    let place = Place::configured();
    let text = std::fs::read_to_string(place.config()).unwrap().replace("service =", "servce =");
    std::fs::write(place.config(), text).unwrap();
    let output = place.run(&["config", "show"]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("servce") && stderr(&output).contains("line "), "{}", stderr(&output));
}

#[test]
fn the_configuration_is_found_upwards() {
    let place = Place::configured();
    std::fs::create_dir_all(place.path().join("a/b")).unwrap();
    let output = Command::cargo_bin("chom-recovery")
        .unwrap()
        .current_dir(place.path().join("a/b"))
        .env_remove("CHOM_CONFIG")
        .args(["--json", "config", "show"])
        .output()
        .unwrap();
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["system"]["id"], "shop");
    assert!(shown["file"].as_str().unwrap().ends_with("/chom-recovery.toml"));
}

#[test]
fn a_dead_engine_does_not_hide_runs_backups_and_what_to_do() {
    let place = Place::configured();
    let (exit, status) = place.json(&["--json"]);
    assert_eq!(exit, 4, "what could not be told is not healthy");
    assert_eq!(status["type"], "status");
    assert_eq!(status["v"], 1);
    assert!(status["engine_address"].as_str().unwrap().ends_with("no-engine.sock"));
    assert_eq!(status["engine_error"]["kind"], "unreachable");
    assert!(status["next"].as_array().unwrap().iter().any(|n| n["command"].as_str().is_some()), "{status}");

    assert_eq!(place.json(&["--json", "runs", "list"]), (0, serde_json::json!({"v":1,"type":"runs","items":[]})));
    let output = place.run(&["backup", "list"]);
    assert_eq!(code(&output), 10, "{}", stderr(&output));
    assert!(stderr(&output).contains("repo init"));
}

#[test]
fn what_needs_the_engine_says_that_it_cannot_be_reached() {
    let place = Place::configured();
    for arguments in [&["backup", "create"][..], &["plan", "recover", "database"], &["maintenance", "on"]] {
        let output = place.run(arguments);
        assert_eq!(code(&output), 13, "{arguments:?}: {}", stderr(&output));
        assert!(stdout(&output).is_empty());
    }
}

#[test]
fn the_host_of_the_command_line_wins() {
    let place = Place::configured();
    let (_, status) = place.json(&["--json", "--host", "unix:///nowhere/else.sock"]);
    assert_eq!(status["engine_address"], "unix:///nowhere/else.sock");
    assert_eq!(code(&place.run(&["--host", "a", "--context", "b"])), 2);
}

#[test]
fn a_repository_is_made_pinned_and_never_made_twice() {
    let place = Place::configured();
    let before = std::fs::read_to_string(place.config()).unwrap();
    let output = place.run(&["repo", "init", "--encryption", "none", "--pin"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let line = stdout(&output).lines().find(|l| l.starts_with("signers = ")).unwrap().to_owned();
    let after = std::fs::read_to_string(place.config()).unwrap();
    assert_eq!(after.replace(&format!("{line}\n"), ""), before, "nothing but the key is added");
    let key = place.path().join("state");
    assert!(key.is_dir());
    assert_eq!(code(&place.run(&["repo", "init", "--encryption", "none"])), 6);

    let (exit, list) = place.json(&["--json", "backup", "list"]);
    assert_eq!((exit, &list["type"], &list["backups"]), (0, &"backups".into(), &serde_json::json!([])));
    let (exit, status) = place.json(&["backup", "status", "--json"]);
    assert_eq!((exit, status["status"].as_str()), (4, Some("down")));
    assert_eq!(code(&place.run(&["backup", "show"])), 10);
}

#[test]
fn config_check_tries_everything_and_tells_mistakes_from_faults() {
    let place = Place::configured();
    let (exit, report) = place.json(&["--json", "config", "check"]);
    assert_eq!(exit, 6);
    let verdicts: Vec<_> = report["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| format!("{}={}", l["what"].as_str().unwrap(), l["verdict"].as_str().unwrap()))
        .collect();
    for wanted in ["engine=failed", "state_dir=ok", "repository=failed", "database.password=failed", "services=skipped"]
    {
        assert!(verdicts.iter().any(|v| v == wanted), "{wanted}: {verdicts:?}");
    }
}

/// Nobody can type here: a command that waited for an answer would be ended by the time limit, not by itself.
#[test]
fn without_a_terminal_nothing_is_asked_and_nothing_hangs() {
    let place = Place::configured();
    place.run(&["repo", "init", "--encryption", "none", "--pin"]);
    let begun = Instant::now();
    let output = place.run(&["approve"]);
    assert_eq!(code(&output), 10, "{}", stderr(&output));
    // Another project's name is refused before anything is looked at.
    let output = place.run(&["approve", "--confirm", "chom"]);
    assert_eq!(code(&output), 5);
    insta::assert_snapshot!("wrong-project", stderr(&output));
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn the_card_holds_commands_places_and_people() {
    let place = Place::configured();
    let output = place.run(&["card"]);
    assert_eq!(code(&output), 0);
    let text = stdout(&output).replace(&place.path().canonicalize().unwrap().display().to_string(), "[dir]");
    insta::assert_snapshot!("card", text.replace(&place.path().display().to_string(), "[dir]"));
}

#[test]
fn colour_is_a_choice_and_never_the_only_sign() {
    let place = Place::configured();
    let plain = stdout(&place.run(&["card"]));
    let coloured = stdout(&place.run(&["card", "--color", "always"]));
    assert!(!plain.contains('\u{1b}'));
    assert!(coloured.contains('\u{1b}'));
    let stripped = coloured.replace("\u{1b}[1m", "").replace("\u{1b}[0m", "");
    assert_eq!(stripped, plain);
}

#[test]
fn runs_that_do_not_exist_are_not_found() {
    let place = Place::configured();
    for arguments in [
        &["runs", "show"][..],
        &["runs", "show", "01ARZ3NDEKTSV4RRFFQ69G5FAV"],
        &["resolve", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "x", "--applied", "--because", "seen"],
    ] {
        let output = place.run(arguments);
        assert_eq!(code(&output), 10, "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("hint:"), "{}", stderr(&output));
    }
}

/// Leaves a run with a step of which nobody knows whether it happened; returns its id.
fn leave_unknown(place: &Place) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let engine = Engine::new(place.path().join("state"));
        let run = engine.start(NewRun::new("shop", "recover-database", &()).unwrap()).await.unwrap();
        let step = run
            .step::<()>("swap-volumes")
            .undo_text("put the old data back")
            .undo_with(async |_, _| Ok(()))
            .run(async |_| Err(Error::new(ErrorKind::Unreachable, "the Engine went away")));
        run.execute(async { step.await }).await.unwrap_err();
        run.id().to_string()
    })
}

#[test]
fn resolve_shows_what_is_unknown_what_the_answers_mean_and_what_to_type() {
    let place = Place::configured();
    let (exit, none) = place.json(&["resolve", "--json"]);
    assert_eq!((exit, &none["items"]), (0, &serde_json::json!([])));
    let id = leave_unknown(&place);
    let output = place.run(&["resolve"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    insta::assert_snapshot!("resolve", stdout(&output).replace(&id, "[run]"));
    let (_, status) = place.json(&["--json"]);
    assert_eq!(status["next"][0]["command"], format!("chom-recovery resolve {id}"), "{status}");

    // What it says to type is a command, and asks for no more than it says.
    let (_, list) = place.json(&["--json", "resolve", &id]);
    let command = list["items"][0]["commands"]["applied"].as_str().unwrap().to_owned();
    assert!(command.starts_with(&format!("chom-recovery resolve {id} swap-volumes --applied --because")), "{command}");
    for (arguments, exit, wanted) in [
        (&["resolve", &id, "swap-volumes", "--applied"][..], 2, "--because"),
        (&["resolve", "--not-applied"], 2, "--because"),
        (&["resolve", "--applied", "--not-applied"], 2, "cannot be used with"),
        (&["resolve", &id, "restore-beside", "--applied", "--because", "seen"], 10, "swap-volumes"),
        (&["resolve", &id, "--applied", "--because", "seen", "--output", "{"], 2, "--output"),
        // Nobody's word is taken while nothing can be looked at.
        (&["resolve", "--applied", "--because", "seen"], 13, "engine"),
    ] {
        let output = place.run(arguments);
        assert_eq!(code(&output), exit, "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).to_lowercase().contains(wanted), "{arguments:?}: {}", stderr(&output));
    }
    assert_eq!(place.json(&["--json", "resolve"]).1["items"].as_array().unwrap().len(), 1, "nothing was recorded");
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let place = Place::configured();
    let program = assert_cmd::cargo::cargo_bin("chom-recovery");
    let output = std::process::Command::new("sh")
        .args(["-c", "\"$0\" card | true; \"$0\" card 2>&1 >/dev/full"])
        .arg(program)
        .current_dir(place.path())
        .env_remove("CHOM_CONFIG")
        .output()
        .unwrap();
    assert!(!stderr(&output).contains("panicked") && !stdout(&output).contains("panicked"), "{output:?}");
}

#[test]
fn the_configuration_written_by_pin_stays_private() {
    let place = Place::configured();
    std::fs::set_permissions(place.config(), std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(code(&place.run(&["repo", "init", "--encryption", "none", "--pin"])), 0);
    assert_eq!(std::fs::metadata(place.config()).unwrap().permissions().mode() & 0o777, 0o600);
}
