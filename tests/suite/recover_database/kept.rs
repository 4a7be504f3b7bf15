//! The newest physical backup kept unpacked (`database.keep_warm`): restored by a rename, never unproven, replaced by the next.

use std::{
    env, fs,
    os::unix::{fs::FileExt, process::ExitStatusExt},
    path::PathBuf,
    process::{Command, Stdio},
};

use chom_recovery::{
    Recovery, System,
    catalog::{BackupInfo, Selector},
    probe::Status,
    procedure::{
        database::{
            DatabaseReport, Extent, PROCEDURE, WantedKind,
            ops::{BackUp, DatabaseKind, Filled},
        },
        drill,
    },
    recovery::{Report, RunOptions, WarmCopy},
    run::failpoint,
};
use chom_recovery_tests::chaos;

use crate::{
    bench::{Bench, database, request, yes},
    physical::try_back_up,
};

/// Configuration of a child that is going to be killed.
const SYSTEM: &str = "CHOM_TEST_KEPT_SYSTEM";
/// Where the child dies.
const AT: &str = "CHOM_TEST_KEPT_AT";

/// Names of the volumes with kept copies, and the folders of those that are whole.
async fn kept(bench: &Bench) -> Vec<(String, Option<PathBuf>)> {
    let prefix = format!("{}__warm_", bench.volume());
    let volumes = bench.recovery.backend().volumes().await.unwrap().into_iter().filter(|v| v.name.starts_with(&prefix));
    let whole = |folder: PathBuf| Some(folder.join("data")).filter(|folder| folder.exists());
    volumes.map(|v| (v.name, whole(v.mount_point.into()))).collect()
}

async fn restore(recovery: &Recovery, backup: &BackupInfo, extent: Extent) -> DatabaseReport {
    let going = recovery.recover_database(request(Selector::Id(backup.id().to_string()), extent), yes()).await.unwrap();
    database(going.finish().await).unwrap()
}

fn filled(report: DatabaseReport) -> Filled {
    let filled = report.restored.expect("data was replaced").filled.expect("files were put in place");
    println!("{filled:?}");
    filled
}

#[tokio::test]
async fn a_copy_that_is_kept_unpacked_is_moved_into_place_and_another_one_is_not() {
    let name = "a_copy_that_is_kept_unpacked_is_moved_into_place_and_another_one_is_not";
    let Some(bench) = Bench::open(name).await else { return };
    let before = bench.fingerprint().await;
    let warm = bench.reopen(|s| s.database.keep_warm = true).await;
    let first = try_back_up(&warm).await.unwrap();
    assert!(!first.warnings.iter().any(|w| w.contains("keep_warm")), "{:?}", first.warnings);
    let second = try_back_up(&warm).await.unwrap();
    let found = kept(&bench).await;
    let [(volume, Some(_))] = &found[..] else { panic!("{found:?}") };
    assert!(volume.ends_with(&second.id().to_string()), "{volume}: the one before gave way");
    let told = async || warm.backup_status().await.unwrap().warm;
    assert_eq!(told().await, Some(WarmCopy { backup: second.id(), is_kept: true }));
    // Finished runs leave it, too.
    let leftovers = warm.leftovers(std::time::Duration::ZERO).await.unwrap();
    assert!(leftovers.volumes.iter().all(|v| v.volume != *volume), "{leftovers:?}");
    assert!(leftovers.kept.iter().any(|k| k.what.contains(volume) && k.because.contains("keep_warm")), "{leftovers:?}");

    // A drill proves what the repository holds.
    let wanted = drill::Request { backup: Selector::Latest, kind: WantedKind::Auto };
    match warm.drill(wanted, RunOptions::default()).await.unwrap().finish().await.unwrap() {
        Report::Drill(done) => assert_eq!(done.backup.id(), second.id()),
        other => panic!("{other:?}"),
    }
    assert_eq!(kept(&bench).await.len(), 1);

    chaos::delete_tablespaces(&bench.stack);
    chaos::kill(&bench.stack, "mysql");
    let begun = std::time::Instant::now();
    let report = restore(&warm, &second, Extent::Recover).await;
    println!("recovered in {:.1} s", begun.elapsed().as_secs_f64());
    assert!(filled(report).from_kept_copy);
    assert_eq!(bench.fingerprint().await, before);
    assert!(kept(&bench).await.is_empty(), "it is production's data now");
    let status = warm.backup_status().await.unwrap();
    assert!(status.warm.is_some_and(|w| !w.is_kept) && status.status >= Status::Degraded, "{:?}", status.findings);

    // There is none any more, and the repository has it all.
    let unpacked = filled(restore(&warm, &second, Extent::Restore).await);
    assert!(!unpacked.from_kept_copy && unpacked.kept_copy_refused.is_none(), "{unpacked:?}");
    assert_eq!(bench.fingerprint().await, before);

    // One bit in a table that is not read at once, of a file that looks as before.
    let third = try_back_up(&warm).await.unwrap();
    let found = kept(&bench).await;
    let [(_, Some(folder))] = &found[..] else { panic!("{found:?}") };
    let file = fs::File::options().read(true).write(true).open(folder.join("chom/orders.ibd")).unwrap();
    let stat = file.metadata().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, stat.len() / 2).unwrap();
    file.write_all_at(&[byte[0] ^ 1], stat.len() / 2).unwrap();
    file.set_times(fs::FileTimes::new().set_modified(stat.modified().unwrap())).unwrap();
    drop(file);
    let report = restore(&warm, &third, Extent::Restore).await;
    assert!(report.to_review.iter().any(|line| line.contains("kept unpacked was not used")), "{:?}", report.to_review);
    let refused = filled(report);
    assert!(!refused.from_kept_copy && refused.kept_copy_refused.unwrap().contains("not what was stored"));
    assert_eq!(bench.fingerprint().await, before);

    // Who wants none any more has none after the next backup.
    bench.back_up().await;
    assert!(kept(&bench).await.is_empty());
}

#[tokio::test]
async fn a_death_while_a_copy_is_made_or_moved_costs_at_most_the_copy() {
    const TEST: &str = "kept::a_death_while_a_copy_is_made_or_moved_costs_at_most_the_copy";
    if env::var_os(SYSTEM).is_some() {
        return child().await;
    }
    let Some(bench) = Bench::open("a_death_while_a_copy_is_made_or_moved_costs_at_most_the_copy").await else { return };
    let before = bench.fingerprint().await;
    let warm = bench.reopen(|s| s.database.keep_warm = true).await;

    // While it is made: the backup is there, and what was unpacked is a leftover of which nobody makes use.
    die(&bench, TEST, "kept copy filled");
    let found = kept(&bench).await;
    assert!(matches!(found[..], [(_, None)]), "{found:?}");
    let backup = warm.backup(&Selector::Latest).await.unwrap();
    let unused = filled(restore(&warm, &backup, Extent::Restore).await);
    assert!(!unused.from_kept_copy && unused.kept_copy_refused.is_some(), "{unused:?}");
    warm.back_up(BackUp::default(), RunOptions::default()).await.unwrap().finish().await.unwrap();
    assert!(kept(&bench).await.is_empty(), "the next backup, of whatever kind, removes it");

    // Before it is moved, and right after.
    for (at, is_used) in [("kept copy proven", true), ("kept copy moved", false)] {
        try_back_up(&warm).await.unwrap();
        die(&bench, TEST, at);
        let open: Vec<_> =
            warm.runs().unwrap().0.into_iter().filter(|r| !r.is_over && r.procedure == PROCEDURE).collect();
        assert_eq!(open.len(), 1, "{open:?}");
        let report = database(warm.resume(open[0].run, yes()).await.unwrap().finish().await).unwrap();
        assert_eq!(filled(report).from_kept_copy, is_used, "{at}");
        assert_eq!(bench.fingerprint().await, before, "{at}");
    }
    bench.back_up().await;
    assert!(kept(&bench).await.is_empty());
}

/// Runs a child until it dies at a place.
fn die(bench: &Bench, test: &str, at: &str) {
    let mut system = bench.system.clone();
    system.database.keep_warm = true;
    let file = bench.folder.path().join("system.json");
    fs::write(&file, serde_json::to_string(&system).unwrap()).unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).stdin(Stdio::null());
    let output = command.env(SYSTEM, &file).env(AT, at).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.signal(), Some(9), "{at}: {told}{}", String::from_utf8_lossy(&output.stderr));
}

/// Backs up, or restores what is kept, until it dies.
async fn child() {
    let text = fs::read_to_string(env::var(SYSTEM).unwrap()).unwrap();
    let recovery = Recovery::open(System::from_json(&text).unwrap()).await.unwrap();
    let at = env::var(AT).unwrap();
    let is_backup = at == "kept copy filled";
    failpoint::install(move |here| {
        if here == at {
            let _ = Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
            // The signal may arrive at another thread first; this one goes no further.
            loop {
                std::thread::park();
            }
        }
    });
    if is_backup {
        let wanted = BackUp { kind: DatabaseKind::Physical, ..BackUp::default() };
        panic!("{:?}", recovery.back_up(wanted, RunOptions::default()).await.unwrap().finish().await);
    }
    let newest = recovery.backup(&Selector::Latest).await.unwrap();
    panic!("{:?}", restore(&recovery, &newest, Extent::Restore).await);
}
