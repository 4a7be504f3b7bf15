//! Tables out of dumps that the server's own program wrote.

use chom_recovery::{
    ErrorKind, catalog::Selector, mysql::tables::TableName, procedure::tables::Request, recovery::RunOptions,
};

use crate::bench::{Bench, DAMAGE, LOCAL_INFILE, recovered, request};

const EVERYTHING: &str = "--all-databases --single-transaction --routines --triggers --events";

fn from(name: &str, tables: &[&str]) -> Request {
    Request { backup: Selector::Legacy(name.to_owned()), allow_local_infile: false, ..request(tables) }
}

/// What is compared of a state: `loan` is not restored.
fn without_loans(of: &[String]) -> Vec<String> {
    of.iter().filter(|line| !line.starts_with("loan:")).cloned().collect()
}

#[tokio::test]
async fn tables_of_an_old_dump_are_replaced_and_put_back() {
    let Some(bench) = Bench::open("tables_of_an_old_dump_are_replaced_and_put_back").await else { return };
    let odd = "INSERT INTO shelf.author (name, photo) VALUES ('it''s; -- `x` \\\\ /* \\\"', x'0027225c3b0a0d1a60ff')";
    bench.run(&[odd]).await;
    let sound = bench.state().await;
    let local_infile = bench.text(LOCAL_INFILE).await;
    let name = bench.dumps.dump(&bench.stack, EVERYTHING);
    bench.run(DAMAGE).await;
    let damaged = bench.state().await;
    for allow in [false, true] {
        let mut wanted = from(&name, &["author", "book", "yearly"]);
        wanted.allow_local_infile = allow;
        let report = bench.restore(wanted).await;
        assert_eq!(
            without_loans(&bench.state().await),
            without_loans(&sound),
            "local_infile may be switched on: {allow}"
        );
        assert!(report.done.iter().any(|line| line.contains(&format!("legacy:{name}"))), "{report:?}");
        assert!(report.to_review.iter().any(|line| line.starts_with("1 rows of `shelf.loan` refer by")), "{report:?}");
        assert_eq!(bench.text(LOCAL_INFILE).await, local_infile, "as it was");
        // Production works with them.
        bench.run(&["INSERT INTO shelf.book (author, title) VALUES (1, ' next ')"]).await;
        assert_eq!(bench.text("SELECT CAST(COUNT(*) AS CHAR) FROM shelf.book WHERE title = 'next'").await, "1");
        bench.roll_back_newest().await;
        assert_eq!(without_loans(&bench.state().await), without_loans(&damaged), "as before the restore");
    }
    bench.clear().await;
}

#[tokio::test]
async fn a_table_that_is_gone_comes_back_from_a_dump_with_its_triggers() {
    let Some(bench) = Bench::open("a_table_that_is_gone_comes_back_from_a_dump_with_its_triggers").await else {
        return;
    };
    let sound = bench.state().await;
    // One schema without its name: the header tells it.
    let name = bench.dumps.dump(&bench.stack, "--single-transaction --hex-blob --triggers shelf");
    let mut sql = bench.sql().await;
    sql.run("SET foreign_key_checks = 0").await;
    sql.run("DROP TABLE shelf.book").await;
    drop(sql);
    let going = bench
        .recovery
        .recover(chom_recovery::procedure::tables::RestoreTables, from(&name, &["book"]), RunOptions::default())
        .await
        .unwrap();
    let report = recovered(going.finish().await);
    assert_eq!(bench.state().await, sound, "{report:?}");
    let id = "SELECT CAST(MAX(id) AS CHAR) FROM shelf.book";
    bench.run(&["INSERT INTO shelf.book (author, title) VALUES (1, ' next ')"]).await;
    assert!(bench.text(id).await.parse::<u64>().unwrap() > 1000, "ids given out since are not given again");
    let fired = "SELECT GROUP_CONCAT(what ORDER BY what) FROM shelf.seen WHERE book > 1000";
    assert_eq!(bench.text(fired).await, "again,new next", "triggers fire in their order");
    bench.clear().await;
}

#[tokio::test]
async fn a_copy_of_a_dumped_table_replaces_nothing_and_a_cut_dump_is_refused() {
    let Some(bench) = Bench::open("a_copy_of_a_dumped_table_replaces_nothing_and_a_cut_dump_is_refused").await else {
        return;
    };
    let name = bench.dumps.dump(&bench.stack, EVERYTHING);
    bench.run(DAMAGE).await;
    let before = bench.state().await;
    let mut copy = from(&name, &["author"]);
    copy.rename = Some(TableName::new("shelf", "author_then"));
    let report = bench.restore(copy).await;
    assert!(report.to_review.iter().any(|line| line.contains("is a copy")), "{report:?}");
    let original = "SELECT CONCAT_WS(' ', name, initial, HEX(photo)) FROM shelf.author_then WHERE id = 1";
    assert_eq!(bench.text(original).await, "Ada A 00FF0A09");
    assert_eq!(bench.state().await, before);

    let text = bench.dumps.text(&name);
    // Behind the rows that are asked for, so that nothing but the end tells.
    for length in [text.len() - 200, text.len() / 2] {
        let cut = "mysql/backup-20990101-000000.sql.gz";
        bench.dumps.write(cut, &text[..length]);
        let error = bench.refused(from("latest", &["author"])).await;
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains(&name)), "{error:?}");
    }
    for (table, words) in [("nothing", "author, book, loan"), ("titles", "that is a view")] {
        let error = bench.refused(from(&name, &[table])).await;
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        let said = format!("{error} {}", error.hint_text().unwrap_or_default());
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(bench.state().await, before);
    bench.clear().await;
}

/// A dump with statements for everything that must not happen, around a table that is sound.
const HOSTILE: &str = "\
SET @@SESSION.SQL_LOG_BIN = 0, UNIQUE_CHECKS = 0;
SET NAMES utf8mb4;
DROP DATABASE IF EXISTS `shelf`;
CREATE DATABASE `shelf`;
CREATE USER 'intruder'@'%' IDENTIFIED BY 'x';
GRANT ALL ON *.* TO 'intruder'@'%';
USE `shelf`;
DROP TABLE IF EXISTS `loan`;
CREATE TABLE `loan` (
  `id` int NOT NULL
) ENGINE=InnoDB;
INSERT INTO `loan` VALUES (1);
CREATE TABLE `found` (
  `id` int NOT NULL,
  `text` varchar(40) DEFAULT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB;
CREATE TRIGGER `bad` BEFORE INSERT ON `found` FOR EACH ROW DELETE FROM shelf.author;
INSERT INTO `shelf`.`found` (`id`, `text`) VALUES (1, _binary 'a\\0'), (2, NULL),
 (3, '); DROP TABLE shelf.author; --');
INSERT INTO shelf.book VALUES (99, NULL, NULL, 'planted', 0);
UPDATED
DROP DATABASE `chom`;
-- Dump completed
";

#[tokio::test]
async fn nothing_of_a_dump_but_the_wanted_rows_reaches_the_server() {
    let Some(bench) = Bench::open("nothing_of_a_dump_but_the_wanted_rows_reaches_the_server").await else { return };
    let before = bench.state().await;
    let sessions = "SELECT CAST(COUNT(*) AS CHAR) FROM mysql.user WHERE user = 'intruder'";
    let write = |name: &str, text: &str| bench.dumps.write(name, text.as_bytes());
    write("mysql/backup-20260101-000000.sql.gz", &HOSTILE.replace("UPDATED\n", ""));
    let mut wanted = from("mysql/backup-20260101-000000.sql.gz", &["found"]);
    wanted.rename = Some(TableName::new("shelf", "found_then"));
    bench.restore(wanted.clone()).await;
    let rows = "SELECT GROUP_CONCAT(CONCAT(id, HEX(COALESCE(text, '-'))) ORDER BY id) FROM shelf.found_then";
    assert_eq!(bench.text(rows).await, "16100,22D,3293B2044524F50205441424C45207368656C662E617574686F723B202D2D");
    assert_eq!(bench.state().await, before);
    assert_eq!(bench.text(sessions).await, "0");
    assert_ne!(bench.text("SELECT CAST(COUNT(*) AS CHAR) FROM chom.users").await, "0");

    wanted.rename = Some(TableName::new("shelf", "found_again"));
    for (change, kind) in [
        ("UPDATE shelf.author SET name = '';\n", ErrorKind::Corrupt),
        ("INSERT INTO `found` VALUES (4, (SELECT USER()));\n", ErrorKind::Unsupported),
        ("INSERT INTO `found` VALUES (4, SLEEP(1));\n", ErrorKind::Unsupported),
        ("INSERT INTO `found` VALUES (4, NEXT VALUE FOR s);\n", ErrorKind::Unsupported),
        ("INSERT INTO `found` VALUES (4, 'x') ON DUPLICATE KEY UPDATE text = USER();\n", ErrorKind::Unsupported),
        ("ALTER TABLE `found` ADD COLUMN more int;\n", ErrorKind::Unsupported),
    ] {
        write("mysql/backup-20260101-000000.sql.gz", &HOSTILE.replace("UPDATED\n", change));
        let error = bench.refused(wanted.clone()).await;
        assert_eq!(error.kind(), kind, "{change}: {error:?}");
    }
    assert_eq!(bench.state().await, before);
    bench.clear().await;
}
