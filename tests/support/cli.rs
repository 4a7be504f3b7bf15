//! The command line as an operator types it, on a configuration that it drafted itself.
//!
//! Everything here ends the test where something is not as expected.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use chom_recovery::System;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Stack, program::program, remote::Machine};

/// A folder with a configuration drafted from the stack.
#[derive(Debug)]
pub struct Bench {
    stack: Stack,
    folder: TempDir,
    machine: Option<Machine>,
}

impl Bench {
    /// Drafts a configuration and makes a repository that is not encrypted.
    pub fn open(test: &str) -> Option<Self> {
        let bench = Self::drafted(test)?;
        let made = bench.run(&["repo", "init", "--encryption", "none", "--pin"]);
        assert_eq!(code(&made), 0, "{made:?}");
        Some(bench)
    }

    /// Drafts a configuration.
    pub fn drafted(test: &str) -> Option<Self> {
        let stack = Stack::open(test)?;
        let bench = Self { stack, folder: tempfile::tempdir().unwrap(), machine: None };
        let stack = &bench.stack;
        let dir = bench.folder.path().display();
        let connect_to = format!("127.0.0.1:{}", stack.port);
        let drafted = bench.run(&[
            "config",
            "init",
            "--project",
            &stack.project,
            "--state-dir",
            &format!("{dir}/state"),
            "--repository",
            &format!("file:{dir}/repository"),
            "--url",
            &format!("{}/health", stack.url),
            "--ca-file",
            stack.ca.to_str().unwrap(),
            "--connect-to",
            &connect_to,
        ]);
        assert_eq!(code(&drafted), 0, "{drafted:?}");
        Some(bench)
    }

    /// Runs the program in the folder, with nobody at the terminal.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(program());
        command.current_dir(self.folder.path()).args(arguments).stdin(Stdio::null());
        command.env_remove("CHOM_CONFIG").env("USER", "ada").output().unwrap()
    }

    /// A command on the machine that the bench is on.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let program = program.as_ref();
        let Some(machine) = &self.machine else { return Command::new(program) };
        let mut command = machine.inside(program.to_str().unwrap());
        command.env("DOCKER_HOST", machine.socket());
        command
    }

    /// Runs `docker` on the machine that the bench is on.
    pub fn try_docker(&self, arguments: &[&str]) -> Output {
        self.command("docker").args(arguments).output().unwrap()
    }

    /// The same, which succeeds; what it printed.
    pub fn docker(&self, arguments: &[&str]) -> String {
        let output = self.try_docker(arguments);
        assert!(output.status.success(), "docker {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Goes to another machine, with an Engine and a network of its own, that has the same files and these images.
    pub fn move_to(&mut self, machine: Machine, images: &[String]) {
        let file = machine.path("images.tar");
        let file = file.to_str().unwrap();
        let images: Vec<_> = images.iter().map(String::as_str).collect();
        self.docker(&[&["save", "--output", file], &images[..]].concat());
        self.machine = Some(machine);
        self.docker(&["load", "--quiet", "--input", file]);
        std::fs::remove_file(file).unwrap();
    }

    /// Recovers with `arguments`, as `["nginx"]`: it succeeds, users are served over verified TLS, and the report has the
    /// budget of `look` beside what was needed. Returns what the run achieved.
    pub fn recover(&self, arguments: &[&str], look: &str) -> Value {
        let output = self.run(&[&["--json", "recover"], arguments, &["--yes"]].concat());
        assert_eq!(code(&output), 0, "{}", shown(&output));
        assert_eq!(self.status().as_deref(), Some("200"), "served over verified TLS");
        let summary = lines(&output).pop().unwrap();
        assert_eq!(summary["achieved"]["rto"]["is_met"], true, "{summary}");
        let step = summary["steps"].as_array().unwrap().iter().find(|s| s["step"] == look);
        let step = step.unwrap_or_else(|| panic!("no step {look}: {summary}"));
        assert!(step["budget_ms"].is_u64() && step["ms"].is_u64(), "budget against actual: {step}");
        summary["achieved"].clone()
    }

    /// Undoes the newest recovery.
    pub fn roll_back(&self) {
        let undone = self.run(&["rollback", "--yes"]);
        assert_eq!(code(&undone), 0, "{}", shown(&undone));
    }

    /// What users get: the status, where the certificate is accepted and something answers.
    pub fn status(&self) -> Option<String> {
        let stack = &self.stack;
        let resolve = format!("{}:{}:127.0.0.1", stack.host, stack.port);
        let output = Command::new("curl")
            .args(["--silent", "--max-time", "10", "--output", "/dev/null", "--write-out", "%{http_code}", "--cacert"])
            .args([stack.ca.to_str().unwrap(), "--resolve", &resolve, &format!("{}/health", stack.url)])
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// Waits until users are served, for two minutes; tells whether they are.
    pub fn is_served_in_time(&self) -> bool {
        let deadline = Instant::now() + Duration::from_mins(2);
        while self.status().as_deref() != Some("200") {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        true
    }

    /// Runs a query; its one document.
    pub fn query(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.run(arguments);
        let lines = lines(&output);
        assert_eq!(lines.len(), 1, "{output:?}");
        (code(&output), lines[0].clone())
    }

    /// Adds to the configuration, and tries it.
    pub fn configure(&self, more: &str) {
        let path = self.folder.path().join("chom-recovery.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}\n{more}")).unwrap();
        let checked = self.run(&["config", "check"]);
        assert_eq!(code(&checked), 0, "{checked:?}");
    }

    /// Takes out what was drafted besides the database.
    pub fn without_drafted_components(&self) {
        let path = self.folder.path().join("chom-recovery.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once("[[components]]").unwrap();
        let (_, after) = rest.split_once("[repository]").unwrap();
        // Names components that are no more.
        let before: String = before.split_inclusive('\n').filter(|line| !line.starts_with("environment = ")).collect();
        let before = match before.split_once("\n[nginx]\n") {
            Some((head, rest)) => format!("{head}{}", rest.find("\n[").map_or("", |next| &rest[next..])),
            None => before,
        };
        std::fs::write(&path, format!("{before}\n[repository]{after}")).unwrap();
    }

    /// Takes out what was drafted of the stack's monitoring, where it has some.
    pub fn without_drafted_monitoring(&self) {
        let path = self.folder.path().join("chom-recovery.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let Some((before, rest)) = text.split_once("\n[monitoring]\n") else { return };
        let after = rest.find("\n[").map_or("", |next| &rest[next..]);
        std::fs::write(&path, format!("{before}\n{after}")).unwrap();
    }

    /// Returns the stack.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Returns the folder of the configuration, with state and backups below it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Reads the configuration.
    pub fn system(&self) -> System {
        System::load(&self.folder.path().join("chom-recovery.toml")).unwrap()
    }
}

/// Returns what was printed, for messages.
pub fn shown(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Returns the exit code.
pub fn code(output: &Output) -> i32 {
    output.status.code().expect("ended by itself")
}

/// Reads standard output as one JSON document a line.
pub fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}
