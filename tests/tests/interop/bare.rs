//! What is made of bare bytes: tags, signatures over digests, wrapped keys, agreed and encapsulated secrets, derived keys.

use schema::{encoding::base64url, key::Purpose};
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::{
    messages::payloads,
    peer::{Answer, Peers},
    site::{Key, Site},
    table::{Made, Program, Table, What},
};

/// Tags under a shared key.
pub async fn mac(site: &Site, peers: &mut Peers, key: &Key, table: &mut Table) {
    for payload in payloads().map(|payload| base64url(&payload)) {
        let made = site.call("/v1/mac", json!({ "key": key.name, "payload": payload })).await;
        let expected = must(peers, key, json!({ "op": "mac", "key": key.private, "payload": payload })).await;
        assert_eq!(made["tag"], expected["tag"], "{}", key.algorithm);
        let check = |tag: &Value| json!({ "key": key.name, "payload": payload, "tag": tag });
        assert_eq!(site.call("/v1/verify-mac", check(&expected["tag"])).await["valid"], true);
        assert_eq!(site.call("/v1/verify-mac", check(&changed(&expected["tag"]))).await["valid"], false);
    }
    both(table, key, What::Mac);
}

/// Signatures over ready digests.
pub async fn digests(site: &Site, peers: &mut Peers, key: &Key, table: &mut Table) {
    let message = &payloads()[1];
    let digest = match key.algorithm.entry().digest_bytes {
        Some(32) => base64url(&sha2::Sha256::digest(message)),
        Some(48) => base64url(&sha2::Sha384::digest(message)),
        // The external mu of ML-DSA is as long.
        _ => base64url(&sha2::Sha512::digest(message)),
    };
    let made = site.call("/v1/sign-digest", json!({ "key": key.name, "digest": digest })).await;
    let verify = |signature: &Value| json!({ "op": "verify_digest", "key": key.jwk, "digest": digest, "signature": signature });
    must(peers, key, verify(&made["signature"])).await;
    let answer = peers.ask(Program::Cryptography, verify(&changed(&made["signature"]))).await;
    assert!(matches!(answer, Answer::Refused(_)), "{}: a changed signature was accepted: {answer:?}", key.algorithm);
    let signed = must(peers, key, json!({ "op": "sign_digest", "key": key.private, "digest": digest })).await;
    let check = |signature: &Value| json!({ "key": key.name, "digest": digest, "signature": signature });
    assert_eq!(site.call("/v1/verify-digest", check(&signed["signature"])).await["valid"], true, "{}", key.algorithm);
    assert_eq!(site.call("/v1/verify-digest", check(&changed(&signed["signature"]))).await["valid"], false);
    both(table, key, What::DigestSignature);
}

/// Bare keys of two sizes.
pub async fn wrapping(site: &Site, peers: &mut Peers, key: &Key, table: &mut Table) {
    for plaintext in [[9; 32].as_slice(), &[7; 64]].map(base64url) {
        let made = site.call("/v1/wrap", json!({ "key": key.name, "plaintext": plaintext })).await;
        let opened = must(peers, key, json!({ "op": "unwrap", "key": key.private, "wrapped": made["wrapped"] })).await;
        assert_eq!(opened["plaintext"], plaintext, "{}", key.algorithm);
        let wrapped = must(peers, key, json!({ "op": "wrap", "key": key.jwk, "plaintext": plaintext })).await;
        let unwrap = |wrapped: &Value| json!({ "key": key.name, "wrapped": wrapped });
        assert_eq!(site.call("/v1/unwrap", unwrap(&wrapped["wrapped"])).await["plaintext"], plaintext, "{}", key.algorithm);
        let (_, problem) = site.attempt("/v1/unwrap", unwrap(&changed(&wrapped["wrapped"]))).await;
        assert_eq!(problem["code"], "not_genuine", "{}: {problem}", key.algorithm);
    }
    both(table, key, What::WrappedKey);
}

/// Secrets agreed on, or encapsulated.
pub async fn secrets(site: &Site, peers: &mut Peers, key: &Key, table: &mut Table) {
    if key.algorithm.does(Purpose::Agree, schema::key::Operation::Encapsulate) && key.jwk["kty"] == "AKP" {
        for program in [Program::Cryptography, Program::Noble] {
            let made = site.call("/v1/encapsulate", json!({ "key": key.name })).await;
            let taken = peers.ask(program, json!({ "op": "decapsulate", "key": key.private, "ciphertext": made["ciphertext"] })).await;
            assert_eq!(done(key, taken)["secret"], made["secret"], "{} {program:?}", key.algorithm);
            table.checked(key.algorithm, What::Secret, program, Made::ByUs);
            let made = done(key, peers.ask(program, json!({ "op": "encapsulate", "key": key.jwk })).await);
            let taken = site.call("/v1/decapsulate", json!({ "key": key.name, "ciphertext": made["ciphertext"] })).await;
            assert_eq!(made["secret"], taken["secret"], "{} {program:?}", key.algorithm);
            table.checked(key.algorithm, What::Secret, program, Made::ByThem);
        }
        return;
    }
    let theirs = must(peers, key, json!({ "op": "agree", "key": key.jwk })).await;
    let agreed = site.call("/v1/agree", json!({ "key": key.name, "public_key": theirs["public_key"] })).await;
    assert_eq!(agreed["secret"], theirs["secret"], "{}", key.algorithm);
    both(table, key, What::Secret);
}

/// Derived keys.
pub async fn deriving(site: &Site, peers: &mut Peers, key: &Key, table: &mut Table) {
    for bytes in [1, 32, 100] {
        let body = json!({ "key": key.name, "salt": base64url(b"salt"), "info": base64url(b"what for"), "bytes": bytes });
        let derived = site.call("/v1/derive", body.clone()).await;
        let mut request = body;
        (request["op"], request["key"], request["algorithm"]) = ("derive".into(), key.private.clone().into(), key.algorithm.name().into());
        assert_eq!(derived["derived"], must(peers, key, request).await["derived"], "{} {bytes}", key.algorithm);
    }
    table.checked(key.algorithm, What::DerivedKey, Program::Cryptography, Made::ByUs);
}

async fn must(peers: &mut Peers, key: &Key, request: Value) -> Value {
    done(key, peers.ask(Program::Cryptography, request).await)
}

fn done(key: &Key, answer: Answer) -> Value {
    match answer {
        Answer::Done(answer) => answer,
        other => panic!("{}: {other:?}", key.algorithm),
    }
}

fn both(table: &mut Table, key: &Key, what: What) {
    table.checked(key.algorithm, what, Program::Cryptography, Made::ByUs);
    table.checked(key.algorithm, what, Program::Cryptography, Made::ByThem);
}

/// The same base64url with another first character.
fn changed(text: &Value) -> Value {
    let text = text.as_str().unwrap();
    let first = if text.starts_with('A') { "B" } else { "A" };
    format!("{first}{}", &text[1..]).into()
}
