//! Exit codes, all of them.

use std::process::ExitCode;

use chom_recovery::ErrorKind;

/// What the process ends with. The set is open: an unknown code other than 0 is a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    Incomplete = 3,
    Unhealthy = 4,
    NeedsConfirmation = 5,
    Precondition = 6,
    Corrupt = 7,
    NotFound = 10,
    Locked = 11,
    Authentication = 12,
    Unreachable = 13,
    Timeout = 14,
    OutcomeUnknown = 15,
    Interrupted = 130,
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidInput => Self::Usage,
            ErrorKind::Incomplete => Self::Incomplete,
            ErrorKind::Unhealthy => Self::Unhealthy,
            ErrorKind::NeedsConfirmation | ErrorKind::Denied => Self::NeedsConfirmation,
            ErrorKind::Precondition
            | ErrorKind::NoSpace
            | ErrorKind::AlreadyExists
            | ErrorKind::Conflict
            | ErrorKind::Retained
            | ErrorKind::Unsupported => Self::Precondition,
            ErrorKind::Corrupt => Self::Corrupt,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Locked => Self::Locked,
            ErrorKind::Authentication => Self::Authentication,
            ErrorKind::Unreachable => Self::Unreachable,
            ErrorKind::Timeout => Self::Timeout,
            ErrorKind::OutcomeUnknown => Self::OutcomeUnknown,
            ErrorKind::Cancelled => Self::Interrupted,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
