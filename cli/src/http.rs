//! The HTTP client: TLS 1.3 only, with the system's authorities or one that was named.

use std::{path::Path, time::Duration};

use crate::error::{Error, Exit};

/// A client for one server. Without `proxy`, the proxy variables of the environment count.
pub fn client(ca_file: Option<&Path>, proxy: Option<&url::Url>) -> Result<reqwest::Client, Error> {
    let Some(path) = ca_file else { return built(builder(proxy)?) };
    let pem = std::fs::read(path)
        .map_err(|source| Error::fault(&format!("could not read the certificate authority {}", path.display()), source))?;
    client_of(&pem, &path.display().to_string(), proxy)
}

/// A client for one server whose certificate is of these authorities, PEM; `what` names them.
pub fn client_of(pem: &[u8], what: &str, proxy: Option<&url::Url>) -> Result<reqwest::Client, Error> {
    let certificates =
        reqwest::Certificate::from_pem_bundle(pem).map_err(|source| Error::fault(&format!("{what} is not a PEM certificate"), source))?;
    if certificates.is_empty() {
        return Err(Error::usage(format!("{what} holds no certificate")));
    }
    built(builder(proxy)?.tls_certs_only(certificates))
}

fn builder(proxy: Option<&url::Url>) -> Result<reqwest::ClientBuilder, Error> {
    let builder = reqwest::Client::builder()
        .min_tls_version(reqwest::tls::Version::TLS_1_3)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(10))
        .user_agent(concat!("freehold/", env!("CARGO_PKG_VERSION")));
    let Some(proxy) = proxy else { return Ok(builder) };
    let unusable = |_| Error::usage(format!("--proxy: '{proxy}' is not a proxy like http://proxy:3128"));
    Ok(builder.proxy(reqwest::Proxy::all(proxy.clone()).map_err(unusable)?))
}

fn built(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, Error> {
    builder.build().map_err(|source| Error::fault("could not make an HTTP client", source))
}

/// Only https, or http on this machine.
pub fn check_url(url: &str, what: &str) -> Result<url::Url, Error> {
    let parsed = url::Url::parse(url).map_err(|_| Error::usage(format!("{what}: '{url}' is not a URL like https://127.0.0.1:7400")))?;
    let loopback = match parsed.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(domain)) => domain == "localhost",
        None => false,
    };
    match parsed.scheme() {
        "https" => Ok(parsed),
        "http" if loopback => Ok(parsed),
        _ => Err(Error::usage(format!("{what}: '{url}' must begin with https:// (http:// only on this machine)"))),
    }
}

/// A request that did not get through.
pub fn unreachable(url: &str, error: reqwest::Error) -> Error {
    let mut report = Error::fault(&format!("no answer from {url}"), error.without_url());
    report.exit = Exit::Unreachable;
    report.code = "unreachable".into();
    let certificate = report.message.contains("certificate") || report.message.contains("UnknownIssuer");
    report.hint(if certificate {
        "the server's certificate is not trusted: name its authority with --ca-file or --agent-ca-file"
    } else {
        "is it running, and is the address right? See 'freehold profile show'"
    })
}
