//! Sockets that servers listen on, with errors that say what to do, and who is at the other end.

use std::{
    any::Any,
    io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    sync::Arc,
};

use actix_web::{HttpRequest, dev::Extensions};
use rustls_pki_types::CertificateDer;

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Something else listens there.
    #[error("{address} is already in use: another program (perhaps this one, started twice) listens there; stop it or change {setting}")]
    InUse {
        /// The address.
        address: String,
        /// The setting that names it.
        setting: String,
    },
    /// Not for this user.
    #[error("{address} may not be used: ports below 1024 need a privilege; choose a higher port in {setting}")]
    NotAllowed {
        /// The address.
        address: String,
        /// The setting that names it.
        setting: String,
    },
    /// It is no address of this machine, or none at all.
    #[error("cannot listen on {address}; check {setting}, it is host:port with an address of this machine")]
    Unusable {
        /// The address.
        address: String,
        /// The setting that names it.
        setting: String,
        /// Why.
        source: io::Error,
    },
    /// Plain HTTP would leave the machine.
    #[error("{address} is not a loopback address, and plain HTTP must not leave the machine; use TLS, or 127.0.0.1 in {setting}")]
    PlainBeyondLoopback {
        /// The address.
        address: String,
        /// The setting that names it.
        setting: String,
    },
}

/// Listens on `host:port`; `setting` is the name of the setting that holds it, for errors. Hand the result to actix-web's
/// `listen_rustls_0_23`.
pub fn bind(address: &str, setting: &str) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).map_err(|source| {
        let (address, setting) = (address.to_owned(), setting.to_owned());
        match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse { address, setting },
            io::ErrorKind::PermissionDenied => ListenError::NotAllowed { address, setting },
            _ => ListenError::Unusable { address, setting, source },
        }
    })
}

/// As [`bind`], for plain HTTP: only on loopback.
pub fn bind_plain(address: &str, setting: &str) -> Result<TcpListener, ListenError> {
    let resolved: Vec<SocketAddr> = address
        .to_socket_addrs()
        .map_err(|source| ListenError::Unusable { address: address.to_owned(), setting: setting.to_owned(), source })?
        .collect();
    if resolved.iter().any(|one| !one.ip().is_loopback()) {
        return Err(ListenError::PlainBeyondLoopback { address: address.to_owned(), setting: setting.to_owned() });
    }
    bind(address, setting)
}

/// The certificates the other end showed, its own first. Verified against the listener's client roots.
#[derive(Debug, Clone)]
pub struct PeerCertificates(pub Arc<[CertificateDer<'static>]>);

impl PeerCertificates {
    /// Those of the connection this request came over; none when the other end showed none.
    pub fn of(request: &HttpRequest) -> Option<&Self> {
        request.conn_data::<Self>()
    }

    /// The other end's own certificate, DER.
    pub fn leaf(&self) -> Option<&CertificateDer<'static>> {
        self.0.first()
    }
}

/// Keeps the other end's certificates for [`PeerCertificates::of`]: `HttpServer::new(…).on_connect(keep_peer_certificates)`.
pub fn keep_peer_certificates(connection: &dyn Any, extensions: &mut Extensions) {
    type Tls = actix_tls::accept::rustls_0_23::TlsStream<actix_web::rt::net::TcpStream>;
    if let Some(stream) = connection.downcast_ref::<Tls>()
        && let Some(certificates) = stream.get_ref().1.peer_certificates()
    {
        extensions.insert(PeerCertificates(certificates.iter().map(|one| one.clone().into_owned()).collect()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_says_which_and_what_to_do() {
        let first = bind("127.0.0.1:0", "server.address").unwrap();
        let address = first.local_addr().unwrap().to_string();
        let error = bind(&address, "server.address").unwrap_err().to_string();
        assert!(error.starts_with(&format!("{address} is already in use")), "{error}");
        assert!(error.contains("change server.address"), "{error}");
    }

    #[test]
    fn nonsense_names_the_setting() {
        let error = bind("nowhere", "server.address").unwrap_err().to_string();
        assert!(error.contains("check server.address"), "{error}");
    }

    #[test]
    fn plain_http_stays_on_loopback() {
        assert!(bind_plain("127.0.0.1:0", "x").is_ok());
        assert!(matches!(bind_plain("0.0.0.0:0", "x"), Err(ListenError::PlainBeyondLoopback { .. })));
    }
}
