//! What nginx itself says of its configuration: `nginx -T` in a container of ours.
//!
//! A web server that ends at its start cannot be asked. A container with its image and its mounts, which cannot write to
//! them and has no network, can.

use std::{path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    backend::{Backend, Container, Mount, MountSource, Network, OneOff, ROLE_LABEL, RUN_LABEL},
    error::{Error, ErrorKind, Result},
    procedure::{locate::Located, one_off::run_to_end},
    run::RunId,
    secret::scrub,
};

/// Role of the container in which a configuration is tested.
const ROLE: &str = "nginx-test";
/// How long a test may take.
const LIMIT: Duration = Duration::from_mins(1);

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// File, as nginx names it.
    pub file: Option<String>,
    /// Line in it.
    pub line: Option<u32>,
    /// What nginx says.
    pub message: String,
    /// Whether a certificate or its key is the matter.
    pub is_of_certificate: bool,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{file}:{line}: {}", self.message),
            _ => f.write_str(&self.message),
        }
    }
}

/// Paths of a certificate and of its key, in the container.
pub(super) type Pair = (String, String);

/// What a test found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tested {
    /// `None`: nginx takes the configuration.
    pub(super) fault: Option<Fault>,
    /// Certificates that a configuration names which is taken.
    pub(super) pairs: Vec<Pair>,
}

/// Tests the web server's configuration as it lies there, or with `candidate` in the place of what is mounted at `target`.
pub(super) async fn test(
    backend: &dyn Backend,
    run: RunId,
    web: &Container,
    candidate: Option<(&Path, &str)>,
) -> Result<Tested> {
    let name = format!("{}-{ROLE}-{run}", backend.project());
    let spec = spec(backend, run, web, name, candidate).await?;
    let ended = run_to_end(backend, &spec, LIMIT).await;
    let ended = ended.map_err(|e| e.during("cannot test the configuration of nginx"))?;
    Ok(match ended.code {
        0 => Tested { fault: None, pairs: pairs(&ended.stdout) },
        code => Tested { fault: Some(fault(&ended.stderr, code)), pairs: Vec::new() },
    })
}

async fn spec(
    backend: &dyn Backend,
    run: RunId,
    web: &Container,
    name: String,
    candidate: Option<(&Path, &str)>,
) -> Result<OneOff> {
    let mut mounts: Vec<_> = web.mounts.iter().map(|m| Mount { read_only: true, ..m.clone() }).collect();
    if let Some((folder, target)) = candidate {
        let source = MountSource::HostPath(folder.to_string_lossy().into_owned());
        mounts.retain(|m| m.target != target);
        mounts.push(Mount { source, target: target.to_owned(), read_only: true });
    }
    // What else it is started with may name another file, or set directives.
    let is_nginx = web.command.first().is_some_and(|program| program.rsplit('/').next() == Some("nginx"));
    let mut command = if is_nginx { web.command[1..].to_vec() } else { Vec::new() };
    command.push("-T".into());
    let containers = backend.containers().await?;
    let mut own_names: Vec<_> = containers.into_iter().flat_map(|c| [c.service, c.name]).collect();
    own_names.retain(|name| !name.is_empty());
    own_names.sort();
    own_names.dedup();
    Ok(OneOff {
        name,
        image: web.image_id.clone(),
        entrypoint: Some(vec!["nginx".into()]),
        command,
        env: Vec::new(),
        user: None,
        mounts,
        files: Vec::new(),
        network: Network::None,
        own_names,
        labels: [(RUN_LABEL.to_owned(), run.to_string()), (ROLE_LABEL.to_owned(), ROLE.to_owned())].into(),
        memory: Some(256 << 20),
        start: true,
    })
}

/// Finds the reason among the lines that nginx printed.
fn fault(said: &[String], code: i64) -> Fault {
    // `nginx: [emerg] …`, or, once its log is open, `2026/01/31 23:59:59 [emerg] 1#1: …`.
    let line = said.iter().find_map(|line| {
        let text = line.split_once("[emerg] ")?.1;
        let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b'#');
        Some(text.split_once(": ").filter(|(number, _)| is_number(number)).map_or(text, |(_, text)| text))
    });
    let Some(message) = line.or_else(|| said.last().map(String::as_str)) else {
        let message = format!("nginx ended with exit code {code} and said nothing");
        return Fault { file: None, line: None, message, is_of_certificate: false };
    };
    // A short message is enough, and lines of a configuration may hold secrets.
    let message: String = scrub(message).chars().take(400).collect();
    let is_of_certificate = ["SSL_CTX_use_", "cannot load certificate", "PEM_read_bio", "SSL_CTX_load_verify"]
        .iter()
        .any(|word| message.contains(word));
    let place = message.rsplit_once(" in ").and_then(|(what, place)| {
        let (file, line) = place.trim_end().rsplit_once(':')?;
        Some((what.to_owned(), file.to_owned(), line.parse().ok()?))
    });
    match place {
        Some((message, file, line)) => Fault { file: Some(file), line: Some(line), message, is_of_certificate },
        None => Fault { file: None, line: None, message, is_of_certificate },
    }
}

/// Finds the certificates in a configuration as `nginx -T` prints it; those that a variable names are not known.
fn pairs(dumped: &[String]) -> Vec<Pair> {
    let value = |line: &str, name: &str| {
        let rest = line.trim().strip_prefix(name)?;
        let value = rest.strip_prefix([' ', '\t'])?.trim().split(';').next()?.trim().trim_matches(['"', '\'']);
        (value.starts_with('/') && !value.contains('$')).then(|| value.to_owned())
    };
    let certificates = dumped.iter().filter_map(|line| value(line, "ssl_certificate"));
    let keys = dumped.iter().filter_map(|line| value(line, "ssl_certificate_key"));
    let mut found: Vec<Pair> = certificates.zip(keys).collect();
    found.sort();
    found.dedup();
    found
}

/// Tells under which path the web server sees a folder of the host.
///
/// # Errors
/// `Precondition`: it does not see it.
pub(super) async fn target(backend: &dyn Backend, web: &Container, located: &Located) -> Result<String> {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = real(&located.folder());
    for mount in &web.mounts {
        let source = match &mount.source {
            MountSource::HostPath(path) => Some(path.clone()),
            MountSource::Volume(name) => backend.volume(name).await?.and_then(|v| v.host_folder().map(str::to_owned)),
            MountSource::Tmpfs => None,
        };
        let Some(source) = source else { continue };
        if let Ok(below) = folder.strip_prefix(real(Path::new(&source))) {
            return Ok(Path::new(&mount.target).join(below).to_string_lossy().trim_end_matches('/').to_owned());
        }
    }
    let what = format!("service `{}` does not see `{}`", web.service, located.folder().display());
    Err(Error::new(ErrorKind::Precondition, what)
        .hint("say in `[nginx]` of the configuration which components hold its configuration and its certificates"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &[&str]) -> Fault {
        fault(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(), 1)
    }

    #[test]
    fn the_file_and_the_line_of_a_fault_are_read() {
        let found = said(&[
            "nginx: [warn] the \"user\" directive makes sense only if",
            "nginx: [emerg] unknown directive \"liste\" in /etc/nginx/conf.d/site.conf:2",
            "nginx: configuration file /etc/nginx/nginx.conf test failed",
        ]);
        assert_eq!(found.to_string(), "/etc/nginx/conf.d/site.conf:2: unknown directive \"liste\"");
        assert!(!found.is_of_certificate);
        let logged =
            said(&["2026/11/27 07:48:35 [emerg] 1#1: unknown directive \"liste\" in /etc/nginx/conf.d/site.conf:2"]);
        assert_eq!(logged, found);
        assert_eq!(said(&["exec: nginx: not found"]).message, "exec: nginx: not found");
        assert_eq!(said(&[]).message, "nginx ended with exit code 1 and said nothing");
    }

    #[test]
    fn a_certificate_at_fault_is_told_from_a_configuration_at_fault() {
        for line in [
            "nginx: [emerg] SSL_CTX_use_PrivateKey(\"/c/tls.key\") failed (SSL: error:05800074:x509 certificate routines::key values mismatch)",
            "nginx: [emerg] cannot load certificate \"/c/tls.crt\": BIO_new_file() failed (SSL: error:80000002:system library::No such file)",
            "nginx: [emerg] cannot load certificate key \"/c/tls.key\": PEM_read_bio_PrivateKey() failed (SSL: error)",
        ] {
            assert!(said(&[line]).is_of_certificate, "{line}");
        }
        assert!(
            !said(&["nginx: [emerg] no \"ssl_certificate\" is defined for the \"listen ... ssl\" in /a.conf:1"])
                .is_of_certificate
        );
    }

    #[test]
    fn certificates_are_found_in_what_nginx_prints() {
        let lines = "ssl_certificate     /c/a.crt;\n  ssl_certificate_key \"/c/a.key\";\n# ssl_certificate /c/x.crt;\n\
                     ssl_certificate_key $key;\nssl_certificate $crt;\nssl_certificates /no;\nssl_certificate /c/a.crt;\nssl_certificate_key /c/a.key;";
        let lines: Vec<_> = lines.lines().map(str::to_owned).collect();
        assert_eq!(pairs(&lines), [("/c/a.crt".to_owned(), "/c/a.key".to_owned())]);
    }
}
