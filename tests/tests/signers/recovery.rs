//! The control plane is restored from an older backup while agents have seen newer statements: they refuse, everybody is told why,
//! and the next epoch brings all of them back. Nothing that agents know is lowered by it.

use std::{path::PathBuf, sync::Arc};

use control_plane::{
    backup::{
        key::{generate, read_secret},
        make::make,
        restore::restore,
    },
    config::{BackupConfig, Config},
};
use data_plane_agent::control::{
    carried::{self, Taken},
    directory::ControlDirectory,
};
use freehold_tests::database::through_roles;
use schema::clock::{SystemClock, SystemIds};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

use super::super::*;

/// Where a backup of the control plane lies, and the key that opens it.
struct Backup {
    file: PathBuf,
    key: PathBuf,
}

/// Nothing is left of the store.
async fn lose(config: &Config) {
    let Some(url) = &config.store.url else {
        for name in ["freehold.db", "freehold.db-wal", "freehold.db-shm"] {
            let _ = std::fs::remove_file(config.data_dir.join(name));
        }
        return;
    };
    let owner = sea_orm::Database::connect(url).await.unwrap();
    owner.execute_unprepared("DROP SCHEMA public CASCADE").await.unwrap();
    owner.execute_unprepared("CREATE SCHEMA public").await.unwrap();
    owner.close().await.unwrap();
}

impl Site {
    /// The same with the control plane stopped meanwhile.
    async fn between<T>(self, work: impl AsyncFnOnce(Config) -> T) -> (Self, T) {
        let Self { world, config, agent, token, signers } = self;
        let (world, done) = world.between(work).await;
        (Self { world, config, agent, token, signers }, done)
    }

    async fn back_up(self) -> (Self, Backup) {
        let folder = self.world.path("backups");
        let (site, backup) = self
            .between(async move |config| {
                let (key, public) = (folder.with_extension("key"), folder.with_extension("pub"));
                generate(&key, &public, &SystemIds).unwrap();
                let backup = BackupConfig { directory: Some(folder), recipient_file: Some(public), ..BackupConfig::default() };
                let made = make(&Config { backup, ..config }, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
                Backup { file: made.path, key }
            })
            .await;
        site.until_open().await;
        (site, backup)
    }

    /// The store is lost, and the backup takes its place.
    async fn restore(self, backup: &Backup) -> Self {
        let (site, ()) = self
            .between(async |config| {
                lose(&config).await;
                let secret = read_secret(&backup.key).unwrap();
                restore(&config, &backup.file, &secret, None, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
            })
            .await;
        site
    }

    async fn sealed_with(&self, key: &str) -> Value {
        let body = json!({ "key": key, "plaintext": base64url(b"secret") });
        self.world.until_allowed(&self.agent, "/v1/encrypt", &self.token, &body).await
    }

    async fn opens(&self, sealed: &Value) {
        let (status, answer) = self.call("/v1/decrypt", &json!({ "message": sealed["message"] })).await;
        assert_eq!((status, answer["plaintext"].as_str()), (200, Some(base64url(b"secret").as_str())), "{answer}");
    }

    async fn until_refuses(&self, code: &str) -> Value {
        until(|| async {
            let status = self.world.ask(&self.agent, "/v1/status").await;
            if status["rejection"]["code"] == code { Ok(status["rejection"].clone()) } else { Err(status.to_string()) }
        })
        .await
    }

    async fn until_believed(&self) {
        until(|| async {
            let status = self.world.ask(&self.agent, "/v1/status").await;
            if status["rejection"].is_null() { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    }

    async fn recovery(&self) -> Value {
        self.world.query("{ recovery { epoch needed waits sites { site agent theirs ours forgotten } } }", json!({})).await["recovery"]
            .clone()
    }

    async fn until_told(&self) -> Value {
        until(|| async {
            let recovery = self.recovery().await;
            if recovery["needed"] == true { Ok(recovery) } else { Err(recovery.to_string()) }
        })
        .await
    }

    fn confirm_epoch(&self, epoch: u64) {
        carried::confirm_epoch(&ControlDirectory::open(&self.config.data_dir).unwrap(), epoch).unwrap();
    }

    async fn ready(&self) -> Value {
        let url = self.world.plane.graphql_url().trim_end_matches(control_plane::http::graphql::PATH).to_owned();
        reqwest::get(format!("{url}/readyz")).await.unwrap().json().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_of_a_restored_control_plane_come_back_in_the_next_epoch() {
    ceremony(Site::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn they_come_back_as_well_where_it_keeps_everything_in_postgresql_through_roles() {
    let world = World::start_with(Arc::new(SystemClock), through_roles).await;
    ceremony(Site::of(world).await).await;
}

async fn ceremony(site: Site) {
    let (site, backup) = site.back_up().await;
    let old = site.sealed_with("payments/cards").await;
    // After the backup: a key, another version, a policy, a caller that is cut off.
    site.world.encryption_key("late").await;
    let late = site.sealed_with("payments/late").await;
    site.world.mutate("rotateKey", json!({ "key": "payments/cards" }), "key { id }").await;
    until(|| async {
        let sealed = site.sealed_with("payments/cards").await;
        if sealed["key_version"].as_str().is_some_and(|version| version.ends_with("/2")) { Ok(()) } else { Err(sealed.to_string()) }
    })
    .await;
    let second = site.sealed_with("payments/cards").await;
    let blocked = site.world.caller("blocked", &site.config).await;
    let body = json!({ "key": "payments/cards", "plaintext": base64url(b"secret") });
    site.world.until_allowed(&site.agent, "/v1/encrypt", &blocked, &body).await;
    site.world.mutate("suspendCaller", json!({ "caller": "payments/blocked" }), "caller { id }").await;
    until(|| async {
        let (_, answer) = site.world.call(&site.agent, "/v1/encrypt", &blocked, &body).await;
        if answer["code"] == "caller_suspended" { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    site.world.publish("permit (principal, action, resource);\npermit (principal, action == Action::\"encrypt\", resource);").await;
    site.until_believed().await;

    let site = site.restore(&backup).await;
    let rejection = site.until_refuses("older").await;
    assert!(rejection["detail"].as_str().unwrap().contains("restored from an older backup"), "{rejection}");
    // What is in force goes on, whoever is told what.
    site.opens(&old).await;
    site.opens(&late).await;
    site.opens(&second).await;
    site.sealed_with("payments/late").await;

    let told = site.until_told().await;
    let forgotten: Vec<&str> = told["sites"][0]["forgotten"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for what in ["key key_", "version key_", "caller clr_", "suspension of clr_"] {
        assert!(forgotten.iter().any(|text| text.starts_with(what)), "{what}: {forgotten:?}");
    }
    let note = site.ready().await["notes"]["recovery"].clone();
    assert!(note.as_str().is_some_and(|note| note.contains("freehold recovery status")), "{note}");
    site.cli(&["recovery", "status"]).await.unwrap();
    // Nothing new is numbered meanwhile.
    let set =
        async || site.world.query("query($site: ID!) { siteStatementSet(site: $site) }", json!({ "site": told["sites"][0]["site"] })).await;
    let before = set().await;
    site.world.publish(SEAL_ONLY).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(set().await == before, "nothing is published while agents know better");
    site.world.publish(OPEN).await;

    assert_eq!(site.cli(&["recovery", "begin", "--epoch", "3"]).await.unwrap_err().code, "recovery_of_other_epoch");
    site.cli(&["recovery", "begin", "--epoch", "2"]).await.unwrap();
    let rejection = site.until_refuses("epoch_not_confirmed").await;
    assert!(rejection["detail"].as_str().unwrap().contains("confirm-epoch 2"), "{rejection}");
    site.opens(&late).await;
    assert!(
        carried::confirm_epoch(&ControlDirectory::open(&site.config.data_dir).unwrap(), 3).is_err(),
        "epochs begin one after the other"
    );
    site.confirm_epoch(2);
    site.until_believed().await;
    assert_eq!(site.recovery().await["needed"], false);
    assert!(site.ready().await["notes"]["recovery"].is_null());
    for sealed in [&old, &late, &second] {
        site.opens(sealed).await;
    }
    site.sealed_with("payments/late").await;
    let query = "{ keys(first: 10) { nodes { name state versions { number state } } } }";
    let keys = site.world.query(query, json!({})).await["keys"]["nodes"].as_array().unwrap().clone();
    let key = |name: &str| keys.iter().find(|key| key["name"] == name).unwrap_or_else(|| panic!("{name}: {keys:?}"));
    assert_eq!(key("late")["state"], "ACTIVE");
    assert_eq!(key("cards")["versions"].as_array().unwrap().len(), 2);
    // Life goes on: what is changed now reaches the agent.
    site.world.encryption_key("after").await;
    site.sealed_with("payments/after").await;
    // What the control plane forgot, the agent did not: the suspension stays until policy lifts it, and its old statements count no more.
    site.world.caller("blocked", &site.config).await;
    let again = until(|| async {
        let (_, answer) = site.world.call(&site.agent, "/v1/encrypt", &blocked, &body).await;
        if answer["code"] == "caller_unknown" { Err(answer.to_string()) } else { Ok(answer) }
    })
    .await;
    assert_eq!(again["code"], "caller_suspended", "{again}");
    site.cli(&["recovery", "begin"]).await.unwrap();
    site.sealed_with("payments/after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_epoch_needs_as_many_signers_as_the_root() {
    let site = Site::start().await;
    site.hand_over().await;
    let (site, backup) = site.back_up().await;
    let sealed = site.sealed_with("payments/cards").await;
    site.world.publish(SEAL_ONLY).await;
    site.until_waiting("POLICY", 1).await;
    site.sign("policy", &site.signers[0], &[]).await.unwrap();
    site.sign("policy", &site.signers[1], &[]).await.unwrap();
    let opening = json!({ "message": sealed["message"] });
    site.until_status("/v1/decrypt", &opening, 403).await;

    let site = site.restore(&backup).await;
    site.until_refuses("older").await;
    site.until_told().await;
    site.cli(&["recovery", "begin"]).await.unwrap();
    let waits = site.until_waiting("ROOT", 1).await;
    assert_eq!(waits[0]["serial"], "3");
    assert_eq!(site.recovery().await["waits"], true);
    assert_eq!(site.sign("root", &site.signers[0], &[]).await.unwrap_err().code, "statement_of_other_epoch");
    site.sign("root", &site.signers[0], &["--recovery"]).await.unwrap();
    assert_eq!(site.recovery().await["needed"], true, "one of two is not enough");
    site.confirm_epoch(2);
    site.sign("root", &site.signers[1], &["--recovery"]).await.unwrap();
    site.until_root(3).await;
    site.until_believed().await;
    // What the signers decided last is in force, though the control plane had forgotten it.
    site.until_status("/v1/decrypt", &opening, 403).await;
    let policies = site.world.query("{ recovery { needed } }", json!({})).await;
    assert_eq!(policies["recovery"]["needed"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_is_connected_to_nothing_comes_back_by_files() {
    let (site, backup) = Site::start().await.back_up().await;
    site.world.encryption_key("late").await;
    let late = site.sealed_with("payments/late").await;
    site.until_believed().await;
    let Site { world, config, agent, token, signers } = site;
    agent.stop().await.unwrap();
    let mut alone = config.clone();
    alone.control_plane.url = Some("https://127.0.0.1:9".to_owned());
    let agent = world.agent(&alone).await;
    let site = Site { world, config, agent, token, signers };
    let site = site.restore(&backup).await;
    site.opens(&late).await;

    let folder = site.world.path("carried");
    std::fs::create_dir(&folder).unwrap();
    let (out, back) = (folder.join("from-agent.json"), folder.join("to-agent.json"));
    let directory = ControlDirectory::open(&site.config.data_dir).unwrap();
    let carry = async |file: &std::path::Path| {
        let (data_dir, file) = (site.config.data_dir.clone(), file.to_owned());
        tokio::task::spawn_blocking(move || carried::import(&data_dir, &file, &SystemIds)).await.unwrap()
    };
    // What the restored control plane has, the agent does not take.
    site.cli(&["site", "statements", "fra", "--out", text(&back)]).await.unwrap();
    let Taken::Refused(rejected) = carry(&back).await.unwrap() else { panic!("an older set was believed") };
    assert_eq!(rejected.code, "older");
    std::fs::write(&out, b"{}").unwrap();
    assert_eq!(site.cli(&["recovery", "show", text(&out)]).await.unwrap_err().code, "invalid_input");
    std::fs::write(&out, carried::export(&directory).unwrap()).unwrap();
    site.cli(&["recovery", "show", text(&out)]).await.unwrap();
    assert_eq!(site.recovery().await["needed"], true);
    site.cli(&["recovery", "begin"]).await.unwrap();
    site.cli(&["site", "statements", "fra", "--out", text(&back)]).await.unwrap();
    let Taken::Refused(rejected) = carry(&back).await.unwrap() else { panic!("an epoch began by itself") };
    assert_eq!(rejected.code, "epoch_not_confirmed");
    site.confirm_epoch(2);
    assert_eq!(carry(&back).await.unwrap(), Taken::InForce { new: true });
    assert_eq!(carry(&back).await.unwrap(), Taken::InForce { new: false });
    site.opens(&late).await;
    site.sealed_with("payments/late").await;
}
