//! What needs only the public key of a version. No vault is asked to use a key; the permit is spent all the same, because
//! policy decides about sealing to a key and verifying with it like about everything else.

use std::sync::Arc;

use schema::{clock::Ids, key::Operation};

use super::{Held, Vault, VaultError, secret::SecretBytes, spend};
use crate::{
    algorithm::{self, AlgorithmError, ContentEncryption, Encapsulated, SealedContent, WrappedKey},
    policy::permit::UsePermit,
    vault::secret::ContentKey,
};

/// The permits that let a content key be wrapped, or content be encrypted directly.
pub const SEALING: &[Operation] = &[Operation::Encrypt, Operation::GenerateDataKey, Operation::Rewrap];
/// The permits that let a content key be unwrapped, or content be decrypted directly.
pub const OPENING: &[Operation] = &[Operation::Decrypt, Operation::Rewrap, Operation::ReEncrypt];
/// The permits that let content be decrypted directly: also what others sealed so.
pub const OPENING_CONTENT: &[Operation] = &[Operation::Decrypt, Operation::Rewrap, Operation::ReEncrypt, Operation::DecryptLegacy];
/// The permits that let a message be signed: one of a caller's, or a certificate that the agent wrote.
pub const SIGNING: &[Operation] = &[Operation::Sign, Operation::Certify];

/// Encrypts a content key for the holder of a key, symmetric or not.
pub async fn wrap_key(
    vault: &dyn Vault,
    ids: &dyn Ids,
    permit: UsePermit,
    key: &ContentKey,
    content: ContentEncryption,
) -> Result<WrappedKey, VaultError> {
    if !permit.algorithm().entry().asymmetric {
        return vault.wrap_key(permit, key, content).await;
    }
    let held = spent(vault, permit, SEALING, "wrap a key").await?;
    Ok(algorithm::serve(held.algorithm).seal_key(held.algorithm, public_key(&held)?, key, content, ids)?)
}

/// Encrypts content directly for the holder of a key, symmetric or not.
pub async fn seal_content(
    vault: &dyn Vault,
    ids: &dyn Ids,
    permit: UsePermit,
    associated: &[u8],
    plaintext: &[u8],
) -> Result<SealedContent, VaultError> {
    if !permit.algorithm().entry().asymmetric {
        return vault.seal_content(permit, associated, plaintext).await;
    }
    let held = spent(vault, permit, SEALING, "encrypt").await?;
    Ok(algorithm::serve(held.algorithm).seal_content(held.algorithm, public_key(&held)?, associated, plaintext, ids)?)
}

/// Wraps a bare key for the holder of a key, symmetric or not.
pub async fn wrap_bytes(vault: &dyn Vault, ids: &dyn Ids, permit: UsePermit, key: &SecretBytes) -> Result<Vec<u8>, VaultError> {
    if !permit.algorithm().entry().asymmetric {
        return vault.wrap_bytes(permit, key).await;
    }
    let held = spent(vault, permit, &[Operation::Wrap, Operation::Rewrap], "wrap a bare key").await?;
    Ok(algorithm::serve(held.algorithm).wrap_bytes(held.algorithm, public_key(&held)?, key, ids)?)
}

/// Makes a secret and encapsulates it for the holder of a key.
pub async fn encapsulate(vault: &dyn Vault, ids: &dyn Ids, permit: UsePermit) -> Result<Encapsulated, VaultError> {
    let held = spent(vault, permit, &[Operation::Encapsulate], "encapsulate a secret").await?;
    Ok(algorithm::serve(held.algorithm).encapsulate(held.algorithm, public_key(&held)?, ids)?)
}

/// Checks a signature over a ready digest.
pub async fn verify_digest(vault: &dyn Vault, permit: UsePermit, digest: &[u8], signature: &[u8]) -> Result<(), VaultError> {
    let held = spent(vault, permit, &[Operation::VerifyDigest], "verify a digest").await?;
    Ok(algorithm::serve(held.algorithm).verify_digest(held.algorithm, public_key(&held)?, digest, signature)?)
}

/// The public half itself, as the algorithm's standard writes it.
pub async fn read(vault: &dyn Vault, permit: UsePermit) -> Result<Vec<u8>, VaultError> {
    let held = spent(vault, permit, &[Operation::PublicKey], "read a public key").await?;
    Ok(public_key(&held)?.to_vec())
}

/// What is known of the version a permit is for: a vault says it, or policy when the key is a partner's.
pub async fn held(vault: &dyn Vault, permit: &UsePermit) -> Result<Arc<Held>, VaultError> {
    match permit.external() {
        Some(external) => Ok(external.clone()),
        None => vault.held(permit.version()).await,
    }
}

async fn spent(vault: &dyn Vault, permit: UsePermit, operations: &[Operation], asked: &'static str) -> Result<Arc<Held>, VaultError> {
    let held = held(vault, &permit).await?;
    spend(&permit, &held, operations, asked)?;
    Ok(held)
}

fn public_key(held: &Held) -> Result<&[u8], AlgorithmError> {
    held.public_key.as_deref().ok_or(AlgorithmError::NotServed { algorithm: held.algorithm, act: "have a public key" })
}
