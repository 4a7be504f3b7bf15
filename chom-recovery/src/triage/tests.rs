use std::time::Duration;

use super::*;
use crate::probe::{Class, Health, HealthMode};

/// An answer that is not healthy: probe, status, class, facts.
type Change<'a> = (&'a str, Status, Class, &'a [(&'a str, &'a str)]);

/// Everything healthy, but for the changes.
fn report(changes: &[Change<'_>]) -> HealthReport {
    let roles = [
        ("container-mysql", "database"),
        ("container-redis", "redis"),
        ("container-app", "application"),
        ("container-nginx", "web"),
        ("container-queue", "worker"),
        ("container-scheduler", "worker"),
        ("logs-mysql", "database"),
        ("logs-app", "application"),
        ("logs-nginx", "web"),
        ("disk", ""),
        ("mysql", ""),
        ("mysql-tables", ""),
        ("redis", ""),
        ("queue", ""),
        ("scheduler", ""),
        ("mysql-statements", ""),
        ("mysql-rows", ""),
        ("php-fpm", ""),
        ("code", ""),
        ("web-configuration", ""),
        ("http-health", ""),
        ("certificate-chom.example", ""),
    ];
    let answers = roles
        .iter()
        .map(|(probe, role)| {
            let mut health = Health::healthy("fine").class(Class::Ok);
            if let Some((_, status, class, facts)) = changes.iter().find(|(p, ..)| p == probe) {
                health = Health::new(*status, format!("{class}")).class(*class);
                for (name, value) in *facts {
                    health = health.fact(*name, value);
                }
            }
            if !role.is_empty() {
                health = health.fact("role", role);
            }
            Answer { probe: (*probe).into(), health, latency_ms: 1 }
        })
        .collect();
    assert!(changes.iter().all(|(p, ..)| roles.iter().any(|(r, _)| r == p)), "a change names no probe");
    HealthReport::new(HealthMode::Full, answers, chrono::Utc::now(), Duration::ZERO)
}

#[test]
fn each_fault_selects_its_procedure() {
    use Status::{Degraded, Down, Inconclusive};
    let http_500: Change<'_> = ("http-health", Down, Class::Application, &[]);
    let cases: &[(&str, &[Change<'_>], Selected)] = &[
        ("everything up", &[], Selected::None),
        (
            "MySQL stopped",
            &[
                ("container-mysql", Down, Class::NotRunning, &[]),
                ("mysql", Down, Class::NotRunning, &[]),
                ("mysql-tables", Down, Class::NotRunning, &[]),
                ("logs-app", Degraded, Class::Errors, &[("errors.database_unreachable", "9")]),
                http_500,
            ],
            Selected::Database,
        ),
        (
            "our password is wrong",
            &[("mysql", Down, Class::Authentication, &[]), ("mysql-tables", Inconclusive, Class::Authentication, &[])],
            Selected::None,
        ),
        (
            "everybody's password is wrong",
            &[
                ("mysql", Down, Class::Authentication, &[]),
                ("logs-app", Degraded, Class::Errors, &[("errors.authentication", "9")]),
                http_500,
            ],
            Selected::None,
        ),
        (
            "the application's password is wrong",
            &[("logs-app", Degraded, Class::Errors, &[("errors.authentication", "9")]), http_500],
            Selected::Application,
        ),
        (
            "disk full, and the database with it",
            &[
                ("disk", Down, Class::FullDisk, &[]),
                ("container-mysql", Down, Class::Restarting, &[]),
                ("mysql", Down, Class::Unreachable, &[]),
                ("logs-mysql", Degraded, Class::Errors, &[("errors.full_disk", "3")]),
                http_500,
            ],
            Selected::None,
        ),
        ("corrupt table", &[("mysql-tables", Down, Class::Corrupt, &[]), http_500], Selected::Database),
        (
            "tablespace file deleted and server dead",
            &[
                ("container-mysql", Down, Class::Restarting, &[]),
                ("mysql", Down, Class::Unreachable, &[]),
                ("logs-mysql", Degraded, Class::Errors, &[("errors.missing_tablespace", "2")]),
                http_500,
            ],
            Selected::Database,
        ),
        (
            "tables dropped",
            &[
                ("mysql", Down, Class::MissingTables, &[]),
                ("logs-app", Degraded, Class::Errors, &[("errors.missing_table", "9")]),
                http_500,
            ],
            Selected::Database,
        ),
        (
            "some tables dropped",
            &[("logs-app", Degraded, Class::Errors, &[("errors.missing_table", "9")]), http_500],
            Selected::Database,
        ),
        (
            "a table missed once, and all works",
            &[("logs-app", Degraded, Class::Errors, &[("errors.missing_table", "1")])],
            Selected::None,
        ),
        ("empty volume", &[("mysql", Down, Class::Empty, &[]), http_500], Selected::Database),
        ("connections used up", &[("mysql", Down, Class::TooManyConnections, &[]), http_500], Selected::Performance),
        (
            "redis down",
            &[
                ("container-redis", Down, Class::NotRunning, &[]),
                ("redis", Down, Class::NotRunning, &[]),
                ("queue", Down, Class::NotRunning, &[]),
                ("scheduler", Down, Class::NotRunning, &[]),
                http_500,
            ],
            Selected::Redis,
        ),
        (
            "application down",
            &[
                ("container-app", Down, Class::NotRunning, &[]),
                ("http-health", Down, Class::Upstream, &[]),
                ("logs-nginx", Degraded, Class::Errors, &[("errors.upstream", "4")]),
            ],
            Selected::Application,
        ),
        ("application errors", &[http_500], Selected::Application),
        (
            "nginx down",
            &[
                ("container-nginx", Down, Class::NotRunning, &[]),
                ("http-health", Down, Class::Unreachable, &[]),
                ("certificate-chom.example", Down, Class::Unreachable, &[]),
            ],
            Selected::Nginx,
        ),
        (
            "certificate expired",
            &[("http-health", Down, Class::Expired, &[]), ("certificate-chom.example", Down, Class::Expired, &[])],
            Selected::Nginx,
        ),
        ("maintenance", &[("http-health", Down, Class::Maintenance, &[])], Selected::None),
        ("slow", &[("http-health", Degraded, Class::Slow, &[])], Selected::Performance),
        ("worker down", &[("container-queue", Down, Class::NotRunning, &[])], Selected::Queue),
        ("queue stuck", &[("queue", Degraded, Class::Backlog, &[])], Selected::Queue),
        ("scheduler down", &[("container-scheduler", Down, Class::NotRunning, &[])], Selected::Scheduler),
        ("scheduler dead", &[("scheduler", Down, Class::Stale, &[])], Selected::Scheduler),
        (
            "all stopped",
            &[
                ("container-mysql", Down, Class::NotRunning, &[]),
                ("container-app", Down, Class::NotRunning, &[]),
                ("container-nginx", Down, Class::NotRunning, &[]),
                ("mysql", Down, Class::NotRunning, &[]),
                ("http-health", Down, Class::Unreachable, &[]),
            ],
            Selected::FullSystem,
        ),
        (
            "Engine silent, service silent",
            &[
                ("container-mysql", Inconclusive, Class::Engine, &[]),
                ("container-app", Inconclusive, Class::Engine, &[]),
                ("http-health", Down, Class::Unreachable, &[]),
            ],
            Selected::FullSystem,
        ),
        (
            "Engine silent, service answers",
            &[("container-mysql", Inconclusive, Class::Engine, &[]), ("mysql", Inconclusive, Class::Engine, &[])],
            Selected::None,
        ),
    ];
    for (name, changes, wanted) in cases {
        let found = diagnose(&report(changes));
        assert_eq!(found[0].procedure, *wanted, "{name}: {found:#?}");
        assert!(found.is_sorted_by(|a, b| a.confidence >= b.confidence), "{name}");
        assert!(found.iter().all(|d| !d.disproved_by.is_empty() && !d.advice.is_empty()), "{name}");
        assert_eq!(found[0].evidence.is_empty(), changes.is_empty(), "{name}");
    }
}

#[test]
fn a_wrong_password_selects_no_restore_anywhere_in_the_ranking() {
    let found = diagnose(&report(&[
        ("mysql", Status::Down, Class::Authentication, &[]),
        ("mysql-tables", Status::Inconclusive, Class::Authentication, &[]),
        ("logs-app", Status::Degraded, Class::Errors, &[("errors.authentication", "2")]),
        ("http-health", Status::Down, Class::Application, &[]),
    ]));
    assert!(found.iter().all(|d| !matches!(d.procedure, Selected::Database | Selected::FullSystem)), "{found:#?}");
}

#[test]
fn what_could_not_be_told_is_never_called_up() {
    let found = diagnose(&report(&[("mysql", Status::Inconclusive, Class::Secret, &[])]));
    assert_eq!(found[0].procedure, Selected::None);
    assert!(found[0].hypothesis.contains("not every probe could tell"), "{found:#?}");
    let empty = HealthReport::new(HealthMode::Full, Vec::new(), chrono::Utc::now(), Duration::ZERO);
    assert!(diagnose(&empty)[0].confidence < 50);
}

#[test]
fn old_corruption_in_a_log_ranks_low_while_the_database_is_well() {
    let found = diagnose(&report(&[("logs-mysql", Status::Degraded, Class::Errors, &[("errors.corruption", "1")])]));
    assert_eq!(found[0].procedure, Selected::None, "{found:#?}");
    assert_eq!((found[1].procedure, found[1].confidence), (Selected::Database, 40));
}

fn http(class: Class) -> Change<'static> {
    ("http-health", Status::Down, class, &[])
}

fn code(class: Class) -> Change<'static> {
    ("code", Status::Down, class, &[])
}

fn stopped(probe: &'static str) -> Change<'static> {
    (probe, Status::Down, Class::NotRunning, &[])
}

fn logged(probe: &'static str, facts: &'static [(&'static str, &'static str)]) -> Change<'static> {
    (probe, Status::Degraded, Class::Errors, facts)
}

/// First the cause that others depend on, then the other one.
#[test]
fn causes_are_named_and_two_at_once_are_ranked_by_what_depends_on_what() {
    use Cause::{
        ApplicationCredentials, ApplicationDown, ApplicationErrors, CertificateExpired, CertificateMismatched,
        CodeBroken, DatabaseDown, EnvironmentBroken, LockWaits, QueueStuck, RedisDown, RedisReadOnly, RowsMissing,
        SchedulerDead, SlowStatements, UpstreamDead, UpstreamNotReached, WebConfiguration, WebDown,
    };
    use Status::{Degraded, Down, Inconclusive};
    let cases: &[(&[Change<'_>], &[Cause])] = &[
        // A health check that logs in as the application fails with its password.
        (
            &[
                code(Class::Authentication),
                http(Class::HttpStatus),
                ("container-mysql", Down, Class::Unhealthy, &[]),
                logged("logs-app", &[("errors.authentication", "9")]),
            ],
            &[ApplicationCredentials],
        ),
        (&[logged("logs-app", &[("errors.authentication", "9")])], &[Cause::Degraded]),
        (&[code(Class::Syntax), http(Class::Application)], &[CodeBroken]),
        (&[code(Class::Environment), http(Class::Application)], &[EnvironmentBroken]),
        (
            &[
                logged("logs-app", &[("errors.environment", "2")]),
                http(Class::Application),
                ("code", Inconclusive, Class::Engine, &[]),
            ],
            &[EnvironmentBroken],
        ),
        (&[logged("logs-app", &[("errors.environment", "2")]), http(Class::Application)], &[ApplicationErrors]),
        (&[stopped("container-app"), http(Class::Upstream), stopped("php-fpm")], &[ApplicationDown]),
        (&[("php-fpm", Down, Class::Stalled, &[]), http(Class::Stalled)], &[UpstreamDead]),
        (&[http(Class::Upstream)], &[UpstreamNotReached]),
        (&[("php-fpm", Inconclusive, Class::Unreachable, &[]), http(Class::Upstream)], &[UpstreamDead]),
        (
            &[
                ("container-nginx", Down, Class::Restarting, &[]),
                logged("logs-nginx", &[("errors.web_configuration", "3")]),
                ("web-configuration", Inconclusive, Class::NotRunning, &[]),
                http(Class::Unreachable),
            ],
            &[WebConfiguration, WebDown],
        ),
        // The key was another one a while ago.
        (
            &[
                ("container-nginx", Down, Class::Restarting, &[]),
                logged(
                    "logs-nginx",
                    &[
                        ("errors.certificate_key", "9"),
                        ("errors.web_configuration", "3"),
                        ("newest", "web_configuration"),
                    ],
                ),
                ("web-configuration", Inconclusive, Class::NotRunning, &[]),
                http(Class::Unreachable),
            ],
            &[WebConfiguration, WebDown],
        ),
        (
            &[
                ("container-nginx", Down, Class::Restarting, &[]),
                logged("logs-nginx", &[("errors.certificate_key", "3")]),
                ("web-configuration", Inconclusive, Class::NotRunning, &[]),
                http(Class::Unreachable),
            ],
            &[CertificateMismatched, WebDown],
        ),
        (&[("web-configuration", Degraded, Class::Configuration, &[])], &[WebConfiguration]),
        // Between two starts it runs for a moment, and the published port takes connections that nobody answers.
        (
            &[
                ("container-nginx", Degraded, Class::Restarting, &[]),
                ("web-configuration", Degraded, Class::Configuration, &[]),
                http(Class::Tls),
            ],
            &[WebConfiguration, WebDown],
        ),
        (&[logged("logs-nginx", &[("errors.web_configuration", "3")]), http(Class::Unreachable)], &[WebDown]),
        (
            &[http(Class::WrongName), ("container-nginx", Down, Class::Unhealthy, &[])],
            &[CertificateMismatched, WebDown],
        ),
        (&[("queue", Degraded, Class::Stuck, &[])], &[QueueStuck]),
        (&[("scheduler", Down, Class::Stale, &[])], &[SchedulerDead]),
        (&[stopped("container-scheduler")], &[SchedulerDead]),
        (
            &[("redis", Down, Class::ReadOnly, &[]), logged("logs-app", &[("errors.redis_unreachable", "1")])],
            &[RedisReadOnly],
        ),
        (&[("mysql-statements", Degraded, Class::Locked, &[])], &[LockWaits]),
        (&[("mysql-statements", Degraded, Class::Slow, &[])], &[SlowStatements]),
        (&[("mysql-rows", Degraded, Class::RowsMissing, &[])], &[RowsMissing]),
        // Two at once.
        (
            &[stopped("container-mysql"), stopped("mysql"), stopped("mysql-tables"), http(Class::Expired)],
            &[DatabaseDown, CertificateExpired],
        ),
        (
            &[stopped("container-redis"), stopped("redis"), code(Class::Syntax), http(Class::Application)],
            &[RedisDown, CodeBroken],
        ),
        (
            &[("queue", Degraded, Class::Stuck, &[]), ("scheduler", Down, Class::Stale, &[])],
            &[QueueStuck, SchedulerDead],
        ),
        (&[stopped("container-app"), stopped("php-fpm"), http(Class::Expired)], &[ApplicationDown, CertificateExpired]),
    ];
    for (changes, wanted) in cases {
        let found = diagnose(&report(changes));
        let causes: Vec<_> = found.iter().map(|d| d.cause).take(wanted.len()).collect();
        assert_eq!(causes, *wanted, "{changes:?}: {found:#?}");
        assert!(found.iter().all(|d| d.command.is_some() == d.cause.command().is_some()));
    }
}

#[test]
fn a_second_place_tells_a_host_from_a_network() {
    let silent: [Change<'_>; 2] =
        [("container-mysql", Status::Inconclusive, Class::Engine, &[]), http(Class::Unreachable)];
    for (seen, wanted, confidence) in [
        (None, Cause::HostUnreachable, 65),
        (Some(Health::inconclusive("could not be asked")), Cause::HostUnreachable, 65),
        (Some(Health::down("not seen")), Cause::HostUnreachable, 92),
        (Some(Health::healthy("seen")), Cause::NetworkBetween, 92),
        (Some(Health::degraded("answers with 502")), Cause::NetworkBetween, 92),
    ] {
        let mut report = report(&silent);
        report.answers.extend(seen.map(|health| Answer { probe: "vantage-office".into(), health, latency_ms: 1 }));
        let found = diagnose(&report);
        assert_eq!((found[0].cause, found[0].confidence), (wanted, confidence), "{found:#?}");
    }
}

#[test]
fn what_is_slow_is_held_against_what_is_usual_where_that_is_known() {
    let of = |facts| diagnose(&report(&[("http-health", Status::Degraded, Class::Slow, facts)]))[0].clone();
    let known = of(&[("baseline_p95_ms", "40")]);
    assert_eq!((known.cause, known.disproved_by.contains("up to 40 ms")), (Cause::Slow, true), "{known:#?}");
    let unknown = of(&[("no_baseline", "3 of 20 measurements were remembered")]);
    assert!(unknown.disproved_by.contains("3 of 20"), "{unknown:#?}");
}

#[test]
fn who_removed_rows_is_evidence_and_so_is_that_nobody_can_tell() {
    let facts: &[(&str, &str)] = &[
        ("removal_unknown", "the server started late"),
        ("removed_by_account.0", "account chom@%: 1 statements"),
        ("removed_by_statement.0", "DELETE FROM `orders`: ran 1 times"),
        ("removed_by_user.0", "7: order.deleted"),
    ];
    let found = diagnose(&report(&[("mysql-rows", Status::Degraded, Class::RowsMissing, facts)]));
    let order: Vec<_> =
        ["rows_missing", "DELETE FROM", "account chom@%", "7: order.deleted", "cannot be told"].into_iter().collect();
    assert_eq!(found[0].evidence.len(), order.len(), "{found:#?}");
    assert!(found[0].evidence.iter().zip(order).all(|(line, wanted)| line.contains(wanted)), "{found:#?}");
}
