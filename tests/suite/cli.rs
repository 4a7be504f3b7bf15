//! The command line on the reference stack: what an operator types from a bare project to a verified backup.

use std::{
    os::unix::fs::MetadataExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use chom_recovery_tests::{
    Stack, chaos,
    cli::{Bench, code, lines},
    dumps::Dumps,
};
use serde_json::Value;

#[test]
fn a_drafted_configuration_is_right_without_a_change() {
    let Some(bench) = Bench::open("a_drafted_configuration_is_right_without_a_change") else { return };
    let system = bench.system();
    assert_eq!(system.database.service, "mysql");
    assert_eq!(system.application.service, "app");
    assert_eq!(system.application.web_service, "nginx");
    assert_eq!(system.application.workers, ["queue", "scheduler"]);
    let names: Vec<_> = system.components.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["app_storage", "certs", "app", "nginx", "redis", "config"]);
    let redis = system.redis.unwrap();
    assert_eq!(
        (redis.prefix.as_str(), redis.heartbeat_key.as_deref()),
        ("chom_database_", Some("scheduler:heartbeat"))
    );
    assert_eq!(system.repository.signers.len(), 1);

    let (exit, report) = bench.query(&["--json", "config", "check"]);
    assert_eq!(exit, 0, "{report}");
    // A second draft does not replace the first, which a person may have changed.
    let again = bench.run(&["config", "init", "--project", &system.compose.project]);
    assert_eq!(code(&again), 6, "{again:?}");
}

#[test]
fn from_nothing_to_a_verified_backup() {
    let Some(bench) = Bench::open("from_nothing_to_a_verified_backup") else { return };
    let (_, status) = bench.query(&["--json"]);
    assert_eq!(status["next"][0]["command"], "chom-recovery backup create", "{status}");

    let output = bench.run(&["--json", "backup", "create", "--tag", "nightly"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let events = lines(&output);
    assert_eq!(events.first().unwrap()["type"], "run_started");
    assert!(events.iter().any(|e| e["type"] == "step_done" && e["step"] == "dump"), "{events:?}");
    assert!(events.iter().all(|e| e["v"] == 1));
    let summary = events.last().unwrap();
    assert_eq!((&summary["type"], &summary["status"]), (&"summary".into(), &"succeeded".into()));
    let id = summary["achieved"]["id"].as_str().unwrap().to_owned();

    let (_, list) = bench.query(&["--json", "backup", "list", "--tag", "nightly"]);
    assert_eq!(list["backups"][0]["id"], id.as_str());
    assert_eq!(list["backups"][0]["level"], "L2");
    let (exit, verified) = bench.query(&["--json", "backup", "verify", "--backup", &id]);
    assert_eq!((exit, &verified["findings_total"]), (0, &0.into()));
    assert_eq!(bench.query(&["--json", "backup", "status"]).0, 0);

    let (exit, status) = bench.query(&["--json"]);
    assert_eq!((exit, &status["next"], &status["open_runs"]), (0, &Value::Array(vec![]), &Value::Array(vec![])));
    assert_eq!(status["backups"]["newest"]["id"], id.as_str());
    let (_, runs) = bench.query(&["--json", "runs", "list"]);
    assert_eq!((&runs["items"][0]["procedure"], &runs["items"][0]["operator"]), (&"back-up".into(), &"ada".into()));

    // One flipped bit.
    let part = files(&bench.folder().join("repository"))
        .into_iter()
        .filter(|f| f.metadata().unwrap().len() > 1_000)
        .max_by_key(|f| f.metadata().unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(&part).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    let damaged = bench.run(&["backup", "verify", "--latest"]);
    assert_eq!(code(&damaged), 7, "{damaged:?}");
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// Flips a bit in the middle of each part of a repository.
fn damage_parts(repository: &Path) {
    let parts: Vec<_> = files(repository)
        .into_iter()
        .filter(|f| f.parent().unwrap().ends_with("p/database") && f.file_name().unwrap() != "index")
        .collect();
    assert!(parts.len() > 5, "{parts:?}");
    for part in parts {
        let mut bytes = std::fs::read(&part).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&part, bytes).unwrap();
    }
}

#[test]
fn a_copy_serves_where_the_repository_is_damaged_or_gone() {
    let Some(bench) = Bench::open("a_copy_serves_where_the_repository_is_damaged_or_gone") else { return };
    let created = bench.run(&["backup", "create"]);
    assert_eq!(code(&created), 0, "{created:?}");
    let refused = bench.run(&["backup", "copy"]);
    assert_eq!(code(&refused), 10, "no second store is configured: {refused:?}");

    let (repository, copy) = (bench.folder().join("repository"), bench.folder().join("copy"));
    let config = bench.folder().join("chom-recovery.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replacen("[application]\n", "[application]\nsoak = \"3s\"\n", 1);
    std::fs::write(&config, format!("{text}\n[repository.copy]\nurl = \"file:{}\"\n", copy.display())).unwrap();
    let refused = bench.run(&["backup", "copy"]);
    assert_eq!(code(&refused), 10, "it is no repository yet: {refused:?}");
    let (exit, status) = bench.query(&["--json", "backup", "status"]);
    assert!(exit == 4 && status["status"] == "degraded" && status["copy"]["error"].is_object(), "{status}");
    for _twice in 0..2 {
        let made = bench.run(&["repo", "init-copy"]);
        assert_eq!(code(&made), 0, "{made:?}");
    }
    bench.configure("");
    let (exit, copied) = bench.query(&["--json", "backup", "copy"]);
    let one = &copied["copied"][0];
    assert_eq!((exit, &one["verification"]["findings_total"], &one["recorded"]), (0, &0.into(), &true.into()));
    let (exit, again) = bench.query(&["--json", "backup", "copy"]);
    assert_eq!((exit, &again["copied"], &again["present"]), (0, &serde_json::json!([]), &1.into()));
    let (exit, status) = bench.query(&["--json", "backup", "status"]);
    assert_eq!((exit, &status["copy"]["newest"]), (0, &one["backup"]), "{status}");
    let (_, list) = bench.query(&["--json", "--copy", "backup", "list"]);
    assert_eq!((&list["backups"][0]["id"], &list["backups"][0]["level"]), (&one["backup"], &"L1".into()));

    damage_parts(&repository);
    assert_eq!(code(&bench.run(&["backup", "verify"])), 7);
    assert_eq!(code(&bench.run(&["backup", "verify", "--copy"])), 0);
    let drilled = bench.run(&["drill"]);
    assert_eq!(code(&drilled), 7, "what the copy makes up for is not proven of the repository: {drilled:?}");
    let restored = bench.run(&["--json", "restore", "--yes"]);
    assert_eq!(code(&restored), 0, "{restored:?}");
    let summary = lines(&restored).pop().unwrap().to_string();
    assert!(summary.contains("damaged objects were read from the copy"), "{summary}");

    std::fs::rename(&repository, bench.folder().join("gone")).unwrap();
    let refused = bench.run(&["backup", "list"]);
    assert_eq!(code(&refused), 10);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--copy"), "{refused:?}");
    let drilled = bench.run(&["--copy", "drill"]);
    assert_eq!(code(&drilled), 0, "{drilled:?}");
    let (_, list) = bench.query(&["--json", "--copy", "backup", "list"]);
    assert_eq!(list["backups"][0]["level"], "L3");
}

#[test]
fn health_is_one_document_and_its_exit_code_says_the_same() {
    let Some(bench) = Bench::open("health_is_one_document_and_its_exit_code_says_the_same") else { return };
    for mode in ["monitoring", "pre-recovery"] {
        let (exit, report) = bench.query(&["health", "--mode", mode, "--json"]);
        assert_eq!((&report["type"], &report["mode"]), (&"health".into(), &mode.into()));
        let is_bad = matches!(report["overall"].as_str(), Some("down" | "inconclusive"));
        assert_eq!(exit, if is_bad { 4 } else { 0 }, "{report}");
        assert!(report["answers"].as_array().unwrap().len() > 10, "{report}");
    }
    // A worker that ended in maintenance mode, or after its hour, was begun again by the Engine: for two minutes that counts.
    let deadline = Instant::now() + Duration::from_mins(4);
    loop {
        let (_, monitoring) = bench.query(&["health", "--mode", "monitoring", "--json"]);
        let answers = monitoring["answers"].as_array().unwrap();
        let bad: Vec<_> = answers.iter().filter(|a| a["status"] != "healthy" && a["probe"] != "backup").collect();
        if bad.is_empty() {
            break;
        }
        let is_settling = |a: &&Value| {
            a["probe"] == "container-queue"
                && (a["facts"]["class"] == "starting" || a["facts"]["class"] == "restarting")
        };
        assert!(
            bad.iter().all(is_settling) && Instant::now() < deadline,
            "there is no backup yet, and nothing else is wrong: {bad:?}"
        );
    }
}

#[test]
fn files_are_backed_up_with_the_database_and_come_back_into_a_new_folder() {
    let Some(bench) = Bench::open("files_are_backed_up_with_the_database_and_come_back_into_a_new_folder") else {
        return;
    };
    bench.without_drafted_components();
    bench.configure(
        "[[components]]\nname = \"storage\"\nservice = \"app\"\npath = \"/srv/app/storage\"\n\
         exclude = [\"/framework/\", \"/logs/\"]\n",
    );
    let uploads = "/srv/app/storage/app/uploads/of-a-test";
    let script = format!(
        "mkdir -p {uploads} /srv/app/storage/framework/cache && cd {uploads} && printf one >first && ln -s first link \
         && ln first again && head -c 3000000 /dev/urandom >large && chmod 0640 large && chown -R www-data: . \
         && touch /srv/app/storage/framework/cache/left-out \
         && while [ $(($(date +%s) - $(stat -c %Z large))) -lt 4 ]; do sleep 0.2; done && sha256sum large"
    );
    // A file that changed a moment ago is read again by the next backup: these are older.
    let hash = chaos::shell(bench.stack(), "app", &script).stdout;

    let created = bench.run(&["--json", "backup", "create"]);
    assert_eq!(code(&created), 0, "{created:?}");
    let (_, both) = bench.query(&["--json", "backup", "show"]);
    assert_eq!(both["components"], serde_json::json!(["database", "storage"]));
    // What did not change is not stored twice, and files alone are no answer to a lost database.
    let created = bench.run(&["--json", "backup", "create", "--component", "storage"]);
    assert_eq!(code(&created), 0, "{created:?}");
    let (_, alone) = bench.query(&["--json", "backup", "show"]);
    assert_eq!(alone["components"], serde_json::json!(["storage"]));
    assert_eq!(alone["sources"], serde_json::json!([both["id"]]));
    let (_, status) = bench.query(&["--json", "backup", "status"]);
    assert_eq!(status["newest"]["id"], both["id"]);
    chaos::shell(bench.stack(), "app", &format!("rm -r {uploads}"));

    let refused = bench.run(&["--json", "restore", "--component", "storage"]);
    assert_eq!(code(&refused), 5, "nobody is there to confirm that production is replaced: {refused:?}");
    let target = bench.folder().join("restored");
    let restore = ["--json", "restore", "--component", "storage", "--target", target.to_str().unwrap()];
    let (exit, restored) = bench.query(&restore);
    assert_eq!((exit, &restored["backup"]), (0, &alone["id"]), "{restored}");
    let back = target.join("app/uploads/of-a-test");
    assert_eq!(std::fs::read(back.join("first")).unwrap(), b"one");
    assert_eq!(std::fs::read_link(back.join("link")).unwrap(), Path::new("first"));
    let of = |name: &str| std::fs::metadata(back.join(name)).unwrap();
    assert_eq!((of("first").ino(), of("first").nlink()), (of("again").ino(), 2));
    assert_eq!((of("large").mode() & 0o7777, of("large").uid()), (0o640, 33), "of www-data, as it was");
    let read = Command::new("sha256sum").arg("large").current_dir(&back).output().unwrap();
    assert_eq!(read.stdout, hash);
    assert!(!target.join("framework").exists(), "what is left out stays so");
    let again = bench.run(&restore);
    assert_eq!(code(&again), 6, "nothing is ever written over: {again:?}");

    // In production's place: the upload is back, what is left out stayed, and everybody serves. And back again.
    let replaced = bench.run(&["--json", "restore", "--component", "storage", "--yes"]);
    assert_eq!(code(&replaced), 0, "{replaced:?}");
    let summary = lines(&replaced).pop().unwrap();
    let restarted = summary["achieved"]["restarted"].as_array().unwrap();
    for service in ["app", "nginx", "queue"] {
        assert!(restarted.contains(&service.into()), "{summary}");
    }
    let look =
        format!("sha256sum {uploads}/large | cut -c1-64; ls /srv/app/storage/framework/cache/left-out; ls {uploads}");
    let now = String::from_utf8(chaos::shell(bench.stack(), "app", &look).stdout).unwrap();
    let hash = String::from_utf8(hash).unwrap();
    assert!(now.starts_with(&hash[..64]) && now.contains("left-out") && now.contains("first"), "{now}");
    assert_eq!(outside(bench.stack()).0, 200);
    let undone = bench.run(&["rollback", "--yes"]);
    assert_eq!(code(&undone), 0, "{undone:?}");
    let gone = chaos::shell(bench.stack(), "app", &format!("ls -d {uploads} || true"));
    assert_eq!(String::from_utf8_lossy(&gone.stdout), "");
    chaos::shell(bench.stack(), "app", "rm /srv/app/storage/framework/cache/left-out");
    let pruned = bench.run(&["runs", "prune", "--older-than", "0", "--yes"]);
    assert_eq!(code(&pruned), 0, "{pruned:?}");

    let unknown = bench.run(&["backup", "create", "--component", "nothing"]);
    assert_eq!(code(&unknown), 10, "{unknown:?}");
}

#[test]
fn redis_comes_back_as_it_was_and_a_server_starts_on_it() {
    let Some(bench) = Bench::open("redis_comes_back_as_it_was_and_a_server_starts_on_it") else { return };
    chaos::redis(bench.stack(), &["SET", "of-a-test", "kept"]);
    let created = bench.run(&["--json", "backup", "create", "--component", "redis"]);
    assert_eq!(code(&created), 0, "{created:?}");
    chaos::redis(bench.stack(), &["DEL", "of-a-test"]);

    let target = bench.folder().join("redis");
    let (exit, restored) =
        bench.query(&["--json", "restore", "--component", "redis", "--target", target.to_str().unwrap()]);
    assert_eq!((exit, &restored["unpacked"]["files"]), (0, &1.into()), "{restored}");
    // As the README says: the snapshot first, then the AOF, and from then on both.
    let server = Server::start(bench.stack(), &target, "no");
    server.until(&["GET", "of-a-test"], |answer| answer == "kept");
    server.until(&["CONFIG", "SET", "appendonly", "yes"], |answer| answer == "OK");
    server.until(&["INFO", "persistence"], |info| {
        ["aof_enabled:1", "aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0", "aof_last_bgrewrite_status:ok"]
            .iter()
            .all(|line| info.contains(line))
    });
    drop(server);
    let server = Server::start(bench.stack(), &target, "yes");
    server.until(&["GET", "of-a-test"], |answer| answer == "kept");
}

#[test]
fn what_cannot_be_read_makes_a_backup_incomplete_which_is_no_success() {
    let Some(bench) = Bench::open("what_cannot_be_read_makes_a_backup_incomplete_which_is_no_success") else { return };
    // A file that the kernel lets nobody read, not even root.
    bench
        .configure("[[components]]\nname = \"kernel\"\npath = \"/sys/bus/platform\"\ninclude = [\"/drivers_probe\"]\n");
    let created = bench.run(&["--json", "backup", "create", "--component", "kernel"]);
    assert_eq!(code(&created), 3, "{created:?}");
    let (_, shown) = bench.query(&["--json", "backup", "show"]);
    assert_eq!(shown["incomplete"], serde_json::json!(["kernel"]), "{shown}");
    assert!(shown["warnings"][0].as_str().unwrap().contains("`drivers_probe` could not be read"), "{shown}");
    let target = bench.folder().join("kernel");
    let (exit, restored) =
        bench.query(&["--json", "restore", "--component", "kernel", "--target", target.to_str().unwrap()]);
    assert_eq!((exit, &restored["troubles"]["unreadable"]), (3, &1.into()), "{restored}");
}

#[test]
fn a_component_that_cannot_be_found_is_told_when_the_configuration_is_tried() {
    let Some(bench) = Bench::open("a_component_that_cannot_be_found_is_told_when_the_configuration_is_tried") else {
        return;
    };
    let storage = "/srv/app/storage/app/way-out";
    chaos::shell(bench.stack(), "app", &format!("ln -sfn /etc {storage}"));
    let path = bench.folder().join("chom-recovery.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    for (component, why) in [
        ("service = \"app\"\npath = \"/etc/php\"".to_owned(), "lies in its image"),
        (format!("service = \"app\"\npath = \"{storage}\""), "links are not followed"),
        ("service = \"web\"\npath = \"/srv\"".to_owned(), "has no container"),
        ("volume = \"nothing\"".to_owned(), "there is no volume"),
    ] {
        std::fs::write(&path, format!("{text}\n[[components]]\nname = \"files\"\n{component}\n")).unwrap();
        let checked = bench.run(&["config", "check"]);
        let said = String::from_utf8_lossy(&checked.stdout);
        assert!(code(&checked) != 0 && said.contains(why), "{component}: {checked:?}");
    }
    chaos::shell(bench.stack(), "app", &format!("rm {storage}"));
}

/// Another redis on a folder of this host; gone when dropped.
struct Server(String);

impl Server {
    fn start(stack: &Stack, folder: &Path, appendonly: &str) -> Self {
        let image = chaos::docker(&["inspect", "-f", "{{.Image}}", &format!("{}-redis-1", stack.project)]).stdout;
        let image = String::from_utf8(image).unwrap();
        let mount = format!("{}:/restored", folder.display());
        let run = ["run", "-d", "--network", "none", "--user", "root", "-v", &mount, "--entrypoint", "redis-server"];
        let command = [image.trim(), "--dir", "/restored", "--appendonly", appendonly];
        let started = chaos::docker(&[&run[..], &command].concat()).stdout;
        Self(String::from_utf8(started).unwrap().trim().to_owned())
    }

    fn until(&self, command: &[&str], is_good: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let asked = Command::new("docker").args(["exec", &self.0, "redis-cli"]).args(command).output().unwrap();
            let answer = String::from_utf8_lossy(&asked.stdout);
            if is_good(answer.trim()) {
                return;
            }
            assert!(Instant::now() < deadline, "{command:?}: {answer}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        chaos::docker(&["rm", "-fv", &self.0]);
    }
}

#[test]
fn nobody_there_to_confirm_means_that_nothing_begins() {
    let Some(bench) = Bench::open("nobody_there_to_confirm_means_that_nothing_begins") else { return };
    for arguments in [&["recover", "database"][..], &["restore"], &["recover", "database", "--confirm", "other"]] {
        let output = bench.run(arguments);
        assert_eq!(code(&output), 5, "{arguments:?}: {output:?}");
    }
    let (_, runs) = bench.query(&["--json", "runs", "list"]);
    assert_eq!(runs["items"], Value::Array(vec![]), "no run was begun");
}

/// Has the configuration know a directory of old dumps.
fn with_dumps(bench: &Bench) -> Dumps {
    let dumps = Dumps::new(bench.folder());
    bench.configure(&format!("[legacy]\ndirectory = \"{}\"\ntimezone = \"UTC\"\n", dumps.directory.display()));
    dumps
}

#[test]
fn what_a_backup_holds_is_listed_and_exported_and_tables_are_checked() {
    let Some(bench) = Bench::open("what_a_backup_holds_is_listed_and_exported_and_tables_are_checked") else { return };
    let dumps = with_dumps(&bench);
    assert_eq!(code(&bench.run(&["backup", "contents"])), 10, "there is no backup yet");
    let created = bench.run(&["backup", "create", "--component", "database"]);
    assert_eq!(code(&created), 0, "{created:?}");
    let rows_of = |contents: &Value, table: &str| {
        let tables = contents["tables"].as_array().unwrap().iter();
        tables
            .filter(|t| t["schema"] == "chom" && t["table"] == table)
            .map(|t| t["rows"].as_u64().unwrap())
            .sum::<u64>()
    };
    let (exit, held) = bench.query(&["--json", "backup", "contents"]);
    assert_eq!(
        (exit, &held["type"], &held["problems"]),
        (0, &"backup_contents".into(), &serde_json::json!([])),
        "{held}"
    );
    assert!(rows_of(&held, "users") > 100 && rows_of(&held, "orders") > 100, "{held}");

    let file = dumps.directory.join("mysql/backup-20990101-000000.sql.gz");
    let export = ["--json", "backup", "export", "--output", file.to_str().unwrap()];
    let (exit, exported) = bench.query(&export);
    assert_eq!((exit, &exported["type"]), (0, &"export".into()), "{exported}");
    assert_eq!(exported["tables"].as_u64(), held["tables"].as_array().map(|t| t.len() as u64), "{exported}");
    assert_eq!(code(&bench.run(&export)), 6, "nothing is written over");
    assert_eq!(code(&bench.run(&[&export[..], &["--force"]].concat())), 0);
    assert_eq!(code(&bench.run(&["--json", "backup", "export", "--output", "-"])), 2);
    let stream = bench.run(&["backup", "export", "--output", "-"]);
    assert_eq!(code(&stream), 0);
    // The last line tells when it was written.
    let without_end = |text: Vec<u8>| {
        let text = String::from_utf8_lossy(&text).into_owned();
        text.rsplit_once("-- Dump completed on ").map(|(text, _)| text.to_owned()).expect("an end")
    };
    let file = without_end(dumps.text("mysql/backup-20990101-000000.sql.gz"));
    assert!(without_end(stream.stdout) == file, "the same text, not compressed");

    // What was exported is listed as any dump is, and a cut one is told.
    let (exit, dumped) = bench.query(&["--json", "backup", "contents", "--backup", "legacy:latest"]);
    assert_eq!((exit, rows_of(&dumped, "users")), (0, rows_of(&held, "users")), "{dumped}");
    let text = dumps.text("mysql/backup-20990101-000000.sql.gz");
    dumps.write("mysql/backup-20990101-000000.sql.gz", &text[..text.len() / 2]);
    let (exit, cut) = bench.query(&["--json", "backup", "contents", "--backup", "legacy:latest"]);
    assert!(exit == 7 && !cut["problems"].as_array().unwrap().is_empty(), "{exit}: {cut}");

    let (exit, checked) = bench.query(&["--json", "check"]);
    assert_eq!(
        (exit, &checked["type"], &checked["corrupt"]),
        (0, &"check".into(), &serde_json::json!([])),
        "{checked}"
    );
    assert!(checked["good"].as_u64().unwrap() > 5 && checked["unchecked"] == serde_json::json!([]), "{checked}");
    // No time at all is left for any of them.
    let (exit, hurried) = bench.query(&["--json", "check", "--within", "0"]);
    assert!(exit == 3 && !hurried["unchecked"].as_array().unwrap().is_empty(), "{exit}: {hurried}");
}

#[test]
fn single_tables_come_from_backups_and_from_dumps() {
    let Some(bench) = Bench::open("single_tables_come_from_backups_and_from_dumps") else { return };
    let dumps = with_dumps(&bench);
    let created = bench.run(&["backup", "create", "--component", "database"]);
    assert_eq!(code(&created), 0, "{created:?}");
    let dump = format!("legacy:{}", dumps.dump(bench.stack(), "--all-databases --single-transaction"));
    for (arguments, exit) in [
        (&["--table", "chom"][..], 2),
        (&["--table", "chom.users", "--as", "chom.a", "--table", "chom.orders"], 2),
        (&["--table", "mysql.user", "--yes"], 2),
        (&["--table", "chom.users", "--allow-local-infile"], 5),
        (&["--table", "chom.nothing", "--allow-local-infile", "--yes"], 10),
        (&["--table", "chom.nothing", "--backup", &dump, "--yes"], 10),
    ] {
        let refused = bench.run(&[&["restore"], arguments].concat());
        assert_eq!(code(&refused), exit, "{arguments:?}: {refused:?}");
        bench.run(&["rollback", "--yes"]);
    }
    for (copy, more) in
        [("chom.users_then", &["--allow-local-infile"][..]), ("chom.users_dumped", &["--backup", &dump])]
    {
        let arguments = ["--json", "restore", "--table", "chom.users", "--as", copy];
        let restored = bench.run(&[&arguments[..], more].concat());
        assert_eq!(code(&restored), 0, "nobody has to be asked for a copy: {restored:?}");
        let summary = lines(&restored).pop().unwrap();
        assert_eq!((&summary["type"], &summary["status"]), (&"summary".into(), &"succeeded".into()), "{summary}");
        let done = summary["achieved"]["done"].to_string();
        assert!(done.contains(copy) && done.contains("rows of backup"), "{summary}");
        let undone = bench.run(&["rollback", "--yes"]);
        assert_eq!(code(&undone), 0, "{undone:?}");
    }
    // What the rollbacks took out goes with their journals.
    let prune = ["--json", "runs", "prune", "--older-than", "0"];
    let (exit, listed) = bench.query(&[&prune[..], &["--dry-run"]].concat());
    let schemas = listed["schemas"].as_array().unwrap();
    assert!(exit == 0 && schemas.len() == 2, "{listed}");
    assert!(schemas.iter().all(|s| s["schema"].as_str().unwrap().starts_with("chom_undone_")), "{listed}");
    assert_eq!(code(&bench.run(&prune)), 5, "nobody is there to agree");
    let (exit, pruned) = bench.query(&[&prune[..], &["--yes"]].concat());
    assert_eq!((exit, pruned["schemas"].as_array().map(Vec::len)), (0, Some(2)), "{pruned}");
    let (exit, again) = bench.query(&[&prune[..], &["--dry-run"]].concat());
    assert_eq!((exit, &again["schemas"]), (0, &serde_json::json!([])), "{again}");
}

/// Status and `Retry-After` that a user gets, asked with another client than the library's.
fn outside(stack: &Stack) -> (u16, Option<String>) {
    let resolve = format!("{}:{}:127.0.0.1", stack.host, stack.port);
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "10", "--output", "/dev/null", "--dump-header", "-"])
        .args(["--cacert", stack.ca.to_str().unwrap(), "--resolve", &resolve, &format!("{}/health", stack.url)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let head = String::from_utf8(output.stdout).unwrap();
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    let retry_after = head.lines().filter_map(|line| line.split_once(": "));
    let retry_after = retry_after.filter(|(name, _)| name.eq_ignore_ascii_case("retry-after"));
    (status, retry_after.map(|(_, value)| value.trim().to_owned()).next())
}

#[test]
fn maintenance_is_switched_seen_from_outside_and_off_again_only_when_users_are_served() {
    let Some(bench) = Bench::open("maintenance_is_switched_seen_from_outside_and_off_again_only_when_users_are_served")
    else {
        return;
    };
    chaos::mend(bench.stack());
    assert_eq!(outside(bench.stack()).0, 200);

    let (exit, on) = bench.query(&["--json", "maintenance", "on"]);
    assert_eq!((exit, &on["state"], &on["before"]), (0, &"on".into(), &"off".into()), "{on}");
    assert_eq!(on["record"]["was_down_before"], false);
    assert!(!on["record"]["seen_by"].as_array().unwrap().is_empty(), "{on}");
    let (status, retry_after) = outside(bench.stack());
    assert_eq!(status, 503);
    assert!(retry_after.is_some_and(|after| after.parse::<u32>().is_ok_and(|seconds| seconds > 0)));

    // Again: nothing changes, and that it was on is said.
    let (exit, again) = bench.query(&["--json", "maintenance", "on"]);
    assert_eq!((exit, &again["before"], &again["record"]["was_down_before"]), (0, &"on".into(), &true.into()));

    let (exit, off) = bench.query(&["--json", "maintenance", "off"]);
    assert_eq!((exit, &off["state"], &off["before"]), (0, &"off".into(), &"on".into()), "{off}");
    assert!(!off["served"].as_array().unwrap().is_empty(), "{off}");
    assert_eq!(outside(bench.stack()).0, 200);

    // Off is not the same as served.
    bench.query(&["--json", "maintenance", "on"]);
    chaos::compose(bench.stack(), &["stop", "redis", "mysql"]);
    let (exit, off) = bench.query(&["--json", "maintenance", "off"]);
    chaos::up(bench.stack(), &[]);
    assert_eq!((exit, &off["state"]), (4, &"off".into()), "{off}");
    assert!(off["served"].as_array().unwrap().is_empty() && !off["unserved"].as_array().unwrap().is_empty(), "{off}");
    assert_eq!(outside(bench.stack()).0, 200);
}
