//! A vault in a directory: one sealed file per version, all under a root key that a passphrase or a key file opens.
//!
//! ```text
//! vault.json               how the root key is sealed: Argon2id parameters or "key file", and the sealed root key
//! key_….3.json             a version: algorithm, fingerprint, public key in clear, its seed sealed
//! key_….3.destroyed        a tombstone; beats a sealed file that came back with an old backup
//! secret.<name>.json       a secret of the agent itself, sealed
//! lock                     held while an agent uses the vault
//! ```
//!
//! Files are written beside their place, synced, renamed, and the directory synced. Sealing is AES-256-GCM; what stands
//! in clear beside a sealed value, and which vault it belongs to, is its associated data (`docs/formats.md`).

mod store;
mod unlock;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use async_trait::async_trait;
use schema::{catalogue::Algorithm, clock::Ids, id::KeyVersion, key::Operation, name::Name};

pub use self::unlock::Unlock;
use self::{store::Store, unlock::RootKey};
use super::{
    Description, Exported, Held, Vault, VaultError,
    public::{OPENING, SEALING},
    secret::{ContentKey, SecretBytes},
    spend,
};
use crate::{
    algorithm::{self, ContentEncryption, LoadedKey, SealedContent, WrappedKey, legacy::KeyTransport},
    policy::permit::{ExportPermit, UsePermit},
};

/// The file vault. Cheap to clone; clones share the keys.
#[derive(Clone)]
pub struct FileVault(Arc<Inner>);

struct Inner {
    store: Store,
    root: RootKey,
    ids: Arc<dyn Ids>,
    keys: RwLock<Keys>,
    /// One change of the directory at a time.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Keys {
    loaded: BTreeMap<KeyVersion, Arc<Loaded>>,
    destroyed: BTreeSet<KeyVersion>,
}

struct Loaded {
    held: Arc<Held>,
    key: Box<dyn LoadedKey>,
}

impl FileVault {
    /// Opens the vault in `directory`, or makes one where there is none. Blocks while the passphrase is stretched
    /// (about a tenth of a second and 19 MiB of memory); call it before serving.
    pub fn open_or_create(directory: &Path, unlock: &Unlock, ids: Arc<dyn Ids>) -> Result<Self, VaultError> {
        let store = Store::open_or_create(directory)?;
        let root = match store.header()? {
            Some(header) => RootKey::open(&header, unlock, &store.header_path())?,
            None => {
                let (header, root) = RootKey::create(unlock, ids.as_ref())?;
                store.write_header(&header)?;
                root
            }
        };
        Self::load(store, root, ids)
    }

    /// Opens a vault that is there.
    pub fn open(directory: &Path, unlock: &Unlock, ids: Arc<dyn Ids>) -> Result<Self, VaultError> {
        if !directory.join(store::HEADER).exists() {
            return Err(VaultError::Missing(directory.to_owned()));
        }
        Self::open_or_create(directory, unlock, ids)
    }

    /// Seals the root key under another passphrase or key file. The keys themselves are not written again.
    pub async fn change_secret(&self, unlock: Unlock) -> Result<(), VaultError> {
        let _guard = self.0.changing.lock().await;
        let inner = self.0.clone();
        blocking(move || inner.store.write_header(&inner.root.reseal(&unlock, inner.ids.as_ref())?)).await
    }

    /// Where the vault is.
    pub fn directory(&self) -> &Path {
        self.0.store.directory()
    }

    fn load(store: Store, root: RootKey, ids: Arc<dyn Ids>) -> Result<Self, VaultError> {
        let mut keys = Keys { loaded: BTreeMap::new(), destroyed: store.tombstones()? };
        for version in store.versions()? {
            if keys.destroyed.contains(&version) {
                store.remove_version(version)?; // came back with an old backup
                continue;
            }
            keys.loaded.insert(version, Arc::new(read_version(&store, &root, version)?));
        }
        Ok(Self(Arc::new(Inner { store, root, ids, keys: RwLock::new(keys), changing: tokio::sync::Mutex::new(()) })))
    }

    fn loaded(&self, version: KeyVersion) -> Result<Arc<Loaded>, VaultError> {
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        match keys.loaded.get(&version) {
            Some(loaded) => Ok(loaded.clone()),
            None if keys.destroyed.contains(&version) => Err(VaultError::Destroyed(version)),
            None => Err(VaultError::NotHeld(version)),
        }
    }
}

/// Reads a version back from the disk and expands it; checks that it is the material its file says it is.
fn read_version(store: &Store, root: &RootKey, version: KeyVersion) -> Result<Loaded, VaultError> {
    let (held, seed) = store.read_version(root, version)?;
    let key = algorithm::serve(held.algorithm).load(held.algorithm, &seed)?;
    if algorithm::fingerprint(held.algorithm, key.public_key(), &seed) != held.fingerprint {
        return Err(VaultError::Corrupt {
            path: store.version_path(version),
            detail: "the material does not have the fingerprint beside it".to_owned(),
        });
    }
    Ok(Loaded { held: Arc::new(held), key })
}

impl Inner {
    fn generate(&self, version: KeyVersion, algorithm: Algorithm) -> Result<Loaded, VaultError> {
        let secret = algorithm::serve(algorithm).generate(algorithm, self.ids.as_ref())?;
        self.keep(version, algorithm, &secret)
    }

    /// Tests the material, stores it, and reads it back.
    fn keep(&self, version: KeyVersion, algorithm: Algorithm, secret: &SecretBytes) -> Result<Loaded, VaultError> {
        let key = algorithm::serve(algorithm).load(algorithm, secret)?;
        algorithm::pairwise(key.as_ref(), self.ids.as_ref())?;
        let public_key = key.public_key().map(<[u8]>::to_vec);
        let fingerprint = algorithm::fingerprint(algorithm, public_key.as_deref(), secret);
        let held = Held { version, algorithm, fingerprint, public_key };
        self.store.write_version(&self.root, &held, secret, self.ids.as_ref())?;
        read_version(&self.store, &self.root, version)
    }
}

#[async_trait]
impl Vault for FileVault {
    fn description(&self) -> Description {
        Description {
            kind: "file",
            place: self.0.store.directory().display().to_string(),
            algorithms: Algorithm::all().collect(),
            used_in_memory: true,
        }
    }

    async fn generate(&self, version: KeyVersion, algorithm: Algorithm) -> Result<Arc<Held>, VaultError> {
        let _guard = self.0.changing.lock().await;
        match self.loaded(version) {
            Ok(loaded) if loaded.held.algorithm == algorithm => return Ok(loaded.held.clone()),
            Ok(loaded) => return Err(VaultError::OtherAlgorithm { version, held: loaded.held.algorithm, asked: algorithm }),
            Err(VaultError::NotHeld(_)) => {}
            Err(error) => return Err(error),
        }
        let inner = self.0.clone();
        let loaded = Arc::new(blocking(move || inner.generate(version, algorithm)).await?);
        let held = loaded.held.clone();
        self.0.keys.write().unwrap_or_else(PoisonError::into_inner).loaded.insert(version, loaded);
        Ok(held)
    }

    async fn import(&self, version: KeyVersion, algorithm: Algorithm, material: SecretBytes) -> Result<Arc<Held>, VaultError> {
        let _guard = self.0.changing.lock().await;
        match self.loaded(version) {
            Ok(loaded) if loaded.held.algorithm != algorithm => {
                return Err(VaultError::OtherAlgorithm { version, held: loaded.held.algorithm, asked: algorithm });
            }
            Ok(loaded) => {
                let key = algorithm::serve(algorithm).load(algorithm, &material)?;
                let same = algorithm::fingerprint(algorithm, key.public_key(), &material) == loaded.held.fingerprint;
                return if same { Ok(loaded.held.clone()) } else { Err(VaultError::OtherMaterial(version)) };
            }
            Err(VaultError::NotHeld(_)) => {}
            Err(error) => return Err(error),
        }
        let inner = self.0.clone();
        let loaded = Arc::new(blocking(move || inner.keep(version, algorithm, &material)).await?);
        let held = loaded.held.clone();
        self.0.keys.write().unwrap_or_else(PoisonError::into_inner).loaded.insert(version, loaded);
        Ok(held)
    }

    async fn export(&self, permit: ExportPermit) -> Result<Exported, VaultError> {
        let version = permit.version();
        let held = self.loaded(version)?.held.clone();
        let inner = self.0.clone();
        let (_, material) = blocking(move || inner.store.read_version(&inner.root, version)).await?;
        Ok(Exported { held, material })
    }

    async fn versions(&self) -> Result<Vec<Arc<Held>>, VaultError> {
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.loaded.values().map(|loaded| loaded.held.clone()).collect())
    }

    async fn held(&self, version: KeyVersion) -> Result<Arc<Held>, VaultError> {
        Ok(self.loaded(version)?.held.clone())
    }

    async fn destroy(&self, version: KeyVersion) -> Result<(), VaultError> {
        let _guard = self.0.changing.lock().await;
        {
            // Out of use at once, whatever the disk says next.
            let mut keys = self.0.keys.write().unwrap_or_else(PoisonError::into_inner);
            keys.loaded.remove(&version);
            keys.destroyed.insert(version);
        }
        let inner = self.0.clone();
        blocking(move || {
            inner.store.write_tombstone(version)?;
            inner.store.remove_version(version)
        })
        .await
    }

    async fn tombstones(&self) -> Result<Vec<KeyVersion>, VaultError> {
        Ok(self.0.keys.read().unwrap_or_else(PoisonError::into_inner).destroyed.iter().copied().collect())
    }

    async fn wrap_key(&self, permit: UsePermit, key: &ContentKey, content: ContentEncryption) -> Result<WrappedKey, VaultError> {
        let loaded = self.loaded(permit.version())?;
        spend(&permit, &loaded.held, SEALING, "wrap a key")?;
        Ok(loaded.key.wrap_key(key, content)?)
    }

    async fn unwrap_key(&self, permit: UsePermit, wrapped: &WrappedKey, content: ContentEncryption) -> Result<ContentKey, VaultError> {
        let loaded = self.loaded(permit.version())?;
        spend(&permit, &loaded.held, OPENING, "unwrap a key")?;
        Ok(loaded.key.unwrap_key(wrapped, content)?)
    }

    async fn sign(&self, permit: UsePermit, message: &[u8]) -> Result<Vec<u8>, VaultError> {
        let loaded = self.loaded(permit.version())?;
        spend(&permit, &loaded.held, &[Operation::Sign], "sign")?;
        if !loaded.key.is_slow() {
            return Ok(loaded.key.sign(message)?);
        }
        let message = message.to_vec();
        blocking(move || Ok(loaded.key.sign(&message)?)).await
    }

    async fn seal_content(&self, permit: UsePermit, associated: &[u8], plaintext: &[u8]) -> Result<SealedContent, VaultError> {
        let loaded = self.loaded(permit.version())?;
        spend(&permit, &loaded.held, SEALING, "encrypt")?;
        Ok(loaded.key.seal_content(associated, plaintext, self.0.ids.as_ref())?)
    }

    async fn open_content(&self, permit: UsePermit, associated: &[u8], sealed: &SealedContent) -> Result<SecretBytes, VaultError> {
        let loaded = self.loaded(permit.version())?;
        spend(&permit, &loaded.held, OPENING, "decrypt")?;
        Ok(loaded.key.open_content(associated, sealed)?)
    }

    async fn sign_digest(&self, permit: UsePermit, digest: &[u8]) -> Result<Vec<u8>, VaultError> {
        let loaded = self.loaded(permit.version())?;
        spend(&permit, &loaded.held, &[Operation::SignDigest], "sign a digest")?;
        if !loaded.key.is_slow() {
            return Ok(loaded.key.sign_digest(digest)?);
        }
        let digest = digest.to_vec();
        blocking(move || Ok(loaded.key.sign_digest(&digest)?)).await
    }

    async fn mac(&self, permit: UsePermit, message: &[u8]) -> Result<Vec<u8>, VaultError> {
        let loaded = self.loaded(permit.version())?;
        spend(&permit, &loaded.held, &[Operation::Mac], "authenticate a message")?;
        Ok(loaded.key.mac(message)?)
    }

    async fn verify_mac(&self, permit: UsePermit, message: &[u8], tag: &[u8]) -> Result<(), VaultError> {
        let loaded = self.loaded(permit.version())?;
        spend(&permit, &loaded.held, &[Operation::VerifyMac], "verify the authentication of a message")?;
        Ok(loaded.key.verify_mac(message, tag)?)
    }

    async fn wrap_bytes(&self, permit: UsePermit, key: &SecretBytes) -> Result<Vec<u8>, VaultError> {
        let loaded = self.loaded(permit.version())?;
        spend(&permit, &loaded.held, &[Operation::Wrap, Operation::Rewrap], "wrap a bare key")?;
        Ok(loaded.key.wrap_bytes(key)?)
    }

    async fn unwrap_bytes(&self, permit: UsePermit, wrapped: &[u8]) -> Result<SecretBytes, VaultError> {
        let loaded = self.loaded(permit.version())?;
        spend(&permit, &loaded.held, &[Operation::Unwrap, Operation::Rewrap], "unwrap a bare key")?;
        Ok(loaded.key.unwrap_bytes(wrapped)?)
    }

    async fn unwrap_transported(
        &self,
        permit: UsePermit,
        transport: &KeyTransport,
        encrypted_key: &[u8],
        length_bytes: usize,
    ) -> Result<SecretBytes, VaultError> {
        let loaded = self.loaded(permit.version())?;
        let operations: &[Operation] = match transport.legacy() {
            None => &[Operation::Decrypt, Operation::DecryptLegacy, Operation::ReEncrypt],
            Some(_) => &[Operation::DecryptLegacy],
        };
        spend(&permit, &loaded.held, operations, "unwrap a content key of an old format")?;
        Ok(loaded.key.unwrap_transported(transport, encrypted_key, length_bytes)?)
    }

    async fn agree(&self, permit: UsePermit, public_key: &[u8]) -> Result<SecretBytes, VaultError> {
        let loaded = self.loaded(permit.version())?;
        spend(&permit, &loaded.held, &[Operation::Agree], "agree on a secret")?;
        Ok(loaded.key.agree(public_key)?)
    }

    async fn decapsulate(&self, permit: UsePermit, ciphertext: &[u8]) -> Result<SecretBytes, VaultError> {
        let loaded = self.loaded(permit.version())?;
        spend(&permit, &loaded.held, &[Operation::Decapsulate], "decapsulate a secret")?;
        Ok(loaded.key.decapsulate(ciphertext)?)
    }

    async fn derive(&self, permit: UsePermit, salt: &[u8], info: &[u8], length_bytes: usize) -> Result<SecretBytes, VaultError> {
        let loaded = self.loaded(permit.version())?;
        spend(&permit, &loaded.held, &[Operation::Derive], "derive a key")?;
        Ok(loaded.key.derive(salt, info, length_bytes)?)
    }

    async fn named_secret(&self, name: &Name) -> Result<SecretBytes, VaultError> {
        let _guard = self.0.changing.lock().await;
        let (inner, name) = (self.0.clone(), name.clone());
        blocking(move || {
            if let Some(secret) = inner.store.read_secret(&inner.root, &name)? {
                return Ok(secret);
            }
            let secret = SecretBytes::random(32, inner.ids.as_ref());
            inner.store.write_secret(&inner.root, &name, &secret, inner.ids.as_ref())?;
            Ok(secret)
        })
        .await
    }
}

/// Runs what blocks on a thread made for it. A panic there is carried on here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, VaultError> + Send + 'static) -> Result<T, VaultError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(VaultError::Io { act: "working on", path: PathBuf::from("the vault"), source: std::io::Error::other(error) }),
        },
    }
}

#[cfg(test)]
mod tests;
