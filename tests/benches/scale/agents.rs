//! Agents in long poll.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use freehold_tests::pretend::{Agent, Applicant, Fetched};
use futures::{StreamExt, TryStreamExt, stream};
use schema::{
    encoding::Digest,
    wire::delta::{Part, StatementDelta},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::plane::Plane;

const PUBLICATIONS: usize = 10;
/// How long nothing happens, to see what waiting costs.
const QUIET: Duration = Duration::from_secs(60);
/// How long an agent whose request failed waits before it comes again, at most.
const PAUSE: Duration = Duration::from_secs(2);

/// So many agents on so many sites, of which one in `believers` verifies everything it is served as agents do. What that costs is paid by
/// each agent's own host, and here by the one machine that everybody shares; the others read all that is sent and see whether policy is
/// another.
#[derive(Debug, Clone, Copy)]
pub struct Trial {
    pub agents: usize,
    pub sites: usize,
    pub believers: usize,
}

/// Somebody has another policy.
struct Arrival {
    at: Instant,
    believed: bool,
}

/// The policies of a set, which an agent that believes nothing looks at.
fn policies(fetched: &Fetched) -> Vec<Digest> {
    let set: StatementDelta = serde_json::from_slice(fetched.body()).expect("a set, or a part of it");
    let digest = |part| match part {
        Part::Written(envelope) => Digest::of(envelope.as_slice()),
        Part::Held { held } => held,
    };
    set.policies.into_iter().map(digest).collect()
}

/// Publish to served and to enforced, and what they cost.
pub async fn measure(Trial { agents: count, sites: site_count, believers }: Trial) -> anyhow::Result<Value> {
    let plane = Plane::start().await?;
    let empty = plane.rss_mib();
    let token = plane.tenant("waiting").await?;
    plane.mutate(&token, "createProject", json!({ "name": "payments" }), "project { id }").await?;
    plane.mutate(&token, "createPolicy", json!({ "name": "main", "project": "payments" }), "policy { id }").await?;
    let mut sites = Vec::new();
    for number in 0..site_count {
        let name = format!("site-{number}");
        plane.mutate(&token, "createSite", json!({ "name": name }), "site { id }").await?;
        let key = json!({
            "project": "payments", "name": format!("key-{number}"), "algorithm": "A256KW+A256GCM", "purpose": "ENCRYPT",
            "placement": [name], "durability": "SINGLE_COPY",
        });
        plane.mutate(&token, "createKey", key, "key { id }").await?;
        sites.push(name);
    }
    // The first agent of a site founds it; the others join beside it.
    let started = Instant::now();
    let founders: Vec<Agent> = stream::iter(&sites).map(|site| enrol(&plane, &token, site)).buffered(1).try_collect().await?;
    let others = (site_count..count).map(|number| enrol(&plane, &token, &sites[number % site_count]));
    let others: Vec<Agent> = stream::iter(others).buffer_unordered(8).try_collect().await?;
    let enrolling = started.elapsed().as_secs_f64();
    let (sender, mut arrivals) = mpsc::unbounded_channel();
    let (failures, bytes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let first_fetch = Instant::now();
    let poll = |(number, mut agent): (usize, Agent)| {
        let (sender, failures, bytes) = (sender.clone(), failures.clone(), bytes.clone());
        let believes = number % believers == 0;
        tokio::spawn(async move {
            let (mut known, mut seen) = (0, None);
            loop {
                let fetched = match agent.fetch(55).await {
                    Ok(Ok(None)) => continue,
                    Ok(Ok(Some(fetched))) => fetched,
                    failed => {
                        if failures.fetch_add(1, Ordering::Relaxed) == 0 {
                            report_first(&failed.map(|answer| answer.map(drop)));
                        }
                        tokio::time::sleep(PAUSE * (number % 16 + 1) as u32 / 16).await;
                        continue;
                    }
                };
                bytes.fetch_add(fetched.body().len(), Ordering::Relaxed);
                // Heartbeats and states come as well: only another policy counts.
                if believes {
                    agent.believe(&agent.complete(&fetched).expect("a part of what it has"));
                    let serials = agent.set.as_ref().map_or(0, |set| set.policies().map(|(_, policy)| policy.head.serial).sum());
                    if serials != std::mem::replace(&mut known, serials) {
                        let _ = sender.send(Arrival { at: Instant::now(), believed: true });
                    }
                } else {
                    let policies = policies(&fetched);
                    if seen.as_ref() != Some(&policies) {
                        seen = Some(policies);
                        let _ = sender.send(Arrival { at: Instant::now(), believed: false });
                    }
                }
            }
        })
    };
    let agents: Vec<_> = founders.into_iter().chain(others).enumerate().map(poll).collect();
    let mut first = 0.0;
    for _ in 0..count {
        let arrival = tokio::time::timeout(Duration::from_secs(300), arrivals.recv()).await?.context("no agents")?;
        first = (arrival.at - first_fetch).as_secs_f64();
    }
    quiet(&mut arrivals).await;
    let (failed_at_first, waiting) = (failures.swap(0, Ordering::Relaxed), plane.rss_mib());
    let (before, since) = (plane.processor_seconds(), Instant::now());
    tokio::time::sleep(QUIET).await;
    let idle = (plane.processor_seconds() - before) / since.elapsed().as_secs_f64();
    let (mut served, mut enforced, mut last, mut processor) = (Vec::new(), Vec::new(), Vec::new(), 0.0);
    bytes.store(0, Ordering::Relaxed);
    let (mut commands, mut sent) = (Vec::new(), 0);
    for number in 0..PUBLICATIONS {
        quiet(&mut arrivals).await;
        let cedar = format!(
            "@id(\"p{number}\")\npermit (principal, action == Action::\"verify\", resource) when {{ context has size && context.size < {} }};",
            1000 + number
        );
        let draft = json!({ "policy": "payments/main", "content": { "cedar": cedar } });
        plane.mutate(&token, "savePolicyDraft", draft, "policy { id }").await?;
        quiet(&mut arrivals).await;
        let (before, bytes_before) = (plane.processor_seconds(), bytes.load(Ordering::Relaxed));
        let published = Instant::now();
        plane.mutate(&token, "publishPolicy", json!({ "policy": "payments/main" }), "policy { id }").await?;
        commands.push(published.elapsed().as_secs_f64() * 1000.0);
        let mut latest = 0.0_f64;
        for _ in 0..count {
            let arrival = tokio::time::timeout(Duration::from_secs(120), arrivals.recv()).await?.context("no agents")?;
            let took = (arrival.at - published).as_secs_f64() * 1000.0;
            latest = latest.max(took);
            served.push(took);
            if arrival.believed {
                enforced.push(took);
            }
        }
        processor += plane.processor_seconds() - before;
        sent = bytes.load(Ordering::Relaxed) - bytes_before;
        last.push(latest);
    }
    for agent in &agents {
        anyhow::ensure!(!agent.is_finished(), "an agent stopped");
        agent.abort();
    }
    for times in [&mut served, &mut enforced, &mut last, &mut commands] {
        times.sort_by(f64::total_cmp);
    }
    Ok(json!({
        "agents": count, "sites": site_count, "agents_that_verify": count.div_ceil(believers),
        "enrolled_per_s": (count as f64 / enrolling * 10.0).round() / 10.0,
        "all_served_after_they_came_at_once_s": (first * 100.0).round() / 100.0,
        "requests_that_failed": { "when_all_came_at_once": failed_at_first, "later": failures.load(Ordering::Relaxed) },
        "set_kib": (sent as f64 / count as f64 / 102.4).round() / 10.0,
        "the_command_itself_p50_ms": crate::at(&commands, 0.5),
        "publish_to_served_ms": { "p50": crate::at(&served, 0.5), "p99": crate::at(&served, 0.99), "the_last_of_all_p50": crate::at(&last, 0.5) },
        "publish_to_enforced_ms": { "p50": crate::at(&enforced, 0.5), "p99": crate::at(&enforced, 0.99) },
        "control_plane_rss_mib": { "empty": empty, "agents_waiting": waiting, "after_the_publications": plane.rss_mib() },
        "control_plane_processor": {
            "share_of_a_core_while_nothing_happens": (idle * 10_000.0).round() / 10_000.0,
            "ms_for_a_publication_and_an_agent": (processor * 1000.0 / (PUBLICATIONS * count) as f64 * 1000.0).round() / 1000.0,
        },
    }))
}

#[allow(clippy::print_stderr, reason = "whoever measures is to see what went wrong")]
fn report_first<T: std::fmt::Debug>(failed: &T) {
    eprintln!("a request of an agent failed: {failed:?}");
}

async fn enrol(plane: &Plane, token: &str, site: &str) -> anyhow::Result<Agent> {
    let made = plane.mutate(token, "inviteAgent", json!({ "site": site }), "enrolment").await?;
    let file = serde_json::from_str(made["enrolment"].as_str().context("no enrolment")?)?;
    Ok(Applicant::new(file).enrol().await)
}

/// Waits until no agent has heard anything for two seconds.
async fn quiet<T>(arrivals: &mut mpsc::UnboundedReceiver<T>) {
    while tokio::time::timeout(Duration::from_secs(2), arrivals.recv()).await.is_ok() {}
}
