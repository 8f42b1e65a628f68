//! A signer whose pair is on a PKCS#11 token (SoftHSM2) takes part in everything.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use freehold_tests::world::until;
use serde_json::Value;

use crate::{SEAL_ONLY, Signer, Site, text};

const TOKENS: &str = "FREEHOLD_TEST_SIGNER_TOKENS";
const PIN: &str = "not-1234";

fn softhsm() -> &'static str {
    let places = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"];
    places.into_iter().find(|place| Path::new(place).exists()).expect("SoftHSM2 is not installed: run deploy/setup.sh test")
}

#[test]
fn a_pair_on_a_token_counts_like_any_other_and_does_not_leave_it() {
    let Some(place) = std::env::var_os(TOKENS) else {
        // Where the tokens of SoftHSM2 are is set for a whole process.
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        let config = place.join("softhsm2.conf");
        fs::create_dir(place.join("tokens")).unwrap();
        let tokens = place.join("tokens");
        let settings = format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
        fs::write(&config, settings).unwrap();
        for label in ["ada", "other"] {
            let mut util = Command::new("softhsm2-util");
            util.args(["--init-token", "--free", "--label", label, "--so-pin", "so-1234", "--pin", PIN]).env("SOFTHSM2_CONF", &config);
            assert!(util.output().expect("SoftHSM2 is not installed: run deploy/setup.sh test").status.success());
        }
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "signers::tokens::a_pair_on_a_token_counts_like_any_other_and_does_not_leave_it", "--nocapture"]);
        let ended = child.env("SOFTHSM2_CONF", &config).env(TOKENS, place).output().unwrap();
        assert!(ended.status.success(), "{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(on_this_token(Path::new(&place)));
}

async fn on_this_token(place: &Path) {
    let secret = |name: &str, value: &str| {
        let path = place.join(name);
        fs::write(&path, format!("{value}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let (pin, wrong) = (secret("pin", PIN), secret("wrong-pin", "4321"));
    let mut site = Site::start().await;
    let file = site.world.path("token.signer");
    let init = async |token: &str, pin: &Path, out: &Path| {
        site.cli(&["signer", "init", "--out", text(out), "--pkcs11", softhsm(), "--token", token, "--pin-file", text(pin)]).await
    };
    // A token that is not there, a PIN that is wrong: named, and nothing is made.
    assert!(init("nobody", &pin, &file).await.unwrap_err().message.contains("there is no such token"));
    init("ada", &wrong, &file).await.unwrap_err();
    assert!(!file.exists());
    init("ada", &pin, &file).await.unwrap();
    assert!(init("ada", &pin, &file).await.unwrap_err().message.contains("exists already"));
    site.cli(&["signer", "show", text(&file)]).await.unwrap();
    site.cli(&["signer", "passphrase", text(&file)]).await.unwrap_err();

    // The file holds neither half in clear, and says what the token is.
    let kept: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!((kept["token"].as_str(), kept["hardware"].as_bool()), (Some("ada"), Some(false)));

    // Root and policy pass to the token and a file, both of whom must sign.
    site.signers[0] = Signer { file: file.clone(), passphrase: pin.clone() };
    site.propose(2).await;
    for signer in &site.signers[..2] {
        let root = site.known_root().await;
        let how = if signer.file == file { "--pin-file" } else { "--passphrase-file" };
        for noun in ["root", "policy"] {
            if noun == "policy" {
                site.until_waiting("POLICY", 2).await;
            }
            let named = if signer.file.with_extension("signer.memory.json").exists() { vec![] } else { vec!["--root", root.as_str()] };
            let sign = [noun, "sign", "--yes", "--signer", text(&signer.file), how, text(&signer.passphrase)];
            site.cli(&[&sign[..], &named].concat()).await.unwrap();
        }
    }
    site.until_root(2).await;
    site.until_open().await;

    // A change needs it; without its PIN, or with a file that was changed, it does not sign.
    site.world.publish(SEAL_ONLY).await;
    site.until_waiting("POLICY", 1).await;
    site.sign("policy", &site.signers[1], &[]).await.unwrap();
    let sign =
        async |signer: &Path, pin: &Path| site.cli(&["policy", "sign", "--yes", "--signer", text(signer), "--pin-file", text(pin)]).await;
    site.cli(&["policy", "sign", "--yes", "--signer", text(&file)]).await.unwrap_err();
    sign(&file, &wrong).await.unwrap_err();
    let changed = site.world.path("changed.signer");
    let mut other = kept.clone();
    other["token"] = "other".into();
    fs::write(&changed, other.to_string()).unwrap();
    fs::copy(site.world.path("token.signer.memory.json"), site.world.path("changed.signer.memory.json")).unwrap();
    sign(&changed, &pin).await.unwrap_err();
    assert_eq!(site.waiting("POLICY").await.len(), 1);
    sign(&file, &pin).await.unwrap();
    until(|| async {
        let waits = site.waiting("POLICY").await;
        if waits.is_empty() { Ok(()) } else { Err(format!("{waits:?}")) }
    })
    .await;
    site.agent.stop().await.unwrap();
}
