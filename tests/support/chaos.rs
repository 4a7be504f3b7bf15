//! Ways to break a running stack, as an accident would.

use std::{
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use chom_recovery::backend::RUN_LABEL;

use crate::Stack;

/// Runs `docker compose` on the stack's own file.
///
/// # Panics
/// It fails.
pub fn compose(stack: &Stack, arguments: &[&str]) -> Output {
    docker(&[&["compose", "-f", path(&stack.compose)], arguments].concat())
}

/// Runs `docker compose` on the stack's own file, which may fail.
///
/// # Panics
/// There is no such program.
pub fn try_compose(stack: &Stack, arguments: &[&str]) -> Output {
    let all = [&["compose", "-f", path(&stack.compose)], arguments].concat();
    Command::new("docker").args(all).output().expect("docker runs")
}

/// Brings the stack up, with more files where `arguments` name some. Compose gives up at once on a worker that ended and
/// that the Engine has not begun again yet: it is asked again.
///
/// # Panics
/// It does not come up.
pub fn up(stack: &Stack, arguments: &[&str]) {
    let deadline = Instant::now() + Duration::from_mins(3);
    loop {
        let up = try_compose(stack, &[arguments, &["up", "-d", "--wait"]].concat());
        if up.status.success() {
            return;
        }
        assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&up.stderr));
    }
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

/// Runs a shell command as root in a container that has a volume at `/v`, with the image of the database.
pub fn in_volume(stack: &Stack, volume: &str, script: &str) {
    with_mounts(stack, &[&format!("{volume}:/v")], script);
}

/// Runs a script in a container without a network that has these mounts, as `docker run --volume` takes them.
pub fn with_mounts(stack: &Stack, mounts: &[&str], script: &str) {
    let mounts: Vec<&str> = mounts.iter().flat_map(|mount| ["-v", mount]).collect();
    let run = ["run", "--rm", "--network", "none", "--entrypoint", "sh"];
    docker(&[&run[..], &mounts, &[&stack.db_image, "-ec", script]].concat());
}

/// Overwrites the pages of a tablespace that hold its rows, as a failing disk would. The server must not run.
pub fn overwrite_pages(stack: &Stack, volume: &str, file: &str) {
    // The first pages are kept: the file can still be opened, and only reading rows shows the damage.
    let script = format!("dd if=/dev/urandom of=/v/{file} bs=16384 seek=4 count=4 conv=notrunc status=none");
    in_volume(stack, volume, &script);
}

/// Runs `redis-cli` in the stack and returns what it printed.
pub fn redis(stack: &Stack, arguments: &[&str]) -> String {
    let output = compose(stack, &[&["exec", "-T", "redis", "redis-cli"], arguments].concat());
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// Puts a stack right that a failed test left broken, and removes what runs left of it. A healthy one is not touched.
///
/// # Panics
/// It cannot be put right.
pub fn mend(stack: &Stack) {
    let own = format!("label={RUN_LABEL}");
    let begins = format!("name=^/?{}-(candidate-|recovery-lock$)", stack.project);
    let left = listed(&["ps", "-aq", "--filter", &own, "--filter", &begins]);
    for container in left {
        docker(&["rm", "-fv", &container]);
    }
    if !is_well(stack) {
        // While maintenance mode is on, workers end and are never healthy.
        in_volume(stack, &format!("{}_app_storage", stack.project), "rm -f /v/framework/down");
        // Containers made anew have the Compose file's policies, and no restarts that make the Engine wait.
        compose(stack, &["down"]);
        docker(&["volume", "rm", &format!("{}_mysql_data", stack.project)]);
        let up = Path::new(env!("CARGO_MANIFEST_DIR")).join("stack/up.sh");
        let status = Command::new(up)
            .args(["--no-build"])
            .env("PROJECT", &stack.project)
            .env("SITE_DIR", &stack.site)
            .status()
            .expect("up.sh runs");
        assert!(status.success(), "project {} cannot be mended", stack.project);
    }
    // What production had, and copies that were kept unpacked.
    let begins = format!("name=^{}_mysql_data__(r|warm)_", stack.project);
    for volume in listed(&["volume", "ls", "-q", "--filter", &own, "--filter", &begins]) {
        docker(&["volume", "rm", &volume]);
    }
}

/// Tells whether everything runs, users are served and there are orders.
fn is_well(stack: &Stack) -> bool {
    let running = listed(&["compose", "-f", path(&stack.compose), "ps", "--services", "--status", "running"]);
    if running.len() < 6 {
        return false;
    }
    let script = "test ! -e storage/framework/down && php artisan chom:status";
    let output = Command::new("docker")
        .args(["compose", "-f", path(&stack.compose), "exec", "-T", "app", "sh", "-c", script])
        .output()
        .expect("docker runs");
    let said = String::from_utf8_lossy(&output.stdout);
    output.status.success() && said.contains("\"status\":\"ok\"") && !said.contains("\"orders\":0")
}

fn listed(arguments: &[&str]) -> Vec<String> {
    String::from_utf8_lossy(&docker(arguments).stdout).lines().map(str::to_owned).collect()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the path is UTF-8")
}
