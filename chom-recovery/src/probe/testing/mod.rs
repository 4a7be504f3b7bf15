//! Servers for the unit tests of probes: plain, TLS with a CA of its own, and closed ports.

pub(crate) mod backend;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};

/// Answer that is replaced by the request's `Host`.
pub(crate) const ECHO_HOST: &str = "echo host";

/// Serves one fixed answer to every request, after `delay`.
pub(crate) async fn http(answer: impl Into<String>, delay: Duration) -> u16 {
    let answer: Arc<str> = answer.into().into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer.clone(), delay));
        }
    });
    port
}

/// Serves one fixed answer over TLS.
pub(crate) async fn https(server: ServerConfig, answer: &'static str) -> u16 {
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream, answer.into(), Duration::ZERO).await;
                }
            });
        }
    });
    port
}

/// Says something before it is asked, as servers do that do not speak TLS.
pub(crate) async fn greets(greeting: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(greeting.as_bytes()).await;
        }
    });
    port
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: Arc<str>, delay: Duration) {
    let mut request = Vec::new();
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        match stream.read_buf(&mut request).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    tokio::time::sleep(delay).await;
    let text = if &*answer == ECHO_HOST {
        let request = String::from_utf8_lossy(&request).to_lowercase();
        let host = request.lines().find_map(|l| l.strip_prefix("host: ")).unwrap_or_default().to_owned();
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{host}", host.len())
    } else {
        answer.to_string()
    };
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// A port on which nothing listens.
pub(crate) async fn closed_port() -> u16 {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    listener.local_addr().unwrap().port()
}

/// A certificate authority.
pub(crate) struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test CA");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, dir }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate for `name` that is valid between two days, counted from now, and its key.
    pub(crate) fn pair(&self, name: &str, from_days: i64, to_days: i64) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let now = std::time::SystemTime::now();
        let at = |days: i64| {
            let span = Duration::from_secs(days.unsigned_abs() * 86_400);
            // A minute of slack, so that "from now" is in the past and "30 days" is not cut to 29.
            let at = if days < 0 { now - span } else { now + span };
            if days <= 0 { at - Duration::from_mins(1) } else { at + Duration::from_mins(1) }
        };
        params.not_before = at(from_days).into();
        params.not_after = at(to_days).into();
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A server with such a certificate.
    pub(crate) fn server(&self, name: &str, from_days: i64, to_days: i64) -> ServerConfig {
        let (certificate, key) = self.pair(name, from_days, to_days);
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap()
    }
}
