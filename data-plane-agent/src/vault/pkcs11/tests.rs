//! Against SoftHSM2. Where its tokens are is set for a whole process, so every test runs in a process of its own.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use schema::{clock::SystemIds, id::KeyId, key::Operation};

use super::*;
use crate::{
    policy::permit::{Destination, ExportPermit, UsePermit},
    vault::{
        Vault as _,
        conformance::{self, refusal},
        file::{Elsewhere, FileVault, Unlock},
    },
};

const PLACE: &str = "FREEHOLD_TEST_TOKENS";
const STEP: &str = "FREEHOLD_TEST_STEP";
const PIN: &str = "not-1234";
const VERSION: KeyVersion = KeyVersion::new(KeyId::from_bits(1), 1);
const OTHER: KeyVersion = KeyVersion::new(KeyId::from_bits(2), 1);

/// Functions by their place in `CK_FUNCTION_LIST`.
const EVERY: i32 = -1;
const CREATE_OBJECT: i32 = 20;
const FIND_OBJECTS_INIT: i32 = 26;
const ENCRYPT_INIT: i32 = 29;
const SIGN_INIT: i32 = 42;
const SIGN: i32 = 43;
const GENERATE_KEY: i32 = 58;
/// CKR_DEVICE_MEMORY, CKR_DEVICE_REMOVED.
const DEVICE_MEMORY: u64 = 0x31;
const DEVICE_REMOVED: u64 = 0x32;

fn algorithm(name: &str) -> Algorithm {
    name.parse().unwrap()
}

/// Where the tokens of this process are.
struct Tokens(PathBuf);

impl Tokens {
    fn module() -> PathBuf {
        let places = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"];
        let found = places.iter().map(PathBuf::from).find(|place| place.exists());
        found.expect("SoftHSM2 is not installed: run deploy/setup.sh test")
    }

    fn settings(&self) -> Pkcs11Settings {
        Pkcs11Settings {
            token: TokenSettings {
                module: Self::module(),
                token: "freehold".to_owned(),
                serial: None,
                pin_file: self.0.join("pin"),
                sessions: 4,
            },
            namespace: "site".to_owned(),
            hardware: Some(true),
            call: Duration::from_secs(20),
        }
    }

    /// The same token through a module that fails when it is told to.
    fn faulty(&self) -> Pkcs11Settings {
        let mut settings = self.settings();
        settings.token.module = self.0.join("faults.so");
        settings
    }

    fn open(&self) -> Pkcs11Vault {
        Pkcs11Vault::open(self.settings(), Arc::new(SystemIds)).unwrap()
    }

    fn faults(&self, rules: &[(i32, &str, u64, u32)]) {
        let line = |(function, action, value, nth): &(i32, &str, u64, u32)| format!("{function} {action} {value} {nth}\n");
        let path = self.0.join("faults");
        if rules.is_empty() {
            let _ = fs::remove_file(path);
        } else {
            fs::write(self.0.join("faults.new"), rules.iter().map(line).collect::<String>()).unwrap();
            fs::rename(self.0.join("faults.new"), path).unwrap();
        }
    }

    /// Every key object with the label of a version.
    fn objects(&self, version: KeyVersion) -> usize {
        let device = Device::open(self.settings().token).unwrap();
        let label = Attribute::Label(format!("site/{version}").into_bytes());
        device.with("counting", |session, _| session.find_objects(std::slice::from_ref(&label))).unwrap().len()
    }
}

/// Runs each step of a test in a process of its own; all of them have the same tokens. Gives how the processes ended.
fn in_processes(test: &str, steps: &[fn(Tokens)]) -> Vec<bool> {
    if let Ok(place) = std::env::var(PLACE) {
        let step: usize = std::env::var(STEP).unwrap().parse().unwrap();
        steps[step](Tokens(place.into()));
        return vec![true; steps.len()];
    }
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    let config = place.join("softhsm2.conf");
    fs::create_dir(place.join("tokens")).unwrap();
    fs::write(
        &config,
        format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", place.join("tokens").display()),
    )
    .unwrap();
    fs::write(place.join("pin"), format!("{PIN}\n")).unwrap();
    fs::set_permissions(place.join("pin"), fs::Permissions::from_mode(0o600)).unwrap();
    for label in ["freehold", "other"] {
        init_token(&config, label);
    }
    let library = place.join("faults.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/vault/pkcs11/faults.c");
    assert!(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl").status().unwrap().success());
    (0..steps.len())
        .map(|step| {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", &format!("vault::pkcs11::tests::{test}"), "--nocapture"]);
            child.env("SOFTHSM2_CONF", &config).env(PLACE, place).env(STEP, step.to_string());
            child.env("FREEHOLD_TEST_MODULE", Tokens::module()).env("FREEHOLD_TEST_FAULTS", place.join("faults"));
            let ended = child.stdout(Stdio::piped()).output().unwrap();
            if !ended.status.success() {
                eprintln!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
            }
            ended.status.success()
        })
        .collect()
}

fn init_token(config: &Path, label: &str) {
    let mut util = Command::new("softhsm2-util");
    util.args(["--init-token", "--free", "--label", label, "--so-pin", "so-1234", "--pin", PIN]).env("SOFTHSM2_CONF", config);
    let made = util.output().expect("SoftHSM2 is not installed: run deploy/setup.sh test");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn on_a_token(test: &str, work: fn(Tokens)) {
    assert_eq!(in_processes(test, &[work]), [true]);
}

fn run<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

#[test]
fn conforms() {
    on_a_token("conforms", |tokens| run(conformance::suite(|| async { tokens.open() })));
}

#[test]
fn what_the_token_does_is_inside_and_the_rest_is_said_to_be_outside() {
    on_a_token("what_the_token_does_is_inside_and_the_rest_is_said_to_be_outside", |tokens| {
        let algorithms = tokens.open().description().algorithms;
        for inside in ["A256KW+A256GCM", "A256GCM", "HMAC-SHA-512", "RSA-PSS-3072", "ECDSA-P256", "ECDSA-P384", "ECDH-ES-P256", "Ed25519"] {
            assert_eq!(algorithms[&algorithm(inside)], Protection::Hardware, "{inside}");
        }
        // SoftHSM does OAEP with SHA-1 only.
        for outside in ["RSA-OAEP-256-3072", "ChaCha20-Poly1305", "X25519", "ML-KEM-768", "ML-DSA-65", "SLH-DSA-SHA2-128s", "HPKE-9-KE"] {
            assert_eq!(algorithms[&algorithm(outside)], Protection::SealedByHardware, "{outside}");
        }
        // SoftHSM says itself that it is no device.
        let told = Pkcs11Settings { hardware: None, ..tokens.settings() };
        let vault = Pkcs11Vault::open(told, Arc::new(SystemIds)).unwrap();
        assert!(vault.description().algorithms.values().all(|protection| *protection == Protection::Software));
    });
}

#[test]
fn keys_inside_never_come_out() {
    on_a_token("keys_inside_never_come_out", |tokens| {
        run(async {
            let vault = tokens.open();
            for (number, name) in (1..).zip(["A256KW+A256GCM", "HMAC-SHA-256", "ECDSA-P256", "Ed25519"]) {
                let version = KeyVersion::new(KeyId::from_bits(number), 1);
                let held = vault.generate(version, algorithm(name)).await.unwrap();
                assert_eq!(held.protection, Protection::Hardware);
                let permit = ExportPermit::for_test(version, Destination::Backup);
                assert_eq!(refusal(vault.export(permit).await), "key_version_not_extractable");
                let class = if held.public_key.is_some() { ObjectClass::PRIVATE_KEY } else { ObjectClass::SECRET_KEY };
                let wanted = [Attribute::Class(class), Attribute::Label(format!("site/{version}").into_bytes())];
                let told = vault.keeper().device.with("looking", |session, _| {
                    let object = session.find_objects(&wanted)?[0];
                    let known = [
                        AttributeType::Sensitive,
                        AttributeType::Extractable,
                        AttributeType::AlwaysSensitive,
                        AttributeType::NeverExtractable,
                    ];
                    let secret = session.get_attributes(object, &[AttributeType::Value])?;
                    Ok((session.get_attributes(object, &known)?, secret))
                });
                let (known, secret) = told.unwrap();
                assert_eq!(
                    known,
                    [
                        Attribute::Sensitive(true),
                        Attribute::Extractable(false),
                        Attribute::AlwaysSensitive(true),
                        Attribute::NeverExtractable(true)
                    ]
                );
                assert!(secret.is_empty(), "the token told a secret of {name}");
            }
            // What comes from elsewhere has been in other hands.
            let serving = algorithm::serve(algorithm("Ed25519"));
            let material = serving.generate(algorithm("Ed25519"), &SystemIds).unwrap();
            let brought = vault.import(KeyVersion::new(KeyId::from_bits(9), 1), algorithm("Ed25519"), material).await.unwrap();
            assert_eq!(brought.protection, Protection::SealedByHardware);
        });
    });
}

#[test]
fn lost_sessions_are_opened_again() {
    on_a_token("lost_sessions_are_opened_again", |tokens| {
        run(async {
            let vault = Pkcs11Vault::open(tokens.faulty(), Arc::new(SystemIds)).unwrap();
            vault.generate(VERSION, algorithm("Ed25519")).await.unwrap();
            vault.generate(OTHER, algorithm("A256GCM")).await.unwrap();
            let sign = || vault.sign(UsePermit::for_test(VERSION, Operation::Sign, algorithm("Ed25519")), b"message");
            sign().await.unwrap();
            // As when the module loses its connection: every session is gone, and with them login and handles.
            let lose = |function| tokens.faults(&[(function, "lose", 0, 1)]);
            let lost = || !tokens.0.join("faults").exists();
            lose(SIGN_INIT);
            sign().await.unwrap();
            assert!(lost());
            lose(GENERATE_KEY);
            vault.generate(KeyVersion::new(KeyId::from_bits(3), 1), algorithm("A256KW+A256GCM")).await.unwrap();
            assert!(lost());
            lose(ENCRYPT_INIT);
            let permit = UsePermit::for_test(OTHER, Operation::Encrypt, algorithm("A256GCM"));
            vault.seal_content(permit, b"header", b"plaintext").await.unwrap();
            assert!(lost());
            lose(FIND_OBJECTS_INIT);
            vault.check().await.unwrap();
            assert!(lost());
            // Many at once share a few sessions.
            let all = (0..32).map(|_| sign());
            for signed in futures::future::join_all(all).await {
                signed.unwrap();
            }
        });
    });
}

#[test]
fn a_token_that_is_gone_answers_so_and_works_when_it_is_back() {
    on_a_token("a_token_that_is_gone_answers_so_and_works_when_it_is_back", |tokens| {
        run(async {
            let vault = Pkcs11Vault::open(tokens.faulty(), Arc::new(SystemIds)).unwrap();
            vault.generate(VERSION, algorithm("ECDSA-P256")).await.unwrap();
            let sign = || vault.sign(UsePermit::for_test(VERSION, Operation::Sign, algorithm("ECDSA-P256")), b"message");
            tokens.faults(&[(EVERY, "error", DEVICE_REMOVED, 1)]);
            for _ in 0..3 {
                assert_eq!(refusal(sign().await), "vault_unavailable");
                assert_eq!(refusal(vault.check().await), "vault_unavailable");
                assert_eq!(refusal(vault.generate(OTHER, algorithm("ECDSA-P256")).await), "vault_unavailable");
                assert_eq!(refusal(vault.generate(OTHER, algorithm("ML-DSA-65")).await), "vault_unavailable");
                assert_eq!(refusal(vault.versions().await), "vault_unavailable");
            }
            assert_eq!(refusal(Pkcs11Vault::open(tokens.faulty(), Arc::new(SystemIds))), "vault_unavailable");
            tokens.faults(&[]);
            sign().await.unwrap();
            vault.check().await.unwrap();
            assert_eq!(vault.versions().await.unwrap().len(), 1);
            vault.generate(OTHER, algorithm("ML-DSA-65")).await.unwrap();
        });
    });
}

#[test]
fn a_token_that_hangs_keeps_nobody_waiting() {
    on_a_token("a_token_that_hangs_keeps_nobody_waiting", |tokens| {
        run(async {
            let mut settings = tokens.faulty();
            (settings.call, settings.token.sessions) = (Duration::from_millis(700), 2);
            let vault = Pkcs11Vault::open(settings, Arc::new(SystemIds)).unwrap();
            vault.generate(VERSION, algorithm("ECDSA-P256")).await.unwrap();
            let sign = || vault.sign(UsePermit::for_test(VERSION, Operation::Sign, algorithm("ECDSA-P256")), b"message");
            sign().await.unwrap();
            tokens.faults(&[(SIGN, "sleep", 4000, 1)]);
            let began = Instant::now();
            // More than there are sessions: also who does not get one is told in time.
            for answer in futures::future::join_all((0..6).map(|_| sign())).await {
                assert_eq!(refusal(answer), "vault_slow");
            }
            assert!(began.elapsed() < Duration::from_millis(2500), "{:?}", began.elapsed());
            tokens.faults(&[]);
            tokio::time::sleep(Duration::from_secs(5)).await;
            sign().await.unwrap();
        });
    });
}

#[test]
fn what_fails_while_a_key_is_made_leaves_no_key() {
    on_a_token("what_fails_while_a_key_is_made_leaves_no_key", |tokens| {
        run(async {
            let vault = Pkcs11Vault::open(tokens.faulty(), Arc::new(SystemIds)).unwrap();
            for name in ["Ed25519", "ML-DSA-65"] {
                tokens.faults(&[(CREATE_OBJECT, "error", DEVICE_MEMORY, 1)]);
                assert_eq!(refusal(vault.generate(VERSION, algorithm(name)).await), "vault_failed");
                tokens.faults(&[]);
                assert_eq!(tokens.objects(VERSION), 0, "{name}");
                assert_eq!(refusal(vault.held(VERSION).await), "key_version_not_held");
            }
            vault.generate(VERSION, algorithm("Ed25519")).await.unwrap();
            assert_eq!(tokens.objects(VERSION), 2);
        });
    });
}

#[test]
fn a_process_that_dies_between_key_and_record_leaves_a_key_that_nobody_finds() {
    let test = "a_process_that_dies_between_key_and_record_leaves_a_key_that_nobody_finds";
    let dies = |tokens: Tokens| {
        let vault = Pkcs11Vault::open(tokens.faulty(), Arc::new(SystemIds)).unwrap();
        tokens.faults(&[(CREATE_OBJECT, "exit", 0, 1)]);
        let _ = run(vault.generate(VERSION, algorithm("Ed25519")));
        unreachable!("the process is gone");
    };
    let finds = |tokens: Tokens| {
        tokens.faults(&[]);
        assert_eq!(tokens.objects(VERSION), 2, "the key was made");
        run(async {
            let vault = tokens.open();
            assert!(vault.versions().await.unwrap().is_empty());
            assert_eq!(refusal(vault.held(VERSION).await), "key_version_not_held");
            let held = vault.generate(VERSION, algorithm("Ed25519")).await.unwrap();
            assert_eq!(vault.held(VERSION).await.unwrap(), held);
            assert_eq!(tokens.objects(VERSION), 2, "what was left is gone");
            vault.destroy(VERSION).await.unwrap();
            assert_eq!(tokens.objects(VERSION), 0);
        });
    };
    let ended = in_processes(test, &[dies, finds]);
    assert_eq!(ended[1..], [true]);
    assert!(std::env::var(PLACE).is_ok() || !ended[0]);
}

#[test]
fn a_wrong_pin_is_tried_once() {
    on_a_token("a_wrong_pin_is_tried_once", |tokens| {
        fs::write(tokens.0.join("pin"), "wrong-pin\n").unwrap();
        let device_of = |settings: Pkcs11Settings| Pkcs11Vault::open(settings, Arc::new(SystemIds));
        assert_eq!(refusal(device_of(tokens.settings())), "vault_locked");
        fs::write(tokens.0.join("pin"), PIN).unwrap();
        run(async {
            let vault = Pkcs11Vault::open(tokens.faulty(), Arc::new(SystemIds)).unwrap();
            vault.generate(VERSION, algorithm("Ed25519")).await.unwrap();
            let sign = || vault.sign(UsePermit::for_test(VERSION, Operation::Sign, algorithm("Ed25519")), b"message");
            // The PIN was changed behind our back, and everybody logged out.
            fs::write(tokens.0.join("pin"), "wrong-pin\n").unwrap();
            tokens.faults(&[(SIGN_INIT, "lose", 0, 1)]);
            assert_eq!(refusal(sign().await), "vault_locked");
            let again = sign().await.unwrap_err();
            assert!(again.code() == "vault_locked" && again.to_string().contains("not tried again"), "{again}");
            fs::write(tokens.0.join("pin"), PIN).unwrap();
            sign().await.unwrap();
        });
    });
}

#[test]
fn a_token_that_is_not_there_is_named() {
    on_a_token("a_token_that_is_not_there_is_named", |tokens| {
        let mut settings = tokens.settings();
        settings.token.token = "nowhere".to_owned();
        let error = Pkcs11Vault::open(settings, Arc::new(SystemIds)).err().unwrap();
        assert!(error.code() == "vault_unavailable" && error.to_string().contains("\"nowhere\""), "{error}");
        let mut settings = tokens.settings();
        settings.token.module = tokens.0.join("no-library.so");
        assert_eq!(refusal(Pkcs11Vault::open(settings, Arc::new(SystemIds))), "vault_unavailable");
        let mut settings = tokens.settings();
        settings.token.serial = Some("0000".to_owned());
        assert_eq!(refusal(Pkcs11Vault::open(settings, Arc::new(SystemIds))), "vault_unavailable");
    });
}

#[test]
fn agents_that_share_a_token_share_its_keys() {
    on_a_token("agents_that_share_a_token_share_its_keys", |tokens| {
        run(async {
            let (one, two) = (tokens.open(), tokens.open());
            for (version, name) in [(VERSION, "A256KW+A256GCM"), (OTHER, "ML-KEM-768")] {
                let held = one.generate(version, algorithm(name)).await.unwrap();
                assert_eq!(two.held(version).await.unwrap(), held);
                assert_eq!(two.generate(version, algorithm(name)).await.unwrap(), held, "what another made is found");
            }
            let name = "context".parse().unwrap();
            assert!(one.named_secret(&name).await.unwrap().expose() == two.named_secret(&name).await.unwrap().expose());
            one.destroy(VERSION).await.unwrap();
            let third = tokens.open();
            assert_eq!(refusal(third.held(VERSION).await), "key_version_destroyed");
            // Another namespace of the same token is another vault.
            let elsewhere = Pkcs11Settings { namespace: "elsewhere".to_owned(), ..tokens.settings() };
            let elsewhere = Pkcs11Vault::open(elsewhere, Arc::new(SystemIds)).unwrap();
            assert!(elsewhere.versions().await.unwrap().is_empty());
        });
    });
}

#[test]
fn records_that_were_changed_on_the_token_are_found() {
    on_a_token("records_that_were_changed_on_the_token_are_found", |tokens| {
        run(async {
            let vault = tokens.open();
            let third = KeyVersion::new(KeyId::from_bits(3), 1);
            for (version, name) in [(VERSION, "Ed25519"), (OTHER, "Ed25519"), (third, "ML-DSA-65")] {
                vault.generate(version, algorithm(name)).await.unwrap();
            }
            let records = &vault.keeper().outside.records;
            let text = |version| String::from_utf8(records.read(&version_name(version)).unwrap().unwrap()).unwrap();
            let public =
                |version| serde_json::from_str::<serde_json::Value>(&text(version)).unwrap()["public_key"].as_str().unwrap().to_owned();
            // The public half of another key, in a record that points at this one's private half.
            let changed = text(VERSION).replace(&public(VERSION), &public(OTHER));
            records.replace(&version_name(VERSION), changed.as_bytes()).unwrap();
            records.replace(&version_name(third), text(third).replace(&public(third)[..8], "AAAAAAAA").as_bytes()).unwrap();
            let again = tokens.open();
            assert_eq!(refusal(again.held(VERSION).await), "vault_corrupt");
            assert_eq!(refusal(again.held(third).await), "vault_corrupt");
            again.held(OTHER).await.unwrap();
        });
    });
}

#[test]
fn a_file_vault_is_opened_by_a_token() {
    on_a_token("a_file_vault_is_opened_by_a_token", |tokens| {
        run(async {
            let unlock = |token: &str, may_make| {
                let mut settings = tokens.settings();
                settings.token.token = token.to_owned();
                let device = Arc::new(Device::open(settings.token).unwrap());
                let (key, protection) = (sealing_label("site"), guarding(&device, Some(true)).unwrap().1);
                let seal = DeviceSeal::open(device, &key, protection, may_make)?;
                Ok::<_, VaultError>(Unlock::Elsewhere { place: Elsewhere::Pkcs11, key, seal: Arc::new(seal) })
            };
            let place = tokens.0.join("vault");
            let vault = FileVault::open_or_create(&place, &unlock("freehold", true).unwrap(), Arc::new(SystemIds)).unwrap();
            let held = vault.generate(VERSION, algorithm("ML-DSA-65")).await.unwrap();
            assert_eq!(held.protection, Protection::SealedByHardware);
            vault.rekey(unlock("freehold", false).unwrap()).await.unwrap();
            drop(vault);
            assert!(refusal(unlock("other", false)) == "vault_failed", "the key is not on the other token");
            let other = unlock("other", true).unwrap();
            assert_eq!(refusal(FileVault::open(&place, &other, Arc::new(SystemIds))), "vault_wrong_secret");
            let passphrase = Unlock::Passphrase(SecretBytes::new(b"guess".to_vec()));
            assert_eq!(refusal(FileVault::open(&place, &passphrase, Arc::new(SystemIds))), "vault_unusable_secret");
            let vault = FileVault::open(&place, &unlock("freehold", false).unwrap(), Arc::new(SystemIds)).unwrap();
            assert_eq!(vault.held(VERSION).await.unwrap(), held);
            // Away from the token: a passphrase, and the level that comes with it.
            vault.change_secret(Unlock::Passphrase(SecretBytes::new(b"correct horse".to_vec()))).await.unwrap();
            drop(vault);
            let passphrase = Unlock::Passphrase(SecretBytes::new(b"correct horse".to_vec()));
            let vault = FileVault::open(&place, &passphrase, Arc::new(SystemIds)).unwrap();
            assert_eq!(vault.held(VERSION).await.unwrap().protection, Protection::Software);
        });
    });
}
