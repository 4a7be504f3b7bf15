//! `backup contents` and `backup export`: what a backup holds, and a backup as a plain file.

use std::path::Path;

use chom_recovery::{
    Error, ErrorKind, Result,
    catalog::export::{ExportReport, ExportTo},
    mysql::sqlfile::FileCompression,
    recovery::BackupContents,
};
use comfy_table::Cell;

use crate::{args::Which, exit::Exit, human, output::Output, session::Session};

pub(super) async fn contents(session: &Session, which: &Which) -> Result<Exit> {
    let (output, recovery) = (&session.output, session.open_without_engine()?);
    let terminal = output.terminal.clone();
    terminal.begin("reading");
    let advancing = terminal.clone();
    let contents =
        recovery.backup_contents(&which.selector()?, move |done, total| advancing.advance(done, Some(total))).await;
    terminal.end();
    let contents = contents?;
    output.show("backup_contents", &contents, |output| print(output, &contents));
    Ok(if contents.problems.is_empty() { Exit::Ok } else { Exit::Corrupt })
}

fn print(output: &Output, contents: &BackupContents) {
    let mut table = output.table(&["SCHEMA", "TABLE", "ROWS", "SIZE"]);
    for one in &contents.tables {
        table.add_row([
            Cell::new(if one.schema.is_empty() { "-" } else { &one.schema }),
            Cell::new(&one.table),
            Cell::new(one.rows),
            Cell::new(human::bytes(one.bytes)),
        ]);
    }
    output.line(table.trim_fmt());
    let rows: u64 = contents.tables.iter().map(|t| t.rows).sum();
    let bytes: u64 = contents.tables.iter().map(|t| t.bytes).sum();
    output.line(format!("{} tables, {rows} rows, {}", contents.tables.len(), human::bytes(bytes)));
    let others: Vec<_> = contents.objects.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
    if !others.is_empty() {
        output.line(format!("other objects: {}", others.join(", ")));
    }
    for problem in &contents.problems {
        output.line(format!("{} {problem}", output.palette().red("DAMAGED")));
    }
}

pub(super) async fn export(session: &Session, which: &Which, path: &Path, accounts: bool, force: bool) -> Result<Exit> {
    let (output, recovery) = (&session.output, session.open_without_engine()?);
    let is_stream = path == Path::new("-");
    if is_stream && output.json {
        return Err(Error::new(ErrorKind::InvalidInput, "standard output cannot take both the export and --json")
            .hint("name a file: `--output FILE`"));
    }
    let to = if is_stream {
        ExportTo::Stream(Box::new(std::io::stdout()), FileCompression::None)
    } else {
        ExportTo::File { path: path.to_owned(), overwrite: force }
    };
    let terminal = output.terminal.clone();
    terminal.begin("exporting");
    let progress = |done, total| terminal.advance(done, Some(total));
    let report = recovery.export_backup(&which.selector()?, to, accounts, progress).await;
    terminal.end();
    let report = report?;
    if is_stream {
        tell(output, &report, "standard output");
    } else {
        let name = path.display().to_string();
        output.show("export", &report, |output| {
            output.line(format!("exported to {name}: {}", counts(&report)));
        });
    }
    for warning in &report.warnings {
        output.say(format!("note: {warning}"));
    }
    Ok(Exit::Ok)
}

fn tell(output: &Output, report: &ExportReport, name: &str) {
    output.say(format!("exported to {name}: {}", counts(report)));
}

fn counts(report: &ExportReport) -> String {
    format!(
        "{} tables, {} rows, {} of text, {} stored",
        report.tables,
        report.rows,
        human::bytes(report.bytes),
        human::bytes(report.stored_bytes)
    )
}
