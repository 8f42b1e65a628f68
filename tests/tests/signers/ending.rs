//! What ends is renewed by its signers, who are told weeks ahead.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use control_plane::{
    bundles::heartbeat::Heartbeats,
    database::{Database, Location},
};
use schema::clock::{Clock, SystemClock, Timestamp};
use serde_json::json;
use trust::statement::Kind;

use super::super::*;

/// The machine's clock, moved ahead.
#[derive(Clone, Default)]
pub(super) struct Ahead(Arc<AtomicI64>);

impl Ahead {
    fn advance(&self, days: u64) {
        self.advance_minutes(days * 1440);
    }

    pub(super) fn advance_minutes(&self, minutes: u64) {
        self.0.fetch_add(i64::try_from(Duration::from_secs(minutes * 60).as_micros()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(SystemClock.now().micros() + self.0.load(Ordering::SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_end_are_proposed_anew_and_warned_about() {
    let clock = Ahead::default();
    let site = Site::of(World::start_at(Arc::new(clock.clone())).await).await;
    site.hand_over().await;
    let warnings = async || {
        let statements = site.world.query("{ site(reference: \"fra\") { statements { kind warning } } }", json!({})).await;
        let statements = statements["site"]["statements"].as_array().unwrap().clone();
        statements.into_iter().filter(|statement| !statement["warning"].is_null()).collect::<Vec<_>>()
    };
    assert!(warnings().await.is_empty() && site.waiting("POLICY").await.is_empty());
    let health = async || {
        let url = site.world.plane.graphql_url().replace(control_plane::http::graphql::PATH, "/readyz");
        reqwest::get(url).await.unwrap().json::<Value>().await.unwrap()
    };
    assert!(health().await["notes"]["statements"].is_null());

    // 140 days later the next ones wait, though there is time: 40 days are left.
    clock.advance(140);
    let waits = site.until_waiting("POLICY", 2).await;
    assert!(warnings().await.is_empty(), "{waits:?}");
    // 15 days later somebody should look: statements, health and metrics say so, and the control plane goes on.
    clock.advance(15);
    until(|| async {
        let health = health().await;
        let told = health["notes"]["statements"].as_str().is_some_and(|note| note.contains("2 policies end soon"));
        if told && health["ready"] == true { Ok(()) } else { Err(health.to_string()) }
    })
    .await;
    let warned = warnings().await;
    assert_eq!(warned.len(), 2, "{warned:?}");
    assert!(warned[0]["warning"].as_str().unwrap().contains("freehold policy sign"), "{warned:?}");
    site.cli(&["site", "statements", "fra"]).await.unwrap();
    let url = site.world.plane.graphql_url().replace(control_plane::http::graphql::PATH, "/metrics");
    let metrics = reqwest::get(url).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("freehold_statements_ending{kind=\"policy\"}"), "{metrics}");

    // What waits is still what waited, and signed it lives on.
    assert_eq!(site.waiting("POLICY").await.len(), 2);
    for signer in &site.signers[..2] {
        site.sign("policy", signer, &[]).await.unwrap();
    }
    until(|| async {
        let warned = warnings().await;
        if warned.is_empty() { Ok(()) } else { Err(format!("{warned:?}")) }
    })
    .await;

    // The same signers may give the root another term, long before it ends.
    site.cli(&["root", "propose", "--renew"]).await.unwrap();
    let waits = site.until_waiting("ROOT", 1).await;
    assert_eq!(waits[0]["needs"].as_array().unwrap().len(), 2);
    site.agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_of_the_control_planes_own_is_renewed_by_itself_long_before_it_ends() {
    let clock = Ahead::default();
    let world = World::start_at(Arc::new(clock.clone())).await;
    let data = world.path("control-plane");
    // Whoever looks from outside is not held back by a lock.
    std::fs::remove_file(data.join("freehold.db.lock")).unwrap();
    let database = Database::open(&Location::Sqlite(data.join("freehold.db"))).await.unwrap();
    let heartbeats = Heartbeats::new(database);
    let site = world.query("{ viewer { tenant { id } } site(reference: \"fra\") { id } }", json!({})).await;
    let id = |place: &str| site.pointer(place).unwrap().as_str().unwrap().to_owned();
    let (tenant, site) = (id("/viewer/tenant/id").parse().unwrap(), id("/site/id").parse().unwrap());
    let roots = async || {
        let current = heartbeats.current(tenant, site).await.unwrap();
        let members = current.map(|current| current.members).unwrap_or_default();
        members.into_iter().filter(|member| member.kind == Kind::Root).collect::<Vec<_>>()
    };
    let until_roots = async |count: usize| {
        until(|| async {
            let found = roots().await;
            if found.len() == count { Ok(found) } else { Err(format!("{found:?}")) }
        })
        .await
    };
    until_roots(1).await;
    clock.advance(3 * 365);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(roots().await.len(), 1, "there is time");
    clock.advance(365 + 30);
    let two = until_roots(2).await;
    assert!(two[1].serial == 2 && two[1].expires > two[0].expires.plus(Duration::from_secs(3 * 365 * 86_400)), "{two:?}");
}
