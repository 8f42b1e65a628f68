//! Signatures, attached and detached.

use schema::{catalogue::Family, encoding::base64url};
use serde_json::json;

use crate::{
    messages::{changed, context, payloads},
    peer::{Answer, Peers},
    site::{Key, Site},
    table::{Made, Program, Table, What},
};

/// The public key in PEM is the one in the JWK.
pub async fn public_key(peers: &mut Peers, key: &Key, table: &mut Table) {
    let Some(pem) = &key.pem else { return };
    let others = (key.algorithm.entry().family == Family::SlhDsa).then_some(Program::Node);
    for program in [Program::Cryptography].into_iter().chain(others) {
        match peers.ask(program, json!({ "op": "same_public_key", "key": key.jwk, "pem": pem })).await {
            Answer::Done(answer) => {
                assert_eq!(answer["same"], true, "{}", key.algorithm);
                table.checked(key.algorithm, What::PublicKey, program, Made::ByUs);
            }
            Answer::Unknown => table.unknown(key.algorithm, What::PublicKey, program, Made::ByUs),
            Answer::Refused(why) => panic!("{}: {why}", key.algorithm),
        }
    }
}

pub async fn check(site: &Site, peers: &mut Peers, key: &Key, table: &mut Table) {
    let mut programs = vec![Program::Cryptography, Program::Jwcrypto, Program::Jose];
    if matches!(key.algorithm.entry().family, Family::MlDsa | Family::SlhDsa) {
        programs.push(Program::Noble);
    }
    if key.algorithm.entry().family == Family::SlhDsa {
        programs.push(Program::Node);
    }
    for program in programs {
        for what in [What::Signature, What::DetachedSignature] {
            ours(site, peers, key, (program, what), table).await;
            theirs(site, peers, key, (program, what), table).await;
        }
    }
}

/// Whether a signature takes a second or, with `noble`, many: there is one of each kind then, and `noble` makes none.
fn is_slow(key: &Key) -> bool {
    key.algorithm.entry().family == Family::SlhDsa
}

async fn ours(site: &Site, peers: &mut Peers, key: &Key, (program, what): (Program, What), table: &mut Table) {
    let (name, detached) = (key.algorithm, what == What::DetachedSignature);
    for payload in payloads().iter().filter(|payload| !is_slow(key) || !payload.is_empty()).map(|payload| base64url(payload)) {
        for format in if detached || is_slow(key) { ["compact"].as_slice() } else { &["compact", "json"] } {
            let body = json!({ "key": key.name, "payload": payload, "context": context(), "detached": detached, "format": format });
            let signature = site.call("/v1/sign", body).await["signature"].as_str().unwrap().to_owned();
            let request = |signature: &str| {
                let mut request = json!({ "op": "verify", "key": key.jwk, "signature": signature, "context": context() });
                if detached {
                    request["payload"] = payload.clone().into();
                }
                request
            };
            match peers.ask(program, request(&signature)).await {
                Answer::Done(verified) => assert_eq!(verified["payload"], payload, "{name} {program:?} {format}"),
                Answer::Unknown => return table.unknown(name, what, program, Made::ByUs),
                Answer::Refused(why) => panic!("{name} {program:?} {format}: {why}"),
            }
            if *format == "compact" {
                let answer = peers.ask(program, request(&changed(&signature, 2))).await;
                assert!(matches!(answer, Answer::Refused(_)), "{name} {program:?}: a changed signature was accepted: {answer:?}");
            }
        }
    }
    table.checked(name, what, program, Made::ByUs);
}

async fn theirs(site: &Site, peers: &mut Peers, key: &Key, (program, what): (Program, What), table: &mut Table) {
    if is_slow(key) && program == Program::Noble {
        return;
    }
    let (name, detached) = (key.algorithm, what == What::DetachedSignature);
    let context = if program == Program::Cryptography { context() } else { json!({}) };
    for payload in payloads().iter().filter(|payload| !is_slow(key) || !payload.is_empty()).map(|payload| base64url(payload)) {
        let forms = match (detached, is_slow(key)) {
            (true, _) => ["detached"].as_slice(),
            (false, true) => &["compact"],
            (false, false) => &["compact", "flattened", "general"],
        };
        for form in forms {
            let request = json!({ "op": "sign", "key": key.private, "payload": payload, "form": form, "context": context });
            let signature = match peers.ask(program, request).await {
                Answer::Done(signed) => signed["signature"].as_str().unwrap().to_owned(),
                Answer::Unknown => return table.unknown(name, what, program, Made::ByThem),
                Answer::Refused(why) => panic!("{name} {program:?} {form}: {why}"),
            };
            let body = |signature: &str| {
                let mut body = json!({ "signature": signature, "context": context });
                if detached {
                    body["payload"] = payload.clone().into();
                }
                body
            };
            let verified = site.call("/v1/verify", body(&signature)).await;
            assert_eq!(verified["valid"], true, "{name} {program:?} {form}: {verified}");
            if !detached {
                assert_eq!(verified["payload"], payload);
            }
            if matches!(*form, "compact" | "detached") {
                let verified = site.call("/v1/verify", body(&changed(&signature, 2))).await;
                assert_eq!(verified["reason"], "not_genuine", "{name} {program:?} {form}: {verified}");
            }
        }
    }
    table.checked(name, what, program, Made::ByThem);
}
