//! Sealed messages and data keys.

use schema::{
    catalogue::Family,
    encoding::{base64url, from_base64url},
};
use serde_json::{Value, json};

use crate::{
    peer::{Answer, Peers},
    site::{Key, Site},
    table::{Made, Program, Table, What},
};

/// Nothing, and bytes that are not text.
pub fn payloads() -> [Vec<u8>; 2] {
    [Vec::new(), (0..1000u32).map(|place| (place * 37 % 256) as u8).collect()]
}

/// What goes to a program and comes from it: `jwcrypto` takes an empty plaintext for one that was not found.
fn plaintexts(program: Program) -> impl Iterator<Item = Vec<u8>> {
    payloads().into_iter().filter(move |plaintext| program != Program::Jwcrypto || !plaintext.is_empty())
}

/// The context of what we make.
pub fn context() -> Value {
    json!({ "app": "interop", "town": "Zürich" })
}

fn enc(key: &Key) -> Option<&'static str> {
    key.algorithm.entry().jose_enc
}

fn programs(key: &Key) -> Vec<Program> {
    let mut programs = vec![Program::Cryptography, Program::Jwcrypto, Program::Jose];
    if key.algorithm.entry().family == Family::Hpke {
        programs.push(Program::Hpke);
    }
    programs
}

pub async fn check(site: &Site, peers: &mut Peers, key: &Key, table: &mut Table) {
    for program in programs(key) {
        ours(site, peers, key, program, table).await;
        data_key(site, peers, key, program, table).await;
        theirs(site, peers, key, program, table).await;
    }
}

async fn ours(site: &Site, peers: &mut Peers, key: &Key, program: Program, table: &mut Table) {
    let name = key.algorithm;
    for plaintext in plaintexts(program) {
        for format in ["compact", "json"] {
            let body = json!({ "key": key.name, "plaintext": base64url(&plaintext), "context": context(), "format": format });
            let message = site.call("/v1/encrypt", body).await["message"].as_str().unwrap().to_owned();
            let request =
                |message: &str| json!({ "op": "open", "key": key.private, "enc": enc(key), "message": message, "context": context() });
            match peers.ask(program, request(&message)).await {
                Answer::Done(opened) => assert_eq!(opened["plaintext"], base64url(&plaintext), "{name} {program:?} {format}"),
                Answer::Unknown => return table.unknown(name, What::Message, program, Made::ByUs),
                Answer::Refused(why) => panic!("{name} {program:?} {format}: {why}"),
            }
            if format == "compact" {
                let answer = peers.ask(program, request(&changed(&message, last(&message)))).await;
                assert!(matches!(answer, Answer::Refused(_)), "{name} {program:?}: a changed message was opened: {answer:?}");
            }
        }
    }
    table.checked(name, What::Message, program, Made::ByUs);
}

async fn data_key(site: &Site, peers: &mut Peers, key: &Key, program: Program, table: &mut Table) {
    let made = site.call("/v1/generate-data-key", json!({ "key": key.name, "context": context() })).await;
    let request = json!({ "op": "open", "key": key.private, "enc": enc(key), "message": made["message"], "context": context() });
    match peers.ask(program, request).await {
        Answer::Done(opened) => assert_eq!(opened["plaintext"], made["plaintext"], "{} {program:?}", key.algorithm),
        Answer::Unknown => return table.unknown(key.algorithm, What::DataKey, program, Made::ByUs),
        Answer::Refused(why) => panic!("{} {program:?}: {why}", key.algorithm),
    }
    table.checked(key.algorithm, What::DataKey, program, Made::ByUs);
}

async fn theirs(site: &Site, peers: &mut Peers, key: &Key, program: Program, table: &mut Table) {
    let name = key.algorithm;
    // Of the libraries only our own script writes contexts.
    let context = if program == Program::Cryptography { context() } else { json!({}) };
    for plaintext in plaintexts(program) {
        for form in ["compact", "flattened", "general"] {
            let text = base64url(&plaintext);
            let request = json!({ "op": "seal", "key": key.jwk, "enc": enc(key), "plaintext": text, "form": form, "context": context });
            let message = match peers.ask(program, request).await {
                Answer::Done(sealed) => sealed["message"].as_str().unwrap().to_owned(),
                Answer::Unknown => return table.unknown(name, What::Message, program, Made::ByThem),
                Answer::Refused(why) => panic!("{name} {program:?} {form}: {why}"),
            };
            let opened = site.call("/v1/decrypt", json!({ "message": message, "context": context })).await;
            assert_eq!(from_base64url(opened["plaintext"].as_str().unwrap()).unwrap(), plaintext, "{name} {program:?} {form}");
            if form == "compact" {
                let body = json!({ "message": changed(&message, last(&message)), "context": context });
                let (_, problem) = site.attempt("/v1/decrypt", body).await;
                assert_eq!(problem["code"], "not_genuine", "{name} {program:?}: {problem}");
            }
        }
    }
    table.checked(name, What::Message, program, Made::ByThem);
}

/// The last part of a compact message that is not empty: the tag, or the ciphertext that ends with it.
fn last(message: &str) -> usize {
    message.split('.').enumerate().filter(|(_, part)| !part.is_empty()).last().unwrap().0
}

/// The same compact text with another first character in one of its parts.
pub fn changed(text: &str, part: usize) -> String {
    let mut parts: Vec<String> = text.split('.').map(str::to_owned).collect();
    let first = if parts[part].starts_with('A') { "B" } else { "A" };
    parts[part].replace_range(..1, first);
    parts.join(".")
}
