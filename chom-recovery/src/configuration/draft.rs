//! Drafts a configuration from a running Compose project.

use std::{
    io::Write,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    backend::Backend,
    error::{Error, ErrorKind, Result},
    system::{Compose, System},
};

mod look;
mod text;

/// What is known beforehand; everything else is guessed from what runs.
#[derive(Debug, Clone, Default)]
pub struct DraftRequest {
    /// Compose project and Engine.
    pub compose: Compose,
    /// URL of the repository.
    pub repository: Option<String>,
    /// State directory.
    pub state_dir: Option<PathBuf>,
    /// File with the password of the database account.
    pub database_password_file: Option<PathBuf>,
    /// URL that answers 200 when the application works.
    pub url: Option<String>,
    /// CA certificates to trust for it, besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Address to connect to instead of what the URL's name resolves to.
    pub connect_to: Option<SocketAddr>,
}

/// A configuration that a person has to look through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The file, with comments.
    pub text: String,
    /// What was guessed, and from what.
    pub guessed: Vec<String>,
    /// What has to be filled in before it will do.
    pub missing: Vec<String>,
}

/// Drafts a configuration from a running Compose project.
///
/// # Errors
/// `NotFound`: the project has no containers, or none that looks like MySQL or MariaDB.
pub async fn draft(backend: &Arc<dyn Backend>, request: &DraftRequest) -> Result<Draft> {
    let found = look::look(backend, request).await?;
    let text = text::write(&request.compose, &found);
    // What is written has to be readable, whatever the names in the project are.
    System::parse(&text).map_err(|e| e.during("the draft cannot be used (this is a bug)"))?;
    Ok(Draft { text, guessed: found.guessed, missing: found.missing })
}

impl Draft {
    /// Writes the draft to a new file that only its owner can read.
    ///
    /// # Errors
    /// `AlreadyExists`: there is a file; it stays as it is.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|e| {
                let error = Error::from(e).during(format!("cannot write `{}`", path.display()));
                match error.kind() {
                    ErrorKind::AlreadyExists => error.hint("give another `--output`; no file is ever overwritten"),
                    _ => error,
                }
            })?;
        let written = file.write_all(self.text.as_bytes()).and_then(|()| file.sync_all());
        if let Err(error) = written {
            // Half a configuration would be found and used.
            let _ = std::fs::remove_file(path);
            return Err(Error::from(error).during(format!("cannot write `{}`", path.display())));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
