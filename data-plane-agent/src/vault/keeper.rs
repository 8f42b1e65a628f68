//! What the vaults share. A [`Keeper`] keeps material somewhere and brings it into use; [`VaultOf`] makes a vault of it: one
//! change at a time, permits spent, and whatever blocks done off the async threads, in bounded time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use schema::{catalogue::Algorithm, clock::Ids, id::KeyVersion, key::Operation, name::Name};
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore};
use zeroize::Zeroizing;

use super::{
    Description, Exported, Held, Trouble, TroubleKind, Vault, VaultError,
    public::{OPENING, OPENING_CONTENT, SEALING, SIGNING},
    secret::{ContentKey, SecretBytes},
    spend,
};
use crate::{
    algorithm::{self, ContentEncryption, LoadedKey, SealedContent, WrappedKey, legacy::KeyTransport},
    policy::permit::{ExportPermit, UsePermit},
};

/// A version in use.
pub struct Loaded {
    /// What it is.
    pub held: Arc<Held>,
    /// The key itself.
    pub key: Box<dyn LoadedKey>,
}

/// How long a keeper may take, and how many calls it takes at once.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The most time of one call.
    pub call: Duration,
    /// The most time of making or taking in a key.
    pub make: Duration,
    /// The most calls at once. A call that never ends keeps its place; when all are kept, callers are turned away in time.
    pub width: usize,
}

impl Bounds {
    /// A directory: what takes long is stretching, and making large RSA keys.
    pub const LOCAL: Self = Self { call: Duration::from_secs(30), make: Duration::from_secs(120), width: 64 };
}

/// Keeps material, and brings it into use. Every method may block; [`VaultOf`] calls it where that does no harm, and makes
/// one change at a time.
pub trait Keeper: Send + Sync + 'static {
    /// What it is and what it can do.
    fn description(&self) -> Description;

    /// How long it may take.
    fn bounds(&self) -> Bounds;

    /// Whether other agents may change what is kept while this one runs.
    fn is_shared(&self) -> bool;

    /// Whether it can be used now.
    fn check(&self) -> Result<(), VaultError>;

    /// What will go wrong unless somebody does something: a stable code, and words.
    fn advice(&self) -> Option<(&'static str, String)> {
        None
    }

    /// Makes the material of a version that is not there yet. It is tested before anything is kept for good, and durable
    /// when this returns; when this fails at any point, nothing is left that [`Keeper::load`] would find.
    fn make(&self, version: KeyVersion, algorithm: Algorithm, ids: &dyn Ids) -> Result<Loaded, VaultError>;

    /// Likewise of material that was made elsewhere.
    fn take_in(&self, version: KeyVersion, algorithm: Algorithm, material: &SecretBytes, ids: &dyn Ids) -> Result<Loaded, VaultError>;

    /// Brings a version into use, and checks that it is what its record says.
    fn load(&self, version: KeyVersion, ids: &dyn Ids) -> Result<Loaded, VaultError>;

    /// The material of a version, on its way out.
    fn material(&self, version: KeyVersion) -> Result<SecretBytes, VaultError>;

    /// Every version that is kept, destroyed ones left out.
    fn versions(&self) -> Result<BTreeSet<KeyVersion>, VaultError>;

    /// Every version with a tombstone.
    fn tombstones(&self) -> Result<BTreeSet<KeyVersion>, VaultError>;

    /// Leaves a tombstone, then removes the material, if there is any.
    fn destroy(&self, version: KeyVersion) -> Result<(), VaultError>;

    /// Reads a secret of the agent itself, or makes it.
    fn named_secret(&self, name: &Name, ids: &dyn Ids) -> Result<SecretBytes, VaultError>;
}

/// A vault of a keeper. Cheap to clone; clones share the keys.
pub struct VaultOf<K>(Arc<Inner<K>>);

struct Inner<K> {
    keeper: K,
    ids: Arc<dyn Ids>,
    keys: RwLock<Keys>,
    /// One change at a time.
    changing: Arc<Mutex<()>>,
    width: Arc<Semaphore>,
    bounds: Bounds,
    place: String,
}

#[derive(Default)]
struct Keys {
    loaded: BTreeMap<KeyVersion, Arc<Loaded>>,
    destroyed: BTreeSet<KeyVersion>,
    /// Destroyed ones that were there again, and were destroyed again.
    returned: BTreeSet<KeyVersion>,
}

impl<K> Clone for VaultOf<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Keeper> VaultOf<K> {
    /// A vault of a keeper that is open. Blocks. What is used in memory is brought into use at once: it is found whole or not at
    /// all, and works while the keeper is gone. What is used inside a device is looked for when it is first needed.
    pub fn new(keeper: K, ids: Arc<dyn Ids>) -> Result<Self, VaultError> {
        let mut keys = Keys { destroyed: keeper.tombstones()?, ..Keys::default() };
        let in_memory = !keeper.description().needed_for_use;
        for version in keeper.versions()? {
            if keys.destroyed.contains(&version) {
                keeper.destroy(version)?; // came back with an old copy
                keys.returned.insert(version);
            } else if in_memory {
                keys.loaded.insert(version, Arc::new(keeper.load(version, ids.as_ref())?));
            }
        }
        let (bounds, place) = (keeper.bounds(), keeper.description().place);
        let (changing, width) = (Arc::default(), Arc::new(Semaphore::new(bounds.width)));
        Ok(Self(Arc::new(Inner { keeper, ids, keys: RwLock::new(keys), changing, width, bounds, place })))
    }

    /// Who keeps the material.
    pub fn keeper(&self) -> &K {
        &self.0.keeper
    }

    /// Runs a change of the keeper itself, alone.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        act: &'static str,
        work: impl FnOnce(&K, &dyn Ids) -> Result<T, VaultError> + Send + 'static,
    ) -> Result<T, VaultError> {
        let guard = self.alone(act).await?;
        let inner = self.0.clone();
        self.off(act, self.0.bounds.make, move || {
            let _guard = guard;
            work(&inner.keeper, inner.ids.as_ref())
        })
        .await
    }

    /// Waits until nothing else changes anything. The guard goes with the work, not with whoever waits for it: what takes too
    /// long is not overtaken.
    async fn alone(&self, act: &'static str) -> Result<OwnedMutexGuard<()>, VaultError> {
        let limit = self.0.bounds.make;
        let locked = tokio::time::timeout(limit, self.0.changing.clone().lock_owned()).await;
        locked.map_err(|_| Trouble::slow(&self.0.place, act, limit).into())
    }

    /// Runs what blocks on a thread made for it, and waits at most `limit`. A panic there is carried on here.
    async fn off<T: Send + 'static>(
        &self,
        act: &'static str,
        limit: Duration,
        work: impl FnOnce() -> Result<T, VaultError> + Send + 'static,
    ) -> Result<T, VaultError> {
        let width = self.0.width.clone();
        let done = async move {
            let place = width.acquire_owned().await;
            tokio::task::spawn_blocking(move || {
                let _place = place;
                work()
            })
            .await
        };
        match tokio::time::timeout(limit, done).await {
            Err(_) => Err(Trouble::slow(&self.0.place, act, limit).into()),
            Ok(Ok(result)) => result,
            Ok(Err(error)) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => Err(Trouble::new(TroubleKind::Gone, &self.0.place, format!("{act} was given up: {error}")).into()),
            },
        }
    }

    fn known(&self, version: KeyVersion) -> Result<Arc<Loaded>, VaultError> {
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        match keys.loaded.get(&version) {
            Some(loaded) => Ok(loaded.clone()),
            None if keys.destroyed.contains(&version) => Err(VaultError::Destroyed(version)),
            None => Err(VaultError::NotHeld(version)),
        }
    }

    async fn loaded(&self, version: KeyVersion) -> Result<Arc<Loaded>, VaultError> {
        match self.known(version) {
            Err(VaultError::NotHeld(_)) if self.0.keeper.is_shared() => {}
            known => return known,
        }
        let inner = self.0.clone();
        let loaded = self.off("looking for a key", self.0.bounds.call, move || inner.keeper.load(version, inner.ids.as_ref())).await;
        if let Err(VaultError::Destroyed(_)) = &loaded {
            self.keys(|keys| keys.destroyed.insert(version));
        }
        Ok(self.keep(Arc::new(loaded?)))
    }

    /// Of these destroyed versions, destroys those again that are kept again: they came with an old copy of what keeps them.
    async fn destroy_again(&self, versions: Vec<KeyVersion>) -> Result<(), VaultError> {
        // Whoever is destroying one of them now has ended when this is alone.
        let guard = self.alone("destroying keys again").await?;
        let inner = self.0.clone();
        let returned = self.off("destroying keys again", self.0.bounds.make, move || {
            let _guard = guard;
            let kept = inner.keeper.versions()?;
            let returned: Vec<_> = versions.into_iter().filter(|version| kept.contains(version)).collect();
            returned.iter().try_for_each(|version| inner.keeper.destroy(*version))?;
            Ok(returned)
        });
        let returned = returned.await?;
        self.keys(|keys| keys.returned.extend(returned));
        Ok(())
    }

    fn keep(&self, loaded: Arc<Loaded>) -> Arc<Loaded> {
        self.keys(|keys| keys.loaded.insert(loaded.held.version, loaded.clone()));
        loaded
    }

    fn keys<T>(&self, change: impl FnOnce(&mut Keys) -> T) -> T {
        change(&mut self.0.keys.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An argument that goes to another thread, where it is wiped.
trait Carry {
    type Owned: Send + 'static;
    fn carry(&self) -> Self::Owned;
    fn back(owned: &Self::Owned) -> &Self;
}

impl Carry for [u8] {
    type Owned = Zeroizing<Vec<u8>>;

    fn carry(&self) -> Self::Owned {
        Zeroizing::new(self.to_vec())
    }

    fn back(owned: &Self::Owned) -> &Self {
        owned
    }
}

impl Carry for SecretBytes {
    type Owned = Self;

    fn carry(&self) -> Self {
        Self::new(self.expose().to_vec())
    }

    fn back(owned: &Self) -> &Self {
        owned
    }
}

impl Carry for ContentKey {
    type Owned = Self;

    fn carry(&self) -> Self {
        self.copy()
    }

    fn back(owned: &Self) -> &Self {
        owned
    }
}

macro_rules! carry_clones {
    ($($type:ty),*) => {
        $(impl Carry for $type {
            type Owned = Self;

            fn carry(&self) -> Self {
                self.clone()
            }

            fn back(owned: &Self) -> &Self {
                owned
            }
        })*
    };
}

carry_clones!(WrappedKey, SealedContent, KeyTransport);

/// Spends the permit and lets the key do it: here when it is quick, else where it may take its time.
macro_rules! using {
    ($vault:ident, $permit:ident, $operations:expr, $asked:literal, ($($argument:ident: $type:ty),*), |$key:ident| $work:expr) => {{
        let loaded = $vault.loaded($permit.version()).await?;
        spend(&$permit, &loaded.held, $operations, $asked)?;
        if !loaded.key.is_slow() {
            let $key = loaded.key.as_ref();
            return Ok($work?);
        }
        $(let $argument = $argument.carry();)*
        $vault
            .off($asked, $vault.0.bounds.call, move || {
                $(let $argument = <$type as Carry>::back(&$argument);)*
                let $key = loaded.key.as_ref();
                Ok($work?)
            })
            .await
    }};
}

#[async_trait]
impl<K: Keeper> Vault for VaultOf<K> {
    fn description(&self) -> Description {
        self.0.keeper.description()
    }

    async fn check(&self) -> Result<(), VaultError> {
        let inner = self.0.clone();
        self.off("answering", self.0.bounds.call, move || inner.keeper.check()).await
    }

    async fn generate(&self, version: KeyVersion, algorithm: Algorithm) -> Result<Arc<Held>, VaultError> {
        let guard = self.alone("making a key").await?;
        match self.loaded(version).await {
            Ok(loaded) if loaded.held.algorithm == algorithm => return Ok(loaded.held.clone()),
            Ok(loaded) => return Err(VaultError::OtherAlgorithm { version, held: loaded.held.algorithm, asked: algorithm }),
            Err(VaultError::NotHeld(_)) => {}
            Err(error) => return Err(error),
        }
        let inner = self.0.clone();
        let made = self.off("making a key", self.0.bounds.make, move || {
            let _guard = guard;
            inner.keeper.make(version, algorithm, inner.ids.as_ref())
        });
        Ok(self.keep(Arc::new(made.await?)).held.clone())
    }

    async fn import(&self, version: KeyVersion, algorithm: Algorithm, material: SecretBytes) -> Result<Arc<Held>, VaultError> {
        let guard = self.alone("taking a key in").await?;
        match self.loaded(version).await {
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
        let taken = self.off("taking a key in", self.0.bounds.make, move || {
            let _guard = guard;
            inner.keeper.take_in(version, algorithm, &material, inner.ids.as_ref())
        });
        Ok(self.keep(Arc::new(taken.await?)).held.clone())
    }

    async fn export(&self, permit: ExportPermit) -> Result<Exported, VaultError> {
        let version = permit.version();
        let held = self.loaded(version).await?.held.clone();
        let inner = self.0.clone();
        let material = self.off("handing a key out", self.0.bounds.call, move || inner.keeper.material(version)).await?;
        Ok(Exported { held, material })
    }

    async fn versions(&self) -> Result<Vec<Arc<Held>>, VaultError> {
        if self.0.keeper.is_shared() {
            let inner = self.0.clone();
            let kept = self.off("listing the keys", self.0.bounds.make, move || inner.keeper.versions()).await?;
            let back: Vec<_> = self.keys(|keys| kept.intersection(&keys.destroyed).copied().collect());
            if !back.is_empty() {
                self.destroy_again(back).await?;
            }
            let mut held = Vec::with_capacity(kept.len());
            for version in kept {
                match self.loaded(version).await {
                    Ok(loaded) => held.push(loaded.held.clone()),
                    // Gone since it was listed.
                    Err(VaultError::NotHeld(_) | VaultError::Destroyed(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            return Ok(held);
        }
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.loaded.values().map(|loaded| loaded.held.clone()).collect())
    }

    async fn held(&self, version: KeyVersion) -> Result<Arc<Held>, VaultError> {
        Ok(self.loaded(version).await?.held.clone())
    }

    async fn destroy(&self, version: KeyVersion) -> Result<(), VaultError> {
        let guard = self.alone("destroying a key").await?;
        // Out of use at once, whatever the keeper says next.
        self.keys(|keys| {
            keys.loaded.remove(&version);
            keys.destroyed.insert(version);
        });
        let inner = self.0.clone();
        let destroyed = self.off("destroying a key", self.0.bounds.make, move || {
            let _guard = guard;
            inner.keeper.destroy(version)
        });
        destroyed.await
    }

    fn advice(&self) -> Option<(&'static str, String)> {
        self.0.keeper.advice()
    }

    fn returned(&self) -> Vec<KeyVersion> {
        self.keys(|keys| std::mem::take(&mut keys.returned)).into_iter().collect()
    }

    async fn tombstones(&self) -> Result<Vec<KeyVersion>, VaultError> {
        if self.0.keeper.is_shared() {
            let inner = self.0.clone();
            let destroyed = self.off("listing what was destroyed", self.0.bounds.make, move || inner.keeper.tombstones()).await?;
            self.keys(|keys| keys.destroyed.extend(destroyed));
        }
        Ok(self.0.keys.read().unwrap_or_else(PoisonError::into_inner).destroyed.iter().copied().collect())
    }

    async fn wrap_key(&self, permit: UsePermit, key: &ContentKey, content: ContentEncryption) -> Result<WrappedKey, VaultError> {
        using!(self, permit, SEALING, "wrap a key", (key: ContentKey), |loaded| loaded.wrap_key(key, content))
    }

    async fn unwrap_key(&self, permit: UsePermit, wrapped: &WrappedKey, content: ContentEncryption) -> Result<ContentKey, VaultError> {
        using!(self, permit, OPENING, "unwrap a key", (wrapped: WrappedKey), |loaded| loaded.unwrap_key(wrapped, content))
    }

    async fn sign(&self, permit: UsePermit, message: &[u8]) -> Result<Vec<u8>, VaultError> {
        using!(self, permit, SIGNING, "sign", (message: [u8]), |loaded| loaded.sign(message))
    }

    async fn seal_content(&self, permit: UsePermit, associated: &[u8], plaintext: &[u8]) -> Result<SealedContent, VaultError> {
        let ids = self.0.ids.clone();
        using!(self, permit, SEALING, "encrypt", (associated: [u8], plaintext: [u8]), |loaded| loaded
            .seal_content(associated, plaintext, ids.as_ref()))
    }

    async fn open_content(&self, permit: UsePermit, associated: &[u8], sealed: &SealedContent) -> Result<SecretBytes, VaultError> {
        using!(self, permit, OPENING_CONTENT, "decrypt", (associated: [u8], sealed: SealedContent), |loaded| loaded
            .open_content(associated, sealed))
    }

    async fn sign_digest(&self, permit: UsePermit, digest: &[u8]) -> Result<Vec<u8>, VaultError> {
        using!(self, permit, &[Operation::SignDigest], "sign a digest", (digest: [u8]), |loaded| loaded.sign_digest(digest))
    }

    async fn mac(&self, permit: UsePermit, message: &[u8]) -> Result<Vec<u8>, VaultError> {
        using!(self, permit, &[Operation::Mac], "authenticate a message", (message: [u8]), |loaded| loaded.mac(message))
    }

    async fn verify_mac(&self, permit: UsePermit, message: &[u8], tag: &[u8]) -> Result<(), VaultError> {
        let operations = &[Operation::VerifyMac];
        using!(self, permit, operations, "verify the authentication of a message", (message: [u8], tag: [u8]), |loaded| loaded
            .verify_mac(message, tag))
    }

    async fn wrap_bytes(&self, permit: UsePermit, key: &SecretBytes) -> Result<Vec<u8>, VaultError> {
        let operations = &[Operation::Wrap, Operation::Rewrap];
        using!(self, permit, operations, "wrap a bare key", (key: SecretBytes), |loaded| loaded.wrap_bytes(key))
    }

    async fn unwrap_bytes(&self, permit: UsePermit, wrapped: &[u8]) -> Result<SecretBytes, VaultError> {
        let operations = &[Operation::Unwrap, Operation::Rewrap];
        using!(self, permit, operations, "unwrap a bare key", (wrapped: [u8]), |loaded| loaded.unwrap_bytes(wrapped))
    }

    async fn unwrap_transported(
        &self,
        permit: UsePermit,
        transport: &KeyTransport,
        encrypted_key: &[u8],
        length_bytes: usize,
    ) -> Result<SecretBytes, VaultError> {
        let operations: &[Operation] = match transport.legacy() {
            None => &[Operation::Decrypt, Operation::DecryptLegacy, Operation::ReEncrypt],
            Some(_) => &[Operation::DecryptLegacy],
        };
        using!(
            self,
            permit,
            operations,
            "unwrap a content key of an old format",
            (transport: KeyTransport, encrypted_key: [u8]),
            |loaded| loaded.unwrap_transported(transport, encrypted_key, length_bytes)
        )
    }

    async fn agree(&self, permit: UsePermit, public_key: &[u8]) -> Result<SecretBytes, VaultError> {
        using!(self, permit, &[Operation::Agree], "agree on a secret", (public_key: [u8]), |loaded| loaded.agree(public_key))
    }

    async fn decapsulate(&self, permit: UsePermit, ciphertext: &[u8]) -> Result<SecretBytes, VaultError> {
        let operations = &[Operation::Decapsulate];
        using!(self, permit, operations, "decapsulate a secret", (ciphertext: [u8]), |loaded| loaded.decapsulate(ciphertext))
    }

    async fn derive(&self, permit: UsePermit, salt: &[u8], info: &[u8], length_bytes: usize) -> Result<SecretBytes, VaultError> {
        // What a transit engine derived its keys by, to open what it sealed.
        let operations = &[Operation::Derive, Operation::DecryptLegacy];
        using!(self, permit, operations, "derive a key", (salt: [u8], info: [u8]), |loaded| loaded
            .derive(salt, info, length_bytes))
    }

    async fn named_secret(&self, name: &Name) -> Result<SecretBytes, VaultError> {
        let name = name.clone();
        self.change("reading a secret of the agent", move |keeper, ids| keeper.named_secret(&name, ids)).await
    }
}
