//! A host that is out of reach: a second Engine with a project of its own, reached by ssh, and cut off.

use std::{
    io::{Read, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::Instant,
};

use chom_recovery_tests::{
    Stack,
    cli::{code, lines},
    program::program,
    remote::{ALIAS, Machine},
};
use serde_json::Value;

use crate::{causes, is_wanted, record};

const PORT: &str = "8443";
const PROJECT: &str = "chom-far";
const NAMES: [&str; 3] = ["host-unreachable", "host-unreachable-from-everywhere", "network-between"];

#[test]
fn a_host_that_is_cut_off_is_told_from_a_network_that_is() {
    const TEST: &str = "a_host_that_is_cut_off_is_told_from_a_network_that_is";
    if !NAMES.iter().any(|name| is_wanted(name)) {
        return;
    }
    let Some(stack) = Stack::open(TEST) else { return };
    let Some(machine) = Machine::start(TEST) else { return };
    let far = Far::up(&stack, machine);
    far.draft();
    let monitor = Monitor::start();
    let by_ssh = format!("[[vantage]]\nname = \"office\"\nssh = \"{ALIAS}\"\n");
    let by_url =
        format!("[[vantage]]\nname = \"monitor\"\nurl = \"{}\"\ncontains = \"probe_success 1\"\n", monitor.url);

    // While it is there, it is well, and a place that is reached by ssh sees it.
    far.configure(&by_ssh);
    let before = far.diagnose();
    let seen = answer(&before, "vantage-office");
    assert_eq!(seen["status"], "healthy", "{before:#}");
    assert_eq!(before["diagnoses"][0]["procedure"], "none", "{before:#}");

    far.machine.cut_off();
    let cases = [
        (NAMES[0], &by_ssh, "", "host-unreachable", 65),
        (NAMES[1], &by_url, "probe_success 0", "host-unreachable", 92),
        (NAMES[2], &by_url, "probe_success 1", "network-between", 92),
    ];
    let mut wrong = Vec::new();
    for (name, vantage, says, wanted, confidence) in cases.into_iter().filter(|case| is_wanted(case.0)) {
        let begun = Instant::now();
        far.configure(vantage);
        monitor.say(says);
        let found = far.diagnose();
        let causes = causes(&found);
        let is_right = causes.first() == Some(&wanted);
        record(name, &[wanted], &causes, is_right, begun);
        if !is_right || found["diagnoses"][0]["confidence"] != confidence {
            wrong.push(format!("{name}: {found:#}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn answer<'a>(found: &'a Value, probe: &str) -> &'a Value {
    let answers = found["health"]["answers"].as_array().into_iter().flatten();
    answers.into_iter().find(|a| a["probe"] == probe).unwrap_or_else(|| panic!("no {probe}: {found:#}"))
}

/// A project on another machine.
struct Far {
    machine: Machine,
    folder: tempfile::TempDir,
}

impl Far {
    /// Carries the images over and starts a stack there, with its port open to this host.
    fn up(stack: &Stack, machine: Machine) -> Self {
        let images = ["chom/app:latest", "chom/nginx:latest", "chom/redis:latest", &stack.db_image];
        let mut save = Command::new("docker").arg("save").args(images).stdout(Stdio::piped()).spawn().unwrap();
        let load = Command::new("docker")
            .args(["-H", &machine.socket(), "load", "--quiet"])
            .stdin(save.stdout.take().unwrap())
            .output()
            .unwrap();
        assert!(save.wait().unwrap().success() && load.status.success(), "{load:?}");
        let up = Path::new(env!("CARGO_MANIFEST_DIR")).join("stack/up.sh");
        let up = machine
            .inside(up.to_str().unwrap())
            .args(["--no-build", "--seed", "50"])
            .env("DOCKER_HOST", machine.socket())
            .env("DB", &stack.db)
            .env("PROJECT", PROJECT)
            .env("HTTPS_PORT", PORT)
            .env("SITE_DIR", machine.path("site"))
            .output()
            .unwrap();
        assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
        // Open to this host, as a server is to its users.
        let site = machine.path("site");
        let text = std::fs::read_to_string(site.join(".env")).unwrap();
        std::fs::write(site.join(".env"), format!("{text}HTTPS_BIND=0.0.0.0\n")).unwrap();
        let opened = machine
            .inside("docker")
            .args(["compose", "-f", site.join("compose.yaml").to_str().unwrap(), "up", "-d", "--wait", "nginx"])
            .env("DOCKER_HOST", machine.socket())
            .env("HTTPS_PORT", PORT)
            .output()
            .unwrap();
        assert!(opened.status.success(), "{opened:?}");
        let far = Self { machine, folder: tempfile::tempdir().unwrap() };
        // An operator's own ssh configuration knows the machine: this one stands for it.
        let ssh = far.folder.path().join("ssh");
        let text = format!("#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n", far.machine.path("ssh_config").display());
        std::fs::write(&ssh, text).unwrap();
        std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).unwrap();
        far
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let path = format!("{}:{}", self.folder.path().display(), std::env::var("PATH").unwrap());
        Command::new(program())
            .current_dir(self.folder.path())
            .args(arguments)
            .env("PATH", path)
            .env_remove("CHOM_CONFIG")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn draft(&self) {
        let (dir, site) = (self.folder.path().display(), self.machine.path("site"));
        let drafted = self.run(&[
            "config",
            "init",
            "--host",
            &format!("ssh://{ALIAS}"),
            "--project",
            PROJECT,
            "--state-dir",
            &format!("{dir}/state"),
            "--repository",
            &format!("file:{dir}/repository"),
            "--url",
            &format!("https://chom.test:{PORT}/health"),
            "--ca-file",
            site.join("ca/ca.crt").to_str().unwrap(),
            "--connect-to",
            &format!("{}:{PORT}", self.machine.address()),
            "--database-password-file",
            site.join("secrets/db_root_password").to_str().unwrap(),
        ]);
        assert_eq!(code(&drafted), 0, "{drafted:?}");
        let made = self.run(&["repo", "init", "--encryption", "none", "--pin"]);
        assert_eq!(code(&made), 0, "{made:?}");
        let file = self.folder.path().join("chom-recovery.toml");
        std::fs::copy(&file, self.folder.path().join("drafted.toml")).unwrap();
    }

    /// Adds to the drafted configuration.
    fn configure(&self, more: &str) {
        let drafted = std::fs::read_to_string(self.folder.path().join("drafted.toml")).unwrap();
        std::fs::write(self.folder.path().join("chom-recovery.toml"), format!("{drafted}\n{more}")).unwrap();
    }

    fn diagnose(&self) -> Value {
        let output = self.run(&["--json", "diagnose"]);
        let documents = lines(&output);
        assert_eq!(documents.len(), 1, "{output:?}");
        documents[0].clone()
    }
}

/// Somebody else's monitor, which says what it sees.
struct Monitor {
    url: String,
    says: Arc<Mutex<String>>,
}

impl Monitor {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/probe", listener.local_addr().unwrap());
        let says = Arc::new(Mutex::new(String::new()));
        let said = says.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 4096]);
                let text = said.lock().unwrap().clone();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", text.len());
                let _ = stream.write_all(format!("{head}{text}").as_bytes());
            }
        });
        Self { url, says }
    }

    fn say(&self, text: &str) {
        text.clone_into(&mut self.says.lock().unwrap());
    }
}
