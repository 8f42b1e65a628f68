//! How versions end, in a whole system: what is shown before, what is on record after, with kills in between and two people at
//! once.

use std::{sync::Arc, time::Duration};

use freehold_tests::world::{ShiftedClock, World, until};
use schema::{
    clock::{Clock, Ids as _, SystemIds},
    encoding::base64url,
};
use serde_json::{Value, json};

use super::process::Process;

const PLAIN: &str = "plain_http = true";
const KEY: &str = "query($key: String!) { key(reference: $key) { primaryVersion lastUse { operation keyVersion caller { name } agentId } \
                   successor { name } predecessors { name } versions { number state deactivationDueAt destructionDueAt \
                   lastUse { operation caller { name } } destruction { begunAt completedAt proven backupsExpireAt \
                   holders { agentId said attestation } } } } }";

async fn key(world: &World, name: &str) -> Value {
    world.query(KEY, json!({ "key": name })).await["key"].clone()
}

/// The key, once it is like this.
async fn until_key(world: &World, name: &str, is: impl Fn(&Value) -> bool) -> Value {
    until(|| async {
        let key = key(world, name).await;
        if is(&key) { Ok(key) } else { Err(key.to_string()) }
    })
    .await
}

fn encrypt(key: &str) -> Value {
    json!({ "key": key, "plaintext": base64url(b"4111") })
}

/// A mutation that may be refused: the code, if it was.
async fn attempt(world: &World, name: &str, input: Value) -> Option<String> {
    let kind = format!("{}{}Input", name[..1].to_uppercase(), &name[1..]);
    let query = format!("mutation($input: {kind}!) {{ {name}(input: $input) {{ userErrors {{ code }} }} }}");
    let answer = world.query(&query, json!({ "input": input })).await[name].clone();
    answer["userErrors"][0]["code"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn before_a_version_ends_its_last_use_is_shown_and_afterwards_what_every_holder_said() {
    let clock = ShiftedClock::new();
    let world = World::start_at(Arc::new(clock.clone())).await;
    let config = world.agent_config("agent", PLAIN);
    let enrolled = world.enrol(&config).await;
    let agent = world.agent(&config).await;
    let token = world.caller("app-7", &config).await;
    world.publish("permit (principal, action, resource);").await;
    world.encryption_key("old").await;
    world.encryption_key("new").await;
    let sealed = world.until_allowed(&agent, "/v1/encrypt", &token, &encrypt("payments/old")).await;
    world.until_allowed(&agent, "/v1/decrypt", &token, &json!({ "message": sealed["message"] })).await;
    world.until_allowed(&agent, "/v1/encrypt", &token, &encrypt("payments/new")).await;

    // Receipts tell who used it last, and for what altogether.
    let shown = until_key(&world, "payments/old", |key| key["lastUse"]["operation"] == "DECRYPT").await;
    assert_eq!((&shown["lastUse"]["caller"]["name"], &shown["lastUse"]["agentId"]), (&json!("app-7"), &json!(enrolled.agent.to_string())));
    assert_eq!(shown["versions"][0]["lastUse"]["operation"], "DECRYPT");
    let usage =
        world.query("{ keyUsage(key: \"payments/old\") { more uses { operation protects count caller { name } } } }", json!({})).await;
    let uses = usage["keyUsage"]["uses"].as_array().unwrap().clone();
    let of = |operation: &str| uses.iter().find(|one| one["operation"] == operation).unwrap().clone();
    assert_eq!((uses.len(), &usage["keyUsage"]["more"]), (2, &json!(false)));
    assert_eq!((&of("ENCRYPT")["protects"], &of("DECRYPT")["protects"]), (&json!(true), &json!(false)));
    assert_eq!((&of("ENCRYPT")["count"], &of("ENCRYPT")["caller"]["name"]), (&json!("1"), &json!("app-7")));
    assert!(world.query("{ keyUsage(key: \"payments/none\") { more } }", json!({})).await["keyUsage"].is_null());
    world.cli(&["key", "uses", "payments/old"]).await.unwrap();
    world.cli(&["key", "show", "payments/old"]).await.unwrap();

    // Moving to another key: one link, seen from both sides.
    assert_eq!(world.cli(&["key", "migrate", "payments/old"]).await.unwrap_err().code, "no_successor");
    world.cli(&["key", "migrate", "payments/old", "payments/new"]).await.unwrap();
    assert_eq!(key(&world, "payments/old").await["successor"]["name"], "new");
    until_key(&world, "payments/new", |key| key["predecessors"][0]["name"] == "old").await;
    let circle = attempt(&world, "setKeySuccessor", json!({ "key": "payments/new", "successor": "payments/old" })).await;
    assert_eq!(circle.as_deref(), Some("successor_leads_back"));

    // The end: by date, with what is known of backups; then the record of it.
    world.cli(&["key", "deactivate", "payments/old/1", "--yes"]).await.unwrap();
    let refused = world.cli(&["key", "destroy", "payments/old/1", "--yes"]).await.unwrap_err();
    assert_eq!(refused.code, "key_deletion_protected");
    assert!(refused.hint.is_some_and(|hint| hint.contains("key protect")), "it says what to do");
    world.cli(&["key", "protect", "payments/old", "--off"]).await.unwrap();
    let backups = clock.now().plus(Duration::from_secs(30 * 86_400)).to_string();
    world.cli(&["key", "destroy", "payments/old/1", "--wait", "1h", "--backups-expire", &backups, "--reason", "moved"]).await.unwrap();
    let planned = key(&world, "payments/old").await["versions"][0]["destruction"].clone();
    assert_eq!((&planned["begunAt"], &planned["proven"], &planned["holders"][0]["said"]), (&Value::Null, &json!(false), &json!("READY")));
    clock.advance(Duration::from_secs(2 * 3_600));
    let done = until_key(&world, "payments/old", |key| !key["versions"][0]["destruction"]["completedAt"].is_null()).await;
    let record = &done["versions"][0]["destruction"];
    assert_eq!(
        (&record["proven"], &record["holders"][0]["said"], &record["backupsExpireAt"]),
        (&json!(true), &json!("DESTROYED"), &json!(backups))
    );
    world.cli(&["key", "show", "payments/old"]).await.unwrap();
    let (_, refused) = world.call(&agent, "/v1/decrypt", &token, &json!({ "message": sealed["message"] })).await;
    assert_eq!(refused["code"], "version_state", "{refused}");

    // A compromised version lists what it protected; nothing hides that a holder could not say so.
    world.cli(&["key", "compromise", "payments/new/1", "--reason", "a laptop was lost"]).await.unwrap();
    world.mutate("setKeyDeletionProtection", json!({ "key": "payments/new", "protected": false }), "key { id }").await;
    agent.stop().await.unwrap();
    world.mutate("destroyKeyVersion", json!({ "version": "payments/new/1", "waitSeconds": "3600" }), "key { id }").await;
    clock.advance(Duration::from_secs(2 * 3_600));
    until_key(&world, "payments/new", |key| key["versions"][0]["state"] == "DESTROYED").await;
    let lost = ["key", "attest-lost", "payments/new/1", "--holder", &enrolled.agent.to_string(), "--attestation", "Burnt."];
    world.cli(&lost).await.unwrap();
    let record = key(&world, "payments/new").await["versions"][0]["destruction"].clone();
    assert_eq!((&record["proven"], &record["holders"][0]["said"]), (&json!(false), &json!("LOST")));
    assert!(!record["completedAt"].is_null() && record["holders"][0]["attestation"] == "Burnt.", "{record}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_rotates_by_calendar_and_ends_the_old_version() {
    let clock = ShiftedClock::new();
    let world = World::start_at(Arc::new(clock.clone())).await;
    let config = world.agent_config("agent", PLAIN);
    world.enrol(&config).await;
    let agent = world.agent(&config).await;
    world.encryption_key("cards").await;
    until_key(&world, "payments/cards", |key| key["primaryVersion"] == 1).await;
    world.mutate("setKeyDeletionProtection", json!({ "key": "payments/cards", "protected": false }), "key { id }").await;
    let wrong = world.query(
        "mutation { setKeyRotationRule(input: { key: \"payments/cards\", rotation: { calendar: \"every day\" } }) { userErrors { code field } } }",
        json!({}),
    );
    assert_eq!(wrong.await["setKeyRotationRule"]["userErrors"][0], json!({ "code": "invalid_input", "field": "rotation" }));
    let rule = ["key", "rotation", "payments/cards", "--rotate-at", "*/30 * * * *", "--deactivate-after", "10m", "--destroy-after", "1h"];
    world.cli(&rule).await.unwrap();

    // Half an hour on, the next version comes by itself; ten minutes later the old one only opens; an hour later it is gone.
    clock.advance(Duration::from_secs(31 * 60));
    let rotated = until_key(&world, "payments/cards", |key| key["primaryVersion"] == 2).await;
    assert!(!rotated["versions"][0]["deactivationDueAt"].is_null(), "{rotated}");
    clock.advance(Duration::from_secs(11 * 60));
    let ended = until_key(&world, "payments/cards", |key| !key["versions"][0]["destructionDueAt"].is_null()).await;
    assert_eq!(ended["versions"][0]["state"], "DEACTIVATED", "{ended}");
    clock.advance(Duration::from_secs(63 * 60));
    until_key(&world, "payments/cards", |key| key["versions"][0]["destruction"]["proven"] == true).await;
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_while_versions_come_and_go_brings_them_to_their_end() {
    let clock = ShiftedClock::new();
    let world = World::start_at(Arc::new(clock.clone())).await;
    let config = world.agent_config("agent", PLAIN);
    world.enrol(&config).await;
    clock.share_with(&world.path("agent"));
    let (rounds, below) = (4, |limit: u64| {
        let mut bytes = [0; 8];
        SystemIds.fill(&mut bytes);
        Duration::from_millis(u64::from_be_bytes(bytes) % limit)
    });
    for round in 0..rounds {
        // Asked for while nobody is there; then killed at any moment of making, reporting, activating.
        let name = format!("k{round}");
        world.encryption_key(&name).await;
        world.mutate("setKeyDeletionProtection", json!({ "key": format!("payments/{name}"), "protected": false }), "key { id }").await;
        let mut process = Process::start_enrolled(&world.path("agent"));
        for _ in 0..2 {
            tokio::time::sleep(below(400)).await;
            process.kill();
            process = Process::start_enrolled(&world.path("agent"));
        }
        let reference = format!("payments/{name}");
        let made = until_key(&world, &reference, |key| key["primaryVersion"] == 1).await;
        assert_eq!(made["versions"].as_array().unwrap().len(), 1, "one version was asked for, and one was made: {made}");

        // And at any moment of destroying.
        world.mutate("destroyKeyVersion", json!({ "version": format!("{reference}/1"), "waitSeconds": "3600" }), "key { id }").await;
        clock.advance(Duration::from_secs(3_601));
        for _ in 0..2 {
            tokio::time::sleep(below(4_000)).await;
            process.kill();
            process = Process::start_enrolled(&world.path("agent"));
        }
        let gone = until_key(&world, &reference, |key| key["versions"][0]["destruction"]["proven"] == true).await;
        assert_eq!(gone["versions"][0]["state"], "DESTROYED", "{gone}");
        process.kill();
    }
    // However often it died, it was never taken for two.
    let states = world.query("{ agents(first: 5) { nodes { state } } }", json!({})).await;
    assert_eq!(states["agents"]["nodes"], json!([{ "state": "ROSTERED" }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_people_who_act_at_once_one_is_told_that_the_other_was_first() {
    let world = World::start().await;
    let config = world.agent_config("agent", PLAIN);
    world.enrol(&config).await;
    let agent = world.agent(&config).await;
    for round in 0..5 {
        let name = format!("k{round}");
        world.encryption_key(&name).await;
        let reference = format!("payments/{name}");
        until_key(&world, &reference, |key| key["primaryVersion"] == 1).await;
        world.mutate("setKeyDeletionProtection", json!({ "key": reference, "protected": false }), "key { id }").await;
        let query = format!("{{ key(reference: \"{reference}\") {{ revision }} }}");
        let seen = world.query(&query, json!({})).await["key"]["revision"].clone();

        // Both looked at the same revision, one rotates, the other suspends.
        let rotate = attempt(&world, "rotateKey", json!({ "key": reference, "expectedRevision": seen }));
        let suspend = attempt(&world, "suspendKey", json!({ "key": reference, "expectedRevision": seen }));
        let (rotated, suspended) = tokio::join!(rotate, suspend);
        let outcomes = [rotated.as_deref(), suspended.as_deref()];
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_none()).count(), 1, "{outcomes:?}");
        assert!(outcomes.contains(&Some("wrong_revision")), "{outcomes:?}");

        // Neither looked: both want the same end, and get it once.
        let version = format!("{reference}/1");
        let destroy = || attempt(&world, "destroyKeyVersion", json!({ "version": version, "waitSeconds": "3600" }));
        let (one, other) = tokio::join!(destroy(), destroy());
        let outcomes = [one.as_deref(), other.as_deref()];
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_none()).count(), 1, "{outcomes:?}");
        assert!(outcomes.contains(&Some("destruction_already_scheduled")), "{outcomes:?}");
    }
    agent.stop().await.unwrap();
}
