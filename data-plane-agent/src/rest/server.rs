//! The listeners: TLS 1.3 with optional client certificates, plain HTTP on loopback when asked for, a unix socket.

use std::{io, net::SocketAddr, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration};

use actix_web::{
    App, HttpServer,
    dev::Server,
    middleware::from_fn,
    web::{self, ServiceConfig},
};
use schema::{clock::Timestamp, wire::operation::path};
use service::{
    health::Readiness,
    listen::{self, ListenError},
    log::{RequestIds, requests},
    metrics::Metrics,
    problem::{json_config, not_found, path_config, query_config, wrong_method},
    shutdown::{DRAIN_SECONDS, InFlight, counted},
    tls::{self, TlsError, certificate::ReloadingCertificate, client_roots::ClientRoots, development::DevelopmentCertificates},
};

use super::{
    Shared, anew, backup, bare, can, certify, cms, data_key, decrypt, discover, encrypt, public_key, random, self_test, sign, status,
    stream, transfer, transit, verify,
};
use crate::{
    config::Config,
    lock::{self, Locked},
};

/// How long a client may take to send the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be used.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A setting cannot be used.
    #[error(transparent)]
    Config(#[from] service::config::ConfigError),
    /// The server cannot be started.
    #[error("the listener cannot be started")]
    Start(#[source] io::Error),
    /// The unix socket cannot be used.
    #[error("the unix socket {path} cannot be used; check server.unix_socket and the permissions of its directory")]
    UnixSocket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What the listener serves.
#[derive(Clone)]
pub enum Serving {
    /// Everything there is; what handlers share.
    Everything(web::Data<Shared>),
    /// A refusal to everything: the agent is locked.
    Nothing(web::Data<Locked>),
}

/// What the listener needs beside the handlers' own things.
pub struct Parts {
    /// What is served.
    pub serving: Serving,
    /// Whether the agent is ready.
    pub readiness: web::Data<Readiness>,
    /// What is counted.
    pub metrics: web::Data<Metrics>,
    /// Names requests.
    pub request_ids: web::Data<RequestIds>,
    /// Whose client certificates are believed.
    pub client_roots: Arc<ClientRoots>,
    /// What is being answered.
    pub in_flight: InFlight,
}

/// Binds the listeners. Nothing is served until the server is polled.
pub fn bind(config: &Config, parts: Parts, now: Timestamp) -> Result<(Server, SocketAddr), ServerError> {
    let Parts { serving, readiness, metrics, request_ids, client_roots, in_flight } = parts;
    let body_limit = usize::try_from(config.limits.body.0).unwrap_or(usize::MAX);
    let mut server = HttpServer::new(move || {
        let serving = serving.clone();
        App::new()
            .app_data(readiness.clone())
            .app_data(metrics.clone())
            .app_data(request_ids.clone())
            .app_data(json_config(body_limit))
            .app_data(path_config())
            .app_data(query_config())
            .app_data(web::Data::new(in_flight.clone()))
            .wrap(from_fn(counted))
            .wrap(from_fn(requests))
            .configure(move |config| serving.configure(config))
    })
    .disable_signals()
    .on_connect(listen::keep_peer_certificates)
    .client_request_timeout(HEAD_LIMIT)
    .keep_alive(KEEP_ALIVE)
    .max_connections(config.limits.connections)
    .shutdown_timeout(DRAIN_SECONDS);
    if let Some(workers) = config.server.workers {
        server = server.workers(workers);
    }
    let address;
    if config.server.plain_http {
        let listener = listen::bind_plain(&config.server.listen, "server.listen")?;
        address = listener.local_addr().map_err(ServerError::Start)?;
        server = server.listen(listener).map_err(ServerError::Start)?;
    } else {
        let listener = listen::bind(&config.server.listen, "server.listen")?;
        address = listener.local_addr().map_err(ServerError::Start)?;
        let certificate = match config.server.tls.files()? {
            Some((certificate, key)) => ReloadingCertificate::open(certificate, key)?,
            None => {
                let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
                names.extend(config.server.names.iter().cloned());
                let files = DevelopmentCertificates::ensure(&config.tls_directory(), &names, now)?;
                tracing::info!(authority = %files.authority.display(), "using a development certificate; set server.tls for your own");
                ReloadingCertificate::open(&files.certificate, &files.key)?
            }
        };
        let tls = tls::server_config(Arc::new(certificate), Some(client_roots))?;
        server = server.listen_rustls_0_23(listener, tls).map_err(ServerError::Start)?;
    }
    if let Some(path) = &config.server.unix_socket {
        let fault = |source| ServerError::UnixSocket { path: path.clone(), source };
        // A socket that a process before us left behind.
        if path.exists() && std::os::unix::net::UnixStream::connect(path).is_err() {
            std::fs::remove_file(path).map_err(fault)?;
        }
        server = server.bind_uds(path).map_err(fault)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(fault)?;
    }
    Ok((server.run(), address))
}

impl Serving {
    fn configure(self, config: &mut ServiceConfig) {
        match self {
            Self::Everything(shared) => {
                config.app_data(shared);
                routes(config);
                config.default_service(web::to(not_found));
            }
            Self::Nothing(locked) => {
                config.app_data(locked).default_service(web::to(lock::refuse));
            }
        }
        service::health::routes(config);
        service::metrics::routes(config);
    }
}

fn routes(config: &mut ServiceConfig) {
    let mut serve = |at: &str, route: actix_web::Route| {
        config.service(web::resource(at).route(route).default_service(web::to(wrong_method)));
    };
    macro_rules! operations {
        ($($name:literal => ($one:path, $many:path);)*) => {
            $(serve(concat!("/v1/", $name), web::post().to($one));
            serve(concat!("/v1/batch/", $name), web::post().to($many));)*
        };
    }
    operations! {
        "encrypt" => (encrypt::encrypt, encrypt::encrypt_batch);
        "decrypt" => (decrypt::decrypt, decrypt::decrypt_batch);
        "generate-data-key" => (data_key::generate_data_key, data_key::generate_data_key_batch);
        "rewrap" => (anew::rewrap, anew::rewrap_batch);
        "re-encrypt" => (anew::re_encrypt, anew::re_encrypt_batch);
        "sign" => (sign::sign, sign::sign_batch);
        "verify" => (verify::verify, verify::verify_batch);
        "re-sign" => (anew::re_sign, anew::re_sign_batch);
        "sign-digest" => (bare::sign_digest, bare::sign_digest_batch);
        "verify-digest" => (bare::verify_digest, bare::verify_digest_batch);
        "mac" => (bare::mac, bare::mac_batch);
        "verify-mac" => (bare::verify_mac, bare::verify_mac_batch);
        "wrap" => (bare::wrap, bare::wrap_batch);
        "unwrap" => (bare::unwrap, bare::unwrap_batch);
        "agree" => (bare::agree, bare::agree_batch);
        "encapsulate" => (bare::encapsulate, bare::encapsulate_batch);
        "decapsulate" => (bare::decapsulate, bare::decapsulate_batch);
        "derive" => (bare::derive, bare::derive_batch);
        "cms/open" => (cms::open, cms::open_batch);
        "cms/verify" => (cms::verify, cms::verify_batch);
        "transit/open" => (transit::open, transit::open_batch);
        "certify" => (certify::certify, certify::certify_batch);
        "import-key" => (transfer::import_key, transfer::import_key_batch);
        "import" => (transfer::import, transfer::import_batch);
        "export" => (transfer::export, transfer::export_batch);
        "random" => (random::random, random::random_batch);
    }
    serve(path::STREAM_ENCRYPT, web::post().to(stream::encrypt));
    serve(path::STREAM_DECRYPT, web::post().to(stream::decrypt));
    serve(path::STREAM_RE_ENCRYPT, web::post().to(stream::anew::re_encrypt));
    serve(path::STREAM_SIGN, web::post().to(stream::sign::sign));
    serve(path::STREAM_VERIFY, web::post().to(stream::sign::verify));
    serve(path::STREAM_RE_SIGN, web::post().to(stream::sign::re_sign));
    serve(path::CAN, web::post().to(can::can));
    serve(path::KEYS, web::get().to(discover::keys));
    serve(path::ALGORITHMS, web::get().to(discover::algorithms));
    serve(path::JWKS, web::get().to(discover::jwks));
    serve(path::STATUS, web::get().to(status::status));
    serve(path::SELF_TEST, web::post().to(self_test::self_test));
    serve(path::BACKUP, web::post().to(backup::backup));
    serve("/v1/keys/{key}/public", web::get().to(public_key::by_id));
    serve("/v1/keys/{project}/{name}/public", web::get().to(public_key::by_name));
}
