//! An agent that was cut off for longer than its certificate lives, and one whose host has the wrong time: it comes back by
//! itself while it can, and else says the one command to run.

use std::{sync::Arc, time::Duration};

use data_plane_agent::app::{App, Running};
use freehold_tests::world::{World, until};
use schema::clock::{Clock, ManualClock, SystemClock, SystemIds};
use serde_json::{Value, json};

const DAY: Duration = Duration::from_secs(86_400);

async fn ready(agent: &Running) -> Value {
    reqwest::get(format!("http://{}/readyz", agent.address)).await.unwrap().json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_comes_back_by_itself_within_a_month_of_its_certificates_end_and_else_says_what_to_do() {
    let clock = ManualClock::at(SystemClock.now());
    let world = World::start_at(Arc::new(clock.clone())).await;
    let config = world.agent_config("agent", "plain_http = true");
    world.enrol(&config).await;
    world.encryption_key("cards").await;
    let token = world.caller("app", &config).await;
    world.publish("permit (principal, action, resource);").await;
    let body = json!({ "key": "payments/cards", "plaintext": "AAAA" });
    let agent = world.agent(&config).await;
    let sealed = world.until_allowed(&agent, "/v1/encrypt", &token, &body).await;
    agent.stop().await.unwrap();

    // Certificates live a week. Three weeks later nobody has to do anything.
    clock.advance(21 * DAY);
    let agent = world.agent(&config).await;
    world.until_allowed(&agent, "/v1/encrypt", &token, &body).await;
    assert!(ready(&agent).await["notes"]["certificate"].is_null());
    agent.stop().await.unwrap();

    // Six weeks later it is too late; nothing is allowed, and the one command is named.
    clock.advance(42 * DAY);
    let agent = world.agent(&config).await;
    let note = until(|| async {
        let said = ready(&agent).await;
        said["notes"]["certificate"].as_str().map(str::to_owned).ok_or_else(|| said.to_string())
    })
    .await;
    assert!(note.contains("freehold-agent enrol --again --token-file"), "{note}");
    let (status, refused) = world.call(&agent, "/v1/encrypt", &token, &body).await;
    assert_eq!((status, refused["code"].as_str()), (503, Some("statements_expired")), "{refused}");
    agent.stop().await.unwrap();
    // The former identity is revoked first: nobody is left who could vouch for a newcomer.
    let former = world.query("{ agents(first: 1) { nodes { id } } }", json!({})).await["agents"]["nodes"][0]["id"].clone();
    world.cli(&["agent", "revoke", former.as_str().unwrap(), "--reason", "superseded"]).await.unwrap();
    world.enrol_again(&config).await;
    let agent = world.agent(&config).await;
    let opened = world.until_allowed(&agent, "/v1/decrypt", &token, &json!({ "message": sealed["message"] })).await;
    assert_eq!(opened["plaintext"], "AAAA");
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_host_has_the_wrong_time_says_so_and_comes_back_when_it_is_right() {
    let world = World::start().await;
    let config = world.agent_config("agent", "plain_http = true");
    world.enrol(&config).await;
    world.encryption_key("cards").await;
    let token = world.caller("app", &config).await;
    world.publish("permit (principal, action, resource);").await;
    let body = json!({ "key": "payments/cards", "plaintext": "AAAA" });
    let agent = world.agent(&config).await;
    world.until_allowed(&agent, "/v1/encrypt", &token, &body).await;
    agent.stop().await.unwrap();

    let wrong = ManualClock::at(SystemClock.now().plus(3 * 365 * DAY));
    let agent = App::start(config.clone(), Arc::new(wrong.clone()), Arc::new(SystemIds)).await.unwrap();
    let (status, refused) = world.call(&agent, "/v1/encrypt", &token, &body).await;
    assert_eq!((status, refused["code"].as_str()), (503, Some("statements_expired")), "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("set it (NTP)"), "{refused}");
    assert!(ready(&agent).await["notes"]["clock"].as_str().unwrap().contains("ahead of the last signed time"));
    // Somebody sets the clock; nothing is restarted.
    wrong.set(SystemClock.now());
    world.until_allowed(&agent, "/v1/encrypt", &token, &body).await;
    // Far behind, it goes on by the signed time.
    wrong.set(SystemClock.now().minus(365 * DAY));
    world.until_allowed(&agent, "/v1/encrypt", &token, &body).await;
    assert!(ready(&agent).await["notes"]["clock"].as_str().unwrap().contains("behind the last signed time"));
    agent.stop().await.unwrap();
}
