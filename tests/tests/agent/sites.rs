//! Two sites that share a key: what is made at one comes to the other and is used there, once the sites have been joined; by the relay,
//! and by files.

use std::{path::Path, sync::Arc, time::Duration};

use data_plane_agent::{
    app::Running,
    config::Config,
    control::{
        carried::{self, Taken},
        directory::ControlDirectory,
        enrol::Enrolled,
        vouch::{Whom, confirm},
    },
    keys::errands::{Answer, Errand, ErrandError, MovementFile, ask},
};
use freehold_tests::world::{ShiftedClock, World, until};
use schema::{
    clock::SystemIds,
    encoding::{Digest, base64url},
};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::outage::way;

/// One agent of a site, and a caller there.
struct End {
    config: Config,
    enrolled: Enrolled,
    agent: Running,
    token: String,
    /// Its way to the control plane.
    open: watch::Sender<bool>,
}

impl End {
    async fn of(world: &World, site: &str, name: &str) -> Self {
        let config = world.agent_config(name, "plain_http = true");
        let (address, open) = way(world.plane.agents_address()).await;
        let enrolled = world.enrol_in(site, &config, Some(address)).await;
        let token = world.caller_at(site, &format!("app-{name}"), &config).await;
        Self { agent: world.agent(&config).await, config, enrolled, token, open }
    }

    fn directory(&self) -> ControlDirectory {
        ControlDirectory::open(&self.config.data_dir).unwrap()
    }

    /// A person here compares the join code of an agent of another site.
    async fn confirms(&self, other: &Enrolled) {
        let whom = until(|| async { confirm(&self.directory(), other.agent, other.keyid).map_err(|error| error.to_string()) }).await;
        assert_eq!(whom, Whom::Neighbour(other.site));
    }

    /// Whether this agent knows who made a version of its only key.
    fn knows(&self, number: u32) -> bool {
        let record = |set: &Arc<data_plane_agent::policy::in_force::InForce>| {
            set.keys().any(|key| key.versions.get(&number).is_some_and(|version| version.record.is_some()))
        };
        self.agent.current().load().as_ref().is_some_and(record)
    }

    async fn until_it_knows(&self, number: u32) {
        until(|| async { if self.knows(number) { Ok(()) } else { Err(format!("version {number} is not known")) } }).await;
    }

    async fn errand(&self, errand: Errand) -> Result<Answer, ErrandError> {
        let data_dir = self.config.data_dir.clone();
        tokio::task::spawn_blocking(move || ask(&data_dir, &errand, &SystemIds)).await.unwrap()
    }

    async fn carry(&self, file: &Path) -> Taken {
        let (data_dir, file) = (self.config.data_dir.clone(), file.to_owned());
        tokio::task::spawn_blocking(move || carried::import(&data_dir, &file, &SystemIds)).await.unwrap().unwrap()
    }
}

struct Sites {
    world: World,
    clock: ShiftedClock,
    fra: End,
    ber: End,
}

impl Sites {
    /// A key at two sites, each with an agent; the one in `fra` makes it.
    async fn start() -> Self {
        let clock = ShiftedClock::new();
        let world = World::start_at(Arc::new(clock.clone())).await;
        world.mutate("createSite", json!({ "name": "ber" }), "site { id }").await;
        world.publish("permit (principal, action, resource);").await;
        let (fra, ber) = (End::of(&world, "fra", "fra-1").await, End::of(&world, "ber", "ber-1").await);
        let sites = Self { world, clock, fra, ber };
        sites.key("cards", "SINGLE_COPY").await;
        sites.seal(&sites.fra).await;
        sites
    }

    async fn key(&self, name: &str, durability: &str) {
        let key = json!({
            "project": "payments", "name": name, "algorithm": "A256KW+A256GCM", "purpose": "ENCRYPT",
            "placement": ["fra", "ber"], "durability": durability, "deletionProtection": false,
        });
        self.world.mutate("createKey", key, "key { id }").await;
    }

    async fn seal(&self, at: &End) -> String {
        self.seal_with("cards", at).await
    }

    async fn seal_with(&self, name: &str, at: &End) -> String {
        let body = json!({ "key": format!("payments/{name}"), "plaintext": base64url(b"4111") });
        let sealed = self.world.until_allowed(&at.agent, "/v1/encrypt", &at.token, &body).await;
        sealed["message"].as_str().unwrap().to_owned()
    }

    async fn open(&self, at: &End, message: &str) {
        let opened = self.world.until_allowed(&at.agent, "/v1/decrypt", &at.token, &json!({ "message": message })).await;
        assert_eq!(opened["plaintext"], base64url(b"4111"), "{opened}");
    }

    async fn version(&self, number: usize) -> Value {
        let query = "{ key(reference: \"payments/cards\") { versions { state holders { agentId desired reported } } } }";
        self.world.query(query, json!({})).await["key"]["versions"][number - 1].clone()
    }

    async fn until_reported(&self, number: usize, by: &Enrolled, word: &str) {
        until(|| async {
            let version = self.version(number).await;
            let holders = version["holders"].as_array().cloned().unwrap_or_default();
            let said = |holder: &Value| holder["agentId"] == by.agent.to_string().as_str() && holder["reported"] == word;
            if holders.iter().any(said) { Ok(()) } else { Err(format!("{number} at {}: {version}", by.agent)) }
        })
        .await;
    }

    async fn events(&self, kind: &str) -> usize {
        let query = "query($kind: String) { events(first: 100, type: $kind) { nodes { id } } }";
        self.world.query(query, json!({ "kind": kind })).await["events"]["nodes"].as_array().unwrap().len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_two_sites_is_made_once_used_at_both_rotated_and_destroyed_at_both() {
    let sites = Sites::start().await;
    let (world, fra, ber) = (&sites.world, &sites.fra, &sites.ber);
    let old = sites.seal(fra).await;
    // The control plane tells the sites of each other; that is no reason to believe anybody.
    until(|| async {
        match confirm(&ber.directory(), fra.enrolled.agent, Digest::of(b"another pair")) {
            Err(error) if error.to_string().contains(&fra.enrolled.keyid.to_string()) => Ok(()),
            outcome => Err(format!("{outcome:?}")),
        }
    })
    .await;
    assert!(!ber.knows(1));
    // One side alone is not enough: who made it is believed, and nothing is sent.
    ber.confirms(&fra.enrolled).await;
    ber.until_it_knows(1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((sites.events("MaterialSent").await, ber.agent.vault().versions().await.unwrap().len()), (0, 0));
    assert_eq!(world.call(&ber.agent, "/v1/decrypt", &ber.token, &json!({ "message": old })).await.0 / 100, 4);
    fra.confirms(&ber.enrolled).await;
    sites.until_reported(1, &ber.enrolled, "READY").await;
    sites.open(ber, &old).await;
    let back = sites.seal(ber).await;
    sites.open(fra, &back).await;
    assert_eq!((sites.events("VersionMade").await, sites.events("MaterialSent").await), (1, 1));

    // With one agent at each site there are two homes: both use what one site alone could not.
    sites.key("safe", "TWO_HOLDERS").await;
    for (at, other) in [(fra, ber), (ber, fra)] {
        let sealed = sites.seal_with("safe", at).await;
        sites.open(other, &sealed).await;
    }
    assert_eq!((sites.events("VersionMade").await, sites.events("MaterialSent").await), (2, 2));

    // The next version likewise; and another agent there, for which only its own site vouched, has all of it.
    world.mutate("rotateKey", json!({ "key": "payments/cards" }), "key { id }").await;
    for at in [fra, ber] {
        sites.until_reported(2, &at.enrolled, "READY").await;
    }
    let config = world.agent_config("ber-2", "plain_http = true");
    let further = world.enrol_in("ber", &config, None).await;
    until(|| async { confirm(&ber.directory(), further.agent, further.keyid).map_err(|error| error.to_string()) }).await;
    let running = world.agent(&config).await;
    for number in [1, 2] {
        sites.until_reported(number, &further, "READY").await;
    }
    let new = sites.seal(ber).await;
    sites.open(fra, &new).await;
    let vouched = world.query("query($id: ID!) { agent(id: $id) { vouchedBy } }", json!({ "id": fra.enrolled.agent.to_string() })).await;
    assert_eq!(vouched["agent"]["vouchedBy"], json!([ber.enrolled.agent.to_string()]));
    world.cli(&["key", "show", "payments/cards"]).await.unwrap();

    // Destroyed means at both sites.
    let destroy = json!({ "version": "payments/cards/1", "waitSeconds": "3600" });
    world.mutate("destroyKeyVersion", destroy, "key { id }").await;
    sites.clock.advance(Duration::from_secs(3601));
    for at in [&fra.enrolled, &ber.enrolled, &further] {
        sites.until_reported(1, at, "DESTROYED").await;
    }
    assert_eq!(sites.events("VersionDestroyed").await, 1);
    assert_eq!(world.call(&ber.agent, "/v1/decrypt", &ber.token, &json!({ "message": old })).await.0 / 100, 4);
    sites.open(ber, &new).await;

    // Who is revoked there is sent nothing more from here.
    let revoke = json!({ "agent": further.agent.to_string(), "reason": "CESSATION_OF_OPERATION" });
    world.mutate("revokeAgent", revoke, "agent { state }").await;
    world.mutate("rotateKey", json!({ "key": "payments/cards" }), "key { id }").await;
    sites.until_reported(3, &ber.enrolled, "READY").await;
    assert!(!sites.version(3).await.to_string().contains(&further.agent.to_string()));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn between_sites_without_a_connection_statements_and_material_go_by_file() {
    let sites = Sites::start().await;
    let (world, fra, ber) = (&sites.world, &sites.fra, &sites.ber);
    // Everybody was told of the other, and then every way is closed.
    for (at, other) in [(fra, &ber.enrolled), (ber, &fra.enrolled)] {
        until(|| async {
            match confirm(&at.directory(), other.agent, Digest::of(b"another pair")) {
                Err(error) if error.to_string().contains(&other.keyid.to_string()) => Ok(()),
                outcome => Err(format!("{outcome:?}")),
            }
        })
        .await;
    }
    fra.open.send_replace(false);
    ber.open.send_replace(false);
    let statements = |site: &str| world.path(&format!("{site}.statements"));
    for (site, at, other) in [("fra", fra, &ber.enrolled), ("ber", ber, &fra.enrolled)] {
        at.confirms(other).await;
        let out = statements(site);
        world.cli(&["site", "statements", site, "--out", out.to_str().unwrap()]).await.unwrap();
        assert!(matches!(at.carry(&out).await, Taken::InForce { .. }));
        // The same again changes nothing any more.
        assert_eq!(at.carry(&out).await, Taken::InForce { new: false });
    }
    ber.until_it_knows(1).await;

    let Answer::File { file } = ber.errand(Errand::Prekey).await.unwrap() else { panic!("no file") };
    let path = world.path("here.prekey");
    std::fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
    let prekeys = MovementFile::read(&path).unwrap().prekeys;
    let recipient = ber.enrolled.agent;
    let Answer::File { file } = fra.errand(Errand::Seal { recipient, prekeys }).await.unwrap() else { panic!("no file") };
    assert_eq!(file.transfers.len(), 1);
    let taken = ber.errand(Errand::Take { transfers: file.transfers }).await.unwrap();
    let Answer::Taken { versions, refused } = taken else { panic!("no answer") };
    assert_eq!((versions.len(), refused.len()), (1, 0), "{refused:?}");
    assert_eq!(ber.agent.vault().versions().await.unwrap().len(), 1);

    // It is used there once its statements say that it is there; the other site stays alone.
    ber.open.send_replace(true);
    sites.until_reported(1, &ber.enrolled, "READY").await;
    let sealed = sites.seal(ber).await;
    sites.open(fra, &sealed).await;
    assert_eq!(sites.events("MaterialSent").await, 0);
}
