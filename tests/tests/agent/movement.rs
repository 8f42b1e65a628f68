//! Several agents of a site, each with a vault of its own: versions are made by one and reach the others.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use clap::Parser as _;
use data_plane_agent::{
    app::Running,
    config::Config,
    control::enrol::Enrolled,
    keys::errands::{Answer, Errand, ErrandError, MovementFile, ask},
    rest::tokens,
};
use freehold_tests::world::{World, until};
use schema::{
    clock::{Clock, SystemClock, SystemIds, Timestamp},
    encoding::{Base64, base64url},
    token::{Token, TokenKind},
};
use serde_json::{Value, json};

use super::{outage::way, process::Process};

const PLAIN: &str = "plain_http = true";

/// A site of so many agents, all of which run and believe each other; and a caller with one token at all of them.
pub(super) struct Site {
    pub(super) world: World,
    pub(super) configs: Vec<Config>,
    enrolled: Vec<Enrolled>,
    agents: Vec<Option<Running>>,
    pub(super) token: String,
}

impl Site {
    pub(super) async fn of(count: usize) -> Self {
        Self::in_world(World::start().await, count).await
    }

    async fn in_world(world: World, count: usize) -> Self {
        let mut site = Self { world, configs: Vec::new(), enrolled: Vec::new(), agents: Vec::new(), token: String::new() };
        site.world.publish("permit (principal, action, resource);").await;
        let first = site.config();
        site.enrolled.push(site.world.enrol(&first).await);
        site.token = site.world.caller("app", &first).await;
        site.agents.push(Some(site.world.agent(&first).await));
        site.configs.push(first);
        for _ in 1..count {
            site.join().await;
        }
        site
    }

    fn config(&self) -> Config {
        let config = self.world.agent_config(&format!("agent-{}", self.configs.len()), PLAIN);
        service::files::create_private_directory(&config.data_dir).unwrap();
        config
    }

    /// One more agent joins and runs.
    pub(super) async fn join(&mut self) -> usize {
        let config = self.config();
        self.enrolled.push(self.world.enrol_beside(&self.configs[0], &config, None).await);
        let entries = tokens::list(&self.configs[0].callers_file()).unwrap();
        let token = Token::parse(TokenKind::Caller, &self.token).unwrap();
        tokens::accept(&config.callers_file(), entries[0].caller.clone(), &token, &SystemClock).unwrap();
        self.agents.push(Some(self.world.agent(&config).await));
        self.configs.push(config);
        self.agents.len() - 1
    }

    pub(super) fn agent(&self, which: usize) -> &Running {
        self.agents[which].as_ref().unwrap()
    }

    fn id(&self, which: usize) -> String {
        self.enrolled[which].agent.to_string()
    }

    async fn stop(&mut self, which: usize) {
        self.agents[which].take().unwrap().stop().await.unwrap();
    }

    pub(super) async fn key(&self, name: &str, durability: &str, generator: Option<usize>) {
        let generators: Vec<String> = generator.into_iter().map(|which| self.id(which)).collect();
        let key = json!({
            "project": "payments", "name": name, "algorithm": "A256KW+A256GCM", "purpose": "ENCRYPT", "placement": ["fra"],
            "durability": durability, "eligibleGenerators": generators, "deletionProtection": false,
        });
        self.world.mutate("createKey", key, "key { id }").await;
    }

    /// The versions of a key as everybody sees them.
    async fn versions(&self, name: &str) -> Vec<Value> {
        let query = "query($reference: String!) { key(reference: $reference) { versions { number state holders { \
                     agentId vaultId desired reported agent { state lastSeenAt } } } } }";
        let key = self.world.query(query, json!({ "reference": format!("payments/{name}") })).await;
        key["key"]["versions"].as_array().unwrap().clone()
    }

    /// What is desired of an agent and what it reported of a version.
    async fn holder(&self, name: &str, number: usize, which: usize) -> (String, String) {
        let version = &self.versions(name).await[number - 1];
        let holder = version["holders"].as_array().unwrap().iter().find(|holder| holder["agentId"] == self.id(which).as_str());
        let word = |what: &str| holder.map_or("NONE", |holder| holder[what].as_str().unwrap()).to_owned();
        (word("desired"), word("reported"))
    }

    async fn until_ready(&self, name: &str, number: usize, which: &[usize]) {
        for which in which {
            until(|| async {
                match self.holder(name, number, *which).await {
                    (_, reported) if reported == "READY" => Ok(()),
                    other => Err(format!("{name}/{number} at agent {which}: {other:?}")),
                }
            })
            .await;
        }
    }

    async fn seal(&self, which: usize, name: &str) -> String {
        let body = json!({ "key": format!("payments/{name}"), "plaintext": base64url(b"4111") });
        let sealed = self.world.until_allowed(self.agent(which), "/v1/encrypt", &self.token, &body).await;
        sealed["message"].as_str().unwrap().to_owned()
    }

    async fn open(&self, which: usize, message: &str) {
        let opened = self.world.until_allowed(self.agent(which), "/v1/decrypt", &self.token, &json!({ "message": message })).await;
        assert_eq!(opened["plaintext"], base64url(b"4111"), "{opened}");
    }

    async fn events(&self, kind: &str) -> usize {
        let query = "query($kind: String) { events(first: 100, type: $kind) { nodes { id } } }";
        self.world.query(query, json!({ "kind": kind })).await["events"]["nodes"].as_array().unwrap().len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_agent_makes_the_other_has_before_two_holders_are_needed() {
    let site = Site::of(2).await;
    site.key("cards", "TWO_HOLDERS", None).await;
    let sealed = site.seal(0, "cards").await;
    site.open(1, &sealed).await;
    let back = site.seal(1, "cards").await;
    site.open(0, &back).await;
    let version = &site.versions("cards").await[0];
    assert_eq!(version["state"], "ACTIVE");
    let holders = version["holders"].as_array().unwrap();
    assert!(holders.iter().all(|holder| (&holder["desired"], &holder["reported"]) == (&json!("READY"), &json!("READY"))), "{holders:?}");
    assert_ne!(holders[0]["vaultId"], holders[1]["vaultId"]);
    assert!(holders.iter().all(|holder| holder["agent"]["lastSeenAt"].is_string()), "{holders:?}");
    // Made by one, sent once.
    assert_eq!((site.events("VersionMade").await, site.events("MaterialSent").await), (1, 1));
    site.world.cli(&["key", "show", "payments/cards"]).await.unwrap();
    site.world.cli(&["key", "show", "payments/cards", "--as-of", &SystemClock.now().to_string()]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_latecomer_catches_up_with_every_version_and_a_dead_one_holds_nothing_up() {
    let mut site = Site::of(2).await;
    site.key("cards", "SINGLE_COPY", Some(0)).await;
    let old = site.seal(0, "cards").await;
    site.until_ready("cards", 1, &[1]).await;
    site.stop(1).await;

    // One is dead: versions become active without it, and the listing says whom they wait for.
    site.world.mutate("rotateKey", json!({ "key": "payments/cards" }), "key { id }").await;
    site.until_ready("cards", 2, &[0]).await;
    assert_eq!(site.holder("cards", 2, 1).await, ("READY".to_owned(), "ABSENT".to_owned()));
    assert_eq!(site.versions("cards").await[1]["state"], "ACTIVE");

    // A third joins: both versions come to it, the old one too.
    let third = site.join().await;
    site.until_ready("cards", 1, &[third]).await;
    site.until_ready("cards", 2, &[third]).await;
    site.open(third, &old).await;

    // With two alive, two holders are enough; the dead one comes back and has all of it.
    site.key("safe", "TWO_HOLDERS", None).await;
    let sealed = site.seal(third, "safe").await;
    assert_eq!(site.holder("safe", 1, 1).await, ("READY".to_owned(), "ABSENT".to_owned()));
    site.agents[1] = Some(site.world.agent(&site.configs[1]).await);
    site.until_ready("cards", 2, &[1]).await;
    site.open(1, &sealed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_five_agents_one_makes_one_sends_to_each_and_all_serve() {
    let site = Site::of(5).await;
    for (name, algorithm, purpose) in
        [("cards", "A256KW+A256GCM", "ENCRYPT"), ("documents", "ML-DSA-65", "SIGN"), ("old", "RSA-OAEP-256-3072", "ENCRYPT")]
    {
        let key = json!({
            "project": "payments", "name": name, "algorithm": algorithm, "purpose": purpose, "placement": ["fra"], "durability": "TWO_HOLDERS",
        });
        site.world.mutate("createKey", key, "key { id }").await;
    }
    for name in ["cards", "documents", "old"] {
        site.until_ready(name, 1, &[0, 1, 2, 3, 4]).await;
    }
    assert_eq!((site.events("VersionMade").await, site.events("MaterialSent").await), (3, 12));
    let sealed = site.seal(3, "cards").await;
    for which in 0..5 {
        site.open(which, &sealed).await;
        let body = json!({ "key": "payments/documents", "payload": base64url(b"x") });
        let signed = site.world.until_allowed(site.agent(which), "/v1/sign", &site.token, &body).await;
        let verify = json!({ "signature": signed["signature"], "key": "payments/documents" });
        site.world.until_allowed(site.agent((which + 1) % 5), "/v1/verify", &site.token, &verify).await;
    }
}

/// The machine's clock, moved ahead.
#[derive(Clone, Default)]
struct Ahead(Arc<AtomicI64>);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(SystemClock.now().micros() + self.0.load(Ordering::SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_agent_is_sent_nothing_more_and_its_copies_stand_in_the_record_of_destruction() {
    let clock = Ahead::default();
    let site = Site::in_world(World::start_at(Arc::new(clock.clone())).await, 3).await;
    site.key("cards", "TWO_HOLDERS", None).await;
    site.until_ready("cards", 1, &[0, 1, 2]).await;
    let removed = site.id(2);
    site.world.mutate("revokeAgent", json!({ "agent": removed, "reason": "CESSATION_OF_OPERATION" }), "agent { state }").await;
    assert_eq!(site.holder("cards", 1, 2).await, ("ABSENT".to_owned(), "READY".to_owned()));
    site.key("later", "TWO_HOLDERS", None).await;
    site.until_ready("later", 1, &[0, 1]).await;
    assert_eq!(site.holder("later", 1, 2).await, ("NONE".to_owned(), "NONE".to_owned()));

    let destroy = json!({ "version": "payments/cards/1", "waitSeconds": "3600" });
    site.world.mutate("destroyKeyVersion", destroy, "key { id }").await;
    clock.0.fetch_add(3_601_000_000, Ordering::SeqCst);
    for which in [0, 1] {
        until(|| async {
            match site.holder("cards", 1, which).await {
                (desired, reported) if (desired.as_str(), reported.as_str()) == ("DESTROYED", "DESTROYED") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    assert_eq!(site.holder("cards", 1, 2).await, ("DESTROYED".to_owned(), "READY".to_owned()), "it is named");
    assert_eq!(site.events("VersionDestroyed").await, 0);
    let lost = json!({ "version": "payments/cards/1", "holder": removed, "attestation": "The disk was shredded." });
    site.world.mutate("attestHolderLost", lost, "key { id }").await;
    assert_eq!((site.holder("cards", 1, 2).await.1, site.events("VersionDestroyed").await), ("LOST".to_owned(), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_there_is_not_asked_to_make_anything() {
    let clock = Ahead::default();
    let mut site = Site::in_world(World::start_at(Arc::new(clock.clone())).await, 2).await;
    // The one that joined first would make it, if it were there.
    site.stop(0).await;
    clock.0.fetch_add(240_000_000, Ordering::SeqCst);
    let now = clock.now().to_string();
    until(|| async {
        let query = "query($id: ID!) { agent(id: $id) { lastSeenAt } }";
        let seen = site.world.query(query, json!({ "id": site.id(1) })).await["agent"]["lastSeenAt"].clone();
        if seen.as_str().is_some_and(|seen| seen >= now.as_str()) { Ok(()) } else { Err(format!("{seen}, and it is {now}")) }
    })
    .await;
    site.key("cards", "SINGLE_COPY", None).await;
    site.until_ready("cards", 1, &[1]).await;
    assert_eq!(site.versions("cards").await[0]["state"], "ACTIVE");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_nobody_vouched_for_is_sent_nothing() {
    let site = Site::of(1).await;
    let config = site.config();
    let stranger = site.world.enrol(&config).await;
    let running = site.world.agent(&config).await;
    site.key("cards", "SINGLE_COPY", Some(0)).await;
    site.until_ready("cards", 1, &[0]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(running.vault().versions().await.unwrap().is_empty());
    let holders = site.versions("cards").await[0]["holders"].clone();
    assert!(!holders.to_string().contains(&stranger.agent.to_string()), "{holders}");
    assert_eq!(site.events("MaterialSent").await, 0);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_any_moment_of_the_relay_only_delay_it() {
    let mut site = Site::of(2).await;
    for which in [0, 1] {
        site.stop(which).await;
    }
    let start = |which: usize| Process::start_enrolled(&site.world.path(&format!("agent-{which}")));
    let (mut sender, mut recipient) = (start(0), start(1));
    // From before the version is made to after it was taken.
    for (number, pause) in (1..).zip([0, 150, 300, 450, 600, 800, 1000, 1300, 1700, 2200]) {
        let name = format!("key-{number}");
        site.key(&name, "TWO_HOLDERS", Some(0)).await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if number % 2 == 0 {
            sender.kill();
            sender = start(0);
        } else {
            recipient.kill();
            recipient = start(1);
        }
    }
    for number in 1..=10 {
        site.until_ready(&format!("key-{number}"), 1, &[0, 1]).await;
        assert_eq!(site.versions(&format!("key-{number}")).await[0]["state"], "ACTIVE");
    }
    assert_eq!((site.events("VersionMade").await, site.events("MaterialSent").await), (10, 10));
    sender.kill();
    recipient.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_is_gone_in_the_middle_only_delays_it() {
    let world = World::start().await;
    let (address, open) = way(world.plane.agents_address()).await;
    let mut site = Site::in_world(world, 1).await;
    let config = site.config();
    site.enrolled.push(site.world.enrol_beside(&site.configs[0], &config, Some(address)).await);
    let agent = site.world.agent(&config).await;
    site.agents.push(Some(agent));
    site.configs.push(config);
    for (number, pause) in (1..).zip([0, 200, 500, 900]) {
        let name = format!("key-{number}");
        site.key(&name, "TWO_HOLDERS", Some(0)).await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        open.send_replace(false);
        tokio::time::sleep(Duration::from_millis(700)).await;
        open.send_replace(true);
        site.until_ready(&name, 1, &[0, 1]).await;
    }
}

async fn errand(config: &Config, errand: Errand) -> Result<Answer, ErrandError> {
    let data_dir = config.data_dir.clone();
    tokio::task::spawn_blocking(move || ask(&data_dir, &errand, &SystemIds)).await.unwrap()
}

async fn prekey_file(config: &Config) -> MovementFile {
    let Answer::File { file } = errand(config, Errand::Prekey).await.unwrap() else { panic!("no file") };
    // It goes through a real file, as it would.
    let path = config.data_dir.join("prekey.json");
    std::fs::write(&path, serde_json::to_vec_pretty(&file).unwrap()).unwrap();
    MovementFile::read(&path).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_connection_material_goes_by_file_and_for_one_agent_alone() {
    let world = World::start().await;
    let (address, open) = way(world.plane.agents_address()).await;
    let mut site = Site::in_world(world, 1).await;
    // The second agent makes a key and is cut off before it has sent it on.
    let config = site.config();
    site.enrolled.push(site.world.enrol_beside(&site.configs[0], &config, Some(address)).await);
    site.agents.push(Some(site.world.agent(&config).await));
    site.configs.push(config);
    site.stop(0).await;
    site.key("cards", "SINGLE_COPY", Some(1)).await;
    site.until_ready("cards", 1, &[1]).await;
    // It has to hear that its version is known before it is alone with it.
    until(|| async {
        let known = site
            .agent(1)
            .current()
            .load()
            .is_some_and(|set| set.keys().any(|key| key.versions.get(&1).is_some_and(|version| version.record.is_some())));
        if known { Ok(()) } else { Err("the second has not heard of it".to_owned()) }
    })
    .await;
    open.send_replace(false);
    site.agents[0] = Some(site.world.agent(&site.configs[0]).await);
    until(|| async {
        let missing = site
            .agent(0)
            .current()
            .load()
            .is_some_and(|set| set.keys().any(|key| key.versions.get(&1).is_some_and(|version| version.record.is_some())));
        if missing { Ok(()) } else { Err("the first has not heard of it".to_owned()) }
    })
    .await;
    let (here, there) = (&site.configs[0], &site.configs[1]);

    let request = prekey_file(here).await;
    assert_eq!(request, prekey_file(here).await, "the same one is asked for again");
    let recipient = site.enrolled[0].agent;
    let seal = |recipient, prekeys: Vec<Base64>| errand(there, Errand::Seal { recipient, prekeys });
    // A file for somebody else than the person named, and one that nobody signed.
    let refused = seal(site.enrolled[1].agent, request.prekeys.clone()).await;
    assert!(matches!(&refused, Err(ErrandError::Refused { code, .. }) if code == "transfer_for_another_agent"), "{refused:?}");
    let mut changed = request.prekeys[0].clone();
    let place = changed.0.len() / 2;
    changed.0[place] ^= 1;
    assert!(matches!(seal(recipient, vec![changed]).await, Err(ErrandError::Refused { .. })));
    let Answer::File { file } = seal(recipient, request.prekeys).await.unwrap() else { panic!("no file") };
    assert_eq!(file.transfers.len(), 1);

    // It opens for the one it is for, and for nobody else.
    let Answer::Taken { versions, refused } = errand(there, Errand::Take { transfers: file.transfers.clone() }).await.unwrap() else {
        panic!("no answer")
    };
    assert_eq!((versions.len(), refused.len(), refused[0].0.as_str()), (0, 1, "transfer_to_itself"));
    let Answer::Taken { versions, refused } = errand(here, Errand::Take { transfers: file.transfers.clone() }).await.unwrap() else {
        panic!("no answer")
    };
    assert_eq!((versions.len(), refused.len()), (1, 0), "{refused:?}");
    site.until_ready("cards", 1, &[0]).await;
    let sealed = site.seal(0, "cards").await;
    site.open(0, &sealed).await;
    // The prekey is erased: a second time nothing opens.
    let Answer::Taken { refused, .. } = errand(here, Errand::Take { transfers: file.transfers }).await.unwrap() else {
        panic!("no answer")
    };
    assert_eq!(refused[0].0, "prekey_unknown");
    // What left and came by file left a receipt, and what was refused left none.
    open.send_replace(true);
    let sender = site.id(1);
    let user = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&here.data_dir).unwrap());
    for (operation, agent, request) in [
        ("EXPORT", 1, format!("keys export --to {recipient} by user {user}")),
        ("IMPORT", 0, format!("keys import --from {sender} by user {user}")),
    ] {
        until(|| async {
            let query = "query($operation: Operation!) { receipts(first: 10, operation: $operation) { nodes { \
                         agentId keyVersion outcome caller request } } }";
            let receipts = site.world.query(query, json!({ "operation": operation })).await["receipts"]["nodes"].clone();
            let version = receipts[0]["keyVersion"].clone();
            assert!(version.is_null() || version.as_str().unwrap().ends_with("/1"), "{receipts}");
            let expected = json!([{
                "agentId": site.id(agent), "keyVersion": version, "outcome": "OK", "caller": null, "request": request,
            }]);
            if receipts == expected { Ok(()) } else { Err(receipts.to_string()) }
        })
        .await;
    }

    // Nobody answers for an agent that does not run; what is no such file is not read.
    let data_dir = here.data_dir.clone();
    site.stop(0).await;
    let path = data_dir.join("none.json");
    std::fs::write(&path, b"{}").unwrap();
    assert!(matches!(MovementFile::read(&path), Err(ErrandError::NotAMovementFile { .. })));
    assert!(matches!(errand(&site.configs[0], Errand::Prekey).await, Err(ErrandError::NotRunning(_))));
    let nowhere = Config { data_dir: site.world.path("nowhere"), ..site.configs[0].clone() };
    assert!(matches!(errand(&nowhere, Errand::Prekey).await, Err(ErrandError::NotRunning(_))));
    assert!(!nowhere.data_dir.exists());
}

/// A command of `freehold` at these agents.
async fn cli(site: &Site, agents: &[String], arguments: &[&str]) -> Result<(), cli::error::Error> {
    let token = site.world.path("caller.token");
    service::files::write_atomic(&token, site.token.as_bytes(), service::files::OWNER_ONLY).unwrap();
    let config = site.world.path("no-profiles.toml");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let mut line = vec!["freehold".to_owned(), "--config".to_owned(), text(&config), "--caller-token-file".to_owned(), text(&token)];
    for agent in agents {
        line.extend(["--agent".to_owned(), agent.clone()]);
    }
    line.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    cli::run(cli::args::Cli::try_parse_from(line).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_goes_to_the_next_agent_when_one_is_not_there() {
    let mut site = Site::of(2).await;
    site.key("files", "TWO_HOLDERS", None).await;
    site.until_ready("files", 1, &[0, 1]).await;
    site.seal(1, "files").await;
    let url = |which: usize| format!("http://{}", site.agent(which).address);
    let (first, second) = (url(0), url(1));
    let (plain, sealed, opened) = (site.world.path("plain"), site.world.path("sealed"), site.world.path("opened"));
    // More than a client keeps of its input: what was not read yet is there for the next agent.
    std::fs::write(&plain, vec![7u8; 5 << 20]).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let encrypt = ["encrypt", "--key", "payments/files", "-q", "-i", &text(&plain), "--out", &text(&sealed)];
    let decrypt = ["decrypt", "-q", "-i", &text(&sealed), "--out", &text(&opened)];
    cli(&site, &[first.clone(), second.clone()], &encrypt).await.unwrap();
    site.stop(0).await;
    cli(&site, &[first.clone(), second.clone()], &decrypt).await.unwrap();
    assert_eq!(std::fs::read(&opened).unwrap(), vec![7u8; 5 << 20]);
    cli(&site, &[first.clone(), second.clone()], &["status"]).await.unwrap();
    let error = cli(&site, std::slice::from_ref(&first), &["status"]).await.unwrap_err();
    assert_eq!(error.exit, cli::error::Exit::Unreachable);
    // A refusal is an answer: nobody else is asked.
    let (input, out) = (text(&plain), text(&site.world.path("x")));
    let refused = cli(&site, &[second, first], &["encrypt", "--key", "payments/none", "-q", "-i", &input, "--out", &out]).await;
    assert_eq!(refused.unwrap_err().exit, cli::error::Exit::NotFound);
}
