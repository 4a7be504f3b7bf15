//! Whether certificates and keys, as files, would serve: read and judged here, by the same rules as a client's.

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::Utc;
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::tested::Pair;
use crate::{
    backend::{Backend, Place},
    error::{Error, ErrorKind, Result},
    files::Root,
    stream,
    system::System,
    tls::{provider, roots},
};

/// Largest file of certificates that is read, in bytes.
const LARGEST: u64 = 1 << 20;
/// Links that are followed from a name to its file, as `live/` of certbot has them.
const LINKS: usize = 4;

/// A name that clients verify, and what they trust.
pub(super) struct Server {
    name: String,
    roots: Arc<RootCertStore>,
}

/// Names the servers that the HTTP checks verify.
pub(super) async fn servers(system: &System) -> Result<Vec<Server>> {
    let mut found: Vec<Server> = Vec::new();
    for check in &system.http {
        let Some(url) = check.url.parse::<reqwest::Url>().ok().filter(|url| url.scheme() == "https") else { continue };
        let Some(name) = url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned()) else { continue };
        if found.iter().all(|server| server.name != name) {
            found.push(Server { name, roots: Arc::new(roots(check.ca_file.as_deref()).await?) });
        }
    }
    Ok(found)
}

/// A certificate with its key. The key is never printed.
pub(super) struct Files {
    path: String,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Reads pairs in a container, running or not.
pub(super) async fn read_in_container(backend: &dyn Backend, container: &str, pairs: &[Pair]) -> Result<Vec<Files>> {
    let mut found = Vec::new();
    for (certificate, key) in pairs {
        found.push(Files {
            path: certificate.clone(),
            certificate: read_file(backend, container, certificate).await?,
            key: read_file(backend, container, key).await?,
        });
    }
    Ok(found)
}

/// Reads those of the pairs that lie below `target`, in the folder that is to be mounted there.
pub(super) fn read_in_folder(folder: &Path, target: &str, pairs: &[Pair]) -> Result<Vec<Files>> {
    let mut found = Vec::new();
    for (certificate, key) in pairs {
        let below = |path: &str| Path::new(path).strip_prefix(target).map(Path::to_path_buf).ok();
        if let (Some(at), Some(key)) = (below(certificate), below(key)) {
            let (certificate_bytes, key) = (read_below(folder, &at)?, read_below(folder, &key)?);
            found.push(Files { path: certificate.clone(), certificate: certificate_bytes, key });
        }
    }
    Ok(found)
}

/// Reads a file of a folder; links that stay in it are followed.
fn read_below(folder: &Path, path: &Path) -> Result<Vec<u8>> {
    let failed = |e: std::io::Error| Error::from(e).during(format!("cannot read `{}` of the backup", path.display()));
    let root = Root::open(folder)?;
    let real = std::fs::canonicalize(root.path().join(path)).map_err(failed)?;
    if !real.starts_with(std::fs::canonicalize(folder).map_err(failed)?) {
        let what = format!("`{}` of the backup leads out of its folder", path.display());
        return Err(Error::new(ErrorKind::Precondition, what));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(real).map_err(failed)?.take(LARGEST).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

async fn read_file(backend: &dyn Backend, container: &str, path: &str) -> Result<Vec<u8>> {
    let mut at = PathBuf::from(path);
    for _ in 0..=LINKS {
        let tar = backend.read_archive(&Place::Container(container.to_owned()), &at.to_string_lossy()).await?;
        let bytes = stream::collect(tar, usize::try_from(LARGEST).unwrap_or(usize::MAX)).await?;
        let mut archive = tar::Archive::new(bytes.as_ref());
        let Some(mut entry) = archive.entries()?.next().transpose()? else { break };
        match entry.link_name()? {
            Some(link) => at = at.parent().unwrap_or(Path::new("/")).join(link),
            None => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                return Ok(content);
            }
        }
    }
    Err(Error::new(ErrorKind::NotFound, format!("`{path}` of container `{container}` leads to no file")))
}

/// Says why the files would not serve, a line each: a key of another certificate, or a server for which none of them is
/// accepted. Empty: they would.
pub(super) fn problems(all: &[Files], servers: &[Server]) -> Vec<String> {
    let mut found: Vec<String> = all.iter().filter_map(mismatch).collect();
    for server in servers {
        let refused: Vec<_> = all.iter().map(|files| refusal(files, server)).collect();
        if !refused.is_empty() && refused.iter().all(Option::is_some) {
            found.extend(refused.into_iter().flatten());
        }
    }
    found
}

/// Days until the first of the certificates ends.
pub(super) fn days_left(all: &[Files]) -> Option<i64> {
    let ends = all.iter().filter_map(|files| {
        let chain = chain(files).ok()?;
        Some(X509Certificate::from_der(chain.first()?).ok()?.1.validity().not_after.timestamp())
    });
    ends.min().map(|at| (at - Utc::now().timestamp()).div_euclid(86_400))
}

fn chain(files: &Files) -> std::result::Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&files.certificate)
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| format!("`{}` cannot be read", files.path))?;
    if chain.is_empty() { Err(format!("`{}` holds no certificate", files.path)) } else { Ok(chain) }
}

fn mismatch(files: &Files) -> Option<String> {
    let chain = match chain(files) {
        Ok(chain) => chain,
        Err(why) => return Some(why),
    };
    // What went wrong with a key is not shown: it may quote it.
    let Ok(key) = PrivateKeyDer::from_pem_slice(&files.key) else {
        return Some(format!("the key of `{}` cannot be read", files.path));
    };
    match CertifiedKey::from_der(chain, key, &provider()) {
        Ok(_) => None,
        Err(rustls::Error::InconsistentKeys(_)) => {
            Some(format!("the key of `{}` belongs to another certificate", files.path))
        }
        Err(_) => Some(format!("`{}` and its key do not go together", files.path)),
    }
}

fn refusal(files: &Files, server: &Server) -> Option<String> {
    let chain = chain(files).ok()?;
    let refused =
        |why: &dyn std::fmt::Display| Some(format!("`{}` is refused for `{}`: {why}", files.path, server.name));
    let (first, rest) = chain.split_first()?;
    let Ok(name) = ServerName::try_from(server.name.as_str()) else { return refused(&"that is not a host name") };
    let verifier = match WebPkiServerVerifier::builder_with_provider(server.roots.clone(), provider()).build() {
        Ok(verifier) => verifier,
        Err(e) => return refused(&e),
    };
    verifier.verify_server_cert(first, rest, &name, &[], UnixTime::now()).err().and_then(|e| refused(&e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::testing::Ca;

    fn issued(ca: &Ca, name: &str, days: i64) -> Files {
        let (certificate, key) = ca.pair(name, -90, days);
        let (certificate, key) = (certificate.pem().into_bytes(), key.serialize_pem().into_bytes());
        Files { path: "/c/tls.crt".into(), certificate, key }
    }

    #[tokio::test]
    async fn files_are_judged_as_a_client_would() {
        let (ours, other) = (Ca::new(), Ca::new());
        let roots = Arc::new(roots(Some(&ours.file())).await.unwrap());
        let server = Server { name: "shop.example".into(), roots };
        let judge = |files: Files| problems(&[files], std::slice::from_ref(&server)).join("; ");
        assert_eq!(judge(issued(&ours, "shop.example", 30)), "");
        for (files, why) in [
            (issued(&ours, "shop.example", -3), "xpired"),
            (issued(&ours, "other.example", 30), "not valid for name"),
            // The two authorities bear the same name.
            (issued(&other, "shop.example", 30), "BadSignature"),
        ] {
            let found = judge(files);
            assert!(found.contains(why), "{found}");
        }
        let mixed = Files { key: issued(&ours, "shop.example", 30).key, ..issued(&ours, "shop.example", 30) };
        assert_eq!(judge(mixed), "the key of `/c/tls.crt` belongs to another certificate");
        let broken = Files { key: b"no key".to_vec(), ..issued(&ours, "shop.example", 30) };
        assert_eq!(judge(broken), "the key of `/c/tls.crt` cannot be read");
        // One of several that is accepted is enough.
        let both = [issued(&ours, "other.example", 30), issued(&ours, "shop.example", 30)];
        assert_eq!(problems(&both, std::slice::from_ref(&server)), Vec::<String>::new());
        assert_eq!(days_left(&both).map(|days| (29..=30).contains(&days)), Some(true));
    }
}
