//! JWS (RFC 7515): compact, detached (its appendix F), flattened and general JSON with several signatures.

use std::collections::BTreeSet;

use schema::{
    catalogue::Algorithm,
    clock::Ids,
    context::EncryptionContext,
    encoding::push_base64url,
    id::{CompositeId, KeyId, KeyVersion},
    key::Operation,
};
use serde::Deserialize;

use super::{
    MAX_MESSAGE_BYTES, MAX_PLAINTEXT_BYTES, MAX_RECIPIENTS, MessageError,
    header::{Header, HeaderWriter, base64url_len, read_base64url, recipients},
};
use crate::{
    algorithm,
    policy::permit::UsePermit,
    vault::{Held, Vault, spend},
};

const WHAT: &str = "JWS";

/// The `typ` of signed manifests of streams. Reserved: no message carries it.
pub const MANIFEST_TYP: &str = "freehold-manifest+jws";

/// How a signature is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// `header.payload.signature`.
    #[default]
    Compact,
    /// `header..signature`: the payload travels by itself.
    Detached,
    /// A JSON object with one signature.
    Flattened,
    /// A JSON object with any number of signatures.
    General,
    /// The same without its payload, which travels by itself.
    DetachedGeneral,
}

/// What the protected header of every signature says beside the key.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Said<'a> {
    /// The type of what is signed.
    pub typ: Option<&'a str>,
    /// The composite whose keys sign together.
    pub composite: Option<CompositeId>,
}

/// Signs at most 1 MiB with every permitted key. Several permits need a general form.
pub async fn sign(
    vault: &dyn Vault,
    ids: &dyn Ids,
    permits: Vec<UsePermit>,
    payload: &[u8],
    context: &EncryptionContext,
    form: Form,
) -> Result<String, MessageError> {
    sign_as(vault, ids, permits, payload, context, form, Said::default()).await
}

/// The same with the two keys of a composite. Both signatures name it, so that one without the other is known to lack something.
pub async fn sign_together(
    vault: &dyn Vault,
    ids: &dyn Ids,
    permits: Vec<UsePermit>,
    payload: &[u8],
    context: &EncryptionContext,
    form: Form,
    composite: CompositeId,
) -> Result<String, MessageError> {
    sign_as(vault, ids, permits, payload, context, form, Said { composite: Some(composite), ..Said::default() }).await
}

/// The same with more in its headers.
pub(super) async fn sign_as(
    vault: &dyn Vault,
    ids: &dyn Ids,
    permits: Vec<UsePermit>,
    payload: &[u8],
    context: &EncryptionContext,
    form: Form,
    said: Said<'_>,
) -> Result<String, MessageError> {
    if payload.len() > MAX_PLAINTEXT_BYTES {
        return Err(MessageError::TooLong { what: "the payload", max_bytes: MAX_PLAINTEXT_BYTES });
    }
    if permits.is_empty() || permits.len() > MAX_RECIPIENTS || (permits.len() > 1 && !matches!(form, Form::General | Form::DetachedGeneral))
    {
        return Err(MessageError::Recipients);
    }
    let mut payload_text = String::with_capacity(base64url_len(payload.len()));
    push_base64url(&mut payload_text, payload);
    let mut signatures = Vec::with_capacity(permits.len());
    for permit in permits {
        let ctx = context.commit(schema::clock::random(ids));
        let header = HeaderWriter::new()
            .optional("alg", permit.algorithm().entry().jose_alg)
            .member("kid", permit.version())
            .optional("typ", said.typ)
            .optional("ctx", ctx)
            .optional("composite", said.composite)
            .json();
        let mut protected = String::with_capacity(base64url_len(header.len()) + 1 + payload_text.len() + 8192);
        push_base64url(&mut protected, header.as_bytes());
        let protected_len = protected.len();
        protected.push('.');
        protected.push_str(&payload_text);
        let signature = vault.sign(permit, protected.as_bytes()).await?;
        signatures.push((protected, protected_len, signature));
    }
    Ok(match (form, signatures.as_mut_slice()) {
        (Form::Compact, [(signed, _, signature)]) => {
            signed.push('.');
            push_base64url(signed, signature);
            std::mem::take(signed)
        }
        (Form::Detached, [(signed, protected_len, signature)]) => {
            signed.truncate(*protected_len);
            signed.push_str("..");
            push_base64url(signed, signature);
            std::mem::take(signed)
        }
        (Form::DetachedGeneral, signatures) => json(None, signatures, true),
        (form, signatures) => json(Some(&payload_text), signatures, form == Form::General),
    })
}

fn json(payload_text: Option<&str>, signatures: &[(String, usize, Vec<u8>)], general: bool) -> String {
    let mut out = String::with_capacity(payload_text.map_or(0, str::len) + signatures.len() * 6144 + 64);
    out.push('{');
    if let Some(payload_text) = payload_text {
        out.push_str("\"payload\":\"");
        out.push_str(payload_text);
        out.push_str("\",");
    }
    out.push_str(if general { "\"signatures\":[" } else { "" });
    for (index, (signed, protected_len, signature)) in signatures.iter().enumerate() {
        out.push_str(if index > 0 {
            ",{"
        } else if general {
            "{"
        } else {
            ""
        });
        out.push_str("\"protected\":\"");
        out.push_str(&signed[..*protected_len]);
        out.push_str("\",\"signature\":\"");
        push_base64url(&mut out, signature);
        out.push('"');
        out.push_str(if general { "}" } else { "" });
    }
    out.push_str(if general { "]}" } else { "}" });
    out
}

/// A signed message that was read, but not verified.
#[derive(Debug)]
pub struct Jws {
    payload: Vec<u8>,
    /// The payload as it is signed: base64url.
    payload_text: Vec<u8>,
    signatures: Vec<Signature>,
}

#[derive(Debug)]
struct Signature {
    header: Header,
    protected: Vec<u8>,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
struct JsonMessage<'a> {
    #[serde(default, borrow)]
    payload: Option<std::borrow::Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "recipients")]
    signatures: Option<Vec<JsonSignature<'a>>>,
    #[serde(default, borrow)]
    protected: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    header: Option<Header>,
    #[serde(default, borrow)]
    signature: Option<std::borrow::Cow<'a, str>>,
}

#[derive(Deserialize)]
struct JsonSignature<'a> {
    #[serde(borrow)]
    protected: std::borrow::Cow<'a, str>,
    #[serde(default)]
    header: Option<Header>,
    #[serde(borrow)]
    signature: std::borrow::Cow<'a, str>,
}

impl Jws {
    /// Reads a signed message in any form. `detached` is the payload when it travels by itself.
    pub fn parse(text: &[u8], detached: Option<&[u8]>) -> Result<Self, MessageError> {
        let message = Self::read(text, detached)?;
        if message.signatures.iter().any(Signature::is_of_manifest) {
            return Err(malformed("it is the signed manifest of a stream, not a message"));
        }
        Ok(message)
    }

    /// Reads the signed manifest of a stream, and nothing else.
    pub(super) fn parse_manifest(text: &[u8]) -> Result<Self, MessageError> {
        let manifest = Self::read(text, None)?;
        if !manifest.signatures.iter().all(Signature::is_of_manifest) {
            return Err(malformed("it is a message, not the signed manifest of a stream"));
        }
        Ok(manifest)
    }

    fn read(text: &[u8], detached: Option<&[u8]>) -> Result<Self, MessageError> {
        if text.len() > MAX_MESSAGE_BYTES {
            return Err(MessageError::TooLong { what: "the message", max_bytes: MAX_MESSAGE_BYTES });
        }
        if detached.is_some_and(|payload| payload.len() > MAX_PLAINTEXT_BYTES) {
            return Err(MessageError::TooLong { what: "the payload", max_bytes: MAX_PLAINTEXT_BYTES });
        }
        let text = text.trim_ascii(); // a text file ends with a line feed
        let message = match text.first() {
            Some(b'{') => Self::parse_json(text, detached)?,
            _ => Self::parse_compact(text, detached)?,
        };
        if message.payload.len() > MAX_PLAINTEXT_BYTES {
            return Err(MessageError::TooLong { what: "the payload", max_bytes: MAX_PLAINTEXT_BYTES });
        }
        for signature in &message.signatures {
            signature.header.understood()?;
        }
        Ok(message)
    }

    fn parse_compact(text: &[u8], detached: Option<&[u8]>) -> Result<Self, MessageError> {
        let mut parts = text.split(|byte| *byte == b'.');
        let (Some(protected), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(malformed("compact form has three parts"));
        };
        let (payload, payload_text) = payload_of(payload, detached)?;
        Ok(Self { payload, payload_text, signatures: vec![Signature::read(protected, None, signature)?] })
    }

    fn parse_json(text: &[u8], detached: Option<&[u8]>) -> Result<Self, MessageError> {
        let json: JsonMessage<'_> =
            serde_json::from_slice(text).map_err(|error| MessageError::Malformed { what: WHAT, detail: error.to_string() })?;
        let given = match (json.signatures, json.protected, json.signature, json.header) {
            (Some(signatures), None, None, None) => signatures,
            (None, Some(protected), Some(signature), header) => vec![JsonSignature { protected, header, signature }],
            _ => return Err(malformed("it needs either \"signatures\", or \"protected\" and \"signature\"")),
        };
        if given.is_empty() || given.len() > MAX_RECIPIENTS {
            return Err(MessageError::Recipients);
        }
        let (payload, payload_text) = payload_of(json.payload.as_deref().unwrap_or_default().as_bytes(), detached)?;
        let signatures = given
            .iter()
            .map(|given| Signature::read(given.protected.as_bytes(), given.header.as_ref(), given.signature.as_bytes()))
            .collect::<Result<_, _>>()?;
        Ok(Self { payload, payload_text, signatures })
    }

    /// The payload. Believe it after verifying.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// How many signatures it has.
    pub fn signature_count(&self) -> usize {
        self.signatures.len()
    }

    /// The key version each signature names, if it names one of ours.
    pub fn key_versions(&self) -> Vec<Option<KeyVersion>> {
        self.signatures.iter().map(|signature| signature.header.key_version()).collect()
    }

    /// The composites that its signatures say they were made by.
    pub fn composites(&self) -> BTreeSet<CompositeId> {
        self.signatures.iter().filter_map(|signature| signature.header.composite()).collect()
    }

    /// The places of the signatures that a key may have made: those that name a version of it, with the version, and those that
    /// name no key at all and have its algorithm.
    pub fn places_of(&self, key: KeyId, algorithm: Algorithm) -> Vec<(usize, Option<KeyVersion>)> {
        let of_key = |header: &Header| match &header.kid {
            Some(_) => header.key_version().filter(|version| version.key == key).map(Some),
            None => header.is_for(algorithm).then_some(None),
        };
        let places = self.signatures.iter().enumerate();
        places.filter_map(|(place, signature)| Some((place, of_key(&signature.header)?))).collect()
    }

    /// The key version the first signature names; an error when it names none of ours.
    pub fn key_version(&self) -> Result<KeyVersion, MessageError> {
        self.signatures.first().and_then(|signature| signature.header.key_version()).ok_or(MessageError::NoKey)
    }

    /// Verifies one signature, by its place. `held` is what the key's vault, or its signed version record, says of it;
    /// no secret is needed.
    pub fn verify(&self, index: usize, permit: UsePermit, held: &Held, context: &EncryptionContext) -> Result<(), MessageError> {
        spend(&permit, held, &[Operation::Verify, Operation::ReSign], "verify")?;
        let signature = self.signatures.get(index).ok_or(MessageError::Recipients)?;
        let entry = held.algorithm.entry();
        if signature.header.kid.is_some() && signature.header.key_version() != Some(held.version) {
            return Err(MessageError::OtherKey(held.version));
        }
        if !signature.header.is_for(held.algorithm) {
            let alg = signature.header.alg.as_deref().unwrap_or("none");
            return Err(MessageError::OtherAlgorithm {
                version: held.version,
                algorithm: entry.name,
                detail: format!("the signature has alg {alg:?}"),
            });
        }
        if !context.matches(signature.header.ctx.as_deref()) {
            return Err(MessageError::OtherContext);
        }
        let public_key = held.public_key.as_deref().unwrap_or_default();
        let signed = [signature.protected.as_slice(), b".", &self.payload_text].concat();
        match algorithm::serve(held.algorithm).verify(held.algorithm, public_key, &signed, &signature.signature) {
            Ok(()) => Ok(()),
            Err(algorithm::AlgorithmError::NotGenuine { .. }) => Err(MessageError::NotGenuine),
            Err(other) => Err(crate::vault::VaultError::from(other).into()),
        }
    }
}

impl Signature {
    fn is_of_manifest(&self) -> bool {
        self.header.typ.as_deref() == Some(MANIFEST_TYP)
    }

    fn read(protected: &[u8], unprotected: Option<&Header>, signature: &[u8]) -> Result<Self, MessageError> {
        let header = Header::parse(WHAT, &read_base64url(WHAT, "the protected header", protected)?)?;
        if header.alg.is_none() {
            return Err(malformed("\"alg\" must stand in the protected header"));
        }
        let header = match unprotected {
            Some(unprotected) => header.with_unprotected(WHAT, &[unprotected])?,
            None => header,
        };
        Ok(Self { header, protected: protected.to_vec(), signature: read_base64url(WHAT, "the signature", signature)? })
    }
}

fn malformed(detail: &str) -> MessageError {
    MessageError::Malformed { what: WHAT, detail: detail.to_owned() }
}

/// The payload from where it is: in the message, or beside it.
fn payload_of(text: &[u8], detached: Option<&[u8]>) -> Result<(Vec<u8>, Vec<u8>), MessageError> {
    match (text.is_empty(), detached) {
        (false, None) => Ok((read_base64url(WHAT, "the payload", text)?, text.to_vec())),
        (false, Some(_)) => Err(malformed("it has a payload, and another one came beside it")),
        (true, detached) => {
            let payload = detached.unwrap_or_default();
            let mut payload_text = String::with_capacity(base64url_len(payload.len()));
            push_base64url(&mut payload_text, payload);
            Ok((payload.to_vec(), payload_text.into_bytes()))
        }
    }
}

#[cfg(test)]
mod tests;
