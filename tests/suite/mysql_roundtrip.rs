//! Everything that a server holds comes back: fixtures → dump → load into an empty candidate → equal by our own
//! comparison, by the server's own dump tool, and by the bits of its floats.

use std::sync::Arc;

use chom_recovery::{
    ErrorKind,
    catalog::{
        BackupReader, BackupWriter, ComponentKind, ComponentSpec, Encryption, HostId, Repository, Signer, logical,
    },
    mysql::{Login, Objects, Scope, Server, compare, dump, load},
    secret::Secret,
    store::{BackupStore, memory::MemoryStore},
    system::SystemId,
};
use chom_recovery_tests::mysql::{Image, MemoryDump, TestServer, fixture};
use mysql_async::prelude::Queryable;

fn fixtures(image: Image) -> &'static [&'static str] {
    match image {
        Image::Mysql => &["types.sql", "schema.sql", "objects.sql", "mysql.sql", "accounts-mysql.sql"],
        Image::Mariadb118 => {
            &["types.sql", "schema.sql", "objects.sql", "mariadb.sql", "mariadb-11.8.sql", "accounts-mariadb.sql"]
        }
        Image::Mariadb1011 => &["types.sql", "schema.sql", "objects.sql", "mariadb.sql", "accounts-mariadb.sql"],
    }
}

/// Chunks of a few rows, so that their seams are tested as well.
fn small_chunks() -> dump::Options {
    dump::Options { chunk_bytes: 256, ..dump::Options::default() }
}

#[tokio::test]
async fn everything_a_server_holds_comes_back() {
    let Some(image) = Image::chosen("everything_a_server_holds_comes_back") else { return };
    let (source, candidate) = tokio::join!(TestServer::start(image, &[]), TestServer::candidate(image));
    for name in fixtures(image) {
        source.script(fixture(name));
    }
    let (from, to) = (source.connect().await, candidate.connect().await);
    let (loaded, summary) = through_a_backup(&from, &to).await;
    assert_eq!(loaded.report.warnings, Vec::<String>::new());
    assert_eq!(loaded.report.rows, summary.rows);
    assert_eq!(loaded.baseline, summary.baseline);

    let comparison = compare(&to, &summary.baseline, Scope::WithoutAccounts).await.unwrap();
    if !comparison.is_equal() {
        let (again, _) = MemoryDump::of(&to, &small_chunks()).await.unwrap();
        for (a, b) in loaded.objects.tables.iter().zip(&again.definitions().tables).filter(|(a, b)| a != b) {
            eprintln!("want {a:#?}\nfound {b:#?}");
        }
    }
    assert_eq!(comparison.differences, []);
    assert_eq!(comparison.rows, summary.rows);
    assert!(summary.rows > 100 && comparison.definitions > 60, "{comparison:?}");

    let schemas: Vec<_> = loaded.objects.schemas.iter().map(|s| s.name.clone()).collect();
    let (want, found) = (source.foreign_dump(&schemas), candidate.foreign_dump(&schemas));
    let missing: Vec<_> = want.iter().filter(|l| !found.contains(l)).collect();
    let extra: Vec<_> = found.iter().filter(|l| !want.contains(l)).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing {missing:#?}\nextra {extra:#?}");

    let bits = "SELECT f, d, g, h, fu FROM types.floats ORDER BY id";
    assert_eq!(binary_rows(&source.login(), bits).await, binary_rows(&candidate.login(), bits).await);
    if image == Image::Mysql {
        // By the server's own word, which owes nothing to our comparison. Document 8 has holes at the source.
        let types = "SELECT id, JSON_TYPE(p), JSON_STORAGE_SIZE(p), JSON_STORAGE_SIZE(v), JSON_TYPE(v), JSON_TYPE(v->'$[0]'), \
                     JSON_TYPE(p->'$.dt'), JSON_TYPE(p->'$.de'), JSON_TYPE(p->'$.bi'), JSON_TYPE(p->'$[1]') \
                     FROM only_mysql.json_types WHERE id <> 8 ORDER BY id";
        let found = candidate.script(types);
        assert_eq!(found, source.script(types));
        assert!(found.contains("\tDATETIME\tDECIMAL\tBLOB\t") && found.contains("UNSIGNED INTEGER"), "{found}");
    }
    next_ids_are_not_given_twice(&candidate);
    accounts_come_back(&source, &candidate, &to, &loaded.objects, &summary).await;
}

/// Dumps into a repository in memory, and loads from what a reader finds there.
async fn through_a_backup(from: &Server, to: &Server) -> (logical::Loaded, dump::Summary) {
    let store: Arc<dyn BackupStore> = Arc::new(MemoryStore::new());
    let state = tempfile::tempdir().unwrap();
    let system: SystemId = "chom".to_owned().try_into().unwrap();
    let made = Repository::init(&store, &system, state.path(), Encryption::None).await.unwrap();
    let repository = Repository::open(store, made.signer.into()).await.unwrap();
    let signer = Signer::load(state.path(), &system).unwrap();

    let mut backup = BackupWriter::begin(&repository, &signer, &HostId::derive("a test"), &system).await.unwrap();
    let component = backup.component(ComponentSpec::new("database", ComponentKind::Logical).unwrap()).unwrap();
    let summary = logical::dump_to(from, &component, &small_chunks(), &mut |_| {}).await.unwrap();
    let info = backup.finish(logical::facts(from.info(), &summary)).await.unwrap();
    assert_eq!(info.database.as_ref().unwrap().position.is_some(), from.info().log_bin);
    assert!(info.point >= summary.begun && info.point <= summary.ended, "{summary:?}");

    let reader = BackupReader::open(&repository, info.place).await.unwrap();
    let component = reader.component("database").await.unwrap();
    let mut tables = 0;
    // Whatever their size: every table's keys come after its rows, where they can.
    let options = load::Options { connections: 3, keys_after: 0 };
    let loaded = logical::load_with(&component, to, options, &mut |p| tables = p.tables_done).await.unwrap();
    assert!(tables > 20, "{tables}");
    (loaded, summary)
}

/// Rows over the binary protocol, which sends floats as their bits.
async fn binary_rows(login: &Login, sql: &str) -> Vec<String> {
    let opts = mysql_async::OptsBuilder::default()
        .ip_or_hostname(login.host.clone())
        .user(Some(login.user.clone()))
        .pass(Some(login.password.expose().to_owned()))
        .prefer_socket(false);
    let mut conn = mysql_async::Conn::new(opts).await.unwrap();
    let rows: Vec<mysql_async::Row> = conn.exec(sql, ()).await.unwrap();
    conn.disconnect().await.unwrap();
    let shown = |v: mysql_async::Value| match v {
        mysql_async::Value::Float(f) => format!("f{:08x}", f.to_bits()),
        mysql_async::Value::Double(d) => format!("d{:016x}", d.to_bits()),
        other => format!("{other:?}"),
    };
    rows.into_iter().map(|r| r.unwrap().into_iter().map(shown).collect::<Vec<_>>().join(" ")).collect()
}

fn next_ids_are_not_given_twice(candidate: &TestServer) {
    let next = candidate.script(
        "SET sql_mode=''; INSERT INTO shape.counter VALUES (NULL); SELECT LAST_INSERT_ID(); \
         INSERT INTO shape.counter_ahead (v) VALUES (9); SELECT LAST_INSERT_ID();",
    );
    assert_eq!(next.split_whitespace().collect::<Vec<_>>(), ["5000", "4"]);
}

async fn accounts_come_back(
    source: &TestServer,
    candidate: &TestServer,
    to: &Server,
    objects: &Objects,
    summary: &dump::Summary,
) {
    let report = load::replace_accounts(to, objects).await.unwrap();
    assert_eq!(report.warnings, Vec::<String>::new());
    assert_eq!(report.accounts, objects.accounts.len());

    let one_time = Server::connect(candidate.login(), std::time::Duration::ZERO).await.unwrap_err();
    assert_eq!(one_time.kind(), ErrorKind::Authentication);
    let restored_root = Login { password: source.login().password, ..candidate.login() };
    let restored = Server::connect(restored_root.clone(), std::time::Duration::ZERO).await.unwrap();
    let app = Login { user: "app".into(), password: Secret::new("app-password-1"), ..restored_root };
    Server::connect(app, std::time::Duration::ZERO).await.unwrap();
    let comparison = compare(&restored, &summary.baseline, Scope::Everything).await.unwrap();
    let all_but_the_rows_just_added =
        comparison.differences.iter().filter(|d| !d.to_string().contains("`shape.counter")).collect::<Vec<_>>();
    assert!(all_but_the_rows_just_added.is_empty(), "{all_but_the_rows_just_added:?}");
}
