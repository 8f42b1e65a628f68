//! Keys in a file that only its owner can read: one a line, the newest last. More than one while the key is replaced.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use schema::clock::Ids;
use service::files::{OWNER_ONLY, write_atomic};
use zeroize::Zeroizing;

use super::{Made, Source};
use crate::sealing::{Fingerprint, SealingError, SealingKey};

pub(in crate::sealing) const KIND: &str = "file";

/// A key file. It is read whenever a key is wanted, so that a line that was added counts at once.
pub struct FileSource {
    path: PathBuf,
}

impl FileSource {
    /// The file of this name, which need not be there yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn keys(&self) -> Result<Option<Vec<SealingKey>>, SealingError> {
        // A link that leads nowhere is no reason to make a key.
        match self.path.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            _ => SealingKey::read_all(&self.path).map(Some),
        }
    }

    fn write(path: &Path, keys: &[SealingKey]) -> Result<(), SealingError> {
        let mut text = Zeroizing::new(String::with_capacity(keys.len() * 44));
        for key in keys {
            text.push_str(&key.text());
            text.push('\n');
        }
        let failed = |source| SealingError::KeyFile { act: "writing", path: path.to_owned(), source: std::io::Error::other(source) };
        write_atomic(path, text.as_bytes(), OWNER_ONLY).map_err(failed)
    }
}

#[async_trait]
impl Source for FileSource {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    async fn open(&self, wanted: &Fingerprint, _: Option<&[u8]>) -> Result<SealingKey, SealingError> {
        let missing = || SealingError::SealingKeyMissing { expected: wanted.clone(), path: self.path.clone() };
        let mut keys = self.keys()?.ok_or_else(missing)?;
        match keys.iter().position(|key| key.fingerprint() == *wanted) {
            Some(at) => Ok(keys.swap_remove(at)),
            None => keys.pop().ok_or_else(missing),
        }
    }

    async fn make(&self, known: &[Fingerprint], ids: &dyn Ids) -> Result<Made, SealingError> {
        let Some(mut keys) = self.keys()? else {
            let key = SealingKey::make(&self.path, ids)?;
            tracing::warn!(file = %self.path.display(), "made a sealing key: keep a copy elsewhere, without it the database cannot be read");
            return Ok(Made { key, wrapped: None });
        };
        if let Some(key) = keys.pop_if(|key| !known.contains(&key.fingerprint())) {
            return Ok(Made { key, wrapped: None });
        }
        let key = SealingKey::generate(ids);
        keys.push(key.clone());
        Self::write(&self.path, &keys)?;
        tracing::warn!(file = %self.path.display(), fingerprint = %key.fingerprint(), "added a sealing key to the file: copy it to where the other is kept");
        Ok(Made { key, wrapped: None })
    }

    /// Each goes into a file of its own beside this one: older backups hang from it.
    async fn retire(&self, gone: &[Fingerprint]) -> Result<(), SealingError> {
        let Some(keys) = self.keys()? else { return Ok(()) };
        let (retired, kept): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| gone.contains(&key.fingerprint()));
        if retired.is_empty() {
            return Ok(());
        }
        for key in &retired {
            let mut name = self.path.file_name().unwrap_or_default().to_owned();
            name.push(format!(".retired-{}", key.fingerprint()));
            Self::write(&self.path.with_file_name(name), std::slice::from_ref(key))?;
        }
        if kept.is_empty() {
            let failed = |source| SealingError::KeyFile { act: "removing", path: self.path.clone(), source };
            return std::fs::remove_file(&self.path).map_err(failed);
        }
        Self::write(&self.path, &kept)
    }
}

#[cfg(test)]
mod tests {
    use schema::clock::ManualIds;

    use super::*;

    fn source() -> (tempfile::TempDir, FileSource) {
        let folder = tempfile::tempdir().unwrap();
        let source = FileSource::new(folder.path().join("sealing.key"));
        (folder, source)
    }

    #[tokio::test]
    async fn keys_are_added_and_retired_and_none_is_lost() {
        let (folder, source) = source();
        let ids = ManualIds::seeded(1);
        let first = source.make(&[], &ids).await.unwrap().key.fingerprint();
        // One that is there is taken, not made again.
        assert_eq!(source.make(&[], &ids).await.unwrap().key.fingerprint(), first);
        let second = source.make(std::slice::from_ref(&first), &ids).await.unwrap().key.fingerprint();
        assert_ne!(first, second);
        // Broken off before the database knew of it, the same is taken again.
        assert_eq!(source.make(std::slice::from_ref(&first), &ids).await.unwrap().key.fingerprint(), second);
        for wanted in [&first, &second] {
            assert_eq!(source.open(wanted, None).await.unwrap().fingerprint(), *wanted);
        }
        source.retire(std::slice::from_ref(&first)).await.unwrap();
        assert_eq!(source.open(&first, None).await.unwrap().fingerprint(), second);
        let kept = SealingKey::read(&folder.path().join(format!("sealing.key.retired-{first}"))).unwrap();
        assert_eq!(kept.fingerprint(), first);
        // The file goes with its last key, as after a move to another source.
        source.retire(&[second]).await.unwrap();
        assert!(!folder.path().join("sealing.key").exists());
    }

    #[tokio::test]
    async fn a_file_that_is_gone_is_named() {
        let (_folder, source) = source();
        let wanted = SealingKey::from_bytes([1; 32]).fingerprint();
        assert!(matches!(source.open(&wanted, None).await, Err(SealingError::SealingKeyMissing { .. })));
    }
}
