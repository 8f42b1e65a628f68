//! Certificates of keys in the vault: requests for them (PKCS #10, RFC 2986), and those that a key signs itself (RFC 5280).
//!
//! What is signed is built here, from parsed names: nobody hands over bytes to be signed. Signatures are those of RFC 4055
//! (RSASSA-PSS), RFC 5758 (ECDSA), RFC 8410, RFC 9881 (ML-DSA) and RFC 9909 (SLH-DSA).

use std::{net::IpAddr, time::Duration};

use der::{
    Encode as _, Sequence,
    asn1::{Any, BitString, Ia5String, OctetString, SetOfVec, UintRef},
    pem::{LineEnding, encode_string},
};
use schema::{
    catalogue::{Algorithm, Family},
    clock::{Ids, Timestamp, random},
    public_key::identifier,
};
use spki::{AlgorithmIdentifierOwned, ObjectIdentifier, SubjectPublicKeyInfoOwned};
use x509_cert::{
    attr::Attribute,
    ext::{Extension, pkix::name::GeneralName},
    name::Name,
    request::{CertReq, CertReqInfo, Version},
    time::{Time, Validity},
};

use super::MessageError;
use crate::{
    policy::permit::UsePermit,
    vault::{Held, Vault},
};

const WHAT: &str = "certificate that can be asked for";
/// The most names of one certificate.
const MAX_NAMES: usize = 100;
/// The most bytes of one name.
const MAX_NAME_BYTES: usize = 253;
/// The most bytes of a subject.
const MAX_SUBJECT_BYTES: usize = 1024;

const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const CLIENT_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");
const EXTENSION_REQUEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.14");

/// Whom a certificate is for.
#[derive(Debug, Clone)]
pub struct Subject {
    name: Name,
    alternatives: Vec<GeneralName>,
    /// The alternatives as text: `dns:pay.example`.
    said: Vec<String>,
}

/// Names as they were asked for.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// RFC 4514.
    pub subject: &'a str,
    /// DNS names.
    pub dns: &'a [String],
    /// IP addresses.
    pub ip: &'a [IpAddr],
    /// E-mail addresses.
    pub email: &'a [String],
    /// URIs.
    pub uri: &'a [String],
}

impl Subject {
    /// Parses names: each is what it says it is, and there is at least one.
    pub fn parse(names: Names<'_>) -> Result<Self, MessageError> {
        let malformed = |detail: String| MessageError::Malformed { what: WHAT, detail };
        if names.subject.len() > MAX_SUBJECT_BYTES {
            return Err(malformed(format!("the subject is longer than {MAX_SUBJECT_BYTES} bytes")));
        }
        let not_a_subject = "the subject is not like CN=pay.example,O=Example (RFC 4514)";
        let name: Name = match names.subject {
            "" => Name::default(),
            subject => subject.parse().map_err(|_| malformed(not_a_subject.to_owned()))?,
        };
        let mut parsed = Self { name, alternatives: Vec::new(), said: Vec::new() };
        let count = names.dns.len() + names.ip.len() + names.email.len() + names.uri.len();
        if count > MAX_NAMES || (count == 0 && names.subject.is_empty()) {
            return Err(malformed(format!("it needs a subject or other names, and has at most {MAX_NAMES} of these")));
        }
        let text = |kind: &str, text: &str, fits: bool| {
            let plain = fits && text.len() <= MAX_NAME_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
            let string = if plain { Ia5String::new(text).ok() } else { None };
            string.ok_or_else(|| malformed(format!("{text:?} is no {kind}")))
        };
        for dns in names.dns {
            parsed.add("dns", dns, GeneralName::DnsName(text("DNS name", dns, is_dns_name(dns))?));
        }
        for ip in names.ip {
            let octets = match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            let octets = OctetString::new(octets).map_err(|_| MessageError::Failed("writing an address"))?;
            parsed.add("ip", &ip.to_string(), GeneralName::IpAddress(octets));
        }
        for email in names.email {
            let fits = email.split_once('@').is_some_and(|(user, host)| !user.is_empty() && is_dns_name(host));
            parsed.add("email", email, GeneralName::Rfc822Name(text("e-mail address", email, fits)?));
        }
        for uri in names.uri {
            let fits = url::Url::parse(uri).is_ok();
            parsed.add("uri", uri, GeneralName::UniformResourceIdentifier(text("URI", uri, fits)?));
        }
        Ok(parsed)
    }

    fn add(&mut self, kind: &str, said: &str, name: GeneralName) {
        self.alternatives.push(name);
        self.said.push(format!("{kind}:{said}"));
    }

    /// The subject as text.
    pub fn name(&self) -> String {
        self.name.to_string()
    }

    /// The other names as text, separated by commas.
    pub fn names(&self) -> String {
        self.said.join(",")
    }

    /// What stands in a certificate about its subject, also in one that is asked for.
    fn extensions(&self) -> Result<Vec<Extension>, der::Error> {
        let mut extensions = vec![
            // digitalSignature alone: the key signs, and issues no certificates.
            extension(KEY_USAGE, true, &BitString::new(7, [0x80_u8])?)?,
            extension(EXTENDED_KEY_USAGE, false, &vec![SERVER_AUTH, CLIENT_AUTH])?,
        ];
        if !self.alternatives.is_empty() {
            // The only name there is must be understood (RFC 5280, section 4.2.1.6).
            extensions.push(extension(SUBJECT_ALT_NAME, self.name.is_empty(), &self.alternatives)?);
        }
        Ok(extensions)
    }
}

fn is_dns_name(text: &str) -> bool {
    let labels = text.strip_prefix("*.").unwrap_or(text);
    let is_label = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(fits) && !label.starts_with('-') && !label.ends_with('-')
    };
    labels.split('.').all(is_label)
}

fn extension(extn_id: ObjectIdentifier, critical: bool, value: &impl der::Encode) -> Result<Extension, der::Error> {
    Ok(Extension { extn_id, critical, extn_value: OctetString::new(value.to_der()?)? })
}

/// A request for a certificate, DER.
pub async fn request(vault: &dyn Vault, permit: UsePermit, held: &Held, subject: &Subject) -> Result<Vec<u8>, MessageError> {
    let info = request_info(held, subject).map_err(|_| MessageError::Failed("writing a certificate request"))?;
    let signed = info.to_der().map_err(|_| MessageError::Failed("writing a certificate request"))?;
    let (algorithm, signature) = sign(vault, permit, &signed).await?;
    CertReq { info, algorithm, signature }.to_der().map_err(|_| MessageError::Failed("writing a certificate request"))
}

fn request_info(held: &Held, subject: &Subject) -> Result<CertReqInfo, der::Error> {
    let extensions = Any::encode_from(&subject.extensions()?)?;
    let wanted = Attribute { oid: EXTENSION_REQUEST, values: SetOfVec::try_from(vec![extensions])? };
    Ok(CertReqInfo {
        version: Version::V1,
        subject: subject.name.clone(),
        public_key: public_key(held)?,
        attributes: SetOfVec::try_from(vec![wanted])?,
    })
}

/// What of a certificate is signed.
#[derive(Sequence)]
struct ToBeSigned {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    version: u8,
    serial: Any,
    signature: AlgorithmIdentifierOwned,
    issuer: Name,
    validity: Validity,
    subject: Name,
    public_key: SubjectPublicKeyInfoOwned,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT")]
    extensions: Vec<Extension>,
}

#[derive(Sequence)]
struct Certificate {
    signed: Any,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitString,
}

/// A certificate that the key signs itself, DER. It lives from `from` on, for `days`.
pub async fn self_signed(
    vault: &dyn Vault,
    ids: &dyn Ids,
    permit: UsePermit,
    held: &Held,
    subject: &Subject,
    (from, days): (Timestamp, u32),
) -> Result<Vec<u8>, MessageError> {
    let failed = |_: der::Error| MessageError::Failed("writing a certificate");
    let signed = to_be_signed(ids, held, subject, (from, days)).and_then(|signed| signed.to_der()).map_err(failed)?;
    let (algorithm, signature) = sign(vault, permit, &signed).await?;
    let signed = <Any as der::Decode>::from_der(&signed).map_err(failed)?;
    Certificate { signed, algorithm, signature }.to_der().map_err(failed)
}

fn to_be_signed(ids: &dyn Ids, held: &Held, subject: &Subject, (from, days): (Timestamp, u32)) -> Result<ToBeSigned, der::Error> {
    let mut serial: [u8; 16] = random(ids);
    // Positive, and of the same length always.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    let mut extensions = subject.extensions()?;
    // An empty sequence: it is no authority.
    extensions.push(extension(BASIC_CONSTRAINTS, true, &Vec::<Any>::new())?);
    let moment = |at: Timestamp| {
        let since = Duration::from_secs(u64::try_from(at.seconds()).unwrap_or_default());
        der::DateTime::from_unix_duration(since).map(Time::from)
    };
    let until = from.plus(Duration::from_secs(u64::from(days) * 24 * 60 * 60));
    Ok(ToBeSigned {
        version: 2,
        serial: Any::encode_from(&UintRef::new(&serial)?)?,
        signature: signature_identifier(held.algorithm)?,
        issuer: subject.name.clone(),
        validity: Validity::new(moment(from)?, moment(until)?),
        subject: subject.name.clone(),
        public_key: public_key(held)?,
        extensions,
    })
}

/// PEM of what was made.
pub fn pem(label: &str, bytes: &[u8]) -> Result<String, MessageError> {
    encode_string(label, LineEnding::LF, bytes).map_err(|_| MessageError::Failed("writing PEM"))
}

fn public_key(held: &Held) -> Result<SubjectPublicKeyInfoOwned, der::Error> {
    let unfit = || der::Error::from(der::ErrorKind::Failed);
    Ok(SubjectPublicKeyInfoOwned {
        algorithm: identifier(held.algorithm).ok_or_else(unfit)?,
        subject_public_key: BitString::from_bytes(held.public_key.as_deref().ok_or_else(unfit)?)?,
    })
}

async fn sign(vault: &dyn Vault, permit: UsePermit, message: &[u8]) -> Result<(AlgorithmIdentifierOwned, BitString), MessageError> {
    let algorithm = permit.algorithm();
    let failed = |_: der::Error| MessageError::Failed("writing a signature");
    let identifier = signature_identifier(algorithm).map_err(failed)?;
    let signature = vault.sign(permit, message).await?;
    let signature = match algorithm.entry().family {
        Family::Ecdsa => {
            let (r, s) = signature.split_at(signature.len() / 2);
            let pair = UintRef::new(r).and_then(|r| Ok(vec![r, UintRef::new(s)?])).map_err(failed)?;
            pair.to_der().map_err(failed)?
        }
        _ => signature,
    };
    Ok((identifier, BitString::from_bytes(&signature).map_err(failed)?))
}

/// The algorithm identifier of signatures by keys of an algorithm.
fn signature_identifier(algorithm: Algorithm) -> Result<AlgorithmIdentifierOwned, der::Error> {
    let plain = |oid: &str| Ok(AlgorithmIdentifierOwned { oid: ObjectIdentifier::new(oid)?, parameters: None });
    match algorithm.name() {
        "ECDSA-P256" => plain("1.2.840.10045.4.3.2"),
        "ECDSA-P384" => plain("1.2.840.10045.4.3.3"),
        "RSA-PSS-3072" => pss(0x01, 32),
        "RSA-PSS-4096" => pss(0x02, 48),
        _ => identifier(algorithm).ok_or_else(|| der::ErrorKind::Failed.into()),
    }
}

/// `id-RSASSA-PSS` with its hash (the last number of its identifier), MGF1 with the same, and the length of the salt (RFC 4055, section 3.1).
fn pss(hash: u8, salt_bytes: u8) -> Result<AlgorithmIdentifierOwned, der::Error> {
    let hash = [[0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02].as_slice(), &[hash, 0x05, 0x00]].concat();
    let mgf1 = [[0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08].as_slice(), &hash].concat();
    let parameters = [[0x30, 0x34, 0xa0, 0x0f].as_slice(), &hash, &[0xa1, 0x1c], &mgf1, &[0xa2, 0x03, 0x02, 0x01, salt_bytes]].concat();
    let parameters = <Any as der::Decode>::from_der(&parameters)?;
    Ok(AlgorithmIdentifierOwned { oid: ObjectIdentifier::new("1.2.840.113549.1.1.10")?, parameters: Some(parameters) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(subject: &str, dns: &[&str], email: &[&str], uri: &[&str]) -> Result<Subject, MessageError> {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let (dns, email, uri) = (own(dns), own(email), own(uri));
        Subject::parse(Names { subject, dns: &dns, ip: &[IpAddr::from([127, 0, 0, 1])], email: &email, uri: &uri })
    }

    #[test]
    fn names_are_what_they_say() {
        let subject =
            parse("CN=pay.example,O=Example", &["pay.example", "*.pay.example"], &["a@pay.example"], &["spiffe://pay/x"]).unwrap();
        assert_eq!(subject.name(), "CN=pay.example,O=Example");
        assert_eq!(subject.names(), "dns:pay.example,dns:*.pay.example,ip:127.0.0.1,email:a@pay.example,uri:spiffe://pay/x");
        for dns in ["", ".", "a..b", "a b", "-a", "a-", "pay.example,dns:bank.example", "pay.example\0.bank.example", "pay.éxample"] {
            assert!(parse("CN=x", &[dns], &[], &[]).is_err(), "{dns:?}");
        }
        for (email, uri) in [(["pay.example"], ["x:y"]), (["a@b@c"], ["x:y"]), (["a@b"], ["no uri"]), (["a@b"], ["x:a,b"])] {
            assert!(parse("CN=x", &[], &email, &uri).is_err(), "{email:?} {uri:?}");
        }
        for subject in ["pay.example", "CN", "=x", "CN=x,", &format!("CN={}", "x".repeat(MAX_SUBJECT_BYTES))] {
            assert!(parse(subject, &[], &[], &[]).is_err(), "{subject:?}");
        }
        assert!(Subject::parse(Names { subject: "", dns: &[], ip: &[], email: &[], uri: &[] }).is_err());
    }
}
