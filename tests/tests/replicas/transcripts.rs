//! What earlier versions said to their databases must still be understood: during an upgrade they run on today's schema.

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use control_plane::{
    database::{Database, Location, STATEMENTS},
    sealing::operate::Operator,
};
use freehold_tests::{
    database::{Engine, TestDatabase},
    world::World as System,
};
use schema::clock::SystemIds;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use super::super::*;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/transcripts"))
}

/// Of an engine: what each version said, by the name of its file.
fn transcripts(engine: &str) -> Vec<(String, String)> {
    let ending = format!("-{engine}.sql");
    let names = fs::read_dir(folder()).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let mut found: Vec<_> = names
        .filter(|name| name.ends_with(&ending))
        .map(|name| (fs::read_to_string(folder().join(&name)).unwrap(), name))
        .map(|(text, name)| (name, text))
        .collect();
    found.sort();
    found
}

async fn understood(engine: Engine, name: &str) {
    let files = TestDatabase::new(engine).unwrap();
    let database = Database::open(&files.location).await.unwrap();
    let (mut count, mut refused) = (0, Vec::new());
    for (file, text) in transcripts(name) {
        for line in text.lines() {
            let (types, sql) = line.split_once('\t').unwrap();
            count += 1;
            let outcome = match engine {
                Engine::Sqlite => database.write().execute_unprepared(&format!("EXPLAIN {sql}")).await,
                _ => {
                    let types = if types.is_empty() { String::new() } else { format!(" ({types})") };
                    database.write().execute_unprepared(&format!("PREPARE transcript{types} AS {sql}; DEALLOCATE transcript")).await
                }
            };
            if let Err(error) = outcome {
                refused.push(format!("{file}: {sql}: {error}"));
            }
        }
    }
    assert!(refused.is_empty(), "an earlier version does not get on with this schema:\n{}", refused.join("\n"));
    assert!(count > 60, "only {count} statements");
    // A check that never fails is none.
    let gone = format!("{} SELECT no_such_column FROM records", if engine == Engine::Sqlite { "EXPLAIN" } else { "PREPARE transcript AS" });
    database.write().execute_unprepared(&gone).await.unwrap_err();
    database.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_of_earlier_versions_are_understood_by_postgresql() {
    understood(Engine::Postgres, "postgresql").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_of_earlier_versions_are_understood_by_sqlite() {
    understood(Engine::Sqlite, "sqlite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_starts_on_a_newer_schema() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let files = TestDatabase::new(engine).unwrap();
        let newer = "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m29991231_000001_of_a_newer_version', 0)";
        let database = Database::open(&files.location).await.unwrap();
        database.write().execute_unprepared(newer).await.unwrap();
        database.close().await.unwrap();
        Database::open(&files.location).await.unwrap().close().await.unwrap();
    }
}

static HEARD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Writes down statements.
struct Scribe;

#[derive(Default)]
struct Said {
    sql: String,
    types: String,
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "sql" => value.clone_into(&mut self.sql),
            "types" => value.clone_into(&mut self.types),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, format!("{value:?}").trim_matches('"'));
    }
}

impl Subscriber for Scribe {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == STATEMENTS
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut said = Said::default();
        event.record(&mut said);
        let sql = said.sql.split_whitespace().collect::<Vec<_>>().join(" ");
        HEARD.lock().unwrap_or_else(PoisonError::into_inner).insert(format!("{}\t{sql}", said.types));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// A journey that has something of everything.
async fn journey(system: &System) {
    let config = system.agent_config("agent", "plain_http = true");
    system.enrol(&config).await;
    system.encryption_key("cards").await;
    let token = system.caller("app", &config).await;
    system.publish("permit (principal, action, resource);").await;
    let agent = system.agent(&config).await;
    let body = json!({ "key": "payments/cards", "plaintext": "AAAA" });
    system.until_allowed(&agent, "/v1/encrypt", &token, &body).await;
    let second = system.agent_config("second", "plain_http = true");
    system.enrol_beside(&config, &second, None).await;
    let other = system.agent(&second).await;
    system.mutate("createAlias", json!({ "project": "payments", "name": "now", "key": "payments/cards" }), "key { id }").await;
    system.mutate("rotateKey", json!({ "key": "payments/cards" }), "key { id }").await;
    system.mutate("suspendKey", json!({ "key": "payments/cards" }), "key { id }").await;
    system.mutate("resumeKey", json!({ "key": "payments/cards" }), "key { id }").await;
    freehold_tests::world::until(|| async {
        let receipts = system.query("{ receipts(first: 5, operation: ENCRYPT) { nodes { id } } }", json!({})).await;
        if receipts["receipts"]["nodes"].as_array().is_some_and(|nodes| !nodes.is_empty()) {
            Ok(())
        } else {
            Err("no receipt came".to_owned())
        }
    })
    .await;
    for query in [
        "{ keys(first: 5) { nodes { id versions { number state } aliases } pageInfo { hasNextPage } } sites { nodes { id } } policies(first: 2) { nodes { id } } }",
        "{ keys(last: 5, search: \"car\") { nodes { id } } agents(first: 5) { nodes { id state } } callers(first: 5) { nodes { id } } }",
        "{ events(first: 10) { nodes { id type } } receipts(last: 3) { nodes { id } } viewer { principal } }",
        "{ keyUsage(key: \"payments/cards\") { uses { count } } }",
    ] {
        system.query(query, json!({})).await;
    }
    agent.stop().await.unwrap();
    other.stop().await.unwrap();
}

/// What seals it all is replaced, persons and tenants are erased, and pairs make way for others.
async fn sealing(system: &System, config: &Config) {
    let holder = json!({ "name": "Ada", "email": "ada@example.org" });
    let made = json!({ "name": "laptop", "scopes": ["READER"], "holder": holder });
    let made = system.mutate("createToken", made, "token { id holder { person } }").await;
    let person = made["token"]["holder"]["person"].as_str().unwrap().to_owned();
    let tenant = system.query("{ viewer { tenant { id } } }", json!({})).await["viewer"]["tenant"]["id"].as_str().unwrap().to_owned();
    let operator = Operator::open(config, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
    operator.status().await.unwrap();
    operator.rotate().await.unwrap();
    operator.retire().await.unwrap();
    operator.rotate_data_keys(None).await.unwrap();
    operator.rotate_person_key(tenant.parse().unwrap(), person.parse().unwrap()).await.unwrap();
    operator.close().await.unwrap();
    system.query("{ tokens(first: 5) { nodes { name holder { name } } } }", json!({})).await;
    system.cli(&["root", "rotate-pairs"]).await.unwrap();
    system.cli(&["person", "erase", &person, "--confirm", &person]).await.unwrap();
    system.query("{ erasures(first: 5) { nodes { person } } tokens(first: 5) { nodes { holder { erased } } } }", json!({})).await;
    system.operate(&["tenant", "erase", &tenant, "--confirm", &tenant]).await.unwrap();
}

/// Asked for before a release (`tests/transcripts/README.md`); otherwise it has nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn record() {
    let file = |name: &str| folder().join(format!("{}-{name}.sql", env!("CARGO_PKG_VERSION")));
    if std::env::var_os("FREEHOLD_BLESS").is_none() || file("sqlite").exists() {
        return;
    }
    tracing::subscriber::set_global_default(Scribe).unwrap();
    for (engine, name) in [(Engine::Postgres, "postgresql"), (Engine::Sqlite, "sqlite")] {
        HEARD.lock().unwrap().clear();
        let files = TestDatabase::new(engine).unwrap();
        let location = files.location.clone();
        let mut settings = None;
        let system = System::start_with(Arc::new(SystemClock), |config| {
            if let Location::Postgres(url) = location {
                config.store.url = Some(url);
            }
            settings = Some(config.clone());
        })
        .await;
        journey(&system).await;
        sealing(&system, &settings.unwrap()).await;
        system.plane.stop().await;
        let heard = HEARD.lock().unwrap().iter().fold(String::new(), |text, line| text + line + "\n");
        assert!(heard.lines().count() > 60, "{heard}");
        fs::write(file(name), &heard).unwrap();
    }
}
