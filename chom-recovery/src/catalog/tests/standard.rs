//! The format does not change, and standard tools can read it.

use std::{path::Path, process::Command};

use super::*;
use crate::store::local::LocalStore;

/// The bytes of format 1 for ever: what changes them makes a new format.
#[test]
fn the_bytes_of_a_manifest_do_not_change() {
    let time = |t: &str| t.parse().unwrap();
    let manifest = Manifest {
        format: 1,
        min_reader: 1,
        id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(),
        repository: "000102030405060708090a0b0c0d0e0f".parse().unwrap(),
        host: "0123456789abcdef".parse().unwrap(),
        system: system("chom"),
        created: time("2026-03-01T03:00:09Z"),
        tool: "chom-recovery 0.1.0".into(),
        recipients: Vec::new(),
        facts: PublicFacts {
            capture: Capture {
                begin: time("2026-03-01T03:00:00Z"),
                point: time("2026-03-01T03:00:01.5Z"),
                end: time("2026-03-01T03:00:08Z"),
            },
            run: Some("run-1".into()),
            compose: Some(ComposeFacts {
                project: "chom".into(),
                config_hash: None,
                images: [("mysql".to_owned(), "sha256:00".to_owned())].into(),
            }),
            database: Some(DatabaseFacts {
                flavour: Flavour::Mysql,
                version: "9.7.0".into(),
                server_uuid: Some("3e11fa47-71ca-11e1-9e33-c80aa9429562".into()),
                position: Some(BinlogPosition { file: "binlog.000002".into(), offset: 157 }),
                gtid_set: Some("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5".into()),
                variables: [("lower_case_table_names".to_owned(), "0".to_owned())].into(),
            }),
            tags: ["nightly".parse().unwrap()].into(),
            notes: [("app_key".to_owned(), "fingerprint".to_owned())].into(),
        },
        details: Some(PrivateFacts {
            warnings: vec!["table `chom`.`log` is not transactional".into()],
            baselines: Baselines {
                tables: vec![TableBaseline {
                    schema: "chom".into(),
                    table: "users".into(),
                    rows: 2,
                    checksum: Some("ab".into()),
                }],
                objects: [("views".to_owned(), 1)].into(),
                accounts: Some(3),
                counts: [("redis_keys".to_owned(), 4)].into(),
            },
            notes: std::collections::BTreeMap::new(),
        }),
        sealed: None,
        components: vec![ComponentRecord {
            name: "database".parse().unwrap(),
            kind: ComponentKind::Logical,
            order: 0,
            compression: Compression::Zstd,
            encryption: Cipher::None,
            parts: 2,
            stored_len: 30,
            own_len: 20,
            plain_len: 12,
            sources: ["01AN4Z07BY79KA1307SR9X4MV3".parse().unwrap()].into(),
            index_sha256: Hash([2; 32]),
            index_len: 300,
            facts: ComponentFacts { entries: Some(2), ..ComponentFacts::default() },
        }],
    };
    let sealed = Signer::from_seed(&[7; 32]).seal(sign::MANIFEST, &manifest.encode().unwrap());
    insta::assert_snapshot!(std::str::from_utf8(&sealed).unwrap());
}

/// Runs the commands that the documentation of the format gives, as they stand there.
#[tokio::test]
async fn the_documented_commands_read_a_backup() {
    if lacks(&["zstd", "openssl", "jq", "xxd", "sha256sum"]) {
        return;
    }
    read_by_hand(&World::new().await).await;
}

#[tokio::test]
async fn the_documented_commands_read_an_encrypted_backup() {
    if lacks(&["age", "zstd", "openssl", "jq", "xxd", "sha256sum"]) {
        return;
    }
    read_by_hand(&World::encrypted().await).await;
}

fn lacks(tools: &[&str]) -> bool {
    let is_there = |tool: &&&str| {
        let looked = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output();
        looked.is_ok_and(|o| o.status.success())
    };
    let Some(missing) = tools.iter().find(|tool| !is_there(tool)) else { return false };
    eprintln!("SKIPPED: `{missing}` is not installed");
    true
}

async fn read_by_hand(world: &World) {
    let folder = tempfile::tempdir().unwrap();
    let (root, scratch) = (folder.path().join("repository"), folder.path().join("scratch"));
    std::fs::create_dir(&scratch).unwrap();
    let store = LocalStore::create(&root).unwrap();
    // The first part lies in an earlier backup.
    let earlier = world.backup(&["0\tzoe\n", "1\tann\n"]).await;
    world.pass(1);
    let reader = BackupReader::open(&world.repository, earlier.place.clone()).await.unwrap();
    let shared = reader.component("database").await.unwrap().parts()[1].clone();
    let mut writer = world.begin().await;
    let component = writer.component(database()).unwrap();
    component.reuse_part(0, earlier.id(), &shared).await.unwrap();
    component.put(1, rows(1), stream::once("2\tbob\n")).await.unwrap();
    component.put(12, rows(1), stream::once("3\tcarol\n")).await.unwrap();
    let mut facts = world.facts();
    facts.warnings.push("a warning".into());
    let info = writer.finish(facts).await.unwrap();
    for key in world.keys("").await {
        store.put_new(&key, stream::once(world.object(&key).await)).await.unwrap();
    }
    let identity = scratch.join("identity");
    std::fs::write(&identity, ESCROW).unwrap();
    let text = include_str!("../../docs/format.md");
    let script = text.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let script = script.replace("/tmp/", &format!("{}/", scratch.display()));
    let run = |signer: String| {
        Command::new("sh")
            .args(["-euc", &script])
            .env("REPOSITORY", &root)
            .env("HOST_ID", info.host().as_str())
            .env("SYSTEM", info.system().as_str())
            .env("ULID", info.id().to_string())
            .env("SIGNER", signer)
            .env("IDENTITY", &identity)
            .output()
            .unwrap()
    };
    let output = run(world.signer.id().to_string());
    assert!(output.status.success(), "{output:?}");
    let read = |name: &str| std::fs::read_to_string(scratch.join(name)).unwrap();
    assert_eq!(read("database"), "1\tann\n2\tbob\n3\tcarol\n");
    assert!(read("details").contains("a warning"));
    assert_eq!(read("parts").matches("\"table\":\"users\"").count(), 3);
    // The commands are no ornament: they notice what they are there to notice.
    assert!(!run(Signer::from_seed(&[9; 32]).id().to_string()).status.success(), "another key");
    let fails_with = |path: &Path, bytes: Vec<u8>, what: &str| {
        let whole = std::fs::read(path).unwrap();
        std::fs::write(path, bytes).unwrap();
        assert!(!run(world.signer.id().to_string()).status.success(), "{what}");
        std::fs::write(path, whole).unwrap();
    };
    let manifest = root.join(info.place.manifest().as_str());
    let whole = String::from_utf8(std::fs::read(&manifest).unwrap()).unwrap();
    fails_with(&manifest, whole.replace("\"logical\"", "\"physical\"").into(), "a changed manifest");
    let database = "database".parse().unwrap();
    let other = zstd::encode_all(&b"2\tbox\n"[..], 3).unwrap();
    fails_with(&root.join(info.place.part(&database, 1).as_str()), other.clone(), "a changed part");
    fails_with(&root.join(earlier.place.part(&database, 1).as_str()), other, "a changed part of the earlier backup");
    if world.repository.file().encryption == Cipher::Age {
        fails_with(&identity, SUCCESSOR.into(), "another identity");
    }
    assert!(run(world.signer.id().to_string()).status.success(), "mended");
}

/// OpenSSL reads the key file, and finds the public half that we print.
#[test]
fn the_key_file_is_what_openssl_reads() {
    let state = tempfile::tempdir().unwrap();
    let signer = Signer::load_or_create(state.path(), &system("chom")).unwrap();
    let output = Command::new("openssl")
        .args(["pkey", "-pubout", "-outform", "DER", "-in"])
        .arg(Signer::path(state.path(), &system("chom")))
        .output();
    let Ok(output) = output else {
        eprintln!("SKIPPED: `openssl` is not installed");
        return;
    };
    assert!(output.status.success(), "{output:?}");
    assert_eq!(hex::encode(&output.stdout[output.stdout.len() - 32..]), signer.id().to_string());
}
