//! EnvelopedData (RFC 5652, section 6) and AuthEnvelopedData (RFC 5083): content under a content key, which is encrypted to
//! the RSA key of each recipient, or wrapped with a key agreed on with its elliptic-curve key (RFC 5753).

use cms::{
    authenveloped_data::AuthEnvelopedData,
    enveloped_data::{
        EncryptedContentInfo, EnvelopedData, KeyAgreeRecipientInfo, KeyTransRecipientInfo, OriginatorIdentifierOrKey, RecipientInfo,
        RecipientInfos,
    },
};
use der::{Encode as _, EncodingRules, Sequence, asn1::OctetString};
use spki::{AlgorithmIdentifierOwned, ObjectIdentifier};

use super::{WHAT, content, hash, malformed, mask_hash, not_understood, read};
use crate::{
    algorithm::legacy::{Agreement, Hash, KeyTransport, open_cbc, open_gcm},
    message::{MAX_PLAINTEXT_BYTES, MAX_RECIPIENTS, MessageError},
    policy::permit::UsePermit,
    vault::{Vault, secret::SecretBytes},
};

const ENVELOPED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.3");
const AUTH_ENVELOPED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.23");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSAES_OAEP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.7");
const ECDH_SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.133.16.840.63.0.2");
const ECDH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.1.11.1");
const ECDH_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.1.11.2");
const ECDH_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.1.11.3");
const AES_128_WRAP: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.5");
const AES_256_WRAP: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.45");
const AES_128_CBC: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.2");
const AES_192_CBC: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.22");
const AES_256_CBC: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.42");
const AES_128_GCM: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.6");
const AES_192_GCM: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.26");
const AES_256_GCM: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.46");

/// A message that was read, but not opened.
#[derive(Debug)]
pub struct Enveloped {
    /// In the order of the message. What is not understood of one does not keep others from opening it.
    recipients: Vec<Result<Recipient, MessageError>>,
    content: Content,
}

/// For whom the content key was encrypted, and how.
#[derive(Debug)]
pub struct Recipient {
    transport: KeyTransport,
    encrypted_key: Vec<u8>,
    content_is_authenticated: bool,
}

#[derive(Debug)]
struct Content {
    cipher: Cipher,
    key_bytes: usize,
    ciphertext: Vec<u8>,
}

#[derive(Debug)]
enum Cipher {
    Gcm { nonce: [u8; 12], associated: Vec<u8>, tag: Vec<u8> },
    Cbc { iv: [u8; 16] },
}

/// `GCMParameters` of RFC 5084, section 3.2.
#[derive(Sequence)]
struct GcmParameters {
    nonce: OctetString,
    /// 12 when absent.
    #[asn1(optional = "true")]
    tag_bytes: Option<u8>,
}

/// `RSAES-OAEP-params` of RFC 8017, appendix A.2.1. Each is SHA-1, or nothing, when absent.
#[derive(Sequence)]
struct OaepParameters {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    hash: Option<AlgorithmIdentifierOwned>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    mask: Option<AlgorithmIdentifierOwned>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    label: Option<AlgorithmIdentifierOwned>,
}

/// `ECC-CMS-SharedInfo` of RFC 5753, section 7.2.
#[derive(Sequence)]
struct SharedInfo {
    key_info: AlgorithmIdentifierOwned,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    sender_says: Option<OctetString>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT")]
    key_bits: OctetString,
}

impl Enveloped {
    /// Reads a message. Nothing is decrypted, and no key is touched.
    pub fn parse(message: &[u8]) -> Result<Self, MessageError> {
        let info = read(message)?;
        let (recipients, content) = match info.content_type {
            ENVELOPED_DATA => {
                let data: EnvelopedData = content(&info)?;
                (data.recip_infos, Content::in_blocks(data.encrypted_content)?)
            }
            AUTH_ENVELOPED_DATA => {
                let data: AuthEnvelopedData = content(&info)?;
                let associated = data.auth_attrs.map(|attributes| attributes.to_der()).transpose().map_err(malformed)?;
                let tag = data.mac.as_bytes().to_vec();
                (data.recip_infos, Content::authenticated(data.auth_encrypted_content_info, associated.unwrap_or_default(), tag)?)
            }
            other => return Err(MessageError::Malformed { what: WHAT, detail: format!("{other} is not enveloped data") }),
        };
        if content.ciphertext.len() > MAX_PLAINTEXT_BYTES + 16 {
            return Err(MessageError::TooLong { what: "the plaintext", max_bytes: MAX_PLAINTEXT_BYTES });
        }
        let recipients = Recipient::read_all(recipients, matches!(content.cipher, Cipher::Gcm { .. }))?;
        Ok(Self { recipients, content })
    }

    /// Bytes of ciphertext.
    pub fn ciphertext_bytes(&self) -> usize {
        self.content.ciphertext.len()
    }

    /// The recipient at this place; the only one, when no place is named.
    pub fn recipient(&self, place: Option<usize>) -> Result<&Recipient, MessageError> {
        let chosen = match (place, self.recipients.as_slice()) {
            (Some(place), recipients) => recipients.get(place),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        match chosen {
            Some(Ok(recipient)) => Ok(recipient),
            Some(Err(MessageError::NotUnderstood(what))) => Err(MessageError::NotUnderstood(what.clone())),
            Some(Err(error)) => Err(malformed(format_args!("the recipient: {error}"))),
            None => Err(malformed(format_args!("it has {} recipients: say which one the key is, from 0", self.recipients.len()))),
        }
    }

    /// Opens it with the permitted key. Content that is not authenticated may be noise when the wrong key opens it.
    pub async fn open(&self, vault: &dyn Vault, permit: UsePermit, recipient: &Recipient) -> Result<SecretBytes, MessageError> {
        let key = vault.unwrap_transported(permit, &recipient.transport, &recipient.encrypted_key, self.content.key_bytes).await;
        let key = key.map_err(|error| match error.code() {
            "not_genuine" => MessageError::NotGenuine,
            _ => error.into(),
        })?;
        self.content.open(&key)
    }
}

impl Recipient {
    fn read_all(infos: RecipientInfos, content_is_authenticated: bool) -> Result<Vec<Result<Self, MessageError>>, MessageError> {
        let mut recipients = Vec::new();
        for info in infos.0.into_vec() {
            match info {
                RecipientInfo::Ktri(info) => recipients.push(Self::transported(info, content_is_authenticated)),
                RecipientInfo::Kari(info) => recipients.extend(info.recipient_enc_keys.iter().map(|key| {
                    let transport = KeyTransport::Agreed(agreement(&info)?);
                    Ok(Self { transport, encrypted_key: key.enc_key.as_bytes().to_vec(), content_is_authenticated })
                })),
                _ => recipients.push(Err(MessageError::NotUnderstood("a recipient of CMS without a public key".to_owned()))),
            }
            if recipients.len() > MAX_RECIPIENTS {
                return Err(MessageError::Recipients);
            }
        }
        if recipients.is_empty() { Err(MessageError::Recipients) } else { Ok(recipients) }
    }

    fn transported(info: KeyTransRecipientInfo, content_is_authenticated: bool) -> Result<Self, MessageError> {
        let transport = match info.key_enc_alg.oid {
            RSA_ENCRYPTION => KeyTransport::Pkcs1V15,
            RSAES_OAEP => KeyTransport::Oaep(oaep_hash(&info.key_enc_alg)?),
            other => return Err(not_understood("the key encryption", other)),
        };
        Ok(Self { transport, encrypted_key: info.enc_key.as_bytes().to_vec(), content_is_authenticated })
    }

    /// What is weaker than what our own keys are sealed to (OAEP or ECDH with SHA-256 around AES-GCM).
    pub fn legacy(&self) -> Vec<String> {
        let mut legacy: Vec<String> = self.transport.legacy().into_iter().collect();
        if !self.content_is_authenticated {
            legacy.push("AES-CBC, which does not tell whether the content was changed".to_owned());
        }
        legacy
    }
}

/// What the sender of a key agreement says. What it binds is written in DER, whatever the message is written in.
fn agreement(info: &KeyAgreeRecipientInfo) -> Result<Agreement, MessageError> {
    let hash = match info.key_enc_alg.oid {
        ECDH_SHA1 => Hash::Sha1,
        ECDH_SHA256 => Hash::Sha256,
        ECDH_SHA384 => Hash::Sha384,
        ECDH_SHA512 => Hash::Sha512,
        other => return Err(not_understood("the key agreement", other)),
    };
    let wrapping = info.key_enc_alg.parameters.as_ref().ok_or_else(|| malformed("a key agreement that does not say what wraps"))?;
    let wrapping: AlgorithmIdentifierOwned = wrapping.decode_as_encoding(EncodingRules::Ber).map_err(malformed)?;
    let key_bytes: u8 = match wrapping.oid {
        AES_128_WRAP => 16,
        AES_256_WRAP => 32,
        other => return Err(not_understood("the key wrapping", other)),
    };
    let OriginatorIdentifierOrKey::OriginatorKey(originator) = &info.originator else {
        return Err(MessageError::NotUnderstood("a key agreement of CMS with a sender's certificate".to_owned()));
    };
    let public_key = originator.public_key.as_bytes().filter(|point| point.first() == Some(&4));
    let public_key = public_key.ok_or_else(|| MessageError::NotUnderstood("a point of CMS that is not uncompressed".to_owned()))?;
    let key_bits = OctetString::new((u32::from(key_bytes) * 8).to_be_bytes()).map_err(malformed)?;
    let shared_info = SharedInfo { key_info: wrapping, sender_says: info.ukm.clone(), key_bits };
    let shared_info = shared_info.to_der().map_err(malformed)?;
    Ok(Agreement { hash, key_bytes: key_bytes.into(), public_key: public_key.to_vec(), shared_info })
}

fn oaep_hash(identifier: &AlgorithmIdentifierOwned) -> Result<Hash, MessageError> {
    let Some(parameters) = &identifier.parameters else { return Ok(Hash::Sha1) };
    let parameters: OaepParameters = parameters.decode_as_encoding(EncodingRules::Ber).map_err(malformed)?;
    let (of_label, of_mask) =
        (parameters.hash.as_ref().map_or(Ok(Hash::Sha1), hash)?, parameters.mask.as_ref().map_or(Ok(Hash::Sha1), mask_hash)?);
    if of_label != of_mask {
        return Err(MessageError::NotUnderstood("RSAES-OAEP with two hashes".to_owned()));
    }
    let labelled = |label: &AlgorithmIdentifierOwned| label.parameters.as_ref().is_some_and(|label| !label.value().is_empty());
    if parameters.label.as_ref().is_some_and(labelled) {
        return Err(MessageError::NotUnderstood("RSAES-OAEP with a label".to_owned()));
    }
    Ok(of_label)
}

impl Content {
    fn authenticated(info: EncryptedContentInfo, associated: Vec<u8>, tag: Vec<u8>) -> Result<Self, MessageError> {
        let key_bytes = match info.content_enc_alg.oid {
            AES_128_GCM => 16,
            AES_192_GCM => 24,
            AES_256_GCM => 32,
            other => return Err(not_understood("the authenticated encryption", other)),
        };
        let parameters = info.content_enc_alg.parameters.as_ref().ok_or_else(|| malformed("AES-GCM without parameters"))?;
        let parameters: GcmParameters = parameters.decode_as_encoding(EncodingRules::Ber).map_err(malformed)?;
        if parameters.tag_bytes != Some(16) || tag.len() != 16 {
            return Err(MessageError::NotUnderstood("AES-GCM with a tag of other than 16 bytes".to_owned()));
        }
        let nonce = parameters.nonce.as_bytes().try_into();
        let nonce = nonce.map_err(|_| MessageError::NotUnderstood("AES-GCM with a nonce of other than 12 bytes".to_owned()))?;
        Ok(Self { cipher: Cipher::Gcm { nonce, associated, tag }, key_bytes, ciphertext: ciphertext(info)? })
    }

    fn in_blocks(info: EncryptedContentInfo) -> Result<Self, MessageError> {
        let key_bytes = match info.content_enc_alg.oid {
            AES_128_CBC => 16,
            AES_192_CBC => 24,
            AES_256_CBC => 32,
            other => return Err(not_understood("the encryption", other)),
        };
        let parameters = info.content_enc_alg.parameters.as_ref().ok_or_else(|| malformed("AES-CBC without parameters"))?;
        let iv: OctetString = parameters.decode_as_encoding(EncodingRules::Ber).map_err(malformed)?;
        let iv = iv.as_bytes().try_into().map_err(|_| malformed("AES-CBC needs an initialization vector of 16 bytes"))?;
        Ok(Self { cipher: Cipher::Cbc { iv }, key_bytes, ciphertext: ciphertext(info)? })
    }

    /// Every way to fail looks the same.
    fn open(&self, key: &SecretBytes) -> Result<SecretBytes, MessageError> {
        match &self.cipher {
            Cipher::Gcm { nonce, associated, tag } => open_gcm(key, *nonce, associated, &self.ciphertext, tag),
            Cipher::Cbc { iv } => open_cbc(key, *iv, &self.ciphertext),
        }
        .ok_or(MessageError::NotGenuine)
    }
}

fn ciphertext(info: EncryptedContentInfo) -> Result<Vec<u8>, MessageError> {
    let content = info.encrypted_content.ok_or_else(|| malformed("its content is somewhere else, which is not supported"))?;
    Ok(content.as_bytes().to_vec())
}

#[cfg(test)]
impl Enveloped {
    /// Opens it with an RSA key in PKCS#8.
    pub(super) fn open_with_rsa(
        &self,
        algorithm: schema::catalogue::Algorithm,
        pkcs8: &[u8],
        place: Option<usize>,
    ) -> Result<Vec<u8>, MessageError> {
        let recipient = self.recipient(place)?;
        let key =
            crate::algorithm::legacy::unwrap_rsa(algorithm, pkcs8, &recipient.transport, &recipient.encrypted_key, self.content.key_bytes);
        let key = key.map_err(|_| MessageError::NotGenuine)?;
        Ok(self.content.open(&key)?.expose().to_vec())
    }
}
