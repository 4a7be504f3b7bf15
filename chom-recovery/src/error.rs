//! One error type for the whole crate: match on [`ErrorKind`], read the rest.

use std::{error::Error as StdError, fmt};

use serde::{Deserialize, Serialize};

use crate::secret;

/// What went wrong, as far as a caller can act on it.
///
/// The list is open: treat an unknown kind as [`ErrorKind::Failed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The work was done and did not succeed.
    Failed,
    /// An argument, a file or a request is not of the right form.
    InvalidInput,
    /// Only a part of the work succeeded; what is missing is named.
    Incomplete,
    /// A check ran and its answer is bad.
    Unhealthy,
    /// A person has to confirm, approve or attest something first.
    NeedsConfirmation,
    /// Something the work relies on is missing: disk space, a version, a secret.
    Precondition,
    /// No space, inodes or quota left.
    NoSpace,
    /// Bytes differ from what was promised: hash, length, signature, trailer.
    Corrupt,
    /// The named thing does not exist.
    NotFound,
    /// The named thing exists already and must not be overwritten.
    AlreadyExists,
    /// Another run, host or process holds it.
    Locked,
    /// The world or an input changed since it was recorded.
    Conflict,
    /// Credentials were refused.
    Authentication,
    /// A daemon, host or store did not answer.
    Unreachable,
    /// A deadline passed.
    Timeout,
    /// An effect may or may not have happened; only idempotent work is repeated after it.
    OutcomeUnknown,
    /// The caller asked to stop.
    Cancelled,
    /// A person or a policy said no.
    Denied,
    /// It is kept on purpose until a time, by an object lock or a hold; nothing is wrong.
    Retained,
    /// Planning reached an effect whose result cannot be predicted; unwinds by `?`.
    PlanBoundary,
    /// This build, server or engine cannot do it.
    Unsupported,
}

impl ErrorKind {
    /// Returns the stable code that JSON output and documentation use.
    pub fn code(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::InvalidInput => "invalid_input",
            Self::Incomplete => "incomplete",
            Self::Unhealthy => "unhealthy",
            Self::NeedsConfirmation => "needs_confirmation",
            Self::Precondition => "precondition",
            Self::NoSpace => "no_space",
            Self::Corrupt => "corrupt",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Locked => "locked",
            Self::Conflict => "conflict",
            Self::Authentication => "authentication",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Cancelled => "cancelled",
            Self::Denied => "denied",
            Self::Retained => "retained",
            Self::PlanBoundary => "plan_boundary",
            Self::Unsupported => "unsupported",
        }
    }

    /// Tells whether the same call may succeed later without anybody changing anything.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Unreachable | Self::Timeout | Self::Locked)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// The crate's error: a kind, what was being done, what is wrong, and what to do next.
///
/// Messages are scrubbed of every secret that this process resolved.
///
/// # Examples
/// ```
/// use chom_recovery::{Error, ErrorKind};
/// let error = Error::new(ErrorKind::Precondition, "cannot restore into volume `db_data`: it is not empty")
///     .with("volume", "db_data")
///     .hint("restore beside it and swap");
/// assert_eq!(error.kind(), ErrorKind::Precondition);
/// assert!(error.to_string().contains("not empty"));
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    context: Vec<(String, String)>,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Makes an error from its kind and a lower-case message that names the object and the rule broken.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: secret::scrub(&message.into()),
            context: Vec::new(),
            hint: None,
            source: None,
        }))
    }

    /// Adds a fact that a reader may need: a path, a container, a count.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl fmt::Display) -> Self {
        self.0.context.push((key.into(), secret::scrub(&value.to_string())));
        self
    }

    /// Sets the next safe action.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(secret::scrub(&hint.into()));
        self
    }

    /// Keeps the error that caused this one. Its text is scrubbed, its type is not public.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let source = source.into();
        self.0.source = Some(Box::new(Scrubbed::of(source.as_ref())));
        self
    }

    /// Puts what was being done in front of the message.
    #[must_use]
    pub fn during(mut self, operation: impl fmt::Display) -> Self {
        self.0.message = secret::scrub(&format!("{operation}: {}", self.0.message));
        self
    }

    /// Changes the kind, for a caller who knows better what the failure means.
    #[must_use]
    pub fn of_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Returns the kind to match on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the message without causes.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the next safe action, where one is known.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Returns the facts attached to this error, in the order in which they were added.
    pub fn context(&self) -> &[(String, String)] {
        &self.0.context
    }

    /// Returns a plain record for journals and reports.
    pub fn to_record(&self) -> ErrorRecord {
        let mut causes = Vec::new();
        let mut next = self.source();
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        ErrorRecord {
            kind: self.kind(),
            message: self.0.message.clone(),
            context: self.0.context.clone(),
            hint: self.0.hint.clone(),
            causes,
        }
    }
}

/// The serialisable form of an [`Error`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorRecord {
    /// What went wrong.
    pub kind: ErrorKind,
    /// Message, scrubbed.
    pub message: String,
    /// Facts, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<(String, String)>,
    /// Next safe action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Texts of the causes, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
}

impl From<ErrorRecord> for Error {
    fn from(record: ErrorRecord) -> Self {
        let mut error = Self::new(record.kind, record.message);
        error.0.context = record.context;
        error.0.hint = record.hint;
        error.0.source = Scrubbed::chain(record.causes).map(|s| Box::new(s) as _);
        error
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if !self.0.context.is_empty() {
            f.write_str(" (")?;
            for (i, (key, value)) in self.0.context.iter().enumerate() {
                if i > 0 {
                    f.write_str(", ")?;
                }
                write!(f, "{key}: {value}")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("context", &self.0.context)
            .field("hint", &self.0.hint)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|s| &**s as _)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match error.kind() {
            Io::NotFound => ErrorKind::NotFound,
            Io::AlreadyExists => ErrorKind::AlreadyExists,
            Io::StorageFull | Io::QuotaExceeded => ErrorKind::NoSpace,
            Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Precondition,
            Io::TimedOut => ErrorKind::Timeout,
            Io::ConnectionRefused | Io::HostUnreachable | Io::NetworkUnreachable => ErrorKind::Unreachable,
            Io::UnexpectedEof | Io::InvalidData => ErrorKind::Corrupt,
            _ => ErrorKind::Failed,
        };
        // An error of ours that passed through an `io` interface comes out again as it was.
        match error.downcast::<Error>() {
            Ok(ours) => ours,
            Err(error) => Self::new(kind, error.to_string()),
        }
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

/// A cause whose text had its secrets removed; the original error is not kept, since it may hold them.
#[derive(Debug)]
struct Scrubbed {
    text: String,
    source: Option<Box<Scrubbed>>,
}

impl Scrubbed {
    fn of(error: &(dyn StdError + 'static)) -> Self {
        let mut texts = vec![secret::scrub(&error.to_string())];
        let mut next = error.source();
        while let Some(cause) = next {
            texts.push(secret::scrub(&cause.to_string()));
            next = cause.source();
        }
        Self::chain(texts).unwrap_or(Self { text: String::new(), source: None })
    }

    fn chain(texts: Vec<String>) -> Option<Self> {
        let mut chain = None;
        for text in texts.into_iter().rev() {
            chain = Some(Self { text, source: chain.map(Box::new) });
        }
        chain
    }
}

impl fmt::Display for Scrubbed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Scrubbed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|s| &**s as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_and_back_keeps_kind_text_and_causes() {
        let error = Error::new(ErrorKind::Corrupt, "part 3 is short")
            .with("want", 10)
            .hint("read the second copy")
            .caused_by(std::io::Error::other("early end"));
        let record = error.to_record();
        let again = Error::from(record.clone()).to_record();
        assert_eq!(record, again);
        assert_eq!(record.causes, ["early end"]);
    }

    #[test]
    fn an_error_survives_the_way_through_io() {
        let io: std::io::Error = Error::new(ErrorKind::Locked, "held by another run").into();
        assert_eq!(Error::from(io).kind(), ErrorKind::Locked);
    }

    #[test]
    fn secrets_do_not_reach_messages_context_or_causes() {
        let secret = secret::Secret::new("tr0ub4dor-and-3");
        let error = Error::new(ErrorKind::Failed, format!("login with {} failed", secret.expose()))
            .with("argv", format!("-p{}", secret.expose()))
            .caused_by(std::io::Error::other(format!("denied: {}", secret.expose())));
        let text = format!("{error} {error:?} {:?}", error.to_record());
        assert!(!text.contains("tr0ub4dor"), "{text}");
        assert!(text.contains("[redacted]"));
    }
}
