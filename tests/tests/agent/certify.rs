//! Requests for certificates, and certificates for development, of keys in the vault: judged by OpenSSL's command line. (Post-quantum ones are judged by
//! Python's `cryptography`: `tests/tests/interop`.)

use std::process::Command;

use schema::{id::KeyId, wire::agent::ReceiptBody};

use super::{super::*, receipts::Receipts};

const KEYS: [(u128, &str, &str); 6] = [
    (320, "p256", "ECDSA-P256"),
    (321, "p384", "ECDSA-P384"),
    (322, "ed25519", "Ed25519"),
    (323, "rsa", "RSA-PSS-3072"),
    (324, "rsa-large", "RSA-PSS-4096"),
    (325, "lattice", "ML-DSA-65"),
];

struct Certified {
    site: Site,
    folder: tempfile::TempDir,
}

impl Certified {
    async fn start() -> Self {
        let mut site = Site::start().await;
        for (number, name, algorithm) in KEYS {
            site.define(KeyId::from_bits(number), name, algorithm, Purpose::Sign).await;
        }
        site.publish();
        Self { site, folder: tempfile::tempdir().unwrap() }
    }

    /// What OpenSSL says, and whether it was content.
    fn openssl(&self, arguments: &[&str]) -> (bool, String) {
        let output =
            Command::new("openssl").args(arguments).current_dir(self.folder.path()).output().expect("OpenSSL; make setup-test installs it");
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    async fn certify(&self, body: Value) -> (u16, Value) {
        let (status, answer) = self.site.call("/v1/certify", &self.site.billing, body).await;
        (status.as_u16(), answer)
    }
}

fn names(key: &str, kind: &str) -> Value {
    json!({
        "key": format!("payments/{key}"), "kind": kind, "subject": "CN=pay.example,O=Example",
        "dns": ["pay.example", "*.pay.example"], "ip": ["192.0.2.7", "2001:db8::7"], "email": ["ops@pay.example"], "uri": ["spiffe://pay.example/tls"],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_verifies_requests_and_certificates_and_finds_every_name() {
    let it = Certified::start().await;
    for (_, key, algorithm) in KEYS.into_iter().filter(|(_, key, _)| *key != "lattice") {
        let (status, request) = it.certify(names(key, "request")).await;
        assert_eq!(status, 200, "{algorithm}: {request}");
        std::fs::write(it.folder.path().join("request.pem"), request["pem"].as_str().unwrap()).unwrap();
        let (good, said) = it.openssl(&["req", "-in", "request.pem", "-verify", "-noout", "-text"]);
        assert!(good && said.contains("verify OK"), "{algorithm}: {said}");
        let (status, certificate) = it.certify(names(key, "self-signed")).await;
        assert_eq!(status, 200, "{algorithm}: {certificate}");
        std::fs::write(it.folder.path().join("certificate.pem"), certificate["pem"].as_str().unwrap()).unwrap();
        // It is no authority, and is believed as itself only.
        let at = START.seconds().to_string();
        let verify =
            ["verify", "-partial_chain", "-check_ss_sig", "-x509_strict", "-attime", &at, "-trusted", "certificate.pem", "certificate.pem"];
        let (good, said_of_it) = it.openssl(&verify);
        assert!(good, "{algorithm}: {said_of_it}");
        let (_, text) = it.openssl(&["x509", "-in", "certificate.pem", "-noout", "-text"]);
        for text in [&said, &text] {
            for name in [
                "DNS:pay.example, DNS:*.pay.example, IP Address:192.0.2.7, IP Address:2001:DB8:0:0:0:0:0:7, email:ops@pay.example, URI:spiffe://pay.example/tls",
                "CN = pay.example",
                "O = Example",
                "Digital Signature",
            ] {
                assert!(text.contains(name), "{algorithm}: no {name:?} in {text}");
            }
        }
        assert!(text.contains("CA:FALSE") && !text.contains("Certificate Sign"), "{text}");
        // The key in it is the key in the vault.
        let url = format!("http://{}/v1/keys/payments/{key}/public?format=pem", it.site.agent().address);
        let ours = it.site.http.get(url).bearer_auth(&it.site.billing).send().await.unwrap().text().await.unwrap();
        assert_eq!(it.openssl(&["req", "-in", "request.pem", "-noout", "-pubkey"]).1, ours, "{algorithm}");
    }
    // An authority of somebody else's issues on it.
    it.openssl(&["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority"]);
    let (good, said) = it.openssl(&[
        "x509",
        "-req",
        "-in",
        "request.pem",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-copy_extensions",
        "copy",
        "-out",
        "issued.pem",
    ]);
    assert!(good, "{said}");
    let (good, said) = it.openssl(&["verify", "-CAfile", "ca.crt", "issued.pem"]);
    assert!(good, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_does_not_certify_and_policy_sees_the_names() {
    let mut it = Certified::start().await;
    let signs = format!("permit (principal == Caller::\"{AUDITOR}\", action == Action::\"sign\", resource);");
    it.site.world.project_policy().cedar.insert("pol_test/1".to_owned(), signs);
    // A `*` stands for commas too, so that one name must be asked for as one.
    let guard = "forbid (principal, action == Action::\"certify\", resource) unless { context.encryption.getTag(\"certificate-kind\") == \"request\" && \
                 context.encryption.getTag(\"certificate-names\") like \"dns:*.pay.example\" && \
                 !(context.encryption.getTag(\"certificate-names\") like \"*,*\") };";
    it.site.world.project_policy().cedar.insert("pol_test/3".to_owned(), guard.to_owned());
    it.site.republish();
    let asked = |dns: &str, kind: &str| json!({ "key": "payments/p256", "kind": kind, "dns": [dns] });
    let (status, refused) = it.site.call("/v1/certify", &it.site.auditor, asked("www.pay.example", "request")).await;
    assert_eq!((status.as_u16(), refused["code"].as_str()), (403, Some("not_allowed_by_policy")));
    let (status, _) = it.site.call("/v1/sign", &it.site.auditor, json!({ "key": "payments/p256", "payload": "" })).await;
    assert_eq!(status.as_u16(), 200);

    assert_eq!(it.certify(asked("www.pay.example", "request")).await.0, 200);
    let mut hidden = asked("bank.example", "request");
    hidden["dns"] = json!(["bank.example", "www.pay.example"]);
    for refused in [asked("bank.example", "request"), asked("www.pay.example", "self-signed"), hidden] {
        let (status, answer) = it.certify(refused).await;
        assert_eq!((status, answer["code"].as_str()), (403, Some("forbidden_by_policy")));
    }
    // Nobody says for the agent what is asked, and no name says two.
    let mut lie = asked("bank.example", "request");
    lie["context"] = json!({ "certificate-names": "dns:www.pay.example" });
    assert_eq!(it.certify(lie).await.1["code"], "context_reserved");
    for (field, bad, code) in [
        ("dns", json!(["bank.example,dns:www.pay.example"]), "malformed"),
        ("dns", json!(["bank.example\u{0}.pay.example"]), "malformed"),
        ("subject", json!("not a name"), "malformed"),
        ("email", json!(["nobody"]), "malformed"),
        ("ip", json!(["1.2.3"]), "invalid_body"),
        ("days", json!(7), "invalid_body"),
        ("key", json!("payments/card-data"), "wrong_purpose"),
    ] {
        let mut body = asked("www.pay.example", "request");
        body[field] = bad;
        let (status, answer) = it.certify(body).await;
        assert_eq!((status, answer["code"].as_str()), (400, Some(code)), "{field}: {answer}");
    }
    assert_eq!(it.certify(json!({ "key": "payments/p256" })).await.1["code"], "malformed", "a certificate for nobody");

    let directory = it.site.config.journal_directory();
    it.site.stop().await;
    let kept = Receipts::read(&directory).all.into_iter().any(|receipt| match receipt.body {
        ReceiptBody::Intent(intent) => {
            intent.operation == schema::key::Operation::Certify && intent.context.contains_key("certificate-names")
        }
        _ => false,
    });
    assert!(kept, "what was certified is on record");
}
