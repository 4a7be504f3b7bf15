//! F66: repositories that an earlier version wrote are readable for ever.
//!
//! Each folder below `golden/` was written once, by [`a_golden_repository_is_written`], and is never written again: a
//! version that cannot read it has broken the format.

use std::path::{Path, PathBuf};

use super::*;
use crate::store::local::LocalStore;

const SEED: [u8; 32] = [7; 32];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/catalog/tests/golden").join(name)
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

/// Opens a copy of a golden repository: opening must not change what is checked in.
async fn open(name: &str, with: Identities) -> (Repository, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    copy(&golden(name), folder.path());
    let store: Arc<dyn BackupStore> = Arc::new(LocalStore::open(folder.path()).unwrap());
    let opened = Repository::open(store, Signer::from_seed(&SEED).id().into()).await.unwrap();
    (opened.with_identities(with), folder)
}

/// Fills a repository with everything that format 1 knows.
async fn furnish(world: &World) {
    let (repository, signer) = (&world.repository, &world.signer);
    let facts = |tag: &str| {
        let mut facts = world.facts();
        facts.tags = [tag.parse().unwrap()].into();
        facts.database = Some(DatabaseFacts {
            flavour: Flavour::Mysql,
            version: "9.7.0".into(),
            server_uuid: Some("3e11fa47-71ca-11e1-9e33-c80aa9429562".into()),
            position: Some(BinlogPosition { file: "binlog.000002".into(), offset: 157 }),
            gtid_set: Some("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5".into()),
            variables: [("lower_case_table_names".to_owned(), "0".to_owned())].into(),
        });
        facts.notes.insert("app_key".into(), "fingerprint".into());
        facts.warnings.push("table `chom`.`log` is not transactional".into());
        facts.baselines.tables.push(TableBaseline {
            schema: "chom".into(),
            table: "users".into(),
            rows: 2,
            checksum: Some("ab".into()),
        });
        facts.baselines.counts.insert("redis_keys".into(), 3);
        facts
    };
    // One backup with components of every compression, a gap between its parts and an empty part.
    let mut writer = world.begin().await;
    let component = writer.component(database()).unwrap();
    component.put(0, rows(2), stream::once("1\tann\n2\tbob\n")).await.unwrap();
    component.put(1, rows(0), stream::once("")).await.unwrap();
    let ddl = PartMeta { what: "ddl".into(), ..PartMeta::default() };
    component.put(7, ddl, stream::once("CREATE TABLE users\n")).await.unwrap();
    component.describe(ComponentFacts { entries: Some(2), ..ComponentFacts::default() });
    let notes = ComponentSpec::new("notes", ComponentKind::Files).unwrap().compression(Compression::Gzip);
    writer.component(notes).unwrap().put(0, PartMeta::default(), stream::once("kept")).await.unwrap();
    let uploads = ComponentSpec::new("uploads", ComponentKind::Volume).unwrap().compression(Compression::None);
    let meta = PartMeta { path: Some("a.jpg".into()), entries: Some(1), ..PartMeta::default() };
    let component = writer.component(uploads.clone()).unwrap();
    component.put(0, meta, stream::once("picture")).await.unwrap();
    let capture = Some(Capture { begin: world.now(), point: world.now(), end: world.now() });
    component.describe(ComponentFacts { unread: 1, changed: 2, capture, ..ComponentFacts::default() });
    let first = writer.finish(facts("golden")).await.unwrap();
    let reader = BackupReader::open(repository, first.place.clone()).await.unwrap();
    let report = verify_written(&reader, &silent()).await.unwrap().into_result().unwrap();
    record(repository, signer, &first.place, report, Some("run-1".into())).await.unwrap();
    let released = hold(repository, signer, &first.place, "audit", "bob").await.unwrap();
    hold(repository, signer, &first.place, "court", "ann").await.unwrap();
    release(repository, signer, &first.place, released.id, "done", "bob").await.unwrap();

    // One that refers to it.
    world.pass(60);
    let mut writer = world.begin().await;
    let component = writer.component(uploads).unwrap();
    let part = reader.component("uploads").await.unwrap().parts()[0].clone();
    component.reuse_part(3, first.id(), &part).await.unwrap();
    component.put(4, PartMeta::default(), stream::once("new picture")).await.unwrap();
    writer.finish(facts("sharing")).await.unwrap();

    // One that is to be deleted.
    world.pass(60);
    let third = world.tagged(&["old"], &["expired"]).await;
    let reader = BackupReader::open(repository, third.place.clone()).await.unwrap();
    let manifest = Some(reader.manifest_sha256());
    mark_dead(repository, signer, &third.place, manifest, "keep-last 2", "prune", Some("run-2".into())).await.unwrap();
}

/// Writes a golden repository where `CHOM_GOLDEN` says: for the version that begins a format, and never again.
#[tokio::test]
#[ignore = "writes what is checked in"]
async fn a_golden_repository_is_written() {
    let target = PathBuf::from(std::env::var_os("CHOM_GOLDEN").expect("CHOM_GOLDEN names a new folder"));
    for (name, mut world) in [("format-1", World::new().await), ("format-1-age", World::encrypted().await)] {
        let signer = Signer::from_seed(&SEED);
        world.repository = {
            let opened = Repository::open(world.store.clone(), signer.id().into()).await.unwrap();
            let clock = world.clock.clone();
            let ids = Ids::new(move || *clock.lock().unwrap(), rand::random);
            let opened = opened.with_identities(world.repository.identities().clone()).with_ids(ids);
            match world.repository.recipients().await.unwrap() {
                Some(recipients) => opened.with_recipients(recipients),
                None => opened,
            }
        };
        world.signer = signer;
        furnish(&world).await;
        if name.ends_with("age") {
            world.pass(60);
            let new = recipients(&[SUCCESSOR, ESCROW]);
            world.repository.change_recipients(&world.signer, &new, &identities(ESCROW)).await.unwrap();
            world.repository = world.repository.with_recipients(new);
            world.tagged(&["for the successor"], &["rotated"]).await;
        }
        let folder = LocalStore::create(&target.join(name)).unwrap();
        for key in world.keys("").await {
            folder.put_new(&key, stream::once(world.object(&key).await)).await.unwrap();
        }
    }
}

async fn is_read(repository: &Repository, level: Level) {
    let catalog = Catalog::new(repository, &system("chom"));
    let tagged = |tag: &str| Selector::Tag(tag.parse().unwrap());
    let info = catalog.select(&tagged("golden")).await.unwrap();
    assert_eq!((info.level, info.plain_len, info.decoded_when_written), (Some(level), 42, true));
    assert_eq!(info.warnings, ["table `chom`.`log` is not transactional"]);
    assert_eq!(info.holds.iter().map(|h| h.reason.as_deref()).collect::<Vec<_>>(), [Some("court")]);
    assert_eq!(content(repository, &info.place).await.unwrap(), ["1\tann\n2\tbob\n", "", "CREATE TABLE users\n"]);
    let reader = catalog.open(&info.place).await.unwrap();
    assert!(verify(&reader, Level::L2, &silent()).await.unwrap().passed());
    let facts = reader.facts().await.unwrap();
    assert_eq!((facts.baselines.tables[0].rows, facts.baselines.counts["redis_keys"]), (2, 3));
    assert_eq!(facts.notes["app_key"], "fingerprint");
    for (name, compression, text) in [("notes", Compression::Gzip, "kept"), ("uploads", Compression::None, "picture")] {
        let component = reader.component(name).await.unwrap();
        assert_eq!(component.record().compression, compression);
        assert_eq!(stream::collect(component.read_all(), 100).await.unwrap(), text);
    }
    let uploads = reader.component("uploads").await.unwrap();
    assert_eq!((uploads.record().facts.unread, uploads.record().facts.changed), (1, 2));
    assert_eq!(uploads.parts()[0].meta.path.as_deref(), Some("a.jpg"));

    let sharing = catalog.select(&tagged("sharing")).await.unwrap();
    assert_eq!(sharing.sources, [info.id()].into());
    let reader = catalog.open(&sharing.place).await.unwrap();
    let uploads = reader.component("uploads").await.unwrap();
    assert_eq!(uploads.parts().iter().map(|p| p.index).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(stream::collect(uploads.read_all(), 100).await.unwrap(), "picturenew picture");
    assert_eq!(catalog.list().await.unwrap().references().unwrap(), [(info.place, [sharing.id()].into())].into());

    assert_eq!(catalog.select(&tagged("expired")).await.unwrap_err().kind(), ErrorKind::NotFound);
    let dead = catalog.list().await.unwrap().backups.into_iter().find(|b| b.tombstone.is_some()).unwrap();
    assert_eq!(dead.tombstone.map(|t| t.reason).as_deref(), Some("keep-last 2"));
    assert_eq!(content(repository, &dead.place).await.unwrap(), ["old"]);
}

#[tokio::test]
async fn the_golden_repository_of_format_1_is_read() {
    let (repository, _folder) = open("format-1", Identities::default()).await;
    is_read(&repository, Level::L2).await;
    assert_eq!(repository.recipients().await.unwrap(), None);
}

#[tokio::test]
async fn the_golden_encrypted_repository_of_format_1_is_read() {
    for file in [OPERATOR, ESCROW] {
        let (repository, _folder) = open("format-1-age", identities(file)).await;
        is_read(&repository, Level::L2).await;
    }
    // The recipients were changed since.
    let (repository, _folder) = open("format-1-age", identities(SUCCESSOR)).await;
    let new = recipients(&[SUCCESSOR, ESCROW]);
    assert_eq!(repository.clone().with_recipients(new.clone()).recipients().await.unwrap(), Some(new));
    let catalog = Catalog::new(&repository, &system("chom"));
    let rotated = catalog.select(&Selector::Latest).await.unwrap();
    assert_eq!(content(&repository, &rotated.place).await.unwrap(), ["for the successor"]);
    let old = catalog.select(&Selector::Tag("golden".parse().unwrap())).await.unwrap();
    let error = content(&repository, &old.place).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authentication);
}
