//! What an agent's memory holds: never a whole file, and no key once it is gone.

use std::{
    num::NonZeroU64,
    sync::{Arc, Mutex},
};

use data_plane_agent::{
    algorithm::{fingerprint, serve},
    app::open_vault,
    vault::secret::SecretBytes,
};
use futures::StreamExt;
use reqwest::StatusCode;
use schema::{
    catalogue::{Algorithm, Family},
    clock::{Clock, Ids, SystemClock, SystemIds},
    encoding::base64url,
    id::{KeyId, KeyVersion},
    key::Purpose,
};
use serde_json::json;
use sha2::Digest as _;
use trust::{statement::state::KeyState, testing::definition};

use super::{
    super::{KEY_FILE, Site, bytes, context_header},
    process::{Image, Process},
};

/// The most memory of an agent, whatever the file.
const LIMIT_KIB: u64 = 64 * 1024;
const PLAIN: &str = "[server]\nlisten = \"127.0.0.1:0\"\nplain_http = true\nworkers = 2";

/// 300 MB; in long trials 10 GiB.
fn size() -> NonZeroU64 {
    let size = if std::env::var_os("FREEHOLD_SOAK").is_some() { 10 << 30 } else { 300_000_000 };
    NonZeroU64::new(size).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_capped_at_64_mib_seals_and_opens_files_of_any_size() {
    let size = size();
    let mut site = Site::start_with(PLAIN, SystemClock.now()).await;
    site.publish();
    site.stop().await;
    let process = Process::start(&site, Some(LIMIT_KIB));
    assert_eq!(process.data_limit_kib(), Some(LIMIT_KIB), "the cap is one");
    let post = |path: &str| {
        let request = site.http.post(format!("{}{path}", process.url)).bearer_auth(&site.billing);
        request.header("freehold-context", context_header())
    };
    let source = reqwest::Body::wrap_stream(bytes(size));
    let sealing = post("/v1/stream/encrypt?key=payments/card-data").body(source).send().await.unwrap();
    assert_eq!(sealing.status(), StatusCode::OK);
    let opening = post("/v1/stream/decrypt").body(reqwest::Body::wrap_stream(sealing.bytes_stream())).send().await.unwrap();
    assert_eq!(opening.status(), StatusCode::OK);
    let (mut hash, mut length) = (sha2::Sha256::new(), 0u64);
    let mut opened = opening.bytes_stream();
    while let Some(piece) = opened.next().await {
        let piece = piece.unwrap();
        hash.update(&piece);
        length += piece.len() as u64;
    }
    let mut expected = sha2::Sha256::new();
    let mut source = std::pin::pin!(bytes(size));
    while let Some(piece) = source.next().await {
        expected.update(piece.unwrap());
    }
    assert_eq!((length, hash.finalize()), (size.get(), expected.finalize()));
    let (resident, data) = (process.kib("VmHWM"), process.kib("VmData"));
    println!("{} MiB through a process: at most {} MiB resident, {} MiB of data", size.get() >> 20, resident >> 10, data >> 10);
    // What it takes for itself; a build that is not optimised has a program text of tens of MiB, which counts as resident too.
    let own = process.kib("RssAnon");
    assert!(own <= LIMIT_KIB && data <= LIMIT_KIB, "{own} KiB of its own are resident, and {data} KiB of data");
}

/// Remembers everything random that it gave away.
#[derive(Default)]
struct Remembering(Mutex<Vec<Vec<u8>>>);

impl Ids for Remembering {
    fn fill(&self, bytes: &mut [u8]) {
        SystemIds.fill(bytes);
        self.0.lock().unwrap().push(bytes.to_vec());
    }
}

/// One of each family.
const PLANTED: [&str; 14] = [
    "A256KW+A256GCM",
    "A256GCM",
    "ChaCha20-Poly1305",
    "HMAC-SHA-384",
    "HKDF-SHA-512",
    "ECDSA-P256",
    "ECDH-ES-P384",
    "X25519",
    "Ed25519",
    "HPKE-9-KE",
    "ML-KEM-768",
    "ML-DSA-65",
    "SLH-DSA-SHA2-128s",
    "RSA-OAEP-256-3072",
];

/// What keys of this algorithm are for.
fn purposes(algorithm: Algorithm) -> &'static [Purpose] {
    algorithm.entry().purposes
}

/// A version whose secret the test knows.
struct Planted {
    algorithm: Algorithm,
    version: KeyVersion,
    /// What nobody may find: the seed, or the primes and the exponent, from either end.
    secrets: Vec<Vec<u8>>,
}

/// The secret numbers of an RSA key (PKCS#8 around RSAPrivateKey, RFC 8017 appendix A.1.2): d, p and q, as they are written, and as a
/// library keeps them in memory, lowest byte first.
fn rsa_secrets(pkcs8: &[u8]) -> Vec<Vec<u8>> {
    /// Head and content of what comes first, and what follows it.
    fn element(der: &[u8]) -> (u8, &[u8], &[u8]) {
        let (head, length) = match der[1] {
            short @ 0..0x80 => (2, usize::from(short)),
            long => {
                let octets = usize::from(long & 0x7f);
                (2 + octets, der[2..2 + octets].iter().fold(0, |length, octet| length << 8 | usize::from(*octet)))
            }
        };
        (der[0], &der[head..head + length], &der[head + length..])
    }
    let (_, mut fields, _) = element(pkcs8);
    let octets = loop {
        match element(fields) {
            (0x04, octets, _) => break octets,
            (_, _, rest) => fields = rest,
        }
    };
    let (_, mut numbers, _) = element(octets);
    let mut found = Vec::new();
    for place in 0..6 {
        let (_, number, rest) = element(numbers);
        if place >= 3 {
            let number = number.strip_prefix(&[0]).unwrap_or(number);
            found.extend([number.to_vec(), number.iter().rev().copied().collect()]);
        }
        numbers = rest;
    }
    found
}

/// Makes a version of each of them in the vault, and finds its secret among what was random.
async fn plant(site: &Site) -> Vec<Planted> {
    let ids = Arc::new(Remembering::default());
    let vault = open_vault(&site.config, ids.clone()).await.unwrap();
    let mut planted = Vec::new();
    for (number, algorithm) in (500..).zip(PLANTED.map(|name| name.parse::<Algorithm>().unwrap())) {
        let version = KeyVersion::new(KeyId::from_bits(number), 1);
        if algorithm.entry().family == Family::Rsa {
            // The library makes such keys, and does not say of what.
            let made = serve(algorithm).generate(algorithm, &SystemIds).unwrap();
            let secrets = rsa_secrets(made.expose());
            vault.import(version, algorithm, made).await.unwrap();
            planted.push(Planted { algorithm, version, secrets });
            continue;
        }
        let held = vault.generate(version, algorithm).await.unwrap();
        let random = std::mem::take(&mut *ids.0.lock().unwrap());
        let is_it = |seed: &Vec<u8>| {
            if algorithm.entry().family == Family::SlhDsa {
                return seed.len() == 48; // nothing else is as long
            }
            let secret = SecretBytes::new(seed.clone());
            let key = serve(algorithm).load(algorithm, &secret);
            key.is_ok_and(|key| fingerprint(algorithm, key.public_key(), &secret) == held.fingerprint)
        };
        let mut seed = random.into_iter().find(is_it).unwrap_or_else(|| panic!("the secret of {algorithm} was not found"));
        if algorithm.entry().family == Family::SlhDsa {
            seed.truncate(32); // the rest is public
        }
        planted.push(Planted { algorithm, version, secrets: vec![seed] });
    }
    planted
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_left_in_memory_once_it_is_gone() {
    let mut site = Site::start_with(PLAIN, SystemClock.now()).await;
    site.stop().await;
    let planted = plant(&site).await;
    let policy = site.world.project_policy();
    for Planted { algorithm, version, .. } in &planted {
        let purpose = *purposes(*algorithm).first().unwrap();
        let mut key = definition();
        (key.name, key.algorithm, key.purpose) = (format!("planted-{}", version.key.bits()).parse().unwrap(), *algorithm, purpose);
        policy.keys.insert(version.key, key);
    }
    let vault = open_vault(&site.config, Arc::new(SystemIds)).await.unwrap();
    for Planted { algorithm, version, .. } in &planted {
        site.world.state.keys.insert(version.key, KeyState { primary: 1, versions: Default::default() });
        site.rotate_in(&*vault, version.key, 1, algorithm.name(), SystemClock.now()).await;
    }
    drop(vault);
    site.accept();

    let mut process = Process::start(&site, None);
    let Some(image) = process.image() else {
        println!("skipped: the memory of another process can only be searched as root, with tracing allowed");
        return;
    };
    assert!(image.bytes() > 1 << 20, "{} bytes are no image", image.bytes());
    assert_eq!(image.places(KEY_FILE), Vec::<String>::new(), "what opens the vault is not kept");
    let places = |image: &Image, key: &Planted| key.secrets.iter().flat_map(|secret| image.places(secret)).collect::<Vec<_>>();
    let loaded =
        |image: &Image| planted.iter().filter(|key| !places(image, key).is_empty()).map(|key| key.algorithm.name()).collect::<Vec<_>>();
    let found = loaded(&image);
    println!("secrets that stand in memory while loaded: {found:?}");
    for name in ["A256KW+A256GCM", "RSA-OAEP-256-3072"] {
        assert!(found.contains(&name), "the search finds what is there: {found:?}");
    }

    for round in 0..20 {
        for Planted { algorithm, version, .. } in &planted {
            if round > 0 && algorithm.entry().family == Family::SlhDsa {
                continue; // a signature takes a second
            }
            let call = async |path: &str, body: serde_json::Value| {
                let answer = site.http.post(format!("{}{path}", process.url)).bearer_auth(&site.billing).json(&body).send().await.unwrap();
                let (status, answer) = (answer.status(), answer.json::<serde_json::Value>().await.unwrap());
                assert_eq!(status, StatusCode::OK, "{algorithm}, round {round}: {answer}");
                answer
            };
            let key = version.key.to_string();
            match purposes(*algorithm)[0] {
                Purpose::Encrypt => {
                    let sealed = call("/v1/encrypt", json!({ "key": key, "plaintext": base64url(b"4111") })).await;
                    call("/v1/decrypt", json!({ "message": sealed["message"] })).await;
                }
                Purpose::Sign => drop(call("/v1/sign", json!({ "key": key, "payload": base64url(b"4111") })).await),
                Purpose::Mac => drop(call("/v1/mac", json!({ "key": key, "payload": base64url(b"4111") })).await),
                Purpose::Agree => {
                    let made = call("/v1/encapsulate", json!({ "key": key })).await;
                    call("/v1/decapsulate", json!({ "key": key, "ciphertext": made["ciphertext"] })).await;
                }
                _ => drop(call("/v1/derive", json!({ "key": key, "bytes": 32 })).await),
            }
        }
    }
    for key in &planted {
        process.destroy(key.version);
    }
    let image = process.image().unwrap();
    let left: Vec<_> =
        planted.iter().map(|key| (key.algorithm.name(), places(&image, key))).filter(|(_, places)| !places.is_empty()).collect();
    assert!(left.is_empty(), "still in memory: {left:#?}");
}
