//! A small Compose project on the real Engine, for tests of the backend alone.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use chom_recovery::{
    backend::{
        RUN_LABEL,
        docker::{DockerBackend, DockerOptions},
    },
    system::Compose,
};

use crate::{SWITCH, skip};

/// Image of the project: busybox and nothing else.
pub const IMAGE: &str = "chomt/busybox:1";

/// `store` is healthy when it answers on port 7000, in a network without a way out; `job` ends well; `web` waits for
/// both. No process of the image reacts to a signal unless it says so.
const COMPOSE: &str = r#"
services:
  store:
    image: chomt/busybox:1
    command: ["sh", "-c", "trap 'exit 0' TERM; httpd -p 7000 -h /; while :; do sleep 1 & wait $$!; done"]
    environment: {NOT_FOR_LOGS: "canary-in-compose-7381"}
    volumes: ["data:/data"]
    networks: [inside]
    restart: unless-stopped
    healthcheck: {test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:7000/bin/busybox"], interval: 1s, timeout: 2s, retries: 30}
  job:
    image: chomt/busybox:1
    command: ["true"]
    network_mode: none
  web:
    image: chomt/busybox:1
    command: ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait $$!; done"]
    volumes: ["data:/data:ro"]
    networks: [inside]
    restart: unless-stopped
    depends_on:
      store: {condition: service_healthy}
      job: {condition: service_completed_successfully}
networks:
  inside: {internal: true}
volumes:
  data: {}
"#;

/// A running project; removed with all that carries its name when dropped.
#[derive(Debug)]
pub struct EngineProject {
    /// Name of the project, and of the run that its test's containers belong to.
    pub name: String,
    /// Folder with the Compose file.
    pub folder: tempfile::TempDir,
    host: Option<String>,
}

impl EngineProject {
    /// Starts a project of its own. Without [`SWITCH`], prints that `test` is skipped and returns `None`.
    ///
    /// # Panics
    /// The Engine cannot be used.
    pub fn start(test: &str) -> Option<Self> {
        if std::env::var_os(SWITCH).is_none_or(|value| value.is_empty()) {
            skip(test, &format!("{SWITCH} is not set"));
            return None;
        }
        Some(Self::start_on(test, None))
    }

    /// Starts a project on another Engine, given in the form of `DOCKER_HOST`.
    ///
    /// # Panics
    /// The Engine cannot be used.
    pub fn start_on(test: &str, host: Option<String>) -> Self {
        static IMAGE_MADE: OnceLock<()> = OnceLock::new();
        IMAGE_MADE.get_or_init(make_image);
        if let Some(host) = &host {
            copy_image(host);
        }
        let name = format!("chomt-{test}-{}", std::process::id());
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("compose.yaml"), COMPOSE).expect("the Compose file");
        let project = Self { name, folder, host };
        project.docker(&["compose", "-p", &project.name, "-f", &project.file(), "up", "-d", "--wait", "store", "web"]);
        project
    }

    /// The Compose file.
    pub fn file(&self) -> String {
        self.folder.path().join("compose.yaml").display().to_string()
    }

    /// How the backend is told of it.
    pub fn compose(&self) -> Compose {
        Compose {
            project: self.name.clone(),
            files: vec![PathBuf::from(self.file())],
            host: self.host.clone(),
            ..Compose::default()
        }
    }

    /// Options for helpers that this project removes.
    pub fn options(&self) -> DockerOptions {
        DockerOptions { run: self.name.clone(), ..DockerOptions::default() }
    }

    /// Connects.
    ///
    /// # Panics
    /// The Engine does not answer.
    pub async fn backend(&self, options: DockerOptions) -> DockerBackend {
        DockerBackend::connect(&self.compose(), options).await.expect("the Engine answers")
    }

    /// Runs the Docker CLI and returns what it printed.
    ///
    /// # Panics
    /// It fails.
    pub fn docker(&self, arguments: &[&str]) -> String {
        docker(self.host.as_deref(), arguments)
    }

    /// Lists what is left of the run: containers, volumes and networks.
    pub fn left_over(&self) -> String {
        let filter = format!("label={RUN_LABEL}={}", self.name);
        ["container", "volume", "network"]
            .map(|kind| {
                let all: &[&str] = if kind == "container" { &["-a"] } else { &[] };
                self.docker(&[&[kind, "ls", "-q", "--filter", &filter], all].concat())
            })
            .concat()
    }
}

impl Drop for EngineProject {
    fn drop(&mut self) {
        let filter = format!("label={RUN_LABEL}={}", self.name);
        let quiet = |arguments: &[&str]| {
            let output = command(self.host.as_deref()).args(arguments).stderr(Stdio::null()).output();
            output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
        };
        for (list, remove) in [
            (vec!["container", "ls", "-aq"], vec!["container", "rm", "-fv"]),
            (vec!["volume", "ls", "-q"], vec!["volume", "rm"]),
            (vec!["network", "ls", "-q"], vec!["network", "rm"]),
        ] {
            let found = quiet(&[list, vec!["--filter", &filter]].concat());
            let ids: Vec<&str> = found.split_whitespace().collect();
            if !ids.is_empty() {
                quiet(&[remove, ids].concat());
            }
        }
        // By the labels alone: a test may have broken the file.
        quiet(&["compose", "-p", &self.name, "down", "-v", "--remove-orphans", "-t", "1"]);
        let volumes = quiet(&["volume", "ls", "-q", "--filter", &format!("name=^{}-", self.name)]);
        for volume in volumes.split_whitespace() {
            quiet(&["volume", "rm", volume]);
        }
    }
}

fn command(host: Option<&str>) -> Command {
    let mut command = Command::new("docker");
    // No folder from which a Compose file would be picked up by itself.
    command.stdin(Stdio::null()).current_dir("/");
    if let Some(host) = host {
        command.env("DOCKER_HOST", host);
    }
    command
}

/// Runs the Docker CLI against an Engine.
///
/// # Panics
/// It fails.
pub fn docker(host: Option<&str>, arguments: &[&str]) -> String {
    let output = command(host).args(arguments).output().expect("the Docker CLI runs");
    assert!(output.status.success(), "docker {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Takes [`IMAGE`] from the local Engine to another.
fn copy_image(host: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("image.tar").display().to_string();
    docker(None, &["save", "-o", &file, IMAGE]);
    docker(Some(host), &["load", "-q", "-i", &file]);
}

/// Makes [`IMAGE`] from Debian's static busybox, unless the local Engine has it.
fn make_image() {
    let there = command(None).args(["image", "inspect", IMAGE]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if there.expect("the Docker CLI runs").success() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let busybox = static_busybox(folder.path());
    let root = folder.path().join("root");
    for name in ["bin", "etc", "tmp", "dev", "proc", "sys"] {
        std::fs::create_dir_all(root.join(name)).expect("the image's folders");
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").expect("passwd");
    std::fs::copy(&busybox, root.join("bin/busybox")).expect("busybox");
    let list = Command::new(&busybox).arg("--list").output().expect("busybox runs");
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|applet| *applet != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("an applet");
    }
    let tar = folder.path().join("image.tar");
    let mut pack = Command::new("tar");
    pack.arg("-C").arg(&root).args(["--owner=0", "--group=0", "-cf"]).arg(&tar).arg(".");
    assert!(pack.status().expect("tar runs").success());
    docker(None, &["import", "-c", "ENV PATH=/bin", &tar.display().to_string(), IMAGE]);
}

fn static_busybox(folder: &Path) -> PathBuf {
    for path in ["/bin/busybox", "/usr/bin/busybox"] {
        let is_static = Command::new("ldd").arg(path).output().is_ok_and(|o| !o.status.success());
        if Path::new(path).exists() && is_static {
            return path.into();
        }
    }
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(folder).output().expect("a Debian machine");
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run("apt-get", &["download", "-q", "busybox-static"]);
    let package = std::fs::read_dir(folder)
        .expect("the folder")
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .expect("the package was downloaded");
    run("dpkg", &["-x", &package.display().to_string(), "unpacked"]);
    ["unpacked/bin/busybox", "unpacked/usr/bin/busybox"]
        .map(|path| folder.join(path))
        .into_iter()
        .find(|path| path.exists())
        .expect("the package holds busybox")
}
