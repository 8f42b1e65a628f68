//! Keys that outlive their host: a recovery key in shares, backups before first use, and a wiped host that gets its keys back.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Parser;
use data_plane_agent::{
    app::open_vault,
    config::Config,
    control::directory::ControlDirectory,
    recovery::{
        backups::list,
        command::{BackupCommand, RecoveryCommand},
        custody::kept_set,
        file::{BackupFile, Writer, seal},
        restore::{Restored, restore},
        secret::RecoverySecret,
        share::{self, Share},
    },
    vault::{
        Exported, Held, Vault, VaultError,
        file::{FileVault, Unlock},
        secret::SecretBytes,
    },
};
use freehold_tests::world::{World, until};
use schema::{
    clock::{ManualIds, SystemIds},
    encoding::{Digest, base64url, from_base64url},
    id::KeyVersion,
    key::{Protection, VersionState},
};
use serde_json::{Value, json};
use trust::{
    accept::{AcceptedSet, RecoveryMemory, accept},
    document,
    statement::state::Subject,
    testing::{AGENT, KEY, SITE, START, TENANT, World as Statements},
};

const POLICY: &str = "permit (principal, action, resource);";

/// What a person at the agent's host types.
#[derive(Parser)]
enum Typed {
    #[command(subcommand)]
    Recovery(RecoveryCommand),
    #[command(subcommand)]
    Backup(BackupCommand),
}

pub(crate) async fn typed(config: &Config, line: &[&str]) -> Result<String, String> {
    let command = Typed::try_parse_from(["freehold-agent"].iter().chain(line)).unwrap_or_else(|error| panic!("{error}"));
    let done = match command {
        Typed::Recovery(command) => command.run(config),
        Typed::Backup(command) => command.run(config).await,
    };
    done.map_err(|error| format!("{error:#}"))
}

pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The settings of an agent in a folder of its own, with a place for backups.
pub(crate) fn config(world: &World, name: &str) -> Config {
    world.agent_config(name, &format!("plain_http = true\n[backup]\ndirectory = {:?}", text(&world.path("backups"))))
}

/// `--share-file …` for these shares.
pub(crate) fn share_files(place: &Path, numbers: &[u8]) -> Vec<String> {
    numbers.iter().flat_map(|number| ["--share-file".to_owned(), text(&place.join(format!("share-{number}.txt")))]).collect()
}

pub(crate) fn with<'a>(line: &[&'a str], more: &'a [String]) -> Vec<&'a str> {
    line.iter().copied().chain(more.iter().map(String::as_str)).collect()
}

const VERSIONS: &str = "query($key: String!) { key(reference: $key) { durability versions { number state \
                        backups { agentId recoveryKey } holders { agentId reported } } } }";

async fn key(world: &World, name: &str) -> Value {
    world.query(VERSIONS, json!({ "key": format!("payments/{name}") })).await["key"].clone()
}

async fn until_version(world: &World, name: &str, state: &str) -> Value {
    until(|| async {
        let key = key(world, name).await;
        if key["versions"][0]["state"] == state { Ok(key) } else { Err(key.to_string()) }
    })
    .await
}

fn new_key(name: &str) -> Value {
    json!({ "project": "payments", "name": name, "algorithm": "A256KW+A256GCM", "purpose": "ENCRYPT", "placement": ["fra"] })
}

/// Waits until the agent with these settings goes by a recovery key; whatever is published makes it look.
pub(crate) async fn until_sealing(config: &Config) -> Digest {
    let directory = ControlDirectory::open(&config.data_dir).unwrap();
    until(|| async {
        let set = kept_set(&directory).map_err(|error| error.to_string())?;
        set.recovery_key().map(RecoveryMemory::keyid).ok_or_else(|| "no recovery key yet".to_owned())
    })
    .await
}

/// The whole way: no recovery key and so no default; a recovery key, and a key that waits for its backup; a drill; then the host is
/// lost with the vault's passphrase, and another one takes over with the shares.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_host_gets_its_keys_back_from_a_backup_and_shares_when_the_passphrase_is_lost() {
    let world = World::start().await;
    let backups = world.path("backups");
    let mut first = config(&world, "first");
    let founder = world.enrol(&first).await;
    let agent = world.agent(&first).await;
    first.server.listen = agent.address.to_string();
    world.publish(POLICY).await;

    // Without a recovery key one chooses, and is told between what.
    let create = "mutation($input: CreateKeyInput!) { createKey(input: $input) { userErrors { code message field } } }";
    let refused = world.query(create, json!({ "input": new_key("cards") })).await;
    let refusal = &refused["createKey"]["userErrors"][0];
    assert_eq!((refusal["code"].as_str(), refusal["field"].as_str()), (Some("durability_must_be_chosen"), Some("durability")));
    for choice in ["recovery init", "two-holders", "single-copy"] {
        assert!(refusal["message"].as_str().unwrap().contains(choice), "{refusal}");
    }
    assert!(typed(&first, &["backup", "create"]).await.unwrap_err().contains("no recovery key yet"));

    // Shares are written for their keepers, readable by the owner only; a second key is not made by mistake.
    let shares = world.path("shares");
    let out_dir = text(&shares);
    let made = typed(&first, &["recovery", "init", "--shares", "3", "--threshold", "2", "--out-dir", &out_dir]).await.unwrap();
    assert!(!made.contains("fh_share_"), "{made}");
    for number in 1..=3 {
        let path = shares.join(format!("share-{number}.txt"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Share::parse(&fs::read_to_string(&path).unwrap()).unwrap().number(), number);
    }
    assert!(typed(&first, &["recovery", "init"]).await.unwrap_err().contains("has the recovery key"));
    world.publish("permit (principal, action, resource) when { true };").await;
    let keyid = until_sealing(&first).await;
    assert!(made.contains(&keyid.to_string()));
    let site = world.query("{ site(reference: \"fra\") { recoveryKey { keyId shares threshold agentId } } }", json!({})).await;
    let expected = json!({ "keyId": keyid.to_string(), "shares": 3, "threshold": 2, "agentId": founder.agent.to_string() });
    assert_eq!(site["site"]["recoveryKey"], expected);
    assert!(typed(&first, &["recovery", "status"]).await.unwrap().contains(&keyid.to_string()));

    // A key waits for its backup: nothing can be written where backups should go.
    fs::write(&backups, b"something else").unwrap();
    world.mutate("createKey", new_key("cards"), "key { id }").await;
    let waiting = until(|| async {
        let key = key(&world, "cards").await;
        if key["versions"][0]["holders"][0]["reported"] == "READY" { Ok(key) } else { Err(key.to_string()) }
    })
    .await;
    assert_eq!(waiting["durability"], "SEALED_BACKUP");
    assert_eq!((&waiting["versions"][0]["state"], &waiting["versions"][0]["backups"]), (&json!("PRE_ACTIVATION"), &json!([])));
    fs::remove_file(&backups).unwrap();
    world.publish(POLICY).await;
    let active = until_version(&world, "cards", "ACTIVE").await;
    assert_eq!(active["versions"][0]["backups"], json!([{ "agentId": founder.agent.to_string(), "recoveryKey": keyid.to_string() }]));

    // What is protected now must be readable later.
    let caller = world.caller("checkout", &first).await;
    let sealed = json!({ "key": "payments/cards", "plaintext": base64url(b"4111") });
    let sealed = world.until_allowed(&agent, "/v1/encrypt", &caller, &sealed).await;
    world.encryption_key("scratch").await; // single-copy: only in backups of the whole vault
    until_version(&world, "scratch", "ACTIVE").await;
    let scratch = json!({ "key": "payments/scratch", "plaintext": base64url(b"5500") });
    let scratch = world.until_allowed(&agent, "/v1/encrypt", &caller, &scratch).await;

    // The whole vault, while it is in use; and a drill with it. Others of the host cannot have one made.
    let written = typed(&first, &["backup", "create"]).await.unwrap();
    assert!(written.contains("2 versions") && written.contains("read back"), "{written}");
    let (status, problem) = world.call(&agent, "/v1/backup", &caller, &json!({})).await;
    assert_eq!((status, problem["code"].as_str()), (403, Some("only_for_the_owner")));
    let (two, one) = (share_files(&shares, &[1, 3]), share_files(&shares, &[1]));
    let drilled = typed(&first, &with(&["recovery", "drill"], &two)).await.unwrap();
    assert!(drilled.contains("2 versions, each with the material its record names"), "{drilled}");
    assert!(typed(&first, &with(&["recovery", "drill"], &one)).await.unwrap_err().contains("2 shares are needed"));
    let listed = typed(&first, &["backup", "list"]).await.unwrap();
    assert_eq!(listed.lines().count(), 2, "{listed}");
    let files: Vec<String> = list(&backups).unwrap().into_iter().map(|(path, _)| text(&path)).collect();
    let whole = files.iter().find(|file| !file.contains("key_")).unwrap();
    assert!(typed(&first, &with(&["backup", "verify"], &files)).await.unwrap().contains("is whole"));

    // Each left a receipt, which names the file by its hash and what is in it, and nothing secret.
    let acts = until_host_acts(&world, &founder.agent.to_string(), 2).await;
    let sha256 = written.split("SHA-256 ").nth(1).unwrap().split(')').next().unwrap();
    let what = acts[0]["what"].as_str().unwrap();
    assert!(what.contains(&format!("SHA-256 {sha256}: 2 versions, 0 tombstones, sealed to {keyid}")), "{what}");
    assert_eq!((&acts[0]["act"], &acts[0]["reason"]), (&json!("BACKED_UP"), &json!("asked for on the host")));
    let reason = acts[1]["reason"].as_str().unwrap();
    assert!(reason.starts_with("durability of key_") && reason.ends_with("/1"), "{acts}");

    // The host is gone, and with it the vault and what opens it.
    agent.stop().await.unwrap();
    fs::remove_dir_all(world.path("first")).unwrap();
    world.mutate("revokeAgent", json!({ "agent": founder.agent.to_string(), "reason": "CESSATION_OF_OPERATION" }), "agent { id }").await;
    let mut second = config(&world, "second");
    second.vault.key_file = Some(second.data_dir.with_file_name("other.key"));
    service::files::write_atomic(&second.data_dir.with_file_name("other.key"), &[9; 32], service::files::OWNER_ONLY).unwrap();
    let not_yet = typed(&second, &with(&["backup", "restore", whole], &two)).await.unwrap_err();
    assert!(not_yet.contains("freehold-agent enrol"), "{not_yet}");
    let newcomer = until_enrolled(&world, &second).await;

    // Too few shares, one share twice, a mistyped one, one of another key, half a file: each is named, and nothing changes.
    let other_shares = world.path("other-shares");
    let other = RecoverySecret::generate(&SystemIds).unwrap();
    fs::create_dir(&other_shares).unwrap();
    for share in share::split(&other, 3, 2, &SystemIds).unwrap() {
        write_secret(&other_shares.join(format!("share-{}.txt", share.number())), &share.reveal());
    }
    let mistyped = world.path("mistyped.txt");
    write_secret(&mistyped, &fs::read_to_string(shares.join("share-1.txt")).unwrap().replacen('A', "B", 1).replacen('z', "y", 1));
    let damaged = world.path("damaged.fhb");
    let bytes = fs::read(whole).unwrap();
    fs::write(&damaged, &bytes[..bytes.len() - 40]).unwrap();
    let (damaged, mistyped) = (text(&damaged), vec!["--share-file".to_owned(), text(&mistyped)]);
    let twice = share_files(&shares, &[1, 1]);
    let (mixed, others) = ([share_files(&shares, &[1]), share_files(&other_shares, &[2])].concat(), share_files(&other_shares, &[1, 2]));
    for (file, shares, expected) in [
        (whole, &one, "2 shares are needed"),
        (whole, &twice, "given twice"),
        (whole, &mixed, "different recovery keys"),
        (whole, &others, "is sealed to the recovery key"),
        (whole, &mistyped, "copy it again"),
        (&damaged, &two, "is not a whole backup"),
    ] {
        let error = typed(&second, &with(&["backup", "restore", file], shares)).await.unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    {
        let vault = open_vault(&second, Arc::new(SystemIds)).await.unwrap();
        assert_eq!((vault.versions().await.unwrap().len(), vault.tombstones().await.unwrap().len()), (0, 0));
    }

    // Enough of them, and all of it is back; again, and nothing changes.
    let restored = typed(&second, &with(&["backup", "restore", whole], &two)).await.unwrap();
    assert!(restored.contains("2 versions restored") && !restored.contains("MISSING"), "{restored}");
    let again = typed(&second, &with(&["backup", "restore"], &[files.clone(), two.clone()].concat())).await.unwrap();
    assert!(again.contains("0 versions restored") && again.contains("In the vault already"), "{again}");

    let agent = world.agent(&second).await;
    let caller = world.caller("checkout-2", &second).await;
    for (sealed, plaintext) in [(&sealed, b"4111"), (&scratch, b"5500")] {
        let opened = world.until_allowed(&agent, "/v1/decrypt", &caller, &json!({ "message": sealed["message"] })).await;
        assert_eq!(from_base64url(opened["plaintext"].as_str().unwrap()).unwrap(), plaintext);
    }
    until(|| async {
        let key = key(&world, "cards").await;
        let holders = key["versions"][0]["holders"].as_array().unwrap().clone();
        let ready = holders.iter().any(|holder| holder["agentId"] == newcomer.as_str() && holder["reported"] == "READY");
        if ready { Ok(()) } else { Err(key.to_string()) }
    })
    .await;
    // It seals its own backups to the same key from now on: the shares have shown that it is the right one.
    world.publish("permit (principal, action, resource) when { true };").await;
    assert_eq!(until_sealing(&second).await, keyid);
    world.mutate("createKey", new_key("later"), "key { id }").await;
    let later = until_version(&world, "later", "ACTIVE").await;
    assert_eq!(later["versions"][0]["backups"][0]["agentId"], newcomer.as_str());
    // Attempts that came to nothing stand there too: a restore is written down before it begins.
    let acts = until_host_acts(&world, &newcomer, 3).await;
    let of_it = |act: &&Value| act["act"] == "RESTORED" && act["what"].as_str().is_some_and(|what| what.contains(sha256));
    assert!(acts.as_array().unwrap().iter().filter(of_it).count() >= 2, "{acts}");
    agent.stop().await.unwrap();
}

/// What was done on an agent's host, as its receipts tell, once there are so many; newest first.
async fn until_host_acts(world: &World, agent: &str, count: usize) -> Value {
    until(|| async {
        let query = "query($id: ID!) { agent(id: $id) { hostActs { act what reason user } } }";
        let acts = world.query(query, json!({ "id": agent })).await["agent"]["hostActs"].clone();
        if acts.as_array().unwrap().len() >= count { Ok(acts) } else { Err(acts.to_string()) }
    })
    .await
}

/// The statements of a moment ago still name the agent that was revoked: who comes too early is told to come again.
async fn until_enrolled(world: &World, config: &Config) -> String {
    world.enrol(config).await.agent.to_string()
}

fn write_secret(path: &Path, text: &str) {
    service::files::write_atomic(path, text.as_bytes(), service::files::OWNER_ONLY).unwrap();
}

/// A site in statements, a vault, and a recovery key with which backups are sealed as an agent of the site does.
struct Bench {
    world: Statements,
    vault: FileVault,
    secret: RecoverySecret,
    directory: tempfile::TempDir,
}

fn vault(path: &Path) -> FileVault {
    let unlock = Unlock::Passphrase(SecretBytes::new(b"correct horse".to_vec()));
    FileVault::open_or_create(path, &unlock, Arc::new(SystemIds)).unwrap()
}

fn version(number: u32) -> KeyVersion {
    KeyVersion::new(KEY, number)
}

impl Bench {
    /// Versions 1 to 4 of a key, made in a vault.
    async fn new() -> (Self, Vec<Exported>) {
        let directory = tempfile::tempdir().unwrap();
        let secret = RecoverySecret::generate(&ManualIds::seeded(5)).unwrap();
        let mut world = Statements::new();
        let mut exported = Vec::new();
        let algorithm: schema::catalogue::Algorithm = "A256KW+A256GCM".parse().unwrap();
        for number in 1..=4 {
            let material = data_plane_agent::algorithm::serve(algorithm).generate(algorithm, &SystemIds).unwrap();
            let fingerprint = data_plane_agent::algorithm::fingerprint(algorithm, None, &material);
            let mut entry = world.version(number, VersionState::Active, START);
            entry.record = Some(document::sign(&world.record(number, fingerprint), &world.agent));
            entry.ready = [(AGENT, document::sign(&world.report(number, fingerprint), &world.agent))].into();
            world.key().versions.insert(number, entry);
            exported.push(Exported {
                held: Arc::new(Held {
                    version: version(number),
                    algorithm,
                    fingerprint,
                    public_key: None,
                    protection: schema::key::Protection::Software,
                }),
                material,
            });
        }
        world.key().primary = 4;
        (Self { vault: vault(&directory.path().join("vault")), world, secret, directory }, exported)
    }

    fn set(&self) -> AcceptedSet {
        accept(None, &self.world.set(), &self.world.identity(), &Default::default(), self.world.now()).unwrap()
    }

    fn backup(&self, name: &str, exported: &[Exported], tombstones: &[KeyVersion]) -> PathBuf {
        let recovery = RecoveryMemory { number: 1, public_key: self.secret.public_key().into(), shares: 3, threshold: 2, agent: AGENT };
        let writer = Writer { tenant: TENANT, site: SITE, agent: AGENT, pair: &self.world.agent, now: START };
        let sealed = seal(exported, tombstones.to_vec(), Vec::new(), &recovery, writer, &SystemIds).unwrap();
        let path = self.directory.path().join(name);
        fs::write(&path, &sealed.bytes).unwrap();
        path
    }

    async fn restore(&self, set: &AcceptedSet, paths: &[&Path]) -> Result<Restored, data_plane_agent::recovery::BackupError> {
        let files = paths.iter().map(|path| BackupFile::read(path)).collect::<Result<Vec<_>, _>>()?;
        restore(&files, &self.secret, set, &self.vault).await
    }
}

fn versions(found: &[KeyVersion]) -> Vec<u32> {
    found.iter().map(|version| version.number).collect()
}

#[tokio::test]
async fn a_destroyed_version_stays_destroyed_after_an_older_backup_is_restored() {
    let (mut bench, exported) = Bench::new().await;
    // All four, as they were long ago; since then policy has confirmed the end of the first.
    let old = bench.backup("old.fhb", &exported, &[]);
    bench.world.key().versions.get_mut(&1).unwrap().state = VersionState::Destroyed;
    bench.world.project_policy().destructions.push(version(1));
    let set = bench.set();
    let done = bench.restore(&set, &[&old]).await.unwrap();
    assert_eq!((versions(&done.restored), versions(&done.destroyed)), (vec![2, 3, 4], vec![1]));
    assert!(matches!(bench.vault.held(version(1)).await, Err(VaultError::Destroyed(_))));
    // The vault itself knows of a destruction that the statements here do not tell of yet.
    bench.vault.destroy(version(2)).await.unwrap();
    let done = bench.restore(&set, &[&old]).await.unwrap();
    assert_eq!((versions(&done.present), versions(&done.destroyed)), (vec![3, 4], vec![1, 2]));
    assert_eq!(bench.vault.tombstones().await.unwrap(), [version(1), version(2)]);
    // A vault with nothing in it, and a backup that is older still: it is the site's word that counts.
    let elsewhere = vault(&bench.directory.path().join("elsewhere"));
    let files = [BackupFile::read(&old).unwrap()];
    restore(&files, &bench.secret, &set, &elsewhere).await.unwrap();
    assert!(matches!(elsewhere.held(version(1)).await, Err(VaultError::Destroyed(_))));
}

#[tokio::test]
async fn what_a_vault_guards_less_than_its_key_demands_is_refused_by_name() {
    let (mut bench, exported) = Bench::new().await;
    bench.world.project_policy().keys.get_mut(&KEY).unwrap().protection = Protection::Hardware;
    let backup = bench.backup("all.fhb", &exported, &[version(1)]);
    let set = bench.set();
    // One of them is here already, from the time before somebody looked.
    let Exported { held, material } = &exported[3];
    bench.vault.import(held.version, held.algorithm, SecretBytes::new(material.expose().to_vec())).await.unwrap();
    let done = bench.restore(&set, &[&backup]).await.unwrap();
    assert_eq!((versions(&done.restored), versions(&done.present), versions(&done.missing)), (vec![], vec![], vec![]));
    let refused: Vec<_> = done.unguarded.iter().map(|refused| (refused.version.number, refused.demanded, refused.offered)).collect();
    assert_eq!(refused, [1, 2, 3, 4].map(|number| (number, Protection::Hardware, Protection::Software)));
    for number in 1..=3 {
        assert!(matches!(bench.vault.held(version(number)).await, Err(VaultError::NotHeld(_))), "{number}");
    }
    // Where less is demanded, the same backup does it.
    bench.world.project_policy().keys.get_mut(&KEY).unwrap().protection = Protection::Software;
    let done = bench.restore(&bench.set(), &[&backup]).await.unwrap();
    assert_eq!((versions(&done.restored), done.unguarded.len()), (vec![1, 2, 3], 0));
}

#[tokio::test]
async fn part_of_a_vault_comes_back_as_part_and_says_what_is_missing() {
    let (bench, exported) = Bench::new().await;
    let [first, second, third, fourth] = exported.try_into().unwrap_or_else(|_| panic!("four versions"));
    let some = bench.backup("some.fhb", &[first, third], &[]);
    let others = bench.backup("others.fhb", &[second], &[]);
    let set = bench.set();
    let done = bench.restore(&set, &[&some]).await.unwrap();
    assert_eq!((versions(&done.restored), versions(&done.missing)), (vec![1, 3], vec![2, 4]));
    // A damaged file beside a good one: nothing of either is brought in.
    let damaged = bench.directory.path().join("damaged.fhb");
    let bytes = fs::read(&others).unwrap();
    fs::write(&damaged, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(bench.restore(&set, &[&others, &damaged]).await.unwrap_err().code(), "backup_damaged");
    assert!(matches!(bench.vault.held(version(2)).await, Err(VaultError::NotHeld(_))));
    let done = bench.restore(&set, &[&some, &others]).await.unwrap();
    assert_eq!((versions(&done.restored), versions(&done.present), versions(&done.missing)), (vec![2], vec![1, 3], vec![4]));
    let last = bench.backup("last.fhb", &[fourth], &[]);
    assert_eq!(bench.restore(&set, &[&last]).await.unwrap().missing, []);
}

#[tokio::test]
async fn a_tombstone_in_a_backup_does_not_end_what_the_site_goes_on_using() {
    let (bench, exported) = Bench::new().await;
    let unknown = KeyVersion::new(schema::id::KeyId::from_bits(77), 1);
    let with_tombstones = bench.backup("b.fhb", &exported, &[version(3), unknown]);
    let done = bench.restore(&bench.set(), &[&with_tombstones]).await.unwrap();
    assert_eq!((versions(&done.restored), &done.destroyed[..]), (vec![1, 2, 3, 4], &[unknown][..]));
}

#[tokio::test]
async fn material_that_is_not_the_records_or_of_nobody_here_does_not_come_back() {
    let (bench, mut exported) = Bench::new().await;
    let set = bench.set();
    // An insider has the agent's pair, and seals other material under a version's name.
    let algorithm = exported[0].held.algorithm;
    let forged = data_plane_agent::algorithm::serve(algorithm).generate(algorithm, &SystemIds).unwrap();
    let fingerprint = data_plane_agent::algorithm::fingerprint(algorithm, None, &forged);
    let held = Held { fingerprint, ..(*exported[1].held).clone() };
    let genuine = std::mem::replace(&mut exported[1], Exported { held: Arc::new(held), material: forged });
    let file = bench.backup("forged.fhb", &exported, &[]);
    assert_eq!(bench.restore(&set, &[&file]).await.unwrap_err().code(), "backup_other_material");
    exported[1] = genuine;
    assert!(bench.vault.versions().await.unwrap().is_empty(), "nothing was restored, the genuine ones neither");
    // A key that the site does not know.
    let stranger = KeyVersion::new(schema::id::KeyId::from_bits(77), 1);
    exported[0].held = Arc::new(Held { version: stranger, ..(*exported[0].held).clone() });
    let file = bench.backup("stranger.fhb", &exported, &[]);
    let done = bench.restore(&set, &[&file]).await.unwrap();
    assert_eq!((versions(&done.restored), &done.unknown[..], versions(&done.missing)), (vec![2, 3, 4], &[stranger][..], vec![1]));
}

#[tokio::test]
async fn a_backup_of_another_site_or_by_a_stranger_is_refused() {
    let (mut bench, exported) = Bench::new().await;
    let set = bench.set();
    let genuine = bench.backup("genuine.fhb", &exported, &[]);
    let evil = trust::testing::pair(666);
    let agent = std::mem::replace(&mut bench.world.agent, evil);
    let forged = bench.backup("forged.fhb", &exported, &[]);
    bench.world.agent = agent;
    assert_eq!(bench.restore(&set, &[&genuine, &forged]).await.unwrap_err().code(), "backup_not_signed");
    let recovery = RecoveryMemory { number: 1, public_key: bench.secret.public_key().into(), shares: 3, threshold: 2, agent: AGENT };
    for (site, agent, code) in [
        (schema::id::SiteId::from_bits(99), AGENT, "backup_of_another_site"),
        (SITE, schema::id::AgentId::from_bits(99), "backup_of_unknown_agent"),
    ] {
        let writer = Writer { tenant: TENANT, site, agent, pair: &bench.world.agent, now: START };
        let sealed = seal(&exported, Vec::new(), Vec::new(), &recovery, writer, &SystemIds).unwrap();
        let path = bench.directory.path().join("other.fhb");
        fs::write(&path, &sealed.bytes).unwrap();
        assert_eq!(bench.restore(&set, &[&path]).await.unwrap_err().code(), code);
    }
    assert!(bench.vault.versions().await.unwrap().is_empty());
    // One that was revoked since: what it backed up while it was an agent counts.
    let subject = Subject::Agent(AGENT);
    let reason = schema::key::RevocationReason::CessationOfOperation;
    bench.world.state.revocations.push(trust::statement::state::Revocation { subject, reason, at: START });
    let done = bench.restore(&bench.set(), &[&genuine]).await.unwrap();
    assert_eq!(versions(&done.restored), [1, 2, 3, 4]);
}

/// Something stands where the file of a version should be written: what was restored before stays, the error says so, and the same
/// command does the rest once that is put right.
#[tokio::test]
async fn an_interrupted_restore_is_finished_by_the_same_command() {
    let (bench, exported) = Bench::new().await;
    let set = bench.set();
    let file = bench.backup("b.fhb", &exported, &[]);
    let in_the_way = bench.vault.directory().join(format!("{KEY}.3.new"));
    fs::create_dir(&in_the_way).unwrap();
    let stopped = bench.restore(&set, &[&file]).await.unwrap_err();
    assert_eq!(stopped.code(), "vault_io");
    assert!(stopped.to_string().contains("2 versions were restored"), "{stopped}");
    let held: BTreeSet<u32> = bench.vault.versions().await.unwrap().iter().map(|held| held.version.number).collect();
    assert_eq!(held, BTreeSet::from([1, 2]));
    fs::remove_dir(&in_the_way).unwrap();
    let done = bench.restore(&set, &[&file]).await.unwrap();
    assert_eq!((versions(&done.present), versions(&done.restored), done.missing.len()), (vec![1, 2], vec![3, 4], 0));
}
