//! Faults of the database.

use super::{Cause, Diagnosis, View, diagnosis, joined};
use crate::{
    catalog::{REMOVAL_UNKNOWN, REMOVED},
    probe::{Class, Status},
};

pub(super) fn credentials(view: &View<'_>) -> Option<Diagnosis> {
    let refused = view.of("mysql", &[Class::Authentication]);
    if refused.is_empty() {
        return None;
    }
    Some(diagnosis(
        Cause::DatabaseCredentials,
        "the database runs and refuses our credentials",
        95,
        &joined(&[refused, view.logs("application", &["authentication"])]),
        "the same account logs in with the same password by another way",
        "correct the password in the configuration, or the account; the data may be perfectly well: do not restore",
    ))
}

pub(super) fn corrupt(view: &View<'_>) -> Option<Diagnosis> {
    let asked = view.answers(|a| a.probe.starts_with("mysql") && a.class() == Some(Class::Corrupt));
    let logged = view.logs("database", &["corruption", "missing_tablespace", "redo"]);
    if asked.is_empty() && logged.is_empty() {
        return None;
    }
    let confidence = match (asked.is_empty(), view.database_is_bad()) {
        (false, _) => 94,
        (true, true) => 93,
        // A log tells of the past, and the database is well now.
        (true, false) => 40,
    };
    Some(diagnosis(
        Cause::DatabaseCorrupt,
        "data of the database is damaged",
        confidence,
        &joined(&[asked, logged, view.database_containers()]),
        "`CHECK TABLE` finds every table sound, and the server starts without errors of corruption",
        "recover the database beside the live data; do not repair in place, it destroys evidence",
    ))
}

pub(super) fn tables_missing(view: &View<'_>) -> Option<Diagnosis> {
    let asked = view
        .answers(|a| a.probe.starts_with("mysql") && matches!(a.class(), Some(Class::Empty | Class::MissingTables)));
    let logged = view.logs("application", &["missing_table"]);
    if asked.is_empty() && logged.is_empty() {
        return None;
    }
    Some(diagnosis(
        Cause::TablesMissing,
        if asked.is_empty() { "the application misses tables" } else { "the database works and its tables are gone" },
        match (asked.is_empty(), view.http_errors().is_empty()) {
            (false, _) => 92,
            (true, false) => 72,
            // Logged once, and the application answers.
            (true, true) => 42,
        },
        &joined(&[asked, logged]),
        "the tables are in the volume that the Compose file resolves to, or the release expects tables not yet migrated",
        "check which volume is mounted before anything else; then recover the database",
    ))
}

pub(super) fn first_start(view: &View<'_>) -> Option<Diagnosis> {
    let found = view.of("mysql", &[Class::InitServer]);
    if found.is_empty() {
        return None;
    }
    Some(diagnosis(
        Cause::DatabaseFirstStart,
        "the database image is setting up an empty data directory",
        62,
        &found,
        "the volume held data before, and the server answers with it in a moment",
        "wait for the start to end, and find out why the data directory was empty: a wrong volume name does this",
    ))
}

pub(super) fn connections(view: &View<'_>) -> Option<Diagnosis> {
    let found = view.of("mysql", &[Class::TooManyConnections]);
    if found.is_empty() {
        return None;
    }
    Some(diagnosis(
        Cause::DatabaseConnections,
        "the database runs and has no connection left",
        91,
        &found,
        "the number of connections is far below `max_connections`",
        "find the sessions that hold connections; do not restart the database, and do not restore",
    ))
}

pub(super) fn down(view: &View<'_>) -> Option<Diagnosis> {
    let containers = view.database_containers();
    let mysql = view.answers(|a| {
        a.probe == "mysql"
            && a.health.status == Status::Down
            && matches!(
                a.class(),
                None | Some(Class::Unreachable | Class::Stalled | Class::Absent | Class::NotRunning | Class::ReadOnly)
            )
    });
    if containers.is_empty() && mysql.is_empty() {
        return None;
    }
    let is_effect = view.disk_is_full() || view.credentials_are_bad();
    Some(diagnosis(
        Cause::DatabaseDown,
        "the database is down",
        if is_effect { 50 } else { 90 },
        &joined(&[containers, mysql, view.logs("application", &["database_unreachable"])]),
        "the server starts, and its tables are those of the newest backup's manifest",
        "the procedure assesses first: a server that was only stopped is started, and nothing is restored",
    ))
}

pub(super) fn lock_waits(view: &View<'_>) -> Option<Diagnosis> {
    let found = view.of("mysql-statements", &[Class::Locked]);
    if found.is_empty() {
        return None;
    }
    Some(diagnosis(
        Cause::LockWaits,
        "statements pile up behind locks that a transaction holds",
        87,
        &joined(&[found, view.http(&[Class::Slow, Class::Stalled])]),
        "the waits end by themselves within a minute, and no new ones come",
        "look at the transaction that holds the locks and at who runs it before it is ended; do not restart the database",
    ))
}

pub(super) fn slow_statements(view: &View<'_>) -> Option<Diagnosis> {
    let found = view.of("mysql-statements", &[Class::Slow]);
    if found.is_empty() {
        return None;
    }
    Some(diagnosis(
        Cause::SlowStatements,
        "statements run for long, and many at once",
        if view.needs_are_bad() { 27 } else { 73 },
        &joined(&[found, view.http(&[Class::Slow, Class::Stalled])]),
        "they belong to a report or a backup that is expected at this time",
        "look at the statements, their age and who runs them; nothing is to be restored",
    ))
}

/// Rows are gone and everything works: what was deleted can be had from a backup, and what it was is for a person to say.
pub(super) fn rows_missing(view: &View<'_>) -> Option<Diagnosis> {
    let found = view.of("mysql-rows", &[Class::RowsMissing]);
    if found.is_empty() {
        return None;
    }
    let mut diagnosis = diagnosis(
        Cause::RowsMissing,
        "rows that the newest backup holds are gone",
        75,
        &found,
        "somebody deleted them on purpose, as a clean-up or a retention rule does",
        "keep the evidence first (`chom-recovery evidence collect`) and hold the backup (`chom-recovery backup hold`); \
         to stop further loss, `chom-recovery maintenance on`; then find out what was deleted, when and by whom: rows \
         are merged back by hand from a restored copy, since restoring the whole database loses what was written since",
    );
    for answer in found {
        let facts = &answer.health.facts;
        let told = REMOVED.iter().flat_map(|begin| facts.iter().filter(move |(name, _)| name.starts_with(begin)));
        diagnosis.evidence.extend(told.map(|(_, text)| format!("{}: {text}", answer.probe)));
        if let Some(why) = facts.get(REMOVAL_UNKNOWN) {
            diagnosis.evidence.push(format!("{}: who removed them cannot be told for sure: {why}", answer.probe));
        }
    }
    Some(diagnosis)
}
