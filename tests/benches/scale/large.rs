//! One large tenant: keys, then many more events.

use std::time::Instant;

use anyhow::Context;
use control_plane::eventing::store::{Append, EventStore};
use futures::{StreamExt, TryStreamExt, stream};
use schema::{
    clock::{Clock, SystemClock, SystemIds, new_id, random_id},
    encoding::Digest,
    event::{Envelope, RECORD_VERSION, Record, StreamId},
    id::{AgentId, EventId, IncarnationId, SiteId, TenantId},
};
use serde_json::{Value, json};

use crate::plane::Plane;

const SITES: usize = 100;
/// Records of a stream of the fill, and of one append.
const STREAM: usize = 10_000;
const APPEND: usize = 100;

/// So many keys, so many events.
pub async fn measure(keys: usize, events: usize) -> anyhow::Result<Value> {
    let mut plane = Plane::start().await?;
    let token = plane.tenant("large").await?;
    plane.mutate(&token, "createProject", json!({ "name": "payments" }), "project { id }").await?;
    for number in 0..SITES {
        plane.mutate(&token, "createSite", json!({ "name": format!("site-{number}") }), "site { id }").await?;
    }
    let started = Instant::now();
    stream::iter(0..keys)
        .map(|number| {
            let (plane, token) = (&plane, &token);
            async move {
                let labels = json!([{ "name": "team", "value": format!("team-{}", number % 1000) }]);
                let input = json!({
                    "project": "payments", "name": format!("key-{number}"), "algorithm": "A256KW+A256GCM", "purpose": "ENCRYPT",
                    "placement": [format!("site-{}", number % SITES)], "durability": "SINGLE_COPY", "labels": labels,
                });
                plane.mutate(token, "createKey", input, "key { id }").await
            }
        })
        .buffer_unordered(32)
        .try_for_each(async |_| Ok(()))
        .await?;
    let making = started.elapsed().as_secs_f64();
    let middle = SystemClock.now();
    let tenant: TenantId = plane.query(&token, "{ viewer { tenant { id } } }", json!({})).await?["viewer"]["tenant"]["id"]
        .as_str()
        .context("no id")?
        .parse()?;
    plane.stop()?;
    let few_events_ms = plane.start_again().await?;
    plane.stop()?;
    let filling = fill(&plane, tenant, events).await?;
    let start_ms = plane.start_again().await?;
    let rss_at_start = plane.rss_mib();
    let one = format!("payments/key-{}", keys / 2);
    let at = json!({ "at": middle.to_string(), "one": one });
    let questions = [
        ("first_page_of_keys", "{ keys(first: 100) { nodes { id name } } }", json!({})),
        ("search_by_part_of_a_name", "{ keys(first: 10, search: \"key-777\") { nodes { id name } } }", json!({})),
        ("by_label", "{ keys(first: 100, label: { name: \"team\", value: \"team-77\" }) { nodes { id name } } }", json!({})),
        ("by_site", "{ keys(first: 100, site: \"site-7\") { nodes { id name } } }", json!({})),
        ("one_key", "query($one: String!) { key(reference: $one) { id name versions { number state } } }", json!({ "one": one })),
        ("one_key_as_of", "query($one: String!, $at: Timestamp!) { key(reference: $one, asOf: $at) { id name } }", at.clone()),
        ("first_page_as_of", "query($at: Timestamp!) { keys(first: 100, asOf: $at) { nodes { id name } } }", json!({ "at": at["at"] })),
        ("last_events", "{ events(last: 50) { nodes { id } } }", json!({})),
    ];
    let mut times = serde_json::Map::new();
    for (name, query, variables) in questions {
        times.insert(name.to_owned(), json!(plane.time(&token, query, variables).await?));
    }
    let started = Instant::now();
    plane.mutate(&token, "describeKey", json!({ "key": one, "description": "after the fill" }), "key { id }").await?;
    let command_ms = (started.elapsed().as_secs_f64() * 100_000.0).round() / 100.0;
    Ok(json!({
        "keys": keys, "sites": SITES, "keys_made_per_s": (keys as f64 / making).round(),
        "events_filled": events, "filled_per_s": filling,
        "start_ms": { "before_the_fill": few_events_ms, "after": start_ms },
        "rss_mib": { "at_start": rss_at_start, "after_the_questions": plane.rss_mib() },
        "median_ms": times, "a_command_on_one_key_ms": command_ms,
    }))
}

/// Appends events of receipts straight to the store; records a second.
async fn fill(plane: &Plane, tenant: TenantId, events: usize) -> anyhow::Result<f64> {
    let store = plane.open_store().await?;
    let started = Instant::now();
    let streams = events.div_ceil(STREAM);
    stream::iter(0..streams).map(|_| one_stream(&store, tenant)).buffer_unordered(4).try_for_each(async |()| Ok(())).await?;
    let rate = (streams * STREAM) as f64 / started.elapsed().as_secs_f64();
    store.close().await;
    Ok(rate.round())
}

async fn one_stream(store: &dyn EventStore, tenant: TenantId) -> anyhow::Result<()> {
    let stream = StreamId::of(random_id::<IncarnationId>(&SystemIds));
    let (site, agent) = (SiteId::from_bits(1), AgentId::from_bits(1));
    for expected in (0..STREAM as u64).step_by(APPEND) {
        let records = (expected + 1..=expected + APPEND as u64).map(|revision| {
            let now = SystemClock.now();
            let hash = Digest::of(&revision.to_be_bytes());
            let number = revision.to_string();
            Record::write(Envelope {
                v: RECORD_VERSION,
                id: new_id::<EventId>(&SystemIds, now),
                tenant,
                stream: stream.clone(),
                revision,
                event_type: "ReceiptsAccepted".to_owned(),
                schema: 1,
                time: now,
                actor: agent.to_string(),
                on_behalf_of: None,
                via: None,
                idempotency_key: Some(format!("bench-{revision}")),
                request_mac: None,
                correlation: "req_00000000000000000000000001".to_owned(),
                causation: None,
                data: json!({ "site": site, "agent": agent, "first_seq": number, "last_seq": number, "chain": hash, "head_sha256": hash }),
            })
        });
        let records = records.collect::<Result<Vec<_>, _>>()?;
        store.append(Append { tenant, stream: stream.clone(), expected, records, blobs: vec![] }).await?;
    }
    Ok(())
}
