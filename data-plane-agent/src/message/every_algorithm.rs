//! Messages and files under a key of every algorithm of the catalogue.

use std::sync::Arc;

use schema::{
    catalogue::{Algorithm, Sealing},
    clock::ManualIds,
    encoding::{base64url, from_base64url},
    id::{KeyId, KeyVersion},
    key::{Operation, Purpose},
};
use serde_json::{Value, json};

use super::{
    MessageError,
    file::{FileSealer, HeaderReader},
    jwe::{self, Jwe},
    jws::{self, Jws},
    tests::context,
};
use crate::{
    policy::permit::UsePermit,
    vault::{
        Vault,
        file::{FileVault, Unlock},
    },
};

struct World {
    vault: FileVault,
    ids: ManualIds,
    _directory: tempfile::TempDir,
}

/// A vault with a key of each algorithm that serves the purpose.
async fn world(purpose: Purpose) -> (World, Vec<(KeyVersion, Algorithm)>) {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let key_file = directory.path().join("key");
    std::fs::write(&key_file, [7; 32]).unwrap();
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o400)).unwrap();
    let ids = ManualIds::seeded(1);
    let vault = FileVault::open_or_create(&directory.path().join("vault"), &Unlock::KeyFile(key_file), Arc::new(ids.clone())).unwrap();
    let mut keys = Vec::new();
    for (bits, algorithm) in (1..).zip(Algorithm::all()).filter(|(_, algorithm)| algorithm.serves(purpose)) {
        let version = KeyVersion::new(KeyId::from_bits(bits), 1);
        vault.generate(version, algorithm).await.unwrap();
        keys.push((version, algorithm));
    }
    (World { vault, ids, _directory: directory }, keys)
}

fn named(keys: &[(KeyVersion, Algorithm)], name: &str) -> (KeyVersion, Algorithm) {
    *keys.iter().find(|(_, algorithm)| algorithm.name() == name).unwrap()
}

async fn sealed(world: &World, keys: &[(KeyVersion, Algorithm)], form: jwe::Form) -> Result<String, MessageError> {
    let permits = keys.iter().map(|(version, algorithm)| UsePermit::for_test(*version, Operation::Encrypt, *algorithm)).collect();
    jwe::encrypt(&world.vault, &world.ids, permits, b"some plaintext", &context(&[("app", "test")]), form).await
}

async fn opened(world: &World, (version, algorithm): (KeyVersion, Algorithm), text: &str) -> Result<Vec<u8>, MessageError> {
    let permit = UsePermit::for_test(version, Operation::Decrypt, algorithm);
    let opened = Jwe::parse(text.as_bytes())?.decrypt(&world.vault, permit, &context(&[("app", "test")])).await?;
    Ok(opened.plaintext.expose().to_vec())
}

fn protected(text: &str) -> Value {
    let header = match serde_json::from_str::<Value>(text) {
        Ok(json) => json["protected"].as_str().unwrap().to_owned(),
        Err(_) => text.split('.').next().unwrap().to_owned(),
    };
    serde_json::from_slice(&from_base64url(&header).unwrap()).unwrap()
}

/// A compact message with another protected header, which no tag covers any more: for refusals that come before.
fn with_header(text: &str, change: impl Fn(&mut Value)) -> String {
    let mut header = protected(text);
    change(&mut header);
    let rest = text.split_once('.').unwrap().1;
    format!("{}.{rest}", base64url(header.to_string().as_bytes()))
}

#[tokio::test]
async fn messages_go_round_in_every_form_and_a_changed_one_does_not_open() {
    let (world, keys) = world(Purpose::Encrypt).await;
    assert!(keys.len() >= 12, "{keys:?}");
    for key in &keys {
        let entry = key.1.entry();
        for form in [jwe::Form::Compact, jwe::Form::Flattened, jwe::Form::General] {
            let text = sealed(&world, &[*key], form).await.unwrap();
            let message = Jwe::parse(text.as_bytes()).unwrap();
            assert_eq!((message.key_version().unwrap(), message.plaintext_bytes()), (key.0, 14), "{}", entry.name);
            assert_eq!(opened(&world, *key, &text).await.unwrap(), b"some plaintext", "{} {form:?}", entry.name);
            let header = protected(&text);
            assert_eq!((header["alg"].as_str(), header["enc"].as_str()), (entry.jose_alg, entry.jose_enc), "{}", entry.name);
            assert_eq!(header["draft"].as_str(), entry.draft, "{}", entry.name);
            let permit = UsePermit::for_test(key.0, Operation::Decrypt, key.1);
            let other = message.decrypt(&world.vault, permit, &context(&[("app", "other")])).await.err().unwrap();
            assert_eq!(other.code(), "context_mismatch", "{}", entry.name);
        }
        let text = sealed(&world, &[*key], jwe::Form::Compact).await.unwrap();
        for place in (0..text.len()).step_by(text.len().div_ceil(60)) {
            let mut changed = text.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(opened(&world, *key, &changed).await.is_err(), "{}: {place} of {}", entry.name, text.len());
        }
    }
}

#[tokio::test]
async fn content_keys_are_for_several_and_for_files_and_direct_encryption_for_neither() {
    let (world, keys) = world(Purpose::Encrypt).await;
    let classical = |key: &&(KeyVersion, Algorithm)| key.1.entry().quantum_category == 0 || !key.1.entry().asymmetric;
    let several: Vec<_> =
        keys.iter().filter(classical).filter(|(_, algorithm)| algorithm.entry().sealing == Some(Sealing::ContentKey)).copied().collect();
    assert!(several.len() >= 7);
    let text = sealed(&world, &several, jwe::Form::General).await.unwrap();
    for key in &several {
        assert_eq!(opened(&world, *key, &text).await.unwrap(), b"some plaintext", "{}", key.1);
    }
    let wrapping = named(&keys, "A256KW+A256GCM");
    for key in &keys {
        let permit = |operation| UsePermit::for_test(key.0, operation, key.1);
        let file = FileSealer::begin(&world.vault, &world.ids, vec![permit(Operation::Encrypt)], &context(&[])).await;
        if key.1.entry().sealing == Some(Sealing::Direct) {
            assert_eq!(file.err().unwrap().code(), "other_algorithm", "{}", key.1);
            let both = sealed(&world, &[wrapping, *key], jwe::Form::General).await;
            assert_eq!(both.unwrap_err().code(), "other_algorithm", "{}", key.1);
            continue;
        }
        let mut sealer = file.unwrap();
        let mut sealed = sealer.header();
        sealer.push(b"content of a file", &mut sealed).unwrap();
        sealer.finish(&mut sealed).unwrap();
        let (header, taken) = HeaderReader::new().push(&sealed).unwrap().unwrap();
        let mut opener = header.open(&world.vault, permit(Operation::Decrypt), &context(&[])).await.unwrap();
        let mut out = Vec::new();
        opener.push(&sealed[taken..], &mut out).unwrap();
        opener.finish(&mut out).unwrap();
        assert_eq!(out, b"content of a file", "{}", key.1);
    }
}

#[tokio::test]
async fn what_stands_beside_a_content_key_is_exactly_what_the_algorithm_has() {
    let (world, keys) = world(Purpose::Encrypt).await;
    let [wrapping, rsa, ecdh, x25519, hpke, direct] =
        ["A256KW+A256GCM", "RSA-OAEP-256-3072", "ECDH-ES-P256", "X25519", "HPKE-4-KE", "A256GCM"].map(|name| named(&keys, name));
    let world = &world;
    let refused = async |(key, text): &(_, String), change: fn(&mut Value), code: &str| {
        let error = opened(world, *key, &with_header(text, change)).await.unwrap_err();
        assert_eq!(error.code(), code, "{}: {error}", key.1);
    };
    let text = async |key| (key, sealed(world, &[key], jwe::Form::Compact).await.unwrap());
    let (wrapping, rsa, ecdh) = (text(wrapping).await, text(rsa).await, text(ecdh).await);
    let (x25519, hpke, direct) = (text(x25519).await, text(hpke).await, text(direct).await);
    for message in [&wrapping, &rsa, &ecdh, &x25519, &direct] {
        refused(message, |header| header["ek"] = json!("AAAA"), "malformed").await;
    }
    for message in [&wrapping, &rsa, &hpke, &direct] {
        refused(message, |header| header["epk"] = json!({ "kty": "OKP", "crv": "X25519", "x": "AAAA" }), "malformed").await;
        refused(message, |header| header["apu"] = json!("QWxpY2U"), "malformed").await;
    }
    for message in [&ecdh, &x25519] {
        refused(message, |header| header["epk"] = Value::Null, "malformed").await;
        refused(message, |header| header["apv"] = json!("Qm9i"), "not_genuine").await;
        refused(message, |header| header["epk"]["crv"] = json!("P-384"), "malformed").await;
        refused(message, |header| header["epk"]["d"] = json!("AAAA"), "malformed").await;
    }
    refused(&ecdh, |header| header["epk"]["x"] = json!("MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4"), "malformed").await;
    refused(&hpke, |header| header["draft"] = json!("draft-ietf-jose-hpke-encrypt-01"), "not_understood").await;
    refused(&direct, |header| header["enc"] = json!("C20P"), "other_algorithm").await;
    refused(&wrapping, |header| header["alg"] = json!("dir"), "other_algorithm").await;
}

#[tokio::test]
async fn signatures_go_round_and_a_changed_one_does_not_verify() {
    let (world, keys) = world(Purpose::Sign).await;
    assert!(keys.len() >= 11, "{keys:?}");
    for (version, algorithm) in keys {
        let permit = |operation| UsePermit::for_test(version, operation, algorithm);
        let held = world.vault.held(version).await.unwrap();
        let bound = context(&[("app", "test")]);
        let text =
            jws::sign(&world.vault, &world.ids, vec![permit(Operation::Sign)], b"a payload", &bound, jws::Form::Compact).await.unwrap();
        assert_eq!(protected(&text)["alg"].as_str(), algorithm.entry().jose_alg);
        let verify = |text: &str| Jws::parse(text.as_bytes(), None)?.verify(0, permit(Operation::Verify), &held, &bound);
        verify(&text).unwrap();
        for place in (0..text.len()).step_by(text.len().div_ceil(12)) {
            let mut changed = text.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            assert!(verify(std::str::from_utf8(&changed).unwrap()).is_err(), "{algorithm}: {place} of {}", text.len());
        }
    }
}
