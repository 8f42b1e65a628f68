//! A whole system in one process: a control plane with one tenant, one project and one site, and real agents.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use control_plane::app::{App as ControlPlane, Running as RunningControlPlane};
use data_plane_agent::{
    app::{App as Agent, Running as RunningAgent, open_vault},
    config::Config as AgentConfig,
    control::{
        directory::ControlDirectory,
        enrol::{EnrolParts, Enrolled, enrol, give_up},
        vouch::confirm,
    },
    rest::tokens,
};
use schema::{
    clock::{Clock, SystemClock, SystemIds, Timestamp},
    id::CallerId,
    wire::agent::EnrolmentToken,
};
use serde_json::{Value, json};

/// How long something may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);

/// The system. Its project is `payments`, its site `fra`.
pub struct World {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where its files are; gone with it.
    pub folder: tempfile::TempDir,
    http: reqwest::Client,
    admin: String,
    /// The settings of a control plane that was started here.
    config: Option<control_plane::config::Config>,
    /// The control plane.
    pub plane: Plane,
}

/// A control plane, in this process or another one.
pub enum Plane {
    /// In this process.
    Here(RunningControlPlane),
    /// Elsewhere: whoever started it looks after it.
    Elsewhere {
        /// Where GraphQL is.
        graphql_url: String,
        /// Where agents reach it.
        agents: SocketAddr,
        /// The file with the operator's token.
        operator_token_file: PathBuf,
    },
}

impl Plane {
    /// Where GraphQL is.
    pub fn graphql_url(&self) -> &str {
        match self {
            Self::Here(plane) => plane.graphql_url(),
            Self::Elsewhere { graphql_url, .. } => graphql_url,
        }
    }

    /// Where agents reach it.
    pub fn agents_address(&self) -> SocketAddr {
        match self {
            Self::Here(plane) => plane.agents_address(),
            Self::Elsewhere { agents, .. } => *agents,
        }
    }

    /// The file with the operator's token.
    pub fn operator_token_file(&self) -> &Path {
        match self {
            Self::Here(plane) => plane.operator_token_file(),
            Self::Elsewhere { operator_token_file, .. } => operator_token_file,
        }
    }

    /// Stops it, if it is in this process.
    pub async fn stop(self) {
        if let Self::Here(plane) = self {
            plane.stop().await;
        }
    }
}

/// The settings of a control plane in a folder of its own, on free ports.
pub fn plane_config(folder: &Path) -> control_plane::config::Config {
    let mut config = control_plane::config::Config { data_dir: folder.join("control-plane"), ..Default::default() };
    config.server.listen = "127.0.0.1:0".to_owned();
    config.server.plain_http = true;
    config.server.workers = Some(1);
    config.agents.listen = "127.0.0.1:0".to_owned();
    config
}

impl World {
    /// Starts the control plane.
    pub async fn start() -> Self {
        Self::start_at(Arc::new(SystemClock)).await
    }

    /// The same, by this clock: also that of its agents.
    pub async fn start_at(clock: Arc<dyn Clock>) -> Self {
        Self::start_with(clock, |_| {}).await
    }

    /// The same, with these settings of the control plane.
    pub async fn start_with(clock: Arc<dyn Clock>, change: impl FnOnce(&mut control_plane::config::Config)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = plane_config(folder.path());
        change(&mut config);
        crate::database::redirect(&mut config);
        let plane = ControlPlane::start(config.clone(), clock.clone(), Arc::new(SystemIds)).await.expect("a control plane");
        let token = plane.operator_token_file().to_owned();
        // Where it is found again, when it was stopped.
        config.server.listen = plane.graphql_address().to_string();
        config.agents.listen = plane.agents_address().to_string();
        Self { config: Some(config), ..Self::over(Plane::Here(plane), &token, folder, clock).await }
    }

    /// The same over a control plane that runs: by its operator token, in this file.
    pub async fn over(plane: Plane, operator_token: &Path, folder: tempfile::TempDir, clock: Arc<dyn Clock>) -> Self {
        log();
        let admin = std::fs::read_to_string(operator_token).expect("a token").trim().to_owned();
        let mut world = Self { clock, folder, http: reqwest::Client::new(), admin, config: None, plane };
        let made =
            world.mutate("createTenant", json!({ "name": "acme", "tokenLifetimeSeconds": (366 * 86_400).to_string() }), "adminToken").await;
        world.admin = made["adminToken"].as_str().expect("a token").to_owned();
        secret_file(&world.path("admin.token"), world.admin.as_bytes());
        world.mutate("createProject", json!({ "name": "payments" }), "project { id }").await;
        world.mutate("createSite", json!({ "name": "fra" }), "site { id }").await;
        world
    }

    /// Stops the control plane, does something with its data, and starts it again at the same addresses.
    pub async fn between<T>(self, work: impl AsyncFnOnce(control_plane::config::Config) -> T) -> (Self, T) {
        let Self { clock, folder, http, admin, config, plane } = self;
        plane.stop().await;
        let settings = config.clone().expect("a control plane that was started here");
        let done = work(settings.clone()).await;
        let plane = ControlPlane::start(settings, clock.clone(), Arc::new(SystemIds)).await.expect("a control plane");
        (Self { clock, folder, http, admin, config, plane: Plane::Here(plane) }, done)
    }

    /// A path in the system's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A GraphQL query of the administrator.
    pub async fn query(&self, query: &str, variables: Value) -> Value {
        self.try_query(query, variables).await.unwrap_or_else(|failure| panic!("{query}: {failure}"))
    }

    /// The same where there may be no answer.
    pub async fn try_query(&self, query: &str, variables: Value) -> Result<Value, String> {
        let body = json!({ "query": query, "variables": variables });
        let sent = self.http.post(self.plane.graphql_url()).bearer_auth(&self.admin).json(&body).send().await;
        let answer: Value = sent.map_err(|error| error.to_string())?.json().await.map_err(|error| error.to_string())?;
        if answer["errors"].is_null() { Ok(answer["data"].clone()) } else { Err(answer.to_string()) }
    }

    /// A GraphQL mutation that may come to nothing; a refusal is a failure of the test.
    pub async fn try_mutate(&self, name: &str, input: &Value, fields: &str) -> Result<Value, String> {
        let kind = format!("{}{}Input", name[..1].to_uppercase(), &name[1..]);
        let query = format!("mutation($input: {kind}!) {{ {name}(input: $input) {{ {fields} userErrors {{ code message }} }} }}");
        let answer = self.try_query(&query, json!({ "input": input })).await?[name].clone();
        assert_eq!(answer["userErrors"], json!([]), "{name}: {answer}");
        Ok(answer)
    }

    /// A GraphQL mutation that is not refused.
    pub async fn mutate(&self, name: &str, input: Value, fields: &str) -> Value {
        self.try_mutate(name, &input, fields).await.unwrap_or_else(|failure| panic!("{name}: {failure}"))
    }

    /// A command of `freehold`, as the administrator.
    pub async fn cli(&self, arguments: &[&str]) -> Result<(), cli::error::Error> {
        self.cli_as(&self.path("admin.token"), arguments).await
    }

    async fn cli_as(&self, token: &Path, arguments: &[&str]) -> Result<(), cli::error::Error> {
        let url = self.plane.graphql_url().trim_end_matches(control_plane::http::graphql::PATH).to_owned();
        let nowhere = self.path("no-profiles.toml");
        let place = ["freehold", "--config", text(&nowhere), "--server", &url, "--token-file", text(token), "-o", "json"];
        let command = cli::args::Cli::try_parse_from(place.iter().chain(arguments)).unwrap_or_else(|error| panic!("{error}"));
        cli::run(command).await
    }

    /// A command of `freehold`, as the operator of the deployment.
    pub async fn operate(&self, arguments: &[&str]) -> Result<(), cli::error::Error> {
        self.cli_as(self.plane.operator_token_file(), arguments).await
    }

    /// Puts these Cedar policies in force for the project.
    pub async fn publish(&self, cedar: &str) {
        let policies = self.query("{ policies(first: 1) { nodes { id } } }", json!({})).await;
        if policies["policies"]["nodes"].as_array().is_none_or(Vec::is_empty) {
            self.mutate("createPolicy", json!({ "name": "main", "project": "payments" }), "policy { id }").await;
        }
        let draft = json!({ "policy": "payments/main", "content": { "cedar": cedar } });
        self.mutate("savePolicyDraft", draft, "policy { id }").await;
        self.mutate("publishPolicy", json!({ "policy": "payments/main" }), "policy { id }").await;
    }

    /// Makes an `A256KW+A256GCM` key at the site.
    pub async fn encryption_key(&self, name: &str) {
        let key = json!({
            "project": "payments", "name": name, "algorithm": "A256KW+A256GCM", "purpose": "ENCRYPT",
            "placement": ["fra"], "durability": "SINGLE_COPY",
        });
        self.mutate("createKey", key, "key { id }").await;
    }

    /// Registers a caller with a token, and gives the agent in this folder the token.
    pub async fn caller(&self, name: &str, agent: &AgentConfig) -> String {
        self.caller_at("fra", name, agent).await
    }

    /// The same at another site.
    pub async fn caller_at(&self, site: &str, name: &str, agent: &AgentConfig) -> String {
        let caller = json!({ "project": "payments", "name": name, "kind": "TOKEN", "issuer": site });
        let made = self.mutate("registerCaller", caller, "caller { id }").await;
        let id: CallerId = made["caller"]["id"].as_str().expect("an id").parse().expect("an id");
        let reference = id.to_string().parse().expect("a reference");
        tokens::add(&agent.callers_file(), reference, &SystemClock, &SystemIds).expect("a token").reveal().to_owned()
    }

    /// The settings of an agent in a folder of its own; `server` is the section of its listener.
    pub fn agent_config(&self, name: &str, server: &str) -> AgentConfig {
        let folder = self.path(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        secret_file(&folder.join("vault.key"), &[7; 32]);
        let file = folder.join("agent.toml");
        let settings = format!(
            "data_dir = \"{0}/data\"\n[server]\nlisten = \"127.0.0.1:0\"\nworkers = 1\n{server}\n[vault]\nkind = \"file\"\nkey_file = \"{0}/vault.key\"\n",
            folder.display()
        );
        std::fs::write(&file, settings).expect("settings");
        AgentConfig::load(Some(&file), [], &Default::default()).expect("settings")
    }

    /// Invites an agent to the site and lets it join.
    pub async fn enrol(&self, config: &AgentConfig) -> Enrolled {
        self.enrol_at(config, None).await
    }

    /// The same, but the agent reaches the control plane at this address.
    pub async fn enrol_at(&self, config: &AgentConfig, address: Option<SocketAddr>) -> Enrolled {
        self.enrol_in("fra", config, address).await
    }

    /// The same at another site.
    pub async fn enrol_in(&self, site: &str, config: &AgentConfig, address: Option<SocketAddr>) -> Enrolled {
        let invited = self.mutate("inviteAgent", json!({ "site": site }), "enrolment").await;
        let mut token: EnrolmentToken = serde_json::from_str(invited["enrolment"].as_str().expect("a file")).expect("a file");
        if let Some(address) = address {
            token.control_plane = format!("https://{address}");
        }
        service::files::create_private_directory(&config.data_dir).expect("a folder");
        let vault = open_vault(config, Arc::new(SystemIds)).await.expect("a vault");
        let directory = ControlDirectory::open(&config.data_dir).expect("a folder");
        let (vault, outgoing) = (&*vault, &config.control_plane.outgoing);
        let parts = EnrolParts { directory: &directory, vault, outgoing, clock: self.clock.clone(), ids: &SystemIds, host: "here" };
        enrol(&token, &parts).await.expect("an agent that joins")
    }

    /// Lets the host of an agent join again, as another agent with the same vault.
    pub async fn enrol_again(&self, config: &AgentConfig) -> Enrolled {
        let directory = ControlDirectory::open(&config.data_dir).expect("a folder");
        give_up(&directory, &config.journal_directory()).expect("a former agent").expect("a former agent");
        self.enrol(config).await
    }

    /// Runs an agent.
    pub async fn agent(&self, config: &AgentConfig) -> RunningAgent {
        self.agent_at(config, self.clock.clone()).await
    }

    /// Invites an agent to the site, lets it join, and has a person beside the founder, which runs, vouch for it.
    pub async fn enrol_beside(&self, founder: &AgentConfig, config: &AgentConfig, address: Option<SocketAddr>) -> Enrolled {
        let newcomer = self.enrol_at(config, address).await;
        let directory = ControlDirectory::open(&founder.data_dir).expect("a folder");
        until(|| async { confirm(&directory, newcomer.agent, newcomer.keyid).map_err(|error| error.to_string()) }).await;
        // The founder vouches with its next report: whatever is published next makes it report.
        let name = format!("wake-{}", newcomer.agent.to_string().trim_start_matches("agt_"));
        let caller = json!({ "project": "payments", "name": name, "kind": "TOKEN", "issuer": "fra" });
        self.mutate("registerCaller", caller, "caller { id }").await;
        let query = "query($id: ID!) { agent(id: $id) { state } }";
        until(|| async {
            let state = self.query(query, json!({ "id": newcomer.agent.to_string() })).await["agent"]["state"].clone();
            if state == "ROSTERED" { Ok(()) } else { Err(state.to_string()) }
        })
        .await;
        newcomer
    }

    /// The same by this clock.
    pub async fn agent_at(&self, config: &AgentConfig, clock: Arc<dyn Clock>) -> RunningAgent {
        Agent::start(config.clone(), clock, Arc::new(SystemIds)).await.expect("an agent")
    }

    /// What an agent that speaks plain HTTP says of itself.
    pub async fn ask(&self, agent: &RunningAgent, path: &str) -> Value {
        let answer = self.http.get(format!("http://{}{path}", agent.address)).send().await.expect("an answer");
        answer.json().await.expect("JSON")
    }

    /// A GraphQL mutation that is refused; its code.
    pub async fn refused(&self, name: &str, input: Value) -> String {
        let kind = format!("{}{}Input", name[..1].to_uppercase(), &name[1..]);
        let query = format!("mutation($input: {kind}!) {{ {name}(input: $input) {{ userErrors {{ code }} }} }}");
        let answer = self.query(&query, json!({ "input": input })).await;
        answer[name]["userErrors"][0]["code"].as_str().unwrap_or("nothing was refused").to_owned()
    }

    /// A call to an agent that speaks plain HTTP.
    pub async fn call(&self, agent: &RunningAgent, path: &str, token: &str, body: &Value) -> (u16, Value) {
        let url = format!("http://{}{path}", agent.address);
        let answer = self.http.post(url).bearer_auth(token).json(body).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    /// The same until it is allowed: statements and keys take a moment to arrive.
    pub async fn until_allowed(&self, agent: &RunningAgent, path: &str, token: &str, body: &Value) -> Value {
        let answer = until(|| async {
            let (status, answer) = self.call(agent, path, token, body).await;
            if status == 200 { Ok(answer) } else { Err(format!("{path}: {status} {answer}")) }
        });
        answer.await
    }
}

/// The system's time and whatever was added to it, in this process and in those it is shared with.
#[derive(Debug, Clone)]
pub struct ShiftedClock(Arc<ShiftFile>);

#[derive(Debug)]
struct ShiftFile {
    path: PathBuf,
    /// Where it goes when nobody needs it any more; none in a process that it was shared with.
    _folder: Option<tempfile::TempDir>,
}

impl ShiftedClock {
    /// Begins with the system's time.
    #[allow(clippy::new_without_default, reason = "it makes a file")]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("shift");
        std::fs::write(&path, "0").expect("a file");
        Self(Arc::new(ShiftFile { path, _folder: Some(folder) }))
    }

    /// The clock that was shared with a process in this folder; none when none was.
    pub fn shared(folder: &Path) -> Option<Self> {
        let path = std::fs::read_to_string(folder.join("clock")).ok()?.into();
        Some(Self(Arc::new(ShiftFile { path, _folder: None })))
    }

    /// Whatever process is started in this folder goes by this clock.
    pub fn share_with(&self, folder: &Path) {
        std::fs::write(folder.join("clock"), text(&self.0.path)).expect("a file");
    }

    /// Moves forward.
    pub fn advance(&self, by: Duration) {
        let shift = self.shift() + by.as_secs();
        service::files::write_atomic(&self.0.path, shift.to_string().as_bytes(), service::files::OWNER_ONLY).expect("a file");
    }

    fn shift(&self) -> u64 {
        std::fs::read_to_string(&self.0.path).expect("a file").parse().expect("a number")
    }
}

impl Clock for ShiftedClock {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus(Duration::from_secs(self.shift()))
    }
}

/// Logs to standard error what the filter in `FREEHOLD_TEST_LOG` lets through, such as `info`; nothing without one.
pub fn log() {
    if let Ok(filter) = std::env::var("FREEHOLD_TEST_LOG") {
        service::log::init(&service::config::LogConfig { filter, ..service::config::LogConfig::default() }).expect("a filter of log lines");
    }
}

/// Tries until it succeeds; panics with the last failure after a minute.
pub async fn until<T, F: Future<Output = Result<T, String>>>(attempt: impl Fn() -> F) -> T {
    let started = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(failure) => assert!(started.elapsed() < PATIENCE, "{failure}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("a path of text")
}

fn secret_file(path: &std::path::Path, bytes: &[u8]) {
    service::files::write_atomic(path, bytes, service::files::OWNER_ONLY).expect("a file");
}
