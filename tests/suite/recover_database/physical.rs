//! Backups of data files: taken while the server works, put back as they were, refused where they do not fit.

use std::{
    env, fs,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chom_recovery::{
    ErrorKind, Recovery, Result, System,
    catalog::{
        BackupInfo, BackupWriter, ComponentKind, ComponentSpec, DatabaseFacts, Level, Selector, Signer, physical,
    },
    files::Root,
    mysql::physical::pages::Dialect,
    procedure::database::{
        Extent,
        ops::{BackUp, DatabaseKind},
    },
    recovery::{Report, RunOptions},
};
use chom_recovery_tests::{chaos, sql::Sql};

use crate::bench::{Bench, database, request};

/// Configuration of a child that is going to be killed.
const SYSTEM: &str = "CHOM_TEST_PHYSICAL_SYSTEM";
/// Where the server's copies lie in its container.
const COPIES: &str = "ls -d /var/tmp/chom-recovery-copy-* 2>/dev/null || :";

fn physical_backup() -> BackUp {
    BackUp { kind: DatabaseKind::Physical, ..BackUp::default() }
}

pub(crate) async fn try_back_up(recovery: &Recovery) -> Result<BackupInfo> {
    match recovery.back_up(physical_backup(), RunOptions::default()).await?.finish().await? {
        Report::BackUp(info) => Ok(*info),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn back_up(bench: &Bench) -> BackupInfo {
    let begun = Instant::now();
    let info = try_back_up(&bench.recovery).await.unwrap();
    println!(
        "physical backup: {:.1} s, {} MiB, {} MiB stored",
        begun.elapsed().as_secs_f64(),
        info.plain_len >> 20,
        info.stored_len >> 20
    );
    info
}

fn copies(bench: &Bench) -> String {
    String::from_utf8(chaos::shell(&bench.stack, "mysql", COPIES).stdout).unwrap()
}

pub(crate) fn is_mysql(bench: &Bench) -> bool {
    bench.stack.db == "mysql"
}

/// Commits one row after the other until it is told to stop; returns the last that was committed.
async fn write(mut sql: Sql, stop: Arc<AtomicBool>) -> u64 {
    let mut last = 0;
    while !stop.load(Ordering::Relaxed) {
        last += 1;
        sql.run(&format!("INSERT INTO chom.ticks VALUES ({last}, REPEAT('x', 2000))")).await;
    }
    last
}

async fn ticks(sql: &mut Sql) -> (u64, u64) {
    let number = |text: String| text.parse().unwrap();
    (
        number(sql.text("SELECT CAST(COUNT(*) AS CHAR) FROM chom.ticks").await),
        number(sql.text("SELECT CAST(COALESCE(MAX(id), 0) AS CHAR) FROM chom.ticks").await),
    )
}

#[tokio::test]
async fn data_files_copied_under_writes_come_back_with_rows_and_accounts() {
    let Some(bench) = Bench::open("data_files_copied_under_writes_come_back_with_rows_and_accounts").await else {
        return;
    };
    let before = bench.fingerprint().await;
    let mut sql = bench.sql().await;
    sql.run("DROP TABLE IF EXISTS chom.ticks, chom.packed").await;
    sql.run("CREATE TABLE chom.ticks (id INT PRIMARY KEY, data TEXT NOT NULL)").await;
    sql.run("CREATE TABLE chom.packed (id INT PRIMARY KEY, data TEXT) ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=4").await;
    sql.run("INSERT INTO chom.packed SELECT id, REPEAT(email, 50) FROM chom.users").await;
    sql.run("CREATE USER IF NOT EXISTS 'copied'@'%' IDENTIFIED BY 'as it was'").await;
    let identity = if is_mysql(&bench) { Some(sql.text("SELECT @@server_uuid").await) } else { None };

    let stop = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn(write(bench.sql().await, stop.clone()));
    while ticks(&mut sql).await.0 < 20 {
        tokio::task::yield_now().await;
    }
    let (_, committed_before) = ticks(&mut sql).await;
    let backup = back_up(&bench).await;
    stop.store(true, Ordering::Relaxed);
    let committed_after = writing.await.unwrap();
    assert_eq!((backup.database_kind, backup.level), (Some(ComponentKind::Physical), Some(Level::L2)));
    let facts = backup.database.clone().expect("a server");
    assert!(facts.position.is_some() && facts.variables.contains_key("lower_case_table_names"), "{facts:?}");
    assert_eq!(copies(&bench), "", "the copy is gone");

    sql.run("DROP USER 'copied'@'%'").await;
    drop(sql);
    chaos::delete_tablespaces(&bench.stack);
    chaos::kill(&bench.stack, "mysql");
    let begun = Instant::now();
    let report = bench.recover(Extent::Recover).await.unwrap();
    println!("recovered in {:.1} s", begun.elapsed().as_secs_f64());
    let restored = report.restored.expect("data was replaced");
    assert_eq!(restored.backup.id(), Some(backup.id()));
    assert!(restored.verified.is_physical && restored.verified.tables >= 12, "{:?}", restored.verified);
    assert!(restored.chosen_because.starts_with("physical, the newest"), "{}", restored.chosen_because);
    assert_eq!(bench.fingerprint().await, before);

    // One moment: every row up to some commit, and none after it.
    let mut sql = bench.sql().await;
    let (count, last) = ticks(&mut sql).await;
    assert!(count == last, "{count} rows up to {last}");
    assert!((committed_before..=committed_after).contains(&last), "{last} of {committed_before} to {committed_after}");
    let accounts = sql.text("SELECT CAST(COUNT(*) AS CHAR) FROM mysql.user WHERE User = 'copied'").await;
    assert_eq!(accounts, "1");
    // Two servers of one identity would give two transactions the same GTID.
    if let Some(identity) = identity {
        assert_ne!(sql.text("SELECT @@server_uuid").await, identity);
    }
    sql.run("DROP TABLE chom.ticks, chom.packed").await;
    sql.run("DROP USER 'copied'@'%'").await;
}

#[tokio::test]
async fn a_server_that_was_killed_under_writes_is_copied_cold_and_comes_back_with_every_commit() {
    let Some(bench) =
        Bench::open("a_server_that_was_killed_under_writes_is_copied_cold_and_comes_back_with_every_commit").await
    else {
        return;
    };
    let before = bench.fingerprint().await;
    let mut sql = bench.sql().await;
    sql.run("DROP TABLE IF EXISTS chom.ticks").await;
    sql.run("CREATE TABLE chom.ticks (id INT PRIMARY KEY, data TEXT NOT NULL)").await;
    let committed = Arc::new(AtomicU64::new(0));
    let (mut writer, told) = (bench.sql().await, committed.clone());
    let writing = tokio::spawn(async move {
        for id in 1.. {
            writer.run(&format!("INSERT INTO chom.ticks VALUES ({id}, REPEAT('x', 2000))")).await;
            told.store(id, Ordering::Relaxed);
        }
    });
    while committed.load(Ordering::Relaxed) < 200 {
        tokio::task::yield_now().await;
    }
    drop(sql);
    chaos::kill(&bench.stack, "mysql");
    // Its connection is lost.
    writing.await.unwrap_err();
    let committed = committed.load(Ordering::Relaxed);

    let footprint = bench.footprint().await;
    let request = BackUp { components: vec!["database".into()], ..physical_backup() };
    let backup = match bench.recovery.back_up(request, RunOptions::default()).await.unwrap().finish().await.unwrap() {
        Report::BackUp(info) => *info,
        other => panic!("{other:?}"),
    };
    assert_eq!(bench.footprint().await, footprint, "production is as it was, and nothing is left");
    assert_eq!((backup.database_kind, backup.level), (Some(ComponentKind::Physical), Some(Level::L2)));
    assert!(backup.database.clone().expect("a server").position.is_some());

    let going = bench.recovery.recover_database(request_of(&backup), crate::bench::yes()).await.unwrap();
    let report = database(going.finish().await).unwrap();
    assert_eq!(report.restored.expect("data was replaced").backup.id(), Some(backup.id()));
    assert_eq!(bench.fingerprint().await, before);
    let mut sql = bench.sql().await;
    let (count, last) = ticks(&mut sql).await;
    // The last one may have been committed without anybody being told.
    assert!(count == last && (committed..=committed + 1).contains(&last), "{count} rows up to {last} of {committed}");
    sql.run("DROP TABLE chom.ticks").await;
}

#[tokio::test]
async fn files_on_which_no_server_starts_are_not_kept_as_a_physical_backup() {
    let Some(bench) = Bench::open("files_on_which_no_server_starts_are_not_kept_as_a_physical_backup").await else {
        return;
    };
    chaos::compose(&bench.stack, &["stop", "mysql"]);
    let volume = bench.volume();
    let dictionary = if is_mysql(&bench) { "mysql.ibd" } else { "ibdata1" };
    chaos::in_volume(&bench.stack, &volume, &format!("cp -a /v/{dictionary} /v/kept"));
    let garbage = format!("dd if=/dev/urandom of=/v/{dictionary} bs=16384 count=12 conv=notrunc status=none");
    chaos::in_volume(&bench.stack, &volume, &garbage);
    let footprint = bench.footprint().await;
    let refused = try_back_up(&bench.recovery).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Precondition, "{refused}");
    assert!(refused.hint_text().is_some_and(|hint| hint.contains("salvage database")), "{refused:?}");
    assert_eq!(bench.footprint().await, footprint, "nothing is left");
    chaos::in_volume(&bench.stack, &volume, &format!("mv /v/kept /v/{dictionary}"));
    chaos::up(&bench.stack, &[]);
}

fn request_of(backup: &BackupInfo) -> chom_recovery::procedure::database::Request {
    request(Selector::Id(backup.id().to_string()), Extent::Restore)
}

#[tokio::test]
async fn a_rollback_of_data_files_brings_newer_rows_back() {
    let Some(bench) = Bench::open("a_rollback_of_data_files_brings_newer_rows_back").await else { return };
    let before = bench.fingerprint().await;
    back_up(&bench).await;
    let mut sql = bench.sql().await;
    sql.run("DELETE FROM chom.orders ORDER BY id DESC LIMIT 7").await;
    drop(sql);
    let newer = bench.fingerprint().await;
    assert_ne!(newer, before);

    let going = bench.start(Extent::Restore).await.unwrap();
    let run = going.id();
    database(going.finish().await).unwrap();
    assert_eq!(bench.fingerprint().await, before);

    let undone = bench.recovery.roll_back(run, "the newer rows are wanted", RunOptions::default()).await.unwrap();
    assert!(undone.iter().any(|step| step.ends_with("swap-volumes")), "{undone:?}");
    assert_eq!(bench.fingerprint().await, newer);
    // The others of this suite count on what the stack was made with.
    let going = bench.start(Extent::Restore).await.unwrap();
    database(going.finish().await).unwrap();
    assert_eq!(bench.fingerprint().await, before);
}

#[tokio::test]
async fn damaged_parts_and_files_of_another_server_are_refused_before_anything_is_touched() {
    let name = "damaged_parts_and_files_of_another_server_are_refused_before_anything_is_touched";
    let Some(bench) = Bench::open(name).await else { return };
    let logical = bench.back_up().await;
    let backup = back_up(&bench).await;
    let footprint = bench.footprint().await;

    let changes: [(fn(&mut DatabaseFacts), &str); 3] = [
        (|facts| facts.version = "99.1.0".into(), "the server is older"),
        (|facts| facts.version = "9.0.1".into(), "server"),
        (
            |facts| drop(facts.variables.insert("lower_case_table_names".into(), "2".into())),
            "lower_case_table_names was 2",
        ),
    ];
    for (change, named) in changes {
        let forged = forge(&bench, &backup, change).await;
        let wanted = request(Selector::Id(forged.id().to_string()), Extent::Restore);
        let error = bench.refused(&bench.recovery, wanted).await;
        assert!(error.kind() == ErrorKind::Precondition && error.to_string().contains(named), "{named}: {error:?}");
        assert!(error.hint_text().is_some(), "{error:?}");
        assert_eq!(bench.footprint().await, footprint, "{named}");
    }

    let component = backup.components.iter().find(|c| c.as_str() == "database").unwrap();
    let part = bench.folder.path().join("backups").join(backup.place.part(component, 0).to_string());
    let mut bytes = fs::read(&part).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&part).unwrap();
    fs::write(&part, bytes).unwrap();
    let wanted = request(Selector::Id(backup.id().to_string()), Extent::Restore);
    let error = bench.refused(&bench.recovery, wanted).await;
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.hint_text().is_some_and(|hint| hint.contains(&logical.id().to_string())), "{error:?}");
    assert_eq!(bench.footprint().await, footprint, "a damaged part");
}

/// Writes a backup again, with other facts about its server.
pub(crate) async fn forge(bench: &Bench, of: &BackupInfo, change: fn(&mut DatabaseFacts)) -> BackupInfo {
    let parts = bench.recovery.parts().await.unwrap();
    let reader = parts.catalog.open(&of.place).await.unwrap();
    let signer = Signer::load(&bench.system.state_dir(), &bench.system.id).unwrap();
    let repository = parts.catalog.repository();
    let mut writer = BackupWriter::begin(repository, &signer, &of.place.host, &bench.system.id).await.unwrap();
    let component = writer.component(ComponentSpec::new("database", ComponentKind::Physical).unwrap()).unwrap();
    let from = reader.component("database").await.unwrap();
    for part in from.parts() {
        component.put(part.index, part.meta.clone(), from.read_part(part).await.unwrap()).await.unwrap();
    }
    let mut facts = reader.facts().await.unwrap();
    change(facts.database.as_mut().unwrap());
    writer.finish(facts).await.unwrap()
}

#[tokio::test]
async fn a_damaged_page_fails_the_backup_and_is_named() {
    let Some(bench) = Bench::open("a_damaged_page_fails_the_backup_and_is_named").await else { return };
    let before = bench.fingerprint().await;
    let mut sql = bench.sql().await;
    sql.run("DROP TABLE IF EXISTS chom.sick").await;
    sql.run("CREATE TABLE chom.sick (id INT PRIMARY KEY, data TEXT NOT NULL)").await;
    for id in 0..60 {
        sql.run(&format!("INSERT INTO chom.sick VALUES ({id}, REPEAT('y', 4000))")).await;
    }
    drop(sql);
    let good = bench.back_up().await;
    chaos::compose(&bench.stack, &["stop", "mysql"]);
    chaos::overwrite_pages(&bench.stack, &bench.volume(), "chom/sick.ibd");
    chaos::compose(&bench.stack, &["up", "-d", "--wait", "mysql"]);

    let error = try_back_up(&bench.recovery).await.unwrap_err();
    println!("{error}");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    let told = format!("{error} {:?}", error.context());
    assert!(told.contains("sick"), "{told}");
    if is_mysql(&bench) {
        assert!(told.contains("page 4 of `chom/sick.ibd`"), "{told}");
    }
    assert_eq!(copies(&bench), "");
    assert_eq!(bench.recovery.backup(&Selector::Latest).await.unwrap().id(), good.id(), "there is no new backup");

    // The files of a stopped server show the same to nobody but this library.
    chaos::compose(&bench.stack, &["stop", "mysql"]);
    let volume = bench.recovery.backend().volume(&bench.volume()).await.unwrap().unwrap();
    let root = Root::open(volume.mount_point.as_ref()).unwrap();
    let dialect = Dialect { is_mariadb: !is_mysql(&bench), page_size: 16384 };
    let error = physical::check_pages(&root, dialect).await.unwrap_err();
    assert!(error.to_string().contains("page 4 of `chom/sick.ibd` is damaged"), "{error}");
    chaos::in_volume(&bench.stack, &bench.volume(), "rm /v/chom/sick.ibd");
    let report = physical::check_pages(&root, dialect).await.unwrap();
    println!("pages of a live data directory: {report:?}");
    assert!(report.good > 300 && report.unchecked == 0, "{report:?}");
    chaos::compose(&bench.stack, &["up", "-d", "--wait", "mysql"]);
    bench.sql().await.run("DROP TABLE IF EXISTS chom.sick").await;
    assert_eq!(bench.fingerprint().await, before);
}

#[tokio::test]
async fn tables_that_a_copy_would_leave_empty_are_refused_by_name() {
    let Some(bench) = Bench::open("tables_that_a_copy_would_leave_empty_are_refused_by_name").await else { return };
    if !is_mysql(&bench) {
        return;
    }
    let mut sql = bench.sql().await;
    sql.run("CREATE TABLE IF NOT EXISTS chom.oldfashioned (id INT) ENGINE=MyISAM").await;
    let error = try_back_up(&bench.recovery).await.unwrap_err();
    sql.run("DROP TABLE chom.oldfashioned").await;
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(format!("{:?}", error.context()).contains("chom.oldfashioned (MyISAM)"), "{error:?}");
    assert_eq!(copies(&bench), "");
}

#[tokio::test]
async fn a_copy_that_a_killed_backup_left_is_ended_and_removed_by_the_next() {
    if let Ok(system) = env::var(SYSTEM) {
        let system = System::from_json(&fs::read_to_string(system).unwrap()).unwrap();
        let recovery = Recovery::open(system).await.unwrap();
        panic!("the backup ended before its death: {:?}", try_back_up(&recovery).await);
    }
    let Some(bench) = Bench::open("a_copy_that_a_killed_backup_left_is_ended_and_removed_by_the_next").await else {
        return;
    };
    // Another folder beside them is nobody's affair.
    chaos::shell(&bench.stack, "mysql", "mkdir -p /var/tmp/chom-recovery-copy-mine");
    let mut sql = bench.sql().await;
    if is_mysql(&bench) {
        // Loads the plugin and its settings.
        back_up(&bench).await;
        sql.run("SET GLOBAL clone_autotune_concurrency = OFF").await;
        sql.run("SET GLOBAL clone_max_data_bandwidth = 2").await;
    }
    let system = bench.folder.path().join("system.json");
    fs::write(&system, serde_json::to_string(&bench.system).unwrap()).unwrap();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["physical::a_copy_that_a_killed_backup_left_is_ended_and_removed_by_the_next", "--exact"])
        .env(SYSTEM, &system)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_mins(2);
    // Half made: the folder of the data itself is there.
    while chaos::shell(&bench.stack, "mysql", "ls -d /var/tmp/chom-recovery-copy-*/data 2>/dev/null || :")
        .stdout
        .is_empty()
    {
        assert!(Instant::now() < end, "a copy is begun");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(copies(&bench).lines().count() > 1, "it was killed in the middle");
    if is_mysql(&bench) {
        let running =
            "SELECT CAST(COUNT(*) AS CHAR) FROM performance_schema.processlist WHERE INFO LIKE 'CLONE LOCAL%'";
        assert_eq!(sql.text(running).await, "1", "the server goes on with it");
        // Dynamic, and read by copies that run: the next one is not slowed.
        sql.run("SET GLOBAL clone_max_data_bandwidth = DEFAULT").await;
        sql.run("SET GLOBAL clone_autotune_concurrency = DEFAULT").await;
    }
    // What the killed run left open is taken up again by nobody.
    for run in bench.recovery.runs().unwrap().0.iter().filter(|run| !run.is_over) {
        bench.recovery.abandon(run.run, "the test goes on").await.unwrap();
    }
    // A backup of the other kind removes it as well.
    bench.back_up().await;
    assert_eq!(copies(&bench).trim(), "/var/tmp/chom-recovery-copy-mine");
    back_up(&bench).await;
    assert_eq!(copies(&bench).trim(), "/var/tmp/chom-recovery-copy-mine");
    chaos::shell(&bench.stack, "mysql", "rmdir /var/tmp/chom-recovery-copy-mine");
}
