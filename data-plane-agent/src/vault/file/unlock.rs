//! What opens a file vault: a passphrase through Argon2id, or a key file. Either opens the random root key that seals
//! the rest, so that changing it does not write every key again.

use std::path::{Path, PathBuf};

use argon2::{Argon2, Params};
use schema::{
    clock::{Ids, random},
    encoding::{Base64, Digest, from_base64url},
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
    /// SHA-256 of all the above, to tell damage from a wrong passphrase.
    checksum: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
enum Kdf {
    Argon2id { memory_kib: u32, passes: u32, lanes: u32, salt: Base64 },
    KeyFile { salt: Base64 },
}

/// First choice of OWASP's recommendations and one pass more; fits beside the agent in 64 MiB.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 3;
/// What a header may ask of us at most: 1 GiB.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;

/// The key that seals everything in a vault, and which vault it is.
pub(super) struct RootKey {
    vault: [u8; 16],
    key: ContentKey,
}

impl RootKey {
    /// A new vault's.
    pub(super) fn create(unlock: &Unlock, ids: &dyn Ids) -> Result<(Header, Self), VaultError> {
        let root = Self { vault: random(ids), key: ContentKey::random(ids) };
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
        let opening = derive(&header.kdf, unlock)?;
        let vault = header.vault.as_slice().try_into().map_err(|_| corrupt("its vault id is not 16 bytes"))?;
        let nonce = header.nonce.as_slice().try_into().map_err(|_| corrupt("its nonce is not 12 bytes"))?;
        let sealed = header.sealed_root.as_slice();
        if sealed.len() != 32 + TAG_BYTES {
            return Err(corrupt("its sealed root key is not 48 bytes"));
        }
        let (ciphertext, tag) = sealed.split_at(32);
        let mut key = Zeroizing::new([0; 32]);
        gcm(opening.expose())?
            .open_to(nonce, &header.bound(), ciphertext, tag, key.as_mut_slice())
            .map_err(|_| VaultError::WrongSecret(path.to_owned()))?;
        let key = ContentKey::from_slice(key.as_slice()).ok_or_else(|| corrupt("its root key is not 32 bytes"))?;
        Ok(Self { vault, key })
    }

    /// Seals the root key under a passphrase or key file.
    pub(super) fn reseal(&self, unlock: &Unlock, ids: &dyn Ids) -> Result<Header, VaultError> {
        let salt = Base64::from(random::<16>(ids));
        let kdf = match unlock {
            Unlock::Passphrase(_) => Kdf::Argon2id { memory_kib: MEMORY_KIB, passes: PASSES, lanes: 1, salt },
            Unlock::KeyFile(_) => Kdf::KeyFile { salt },
        };
        let opening = derive(&kdf, unlock)?;
        let nonce: [u8; NONCE_BYTES] = random(ids);
        let mut header = Header {
            format: FORMAT.to_owned(),
            vault: self.vault.into(),
            kdf,
            nonce: nonce.into(),
            sealed_root: Base64::default(),
            checksum: Digest([0; 32]),
        };
        let mut sealed = vec![0; 32 + TAG_BYTES];
        let (ciphertext, tag) = sealed.split_at_mut(32);
        gcm(opening.expose())?
            .seal_to(nonce, &header.bound(), self.key.expose(), ciphertext, tag)
            .map_err(|_| VaultError::UnusableSecret("sealing the root key failed".to_owned()))?;
        header.sealed_root = sealed.into();
        header.checksum = header.checksum();
        Ok(header)
    }

    /// Seals a value: nonce and ciphertext with tag. `bound` is what stands in clear beside it.
    pub(super) fn seal(&self, bound: &Digest, value: &SecretBytes, ids: &dyn Ids) -> Result<(Base64, Base64), VaultError> {
        let nonce: [u8; NONCE_BYTES] = random(ids);
        let mut sealed = vec![0; value.len() + TAG_BYTES];
        let (ciphertext, tag) = sealed.split_at_mut(value.len());
        gcm(self.key.expose())?
            .seal_to(nonce, &self.bound(bound), value.expose(), ciphertext, tag)
            .map_err(|_| VaultError::UnusableSecret("sealing under the root key failed".to_owned()))?;
        Ok((nonce.into(), sealed.into()))
    }

    /// Opens a value; `None` when it is not genuine.
    pub(super) fn unseal(&self, bound: &Digest, nonce: &Base64, sealed: &Base64) -> Option<SecretBytes> {
        let nonce = nonce.as_slice().try_into().ok()?;
        let (ciphertext, tag) = sealed.as_slice().split_at_checked(sealed.as_slice().len().checked_sub(TAG_BYTES)?)?;
        let mut value = SecretBytes::new(vec![0; ciphertext.len()]);
        gcm(self.key.expose()).ok()?.open_to(nonce, &self.bound(bound), ciphertext, tag, value.expose_mut()).ok()?;
        Some(value)
    }

    fn bound(&self, bound: &Digest) -> Vec<u8> {
        [b"freehold-vault-value-v1".as_slice(), &self.vault, &bound.0].concat()
    }
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
        };
        [FORMAT.as_bytes(), self.vault.as_slice(), &kdf.0].concat()
    }

    fn checksum(&self) -> Digest {
        Digest::labelled(FORMAT, &[&self.bound(), self.nonce.as_slice(), self.sealed_root.as_slice()])
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
