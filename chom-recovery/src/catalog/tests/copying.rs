//! Copies in a second store, and what they are good for.

use super::{dying::DyingStore, *};

const BODIES: [&str; 3] = ["1\tann\n2\tbob\n", "3\tcarol\n", "4\tdave\n"];
/// Three parts, the index, the manifest's copy, the manifest, a hold.
const EFFECTS: u32 = 7;

/// An empty store that became a copy of the world's repository.
async fn empty_copy(world: &World) -> Arc<dyn BackupStore> {
    let clock = world.clock.clone();
    let store: Arc<dyn BackupStore> = Arc::new(MemoryStore::with_clock(move || *clock.lock().unwrap()));
    init_copy(&world.repository, &store).await.unwrap();
    store
}

async fn copy(world: &World, place: &Place, to: &Arc<dyn BackupStore>) -> Result<Copied> {
    let reader = BackupReader::open(&world.repository, place.clone()).await?;
    copy_backup(&reader, &world.opened_on(to.clone()).await, &silent()).await
}

/// Reads the component `database` as a restore does that has a copy to turn to. Tells how many parts came from there.
async fn content_with(world: &World, place: &Place, copy: &Arc<dyn BackupStore>) -> Result<(Vec<Bytes>, u64)> {
    let reader = world.catalog().with_copy(Some(copy.clone())).open(place).await?;
    let component = reader.component("database").await?;
    let mut all = Vec::new();
    for part in component.parts() {
        all.push(stream::collect(component.read_part(part).await?, 1 << 30).await?);
    }
    Ok((all, reader.objects_from_copy()))
}

#[tokio::test]
async fn a_copy_is_as_good_as_the_first_and_takes_no_key() {
    for world in [World::new().await, World::encrypted().await] {
        let info = world.backup(&BODIES).await;
        hold(&world.repository, &world.signer, &info.place, "court", "ann").await.unwrap();
        let store = empty_copy(&world).await;
        init_copy(&world.repository, &store).await.unwrap();
        let keyless = world.reading_with(Identities::default());
        let reader = BackupReader::open(&keyless, info.place.clone()).await.unwrap();
        let there = world.opened_on(store.clone()).await;
        let copied = copy_backup(&reader, &there, &silent()).await.unwrap();
        assert_eq!((copied.objects, copied.present), (6, 0));
        let again = copy_backup(&reader, &there, &silent()).await.unwrap();
        assert_eq!((again.objects, again.present), (0, 6));
        for key in world.keys(&info.place.prefix()).await {
            let same = stream::collect(store.get(&key, None).await.unwrap(), 1 << 20).await.unwrap();
            assert_eq!(same, world.object(&key).await, "{key}");
        }
        assert_eq!(content(&there, &info.place).await.unwrap(), BODIES);
        let listed = Catalog::new(&there, &world.system).select(&Selector::Latest).await.unwrap();
        assert_eq!((listed.id(), listed.holds.len()), (info.id(), 1));
        assert_eq!(listed.level, None, "nobody has read the copy yet");
    }
}

#[tokio::test]
async fn a_store_of_another_repository_is_left_alone() {
    let (world, other) = (World::new().await, World::new().await);
    let info = world.backup(&BODIES).await;
    let before = other.keys("").await;
    let error = init_copy(&world.repository, &other.store).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let reader = BackupReader::open(&world.repository, info.place.clone()).await.unwrap();
    let error = copy_backup(&reader, &other.repository, &silent()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(other.keys("").await, before);
}

/// F1 and F2 for copies: nothing that is listed, or the whole backup; and the next call goes on.
#[tokio::test]
async fn a_copy_that_is_killed_at_any_effect_is_finished_by_the_next() {
    let world = World::new().await;
    let info = world.backup(&BODIES).await;
    hold(&world.repository, &world.signer, &info.place, "court", "ann").await.unwrap();
    for dies_after_effect in [false, true] {
        for survives in 0..=EFFECTS {
            let store = empty_copy(&world).await;
            let dying = DyingStore::over(&store, survives, dies_after_effect);
            assert_eq!(copy(&world, &info.place, &dying).await.is_ok(), survives == EFFECTS, "{survives}");
            let there = world.opened_on(store.clone()).await;
            let listing = Catalog::new(&there, &world.system).list().await.unwrap();
            let is_whole = survives >= 6 || (survives == 5 && dies_after_effect);
            assert_eq!((listing.backups.len(), listing.damaged.len()), (usize::from(is_whole), 0), "{survives}");
            if is_whole {
                assert_eq!(content(&there, &info.place).await.unwrap(), BODIES);
            }
            copy(&world, &info.place, &store).await.unwrap();
            assert_eq!(content(&there, &info.place).await.unwrap(), BODIES);
            assert_eq!(holds(&there, &info.place).await.unwrap().len(), 1);
        }
    }
}

#[tokio::test]
async fn damage_is_never_copied() {
    let world = World::new().await;
    let info = world.backup(&BODIES).await;
    for key in world.keys(&info.place.prefix()).await {
        if key == info.place.manifest() || key == info.place.manifest_copy() {
            continue;
        }
        let whole = world.object(&key).await;
        let store = empty_copy(&world).await;
        for bad in
            [whole.slice(..whole.len() - 1), [&whole[..], b"x"].concat().into(), Bytes::from(vec![0; whole.len()])]
        {
            world.replace(&key, bad).await;
            let error = copy(&world, &info.place, &store).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{key}: {error}");
            assert!(store.stat(&key).await.unwrap().is_none(), "{key}");
            assert!(store.stat(&info.place.manifest()).await.unwrap().is_none());
        }
        world.replace(&key, whole).await;
        copy(&world, &info.place, &store).await.unwrap();
    }
}

/// What is damaged or gone in one store is read from the other, object by object.
#[tokio::test]
async fn a_restore_takes_from_the_copy_what_is_damaged_here() {
    for world in [World::new().await, World::encrypted().await] {
        let info = world.backup(&BODIES).await;
        let store = empty_copy(&world).await;
        copy(&world, &info.place, &store).await.unwrap();
        assert_eq!(content_with(&world, &info.place, &store).await.unwrap().1, 0);
        for key in world.keys(&info.place.prefix()).await {
            let whole = world.object(&key).await;
            let is_part = key.as_str().contains("/p/") && !key.as_str().ends_with("/index");
            let is_index = key.as_str().ends_with("/index");
            let mut flipped = whole.to_vec();
            flipped[whole.len() / 2] ^= 1;
            for bad in [Some(Bytes::from(flipped)), Some(whole.slice(..whole.len() / 3)), None] {
                world.store.delete(&key).await.unwrap();
                let is_gone = bad.is_none();
                if let Some(bad) = bad {
                    world.store.put_new(&key, stream::once(bad)).await.unwrap();
                }
                let (read, from_copy) = content_with(&world, &info.place, &store).await.unwrap();
                // A manifest that is gone, not damaged, is no word for its copy beside it.
                let is_from_copy = is_part || is_index || (is_gone && key == info.place.manifest());
                assert_eq!((read, from_copy), (BODIES.map(Bytes::from).to_vec(), u64::from(is_from_copy)), "{key}");
                for level in [Level::L1, Level::L2] {
                    let catalog = world.catalog().with_copy(Some(store.clone()));
                    let reader = catalog.open(&info.place).await.unwrap();
                    assert!(verify(&reader, level, &silent()).await.unwrap().passed(), "{key} {level:?}");
                    assert_eq!(reader.objects_from_copy(), u64::from(is_from_copy), "{key} {level:?}");
                }
                // Without the copy it is told, as ever.
                if is_part {
                    assert_eq!(content(&world.repository, &info.place).await.unwrap_err().kind(), ErrorKind::Corrupt);
                }
            }
            world.store.delete(&key).await.unwrap();
            world.store.put_new(&key, stream::once(whole)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_is_damaged_in_both_is_told_with_both_reasons() {
    let world = World::new().await;
    let info = world.backup(&BODIES).await;
    let store = empty_copy(&world).await;
    copy(&world, &info.place, &store).await.unwrap();
    let key = info.place.part(&"database".parse().unwrap(), 1);
    world.replace(&key, "rubbish").await;
    store.delete(&key).await.unwrap();
    let error = content_with(&world, &info.place, &store).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let text = format!("{error:?}");
    assert!(text.contains("length as stored") && text.contains("missing"), "{text}");
}

/// A part that lies in an earlier backup is copied to where it lies.
#[tokio::test]
async fn shared_parts_are_copied_once_and_serve_both() {
    let world = World::new().await;
    let first = world.backup(&["unchanged", "old"]).await;
    world.pass(1);
    let second = super::sharing::sharing(&world, &first, "new").await;
    let store = empty_copy(&world).await;
    let copied = copy(&world, &second.place, &store).await.unwrap();
    assert_eq!(copied.objects, 5, "two parts, index, manifest and its copy");
    let there = world.opened_on(store.clone()).await;
    assert_eq!(content(&there, &second.place).await.unwrap(), ["unchanged", "new"]);
    // What lies there for the other backup is not swept away.
    world.pass(60 * 48);
    let day = std::time::Duration::from_hours(24);
    assert_eq!(sweep_unfinished(&there, &world.system, day).await.unwrap().backups, 0);
    let copied = copy(&world, &first.place, &store).await.unwrap();
    assert_eq!((copied.objects, copied.present), (4, 1));
    assert_eq!(content(&there, &first.place).await.unwrap(), ["unchanged", "old"]);
}
