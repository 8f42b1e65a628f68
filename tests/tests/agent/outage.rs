//! A control plane that cannot be reached while the journal fills, and is reached again.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use data_plane_agent::journal::Journal as _;
use freehold_tests::world::World;
use serde_json::json;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// A way to a listener that can be closed: connections on it break, and new ones come to nothing.
pub(crate) async fn way(to: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (open, watched) = watch::channel(true);
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let mut watched = watched.clone();
            if !*watched.borrow_and_update() {
                continue;
            }
            tokio::spawn(async move {
                let Ok(mut onward) = TcpStream::connect(to).await else { return };
                tokio::select! {
                    _ = copy_bidirectional(&mut from, &mut onward) => {}
                    _ = watched.changed() => {}
                }
            });
        }
    });
    (address, open)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_filled_in_an_outage_is_freed_by_its_end() {
    let world = World::start().await;
    let (address, open) = way(world.plane.agents_address()).await;
    let config = world.agent_config("agent", "plain_http = true\n[journal]\nsegment = \"128KiB\"\nlimit = \"384KiB\"");
    world.enrol_at(&config, Some(address)).await;
    world.encryption_key("cards").await;
    let token = world.caller("app", &config).await;
    world.publish("permit (principal, action, resource);").await;
    let agent = world.agent(&config).await;
    let body = json!({ "key": "payments/cards", "plaintext": "AAAA" });
    world.until_allowed(&agent, "/v1/encrypt", &token, &body).await;

    for outage in 1..=2 {
        open.send_replace(false);
        let (mut answered, started) = (0, Instant::now());
        loop {
            let (status, answer) = world.call(&agent, "/v1/encrypt", &token, &body).await;
            if status != 200 {
                assert_eq!((status, answer["code"].as_str()), (503, Some("journal_full")), "outage {outage}: {answer}");
                assert!(answer["detail"].as_str().unwrap().contains("restore the connection"), "{answer}");
                break;
            }
            answered += 1;
            assert!(started.elapsed() < Duration::from_secs(60), "{answered} operations did not fill it");
        }
        assert!(answered > 50, "outage {outage}: only {answered} were answered");
        let status = agent.journal().status();
        assert!(status.acknowledged < status.durable && status.fault.is_some(), "{status:?}");
        open.send_replace(true);
        // Nobody does anything.
        world.until_allowed(&agent, "/v1/encrypt", &token, &body).await;
    }
    let before = agent.journal().status().durable;
    freehold_tests::world::until(|| async {
        let status = agent.journal().status();
        if status.acknowledged >= before { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert!(before > 1000, "{before} entries");
    agent.stop().await.unwrap();
}
