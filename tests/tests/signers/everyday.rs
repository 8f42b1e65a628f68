//! What needs no signer: rotation, keys of templates, revocation, leases, a new agent in an old one's place. And what does
//! waits without harm to the rest.

use data_plane_agent::control::{directory::ControlDirectory, vouch::confirm};
use serde_json::json;

use super::super::*;

#[tokio::test(flavor = "multi_thread")]
async fn everyday_work_goes_on_without_signers() {
    let site = Site::start().await;
    // A template comes with policy, while the control plane still signs it.
    let template = json!({
        "name": "tokens", "project": "payments", "algorithms": ["A256KW+A256GCM"], "purposes": ["ENCRYPT"], "placement": ["fra"],
        "durabilities": ["SINGLE_COPY"], "labels": [], "exportable": false, "limits": { "hardUses": "1000" },
    });
    let draft = json!({ "policy": "payments/main", "content": { "cedar": OPEN, "templates": [template] } });
    site.world.mutate("savePolicyDraft", draft, "policy { id }").await;
    site.world.mutate("publishPolicy", json!({ "policy": "payments/main" }), "policy { id }").await;
    site.hand_over().await;
    let sealed = site.until_open().await;

    // Rotation.
    site.world.mutate("rotateKey", json!({ "key": "payments/cards" }), "key { id }").await;
    until(|| async {
        let answer = site.seal("payments/cards").await.1;
        if answer["key_version"].as_str().is_some_and(|version| version.ends_with("/2")) { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    site.until_status("/v1/decrypt", &json!({ "message": sealed["message"] }), 200).await;

    // A key of the template, whose limits take leases.
    let key = json!({
        "project": "payments", "name": "made", "algorithm": "A256KW+A256GCM", "purpose": "ENCRYPT", "placement": ["fra"],
        "durability": "SINGLE_COPY", "template": "tokens", "limits": { "hardUses": "1000" },
    });
    site.world.mutate("createKey", key, "key { id }").await;
    until(|| async {
        let (status, answer) = site.seal("payments/made").await;
        if status == 200 { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    assert!(site.waiting("POLICY").await.is_empty(), "none of it waits for signers");

    // A key that policy must define waits; everything else goes on, and revocation is obeyed at once.
    site.world.encryption_key("later").await;
    let waits = site.until_waiting("POLICY", 1).await;
    assert_eq!(site.seal("payments/later").await.0, 404);
    let second = site.world.caller("second", &site.config).await;
    let body = json!({ "key": "payments/cards", "plaintext": "YQ" });
    // The agent looks for new tokens every now and then; that it knows the token is not enough.
    until(|| async {
        let (status, answer) = site.world.call(&site.agent, "/v1/encrypt", &second, &body).await;
        assert_ne!(status, 200, "a new caller waits too");
        if status == 403 { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    site.world.mutate("suspendKey", json!({ "key": "payments/made" }), "key { id }").await;
    until(|| async {
        let (status, answer) = site.seal("payments/made").await;
        if status == 200 { Err(answer.to_string()) } else { Ok(()) }
    })
    .await;
    // What is resumed waits: signers may say that something acts again, the control plane may not.
    site.world.mutate("resumeKey", json!({ "key": "payments/made" }), "key { id }").await;
    until(|| async {
        let next = site.waiting("POLICY").await;
        if next.len() == 1 && next[0]["sha256"] != waits[0]["sha256"] { Ok(()) } else { Err(format!("{next:?}")) }
    })
    .await;
    assert_ne!(site.seal("payments/made").await.0, 200);

    // Another agent takes the place of the first, with its vouch and no signer's.
    let newcomer_config = site.world.agent_config("newcomer", "plain_http = true");
    let newcomer = site.world.enrol(&newcomer_config).await;
    let running = site.world.agent(&newcomer_config).await;
    let directory = ControlDirectory::open(&site.config.data_dir).unwrap();
    until(|| async { confirm(&directory, newcomer.agent, newcomer.keyid).map_err(|error| error.to_string()) }).await;
    site.world.mutate("suspendKey", json!({ "key": "payments/cards" }), "key { id }").await; // makes the agents look
    until(|| async {
        let query = "query($id: ID!) { agent(id: $id) { state } }";
        let answer = site.world.query(query, json!({ "id": newcomer.agent.to_string() })).await;
        if answer["agent"]["state"] == "ROSTERED" { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    running.stop().await.unwrap();

    // And once they sign, everything that waited is there.
    for signer in &site.signers[1..] {
        site.sign("policy", signer, &[]).await.unwrap();
    }
    until(|| async {
        let (status, answer) = site.seal("payments/later").await;
        if status == 200 { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    until(|| async {
        let (status, answer) = site.seal("payments/made").await;
        if status == 200 { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    assert_eq!(site.world.call(&site.agent, "/v1/encrypt", &second, &json!({ "key": "payments/later", "plaintext": "YQ" })).await.0, 200);
    site.agent.stop().await.unwrap();
}
