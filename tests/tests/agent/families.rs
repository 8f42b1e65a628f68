//! One key of every kind through the interface: what it protects it processes, by itself and in batches.

use schema::{
    encoding::base64url,
    id::KeyId,
    key::{Durability, Origin, Purpose},
};
use serde_json::{Value, json};
use trust::statement::{
    policy::{EXTERNAL_KEYS, ExternalVersion},
    state::VersionEntry,
};

use super::super::*;

/// Name, algorithm, purpose. Ids count from [`FIRST`].
const KEYS: &[(&str, &str, Purpose)] = &[
    ("hmac", "HMAC-SHA-384", Purpose::Mac),
    ("gcm", "A256GCM", Purpose::Encrypt),
    ("hpke", "HPKE-9", Purpose::Encrypt),
    ("ecdsa", "ECDSA-P256", Purpose::Sign),
    ("digests", "ECDSA-P384", Purpose::SignDigest),
    ("mu", "ML-DSA-65", Purpose::SignDigest),
    ("slow", "SLH-DSA-SHA2-128s", Purpose::Sign),
    ("derive", "HKDF-SHA-256", Purpose::Derive),
    ("curve-a", "X25519", Purpose::Agree),
    ("curve-b", "X25519", Purpose::Agree),
    ("kem", "ML-KEM-768", Purpose::Agree),
];
const FIRST: u128 = 200;

async fn site() -> Site {
    let mut site = Site::start().await;
    for (number, (name, algorithm, purpose)) in (FIRST..).zip(KEYS) {
        site.define(KeyId::from_bits(number), name, algorithm, *purpose).await;
    }
    site.publish();
    site
}

impl Site {
    async fn done(&self, operation: &str, body: Value) -> Value {
        let (status, answer) = self.call(&format!("/v1/{operation}"), &self.billing, body.clone()).await;
        assert_eq!(status, StatusCode::OK, "{operation}: {answer}");
        // The same in a batch, twice.
        let (status, batch) = self.call(&format!("/v1/batch/{operation}"), &self.billing, json!({ "items": [body, body] })).await;
        assert_eq!((status, &batch["succeeded"]), (StatusCode::OK, &json!(2)), "{operation}: {batch}");
        assert_eq!(batch["items"][1]["answer"]["key_version"], answer["key_version"]);
        answer
    }

    async fn fails(&self, operation: &str, body: Value) -> (u16, String) {
        let (status, answer) = self.call(&format!("/v1/{operation}"), &self.billing, body).await;
        (status.as_u16(), answer["code"].as_str().unwrap_or_else(|| panic!("{operation}: {answer}")).to_owned())
    }
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_and_signatures_over_digests() {
    let site = site().await;
    let payload = base64url(b"a payload");
    let made = site.done("mac", json!({ "key": "payments/hmac", "payload": payload })).await;
    assert_eq!(from_base64url(made["tag"].as_str().unwrap()).unwrap().len(), 48);
    assert_eq!((&made["asked_for"], made["key_version"].as_str().unwrap().ends_with("/1")), (&json!("payments/hmac"), true));
    let check = |payload: &str, tag: &Value| json!({ "key": made["key_version"], "payload": payload, "tag": tag });
    assert_eq!(site.done("verify-mac", check(&payload, &made["tag"])).await["valid"], true);
    for (payload, tag) in [("", made["tag"].clone()), (payload.as_str(), json!("AAAA")), (payload.as_str(), json!(""))] {
        let answer = site.done("verify-mac", check(payload, &tag)).await;
        assert_eq!((&answer["valid"], &answer["reason"]), (&json!(false), &json!("not_genuine")));
    }

    for (key, length) in [("payments/digests", 48), ("payments/mu", 64)] {
        let digest = base64url(&vec![7; length]);
        let signed = site.done("sign-digest", json!({ "key": key, "digest": digest })).await;
        let check = |digest: &str| json!({ "key": signed["key_version"], "digest": digest, "signature": signed["signature"] });
        assert_eq!(site.done("verify-digest", check(&digest)).await["valid"], true, "{key}");
        assert_eq!(site.done("verify-digest", check(&base64url(&vec![8; length]))).await["valid"], false, "{key}");
        assert_eq!(
            site.fails("sign-digest", json!({ "key": key, "digest": base64url(&vec![7; length - 1]) })).await,
            refused(400, "unfit_input")
        );
    }
    for key in ["payments/ecdsa", "payments/slow"] {
        let signed = site.done("sign", json!({ "key": key, "payload": payload })).await;
        assert_eq!(site.done("verify", json!({ "signature": signed["signature"] })).await["valid"], true, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_without_a_content_key() {
    let site = site().await;
    for key in ["payments/gcm", "payments/hpke"] {
        let body = json!({ "key": key, "plaintext": base64url(b"4111"), "context": { "a": "1" } });
        let sealed = site.done("encrypt", body).await;
        let open = |context: Value| json!({ "message": sealed["message"], "context": context });
        assert_eq!(site.done("decrypt", open(json!({ "a": "1" }))).await["plaintext"], base64url(b"4111"), "{key}");
        assert_eq!(site.fails("decrypt", open(json!({ "a": "2" }))).await, refused(400, "context_mismatch"));
        let moved = json!({ "message": sealed["message"], "context": { "a": "1" }, "key": "payments/card-data" });
        let moved = site.done("re-encrypt", moved).await;
        assert_eq!(
            site.done("decrypt", json!({ "message": moved["message"], "context": { "a": "1" } })).await["plaintext"],
            base64url(b"4111")
        );
        // Files and several recipients need a content key.
        let answer = site.post(&format!("/v1/stream/encrypt?key={key}"), &site.billing).body("x").send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 400, "{key}");
        let several = json!({ "key": "payments/card-data", "also_for": [key], "plaintext": "" });
        assert_eq!(site.call("/v1/encrypt", &site.billing, several).await.0.as_u16(), 400, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_and_derived_secrets() {
    let site = site().await;
    let body = |info: &str| json!({ "key": "payments/derive", "info": base64url(info.as_bytes()), "salt": "c2FsdA", "bytes": 48 });
    let derived = site.done("derive", body("one")).await;
    assert_eq!(from_base64url(derived["derived"].as_str().unwrap()).unwrap().len(), 48);
    assert_eq!(site.done("derive", body("one")).await["derived"], derived["derived"]);
    assert_ne!(site.done("derive", body("two")).await["derived"], derived["derived"]);
    assert_eq!(site.fails("derive", json!({ "key": "payments/derive", "bytes": 8161 })).await, refused(400, "invalid_body"));

    let public = |name: &str| {
        let number = FIRST + KEYS.iter().position(|key| key.0 == name).unwrap() as u128;
        let version = KeyVersion::new(KeyId::from_bits(number), 1);
        let vault = site.agent().vault().clone();
        async move { base64url(vault.held(version).await.unwrap().public_key.as_ref().unwrap()) }
    };
    let (a, b) = (public("curve-a").await, public("curve-b").await);
    let ours = site.done("agree", json!({ "key": "payments/curve-a", "public_key": b })).await;
    let theirs = site.done("agree", json!({ "key": "payments/curve-b", "public_key": a })).await;
    assert_eq!(ours["secret"], theirs["secret"]);
    for bad in ["AAAA".to_owned(), base64url(&[0; 32])] {
        let (status, code) = site.fails("agree", json!({ "key": "payments/curve-a", "public_key": bad })).await;
        assert_eq!(status, 400, "{code}");
    }

    let made = site.done("encapsulate", json!({ "key": "payments/kem" })).await;
    let take = |ciphertext: &Value| json!({ "key": made["key_version"], "ciphertext": ciphertext });
    assert_eq!(site.done("decapsulate", take(&made["ciphertext"])).await["secret"], made["secret"]);
    let mut changed = from_base64url(made["ciphertext"].as_str().unwrap()).unwrap();
    changed[0] ^= 1;
    // Another ciphertext gives another secret, and no error (FIPS 203).
    assert_ne!(site.done("decapsulate", take(&json!(base64url(&changed)))).await["secret"], made["secret"]);
    let (status, code) = site.fails("decapsulate", take(&json!("AAAA"))).await;
    assert_eq!(status, 400, "{code}");
    // Each kind of key for agreement does its own half.
    assert_eq!(site.fails("agree", json!({ "key": "payments/kem", "public_key": a })).await.0, 400);
    assert_eq!(site.fails("encapsulate", json!({ "key": "payments/curve-a" })).await.0, 400);
}

const PARTNER: KeyId = KeyId::from_bits(250);

/// A key to agree with, whose private half a partner has.
fn register(site: &mut Site, algorithm: &str, public_key: Vec<u8>) {
    let mut defined = definition();
    (defined.name, defined.algorithm, defined.purpose) = ("partner".parse().unwrap(), algorithm.parse().unwrap(), Purpose::Agree);
    (defined.durability, defined.origin) = (Durability::Elsewhere, Origin::External);
    let fingerprint = schema::key::fingerprint(defined.algorithm, &public_key);
    defined.external = vec![ExternalVersion { public_key: public_key.into(), fingerprint }];
    site.world.project_policy().keys.insert(PARTNER, defined);
    site.world.project_policy().head.requires.push(EXTERNAL_KEYS.to_owned());
    let state = VersionState::Active;
    let entry = VersionEntry {
        state,
        created: START,
        activated: Some(START),
        generator: None,
        record: None,
        ready: Default::default(),
        backup: None,
    };
    site.world.state.keys.insert(PARTNER, KeyState { primary: 1, versions: [(1, entry)].into() });
}

#[tokio::test(flavor = "multi_thread")]
async fn agreement_takes_the_others_key_as_it_comes() {
    let mut site = site().await;
    let theirs = KeyId::from_bits(FIRST + 9);
    let public_key = site.agent().vault().held(KeyVersion::new(theirs, 1)).await.unwrap().public_key.clone().unwrap();
    register(&mut site, "X25519", public_key.clone());
    site.republish();
    let public = |format: &str| {
        let url = format!("http://{}/v1/keys/payments/curve-b/public?format={format}", site.agent().address);
        let answer = site.http.get(url).bearer_auth(&site.billing).send();
        async { answer.await.unwrap().text().await.unwrap() }
    };
    let jwk: Value = serde_json::from_str(&public("jwk").await).unwrap();
    let pem = public("pem").await;
    let with = |field: &str, theirs: Value| {
        let mut body = json!({ "key": "payments/curve-a" });
        body[field] = theirs;
        body
    };
    let plain = site.done("agree", with("public_key", json!(base64url(&public_key)))).await;
    assert_eq!(plain.get("their_key"), None);
    for body in [with("jwk", jwk.clone()), with("pem", json!(pem))] {
        assert_eq!(site.done("agree", body.clone()).await["secret"], plain["secret"], "{body}");
    }
    for named in [json!("payments/partner"), json!(PARTNER), json!(format!("{PARTNER}/1")), json!("payments/curve-b")] {
        let answer = site.done("agree", with("their_key", named.clone())).await;
        assert_eq!((&answer["secret"], &answer["their_key"]["asked_for"]), (&plain["secret"], &named));
        assert_eq!(answer["their_key"]["policies"], json!(["pol_test/0"]));
    }
    // A partner's private half is nobody's here, and what is no key of this curve agrees on nothing.
    assert_eq!(
        site.fails("agree", json!({ "key": "payments/partner", "their_key": "payments/curve-a" })).await,
        refused(400, "external_key")
    );
    let mut secret = jwk.clone();
    secret["d"] = json!("AAAA");
    for (field, bad, expected) in [
        ("jwk", secret, "malformed"),
        ("jwk", json!({ "kty": "OKP", "crv": "Ed25519", "x": base64url(&public_key) }), "malformed"),
        ("pem", json!("-----BEGIN PUBLIC KEY-----"), "malformed"),
        ("their_key", json!("payments/kem"), "other_algorithm"),
        ("their_key", json!("payments/ecdsa"), "other_algorithm"),
        ("their_key", json!("payments/hmac"), "no_public_key"),
        ("their_key", json!("nonsense"), "invalid_key_reference"),
    ] {
        assert_eq!(site.fails("agree", with(field, bad.clone())).await, refused(400, expected), "{field}: {bad}");
    }
    let mut twice = with("jwk", jwk);
    twice["their_key"] = json!("payments/partner");
    assert_eq!(site.fails("agree", twice).await, refused(400, "invalid_body"));
    assert_eq!(site.fails("agree", json!({ "key": "payments/curve-a" })).await, refused(400, "invalid_body"));
    // Whoever may agree may not therefore read which keys partners have.
    let forbid = format!("forbid (principal, action == Action::\"public-key\", resource == Key::\"{PARTNER}\");");
    site.world.project_policy().cedar.insert("pol_test/2".to_owned(), forbid);
    site.republish();
    assert_eq!(site.fails("agree", with("their_key", json!("payments/partner"))).await, refused(403, "forbidden_by_policy"));
}
