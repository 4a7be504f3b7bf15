//! Holds and tombstones: what keeps a backup, and what ends it.

use super::*;

#[tokio::test]
async fn a_hold_lasts_until_somebody_releases_it() {
    let world = World::new().await;
    let info = world.backup(&["1"]).await;
    let (repository, signer, place) = (&world.repository, &world.signer, &info.place);
    let none = Place { id: repository.ids().next(None), ..place.clone() };
    assert_eq!(hold(repository, signer, &none, "court", "ann").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(hold(repository, signer, place, " ", "ann").await.unwrap_err().kind(), ErrorKind::InvalidInput);
    let stranger = Signer::from_seed(&[9; 32]);
    assert_eq!(hold(repository, &stranger, place, "court", "ann").await.unwrap_err().kind(), ErrorKind::Precondition);

    let one = hold(repository, signer, place, "court", "ann").await.unwrap();
    world.pass(1);
    let two = hold(repository, signer, place, "audit", "bob").await.unwrap();
    let in_force = || async { holds(repository, place).await.unwrap().iter().map(|h| h.id).collect::<Vec<_>>() };
    assert_eq!(in_force().await, [one.id, two.id]);
    let listed = world.catalog().select(&Selector::Latest).await.unwrap();
    assert_eq!(listed.holds[0].reason.as_deref(), Some("court"));
    assert_eq!(listed.holds[1].signer, Some(signer.id()));
    let dead = mark_dead(repository, signer, place, None, "expired", "a rule", None).await;
    assert_eq!(dead.unwrap_err().kind(), ErrorKind::Denied);

    world.pass(1);
    release(repository, signer, place, one.id, "case closed", "ann").await.unwrap();
    assert_eq!(in_force().await, [two.id]);
    let again = release(repository, signer, place, one.id, "case closed", "ann").await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::NotFound);
    release(repository, signer, place, two.id, "done", "bob").await.unwrap();
    assert!(in_force().await.is_empty());
    mark_dead(repository, signer, place, None, "expired", "a rule", None).await.unwrap();
}

/// What cannot be read must not end the protection of a backup.
#[tokio::test]
async fn a_damaged_or_strange_record_holds_and_releases_nothing() {
    let world = World::new().await;
    let info = world.backup(&["1"]).await;
    let (repository, signer, place) = (&world.repository, &world.signer, &info.place);
    let kept = hold(repository, signer, place, "court", "ann").await.unwrap();
    world.pass(1);
    let released = release(repository, signer, place, kept.id, "case closed", "ann").await.unwrap();
    assert!(holds(repository, place).await.unwrap().is_empty());
    let key = place.hold(released.id);
    let object = world.object(&key).await;
    // A release by a stranger.
    let payload = object.iter().position(|b| *b == b'\n').unwrap() + 1;
    world.replace(&key, Signer::from_seed(&[9; 32]).seal(sign::HOLD, &object[payload..])).await;
    let left: Vec<_> = holds(repository, place).await.unwrap().iter().map(|h| (h.id, h.reason.is_some())).collect();
    assert_eq!(left, [(kept.id, true), (released.id, false)]);
    // A damaged release.
    world.replace(&key, object.slice(..object.len() - 2)).await;
    assert_eq!(holds(repository, place).await.unwrap().len(), 2);
    // A release that was moved here from another backup.
    world.pass(1);
    let other = world.backup(&["2"]).await;
    world.store.put_new(&other.place.hold(released.id), stream::once(object.clone())).await.unwrap();
    assert_eq!(holds(repository, &other.place).await.unwrap().len(), 1, "it holds: nobody can tell what it is");
    // Even that can be released, by name.
    world.pass(1);
    release(repository, signer, &other.place, released.id, "looked into", "ann").await.unwrap();
    assert!(holds(repository, &other.place).await.unwrap().is_empty());
    world.replace(&key, object).await;
    assert!(holds(repository, place).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_dead_backup_is_chosen_by_its_id_alone_and_can_be_brought_back() {
    let world = World::new().await;
    let first = world.backup(&["1"]).await;
    world.pass(60);
    let second = world.backup(&["2"]).await;
    world.pass(60);
    let (repository, signer) = (&world.repository, &world.signer);
    let since = world.now();
    mark_dead(repository, signer, &second.place, None, "keep-last 1", "prune", Some("run-1".into())).await.unwrap();
    let again = mark_dead(repository, signer, &second.place, None, "keep-last 1", "prune", None).await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let catalog = world.catalog();
    let chosen = |selector: Selector| {
        let catalog = catalog.clone();
        async move { catalog.select(&selector).await.map(|b| b.id()).map_err(|e| e.kind()) }
    };
    assert_eq!(chosen(Selector::Latest).await, Ok(first.id()));
    assert_eq!(chosen(Selector::Timestamp(world.now())).await, Ok(first.id()));
    let named = catalog.select(&Selector::Id(second.id().to_string())).await.unwrap();
    assert_eq!(named.tombstone.as_ref().map(|t| (t.since, t.reason.as_str())), Some((since, "keep-last 1")));
    // A damaged one that is dead stands in nobody's way.
    for key in [second.place.manifest(), second.place.manifest_copy()] {
        let whole = world.object(&key).await;
        world.replace(&key, whole.slice(1..)).await;
    }
    assert_eq!(chosen(Selector::Latest).await, Ok(first.id()));
    mark_alive(repository, &second.place).await.unwrap();
    mark_alive(repository, &second.place).await.unwrap();
    assert_eq!(chosen(Selector::Latest).await, Err(ErrorKind::Corrupt));
}

/// Nobody hides a backup with a tombstone that is damaged, signed by a stranger, or another backup's.
#[tokio::test]
async fn a_tombstone_counts_where_a_trusted_key_put_it() {
    let world = World::new().await;
    let first = world.backup(&["1"]).await;
    world.pass(1);
    let second = world.backup(&["2"]).await;
    let (repository, signer) = (&world.repository, &world.signer);
    mark_dead(repository, signer, &first.place, None, "expired", "prune", None).await.unwrap();
    let object = world.object(&first.place.tombstone()).await;
    let payload = object.iter().position(|b| *b == b'\n').unwrap() + 1;
    let strange = Signer::from_seed(&[9; 32]).seal(sign::TOMBSTONE, &object[payload..]);
    let as_hold = signer.seal(sign::HOLD, &object[payload..]);
    for forged in [object.clone(), strange, as_hold, object.slice(..object.len() - 1), Bytes::from_static(b"x")] {
        let key = second.place.tombstone();
        world.store.put_new(&key, stream::once(forged)).await.unwrap();
        assert_eq!(world.catalog().select(&Selector::Latest).await.unwrap().id(), second.id());
        world.store.delete(&key).await.unwrap();
    }
    world.store.put_new(&second.place.tombstone(), stream::once("rubbish")).await.unwrap();
    // And sweeping leaves what somebody marked, although its manifest is gone.
    for key in [first.place.manifest(), first.place.manifest_copy()] {
        world.store.delete(&key).await.unwrap();
    }
    world.pass(60 * 48);
    let day = std::time::Duration::from_hours(24);
    assert_eq!(sweep_unfinished(repository, &world.system, day).await.unwrap().backups, 0);
}
