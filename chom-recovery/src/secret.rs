//! Secrets: where they come from, and the rule that they never go anywhere else.
//!
//! A [`Secret`] has no `Serialize`, prints as `[redacted]`, and is remembered (as bytes to look for) so that
//! [`scrub`] takes it out of every error, journal record and report this process writes.

use std::{
    collections::BTreeSet,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, RwLock},
};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";

/// Secrets shorter than this are not searched for: `root` would blank half of every log.
const SHORTEST_SCRUBBED: usize = 6;

static KNOWN: LazyLock<RwLock<BTreeSet<String>>> = LazyLock::new(RwLock::default);

/// A password, key or token.
///
/// # Examples
/// ```
/// use chom_recovery::secret::{Secret, scrub};
/// let secret = Secret::new("correct horse battery");
/// assert_eq!(format!("{secret:?}"), "[redacted]");
/// assert_eq!(scrub("login with correct horse battery"), "login with [redacted]");
/// ```
#[derive(Clone)]
pub struct Secret(Arc<SecretString>);

impl Secret {
    /// Wraps a value and registers it with [`scrub`].
    pub fn new(value: impl Into<String>) -> Self {
        let value = value.into();
        if value.len() >= SHORTEST_SCRUBBED {
            KNOWN.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(value.clone());
        }
        Self(Arc::new(value.into()))
    }

    /// Wraps a value that [`scrub`] is not to look for: what somebody chose may be a word that journals are full of.
    pub(crate) fn unsearched(value: impl Into<String>) -> Self {
        Self(Arc::new(value.into().into()))
    }

    /// Makes a one-time secret of 192 random bits.
    pub fn random() -> Self {
        Self::new(hex::encode(rand::random::<[u8; 24]>()))
    }

    /// Returns the value. Name it where it is used, never keep it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// Removes every secret that this process knows from `text`.
pub fn scrub(text: &str) -> String {
    let known = KNOWN.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut clean = text.to_owned();
    for secret in known.iter() {
        if clean.contains(secret.as_str()) {
            clean = clean.replace(secret.as_str(), REDACTED);
        }
    }
    clean
}

/// Where a secret is read from. Never argv, never the configuration itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SecretSource {
    /// A file that only its owner can read.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// The standard output of a command, given as an argument vector.
    Command(Vec<String>),
}

impl SecretSource {
    /// Reads the secret; one trailing line end is dropped.
    ///
    /// # Errors
    /// `Precondition`: the source is missing, empty, or a file that others can read.
    pub async fn resolve(&self) -> Result<Secret> {
        let text = match self {
            Self::File(path) => read_private(path).await?,
            Self::Env(name) => std::env::var(name).map_err(|_| {
                Error::new(ErrorKind::Precondition, format!("environment variable `{name}` is not set"))
                    .hint("set it, or name a file in chom-recovery.toml")
            })?,
            Self::Command(argv) => run(argv).await?,
        };
        let value = text.strip_suffix('\n').unwrap_or(&text);
        let value = value.strip_suffix('\r').unwrap_or(value);
        if value.is_empty() {
            return Err(Error::new(ErrorKind::Precondition, format!("secret from {self} is empty")));
        }
        Ok(Secret::new(value))
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file `{}`", path.display()),
            Self::Env(name) => write!(f, "environment variable `{name}`"),
            Self::Command(argv) => write!(f, "command `{}`", argv.first().map_or("", String::as_str)),
        }
    }
}

async fn read_private(path: &Path) -> Result<String> {
    use std::os::unix::fs::MetadataExt;
    let shown = path.display();
    let fail = |e: &io::Error| Error::new(ErrorKind::Precondition, format!("cannot read secret file `{shown}`: {e}"));
    let meta = tokio::fs::metadata(path).await.map_err(|e| fail(&e))?;
    if meta.mode() & 0o007 != 0 {
        return Err(Error::new(
            ErrorKind::Precondition,
            format!("secret file `{shown}` can be read by everybody (mode {:04o})", meta.mode() & 0o7777),
        )
        .hint(format!("chmod 600 {shown}")));
    }
    tokio::fs::read_to_string(path).await.map_err(|e| fail(&e))
}

async fn run(argv: &[String]) -> Result<String> {
    let (program, args) =
        argv.split_first().ok_or_else(|| Error::new(ErrorKind::InvalidInput, "a secret's command is an empty list"))?;
    let output = tokio::process::Command::new(program)
        .args(args)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| Error::new(ErrorKind::Precondition, format!("cannot run `{program}` for a secret: {e}")))?;
    if !output.status.success() {
        return Err(Error::new(
            ErrorKind::Precondition,
            format!("`{program}`, asked for a secret, ended with {}", output.status),
        ));
    }
    String::from_utf8(output.stdout)
        .map_err(|_| Error::new(ErrorKind::Precondition, format!("`{program}` gave a secret that is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_world_readable_file_is_refused_with_the_cure() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "hunter2-hunter2\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = SecretSource::File(path.clone()).resolve().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition);
        assert!(error.hint_text().unwrap().starts_with("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(SecretSource::File(path).resolve().await.unwrap().expose(), "hunter2-hunter2");
    }

    #[tokio::test]
    async fn a_command_that_fails_is_not_an_empty_secret() {
        let source = SecretSource::Command(vec!["false".into()]);
        assert_eq!(source.resolve().await.unwrap_err().kind(), ErrorKind::Precondition);
        let source = SecretSource::Command(vec!["printf".into(), "from-a-command".into()]);
        assert_eq!(source.resolve().await.unwrap().expose(), "from-a-command");
    }
}
