//! Streams beside sealing and opening: several recipients, ranges, signatures, other keys, released only when genuine.

use std::num::NonZeroU64;

use schema::{encoding::base64url, id::KeyId, key::Purpose};
use serde_json::Value;

use super::super::*;

const OTHER_KEY: KeyId = KeyId::from_bits(62);
const SIZE: NonZeroU64 = NonZeroU64::new(300_000).unwrap();

async fn site_with(more: &str) -> Site {
    let settings = format!("[server]\nlisten = \"127.0.0.1:0\"\nplain_http = true\nworkers = 2\n{more}");
    let mut site = Site::start_with(&settings, START).await;
    site.define(OTHER_KEY, "archive", "HPKE-9-KE", Purpose::Encrypt).await;
    site.publish();
    site
}

async fn plaintext(size: NonZeroU64) -> Vec<u8> {
    let mut pieces = std::pin::pin!(bytes(size));
    let mut whole = Vec::new();
    while let Some(piece) = pieces.next().await {
        whole.extend(piece.unwrap());
    }
    whole
}

fn send(site: &Site, path: &str, context: &str, body: Vec<u8>) -> RequestBuilder {
    site.post(path, &site.billing).header("freehold-context", base64url(context.as_bytes())).body(body)
}

async fn code(request: RequestBuilder) -> (u16, String) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json::<Value>().await.unwrap()["code"].as_str().unwrap().to_owned())
}

const CONTEXT: &str = r#"{"purpose":"backup"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn files_for_several_keys_and_under_other_keys() {
    let site = site_with("").await;
    let clear = plaintext(SIZE).await;
    let path = "/v1/stream/encrypt?key=payments/card-data&key=payments/archive";
    let sealed = send(&site, path, CONTEXT, clear.clone()).send().await.unwrap().bytes().await.unwrap().to_vec();
    let opened = send(&site, "/v1/stream/decrypt", CONTEXT, sealed.clone()).send().await.unwrap();
    assert_eq!(opened.bytes().await.unwrap(), clear);

    let again = send(&site, "/v1/stream/re-encrypt?key=payments/archive", CONTEXT, sealed.clone());
    let again = again.header("freehold-new-context", base64url(br#"{"year":"2026"}"#)).send().await.unwrap();
    assert_eq!(again.status(), StatusCode::OK);
    assert_eq!(again.headers()["freehold-key-version"], format!("{OTHER_KEY}/1"));
    assert_eq!(again.headers()["freehold-source-key-version"], format!("{KEY}/1"));
    let moved = again.bytes().await.unwrap().to_vec();
    let opened = send(&site, "/v1/stream/decrypt", r#"{"year":"2026"}"#, moved.clone()).send().await.unwrap();
    assert_eq!(opened.headers()["freehold-key-version"], format!("{OTHER_KEY}/1"));
    assert_eq!(opened.bytes().await.unwrap(), clear);
    assert_eq!(code(send(&site, "/v1/stream/decrypt", CONTEXT, moved)).await, (400, "context_mismatch".to_owned()));

    // The old file turns out bad in the middle: the new one has no end.
    let large = sealed_file(&site, NonZeroU64::new(2 << 20).unwrap()).await;
    let mut flipped = large.clone();
    flipped[1 << 20] ^= 1;
    for bad in [flipped, large[..1 << 20].to_vec()] {
        let answer = send(&site, "/v1/stream/re-encrypt?key=payments/archive", CONTEXT, bad).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(answer.bytes().await.is_err(), "the answer ended cleanly");
    }
    for (query, expected) in [
        ("", (400, "invalid_query")),
        ("?key=payments/archive&colour=blue", (400, "invalid_query")),
        ("?key=payments", (400, "invalid_key_reference")),
        ("?key=payments/documents", (400, "wrong_purpose")),
    ] {
        let found = code(send(&site, &format!("/v1/stream/re-encrypt{query}"), CONTEXT, sealed.clone())).await;
        assert_eq!((found.0, found.1.as_str()), expected, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_a_file_are_read_by_themselves() {
    let site = site_with("").await;
    let (sealed, clear) = (sealed_file(&site, SIZE).await, plaintext(SIZE).await);
    let read = |query: &str, body: Vec<u8>| send(&site, &format!("/v1/stream/decrypt?{query}"), CONTEXT, body).send();
    for (query, expected) in [
        ("range=0-0", &clear[..1]),
        ("range=100000-200000", &clear[100_000..=200_000]),
        ("range=299990-", &clear[299_990..]),
        ("range=299990-999999", &clear[299_990..]),
    ] {
        let answer = read(query, sealed.clone()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{query}");
        assert!(answer.bytes().await.unwrap() == expected, "{query}");
    }
    // Only the chunks that are needed are sent.
    let body = header_bytes(&sealed) + 56;
    let part = [&sealed[..body], &sealed[body + 6 * 16_400..body + 8 * 16_400]].concat();
    let answer = read("range=100000-120000&first_chunk=6", part.clone()).await.unwrap();
    assert!(answer.bytes().await.unwrap() == clear[100_000..=120_000]);
    let wrong = read("range=100000-120000&first_chunk=5", part).await.unwrap();
    assert_eq!(wrong.json::<Value>().await.unwrap()["code"], "not_genuine");
    for query in ["range=5-4", "range=x-", "range=-5", "first_chunk=2", "range=5-9&first_chunk=1"] {
        assert_eq!(
            code(send(&site, &format!("/v1/stream/decrypt?{query}"), CONTEXT, sealed.clone())).await,
            (400, "invalid_range".to_owned())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_signed_by_their_manifest() {
    let site = site_with("").await;
    let clear = plaintext(SIZE).await;
    let signed = send(&site, "/v1/stream/sign?key=payments/documents", CONTEXT, clear.clone()).send().await.unwrap();
    assert_eq!(signed.status(), StatusCode::OK);
    let signed: Value = signed.json().await.unwrap();
    assert_eq!(
        (&signed["length"], signed["sha256"].as_str()),
        (&serde_json::json!("300000"), Some(base64url(&sha2::Sha256::digest(&clear)).as_str()))
    );
    let signature = signed["signature"].as_str().unwrap().to_owned();
    let check = |body: Vec<u8>, context: &str, query: &str| {
        let request = send(&site, &format!("/v1/stream/verify{query}"), context, body).header("freehold-signature", &signature);
        async move { request.send().await.unwrap().json::<Value>().await.unwrap() }
    };
    assert_eq!(check(clear.clone(), CONTEXT, "").await["valid"], true);
    assert_eq!(check(clear.clone(), CONTEXT, "?key=payments/documents").await["valid"], true);
    let mut flipped = clear.clone();
    flipped[5] ^= 1;
    assert_eq!(check(flipped, CONTEXT, "").await["reason"], "not_genuine");
    assert_eq!(check(clear[1..].to_vec(), CONTEXT, "").await["reason"], "not_genuine");
    assert_eq!(check(clear.clone(), "{}", "").await["reason"], "context_mismatch");
    // A manifest is no message, and a message no manifest.
    let (status, problem) = site.call("/v1/verify", &site.billing, serde_json::json!({ "signature": signature })).await;
    assert_eq!((status.as_u16(), &problem["code"]), (400, &serde_json::json!("malformed")));
    let message = site.call("/v1/sign", &site.billing, serde_json::json!({ "key": "payments/documents", "payload": "" })).await.1;
    let request =
        send(&site, "/v1/stream/verify", CONTEXT, clear.clone()).header("freehold-signature", message["signature"].as_str().unwrap());
    assert_eq!(code(request).await, (400, "malformed".to_owned()));
    assert_eq!(code(send(&site, "/v1/stream/verify", CONTEXT, clear.clone())).await, (400, "signature_missing".to_owned()));
    let two = "/v1/stream/sign?key=payments/documents&key=payments/documents";
    assert_eq!(code(send(&site, two, CONTEXT, clear)).await, (400, "recipient_count".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_signed_again_in_one_pass() {
    let mut site = site_with("").await;
    let old = KeyId::from_bits(64);
    site.define(old, "old-documents", "Ed25519", Purpose::Sign).await;
    site.republish();
    let clear = plaintext(SIZE).await;
    let signed = send(&site, "/v1/stream/sign?key=payments/old-documents", CONTEXT, clear.clone()).send().await.unwrap();
    let signature = signed.json::<Value>().await.unwrap()["signature"].as_str().unwrap().to_owned();
    let again = |body: Vec<u8>, context: &str, query: &str| {
        send(&site, &format!("/v1/stream/re-sign?key=payments/documents{query}"), context, body).header("freehold-signature", &signature)
    };
    let answer: Value = again(clear.clone(), CONTEXT, "&signed_by=payments/old-documents").send().await.unwrap().json().await.unwrap();
    assert_eq!((&answer["algorithm"], &answer["source"]["algorithm"]), (&json!("ML-DSA-65"), &json!("Ed25519")), "{answer}");
    assert_eq!(answer["length"], "300000");
    let check = |signature: &Value, context: &str| {
        let request = send(&site, "/v1/stream/verify?key=payments/documents", context, clear.clone());
        let request = request.header("freehold-signature", signature.as_str().unwrap());
        async move { request.send().await.unwrap().json::<Value>().await.unwrap() }
    };
    assert_eq!(check(&answer["signature"], CONTEXT).await["valid"], true);
    let moved = again(clear.clone(), CONTEXT, "").header("freehold-new-context", base64url(b"{}")).send().await.unwrap();
    let moved: Value = moved.json().await.unwrap();
    assert_eq!(check(&moved["signature"], "{}").await["valid"], true, "{moved}");
    assert_eq!(check(&moved["signature"], CONTEXT).await["reason"], "context_mismatch");
    let mut flipped = clear.clone();
    flipped[SIZE.get() as usize - 1] ^= 1;
    for (request, expected) in [
        (again(flipped, CONTEXT, ""), "not_genuine"),
        (again(clear[1..].to_vec(), CONTEXT, ""), "not_genuine"),
        (again(clear.clone(), "{}", ""), "context_mismatch"),
        (again(clear.clone(), CONTEXT, "&signed_by=payments/documents"), "other_key"),
        (again(clear.clone(), CONTEXT, "&key=payments/documents"), "invalid_query"),
        (send(&site, "/v1/stream/re-sign?key=payments/documents", CONTEXT, clear.clone()), "signature_missing"),
    ] {
        assert_eq!(code(request).await, (400, expected.to_owned()));
    }
    // Each key is asked for what is its part.
    let policy = format!("forbid (principal, action == Action::\"re-sign\", resource == Key::\"{old}\");");
    site.world.project_policy().cedar.insert("pol_test/2".to_owned(), policy);
    site.republish();
    let request = send(&site, "/v1/stream/re-sign?key=payments/documents", CONTEXT, clear.clone());
    assert_eq!(code(request.header("freehold-signature", &signature)).await, (403, "forbidden_by_policy".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_released_before_the_whole_is_genuine() {
    let site = site_with("[limits]\nspool = \"3MiB\"").await;
    let large = sealed_file(&site, NonZeroU64::new(2 << 20).unwrap()).await;
    let open = |file: Vec<u8>| send(&site, "/v1/stream/decrypt?release=verified", CONTEXT, file);
    for _ in 0..3 {
        let answer = open(large.clone()).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(answer.bytes().await.unwrap() == plaintext(NonZeroU64::new(2 << 20).unwrap()).await);
    }
    // What would have been an aborted stream is a problem.
    let mut flipped = large.clone();
    flipped[(2 << 20) - 5] ^= 1;
    assert_eq!(code(open(flipped)).await, (400, "not_genuine".to_owned()));
    let chunks_end = large.len() - (large.len() - header_bytes(&large) - 56) % 16_400;
    assert_eq!(code(open(large[..chunks_end].to_vec())).await, (400, "truncated".to_owned()));
    let spool = site.agent().config.data_dir.join("spool");
    assert_eq!(std::fs::read_dir(&spool).unwrap().count(), 0, "files that wait have no names");
    let too_large = sealed_file(&site, NonZeroU64::new(4 << 20).unwrap()).await;
    assert_eq!(code(open(too_large)).await, (507, "spool_full".to_owned()));
    // What was refused takes no room.
    assert_eq!(open(large.clone()).send().await.unwrap().status(), StatusCode::OK);

    let without = site_with("").await;
    let file = sealed_file(&without, SIZE).await;
    assert_eq!(code(send(&without, "/v1/stream/decrypt?release=verified", CONTEXT, file)).await, (400, "spool_off".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_held_to_what_policy_demands() {
    let mut site = site_with("").await;
    let demand = format!("@max_bytes(\"200000\") permit (principal == Caller::\"{CALLER}\", action == Action::\"encrypt\", resource);");
    site.world.project_policy().cedar.insert("pol_test/2".to_owned(), demand);
    site.republish();
    let request = |size: u64| {
        let body = reqwest::Body::wrap_stream(bytes(NonZeroU64::new(size).unwrap()));
        site.post("/v1/stream/encrypt?key=payments/card-data", &site.billing).body(body).send()
    };
    assert!(request(200_000).await.unwrap().bytes().await.is_ok());
    // Its length is not known beforehand: it is broken off, while it is sent or when the answer is read.
    let broken_off = match request(2_000_000).await {
        Ok(answer) => answer.status() == StatusCode::FORBIDDEN || answer.bytes().await.is_err(),
        Err(_) => true,
    };
    assert!(broken_off);
}
