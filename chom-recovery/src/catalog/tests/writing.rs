//! From parts to a backup: order, interruption, resumption.

use super::*;

#[tokio::test]
async fn what_was_backed_up_is_read_back() {
    let world = World::new().await;
    let bodies = [Bytes::new(), Bytes::from_static(b"1\tann\n2\tbob\n"), noise(2_000_000, 1)];
    for compression in [Compression::Zstd, Compression::Gzip] {
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
        assert_eq!(reader.manifest().facts, facts);
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
