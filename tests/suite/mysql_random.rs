//! Random schemas with random values, dumped and loaded: what comes back is equal by the server's own checksums and by its own
//! dump tool, which owe nothing to ours.
//!
//! Each run draws other ones; its seed is printed, and `CHOM_TEST_SEED` repeats it.

use std::fmt::Write as _;

use chom_recovery::mysql::{Scope, compare, dump};
use chom_recovery_tests::mysql::{Image, MemoryDump, TestServer};

const SEED: &str = "CHOM_TEST_SEED";
const TABLES: u64 = 40;

/// Xorshift: the same numbers for the same seed, on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn of<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[usize::try_from(self.below(list.len() as u64)).unwrap()]
    }

    fn hex(&mut self, longest: u64) -> String {
        // Bytes that an encoding has to look after come often.
        let bytes = ["00", "09", "0a", "0d", "1a", "22", "27", "5c", "60", "4e", "ff"];
        (0..self.below(longest + 1)).fold(String::new(), |mut text, _| {
            if self.one_in(2) {
                text += self.of(&bytes);
            } else {
                let _ = write!(text, "{:02x}", self.below(256));
            }
            text
        })
    }

    fn text(&mut self, longest: u64) -> String {
        let parts = [
            "a", "Z", "é", "ß", "😀", "漢", "\\\\", "''", "\\t", "\\n", "\\0", "%", "N", " ", "`", "\"", ";", "--",
            "/*",
        ];
        (0..self.below(longest + 1)).map(|_| self.of(&parts)).collect()
    }
}

/// A type, and whether a key may begin with it.
struct Kind {
    sql: String,
    value: fn(&mut Random) -> String,
    key: &'static str,
}

fn kind(random: &mut Random, image: Image) -> Kind {
    let plain = |sql: String, value, key| Kind { sql, value, key };
    let integer: fn(&mut Random) -> String = |random| {
        // Too large ones become the largest of their type.
        let magnitude = random.next() >> random.below(64);
        let sign = if random.one_in(3) { "-" } else { "" };
        format!("{sign}{magnitude}")
    };
    let number: fn(&mut Random) -> String = |random| {
        let sign = if random.one_in(2) { "-" } else { "" };
        format!("{sign}{}.{}", random.below(100_000), random.below(1_000_000))
    };
    let float: fn(&mut Random) -> String = |random| match random.below(4) {
        0 => "-0e0".into(),
        1 => format!("{}e{}", random.below(1_000_000), random.below(60).cast_signed() - 40),
        2 => format!("{}/7e0", random.below(1_000_000)),
        _ => format!("{}", random.below(1000)),
    };
    let text: fn(&mut Random) -> String = |random| format!("'{}'", random.text(20));
    let bytes: fn(&mut Random) -> String = |random| format!("X'{}'", random.hex(20));
    let charsets = ["utf8mb4", "latin1", "gbk", "sjis", "cp1251", "utf16", "utf8mb4 COLLATE utf8mb4_bin", "ascii"];
    match random.below(if image == Image::Mysql { 18 } else { 20 }) {
        0..=2 => {
            let width = random.of(&["tinyint", "smallint", "mediumint", "int", "bigint"]);
            let sign = random.of(&["", " unsigned", " unsigned zerofill"]);
            plain(format!("{width}{sign}"), integer, "")
        }
        3 => plain(random.of(&["decimal(10,3)", "decimal(65,30)", "decimal(5,0) unsigned"]).to_owned(), number, ""),
        4 => plain(random.of(&["float", "double"]).to_owned(), float, ""),
        5 => plain(random.of(&["bit(1)", "bit(13)", "bit(64)"]).to_owned(), bytes, ""),
        6 | 7 => {
            let length = random.of(&["char(20)", "varchar(200)", "varchar(40)"]);
            plain(format!("{length} CHARACTER SET {}", random.of(&charsets)), text, "")
        }
        8 => {
            let length = random.of(&["tinytext", "text", "mediumtext", "longtext"]);
            plain(format!("{length} CHARACTER SET {}", random.of(&charsets)), text, "(9)")
        }
        9 => plain(random.of(&["binary(16)", "varbinary(40)"]).to_owned(), bytes, ""),
        10 => plain(random.of(&["tinyblob", "blob", "longblob"]).to_owned(), bytes, "(7)"),
        11 => plain(
            random.of(&["enum('a','','b,c','d''e')", "set('x','y','z','ü')"]).to_owned(),
            |random| random.below(5).to_string(),
            "",
        ),
        12 => plain(
            random.of(&["date", "datetime", "datetime(6)", "timestamp(4) NULL"]).to_owned(),
            |random| {
                let (year, month, day) =
                    (random.of(&["0000", "1999", "2024", "2037", "9999"]), random.below(13), random.below(29));
                format!("'{year}-{month:02}-{day:02} {:02}:59:58.{:06}'", random.below(24), random.below(1_000_000))
            },
            "",
        ),
        13 => plain(
            random.of(&["time", "time(6)"]).to_owned(),
            |random| {
                let sign = if random.one_in(2) { "-" } else { "" };
                format!("'{sign}{}:{:02}:01.{:06}'", random.below(839), random.below(60), random.below(1_000_000))
            },
            "",
        ),
        14 => plain("year".into(), |random| random.of(&["0", "1901", "2155", "1999"]).to_owned(), ""),
        15 | 16 => plain(
            "json".into(),
            |random| {
                let text =
                    random.text(6).replace("\\0", "").replace("\\t", "").replace("\\n", "").replace(['"', '\\'], "");
                format!(
                    "JSON_OBJECT('k{}', '{text}', 'n', {}, 'l', JSON_ARRAY(1.5, NULL, {}))",
                    random.below(9),
                    random.next(),
                    random.below(7)
                )
            },
            "none",
        ),
        17 => plain(
            "geometry".into(),
            |random| format!("ST_GeomFromText('LINESTRING({} {}, 1 2)')", random.below(90), random.below(90)),
            "none",
        ),
        18 => plain("inet6".into(), |random| format!("'::{:x}'", random.below(65_536)), ""),
        _ => plain("uuid".into(), |_| "UUID()".into(), ""),
    }
}

/// Writes a table and its rows.
fn table(random: &mut Random, image: Image, number: u64) -> String {
    let name = random.of(&["t", "t`x", "Ünï", "t t", "t-%"]);
    let name = format!("`{}{number}`", name.replace('`', "``"));
    let columns: Vec<Kind> = (0..=random.below(7)).map(|_| kind(random, image)).collect();
    let (mut lines, mut keyed) = (Vec::new(), Vec::new());
    for (n, column) in columns.iter().enumerate() {
        // A server that is to ignore errors puts an empty value in place of NULL, which is no geometry, and which no server takes.
        let is_nullable = column.sql.ends_with("NULL") || column.sql == "geometry" || random.one_in(2);
        let null = if is_nullable { "" } else { " NOT NULL" };
        let comment = if random.one_in(5) { " COMMENT 'it''s; KEY `a` (`b`), \\\\'" } else { "" };
        lines.push(format!("`c{n}` {}{null}{comment}", column.sql));
        if column.key != "none" {
            keyed.push((format!("`c{n}`{}", column.key), null.is_empty()));
        }
    }
    if random.one_in(3) {
        // MariaDB's CHECKSUM TABLE takes a virtual column for whatever its record's memory holds.
        let kinds: &[&str] = if image == Image::Mysql { &["VIRTUAL", "STORED"] } else { &["STORED"] };
        lines.push(format!("`g` varchar(200) AS (HEX(`c0`)) {}", random.of(kinds)));
    }
    let id = random.below(4);
    if id == 0 {
        lines.push("`id` int NOT NULL AUTO_INCREMENT".into());
        lines.push("PRIMARY KEY (`id`)".into());
    } else if id == 1
        && let Some((key, _)) = keyed.iter().find(|(_, nullable)| !nullable)
    {
        let more = keyed.iter().filter(|(k, nullable)| !nullable && k != key).map(|(k, _)| format!(", {k}"));
        lines.push(format!("PRIMARY KEY ({key}{})", more.take(2).collect::<String>()));
    }
    for n in 0..random.below(4) {
        if keyed.is_empty() {
            break;
        }
        let (key, _) = keyed[usize::try_from(random.below(keyed.len() as u64)).unwrap()].clone();
        lines.push(format!("{}KEY `k{n}` ({key})", if random.one_in(4) { "UNIQUE " } else { "" }));
    }
    let format = random.of(&["", "ROW_FORMAT=DYNAMIC", "ROW_FORMAT=COMPACT"]);
    let mut sql = format!("CREATE TABLE {name} ({}) {format};\n", lines.join(", "));
    let names: Vec<_> = (0..columns.len()).map(|n| format!("`c{n}`")).collect();
    for _ in 0..random.below(40) {
        let values: Vec<_> =
            columns.iter().map(|c| if random.one_in(9) { "NULL".into() } else { (c.value)(random) }).collect();
        let _ = writeln!(sql, "INSERT IGNORE INTO {name} ({}) VALUES ({});", names.join(", "), values.join(", "));
    }
    sql
}

fn checksums(server: &TestServer) -> String {
    let tables = server.script("SELECT CONCAT('`r`.`', REPLACE(table_name, '`', '``'), '`') FROM information_schema.tables WHERE table_schema = 'r' ORDER BY 1");
    server.script(format!("CHECKSUM TABLE {} EXTENDED", tables.lines().collect::<Vec<_>>().join(", ")))
}

#[tokio::test(flavor = "multi_thread")]
async fn random_tables_come_back() {
    let Some(image) = Image::chosen("random_tables_come_back") else { return };
    let seed = match std::env::var(SEED) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap(),
    };
    println!("{SEED}={seed}");
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    // Not PAD_CHAR_TO_FULL_LENGTH: what a stored generated column holds would depend on the mode of who wrote the row.
    let mode = random.of(&["", "ALLOW_INVALID_DATES", "NO_AUTO_VALUE_ON_ZERO,NO_BACKSLASH_ESCAPES"]);
    let mut sql = format!(
        "CREATE DATABASE r CHARACTER SET utf8mb4; USE r; SET sql_mode = '{mode}'; SET innodb_strict_mode = 0;\n"
    );
    if image == Image::Mysql {
        sql = sql.replace("SET innodb", "SET SESSION innodb");
    }
    for number in 0..TABLES {
        sql += &table(&mut random, image, number);
    }
    let (source, candidate) = tokio::join!(TestServer::start(image, &[]), TestServer::candidate(image));
    // A key that is too long, or of a type that takes none, leaves its table out; most remain.
    source.forced(&sql);
    let (from, to) = (source.connect().await, candidate.connect().await);
    let options = dump::Options { chunk_bytes: 600, connections: 3, piece_bytes: 16 << 10, ..dump::Options::default() };
    let (dump, summary) = MemoryDump::of(&from, &options).await.unwrap_or_else(|e| panic!("{SEED}={seed}: {e:?}"));
    assert!(summary.baseline.tables.len() as u64 > TABLES / 2 && summary.rows > 100, "{SEED}={seed}: {}", summary.rows);
    dump.load(&to).await.unwrap_or_else(|e| panic!("{SEED}={seed}: {e:?}"));
    let schemas = ["r".to_owned()];
    let (want, found) = (source.foreign_dump(&schemas), candidate.foreign_dump(&schemas));
    let other: Vec<_> = want.iter().zip(&found).filter(|(want, found)| want != found).take(3).collect();
    assert_eq!((want.len(), other), (found.len(), Vec::new()), "{SEED}={seed}");
    let (want, found) = (checksums(&source), checksums(&candidate));
    if let Some((want, found)) = want.lines().zip(found.lines()).find(|(want, found)| want != found) {
        let name = want.split('\t').next().and_then(|name| name.strip_prefix("r.")).unwrap_or_default();
        let create = source.script(format!("SHOW CREATE TABLE r.`{}`", name.replace('`', "``")));
        panic!("{SEED}={seed}: was {want}, is {found}\n{create}");
    }
    let found = compare(&to, &summary.baseline, Scope::WithoutAccounts).await.unwrap();
    if !found.is_equal() {
        let (again, _) =
            MemoryDump::of(&to, &dump::Options { connections: 1, ..dump::Options::default() }).await.unwrap();
        let rows = |dump: &MemoryDump| {
            let bytes: Vec<u8> = dump.chunks.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect();
            String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
        };
        let (before, after) = (rows(&dump), rows(&again));
        panic!(
            "{SEED}={seed}: {:?}\nwas {:#?}\nis {:#?}",
            found.differences,
            before.difference(&after).next(),
            after.difference(&before).next()
        );
    }
}
