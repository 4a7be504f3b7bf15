//! The process is killed with SIGKILL in every step that has an effect, and another takes the run up.

use std::{
    env, fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
};

use chom_recovery::{
    Recovery, System,
    catalog::Selector,
    procedure::database::{Extent, PROCEDURE},
    recovery::RunOptions,
    run::{Event, RunId, failpoint},
};
use chom_recovery_tests::chaos;
use futures::StreamExt;

use crate::bench::{Bench, database, request, yes};

/// Configuration of a child that is going to be killed.
const SYSTEM: &str = "CHOM_TEST_KILL_SYSTEM";
/// Run that the child takes up; a new one where it is not set.
const RUN: &str = "CHOM_TEST_KILL_RUN";
/// Where the child dies: `place step`.
const AT: &str = "CHOM_TEST_KILL_AT";

/// Where in a step the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum In {
    /// The intent is recorded, nothing was done.
    Intent,
    /// In the middle of its work.
    Work,
    /// Everything was done, and nobody knows of it.
    End,
}

/// Every step with an effect, in the order in which they come.
const DEATHS: [(In, &str); 19] = [
    (In::End, "gather-evidence"),
    (In::End, "maintenance-on"),
    (In::End, "start-as-found"),
    (In::Work, "restore-beside"),
    (In::End, "verify-candidate"),
    (In::End, "stop-writers"),
    (In::End, "retire-candidate"),
    (In::End, "stop-database"),
    (In::Intent, "swap-volumes"),
    (In::End, "swap-volumes"),
    (In::End, "start-database"),
    (In::End, "raise-counters"),
    (In::End, "hold-jobs"),
    (In::End, "start-application"),
    (In::End, "maintenance-off"),
    (In::End, "start-workers"),
    (In::End, "put-restart-policies-back"),
    (In::Work, "back-up-again"),
    (In::End, "back-up-again"),
];

#[tokio::test]
async fn a_run_that_is_killed_in_each_of_its_steps_still_ends_well() {
    const TEST: &str = "kill::a_run_that_is_killed_in_each_of_its_steps_still_ends_well";
    if env::var_os(SYSTEM).is_some() {
        return child().await;
    }
    let Some(bench) = Bench::open("a_run_that_is_killed_in_each_of_its_steps_still_ends_well").await else { return };
    let before = bench.fingerprint().await;
    let backup = bench.back_up().await;
    let policies = policies(&bench).await;
    chaos::delete_tablespaces(&bench.stack);
    chaos::kill(&bench.stack, "mysql");
    let old = bench.recovery.backend().volume_identity(&bench.volume()).await.unwrap();

    let mut run = None;
    for (place, step) in DEATHS {
        die(&bench, TEST, run, place, step);
        run = Some(newest_run(&bench));
        assert!(has_inode(&bench, old.inode).await, "the old data is gone after a death in {step}");
    }
    let report = bench.resume(run.expect("a run")).await.unwrap();

    let restored = report.restored.expect("data was replaced");
    assert_eq!(restored.backup.id(), Some(backup.id()));
    let kept = bench.recovery.backend().volume_identity(&restored.kept.volume).await.unwrap();
    assert_eq!(kept.inode, old.inode, "the kept volume holds what production had");
    assert_eq!(bench.fingerprint().await, before);
    assert!(report.new_backup.is_some());
    assert_eq!(self::policies(&bench).await, policies);
    assert_eq!(bench.recovery.maintenance_state().await.unwrap().to_string(), "off");
    // F1: the dump that was killed left files and no backup; a day later they are gone as well.
    let listing = bench.recovery.backups().await.unwrap();
    assert!(listing.damaged.is_empty() && listing.backups.iter().all(|b| b.level.is_some()), "{listing:?}");
    let manifest = bench.folder.path().join("backups").join(backup.place.manifest().to_string());
    let backups = manifest.ancestors().nth(2).unwrap();
    assert_ne!(unfinished(backups), 0, "the dump was not killed in its middle");
    let touch = ["-type", "f", "-exec", "touch", "-d", "25 hours ago", "{}", "+"];
    assert!(Command::new("find").arg(backups).args(touch).status().unwrap().success());
    bench.back_up().await;
    assert_eq!(unfinished(backups), 0);
    assert_eq!(bench.recovery.backups().await.unwrap().backups.len(), listing.backups.len() + 1);
    let runs = bench.recovery.runs().unwrap().0;
    assert_eq!(runs.iter().filter(|r| r.procedure == PROCEDURE).count(), 1, "one run from the first kill to the end");
}

#[tokio::test]
async fn a_run_that_was_killed_in_the_swap_is_rolled_back_to_the_old_data() {
    const TEST: &str = "kill::a_run_that_was_killed_in_the_swap_is_rolled_back_to_the_old_data";
    if env::var_os(SYSTEM).is_some() {
        return child().await;
    }
    let Some(bench) = Bench::open("a_run_that_was_killed_in_the_swap_is_rolled_back_to_the_old_data").await else {
        return;
    };
    bench.back_up().await;
    let policies = policies(&bench).await;
    let mut sql = bench.sql().await;
    sql.run("DROP TABLE chom.uploads").await;
    sql.run("CREATE TABLE chom.newer (id INT PRIMARY KEY)").await;
    drop(sql);
    let old = bench.recovery.backend().volume_identity(&bench.volume()).await.unwrap();

    die(&bench, TEST, None, In::End, "swap-volumes");
    let run = newest_run(&bench);
    bench.recovery.roll_back(run, "not wanted any more", RunOptions::default()).await.unwrap();

    assert_eq!(bench.recovery.backend().volume_identity(&bench.volume()).await.unwrap(), old);
    assert_eq!(bench.sql().await.text("SELECT CAST(COUNT(*) AS CHAR) FROM chom.newer").await, "0");
    assert_eq!(self::policies(&bench).await, policies);
    assert_eq!(bench.recovery.maintenance_state().await.unwrap().to_string(), "off");
    bench.recover(Extent::Recover).await.unwrap();
}

/// Runs a child until it dies at a place.
fn die(bench: &Bench, test: &str, run: Option<RunId>, place: In, step: &str) {
    let begun = std::time::Instant::now();
    let system = bench.folder.path().join("system.json");
    fs::write(&system, serde_json::to_string(&bench.system).unwrap()).unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).stdin(Stdio::null());
    command.env(SYSTEM, &system).env(AT, format!("{place:?} database/{step}")).env_remove(RUN);
    if let Some(run) = run {
        command.env(RUN, run.to_string());
    }
    let output = command.output().unwrap();
    assert_eq!(
        output.status.signal(),
        Some(9),
        "the child did not die in {step}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    println!("killed in {step} ({place:?}) after {:.1} s", begun.elapsed().as_secs_f64());
}

/// Goes on with the run until its death.
async fn child() {
    let text = fs::read_to_string(env::var(SYSTEM).unwrap()).unwrap();
    let system = System::from_json(&text).unwrap();
    let at = env::var(AT).unwrap();
    let (place, step) = at.split_once(' ').unwrap();
    let recovery = Recovery::open(system).await.unwrap();
    let runs = recovery.system().state_dir().join("runs");
    let (wanted, hook) = (step.to_owned(), if place == "Intent" { "after step_intent" } else { "body ended" });
    if place != "Work" {
        failpoint::install(move |here| {
            if here == hook && newest_intent(&runs) == Some(wanted.clone()) {
                kill();
            }
        });
    }
    let mut going = match env::var(RUN) {
        Ok(run) => recovery.resume(run.parse().unwrap(), yes()).await.unwrap(),
        Err(_) => recovery.recover_database(request(Selector::Latest, Extent::Recover), yes()).await.unwrap(),
    };
    let mut events = going.events().unwrap();
    while let Some(event) = events.next().await {
        if let Event::Progress { step: moving, done, .. } = event
            && place == "Work"
            && moving == step
            && done > 0
        {
            kill();
        }
    }
    panic!("the run ended before its death: {:?}", database(going.finish().await));
}

fn kill() -> ! {
    let _ = Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
    // The signal may arrive at another thread first; this one goes no further.
    loop {
        std::thread::park();
    }
}

/// Names the step whose intent was recorded last.
fn newest_intent(runs: &Path) -> Option<String> {
    let newest = fs::read_dir(runs).ok()?.filter_map(|entry| Some(entry.ok()?.path())).max()?;
    let journal = fs::read_to_string(newest.join("journal.jsonl")).ok()?;
    let records = journal.lines().rev().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut intents = records.filter(|record| record["type"] == "step_intent");
    intents.next()?["step"].as_str().map(str::to_owned)
}

fn newest_run(bench: &Bench) -> RunId {
    let (runs, unreadable) = bench.recovery.runs().unwrap();
    assert!(unreadable.is_empty(), "{unreadable:?}");
    runs.iter().rfind(|run| run.procedure == PROCEDURE).expect("a recovery").run
}

async fn has_inode(bench: &Bench, inode: u64) -> bool {
    let backend = bench.recovery.backend();
    for volume in backend.volumes().await.unwrap() {
        if volume.name.starts_with(&bench.volume())
            && backend.volume_identity(&volume.name).await.unwrap().inode == inode
        {
            return true;
        }
    }
    false
}

/// Counts the files of backups that have no manifest.
fn unfinished(backups: &Path) -> usize {
    let folders = fs::read_dir(backups).unwrap().map(|entry| entry.unwrap().path());
    folders.filter(|folder| !folder.join("manifest").exists()).map(|folder| files(&folder)).sum()
}

fn files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

async fn policies(bench: &Bench) -> Vec<String> {
    let containers = bench.recovery.backend().containers().await.unwrap();
    containers.iter().map(|c| format!("{} {:?}", c.name, c.restart_policy)).collect()
}
