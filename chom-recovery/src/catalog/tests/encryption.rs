//! Who can read an encrypted backup, and what the others see.

use super::*;
use crate::{
    probe::{HealthProbe, Status},
    secret::{Secret, SecretSource},
};

const SECRET: &str = "4111 1111 1111 1111";

/// A backup with a name in every place that a name can be in.
async fn telling(world: &World) -> BackupInfo {
    let mut writer = world.begin().await;
    let component = writer.component(database()).unwrap();
    let meta = PartMeta { table: Some("salaries".into()), ..rows(1) };
    component.put(0, meta, stream::once(SECRET)).await.unwrap();
    let mut facts = world.facts();
    facts.warnings.push("table `salaries` is not transactional".into());
    facts.baselines.tables.push(TableBaseline {
        schema: "chom".into(),
        table: "salaries".into(),
        rows: 1,
        checksum: Some(blake3::hash(SECRET.as_bytes()).to_hex().to_string()),
    });
    facts.private_notes.insert("path".into(), "salaries".into());
    writer.finish(facts).await.unwrap()
}

/// Neither data nor names nor hashes of data, by which a guess could be tried.
#[tokio::test]
async fn the_store_sees_neither_data_nor_names_nor_hashes_of_data() {
    let world = World::encrypted().await;
    telling(&world).await;
    let hash = blake3::hash(SECRET.as_bytes()).to_hex().to_string();
    for key in world.keys("").await {
        let object = world.object(&key).await;
        for secret in [SECRET, "salaries", "users", &hash] {
            let is_there = object.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!is_there, "{key} shows `{secret}`");
        }
    }
    // The same search finds them where nothing is encrypted, except in what is compressed.
    let open = World::new().await;
    let info = telling(&open).await;
    let text = |key| async move { String::from_utf8(open.object(&key).await.to_vec()).unwrap() };
    let index = text(info.place.index(&"database".parse().unwrap())).await;
    assert!(index.contains("salaries") && index.contains(&hash));
}

#[tokio::test]
async fn each_recipient_reads_alone_and_nobody_else() {
    let world = World::encrypted().await;
    let info = telling(&world).await;
    assert_eq!(info.recipients, recipients(&[OPERATOR, ESCROW]).as_slice());
    for file in [OPERATOR, ESCROW] {
        let repository = world.reading_with(identities(file));
        assert_eq!(content(&repository, &info.place).await.unwrap(), [SECRET]);
        let chosen = Catalog::new(&repository, &world.system).select(&Selector::Latest).await.unwrap();
        assert_eq!(chosen.warnings, ["table `salaries` is not transactional"]);
    }
    for (with, kind) in [
        (Identities::default(), ErrorKind::Precondition),
        (identities(SUCCESSOR), ErrorKind::Authentication),
        (Identities::resolve(&[SecretSource::Env("NOT_SET_ANYWHERE".into())]).await, ErrorKind::Precondition),
    ] {
        let repository = world.reading_with(with);
        let reader = BackupReader::open(&repository, info.place.clone()).await.unwrap();
        let errors = [
            reader.check_identity().unwrap_err(),
            reader.component("database").await.unwrap_err(),
            reader.private().await.unwrap_err(),
            verify(&reader, Level::L2, &silent()).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), kind, "{error}");
            let names: Vec<_> = error.context().iter().map(|(_, value)| value.clone()).collect();
            for recipient in recipients(&[OPERATOR, ESCROW]).as_slice() {
                assert!(names.iter().any(|n| n.contains(recipient.as_str())), "{error:?}");
            }
            assert!(error.hint_text().unwrap().contains("--identity"), "{error:?}");
        }
        // What needs no key works all the same.
        assert!(verify(&reader, Level::L1, &silent()).await.unwrap().passed());
        let listed = Catalog::new(&repository, &world.system).list().await.unwrap();
        assert_eq!((listed.backups.len(), listed.backups[0].warnings.len()), (1, 0));
    }
}

#[tokio::test]
async fn a_host_without_an_identity_verifies_what_it_can_and_says_so() {
    let world = World::encrypted().await;
    let info = telling(&world).await;
    let host = world.reading_with(Identities::default());
    let reader = BackupReader::open(&host, info.place.clone()).await.unwrap();
    let report = verify_written(&reader, &silent()).await.unwrap().into_result().unwrap();
    assert_eq!((report.level, report.decoded_when_written), (Level::L1, true));
    record(&host, &world.signer, &info.place, report, None).await.unwrap();
    let catalog = Catalog::new(&host, &world.system);
    let listed = catalog.select(&Selector::Latest).await.unwrap();
    assert_eq!((listed.level, listed.decoded_when_written, listed.is_proven()), (Some(Level::L1), true, true));
    let probe = BackupProbe::new(catalog, std::time::Duration::from_hours(1));
    assert_eq!(probe.check().await.status, Status::Healthy);
    // One who can read verifies deeper.
    let reader = BackupReader::open(&world.repository, info.place.clone()).await.unwrap();
    assert_eq!(verify_written(&reader, &silent()).await.unwrap().level, Level::L2);
    // A later failure takes back what was proven.
    world.pass(1);
    world.replace(&info.place.part(&"database".parse().unwrap(), 0), "rubbish").await;
    let bad = verify(&reader, Level::L1, &silent()).await.unwrap();
    record(&world.repository, &world.signer, &info.place, bad, None).await.unwrap();
    assert!(!world.catalog().select(&Selector::Latest).await.unwrap().is_proven());
}

/// F36: the key that is needed when all others are gone is tried before anything depends on it.
#[tokio::test]
async fn a_repository_is_not_made_for_an_escrow_that_does_not_open() {
    let store: Arc<dyn BackupStore> = Arc::new(MemoryStore::new());
    let state = tempfile::tempdir().unwrap();
    let encryption = |escrow| Encryption::Age { recipients: recipients(&[OPERATOR, ESCROW]), escrow };
    for (escrow, kind) in
        [(identities(SUCCESSOR), ErrorKind::Authentication), (Identities::default(), ErrorKind::Precondition)]
    {
        let made = Repository::init(&store, &system("chom"), state.path(), encryption(escrow)).await;
        assert_eq!(made.unwrap_err().kind(), kind);
        let nothing: Vec<ObjectInfo> = store.list("").await.unwrap().try_collect().await.unwrap();
        assert!(nothing.is_empty());
        assert!(!Signer::path(state.path(), &system("chom")).exists(), "no key for nothing");
    }
    let escrow = identities(ESCROW);
    let made = Repository::init(&store, &system("chom"), state.path(), encryption(escrow)).await.unwrap();
    assert_eq!(made.recipients, recipients(&[ESCROW, OPERATOR]).as_slice());
    let text = stream::collect(store.get(&"chom-repo.json".parse().unwrap(), None).await.unwrap(), 1 << 20).await;
    assert!(!String::from_utf8_lossy(&text.unwrap()).contains("SECRET"), "the escrow is not kept");
}

#[test]
fn one_recipient_is_too_few_and_a_secret_is_never_shown() {
    let one = identities(OPERATOR).recipients();
    for too_few in [vec![], one.clone(), [one.clone(), one].concat()] {
        assert_eq!(Recipients::new(too_few).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    let secret = OPERATOR.lines().last().unwrap();
    let error = secret.parse::<Recipient>().unwrap_err();
    assert!(!format!("{error:?}").contains(&secret[20..]), "{error:?}");
    for bad in ["", "age1", "age1ABC", "ssh-ed25519 AAAA", "age1é", "ag1xyz"] {
        assert!(bad.parse::<Recipient>().is_err(), "{bad}");
    }
    // Well-formed, and not a key.
    let wrong = [OPERATOR, ESCROW].map(|file| identities(file).recipients()[0].to_string().replace('q', "p"));
    assert_eq!(Recipients::parse(&wrong).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn identity_files_are_read_or_refused_with_the_line() {
    let both = format!("{OPERATOR}\n# another\n{SUCCESSOR}");
    assert_eq!(identities(&both).recipients().len(), 2);
    for (file, kind) in [
        ("# nothing\n", ErrorKind::InvalidInput),
        ("age1xfy9kfvm7equjp92cmdy7jhdy9xrkmuggfjjnz8xuhdctfz9leqs4rqq42", ErrorKind::InvalidInput),
        ("age-encryption.org/v1\n-> scrypt x 18\n", ErrorKind::Unsupported),
    ] {
        let error = Identities::parse(&Secret::new(file)).unwrap_err();
        assert_eq!(error.kind(), kind, "{file}");
        assert!(error.hint_text().is_some());
    }
    assert!(!format!("{:?}", identities(OPERATOR)).contains("SECRET"));
}

/// Whoever can write the store must not choose who can read.
#[tokio::test]
async fn nothing_is_written_when_the_store_names_other_recipients() {
    let world = World::encrypted().await;
    let key = "chom-repo.json".parse().unwrap();
    let text = String::from_utf8(world.object(&key).await.to_vec()).unwrap();
    let operator = identities(OPERATOR).recipients()[0].to_string();
    let thief = identities(SUCCESSOR).recipients()[0].to_string();
    let open: String = {
        let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
        file["encryption"] = "none".into();
        file.as_object_mut().unwrap().remove("recipients");
        file.to_string()
    };
    for changed in [text.replace(&operator, &thief), open] {
        world.replace(&key, changed).await;
        let opened = Repository::open(world.store.clone(), world.signer.id().into()).await.unwrap();
        let pinned = opened.with_recipients(recipients(&[OPERATOR, ESCROW]));
        let begun = BackupWriter::begin(&pinned, &world.signer, &world.host, &world.system).await;
        assert_eq!(begun.unwrap_err().kind(), ErrorKind::Conflict);
    }
    world.replace(&key, text).await;
    let unpinned = Repository::open(world.store.clone(), world.signer.id().into()).await.unwrap();
    let begun = BackupWriter::begin(&unpinned, &world.signer, &world.host, &world.system).await;
    assert_eq!(begun.unwrap_err().kind(), ErrorKind::Precondition);
}

/// F35: old backups stay readable with old keys, new ones are for the new keys alone.
#[tokio::test]
async fn recipients_change_for_what_comes_and_old_backups_keep_theirs() {
    let world = World::encrypted().await;
    let old = telling(&world).await;
    let new = recipients(&[SUCCESSOR, ESCROW]);
    let (repository, signer) = (&world.repository, &world.signer);
    let error = repository.change_recipients(signer, &new, &identities(OPERATOR)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authentication, "the proof is made with one of the new ones");
    repository.change_recipients(signer, &new, &identities(ESCROW)).await.unwrap();
    // A stranger's word on it counts for nothing.
    let stranger = Signer::from_seed(&[9; 32]);
    let all = recipients(&[SUCCESSOR, ESCROW, OPERATOR]);
    repository.change_recipients(&stranger, &all, &identities(ESCROW)).await.unwrap();

    // The configuration still has the old ones.
    assert_eq!(repository.recipients().await.unwrap_err().kind(), ErrorKind::Conflict);
    let after = repository.clone().with_recipients(new.clone());
    world.pass(1);
    let world = World { repository: after, ..world };
    let later = telling(&world).await;
    assert_eq!(later.recipients, new.as_slice());
    let reads = |file: &str, place: &Place| {
        let (repository, place) = (world.reading_with(identities(file)), place.clone());
        async move { content(&repository, &place).await.is_ok() }
    };
    assert!(reads(OPERATOR, &old.place).await && !reads(OPERATOR, &later.place).await);
    assert!(!reads(SUCCESSOR, &old.place).await && reads(SUCCESSOR, &later.place).await);
    assert!(reads(ESCROW, &old.place).await && reads(ESCROW, &later.place).await);
    let both = format!("{OPERATOR}\n{SUCCESSOR}");
    assert!(reads(&both, &old.place).await && reads(&both, &later.place).await);

    let open = World::new().await;
    let error = open.repository.change_recipients(&open.signer, &new, &identities(ESCROW)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// F2: a journal that kept what was stored lets a host without any identity go on.
#[tokio::test]
async fn a_part_is_taken_up_by_its_hash_without_a_key() {
    let world = World::encrypted().await;
    let host = world.reading_with(Identities::default());
    let mut writer = BackupWriter::begin(&host, &world.signer, &world.host, &world.system).await.unwrap();
    let place = writer.place().clone();
    let component = writer.component(database()).unwrap();
    let kept = serde_json::to_string(&component.put_part(0, stream::once("one")).await.unwrap()).unwrap();
    let damaged = serde_json::to_string(&component.put_part(1, stream::once("two")).await.unwrap()).unwrap();
    drop((writer, component));
    world.replace(&place.part(&"database".parse().unwrap(), 1), "rubbish").await;

    let resumed = BackupWriter::resume(&host, &world.signer, place.clone()).await.unwrap();
    let Resumed::Unfinished(mut writer) = resumed else { panic!("it has no manifest") };
    let component = writer.component(database()).unwrap();
    // Without what the journal kept, nobody here can tell what is in the part.
    let error = component.put_part(0, stream::once("one")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let part = component.take_up(serde_json::from_str(&kept).unwrap()).await.unwrap();
    component.record(part, rows(1)).unwrap();
    let error = component.take_up(serde_json::from_str(&damaged).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    writer.finish(world.facts()).await.unwrap();
    assert_eq!(content(&world.repository, &place).await.unwrap(), ["one"]);
}
