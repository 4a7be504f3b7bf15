//! People: who says yes, and what they must never get to see.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chom_recovery::{
    ErrorKind,
    catalog::Selector,
    probe::{HealthMode, Status},
    procedure::{database::Extent, maintenance::MaintenanceState},
    recovery::RunOptions,
    run::RunId,
};
use chom_recovery_tests::chaos;

use crate::bench::{Bench, database, request};

#[tokio::test]
async fn a_run_waits_for_approval_and_no_secret_is_ever_seen() {
    let Some(bench) = Bench::open("a_run_waits_for_approval_and_no_secret_is_ever_seen").await else { return };
    let before = bench.fingerprint().await;
    bench.back_up().await;
    bench.sql().await.run("DROP TABLE chom.orders").await;
    let old = bench.recovery.backend().volume_identity(&bench.volume()).await.unwrap();
    let watch = Watch::begin(&bench.stack.project);

    let wanted = request(Selector::Latest, Extent::Recover);
    let mut going = bench.recovery.recover_database(wanted, RunOptions::default()).await.unwrap();
    let run = going.id();
    let mut approved = Vec::new();
    let report = loop {
        match database(going.finish().await) {
            Ok(report) => break report,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NeedsConfirmation, "{error:?}");
                let now = bench.recovery.backend().volume_identity(&bench.volume()).await.unwrap();
                assert_eq!(now, old, "production is as it was while the run waits");
                approved.push(bench.recovery.approve(run, None, "ann").unwrap());
            }
        }
        assert!(approved.len() < 10, "{approved:?}");
        going = bench.recovery.resume(run, RunOptions::default()).await.unwrap();
    };
    assert!(approved.last().is_some_and(|name| name.contains("replace-production-database")), "{approved:?}");
    assert!(report.restored.is_some());
    assert_eq!(bench.fingerprint().await, before);

    let seen = watch.end();
    let mut secrets = seen.passwords.clone();
    assert!(!secrets.is_empty(), "the candidate's password was never there to be looked for");
    for file in [&bench.stack.db_root_password_file, &bench.stack.db_app_password_file] {
        secrets.insert(fs::read_to_string(file).unwrap().trim_end().to_owned());
    }
    for secret in &secrets {
        for (place, text) in &seen.texts {
            assert!(!text.contains(secret), "a secret is in {place}");
        }
        assert_clean(&bench.run_directory(run), secret);
        assert!(!format!("{report:?}").contains(secret));
    }
    assert!(was_recorded(&bench, run));
}

#[tokio::test]
async fn a_restore_while_somebody_keeps_users_out_leaves_them_out() {
    let Some(bench) = Bench::open("a_restore_while_somebody_keeps_users_out_leaves_them_out").await else { return };
    let before = bench.fingerprint().await;
    bench.back_up().await;
    // By hand, as in the runbook: without `--retry` there is no `Retry-After`.
    chaos::compose(&bench.stack, &["exec", "-T", "--user", "www-data", "app", "php", "/srv/app/artisan", "down"]);
    bench.sql().await.run("DROP TABLE chom.orders").await;

    let report = bench.recover(Extent::Restore).await.unwrap();
    assert_eq!(bench.fingerprint().await, before);
    assert!(report.to_review.iter().any(|line| line.contains("maintenance off")), "{:?}", report.to_review);
    assert_eq!(bench.recovery.maintenance_state().await.unwrap(), MaintenanceState::On);

    let off = bench.recovery.maintenance_off().await.unwrap();
    assert_eq!(off.state, MaintenanceState::Off);
    let health = bench.recovery.health(HealthMode::PostRecovery).await;
    assert!(health.overall <= Status::Degraded, "{health:#?}");
}

/// Looks at what every user of the host can see, again and again.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Place and text.
    texts: BTreeSet<(String, String)>,
    /// One-time passwords of candidates.
    passwords: BTreeSet<String>,
}

impl Watch {
    fn begin(project: &str) -> Self {
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
        Self { stop, thread }
    }

    fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Seen {
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

fn assert_clean(folder: &Path, secret: &str) {
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

/// Tells whether the run left a journal and evidence: an empty directory would be clean as well.
fn was_recorded(bench: &Bench, run: RunId) -> bool {
    let directory = bench.run_directory(run);
    directory.join("journal.jsonl").is_file() && fs::read_dir(directory.join("evidence")).unwrap().count() > 0
}
