//! Figures of the whole system: real programs, real sockets, real files. `make bench` builds them as they are shipped and
//! runs this; it writes raw JSON to `docs/benchmarks/system.json` and prints the same.
//!
//! - 1 KiB encrypted over HTTP keep-alive, journal on, at 1, 16 and 64 connections, against a bare actix endpoint of the
//!   same shape, in turn with it.
//! - A large file encrypted and decrypted through the agent, against a bare endpoint that streams the same bytes back,
//!   and against the raw AEAD.
//! - Publish to enforced, revoke to enforced. Resident memory at rest and after load.
//!
//! `FREEHOLD_BIN` names the folder of the programs; `FREEHOLD_BENCH_FILE_MIB` (1024), `FREEHOLD_BENCH_SECONDS` (5) and
//! `FREEHOLD_BENCH_ROUNDS` (20) change the size of the trial.

mod bare;
mod load;
mod world;

use std::time::{Duration, Instant};

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
    let report = runtime.block_on(run())?;
    let text = serde_json::to_string_pretty(&report)?;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks");
    std::fs::create_dir_all(folder)?;
    std::fs::write(format!("{folder}/system.json"), format!("{text}\n"))?;
    println!("{text}");
    Ok(())
}

async fn run() -> anyhow::Result<Value> {
    let world = World::start()?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let at_rest = json!({ "agent_rss_mib": world.agent_rss_mib(), "control_plane_rss_mib": world.control_plane_rss_mib() });
    let bare = bare::start()?;
    let requests = requests(&world, bare).await?;
    let files = files(&world, bare).await?;
    let rounds = number("FREEHOLD_BENCH_ROUNDS", 20);
    let enforcement = enforcement(&world, rounds)?;
    let after = json!({ "agent_rss_mib": world.agent_rss_mib(), "agent_peak_rss_mib": world.agent_peak_mib(), "control_plane_rss_mib": world.control_plane_rss_mib() });
    Ok(json!({
        "method": "tests/benches/system; release build; load generator, bare endpoint and programs share the machine's cores",
        "cores": std::thread::available_parallelism()?.get(),
        "memory_at_rest": at_rest,
        "encrypt_1_kib": requests,
        "file": files,
        "enforcement": enforcement,
        "memory_after": after,
    }))
}

/// Requests a second, bare and agent in turn.
async fn requests(world: &World, bare: u16) -> anyhow::Result<Value> {
    let seconds = Duration::from_secs(number("FREEHOLD_BENCH_SECONDS", 5));
    let body = world.encrypt_body(1024)?;
    let agent = Shape { port: world.rest, path: "/v1/encrypt", token: Some(world.token.clone()), body: body.clone() };
    let other = Shape { port: bare, path: "/bare/encrypt", token: Some(world.token.clone()), body };
    let mut rows = Vec::new();
    for connections in [1, 16, 64] {
        load::run(&agent, connections, Duration::from_secs(1)).await?;
        load::run(&other, connections, Duration::from_secs(1)).await?;
        let mut pairs = Vec::new();
        for _ in 0..3 {
            let bare = load::run(&other, connections, seconds).await?;
            let ours = load::run(&agent, connections, seconds).await?;
            pairs.push((ours, bare));
        }
        pairs.sort_by(|a, b| (a.0.rate / a.1.rate).total_cmp(&(b.0.rate / b.1.rate)));
        let (ours, bare) = &pairs[1];
        rows.push(json!({
            "connections": connections,
            "agent": ours.json(), "bare": bare.json(), "ratio": round(ours.rate / bare.rate),
            "ratios": pairs.iter().map(|(ours, bare)| round(ours.rate / bare.rate)).collect::<Vec<_>>(),
        }));
    }
    Ok(Value::Array(rows))
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
        "raw_aead_mib_per_s": round(rate(mib, raw_aead(mib)?)),
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

/// AES-256-GCM of `aws-lc-rs` in 16 KiB pieces, nothing else.
fn raw_aead(mib: u64) -> anyhow::Result<Duration> {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).map_err(|_| anyhow::anyhow!("no key"))?);
    let mut piece = vec![1; 16 * 1024];
    let started = Instant::now();
    for number in 0..mib * 64 {
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
