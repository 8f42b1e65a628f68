//! TLS of the agent listener: TLS 1.3, client certificates of our authority, a server certificate that can be replaced
//! while it runs.
//!
//! A client certificate is optional here, because an agent that enrols has none yet; and one that has ended is let through
//! for a while, because an agent that was cut off renews with it. What either may do is decided per request.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
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
use schema::clock::{Clock, Timestamp};
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

/// TLS for the agent listener. Certificates of agents must be of the authority; ended ones pass for `renewal_window`.
pub fn server_config(
    certificate: Arc<dyn ResolvesServerCert>,
    authority_pem: &str,
    renewal_window: Duration,
    clock: Arc<dyn Clock>,
) -> Result<ServerConfig, ListenerError> {
    let provider = Arc::new(service::tls::provider());
    let mut roots = RootCertStore::empty();
    for authority in certificates(authority_pem)? {
        roots.add(authority).map_err(ListenerError::Tls)?;
    }
    let strict = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(ListenerError::Verifier)?;
    let verifier = Arc::new(AgentVerifier { strict, renewal_window });
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(Time(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(ListenerError::Tls)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    // A resumed session would skip the check of the client certificate.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Our clock for rustls.
struct Time(Arc<dyn Clock>);

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}

impl rustls::time_provider::TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.0.now()))
    }
}

fn unix_time(time: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(time.seconds()).unwrap_or(0)))
}

/// Checks as rustls does, but lets certificates through that ended not long ago.
#[derive(Debug)]
struct AgentVerifier {
    strict: Arc<dyn ClientCertVerifier>,
    renewal_window: Duration,
}

impl ClientCertVerifier for AgentVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.strict.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.strict.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.strict.verify_client_cert(end_entity, intermediates, now) {
            Err(error @ Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
                let ended = not_after(end_entity).ok_or_else(|| error.clone())?;
                let late = now.as_secs().saturating_sub(ended);
                if late > self.renewal_window.as_secs() {
                    return Err(error);
                }
                self.strict.verify_client_cert(end_entity, intermediates, UnixTime::since_unix_epoch(Duration::from_secs(ended)))
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
        self.strict.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.strict.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict.supported_verify_schemes()
    }
}

fn not_after(der: &[u8]) -> Option<u64> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    u64::try_from(certificate.validity().not_after.timestamp()).ok()
}
