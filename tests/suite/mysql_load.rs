//! Loads that must not succeed, large values, and the questions asked of a server.

use std::time::Duration;

use bytes::Bytes;
use chom_recovery::{
    Error, ErrorKind,
    mysql::{Difference, Login, RowHash, Scope, Server, Text, compare, dump, load},
    secret::Secret,
};
use chom_recovery_tests::mysql::{Image, MemoryDump, TestServer, incoming};

const SMALL: &str = "CREATE DATABASE l; USE l;
    CREATE TABLE t (id int PRIMARY KEY, v tinyint, e enum('a', 'b'));
    INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, NULL);
    CREATE TABLE empty_table (id int PRIMARY KEY AUTO_INCREMENT);";

/// A chunk of table `l.t` with these rows.
fn chunk(text: &'static str, rows: u64) -> load::Incoming {
    let bytes = Bytes::from_static(text.as_bytes());
    load::Incoming {
        schema: "l".into(),
        table: "t".into(),
        number: 7,
        rows,
        row_hash: None,
        bytes: chom_recovery::stream::once(bytes),
    }
}

#[tokio::test]
async fn a_chunk_is_loaded_whole_or_not_at_all() {
    let Some(image) = Image::chosen("a_chunk_is_loaded_whole_or_not_at_all") else { return };
    let (source, candidate) = tokio::join!(TestServer::start(image, &[]), TestServer::candidate(image));
    source.script(SMALL);
    let (dump, _) = MemoryDump::of(&source.connect().await, &dump::Options::default()).await.unwrap();
    let to = candidate.connect().await;
    let mut loader = load::Loader::begin(&to, dump.definitions().clone()).await.unwrap();
    loader.chunk(incoming(&dump.chunks[0])).await.unwrap();

    for (what, bad, kind) in [
        ("duplicate key", chunk("9\t1\t1\n1\t1\t1\n", 2), ErrorKind::Failed),
        ("value out of range", chunk("9\t1\t1\n10\t1000\t1\n", 2), ErrorKind::Failed),
        ("no number", chunk("9\t1\t1\nx\t1\t1\n", 2), ErrorKind::Failed),
        ("no member", chunk("9\t1\t1\n10\t1\t77\n", 2), ErrorKind::Failed),
        ("too few columns", chunk("9\t1\t1\n10\t1\n", 2), ErrorKind::Corrupt),
        ("too many columns", chunk("9\t1\t1\n10\t1\t1\t1\n", 2), ErrorKind::Corrupt),
        ("a row less than promised", chunk("9\t1\t1\n", 2), ErrorKind::Corrupt),
        ("a row more than promised", chunk("9\t1\t1\n10\t1\t1\n", 1), ErrorKind::Corrupt),
        ("a cut row", chunk("9\t1\t1\n10\t1", 2), ErrorKind::Corrupt),
    ] {
        let error = loader.chunk(bad).await.expect_err(what);
        assert_eq!(error.kind(), kind, "{what}: {error:?}");
        assert!(error.message().starts_with("chunk 7 of table `l.t`"), "{what}: {error}");
        assert_eq!(candidate.script("SELECT COUNT(*) FROM l.t").trim(), "3", "{what} left rows");
    }
    let mut lies = chunk("9\t1\t1\n", 1);
    lies.row_hash = Some(RowHash(1));
    assert_eq!(loader.chunk(lies).await.unwrap_err().kind(), ErrorKind::Corrupt);

    let mut broken = chunk("", 2);
    let pieces = vec![Ok(Bytes::from_static(b"9\t1\t1\n")), Err(Error::new(ErrorKind::Corrupt, "a part is damaged"))];
    broken.bytes = Box::pin(futures::stream::iter(pieces));
    let error = loader.chunk(broken).await.unwrap_err();
    assert_eq!((error.kind(), error.message().contains("a part is damaged")), (ErrorKind::Corrupt, true), "{error:?}");
    assert_eq!(candidate.script("SELECT COUNT(*) FROM l.t").trim(), "3");

    let mut stranger = chunk("1\n", 1);
    stranger.table = "unheard_of".into();
    assert_eq!(loader.chunk(stranger).await.unwrap_err().kind(), ErrorKind::NotFound);
    loader.chunk(chunk("9\t1\t1\n", 1)).await.unwrap();

    candidate.kill();
    let mut late = chunk("10\t1\t1\n", 1);
    late.number = 8;
    let error = loader.chunk(late).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
}

/// F50: the first statement that fails ends the load, with the name of what it was to make; nothing after it is made.
#[tokio::test]
async fn a_definition_that_the_server_refuses_ends_the_load() {
    let Some(image) = Image::chosen("a_definition_that_the_server_refuses_ends_the_load") else { return };
    let (source, candidate) = tokio::join!(TestServer::start(image, &[]), TestServer::candidate(image));
    source.script(SMALL);
    source.script(
        "USE l; CREATE TABLE u (id int PRIMARY KEY); CREATE TABLE w (id int PRIMARY KEY);
         CREATE PROCEDURE p() SELECT 1; CREATE VIEW v AS SELECT id FROM t;",
    );
    let (dump, _) = MemoryDump::of(&source.connect().await, &dump::Options::default()).await.unwrap();
    let to = candidate.connect().await;
    let spoil = |text: &mut Text| *text = Text::new([text.bytes(), b" THIS IS NO SQL"].concat());

    let mut objects = dump.definitions().clone();
    spoil(&mut objects.tables.iter_mut().find(|t| t.name == "u").unwrap().create);
    let error = load::Loader::begin(&to, objects).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.to_string().contains("`l.u`"), "{error}");
    let made = candidate
        .script("SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'l' AND table_name = 'u'");
    assert_eq!(made.trim(), "0");
    candidate.script("DROP DATABASE l");

    let mut objects = dump.definitions().clone();
    spoil(&mut objects.routines[0].create);
    let mut loader = load::Loader::begin(&to, objects).await.unwrap();
    for chunk in &dump.chunks {
        loader.chunk(incoming(chunk)).await.unwrap();
    }
    let error = loader.finish().await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed, "{error:?}");
    assert!(error.to_string().contains("`l.p`"), "{error}");
}

#[tokio::test]
async fn a_chunk_is_loaded_once_and_a_load_that_was_killed_is_begun_anew() {
    let test = "a_chunk_is_loaded_once_and_a_load_that_was_killed_is_begun_anew";
    let Some(image) = Image::chosen(test) else { return };
    let (source, candidate) = tokio::join!(TestServer::start(image, &[]), TestServer::candidate(image));
    // Without a key, nothing but the loader's own book-keeping keeps rows from coming twice.
    source.script("CREATE DATABASE l; CREATE TABLE l.t (a int, b varchar(10)); INSERT INTO l.t VALUES (1, 'x'), (1, 'x'), (2, '');");
    let options = dump::Options { chunk_bytes: 1, ..dump::Options::default() };
    let (dump, summary) = MemoryDump::of(&source.connect().await, &options).await.unwrap();
    assert_eq!(dump.chunks.len(), 3);
    let to = candidate.connect().await;
    let mut loader = load::Loader::begin(&to, dump.definitions().clone()).await.unwrap();
    loader.chunk(incoming(&dump.chunks[1])).await.unwrap();
    let error = loader.chunk(incoming(&dump.chunks[1])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    assert!(error.message().contains("chunk 1 of table `l.t` was loaded already"), "{error}");
    assert_eq!(candidate.script("SELECT COUNT(*) FROM l.t").trim(), "1");

    // As after a SIGKILL: the connection ends, the rows stay, and only an empty candidate is loaded into.
    drop(loader);
    let error = dump.load(&to).await.unwrap_err();
    assert!(error.message().contains("it has tables already, for example `l.t`"), "{error}");
    candidate.script("DROP DATABASE l");
    dump.load(&to).await.unwrap();
    compare(&to, &summary.baseline, Scope::WithoutAccounts).await.unwrap().require_equal().unwrap();
}

/// Everything that a server lets be set, but what counts or tells the time.
fn durability(server: &TestServer) -> String {
    server.script(
        "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('innodb_doublewrite', 'innodb_flush_log_at_trx_commit',
         'innodb_io_capacity', 'innodb_io_capacity_max', 'innodb_log_file_size', 'sync_binlog'); SHOW GLOBAL STATUS LIKE 'Innodb_redo_log_enabled';",
    )
}

#[tokio::test]
async fn keys_come_after_the_rows_and_the_candidate_is_durable_again() {
    let test = "keys_come_after_the_rows_and_the_candidate_is_durable_again";
    let Some(image) = Image::chosen(test) else { return };
    let (source, candidate) = tokio::join!(TestServer::start(image, &[]), TestServer::candidate(image));
    source.script(
        "CREATE DATABASE l; USE l; SET foreign_key_checks = 0;
         CREATE TABLE child (id int, parent varchar(20), n int AUTO_INCREMENT, txt text, double_n int AS (id * 2) VIRTUAL,
           PRIMARY KEY (id), UNIQUE KEY u (parent, id), KEY first (txt(10)), KEY counted (n), KEY later (double_n), FULLTEXT KEY f (txt),
           CONSTRAINT to_parent FOREIGN KEY (parent) REFERENCES parent (code) ON DELETE CASCADE);
         CREATE TABLE parent (code varchar(20) NOT NULL, v int, UNIQUE KEY by_code (code), KEY v (v));
         INSERT INTO parent WITH RECURSIVE s AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM s WHERE i < 900) SELECT CONCAT('p', i), i FROM s;
         INSERT INTO child (id, parent, txt) SELECT v, code, REPEAT(code, 20) FROM parent;",
    );
    let before = durability(&candidate);
    let options = dump::Options { chunk_bytes: 4096, ..dump::Options::default() };
    let (dump, summary) = MemoryDump::of(&source.connect().await, &options).await.unwrap();
    assert!(dump.chunks.len() > 10, "{}", dump.chunks.len());
    let to = candidate.connect().await;
    let report = dump.load(&to).await.unwrap();
    assert_eq!((report.rows, report.warnings.len()), (1800, 0));
    compare(&to, &summary.baseline, Scope::WithoutAccounts).await.unwrap().require_equal().unwrap();
    assert_eq!(durability(&candidate), before);
    load::prove_durable(&to).await.unwrap();
    candidate.script("DELETE FROM l.parent WHERE v > 100");
    assert_eq!(candidate.script("SELECT COUNT(*) FROM l.child").trim(), "100", "rows go with their parents");

    if image == Image::Mysql {
        candidate.script("ALTER INSTANCE DISABLE INNODB REDO_LOG");
        let error = load::prove_durable(&to).await.unwrap_err();
        assert!(error.message().contains("redo log is not switched on"), "{error}");
    }
}

/// A key that was left out at first must not let rows in that it would have refused.
#[tokio::test]
async fn rows_that_break_a_unique_key_end_the_load() {
    let Some(image) = Image::chosen("rows_that_break_a_unique_key_end_the_load") else { return };
    let (source, candidate) = tokio::join!(TestServer::start(image, &[]), TestServer::candidate(image));
    source.script(
        "CREATE DATABASE l; CREATE TABLE l.t (id int PRIMARY KEY, v tinyint, e enum('a', 'b'), UNIQUE KEY one (v));",
    );
    let (dump, _) = MemoryDump::of(&source.connect().await, &dump::Options::default()).await.unwrap();
    let to = candidate.connect().await;
    let sizes = std::collections::BTreeMap::from([(("l".to_owned(), "t".to_owned()), 100)]);
    let options = load::Options { connections: 3, keys_after: 0 };
    let mut loader = load::Loader::begin_with(&to, dump.definitions().clone(), options, &sizes).await.unwrap();
    let mut other = chunk("4\t8\t1\n5\t7\t1\n", 2);
    other.number = 8;
    let error = loader.chunks(vec![chunk("1\t7\t1\n", 1), other], &sizes, &mut |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    assert!(error.to_string().contains("keys of table `l.t`") && error.to_string().contains("one"), "{error}");
}

#[tokio::test]
async fn one_bad_chunk_among_many_ends_the_load() {
    let Some(image) = Image::chosen("one_bad_chunk_among_many_ends_the_load") else { return };
    let (source, candidate) = tokio::join!(TestServer::start(image, &[]), TestServer::candidate(image));
    source.script(SMALL);
    let (dump, _) = MemoryDump::of(&source.connect().await, &dump::Options::default()).await.unwrap();
    let to = candidate.connect().await;
    let mut loader = load::Loader::begin(&to, dump.definitions().clone()).await.unwrap();
    let chunks = (0..40).map(|number| {
        let text: &'static str = format!("{}\t{}\t1\n", 100 + number, if number == 20 { 1000 } else { 1 }).leak();
        load::Incoming { number, ..chunk(text, 1) }
    });
    let error = loader.chunks(chunks.collect(), &std::collections::BTreeMap::new(), &mut |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed, "{error:?}");
    assert!(error.message().starts_with("chunk 20 of table `l.t`"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_no_candidate_is_refused() {
    let Some(image) = Image::chosen("a_server_that_is_no_candidate_is_refused") else { return };
    let server = TestServer::start(image, &["--local-infile=OFF"]).await;
    let from = server.connect().await;
    server.script("CREATE DATABASE e;");
    let (dump, _) = MemoryDump::of(&from, &dump::Options::default()).await.unwrap();
    let error = dump.load(&from).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(error.message().contains("binary log"), "{error}");

    let plain = TestServer::start(image, &["--skip-log-bin", "--event-scheduler=OFF", "--local-infile=OFF"]).await;
    let to = plain.connect().await;
    let error = dump.load(&to).await.unwrap_err();
    assert!(error.message().contains("local_infile is off"), "{error}");
    plain.script("SET GLOBAL local_infile = ON; CREATE DATABASE e; CREATE TABLE e.there (id int);");
    let error = dump.load(&to).await.unwrap_err();
    assert!(error.message().contains("it has tables already, for example `e.there`"), "{error}");
    plain.script("DROP DATABASE e; SET GLOBAL event_scheduler = ON;");
    let error = dump.load(&plain.connect().await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(error.message().contains("event scheduler is on"), "{error}");
    plain.script("SET GLOBAL event_scheduler = OFF;");
    dump.load(&plain.connect().await).await.unwrap();
}

#[tokio::test]
async fn a_comparison_names_what_differs() {
    let Some(image) = Image::chosen("a_comparison_names_what_differs") else { return };
    let server = TestServer::start(image, &[]).await;
    server.script(SMALL);
    server.script(
        "USE l; INSERT INTO empty_table VALUES (NULL), (NULL); CREATE VIEW v AS SELECT 1 AS one;
        CREATE TABLE dropped (id int); CREATE TABLE swapped (id int); INSERT INTO swapped VALUES (1), (2);",
    );
    let connected = server.connect().await;
    let (_, summary) = MemoryDump::of(&connected, &dump::Options::default()).await.unwrap();
    let equal = compare(&connected, &summary.baseline, Scope::Everything).await.unwrap();
    assert!(equal.is_equal(), "{equal:?}");
    equal.require_equal().unwrap();

    server.script(
        "USE l; DELETE FROM t WHERE id = 2; UPDATE swapped SET id = 3 WHERE id = 2; DROP TABLE dropped;
         CREATE TABLE extra (id int); CREATE OR REPLACE VIEW v AS SELECT 2 AS one; CREATE USER late@localhost;",
    );
    let found = compare(&connected, &summary.baseline, Scope::Everything).await.unwrap();
    let owned = |kind: &str, name: &str| (kind.to_owned(), name.to_owned());
    let (account, dropped, extra, view) = (
        owned("account", "late@localhost"),
        owned("table", "l.dropped"),
        owned("table", "l.extra"),
        owned("view", "l.v"),
    );
    for wanted in [
        Difference::Extra { kind: account.0, name: account.1 },
        Difference::Missing { kind: dropped.0, name: dropped.1 },
        Difference::Extra { kind: extra.0, name: extra.1 },
        Difference::Definition { kind: view.0, name: view.1 },
        Difference::Rows { table: "l.t".into(), want: 3, found: 2 },
        Difference::Content { table: "l.swapped".into() },
    ] {
        assert!(found.differences.contains(&wanted), "{wanted:?} is not among {:?}", found.differences);
    }
    assert_eq!(found.differences.len(), 6, "{:?}", found.differences);
    assert_eq!(found.require_equal().unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn values_larger_than_packets_come_back() {
    let Some(image) = Image::chosen("values_larger_than_packets_come_back") else { return };
    let (source, candidate) =
        tokio::join!(TestServer::start(image, &["--max-allowed-packet=64M"]), TestServer::candidate(image));
    source.script("CREATE DATABASE big; CREATE TABLE big.t (id int PRIMARY KEY, a longblob, b longblob, j longtext);");
    // Row payloads of 2^24 - 1 and twice that are cut into packets of which the last is empty. Around the value there
    // are 8 bytes in a row (its length in 4), 13 where the length takes 9; one less and one more are tried as well.
    let packet = 16_777_215;
    let whole =
        [packet - 9, packet - 8, packet - 7, packet * 2 - 13].into_iter().zip([1, 2, 3, 4]).map(|(a, id)| (id, a, 0));
    for (id, a, b) in whole.chain([(5, 60_000_000, 60_000_000), (6, packet + 1, 1)]) {
        source.script(format!("INSERT INTO big.t VALUES ({id}, REPEAT(CHAR({id}), {a}), REPEAT('\\\\', {b}), NULL)"));
    }
    let from = source.connect().await;
    let (dump, summary) = MemoryDump::of(&from, &dump::Options::default()).await.unwrap();
    let to = candidate.connect().await;
    dump.load(&to).await.unwrap();
    let comparison = compare(&to, &summary.baseline, Scope::WithoutAccounts).await.unwrap();
    assert_eq!(comparison.differences, []);
    let sums = "SELECT id, SHA2(a, 256), SHA2(b, 256) FROM big.t ORDER BY id";
    assert_eq!(source.script(sums), candidate.script(sums));
}

#[tokio::test]
async fn a_wrong_password_is_told_from_a_server_that_is_gone() {
    let Some(image) = Image::chosen("a_wrong_password_is_told_from_a_server_that_is_gone") else { return };
    let server = TestServer::start(image, &["--max-connections=10"]).await;
    let wrong = Login { password: Secret::new("not-the-password"), ..server.login() };
    // A deadline that would allow many tries: a refused password is not tried again.
    let begun = std::time::Instant::now();
    let error = Server::connect(wrong, Duration::from_mins(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authentication, "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(!format!("{error:?}").contains("not-the-password"));

    let elsewhere = Login { port: 3307, ..server.login() };
    let error = Server::connect(elsewhere, Duration::ZERO).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    server.freeze();
    let mut login = server.login();
    login.connect_timeout = Duration::from_secs(2);
    let error = Server::connect(login, Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout), "{error:?}");
}

#[tokio::test]
async fn a_server_answers_what_a_recovery_asks() {
    let Some(image) = Image::chosen("a_server_answers_what_a_recovery_asks") else { return };
    let server = TestServer::start(image, &[]).await;
    server.script(
        "CREATE DATABASE q; USE q; CREATE TABLE log (id int PRIMARY KEY AUTO_INCREMENT, at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP);
         INSERT INTO log VALUES (1, '2030-01-02 03:04:05'), (2, '2020-01-01 00:00:00'); CREATE TABLE empty_log LIKE log;
         CREATE TABLE crashed (id int) ENGINE=MyISAM; INSERT INTO crashed VALUES (1), (2);",
    );
    let connected = server.connect().await;
    assert_eq!(connected.info().flavour, image.flavour());
    assert!(connected.info().log_bin && connected.info().durability_gaps().is_empty(), "{:?}", connected.info());
    connected.check_durability().await.unwrap();
    server.script("SET GLOBAL innodb_flush_log_at_trx_commit = 2");
    assert_eq!(connected.check_durability().await.unwrap_err().kind(), ErrorKind::Unhealthy);

    assert_eq!(connected.newest_row_time("q", "log", "at").await.unwrap().as_deref(), Some("2030-01-02 03:04:05"));
    assert_eq!(connected.newest_row_time("q", "empty_log", "at").await.unwrap(), None);
    assert_eq!(connected.newest_row_time("q", "none", "at").await.unwrap_err().kind(), ErrorKind::NotFound);

    assert_eq!(connected.raise_auto_increment("q", "log", 100).await.unwrap(), 100);
    assert_eq!(connected.raise_auto_increment("q", "log", 50).await.unwrap(), 100);
    assert_eq!(server.script("INSERT INTO q.log VALUES (NULL, NOW()); SELECT LAST_INSERT_ID()").trim(), "100");

    assert_eq!(connected.clients().await.unwrap(), []);
    let login = server.login();
    let opts = mysql_async::OptsBuilder::default()
        .ip_or_hostname(login.host.clone())
        .user(Some(login.user.clone()))
        .pass(Some(login.password.expose().to_owned()))
        .prefer_socket(false);
    let mut client = mysql_async::Conn::new(opts).await.unwrap();
    mysql_async::prelude::Queryable::query_drop(&mut client, "BEGIN").await.unwrap();
    mysql_async::prelude::Queryable::query_drop(&mut client, "UPDATE q.log SET at = NOW()").await.unwrap();
    let end = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        let clients = connected.clients().await.unwrap();
        assert_eq!(clients.len(), 1, "{clients:?}");
        if clients[0].in_transaction {
            break;
        }
        assert!(std::time::Instant::now() < end, "{clients:?}");
    }
    client.disconnect().await.unwrap();

    assert!(connected.sizes().await.unwrap().iter().any(|t| t.table == "log" && t.bytes > 0));
    assert_eq!(connected.replica_status().await.unwrap(), []);
    assert!(connected.position().await.unwrap().is_some());

    let good = connected.check_tables(Duration::from_mins(1)).await.unwrap();
    assert!(good.is_good() && good.good == 3, "{good:?}");
    server.damage("q/crashed.MYD");
    let bad = connected.check_tables(Duration::from_mins(1)).await.unwrap();
    assert_eq!(bad.corrupt.iter().map(|p| p.table.as_str()).collect::<Vec<_>>(), ["q.crashed"], "{bad:?}");
    let capped = connected.check_tables(Duration::ZERO).await.unwrap();
    assert_eq!((capped.good, capped.unchecked.len()), (0, 3), "{capped:?}");
}

#[tokio::test]
async fn the_next_id_is_known_after_a_restart() {
    let Some(image) = Image::chosen("the_next_id_is_known_after_a_restart") else { return };
    let server = TestServer::start_with(image, &[], &["--volume"]).await;
    server.script(
        "CREATE DATABASE c; CREATE TABLE c.t (id int PRIMARY KEY AUTO_INCREMENT, v int);
         INSERT INTO c.t (v) VALUES (1), (2), (3); DELETE FROM c.t WHERE id = 3",
    );
    let next = async || {
        let counters = server.connect().await.counters().await.unwrap();
        counters.into_iter().map(|c| c.next).collect::<Vec<_>>()
    };
    assert_eq!(next().await, [4]);
    server.restart();
    assert_eq!(next().await, [4], "id 3 was given out");
}
