//! Shapes that are large in number: tables, partitions, columns. Slow, so `--all` alone runs them, one server at a time.
//!
//! Cases of `1,000 partitions`, `5,000 empty tables` and `a table with 500 columns`.

use std::fmt::Write as _;

use chom_recovery::mysql::{Scope, compare, dump};
use chom_recovery_tests::mysql::{Image, MemoryDump, TestServer};

/// Dumps, loads and compares; returns the number of tables.
async fn comes_back(source: &TestServer, candidate: &TestServer) -> usize {
    let (dump, summary) = MemoryDump::of(&source.connect().await, &dump::Options::default()).await.unwrap();
    let to = candidate.connect().await;
    let report = dump.load(&to).await.unwrap();
    assert_eq!((report.rows, report.warnings), (summary.rows, Vec::new()));
    let comparison = compare(&to, &summary.baseline, Scope::WithoutAccounts).await.unwrap();
    assert_eq!(comparison.differences, []);
    comparison.tables
}

/// Most data directories of these tests are in memory, where thousands of files would not fit.
async fn start(image: Image) -> (TestServer, TestServer) {
    let small = ["--innodb-buffer-pool-size=256M", "--table-open-cache=400"];
    let candidate = chom_recovery::mysql::candidate_args(image.flavour());
    let candidate: Vec<_> = candidate.iter().map(String::as_str).chain(small).collect();
    let source = [small.as_slice(), &["--skip-log-bin", "--innodb-flush-log-at-trx-commit=2"]].concat();
    tokio::join!(
        TestServer::start_with(image, &source, &["--volume"]),
        TestServer::start_with(image, &candidate, &["--volume"])
    )
}

#[tokio::test]
async fn thousands_of_tables_and_a_thousand_partitions_come_back() {
    let test = "thousands_of_tables_and_a_thousand_partitions_come_back";
    let Some(image) = Image::chosen(test) else { return };
    if !Image::slow_cases(test) {
        return;
    }
    let (source, candidate) = start(image).await;
    let mut sql = String::from("CREATE DATABASE many; USE many;\n");
    for n in 0..5000 {
        let _ = writeln!(sql, "CREATE TABLE t{n} (id int PRIMARY KEY);");
    }
    let parts: Vec<_> = (0..1000).map(|n| format!("PARTITION p{n} VALUES LESS THAN ({})", (n + 1) * 3)).collect();
    let _ = writeln!(
        sql,
        "CREATE TABLE parts (id int PRIMARY KEY, v int) PARTITION BY RANGE (id) ({});
         INSERT INTO parts WITH RECURSIVE s AS (SELECT 0 AS n UNION ALL SELECT n + 1 FROM s WHERE n < 998) SELECT n * 3, n FROM s;
         INSERT INTO parts VALUES (1, -1), (2999, -2);",
        parts.join(", ")
    );
    source.script(sql);
    assert_eq!(comes_back(&source, &candidate).await, 5001);
    let place = "SELECT COUNT(*), SUM(v) FROM many.parts PARTITION (p0, p999)";
    assert_eq!(candidate.script(place), source.script(place));
}

#[tokio::test]
async fn a_table_with_hundreds_of_columns_comes_back() {
    let test = "a_table_with_hundreds_of_columns_comes_back";
    let Some(image) = Image::chosen(test) else { return };
    if !Image::all_cases(test) {
        return;
    }
    let (source, candidate) = tokio::join!(TestServer::start(image, &[]), TestServer::candidate(image));
    let kinds = ["int", "varchar(20)", "double", "date", "bit(3)", "enum('a', 'b')", "blob", "decimal(9, 3)"];
    let columns: Vec<_> = (0..500).map(|n| format!("c{n} {}", kinds[n % kinds.len()])).collect();
    let values = |row: usize| {
        let value = |n: usize| match (n + row) % 7 {
            0 => "NULL".to_owned(),
            _ => ["-5", "'x\\ty'", "0.1e0", "'2024-02-29'", "b'101'", "'b'", "0x5C0A00", "1.250"][n % 8].to_owned(),
        };
        (0..500).map(value).collect::<Vec<_>>().join(", ")
    };
    source.script(format!(
        "CREATE DATABASE wide; USE wide; CREATE TABLE t (id int PRIMARY KEY, {}); INSERT INTO t VALUES (1, {}), (2, {}), (3, {});",
        columns.join(", "),
        values(0),
        values(1),
        values(2)
    ));
    assert_eq!(comes_back(&source, &candidate).await, 1);
    let schemas = ["wide".to_owned()];
    assert_eq!(source.foreign_dump(&schemas), candidate.foreign_dump(&schemas));
}
