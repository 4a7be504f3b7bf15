//! What goes wrong between us and an S3 server, and what it means for a caller.

use std::error::Error as StdError;

use object_store::{
    Error as Cause,
    client::{HttpError, HttpErrorKind},
};

use crate::{
    error::{Error, ErrorKind},
    tls,
};

/// Codes of the answer's body.
///
/// # Source
/// Amazon S3 API Reference, "Error responses".
const REFUSED: &[&str] = &[
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "AuthorizationHeaderMalformed",
    "TokenRefreshRequired",
];
const SKEWED: &[&str] = &["RequestTimeTooSkewed", "RequestExpired"];
const BUSY: &[&str] = &["SlowDown", "ServiceUnavailable", "InternalError", "TooManyRequests", "RequestTimeout"];
const FULL: &[&str] = &["QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "EntityTooLarge"];
const UNSUPPORTED: &[&str] = &["NotImplemented", "MethodNotAllowed"];

/// Finds the code in the text of an error: `<Code>NoSuchBucket</Code>`.
pub(super) fn code(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    (code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(code)
}

/// Finds the sentence that the server has for a person.
fn sentence(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("<Message>")?;
    rest.split_once("</Message>").map(|(sentence, _)| sentence.get(..200).unwrap_or(sentence))
}

/// Turns a status and the text of an answer into an error; `what` names the work and its object.
pub(super) fn refusal(what: &str, status: Option<u16>, text: &str) -> Error {
    let code = code(text);
    let is = |codes: &[&str]| code.is_some_and(|c| codes.contains(&c));
    let kind = if is(REFUSED) {
        ErrorKind::Authentication
    } else if is(SKEWED) || code == Some("AccessDenied") {
        ErrorKind::Precondition
    } else if is(BUSY) {
        ErrorKind::Unreachable
    } else if is(FULL) {
        ErrorKind::NoSpace
    } else if is(UNSUPPORTED) {
        ErrorKind::Unsupported
    } else {
        match status {
            Some(401) => ErrorKind::Authentication,
            Some(403) => ErrorKind::Precondition,
            Some(404) => ErrorKind::NotFound,
            Some(408 | 429 | 500 | 502..=504) => ErrorKind::Unreachable,
            Some(409 | 412) => ErrorKind::Conflict,
            Some(405 | 501) => ErrorKind::Unsupported,
            Some(507) => ErrorKind::NoSpace,
            _ => ErrorKind::Failed,
        }
    };
    let said = match (code, sentence(text), status) {
        (Some(code), Some(sentence), _) => format!("{code}: {sentence}"),
        (Some(code), None, _) => code.to_owned(),
        (None, _, Some(status)) => format!("status {status}"),
        (None, _, None) => "an answer that is not understood".to_owned(),
    };
    let error = Error::new(kind, format!("{what}: the S3 server says {said}"));
    match code {
        _ if is(SKEWED) => {
            error.hint("the clocks of this host and the server differ by minutes: correct the wrong one")
        }
        Some("AuthorizationHeaderMalformed") => error.hint("check `repository.s3.region`"),
        Some("SignatureDoesNotMatch") => error.hint("check the secret access key, and `repository.s3.region`"),
        _ if is(REFUSED) => error.hint("check the access key of `[repository.s3]`"),
        Some("NoSuchBucket") => {
            error.hint("make the bucket first, or check `repository.url` and `repository.s3.endpoint`")
        }
        Some("PermanentRedirect" | "TemporaryRedirect") => error.hint("check `repository.s3.region` and `endpoint`"),
        _ if kind == ErrorKind::Precondition => {
            error.hint("the key has no permission for it; the documentation of stores lists what is needed")
        }
        _ if is(BUSY) => error.hint("the server asked for patience for longer than `repository.s3.timeout`"),
        _ => error,
    }
}

/// Turns a failure to get an answer at all into an error.
pub(super) fn silence(what: &str, cause: &HttpError) -> Error {
    if let Some(refused) = tls::find(cause) {
        return Error::new(ErrorKind::Precondition, format!("{what}: the S3 server's certificate: {refused}"))
            .hint("name the authority's certificate in `repository.s3.ca_file`");
    }
    let (kind, text) = match cause.kind() {
        HttpErrorKind::Timeout => (ErrorKind::Timeout, "the S3 server was silent for too long"),
        HttpErrorKind::Connect => (ErrorKind::Unreachable, "the S3 server cannot be reached"),
        _ => (ErrorKind::Unreachable, "the connection to the S3 server was lost"),
    };
    Error::new(kind, format!("{what}: {text}")).with("reason", innermost(cause))
}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

fn find_silence<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a HttpError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<HttpError>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Whether a failed conditional request says that its condition did not hold.
pub(super) fn is_condition(cause: &Cause) -> bool {
    matches!(cause, Cause::AlreadyExists { .. } | Cause::Precondition { .. } | Cause::NotModified { .. })
}

/// Turns an error of the client into ours. The texts of the client hold URLs without credentials only: requests are
/// signed in their headers.
pub(super) fn map(what: &str, cause: &Cause) -> Error {
    if let Some(silent) = find_silence(cause) {
        return silence(what, silent);
    }
    let text = cause.to_string();
    let status = match cause {
        Cause::NotFound { .. } => Some(404),
        Cause::AlreadyExists { .. } => Some(409),
        Cause::Precondition { .. } | Cause::NotModified { .. } => Some(412),
        Cause::PermissionDenied { .. } => Some(403),
        Cause::Unauthenticated { .. } => Some(401),
        Cause::NotImplemented { .. } | Cause::NotSupported { .. } => Some(501),
        _ => status_in(&text),
    };
    if status.is_none() && code(&text).is_none() {
        let first = text.lines().next().unwrap_or_default();
        return Error::new(ErrorKind::Failed, format!("{what}: {}", first.get(..300).unwrap_or(first)));
    }
    refusal(what, status, &text)
}

/// The client tells some statuses in words only: `non-2xx status code: 503 Service Unavailable`.
fn status_in(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: &str) -> String {
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>because</Message></Error>")
    }

    #[test]
    fn refusals_are_told_apart_by_their_code_and_say_what_to_do() {
        for (status, code, kind, hint) in [
            (403, "RequestTimeTooSkewed", ErrorKind::Precondition, "clocks"),
            (403, "SignatureDoesNotMatch", ErrorKind::Authentication, "secret access key"),
            (403, "InvalidAccessKeyId", ErrorKind::Authentication, "access key"),
            (403, "AccessDenied", ErrorKind::Precondition, "permission"),
            (404, "NoSuchBucket", ErrorKind::NotFound, "bucket"),
            (503, "SlowDown", ErrorKind::Unreachable, "patience"),
            (301, "PermanentRedirect", ErrorKind::Failed, "region"),
        ] {
            let error = refusal("cannot read `a`", Some(status), &answer(code));
            assert_eq!(error.kind(), kind, "{code}");
            assert!(error.to_string().contains(&format!("{code}: because")), "{error}");
            assert!(error.hint_text().is_some_and(|h| h.contains(hint)), "{code}: {:?}", error.hint_text());
        }
    }

    #[test]
    fn an_answer_without_a_body_is_judged_by_its_status() {
        assert_eq!(refusal("x", Some(403), "").kind(), ErrorKind::Precondition);
        assert_eq!(refusal("x", Some(404), "").kind(), ErrorKind::NotFound);
        assert_eq!(refusal("x", Some(501), "<html>").kind(), ErrorKind::Unsupported);
        assert_eq!(status_in("Server returned non-2xx status code: 503 Service Unavailable: "), Some(503));
    }
}
