//! Servers that are set up in another way: time zones, modes, names, keys, plugins, kinds. What they hold comes back, or
//! is refused or named; nothing is changed in silence. The whole list: `chom-recovery/src/docs/database.md`.

use chom_recovery::{
    ErrorKind,
    mysql::{self, Account, Difference, Flavour, Plugin, Scope, Text, compare, dump, load},
};
use chom_recovery_tests::mysql::{Image, MemoryDump, TestServer, fixture};

/// A candidate's flags and more.
fn candidate_flags<'a>(args: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    args.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

#[tokio::test]
async fn moments_stay_the_same_in_other_time_zones() {
    let Some(image) = Image::chosen("moments_stay_the_same_in_other_time_zones") else { return };
    let args = mysql::candidate_args(image.flavour());
    let flags = candidate_flags(&args, &["--default-time-zone=-03:00"]);
    let (source, candidate) = tokio::join!(
        TestServer::start_with(image, &[], &["-e", "TZ=Europe/Berlin"]),
        TestServer::start_with(image, &flags, &["-e", "TZ=America/New_York"])
    );
    // In Berlin's night of 27 October 2024 the hour from two to three came twice, in that of 31 March not at all.
    source.script(
        "CREATE DATABASE z; USE z; SET time_zone = '+00:00';
         CREATE TABLE t (id int PRIMARY KEY, ts timestamp(6) NULL, dt datetime(6), made timestamp DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP);
         INSERT INTO t (id, ts, dt) VALUES (1, '2024-10-27 00:30:00', '2024-10-27 02:30:00'), (2, '2024-10-27 01:30:00.000001', '2024-10-27 02:30:00'),
           (3, '2024-03-31 01:00:00', '2024-03-31 02:30:00'), (4, '1970-01-01 00:00:01', '1000-01-01 00:00:00'), (5, '2038-01-19 03:14:07.999999', '9999-12-31 23:59:59.999999'),
           (6, NULL, NULL);
         CREATE TABLE by_default (id int PRIMARY KEY, d timestamp NOT NULL DEFAULT '2020-06-01 12:00:00');
         INSERT INTO by_default (id) VALUES (1);
         CREATE EVENT elsewhere ON SCHEDULE AT '2037-05-05 05:05:05' DISABLE DO SELECT 1;
         SET time_zone = 'SYSTEM';
         INSERT INTO t (id, ts) VALUES (7, '2024-07-01 12:00:00');
         CREATE EVENT here ON SCHEDULE EVERY 1 DAY STARTS '2024-07-01 12:00:00' DISABLE DO SELECT 1;",
    );
    assert_eq!(source.script("SELECT UNIX_TIMESTAMP(ts) FROM z.t WHERE id = 7").trim(), "1719828000.000000");
    let (dump, summary) = MemoryDump::of(&source.connect().await, &dump::Options::default()).await.unwrap();
    let to = candidate.connect().await;
    dump.load(&to).await.unwrap();

    let moments = "SELECT id, UNIX_TIMESTAMP(ts), dt, UNIX_TIMESTAMP(made) FROM z.t ORDER BY id";
    assert_eq!(candidate.script(moments), source.script(moments));
    let default =
        "INSERT INTO z.by_default (id) VALUES (2); SELECT id, UNIX_TIMESTAMP(d) FROM z.by_default ORDER BY id";
    assert_eq!(candidate.script(default), source.script(default));

    // The definition of `here` reads the same on both, and means noon of another place: that must not go unnoticed.
    let found = compare(&to, &summary.baseline, Scope::WithoutAccounts).await.unwrap();
    let moved = Difference::Definition { kind: "event".into(), name: "z.here".into() };
    let others: Vec<_> = found.differences.iter().filter(|d| !d.to_string().contains("z.by_default")).collect();
    assert_eq!(others, [&moved]);
}

#[tokio::test]
async fn settings_of_the_servers_leave_no_trace() {
    let test = "settings_of_the_servers_leave_no_trace";
    let Some(image) = Image::chosen(test) else { return };
    if !Image::all_cases(test) {
        return;
    }
    let mut settings = vec![
        "--character-set-server=latin1",
        "--default-time-zone=+05:45",
        "--explicit-defaults-for-timestamp=OFF",
        "--max-error-count=0",
        "--completion-type=CHAIN",
        "--transaction-isolation=READ-UNCOMMITTED",
    ];
    match image.flavour() {
        Flavour::Mysql => settings.extend([
            "--sql-mode=ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH",
            "--cte-max-recursion-depth=1",
        ]),
        Flavour::Mariadb => {
            settings.push("--sql-mode=ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH,EMPTY_STRING_IS_NULL");
        }
    }
    let args = mysql::candidate_args(image.flavour());
    let mut strict = vec![
        "--character-set-server=utf8mb4",
        "--default-time-zone=-11:00",
        "--default-storage-engine=MyISAM",
        "--sql-mode=STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ANSI_QUOTES,NO_BACKSLASH_ESCAPES,ERROR_FOR_DIVISION_BY_ZERO",
    ];
    if image.flavour() == Flavour::Mysql {
        strict.extend(["--sql-require-primary-key=ON", "--sql-generate-invisible-primary-key=ON"]);
    }
    let flags = candidate_flags(&args, &strict);
    let (source, candidate) = tokio::join!(TestServer::start(image, &settings), TestServer::start(image, &flags));
    for name in ["types.sql", "schema.sql", if image == Image::Mysql { "mysql.sql" } else { "mariadb.sql" }] {
        // The fixtures are written for a client with usual settings.
        let head = "SET sql_mode = 'ONLY_FULL_GROUP_BY', time_zone = '+00:00', completion_type = 0;\n";
        let depth = if image == Image::Mysql { "SET cte_max_recursion_depth = 1000;\n" } else { "" };
        source.script([head.as_bytes(), depth.as_bytes(), &fixture(name)].concat());
    }
    let (dump, summary) = MemoryDump::of(&source.connect().await, &dump::Options::default()).await.unwrap();
    let to = candidate.connect().await;
    let report = dump.load(&to).await.unwrap();
    assert_eq!(report.warnings, Vec::<String>::new());
    let comparison = compare(&to, &summary.baseline, Scope::WithoutAccounts).await.unwrap();
    assert_eq!(comparison.differences, []);
    // The same rows by each server's own word, which owes nothing to our comparison.
    for (table, columns) in [("types.times", "*"), ("types.strings", "*"), ("types.enums", "*"), ("shape.sparse", "*")]
    {
        let rows = format!("SET time_zone = '+00:00', sql_mode = ''; SELECT {columns} FROM {table} ORDER BY id");
        assert_eq!(candidate.script(&rows), source.script(&rows), "{table}");
    }
}

#[tokio::test]
async fn another_kind_of_server_or_of_names_is_refused() {
    let test = "another_kind_of_server_or_of_names_is_refused";
    let Some(image) = Image::chosen(test) else { return };
    if !Image::all_cases(test) {
        return;
    }
    let args = mysql::candidate_args(image.flavour());
    let flags = candidate_flags(&args, &["--lower-case-table-names=1"]);
    let (source, other, folding) = tokio::join!(
        TestServer::start(image, &[]),
        TestServer::candidate(image.other_family()),
        TestServer::start(image, &flags)
    );
    let collation = if image == Image::Mysql { "utf8mb4_0900_ai_ci" } else { "utf8mb4_uca1400_ai_ci" };
    let collation = if image == Image::Mariadb1011 { "utf8mb4_unicode_nopad_ci" } else { collation };
    source.script(format!(
        "CREATE DATABASE c CHARACTER SET utf8mb4 COLLATE {collation}; USE c;
         CREATE TABLE T (id varchar(10) COLLATE {collation} PRIMARY KEY); INSERT INTO T VALUES ('a');"
    ));
    let (dump, _) = MemoryDump::of(&source.connect().await, &dump::Options::default()).await.unwrap();

    let error = dump.load(&other.connect().await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.message().contains(&format!("the dump is of {}", image.flavour())), "{error}");
    assert_eq!(other.script("SELECT COUNT(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = 'c'").trim(), "0");

    let error = dump.load(&folding.connect().await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
    assert!(error.message().contains("lower_case_table_names is 1, and was 0 at the source"), "{error}");
    assert_eq!(folding.script("SELECT COUNT(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = 'c'").trim(), "0");
}

#[tokio::test]
async fn a_definition_that_an_older_server_lacks_is_named() {
    let test = "a_definition_that_an_older_server_lacks_is_named";
    let Some(image) = Image::chosen(test) else { return };
    if image != Image::Mariadb118 {
        return;
    }
    let (source, older) = tokio::join!(TestServer::start(image, &[]), TestServer::candidate(Image::Mariadb1011));
    source.script("CREATE DATABASE v; CREATE TABLE v.vectors (id int PRIMARY KEY, v vector(3) NOT NULL);");
    let (dump, _) = MemoryDump::of(&source.connect().await, &dump::Options::default()).await.unwrap();
    let error = dump.load(&older.connect().await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.message().contains("table `v.vectors`"), "{error}");
    assert!(error.hint_text().is_some_and(|h| h.contains("11.8")), "{error:?}");
}

/// Files that give a server keys, and the flags and mounts that go with them.
fn keys(image: Image, folder: &std::path::Path) -> (Vec<&'static str>, Vec<String>) {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    if image == Image::Mysql {
        let global = write("mysqld.my", r#"{"components": "file://component_keyring_file"}"#);
        let own = write("keyring.cnf", r#"{"path": "/var/lib/mysql-files/keyring", "read_only": false}"#);
        let mounts = [
            format!("{global}:/usr/sbin/mysqld.my:ro"),
            format!("{own}:/usr/lib/mysql/plugin/component_keyring_file.cnf:ro"),
        ];
        (Vec::new(), mounts.into())
    } else {
        let file = write("keys", "1;a7addd9adea9978fda19f21e6be987880e68ac92632ca052e5bb42b1a506939a\n");
        let flags = vec![
            "--plugin-load-add=file_key_management",
            "--file-key-management-filename=/etc/mysql/keys",
            "--loose-file-key-management-encryption-algorithm=AES_CBC",
        ];
        (flags, vec![format!("{file}:/etc/mysql/keys:ro")])
    }
}

#[tokio::test]
async fn encrypted_tables_need_a_candidate_with_keys() {
    let test = "encrypted_tables_need_a_candidate_with_keys";
    let Some(image) = Image::chosen(test) else { return };
    if !Image::all_cases(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (key_flags, mounts) = keys(image, folder.path());
    let mounts: Vec<_> = mounts.iter().flat_map(|m| ["-v", m.as_str()]).collect();
    let args = mysql::candidate_args(image.flavour());
    let flags = candidate_flags(&args, &key_flags);
    let (source, without, with) = tokio::join!(
        TestServer::start_with(image, &key_flags, &mounts),
        TestServer::candidate(image),
        TestServer::start_with(image, &flags, &mounts)
    );
    let option = if image == Image::Mysql { "ENCRYPTION='Y'" } else { "ENCRYPTED=YES" };
    source.script(format!(
        "CREATE DATABASE k; USE k; CREATE TABLE plain (id int PRIMARY KEY); CREATE TABLE secret (id int PRIMARY KEY, v varchar(20)) {option};
         INSERT INTO plain VALUES (1); INSERT INTO secret VALUES (1, 'hush'), (2, NULL);"
    ));
    let (dump, summary) = MemoryDump::of(&source.connect().await, &dump::Options::default()).await.unwrap();
    let warned: Vec<_> = summary.warnings.iter().filter(|w| w.contains("is encrypted at rest")).collect();
    assert_eq!(warned.len(), 1, "{:?}", summary.warnings);
    assert!(warned[0].starts_with("table `k.secret`"), "{warned:?}");

    let error = dump.load(&without.connect().await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
    assert!(error.message().contains("table `k.secret`"), "{error}");
    assert!(error.hint_text().is_some_and(|h| h.contains("keyring or key file")), "{error:?}");

    let to = with.connect().await;
    dump.load(&to).await.unwrap();
    compare(&to, &summary.baseline, Scope::WithoutAccounts).await.unwrap().require_equal().unwrap();
    assert!(with.script("SHOW CREATE TABLE k.secret").to_uppercase().contains("ENCRYPT"));
}

const INSTANCE_MYSQL: &str = "CREATE DATABASE i; USE i;
    CREATE TABLE outside (id int PRIMARY KEY) DATA DIRECTORY = '/tmp';
    CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id)
      (PARTITION a VALUES LESS THAN (10) DATA DIRECTORY = '/tmp', PARTITION b VALUES LESS THAN MAXVALUE);
    CREATE TABLESPACE away ADD DATAFILE '/tmp/away.ibd' ENGINE = InnoDB;
    CREATE TABLE in_away (id int PRIMARY KEY) TABLESPACE = away;
    INSERT INTO outside VALUES (1); INSERT INTO parts VALUES (1), (20); INSERT INTO in_away VALUES (3);
    INSTALL PLUGIN mysql_no_login SONAME 'mysql_no_login.so';
    INSTALL COMPONENT 'file://component_query_attributes';
    CREATE USER nobody@localhost IDENTIFIED WITH mysql_no_login;
    CREATE USER two@localhost IDENTIFIED BY 'one-password'; ALTER USER two@localhost IDENTIFIED BY 'other-password' RETAIN CURRENT PASSWORD;
    SET PERSIST max_connections = 77;
    CREATE SERVER far FOREIGN DATA WRAPPER mysql OPTIONS (HOST 'far.example', USER 'u', DATABASE 'd');";

const INSTANCE_MARIADB: &str = "CREATE DATABASE i; USE i;
    CREATE TABLE outside (id int PRIMARY KEY) DATA DIRECTORY = '/tmp';
    CREATE TABLE outside_too (id int PRIMARY KEY) ENGINE = MyISAM DATA DIRECTORY = '/tmp' INDEX DIRECTORY = '/tmp';
    CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id)
      (PARTITION a VALUES LESS THAN (10) DATA DIRECTORY = '/tmp', PARTITION b VALUES LESS THAN MAXVALUE);
    INSERT INTO outside VALUES (1); INSERT INTO outside_too VALUES (2); INSERT INTO parts VALUES (1), (20);
    INSTALL SONAME 'ha_archive'; INSTALL SONAME 'auth_ed25519';
    CREATE TABLE archived (id int, v varchar(10)) ENGINE = ARCHIVE; INSERT INTO archived VALUES (1, 'kept'), (1, 'kept');
    CREATE USER ed@localhost IDENTIFIED VIA ed25519 USING PASSWORD('a-password');
    CREATE SERVER far FOREIGN DATA WRAPPER mysql OPTIONS (HOST 'far.example', USER 'u', DATABASE 'd');";

#[tokio::test]
async fn what_the_instance_keeps_comes_back_or_is_named() {
    let Some(image) = Image::chosen("what_the_instance_keeps_comes_back_or_is_named") else { return };
    let mysql = image == Image::Mysql;
    let flags: &[&str] = if mysql { &["--innodb-directories=/tmp"] } else { &[] };
    let (source, candidate) = tokio::join!(TestServer::start(image, flags), TestServer::candidate(image));
    source.script(if mysql { INSTANCE_MYSQL } else { INSTANCE_MARIADB });
    if image == Image::Mariadb118 {
        source.script("INSTALL SONAME 'auth_parsec'; CREATE USER pa@localhost IDENTIFIED VIA parsec USING PASSWORD('a-password');");
    }
    let (mut dump, summary) = MemoryDump::of(&source.connect().await, &dump::Options::default()).await.unwrap();
    let told = summary.warnings.join("\n");
    let mut wanted = vec![
        "table `i.outside` has files outside of the data directory",
        "table `i.parts` has files outside of the data directory",
        "not part of a logical backup: servers of FEDERATED tables (CREATE SERVER): far",
    ];
    if mysql {
        wanted.extend([
            "the file of tablespace `away` is outside of the data directory (/tmp/away.ibd)",
            "settings made by SET PERSIST: max_connections",
            "second passwords (RETAIN CURRENT PASSWORD): two@localhost",
        ]);
    }
    for text in wanted {
        assert!(told.contains(text), "`{text}` is not told:\n{told}");
    }

    // What only another server can have: an account of a plugin that this one lacks, and such a plugin.
    let objects = dump.objects.as_mut().unwrap();
    let hash = "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19";
    let plugin = if mysql { "mysql_native_password" } else { "auth_unheard_of" };
    let word = if mysql { "WITH" } else { "VIA" };
    let lost = Account {
        user: "old".into(),
        host: "localhost".into(),
        role: false,
        create: Some(Text::new(format!(
            "CREATE USER `old`@`localhost` IDENTIFIED {word} '{plugin}' {} '{hash}'",
            if mysql { "AS" } else { "USING" }
        ))),
        grants: Vec::new(),
        default_roles: Vec::new(),
    };
    objects.accounts.push(lost);
    let create = Text::new("INSTALL PLUGIN `unheard_of` SONAME 'unheard_of.so'");
    objects.plugins.push(Plugin { name: "unheard_of".into(), create });

    let to = candidate.connect().await;
    let report = dump.load(&to).await.unwrap();
    assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
    assert!(report.warnings[0].starts_with("plugin `unheard_of` is not installed again"), "{:?}", report.warnings);
    let comparison = compare(&to, &summary.baseline, Scope::WithoutAccounts).await.unwrap();
    assert_eq!(comparison.differences, []);
    // Nothing is left outside of the volume.
    let files = candidate.exec(&["find", "/tmp", "-name", "*.ibd", "-o", "-name", "*.MYD", "-o", "-name", "*.isl"]);
    assert_eq!(files, "");

    let accounts = load::replace_accounts(&to, dump.definitions()).await.unwrap();
    assert_eq!(accounts.warnings.len(), 1, "{:?}", accounts.warnings);
    let warning = &accounts.warnings[0];
    assert!(warning.starts_with("account `old@localhost`: cannot be made") && warning.contains(plugin), "{warning}");
    assert!(!warning.contains(hash), "{warning}");
    let advice = if mysql { "caching_sha2_password" } else { "its authentication plugin is not in this server" };
    assert!(warning.contains(advice), "{warning}");
}
