//! An agent over real HTTP, with a real vault and journal, and statements that are really signed and accepted.

mod agent {
    mod air_gapped;
    mod authorities;
    mod budgets;
    mod certificates;
    mod certify;
    mod cms;
    mod command_line;
    mod composite_journey;
    mod composites;
    mod context_keys;
    mod decisions;
    mod deltas;
    mod disks;
    mod emergencies;
    mod ends;
    mod families;
    mod import;
    mod import_journey;
    mod killed;
    mod long_outage;
    pub(crate) mod memory;
    mod movement;
    mod operations;
    mod outage;
    pub(crate) mod plane;
    mod plane_faults;
    pub(crate) mod process;
    mod receipts;
    pub(crate) mod recovery;
    mod recovery_faults;
    mod sites;
    mod streams;
    mod transit;
    mod transit_server;
    mod vault_faults;
    mod vaults;
    mod vouching;
    mod warnings;
}

use std::{num::NonZeroU64, path::Path, sync::Arc, time::Duration};

use data_plane_agent::{
    algorithm,
    app::{App, Running},
    config::Config,
    journal::segment::{Disk, SystemDisk},
    rest::tokens,
    vault::Vault,
};
use futures::StreamExt;
use reqwest::{Client, RequestBuilder, StatusCode};
use schema::{
    clock::{ManualClock, ManualIds, SystemIds, Timestamp},
    encoding::{base64url, from_base64url},
    id::{CallerId, KeyId, KeyVersion},
    key::{Purpose, VersionState},
};
use serde_json::{Value, json};
use sha2::Digest as _;
use trust::{
    accept::{AcceptedSet, accept},
    statement::{
        Scope,
        policy::{CallerDefinition, CallerKind},
        state::{KeyState, Revocation, Subject},
    },
    testing::{CALLER, KEY, PROJECT, SITE, START, World, definition},
};

const SIGNING_KEY: KeyId = KeyId::from_bits(60);
const AUDITOR: CallerId = CallerId::from_bits(70);

/// An agent with an encryption key `payments/card-data`, a signing key `payments/documents`, and two callers.
struct Site {
    world: World,
    set: Option<AcceptedSet>,
    clock: ManualClock,
    agent: Option<Running>,
    http: Client,
    billing: String,
    auditor: String,
    config: Config,
    directory: tempfile::TempDir,
}

const POLICY: &str = "permit (principal == Caller::\"BILLING\", action, resource) unless { context.encryption.hasTag(\"forbidden\") };";
const AUDIT: &str = "permit (principal == Caller::\"AUDITOR\", action == Action::\"verify\", resource);";

/// What opens the vault: 32 bytes that stand nowhere else.
const KEY_FILE: &[u8; 32] = b"\xd1opens the vault of these tests\xf7";

fn settings(directory: &Path, more: &str) -> Config {
    settings_with(directory, more, &format!("kind = \"file\"\nkey_file = \"{}/vault.key\"\n", directory.display()))
}

/// The same with another vault.
fn settings_with(directory: &Path, more: &str, vault: &str) -> Config {
    std::fs::write(directory.join("vault.key"), KEY_FILE).unwrap();
    std::fs::set_permissions(directory.join("vault.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let file = directory.join("agent.toml");
    let text = format!("data_dir = \"{}/data\"\n{more}\n[vault]\n{vault}", directory.display());
    std::fs::write(&file, text).unwrap();
    Config::load(Some(&file), [], &Default::default()).unwrap()
}

impl Site {
    async fn start() -> Self {
        Self::start_with("[server]\nlisten = \"127.0.0.1:0\"\nplain_http = true\nworkers = 2", START).await
    }

    async fn start_with(more: &str, now: Timestamp) -> Self {
        Self::start_on(Arc::new(SystemDisk), more, now).await
    }

    /// Starts on the wall clock, with this section `[vault]`.
    async fn start_with_vault(vault: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = settings_with(directory.path(), "[server]\nlisten = \"127.0.0.1:0\"\nplain_http = true\nworkers = 2", vault);
        Self::start_in(directory, Arc::new(SystemDisk), config, schema::clock::Clock::now(&schema::clock::SystemClock)).await
    }

    /// The same with the journal on this disk.
    async fn start_on(disk: Arc<dyn Disk>, more: &str, now: Timestamp) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = settings(directory.path(), more);
        Self::start_in(directory, disk, config, now).await
    }

    async fn start_in(directory: tempfile::TempDir, disk: Arc<dyn Disk>, config: Config, now: Timestamp) -> Self {
        let clock = ManualClock::at(now);
        let token = |caller: CallerId, seed| {
            let path = config.callers_file();
            service::files::create_private_directory(&config.data_dir).unwrap();
            let reference = caller.to_string().parse().unwrap();
            tokens::add(&path, reference, &clock, &ManualIds::seeded(seed)).unwrap().reveal().to_owned()
        };
        let (billing, auditor) = (token(CALLER, 1), token(AUDITOR, 2));
        let agent = App::start_on(disk, algorithm::serve, config.clone(), Arc::new(clock.clone()), Arc::new(SystemIds)).await.unwrap();
        let mut world = World::new();
        let later = now.since(START);
        let policies = world.policies.values_mut().map(|policy| &mut policy.head);
        for head in policies.chain([&mut world.state.head, &mut world.heartbeat.head]) {
            (head.issued, head.not_before, head.expires) = (now, now, head.expires.plus(later));
        }
        let policy = world.project_policy();
        let auditor_definition = CallerDefinition {
            name: "auditor".parse().unwrap(),
            project: PROJECT,
            kind: CallerKind::Token,
            issuer: SITE.to_string(),
            subject: "auditor".to_owned(),
            labels: Default::default(),
        };
        policy.callers.insert(AUDITOR, auditor_definition);
        policy.cedar = [
            ("pol_test/0".to_owned(), POLICY.replace("BILLING", &CALLER.to_string())),
            ("pol_test/1".to_owned(), AUDIT.replace("AUDITOR", &AUDITOR.to_string())),
        ]
        .into();
        let mut signing = definition();
        signing.name = "documents".parse().unwrap();
        signing.algorithm = "ML-DSA-65".parse().unwrap();
        signing.purpose = Purpose::Sign;
        policy.keys.insert(SIGNING_KEY, signing);
        let mut site = Self { world, set: None, clock, agent: Some(agent), http: Client::new(), billing, auditor, config, directory };
        site.make(KEY, "A256KW+A256GCM").await;
        site.make(SIGNING_KEY, "ML-DSA-65").await;
        site
    }

    /// Makes version 1 of a key in the vault, and says so in state.
    async fn make(&mut self, key: KeyId, algorithm: &str) {
        self.world.state.keys.insert(key, KeyState { primary: 1, versions: Default::default() });
        self.rotate(key, 1, algorithm).await;
    }

    /// Writes a key into policy, and makes its first version.
    async fn define(&mut self, key: KeyId, name: &str, algorithm: &str, purpose: Purpose) {
        let mut defined = definition();
        (defined.name, defined.algorithm, defined.purpose) = (name.parse().unwrap(), algorithm.parse().unwrap(), purpose);
        self.world.project_policy().keys.insert(key, defined);
        self.make(key, algorithm).await;
    }

    /// Makes the next version of a key, and says in state that it is the primary one.
    async fn rotate(&mut self, key: KeyId, number: u32, algorithm: &str) {
        let vault = self.agent().vault().clone();
        self.rotate_in(&*vault, key, number, algorithm, START).await;
    }

    /// The same in a vault that no agent has open.
    async fn rotate_in(&mut self, vault: &dyn Vault, key: KeyId, number: u32, algorithm: &str, now: Timestamp) {
        let version = KeyVersion::new(key, number);
        let held = vault.generate(version, algorithm.parse().unwrap()).await.unwrap();
        let mut entry = self.world.version(number, VersionState::Active, now);
        let mut record = self.world.record(number, held.fingerprint);
        (record.version, record.algorithm) = (version, held.algorithm);
        record.public_key = held.public_key.clone().map(Into::into);
        let mut report = self.world.report(number, held.fingerprint);
        report.version = version;
        entry.record = Some(trust::dsse::sign_document(&record, &[&self.world.agent]).into());
        entry.ready = [(trust::testing::AGENT, trust::dsse::sign_document(&report, &[&self.world.agent]).into())].into();
        let state = self.world.state.keys.get_mut(&key).unwrap();
        state.primary = number;
        state.versions.insert(number, entry);
    }

    fn agent(&self) -> &Running {
        self.agent.as_ref().unwrap()
    }

    /// Signs the statements as they stand, accepts them, and puts them in force.
    fn publish(&mut self) {
        self.accept();
        self.agent().put_in_force(self.set.as_ref().unwrap()).unwrap();
    }

    /// Signs the statements as they stand and accepts them.
    fn accept(&mut self) {
        let set = accept(self.set.as_ref(), &self.world.set(), &self.world.identity(), &Default::default(), self.world.now()).unwrap();
        self.set = Some(set);
    }

    /// The same with the next serials.
    fn republish(&mut self) {
        self.world.tick_policy(Scope::Project(PROJECT));
        self.world.tick();
        self.publish();
    }

    /// Starts the agent again, with what it has on disk.
    async fn start_again(&mut self) {
        let clock = Arc::new(self.clock.clone());
        self.agent = Some(App::start(self.config.clone(), clock, Arc::new(SystemIds)).await.unwrap());
        self.agent().put_in_force(self.set.as_ref().unwrap()).unwrap();
    }

    async fn stop(&mut self) {
        self.agent.take().unwrap().stop().await.unwrap();
    }

    fn post(&self, path: &str, token: &str) -> RequestBuilder {
        self.http.post(format!("http://{}{path}", self.agent().address)).bearer_auth(token)
    }

    async fn call(&self, path: &str, token: &str, body: Value) -> (StatusCode, Value) {
        let answer = self.post(path, token).json(&body).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    /// Whether it is ready, and what it says of it.
    async fn ready(&self) -> (StatusCode, Value) {
        let answer = self.http.get(format!("http://{}/readyz", self.agent().address)).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn encrypt(&self, token: &str) -> (StatusCode, Value) {
        self.call("/v1/encrypt", token, json!({ "key": "payments/card-data", "plaintext": base64url(b"4111"), "context": { "a": "1" } }))
            .await
    }
}

/// Not a test of its own: the agent that tests start as a process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_process() {
    agent::process::run().await;
}

/// Not a test of its own: the control plane that tests start as a process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plane_process() {
    agent::plane::run().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_allowed_before_a_set_is_accepted() {
    let site = Site::start().await;
    let (status, problem) = site.encrypt(&site.billing).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (503, Some("no_policy_yet")));
    let ready = site.http.get(format!("http://{}/readyz", site.agent().address)).send().await.unwrap();
    assert_eq!(ready.status().as_u16(), 503);
    assert!(ready.text().await.unwrap().contains("no policy yet"));
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_do_what_policy_allows_and_are_told_why_not() {
    let mut site = Site::start().await;
    site.publish();

    let (status, sealed) = site.encrypt(&site.billing).await;
    assert_eq!(status, StatusCode::OK, "{sealed}");
    assert_eq!(sealed["key_version"], format!("{KEY}/1"));
    assert_eq!(sealed["policies"], json!(["pol_test/0"]));
    let message = &sealed["message"];

    let (status, opened) = site.call("/v1/decrypt", &site.billing, json!({ "message": message, "context": { "a": "1" } })).await;
    assert_eq!(status, StatusCode::OK, "{opened}");
    assert_eq!(from_base64url(opened["plaintext"].as_str().unwrap()).unwrap(), b"4111");

    let (status, problem) = site.call("/v1/decrypt", &site.billing, json!({ "message": message, "context": { "a": "2" } })).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (400, Some("context_mismatch")));
    assert!(problem["request_id"].as_str().unwrap().starts_with("req_"));

    let body = json!({ "key": "payments/card-data", "plaintext": "", "context": { "forbidden": "x" } });
    let (status, problem) = site.call("/v1/encrypt", &site.billing, body).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (403, Some("not_allowed_by_policy")));
    assert_eq!(problem["facts"]["nearest"]["policy"], "pol_test/0");
    assert!(problem["facts"]["nearest"]["condition"].as_str().unwrap().contains("hasTag"), "{problem}");

    let (status, problem) = site.encrypt(&site.auditor).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (403, Some("not_allowed_by_policy")));
    let (status, problem) = site.encrypt("fh_caller_nonsense").await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (401, Some("caller_not_proved")));
    let (status, problem) = site.call("/v1/random", &site.billing, json!({ "bytes": 8 })).await;
    assert_eq!(
        (status.as_u16(), problem["code"].as_str()),
        (403, Some("not_allowed_by_policy")),
        "a project's policy does not reach the site"
    );
    let (status, problem) =
        site.call("/v1/encrypt", &site.billing, json!({ "key": "payments/card-data", "plaintext": "", "contxt": {} })).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (400, Some("invalid_body")));
    let (status, problem) = site.call("/v1/encrypt", &site.billing, json!({ "key": "payments/none", "plaintext": "" })).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (404, Some("key_not_found")));
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_are_made_and_verified_and_data_keys_opened() {
    let mut site = Site::start().await;
    site.publish();
    let payload = base64url(b"a contract");
    let (status, signed) =
        site.call("/v1/sign", &site.billing, json!({ "key": "payments/documents", "payload": payload, "detached": true })).await;
    assert_eq!(status, StatusCode::OK, "{signed}");
    let verify = |payload: String| json!({ "signature": signed["signature"], "payload": payload, "key": "payments/documents" });
    let (status, verified) = site.call("/v1/verify", &site.auditor, verify(payload)).await;
    assert_eq!((status, &verified["valid"]), (StatusCode::OK, &json!(true)), "{verified}");
    let (_, verified) = site.call("/v1/verify", &site.auditor, verify(base64url(b"another contract"))).await;
    assert_eq!((&verified["valid"], &verified["reason"]), (&json!(false), &json!("not_genuine")));
    let (status, _) = site.call("/v1/sign", &site.auditor, json!({ "key": "payments/documents", "payload": "" })).await;
    assert_eq!(status, StatusCode::FORBIDDEN);

    let body = json!({ "key": "payments/card-data", "context": { "table": "t" } });
    let (status, made) = site.call("/v1/generate-data-key", &site.billing, body).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let (_, opened) = site.call("/v1/decrypt", &site.billing, json!({ "message": made["message"], "context": { "table": "t" } })).await;
    assert_eq!(opened["plaintext"], made["plaintext"]);

    let public = |path: &str| site.http.get(format!("http://{}/v1/keys/{path}", site.agent().address)).bearer_auth(&site.billing).send();
    let jwk: Value = public("payments/documents/public").await.unwrap().json().await.unwrap();
    assert_eq!((jwk["kty"].as_str(), jwk["kid"].as_str().unwrap()), (Some("AKP"), format!("{SIGNING_KEY}/1").as_str()));
    let pem = public(&format!("{SIGNING_KEY}/public?format=pem")).await.unwrap().text().await.unwrap();
    assert!(pem.starts_with("-----BEGIN PUBLIC KEY-----"));
    assert_eq!(public("payments/card-data/public").await.unwrap().status().as_u16(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_caller_is_refused_from_the_next_request() {
    let mut site = Site::start().await;
    site.publish();
    assert_eq!(site.encrypt(&site.billing).await.0, StatusCode::OK);
    let subject = Subject::Caller(CALLER);
    let reason = schema::key::RevocationReason::KeyCompromise;
    site.world.state.revocations.push(Revocation { subject, reason, at: START });
    site.world.tick();
    site.publish();
    let (status, problem) = site.encrypt(&site.billing).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (403, Some("caller_suspended")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_set_warns_then_only_opens_then_does_nothing() {
    let mut site = Site::start().await;
    site.publish();
    let (_, sealed) = site.encrypt(&site.billing).await;
    let decrypt = json!({ "message": sealed["message"], "context": { "a": "1" } });
    site.clock.advance(Duration::from_secs(700));
    assert_eq!(site.encrypt(&site.billing).await.1["warnings"][0]["code"], "statements_stale");
    site.clock.advance(Duration::from_secs(86_400));
    assert_eq!(site.encrypt(&site.billing).await.1["code"], "not_allowed_offline");
    assert_eq!(site.call("/v1/decrypt", &site.billing, decrypt.clone()).await.0, StatusCode::OK);
    site.clock.advance(Duration::from_secs(7 * 86_400));
    assert_eq!(site.call("/v1/decrypt", &site.billing, decrypt).await.1["code"], "statements_expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_with_certificates_are_known_by_authority_and_name() {
    let now = schema::clock::Clock::now(&schema::clock::SystemClock);
    let mut site = Site::start_with("[server]\nlisten = \"127.0.0.1:0\"\nworkers = 2", now).await;
    let authority = Authority::new();
    let stranger = Authority::new();
    let caller = CallerDefinition {
        name: "ledger".parse().unwrap(),
        project: PROJECT,
        kind: CallerKind::Mtls,
        issuer: base64url(&sha2::Sha256::digest(&authority.der)),
        subject: "spiffe://acme.example/ledger".to_owned(),
        labels: Default::default(),
    };
    let id = CallerId::from_bits(71);
    let policy = site.world.project_policy();
    policy.caller_authorities = vec![authority.der.clone().into(), stranger.der.clone().into()];
    policy.callers.insert(id, caller);
    policy.cedar.insert("pol_test/2".to_owned(), POLICY.replace("BILLING", &id.to_string()));
    site.publish();

    let trusted = std::fs::read(site.agent().development_authority().unwrap()).unwrap();
    let ask = |certificate: Option<String>| {
        let mut builder = Client::builder().tls_certs_only([reqwest::Certificate::from_pem(&trusted).unwrap()]);
        if let Some(pem) = certificate {
            builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
        }
        let url = format!("https://{}/v1/encrypt", site.agent().address);
        let body = json!({ "key": "payments/card-data", "plaintext": base64url(b"4111") });
        async move { builder.build().unwrap().post(url).json(&body).send().await.unwrap().json::<Value>().await.unwrap() }
    };
    assert_eq!(ask(Some(authority.issue("spiffe://acme.example/ledger"))).await["policies"], json!(["pol_test/2"]));
    assert_eq!(ask(Some(authority.issue("spiffe://acme.example/other"))).await["code"], "caller_not_proved");
    assert_eq!(ask(Some(stranger.issue("spiffe://acme.example/ledger"))).await["code"], "caller_not_proved");
    assert_eq!(ask(None).await["code"], "caller_not_proved");
}

/// A certificate authority of callers.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    der: Vec<u8>,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: rcgen::Issuer::new(params, key), der }
    }

    /// A client certificate with this URI, and its key, PEM.
    fn issue(&self, uri: &str) -> String {
        self.issue_with(uri, |_| {})
    }

    /// The same, that ended in 2001.
    fn issue_ended(&self, uri: &str) -> String {
        self.issue_with(uri, |params| {
            (params.not_before, params.not_after) = (rcgen::date_time_ymd(2000, 1, 1), rcgen::date_time_ymd(2001, 1, 1));
        })
    }

    fn issue_with(&self, uri: &str, change: impl FnOnce(&mut rcgen::CertificateParams)) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        format!("{}{}", params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// So many bytes that do not repeat, in pieces.
fn bytes(total: NonZeroU64) -> impl futures::Stream<Item = Result<Vec<u8>, std::io::Error>> + Send {
    let pieces = total.get().div_ceil(65_536);
    futures::stream::iter((0..pieces).map(move |piece| {
        let length = (total.get() - piece * 65_536).min(65_536) as usize;
        let mut bytes = vec![0u8; length];
        for (place, eight) in bytes.chunks_mut(8).enumerate() {
            let word = (piece * 8192 + place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
            eight.copy_from_slice(&word[..eight.len()]);
        }
        Ok(bytes)
    }))
}

fn context_header() -> String {
    base64url(br#"{"purpose":"backup"}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_any_size_go_through_in_bounded_memory() {
    const SIZE: NonZeroU64 = NonZeroU64::new(64 * 1024 * 1024 + 12_345).unwrap();
    let mut site = Site::start().await;
    site.publish();
    let before = service::metrics::Process::now().resident_bytes;
    let sealing = site
        .post("/v1/stream/encrypt?key=payments/card-data", &site.billing)
        .header("freehold-context", context_header())
        .body(reqwest::Body::wrap_stream(bytes(SIZE)))
        .send()
        .await
        .unwrap();
    assert_eq!(sealing.status(), StatusCode::OK);
    assert_eq!(sealing.headers()["freehold-key-version"], format!("{KEY}/1"));
    // What comes out of one end goes into the other: neither is ever whole in memory.
    let opening = site
        .post("/v1/stream/decrypt", &site.billing)
        .header("freehold-context", context_header())
        .body(reqwest::Body::wrap_stream(sealing.bytes_stream()))
        .send()
        .await
        .unwrap();
    assert_eq!(opening.status(), StatusCode::OK);
    let (mut hash, mut length, mut peak) = (sha2::Sha256::new(), 0u64, 0);
    let mut opened = opening.bytes_stream();
    while let Some(piece) = opened.next().await {
        let piece = piece.unwrap();
        hash.update(&piece);
        length += piece.len() as u64;
        peak = peak.max(service::metrics::Process::now().resident_bytes);
    }
    let mut expected = sha2::Sha256::new();
    let mut source = std::pin::pin!(bytes(SIZE));
    while let Some(piece) = source.next().await {
        expected.update(piece.unwrap());
    }
    assert_eq!((length, hash.finalize()), (SIZE.get(), expected.finalize()));
    let grown = peak.saturating_sub(before);
    assert!(grown < 32 << 20, "memory grew by {} MiB", grown >> 20);
}

async fn sealed_file(site: &Site, size: NonZeroU64) -> Vec<u8> {
    let request = site.post("/v1/stream/encrypt?key=payments/card-data", &site.billing).header("freehold-context", context_header());
    request.body(reqwest::Body::wrap_stream(bytes(size))).send().await.unwrap().bytes().await.unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_and_cut_off_files_never_end_cleanly() {
    let mut site = Site::start().await;
    site.publish();
    let large = sealed_file(&site, NonZeroU64::new(4 << 20).unwrap()).await;
    let open =
        |file: Vec<u8>| site.post("/v1/stream/decrypt", &site.billing).header("freehold-context", context_header()).body(file).send();
    assert_eq!(open(large.clone()).await.unwrap().bytes().await.unwrap().len(), 4 << 20);

    let mut flipped = large.clone();
    flipped[3 << 20] ^= 1;
    let cut_in_chunk = large[..(3 << 20) + 77].to_vec();
    // On the border of two chunks, so that only the missing last chunk tells.
    let whole_chunks = large.len() - (large.len() - header_bytes(&large) - 56) % 16_400;
    let cut_at_chunk = large[..whole_chunks].to_vec();
    for (what, file) in [("flipped", flipped), ("cut in a chunk", cut_in_chunk), ("cut between chunks", cut_at_chunk)] {
        let answer = open(file).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{what}: it is found out later");
        assert!(answer.bytes().await.is_err(), "{what}: the answer ended cleanly");
    }

    // What is found out before anything was sent is an ordinary problem.
    let small = sealed_file(&site, NonZeroU64::new(1000).unwrap()).await;
    let mut flipped = small.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (file, code) in [(flipped, "not_genuine"), (small[..small.len() - 5].to_vec(), "not_genuine"), (small[..40].to_vec(), "truncated")]
    {
        let answer = open(file).await.unwrap();
        assert_eq!(answer.status().as_u16(), 400);
        let problem: Value = answer.json().await.unwrap();
        assert!([code, "malformed", "truncated"].contains(&problem["code"].as_str().unwrap()), "{problem}");
    }
    let other = site.post("/v1/stream/decrypt", &site.billing).header("freehold-context", base64url(br#"{"purpose":"other"}"#));
    let answer = other.body(large).send().await.unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap()["code"], "context_mismatch");
}

fn header_bytes(file: &[u8]) -> usize {
    8 + u32::from_be_bytes(file[4..8].try_into().unwrap()) as usize
}

#[tokio::test(flavor = "multi_thread")]
async fn no_journal_no_operation() {
    let more = "[server]\nlisten = \"127.0.0.1:0\"\nplain_http = true\nworkers = 2\n[journal]\nsegment = \"128KiB\"\nlimit = \"384KiB\"";
    let mut site = Site::start_with(more, START).await;
    site.publish();
    let (_, sealed) = site.encrypt(&site.billing).await;
    for _ in 0..2000 {
        let (status, answer) = site.encrypt(&site.billing).await;
        if status == StatusCode::OK {
            continue;
        }
        assert_eq!((status.as_u16(), answer["code"].as_str()), (503, Some("journal_full")));
        let decrypt = json!({ "message": sealed["message"], "context": { "a": "1" } });
        assert_eq!(site.call("/v1/decrypt", &site.billing, decrypt).await.1["code"], "journal_full");
        let ready = site.http.get(format!("http://{}/readyz", site.agent().address)).send().await.unwrap();
        assert_eq!(ready.status().as_u16(), 503);
        let ready: Value = ready.json().await.unwrap();
        assert!(ready["checks"]["journal"]["why"].as_str().unwrap().starts_with("the journal is full"), "{ready}");
        assert!(ready["notes"]["journal"].as_str().unwrap().contains("nearly full"), "{ready}");
        let status: Value = site.http.get(format!("http://{}/v1/status", site.agent().address)).send().await.unwrap().json().await.unwrap();
        assert_eq!(status["journal"]["fault"]["code"], "journal_full", "{status}");
        return;
    }
    panic!("the journal never filled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_on_the_same_data_is_told_so_and_a_stopped_one_starts_again() {
    let mut site = Site::start().await;
    let config = site.agent().config.clone();
    let second = App::start(config.clone(), Arc::new(site.clock.clone()), Arc::new(SystemIds)).await;
    let Err(error) = second else { panic!("two agents on one directory") };
    assert!(error.to_string().contains("in use"), "{error}");
    site.agent.take().unwrap().stop().await.unwrap();
    App::start(config, Arc::new(site.clock.clone()), Arc::new(SystemIds)).await.unwrap().stop().await.unwrap();
}
