//! Which vault it is. Material that two agents find in one vault is one copy; what they say of it must show that.

use schema::{encoding::Digest, id::VaultId, name::Name};

use super::{Vault, VaultError};

/// The label of identities.
const LABEL: &str = "freehold-vault-identity-v1";

/// The identity of a vault: derived from a secret that is made with it and never leaves it, so that it says nothing else
/// and a copy of the vault is no other vault.
pub async fn of(vault: &dyn Vault) -> Result<VaultId, VaultError> {
    let secret = vault.named_secret(&name()).await?;
    let digest = Digest::labelled(LABEL, &[secret.expose()]);
    let mut bits = [0; 16];
    bits.copy_from_slice(&digest.0[..16]);
    Ok(VaultId::from_bits(u128::from_be_bytes(bits)))
}

#[allow(clippy::expect_used, reason = "a name of our own, covered by a test")]
fn name() -> Name {
    "vault-identity".parse().expect("this is a name")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use schema::clock::SystemIds;

    use super::*;
    use crate::vault::{
        file::{FileVault, Unlock},
        secret::SecretBytes,
    };

    #[tokio::test]
    async fn a_vault_is_the_same_after_a_restart_and_unlike_any_other() {
        let directory = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let unlock = Unlock::Passphrase(SecretBytes::new(b"correct horse".to_vec()));
            FileVault::open_or_create(&directory.path().join(name), &unlock, Arc::new(SystemIds)).unwrap()
        };
        let vault = open("one");
        let one = of(&vault).await.unwrap();
        assert_eq!(of(&vault).await.unwrap(), one);
        drop(vault);
        assert_eq!(of(&open("one")).await.unwrap(), one);
        assert_ne!(of(&open("two")).await.unwrap(), one);
    }
}
