//! The keys that others wrap material under. Each is for one version that waits, and for one import: what was wrapped for one
//! version is good for no other, whoever sends it. They outlive a restart, sealed under a secret of the vault, and not their
//! day (`docs/decisions/0240-import-keys-are-for-one-version.md`).

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use schema::{
    catalogue::Algorithm,
    clock::{Ids, Timestamp, random},
    encoding::{Base64, Digest},
    id::KeyVersion,
    name::Name,
    wire::operation::{SecretBytes as Sealed, Wrapping},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use service::files::{FileError, OWNER_ONLY, write_atomic};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::{
    algorithm::{
        AlgorithmError, LoadedKey,
        aes_gcm::{Aes256Gcm, NONCE_BYTES, TAG_BYTES},
        public_key, serve,
    },
    vault::{Vault, VaultError, secret::SecretBytes},
};

/// How long material is taken that was wrapped under one: long enough to carry a file to a machine without a network.
pub const LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// What the file is sealed with beside its content.
const ASSOCIATED: &[u8] = b"freehold-import-keys-v1";

/// Why there is no import key.
#[derive(Debug, thiserror::Error)]
pub enum ImportKeyError {
    /// It never was, or is no longer.
    #[error("there is no such import key: it was used, its day is over, or another agent made it; ask for a new one and wrap again")]
    Unknown,
    /// It is for another version.
    #[error("this import key is for {made_for}: what was wrapped for one version is good for no other")]
    OtherVersion {
        /// The version that it is for.
        made_for: KeyVersion,
    },
    /// It wraps in another way.
    #[error("this import key is for {0}")]
    OtherWrapping(Wrapping),
    /// The vault.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// Nothing in it can be read.
    #[error("{0} is damaged; remove it: it holds only keys that others were to wrap material under")]
    Damaged(PathBuf),
    /// The library failed.
    #[error("making an import key failed")]
    Failed,
}

impl ImportKeyError {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "import_key_unknown",
            Self::OtherVersion { .. } => "import_key_other_version",
            Self::OtherWrapping(_) => "import_key_other_wrapping",
            Self::Vault(error) => error.code(),
            Self::File(_) | Self::Damaged(_) => "import_keys_unreadable",
            Self::Failed => "algorithm_failed",
        }
    }
}

/// The import keys of an agent.
pub struct ImportKeys {
    path: PathBuf,
    vault: Arc<dyn Vault>,
    ids: Arc<dyn Ids>,
    /// One change of the file at a time.
    changing: Mutex<()>,
}

/// As it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    version: KeyVersion,
    wrapping: Wrapping,
    secret: Sealed,
    expires: Timestamp,
}

/// A key to wrap under, as others see it.
pub struct Offered {
    /// Names it.
    pub id: String,
    /// The public half.
    pub jwk: Value,
    /// The same as PEM, where there is such a form.
    pub pem: Option<String>,
    /// Until when it is good.
    pub expires: Timestamp,
}

/// The file as it lies there.
#[derive(Serialize, Deserialize)]
struct File {
    nonce: Base64,
    sealed: Base64,
}

type All = BTreeMap<String, Kept>;

impl ImportKeys {
    /// Those kept in this file.
    pub fn new(path: PathBuf, vault: Arc<dyn Vault>, ids: Arc<dyn Ids>) -> Self {
        Self { path, vault, ids, changing: Mutex::new(()) }
    }

    /// The key to wrap the material of a version under: the one there is, or a new one.
    pub async fn offer(&self, version: KeyVersion, wrapping: Wrapping, now: Timestamp) -> Result<Offered, ImportKeyError> {
        let _guard = self.changing.lock().await;
        let mut all = self.load(now).await?;
        if let Some((id, kept)) = all.iter().find(|(_, kept)| kept.version == version && kept.wrapping == wrapping) {
            return offered(id, kept);
        }
        let (algorithm, ids) = (algorithm_of(wrapping), self.ids.clone());
        // An RSA key takes up to seconds.
        let made = tokio::task::spawn_blocking(move || serve(algorithm).generate(algorithm, &*ids)).await;
        let secret = made.map_err(|_| ImportKeyError::Failed)?.map_err(VaultError::from)?;
        let key = serve(algorithm).load(algorithm, &secret).map_err(VaultError::from)?;
        let id = Digest::of(key.public_key().ok_or(ImportKeyError::Failed)?).to_string();
        let kept = Kept { version, wrapping, secret: Sealed::from(secret.expose().to_vec()), expires: now.plus(LIFE) };
        let offered = offered(&id, &kept)?;
        all.insert(id, kept);
        self.store(&all).await?;
        Ok(offered)
    }

    /// The key that material of a version was wrapped under. It stays until [`Self::used`].
    pub async fn find(
        &self,
        id: &str,
        version: KeyVersion,
        wrapping: Wrapping,
        now: Timestamp,
    ) -> Result<Box<dyn LoadedKey>, ImportKeyError> {
        let _guard = self.changing.lock().await;
        let mut all = self.load(now).await?;
        let kept = all.remove(id).ok_or(ImportKeyError::Unknown)?;
        if kept.version != version {
            return Err(ImportKeyError::OtherVersion { made_for: kept.version });
        }
        if kept.wrapping != wrapping {
            return Err(ImportKeyError::OtherWrapping(kept.wrapping));
        }
        let algorithm = algorithm_of(wrapping);
        Ok(serve(algorithm).load(algorithm, &SecretBytes::new(kept.secret.0.to_vec())).map_err(VaultError::from)?)
    }

    /// A version has its material: every import key for it goes.
    pub async fn used(&self, version: KeyVersion, now: Timestamp) -> Result<(), ImportKeyError> {
        let _guard = self.changing.lock().await;
        let mut all = self.load(now).await?;
        all.retain(|_, kept| kept.version != version);
        self.store(&all).await
    }

    /// Those whose day is not over.
    async fn load(&self, now: Timestamp) -> Result<All, ImportKeyError> {
        let damaged = || ImportKeyError::Damaged(self.path.clone());
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(All::new()),
            Err(_) => return Err(damaged()),
        };
        let file: File = serde_json::from_slice(&bytes).map_err(|_| damaged())?;
        let nonce: [u8; NONCE_BYTES] = file.nonce.as_slice().try_into().map_err(|_| damaged())?;
        let length = file.sealed.as_slice().len().checked_sub(TAG_BYTES).ok_or_else(damaged)?;
        let (ciphertext, tag) = file.sealed.as_slice().split_at(length);
        let mut opened = Zeroizing::new(vec![0; length]);
        self.gcm().await?.open_to(nonce, ASSOCIATED, ciphertext, tag, &mut opened).map_err(|_| damaged())?;
        let mut all: All = serde_json::from_slice(&opened).map_err(|_| damaged())?;
        all.retain(|_, kept| kept.expires > now);
        Ok(all)
    }

    async fn store(&self, all: &All) -> Result<(), ImportKeyError> {
        let mut sealed = Zeroizing::new(Vec::with_capacity(8 * 1024 * (all.len() + 1)));
        serde_json::to_writer(&mut *sealed, all).map_err(|_| ImportKeyError::Failed)?;
        let nonce = random::<NONCE_BYTES>(&*self.ids);
        let tag = self.gcm().await?.seal(nonce, ASSOCIATED, &mut sealed).map_err(|_| ImportKeyError::Failed)?;
        let file = File { nonce: nonce.into(), sealed: [sealed.as_slice(), &tag].concat().into() };
        let bytes = serde_json::to_vec(&file).map_err(|_| ImportKeyError::Failed)?;
        Ok(write_atomic(&self.path, &bytes, OWNER_ONLY)?)
    }

    #[allow(clippy::expect_used, reason = "a name of our own, covered by a test")]
    async fn gcm(&self) -> Result<Aes256Gcm, ImportKeyError> {
        let name: Name = "import-keys".parse().expect("this is a name");
        let secret = self.vault.named_secret(&name).await?;
        secret.expose().try_into().ok().and_then(|key| Aes256Gcm::new(key).ok()).ok_or(ImportKeyError::Failed)
    }
}

#[allow(clippy::expect_used, reason = "rows of the catalogue, covered by a test")]
fn algorithm_of(wrapping: Wrapping) -> Algorithm {
    let name = match wrapping {
        Wrapping::Hpke => "HPKE-9",
        Wrapping::RsaAesKwp => "RSA-OAEP-256-4096",
    };
    name.parse().expect("this is a row of the catalogue")
}

/// Bytes of the modulus of an import key for `rsa-aes-kwp`.
pub const MODULUS_BYTES: usize = 512;

fn offered(id: &str, kept: &Kept) -> Result<Offered, ImportKeyError> {
    let algorithm = algorithm_of(kept.wrapping);
    let failed = |error: AlgorithmError| VaultError::from(error);
    let key = serve(algorithm).load(algorithm, &SecretBytes::new(kept.secret.0.to_vec())).map_err(failed)?;
    let public_key = key.public_key().ok_or(ImportKeyError::Failed)?;
    let material = public_key::material(algorithm, public_key).map_err(failed)?;
    let mut jwk = serde_json::to_value(material).map_err(|_| ImportKeyError::Failed)?;
    for (name, value) in [("kty", algorithm.entry().jose_kty), ("kid", id), ("use", "enc")] {
        jwk[name] = json!(value);
    }
    // What wraps by RSA and AES-KWP has no name in JOSE.
    if kept.wrapping == Wrapping::Hpke {
        jwk["alg"] = json!(algorithm.entry().jose_alg);
    }
    Ok(Offered { id: id.to_owned(), jwk, pem: public_key::pem(algorithm, public_key).ok(), expires: kept.expires })
}

#[cfg(test)]
mod tests {
    use schema::{clock::ManualIds, id::KeyId};

    use super::*;
    use crate::vault::file::{FileVault, Unlock};

    const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);
    const ONE: KeyVersion = KeyVersion::new(KeyId::from_bits(1), 1);
    const TWO: KeyVersion = KeyVersion::new(KeyId::from_bits(1), 2);

    fn keys(directory: &std::path::Path) -> ImportKeys {
        let ids = Arc::new(ManualIds::seeded(1));
        let unlock = Unlock::Passphrase(SecretBytes::new(b"correct horse".to_vec()));
        let vault = FileVault::open_or_create(&directory.join("vault"), &unlock, ids.clone()).unwrap();
        ImportKeys::new(directory.join("import-keys.json"), Arc::new(vault), ids)
    }

    #[tokio::test]
    async fn a_key_is_for_one_version_one_import_and_one_day() {
        let directory = tempfile::tempdir().unwrap();
        let made = keys(directory.path());
        let offered = made.offer(ONE, Wrapping::Hpke, NOW).await.unwrap();
        assert_eq!(made.offer(ONE, Wrapping::Hpke, NOW).await.unwrap().id, offered.id, "asked again it is the same");
        assert_eq!((offered.jwk["kid"].as_str(), offered.jwk["alg"].as_str()), (Some(offered.id.as_str()), Some("HPKE-9")));
        drop(made);
        let again = keys(directory.path());
        assert!(again.find(&offered.id, ONE, Wrapping::Hpke, NOW).await.is_ok(), "it outlives a restart");
        let code = |found: Result<Box<dyn LoadedKey>, ImportKeyError>| found.map(|_| "found").unwrap_or_else(|error| error.code());
        for (version, wrapping, now, expected) in [
            (TWO, Wrapping::Hpke, NOW, "import_key_other_version"),
            (ONE, Wrapping::RsaAesKwp, NOW, "import_key_other_wrapping"),
            (ONE, Wrapping::Hpke, NOW.plus(LIFE), "import_key_unknown"),
        ] {
            assert_eq!(code(again.find(&offered.id, version, wrapping, now).await), expected);
        }
        again.used(TWO, NOW).await.unwrap();
        assert!(again.find(&offered.id, ONE, Wrapping::Hpke, NOW).await.is_ok());
        again.used(ONE, NOW).await.unwrap();
        assert_eq!(code(again.find(&offered.id, ONE, Wrapping::Hpke, NOW).await), "import_key_unknown");
    }

    #[tokio::test]
    async fn the_file_tells_nothing_and_damage_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let made = keys(directory.path());
        let offered = made.offer(ONE, Wrapping::Hpke, NOW).await.unwrap();
        let path = directory.path().join("import-keys.json");
        let mut bytes = std::fs::read(&path).unwrap();
        assert!(!String::from_utf8(bytes.clone()).unwrap().contains(&offered.id), "also which keys there are is sealed");
        let last = bytes.len() - 10;
        bytes[last] = if bytes[last] == b'A' { b'B' } else { b'A' };
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(made.offer(TWO, Wrapping::Hpke, NOW).await.err().unwrap().code(), "import_keys_unreadable");
    }
}
