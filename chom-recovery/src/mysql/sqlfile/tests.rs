//! Splitting, counting and judging of dumps, without a server.

use std::io::{self, Read, Write};

use proptest::prelude::*;

use super::{
    Completion, Contents, FileCompression, Input, Kind, Limits, Object, Piece, Splitter, Token, contents::Reader, read,
};
use crate::error::ErrorKind;

mod grammar;

/// Gives as many bytes at a time as it is told, so that every seam between two reads is tried.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.0.len().min(self.1).min(buffer.len());
        buffer[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

fn split_with(text: &[u8], limits: Limits, step: usize) -> crate::Result<Vec<Piece>> {
    let mut splitter = Splitter::new(Trickle(text, step), limits);
    let mut pieces = Vec::new();
    while let Some(piece) = splitter.next_piece()? {
        pieces.push(piece);
    }
    Ok(pieces)
}

fn split(text: impl AsRef<[u8]>) -> Vec<Piece> {
    split_with(text.as_ref(), Limits::default(), 7).unwrap()
}

/// Texts of the statements that would be run.
fn statements(text: impl AsRef<[u8]>) -> Vec<String> {
    split(text)
        .into_iter()
        .filter(|p| matches!(&p.token, Token::Statement(kind) if *kind != Kind::Empty))
        .map(|p| String::from_utf8_lossy(&p.into_sql()).into_owned())
        .collect()
}

fn contents(text: impl AsRef<[u8]>) -> Contents {
    let mut reader = Reader::default();
    let mut splitter = Splitter::new(Trickle(text.as_ref(), 7), Limits::default());
    loop {
        match splitter.next_piece() {
            Ok(Some(piece)) => reader.piece(&piece),
            Ok(None) => break,
            Err(error) => {
                reader.failed(splitter.offset(), error.message().to_owned());
                break;
            }
        }
    }
    reader.finish()
}

fn joined(pieces: &[Piece]) -> Vec<u8> {
    pieces.iter().flat_map(Piece::raw).copied().collect()
}

const SMALL: &str = "-- MySQL dump 10.13  Distrib 9.7.0, for Linux (x86_64)
--
-- Host: localhost    Database: chom
-- ------------------------------------------------------
-- Server version\t9.7.0

/*!40101 SET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT */;
/*!50503 SET NAMES utf8mb4 */;
/*!40101 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO' */;
DROP TABLE IF EXISTS `users`;
CREATE TABLE `users` (
  `id` int NOT NULL,
  `name` varchar(20) DEFAULT 'a;b'
) ENGINE=InnoDB;
LOCK TABLES `users` WRITE;
/*!40000 ALTER TABLE `users` DISABLE KEYS */;
INSERT INTO `users` VALUES (1,'it''s (1), (2)'),(2,'back\\\\slash \\'),(3,\\';--'),(3,NULL);
UNLOCK TABLES;
/*!50001 CREATE VIEW `v` AS SELECT 1 AS `a`*/;
DELIMITER ;;
/*!50003 CREATE*/ /*!50017 DEFINER=`root`@`%`*/ /*!50003 TRIGGER `t` BEFORE INSERT ON `users` FOR EACH ROW BEGIN /* ; */ SET @a = ';;'; SET @b = 1; END */;;
DELIMITER ;
/*!50001 DROP VIEW IF EXISTS `v`*/;
/*!50001 CREATE ALGORITHM=UNDEFINED */
/*!50013 DEFINER=`root`@`%` SQL SECURITY DEFINER */
/*!50001 VIEW `v` AS select 1 AS `a` */;
/*!40101 SET SQL_MODE=@OLD_SQL_MODE */;
/*!40111 SET SQL_NOTES=@OLD_SQL_NOTES */;

-- Dump completed on 2026-01-02  2:00:09
";

#[test]
fn a_small_dump_is_understood() {
    let found = contents(SMALL);
    assert_eq!(found.problems, []);
    assert_eq!(found.header.server_version.as_deref(), Some("9.7.0"));
    assert_eq!(found.header.database.as_deref(), Some("chom"));
    assert_eq!(found.tables[""]["users"].rows, 3);
    assert!(found.needs_schema() && found.schemas.is_empty());
    let object = |kind, name: &str| (kind, String::new(), name.to_owned());
    assert_eq!(found.objects, [object(Object::View, "v"), object(Object::Trigger, "t")].into());
    assert!(matches!(found.completion, Completion::Trailer(Some(_))));
}

#[test]
fn quotes_and_comments_hide_delimiters() {
    for text in [
        "SET @a = 'x;y'",
        "SET @a = \"x;'y\"",
        "CREATE TABLE `a;b` (x int)",
        "CREATE TABLE a (x int /* ; ' */, y int)",
        "CREATE TABLE a (x int -- it's; here\n, y int)",
        "CREATE TABLE a (x int # it's; here\n)",
        r"SET @a = 'x\';y'",
        r"SET @a = 'x\\'",
        "SET @a = 'x''y;'",
        "/*!50001 CREATE TABLE a (x varchar(9) DEFAULT ';*/') */",
    ] {
        assert_eq!(statements(format!("{text};\n")), [text], "{text}");
    }
}

#[test]
fn settings_change_what_a_quote_is() {
    // Without backslash escapes the text ends at the second quote.
    let text = r"SET sql_mode = 'NO_BACKSLASH_ESCAPES'; SET @a = 'x\'; SET @b = 'y';";
    assert_eq!(statements(text).len(), 3);
    let text = r"SET @old=@@sql_mode, sql_mode='NO_BACKSLASH_ESCAPES'; SET sql_mode=@old; SET @a = 'x\'; SET @b = 'y';";
    // Put back, the backslash keeps the text open.
    assert_eq!(statements(text).len(), 2);
    let text = r#"SET sql_mode = 'ANSI_QUOTES'; CREATE TABLE "a\" (x int); USE "b";"#;
    let pieces = split(text);
    assert!(pieces.iter().any(|p| p.token == Token::Statement(Kind::Use("b".into()))), "{pieces:?}");
    // In Shift_JIS the second byte of 表 is a backslash, in GBK a quote may be one.
    let sjis = [b"SET NAMES sjis; SET @a = '\x95\x5c'; SET @b = 'y';".as_slice()].concat();
    assert_eq!(statements(&sjis).len(), 3);
    let plain = [b"SET NAMES latin1; SET @a = '\x95\x5c'; SET @b = 'y';".as_slice()].concat();
    assert_eq!(statements(&plain).len(), 1);
}

#[test]
fn any_delimiter_ends_statements() {
    for delimiter in [";;", "//", "$$", "|"] {
        let body = "CREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2; END";
        let text = format!("DELIMITER {delimiter}\r\n{body}{delimiter}\r\ndelimiter ;\r\nUSE a;");
        assert_eq!(statements(&text), [body, "USE a"], "{delimiter}");
    }
    let error = split_with(b"DELIMITER \\\n", Limits::default(), 100).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn the_sandbox_line_a_byte_order_mark_and_line_feeds_of_windows_are_no_statements() {
    let text = "\u{feff}/*M!999999\\- enable the sandbox mode */ \r\n-- MariaDB dump 10.19-11.8.3-MariaDB\r\nUSE `a`;\r\n-- Dump completed\r\n";
    let found = contents(text);
    assert!(found.header.has_sandbox && found.is_sound(), "{found:?}");
    assert_eq!(statements(text), ["USE `a`"]);
    assert_eq!(found.completion, Completion::Trailer(None));
    assert!(contents("/*!999999\\- enable the sandbox mode */\nUSE `a`;\n-- Dump completed").header.has_sandbox);
}

#[test]
fn a_long_insert_is_cut_between_rows_and_loses_none() {
    let rows: Vec<String> = (0..1000).map(|i| format!("({i},'value, (with) \\'brackets\\' {i}')")).collect();
    let text = format!("INSERT INTO `a`.`t` (`id`, `v`) VALUES {};\n-- Dump completed\n", rows.join(",\n"));
    let limits = Limits { split: 500, ..Limits::default() };
    let pieces = split_with(text.as_bytes(), limits, 61).unwrap();
    assert_eq!(joined(&pieces), text.as_bytes());
    let parts: Vec<_> = pieces.into_iter().filter(|p| matches!(p.token, Token::Statement(_))).collect();
    assert!(parts.len() > 50, "{}", parts.len());
    let (mut counted, mut again) = (0, Vec::new());
    for part in parts {
        let Token::Statement(Kind::Insert(insert)) = &part.token else { panic!("{part:?}") };
        assert_eq!(insert.table.name, "t");
        counted += insert.rows;
        let sql = String::from_utf8(part.into_sql()).unwrap();
        assert!(sql.len() < 700, "{}", sql.len());
        again.push(sql.strip_prefix("INSERT INTO `a`.`t` (`id`, `v`) VALUES ").unwrap().trim().to_owned());
    }
    assert_eq!(counted, 1000);
    assert_eq!(again.join(",\n"), rows.join(",\n"));
}

#[test]
fn a_number_of_many_digits_is_a_literal_whatever_is_read_at_once() {
    let of = |text: &str, step| {
        let pieces = split_with(text.as_bytes(), Limits::default(), step).unwrap();
        let insert = pieces.into_iter().find_map(|piece| match piece.token {
            Token::Statement(Kind::Insert(insert)) => Some(insert),
            _ => None,
        });
        insert.unwrap()
    };
    let digits = "AB".repeat(3000);
    for step in [1, 7, 100, 1000, 5000] {
        let plain = of(&format!("INSERT INTO t VALUES (1,0x{digits},2.5),(2,0x{digits},NULL);\n"), step);
        assert_eq!((plain.rows, plain.has_expressions), (2, false), "{step} bytes at a time");
        let computed = of(&format!("INSERT INTO t VALUES (1,0x{digits}),(2,{}());\n", "a".repeat(6000)), step);
        assert!(computed.has_expressions, "{step} bytes at a time");
    }
}

#[test]
fn what_is_longer_than_the_limit_is_an_error_that_names_the_place() {
    let limits = Limits { longest: 1 << 20, split: 1000 };
    let text = format!("USE a;\nINSERT INTO t VALUES ('{}');", "x".repeat(3 << 20));
    let error = split_with(text.as_bytes(), limits, 100_000).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("byte 7 (line 2)"), "{error}");
    assert!(error.hint_text().is_some_and(|h| h.contains("legacy.longest_statement")), "{error:?}");
    let with_tail =
        format!("INSERT INTO t VALUES {} AS n ON DUPLICATE KEY UPDATE a = n.a;", vec!["(1)"; 400].join(","));
    assert_eq!(split_with(with_tail.as_bytes(), limits, 100_000).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn messages_in_the_file_are_told_from_statements() {
    let warning = "mysqldump: [Warning] Using a password on the command line interface can be insecure.\n";
    let found = contents(format!("{warning}{SMALL}"));
    assert!(found.is_sound() && found.notes.len() == 1, "{found:?}");
    let broken = SMALL.replace("UNLOCK TABLES;", "mysqldump: Error 2013: Lost connection during query\nUNLOCK TABLES;");
    let found = contents(broken);
    assert!(found.problems[0].text.contains("Error 2013"), "{found:?}");
    // In the middle of the rows.
    let found = contents(SMALL.replace("),(3,NULL)", ")\nmysqldump: [Warning] x\n,(3,NULL)"));
    assert!(!found.is_sound(), "{found:?}");
}

#[test]
fn a_cut_dump_is_never_sound() {
    // Behind the first setting that is put back, nothing but settings follows.
    let data_ends = SMALL.find("SQL_MODE=@OLD").unwrap();
    for length in 0..SMALL.len() {
        assert!(!contents(&SMALL[..length]).is_sound() || length > data_ends, "{length}");
    }
    assert!(!contents(SMALL.split("/*!40101 SET SQL_MODE=@").next().unwrap()).is_sound());
    assert!(contents("").problems[0].text.contains("no statement"));
}

#[test]
fn what_no_dump_holds_is_a_problem_and_what_acts_on_the_server_a_note() {
    let with = |text: &str| contents(format!("{text}\n{SMALL}"));
    for text in [
        "\\! rm -rf /\n;",
        "SHUTDOWN;",
        "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE t;",
        "USE a\nDROP DATABASE b;",
    ] {
        let found = with(text);
        assert!(found.problems[0].text.contains("no statement of a dump"), "{text}: {found:?}");
    }
    for text in ["SET @@GLOBAL.GTID_PURGED='a:1-5';", "CHANGE MASTER TO MASTER_LOG_FILE='b.1', MASTER_LOG_POS=4;"] {
        let found = with(text);
        assert!(found.is_sound() && !found.notes.is_empty(), "{text}: {found:?}");
    }
    assert_eq!(with("SET @@GLOBAL.GTID_PURGED='a:1-5';").gtid_set.as_deref(), Some("a:1-5"));
    let found = with("DROP DATABASE IF EXISTS `shop`; CREATE DATABASE `shop`; USE `shop`;");
    assert!(found.dropped_schemas.contains("shop") && found.schemas.contains("shop"));
    assert_eq!(found.tables["shop"]["users"].rows, 3);
}

#[tokio::test]
async fn files_are_read_whatever_their_compression_and_cuts_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let gzip = |text: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    };
    let (first, second) = SMALL.as_bytes().split_at(SMALL.len() / 2);
    let zstd = zstd::encode_all(SMALL.as_bytes(), 1).unwrap();
    let members = [gzip(first), gzip(second)].concat();
    let path = folder.path().join("dump");
    let of = async |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        read(&path, Limits::default(), |_, _| {}).await
    };
    for (bytes, compression) in [
        (SMALL.as_bytes().to_vec(), FileCompression::None),
        (gzip(SMALL.as_bytes()), FileCompression::Gzip),
        (members.clone(), FileCompression::Gzip),
        (zstd.clone(), FileCompression::Zstd),
    ] {
        let found = of(&bytes).await.unwrap();
        assert_eq!(Input::open(&path).unwrap().compression(), compression);
        assert_eq!(found.contents.rows, 3);
        assert!(found.contents.is_sound(), "{found:?}");
        assert_eq!(found.stored.bytes, bytes.len() as u64);
    }
    for bytes in
        [&members[..members.len() - 3], &gzip(first), &zstd[..zstd.len() - 3], &[&members[..], b"garbage"].concat()]
    {
        let found = of(bytes).await.unwrap();
        assert!(!found.contents.is_sound(), "{found:?}");
        assert_eq!(found.stored.bytes, bytes.len() as u64);
    }
    assert_eq!(of(b"").await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(!of(&gzip(b"")).await.unwrap().contents.is_sound());
    assert_eq!(read(folder.path(), Limits::default(), |_, _| {}).await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

/// Bytes that matter to a lexer, and some that do not.
fn lexical() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "INSERT INTO t VALUES ",
        "(1,'a')",
        ",",
        ";",
        "'",
        "\"",
        "`",
        "\\",
        "--",
        "-- x\n",
        "#",
        "/*",
        "*/",
        "/*!50001 ",
        "\n",
        "DELIMITER ;;\n",
        "DELIMITER ;\n",
        ";;",
        "SET sql_mode='NO_BACKSLASH_ESCAPES';",
        "SET NAMES gbk;",
        "(",
        ")",
        "USE a",
        "mysqldump: x\n",
        "/*M!999999\\- x */",
        "\u{feff}",
        "CREATE TABLE t (a int)",
        "SET @a=@@sql_mode",
        "x",
        "\r\n",
        "ON",
        "\0",
    ];
    let word = prop::sample::select(words.map(|w| w.as_bytes().to_vec()).to_vec());
    let noise = prop::collection::vec(any::<u8>(), 0..4);
    prop::collection::vec(prop_oneof![9 => word, 1 => noise], 0..60).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    /// Whatever the bytes, and wherever reads end: no panic, no byte lost or doubled, the same pieces.
    #[test]
    fn joining_the_pieces_gives_the_file(text in lexical(), step in 1_usize..90, split in 1_usize..60) {
        let limits = Limits { split, ..Limits::default() };
        if let Ok(pieces) = split_with(&text, limits, step) {
            prop_assert_eq!(joined(&pieces), text.clone());
            let mut reader = Reader::default();
            let mut at = 0;
            for piece in &pieces {
                prop_assert_eq!(piece.offset, at);
                at += piece.raw().len() as u64;
                reader.piece(piece);
            }
            let _ = reader.finish();
            // Blanks may end where a read does; statements may not.
            let whole = split_with(&text, limits, 1 << 20).unwrap();
            let run = |pieces: Vec<Piece>| -> Vec<Piece> {
                pieces.into_iter().filter(|p| p.token != Token::Blank).collect()
            };
            prop_assert_eq!(run(pieces), run(whole));
        }
    }

    /// A real dump with some bytes changed, cut or doubled.
    #[test]
    fn a_mutated_dump_is_read_without_panic(changes in prop::collection::vec((0..SMALL.len(), any::<u8>(), 0..4_u8), 1..8)) {
        let mut text = SMALL.as_bytes().to_vec();
        for (at, byte, how) in changes {
            let at = at % text.len().max(1);
            match how {
                0 if !text.is_empty() => text[at] = byte,
                1 => text.truncate(at.max(1)),
                2 => text.insert(at, byte),
                _ => text.extend_from_within(at..),
            }
        }
        if let Ok(pieces) = split_with(&text, Limits::default(), 97) {
            prop_assert_eq!(joined(&pieces), text);
        }
    }
}
