//! Keys that come from other programs and leave to them, certificates, and what a transit engine would have sealed.

use std::collections::BTreeMap;

use schema::{
    catalogue::Algorithm,
    encoding::base64url,
    id::KeyId,
    key::{Origin, Purpose, VersionState},
};
use serde_json::{Value, json};
use trust::{
    statement::state::{KeyState, VersionEntry},
    testing::{AGENT, START, World, definition},
};

use crate::{
    messages::payloads,
    peer::{Answer, Peers},
    site::{Key, Site},
    table::{Made, Program, Table, What},
};

const FIRST: u128 = 2000;
const FORMS: [&str; 3] = ["jwk", "pkcs8", "raw"];

/// For each algorithm and each form a key that waits for material.
pub fn define(world: &mut World) {
    for (place, algorithm) in Algorithm::all().enumerate() {
        for (number, form) in (0..).zip(FORMS) {
            let id = KeyId::from_bits(FIRST + 10 * place as u128 + number);
            let mut key = definition();
            (key.name, key.algorithm) = (name(place, form).parse().unwrap(), algorithm);
            (key.purpose, key.origin) = (algorithm.entry().purposes[0], Origin::Imported);
            world.project_policy().keys.insert(id, key);
            let (state, ready) = (VersionState::PreActivation, BTreeMap::new());
            let entry = VersionEntry { state, created: START, activated: None, generator: Some(AGENT), record: None, ready, backup: None };
            world.state.keys.insert(id, KeyState { primary: 0, versions: [(1, entry)].into() });
        }
    }
}

fn name(place: usize, form: &str) -> String {
    format!("brought-{place}-{form}")
}

pub async fn check(site: &Site, peers: &mut Peers, table: &mut Table) {
    for (place, algorithm) in Algorithm::all().enumerate() {
        let key = site.keys.iter().find(|key| key.algorithm == algorithm).unwrap();
        brought(site, peers, table, place, key).await;
        taken(site, peers, table, place, key).await;
    }
    for key in site.keys.iter().filter(|key| key.purpose == Purpose::Sign) {
        certified(site, peers, table, key).await;
    }
    for key in site.keys.iter().filter(|key| matches!(key.algorithm.name(), "A256GCM" | "ChaCha20-Poly1305")) {
        transit(site, peers, key, None).await;
        table.checked(key.algorithm, What::Transit, Program::Cryptography, Made::ByThem);
    }
    for key in site.keys.iter().filter(|key| key.algorithm.name() == "HKDF-SHA-256") {
        transit(site, peers, key, Some(b"row 7")).await;
    }
    let oaep = |key: &&Key| key.algorithm.name().starts_with("RSA-OAEP") && key.purpose == Purpose::Encrypt && key.private.is_some();
    for key in site.keys.iter().filter(oaep) {
        transit(site, peers, key, None).await;
    }
}

/// The agent's own keys, as the program writes and wraps them, come in as what they are.
async fn brought(site: &Site, peers: &mut Peers, table: &mut Table, place: usize, key: &Key) {
    for (number, form) in FORMS.into_iter().enumerate() {
        if form == "raw" && key.jwk["kty"] == "RSA" {
            continue;
        }
        let wrapping = if (place + number).is_multiple_of(2) { "hpke" } else { "rsa-aes-kwp" };
        let target = format!("payments/{}", name(place, form));
        let offered = site.call("/v1/import-key", json!({ "key": target, "wrapping": wrapping })).await;
        let request = json!({ "op": "bring", "offered": offered["jwk"], "key": key.private, "form": form, "wrapping": wrapping });
        let wrapped = match peers.ask(Program::Cryptography, request).await {
            Answer::Done(wrapped) => wrapped,
            Answer::Unknown => continue,
            Answer::Refused(why) => panic!("{} as {form}: {why}", key.algorithm),
        };
        let mut body = json!({ "key": target, "format": form });
        if wrapping == "hpke" {
            body["jwe"] = wrapped["jwe"].clone();
        } else {
            body["wrapped"] = wrapped["wrapped"].clone();
            body["import_key"] = offered["import_key"].clone();
        }
        let imported = site.call("/v1/import", body).await;
        for member in ["x", "y", "n", "e", "pub"] {
            assert_eq!(
                imported["jwk"].get(member),
                key.jwk.get(member).filter(|_| key.algorithm.entry().asymmetric),
                "{} as {form}",
                key.algorithm
            );
        }
        table.checked(key.algorithm, What::ImportedKey, Program::Cryptography, Made::ByThem);
    }
}

/// What leaves opens with the recipient's key and is the key it should be; another key of the same kind does not open it.
async fn taken(site: &Site, peers: &mut Peers, table: &mut Table, place: usize, key: &Key) {
    let seals = |key: &&Key| key.purpose == Purpose::Encrypt && key.algorithm.entry().asymmetric && key.private.is_some();
    let recipients: Vec<&Key> = site.keys.iter().filter(seals).collect();
    for (number, form) in FORMS.into_iter().enumerate() {
        let recipient = recipients[(place * FORMS.len() + number) % recipients.len()];
        let mut body = json!({ "key": key.name, "format": form, "jwk": recipient.jwk });
        if recipient.jwk["kty"] == "RSA" && number > 0 {
            body["wrapping"] = "rsa-aes-kwp".into();
        }
        let (status, exported) = site.attempt("/v1/export", body).await;
        if status != 200 {
            assert_eq!(exported["code"], "unfit_material", "{} as {form}: {exported}", key.algorithm);
            continue;
        }
        let mut request = json!({ "op": "taken", "key": key.private, "recipient": recipient.private, "form": form });
        for way in ["jwe", "wrapped"] {
            if let Some(bytes) = exported.get(way) {
                request[way] = bytes.clone();
            }
        }
        match peers.ask(Program::Cryptography, request.clone()).await {
            Answer::Done(answer) => assert_eq!(answer["same"], true, "{} as {form} to {}", key.algorithm, recipient.algorithm),
            Answer::Unknown => continue,
            Answer::Refused(why) => panic!("{} as {form} to {}: {why}", key.algorithm, recipient.algorithm),
        }
        table.checked(key.algorithm, What::ExportedKey, Program::Cryptography, Made::ByUs);
    }
}

/// Requests and certificates, judged by the program.
async fn certified(site: &Site, peers: &mut Peers, table: &mut Table, key: &Key) {
    for (kind, what) in [("request", What::CertificateRequest), ("self-signed", What::Certificate)] {
        let dns = json!(["pay.example", "*.pay.example"]);
        let body = json!({ "key": key.name, "kind": kind, "subject": "CN=pay.example,O=Example", "dns": dns });
        let made = site.call("/v1/certify", body).await;
        let ask = |pem: &Value| json!({ "op": "certified", "kind": kind, "pem": pem, "key": key.jwk });
        match peers.ask(Program::Cryptography, ask(&made["pem"])).await {
            Answer::Done(read) => {
                assert_eq!((&read["subject"], &read["dns"]), (&json!("CN=pay.example,O=Example"), &dns), "{}", key.algorithm);
                let mut der = schema::encoding::from_base64url(made["der"].as_str().unwrap()).unwrap();
                *der.last_mut().unwrap() ^= 1;
                let label = if kind == "request" { "CERTIFICATE REQUEST" } else { "CERTIFICATE" };
                let body = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, der);
                let changed = json!(format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"));
                let answer = peers.ask(Program::Cryptography, ask(&changed)).await;
                assert!(matches!(answer, Answer::Refused(_)), "{}: a changed signature was taken", key.algorithm);
                table.checked(key.algorithm, what, Program::Cryptography, Made::ByUs);
            }
            Answer::Unknown => table.unknown(key.algorithm, what, Program::Cryptography, Made::ByUs),
            Answer::Refused(why) => panic!("{} {kind}: {why}", key.algorithm),
        }
    }
}

/// What the program seals as a transit engine would.
async fn transit(site: &Site, peers: &mut Peers, key: &Key, derivation: Option<&[u8]>) {
    let rsa = key.algorithm.entry().jose_kty == "RSA";
    for plaintext in payloads().into_iter().filter(|plaintext| !rsa || plaintext.len() < 300) {
        for associated in [&b""[..], b"row 7"] {
            if rsa && !associated.is_empty() {
                continue;
            }
            let mut request = json!({
                "op": "transit", "key": key.private, "algorithm": key.algorithm.name(), "version": key.version.number,
                "plaintext": base64url(&plaintext), "associated": base64url(associated),
            });
            if let Some(derivation) = derivation {
                request["derivation"] = json!(base64url(derivation));
            }
            let Answer::Done(sealed) = peers.ask(Program::Cryptography, request).await else { panic!("{}: nothing sealed", key.algorithm) };
            let mut body = json!({ "ciphertext": sealed["ciphertext"], "key": key.name, "associated_data": base64url(associated) });
            if let Some(derivation) = derivation {
                body["derivation_context"] = json!(base64url(derivation));
            }
            assert_eq!(site.call("/v1/transit/open", body).await["plaintext"], base64url(&plaintext), "{}", key.algorithm);
        }
    }
}
