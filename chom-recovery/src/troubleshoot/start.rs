//! Containers do not start: what the Engine says of each, and what it said itself last.

use std::{path::Path, sync::Arc};

use futures::StreamExt;

use super::{Cause, Findings, Issue, listener::listeners};
use crate::{
    backend::{Backend, Container, ContainerState, HealthCheck, LogRequest, MountSource},
    error::Result,
    probe::{HealthProbe, disk::DiskProbe},
    procedure::Parts,
    secret::scrub,
};

/// Lines of a log that are read.
const LINES: usize = 40;
/// Lines of a log that are shown.
const SHOWN: usize = 3;

/// Looks for what keeps containers of the project from running.
pub(crate) async fn start(parts: &Parts) -> Findings {
    let mut findings = Findings::new(Issue::Start);
    findings.disk(&DiskProbe::new(&parts.system, parts.backend.clone()).check().await);
    match look(&parts.backend, &mut findings).await {
        Ok(()) => {}
        Err(error) => findings.add(
            Cause::new("engine", 95, "the Engine does not answer: nothing is known about what runs on it")
                .seen(&error)
                .mend(
                    "look at the Engine's own log on its host",
                    "restarting the Engine restarts the database as well",
                ),
        ),
    }
    findings.ranked()
}

async fn look(backend: &Arc<dyn Backend>, findings: &mut Findings) -> Result<()> {
    let (model, containers) = (backend.model().await?, backend.containers().await?);
    let is_local = backend.engine().await?.is_local;
    for service in model.services.iter().filter(|s| s.replicas > 0) {
        let mut of_service = containers.iter().filter(|c| c.service == service.name).peekable();
        if of_service.peek().is_none() {
            findings.add(
                Cause::new(
                    format!("absent-{}", service.name),
                    70,
                    format!("service `{}` has no container", service.name),
                )
                .mend(
                    format!("docker compose -p {} up --no-start {}", backend.project(), service.name),
                    "the volumes that its file names have to be the ones with the data: compare before it is started",
                ),
            );
        }
        for container in of_service {
            if container.state == ContainerState::Running && container.health != HealthCheck::Unhealthy {
                findings.fine(format!("`{}` runs", container.name));
                continue;
            }
            let (said, unread) = last_lines(backend, &container.name).await;
            unread.into_iter().for_each(|why| findings.unclear(why));
            findings.add(judge(container, &said, is_local));
        }
    }
    Ok(())
}

async fn last_lines(backend: &Arc<dyn Backend>, container: &str) -> (Vec<String>, Option<String>) {
    let mut said = Vec::new();
    let unread = |e| Some(format!("log of `{container}`: {e}"));
    let mut log = match backend.logs(container, LogRequest { since: None, tail: Some(LINES) }).await {
        Ok(log) => log,
        Err(error) => return (said, unread(error)),
    };
    while let Some(line) = log.next().await {
        match line {
            Ok(line) => said.push(scrub(&line.text)),
            Err(error) => return (said, unread(error)),
        }
    }
    (said, None)
}

/// What servers say when their configuration is refused: nginx, redis, MySQL and MariaDB, PHP.
const REFUSED: [&str; 7] = [
    "[emerg]",
    "FATAL CONFIG FILE ERROR",
    "Bad directive",
    "unknown variable",
    "unknown option",
    "PHP Parse error",
    "failed to parse",
];

fn judge(container: &Container, said: &[String], is_local: bool) -> Cause {
    let (name, service) = (&container.name, &container.service);
    let cause = |kind: &str, confidence, what: String| Cause::new(format!("{kind}-{service}"), confidence, what);
    let exit = container.exit_code.map_or_else(|| "no exit code".into(), |code| format!("exit code {code}"));
    let mut found = None;
    if let Some(error) = &container.start_error {
        found = Some(of_engine(error, &cause, name).seen(error));
    } else if let Some(folder) = missing_folder(container).filter(|_| is_local) {
        found = Some(cause("mount", 88, format!("`{name}` mounts a folder that is not there")).seen(folder).mend(
            "put the folder back: from the backup, or by mounting its disk",
            "an empty one would be taken for the data",
        ));
    } else if container.oom_killed {
        found = Some(cause("memory", 92, format!("the kernel killed `{name}` for want of memory")).seen(&exit).mend(
            "raise its memory limit or lower what it is set to use, then start it",
            "other services lose that memory",
        ));
    } else if let Some(line) = said.iter().rfind(|line| REFUSED.iter().any(|word| line.contains(word))) {
        found = Some(
            cause("configuration", 85, format!("`{name}` refuses its configuration"))
                .seen(line)
                .mend("put back the last configuration that worked, and test it before it is started", "none"),
        );
    }
    if let Some(found) = found {
        return found;
    }
    let last = said.iter().rev().take(SHOWN).rev();
    if may_start(container) {
        return cause("stopped", 75, format!("`{name}` was stopped, and nothing says that it failed"))
            .seen(exit)
            .mend(
                format!("start it: chom-recovery troubleshoot start --fix stopped-{service}"),
                "ask first who stopped it, and why; the fix proves that it runs, and undoing it stops it again",
            )
            .fixable();
    }
    let what = match container.state {
        ContainerState::Running => format!("`{name}` runs, and its own health check fails"),
        ContainerState::Restarting => format!("`{name}` ends and is started again, {} times", container.restart_count),
        ContainerState::Created => format!("`{name}` was made and never started"),
        ContainerState::Paused => format!("`{name}` is frozen: docker unpause {name}"),
        _ => format!("`{name}` ended by itself"),
    };
    let code = match container.exit_code {
        Some(125..=127) => " (its command cannot be run: the image is another one than its configuration expects)",
        Some(137) => " (killed: the grace for stopping was too short, or somebody did)",
        Some(139) => " (it crashed)",
        _ => "",
    };
    last.fold(cause("ended", 60, what).seen(format!("{exit}{code}")), Cause::seen)
        .mend("read its log; `chom-recovery diagnose` says which recovery mends it", "none")
}

/// Tells whether a container was ended on purpose: nothing says that starting it would fail.
pub(crate) fn may_start(container: &Container) -> bool {
    // 137 and 143: SIGKILL and SIGTERM, which is how the Engine stops what does not end by itself.
    container.state == ContainerState::Exited
        && matches!(container.exit_code, Some(0 | 137 | 143))
        && !container.oom_killed
        && container.start_error.is_none()
}

/// Translates why the Engine could not start a container.
fn of_engine(error: &str, cause: &impl Fn(&str, u8, String) -> Cause, name: &str) -> Cause {
    let has = |words: &[&str]| words.iter().any(|word| error.contains(word));
    if has(&["already allocated", "address already in use"]) {
        let port = port_in(error);
        let who = port.map(listeners).unwrap_or_default();
        let which = port.map_or_else(|| "a port".to_owned(), |port| format!("port {port}"));
        let by = if who.is_empty() { "another program".to_owned() } else { who.join(", ") };
        return cause("port", 95, format!("`{name}` cannot have {which}: {by} listens there"))
            .mend("stop that program, or give the service another port; then start it", "that program's users");
    }
    if has(&["no space left on device"]) {
        return cause("disk", 95, format!("`{name}` cannot be started: a disk is full"))
            .mend("free space by removing what you can name, then start it", "never `docker system prune`");
    }
    if has(&["No such image", "no such image", "manifest unknown"]) {
        return cause("image", 93, format!("the image of `{name}` is not there"))
            .mend("pull or load exactly that image, by its digest", "another version may not open the data");
    }
    if has(&["error while creating mount source path", "error mounting", "bind source path does not exist"]) {
        return cause("mount", 93, format!("a mount of `{name}` cannot be made")).mend(
            "put the file or folder back: from the backup, or by mounting its disk",
            "an empty one would be taken for the data",
        );
    }
    if has(&["executable file not found", "exec format error", "permission denied"]) {
        return cause("image", 88, format!("the command of `{name}` cannot be run"))
            .mend("use the image that the configuration was made for", "none");
    }
    cause("engine", 70, format!("the Engine cannot start `{name}`")).mend("do what the Engine's message says", "none")
}

/// Finds the port in the Engine's message, whose form changes from version to version.
fn port_in(error: &str) -> Option<u16> {
    let words = error.split(|c: char| c.is_whitespace() || c == '/').map(|word| word.trim_end_matches(':'));
    words.filter_map(|word| word.rsplit_once(':')?.1.parse().ok()).find(|port| *port > 0)
}

fn missing_folder(container: &Container) -> Option<&str> {
    container.mounts.iter().find_map(|mount| match &mount.source {
        MountSource::HostPath(path) if !Path::new(path).exists() => Some(path.as_str()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::testing::backend::container;

    fn exited(code: i64) -> Container {
        Container { state: ContainerState::Exited, exit_code: Some(code), ..container("web") }
    }

    fn name(container: &Container, said: &[&str]) -> String {
        judge(container, &said.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(), true).name
    }

    #[test]
    fn each_reason_has_its_own_cause() {
        let refused = |text: &str| Container { start_error: Some(text.into()), ..exited(128) };
        let mount = crate::backend::Mount {
            source: MountSource::HostPath("/nowhere/to/be/found".into()),
            target: "/x".into(),
            read_only: true,
        };
        for (container, said, wanted) in [
            (refused("driver failed: Bind for 127.0.0.1:8443 failed: port is already allocated"), "", "port-web"),
            (refused("mkdir /var/lib/docker/x: no space left on device"), "", "disk-web"),
            (refused("No such image: shop/web:2"), "", "image-web"),
            (refused("error while creating mount source path '/srv'"), "", "mount-web"),
            (refused("something else"), "", "engine-web"),
            (Container { mounts: vec![mount], ..exited(1) }, "", "mount-web"),
            (Container { oom_killed: true, ..exited(137) }, "", "memory-web"),
            (exited(1), "nginx: [emerg] unknown directive", "configuration-web"),
            (exited(1), "something", "ended-web"),
            (exited(0), "bye", "stopped-web"),
            (exited(137), "bye", "stopped-web"),
        ] {
            assert_eq!(name(&container, &[said]), wanted, "{container:?}");
        }
    }

    #[test]
    fn only_what_was_stopped_is_offered_to_be_started() {
        assert!(judge(&exited(0), &[], true).is_fixable);
        assert!(!judge(&exited(1), &[], true).is_fixable);
        assert!(!judge(&Container { oom_killed: true, ..exited(137) }, &[], true).is_fixable);
        assert_eq!(port_in("Bind for 0.0.0.0:443 failed: port is already allocated"), Some(443));
        assert_eq!(port_in("listen tcp4 127.0.0.1:8080: bind: address already in use"), Some(8080));
        assert_eq!(port_in("failed to bind host port 0.0.0.0:80/tcp: address already in use"), Some(80));
        assert_eq!(port_in("address already in use"), None);
    }
}
