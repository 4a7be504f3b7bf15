//! Faults of queue and scheduler.

use super::{Cause, Diagnosis, View, diagnosis, joined};
use crate::probe::{Answer, Class, Status};

/// While users are kept out, workers rest: that nothing is taken is meant.
fn is_effect(view: &View<'_>) -> bool {
    view.needs_are_bad() || !view.http(&[Class::Maintenance]).is_empty()
}

/// Tells by its name whether a worker is a scheduler: nothing else tells them apart from outside.
fn is_scheduler(answer: &Answer) -> bool {
    ["sched", "cron"].iter().any(|word| answer.probe.to_ascii_lowercase().contains(word))
}

pub(super) fn queue(view: &View<'_>) -> Option<Diagnosis> {
    let containers: Vec<_> = view.containers("worker").into_iter().filter(|a| !is_scheduler(a)).collect();
    let queue = view.of("queue", &[Class::Backlog, Class::Stuck]);
    if containers.is_empty() && queue.is_empty() {
        return None;
    }
    let is_sure = !containers.is_empty() || queue.iter().any(|a| a.class() == Some(Class::Stuck));
    Some(diagnosis(
        Cause::QueueStuck,
        if queue.is_empty() { "the queue worker is down" } else { "queued jobs are not taken" },
        match (is_effect(view), is_sure) {
            (true, _) => 28,
            (false, true) => 77,
            (false, false) => 55,
        },
        &joined(&[queue, containers, view.of("failed-jobs", &[Class::Errors])]),
        "the queue shrinks",
        "start the worker alone; look at failed jobs before they are retried",
    ))
}

pub(super) fn scheduler(view: &View<'_>) -> Option<Diagnosis> {
    let containers: Vec<_> = view.containers("worker").into_iter().filter(|a| is_scheduler(a)).collect();
    let beat = view.of("scheduler", &[Class::Stale]);
    if containers.is_empty() && beat.is_empty() {
        return None;
    }
    let is_sure = !containers.is_empty() || beat.iter().any(|a| a.health.status == Status::Down);
    Some(diagnosis(
        Cause::SchedulerDead,
        if beat.is_empty() { "the scheduler is down" } else { "the scheduler gives no sign of life" },
        match (is_effect(view), is_sure) {
            (true, _) => 28,
            (false, true) => 76,
            (false, false) => 55,
        },
        &joined(&[beat, containers]),
        "the heartbeat is fresh",
        "start the scheduler alone; tasks that were missed are not made up for by themselves",
    ))
}
