//! Material that comes from elsewhere and material that leaves: made, wrapped and unwrapped by OpenSSL's command line and by the command line of
//! ours, over HTTP; whole, damaged, replayed, and where nobody allows it.

use std::{collections::BTreeSet, process::Command};

use cli::material::wrap;
use schema::{
    id::KeyId,
    key::{Operation, Origin},
    wire::agent::ReceiptBody,
};
use trust::statement::state::VersionEntry;

use super::{super::*, receipts::Receipts};

const RSA: KeyId = KeyId::from_bits(300);
const CURVE: KeyId = KeyId::from_bits(301);
const AES: KeyId = KeyId::from_bits(302);
const OTHER: KeyId = KeyId::from_bits(303);

/// A site with keys that wait for material, a folder in which OpenSSL works.
struct Waiting {
    site: Site,
    folder: tempfile::TempDir,
}

impl Waiting {
    async fn start() -> Self {
        let mut site = Site::start().await;
        for (key, name, algorithm, purpose, exportable) in [
            (RSA, "rsa", "RSA-PSS-3072", Purpose::Sign, false),
            (CURVE, "curve", "ECDSA-P256", Purpose::Sign, true),
            (AES, "aes", "A256GCM", Purpose::Encrypt, true),
            (OTHER, "other", "ECDSA-P256", Purpose::Sign, true),
        ] {
            let mut defined = definition();
            (defined.name, defined.algorithm, defined.purpose) = (name.parse().unwrap(), algorithm.parse().unwrap(), purpose);
            (defined.origin, defined.exportable) = (Origin::Imported, exportable);
            site.world.project_policy().keys.insert(key, defined);
            let versions = [(1, awaited(Some(trust::testing::AGENT)))].into();
            site.world.state.keys.insert(key, KeyState { primary: 0, versions });
        }
        site.publish();
        Self { site, folder: tempfile::tempdir().unwrap() }
    }

    fn openssl(&self, arguments: &[&str]) -> Vec<u8> {
        let output =
            Command::new("openssl").args(arguments).current_dir(self.folder.path()).output().expect("OpenSSL; make setup-test installs it");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.folder.path().join(name), bytes).unwrap();
    }

    /// A private key as PKCS #8.
    fn private(&self, kind: &[&str]) -> Vec<u8> {
        self.openssl(&[&["genpkey", "-out", "made.pem"][..], kind].concat());
        self.openssl(&["pkcs8", "-topk8", "-nocrypt", "-in", "made.pem", "-outform", "DER"])
    }

    fn curve_key(&self) -> Vec<u8> {
        self.private(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])
    }

    /// What OpenSSL alone makes of material and an import key in PEM: RSA-OAEP, and AES-KWP behind it.
    fn wrap(&self, pem: &str, material: &[u8]) -> Vec<u8> {
        self.write("import.pem", pem.as_bytes());
        self.write("material", material);
        let kek = self.openssl(&["rand", "32"]);
        self.write("kek", &kek);
        let oaep = ["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256"];
        let wrapped_key = self.openssl(&[&["pkeyutl", "-encrypt", "-pubin", "-inkey", "import.pem", "-in", "kek"][..], &oaep].concat());
        let key = hex::encode(&kek);
        let wrapped = self.openssl(&["enc", "-id-aes256-wrap-pad", "-K", &key, "-iv", "A65959A6", "-in", "material"]);
        [wrapped_key, wrapped].concat()
    }

    async fn ask(&self, path: &str, body: Value) -> (u16, Value) {
        let (status, answer) = self.site.call(path, &self.site.billing, body).await;
        (status.as_u16(), answer)
    }

    async fn done(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask(path, body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    async fn code(&self, path: &str, body: Value) -> (u16, String) {
        let (status, answer) = self.ask(path, body).await;
        (status, answer["code"].as_str().unwrap_or_else(|| panic!("{path}: {answer}")).to_owned())
    }

    async fn import_key(&self, key: &str, wrapping: &str) -> Value {
        self.done("/v1/import-key", json!({ "key": format!("payments/{key}"), "wrapping": wrapping })).await
    }

    /// Says in state that what was imported is there, as the control plane would.
    async fn activate(&mut self, key: KeyId) {
        let version = KeyVersion::new(key, 1);
        let held = self.site.agent().vault().held(version).await.unwrap();
        let mut record = self.site.world.record(1, held.fingerprint);
        (record.version, record.algorithm, record.origin) = (version, held.algorithm, Origin::Imported);
        record.public_key = held.public_key.clone().map(Into::into);
        let mut report = self.site.world.report(1, held.fingerprint);
        report.version = version;
        let state = self.site.world.state.keys.get_mut(&key).unwrap();
        state.primary = 1;
        let entry = state.versions.get_mut(&1).unwrap();
        (entry.state, entry.activated) = (VersionState::Active, Some(START));
        entry.record = Some(trust::dsse::sign_document(&record, &[&self.site.world.agent]).into());
        entry.ready = [(trust::testing::AGENT, trust::dsse::sign_document(&report, &[&self.site.world.agent]).into())].into();
        self.site.world.tick();
        self.site.publish();
    }
}

fn awaited(generator: Option<schema::id::AgentId>) -> VersionEntry {
    VersionEntry {
        state: VersionState::PreActivation,
        created: START,
        activated: None,
        generator,
        record: None,
        ready: Default::default(),
        backup: None,
    }
}

fn jwe(key: &str, format: &str, offered: &Value, material: &[u8]) -> Value {
    json!({ "key": format!("payments/{key}"), "format": format, "jwe": wrap::hpke(&offered["jwk"], material).unwrap() })
}

fn rsa(key: &str, format: &str, offered: &Value, wrapped: &[u8]) -> Value {
    json!({ "key": format!("payments/{key}"), "format": format, "wrapped": base64url(wrapped), "import_key": offered["import_key"] })
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_openssl_come_in_both_ways_and_sign() {
    let mut waiting = Waiting::start().await;
    // An RSA key of OpenSSL, wrapped by OpenSSL alone.
    let private = waiting.private(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"]);
    waiting.write("private.der", &private);
    let offered = waiting.import_key("rsa", "rsa-aes-kwp").await;
    assert_eq!(offered["key_version"], format!("{RSA}/1"));
    let wrapped = waiting.wrap(offered["pem"].as_str().unwrap(), &private);
    let imported = waiting.done("/v1/import", rsa("rsa", "pkcs8", &offered, &wrapped)).await;
    assert_eq!((imported["key_version"].as_str(), imported["jwk"]["kty"].as_str()), (Some(format!("{RSA}/1").as_str()), Some("RSA")));
    // The same from our own command line, and a curve by HPKE.
    let curve = waiting.curve_key();
    let offered = waiting.import_key("curve", "hpke").await;
    waiting.done("/v1/import", jwe("curve", "pkcs8", &offered, &curve)).await;
    let offered = waiting.import_key("aes", "rsa-aes-kwp").await;
    let aes: Vec<u8> = (1..=32).collect();
    waiting.done("/v1/import", rsa("aes", "raw", &offered, &wrap::rsa_aes_kwp(&offered["jwk"], &aes).unwrap())).await;

    for key in [RSA, CURVE, AES] {
        waiting.activate(key).await;
    }
    // What OpenSSL verifies was signed with its own key.
    let signed = waiting.done("/v1/sign", json!({ "key": "payments/rsa", "payload": base64url(b"a payload") })).await;
    let (input, signature) = signed["signature"].as_str().unwrap().rsplit_once('.').unwrap();
    waiting.write("input", input.as_bytes());
    waiting.write("signature", &from_base64url(signature).unwrap());
    let pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"];
    waiting.openssl(&["pkey", "-inform", "DER", "-in", "private.der", "-pubout", "-out", "public.pem"]);
    waiting.openssl(&[&["dgst", "-sha256", "-verify", "public.pem", "-signature", "signature"][..], &pss, &["input"]].concat());
    let sealed = waiting.done("/v1/encrypt", json!({ "key": "payments/aes", "plaintext": base64url(b"4111") })).await;
    assert_eq!(waiting.done("/v1/decrypt", json!({ "message": sealed["message"] })).await["plaintext"], base64url(b"4111"));

    let directory = waiting.site.config.journal_directory();
    let data = waiting.site.config.data_dir.clone();
    waiting.site.stop().await;
    let receipts = Receipts::read(&directory);
    let imports =
        receipts.all.iter().filter(|receipt| matches!(&receipt.body, ReceiptBody::Intent(intent) if intent.operation == Operation::Import));
    assert_eq!(imports.count(), 6, "three import keys, three imports");
    // Nothing of it lies anywhere in clear.
    // The middle of the private exponent, which stands behind modulus and public exponent; the number that the curve's key is.
    for secret in [&private[500..564], &curve[36..68], &aes] {
        assert!(!holds(&data, secret), "a secret lies in clear below {}", data.display());
    }
}

/// Whether any file below a folder holds these bytes, as they are or in base64url or hex.
fn holds(folder: &Path, secret: &[u8]) -> bool {
    let forms = [secret.to_vec(), base64url(secret).into_bytes(), hex::encode(secret).into_bytes()];
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, secret);
        }
        let bytes = std::fs::read(path).unwrap();
        forms.iter().any(|form| memchr::memmem::find(&bytes, form).is_some())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_by_name_and_nothing_is_kept() {
    let waiting = Waiting::start().await;
    let offered = waiting.import_key("curve", "hpke").await;
    let curve = waiting.curve_key();
    let unfit = |material: Vec<u8>, format: &'static str| {
        let body = jwe("curve", format, &offered, &material);
        let waiting = &waiting;
        async move { waiting.code("/v1/import", body).await }
    };
    let rsa_2048 = waiting.private(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    for (material, format) in [
        (waiting.private(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]), "pkcs8"),
        (waiting.private(&["-algorithm", "ED25519"]), "pkcs8"),
        (rsa_2048.clone(), "pkcs8"),
        (curve[..curve.len() - 1].to_vec(), "pkcs8"),
        (curve.clone(), "raw"),
        (curve.clone(), "jwk"),
        (vec![0; 32], "raw"),
        (vec![0xff; 32], "raw"),
        (Vec::new(), "raw"),
        (vec![7; 31], "raw"),
        (br#"{"kty":"EC","crv":"P-256","d":"AQ"}"#.to_vec(), "jwk"),
    ] {
        assert_eq!(unfit(material.clone(), format).await, (400, "unfit_material".to_owned()), "{format} of {} bytes", material.len());
    }
    // Weak keys of the right family.
    let rsa_offered = waiting.import_key("rsa", "hpke").await;
    let exponent_3 = waiting.private(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072", "-pkeyopt", "rsa_keygen_pubexp:3"]);
    for material in [exponent_3, rsa_2048] {
        let refused = waiting.code("/v1/import", jwe("rsa", "pkcs8", &rsa_offered, &material)).await;
        assert_eq!(refused, (400, "unfit_material".to_owned()));
    }
    // Damage on the way.
    let good = jwe("curve", "pkcs8", &offered, &curve);
    let text = good["jwe"].as_str().unwrap();
    let parts: Vec<&str> = text.split('.').collect();
    for part in [1, 3] {
        let mut changed = from_base64url(parts[part]).unwrap();
        changed[11] ^= 1;
        let mut parts = parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
        parts[part] = base64url(&changed);
        let mut body = good.clone();
        body["jwe"] = json!(parts.join("."));
        assert_eq!(waiting.code("/v1/import", body).await, (400, "not_genuine".to_owned()));
    }
    for bad in ["", "a.b.c.d.e", &text[..text.len() / 2]] {
        let mut body = good.clone();
        body["jwe"] = json!(bad);
        assert_eq!(waiting.ask("/v1/import", body).await.0, 400, "{bad}");
    }
    let kwp = waiting.import_key("aes", "rsa-aes-kwp").await;
    let wrapped = wrap::rsa_aes_kwp(&kwp["jwk"], &[9; 32]).unwrap();
    for (bytes, code) in [
        (wrapped[..512].to_vec(), "malformed"),
        (wrapped[..wrapped.len() - 8].to_vec(), "not_genuine"),
        ([&wrapped[1..], &[0][..]].concat(), "not_genuine"),
        (vec![0; 600], "not_genuine"),
    ] {
        assert_eq!(waiting.code("/v1/import", rsa("aes", "raw", &kwp, &bytes)).await, (400, code.to_owned()));
    }
    // Neither both ways nor none.
    for body in [json!({ "key": "payments/aes", "format": "raw" }), json!({ "key": "payments/aes", "format": "raw", "wrapped": "AA" })] {
        assert_eq!(waiting.code("/v1/import", body).await, (400, "invalid_body".to_owned()));
    }
    for key in [RSA, CURVE, AES] {
        assert!(waiting.site.agent().vault().held(KeyVersion::new(key, 1)).await.is_err(), "something was kept of {key}");
    }
    // After all that the right one comes in, and then nothing else does.
    waiting.done("/v1/import", good.clone()).await;
    assert_eq!(waiting.code("/v1/import", good).await, (409, "import_key_unknown".to_owned()), "an import key is for one import");
    let again = waiting.import_key("curve", "hpke").await;
    waiting.done("/v1/import", jwe("curve", "pkcs8", &again, &curve)).await;
    let again = waiting.import_key("curve", "hpke").await;
    let other = jwe("curve", "pkcs8", &again, &waiting.curve_key());
    assert_eq!(waiting.code("/v1/import", other).await, (409, "key_version_other_material".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_wrapped_for_one_version_is_good_for_no_other() {
    let mut waiting = Waiting::start().await;
    let curve = waiting.curve_key();
    let (offered, kwp) = (waiting.import_key("curve", "hpke").await, waiting.import_key("curve", "rsa-aes-kwp").await);
    assert_eq!(waiting.import_key("curve", "hpke").await["import_key"], offered["import_key"], "asked again it is the same");
    let wrapped = wrap::rsa_aes_kwp(&kwp["jwk"], &curve).unwrap();
    // Seen on its way, and brought as the material of another key that may be exported.
    for replayed in [jwe("other", "pkcs8", &offered, &curve), rsa("other", "pkcs8", &kwp, &wrapped)] {
        assert_eq!(waiting.code("/v1/import", replayed).await, (409, "import_key_other_version".to_owned()));
    }
    // The key id of another import key does not open it either.
    let other = waiting.import_key("other", "rsa-aes-kwp").await;
    assert_eq!(waiting.code("/v1/import", rsa("other", "pkcs8", &other, &wrapped)).await, (400, "not_genuine".to_owned()));
    let hpke = json!({ "import_key": offered["import_key"] });
    assert_eq!(waiting.code("/v1/import", rsa("curve", "pkcs8", &hpke, &wrapped)).await, (409, "import_key_other_wrapping".to_owned()));
    let unknown = json!({ "import_key": "AAAA" });
    assert_eq!(waiting.code("/v1/import", rsa("curve", "pkcs8", &unknown, &wrapped)).await, (409, "import_key_unknown".to_owned()));

    // A restart does not spoil it, and a day does.
    waiting.site.stop().await;
    waiting.site.start_again().await;
    waiting.done("/v1/import", rsa("curve", "pkcs8", &kwp, &wrapped)).await;
    assert!(waiting.site.agent().vault().held(KeyVersion::new(OTHER, 1)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_agent_that_is_named_takes_what_waits_and_only_where_policy_allows() {
    let mut waiting = Waiting::start().await;
    let ask = |key: &str| json!({ "key": format!("payments/{key}") });
    assert_eq!(waiting.code("/v1/import-key", ask("card-data")).await, (400, "key_not_imported".to_owned()));
    let (status, refused) = waiting.site.call("/v1/import-key", &waiting.site.auditor, ask("curve")).await;
    assert_eq!((status.as_u16(), refused["code"].as_str()), (403, Some("not_allowed_by_policy")));
    waiting.site.world.state.keys.get_mut(&OTHER).unwrap().versions.insert(1, awaited(None));
    waiting.site.world.tick();
    waiting.site.publish();
    assert_eq!(waiting.code("/v1/import-key", ask("other")).await, (409, "awaited_elsewhere".to_owned()));

    let offered = waiting.import_key("curve", "hpke").await;
    let curve = waiting.curve_key();
    waiting.done("/v1/import", jwe("curve", "pkcs8", &offered, &curve)).await;
    // Until state knows of it, it is not used.
    assert_eq!(waiting.code("/v1/sign", json!({ "key": "payments/curve", "payload": "" })).await, (409, "no_active_version".to_owned()));
    waiting.activate(CURVE).await;
    assert_eq!(waiting.code("/v1/import-key", ask("curve")).await, (409, "no_version_awaited".to_owned()));
    assert_eq!(waiting.code("/v1/import-key", json!({ "key": format!("{CURVE}/1") })).await, (409, "version_already_made".to_owned()));
    assert_eq!(waiting.code("/v1/import-key", json!({ "key": format!("{CURVE}/2") })).await, (404, "version_not_found".to_owned()));
    waiting.done("/v1/sign", json!({ "key": "payments/curve", "payload": "" })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn material_leaves_only_wrapped_only_where_that_was_meant_and_on_record() {
    let mut waiting = Waiting::start().await;
    let (curve, private) = (waiting.curve_key(), waiting.private(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"]));
    for (key, material) in [("curve", &curve), ("rsa", &private)] {
        let offered = waiting.import_key(key, "hpke").await;
        waiting.done("/v1/import", jwe(key, "pkcs8", &offered, material)).await;
    }
    waiting.activate(CURVE).await;
    waiting.activate(RSA).await;
    waiting.write("escrow.der", &waiting.private(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"]));
    let pem = String::from_utf8(waiting.openssl(&["pkey", "-inform", "DER", "-in", "escrow.der", "-pubout"])).unwrap();
    let body = |key: &str| json!({ "key": format!("payments/{key}"), "format": "pkcs8", "wrapping": "rsa-aes-kwp", "pem": pem });
    for key in ["rsa", "card-data", "documents"] {
        assert_eq!(waiting.code("/v1/export", body(key)).await, (403, "key_not_exportable".to_owned()), "{key}");
    }
    let exported = waiting.done("/v1/export", body("curve")).await;

    // OpenSSL alone unwraps it, and finds its own key.
    let wrapped = from_base64url(exported["wrapped"].as_str().unwrap()).unwrap();
    waiting.write("wrapped-kek", &wrapped[..512]);
    waiting.write("wrapped", &wrapped[512..]);
    let oaep = ["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256"];
    let kek =
        waiting.openssl(&[&["pkeyutl", "-decrypt", "-keyform", "DER", "-inkey", "escrow.der", "-in", "wrapped-kek"][..], &oaep].concat());
    let unwrapped = waiting.openssl(&["enc", "-d", "-id-aes256-wrap-pad", "-K", &hex::encode(kek), "-iv", "A65959A6", "-in", "wrapped"]);
    waiting.write("unwrapped.der", &unwrapped);
    waiting.write("curve.der", &curve);
    let public = |name: &str| waiting.openssl(&["pkey", "-inform", "DER", "-in", name, "-pubout"]);
    assert_eq!(public("unwrapped.der"), public("curve.der"));

    // The agent says who the recipient is; nobody else can.
    let mut lie = body("curve");
    lie["context"] = json!({ "export-recipient": "somebody else" });
    assert_eq!(waiting.code("/v1/export", lie).await, (400, "context_reserved".to_owned()));
    for (field, bad) in [
        ("pem", json!(waiting.openssl(&["pkey", "-inform", "DER", "-in", "escrow.der"]).escape_ascii().to_string())),
        ("pem", json!("nonsense")),
        ("jwk", json!({})),
    ] {
        let mut body = json!({ "key": "payments/curve", "format": "pkcs8" });
        body[field] = bad;
        assert_eq!(waiting.code("/v1/export", body).await, (400, "malformed".to_owned()), "{field}");
    }
    // A policy that names one recipient stops every other.
    let recipient = exported["recipient"].as_str().unwrap().to_owned();
    let forbid = format!(
        "forbid (principal, action == Action::\"export\", resource) unless {{ context.encryption.hasTag(\"export-recipient\") && \
         context.encryption.getTag(\"export-recipient\") == \"{recipient}\" }};"
    );
    waiting.site.world.project_policy().cedar.insert("pol_test/3".to_owned(), forbid);
    waiting.site.republish();
    waiting.done("/v1/export", body("curve")).await;
    waiting.write("thief.der", &waiting.private(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"]));
    let thief = String::from_utf8(waiting.openssl(&["pkey", "-inform", "DER", "-in", "thief.der", "-pubout"])).unwrap();
    let mut stolen = body("curve");
    stolen["pem"] = json!(thief);
    assert_eq!(waiting.code("/v1/export", stolen).await, (403, "forbidden_by_policy".to_owned()));

    let directory = waiting.site.config.journal_directory();
    waiting.site.stop().await;
    let receipts = Receipts::read(&directory);
    let exports: Vec<_> = receipts
        .all
        .iter()
        .filter_map(|receipt| if let ReceiptBody::Intent(intent) = &receipt.body { Some(intent) } else { None })
        .filter(|intent| intent.operation == Operation::Export && intent.key_version == Some(KeyVersion::new(CURVE, 1)))
        .collect();
    assert!(exports.len() >= 2);
    let facts: BTreeSet<_> = exports.iter().flat_map(|intent| intent.context.keys()).map(String::as_str).collect();
    assert!(facts.contains("export-recipient"), "{facts:?}");
}
