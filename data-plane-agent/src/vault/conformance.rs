//! What every vault must do. Call [`suite`] from the tests of a backend.

use std::future::Future;

use schema::{
    catalogue::Algorithm,
    clock::ManualIds,
    id::{KeyId, KeyVersion},
    key::{Operation, Purpose},
};

use super::{Vault, secret::ContentKey};
use crate::{
    algorithm::{self, ContentEncryption},
    policy::permit::UsePermit,
};

const CONTENT: ContentEncryption = ContentEncryption::A256Gcm;

fn version(key: u128, number: u32) -> KeyVersion {
    KeyVersion::new(KeyId::from_bits(key), number)
}

/// Runs everything. `open` opens the same vault again and again; the one before is dropped first.
pub async fn suite<V, F>(open: impl Fn() -> F)
where
    V: Vault,
    F: Future<Output = V>,
{
    let vault = open().await;
    let algorithms = vault.description().algorithms;
    assert!(!algorithms.is_empty(), "a vault that can do nothing");
    assert!(vault.versions().await.unwrap().is_empty(), "the suite needs an empty vault");
    for (key, algorithm) in (1..).zip(&algorithms) {
        making(&vault, version(key, 1), *algorithm).await;
        using(&vault, version(key, 1), *algorithm).await;
    }
    strangers(&vault).await;
    let before = vault.versions().await.unwrap();
    let secret = vault.named_secret(&"context".parse().unwrap()).await.unwrap();
    assert_eq!(secret.len(), 32);
    let again = vault.named_secret(&"context".parse().unwrap()).await.unwrap();
    let other = vault.named_secret(&"other".parse().unwrap()).await.unwrap();
    assert!(secret.expose() == again.expose() && secret.expose() != other.expose());
    drop(vault);

    let vault = open().await;
    assert_eq!(vault.versions().await.unwrap(), before, "opening again changes nothing");
    assert!(vault.named_secret(&"context".parse().unwrap()).await.unwrap().expose() == secret.expose());
    for held in &before {
        using(&vault, held.version, held.algorithm).await;
    }
    destroying(&vault, before[0].version, before[0].algorithm).await;
    vault.destroy(version(99, 9)).await.unwrap();
    drop(vault);

    let vault = open().await;
    assert_eq!(vault.tombstones().await.unwrap(), [before[0].version, version(99, 9)]);
    assert_eq!(vault.versions().await.unwrap().len(), before.len() - 1);
    assert_eq!(vault.generate(version(99, 9), algorithms[0]).await.unwrap_err().code(), "key_version_destroyed");
}

async fn making(vault: &dyn Vault, version: KeyVersion, algorithm: Algorithm) {
    assert_eq!(vault.held(version).await.unwrap_err().code(), "key_version_not_held");
    let held = vault.generate(version, algorithm).await.unwrap();
    assert_eq!((held.version, held.algorithm), (version, algorithm));
    assert_eq!(held.public_key.is_some(), algorithm.entry().asymmetric);
    assert_eq!(vault.generate(version, algorithm).await.unwrap(), held, "making it again gives the same");
    assert_eq!(vault.held(version).await.unwrap(), held);
    if let Some(other) = Algorithm::all().find(|other| *other != algorithm) {
        assert_eq!(vault.generate(version, other).await.unwrap_err().code(), "key_version_other_algorithm");
    }
    let second = vault.generate(KeyVersion::new(version.key, 2), algorithm).await.unwrap();
    assert_ne!(second.fingerprint, held.fingerprint, "two versions are two keys");
}

async fn using(vault: &dyn Vault, version: KeyVersion, algorithm: Algorithm) {
    let ids = ManualIds::seeded(8);
    let permit = |operation| UsePermit::for_test(version, operation, algorithm);
    let held = vault.held(version).await.unwrap();
    if algorithm.serves(Purpose::Encrypt) {
        let key = ContentKey::random(&ids);
        let wrapped = match &held.public_key {
            Some(public_key) => algorithm::serve(algorithm).seal_key(algorithm, public_key, &key, CONTENT, &ids).unwrap(),
            None => vault.wrap_key(permit(Operation::Encrypt), &key, CONTENT).await.unwrap(),
        };
        let opened = vault.unwrap_key(permit(Operation::Decrypt), &wrapped, CONTENT).await.unwrap();
        assert!(opened.expose() == key.expose());
        let mut changed = wrapped.clone();
        changed.encrypted_key[5] ^= 1;
        let error = vault.unwrap_key(permit(Operation::Decrypt), &changed, CONTENT).await.err().unwrap();
        assert_eq!(error.code(), "not_genuine");
        let refused = vault.unwrap_key(permit(Operation::Encrypt), &wrapped, CONTENT).await.err().unwrap();
        assert_eq!(refused.code(), "permit_other_operation");
        let refused = vault.sign(permit(Operation::Sign), b"x").await.unwrap_err();
        assert_eq!(refused.code(), "operation_not_served");
    }
    if algorithm.serves(Purpose::Sign) {
        let public_key = held.public_key.as_ref().unwrap();
        let signature = vault.sign(permit(Operation::Sign), b"message").await.unwrap();
        algorithm::serve(algorithm).verify(algorithm, public_key, b"message", &signature).unwrap();
        algorithm::serve(algorithm).verify(algorithm, public_key, b"massage", &signature).unwrap_err();
        assert_eq!(vault.sign(permit(Operation::Verify), b"x").await.unwrap_err().code(), "permit_other_operation");
        let error = vault.wrap_key(permit(Operation::Encrypt), &ContentKey::random(&ids), CONTENT).await.err().unwrap();
        assert_eq!(error.code(), "operation_not_served");
    }
}

async fn strangers(vault: &dyn Vault) {
    let algorithm = vault.description().algorithms[0];
    let stranger = UsePermit::for_test(version(77, 1), Operation::Sign, algorithm);
    assert_eq!(vault.sign(stranger, b"x").await.unwrap_err().code(), "key_version_not_held");
}

async fn destroying(vault: &dyn Vault, version: KeyVersion, algorithm: Algorithm) {
    vault.destroy(version).await.unwrap();
    assert_eq!(vault.held(version).await.unwrap_err().code(), "key_version_destroyed");
    assert_eq!(vault.generate(version, algorithm).await.unwrap_err().code(), "key_version_destroyed");
    let permit = UsePermit::for_test(version, Operation::Sign, algorithm);
    assert_eq!(vault.sign(permit, b"x").await.unwrap_err().code(), "key_version_destroyed");
    vault.destroy(version).await.unwrap();
    assert!(vault.versions().await.unwrap().iter().all(|held| held.version != version));
}
