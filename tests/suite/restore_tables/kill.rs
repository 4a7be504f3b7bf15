//! The process is killed with SIGKILL at every place where a restore has done something, and another goes on or undoes it.

use std::{
    env, fs,
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use chom_recovery::{
    Recovery, System,
    run::{RunId, failpoint},
};

use crate::bench::{Bench, DAMAGE, LOCAL_INFILE, recovered, request, yes};

const SYSTEM: &str = "CHOM_TEST_KILL_SYSTEM";
const AT: &str = "CHOM_TEST_KILL_AT";

/// Places within the steps.
const PLACES: &[&str] =
    &["before tables are renamed", "after tables are renamed", "after triggers are made", "after keys are tied"];

#[tokio::test]
async fn a_restore_that_is_killed_in_the_exchange_is_resumed_or_undone() {
    const TEST: &str = "kill::a_restore_that_is_killed_in_the_exchange_is_resumed_or_undone";
    if env::var_os(SYSTEM).is_some() {
        return child().await;
    }
    let Some(bench) = Bench::open("a_restore_that_is_killed_in_the_exchange_is_resumed_or_undone").await else {
        return;
    };
    let sound = bench.state().await;
    bench.back_up().await;
    bench.run(DAMAGE).await;
    let damaged = bench.state().await;
    let same = |of: Vec<String>| of.into_iter().filter(|line| !line.starts_with("loan:")).collect::<Vec<_>>();
    for place in PLACES {
        let run = die(&bench, TEST, place);
        bench.roll_back(run).await;
        assert_eq!(bench.state().await, damaged, "rolled back after a death {place}");

        let run = die(&bench, TEST, place);
        let resumed = bench.recovery.resume(run, yes()).await.unwrap();
        recovered(resumed.finish().await);
        assert_eq!(same(bench.state().await), same(sound.clone()), "resumed after a death {place}");
        bench.roll_back(run).await;
        assert_eq!(bench.state().await, damaged, "undone after a death {place}");
        // A second call finds it undone.
        println!("killed {place}: resumed and undone");
    }
    bench.clear().await;
}

/// The server takes rows from clients only while they are loaded, also where nobody lives to switch that off.
#[tokio::test]
async fn local_infile_is_off_again_after_a_death_while_it_was_on() {
    const TEST: &str = "kill::local_infile_is_off_again_after_a_death_while_it_was_on";
    if env::var_os(SYSTEM).is_some() {
        return child().await;
    }
    let Some(bench) = Bench::open("local_infile_is_off_again_after_a_death_while_it_was_on").await else { return };
    let usual = bench.text(LOCAL_INFILE).await;
    bench.run(&["SET GLOBAL local_infile = OFF"]).await;
    bench.back_up().await;
    let sound = bench.state().await;
    for place in ["after local_infile is on", "before tables are renamed"] {
        let is_on = if place == "after local_infile is on" { "1" } else { "0" };
        let run = die(&bench, TEST, place);
        assert_eq!(bench.text(LOCAL_INFILE).await, is_on, "as the dead process left it {place}");
        bench.roll_back(run).await;
        assert_eq!(bench.text(LOCAL_INFILE).await, "0", "rolled back after a death {place}");
        assert!(bench.own_schemas().await.iter().all(|s| s.starts_with("chom_undone_")), "nothing else is left");

        let run = die(&bench, TEST, place);
        recovered(bench.recovery.resume(run, yes()).await.unwrap().finish().await);
        assert_eq!(bench.text(LOCAL_INFILE).await, "0", "resumed after a death {place}");
        bench.roll_back(run).await;
        assert_eq!(bench.state().await, sound);
        assert_eq!(bench.text(LOCAL_INFILE).await, "0", "undone after a death {place}");
    }
    bench.run(&[&format!("SET GLOBAL local_infile = {usual}")]).await;
    bench.clear().await;
}

/// Runs a child until it dies at a place; the run that it leaves.
fn die(bench: &Bench, test: &str, place: &str) -> RunId {
    let system = bench.folder.path().join("system.json");
    fs::write(&system, serde_json::to_string(&bench.system).unwrap()).unwrap();
    let output = Command::new(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .stdin(Stdio::null())
        .env(SYSTEM, &system)
        .env(AT, place)
        .output()
        .unwrap();
    assert_eq!(
        output.status.signal(),
        Some(9),
        "the child did not die {place}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let (runs, _) = bench.recovery.runs().unwrap();
    runs.iter().rfind(|run| run.procedure == chom_recovery::procedure::tables::PROCEDURE).expect("a run").run
}

async fn child() {
    let text = fs::read_to_string(env::var(SYSTEM).unwrap()).unwrap();
    let recovery = Recovery::open(System::from_json(&text).unwrap()).await.unwrap();
    let at = env::var(AT).unwrap();
    let died = AtomicBool::new(false);
    failpoint::install(move |here| {
        if here == at && !died.swap(true, Ordering::SeqCst) {
            let _ = Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
            // The signal may arrive at another thread first; this one goes no further.
            loop {
                std::thread::park();
            }
        }
    });
    let going = recovery.recover(
        chom_recovery::procedure::tables::RestoreTables,
        request(&["author", "book", "yearly"]),
        yes(),
    );
    panic!("the run ended before its death: {:?}", going.await.unwrap().finish().await);
}
