//! A key of the transit engine that seals: the server never tells it, and we never see it.

use std::sync::Arc;

use devices::remote::{token::TOKEN_ENDING, transit::TransitKey};
use schema::{clock::Ids, encoding::Digest, key::Protection};

use super::client::Client;
use crate::vault::{
    VaultError,
    sealed::{Seal, SealedValue},
    secret::SecretBytes,
};

/// Seals under a key of the transit engine.
pub struct TransitSeal(TransitKey);

impl TransitSeal {
    /// The key of this name; made where `may_make` says so and there is none.
    pub fn open(client: Arc<Client>, mount: &str, key: &str, may_make: bool) -> Result<Self, VaultError> {
        Ok(Self(TransitKey::open(client, mount, key, may_make)?))
    }
}

impl Seal for TransitSeal {
    fn seal(&self, bound: &Digest, value: &SecretBytes, _ids: &dyn Ids) -> Result<SealedValue, VaultError> {
        let sealed = self.0.seal(&bound.0, value.expose())?;
        Ok(SealedValue { sealed: sealed.into(), ..SealedValue::default() })
    }

    fn unseal(&self, bound: &Digest, value: &SealedValue) -> Result<Option<SecretBytes>, VaultError> {
        let opened = self.0.unseal(&bound.0, value.sealed.as_slice())?;
        Ok(opened.map(|mut bytes| SecretBytes::new(std::mem::take(&mut *bytes))))
    }

    /// What guards the server's own key is not to be seen from here.
    fn protection(&self) -> Protection {
        Protection::Software
    }

    fn check(&self) -> Result<(), VaultError> {
        Ok(self.0.check()?)
    }

    fn advice(&self) -> Option<(&'static str, String)> {
        Some((TOKEN_ENDING, self.0.advice()?.to_string()))
    }
}
