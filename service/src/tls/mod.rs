//! TLS 1.3 only, X25519MLKEM768 first, aws-lc-rs underneath.
//!
//! - [`certificate`]: a listener's own certificate, read again when its files change.
//! - [`development`]: an authority and a certificate made on first start, for machines without any.
//! - [`time`]: certificates are judged by the clock that everything else goes by.
//! - [`client_roots`]: whose client certificates are believed; may change while the listener runs.

pub mod certificate;
pub mod client_roots;
pub mod development;
pub mod time;

use std::{path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, kx_group},
    },
    server::{ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    time_provider::{DefaultTimeProvider, TimeProvider},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use schema::clock::Timestamp;

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] crate::files::FileError),
    /// A file is not what it should be.
    #[error("{path} does not hold {expected} in PEM; check the file")]
    Pem {
        /// The file.
        path: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// The certificate and the key cannot be used together.
    #[error("the certificate in {certificate} and the key in {key} cannot be used; check that they belong together")]
    Pair {
        /// The certificate's file.
        certificate: String,
        /// The key's file.
        key: String,
        /// Why.
        source: rustls::Error,
    },
    /// A certificate authority cannot be used.
    #[error("a certificate authority cannot be used")]
    Authority(#[source] rustls::Error),
    /// The library refused the configuration.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
    /// A development certificate could not be made.
    #[error("a development certificate cannot be made")]
    Issue(#[source] rcgen::Error),
}

/// The algorithms: TLS 1.3 suites; X25519MLKEM768 first, then X25519 and P-256 for those who cannot.
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    }
}

/// Makes [`provider`] the process's own, for libraries that ask for it. May be called again; the first call counts.
pub fn install_provider() {
    // An error only says that one is installed already: ours, from an earlier call.
    let _ = provider().install_default();
}

/// What a listener speaks. With `clients`, it asks for client certificates: see [`client_roots::ClientRoots`].
pub fn server_config(
    certificate: Arc<dyn ResolvesServerCert>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?;
    let verifier = clients.unwrap_or_else(WebPkiClientVerifier::no_client_auth);
    Ok(builder.with_client_cert_verifier(verifier).with_cert_resolver(certificate))
}

/// What a raw TLS client speaks, believing only `roots`; with `identity` it shows a certificate. For HTTP see
/// [`crate::outgoing`].
pub fn client_config(
    roots: impl IntoIterator<Item = CertificateDer<'static>>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<ClientConfig, TlsError> {
    client_config_at(roots, identity, Arc::new(DefaultTimeProvider))
}

/// The same; certificates are judged by this time.
pub fn client_config_at(
    roots: impl IntoIterator<Item = CertificateDer<'static>>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    time: Arc<dyn TimeProvider>,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_details(Arc::new(provider()), time)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?
        .with_root_certificates(root_store(roots)?);
    match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(TlsError::Setup),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// Whether a certificate, leaf first, is a client's under one of these authorities.
pub fn verify_client(chain: &[CertificateDer<'static>], roots: Vec<CertificateDer<'static>>, now: Timestamp) -> Result<(), TlsError> {
    let (leaf, above) = chain.split_first().ok_or(TlsError::Authority(rustls::Error::NoCertificatesPresented))?;
    let believed = client_roots::ClientRoots::required();
    believed.set(roots)?;
    believed.verify_client_cert(leaf, above, time::unix_time(now)).map(drop).map_err(TlsError::Authority)
}

fn root_store(roots: impl IntoIterator<Item = CertificateDer<'static>>) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root).map_err(TlsError::Authority)?;
    }
    Ok(store)
}

/// Reads every certificate of a PEM text; `path` is for errors. At least one must be there.
pub fn certificates_from_pem(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = || TlsError::Pem { path: path.display().to_string(), expected: "a certificate" };
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|_| wrong())?;
    if certificates.is_empty() { Err(wrong()) } else { Ok(certificates) }
}

/// A certificate as PEM.
pub fn to_pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(|line| format!("{}\n", String::from_utf8_lossy(line)));
    format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", lines.collect::<String>())
}

/// Reads the first private key of a PEM text; `path` is for errors.
pub fn key_from_pem(pem: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| TlsError::Pem { path: path.display().to_string(), expected: "a private key" })
}

/// Reads the certificates of a file.
pub fn certificates_from_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = std::fs::read(path).map_err(|source| crate::files::FileError::Io { act: "read", path: path.to_path_buf(), source })?;
    certificates_from_pem(&pem, path)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        time::Duration,
    };

    use rustls::{NamedGroup, ProtocolVersion, StreamOwned};
    use schema::clock::{Clock, ManualClock, SystemClock};

    use super::{client_roots::ClientRoots, development::DevelopmentCertificates, *};

    /// One connection: what the client's handshake agreed on, or the first error of either side.
    pub(crate) fn handshake(server: ServerConfig, client: ClientConfig) -> Result<(ProtocolVersion, NamedGroup, bool), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = std::thread::spawn(move || -> Result<bool, String> {
            let (tcp, _) = listener.accept().map_err(|error| error.to_string())?;
            let mut stream = StreamOwned::new(rustls::ServerConnection::new(Arc::new(server)).unwrap(), tcp);
            stream.write_all(b"x").map_err(|error| error.to_string())?;
            stream.flush().map_err(|error| error.to_string())?;
            Ok(stream.conn.peer_certificates().is_some())
        });
        let tcp = std::net::TcpStream::connect(address).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let connection = rustls::ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap()).unwrap();
        let mut stream = StreamOwned::new(connection, tcp);
        let read = stream.read_exact(&mut [0]).map_err(|error| error.to_string());
        let seen = serving.join().unwrap();
        read?;
        let conn = &stream.conn;
        Ok((conn.protocol_version().unwrap(), conn.negotiated_key_exchange_group().unwrap().name(), seen?))
    }

    pub(crate) fn development(directory: &Path) -> (Arc<certificate::ReloadingCertificate>, Vec<CertificateDer<'static>>) {
        let files = DevelopmentCertificates::ensure(directory, &["localhost".to_owned()], SystemClock.now()).unwrap();
        let roots = certificates_from_file(&files.authority).unwrap();
        (Arc::new(certificate::ReloadingCertificate::open(&files.certificate, &files.key).unwrap()), roots)
    }

    #[test]
    fn both_sides_agree_on_tls_1_3_with_the_hybrid_group() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, roots) = development(directory.path());
        let agreed = handshake(server_config(certificate, None).unwrap(), client_config(roots, None).unwrap()).unwrap();
        assert_eq!(agreed, (ProtocolVersion::TLSv1_3, NamedGroup::X25519MLKEM768, false));
    }

    #[test]
    fn a_client_believes_only_its_roots() {
        let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (certificate, _) = development(directory.path());
        let (_, foreign) = development(other.path());
        let error = handshake(server_config(certificate, None).unwrap(), client_config(foreign, None).unwrap()).unwrap_err();
        assert!(error.contains("certificate"), "{error}");
    }

    #[test]
    fn client_certificates_follow_the_roots_of_the_moment() {
        let (directory, clients) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (certificate, roots) = development(directory.path());
        let files = DevelopmentCertificates::ensure(clients.path(), &["client".to_owned()], SystemClock.now()).unwrap();
        let chain = certificates_from_file(&files.certificate).unwrap();
        let key = || key_from_pem(&std::fs::read(&files.key).unwrap(), &files.key).unwrap();
        let believed = Arc::new(ClientRoots::optional());
        let server = server_config(certificate.clone(), Some(believed.clone())).unwrap();
        let with = || client_config(roots.clone(), Some((chain.clone(), key()))).unwrap();
        let without = || client_config(roots.clone(), None).unwrap();

        assert!(!handshake(server.clone(), without()).unwrap().2);
        handshake(server.clone(), with()).unwrap_err();
        believed.set(certificates_from_file(&files.authority).unwrap()).unwrap();
        assert!(handshake(server.clone(), with()).unwrap().2);
        believed.set(vec![]).unwrap();
        handshake(server, with()).unwrap_err();

        let required = server_config(certificate, Some(Arc::new(ClientRoots::required()))).unwrap();
        handshake(required, without()).unwrap_err();
    }

    #[test]
    fn a_certificate_is_replaced_without_a_restart_and_a_broken_one_is_not_taken() {
        let (directory, next) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (_, old_roots) = development(directory.path());
        let (_, new_roots) = development(next.path());
        let files = DevelopmentCertificates::ensure(directory.path(), &["localhost".to_owned()], SystemClock.now()).unwrap();
        let certificate = Arc::new(certificate::ReloadingCertificate::open(&files.certificate, &files.key).unwrap().every(Duration::ZERO));
        let server = server_config(certificate, None).unwrap();
        let with = |roots: &Vec<CertificateDer<'static>>| handshake(server.clone(), client_config(roots.clone(), None).unwrap());

        with(&old_roots).unwrap();
        crate::files::write_atomic(&files.certificate, b"nonsense", 0o644).unwrap();
        with(&old_roots).unwrap();
        for name in ["certificate.pem", "key.pem"] {
            let bytes = std::fs::read(next.path().join(name)).unwrap();
            crate::files::write_atomic(&directory.path().join(name), &bytes, 0o600).unwrap();
        }
        with(&new_roots).unwrap();
        with(&old_roots).unwrap_err();
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now = SystemClock.now();
        let one = DevelopmentCertificates::ensure(directory.path(), &["localhost".to_owned()], now).unwrap();
        let two = DevelopmentCertificates::ensure(other.path(), &["localhost".to_owned()], now).unwrap();
        let error = certificate::ReloadingCertificate::open(&one.certificate, &two.key).unwrap_err();
        assert!(error.to_string().contains("belong together"), "{error}");
    }

    #[test]
    fn development_certificates_are_kept_while_they_serve_and_made_anew_in_time() {
        let directory = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(SystemClock.now());
        let make = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let files = DevelopmentCertificates::ensure(directory.path(), &names, clock.now()).unwrap();
            [&files.authority, &files.certificate].map(|path| std::fs::read(path).unwrap())
        };
        let first = make(&["localhost"]);
        assert_eq!(first, make(&["localhost"]));
        let renamed = make(&["localhost", "control.internal"]);
        assert_eq!(first[0], renamed[0], "the authority stays");
        assert_ne!(first[1], renamed[1], "a name was missing");
        clock.advance(Duration::from_secs(380 * 86_400));
        assert_ne!(renamed[1], make(&["localhost"])[1], "too old");

        use std::os::unix::fs::MetadataExt;
        for name in ["key.pem", "authority-key.pem"] {
            assert_eq!(std::fs::metadata(directory.path().join(name)).unwrap().mode() & 0o777, 0o600);
        }
    }
}
