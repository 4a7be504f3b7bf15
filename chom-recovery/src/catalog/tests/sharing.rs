//! Parts that lie in earlier backups.

use super::*;

/// Makes a backup whose first part is that of an earlier one, and whose second part is new.
pub(super) async fn sharing(world: &World, from: &BackupInfo, new: &str) -> BackupInfo {
    let reader = BackupReader::open(&world.repository, from.place.clone()).await.unwrap();
    let earlier = reader.component("database").await.unwrap();
    let mut writer = world.begin().await;
    let component = writer.component(database()).unwrap();
    component.reuse_part(5, from.id(), &earlier.parts()[0]).await.unwrap();
    component.put(6, rows(1), stream::once(new.to_owned())).await.unwrap();
    writer.finish(world.facts()).await.unwrap()
}

#[tokio::test]
async fn an_unchanged_part_is_stored_once_and_read_from_where_it_lies() {
    for world in [World::new().await, World::encrypted().await] {
        let first = world.backup(&["unchanged", "old"]).await;
        world.pass(1);
        let second = sharing(&world, &first, "new").await;
        world.pass(1);
        let third = sharing(&world, &second, "newer").await;
        for (info, new) in [(&second, "new"), (&third, "newer")] {
            assert_eq!(content(&world.repository, &info.place).await.unwrap(), ["unchanged", new]);
            // The part is referred to where it lies, not by way of another reference.
            assert_eq!(info.sources, [first.id()].into());
            let reader = BackupReader::open(&world.repository, info.place.clone()).await.unwrap();
            for level in [Level::L1, Level::L2] {
                assert!(verify(&reader, level, &silent()).await.unwrap().passed());
            }
            let objects = reader.objects().await.unwrap();
            assert_eq!(objects.len(), 5, "two parts, an index, copy and manifest");
            assert_eq!(objects[0].key, first.place.part(&"database".parse().unwrap(), 0));
            assert_eq!(objects[4].key, info.place.manifest());
            for object in objects {
                let bytes = world.object(&object.key).await;
                assert_eq!((bytes.len() as u64, codec::sha256(&bytes)), (object.length, object.sha256));
            }
            let component = &reader.manifest().components[0];
            assert!(component.own_len < component.stored_len);
            assert_eq!(world.keys(&info.place.prefix()).await.len(), 4, "one part of its own");
        }
        let listing = world.catalog().list().await.unwrap();
        let references = listing.references().unwrap();
        assert_eq!(references, [(first.place.clone(), [second.id(), third.id()].into())].into());

        // Damage to the one part is damage to all who need it, and to nobody else.
        world.pass(1);
        let apart = world.backup(&["apart"]).await;
        let key = first.place.part(&"database".parse().unwrap(), 0);
        let whole = world.object(&key).await;
        world.replace(&key, "rubbish").await;
        for (info, passes) in [(&first, false), (&second, false), (&third, false), (&apart, true)] {
            let reader = BackupReader::open(&world.repository, info.place.clone()).await.unwrap();
            assert_eq!(verify(&reader, Level::L1, &silent()).await.unwrap().passed(), passes);
            assert_eq!(content(&world.repository, &info.place).await.is_ok(), passes);
        }
        world.replace(&key, whole).await;
    }
}

#[tokio::test]
async fn a_part_is_not_shared_where_that_would_change_what_is_promised() {
    let world = World::encrypted().await;
    let first = world.backup(&["unchanged"]).await;
    let reader = BackupReader::open(&world.repository, first.place.clone()).await.unwrap();
    let part = reader.component("database").await.unwrap().parts()[0].clone();
    world.pass(1);
    let refused = |repository: &Repository, spec: ComponentSpec, part: PartRecord, from: BackupId| {
        let repository = repository.clone();
        let (signer, host, system) = (world.signer.clone(), world.host.clone(), world.system.clone());
        async move {
            let mut writer = BackupWriter::begin(&repository, &signer, &host, &system).await.unwrap();
            let component = writer.component(spec).unwrap();
            let error = component.reuse_part(0, from, &part).await.unwrap_err();
            // The index is free again.
            component.put(0, rows(1), stream::once("anew")).await.unwrap();
            error.kind()
        }
    };
    let id = first.id();
    let (repository, gzip) = (&world.repository, database().compression(Compression::Gzip));
    assert_eq!(refused(repository, gzip, part.clone(), id).await, ErrorKind::Conflict, "another compression");
    let other = PartRecord { stored_len: 1, ..part.clone() };
    assert_eq!(refused(repository, database(), other, id).await, ErrorKind::InvalidInput, "no such part");
    let nobody = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
    assert_eq!(refused(repository, database(), part.clone(), nobody).await, ErrorKind::NotFound);
    let later = "7ZZZZZZZZZ0000000000000000".parse().unwrap();
    assert_eq!(refused(repository, database(), part.clone(), later).await, ErrorKind::InvalidInput);

    let new = recipients(&[SUCCESSOR, ESCROW]);
    repository.change_recipients(&world.signer, &new, &identities(ESCROW)).await.unwrap();
    let changed = repository.clone().with_recipients(new);
    assert_eq!(refused(&changed, database(), part.clone(), id).await, ErrorKind::Conflict, "other recipients");
    let old = recipients(&[OPERATOR, ESCROW]);
    world.pass(1);
    repository.change_recipients(&world.signer, &old, &identities(ESCROW)).await.unwrap();

    mark_dead(repository, &world.signer, &first.place, None, "expired", "a test", None).await.unwrap();
    assert_eq!(refused(repository, database(), part.clone(), id).await, ErrorKind::Conflict, "to be deleted");
    mark_alive(repository, &first.place).await.unwrap();
    world.store.delete(&first.place.part(&"database".parse().unwrap(), 0)).await.unwrap();
    assert_eq!(refused(repository, database(), part, id).await, ErrorKind::Corrupt, "gone");
}

/// Between the moment that a part is taken and the manifest, somebody expires the backup that it lies in.
#[tokio::test]
async fn a_source_that_dies_before_the_manifest_ends_the_backup() {
    let world = World::new().await;
    let first = world.backup(&["unchanged"]).await;
    world.pass(1);
    let reader = BackupReader::open(&world.repository, first.place.clone()).await.unwrap();
    let part = reader.component("database").await.unwrap().parts()[0].clone();
    let mut writer = world.begin().await;
    writer.component(database()).unwrap().reuse_part(0, first.id(), &part).await.unwrap();
    mark_dead(&world.repository, &world.signer, &first.place, None, "expired", "a test", None).await.unwrap();
    assert_eq!(writer.finish(world.facts()).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(world.catalog().list().await.unwrap().backups.len(), 1);
}

#[tokio::test]
async fn a_source_that_is_gone_is_shown_and_what_is_left_of_it_is_not_swept() {
    let world = World::new().await;
    let first = world.backup(&["unchanged"]).await;
    world.pass(1);
    let second = sharing(&world, &first, "new").await;
    for key in [first.place.manifest(), first.place.manifest_copy()] {
        world.store.delete(&key).await.unwrap();
    }
    let listed = world.catalog().select(&Selector::Latest).await.unwrap();
    assert_eq!((listed.id(), &listed.missing_sources), (second.id(), &[first.id()].into()));
    world.pass(60 * 48);
    let day = std::time::Duration::from_hours(24);
    assert_eq!(sweep_unfinished(&world.repository, &world.system, day).await.unwrap().backups, 0);
    assert_eq!(content(&world.repository, &second.place).await.unwrap(), ["unchanged", "new"]);
    // What refers to it cannot be told for sure while a manifest cannot be read.
    for key in [second.place.manifest(), second.place.manifest_copy()] {
        world.replace(&key, "rubbish").await;
    }
    let listing = world.catalog().list().await.unwrap();
    assert_eq!(listing.references().unwrap_err().kind(), ErrorKind::Incomplete);
}
