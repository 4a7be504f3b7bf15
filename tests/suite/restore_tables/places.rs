//! Where restored tables come to be: in the place of production's, where nothing is, under another name.

use std::{collections::BTreeSet, time::Duration};

use chom_recovery::{catalog::Selector, mysql::tables::TableName, procedure::tables::Request, recovery::RunOptions};

use crate::bench::{Bench, DAMAGE, LOCAL_INFILE, recovered, request};

#[tokio::test]
async fn tables_of_every_kind_are_replaced_and_put_back() {
    let Some(bench) = Bench::open("tables_of_every_kind_are_replaced_and_put_back").await else { return };
    let sound = bench.state().await;
    let local_infile = bench.text(LOCAL_INFILE).await;
    let backup = bench.back_up().await;
    bench.run(DAMAGE).await;
    let damaged = bench.state().await;
    assert_ne!(sound, damaged);

    let mut wanted = request(&["author", "book", "yearly"]);
    if bench.is_mariadb() {
        bench.run(&["UPDATE shelf.price SET cents = 1"]).await;
        wanted.tables.push(TableName::new("shelf", "price"));
    }
    let damaged = if bench.is_mariadb() { bench.state().await } else { damaged };
    let report = bench.restore(wanted).await;
    println!("{report:#?}");
    let restored = bench.state().await;
    // `loan` was not asked for: it has its new row, which refers to a book that is gone again.
    let same = |of: &[String]| of.iter().filter(|line| !line.starts_with("loan:")).cloned().collect::<Vec<_>>();
    assert_eq!(same(&restored), same(&sound));
    assert!(report.to_review.iter().any(|line| line.starts_with("1 rows of `shelf.loan` refer by")), "{report:?}");
    assert!(report.found.iter().any(|line| line.contains("`shelf.author` (about")), "{report:?}");
    assert!(report.done.iter().any(|line| line.contains(&backup.id().to_string())), "{report:?}");
    let read = report.measured.iter().find(|m| m.name == "read of the backup").unwrap().after.unwrap();
    assert!(read > 0.0 && read < 100.0, "only what was asked for is read: {read} %");

    // Production works with them: ids go on, triggers fire, keys hold, and what is kept holds nothing.
    bench.run(&["INSERT INTO shelf.author (name) VALUES ('Mary')"]).await;
    assert_eq!(bench.text("SELECT CAST(MAX(id) AS CHAR) FROM shelf.author").await, "5", "4 was given out before");
    bench.run(&["DELETE FROM shelf.seen", "INSERT INTO shelf.book (author, title) VALUES (5, ' Frankenstein ')"]).await;
    let seen = "SELECT GROUP_CONCAT(CONCAT(book, ' ', what) ORDER BY what) FROM shelf.seen";
    assert_eq!(bench.text(seen).await, "5 again,5 new Frankenstein");
    bench.run(&["DELETE FROM shelf.author WHERE id = 3", "DELETE FROM shelf.book WHERE id = 3"]).await;
    assert_eq!(bench.text("SELECT CAST(COUNT(*) AS CHAR) FROM shelf.loan WHERE book = 3").await, "0", "cascaded");
    assert_eq!(bench.text("SELECT CAST(COUNT(*) AS CHAR) FROM shelf.titles").await, "3");
    let [kept] = &bench.own_schemas().await[..] else { panic!("one schema is kept") };
    assert!(kept.starts_with("chom_kept_"), "{kept}");
    let newer = format!("SELECT CAST(COUNT(*) AS CHAR) FROM `{kept}`.author WHERE name IN ('Mary', 'Nobody')");
    assert_eq!(bench.text(&newer).await, "2", "rows written since the backup are kept");
    assert_eq!(bench.text(LOCAL_INFILE).await, local_infile, "as it was");

    // What is kept is no part of production: the next backup leaves it out.
    let next = bench.back_up().await;
    assert_eq!(bench.parts_of(&next, "author").await.len(), 1);
    bench.roll_back_newest().await;
    let undone = bench.state().await;
    let loans = |of: &[String]| of.iter().filter(|line| !line.starts_with("loan:")).cloned().collect::<Vec<_>>();
    assert_eq!(loans(&undone), loans(&damaged), "as before the restore");
    let [aside] = &bench.own_schemas().await[..] else { panic!("one schema is set aside") };
    assert!(aside.starts_with("chom_undone_"), "{aside}");
    let written = format!("SELECT CAST(COUNT(*) AS CHAR) FROM `{aside}`.book WHERE title = 'Frankenstein'");
    assert_eq!(bench.text(&written).await, "1", "rows written to the restored table are not lost");
    bench.run(&["INSERT INTO shelf.book (author, title) VALUES (4, 'Lodore')"]).await;

    // What it set aside goes with its journal, once somebody agrees to the list; the other run's stays.
    bench.restore(request(&["book"])).await;
    bench.run(&["CREATE DATABASE chom_kept_01arz3ndektsv4rrffq69g5fav", "CREATE DATABASE chom_kept_orders"]).await;
    assert!(bench.recovery.leftovers(Duration::from_hours(1)).await.unwrap().schemas.is_empty(), "too young");
    let mut listed = bench.recovery.leftovers(Duration::ZERO).await.unwrap();
    let undone = listed.schemas.iter().find(|s| s.schema == *aside).expect("what was set aside is listed").run;
    assert!(listed.schemas.len() == 2 && listed.runs.contains(&undone), "{listed:?}");
    assert!(listed.schemas.iter().all(|s| s.tables > 0), "{listed:?}");
    assert!(listed.kept.iter().any(|kept| kept.what.contains("chom_kept_01arz3ndek")), "of another host: {listed:?}");
    listed.schemas.retain(|s| s.run == undone);
    let pruned = bench.recovery.prune(&listed).await.unwrap();
    assert_eq!(pruned.schemas, [aside.as_str()]);
    assert!(pruned.runs.contains(&undone) && pruned.kept.iter().any(|k| k.what.starts_with("schema ")), "{pruned:?}");
    let left = bench.own_schemas().await;
    assert!(left.len() == 3 && !left.contains(aside), "what was not agreed to is there: {left:?}");
    assert_eq!(
        bench.recovery.prune(&bench.recovery.leftovers(Duration::ZERO).await.unwrap()).await.unwrap().schemas.len(),
        1
    );
    assert_eq!(bench.own_schemas().await, ["chom_kept_01arz3ndektsv4rrffq69g5fav", "chom_kept_orders"]);
    bench.clear().await;
}

#[tokio::test]
async fn a_table_that_is_gone_comes_back_with_its_triggers_and_nobody_is_asked() {
    let test = "a_table_that_is_gone_comes_back_with_its_triggers_and_nobody_is_asked";
    let Some(bench) = Bench::open(test).await else { return };
    let sound = bench.state().await;
    bench.back_up().await;
    let mut sql = bench.sql().await;
    sql.run("SET foreign_key_checks = 0").await;
    sql.run("DROP TABLE shelf.book").await;
    drop(sql);
    let without = bench.state().await;

    let going = bench
        .recovery
        .recover(chom_recovery::procedure::tables::RestoreTables, request(&["book"]), RunOptions::default())
        .await
        .unwrap();
    let report = recovered(going.finish().await);
    assert_eq!(bench.state().await, sound);
    assert!(report.found.iter().any(|line| line.contains("not there now")), "{report:?}");
    assert_eq!(bench.own_schemas().await, [""; 0], "nothing was replaced");
    bench.run(&["INSERT INTO shelf.book (author, title) VALUES (1, 'next')"]).await;
    let id: u64 = bench.text("SELECT CAST(MAX(id) AS CHAR) FROM shelf.book").await.parse().unwrap();
    assert!(id > 1000, "ids that were given out since the backup are not given again: {id}");

    bench.roll_back_newest().await;
    assert_eq!(bench.state().await, without);
    bench.clear().await;
}

#[tokio::test]
async fn a_copy_under_another_name_replaces_and_ties_nothing() {
    let Some(bench) = Bench::open("a_copy_under_another_name_replaces_and_ties_nothing").await else { return };
    bench.back_up().await;
    bench.run(DAMAGE).await;
    let before = bench.state().await;
    for (table, copy, rows) in [("author", "author_then", "3"), ("book", "book_then", "3")] {
        let mut wanted = request(&[table]);
        wanted.rename = Some(TableName::new("shelf", copy));
        let report = bench.restore(wanted).await;
        assert!(report.to_review.iter().any(|line| line.contains("is a copy")), "{report:?}");
        assert_eq!(bench.text(&format!("SELECT CAST(COUNT(*) AS CHAR) FROM shelf.{copy}")).await, rows);
    }
    let original = "SELECT CONCAT_WS(' ', name, initial, HEX(photo)) FROM shelf.author_then WHERE id = 1";
    assert_eq!(bench.text(original).await, "Ada A 00FF0A09");
    assert_eq!(bench.state().await, before);
    assert_eq!(bench.own_schemas().await, [""; 0]);
    let mut again = request(&["author"]);
    again.rename = Some(TableName::new("shelf", "author_then"));
    assert_eq!(bench.refused(again).await.kind(), chom_recovery::ErrorKind::AlreadyExists);
    bench.clear().await;
}

#[tokio::test]
async fn a_whole_schema_is_restored_and_others_are_left_alone() {
    let Some(bench) = Bench::open("a_whole_schema_is_restored_and_others_are_left_alone").await else { return };
    let sound = bench.state().await;
    bench.back_up().await;
    bench.run(DAMAGE).await;
    let users = "SELECT CAST(COUNT(*) AS CHAR) FROM chom.users";
    bench.run(&["INSERT INTO chom.users (name, email, password) VALUES ('new', 'new@shelf.test', '-')"]).await;
    let before = bench.text(users).await;
    let mut wanted = request(&[]);
    wanted.schemas = vec!["shelf".into()];
    bench.restore(wanted).await;
    assert_eq!(bench.state().await, sound);
    assert_eq!(bench.text(users).await, before);
    bench.run(&["DELETE FROM chom.users WHERE email = 'new@shelf.test'"]).await;
    bench.clear().await;
}

/// Large tables come over two connections and no more, the largest first.
#[tokio::test]
async fn large_tables_are_loaded_over_two_connections() {
    let Some(bench) = Bench::open("large_tables_are_loaded_over_two_connections").await else { return };
    for (table, doubled) in [("small", 13), ("large", 15), ("middle", 14)] {
        bench
            .run(&[
                &format!("CREATE TABLE shelf.{table} (id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, pad BLOB)"),
                &format!("INSERT INTO shelf.{table} (pad) VALUES (REPEAT('x', 500))"),
            ])
            .await;
        for _ in 0..doubled {
            bench
                .run(&[&format!("INSERT INTO shelf.{table} (pad) SELECT CONCAT(UUID(), pad) FROM shelf.{table}")])
                .await;
        }
    }
    let sums = async || {
        let mut sums = Vec::new();
        for table in ["small", "middle", "large"] {
            let sum = format!("SELECT CAST(SUM(CRC32(pad)) + COUNT(*) AS CHAR) FROM shelf.{table}");
            sums.push(bench.text(&sum).await);
        }
        sums
    };
    let before = sums().await;
    let name = bench.dumps.dump(&bench.stack, "--all-databases --single-transaction --hex-blob");
    bench.back_up().await;
    for backup in [Selector::Latest, Selector::Legacy(name)] {
        bench.run(&["DELETE FROM shelf.large WHERE id % 2 = 0", "DROP TABLE shelf.small"]).await;
        let wanted = Request { backup: backup.clone(), ..request(&["small", "large", "middle"]) };
        let mut restoring = Box::pin(bench.restore(wanted));
        let mut sql = bench.sql().await;
        let (mut most, mut seen, mut first) = (0, BTreeSet::new(), None);
        let loading = "SELECT COALESCE(GROUP_CONCAT(CONCAT(ID, ' ', REGEXP_SUBSTR(INFO, 'small|middle|large'))), '') \
                       FROM information_schema.PROCESSLIST WHERE INFO LIKE 'LOAD DATA%' OR INFO LIKE 'INSERT INTO `chom_new%'";
        let report = loop {
            tokio::select! {
                report = &mut restoring => break report,
                now = sql.text(loading) => {
                    let now: Vec<_> = now.split(',').filter_map(|one| one.split_once(' ')).collect();
                    most = most.max(now.len());
                    seen.extend(now.iter().map(|(id, _)| (*id).to_owned()));
                    first = first.or_else(|| now.first().map(|(_, table)| (*table).to_owned()));
                }
            }
        };
        assert!(seen.len() == 2 && most <= 2, "{backup:?}: loaded over {seen:?}, {most} at once");
        if backup == Selector::Latest {
            assert_eq!((most, first.as_deref()), (2, Some("large")), "the largest comes first");
        }
        assert_eq!(sums().await, before, "{backup:?}: {report:?}");
    }
    bench.clear().await;
}
