//! Agents in long poll.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use freehold_tests::pretend::{Agent, Applicant};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::plane::Plane;

pub const SITES: usize = 10;
const PUBLICATIONS: usize = 10;
/// How long nothing happens, to see what waiting costs.
const QUIET: Duration = Duration::from_secs(60);

/// So many agents; publish to enforced, and what they cost.
pub async fn measure(count: usize) -> anyhow::Result<Value> {
    let plane = Plane::start().await?;
    let empty = plane.rss_mib();
    let token = plane.tenant("waiting").await?;
    plane.mutate(&token, "createProject", json!({ "name": "payments" }), "project { id }").await?;
    plane.mutate(&token, "createPolicy", json!({ "name": "main", "project": "payments" }), "policy { id }").await?;
    let mut sites = Vec::new();
    for number in 0..SITES {
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
    let others = (SITES..count).map(|number| enrol(&plane, &token, &sites[number % SITES]));
    let others: Vec<Agent> = stream::iter(others).buffer_unordered(8).try_collect().await?;
    let enrolling = started.elapsed().as_secs_f64();
    let (sender, mut arrivals) = mpsc::unbounded_channel();
    let poll = |mut agent: Agent| {
        let sender = sender.clone();
        tokio::spawn(async move {
            let mut known = 0;
            loop {
                match agent.sync(55).await {
                    Ok(true) => {
                        // Heartbeats and states come as well: only another policy counts.
                        let serials = agent.set.as_ref().map_or(0, |set| set.policies().map(|(_, policy)| policy.head.serial).sum());
                        if serials != std::mem::replace(&mut known, serials) {
                            let _ = sender.send(Instant::now());
                        }
                    }
                    Ok(false) => {}
                    Err((status, code)) => panic!("an agent was refused: {status} {code}"),
                }
            }
        })
    };
    let agents: Vec<_> = founders.into_iter().chain(others).map(poll).collect();
    let agents = Arc::new(agents);
    quiet(&mut arrivals).await;
    let waiting = plane.rss_mib();
    let (before, since) = (plane.processor_seconds(), Instant::now());
    tokio::time::sleep(QUIET).await;
    let idle = (plane.processor_seconds() - before) / since.elapsed().as_secs_f64();
    let (mut times, mut last, mut processor) = (Vec::new(), Vec::new(), 0.0);
    for number in 0..PUBLICATIONS {
        quiet(&mut arrivals).await;
        let cedar = format!(
            "@id(\"p{number}\")\npermit (principal, action == Action::\"verify\", resource) when {{ context has size && context.size < {} }};",
            1000 + number
        );
        let draft = json!({ "policy": "payments/main", "content": { "cedar": cedar } });
        plane.mutate(&token, "savePolicyDraft", draft, "policy { id }").await?;
        quiet(&mut arrivals).await;
        let before = plane.processor_seconds();
        let published = Instant::now();
        plane.mutate(&token, "publishPolicy", json!({ "policy": "payments/main" }), "policy { id }").await?;
        let mut of_this = Vec::new();
        while of_this.len() < count {
            let at = tokio::time::timeout(Duration::from_secs(60), arrivals.recv()).await?.context("no agents")?;
            of_this.push((at - published).as_secs_f64() * 1000.0);
        }
        processor += plane.processor_seconds() - before;
        last.push(*of_this.last().context("no agents")?);
        times.extend(of_this);
    }
    for agent in agents.iter() {
        anyhow::ensure!(!agent.is_finished(), "an agent stopped");
        agent.abort();
    }
    times.sort_by(f64::total_cmp);
    last.sort_by(f64::total_cmp);
    Ok(json!({
        "agents": count, "sites": SITES, "enrolled_per_s": (count as f64 / enrolling * 10.0).round() / 10.0,
        "publish_to_enforced_ms": { "p50": crate::at(&times, 0.5), "p99": crate::at(&times, 0.99), "the_last_of_all_p50": crate::at(&last, 0.5) },
        "control_plane_rss_mib": { "empty": empty, "agents_waiting": waiting },
        "control_plane_processor": {
            "share_of_a_core_while_nothing_happens": (idle * 10_000.0).round() / 10_000.0,
            "ms_for_a_publication_and_an_agent": (processor * 1000.0 / (PUBLICATIONS * count) as f64 * 1000.0).round() / 1000.0,
        },
    }))
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
