//! A tenant whose root demands a ledger, on a PostgreSQL that may forget what it acknowledged.

use std::{sync::Arc, time::Duration};

use control_plane::{
    access::{
        authorize::CedarAuthorizer,
        context::OpContext,
        permit::{Authorizer, Question},
    },
    app::App,
    bundles::{
        signers::{TenantSigners, fill},
        stream::{StatementCommand, StatementStream, stream_id},
    },
    config::Config,
    database::{Database, Location},
    eventing::{
        handler::{Handler, Options},
        sql::SqlStore,
    },
    sealing::{Keyring, SealingKey, Secrets},
};
use freehold_tests::{
    cluster::Server,
    world::{World, until},
};
use schema::{
    clock::{Clock, SystemClock, SystemIds, new_id},
    encoding::Digest,
    event::statement::StatementKind,
    id::{PrincipalId, TenantId},
};
use serde_json::{Value, json};
use trust::{dsse::sign_statement, statement::Kind};

/// Publishes the tenant's next root, which demands a ledger or does not, as a control plane that keeps one will.
async fn publish_root(config: &Config, tenant: TenantId, serial: u64, required: bool) {
    let database = Database::open(&Location::Postgres(config.store.url.clone().unwrap())).await.unwrap();
    let key = SealingKey::read(&config.data_dir.join("sealing.key")).unwrap();
    let (clock, ids) = (Arc::new(SystemClock), Arc::new(SystemIds));
    let keyring = Arc::new(Keyring::open(database.clone(), &key, clock.clone(), ids.clone()).await.unwrap());
    let secret = Secrets::new(database.clone(), keyring.clone(), clock.clone()).secret(tenant, "statement-signers").await.unwrap().unwrap();
    let pairs = TenantSigners::from_secret(secret.reveal()).unwrap();
    let store = Arc::new(SqlStore::open(database.clone(), keyring.clone()).await.unwrap());
    let authorizer: Arc<dyn Authorizer> = Arc::new(CedarAuthorizer::new().unwrap());
    let handler = Handler::new(store, keyring, authorizer, clock.clone(), ids.clone());

    let mut root = pairs.first_root(tenant);
    root.ledger.required = required;
    fill(&mut root.head, Kind::Root, 1, serial, serial, clock.now());
    let (bytes, sha256) = sign_statement(&root, &[&pairs.pair(Kind::Root)]);
    let scope = tenant.to_string();
    let id = stream_id(&handler.keys(tenant).await.unwrap(), StatementKind::Root, &scope);
    let envelope_sha256 = Digest::of(&bytes);
    let command = StatementCommand::Publish { kind: StatementKind::Root, scope, epoch: 1, serial, sha256, envelope_sha256 };
    let request = new_id(&*ids, clock.now());
    let ctx = OpContext { tenant, principal: PrincipalId::System("statements"), scopes: Vec::new(), via: None, request };
    let options = Options { blobs: vec![bytes], ..Options::default() };
    handler.handle::<StatementStream>(&ctx, Question::new("publishStatement", "Statements", id), id, options, command).await.unwrap();
    database.close().await.unwrap();
}

/// What a start is refused for.
async fn refused(config: &Config) -> String {
    let started = App::start(config.clone(), Arc::new(SystemClock), Arc::new(SystemIds)).await;
    started.err().expect("it started where acknowledged things can be lost").to_string()
}

/// Until commits wait for the standby, or do not.
async fn synchronous(primary: &Server, names: &str) {
    primary.psql("postgres", &format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'")).unwrap();
    primary.psql("postgres", "SELECT pg_reload_conf()").unwrap();
    let expected = if names.is_empty() { "0" } else { "1" };
    until(|| async {
        let found = primary.psql("postgres", "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'").unwrap();
        if found == expected { Ok(()) } else { Err(found) }
    })
    .await;
}

pub(crate) async fn a_root_that_demands_a_ledger_is_not_served_without_a_standby() {
    let primary = Server::start(&["wal_level=replica", "max_wal_senders=5"]).unwrap();
    let url = primary.url("postgres");
    // Nobody demands anything: any server will do.
    let world = World::start_with(Arc::new(SystemClock), |config| config.store.url = Some(url)).await;
    let tenant: TenantId =
        world.query("{ viewer { tenant { id } } }", json!({})).await["viewer"]["tenant"]["id"].as_str().unwrap().parse().unwrap();
    world.query("{ roots }", json!({})).await;

    let (world, standby) = world
        .between(async |config| {
            publish_root(&config, tenant, 2, true).await;
            let told = refused(&config).await;
            assert!(told.contains(&tenant.to_string()) && told.contains("names no synchronous standby"), "{told}");
            assert!(told.contains("set synchronous_standby_names"), "{told}");
            let standby = primary.standby(&[]).unwrap();
            synchronous(&primary, "*").await;
            for weak in ["local", "remote_write"] {
                primary.psql("postgres", &format!("ALTER DATABASE postgres SET synchronous_commit = {weak}")).unwrap();
                let told = refused(&config).await;
                assert!(told.contains(&format!("\"{weak}\"")), "{told}");
            }
            primary.psql("postgres", "ALTER DATABASE postgres SET synchronous_commit = remote_apply").unwrap();
            standby
        })
        .await;

    // It starts, and says so when the server stops waiting.
    let ready = format!("{}/readyz", world.plane.graphql_url().trim_end_matches("/graphql"));
    let ask = async || reqwest::get(&ready).await.unwrap().json::<Value>().await.unwrap();
    let note = async |is: &dyn Fn(&Value) -> bool| {
        until(|| async {
            let said = ask().await;
            if is(&said["notes"]["ledger"]) { Ok(said) } else { Err(said.to_string()) }
        })
        .await
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(ask().await["notes"]["ledger"].is_null());
    synchronous(&primary, "").await;
    let said = note(&|note| note.as_str().is_some_and(|note| note.contains("names no synchronous standby"))).await;
    assert_eq!((said["status"].as_str(), said["ready"].as_bool()), (Some("degraded"), Some(true)), "{said}");
    synchronous(&primary, "*").await;
    note(&Value::is_null).await;

    // Once the newest root demands it no more, nobody is held to it.
    synchronous(&primary, "").await;
    let (world, ()) = world.between(async |config| publish_root(&config, tenant, 3, false).await).await;
    assert!(ask().await["notes"]["ledger"].is_null());
    world.plane.stop().await;
    drop(standby);
}
