//! Drafts a configuration from a running Compose project.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::write_new;
use crate::{
    backend::Backend,
    error::Result,
    system::{Compose, System},
};

mod look;
mod monitoring;
mod text;
mod trees;

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
        write_new(path, &self.text)
    }
}

#[cfg(test)]
mod tests;
