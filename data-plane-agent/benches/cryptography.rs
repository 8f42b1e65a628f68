//! Raw AES-256-GCM against chunks of a sealed file, and one use of each algorithm. `cargo bench --bench cryptography`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use data_plane_agent::{
    algorithm::{self, ContentEncryption, aes_gcm::Aes256Gcm},
    message::file::chunks::{CHUNK_BYTES, ChunkOpener, ChunkSealer},
    vault::secret::ContentKey,
};
use schema::{
    catalogue::Algorithm,
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
        let secret = serving.generate(algorithm, &ManualIds::seeded(1)).expect("a secret");
        let key = serving.load(algorithm, &secret).expect("a key");
        if algorithm.serves(Purpose::Sign) {
            let public_key = key.public_key().expect("a public key").to_vec();
            let message = [7; 1024];
            let signature = key.sign(&message).expect("a signature");
            group.bench_function(format!("{algorithm} sign 1 KiB"), |b| b.iter(|| key.sign(black_box(&message))));
            group.bench_function(format!("{algorithm} verify 1 KiB"), |b| {
                b.iter(|| serving.verify(algorithm, &public_key, black_box(&message), &signature));
            });
        }
        if algorithm.serves(Purpose::Encrypt) {
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
    }
    group.finish();
}

criterion_group!(benches, content, uses);
criterion_main!(benches);
