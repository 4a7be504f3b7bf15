//! Rows of our own on every server: taken and read back, not logged, and told from a full disk and a missing privilege. And
//! what a server remembers of statements that removed rows.

use std::{process::Command, time::Duration};

use chom_recovery::{
    ErrorKind,
    mysql::{Flavour, Login, ScratchWrite, Server},
    secret::Secret,
    system::AuditTable,
};
use chom_recovery_tests::mysql::{Image, TestServer};
use chrono::{TimeDelta, Utc};

/// Longest time for rows of our own.
const WRITE: Duration = Duration::from_secs(5);

/// Makes an account with these privileges, and logs in as it.
async fn account(server: &TestServer, name: &str, grants: &[&str]) -> Server {
    let password = Secret::random();
    server.script(format!("CREATE USER '{name}'@'%' IDENTIFIED BY '{}'", password.expose()));
    // Without it, MySQL lets nobody pin the settings of a session of ours.
    let needed: &[&str] = match server.image.flavour() {
        Flavour::Mysql => &["SESSION_VARIABLES_ADMIN ON *.*"],
        Flavour::Mariadb => &[],
    };
    for grant in grants.iter().chain(needed) {
        server.script(format!("GRANT {grant} TO '{name}'@'%'"));
    }
    let login = Login { user: name.into(), password, ..server.login() };
    Server::connect(login, Duration::from_secs(10)).await.unwrap()
}

fn is_taken(written: &ScratchWrite) -> bool {
    matches!(written, ScratchWrite::Taken { .. })
}

#[tokio::test]
async fn rows_of_our_own_are_taken_and_nothing_of_them_is_logged() {
    let Some(image) = Image::chosen("rows_of_our_own_are_taken_and_nothing_of_them_is_logged") else { return };
    let server = TestServer::start(image, &["--log-bin=binlog", "--binlog-format=ROW"]).await;
    server.script("CREATE DATABASE shop; CREATE TABLE shop.chom_recovery_scratch (id INT PRIMARY KEY)");
    let grants = ["CREATE TEMPORARY TABLES, SELECT, INSERT, DROP ON shop.* "];
    let (root, ordinary) = (server.connect().await, account(&server, "ordinary", &grants).await);
    let before = root.position().await.unwrap();
    assert!(before.is_some(), "it has a binary log");
    for by in [&root, &ordinary, &root] {
        let written = by.scratch_write("shop", WRITE).await.unwrap();
        assert!(is_taken(&written), "{written:?}");
    }
    assert_eq!(
        root.position().await.unwrap(),
        before,
        "nothing is logged, also of an account that cannot switch it off"
    );
    let real = server.script("SELECT COUNT(*) FROM shop.chom_recovery_scratch; SHOW TABLES FROM shop");
    assert_eq!(real.trim(), "0\nchom_recovery_scratch", "a table of that name is hidden from us alone");
}

#[tokio::test]
async fn where_it_would_be_logged_nothing_is_written_and_a_missing_privilege_is_no_fault() {
    let test = "where_it_would_be_logged_nothing_is_written_and_a_missing_privilege_is_no_fault";
    let Some(image) = Image::chosen(test) else { return };
    let server = TestServer::start(image, &["--log-bin=binlog", "--binlog-format=STATEMENT"]).await;
    server.script("CREATE DATABASE shop");
    let ordinary = account(&server, "ordinary", &["CREATE TEMPORARY TABLES, SELECT, INSERT, DROP ON shop.*"]).await;
    let root = server.connect().await;
    let before = root.position().await.unwrap();
    let written = ordinary.scratch_write("shop", WRITE).await.unwrap();
    match image.flavour() {
        // What it needs for our sessions allows that, too.
        Flavour::Mysql => assert!(is_taken(&written), "{written:?}"),
        Flavour::Mariadb => {
            assert!(matches!(&written, ScratchWrite::NotTried(why) if why.contains("sql_log_bin")), "{written:?}");
        }
    }
    assert!(is_taken(&root.scratch_write("shop", WRITE).await.unwrap()), "root keeps it out of the log");
    assert_eq!(root.position().await.unwrap(), before);

    server.script("SET GLOBAL binlog_format = 'ROW'");
    let reader = account(&server, "reader", &["SELECT ON shop.*"]).await;
    let written = reader.scratch_write("shop", WRITE).await.unwrap();
    assert!(matches!(&written, ScratchWrite::NotTried(why) if why.contains("CREATE TEMPORARY TABLES")), "{written:?}");
}

#[tokio::test]
async fn a_full_disk_is_told_where_the_server_has_to_find_room() {
    let Some(image) = Image::chosen("a_full_disk_is_told_where_the_server_has_to_find_room") else { return };
    // The data lies on a disk of its own, which something else fills.
    let disk = ["--volume", "--tmpfs", "/var/lib/mysql:size=900m"];
    let server = TestServer::start_with(image, &[], &disk).await;
    server.script("CREATE DATABASE shop");
    let root = server.connect().await;
    assert!(is_taken(&root.scratch_write("shop", WRITE).await.unwrap()));
    let fill =
        ["exec", server.container(), "sh", "-c", "dd if=/dev/zero of=/var/lib/mysql/hog bs=64k 2>/dev/null; true"];
    assert!(Command::new("docker").args(fill).status().unwrap().success());
    let written = root.scratch_write("shop", WRITE).await;
    match image.flavour() {
        Flavour::Mysql => {
            let error = written.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Timeout), "{error:?}");
        }
        // Its one temporary tablespace has room from before: that the disk is full is for the probe `disk` to tell.
        Flavour::Mariadb => assert!(is_taken(written.as_ref().unwrap()), "{written:?}"),
    }
}

#[tokio::test]
async fn what_removed_rows_is_told_by_form_and_by_account() {
    let Some(image) = Image::chosen("what_removed_rows_is_told_by_form_and_by_account") else { return };
    let server = TestServer::start(image, &["--performance-schema=ON"]).await;
    server.script(
        "CREATE DATABASE shop; USE shop; CREATE TABLE orders (id INT PRIMARY KEY, note TEXT);
         CREATE TABLE sessions (id INT PRIMARY KEY);
         INSERT INTO orders VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd'); INSERT INTO sessions VALUES (1);
         CREATE TABLE audit_log (user_id INT, action VARCHAR(60), created_at TIMESTAMP(6));
         INSERT INTO audit_log VALUES (7, 'order.deleted', NOW(6)), (7, 'order.deleted', NOW(6)), (NULL, 'Purged', NOW(6)),
           (8, 'order.created', NOW(6)), (9, 'order.deleted', NOW(6) - INTERVAL 2 DAY);",
    );
    let clerk = account(&server, "clerk", &["ALL ON shop.*"]).await;
    let since = Utc::now() - TimeDelta::minutes(1);
    server.script("DELETE FROM shop.orders WHERE note IN ('a', 'hunter2-hunter2') OR id = 2; DELETE FROM shop.sessions WHERE id = 1;");
    let root = server.connect().await;
    let found = root.deletions(since, &["orders".into()]).await.unwrap();
    let first = &found.statements[0];
    assert!(first.text.contains("`orders`") && !first.text.contains("hunter2"), "{found:#?}");
    assert_eq!((first.count, first.rows), (1, 2), "{found:#?}");
    assert!(first.last >= since && first.last <= Utc::now() + TimeDelta::seconds(1), "{found:#?}");
    assert!(found.accounts.iter().any(|one| one.account.starts_with("root@") && one.rows == 3), "{found:#?}");
    assert!(found.gaps.iter().all(|gap| gap.contains("the server started at")), "{found:#?}");
    let later = root.deletions(Utc::now() + TimeDelta::minutes(1), &["orders".into()]).await.unwrap();
    assert_eq!(later.statements, [], "what ran before the backup explains nothing");

    // An account that may not look says so, and does not fail.
    let blind = clerk.deletions(since, &["orders".into()]).await.unwrap();
    assert!(blind.statements.is_empty() && !blind.gaps.is_empty(), "{blind:#?}");

    let audit: AuditTable = serde_json::from_value(serde_json::json!({ "table": "shop.audit_log" })).unwrap();
    let noted = clerk.audited_removals(Utc::now() - TimeDelta::hours(1), &audit).await.unwrap();
    let told: Vec<_> = noted.iter().map(|one| (one.who.as_str(), one.what.as_str(), one.count)).collect();
    assert_eq!(told, [("7", "order.deleted", 2), ("", "Purged", 1)], "{noted:#?}");
    let absent = AuditTable { table: "shop.no_such_table".into(), ..audit };
    assert_eq!(clerk.audited_removals(since, &absent).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_server_that_keeps_no_count_says_so() {
    let Some(image) = Image::chosen("a_server_that_keeps_no_count_says_so") else { return };
    let server = TestServer::start(image, &["--performance-schema=OFF"]).await;
    server.script("CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY); DELETE FROM shop.orders");
    let found = server.connect().await.deletions(Utc::now() - TimeDelta::days(1), &["orders".into()]).await.unwrap();
    assert_eq!((found.statements.len(), found.accounts.len()), (0, 0));
    assert!(found.gaps.iter().any(|gap| gap.contains("`performance_schema` is off")), "{found:#?}");
    assert!(found.gaps.iter().any(|gap| gap.contains("the server started at")), "{found:#?}");
}
