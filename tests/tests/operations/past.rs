//! The past: what was, asked of everything that keeps it.

use freehold_tests::world::World;
use schema::clock::{Clock, SystemClock};
use serde_json::{Value, json};

/// Policies, sites, callers, projects and agents, as they were: one question, whatever it is asked of.
#[tokio::test(flavor = "multi_thread")]
async fn everything_is_asked_as_of_a_time() {
    let world = World::start().await;
    world.publish("permit (principal, action, resource);").await;
    let caller = json!({ "project": "payments", "name": "app", "kind": "TOKEN", "issuer": "fra" });
    world.mutate("registerCaller", caller, "caller { id }").await;
    let then = SystemClock.now().to_string();
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    world.publish("forbid (principal, action, resource);").await;
    world.mutate("suspendCaller", json!({ "caller": "payments/app" }), "caller { id }").await;
    world.mutate("suspendSite", json!({ "site": "fra" }), "site { id }").await;
    world.mutate("createSite", json!({ "name": "ams" }), "site { id }").await;
    world.mutate("createProject", json!({ "name": "later" }), "project { id }").await;
    world.mutate("inviteAgent", json!({ "site": "fra" }), "agent { id }").await;
    let query = "query($at: Timestamp) { \
        policies(first: 5, asOf: $at) { nodes { published { number } } } \
        sites(first: 5, asOf: $at) { nodes { name suspendedAt } } site(reference: \"fra\", asOf: $at) { suspendedAt } \
        projects(first: 5, asOf: $at) { nodes { name } } project(reference: \"later\", asOf: $at) { name } \
        callers(first: 5, asOf: $at) { nodes { state } } caller(reference: \"payments/app\", asOf: $at) { state } \
        agents(first: 5, asOf: $at) { nodes { id } } }";
    let (now, past) = (world.query(query, json!({})).await, world.query(query, json!({ "at": then })).await);
    let count = |seen: &Value, list: &str| seen[list]["nodes"].as_array().unwrap().len();
    for (list, before, after) in [("policies", 1, 1), ("sites", 1, 2), ("projects", 1, 2), ("callers", 1, 1), ("agents", 0, 1)] {
        assert_eq!((count(&past, list), count(&now, list)), (before, after), "{list}");
    }
    assert_eq!(
        (&past["policies"]["nodes"][0]["published"]["number"], &now["policies"]["nodes"][0]["published"]["number"]),
        (&json!(1), &json!(2))
    );
    assert_eq!((&past["caller"]["state"], &now["caller"]["state"]), (&json!("ACTIVE"), &json!("SUSPENDED")));
    assert!(past["site"]["suspendedAt"].is_null() && !now["site"]["suspendedAt"].is_null());
    assert!(past["project"].is_null() && now["project"]["name"] == "later");
    for arguments in [
        &["site", "list", "--as-of", &then][..],
        &["site", "show", "fra", "--as-of", &then],
        &["policy", "list", "--as-of", &then],
        &["policy", "show", "payments/main", "--as-of", &then],
        &["caller", "list", "--as-of", &then],
        &["caller", "show", "payments/app", "--as-of", &then],
        &["project", "list", "--as-of", &then],
    ] {
        world.cli(arguments).await.unwrap_or_else(|error| panic!("{arguments:?}: {error:?}"));
    }
    assert_eq!(world.cli(&["project", "show", "later", "--as-of", &then]).await.unwrap_err().code, "not_found");
}
