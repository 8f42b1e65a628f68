//! A control plane that is killed while keys are made, moved, brought, activated and destroyed, an agent that is killed while a key is
//! brought to it, and a control plane whose disk is full: what was asked for happens once, and nobody has to help.
//!
//! The places of the kills are spread evenly over everything that happens between the command and its end (`freehold_tests::faults`).

use std::{
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use data_plane_agent::{app::Running, config::Config, journal::Journal as _};
use freehold_tests::world::{ShiftedClock, World, until};
use schema::{
    encoding::{Digest, base64url},
    id::KeyVersion,
};
use serde_json::{Value, json};

use super::{plane::PlaneProcess, process::Process};

const PLAIN: &str = "plain_http = true";
const KEY: &str = "query($key: String!) { key(reference: $key) { primaryVersion versions { id number state \
                   holders { agentId desired reported } destruction { proven completedAt } } } }";
/// How long anything may take to come right after a kill.
const PATIENCE: Duration = Duration::from_secs(60);

/// At how many places of each phase it is killed.
fn places() -> u64 {
    if std::env::var_os("FREEHOLD_SOAK").is_some() { 60 } else { 4 }
}

/// The places: after so many steps of this many, evenly spread.
fn spread(steps: u64) -> impl Iterator<Item = u64> {
    let count = places();
    (0..count).map(move |place| (steps * (2 * place + 1) / (2 * count)).max(1))
}

/// A system whose control plane may die at any time.
struct Mortal {
    plane: PlaneProcess,
    world: World,
    clock: ShiftedClock,
}

impl Mortal {
    async fn start() -> Self {
        Self::start_on(false).await
    }

    /// Whether its disk can be filled.
    async fn start_on(fillable: bool) -> Self {
        let clock = ShiftedClock::new();
        let (plane, world) = PlaneProcess::start(&clock, fillable).await;
        Self { plane, world, clock }
    }

    /// Tries until it is so, and brings the control plane back whenever it is dead.
    async fn until<T>(&mut self, attempt: impl AsyncFn(&World) -> Result<T, String>) -> T {
        let began = Instant::now();
        loop {
            let failure = match attempt(&self.world).await {
                Ok(value) => return value,
                Err(failure) => failure,
            };
            if !self.plane.revive() {
                assert!(began.elapsed() < PATIENCE, "{failure}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// A command, with an idempotency key: however often it is repeated, it is done once.
    async fn mutate(&mut self, name: &str, mut input: Value) {
        input["idempotencyKey"] = Digest::of(format!("{name} {input}").as_bytes()).to_string().into();
        self.until(async |world| world.try_mutate(name, &input, "key { id }").await).await;
    }

    async fn key(&mut self, name: &str, is: impl Fn(&Value) -> bool) -> Value {
        let reference = format!("payments/{name}");
        self.until(async |world| {
            let key = world.try_query(KEY, json!({ "key": reference })).await?["key"].clone();
            if is(&key) { Ok(key) } else { Err(key.to_string()) }
        })
        .await
    }

    /// No agent was ever taken for two, and none was cut off.
    async fn all_rostered(&mut self) {
        let agents = self.until(async |world| world.try_query("{ agents(first: 9) { nodes { state } } }", json!({})).await).await;
        let nodes = agents["agents"]["nodes"].as_array().unwrap();
        assert!(nodes.iter().all(|agent| agent["state"] == "ROSTERED"), "{nodes:?}");
    }
}

fn version(key: &Value) -> KeyVersion {
    let versions = key["versions"].as_array().unwrap();
    assert_eq!(versions.len(), 1, "one version was asked for: {key}");
    versions[0]["id"].as_str().unwrap().parse().unwrap()
}

fn ready_everywhere(key: &Value, agents: usize) -> bool {
    let holders = key["versions"][0]["holders"].as_array();
    let ready = holders.into_iter().flatten().filter(|holder| holder["reported"] == "READY").count();
    key["primaryVersion"] == 1 && key["versions"][0]["state"] == "ACTIVE" && ready == agents
}

/// Two agents, each with a vault of its own.
async fn two_agents(mortal: &Mortal) -> (Vec<Config>, Vec<Running>) {
    let world = &mortal.world;
    let configs: Vec<Config> = (0..2).map(|number| world.agent_config(&format!("agent-{number}"), PLAIN)).collect();
    world.enrol(&configs[0]).await;
    let first = world.agent(&configs[0]).await;
    service::files::create_private_directory(&configs[1].data_dir).unwrap();
    world.enrol_beside(&configs[0], &configs[1], None).await;
    let second = world.agent(&configs[1]).await;
    (configs, vec![first, second])
}

/// Asks for a key with two homes: one agent makes it, the other receives it, and then it is used.
async fn bring_up(mortal: &mut Mortal, name: &str) -> Value {
    let new = json!({
        "project": "payments", "name": name, "algorithm": "A256KW+A256GCM", "purpose": "ENCRYPT", "placement": ["fra"],
        "durability": "TWO_HOLDERS", "deletionProtection": false,
    });
    mortal.mutate("createKey", new).await;
    mortal.key(name, |key| ready_everywhere(key, 2)).await
}

/// Has it destroyed, and waits until both have signed for it.
async fn bring_down(mortal: &mut Mortal, name: &str) {
    mortal.mutate("destroyKeyVersion", json!({ "version": format!("payments/{name}/1"), "waitSeconds": "3600" })).await;
    mortal.clock.advance(Duration::from_secs(3_601));
    mortal.key(name, |key| key["versions"][0]["destruction"]["proven"] == true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_killed_at_any_step_brings_keys_to_use_and_to_their_end() {
    let mut mortal = Mortal::start().await;
    let (_, agents) = two_agents(&mortal).await;
    // How many steps it takes when nothing happens to it.
    let began = mortal.plane.steps();
    bring_up(&mut mortal, "first").await;
    let up = mortal.plane.steps();
    bring_down(&mut mortal, "first").await;
    let down = mortal.plane.steps() - up;
    let up = up - began;
    assert!(up > 20 && down > 20, "{up} and {down} steps");

    for (round, (at_making, at_ending)) in spread(up).zip(spread(down)).enumerate() {
        let name = format!("k{round}");
        mortal.plane.die_in(at_making);
        let key = bring_up(&mut mortal, &name).await;
        let version = version(&key);
        let held = [agents[0].vault().held(version).await.unwrap(), agents[1].vault().held(version).await.unwrap()];
        assert_eq!(held[0].fingerprint, held[1].fingerprint, "both have the same material");
        if !mortal.plane.revive() {
            mortal.plane.die_in(at_ending);
        }
        bring_down(&mut mortal, &name).await;
        for agent in &agents {
            assert!(agent.vault().tombstones().await.unwrap().contains(&version));
        }
        // Not at a step of its own choosing, but at once.
        mortal.plane.kill();
        mortal.plane.revive();
    }
    let (deaths, places) = (mortal.plane.deaths, usize::try_from(places()).unwrap());
    assert!(deaths > places * 2, "it died only {deaths} times");
    mortal.all_rostered().await;
    for agent in agents {
        agent.stop().await.unwrap();
    }
}

/// An EC key as OpenSSL makes it, as PEM, and its public point.
fn elsewhere(folder: &std::path::Path, name: &str) -> (PathBuf, Vec<u8>) {
    let file = folder.join(name);
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).output().expect("OpenSSL; make setup-test installs it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let path = file.to_str().unwrap();
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path]);
    let public = openssl(&["pkey", "-in", path, "-pubout", "-outform", "DER"]);
    (file, public[public.len() - 65..].to_vec())
}

/// One attempt to bring a key's material, which ends when the version is in use.
async fn bring(world: &World, url: &str, name: &str, file: &std::path::Path) -> Result<Value, String> {
    let key = world.try_query(KEY, json!({ "key": format!("payments/{name}") })).await?["key"].clone();
    if key["primaryVersion"] == 1 {
        return Ok(key);
    }
    let (reference, token) = (format!("payments/{name}"), world.path("caller.token"));
    let agent = ["--agent", url, "--caller-token-file", token.to_str().unwrap()];
    let import = ["key", "import", &reference, "--file", file.to_str().unwrap()];
    match world.cli(&[&agent[..], &import].concat()).await {
        // It came in before, and waits for its record to be known.
        Err(error) if error.code == "no_version_awaited" => {}
        Err(error) if error.code == "key_version_other_material" => panic!("{name} came in as something else"),
        _ => {}
    }
    Err(key.to_string())
}

fn imported(name: &str) -> Value {
    json!({
        "project": "payments", "name": name, "algorithm": "ECDSA-P256", "purpose": "SIGN", "placement": ["fra"],
        "durability": "SINGLE_COPY", "origin": "IMPORTED",
    })
}

/// A caller that may bring material to an agent with these settings.
async fn importer(world: &World, config: &Config) {
    let token = world.caller("app", config).await;
    service::files::write_atomic(&world.path("caller.token"), token.as_bytes(), service::files::OWNER_ONLY).unwrap();
    world.publish("permit (principal, action, resource);").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_killed_at_any_step_of_an_import_takes_what_was_brought_once() {
    let mut mortal = Mortal::start().await;
    let config = mortal.world.agent_config("agent", PLAIN);
    mortal.world.enrol(&config).await;
    let agent = mortal.world.agent(&config).await;
    importer(&mortal.world, &config).await;
    let url = format!("http://{}", agent.address);
    let mut places = None::<Vec<u64>>;
    for round in 0.. {
        let (name, began) = (format!("k{round}"), mortal.plane.steps());
        if let Some(places) = &mut places {
            let Some(place) = places.pop() else { break };
            mortal.plane.die_in(place);
        }
        let (file, public) = elsewhere(&mortal.world.path(""), &format!("{name}.pem"));
        mortal.mutate("createKey", imported(&name)).await;
        let key = mortal.until(async |world| bring(world, &url, &name, &file).await).await;
        let held = agent.vault().held(version(&key)).await.unwrap();
        assert_eq!(held.public_key.as_deref(), Some(&public[..]), "it is what was brought");
        if places.is_none() {
            places = Some(spread(mortal.plane.steps() - began).collect());
        }
    }
    assert!(mortal.plane.deaths > 0);
    mortal.all_rostered().await;
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_at_any_step_of_an_import_takes_what_was_brought_once() {
    let clock = ShiftedClock::new();
    let world = World::start_at(Arc::new(clock.clone())).await;
    let config = world.agent_config("agent", PLAIN);
    world.enrol(&config).await;
    importer(&world, &config).await;
    let folder = world.path("agent");
    clock.share_with(&folder);
    let mut process = Process::start_enrolled(&folder);
    let (mut places, mut deaths) = (None::<Vec<u64>>, 0);
    for round in 0.. {
        let name = format!("k{round}");
        let (file, public) = elsewhere(&world.path(""), &format!("{name}.pem"));
        world.mutate("createKey", imported(&name), "key { id }").await;
        let began = process.steps();
        if let Some(places) = &mut places {
            let Some(place) = places.pop() else { break };
            process.die_in(place);
        }
        let started = Instant::now();
        let key = loop {
            let failure = match bring(&world, &process.url, &name, &file).await {
                Ok(key) => break key,
                Err(failure) => failure,
            };
            if process.has_died() {
                deaths += 1;
                process = Process::start_enrolled(&folder);
            }
            assert!(started.elapsed() < PATIENCE, "{failure}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let version = version(&key);
        if places.is_none() {
            places = Some(spread(process.steps() - began).collect());
        }
        // What it signs, whoever made the key verifies: its public half is the one that was brought.
        process.kill();
        let vault = data_plane_agent::app::open_vault(&config, Arc::new(schema::clock::SystemIds)).await.unwrap();
        assert_eq!(vault.held(version).await.unwrap().public_key.as_deref(), Some(&public[..]));
        drop(vault);
        process = Process::start_enrolled(&folder);
    }
    assert!(deaths > 0, "it never died");
    let states = world.query("{ agents(first: 5) { nodes { state } } }", json!({})).await;
    assert_eq!(states["agents"]["nodes"], json!([{ "state": "ROSTERED" }]));
    process.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_whose_disk_is_full_refuses_changes_by_name_and_goes_on_when_there_is_room() {
    let mortal = Mortal::start_on(true).await;
    let world = &mortal.world;
    let config = world.agent_config("agent", PLAIN);
    world.enrol(&config).await;
    let agent = world.agent(&config).await;
    let token = world.caller("app", &config).await;
    world.publish("permit (principal, action, resource);").await;
    world.encryption_key("cards").await;
    let body = json!({ "key": "payments/cards", "plaintext": base64url(b"4111") });
    world.until_allowed(&agent, "/v1/encrypt", &token, &body).await;
    let note = async || reqwest::get(mortal.plane.url("/readyz")).await.unwrap().text().await.unwrap();
    assert!(!note().await.contains("storage"), "{}", note().await);

    // What the files of the database have can be written over, and then there is no more.
    mortal.plane.fill();
    let new = |number: usize| {
        json!({
            "project": "payments", "name": format!("full-{number}"), "algorithm": "A256KW+A256GCM", "purpose": "ENCRYPT",
            "placement": ["fra"], "durability": "SINGLE_COPY", "idempotencyKey": Digest::of(&number.to_be_bytes()).to_string(),
        })
    };
    let mut made = 0;
    let failure = loop {
        match world.try_mutate("createKey", &new(made), "key { id }").await {
            Ok(_) => made += 1,
            Err(failure) => break failure,
        }
        assert!(made < 2_000, "{made} keys were made");
    };
    // Every change is refused, by name; nothing of it is there, and what is there can be read.
    assert!(failure.contains("storage_full") && failure.contains("make room"), "after {made}: {failure}");
    for number in made..made + 3 {
        let failure = world.try_mutate("createKey", &new(number), "key { id }").await.unwrap_err();
        assert!(failure.contains("storage_full"), "{failure}");
        let absent = world.try_query(KEY, json!({ "key": format!("payments/full-{number}") })).await;
        assert!(absent.as_ref().is_ok_and(|found| found["key"].is_null()), "{absent:?}");
    }
    assert!(note().await.contains("the database has no room on its disk"), "{}", note().await);
    // Whoever uses keys does not notice.
    for _ in 0..3 {
        let (status, answer) = world.call(&agent, "/v1/encrypt", &token, &body).await;
        assert_eq!(status, 200, "{answer}");
    }

    mortal.plane.make_room();
    // The same requests are taken now, without a restart, and everything that was waiting goes on.
    for number in made..made + 3 {
        until(|| async { world.try_mutate("createKey", &new(number), "key { id }").await }).await;
    }
    let last = [made.saturating_sub(1), made, made + 2];
    for number in last {
        until(|| async {
            let key = world.try_query(KEY, json!({ "key": format!("payments/full-{number}") })).await?["key"].clone();
            if ready_everywhere(&key, 1) { Ok(()) } else { Err(key.to_string()) }
        })
        .await;
    }
    until(|| async {
        let status = agent.journal().status();
        if status.acknowledged == status.durable { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    let after = note().await;
    assert!(!after.contains("no room"), "{after}");
    assert_eq!(mortal.plane.deaths, 0);
    agent.stop().await.unwrap();
}
