//! A deployment on the move: SQLite, PostgreSQL, KurrentDB, and back.

use std::{path::PathBuf, sync::Arc, time::Duration};

use control_plane::{
    app::{App, StartError},
    config::{Config, StoreConfig},
    database::{Database, Location},
    moving::{self, MoveError, Moved, Standstill},
};
use freehold_tests::{
    database::{Engine, TestDatabase},
    world::World,
};
use schema::clock::{SystemClock, SystemIds};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

/// A deployment with a tenant and something in it, stopped.
pub(crate) struct Stopped {
    pub(crate) config: Config,
    admin: String,
    /// What its tenant saw.
    pub(crate) seen: Value,
    _folder: tempfile::TempDir,
}

const QUERY: &str = "{ keys(first: 50) { nodes { id name state createdAt } } sites(first: 50) { nodes { id name } } \
                     projects(first: 50) { nodes { id name } } events(first: 100) { nodes { id ledgerIndex type } } }";

impl Stopped {
    pub(crate) async fn new() -> Self {
        let world = World::start().await;
        world.publish("permit (principal, action, resource);").await;
        for name in ["one", "two", "three"] {
            world.encryption_key(name).await;
        }
        // Reactors have acted when nothing more is appended for a while.
        let mut count = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            let now = world.query(QUERY, json!({})).await["events"]["nodes"].as_array().unwrap().len();
            if now == count {
                break;
            }
            count = now;
        }
        let seen = world.query(QUERY, json!({})).await;
        let admin = std::fs::read_to_string(world.path("admin.token")).unwrap();
        let config = config(world.path("control-plane"));
        let World { plane, folder, .. } = world;
        plane.stop().await;
        Self { config, admin, seen, _folder: folder }
    }

    /// The same, found elsewhere.
    pub(crate) fn at(self, config: Config) -> Self {
        Self { config, ..self }
    }

    /// Serves it from these settings and looks at it as its tenant does.
    pub(crate) async fn look(&self, store: &StoreConfig, mutate: Option<&str>) -> Value {
        let plane = start(&Config { store: store.clone(), ..self.config.clone() }).await.unwrap();
        let http = reqwest::Client::new();
        let ask = async |body: Value| -> Value {
            let answer = http.post(plane.graphql_url()).bearer_auth(&self.admin).json(&body).send().await.unwrap();
            let answer: Value = answer.json().await.unwrap();
            assert!(answer["errors"].is_null(), "{answer}");
            answer["data"].clone()
        };
        if let Some(name) = mutate {
            let mutation = "mutation($input: CreateSiteInput!) { createSite(input: $input) { site { id } userErrors { message } } }";
            let made = ask(json!({ "query": mutation, "variables": { "input": { "name": name } } })).await;
            assert_eq!(made["createSite"]["userErrors"], json!([]), "{made}");
        }
        let seen = ask(json!({ "query": QUERY })).await;
        plane.stop().await;
        seen
    }
}

fn config(data_dir: PathBuf) -> Config {
    let mut config = Config { data_dir, ..Config::default() };
    config.server.listen = "127.0.0.1:0".to_owned();
    config.server.plain_http = true;
    config.server.workers = Some(1);
    config.agents.listen = "127.0.0.1:0".to_owned();
    config
}

pub(crate) fn store(database: &TestDatabase) -> StoreConfig {
    let url = match &database.location {
        Location::Sqlite(path) => format!("sqlite://{}", path.display()),
        Location::Postgres(url) => url.clone(),
    };
    match database.kurrent() {
        Some(place) => StoreConfig {
            url: Some(place.url.clone()),
            read_models: Some(url),
            namespace: place.namespace.clone(),
            ..StoreConfig::default()
        },
        None => StoreConfig { url: Some(url), ..StoreConfig::default() },
    }
}

pub(crate) async fn start(config: &Config) -> Result<control_plane::app::Running, StartError> {
    App::start(config.clone(), Arc::new(SystemClock), Arc::new(SystemIds)).await
}

async fn move_it(config: &Config, from: &StoreConfig, to: &StoreConfig) -> Result<Moved, MoveError> {
    let with = |store: &StoreConfig| Config { store: store.clone(), ..config.clone() };
    moving::move_store(with(from), with(to), Arc::new(SystemClock), Arc::new(SystemIds)).await
}

async fn records(database: &Database) -> Vec<(String, String, i64, String, Vec<u8>)> {
    let sql = "SELECT tenant, stream, revision, event, sealed FROM records ORDER BY position";
    let rows = database.read().query_all_raw(database.sql(sql, vec![])).await.unwrap();
    let read = |row: &sea_orm::QueryResult| {
        let text = |n| row.try_get_by_index::<String>(n).unwrap();
        (text(0), text(1), row.try_get_by_index(2).unwrap(), text(3), row.try_get_by_index(4).unwrap())
    };
    rows.iter().map(read).collect()
}

/// What a tenant sees without the events, which grow.
fn state(seen: &Value) -> Value {
    let mut seen = seen.clone();
    seen.as_object_mut().unwrap().remove("events");
    seen
}

pub(crate) async fn there_and_back() {
    let deployment = Stopped::new().await;
    let sqlite = StoreConfig::default();
    let (postgres, kurrent, back) = (
        TestDatabase::new(Engine::Postgres).unwrap(),
        TestDatabase::new(Engine::Kurrent).unwrap(),
        TestDatabase::new(Engine::Sqlite).unwrap(),
    );
    let (in_postgres, in_kurrent, in_sqlite) = (store(&postgres), store(&kurrent), store(&back));

    let first = move_it(&deployment.config, &sqlite, &in_postgres).await.unwrap();
    assert!(first.records > 10 && !first.read_models_made_anew, "{first:?}");
    for table in ["tenant_keys", "secrets", "views", "view_terms", "heartbeats", "deployment"] {
        let rows = first.rows.iter().find(|(name, _)| name == table).map(|(_, rows)| *rows);
        assert!(rows.is_some_and(|rows| rows > 0), "{table}: {rows:?}");
    }
    let second = move_it(&deployment.config, &in_postgres, &in_kurrent).await.unwrap();
    assert!(second.read_models_made_anew);
    let third = move_it(&deployment.config, &in_kurrent, &in_sqlite).await.unwrap();
    assert_eq!((first.records, &first.records_sha256), (second.records, &second.records_sha256));
    assert_eq!((first.records, &first.records_sha256), (third.records, &third.records_sha256));

    // Everywhere it was before it is not served any more, and where it is now it is what it was.
    for left in [&sqlite, &in_postgres, &in_kurrent] {
        let error = start(&Config { store: left.clone(), ..deployment.config.clone() }).await.err().unwrap();
        assert!(matches!(error, StartError::Moved(Standstill::Moved { .. })), "{error:?}");
        assert!(error.to_string().contains("was moved away from here"), "{error}");
    }
    let seen = deployment.look(&in_sqlite, Some("after")).await;
    assert_eq!(seen["keys"], deployment.seen["keys"]);
    let old = deployment.seen["events"]["nodes"].as_array().unwrap();
    assert_eq!(&seen["events"]["nodes"].as_array().unwrap()[..old.len()], &old[..]);
    assert_eq!(seen["sites"]["nodes"].as_array().unwrap().len(), 2);

    // The whole control plane works with KurrentDB, and what it did there comes along.
    let again = TestDatabase::new(Engine::Kurrent).unwrap();
    let in_kurrent = store(&again);
    move_it(&deployment.config, &in_sqlite, &in_kurrent).await.unwrap();
    let seen = deployment.look(&in_kurrent, Some("in-kurrentdb")).await;
    assert_eq!(seen["sites"]["nodes"].as_array().unwrap().len(), 3);
    let last = TestDatabase::new(Engine::Sqlite).unwrap();
    let moved = move_it(&deployment.config, &in_kurrent, &store(&last)).await.unwrap();
    assert!(moved.records > first.records);
    assert_eq!(state(&deployment.look(&store(&last), None).await), state(&seen));
    let original = Database::open(&Location::Sqlite(deployment.config.data_dir.join("freehold.db"))).await.unwrap();
    let arrived = Database::open(&last.location).await.unwrap();
    let (original, arrived) = (records(&original).await, records(&arrived).await);
    assert_eq!(original.len() as u64, first.records);
    assert_eq!(original[..], arrived[..original.len()]);
}

pub(crate) async fn a_broken_off_move_goes_on() {
    let deployment = Stopped::new().await;
    let kurrent = TestDatabase::new(Engine::Kurrent).unwrap();
    let (sqlite, in_kurrent) = (StoreConfig::default(), store(&kurrent));
    let (mut broken_off, mut patience) = (0, Duration::from_millis(15));
    let moved = loop {
        match tokio::time::timeout(patience, move_it(&deployment.config, &sqlite, &in_kurrent)).await {
            Ok(moved) => break moved.unwrap(),
            Err(_) => broken_off += 1,
        }
        // While it is incomplete nobody serves it.
        let database = Database::open(&kurrent.location).await.unwrap();
        let row = database.read().query_one_raw(database.sql("SELECT state FROM deployment_move", vec![])).await.unwrap();
        if row.is_some() {
            let error = moving::refuse_standstill(&database).await.unwrap_err();
            assert!(matches!(error, Standstill::Arriving), "{error:?}");
        }
        database.close().await.unwrap();
        patience = patience * 5 / 4;
    };
    assert!(broken_off > 3, "broken off {broken_off} times");
    let (_, compared) = (moved.records, moved.records_sha256.clone());
    let back = TestDatabase::new(Engine::Sqlite).unwrap();
    assert_eq!(move_it(&deployment.config, &in_kurrent, &store(&back)).await.unwrap().records_sha256, compared);
    assert_eq!(deployment.look(&store(&back), None).await["keys"], deployment.seen["keys"]);
}

pub(crate) async fn what_is_not_moved() {
    let deployment = Stopped::new().await;
    let sqlite = StoreConfig::default();
    let postgres = TestDatabase::new(Engine::Postgres).unwrap();
    let in_postgres = store(&postgres);

    // A control plane runs on it: here, or on another machine.
    let running = start(&deployment.config).await.unwrap();
    let error = move_it(&deployment.config, &sqlite, &in_postgres).await.unwrap_err();
    assert!(error.to_string().contains("in use by process"), "{error}");
    running.stop().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Config { data_dir: elsewhere.path().to_owned(), store: in_postgres.clone(), ..deployment.config.clone() };
    let running = start(&other).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let here = tempfile::tempdir().unwrap();
    std::fs::copy(elsewhere.path().join("sealing.key"), here.path().join("sealing.key")).unwrap();
    let empty = TestDatabase::new(Engine::Sqlite).unwrap();
    let error = move_it(&config(here.path().to_owned()), &in_postgres, &store(&empty)).await.unwrap_err();
    assert!(matches!(&error, MoveError::InUse { .. }), "{error:?}");
    running.stop().await;

    // The target is another deployment's.
    let error = move_it(&deployment.config, &sqlite, &in_postgres).await.unwrap_err();
    assert!(matches!(&error, MoveError::NotEmpty { .. }), "{error:?}");
    let kurrent = TestDatabase::new(Engine::Kurrent).unwrap();
    move_it(&config(here.path().to_owned()), &in_postgres, &store(&kurrent)).await.unwrap();
    let shared = StoreConfig { read_models: Some(format!("sqlite://{}", here.path().join("models.db").display())), ..store(&kurrent) };
    let error = move_it(&deployment.config, &sqlite, &shared).await.unwrap_err();
    assert!(matches!(&error, MoveError::NotEmpty { what } if what.contains("records")), "{error:?}");

    // Nothing was changed by any of that.
    assert_eq!(deployment.look(&sqlite, None).await["keys"], deployment.seen["keys"]);
    // There is nothing on an empty one.
    let error = move_it(&deployment.config, &store(&empty), &sqlite).await.unwrap_err();
    assert!(matches!(&error, MoveError::Nothing), "{error:?}");
    // Moved away is moved away, until somebody comes back for good.
    let target = TestDatabase::new(Engine::Sqlite).unwrap();
    move_it(&deployment.config, &sqlite, &store(&target)).await.unwrap();
    let third = TestDatabase::new(Engine::Sqlite).unwrap();
    let error = move_it(&deployment.config, &sqlite, &store(&third)).await.unwrap_err();
    assert!(matches!(&error, MoveError::Standstill(Standstill::Moved { .. })), "{error:?}");
    moving::come_back(deployment.config.clone()).await.unwrap();
    assert_eq!(deployment.look(&sqlite, None).await["keys"], deployment.seen["keys"]);
}

/// A byte that is not what it was is found, in records and in rows.
pub(crate) async fn differences_are_found() {
    let deployment = Stopped::new().await;
    let sqlite = StoreConfig::default();
    let tampering = [
        ("records", "UPDATE records SET sealed = zeroblob(40) WHERE position = 3"),
        ("secrets", "UPDATE secrets SET created = created + 1"),
    ];
    for (table, tamper) in tampering {
        let target = TestDatabase::new(Engine::Sqlite).unwrap();
        // Broken off when everything was there, then changed by somebody else.
        move_it(&deployment.config, &sqlite, &store(&target)).await.unwrap();
        moving::come_back(deployment.config.clone()).await.unwrap();
        let source = format!("{:?}", Location::Sqlite(deployment.config.data_dir.join("freehold.db")));
        let database = Database::open(&target.location).await.unwrap();
        database.write().execute_unprepared(tamper).await.unwrap();
        let mark = "INSERT INTO deployment_move (id, state, place) VALUES (1, 'arriving', $1)";
        database.write().execute_raw(database.sql(mark, vec![source.into()])).await.unwrap();
        database.close().await.unwrap();
        let error = move_it(&deployment.config, &sqlite, &store(&target)).await.unwrap_err();
        assert!(matches!(&error, MoveError::Differs { what } if what.contains(table.trim_end_matches('s'))), "{table}: {error:?}");
        let error = start(&Config { store: store(&target), ..deployment.config.clone() }).await.err().unwrap();
        assert!(matches!(error, StartError::Moved(Standstill::Arriving)), "{error:?}");
    }
}

/// A new database beside records that are there does not hold their keys: that is told before one is made.
pub(crate) async fn records_without_their_keys_are_refused() {
    let kurrent = TestDatabase::new(Engine::Kurrent).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let with = |folder: &std::path::Path, store: StoreConfig| Config { store, ..config(folder.to_owned()) };
    start(&with(folder.path(), store(&kurrent))).await.unwrap().stop().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let alone = with(elsewhere.path(), StoreConfig { read_models: None, ..store(&kurrent) });
    for _ in 0..2 {
        let error = start(&alone).await.err().unwrap();
        assert!(error.to_string().contains("holds records, and the database beside it is empty"), "{error}");
        assert!(!elsewhere.path().join("sealing.key").exists());
    }
    start(&with(folder.path(), store(&kurrent))).await.unwrap().stop().await;
}
