//! Faults of the application.
//!
//! A log tells of the past: where the probe `code` finds code, environment and login in order, what was logged of them is
//! over.

use super::{Cause, Diagnosis, View, diagnosis, joined};
use crate::probe::{Class, Status};

pub(super) fn code(view: &View<'_>) -> Option<Diagnosis> {
    let asked = view.of("code", &[Class::Syntax]);
    let logged = view.logs("application", &["syntax"]);
    let fails = view.http_errors();
    if asked.is_empty() && (logged.is_empty() || fails.is_empty() || view.is_healthy("code")) {
        return None;
    }
    Some(diagnosis(
        Cause::CodeBroken,
        "code of the application cannot be parsed",
        if asked.is_empty() { 71 } else { 86 },
        &joined(&[asked, fails, logged]),
        "PHP parses the named file",
        "put back the code of the last good release; the database has nothing to do with it",
    ))
}

pub(super) fn environment(view: &View<'_>) -> Option<Diagnosis> {
    let asked = view.of("code", &[Class::Environment]);
    let logged = view.logs("application", &["environment"]);
    let fails = view.http_errors();
    if asked.is_empty() && (logged.is_empty() || fails.is_empty() || view.is_healthy("code")) {
        return None;
    }
    Some(diagnosis(
        Cause::EnvironmentBroken,
        "the application's environment file cannot be used",
        if asked.is_empty() { 71 } else { 86 },
        &joined(&[asked, fails, logged]),
        "the application boots with the same file",
        "what cannot be read of it is taken from the newest good backup, key by key; never make a new APP_KEY, what it \
         encrypted would be lost",
    ))
}

pub(super) fn credentials(view: &View<'_>) -> Option<Diagnosis> {
    if !view.is_healthy("mysql") {
        return None;
    }
    let asked = view.of("code", &[Class::Authentication]);
    let logged = view.logs("application", &["authentication"]);
    let fails = view.http_errors();
    if asked.is_empty() && (logged.is_empty() || view.is_healthy("code")) {
        return None;
    }
    Some(diagnosis(
        Cause::ApplicationCredentials,
        "the database is well, and the application's own credentials are refused",
        match (asked.is_empty(), fails.is_empty()) {
            (false, _) => 85,
            (true, false) => 71,
            (true, true) => 45,
        },
        &joined(&[asked, fails, logged, view.containers("database")]),
        "the application logs in with the password of its configuration",
        "what it logs in with is taken from the newest backup whose values log in, key by key; where the account's password \
         was changed on purpose no backup has it, and a person sets the new one; do not restore the database",
    ))
}

pub(super) fn down(view: &View<'_>) -> Option<Diagnosis> {
    let containers = view.stopped("application");
    if containers.is_empty() {
        return None;
    }
    Some(diagnosis(
        Cause::ApplicationDown,
        "the application is down",
        // One that ends when what it needs is not there is an effect; one that was killed does not come back by itself.
        if view.needs_are_bad() { 46 } else { 84 },
        &joined(&[containers, view.http(&[Class::Upstream]), view.logs("web", &["upstream"])]),
        "the application answers directly",
        "look at why it ended (exit code, memory, its last words), then at the last release",
    ))
}

/// The application runs, and nothing answers at its port.
pub(super) fn upstream_dead(view: &View<'_>) -> Option<Diagnosis> {
    let asked = view.answers(|a| a.probe == "php-fpm" && a.health.status == Status::Down);
    let upstream = view.http(&[Class::Upstream]);
    let unhealthy = view.containers("application");
    let is_stopped = !view.stopped("application").is_empty();
    if is_stopped || (asked.is_empty() && (upstream.is_empty() || view.is_healthy("php-fpm"))) {
        return None;
    }
    let confidence = match (asked.is_empty(), view.needs_are_bad()) {
        (false, false) => 83,
        // All its workers may wait for a database that does not answer.
        (false, true) => 46,
        (true, false) => 70,
        (true, true) => 25,
    };
    Some(diagnosis(
        Cause::UpstreamDead,
        "the application runs and does not answer: the web server is not at fault",
        confidence,
        &joined(&[asked, upstream, view.http(&[Class::Stalled]), unhealthy, view.logs("web", &["upstream"])]),
        "php-fpm answers a ping at its own port",
        "keep what it is doing as evidence before it is restarted; leave the web server alone",
    ))
}

pub(super) fn errors(view: &View<'_>) -> Option<Diagnosis> {
    let fails = view.http_errors();
    if fails.is_empty() {
        return None;
    }
    Some(diagnosis(
        Cause::ApplicationErrors,
        "the application answers with errors",
        if view.needs_are_bad() { 25 } else { 70 },
        &joined(&[fails, view.logs("application", &["other"]), exceptions(view)]),
        "its errors end when the database and redis are well",
        "look at the last release and the last change of configuration first",
    ))
}

fn exceptions<'a>(view: &View<'a>) -> Vec<&'a crate::probe::Answer> {
    view.answers(|a| {
        a.probe.starts_with("logs-") && a.health.facts.keys().any(|fact| fact.starts_with("errors.exception."))
    })
}
