//! What goes wrong between us and an sftp server, and what it means for a caller.

use openssh_sftp_client_lowlevel::{Error as Protocol, SftpErrorKind};

use crate::error::{Error, ErrorKind};

/// A failed request.
#[derive(Debug)]
pub(super) enum Failure {
    /// No such file or folder.
    Absent,
    /// The server does not let this account do it.
    Forbidden(String),
    /// `SSH_FX_FAILURE`: it went wrong, and the protocol has no word for why; a full disk is one reason.
    Unexplained(String),
    /// The server does not know the request.
    Unknown(String),
    /// The connection is gone; whether a request that was under way took effect is unknown.
    Lost(Error),
}

impl From<Protocol> for Failure {
    fn from(error: Protocol) -> Self {
        match error {
            Protocol::SftpError(kind, message) => {
                let said = message.get().0.to_owned();
                match kind {
                    SftpErrorKind::NoSuchFile => Self::Absent,
                    SftpErrorKind::PermDenied => Self::Forbidden(said),
                    SftpErrorKind::OpUnsupported => Self::Unknown(said),
                    _ => Self::Unexplained(said),
                }
            }
            other => Self::Lost(
                Error::new(ErrorKind::Unreachable, "the sftp connection ended or does not speak sftp").caused_by(other),
            ),
        }
    }
}

impl Failure {
    /// Makes an error of it; `what` names the work and its object.
    pub(super) fn during(self, what: impl std::fmt::Display) -> Error {
        let told = |kind, said: String| Error::new(kind, format!("{what}: the sftp server says: {said}"));
        match self {
            Self::Absent => Error::new(ErrorKind::NotFound, format!("{what}: there is no such file or folder")),
            Self::Forbidden(said) => told(ErrorKind::Precondition, said)
                .hint("the account has no permission for it, or the server is read-only; see who owns the folder"),
            Self::Unexplained(said) => {
                told(ErrorKind::Failed, said).hint("the server's own log knows more; a quota is one reason")
            }
            Self::Unknown(said) => told(ErrorKind::Unsupported, said),
            Self::Lost(error) => error.during(what),
        }
    }
}
