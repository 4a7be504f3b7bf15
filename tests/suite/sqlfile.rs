//! Dumps that the servers' own programs wrote come back whole: dumped by the real client in several ways, read, loaded
//! into a candidate, and compared row by row with the source.

use std::{io::Write, path::PathBuf};

use chom_recovery::{
    ErrorKind,
    mysql::{
        Scope, compare, dump,
        sqlfile::{self, Completion, Kind, Limits, LoadOptions, Selection, Splitter, SqlFile, Token},
    },
};
use chom_recovery_tests::mysql::{Image, MemoryDump, TestServer, fixture};

fn fixtures(image: Image) -> &'static [&'static str] {
    match image {
        Image::Mysql => &["types.sql", "schema.sql", "objects.sql", "mysql.sql"],
        Image::Mariadb118 => &["types.sql", "schema.sql", "objects.sql", "mariadb.sql", "mariadb-11.8.sql"],
        Image::Mariadb1011 => &["types.sql", "schema.sql", "objects.sql", "mariadb.sql"],
    }
}

/// Ways in which people dump: name, arguments, compression.
const WAYS: [(&str, &[&str], &str); 6] = [
    ("databases", &["--single-transaction"], "gz"),
    ("hex", &["--single-transaction", "--hex-blob", "--complete-insert"], "zst"),
    ("lines", &["--skip-lock-tables", "--skip-extended-insert", "--skip-comments", "--hex-blob"], "sql"),
    ("small-packets", &["--skip-lock-tables", "--net-buffer-length=4096", "--hex-blob", "--order-by-primary"], "gz"),
    ("no-create-db", &["--no-create-db", "--skip-lock-tables", "--hex-blob"], "gz"),
    (
        "drop-database",
        &["--skip-lock-tables", "--add-drop-database", "--skip-dump-date", "--skip-set-charset", "--hex-blob"],
        "gz",
    ),
];
/// Those that run unless all cases are wanted.
const CORE: usize = 2;

struct Source {
    server: TestServer,
    schemas: Vec<String>,
    expected: dump::Summary,
    folder: tempfile::TempDir,
}

impl Source {
    async fn start(image: Image) -> Self {
        let server = TestServer::start(image, &[]).await;
        for name in fixtures(image) {
            server.script(fixture(name));
        }
        // The servers' own programs stop at views that speak of what is gone, and what they write for one with a check
        // option over another view cannot be loaded.
        server.script("DROP VIEW objects.over_invalid, objects.invalid_view, objects.a_top");
        if image == Image::Mysql {
            // Nor does `mysqldump` write the tablespaces that tables share: they go into files of their own.
            server.script(
                "USE only_mysql; ALTER TABLE in_shared TABLESPACE innodb_file_per_table;
                 ALTER TABLE also_shared TABLESPACE innodb_file_per_table; DROP TABLE in_small_blocks;
                 DROP TABLESPACE `shared space`; DROP TABLESPACE small_blocks",
            );
        }
        let (taken, expected) = MemoryDump::of(&server.connect().await, &dump::Options::default()).await.unwrap();
        let schemas = taken.definitions().schemas.iter().map(|s| s.name.clone()).collect();
        Self { server, schemas, expected, folder: tempfile::tempdir().unwrap() }
    }

    /// Dumps as a script would.
    fn dump(&self, name: &str, arguments: &[&str], compression: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{name}.sql.{compression}"));
        let text = self.server.dump(arguments);
        let bytes = match compression {
            "gz" => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&text).unwrap();
                encoder.finish().unwrap()
            }
            "zst" => zstd::encode_all(&text[..], 1).unwrap(),
            _ => text,
        };
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn all_schemas<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["--routines", "--triggers", "--events"];
        if self.server.image == Image::Mysql {
            all.push("--set-gtid-purged=OFF");
        }
        all.extend(arguments);
        all.push("--databases");
        all.extend(self.schemas.iter().map(String::as_str));
        all
    }
}

async fn read(path: &std::path::Path) -> SqlFile {
    let file = sqlfile::read(path, Limits { split: 2_000, ..Limits::default() }, |_, _| {}).await.unwrap();
    assert_eq!(file.contents.problems, [], "{}", path.display());
    file
}

/// Loads into a new candidate, and compares with the file and with the source.
async fn comes_back(source: &Source, path: &std::path::Path, file: &SqlFile, options: &LoadOptions) -> TestServer {
    let candidate = TestServer::candidate(source.server.image).await;
    let to = candidate.connect().await;
    let report = sqlfile::load(&to, path, file, options, |_, _| {}).await.unwrap();
    // Statistics of the server's own tables are there already, and written with IGNORE; MariaDB's program leaves out the
    // four rows that versioned tables remember.
    let has_system = !file.contents.system_schemas.is_empty();
    let is_all = if has_system { report.rows + 4 >= source.expected.rows } else { report.rows == file.contents.rows };
    assert!(is_all, "{} rows: {report:?}", file.contents.rows);
    println!("{}: {} statements, {} rows, {:?}", path.display(), report.statements, report.rows, report.warnings);

    let to = if options.with_system { candidate.connect_as(&source.server).await } else { to };
    let comparison = sqlfile::compare(&to, &file.contents, None).await.unwrap();
    assert_eq!(comparison.differences, [], "with the file");
    assert!(comparison.rows > 100 && comparison.tables > 20, "{comparison:?}");

    // A dump writes texts: floats are not always exact then, values in JSON lose their types, and an invalid ENUM value is
    // taken for the empty text. These tables are compared as text below.
    let comparison = compare(&to, &source.expected.baseline, Scope::WithoutAccounts).await.unwrap();
    // Without the schemas' own statements their character sets are lost, which definitions remember.
    let has_no_schemas = path.file_name().is_some_and(|name| name == "no-create-db.sql.gz");
    let is_lost = |d: &String| {
        ["float", "json_types", "types.enums", "_history` has 1 rows, not 3"].iter().any(|table| d.contains(table))
            || (has_no_schemas && d.ends_with("has another definition"))
    };
    let other: Vec<_> = comparison.differences.iter().map(ToString::to_string).filter(|d| !is_lost(d)).collect();
    assert!(other.is_empty(), "with the source: {other:?}");
    candidate
}

#[tokio::test]
async fn dumps_of_the_servers_own_program_come_back_row_by_row() {
    let test = "dumps_of_the_servers_own_program_come_back_row_by_row";
    let Some(image) = Image::chosen(test) else { return };
    let source = Source::start(image).await;
    let wanted = if Image::all_cases(test) { WAYS.len() } else { CORE };
    for (name, arguments, compression) in &WAYS[..wanted] {
        let path = source.dump(name, &source.all_schemas(arguments), compression);
        let file = read(&path).await;
        if *name == "lines" {
            assert_eq!(file.contents.completion, Completion::Settings);
        } else {
            assert!(matches!(file.contents.completion, Completion::Trailer(_)), "{:?}", file.contents.completion);
            assert_eq!(file.contents.header.flavour(), Some(image.flavour()), "{:?}", file.contents.header);
        }
        // MariaDB's program leaves out what a versioned table remembers.
        let is_all = image != Image::Mysql || file.contents.rows == source.expected.rows;
        assert!(is_all && file.contents.rows > 100, "{} of {}", file.contents.rows, source.expected.rows);
        let candidate = comes_back(&source, &path, &file, &LoadOptions::default()).await;
        if *name == "databases" {
            let (want, found) = (source.server.foreign_dump(&source.schemas), candidate.foreign_dump(&source.schemas));
            // The sign of zero, and types in JSON, stand in no text.
            let is_lost = |l: &str| l.starts_with("INSERT INTO `json_types`") || l.contains(",-0,");
            let missing: Vec<_> = want.iter().filter(|l| !found.contains(l) && !is_lost(l)).collect();
            assert!(missing.is_empty() && want.len() == found.len(), "missing {missing:#?}");
        }
    }
}

#[tokio::test]
async fn a_dump_of_all_databases_brings_its_accounts() {
    let Some(image) = Image::chosen("a_dump_of_all_databases_brings_its_accounts") else { return };
    let source = Source::start(image).await;
    source
        .server
        .script("CREATE USER 'reader'@'%' IDENTIFIED BY 'reader-password-1'; GRANT ALL ON *.* TO 'reader'@'%'");
    let mut arguments = vec!["--all-databases", "--routines", "--events", "--hex-blob", "--single-transaction"];
    if image == Image::Mysql {
        arguments.push("--set-gtid-purged=OFF");
    }
    let path = source.dump("all", &arguments, "gz");
    let file = read(&path).await;
    assert!(file.contents.system_schemas.contains("mysql"), "{:?}", file.contents.system_schemas);

    let options = LoadOptions { with_system: true, ..LoadOptions::default() };
    let candidate = comes_back(&source, &path, &file, &options).await;
    let mut login = candidate.login();
    assert!(chom_recovery::mysql::Server::connect(login.clone(), std::time::Duration::ZERO).await.is_err());
    login.user = "reader".into();
    login.password = chom_recovery::secret::Secret::new("reader-password-1");
    chom_recovery::mysql::Server::connect(login, std::time::Duration::ZERO).await.unwrap();

    // Without them, the rest comes all the same.
    let candidate = comes_back(&source, &path, &file, &LoadOptions::default()).await;
    candidate.connect().await;
}

#[tokio::test]
async fn one_schema_goes_where_it_is_told_and_production_is_no_candidate() {
    let Some(image) = Image::chosen("one_schema_goes_where_it_is_told_and_production_is_no_candidate") else { return };
    let source = TestServer::start(image, &[]).await;
    source.script("CREATE DATABASE shop; CREATE TABLE shop.t (id int PRIMARY KEY, v blob); INSERT INTO shop.t VALUES (1, x'00ff27'), (2, NULL)");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.sql");
    std::fs::write(&path, source.dump(&["shop"])).unwrap();
    let file = read(&path).await;
    assert!(file.contents.needs_schema() && file.contents.header.database.as_deref() == Some("shop"));

    let candidate = TestServer::candidate(image).await;
    let server = candidate.connect().await;
    let load = async |server: &chom_recovery::mysql::Server, schema: Option<&str>, file: &SqlFile| {
        let options = LoadOptions { default_schema: schema.map(|s| (s.to_owned(), None)), ..LoadOptions::default() };
        sqlfile::load(server, &path, file, &options, |_, _| {}).await
    };
    assert_eq!(load(&server, None, &file).await.unwrap_err().kind(), ErrorKind::Unsupported);
    load(&server, Some("elsewhere"), &file).await.unwrap();
    assert_eq!(candidate.script("SELECT id, HEX(v) FROM elsewhere.t ORDER BY id"), "1\t00FF27\n2\tNULL\n");
    assert!(sqlfile::compare(&server, &file.contents, Some("elsewhere")).await.unwrap().is_equal());
    assert!(!sqlfile::compare(&server, &file.contents, Some("shop")).await.unwrap().is_equal());

    // A server with data, or with a binary log, is never loaded into.
    for server in [&server, &source.connect().await] {
        let error = load(server, Some("shop"), &file).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
    }

    // The file that is loaded is the one that was read.
    let candidate = TestServer::candidate(image).await;
    let mut text = std::fs::read(&path).unwrap();
    let at = text.windows(8).position(|bytes| bytes == b"(2,NULL)").unwrap();
    text[at + 1] = b'3';
    std::fs::write(&path, text).unwrap();
    let error = load(&candidate.connect().await, Some("shop"), &file).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
}

/// A value that a server changes on the way is an error, whatever the dump's own mode says.
#[tokio::test]
async fn a_changed_value_is_never_taken_in_silence() {
    let Some(image) = Image::chosen("a_changed_value_is_never_taken_in_silence") else { return };
    let candidate = TestServer::candidate(image).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.sql");
    let text = "SET sql_mode = '';\nCREATE DATABASE d;\nUSE d;\nCREATE TABLE t (id tinyint);\n\
        INSERT INTO t VALUES (1),(999);\n-- Dump completed\n";
    std::fs::write(&path, text).unwrap();
    let file = read(&path).await;
    let error = sqlfile::load(&candidate.connect().await, &path, &file, &LoadOptions::default(), |_, _| {}).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed);
    assert!(error.to_string().contains("rows of table `t` at byte"), "{error}");
    assert!(!format!("{error:?}").contains("INSERT INTO"), "{error:?}");
}

/// Rows in an order that no server needs, keys of every kind, foreign keys in both directions, and a trigger in between.
const KEYS: &str = "CREATE DATABASE keyed; USE keyed; SET foreign_key_checks = 0;
    CREATE TABLE a_child (id int AUTO_INCREMENT, parent int, other varchar(9), KEY id (id), KEY by_other (other),
        KEY by_parent (parent), CONSTRAINT to_parent FOREIGN KEY (parent) REFERENCES z_parent (id),
        CONSTRAINT to_code FOREIGN KEY (other) REFERENCES z_parent (code));
    CREATE TABLE z_parent (id int PRIMARY KEY, code varchar(9) NOT NULL, body text, shape geometry NOT NULL, y year, b bit(9),
        UNIQUE KEY code (code), KEY body (body(20), code DESC), FULLTEXT KEY words (body), FULLTEXT KEY more (body, code),
        SPATIAL KEY shape (shape), KEY last (y, b));
    CREATE TABLE logged (id int AUTO_INCREMENT PRIMARY KEY, what varchar(20), KEY what (what));
    CREATE TABLE no_key (v int, w varchar(300), KEY w (w, v));
    SET @n = 0;
    INSERT INTO z_parent SELECT n, CONCAT('c', n), CONCAT('it\\'s word', n, ' \\\\ text\n\t\\0'), ST_GeomFromText(CONCAT('POINT(', n, ' 1)')),
        IF(n % 7 = 0, 0, 1901 + n % 200), n % 512 FROM (WITH RECURSIVE s AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM s WHERE n < 900) SELECT n FROM s) x;
    INSERT INTO a_child (parent, other) SELECT id, code FROM z_parent;
    INSERT INTO no_key SELECT id, REPEAT(code, 40) FROM z_parent;
    CREATE TRIGGER log_it AFTER INSERT ON z_parent FOR EACH ROW INSERT INTO logged (what) VALUES (NEW.code);
    INSERT INTO logged (what) VALUES ('one'), ('two');
    CREATE DATABASE beside; CREATE TABLE beside.t (id int PRIMARY KEY); INSERT INTO beside.t VALUES (1);
    CREATE VIEW beside.v AS SELECT * FROM keyed.no_key;";

#[tokio::test]
async fn keys_come_after_the_rows_and_are_the_same() {
    let Some(image) = Image::chosen("keys_come_after_the_rows_and_are_the_same") else { return };
    let source = TestServer::start(image, &[]).await;
    source.script(KEYS);
    let (_, expected) = MemoryDump::of(&source.connect().await, &dump::Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keyed.sql");
    for arguments in
        [&[][..], &["--hex-blob", "--complete-insert"], &["--skip-opt", "--quick", "--set-charset", "--create-options"]]
    {
        let all =
            [&["--single-transaction", "--skip-dump-date"], arguments, &["--databases", "keyed", "beside"]].concat();
        std::fs::write(&path, source.dump(&all)).unwrap();
        let file = read(&path).await;
        let candidate = TestServer::candidate(image).await;
        let to = candidate.connect().await;
        let report = sqlfile::load(&to, &path, &file, &LoadOptions::default(), |_, _| {}).await.unwrap();
        assert_eq!(report.rows, file.contents.rows, "{report:?}");
        assert!(sqlfile::compare(&to, &file.contents, None).await.unwrap().is_equal());
        let comparison = compare(&to, &expected.baseline, Scope::WithoutAccounts).await.unwrap();
        assert_eq!(comparison.differences, [], "{arguments:?}");
    }
}

#[tokio::test]
async fn one_table_of_a_dump_comes_as_it_comes_with_all_others_and_nothing_else_does() {
    let Some(image) = Image::chosen("one_table_of_a_dump_comes_as_it_comes_with_all_others_and_nothing_else_does")
    else {
        return;
    };
    let source = TestServer::start(image, &[]).await;
    source.script(KEYS);
    let (_, expected) = MemoryDump::of(&source.connect().await, &dump::Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keyed.sql");
    std::fs::write(
        &path,
        source.dump(&["--single-transaction", "--add-drop-database", "--databases", "keyed", "beside"]),
    )
    .unwrap();
    let file = read(&path).await;
    let candidate = TestServer::candidate(image).await;
    let to = candidate.connect().await;
    let load = async |only: Selection| {
        let options = LoadOptions { only: Some(only), ..LoadOptions::default() };
        sqlfile::load(&to, &path, &file, &options, |_, _| {}).await
    };
    for (only, kind) in [
        (Selection::default(), ErrorKind::InvalidInput),
        (Selection::default().table("mysql", "user"), ErrorKind::InvalidInput),
        (Selection::default().table("beside", "z_parent"), ErrorKind::NotFound),
        (Selection::default().schema("nowhere"), ErrorKind::NotFound),
    ] {
        let error = load(only).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    let only = Selection::default().table("keyed", "z_parent");
    let report = load(only.clone()).await.unwrap();
    assert_eq!(report.rows, 900, "{report:?}");
    let contents = file.contents.only(&only, None).unwrap();
    assert!(sqlfile::compare(&to, &contents, None).await.unwrap().is_equal());
    let mut baseline = expected.baseline.clone();
    baseline.tables.retain(|t| t.schema == "keyed" && t.table == "z_parent");
    let wanted = ["keyed", "keyed.z_parent", "keyed.log_it"];
    for names in baseline.census.values_mut() {
        names.retain(|name, _| wanted.contains(&name.as_str()));
    }
    assert_eq!(compare(&to, &baseline, Scope::WithoutAccounts).await.unwrap().differences, []);
    assert_eq!(candidate.script("SHOW DATABASES LIKE 'beside'"), "");

    // A schema comes with what is in it.
    let candidate = TestServer::candidate(image).await;
    let to = candidate.connect().await;
    let options = LoadOptions { only: Some(Selection::default().schema("keyed")), ..LoadOptions::default() };
    sqlfile::load(&to, &path, &file, &options, |_, _| {}).await.unwrap();
    let contents = file.contents.only(&Selection::default().schema("keyed"), None).unwrap();
    assert!(sqlfile::compare(&to, &contents, None).await.unwrap().is_equal());
    assert_eq!(contents.user_tables().count(), 4);
}

/// What a server does not take ends the load, on whatever connection, and names its place.
#[tokio::test]
async fn one_connection_that_fails_stops_all() {
    let Some(image) = Image::chosen("one_connection_that_fails_stops_all") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("twice.sql");
    let mut text = "CREATE DATABASE d;\nUSE d;\nCREATE TABLE t (id int PRIMARY KEY, v text);\n".to_owned();
    let mut at = 0;
    for n in 0..40 {
        if n == 30 {
            at = text.len();
        }
        // The row of the thirtieth statement is there already.
        let id = if n == 30 { 3 } else { n };
        text += &format!("INSERT INTO t VALUES ({id},'{}');\n", "x".repeat(200_000));
    }
    text.push_str("-- Dump completed\n");
    std::fs::write(&path, text).unwrap();
    let file = read(&path).await;
    let candidate = TestServer::candidate(image).await;
    let options = LoadOptions { connections: 4, ..LoadOptions::default() };
    let load = sqlfile::load(&candidate.connect().await, &path, &file, &options, |_, _| {}).await;
    let error = tokio::time::timeout(std::time::Duration::from_mins(1), async { load }).await.unwrap().unwrap_err();
    // Of two rows with one id the later one to come is refused; which, the connections decide.
    let text = error.to_string();
    let first = text.contains("rows of table `t` at byte")
        && (text.contains(&format!("byte {at} ")) || text.contains("byte 6"));
    assert!(first, "{error}");
    assert!(!format!("{error:?}").contains("xxxx"), "values do not belong into errors");
}

/// Real scripts, changed in a few bytes, cut, and doubled: read to an end without panic, each byte once, at most a window of
/// them at a time.
#[test]
fn mutated_scripts_are_read_without_panic_or_end_with_an_error() {
    use proptest::{prelude::*, test_runner::TestRunner};

    let names = ["types.sql", "schema.sql", "objects.sql", "mysql.sql", "mariadb.sql", "accounts-mysql.sql"];
    let texts: Vec<Vec<u8>> = names.iter().map(|name| fixture(name)).collect();
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..6_u8), 0..12);
    let strategy = (0..texts.len(), changes, 1..5_000_usize, 100..100_000_usize);
    let mut runner = TestRunner::new(ProptestConfig { cases: 600, ..ProptestConfig::default() });
    runner
        .run(&strategy, |(which, changes, split, longest)| {
            let mut text = texts[which].clone();
            for (at, byte, how) in changes {
                let at = at.index(text.len().max(1));
                match how {
                    0 if !text.is_empty() => text[at] = byte,
                    1 if !text.is_empty() => text[at] = b"'`\"\\;/*-#"[usize::from(byte) % 9],
                    2 => text.truncate(at),
                    3 if !text.is_empty() => drop(text.remove(at)),
                    4 if text.len() < 40_000 => text.extend_from_within(at..),
                    _ => text.insert(at.min(text.len()), byte),
                }
            }
            let limits = Limits { split, longest };
            let mut splitter = Splitter::new(&text[..], limits);
            let (mut joined, mut pieces) = (Vec::new(), 0);
            loop {
                match splitter.next_piece() {
                    Ok(Some(piece)) => {
                        joined.extend_from_slice(piece.raw());
                        pieces += 1;
                        // Each piece but the last sign that rows are missing has at least one byte.
                        prop_assert!(pieces <= text.len() + 1, "it goes on and on");
                        if let Token::Statement(Kind::Insert(insert)) = &piece.token {
                            prop_assert!(insert.rows <= piece.raw().len() as u64);
                        }
                    }
                    Ok(None) => {
                        prop_assert_eq!(&joined, &text);
                        break;
                    }
                    Err(_) => {
                        prop_assert!(text.starts_with(&joined));
                        break;
                    }
                }
            }
            Ok(())
        })
        .unwrap();
}
