//! Raw AES-256-GCM against chunks of a sealed file, one use of each algorithm, and the library alone beside ours. `cargo bench --bench cryptography`.

use std::hint::black_box;

use aws_lc_rs::{
    kem::{DecapsulationKey, ML_KEM_768},
    signature::{ML_DSA_65_SIGNING, PqdsaKeyPair},
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use data_plane_agent::{
    algorithm::{self, ContentEncryption, aes_gcm::Aes256Gcm},
    message::file::chunks::{CHUNK_BYTES, ChunkOpener, ChunkSealer},
    vault::secret::ContentKey,
};
use schema::{
    catalogue::{Algorithm, Sealing},
    clock::{ManualIds, SystemIds},
    key::Purpose,
};

const MEBIBYTE: usize = 1024 * 1024;

fn content(c: &mut Criterion) {
    let mut group = c.benchmark_group("1 MiB");
    group.throughput(Throughput::Bytes(MEBIBYTE as u64));
    let plaintext = vec![7; MEBIBYTE];
    let gcm = Aes256Gcm::new(&[1; 32]).expect("AES-256-GCM");
    let mut data = plaintext.clone();
    group.bench_function("AES-256-GCM alone, chunk by chunk", |b| {
        b.iter(|| {
            for chunk in data.chunks_mut(CHUNK_BYTES) {
                black_box(gcm.seal([0; 12], &[], chunk).expect("sealing"));
            }
        });
    });
    let mut out = Vec::with_capacity(2 * MEBIBYTE);
    for piece in [16 * 1024, 10_000] {
        group.bench_function(format!("sealed in pieces of {piece}"), |b| {
            b.iter(|| {
                out.clear();
                let mut sealer = ChunkSealer::new(&[1; 32], [2; 24], &[3; 32]).expect("a sealer");
                for piece in plaintext.chunks(piece) {
                    sealer.push(piece, &mut out).expect("sealing");
                }
                sealer.finish(&mut out).expect("sealing");
            });
        });
    }
    let sealed = out.clone();
    for piece in [16 * 1024, 10_000] {
        group.bench_function(format!("opened in pieces of {piece}"), |b| {
            b.iter(|| {
                out.clear();
                let mut opener = ChunkOpener::new([1; 32].into(), [3; 32]);
                for piece in sealed.chunks(piece) {
                    opener.push(piece, &mut out).expect("opening");
                }
                opener.finish(&mut out).expect("opening");
            });
        });
    }
    group.finish();
}

fn uses(c: &mut Criterion) {
    let mut group = c.benchmark_group("one use");
    for algorithm in Algorithm::all() {
        let serving = algorithm::serve(algorithm);
        let secret = serving.test_secret(algorithm, &ManualIds::seeded(1)).expect("a secret");
        let key = serving.load(algorithm, &secret).expect("a key");
        let message = [7; 1024];
        if algorithm.serves(Purpose::Sign) {
            if key.is_slow() {
                group.sample_size(10);
            }
            let public_key = key.public_key().expect("a public key").to_vec();
            let signature = key.sign(&message).expect("a signature");
            group.bench_function(format!("{algorithm} sign 1 KiB"), |b| b.iter(|| key.sign(black_box(&message))));
            group.bench_function(format!("{algorithm} verify 1 KiB"), |b| {
                b.iter(|| serving.verify(algorithm, &public_key, black_box(&message), &signature));
            });
        }
        match algorithm.entry().sealing {
            Some(Sealing::ContentKey) => {
                let content = ContentKey::random(&SystemIds);
                let enc = ContentEncryption::A256Gcm;
                let wrap = || match key.public_key() {
                    Some(public_key) => serving.seal_key(algorithm, public_key, &content, enc, &SystemIds),
                    None => key.wrap_key(&content, enc),
                };
                let wrapped = wrap().expect("a wrapped key");
                group.bench_function(format!("{algorithm} wrap"), |b| b.iter(wrap));
                group.bench_function(format!("{algorithm} unwrap"), |b| b.iter(|| key.unwrap_key(black_box(&wrapped), enc).is_ok()));
            }
            Some(Sealing::Direct) => {
                let seal = || match key.public_key() {
                    Some(public_key) => serving.seal_content(algorithm, public_key, b"", &message, &SystemIds),
                    None => key.seal_content(b"", &message, &SystemIds),
                };
                let sealed = seal().expect("sealed content");
                group.bench_function(format!("{algorithm} seal 1 KiB"), |b| b.iter(seal));
                group.bench_function(format!("{algorithm} open 1 KiB"), |b| b.iter(|| key.open_content(b"", black_box(&sealed)).is_ok()));
            }
            None => {}
        }
    }
    group.finish();
}

/// What our layers cost over the library alone: the aim is 0.7 of its rate.
fn against_the_library(c: &mut Criterion) {
    let ids = ManualIds::seeded(1);
    let key = |name: &str| {
        let algorithm: Algorithm = name.parse().expect("an algorithm");
        let secret = algorithm::serve(algorithm).generate(algorithm, &ids).expect("a secret");
        (algorithm, algorithm::serve(algorithm).load(algorithm, &secret).expect("a key"))
    };
    let mut group = c.benchmark_group("against aws-lc-rs alone");
    let message = [7; 1024];
    let alone = PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, &[1; 32]).expect("a key");
    let mut signature = vec![0; 3309];
    group.bench_function("ML-DSA-65 sign 1 KiB, alone", |b| b.iter(|| alone.sign(black_box(&message), &mut signature)));
    let (_, ours) = key("ML-DSA-65");
    group.bench_function("ML-DSA-65 sign 1 KiB", |b| b.iter(|| ours.sign(black_box(&message))));
    let alone = DecapsulationKey::generate(&ML_KEM_768).expect("a key");
    let encapsulating = alone.encapsulation_key().expect("a public key");
    let (ciphertext, _) = encapsulating.encapsulate().expect("a ciphertext");
    let ciphertext = ciphertext.as_ref().to_vec();
    group
        .bench_function("ML-KEM-768 decapsulate, alone", |b| b.iter(|| alone.decapsulate(black_box(ciphertext.as_slice()).into()).is_ok()));
    let (algorithm, ours) = key("ML-KEM-768");
    let public_key = ours.public_key().expect("a public key");
    let made = algorithm::serve(algorithm).encapsulate(algorithm, public_key, &ids).expect("a ciphertext");
    group.bench_function("ML-KEM-768 decapsulate", |b| b.iter(|| ours.decapsulate(black_box(&made.ciphertext)).is_ok()));
    group.finish();
}

criterion_group!(benches, content, uses, against_the_library);
criterion_main!(benches);
