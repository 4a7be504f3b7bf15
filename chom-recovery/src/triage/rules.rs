//! The rules, one function each: what is seen, what it probably means, and what would disprove it.

use super::{Cause, Diagnosis, View, diagnosis, joined};
use crate::probe::Status;

mod application;
mod database;
mod host;
mod redis;
mod web;
mod workers;

pub(super) use host::disk_full;

type Rule = fn(&View<'_>) -> Option<Diagnosis>;

/// Rules, causes before effects. Confidences fall in the same order, where a fault is seen directly.
pub(super) const RULES: &[Rule] = &[
    host::unreachable,
    host::disk_full,
    host::everything_down,
    database::credentials,
    database::corrupt,
    database::tables_missing,
    database::first_start,
    database::connections,
    database::down,
    redis::down,
    redis::read_only,
    database::lock_waits,
    application::code,
    application::environment,
    application::credentials,
    application::down,
    application::upstream_dead,
    application::errors,
    web::configuration,
    web::certificate,
    web::upstream_not_reached,
    web::down,
    web::maintenance,
    workers::queue,
    workers::scheduler,
    database::rows_missing,
    database::slow_statements,
    web::slow,
];

/// What is said when no rule found a fault, or everything works in spite of what was found.
pub(super) fn nothing(view: &View<'_>) -> Diagnosis {
    let not_well = view.answers(|_| true);
    let is_blind = not_well.iter().any(|a| a.health.status == Status::Inconclusive) || view.0.answers.is_empty();
    if is_blind {
        return diagnosis(
            Cause::Unknown,
            "no fault was found, and not every probe could tell",
            30,
            &not_well,
            "the probes that could not tell find a fault",
            "make the inconclusive probes answer, and ask again",
        );
    }
    if not_well.is_empty() {
        return diagnosis(
            Cause::Nothing,
            "everything that was asked is up",
            90,
            &[],
            "users elsewhere report a fault: nothing here looks from their side",
            "nothing is to be recovered",
        );
    }
    diagnosis(
        Cause::Degraded,
        "the service works, and something is not as it should be",
        50,
        &not_well,
        "the same answers get worse",
        "read the degraded answers and the logs behind them; nothing is to be recovered yet",
    )
}
