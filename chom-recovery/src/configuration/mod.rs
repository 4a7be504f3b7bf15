//! The configuration file: where it is found, how one is drafted from a running project, what it takes to be right.

use std::{io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use crate::error::{Error, ErrorKind, Result};

mod check;
mod draft;
mod find;
mod pin;
mod recall;
mod schedule;

pub use check::{CheckLine, CheckReport, Verdict, check};
pub use draft::{Draft, DraftRequest, draft};
pub use find::{FILE_NAME, Places, find};
pub use pin::{pin_recipients, pin_signer};
pub use recall::{RecallRequest, Recalled, recall};
pub use schedule::{ScheduleRequest, Unit, Units, schedule};

/// Writes a new file that only its owner can read.
///
/// # Errors
/// `AlreadyExists`: there is a file; it stays as it is.
fn write_new(path: &Path, text: &str) -> Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|e| {
        let error = Error::from(e).during(format!("cannot write `{}`", path.display()));
        match error.kind() {
            ErrorKind::AlreadyExists => error.hint("give another `--output`; no file is ever overwritten"),
            _ => error,
        }
    })?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // Half a configuration would be found and used.
        let _ = std::fs::remove_file(path);
        return Err(Error::from(error).during(format!("cannot write `{}`", path.display())));
    }
    Ok(())
}
