//! The connection to the Engine: two clients, one for questions and one for data.

use std::{fmt, future::Future, path::PathBuf, time::Duration};

use bollard::{API_DEFAULT_VERSION, Docker, errors::Error as ClientError};

use super::{
    address::{Address, Environment},
    error::{Effect, bounded},
    ssh::SshHost,
};
use crate::error::{Error, ErrorKind, Result};

/// Oldest API that is spoken: Engine 19.03.
const OLDEST_API: (usize, usize) = (1, 40);

/// How the Engine is talked to.
#[derive(Debug, Clone)]
pub struct DockerOptions {
    /// Deadline of a question or command, without the time that the command itself asks for (a stop's grace).
    pub control_timeout: Duration,
    /// Longest time without a single byte moving in an archive or log stream.
    pub stall_timeout: Duration,
    /// Deadline of a whole archive transfer, a last resort behind `stall_timeout`.
    pub bulk_timeout: Duration,
    /// Image for helper containers, which have to hold `sh`, `stat`, `du`, `find`, `mv` and `sync`; `None`: the
    /// images of the project's own containers, in turn.
    pub helper_image: Option<String>,
    /// Configuration file for `ssh`; `None`: the operator's own.
    pub ssh_config: Option<PathBuf>,
    /// The Docker CLI, used for `docker compose` alone.
    pub docker_program: PathBuf,
    /// Never touch a volume's folder directly, even where this process could.
    pub always_use_helpers: bool,
    /// Variables that choose the Engine.
    pub environment: Environment,
    /// Value of [`RUN_LABEL`](crate::backend::RUN_LABEL) on helper containers.
    pub run: String,
}

impl Default for DockerOptions {
    fn default() -> Self {
        Self {
            control_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_mins(2),
            bulk_timeout: Duration::from_hours(48),
            helper_image: None,
            ssh_config: None,
            docker_program: "docker".into(),
            always_use_helpers: false,
            environment: Environment::from_process(),
            run: "none".into(),
        }
    }
}

/// An open connection.
pub(super) struct Connection {
    pub(super) address: Address,
    pub(super) options: DockerOptions,
    pub(super) control: Docker,
    pub(super) bulk: Docker,
    pub(super) ssh: Option<SshHost>,
    pub(super) api_version: String,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("address", &self.address.to_string())
            .field("api_version", &self.api_version)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects and agrees on an API version.
    pub(super) async fn open(address: Address, options: DockerOptions) -> Result<Self> {
        let what = format!("connect to the Engine at {address}");
        let ssh = match &address {
            Address::Ssh { .. } => {
                Some(SshHost::open(&address, options.ssh_config.as_deref(), options.control_timeout).await?)
            }
            _ => None,
        };
        let control = client(&address, ssh.as_ref(), options.control_timeout)?;
        let bulk = client(&address, ssh.as_ref(), options.bulk_timeout)?;
        let explain = |error| match &ssh {
            Some(ssh) => ssh.explain(error),
            None => error,
        };
        let version =
            bounded(options.control_timeout, Effect::Read, &what, control.version()).await.map_err(explain)?;
        let server = version.api_version.as_deref().and_then(parse_version).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, format!("the Engine at {address} does not tell its API version"))
        })?;
        let ours = (API_DEFAULT_VERSION.major_version, API_DEFAULT_VERSION.minor_version);
        let least = version.min_api_version.as_deref().and_then(parse_version).unwrap_or(OLDEST_API);
        if server < OLDEST_API || least > ours {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the Engine at {address} and this program have no API version in common"),
            )
            .with("engine", format!("{}.{} to {}.{}", least.0, least.1, server.0, server.1))
            .with("this program", format!("{}.{} to {}.{}", OLDEST_API.0, OLDEST_API.1, ours.0, ours.1))
            .hint(if server < OLDEST_API { "upgrade the Engine" } else { "upgrade this program" }));
        }
        let agreed = server.min(ours);
        let api_version = format!("{}.{}", agreed.0, agreed.1);
        let [control, bulk] = [control, bulk].map(|client| speaking(client, &api_version));
        Ok(Self { address, options, control, bulk, ssh, api_version })
    }

    /// Asks something, under the control deadline.
    pub(super) async fn read<T>(
        &self,
        what: impl fmt::Display,
        request: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T> {
        self.within(self.options.control_timeout, Effect::Read, what, request).await
    }

    /// Changes something, under the control deadline.
    pub(super) async fn change<T>(
        &self,
        what: impl fmt::Display,
        request: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T> {
        self.within(self.options.control_timeout, Effect::Change, what, request).await
    }

    /// Asks under another deadline.
    pub(super) async fn within<T>(
        &self,
        deadline: Duration,
        effect: Effect,
        what: impl fmt::Display,
        request: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T> {
        bounded(deadline, effect, what, request).await.map_err(|error| self.explain(error))
    }

    /// Adds what is known about the way to the Engine.
    pub(super) fn explain(&self, error: Error) -> Error {
        match &self.ssh {
            Some(ssh) => ssh.explain(error),
            None => error,
        }
    }
}

fn client(address: &Address, ssh: Option<&SshHost>, timeout: Duration) -> Result<Docker> {
    let seconds = timeout.as_secs().max(1);
    let version = API_DEFAULT_VERSION;
    let socket = |path: &std::path::Path| Docker::connect_with_unix(&path.to_string_lossy(), seconds, version);
    let client = match (address, ssh) {
        (_, Some(ssh)) => socket(ssh.socket()),
        (Address::Unix(path), None) => socket(path),
        (Address::Tcp { tls: None, .. }, None) => Docker::connect_with_http(&address.to_string(), seconds, version),
        (Address::Tcp { tls: Some(folder), .. }, None) => {
            // Another part of the process may have installed the provider already; ring is the only one there is.
            let _ = rustls::crypto::ring::default_provider().install_default();
            Docker::connect_with_ssl(
                &address.to_string(),
                &folder.join("key.pem"),
                &folder.join("cert.pem"),
                &folder.join("ca.pem"),
                seconds,
                version,
            )
        }
        (Address::Ssh { .. }, None) => {
            return Err(Error::new(ErrorKind::InvalidInput, format!("`{address}` was not opened")));
        }
    };
    client.map_err(|e| super::error::map(e, Effect::Read, format!("connect to the Engine at {address}")))
}

/// Makes a client say in each request which version of the API it means.
///
/// The client itself sends none, and an Engine then answers in the newest version that it knows, also in one that this
/// program does not.
fn speaking(client: Docker, version: &str) -> Docker {
    let prefix = format!("/v{version}");
    client.with_request_modifier(move |mut request| {
        let uri = request.uri();
        if let (Some(scheme), Some(authority), Some(path)) = (uri.scheme_str(), uri.authority(), uri.path_and_query())
            && let Ok(versioned) = format!("{scheme}://{authority}{prefix}{path}").parse()
        {
            *request.uri_mut() = versioned;
        }
        request
    })
}

fn parse_version(text: &str) -> Option<(usize, usize)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A name or id that is safe in a request's path.
///
/// # Source
/// `RestrictedNameChars` of moby: `[a-zA-Z0-9][a-zA-Z0-9_.-]`.
pub(super) fn checked_name(name: &str) -> Result<&str> {
    let ok = name.len() <= 255
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if ok {
        Ok(name)
    } else {
        Err(Error::new(ErrorKind::InvalidInput, format!("`{}` is not a name on the Engine", name.escape_debug()))
            .hint("use letters, digits, `_`, `.` and `-`, beginning with a letter or digit"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_change_a_request_are_refused() {
        for name in ["", "a/b", "a?force=1", "../x", "a b", "-x", "a%2fb"] {
            assert_eq!(checked_name(name).unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
        }
        assert!(checked_name("chom_mysql.data-1").is_ok());
    }
}
