//! A server that does not start any more: what is left of it is read on a copy, and named where it is missing.

use std::{
    collections::BTreeMap,
    env, fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use chom_recovery::{
    ErrorKind, Recovery, Result, System,
    backend::{Backend, ROLE_LABEL},
    catalog::{BackupId, Catalog, Repository, Selector},
    mysql::salvage::Extent as Read,
    procedure::{
        database::Extent,
        salvage::{PROCEDURE, Request, SalvageReport},
    },
    recovery::{Report, RunOptions},
};
use chom_recovery_tests::chaos;

use crate::bench::{Bench, database, request, yes};

/// Configuration of a child that is going to be killed.
const SYSTEM: &str = "CHOM_TEST_SALVAGE_SYSTEM";
/// Rows of each table that is made here: far more than one page of its file.
const ROWS: u64 = 5000;
/// Overwrites the page of rows in the middle of the file `$1`, as a failing disk would: among those that InnoDB's headers call
/// leaves of the primary key, whose root comes first.
const OVERWRITE: &str = r#"
size=16384; file=$1; pages=$(( $(stat -c %s "$file") / size )); leaves=
# Type, level and index of a page.
look() {
  set -- $(od -An -v -w50 -tu1 -j $(( $1 * size + 24 )) -N 50 "$file")
  kind="$1 $2" level="${41} ${42}" index="${43} ${44} ${45} ${46} ${47} ${48} ${49} ${50}"
}
# MySQL keeps a description of the table before its rows.
root=3; look $root; [ "$kind" = "69 191" ] || root=4
look $root; primary=$index; page=$((root + 1))
while [ "$page" -lt "$pages" ]; do
  look $page
  if [ "$kind" = "69 191" ] && [ "$level" = "0 0" ] && [ "$index" = "$primary" ]; then leaves="$leaves $page"; fi
  page=$((page + 1))
done
set -- $leaves
[ $# -gt 8 ] || { echo "too few leaves: $#" >&2; exit 1; }
shift $(( $# / 2 ))
dd if=/dev/urandom of="$file" bs=1 seek=$(( $1 * size + 200 )) count=8000 conv=notrunc status=none
"#;

fn salvaged(report: Result<Report>) -> Result<SalvageReport> {
    match report? {
        Report::SalvageDatabase(report) => Ok(*report),
        other => panic!("{other:?}"),
    }
}

async fn salvage(bench: &Bench, up_to_level: u8) -> Result<SalvageReport> {
    let request = Request { up_to_level, ..Request::default() };
    let begun = Instant::now();
    let going = bench.recovery.salvage_database(request, RunOptions::default()).await?;
    let report = salvaged(going.finish().await);
    println!("salvaged in {:.1} s", begun.elapsed().as_secs_f64());
    report
}

/// Everything on the Engine that a salvage made.
async fn left(backend: &dyn Backend) -> Vec<String> {
    let containers = backend.own_containers().await.unwrap().into_iter().map(|c| (c.name, c.labels));
    let volumes = backend.volumes().await.unwrap().into_iter().map(|v| (v.name, v.labels));
    let of_salvage =
        containers.chain(volumes).filter(|(_, labels)| labels.get(ROLE_LABEL).is_some_and(|r| r == "salvage"));
    of_salvage.map(|(name, _)| name).filter(|name| name.starts_with(backend.project())).collect()
}

/// Runs a script on production's files, with the server's image, and returns what it printed.
fn on_files(bench: &Bench, script: &str, argument: &str) -> String {
    let mount = format!("{}:/v", bench.volume());
    let run = ["run", "--rm", "--network", "none", "--entrypoint", "sh", "-v", &mount, &bench.stack.db_image, "-ec"];
    let output = chaos::docker(&[&run[..], &[script, "sh", argument]].concat());
    String::from_utf8(output.stdout).unwrap()
}

/// Sums up every byte, name, owner, mode and time of production's files.
fn sum(bench: &Bench) -> String {
    let script = "cd \"$1\" && find . -type f -exec sha256sum {} + | LC_ALL=C sort | sha256sum && \
                  find . -printf '%P %y %s %m %U:%G %T@ %C@\n' | LC_ALL=C sort | sha256sum";
    on_files(bench, script, "/v")
}

/// Makes a table whose rows tell by their key what they have to be.
async fn make(bench: &Bench, name: &str) {
    let mut sql = bench.sql().await;
    sql.run(&format!("DROP TABLE IF EXISTS chom.{name}")).await;
    sql.run(&format!("CREATE TABLE chom.{name} (id INT PRIMARY KEY, data VARCHAR(400) NOT NULL, KEY (data))")).await;
    for from in (0..ROWS).step_by(1000) {
        let rows: Vec<_> = (from..from + 1000).map(|id| format!("({id}, REPEAT(SHA2({id}, 256), 3))")).collect();
        sql.run(&format!("INSERT INTO chom.{name} VALUES {}", rows.join(", "))).await;
    }
}

/// Ends the server as it should end, so that every page is in its file.
fn stop(bench: &Bench) {
    chaos::compose(&bench.stack, &["stop", "mysql"]);
}

/// Checksum of the rows of each table of a backup.
async fn checksums(bench: &Bench, id: BackupId) -> BTreeMap<String, (u64, String)> {
    let repository = Repository::open_configured(&bench.system.repository).await.unwrap();
    let catalog = Catalog::new(&repository, &bench.system.id);
    let info = catalog.select(&Selector::Id(id.to_string())).await.unwrap();
    let reader = catalog.open(&info.place).await.unwrap();
    let tables = reader.private().await.unwrap().baselines.tables.clone();
    tables.into_iter().map(|t| (format!("{}.{}", t.schema, t.table), (t.rows, t.checksum.unwrap()))).collect()
}

#[tokio::test]
async fn a_server_that_does_not_start_is_read_table_by_table_and_what_is_missing_is_named() {
    let Some(bench) =
        Bench::open("a_server_that_does_not_start_is_read_table_by_table_and_what_is_missing_is_named").await
    else {
        return;
    };
    for table in ["torn", "sound"] {
        make(&bench, table).await;
    }
    let whole = bench.back_up().await;

    // While it answers, it is not read this way.
    let footprint = bench.footprint().await;
    let refused = salvage(&bench, 3).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Precondition, "{refused}");
    assert!(refused.message().contains("answers"), "{refused}");
    assert_eq!(bench.footprint().await, footprint);

    stop(&bench);
    chaos::up(&bench.stack, &[]);
    let is_mysql = bench.stack.db == "mysql";
    if is_mysql {
        // What is written from here on stays in the log alone.
        let mut sql = bench.sql().await;
        for setting in
            ["max_dirty_pages_pct = 99", "max_dirty_pages_pct_lwm = 0", "adaptive_flushing = OFF", "idle_flush_pct = 0"]
        {
            sql.run(&format!("SET GLOBAL innodb_{setting}")).await;
        }
    }
    make(&bench, "gone").await;
    bench.sql().await.run("UPDATE chom.gone SET data = CONCAT(data, 'x')").await;
    chaos::kill(&bench.stack, "mysql");
    on_files(&bench, OVERWRITE, "/v/chom/torn.ibd");
    if is_mysql {
        // Its crash recovery wants the file of what was written last, up to level 1.
        on_files(&bench, "rm \"$1\"", "/v/chom/gone.ibd");
    } else {
        // The page of the transaction system: nothing comes up without it, up to level 5.
        let garbage = "dd if=/dev/urandom of=\"$1\" bs=16384 seek=5 count=1 conv=notrunc status=none";
        on_files(&bench, garbage, "/v/ibdata1");
    }
    let before = sum(&bench);

    let report = if is_mysql {
        salvage(&bench, 3).await.unwrap()
    } else {
        // Never by itself.
        let refused = salvage(&bench, 3).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Precondition, "{refused}");
        assert!(refused.hint_text().is_some_and(|hint| hint.contains("--up-to-level 4")), "{refused:?}");
        assert_eq!(left(&**bench.recovery.backend()).await, Vec::<String>::new());
        salvage(&bench, 5).await.unwrap()
    };
    println!("{:#?}", (&report.attempts, &report.lost, &report.damaged_pages));
    assert_eq!(sum(&bench), before, "production's files are as they were, byte for byte");
    assert_eq!(left(&**bench.recovery.backend()).await, Vec::<String>::new());
    let tables: BTreeMap<_, _> = report.tables.iter().map(|t| (format!("{}.{}", t.schema, t.table), t)).collect();
    println!("{:?}", tables["chom.torn"]);
    let level = if is_mysql { 1 } else { 5 };
    assert_eq!((report.level, report.attempts.len()), (level, usize::from(level)), "{:?}", report.attempts);
    if is_mysql {
        let gone = tables.get("chom.gone").map(|t| (t.extent, t.rows));
        let is_lost = report.lost.iter().any(|lost| lost.what == "chom.gone");
        assert!(gone.is_none_or(|gone| gone == (Read::Nothing, 0)) && (gone.is_some() || is_lost), "{gone:?}");
    }

    // Everything else is whole, and equal to what was backed up before.
    let (then, now) = (checksums(&bench, whole.id()).await, checksums(&bench, report.backup.id()).await);
    for (name, rows) in &then {
        if name != "chom.torn" {
            assert_eq!(tables[name].extent, Read::Whole, "{name}: {:?}", tables[name]);
        }
        if ["chom.sound", "chom.users"].contains(&name.as_str()) {
            assert_eq!(now.get(name), Some(rows), "{name}");
        }
    }
    let torn = tables["chom.torn"];
    assert_eq!(torn.extent, Read::Part);
    assert!((ROWS - 400..ROWS).contains(&torn.rows), "{torn:?}");
    assert!(torn.why.as_deref().is_some_and(|why| why.contains("chom/torn.ibd")), "{torn:?}");

    // Nothing chooses it by itself.
    let info = bench.recovery.backup(&Selector::Latest).await.unwrap();
    assert_eq!(info.id(), whole.id());
    let listed = bench.recovery.backup(&Selector::Id(report.backup.id().to_string())).await.unwrap();
    assert!(listed.is_salvaged && listed.incomplete.iter().any(|c| c.as_str() == "database"), "{listed:?}");
    assert!(listed.warnings.iter().any(|w| w.contains("chom.torn")), "{:?}", listed.warnings);

    // Named by its id it is restored, and holds each row that was read, as it was.
    let wanted = request(Selector::Id(report.backup.id().to_string()), Extent::Restore);
    database(bench.recovery.recover_database(wanted, yes()).await.unwrap().finish().await).unwrap();
    let mut sql = bench.sql().await;
    let count = |what: &str| format!("SELECT CAST(COUNT(*) AS CHAR) FROM chom.torn {what}");
    assert_eq!(sql.text(&count("")).await, torn.rows.to_string());
    // At a level above 0 the server may give rows of a damaged page as they are: never more than one page has.
    let good: u64 = sql.text(&count("WHERE data = REPEAT(SHA2(id, 256), 3)")).await.parse().unwrap();
    assert!((ROWS - 400..=torn.rows).contains(&good), "{good} of {torn:?}");
    sql.run("DROP TABLE IF EXISTS chom.torn, chom.sound, chom.gone").await;
}

#[tokio::test]
async fn a_salvage_that_is_killed_goes_on_and_leaves_nothing() {
    if let Ok(system) = env::var(SYSTEM) {
        let system = System::from_json(&fs::read_to_string(system).unwrap()).unwrap();
        let recovery = Recovery::open(system).await.unwrap();
        let going = recovery.salvage_database(Request::default(), RunOptions::default()).await.unwrap();
        panic!("the salvage ended before its death: {:?}", going.finish().await);
    }
    let Some(bench) = Bench::open("a_salvage_that_is_killed_goes_on_and_leaves_nothing").await else { return };
    for table in ["torn", "sound"] {
        make(&bench, table).await;
    }
    let whole = bench.back_up().await;
    stop(&bench);
    on_files(&bench, "cp -a \"$1\" /v/chom/torn.kept", "/v/chom/torn.ibd");
    on_files(&bench, OVERWRITE, "/v/chom/torn.ibd");
    let before = sum(&bench);

    // Another process, whose death takes nothing back.
    let system = bench.folder.path().join("system.json");
    fs::write(&system, serde_json::to_string(&bench.system).unwrap()).unwrap();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["salvage::a_salvage_that_is_killed_goes_on_and_leaves_nothing", "--exact"])
        .env(SYSTEM, &system)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let backend = bench.recovery.backend();
    tokio::time::timeout(Duration::from_mins(5), async {
        loop {
            let own = backend.own_containers().await.unwrap();
            if own.iter().any(|c| c.name.contains("-salvage-") && !c.name.ends_with("-copy") && c.is_ready()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("a server is started on the copy");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!left(&**backend).await.is_empty(), "it was killed in the middle");
    assert_eq!(sum(&bench), before);

    let (runs, _) = bench.recovery.runs().unwrap();
    let run = runs.iter().rev().find(|run| run.procedure == PROCEDURE).expect("the run that was killed");
    let report = salvaged(bench.recovery.resume(run.run, yes()).await.unwrap().finish().await).unwrap();
    assert_eq!(left(&**backend).await, Vec::<String>::new());
    assert_eq!(sum(&bench), before, "production's files are as they were, byte for byte");
    let (then, now) = (checksums(&bench, whole.id()).await, checksums(&bench, report.backup.id()).await);
    assert_eq!(then["chom.sound"], now["chom.sound"]);
    // Without forced recovery rows are read up to the damaged page, from both sides, and no further.
    let torn = report.tables.iter().find(|t| t.table == "torn").unwrap();
    assert_eq!((report.level, torn.extent, torn.unread.len()), (0, Read::Part, 1), "{torn:?}");
    assert!((ROWS - 200..ROWS).contains(&torn.rows), "{torn:?}");
    assert_eq!((report.part, report.nothing), (1, 0), "{:?}", report.missing());
    let end = |key: &Option<String>| key.as_ref().unwrap().parse::<u64>().unwrap();
    let gap = (end(&torn.unread[0].after), end(&torn.unread[0].before));
    assert_eq!(torn.rows, ROWS - (gap.1 - gap.0 - 1), "each row outside of the gap was read: {torn:?}");

    on_files(&bench, "mv /v/chom/torn.kept \"$1\"", "/v/chom/torn.ibd");
    chaos::up(&bench.stack, &[]);
    bench.sql().await.run("DROP TABLE chom.torn, chom.sound").await;
}

#[tokio::test]
async fn a_check_of_a_running_server_names_the_damaged_table() {
    let Some(bench) = Bench::open("a_check_of_a_running_server_names_the_damaged_table").await else { return };
    for table in ["torn", "sound"] {
        make(&bench, table).await;
    }
    stop(&bench);
    on_files(&bench, "cp -a \"$1\" /v/torn.kept", "/v/chom/torn.ibd");
    on_files(&bench, OVERWRITE, "/v/chom/torn.ibd");
    chaos::up(&bench.stack, &[]);
    // The server may end over it, and be started again by its policy.
    let report = bench.recovery.check_tables(Some(Duration::from_mins(3))).await.unwrap();
    assert!(report.corrupt.iter().any(|problem| problem.table == "chom.torn"), "{report:?}");
    assert!(report.corrupt.iter().all(|problem| problem.table == "chom.torn"), "{report:?}");

    stop(&bench);
    on_files(&bench, "mv /v/torn.kept \"$1\"", "/v/chom/torn.ibd");
    chaos::up(&bench.stack, &[]);
    let report = bench.recovery.check_tables(Some(Duration::from_mins(3))).await.unwrap();
    assert_eq!(report.corrupt, Vec::new());
    bench.sql().await.run("DROP TABLE chom.torn, chom.sound").await;
}
