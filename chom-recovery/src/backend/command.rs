//! Commands in containers, and the logs of containers: what is asked for, and what comes back.

use std::fmt;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind, Result},
    stream::ByteStream,
};

/// A command to run in a container. Secrets go through `stdin`, never through `argv` or `env`.
#[derive(Default)]
pub struct ExecRequest {
    /// Program and arguments; no shell.
    pub argv: Vec<String>,
    /// Additional environment, visible to everybody who can inspect the container.
    pub env: Vec<(String, String)>,
    /// User, in the Engine's form (`uid[:gid]` or name).
    pub user: Option<String>,
    /// Standard input; closed after its end. `None` is an empty input.
    pub stdin: Option<ByteStream>,
}

impl fmt::Debug for ExecRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecRequest").field("argv", &self.argv).field("user", &self.user).finish_non_exhaustive()
    }
}

impl ExecRequest {
    /// Makes a request for a program with arguments.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Sets the user.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Sets the standard input.
    #[must_use]
    pub fn stdin(mut self, stdin: ByteStream) -> Self {
        self.stdin = Some(stdin);
        self
    }
}

/// A running command: its output, then exactly one [`ExecOutput::Exited`] as the last item.
///
/// A stream that ends without it was cut, and ends with an `Err` item of kind `Corrupt` or `OutcomeUnknown`.
/// The Engine has been seen to lose output bytes without any error, so what the output means must be checked by its
/// own trailer, count or hash.
///
/// Dropping it does not end the command: the Engine cannot kill it.
pub type Exec = futures::stream::BoxStream<'static, Result<ExecOutput>>;

/// An item of [`Exec`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutput {
    /// Bytes of standard output.
    Stdout(Bytes),
    /// Bytes of standard error.
    Stderr(Bytes),
    /// The command ended with this code, and all that the Engine had of its output came before.
    Exited(i64),
}

/// Everything a short command printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecResult {
    /// Exit code.
    pub exit_code: i64,
    /// Standard output.
    pub stdout: Bytes,
    /// Standard error.
    pub stderr: Bytes,
}

impl ExecResult {
    /// Returns the result when the command succeeded.
    ///
    /// # Errors
    /// `Failed`, with the end of what it printed.
    pub fn success(self, what: &str) -> Result<Self> {
        if self.exit_code == 0 {
            return Ok(self);
        }
        let text = String::from_utf8_lossy(if self.stderr.is_empty() { &self.stdout } else { &self.stderr });
        let tail: String = text.trim_end().chars().rev().take(800).collect::<Vec<_>>().into_iter().rev().collect();
        Err(Error::new(ErrorKind::Failed, format!("{what} ended with exit code {}", self.exit_code))
            .with("output", tail))
    }
}

/// Which part of a log to read.
#[derive(Debug, Clone, Default)]
pub struct LogRequest {
    /// Only lines at or after this time.
    pub since: Option<DateTime<Utc>>,
    /// Only so many lines from the end.
    pub tail: Option<usize>,
}

/// Lines of a log.
pub type LogStream = futures::stream::BoxStream<'static, Result<LogLine>>;

/// A line of a container's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Time at which the Engine received it.
    pub at: Option<DateTime<Utc>>,
    /// Whether it came from standard error.
    pub is_stderr: bool,
    /// Text without line end; bytes that are not UTF-8 are replaced.
    pub text: String,
}
