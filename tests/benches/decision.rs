//! The time of one decision at an agent, with 1, 100 and 1000 policies in force of which ten (one, at 1) match the request.
//! Two shapes of set: policies that name callers in their scope, as most do, and the same with the caller in a condition,
//! which no index can see. Writes `docs/benchmarks/decision.json`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use data_plane_agent::policy::{
    decide::{Ask, Grounds, decide},
    in_force::{Believed, InForce},
};
use schema::{
    catalogue::Algorithm,
    clock::Timestamp,
    context::EncryptionContext,
    id::{AgentId, CallerId, KeyId, KeyVersion, ProjectId, SiteId, TenantId},
    key::{KeyReference, Operation, VersionState},
};
use serde_json::{Value, json};
use trust::statement::{
    heartbeat::Heartbeat,
    policy::{KeyDefinition, OfflineRule, Policy},
    state::State,
};

const TENANT: TenantId = TenantId::from_bits(1);
const SITE: SiteId = SiteId::from_bits(2);
const AGENT: AgentId = AgentId::from_bits(3);
const PROJECT: ProjectId = ProjectId::from_bits(4);
const CALLER: CallerId = CallerId::from_bits(5);
const KEY: KeyId = KeyId::from_bits(6);
const NOW: &str = "2026-01-31T09:30:00.000000Z";

#[allow(clippy::print_stdout, reason = "figures are what this program is for")]
fn main() -> anyhow::Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let mut rows = Vec::new();
    for (shape, scoped) in [("caller in scope", true), ("caller in condition", false)] {
        for count in [1, 100, 1000] {
            rows.push(measure(shape, scoped, count)?);
        }
    }
    let report = json!({
        "method": "tests/benches/decision; one thread; median of 30 rounds of 2000 decisions, microseconds each",
        "decisions": rows,
    });
    let text = serde_json::to_string_pretty(&report)?;
    std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks/decision.json"), format!("{text}\n"))?;
    println!("{text}");
    Ok(())
}

fn measure(shape: &str, scoped: bool, count: usize) -> anyhow::Result<Value> {
    let cedar: BTreeMap<String, String> = (0..count).map(|number| (format!("pol/{number:04}"), policy(scoped, number, count))).collect();
    let policy: Policy = serde_json::from_value(with_head(
        "policy",
        json!({
            "project": PROJECT, "cedar_version": "4.5", "cedar": cedar, "caller_authorities": [], "keys": {}, "templates": {},
            "callers": { CALLER.to_string(): { "name": "app", "project": PROJECT, "kind": "token", "issuer": SITE, "subject": "app", "labels": {} } },
            "vouching": { "agents": true, "agents_needed": 1, "signers": true }, "resumptions": [], "compromises": [], "destructions": [],
        }),
    ))?;
    let definition: KeyDefinition = serde_json::from_value(json!({
        "name": "cards", "aliases": [], "project": PROJECT, "project_name": "billing", "algorithm": "A256KW+A256GCM", "purpose": "encrypt",
        "placement": [SITE], "labels": {}, "durability": "single-copy", "exportable": false, "origin": "generated",
        "eligible_generators": [], "rotation": {}, "limits": {}, "minimum_versions": {},
    }))?;
    let state: State = serde_json::from_value(with_head(
        "state",
        json!({
            "templated": {}, "roster": {}, "slots_used": 1, "revocations": [], "suspensions": [],
            "keys": { KEY.to_string(): { "primary": 1, "versions": { "1": { "state": "active", "created": NOW, "activated": NOW, "generator": AGENT, "ready": {} } } } },
        }),
    ))?;
    let pin = json!({ "serial": "1", "sha256": schema::encoding::Digest::of(b"") });
    let heartbeat: Heartbeat =
        serde_json::from_value(with_head("heartbeat", json!({ "root": pin, "tenant_policy": pin, "project_policies": {}, "state": pin })))?;
    let keys = BTreeMap::from([(KEY, definition)]);
    let in_force = InForce::compile(Believed {
        tenant: TENANT,
        site: SITE,
        agent: AGENT,
        policies: vec![&policy],
        keys: &keys,
        state: &state,
        heartbeat: &heartbeat,
        serials: "r1".to_owned(),
        offline: OfflineRule::default(),
        held: BTreeSet::new(),
        versions: BTreeMap::from([(KeyVersion::new(KEY, 1), (VersionState::Active, false))]),
        recovery: None,
    })?;
    let enabled: BTreeSet<Algorithm> = Algorithm::all().collect();
    let now: Timestamp = NOW.parse()?;
    let grounds = Grounds { in_force: Some(&in_force), enabled: &enabled, now };
    let context = EncryptionContext::new(BTreeMap::from([("purpose".to_owned(), "bench".to_owned())]))?;
    let ask = Ask {
        caller: CALLER,
        operation: Operation::Encrypt,
        context: &context,
        address: [127, 0, 0, 1].into(),
        size: Some(1024),
        recipients: Some(1),
        anew: false,
        masks: false,
        together: false,
    };
    let reference: KeyReference = KEY.to_string().parse()?;
    let mut rounds: Vec<f64> = (0..30)
        .map(|_| {
            let started = Instant::now();
            for _ in 0..2000 {
                let decided = decide(&grounds, &ask, &reference);
                assert!(std::hint::black_box(decided).is_ok(), "the request is allowed");
            }
            started.elapsed().as_secs_f64() * 1e6 / 2000.0
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    Ok(json!({ "shape": shape, "policies": count, "matching": count.min(10), "median_us": (rounds[15] * 100.0).round() / 100.0 }))
}

/// Every policy but ten is for somebody else.
fn policy(scoped: bool, number: usize, count: usize) -> String {
    let caller = if number < 10.min(count) { CALLER } else { CallerId::from_bits(1000 + number as u128) };
    if scoped {
        format!(r#"permit (principal == Caller::"{caller}", action, resource) when {{ context.encryption.hasTag("purpose") }};"#)
    } else {
        format!(
            r#"permit (principal, action, resource) when {{ principal == Caller::"{caller}" && context.encryption.hasTag("purpose") }};"#
        )
    }
}

fn with_head(kind: &str, mut body: Value) -> Value {
    let head = json!({
        "format": format!("application/vnd.freehold.{kind}+json"), "requires": [], "tenant": TENANT, "epoch": "1", "serial": "1",
        "issued": NOW, "not_before": NOW, "expires": NOW, "root_serial": "1",
    });
    if let (Value::Object(body), Value::Object(head)) = (&mut body, head) {
        body.extend(head);
    }
    body
}
