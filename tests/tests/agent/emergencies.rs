//! Emergencies as people meet them: something is to stop at once, and an agent's host was copied or restored.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use data_plane_agent::{
    app::{Running, run_locked},
    config::Config,
    lock,
};
use freehold_tests::world::{World, until};
use schema::{
    clock::{SystemClock, SystemIds},
    encoding::base64url,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const PLAIN: &str = "plain_http = true";

/// A system with an agent, a key and a caller that may do everything.
async fn system() -> (World, Config, Running, String) {
    let world = World::start().await;
    let config = world.agent_config("agent", PLAIN);
    world.enrol(&config).await;
    let agent = world.agent(&config).await;
    let token = world.caller("app", &config).await;
    world.publish("permit (principal, action, resource);").await;
    world.encryption_key("cards").await;
    world.until_allowed(&agent, "/v1/encrypt", &token, &encrypt()).await;
    (world, config, agent, token)
}

fn encrypt() -> Value {
    json!({ "key": "payments/cards", "plaintext": base64url(b"4111") })
}

async fn code(world: &World, agent: &Running, token: &str) -> String {
    let (_, answer) = world.call(agent, "/v1/encrypt", token, &encrypt()).await;
    answer["code"].as_str().unwrap_or("ok").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_stops_a_site_a_project_a_caller_or_a_key_and_tells_how_long_it_took() {
    let (world, _, agent, token) = system().await;
    let cases: [(&[&str], &[&str], &str); 4] = [
        (&["site", "suspend", "fra"], &["site", "resume", "fra"], "site_suspended"),
        (&["project", "suspend", "payments"], &["project", "resume", "payments"], "caller_suspended"),
        (&["caller", "suspend", "payments/app"], &["caller", "resume", "payments/app"], "caller_suspended"),
        (&["key", "suspend-all", "payments/cards"], &["key", "resume-all", "payments/cards"], "version_state"),
    ];
    for (suspend, resume, expected) in cases {
        let began = Instant::now();
        world.cli(&[suspend, &["--reason", "a drill", "--wait"]].concat()).await.unwrap();
        let took = began.elapsed();
        // Not a moment later than the command says.
        assert_eq!(code(&world, &agent, &token).await, expected, "{suspend:?}");
        assert!(took < Duration::from_secs(20), "{suspend:?} took {took:?}");
        assert!(world.cli(suspend).await.unwrap_err().code.ends_with("already_suspended"), "{suspend:?}");
        world.cli(resume).await.unwrap();
        world.until_allowed(&agent, "/v1/encrypt", &token, &encrypt()).await;
    }
    // What nobody can enforce is not called contained.
    let query = "query($site: String!) { containment(site: $site) { complete agents { enforced } } }";
    let not_suspended = world.query(query, json!({ "site": "fra" })).await;
    assert_eq!(not_suspended["containment"], json!({ "complete": false, "agents": [] }));
    agent.stop().await.unwrap();
    let error = world.cli(&["site", "suspend", "fra", "--wait", "--wait-at-most", "1s"]).await.unwrap_err();
    assert_eq!(error.code, "not_contained_yet");
    assert!(error.message.starts_with("0 of 1 agents enforce it after"), "{}", error.message);
}

/// A copy of an agent's host, stopped, with its own settings.
fn copy(world: &World, from: &Config, name: &str) -> Config {
    let config = world.agent_config(name, PLAIN);
    copy_folder(&from.data_dir, &config.data_dir);
    config
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

const AGENT: &str = "query($id: ID!) { agent(id: $id) { state lastSeenAt quarantine { at known { host address startedAt heardAt } \
                     other { host address startedAt heardAt } } } }";

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_started_twice_is_cut_off_and_the_right_host_enrols_again_with_its_vault() {
    let (world, config, agent, token) = system().await;
    let sealed = world.until_allowed(&agent, "/v1/encrypt", &token, &encrypt()).await;
    let id = world.query("{ agents(first: 1) { nodes { id } } }", json!({})).await["agents"]["nodes"][0]["id"].clone();
    let looked_at = async || world.query(AGENT, json!({ "id": id })).await["agent"].clone();
    let reported_after = async |before: Value| {
        until(|| async {
            let seen = looked_at().await["lastSeenAt"].clone();
            if seen == before { Err(format!("not heard since {before}")) } else { Ok(seen) }
        })
        .await
    };

    // A start after a start is no second agent, however it ended.
    let mut agent = agent;
    for _ in 0..3 {
        let seen = looked_at().await["lastSeenAt"].clone();
        agent.stop().await.unwrap();
        agent = world.agent(&config).await;
        reported_after(seen).await;
        assert_eq!(looked_at().await["state"], "ROSTERED");
    }

    let seen = looked_at().await["lastSeenAt"].clone();
    agent.stop().await.unwrap();
    let image = copy(&world, &config, "copy");
    let agent = world.agent(&config).await;
    reported_after(seen).await;
    world.until_allowed(&agent, "/v1/encrypt", &token, &encrypt()).await;

    let twin = world.agent(&image).await;
    until(|| async {
        let found = looked_at().await;
        if found["state"] == "QUARANTINED" { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
    let quarantine = looked_at().await["quarantine"].clone();
    for who in ["known", "other"] {
        assert_eq!(quarantine[who]["address"], "127.0.0.1", "{quarantine}");
        assert!(!quarantine[who]["host"].as_str().unwrap().is_empty(), "{quarantine}");
    }
    assert!(quarantine["known"]["startedAt"].as_str() < quarantine["other"]["startedAt"].as_str(), "{quarantine}");
    // Both are told, and do nothing more; not even after a start.
    for process in [&agent, &twin] {
        until(|| async {
            match code(&world, process, &token).await.as_str() {
                "agent_suspended" => Ok(()),
                other => Err(other.to_owned()),
            }
        })
        .await;
    }
    twin.stop().await.unwrap();
    let twin = world.agent(&image).await;
    assert_eq!(code(&world, &twin, &token).await, "agent_suspended");
    twin.stop().await.unwrap();
    agent.stop().await.unwrap();
    let resumed = world.cli(&["agent", "resume", id.as_str().unwrap()]).await.unwrap_err();
    assert_eq!(resumed.code, "agent_not_suspended", "nobody lifts it");

    // The right host joins again: another agent, the same vault.
    let again = world.enrol_again(&config).await;
    assert_ne!(again.agent.to_string(), id.as_str().unwrap());
    let agent = world.agent(&config).await;
    let body = json!({ "message": sealed["message"] });
    let opened = world.until_allowed(&agent, "/v1/decrypt", &token, &body).await;
    assert_eq!(opened["plaintext"], base64url(b"4111"));
    world.until_allowed(&agent, "/v1/encrypt", &token, &encrypt()).await;
    // It says that it holds what the former agent made.
    let query = "{ key(reference: \"payments/cards\") { versions { holders { agentId reported } } } }";
    until(|| async {
        let holders = world.query(query, json!({})).await["key"]["versions"][0]["holders"].clone();
        let is_ready = |holder: &Value| holder["agentId"] == again.agent.to_string() && holder["reported"] == "READY";
        if holders.as_array().unwrap().iter().any(is_ready) { Ok(()) } else { Err(holders.to_string()) }
    })
    .await;
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn locking_and_unlocking_stand_in_the_journal_and_a_journal_that_cannot_be_written_stops_no_lock() {
    let (world, config, agent, token) = system().await;
    agent.stop().await.unwrap();
    let (data_dir, journal) = (config.data_dir.clone(), config.journal_directory());
    // Locked and unlocked, as the commands on the host do it; the process that obeys runs here.
    let round = async |reason: &str| {
        let locked = lock::lock(&data_dir, Some(reason), &SystemClock).unwrap();
        let asked = CancellationToken::new();
        let (settings, told, stopping) = (config.clone(), locked.clone(), asked.clone());
        let obeying =
            tokio::spawn(async move { run_locked(&settings, told, Arc::new(SystemClock), Arc::new(SystemIds), &stopping).await.unwrap() });
        until(|| async { lock::obeyed(&data_dir, &locked).map(drop).ok_or_else(|| "nobody obeys".to_owned()) }).await;
        // It holds the journal for a moment, if there is one.
        tokio::time::sleep(Duration::from_millis(300)).await;
        lock::unlock(&data_dir, &SystemClock).unwrap();
        assert!(obeying.await.unwrap());
    };
    round("a drill").await;
    let aside = world.path("journal-aside");
    std::fs::rename(&journal, &aside).unwrap();
    std::fs::write(&journal, b"no directory").unwrap();
    round("no journal").await;
    std::fs::remove_file(&journal).unwrap();
    std::fs::rename(&aside, &journal).unwrap();

    let agent = world.agent(&config).await;
    let acts = until(|| async {
        let query = "{ agents(first: 1) { nodes { id hostActs { act reason user at } } } }";
        let node = world.query(query, json!({})).await["agents"]["nodes"][0].clone();
        if node["hostActs"].as_array().unwrap().len() == 4 { Ok(node) } else { Err(node.to_string()) }
    })
    .await;
    let told: Vec<_> = acts["hostActs"].as_array().unwrap().iter().map(|act| (act["act"].clone(), act["reason"].clone())).collect();
    let expected = [("UNLOCKED", None), ("LOCKED", Some("no journal")), ("UNLOCKED", None), ("LOCKED", Some("a drill"))];
    assert_eq!(told, expected.map(|(act, reason)| (json!(act), json!(reason))));
    world.cli(&["agent", "show", acts["id"].as_str().unwrap()]).await.unwrap();
    let left = std::fs::read_dir(&data_dir).unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    assert_eq!(left.filter(|name| name.starts_with("noted.")).count(), 0);
    world.until_allowed(&agent, "/v1/encrypt", &token, &encrypt()).await;
    agent.stop().await.unwrap();
}
