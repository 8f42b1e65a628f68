//! A second agent of a site: believed once an agent that is believed vouches for it.

use data_plane_agent::control::{
    directory::ControlDirectory,
    vouch::{VouchError, confirm},
};
use freehold_tests::world::{World, until};
use schema::{encoding::Digest, id::AgentId};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_counts_once_an_agent_of_the_site_has_vouched_for_it() {
    let world = World::start().await;
    let (first, second) = (world.agent_config("first", "plain_http = true"), world.agent_config("second", "plain_http = true"));
    let directory = {
        service::files::create_private_directory(&first.data_dir).unwrap();
        ControlDirectory::open(&first.data_dir).unwrap()
    };
    world.enrol(&first).await;
    let founder = world.agent(&first).await;
    let newcomer = world.enrol(&second).await;
    let joined = world.agent(&second).await;
    let state = async || {
        let query = "query($id: ID!) { agent(id: $id) { state } }";
        world.query(query, json!({ "id": newcomer.agent.to_string() })).await["agent"]["state"].as_str().unwrap().to_owned()
    };

    // The founder hears of it with the next statements; another pair than the one that was compared is not vouched for.
    let other = Digest::of(b"another pair");
    until(|| async {
        match confirm(&directory, newcomer.agent, other) {
            Err(VouchError::OtherPair { found, .. }) if found == newcomer.keyid => Ok(()),
            outcome => Err(format!("{outcome:?}")),
        }
    })
    .await;
    let stranger = AgentId::from_bits(7);
    assert!(matches!(confirm(&directory, stranger, newcomer.keyid), Err(VouchError::Unknown(agent)) if agent == stranger));
    assert_eq!(state().await, "ENROLLED");

    confirm(&directory, newcomer.agent, newcomer.keyid).unwrap();
    // Whatever is published next makes the founder look, and report.
    world.encryption_key("cards").await;
    until(|| async {
        let state = state().await;
        if state == "ROSTERED" { Ok(()) } else { Err(state) }
    })
    .await;
    joined.stop().await.unwrap();
    founder.stop().await.unwrap();
}
