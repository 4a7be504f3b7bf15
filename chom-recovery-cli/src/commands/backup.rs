//! `backup`: take, find and verify backups.

use std::time::Duration;

use chom_recovery::{
    Result,
    catalog::{BackupInfo, ComponentKind, Compression, Level, Listing, Selector, VerifyReport, legacy::LegacyListing},
    probe::Status,
    procedure::database::{
        WantedKind,
        ops::{BackUp, DatabaseKind},
    },
    recovery::{BackupStatus, CopyReport},
    system::DATABASE,
};
use chrono::{DateTime, Utc};
use comfy_table::{Cell, Color};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{export, health, legacy};
use crate::{
    args::{Backup, CompressionChoice, Depth, KindChoice},
    consent::login_name,
    exit::Exit,
    human,
    output::Output,
    session::Session,
    watch::watch,
};

pub(crate) async fn run(session: &Session, command: Backup) -> Result<Exit> {
    let output = &session.output;
    match command {
        Backup::Create { components, tags, compression, kind } => {
            let request = BackUp { components, tags, run: None, compression: compression.into(), kind: kind.into() };
            create(session, request).await
        }
        Backup::List { tag } => list(session, tag.as_deref()).await,
        Backup::Show { which } => {
            let recovery = session.open_without_engine()?;
            let which = which.selector()?;
            if let Selector::Legacy(name) = &which {
                let backup = recovery.legacy_backup(name).await?;
                output.show("legacy_backup", &backup, |output| legacy::print_one(output, &backup));
                return Ok(Exit::Ok);
            }
            let info = recovery.backup(&which).await?;
            output.show("backup", &info, |output| print_one(output, &info));
            Ok(Exit::Ok)
        }
        Backup::Verify { which, depth: Depth::L3 } => {
            super::drill::drill(session, &which, WantedKind::Auto, None).await
        }
        Backup::Verify { which, depth } => {
            let recovery = session.open_without_engine()?;
            let which = which.selector()?;
            if let Selector::Legacy(name) = &which {
                return legacy::verify(session, &recovery, name, depth).await;
            }
            let terminal = output.terminal.clone();
            terminal.begin("verifying");
            let progress = |p: chom_recovery::catalog::Progress| terminal.advance(p.done, Some(p.total));
            let report = recovery.verify_backup(&which, depth.into(), &progress).await;
            terminal.end();
            let report = report?;
            output.show("verification", &report, |output| print_verification(output, &report));
            Ok(if report.passed() { Exit::Ok } else { Exit::Corrupt })
        }
        Backup::Contents { which } => export::contents(session, &which).await,
        Backup::Export { which, output, accounts, force } => {
            export::export(session, &which, &output, accounts, force).await
        }
        Backup::Copy { backup } => copy(session, backup).await,
        Backup::Hold { which, why } => {
            let (recovery, by) = (session.open_without_engine()?, why.operator.unwrap_or_else(login_name));
            let record = recovery.hold_backup(&which.selector()?, &why.because, &by).await?;
            output.show("hold", &record, |output| {
                output.line(format!("held: backup {} by {} ({})", record.backup, record.by, record.id));
            });
            Ok(Exit::Ok)
        }
        Backup::Release { which, hold, why } => {
            let (recovery, by) = (session.open_without_engine()?, why.operator.unwrap_or_else(login_name));
            let hold = hold.map(|id| id.parse()).transpose()?;
            let record = recovery.release_backup(&which.selector()?, hold, &why.because, &by).await?;
            output.show("release", &record, |output| {
                output.line(format!("released: backup {}", record.backup));
            });
            Ok(Exit::Ok)
        }
        Backup::Status => {
            let status = session.open_without_engine()?.backup_status().await?;
            output.show("backup_status", &status, |output| print_status(output, &status));
            // A backup that is not verified is not one to rely on.
            Ok(if status.status == Status::Healthy { Exit::Ok } else { health::exit(Status::Down) })
        }
    }
}

/// Lists the repository, and the legacy backups beside it.
async fn list(session: &Session, tag: Option<&str>) -> Result<Exit> {
    #[derive(Serialize)]
    struct Shown<'a> {
        #[serde(flatten)]
        listing: &'a Listing,
        #[serde(skip_serializing_if = "Option::is_none")]
        legacy: Option<&'a LegacyListing>,
    }
    let output = &session.output;
    let recovery = session.open_without_engine()?;
    let legacy = recovery.legacy_backups().await;
    let mut listing = match recovery.backups().await {
        // Without a repository there may be all the more beside it.
        Err(error) => {
            if let (Ok(Some(legacy)), false) = (&legacy, output.json) {
                legacy::print_list(output, legacy);
            }
            return Err(error);
        }
        Ok(listing) => listing,
    };
    let (legacy, legacy_error) = match legacy {
        Ok(legacy) => (legacy.filter(|_| tag.is_none()), None),
        Err(error) => (None, Some(error)),
    };
    if let Some(tag) = tag {
        listing.backups.retain(|b| b.tags.iter().any(|t| t.as_str() == tag));
    }
    listing.problems.extend(legacy_error.map(|e| e.to_record()));
    let shown = Shown { listing: &listing, legacy: legacy.as_ref() };
    output.show("backups", &shown, |output| {
        print_list(output, &listing);
        if let Some(legacy) = &legacy {
            legacy::print_list(output, legacy);
        }
    });
    let is_whole = listing.problems.is_empty() && legacy.is_none_or(|l| l.problems.is_empty());
    Ok(if is_whole { Exit::Ok } else { Exit::Incomplete })
}

async fn copy(session: &Session, backup: Option<String>) -> Result<Exit> {
    let (output, recovery) = (&session.output, session.open_without_engine()?);
    let terminal = output.terminal.clone();
    terminal.begin("copying");
    let progress = |_, p: chom_recovery::catalog::Progress| terminal.advance(p.done, Some(p.total));
    let report = recovery.copy_backups(backup.map(Selector::Id).as_ref(), &progress).await;
    terminal.end();
    let report = report?;
    output.show("copies", &report, |output| print_copies(output, &report));
    report.into_result()?;
    Ok(Exit::Ok)
}

async fn create(session: &Session, request: BackUp) -> Result<Exit> {
    let recovery = session.open().await?;
    let options = chom_recovery::recovery::RunOptions {
        operator: Some(login_name()),
        cancellation: CancellationToken::new(),
        ..Default::default()
    };
    let going = recovery.back_up(request, options).await?;
    watch(session, &recovery, going).await
}

impl From<CompressionChoice> for Compression {
    fn from(choice: CompressionChoice) -> Self {
        match choice {
            CompressionChoice::Zstd => Self::Zstd,
            CompressionChoice::Gzip => Self::Gzip,
        }
    }
}

impl From<KindChoice> for DatabaseKind {
    fn from(choice: KindChoice) -> Self {
        match choice {
            KindChoice::Logical => Self::Logical,
            KindChoice::Physical => Self::Physical,
        }
    }
}

impl From<Depth> for Level {
    fn from(depth: Depth) -> Self {
        match depth {
            Depth::L1 => Self::L1,
            Depth::L2 => Self::L2,
            Depth::L3 => Self::L3,
        }
    }
}

fn components(info: &BackupInfo) -> String {
    let is_files = |name: &chom_recovery::catalog::Name| {
        name.as_str() == DATABASE && info.database_kind == Some(ComponentKind::Physical)
    };
    let one = |name| {
        let kind = if is_files(name) { " (physical)" } else { "" };
        format!("{name}{kind}{}", if info.incomplete.contains(name) { " (INCOMPLETE)" } else { "" })
    };
    info.components.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn tags(info: &BackupInfo) -> String {
    info.tags.iter().map(chom_recovery::catalog::Name::as_str).collect::<Vec<_>>().join(",")
}

/// What else a list has to say of a backup.
fn marks(info: &BackupInfo) -> String {
    let mut marks = vec![tags(info)];
    if !info.holds.is_empty() {
        marks.push("HELD".into());
    }
    if info.is_salvaged {
        marks.push("SALVAGED".into());
    }
    if info.tombstone.is_some() {
        marks.push("TO BE DELETED".into());
    }
    if !info.missing_sources.is_empty() {
        marks.push("SOURCE GONE".into());
    }
    marks.retain(|mark| !mark.is_empty());
    marks.join(" ")
}

/// How deep it was verified, and how long ago.
fn level(info: &BackupInfo, now: DateTime<Utc>) -> Cell {
    let ago = info.verified.and_then(|at| (now - at).to_std().ok()).map(human::duration);
    let ago = ago.map_or_else(String::new, |ago| format!(" {ago} ago"));
    match info.level {
        // Stored bytes as they were written, each part decoded before: what a host without an identity can prove.
        Some(Level::L1) if info.decoded_when_written => {
            Cell::new(format!("L1{ago}, decoded when written")).fg(Color::Green)
        }
        Some(level) => Cell::new(format!("{level:?}{ago}")).fg(Color::Green),
        None => Cell::new("NOT VERIFIED").fg(Color::Yellow),
    }
}

fn print_list(output: &Output, listing: &Listing) {
    if listing.backups.is_empty() && listing.damaged.is_empty() {
        output.line(format!("no backups of system {}: chom-recovery backup create", listing.system));
    } else {
        let mut table = output.table(&["BACKUP", "DATA OF", "AGE", "SIZE", "VERIFIED", "COMPONENTS", "SERVER", "TAGS"]);
        for info in &listing.backups {
            let server = info.database.as_ref().map_or_else(String::new, |d| d.version.clone());
            table.add_row([
                Cell::new(info.id()),
                Cell::new(human::time(info.point)),
                Cell::new(human::duration(info.age(listing.now))),
                Cell::new(human::bytes(info.stored_len)),
                level(info, listing.now),
                Cell::new(components(info)),
                Cell::new(server),
                Cell::new(marks(info)),
            ]);
        }
        for damaged in &listing.damaged {
            table.add_row([
                Cell::new(damaged.place.id),
                Cell::new(""),
                Cell::new(""),
                Cell::new(""),
                Cell::new("DAMAGED").fg(Color::Red),
                Cell::new(""),
                Cell::new(""),
                Cell::new(&damaged.error.message),
            ]);
        }
        output.line(table.trim_fmt());
    }
    for problem in &listing.problems {
        output.say(format!("a part could not be listed: {}", problem.message));
    }
}

fn print_one(output: &Output, info: &BackupInfo) {
    let mut table = output.table(&[]);
    let mut row = |name: &str, text: String| {
        table.add_row([name.to_owned(), text]);
    };
    row("backup", info.id().to_string());
    row("system", info.system().to_string());
    row("host", info.host().to_string());
    row("data of", human::time(info.point));
    row("complete", human::time(info.committed));
    row("size", format!("{} stored, {} plain", human::bytes(info.stored_len), human::bytes(info.plain_len)));
    row("components", components(info));
    if let Some(database) = &info.database {
        row("server", format!("{:?} {}", database.flavour, database.version));
        if let Some(position) = &database.position {
            row("position", format!("{} {}", position.file, position.offset));
        }
        if let Some(gtids) = &database.gtid_set {
            row("gtid set", gtids.clone());
        }
    }
    row("tags", tags(info));
    let verified = match (info.level, info.verified) {
        (Some(Level::L1), Some(at)) if info.decoded_when_written => {
            format!("L1 at {}; each part was decoded before it was stored", human::time(at))
        }
        (Some(level), Some(at)) => format!("{level:?} at {}", human::time(at)),
        (None, Some(at)) => format!("FAILED at {}", human::time(at)),
        _ => "never".into(),
    };
    row("verified", verified);
    row("signer", info.signer.to_string());
    for recipient in &info.recipients {
        row("can be read by", recipient.to_string());
    }
    for source in &info.sources {
        let is_gone = info.missing_sources.contains(source);
        row("parts from", format!("{source}{}", if is_gone { ", which is GONE" } else { "" }));
    }
    for hold in &info.holds {
        let reason = hold.reason.as_deref().unwrap_or("its record cannot be read");
        row("held", format!("{} by {}: {reason}", hold.id, hold.by.as_deref().unwrap_or("?")));
    }
    if let Some(tombstone) = &info.tombstone {
        row("to be deleted", format!("since {}: {}", human::time(tombstone.since), tombstone.reason));
    }
    for warning in &info.warnings {
        row("warning", warning.clone());
    }
    if let Some(damage) = &info.manifest_damage {
        row("damage", damage.message.clone());
    }
    output.line(table.trim_fmt());
}

fn print_verification(output: &Output, report: &VerifyReport) {
    let palette = output.palette();
    let verdict = if report.passed() { palette.green("PASSED") } else { palette.red("FAILED") };
    let took = (report.ended - report.begun).to_std().unwrap_or_default();
    output.line(format!(
        "{verdict} {:?}: backup {}, {} parts, {} in {}",
        report.level,
        report.backup,
        report.parts,
        human::bytes(report.stored_len),
        human::duration(took)
    ));
    for finding in &report.findings {
        let part = finding.part.map_or_else(|| "index".into(), |n| format!("part {n}"));
        output.line(format!("  {} {part}: {}", finding.component, finding.error.message));
    }
    if let Some(more) = report.findings_total.checked_sub(report.findings.len() as u64).filter(|n| *n > 0) {
        output.line(format!("  and {more} more"));
    }
}

fn print_copies(output: &Output, report: &CopyReport) {
    for one in &report.copied {
        let verdict = match (one.verification.passed(), one.recorded) {
            (true, true) => "read back",
            (true, false) => "read back; this host has no signing key to record it with",
            (false, _) => "DAMAGED in the copy",
        };
        let (objects, bytes) = (one.copied.objects, human::bytes(one.copied.bytes));
        output.line(format!("copied {}: {objects} objects, {bytes}, {verdict}", one.copied.backup));
    }
    for one in &report.failed {
        output.line(format!("NOT copied {}: {}", one.backup, one.error.message));
    }
    if report.copied.is_empty() && report.failed.is_empty() {
        output.line(format!("nothing to copy: {} backups are there", report.present));
    }
}

fn print_status(output: &Output, status: &BackupStatus) {
    let age = status.age_s.map_or_else(|| "-".into(), |s| human::duration(Duration::from_secs(s)));
    output.line(format!(
        "{}: newest {}, age {age}, allowed {}, {} usable",
        output.palette().status(status.status),
        status.newest.as_ref().map_or_else(|| "none".into(), |b| b.id().to_string()),
        human::duration(Duration::from_secs(status.allowed_age_s)),
        status.usable
    ));
    if let Some(copy) = status.copy.as_ref().filter(|copy| copy.error.is_none()) {
        let newest = copy.newest.map_or_else(|| "none".into(), |id| id.to_string());
        output.line(format!("  copy: newest {newest}, {} usable", copy.usable));
    }
    if let Some(warm) = status.warm.as_ref().filter(|warm| warm.is_kept) {
        output.line(format!("  unpacked on the host: {}", warm.backup));
    }
    for finding in &status.findings {
        output.line(format!("  {finding}"));
    }
}
