//! `health`: the answers of a mode's probes.

use chom_recovery::{
    Result,
    probe::{HealthMode, HealthReport, Status},
};
use comfy_table::Cell;

use crate::{
    exit::Exit,
    human,
    output::{Output, status_cell},
    session::Session,
};

pub(crate) async fn health(session: &Session, mode: HealthMode) -> Result<Exit> {
    let recovery = session.open_what_answers().await?;
    session.output.terminal.begin("asking every probe");
    let report = recovery.health(mode).await;
    session.output.terminal.end();
    session.output.show("health", &report, |output| {
        table(output, &report, |_| true);
        output.line(format!(
            "{} in mode {}, {} probes in {}",
            output.palette().status(report.overall),
            report.mode,
            report.answers.len(),
            human::millis(report.took_ms)
        ));
    });
    Ok(exit(report.overall))
}

/// What works, though not as it should, still serves; what could not be told counts as bad.
pub(crate) fn exit(overall: Status) -> Exit {
    if overall > Status::Degraded { Exit::Unhealthy } else { Exit::Ok }
}

/// Prints answers, worst first.
pub(crate) fn table(output: &Output, report: &HealthReport, wanted: impl Fn(Status) -> bool) {
    let answers: Vec<_> = report.by_severity().into_iter().filter(|a| wanted(a.health.status)).collect();
    if answers.is_empty() {
        return;
    }
    let mut table = output.table(&["STATUS", "PROBE", "TOOK", "SEEN"]);
    for answer in answers {
        table.add_row([
            status_cell(answer.health.status),
            Cell::new(&answer.probe),
            Cell::new(human::millis(answer.latency_ms)),
            Cell::new(&answer.health.summary),
        ]);
    }
    output.line(format!("{}\n", table.trim_fmt()));
}
