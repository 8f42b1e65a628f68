//! Signatures over streams: a JWS over a manifest, because Ed25519 and SLH-DSA cannot sign in one pass. The manifest holds two
//! digests and the length, so that nobody depends on one hash function, and stands in the signature.

use aws_lc_rs::digest;
use schema::{
    clock::Ids,
    context::EncryptionContext,
    encoding::{Base64, u64_string},
    id::CompositeId,
};
use serde::{Deserialize, Serialize};

use super::{
    MessageError,
    jws::{self, Form, Jws, MANIFEST_TYP, Said},
};
use crate::{policy::permit::UsePermit, vault::Vault};

/// What is signed of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// SHA-256 (FIPS 180-4) of its bytes.
    pub sha256: Base64,
    /// SHA-512 of them.
    pub sha512: Base64,
    /// How many there are.
    #[serde(with = "u64_string")]
    pub length: u64,
}

/// Takes a stream, any amount at a time.
pub struct Hasher {
    sha256: digest::Context,
    sha512: digest::Context,
    length: u64,
}

impl Hasher {
    /// Nothing taken yet.
    pub fn new() -> Self {
        Self { sha256: digest::Context::new(&digest::SHA256), sha512: digest::Context::new(&digest::SHA512), length: 0 }
    }

    /// Takes bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.sha512.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// What the stream was.
    pub fn finish(self) -> Manifest {
        let bytes = |context: digest::Context| Base64(context.finish().as_ref().to_vec());
        Manifest { sha256: bytes(self.sha256), sha512: bytes(self.sha512), length: self.length }
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

/// Signs a manifest: a JWS of type `freehold-manifest+jws`, compact with one key, in general JSON with those of a composite.
pub async fn sign(
    vault: &dyn Vault,
    ids: &dyn Ids,
    permits: Vec<UsePermit>,
    composite: Option<CompositeId>,
    manifest: &Manifest,
    context: &EncryptionContext,
) -> Result<String, MessageError> {
    let payload = serde_json::to_vec(manifest).map_err(|_| MessageError::Failed("writing a manifest"))?;
    let form = if composite.is_some() { Form::General } else { Form::Compact };
    jws::sign_as(vault, ids, permits, &payload, context, form, Said { typ: Some(MANIFEST_TYP), composite }).await
}

/// Reads a signed manifest. Believe it after verifying.
pub fn read(text: &[u8]) -> Result<(Jws, Manifest), MessageError> {
    let signed = Jws::parse_manifest(text)?;
    let manifest = serde_json::from_slice(signed.payload())
        .map_err(|error| MessageError::Malformed { what: "signed manifest", detail: error.to_string() })?;
    Ok((signed, manifest))
}

#[cfg(test)]
mod tests {
    use schema::key::Operation;

    use super::*;
    use crate::message::tests::{ED25519, ML_DSA, context, permit, world};

    #[tokio::test]
    async fn a_signed_manifest_is_no_message_and_no_message_is_a_manifest() {
        let world = world().await;
        let mut hasher = Hasher::new();
        hasher.push(b"a stream");
        hasher.push(b" in pieces");
        let manifest = hasher.finish();
        let mut whole = Hasher::default();
        whole.push(b"a stream in pieces");
        assert_eq!(manifest, whole.finish());
        for key in [ED25519, ML_DSA] {
            let bound = context(&[("a", "1")]);
            let signed = sign(&world.vault, &world.ids, vec![permit(key, Operation::Sign)], None, &manifest, &bound).await.unwrap();
            let (read, found) = read(signed.as_bytes()).unwrap();
            assert_eq!((found, read.key_version().unwrap()), (manifest.clone(), key));
            let held = world.vault.held(key).await.unwrap();
            read.verify(0, permit(key, Operation::Verify), &held, &bound).unwrap();
            let error = read.verify(0, permit(key, Operation::Verify), &held, &context(&[])).unwrap_err();
            assert_eq!(error.code(), "context_mismatch");
            assert!(Jws::parse(signed.as_bytes(), None).is_err());
            let message =
                jws::sign(&world.vault, &world.ids, vec![permit(key, Operation::Sign)], b"{}", &bound, Form::Compact).await.unwrap();
            assert!(super::read(message.as_bytes()).is_err());
        }
    }
}
