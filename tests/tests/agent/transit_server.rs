//! Keys and ciphertexts of transit engines, as they come from a server: from those that were asked once and whose answers are kept in
//! `tests/transit`, and from the one that `FREEHOLD_TEST_BAO_ADDR` and `FREEHOLD_TEST_BAO_TOKEN` name.

use std::{env, fs, path::PathBuf};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use schema::{
    clock::{SystemIds, random},
    encoding::base64url,
};
use serde_json::{Value, json};

use super::import_journey::Person;

/// What the engine calls a kind, whether its keys are derived and convergent, and what they are here.
const KINDS: [(&str, bool, bool, &str, &str); 6] = [
    ("aes256-gcm96", false, false, "A256GCM", "encrypt"),
    ("chacha20-poly1305", false, false, "ChaCha20-Poly1305", "encrypt"),
    ("aes256-gcm96", true, false, "HKDF-SHA-256", "derive"),
    ("aes256-gcm96", true, true, "HKDF-SHA-256", "derive"),
    ("rsa-3072", false, false, "RSA-OAEP-256-3072", "encrypt"),
    ("ecdsa-p256", false, false, "ECDSA-P256", "sign"),
];

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/transit"))
}

/// A server that runs.
struct Server {
    url: String,
    token: String,
    http: reqwest::Client,
}

impl Server {
    fn named() -> Option<Self> {
        let (url, token) = (env::var("FREEHOLD_TEST_BAO_ADDR").ok()?, env::var("FREEHOLD_TEST_BAO_TOKEN").ok()?);
        Some(Self { url, token, http: reqwest::Client::new() })
    }

    async fn ask(&self, method: reqwest::Method, path: &str, body: &Value) -> Value {
        let request = self.http.request(method, format!("{}/v1/{path}", self.url)).header("X-Vault-Token", &self.token);
        let answer = request.json(body).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.ask(reqwest::Method::POST, path, &body).await
    }

    /// Keys of each kind, with two versions, what is sealed under both, and their backup.
    async fn made(&self) -> Value {
        let version = self.ask(reqwest::Method::GET, "sys/health", &Value::Null).await["version"].clone();
        let mut keys = Vec::new();
        for (kind, derived, convergent, ..) in KINDS {
            let name = format!("freehold-test-{}", hex::encode(random::<8>(&SystemIds)));
            let options = json!({
                "type": kind, "derived": derived, "convergent_encryption": convergent, "exportable": true, "allow_plaintext_backup": true,
            });
            self.post(&format!("transit/keys/{name}"), options).await;
            self.post(&format!("transit/keys/{name}/rotate"), json!({})).await;
            let mut sealed = Vec::new();
            let plaintexts: &[&[u8]] = if kind.starts_with("ecdsa") { &[] } else { &[b"4111", b""] };
            for (version, plaintext) in [1, 2].into_iter().flat_map(|version| plaintexts.iter().map(move |plaintext| (version, plaintext)))
            {
                let mut ask = json!({ "plaintext": BASE64_STANDARD.encode(plaintext), "key_version": version });
                let mut told = json!({ "version": version, "plaintext": base64url(plaintext) });
                if derived {
                    ask["context"] = json!(BASE64_STANDARD.encode(b"row 7"));
                    told["derivation_context"] = json!(base64url(b"row 7"));
                }
                if !kind.starts_with("rsa") && !plaintext.is_empty() {
                    ask["associated_data"] = json!(BASE64_STANDARD.encode(b"table people"));
                    told["associated_data"] = json!(base64url(b"table people"));
                }
                told["ciphertext"] = self.post(&format!("transit/encrypt/{name}"), ask).await["data"]["ciphertext"].clone();
                sealed.push(told);
            }
            let backup = self.ask(reqwest::Method::GET, &format!("transit/backup/{name}"), &Value::Null).await["data"]["backup"].clone();
            keys.push(json!({ "kind": kind, "derived": derived, "convergent": convergent, "backup": backup, "sealed": sealed }));
        }
        json!({ "version": version, "keys": keys })
    }
}

/// Everything of it is brought in, and opens.
async fn comes_over(person: &Person, from: &str, made: &Value) {
    for (number, key) in made["keys"].as_array().unwrap().iter().enumerate() {
        let of = |member: &str| key[member].as_bool().unwrap();
        let kind = (key["kind"].as_str().unwrap(), of("derived"), of("convergent"));
        let (.., algorithm, purpose) =
            KINDS.into_iter().find(|(name, derived, convergent, ..)| (*name, *derived, *convergent) == kind).unwrap();
        let (name, file) = (format!("{from}-{number}"), person.path(&format!("{from}-{number}.backup")));
        fs::write(&file, key["backup"].as_str().unwrap()).unwrap();
        person.create(&name, algorithm, purpose).await;
        let reference = format!("payments/{name}");
        person.done(&["key", "import", &reference, "--file", &file]).await;
        let versions = person.key(&reference).await["versions"].as_array().unwrap().len();
        assert_eq!(versions, 2, "{from}: {kind:?}");
        for sealed in key["sealed"].as_array().unwrap() {
            let mut body = json!({ "key": reference, "ciphertext": sealed["ciphertext"] });
            for member in ["associated_data", "derivation_context"].into_iter().filter(|member| sealed[*member].is_string()) {
                body[member] = sealed[member].clone();
            }
            let opened = person.call("/v1/transit/open", &body).await;
            assert_eq!(opened["plaintext"], sealed["plaintext"], "{from}: {kind:?}: {opened}");
            assert!(opened["key_version"].as_str().unwrap().ends_with(&format!("/{}", sealed["version"])), "{opened}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_servers_made_comes_over_with_its_versions_and_opens() {
    let person = Person::start().await;
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let made = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            let from = path.file_stem().unwrap().to_str().unwrap().replace('.', "-");
            comes_over(&person, &from, &made).await;
        }
    }
    let Some(server) = Server::named() else { return };
    let made = server.made().await;
    comes_over(&person, "named", &made).await;
    // Kept, where somebody says what product it is.
    if let (Some(_), Ok(product)) = (env::var_os("FREEHOLD_BLESS"), env::var("FREEHOLD_TEST_BAO_PRODUCT")) {
        let file = folder().join(format!("{product}-{}.json", made["version"].as_str().unwrap()));
        if !file.exists() {
            fs::write(file, format!("{}\n", serde_json::to_string_pretty(&made).unwrap())).unwrap();
        }
    }
}
