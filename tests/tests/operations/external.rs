//! A partner's public key, from the command line through the control plane to an agent, and back to the partner.

use std::process::Command;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use clap::Parser as _;
use ed25519_dalek::{Signer as _, SigningKey};
use schema::encoding::from_base64url;

use super::super::*;

/// A control plane with an agent at work, whose caller may do anything.
struct System {
    world: World,
    plane: RunningControlPlane,
    agent: RunningAgent,
    token: String,
}

impl System {
    async fn start() -> Self {
        let world = World::new();
        let plane = world.control_plane().await;
        let operator = fs::read_to_string(plane.operator_token_file()).unwrap().trim().to_owned();
        let made = world.mutate(&plane, &operator, "createTenant", json!({ "name": "acme" }), "adminToken").await;
        let admin = made["adminToken"].as_str().unwrap().to_owned();
        secret_file(&world.path("admin.token"), admin.as_bytes());
        world.mutate(&plane, &admin, "createProject", json!({ "name": "payments" }), "project { id }").await;
        world.mutate(&plane, &admin, "createSite", json!({ "name": "fra" }), "site { id }").await;
        let invited = world.mutate(&plane, &admin, "inviteAgent", json!({ "site": "fra" }), "enrolment").await;
        world.enrol(&serde_json::from_str(invited["enrolment"].as_str().unwrap()).unwrap()).await.unwrap();
        let caller = json!({ "project": "payments", "name": "app", "kind": "TOKEN", "issuer": "fra" });
        let caller = world.mutate(&plane, &admin, "registerCaller", caller, "caller { id }").await;
        let caller = caller["caller"]["id"].as_str().unwrap().parse().unwrap();
        let token = tokens::add(&world.agent_config(&[]).callers_file(), caller, &SystemClock, &SystemIds).unwrap().reveal().to_owned();
        world.mutate(&plane, &admin, "createPolicy", json!({ "name": "main", "project": "payments" }), "policy { id }").await;
        let cedar =
            "permit (principal, action, resource) when { resource.hasTag(\"partner\") && resource.getTag(\"partner\") == \"bank\" };";
        let draft = json!({ "policy": "payments/main", "content": { "cedar": cedar } });
        world.mutate(&plane, &admin, "savePolicyDraft", draft, "policy { id }").await;
        world.mutate(&plane, &admin, "publishPolicy", json!({ "policy": "payments/main" }), "policy { id }").await;
        let agent = world.agent(Arc::new(SystemClock)).await;
        Self { world, plane, agent, token }
    }

    /// Runs `freehold …`; gives the code of its error.
    async fn freehold(&self, arguments: &[&str]) -> Result<(), (String, String)> {
        let server = self.plane.graphql_url().trim_end_matches("/graphql").to_owned();
        let (token, config) = (self.world.path("admin.token"), self.world.path("cli.toml"));
        let first = ["freehold", "--server", &server, "--token-file", token.to_str().unwrap(), "--config", config.to_str().unwrap()];
        let command = cli::args::Cli::try_parse_from(first.iter().chain(arguments)).unwrap();
        cli::run(command).await.map_err(|error| (error.code, error.message))
    }

    async fn register(&self, name: &str, algorithm: &str, public_key: &str) -> Result<(), (String, String)> {
        let file = self.file(public_key);
        let arguments = ["key", "register-external", name, "--project", "payments", "--algorithm", algorithm, "--site", "fra"];
        self.freehold(&[&arguments[..], &["--label", "partner=bank", "--public-key", &file]].concat()).await
    }

    async fn renew(&self, key: &str, public_key: &str) -> Result<(), (String, String)> {
        let file = self.file(public_key);
        self.freehold(&["key", "register-external-version", key, "--public-key", &file]).await
    }

    fn file(&self, text: &str) -> String {
        let path = self.world.path("partner.pub");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    async fn until_allowed(&self, path: &str, body: Value) -> Value {
        self.world.until_allowed(&self.agent, path, &self.token, body).await
    }

    async fn code(&self, path: &str, body: Value) -> String {
        let (status, answer) = self.world.call(&self.agent, path, &self.token, body).await;
        assert_ne!(status, 200, "{answer}");
        answer["code"].as_str().unwrap().to_owned()
    }

    /// Asks until the answer has this code, or this in it.
    async fn until(&self, path: &str, body: Value, is_so: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let (_, answer) = self.world.call(&self.agent, path, &self.token, body.clone()).await;
            if is_so(&answer) {
                return answer;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{path}: {answer}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn stop(self) {
        self.agent.stop().await.unwrap();
        self.plane.stop().await;
    }
}

fn openssl(world: &World, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments).current_dir(world.folder.path()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn data_is_sealed_to_a_partner_who_alone_can_open_it() {
    let system = System::start().await;
    openssl(&system.world, &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072", "-out", "partner.key"]);
    let public = String::from_utf8(openssl(&system.world, &["pkey", "-in", "partner.key", "-pubout"])).unwrap();
    let private = fs::read_to_string(system.world.path("partner.key")).unwrap();
    let (code, message) = system.register("bank", "RSA-OAEP-256-3072", &private).await.unwrap_err();
    assert!(code == "usage" && message.contains("nothing was sent"), "{code}: {message}");
    for (algorithm, expected) in [
        ("RSA-OAEP-256-4096", "invalid_public_key"),
        ("RSA-PSS-9000", "invalid_input"),
        ("A256KW+A256GCM", "invalid_public_key"),
        ("HPKE-9-KE", "invalid_public_key"),
    ] {
        assert_eq!(system.register("bank", algorithm, &public).await.unwrap_err().0, expected, "{algorithm}");
    }
    system.register("bank", "RSA-OAEP-256-3072", &public).await.unwrap();
    assert_eq!(system.register("bank", "RSA-OAEP-256-3072", &public).await.unwrap_err().0, "key_exists");
    system.freehold(&["key", "show", "payments/bank"]).await.unwrap();
    assert_eq!(system.freehold(&["key", "rotate", "payments/bank"]).await.unwrap_err().0, "key_is_external");

    // The partner opens with a program that is not ours.
    let body = json!({ "key": "payments/bank", "plaintext": base64url(b"10 EUR"), "context": { "deal": "7" } });
    let sealed = system.until_allowed("/v1/encrypt", body.clone()).await;
    assert_eq!(opened_by_partner(&system.world, sealed["message"].as_str().unwrap()), b"10 EUR");

    // We cannot.
    let decrypt = json!({ "message": sealed["message"], "context": { "deal": "7" } });
    assert_eq!(system.code("/v1/decrypt", decrypt).await, "external_key");
    assert_eq!(system.code("/v1/rewrap", json!({ "message": sealed["message"], "context": { "deal": "7" } })).await, "external_key");

    // The public half is there for others too, and is the partner's.
    let url = format!("http://{}/v1/keys/payments/bank/public?format=pem", system.agent.address);
    let pem = system.world.http.get(url).bearer_auth(&system.token).send().await.unwrap().text().await.unwrap();
    assert_eq!(pem.trim(), public.trim());

    system.freehold(&["key", "suspend-all", "payments/bank"]).await.unwrap();
    system.until("/v1/encrypt", body.clone(), |answer| answer["code"] == "version_state").await;
    system.freehold(&["key", "resume-all", "payments/bank"]).await.unwrap();
    system.until_allowed("/v1/encrypt", body.clone()).await;
    let version = sealed["key_version"].as_str().unwrap();
    system.freehold(&["key", "revoke", version, "--reason", "keyCompromise"]).await.unwrap();
    system.until("/v1/encrypt", body, |answer| answer["code"] == "version_state").await;
    system.stop().await;
}

/// OpenSSL unwraps the content key; the rest of the JWE is AES-GCM.
fn opened_by_partner(world: &World, message: &str) -> Vec<u8> {
    let parts: Vec<&str> = message.split('.').collect();
    let bytes = |part: usize| from_base64url(parts[part]).unwrap();
    fs::write(world.path("wrapped"), bytes(1)).unwrap();
    let oaep = ["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256", "-pkeyopt", "rsa_mgf1_md:sha256"];
    let unwrap = ["pkeyutl", "-decrypt", "-inkey", "partner.key", "-in", "wrapped"];
    let key = openssl(world, &[&unwrap[..], &oaep].concat());
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
    let mut sealed = [bytes(3), bytes(4)].concat();
    let nonce = Nonce::try_assume_unique_for_key(&bytes(2)).unwrap();
    key.open_in_place(nonce, Aad::from(parts[0].as_bytes()), &mut sealed).unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_partner_signed_is_verified_and_a_new_key_of_theirs_is_a_new_version() {
    let system = System::start().await;
    let partners: Vec<SigningKey> = [[7; 32], [8; 32]].iter().map(SigningKey::from_bytes).collect();
    let jwk = |place: usize| {
        let x = base64url(partners[place].verifying_key().as_bytes());
        json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "theirs", "x": x }).to_string()
    };
    system.register("signer", "Ed25519", &jwk(0)).await.unwrap();
    let signed = |place: usize| {
        let text = format!("{}.{}", base64url(br#"{"alg":"EdDSA"}"#), base64url(b"a contract"));
        format!("{text}.{}", base64url(&partners[place].sign(text.as_bytes()).to_bytes()))
    };
    let verify = |place: usize, key: &str| json!({ "signature": signed(place), "key": key });
    let answer = system.until_allowed("/v1/verify", verify(0, "payments/signer")).await;
    assert_eq!((&answer["valid"], &answer["payload"]), (&json!(true), &json!(base64url(b"a contract"))), "{answer}");
    let first = answer["key_version"].as_str().unwrap().to_owned();
    let other = system.until_allowed("/v1/verify", verify(1, "payments/signer")).await;
    assert_eq!((&other["valid"], &other["reason"]), (&json!(false), &json!("not_genuine")));
    let sign = json!({ "key": "payments/signer", "payload": base64url(b"a contract") });
    assert_eq!(system.code("/v1/sign", sign).await, "external_key");

    system.renew("payments/signer", &jwk(1)).await.unwrap();
    system.renew("payments/signer", &jwk(1)).await.unwrap();
    assert_eq!(system.renew("payments/signer", &jwk(0)).await.unwrap_err().0, "public_key_already_registered");
    let answer = system.until("/v1/verify", verify(1, "payments/signer"), |answer| answer["valid"] == true).await;
    assert!(answer["key_version"].as_str().unwrap().ends_with("/2"), "{answer}");
    let old = system.until_allowed("/v1/verify", verify(0, &first)).await;
    assert_eq!((&old["valid"], &old["key_version"]), (&json!(true), &json!(first)));
    system.stop().await;
}
