//! What a transit engine sealed, as its published source says: opened by the version its number names, sealed again, and refused where it was changed or
//! nobody allows it. (Ciphertexts of another program are in `tests/tests/interop`.)

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
    rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use data_plane_agent::vault::secret::SecretBytes;
use schema::{id::KeyId, key::Origin};
use trust::statement::state::VersionEntry;

use super::super::*;

const GCM: KeyId = KeyId::from_bits(340);
const CHACHA: KeyId = KeyId::from_bits(341);
const DERIVED: KeyId = KeyId::from_bits(342);
const OAEP: KeyId = KeyId::from_bits(343);

/// As the engine seals: a nonce of its own, the ciphertext, the tag.
fn seal(algorithm: &'static aws_lc_rs::aead::Algorithm, key: &[u8; 32], version: u32, associated: &[u8], plaintext: &[u8]) -> String {
    let nonce: [u8; 12] = std::array::from_fn(|place| u8::try_from(place).unwrap() + u8::try_from(version).unwrap());
    let mut sealed = plaintext.to_vec();
    let key = LessSafeKey::new(UnboundKey::new(algorithm, key).unwrap());
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated), &mut sealed).unwrap();
    format!("vault:v{version}:{}", BASE64_STANDARD.encode([&nonce[..], &sealed].concat()))
}

impl Site {
    /// Defines a key whose versions 1 and 2 came from elsewhere.
    async fn bring(&mut self, key: KeyId, name: &str, algorithm: &str, purpose: Purpose) {
        let mut defined = definition();
        (defined.name, defined.algorithm, defined.origin) = (name.parse().unwrap(), algorithm.parse().unwrap(), Origin::Imported);
        defined.purpose = purpose;
        self.world.project_policy().keys.insert(key, defined);
        self.world.state.keys.insert(key, KeyState { primary: 2, versions: Default::default() });
        for number in [1, 2] {
            let version = KeyVersion::new(key, number);
            let material = SecretBytes::new(secret(number).to_vec());
            let held = self.agent().vault().import(version, algorithm.parse().unwrap(), material).await.unwrap();
            let mut record = self.world.record(number, held.fingerprint);
            (record.version, record.algorithm, record.origin) = (version, held.algorithm, Origin::Imported);
            let mut report = self.world.report(number, held.fingerprint);
            report.version = version;
            let entry = VersionEntry {
                record: Some(trust::dsse::sign_document(&record, &[&self.world.agent]).into()),
                ready: [(trust::testing::AGENT, trust::dsse::sign_document(&report, &[&self.world.agent]).into())].into(),
                ..self.world.version(number, VersionState::Active, START)
            };
            self.world.state.keys.get_mut(&key).unwrap().versions.insert(number, entry);
        }
    }
}

async fn site() -> Site {
    let mut site = Site::start().await;
    site.bring(GCM, "gcm", "A256GCM", Purpose::Encrypt).await;
    site.bring(CHACHA, "chacha", "ChaCha20-Poly1305", Purpose::Encrypt).await;
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

/// As the engine's published source derives a key for a context: HKDF-SHA-256, no salt, the context as info.
fn derived(key: &[u8; 32], context: &[u8]) -> [u8; 32] {
    let mut derived = [0; 32];
    let info = [context];
    let expanded = Salt::new(HKDF_SHA256, &[]).extract(key);
    expanded.expand(&info, HKDF_SHA256).unwrap().fill(&mut derived).unwrap();
    derived
}

#[tokio::test(flavor = "multi_thread")]
async fn derived_and_convergent_ciphertexts_open_with_their_context_and_with_no_other() {
    let mut site = site().await;
    site.bring(DERIVED, "derived", "HKDF-SHA-256", Purpose::Derive).await;
    site.republish();
    let open = |ciphertext: String, key: &str, context: Option<&[u8]>| {
        let mut body = json!({ "ciphertext": ciphertext, "key": key });
        if let Some(context) = context {
            body["derivation_context"] = json!(base64url(context));
        }
        let site = &site;
        async move {
            let (status, answer) = site.call("/v1/transit/open", &site.billing, body).await;
            match status.as_u16() {
                200 => answer["plaintext"].as_str().unwrap().to_owned(),
                _ => answer["code"].as_str().unwrap().to_owned(),
            }
        }
    };
    for version in [1, 2] {
        for context in [&b"row 7"[..], &[0xff; 64]] {
            // A convergent ciphertext differs in how its nonce was made, and holds it all the same.
            let ciphertext = seal(&AES_256_GCM, &derived(&secret(version), context), version, b"", b"4111");
            assert_eq!(open(ciphertext.clone(), "payments/derived", Some(context)).await, base64url(b"4111"));
            assert_eq!(open(ciphertext.clone(), "payments/derived", Some(b"row 8")).await, "not_genuine");
            assert_eq!(open(ciphertext.clone(), "payments/derived", None).await, "malformed");
            assert_eq!(open(ciphertext.clone(), "payments/derived", Some(b"")).await, "malformed");
            assert_eq!(open(ciphertext, "payments/gcm", Some(context)).await, "malformed", "no derived key");
        }
    }
    let other = seal(&AES_256_GCM, &derived(&secret(1), b"row 7"), 2, b"", b"4111");
    assert_eq!(open(other, "payments/derived", Some(b"row 7")).await, "not_genuine");
    // Who may open so may not have the keys by themselves.
    let opens = format!("permit (principal == Caller::\"{AUDITOR}\", action == Action::\"decrypt-legacy\", resource);");
    site.world.project_policy().cedar.insert("pol_test/1".to_owned(), opens);
    site.republish();
    let derive = json!({ "key": "payments/derived", "info": base64url(b"row 7"), "bytes": 32 });
    let (status, answer) = site.call("/v1/derive", &site.auditor, derive).await;
    assert_eq!((status.as_u16(), answer["code"].as_str()), (403, Some("not_allowed_by_policy")), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rsa_sealed_opens_and_is_bound_to_nothing() {
    let mut site = site().await;
    site.define(OAEP, "oaep", "RSA-OAEP-256-3072", Purpose::Encrypt).await;
    site.republish();
    let public = site.agent().vault().held(KeyVersion::new(OAEP, 1)).await.unwrap().public_key.clone().unwrap();
    let public = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(&spki(&public)).unwrap()).unwrap();
    for plaintext in [&b""[..], b"4111", &[7; 318]] {
        let mut room = vec![0; public.ciphertext_size()];
        let sealed = public.encrypt(&OAEP_SHA256_MGF1SHA256, plaintext, &mut room, None).unwrap();
        let ciphertext = format!("vault:v1:{}", BASE64_STANDARD.encode(&*sealed));
        let mut body = json!({ "ciphertext": ciphertext, "key": "payments/oaep" });
        let (status, opened) = site.call("/v1/transit/open", &site.billing, body.clone()).await;
        assert_eq!((status.as_u16(), opened["plaintext"].as_str()), (200, Some(base64url(plaintext).as_str())), "{opened}");
        body["associated_data"] = json!(base64url(b"row 7"));
        assert_eq!(site.call("/v1/transit/open", &site.billing, body.clone()).await.1["code"], "malformed");
        let mut changed = sealed.to_vec();
        changed[100] ^= 1;
        let changed = json!({ "ciphertext": format!("vault:v1:{}", BASE64_STANDARD.encode(changed)), "key": "payments/oaep" });
        assert_eq!(site.call("/v1/transit/open", &site.billing, changed).await.1["code"], "not_genuine");
    }
}

/// A public key as X.509 has it, of one as PKCS #1 has it.
fn spki(pkcs1: &[u8]) -> Vec<u8> {
    let wrap = |tag: u8, content: &[u8]| {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82, length[0], length[1]], content].concat()
    };
    let algorithm = hex::decode("300d06092a864886f70d0101010500").unwrap();
    wrap(0x30, &[algorithm, wrap(0x03, &[&[0], pkcs1].concat())].concat())
}
