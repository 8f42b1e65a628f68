//! Every operation says its warnings twice: in its answer, and in headers for those who do not read answers.

use std::collections::{BTreeMap, BTreeSet};

use schema::{encoding::base64url, id::KeyId, key::Purpose};
use serde_json::{Value, json};

use super::super::*;

/// A key for every operation: name, algorithm, purpose. Ids count from 300.
const KEYS: &[(&str, &str, Purpose)] = &[
    ("wrapping", "A256KW+A256GCM", Purpose::Wrap),
    ("archive", "HPKE-9-KE", Purpose::Encrypt),
    ("hmac", "HMAC-SHA-256", Purpose::Mac),
    ("digests", "ECDSA-P256", Purpose::SignDigest),
    ("derive", "HKDF-SHA-256", Purpose::Derive),
    ("curve", "X25519", Purpose::Agree),
    ("kem", "ML-KEM-768", Purpose::Agree),
];
const STALE: Duration = Duration::from_secs(700);

async fn site() -> Site {
    let mut site = Site::start().await;
    for (number, (name, algorithm, purpose)) in (300..).zip(KEYS) {
        site.define(KeyId::from_bits(number), name, algorithm, *purpose).await;
    }
    let random = format!("permit (principal == Caller::\"{CALLER}\", action == Action::\"random\", resource);");
    site.world.policies.get_mut(&Scope::Tenant).unwrap().cedar.insert("pol_random/0".to_owned(), random);
    site.publish();
    site
}

/// The codes of warnings in an answer, wherever in it.
fn in_body(answer: &Value, found: &mut BTreeSet<String>) {
    match answer {
        Value::Object(members) => {
            let codes = members.get("warnings").and_then(Value::as_array).into_iter().flatten();
            found.extend(codes.map(|warning| warning["code"].as_str().unwrap().to_owned()));
            members.values().for_each(|member| in_body(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| in_body(item, found)),
        _ => {}
    }
}

fn in_headers(answer: &reqwest::Response) -> BTreeSet<String> {
    answer.headers().get_all("freehold-warning").iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

/// The paths of the contract that do something, but for those that only ask or test.
fn paths() -> BTreeSet<String> {
    let contract: Value = serde_json::from_str(include_str!("../../../schema/contracts/agent.openapi.json")).unwrap();
    let paths = contract["paths"].as_object().unwrap();
    let posts = paths.iter().filter(|(_, methods)| methods.get("post").is_some()).map(|(path, _)| path.clone());
    posts.filter(|path| !matches!(path.as_str(), "/v1/can" | "/v1/self-test")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_warns_in_its_answer_and_in_headers() {
    let site = site().await;
    let payload = base64url(b"4111");
    let digest = base64url(&[7; 32]);
    let call = async |operation: &str, body: Value| {
        let (status, answer) = site.call(&format!("/v1/{operation}"), &site.billing, body).await;
        assert_eq!(status, StatusCode::OK, "{operation}: {answer}");
        answer
    };
    let sealed = call("encrypt", json!({ "key": "payments/archive", "plaintext": payload })).await;
    let signed = call("sign", json!({ "key": "payments/documents", "payload": payload })).await;
    let tag = call("mac", json!({ "key": "payments/hmac", "payload": payload })).await;
    let over_digest = call("sign-digest", json!({ "key": "payments/digests", "digest": digest })).await;
    let wrapped = call("wrap", json!({ "key": "payments/wrapping", "plaintext": digest })).await;
    let made = call("encapsulate", json!({ "key": "payments/kem" })).await;
    let table: BTreeMap<&str, Value> = [
        ("encrypt", json!({ "key": "payments/archive", "also_for": ["payments/card-data"], "plaintext": payload })),
        ("decrypt", json!({ "message": sealed["message"] })),
        ("generate-data-key", json!({ "key": "payments/archive" })),
        ("rewrap", json!({ "message": sealed["message"] })),
        ("re-encrypt", json!({ "message": sealed["message"], "key": "payments/card-data" })),
        ("sign", json!({ "key": "payments/documents", "payload": payload })),
        ("verify", json!({ "signature": signed["signature"] })),
        ("re-sign", json!({ "signature": signed["signature"], "key": "payments/documents" })),
        ("sign-digest", json!({ "key": "payments/digests", "digest": digest })),
        ("verify-digest", json!({ "key": "payments/digests", "digest": digest, "signature": over_digest["signature"] })),
        ("mac", json!({ "key": "payments/hmac", "payload": payload })),
        ("verify-mac", json!({ "key": "payments/hmac", "payload": payload, "tag": tag["tag"] })),
        ("wrap", json!({ "key": "payments/wrapping", "plaintext": digest })),
        ("unwrap", json!({ "key": "payments/wrapping", "wrapped": wrapped["wrapped"] })),
        ("agree", json!({ "key": "payments/curve", "their_key": "payments/curve" })),
        ("encapsulate", json!({ "key": "payments/kem" })),
        ("decapsulate", json!({ "key": "payments/kem", "ciphertext": made["ciphertext"] })),
        ("derive", json!({ "key": "payments/derive", "bytes": 32 })),
        ("random", json!({ "bytes": 8 })),
    ]
    .into();
    let stream = async |path: &str, signature: &Value, body: Vec<u8>| {
        let request = site.post(path, &site.billing).header("freehold-signature", signature.as_str().unwrap_or("none"));
        let answer = request.body(body).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer
    };
    let file = stream("/v1/stream/encrypt?key=payments/archive", &Value::Null, b"4111".to_vec()).await.bytes().await.unwrap().to_vec();
    let of_stream: Value = stream("/v1/stream/sign?key=payments/documents", &Value::Null, b"4111".to_vec()).await.json().await.unwrap();

    site.clock.advance(STALE);
    let draft = ["encrypt", "decrypt", "generate-data-key", "rewrap", "re-encrypt"];
    let mut seen = BTreeSet::new();
    for (operation, body) in &table {
        let mut expected = BTreeSet::from(["statements_stale".to_owned()]);
        expected.extend(draft.contains(operation).then(|| "algorithm_draft".to_owned()));
        for (path, body) in
            [(format!("/v1/{operation}"), body.clone()), (format!("/v1/batch/{operation}"), json!({ "items": [body, body] }))]
        {
            let answer = site.post(&path, &site.billing).json(&body).send().await.unwrap();
            let headers = in_headers(&answer);
            let answer: Value = answer.json().await.unwrap();
            let mut found = BTreeSet::new();
            in_body(&answer, &mut found);
            assert_eq!((&headers, &found), (&expected, &expected), "{path}: {answer}");
            seen.insert(path);
        }
    }
    // The answers of streams are bytes, but for signatures. Of several keys the warnings of each are said.
    let signature = &of_stream["signature"];
    for (path, query, body, is_json, is_draft) in [
        ("/v1/stream/encrypt", "?key=payments/card-data&key=payments/archive", b"4111".to_vec(), false, true),
        ("/v1/stream/decrypt", "", file.clone(), false, true),
        ("/v1/stream/re-encrypt", "?key=payments/card-data", file, false, true),
        ("/v1/stream/sign", "?key=payments/documents", b"4111".to_vec(), true, false),
        ("/v1/stream/verify", "", b"4111".to_vec(), true, false),
        ("/v1/stream/re-sign", "?key=payments/documents", b"4111".to_vec(), true, false),
    ] {
        let mut expected = BTreeSet::from(["statements_stale".to_owned()]);
        expected.extend(is_draft.then(|| "algorithm_draft".to_owned()));
        let answer = stream(&format!("{path}{query}"), signature, body).await;
        assert_eq!(in_headers(&answer), expected, "{path}");
        if is_json {
            let mut found = BTreeSet::new();
            in_body(&answer.json().await.unwrap(), &mut found);
            assert_eq!(found, expected, "{path}");
        }
        seen.insert(path.to_owned());
    }
    // What old programs made is in `cms.rs` and `transit.rs`, keys from elsewhere in `import.rs`, certificates in `certify.rs`: they
    // go the same way. A backup is no caller's.
    let elsewhere = ["certify", "cms/open", "cms/verify", "export", "import", "import-key", "transit/open"];
    let elsewhere = elsewhere.iter().flat_map(|name| [format!("/v1/{name}"), format!("/v1/batch/{name}")]);
    let elsewhere: BTreeSet<_> = elsewhere.chain(["/v1/backup".to_owned()]).collect();
    assert_eq!(paths().difference(&seen).cloned().collect::<BTreeSet<_>>(), elsewhere);
}
