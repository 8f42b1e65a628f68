//! The deployment's certificate authority of agents. One per deployment; its key is sealed like any other secret of ours.
//!
//! It vouches for TLS identity only. What agents believe of each other rests on pairs and vouches, not on certificates.

use std::{net::IpAddr, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use schema::{
    clock::{Ids, Timestamp, random},
    encoding::Digest,
};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::identity::AgentIdentity;

/// The authority's own certificate lives this long.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Certificates begin this much before now, for clocks that run behind.
const BACKDATE: Duration = Duration::from_secs(300);

/// The shortest and longest life of an agent's certificate.
pub const LIFE_MIN: Duration = Duration::from_secs(86_400);
/// See [`LIFE_MIN`].
pub const LIFE_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Issues certificates. Its key never leaves this type but sealed.
pub struct Authority {
    certificate_pem: String,
    certificate_der: Vec<u8>,
    expires: Timestamp,
    issuer: Issuer<'static, KeyPair>,
    key_pem: Zeroizing<String>,
}

/// A certificate that was issued.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate and the authorities above it, PEM.
    pub chain_pem: String,
    /// Its DER.
    pub der: Vec<u8>,
    /// Its serial number, lower-case hexadecimal.
    pub serial: String,
    /// When it ends.
    pub expires: Timestamp,
}

/// Why no certificate was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The signing request is not one, or its signature is not by its own key.
    #[error("the certificate signing request is not PKCS#10, or not signed by its own key")]
    Request(#[source] rcgen::Error),
    /// An algorithm we do not certify.
    #[error("keys of agents are ECDSA P-256, ECDSA P-384 or Ed25519; the certificate signing request has another")]
    KeyType,
    /// Signing or parsing failed.
    #[error("could not issue the certificate")]
    Issue(#[source] rcgen::Error),
}

/// How the authority is kept: certificate and key, to be sealed.
#[derive(Serialize, Deserialize)]
struct Kept<T> {
    certificate_pem: T,
    key_pem: T,
}

/// What was kept is not an authority.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAuthority {
    /// Not the JSON we write.
    #[error("the sealed certificate authority is not readable")]
    Json(#[source] serde_json::Error),
    /// Not a certificate and its key.
    #[error("the sealed certificate authority is not a certificate and its key")]
    Content(#[source] rcgen::Error),
}

impl Authority {
    /// Makes a new authority (ECDSA P-384).
    pub fn generate(ids: &dyn Ids, now: Timestamp) -> Result<Self, IssueError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).map_err(IssueError::Issue)?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        let mut params = CertificateParams::default();
        params.distinguished_name = name("Freehold agent authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(serial(ids));
        set_life(&mut params, now, AUTHORITY_LIFE);
        let certificate = params.self_signed(&key).map_err(IssueError::Issue)?;
        let (certificate_pem, certificate_der) = (certificate.pem(), certificate.der().to_vec());
        let expires = whole_seconds(now.plus(AUTHORITY_LIFE));
        Ok(Self { certificate_pem, certificate_der, expires, issuer: Issuer::new(params, key), key_pem })
    }

    /// Certificate and key as bytes to be sealed. Secret.
    pub fn to_secret(&self) -> Result<Zeroizing<Vec<u8>>, InvalidAuthority> {
        let kept = Kept { certificate_pem: self.certificate_pem.as_str(), key_pem: self.key_pem.as_str() };
        serde_json::to_vec(&kept).map(Zeroizing::new).map_err(InvalidAuthority::Json)
    }

    /// Reads what [`Self::to_secret`] wrote.
    pub fn from_secret(bytes: &[u8]) -> Result<Self, InvalidAuthority> {
        let kept: Kept<String> = serde_json::from_slice(bytes).map_err(InvalidAuthority::Json)?;
        let key_pem = Zeroizing::new(kept.key_pem);
        let key = KeyPair::from_pem(&key_pem).map_err(InvalidAuthority::Content)?;
        let issuer = Issuer::from_ca_cert_pem(&kept.certificate_pem, key).map_err(InvalidAuthority::Content)?;
        let unreadable = || InvalidAuthority::Content(rcgen::Error::CouldNotParseCertificate);
        let (_, pem) = x509_parser::pem::parse_x509_pem(kept.certificate_pem.as_bytes()).map_err(|_| unreadable())?;
        let ends = pem.parse_x509().map_err(|_| unreadable())?.validity().not_after.timestamp();
        let expires = Timestamp::from_micros(ends.saturating_mul(1_000_000));
        Ok(Self { certificate_pem: kept.certificate_pem, certificate_der: pem.contents, expires, issuer, key_pem })
    }

    /// Its own certificate, PEM: what agents and the agent listener trust.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The same, DER.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate_der
    }

    /// SHA-256 of its certificate: what it is called by.
    pub fn sha256(&self) -> Digest {
        Digest::of(&self.certificate_der)
    }

    /// When its own certificate ends.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// Certifies an agent. Only the public key is taken from the request, after its proof of possession; who it is comes
    /// from the caller of this function.
    pub fn issue_agent(
        &self,
        request: &SigningRequest,
        identity: &AgentIdentity,
        life: Duration,
        ids: &dyn Ids,
        now: Timestamp,
    ) -> Result<Issued, IssueError> {
        let life = life.clamp(LIFE_MIN, LIFE_MAX);
        let mut params = leaf(&identity.agent.to_string(), ids, now, life);
        let uri = identity.to_string().try_into().map_err(IssueError::Issue)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let request = CertificateSigningRequestParams { params, public_key: request.parsed.public_key.clone() };
        let certificate = request.signed_by(&self.issuer).map_err(IssueError::Issue)?;
        Ok(self.issued(&certificate, &request.params.serial_number, now.plus(life)))
    }

    /// Makes a key and a certificate for the agent listener itself (ECDSA P-256).
    pub fn issue_listener(&self, names: &[String], life: Duration, ids: &dyn Ids, now: Timestamp) -> Result<(Issued, KeyPair), IssueError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(IssueError::Issue)?;
        let mut params = leaf("Freehold control plane", ids, now, life);
        params.subject_alt_names = names
            .iter()
            .map(|text| match text.parse::<IpAddr>() {
                Ok(address) => Ok(SanType::IpAddress(address)),
                Err(_) => text.as_str().try_into().map(SanType::DnsName),
            })
            .collect::<Result<_, _>>()
            .map_err(IssueError::Issue)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(IssueError::Issue)?;
        Ok((self.issued(&certificate, &params.serial_number, now.plus(life)), key))
    }

    fn issued(&self, certificate: &rcgen::Certificate, serial: &Option<SerialNumber>, expires: Timestamp) -> Issued {
        Issued {
            serial: serial.as_ref().map(hex::encode).unwrap_or_default(),
            chain_pem: format!("{}{}", certificate.pem(), self.certificate_pem),
            der: certificate.der().to_vec(),
            expires: whole_seconds(expires),
        }
    }
}

/// A signing request whose signature was checked and whose key we certify.
pub struct SigningRequest {
    parsed: CertificateSigningRequestParams,
    der: Vec<u8>,
    public_key: Vec<u8>,
}

impl SigningRequest {
    /// Parses PEM and checks the proof of possession and the type of the key.
    pub fn parse(pem: &str) -> Result<Self, IssueError> {
        let parsed = CertificateSigningRequestParams::from_pem(pem).map_err(IssueError::Request)?;
        let (der, public_key) = der_and_key(pem).ok_or(IssueError::Request(rcgen::Error::CouldNotParseCertificationRequest))?;
        let raw = rcgen::PublicKeyData::der_bytes(&parsed.public_key).len();
        let algorithm = parsed.public_key.algorithm();
        // Lengths tie the curve to the signature algorithm: rcgen writes the curve that goes with the latter.
        let known = (*algorithm == rcgen::PKCS_ECDSA_P256_SHA256 && raw == 65)
            || (*algorithm == rcgen::PKCS_ECDSA_P384_SHA384 && raw == 97)
            || (*algorithm == rcgen::PKCS_ED25519 && raw == 32);
        if known { Ok(Self { parsed, der, public_key }) } else { Err(IssueError::KeyType) }
    }

    /// The DER of its subject public key info.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// The request's own DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}

fn der_and_key(pem: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents).ok()?;
    let public_key = request.certification_request_info.subject_pki.raw.to_vec();
    Some((pem.contents, public_key))
}

fn leaf(common_name: &str, ids: &dyn Ids, now: Timestamp, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial(ids));
    set_life(&mut params, now, life);
    params
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// 127 random bits: positive, and within the 20 bytes of RFC 5280.
fn serial(ids: &dyn Ids) -> SerialNumber {
    let mut bytes: [u8; 16] = random(ids);
    bytes[0] &= 0x7f;
    bytes[0] |= 0x40;
    SerialNumber::from_slice(&bytes)
}

fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_micros(time.seconds() * 1_000_000)
}

/// From a little before now, for this long; whole seconds.
fn set_life(params: &mut CertificateParams, now: Timestamp, life: Duration) {
    let after_1970 = |time: Timestamp| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(time.seconds()).unwrap_or(0));
    params.not_before = after_1970(now.minus(BACKDATE));
    params.not_after = after_1970(now.plus(life));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::identity::PeerCertificate;
    use schema::{
        clock::ManualIds,
        id::{AgentId, SiteId, TenantId},
    };

    fn now() -> Timestamp {
        "2026-03-01T12:00:00.000000Z".parse().unwrap()
    }

    fn request(algorithm: &'static rcgen::SignatureAlgorithm) -> String {
        let key = KeyPair::generate_for(algorithm).unwrap();
        CertificateParams::new(vec!["evil.example".to_owned()]).unwrap().serialize_request(&key).unwrap().pem().unwrap()
    }

    #[test]
    fn an_issued_certificate_names_the_agent_and_nothing_the_request_asked_for() {
        let ids = ManualIds::seeded(1);
        let authority = Authority::from_secret(&Authority::generate(&ids, now()).unwrap().to_secret().unwrap()).unwrap();
        let identity = AgentIdentity { tenant: TenantId::from_bits(1), site: SiteId::from_bits(2), agent: AgentId::from_bits(3) };
        let request = SigningRequest::parse(&request(&rcgen::PKCS_ECDSA_P256_SHA256)).unwrap();
        let issued = authority.issue_agent(&request, &identity, Duration::from_secs(7 * 86_400), &ids, now()).unwrap();
        let read = PeerCertificate::read(&issued.der).unwrap();
        assert_eq!(read.identity, identity);
        assert_eq!(read.expires, now().plus(Duration::from_secs(7 * 86_400)));
        assert_eq!(read.public_key, request.public_key());
        assert_eq!(authority.expires(), now().plus(AUTHORITY_LIFE));
    }

    #[test]
    fn lives_are_held_between_a_day_and_thirty() {
        let ids = ManualIds::seeded(1);
        let authority = Authority::generate(&ids, now()).unwrap();
        let identity = AgentIdentity { tenant: TenantId::from_bits(1), site: SiteId::from_bits(2), agent: AgentId::from_bits(3) };
        let request = SigningRequest::parse(&request(&rcgen::PKCS_ED25519)).unwrap();
        for (asked, given) in [(Duration::ZERO, LIFE_MIN), (Duration::from_secs(u32::MAX.into()), LIFE_MAX)] {
            assert_eq!(authority.issue_agent(&request, &identity, asked, &ids, now()).unwrap().expires, now().plus(given));
        }
    }

    #[test]
    fn a_request_that_is_not_signed_by_its_own_key_is_refused() {
        let pem = request(&rcgen::PKCS_ECDSA_P256_SHA256);
        let (_, parsed) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let mut der = parsed.contents;
        let last = der.len() - 1;
        der[last] ^= 1;
        use base64::Engine;
        let forged = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
            base64::engine::general_purpose::STANDARD.encode(der)
        );
        assert!(matches!(SigningRequest::parse(&forged), Err(IssueError::Request(_))));
        assert!(matches!(SigningRequest::parse("junk"), Err(IssueError::Request(_))));
    }
}
