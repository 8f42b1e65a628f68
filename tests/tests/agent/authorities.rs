//! The certificate authorities of agents are rotated, and agents come back by their pair: who may, and who may not.

use std::sync::Arc;

use data_plane_agent::{
    app::open_vault,
    config::Config,
    control::directory::{AgentKeys, ControlDirectory, StoredIdentity},
};
use freehold_tests::world::{World, until};
use reqwest::Client;
use schema::{
    clock::{Clock, SystemClock, SystemIds},
    encoding::Digest,
    id::AgentId,
    wire::agent::{ComebackRequest, path},
};
use serde_json::{Value, json};
use trust::{
    document::{self, CertificateAsk},
    pair::Pair,
};

/// What an agent keeps of itself.
async fn kept(config: &Config) -> (StoredIdentity, AgentKeys) {
    let directory = ControlDirectory::open(&config.data_dir).unwrap();
    let stored = directory.identity().unwrap().unwrap();
    let vault = open_vault(config, Arc::new(SystemIds)).await.unwrap();
    let keys = directory.keys(&stored, &*vault).await.unwrap();
    (stored, keys)
}

fn request(key_pem: Option<&str>) -> (String, Digest) {
    let key = match key_pem {
        Some(pem) => rcgen::KeyPair::from_pem(pem).unwrap(),
        None => rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
    };
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    (request.pem().unwrap(), Digest::of(request.der()))
}

/// Asks as somebody with this pair; gives status and code, or the answer.
async fn come_back(world: &World, ask: &CertificateAsk, pair: &Pair, csr_pem: &str) -> (u16, Value) {
    let client = Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap();
    let url = format!("https://{}{}", world.plane.agents_address(), path::COMEBACK);
    let body = ComebackRequest { ask: document::sign(ask, pair), csr_pem: csr_pem.to_owned() };
    let answer = client.post(url).json(&body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_agents_own_pair_brings_it_back_for_its_own_key_while_it_is_an_agent() {
    let world = World::start().await;
    let config = world.agent_config("agent", "plain_http = true");
    world.enrol(&config).await;
    let (stored, keys) = kept(&config).await;
    let (csr_pem, csr) = request(Some(&keys.tls_key_pem));
    let identity = &stored.identity;
    let ask = CertificateAsk { tenant: identity.tenant, site: identity.site, agent: identity.agent, csr, issued: SystemClock.now() };

    let (status, answer) = come_back(&world, &ask, &keys.pair, &csr_pem).await;
    assert_eq!(status, 200, "{answer}");
    let fields: std::collections::BTreeSet<_> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    // Nothing of what the site does goes to somebody who does not know yet whom it talks to.
    assert_eq!(fields, ["ca_pem", "certificate_expires", "certificate_pem", "heartbeat", "roots"].into());

    let code = async |ask: &CertificateAsk, pair: &Pair, csr: &str| {
        let (status, answer) = come_back(&world, ask, pair, csr).await;
        (status, answer["code"].as_str().unwrap_or("ok").to_owned())
    };
    let refused = |status: u16, code: &str| (status, code.to_owned());
    // Another pair; another key; the agent's own ask, shown with somebody else's request; another agent or site.
    assert_eq!(code(&ask, &Pair::generate(&SystemIds), &csr_pem).await, refused(400, "certificate_ask_invalid"));
    let (other_pem, other) = request(None);
    assert_eq!(code(&CertificateAsk { csr: other, ..ask.clone() }, &keys.pair, &other_pem).await, refused(403, "certificate_superseded"));
    assert_eq!(code(&ask, &keys.pair, &other_pem).await, refused(400, "certificate_ask_invalid"));
    assert_eq!(
        code(&CertificateAsk { agent: AgentId::from_bits(9), ..ask.clone() }, &keys.pair, &csr_pem).await,
        refused(403, "agent_unknown")
    );
    let elsewhere = CertificateAsk { site: schema::id::SiteId::from_bits(9), ..ask.clone() };
    assert_eq!(code(&elsewhere, &keys.pair, &csr_pem).await, refused(403, "agent_unknown"));

    world.cli(&["agent", "revoke", &identity.agent.to_string(), "--reason", "keyCompromise"]).await.unwrap();
    assert_eq!(code(&ask, &keys.pair, &csr_pem).await, refused(403, "agent_revoked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_hear_of_the_next_authority_before_it_takes_over_and_operators_alone_rotate() {
    let world = World::start().await;
    let config = world.agent_config("agent", "plain_http = true");
    world.enrol(&config).await;
    let agent = world.agent(&config).await;
    let believed = || {
        let file = std::fs::read(config.data_dir.join("control/authorities.json")).unwrap_or_default();
        String::from_utf8(file).unwrap().matches("BEGIN CERTIFICATE").count()
    };
    let until_believed = async |count: usize| {
        until(|| async { if believed() == count { Ok(()) } else { Err(format!("{} are believed", believed())) } }).await;
    };
    until_believed(1).await;
    world.cli(&["authority", "rotate"]).await.unwrap_err();
    world.cli(&["authority", "show"]).await.unwrap_err();

    world.operate(&["authority", "rotate"]).await.unwrap();
    until_believed(2).await;
    let twice = world.operate(&["authority", "rotate"]).await.unwrap_err();
    assert!(twice.message.contains("waits to take over"), "{twice:?}");
    world.operate(&["authority", "rotate", "--now"]).await.unwrap();
    world.operate(&["authority", "show"]).await.unwrap();

    // The agent knew it beforehand: it goes on, and its next connection too.
    agent.stop().await.unwrap();
    let agent = world.agent(&config).await;
    world.encryption_key("cards").await;
    let token = world.caller("app", &config).await;
    world.publish("permit (principal, action, resource);").await;
    world.until_allowed(&agent, "/v1/encrypt", &token, &json!({ "key": "payments/cards", "plaintext": "AAAA" })).await;
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_finds_another_control_plane_at_the_address_is_told_the_one_command() {
    let (world, other) = (World::start().await, World::start().await);
    let config = world.agent_config("agent", "plain_http = true");
    world.enrol(&config).await;
    let mut moved = config.clone();
    moved.control_plane.url = Some(format!("https://{}", other.plane.agents_address()));
    let agent = world.agent(&moved).await;
    let note = until(|| async {
        let said = world.ask(&agent, "/readyz").await;
        said["notes"]["certificate"].as_str().map(str::to_owned).ok_or_else(|| said.to_string())
    })
    .await;
    assert!(note.contains("agent_unknown") && note.contains("freehold-agent enrol --again --token-file"), "{note}");
    agent.stop().await.unwrap();
    // What it believed before, it believes still: at the right address it goes on.
    let agent = world.agent(&config).await;
    let body = json!({ "key": "payments/cards", "plaintext": "AAAA" });
    world.encryption_key("cards").await;
    let token = world.caller("app", &config).await;
    world.publish("permit (principal, action, resource);").await;
    world.until_allowed(&agent, "/v1/encrypt", &token, &body).await;
    agent.stop().await.unwrap();
}
