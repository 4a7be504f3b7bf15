//! Ways to break a running stack, as an accident would.

use std::process::{Command, Output};

use crate::Stack;

/// Runs `docker compose` on the stack's own file.
///
/// # Panics
/// It fails.
pub fn compose(stack: &Stack, arguments: &[&str]) -> Output {
    docker(&[&["compose", "-f", path(&stack.compose)], arguments].concat())
}

/// Runs `docker`.
///
/// # Panics
/// It fails.
pub fn docker(arguments: &[&str]) -> Output {
    let output = Command::new("docker").args(arguments).output().expect("docker runs");
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs a shell command as root in a container of a service.
pub fn shell(stack: &Stack, service: &str, script: &str) -> Output {
    compose(stack, &["exec", "-T", "--user", "root", service, "sh", "-c", script])
}

/// Kills a service's containers at once, as a crash would. The Engine does not start them again.
pub fn kill(stack: &Stack, service: &str) {
    compose(stack, &["kill", "-s", "KILL", service]);
}

/// Deletes every tablespace file of the application's schema under a running server.
pub fn delete_tablespaces(stack: &Stack) {
    shell(stack, "mysql", "rm /var/lib/mysql/chom/*.ibd");
}

fn path(path: &std::path::Path) -> &str {
    path.to_str().expect("the path is UTF-8")
}
