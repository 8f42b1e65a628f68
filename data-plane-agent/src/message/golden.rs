//! What this program once wrote, it reads for ever: `schema/golden/formats` holds a vault and messages and a file made
//! with its keys. A later version of a format adds files; none is ever changed.

use std::{fs, path::PathBuf, sync::Arc};

use schema::{
    catalogue::Algorithm,
    clock::ManualIds,
    id::{CompositeId, KeyId, KeyVersion},
    key::{Operation, Purpose},
};

use super::{
    file::{FileSealer, HeaderReader},
    jwe::{self, Jwe},
    jws::{self, Jws},
    tests::{ED25519, HYBRID, ML_DSA, SYMMETRIC, algorithm_of, context, permit},
};
use crate::{
    message::data_key,
    policy::permit::UsePermit,
    vault::{
        Vault,
        file::{FileVault, Unlock},
        secret::SecretBytes,
    },
};

const COMPOSITE: CompositeId = CompositeId::from_bits(2026);
const PLAINTEXT: &[u8] = b"what was sealed once is opened for ever";

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../schema/golden/formats")
}

fn file_plaintext() -> Vec<u8> {
    (0..20_000).map(|i| (i % 251) as u8).collect()
}

fn bound() -> schema::context::EncryptionContext {
    context(&[("app", "golden"), ("table", "people")])
}

fn unlock() -> Unlock {
    Unlock::Passphrase(SecretBytes::new(b"golden passphrase".to_vec()))
}

/// A vault directory of its own with the golden vault's files.
fn vault() -> (tempfile::TempDir, FileVault) {
    vault_from("vault-v1")
}

fn vault_from(name: &str) -> (tempfile::TempDir, FileVault) {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(golden().join(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
    }
    let vault = FileVault::open(directory.path(), &unlock(), Arc::new(ManualIds::seeded(1))).unwrap();
    (directory, vault)
}

#[tokio::test]
async fn the_golden_vault_opens_with_all_it_holds() {
    let (_directory, vault) = vault();
    let held: Vec<KeyVersion> = vault.versions().await.unwrap().iter().map(|held| held.version).collect();
    assert_eq!(held, [SYMMETRIC, HYBRID, ED25519, ML_DSA]);
    assert_eq!(vault.tombstones().await.unwrap(), [KeyVersion::new(SYMMETRIC.key, 2)]);
    let secret = vault.named_secret(&"context".parse().unwrap()).await.unwrap();
    let expected = fs::read_to_string(golden().join("vault-v1-secret.sha256")).unwrap();
    assert_eq!(schema::encoding::Digest::of(secret.expose()).to_string(), expected.trim());
}

#[tokio::test]
async fn golden_messages_open_and_verify() {
    let (_directory, vault) = vault();
    for (name, version) in [("a256kw-v1.jwe", SYMMETRIC), ("hpke-9-ke-v1.jwe", HYBRID), ("two-recipients-v1.json", HYBRID)] {
        let message = Jwe::parse(&fs::read(golden().join(name)).unwrap()).unwrap();
        let opened = message.decrypt(&vault, permit(version, Operation::Decrypt), &bound()).await.unwrap();
        assert_eq!(opened.plaintext.expose(), PLAINTEXT, "{name}");
    }
    let message = Jwe::parse(&fs::read(golden().join("data-key-v1.jwe")).unwrap()).unwrap();
    let opened = message.decrypt(&vault, permit(SYMMETRIC, Operation::Decrypt), &bound()).await.unwrap();
    assert_eq!((opened.plaintext.len(), opened.typ.as_deref()), (32, Some(data_key::TYP)));
    for (name, composites) in [("two-signatures-v1.json", [].into()), ("composite-v1.json", [COMPOSITE].into())] {
        let message = Jws::parse(&fs::read(golden().join(name)).unwrap(), None).unwrap();
        assert_eq!(message.composites(), composites);
        for (index, version) in [ED25519, ML_DSA].into_iter().enumerate() {
            let held = vault.held(version).await.unwrap();
            message.verify(index, permit(version, Operation::Verify), &held, &bound()).unwrap();
        }
    }
}

#[tokio::test]
async fn the_golden_file_opens() {
    let (_directory, vault) = vault();
    let file = fs::read(golden().join("file-v1.fhf1")).unwrap();
    let (header, taken) = HeaderReader::new().push(&file).unwrap().unwrap();
    for version in [SYMMETRIC, HYBRID] {
        let mut opener = header.open(&vault, permit(version, Operation::Decrypt), &bound()).await.unwrap();
        let mut out = Vec::new();
        opener.push(&file[taken..], &mut out).unwrap();
        opener.finish(&mut out).unwrap();
        assert!(out == file_plaintext());
    }
}

/// The version of the golden key of an algorithm: its key's id comes of its name.
fn version_of(algorithm: Algorithm) -> KeyVersion {
    let digest = schema::encoding::Digest::labelled("freehold-golden", &[algorithm.name().as_bytes()]);
    KeyVersion::new(KeyId::from_bits(u128::from_be_bytes(*digest.0.first_chunk().unwrap())), 1)
}

/// One message under a key of every algorithm that seals or signs messages. Files are named by algorithm, so that a new
/// row of the catalogue needs no change here: it has no golden file until one is written.
#[tokio::test]
async fn golden_messages_of_the_catalogue_open_and_verify() {
    let (_directory, vault) = vault_from("catalogue-v1/vault");
    let (mut opened, mut verified) = (0, 0);
    for algorithm in Algorithm::all() {
        let version = version_of(algorithm);
        let place = |kind: &str| golden().join("catalogue-v1").join(format!("{}.{kind}", algorithm.name()));
        if let Ok(text) = fs::read(place("jwe")) {
            let permit = UsePermit::for_test(version, Operation::Decrypt, algorithm);
            let message = Jwe::parse(&text).unwrap().decrypt(&vault, permit, &bound()).await.unwrap();
            assert_eq!(message.plaintext.expose(), PLAINTEXT, "{algorithm}");
            opened += 1;
        }
        if let Ok(text) = fs::read(place("jws")) {
            let (permit, held) = (UsePermit::for_test(version, Operation::Verify, algorithm), vault.held(version).await.unwrap());
            let message = Jws::parse(&text, None).unwrap();
            message.verify(0, permit, &held, &bound()).unwrap();
            assert_eq!(message.payload(), PLAINTEXT, "{algorithm}");
            verified += 1;
        }
    }
    assert_eq!((opened, verified), (12, 11), "a golden file is missing");
}

/// `cargo test --workspace --lib -- --ignored write_the_golden_catalogue`; refuses to change what is there.
#[tokio::test]
#[ignore = "writes files"]
async fn write_the_golden_catalogue() {
    let ids = ManualIds::seeded(2026);
    let place = golden().join("catalogue-v1");
    assert!(!place.exists(), "golden files are for ever");
    fs::create_dir_all(&place).unwrap();
    let vault = FileVault::open_or_create(&place.join("vault"), &unlock(), Arc::new(ids.clone())).unwrap();
    for algorithm in Algorithm::all() {
        let version = version_of(algorithm);
        vault.generate(version, algorithm).await.unwrap();
        if algorithm.serves(Purpose::Encrypt) {
            let permits = vec![UsePermit::for_test(version, Operation::Encrypt, algorithm)];
            let text = jwe::encrypt(&vault, &ids, permits, PLAINTEXT, &bound(), jwe::Form::Compact).await.unwrap();
            fs::write(place.join(format!("{}.jwe", algorithm.name())), text).unwrap();
        }
        if algorithm.serves(Purpose::Sign) {
            let permits = vec![UsePermit::for_test(version, Operation::Sign, algorithm)];
            let text = jws::sign(&vault, &ids, permits, PLAINTEXT, &bound(), jws::Form::Compact).await.unwrap();
            fs::write(place.join(format!("{}.jws", algorithm.name())), text).unwrap();
        }
    }
    drop(vault);
    fs::remove_file(place.join("vault/lock")).unwrap();
}

/// `cargo test --workspace --lib -- --ignored write_the_golden_composite`; refuses to change what is there.
#[tokio::test]
#[ignore = "writes files"]
async fn write_the_golden_composite() {
    let (_directory, vault) = vault();
    let place = golden().join("composite-v1.json");
    assert!(!place.exists(), "golden files are for ever");
    let signing = [ED25519, ML_DSA].map(|version| permit(version, Operation::Sign)).into();
    let (ids, form) = (ManualIds::seeded(2027), jws::Form::General);
    let signed = jws::sign_together(&vault, &ids, signing, PLAINTEXT, &bound(), form, COMPOSITE).await.unwrap();
    fs::write(place, signed).unwrap();
}

/// `cargo test --workspace --lib -- --ignored write_the_golden_files`, for a new version of a format: then change the
/// names first. Refuses to change what is there.
#[tokio::test]
#[ignore = "writes files"]
async fn write_the_golden_files() {
    let ids = ManualIds::seeded(2026);
    let place = golden().join("vault-v1");
    assert!(!place.exists(), "golden files are for ever");
    fs::create_dir_all(golden()).unwrap();
    let vault = FileVault::open_or_create(&place, &unlock(), Arc::new(ids.clone())).unwrap();
    for version in [SYMMETRIC, HYBRID, ED25519, ML_DSA] {
        vault.generate(version, algorithm_of(version)).await.unwrap();
    }
    vault.generate(KeyVersion::new(SYMMETRIC.key, 2), algorithm_of(SYMMETRIC)).await.unwrap();
    vault.destroy(KeyVersion::new(SYMMETRIC.key, 2)).await.unwrap();
    let secret = vault.named_secret(&"context".parse().unwrap()).await.unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(golden().join(name), bytes).unwrap();
    write("vault-v1-secret.sha256", schema::encoding::Digest::of(secret.expose()).to_string().as_bytes());
    let sealing = |versions: &[KeyVersion]| versions.iter().map(|version| permit(*version, Operation::Encrypt)).collect::<Vec<_>>();
    for (name, versions, form) in [
        ("a256kw-v1.jwe", [SYMMETRIC].as_slice(), jwe::Form::Compact),
        ("hpke-9-ke-v1.jwe", &[HYBRID], jwe::Form::Compact),
        ("two-recipients-v1.json", &[SYMMETRIC, HYBRID], jwe::Form::General),
    ] {
        write(name, jwe::encrypt(&vault, &ids, sealing(versions), PLAINTEXT, &bound(), form).await.unwrap().as_bytes());
    }
    let making = permit(SYMMETRIC, Operation::GenerateDataKey);
    let data_key = data_key::generate(&vault, &ids, making, &bound(), jwe::Form::Compact).await.unwrap();
    write("data-key-v1.jwe", data_key.sealed.as_bytes());
    let signing = [ED25519, ML_DSA].map(|version| permit(version, Operation::Sign)).into();
    let signed = jws::sign(&vault, &ids, signing, PLAINTEXT, &bound(), jws::Form::General).await.unwrap();
    write("two-signatures-v1.json", signed.as_bytes());
    let mut sealer = FileSealer::begin(&vault, &ids, sealing(&[SYMMETRIC, HYBRID]), &bound()).await.unwrap();
    let mut file = sealer.header();
    sealer.push(&file_plaintext(), &mut file).unwrap();
    sealer.finish(&mut file).unwrap();
    write("file-v1.fhf1", &file);
    drop(vault);
    fs::remove_file(place.join("lock")).unwrap();
}
