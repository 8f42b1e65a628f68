//! Old formats in: what OpenSSL's command line sealed and signed as CMS a moment ago, opened and verified over HTTP; whole, damaged, and where
//! policy does not allow what is weak.

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use clap::Parser as _;
use cli::error::Exit;
use schema::{
    id::KeyId,
    key::{Durability, Operation, Origin, Purpose},
    public_key,
    wire::agent::ReceiptBody,
};
use trust::statement::{
    policy::{EXTERNAL_KEYS, ExternalVersion},
    state::VersionEntry,
};

use super::{super::*, receipts::Receipts};

const CONTENT: &[u8] = b"what an old program protected\r\n";
const OAEP: [&str; 4] = ["-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256"];
const ECDH: [&str; 2] = ["-keyopt", "ecdh_kdf_md:sha256"];

/// A site with keys that old programs encrypt to, keys of partners who sign, and a folder in which OpenSSL works.
struct Old {
    site: Site,
    folder: tempfile::TempDir,
}

impl Old {
    async fn start() -> Self {
        let mut site = Site::start().await;
        let folder = tempfile::tempdir().unwrap();
        let old = |arguments: &[&str]| openssl(folder.path(), arguments);
        std::fs::write(folder.path().join("content"), CONTENT).unwrap();
        old(&["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority"]);
        for (number, name, algorithm) in [(80, "rsa", "RSA-OAEP-256-3072"), (81, "ec", "ECDH-ES-P256"), (82, "p384", "ECDH-ES-P384")] {
            site.define(KeyId::from_bits(number), name, algorithm, Purpose::Encrypt).await;
        }
        for (number, name, algorithm, made) in [
            (90, "rsa-signer", "RSA-PSS-3072", ["RSA", "rsa_keygen_bits:3072"]),
            (91, "ec-signer", "ECDSA-P256", ["EC", "ec_paramgen_curve:P-256"]),
        ] {
            let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
            old(&["genpkey", "-algorithm", made[0], "-pkeyopt", made[1], "-out", &key]);
            let request = ["req", "-new", "-key", &key, "-subj", "/CN=signer", "-out", "request"];
            old(&request);
            old(&["x509", "-req", "-in", "request", "-CA", "ca.crt", "-CAkey", "ca.key", "-out", &certificate]);
            let pem = String::from_utf8(old(&["pkey", "-in", &key, "-pubout"])).unwrap();
            partner(&mut site, KeyId::from_bits(number), name, algorithm, &pem);
        }
        site.world.project_policy().head.requires.push(EXTERNAL_KEYS.to_owned());
        // Who allows actions by name allows nothing that is weak.
        let modern = format!(
            "permit (principal == Caller::\"{AUDITOR}\", action in [Action::\"decrypt\", Action::\"re-encrypt\", Action::\"encrypt\", \
             Action::\"verify\", Action::\"re-sign\", Action::\"sign\"], resource);"
        );
        site.world.project_policy().cedar.insert("pol_test/1".to_owned(), modern);
        site.publish();
        let it = Self { site, folder };
        for name in ["rsa", "ec", "p384"] {
            let url = format!("http://{}/v1/keys/payments/{name}/public?format=pem", it.site.agent().address);
            let pem = it.site.http.get(url).bearer_auth(&it.site.billing).send().await.unwrap().text().await.unwrap();
            std::fs::write(it.path(&format!("{name}.pem")), pem).unwrap();
            // A certificate for a key whose private half is in the vault.
            let (public, certificate) = (format!("{name}.pem"), format!("{name}.crt"));
            let issuer = ["-CA", "ca.crt", "-CAkey", "ca.key"];
            it.openssl(
                &[&["x509", "-new", "-force_pubkey", &public, "-subj", "/CN=agent", "-out", &certificate][..], &issuer[..]].concat(),
            );
        }
        it
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn openssl(&self, arguments: &[&str]) -> Vec<u8> {
        openssl(self.folder.path(), arguments)
    }

    /// Seals the content as these arguments of `openssl cms -encrypt` say.
    fn seal(&self, arguments: &[&str]) -> Vec<u8> {
        self.openssl(&[&["cms", "-encrypt", "-binary", "-in", "content", "-outform", "DER", "-out", "message"][..], arguments].concat());
        std::fs::read(self.path("message")).unwrap()
    }

    /// Signs the content as this signer and these arguments of `openssl cms -sign` say.
    fn sign(&self, signer: &str, arguments: &[&str]) -> Vec<u8> {
        let (certificate, key) = (format!("{signer}.crt"), format!("{signer}.key"));
        let first =
            ["cms", "-sign", "-binary", "-in", "content", "-outform", "DER", "-out", "message", "-signer", &certificate, "-inkey", &key];
        self.openssl(&[&first[..], arguments].concat());
        std::fs::read(self.path("message")).unwrap()
    }

    async fn open(&self, token: &str, key: &str, message: &[u8]) -> (u16, Value) {
        self.ask("/v1/cms/open", token, json!({ "message": base64url(message), "key": format!("payments/{key}") })).await
    }

    async fn verify(&self, token: &str, key: &str, message: &[u8], content: Option<&[u8]>) -> (u16, Value) {
        let mut body = json!({ "message": base64url(message), "key": format!("payments/{key}") });
        if let Some(content) = content {
            body["content"] = base64url(content).into();
        }
        self.ask("/v1/cms/verify", token, body).await
    }

    async fn ask(&self, path: &str, token: &str, body: Value) -> (u16, Value) {
        let (status, answer) = self.site.call(path, token, body).await;
        (status.as_u16(), answer)
    }
}

fn openssl(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().expect("OpenSSL; make setup-test installs it");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A key to verify with whose private half a partner has.
fn partner(site: &mut Site, key: KeyId, name: &str, algorithm: &str, pem: &str) {
    let algorithm = algorithm.parse().unwrap();
    let public_key = public_key::from_pem(algorithm, pem).unwrap();
    let mut defined = definition();
    (defined.name, defined.algorithm, defined.purpose) = (name.parse().unwrap(), algorithm, Purpose::Sign);
    (defined.durability, defined.origin) = (Durability::Elsewhere, Origin::External);
    let fingerprint = schema::key::fingerprint(algorithm, &public_key);
    defined.external = vec![ExternalVersion { public_key: public_key.into(), fingerprint }];
    site.world.project_policy().keys.insert(key, defined);
    let entry = VersionEntry {
        state: VersionState::Active,
        created: START,
        activated: Some(START),
        generator: None,
        record: None,
        ready: Default::default(),
        backup: None,
    };
    site.world.state.keys.insert(key, KeyState { primary: 1, versions: [(1, entry)].into() });
}

fn warns(answer: &Value) -> bool {
    answer["warnings"].as_array().is_some_and(|warnings| warnings.iter().any(|warning| warning["code"] == "algorithm_legacy"))
}

fn code(answer: &Value) -> &str {
    answer["code"].as_str().unwrap_or_else(|| panic!("{answer}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_openssl_sealed_is_opened_and_weakness_needs_a_right_of_its_own() {
    let old = Old::start().await;
    let (billing, modern) = (&old.site.billing, &old.site.auditor);
    let oaep_of = |hash: &'static str| ["-keyopt", "rsa_padding_mode:oaep", "-keyopt", hash];
    let cases: [(&str, &str, Vec<&str>); 11] = [
        ("rsa", "", [&["-aes-256-gcm", "-recip", "rsa.crt"][..], &OAEP[..]].concat()),
        ("rsa", "", [&["-aes-128-gcm", "-recip", "rsa.crt"][..], &OAEP[..]].concat()),
        ("rsa", "SHA-1", [&["-aes-256-gcm", "-recip", "rsa.crt"][..], &oaep_of("rsa_oaep_md:sha1")[..]].concat()),
        ("rsa", "PKCS1-v1_5", vec!["-aes-256-gcm", "-recip", "rsa.crt"]),
        ("rsa", "AES-CBC", [&["-aes-256-cbc", "-recip", "rsa.crt"][..], &OAEP[..]].concat()),
        ("rsa", "PKCS1-v1_5, and AES-CBC", vec!["-aes-128-cbc", "-stream", "-recip", "rsa.crt"]),
        ("ec", "", [&["-aes-256-gcm", "-recip", "ec.crt"][..], &ECDH[..]].concat()),
        ("p384", "", vec!["-aes-128-gcm", "-recip", "p384.crt", "-keyopt", "ecdh_kdf_md:sha384"]),
        ("ec", "SHA-1", vec!["-aes-256-gcm", "-recip", "ec.crt"]),
        ("ec", "AES-CBC", [&["-aes-128-cbc", "-stream", "-recip", "ec.crt"][..], &ECDH[..]].concat()),
        ("p384", "SHA-1, and AES-CBC", vec!["-aes-256-cbc", "-recip", "p384.crt"]),
    ];
    for (key, weak, arguments) in &cases {
        let message = old.seal(arguments);
        let (status, opened) = old.open(billing, key, &message).await;
        assert_eq!((status, opened["plaintext"].as_str()), (200, Some(base64url(CONTENT).as_str())), "{arguments:?}: {opened}");
        assert_eq!(warns(&opened), !weak.is_empty(), "{arguments:?}: {opened}");
        let (status, answer) = old.open(modern, key, &message).await;
        if weak.is_empty() {
            assert_eq!(status, 200, "{arguments:?}: {answer}");
        } else {
            assert!(opened["warnings"].to_string().contains(weak), "{weak}: {opened}");
            assert_eq!((status, code(&answer)), (403, "not_allowed_by_policy"), "{arguments:?}: {answer}");
        }
        // Sealed again, nobody sees it; the new message is an ordinary one.
        let body = json!({ "message": base64url(&message), "key": format!("payments/{key}"), "seal_with": "payments/card-data", "context": { "a": "1" } });
        let (status, moved) = old.ask("/v1/cms/open", billing, body).await;
        assert_eq!((status, moved.get("plaintext")), (200, None), "{moved}");
        let decrypt = json!({ "message": moved["message"], "context": { "a": "1" } });
        assert_eq!(old.ask("/v1/decrypt", billing, decrypt).await.1["plaintext"], base64url(CONTENT));
    }

    // A guard rail holds against whoever allows everything, and only against what is weak.
    let forbid = "forbid (principal, action in [Action::\"decrypt-legacy\", Action::\"verify-legacy\"], resource);";
    let mut old = old;
    old.site.world.project_policy().cedar.insert("pol_test/3".to_owned(), forbid.to_owned());
    old.site.republish();
    let billing = &old.site.billing;
    for (key, weak, arguments) in &cases {
        let (status, answer) = old.open(billing, key, &old.seal(arguments)).await;
        if weak.is_empty() {
            assert_eq!(status, 200, "{answer}");
        } else {
            assert_eq!((status, code(&answer)), (403, "forbidden_by_policy"), "{answer}");
            assert_eq!(answer["facts"]["policies"], json!(["pol_test/3"]));
        }
    }
    let weak_signature = old.sign("rsa-signer", &["-nodetach"]);
    let (status, answer) = old.verify(billing, "rsa-signer", &weak_signature, None).await;
    assert_eq!((status, code(&answer)), (403, "forbidden_by_policy"), "{answer}");

    // Receipts name the operation that was decided.
    let directory = old.site.config.journal_directory();
    old.site.stop().await;
    let operations: BTreeSet<Operation> = Receipts::read(&directory)
        .all
        .iter()
        .filter_map(|receipt| if let ReceiptBody::Intent(intent) = &receipt.body { Some(intent.operation) } else { None })
        .collect();
    for operation in [Operation::Decrypt, Operation::DecryptLegacy, Operation::ReEncrypt, Operation::Encrypt] {
        assert!(operations.contains(&operation), "{operation}: {operations:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_opened_is_refused_by_name() {
    let old = Old::start().await;
    let billing = &old.site.billing;
    let message = old.seal(&[&["-aes-256-gcm", "-recip", "rsa.crt"][..], &OAEP[..]].concat());
    let agreed = old.seal(&[&["-aes-256-gcm", "-recip", "ec.crt"][..], &ECDH[..]].concat());

    // Damage.
    for (whole, key) in [(&message, "rsa"), (&agreed, "ec")] {
        for place in [whole.len() - 1, whole.len() - 20] {
            let mut flipped = whole.clone();
            flipped[place] ^= 1;
            let (status, answer) = old.open(billing, key, &flipped).await;
            assert_eq!((status, code(&answer)), (400, "not_genuine"), "byte {place}: {answer}");
        }
        for length in [0, 1, 20, whole.len() / 2, whole.len() - 1] {
            let (status, answer) = old.open(billing, key, &whole[..length]).await;
            assert_eq!((status, code(&answer)), (400, "malformed"), "{length} bytes: {answer}");
        }
    }
    // Somebody else's, and another kind of key.
    let foreign = old.seal(&[&["-aes-256-gcm", "-recip", "ca.crt"][..], &OAEP[..]].concat());
    assert_eq!(code(&old.open(billing, "rsa", &foreign).await.1), "not_genuine");
    let foreign = old.seal(&["-aes-256-gcm", "-recip", "ca.crt"]);
    assert_eq!(code(&old.open(billing, "rsa", &foreign).await.1), "not_genuine", "a wrong guess at PKCS#1 padding looks like a wrong tag");
    let foreign = old.seal(&[&["-aes-256-gcm", "-recip", "ec-signer.crt"][..], &ECDH[..]].concat());
    assert_eq!(code(&old.open(billing, "ec", &foreign).await.1), "not_genuine");
    assert_eq!(code(&old.open(billing, "p384", &agreed).await.1), "not_genuine", "a point of another curve");
    assert_eq!(code(&old.open(billing, "ec", &message).await.1), "operation_not_served");
    assert_eq!(code(&old.open(billing, "rsa", &agreed).await.1), "operation_not_served");
    assert_eq!(code(&old.open(billing, "card-data", &message).await.1), "operation_not_served");
    assert_eq!(code(&old.open(billing, "documents", &message).await.1), "wrong_purpose");
    assert_eq!(code(&old.open(billing, "none", &message).await.1), "key_not_found");

    // What is not known.
    for (arguments, said) in [
        (vec!["-des3", "-recip", "rsa.crt"], "1.2.840.113549.3.7"),
        (vec!["-aes-128-cbc", "-pwri_password", "secret"], "without a public key"),
        (vec!["-aes-128-cbc", "-secretkey", "000102030405060708090a0b0c0d0e0f", "-secretkeyid", "01"], "without a public key"),
        ([&["-aes-192-gcm", "-aes192-wrap", "-recip", "ec.crt"][..], &ECDH[..]].concat(), "2.16.840.1.101.3.4.1.25"),
    ] {
        let (status, answer) = old.open(billing, "rsa", &old.seal(&arguments)).await;
        assert_eq!((status, code(&answer)), (400, "not_understood"), "{arguments:?}: {answer}");
        assert!(answer["detail"].as_str().unwrap().contains(said), "{answer}");
    }
    old.openssl(&["cms", "-digest_create", "-binary", "-in", "content", "-outform", "DER", "-out", "message"]);
    let digested = std::fs::read(old.path("message")).unwrap();
    for other in [digested, old.sign("ec-signer", &["-nodetach"])] {
        assert_eq!(code(&old.open(billing, "rsa", &other).await.1), "malformed");
    }

    // Several recipients: the one that is named counts.
    let two = old.seal(&[&["-aes-256-gcm", "-recip", "rsa.crt"][..], &OAEP, &["-recip", "ec.crt"], &ECDH].concat());
    assert_eq!(code(&old.open(billing, "rsa", &two).await.1), "malformed");
    let at = |place: usize, key: &str| {
        let body = json!({ "message": base64url(&two), "key": format!("payments/{key}"), "recipient": place });
        old.ask("/v1/cms/open", billing, body)
    };
    let of_rsa = if at(0, "rsa").await.0 == 200 { 0 } else { 1 };
    for (place, key) in [(of_rsa, "rsa"), (1 - of_rsa, "ec")] {
        assert_eq!(at(place, key).await.1["plaintext"], base64url(CONTENT));
    }
    assert_eq!(code(&at(2, "rsa").await.1), "malformed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_openssl_signed_is_verified_and_signed_anew() {
    let old = Old::start().await;
    let (billing, modern) = (&old.site.billing, &old.site.auditor);
    let pss = ["-keyopt", "rsa_padding_mode:pss"];
    let cases: [(&str, &str, Vec<&str>); 8] = [
        ("rsa-signer", "", [&["-md", "sha256", "-nodetach"][..], &pss[..]].concat()),
        ("rsa-signer", "", [&["-md", "sha512", "-nodetach", "-certfile", "ca.crt"][..], &pss[..]].concat()),
        ("rsa-signer", "", [&["-md", "sha256", "-noattr"][..], &pss[..]].concat()),
        ("rsa-signer", "PKCS1-v1_5", vec!["-md", "sha256", "-nodetach"]),
        ("rsa-signer", "SHA-1", vec!["-md", "sha1"]),
        ("ec-signer", "", vec!["-md", "sha256", "-nodetach", "-certfile", "ca.crt", "-stream"]),
        ("ec-signer", "", vec!["-md", "sha384"]),
        ("ec-signer", "SHA-1", vec!["-md", "sha1", "-nodetach"]),
    ];
    for (key, weak, arguments) in &cases {
        let message = old.sign(key, arguments);
        let attached = arguments.contains(&"-nodetach");
        let content = (!attached).then_some(CONTENT);
        let (status, verified) = old.verify(billing, key, &message, content).await;
        assert_eq!((status, &verified["valid"]), (200, &json!(true)), "{arguments:?}: {verified}");
        assert_eq!(verified["payload"].as_str(), attached.then_some(base64url(CONTENT)).as_deref());
        assert_eq!(warns(&verified), !weak.is_empty(), "{arguments:?}: {verified}");
        assert!(verified["warnings"].to_string().contains(weak), "{weak}: {verified}");
        let (status, answer) = old.verify(modern, key, &message, content).await;
        match weak.is_empty() {
            true => assert_eq!(status, 200, "{answer}"),
            false => assert_eq!((status, code(&answer)), (403, "not_allowed_by_policy"), "{arguments:?}: {answer}"),
        }
        // Another key did not make it, and the other content was not signed.
        let other = if *key == "rsa-signer" { "ec-signer" } else { "rsa-signer" };
        assert_eq!(code(&old.verify(billing, other, &message, content).await.1), "other_algorithm");
        match content {
            Some(_) => {
                let (_, answer) = old.verify(billing, key, &message, Some(b"something else")).await;
                assert_eq!((&answer["valid"], &answer["reason"]), (&json!(false), &json!("not_genuine")));
                assert_eq!(code(&old.verify(billing, key, &message, None).await.1), "malformed");
            }
            None => {
                let place = message.windows(CONTENT.len()).position(|bytes| bytes == CONTENT).expect("the content in clear");
                let mut flipped = message.clone();
                flipped[place] ^= 1;
                let (_, answer) = old.verify(billing, key, &flipped, None).await;
                assert_eq!((&answer["valid"], answer.get("payload")), (&json!(false), None), "{answer}");
                assert_eq!(code(&old.verify(billing, key, &message, Some(CONTENT)).await.1), "malformed");
            }
        }
        let (_, answer) = old.verify(billing, key, &message[..message.len() - 7], content).await;
        assert_eq!(code(&answer), "malformed");

        // Signed anew it is an ordinary signature; what is not genuine is not signed.
        let anew = |content: Option<&[u8]>| {
            let key = format!("payments/{key}");
            json!({ "message": base64url(&message), "key": key, "content": content.map(base64url), "sign_with": "payments/documents" })
        };
        let (status, signed) = old.ask("/v1/cms/verify", billing, anew(content)).await;
        assert_eq!(status, 200, "{signed}");
        let (_, verified) = old.ask("/v1/verify", billing, json!({ "signature": signed["signature"], "key": "payments/documents" })).await;
        assert_eq!((&verified["valid"], verified["payload"].as_str()), (&json!(true), Some(base64url(CONTENT).as_str())), "{verified}");
        if content.is_some() {
            let (_, refused) = old.ask("/v1/cms/verify", billing, anew(Some(b"something else"))).await;
            assert_eq!((&refused["valid"], refused.get("signature")), (&json!(false), None), "{refused}");
        }
    }

    // Signed and then sealed: opened, then verified.
    let signed = old.sign("ec-signer", &["-md", "sha256", "-nodetach"]);
    std::fs::write(old.path("signed"), &signed).unwrap();
    let seal = ["cms", "-encrypt", "-binary", "-in", "signed", "-outform", "DER", "-out", "message", "-aes-256-gcm", "-recip", "ec.crt"];
    old.openssl(&[&seal[..], &ECDH].concat());
    let (status, opened) = old.open(modern, "ec", &std::fs::read(old.path("message")).unwrap()).await;
    assert_eq!(status, 200, "{opened}");
    let inner = from_base64url(opened["plaintext"].as_str().unwrap()).unwrap();
    assert_eq!(old.verify(modern, "ec-signer", &inner, None).await.1["payload"], base64url(CONTENT));

    // Of two signatures the one that is named counts.
    let two = old.sign("ec-signer", &["-md", "sha256", "-nodetach", "-signer", "rsa-signer.crt", "-inkey", "rsa-signer.key"]);
    assert_eq!(code(&old.verify(billing, "ec-signer", &two, None).await.1), "malformed");
    let mut valid = 0;
    for signer in [0, 1] {
        let body = json!({ "message": base64url(&two), "key": "payments/ec-signer", "signer": signer });
        valid += usize::from(old.ask("/v1/cms/verify", billing, body).await.1["valid"] == true);
    }
    assert_eq!(valid, 1);
    let sealed = old.seal(&["-aes-256-gcm", "-recip", "rsa.crt"]);
    assert_eq!(code(&old.verify(billing, "ec-signer", &sealed, None).await.1), "malformed");
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_a_batch_are_decided_one_by_one() {
    let old = Old::start().await;
    let (billing, modern) = (&old.site.billing, &old.site.auditor);
    let (strong, weak) =
        (old.seal(&[&["-aes-256-gcm", "-recip", "rsa.crt"][..], &OAEP[..]].concat()), old.seal(&["-aes-256-gcm", "-recip", "rsa.crt"]));
    let mut flipped = strong.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let item = |message: &[u8]| json!({ "message": base64url(message), "key": "payments/rsa" });
    let items = json!({ "items": [item(&strong), item(&weak), item(&flipped), item(b"junk"), item(&strong)] });
    let statuses =
        |answer: &Value| answer["items"].as_array().unwrap().iter().map(|item| item["status"].as_u64().unwrap()).collect::<Vec<_>>();
    let (status, answer) = old.ask("/v1/batch/cms/open", modern, items.clone()).await;
    assert_eq!((status, statuses(&answer)), (200, vec![200, 403, 400, 400, 200]), "{answer}");
    assert_eq!((&answer["succeeded"], &answer["failed"]), (&json!(2), &json!(3)));
    let (_, answer) = old.ask("/v1/batch/cms/open", billing, items).await;
    assert_eq!(statuses(&answer), [200, 200, 400, 400, 200]);
    assert!(warns(&answer["items"][1]["answer"]) && !warns(&answer["items"][0]["answer"]), "{answer}");

    let (strong, weak) = (old.sign("ec-signer", &["-md", "sha256", "-nodetach"]), old.sign("ec-signer", &["-md", "sha1", "-nodetach"]));
    let item = |message: &[u8], key: &str| json!({ "message": base64url(message), "key": format!("payments/{key}"), "sign_with": "payments/documents" });
    let items = json!({ "items": [item(&strong, "ec-signer"), item(&weak, "ec-signer"), item(&strong, "none"), item(b"", "ec-signer")] });
    let (status, answer) = old.ask("/v1/batch/cms/verify", modern, items).await;
    assert_eq!((status, statuses(&answer)), (200, vec![200, 403, 404, 400]), "{answer}");
    assert!(answer["items"][0]["answer"]["signature"].is_string(), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_formats_go_through_the_command_line() {
    let old = Old::start().await;
    let token = old.path("token");
    std::fs::write(&token, &old.site.billing).unwrap();
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let run = async |arguments: &[&str]| {
        let (url, config) = (format!("http://{}", old.site.agent().address), old.path("config.toml"));
        let files = [token.to_str().unwrap(), config.to_str().unwrap()];
        let first = ["freehold", "--agent", &url, "--caller-token-file", files[0], "--config", files[1], "cms"];
        let command =
            cli::args::Cli::try_parse_from(first.iter().chain(arguments)).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        cli::run(command).await
    };
    let file = |name: &str| old.path(name).display().to_string();
    old.seal(&["-aes-128-cbc", "-recip", "rsa.crt"]);
    let (message, out) = (file("message"), file("opened"));
    run(&["open", "--key", "payments/rsa", "--out", &out, &message]).await.unwrap();
    assert_eq!(std::fs::read(&out).unwrap(), CONTENT);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&out).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(run(&["open", "--key", "payments/rsa", "--out", &out, &message]).await.unwrap_err().exit, Exit::Usage, "it exists");
    run(&["open", "--key", "payments/rsa", "--seal-with", "payments/card-data", "--context", "a=1", &message]).await.unwrap();
    // PEM as well.
    old.openssl(&["cms", "-cmsout", "-inform", "DER", "-in", "message", "-outform", "PEM", "-out", "message.pem"]);
    run(&["open", "--key", "payments/rsa", "--recipient", "0", "--out", &file("again"), &file("message.pem")]).await.unwrap();
    assert_eq!(std::fs::read(file("again")).unwrap(), CONTENT);

    old.sign("ec-signer", &["-md", "sha256", "-nodetach"]);
    run(&["verify", "--key", "payments/ec-signer", "--out", &file("payload"), &message]).await.unwrap();
    assert_eq!(std::fs::read(file("payload")).unwrap(), CONTENT);
    old.sign("ec-signer", &["-md", "sha256"]);
    let (content, token) = (file("content"), file("token"));
    run(&["verify", "--key", "payments/ec-signer", "--content", &content, "--sign-with", "payments/documents", &message]).await.unwrap();
    let error = run(&["verify", "--key", "payments/ec-signer", "--content", &token, &message]).await.unwrap_err();
    assert_eq!((error.exit, error.code.as_str()), (Exit::Unverified, "signature_invalid"));
    let error = run(&["open", "--key", "payments/rsa", &content]).await.unwrap_err();
    assert_eq!(error.code, "malformed");
}
