//! The runbook's layout on a real file system.

use std::{fs, io::Write, os::unix::fs::symlink, path::Path};

use chrono::{DateTime, Utc};

use super::{LATEST, LegacyCatalog, LegacyContents, LegacyKind, ToldBy};
use crate::{error::ErrorKind, system::Legacy};

const DUMP: &str = "-- MySQL dump 10.13  Distrib 9.7.0, for Linux (x86_64)\n-- Host: localhost    Database: chom\n\
    -- Server version\t9.7.0\nCREATE TABLE `t` (`id` int);\nINSERT INTO `t` VALUES (1),(2);\n";

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn dump(ended: &str) -> Vec<u8> {
    gzip(format!("{DUMP}-- Dump completed on {ended}\n").as_bytes())
}

fn archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in [("app/.env", &b"APP_KEY=x"[..]), ("app/index.php", b"<?php")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_767_319_200);
        builder.append_data(&mut header, name, content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn put(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn catalog(root: &Path) -> LegacyCatalog {
    LegacyCatalog::new(&Legacy {
        directory: root.to_owned(),
        timezone: "Europe/Paris".into(),
        schema: None,
        longest_statement: 1 << 20,
        accounts: Vec::new(),
    })
}

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

#[tokio::test]
async fn the_layout_is_listed_by_the_time_of_the_data() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    put(root, "mysql/chom-20260102-020000.sql.gz", &dump("2026-01-02  2:00:09"));
    put(root, "mysql/incremental/backup-20260102-141500.sql.gz", &dump("2026-01-02 14:15:02"));
    put(root, "mysql/by-hand.sql.gz", &dump("2026-01-01 12:00:00"));
    put(root, "mysql/no-trailer.sql", DUMP.as_bytes());
    put(root, "mysql/notes.txt", b"nothing");
    put(root, "app/chom-app-20260102-030000.tar.gz", &gzip(&archive()));
    put(root, "ssl/certs.tar.gz", &gzip(&archive()));
    symlink("chom-20260102-020000.sql.gz", root.join("mysql/latest.sql.gz")).unwrap();
    symlink("gone.tar.gz", root.join("app/latest.tar.gz")).unwrap();
    symlink("/etc/hostname", root.join("ssl/latest.tar.gz")).unwrap();

    let listing = catalog(root).list().await.unwrap();

    let found: Vec<_> = listing.backups.iter().map(|b| (b.legacy.as_str(), b.told_by)).collect();
    assert_eq!(
        found,
        [
            ("mysql/by-hand.sql.gz", ToldBy::Content),
            ("mysql/chom-20260102-020000.sql.gz", ToldBy::Name),
            ("app/chom-app-20260102-030000.tar.gz", ToldBy::Name),
            ("ssl/certs.tar.gz", ToldBy::Content),
            ("mysql/incremental/backup-20260102-141500.sql.gz", ToldBy::Name),
            ("mysql/no-trailer.sql", ToldBy::File),
        ]
    );
    // Paris is one hour ahead of UTC in January.
    assert_eq!(listing.backups[1].point, utc("2026-01-02T01:00:00Z"));
    assert!(listing.backups[4].is_increment);
    assert!(listing.backups[5].warnings[0].contains("own time"));
    let problem = |link: &str| listing.links.iter().find(|l| l.link == link).unwrap().problem.clone();
    assert!(problem("app/latest.tar.gz").unwrap().contains("nowhere"));
    assert!(problem("ssl/latest.tar.gz").unwrap().contains("out of"));
    // The link is older than what another script made since.
    assert!(problem("mysql/latest.sql.gz").unwrap().contains("no-trailer"));

    assert_eq!(listing.select("legacy:backup-20260102-141500.sql.gz").unwrap().legacy, found[4].0);
    assert_eq!(listing.select(LATEST).unwrap().legacy, "mysql/no-trailer.sql");
    assert_eq!(listing.newest(LegacyKind::Certificates).unwrap().legacy, "ssl/certs.tar.gz");
    for name in ["../../etc/passwd", "/etc/passwd", "mysql/absent.sql.gz", ""] {
        assert_eq!(listing.select(name).unwrap_err().kind(), ErrorKind::NotFound, "{name}");
    }
    put(root, "config/chom-app-20260102-030000.tar.gz", b"x");
    let listing = catalog(root).list().await.unwrap();
    assert_eq!(listing.select("chom-app-20260102-030000.tar.gz").unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(catalog(&root.join("absent")).list().await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_backup_counts_only_when_its_end_and_its_content_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let sound = dump("2026-01-02  2:00:09");
    let tar = archive();
    // What `gzip -t` calls good: an archive and a dump that were cut before they were compressed.
    let cut_dump = gzip(DUMP.as_bytes());
    let cut_tar = gzip(&tar[..1024]);
    let error = gzip(format!("{DUMP}mysqldump: Error 2013: Lost connection\n-- Dump completed\n").as_bytes());
    for (name, bytes, finding) in [
        ("mysql/sound-20260102-020000.sql.gz", &sound[..], ""),
        ("mysql/half-20260102-020000.sql.gz", &sound[..sound.len() / 2], "cannot be read past byte"),
        ("mysql/cut-20260102-020000.sql.gz", &cut_dump, "nothing at its end"),
        ("mysql/error-20260102-020000.sql.gz", &error, "Error 2013"),
        ("mysql/empty-20260102-020000.sql.gz", b"", "is empty"),
        ("mysql/nothing-20260102-020000.sql.gz", &gzip(b""), "no statement"),
        ("mysql/binlog-20260102-020000.sql.gz", &gzip(b"\xfebin\0\0\0\0rest"), "binary log"),
        ("mysql/text-20260102-020000.sql.gz", &gzip(b"<html>404</html>"), "the file ends inside"),
        ("app/sound-20260102-020000.tar.gz", &gzip(&tar), ""),
        ("app/cut-20260102-020000.tar.gz", &cut_tar, "closing blocks"),
        ("app/half-20260102-020000.tar.gz", &gzip(&tar)[..60], "cannot be read to its end"),
        ("app/nothing-20260102-020000.tar.gz", &gzip(&[0; 1024]), "empty"),
    ] {
        put(root, name, bytes);
        let catalog = catalog(root);
        let backup = catalog.list().await.unwrap().select(name).unwrap().clone();
        let report = catalog.verify(&backup, |_, _| {}).await.unwrap();
        if finding.is_empty() {
            assert_eq!(report.findings, Vec::<String>::new(), "{name}");
            assert_eq!(report.stored.as_ref().unwrap().bytes, bytes.len() as u64);
        } else {
            assert!(report.findings.iter().any(|f| f.contains(finding)), "{name}: {report:?}");
            assert_eq!(report.into_dump().unwrap_err().kind(), ErrorKind::Corrupt, "{name}");
        }
    }
}

#[tokio::test]
async fn name_and_content_correct_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let catalog = catalog(root);
    let verify = async |name: &str, ended: &str| {
        put(root, name, &dump(ended));
        let backup = catalog.list().await.unwrap().select(name).unwrap().clone();
        catalog.verify(&backup, |_, _| {}).await.unwrap()
    };
    let report = verify("mysql/a-20260102-020000.sql.gz", "2026-01-02  2:10:00").await;
    assert_eq!((report.backup.point, report.backup.warnings), (utc("2026-01-02T01:00:00Z"), vec![]));
    let LegacyContents::Dump(contents) = report.contents else { panic!() };
    assert_eq!(contents.rows, 2);

    let report = verify("mysql/b-20260105-020000.sql.gz", "2026-01-02  2:10:00").await;
    assert_eq!(report.backup.point, utc("2026-01-02T01:10:00Z"));
    assert!(report.backup.warnings[0].contains("the earlier counts"), "{:?}", report.backup.warnings);

    let report = verify("mysql/c-20260102-020000.sql.gz", "2026-01-09  2:10:00").await;
    assert_eq!(report.backup.point, utc("2026-01-02T01:00:00Z"));
    assert!(report.backup.warnings[0].contains("renamed"), "{:?}", report.backup.warnings);
}
