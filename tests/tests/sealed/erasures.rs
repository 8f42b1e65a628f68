//! Persons and tenants that are erased, through the whole control plane, and what is left of them after a restore.

use std::{fs, path::Path};

use super::super::*;

const NAME: &str = "Zoë Quxmarker";
const EMAIL: &str = "zoe.quxmarker@example.org";

async fn token_of(world: &World, admin: &str, name: &str, holder: &str) -> Value {
    let input = format!("name: \"{name}\", scopes: [READER], holder: {{ {holder} }}");
    world.run(admin, "createToken", &input, "secret token { id holder { person name email erased } }").await["token"].clone()
}

async fn holders(world: &World, admin: &str, person: &str) -> Value {
    let query = format!("{{ tokens(first: 10, person: \"{person}\") {{ nodes {{ name holder {{ name email erased }} }} }} }}");
    world.ask(admin, &query).await["tokens"]["nodes"].clone()
}

async fn issued(world: &World, admin: &str) -> Vec<Value> {
    let events = world.ask(admin, "{ events(first: 100, type: \"ApiTokenIssued\") { nodes { id data } } }").await;
    let nodes = events["events"]["nodes"].as_array().unwrap().clone();
    nodes.into_iter().filter(|event| event["data"].get("holder").is_some()).collect()
}

/// The database with its log, as it stands.
fn copy(from: &Path, to: &Path) {
    for name in ["freehold.db", "freehold.db-wal", "freehold.db-shm"] {
        let _ = fs::remove_file(to.join(name));
        if from.join(name).exists() {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_erased_everywhere_and_stays_so_after_a_restore() {
    let world = World::start(|config| config.server.plain_http = true).await;
    let admin = world.tenant("acme").await;
    let holder = format!("name: \"{NAME}\", email: \"{EMAIL}\"");
    let first = token_of(&world, &admin, "laptop", &holder).await;
    let person = first["holder"]["person"].as_str().unwrap().to_owned();
    assert_eq!(first["holder"], json!({ "person": person, "name": NAME, "email": EMAIL, "erased": false }));
    let second = token_of(&world, &admin, "phone", &format!("person: \"{person}\", {holder}")).await;
    let other = token_of(&world, &admin, "other", "name: \"Somebody else\"").await;
    assert_ne!(other["holder"]["person"], first["holder"]["person"]);
    assert_eq!(holders(&world, &admin, &person).await.as_array().unwrap().len(), 2);
    assert_eq!(issued(&world, &admin).await[0]["data"]["holder"]["value"]["email"], EMAIL);
    assert_eq!(
        world.refused(&admin, "createToken", "name: \"x\", scopes: [READER], holder: { name: \"A\", email: \"a b\" }").await,
        "invalid_input"
    );

    // What does not erase: another id to confirm it, nobody, somebody of another tenant, a reader.
    let theirs = world.tenant("other").await;
    let erase = |person: &str, confirm: &str| format!("person: \"{person}\", confirm: \"{confirm}\"");
    let stranger = schema::id::MemberId::from_bits(1).to_string();
    assert_eq!(world.refused(&admin, "erasePerson", &erase(&person, &stranger)).await, "erasure_not_confirmed");
    assert_eq!(world.refused(&admin, "erasePerson", &erase(&stranger, &stranger)).await, "nobody_to_erase");
    assert_eq!(world.refused(&theirs, "erasePerson", &erase(&person, &person)).await, "nobody_to_erase");
    let reader = world.run(&admin, "createToken", "name: \"r\", scopes: [READER]", "secret").await;
    assert_eq!(world.refused(reader["secret"].as_str().unwrap(), "erasePerson", &erase(&person, &person)).await, "forbidden");
    assert_eq!(world.refused(&admin, "eraseTenant", "tenant: \"ten_00000000000000000000000001\", confirm: \"\"").await, "forbidden");
    assert_eq!(holders(&world, &admin, &person).await[0]["holder"]["name"], NAME);

    // A backup from before.
    let World { running, directory, .. } = world;
    running.stop().await;
    let backup = tempfile::tempdir().unwrap();
    copy(&directory.path().join("data"), backup.path());
    let world = World::at(directory, Arc::new(SystemClock), |config| config.server.plain_http = true).await;

    let input = format!("{}, idempotencyKey: \"once\"", erase(&person, &person));
    let done = world.run(&admin, "erasePerson", &input, "erasure { id person tenant erasedBy }").await;
    assert_eq!((&done["erasure"]["person"], &done["erasure"]["tenant"]), (&json!(person), &Value::Null));
    assert_eq!(world.run(&admin, "erasePerson", &input, "erasure { id person tenant erasedBy }").await["erasure"], done["erasure"]);
    assert_eq!(world.refused(&admin, "erasePerson", &erase(&person, &person)).await, "already_erased");
    let gone = async |world: &World| {
        let erased = json!({ "name": null, "email": null, "erased": true });
        let tokens = holders(world, &admin, &person).await;
        assert!(
            tokens.as_array().unwrap().len() == 2 && tokens.as_array().unwrap().iter().all(|token| token["holder"] == erased),
            "{tokens}"
        );
        let issued = issued(world, &admin).await;
        for (event, name) in issued.iter().zip(["laptop", "phone"]) {
            assert_eq!(event["data"]["holder"], json!({ "$personal": person, "erased": true }));
            assert_eq!(event["data"]["name"], name);
        }
        assert_eq!(issued[2]["data"]["holder"]["value"]["name"], "Somebody else");
    };
    gone(&world).await;
    // What happens to her tokens later does not bring her back.
    world.run(&admin, "revokeToken", &format!("token: {}", second["id"]), "token { id }").await;
    gone(&world).await;
    let again = format!("name: \"new\", scopes: [READER], holder: {{ person: \"{person}\", {holder} }}");
    assert_eq!(world.refused(&admin, "createToken", &again).await, "person_erased");
    // That it was done is on record, without a name.
    let events =
        world.ask(&admin, "{ events(last: 1, type: \"PersonErased\") { nodes { data } } erasures(first: 5) { nodes { person } } }").await;
    assert_eq!(events["events"]["nodes"][0]["data"], json!({ "person": person }));
    assert_eq!(events["erasures"]["nodes"], json!([{ "person": person }]));
    let listed = fs::read_to_string(world.directory.path().join("data/erased.jsonl")).unwrap_or_default();
    let started = std::time::Instant::now();
    while !fs::read_to_string(world.directory.path().join("data/erased.jsonl")).unwrap_or_default().contains(&person) {
        assert!(started.elapsed() < Duration::from_secs(30), "the list of erasures: {listed}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    // The backup is restored: the list beside it has the last word. And so after a second start.
    let World { running, directory, .. } = world;
    running.stop().await;
    copy(backup.path(), &directory.path().join("data"));
    let mut directory = Some(directory);
    for _ in 0..2 {
        let world = World::at(directory.take().unwrap(), Arc::new(SystemClock), |config| config.server.plain_http = true).await;
        gone(&world).await;
        let World { running, directory: kept, .. } = world;
        running.stop().await;
        directory = Some(kept);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_erased_and_others_are_not() {
    let world = World::start(|config| config.server.plain_http = true).await;
    let (mine, theirs) = (world.furnished("acme").await, world.furnished("other").await);
    world.run(&mine, "createKey", KEY, "key { id }").await;
    let id = world.ask(&mine, "{ viewer { tenant { id } } }").await["viewer"]["tenant"]["id"].as_str().unwrap().to_owned();
    let input = format!("tenant: \"{id}\", confirm: \"{id}\"");
    assert_eq!(world.refused(&mine, "eraseTenant", &input).await, "forbidden");
    let unconfirmed = format!("tenant: \"{id}\", confirm: \"ten_00000000000000000000000001\"");
    assert_eq!(world.refused(&world.operator, "eraseTenant", &unconfirmed).await, "erasure_not_confirmed");
    let nobody = "tenant: \"ten_00000000000000000000000001\", confirm: \"ten_00000000000000000000000001\"";
    assert_eq!(world.refused(&world.operator, "eraseTenant", nobody).await, "nobody_to_erase");
    let deployment = "tenant: \"ten_00000000000000000000000000\", confirm: \"ten_00000000000000000000000000\"";
    assert_eq!(world.refused(&world.operator, "eraseTenant", deployment).await, "nobody_to_erase");
    world.ask(&mine, "{ projects(first: 1) { nodes { id } } }").await;

    let done = world.run(&world.operator, "eraseTenant", &input, "erasure { tenant }").await;
    assert_eq!(done["erasure"]["tenant"], json!(id));
    // Whoever comes with one of its tokens is nobody.
    let answer = world.send(&mine, json!({ "query": "{ viewer { principal } }" }).to_string()).await;
    assert_eq!(answer.status(), 401);
    let tenants = world.ask(&world.operator, "{ tenants(first: 10) { nodes { id } } erasures(first: 5) { nodes { tenant } } }").await;
    assert!(!tenants["tenants"].to_string().contains(&id), "{tenants}");
    assert_eq!(tenants["erasures"]["nodes"], json!([{ "tenant": id }]));
    assert_eq!(world.refused(&world.operator, "eraseTenant", &input).await, "already_erased");
    // Its name is not given again, and others go on: commands, listings, reactors.
    assert_eq!(world.refused(&world.operator, "createTenant", "name: \"acme\"").await, "tenant_exists");
    world.run(&theirs, "createKey", KEY, "key { id }").await;
    tokio::time::sleep(Duration::from_secs(6)).await; // every reactor has looked around once
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ready: Value = client.get(world.running.graphql_url().replace("/graphql", "/readyz")).send().await.unwrap().json().await.unwrap();
    assert_eq!((&ready["ready"], ready["notes"].get("reactors")), (&json!(true), None), "{ready}");

    let World { running, directory, .. } = world;
    running.stop().await;
    let world = World::at(directory, Arc::new(SystemClock), |config| config.server.plain_http = true).await;
    assert_eq!(world.send(&mine, json!({ "query": "{ viewer { principal } }" }).to_string()).await.status(), 401);
    world.ask(&theirs, "{ projects(first: 1) { nodes { id } } }").await;
    world.running.stop().await;
}
