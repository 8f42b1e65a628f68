//! The examples of `docs/policies.md`, decided as an agent decides them.

use std::{collections::BTreeMap, net::IpAddr};

use schema::{
    catalogue::Algorithm,
    clock::Timestamp,
    context::EncryptionContext,
    id::{CallerId, KeyId, KeyVersion, ProjectId},
    key::{KeyReference, VersionState},
};
use trust::statement::policy::CallerKind;

use super::{
    decide::{Ask, Grounds, decide},
    testing::{NOW, SITE, SetBuilder, caller, key},
};

const PAGE: &str = include_str!("../../../docs/policies.md");
const PROJECT: &str = "prj_01kd7zk3w0fz8b9x2m4n6p8q0a";

type Pairs = [(&'static str, &'static str)];

/// Name, id, labels.
const CALLERS: &[(&str, &str, &Pairs)] = &[
    ("billing", "clr_01kd7zk3w0fz8b9x2m4n6p8q0a", &[("team", "billing"), ("customer", "acme")]),
    ("reports", "clr_01kd7zk3w0fz8b9x2m4n6p8q0b", &[("team", "reports")]),
    ("support", "clr_01kd7zk3w0fz8b9x2m4n6p8q0c", &[("team", "support")]),
];
/// Name, id, algorithm, purpose.
const KEYS: &[(&str, &str, &str, &str)] = &[
    ("card-data", "key_01kd7zk3w0fz8b9x2m4n6p8q0a", "A256KW+A256GCM", "encrypt"),
    ("invoices", "key_01kd7zk3w0fz8b9x2m4n6p8q0b", "ML-DSA-65", "sign"),
    ("archive", "key_01kd7zk3w0fz8b9x2m4n6p8q0c", "HPKE-9-KE", "encrypt"),
    ("wrapping", "key_01kd7zk3w0fz8b9x2m4n6p8q0d", "A256KW+A256GCM", "wrap"),
    ("receipts", "key_01kd7zk3w0fz8b9x2m4n6p8q0e", "Ed25519", "sign"),
    ("letters", "key_01kd7zk3w0fz8b9x2m4n6p8q0f", "RSA-OAEP-256-3072", "encrypt"),
];

fn world(cedar: &str) -> SetBuilder {
    let mut set = SetBuilder::new("");
    let project: ProjectId = PROJECT.parse().unwrap();
    let texts: cedar_policy::PolicySet = cedar.parse().unwrap();
    let texts: BTreeMap<String, String> =
        texts.policies().map(|policy| (format!("pol/{}", policy.annotation("id").unwrap()), policy.to_string())).collect();
    let policy = &mut set.policies[0];
    policy.cedar = texts;
    for (name, id, labels) in CALLERS {
        let mut defined = caller(project, name, CallerKind::Token);
        defined.labels = labels.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        policy.callers.insert(id.parse().unwrap(), defined);
    }
    for (name, id, algorithm, purpose) in KEYS {
        let mut defined = key(project, name, &[SITE]);
        (defined.algorithm, defined.purpose) = (algorithm.parse().unwrap(), purpose.parse().unwrap());
        if *name == "card-data" {
            defined.labels = [("team".parse().unwrap(), "billing".parse().unwrap())].into();
        }
        let id: KeyId = id.parse().unwrap();
        policy.keys.insert(id, defined);
        let version = set.state.keys[&super::testing::KEY].versions[&2].clone();
        set.state.keys.insert(id, trust::statement::state::KeyState { primary: 1, versions: [(1, version)].into() });
        set.versions.insert(KeyVersion::new(id, 1), (VersionState::Active, false));
    }
    set
}

/// The answer to one row of a table, as the page words it.
fn answer(set: &SetBuilder, row: &[&str]) -> &'static str {
    let caller: CallerId = CALLERS.iter().find(|caller| caller.0 == row[0]).unwrap().1.parse().unwrap();
    let key: KeyId = KEYS.iter().find(|key| key.0 == row[2]).unwrap().1.parse().unwrap();
    let (mut address, mut size, mut now, mut age_seconds): (IpAddr, _, Timestamp, _) = ("10.0.0.1".parse().unwrap(), None, NOW, 0);
    let mut pairs = BTreeMap::new();
    for (name, value) in row[3].split_whitespace().map(|fact| fact.split_once('=').unwrap()) {
        match name {
            "address" => address = value.parse().unwrap(),
            "size" => size = Some(value.parse().unwrap()),
            "time" => now = value.replace('Z', ".000000Z").parse().unwrap(),
            "statements" => age_seconds = if value == "stale" { 700 } else { 90_000 },
            name => drop(pairs.insert(name.to_owned(), value.to_owned())),
        }
    }
    let mut in_force = set.compile();
    in_force.heartbeat_time = Timestamp::from_micros(now.micros() - age_seconds * 1_000_000);
    let (enabled, context) = (Algorithm::all().collect(), EncryptionContext::new(pairs).unwrap());
    let grounds = Grounds { in_force: Some(&in_force), enabled: &enabled, now };
    let ask = Ask {
        caller,
        operation: row[1].parse().unwrap(),
        context: &context,
        address,
        size,
        recipients: None,
        anew: false,
        masks: true,
        together: false,
    };
    match decide(&grounds, &ask, &KeyReference::Id(key)).map_err(|refused| refused.refusal.code()) {
        Ok(allowed) if allowed.obligations.mask.is_some() => "allowed, masked",
        Ok(_) => "allowed",
        Err("obligation_not_met") => "refused, on a demand",
        Err("forbidden_by_policy" | "not_allowed_by_policy" | "wrong_purpose") => "refused",
        Err(other) => panic!("{row:?}: {other}"),
    }
}

#[test]
fn an_agent_answers_every_row_of_the_page() {
    let mut rows = 0;
    for part in PAGE.split("```cedar\n").skip(1) {
        let (cedar, rest) = part.split_once("```").unwrap();
        let set = world(cedar);
        let table = rest.split("\n### ").next().unwrap().lines();
        for line in table.filter(|line| line.starts_with("| ") && !line.starts_with("| ---") && !line.starts_with("| Caller")) {
            let row: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            assert_eq!(answer(&set, &row), row[4], "{line} under\n{cedar}");
            rows += 1;
        }
    }
    assert!(rows > 40, "{rows}");
}
