//! Whatever holds key material for an agent. A backend is a handful of methods; the key may never leave it
//! (`docs/adding-a-vault.md`). Every use takes a [`UsePermit`] by value: using a key without a decision does not compile.
//!
//! - [`secret`]: bytes that do not print or copy, and a hardened process.
//! - [`public`]: what needs only the public key of a version.
//! - [`keeper`]: what the vaults share: keys brought into use from wherever they are kept, off the async threads, in bounded time.
//! - [`sealed`]: material that is kept sealed as records somewhere, and used in the agent's memory.
//! - [`file`]: records in a directory. [`remote`]: on a server. [`pkcs11`]: on a token, which also has keys inside.
//! - [`identity`]: which vault it is: agents that share one say the same.
//! - [`conformance`]: what every vault must do, as one suite of tests.

#[cfg(test)]
pub mod conformance;
pub mod file;
pub mod identity;
pub mod keeper;
pub mod pkcs11;
pub mod public;
pub mod remote;
pub mod sealed;
pub mod secret;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use schema::{
    catalogue::Algorithm,
    encoding::Digest,
    id::KeyVersion,
    key::{Operation, Protection},
    name::Name,
};

use self::secret::{ContentKey, SecretBytes};
use crate::{
    algorithm::{AlgorithmError, ContentEncryption, SealedContent, WrappedKey, legacy::KeyTransport},
    policy::permit::{ExportPermit, UsePermit},
};
pub use devices::{Trouble, TroubleKind};

/// What a vault is and what it can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// `file`, …
    pub kind: &'static str,
    /// Where it is, for people.
    pub place: String,
    /// What it can make and use, and how well it guards what it makes. Below [`Protection::Hardware`] the material is used
    /// in the agent's memory.
    pub algorithms: BTreeMap<Algorithm, Protection>,
    /// How well it guards what was made elsewhere.
    pub brought: Protection,
    /// Whether keys are used inside, so that none can be used while it is gone.
    pub needed_for_use: bool,
}

/// What a vault says of a version it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The version.
    pub version: KeyVersion,
    /// Its one algorithm.
    pub algorithm: Algorithm,
    /// Identifies the material: `algorithm::fingerprint`.
    pub fingerprint: Digest,
    /// The public key as the algorithm's standard encodes it, where there is one.
    pub public_key: Option<Vec<u8>>,
    /// How well the material is guarded here.
    pub protection: Protection,
}

/// Material on its way out of a vault.
pub struct Exported {
    /// What it is.
    pub held: Arc<Held>,
    /// The secret as the algorithm keeps it.
    pub material: SecretBytes,
}

/// A place for key material. Methods are safe to call from async code; work that takes long is moved off the calling
/// thread by the vault.
#[async_trait]
pub trait Vault: Send + Sync + 'static {
    /// What it is and what it can do.
    fn description(&self) -> Description;

    /// Whether it can be used now, asked of whatever it depends on; answers in bounded time.
    async fn check(&self) -> Result<(), VaultError>;

    /// What will go wrong unless somebody does something: a stable code, and words. Known from the last [`Vault::check`].
    fn advice(&self) -> Option<(&'static str, String)>;

    /// Makes the material of a version, stores it durably, reads it back and tests it before reporting. A version that is
    /// there already is reported as it is (a retry after a crash); a destroyed one is refused.
    async fn generate(&self, version: KeyVersion, algorithm: Algorithm) -> Result<Arc<Held>, VaultError>;

    /// Takes in material that was made elsewhere: a secret as the algorithm keeps it (`Implementation::generate`). Stored,
    /// read back and tested like one that was made here. The same material again changes nothing; other material under a
    /// version that is here is refused, and so is a version that was destroyed.
    async fn import(&self, version: KeyVersion, algorithm: Algorithm, material: SecretBytes) -> Result<Arc<Held>, VaultError>;

    /// Hands out the material of a version, to be sealed at once for where the permit says it goes. A vault that never
    /// lets material out answers [`VaultError::NotExtractable`].
    async fn export(&self, permit: ExportPermit) -> Result<Exported, VaultError>;

    /// Every version it holds, in order.
    async fn versions(&self) -> Result<Vec<Arc<Held>>, VaultError>;

    /// What it holds of one version, with the public key.
    async fn held(&self, version: KeyVersion) -> Result<Arc<Held>, VaultError>;

    /// Destroys a version for good and leaves a tombstone, so that an older backup does not bring it back. Destroying
    /// what is gone or was never here also leaves the tombstone, and succeeds.
    async fn destroy(&self, version: KeyVersion) -> Result<(), VaultError>;

    /// Versions that were destroyed, were there again, and were destroyed again: since this was asked last.
    fn returned(&self) -> Vec<KeyVersion>;

    /// Every destroyed version, in order.
    async fn tombstones(&self) -> Result<Vec<KeyVersion>, VaultError>;

    /// Encrypts a content key under a symmetric key. (Sealing to a public key needs no vault.)
    async fn wrap_key(&self, permit: UsePermit, key: &ContentKey, content: ContentEncryption) -> Result<WrappedKey, VaultError>;

    /// Decrypts a content key, also one that was sealed to a public key.
    async fn unwrap_key(&self, permit: UsePermit, wrapped: &WrappedKey, content: ContentEncryption) -> Result<ContentKey, VaultError>;

    /// Signs a message.
    async fn sign(&self, permit: UsePermit, message: &[u8]) -> Result<Vec<u8>, VaultError>;

    /// Encrypts content directly under a symmetric key; the vault makes the nonce. (Sealing to a public key needs no
    /// vault: [`public`].)
    async fn seal_content(&self, permit: UsePermit, associated: &[u8], plaintext: &[u8]) -> Result<SealedContent, VaultError>;

    /// Decrypts content that was encrypted directly, also to a public key.
    async fn open_content(&self, permit: UsePermit, associated: &[u8], sealed: &SealedContent) -> Result<SecretBytes, VaultError>;

    /// Signs a ready digest.
    async fn sign_digest(&self, permit: UsePermit, digest: &[u8]) -> Result<Vec<u8>, VaultError>;

    /// Authenticates a message with a shared key.
    async fn mac(&self, permit: UsePermit, message: &[u8]) -> Result<Vec<u8>, VaultError>;

    /// Checks the authentication of a message.
    async fn verify_mac(&self, permit: UsePermit, message: &[u8], tag: &[u8]) -> Result<(), VaultError>;

    /// Wraps a bare key under a symmetric key. (To a public key: [`public::wrap_bytes`].)
    async fn wrap_bytes(&self, permit: UsePermit, key: &SecretBytes) -> Result<Vec<u8>, VaultError>;

    /// Unwraps a bare key.
    async fn unwrap_bytes(&self, permit: UsePermit, wrapped: &[u8]) -> Result<SecretBytes, VaultError>;

    /// Decrypts a content key of `length_bytes` that came in an old format.
    async fn unwrap_transported(
        &self,
        permit: UsePermit,
        transport: &KeyTransport,
        encrypted_key: &[u8],
        length_bytes: usize,
    ) -> Result<SecretBytes, VaultError>;

    /// Agrees on a secret with the holder of a public key, which is encoded as the algorithm's standard says. The secret
    /// is as it comes out of the curve: derive keys from it.
    async fn agree(&self, permit: UsePermit, public_key: &[u8]) -> Result<SecretBytes, VaultError>;

    /// Takes an encapsulated secret out. (Encapsulating needs no vault: [`public::encapsulate`].)
    async fn decapsulate(&self, permit: UsePermit, ciphertext: &[u8]) -> Result<SecretBytes, VaultError>;

    /// Derives `length_bytes` from a key.
    async fn derive(&self, permit: UsePermit, salt: &[u8], info: &[u8], length_bytes: usize) -> Result<SecretBytes, VaultError>;

    /// A 256-bit secret of the agent itself (not a customer's key), made at its first use: for example the key of the
    /// HMACs in receipts. Agents that share the vault get the same one.
    async fn named_secret(&self, name: &Name) -> Result<SecretBytes, VaultError>;
}

/// Why a vault did not do what it was asked. [`VaultError::code`] is stable.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The version is not here.
    #[error("this vault does not hold {0}; it may still be on its way, or be held at another site")]
    NotHeld(KeyVersion),
    /// The version was destroyed.
    #[error("{0} was destroyed; a destroyed version never comes back")]
    Destroyed(KeyVersion),
    /// The version is there with another algorithm.
    #[error("{version} is a key of {held}, not of {asked}")]
    OtherAlgorithm {
        /// The version.
        version: KeyVersion,
        /// What it is.
        held: Algorithm,
        /// What was asked for.
        asked: Algorithm,
    },
    /// The version is there with other material.
    #[error("{0} is held with other material; the material first seen for a version is the only one it ever has")]
    OtherMaterial(KeyVersion),
    /// The key demands more than this vault gives.
    #[error(
        "the key of {version} demands the protection {demanded}, and this vault gives {offered} to its algorithm; it is not made or held here"
    )]
    ProtectionNotMet {
        /// The version.
        version: KeyVersion,
        /// What the key demands.
        demanded: Protection,
        /// What there is here.
        offered: Protection,
    },
    /// The material never leaves this vault.
    #[error("{0} cannot leave this vault: its material is not extractable")]
    NotExtractable(KeyVersion),
    /// The permit is for another operation.
    #[error("a permit to {permitted} does not allow to {asked}")]
    OtherOperation {
        /// What was allowed.
        permitted: Operation,
        /// What was tried.
        asked: &'static str,
    },
    /// The algorithm did not do it.
    #[error(transparent)]
    Algorithm(AlgorithmError),
    /// The device or service that holds or seals the keys did not do it.
    #[error(transparent)]
    Trouble(#[from] Trouble),
    /// The passphrase or key file is not the one this vault was made with.
    #[error("{0} cannot be opened: the passphrase or key file is not the one it was made with")]
    WrongSecret(PathBuf),
    /// The passphrase or key file cannot be used.
    #[error("the vault's secret cannot be used: {0}")]
    UnusableSecret(String),
    /// Something in the vault was damaged or changed.
    #[error("{path} is damaged ({detail}); restore it from a backup of the vault")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Others may read or change the vault.
    #[error("{path} is open to others ({mode:o}); only its owner may read and change it: chmod {wanted:o} {path}")]
    TooOpen {
        /// The path.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// What it should be.
        wanted: u32,
    },
    /// Another process uses the vault.
    #[error("{0} is in use by another process; one vault directory serves one agent")]
    InUse(PathBuf),
    /// There is no vault there.
    #[error("there is no vault at {0}")]
    Missing(PathBuf),
    /// The system failed.
    #[error("{act} {path} failed")]
    Io {
        /// What was tried: `reading`, `writing`, …
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl From<devices::pkcs11::device::Failure> for VaultError {
    fn from(failure: devices::pkcs11::device::Failure) -> Self {
        failure.trouble.into()
    }
}

impl From<AlgorithmError> for VaultError {
    fn from(error: AlgorithmError) -> Self {
        match error {
            AlgorithmError::Trouble(trouble) => Self::Trouble(trouble),
            other => Self::Algorithm(other),
        }
    }
}

impl VaultError {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotHeld(_) => "key_version_not_held",
            Self::Destroyed(_) => "key_version_destroyed",
            Self::OtherAlgorithm { .. } => "key_version_other_algorithm",
            Self::OtherMaterial(_) => "key_version_other_material",
            Self::ProtectionNotMet { .. } => "protection_not_met",
            Self::NotExtractable(_) => "key_version_not_extractable",
            Self::OtherOperation { .. } => "permit_other_operation",
            Self::Algorithm(AlgorithmError::NotGenuine { .. }) => "not_genuine",
            Self::Algorithm(AlgorithmError::NotServed { .. }) => "operation_not_served",
            Self::Algorithm(AlgorithmError::Unfit { .. }) => "unfit_input",
            Self::Algorithm(AlgorithmError::MalformedKey { .. }) => "malformed_key",
            Self::Algorithm(AlgorithmError::Failed { .. }) => "algorithm_failed",
            Self::Algorithm(AlgorithmError::Trouble(trouble)) | Self::Trouble(trouble) => trouble.kind.code(),
            Self::WrongSecret(_) => "vault_wrong_secret",
            Self::UnusableSecret(_) => "vault_unusable_secret",
            Self::Corrupt { .. } => "vault_corrupt",
            Self::TooOpen { .. } => "vault_too_open",
            Self::InUse(_) => "vault_in_use",
            Self::Missing(_) => "vault_missing",
            Self::Io { .. } => "vault_io",
        }
    }

    /// Whether the same may succeed in a while with nothing else changed: it is the place that failed, not what was asked of it.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Trouble(_)
            | Self::Algorithm(AlgorithmError::Trouble(_))
            | Self::Corrupt { .. }
            | Self::TooOpen { .. }
            | Self::InUse(_)
            | Self::Missing(_)
            | Self::Io { .. } => true,
            Self::NotHeld(_)
            | Self::Destroyed(_)
            | Self::OtherAlgorithm { .. }
            | Self::OtherMaterial(_)
            | Self::ProtectionNotMet { .. }
            | Self::NotExtractable(_)
            | Self::OtherOperation { .. }
            | Self::Algorithm(_)
            | Self::WrongSecret(_)
            | Self::UnusableSecret(_) => false,
        }
    }
}

/// Checks that a permit is for this algorithm and one of these operations. Every backend calls it before it uses a key.
pub fn spend(permit: &UsePermit, held: &Held, operations: &[Operation], asked: &'static str) -> Result<(), VaultError> {
    if !operations.contains(&permit.operation()) {
        return Err(VaultError::OtherOperation { permitted: permit.operation(), asked });
    }
    if permit.algorithm() != held.algorithm || permit.version() != held.version {
        return Err(VaultError::OtherAlgorithm { version: held.version, held: held.algorithm, asked: permit.algorithm() });
    }
    Ok(())
}
