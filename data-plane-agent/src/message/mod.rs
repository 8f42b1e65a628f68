//! What protected data looks like: JWE and JWS messages of at most 1 MiB, and files of any size. Formats are in
//! `docs/formats.md`; nothing here decides who may do what.
//!
//! Sealing and opening take a vault, one [`UsePermit`] per key version (from the policy decision), and the encryption
//! context:
//!
//! ```text
//! seal     jwe::encrypt(vault, ids, permits, plaintext, context, form)            -> text
//!          data_key::generate(vault, ids, permit, context, form)                  -> 32 bytes in clear, and text
//! open     Jwe::parse(text) -> which keys? decide -> jwe.decrypt(vault, permit, context) -> plaintext
//! sign     jws::sign(vault, ids, permits, payload, context, form)                 -> text
//! verify   Jws::parse(text, payload) -> which keys? decide -> jws.verify(i, permit, held, context)
//! file     FileSealer::begin(vault, ids, permits, context) -> header, then push .. finish
//!          HeaderReader::push .. -> FileHeader -> which keys? decide -> header.open(vault, permit, context) -> FileOpener, push .. finish
//! old      Enveloped::parse(bytes) -> .recipient(i) -> legacy? decide -> .open(vault, permit, recipient) -> plaintext
//!          Signed::parse(bytes) -> .signer(i) -> legacy? decide -> .verify(signer, permit, held, content)
//!          Transit::parse(text) -> which version? decide -> .open(vault, permit, associated) -> plaintext
//! ```
//!
//! A key pins `alg`, `enc` and container: nothing else than its catalogue row says is made or accepted.

pub mod certificate;
pub mod cms;
pub mod data_key;
pub mod file;
pub mod header;
pub mod jwe;
pub mod jws;
pub mod manifest;
pub mod transit;

use schema::{catalogue::Sealing, clock::Ids, id::KeyVersion};

use crate::{
    algorithm::{ContentEncryption, WrappedKey},
    material::{UnfitMaterial, import_keys::ImportKeyError},
    policy::permit::UsePermit,
    vault::{Vault, VaultError, public, secret::ContentKey},
};

/// The most bytes of a message in clear.
pub const MAX_PLAINTEXT_BYTES: usize = 1024 * 1024;
/// The most bytes of a message as it travels: base64url of the plaintext, headers and many recipients.
pub const MAX_MESSAGE_BYTES: usize = MAX_PLAINTEXT_BYTES / 3 * 4 + 128 * 1024;
/// The most recipients or signatures of one message or file.
pub const MAX_RECIPIENTS: usize = 24;

/// Why data cannot be protected or processed. [`MessageError::code`] is stable.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Too much data.
    #[error("{what} is longer than {max_bytes} bytes; use a file for more than 1 MiB")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// The most bytes allowed.
        max_bytes: usize,
    },
    /// Not what it should be.
    #[error("this is not a {what}: {detail}")]
    Malformed {
        /// `JWE`, `JWS`, `Freehold file`, …
        what: &'static str,
        /// What is wrong, and where.
        detail: String,
    },
    /// Something in it that must be understood is not.
    #[error("{0} is not supported, and must not be ignored")]
    NotUnderstood(String),
    /// The key does not do this.
    #[error("{version} is a key of {algorithm}: {detail}")]
    OtherAlgorithm {
        /// The version.
        version: KeyVersion,
        /// Its algorithm.
        algorithm: &'static str,
        /// What was asked of it.
        detail: String,
    },
    /// It is for other keys.
    #[error("it is not for {0}; it names other keys")]
    OtherKey(KeyVersion),
    /// It does not say which key it is for.
    #[error("it does not say which key it is for (no kid); name the key in the request")]
    NoKey,
    /// The encryption context is another one.
    #[error("the encryption context is not the one this was made with")]
    OtherContext,
    /// The data was changed, or made with another key.
    #[error("the data is not genuine: it was changed or cut on the way, or made with another key")]
    NotGenuine,
    /// The file ends too early.
    #[error("the file is cut off: it ends before its last chunk")]
    Truncated,
    /// Several recipients of unequal strength.
    #[error("a message to a post-quantum recipient cannot also be for {0}, which a quantum computer breaks")]
    WeakestRecipient(KeyVersion),
    /// No recipients, or too many.
    #[error("a message or file has 1 to {MAX_RECIPIENTS} recipients or signatures, and one in compact form")]
    Recipients,
    /// One of several recipients cannot be another key.
    #[error("no other key can take the place of this recipient: {0}; open the message and seal it for all of them again")]
    Irreplaceable(String),
    /// What came is not the material of the key.
    #[error(transparent)]
    Material(#[from] UnfitMaterial),
    /// The key that it is wrapped under.
    #[error(transparent)]
    ImportKey(#[from] ImportKeyError),
    /// The vault did not do it.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The cryptographic library failed.
    #[error("{0} failed inside the cryptographic library")]
    Failed(&'static str),
}

impl MessageError {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "too_long",
            Self::Malformed { .. } => "malformed",
            Self::NotUnderstood(_) => "not_understood",
            Self::OtherAlgorithm { .. } => "other_algorithm",
            Self::OtherKey(_) => "other_key",
            Self::NoKey => "key_not_named",
            Self::OtherContext => "context_mismatch",
            Self::NotGenuine => "not_genuine",
            Self::Truncated => "truncated",
            Self::WeakestRecipient(_) => "weakest_recipient",
            Self::Recipients | Self::Irreplaceable(_) => "recipient_count",
            Self::Material(_) => "unfit_material",
            Self::ImportKey(error) => error.code(),
            Self::Vault(error) => error.code(),
            Self::Failed(_) => "algorithm_failed",
        }
    }

    /// Whether the data is to blame, rather than the agent or its vault.
    pub fn is_the_callers(&self) -> bool {
        !matches!(self, Self::Failed(_) | Self::ImportKey(_))
            && !matches!(self, Self::Vault(error) if !matches!(error.code(), "not_genuine" | "operation_not_served" | "unfit_input"))
    }
}

/// A content key as one recipient gets it.
pub(crate) struct Recipient {
    pub(crate) permit_version: KeyVersion,
    pub(crate) algorithm: schema::catalogue::Algorithm,
    pub(crate) wrapped: WrappedKey,
}

/// Wraps a content key once for each permit.
pub(crate) async fn wrap_for(
    vault: &dyn Vault,
    ids: &dyn Ids,
    permits: Vec<UsePermit>,
    key: &ContentKey,
    content: ContentEncryption,
) -> Result<Vec<Recipient>, MessageError> {
    if permits.is_empty() || permits.len() > MAX_RECIPIENTS {
        return Err(MessageError::Recipients);
    }
    if permits.iter().any(|permit| permit.algorithm().entry().asymmetric && permit.algorithm().entry().quantum_category > 0)
        && let Some(weak) = permits.iter().find(|permit| permit.algorithm().entry().quantum_category == 0)
    {
        return Err(MessageError::WeakestRecipient(weak.version()));
    }
    let mut recipients = Vec::with_capacity(permits.len());
    for permit in permits {
        let (permit_version, algorithm) = (permit.version(), permit.algorithm());
        if algorithm.entry().sealing != Some(Sealing::ContentKey) {
            return Err(MessageError::OtherAlgorithm {
                version: permit_version,
                algorithm: algorithm.name(),
                detail: match algorithm.entry().sealing {
                    Some(Sealing::Direct) => "it encrypts the message itself: no file, and no second recipient".to_owned(),
                    _ => "it does not encrypt".to_owned(),
                },
            });
        }
        let wrapped = public::wrap_key(vault, ids, permit, key, content).await?;
        recipients.push(Recipient { permit_version, algorithm, wrapped });
    }
    Ok(recipients)
}

/// Unwraps a content key. What is wrong with the data is [`MessageError::NotGenuine`] whoever found it.
pub(crate) async fn unwrap(
    vault: &dyn Vault,
    permit: UsePermit,
    wrapped: &WrappedKey,
    content: ContentEncryption,
) -> Result<ContentKey, MessageError> {
    vault.unwrap_key(permit, wrapped, content).await.map_err(|error| match error.code() {
        "not_genuine" => MessageError::NotGenuine,
        _ => error.into(),
    })
}

#[cfg(test)]
mod every_algorithm;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod rfc_examples;

#[cfg(test)]
pub(crate) mod tests {
    //! A vault with one key of each algorithm, for the tests of every format.

    use std::sync::Arc;

    use schema::{catalogue::Algorithm, clock::ManualIds, context::EncryptionContext, id::KeyId, key::Operation};

    use super::*;
    use crate::vault::{
        file::{FileVault, Unlock},
        secret::SecretBytes,
    };

    pub(crate) struct World {
        pub(crate) vault: FileVault,
        pub(crate) ids: ManualIds,
        _directory: tempfile::TempDir,
    }

    pub(crate) const SYMMETRIC: KeyVersion = KeyVersion::new(KeyId::from_bits(1), 1);
    pub(crate) const HYBRID: KeyVersion = KeyVersion::new(KeyId::from_bits(2), 1);
    pub(crate) const ED25519: KeyVersion = KeyVersion::new(KeyId::from_bits(3), 1);
    pub(crate) const ML_DSA: KeyVersion = KeyVersion::new(KeyId::from_bits(4), 1);

    pub(crate) fn algorithm_of(version: KeyVersion) -> Algorithm {
        let name = match version.key.bits() {
            1 => "A256KW+A256GCM",
            2 => "HPKE-9-KE",
            3 => "Ed25519",
            _ => "ML-DSA-65",
        };
        name.parse().unwrap()
    }

    pub(crate) async fn world() -> World {
        let directory = tempfile::tempdir().unwrap();
        let key_file = directory.path().join("key");
        std::fs::write(&key_file, [7; 32]).unwrap();
        std::fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
        let ids = ManualIds::seeded(1);
        let vault = FileVault::open_or_create(&directory.path().join("vault"), &Unlock::KeyFile(key_file), Arc::new(ids.clone())).unwrap();
        for version in [SYMMETRIC, HYBRID, ED25519, ML_DSA] {
            vault.generate(version, algorithm_of(version)).await.unwrap();
        }
        World { vault, ids, _directory: directory }
    }

    pub(crate) fn permit(version: KeyVersion, operation: Operation) -> UsePermit {
        UsePermit::for_test(version, operation, algorithm_of(version))
    }

    pub(crate) fn context(pairs: &[(&str, &str)]) -> EncryptionContext {
        EncryptionContext::new(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()).unwrap()
    }

    /// One world for many tries: making one takes longer than a try.
    pub(crate) fn shared() -> (&'static tokio::runtime::Runtime, &'static World) {
        use std::sync::OnceLock;
        static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
        static WORLD: OnceLock<World> = OnceLock::new();
        let runtime = RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().unwrap());
        (runtime, WORLD.get_or_init(|| runtime.block_on(world())))
    }

    #[tokio::test]
    async fn a_permit_for_something_else_is_refused() {
        let world = world().await;
        let key = ContentKey::random(&world.ids);
        let content = ContentEncryption::A256Gcm;
        let wrapped = world.vault.wrap_key(permit(SYMMETRIC, Operation::Encrypt), &key, content).await.unwrap();
        let error = world.vault.unwrap_key(permit(SYMMETRIC, Operation::Encrypt), &wrapped, content).await.err().unwrap();
        assert_eq!(error.code(), "permit_other_operation");
        let mixed = UsePermit::for_test(SYMMETRIC, Operation::Sign, algorithm_of(ED25519));
        assert_eq!(world.vault.sign(mixed, b"x").await.unwrap_err().code(), "key_version_other_algorithm");
        let sealing = UsePermit::for_test(HYBRID, Operation::Decrypt, algorithm_of(HYBRID));
        let error = wrap_for(&world.vault, &world.ids, vec![sealing], &key, content).await.err().unwrap();
        assert_eq!(error.code(), "permit_other_operation");
        let signing = wrap_for(&world.vault, &world.ids, vec![permit(ED25519, Operation::Encrypt)], &key, content).await;
        assert_eq!(signing.err().unwrap().code(), "other_algorithm");
        drop(SecretBytes::random(1, &world.ids));
    }
}
