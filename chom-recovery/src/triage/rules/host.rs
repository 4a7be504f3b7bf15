//! Faults of the host: out of reach, everything down, no room.

use super::{Cause, Diagnosis, View, diagnosis, joined};
use crate::probe::{Class, Status};

/// The Engine is silent: whether users are served, and what others see, tells the Engine, the host and the network apart.
pub(super) fn unreachable(view: &View<'_>) -> Option<Diagnosis> {
    let silent = view.answers(|a| a.class() == Some(Class::Engine) && a.probe.starts_with("container-"));
    if silent.is_empty() {
        return None;
    }
    let outside = view.http(&[Class::Unreachable, Class::Stalled, Class::Name]);
    if outside.is_empty() {
        return Some(diagnosis(
            Cause::EngineUnreachable,
            "the Engine cannot be asked; what runs on it is not known",
            70,
            &silent,
            "`docker version` against the same address answers",
            "restore access to the Engine (daemon, tunnel, permissions) and diagnose again",
        ));
    }
    let (seen, unseen): (Vec<_>, Vec<_>) = view
        .0
        .answers
        .iter()
        .filter(|a| a.probe.starts_with("vantage-") && a.health.status != Status::Inconclusive)
        .partition(|a| a.health.status <= Status::Degraded);
    let answers = joined(&[outside, seen.clone(), unseen.clone(), silent]);
    Some(if !seen.is_empty() {
        diagnosis(
            Cause::NetworkBetween,
            "the network between here and the host is at fault: the service is seen from elsewhere",
            92,
            &answers,
            "users elsewhere report that the service is down",
            "look at routes, firewall and VPN between here and the host, or work from the other place; rebuild nothing",
        )
    } else if !unseen.is_empty() {
        diagnosis(
            Cause::HostUnreachable,
            "the host is down: neither its Engine nor the service answers, here or elsewhere",
            92,
            &answers,
            "the provider's console shows the host up: then its network is at fault",
            "look at the provider's console and start the host; rebuild it only when the provider says that it is lost",
        )
    } else {
        diagnosis(
            Cause::HostUnreachable,
            "the host is down, or the network between: nothing was seen from a second place",
            65,
            &answers,
            "the host answers from a second place: then the network between is at fault, and nothing is to be rebuilt",
            "look from a second place (`[[vantage]]` does it for you) and at the provider's console before anything is \
             rebuilt",
        )
    })
}

pub(in crate::triage) fn disk_full(view: &View<'_>) -> Option<Diagnosis> {
    let disk = view.of("disk", &[Class::FullDisk]);
    let mysql = view.of("mysql", &[Class::FullDisk]);
    let logs = view.logs("", &["full_disk"]);
    let is_down = disk.iter().chain(&mysql).any(|a| a.health.status == Status::Down);
    let all = joined(&[disk, mysql, logs]);
    if all.is_empty() {
        return None;
    }
    Some(diagnosis(
        Cause::DiskFull,
        "a disk is full",
        if is_down { 97 } else { 45 },
        &all,
        "bytes and inodes are free on every filesystem, and the error stays",
        "free space (old images, rotated logs), never volumes or containers of the project; then diagnose again: \
         a full disk damages nothing that a restore would mend",
    ))
}

pub(super) fn everything_down(view: &View<'_>) -> Option<Diagnosis> {
    let down = [view.stopped("database"), view.stopped("application"), view.stopped("web")];
    if down.iter().any(Vec::is_empty) {
        return None;
    }
    Some(diagnosis(
        Cause::EverythingDown,
        "database, application and web server are all down",
        if view.disk_is_full() { 60 } else { 96 },
        &joined(&down),
        "the volumes still hold their data, and starting the project brings everything back",
        "find out who or what stopped it; if it was only stopped, `docker compose up -d` brings it back and loses \
         nothing; then diagnose again",
    ))
}
