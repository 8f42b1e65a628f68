//! DSSE envelopes (Dead Simple Signing Envelope, protocol 1.0.0) that pairs sign.
//!
//! Each pair adds two signatures over the pre-authentication encoding (PAE) of payload type and payload: Ed25519 first,
//! then ML-DSA-65 under a context of the kind; both carry the pair's key id. Ed25519 has no context, and needs none: the
//! PAE begins with the payload type, every kind has a type of its own, and pairs sign nothing but PAEs, so a signature
//! over one kind can never be read as one over another. The ML-DSA context says the same a second time, outside the
//! message.

use std::collections::BTreeSet;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use schema::encoding::Digest;
use serde::{Deserialize, Serialize};

use crate::{
    document::Document,
    json,
    pair::{ED25519_SIGNATURE_BYTES, ML_DSA_65_SIGNATURE_BYTES, Pair, Signers},
    statement::Statement,
};

/// The most signatures an envelope may carry: more would only make verifying slow.
const MAX_SIGNATURES: usize = 128;

/// A parsed envelope. Parsing it proves nothing; see [`Envelope::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// What the payload is.
    pub payload_type: String,
    /// The exact bytes that were signed.
    pub payload: Vec<u8>,
    /// Who signed, as far as the envelope says.
    pub signatures: Vec<Signature>,
}

/// One signature and a hint whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The key id of the pair; none when it is not one of ours.
    pub keyid: Option<Digest>,
    /// 64 bytes of Ed25519 or 3309 of ML-DSA-65.
    pub bytes: Vec<u8>,
}

/// Why bytes are not an envelope.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Refused before parsing.
    #[error("the envelope has {bytes} bytes and may have {max}")]
    Oversized {
        /// Its size.
        bytes: usize,
        /// The most allowed.
        max: usize,
    },
    /// Truncated, or not JSON, or without a required member.
    #[error("the envelope is not DSSE JSON")]
    Malformed(#[source] serde_json::Error),
    /// A payload or signature in no base64 alphabet.
    #[error("the envelope's {0} is not base64")]
    Base64(&'static str),
    /// More signatures than anyone needs.
    #[error("the envelope has {0} signatures and may have {MAX_SIGNATURES}")]
    TooManySignatures(usize),
    /// Another kind of payload.
    #[error("the envelope holds {found} and not {expected}")]
    PayloadType {
        /// What was expected.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// Too few pairs signed it.
    #[error("the signatures do not suffice")]
    Signatures(#[source] VerifyError),
    /// The payload is signed, but not what its type says.
    #[error("the payload is not what its type says")]
    Payload(#[source] serde_json::Error),
}

/// Why signatures do not suffice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A pair that may sign has one signature instead of two, or they stand in the wrong order.
    #[error("the pair {0} must have an Ed25519 and then an ML-DSA-65 signature")]
    HalfMissing(Digest),
    /// A pair that may sign has a signature that does not verify, or was made for another kind.
    #[error("a signature of the pair {0} does not verify")]
    Wrong(Digest),
    /// Every signature of pairs that may sign is right, but there are too few.
    #[error("{valid} of {threshold} pairs signed")]
    BelowThreshold {
        /// Distinct pairs that signed.
        valid: usize,
        /// Pairs needed.
        threshold: u32,
    },
}

#[derive(Serialize, Deserialize)]
struct WireEnvelope {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<WireSignature>,
}

#[derive(Serialize, Deserialize)]
struct WireSignature {
    #[serde(default)]
    keyid: String,
    sig: String,
}

/// What DSSE signs: `DSSEv1`, then type and payload, each after its length in decimal digits, all separated by a space.
pub fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

impl Envelope {
    /// Signs a payload with these pairs.
    pub fn sign(payload_type: &str, context: &'static str, payload: Vec<u8>, pairs: &[&Pair]) -> Self {
        let message = pre_authentication_encoding(payload_type, &payload);
        let signatures = pairs.iter().flat_map(|pair| {
            let signature = pair.sign(context, &message);
            [signature.ed25519.to_vec(), signature.ml_dsa_65].map(|bytes| Signature { keyid: Some(pair.keyid()), bytes })
        });
        Self { payload_type: payload_type.to_owned(), signatures: signatures.collect(), payload }
    }

    /// Reads an envelope of at most `max` bytes; the size is checked before anything else. As DSSE demands, unknown members
    /// are ignored and both base64 alphabets are read. A member that stands twice is refused.
    pub fn parse(bytes: &[u8], max: usize) -> Result<Self, EnvelopeError> {
        if bytes.len() > max {
            return Err(EnvelopeError::Oversized { bytes: bytes.len(), max });
        }
        let wire: WireEnvelope = serde_json::from_slice(bytes).map_err(EnvelopeError::Malformed)?;
        if wire.signatures.len() > MAX_SIGNATURES {
            return Err(EnvelopeError::TooManySignatures(wire.signatures.len()));
        }
        let signatures = wire.signatures.into_iter().map(|signature| {
            let bytes = decode(&signature.sig).ok_or(EnvelopeError::Base64("signature"))?;
            Ok(Signature { keyid: signature.keyid.parse().ok(), bytes })
        });
        Ok(Self {
            payload: decode(&wire.payload).ok_or(EnvelopeError::Base64("payload"))?,
            payload_type: wire.payload_type,
            signatures: signatures.collect::<Result<_, EnvelopeError>>()?,
        })
    }

    /// The JSON of the envelope, in standard base64.
    pub fn to_bytes(&self) -> Vec<u8> {
        let signature = |signature: &Signature| WireSignature {
            keyid: signature.keyid.map(|keyid| keyid.to_string()).unwrap_or_default(),
            sig: STANDARD.encode(&signature.bytes),
        };
        let wire = WireEnvelope {
            payload: STANDARD.encode(&self.payload),
            payload_type: self.payload_type.clone(),
            signatures: self.signatures.iter().map(signature).collect(),
        };
        to_json(&wire)
    }

    /// Adds another pair's signatures, for signers that are not in one place.
    pub fn add_signatures(&mut self, context: &'static str, pair: &Pair) {
        let more = Self::sign(&self.payload_type, context, self.payload.clone(), &[pair]);
        self.signatures.extend(more.signatures);
    }

    /// Which of the pairs signed, when they are at least as many as the threshold. A pair counts once, and only with both
    /// signatures, one directly after the other. Signatures of pairs that may not sign are passed over.
    pub fn verify(&self, context: &'static str, signers: &Signers, threshold: u32) -> Result<BTreeSet<Digest>, VerifyError> {
        let message = pre_authentication_encoding(&self.payload_type, &self.payload);
        let mut valid = BTreeSet::new();
        let mut failure = None;
        let mut rest = self.signatures.as_slice();
        while let Some((first, tail)) = rest.split_first() {
            rest = tail;
            let Some(pair) = first.keyid.and_then(|keyid| signers.find(&keyid)) else { continue };
            let keyid = pair.keyid();
            let second = tail.first().filter(|second| second.keyid == Some(keyid));
            let Some(second) = second.filter(|second| sizes_fit(first, second)) else {
                failure.get_or_insert(VerifyError::HalfMissing(keyid));
                continue;
            };
            rest = &tail[1..];
            if valid.contains(&keyid) {
                continue;
            }
            if pair.verify(context, &message, &first.bytes, &second.bytes) {
                valid.insert(keyid);
            } else {
                failure.get_or_insert(VerifyError::Wrong(keyid));
            }
        }
        // A threshold of nobody would accept anything.
        if valid.len() >= threshold.max(1) as usize {
            return Ok(valid);
        }
        Err(failure.unwrap_or(VerifyError::BelowThreshold { valid: valid.len(), threshold }))
    }
}

fn sizes_fit(first: &Signature, second: &Signature) -> bool {
    first.bytes.len() == ED25519_SIGNATURE_BYTES && second.bytes.len() == ML_DSA_65_SIGNATURE_BYTES
}

/// Something signed, with the exact bytes it came in.
#[derive(Debug, Clone, PartialEq)]
pub struct Signed<T> {
    /// The exact bytes of the envelope.
    pub bytes: Vec<u8>,
    /// SHA-256 of the exact bytes of the payload.
    pub sha256: Digest,
    /// What was signed.
    pub payload: T,
    /// The pairs that signed it.
    pub signed_by: BTreeSet<Digest>,
}

/// Signs a statement with these pairs; gives the envelope's bytes and the payload's SHA-256, by which others pin it.
pub fn sign_statement<S: Statement>(statement: &S, pairs: &[&Pair]) -> (Vec<u8>, Digest) {
    let payload = to_json(statement);
    let sha256 = Digest::of(&payload);
    (Envelope::sign(S::KIND.media_type(), S::KIND.context(), payload, pairs).to_bytes(), sha256)
}

/// Signs a document with these pairs; gives the envelope's bytes.
pub fn sign_document<D: Document>(document: &D, pairs: &[&Pair]) -> Vec<u8> {
    Envelope::sign(D::MEDIA_TYPE, D::CONTEXT, to_json(document), pairs).to_bytes()
}

/// Reads a statement that a threshold of these pairs signed. Says nothing of tenant, serial or time: that is `accept`'s.
pub fn open_statement<S: Statement>(bytes: &[u8], signers: &Signers, threshold: u32) -> Result<Signed<S>, EnvelopeError> {
    let envelope = Envelope::parse(bytes, S::KIND.max_bytes())?;
    open(bytes, envelope, (S::KIND.media_type(), S::KIND.context()), signers, threshold)
}

/// Reads a document that a threshold of these pairs signed.
pub fn open_document<D: Document>(bytes: &[u8], signers: &Signers, threshold: u32) -> Result<Signed<D>, EnvelopeError> {
    let envelope = Envelope::parse(bytes, D::MAX_BYTES)?;
    open(bytes, envelope, (D::MEDIA_TYPE, D::CONTEXT), signers, threshold)
}

/// Reads a document without checking who signed it: only to learn whose signature to check.
pub fn peek_document<D: Document>(bytes: &[u8]) -> Result<D, EnvelopeError> {
    let envelope = Envelope::parse(bytes, D::MAX_BYTES)?;
    expect_type(&envelope, D::MEDIA_TYPE)?;
    json::strict(&envelope.payload).map_err(EnvelopeError::Payload)
}

fn open<T: for<'de> Deserialize<'de>>(
    bytes: &[u8],
    envelope: Envelope,
    (media_type, context): (&'static str, &'static str),
    signers: &Signers,
    threshold: u32,
) -> Result<Signed<T>, EnvelopeError> {
    expect_type(&envelope, media_type)?;
    let signed_by = envelope.verify(context, signers, threshold).map_err(EnvelopeError::Signatures)?;
    let payload = json::strict(&envelope.payload).map_err(EnvelopeError::Payload)?;
    Ok(Signed { bytes: bytes.to_vec(), sha256: Digest::of(&envelope.payload), payload, signed_by })
}

fn expect_type(envelope: &Envelope, expected: &'static str) -> Result<(), EnvelopeError> {
    if envelope.payload_type == expected {
        return Ok(());
    }
    Err(EnvelopeError::PayloadType { expected, found: envelope.payload_type.clone() })
}

#[allow(clippy::expect_used, reason = "our own types: their map keys are all text, and writing to memory cannot fail")]
fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("statements and documents are JSON")
}

fn decode(text: &str) -> Option<Vec<u8>> {
    const EITHER_PADDING: GeneralPurposeConfig = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['-', '_']) { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
    GeneralPurpose::new(alphabet, EITHER_PADDING).decode(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schema::clock::ManualIds;

    use super::*;

    const TYPE: &str = "application/vnd.freehold.test+json";
    const CONTEXT: &str = "freehold/test/v1";

    fn pairs() -> [Pair; 3] {
        [1, 2, 3].map(|seed| Pair::generate(&ManualIds::seeded(seed)))
    }

    fn signers(pairs: &[&Pair]) -> Signers {
        Signers::new(pairs.iter().map(|pair| pair.public().clone())).unwrap()
    }

    /// The example of the DSSE specification.
    #[test]
    fn the_encoding_is_that_of_the_specification() {
        assert_eq!(
            pre_authentication_encoding("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn thresholds_count_distinct_pairs_with_both_signatures() {
        let [a, b, c] = pairs();
        let all = signers(&[&a, &b, &c]);
        let two = Envelope::sign(TYPE, CONTEXT, b"{}".to_vec(), &[&a, &b]);
        assert_eq!(two.verify(CONTEXT, &all, 2), Ok([a.keyid(), b.keyid()].into()));
        assert_eq!(two.verify(CONTEXT, &all, 3), Err(VerifyError::BelowThreshold { valid: 2, threshold: 3 }));
        assert_eq!(two.verify(CONTEXT, &signers(&[&c]), 1), Err(VerifyError::BelowThreshold { valid: 0, threshold: 1 }));
        assert_eq!(two.verify(CONTEXT, &signers(&[]), 0), Err(VerifyError::BelowThreshold { valid: 0, threshold: 0 }));
        assert_eq!(two.verify("freehold/other/v1", &all, 1), Err(VerifyError::Wrong(a.keyid())));

        let mut twice = Envelope::sign(TYPE, CONTEXT, b"{}".to_vec(), &[&a]);
        twice.add_signatures(CONTEXT, &a);
        assert_eq!(twice.verify(CONTEXT, &all, 2), Err(VerifyError::BelowThreshold { valid: 1, threshold: 2 }));

        for index in 0..2 {
            let mut half = Envelope::sign(TYPE, CONTEXT, b"{}".to_vec(), &[&a]);
            half.signatures.remove(index);
            assert_eq!(half.verify(CONTEXT, &all, 1), Err(VerifyError::HalfMissing(a.keyid())));
        }
        let mut swapped = Envelope::sign(TYPE, CONTEXT, b"{}".to_vec(), &[&a]);
        swapped.signatures.swap(0, 1);
        assert_eq!(swapped.verify(CONTEXT, &all, 1), Err(VerifyError::HalfMissing(a.keyid())));
    }

    #[test]
    fn size_comes_before_parsing_and_doubles_are_refused() {
        let [a, ..] = pairs();
        let bytes = Envelope::sign(TYPE, CONTEXT, b"{}".to_vec(), &[&a]).to_bytes();
        assert!(matches!(Envelope::parse(&[b'x'; 11], 10), Err(EnvelopeError::Oversized { bytes: 11, max: 10 })));
        assert!(matches!(Envelope::parse(&bytes[..bytes.len() - 1], 1 << 20), Err(EnvelopeError::Malformed(_))));
        let doubled = br#"{"payload":"","payload":"","payloadType":"a","signatures":[]}"#;
        assert!(matches!(Envelope::parse(doubled, 1 << 20), Err(EnvelopeError::Malformed(_))));
        let junk = br#"{"payload":"%%","payloadType":"a","signatures":[]}"#;
        assert!(matches!(Envelope::parse(junk, 1 << 20), Err(EnvelopeError::Base64("payload"))));
        let crowd = format!(r#"{{"payload":"","payloadType":"a","signatures":[{}]}}"#, vec![r#"{"sig":""}"#; 129].join(","));
        assert!(matches!(Envelope::parse(crowd.as_bytes(), 1 << 20), Err(EnvelopeError::TooManySignatures(129))));
    }

    proptest! {
        #[test]
        fn envelopes_survive_their_bytes(payload: Vec<u8>, payload_type in "\\PC{0,40}", sig: Vec<u8>, keyid: Option<[u8; 32]>) {
            let signatures = vec![Signature { keyid: keyid.map(Digest), bytes: sig }];
            let envelope = Envelope { payload_type, payload, signatures };
            prop_assert_eq!(Envelope::parse(&envelope.to_bytes(), 1 << 20).unwrap(), envelope.clone());
            let url_safe = String::from_utf8(envelope.to_bytes()).unwrap();
            if envelope.payload_type.is_ascii() && !envelope.payload_type.contains(['+', '/', '=']) {
                let url_safe = url_safe.replace('+', "-").replace('/', "_").replace('=', "");
                prop_assert_eq!(Envelope::parse(url_safe.as_bytes(), 1 << 20).unwrap(), envelope);
            }
        }

        #[test]
        fn junk_is_refused_without_a_panic(junk: Vec<u8>) {
            prop_assert!(Envelope::parse(&junk, 1 << 20).is_err());
        }
    }
}
