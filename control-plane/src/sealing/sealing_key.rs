//! The deployment's sealing key: 32 bytes that everything at rest hangs from, kept in a file only its owner can read.

use std::{
    fmt, fs,
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use schema::{
    clock::{Ids, random},
    encoding::{Digest, base64url, from_base64url},
};
use zeroize::Zeroizing;

use super::{SealingError, cipher::Cipher};

/// Names a sealing key without telling it: a labelled SHA-256 of it, cut to 128 bits, as base64url.
#[derive(Debug, Clone, PartialEq, Eq)]
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

    /// Reads the file, or makes a new key and the file when there is none. Says whether it was made.
    pub fn read_or_make(path: &Path, ids: &dyn Ids) -> Result<(Self, bool), SealingError> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(path, ids).map(|key| (key, true)),
            _ => Self::read(path).map(|key| (key, false)),
        }
    }

    /// Makes a new key in a new file of mode 0600, on disk before this returns. An existing file is never replaced.
    pub fn make(path: &Path, ids: &dyn Ids) -> Result<Self, SealingError> {
        let key = Self::generate(ids);
        let write = || {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            let mut line = Zeroizing::new(base64url(&*key.0));
            line.push('\n');
            file.write_all(line.as_bytes())?;
            file.sync_all()?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            fs::File::open(folder)?.sync_all()
        };
        write().map_err(|source| SealingError::KeyFile { act: "making", path: path.to_owned(), source })?;
        Ok(key)
    }

    /// Reads the file; refuses one that others can read.
    pub fn read(path: &Path) -> Result<Self, SealingError> {
        let failed = |act| move |source| SealingError::KeyFile { act, path: path.to_owned(), source };
        let file = fs::File::open(path).map_err(failed("opening"))?;
        let mode = file.metadata().map_err(failed("inspecting"))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SealingError::KeyFileOpenToOthers { path: path.to_owned(), mode });
        }
        let mut text = Zeroizing::new(String::new());
        file.take(1024).read_to_string(&mut text).map_err(failed("reading"))?;
        let bytes = Zeroizing::new(from_base64url(text.trim()).unwrap_or_default());
        let bytes: [u8; 32] = bytes.as_slice().try_into().map_err(|_| SealingError::KeyFileDamaged { path: path.to_owned() })?;
        Ok(Self::from_bytes(bytes))
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
        let (made, new) = SealingKey::read_or_make(&path, &ManualIds::seeded(1)).unwrap();
        assert!(new);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (read, new) = SealingKey::read_or_make(&path, &ManualIds::seeded(2)).unwrap();
        assert!(!new);
        assert_eq!(made.fingerprint(), read.fingerprint());
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
        fs::write(&path, "c2VjcmV0").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = SealingKey::read(&path).unwrap_err();
        assert!(matches!(&error, SealingError::KeyFileDamaged { .. }));
        assert!(!format!("{error} {error:?}").contains("c2VjcmV0"));
    }

    #[test]
    fn it_does_not_print() {
        let key = SealingKey::from_bytes([0xAB; 32]);
        let printed = format!("{key:?}");
        assert!(!printed.contains("171") && !printed.to_lowercase().contains("abab") && !printed.contains(&base64url(&[0xAB; 32])));
    }
}
