//! Dumps of a server that is in use: one moment, its position, or a clear refusal.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chom_recovery::{
    ErrorKind, Result,
    catalog::{BackupWriter, Catalog, ComponentKind, ComponentSpec, Encryption, HostId, Repository, Signer, logical},
    mysql::{
        Difference, Flavour, Objects, Scope, Server, compare,
        dump::{self, Chunk, DumpSink},
    },
    store::{BackupStore, memory::MemoryStore},
    system::SystemId,
};
use chom_recovery_tests::mysql::{Image, MemoryDump, TestServer};
use mysql_async::{Conn, OptsBuilder, prelude::Queryable};

async fn connect(server: &TestServer) -> Conn {
    let login = server.login();
    let opts = OptsBuilder::default()
        .ip_or_hostname(login.host.clone())
        .user(Some(login.user.clone()))
        .pass(Some(login.password.expose().to_owned()))
        .prefer_socket(false);
    Conn::new(opts).await.unwrap()
}

/// Does something to the server when the first chunk arrives, then goes on.
struct Meddling<'a, F> {
    inner: MemoryDump,
    act: Option<F>,
    server: &'a TestServer,
}

#[async_trait::async_trait]
impl<F: FnOnce(&TestServer) + Send> DumpSink for Meddling<'_, F> {
    async fn objects(&mut self, objects: &Objects) -> Result<()> {
        self.inner.objects(objects).await
    }

    async fn chunk(&mut self, chunk: Chunk) -> Result<()> {
        if let Some(act) = self.act.take() {
            act(self.server);
        }
        self.inner.chunk(chunk).await
    }
}

const BANK: &str = "CREATE DATABASE bank; USE bank;
    CREATE TABLE a (id int PRIMARY KEY, amount bigint NOT NULL);
    CREATE TABLE b (id int PRIMARY KEY, amount bigint NOT NULL);
    CREATE TABLE moves (n bigint PRIMARY KEY AUTO_INCREMENT, writer int NOT NULL);
    INSERT INTO a WITH RECURSIVE s AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM s WHERE n < 500) SELECT n, 1000 FROM s;
    INSERT INTO b SELECT * FROM a;";

/// Sums a column of encoded rows.
fn column(dump: &MemoryDump, table: &str, index: usize) -> Vec<i64> {
    let mut values = Vec::new();
    for chunk in dump.chunks.iter().filter(|c| c.table == table) {
        for line in std::str::from_utf8(&chunk.bytes).unwrap().lines() {
            values.push(line.split('\t').nth(index).unwrap().parse().unwrap());
        }
    }
    values
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_moves_during_the_dump_is_neither_lost_nor_made() {
    let Some(image) = Image::chosen("money_that_moves_during_the_dump_is_neither_lost_nor_made") else { return };
    let server = TestServer::start(image, &[]).await;
    server.script(BANK);
    let (stop, moved) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut writers = Vec::new();
    for writer in 0..8_u64 {
        let mut conn = connect(&server).await;
        let (stop, moved) = (stop.clone(), moved.clone());
        writers.push(tokio::spawn(async move {
            let mut n = writer;
            while !stop.load(Ordering::Relaxed) {
                n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (from, to, amount) = (n % 500 + 1, (n >> 20) % 500 + 1, n % 7);
                let (x, y) = if n & 1 == 0 { ("a", "b") } else { ("b", "a") };
                let work = async {
                    conn.query_drop("BEGIN").await?;
                    conn.query_drop(format!("UPDATE bank.{x} SET amount = amount - {amount} WHERE id = {from}"))
                        .await?;
                    conn.query_drop(format!("UPDATE bank.{y} SET amount = amount + {amount} WHERE id = {to}")).await?;
                    conn.query_drop(format!("INSERT INTO bank.moves (writer) VALUES ({writer})")).await?;
                    conn.query_drop("COMMIT").await
                };
                match work.await {
                    Ok(()) => drop(moved.fetch_add(1, Ordering::Relaxed)),
                    // A deadlock among the writers themselves.
                    Err(_) => conn.query_drop("ROLLBACK").await.unwrap(),
                }
            }
            conn.disconnect().await.unwrap();
        }));
    }
    let end = Instant::now() + Duration::from_secs(30);
    while moved.load(Ordering::Relaxed) < 200 {
        assert!(Instant::now() < end, "the writers do not get on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let connected = server.connect().await;
    let mut dumps = Vec::new();
    let before = moved.load(Ordering::Relaxed);
    // Every table in several pieces, wherever there are several connections.
    for connections in [1, 4, 2, 8, 3] {
        let options = dump::Options { chunk_bytes: 512, connections, piece_bytes: 4 << 10, ..dump::Options::default() };
        let (dump, summary) = MemoryDump::of(&connected, &options).await.unwrap();
        dumps.push((connections, dump, summary));
    }
    assert!(moved.load(Ordering::Relaxed) > before, "nobody wrote during the dumps");
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let mut last = 0;
    for (connections, dump, summary) in &dumps {
        let total: i64 = column(dump, "a", 1).iter().chain(&column(dump, "b", 1)).sum();
        assert_eq!(total, 1_000_000);
        let moves = column(dump, "moves", 0).len();
        assert!(moves >= last, "a later snapshot holds fewer moves");
        last = moves;
        let position = summary.baseline.position.clone().expect("a position");
        assert_eq!(commits_up_to(&server, &position.file, position.offset), moves, "{position}");
        assert!(summary.lock.held_us < 3_000_000, "{:?}", summary.lock);
        if image.flavour() == Flavour::Mariadb {
            assert!(position.gtid.is_some());
        }
        if *connections == 1 && image.flavour() == Flavour::Mariadb {
            assert_eq!((summary.lock.held_us, summary.lock.method.as_str()), (0, "none"));
        }
    }
    // What the server's own log makes of an empty server up to the position is what was dumped.
    for (_, _, summary) in dumps.iter().skip(1).step_by(2) {
        let position = summary.baseline.position.clone().expect("a position");
        let copy = TestServer::start(image, &[]).await;
        copy.script(server.binary_log_up_to(&position.file, position.offset));
        let found = compare(&copy.connect().await, &summary.baseline, Scope::WithoutAccounts).await.unwrap();
        // The next id is read when the dump ends, so that none is given twice.
        let is_id = |d: &Difference| matches!(d, Difference::AutoIncrement { .. });
        assert!(found.differences.iter().all(is_id), "{position}: {:?}", found.differences);
    }
}

/// Pieces and chunks of a table, read by several connections at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_read_in_pieces_is_the_same_table() {
    let Some(image) = Image::chosen("a_table_that_is_read_in_pieces_is_the_same_table") else { return };
    let server = TestServer::start(image, &[]).await;
    // Keys with gaps, at both ends of what their types hold, and of several columns.
    server.script(
        "CREATE DATABASE p; USE p; CREATE TABLE gaps (id bigint PRIMARY KEY, v varchar(900));
         CREATE TABLE wide (id bigint unsigned PRIMARY KEY, v varchar(900));
         CREATE TABLE pairs (a int, b varchar(20), v varchar(900), PRIMARY KEY (a, b));
         CREATE TABLE named (id varchar(40) PRIMARY KEY, v varchar(900)); CREATE TABLE bare (v varchar(900));
         INSERT INTO gaps WITH RECURSIVE s AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM s WHERE n < 900)
           SELECT IF(n < 450, -9223372036854775808 + n * n, 9223372036854775807 - n), REPEAT('x', n) FROM s;
         INSERT INTO wide SELECT CAST(ROW_NUMBER() OVER (ORDER BY id) AS UNSIGNED) * 20000000000000000, v FROM gaps;
         INSERT INTO pairs SELECT id % 7, id, v FROM gaps; INSERT INTO named SELECT LEFT(SHA2(id, 256), 40), v FROM gaps;
         INSERT INTO bare SELECT v FROM gaps; ANALYZE TABLE gaps, wide, pairs, named, bare;",
    );
    let connected = server.connect().await;
    let alone = dump::Options { connections: 1, ..dump::Options::default() };
    let (_, wanted) = MemoryDump::of(&connected, &alone).await.unwrap();
    for (connections, piece_bytes, chunk_bytes) in [(2, 16 << 10, 4 << 10), (4, 1 << 10, 1), (8, 100 << 10, 1 << 20)] {
        let options = dump::Options { connections, piece_bytes, chunk_bytes, ..dump::Options::default() };
        let (dump, summary) = MemoryDump::of(&connected, &options).await.unwrap();
        assert_eq!(summary.baseline.tables, wanted.baseline.tables, "{options:?}");
        let mut numbers: Vec<_> = dump.chunks.iter().map(|chunk| (chunk.table.as_str(), chunk.number)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), dump.chunks.len(), "a number is given twice");
    }
    let refused = dump::Options { connections: 500, lock_attempts: 1, ..dump::Options::default() };
    let error = MemoryDump::of(&connected, &refused).await.unwrap_err();
    // A busy server may not get as far as refusing.
    assert!(matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout), "{error:?}");
    let left = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'root' AND ID <> CONNECTION_ID()";
    let end = Instant::now() + Duration::from_secs(30);
    while server.script(left).trim() != "0" {
        assert!(Instant::now() < end, "connections of a dump that failed are still there");
    }
}

/// Counts, in the binary log itself, the rows of `moves` that were committed before a position.
fn commits_up_to(server: &TestServer, file: &str, offset: u64) -> usize {
    let wanted = if server.image == Image::Mysql { "Write_rows" } else { "Write_rows_v1" };
    let events = server.script(format!("SHOW BINLOG EVENTS IN '{file}'"));
    let mut table = "";
    let mut count = 0;
    for line in events.lines() {
        let fields: Vec<_> = line.split('\t').collect();
        let (kind, end, info) = (fields[2], fields[4].parse::<u64>().unwrap(), fields[5]);
        if end > offset {
            break;
        }
        if kind == "Table_map" {
            table = if info.contains("(bank.moves)") { "moves" } else { "" };
        } else if kind == wanted && table == "moves" {
            count += 1;
        }
    }
    count
}

#[tokio::test]
async fn a_definition_that_changes_during_the_dump_is_noticed() {
    let Some(image) = Image::chosen("a_definition_that_changes_during_the_dump_is_noticed") else { return };
    let server = TestServer::start(image, &[]).await;
    let connected = server.connect().await;
    for (name, change) in [
        ("alter", "ALTER TABLE ddl.last ADD COLUMN extra int DEFAULT 5"),
        ("rename", "RENAME TABLE ddl.last TO ddl.gone"),
        ("truncate", "TRUNCATE TABLE ddl.last"),
        ("drop and create", "DROP TABLE ddl.last; CREATE TABLE ddl.last (id int PRIMARY KEY)"),
        ("create", "CREATE TABLE ddl.new (id int)"),
        ("view", "CREATE VIEW ddl.seen AS SELECT 1"),
        ("drop", "DROP TABLE ddl.last"),
        // The definitions afterwards are those from before: only the rows are others.
        ("swap", "RENAME TABLE ddl.last TO ddl.gone, ddl.other TO ddl.last, ddl.gone TO ddl.other"),
        ("exchange", "ALTER TABLE ddl.parts EXCHANGE PARTITION low WITH TABLE ddl.other"),
    ] {
        server.script(
            "DROP DATABASE IF EXISTS ddl; CREATE DATABASE ddl; USE ddl; CREATE TABLE first (id int PRIMARY KEY);
             CREATE TABLE last (id int PRIMARY KEY); INSERT INTO first VALUES (1); INSERT INTO last VALUES (1), (2);
             CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (7), (8), (9);
             CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id)
             (PARTITION low VALUES LESS THAN (10), PARTITION high VALUES LESS THAN MAXVALUE); INSERT INTO parts VALUES (3);",
        );
        // On MySQL the change has to wait for the dump; so it is given up after a second.
        let change = format!("SET lock_wait_timeout = 1; {change}");
        let has_changed = AtomicBool::new(false);
        let act = |server: &TestServer| {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| server.script(&change)));
            has_changed.store(done.is_ok(), Ordering::Relaxed);
        };
        let mut sink = Meddling { inner: MemoryDump::default(), act: Some(act), server: &server };
        match dump::dump(&connected, &dump::Options::default(), &mut sink).await {
            Ok(summary) => {
                let rows = |name| summary.baseline.tables.iter().find(|t| t.table == name).map(|t| t.rows);
                let found = (rows("last"), rows("other"), rows("parts"));
                assert_eq!(found, (Some(2), Some(3), Some(1)), "{name}: the dump is not that of the snapshot");
                // It waited for the lock of definitions, or for a table that another connection was reading.
                assert!(!has_changed.load(Ordering::Relaxed), "{name}: a change went unnoticed");
            }
            Err(error) => {
                let kinds = [ErrorKind::Conflict, ErrorKind::NotFound];
                assert!(kinds.contains(&error.kind()), "{name}: {error:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_lost_lock_or_reader_taints_the_dump() {
    let Some(image) = Image::chosen("a_lost_lock_or_reader_taints_the_dump") else { return };
    let server = TestServer::start(image, &[]).await;
    server.script("CREATE DATABASE k; CREATE TABLE k.t (id int PRIMARY KEY); INSERT INTO k.t VALUES (1);");
    let connected = server.connect().await;
    let kill = |server: &TestServer| {
        let ids = server.script(
            "SELECT ID FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() AND USER = 'root' AND COMMAND <> 'Daemon'",
        );
        let kills: Vec<_> = ids.split_whitespace().map(|id| format!("KILL {id};")).collect();
        assert!(kills.len() >= 2, "reader and lock are not there: {ids}");
        server.script(kills.concat());
    };
    let mut sink = Meddling { inner: MemoryDump::default(), act: Some(kill), server: &server };
    let error = dump::dump(&connected, &dump::Options::default(), &mut sink).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Incomplete), "{error:?}");

    let kill_lock = |server: &TestServer| {
        // The oldest of our sessions holds the locks.
        let id = server.script(
            "SELECT MIN(ID) FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() AND USER = 'root' AND COMMAND <> 'Daemon'",
        );
        server.script(format!("KILL {id}"));
    };
    let mut sink = Meddling { inner: MemoryDump::default(), act: Some(kill_lock), server: &server };
    let error = dump::dump(&connected, &dump::Options::default(), &mut sink).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Incomplete), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_statement_does_not_stall_the_application_behind_our_lock() {
    let Some(image) = Image::chosen("a_long_statement_does_not_stall_the_application_behind_our_lock") else { return };
    let server = TestServer::start(image, &[]).await;
    server.script("CREATE DATABASE s; CREATE TABLE s.t (id int PRIMARY KEY); INSERT INTO s.t VALUES (1);");
    let mut long = connect(&server).await;
    let sleeper = tokio::spawn(async move {
        let _: Vec<u64> = long.query("SELECT SLEEP(8) + id FROM s.t").await.unwrap();
    });
    let end = Instant::now() + Duration::from_secs(5);
    let running = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT SLEEP%' AND TIME >= 1";
    while server.script(running).trim() != "1" {
        assert!(Instant::now() < end, "the long statement does not run");
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut app = connect(&server).await;
    let stopped = stop.clone();
    let application = tokio::spawn(async move {
        let (mut slowest, mut n) = (Duration::ZERO, 1);
        while !stopped.load(Ordering::Relaxed) {
            let begun = Instant::now();
            n += 1;
            app.query_drop(format!("INSERT INTO s.t VALUES ({n})")).await.unwrap();
            slowest = slowest.max(begun.elapsed());
        }
        slowest
    });
    let options = dump::Options { lock_wait: Duration::from_secs(1), ..dump::Options::default() };
    let (_, summary) = MemoryDump::of(&server.connect().await, &options).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    let slowest = application.await.unwrap();
    sleeper.await.unwrap();
    assert!(slowest < Duration::from_secs(5), "a write waited {slowest:?}; {:?}", summary.lock);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_during_the_dump_leaves_no_backup() {
    let Some(image) = Image::chosen("a_server_that_restarts_during_the_dump_leaves_no_backup") else { return };
    let server = TestServer::start_with(image, &[], &["--volume"]).await;
    // More than the connection holds in its buffers when the server goes.
    server.script(
        "CREATE DATABASE r; CREATE TABLE r.t (id int PRIMARY KEY, v longtext);
         INSERT INTO r.t WITH RECURSIVE s AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM s WHERE n < 60) SELECT n, REPEAT('x', 1000000) FROM s;",
    );
    let store: Arc<dyn BackupStore> = Arc::new(MemoryStore::new());
    let state = tempfile::tempdir().unwrap();
    let system: SystemId = "chom".to_owned().try_into().unwrap();
    let made = Repository::init(&store, &system, state.path(), Encryption::None).await.unwrap();
    let repository = Repository::open(store, made.signer.into()).await.unwrap();
    let signer = Signer::load(state.path(), &system).unwrap();
    let options = dump::Options { chunk_bytes: 1, ..dump::Options::default() };
    let spec = || ComponentSpec::new("database", ComponentKind::Logical).unwrap();

    let mut backup = BackupWriter::begin(&repository, &signer, &HostId::derive("a test"), &system).await.unwrap();
    let component = backup.component(spec()).unwrap();
    let mut restarted = false;
    let mut restart = |_: &dump::Progress| {
        if !std::mem::replace(&mut restarted, true) {
            server.restart();
        }
    };
    let connected = server.connect().await;
    let error = logical::dump_to(&connected, &component, &options, &mut restart).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert!(error.message().contains("rows of table `r.t`"), "{error}");
    drop((component, backup));
    let catalog = Catalog::new(&repository, &system);
    assert!(catalog.list().await.unwrap().backups.is_empty());

    let again = Server::connect(server.login(), Duration::from_mins(2)).await.unwrap();
    let mut backup = BackupWriter::begin(&repository, &signer, &HostId::derive("a test"), &system).await.unwrap();
    let component = backup.component(spec()).unwrap();
    let summary = logical::dump_to(&again, &component, &options, &mut |_| {}).await.unwrap();
    assert_eq!(summary.rows, 60);
    backup.finish(logical::facts(again.info(), &summary)).await.unwrap();
    assert_eq!(catalog.list().await.unwrap().backups.len(), 1);
}

#[tokio::test]
async fn chunks_hold_each_row_once_whatever_their_size() {
    let Some(image) = Image::chosen("chunks_hold_each_row_once_whatever_their_size") else { return };
    let server = TestServer::start(image, &[]).await;
    // Keys in no order, rows of very different lengths, and duplicates.
    server.script(
        "CREATE DATABASE c; CREATE TABLE c.keyed (id bigint unsigned PRIMARY KEY, v varchar(2000)); CREATE TABLE c.bare (v varchar(2000));
         INSERT INTO c.keyed WITH RECURSIVE s AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM s WHERE n < 300)
           SELECT (n * 2654435761) % 18446744073709551557, REPEAT('x', (n * n * 37) % 1500) FROM s;
         INSERT INTO c.bare SELECT v FROM c.keyed; INSERT INTO c.bare SELECT v FROM c.keyed;",
    );
    let connected = server.connect().await;
    let whole = |dump: &MemoryDump, table: &str| {
        dump.chunks.iter().filter(|c| c.table == table).flat_map(|c| c.bytes.to_vec()).collect::<Vec<_>>()
    };
    let (reference, wanted) = MemoryDump::of(&connected, &dump::Options::default()).await.unwrap();
    assert_eq!((wanted.rows, wanted.chunks), (900, 2));
    let mut random = 1_u64;
    let sizes = std::iter::repeat_with(|| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((random >> 40) % 20_000).unwrap() + 1
    });
    for size in [1, 2, 1501, 1 << 20].into_iter().chain(sizes.take(20)) {
        let options = dump::Options { chunk_bytes: size, ..dump::Options::default() };
        let (dump, summary) = MemoryDump::of(&connected, &options).await.unwrap();
        assert_eq!(summary.baseline.tables, wanted.baseline.tables, "chunks of {size} bytes");
        for table in ["keyed", "bare"] {
            assert_eq!(whole(&dump, table), whole(&reference, table), "chunks of {size} bytes");
            let chunks: Vec<_> = dump.chunks.iter().filter(|c| c.table == table).collect();
            for (number, chunk) in chunks.iter().enumerate() {
                let lines = chunk.bytes.split(|b| *b == b'\n').count() as u64 - 1;
                assert_eq!((u64::from(chunk.number), chunk.rows), (number as u64, lines));
                assert!(chunk.bytes.len() < size + 2000 && chunk.bytes.ends_with(b"\n"));
                assert!(chunk.bytes.len() >= size || number + 1 == chunks.len(), "a chunk ended early");
            }
        }
    }
}

/// Does not take the first chunk for four seconds.
struct Slow(MemoryDump);
#[async_trait::async_trait]
impl DumpSink for Slow {
    async fn objects(&mut self, objects: &Objects) -> Result<()> {
        self.0.objects(objects).await
    }
    async fn chunk(&mut self, chunk: Chunk) -> Result<()> {
        if chunk.number == 0 {
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
        self.0.chunk(chunk).await
    }
}

#[tokio::test]
async fn a_slow_consumer_does_not_break_the_dump() {
    let Some(image) = Image::chosen("a_slow_consumer_does_not_break_the_dump") else { return };
    // The server would give up a client that reads nothing for a second.
    let server = TestServer::start(image, &["--net-write-timeout=1"]).await;
    server.script("CREATE DATABASE slow; CREATE TABLE slow.t (id int PRIMARY KEY AUTO_INCREMENT, v mediumblob);");
    for _ in 0..8 {
        server.script("INSERT INTO slow.t (v) VALUES (REPEAT('x', 4000000)), (REPEAT('y', 4000000))");
    }
    let mut sink = Slow(MemoryDump::default());
    let options = dump::Options { chunk_bytes: 1, ..dump::Options::default() };
    let connected: Server = server.connect().await;
    let summary = dump::dump(&connected, &options, &mut sink).await.unwrap();
    assert_eq!((summary.rows, summary.chunks), (16, 16));
}
