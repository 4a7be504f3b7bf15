//! A machine that has nothing: no project, no configuration, no key of its own, but the program, an identity and the
//! address of the repository. It takes the stack down to the last volume and file, so it is the last test of a stack.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Instant};

use chom_recovery_tests::{
    chaos,
    cli::{Bench, code, lines},
    remote::Machine,
};

/// Identities of nobody: they protect nothing but the data of tests.
const OPERATOR: &str = include_str!("../../chom-recovery/src/catalog/tests/golden/operator.identity");
const ESCROW: &str = include_str!("../../chom-recovery/src/catalog/tests/golden/escrow.identity");

/// An upload of a user.
const UPLOAD: &str = "/srv/app/storage/app/uploads/of-a-lost-machine";

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
    assert_eq!(
        shown["components"],
        serde_json::json!(["database", "app_storage", "certs", "app", "nginx", "redis", "config"])
    );
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

/// What has to be there again: an upload, a key of redis, the very certificate.
fn looks(bench: &Bench) -> [String; 3] {
    let compose = |arguments: &[&str]| {
        let file = bench.stack().compose.to_str().unwrap();
        bench.docker(&[&["compose", "-f", file, "exec", "-T"], arguments].concat())
    };
    [
        compose(&["app", "sha256sum", UPLOAD]),
        compose(&["redis", "redis-cli", "GET", "of-a-test"]),
        compose(&["nginx", "openssl", "x509", "-noout", "-serial", "-in", "/etc/nginx/certs/tls.crt"]),
    ]
}

/// Images of the stack.
fn images(bench: &Bench) -> Vec<String> {
    let filter = format!("label=com.docker.compose.project={}", bench.stack().project);
    let names = bench.docker(&["ps", "--all", "--filter", &filter, "--format", "{{.Image}}"]);
    let names: std::collections::BTreeSet<_> = names.lines().map(str::to_owned).collect();
    names.into_iter().collect()
}

#[test]
fn everything_comes_back_on_a_machine_that_has_nothing_but_a_key_and_an_address() {
    let test = "everything_comes_back_on_a_machine_that_has_nothing_but_a_key_and_an_address";
    let Some(mut bench) = Bench::drafted(test) else { return };
    // Without root there is but one Engine: the machine is the same then, with nothing on it.
    let machine = Machine::start(test);
    let stack = bench.stack().clone();
    chaos::mend(&stack);
    let keys = tempfile::tempdir().unwrap();
    let identity = keys.path().join("escrow");
    fs::write(&identity, ESCROW).unwrap();
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o600)).unwrap();

    let make = format!("mkdir -p $(dirname {UPLOAD}) && head -c 300000 /dev/urandom >{UPLOAD}");
    chaos::shell(&stack, "app", &make);
    chaos::redis(&stack, &["SET", "of-a-test", "kept"]);
    let looked = looks(&bench);
    let signer = back_up(&bench, &identity);

    // The disaster: containers, volumes, the folder of the project, state and configuration.
    let images = images(&bench);
    chaos::compose(&stack, &["down", "--volumes"]);
    let facts = fs::read(stack.site.join("facts.json")).unwrap();
    fs::remove_dir_all(&stack.site).unwrap();
    fs::remove_dir_all(bench.folder().join("state")).unwrap();
    fs::remove_file(bench.folder().join("chom-recovery.toml")).unwrap();
    let is_elsewhere = machine.is_some();
    if let Some(machine) = machine {
        bench.move_to(machine, &images);
    }

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
    let compose = ["compose", "-f", stack.compose.to_str().unwrap()];
    bench.docker(&[&compose[..], &["create"]].concat());
    for component in ["app", "nginx", "app_storage", "certs", "redis"] {
        let restored = bench.run(&["--json", "restore", "--component", component, "--yes"]);
        assert_eq!(code(&restored), 0, "{component}: {restored:?}");
        let summary = lines(&restored).pop().unwrap();
        assert_eq!(summary["achieved"]["component"], component, "{summary}");
    }
    // The database is new and empty; nothing else can be well yet.
    bench.try_docker(&[&compose[..], &["up", "--detach"]].concat());
    let recovered = bench.run(&["--json", "recover", "database", "--yes"]);
    assert_eq!(code(&recovered), 0, "{recovered:?}");
    println!("everything is back after {} s", begun.elapsed().as_secs());

    assert_eq!(looks(&bench), looked);
    let (exit, health) = bench.query(&["--json", "health", "--mode", "post-recovery"]);
    assert_eq!(exit, 0, "{health}");
    // This machine takes backups of its own from now on.
    let (_, list) = bench.query(&["--json", "backup", "list"]);
    let signers: std::collections::BTreeSet<_> =
        list["backups"].as_array().unwrap().iter().map(|b| b["signer"].as_str().unwrap()).collect();
    assert_eq!(signers.len(), 2, "{list}");
    let level = if is_elsewhere { "L4" } else { "L3" };
    assert_eq!(list["backups"][0]["level"], level, "a whole recovery was done with it: {list}");
    bench.docker(&[&compose[..], &["down", "--volumes"]].concat());
    fs::write(stack.site.join("facts.json"), facts).unwrap();
}
