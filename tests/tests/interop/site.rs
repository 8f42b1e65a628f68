//! An agent over HTTP with one key of every algorithm and purpose, and what the programs need to know of its keys.

use std::sync::Arc;

use data_plane_agent::{
    app::{App, Running},
    config::Config,
    rest::tokens,
};
use reqwest::{Client, StatusCode};
use schema::{
    catalogue::Algorithm,
    clock::{ManualClock, ManualIds, SystemIds},
    id::{KeyId, KeyVersion},
    key::{Purpose, VersionState},
};
use serde_json::{Value, json};
use trust::{
    accept::accept,
    statement::state::KeyState,
    testing::{AGENT, CALLER, START, World, definition},
};

use crate::{
    partners::Partner,
    peer::{Answer, Peers},
};

/// A key of the agent.
pub struct Key {
    pub version: KeyVersion,
    pub algorithm: Algorithm,
    pub purpose: Purpose,
    /// `project/name`.
    pub name: String,
    /// What the programs get to know of it: the public half, or all of a symmetric key.
    pub jwk: Value,
    /// With the private half; none when no program can write it down.
    pub private: Option<Value>,
    /// The public half as the agent writes it in PEM, when it does.
    pub pem: Option<String>,
}

/// A running agent.
pub struct Site {
    pub keys: Vec<Key>,
    pub partners: Vec<Partner>,
    agent: Running,
    http: Client,
    token: String,
    _directory: tempfile::TempDir,
}

impl Site {
    pub async fn start(peers: &mut Peers) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key_file = directory.path().join("vault.key");
        std::fs::write(&key_file, [7; 32]).unwrap();
        std::fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let file = directory.path().join("agent.toml");
        let text = format!(
            "data_dir = \"{0}/data\"\n[server]\nlisten = \"127.0.0.1:0\"\nplain_http = true\nworkers = 1\n\
             [vault]\nkind = \"file\"\nkey_file = \"{0}/vault.key\"\n",
            directory.path().display()
        );
        std::fs::write(&file, text).unwrap();
        let config = Config::load(Some(&file), [], &Default::default()).unwrap();
        service::files::create_private_directory(&config.data_dir).unwrap();
        let (vault_directory, callers_file) = (config.vault_directory(), config.callers_file());
        let clock = ManualClock::at(START);
        let token = tokens::add(&callers_file, CALLER.to_string().parse().unwrap(), &clock, &ManualIds::seeded(1)).unwrap();
        let agent = App::start(config, Arc::new(clock), Arc::new(SystemIds)).await.unwrap();

        let mut world = World::new();
        world.state.keys.clear();
        let kinds = Algorithm::all().flat_map(|algorithm| algorithm.entry().purposes.iter().map(move |purpose| (algorithm, *purpose)));
        let mut keys = Vec::new();
        for (number, (algorithm, purpose)) in kinds.enumerate() {
            let (version, name) = (KeyVersion::new(KeyId::from_bits(100 + number as u128), 1), format!("key-{number}"));
            make(&agent, &mut world, version, algorithm, purpose, &name).await;
            let name = format!("payments/{name}");
            keys.push(Key { version, algorithm, purpose, name, jwk: Value::Null, private: None, pem: None });
        }
        crate::composites::define(&mut world, |algorithm| {
            let signs = |key: &&Key| key.algorithm == algorithm && key.purpose == Purpose::Sign;
            keys.iter().find(signs).unwrap().version.key
        });
        crate::keys::define(&mut world);
        let partners = crate::partners::define(peers, &mut world).await;
        let set = accept(None, &world.set(), &world.identity(), &Default::default(), world.now()).unwrap();
        agent.put_in_force(&set).unwrap();

        let mut site = Self { keys, partners, agent, http: Client::new(), token: token.reveal().to_owned(), _directory: directory };
        let read = json!({ "op": "vault", "directory": vault_directory, "key_file": key_file });
        let seeds = peers.python.must(read).await;
        for number in 0..site.keys.len() {
            site.introduce(peers, number, &seeds["keys"]).await;
        }
        site
    }

    /// Finds out what the programs need to know of a key.
    async fn introduce(&mut self, peers: &mut Peers, number: usize, seeds: &Value) {
        let key = &self.keys[number];
        let (entry, version) = (key.algorithm.entry(), key.version.to_string());
        let (jwk, pem) = if entry.asymmetric {
            let read = |format| self.http.get(format!("http://{}/v1/keys/{version}/public?format={format}", self.agent.address));
            let jwk = read("jwk").bearer_auth(&self.token).send().await.unwrap().error_for_status().unwrap().json().await.unwrap();
            let pem = read("pem").bearer_auth(&self.token).send().await.unwrap();
            (jwk, if pem.status() == StatusCode::OK { Some(pem.text().await.unwrap()) } else { None })
        } else {
            (json!({ "kty": "oct", "kid": version, "alg": entry.jose_alg }), None)
        };
        let seed = &seeds[&version]["seed"];
        assert_eq!(seeds[&version]["algorithm"], entry.name);
        let private = match peers.python.ask(json!({ "op": "private", "key": jwk, "seed": seed })).await {
            Answer::Done(answer) => Some(answer["key"].clone()),
            Answer::Unknown => None,
            Answer::Refused(why) => panic!("{}: {why}", entry.name),
        };
        let key = &mut self.keys[number];
        key.jwk = if entry.asymmetric { jwk } else { private.clone().unwrap_or(jwk) };
        (key.private, key.pem) = (private, pem);
    }

    /// Asks the agent for something it must do.
    pub async fn call(&self, path: &str, body: Value) -> Value {
        match self.attempt(path, body).await {
            (StatusCode::OK, answer) => answer,
            (status, problem) => panic!("{path}: {status} {problem}"),
        }
    }

    /// Asks the agent for something it may refuse.
    pub async fn attempt(&self, path: &str, body: Value) -> (StatusCode, Value) {
        let url = format!("http://{}{path}", self.agent.address);
        let answer = self.http.post(url).bearer_auth(&self.token).json(&body).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    /// Sends a stream; what comes back, or nothing when it was refused or broke off.
    pub async fn stream(&self, path: &str, context: &str, body: Vec<u8>) -> Option<Vec<u8>> {
        let request = self.http.post(format!("http://{}{path}", self.agent.address)).bearer_auth(&self.token);
        let answer = request.header("freehold-context", context).body(body).send().await.ok()?;
        Some(answer.error_for_status().ok()?.bytes().await.ok()?.to_vec())
    }
}

/// Makes version 1 of a key in the vault, and says so in policy and state.
async fn make(agent: &Running, world: &mut World, version: KeyVersion, algorithm: Algorithm, purpose: Purpose, name: &str) {
    let held = agent.vault().generate(version, algorithm).await.unwrap();
    let mut entry = world.version(1, VersionState::Active, START);
    let mut record = world.record(1, held.fingerprint);
    (record.version, record.algorithm, record.public_key) = (version, algorithm, held.public_key.clone().map(Into::into));
    let mut report = world.report(1, held.fingerprint);
    report.version = version;
    entry.record = Some(trust::dsse::sign_document(&record, &[&world.agent]).into());
    entry.ready = [(AGENT, trust::dsse::sign_document(&report, &[&world.agent]).into())].into();
    world.state.keys.insert(version.key, KeyState { primary: 1, versions: [(1, entry)].into() });
    let mut key = definition();
    (key.name, key.algorithm, key.purpose) = (name.parse().unwrap(), algorithm, purpose);
    key.exportable = true;
    world.project_policy().keys.insert(version.key, key);
}
