//! Group commit of the agent's journal: durable intents a second with 1, 16 and 64 callers at once, each followed by its
//! outcome. Raw figures go to `docs/benchmarks/journal.json`.
//!
//! `FREEHOLD_BENCH_SECONDS` (5) and `FREEHOLD_BENCH_DIRECTORY` (the system's temporary one) change the trial. The directory
//! must be on a disk: on a memory file system a sync costs nothing.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use data_plane_agent::journal::{DurableJournal, Journal, JournalConfig};
use schema::{
    clock::{Ids, SystemClock, SystemIds, random_id},
    id::{KeyId, KeyVersion, RequestId},
    key::Operation,
    wire::agent::{Intent, OutcomeResult},
};
use serde_json::{Value, json};
use service::config::Size;

#[allow(clippy::print_stdout, reason = "figures are what this program is for")]
fn main() -> anyhow::Result<()> {
    // `cargo test` runs benches once without `--bench`: there is nothing to check then.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let seconds = std::env::var("FREEHOLD_BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let directory = match std::env::var_os("FREEHOLD_BENCH_DIRECTORY") {
        Some(parent) => tempfile::tempdir_in(parent)?,
        None => tempfile::tempdir()?,
    };
    let mut rows = Vec::new();
    for callers in [1, 16, 64] {
        let mut runs: Vec<Value> =
            (0..3).map(|_| run(directory.path(), callers, Duration::from_secs(seconds))).collect::<anyhow::Result<_>>()?;
        runs.sort_by_key(|run| run["intents_per_s"].as_u64());
        rows.push(json!({ "callers": callers, "median": runs[1], "runs": runs }));
    }
    let report = json!({
        "method": "tests/benches/journal.rs; release build; entries of the size of a real request, fdatasync per group",
        "cores": std::thread::available_parallelism()?.get(),
        "group_commit": rows,
    });
    let text = serde_json::to_string_pretty(&report)?;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks");
    std::fs::create_dir_all(folder)?;
    std::fs::write(format!("{folder}/journal.json"), format!("{text}\n"))?;
    println!("{text}");
    Ok(())
}

fn run(parent: &Path, callers: usize, time: Duration) -> anyhow::Result<Value> {
    let directory = tempfile::tempdir_in(parent)?;
    let config = JournalConfig { limit: Size(16 << 30), ..JournalConfig::default() };
    let journal = Arc::new(DurableJournal::open(directory.path(), &config, Arc::new(SystemClock), &SystemIds)?);
    let done = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..callers {
            let (journal, done) = (journal.clone(), done.clone());
            tasks.spawn(async move {
                while started.elapsed() < time {
                    let ticket = journal.intent(intent()).await?;
                    journal.outcome(ticket, OutcomeResult::Ok, None, Some(1024));
                    done.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let intents = done.load(Ordering::Relaxed) as f64;
    let bytes = journal.status().used_bytes as f64;
    Ok(json!({
        "intents_per_s": (intents / seconds).round() as u64,
        "mib_per_s": (bytes / seconds / f64::from(1 << 20) * 10.0).round() / 10.0,
        "bytes_per_operation": (bytes / intents.max(1.0)).round() as u64,
    }))
}

fn intent() -> Intent {
    let ids: &dyn Ids = &SystemIds;
    let context = [("tenant", "oGbGbVyCMIXcKeTNK3dkFA"), ("purpose", "x0q5tVnrMZgJ8aXWvQ2PLw")];
    Intent {
        caller: Some("clr_01h2xcejqtf2nbrexx3vqjhp41".to_owned()),
        operation: Operation::Encrypt,
        key_version: Some(KeyVersion::new(KeyId::from_bits(7), 3)),
        algorithm: Some("A256KW+A256GCM".to_owned()),
        size: Some(1024),
        context: context.map(|(name, mac)| (name.to_owned(), mac.to_owned())).into(),
        context_key: Some("2026-11.x0q5tVnrMZgJ8aXW".to_owned()),
        request: random_id::<RequestId>(ids).to_string(),
        trace: None,
        statements: "h42.s7.t3.p1".to_owned(),
        policies: vec!["pol_01h2xcejqtf2nbrexx3vqjhp41/0".to_owned()],
    }
}
