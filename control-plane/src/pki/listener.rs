//! TLS of the agent listener: TLS 1.3, client certificates of our authority, a server certificate that can be replaced
//! while it runs.
//!
//! A client certificate is optional here, because an agent that enrols has none yet; and one that has ended is let through
//! for a while, because an agent that was cut off renews with it. What either may do is decided per request.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{
        ClientHello, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use schema::{
    clock::{Clock, Timestamp},
    encoding::Digest,
};
use service::tls::time::{TimeOf, unix_time};
use x509_parser::prelude::{FromDer, X509Certificate};

/// For how long after its end a certificate still renews.
pub const RENEWAL_WINDOW: Duration = Duration::from_secs(30 * 86_400);

/// The listener's TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// Not PEM of certificates.
    #[error("could not read the PEM of the listener's certificates")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// rustls turned them down.
    #[error("the listener's certificate, key or authority is not usable")]
    Tls(#[source] Error),
    /// The authority is not usable for checking clients.
    #[error("the authority is not usable for checking client certificates")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

/// The server certificate in use; replaced without a restart.
#[derive(Debug)]
pub struct ServerCertificate {
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServerCertificate {
    /// Begins with this chain and key, PEM.
    pub fn new(chain_pem: &str, key_pem: &str) -> Result<Arc<Self>, ListenerError> {
        let provider = Arc::new(service::tls::provider());
        let current = RwLock::new(certified(&provider, chain_pem, key_pem)?);
        Ok(Arc::new(Self { provider, current }))
    }

    /// Uses another one from the next connection on.
    pub fn replace(&self, chain_pem: &str, key_pem: &str) -> Result<(), ListenerError> {
        let next = certified(&self.provider, chain_pem, key_pem)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}

fn certified(provider: &Arc<CryptoProvider>, chain_pem: &str, key_pem: &str) -> Result<Arc<CertifiedKey>, ListenerError> {
    let chain = certificates(chain_pem)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(ListenerError::Pem)?;
    CertifiedKey::from_der(chain, key, provider).map(Arc::new).map_err(ListenerError::Tls)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, ListenerError> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(ListenerError::Pem)
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Whose certificates of agents pass. Replaced without a restart, from the next connection on.
#[derive(Debug)]
pub struct AgentRoots {
    provider: Arc<CryptoProvider>,
    verifier: RwLock<Arc<dyn ClientCertVerifier>>,
    /// SHA-256 of certificates that were found to be of the present authorities.
    taken: Mutex<HashSet<Digest>>,
    renewal_window: Duration,
}

/// So many certificates are remembered at most.
const MAX_TAKEN: usize = 100_000;

impl AgentRoots {
    /// Begins with these authorities, PEM; certificates that ended pass for `renewal_window`.
    pub fn new(authorities_pem: &str, renewal_window: Duration) -> Result<Arc<Self>, ListenerError> {
        let provider = Arc::new(service::tls::provider());
        let verifier = RwLock::new(strict(&provider, authorities_pem)?);
        Ok(Arc::new(Self { provider, verifier, taken: Mutex::default(), renewal_window }))
    }

    /// Believes these from now on, and no others.
    pub fn replace(&self, authorities_pem: &str) -> Result<(), ListenerError> {
        let next = strict(&self.provider, authorities_pem)?;
        *self.verifier.write().unwrap_or_else(PoisonError::into_inner) = next;
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }

    /// Whether a certificate that passed when its connection began is still of an authority that is believed.
    pub fn takes(&self, certificate: &[u8], now: Timestamp) -> bool {
        let sha256 = Digest::of(certificate);
        if self.taken.lock().unwrap_or_else(PoisonError::into_inner).contains(&sha256) {
            return true;
        }
        let takes = self.verify_client_cert(&CertificateDer::from(certificate), &[], unix_time(now)).is_ok();
        if takes {
            let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            if taken.len() >= MAX_TAKEN {
                taken.clear();
            }
            taken.insert(sha256);
        }
        takes
    }

    fn strict(&self) -> Arc<dyn ClientCertVerifier> {
        self.verifier.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn strict(provider: &Arc<CryptoProvider>, authorities_pem: &str) -> Result<Arc<dyn ClientCertVerifier>, ListenerError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(authorities_pem)? {
        roots.add(authority).map_err(ListenerError::Tls)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(ListenerError::Verifier)
}

/// TLS for the agent listener.
pub fn server_config(
    certificate: Arc<dyn ResolvesServerCert>,
    agents: Arc<AgentRoots>,
    clock: Arc<dyn Clock>,
) -> Result<ServerConfig, ListenerError> {
    let mut config = ServerConfig::builder_with_details(agents.provider.clone(), Arc::new(TimeOf(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(ListenerError::Tls)?
        .with_client_cert_verifier(agents)
        .with_cert_resolver(certificate);
    // A resumed session would skip the check of the client certificate.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Checks as rustls does, but lets certificates through that ended not long ago.
impl ClientCertVerifier for AgentRoots {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: they could not follow a set that changes, and an agent has one certificate only.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let strict = self.strict();
        match strict.verify_client_cert(end_entity, intermediates, now) {
            Err(error @ Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
                let ended = not_after(end_entity).ok_or_else(|| error.clone())?;
                let late = now.as_secs().saturating_sub(ended);
                if late > self.renewal_window.as_secs() {
                    return Err(error);
                }
                strict.verify_client_cert(end_entity, intermediates, UnixTime::since_unix_epoch(Duration::from_secs(ended)))
            }
            answer => answer,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.strict().verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.strict().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict().supported_verify_schemes()
    }
}

fn not_after(der: &[u8]) -> Option<u64> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    u64::try_from(certificate.validity().not_after.timestamp()).ok()
}
