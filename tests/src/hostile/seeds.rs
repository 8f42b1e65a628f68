//! What each parser is known to read: golden files where there are some, and the rest made here.

use data_plane_agent::message::file::chunks::ChunkSealer;
use schema::{
    clock::ManualIds,
    encoding::base64url,
    token::{Token, TokenKind},
    wire::delta::StatementDelta,
};
use trust::{
    accept::{Confirmed, accept},
    testing::World,
};

/// Bytes known beforehand.
macro_rules! golden {
    ($($path:literal),+ $(,)?) => { vec![$(include_bytes!(concat!("../../../schema/golden/", $path)).to_vec()),+] };
}

pub(super) const CHUNK_KEY: [u8; 32] = [7; 32];
pub(super) const CHUNK_CONTEXT: [u8; 32] = [9; 32];

pub(super) fn jwe() -> Vec<Vec<u8>> {
    golden!["formats/a256kw-v1.jwe", "formats/hpke-9-ke-v1.jwe", "formats/data-key-v1.jwe", "formats/two-recipients-v1.json"]
}

pub(super) fn jws() -> Vec<Vec<u8>> {
    let mut seeds = golden!["formats/two-signatures-v1.json"];
    let part = |text: &str| base64url(text.as_bytes());
    seeds.push(format!("{}.{}.{}", part(r#"{"alg":"EdDSA"}"#), part("what was signed"), base64url(&[3; 64])).into_bytes());
    seeds.push(format!("{}..{}", part(r#"{"alg":"ML-DSA-65","kid":"x"}"#), base64url(&[3; 64])).into_bytes());
    seeds
}

pub(super) fn jose_header() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"alg":"A256KW","kid":"key_01h2xcejqtf2nbrexx3vqjhp41/3","enc":"A256GCM","ctx":"AAAA"}"#,
        r#"{"alg":"EdDSA","crit":["b64"],"b64":false}"#,
        r#"{"alg":"HPKE-9-KE","ek":"AAAA","draft":"draft-ietf-jose-hpke-pq-pqt-01"}"#,
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

pub(super) fn file() -> Vec<Vec<u8>> {
    golden!["formats/file-v1.fhf1"]
}

/// Three chunks and a little more.
pub(super) fn chunk_plaintext() -> Vec<u8> {
    (0..3 * 16 * 1024 + 100).map(|place: u32| (place % 251) as u8).collect()
}

pub(super) fn chunks() -> Vec<Vec<u8>> {
    let sealed = || {
        let mut out = Vec::new();
        let mut sealer = ChunkSealer::new(&CHUNK_KEY, [1; 24], &CHUNK_CONTEXT).ok()?;
        sealer.push(&chunk_plaintext(), &mut out).ok()?;
        sealer.finish(&mut out).ok()?;
        Some(out)
    };
    sealed().into_iter().collect()
}

/// What OpenSSL made, and what it made of our keys.
pub(super) fn cms() -> Vec<Vec<u8>> {
    macro_rules! made {
        ($($name:literal),+ $(,)?) => {
            vec![$(include_bytes!(concat!("../../../data-plane-agent/src/message/cms/vectors/", $name, ".cms")).to_vec()),+]
        };
    }
    made![
        "pkcs1-cbc128",
        "pkcs1-cbc256-stream",
        "oaep1-gcm128",
        "oaep256-gcm256",
        "two-cbc192",
        "ec-cbc",
        "des3",
        "pkcs1-sha1",
        "pss-sha256",
        "pss-sha256-noattr",
        "ecdsa-sha256",
        "ecdsa-stream",
        "ecdsa-detached",
        "two",
    ]
}

/// Ciphertexts of a transit engine.
pub(super) fn transit() -> Vec<Vec<u8>> {
    let texts =
        ["vault:v1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "vault:v12:8SDd3WHDOjf7mq69CyCqYjBXAiQQAVZRkFM13ok481zoCmHnSeDX9vyf7w==\n"];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

/// Private keys as they travel.
pub(super) fn material() -> Vec<Vec<u8>> {
    let made = [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ML_DSA_65].map(rcgen::KeyPair::generate_for);
    let mut seeds: Vec<Vec<u8>> = made.into_iter().flatten().map(|key| key.serialize_der()).collect();
    let texts = [
        r#"{"kty":"oct","k":"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA","alg":"A256GCM"}"#,
        r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
        r#"{"kty":"AKP","alg":"ML-DSA-65","priv":"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA"}"#,
    ];
    seeds.extend(texts.map(|text| text.as_bytes().to_vec()));
    seeds
}

/// Key stores of Java, PEM, and a key under a password.
pub(super) fn key_containers() -> Vec<Vec<u8>> {
    macro_rules! made {
        ($($name:literal),+ $(,)?) => { vec![$(include_bytes!(concat!("../../../cli/src/material/fixtures/", $name)).to_vec()),+] };
    }
    let mut seeds = made!["two.jks", "old.jceks", "java.p12", "slow.der"];
    seeds.extend(rcgen::KeyPair::generate().into_iter().map(|key| key.serialize_pem().into_bytes()));
    seeds
}

/// A backup of a key of a transit engine, as JSON and as base64.
pub(super) fn transit_backups() -> Vec<Vec<u8>> {
    let key = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
    let symmetric = format!(
        r#"{{"policy":{{"name":"legacy","type":0,"derived":false,"latest_version":2,"min_available_version":0,"keys":{{"2":{{"key":"{key}"}}}}}},"archived_keys":{{"keys":[{{}},{{"key":"{key}"}}]}}}}"#
    );
    let curve = r#"{"policy":{"name":"legacy","type":1,"latest_version":1,"keys":{"1":{"key":null,"ec_d":105129236471238741293847129384712938471293847}}}}"#;
    let text = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &symmetric);
    vec![symmetric.into_bytes(), curve.as_bytes().to_vec(), text.into_bytes()]
}

/// Keys of partners: JWK and PEM.
pub(super) fn public_keys() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = [
        r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
        r#"{"kty":"EC","crv":"P-256","x":"gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0","y":"SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps","alg":"ES256"}"#,
        r#"{"kty":"RSA","n":"AQAB","e":"AQAB","use":"enc"}"#,
        r#"{"kty":"AKP","alg":"ML-DSA-44","pub":"AAAA","priv":"AAAA"}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    let made = [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256].map(rcgen::KeyPair::generate_for);
    seeds.extend(made.into_iter().flatten().map(|key| key.public_key_pem().into_bytes()));
    seeds
}

pub(super) fn context() -> Vec<Vec<u8>> {
    [r#"{}"#, r#"{"app":"golden","table":"people"}"#, r#"{"":"x"}"#].map(|text| text.as_bytes().to_vec()).into()
}

pub(super) fn requests() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"key":"billing/cards","plaintext":"AAAA","context":{"a":"b"},"format":"json"}"#,
        r#"{"message":"a.b.c.d.e","context":{}}"#,
        r#"{"key":"billing/invoices","payload":"AAAA","detached":true}"#,
        r#"{"signature":"a.b.c","payload":"AAAA","key":"billing/invoices"}"#,
        r#"{"bytes":32}"#,
        r#"{"key":"billing/cards"}"#,
        r#"{"message":"a.b.c.d.e","key":"billing/archive","context":{"a":"b"},"new_context":{"c":"d"}}"#,
        r#"{"signature":"a..c","payload":"AAAA","key":"billing/invoices","detached":true}"#,
        r#"{"wrapped":"AAAA","key":"key_01h2xcejqtf2nbrexx3vqjhp41/3"}"#,
        r#"{"file_header":"RkhGMQ","context":{}}"#,
        r#"{"key":"billing/tags","payload":"AAAA","tag":"AAAA","context":{"a":"b"}}"#,
        r#"{"key":"billing/digests","digest":"AAAA","signature":"AAAA"}"#,
        r#"{"key":"billing/agreeing","public_key":"AAAA"}"#,
        r#"{"key":"billing/agreeing","ciphertext":"AAAA"}"#,
        r#"{"key":"billing/deriving","salt":"AAAA","info":"AAAA","bytes":32}"#,
        r#"{"caller":"billing/reports","operation":"decrypt","key":"billing/cards","size":"10","address":"::1"}"#,
        r#"{"message":"MIIB","key":"billing/old","recipient":1,"seal_with":"billing/cards","context":{"a":"b"},"format":"json"}"#,
        r#"{"message":"MIIB","key":"billing/old","signer":0,"content":"AAAA","sign_with":"billing/invoices"}"#,
        r#"{"items":[{"key":"billing/cards","plaintext":"AAAA"},{"key":"billing/cards","plaintext":"","context":{"a":"b"}}]}"#,
        r#"{"items":[{"message":"a.b.c.d.e"}]}"#,
        r#"{"items":[{"message":"MIIB","key":"billing/old"}]}"#,
        r#"{"version_records":[],"holder_reports":[],"vouches":[],"enforced_heartbeat":"3"}"#,
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

pub(super) fn references() -> Vec<Vec<u8>> {
    ["billing/cards", "key_01h2xcejqtf2nbrexx3vqjhp41", "key_01h2xcejqtf2nbrexx3vqjhp41/3"].map(|text| text.as_bytes().to_vec()).into()
}

pub(super) fn tokens() -> Vec<Vec<u8>> {
    let ids = ManualIds::seeded(5);
    let kinds = [TokenKind::Api, TokenKind::Enrolment, TokenKind::Caller];
    kinds.map(|kind| Token::generate(kind, &ids).reveal().as_bytes().to_vec()).into()
}

pub(super) fn statements() -> Vec<Vec<u8>> {
    golden![
        "statements/root.v1.json",
        "statements/policy-tenant.v1.json",
        "statements/policy-project.v1.json",
        "statements/state.v1.json",
        "statements/heartbeat.v1.json",
        "statements/roster-entry.v1.json",
        "statements/version-record.v1.json",
        "statements/receipt-batch.v1.json",
    ]
}

pub(super) fn sets() -> Vec<Vec<u8>> {
    serde_json::to_vec(&World::new().set()).into_iter().collect()
}

/// The payloads that [`World::set`] signs.
pub(super) fn signed_statements(world: &World) -> Vec<String> {
    world.set().envelopes().map(super::targets::payload).collect()
}

/// The world with the next state and heartbeat.
pub(super) fn a_minute_later() -> World {
    let mut world = World::new();
    world.tick();
    world
}

/// To the first set of the world: the next one, the same one, and all of it.
pub(super) fn deltas() -> Vec<Vec<u8>> {
    let (first, next) = (World::new().set(), a_minute_later().set());
    let deltas = [(&first, &next), (&first, &first), (&Default::default(), &next)];
    deltas.iter().filter_map(|(base, set)| serde_json::to_vec(&StatementDelta::between(base, set)).ok()).collect()
}

pub(super) fn accepted_sets() -> Vec<Vec<u8>> {
    let world = World::new();
    let accepted = accept(None, &world.set(), &world.identity(), &Confirmed::default(), world.now());
    accepted.into_iter().map(|set| set.to_bytes()).collect()
}

pub(super) fn records() -> Vec<Vec<u8>> {
    golden!["records/1.json"]
}

pub(super) fn certificate_requests() -> Vec<Vec<u8>> {
    let made = || {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).ok()?;
        let parameters = rcgen::CertificateParams::new(vec!["agent.example".to_owned()]).ok()?;
        parameters.serialize_request(&key).ok()?.pem().ok()
    };
    made().into_iter().map(String::into_bytes).collect()
}

pub(super) fn agent_configuration() -> Vec<Vec<u8>> {
    vec![
        include_bytes!("../../../data-plane-agent/src/config/example.toml").to_vec(),
        b"data_dir = \"/tmp/a\"\n[server]\nlisten = \"127.0.0.1:0\"\n[vault]\nkind = \"file\"\nkey_file = \"/tmp/k\"\n".to_vec(),
    ]
}

pub(super) fn control_plane_configuration() -> Vec<Vec<u8>> {
    vec![b"data_dir = \"/tmp/a\"\ndevelopment = true\n[server]\nlisten = \"127.0.0.1:0\"\n[agents]\nlisten = \"127.0.0.1:0\"\n".to_vec()]
}

pub(super) fn cedar() -> Vec<Vec<u8>> {
    let texts = [
        "@id(\"a\")\npermit (principal == Caller::\"clr_0mqn0ky5g9xxs6c0x8eqkn3gbt\", action in [Action::\"encrypt\"], resource) when { context.size < 50 };",
        "forbid (principal, action, resource) unless { context.encryption.hasTag(\"purpose\") };",
        "permit (principal is Caller, action, resource is Key) when { context.time > datetime(\"2020-01-01\") && context.address.isLoopback() };",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}
