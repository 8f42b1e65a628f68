//! What every vault must do. Call [`suite`] from the tests of a backend.

use std::future::Future;

use schema::{
    catalogue::{Algorithm, Sealing},
    clock::ManualIds,
    id::{KeyId, KeyVersion},
    key::{Operation, Purpose},
};

use super::{
    Vault, VaultError, public,
    secret::{ContentKey, SecretBytes},
};
use crate::{
    algorithm::{self, ContentEncryption},
    policy::permit::{Destination, ExportPermit, UsePermit},
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
    let algorithms: Vec<Algorithm> = vault.description().algorithms.into_keys().collect();
    vault.check().await.unwrap();
    assert!(!algorithms.is_empty(), "a vault that can do nothing");
    assert!(vault.versions().await.unwrap().is_empty(), "the suite needs an empty vault");
    for (key, algorithm) in (1..).zip(&algorithms) {
        making(&vault, version(key, 1), *algorithm).await;
        using(&vault, version(key, 1), *algorithm).await;
        bringing(&vault, KeyVersion::new(KeyId::from_bits(key), 3), *algorithm).await;
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
    assert_eq!(held.protection, vault.description().algorithms[&algorithm], "it guards what it makes as well as it says");
    assert_eq!(held.public_key.is_some(), algorithm.entry().asymmetric);
    assert_eq!(vault.generate(version, algorithm).await.unwrap(), held, "making it again gives the same");
    assert_eq!(vault.held(version).await.unwrap(), held);
    if let Some(other) = Algorithm::all().find(|other| *other != algorithm) {
        assert_eq!(vault.generate(version, other).await.unwrap_err().code(), "key_version_other_algorithm");
    }
    let second = vault.generate(KeyVersion::new(version.key, 2), algorithm).await.unwrap();
    assert_ne!(second.fingerprint, held.fingerprint, "two versions are two keys");
}

/// Material that comes from elsewhere, and goes there where the vault lets it.
async fn bringing(vault: &dyn Vault, version: KeyVersion, algorithm: Algorithm) {
    let ids = ManualIds::seeded(31);
    let serving = algorithm::serve(algorithm);
    let (mine, other) = (serving.test_secret(algorithm, &ids).unwrap(), serving.test_secret(algorithm, &ids).unwrap());
    let copy = |secret: &SecretBytes| SecretBytes::new(secret.expose().to_vec());
    let short = SecretBytes::new(mine.expose()[..mine.len() - 1].to_vec());
    let (mine_again, distinct) = (copy(&mine), mine.expose() != other.expose());
    assert_eq!(refusal(vault.import(version, algorithm, short).await), "malformed_key");
    assert_eq!(refusal(vault.held(version).await), "key_version_not_held", "nothing is kept of what was refused");
    let held = vault.import(version, algorithm, mine).await.unwrap();
    assert_eq!((held.version, held.algorithm), (version, algorithm));
    assert_eq!(vault.import(version, algorithm, copy(&mine_again)).await.unwrap(), held, "the same again changes nothing");
    if distinct {
        assert_eq!(refusal(vault.import(version, algorithm, other).await), "key_version_other_material");
    }
    using(vault, version, algorithm).await;
    match vault.export(ExportPermit::for_test(version, Destination::Backup)).await {
        Ok(exported) => {
            assert_eq!(exported.held, held);
            assert!(exported.material.expose() == mine_again.expose());
        }
        Err(error) => assert_eq!(error.code(), "key_version_not_extractable"),
    }
}

async fn using(vault: &dyn Vault, version: KeyVersion, algorithm: Algorithm) {
    let ids = ManualIds::seeded(8);
    let permit = |operation| UsePermit::for_test(version, operation, algorithm);
    let held = vault.held(version).await.unwrap();
    let serving = algorithm::serve(algorithm);
    let held_key = || held.public_key.as_ref().unwrap();
    for purpose in algorithm.entry().purposes {
        match purpose {
            Purpose::Encrypt if algorithm.entry().sealing == Some(Sealing::Direct) => sealing_content(vault, &ids, permit).await,
            Purpose::Encrypt => wrapping_content_keys(vault, &ids, permit).await,
            Purpose::Sign => {
                let signature = vault.sign(permit(Operation::Sign), b"message").await.unwrap();
                serving.verify(algorithm, held_key(), b"message", &signature).unwrap();
                serving.verify(algorithm, held_key(), b"massage", &signature).unwrap_err();
                assert_eq!(vault.sign(permit(Operation::Verify), b"x").await.unwrap_err().code(), "permit_other_operation");
            }
            Purpose::SignDigest => {
                let mut digest = vec![7; algorithm.entry().digest_bytes.unwrap().into()];
                let signature = vault.sign_digest(permit(Operation::SignDigest), &digest).await.unwrap();
                public::verify_digest(vault, permit(Operation::VerifyDigest), &digest, &signature).await.unwrap();
                assert_eq!(refusal(vault.sign_digest(permit(Operation::SignDigest), b"short").await), "unfit_input");
                assert_eq!(refusal(vault.sign_digest(permit(Operation::Sign), &digest).await), "permit_other_operation");
                digest[0] ^= 1;
                let changed = public::verify_digest(vault, permit(Operation::VerifyDigest), &digest, &signature).await;
                assert_eq!(refusal(changed), "not_genuine");
            }
            Purpose::Mac => {
                let tag = vault.mac(permit(Operation::Mac), b"message").await.unwrap();
                vault.verify_mac(permit(Operation::VerifyMac), b"message", &tag).await.unwrap();
                for (message, tag) in [(b"massage", tag.as_slice()), (b"message", &tag[..16]), (b"message", &[])] {
                    assert_eq!(refusal(vault.verify_mac(permit(Operation::VerifyMac), message, tag).await), "not_genuine");
                }
                assert_eq!(refusal(vault.mac(permit(Operation::VerifyMac), b"message").await), "permit_other_operation");
            }
            Purpose::Wrap => {
                let key = SecretBytes::random(24, &ids);
                let mut wrapped = public::wrap_bytes(vault, &ids, permit(Operation::Wrap), &key).await.unwrap();
                let opened = vault.unwrap_bytes(permit(Operation::Unwrap), &wrapped).await.unwrap();
                assert!(opened.expose() == key.expose());
                assert_eq!(refusal(vault.unwrap_bytes(permit(Operation::Wrap), &wrapped).await), "permit_other_operation");
                let huge = SecretBytes::random(8 * 1024, &ids);
                assert_eq!(refusal(public::wrap_bytes(vault, &ids, permit(Operation::Wrap), &huge).await), "unfit_input");
                wrapped[5] ^= 1;
                assert_eq!(refusal(vault.unwrap_bytes(permit(Operation::Unwrap), &wrapped).await), "not_genuine");
            }
            Purpose::Agree if algorithm.does(Purpose::Agree, Operation::Encapsulate) => {
                let made = public::encapsulate(vault, &ids, permit(Operation::Encapsulate)).await.unwrap();
                let taken = vault.decapsulate(permit(Operation::Decapsulate), &made.ciphertext).await.unwrap();
                assert!(taken.expose() == made.secret.expose());
                assert_eq!(refusal(vault.decapsulate(permit(Operation::Decapsulate), b"short").await), "not_genuine");
                assert_eq!(refusal(vault.decapsulate(permit(Operation::Agree), &made.ciphertext).await), "permit_other_operation");
            }
            Purpose::Agree => {
                let other = serving.load(algorithm, &serving.generate(algorithm, &ids).unwrap()).unwrap();
                let agreed = vault.agree(permit(Operation::Agree), other.public_key().unwrap()).await.unwrap();
                assert!(agreed.expose() == other.agree(held_key()).unwrap().expose());
                assert_eq!(refusal(vault.agree(permit(Operation::Agree), b"short").await), "malformed_key");
                assert_eq!(refusal(vault.agree(permit(Operation::Derive), held_key()).await), "permit_other_operation");
            }
            Purpose::Derive => {
                let derived = vault.derive(permit(Operation::Derive), b"salt", b"info", 48).await.unwrap();
                let other = vault.derive(permit(Operation::Derive), b"salt", b"other", 48).await.unwrap();
                assert!(derived.len() == 48 && derived.expose() != other.expose());
                assert_eq!(refusal(vault.derive(permit(Operation::Derive), b"", b"", usize::MAX).await), "unfit_input");
            }
        }
    }
    not_served(vault, &ids, algorithm, permit).await;
}

pub fn refusal<T>(result: Result<T, VaultError>) -> &'static str {
    result.err().expect("a refusal").code()
}

async fn wrapping_content_keys(vault: &dyn Vault, ids: &ManualIds, permit: impl Fn(Operation) -> UsePermit) {
    let key = ContentKey::random(ids);
    let wrapped = public::wrap_key(vault, ids, permit(Operation::Encrypt), &key, CONTENT).await.unwrap();
    for opening in [Operation::Decrypt, Operation::Rewrap, Operation::ReEncrypt] {
        assert!(vault.unwrap_key(permit(opening), &wrapped, CONTENT).await.unwrap().expose() == key.expose());
    }
    assert_eq!(refusal(vault.unwrap_key(permit(Operation::Encrypt), &wrapped, CONTENT).await), "permit_other_operation");
    let mut changed = wrapped.clone();
    changed.encrypted_key[5] ^= 1;
    assert_eq!(refusal(vault.unwrap_key(permit(Operation::Decrypt), &changed, CONTENT).await), "not_genuine");
}

async fn sealing_content(vault: &dyn Vault, ids: &ManualIds, permit: impl Fn(Operation) -> UsePermit) {
    let sealed = public::seal_content(vault, ids, permit(Operation::Encrypt), b"header", b"plaintext").await.unwrap();
    let opened = vault.open_content(permit(Operation::Decrypt), b"header", &sealed).await.unwrap();
    assert_eq!(opened.expose(), b"plaintext");
    assert_eq!(refusal(vault.open_content(permit(Operation::Encrypt), b"header", &sealed).await), "permit_other_operation");
    assert_eq!(refusal(vault.open_content(permit(Operation::Decrypt), b"heading", &sealed).await), "not_genuine");
    let mut changed = sealed.clone();
    changed.ciphertext[0] ^= 1;
    assert_eq!(refusal(vault.open_content(permit(Operation::Decrypt), b"header", &changed).await), "not_genuine");
}

/// What an algorithm does not do is refused as such, with the right permit too.
async fn not_served(vault: &dyn Vault, ids: &ManualIds, algorithm: Algorithm, permit: impl Fn(Operation) -> UsePermit) {
    if !algorithm.serves(Purpose::Sign) {
        assert_eq!(refusal(vault.sign(permit(Operation::Sign), b"x").await), "operation_not_served");
    }
    if !algorithm.serves(Purpose::Mac) {
        assert_eq!(refusal(vault.mac(permit(Operation::Mac), b"x").await), "operation_not_served");
    }
    if !algorithm.serves(Purpose::Derive) {
        assert_eq!(refusal(vault.derive(permit(Operation::Derive), b"", b"", 32).await), "operation_not_served");
    }
    if algorithm.entry().sealing != Some(Sealing::ContentKey) || algorithm.entry().asymmetric {
        let wrapped = vault.wrap_key(permit(Operation::Encrypt), &ContentKey::random(ids), CONTENT).await;
        assert_eq!(refusal(wrapped), "operation_not_served");
    }
}

async fn strangers(vault: &dyn Vault) {
    let algorithm = *vault.description().algorithms.first_key_value().unwrap().0;
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
