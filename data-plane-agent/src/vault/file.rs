//! A vault in a directory: one sealed file per version, all under a root key that a passphrase, a key file, or a
//! key of a device or a remote vault opens.
//!
//! ```text
//! vault.json               how the root key is sealed: Argon2id parameters or "key file", and the sealed root key
//! key_….3.json, …          what is kept sealed ([`sealed`](super::sealed))
//! lock                     held while an agent uses the vault
//! ```
//!
//! Files are written beside their place, synced, renamed, and the directory synced. Sealing is AES-256-GCM; what stands
//! in clear beside a sealed value, and which vault it belongs to, is its associated data (`docs/formats.md`).

mod directory;
mod unlock;

use std::{path::Path, sync::Arc};

use schema::clock::Ids;

pub use self::{
    directory::Directory,
    unlock::{Elsewhere, RootKey, Unlock},
};
use super::{
    VaultError,
    keeper::VaultOf,
    sealed::{Records as _, Sealed},
};

/// The header's file name.
const HEADER: &str = "vault.json";

/// The file vault. Cheap to clone; clones share the keys.
pub type FileVault = VaultOf<Sealed<Directory, RootKey>>;

impl FileVault {
    /// Opens the vault in `directory`, or makes one where there is none. Blocks while the passphrase is stretched
    /// (about a tenth of a second and 19 MiB of memory); call it before serving.
    pub fn open_or_create(directory: &Path, unlock: &Unlock, ids: Arc<dyn Ids>) -> Result<Self, VaultError> {
        let records = Directory::open_or_create(directory)?;
        let root = match header(&records)? {
            Some(header) => RootKey::open(&header, unlock, &records.path(HEADER))?,
            None => {
                let (header, root) = RootKey::create(unlock, ids.as_ref())?;
                write_header(&records, &header)?;
                root
            }
        };
        let sealed = Sealed::new(records, root);
        finish_rekeying(&sealed, unlock, ids.as_ref())?;
        Self::new(sealed, ids)
    }

    /// Opens a vault that is there.
    pub fn open(directory: &Path, unlock: &Unlock, ids: Arc<dyn Ids>) -> Result<Self, VaultError> {
        if !Self::is_at(directory) {
            return Err(VaultError::Missing(directory.to_owned()));
        }
        Self::open_or_create(directory, unlock, ids)
    }

    /// Whether there is a vault in a directory.
    pub fn is_at(directory: &Path) -> bool {
        directory.join(HEADER).exists()
    }

    /// Seals the root key under another passphrase or key file. The keys themselves are not written again.
    pub async fn change_secret(&self, unlock: Unlock) -> Result<(), VaultError> {
        let act = "changing what opens the vault";
        self.change(act, move |kept, ids| write_header(&kept.records, &kept.seal.reseal(&unlock, ids)?)).await
    }

    /// Makes another root key, and seals everything again under it. What is cut off goes on when the vault is opened next;
    /// until then either root key opens what it sealed. Returns how many records there are.
    pub async fn rekey(&self, unlock: Unlock) -> Result<usize, VaultError> {
        let act = "changing the root key";
        self.change(act, move |kept, ids| {
            finish_rekeying(kept, &unlock, ids)?;
            let (header, replacement) = kept.seal.replacement(&unlock, ids)?;
            write_header(&kept.records, &header)?;
            kept.seal.begin(replacement);
            finish_rekeying(kept, &unlock, ids)
        })
        .await
    }

    /// Where the vault is.
    pub fn directory(&self) -> &Path {
        self.keeper().records.as_path()
    }
}

/// Seals again what a former root key sealed, and forgets that key.
fn finish_rekeying(kept: &Sealed<Directory, RootKey>, unlock: &Unlock, ids: &dyn Ids) -> Result<usize, VaultError> {
    if !kept.seal.is_being_replaced() {
        return Ok(0);
    }
    let records = kept.seal_again(ids)?;
    kept.seal.forget_replaced();
    write_header(&kept.records, &kept.seal.reseal(unlock, ids)?)?;
    Ok(records)
}

/// The header; none in a new vault. A vault with keys but without its header is damaged, not new.
fn header(records: &Directory) -> Result<Option<unlock::Header>, VaultError> {
    let corrupt = |detail: String| VaultError::Corrupt { path: records.path(HEADER), detail };
    if let Some(bytes) = records.read(HEADER)? {
        return serde_json::from_slice(&bytes).map(Some).map_err(|error| corrupt(error.to_string()));
    }
    if records.names()?.iter().any(|name| name.starts_with("key_") || name.starts_with("secret.")) {
        return Err(corrupt("it is missing, but there are keys".to_owned()));
    }
    Ok(None)
}

fn write_header(records: &Directory, header: &unlock::Header) -> Result<(), VaultError> {
    let corrupt = |error: serde_json::Error| VaultError::Corrupt { path: records.path(HEADER), detail: error.to_string() };
    let mut text = serde_json::to_vec_pretty(header).map_err(corrupt)?;
    text.push(b'\n');
    records.replace(HEADER, &text)
}

#[cfg(test)]
mod tests;
