//! The control plane, whole, in this process: started on a fresh data directory, asked over HTTPS.

mod replicas {
    mod cuts;
    mod roles;
    mod sharing;
    mod three;
    mod transcripts;
}

mod sealed {
    mod erasures;
    mod stolen;
}

use std::{path::Path, sync::Arc, time::Duration};

use control_plane::{
    app::{App, Running, StartError},
    config::Config,
};
use schema::{
    clock::{Clock, ManualClock, ManualIds, SystemClock},
    wire::agent::EnrolmentToken,
};
use sea_orm::{ConnectionTrait, TransactionTrait};
use serde_json::{Value, json};

struct World {
    running: Running,
    client: reqwest::Client,
    operator: String,
    directory: tempfile::TempDir,
}

fn config(directory: &Path) -> Config {
    let mut config = Config { data_dir: directory.to_path_buf(), development: true, ..Config::default() };
    config.server.listen = "127.0.0.1:0".to_owned();
    config.server.workers = Some(1);
    config.agents.listen = "127.0.0.1:0".to_owned();
    config
}

impl World {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        Self::at(tempfile::tempdir().unwrap(), Arc::new(SystemClock), change).await
    }

    /// On the data in this folder, or on fresh data.
    async fn at(directory: tempfile::TempDir, clock: Arc<dyn Clock>, change: impl FnOnce(&mut Config)) -> Self {
        let mut settings = config(&directory.path().join("data"));
        change(&mut settings);
        freehold_tests::database::redirect(&mut settings);
        let seed = directory.path().as_os_str().len() as u64 + u64::from(directory.path().join("data").exists());
        let running = App::start(settings, clock, Arc::new(ManualIds::seeded(seed))).await.unwrap();
        let authority = running.development_authority().map(|path| std::fs::read(path).unwrap());
        let authority = authority.map(|pem| reqwest::Certificate::from_pem(&pem).unwrap());
        let client = reqwest::Client::builder().no_proxy().tls_certs_only(authority).build().unwrap();
        // A replica that did not come first has none.
        let operator = std::fs::read_to_string(running.operator_token_file()).unwrap_or_default().trim().to_owned();
        Self { running, client, operator, directory }
    }

    async fn send(&self, token: &str, body: String) -> reqwest::Response {
        let url = self.running.graphql_url().replace("127.0.0.1", "localhost");
        self.client.post(url).bearer_auth(token).header("content-type", "application/json").body(body).send().await.unwrap()
    }

    async fn raw(&self, token: &str, query: &str) -> Value {
        self.send(token, json!({ "query": query }).to_string()).await.json().await.unwrap()
    }

    /// The data; errors fail the test.
    async fn ask(&self, token: &str, query: &str) -> Value {
        let answer = self.raw(token, query).await;
        assert!(answer.get("errors").is_none(), "{query}: {answer}");
        answer["data"].clone()
    }

    /// One mutation that must succeed.
    async fn run(&self, token: &str, name: &str, input: &str, selection: &str) -> Value {
        let answer = self.attempt(token, name, input, selection).await;
        assert_eq!(answer["userErrors"], json!([]), "{name}({input})");
        assert_eq!(answer["pending"], false, "{name}");
        answer
    }

    async fn attempt(&self, token: &str, name: &str, input: &str, selection: &str) -> Value {
        let query =
            format!("mutation {{ {name}(input: {{{input}}}) {{ {selection} userErrors {{ code field message }} position pending }} }}");
        self.ask(token, &query).await[name].clone()
    }

    /// The first error's code of a mutation that must be refused.
    async fn refused(&self, token: &str, name: &str, input: &str) -> String {
        let answer = self.attempt(token, name, input, "").await;
        answer["userErrors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    async fn tenant(&self, name: &str) -> String {
        let answer = self.run(&self.operator, "createTenant", &format!("name: \"{name}\""), "adminToken tenant { id name }").await;
        assert_eq!(answer["tenant"]["name"], name);
        answer["adminToken"].as_str().unwrap().to_owned()
    }

    /// A project `pay` and a site `fra`.
    async fn furnished(&self, name: &str) -> String {
        let token = self.tenant(name).await;
        self.run(&token, "createProject", "name: \"pay\"", "project { id }").await;
        self.run(&token, "createSite", "name: \"fra\"", "site { id }").await;
        token
    }
}

const KEY: &str = "project: \"pay\", name: \"k1\", algorithm: \"ML-DSA-65\", purpose: SIGN, placement: [\"fra\"], durability: SINGLE_COPY";

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_set_of_mutations() {
    let world = World::start(|_| {}).await;
    let token = world.furnished("acme").await;
    world.run(&token, "renameTenant", "displayName: \"Acme\"", "tenant { displayName }").await;
    world.run(&token, "renameProject", "project: \"pay\", displayName: \"Payments\"", "project { displayName }").await;
    world.run(&token, "suspendProject", "project: \"pay\"", "project { state }").await;
    world.run(&token, "resumeProject", "project: \"pay\"", "project { state }").await;
    world.run(&token, "renameSite", "site: \"fra\", displayName: \"Frankfurt\"", "site { displayName }").await;
    let rule = "staleSeconds: \"60\", graceSeconds: \"120\", expiredSeconds: \"240\", graceOperations: [DECRYPT]";
    world.run(&token, "setSiteOfflineRule", &format!("site: \"fra\", offline: {{{rule}}}"), "site { offline { graceOperations } }").await;

    let invited = world.run(&token, "inviteAgent", "site: \"fra\"", "agent { id state } enrolment").await;
    let file: EnrolmentToken = serde_json::from_str(invited["enrolment"].as_str().unwrap()).unwrap();
    assert_eq!(file.agent.to_string(), invited["agent"]["id"]);
    assert_eq!(file.control_plane, format!("https://{}", world.running.agents_address()));
    let agent = format!("agent: \"{}\"", file.agent);
    world.run(&token, "cancelInvitation", &agent, "agent { state }").await;
    assert_ne!(world.refused(&token, "suspendAgent", &agent).await, "");

    let caller = world
        .run(&token, "registerCaller", "project: \"pay\", name: \"app\", kind: TOKEN, issuer: \"fra\"", "caller { id project { name } }")
        .await;
    assert_eq!(caller["caller"]["project"]["name"], "pay");
    world
        .run(&token, "relabelCaller", "caller: \"pay/app\", labels: [{name: \"env\", value: \"prod\"}]", "caller { labels { value } }")
        .await;
    world.run(&token, "suspendCaller", "caller: \"pay/app\"", "caller { state }").await;
    world.run(&token, "resumeCaller", "caller: \"pay/app\"", "caller { state }").await;
    let revoked = world.run(&token, "revokeCaller", "caller: \"pay/app\", reason: KEY_COMPROMISE", "caller { state }").await;
    assert_eq!(revoked["caller"]["state"], "REVOKED");
    assert_eq!(world.refused(&token, "resumeCaller", "caller: \"pay/app\"").await, "caller_revoked");

    let made = world.run(&token, "createKey", KEY, "key { id durability versions { number state } }").await;
    assert_eq!(made["key"]["durability"], "SINGLE_COPY");
    assert_eq!(made["key"]["versions"][0]["state"], "PRE_ACTIVATION");
    let key = "key: \"pay/k1\"";
    world.run(&token, "describeKey", &format!("{key}, description: \"signs\""), "key { description }").await;
    world.run(&token, "relabelKey", &format!("{key}, labels: [{{name: \"env\", value: \"prod\"}}]"), "key { id }").await;
    world.run(&token, "setKeyLimits", &format!("{key}, limits: {{softUses: \"5\", hardUses: \"9\"}}"), "key { limits { hardUses } }").await;
    world.run(&token, "setKeyRotationRule", &format!("{key}, rotation: {{everySeconds: \"864000\"}}"), "key { id }").await;
    world.run(&token, "setKeyDeletionProtection", &format!("{key}, protected: false"), "key { deletionProtection }").await;
    world.run(&token, "suspendKey", key, "key { state }").await;
    world.run(&token, "resumeKey", key, "key { state }").await;
    let alias = "project: \"pay\", name: \"current\"";
    world.run(&token, "createAlias", &format!("{alias}, key: \"pay/k1\""), "key { aliases }").await;
    let named = world.ask(&token, "{ key(reference: \"pay/current\") { name aliases } }").await;
    assert_eq!(named["key"], json!({ "name": "k1", "aliases": ["current"] }));
    world.run(&token, "retireAlias", alias, "key { aliases }").await;
    let version = "version: \"pay/k1/1\"";
    world.run(&token, "suspendKeyVersion", version, "key { id }").await;
    world.run(&token, "resumeKeyVersion", version, "key { id }").await;
    world.run(&token, "compromiseKeyVersion", version, "key { versions { state } }").await;
    world.run(&token, "destroyKeyVersion", version, "key { versions { destructionDueAt } }").await;
    world.run(&token, "cancelKeyVersionDestruction", version, "key { id }").await;

    world.run(&token, "createPolicy", "name: \"main\", project: \"pay\"", "policy { id }").await;
    let broken = "policy: \"pay/main\", content: {cedar: \"permit(principal, action, resource)\\nwhen { principal.nme == 1 };\"}";
    let saved = world.run(&token, "savePolicyDraft", broken, "problems { line column message severity }").await;
    assert_eq!(saved["problems"][0]["line"], 2, "{saved}");
    assert_ne!(world.refused(&token, "publishPolicy", "policy: \"pay/main\"").await, "");
    let good = "policy: \"pay/main\", content: {cedar: \"permit(principal, action, resource);\"}";
    world.run(&token, "savePolicyDraft", good, "policy { draft { number } }").await;
    world.run(&token, "publishPolicy", "policy: \"pay/main\"", "policy { published { number } }").await;
    let other = "policy: \"pay/main\", content: {cedar: \"forbid(principal, action, resource);\"}";
    world.run(&token, "savePolicyDraft", other, "policy { id }").await;
    let diff = world.ask(&token, "{ policyDiff(policy: \"pay/main\") { from unified changedSections same } }").await;
    assert_eq!(diff["policyDiff"]["changedSections"], json!(["cedar"]));
    assert!(diff["policyDiff"]["unified"].as_str().unwrap().contains("-permit"));
    world.run(&token, "publishPolicy", "policy: \"pay/main\"", "policy { published { number } }").await;
    let back =
        world.run(&token, "rollbackPolicy", "policy: \"pay/main\", version: 1", "policy { published { number content { cedar } } }").await;
    assert_eq!(back["policy"]["published"]["number"], 3);

    let events =
        world.ask(&token, "{ events(first: 100) { nodes { type ledgerIndex stream actor data } pageInfo { hasNextPage } } }").await;
    let types: Vec<_> = events["events"]["nodes"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    for expected in ["TenantCreated", "KeyCreated", "PolicyPublished", "PolicyRolledBack", "CallerRevoked"] {
        assert!(types.contains(&expected), "{expected} in {types:?}");
    }
    let last =
        world.ask(&token, "{ events(last: 1, type: \"KeyCreated\") { nodes { type data } } receipts(last: 5) { nodes { id } } }").await;
    assert_eq!(last["events"]["nodes"][0]["data"]["name"], "k1");
    world.running.stop().await;
}

/// A draft with one template, `cards`.
fn draft_with_template(algorithms: &str, rest: &str) -> String {
    let template = format!(
        "name: \"cards\", project: \"pay\", algorithms: [{algorithms}], purposes: [SIGN, ENCRYPT], placement: [\"fra\"], \
         durabilities: [SINGLE_COPY]{rest}"
    );
    format!("policy: \"pay/main\", content: {{cedar: \"permit(principal, action, resource);\", templates: [{{{template}}}]}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_is_not_narrowed_under_its_keys() {
    let world = World::start(|_| {}).await;
    let token = world.furnished("acme").await;
    let publish = "policy: \"pay/main\"";
    let version = "policy { published { number } }";
    world.run(&token, "createPolicy", "name: \"main\", project: \"pay\"", "policy { id }").await;
    let bare = "policy: \"pay/main\", content: {cedar: \"permit(principal, action, resource);\"}";
    world.run(&token, "savePolicyDraft", bare, "policy { id }").await;
    world.run(&token, "publishPolicy", publish, version).await;
    world.run(&token, "savePolicyDraft", &draft_with_template("\"ML-DSA-65\", \"Ed25519\"", ""), "policy { id }").await;
    world.run(&token, "publishPolicy", publish, version).await;
    world.run(&token, "createKey", &format!("{KEY}, template: \"cards\""), "key { template }").await;

    let told = "userErrors { code message }";
    for draft in [draft_with_template("\"Ed25519\"", ""), draft_with_template("\"ML-DSA-65\"", ", maxKeys: \"0\""), bare.to_owned()] {
        world.run(&token, "savePolicyDraft", &draft, "policy { id }").await;
        let refused = world.ask(&token, &format!("mutation {{ publishPolicy(input: {{{publish}}}) {{ {told} }} }}")).await;
        let error = &refused["publishPolicy"]["userErrors"][0];
        assert_eq!(error["code"], "policy_template_in_use", "{draft}: {refused}");
        assert!(error["message"].as_str().unwrap().contains("pay/k1 (template cards: "), "{refused}");
    }
    assert_eq!(world.refused(&token, "rollbackPolicy", "policy: \"pay/main\", version: 1").await, "policy_template_in_use");
    // What no key needs may go, and what every key follows may change.
    let fewer = draft_with_template("\"ML-DSA-65\"", ", maxKeys: \"1\", rotation: {minIntervalSeconds: \"60\"}");
    world.run(&token, "savePolicyDraft", &fewer, "policy { id }").await;
    let published = world.run(&token, "publishPolicy", publish, version).await;
    assert_eq!(published["policy"]["published"]["number"], 3);
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_see_nothing_of_each_other() {
    let world = World::start(|_| {}).await;
    let (a, b) = (world.furnished("a").await, world.furnished("b").await);
    let key = world.run(&a, "createKey", KEY, "key { id project { id } placement { id } }").await["key"].clone();
    let (id, project, site) = (&key["id"], &key["project"]["id"], &key["placement"][0]["id"]);
    for (query, field) in [
        (format!("{{ x: key(reference: {id}) {{ id }} }}"), "x"),
        (format!("{{ x: node(id: {id}) {{ id }} }}"), "x"),
        (format!("{{ x: project(reference: {project}) {{ id }} }}"), "x"),
        (format!("{{ x: site(reference: {site}) {{ id }} }}"), "x"),
    ] {
        assert_eq!(world.ask(&b, &query).await[field], Value::Null, "{query}");
    }
    let theirs =
        world.ask(&b, &format!("{{ keys(project: {project}) {{ nodes {{ id }} }} events(stream: {id}) {{ nodes {{ id }} }} }}")).await;
    assert_eq!(theirs, json!({ "keys": { "nodes": [] }, "events": { "nodes": [] } }));
    assert_eq!(world.refused(&b, "rotateKey", &format!("key: {id}")).await, "not_found");
    assert_eq!(world.refused(&b, "createKey", &KEY.replace("\"pay\"", &project.to_string())).await, "not_found");
    // Not yours and not there are refused alike.
    assert_eq!(world.refused(&b, "rotateKey", "key: \"key_00000000000000000000000001\"").await, "not_found");
    // A position of another tenant is none.
    let position = world.run(&a, "renameTenant", "displayName: \"A\"", "tenant { id }").await["position"].clone();
    let answer = world.raw(&b, &format!("{{ projects(position: {position}) {{ nodes {{ id }} }} }}")).await;
    assert_eq!(answer["errors"][0]["extensions"]["code"], "invalid_position");
    // Operators see ids of tenants, and nothing inside.
    let tenants = world.ask(&world.operator, "{ tenants(first: 10) { nodes { id } } }").await;
    assert_eq!(tenants["tenants"]["nodes"].as_array().unwrap().len(), 2);
    let answer = world.raw(&world.operator, "{ keys { nodes { id } } }").await;
    assert_eq!(answer["errors"][0]["extensions"]["code"], "forbidden");
    assert_eq!(world.refused(&a, "createTenant", "name: \"c\"").await, "forbidden");
    assert_eq!(world.refused(&world.operator, "createProject", "name: \"c\"").await, "forbidden");
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_have_limits() {
    let world = World::start(|config| config.limits.body = service::config::Size(20_000)).await;
    let token = world.furnished("acme").await;
    let code = async |query: String| world.raw(&token, &query).await["errors"][0]["extensions"]["code"].clone();
    let deep = format!("{{ keys {{ nodes {{ project {{ {} id {} }} }} }} }}", "keys { nodes { project { ".repeat(8), "} } }".repeat(8));
    assert_eq!(code(deep).await, "query_too_costly");
    let wide = "{ keys(first: 100) { nodes { project { keys(first: 100) { nodes { id name } } } } } }";
    assert_eq!(code(wide.to_owned()).await, "query_too_costly");
    let aliases: String = (0..21).map(|n| format!("a{n}: viewer {{ principal }} ")).collect();
    assert_eq!(code(format!("{{ {aliases} }}")).await, "query_too_costly");
    assert_eq!(code("{ keys(first: 101) { nodes { id } } }".to_owned()).await, "invalid_page");
    assert_eq!(code("{ keys(first: 1, after: \"!\") { nodes { id } } }".to_owned()).await, "invalid_cursor");
    assert_eq!(code("{ nothing }".to_owned()).await, "invalid_query");
    let large = world.send(&token, json!({ "query": "x".repeat(30_000) }).to_string()).await;
    assert_eq!(large.status(), 413);
    let request_id = large.headers()["x-request-id"].to_str().unwrap().to_owned();
    let problem: Value = large.json().await.unwrap();
    assert_eq!(problem["code"], "body_too_large");
    assert_eq!(problem["request_id"], request_id);
    world.running.stop().await;

    let world = World::start(|config| config.limits.token_per_minute = 3).await;
    for _ in 0..3 {
        world.ask(&world.operator, "{ viewer { principal } }").await;
    }
    let refused = world.send(&world.operator, json!({ "query": "{ viewer { principal } }" }).to_string()).await;
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_tokens_that_count_open_the_door() {
    let world = World::start(|_| {}).await;
    let admin = world.furnished("acme").await;
    let answer = world.run(&admin, "createToken", "name: \"ci\", scopes: [READER]", "secret token { id state }").await;
    let (reader, id) = (answer["secret"].as_str().unwrap().to_owned(), answer["token"]["id"].clone());
    world.ask(&reader, "{ projects { nodes { name } } }").await;
    assert_eq!(world.refused(&reader, "createProject", "name: \"p2\"").await, "forbidden");
    assert_eq!(world.refused(&admin, "createToken", "name: \"op\", scopes: [OPERATOR]").await, "token_scope_not_for_tenants");
    world.run(&admin, "revokeToken", &format!("token: {id}"), "token { state }").await;
    for token in [reader.as_str(), "fh_api_nonsense", ""] {
        let refused = world.send(token, json!({ "query": "{ viewer { principal } }" }).to_string()).await;
        assert_eq!(refused.status(), 401, "{token}");
        assert_eq!(refused.headers()["www-authenticate"], "Bearer");
    }
    world.running.stop().await;
}

/// A world whose data a copy has outrun: a query with the position of the copy waits, for a minute. With a reader's token.
async fn outrun(change: impl FnOnce(&mut Config)) -> (World, String, String, String) {
    let world = World::start(|_| {}).await;
    let admin = world.furnished("acme").await;
    let reader = world.run(&admin, "createToken", "name: \"ci\", scopes: [READER]", "secret token { id }").await;
    let World { running, directory, .. } = world;
    running.stop().await;
    let copy = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp").arg("-a").arg(directory.path().join("data")).arg(copy.path()).status().unwrap();
    assert!(copied.success());
    let ahead = World::at(copy, Arc::new(SystemClock), |_| {}).await;
    for n in 0..40 {
        ahead.run(&admin, "renameProject", &format!("project: \"pay\", displayName: \"{n}\""), "project { id }").await;
    }
    let position = ahead.run(&admin, "renameTenant", "displayName: \"x\"", "tenant { id }").await["position"].clone();
    ahead.running.stop().await;
    let world = World::at(directory, Arc::new(SystemClock), |config| {
        config.limits.read_your_writes = service::config::Period(Duration::from_secs(60));
        config.limits.request_timeout = service::config::Period(Duration::from_secs(60));
        change(config);
    })
    .await;
    let query = json!({ "query": format!("{{ projects(position: {position}) {{ nodes {{ id }} }} }}") }).to_string();
    let revoke = format!("token: {}", reader["token"]["id"]);
    (world, query, reader["secret"].as_str().unwrap().to_owned(), format!("{admin} {revoke}"))
}

impl World {
    /// How many requests are worked on in this process.
    async fn requests_running(&self) -> f64 {
        let url = self.running.graphql_url().replace("127.0.0.1", "localhost").replace("/graphql", "/metrics");
        let text = self.client.get(url).send().await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("freehold_graphql_requests_running "));
        line.map_or(0.0, |number| number.parse().unwrap())
    }

    /// Waits until something, or nothing, is worked on. What runs here would go on for a minute if it were left alone.
    async fn until_running(&self, some: bool) {
        let started = std::time::Instant::now();
        while (self.requests_running().await > 0.0) != some {
            assert!(started.elapsed() < Duration::from_secs(20), "requests running: {}", self.requests_running().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Everything in here counts the requests of the process, so that it is one test.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_nobody_may_have_any_more_ends() {
    // Its token is revoked.
    let (world, query, reader, admin) = outrun(|_| {}).await;
    let (admin, revoke) = admin.split_once(' ').unwrap();
    let asking = async {
        let answer = world.send(&reader, query.clone()).await;
        (answer.status(), answer.json::<Value>().await.unwrap())
    };
    let revoking = async {
        world.until_running(true).await;
        world.run(admin, "revokeToken", revoke, "token { state }").await;
        std::time::Instant::now()
    };
    let ((status, problem), revoked) = tokio::join!(asking, revoking);
    assert!(revoked.elapsed() < Duration::from_secs(3), "{:?}", revoked.elapsed());
    assert_eq!((status.as_u16(), problem["code"].as_str()), (401, Some("invalid_token")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("while the request ran"), "{problem}");
    world.until_running(false).await;

    // The client hangs up, over HTTP/2.
    let asking = tokio::time::timeout(Duration::from_secs(1), world.send(admin, query.clone()));
    let (answered, ()) = tokio::join!(asking, world.until_running(true));
    assert!(answered.is_err(), "it waits");
    world.until_running(false).await;
    world.running.stop().await;

    // The client hangs up, over HTTP/1.1.
    let (world, query, reader, _) = outrun(|config| config.server.plain_http = true).await;
    let (head, length) = (format!("POST /graphql HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {reader}\r\n"), query.len());
    let body = format!("content-type: application/json\r\ncontent-length: {length}\r\n\r\n{query}");
    let mut connection = tokio::net::TcpStream::connect(world.running.graphql_address()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut connection, format!("{head}{body}").as_bytes()).await.unwrap();
    world.until_running(true).await;
    drop(connection);
    world.until_running(false).await;
    world.running.stop().await;

    // It takes too long.
    let (world, query, reader, _) =
        outrun(|config| config.limits.request_timeout = service::config::Period(Duration::from_millis(700))).await;
    let answer = world.send(&reader, query).await;
    assert_eq!((answer.status().as_u16(), answer.json::<Value>().await.unwrap()["code"].as_str()), (503, Some("timeout")));
    world.until_running(false).await;
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_whose_token_ends_is_not_answered_and_goes_on_to_its_end() {
    let clock = ManualClock::at(SystemClock.now());
    let world = World::at(tempfile::tempdir().unwrap(), Arc::new(clock.clone()), |_| {}).await;
    let admin = world.furnished("acme").await;
    let short = world.run(&admin, "createToken", "name: \"ci\", scopes: [ADMIN], lifetimeSeconds: \"60\"", "secret").await;
    // Somebody else writes.
    let path = world.directory.path().join("data/freehold.db");
    let other = sea_orm::Database::connect(format!("sqlite://{}", path.display())).await.unwrap();
    let lock = other.begin().await.unwrap();
    lock.execute_unprepared("DELETE FROM checkpoints WHERE 1 = 0").await.unwrap();
    let rename = json!({ "query": "mutation { renameTenant(input: {displayName: \"after\"}) { position } }" }).to_string();
    let asking = world.send(short["secret"].as_str().unwrap(), rename);
    let ending = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        clock.advance(Duration::from_secs(61));
    };
    let (answer, ()) = tokio::join!(asking, ending);
    assert_eq!(answer.status(), 401);
    let problem: Value = answer.json().await.unwrap();
    assert!(problem["detail"].as_str().unwrap().contains("may have been done all the same"), "{problem}");
    let name = async || world.ask(&admin, "{ viewer { tenant { displayName } } }").await["viewer"]["tenant"]["displayName"].clone();
    assert_eq!(name().await, Value::Null);
    lock.rollback().await.unwrap();
    let started = std::time::Instant::now();
    while name().await != "after" {
        assert!(started.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_has_one_answer_and_shows_secrets_once() {
    let world = World::start(|_| {}).await;
    let input = "name: \"acme\", idempotencyKey: \"one\"";
    let first = world.run(&world.operator, "createTenant", input, "tenant { id } adminToken token { id }").await;
    let again = world.run(&world.operator, "createTenant", input, "tenant { id } adminToken token { id }").await;
    assert_eq!((&first["tenant"], &first["token"]), (&again["tenant"], &again["token"]));
    assert!(first["adminToken"].is_string() && again["adminToken"].is_null());
    let token = first["adminToken"].as_str().unwrap();
    world.run(token, "createSite", "name: \"fra\"", "site { id }").await;
    let input = "site: \"fra\", idempotencyKey: \"two\"";
    let first = world.run(token, "inviteAgent", input, "agent { id } enrolment").await;
    let again = world.run(token, "inviteAgent", input, "agent { id } enrolment").await;
    assert_eq!(first["agent"], again["agent"]);
    assert!(first["enrolment"].is_string() && again["enrolment"].is_null());
    let input = "name: \"ci\", scopes: [READER], idempotencyKey: \"three\"";
    world.run(token, "createToken", input, "secret").await;
    assert!(world.run(token, "createToken", input, "secret").await["secret"].is_null());
    // The same key with another request is refused, and so is a stale revision.
    world.run(token, "renameSite", "site: \"fra\", displayName: \"F\", idempotencyKey: \"four\"", "site { id }").await;
    let reused = world.refused(token, "renameSite", "site: \"fra\", displayName: \"G\", idempotencyKey: \"four\"").await;
    assert_eq!(reused, "idempotency_key_reused");
    assert_eq!(world.refused(token, "renameSite", "site: \"fra\", expectedRevision: \"1\"").await, "wrong_revision");
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_on_the_same_data_says_what_to_do() {
    let world = World::start(|_| {}).await;
    let again = config(&world.directory.path().join("data"));
    let refused = App::start(again, Arc::new(SystemClock), Arc::new(ManualIds::seeded(8))).await.err().unwrap();
    assert!(matches!(refused, StartError::File(_)), "{refused}");
    assert!(refused.to_string().contains("in use"), "{refused}");
    let mut same_port = config(&world.directory.path().join("other"));
    same_port.server.listen = world.running.graphql_address().to_string();
    let refused = App::start(same_port, Arc::new(SystemClock), Arc::new(ManualIds::seeded(8))).await.err().unwrap();
    assert!(refused.to_string().contains("change server.listen"), "{refused}");
    // The client keeps its connection open; that does not hold the end up.
    world.ask(&world.operator, "{ viewer { principal } }").await;
    tokio::time::timeout(Duration::from_secs(4), world.running.stop()).await.unwrap();
    // The data belongs to the deployment that it was made for.
    let mut other = config(&world.directory.path().join("data"));
    other.deployment = "other".to_owned();
    let refused = App::start(other, Arc::new(SystemClock), Arc::new(ManualIds::seeded(8))).await.err().unwrap();
    assert!(refused.to_string().contains("belongs to the deployment \"freehold\", not to \"other\""), "{refused}");
    // The token stays what it was, and so does the data.
    let running =
        App::start(config(&world.directory.path().join("data")), Arc::new(SystemClock), Arc::new(ManualIds::seeded(9))).await.unwrap();
    assert_eq!(std::fs::read_to_string(running.operator_token_file()).unwrap().trim(), world.operator);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_as_of_a_time_leads_to_what_was_then() {
    let world = World::start(|_| {}).await;
    let token = world.furnished("acme").await;
    world.run(&token, "renameProject", "project: \"pay\", displayName: \"Before\"", "project { id }").await;
    world.run(&token, "createKey", KEY, "key { id }").await;
    world.run(&token, "createAlias", "project: \"pay\", name: \"old\", key: \"pay/k1\"", "key { id }").await;
    let then = SystemClock.now();
    world.run(&token, "renameProject", "project: \"pay\", displayName: \"After\"", "project { id }").await;
    world.run(&token, "renameSite", "site: \"fra\", displayName: \"After\"", "site { id }").await;
    world.run(&token, "retireAlias", "project: \"pay\", name: \"old\"", "key { id }").await;
    world.run(&token, "createAlias", "project: \"pay\", name: \"new\", key: \"pay/k1\"", "key { id }").await;
    world.run(&token, "describeKey", "key: \"pay/k1\", description: \"after\"", "key { id }").await;

    let fields = "description aliases project { displayName keys { nodes { description } } } placement { displayName }";
    let query =
        format!("{{ then: key(reference: \"pay/k1\", asOf: \"{then}\") {{ {fields} }} now: key(reference: \"pay/k1\") {{ {fields} }} }}");
    let seen = world.ask(&token, &query).await;
    let shown = |description: Value, alias, name: Value, site: Value| {
        let keys = json!({ "nodes": [{ "description": description }] });
        json!({
            "description": description, "aliases": [alias], "project": { "displayName": name, "keys": keys },
            "placement": [{ "displayName": site }],
        })
    };
    assert_eq!(seen["then"], shown(Value::Null, "old", json!("Before"), Value::Null));
    assert_eq!(seen["now"], shown(json!("after"), "new", json!("After"), json!("After")));

    // What is kept as it is now is not shown as if it had been so then.
    world.run(&token, "inviteAgent", "site: \"fra\"", "agent { id }").await;
    let later = SystemClock.now();
    let reported = ["agentVersion", "vault", "enforcedHeartbeat", "enforcedState", "rejection { code }", "failedSelfTests", "lastSeenAt"];
    let agents = reported.map(|field| format!("agents {{ nodes {{ {field} }} }}"));
    for field in agents.iter().map(String::as_str).chain(["statements { serial }"]) {
        world.ask(&token, &format!("{{ site(reference: \"fra\") {{ {field} }} }}")).await;
        let answer = world.raw(&token, &format!("{{ site(reference: \"fra\", asOf: \"{later}\") {{ {field} }} }}")).await;
        assert_eq!(answer["errors"][0]["extensions"]["code"], "not_kept_over_time", "{field}: {answer}");
    }
    let known = format!("{{ site(reference: \"fra\", asOf: \"{later}\") {{ agents {{ nodes {{ state }} }} }} }}");
    assert_eq!(world.ask(&token, &known).await["site"]["agents"]["nodes"], json!([{ "state": "INVITED" }]));
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_finds_anything_that_has_an_id() {
    let world = World::start(|_| {}).await;
    let (token, other) = (world.furnished("acme").await, world.furnished("other").await);
    world.run(&token, "createKey", KEY, "key { id }").await;
    let invited = world.run(&token, "inviteAgent", "site: \"fra\"", "agent { id }").await;
    let caller = "project: \"pay\", name: \"app\", kind: TOKEN, issuer: \"fra\"";
    let caller = world.run(&token, "registerCaller", caller, "caller { id }").await;
    let policy = world.run(&token, "createPolicy", "name: \"main\"", "policy { id }").await;
    let seen = world
        .ask(&token, "{ key(reference: \"pay/k1\") { id versions { id } project { id } placement { id } } viewer { token } events(last: 1) { nodes { id ledgerIndex } } }")
        .await;
    let (key, event) = (&seen["key"], &seen["events"]["nodes"][0]);
    for (id, kind) in [
        (&key["id"], "Key"),
        (&key["versions"][0]["id"], "KeyVersion"),
        (&key["project"]["id"], "Project"),
        (&key["placement"][0]["id"], "Site"),
        (&invited["agent"]["id"], "Agent"),
        (&caller["caller"]["id"], "Caller"),
        (&policy["policy"]["id"], "Policy"),
        (&seen["viewer"]["token"], "ApiToken"),
        (&event["id"], "Event"),
    ] {
        let node = world.ask(&token, &format!("{{ node(id: {id}) {{ __typename id ... on Event {{ ledgerIndex }} }} }}")).await;
        assert_eq!((&node["node"]["__typename"], &node["node"]["id"]), (&json!(kind), id));
        if kind == "Event" {
            assert_eq!(node["node"]["ledgerIndex"], event["ledgerIndex"]);
        }
        assert_eq!(world.ask(&other, &format!("{{ node(id: {id}) {{ id }} }}")).await["node"], Value::Null, "{kind}");
    }
    for nothing in ["evt_00000000000000000000000001", "rcp_00000000000000000000000001", "key_00000000000000000000000001/1", "nonsense"] {
        assert_eq!(world.ask(&token, &format!("{{ node(id: \"{nothing}\") {{ id }} }}")).await["node"], Value::Null);
    }
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_by_name_and_a_listing_of_tokens_look_at_a_bounded_number_of_rows() {
    let world = World::start(|config| config.limits.scan = 1).await;
    let token = world.furnished("acme").await;
    // One portion is what is read at a time, whatever the limit says.
    for n in 0..210 {
        world.run(&token, "createProject", &format!("name: \"p{n:03}\""), "project { id }").await;
        world.run(&token, "createToken", &format!("name: \"t{n:03}\", scopes: [READER]"), "token { id }").await;
    }
    let places = [("projects", "search: \"zzz\"", "search: \"p0\"", "name"), ("tokens", "state: REVOKED", "state: ACTIVE", "name")];
    for (list, nothing, some, field) in places {
        for (direction, edge) in [("first", "after"), ("last", "before")] {
            let answer = world.raw(&token, &format!("{{ {list}({direction}: 5, {nothing}) {{ nodes {{ id }} }} }}")).await;
            let extensions = &answer["errors"][0]["extensions"];
            assert_eq!(extensions["code"], "scan_limit_reached", "{answer}");
            let query = format!("{{ {list}({direction}: 5, {edge}: {}, {nothing}) {{ nodes {{ id }} }} }}", extensions["cursor"]);
            assert_eq!(world.ask(&token, &query).await[list]["nodes"], json!([]), "the rest is looked at from there");
            let found = world.ask(&token, &format!("{{ {list}({direction}: 5, {some}) {{ nodes {{ {field} }} }} }}")).await;
            assert_eq!(found[list]["nodes"].as_array().unwrap().len(), 5);
        }
    }
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_looks_at_a_bounded_number_of_records() {
    // Fewer than are read at a time: one portion and no more.
    let world = World::start(|config| config.limits.scan = 1).await;
    let token = world.furnished("acme").await;
    for n in 0..250 {
        world.run(&token, "renameSite", &format!("site: \"fra\", displayName: \"{n}\""), "site { id }").await;
    }
    let found = world.ask(&token, "{ events(first: 5, type: \"TenantCreated\") { nodes { type } pageInfo { hasNextPage } } }").await;
    assert_eq!(found["events"], json!({ "nodes": [{ "type": "TenantCreated" }], "pageInfo": { "hasNextPage": true } }));
    // Nothing so far: that is said, with where to go on.
    for (direction, edge) in [("first", "after"), ("last", "before")] {
        let answer = world.raw(&token, &format!("{{ events({direction}: 5, type: \"KeyCreated\") {{ nodes {{ id }} }} }}")).await;
        let extensions = &answer["errors"][0]["extensions"];
        assert_eq!(extensions["code"], "scan_limit_reached", "{answer}");
        let query = format!("{{ events({direction}: 5, {edge}: {}, type: \"KeyCreated\") {{ nodes {{ id }} }} }}", extensions["cursor"]);
        assert_eq!(world.ask(&token, &query).await["events"]["nodes"], json!([]));
    }
    world.running.stop().await;
}
