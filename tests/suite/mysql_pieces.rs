//! Tables that several connections read in pieces, by keys of every shape: each row comes once.

use std::collections::BTreeMap;

use chom_recovery::mysql::dump;
use chom_recovery_tests::mysql::{Image, MemoryDump, TestServer};

/// Tables of 4,000 rows: name, and columns with their key. `n` is a number from 0.
fn tables(image: Image) -> Vec<(&'static str, &'static str, String)> {
    let uuid = "LEFT(SHA2(n, 256), 32)";
    let mut tables = vec![
        ("dense", "id int PRIMARY KEY", "n".to_owned()),
        ("sparse", "id bigint PRIMARY KEY", "IF(n < 2000, n - 1000, 638000000000000000 + n * 7)".to_owned()),
        ("huge", "id bigint unsigned PRIMARY KEY", "18446744073709551615 - n".to_owned()),
        ("text_key", "id char(36) COLLATE utf8mb4_unicode_ci PRIMARY KEY", uuid.to_owned()),
        // Values that differ by case alone, and characters of four bytes.
        (
            "binary_order",
            "id varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PRIMARY KEY",
            "CONCAT(IF(n % 2, 'a', 'A'), n DIV 2, '😀''\\\\')".to_owned(),
        ),
        ("latin", "id varchar(40) CHARACTER SET latin1 PRIMARY KEY", "CONCAT('é', n, ' ')".to_owned()),
        ("bytes", "id binary(16) PRIMARY KEY", format!("UNHEX({uuid})")),
        ("long_bytes", "id varbinary(20) PRIMARY KEY", format!("CONCAT(CHAR(0), UNHEX({uuid}), CHAR(39))")),
        ("amounts", "id decimal(20,4) PRIMARY KEY", "n * 1.5 - 2000".to_owned()),
        ("moments", "id datetime(6) PRIMARY KEY", "'2024-01-01' + INTERVAL n * 37 MICROSECOND".to_owned()),
        ("stamps", "id timestamp(3) PRIMARY KEY", "'2024-03-31 00:00:00' + INTERVAL n SECOND".to_owned()),
        // Keys that cannot be walked.
        ("floats", "id double PRIMARY KEY", "n / 3".to_owned()),
        ("prefix", "id varchar(100) NOT NULL, PRIMARY KEY (id(12))", uuid.to_owned()),
        ("no_key", "id int", "n % 3".to_owned()),
        ("partitioned", "id char(32) CHARACTER SET ascii PRIMARY KEY", uuid.to_owned()),
    ];
    if image == Image::Mysql {
        tables.push(("falling", "id int NOT NULL, PRIMARY KEY (id DESC)", "n * 100000".to_owned()));
    } else {
        tables.push(("uuids", "id uuid PRIMARY KEY", "UUID()".to_owned()));
        tables.push(("history", "id char(32) PRIMARY KEY, v int", format!("{uuid}, n")));
    }
    tables
}

const COMPOSITE: &str = "CREATE TABLE tenants (tenant int, id char(32), kind enum('a', 'b'), PRIMARY KEY (tenant, id));
    INSERT INTO tenants SELECT n % 3, LEFT(SHA2(n, 256), 32), 1 FROM numbers;
    CREATE TABLE three (b date, a varchar(10), id int, PRIMARY KEY (a, b, id));
    INSERT INTO three SELECT '2024-01-01' + INTERVAL n % 7 DAY, CONCAT('x', n % 2), n FROM numbers;
    CREATE TABLE mixed (tenant int, kind enum('a', 'b'), id int, PRIMARY KEY (tenant, kind, id));
    INSERT INTO mixed SELECT n % 5, 1 + n % 2, n FROM numbers;";

#[tokio::test(flavor = "multi_thread")]
async fn every_row_is_read_once_whatever_its_key() {
    let Some(image) = Image::chosen("every_row_is_read_once_whatever_its_key") else { return };
    let server = TestServer::start(image, &[]).await;
    let digits = "(SELECT 0 d UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9)";
    let mut sql = format!(
        "CREATE DATABASE p CHARACTER SET utf8mb4; USE p; SET sql_mode = ''; SET time_zone = 'SYSTEM';
         CREATE TABLE numbers (n int PRIMARY KEY);
         INSERT INTO numbers SELECT a.d * 1000 + b.d * 100 + c.d * 10 + e.d FROM {digits} a, {digits} b, {digits} c, {digits} e WHERE a.d < 4;"
    );
    let tables = tables(image);
    for (name, columns, value) in &tables {
        let options = match *name {
            "history" => "WITH SYSTEM VERSIONING",
            "partitioned" => "PARTITION BY KEY (id) PARTITIONS 3",
            _ => "",
        };
        sql += &format!("CREATE TABLE {name} ({columns}) {options}; INSERT INTO {name} SELECT {value} FROM numbers;\n");
    }
    sql += COMPOSITE;
    if image != Image::Mysql {
        sql += "UPDATE history SET v = v + 1; DELETE FROM history WHERE v < 900;";
    }
    server.script(sql);
    let names: Vec<_> = server
        .script("SELECT CONCAT('p.', table_name) FROM information_schema.tables WHERE table_schema = 'p'")
        .lines()
        .map(str::to_owned)
        .collect();
    server.script(format!("ANALYZE TABLE {}", names.join(", ")));

    let connected = server.connect().await;
    let whole = dump::Options { connections: 1, chunk_bytes: 1 << 20, ..dump::Options::default() };
    let (_, whole) = MemoryDump::of(&connected, &whole).await.unwrap();
    let pieces =
        dump::Options { connections: 3, chunk_bytes: 1 << 20, piece_bytes: 16 << 10, ..dump::Options::default() };
    let (dump, pieces) = MemoryDump::of(&connected, &pieces).await.unwrap();
    assert_eq!(whole.baseline.tables, pieces.baseline.tables);
    assert!(whole.baseline.tables.iter().all(|table| table.rows >= 4000), "{:?}", whole.baseline.tables);

    let mut chunks = BTreeMap::<_, u32>::new();
    for chunk in &dump.chunks {
        *chunks.entry(chunk.table.as_str()).or_default() += 1;
    }
    let cannot_be_cut = ["floats", "prefix", "no_key", "history", "falling", "numbers"];
    for (name, count) in chunks {
        assert!(count >= 3 || cannot_be_cut.contains(&name), "table {name} was read in {count} pieces");
    }
}
