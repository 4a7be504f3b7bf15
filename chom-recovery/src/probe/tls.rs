//! What probes trust, and what they remember of a certificate that they do not.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::Class;
pub(crate) use crate::tls::find;
use crate::{
    error::{Error, ErrorKind, Result},
    tls::{provider, roots},
};

/// Makes the TLS configuration that verifies against public roots and `ca_file`, and a place in which the
/// certificates of the last handshake are found, also when they were refused.
pub(crate) async fn config(ca_file: Option<&Path>) -> Result<(ClientConfig, Arc<Recorded>)> {
    let failed = |e: &dyn std::fmt::Display| Error::new(ErrorKind::Precondition, format!("TLS cannot be set up: {e}"));
    let provider = provider();
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(ca_file).await?), provider.clone())
        .build()
        .map_err(|e| failed(&e))?;
    let recorded = Arc::new(Recorded { verifier, chain: Mutex::default() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .dangerous()
        .with_custom_certificate_verifier(recorded.clone())
        .with_no_client_auth();
    Ok((config, recorded))
}

/// Verifies as webpki does, and keeps what was presented. It never accepts what webpki refuses.
#[derive(Debug)]
pub(crate) struct Recorded {
    verifier: Arc<WebPkiServerVerifier>,
    chain: Mutex<Vec<CertificateDer<'static>>>,
}

impl Recorded {
    /// Takes the chain of the last handshake, the server's own certificate first.
    pub(crate) fn take(&self) -> Vec<CertificateDer<'static>> {
        std::mem::take(&mut self.chain.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ServerCertVerifier for Recorded {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) =
            std::iter::once(end_entity).chain(intermediates).map(|c| c.clone().into_owned()).collect();
        self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// Tells what a TLS error means.
pub(crate) fn class(error: &rustls::Error) -> Class {
    match error {
        rustls::Error::InvalidCertificate(reason) => match reason {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Class::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Class::NotYetValid,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Class::WrongName,
            _ => Class::Untrusted,
        },
        _ => Class::Tls,
    }
}
