//! What a transit engine sealed, as its published source says: opened by the version its number names, sealed again, and refused where it was changed or
//! nobody allows it. (Ciphertexts of another program are in `tests/tests/interop`.)

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use data_plane_agent::vault::secret::SecretBytes;
use schema::{id::KeyId, key::Origin};
use trust::statement::state::VersionEntry;

use super::super::*;

const GCM: KeyId = KeyId::from_bits(340);
const CHACHA: KeyId = KeyId::from_bits(341);

/// As the engine seals: a nonce of its own, the ciphertext, the tag.
fn seal(algorithm: &'static aws_lc_rs::aead::Algorithm, key: &[u8; 32], version: u32, associated: &[u8], plaintext: &[u8]) -> String {
    let nonce: [u8; 12] = std::array::from_fn(|place| u8::try_from(place).unwrap() + u8::try_from(version).unwrap());
    let mut sealed = plaintext.to_vec();
    let key = LessSafeKey::new(UnboundKey::new(algorithm, key).unwrap());
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated), &mut sealed).unwrap();
    format!("vault:v{version}:{}", BASE64_STANDARD.encode([&nonce[..], &sealed].concat()))
}

async fn site() -> Site {
    let mut site = Site::start().await;
    for (key, name, algorithm) in [(GCM, "gcm", "A256GCM"), (CHACHA, "chacha", "ChaCha20-Poly1305")] {
        let mut defined = definition();
        (defined.name, defined.algorithm, defined.origin) = (name.parse().unwrap(), algorithm.parse().unwrap(), Origin::Imported);
        site.world.project_policy().keys.insert(key, defined);
        site.world.state.keys.insert(key, KeyState { primary: 2, versions: Default::default() });
        for number in [1, 2] {
            let version = KeyVersion::new(key, number);
            let material = SecretBytes::new(secret(number).to_vec());
            let held = site.agent().vault().import(version, algorithm.parse().unwrap(), material).await.unwrap();
            let mut record = site.world.record(number, held.fingerprint);
            (record.version, record.algorithm, record.origin) = (version, held.algorithm, Origin::Imported);
            let mut report = site.world.report(number, held.fingerprint);
            report.version = version;
            let entry = VersionEntry {
                record: Some(trust::dsse::sign_document(&record, &[&site.world.agent]).into()),
                ready: [(trust::testing::AGENT, trust::dsse::sign_document(&report, &[&site.world.agent]).into())].into(),
                ..site.world.version(number, VersionState::Active, START)
            };
            site.world.state.keys.get_mut(&key).unwrap().versions.insert(number, entry);
        }
    }
    site.publish();
    site
}

fn secret(number: u32) -> [u8; 32] {
    std::array::from_fn(|place| u8::try_from(place).unwrap() ^ u8::try_from(number * 17).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn ciphertexts_open_by_their_number_and_are_sealed_again() {
    let site = site().await;
    for (name, algorithm) in [("gcm", &AES_256_GCM), ("chacha", &CHACHA20_POLY1305)] {
        for version in [1, 2] {
            for (associated, plaintext) in [(&b""[..], &b"4111"[..]), (b"row 7", b""), (b"", &[7; 70_000])] {
                let ciphertext = seal(algorithm, &secret(version), version, associated, plaintext);
                let mut body = json!({ "ciphertext": ciphertext, "key": format!("payments/{name}") });
                if !associated.is_empty() {
                    body["associated_data"] = json!(base64url(associated));
                }
                let (status, opened) = site.call("/v1/transit/open", &site.billing, body.clone()).await;
                assert_eq!(
                    (status.as_u16(), opened["plaintext"].as_str()),
                    (200, Some(base64url(plaintext).as_str())),
                    "{name} {version}: {opened}"
                );
                let key = if name == "gcm" { GCM } else { CHACHA };
                assert_eq!(opened["key_version"], format!("{key}/{version}"));
                assert!(opened["warnings"].to_string().contains("bound to no encryption context"), "{opened}");

                body["seal_with"] = json!("payments/card-data");
                body["context"] = json!({ "table": "people" });
                let (status, moved) = site.call("/v1/transit/open", &site.billing, body).await;
                assert_eq!((status.as_u16(), moved.get("plaintext")), (200, None), "{moved}");
                let decrypt = json!({ "message": moved["message"], "context": { "table": "people" } });
                assert_eq!(site.call("/v1/decrypt", &site.billing, decrypt).await.1["plaintext"], base64url(plaintext));
            }
        }
    }
    // A stock, in a batch: each item by itself.
    let item =
        |version: u32, key: u32| json!({ "ciphertext": seal(&AES_256_GCM, &secret(key), version, b"", b"x"), "key": "payments/gcm" });
    let (_, batch) = site.call("/v1/batch/transit/open", &site.billing, json!({ "items": [item(1, 1), item(1, 2), item(2, 2)] })).await;
    assert_eq!((batch["succeeded"].as_u64(), batch["failed"].as_u64()), (Some(2), Some(1)), "{batch}");
    assert_eq!(batch["items"][1]["problem"]["code"], "not_genuine");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_or_is_not_allowed_stays_closed() {
    let mut site = site().await;
    let ciphertext = seal(&AES_256_GCM, &secret(1), 1, b"row 7", b"4111");
    let refused = |ciphertext: String, key: &str, associated: &[u8]| {
        let body = json!({ "ciphertext": ciphertext, "key": key, "associated_data": base64url(associated) });
        let site = &site;
        async move {
            let (status, answer) = site.call("/v1/transit/open", &site.billing, body).await;
            (status.as_u16(), answer["code"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned())
        }
    };
    let is = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(refused(ciphertext.clone(), "payments/gcm", b"row 8").await, is(400, "not_genuine"));
    assert_eq!(refused(ciphertext.replace("v1", "v2"), "payments/gcm", b"row 7").await, is(400, "not_genuine"));
    assert_eq!(refused(ciphertext.replace("v1", "v3"), "payments/gcm", b"row 7").await, is(404, "version_not_found"));
    assert_eq!(refused(ciphertext.clone(), "payments/chacha", b"row 7").await, is(400, "not_genuine"));
    assert_eq!(refused(ciphertext.clone(), &format!("{GCM}/2"), b"row 7").await, is(400, "not_genuine"));
    assert_eq!(refused(ciphertext.clone(), "payments/documents", b"row 7").await, is(400, "wrong_purpose"));
    assert_eq!(refused(ciphertext.clone(), "payments/none", b"row 7").await, is(404, "key_not_found"));
    assert_eq!(refused("vault:v1:AAAA".to_owned(), "payments/gcm", b"").await, is(400, "malformed"));

    // It can claim any context, so `decrypt` is not enough.
    let decrypts = format!(
        "permit (principal == Caller::\"{AUDITOR}\", action in [Action::\"decrypt\", Action::\"re-encrypt\", Action::\"encrypt\"], resource);"
    );
    site.world.project_policy().cedar.insert("pol_test/1".to_owned(), decrypts);
    site.republish();
    for seal_with in [Value::Null, json!("payments/card-data")] {
        let mut body = json!({ "ciphertext": ciphertext, "key": "payments/gcm", "associated_data": base64url(b"row 7"), "context": { "customer": "acme" } });
        if !seal_with.is_null() {
            body["seal_with"] = seal_with;
        }
        let (status, answer) = site.call("/v1/transit/open", &site.auditor, body).await;
        assert_eq!((status.as_u16(), answer["code"].as_str()), (403, Some("not_allowed_by_policy")));
    }
}
