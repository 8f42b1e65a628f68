//! Where the sealing key is kept: a server, a token, the environment, a file, and on the way from one to another.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use control_plane::{
    config::{Config, EnvironmentConfig, SealingConfig, SourceKind, TokenConfig, TransitConfig},
    database::Location,
    sealing::{Keyring, SealingError, source::Sources},
};
use devices::remote::login::AppRole;
use freehold_tests::database::{Engine, TestDatabase};
use schema::{
    clock::{Clock, SystemClock, SystemIds},
    encoding::base64url,
};
use sea_orm::ConnectionTrait;
use service::config::Period;
use vault_contract::{Lease, VaultServer};

use super::world::{OTHER, TENANT, World, append, fresh_stream};

const TOKENS: &str = "FREEHOLD_TEST_SEALING_TOKENS";
const PIN: &str = "not-1234";

fn secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn remote(url: &str, token_file: &Path, key: &str) -> TransitConfig {
    TransitConfig {
        url: url.parse().unwrap(),
        token_file: Some(token_file.to_owned()),
        app_role: None,
        namespace: None,
        mount: "transit".to_owned(),
        key: key.to_owned(),
        outgoing: Default::default(),
        call_timeout: Period(Duration::from_secs(1)),
    }
}

fn sources(folder: &Path, sealing: &SealingConfig) -> Sources {
    Sources::new(&Config { data_dir: folder.to_owned(), sealing: sealing.clone(), ..Config::default() }).unwrap()
}

/// A process that starts now.
async fn start(world: &World, folder: &Path, sealing: &SealingConfig) -> Result<Keyring, SealingError> {
    Keyring::open_from(world.database.clone(), sources(folder, sealing), Arc::new(SystemClock), Arc::new(SystemIds)).await
}

fn code(outcome: Result<Keyring, SealingError>) -> (String, String) {
    match outcome.unwrap_err() {
        SealingError::Device { fingerprint, trouble } => (trouble.kind.code().to_owned(), fingerprint.to_string()),
        other => panic!("{other}"),
    }
}

pub(crate) async fn a_server_keeps_the_sealing_key() {
    let files = TestDatabase::new(Engine::Sqlite).unwrap();
    let folder = files.folder.path();
    let token_file = folder.join("token");
    secret(&token_file, "token-1");
    let server = VaultServer::start("token-1").unwrap();
    let sealing = |url: &str, key: &str| SealingConfig {
        source: SourceKind::Remote,
        remote: Some(remote(url, &token_file, key)),
        ..SealingConfig::default()
    };
    let ours = sealing(&server.url(), "ours");
    let world = World::opened(&files.location, None, Some(sources(folder, &ours))).await;
    let stream = fresh_stream();
    world.store.append(append(TENANT, &stream, 0, 1, "x")).await.unwrap();
    let fingerprint = world.keyring.sealing_keys().await.unwrap().pop().unwrap().fingerprint.to_string();
    start(&world, folder, &ours).await.unwrap().tenant(TENANT).await.unwrap();

    // Out of reach in each of its ways: named, in bounded time, and what is open goes on, also with new tenants.
    server.set_sealed(true);
    assert_eq!(code(start(&world, folder, &ours).await), ("vault_locked".to_owned(), fingerprint.clone()));
    world.keyring.probe().await;
    let note = world.keyring.note().unwrap();
    assert!(note.contains(&fingerprint) && note.contains("a start would fail") && note.contains("unseal it"), "{note}");
    world.store.append(append(TENANT, &stream, 1, 1, "x")).await.unwrap();
    world.store.append(append(OTHER, &fresh_stream(), 0, 1, "x")).await.unwrap();
    server.set_sealed(false);
    server.set_delay(Duration::from_secs(600));
    let slow = tokio::time::timeout(Duration::from_secs(60), start(&world, folder, &ours)).await.expect("it waits without end");
    assert_eq!(code(slow).0, "vault_slow");
    server.set_delay(Duration::ZERO);
    server.set_token("token-2");
    assert_eq!(code(start(&world, folder, &ours).await).0, "vault_refused");
    secret(&token_file, "token-2");
    world.keyring.probe().await;
    assert_eq!(world.keyring.note(), None);

    // A token that ends: told of before, renewed where that can be, replaced in its file.
    let lease = |renewable| Lease { ttl: Some(Duration::from_secs(3)), renewable, ..Lease::default() };
    server.set_lease("token-3", lease(false));
    secret(&token_file, "token-3");
    world.keyring.probe().await;
    let note = world.keyring.note().unwrap();
    assert!(note.contains("our token ends in") && note.contains("it cannot be renewed"), "{note}");
    server.set_lease("token-4", lease(true));
    secret(&token_file, "token-4");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        world.keyring.probe().await;
        assert_eq!(world.keyring.note(), None);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    start(&world, folder, &ours).await.unwrap().tenant(TENANT).await.unwrap();
    server.set_token("token-2");
    secret(&token_file, "token-2");

    // A role that logs in, and may not for a while.
    secret(&folder.join("role"), "planes");
    secret(&folder.join("secret"), "secret-1");
    let role =
        AppRole { mount: "approle".to_owned(), role_id_file: folder.join("role"), secret_id_file: folder.join("secret"), wrapped: false };
    let by_role = SealingConfig {
        remote: Some(TransitConfig { token_file: None, app_role: Some(role), ..remote(&server.url(), &token_file, "ours") }),
        ..ours.clone()
    };
    assert_eq!(code(start(&world, folder, &by_role).await).0, "vault_refused");
    server.set_role("planes", "secret-1", None, Lease::default());
    let started = start(&world, folder, &by_role).await.unwrap();
    started.tenant(TENANT).await.unwrap();
    server.forget_role("planes");
    started.probe().await;
    let note = started.note().unwrap();
    assert!(note.contains("did not let the role in") && !note.contains("secret-1"), "{note}");
    server.set_role("planes", "secret-2", None, Lease::default());
    secret(&folder.join("secret"), "secret-2");
    started.probe().await;
    assert_eq!(started.note(), None);

    // Another key than the one that wrapped it.
    let other = sealing(&server.url(), "theirs");
    assert_eq!(code(start(&world, folder, &other).await), ("vault_failed".to_owned(), fingerprint.clone()));
    let theirs = TestDatabase::new(Engine::Sqlite).unwrap();
    World::opened(&theirs.location, None, Some(sources(folder, &other))).await.close().await;
    let error = start(&world, folder, &other).await.unwrap_err();
    assert!(matches!(&error, SealingError::WrappedElsewhere { .. }) && error.to_string().contains(&fingerprint), "{error}");
    // A source that settings no longer name.
    let error = start(&world, folder, &SealingConfig::default()).await.unwrap_err();
    assert!(error.to_string().contains("[sealing.remote]") && error.to_string().contains(&fingerprint), "{error}");
    let url = server.url();
    let gone = server.go_away();
    assert_eq!(code(start(&world, folder, &ours).await).0, "vault_unavailable");
    let _server = gone.come_back().unwrap();

    // Rotated where it is: the database holds what was wrapped, and never the key.
    let rotated = world.keyring.rotate_sealing_key().await.unwrap();
    assert_eq!((rotated.source.as_str(), rotated.keys), ("remote", 4));
    start(&world, folder, &sealing(&url, "ours")).await.unwrap().tenant(TENANT).await.unwrap();

    // Against a real server too, where one is named.
    if let (Ok(url), Ok(token)) = (std::env::var("FREEHOLD_TEST_BAO_ADDR"), std::env::var("FREEHOLD_TEST_BAO_TOKEN")) {
        let real = TestDatabase::new(Engine::Sqlite).unwrap();
        secret(&token_file, &token);
        let name = format!("freehold-test-{}", SystemClock.now().micros());
        let settings = sealing(&url, &name);
        let world = World::opened(&real.location, None, Some(sources(folder, &settings))).await;
        world.store.append(append(TENANT, &stream, 0, 1, "x")).await.unwrap();
        assert_eq!(world.keyring.rotate_sealing_key().await.unwrap().keys, 2);
        start(&world, folder, &settings).await.unwrap().tenant(TENANT).await.unwrap();
    }
}

fn softhsm() -> PathBuf {
    let places = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"];
    places.iter().map(PathBuf::from).find(|place| place.exists()).expect("SoftHSM2 is not installed: run deploy/setup.sh test")
}

/// Where tokens are is set for a whole process, and so are variables: the test is run again in one of its own.
pub(crate) fn from_source_to_source() {
    if let Some(place) = std::env::var_os(TOKENS) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        return runtime.block_on(on_these_tokens(Path::new(&place)));
    }
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    let config = place.join("softhsm2.conf");
    fs::create_dir(place.join("tokens")).unwrap();
    let tokens = place.join("tokens");
    fs::write(&config, format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display())).unwrap();
    secret(&place.join("pin"), PIN);
    for label in ["freehold", "another"] {
        let mut util = Command::new("softhsm2-util");
        util.args(["--init-token", "--free", "--label", label, "--so-pin", "so-1234", "--pin", PIN]).env("SOFTHSM2_CONF", &config);
        assert!(util.output().expect("SoftHSM2 is not installed: run deploy/setup.sh test").status.success());
    }
    // A module between us and the token that fails when it is told to.
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../data-plane-agent/src/vault/pkcs11/faults.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(place.join("faults.so")).arg(source).arg("-ldl").status();
    assert!(built.unwrap().success());
    secret(&place.join("credential"), &base64url(&[0xC7; 32]));
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "the_sealing_key_moves_from_source_to_source", "--nocapture"]);
    child.env("SOFTHSM2_CONF", &config).env(TOKENS, place).env("CREDENTIALS_DIRECTORY", place);
    child.env("TEST_KEYS_ONE", base64url(&[0xA5; 32]));
    child.env("TEST_KEYS_TWO", format!("{} {}\n", base64url(&[0xA5; 32]), base64url(&[0xB6; 32])));
    child.env("FREEHOLD_TEST_MODULE", softhsm()).env("FREEHOLD_TEST_FAULTS", place.join("faults"));
    let ended = child.output().unwrap();
    assert!(ended.status.success(), "{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
}

async fn sealed_records(world: &World) -> Vec<Vec<u8>> {
    let rows = world.database.read().query_all_raw(world.database.sql("SELECT sealed FROM records ORDER BY position", vec![])).await;
    rows.unwrap().iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
}

async fn on_these_tokens(place: &Path) {
    let files = TestDatabase::new(Engine::Sqlite).unwrap();
    let folder = files.folder.path().to_owned();
    let folder = folder.as_path();
    secret(&folder.join("token"), "token-1");
    let server = VaultServer::start("token-1").unwrap();
    let token = |label: &str| TokenConfig {
        module: place.join("faults.so"),
        token: label.to_owned(),
        serial: None,
        pin_file: place.join("pin"),
        key: "sealing".to_owned(),
        call_timeout: Period(Duration::from_secs(1)),
    };
    let variable = |variable: &str| EnvironmentConfig { variable: variable.to_owned(), credential: None };
    let credential = EnvironmentConfig { credential: Some("credential".to_owned()), ..EnvironmentConfig::default() };
    let moves = [
        (
            "environment",
            SealingConfig { source: SourceKind::Environment, environment: Some(variable("TEST_KEYS_ONE")), ..Default::default() },
        ),
        (
            "environment",
            SealingConfig { source: SourceKind::Environment, environment: Some(variable("TEST_KEYS_TWO")), ..Default::default() },
        ),
        (
            "pkcs11",
            SealingConfig {
                source: SourceKind::Pkcs11,
                environment: Some(variable("TEST_KEYS_TWO")),
                pkcs11: Some(token("freehold")),
                ..Default::default()
            },
        ),
        ("pkcs11", SealingConfig { source: SourceKind::Pkcs11, pkcs11: Some(token("freehold")), ..Default::default() }),
        (
            "environment",
            SealingConfig {
                source: SourceKind::Environment,
                environment: Some(credential.clone()),
                pkcs11: Some(token("freehold")),
                ..Default::default()
            },
        ),
        (
            "remote",
            SealingConfig {
                source: SourceKind::Remote,
                environment: Some(credential),
                remote: Some(remote(&server.url(), &folder.join("token"), "ours")),
                ..Default::default()
            },
        ),
        ("file", SealingConfig { remote: Some(remote(&server.url(), &folder.join("token"), "ours")), ..SealingConfig::default() }),
    ];
    let world = World::opened(&files.location, None, Some(sources(folder, &SealingConfig::default()))).await;
    let stream = fresh_stream();
    world.store.append(append(TENANT, &stream, 0, 3, "x")).await.unwrap();
    let before = sealed_records(&world).await;
    world.close().await;
    let mut key_file = folder.join("sealing.key").exists();
    assert!(key_file);
    for (n, (kind, sealing)) in moves.iter().enumerate() {
        // Whoever starts with the next settings opens what hangs from the key of the source before.
        let world = World::opened(&files.location, None, Some(sources(folder, sealing))).await;
        assert_eq!(world.store.read_stream(TENANT, &stream, 0, 10).await.unwrap().len(), 3);
        let rotated = world.keyring.rotate_sealing_key().await.unwrap();
        assert_eq!((rotated.source.as_str(), rotated.keys), (*kind, 2), "step {n}");
        assert_eq!(world.keyring.retire_sealing_keys().await.unwrap().len(), 1);
        // No record was written anew, and only the new key opens their keys.
        assert!(sealed_records(&world).await == before, "step {n} wrote records anew");
        let only = SealingConfig { source: sealing.source, ..SealingConfig::default() };
        let only = match sealing.source {
            SourceKind::Environment => SealingConfig { environment: sealing.environment.clone(), ..only },
            SourceKind::Pkcs11 => SealingConfig { pkcs11: sealing.pkcs11.clone(), ..only },
            SourceKind::Remote => SealingConfig { remote: sealing.remote.clone(), ..only },
            SourceKind::File => only,
        };
        start(&world, folder, &only).await.unwrap().tenant(TENANT).await.unwrap();
        if n == 2 {
            a_token_that_fails(place, &world, folder, &only, token("another")).await;
        }
        if n == 0 {
            key_file = folder.join("sealing.key").exists();
            let error = start(&world, folder, &SealingConfig::default()).await.unwrap_err();
            assert!(error.to_string().contains("[sealing.environment]"), "{error}");
            let error = world.keyring.rotate_sealing_key().await.unwrap_err();
            assert!(matches!(error, SealingError::NothingNewInEnvironment { .. }), "{error}");
            let other = SealingConfig { environment: Some(variable("TEST_KEYS_NONE")), ..only.clone() };
            let error = start(&world, folder, &other).await.unwrap_err();
            assert!(matches!(&error, SealingError::NotInEnvironment { .. }), "{error}");
            assert!(error.to_string().contains(rotated.sealing_key.as_str()), "{error}");
        }
        world.close().await;
    }
    assert!(!key_file, "the key file went with its last key");
    assert!(folder.join("sealing.key").exists(), "and came back");
    let Location::Sqlite(path) = &files.location else { unreachable!() };
    let database = fs::read(path).unwrap();
    for key in [[0xA5_u8; 32], [0xB6; 32], [0xC7; 32]] {
        assert!(memchr::memmem::find(&database, &key).is_none() && memchr::memmem::find(&database, base64url(&key).as_bytes()).is_none());
    }
}

/// Lost, hanging, another one: named and in bounded time, and what is open goes on.
async fn a_token_that_fails(place: &Path, world: &World, folder: &Path, sealing: &SealingConfig, another: TokenConfig) {
    let faults = |rules: &str| match rules {
        "" => drop(fs::remove_file(place.join("faults"))),
        rules => {
            fs::write(place.join("faults.new"), rules).unwrap();
            fs::rename(place.join("faults.new"), place.join("faults")).unwrap();
        }
    };
    // CKR_DEVICE_REMOVED from everything.
    faults("-1 error 50 1\n");
    assert_eq!(code(start(world, folder, sealing).await).0, "vault_unavailable");
    world.keyring.probe().await;
    assert!(world.keyring.note().unwrap().contains("a start would fail"));
    // Also with a tenant that was not there before.
    world.keyring.tenant(OTHER).await.unwrap();
    faults("");
    world.keyring.probe().await;
    assert_eq!(world.keyring.note(), None);
    // C_DecryptInit does not come back for a while.
    faults("33 sleep 2500 1\n");
    let slow = tokio::time::timeout(Duration::from_secs(60), start(world, folder, sealing)).await.expect("it waits without end");
    assert_eq!(code(slow).0, "vault_slow");
    faults("");
    tokio::time::sleep(Duration::from_secs(2)).await; // until the call that hangs has ended
    let sealing = SealingConfig { pkcs11: Some(another), ..sealing.clone() };
    let (code, fingerprint) = code(start(world, folder, &sealing).await);
    assert_eq!(code, "vault_failed");
    assert!(world.keyring.sealing_keys().await.unwrap().iter().any(|key| key.fingerprint.as_str() == fingerprint));
    // Its keys would be counted in the next step.
    world.keyring.erase(OTHER).await.unwrap();
}
