//! Whose client certificates a listener believes. The set may change while the listener runs.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{TlsError, provider, root_store};

/// Certificate authorities of clients. Connections that are open already stay; what a certificate allows is decided by
/// whoever reads it from the request.
#[derive(Debug)]
pub struct ClientRoots {
    required: bool,
    algorithms: WebPkiSupportedAlgorithms,
    verifier: RwLock<Option<Arc<dyn ClientCertVerifier>>>,
}

impl ClientRoots {
    /// Clients may come without a certificate. Believes nobody until [`Self::set`].
    pub fn optional() -> Self {
        Self { required: false, algorithms: provider().signature_verification_algorithms, verifier: RwLock::default() }
    }

    /// Clients must show a certificate. Believes nobody until [`Self::set`].
    pub fn required() -> Self {
        Self { required: true, ..Self::optional() }
    }

    /// Replaces the authorities, from the next handshake on. None at all: nobody is believed.
    pub fn set(&self, roots: Vec<CertificateDer<'static>>) -> Result<(), TlsError> {
        let verifier = if roots.is_empty() {
            None
        } else {
            let store = Arc::new(root_store(roots)?);
            let built = WebPkiClientVerifier::builder_with_provider(store, Arc::new(provider())).build();
            Some(built.map_err(|error| TlsError::Authority(Error::General(error.to_string())))?)
        };
        *self.verifier.write().unwrap_or_else(PoisonError::into_inner) = verifier;
        Ok(())
    }
}

impl ClientCertVerifier for ClientRoots {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: they could not follow a changing set, and clients then simply show what they have.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verifier = self.verifier.read().unwrap_or_else(PoisonError::into_inner).clone();
        verifier.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
