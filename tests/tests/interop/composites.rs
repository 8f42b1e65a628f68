//! Signatures of composites: two in one General JSON message, each of which others verify with the key they know; and such
//! messages of others.

use schema::{
    catalogue::{Algorithm, Family},
    encoding::base64url,
    id::{CompositeId, KeyId},
    key::Purpose,
};
use serde_json::{Value, json};
use trust::{
    statement::policy::{COMPOSITE_KEYS, CompositeDefinition},
    testing::{PROJECT, World},
};

use crate::{
    messages::{context, payloads},
    peer::{Answer, Peers},
    site::{Key, Site},
    table::{Made, Program, Table, What},
};

/// Every classical algorithm beside one of ML-DSA, and Ed25519 beside those of SLH-DSA.
const PAIRS: [(&str, &str); 8] = [
    ("RSA-PSS-3072", "ML-DSA-44"),
    ("RSA-PSS-4096", "ML-DSA-65"),
    ("ECDSA-P256", "ML-DSA-87"),
    ("ECDSA-P384", "ML-DSA-44"),
    ("Ed25519", "ML-DSA-65"),
    ("Ed25519", "SLH-DSA-SHA2-128s"),
    ("Ed25519", "SLH-DSA-SHA2-192s"),
    ("Ed25519", "SLH-DSA-SHA2-256s"),
];

/// Writes a composite of each pair into policy; `key` finds the key that signs with an algorithm.
pub fn define(world: &mut World, key: impl Fn(Algorithm) -> KeyId) {
    let policy = world.project_policy();
    policy.head.requires.push(COMPOSITE_KEYS.to_owned());
    for (number, (classical, post_quantum)) in PAIRS.iter().enumerate() {
        let composite = CompositeDefinition {
            name: format!("pair-{number}").parse().unwrap(),
            project: PROJECT,
            classical: key(classical.parse().unwrap()),
            post_quantum: key(post_quantum.parse().unwrap()),
            encryption: None,
            rule: schema::composite::VerificationRule::All,
        };
        policy.composites.insert(CompositeId::from_bits(900 + number as u128), composite);
    }
}

pub async fn check(site: &Site, peers: &mut Peers, table: &mut Table) {
    for (number, (classical, post_quantum)) in PAIRS.iter().enumerate() {
        let find =
            |algorithm: &str| site.keys.iter().find(|key| key.algorithm.name() == algorithm && key.purpose == Purpose::Sign).unwrap();
        let pair = Pair { name: format!("payments/pair-{number}"), keys: [find(classical), find(post_quantum)] };
        ours(site, peers, &pair, table).await;
        let programs: &[Program] = match pair.keys[1].algorithm.entry().family {
            Family::SlhDsa => &[Program::Node],
            _ => &[Program::Cryptography, Program::Jwcrypto, Program::Jose],
        };
        theirs(site, peers, &pair, programs, table).await;
    }
}

struct Pair<'a> {
    name: String,
    /// The classical one, then the post-quantum one.
    keys: [&'a Key; 2],
}

async fn ours(site: &Site, peers: &mut Peers, pair: &Pair<'_>, table: &mut Table) {
    for detached in [false, true] {
        let payload = base64url(&payloads()[1]);
        let body = json!({ "key": pair.name, "payload": payload, "context": context(), "detached": detached });
        let signature = site.call("/v1/sign", body).await["signature"].as_str().unwrap().to_owned();
        let message: Value = serde_json::from_str(&signature).unwrap();
        for (place, key) in pair.keys.iter().enumerate() {
            let mut programs = vec![Program::Cryptography, Program::Jwcrypto, Program::Jose];
            if matches!(key.algorithm.entry().family, Family::MlDsa | Family::SlhDsa) {
                programs.push(Program::Noble);
            }
            if key.algorithm.entry().family == Family::SlhDsa {
                programs.push(Program::Node);
            }
            for program in programs {
                let request = |message: &Value| {
                    let mut request = json!({ "op": "verify", "key": key.jwk, "signature": message.to_string(), "context": context() });
                    if detached {
                        request["payload"] = payload.clone().into();
                    }
                    request
                };
                let what = What::CompositeSignature;
                match peers.ask(program, request(&message)).await {
                    Answer::Done(verified) => assert_eq!(verified["payload"], payload, "{} {program:?}", key.algorithm),
                    Answer::Unknown => {
                        table.unknown(key.algorithm, what, program, Made::ByUs);
                        continue;
                    }
                    Answer::Refused(why) => panic!("{} {program:?} detached {detached}: {why}", key.algorithm),
                }
                // The signature of the other key does not stand in for it.
                let answer = peers.ask(program, request(&changed(&message, place))).await;
                assert!(
                    matches!(answer, Answer::Refused(_)),
                    "{} {program:?}: a changed signature was accepted: {answer:?}",
                    key.algorithm
                );
                table.checked(key.algorithm, what, program, Made::ByUs);
            }
        }
    }
}

async fn theirs(site: &Site, peers: &mut Peers, pair: &Pair<'_>, programs: &[Program], table: &mut Table) {
    for program in programs.iter().copied() {
        let context = if program == Program::Cryptography { context() } else { json!({}) };
        let payload = base64url(&payloads()[1]);
        let request = json!({ "op": "sign_together", "keys": pair.keys.map(|key| &key.private), "payload": payload, "context": context });
        let what = What::CompositeSignature;
        let signature = match peers.ask(program, request).await {
            Answer::Done(signed) => signed["signature"].as_str().unwrap().to_owned(),
            Answer::Unknown => {
                pair.keys.iter().for_each(|key| table.unknown(key.algorithm, what, program, Made::ByThem));
                continue;
            }
            Answer::Refused(why) => panic!("{} {program:?}: {why}", pair.name),
        };
        let message: Value = serde_json::from_str(&signature).unwrap();
        let verify = async |message: &Value| {
            site.call("/v1/verify", json!({ "signature": message.to_string(), "key": pair.name, "context": context })).await
        };
        let verified = verify(&message).await;
        assert_eq!((&verified["valid"], &verified["payload"]), (&json!(true), &json!(payload)), "{} {program:?}: {verified}", pair.name);
        for (place, key) in pair.keys.iter().enumerate() {
            assert_eq!(verify(&changed(&message, place)).await["reason"], "not_genuine", "{} {program:?}", key.algorithm);
            let mut stripped = message.clone();
            stripped["signatures"].as_array_mut().unwrap().remove(place);
            assert_eq!(verify(&stripped).await["reason"], "signature_missing", "{} {program:?}", key.algorithm);
            table.checked(key.algorithm, what, program, Made::ByThem);
        }
    }
}

/// The message with one bit of one signature changed.
fn changed(message: &Value, place: usize) -> Value {
    let mut changed = message.clone();
    let signature = &mut changed["signatures"][place]["signature"];
    let text = signature.as_str().unwrap();
    let first = if text.starts_with('A') { "B" } else { "A" };
    *signature = json!(format!("{first}{}", &text[1..]));
    changed
}
