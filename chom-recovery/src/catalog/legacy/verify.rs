//! Reads legacy backups to their end.

use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::{ArchiveContents, LegacyBackup, LegacyCatalog, LegacyKind, ToldBy, archive, name};
use crate::{
    catalog::Level,
    error::{Error, ErrorKind, Result},
    mysql::sqlfile::{self, Completion, Contents, Limits, SqlFile, Stored},
    store::pipe,
};

/// How far name and content may be apart before a person should know.
const APART: TimeDelta = TimeDelta::hours(24);

/// What a legacy backup was found to hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LegacyContents {
    /// A dump.
    Dump(Box<Contents>),
    /// An archive of files.
    Archive(ArchiveContents),
    /// It could not be read at all.
    Unreadable,
}

/// What reading a legacy backup to its end found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LegacyReport {
    /// The backup, with its time corrected by its content.
    #[serde(flatten)]
    pub backup: LegacyBackup,
    /// How deep it was read: [`Level::L2`], decompressed and parsed to the end. Only a load proves more.
    pub level: Level,
    /// Begin.
    pub begun: DateTime<Utc>,
    /// End.
    pub ended: DateTime<Utc>,
    /// The file as stored; `None`: it could not be read to its end.
    pub stored: Option<Stored>,
    /// What it holds.
    pub contents: LegacyContents,
    /// What is wrong; empty for a sound one.
    pub findings: Vec<String>,
}

impl LegacyReport {
    /// Tells whether nothing was wrong.
    pub fn passed(&self) -> bool {
        self.findings.is_empty()
    }

    /// Returns the dump, if it is a sound one.
    ///
    /// # Errors
    /// `Corrupt`: something is wrong with it. `Unsupported`: it is no dump.
    pub fn into_dump(self) -> Result<(LegacyBackup, SqlFile)> {
        if let Some(first) = self.findings.first() {
            return Err(Error::new(ErrorKind::Corrupt, format!("{} is damaged", self.backup.name()))
                .with("findings", self.findings.len())
                .with("first", first)
                .hint("restore another backup: `chom-recovery backup list` shows them"));
        }
        match (self.contents, self.stored) {
            (LegacyContents::Dump(contents), Some(stored)) => {
                Ok((self.backup, SqlFile { stored, contents: *contents }))
            }
            _ => Err(Error::new(ErrorKind::Unsupported, format!("{} is no dump of a database", self.backup.name()))),
        }
    }
}

impl LegacyCatalog {
    /// Reads a backup to its end: decompresses and parses every byte. What is wrong is a finding, not an error.
    ///
    /// `progress` gets stored bytes done and in all.
    ///
    /// # Errors
    /// Only where nothing can be said of the backup.
    pub async fn verify(
        &self,
        backup: &LegacyBackup,
        progress: impl Fn(u64, u64) + Send + 'static,
    ) -> Result<LegacyReport> {
        let begun = Utc::now();
        let zone = self.settings().zone()?;
        let mut report = LegacyReport {
            backup: backup.clone(),
            level: Level::L2,
            begun,
            ended: begun,
            stored: None,
            contents: LegacyContents::Unreadable,
            findings: Vec::new(),
        };
        let path = self.path(backup);
        let read = if backup.kind == LegacyKind::Database {
            sqlfile::read(&path, self.limits(), progress).await.map(|file| report.take_dump(file, zone))
        } else {
            let read = pipe::blocking(move || archive::read(&path, &progress)).await;
            read.map(|(contents, stored)| report.take_archive(contents, stored))
        };
        match read {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
                report.findings.push(e.message().to_owned());
            }
            Err(e) => return Err(e),
        }
        report.ended = Utc::now();
        Ok(report)
    }
}

impl LegacyReport {
    fn take_dump(&mut self, file: SqlFile, zone: Tz) {
        let contents = file.contents;
        self.findings = contents.problems.iter().map(|p| format!("byte {}: {}", p.offset, p.text)).collect();
        let more = contents.problems_total.saturating_sub(contents.problems.len() as u64);
        if more > 0 {
            self.findings.push(format!("and {more} more"));
        }
        let backup = &mut self.backup;
        backup.plain_len = Some(contents.plain_bytes);
        backup.warnings.extend(contents.notes.iter().map(|note| note.text.clone()));
        if contents.completion == Completion::Settings {
            backup.warnings.push("it has no trailer; restored settings at its end show that it is whole".into());
        }
        if let Completion::Trailer(Some(local)) = contents.completion {
            let (ended, note) = name::moment(local, zone);
            backup.warnings.extend(note);
            correct(backup, ended);
        }
        backup.warnings.dedup();
        self.stored = Some(file.stored);
        self.contents = LegacyContents::Dump(Box::new(contents));
    }

    fn take_archive(&mut self, contents: ArchiveContents, stored: Stored) {
        if contents.entries == 0 {
            self.findings.push("the archive is empty".into());
        }
        let odd = contents.suspicious.iter().map(|entry| format!("a careful restore would not take {entry}"));
        self.backup.warnings.extend(odd);
        self.backup.plain_len = Some(contents.plain_bytes);
        if let (Some(newest), ToldBy::File) = (contents.newest, self.backup.told_by) {
            (self.backup.point, self.backup.told_by) = (newest, ToldBy::Content);
        }
        self.stored = Some(stored);
        self.contents = LegacyContents::Archive(contents);
    }
}

/// Corrects the time of a dump by the time at which it ended. A dump shows the data of its begin, which a name tells
/// and a trailer does not.
fn correct(backup: &mut LegacyBackup, ended: DateTime<Utc>) {
    if backup.told_by != ToldBy::Name {
        backup.warnings.retain(|w| !w.contains("own time"));
        backup.warnings.push("its time is that of its end: the data is older by as long as it took".into());
        (backup.point, backup.told_by) = (ended, ToldBy::Content);
    } else if ended < backup.point {
        backup.warnings.push(format!(
            "its name says {}, its trailer {}: the earlier counts",
            backup.point.format("%F %T UTC"),
            ended.format("%F %T UTC"),
        ));
        (backup.point, backup.told_by) = (ended, ToldBy::Content);
    } else if ended - backup.point > APART {
        backup.warnings.push(format!(
            "its trailer is of {}, {} h after its name: was it renamed?",
            ended.format("%F %T UTC"),
            (ended - backup.point).num_hours(),
        ));
    }
}

/// Reads a file for the time that its content tells. A blocking call.
pub(super) fn content_time(
    path: &Path,
    kind: LegacyKind,
    limits: Limits,
    zone: Tz,
) -> Option<(DateTime<Utc>, Option<String>)> {
    if kind != LegacyKind::Database {
        return archive::read(path, &|_, _| {}).ok()?.0.newest.map(|time| (time, None));
    }
    match sqlfile::read_now(path, limits, &|_, _| {}).ok()?.contents.completion {
        Completion::Trailer(Some(local)) => Some(name::moment(local, zone)),
        _ => None,
    }
}
