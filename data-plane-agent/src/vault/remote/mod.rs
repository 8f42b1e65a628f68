//! A vault on a server that speaks the API of Vault and OpenBao: records in the KV engine, each sealed under a key of the
//! transit engine, so that neither engine alone gives a key away. Material is used in the agent's memory
//! (`docs/remote-vault.md`).
//!
//! - [`client`]: the calls, their limits and troubles (of the crate `devices`).
//! - [`kv`]: records; [`transit`]: the key that seals.

pub mod kv;
pub mod transit;

pub use devices::remote::client;

use std::sync::Arc;

use schema::clock::Ids;

use client::{Client, ServerSettings};

use self::{kv::KvRecords, transit::TransitSeal};
use super::{
    VaultError,
    keeper::VaultOf,
    sealed::{Records as _, Sealed},
};

/// How a server is used as a vault.
#[derive(Debug, Clone)]
pub struct RemoteSettings {
    /// Which server.
    pub server: ServerSettings,
    /// Where its KV engine (version 2) is mounted.
    pub kv_mount: String,
    /// The path in it below which records are kept.
    pub kv_path: String,
    /// Where its transit engine is mounted.
    pub transit_mount: String,
    /// The transit key that seals.
    pub transit_key: String,
}

/// The vault on a server. Cheap to clone.
pub type RemoteVault = VaultOf<Sealed<KvRecords, TransitSeal>>;

impl RemoteVault {
    /// Opens the vault on a server, or begins one. Blocks, and must be called inside a runtime, off its async threads.
    pub fn connect(settings: RemoteSettings, ids: Arc<dyn Ids>) -> Result<Self, VaultError> {
        let client = Arc::new(Client::new(settings.server)?);
        let records = KvRecords::new(client.clone(), &settings.kv_mount, &settings.kv_path);
        let is_new = records.names()?.is_empty();
        let seal = TransitSeal::open(client, &settings.transit_mount, &settings.transit_key, is_new)?;
        Self::new(Sealed::new(records, seal), ids)
    }
}

/// Standard base64, as the API has it.
mod base64 {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use crate::vault::secret::SecretBytes;

    pub(super) fn encode(bytes: &[u8]) -> String {
        STANDARD.encode(bytes)
    }

    pub(super) fn decode(text: &str) -> Option<SecretBytes> {
        STANDARD.decode(text).ok().map(SecretBytes::new)
    }
}

#[cfg(test)]
mod tests;
