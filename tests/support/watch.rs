//! What every user of the host can see while a recovery runs: argument lists and `docker inspect`.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Looks at what every user of the host can see, again and again.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Seen>,
    events: Child,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Place and text.
    pub texts: BTreeSet<(String, String)>,
    /// One-time passwords of candidates.
    pub passwords: BTreeSet<String>,
    /// Commands that were run in containers of the project, health checks included: container and arguments.
    pub execs: Vec<String>,
}

impl Watch {
    /// Begins to look at all processes, and at the containers of a project.
    ///
    /// # Panics
    /// There is no Docker CLI.
    pub fn begin(project: &str) -> Self {
        let label = format!("label=com.docker.compose.project={project}");
        let filters = ["--filter", "type=container", "--filter", "event=exec_create", "--filter", &label];
        let events = Command::new("docker")
            .args(["events", "--format", "{{.Actor.Attributes.name}} {{.Action}}"])
            .args(filters)
            .stdout(Stdio::piped())
            .spawn()
            .expect("docker runs");
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, project) = (stop.clone(), project.to_owned());
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            while !stopped.load(Ordering::Relaxed) {
                seen.look(&project);
                std::thread::sleep(Duration::from_millis(300));
            }
            seen
        });
        Self { stop, thread, events }
    }

    /// Stops looking.
    ///
    /// # Panics
    /// Looking failed.
    pub fn end(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut seen = self.thread.join().unwrap();
        self.events.kill().expect("a child");
        let told = self.events.wait_with_output().expect("a child").stdout;
        seen.execs = String::from_utf8_lossy(&told).lines().map(str::to_owned).collect();
        seen
    }
}

impl Seen {
    /// Makes sure that none of these secrets was seen.
    ///
    /// # Panics
    /// One was; the place is named.
    pub fn assert_clean(&self, secrets: &[String]) {
        for (place, text) in &self.texts {
            assert!(!secrets.iter().any(|secret| text.contains(secret)), "a secret is in {place}");
        }
    }

    fn look(&mut self, project: &str) {
        for entry in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
            // A process may end while it is looked at.
            if let Ok(line) = fs::read(entry.path().join("cmdline")) {
                self.texts.insert(("an argument list".into(), String::from_utf8_lossy(&line).into_owned()));
            }
        }
        let mine = format!("name={project}-");
        for name in output(&["ps", "-a", "--filter", &mine, "--format", "{{.Names}}"]).lines() {
            self.texts.insert((format!("`docker inspect {name}`"), output(&["inspect", name])));
            if name.contains("-candidate-") {
                let password = output(&["exec", name, "cat", "/run/chom-recovery-password"]);
                self.passwords.extend(Some(password.trim_end().to_owned()).filter(|p| p.len() > 8));
            }
        }
    }
}

/// Containers come and go: what cannot be asked is empty.
fn output(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    if output.status.success() { String::from_utf8_lossy(&output.stdout).into_owned() } else { String::new() }
}

/// Makes sure that no file of a folder holds a secret.
///
/// # Panics
/// One does; it is named.
pub fn assert_clean(folder: &Path, secret: &str) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_clean(&path, secret);
        } else {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            assert!(!text.contains(secret), "a secret is in {}", path.display());
        }
    }
}
