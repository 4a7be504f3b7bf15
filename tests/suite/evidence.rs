//! `evidence collect` on the reference stack: whole, proven, and without a secret; and where Engine or disk do not help.

use std::{
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
    process::Command,
};

use chom_recovery_tests::{
    chaos,
    cli::{Bench, code, lines},
    skip, watch,
};
use serde_json::Value;

/// An error that names a secret, as an application in need logs it, with its trace.
const LEAK: &str = r#"[2036-01-02 02:00:00] production.CRITICAL: login refused {"exception":"[object] (App\\Exceptions\\Leak(code: 0): "#;

fn document(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn folder(bundle: &Value) -> PathBuf {
    PathBuf::from(bundle["manifest"]["directory"].as_str().unwrap_or_else(|| panic!("{bundle:#}")))
}

#[test]
fn a_bundle_is_whole_and_proven_and_holds_no_secret() {
    let Some(bench) = Bench::open("a_bundle_is_whole_and_proven_and_holds_no_secret") else { return };
    let secrets = bench.stack().secrets();
    let created = bench.run(&["--json", "backup", "create", "--component", "database"]);
    assert_eq!(code(&created), 0, "{created:?}");
    let log = "/srv/app/storage/logs/laravel.log";
    for secret in &secrets {
        let line = format!("{LEAK}{secret}\n#0 /srv/app/x.php(3): ERROR\n\n");
        let script = format!("cat >>{log} <<'LINE'\n{line}LINE\nchown www-data:www-data {log}");
        chaos::shell(bench.stack(), "app", &script);
        chaos::shell(bench.stack(), "app", &format!("echo 'password is {secret}' >/proc/1/fd/2"));
    }

    let (exit, bundle) = bench.query(&["--json", "evidence", "collect", "--operator", "ada"]);
    assert_eq!(exit, 0, "{bundle:#}");
    let at = folder(&bundle);
    assert!(at.starts_with(bench.folder().join("state/evidence")), "{}", at.display());
    secrets.iter().for_each(|secret| watch::assert_clean(&at, secret));
    assert_eq!(std::fs::metadata(&at).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in std::fs::read_dir(&at).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
    }

    // The runbook's five groups.
    assert!(document(&at.join("health.json"))["answers"].as_array().unwrap().len() > 10);
    for service in ["mysql", "redis", "app", "nginx", "queue", "scheduler"] {
        let text = std::fs::read_to_string(at.join(format!("log-{}-{service}-1.txt", bench.stack().project))).unwrap();
        assert!(service != "app" || text.contains(" err password is [redacted]"), "{text}");
    }
    assert!(!document(&at.join("backups.json"))["backups"].as_array().unwrap().is_empty());
    let errors = document(&at.join("errors.json"));
    let leaks = errors["groups"].as_array().unwrap().iter().find(|g| g["what"] == "App\\Exceptions\\Leak");
    let leaks = leaks.unwrap_or_else(|| panic!("{errors:#}"));
    assert_eq!((&leaks["level"], leaks["count"].as_u64()), (&"critical".into(), Some(secrets.len() as u64)), "{leaks}");
    assert_eq!(document(&at.join("usage.json")).as_array().unwrap().len(), 3, "a series, not a sample");
    let filesystems = document(&at.join("filesystems.json"));
    let holds = |what: &str| {
        let all = filesystems.as_array().unwrap();
        all.iter().find(|f| f["holds"].as_array().unwrap().iter().any(|h| h == what)).cloned()
    };
    assert!(holds("evidence").is_some_and(|f| f["free_bytes"].as_u64() > Some(0)), "{filesystems:#}");
    let host = std::fs::read_to_string(at.join("host.txt")).unwrap();
    assert!(host.contains("MemAvailable") && host.contains("killed for want of memory"), "{host}");
    assert_eq!(document(&at.join("custody.json"))["gathered_by"], "ada");

    // Proven now, and not any more once a byte differs.
    let shown = at.to_str().unwrap();
    let hash = bundle["manifest_sha256"].as_str().unwrap();
    let (exit, proof) = bench.query(&["--json", "evidence", "verify", shown, "--sha256", hash]);
    assert_eq!((exit, &proof["findings"]), (0, &serde_json::json!([])), "{proof:#}");
    assert_eq!(code(&bench.run(&["evidence", "verify", shown, "--sha256", &"0".repeat(64)])), 7);
    let text = std::fs::read_to_string(at.join("host.txt")).unwrap();
    std::fs::write(at.join("host.txt"), text.replacen("Mem", "mem", 1)).unwrap();
    let changed = bench.run(&["evidence", "verify", shown]);
    assert_eq!(code(&changed), 7, "{changed:?}");
    assert!(String::from_utf8_lossy(&changed.stderr).contains("host.txt"), "{changed:?}");
    // What is there is never mixed with what comes.
    let again = bench.run(&["evidence", "collect", "--output", shown]);
    assert_eq!(code(&again), 6, "{again:?}");
    chaos::shell(bench.stack(), "app", &format!("sed -i '/Exceptions.*Leak/d' {log}"));
}

#[test]
fn a_silent_engine_leaves_what_can_be_had_without_it() {
    let Some(bench) = Bench::open("a_silent_engine_leaves_what_can_be_had_without_it") else { return };
    let socket = bench.folder().join("silent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        // Connections are accepted, and nothing is ever said.
        let mut open = Vec::new();
        open.extend(listener.incoming().flatten());
    });
    let engine = format!("unix://{}", socket.display());
    let output = bench.run(&["--json", "--host", &engine, "evidence", "collect"]);
    assert_eq!(code(&output), 3, "{output:?}");
    let bundle = lines(&output).remove(0);
    let at = folder(&bundle);
    for file in ["backups.json", "custody.json", "filesystems.json", "health.json", "host.txt"] {
        assert!(at.join(file).exists(), "{file}: {bundle:#}");
    }
    let missing: Vec<_> = bundle["manifest"]["missing"].as_array().unwrap().iter().collect();
    assert!(missing.iter().any(|m| m["what"] == "logs"), "{bundle:#}");
    assert!(bundle["manifest"]["took_ms"].as_u64().unwrap() <= 60_000, "{bundle:#}");
    assert_eq!(code(&bench.run(&["evidence", "verify", at.to_str().unwrap()])), 0);
}

/// A small disk in memory.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(at).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_disk_without_room_is_refused_and_another_one_is_chosen() {
    const TEST: &str = "a_disk_without_room_is_refused_and_another_one_is_chosen";
    let Some(bench) = Bench::open(TEST) else { return };
    let Some(small) = Small::mount(&bench.folder().join("small")) else {
        return skip(TEST, "a tmpfs cannot be mounted here");
    };
    let named = small.0.join("evidence");
    let refused = bench.run(&["evidence", "collect", "--output", named.to_str().unwrap()]);
    assert_eq!(code(&refused), 6, "{refused:?}");
    assert!(!named.exists(), "nothing half-done");

    let file = bench.folder().join("chom-recovery.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let state = format!("{}/state", bench.folder().display());
    assert!(text.contains(&state), "{text}");
    std::fs::write(&file, text.replace(&state, &format!("{}/state", small.0.display()))).unwrap();
    let output = bench.run(&["--json", "evidence", "collect"]);
    let bundle = lines(&output).remove(0);
    let at = folder(&bundle);
    assert!(!at.starts_with(&small.0), "{bundle:#}");
    let notes = bundle["manifest"]["notes"].as_array().unwrap();
    assert!(notes.iter().any(|n| n.as_str().is_some_and(|n| n.contains("another place was chosen"))), "{bundle:#}");
    assert_eq!(code(&bench.run(&["evidence", "verify", at.to_str().unwrap()])), 0);
    std::fs::remove_dir_all(at).unwrap();
}
