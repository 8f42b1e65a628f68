//! A device's AES key that seals what the device cannot hold itself, or the root key of a file vault.

use std::sync::Arc;

use devices::pkcs11::sealing::{NONCE_BYTES, TokenKey};
use schema::{
    clock::{Ids, random},
    encoding::Digest,
    key::Protection,
};

use super::device::Device;
use crate::vault::{
    VaultError,
    sealed::{Seal, SealedValue},
    secret::SecretBytes,
};

/// Seals under a key that never leaves the device.
pub struct DeviceSeal {
    key: TokenKey,
    protection: Protection,
}

impl DeviceSeal {
    /// The sealing key with this label; made where `may_make` says so and there is none.
    pub fn open(device: Arc<Device>, label: &str, protection: Protection, may_make: bool) -> Result<Self, VaultError> {
        Ok(Self { key: TokenKey::open(device, label, may_make)?, protection })
    }
}

impl Seal for DeviceSeal {
    fn seal(&self, bound: &Digest, value: &SecretBytes, ids: &dyn Ids) -> Result<SealedValue, VaultError> {
        let nonce: [u8; NONCE_BYTES] = random(ids);
        let sealed = self.key.seal(nonce, &associated(bound), value.expose())?;
        Ok(SealedValue { nonce: nonce.into(), sealed: sealed.into() })
    }

    fn unseal(&self, bound: &Digest, value: &SealedValue) -> Result<Option<SecretBytes>, VaultError> {
        let Ok(nonce) = <[u8; NONCE_BYTES]>::try_from(value.nonce.as_slice()) else { return Ok(None) };
        let opened = self.key.unseal(nonce, &associated(bound), value.sealed.as_slice())?;
        Ok(opened.map(|mut bytes| SecretBytes::new(std::mem::take(&mut *bytes))))
    }

    fn protection(&self) -> Protection {
        self.protection
    }

    fn check(&self) -> Result<(), VaultError> {
        Ok(self.key.check()?)
    }
}

fn associated(bound: &Digest) -> Vec<u8> {
    [b"freehold-device-seal-v1".as_slice(), &bound.0].concat()
}
