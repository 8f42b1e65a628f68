//! CMS (RFC 5652, once PKCS#7), to open and to verify what other programs made; we never make any. DER and BER are read.
//!
//! - [`enveloped`]: EnvelopedData and AuthEnvelopedData (RFC 5083): content encrypted to RSA and elliptic-curve keys.
//! - [`signed`][]: SignedData.
//!
//! What is not as strong as what the key itself would make is *legacy*: [`enveloped::Recipient::legacy`] and
//! [`signed::Signer::legacy`] say what, and the caller of the agent needs a permit for the legacy operation.

pub mod enveloped;
pub mod signed;

use cms::content_info::ContentInfo;
use der::{Choice, Decode as _, DecodeValue, EncodingRules, asn1::ObjectIdentifier};
use spki::AlgorithmIdentifierOwned;

use super::{MAX_MESSAGE_BYTES, MessageError};
use crate::algorithm::legacy::Hash;

const WHAT: &str = "CMS message";

const SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");

fn malformed(error: impl std::fmt::Display) -> MessageError {
    MessageError::Malformed { what: WHAT, detail: error.to_string() }
}

fn not_understood(what: &str, oid: ObjectIdentifier) -> MessageError {
    MessageError::NotUnderstood(format!("{what} {oid} of CMS"))
}

/// The kind of content, and the content.
fn read(message: &[u8]) -> Result<ContentInfo, MessageError> {
    if message.len() > MAX_MESSAGE_BYTES {
        return Err(MessageError::TooLong { what: "the message", max_bytes: MAX_MESSAGE_BYTES });
    }
    ContentInfo::from_ber(message).map_err(malformed)
}

/// The content as the kind it says it is.
fn content<'a, T>(info: &'a ContentInfo) -> Result<T, MessageError>
where
    T: Choice<'a> + DecodeValue<'a>,
    <T as DecodeValue<'a>>::Error: std::fmt::Display,
{
    info.content.decode_as_encoding(EncodingRules::Ber).map_err(malformed)
}

fn hash(identifier: &AlgorithmIdentifierOwned) -> Result<Hash, MessageError> {
    match identifier.oid {
        SHA1 => Ok(Hash::Sha1),
        SHA256 => Ok(Hash::Sha256),
        SHA384 => Ok(Hash::Sha384),
        SHA512 => Ok(Hash::Sha512),
        other => Err(not_understood("the hash", other)),
    }
}

/// The hash of a mask generation: MGF1 with one.
fn mask_hash(identifier: &AlgorithmIdentifierOwned) -> Result<Hash, MessageError> {
    if identifier.oid != MGF1 {
        return Err(not_understood("the mask generation", identifier.oid));
    }
    let parameters = identifier.parameters.as_ref().ok_or_else(|| malformed("MGF1 without a hash"))?;
    hash(&parameters.decode_as_encoding(EncodingRules::Ber).map_err(malformed)?)
}

#[cfg(test)]
mod tests;
