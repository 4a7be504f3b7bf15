use super::*;
use crate::probe::{
    Status,
    testing::backend::{Told, container},
};

#[test]
fn events_are_read_where_each_format_puts_the_level() {
    use Topic::{
        Authentication, Corruption, DatabaseUnreachable, FullDisk, MissingTable, MissingTablespace, Other,
        RedisUnreachable, Redo, ServerError, Upgrade, Upstream,
    };
    for (line, level, topic) in [
        // MySQL
        (
            "2026-01-02T02:00:00.123456Z 0 [ERROR] [MY-012224] [InnoDB] Header page consists of zero bytes in datafile: ./ibdata1",
            Level::Error,
            Other,
        ),
        (
            "2026-01-02T02:00:00.1Z 8 [ERROR] [MY-011906] [InnoDB] Database page corruption on disk or a failed file read of page [page id: space=3, page number=4].",
            Level::Error,
            Corruption,
        ),
        (
            "2026-01-02T02:00:00.1Z 8 [ERROR] [MY-012574] [InnoDB] Tablespace 5, name 'chom/users', file './chom/users.ibd' is missing! Cannot find space ID 5",
            Level::Error,
            MissingTablespace,
        ),
        (
            "2026-01-02T02:00:00.1Z 0 [ERROR] [MY-012526] [InnoDB] Upgrade after a crash is not supported. This redo log was created with MySQL 5.7.",
            Level::Error,
            Upgrade,
        ),
        (
            "2026-01-02T02:00:00.1Z 0 [ERROR] [MY-013882] [InnoDB] Missing redo log file ./#innodb_redo/#ib_redo10 (with start_lsn = 1).",
            Level::Error,
            Redo,
        ),
        // MariaDB
        (
            "2026-01-02  2:00:00 0 [ERROR] InnoDB: preallocating 1 bytes for file ./x.ibd failed with error 28: Operating system error number 28",
            Level::Error,
            FullDisk,
        ),
        // Laravel
        (
            r#"[2026-01-02 02:00:00] production.ERROR: SQLSTATE[HY000] [1045] Access denied for user 'chom'@'10.0.0.2' (using password: YES) {"exception":"[object] (Illuminate\\Database\\QueryException(code: 1045): x"#,
            Level::Error,
            Authentication,
        ),
        (
            "[2026-01-02 02:00:00] production.CRITICAL: SQLSTATE[HY000] [2002] Connection refused",
            Level::Critical,
            DatabaseUnreachable,
        ),
        (
            "[2026-01-02 02:00:00] local.EMERGENCY: SQLSTATE[42S02]: Base table or view not found: 1146 Table 'chom.users' doesn't exist",
            Level::Emergency,
            MissingTable,
        ),
        (
            r#"[2026-01-02 02:00:00] local.ALERT: x {"exception":"[object] (App\\Exceptions\\Odd(code: 0): y at /z:1)"#,
            Level::Alert,
            Topic::Exception("App\\Exceptions\\Odd".into()),
        ),
        (
            r#"[2026-01-02 02:00:00] local.ERROR: Connection refused {"exception":"[object] (RedisException(code: 111): y"#,
            Level::Error,
            RedisUnreachable,
        ),
        (
            r#"[2026-01-02 02:00:00] local.ERROR: Redis::get(): php_network_getaddresses: getaddrinfo for redis failed {"exception":"[object] (ErrorException(code: 0): x"#,
            Level::Error,
            RedisUnreachable,
        ),
        (r#"{"message":"x","level_name":"ERROR","channel":"local"}"#, Level::Error, Other),
        // nginx
        (
            "2026/01/02 02:00:00 [error] 29#29: *1 connect() failed (111: Connection refused) while connecting to upstream, client: 10.0.0.1",
            Level::Error,
            Upstream,
        ),
        (r#"10.0.0.1 - - [02/Jan/2026:02:00:00 +0000] "GET /x HTTP/1.1" 500 12 "-" "curl""#, Level::Error, ServerError),
        (
            r#"2026/01/02 02:00:00 [error] 11#11: *53 FastCGI sent in stderr: "PHP message: PHP Fatal error:  Uncaught x""#,
            Level::Critical,
            Other,
        ),
        // redis
        (
            "1:M 02 Jan 2026 02:00:00.123 # Error writing to the AOF file: No space left on device",
            Level::Error,
            FullDisk,
        ),
        ("1:M 02 Jan 2026 02:00:00.123 # Can't save in background: fork: x", Level::Error, Other),
        // PHP
        ("[02-Jan-2026 02:00:00] ERROR: unable to bind listening socket", Level::Error, Other),
        ("PHP Fatal error:  Uncaught Error: x in /y:1", Level::Critical, Other),
    ] {
        let event = read_line(line).unwrap_or_else(|| panic!("no event: {line}"));
        assert_eq!((event.level, event.topic), (level, topic), "{line}");
    }
}

#[test]
fn the_word_error_alone_is_no_error() {
    for line in [
        "import finished with 0 errors",
        "[2026-01-02 02:00:00] production.INFO: 0 errors, ERROR: none",
        "[2026-01-02 02:00:00] production.WARNING: retry after error",
        "2026-01-02T02:00:00.1Z 0 [Warning] [MY-010055] [Server] IP address could not be resolved: error",
        "2026-01-02T02:00:00.1Z 0 [System] [MY-010931] [Server] ready for connections. [ERROR] is a word",
        r#"10.0.0.1 - - [02/Jan/2026:02:00:00 +0000] "GET /error HTTP/1.1" 200 500 "-" "curl""#,
        r#"10.0.0.1 - - [02/Jan/2026:02:00:00 +0000] "GET / HTTP/1.1" 503 12 "-" "curl""#,
        "#3 /var/www/html/vendor/x.php(12): handleError()",
        r#"{"message":"ERROR","level_name":"INFO"}"#,
        "1:M 02 Jan 2026 02:00:00.123 # WARNING Memory overcommit must be enabled! Background saving may failed",
        "1:M 02 Jan 2026 02:00:00.123 * Background saving terminated with success # 0 failed",
        r#"2026/01/02 02:00:00 [error] 11#11: *53 FastCGI sent in stderr: "PHP message: PHP Deprecated:  x""#,
        "{ERROR: this is not JSON",
        "",
    ] {
        assert_eq!(read_line(line), None, "{line}");
    }
}

#[test]
fn lines_before_the_time_are_left_out_and_counts_are_by_topic() {
    let since = "2026-01-02T02:00:00Z".parse().ok();
    let mut summary = LogSummary::default();
    summary.add("[2026-01-02 01:59:59] local.ERROR: old", since);
    summary.add("[2026-01-02 02:00:00] local.ERROR: new", since);
    summary.add("[2026-01-02 02:00:01] local.ERROR: SQLSTATE[HY000] [2002] x", since);
    assert_eq!(summary.events, BTreeMap::from([("other".into(), 1), ("database_unreachable".into(), 1)]));
    assert_eq!(summary.lines, 3);
}

#[test]
fn a_log_that_could_not_be_read_is_inconclusive_and_errors_are_degraded() {
    let mut summary = LogSummary { lines: 10, ..LogSummary::default() };
    assert_eq!(judge(&summary, &[]).status, Status::Healthy);
    assert_eq!(judge(&summary, &["x".into()]).status, Status::Inconclusive);
    summary.truncated = true;
    assert_eq!(judge(&summary, &[]).status, Status::Inconclusive);
    summary.add("[2026-01-02 02:00:00] local.ERROR: x", None);
    assert_eq!(judge(&summary, &["x".into()]).status, Status::Degraded);
}

#[tokio::test]
async fn the_probe_reads_the_log_of_every_container_of_the_service() {
    let told = Told {
        containers: Some(vec![container("app"), container("app"), container("mysql")]),
        log: Some(vec!["[2026-01-02 02:00:00] local.ERROR: x", "fine, 0 errors"]),
        ..Told::default()
    };
    let since = "2026-01-01T00:00:00Z".parse().unwrap();
    let health = LogProbe::new(Arc::new(told), "app", Role::Application, since).check().await;
    assert_eq!(health.status, Status::Degraded);
    assert_eq!((health.facts["errors.other"].as_str(), health.facts["lines"].as_str()), ("2", "4"));
}
