//! What every use of the operator's own `ssh` has in common: strict options, and what its refusals mean.

use crate::error::{Error, ErrorKind};

/// Options that let nobody be asked, no unknown host be trusted, and no dead line go unnoticed for longer than a minute.
pub(crate) const STRICT: &[&str] = &[
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    "RemoteCommand=none",
    "RequestTTY=no",
];

/// Returns the last line that says anything.
pub(crate) fn last_line(text: &str) -> String {
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
}

/// Makes an error of what `ssh` said when it did not connect.
///
/// `Authentication`: the host's key is not known or changed, or the login was refused. `Unreachable`: the rest.
pub(crate) fn refusal(destination: &str, text: &str) -> Error {
    let says = |what: &str| text.contains(what);
    let message = format!("ssh to `{destination}` failed: {}", last_line(text));
    if says("HOST IDENTIFICATION HAS CHANGED") {
        Error::new(ErrorKind::Authentication, format!("the host key of `{destination}` is not the known one"))
            .hint("find out why before anything else; somebody may stand in between")
    } else if says("Host key verification failed") || says("host key is known") {
        Error::new(ErrorKind::Authentication, format!("the host key of `{destination}` is not known"))
            .hint(format!("compare it with the host's own and accept it with `ssh {destination}`"))
    } else if says("Permission denied") || says("Too many authentication failures") {
        Error::new(ErrorKind::Authentication, message).hint("load the key into the ssh agent")
    } else {
        Error::new(ErrorKind::Unreachable, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_ssh_are_told_apart() {
        let kind = |text: &str| refusal("h", text).kind();
        assert_eq!(
            kind("No ED25519 host key is known for h\nHost key verification failed."),
            ErrorKind::Authentication
        );
        assert_eq!(kind("ops@h: Permission denied (publickey)."), ErrorKind::Authentication);
        assert_eq!(kind("ssh: connect to host h port 22: Connection refused"), ErrorKind::Unreachable);
        let changed =
            refusal("h", "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.");
        assert!(changed.message().contains("not the known one"));
    }
}
