//! The one place where errors of the Engine's client become ours.

use std::{error::Error as StdError, fmt, future::Future, time::Duration};

use bollard::errors::Error as Client;

use crate::error::{Error, ErrorKind, Result};

/// Whether a request changes something: it decides what a lost answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Only looks.
    Read,
    /// Changes something, and asking again is not known to be harmless.
    Change,
}

/// What rustls says when it does not trust the Engine's certificate, and when the Engine does not trust ours.
///
/// # Source
/// rustls 0.23, `Display` of `Error::InvalidCertificate` and of `Error::AlertReceived`; RFC 8446, section 6.2.
const REFUSALS_OF_TLS: &[&str] = &[
    "invalid peer certificate",
    "received fatal alert: BadCertificate",
    "received fatal alert: UnknownCA",
    "received fatal alert: CertificateUnknown",
    "received fatal alert: CertificateExpired",
    "received fatal alert: CertificateRequired",
];

/// Maps an error of the client. `what` says what was asked for, in the infinitive: `inspect container `x``.
pub(super) fn map(error: Client, effect: Effect, what: impl fmt::Display) -> Error {
    let what = format!("cannot {what}");
    match error {
        Client::DockerResponseServerError { status_code, message } => {
            let kind = of_status(status_code, &message);
            let error = Error::new(kind, format!("{what}: {}", message.trim())).with("status", status_code);
            match kind {
                ErrorKind::NoSpace => error.hint("free space on the Engine's data root"),
                _ => error,
            }
        }
        Client::DockerStreamError { error } => Error::new(ErrorKind::Failed, format!("{what}: {error}")),
        Client::SocketNotFoundError(path) => {
            Error::new(ErrorKind::Unreachable, format!("{what}: there is no socket `{path}`"))
                .hint("is the Docker daemon running, and is this the right host?")
        }
        Client::RequestTimeoutError => lost(effect, ErrorKind::Timeout, format!("{what}: the Engine did not answer")),
        _ if chain_has(&error, |text| REFUSALS_OF_TLS.iter().any(|said| text.contains(said))) => {
            Error::new(ErrorKind::Authentication, format!("{what}: the certificates do not fit"))
                .hint(
                    "ca.pem has to be of the authority that signed the Engine's certificate, which has to name this \
                       host, and cert.pem of one that the Engine trusts",
                )
                .caused_by(error)
        }
        Client::HyperLegacyError { ref err } if err.is_connect() => {
            let kind = if chain_has(&error, |text| text.contains("ermission denied")) {
                ErrorKind::Denied
            } else {
                ErrorKind::Unreachable
            };
            Error::new(kind, format!("{what}: no connection to the Engine"))
                .hint("is the Docker daemon running, and may this user reach it?")
                .caused_by(error)
        }
        Client::IOError { err } if err.get_ref().is_some_and(<dyn StdError + Send + Sync>::is::<Error>) => {
            Error::from(err)
        }
        Client::HyperLegacyError { .. } | Client::HyperResponseError { .. } | Client::IOError { .. } => {
            // A producer's own error comes back wrapped in the transport's; it knows better what happened.
            if let Some(ours) = find_ours(&error) {
                return ours;
            }
            lost(effect, ErrorKind::Unreachable, format!("{what}: the connection to the Engine was cut"))
                .caused_by(error)
        }
        // These name the place in the answer, never its content.
        Client::JsonDataError { .. } | Client::JsonSerdeError { .. } | Client::APIVersionParseError {} => {
            Error::new(ErrorKind::Unsupported, format!("{what}: the Engine's answer is not as expected"))
                .caused_by(error)
        }
        Client::CertPathError { .. }
        | Client::CertParseError { .. }
        | Client::CertMultipleKeys { .. }
        | Client::NoNativeCertsError { .. }
        | Client::LoadNativeCertsErrors { .. } => {
            Error::new(ErrorKind::Precondition, format!("{what}: the TLS certificates cannot be used"))
                .hint("ca.pem, cert.pem and key.pem must lie in DOCKER_CERT_PATH")
                .caused_by(error)
        }
        Client::UnsupportedURISchemeError { uri } => {
            Error::new(ErrorKind::Unsupported, format!("{what}: `{uri}` is no Engine address that is understood"))
        }
        other => Error::new(ErrorKind::Failed, what).caused_by(other),
    }
}

/// A request whose answer was lost: a change may have happened.
fn lost(effect: Effect, kind: ErrorKind, message: String) -> Error {
    match effect {
        Effect::Read => Error::new(kind, message).hint("is the Docker daemon running and not overloaded?"),
        Effect::Change => Error::new(ErrorKind::OutcomeUnknown, message).hint("look at what is there before retrying"),
    }
}

/// # Source
/// Status codes of the Engine API, version 1.41; the texts are those of moby's `errdefs` users.
fn of_status(status: u16, message: &str) -> ErrorKind {
    let message = message.to_ascii_lowercase();
    let says = |text: &str| message.contains(text);
    if says("no space left on device") || says("disk quota exceeded") {
        return ErrorKind::NoSpace;
    }
    if says("could not find an available, non-overlapping") || says("all predefined address pools") {
        return ErrorKind::Precondition;
    }
    match status {
        400 if says("too new") || says("too old") => ErrorKind::Unsupported,
        400 => ErrorKind::InvalidInput,
        401 => ErrorKind::Authentication,
        403 => ErrorKind::Denied,
        404 => ErrorKind::NotFound,
        409 if says("is already in use by container") || says("already exists") => ErrorKind::AlreadyExists,
        409 => ErrorKind::Conflict,
        501 => ErrorKind::Unsupported,
        503 => ErrorKind::Unreachable,
        _ => ErrorKind::Failed,
    }
}

fn chain_has(error: &(dyn StdError + 'static), matches: impl Fn(&str) -> bool) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if matches(&error.to_string()) {
            return true;
        }
        next = error.source();
    }
    false
}

fn find_ours(error: &(dyn StdError + 'static)) -> Option<Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(ours) = inner.and_then(|inner| inner.downcast_ref::<Error>()) {
            return Some(ours.to_record().into());
        }
        next = error.source();
    }
    None
}

/// Runs a request under a deadline of our own: the client's own covers only the time up to the answer's headers.
pub(super) async fn bounded<T>(
    deadline: Duration,
    effect: Effect,
    what: impl fmt::Display,
    request: impl Future<Output = Result<T, Client>>,
) -> Result<T> {
    let begun = std::time::Instant::now();
    let answer = tokio::time::timeout(deadline, request).await;
    let is_ok = matches!(answer, Ok(Ok(_)));
    tracing::debug!(ms = begun.elapsed().as_millis(), ok = is_ok, "asked the Engine: {what}");
    match answer {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(map(error, effect, what)),
        Err(_) => Err(map(Client::RequestTimeoutError, effect, what)),
    }
}

/// Turns `NotFound` into `None`.
pub(super) fn optional<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(status_code: u16, message: &str) -> Error {
        let error = Client::DockerResponseServerError { status_code, message: message.into() };
        map(error, Effect::Change, "create container `x`")
    }

    #[test]
    fn a_name_in_use_is_told_from_other_conflicts() {
        let error = server(409, "Conflict. The container name \"/x\" is already in use by container \"0123\".");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(server(409, "Container 0123 is not running").kind(), ErrorKind::Conflict);
    }

    #[test]
    fn a_lost_answer_to_a_change_is_unknown_and_to_a_look_is_not() {
        assert_eq!(map(Client::RequestTimeoutError, Effect::Change, "x").kind(), ErrorKind::OutcomeUnknown);
        assert_eq!(map(Client::RequestTimeoutError, Effect::Read, "x").kind(), ErrorKind::Timeout);
    }

    #[test]
    fn a_full_disk_is_recognised_whatever_the_status() {
        assert_eq!(server(500, "write /var/lib: no space left on device").kind(), ErrorKind::NoSpace);
    }

    #[test]
    fn an_error_of_the_producer_comes_back_as_it_was() {
        let ours = Error::new(ErrorKind::Corrupt, "part 3 is short");
        let error = map(Client::IOError { err: ours.into() }, Effect::Change, "write an archive");
        assert_eq!((error.kind(), error.message()), (ErrorKind::Corrupt, "part 3 is short"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_hangs_ends_at_its_deadline() {
        let request = std::future::pending::<Result<(), Client>>();
        let error = bounded(Duration::from_secs(30), Effect::Read, "ping", request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
    }
}
