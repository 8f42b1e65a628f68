//! An agent that is killed at any moment under load: what it answered is on disk, nothing stands twice, and it starts again without help.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use schema::{
    clock::{Clock as _, Ids as _, SystemClock, random},
    wire::agent::{OutcomeResult, ReceiptBody},
};

use super::{super::*, process::Process, receipts::Receipts};

/// Requests that run at once.
const CALLERS: usize = 12;
/// Items of a batch; each is an operation of its own.
const ITEMS: usize = 10;
/// Bytes of plaintext of an item, by which its intent is known.
const ITEM_BYTES: u64 = 17;
/// The longest that an agent lives under load.
const LONGEST: Duration = Duration::from_millis(400);
/// The longest that one lives that is killed while it starts.
const LONGEST_START: Duration = Duration::from_millis(1500);
/// Kills of one journal; then its end is looked at, and another begins.
const KILLS_OF_A_LIFE: usize = 30;

/// How many times an agent is killed under load; 1000 in long trials, whose counts are kept in `docs/benchmarks`.
fn rounds() -> usize {
    if soak() { 1000 } else { 30 }
}

fn soak() -> bool {
    std::env::var_os("FREEHOLD_SOAK").is_some()
}

fn below(limit: Duration) -> Duration {
    let share = u64::from_be_bytes(random(&SystemIds)) as f64 / u64::MAX as f64;
    limit.mul_f64(share)
}

/// What happened, over all lives.
#[derive(Debug, Default, serde::Serialize)]
struct Counts {
    kills_under_load: usize,
    kills_while_starting: usize,
    /// Requests that got their whole answer.
    answered_requests: usize,
    /// Operations they asked for.
    answered_operations: usize,
    refused_requests: u64,
    /// Intents on disk.
    intents: usize,
    /// Intents that a kill left open, closed as `unknown` by the next start.
    closed_as_unknown: usize,
    /// Answered operations whose outcome was lost with the process.
    answered_and_unknown: usize,
    journals_with_a_torn_end: usize,
    seconds: u64,
}

/// What callers were answered: the request, and how many operations it was.
#[derive(Default)]
struct Promised {
    requests: Mutex<HashMap<String, usize>>,
    refused: AtomicU64,
}

impl Promised {
    /// Sends requests of every kind until there is no answer.
    async fn load(&self, site: &Site, url: &str, message: &str, signature: &str) {
        let plaintext = |bytes: u64| base64url(&vec![7; bytes as usize]);
        loop {
            let mut kind = [0];
            SystemIds.fill(&mut kind);
            let item = json!({ "key": "payments/card-data", "plaintext": plaintext(ITEM_BYTES) });
            let (path, token, body, operations) = match kind[0] % 8 {
                0..=2 => ("/v1/encrypt", &site.billing, json!({ "key": "payments/card-data", "plaintext": plaintext(100) }), 1),
                3 => ("/v1/decrypt", &site.billing, json!({ "message": message, "context": { "a": "1" } }), 1),
                4 => ("/v1/sign", &site.billing, json!({ "key": "payments/documents", "payload": "AAAA", "detached": true }), 1),
                5 => ("/v1/verify", &site.auditor, json!({ "signature": signature, "payload": "AAAA", "key": "payments/documents" }), 1),
                6 => ("/v1/batch/encrypt", &site.billing, json!({ "items": vec![item; ITEMS] }), ITEMS),
                _ => ("/v1/encrypt", &site.auditor, json!({ "key": "payments/card-data", "plaintext": "" }), 0),
            };
            let Ok(answer) = site.http.post(format!("{url}{path}")).bearer_auth(token).json(&body).send().await else { return };
            let request = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
            let status = answer.status();
            let Ok(body) = answer.bytes().await else { return };
            match (status.as_u16(), operations) {
                (200, 1..) => assert!(self.requests.lock().unwrap().insert(request, operations).is_none(), "a request id stands twice"),
                (403, 0) => drop(self.refused.fetch_add(1, Ordering::SeqCst)),
                other => panic!("{path}: {other:?} {}", String::from_utf8_lossy(&body)),
            }
        }
    }

    /// What must hold at any moment: all that was answered has its intents, and nothing stands twice.
    fn check(&self, found: &Receipts) {
        let intents = found.intents();
        for (request, operations) in &*self.requests.lock().unwrap() {
            let on_disk = intents.get(request.as_str()).map_or(0, Vec::len);
            assert_eq!(on_disk, *operations, "{request} was answered");
        }
        for (request, of_it) in &intents {
            // Of a batch that was not answered, some may be on disk and others not.
            let batch = of_it.iter().all(|receipt| matches!(&receipt.body, ReceiptBody::Intent(intent) if intent.size == Some(ITEM_BYTES)));
            assert!(of_it.len() <= if batch { ITEMS } else { 1 }, "{request} stands {} times: {of_it:#?}", of_it.len());
        }
        found.outcomes();
    }
}

/// One journal: so many kills, then a start after which everything is looked at.
async fn life(kills: usize, counts: &mut Counts) {
    let settings = "[server]\nlisten = \"127.0.0.1:0\"\nplain_http = true\nworkers = 2\n[journal]\nsegment = \"1MiB\"\n\
                    [limits]\nrequests_per_second = 1000000";
    let mut site = Site::start_with(settings, SystemClock.now()).await;
    site.publish();
    let (_, sealed) = site.encrypt(&site.billing).await;
    let message = sealed["message"].as_str().unwrap().to_owned();
    let body = json!({ "key": "payments/documents", "payload": "AAAA", "detached": true });
    let (_, signed) = site.call("/v1/sign", &site.billing, body).await;
    let signature = signed["signature"].as_str().unwrap().to_owned();
    site.stop().await;
    let directory = site.config.journal_directory();
    let promised = Promised::default();
    for round in 0..kills {
        if round % 5 == 4 {
            let starting = Process::spawn(&site, None);
            tokio::time::sleep(below(LONGEST_START)).await;
            starting.kill();
            promised.check(&Receipts::read(&directory));
            counts.kills_while_starting += 1;
        }
        let process = Process::start(&site, None);
        let url = process.url.clone();
        let load = futures::future::join_all((0..CALLERS).map(|_| promised.load(&site, &url, &message, &signature)));
        let kill = async {
            tokio::time::sleep(below(LONGEST)).await;
            tokio::task::spawn_blocking(move || process.kill()).await.unwrap();
        };
        tokio::join!(load, kill);
        let found = Receipts::read(&directory);
        promised.check(&found);
        counts.kills_under_load += 1;
        counts.journals_with_a_torn_end += usize::from(found.torn);
    }

    site.start_again().await;
    let (ready, why) = site.ready().await;
    assert_eq!(ready, StatusCode::OK, "{why}");
    let (status, opened) = site.call("/v1/decrypt", &site.billing, json!({ "message": message, "context": { "a": "1" } })).await;
    assert_eq!(status, StatusCode::OK, "{opened}");
    site.stop().await;
    let found = Receipts::read(&directory);
    promised.check(&found);
    let (intents, outcomes) = (found.intents(), found.outcomes());
    assert!(!found.torn);
    let all = intents.values().map(Vec::len).sum::<usize>();
    assert_eq!(outcomes.len(), all, "every intent is closed");
    let unknown = |seq| outcomes[&seq] == OutcomeResult::Unknown;
    let requests = promised.requests.into_inner().unwrap();
    let answered = requests.keys().flat_map(|request| &intents[request.as_str()]);
    counts.answered_and_unknown += answered.filter(|receipt| unknown(receipt.seq)).count();
    counts.closed_as_unknown += outcomes.values().filter(|result| **result == OutcomeResult::Unknown).count();
    counts.answered_requests += requests.len();
    counts.answered_operations += requests.values().sum::<usize>();
    counts.refused_requests += promised.refused.into_inner();
    counts.intents += all;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_under_load_keeps_what_it_promised() {
    let (mut counts, started) = (Counts::default(), Instant::now());
    while counts.kills_under_load < rounds() {
        life(KILLS_OF_A_LIFE.min(rounds() - counts.kills_under_load), &mut counts).await;
    }
    counts.seconds = started.elapsed().as_secs();
    let text = serde_json::to_string_pretty(&counts).unwrap();
    println!("{text}");
    assert!(counts.answered_operations > rounds() * 10, "there was no load: {text}");
    assert!(counts.closed_as_unknown > 0, "no kill ever met an open operation: {text}");
    if soak() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks/kills.json"), format!("{text}\n")).unwrap();
    }
}
