//! The program, as an operator runs it.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Once,
    time::{Duration, Instant},
};

use serde_json::Value;

/// The program that `tests/run.sh` compiled; without it, builds it once.
///
/// # Panics
/// It does not compile.
pub fn program() -> PathBuf {
    static BUILD: Once = Once::new();
    if let Some(program) = std::env::var_os("CHOM_TEST_PROGRAM") {
        return program.into();
    }
    BUILD.call_once(|| {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--workspace", "--bin", "chom-recovery", "--manifest-path"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"))
            .status()
            .expect("cargo runs");
        assert!(built.success(), "the program does not compile");
    });
    let test = std::env::current_exe().expect("a test's program");
    test.ancestors().nth(2).expect("the build folder").join("chom-recovery")
}

/// A run of the program whose output is read while it runs; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    /// Starts it in a folder with a configuration, with everything logged that can be.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(folder: &Path, name: &str, arguments: &[&str]) -> Self {
        let (out, err) = (folder.join(format!("{name}.out")), folder.join(format!("{name}.err")));
        let child = Command::new(program())
            .current_dir(folder)
            .args(["--json", "-vvv"])
            .args(arguments)
            .env_remove("CHOM_CONFIG")
            .env("RUST_LOG", "trace")
            .env("USER", "ada")
            .stdin(Stdio::null())
            .stdout(File::create(&out).expect("a file"))
            .stderr(File::create(&err).expect("a file"))
            .spawn()
            .expect("the program starts");
        Self { child, out, err }
    }

    /// Sends it a signal, by name.
    ///
    /// # Panics
    /// It is gone.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().expect("kill runs");
        assert!(sent.success(), "the program is gone: {}", self.said());
    }

    /// Waits until a document satisfies `wanted`.
    ///
    /// # Panics
    /// It ends, or five minutes pass, before.
    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) {
        self.poll(what, |this| this.documents().iter().any(&wanted));
    }

    /// Waits until standard error holds a text.
    ///
    /// # Panics
    /// It ends, or five minutes pass, before.
    pub fn wait_for_text(&mut self, text: &str) {
        self.poll(text, |this| this.talk().contains(text));
    }

    fn poll(&mut self, what: &str, is_there: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_mins(5);
        while !is_there(self) {
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none() || is_there(self), "it ended before {what}: {}", self.said());
            assert!(Instant::now() < deadline, "no {what}: {}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It does not end within ten minutes.
    pub fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_mins(10);
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Reads the documents on standard output so far.
    pub fn documents(&self) -> Vec<Value> {
        // The last line may be half written.
        read(&self.out).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Reads standard error so far.
    pub fn talk(&self) -> String {
        read(&self.err)
    }

    /// Everything that was printed.
    pub fn said(&self) -> String {
        format!("{}\n{}", read(&self.out), read(&self.err))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
