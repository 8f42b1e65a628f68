//! Opens the vault that the settings name.

use std::sync::Arc;

use schema::clock::Ids;
use service::files::read_secret_line;

use super::AppError;
use crate::{
    config::{Config, Pkcs11Config, RemoteConfig, UnlockKind, VaultConfig, VaultKind},
    vault::{
        Vault, VaultError,
        file::{Elsewhere, FileVault, Unlock},
        pkcs11::{self, Pkcs11Vault, device::Device, seal::DeviceSeal},
        remote::{RemoteVault, client::Client, transit::TransitSeal},
        secret::SecretBytes,
    },
};

/// Opens the vault that the settings name, or makes it.
pub async fn open_vault(config: &Config, ids: Arc<dyn Ids>) -> Result<Arc<dyn Vault>, AppError> {
    let config = config.clone();
    // Passphrases are stretched, devices and servers asked: not on a thread that serves others.
    let opened = tokio::task::spawn_blocking(move || -> Result<Arc<dyn Vault>, AppError> {
        Ok(match config.vault.kind {
            VaultKind::File => {
                let directory = config.vault_directory();
                let unlock = unlock(&config.vault, !FileVault::is_at(&directory))?;
                Arc::new(FileVault::open_or_create(&directory, &unlock, ids)?)
            }
            VaultKind::Pkcs11 => Arc::new(Pkcs11Vault::open(token(&config.vault)?.settings(), ids)?),
            VaultKind::Remote => Arc::new(RemoteVault::connect(server(&config.vault)?.settings(), ids)?),
        })
    });
    opened.await.map_err(|_| AppError::Ended("opening the vault"))?
}

/// What opens a file vault. Where a key elsewhere does, and there is none yet, one is made if `may_make` says so. Blocks, and
/// must be called inside a runtime, off its async threads.
pub fn unlock(vault: &VaultConfig, may_make: bool) -> Result<Unlock, AppError> {
    match (&vault.passphrase_file, &vault.key_file, vault.unlock) {
        (Some(path), _, _) => {
            let passphrase = SecretBytes::new(read_secret_line(path)?.to_vec());
            if passphrase.is_empty() {
                let what = format!("the passphrase file {} is empty; write the vault's passphrase into it, on one line", path.display());
                return Err(VaultError::UnusableSecret(what).into());
            }
            Ok(Unlock::Passphrase(passphrase))
        }
        (None, Some(path), _) => Ok(Unlock::KeyFile(path.clone())),
        (None, None, Some(UnlockKind::Pkcs11)) => {
            let settings = token(vault)?.settings();
            let device = Arc::new(Device::open(settings.token).map_err(VaultError::from)?);
            let protection = pkcs11::guarding(&device, settings.hardware)?.1;
            let key = pkcs11::sealing_label(&settings.namespace);
            let seal = Arc::new(DeviceSeal::open(device, &key, protection, may_make)?);
            Ok(Unlock::Elsewhere { place: Elsewhere::Pkcs11, key, seal })
        }
        (None, None, Some(UnlockKind::Remote)) => {
            let settings = server(vault)?.settings();
            let client = Arc::new(Client::new(settings.server).map_err(VaultError::from)?);
            let seal = Arc::new(TransitSeal::open(client, &settings.transit_mount, &settings.transit_key, may_make)?);
            Ok(Unlock::Elsewhere { place: Elsewhere::Transit, key: format!("{}/{}", settings.transit_mount, settings.transit_key), seal })
        }
        (None, None, None) => Err(VaultError::UnusableSecret("neither a passphrase nor a key file is set".to_owned()).into()),
    }
}

fn token(vault: &VaultConfig) -> Result<&Pkcs11Config, VaultError> {
    vault.pkcs11.as_ref().ok_or_else(|| VaultError::UnusableSecret("the section [vault.pkcs11] is missing".to_owned()))
}

fn server(vault: &VaultConfig) -> Result<&RemoteConfig, VaultError> {
    vault.remote.as_ref().ok_or_else(|| VaultError::UnusableSecret("the section [vault.remote] is missing".to_owned()))
}
