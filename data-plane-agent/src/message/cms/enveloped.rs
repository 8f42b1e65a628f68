//! EnvelopedData (RFC 5652, section 6) and AuthEnvelopedData (RFC 5083): content under a content key, which is encrypted to
//! the RSA key of each recipient.

use cms::{
    authenveloped_data::AuthEnvelopedData,
    enveloped_data::{EncryptedContentInfo, EnvelopedData, KeyTransRecipientInfo, RecipientInfo, RecipientInfos},
};
use der::{Encode as _, EncodingRules, Sequence, asn1::OctetString};
use spki::{AlgorithmIdentifierOwned, ObjectIdentifier};

use super::{WHAT, content, hash, malformed, mask_hash, not_understood, read};
use crate::{
    algorithm::legacy::{Hash, KeyTransport, open_cbc, open_gcm},
    message::{MAX_PLAINTEXT_BYTES, MAX_RECIPIENTS, MessageError},
    policy::permit::UsePermit,
    vault::{Vault, secret::SecretBytes},
};

const ENVELOPED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.3");
const AUTH_ENVELOPED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.23");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSAES_OAEP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.7");
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
            Some(Err(error)) => Err(MessageError::NotUnderstood(format!("the recipient: {error};"))),
            None => Err(malformed(format_args!("it has {} recipients: say which one the key is, from 0", self.recipients.len()))),
        }
    }

    /// Opens it with the permitted key. Content that is not authenticated may be noise when the wrong key opens it.
    pub async fn open(&self, vault: &dyn Vault, permit: UsePermit, recipient: &Recipient) -> Result<SecretBytes, MessageError> {
        let key = vault.unwrap_transported(permit, recipient.transport, &recipient.encrypted_key, self.content.key_bytes).await;
        let key = key.map_err(|error| match error.code() {
            "not_genuine" => MessageError::NotGenuine,
            _ => error.into(),
        })?;
        self.content.open(&key)
    }
}

impl Recipient {
    fn read_all(infos: RecipientInfos, content_is_authenticated: bool) -> Result<Vec<Result<Self, MessageError>>, MessageError> {
        let infos = infos.0.into_vec();
        if infos.is_empty() || infos.len() > MAX_RECIPIENTS {
            return Err(MessageError::Recipients);
        }
        let read = |info: RecipientInfo| match info {
            RecipientInfo::Ktri(info) => Self::read(info, content_is_authenticated),
            RecipientInfo::Kari(_) => Err(MessageError::NotUnderstood("key agreement in CMS".to_owned())),
            _ => Err(MessageError::NotUnderstood("a recipient of CMS without an RSA key".to_owned())),
        };
        Ok(infos.into_iter().map(read).collect())
    }

    fn read(info: KeyTransRecipientInfo, content_is_authenticated: bool) -> Result<Self, MessageError> {
        let transport = match info.key_enc_alg.oid {
            RSA_ENCRYPTION => KeyTransport::Pkcs1V15,
            RSAES_OAEP => KeyTransport::Oaep(oaep_hash(&info.key_enc_alg)?),
            other => return Err(not_understood("the key encryption", other)),
        };
        Ok(Self { transport, encrypted_key: info.enc_key.as_bytes().to_vec(), content_is_authenticated })
    }

    /// What is weaker than what our own RSA keys are sealed to (OAEP with SHA-256 around AES-GCM).
    pub fn legacy(&self) -> Vec<String> {
        let mut legacy = Vec::new();
        match self.transport {
            KeyTransport::Pkcs1V15 => legacy.push("RSAES-PKCS1-v1_5".to_owned()),
            KeyTransport::Oaep(Hash::Sha256) => {}
            KeyTransport::Oaep(hash) => legacy.push(format!("RSAES-OAEP with {}", hash.name())),
        }
        if !self.content_is_authenticated {
            legacy.push("AES-CBC, which does not tell whether the content was changed".to_owned());
        }
        legacy
    }
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
            crate::algorithm::legacy::unwrap_rsa(algorithm, pkcs8, recipient.transport, &recipient.encrypted_key, self.content.key_bytes);
        let key = key.map_err(|_| MessageError::NotGenuine)?;
        Ok(self.content.open(&key)?.expose().to_vec())
    }
}
