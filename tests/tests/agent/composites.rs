//! Composites: one name for two keys that sign, the rule their signatures are judged by, and every way to get around it.

use ed25519_dalek::{Signer as _, SigningKey};
use schema::{
    composite::VerificationRule,
    id::{CompositeId, KeyId},
    key::{Durability, Origin, Purpose, VersionState},
};
use serde_json::{Value, json};
use trust::statement::{
    policy::{COMPOSITE_KEYS, CompositeDefinition, EXTERNAL_KEYS, ExternalVersion},
    state::VersionEntry,
};

use super::super::*;

const COMPOSITE: CompositeId = CompositeId::from_bits(90);
const CLASSICAL: KeyId = KeyId::from_bits(91);
const POST_QUANTUM: KeyId = KeyId::from_bits(92);
const SEALED: KeyId = KeyId::from_bits(93);
const CONTRACTS: &str = "payments/contracts";

/// A site with the composite `payments/contracts`: Ed25519, ML-DSA-65, HPKE-9-KE.
async fn site_with(rule: VerificationRule) -> Site {
    let mut site = Site::start().await;
    compose_contracts(&mut site, rule).await;
    site
}

/// Adds it to a site, and puts it in force.
pub(super) async fn compose_contracts(site: &mut Site, rule: VerificationRule) {
    site.define(CLASSICAL, "contracts-classical", "Ed25519", Purpose::Sign).await;
    site.define(POST_QUANTUM, "contracts-post-quantum", "ML-DSA-65", Purpose::Sign).await;
    site.define(SEALED, "contracts-sealed", "HPKE-9-KE", Purpose::Encrypt).await;
    compose(site, COMPOSITE, "contracts", rule);
    site.republish();
}

fn compose(site: &mut Site, id: CompositeId, name: &str, rule: VerificationRule) {
    let policy = site.world.project_policy();
    if policy.composites.is_empty() {
        policy.head.requires.push(COMPOSITE_KEYS.to_owned());
    }
    let name = name.parse().unwrap();
    let composite =
        CompositeDefinition { name, project: PROJECT, classical: CLASSICAL, post_quantum: POST_QUANTUM, encryption: Some(SEALED), rule };
    policy.composites.insert(id, composite);
}

fn set_rule(site: &mut Site, rule: VerificationRule) {
    site.world.project_policy().composites.get_mut(&COMPOSITE).unwrap().rule = rule;
    site.republish();
}

async fn sign(site: &Site, key: &str, payload: &[u8]) -> Value {
    let (status, answer) = site.call("/v1/sign", &site.billing, json!({ "key": key, "payload": base64url(payload) })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

/// A composite's signature of `a contract`, as JSON.
async fn signed(site: &Site) -> Value {
    serde_json::from_str(sign(site, CONTRACTS, b"a contract").await["signature"].as_str().unwrap()).unwrap()
}

async fn verify(site: &Site, message: &Value, key: Option<&str>) -> (u16, Value) {
    let mut body = json!({ "signature": message.to_string() });
    if let Some(key) = key {
        body["key"] = json!(key);
    }
    let (status, answer) = site.call("/v1/verify", &site.auditor, body).await;
    (status.as_u16(), answer)
}

/// The message with its signatures in this order; `0` is the classical one, `1` the post-quantum one.
fn with(message: &Value, places: &[usize]) -> Value {
    let signatures: Vec<_> = places.iter().map(|place| message["signatures"][*place].clone()).collect();
    json!({ "payload": message["payload"], "signatures": signatures })
}

/// Under each rule, in the order of [`VerificationRule::ALL`]: `all`, `any`, `classical-required`, `pq-required`.
#[track_caller]
fn judged(found: &[(VerificationRule, Value)], expected: [bool; 4], reason: &str, what: &str) {
    for ((rule, answer), expected) in found.iter().zip(expected) {
        assert_eq!(answer["valid"], expected, "{what} under {rule}: {answer}");
        assert_eq!(answer["reason"], if expected { Value::Null } else { json!(reason) }, "{what} under {rule}: {answer}");
        assert_eq!(answer["payload"].is_string(), expected, "{what} under {rule}: {answer}");
        assert_eq!(answer["composite"]["rule"], rule.as_str(), "{what}: {answer}");
    }
}

/// What the agent says of each message under each rule, named and not named.
async fn under_every_rule(site: &mut Site, messages: &[Value]) -> Vec<Vec<(VerificationRule, Value)>> {
    let mut found = vec![Vec::new(); messages.len()];
    for rule in VerificationRule::ALL {
        set_rule(site, *rule);
        for (message, found) in messages.iter().zip(&mut found) {
            let (status, answer) = verify(site, message, Some(CONTRACTS)).await;
            assert_eq!(status, 200, "{answer}");
            // Naming nothing is no way around the rule.
            let (_, unnamed) = verify(site, message, None).await;
            assert_eq!(
                (&unnamed["valid"], &unnamed["composite"]),
                (&answer["valid"], &without_names(&answer, &unnamed)),
                "{rule}: {unnamed}"
            );
            found.push((*rule, answer));
        }
    }
    found
}

/// The verdict of one answer in the words of another: they differ in what the composite was called.
fn without_names(answer: &Value, other: &Value) -> Value {
    let mut verdict = answer["composite"].clone();
    for (place, signature) in verdict["signatures"].as_array_mut().unwrap().iter_mut().enumerate() {
        signature["asked_for"] = other["composite"]["signatures"][place]["asked_for"].clone();
    }
    verdict
}

#[tokio::test(flavor = "multi_thread")]
async fn two_keys_sign_under_one_name_and_are_verified_by_it() {
    let site = site_with(VerificationRule::All).await;
    let answer = sign(&site, CONTRACTS, b"a contract").await;
    assert_eq!((&answer["asked_for"], &answer["also"]["asked_for"]), (&json!(CONTRACTS), &json!(CONTRACTS)), "{answer}");
    assert_eq!((&answer["key_version"], &answer["algorithm"]), (&json!(format!("{CLASSICAL}/1")), &json!("Ed25519")));
    assert_eq!((&answer["also"]["key_version"], &answer["also"]["algorithm"]), (&json!(format!("{POST_QUANTUM}/1")), &json!("ML-DSA-65")));
    assert_eq!((&answer["policies"], &answer["also"]["policies"]), (&json!(["pol_test/0"]), &json!(["pol_test/0"])));
    let message: Value = serde_json::from_str(answer["signature"].as_str().unwrap()).unwrap();
    for (place, key, alg) in [(0, CLASSICAL, "EdDSA"), (1, POST_QUANTUM, "ML-DSA-65")] {
        let header = from_base64url(message["signatures"][place]["protected"].as_str().unwrap()).unwrap();
        let header: Value = serde_json::from_slice(&header).unwrap();
        assert_eq!(header, json!({ "alg": alg, "kid": format!("{key}/1"), "composite": COMPOSITE.to_string() }));
    }
    for key in [Some(CONTRACTS), Some(COMPOSITE.to_string().as_str()), None] {
        let (_, answer) = verify(&site, &message, key).await;
        assert_eq!((&answer["valid"], &answer["payload"]), (&json!(true), &json!(base64url(b"a contract"))), "{answer}");
        assert_eq!(answer["composite"]["id"], COMPOSITE.to_string());
        let signatures = answer["composite"]["signatures"].as_array().unwrap();
        let said = |name: &str| signatures.iter().map(|signature| signature[name].clone()).collect::<Vec<_>>();
        assert_eq!(said("member"), ["classical", "post-quantum"]);
        assert_eq!(said("key_version"), [format!("{CLASSICAL}/1"), format!("{POST_QUANTUM}/1")]);
        assert_eq!(said("policies"), [json!(["pol_test/1"]), json!(["pol_test/1"])]);
    }
    // Each key is still a key of its own, and its signature one that others verify.
    let (_, alone) = verify(&site, &message, Some("payments/contracts-post-quantum")).await;
    assert_eq!((&alone["valid"], &alone["composite"]), (&json!(true), &Value::Null));

    let body = json!({ "key": CONTRACTS, "payload": base64url(b"a contract"), "context": { "deal": "7" }, "detached": true });
    let (_, detached) = site.call("/v1/sign", &site.billing, body).await;
    let detached = detached["signature"].as_str().unwrap();
    assert!(!detached.contains("payload"));
    let check = |payload: &[u8], deal: &str| {
        let body = json!({ "signature": detached, "payload": base64url(payload), "context": { "deal": deal }, "key": CONTRACTS });
        async { site.call("/v1/verify", &site.auditor, body).await.1 }
    };
    assert_eq!(check(b"a contract", "7").await["valid"], true);
    assert_eq!(check(b"a contrast", "7").await["reason"], "not_genuine");
    assert_eq!(check(b"a contract", "8").await["reason"], "context_mismatch");
    let body = json!({ "key": CONTRACTS, "payload": "", "format": "compact" });
    assert_eq!(site.call("/v1/sign", &site.billing, body).await.1["code"], "invalid_body");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_is_missing_forged_or_moved_counts_for_nothing() {
    let mut site = site_with(VerificationRule::All).await;
    let honest = signed(&site).await;
    // Whoever has one key signs what it likes with it, and takes the other signature from an honest message.
    let forged = |key: &'static str| {
        let site = &site;
        async move {
            let body = json!({ "key": key, "payload": base64url(b"a forged contract"), "format": "json" });
            let (_, answer) = site.call("/v1/sign", &site.billing, body).await;
            serde_json::from_str::<Value>(answer["signature"].as_str().unwrap()).unwrap()
        }
    };
    let one = |message: &Value| json!({ "protected": message["protected"], "signature": message["signature"] });
    let classical = forged("payments/contracts-classical").await;
    let post_quantum = forged("payments/contracts-post-quantum").await;
    let payload = &classical["payload"];
    let classical_broken = json!({ "payload": payload, "signatures": [one(&classical), honest["signatures"][1]] });
    let post_quantum_broken = json!({ "payload": payload, "signatures": [honest["signatures"][0], one(&post_quantum)] });
    // The signature of one member under the header of the other.
    let mut wrong_member = honest.clone();
    wrong_member["signatures"][0]["signature"] = honest["signatures"][1]["signature"].clone();
    let mut swapped = honest.clone();
    swapped["signatures"][0]["signature"] = honest["signatures"][1]["signature"].clone();
    swapped["signatures"][1]["signature"] = honest["signatures"][0]["signature"].clone();
    let mut other_payload = honest.clone();
    other_payload["payload"] = json!(base64url(b"another contract"));
    let mut cut = honest.clone();
    cut["signatures"][1]["signature"] = json!("");
    let foreign = {
        let answer = sign(&site, "payments/documents", b"a contract").await;
        let parts: Vec<&str> = answer["signature"].as_str().unwrap().split('.').collect();
        json!({ "protected": parts[0], "signature": parts[2] })
    };
    let mut beside_foreign = with(&honest, &[0]);
    beside_foreign["signatures"].as_array_mut().unwrap().insert(0, foreign.clone());
    let messages = [
        honest.clone(),
        with(&honest, &[1, 0]),
        with(&honest, &[0]),
        with(&honest, &[1]),
        classical_broken,
        post_quantum_broken,
        wrong_member,
        swapped,
        other_payload,
        cut,
        beside_foreign,
    ];
    let found = under_every_rule(&mut site, &messages).await;
    judged(&found[0], [true; 4], "", "honest");
    judged(&found[1], [true; 4], "", "reordered");
    assert_eq!(found[1][0].1["composite"]["signatures"][0]["member"], "classical", "the order says nothing");
    judged(&found[2], [false, true, true, false], "signature_missing", "the post-quantum one stripped");
    judged(&found[3], [false, true, false, true], "signature_missing", "the classical one stripped");
    judged(&found[4], [false, true, true, false], "not_genuine", "the classical key in other hands");
    judged(&found[5], [false, true, false, true], "not_genuine", "the post-quantum key in other hands");
    judged(&found[6], [false, true, false, true], "not_genuine", "the signature of the other member");
    judged(&found[7], [false; 4], "not_genuine", "both signatures swapped");
    judged(&found[8], [false; 4], "not_genuine", "another payload");
    judged(&found[9], [false, true, true, false], "not_genuine", "an empty signature");
    judged(&found[10], [false, true, true, false], "signature_missing", "a foreign signature in the place of one");

    // What no honest signer makes is refused whatever the rule: it would be the sender's choice what is judged.
    site.rotate(CLASSICAL, 2, "Ed25519").await;
    set_rule(&mut site, VerificationRule::Any);
    let second = signed(&site).await;
    let two_versions =
        json!({ "payload": honest["payload"], "signatures": [honest["signatures"][0], second["signatures"][0], honest["signatures"][1]] });
    for (what, message, code) in [
        ("doubled", with(&honest, &[0, 0, 1]), "signed_twice"),
        ("the same member alone, twice", with(&honest, &[1, 1]), "signed_twice"),
        ("two versions of a member", two_versions, "signed_twice"),
        ("none of its members", json!({ "payload": honest["payload"], "signatures": [foreign] }), "other_key"),
        ("no signatures", json!({ "payload": honest["payload"], "signatures": [] }), "recipient_count"),
    ] {
        let (status, answer) = verify(&site, &message, Some(CONTRACTS)).await;
        assert_eq!((status, &answer["code"]), (400, &json!(code)), "{what}: {answer}");
    }
    // Versions of before still count.
    assert_eq!(verify(&site, &honest, Some(CONTRACTS)).await.1["valid"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_choice_of_signatures_is_judged_as_the_rules_say() {
    let mut site = site_with(VerificationRule::All).await;
    let mut message = signed(&site).await;
    let answer = sign(&site, "payments/documents", b"a contract").await;
    let parts: Vec<&str> = answer["signature"].as_str().unwrap().split('.').collect();
    message["signatures"].as_array_mut().unwrap().push(json!({ "protected": parts[0], "signature": parts[2] }));
    // Every list of one to three signatures of: classical, post-quantum, foreign.
    let longer = |lists: &[Vec<usize>]| lists.iter().flat_map(|list| (0..3).map(|next| [&list[..], &[next]].concat())).collect::<Vec<_>>();
    let one = longer(&[Vec::new()]);
    let two = longer(&one);
    let lists = [one, two.clone(), longer(&two)].concat();
    assert_eq!(lists.len(), 39);
    for rule in VerificationRule::ALL {
        set_rule(&mut site, *rule);
        for list in &lists {
            let count = |wanted: usize| list.iter().filter(|place| **place == wanted).count();
            let (status, answer) = verify(&site, &with(&message, list), Some(CONTRACTS)).await;
            match (count(0), count(1)) {
                (0, 0) => assert_eq!((status, &answer["code"]), (400, &json!("other_key")), "{list:?}"),
                (2.., _) | (_, 2..) => assert_eq!((status, &answer["code"]), (400, &json!("signed_twice")), "{list:?}"),
                (classical, post_quantum) => {
                    let expected = rule.holds(classical == 1, post_quantum == 1);
                    assert_eq!((status, &answer["valid"]), (200, &json!(expected)), "{list:?} under {rule}: {answer}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_says_nothing_that_its_key_is_not() {
    let site = site_with(VerificationRule::Any).await;
    let honest = signed(&site).await;
    let header = |alg: &str, kid: KeyId, more: &str| base64url(format!("{{\"alg\":\"{alg}\",\"kid\":\"{kid}/1\"{more}}}").as_bytes());
    for (place, alg, kid) in [
        (0, "ML-DSA-65", CLASSICAL),
        (0, "none", CLASSICAL),
        (0, "HS256", CLASSICAL),
        (0, "ES256", CLASSICAL),
        (1, "EdDSA", POST_QUANTUM),
        (1, "ML-DSA-44", POST_QUANTUM),
    ] {
        let mut confused = honest.clone();
        confused["signatures"][place]["protected"] = json!(header(alg, kid, ""));
        let (status, answer) = verify(&site, &confused, Some(CONTRACTS)).await;
        assert_eq!((status, &answer["code"]), (400, &json!("other_algorithm")), "{alg}: {answer}");
    }
    // Outside what is signed nothing says who signed together, and what is understood is not smuggled in.
    let mut beside = honest.clone();
    beside["signatures"][0]["protected"] = json!(header("EdDSA", CLASSICAL, ""));
    beside["signatures"][0]["header"] = json!({ "composite": COMPOSITE.to_string() });
    assert_eq!(verify(&site, &beside, Some(CONTRACTS)).await.1["code"], "malformed");
    let mut critical = honest.clone();
    critical["signatures"][0]["protected"] = json!(header("EdDSA", CLASSICAL, ",\"crit\":[\"composite\"]"));
    assert_eq!(verify(&site, &critical, Some(CONTRACTS)).await.1["code"], "not_understood");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_name_the_rule_is_that_of_the_composite_that_signed() {
    let mut site = site_with(VerificationRule::All).await;
    let lax = CompositeId::from_bits(95);
    compose(&mut site, lax, "lax", VerificationRule::Any);
    site.republish();
    let of_strict = with(&signed(&site).await, &[0]);
    let of_lax: Value = serde_json::from_str(sign(&site, "payments/lax", b"a contract").await["signature"].as_str().unwrap()).unwrap();
    for (message, key, valid, id) in [
        (&of_strict, None, false, COMPOSITE),
        (&of_strict, Some("payments/lax"), true, lax),
        (&with(&of_lax, &[0]), None, true, lax),
        (&with(&of_lax, &[0]), Some(CONTRACTS), false, COMPOSITE),
    ] {
        let (_, answer) = verify(&site, message, key).await;
        assert_eq!((&answer["valid"], &answer["composite"]["id"]), (&json!(valid), &json!(id.to_string())), "{answer}");
    }
    let mixed = json!({ "payload": of_lax["payload"], "signatures": [of_strict["signatures"][0], of_lax["signatures"][1]] });
    assert_eq!(verify(&site, &mixed, None).await.1["code"], "key_not_named");
    // Once it is retired, its keys are what there is to name.
    site.world.project_policy().composites.remove(&COMPOSITE);
    site.republish();
    let (status, answer) = verify(&site, &of_strict, None).await;
    assert_eq!((status, &answer["code"]), (404, &json!("key_not_found")));
    assert_eq!(verify(&site, &of_strict, Some("payments/contracts-classical")).await.1["valid"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_tightens_the_rule_and_never_loosens_it() {
    let mut site = site_with(VerificationRule::Any).await;
    let honest = signed(&site).await;
    let (only_classical, only_post_quantum) = (with(&honest, &[0]), with(&honest, &[1]));
    assert_eq!(verify(&site, &only_classical, Some(CONTRACTS)).await.1["valid"], true, "what the composite's own rule accepts");
    let permit = |rule: &str, resource: &str| {
        format!(
            "@require_signatures(\"{rule}\") permit (principal == Caller::\"{AUDITOR}\", action == Action::\"verify\", resource{resource});"
        )
    };
    let demand = |site: &mut Site, texts: &[String]| {
        let policies = &mut site.world.project_policy().cedar;
        policies.retain(|id, _| !id.starts_with("pol_demand"));
        policies.extend(texts.iter().enumerate().map(|(number, text)| (format!("pol_demand/{number}"), text.clone())));
        site.republish();
    };
    demand(&mut site, &[permit("pq-required", "")]);
    let (_, answer) = verify(&site, &only_classical, Some(CONTRACTS)).await;
    assert_eq!((&answer["valid"], &answer["reason"]), (&json!(false), &json!("signature_missing")), "{answer}");
    assert_eq!(answer["composite"]["rule"], "pq-required");
    assert_eq!(verify(&site, &only_post_quantum, Some(CONTRACTS)).await.1["valid"], true);
    // Nor is the key's own name a way around it.
    let (status, answer) = verify(&site, &only_classical, Some("payments/contracts-classical")).await;
    assert_eq!((status, &answer["code"]), (403, &json!("obligation_not_met")), "{answer}");
    assert_eq!(verify(&site, &only_post_quantum, Some("payments/contracts-post-quantum")).await.1["valid"], true);

    // What only one member's policies demand holds also when its signature is the one that is missing.
    demand(&mut site, &[permit("pq-required", &format!(" == Key::\"{POST_QUANTUM}\""))]);
    assert_eq!(verify(&site, &only_classical, Some(CONTRACTS)).await.1["valid"], false);
    // Several demands add up.
    demand(&mut site, &[permit("pq-required", ""), permit("classical-required", ""), permit("any", "")]);
    for message in [&only_classical, &only_post_quantum] {
        let (_, answer) = verify(&site, message, Some(CONTRACTS)).await;
        assert_eq!((&answer["valid"], &answer["composite"]["rule"]), (&json!(false), &json!("all")), "{answer}");
    }
    assert_eq!(verify(&site, &honest, Some(CONTRACTS)).await.1["valid"], true);
    // A looser demand loosens nothing.
    demand(&mut site, &[permit("any", "")]);
    set_rule(&mut site, VerificationRule::All);
    let (_, answer) = verify(&site, &only_post_quantum, Some(CONTRACTS)).await;
    assert_eq!((&answer["valid"], &answer["composite"]["rule"]), (&json!(false), &json!("all")), "{answer}");
    // A rule that nobody knows permits nothing; what else permits goes on.
    site.world.project_policy().cedar.remove("pol_test/1");
    demand(&mut site, &[permit("most", "")]);
    let (status, answer) = verify(&site, &honest, Some(CONTRACTS)).await;
    assert_eq!((status, &answer["code"]), (403, &json!("not_allowed_by_policy")), "{answer}");

    // Whoever may sign only as a whole does not sign with one key.
    let whole = format!("@require_signatures(\"all\") permit (principal == Caller::\"{AUDITOR}\", action == Action::\"sign\", resource);");
    demand(&mut site, &[whole]);
    let body = |key: &str| json!({ "key": key, "payload": "" });
    assert_eq!(site.call("/v1/sign", &site.auditor, body(CONTRACTS)).await.0, StatusCode::OK);
    for key in ["payments/contracts-classical", "payments/contracts-post-quantum", "payments/documents"] {
        assert_eq!(site.call("/v1/sign", &site.auditor, body(key)).await.1["code"], "obligation_not_met", "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_keys_must_be_allowed_and_able() {
    let mut site = site_with(VerificationRule::Any).await;
    let honest = signed(&site).await;
    let forbid = format!("forbid (principal, action in [Action::\"sign\", Action::\"verify\"], resource == Key::\"{POST_QUANTUM}\");");
    site.world.project_policy().cedar.insert("pol_test/2".to_owned(), forbid);
    site.republish();
    let body = json!({ "key": CONTRACTS, "payload": "" });
    for (path, token, body) in [
        ("/v1/sign", &site.billing, body.clone()),
        ("/v1/verify", &site.auditor, json!({ "signature": honest.to_string(), "key": CONTRACTS })),
        ("/v1/verify", &site.auditor, json!({ "signature": with(&honest, &[0]).to_string(), "key": CONTRACTS })),
    ] {
        let (status, answer) = site.call(path, token, body).await;
        assert_eq!((status.as_u16(), &answer["code"]), (403, &json!("forbidden_by_policy")), "{path}: {answer}");
    }
    site.world.project_policy().cedar.remove("pol_test/2");
    site.world.state.suspensions.push(Subject::Key(CLASSICAL));
    site.republish();
    assert_eq!(site.call("/v1/sign", &site.billing, body).await.1["code"], "version_state");
    assert_eq!(verify(&site, &honest, Some(CONTRACTS)).await.1["code"], "version_state");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sealed_to_a_composite_is_its_hybrid_keys() {
    let site = site_with(VerificationRule::All).await;
    let body = json!({ "key": CONTRACTS, "plaintext": base64url(b"sealed"), "context": { "a": "1" } });
    let (_, sealed) = site.call("/v1/encrypt", &site.billing, body).await;
    assert_eq!((&sealed["asked_for"], &sealed["key_version"]), (&json!(CONTRACTS), &json!(format!("{SEALED}/1"))), "{sealed}");
    assert_eq!(sealed["algorithm"], "HPKE-9-KE");
    let (_, opened) = site.call("/v1/decrypt", &site.billing, json!({ "message": sealed["message"], "context": { "a": "1" } })).await;
    assert_eq!(opened["plaintext"], base64url(b"sealed"));
    let (_, made) = site.call("/v1/generate-data-key", &site.billing, json!({ "key": COMPOSITE.to_string() })).await;
    assert_eq!(made["key_version"], format!("{SEALED}/1"), "{made}");
    let again = json!({ "message": sealed["message"], "context": { "a": "1" }, "key": "payments/card-data" });
    assert_eq!(site.call("/v1/re-encrypt", &site.billing, again).await.0, StatusCode::OK);
    let file = site.post(&format!("/v1/stream/encrypt?key={CONTRACTS}"), &site.billing).body("a file").send().await.unwrap();
    assert_eq!(file.headers()["freehold-key-version"], format!("{SEALED}/1"));
    let file = file.bytes().await.unwrap();
    let opened = site.post("/v1/stream/decrypt", &site.billing).body(file).send().await.unwrap();
    assert_eq!(opened.bytes().await.unwrap(), "a file");
    // Nothing else goes by its name.
    for (path, body) in [
        ("/v1/sign-digest", json!({ "key": CONTRACTS, "digest": base64url(&[0; 64]) })),
        ("/v1/mac", json!({ "key": CONTRACTS, "payload": "" })),
        ("/v1/wrap", json!({ "key": CONTRACTS, "plaintext": "" })),
    ] {
        let (status, answer) = site.call(path, &site.billing, body).await;
        assert_eq!((status.as_u16(), &answer["code"]), (400, &json!("composite_does_not")), "{path}: {answer}");
    }
    let (status, answer) =
        site.call("/v1/sign", &site.billing, json!({ "key": CompositeId::from_bits(1).to_string(), "payload": "" })).await;
    assert_eq!((status.as_u16(), &answer["code"]), (404, &json!("key_not_found")));
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_and_streams_are_signed_and_judged_alike() {
    let mut site = site_with(VerificationRule::All).await;
    let items = json!({ "items": [
        { "key": CONTRACTS, "payload": base64url(b"one") },
        { "key": "payments/none", "payload": "" },
        { "key": CONTRACTS, "payload": base64url(b"two") },
    ] });
    let (_, answer) = site.call("/v1/batch/sign", &site.billing, items).await;
    assert_eq!((&answer["succeeded"], &answer["failed"]), (&json!(2), &json!(1)), "{answer}");
    let signature = |place: usize| serde_json::from_str::<Value>(answer["items"][place]["answer"]["signature"].as_str().unwrap()).unwrap();
    let items = json!({ "items": [
        { "key": CONTRACTS, "signature": signature(0).to_string() },
        { "key": CONTRACTS, "signature": with(&signature(2), &[0]).to_string() },
        { "key": CONTRACTS, "signature": with(&signature(2), &[0, 0]).to_string() },
    ] });
    let (_, answer) = site.call("/v1/batch/verify", &site.auditor, items).await;
    assert_eq!((&answer["items"][0]["answer"]["valid"], &answer["items"][1]["answer"]["valid"]), (&json!(true), &json!(false)), "{answer}");
    assert_eq!(answer["items"][2]["problem"]["code"], "signed_twice");

    let path = format!("/v1/stream/sign?key={CONTRACTS}");
    let signed: Value = site.post(&path, &site.billing).body("a stream").send().await.unwrap().json().await.unwrap();
    assert_eq!(
        (&signed["key_version"], &signed["also"]["key_version"]),
        (&json!(format!("{CLASSICAL}/1")), &json!(format!("{POST_QUANTUM}/1")))
    );
    let manifest: Value = serde_json::from_str(signed["signature"].as_str().unwrap()).unwrap();
    let check = |site: &Site, signature: Value, body: &'static str, query: &str| {
        let request = site.post(&format!("/v1/stream/verify{query}"), &site.auditor);
        let request = request.header("freehold-signature", signature.to_string()).body(body);
        async { request.send().await.unwrap().json::<Value>().await.unwrap() }
    };
    for query in ["", "?key=payments/contracts"] {
        let answer = check(&site, manifest.clone(), "a stream", query).await;
        assert_eq!((&answer["valid"], &answer["composite"]["rule"]), (&json!(true), &json!("all")), "{answer}");
        assert_eq!(check(&site, manifest.clone(), "a scream", query).await["reason"], "not_genuine");
        assert_eq!(check(&site, with(&manifest, &[1]), "a stream", query).await["reason"], "signature_missing");
    }
    set_rule(&mut site, VerificationRule::PqRequired);
    assert_eq!(check(&site, with(&manifest, &[1]), "a stream", "").await["valid"], true);
    assert_eq!(check(&site, with(&manifest, &[0]), "a stream", "").await["valid"], false);
    // The manifest is no message for a composite either.
    assert_eq!(verify(&site, &manifest, Some(CONTRACTS)).await.1["code"], "malformed");
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_move_to_a_composite_and_from_one() {
    let site = site_with(VerificationRule::All).await;
    let old = sign(&site, "payments/documents", b"a contract").await;
    let body = json!({ "signature": old["signature"], "key": CONTRACTS, "new_context": { "year": "2026" } });
    let (status, moved) = site.call("/v1/re-sign", &site.billing, body).await;
    assert_eq!(status, StatusCode::OK, "{moved}");
    assert_eq!(
        (&moved["source"]["key_version"], &moved["also"]["key_version"]),
        (&json!(format!("{SIGNING_KEY}/1")), &json!(format!("{POST_QUANTUM}/1")))
    );
    let body = json!({ "signature": moved["signature"], "key": CONTRACTS, "context": { "year": "2026" } });
    assert_eq!(site.call("/v1/verify", &site.auditor, body).await.1["valid"], true);

    let honest = signed(&site).await;
    let back = |message: &Value| json!({ "signature": message.to_string(), "signed_by": CONTRACTS, "key": "payments/documents" });
    let (status, moved) = site.call("/v1/re-sign", &site.billing, back(&honest)).await;
    assert_eq!((status, &moved["composite"]["rule"]), (StatusCode::OK, &json!("all")), "{moved}");
    for message in [with(&honest, &[0]), with(&honest, &[1])] {
        let (status, answer) = site.call("/v1/re-sign", &site.billing, back(&message)).await;
        assert_eq!((status.as_u16(), &answer["code"]), (400, &json!("not_genuine")), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_learn_what_they_may_do_by_a_composites_name() {
    let mut site = site_with(VerificationRule::PqRequired).await;
    let get = |site: &Site, token: &str, path: &str| {
        let request = site.http.get(format!("http://{}{path}", site.agent().address)).bearer_auth(token);
        async { request.send().await.unwrap().json::<Value>().await.unwrap() }
    };
    let keys = get(&site, &site.billing, "/v1/keys").await;
    let [entry] = keys["composites"].as_array().unwrap().as_slice() else { panic!("{keys}") };
    assert_eq!((&entry["id"], &entry["name"], &entry["rule"]), (&json!(COMPOSITE.to_string()), &json!(CONTRACTS), &json!("pq-required")));
    assert_eq!(entry["members"], json!({ "classical": CLASSICAL, "post-quantum": POST_QUANTUM, "encryption": SEALED }));
    for operation in ["sign", "verify", "re-sign", "encrypt", "decrypt", "public-key"] {
        assert_eq!(entry["operations"][operation], "allowed", "{operation}");
    }
    assert!(entry["operations"]["mac"].is_null());
    let keys = get(&site, &site.auditor, "/v1/keys").await;
    assert_eq!(keys["composites"][0]["operations"], json!({ "verify": "allowed" }), "{keys}");

    let can = |site: &Site, token: &str, operation: &str| {
        let request = site.post("/v1/can", token).json(&json!({ "operation": operation, "key": CONTRACTS }));
        async { request.send().await.unwrap().json::<Value>().await.unwrap() }
    };
    let answer = can(&site, &site.billing, "sign").await;
    assert_eq!((&answer["allowed"], &answer["key_version"]), (&json!(true), &json!(format!("{CLASSICAL}/1"))), "{answer}");
    assert_eq!(answer["also"], json!([format!("{POST_QUANTUM}/1")]));
    assert_eq!(can(&site, &site.billing, "encrypt").await["key_version"], format!("{SEALED}/1"));
    assert_eq!(can(&site, &site.billing, "mac").await["refusal"]["code"], "composite_does_not");
    assert_eq!(can(&site, &site.auditor, "sign").await["refusal"]["code"], "not_allowed_by_policy");
    let about = json!({ "caller": AUDITOR, "operation": "verify", "key": CONTRACTS });
    assert_eq!(site.call("/v1/can", &site.billing, about).await.1["allowed"], true);
    let about = json!({ "caller": CALLER, "operation": "verify", "key": CONTRACTS });
    assert_eq!(site.call("/v1/can", &site.auditor, about).await.1["code"], "not_allowed_by_policy");
    let forbid = format!("forbid (principal, action == Action::\"verify\", resource == Key::\"{POST_QUANTUM}\");");
    site.world.project_policy().cedar.insert("pol_test/2".to_owned(), forbid);
    site.republish();
    assert_eq!(can(&site, &site.auditor, "verify").await["refusal"]["code"], "forbidden_by_policy");
    assert_eq!(get(&site, &site.auditor, "/v1/keys").await["composites"], Value::Null);

    let set = get(&site, &site.billing, "/v1/keys/payments/contracts/public?format=jwks").await;
    let kids: Vec<_> = set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kids, [CLASSICAL, POST_QUANTUM, SEALED].map(|key| format!("{key}/1")));
    assert_eq!(get(&site, &site.billing, "/v1/keys/payments/contracts/public").await["code"], "no_such_format");
    assert_eq!(get(&site, &site.auditor, "/v1/keys/payments/contracts/public?format=jwks").await["code"], "not_allowed_by_policy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partners_signature_need_not_name_our_key() {
    let mut site = site_with(VerificationRule::ClassicalRequired).await;
    let partner = SigningKey::from_bytes(&[7; 32]);
    let public_key = partner.verifying_key().as_bytes().to_vec();
    let key = KeyId::from_bits(96);
    let mut defined = definition();
    (defined.name, defined.algorithm, defined.purpose) = ("partner".parse().unwrap(), "Ed25519".parse().unwrap(), Purpose::Sign);
    (defined.durability, defined.origin) = (Durability::Elsewhere, Origin::External);
    let fingerprint = schema::key::fingerprint(defined.algorithm, &public_key);
    defined.external = vec![ExternalVersion { public_key: public_key.into(), fingerprint }];
    site.world.project_policy().keys.insert(key, defined);
    site.world.project_policy().head.requires.push(EXTERNAL_KEYS.to_owned());
    let entry = VersionEntry {
        state: VersionState::Active,
        created: START,
        activated: Some(START),
        generator: None,
        record: None,
        ready: Default::default(),
        backup: None,
    };
    site.world.state.keys.insert(key, KeyState { primary: 1, versions: [(1, entry)].into() });
    let partners = CompositeId::from_bits(97);
    compose(&mut site, partners, "partners", VerificationRule::ClassicalRequired);
    site.world.project_policy().composites.get_mut(&partners).unwrap().classical = key;
    site.republish();
    let text = format!("{}.{}", base64url(br#"{"alg":"EdDSA"}"#), base64url(b"their contract"));
    let theirs = |kid: &str| {
        let text = match kid {
            "" => text.clone(),
            kid => format!("{}.{}", base64url(format!("{{\"alg\":\"EdDSA\",\"kid\":\"{kid}\"}}").as_bytes()), base64url(b"their contract")),
        };
        format!("{text}.{}", base64url(&partner.sign(text.as_bytes()).to_bytes()))
    };
    let check = |signature: String, key: &str| {
        let body = json!({ "signature": signature, "key": key });
        async { site.call("/v1/verify", &site.auditor, body).await.1 }
    };
    assert_eq!(check(theirs(""), "payments/partners").await["valid"], true);
    assert_eq!(check(theirs(&format!("{key}/1")), "payments/partners").await["valid"], true);
    assert_eq!(check(theirs("theirs"), "payments/partners").await["code"], "other_key");
    assert_eq!(check(theirs(""), CONTRACTS).await["reason"], "not_genuine", "another composite's key made it");
    let (_, answer) = site.call("/v1/sign", &site.billing, json!({ "key": "payments/partners", "payload": "" })).await;
    assert_eq!(answer["code"], "external_key");
}
