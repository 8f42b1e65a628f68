//! Keys from elsewhere, from their creation at the control plane to their use, export and the move from a transit engine, by the commands of `freehold`.

use std::process::Command;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use freehold_tests::world::{World as System, until};
use schema::encoding::base64url;
use serde_json::{Value, json};

const PLAIN: &str = "plain_http = true";
const POLICY: &str = "permit (principal, action, resource);";

/// A system, a person with a token of the agent, and a folder in which OpenSSL works.
pub(super) struct Person {
    system: System,
    agent: data_plane_agent::app::Running,
    token: String,
}

impl Person {
    pub(super) async fn start() -> Self {
        let system = System::start().await;
        let config = system.agent_config("agent", PLAIN);
        system.enrol(&config).await;
        let agent = system.agent(&config).await;
        let token = system.caller("app", &config).await;
        system.publish(POLICY).await;
        let file = system.path("caller.token");
        service::files::write_atomic(&file, token.as_bytes(), service::files::OWNER_ONLY).unwrap();
        Self { system, agent, token }
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.system.path(name).to_str().unwrap().to_owned()
    }

    /// A command at the control plane and the agent.
    async fn cli(&self, arguments: &[&str]) -> Result<(), cli::error::Error> {
        let url = format!("http://{}", self.agent.address);
        let token = self.path("caller.token");
        self.system.cli(&[&["--agent", &url, "--caller-token-file", &token][..], arguments].concat()).await
    }

    /// The same until it succeeds: statements take a moment to arrive.
    pub(super) async fn done(&self, arguments: &[&str]) {
        until(|| async { self.cli(arguments).await.map_err(|error| format!("{arguments:?}: {error:?}")) }).await;
    }

    async fn refused(&self, arguments: &[&str]) -> String {
        match self.cli(arguments).await {
            Ok(()) => panic!("{arguments:?} succeeded"),
            Err(error) => error.code,
        }
    }

    pub(super) async fn create(&self, name: &str, algorithm: &str, purpose: &str) {
        let names = ["key", "create", name, "--project", "payments", "--algorithm", algorithm, "--purpose", purpose, "--site", "fra"];
        self.cli(&[&names[..], &["--durability", "single-copy", "--origin", "imported", "--exportable"]].concat()).await.unwrap();
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(self.system.path(""))
            .output()
            .expect("OpenSSL; make setup-test installs it");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub(super) async fn key(&self, name: &str) -> Value {
        let query = "query($key: String!) { key(reference: $key) { origin state primaryVersion versions { number state } } }";
        self.system.query(query, json!({ "key": name })).await["key"].clone()
    }

    pub(super) async fn call(&self, path: &str, body: &Value) -> Value {
        self.system.until_allowed(&self.agent, path, &self.token, body).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_a_pkcs12_file_is_used_rotated_and_exported() {
    let person = Person::start().await;
    person.create("legacy", "ECDSA-P256", "sign").await;
    person.openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "old.pem"]);
    person.openssl(&["req", "-x509", "-key", "old.pem", "-subj", "/CN=old", "-out", "old.crt"]);
    let export = ["pkcs12", "-export", "-inkey", "old.pem", "-in", "old.crt", "-name", "old", "-passout", "pass:correct horse"];
    person.openssl(&[&export[..], &["-out", "modern.p12"]].concat());
    person
        .openssl(&[&export[..], &["-out", "old.p12", "-keypbe", "PBE-SHA1-3DES", "-certpbe", "PBE-SHA1-3DES", "-macalg", "sha1"]].concat());
    let secret = |name: &str, text: &str| {
        service::files::write_atomic(&person.system.path(name), text.as_bytes(), service::files::OWNER_ONLY).unwrap();
        person.path(name)
    };
    let (password, wrong) = (secret("password", "correct horse\n"), secret("wrong", "battery staple\n"));
    let (modern, old) = (person.path("modern.p12"), person.path("old.p12"));
    let import = |file: &str, password: &str| {
        ["key", "import", "payments/legacy", "--file", file, "--password-file", password, "--wait"].map(str::to_owned)
    };
    let run = |arguments: [String; 8]| {
        let person = &person;
        async move { person.cli(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    assert_eq!(run(import(&modern, &wrong)).await.unwrap_err().code, "wrong_password");
    assert_eq!(run(import(&password, &password)).await.unwrap_err().code, "usage", "a file without any mark is not guessed to be a key");
    until(|| async { run(import(&modern, &password)).await.map_err(|error| format!("{error:?}")) }).await;
    let key = person.key("payments/legacy").await;
    assert_eq!(
        (key["origin"].as_str(), key["primaryVersion"].as_u64(), key["state"].as_str()),
        (Some("IMPORTED"), Some(1), Some("ACTIVE"))
    );

    // What it signs, OpenSSL verifies with the key that it made.
    let signed = person.call("/v1/sign", &json!({ "key": "payments/legacy", "payload": base64url(b"x") })).await;
    assert_eq!(person.call("/v1/verify", &json!({ "signature": signed["signature"] })).await["valid"], true);
    let csr = person.path("tls.csr");
    person.done(&["key", "csr", "payments/legacy", "--subject", "CN=pay.example", "--dns", "pay.example", "--out", &csr]).await;
    person.openssl(&["req", "-in", "tls.csr", "-verify", "-noout", "-pubkey", "-out", "theirs.pem"]);
    person.openssl(&["pkey", "-in", "old.pem", "-pubout", "-out", "ours.pem"]);
    assert_eq!(std::fs::read(person.system.path("theirs.pem")).unwrap(), std::fs::read(person.system.path("ours.pem")).unwrap());

    // No version waits, so nothing is taken; the next one is asked for, and comes from an old file, wrapped for a device.
    assert_eq!(run(import(&old, &password)).await.unwrap_err().code, "no_version_awaited");
    person.cli(&["key", "rotate", "payments/legacy"]).await.unwrap();
    let next = ["key", "import", "payments/legacy", "--file", &old, "--password-file", &password, "--wrapping", "rsa-aes-kwp", "--wait"];
    person.done(&next).await;
    assert_eq!(person.key("payments/legacy").await["primaryVersion"], 2);
    // It leaves as it came.
    person.openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072", "-out", "escrow.pem"]);
    person.openssl(&["pkey", "-in", "escrow.pem", "-pubout", "-out", "escrow.pub"]);
    let (recipient, out) = (person.path("escrow.pub"), person.path("legacy.jwe"));
    person.done(&["key", "export", "payments/legacy", "--to", &recipient, "--out", &out]).await;
    assert_eq!(std::fs::read_to_string(&out).unwrap().trim().split('.').count(), 5);
    let private = person.path("escrow.pem");
    assert_eq!(person.refused(&["key", "export", "payments/legacy", "--to", &private, "--out", &person.path("never")]).await, "usage");
    assert!(!person.system.path("never").exists());

    // What cannot be, the control plane says at once.
    let names = ["key", "create", "by-itself", "--project", "payments", "--algorithm", "Ed25519", "--purpose", "sign", "--site", "fra"];
    let by_itself = [&names[..], &["--durability", "single-copy", "--origin", "imported", "--rotate-every", "90d"]].concat();
    assert_eq!(person.refused(&by_itself).await, "imported_key_rotates_by_hand");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_move_over_from_a_transit_engine() {
    let person = Person::start().await;
    person.create("legacy", "A256GCM", "encrypt").await;
    person.system.encryption_key("cards").await;
    let key = |byte: u8| BASE64_STANDARD.encode([byte; 31].iter().copied().chain([9]).collect::<Vec<_>>());
    let backup = json!({
        "policy": {
            "name": "legacy", "type": 0, "derived": false, "convergent_encryption": false, "latest_version": 3, "min_available_version": 0,
            "min_decryption_version": 2, "keys": { "2": { "key": key(2) }, "3": { "key": key(3) } },
        },
        "archived_keys": { "keys": [{ "key": null }, { "key": key(1) }] },
    });
    std::fs::write(person.system.path("legacy.backup"), BASE64_STANDARD.encode(backup.to_string())).unwrap();
    let file = person.path("legacy.backup");
    assert_eq!(person.refused(&["key", "import", "payments/cards", "--file", &file]).await, "usage", "another algorithm");
    person.done(&["key", "import", "payments/legacy", "--file", &file]).await;
    let versions = person.key("payments/legacy").await["versions"].clone();
    let numbers: Vec<_> =
        versions.as_array().unwrap().iter().map(|version| (version["number"].as_u64(), version["state"].as_str())).collect();
    assert_eq!(numbers, [1, 2, 3].map(|number| (Some(number), Some("ACTIVE"))));
    // Run again it changes nothing.
    person.cli(&["key", "import", "payments/legacy", "--file", &file]).await.unwrap();

    for version in 1..=3_u8 {
        let mut sealed = b"4111".to_vec();
        let secret: Vec<u8> = [version; 31].iter().copied().chain([9]).collect();
        let aead = aws_lc_rs::aead::LessSafeKey::new(aws_lc_rs::aead::UnboundKey::new(&aws_lc_rs::aead::AES_256_GCM, &secret).unwrap());
        let nonce = aws_lc_rs::aead::Nonce::assume_unique_for_key([version; 12]);
        aead.seal_in_place_append_tag(nonce, aws_lc_rs::aead::Aad::empty(), &mut sealed).unwrap();
        let ciphertext = format!("vault:v{version}:{}", BASE64_STANDARD.encode([&[version; 12][..], &sealed].concat()));
        std::fs::write(person.system.path("ciphertext"), format!("{ciphertext}\n")).unwrap();
        let (input, out) = (person.path("ciphertext"), person.path(&format!("clear-{version}")));
        person.done(&["transit", "open", "--key", "payments/legacy", "--out", &out, &input]).await;
        assert_eq!(std::fs::read(&out).unwrap(), b"4111");
        person.done(&["transit", "open", "--key", "payments/legacy", "--seal-with", "payments/cards", "--context", "a=1", &input]).await;
    }
}
