//! The stack that is broken and mended, and what faults have in common.

use std::{
    panic::AssertUnwindSafe,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use chom_recovery_tests::{
    Stack, chaos,
    cli::{Bench, code},
};
use serde_json::Value;

/// Key of the queue.
pub(crate) const QUEUE: &str = "chom_database_queues:default";
/// How long anything may take to become effective, or well again.
const PATIENCE: Duration = Duration::from_mins(2);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// A fault: how it is made, how it shows, and how exactly it is taken back.
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) needs_root: bool,
    pub(crate) make: fn(&Site),
    pub(crate) is_effective: fn(&Site) -> bool,
    pub(crate) mend: fn(&Site),
}

pub(crate) const EVERYTHING_DOWN: Fault = Fault {
    name: "everything-down",
    needs_root: false,
    make: |site| site.compose(&["stop"]),
    is_effective: |site| site.http() == Seen::Nothing,
    mend: |site| chaos::up(site.stack(), &[]),
};

/// What a user sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Status(u16),
    /// The certificate was refused.
    BadCertificate,
    /// No connection, or no answer in time.
    Nothing,
}

/// A stack with a configuration that the program drafted from it.
pub(crate) struct Site {
    bench: Bench,
    /// Sessions that a fault holds open.
    sessions: Mutex<Vec<Child>>,
    pub(crate) is_root: bool,
}

impl Site {
    pub(crate) fn new(bench: Bench) -> Self {
        let id = Command::new("id").arg("-u").output().expect("id runs");
        Self { bench, sessions: Mutex::default(), is_root: id.stdout == b"0\n" }
    }

    pub(crate) fn stack(&self) -> &Stack {
        self.bench.stack()
    }

    /// A file of the test's own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.bench.folder().join(name)
    }

    pub(crate) fn compose(&self, arguments: &[&str]) {
        chaos::compose(self.stack(), arguments);
    }

    /// Name of the container of a service.
    pub(crate) fn container(&self, service: &str) -> String {
        format!("{}-{service}-1", self.stack().project)
    }

    /// Full name of a volume.
    pub(crate) fn volume(&self, name: &str) -> String {
        format!("{}_{name}", self.stack().project)
    }

    /// Takes the backup that triage compares with.
    pub(crate) fn back_up(&self) {
        let created = self.bench.run(&["--json", "backup", "create", "--component", "database"]);
        assert_eq!(code(&created), 0, "{created:?}");
    }

    /// Makes the faults, asks for a diagnosis, and mends what was made, whatever happened.
    pub(crate) fn attempt(&self, faults: &[&Fault]) -> Value {
        let mut made = 0;
        let found = std::panic::catch_unwind(AssertUnwindSafe(|| {
            for fault in faults {
                made += 1;
                (fault.make)(self);
                until(fault.name, || (fault.is_effective)(self));
            }
            self.bench.query(&["--json", "diagnose"]).1
        }));
        for fault in faults[..made].iter().rev() {
            (fault.mend)(self);
        }
        found.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Waits until users are served and every cheap probe is content.
    pub(crate) fn until_well(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let served = self.http() == Seen::Status(200);
            let health = served.then(|| self.bench.query(&["--json", "health", "--mode", "monitoring"]));
            // Of backups there may be none yet; the others have to be as they should, or still settling.
            let is_bad = |answer: &Value| {
                !matches!(answer["status"].as_str(), Some("healthy" | "degraded")) && answer["probe"] != "backup"
            };
            let bad: Vec<Value> = match &health {
                Some((_, report)) => {
                    report["answers"].as_array().into_iter().flatten().filter(|a| is_bad(a)).cloned().collect()
                }
                None => vec![Value::Null],
            };
            // What settles would look like a fault of the next scenario.
            let queued = bad.is_empty().then(|| chaos::redis(self.stack(), &["LLEN", QUEUE]));
            if queued.as_deref() == Some("0") {
                return;
            }
            assert!(Instant::now() < deadline, "not well again: {bad:#?}, {queued:?} jobs queued");
            std::thread::sleep(PAUSE);
        }
    }

    /// Asks as a user does, briefly.
    pub(crate) fn http(&self) -> Seen {
        let output = self.curl(&["--output", "/dev/null", "--write-out", "%{http_code}"], "/health");
        match (output.status.code(), String::from_utf8_lossy(&output.stdout).parse()) {
            (Some(60), _) => Seen::BadCertificate,
            (Some(0), Ok(status)) => Seen::Status(status),
            _ => Seen::Nothing,
        }
    }

    pub(crate) fn curl(&self, arguments: &[&str], path: &str) -> Output {
        let stack = self.stack();
        Command::new("curl")
            .args(["--silent", "--max-time", "5", "--cacert", stack.ca.to_str().unwrap()])
            .args(["--resolve", &format!("{}:{}:127.0.0.1", stack.host, stack.port)])
            .args(arguments)
            .arg(format!("{}{path}", stack.url))
            .output()
            .expect("curl runs")
    }

    /// Runs SQL as root in the container of the database; what it printed.
    pub(crate) fn sql(&self, sql: &str) -> String {
        let output = chaos::compose(self.stack(), &["exec", "-T", "mysql", "sh", "-c", &client(sql)]);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Begins SQL that takes long, in a session of its own.
    pub(crate) fn begin_sql(&self, sql: &str) {
        let child = Command::new("docker")
            .args(["exec", &self.container("mysql"), "sh", "-c", &client(sql)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker runs");
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    }

    /// Tells whether SQL succeeds in so many seconds.
    pub(crate) fn sql_succeeds_within(&self, seconds: u32, sql: &str) -> bool {
        let script = format!("timeout {seconds} sh -c '{}'", client(sql).replace('\'', "'\\''"));
        chaos::try_compose(self.stack(), &["exec", "-T", "mysql", "sh", "-c", &script]).status.success()
    }

    /// Ends the sessions whose statement holds this text, and waits for all that were begun.
    pub(crate) fn end_sql(&self, text: &str) {
        self.kill_sql(text);
        for mut child in self.sessions.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            child.wait().expect("a child");
        }
    }

    /// Ends the sessions whose statement holds this text, the last first.
    pub(crate) fn kill_sql(&self, text: &str) {
        let list = format!(
            "SELECT ID FROM information_schema.PROCESSLIST WHERE INFO LIKE '%{text}%' AND ID <> CONNECTION_ID() \
             ORDER BY ID DESC"
        );
        for id in self.sql(&list).lines() {
            // One that has just ended is no matter.
            let kill = client(&format!("KILL {id}"));
            let _ = chaos::try_compose(self.stack(), &["exec", "-T", "mysql", "sh", "-c", &kill]);
        }
    }

    /// Sends a signal to the processes of a service that have this name, but never to its first one.
    pub(crate) fn signal(&self, service: &str, name: &str, signal: &str) {
        let script = format!(
            "for p in /proc/[0-9]*; do id=${{p#/proc/}}; [ $id -gt 1 ] || continue; \
             case \"$(cat $p/comm 2>/dev/null)\" in {name}*) kill -s {signal} $id;; esac; done"
        );
        chaos::shell(self.stack(), service, &script);
    }

    /// Keeps the content of a volume of a stopped service.
    pub(crate) fn keep(&self, volume: &str) {
        self.copy(volume, &kept(volume));
    }

    /// Puts back what was kept, exactly.
    pub(crate) fn put_back(&self, volume: &str) {
        self.copy(&kept(volume), volume);
        chaos::docker(&["volume", "rm", &self.volume(&kept(volume))]);
    }

    fn copy(&self, from: &str, to: &str) {
        let (from, to) = (format!("{}:/from:ro", self.volume(from)), format!("{}:/to", self.volume(to)));
        let script = "find /to -mindepth 1 -delete; cp -a /from/. /to/";
        chaos::with_mounts(self.stack(), &[&from, &to], script);
    }

    /// Edits a file in place and keeps what it was.
    pub(crate) fn edit(&self, file: &std::path::Path, from: &str, to: &str) {
        let text = std::fs::read_to_string(file).expect("a readable file");
        assert!(text.contains(from), "{}: {from}", file.display());
        std::fs::write(self.kept_file(file), &text).expect("a file");
        std::fs::write(file, text.replacen(from, to, 1)).expect("a file");
    }

    /// Takes an edit back.
    pub(crate) fn unedit(&self, file: &std::path::Path) {
        let kept = self.kept_file(file);
        std::fs::write(file, std::fs::read(&kept).expect("what was kept")).expect("a file");
        std::fs::remove_file(kept).expect("what was kept");
    }

    fn kept_file(&self, file: &std::path::Path) -> PathBuf {
        self.path(&format!("kept-{}", file.file_name().unwrap().to_string_lossy()))
    }
}

/// Waits for a condition.
pub(crate) fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        std::thread::sleep(PAUSE);
    }
}

fn kept(volume: &str) -> String {
    format!("{volume}_kept")
}

/// A call of the client of either flavour, with the password in its environment alone.
fn client(sql: &str) -> String {
    format!(
        "export MYSQL_PWD=\"$(cat /run/secrets/db_root_password)\"; \
         exec $(command -v mariadb || command -v mysql) --protocol=tcp --host=127.0.0.1 --user=root --batch \
         --skip-column-names -e \"{sql}\""
    )
}
