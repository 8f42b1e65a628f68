//! A key that whoever opens the keyring holds. It counts as one of a file: so it opens what was made there.

use async_trait::async_trait;
use schema::clock::Ids;

use super::{Made, Source, file::KIND};
use crate::sealing::{Fingerprint, SealingError, SealingKey};

/// One key.
pub(super) struct HeldSource(SealingKey);

impl HeldSource {
    pub(super) fn new(key: SealingKey) -> Self {
        Self(key)
    }
}

#[async_trait]
impl Source for HeldSource {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }

    async fn open(&self, _: &Fingerprint, _: Option<&[u8]>) -> Result<SealingKey, SealingError> {
        Ok(self.0.clone())
    }

    async fn make(&self, known: &[Fingerprint], _: &dyn Ids) -> Result<Made, SealingError> {
        let found = self.0.fingerprint();
        match known.last() {
            Some(expected) => Err(SealingError::WrongSealingKey { expected: expected.clone(), found }),
            None => Ok(Made { key: self.0.clone(), wrapped: None }),
        }
    }

    async fn retire(&self, _: &[Fingerprint]) -> Result<(), SealingError> {
        Ok(())
    }
}
