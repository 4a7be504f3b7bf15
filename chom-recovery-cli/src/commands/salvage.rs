//! `salvage`: reads what can be read of a server that does not start any more.

use chom_recovery::{
    Result,
    mysql::salvage::Extent,
    procedure::salvage::{Request, SalvageReport},
    recovery::RunOptions,
};

use crate::{args::Salvage, consent::login_name, exit::Exit, human, output::Output, session::Session, watch::watch};

pub(crate) async fn run(session: &Session, command: Salvage) -> Result<Exit> {
    let Salvage::Database { up_to_level, tags, operator } = command;
    let recovery = session.open().await?;
    let options = RunOptions { operator: operator.or_else(|| Some(login_name())), ..RunOptions::default() };
    let going = recovery.salvage_database(Request { up_to_level, tags }, options).await?;
    watch(session, &recovery, going).await
}

/// Prints what was read, and table by table what was not.
pub(crate) fn print(output: &Output, report: &SalvageReport) {
    for attempt in &report.attempts {
        output.line(format!("no server came up at level {}: {}", attempt.level, attempt.why));
    }
    let mut table = output.table(&["TABLE", "READ", "ROWS", "LEVEL"]);
    for one in &report.tables {
        let extent = match one.extent {
            Extent::Whole => "whole",
            Extent::Part => "PART",
            Extent::Nothing => "NOTHING",
        };
        table.add_row([
            format!("{}.{}", one.schema, one.table),
            extent.to_owned(),
            one.rows.to_string(),
            one.level.to_string(),
        ]);
    }
    output.line(table.trim_fmt());
    output.line(format!(
        "\nbackup {}, {}: {} rows; {} tables whole, {} in part, {} not at all; only its id chooses it",
        output.palette().bold(report.backup.id()),
        human::bytes(report.backup.stored_len),
        report.rows,
        report.whole,
        report.part,
        report.nothing
    ));
}
