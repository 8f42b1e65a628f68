//! Figures of the whole system: real programs, real sockets, real files. `make bench` builds them as they are shipped and
//! runs this; it writes raw JSON to `docs/benchmarks/system.json` and prints the same.
//!
//! - 1 KiB encrypted over HTTP keep-alive, journal on, at 1, 16, 64 and 256 connections, against a bare actix endpoint of
//!   the same shape, in turn with it; the same over TLS; a mixed load of 20 keys, 50 callers and 200 policies; batches of 100
//!   against the raw AEAD. The control plane stands still meanwhile, as it would be another machine; one row has it take the
//!   receipts on the same cores.
//! - A large file encrypted and decrypted through the agent, against a bare endpoint that streams the same bytes back,
//!   and against the raw AEAD.
//! - Publish to enforced, revoke to enforced. Resident memory at rest and after load.
//!
//! `FREEHOLD_BIN` names the folder of the programs; `FREEHOLD_BENCH_FILE_MIB` (1024), `FREEHOLD_BENCH_SECONDS` (5) and
//! `FREEHOLD_BENCH_ROUNDS` (20) change the size of the trial. `FREEHOLD_BENCH_SOAK_SECONDS` runs the long load instead, at
//! `FREEHOLD_BENCH_SOAK_RATE` (1000) requests a second.

mod bare;
mod load;
mod world;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::{load::Shape, world::World};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[allow(clippy::print_stdout, reason = "figures are what this program is for")]
fn main() -> anyhow::Result<()> {
    // `cargo test` runs benches once without `--bench`: there is nothing to check then.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    service::tls::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let soak = number("FREEHOLD_BENCH_SOAK_SECONDS", 0);
    let (name, report) = match soak {
        0 => ("system", runtime.block_on(run())?),
        seconds => ("soak", runtime.block_on(long_load(Duration::from_secs(seconds)))?),
    };
    let text = serde_json::to_string_pretty(&report)?;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks");
    std::fs::create_dir_all(folder)?;
    std::fs::write(format!("{folder}/{name}.json"), format!("{text}\n"))?;
    println!("{text}");
    Ok(())
}

/// Memory of both processes over a long mixed load at a capped rate: an error when the last quarter needs more than the
/// second, which began warm.
async fn long_load(time: Duration) -> anyhow::Result<Value> {
    const SAMPLES: u32 = 40;
    let rate = number("FREEHOLD_BENCH_SOAK_RATE", 1000);
    let world = World::start()?;
    let (keys, tokens) = world.crowd(20, 50)?;
    let shape = crowded(&world, &keys, &tokens).at_most(rate as f64);
    let mut samples = Vec::new();
    let mut answered = 0.0;
    for _ in 0..SAMPLES {
        let load = load::run(&shape, 16, time / SAMPLES).await?;
        answered += load.rate * (time / SAMPLES).as_secs_f64();
        samples.push((world.agent_rss_mib(), world.control_plane_rss_mib()));
    }
    let mean = |part: std::ops::Range<usize>, of: fn(&(u64, u64)) -> u64| {
        samples[part.clone()].iter().map(of).sum::<u64>() as f64 / part.len() as f64
    };
    let quarter = SAMPLES as usize / 4;
    let (second, last) = (quarter..2 * quarter, 3 * quarter..4 * quarter);
    let agent = (mean(second.clone(), |one| one.0), mean(last.clone(), |one| one.0));
    let control_plane = (mean(second, |one| one.1), mean(last, |one| one.1));
    anyhow::ensure!(agent.1 <= agent.0 + 4.0, "the agent grew from {} to {} MiB", agent.0, agent.1);
    Ok(json!({
        "method": "tests/benches/system, FREEHOLD_BENCH_SOAK_SECONDS; 20 keys, 50 callers, 200 policies, 16 connections, a capped rate, control plane running",
        "requests_per_s_at_most": rate,
        "seconds": time.as_secs(), "answered": answered.round(),
        "agent_rss_mib": { "second_quarter": round(agent.0), "last_quarter": round(agent.1) },
        "control_plane_rss_mib": { "second_quarter": round(control_plane.0), "last_quarter": round(control_plane.1) },
        "samples": samples.iter().map(|(agent, control_plane)| json!([agent, control_plane])).collect::<Vec<_>>(),
    }))
}

async fn run() -> anyhow::Result<Value> {
    let mut world = World::start()?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let at_rest = json!({ "agent_rss_mib": world.agent_rss_mib(), "control_plane_rss_mib": world.control_plane_rss_mib() });
    let bare = bare::start(None)?;
    let rounds = number("FREEHOLD_BENCH_ROUNDS", 20);
    let enforcement = enforcement(&world, rounds)?;
    let files = files(&world, bare).await?;
    let (keys, tokens) = world.crowd(20, 50)?;
    let one = encrypting(&world, bare)?;
    let shared = compare(&one, 64).await?;
    let after = json!({ "agent_rss_mib": world.agent_rss_mib(), "agent_peak_rss_mib": world.agent_peak_mib(), "control_plane_rss_mib": world.control_plane_rss_mib() });
    let paused = world.without_control_plane()?;
    let mut alone = Vec::new();
    for connections in [1, 16, 64, 256] {
        alone.push(compare(&one, connections).await?);
    }
    let mixed = mixed(&crowded(&world, &keys, &tokens)).await?;
    let batches = batches(&world).await?;
    let over_tls = over_tls(&mut world).await?;
    drop(paused);
    Ok(json!({
        "method": "tests/benches/system; release build; load generator, bare endpoint and agent share the machine's cores",
        "cores": std::thread::available_parallelism()?.get(),
        "memory_at_rest": at_rest,
        "encrypt_1_kib": alone,
        "encrypt_1_kib_with_the_control_plane_on_the_same_cores": shared,
        "encrypt_1_kib_20_keys_50_callers_200_policies": mixed,
        "encrypt_1_kib_in_batches_of_100": batches,
        "encrypt_1_kib_over_tls": over_tls,
        "file": files,
        "enforcement": enforcement,
        "memory_after_files_and_load": after,
    }))
}

fn seconds() -> Duration {
    Duration::from_secs(number("FREEHOLD_BENCH_SECONDS", 5))
}

/// The request of the agent, and the one of the bare endpoint.
fn encrypting(world: &World, bare: u16) -> anyhow::Result<(Shape, Shape)> {
    let body = world.encrypt_body(1024)?;
    let shape = |port, path| Shape::new(port, path, &world.token, &body);
    Ok((shape(world.rest, "/v1/encrypt"), shape(bare, "/bare/encrypt")))
}

/// Requests a second of both in turn, three times; the pair with the median ratio.
async fn compare((agent, other): &(Shape, Shape), connections: usize) -> anyhow::Result<Value> {
    load::run(agent, connections, Duration::from_secs(1)).await?;
    load::run(other, connections, Duration::from_secs(1)).await?;
    let mut pairs = Vec::new();
    for _ in 0..3 {
        let bare = load::run(other, connections, seconds()).await?;
        let ours = load::run(agent, connections, seconds()).await?;
        pairs.push((ours, bare));
    }
    pairs.sort_by(|a, b| (a.0.rate / a.1.rate).total_cmp(&(b.0.rate / b.1.rate)));
    let (ours, bare) = &pairs[1];
    Ok(json!({
        "connections": connections,
        "agent": ours.json(), "bare": bare.json(), "ratio": round(ours.rate / bare.rate),
        "ratios": pairs.iter().map(|(ours, bare)| round(ours.rate / bare.rate)).collect::<Vec<_>>(),
    }))
}

/// Every caller with every key.
fn crowded(world: &World, keys: &[String], tokens: &[String]) -> Shape {
    let bodies: Vec<String> = keys.iter().map(|key| world::encrypt_body(key, 1024)).collect();
    let requests = tokens.iter().flat_map(|token| bodies.iter().map(move |body| ("/v1/encrypt", token.as_str(), body.as_str())));
    Shape::several(world.rest, requests)
}

async fn mixed(shape: &Shape) -> anyhow::Result<Value> {
    load::run(shape, 64, Duration::from_secs(1)).await?;
    Ok(load::run(shape, 64, seconds()).await?.json())
}

/// Items a second in batches of 100, 4 connections, against the raw AEAD on messages of the same size on one core.
async fn batches(world: &World) -> anyhow::Result<Value> {
    let item: Value = serde_json::from_str(&world.encrypt_body(1024)?)?;
    let body = json!({ "items": vec![item; 100] }).to_string();
    let shape = Shape::new(world.rest, "/v1/batch/encrypt", &world.token, &body);
    load::run(&shape, 4, Duration::from_secs(1)).await?;
    let items = load::run(&shape, 4, seconds()).await?.rate * 100.0;
    let count = 1 << 20;
    let raw = count as f64 / raw_aead(1024, count)?.as_secs_f64();
    Ok(json!({ "items_per_s": items.round(), "raw_aead_per_s_on_one_core": raw.round(), "ratio": round(items / raw) }))
}

/// Kept-alive connections over TLS, 64 of them, against a bare endpoint with the same settings.
async fn over_tls(world: &mut World) -> anyhow::Result<Value> {
    let authority = world.speak_tls()?;
    let directory = authority.parent().context("the authority has no folder")?.to_owned();
    let bare = bare::start(Some((&directory.join("certificate.pem"), &directory.join("key.pem"))))?;
    let (agent, other) = encrypting(world, bare)?;
    compare(&(agent.over_tls(&authority)?, other.over_tls(&authority)?), 64).await
}

/// MiB a second through the agent, through a bare streaming echo, and of the AEAD alone.
async fn files(world: &World, bare: u16) -> anyhow::Result<Value> {
    let mib = number("FREEHOLD_BENCH_FILE_MIB", 1024);
    let plain = world.directory.path().join("plain");
    world::write_file(&plain, mib)?;
    let sealed = world.directory.path().join("sealed");
    let opened = world.directory.path().join("opened");
    let mut rows = Vec::new();
    for _ in 0..3 {
        let echo = load::stream(bare, "/bare/echo", None, &plain, &opened).await?;
        let encrypt =
            load::stream(world.rest, &format!("/v1/stream/encrypt?key={}", world.key), Some(&world.token), &plain, &sealed).await?;
        let decrypt = load::stream(world.rest, "/v1/stream/decrypt", Some(&world.token), &sealed, &opened).await?;
        rows.push((rate(mib, echo), rate(mib, encrypt), rate(mib, decrypt)));
    }
    anyhow::ensure!(same(&plain, &opened)?, "the decrypted file differs");
    rows.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
    let (echo, encrypt, decrypt) = rows[1];
    Ok(json!({
        "mib": mib,
        "echo_mib_per_s": round(echo), "encrypt_mib_per_s": round(encrypt), "decrypt_mib_per_s": round(decrypt),
        "raw_aead_mib_per_s": round(rate(mib, raw_aead(16 * 1024, mib * 64)?)),
        "encrypt_to_echo": round(encrypt / echo), "decrypt_to_echo": round(decrypt / echo),
        "runs": rows.iter().map(|(echo, encrypt, decrypt)| json!([round(*echo), round(*encrypt), round(*decrypt)])).collect::<Vec<_>>(),
    }))
}

fn same(one: &std::path::Path, other: &std::path::Path) -> anyhow::Result<bool> {
    use std::io::Read;
    let (mut one, mut other) = (std::fs::File::open(one)?, std::fs::File::open(other)?);
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let read = one.read(&mut a)?;
        if read == 0 {
            return Ok(other.read(&mut b)? == 0);
        }
        other.read_exact(&mut b[..read])?;
        if a[..read] != b[..read] {
            return Ok(false);
        }
    }
}

/// AES-256-GCM of `aws-lc-rs` over so many pieces, nothing else.
fn raw_aead(piece_bytes: usize, count: u64) -> anyhow::Result<Duration> {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).map_err(|_| anyhow::anyhow!("no key"))?);
    let mut piece = vec![1; piece_bytes];
    let started = Instant::now();
    for number in 0..count {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&number.to_be_bytes());
        let tag = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut piece);
        let _ = std::hint::black_box(tag.map_err(|_| anyhow::anyhow!("could not seal"))?);
    }
    Ok(started.elapsed())
}

/// Milliseconds from the command to the first answer that follows it, seen by polling.
fn enforcement(world: &World, rounds: u64) -> anyhow::Result<Value> {
    let mut publish = Vec::new();
    let mut revoke = Vec::new();
    for round in 0..rounds {
        let caller = world.register(&format!("round-{round}"))?;
        publish.push(world.publish_to_enforced(&caller)?);
        revoke.push(world.revoke_to_enforced(&caller)?);
    }
    Ok(json!({ "publish_ms": spread(&mut publish), "revoke_ms": spread(&mut revoke), "rounds": rounds }))
}

fn spread(values: &mut [f64]) -> Value {
    values.sort_by(f64::total_cmp);
    let at = |part: f64| values.get(((values.len() as f64 - 1.0) * part) as usize).copied().map(round);
    json!({ "min": at(0.0), "p50": at(0.5), "max": at(1.0) })
}

fn rate(mib: u64, time: Duration) -> f64 {
    mib as f64 / time.as_secs_f64()
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
