use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
};

use schema::{
    catalogue::Algorithm,
    clock::ManualIds,
    id::{KeyId, KeyVersion},
};

use super::*;
use crate::vault::{Vault as _, conformance, sealed::version_name, secret::SecretBytes};

fn ids() -> Arc<dyn Ids> {
    // Every opening gets its own randomness, as in real life.
    use std::sync::atomic::{AtomicU64, Ordering};
    static SEED: AtomicU64 = AtomicU64::new(0);
    Arc::new(ManualIds::seeded(SEED.fetch_add(1, Ordering::Relaxed)))
}

fn key_file(directory: &Path, content: &[u8]) -> Unlock {
    let path = directory.join("key-file");
    if !path.exists() {
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    }
    Unlock::KeyFile(path)
}

fn passphrase(text: &str) -> Unlock {
    Unlock::Passphrase(SecretBytes::new(text.as_bytes().to_vec()))
}

fn algorithm() -> Algorithm {
    "Ed25519".parse().unwrap()
}

const VERSION: KeyVersion = KeyVersion::new(KeyId::from_bits(1), 1);
const OTHER: KeyVersion = KeyVersion::new(KeyId::from_bits(2), 1);

#[tokio::test]
async fn conforms() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    conformance::suite(|| async { FileVault::open_or_create(&place.join("vault"), &key_file(place, &[7; 32]), ids()).unwrap() }).await;
}

#[tokio::test]
async fn a_wrong_passphrase_is_told_from_a_damaged_header() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("vault");
    let vault = FileVault::open_or_create(&place, &passphrase("right"), ids()).unwrap();
    let held = vault.generate(VERSION, algorithm()).await.unwrap();
    drop(vault);
    assert_eq!(FileVault::open(&place, &passphrase("wrong"), ids()).err().unwrap().code(), "vault_wrong_secret");
    assert_eq!(FileVault::open(&place, &passphrase(""), ids()).err().unwrap().code(), "vault_unusable_secret");
    let by_file = key_file(directory.path(), &[7; 32]);
    assert_eq!(FileVault::open(&place, &by_file, ids()).err().unwrap().code(), "vault_unusable_secret");
    let vault = FileVault::open(&place, &passphrase("right"), ids()).unwrap();
    assert_eq!(vault.held(VERSION).await.unwrap(), held);
    drop(vault);

    let header = fs::read_to_string(place.join("vault.json")).unwrap();
    fs::write(place.join("vault.json"), header.replace("\"passes\": 3", "\"passes\": 4")).unwrap();
    assert_eq!(FileVault::open(&place, &passphrase("right"), ids()).err().unwrap().code(), "vault_corrupt");
    fs::write(place.join("vault.json"), &header[..header.len() / 2]).unwrap();
    assert_eq!(FileVault::open(&place, &passphrase("right"), ids()).err().unwrap().code(), "vault_corrupt");
    fs::remove_file(place.join("vault.json")).unwrap();
    assert_eq!(FileVault::open_or_create(&place, &passphrase("right"), ids()).err().unwrap().code(), "vault_corrupt");
    assert_eq!(FileVault::open(&place, &passphrase("right"), ids()).err().unwrap().code(), "vault_missing");
}

#[tokio::test]
async fn any_changed_byte_of_a_key_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("vault");
    let unlock = key_file(directory.path(), &[7; 32]);
    let vault = FileVault::open_or_create(&place, &unlock, ids()).unwrap();
    vault.generate(VERSION, algorithm()).await.unwrap();
    vault.generate(OTHER, algorithm()).await.unwrap();
    let (path, other) = (vault.directory().join(version_name(VERSION)), vault.directory().join(version_name(OTHER)));
    drop(vault);
    let genuine = fs::read(&path).unwrap();
    for index in (0..genuine.len()).step_by(3) {
        let mut changed = genuine.clone();
        changed[index] ^= 1;
        // White space and the names of JSON do not carry meaning; everything that does must be found.
        let same = serde_json::from_slice::<serde_json::Value>(&changed).ok() == serde_json::from_slice::<serde_json::Value>(&genuine).ok();
        fs::write(&path, &changed).unwrap();
        match FileVault::open(&place, &unlock, ids()) {
            Ok(_) => assert!(same, "byte {index} changed and nobody saw"),
            Err(error) => assert_eq!(error.code(), "vault_corrupt"),
        }
    }
    // One version's file in the place of another.
    fs::copy(&other, &path).unwrap();
    assert_eq!(FileVault::open(&place, &unlock, ids()).err().unwrap().code(), "vault_corrupt");
}

#[tokio::test]
async fn an_old_backup_does_not_bring_a_destroyed_key_back() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("vault");
    let unlock = key_file(directory.path(), &[7; 32]);
    let vault = FileVault::open_or_create(&place, &unlock, ids()).unwrap();
    vault.generate(VERSION, algorithm()).await.unwrap();
    let path = vault.directory().join(version_name(VERSION));
    let backup = fs::read(&path).unwrap();
    vault.destroy(VERSION).await.unwrap();
    assert!(!path.exists());
    drop(vault);
    fs::write(&path, backup).unwrap();
    let vault = FileVault::open(&place, &unlock, ids()).unwrap();
    assert_eq!(vault.held(VERSION).await.unwrap_err().code(), "key_version_destroyed");
    assert!(!path.exists(), "what came back is erased again");
}

#[tokio::test]
async fn keys_of_one_vault_are_worthless_in_another() {
    let directory = tempfile::tempdir().unwrap();
    let unlock = key_file(directory.path(), &[7; 32]);
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    let vault = FileVault::open_or_create(&one, &unlock, ids()).unwrap();
    vault.generate(VERSION, algorithm()).await.unwrap();
    let name = vault.directory().join(version_name(VERSION));
    drop(FileVault::open_or_create(&two, &unlock, ids()).unwrap());
    fs::copy(&name, two.join(name.file_name().unwrap())).unwrap();
    assert_eq!(FileVault::open(&two, &unlock, ids()).err().unwrap().code(), "vault_corrupt");
}

#[tokio::test]
async fn the_secret_can_change_and_the_keys_stay() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("vault");
    let vault = FileVault::open_or_create(&place, &passphrase("one"), ids()).unwrap();
    let held = vault.generate(VERSION, algorithm()).await.unwrap();
    let before = fs::read(vault.directory().join(version_name(VERSION))).unwrap();
    vault.change_secret(key_file(directory.path(), hex::encode([9; 32]).as_bytes())).await.unwrap();
    assert_eq!(fs::read(vault.directory().join(version_name(VERSION))).unwrap(), before);
    drop(vault);
    assert_eq!(FileVault::open(&place, &passphrase("one"), ids()).err().unwrap().code(), "vault_unusable_secret");
    let vault = FileVault::open(&place, &key_file(directory.path(), b""), ids()).unwrap();
    assert_eq!(vault.held(VERSION).await.unwrap(), held);
}

#[tokio::test]
async fn one_process_at_a_time_and_only_the_owner() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("vault");
    let unlock = key_file(directory.path(), &[7; 32]);
    let vault = FileVault::open_or_create(&place, &unlock, ids()).unwrap();
    assert_eq!(FileVault::open(&place, &unlock, ids()).err().unwrap().code(), "vault_in_use");
    vault.generate(VERSION, algorithm()).await.unwrap();
    for entry in fs::read_dir(&place).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
    }
    drop(vault);
    fs::set_permissions(&place, fs::Permissions::from_mode(0o750)).unwrap();
    assert_eq!(FileVault::open(&place, &unlock, ids()).err().unwrap().code(), "vault_too_open");
}

#[test]
fn key_files_are_32_bytes_and_private() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("vault");
    let open = |content: &[u8], mode| {
        let path = directory.path().join("candidate");
        let _ = fs::remove_file(&path);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let _ = fs::remove_dir_all(&place);
        FileVault::open_or_create(&place, &Unlock::KeyFile(path), ids()).err().map(|error| error.code())
    };
    assert_eq!(open(&[1; 32], 0o400), None);
    assert_eq!(open(format!("{}\n", schema::encoding::base64url(&[1; 32])).as_bytes(), 0o600), None);
    assert_eq!(open(&[1; 32], 0o440), Some("vault_too_open"));
    assert_eq!(open(b"too short", 0o400), Some("vault_unusable_secret"));
    assert_eq!(open(&[b'a'; 5000], 0o400), Some("vault_unusable_secret"));
    let missing = FileVault::open_or_create(&place, &Unlock::KeyFile(directory.path().join("nowhere")), ids());
    assert_eq!(missing.err().unwrap().code(), "vault_io");
}

/// What a vault looks like on disk, by file name.
fn files(place: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())).collect()
}

#[tokio::test]
async fn another_root_key_seals_everything_again() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("vault");
    let vault = FileVault::open_or_create(&place, &passphrase("one"), ids()).unwrap();
    let held = [vault.generate(VERSION, algorithm()).await.unwrap(), vault.generate(OTHER, algorithm()).await.unwrap()];
    vault.destroy(OTHER).await.unwrap();
    let name = "context".parse().unwrap();
    let secret = vault.named_secret(&name).await.unwrap();
    let before = files(&place);
    vault.rekey(passphrase("two")).await.unwrap();
    let after = files(&place);
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (name, bytes) in &before {
        assert_eq!(bytes == &after[name], name.ends_with(".destroyed") || name == "lock", "{name}");
    }
    assert!(!String::from_utf8_lossy(&after[HEADER]).contains("replaced"));
    drop(vault);

    // The new root key alone opens everything; the old header with the new files opens nothing.
    let vault = FileVault::open(&place, &passphrase("two"), ids()).unwrap();
    assert_eq!(vault.held(VERSION).await.unwrap(), held[0]);
    assert!(vault.named_secret(&name).await.unwrap().expose() == secret.expose());
    drop(vault);
    fs::write(place.join(HEADER), &before[HEADER]).unwrap();
    assert_eq!(FileVault::open(&place, &passphrase("one"), ids()).err().unwrap().code(), "vault_corrupt");
}

/// Cut off after any number of writes, a change of the root key goes on when the vault is opened next.
#[tokio::test]
async fn a_change_of_the_root_key_that_was_cut_off_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (place, rekeyed) = (directory.path().join("vault"), directory.path().join("rekeyed"));
    let vault = FileVault::open_or_create(&place, &passphrase("one"), ids()).unwrap();
    let held = [vault.generate(VERSION, algorithm()).await.unwrap(), vault.generate(OTHER, algorithm()).await.unwrap()];
    let name = "context".parse().unwrap();
    let secret = vault.named_secret(&name).await.unwrap();
    // The header that is written first, and the records as they are written one after the other.
    let (header, replacement) = vault.keeper().seal.replacement(&passphrase("two"), ids().as_ref()).unwrap();
    let before = files(&place);
    write_header(&vault.keeper().records, &header).unwrap();
    vault.keeper().seal.begin(replacement);
    let begun = files(&place);
    vault.keeper().seal_again(ids().as_ref()).unwrap();
    let after = files(&place);
    drop(vault);
    let records: Vec<&String> = before.keys().filter(|name| name.starts_with("key_") || name.starts_with("secret.")).collect();
    assert_eq!(records.len(), 3);
    for written in 0..=records.len() {
        let _ = fs::remove_dir_all(&rekeyed);
        fs::DirBuilder::new().mode(0o700).create(&rekeyed).unwrap();
        for (name, bytes) in &begun {
            let new = records.iter().position(|record| *record == name).is_some_and(|index| index < written);
            fs::write(rekeyed.join(name), if new { &after[name] } else { bytes }).unwrap();
        }
        assert_eq!(FileVault::open(&rekeyed, &passphrase("one"), ids()).err().unwrap().code(), "vault_wrong_secret");
        let vault = FileVault::open(&rekeyed, &passphrase("two"), ids()).unwrap();
        for held in &held {
            assert_eq!(vault.held(held.version).await.unwrap(), *held, "after {written} writes");
        }
        assert!(vault.named_secret(&name).await.unwrap().expose() == secret.expose());
        drop(vault);
        let finished = files(&rekeyed);
        assert!(!String::from_utf8_lossy(&finished[HEADER]).contains("replaced"));
        for record in &records {
            assert_ne!(finished[*record], before[*record], "{record} is sealed again");
        }
    }
}
