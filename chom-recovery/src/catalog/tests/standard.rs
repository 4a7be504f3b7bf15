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
        facts: Facts {
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
            },
        },
        components: vec![ComponentRecord {
            name: "database".parse().unwrap(),
            kind: ComponentKind::Logical,
            order: 0,
            compression: Compression::Zstd,
            parts: 1,
            stored_len: 20,
            plain_len: 12,
            blake3: Hash([1; 32]),
            index_sha256: Hash([2; 32]),
            index_len: 300,
        }],
    };
    let sealed = Signer::from_seed(&[7; 32]).seal(sign::MANIFEST, &manifest.encode().unwrap());
    insta::assert_snapshot!(std::str::from_utf8(&sealed).unwrap());
}

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/catalog/tests/golden/format-1")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// F66: a repository that an earlier version wrote is readable for ever.
#[tokio::test]
async fn the_golden_repository_of_format_1_is_read() {
    let folder = tempfile::tempdir().unwrap();
    copy(&golden(), folder.path());
    let signer = Signer::from_seed(&[7; 32]);
    let store: Arc<dyn BackupStore> = Arc::new(LocalStore::open(folder.path()).unwrap());
    let repository = Repository::open(store, signer.id().into()).await.unwrap();
    let catalog = Catalog::new(&repository, &system("chom"));
    let info = catalog.select(&Selector::Tag("golden".parse().unwrap())).await.unwrap();
    assert_eq!((info.level, info.plain_len), (Some(Level::L2), 35));
    assert_eq!(content(&repository, &info.place).await.unwrap(), ["1\tann\n2\tbob\n", "", "CREATE TABLE users\n"]);
    let reader = catalog.open(&info.place).await.unwrap();
    let notes = reader.component("notes").await.unwrap();
    assert_eq!(notes.record().compression, Compression::Gzip);
    assert_eq!(stream::collect(notes.read_all(), 100).await.unwrap(), "kept");
}

/// Runs the commands that the documentation of the format gives, as they stand there.
#[tokio::test]
async fn the_documented_commands_read_a_backup() {
    for tool in ["zstd", "openssl", "jq", "xxd", "sha256sum"] {
        if Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().is_ok_and(|o| !o.status.success()) {
            eprintln!("SKIPPED: `{tool}` is not installed");
            return;
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let (root, scratch) = (folder.path().join("repository"), folder.path().join("scratch"));
    std::fs::create_dir(&scratch).unwrap();
    let world = World::new().await;
    let store = LocalStore::create(&root).unwrap();
    let info = world.backup(&["1\tann\n", "2\tbob\n", "3\tcarol\n"]).await;
    for key in world.keys("").await {
        store.put_new(&key, stream::once(world.object(&key).await)).await.unwrap();
    }
    let text = include_str!("../../docs/format.md");
    let script = text.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let script = script.replace("/tmp/", &format!("{}/", scratch.display()));
    let run = |signer: String| {
        Command::new("sh")
            .args(["-ec", &script])
            .env("REPOSITORY", &root)
            .env("HOST_ID", info.host().as_str())
            .env("SYSTEM", info.system().as_str())
            .env("ULID", info.id().to_string())
            .env("SIGNER", signer)
            .output()
            .unwrap()
    };
    let output = run(world.signer.id().to_string());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(std::fs::read_to_string(scratch.join("database")).unwrap(), "1\tann\n2\tbob\n3\tcarol\n");
    // The commands are no ornament: they notice what they are there to notice.
    assert!(!run(Signer::from_seed(&[9; 32]).id().to_string()).status.success(), "another key");
    let manifest = root.join(info.place.manifest().as_str());
    let whole = std::fs::read(&manifest).unwrap();
    std::fs::write(
        &manifest,
        String::from_utf8(whole.clone()).unwrap().replace("\"rows\"", "\"r0ws\"").replace("chom\"", "ch0m\""),
    )
    .unwrap();
    assert!(!run(world.signer.id().to_string()).status.success(), "a changed manifest");
    std::fs::write(&manifest, whole).unwrap();
    let part = root.join(info.place.part(&"database".parse().unwrap(), 1).as_str());
    std::fs::write(part, zstd::encode_all(&b"2\tbox\n"[..], 3).unwrap()).unwrap();
    assert!(!run(world.signer.id().to_string()).status.success(), "a changed part");
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
