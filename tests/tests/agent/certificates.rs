//! Callers that come with a client certificate, from the command line to the agent's TLS listener.

use std::time::Duration;

use data_plane_agent::app::Running;
use freehold_tests::world::{World, until};
use reqwest::Client;
use schema::{
    clock::{Clock, SystemClock},
    encoding::base64url,
};
use serde_json::{Value, json};

use crate::Authority;

const LEDGER: &str = "spiffe://acme.example/ledger";

/// Asks for an encryption over TLS, with a client certificate or without; gives status and body, or why TLS failed.
async fn ask(agent: &Running, certificate: Option<&str>) -> Result<(u16, Value), reqwest::Error> {
    let authority = std::fs::read(agent.development_authority().unwrap()).unwrap();
    let mut builder = Client::builder().tls_certs_only([reqwest::Certificate::from_pem(&authority).unwrap()]);
    if let Some(pem) = certificate {
        builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
    }
    let url = format!("https://{}/v1/encrypt", agent.address);
    let body = json!({ "key": "payments/cards", "plaintext": base64url(b"4111") });
    let answer = builder.build().unwrap().post(url).json(&body).send().await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}

async fn code(agent: &Running, certificate: Option<&str>) -> (u16, String) {
    let (status, answer) = ask(agent, certificate).await.unwrap();
    (status, answer["code"].as_str().unwrap_or("ok").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_let_in_for_exactly_its_caller_until_it_is_revoked() {
    let world = World::start().await;
    let config = world.agent_config("agent", "");
    world.enrol(&config).await;
    world.encryption_key("cards").await;

    let (authority, stranger) = (Authority::new(), Authority::new());
    let pem = |authority: &Authority| format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", base64_lines(&authority.der));
    std::fs::write(world.path("callers.pem"), pem(&authority)).unwrap();
    std::fs::write(world.path("stranger.pem"), pem(&stranger)).unwrap();
    let register = async |name: &str, file: &str, subject: &str| {
        let file = world.path(file);
        let arguments =
            ["caller", "register", name, "--project", "payments", "--certificate-authority", file.to_str().unwrap(), "--subject", subject];
        world.cli(&arguments).await
    };
    register("ledger", "callers.pem", LEDGER).await.unwrap();
    // The same name under another authority is another caller, and policy allows it nothing.
    register("impostor", "stranger.pem", LEDGER).await.unwrap();
    std::fs::write(world.path("nonsense.pem"), "nonsense").unwrap();
    assert!(register("broken", "nonsense.pem", LEDGER).await.is_err());

    let callers = world.query("{ callers(first: 9) { nodes { id name } } }", json!({})).await;
    let id = |name: &str| {
        let nodes = callers["callers"]["nodes"].as_array().unwrap();
        nodes.iter().find(|node| node["name"] == name).unwrap()["id"].as_str().unwrap().to_owned()
    };
    world.publish(&format!("permit (principal == Caller::\"{}\", action == Action::\"encrypt\", resource);", id("ledger"))).await;

    let agent = world.agent(&config).await;
    let ledger = authority.issue(LEDGER);
    until(|| async {
        match ask(&agent, Some(&ledger)).await {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    assert_eq!(code(&agent, Some(&authority.issue("spiffe://acme.example/other"))).await, (401, "caller_not_proved".to_owned()));
    assert_eq!(code(&agent, Some(&stranger.issue(LEDGER))).await, (403, "not_allowed_by_policy".to_owned()));
    assert_eq!(code(&agent, None).await, (401, "caller_not_proved".to_owned()));
    // What no authority of the policy has signed does not get past the handshake; nor does what has ended.
    for certificate in [Authority::new().issue(LEDGER), authority.issue_ended(LEDGER)] {
        let refused = ask(&agent, Some(&certificate)).await;
        assert!(refused.is_err(), "{refused:?}");
    }

    world.cli(&["caller", "revoke", &id("ledger"), "--reason", "keyCompromise"]).await.unwrap();
    let started = SystemClock.now();
    until(|| async {
        match ask(&agent, Some(&ledger)).await {
            Ok((200, _)) => Err("it is still let in".to_owned()),
            // Nobody is left who needs the authority: the handshake refuses what it signed.
            Err(_) => Ok(()),
            Ok((403, answer)) if answer["code"] == "caller_suspended" => Ok(()),
            Ok(other) => panic!("{other:?}"),
        }
    })
    .await;
    assert!(SystemClock.now().since(started) < Duration::from_secs(20));
    agent.stop().await.unwrap();
}

fn base64_lines(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(bytes);
    text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect::<Vec<_>>().join("\n")
}
