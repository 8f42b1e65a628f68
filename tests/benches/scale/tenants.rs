//! Many tenants.

use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::plane::Plane;

/// So many tenants, each with a project and a site.
pub async fn measure(count: usize) -> anyhow::Result<Value> {
    let mut plane = Plane::start().await?;
    let started = Instant::now();
    let tokens: Vec<String> = stream::iter(0..count)
        .map(|number| {
            let plane = &plane;
            async move {
                let token = plane.tenant(&format!("tenant-{number}")).await?;
                plane.mutate(&token, "createProject", json!({ "name": "payments" }), "project { id }").await?;
                plane.mutate(&token, "createSite", json!({ "name": "fra" }), "site { id }").await?;
                anyhow::Ok(token)
            }
        })
        .buffer_unordered(16)
        .try_collect()
        .await?;
    let seconds = started.elapsed().as_secs_f64();
    let running = plane.rss_mib();
    plane.stop()?;
    let start_ms = plane.start_again().await?;
    let rss_at_start = plane.rss_mib();
    // The first question of a tenant opens its data key; later ones find it open.
    let mut first = Vec::new();
    for token in tokens.iter().take(100) {
        let started = Instant::now();
        plane.query(token, "{ projects(first: 10) { nodes { id name } } }", json!({})).await?;
        first.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    first.sort_by(f64::total_cmp);
    let list_ms = plane.time(&plane.operator()?, "{ tenants(first: 100) { nodes { id } } }", json!({})).await?;
    Ok(json!({
        "tenants": count, "made_per_s": (count as f64 / seconds).round(), "rss_mib_after_making_them": running,
        "start_ms": start_ms, "rss_mib_at_start": rss_at_start, "list_of_100_ms": list_ms,
        "first_question_of_a_tenant_ms": { "p50": crate::at(&first, 0.5), "p99": crate::at(&first, 0.99) },
    }))
}
