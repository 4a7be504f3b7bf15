//! Troubleshooting on the reference stack: each issue is made, named, and where that is safe mended and put back.

use std::{
    os::unix::fs::MetadataExt,
    process::Stdio,
    time::{Duration, Instant},
};

use chom_recovery_tests::cli::{Bench, code};
use serde_json::Value;

/// Looks for causes, until `wanted` says that it is enough.
fn look(bench: &Bench, issue: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_mins(2);
    loop {
        let (_, found) = bench.query(&["--json", "troubleshoot", issue]);
        if wanted(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "{issue}: {what}: {found:#}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn cause<'a>(found: &'a Value, name: &str) -> Option<&'a Value> {
    found["causes"].as_array().unwrap().iter().find(|cause| cause["name"] == name)
}

fn has(name: &str) -> impl Fn(&Value) -> bool + '_ {
    move |found| cause(found, name).is_some()
}

fn first(found: &Value) -> &str {
    found["causes"][0]["name"].as_str().unwrap_or_default()
}

#[test]
fn a_service_that_was_stopped_is_started_proven_and_stopped_again_by_the_rollback() {
    let test = "a_service_that_was_stopped_is_started_proven_and_stopped_again_by_the_rollback";
    let Some(bench) = Bench::open(test) else { return };
    let scheduler = format!("{}-scheduler-1", bench.stack().project);
    bench.docker(&["stop", &scheduler]);
    let found = look(&bench, "start", "the stopped scheduler", has("stopped-scheduler"));
    assert_eq!(first(&found), "stopped-scheduler", "{found:#}");
    assert_eq!(cause(&found, "stopped-scheduler").unwrap()["is_fixable"], true);

    let refused = bench.run(&["troubleshoot", "start", "--fix", "stopped-scheduler"]);
    assert_eq!(code(&refused), 5, "nobody said yes: {refused:?}");
    assert!(look(&bench, "start", "nothing was done", |_| true)["causes"][0]["name"] == "stopped-scheduler");
    let fixed = bench.run(&["troubleshoot", "start", "--fix", "stopped-scheduler", "--yes"]);
    assert_eq!(code(&fixed), 0, "{fixed:?}");
    assert_eq!(bench.docker(&["inspect", "-f", "{{.State.Running}}", &scheduler]), "true");
    let rolled_back = bench.run(&["rollback", "--yes"]);
    assert_eq!(code(&rolled_back), 0, "{rolled_back:?}");
    assert_eq!(bench.docker(&["inspect", "-f", "{{.State.Running}}", &scheduler]), "false");
    bench.docker(&["start", &scheduler]);
    let (_, status) = bench.query(&["--json"]);
    assert_eq!(status["unclosed"], Value::Array(vec![]), "a fix is no recovery: {status}");
}

#[test]
fn a_port_that_somebody_else_has_is_told_with_who_has_it() {
    let Some(bench) = Bench::open("a_port_that_somebody_else_has_is_told_with_who_has_it") else { return };
    let nginx = format!("{}-nginx-1", bench.stack().project);
    bench.docker(&["stop", &nginx]);
    let taken = std::net::TcpListener::bind(("127.0.0.1", bench.stack().port)).unwrap();
    let started = bench.try_docker(&["start", &nginx]);
    assert!(!started.status.success(), "{started:?}");
    let found = look(&bench, "start", "the port", has("port-nginx"));
    drop(taken);
    bench.docker(&["start", &nginx]);
    assert_eq!(first(&found), "port-nginx", "{found:#}");
    let text = cause(&found, "port-nginx").unwrap()["cause"].to_string();
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    let refused = bench.run(&["troubleshoot", "start", "--fix", "port-nginx", "--yes"]);
    assert_ne!(code(&refused), 0, "{refused:?}");
}

#[test]
fn a_restore_that_cannot_go_well_is_told_why() {
    let Some(bench) = Bench::open("a_restore_that_cannot_go_well_is_told_why") else { return };
    let (_, found) = bench.query(&["--json", "troubleshoot", "restore"]);
    assert_eq!(first(&found), "backup-missing", "{found:#}");
    let taken = bench.run(&["backup", "create", "--component", "database"]);
    assert_eq!(code(&taken), 0, "{taken:?}");
    let (exit, found) = bench.query(&["--json", "troubleshoot", "restore"]);
    assert_eq!((exit, &found["causes"]), (0, &Value::Array(vec![])), "{found:#}");

    // Cut, as by a copy that was not finished.
    let parts = parts_of(&bench.folder().join("repository"));
    let largest = parts.into_iter().max_by_key(|part| part.metadata().unwrap().len()).unwrap();
    let length = largest.metadata().unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&largest).unwrap().set_len(length / 2).unwrap();
    let (exit, found) = bench.query(&["--json", "troubleshoot", "restore"]);
    assert_eq!((exit, first(&found)), (4, "backup-damaged"), "{found:#}");

    std::fs::rename(bench.folder().join("repository"), bench.folder().join("gone")).unwrap();
    let (exit, found) = bench.query(&["--json", "troubleshoot", "restore"]);
    assert_eq!((exit, first(&found)), (4, "repository-missing"), "{found:#}");
    let printed = bench.run(&["troubleshoot", "restore"]);
    assert!(String::from_utf8_lossy(&printed.stdout).contains("risk"), "{printed:?}");
}

fn parts_of(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(parts_of(&path));
        } else if folder.ends_with("p/database") {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_run_that_does_not_hang_but_waits_is_told_and_so_are_locks() {
    let Some(bench) = Bench::open("a_run_that_does_not_hang_but_waits_is_told_and_so_are_locks") else { return };
    let (exit, found) = bench.query(&["--json", "troubleshoot", "hang"]);
    assert_eq!((exit, &found["causes"]), (0, &Value::Array(vec![])), "{found:#}");
    let mysql = format!("{}-mysql-1", bench.stack().project);
    // The client of each flavour, with the password from the secret that the container has.
    let sql = |text: &str| {
        let script = format!(
            "MYSQL_PWD=\"$(cat /run/secrets/db_root_password)\" exec \"$(command -v mariadb || command -v mysql)\" -uroot chom -e '{text}'"
        );
        let mut command = bench.command("docker");
        command.args(["exec", &mysql, "sh", "-c", &script]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let update = "UPDATE users SET updated_at = updated_at WHERE id = 1";
    let mut holds = sql(&format!("BEGIN; {update}; SELECT SLEEP(40); ROLLBACK"));
    let deadline = Instant::now() + Duration::from_secs(30);
    let open =
        || sql("SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_rows_locked > 0").wait_with_output();
    while !String::from_utf8_lossy(&open().unwrap().stdout).contains('1') {
        assert!(Instant::now() < deadline, "no transaction holds a lock");
    }
    let mut waits = sql(&format!("SET innodb_lock_wait_timeout = 60; {update}"));
    let found = look(&bench, "hang", "the lock", has("locks"));
    assert!(cause(&found, "locks").unwrap()["evidence"].to_string().contains("chom.users"), "{found:#}");
    holds.wait().unwrap();
    waits.wait().unwrap();
}

#[test]
fn entries_with_other_owners_and_permissions_than_in_the_backup_are_told_one_by_one() {
    let test = "entries_with_other_owners_and_permissions_than_in_the_backup_are_told_one_by_one";
    let Some(bench) = Bench::open(test) else { return };
    bench.without_drafted_components();
    bench.configure("[[components]]\nname = \"nginx\"\nservice = \"nginx\"\npath = \"/etc/nginx/conf.d\"\n");
    let taken = bench.run(&["backup", "create"]);
    assert_eq!(code(&taken), 0, "{taken:?}");
    let (exit, found) = bench.query(&["--json", "troubleshoot", "permissions"]);
    assert_eq!((exit, &found["causes"]), (0, &Value::Array(vec![])), "{found:#}");
    let file = bench.stack().site.join("nginx/site.conf");
    let mode = |bits| std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(bits)).unwrap();
    mode(0o666);
    let (exit, found) = bench.query(&["--json", "troubleshoot", "permissions"]);
    mode(0o644);
    assert_eq!((exit, first(&found)), (4, "differs-nginx"), "{found:#}");
    assert_eq!(found["causes"][0]["evidence"][0], "`site.conf`: mode 0666 instead of 0644", "{found:#}");
}

#[test]
fn exactly_what_differs_gets_its_recorded_mode_and_the_rollback_gives_it_the_one_before() {
    let test = "exactly_what_differs_gets_its_recorded_mode_and_the_rollback_gives_it_the_one_before";
    let Some(bench) = Bench::open(test) else { return };
    bench.without_drafted_components();
    bench.configure("[[components]]\nname = \"app\"\nservice = \"app\"\npath = \"/srv/app\"\n");
    let taken = bench.run(&["backup", "create", "--component", "app"]);
    assert_eq!(code(&taken), 0, "{taken:?}");
    let app = bench.stack().site.join("app");
    let (file, link) = (app.join("routes/web.php"), app.join("routes/of_a_test"));
    let mode = || std::fs::metadata(&file).unwrap().mode() & 0o7777;
    // What is changed gets another time of its last change, whatever it is given.
    let others = || {
        let folders = ["", "public", "routes"].map(|folder| std::fs::read_dir(app.join(folder)).unwrap());
        let found = folders.into_iter().flatten().map(|entry| entry.unwrap().path());
        let mut found: Vec<_> = found.filter(|path| path.is_file() && *path != file && *path != link).collect();
        found.sort();
        let seen = |path: &std::path::PathBuf| {
            let seen = std::fs::symlink_metadata(path).unwrap();
            (seen.mode(), seen.uid(), seen.gid(), seen.ctime(), seen.ctime_nsec())
        };
        found.iter().map(seen).collect::<Vec<_>>()
    };
    let (recorded, before) = (mode(), others());
    assert!(!before.is_empty());
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    std::os::unix::fs::symlink("web.php", &link).unwrap();

    let (exit, found) = bench.query(&["--json", "troubleshoot", "permissions"]);
    assert_eq!((exit, first(&found)), (4, "differs-app"), "{found:#}");
    assert_eq!(cause(&found, "differs-app").unwrap()["is_fixable"], true, "{found:#}");
    let refused = bench.run(&["troubleshoot", "permissions", "--fix", "differs-app"]);
    assert_eq!((code(&refused), mode()), (5, 0o777), "nobody said yes: {refused:?}");
    let fixed = bench.run(&["troubleshoot", "permissions", "--fix", "differs-app", "--yes"]);
    assert_eq!((code(&fixed), mode()), (0, recorded), "{fixed:?}");
    assert_eq!(others(), before, "others were touched");
    let (exit, found) = bench.query(&["--json", "troubleshoot", "permissions"]);
    assert_eq!((exit, &found["causes"]), (0, &Value::Array(vec![])), "{found:#}");
    let rolled_back = bench.run(&["rollback", "--yes"]);
    assert_eq!((code(&rolled_back), mode()), (0, 0o777), "{rolled_back:?}");
    assert_eq!(others(), before, "others were touched");

    let unknown = bench.run(&["troubleshoot", "permissions", "--fix", "differs-other", "--yes"]);
    assert_ne!(code(&unknown), 0, "{unknown:?}");
    std::fs::remove_file(&link).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(recorded)).unwrap();
}

#[test]
fn a_stale_configuration_cache_is_set_aside_and_put_back() {
    let Some(bench) = Bench::open("a_stale_configuration_cache_is_set_aside_and_put_back") else { return };
    let app = format!("{}-app-1", bench.stack().project);
    let artisan = |command: &str| bench.docker(&["exec", &app, "php", "artisan", command]);
    let (_, found) = bench.query(&["--json", "troubleshoot", "application"]);
    assert!(cause(&found, "stale-config-cache").is_none(), "{found:#}");
    let ruled_out = found["ruled_out"].to_string();
    for fine in ["APP_KEY has the right form", "no migration is pending"] {
        assert!(ruled_out.contains(fine), "{found:#}");
    }
    for secret in bench.stack().secrets() {
        assert!(!found.to_string().contains(&secret), "a secret was shown");
    }
    artisan("config:cache");
    let cache = bench.stack().site.join("app/bootstrap/cache/config.php");
    let old = std::time::SystemTime::now() - Duration::from_hours(24 * 365);
    std::fs::File::options().write(true).open(&cache).unwrap().set_modified(old).unwrap();
    let bytes = std::fs::read(&cache).unwrap();
    let migration = bench.stack().site.join("app/database/migrations/2099_01_01_000000_of_a_test.php");
    let first_one = std::fs::read_dir(migration.parent().unwrap()).unwrap().next().unwrap().unwrap().path();
    std::fs::copy(first_one, &migration).unwrap();

    let found = look(&bench, "application", "the cache", has("stale-config-cache"));
    std::fs::remove_file(&migration).unwrap();
    assert_eq!(first(&found), "stale-config-cache", "{found:#}");
    let pending = cause(&found, "migrations-pending").unwrap_or_else(|| panic!("{found:#}"));
    assert_eq!(pending["evidence"][0], "2099_01_01_000000_of_a_test", "{pending}");

    let fixed = bench.run(&["troubleshoot", "application", "--fix", "stale-config-cache", "--yes"]);
    assert_eq!(code(&fixed), 0, "{fixed:?}");
    assert!(!cache.exists());
    let rolled_back = bench.run(&["rollback", "--yes"]);
    assert_eq!(code(&rolled_back), 0, "{rolled_back:?}");
    assert_eq!(std::fs::read(&cache).unwrap(), bytes);
    artisan("config:clear");
}
