//! An agent that missed several roots and several certificate authorities comes back by itself.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use freehold_tests::world::{World, until};
use schema::clock::{Clock, ManualClock, SystemClock};
use serde_json::{Value, json};

use crate::{Site, text};

const DAY: Duration = Duration::from_secs(86_400);

/// The certificates the agent believes, as lines of base64.
fn believed(site: &Site) -> BTreeSet<String> {
    let kept: Value = serde_json::from_slice(&std::fs::read(site.config.data_dir.join("control/authorities.json")).unwrap()).unwrap();
    let pem = kept["ca_pem"].as_str().unwrap().to_owned();
    pem.split("-----BEGIN CERTIFICATE-----").skip(1).map(str::to_owned).collect()
}

async fn until_heard(site: &Site, after: u64) {
    until(|| async {
        let serial = heartbeat(site).await;
        if serial > after { Ok(()) } else { Err(format!("still heartbeat {serial}")) }
    })
    .await;
}

async fn heartbeat(site: &Site) -> u64 {
    let status = site.world.ask(&site.agent, "/v1/status").await;
    status["heartbeat"].as_str().unwrap_or_else(|| panic!("{status}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_missed_several_roots_and_authorities_comes_back_alone_and_keeps_to_the_last() {
    let clock = ManualClock::at(SystemClock.now());
    let mut site = Site::of(World::start_at(Arc::new(clock.clone())).await).await;
    site.hand_over().await;
    site.until_open().await;
    let agent = std::mem::replace(&mut site.agent, site.world.agent(&site.world.agent_config("idle", "plain_http = true")).await);
    agent.stop().await.unwrap();

    for round in 3..=4_u64 {
        clock.advance(10 * DAY);
        site.cli(&["root", "propose", "--renew"]).await.unwrap();
        for signer in &site.signers[..2] {
            let holder = ["--signer", text(&signer.file), "--passphrase-file", text(&signer.passphrase)];
            site.cli(&[&["root", "sign", "--yes"][..], &holder].concat()).await.unwrap();
        }
        let serial = "{ statementProposals(kind: ROOT) { serial } }";
        until(|| async {
            let waits = site.world.query(serial, json!({})).await;
            if waits["statementProposals"] == json!([]) { Ok(()) } else { Err(format!("{round}: {waits}")) }
        })
        .await;
        site.world.operate(&["authority", "rotate", "--now"]).await.unwrap();
    }

    // Its certificate ended two weeks ago, and it knows neither the root in force nor the authority of the listener.
    let idle = std::mem::replace(&mut site.agent, site.world.agent(&site.config).await);
    idle.stop().await.unwrap();
    site.until_open().await;
    site.until_root(4).await;
    assert!(site.world.ask(&site.agent, "/readyz").await["notes"]["certificate"].is_null());
    // It believes the present authority and those that are still believed, and that is all.
    assert_eq!(believed(&site).len(), 3);

    // The key of an authority may be known: whatever was certified is worth nothing at once, on open connections too.
    let before = heartbeat(&site).await;
    site.world.operate(&["authority", "rotate", "--compromised"]).await.unwrap();
    until_heard(&site, before).await;
    until(|| async {
        let number = believed(&site).len();
        if number == 1 { Ok(()) } else { Err(format!("{number} are believed")) }
    })
    .await;

    // Too late is too late, whatever was rotated: the one command is named.
    let config = site.config.clone();
    site.agent.stop().await.unwrap();
    clock.advance(42 * DAY);
    let agent = site.world.agent(&config).await;
    let note = until(|| async {
        let said = site.world.ask(&agent, "/readyz").await;
        said["notes"]["certificate"].as_str().map(str::to_owned).ok_or_else(|| said.to_string())
    })
    .await;
    assert!(note.contains("freehold-agent enrol --again --token-file"), "{note}");
    agent.stop().await.unwrap();
}
