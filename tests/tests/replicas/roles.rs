//! The whole control plane over a PostgreSQL with roles: nobody it connects as owns anything.

use freehold_tests::database::{Engine, TestDatabase, roles_of};

use super::super::*;

#[tokio::test(flavor = "multi_thread")]
async fn journeys_are_made_without_the_owner() {
    let database = TestDatabase::new(Engine::PostgresRoles).unwrap();
    let control_plane::database::Location::Postgres(url) = database.location.clone() else { panic!("PostgreSQL") };
    let roles = roles_of(&database.name());
    let set = |config: &mut Config| {
        config.store.url = Some(url.clone());
        config.store.roles.writer = Some(roles.writer.name().to_owned());
        config.store.roles.reader = Some(roles.reader.name().to_owned());
        config.store.roles.projector = Some(roles.projector.name().to_owned());
    };
    let world = World::start(set).await;
    let (mine, theirs) = (world.furnished("acme").await, world.furnished("other").await);
    for token in [&mine, &theirs] {
        world.run(token, "createKey", KEY, "key { id }").await;
        world.run(token, "createPolicy", "name: \"main\", project: \"pay\"", "policy { id }").await;
        world.run(token, "inviteAgent", "site: \"fra\"", "agent { id }").await;
        world.run(token, "registerCaller", "project: \"pay\", name: \"app\", kind: TOKEN, issuer: \"fra\"", "caller { id }").await;
    }
    let asked = "{ keys(first: 10) { nodes { id name versions { state } } } sites { nodes { name } } \
                 events(first: 50) { nodes { type } } receipts(first: 5) { nodes { id } } agents(first: 5) { nodes { state } } }";
    let (one, two) = (world.ask(&mine, asked).await, world.ask(&theirs, asked).await);
    for answer in [&one, &two] {
        assert_eq!(answer["keys"]["nodes"].as_array().unwrap().len(), 1, "{answer}");
        assert_eq!(answer["agents"]["nodes"].as_array().unwrap().len(), 1, "{answer}");
        assert!(answer["events"]["nodes"].as_array().unwrap().len() > 8, "{answer}");
    }
    assert_ne!(one["keys"]["nodes"][0]["id"], two["keys"]["nodes"][0]["id"]);
    // What is one's is not there for the other.
    let id = &one["keys"]["nodes"][0]["id"];
    assert!(world.ask(&theirs, &format!("{{ node(id: {id}) {{ id }} }}")).await["node"].is_null());

    let connected = database
        .psql("SELECT string_agg(DISTINCT usename, ' ' ORDER BY usename) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
        .unwrap();
    assert_eq!(connected.split(' ').collect::<Vec<_>>(), [roles.projector.name(), roles.reader.name(), roles.writer.name()]);
    // The statements of a site are made by a reactor, as the writer.
    let started = std::time::Instant::now();
    while database.psql("SELECT count(*) FROM heartbeats").unwrap() != "2" {
        assert!(started.elapsed() < Duration::from_secs(60), "nobody compiles statements");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.running.stop().await;

    // A role that may too much stops the next start before a port is opened.
    database.psql(&format!("ALTER ROLE {} BYPASSRLS", roles.reader.name())).unwrap();
    let mut settings = config(&world.directory.path().join("data"));
    set(&mut settings);
    let error = App::start(settings, Arc::new(SystemClock), Arc::new(ManualIds::seeded(9))).await.err().unwrap();
    assert!(matches!(error, StartError::Database(_)) && error.to_string().contains("BYPASSRLS"), "{error}");
}
