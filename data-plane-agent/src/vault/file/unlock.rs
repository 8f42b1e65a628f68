//! What opens a file vault: a passphrase through Argon2id, a key file, or a key of a device or a remote vault. Each opens the
//! random root key that seals the rest, so that changing it does not write every key again. Changing the root key itself
//! does; while that goes on, the header holds the former one too, sealed under the new one.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use argon2::{Argon2, Params};
use schema::{
    clock::{Ids, random},
    encoding::{Base64, Digest, from_base64url},
    key::Protection,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    algorithm::{
        aes_gcm::{Aes256Gcm, NONCE_BYTES, TAG_BYTES},
        hmac_sha256,
    },
    vault::{
        VaultError,
        sealed::{Seal, SealedValue},
        secret::{ContentKey, SecretBytes},
    },
};

/// The format of the header.
const FORMAT: &str = "freehold-vault-v1";

/// How a vault is opened.
pub enum Unlock {
    /// A passphrase, stretched with Argon2id.
    Passphrase(SecretBytes),
    /// A file that holds 32 random bytes, raw or as base64url or hex text. Only its owner may read it. Credentials of
    /// systemd (`$CREDENTIALS_DIRECTORY/…`) are such files.
    KeyFile(PathBuf),
    /// A key that seals elsewhere and never comes here.
    Elsewhere {
        /// Where.
        place: Elsewhere,
        /// What it is called there.
        key: String,
        /// The key itself.
        seal: Arc<dyn Seal>,
    },
}

/// Where a key is that seals a root key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Elsewhere {
    /// On a token of a PKCS#11 module.
    Pkcs11,
    /// In the transit engine of a remote vault.
    Transit,
}

/// `vault.json`: everything but the secret that is needed to open the root key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    format: String,
    /// Which vault: bound into everything sealed in it.
    vault: Base64,
    kdf: Kdf,
    nonce: Base64,
    /// The root key, sealed under the key that the passphrase or key file gives.
    sealed_root: Base64,
    /// The root key before this one, sealed under this one, until everything is sealed again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaced: Option<SealedValue>,
    /// SHA-256 of all the above, to tell damage from a wrong passphrase.
    checksum: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
enum Kdf {
    Argon2id { memory_kib: u32, passes: u32, lanes: u32, salt: Base64 },
    KeyFile { salt: Base64 },
    Sealed { place: Elsewhere, key: String },
}

/// First choice of OWASP's recommendations and one pass more; fits beside the agent in 64 MiB.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 3;
/// What a header may ask of us at most: 1 GiB.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;

/// The key that seals everything in a vault, and which vault it is.
pub struct RootKey {
    vault: [u8; 16],
    keys: RwLock<Keys>,
    protection: Protection,
    /// The server that opens this, whose token is looked after meanwhile: it is needed at the next start.
    opener: Option<Arc<dyn Seal>>,
}

#[derive(Clone)]
struct Keys {
    current: Arc<ContentKey>,
    /// The one before, until everything is sealed again.
    replaced: Option<Arc<ContentKey>>,
}

impl RootKey {
    /// A new vault's.
    pub(super) fn create(unlock: &Unlock, ids: &dyn Ids) -> Result<(Header, Self), VaultError> {
        let keys = Keys { current: Arc::new(ContentKey::random(ids)), replaced: None };
        let root = Self { vault: random(ids), keys: RwLock::new(keys), protection: protection(unlock), opener: opener(unlock) };
        Ok((root.reseal(unlock, ids)?, root))
    }

    /// Opens the root key of a vault that is there; `path` is its header.
    pub(super) fn open(header: &Header, unlock: &Unlock, path: &Path) -> Result<Self, VaultError> {
        let corrupt = |detail: &str| VaultError::Corrupt { path: path.to_owned(), detail: detail.to_owned() };
        if header.format != FORMAT {
            return Err(corrupt(&format!("its format is {:?}, this program reads {FORMAT:?}", header.format)));
        }
        if header.checksum() != header.checksum {
            return Err(corrupt("its checksum does not match"));
        }
        let vault = header.vault.as_slice().try_into().map_err(|_| corrupt("its vault id is not 16 bytes"))?;
        let value = SealedValue { nonce: header.nonce.clone(), sealed: header.sealed_root.clone() };
        let opened = match (&header.kdf, unlock) {
            (Kdf::Sealed { place, key }, Unlock::Elsewhere { place: ours, key: our_key, seal }) => {
                if (place, key) != (ours, our_key) {
                    return Err(other_key(*place, key));
                }
                seal.unseal(&Digest::labelled(ROOT_LABEL, &[&header.bound()]), &value)?
            }
            (Kdf::Sealed { place, key }, _) => return Err(other_key(*place, key)),
            (kdf, unlock) => {
                let opening = derive(kdf, unlock)?;
                if value.sealed.as_slice().len() != 32 + TAG_BYTES {
                    return Err(corrupt("its sealed root key is not 48 bytes"));
                }
                if value.nonce.as_slice().len() != NONCE_BYTES {
                    return Err(corrupt("its nonce is not 12 bytes"));
                }
                open_under(&opening, &header.bound(), &value)?
            }
        };
        let opened = opened.ok_or_else(|| VaultError::WrongSecret(path.to_owned()))?;
        let current = Arc::new(ContentKey::from_slice(opened.expose()).ok_or_else(|| corrupt("its root key is not 32 bytes"))?);
        let replaced = match &header.replaced {
            None => None,
            Some(value) => {
                let former =
                    open_under(&current, &replaced_bound(vault), value)?.ok_or_else(|| corrupt("the root key before was changed"))?;
                Some(Arc::new(ContentKey::from_slice(former.expose()).ok_or_else(|| corrupt("the root key before is not 32 bytes"))?))
            }
        };
        Ok(Self { vault, keys: RwLock::new(Keys { current, replaced }), protection: protection(unlock), opener: opener(unlock) })
    }

    /// The header that seals the root key under this.
    pub(super) fn reseal(&self, unlock: &Unlock, ids: &dyn Ids) -> Result<Header, VaultError> {
        self.header(&self.keys(), unlock, ids)
    }

    /// Another root key, and the header that holds it and the former one. [`Self::begin`] takes it into use.
    pub(super) fn replacement(&self, unlock: &Unlock, ids: &dyn Ids) -> Result<(Header, Replacement), VaultError> {
        let keys = Keys { current: Arc::new(ContentKey::random(ids)), replaced: Some(self.keys().current) };
        Ok((self.header(&keys, unlock, ids)?, Replacement(keys)))
    }

    /// From now on, seals under another root key; what the former one sealed is still opened.
    pub(super) fn begin(&self, replacement: Replacement) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = replacement.0;
    }

    /// Whether a former root key is still needed.
    pub(super) fn is_being_replaced(&self) -> bool {
        self.keys().replaced.is_some()
    }

    /// Forgets the former root key: everything is sealed again.
    pub(super) fn forget_replaced(&self) {
        self.keys.write().unwrap_or_else(PoisonError::into_inner).replaced = None;
    }

    fn header(&self, keys: &Keys, unlock: &Unlock, ids: &dyn Ids) -> Result<Header, VaultError> {
        let salt = Base64::from(random::<16>(ids));
        let kdf = match unlock {
            Unlock::Passphrase(_) => Kdf::Argon2id { memory_kib: MEMORY_KIB, passes: PASSES, lanes: 1, salt },
            Unlock::KeyFile(_) => Kdf::KeyFile { salt },
            Unlock::Elsewhere { place, key, .. } => Kdf::Sealed { place: *place, key: key.clone() },
        };
        let mut header = Header {
            format: FORMAT.to_owned(),
            vault: self.vault.into(),
            kdf,
            nonce: Base64::default(),
            sealed_root: Base64::default(),
            replaced: None,
            checksum: Digest([0; 32]),
        };
        let root = SecretBytes::new(keys.current.expose().to_vec());
        let sealed = match unlock {
            Unlock::Elsewhere { seal, .. } => seal.seal(&Digest::labelled(ROOT_LABEL, &[&header.bound()]), &root, ids)?,
            unlock => seal_under(&derive(&header.kdf, unlock)?, &header.bound(), &root, ids)?,
        };
        (header.nonce, header.sealed_root) = (sealed.nonce, sealed.sealed);
        if let Some(former) = &keys.replaced {
            let former = SecretBytes::new(former.expose().to_vec());
            header.replaced = Some(seal_under(&keys.current, &replaced_bound(self.vault), &former, ids)?);
        }
        header.checksum = header.checksum();
        Ok(header)
    }

    fn keys(&self) -> Keys {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn bound(&self, bound: &Digest) -> Vec<u8> {
        [b"freehold-vault-value-v1".as_slice(), &self.vault, &bound.0].concat()
    }
}

/// Another root key, not yet in use.
pub(super) struct Replacement(Keys);

/// What is bound into a root key that is sealed elsewhere.
const ROOT_LABEL: &str = "freehold-vault-root-v1";

fn replaced_bound(vault: [u8; 16]) -> Vec<u8> {
    [b"freehold-vault-replaced-root-v1".as_slice(), &vault].concat()
}

fn protection(unlock: &Unlock) -> Protection {
    match unlock {
        Unlock::Elsewhere { seal, .. } => seal.protection(),
        Unlock::Passphrase(_) | Unlock::KeyFile(_) => Protection::Software,
    }
}

fn opener(unlock: &Unlock) -> Option<Arc<dyn Seal>> {
    match unlock {
        Unlock::Elsewhere { place: Elsewhere::Transit, seal, .. } => Some(seal.clone()),
        _ => None,
    }
}

fn other_key(place: Elsewhere, key: &str) -> VaultError {
    let place = match place {
        Elsewhere::Pkcs11 => "a PKCS#11 token",
        Elsewhere::Transit => "a remote vault's transit engine",
    };
    VaultError::UnusableSecret(format!("this vault is opened with the key {key:?} of {place}, and the settings name something else"))
}

impl Seal for RootKey {
    fn seal(&self, bound: &Digest, value: &SecretBytes, ids: &dyn Ids) -> Result<SealedValue, VaultError> {
        seal_under(&self.keys().current, &self.bound(bound), value, ids)
    }

    fn unseal(&self, bound: &Digest, value: &SealedValue) -> Result<Option<SecretBytes>, VaultError> {
        let (keys, bound) = (self.keys(), self.bound(bound));
        match (open_under(&keys.current, &bound, value)?, &keys.replaced) {
            (None, Some(former)) => open_under(former, &bound, value),
            (opened, _) => Ok(opened),
        }
    }

    fn protection(&self) -> Protection {
        self.protection
    }

    /// What is open goes on without the server that opened it.
    fn check(&self) -> Result<(), VaultError> {
        let _ = self.opener.as_ref().map(|seal| seal.check());
        Ok(())
    }

    fn advice(&self) -> Option<(&'static str, String)> {
        self.opener.as_ref()?.advice()
    }
}

fn seal_under(key: &ContentKey, bound: &[u8], value: &SecretBytes, ids: &dyn Ids) -> Result<SealedValue, VaultError> {
    let nonce: [u8; NONCE_BYTES] = random(ids);
    let mut sealed = vec![0; value.len() + TAG_BYTES];
    let (ciphertext, tag) = sealed.split_at_mut(value.len());
    gcm(key.expose())?
        .seal_to(nonce, bound, value.expose(), ciphertext, tag)
        .map_err(|_| VaultError::UnusableSecret("sealing under the root key failed".to_owned()))?;
    Ok(SealedValue { nonce: nonce.into(), sealed: sealed.into() })
}

fn open_under(key: &ContentKey, bound: &[u8], value: &SealedValue) -> Result<Option<SecretBytes>, VaultError> {
    let sealed = value.sealed.as_slice();
    let parts = sealed.len().checked_sub(TAG_BYTES).and_then(|length| sealed.split_at_checked(length));
    let (Some((ciphertext, tag)), Ok(nonce)) = (parts, value.nonce.as_slice().try_into()) else { return Ok(None) };
    let mut opened = SecretBytes::new(vec![0; ciphertext.len()]);
    let genuine = gcm(key.expose())?.open_to(nonce, bound, ciphertext, tag, opened.expose_mut()).is_ok();
    Ok(genuine.then_some(opened))
}

impl Header {
    /// What stands in clear, as associated data of the sealed root key.
    fn bound(&self) -> Vec<u8> {
        let kdf = match &self.kdf {
            Kdf::Argon2id { memory_kib, passes, lanes, salt } => {
                let numbers = [memory_kib.to_be_bytes(), passes.to_be_bytes(), lanes.to_be_bytes()].concat();
                Digest::labelled("argon2id", &[&numbers, salt.as_slice()])
            }
            Kdf::KeyFile { salt } => Digest::labelled("key-file", &[salt.as_slice()]),
            Kdf::Sealed { place, key } => Digest::labelled("sealed", &[format!("{place:?}").as_bytes(), key.as_bytes()]),
        };
        [FORMAT.as_bytes(), self.vault.as_slice(), &kdf.0].concat()
    }

    fn checksum(&self) -> Digest {
        let bound = self.bound();
        let mut parts = vec![bound.as_slice(), self.nonce.as_slice(), self.sealed_root.as_slice()];
        if let Some(replaced) = &self.replaced {
            parts.extend([replaced.nonce.as_slice(), replaced.sealed.as_slice()]);
        }
        Digest::labelled(FORMAT, &parts)
    }
}

fn gcm(key: &[u8; 32]) -> Result<Aes256Gcm, VaultError> {
    Aes256Gcm::new(key).map_err(|_| VaultError::UnusableSecret("AES-256-GCM cannot be set up".to_owned()))
}

fn derive(kdf: &Kdf, unlock: &Unlock) -> Result<ContentKey, VaultError> {
    let unusable = |detail: String| VaultError::UnusableSecret(detail);
    match (kdf, unlock) {
        (Kdf::Argon2id { memory_kib, passes, lanes, salt }, Unlock::Passphrase(passphrase)) => {
            if passphrase.is_empty() {
                return Err(unusable("the passphrase is empty".to_owned()));
            }
            if *memory_kib > MAX_MEMORY_KIB || *passes > 100 {
                return Err(unusable(format!("its header asks for {memory_kib} KiB and {passes} passes of Argon2id, which is too much")));
            }
            let params = Params::new(*memory_kib, *passes, *lanes, Some(32)).map_err(|error| unusable(format!("Argon2id: {error}")))?;
            let mut key = Zeroizing::new([0; 32]);
            Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
                .hash_password_into(passphrase.expose(), salt.as_slice(), key.as_mut_slice())
                .map_err(|error| unusable(format!("Argon2id: {error}")))?;
            ContentKey::from_slice(key.as_slice()).ok_or_else(|| unusable("Argon2id gave no key".to_owned()))
        }
        (Kdf::KeyFile { salt }, Unlock::KeyFile(path)) => {
            let secret = key_file(path)?;
            let label = [b"freehold-vault-key-file-v1".as_slice(), salt.as_slice()].concat();
            let key = Zeroizing::new(hmac_sha256(secret.expose(), &label));
            ContentKey::from_slice(key.as_slice()).ok_or_else(|| unusable("HMAC gave no key".to_owned()))
        }
        (Kdf::Argon2id { .. }, Unlock::KeyFile(_)) => {
            Err(unusable("this vault is opened with a passphrase, not with a key file".to_owned()))
        }
        (Kdf::KeyFile { .. }, Unlock::Passphrase(_)) => {
            Err(unusable("this vault is opened with a key file, not with a passphrase".to_owned()))
        }
        (_, Unlock::Elsewhere { .. }) => {
            Err(unusable("this vault is opened with a passphrase or a key file, not with a key of a device or another vault".to_owned()))
        }
        (Kdf::Sealed { place, key }, _) => Err(other_key(*place, key)),
    }
}

/// The bits of a mode that say that others may open a file.
const fn open_to_others(by_systemd: bool) -> u32 {
    if by_systemd { 0o007 } else { 0o077 }
}

/// Reads a key file that only its owner (we, or root) may read.
fn key_file(path: &Path) -> Result<SecretBytes, VaultError> {
    use std::os::unix::fs::MetadataExt as _;
    let io = |act| move |source| VaultError::Io { act, path: path.to_owned(), source };
    let meta = std::fs::metadata(path).map_err(io("reading"))?;
    if !meta.is_file() {
        return Err(VaultError::UnusableSecret(format!("{} is not a file", path.display())));
    }
    // systemd keeps the credentials it passes closed by an access list, which shows as bits of the group.
    let by_systemd = std::env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|directory| path.starts_with(directory));
    if meta.mode() & open_to_others(by_systemd) != 0 {
        return Err(VaultError::TooOpen { path: path.to_owned(), mode: meta.mode() & 0o7777, wanted: 0o400 });
    }
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != me && meta.uid() != 0 {
        return Err(VaultError::UnusableSecret(format!("{} belongs to another user", path.display())));
    }
    if meta.len() > 4096 {
        return Err(VaultError::UnusableSecret(format!("{} is too long for a key file", path.display())));
    }
    let bytes = SecretBytes::new(std::fs::read(path).map_err(io("reading"))?);
    if bytes.len() == 32 {
        return Ok(bytes);
    }
    let text = std::str::from_utf8(bytes.expose()).unwrap_or_default().trim();
    let decoded = match text.len() {
        64 => hex::decode(text).ok(),
        _ => from_base64url(text).ok(),
    };
    decoded.map(SecretBytes::new).filter(|secret| secret.len() == 32).ok_or_else(|| {
        VaultError::UnusableSecret(format!(
            "{} does not hold 32 bytes, raw or as base64url or hex text; make one with: head -c 32 /dev/urandom > {}",
            path.display(),
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_systemd_may_show_bits_of_a_group_and_nobody_those_of_the_world() {
        for (mode, by_systemd, closed) in
            [(0o400, false, true), (0o440, false, false), (0o440, true, true), (0o444, true, false), (0o600, true, true)]
        {
            assert_eq!(mode & open_to_others(by_systemd) == 0, closed, "{mode:o} {by_systemd}");
        }
    }
}
