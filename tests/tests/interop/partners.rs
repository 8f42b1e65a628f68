//! Keys of partners: made by another program, known to the agent by their public half alone, and sealed to.

use std::collections::BTreeMap;

use schema::{
    catalogue::Algorithm,
    encoding::{base64url, from_base64url},
    id::KeyId,
    key::{Durability, Origin, Purpose, VersionState},
};
use serde_json::{Value, json};
use trust::{
    statement::{
        policy::{EXTERNAL_KEYS, ExternalVersion},
        state::{KeyState, VersionEntry},
    },
    testing::{START, World, definition},
};

use crate::{
    messages::{changed, context, payloads},
    peer::{Answer, Peers},
    site::Site,
    table::{Made, Program, Table, What},
};

/// What npm `hpke` makes keys of.
const ALGORITHMS: [&str; 4] = ["HPKE-4-KE", "HPKE-4", "HPKE-9-KE", "HPKE-9"];

/// A key whose private half only the partner has.
pub struct Partner {
    algorithm: Algorithm,
    name: String,
    /// As the partner's program keeps it.
    private: Value,
}

/// Has the program make a key of each algorithm, and writes their public halves into policy.
pub async fn define(peers: &mut Peers, world: &mut World) -> Vec<Partner> {
    world.project_policy().head.requires.push(EXTERNAL_KEYS.to_owned());
    let mut partners = Vec::new();
    for (number, name) in (800..).zip(ALGORITHMS) {
        let made = peers.javascript.must(json!({ "op": "generate", "alg": name })).await;
        let (algorithm, public_key): (Algorithm, _) = (name.parse().unwrap(), from_base64url(made["pub"].as_str().unwrap()).unwrap());
        let mut key = definition();
        (key.name, key.algorithm, key.purpose) = (format!("partner-{number}").parse().unwrap(), algorithm, Purpose::Encrypt);
        (key.durability, key.origin) = (Durability::Elsewhere, Origin::External);
        let fingerprint = schema::key::fingerprint(algorithm, &public_key);
        key.external = vec![ExternalVersion { public_key: public_key.into(), fingerprint }];
        world.project_policy().keys.insert(KeyId::from_bits(number), key);
        let (state, created, ready) = (VersionState::Active, START, BTreeMap::new());
        let entry = VersionEntry { state, created, activated: Some(START), generator: None, record: None, ready, backup: None };
        world.state.keys.insert(KeyId::from_bits(number), KeyState { primary: 1, versions: [(1, entry)].into() });
        partners.push(Partner {
            algorithm,
            name: format!("payments/partner-{number}"),
            private: json!({ "alg": name, "priv": made["priv"] }),
        });
    }
    partners
}

/// What the agent seals to a partner the partner opens, and the agent does not.
pub async fn check(site: &Site, peers: &mut Peers, table: &mut Table) {
    let program = Program::Hpke;
    for Partner { algorithm, name, private } in &site.partners {
        for plaintext in payloads() {
            for format in ["compact", "json"] {
                let body = json!({ "key": name, "plaintext": base64url(&plaintext), "context": context(), "format": format });
                let message = site.call("/v1/encrypt", body).await["message"].as_str().unwrap().to_owned();
                let open = |message: &str| json!({ "op": "open", "key": private, "message": message });
                match peers.ask(program, open(&message)).await {
                    Answer::Done(opened) => assert_eq!(opened["plaintext"], base64url(&plaintext), "{algorithm} {format}"),
                    other => panic!("{algorithm} {format}: {other:?}"),
                }
                if format == "compact" {
                    let answer = peers.ask(program, open(&changed(&message, 1))).await;
                    assert!(matches!(answer, Answer::Refused(_)), "{algorithm}: a changed message was opened: {answer:?}");
                }
                let (_, problem) = site.attempt("/v1/decrypt", json!({ "message": message, "context": context() })).await;
                assert_eq!(problem["code"], "external_key", "{algorithm}: {problem}");
            }
        }
        table.checked(*algorithm, What::PartnersMessage, program, Made::ByUs);
    }
}
