//! The rules, one function each: what is seen, what it probably means, and what would disprove it.

use super::{Diagnosis, Selected, View, diagnosis, joined};
use crate::probe::{Class, Status};

pub(super) fn engine(view: &View<'_>) -> Option<Diagnosis> {
    let silent = view.answers(|a| a.class() == Some(Class::Engine) && a.probe.starts_with("container-"));
    if silent.is_empty() {
        return None;
    }
    let outside = view.http(&[Class::Unreachable, Class::Stalled, Class::Name]);
    let asked = view.0.answers.iter().any(|a| a.probe.starts_with("http-"));
    Some(if !asked || outside.is_empty() {
        diagnosis(
            "the Engine cannot be asked; what runs on it is not known",
            Selected::None,
            70,
            &silent,
            "`docker version` against the same address answers",
            "restore access to the Engine (daemon, tunnel, permissions) and diagnose again",
        )
    } else {
        diagnosis(
            "host or Engine is down",
            Selected::FullSystem,
            65,
            &joined(&[silent, outside]),
            "the host answers from a second place: then the network between is at fault, and nothing is to be rebuilt",
            "look at the host from a second place and at the provider's console before anything is rebuilt",
        )
    })
}

pub(super) fn everything_down(view: &View<'_>) -> Option<Diagnosis> {
    let down = [view.containers("database"), view.containers("application"), view.containers("web")];
    if down.iter().any(Vec::is_empty) {
        return None;
    }
    let full = view.disk_is_full();
    Some(diagnosis(
        "database, application and web server are all down",
        Selected::FullSystem,
        if full { 60 } else { 88 },
        &joined(&down),
        "the volumes still hold their data, and starting the project brings everything back",
        "if the project was only stopped, start it and diagnose again; nothing is lost by that",
    ))
}

pub(super) fn disk_full(view: &View<'_>) -> Option<Diagnosis> {
    let disk = view.of("disk", &[Class::FullDisk]);
    let mysql = view.of("mysql", &[Class::FullDisk]);
    let logs = view.logs("", &["full_disk"]);
    let is_down = disk.iter().chain(&mysql).any(|a| a.health.status == Status::Down);
    let all = joined(&[disk, mysql, logs]);
    if all.is_empty() {
        return None;
    }
    Some(diagnosis(
        "a disk is full",
        Selected::None,
        if is_down { 95 } else { 45 },
        &all,
        "bytes and inodes are free on every filesystem, and the error stays",
        "free space (old images, rotated logs), never volumes or containers of the project; then diagnose again: \
         a full disk damages nothing that a restore would mend",
    ))
}

pub(super) fn credentials(view: &View<'_>) -> Option<Diagnosis> {
    let refused = view.of("mysql", &[Class::Authentication]);
    if refused.is_empty() {
        return None;
    }
    Some(diagnosis(
        "the database runs and refuses our credentials",
        Selected::None,
        92,
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
        (false, _) => 93,
        (true, true) => 90,
        // A log tells of the past, and the database is well now.
        (true, false) => 40,
    };
    Some(diagnosis(
        "data of the database is damaged",
        Selected::Database,
        confidence,
        &joined(&[asked, logged, view.containers("database")]),
        "`CHECK TABLE` finds every table sound, and the server starts without errors of corruption",
        "recover the database beside the live data; do not repair in place, it destroys evidence",
    ))
}

pub(super) fn data_gone(view: &View<'_>) -> Option<Diagnosis> {
    let asked = view
        .answers(|a| a.probe.starts_with("mysql") && matches!(a.class(), Some(Class::Empty | Class::MissingTables)));
    let logged = view.logs("application", &["missing_table"]);
    if asked.is_empty() && logged.is_empty() {
        return None;
    }
    Some(diagnosis(
        if asked.is_empty() { "the application misses tables" } else { "the database works and its tables are gone" },
        Selected::Database,
        match (asked.is_empty(), view.http(&[Class::Application, Class::HttpStatus, Class::Body]).is_empty()) {
            (false, _) => 91,
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
        "the database image is setting up an empty data directory",
        Selected::Database,
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
        "the database runs and has no connection left",
        Selected::Performance,
        86,
        &found,
        "the number of connections is far below `max_connections`",
        "find the sessions that hold connections; do not restart the database, and do not restore",
    ))
}

pub(super) fn database_down(view: &View<'_>) -> Option<Diagnosis> {
    let containers = view.containers("database");
    let mysql = view.answers(|a| {
        a.probe == "mysql"
            && a.health.status == Status::Down
            && matches!(
                a.class(),
                None | Some(Class::Unreachable | Class::Stalled | Class::Absent | Class::NotRunning | Class::ReadOnly)
            )
    });
    let logged = view.logs("application", &["database_unreachable"]);
    if containers.is_empty() && mysql.is_empty() {
        return None;
    }
    let is_effect = view.disk_is_full() || view.credentials_are_bad();
    Some(diagnosis(
        "the database is down",
        Selected::Database,
        if is_effect { 50 } else { 85 },
        &joined(&[containers, mysql, logged]),
        "the server starts, and its tables are those of the newest backup's manifest",
        "the procedure assesses first: a server that was only stopped is started, and nothing is restored",
    ))
}

pub(super) fn redis_down(view: &View<'_>) -> Option<Diagnosis> {
    let containers = view.containers("redis");
    let redis = view.answers(|a| a.probe == "redis" && a.health.status == Status::Down);
    if containers.is_empty() && redis.is_empty() {
        return None;
    }
    let refused = redis.iter().any(|a| a.class() == Some(Class::Authentication));
    let all = joined(&[containers, redis, view.logs("application", &["redis_unreachable"])]);
    Some(if refused {
        diagnosis(
            "redis runs and refuses our credentials",
            Selected::None,
            84,
            &all,
            "the same password is accepted by another way",
            "correct the password in the configuration; queued jobs and sessions are not lost",
        )
    } else {
        diagnosis(
            "redis is down",
            Selected::Partial,
            if view.disk_is_full() { 48 } else { 84 },
            &all,
            "redis answers PING and takes a write",
            "check that its data is saved before it is restarted: queued jobs and sessions live there",
        )
    })
}

pub(super) fn application_credentials(view: &View<'_>) -> Option<Diagnosis> {
    let logged = view.logs("application", &["authentication"]);
    if logged.is_empty() || !view.is_healthy("mysql") {
        return None;
    }
    let fails = view.http(&[Class::Application, Class::HttpStatus, Class::Body]);
    Some(diagnosis(
        "the database is well, and the application's own credentials are refused",
        Selected::Application,
        if fails.is_empty() { 45 } else { 82 },
        &joined(&[logged, fails]),
        "the application logs in with the password of its configuration",
        "compare the application's configuration with the last good one; do not restore the database",
    ))
}

pub(super) fn application_down(view: &View<'_>) -> Option<Diagnosis> {
    let containers = view.containers("application");
    let upstream = view.http(&[Class::Upstream]);
    let fails = view.http(&[Class::Application, Class::HttpStatus, Class::Body]);
    let all = joined(&[containers.clone(), upstream.clone(), fails, view.logs("web", &["upstream"])]);
    let only_logged = containers.is_empty() && upstream.is_empty();
    if all.is_empty() || (only_logged && view.http(&[Class::Application, Class::HttpStatus, Class::Body]).is_empty()) {
        return None;
    }
    // Its errors are effects when what it depends on is broken.
    let is_effect = view.database_is_bad() || view.redis_is_bad() || view.disk_is_full();
    let confidence = match (is_effect, only_logged) {
        (true, true) => 25,
        (true, false) => 46,
        (false, true) => 70,
        (false, false) => 83,
    };
    Some(diagnosis(
        if only_logged { "the application answers with errors" } else { "the application is down" },
        Selected::Application,
        confidence,
        &all,
        "the application answers directly, or its errors end when the database and redis are well",
        "look at the last release and the last change of configuration first",
    ))
}

pub(super) fn maintenance(view: &View<'_>) -> Option<Diagnosis> {
    let found = view.http(&[Class::Maintenance]);
    if found.is_empty() {
        return None;
    }
    let is_effect = view.database_is_bad() || view.redis_is_bad();
    Some(diagnosis(
        "maintenance mode is on",
        Selected::None,
        if is_effect { 35 } else { 81 },
        &found,
        "the application is up, and the 503 comes from something else",
        "ask who switched it on and whether a run is under way; then switch it off",
    ))
}

pub(super) fn certificate(view: &View<'_>) -> Option<Diagnosis> {
    let found = view.answers(|a| {
        (a.probe.starts_with("certificate-") || a.probe.starts_with("http-"))
            && matches!(
                a.class(),
                Some(
                    Class::Expired
                        | Class::NotYetValid
                        | Class::WrongName
                        | Class::Untrusted
                        | Class::ExpiresSoon
                        | Class::Tls
                )
            )
    });
    let worst = found.iter().map(|a| a.health.status).max()?;
    let soon = found.iter().all(|a| a.class() == Some(Class::ExpiresSoon));
    Some(diagnosis(
        if soon { "the certificate expires soon" } else { "the certificate is refused" },
        Selected::Nginx,
        match (worst, soon) {
            (_, false) => 89,
            (Status::Down, true) => 58,
            (_, true) => 30,
        },
        &found,
        "a client elsewhere, with the right time and the same roots, accepts the certificate",
        "`chom-recovery recover nginx` loads a valid certificate that lies there, or one of a backup; else renew it; if it is \
         not valid yet, look at the clocks",
    ))
}

pub(super) fn web_down(view: &View<'_>) -> Option<Diagnosis> {
    let containers = view.containers("web");
    let closed = view.http(&[Class::Unreachable, Class::Stalled]);
    let named = view.http(&[Class::Name]);
    if containers.is_empty() && closed.is_empty() && named.is_empty() {
        return None;
    }
    if containers.is_empty() && closed.is_empty() {
        return Some(diagnosis(
            "the name of the service does not resolve here",
            Selected::None,
            66,
            &named,
            "the name resolves from a second place",
            "look at DNS, and ask from a second place",
        ));
    }
    let is_effect = view.disk_is_full();
    Some(diagnosis(
        "the web server is down",
        Selected::Nginx,
        match (containers.is_empty(), is_effect) {
            (false, false) => 82,
            (true, false) => 64,
            (_, true) => 44,
        },
        &joined(&[containers, closed]),
        "the web server answers from a second place",
        "`chom-recovery recover nginx` tests its configuration before it is started",
    ))
}

pub(super) fn workers(view: &View<'_>) -> Option<Diagnosis> {
    let containers = view.containers("worker");
    let queue = view.of("queue", &[Class::Backlog]);
    let beat = view.of("scheduler", &[Class::Stale]);
    let failed = view.of("failed-jobs", &[Class::Errors]);
    if containers.is_empty() && queue.is_empty() && beat.is_empty() {
        return None;
    }
    let all = joined(&[containers.clone(), queue, beat.clone(), failed]);
    let is_effect = view.database_is_bad() || view.redis_is_bad() || view.disk_is_full();
    let down = !containers.is_empty() || beat.iter().any(|a| a.health.status == Status::Down);
    Some(diagnosis(
        "queue or scheduler does not move",
        Selected::Partial,
        match (is_effect, down) {
            (true, _) => 28,
            (false, true) => 78,
            (false, false) => 55,
        },
        &all,
        "the queue shrinks and the heartbeat is fresh",
        "start the workers alone; look at failed jobs before they are retried",
    ))
}

pub(super) fn slow(view: &View<'_>) -> Option<Diagnosis> {
    let found = view.http(&[Class::Slow]);
    if found.is_empty() {
        return None;
    }
    Some(diagnosis(
        "the service answers, and is slow",
        Selected::Performance,
        if view.database_is_bad() || view.redis_is_bad() { 26 } else { 60 },
        &found,
        "it is no slower than usual: no baseline was compared",
        "look at load, connections and queues before anything is restarted",
    ))
}

pub(super) fn nothing(view: &View<'_>) -> Diagnosis {
    let not_well = view.answers(|_| true);
    let is_blind = not_well.iter().any(|a| a.health.status == Status::Inconclusive) || view.0.answers.is_empty();
    if is_blind {
        return diagnosis(
            "no fault was found, and not every probe could tell",
            Selected::None,
            30,
            &not_well,
            "the probes that could not tell find a fault",
            "make the inconclusive probes answer, and ask again",
        );
    }
    if not_well.is_empty() {
        return diagnosis(
            "everything that was asked is up",
            Selected::None,
            90,
            &[],
            "users elsewhere report a fault: nothing here looks from their side",
            "nothing is to be recovered",
        );
    }
    diagnosis(
        "the service works, and something is not as it should be",
        Selected::None,
        50,
        &not_well,
        "the same answers get worse",
        "read the degraded answers and the logs behind them; nothing is to be recovered yet",
    )
}
