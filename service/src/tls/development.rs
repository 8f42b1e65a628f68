//! An authority and a certificate made on first start, so that a bare machine speaks TLS at once. Not for production: the
//! authority's key lies beside the certificate.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use schema::clock::Timestamp;

use super::{TlsError, certificates_from_file};
use crate::files::{FileError, OWNER_ONLY, READABLE, create_private_directory, read_secret, write_atomic};

const DAY: Duration = Duration::from_secs(86_400);
/// How long a certificate lives.
const CERTIFICATE_DAYS: u32 = 397;
/// It is made anew when less than this is left.
const RENEW_DAYS: u32 = 30;
/// How long the authority lives.
const AUTHORITY_DAYS: u32 = 3650;

/// Where the files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevelopmentCertificates {
    /// The authority's certificate, for clients to believe.
    pub authority: PathBuf,
    /// The listener's certificate and the authority above it.
    pub certificate: PathBuf,
    /// The listener's key, readable by its owner only.
    pub key: PathBuf,
}

impl DevelopmentCertificates {
    /// Makes what is missing in `directory`: an authority once, and a certificate for `names` (DNS names or addresses) when
    /// there is none, one of the names is not in it, or it is about to end.
    pub fn ensure(directory: &Path, names: &[String], now: Timestamp) -> Result<Self, TlsError> {
        create_private_directory(directory)?;
        let files = Self {
            authority: directory.join("authority.pem"),
            certificate: directory.join("certificate.pem"),
            key: directory.join("key.pem"),
        };
        let authority_key = directory.join("authority-key.pem");
        let made_authority = !files.authority.exists() || !authority_key.exists();
        if made_authority {
            make_authority(&files.authority, &authority_key, now)?;
        }
        if made_authority || !files.serves(names, now) {
            files.make_certificate(&authority_key, names, now)?;
        }
        Ok(files)
    }

    fn serves(&self, names: &[String], now: Timestamp) -> bool {
        let Ok(chain) = certificates_from_file(&self.certificate) else { return false };
        let Some(Ok((_, certificate))) = chain.first().map(|leaf| x509_parser::parse_x509_certificate(leaf)) else { return false };
        let renew_at = now.plus(DAY * RENEW_DAYS).seconds();
        let Ok(Some(present)) = certificate.subject_alternative_name() else { return false };
        let present: Vec<String> = present.value.general_names.iter().filter_map(name_text).collect();
        self.key.exists() && certificate.validity().not_after.timestamp() > renew_at && names.iter().all(|name| present.contains(name))
    }

    fn make_certificate(&self, authority_key: &Path, names: &[String], now: Timestamp) -> Result<(), TlsError> {
        let authority_pem = read_text(&self.authority)?;
        let issuer_key = KeyPair::from_pem(&String::from_utf8_lossy(&read_secret(authority_key)?)).map_err(TlsError::Issue)?;
        let issuer = Issuer::from_ca_cert_pem(&authority_pem, issuer_key).map_err(TlsError::Issue)?;
        let key = KeyPair::generate().map_err(TlsError::Issue)?;
        let mut params = CertificateParams::new(names).map_err(TlsError::Issue)?;
        params.distinguished_name.push(DnType::CommonName, "Freehold development");
        // Both ends of a mutual connection may use one, in tests and on a bare machine.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        live(&mut params, now, CERTIFICATE_DAYS);
        let certificate = params.signed_by(&key, &issuer).map_err(TlsError::Issue)?;
        write_atomic(&self.key, key.serialize_pem().as_bytes(), OWNER_ONLY)?;
        write_atomic(&self.certificate, format!("{}{authority_pem}", certificate.pem()).as_bytes(), READABLE)?;
        Ok(())
    }
}

fn make_authority(certificate: &Path, key: &Path, now: Timestamp) -> Result<(), TlsError> {
    let pair = KeyPair::generate().map_err(TlsError::Issue)?;
    let mut params = CertificateParams::new(Vec::<String>::new()).map_err(TlsError::Issue)?;
    params.distinguished_name.push(DnType::CommonName, "Freehold development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    live(&mut params, now, AUTHORITY_DAYS);
    let issued = params.self_signed(&pair).map_err(TlsError::Issue)?;
    write_atomic(key, pair.serialize_pem().as_bytes(), OWNER_ONLY)?;
    write_atomic(certificate, issued.pem().as_bytes(), READABLE)?;
    Ok(())
}

/// From an hour ago, for clocks that are a little behind.
fn live(params: &mut CertificateParams, now: Timestamp, days: u32) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let seconds = |time: Timestamp| Duration::from_secs(u64::try_from(time.seconds()).unwrap_or(0));
    params.not_before = epoch + seconds(now.minus(Duration::from_secs(3600)));
    params.not_after = epoch + seconds(now.plus(DAY * days));
}

fn name_text(name: &x509_parser::extensions::GeneralName<'_>) -> Option<String> {
    use x509_parser::extensions::GeneralName;
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(four) => Some(std::net::IpAddr::from(four).to_string()),
            Err(_) => <[u8; 16]>::try_from(*bytes).ok().map(|sixteen| std::net::IpAddr::from(sixteen).to_string()),
        },
        _ => None,
    }
}

fn read_text(path: &Path) -> Result<String, TlsError> {
    std::fs::read_to_string(path).map_err(|source| FileError::Io { act: "read", path: path.to_path_buf(), source }.into())
}
