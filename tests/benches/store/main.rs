//! Appends a second to the event store, on both SQL engines, with 1 to 256 writers, against bare batched inserts of the same
//! bytes in the same run; the same by three processes over one PostgreSQL; and reading it all again. `make bench` writes raw JSON to `docs/benchmarks/store.json` and prints the same.
//!
//! - *store*: each writer appends records of about 0.6 KB to its own stream, one after the other, through
//!   `EventStore::append`: sealed, revision checked, durable before it is answered.
//! - *bare*: one task inserts the same sealed bytes into a table of the same columns and indexes, as many rows a
//!   transaction as there are writers, durable as well. No locks, no checks, no answers.
//!
//! - *command*: the receipts of a journal are acknowledged, on a stream that already has 2000 events: load, authorise, decide,
//!   append; by a handler that has seen the stream before, and by one that has not (as after a restart).
//!
//! - *processes*: as many writers in all, in one process and in three over the same PostgreSQL.
//! - *reading*: all records from the first, as a follower that catches up reads them: fetched, opened, parsed.
//! - *rebuild*: the read model of keys written anew from their records, against bare bulk inserts of the same rows.
//!
//! `FREEHOLD_BENCH_APPENDS` (16000) changes the size of the trial; it is divided by eight for one writer.

mod processes;
mod reading;
mod rebuild;

use std::{sync::Arc, time::Instant};

use control_plane::{
    access::{authorize::CedarAuthorizer, context::OpContext, permit::Question},
    database::{Database, Location},
    eventing::{
        handler::{Handler, Options},
        sql::SqlStore,
        store::{Append, EventStore},
    },
    receipts::aggregate::{JournalCommand, JournalStream},
    sealing::{Keyring, Place, SealingKey},
};
use freehold_tests::database::{Engine, TestDatabase};
use schema::{
    clock::{Clock, SystemClock, SystemIds, new_id, random_id},
    encoding::Digest,
    event::{Envelope, RECORD_VERSION, Record, StreamId},
    id::{AgentId, EventId, IncarnationId, PrincipalId, ProjectId, RequestId, SiteId, TenantId},
};
use sea_orm::{ConnectionTrait, Value};
use serde_json::json;

const TENANT: TenantId = TenantId::from_bits(1);
const ROUNDS: usize = 3;
/// How long a stream a command meets.
const COMMANDED: u64 = 2000;

#[allow(clippy::print_stdout, reason = "figures are what this program is for")]
fn main() -> anyhow::Result<()> {
    // `cargo test` runs benches once without `--bench`: there is nothing to check then.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Some(task) = processes::task()? {
        return runtime.block_on(processes::write(task));
    }
    let report = runtime.block_on(async {
        let mut engines = Vec::new();
        for (name, engine) in [("sqlite", Engine::Sqlite), ("postgres", Engine::Postgres)] {
            let (appends, reading) = measure(engine).await?;
            let (command, rebuild) = (command(engine).await?, rebuild::measure(engine).await?);
            engines.push(json!({ "engine": name, "appends": appends, "reading": reading, "rebuild": rebuild, "command": command }));
        }
        let processes = processes::measure(total()).await?;
        anyhow::Ok(json!({
            "method": "tests/benches/store.rs; release build; records of about 0.6 KB, one an append; database, writers and bare inserts share the machine; the median of three rounds by ratio",
            "cores": std::thread::available_parallelism()?.get(),
            "engines": engines,
            "processes_over_one_postgres": processes,
        }))
    })?;
    let text = serde_json::to_string_pretty(&report)?;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks");
    std::fs::create_dir_all(folder)?;
    std::fs::write(format!("{folder}/store.json"), format!("{text}\n"))?;
    println!("{text}");
    Ok(())
}

fn total() -> usize {
    std::env::var("FREEHOLD_BENCH_APPENDS").ok().and_then(|text| text.parse().ok()).unwrap_or(16_000)
}

async fn open(location: &Location) -> anyhow::Result<(Database, Arc<Keyring>, Arc<SqlStore>)> {
    let database = Database::open(location).await?;
    let key = SealingKey::from_bytes([1; 32]);
    let keyring = Arc::new(Keyring::open(database.clone(), &key, Arc::new(SystemClock), Arc::new(SystemIds)).await?);
    let store = Arc::new(SqlStore::open(database.clone(), Arc::clone(&keyring)).await?);
    Ok((database, keyring, store))
}

async fn measure(engine: Engine) -> anyhow::Result<(Vec<serde_json::Value>, serde_json::Value)> {
    let files = TestDatabase::new(engine)?;
    let (database, keyring, store) = open(&files.location).await?;
    let bytes = if engine == Engine::Sqlite { "BLOB" } else { "BYTEA" };
    let bigint = if engine == Engine::Sqlite { "INTEGER" } else { "BIGINT" };
    let table = format!(
        "CREATE TABLE bare (position {bigint} NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, stream TEXT NOT NULL, revision {bigint} NOT NULL, \
         event TEXT NOT NULL, data_key TEXT NOT NULL, sealed {bytes} NOT NULL, UNIQUE (tenant, stream, revision))"
    );
    for statement in
        [table.as_str(), "CREATE INDEX bare_by_event ON bare (tenant, event)", "CREATE INDEX bare_by_tenant ON bare (tenant, position)"]
    {
        database.write().execute_unprepared(statement).await?;
    }
    let total = total();
    let mut position = 0;
    let mut rows = Vec::new();
    for writers in [1, 4, 16, 64, 256] {
        let each = (if writers == 1 { total / 8 } else { total / writers }).max(1);
        run_store(&store, writers, each / 10 + 1).await?;
        run_bare(&database, &keyring, writers, each / 10 + 1, &mut position).await?;
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let bare = run_bare(&database, &keyring, writers, each, &mut position).await?;
            let ours = run_store(&store, writers, each).await?;
            rounds.push((ours, bare));
        }
        rounds.sort_by(|a, b| (a.0.rate / a.1).total_cmp(&(b.0.rate / b.1)));
        let ratios = rounds.iter().map(|(ours, bare)| (ours.rate / bare * 100.0).round() / 100.0).collect::<Vec<_>>();
        let (ours, bare) = rounds.swap_remove(ROUNDS / 2);
        rows.push(json!({
            "writers": writers, "appends": writers * each,
            "store_per_s": ours.rate.round(), "p50_ms": ours.at(0.5), "p99_ms": ours.at(0.99),
            "bare_per_s": bare.round(), "ratio": ratios[ROUNDS / 2], "ratios": ratios,
        }));
    }
    let reading = reading::measure(&*store).await?;
    store.close().await;
    Ok((rows, reading))
}

/// Milliseconds of one command on a stream with many events.
async fn command(engine: Engine) -> anyhow::Result<serde_json::Value> {
    let files = TestDatabase::new(engine)?;
    let (_, keyring, store) = open(&files.location).await?;
    let authorizer = Arc::new(CedarAuthorizer::new()?);
    let handler = || {
        let (store, keyring, authorizer) = (store.clone(), keyring.clone(), authorizer.clone());
        Handler::new(store, keyring, authorizer, Arc::new(SystemClock), Arc::new(SystemIds))
    };
    let journal: IncarnationId = random_id(&SystemIds);
    let ctx = OpContext {
        tenant: TENANT,
        principal: PrincipalId::Agent(AgentId::from_bits(1)),
        scopes: Vec::new(),
        via: None,
        request: RequestId::from_bits(1),
    };
    let accept = async |handler: &Handler, last_seq: u64| {
        let hash = Digest::of(&last_seq.to_be_bytes());
        let (site, agent) = (SiteId::from_bits(1), AgentId::from_bits(1));
        let command = JournalCommand::Accept { site, agent, lost_to: None, last_seq, chain: hash, head_sha256: hash };
        let question = Question::new("shipReceipts", "Receipts", journal);
        let start = Instant::now();
        handler.handle::<JournalStream>(&ctx, question, journal, Options::default(), command).await?;
        anyhow::Ok(start.elapsed().as_secs_f64() * 1000.0)
    };
    let seen = handler();
    for n in 1..=COMMANDED {
        accept(&seen, n).await?;
    }
    let (mut again, mut fresh) = (Vec::new(), Vec::new());
    for n in (COMMANDED + 1..).step_by(2).take(25) {
        again.push(accept(&seen, n).await?);
        fresh.push(accept(&handler(), n + 1).await?);
    }
    store.close().await;
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        (times[times.len() / 2] * 100.0).round() / 100.0
    };
    Ok(json!({ "stream_events": COMMANDED, "median_ms": median(again), "median_ms_never_seen_before": median(fresh) }))
}

/// Records of as many new streams, made beforehand.
fn streams(writers: usize, each: usize) -> anyhow::Result<Vec<(StreamId, Vec<Record>)>> {
    let note = "x".repeat(200);
    (0..writers)
        .map(|_| {
            let stream = StreamId::of(random_id::<ProjectId>(&SystemIds));
            let records = (1..=each as u64).map(|revision| {
                let now = SystemClock.now();
                Record::write(Envelope {
                    v: RECORD_VERSION,
                    id: new_id::<EventId>(&SystemIds, now),
                    tenant: TENANT,
                    stream: stream.clone(),
                    revision,
                    event_type: "KeyDescribed".to_owned(),
                    schema: 1,
                    time: now,
                    actor: "mem_00000000000000000000000001".to_owned(),
                    on_behalf_of: None,
                    via: None,
                    idempotency_key: Some(format!("bench-{revision}")),
                    request_mac: None,
                    correlation: "req_00000000000000000000000001".to_owned(),
                    causation: None,
                    data: json!({ "description": note }),
                })
            });
            Ok((stream.clone(), records.collect::<Result<Vec<_>, _>>()?))
        })
        .collect()
}

/// What came of appends: how many a second, and how long each took.
struct Appends {
    rate: f64,
    /// Milliseconds, in order.
    latencies: Vec<f64>,
}

impl Appends {
    /// The latency that this part of the appends stayed below, ms.
    fn at(&self, part: f64) -> f64 {
        let index = ((self.latencies.len() as f64 - 1.0) * part) as usize;
        (self.latencies[index] * 100.0).round() / 100.0
    }
}

async fn run_store(store: &Arc<SqlStore>, writers: usize, each: usize) -> anyhow::Result<Appends> {
    let streams = streams(writers, each)?;
    let start = Instant::now();
    let running = streams.into_iter().map(|(stream, records)| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            let mut latencies = Vec::with_capacity(records.len());
            for (expected, record) in (0..).zip(records) {
                let sent = Instant::now();
                store.append(Append { tenant: TENANT, stream: stream.clone(), expected, records: vec![record], blobs: vec![] }).await?;
                latencies.push(sent.elapsed().as_secs_f64() * 1000.0);
            }
            anyhow::Ok(latencies)
        })
    });
    let mut latencies = Vec::with_capacity(writers * each);
    for outcome in futures::future::join_all(running).await {
        latencies.extend(outcome??);
    }
    let rate = (writers * each) as f64 / start.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    Ok(Appends { rate, latencies })
}

async fn run_bare(database: &Database, keyring: &Keyring, batch: usize, each: usize, position: &mut i64) -> anyhow::Result<f64> {
    let keys = keyring.tenant(TENANT).await?;
    let streams = streams(batch, each)?;
    let mut batches: Vec<Vec<Value>> = Vec::with_capacity(each);
    for revision in 0..each {
        let mut values = Vec::with_capacity(batch * 7);
        for (stream, records) in &streams {
            let sealed = keys.seal(Place::Record { stream, revision: revision as u64 + 1 }, records[revision].bytes())?;
            *position += 1;
            values.extend([
                Value::from(*position),
                TENANT.to_string().into(),
                stream.as_str().into(),
                (revision as i64 + 1).into(),
                records[revision].envelope().id.to_string().into(),
                sealed.data_key.to_string().into(),
                sealed.bytes.into(),
            ]);
        }
        batches.push(values);
    }
    let places: Vec<_> =
        (0..batch).map(|row| format!("({})", (1..=7).map(|n| format!("${}", row * 7 + n)).collect::<Vec<_>>().join(", "))).collect();
    let sql = format!("INSERT INTO bare (position, tenant, stream, revision, event, data_key, sealed) VALUES {}", places.join(", "));
    let start = Instant::now();
    for values in batches {
        let transaction = database.begin().await?;
        transaction.execute_raw(database.sql(sql.as_str(), values)).await?;
        transaction.commit().await?;
    }
    Ok((batch * each) as f64 / start.elapsed().as_secs_f64())
}
