//! The deployment's sealing key: 32 bytes that everything at rest hangs from, kept in a file only its owner can read.

use std::{
    fmt, fs,
    io::{Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use schema::{
    clock::{Ids, random},
    encoding::{Digest, base64url, from_base64url},
};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{SealingError, cipher::Cipher};

/// The most bytes of a key file.
const MAX_FILE_BYTES: usize = 16 * 1024;

/// Names a sealing key without telling it: a labelled SHA-256 of it, cut to 128 bits, as base64url.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Fingerprint(String);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Fingerprint {
    pub(super) fn from_text(text: String) -> Self {
        Self(text)
    }

    /// Where there is none yet.
    pub(super) fn none() -> Self {
        Self("-".to_owned())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// 32 secret bytes. Does not print; wiped on drop.
#[derive(Clone)]
pub struct SealingKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.fingerprint())
    }
}

impl SealingKey {
    /// From its bytes, for operators who keep them elsewhere than in a file.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A new one.
    pub fn generate(ids: &dyn Ids) -> Self {
        Self(Zeroizing::new(random(ids)))
    }

    /// Makes a new key in a new file of mode 0600, on disk before this returns. An existing file is never replaced.
    pub fn make(path: &Path, ids: &dyn Ids) -> Result<Self, SealingError> {
        let key = Self::generate(ids);
        let write = || {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(key.text().as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            fs::File::open(folder)?.sync_all()
        };
        write().map_err(|source| SealingError::KeyFile { act: "making", path: path.to_owned(), source })?;
        Ok(key)
    }

    /// The newest key of a file.
    pub fn read(path: &Path) -> Result<Self, SealingError> {
        Self::read_all(path)?.pop().ok_or_else(|| SealingError::KeyFileDamaged { path: path.to_owned() })
    }

    /// The keys of a file, one a line, the newest last; refuses a file that others can read.
    pub fn read_all(path: &Path) -> Result<Vec<Self>, SealingError> {
        let failed = |act| move |source| SealingError::KeyFile { act, path: path.to_owned(), source };
        let file = fs::File::open(path).map_err(failed("opening"))?;
        let mode = file.metadata().map_err(failed("inspecting"))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SealingError::KeyFileOpenToOthers { path: path.to_owned(), mode });
        }
        // The full capacity at once: a buffer that grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(MAX_FILE_BYTES));
        file.take(MAX_FILE_BYTES as u64).read_to_string(&mut text).map_err(failed("reading"))?;
        Self::parse_all(&text).ok_or_else(|| SealingError::KeyFileDamaged { path: path.to_owned() })
    }

    /// Keys as text, separated by white space; none when one of them is not a key, or there is none.
    pub(super) fn parse_all(text: &str) -> Option<Vec<Self>> {
        let keys: Option<Vec<_>> = text.split_whitespace().map(Self::parse).collect();
        keys.filter(|keys| !keys.is_empty())
    }

    fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(from_base64url(text).ok()?);
        let mut key = Zeroizing::new([0; 32]);
        (bytes.len() == key.len()).then(|| key.copy_from_slice(&bytes))?;
        Some(Self(key))
    }

    /// The key as text: what a line of a file holds.
    pub(super) fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(base64url(&*self.0))
    }

    /// The key's bytes, for what wraps it.
    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Names this key without telling it.
    pub fn fingerprint(&self) -> Fingerprint {
        let digest = Digest::labelled("freehold-sealing-key-fingerprint-v1", &[&*self.0]);
        Fingerprint(base64url(&digest.0[..16]))
    }

    pub(super) fn cipher(&self) -> Result<Cipher, SealingError> {
        Cipher::new(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use schema::clock::ManualIds;

    use super::*;

    #[test]
    fn the_file_is_made_once_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sealing.key");
        let made = SealingKey::make(&path, &ManualIds::seeded(1)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(made.fingerprint(), SealingKey::read(&path).unwrap().fingerprint());
        assert!(matches!(SealingKey::make(&path, &ManualIds::seeded(3)), Err(SealingError::KeyFile { act: "making", .. })));
    }

    #[test]
    fn a_file_others_can_read_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sealing.key");
        SealingKey::make(&path, &ManualIds::seeded(1)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = SealingKey::read(&path).unwrap_err();
        assert!(error.to_string().contains("mode 640") && error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_damaged_file_is_named_and_its_content_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sealing.key");
        let key = base64url(&[7; 32]);
        for content in ["c2VjcmV0".to_owned(), String::new(), " \n".to_owned(), format!("{key}\nc2VjcmV0\n"), format!("{key}{key}")] {
            fs::write(&path, &content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = SealingKey::read(&path).unwrap_err();
            assert!(matches!(&error, SealingError::KeyFileDamaged { .. }), "{content:?}");
            assert!(!format!("{error} {error:?}").contains("c2VjcmV0") && !format!("{error:?}").contains(&key));
        }
    }

    #[test]
    fn it_does_not_print() {
        let key = SealingKey::from_bytes([0xAB; 32]);
        let printed = format!("{key:?}");
        assert!(!printed.contains("171") && !printed.to_lowercase().contains("abab") && !printed.contains(&base64url(&[0xAB; 32])));
    }
}
