//! How the control plane grows: agents that wait for statements, tenants, and one large tenant. `make bench` builds it as it is
//! shipped and runs this; it writes raw JSON to `docs/benchmarks/scale.json` and prints the same.
//!
//! - *agents*: pretend agents in long poll, each over its own TLS connection, which all come for their first set at once. Then nothing
//!   happens for a while: the processor time of waiting. Then a policy of the project is published again and again: how long after
//!   the request each agent has the new set, and, of those that verify it as agents do, has verified it. Agents and control plane
//!   share the machine, so most of that time is spent by the agents. A tenth of the agents on ten sites, all of which verify; then all of
//!   them on ten sites and on a tenth as many sites as there are agents, where one in ten verifies: each of a thousand agents has a
//!   machine of its own, and not two cores for all.
//! - *tenants*: so many tenants, each with a project and a site.
//! - *large tenant*: so many keys on a hundred sites, then so many events of receipts beside them; lists, searches, as-of, a start.
//!
//! Records are in PostgreSQL. `FREEHOLD_BIN` names the folder of the programs; `FREEHOLD_BENCH_AGENTS` (1000), `FREEHOLD_BENCH_TENANTS` (1000),
//! `FREEHOLD_BENCH_KEYS` (100000) and `FREEHOLD_BENCH_EVENTS` (10000000) change the size of the trial; 0 leaves a part out.
//! `FREEHOLD_BENCH_TRIALS` chooses among the trials of agents: `02` is the first and the last.

mod agents;
mod large;
mod plane;
mod tenants;

use agents::Trial;
use serde_json::{Value, json};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Milliseconds below which this part of the sorted times stayed.
fn at(times: &[f64], part: f64) -> Value {
    let index = ((times.len() as f64 - 1.0).max(0.0) * part) as usize;
    json!(times.get(index).map(|time| (time * 100.0).round() / 100.0))
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "figures are what this program is for")]
fn main() -> anyhow::Result<()> {
    // `cargo test` runs benches once without `--bench`: there is nothing to check then.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    service::tls::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let most = number("FREEHOLD_BENCH_AGENTS", 1000);
        let mut agents = Vec::new();
        let trials = [
            Trial { agents: most / 10, sites: 10, believers: 1 },
            Trial { agents: most, sites: 10, believers: 10 },
            Trial { agents: most, sites: most / 10, believers: 10 },
        ];
        let chosen = std::env::var("FREEHOLD_BENCH_TRIALS").ok();
        let is_chosen = |number: usize| chosen.as_ref().is_none_or(|chosen| chosen.contains(&number.to_string()));
        for (number, trial) in trials.into_iter().enumerate() {
            if trial.agents >= 10 && is_chosen(number) {
                agents.push(agents::measure(trial).await?);
                eprintln!("{}", agents[agents.len() - 1]);
            }
        }
        let most = number("FREEHOLD_BENCH_TENANTS", 1000);
        let tenants = if most == 0 { Value::Null } else { tenants::measure(most).await? };
        eprintln!("{tenants}");
        let (keys, events) = (number("FREEHOLD_BENCH_KEYS", 100_000), number("FREEHOLD_BENCH_EVENTS", 10_000_000));
        let large = if keys == 0 { Value::Null } else { large::measure(keys, events).await? };
        anyhow::Ok(json!({
            "method": "tests/benches/scale; release build; PostgreSQL, control plane and clients share the machine",
            "cores": std::thread::available_parallelism()?.get(),
            "agents_in_long_poll": agents, "tenants": tenants, "large_tenant": large,
        }))
    })?;
    let text = serde_json::to_string_pretty(&report)?;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks");
    std::fs::create_dir_all(folder)?;
    std::fs::write(format!("{folder}/scale.json"), format!("{text}\n"))?;
    println!("{text}");
    Ok(())
}
