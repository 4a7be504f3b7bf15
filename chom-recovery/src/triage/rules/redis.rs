//! Faults of redis.

use super::{Cause, Diagnosis, View, diagnosis, joined};
use crate::probe::{Class, Status};

/// Redis answers, and refuses to take or to keep what is written.
const REFUSES_WRITES: &[Class] = &[Class::ReadOnly, Class::Persistence, Class::Memory];

pub(super) fn down(view: &View<'_>) -> Option<Diagnosis> {
    let containers = view.containers("redis");
    let redis = view.answers(|a| {
        a.probe == "redis"
            && a.health.status == Status::Down
            && a.class().is_none_or(|class| !REFUSES_WRITES.contains(&class))
    });
    if containers.is_empty() && redis.is_empty() {
        return None;
    }
    let refused = redis.iter().any(|a| a.class() == Some(Class::Authentication));
    let all = joined(&[containers, redis, view.logs("application", &["redis_unreachable"])]);
    Some(if refused {
        diagnosis(
            Cause::RedisCredentials,
            "redis runs and refuses our credentials",
            89,
            &all,
            "the same password is accepted by another way",
            "correct the password in the configuration; queued jobs and sessions are not lost",
        )
    } else {
        diagnosis(
            Cause::RedisDown,
            "redis is down",
            if view.disk_is_full() { 48 } else { 89 },
            &all,
            "redis answers PING and takes a write",
            "check that its data is saved before it is restarted: queued jobs and sessions live there",
        )
    })
}

pub(super) fn read_only(view: &View<'_>) -> Option<Diagnosis> {
    let found = view.answers(|a| {
        a.probe == "redis"
            && a.health.status == Status::Down
            && a.class().is_some_and(|class| REFUSES_WRITES.contains(&class))
    });
    if found.is_empty() {
        return None;
    }
    Some(diagnosis(
        Cause::RedisReadOnly,
        "redis answers and takes no writes",
        if view.disk_is_full() { 47 } else { 88 },
        &joined(&[found, view.logs("application", &["redis_unreachable"])]),
        "a write with the application's own settings succeeds",
        "see why it refuses (its role, its memory, its disk) before anything is restarted: a replica that is restarted \
         forgets nothing, a master whose data was never saved does",
    ))
}
