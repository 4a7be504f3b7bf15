//! `check`: every table of the running database, within a limited time.

use std::time::Duration;

use chom_recovery::{Result, mysql::CheckReport};

use crate::{exit::Exit, output::Output, session::Session};

pub(crate) async fn check(session: &Session, within: Option<Duration>) -> Result<Exit> {
    let recovery = session.open_what_answers().await?;
    session.output.terminal.begin("checking tables");
    let report = recovery.check_tables(within).await;
    session.output.terminal.end();
    let report = report?;
    session.output.show("check", &report, |output| print(output, &report));
    Ok(match &report {
        report if !report.corrupt.is_empty() => Exit::Unhealthy,
        report if !report.unchecked.is_empty() => Exit::Incomplete,
        _ => Exit::Ok,
    })
}

fn print(output: &Output, report: &CheckReport) {
    let palette = output.palette();
    for problem in &report.corrupt {
        output.line(format!("{} {}: {}", palette.red("DAMAGED"), problem.table, problem.message));
    }
    for table in &report.unchecked {
        output.line(format!("not checked: {table}"));
    }
    output.line(format!(
        "{} tables are sound, {} damaged, {} not checked, in {:.1} s",
        report.good,
        report.corrupt.len(),
        report.unchecked.len(),
        report.seconds
    ));
    if let Some(problem) = report.corrupt.first() {
        output.say(format!(
            "restore one alone: chom-recovery restore --table {}; all of them: chom-recovery recover database",
            problem.table
        ));
    }
}
