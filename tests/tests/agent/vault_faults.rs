//! A vault that is gone, full, too weak or put back to an older state while keys come and go, with a control plane running: nothing is
//! half made, nothing comes back, and everybody who should know is told.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use data_plane_agent::{config::Config, vault::VaultError};
use freehold_tests::world::{ShiftedClock, World, until};
use schema::{
    clock::{SystemClock, SystemIds},
    encoding::base64url,
    id::KeyVersion,
};
use serde_json::{Value, json};
use vault_contract::{Lease, VaultServer};

use super::{disks::Mounted, recovery};

const PLAIN: &str = "plain_http = true";
const KEY: &str = "query($key: String!) { key(reference: $key) { primaryVersion versions { id state \
                   holders { reported findings { code detail since } } destruction { proven } } } }";
const AGENTS: &str = "{ agents(first: 9) { nodes { id state findings { code detail keyVersion since } } } }";

async fn key(world: &World, name: &str) -> Value {
    world.query(KEY, json!({ "key": format!("payments/{name}") })).await["key"].clone()
}

async fn until_key(world: &World, name: &str, is: impl Fn(&Value) -> bool) -> Value {
    until(|| async {
        let key = key(world, name).await;
        if is(&key) { Ok(key) } else { Err(key.to_string()) }
    })
    .await
}

fn in_use(key: &Value) -> bool {
    key["primaryVersion"] == 1 && key["versions"][0]["state"] == "ACTIVE"
}

fn finds(key: &Value, code: &str) -> bool {
    key["versions"][0]["holders"][0]["findings"].as_array().into_iter().flatten().any(|finding| finding["code"] == code)
}

/// What the agents of the site find, by code.
async fn found(world: &World) -> Vec<String> {
    let agents = world.query(AGENTS, json!({})).await["agents"]["nodes"].clone();
    let findings = agents.as_array().unwrap().iter().flat_map(|agent| agent["findings"].as_array().unwrap().clone());
    findings.map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
}

async fn until_found(world: &World, is: impl Fn(&[String]) -> bool) {
    until(|| async {
        let found = found(world).await;
        if is(&found) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

/// The settings of an agent with this section `[vault]`.
fn config_with(world: &World, name: &str, vault: &str) -> Config {
    let folder = world.path(name);
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("agent.toml");
    let server = format!("[server]\nlisten = \"127.0.0.1:0\"\nworkers = 1\n{PLAIN}\n");
    fs::write(&file, format!("data_dir = \"{}/data\"\n{server}[vault]\n{vault}", folder.display())).unwrap();
    Config::load(Some(&file), [], &Default::default()).unwrap()
}

async fn destroy(world: &World, clock: &ShiftedClock, name: &str) {
    world.mutate("setKeyDeletionProtection", json!({ "key": format!("payments/{name}"), "protected": false }), "key { id }").await;
    world.mutate("destroyKeyVersion", json!({ "version": format!("payments/{name}/1"), "waitSeconds": "3600" }), "key { id }").await;
    clock.advance(Duration::from_secs(3_601));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_is_gone_while_keys_are_made_and_destroyed_is_told_and_waited_for() {
    let clock = ShiftedClock::new();
    let world = World::start_at(Arc::new(clock.clone())).await;
    let server = VaultServer::start("site-token").unwrap();
    let token = world.path("bao-token");
    service::files::write_atomic(&token, b"site-token\n", service::files::OWNER_ONLY).unwrap();
    let vault = format!(
        "kind = \"remote\"\n[vault.remote]\nurl = \"{}\"\ntoken_file = {token:?}\nkv_path = \"fra\"\ncall_timeout = \"1s\"\n",
        server.url()
    );
    let config = config_with(&world, "agent", &vault);
    world.enrol(&config).await;
    let agent = world.agent(&config).await;
    world.encryption_key("before").await;
    until_key(&world, "before", in_use).await;
    assert_eq!(found(&world).await, Vec::<String>::new());

    // Sealed, then gone, while a key is to be made.
    server.set_sealed(true);
    until_found(&world, |found| found.contains(&"vault_locked".to_owned())).await;
    world.encryption_key("during").await;
    let gone = server.go_away();
    until_found(&world, |found| found.contains(&"vault_unavailable".to_owned())).await;
    let waiting = key(&world, "during").await;
    assert_eq!((&waiting["versions"][0]["state"], &waiting["primaryVersion"]), (&json!("PRE_ACTIVATION"), &json!(0)), "{waiting}");
    let server = gone.come_back().unwrap();
    server.set_sealed(false);
    let made = until_key(&world, "during", in_use).await;
    assert_eq!(made["versions"].as_array().unwrap().len(), 1, "{made}");
    until_found(&world, |found| found.is_empty()).await;

    // Gone while one is to be destroyed: it is not called destroyed, and is not used.
    let version: KeyVersion = made["versions"][0]["id"].as_str().unwrap().parse().unwrap();
    let gone = server.go_away();
    destroy(&world, &clock, "during").await;
    until_found(&world, |found| found.contains(&"vault_unavailable".to_owned())).await;
    assert_eq!(key(&world, "during").await["versions"][0]["destruction"]["proven"], false);
    let server = gone.come_back().unwrap();
    until_key(&world, "during", |key| key["versions"][0]["destruction"]["proven"] == true).await;
    assert!(!server.everything().contains(&format!("{}.1.json", version.key)), "{}", server.everything());
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_role_no_longer_gets_into_its_vault_says_so_and_goes_on_when_it_does() {
    let world = World::start().await;
    let server = VaultServer::start("of somebody else").unwrap();
    let lease = Lease { ttl: Some(Duration::from_secs(3_600)), renewable: true, ..Lease::default() };
    server.set_role("fra-agents", "secret-1", None, lease);
    let (role_id, secret_id) = (world.path("role-id"), world.path("secret-id"));
    let write = |path: &Path, text: &str| service::files::write_atomic(path, text.as_bytes(), service::files::OWNER_ONLY).unwrap();
    write(&role_id, "fra-agents\n");
    write(&secret_id, "secret-1\n");
    let vault = format!(
        "kind = \"remote\"\n[vault.remote]\nurl = \"{}\"\nkv_path = \"fra\"\ncall_timeout = \"1s\"\n[vault.remote.app_role]\n\
         role_id_file = {role_id:?}\nsecret_id_file = {secret_id:?}\n",
        server.url()
    );
    let config = config_with(&world, "agent", &vault);
    world.enrol(&config).await;
    // It does not start with a secret id that is wrong, and says why.
    write(&secret_id, "secret-0\n");
    let start = || data_plane_agent::app::App::start(config.clone(), Arc::new(SystemClock), Arc::new(SystemIds));
    let refused = format!("{:?}", start().await.err().expect("a wrong secret id was let in"));
    assert!(refused.contains("invalid role or secret ID") && !refused.contains("secret-0"), "{refused}");
    write(&secret_id, "secret-1\n");
    let agent = world.agent(&config).await;
    world.encryption_key("before").await;
    until_key(&world, "before", in_use).await;

    server.forget_role("fra-agents");
    until_found(&world, |found| found == ["vault_refused"]).await;
    until(|| async {
        let ready = world.ask(&agent, "/readyz").await;
        let note = ready["notes"]["vault"].as_str().unwrap_or_default();
        if note.contains("write another secret id into") { Ok(()) } else { Err(ready.to_string()) }
    })
    .await;
    world.encryption_key("during").await;
    server.set_role("fra-agents", "secret-2", None, lease);
    write(&secret_id, "secret-2\n");
    until_key(&world, "during", in_use).await;
    until_found(&world, |found| found.is_empty()).await;
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_whose_disk_is_full_makes_nothing_half_and_goes_on_when_there_is_room() {
    let Some(mounted) = Mounted::new() else { return };
    let world = World::start().await;
    let key_file = world.path("vault.key");
    service::files::write_atomic(&key_file, &[7; 32], service::files::OWNER_ONLY).unwrap();
    let place = mounted.path().join("vault");
    let config = config_with(&world, "agent", &format!("kind = \"file\"\nkey_file = {key_file:?}\ndirectory = {place:?}\n"));
    world.enrol(&config).await;
    let agent = world.agent(&config).await;
    world.encryption_key("before").await;
    until_key(&world, "before", in_use).await;
    let records = || fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let before = records();
    mounted.fill();
    world.encryption_key("during").await;
    let waiting = until_key(&world, "during", |key| finds(key, "vault_io")).await;
    assert_eq!(waiting["versions"][0]["state"], "PRE_ACTIVATION", "{waiting}");
    assert_eq!(records(), before, "nothing is half made");
    mounted.free();
    world.encryption_key("after").await;
    for name in ["during", "after"] {
        // What was found goes with the next report, which may come after the version is in use.
        let made = until_key(&world, name, |key| in_use(key) && !finds(key, "vault_io")).await;
        assert_eq!(made["versions"].as_array().unwrap().len(), 1, "{made}");
    }
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_demands_more_than_the_vault_gives_is_not_made_and_everybody_who_looks_is_told() {
    let world = World::start().await;
    let config = world.agent_config("agent", PLAIN);
    world.enrol(&config).await;
    let agent = world.agent(&config).await;
    let new = json!({
        "project": "payments", "name": "vip", "algorithm": "A256KW+A256GCM", "purpose": "ENCRYPT", "placement": ["fra"],
        "durability": "SINGLE_COPY", "protection": "HARDWARE",
    });
    world.mutate("createKey", new, "key { id }").await;
    let key = until_key(&world, "vip", |key| finds(key, "protection_not_met")).await;
    let finding = &key["versions"][0]["holders"][0]["findings"][0];
    assert!(finding["detail"].as_str().unwrap().contains("demands the protection hardware"), "{key}");
    assert_eq!((&key["versions"][0]["state"], &key["versions"][0]["holders"][0]["reported"]), (&json!("PRE_ACTIVATION"), &json!("ABSENT")));
    let told = world.query(AGENTS, json!({})).await["agents"]["nodes"][0]["findings"].clone();
    assert_eq!((&told[0]["code"], &told[0]["keyVersion"]), (&json!("protection_not_met"), &key["versions"][0]["id"]));
    // At the command line, and at the agent.
    let id = world.query(AGENTS, json!({})).await["agents"]["nodes"][0]["id"].as_str().unwrap().to_owned();
    for line in [&["key", "show", "payments/vip"][..], &["site", "show", "fra"], &["agent", "show", &id]] {
        world.cli(line).await.unwrap();
    }
    let ready = world.ask(&agent, "/readyz").await;
    assert_eq!(ready["notes"]["findings"], "protection_not_met (1): the log and freehold agent show say what it is about", "{ready}");
    // It is as old as it was found, and over when the version is.
    let again = until_key(&world, "vip", |key| finds(key, "protection_not_met")).await;
    assert_eq!(again["versions"][0]["holders"][0]["findings"][0]["since"], finding["since"]);
    agent.stop().await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_key_stays_destroyed_when_an_old_copy_of_the_vault_comes_back() {
    let clock = ShiftedClock::new();
    let world = World::start_at(Arc::new(clock.clone())).await;
    let config = world.agent_config("agent", PLAIN);
    world.enrol(&config).await;
    let agent = world.agent(&config).await;
    let token = world.caller("app", &config).await;
    world.publish("permit (principal, action, resource);").await;
    for name in ["cards", "kept"] {
        world.encryption_key(name).await;
    }
    let seal = |name: &str| json!({ "key": format!("payments/{name}"), "plaintext": base64url(b"4111") });
    let sealed = world.until_allowed(&agent, "/v1/encrypt", &token, &seal("cards")).await;
    let kept = world.until_allowed(&agent, "/v1/encrypt", &token, &seal("kept")).await;
    let open = |sealed: &Value| json!({ "message": sealed["message"] });
    let made = until_key(&world, "cards", in_use).await;
    let version: KeyVersion = made["versions"][0]["id"].as_str().unwrap().parse().unwrap();

    // Somebody keeps a copy of the vault, as backups of hosts do.
    agent.stop().await.unwrap();
    let (vault, old) = (config.vault_directory(), world.path("old-copy"));
    copy(&vault, &old);
    let record = format!("{}.1.json", version.key);
    assert!(old.join(&record).exists());
    let agent = world.agent(&config).await;
    destroy(&world, &clock, "cards").await;
    until_key(&world, "cards", |key| key["versions"][0]["destruction"]["proven"] == true).await;
    assert!(!vault.join(&record).exists());
    assert!(found(&world).await.is_empty());

    // The whole directory comes back, tombstones and all that came later lost; then only files beside what is there.
    let mut agent = agent;
    for whole in [true, false] {
        agent.stop().await.unwrap();
        if whole {
            fs::remove_dir_all(&vault).unwrap();
        }
        copy(&old, &vault);
        agent = world.agent(&config).await;
        // Not for a moment is it used.
        let (status, refused) = world.call(&agent, "/v1/decrypt", &token, &open(&sealed)).await;
        assert!(status >= 400, "{refused}");
        until(|| async { if vault.join(&record).exists() { Err("it is still there".to_owned()) } else { Ok(()) } }).await;
        until_found(&world, |found| found == ["destroyed_version_returned"]).await;
        let ready = world.ask(&agent, "/readyz").await;
        assert!(ready["notes"]["findings"].as_str().unwrap().starts_with("destroyed_version_returned (1)"), "{ready}");
        let (_, refused) = world.call(&agent, "/v1/decrypt", &token, &open(&sealed)).await;
        assert_eq!(refused["code"], "version_state", "{refused}");
        assert!(matches!(agent.vault().held(version).await, Err(VaultError::Destroyed(_))));
        assert!(agent.vault().tombstones().await.unwrap().contains(&version));
        let shown = key(&world, "cards").await;
        assert_eq!((&shown["versions"][0]["state"], &shown["versions"][0]["destruction"]["proven"]), (&json!("DESTROYED"), &json!(true)));
        // What was not destroyed goes on.
        world.until_allowed(&agent, "/v1/decrypt", &token, &open(&kept)).await;
    }
    // It is said as long as the agent runs, and not again.
    agent.stop().await.unwrap();
    let agent = world.agent(&config).await;
    until_found(&world, |found| found.is_empty()).await;
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_on_a_server_that_is_put_back_while_the_agent_runs_keeps_nothing_that_was_destroyed() {
    let clock = ShiftedClock::new();
    let world = World::start_at(Arc::new(clock.clone())).await;
    let server = VaultServer::start("site-token").unwrap();
    let token = world.path("bao-token");
    service::files::write_atomic(&token, b"site-token\n", service::files::OWNER_ONLY).unwrap();
    let vault = format!("kind = \"remote\"\n[vault.remote]\nurl = \"{}\"\ntoken_file = {token:?}\nkv_path = \"fra\"\n", server.url());
    let config = config_with(&world, "agent", &vault);
    world.enrol(&config).await;
    let agent = world.agent(&config).await;
    world.encryption_key("cards").await;
    let made = until_key(&world, "cards", in_use).await;
    let record = format!("fra/{}.json", made["versions"][0]["id"].as_str().unwrap().replace('/', "."));
    let old = server.record(&record).unwrap();
    destroy(&world, &clock, "cards").await;
    until_key(&world, "cards", |key| key["versions"][0]["destruction"]["proven"] == true).await;
    assert!(server.record(&record).is_none());
    server.put(&record, &old);
    clock.advance(Duration::from_secs(601));
    // Whatever is published makes the agent look.
    world.encryption_key("next").await;
    until(|| async { if server.record(&record).is_some() { Err("it is still there".to_owned()) } else { Ok(()) } }).await;
    until_found(&world, |found| found == ["destroyed_version_returned"]).await;
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_are_made_by_themselves_and_it_is_told_when_they_are_not() {
    let clock = ShiftedClock::new();
    let world = World::start_at(Arc::new(clock.clone())).await;
    let place = world.path("backups");
    let settings = format!("{PLAIN}\n[backup]\ndirectory = {place:?}\nevery = \"1h\"\nkeep = 2");
    let config = world.agent_config("agent", &settings);
    world.enrol(&config).await;
    let agent = world.agent(&config).await;
    world.publish("permit (principal, action, resource);").await;
    world.encryption_key("cards").await;
    until_key(&world, "cards", in_use).await;
    clock.advance(Duration::from_secs(15));
    until_found(&world, |found| found == ["no_recovery_key"]).await;
    let ready = world.ask(&agent, "/readyz").await;
    assert!(ready["notes"]["backups"].as_str().unwrap().starts_with("there is no backup of the whole vault"), "{ready}");

    let shares = world.path("shares").display().to_string();
    recovery::typed(&config, &["recovery", "init", "--shares", "2", "--threshold", "2", "--out-dir", &shares]).await.unwrap();
    world.publish("permit (principal, action, resource) when { true };").await;
    let files = || -> Vec<PathBuf> {
        match fs::read_dir(&place) {
            Ok(entries) => {
                entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|end| end == "fhb")).collect()
            }
            Err(_) => Vec::new(),
        }
    };
    let until_count = async |count: usize, after: &[PathBuf]| {
        until(|| async {
            clock.advance(Duration::from_secs(10));
            let files = files();
            let new = files.iter().any(|file| !after.contains(file));
            if files.len() == count && new { Ok(files) } else { Err(format!("{files:?}")) }
        })
        .await
    };
    let first = until_count(1, &[]).await;
    until_found(&world, |found| found.is_empty()).await;
    let mut last = first;
    for count in [2, 2, 2] {
        clock.advance(Duration::from_secs(3_600));
        last = until_count(count, &last).await;
    }
    let names: Vec<String> = last.iter().map(|file| file.display().to_string()).collect();
    let said = recovery::typed(&config, &recovery::with(&["backup", "verify"], &names)).await.unwrap();
    assert_eq!(said.matches("is whole: 1 version").count(), 2, "{said}");
    assert!(world.ask(&agent, "/readyz").await["notes"]["backups"].is_null());
    agent.stop().await.unwrap();
}
