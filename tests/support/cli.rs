//! The command line as an operator types it, on a configuration that it drafted itself.
//!
//! Everything here ends the test where something is not as expected.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use chom_recovery::System;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Stack, program::program};

/// A folder with a configuration drafted from the stack.
#[derive(Debug)]
pub struct Bench {
    stack: Stack,
    folder: TempDir,
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
        let bench = Self { stack, folder: tempfile::tempdir().unwrap() };
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
        let mut command = Command::new(program());
        command.current_dir(self.folder.path()).args(arguments).stdin(Stdio::null());
        command.env_remove("CHOM_CONFIG").env("USER", "ada").output().unwrap()
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
        std::fs::write(&path, format!("{before}\n[repository]{after}")).unwrap();
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

/// Returns the exit code.
pub fn code(output: &Output) -> i32 {
    output.status.code().expect("ended by itself")
}

/// Reads standard output as one JSON document a line.
pub fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}
