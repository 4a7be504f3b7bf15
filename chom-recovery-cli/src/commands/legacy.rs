//! Backups of other programs: how they are shown and verified.

use chom_recovery::{
    Error, ErrorKind, Recovery, Result,
    catalog::legacy::{ArchiveContents, LegacyBackup, LegacyContents, LegacyListing, LegacyReport, ToldBy},
    mysql::sqlfile::{Completion, Contents},
};
use chrono::Utc;
use comfy_table::{Cell, Color};

use crate::{args::Depth, exit::Exit, human, output::Output, session::Session};

fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn told_by(backup: &LegacyBackup) -> Cell {
    match backup.told_by {
        ToldBy::Name | ToldBy::Content => Cell::new(word(&backup.told_by)),
        ToldBy::File => Cell::new("FILE TIME ONLY").fg(Color::Yellow),
    }
}

pub(super) fn print_list(output: &Output, listing: &LegacyListing) {
    output.line(format!("\nlegacy backups in {}", listing.directory.display()));
    if listing.backups.is_empty() {
        output.line("  none");
    } else {
        let mut table = output.table(&["BACKUP", "KIND", "DATA OF", "AGE", "SIZE", "TIME TOLD BY"]);
        for backup in &listing.backups {
            table.add_row([
                Cell::new(backup.name()),
                Cell::new(word(&backup.kind)),
                Cell::new(human::time(backup.point)),
                Cell::new(human::duration(backup.age(Utc::now()))),
                Cell::new(human::bytes(backup.stored_len)),
                told_by(backup),
            ]);
        }
        output.line(table.trim_fmt());
    }
    for link in &listing.links {
        if let Some(problem) = &link.problem {
            output.line(format!("{} {} -> {}: {problem}", output.palette().red("LINK"), link.link, link.target));
        }
    }
    for problem in &listing.problems {
        output.say(format!("a part could not be listed: {}", problem.message));
    }
}

pub(super) fn print_one(output: &Output, backup: &LegacyBackup) {
    let mut table = output.table(&[]);
    let mut row = |name: &str, text: String| {
        table.add_row([name.to_owned(), text]);
    };
    row("backup", backup.name());
    row("kind", word(&backup.kind));
    row("data of", format!("{}, told by its {}", human::time(backup.point), word(&backup.told_by)));
    row("size", human::bytes(backup.stored_len));
    for warning in &backup.warnings {
        row("warning", warning.clone());
    }
    output.line(table.trim_fmt());
}

pub(super) async fn verify(session: &Session, recovery: &Recovery, name: &str, depth: Depth) -> Result<Exit> {
    if matches!(depth, Depth::L1) {
        return Err(Error::new(ErrorKind::Unsupported, "a legacy backup has no recorded hashes to compare with")
            .hint("--depth l2 decompresses it and parses it to the end"));
    }
    let output = &session.output;
    let terminal = output.terminal.clone();
    terminal.begin("verifying");
    let advancing = terminal.clone();
    let report = recovery.verify_legacy(name, move |done, total| advancing.advance(done, Some(total))).await;
    terminal.end();
    let report = report?;
    output.show("legacy_verification", &report, |output| print(output, &report));
    Ok(if report.passed() { Exit::Ok } else { Exit::Corrupt })
}

fn print(output: &Output, report: &LegacyReport) {
    let palette = output.palette();
    let verdict = if report.passed() { palette.green("PASSED") } else { palette.red("FAILED") };
    let took = (report.ended - report.begun).to_std().unwrap_or_default();
    let bytes = report.backup.plain_len.map_or_else(String::new, |b| format!(", {} of content", human::bytes(b)));
    output.line(format!(
        "{verdict} {:?}: {}, data of {}, {} stored{bytes}, in {}",
        report.level,
        report.backup.name(),
        human::time(report.backup.point),
        human::bytes(report.backup.stored_len),
        human::duration(took)
    ));
    match &report.contents {
        LegacyContents::Dump(contents) => dump(output, contents),
        LegacyContents::Archive(contents) => archive(output, contents),
        LegacyContents::Unreadable => {}
    }
    for finding in &report.findings {
        output.line(format!("  {finding}"));
    }
    for warning in &report.backup.warnings {
        output.line(format!("  {} {warning}", palette.yellow("note")));
    }
}

fn dump(output: &Output, contents: &Contents) {
    let header = &contents.header;
    if let Some(version) = &header.server_version {
        let flavour = header.flavour().map_or_else(String::new, |f| format!("{f} "));
        output.line(format!("  server    {flavour}{version}"));
    }
    let schemas: Vec<_> = contents.schemas.iter().chain(&contents.system_schemas).map(String::as_str).collect();
    let schemas = if schemas.is_empty() {
        header.database.as_deref().unwrap_or("not named").to_owned()
    } else {
        schemas.join(", ")
    };
    output.line(format!("  schemas   {schemas}"));
    let tables = contents.tables.values().map(std::collections::BTreeMap::len).sum::<usize>();
    output.line(format!("  tables    {tables}, {} rows, {} other objects", contents.rows, contents.objects.len()));
    if let Some((file, offset)) = &contents.position {
        output.line(format!("  position  {file} {offset}"));
    }
    if let Some(gtids) = &contents.gtid_set {
        output.line(format!("  gtid set  {gtids}"));
    }
    let end = match contents.completion {
        Completion::Trailer(Some(time)) => format!("whole, ended at {time} by its own clock"),
        Completion::Trailer(None) => "whole".into(),
        Completion::Settings => "whole, by its restored settings".into(),
        Completion::Unknown => "NOT PROVEN WHOLE".into(),
    };
    output.line(format!("  end       {end}"));
}

fn archive(output: &Output, contents: &ArchiveContents) {
    let kinds = contents.kinds.iter().map(|(kind, n)| format!("{n} {kind}")).collect::<Vec<_>>().join(", ");
    output.line(format!("  entries   {} ({kinds}), {} in files", contents.entries, human::bytes(contents.bytes)));
}
