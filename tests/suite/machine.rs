//! A machine that has nothing: no project, no configuration, no key of its own, but the program, an identity and the
//! address of the repository. It takes the stack down to the last volume and file, so it is the last test of a stack.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Instant};

use chom_recovery_tests::{
    Stack, chaos,
    cli::{Bench, code, lines},
};

/// Identities of nobody: they protect nothing but the data of tests.
const OPERATOR: &str = include_str!("../../chom-recovery/src/catalog/tests/golden/operator.identity");
const ESCROW: &str = include_str!("../../chom-recovery/src/catalog/tests/golden/escrow.identity");

fn recipient(identity: &str) -> &str {
    identity.lines().find_map(|line| line.strip_prefix("# public key: ")).expect("age-keygen writes it")
}

/// Makes an encrypted repository and takes a backup of everything; returns the line of the card that names the key.
fn back_up(bench: &Bench, identity: &Path) -> String {
    let made = bench.run(&[
        "repo",
        "init",
        "--encryption",
        "age",
        "--recipient",
        recipient(OPERATOR),
        "--recipient",
        recipient(ESCROW),
        "--escrow-identity",
        identity.to_str().unwrap(),
        "--pin",
    ]);
    assert_eq!(code(&made), 0, "{made:?}");
    let checked = bench.run(&["config", "check"]);
    assert_eq!(code(&checked), 0, "{checked:?}");
    let created = bench.run(&["--json", "backup", "create"]);
    assert_eq!(code(&created), 0, "{created:?}");
    let (_, shown) = bench.query(&["--json", "backup", "show"]);
    assert_eq!(shown["components"], serde_json::json!(["database", "app_storage", "certs", "redis", "config"]));
    let (_, card) = bench.query(&["--json", "card"]);
    card["places"]
        .as_array()
        .unwrap()
        .iter()
        .find(|line| line["what"] == "backups are signed by")
        .and_then(|line| line["text"].as_str())
        .expect("the card names the key")
        .to_owned()
}

fn serial(stack: &Stack) -> String {
    let shown = chaos::shell(stack, "nginx", "openssl x509 -noout -serial -in /etc/nginx/certs/tls.crt");
    String::from_utf8_lossy(&shown.stdout).trim().to_owned()
}

#[test]
fn everything_comes_back_on_a_machine_that_has_nothing_but_a_key_and_an_address() {
    let test = "everything_comes_back_on_a_machine_that_has_nothing_but_a_key_and_an_address";
    let Some(bench) = Bench::drafted(test) else { return };
    let stack = bench.stack().clone();
    chaos::mend(&stack);
    let keys = tempfile::tempdir().unwrap();
    let identity = keys.path().join("escrow");
    fs::write(&identity, ESCROW).unwrap();
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o600)).unwrap();

    // What has to be there again: rows, uploads, keys of redis, the very certificate.
    let upload = "/srv/app/storage/app/uploads/of-a-lost-machine";
    let made = chaos::shell(
        &stack,
        "app",
        &format!("mkdir -p $(dirname {upload}) && head -c 300000 /dev/urandom >{upload} && sha256sum {upload}"),
    );
    let uploaded = String::from_utf8(made.stdout).unwrap();
    chaos::redis(&stack, &["SET", "of-a-test", "kept"]);
    let certificate = serial(&stack);
    let signer = back_up(&bench, &identity);

    // The disaster: containers, volumes, the folder of the project, state and configuration.
    chaos::compose(&stack, &["down", "--volumes"]);
    let facts = fs::read(stack.site.join("facts.json")).unwrap();
    fs::remove_dir_all(&stack.site).unwrap();
    fs::remove_dir_all(bench.folder().join("state")).unwrap();
    fs::remove_file(bench.folder().join("chom-recovery.toml")).unwrap();

    let begun = Instant::now();
    let from = format!("file:{}/repository", bench.folder().display());
    let recall = ["config", "recover", "--from", &from, "--identity", identity.to_str().unwrap()];
    let nobody = bench.run(&recall);
    assert_eq!(code(&nobody), 2, "nobody said whose backups are believed: {nobody:?}");
    let stranger = bench.run(&[&recall[..], &["--signer", &"ab".repeat(32)]].concat());
    assert!(code(&stranger) != 0 && !bench.folder().join("chom-recovery.toml").exists(), "{stranger:?}");
    let recalled = bench.run(&[&recall[..], &["--signer", &signer]].concat());
    assert_eq!(code(&recalled), 0, "{recalled:?}");
    assert_eq!(bench.system().compose.project, stack.project);

    let site = stack.site.to_str().unwrap();
    let restored = bench.run(&["restore", "--component", "config", "--target", site]);
    assert_eq!(code(&restored), 0, "{restored:?}");
    chaos::compose(&stack, &["create"]);
    for component in ["app_storage", "certs", "redis"] {
        let restored = bench.run(&["--json", "restore", "--component", component, "--yes"]);
        assert_eq!(code(&restored), 0, "{component}: {restored:?}");
        let summary = lines(&restored).pop().unwrap();
        assert_eq!(summary["achieved"]["component"], component, "{summary}");
    }
    // The database is new and empty; nothing else can be well yet.
    chaos::try_compose(&stack, &["up", "--detach"]);
    let recovered = bench.run(&["--json", "recover", "database", "--yes"]);
    assert_eq!(code(&recovered), 0, "{recovered:?}");
    println!("everything is back after {} s", begun.elapsed().as_secs());

    let back = chaos::shell(&stack, "app", &format!("sha256sum {upload}"));
    assert_eq!(String::from_utf8(back.stdout).unwrap(), uploaded);
    assert_eq!(chaos::redis(&stack, &["GET", "of-a-test"]).trim(), "kept");
    assert_eq!(serial(&stack), certificate, "no new certificate was made");
    let (exit, health) = bench.query(&["--json", "health", "--mode", "post-recovery"]);
    assert_eq!(exit, 0, "{health}");
    // This machine takes backups of its own from now on.
    let (_, list) = bench.query(&["--json", "backup", "list"]);
    let signers: std::collections::BTreeSet<_> =
        list["backups"].as_array().unwrap().iter().map(|b| b["signer"].as_str().unwrap()).collect();
    assert_eq!(signers.len(), 2, "{list}");
    fs::write(stack.site.join("facts.json"), facts).unwrap();
}
