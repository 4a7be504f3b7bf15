//! Faults of the web server, and of what users see through it.

use super::{Cause, Diagnosis, View, diagnosis, joined};
use crate::probe::{Answer, Class, Status, http};

/// Classes of a certificate that is not accepted.
const REFUSED: &[Class] = &[Class::Expired, Class::NotYetValid, Class::WrongName, Class::Untrusted];
/// Nobody answers, or somebody in between who takes the connection and drops it, as a published port does.
const CLOSED: &[Class] = &[Class::Unreachable, Class::Tls];

pub(super) fn configuration(view: &View<'_>) -> Option<Diagnosis> {
    let tested = view.of("web-configuration", &[Class::Configuration]);
    let logged = view.logs("web", &["web_configuration"]);
    let down = joined(&[failed(view), view.http(CLOSED)]);
    // A log tells of the past, and a configuration that is accepted is well now.
    if tested.is_empty() && (logged.is_empty() || down.is_empty() || view.is_healthy("web-configuration")) {
        return None;
    }
    let is_down = !down.is_empty();
    Some(diagnosis(
        Cause::WebConfiguration,
        if is_down {
            "the web server refuses its configuration and does not start"
        } else {
            "the web server runs with an older configuration, and would not start with the present one"
        },
        if is_down { 82 } else { 58 },
        &joined(&[down, tested, logged]),
        "the web server's own test accepts the configuration",
        "put back the last good configuration, tested in a container of its own before the web server is touched",
    ))
}

/// Web servers that ended with an error, or that the Engine starts again and again, which run for moments: one that was
/// told to stop says nothing of its configuration.
fn failed<'a>(view: &View<'a>) -> Vec<&'a Answer> {
    let is_orderly = |a: &Answer| a.health.facts.get("exit_code").is_some_and(|code| code == "0");
    let restarts = view.answers(|a| {
        a.probe.starts_with("container-")
            && a.class() == Some(Class::Restarting)
            && a.health.facts.get("role").is_some_and(|role| role == "web")
    });
    let mut found = view.stopped("web");
    found.retain(|a| !is_orderly(a) && a.class() != Some(Class::Restarting));
    joined(&[found, restarts])
}

pub(super) fn certificate(view: &View<'_>) -> Option<Diagnosis> {
    let found = view.answers(|a| {
        (a.probe.starts_with("certificate-") || a.probe.starts_with("http-"))
            && a.class().is_some_and(|class| REFUSED.contains(&class) || class == Class::ExpiresSoon)
    });
    let mut logged = view.logs("web", &["certificate_key"]);
    // An older fault, mended since: what keeps it from starting now was logged last.
    logged.retain(|a| a.health.facts.get("newest").is_none_or(|topic| topic != "web_configuration"));
    let is_key = !logged.is_empty() && !failed(view).is_empty() && !view.is_healthy("web-configuration");
    if is_key {
        return Some(diagnosis(
            Cause::CertificateMismatched,
            "the certificate does not belong to its key, and the web server does not start",
            83,
            &joined(&[logged, failed(view)]),
            "certificate and key hold the same public key",
            "put back the pair that belongs together, or renew the certificate",
        ));
    }
    let worst = found.iter().map(|a| a.health.status).max()?;
    let has = |class: Class| found.iter().any(|a| a.class() == Some(class));
    let refused = found.iter().any(|a| a.class() != Some(Class::ExpiresSoon));
    let (cause, hypothesis) = if has(Class::Expired) {
        (Cause::CertificateExpired, "the certificate has expired")
    } else if has(Class::WrongName) {
        (Cause::CertificateMismatched, "the certificate is for another name")
    } else if refused {
        (Cause::CertificateRefused, "the certificate is refused")
    } else {
        (Cause::CertificateExpiresSoon, "the certificate expires soon")
    };
    Some(diagnosis(
        cause,
        hypothesis,
        match (refused, worst) {
            (true, _) => 81,
            (false, Status::Down) => 59,
            (false, _) => 30,
        },
        &found,
        "a client elsewhere, with the right time and the same roots, accepts the certificate",
        "renew the certificate and reload the web server; if it is not valid yet, look at the clocks",
    ))
}

/// The application answers us and not the web server: its way there is wrong.
pub(super) fn upstream_not_reached(view: &View<'_>) -> Option<Diagnosis> {
    let upstream = view.http(&[Class::Upstream]);
    if upstream.is_empty() || !view.is_healthy("php-fpm") {
        return None;
    }
    Some(diagnosis(
        Cause::UpstreamNotReached,
        "the application answers, and the web server does not reach it",
        80,
        &joined(&[upstream, view.logs("web", &["upstream"])]),
        "the application does not answer at the address that the web server uses",
        "look at the upstream's name and port in the web server's configuration, and at the network they share",
    ))
}

pub(super) fn down(view: &View<'_>) -> Option<Diagnosis> {
    let containers = view.containers("web");
    let closed = view.http(&[Class::Unreachable, Class::Tls, Class::Stalled]);
    let named = view.http(&[Class::Name]);
    if containers.is_empty() && closed.is_empty() && named.is_empty() {
        return None;
    }
    if containers.is_empty() && closed.is_empty() {
        return Some(diagnosis(
            Cause::NameUnresolved,
            "the name of the service does not resolve here",
            66,
            &named,
            "the name resolves from a second place",
            "look at DNS, and ask from a second place",
        ));
    }
    let is_effect = view.disk_is_full();
    Some(diagnosis(
        Cause::WebDown,
        "the web server is down",
        match (view.stopped("web").is_empty(), is_effect) {
            (false, false) => 79,
            (true, false) => 64,
            (_, true) => 44,
        },
        &joined(&[containers, closed]),
        "the web server answers from a second place",
        "test its configuration before it is started",
    ))
}

pub(super) fn maintenance(view: &View<'_>) -> Option<Diagnosis> {
    let found = view.http(&[Class::Maintenance]);
    if found.is_empty() {
        return None;
    }
    let is_effect = view.database_is_bad() || view.redis_is_bad();
    Some(diagnosis(
        Cause::MaintenanceOn,
        "maintenance mode is on",
        if is_effect { 35 } else { 78 },
        &found,
        "the application is up, and the 503 comes from something else",
        "ask who switched it on and whether a run is under way; then `chom-recovery maintenance off`",
    ))
}

pub(super) fn slow(view: &View<'_>) -> Option<Diagnosis> {
    let found = view.http(&[Class::Slow]);
    if found.is_empty() {
        return None;
    }
    let fact = |name: &str| found.iter().find_map(|a| a.health.facts.get(name));
    let disproved_by = match (fact(http::BASELINE), fact(http::NO_BASELINE)) {
        (Some(p95), _) => {
            format!("it is no slower than usual: while all was well, 95 of 100 answers took up to {p95} ms")
        }
        (None, Some(why)) => format!("it is no slower than usual: there is no baseline to compare with, {why}"),
        (None, None) => "it is no slower than usual: no baseline was compared".to_owned(),
    };
    Some(diagnosis(
        Cause::Slow,
        "the service answers, and is slow",
        if view.database_is_bad() || view.redis_is_bad() { 26 } else { 60 },
        &found,
        &disproved_by,
        "look at load, connections and queues before anything is restarted",
    ))
}
