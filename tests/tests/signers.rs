//! A tenant with signers of its own, in a whole system: how they take over, what goes on without them, and what a stolen
//! control plane can do then.

mod signers {
    mod attacker;
    mod ceremony;
    mod ending;
    mod everyday;
    mod fresh_pairs;
    mod long_away;
    mod recovery;
    mod tokens;
    mod way_back;
}

use std::path::PathBuf;

use data_plane_agent::{app::Running as RunningAgent, config::Config as AgentConfig};
use freehold_tests::world::{World, until};
use schema::encoding::base64url;
use serde_json::{Value, json};

/// A policy under which anybody may do anything.
const OPEN: &str = "permit (principal, action, resource);";
/// A policy that lets nobody open.
const SEAL_ONLY: &str = "permit (principal, action, resource);\nforbid (principal, action == Action::\"decrypt\", resource);";

/// A signer's file and the file with its passphrase.
struct Signer {
    file: PathBuf,
    passphrase: PathBuf,
}

/// A system with an agent, a key `cards`, a caller, and signers who hold files.
struct Site {
    world: World,
    config: AgentConfig,
    agent: RunningAgent,
    token: String,
    signers: Vec<Signer>,
}

impl Site {
    /// The control plane still signs everything.
    async fn start() -> Self {
        Self::of(World::start().await).await
    }

    async fn of(world: World) -> Self {
        let config = world.agent_config("agent", "plain_http = true");
        world.enrol(&config).await;
        let agent = world.agent(&config).await;
        world.encryption_key("cards").await;
        let token = world.caller("app", &config).await;
        let mut site = Self { world, config, agent, token, signers: Vec::new() };
        site.world.publish(OPEN).await;
        site.until_open().await;
        for name in ["ada", "ben", "cem"] {
            let signer = site.signer(name).await;
            site.signers.push(signer);
        }
        site
    }

    /// Makes a signer's file.
    async fn signer(&self, name: &str) -> Signer {
        let (file, passphrase) = (self.world.path(&format!("{name}.signer")), self.world.path(&format!("{name}.passphrase")));
        service::files::write_atomic(&passphrase, b"correct horse battery staple\n", service::files::OWNER_ONLY).unwrap();
        self.cli(&["signer", "init", "--out", text(&file), "--passphrase-file", text(&passphrase)]).await.unwrap();
        Signer { file, passphrase }
    }

    async fn cli(&self, arguments: &[&str]) -> Result<(), cli::error::Error> {
        self.world.cli(arguments).await
    }

    /// `freehold <noun> sign`, as this signer.
    async fn sign(&self, noun: &str, signer: &Signer, more: &[&str]) -> Result<(), cli::error::Error> {
        let root = self.known_root().await;
        let arguments = [noun, "sign", "--yes", "--signer", text(&signer.file), "--passphrase-file", text(&signer.passphrase)];
        let named = if signer.file.with_extension("signer.memory.json").exists() { vec![] } else { vec!["--root", root.as_str()] };
        self.cli(&[&arguments[..], &named, more].concat()).await
    }

    /// The root the agent shows.
    async fn known_root(&self) -> String {
        self.world.ask(&self.agent, "/v1/status").await["root"]["sha256"].as_str().unwrap().to_owned()
    }

    /// Proposes a root of the first so many signers, two of whom must sign.
    async fn propose(&self, count: usize) {
        let mut arguments = vec!["root", "propose", "--root-threshold", "2", "--policy-threshold", "2"];
        for signer in &self.signers[..count] {
            arguments.extend(["--signer", text(&signer.file)]);
        }
        self.cli(&arguments).await.unwrap();
    }

    /// Three signers take over, two of whom must sign.
    async fn hand_over(&self) {
        self.propose(3).await;
        for signer in &self.signers[..2] {
            self.sign("root", signer, &[]).await.unwrap();
            self.until_waiting("POLICY", 2).await;
            self.sign("policy", signer, &[]).await.unwrap();
        }
        self.until_root(2).await;
    }

    /// What waits of a kind.
    async fn waiting(&self, kind: &str) -> Vec<Value> {
        let query = "query($kind: StatementKind) { statementProposals(kind: $kind) \
                     { kind scope serial rootSerial sha256 payload supersedes needs { rootSerial threshold signers signed } } }";
        self.world.query(query, json!({ "kind": kind })).await["statementProposals"].as_array().unwrap().clone()
    }

    async fn until_waiting(&self, kind: &str, count: usize) -> Vec<Value> {
        until(|| async {
            let waiting = self.waiting(kind).await;
            if waiting.len() == count { Ok(waiting) } else { Err(format!("{} of {count} wait: {waiting:?}", waiting.len())) }
        })
        .await
    }

    /// Until the agent goes by this root.
    async fn until_root(&self, serial: u64) {
        until(|| async {
            let status = self.world.ask(&self.agent, "/v1/status").await;
            if status["root"]["serial"].as_str() == Some(serial.to_string().as_str()) { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    }

    async fn call(&self, path: &str, body: &Value) -> (u16, Value) {
        self.world.call(&self.agent, path, &self.token, body).await
    }

    async fn seal(&self, key: &str) -> (u16, Value) {
        self.call("/v1/encrypt", &json!({ "key": key, "plaintext": base64url(b"secret") })).await
    }

    /// Until the caller may seal with `payments/cards` and open it again.
    async fn until_open(&self) -> Value {
        let body = json!({ "key": "payments/cards", "plaintext": base64url(b"secret") });
        let sealed = self.world.until_allowed(&self.agent, "/v1/encrypt", &self.token, &body).await;
        let body = json!({ "message": sealed["message"] });
        self.world.until_allowed(&self.agent, "/v1/decrypt", &self.token, &body).await;
        sealed
    }

    /// Until a call is answered with this status.
    async fn until_status(&self, path: &str, body: &Value, status: u16) -> Value {
        until(|| async {
            let (found, answer) = self.call(path, body).await;
            if found == status { Ok(answer) } else { Err(format!("{path}: {found} {answer}")) }
        })
        .await
    }
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}
