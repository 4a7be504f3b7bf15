//! Everything that can happen to the bytes of a repository: never wrong data, never silence.

use super::*;

const BODIES: [&str; 3] = ["1\tann\n2\tbob\n", "3\tcarol\n", "4\tdave\n5\teve\n6\tfrank\n"];

/// What a restore would get must be what was backed up, or an error that says so.
async fn never_wrong(world: &World, place: &Place, what: &str) -> bool {
    match content(&world.repository, place).await {
        Ok(read) => {
            assert_eq!(read, BODIES, "{what}");
            true
        }
        Err(e) => {
            assert!(matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Denied | ErrorKind::NotFound), "{what}: {e}");
            false
        }
    }
}

/// F15, F19, F20, F21, F22: every byte of every object flipped, every object cut at every length, every object gone.
#[tokio::test]
async fn every_flip_every_cut_and_every_loss_is_corrected_or_noticed() {
    for world in [World::new().await, World::encrypted().await] {
        is_corrected_or_noticed(&world).await;
    }
}

async fn is_corrected_or_noticed(world: &World) {
    let info = world.backup(&BODIES).await;
    let keys = world.keys(&info.place.prefix()).await;
    assert_eq!(keys.len(), 6, "three parts, index, copy, manifest");
    for key in keys {
        let whole = world.object(&key).await;
        let manifest = key == info.place.manifest();
        let is_spare = manifest || key == info.place.manifest_copy();
        let mut damages: Vec<(String, Bytes)> = Vec::new();
        for at in 0..whole.len() {
            let mut flipped = whole.to_vec();
            flipped[at] ^= 1 << (at % 8);
            damages.push((format!("{key}: bit flipped in byte {at}"), flipped.into()));
            damages.push((format!("{key}: cut at {at}"), whole.slice(..at)));
        }
        damages.push((format!("{key}: one byte more"), [&whole[..], b"\n"].concat().into()));
        for (number, (what, bytes)) in damages.into_iter().enumerate() {
            world.replace(&key, bytes).await;
            // A spare manifest is judged below, each time. What it leads to takes long to read where it is encrypted.
            if !is_spare || world.repository.file().encryption == Cipher::None || number % 100 == 0 {
                let is_read = never_wrong(world, &info.place, &what).await;
                assert_eq!(is_read, is_spare, "{what}");
            }
            let Ok(reader) = BackupReader::open(&world.repository, info.place.clone()).await else {
                panic!("{what}: the other manifest is whole")
            };
            assert_eq!(reader.damage().is_some(), manifest, "{what}");
            if !is_spare {
                let report = verify(&reader, Level::L1, &silent()).await.unwrap();
                assert_eq!((report.passed(), report.findings_total), (false, 1), "{what}");
            }
        }
        world.store.delete(&key).await.unwrap();
        assert_eq!(never_wrong(world, &info.place, "gone").await, key == info.place.manifest_copy(), "{key} gone");
        world.replace(&key, whole).await;
    }
    assert!(never_wrong(world, &info.place, "mended").await);
}

#[tokio::test]
async fn with_manifest_and_copy_damaged_the_backup_is_refused_and_shown() {
    let world = World::new().await;
    let info = world.backup(&BODIES).await;
    let whole = world.object(&info.place.manifest()).await;
    let forged = String::from_utf8(whole.to_vec()).unwrap().replace("\"rows\"", "\"r0ws\"").replace("chom", "ch0m");
    for key in [info.place.manifest(), info.place.manifest_copy()] {
        world.replace(&key, forged.clone()).await;
    }
    let error = BackupReader::open(&world.repository, info.place.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let listing = world.catalog().list().await.unwrap();
    assert_eq!((listing.backups.len(), listing.damaged.len()), (0, 1));
    assert_eq!(listing.damaged[0].place, info.place);
}

#[tokio::test]
async fn the_copy_serves_and_the_list_says_so() {
    let world = World::new().await;
    let info = world.backup(&BODIES).await;
    world.replace(&info.place.manifest(), "rubbish").await;
    let chosen = world.catalog().select(&Selector::Latest).await.unwrap();
    assert_eq!(chosen.place, info.place);
    assert!(chosen.manifest_damage.unwrap().message.contains("manifest"));
}

/// F23: parts in each other's place, within a backup and between two.
#[tokio::test]
async fn swapped_parts_are_noticed() {
    for world in [World::new().await, World::encrypted().await] {
        swaps_are_noticed(&world).await;
    }
}

async fn swaps_are_noticed(world: &World) {
    let (one, two) = (world.backup(&BODIES).await, world.backup(&["9\tmallory\n", "x", "y"]).await);
    let database = "database".parse().unwrap();
    for (a, b) in [
        (one.place.part(&database, 0), one.place.part(&database, 1)),
        (one.place.part(&database, 0), two.place.part(&database, 0)),
        (one.place.index(&database), two.place.index(&database)),
    ] {
        let (left, right) = (world.object(&a).await, world.object(&b).await);
        world.replace(&a, right.clone()).await;
        world.replace(&b, left.clone()).await;
        assert!(!never_wrong(world, &one.place, &format!("{a} and {b}")).await);
        let error = content(&world.repository, &one.place).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        world.replace(&a, left).await;
        world.replace(&b, right).await;
    }
    assert!(never_wrong(world, &one.place, "mended").await);
}

/// F23: a whole backup under another id, system or host.
#[tokio::test]
async fn a_replayed_backup_is_refused_under_every_other_name() {
    let world = World::new().await;
    let info = world.backup(&BODIES).await;
    let later = world.repository.ids().next(Some(info.id()));
    for other in [
        Place { id: later, ..info.place.clone() },
        Place { system: system("shop"), ..info.place.clone() },
        Place { host: HostId::derive("another host"), ..info.place.clone() },
    ] {
        for key in world.keys(&info.place.prefix()).await {
            let name = key.as_str().strip_prefix(&info.place.prefix()).unwrap();
            let copy = format!("{}{name}", other.prefix()).parse().unwrap();
            world.store.put_new(&copy, stream::once(world.object(&key).await)).await.unwrap();
        }
        let error = BackupReader::open(&world.repository, other.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.message().contains("moved or replayed"), "{error}");
        let listing = Catalog::new(&world.repository, &other.system).list().await.unwrap();
        assert!(listing.damaged.iter().any(|d| d.place == other));
        assert!(listing.backups.iter().all(|b| b.place == info.place));
    }
}

#[tokio::test]
async fn a_backup_of_an_unknown_signer_is_refused_with_the_way_out() {
    let world = World::new().await;
    let info = world.backup(&BODIES).await;
    let stranger = Signer::from_seed(&[9; 32]);
    let trusting_another = Repository::open(world.store.clone(), stranger.id().into()).await.unwrap();
    let error = BackupReader::open(&trusting_another, info.place.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.hint_text().unwrap().contains("repository.signers"));
    let error = Catalog::new(&trusting_another, &world.system).select(&Selector::Latest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.hint_text().unwrap().contains("repository.signers"));
}

/// F61: what a trusted key signed is still read with limits.
#[tokio::test]
async fn manifests_beyond_the_format_are_refused() {
    let world = World::new().await;
    let info = world.backup(&BODIES).await;
    let object = world.object(&info.place.manifest()).await;
    let (_, payload) = world.repository.trusted().open(sign::MANIFEST, &object).unwrap();
    let text = std::str::from_utf8(&payload).unwrap();
    let deep = format!("\"x\":{}{}", "[".repeat(5000), "]".repeat(5000));
    for (changed, kind) in [
        (text.replace("\"min_reader\":1", "\"min_reader\":2"), ErrorKind::Unsupported),
        (text.replacen('{', "{\"unknown\":1,", 1), ErrorKind::Corrupt),
        (text.replacen('{', "{\"min_reader\":1,", 1), ErrorKind::Corrupt),
        (text.replace("\"tags\":[]", "\"tags\":[\"a\",\"a\"]"), ErrorKind::Corrupt),
        (text.replace("\"tags\":[]", "\"tags\":[],\"notes\":{\"a\":\"1\",\"a\":\"2\"}"), ErrorKind::Corrupt),
        (text.replace("\"objects\":{}", "\"objects\":{\"views\":1,\"views\":2}"), ErrorKind::Corrupt),
        (text.replace("\"encryption\":\"none\"", "\"encryption\":\"age\""), ErrorKind::Corrupt),
        (text.replace("\"details\":{", "\"sealed\":\"\",\"details\":{"), ErrorKind::Corrupt),
        (text.replace("\"own_len\":", "\"own_len\":1"), ErrorKind::Corrupt),
        (
            text.replace("\"index_sha256\"", &format!("\"sources\":[\"{}\"],\"index_sha256\"", info.id())),
            ErrorKind::Corrupt,
        ),
        (
            text.replace("\"index_sha256\"", "\"sources\":[\"01ARZ3NDEKTSV4RRFFQ69G5FAV\"],\"index_sha256\""),
            ErrorKind::Corrupt,
        ),
        (text.replacen('{', &format!("{{{deep},"), 1), ErrorKind::Corrupt),
        (text.replace("\"name\":\"database\"", "\"name\":\"../../etc\""), ErrorKind::Corrupt),
        (text.replace("\"name\":\"database\"", "\"name\":\"Database\""), ErrorKind::Corrupt),
        (text.replace("\"order\":0", "\"order\":1"), ErrorKind::Corrupt),
        (format!("{text}{}", " ".repeat(MANIFEST_LIMIT)), ErrorKind::Corrupt),
        (text.replace("\"parts\":3", "\"parts\":2"), ErrorKind::Corrupt),
        (text.replace("\"plain_len\":", "\"plain_len\":1"), ErrorKind::Corrupt),
    ] {
        assert_ne!(changed, text);
        let sealed = world.signer.seal(sign::MANIFEST, changed.as_bytes());
        world.replace(&info.place.manifest_copy(), sealed.clone()).await;
        world.replace(&info.place.manifest(), sealed).await;
        let error = content(&world.repository, &info.place).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{} {error}", &changed[..changed.len().min(100)]);
    }
}
