//! Which Engine is meant: the same answer as the Docker CLI gives, or an error, never a silent fallback.
//!
//! # Source
//! docker/cli: `cli/command/cli.go` (`resolveContextName`, `resolveDockerEndpoint`), `cli/context/store`.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{
    error::{Error, ErrorKind, Result},
    system::Compose,
};

/// Where the Engine listens when nothing else is said.
pub const DEFAULT_ADDRESS: &str = "unix:///var/run/docker.sock";

/// The variables that the Docker CLI reads to find its Engine; an empty one counts as unset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `DOCKER_HOST`.
    pub docker_host: Option<String>,
    /// `DOCKER_CONTEXT`.
    pub docker_context: Option<String>,
    /// `DOCKER_TLS`: TLS without verification, which is refused here.
    pub docker_tls: Option<String>,
    /// `DOCKER_TLS_VERIFY`.
    pub docker_tls_verify: Option<String>,
    /// `DOCKER_CERT_PATH`.
    pub docker_cert_path: Option<PathBuf>,
    /// `DOCKER_CONFIG`, or `~/.docker`.
    pub docker_config: Option<PathBuf>,
}

impl Environment {
    /// Reads the variables of this process.
    pub fn from_process() -> Self {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = || etcetera::home_dir().ok().map(|home| home.join(".docker"));
        Self {
            docker_host: var("DOCKER_HOST"),
            docker_context: var("DOCKER_CONTEXT"),
            docker_tls: var("DOCKER_TLS"),
            docker_tls_verify: var("DOCKER_TLS_VERIFY"),
            docker_cert_path: var("DOCKER_CERT_PATH").map(PathBuf::from),
            docker_config: var("DOCKER_CONFIG").map(PathBuf::from).or_else(home),
        }
    }
}

/// How to reach an Engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket on this machine.
    Unix(PathBuf),
    /// TCP, `host:port`; the folder holds `ca.pem`, `cert.pem` and `key.pem` where TLS is used.
    Tcp {
        /// Host name or address; IPv6 without brackets.
        host: String,
        /// Port.
        port: u16,
        /// Folder with the certificates.
        tls: Option<PathBuf>,
    },
    /// Through the operator's `ssh`: a forward of the other side's socket, or `docker system dial-stdio` there.
    Ssh {
        /// User, where one is named.
        user: Option<String>,
        /// Host name, or a name of the operator's ssh configuration.
        host: String,
        /// Port, where one is named.
        port: Option<u16>,
        /// Socket on the other side, where it is not the default one.
        socket: Option<String>,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port, .. } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port, .. } => write!(f, "tcp://{host}:{port}"),
            Self::Ssh { user, host, port, socket } => {
                f.write_str("ssh://")?;
                if let Some(user) = user {
                    write!(f, "{user}@")?;
                }
                f.write_str(host)?;
                if let Some(port) = port {
                    write!(f, ":{port}")?;
                }
                f.write_str(socket.as_deref().unwrap_or_default())
            }
        }
    }
}

/// Finds the Engine: configured host or context, `DOCKER_HOST`, `DOCKER_CONTEXT`, current context, local socket.
///
/// # Errors
/// `InvalidInput`: an address that cannot be used. `NotFound`: a context that does not exist. `Unsupported`: TLS
/// without verification. `Precondition`: certificates are missing.
pub fn resolve(compose: &Compose, environment: &Environment) -> Result<Address> {
    if let Some(host) = &compose.host {
        return from_environment(host, environment).map_err(|e| e.with("from", "compose.host"));
    }
    if let Some(context) = &compose.context {
        return from_context(context, environment).map_err(|e| e.with("from", "compose.context"));
    }
    if let Some(host) = &environment.docker_host {
        return from_environment(host, environment).map_err(|e| e.with("from", "DOCKER_HOST"));
    }
    if let Some(context) = &environment.docker_context {
        return from_context(context, environment).map_err(|e| e.with("from", "DOCKER_CONTEXT"));
    }
    match current_context(environment)? {
        Some(context) => from_context(&context, environment).map_err(|e| e.with("from", "current context")),
        None => from_environment(DEFAULT_ADDRESS, environment),
    }
}

/// An address with TLS as the environment says.
fn from_environment(text: &str, environment: &Environment) -> Result<Address> {
    if environment.docker_tls.is_some() && environment.docker_tls_verify.is_none() && is_tcp(text) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "DOCKER_TLS asks for TLS without checking the Engine's identity",
        )
        .hint("set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH"));
    }
    let wants_tls = environment.docker_tls_verify.is_some() || text.starts_with("https://");
    let folder = environment.docker_cert_path.as_ref().or(environment.docker_config.as_ref());
    let tls = match (is_tcp(text) && wants_tls, folder) {
        (false, _) => None,
        (true, Some(folder)) => Some(folder.clone()),
        (true, None) => {
            return Err(Error::new(ErrorKind::Precondition, "TLS is asked for and DOCKER_CERT_PATH is not set"));
        }
    };
    parse(text, tls)
}

fn is_tcp(text: &str) -> bool {
    !text.starts_with("unix://") && !text.starts_with("ssh://")
}

/// Parses an address in the form of `DOCKER_HOST`.
///
/// # Errors
/// `InvalidInput`: not such an address. `Precondition`: a certificate is missing.
pub fn parse(text: &str, tls: Option<PathBuf>) -> Result<Address> {
    let bad = |why: &str| {
        // A password has no place in an address, and must not be repeated when somebody put one there.
        let shown = match (text.split_once("://"), text.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://…@{rest}"),
            _ => text.to_owned(),
        };
        Error::new(ErrorKind::InvalidInput, format!("`{shown}` is not an Engine address: {why}"))
            .hint("use unix:///path, tcp://host:port or ssh://user@host")
    };
    let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
    match scheme {
        "unix" => {
            if !rest.starts_with('/') {
                return Err(bad("the socket's path is not absolute"));
            }
            Ok(Address::Unix(rest.into()))
        }
        "tcp" | "http" | "https" => {
            if let Some(folder) = &tls {
                for file in ["ca.pem", "cert.pem", "key.pem"] {
                    if !folder.join(file).is_file() {
                        return Err(Error::new(
                            ErrorKind::Precondition,
                            format!("`{}` is missing for TLS with the Engine", folder.join(file).display()),
                        ));
                    }
                }
            }
            let (host, port) = host_and_port(rest.trim_end_matches('/')).map_err(bad)?;
            // 2375 and 2376 are registered for the Engine, without and with TLS.
            let port = port.unwrap_or(if tls.is_some() { 2376 } else { 2375 });
            Ok(Address::Tcp { host, port, tls })
        }
        "ssh" => {
            let (authority, socket) = match rest.split_once('/') {
                Some((authority, "")) => (authority, None),
                Some((authority, path)) => (authority, Some(format!("/{path}"))),
                None => (rest, None),
            };
            let (user, host) = match authority.rsplit_once('@') {
                Some((user, host)) => (Some(user), host),
                None => (None, authority),
            };
            if user.is_some_and(|user| user.contains(':')) {
                return Err(bad("it holds a password"));
            }
            let (host, port) = host_and_port(host).map_err(bad)?;
            // ssh would read a leading dash as an option.
            if host.starts_with('-') || user.is_some_and(|user| user.starts_with('-') || user.is_empty()) {
                return Err(bad("a name is empty or begins with a dash"));
            }
            if socket.as_deref().is_some_and(|path| !is_plain_path(path)) {
                return Err(bad("the socket's path holds characters other than letters, digits and `/._-`"));
            }
            Ok(Address::Ssh { user: user.map(Into::into), host, port, socket })
        }
        _ => Err(bad("its scheme is unknown")),
    }
}

/// An absolute path that no shell, and no option of ssh, reads as anything else.
pub(super) fn is_plain_path(text: &str) -> bool {
    text.starts_with('/') && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b))
}

fn host_and_port(text: &str) -> Result<(String, Option<u16>), &'static str> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("a bracket is open")?;
            (host, after.strip_prefix(':'))
        }
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err("it names no host");
    }
    let port = port.map(|port| port.parse().map_err(|_| "its port is not a number")).transpose()?;
    Ok((host.to_owned(), port))
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(rename = "currentContext", default)]
    current_context: Option<String>,
}

fn current_context(environment: &Environment) -> Result<Option<String>> {
    let Some(folder) = &environment.docker_config else { return Ok(None) };
    let path = folder.join("config.json");
    let Some(file) = read_json::<ConfigFile>(&path)? else { return Ok(None) };
    Ok(file.current_context.filter(|name| !name.is_empty() && name != "default"))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    name: String,
    #[serde(default)]
    endpoints: std::collections::BTreeMap<String, MetaEndpoint>,
}

#[derive(Deserialize)]
struct MetaEndpoint {
    #[serde(rename = "Host", default)]
    host: Option<String>,
    #[serde(rename = "SkipTLSVerify", default)]
    skip_tls_verify: bool,
}

fn from_context(name: &str, environment: &Environment) -> Result<Address> {
    if name == "default" {
        let host = environment.docker_host.as_deref().unwrap_or(DEFAULT_ADDRESS);
        return from_environment(host, environment);
    }
    let missing = || {
        Error::new(ErrorKind::NotFound, format!("there is no Docker context `{}`", name.escape_debug()))
            .hint("docker context ls")
    };
    let folder = environment.docker_config.as_ref().ok_or_else(missing)?.join("contexts");
    // The store names a context's folder by the SHA-256 of its name.
    let digest = hex::encode(Sha256::digest(name.as_bytes()));
    let path = folder.join("meta").join(&digest).join("meta.json");
    let meta: Meta = read_json(&path)?.filter(|meta: &Meta| meta.name == name).ok_or_else(missing)?;
    let endpoint = meta.endpoints.get("docker").ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, format!("Docker context `{name}` has no Docker endpoint"))
    })?;
    if endpoint.skip_tls_verify {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("Docker context `{name}` asks for TLS without checking the Engine's identity"),
        )
        .hint("docker context update with skip-tls-verify=false"));
    }
    let tls = folder.join("tls").join(&digest).join("docker");
    let host = endpoint.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(DEFAULT_ADDRESS);
    parse(host, tls.is_dir().then_some(tls))
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::from(e).during(format!("cannot read `{}`", path.display()))),
    };
    // config.json also holds registry credentials: the text is never quoted.
    serde_json::from_slice(&bytes).map(Some).map_err(|e| {
        Error::new(ErrorKind::InvalidInput, format!("`{}` is not as the Docker CLI writes it", path.display()))
            .with("line", e.line())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(folder: &Path, name: &str, host: &str, skip: bool, tls: bool) {
        let digest = hex::encode(Sha256::digest(name.as_bytes()));
        let meta = folder.join("contexts/meta").join(&digest);
        std::fs::create_dir_all(&meta).unwrap();
        let json = serde_json::json!({
            "Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": skip}}});
        std::fs::write(meta.join("meta.json"), json.to_string()).unwrap();
        if tls {
            let folder = folder.join("contexts/tls").join(&digest).join("docker");
            std::fs::create_dir_all(&folder).unwrap();
            for file in ["ca.pem", "cert.pem", "key.pem"] {
                std::fs::write(folder.join(file), "").unwrap();
            }
        }
    }

    #[test]
    fn the_order_is_that_of_the_docker_cli() {
        let folder = tempfile::tempdir().unwrap();
        context(folder.path(), "prod", "ssh://ops@prod", false, false);
        context(folder.path(), "test", "tcp://10.0.0.9", false, true);
        std::fs::write(folder.path().join("config.json"), r#"{"auths": {}, "currentContext": "prod"}"#).unwrap();
        let mut compose = Compose::default();
        let mut environment = Environment { docker_config: Some(folder.path().into()), ..Environment::default() };
        let show = |c: &Compose, e: &Environment| resolve(c, e).unwrap().to_string();
        assert_eq!(show(&compose, &environment), "ssh://ops@prod");
        environment.docker_context = Some("test".into());
        assert_eq!(show(&compose, &environment), "tcp://10.0.0.9:2376");
        environment.docker_host = Some("unix:///run/a.sock".into());
        assert_eq!(show(&compose, &environment), "unix:///run/a.sock");
        compose.context = Some("test".into());
        assert_eq!(show(&compose, &environment), "tcp://10.0.0.9:2376");
        compose.context = Some("default".into());
        assert_eq!(show(&compose, &environment), "unix:///run/a.sock");
        compose = Compose { host: Some("ssh://b:2222/run/d.sock".into()), ..Compose::default() };
        assert_eq!(show(&compose, &environment), "ssh://b:2222/run/d.sock");
        assert_eq!(show(&Compose::default(), &Environment::default()), DEFAULT_ADDRESS);
    }

    #[test]
    fn a_context_that_is_not_there_is_no_reason_to_use_another_engine() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), r#"{"currentContext": "prod"}"#).unwrap();
        let environment = Environment { docker_config: Some(folder.path().into()), ..Environment::default() };
        assert_eq!(resolve(&Compose::default(), &environment).unwrap_err().kind(), ErrorKind::NotFound);
        std::fs::write(folder.path().join("config.json"), "{").unwrap();
        assert_eq!(resolve(&Compose::default(), &environment).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn tls_without_verification_or_certificates_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        context(folder.path(), "lax", "tcp://h:1", true, true);
        let mut environment = Environment { docker_config: Some(folder.path().into()), ..Environment::default() };
        environment.docker_context = Some("lax".into());
        assert_eq!(resolve(&Compose::default(), &environment).unwrap_err().kind(), ErrorKind::Unsupported);
        environment.docker_host = Some("tcp://h:1".into());
        environment.docker_tls = Some("1".into());
        assert_eq!(resolve(&Compose::default(), &environment).unwrap_err().kind(), ErrorKind::Unsupported);
        environment.docker_tls_verify = Some("1".into());
        environment.docker_cert_path = Some(folder.path().into());
        assert_eq!(resolve(&Compose::default(), &environment).unwrap_err().kind(), ErrorKind::Precondition);
    }

    #[test]
    fn addresses_that_ssh_would_misread_or_that_hold_passwords_are_refused() {
        for text in
            ["ssh://-oProxyCommand=x", "ssh://a@-x", "unix://x", "ftp://x", "tcp://:1", "ssh://h/$(x)", "tcp://h:x"]
        {
            assert_eq!(parse(text, None).unwrap_err().kind(), ErrorKind::InvalidInput, "{text}");
        }
        let error = parse("ssh://me:hunter2@host", None).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert_eq!(parse("tcp://[::1]:5", None).unwrap().to_string(), "tcp://[::1]:5");
    }
}
