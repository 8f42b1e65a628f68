//! `GET /v1/status`: what the agent enforces. No secrets, and no names of keys or callers.

use std::sync::Arc;

use actix_web::{HttpResponse, web};
use schema::{
    clock::Clock,
    id::{AgentId, SiteId, TenantId},
    wire::{
        health::{JournalFault, JournalHealth, VaultFault},
        operation::AgentStatus,
    },
};

use super::{Shared, self_test};
use crate::{app::VaultHealth, journal::Status, policy::decide::freshness};

/// What does not change while the agent runs.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// The agent, its site and its tenant, once enrolled.
    pub identity: Option<(AgentId, SiteId, TenantId)>,
    /// What the vault is.
    pub vault: String,
    /// How it is.
    pub vault_health: Arc<VaultHealth>,
}

/// Says what the agent enforces, and how old it is.
#[utoipa::path(get, path = "/v1/status", tag = "agent", responses((status = 200, description = "What is enforced.", body = AgentStatus)))]
pub async fn status(shared: web::Data<Shared>) -> HttpResponse {
    let pipeline = &shared.pipeline;
    let (in_force, now) = (pipeline.current.load(), pipeline.time.now());
    let in_force = in_force.as_deref();
    let identity = shared.about.identity;
    let tested = pipeline.tests.latest();
    HttpResponse::Ok().insert_header(("cache-control", "no-store")).json(AgentStatus {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        agent: identity.map(|(agent, _, _)| agent),
        site: identity.map(|(_, site, _)| site),
        tenant: identity.map(|(_, _, tenant)| tenant),
        freshness: freshness(in_force, now),
        heartbeat_age_seconds: in_force.map(|set| set.age_seconds(now)),
        heartbeat: in_force.map(|set| set.heartbeat_serial),
        state: in_force.map(|set| set.state_serial),
        root: in_force.map(|set| set.root),
        policies: in_force.map_or_else(Vec::new, |set| set.policy_serials.clone()),
        keys: in_force.map_or(0, |set| set.key_count()),
        callers: in_force.map_or(0, |set| set.caller_count()),
        cedar_policies: in_force.map_or(0, |set| set.policies.len()),
        rejection: pipeline.current.rejection(),
        vault: shared.about.vault.clone(),
        vault_fault: shared.about.vault_health.trouble().map(|(code, detail)| VaultFault { code: code.to_owned(), detail }),
        algorithms: tested.enabled.iter().map(|algorithm| algorithm.name().to_owned()).collect(),
        self_tests: self_test::answer(&tested),
        journal: journal(pipeline.journal.status()),
    })
}

fn journal(status: Status) -> JournalHealth {
    JournalHealth {
        durable: status.durable,
        acknowledged: status.acknowledged,
        used_bytes: status.used_bytes,
        limit_bytes: status.limit_bytes,
        seconds_to_full: status.seconds_to_full.map(|seconds| seconds as u64),
        oldest_unacknowledged: status.oldest_unacknowledged,
        alarm: status.alarm,
        fault: status.fault.map(|fault| JournalFault { code: fault.code().to_owned(), detail: fault.to_string() }),
    }
}
