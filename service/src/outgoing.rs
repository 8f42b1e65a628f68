//! The HTTP client for outgoing connections: TLS 1.3, X25519MLKEM768 first, proxy, private authority, client certificate.

use std::{error::Error, io, path::Path, sync::Arc, time::Duration};

use schema::clock::Clock;
use zeroize::Zeroizing;

use crate::{
    config::OutgoingConfig,
    tls::{self, TlsError, time::TimeOf},
};

/// Whose server certificates are believed.
#[derive(Debug, Clone, Default)]
pub enum Trust {
    /// The system's authorities, and those of [`OutgoingConfig::ca_file`].
    #[default]
    System,
    /// Only these, PEM: a peer whose authority is known beforehand.
    Only(String),
    /// Anybody: what such a peer says must prove itself, and what it is told must be no secret.
    Anybody,
}

/// A client certificate, and its key in PEM.
pub struct Identity {
    /// The certificate and the authorities above it, PEM.
    pub certificate_pem: String,
    /// Its private key, PEM.
    pub key_pem: Zeroizing<String>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum OutgoingError {
    /// The authority file could not be read.
    #[error("outgoing.ca_file {path} cannot be read; check the path and its permissions")]
    AuthorityFile {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Authorities are no certificates in PEM.
    #[error("{what} does not hold certificates in PEM")]
    Authority {
        /// Where they came from.
        what: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The proxy cannot be used.
    #[error("outgoing.proxy cannot be used; it looks like http://proxy:3128")]
    Proxy(#[source] reqwest::Error),
    /// The client certificate cannot be used.
    #[error("the client certificate and its key cannot be used together")]
    Identity(#[source] reqwest::Error),
    /// TLS cannot be set up with these certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Everything else.
    #[error("the client for outgoing connections cannot be made")]
    Client(#[source] reqwest::Error),
}

/// The client. Redirects are not followed, and the environment's proxy variables are not read.
pub fn client(config: &OutgoingConfig, trust: &Trust, identity: Option<&Identity>) -> Result<reqwest::Client, OutgoingError> {
    let mut builder = builder(config)?.tls_backend_rustls().tls_version_min(reqwest::tls::Version::TLS_1_3);
    builder = match trust {
        Trust::Only(pem) => builder.tls_certs_only(authorities(pem.as_bytes(), "the authority of the peer")?),
        Trust::Anybody => builder.tls_danger_accept_invalid_certs(true),
        Trust::System => match &config.ca_file {
            Some(path) => builder.tls_certs_merge(authorities(&read(path)?, &format!("outgoing.ca_file {}", path.display()))?),
            None => builder,
        },
    };
    if let Some(identity) = identity {
        let pem = Zeroizing::new(format!("{}\n{}", identity.certificate_pem, *identity.key_pem));
        builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).map_err(OutgoingError::Identity)?);
    }
    builder.build().map_err(OutgoingError::Client)
}

/// The client that believes only the authorities in this PEM, and judges certificates by this clock.
pub fn client_at(
    config: &OutgoingConfig,
    authorities_pem: &str,
    identity: Option<&Identity>,
    clock: Arc<dyn Clock>,
) -> Result<reqwest::Client, OutgoingError> {
    let roots = tls::certificates_from_pem(authorities_pem.as_bytes(), Path::new("the authority of the peer"))?;
    let identity = identity.map(|identity| {
        let chain = tls::certificates_from_pem(identity.certificate_pem.as_bytes(), Path::new("the client certificate"))?;
        let key = tls::key_from_pem(identity.key_pem.as_bytes(), Path::new("the key of the client certificate"))?;
        Ok::<_, TlsError>((chain, key))
    });
    let mut tls = tls::client_config_at(roots, identity.transpose()?, Arc::new(TimeOf(clock)))?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    builder(config)?.tls_backend_preconfigured(tls).build().map_err(OutgoingError::Client)
}

/// Whether a connection failed because of a certificate: theirs, or ours.
pub fn is_about_certificates(error: &(dyn Error + 'static)) -> bool {
    let here = match error.downcast_ref::<rustls::Error>() {
        Some(error) => matches!(error, rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)),
        // What an I/O error was made of is not its source.
        None => error.downcast_ref::<io::Error>().and_then(io::Error::get_ref).is_some_and(|inner| is_about_certificates(inner)),
    };
    here || error.source().is_some_and(is_about_certificates)
}

fn builder(config: &OutgoingConfig) -> Result<reqwest::ClientBuilder, OutgoingError> {
    tls::install_provider();
    let builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(10))
        .tcp_nodelay(true)
        .user_agent(concat!("freehold/", env!("CARGO_PKG_VERSION")));
    Ok(match &config.proxy {
        Some(proxy) => builder.proxy(reqwest::Proxy::all(proxy.clone()).map_err(OutgoingError::Proxy)?),
        None => builder.no_proxy(),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, OutgoingError> {
    std::fs::read(path).map_err(|source| OutgoingError::AuthorityFile { path: path.display().to_string(), source })
}

fn authorities(pem: &[u8], what: &str) -> Result<Vec<reqwest::Certificate>, OutgoingError> {
    reqwest::Certificate::from_pem_bundle(pem).map_err(|source| OutgoingError::Authority { what: what.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
    use schema::clock::{ManualClock, SystemClock};

    use super::*;
    use crate::{
        listen::{PeerCertificates, bind, keep_peer_certificates},
        tls::{certificates_from_file, client_roots::ClientRoots, development::DevelopmentCertificates, server_config, tests::development},
    };

    async fn whoami(request: HttpRequest) -> HttpResponse {
        HttpResponse::Ok().body(PeerCertificates::of(&request).map_or("nobody", |_| "somebody"))
    }

    #[actix_web::test]
    async fn the_client_meets_an_actix_listener_with_and_without_a_certificate() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, roots) = development(directory.path());
        let believed = std::sync::Arc::new(ClientRoots::optional());
        believed.set(roots).unwrap();
        let listener = bind("127.0.0.1:0", "test").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = HttpServer::new(|| App::new().route("/", web::get().to(whoami)))
            .workers(1)
            .on_connect(keep_peer_certificates)
            .listen_rustls_0_23(listener, server_config(certificate, Some(believed)).unwrap())
            .unwrap()
            .run();
        let handle = server.handle();
        actix_web::rt::spawn(server);

        let files = DevelopmentCertificates::ensure(directory.path(), &["localhost".to_owned()], SystemClock.now()).unwrap();
        assert_eq!(certificates_from_file(&files.authority).unwrap().len(), 1);
        let trust = Trust::Only(std::fs::read_to_string(&files.authority).unwrap());
        let identity = Identity {
            certificate_pem: std::fs::read_to_string(&files.certificate).unwrap(),
            key_pem: Zeroizing::new(std::fs::read_to_string(&files.key).unwrap()),
        };
        let config = OutgoingConfig::default();
        let url = format!("https://localhost:{port}/");
        for (identity, expected) in [(None, "nobody"), (Some(&identity), "somebody")] {
            let answer = client(&config, &trust, identity).unwrap().get(&url).send().await.unwrap();
            assert_eq!(answer.text().await.unwrap(), expected);
        }
        let stranger = tempfile::tempdir().unwrap();
        development(stranger.path());
        let foreign = Trust::Only(std::fs::read_to_string(stranger.path().join("authority.pem")).unwrap());
        let refused = client(&config, &foreign, None).unwrap().get(&url).send().await.unwrap_err();
        assert!(is_about_certificates(&refused), "{refused:?}");
        client(&config, &Trust::Anybody, None).unwrap().get(&url).send().await.unwrap();

        // By another clock, the same certificate is of another time.
        let pem = std::fs::read_to_string(&files.authority).unwrap();
        let day = Duration::from_secs(86_400);
        let now = SystemClock.now();
        for (clock, believed) in [(now, true), (now.plus(500 * day), false), (now.minus(500 * day), false)] {
            let client = client_at(&config, &pem, Some(&identity), std::sync::Arc::new(ManualClock::at(clock))).unwrap();
            match client.get(&url).send().await {
                Ok(answer) => assert!(believed && answer.text().await.unwrap() == "somebody", "{clock}"),
                Err(error) => assert!(!believed && is_about_certificates(&error), "{clock}: {error:?}"),
            }
        }
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let refused = client(&config, &trust, None).unwrap().get(format!("https://{nobody}/")).send().await.unwrap_err();
        assert!(!is_about_certificates(&refused), "{refused:?}");
        handle.stop(false).await;
    }

    #[test]
    fn wrong_settings_are_named() {
        let config = OutgoingConfig { proxy: None, ca_file: Some("/nowhere/ca.pem".into()) };
        assert!(client(&config, &Trust::System, None).unwrap_err().to_string().contains("outgoing.ca_file /nowhere/ca.pem"));
    }
}
