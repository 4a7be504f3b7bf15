//! nginx in the simulated world: as much of it as recoveries ask for.
//!
//! Its configuration is one file in a mount, a directive a line; without the mount it lies in the image, and is good. What it
//! serves is what it has read: at its start, and when it is told to read again.

use std::{
    io,
    path::{Path, PathBuf},
};

use chrono::Utc;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    database::{put, text},
    sim::{SimBackend, SimLife, SimStart},
};
use crate::{
    backend::{HealthCheck, Signal},
    probe::{Class, Health},
};

/// Image of the web server.
pub const IMAGE: &str = "web";
/// Folder with its configuration, in its container.
pub const FOLDER: &str = "/etc/nginx";
/// Its configuration, in that.
pub const CONFIGURATION: &str = "nginx.conf";

/// What it has read, among the container's own files.
const LOADED: &str = "loaded";

/// Registers nginx at a backend.
pub(super) fn register(backend: &SimBackend) {
    backend.program(IMAGE, |start| {
        let is_test = start.argv.iter().any(|argument| argument == "-T");
        match read(start) {
            Ok(None) if is_test => SimLife::Ends(0),
            Ok(None) => SimLife::Runs(HealthCheck::Healthy),
            Ok(Some(read)) if is_test => {
                read.configuration.lines().for_each(|line| start.print(line, false));
                SimLife::Ends(0)
            }
            Ok(Some(read)) => match read.keep(&start.files) {
                Ok(()) => SimLife::Runs(HealthCheck::Healthy),
                Err(_) => SimLife::Ends(1),
            },
            Err(fault) => {
                start.print(format!("nginx: [emerg] {fault}"), true);
                SimLife::Ends(1)
            }
        }
    });
    backend.signals(IMAGE, |start, signal| {
        if signal != Signal::Hangup {
            return;
        }
        match read(start) {
            Ok(read) => drop(read.map(|read| read.keep(&start.files))),
            // It goes on with what it has.
            Err(fault) => start.print(format!("2026/01/31 23:59:59 [emerg] 1#1: {fault}"), true),
        }
    });
}

/// Returns the configuration that a server has read, by the folder of its container's own files; `None`: that of its image.
///
/// # Errors
/// Those of reading.
pub fn loaded(files: &Path) -> io::Result<Option<String>> {
    text(&files.join(LOADED).join("configuration"))
}

/// Says why clients refuse what a server serves; `None`: they do not.
pub(super) fn refusal(files: &Path) -> io::Result<Option<Health>> {
    let Some(certificate) = text(&files.join(LOADED).join("certificate"))? else { return Ok(None) };
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(io::Error::other)?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(io::Error::other)?;
    let is_over = certificate.validity().not_after.timestamp() < Utc::now().timestamp();
    Ok(is_over.then(|| Health::down("the certificate has expired").class(Class::Expired)))
}

struct Read {
    configuration: String,
    certificate: Option<String>,
}

impl Read {
    fn keep(&self, files: &Path) -> io::Result<()> {
        let folder = files.join(LOADED);
        put(&folder, "configuration", &self.configuration)?;
        self.certificate.as_ref().map_or(Ok(()), |certificate| put(&folder, "certificate", certificate))
    }
}

/// Reads the configuration as nginx does; the error is what it says.
fn read(start: &SimStart) -> Result<Option<Read>, String> {
    let unreadable = |path: &str, error: io::Error| format!("open() \"{path}\" failed ({error})");
    let path = format!("{FOLDER}/{CONFIGURATION}");
    let file: PathBuf = start.path(FOLDER);
    if !file.exists() {
        return Ok(None);
    }
    let configuration = text(&start.path(&path)).map_err(|e| unreadable(&path, e))?;
    let configuration = configuration.ok_or_else(|| unreadable(&path, io::ErrorKind::NotFound.into()))?;
    let mut certificate = None;
    for (number, line) in configuration.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
        if !(line.is_empty() || line.starts_with('#') || line.ends_with([';', '{', '}'])) {
            let name = line.split_whitespace().next().unwrap_or_default();
            return Err(format!("directive \"{name}\" is not terminated by \";\" in {path}:{number}"));
        }
        if let Some(named) = line.strip_prefix("ssl_certificate ") {
            let named = named.trim_end_matches(';').trim();
            let found = text(&start.path(named)).ok().flatten();
            let missing = || format!("cannot load certificate \"{named}\": BIO_new_file() failed (SSL: No such file)");
            certificate = Some(found.ok_or_else(missing)?);
        }
    }
    Ok(Some(Read { configuration, certificate }))
}
