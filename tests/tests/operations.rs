//! What operators meet: starts that must fail and say what to do, an agent that starts alone, and no secret in anything that is
//! written.

mod operations {
    mod connections;
    mod external;
    mod markers;
    mod past;
    mod telemetry;
}

use std::{
    fs,
    io::Read,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use control_plane::app::{App as ControlPlane, Running as RunningControlPlane};
use data_plane_agent::{
    app::{App as Agent, Running as RunningAgent, open_vault},
    control::{
        directory::ControlDirectory,
        enrol::{EnrolParts, enrol},
    },
    rest::tokens,
};
use memchr::memmem;
use schema::{
    clock::{Clock, ManualClock, SystemClock, SystemIds, Timestamp},
    encoding::{base64url, from_base64url},
    wire::agent::EnrolmentToken,
};
use serde_json::{Value, json};
use service::{
    config::{LogConfig, LogFormat},
    explain::explain,
};
use trust::time::StoredTime;

const PLAINTEXT: &str = "plaintext-marker-0f1e2d3c4b5a69788796a5b4c3d2e1f0";
const CONTEXT_VALUE: &str = "context-marker-91827364554637281900";
const KEY_NAME: &str = "name-marker-5566778899";
const PASSPHRASE: &str = "passphrase-marker-correct-horse-battery";

struct World {
    folder: tempfile::TempDir,
    http: reqwest::Client,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        secret_file(&folder.path().join("passphrase"), PASSPHRASE.as_bytes());
        Self { folder, http: reqwest::Client::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn control_plane_config(&self) -> control_plane::config::Config {
        let mut config = control_plane::config::Config { data_dir: self.path("control-plane"), ..Default::default() };
        config.server.listen = "127.0.0.1:0".to_owned();
        config.server.plain_http = true;
        config.server.workers = Some(1);
        config.agents.listen = "127.0.0.1:0".to_owned();
        config
    }

    async fn control_plane(&self) -> RunningControlPlane {
        ControlPlane::start(self.control_plane_config(), Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap()
    }

    /// How starting the control plane fails, as a person reads it.
    async fn control_plane_error(&self, config: control_plane::config::Config) -> String {
        match ControlPlane::start(config, Arc::new(SystemClock), Arc::new(SystemIds)).await {
            Err(error) => explain("control-plane", &error),
            Ok(running) => {
                running.stop().await;
                panic!("it started")
            }
        }
    }

    fn agent_config(&self, change: &[(&str, &str)]) -> data_plane_agent::config::Config {
        let mut text = format!(
            "data_dir = \"{0}/agent\"\n[server]\nlisten = \"127.0.0.1:0\"\nplain_http = true\nworkers = 1\n\
             [vault]\nkind = \"file\"\npassphrase_file = \"{0}/passphrase\"\n",
            self.folder.path().display()
        );
        for (from, to) in change {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        let file = self.path("agent.toml");
        fs::write(&file, text).unwrap();
        data_plane_agent::config::Config::load(Some(&file), [], &Default::default()).unwrap()
    }

    async fn agent(&self, clock: Arc<dyn Clock>) -> RunningAgent {
        Agent::start(self.agent_config(&[]), clock, Arc::new(SystemIds)).await.unwrap()
    }

    /// How starting the agent fails, as a person reads it.
    async fn agent_error(&self, config: data_plane_agent::config::Config) -> String {
        match Agent::start(config, Arc::new(SystemClock), Arc::new(SystemIds)).await {
            Err(error) => explain("agent", &error),
            Ok(running) => {
                running.stop().await.unwrap();
                panic!("it started")
            }
        }
    }

    async fn enrol(&self, token: &EnrolmentToken) -> Result<(), String> {
        let config = self.agent_config(&[]);
        service::tls::install_provider();
        service::files::create_private_directory(&config.data_dir).unwrap();
        let vault = open_vault(&config, Arc::new(SystemIds)).await.unwrap();
        let parts = EnrolParts {
            directory: &ControlDirectory::open(&config.data_dir).unwrap(),
            vault: &*vault,
            outgoing: &config.control_plane.outgoing,
            clock: Arc::new(SystemClock),
            ids: &SystemIds,
            host: "here",
        };
        enrol(token, &parts).await.map(drop).map_err(|error| explain("enrol", &error))
    }

    async fn mutate(&self, running: &RunningControlPlane, token: &str, name: &str, input: Value, fields: &str) -> Value {
        let kind = format!("{}{}Input", name[..1].to_uppercase(), &name[1..]);
        let query = format!("mutation($input: {kind}!) {{ {name}(input: $input) {{ {fields} userErrors {{ code message }} }} }}");
        let body = json!({ "query": query, "variables": { "input": input } });
        let answer = self.http.post(running.graphql_url()).bearer_auth(token).json(&body).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["data"][name]["userErrors"], json!([]), "{name}: {answer}");
        answer["data"][name].clone()
    }

    async fn call(&self, agent: &RunningAgent, path: &str, token: &str, body: Value) -> (u16, Value) {
        let url = format!("http://{}{path}", agent.address);
        let answer = self.http.post(url).bearer_auth(token).json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn ready(&self, agent: &RunningAgent) -> Value {
        self.http.get(format!("http://{}/readyz", agent.address)).send().await.unwrap().json().await.unwrap()
    }

    /// Asks again until it is allowed: statements and keys take a moment to arrive.
    async fn until_allowed(&self, agent: &RunningAgent, path: &str, token: &str, body: Value) -> Value {
        let started = Instant::now();
        loop {
            let (status, answer) = self.call(agent, path, token, body.clone()).await;
            if status == 200 {
                return answer;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{path}: {status} {answer}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn secret_file(path: &Path, bytes: &[u8]) {
    service::files::write_atomic(path, bytes, service::files::OWNER_ONLY).unwrap();
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, &target).unwrap();
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "\"{part}\" is not in: {error}");
    }
    assert!(!error.contains("panicked") && !error.contains(PASSPHRASE), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_cannot_start_says_what_to_do() {
    let world = World::new();
    let data = world.path("control-plane");
    let config = || world.control_plane_config();

    let running = world.control_plane().await;
    says(&world.control_plane_error(config()).await, &["in use by process", "stop it first", "control-plane"]);
    let mut taken = config();
    taken.data_dir = world.path("other");
    taken.server.listen = running.graphql_address().to_string();
    says(&world.control_plane_error(taken).await, &["already in use", "server.listen", &running.graphql_address().to_string()]);
    running.stop().await;

    let key = data.join("sealing.key");
    let kept = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    says(&world.control_plane_error(config()).await, &["fingerprint", "sealing.key is not there", "restore it from its backup"]);
    assert!(!key.exists(), "no new key may hide that the right one is gone");
    secret_file(&key, base64url(&[7; 32]).as_bytes());
    says(&world.control_plane_error(config()).await, &["wrong sealing key", "restore the right key"]);
    secret_file(&key, b"nonsense");
    says(&world.control_plane_error(config()).await, &["is not a sealing key", "restore it"]);
    secret_file(&key, &kept);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    says(&world.control_plane_error(config()).await, &["can be read by others", "chmod 600"]);
    secret_file(&key, &kept);

    let database = data.join("freehold.db");
    let sound = fs::read(&database).unwrap();
    fs::write(&database, [0x5a; 8192]).unwrap();
    says(&world.control_plane_error(config()).await, &["freehold.db is damaged or is not a database", "restore it from a backup"]);
    let mut half = sound.clone();
    half[4096..].fill(0x5a);
    fs::write(&database, half).unwrap();
    says(&world.control_plane_error(config()).await, &["freehold.db is damaged", "restore it from a backup"]);
    fs::write(&database, sound).unwrap();
    world.control_plane().await.stop().await;

    // Something that is not PostgreSQL, and a host that is none.
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port();
    std::thread::spawn(move || drop(stranger.accept()));
    let mut elsewhere = config();
    secret_file(&world.path("database.password"), b"password-marker-42");
    elsewhere.store.url = Some(format!("postgres://freehold@127.0.0.1:{port}/events"));
    elsewhere.store.password_file = Some(world.path("database.password"));
    let error = world.control_plane_error(elsewhere).await;
    says(&error, &[&format!("postgres at 127.0.0.1:{port}, database events"), "check that it runs", "store.url"]);
    assert!(!error.contains("password-marker"), "{error}");

    let load = |text: &str, environment: &[(&str, &str)]| {
        let file = world.path("control-plane.toml");
        fs::write(&file, text).unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        control_plane::config::Config::load(Some(&file), environment, &json!({})).unwrap_err().to_string()
    };
    says(&load("[server]\nlisten_on = \"x\"", &[]), &["control-plane.toml", "unknown setting server.listen_on", "known here: listen"]);
    let misspelt = load("", &[("FREEHOLD_SERVER__LISTEN_ON", "x")]);
    says(&misspelt, &["the environment", "unknown setting FREEHOLD_SERVER__LISTEN_ON", "known here: listen"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_start_says_what_to_do() {
    let world = World::new();
    let running = world.agent(Arc::new(SystemClock)).await;
    says(&world.agent_error(world.agent_config(&[])).await, &["in use by process", "stop it first"]);
    let address = running.address.to_string();
    let taken = world.agent_config(&[("127.0.0.1:0", &address), ("/agent\"", "/other\"")]);
    says(&world.agent_error(taken).await, &[&address, "already in use", "server.listen"]);
    running.stop().await.unwrap();

    secret_file(&world.path("wrong"), b"another passphrase");
    let wrong = || world.agent_config(&[("/passphrase\"", "/wrong\"")]);
    let error = world.agent_error(wrong()).await;
    says(&error, &["vault.json cannot be opened", "not the one it was made with"]);
    assert!(!error.contains("another passphrase"));
    fs::set_permissions(world.path("wrong"), fs::Permissions::from_mode(0o640)).unwrap();
    says(&world.agent_error(wrong()).await, &["/wrong", "others may open it", "chmod 600"]);
    secret_file(&world.path("wrong"), b"\n");
    says(&world.agent_error(wrong()).await, &["/wrong is empty", "write the vault's passphrase into it"]);
    fs::remove_file(world.path("wrong")).unwrap();
    says(&world.agent_error(wrong()).await, &["/wrong", "check the path"]);

    for (name, advice) in [
        ("agent/vault/vault.json", "restore it from a backup of the vault"),
        ("agent/vault/secret.receipt-context.json", "restore it from a backup of the vault"),
        ("agent/callers.json", "remove it and add the callers again"),
    ] {
        let path = world.path(name);
        let kept = fs::read(&path).ok();
        secret_file(&path, b"junk");
        says(&world.agent_error(world.agent_config(&[])).await, &[path.to_str().unwrap(), advice]);
        match kept {
            Some(bytes) => secret_file(&path, &bytes),
            None => fs::remove_file(&path).unwrap(),
        }
    }
    world.agent(Arc::new(SystemClock)).await.stop().await.unwrap();
}

/// Tenant to receipt, with markers in every place where a secret or a name passes; then everything written is searched.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_written_and_an_agent_starts_alone() {
    let world = World::new();
    let log = world.path("both.log");
    let settings = LogConfig { filter: "debug".to_owned(), format: LogFormat::Json };
    let writer = std::sync::Mutex::new(fs::File::create(&log).unwrap());
    tracing::subscriber::set_global_default(service::log::subscriber(&settings, writer).unwrap()).unwrap();

    let plane = world.control_plane().await;
    let operator = fs::read_to_string(plane.operator_token_file()).unwrap().trim().to_owned();
    let made = world.mutate(&plane, &operator, "createTenant", json!({ "name": "acme" }), "adminToken").await;
    let admin = made["adminToken"].as_str().unwrap().to_owned();
    world.mutate(&plane, &admin, "createProject", json!({ "name": "payments" }), "project { id }").await;
    world.mutate(&plane, &admin, "createSite", json!({ "name": "fra" }), "site { id }").await;
    let invited = world.mutate(&plane, &admin, "inviteAgent", json!({ "site": "fra" }), "enrolment").await;
    let enrolment: EnrolmentToken = serde_json::from_str(invited["enrolment"].as_str().unwrap()).unwrap();
    let enrolment_token = serde_json::to_value(&enrolment).unwrap()["token"].as_str().unwrap().to_owned();
    world.enrol(&enrolment).await.unwrap();

    for (name, algorithm, purpose) in [(KEY_NAME, "A256KW+A256GCM", "ENCRYPT"), ("documents", "ML-DSA-65", "SIGN")] {
        let key = json!({
            "project": "payments", "name": name, "algorithm": algorithm, "purpose": purpose,
            "placement": ["fra"], "durability": "SINGLE_COPY",
        });
        world.mutate(&plane, &admin, "createKey", key, "key { id }").await;
    }
    let caller = json!({ "project": "payments", "name": "app", "kind": "TOKEN", "issuer": "fra" });
    let caller = world.mutate(&plane, &admin, "registerCaller", caller, "caller { id }").await;
    let caller = caller["caller"]["id"].as_str().unwrap().parse().unwrap();
    let file = world.agent_config(&[]).callers_file();
    let token = tokens::add(&file, caller, &SystemClock, &SystemIds).unwrap().reveal().to_owned();
    world.mutate(&plane, &admin, "createPolicy", json!({ "name": "main", "project": "payments" }), "policy { id }").await;
    let draft = json!({ "policy": "payments/main", "content": { "cedar": "permit (principal, action, resource);" } });
    world.mutate(&plane, &admin, "savePolicyDraft", draft, "policy { id }").await;
    world.mutate(&plane, &admin, "publishPolicy", json!({ "policy": "payments/main" }), "policy { id }").await;

    let agent = world.agent(Arc::new(SystemClock)).await;
    let context = json!({ "purpose": CONTEXT_VALUE });
    let plaintext = base64url(PLAINTEXT.as_bytes());
    let body = json!({ "key": format!("payments/{KEY_NAME}"), "plaintext": plaintext, "context": context });
    let sealed = world.until_allowed(&agent, "/v1/encrypt", &token, body).await;
    let message = sealed["message"].clone();
    let decrypt = json!({ "message": message, "context": context });
    let opened = world.until_allowed(&agent, "/v1/decrypt", &token, decrypt.clone()).await;
    assert_eq!(opened["plaintext"], plaintext);
    let sign = json!({ "key": "payments/documents", "payload": plaintext, "context": context });
    world.until_allowed(&agent, "/v1/sign", &token, sign).await;
    // Refusals are told at length: they must not tell this.
    let other = json!({ "message": message, "context": { "purpose": format!("{CONTEXT_VALUE}x") } });
    assert_ne!(world.call(&agent, "/v1/decrypt", &token, other).await.0, 200);
    assert_eq!(world.call(&agent, "/v1/decrypt", &format!("{token}x"), decrypt.clone()).await.0, 401);
    assert_ne!(world.call(&agent, "/v1/encrypt", &token, json!({ "key": plaintext, "plaintext": 7, "context": context })).await.0, 200);

    // Used twice, the enrolment token says so, and does not say itself.
    let running_files = world.path("snapshot");
    copy_all(&world.path("control-plane"), &running_files);
    agent.stop().await.unwrap();
    fs::rename(world.path("agent"), world.path("kept")).unwrap();
    let used = world.enrol(&enrolment).await.unwrap_err();
    says(&used, &["enrolment_token_used", "already used", "invite again"]);
    assert!(!used.contains(&enrolment_token));
    fs::remove_dir_all(world.path("agent")).unwrap();
    fs::rename(world.path("kept"), world.path("agent")).unwrap();
    plane.stop().await;

    // With nobody to ask, what was kept is enough; what is damaged is not believed. A wrong clock can only make
    // policy older.
    let agent = world.agent(Arc::new(SystemClock)).await;
    assert_eq!(world.until_allowed(&agent, "/v1/decrypt", &token, decrypt.clone()).await["plaintext"], plaintext);
    agent.stop().await.unwrap();
    let ahead = SystemClock.now().plus(Duration::from_secs(3 * 365 * 86_400));
    let agent = world.agent(Arc::new(ManualClock::at(ahead))).await;
    let (status, problem) = world.call(&agent, "/v1/decrypt", &token, decrypt.clone()).await;
    assert_eq!((status, problem["code"].as_str()), (503, Some("statements_expired")), "{problem}");
    says(problem["detail"].as_str().unwrap(), &["109", "days ahead of the last signed time", "if it is wrong, set it"]);
    says(&world.ready(&agent).await.to_string(), &["the policy in force has expired", "days ahead of the last signed time"]);
    agent.stop().await.unwrap();
    let behind = Timestamp::from_micros(1_000_000_000_000_000);
    let agent = world.agent(Arc::new(ManualClock::at(behind))).await;
    assert_eq!(world.until_allowed(&agent, "/v1/decrypt", &token, decrypt.clone()).await["plaintext"], plaintext);
    let ready = world.ready(&agent).await;
    says(ready["notes"]["clock"].as_str().unwrap(), &["days behind the last signed time", "it is wrong, set it"]);
    agent.stop().await.unwrap();

    // Eight days offline count, though the wall clock is moved back across a restart.
    let directory = ControlDirectory::open(&world.path("agent")).unwrap();
    let time = directory.time().unwrap().unwrap();
    directory.keep_time(&StoredTime { signed: time.signed.plus(Duration::from_secs(8 * 86_400)), ..time.clone() }).unwrap();
    let agent = world.agent(Arc::new(ManualClock::at(behind))).await;
    let (status, problem) = world.call(&agent, "/v1/decrypt", &token, decrypt.clone()).await;
    assert_eq!((status, problem["code"].as_str()), (503, Some("statements_expired")), "{problem}");
    agent.stop().await.unwrap();
    secret_file(&world.path("agent/control/time.json"), b"junk");
    says(&world.agent_error(world.agent_config(&[])).await, &["time.json is damaged", "remove it and start the agent again"]);
    directory.keep_time(&time).unwrap();

    // One byte of a kept statement is another.
    let statements = world.path("agent/control/statements.json");
    let kept = fs::read(&statements).unwrap();
    let mut cache: Value = serde_json::from_slice(&kept).unwrap();
    let mut state = from_base64url(cache["statements"]["state"].as_str().unwrap()).unwrap();
    let middle = state.len() / 2;
    state[middle] ^= 1;
    cache["statements"]["state"] = json!(base64url(&state));
    fs::write(&statements, cache.to_string()).unwrap();
    let agent = world.agent(Arc::new(SystemClock)).await;
    let (status, problem) = world.call(&agent, "/v1/decrypt", &token, decrypt.clone()).await;
    assert_eq!((status, problem["code"].as_str()), (503, Some("no_policy_yet")), "{problem}");
    agent.stop().await.unwrap();
    fs::write(&statements, &kept).unwrap();
    fs::write(&statements, b"junk").unwrap();
    let agent = world.agent(Arc::new(SystemClock)).await;
    let (status, problem) = world.call(&agent, "/v1/decrypt", &token, decrypt).await;
    assert_eq!((status, problem["code"].as_str()), (503, Some("no_policy_yet")), "{problem}");
    agent.stop().await.unwrap();
    fs::write(&statements, kept).unwrap();

    let acknowledged = world.path("agent/journal/acknowledged.json");
    fs::write(&acknowledged, b"junk").unwrap();
    says(&world.agent_error(world.agent_config(&[])).await, &["acknowledged.json", "the journal is damaged", "restore the directory"]);

    let secrets = [
        ("the operator's token", operator.as_str()),
        ("the admin's token", &admin),
        ("the enrolment token", &enrolment_token),
        ("the caller's token", &token),
        ("the passphrase", PASSPHRASE),
        ("the plaintext", PLAINTEXT),
        ("the plaintext, encoded", &plaintext),
        ("the context's value", CONTEXT_VALUE),
    ];
    let mut found = Vec::new();
    let mut searched = 0_usize;
    for path in files(world.folder.path()) {
        let mut bytes = Vec::new();
        fs::File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
        searched += bytes.len();
        let has = |text: &str| memmem::find(&bytes, text.as_bytes()).is_some();
        let meant = path.ends_with("operator.token") || path == world.path("passphrase");
        found.extend(secrets.iter().filter(|(_, secret)| !meant && has(secret)).map(|(what, _)| format!("{what} in {}", path.display())));
        let of_control_plane = path.starts_with(world.path("control-plane")) || path.starts_with(&running_files);
        if of_control_plane && has(KEY_NAME) {
            found.push(format!("the key's name in {}", path.display()));
        }
        // The search does find what is there.
        if path == log {
            assert!(has("DEBUG") && has(&enrolment.agent.to_string()), "the log is searched");
        }
        if path.ends_with("operator.token") {
            assert!(has(&operator), "token files are searched");
        }
    }
    assert_eq!(found, Vec::<String>::new());
    assert!(searched > 1 << 20, "{searched}");
}

/// The group that a client of ours and this listener agree on.
fn negotiated(address: std::net::SocketAddr, authority_pem: &str) -> rustls::NamedGroup {
    let roots = service::tls::certificates_from_pem(authority_pem.as_bytes(), Path::new("authority")).unwrap();
    let client = service::tls::client_config(roots, None).unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(client), "127.0.0.1".try_into().unwrap()).unwrap();
    let tcp = std::net::TcpStream::connect(address).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, tcp);
    std::io::Write::write_all(&mut stream, b"GET /livez HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n").unwrap();
    std::io::Read::read_exact(&mut stream, &mut [0; 8]).unwrap();
    assert_eq!(stream.conn.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    stream.conn.negotiated_key_exchange_group().unwrap().name()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_listener_agrees_on_the_hybrid_group() {
    let place = World::new();
    let mut config = place.control_plane_config();
    config.server.plain_http = false;
    let control_plane = ControlPlane::start(config, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
    let agent_config = place.agent_config(&[("plain_http = true\n", "")]);
    let agent = Agent::start(agent_config, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
    let hybrid = rustls::NamedGroup::X25519MLKEM768;
    let authority = fs::read_to_string(control_plane.development_authority().unwrap()).unwrap();
    assert_eq!(negotiated(control_plane.graphql_address(), &authority), hybrid);
    let authority = fs::read_to_string(agent.development_authority().unwrap()).unwrap();
    assert_eq!(negotiated(agent.address, &authority), hybrid);

    // The agents' listener shows a certificate of the authority that enrolment files name.
    let operator = fs::read_to_string(control_plane.operator_token_file()).unwrap().trim().to_owned();
    let authority = fs::read(control_plane.development_authority().unwrap()).unwrap();
    let authority = reqwest::Certificate::from_pem(&authority).unwrap();
    let place = World { http: reqwest::Client::builder().no_proxy().tls_certs_only([authority]).build().unwrap(), ..place };
    let tenant = place.mutate(&control_plane, &operator, "createTenant", json!({ "name": "acme" }), "adminToken").await;
    let admin = tenant["adminToken"].as_str().unwrap();
    place.mutate(&control_plane, admin, "createSite", json!({ "name": "fra" }), "site { id }").await;
    let invited = place.mutate(&control_plane, admin, "inviteAgent", json!({ "site": "fra" }), "enrolment").await;
    let token: EnrolmentToken = serde_json::from_str(invited["enrolment"].as_str().unwrap()).unwrap();
    assert_eq!(negotiated(control_plane.agents_address(), &token.ca_pem.unwrap()), hybrid);
    agent.stop().await.unwrap();
    control_plane.stop().await;
}
