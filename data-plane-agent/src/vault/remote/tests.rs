//! Against the contract server; where `FREEHOLD_TEST_BAO_ADDR` and `FREEHOLD_TEST_BAO_TOKEN` name a real server, against that
//! one too. It needs KV version 2 at `secret/` and transit at `transit/`, as `bao server -dev` and `bao secrets enable transit`
//! make them.

mod app_role;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use devices::remote::login::Login;
use schema::{
    catalogue::Algorithm,
    clock::SystemIds,
    encoding::Digest,
    id::{KeyId, KeyVersion},
    key::{Operation, Protection},
};
use vault_contract::{Lease, VaultServer};

use super::*;
use crate::{
    policy::permit::{Destination, ExportPermit, UsePermit},
    vault::{
        Vault as _,
        conformance::{self, refusal},
        file::{Elsewhere, FileVault, Unlock},
        sealed::{Seal as _, version_name},
        secret::SecretBytes,
    },
};

const VERSION: KeyVersion = KeyVersion::new(KeyId::from_bits(1), 1);
const OTHER: KeyVersion = KeyVersion::new(KeyId::from_bits(2), 1);

fn algorithm() -> Algorithm {
    "Ed25519".parse().unwrap()
}

fn settings(url: &str, token: &str, path: &str, place: &Path) -> RemoteSettings {
    let token_file = place.join("token");
    fs::write(&token_file, token).unwrap();
    fs::set_permissions(&token_file, fs::Permissions::from_mode(0o600)).unwrap();
    RemoteSettings {
        server: ServerSettings {
            url: url.parse().unwrap(),
            login: Login::Token(token_file),
            namespace: None,
            outgoing: Default::default(),
            call: Duration::from_secs(2),
        },
        kv_mount: "secret".to_owned(),
        kv_path: path.to_owned(),
        transit_mount: "transit".to_owned(),
        transit_key: path.replace('/', "-"),
    }
}

async fn connect(settings: RemoteSettings) -> Result<RemoteVault, VaultError> {
    tokio::task::spawn_blocking(move || RemoteVault::connect(settings, Arc::new(SystemIds))).await.unwrap()
}

struct Bench {
    server: VaultServer,
    place: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { server: VaultServer::start("token-1").unwrap(), place: tempfile::tempdir().unwrap() }
    }

    fn settings(&self) -> RemoteSettings {
        settings(&self.server.url(), "token-1", "site/one", self.place.path())
    }

    async fn open(&self) -> RemoteVault {
        connect(self.settings()).await.unwrap()
    }
}

async fn sign(vault: &RemoteVault, version: KeyVersion) -> Result<Vec<u8>, VaultError> {
    vault.sign(UsePermit::for_test(version, Operation::Sign, algorithm()), b"message").await
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let bench = Bench::new();
    conformance::suite(|| bench.open()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_with_a_real_server_where_one_is_named() {
    let (Ok(url), Ok(token)) = (std::env::var("FREEHOLD_TEST_BAO_ADDR"), std::env::var("FREEHOLD_TEST_BAO_TOKEN")) else { return };
    let place = tempfile::tempdir().unwrap();
    // The suite needs an empty vault: each run has a path of its own.
    let unique = SecretBytes::random(8, &SystemIds);
    let path = format!("freehold-test/{}", hex::encode(unique.expose()));
    conformance::suite(|| async { connect(settings(&url, &token, &path, place.path())).await.unwrap() }).await;
    let vault = connect(settings(&url, &token, &path, place.path())).await.unwrap();
    seals_and_finds_what_was_changed(&vault).await;
    shares(&vault, &connect(settings(&url, &token, &path, place.path())).await.unwrap()).await;
    let wrong = connect(settings(&url, "no-such-token", &path, place.path())).await;
    assert_eq!(refusal(wrong), "vault_refused");
}

async fn seals_and_finds_what_was_changed(vault: &RemoteVault) {
    let keeper = vault.clone();
    tokio::task::spawn_blocking(move || {
        let seal = &keeper.keeper().seal;
        let (bound, value) = (Digest::of(b"one"), SecretBytes::new(b"a secret".to_vec()));
        let mut sealed = seal.seal(&bound, &value, &SystemIds).unwrap();
        assert_eq!(seal.unseal(&bound, &sealed).unwrap().unwrap().expose(), b"a secret");
        assert!(seal.unseal(&Digest::of(b"two"), &sealed).unwrap().is_none(), "what stands beside it is bound");
        let last = sealed.sealed.0.len() - 6;
        sealed.sealed.0[last] ^= 1;
        assert!(seal.unseal(&bound, &sealed).unwrap().is_none());
    })
    .await
    .unwrap();
}

async fn shares(one: &RemoteVault, two: &RemoteVault) {
    let (first, second) = (KeyVersion::new(KeyId::from_bits(500), 1), KeyVersion::new(KeyId::from_bits(501), 1));
    let held = one.generate(first, algorithm()).await.unwrap();
    assert_eq!(two.held(first).await.unwrap(), held);
    assert_eq!(two.generate(first, algorithm()).await.unwrap(), held, "what another made is found");
    let name = "shared".parse().unwrap();
    assert!(one.named_secret(&name).await.unwrap().expose() == two.named_secret(&name).await.unwrap().expose());
    one.destroy(second).await.unwrap();
    assert_eq!(refusal(two.generate(second, algorithm()).await), "key_version_destroyed");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_share_a_server_share_its_keys() {
    let bench = Bench::new();
    let (one, two) = (bench.open().await, bench.open().await);
    shares(&one, &two).await;
    seals_and_finds_what_was_changed(&one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_keeps_no_key_in_clear_and_listings_say_software() {
    let bench = Bench::new();
    let vault = bench.open().await;
    let held = vault.generate(VERSION, algorithm()).await.unwrap();
    assert_eq!(held.protection, Protection::Software);
    let material = vault.export(ExportPermit::for_test(VERSION, Destination::Backup)).await.unwrap().material;
    let record = bench.server.record(&format!("site/one/{}", version_name(VERSION))).unwrap();
    assert!(String::from_utf8_lossy(&record).contains("sealed"));
    let everything = bench.server.everything();
    for encoded in [hex::encode(material.expose()), schema::encoding::base64url(material.expose()), base64::encode(material.expose())] {
        assert!(!everything.contains(&encoded));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_sealed_or_slow_answers_so_in_time() {
    let Bench { server, place } = Bench::new();
    let mut told = settings(&server.url(), "token-1", "site/one", place.path());
    told.server.call = Duration::from_millis(400);
    let vault = connect(told.clone()).await.unwrap();
    vault.generate(VERSION, algorithm()).await.unwrap();

    server.set_sealed(true);
    assert_eq!(refusal(vault.check().await), "vault_locked");
    assert_eq!(refusal(vault.generate(OTHER, algorithm()).await), "vault_locked");
    assert_eq!(refusal(connect(told.clone()).await), "vault_locked");
    sign(&vault, VERSION).await.expect("what is in memory works all the same");
    server.set_sealed(false);

    server.set_delay(Duration::from_secs(20));
    let began = Instant::now();
    assert_eq!(refusal(vault.check().await), "vault_slow");
    assert_eq!(refusal(vault.generate(OTHER, algorithm()).await), "vault_slow");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    server.set_delay(Duration::ZERO);

    let gone = server.go_away();
    assert_eq!(refusal(vault.check().await), "vault_unavailable");
    assert_eq!(refusal(vault.generate(OTHER, algorithm()).await), "vault_unavailable");
    assert_eq!(refusal(connect(told).await), "vault_unavailable");
    sign(&vault, VERSION).await.expect("what is in memory works all the same");

    let _server = gone.come_back().unwrap();
    vault.check().await.unwrap();
    assert_eq!(vault.versions().await.unwrap().len(), 1, "nothing is half made");
    vault.generate(OTHER, algorithm()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_turned_down_is_read_again() {
    let bench = Bench::new();
    let vault = bench.open().await;
    bench.server.set_token("token-2");
    assert_eq!(refusal(vault.generate(VERSION, algorithm()).await), "vault_refused");
    fs::write(bench.place.path().join("token"), "token-2\n").unwrap();
    vault.generate(VERSION, algorithm()).await.unwrap();
    fs::remove_file(bench.place.path().join("token")).unwrap();
    bench.server.set_token("token-3");
    assert_eq!(refusal(vault.generate(OTHER, algorithm()).await), "vault_locked");
}

const HOUR: Duration = Duration::from_secs(3_600);
const LEASE: Lease = Lease { ttl: Some(Duration::from_secs(7_200)), renewable: true, max: None, hidden: false };

/// What a client is asked on a thread that may block.
async fn on_client<T: Send + 'static>(client: &Arc<Client>, act: impl FnOnce(&Client) -> T + Send + 'static) -> T {
    let client = client.clone();
    tokio::task::spawn_blocking(move || act(&client)).await.unwrap()
}

/// One call that needs a token.
async fn asks(client: &Arc<Client>) -> Result<(), String> {
    let asked = on_client(client, |client| client.call(reqwest::Method::GET, "transit/keys/none", None).map(|_| ())).await;
    asked.map_err(|trouble| format!("{} {trouble}", trouble.kind.code()))
}

async fn tend(client: &Arc<Client>, later: Duration) {
    on_client(client, move |client| client.tend(Instant::now() + later)).await;
}

fn advice(client: &Client, later: Duration) -> String {
    client.advice(Instant::now() + later).map(|trouble| trouble.to_string()).unwrap_or_default()
}

impl Bench {
    fn client(&self) -> Arc<Client> {
        Arc::new(Client::new(self.settings().server).unwrap())
    }

    fn renewals(&self) -> usize {
        self.server.asked().iter().filter(|asked| asked.contains("renew-self")).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_at_half_of_its_life() {
    let bench = Bench::new();
    bench.server.set_lease("token-1", LEASE);
    let client = bench.client();
    tend(&client, Duration::ZERO).await;
    assert!(bench.server.asked().is_empty(), "who has no token yet has none to look after");
    asks(&client).await.unwrap();
    tend(&client, Duration::ZERO).await;
    assert_eq!(bench.server.asked(), ["GET /v1/transit/keys/none", "GET /v1/auth/token/lookup-self"]);
    tend(&client, HOUR / 2).await;
    assert_eq!(bench.renewals(), 0, "it is young");
    tend(&client, HOUR + HOUR / 4).await;
    tend(&client, HOUR + HOUR / 4).await;
    assert_eq!(bench.renewals(), 1);
    tend(&client, HOUR * 2).await;
    assert_eq!(bench.renewals(), 0, "it is young again");
    tend(&client, HOUR * 5 / 2).await;
    assert_eq!(bench.renewals(), 1);
    assert_eq!(advice(&client, HOUR * 3), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_token_outlives_what_it_was_given_and_one_that_is_not_ends() {
    let short = Lease { ttl: Some(Duration::from_secs(3)), ..LEASE };
    for renewable in [true, false] {
        let bench = Bench::new();
        bench.server.set_lease("token-1", Lease { renewable, ..short });
        let vault = bench.open().await;
        vault.generate(VERSION, algorithm()).await.unwrap();
        vault.check().await.unwrap();
        let said = vault.advice();
        assert_eq!(said.is_some(), !renewable, "{said:?}");
        let began = Instant::now();
        let ended = loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            if let Err(error) = vault.check().await {
                break Some(error);
            }
            if began.elapsed() > Duration::from_secs(7) {
                break None;
            }
        };
        if renewable {
            assert!(ended.is_none(), "{ended:?}");
            vault.generate(OTHER, algorithm()).await.unwrap();
            continue;
        }
        let error = ended.expect("the server let in a token that has ended");
        assert_eq!(error.code(), "vault_refused");
        let words = error.to_string();
        assert!(words.contains("our token has ended: write another one into") && !words.contains("token-1"), "{words}");
        assert_eq!(refusal(vault.generate(OTHER, algorithm()).await), "vault_refused");
        // What is in memory works; another token in the file is enough.
        sign(&vault, VERSION).await.unwrap();
        bench.server.set_lease("token-2", LEASE);
        fs::write(bench.place.path().join("token"), "token-2\n").unwrap();
        vault.check().await.unwrap();
        assert_eq!(vault.advice(), None);
        vault.generate(OTHER, algorithm()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_cannot_be_kept_is_told_of_before_it_ends() {
    let days = |days: u64| Some(Duration::from_secs(days * 86_400));
    for (lease, expected) in [
        (Lease { renewable: false, ..LEASE }, "it cannot be renewed"),
        (Lease { max: Some(HOUR * 2), ..LEASE }, ""),
        (Lease { ttl: days(30), renewable: false, ..LEASE }, ""),
        (Lease { hidden: true, ..LEASE }, ""),
        (Lease { ttl: None, ..LEASE }, ""),
    ] {
        let bench = Bench::new();
        bench.server.set_lease("token-1", lease);
        let client = bench.client();
        asks(&client).await.unwrap();
        for later in [Duration::ZERO, HOUR + HOUR / 4] {
            tend(&client, later).await;
        }
        let said = advice(&client, HOUR + HOUR / 4);
        assert_eq!(said.is_empty(), expected.is_empty(), "{lease:?}: {said}");
        assert!(said.contains(expected), "{said}");
        if lease.ttl == days(30) {
            let said = advice(&client, Duration::from_secs(29 * 86_400 + 1));
            assert!(said.contains("ends in 23 hours: it cannot be renewed; write another one into"), "in its last day: {said}");
        }
        // Whoever writes another one into the file is heard before the old one ends, also of one whose life is not told.
        fs::write(bench.place.path().join("token"), "token-2").unwrap();
        bench.server.set_lease("token-2", LEASE);
        tend(&client, HOUR * 3 / 2).await;
        assert_eq!(advice(&client, HOUR * 3 / 2), "");
        bench.server.asked();
        asks(&client).await.unwrap();
        assert_eq!(bench.server.asked().len(), 1, "the first try was let in");
        // A file that is empty for a moment, or gone, does no harm to a token that works.
        fs::write(bench.place.path().join("token"), "").unwrap();
        tend(&client, Duration::ZERO).await;
        fs::remove_file(bench.place.path().join("token")).unwrap();
        tend(&client, Duration::ZERO).await;
        asks(&client).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_near_its_longest_life_and_a_renewal_that_fails_are_told() {
    let mut bench = Bench::new();
    // The server lets it live three seconds in all: what it grants later is less than half.
    bench.server.set_lease("token-1", Lease { ttl: Some(Duration::from_secs(3)), max: Some(Duration::from_secs(3)), ..LEASE });
    let client = bench.client();
    asks(&client).await.unwrap();
    tend(&client, Duration::ZERO).await;
    tokio::time::sleep(Duration::from_millis(1_800)).await;
    tend(&client, Duration::ZERO).await;
    assert!(advice(&client, Duration::ZERO).contains("near the longest that the server lets it live"));

    bench.server.set_lease("token-1", LEASE);
    assert_eq!(bench.renewals(), 1);
    let client = bench.client();
    asks(&client).await.unwrap();
    tend(&client, Duration::ZERO).await;
    let gone = bench.server.go_away();
    tend(&client, HOUR * 3 / 2).await;
    assert!(advice(&client, HOUR * 3 / 2).contains("cannot be reached"));
    bench.server = gone.come_back().unwrap();
    tend(&client, HOUR * 2 - Duration::from_secs(600)).await;
    assert_eq!(advice(&client, HOUR * 2 - Duration::from_secs(600)), "");
    assert_eq!(bench.renewals(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_vault_keeps_the_token_alive_that_opens_it() {
    let bench = Bench::new();
    bench.server.set_lease("token-1", Lease { renewable: false, ..LEASE });
    let settings = bench.settings();
    let place = bench.place.path().join("vault");
    let vault = tokio::task::spawn_blocking(move || {
        let client = Arc::new(Client::new(settings.server).unwrap());
        let seal = Arc::new(TransitSeal::open(client, "transit", "site-one", true).unwrap());
        let unlock = Unlock::Elsewhere { place: Elsewhere::Transit, key: "transit/site-one".to_owned(), seal };
        FileVault::open_or_create(&place, &unlock, Arc::new(SystemIds)).unwrap()
    })
    .await
    .unwrap();
    vault.check().await.unwrap();
    let (code, said) = vault.advice().unwrap();
    assert!(code == "vault_token_ending" && said.contains("it cannot be renewed"), "{code} {said}");
    bench.server.set_sealed(true);
    vault.check().await.expect("what is open goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_were_changed_and_keys_that_are_gone_are_named() {
    let bench = Bench::new();
    let vault = bench.open().await;
    vault.generate(VERSION, algorithm()).await.unwrap();
    vault.generate(OTHER, algorithm()).await.unwrap();
    let path = |version| format!("site/one/{}", version_name(version));
    let genuine = bench.server.record(&path(VERSION)).unwrap();
    bench.server.change(&path(VERSION), &bench.server.record(&path(OTHER)).unwrap());
    assert_eq!(refusal(connect(bench.settings()).await), "vault_corrupt");
    bench.server.change(&path(VERSION), &genuine);
    let changed = String::from_utf8(genuine).unwrap().replace("\"Ed25519\"", "\"ML-DSA-65\"");
    bench.server.change(&path(VERSION), changed.as_bytes());
    assert_eq!(refusal(connect(bench.settings()).await), "vault_corrupt");
    bench.server.forget_key("site-one");
    assert_eq!(refusal(connect(bench.settings()).await), "vault_failed");
    assert_eq!(refusal(vault.check().await), "vault_failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_vault_is_opened_by_a_server() {
    let bench = Bench::new();
    let unlock = |may_make| {
        let settings = bench.settings();
        tokio::task::spawn_blocking(move || {
            let client = Arc::new(Client::new(settings.server)?);
            let seal = TransitSeal::open(client, "transit", &settings.transit_key, may_make)?;
            Ok::<_, VaultError>(Unlock::Elsewhere { place: Elsewhere::Transit, key: "transit/site-one".to_owned(), seal: Arc::new(seal) })
        })
    };
    let place = bench.place.path().join("vault");
    let open = |unlock| {
        let place = place.clone();
        tokio::task::spawn_blocking(move || FileVault::open_or_create(&place, &unlock, Arc::new(SystemIds)))
    };
    assert_eq!(refusal(unlock(false).await.unwrap()), "vault_failed");
    let vault = open(unlock(true).await.unwrap().unwrap()).await.unwrap().unwrap();
    let held = vault.generate(VERSION, algorithm()).await.unwrap();
    vault.rekey(unlock(false).await.unwrap().unwrap()).await.unwrap();
    drop(vault);
    let vault = open(unlock(false).await.unwrap().unwrap()).await.unwrap().unwrap();
    assert_eq!(vault.held(VERSION).await.unwrap(), held);
    drop(vault);
    let Unlock::Elsewhere { seal, .. } = unlock(false).await.unwrap().unwrap() else { unreachable!() };
    bench.server.set_sealed(true);
    let sealed = Unlock::Elsewhere { place: Elsewhere::Transit, key: "transit/site-one".to_owned(), seal };
    assert_eq!(refusal(open(sealed).await.unwrap()), "vault_locked");
}

#[test]
fn plain_http_is_for_this_host_only() {
    let place = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    for url in ["http://192.0.2.1:8200", "ftp://127.0.0.1/", "http://localhost.example.net/"] {
        let client = Client::new(settings(url, "t", "p", place.path()).server).map_err(VaultError::from);
        assert_eq!(refusal(client), "vault_failed", "{url}");
    }
    assert!(Client::new(settings("http://127.0.0.1:8200", "t", "p", place.path()).server).is_ok());
}
