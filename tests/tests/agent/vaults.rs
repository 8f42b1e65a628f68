//! A whole agent, in a process of its own, on a PKCS#11 token and on a remote vault: every kind of use, restart, kill, and the
//! vault gone, slow and locked in the middle.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use vault_contract::VaultServer;

use super::{super::*, process::Process};

/// Set in the process that runs a test on a token: where its tokens are is told to SoftHSM2 for a whole process.
const TOKENS: &str = "FREEHOLD_TEST_AGENT_TOKENS";
const PIN: &str = "not-1234";
/// CKR_DEVICE_REMOVED.
const DEVICE_REMOVED: &str = "-1 error 50 1\n";
/// Every C_WrapKey, so that content keys are not wrapped in time.
const WRAP_KEY_HANGS: &str = "60 sleep 3000 1\n";

/// The answer of a process.
async fn ask(site: &Site, process: &Process, path: &str, body: &Value) -> (u16, Value) {
    let answer = site.http.post(format!("{}{path}", process.url)).bearer_auth(&site.billing).json(body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn look(site: &Site, process: &Process, path: &str) -> (u16, Value) {
    let answer = site.http.get(format!("{}{path}", process.url)).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// Asks until it is so; the vault is looked at every few seconds.
async fn until(site: &Site, process: &Process, path: &str, is_so: impl Fn(u16, &Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let (status, body) = look(site, process, path).await;
        if is_so(status, &body) {
            return body;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{path}: {status} {body}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn encrypting() -> Value {
    json!({ "key": "payments/card-data", "plaintext": base64url(b"4111"), "context": { "a": "1" } })
}

fn decrypting(message: &Value) -> Value {
    json!({ "message": message, "context": { "a": "1" } })
}

fn signing(key: &str) -> Value {
    json!({ "key": key, "payload": "AAAA", "detached": true })
}

async fn opens(site: &Site, process: &Process, message: &Value) {
    let (status, opened) = ask(site, process, "/v1/decrypt", &decrypting(message)).await;
    assert_eq!(status, 200, "{opened}");
    assert_eq!(from_base64url(opened["plaintext"].as_str().unwrap()).unwrap(), b"4111");
}

fn softhsm() -> PathBuf {
    let places = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"];
    places.iter().map(PathBuf::from).find(|place| place.exists()).expect("SoftHSM2 is not installed: run deploy/setup.sh test")
}

/// Runs a test of this module again, in a process whose SoftHSM2 has a token of its own.
fn on_a_token(test: &str) {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    let config = place.join("softhsm2.conf");
    fs::create_dir(place.join("tokens")).unwrap();
    fs::write(
        &config,
        format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", place.join("tokens").display()),
    )
    .unwrap();
    fs::write(place.join("pin"), PIN).unwrap();
    fs::set_permissions(place.join("pin"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut util = Command::new("softhsm2-util");
    util.args(["--init-token", "--free", "--label", "freehold", "--so-pin", "so-1234", "--pin", PIN]).env("SOFTHSM2_CONF", &config);
    assert!(util.output().expect("SoftHSM2 is not installed: run deploy/setup.sh test").status.success());
    // A module between the agent and the token that fails when it is told to.
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../data-plane-agent/src/vault/pkcs11/faults.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(place.join("faults.so")).arg(source).arg("-ldl").status();
    assert!(built.unwrap().success());
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &format!("agent::vaults::{test}"), "--nocapture"]);
    child.env("SOFTHSM2_CONF", &config).env(TOKENS, place);
    child.env("FREEHOLD_TEST_MODULE", softhsm()).env("FREEHOLD_TEST_FAULTS", place.join("faults"));
    let ended = child.output().unwrap();
    assert!(ended.status.success(), "{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn an_agent_on_a_token() {
    match std::env::var_os(TOKENS) {
        Some(place) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(on_this_token(Path::new(&place)));
        }
        None => on_a_token("an_agent_on_a_token"),
    }
}

async fn on_this_token(place: &Path) {
    let faults = |rules: &str| match rules {
        "" => drop(fs::remove_file(place.join("faults"))),
        rules => {
            fs::write(place.join("faults.new"), rules).unwrap();
            fs::rename(place.join("faults.new"), place.join("faults")).unwrap();
        }
    };
    let vault = format!(
        "kind = \"pkcs11\"\n[vault.pkcs11]\nmodule = \"{0}/faults.so\"\ntoken = \"freehold\"\npin_file = \"{0}/pin\"\nhardware = true\n\
         call_timeout = \"1s\"\n",
        place.display()
    );
    let mut site = Site::start_with_vault(&vault).await;
    let ecdsa = KeyId::from_bits(61);
    site.define(ecdsa, "contracts", "ECDSA-P256", Purpose::Sign).await;
    site.publish();
    let (status, sealed) = site.encrypt(&site.billing).await;
    assert_eq!(status, StatusCode::OK, "{sealed}");
    let message = &sealed["message"];
    site.stop().await;

    let process = Process::start(&site, None);
    opens(&site, &process, message).await;
    for key in ["payments/documents", "payments/contracts"] {
        let (status, signed) = ask(&site, &process, "/v1/sign", &signing(key)).await;
        assert_eq!(status, 200, "{signed}");
    }
    let (_, told) = look(&site, &process, "/v1/status").await;
    assert_eq!((told["vault"].as_str(), told.get("vault_fault")), (Some("pkcs11"), None));

    // Gone in the middle: named and in time; what is used in memory goes on.
    faults(DEVICE_REMOVED);
    let began = Instant::now();
    for (path, body) in [("/v1/encrypt", encrypting()), ("/v1/decrypt", decrypting(message)), ("/v1/sign", signing("payments/contracts"))] {
        let (status, problem) = ask(&site, &process, path, &body).await;
        assert_eq!((status, problem["code"].as_str()), (503, Some("vault_unavailable")), "{problem}");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let (status, signed) = ask(&site, &process, "/v1/sign", &signing("payments/documents")).await;
    assert_eq!(status, 200, "a post-quantum key is in memory: {signed}");
    let ready = until(&site, &process, "/readyz", |status, body| status == 503 && body["checks"]["vault"]["ok"] == json!(false)).await;
    assert!(ready["checks"]["vault"]["why"].as_str().unwrap().contains("freehold"), "{ready}");
    let told = until(&site, &process, "/v1/status", |_, body| body["vault_fault"]["code"] == json!("vault_unavailable")).await;
    assert!(told["vault_fault"]["detail"].as_str().unwrap().contains("DeviceRemoved"), "{told}");

    // Back: heals by itself.
    faults("");
    opens(&site, &process, message).await;
    until(&site, &process, "/v1/status", |_, body| body.get("vault_fault").is_none()).await;

    // Slow: in time.
    faults(WRAP_KEY_HANGS);
    let began = Instant::now();
    let (status, problem) = ask(&site, &process, "/v1/encrypt", &encrypting()).await;
    assert_eq!((status, problem["code"].as_str()), (503, Some("vault_slow")), "{problem}");
    assert!(began.elapsed() < Duration::from_millis(2500), "{:?}", began.elapsed());
    faults("");

    // Killed, and started again.
    process.kill();
    let process = Process::start(&site, None);
    opens(&site, &process, message).await;
    let (status, sealed) = ask(&site, &process, "/v1/encrypt", &encrypting()).await;
    assert_eq!(status, 200, "{sealed}");
    opens(&site, &process, &sealed["message"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_on_a_remote_vault() {
    let server = VaultServer::start("site-token").unwrap();
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("token"), "site-token\n").unwrap();
    fs::set_permissions(place.path().join("token"), fs::Permissions::from_mode(0o600)).unwrap();
    let vault = format!(
        "kind = \"remote\"\n[vault.remote]\nurl = \"{}\"\ntoken_file = \"{}/token\"\nkv_path = \"fra\"\ncall_timeout = \"1s\"\n",
        server.url(),
        place.path().display()
    );
    let mut site = Site::start_with_vault(&vault).await;
    site.publish();
    let (status, sealed) = site.encrypt(&site.billing).await;
    assert_eq!(status, StatusCode::OK, "{sealed}");
    let message = &sealed["message"];
    site.stop().await;

    let process = Process::start(&site, None);
    opens(&site, &process, message).await;
    let (_, told) = look(&site, &process, "/v1/status").await;
    assert_eq!((told["vault"].as_str(), told.get("vault_fault")), (Some("remote"), None));

    // Sealed, then gone: what is in memory goes on, and the trouble is shown without taking the agent out of service.
    server.set_sealed(true);
    until(&site, &process, "/v1/status", |_, body| body["vault_fault"]["code"] == json!("vault_locked")).await;
    let ready = until(&site, &process, "/readyz", |status, body| status == 200 && body["notes"]["vault"].is_string()).await;
    assert!(ready["notes"]["vault"].as_str().unwrap().contains("sealed"), "{ready}");
    opens(&site, &process, message).await;
    server.set_sealed(false);
    until(&site, &process, "/v1/status", |_, body| body.get("vault_fault").is_none()).await;
    let gone = server.go_away();
    until(&site, &process, "/v1/status", |_, body| body["vault_fault"]["code"] == json!("vault_unavailable")).await;
    opens(&site, &process, message).await;
    process.kill();

    // Without its vault an agent does not start; with it, everything is there.
    let mut other = site.config.clone();
    other.data_dir = place.path().join("data");
    let refused = App::start(other, Arc::new(site.clock.clone()), Arc::new(SystemIds)).await.err().unwrap();
    assert!(format!("{refused:?}").contains("Gone"), "{refused:?}");
    let _server = gone.come_back().unwrap();
    let process = Process::start(&site, None);
    opens(&site, &process, message).await;
    let (status, signed) = ask(&site, &process, "/v1/sign", &signing("payments/documents")).await;
    assert_eq!(status, 200, "{signed}");
}
