//! What stands beside backups of our own: those of other programs, metrics and timers. Nothing here needs an Engine.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use assert_cmd::Command;
use serde_json::Value;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// A configuration with legacy backups, and an Engine that nobody serves.
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        let dir = place.path().display();
        let text = format!(
            "id = \"shop\"\nstate_dir = \"{dir}/state\"\n[compose]\nproject = \"shop\"\n\
             host = \"unix://{dir}/no-engine.sock\"\n[database]\nservice = \"db\"\npassword = {{ env = \"SHOP_DB\" }}\n\
             [repository]\nurl = \"file:{dir}/backups\"\n\
             [legacy]\ndirectory = \"{dir}/legacy\"\ntimezone = \"Europe/Paris\"\n"
        );
        std::fs::write(place.path().join("chom-recovery.toml"), text).unwrap();
        place.put("mysql/shop-20260102-020000.sql.gz", &gzip(DUMP.as_bytes()));
        place.put("mysql/shop-20260103-020000.sql.gz", &gzip(&DUMP.as_bytes()[..DUMP.len() - 40]));
        std::os::unix::fs::symlink("gone.sql.gz", place.path().join("legacy/mysql/latest.sql.gz")).unwrap();
        place
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.path().join("legacy").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::cargo_bin("chom-recovery").unwrap();
        command.current_dir(self.path()).args(arguments).timeout(Duration::from_mins(1));
        for name in ["CHOM_CONFIG", "DOCKER_HOST", "DOCKER_CONTEXT", "SUDO_USER"] {
            command.env_remove(name);
        }
        command.env("HOME", self.path()).env("USER", "ada").env("TZ", "UTC").output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.run(arguments);
        let text = stdout(&output);
        assert_eq!(text.lines().count(), 1, "one document: {text} {output:?}");
        (code(&output), serde_json::from_str(&text).unwrap())
    }
}

const DUMP: &str = "-- MySQL dump 10.13  Distrib 9.7.0, for Linux (x86_64)\n-- Host: localhost    Database: shop\n\
    -- Server version\t9.7.0\nCREATE TABLE `t` (`id` int);\nINSERT INTO `t` VALUES (1),(2);\n\
    -- Dump completed on 2026-01-02  2:00:09\n";

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("ended by itself")
}

#[test]
fn legacy_backups_are_listed_and_verified_without_engine_or_password() {
    let place = Place::new();
    // There is no repository yet: what scripts made is shown all the same.
    let output = place.run(&["backup", "list"]);
    assert_eq!(code(&output), 10, "{output:?}");
    let text = stdout(&output);
    assert!(text.contains("legacy:mysql/shop-20260102-020000.sql.gz"), "{text}");
    assert!(text.contains("latest.sql.gz -> gone.sql.gz: it leads nowhere"), "{text}");

    assert_eq!(code(&place.run(&["repo", "init", "--encryption", "none", "--pin"])), 0);
    let (exit, list) = place.json(&["--json", "backup", "list"]);
    assert_eq!(exit, 0, "{list}");
    assert_eq!(list["legacy"]["backups"].as_array().unwrap().len(), 2);
    assert_eq!(list["legacy"]["backups"][0]["point"], "2026-01-02T01:00:00Z");

    let (exit, sound) = place.json(&["--json", "backup", "verify", "--backup", "legacy:shop-20260102-020000.sql.gz"]);
    assert_eq!((exit, &sound["contents"]["dump"]["rows"]), (0, &2.into()), "{sound}");
    let cut = place.run(&["backup", "verify", "--backup", "legacy:latest"]);
    assert_eq!(code(&cut), 7, "{cut:?}");
    assert!(stdout(&cut).contains("NOT PROVEN WHOLE"), "{cut:?}");
    assert_eq!(code(&place.run(&["backup", "verify", "--backup", "legacy:absent.sql.gz"])), 10);
    assert_eq!(code(&place.run(&["backup", "verify", "--depth", "l1", "--backup", "legacy:latest"])), 6);
    assert_eq!(code(&place.run(&["backup", "show", "--backup", "legacy:latest"])), 0);
}

/// Debian's `prometheus` package holds it; `tests/run.sh` unpacks it where it is not installed.
fn promtool(test: &str) -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/prometheus/usr/bin/promtool");
    let named = std::env::var_os("CHOM_TEST_PROMTOOL").map(PathBuf::from);
    let found = named.or_else(|| own.exists().then_some(own)).unwrap_or_else(|| "promtool".into());
    let runs = std::process::Command::new(&found).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if runs.is_err() {
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: there is no promtool");
        return None;
    }
    Some(found)
}

fn judged(promtool: &Path, arguments: &[&str], input: &[u8]) -> (bool, String) {
    let mut child = std::process::Command::new(promtool)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

#[test]
fn metrics_are_written_for_a_store_that_answers_and_for_one_that_does_not() {
    let place = Place::new();
    let file = place.path().join("shop.prom");
    let output = place.run(&["metrics", "--output", file.to_str().unwrap()]);
    // No repository: told by the exit code, and by the file.
    assert_eq!(code(&output), 10, "{output:?}");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("chom_recovery_repository_up{system=\"shop\"} 0\n"), "{text}");
    assert!(text.contains("chom_recovery_legacy_links_broken{system=\"shop\"} 1\n"), "{text}");

    assert_eq!(code(&place.run(&["repo", "init", "--encryption", "none", "--pin"])), 0);
    assert_eq!(code(&place.run(&["metrics", "--output", file.to_str().unwrap()])), 0);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("chom_recovery_repository_up{system=\"shop\"} 1\n"), "{text}");
    assert!(text.contains("chom_recovery_backups_usable{system=\"shop\"} 0\n"), "{text}");

    let Some(promtool) = promtool("metrics_are_written_for_a_store_that_answers_and_for_one_that_does_not") else {
        return;
    };
    let (passed, said) = judged(&promtool, &["check", "metrics"], text.as_bytes());
    assert!(passed && said.trim().is_empty(), "{said}");
    let (passed, _) = judged(&promtool, &["check", "metrics"], b"not metrics\n");
    assert!(!passed);
}

/// The rules are not only well formed: they fire when they should, and are silent when all is well.
#[test]
fn the_rules_fire_when_they_should() {
    let test = "the_rules_fire_when_they_should";
    let place = Place::new();
    let output = place.run(&["metrics", "--rules"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let Some(promtool) = promtool(test) else { return };
    let rules = place.path().join("rules.yml");
    std::fs::write(&rules, &output.stdout).unwrap();
    let (passed, said) = judged(&promtool, &["check", "rules", rules.to_str().unwrap()], b"");
    assert!(passed && said.contains("11 rules found"), "{said}");

    // One day is allowed; time begins at 0 in these tests.
    let cases = r#"
rule_files: [rules.yml]
evaluation_interval: 5m
tests:
  - interval: 5m
    input_series:
      - series: 'chom_recovery_backup_point_timestamp_seconds{system="shop",component="database"}'
        values: '0x600'
      - series: 'chom_recovery_metrics_timestamp_seconds{system="shop"}'
        values: '0+300x600'
      - series: 'chom_recovery_repository_up{system="shop"}'
        values: '1x300 0x300'
      - series: 'chom_recovery_drill_rto_seconds{system="shop"}'
        values: '60x300 6000x300'
      - series: 'chom_recovery_rto_objective_seconds{system="shop"}'
        values: '1800x600'
    alert_rule_test:
      - {alertname: ChomRecoveryBackupTooOld, eval_time: 12h, exp_alerts: []}
      - {alertname: ChomRecoveryBackupMissing, eval_time: 12h, exp_alerts: []}
      - {alertname: ChomRecoveryMetricsStale, eval_time: 12h, exp_alerts: []}
      - {alertname: ChomRecoveryRepositoryDown, eval_time: 12h, exp_alerts: []}
      - {alertname: ChomRecoveryDrillTooSlow, eval_time: 12h, exp_alerts: []}
      - alertname: ChomRecoveryBackupTooOld
        eval_time: 26h
        exp_alerts:
          - exp_labels: {severity: critical, system: shop, component: database}
            exp_annotations:
              summary: The newest backup of database of shop is older than 86400 s
              action: chom-recovery backup create
      - alertname: ChomRecoveryRepositoryDown
        eval_time: 30h
        exp_alerts:
          - exp_labels: {severity: critical, system: shop}
            exp_annotations: {summary: The backup repository of shop cannot be read, action: chom-recovery config check}
      - alertname: ChomRecoveryDrillTooSlow
        eval_time: 30h
        exp_alerts:
          - exp_labels: {severity: warning, system: shop}
            exp_annotations:
              summary: A recovery of shop would take longer than its RTO allows
              action: chom-recovery runs show
"#;
    let file = place.path().join("cases.yml");
    std::fs::write(&file, cases).unwrap();
    let (passed, said) = judged(&promtool, &["test", "rules", file.to_str().unwrap()], b"");
    assert!(passed, "{said}");
}

#[test]
fn timers_are_printed_without_secrets_and_written_where_told() {
    let place = Place::new();
    let printed = place.run(&["schedule", "install", "--print", "--textfile", "/var/lib/node/shop.prom"]);
    assert_eq!(code(&printed), 0, "{printed:?}");
    let text = stdout(&printed);
    for name in ["backup", "verify", "drill", "prune", "metrics"] {
        assert!(text.contains(&format!("# /etc/systemd/system/chom-recovery-shop-{name}.timer\n")), "{text}");
    }
    assert!(!text.contains("SHOP_DB"), "{text}");
    assert!(String::from_utf8_lossy(&printed.stderr).contains("SHOP_DB"), "what a unit lacks is told");

    let folder = place.path().join("units");
    std::fs::create_dir(&folder).unwrap();
    let written = place.run(&["schedule", "install", "--directory", folder.to_str().unwrap()]);
    assert_eq!(code(&written), 0, "{written:?}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 8);
}
