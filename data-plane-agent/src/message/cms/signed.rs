//! SignedData (RFC 5652, section 5). Certificates in the message are not looked at: who must have signed is named by whoever
//! asks, as a key of policy.

use cms::{
    content_info::CmsVersion,
    signed_data::{SignedAttributes, SignerInfo, SignerInfos},
};
use der::{
    Any, Decode as _, Encode as _, EncodingRules, Reader as _, Sequence, SliceReader, Tag, Tagged as _,
    asn1::{ObjectIdentifier, OctetString},
};
use schema::{catalogue::Algorithm, key::Operation};
use spki::AlgorithmIdentifierOwned;
use subtle::ConstantTimeEq as _;

use super::{WHAT, hash, malformed, mask_hash, not_understood, read};
use crate::{
    algorithm::{
        self, AlgorithmError,
        legacy::{Hash, SignatureScheme},
    },
    message::{MAX_PLAINTEXT_BYTES, MAX_RECIPIENTS, MessageError},
    policy::permit::UsePermit,
    vault::{Held, VaultError, spend},
};

const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const SHA1_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.5");
const SHA256_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const SHA384_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const SHA512_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
const ECDSA_WITH_SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.1");
const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_WITH_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const ECDSA_WITH_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.4");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// A signed message that was read, but not verified.
#[derive(Debug)]
pub struct Signed {
    content: Option<Vec<u8>>,
    content_type: ObjectIdentifier,
    /// In the order of the message. What is not understood of one does not keep others from being verified.
    signers: Vec<Result<Signer, MessageError>>,
}

/// One signature.
#[derive(Debug)]
pub struct Signer {
    digest: Hash,
    scheme: SignatureScheme,
    /// What is signed instead of the content, when there are attributes; they hold the content's hash.
    attributes: Option<Attributes>,
    signature: Vec<u8>,
}

#[derive(Debug)]
struct Attributes {
    der: Vec<u8>,
    digest: Vec<u8>,
    content_type: ObjectIdentifier,
}

/// `EncapsulatedContentInfo`.
#[derive(Sequence)]
struct Encapsulated {
    content_type: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    content: Option<OctetString>,
}

/// `RSASSA-PSS-params` of RFC 8017, appendix A.2.3: SHA-1, a salt of 20 bytes and trailer 1 when absent.
#[derive(Sequence)]
struct PssParameters {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    hash: Option<AlgorithmIdentifierOwned>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    mask: Option<AlgorithmIdentifierOwned>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    salt_bytes: Option<u16>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    trailer: Option<u8>,
}

impl Signed {
    /// Reads a signed message.
    pub fn parse(message: &[u8]) -> Result<Self, MessageError> {
        let info = read(message)?;
        if info.content_type != SIGNED_DATA {
            return Err(MessageError::Malformed { what: WHAT, detail: format!("{} is not signed data", info.content_type) });
        }
        let (encapsulated, signers) = parts(&info.content).map_err(malformed)?;
        let content = encapsulated.content.map(|content| content.as_bytes().to_vec());
        if content.as_ref().is_some_and(|content| content.len() > MAX_PLAINTEXT_BYTES) {
            return Err(MessageError::TooLong { what: "the payload", max_bytes: MAX_PLAINTEXT_BYTES });
        }
        let signers = signers.0.into_vec();
        if signers.is_empty() || signers.len() > MAX_RECIPIENTS {
            return Err(MessageError::Recipients);
        }
        Ok(Self { content, content_type: encapsulated.content_type, signers: signers.into_iter().map(Signer::read).collect() })
    }

    /// What was signed, when the message has it. Believe it after verifying.
    pub fn content(&self) -> Option<&[u8]> {
        self.content.as_deref()
    }

    /// The signature at this place; the only one, when no place is named.
    pub fn signer(&self, place: Option<usize>) -> Result<&Signer, MessageError> {
        let chosen = match (place, self.signers.as_slice()) {
            (Some(place), signers) => signers.get(place),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        match chosen {
            Some(Ok(signer)) => Ok(signer),
            Some(Err(MessageError::NotUnderstood(what))) => Err(MessageError::NotUnderstood(what.clone())),
            Some(Err(error)) => Err(malformed(format_args!("the signature: {error}"))),
            None => Err(malformed(format_args!("it has {} signatures: say which one the key made, from 0", self.signers.len()))),
        }
    }

    /// Verifies a signature with the permitted key. `detached` is the content when it travels by itself.
    pub fn verify(&self, signer: &Signer, permit: UsePermit, held: &Held, detached: Option<&[u8]>) -> Result<(), MessageError> {
        spend(&permit, held, &[Operation::Verify, Operation::VerifyLegacy, Operation::ReSign], "verify")?;
        let content = match (self.content(), detached) {
            (Some(content), None) => content,
            (None, Some(detached)) => detached,
            (Some(_), Some(_)) => return Err(malformed("it has its content, and another one came beside it")),
            (None, None) => return Err(malformed("its content travels by itself: send it as well")),
        };
        if signer.attributes.is_none() && (self.content_type != DATA || SignedAttributes::from_der(content).is_ok()) {
            // Attributes that somebody signed would pass as content that somebody signed, and the other way round.
            return Err(MessageError::NotUnderstood("content of CMS that needs signed attributes, and has none,".to_owned()));
        }
        let public_key = held.public_key.as_deref().unwrap_or_default();
        let signed = match &signer.attributes {
            None => content,
            Some(attributes) => {
                let same = bool::from(signer.digest.digest(content).ct_eq(&attributes.digest));
                if !same || attributes.content_type != self.content_type {
                    return Err(MessageError::NotGenuine);
                }
                &attributes.der
            }
        };
        match algorithm::legacy::verify(held.algorithm, public_key, signer.scheme, signed, &signer.signature) {
            Ok(()) => Ok(()),
            Err(AlgorithmError::NotGenuine { .. }) => Err(MessageError::NotGenuine),
            Err(AlgorithmError::Unfit { detail, .. }) => {
                Err(MessageError::OtherAlgorithm { version: held.version, algorithm: held.algorithm.name(), detail: detail.to_owned() })
            }
            Err(other) => Err(VaultError::from(other).into()),
        }
    }
}

impl Signer {
    fn read(info: SignerInfo) -> Result<Self, MessageError> {
        let digest = hash(&info.digest_alg)?;
        let attributes = info.signed_attrs.as_ref().map(Attributes::read).transpose()?;
        let scheme = scheme(&info.signature_algorithm, digest)?;
        Ok(Self { digest, scheme, attributes, signature: info.signature.as_bytes().to_vec() })
    }

    /// What is weaker than what a key of this algorithm signs with.
    pub fn legacy(&self, algorithm: Algorithm) -> Vec<String> {
        let mut legacy = Vec::new();
        let hash = match self.scheme {
            SignatureScheme::Pkcs1V15(hash) => {
                legacy.push("RSASSA-PKCS1-v1_5".to_owned());
                Some(hash)
            }
            SignatureScheme::Pss { hash, .. } | SignatureScheme::Ecdsa(hash) => Some(hash),
            SignatureScheme::Ed25519 => None,
        };
        let own_bytes = algorithm.entry().digest_bytes.map_or(32, usize::from);
        let weaker = |hash: Hash| hash.bytes() < own_bytes;
        for hash in hash.into_iter().chain([self.digest].into_iter().filter(|digest| Some(*digest) != hash)).filter(|hash| weaker(*hash)) {
            legacy.push(hash.name().to_owned());
        }
        legacy
    }
}

impl Attributes {
    fn read(attributes: &SignedAttributes) -> Result<Self, MessageError> {
        let one = |wanted: ObjectIdentifier, name: &str| {
            let mut found = attributes.iter().filter(|attribute| attribute.oid == wanted);
            match (found.next(), found.next()) {
                (Some(attribute), None) if attribute.values.len() == 1 => {
                    attribute.values.get(0).ok_or_else(|| malformed(format_args!("it has no {name}")))
                }
                _ => Err(malformed(format_args!("signed attributes hold {name} exactly once"))),
            }
        };
        let digest: OctetString = one(MESSAGE_DIGEST, "the message digest")?.decode_as_encoding(EncodingRules::Ber).map_err(malformed)?;
        let content_type = one(CONTENT_TYPE, "the content type")?.decode_as_encoding(EncodingRules::Ber).map_err(malformed)?;
        // Signed is the DER of the set, whatever the message itself is written in (RFC 5652, section 5.4).
        Ok(Self { der: attributes.to_der().map_err(malformed)?, digest: digest.as_bytes().to_vec(), content_type })
    }
}

/// Content and signatures of `SignedData`. Certificates and revocation lists between them are skipped unread.
fn parts(data: &Any) -> der::Result<(Encapsulated, SignerInfos)> {
    data.tag().assert_eq(Tag::Sequence)?;
    let mut reader = SliceReader::new_with_encoding_rules(data.value(), EncodingRules::Ber)?;
    CmsVersion::decode(&mut reader)?;
    Any::decode(&mut reader)?;
    let encapsulated = Encapsulated::decode(&mut reader)?;
    let mut next = Any::decode(&mut reader)?;
    for _ in 0..2 {
        if next.tag().is_context_specific() {
            next = Any::decode(&mut reader)?;
        }
    }
    reader.finish()?;
    Ok((encapsulated, next.decode_as_encoding(EncodingRules::Ber)?))
}

fn scheme(identifier: &AlgorithmIdentifierOwned, digest: Hash) -> Result<SignatureScheme, MessageError> {
    let named = match identifier.oid {
        RSA_ENCRYPTION => return Ok(SignatureScheme::Pkcs1V15(digest)),
        ED25519 => return Ok(SignatureScheme::Ed25519),
        RSASSA_PSS => return pss(identifier, digest),
        SHA1_WITH_RSA => SignatureScheme::Pkcs1V15(Hash::Sha1),
        SHA256_WITH_RSA => SignatureScheme::Pkcs1V15(Hash::Sha256),
        SHA384_WITH_RSA => SignatureScheme::Pkcs1V15(Hash::Sha384),
        SHA512_WITH_RSA => SignatureScheme::Pkcs1V15(Hash::Sha512),
        ECDSA_WITH_SHA1 => SignatureScheme::Ecdsa(Hash::Sha1),
        ECDSA_WITH_SHA256 => SignatureScheme::Ecdsa(Hash::Sha256),
        ECDSA_WITH_SHA384 => SignatureScheme::Ecdsa(Hash::Sha384),
        ECDSA_WITH_SHA512 => SignatureScheme::Ecdsa(Hash::Sha512),
        other => return Err(not_understood("the signature algorithm", other)),
    };
    match named {
        SignatureScheme::Pkcs1V15(hash) | SignatureScheme::Ecdsa(hash) if hash == digest => Ok(named),
        _ => Err(MessageError::NotUnderstood("a signature of CMS with two hashes".to_owned())),
    }
}

fn pss(identifier: &AlgorithmIdentifierOwned, digest: Hash) -> Result<SignatureScheme, MessageError> {
    let parameters = identifier.parameters.as_ref().ok_or_else(|| malformed("RSASSA-PSS without parameters"))?;
    let parameters: PssParameters = parameters.decode_as_encoding(EncodingRules::Ber).map_err(malformed)?;
    let (of_message, of_mask) =
        (parameters.hash.as_ref().map_or(Ok(Hash::Sha1), hash)?, parameters.mask.as_ref().map_or(Ok(Hash::Sha1), mask_hash)?);
    if of_message != of_mask || of_message != digest || parameters.trailer.unwrap_or(1) != 1 {
        return Err(MessageError::NotUnderstood("RSASSA-PSS with two hashes, or another trailer".to_owned()));
    }
    Ok(SignatureScheme::Pss { hash: of_message, salt_bytes: parameters.salt_bytes.unwrap_or(20) })
}
