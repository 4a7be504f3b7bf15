//! From parts to a backup: order, interruption, resumption.

use super::{dying::DyingStore, *};

#[tokio::test]
async fn what_was_backed_up_is_read_back() {
    for world in [World::new().await, World::encrypted().await] {
        is_read_back(&world).await;
    }
}

async fn is_read_back(world: &World) {
    let bodies = [Bytes::new(), Bytes::from_static(b"1\tann\n2\tbob\n"), noise(2_000_000, 1)];
    for compression in [Compression::Zstd, Compression::Gzip, Compression::None] {
        let mut writer = world.begin().await;
        let component = writer.component(database().compression(compression)).unwrap();
        for (index, body) in (0..).zip(&bodies) {
            let part = component.put_part(index * 3, pieces(body, 10_000)).await.unwrap();
            assert_eq!(part.measure().plain_len, body.len() as u64);
            component.record(part, rows(u64::from(index))).unwrap();
        }
        let mut facts = world.facts();
        facts.database = Some(DatabaseFacts {
            flavour: Flavour::Mariadb,
            version: "10.11.6-MariaDB".into(),
            server_uuid: None,
            position: Some(BinlogPosition { file: "bin.000003".into(), offset: 4096 }),
            gtid_set: Some("0-1-270".into()),
            variables: [("lower_case_table_names".to_owned(), "0".to_owned())].into(),
        });
        facts.warnings.push("table `chom`.`log` is not transactional".into());
        let info = writer.finish(facts.clone()).await.unwrap();
        assert_eq!(info.components, ["database".parse().unwrap()]);
        assert_eq!(info.plain_len, 2_000_012);

        let repository = world.reopened().await;
        assert_eq!(content(&repository, &info.place).await.unwrap(), bodies);
        let reader = BackupReader::open(&repository, info.place.clone()).await.unwrap();
        assert_eq!(reader.facts().await.unwrap(), facts);
        let component = reader.component("database").await.unwrap();
        assert_eq!(component.parts().iter().map(|p| p.index).collect::<Vec<_>>(), [0, 3, 6]);
        assert_eq!(component.parts()[1].meta, rows(1));
        let all = stream::collect(component.read_all(), 1 << 30).await.unwrap();
        assert_eq!(all, bodies.concat());
        for level in [Level::L1, Level::L2] {
            let report = verify(&reader, level, &silent()).await.unwrap();
            assert!(report.passed() && report.parts == 3, "{report:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tables_are_written_at_the_same_time() {
    let world = World::new().await;
    let mut writer = world.begin().await;
    let component = writer.component(database()).unwrap();
    let tasks = (0..40_u32).map(|index| {
        let component = component.clone();
        tokio::spawn(async move {
            let body = noise(200_000, index.into());
            let part = component.put_part(index, pieces(&body, 7_000)).await?;
            component.record(part, rows(index.into()))
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap().unwrap();
    }
    let info = writer.finish(world.facts()).await.unwrap();
    let read = content(&world.repository, &info.place).await.unwrap();
    assert_eq!(read, (0..40).map(|i| noise(200_000, i)).collect::<Vec<_>>());
}

#[tokio::test]
async fn parts_that_are_compressed_already_are_checked_too() {
    for world in [World::new().await, World::encrypted().await] {
        are_checked_too(&world).await;
    }
}

async fn are_checked_too(world: &World) {
    let mut writer = world.begin().await;
    let component = writer.component(database()).unwrap();
    let plain = noise(300_000, 1);
    let frame = Bytes::from(zstd::encode_all(&plain[..], 1).unwrap());
    let error = component.put_encoded(0, pieces(&frame.slice(..frame.len() - 9), 1000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(world.keys(&format!("{}/", world.host)).await.is_empty(), "nothing broken is stored");
    let part = component.put_encoded(0, pieces(&frame, 1000)).await.unwrap();
    assert_eq!(part.measure().plain_len, 300_000);
    if world.repository.file().encryption == Cipher::None {
        assert_eq!(part.measure().stored_len, frame.len() as u64);
    }
    component.record(part, rows(1)).unwrap();
    let info = writer.finish(world.facts()).await.unwrap();
    assert_eq!(content(&world.repository, &info.place).await.unwrap(), [plain]);
}

#[tokio::test]
async fn a_source_that_fails_leaves_its_index_free() {
    let world = World::new().await;
    let mut writer = world.begin().await;
    let component = writer.component(database()).unwrap();
    let broken = [Ok(Bytes::from_static(b"half")), Err(Error::new(ErrorKind::Unreachable, "the server went away"))];
    let error = component.put_part(0, Box::pin(futures::stream::iter(broken))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert_eq!(error.message(), "part 0 of `database`: the server went away");
    component.put(0, rows(1), stream::once("whole")).await.unwrap();
    let error = component.put_part(0, stream::once("again")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let info = writer.finish(world.facts()).await.unwrap();
    assert_eq!(content(&world.repository, &info.place).await.unwrap(), ["whole"]);
}

#[tokio::test]
async fn a_backup_with_a_forgotten_part_cannot_be_finished() {
    let world = World::new().await;
    let mut writer = world.begin().await;
    let component = writer.component(database()).unwrap();
    component.put(0, rows(1), stream::once("a")).await.unwrap();
    let _forgotten = component.put_part(1, stream::once("b")).await.unwrap();
    assert!(writer.component(database()).is_err(), "one component of a name");
    assert_eq!(writer.finish(world.facts()).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(world.catalog().list().await.unwrap().backups.is_empty());
    assert_eq!(world.begin().await.finish(world.facts()).await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_part_that_vanished_before_the_end_is_noticed() {
    let world = World::new().await;
    let mut writer = world.begin().await;
    let component = writer.component(database()).unwrap();
    component.put(0, rows(1), stream::once("a")).await.unwrap();
    let key = writer.place().part(component.name(), 0);
    world.store.delete(&key).await.unwrap();
    let error = writer.finish(world.facts()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(world.catalog().list().await.unwrap().backups.is_empty());
}

#[tokio::test]
async fn a_host_whose_key_is_not_trusted_makes_no_backup() {
    let world = World::new().await;
    let stranger = Signer::from_seed(&[9; 32]);
    let begun = BackupWriter::begin(&world.repository, &stranger, &world.host, &world.system).await;
    assert_eq!(begun.unwrap_err().kind(), ErrorKind::Precondition);
}

async fn write_two(writer: BackupWriter, facts: Facts) -> Result<BackupInfo> {
    let mut writer = writer;
    let component = writer.component(database())?;
    component.put(0, rows(1), stream::once("one")).await?;
    component.put(1, rows(2), stream::once("two")).await?;
    writer.finish(facts).await
}

/// F1 and F2: a writer that dies at any write leaves either nothing that is listed, or the whole backup; and the
/// backup can be taken up again under its id.
#[tokio::test]
async fn death_at_every_write_leaves_nothing_or_everything() {
    // Two parts, the index, the copy, the manifest.
    const WRITES: u32 = 5;
    for (is_encrypted, dies_after_effect) in [(false, false), (false, true), (true, false), (true, true)] {
        for survives in 0..=WRITES {
            let world = if is_encrypted { World::encrypted().await } else { World::new().await };
            let dying = DyingStore::over(&world.store, survives, dies_after_effect);
            let mortal = world.opened_on(dying).await;
            let mortal = mortal.with_ids(world.repository.ids().clone());
            let writer = BackupWriter::begin(&mortal, &world.signer, &world.host, &world.system).await.unwrap();
            let place = writer.place().clone();
            let result = write_two(writer, world.facts()).await;
            assert_eq!(result.is_ok(), survives == WRITES, "{survives} {result:?}");

            let repository = world.reopened().await;
            let catalog = Catalog::new(&repository, &world.system);
            let is_committed = survives == WRITES || (survives == WRITES - 1 && dies_after_effect);
            let listing = catalog.list().await.unwrap();
            assert_eq!(listing.backups.len(), usize::from(is_committed), "after {survives}");
            assert!(listing.damaged.is_empty());

            world.pass(1);
            match BackupWriter::resume(&repository, &world.signer, place.clone()).await {
                Err(e) => assert!(is_committed && e.kind() == ErrorKind::AlreadyExists, "{e}"),
                Ok(Resumed::Committed(info)) => {
                    assert_eq!(survives, if dies_after_effect { 3 } else { 4 });
                    assert_eq!(info.place, place);
                }
                Ok(Resumed::Unfinished(writer)) => {
                    assert!(survives < 4);
                    write_two(*writer, world.facts()).await.unwrap();
                }
            }
            assert_eq!(content(&repository, &place).await.unwrap(), ["one", "two"]);
        }
    }
}

#[tokio::test]
async fn a_resumed_backup_keeps_equal_parts_and_refuses_others() {
    let world = World::new().await;
    let mut writer = world.begin().await;
    let place = writer.place().clone();
    let component = writer.component(database()).unwrap();
    let _ = component.put_part(0, stream::once("one")).await.unwrap();
    let key = place.part(component.name(), 0);
    let before = world.store.stat(&key).await.unwrap();
    drop((writer, component));

    let repository = world.reopened().await;
    let resumed = BackupWriter::resume(&repository, &world.signer, place.clone()).await.unwrap();
    let Resumed::Unfinished(mut writer) = resumed else { panic!("it has no manifest") };
    // Another level gives other stored bytes; what counts is the content.
    let component = writer.component(database().level(19)).unwrap();
    let error = component.put_part(0, stream::once("another snapshot")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    component.put(0, rows(1), stream::once("one")).await.unwrap();
    assert_eq!(world.store.stat(&key).await.unwrap(), before, "the part was kept");
    writer.finish(world.facts()).await.unwrap();
    assert_eq!(content(&repository, &place).await.unwrap(), ["one"]);
}

#[tokio::test]
async fn unfinished_backups_are_swept_after_a_day_and_others_never() {
    let world = World::new().await;
    let day = std::time::Duration::from_hours(24);
    let kept = world.backup(&["kept"]).await;
    let mut old = world.begin().await;
    let component = old.component(database()).unwrap();
    let _ = component.put_part(0, stream::once("lost")).await.unwrap();
    world.pass(23 * 60);
    let mut young = world.begin().await;
    let _ = young.component(database()).unwrap().put_part(0, stream::once("in work")).await.unwrap();
    assert_eq!(sweep_unfinished(&world.repository, &world.system, day).await.unwrap(), Swept::default());
    world.pass(61);
    assert_eq!(sweep_unfinished(&world.repository, &system("shop"), day).await.unwrap().backups, 0);
    let swept = sweep_unfinished(&world.repository, &world.system, day).await.unwrap();
    assert_eq!((swept.backups, swept.objects), (1, 1));
    assert!(world.keys(&old.place().prefix()).await.is_empty());
    assert!(!world.keys(&young.place().prefix()).await.is_empty());
    assert_eq!(content(&world.repository, &kept.place).await.unwrap(), ["kept"]);
    assert_eq!(old.finish(world.facts()).await.unwrap_err().kind(), ErrorKind::InvalidInput, "its part is gone");
    young.abandon().await.unwrap();
    assert!(world.keys(&format!("{}/", world.host)).await.iter().all(|k| k.as_str().contains(&kept.id().to_string())));
}

/// F40.
#[tokio::test]
async fn ids_follow_each_other_although_the_clock_goes_back() {
    let world = World::new().await;
    let first = world.backup(&["1"]).await;
    world.pass(-3);
    // A new process, which remembers nothing.
    let repository = world.reopened().await.with_ids(Ids::new(
        {
            let clock = world.clock.clone();
            move || *clock.lock().unwrap()
        },
        || 0,
    ));
    let writer = BackupWriter::begin(&repository, &world.signer, &world.host, &world.system).await.unwrap();
    let second = write_two(writer, world.facts()).await.unwrap();
    assert!(second.id() > first.id());
    assert_eq!(world.catalog().select(&Selector::Latest).await.unwrap().id(), second.id());
}
