//! Finds what there is.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::{LatestLink, LegacyBackup, LegacyCatalog, LegacyKind, LegacyListing, ToldBy, name, verify};
use crate::{
    error::{Error, ErrorKind, Result},
    store::pipe,
};

/// A file whose name tells no time is read for one up to this size, in bytes, when it is listed.
const READ_TO_LIST: u64 = 32 << 20;

const FOLDERS: [(&str, LegacyKind, bool); 6] = [
    ("mysql", LegacyKind::Database, false),
    ("mysql/incremental", LegacyKind::Database, true),
    ("app", LegacyKind::Application, false),
    ("config", LegacyKind::Configuration, false),
    ("ssl", LegacyKind::Certificates, false),
    ("volumes", LegacyKind::Volumes, false),
];

impl LegacyCatalog {
    /// Lists the directory. Files are not judged: see [`LegacyCatalog::verify`].
    ///
    /// # Errors
    /// `NotFound`: the directory is not there.
    pub async fn list(&self) -> Result<LegacyListing> {
        let this = self.clone();
        pipe::blocking(move || this.list_now()).await
    }

    fn list_now(&self) -> Result<LegacyListing> {
        let directory = self.directory();
        if !directory.is_dir() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("the directory of legacy backups `{}` is not there", directory.display()),
            )
            .hint("correct `legacy.directory`, or mount it"));
        }
        let zone = self.settings().zone()?;
        let mut listing = LegacyListing {
            directory: directory.to_owned(),
            backups: Vec::new(),
            links: Vec::new(),
            problems: Vec::new(),
        };
        for (folder, kind, is_increment) in FOLDERS {
            let entries = match fs::read_dir(directory.join(folder)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => {
                    listing.problems.push(Error::from(e).during(format!("cannot list `{folder}`")).to_record());
                    continue;
                }
                Ok(entries) => entries,
            };
            for entry in entries {
                let found = entry.map_err(Error::from).and_then(|entry| {
                    let file = entry.file_name().to_string_lossy().into_owned();
                    if !is_backup(&file, kind) {
                        return Ok(());
                    }
                    let relative = format!("{folder}/{file}");
                    if entry.file_type()?.is_symlink() {
                        listing.links.push(link(directory, &entry.path(), relative));
                    } else if entry.file_type()?.is_file() {
                        listing.backups.push(self.describe(&entry.path(), relative, kind, is_increment, zone)?);
                    }
                    Ok(())
                });
                if let Err(error) = found {
                    listing.problems.push(error.during(format!("a file of `{folder}`")).to_record());
                }
            }
        }
        listing.backups.sort_by(|a, b| (a.point, &a.legacy).cmp(&(b.point, &b.legacy)));
        listing.links.sort_by(|a, b| a.link.cmp(&b.link));
        mark_stale(&mut listing);
        Ok(listing)
    }

    fn describe(
        &self,
        path: &Path,
        legacy: String,
        kind: LegacyKind,
        is_increment: bool,
        zone: Tz,
    ) -> Result<LegacyBackup> {
        let about = fs::metadata(path)?;
        let file_name = legacy.rsplit('/').next().unwrap_or(&legacy);
        let mut backup = LegacyBackup {
            kind,
            is_increment,
            point: about.modified().map(DateTime::<Utc>::from)?,
            told_by: ToldBy::File,
            stored_len: about.len(),
            plain_len: None,
            warnings: Vec::new(),
            legacy: legacy.clone(),
        };
        if let Some(named) = name::find(file_name) {
            (backup.point, backup.warnings) = told(named, zone);
            backup.told_by = ToldBy::Name;
        } else if about.len() <= READ_TO_LIST
            && let Some((time, note)) = verify::content_time(path, kind, self.limits(), zone)
        {
            backup.point = time;
            backup.told_by = ToldBy::Content;
            backup.warnings.extend(note);
        }
        if backup.told_by == ToldBy::File {
            backup.warnings.push("only the file's own time tells how old it is, which a copy may have changed".into());
        }
        if about.len() == 0 {
            backup.warnings.push("the file is empty".into());
        }
        Ok(backup)
    }
}

/// Turns what a name says into a moment, with what is doubtful about it.
fn told(named: name::Named, zone: Tz) -> (DateTime<Utc>, Vec<String>) {
    let (point, note) = if named.is_utc { (named.local.and_utc(), None) } else { name::moment(named.local, zone) };
    let mut notes: Vec<String> = note.into_iter().collect();
    if named.is_day {
        notes.push("its name tells only the day: the begin of that day is taken".into());
    }
    (point, notes)
}

fn is_backup(file: &str, kind: LegacyKind) -> bool {
    let ends: &[&str] = match kind {
        LegacyKind::Database => &[".sql", ".sql.gz", ".sql.zst"],
        _ => &[".tar", ".tar.gz", ".tgz", ".tar.zst"],
    };
    !file.starts_with('.') && ends.iter().any(|end| file.ends_with(end))
}

/// Judges a link; it is never followed out of the directory.
fn link(directory: &Path, path: &Path, link: String) -> LatestLink {
    let target = fs::read_link(path).unwrap_or_default();
    let problem = match path.canonicalize() {
        Err(_) => Some("it leads nowhere: the file that it names is gone".to_owned()),
        Ok(real) => {
            let home: PathBuf = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
            (!real.starts_with(&home)).then(|| "it leads out of the directory".to_owned())
        }
    };
    LatestLink { link, target: target.to_string_lossy().into_owned(), problem }
}

/// A link that calls an older file the latest is as bad as a broken one.
fn mark_stale(listing: &mut LegacyListing) {
    for link in listing.links.iter_mut().filter(|link| link.problem.is_none()) {
        let folder = link.link.rsplit_once('/').map_or("", |(folder, _)| folder);
        let target = link.target.rsplit('/').next().unwrap_or_default();
        let of_folder: Vec<_> =
            listing.backups.iter().filter(|b| b.legacy.rsplit_once('/').is_some_and(|(f, _)| f == folder)).collect();
        if let (Some(chosen), Some(newest)) =
            (of_folder.iter().find(|b| b.legacy.rsplit('/').next() == Some(target)), of_folder.last())
            && chosen.point < newest.point
        {
            link.problem = Some(format!("it is not the newest: that is `{}`", newest.legacy));
        }
    }
}
