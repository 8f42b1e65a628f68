//! Long polls for the statements of a site.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{ETAG, IF_NONE_MATCH},
    },
    web::{Data, Query},
};
use schema::{
    encoding::Digest,
    id::AgentId,
    wire::{
        agent::RATCHET_HEADER,
        delta::{A_IM, DELTA_BASE, IM, MANIPULATION, is_named},
        problem::Problem,
    },
};
use service::problem::{HttpProblem, fault};

use super::{AgentApi, Shown, refusal, too_many};
use crate::bundles::serve::Served;

/// The longest that a long poll waits.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How often it is looked at meanwhile whether the agent is still one.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How many long polls of one agent may wait at a time: the one that counts, and some whose connections broke unnoticed.
const POLLS_PER_AGENT: usize = 4;

/// `?wait=<seconds>`
#[derive(serde::Deserialize)]
pub(super) struct Wait {
    #[serde(default)]
    wait: u64,
}

pub(super) async fn statements(
    request: HttpRequest,
    shown: Shown,
    api: Data<AgentApi>,
    query: Query<Wait>,
) -> Result<HttpResponse, HttpProblem> {
    let peer = &shown.peer;
    api.limit_agent(peer.identity.agent)?;
    api.still(&shown).await?;
    let (tenant, site) = (peer.identity.tenant, peer.identity.site);
    let at = request.headers().get(RATCHET_HEADER).and_then(|value| value.to_str().ok()).and_then(ratchet_position);
    if !api.reports.may_be_served(&peer.identity, at).await.map_err(|error| fault(&error))? {
        let detail = "another process has reported as this agent since; report, then ask again";
        return Err(refusal(409, "ratchet_elsewhere", detail));
    }
    let known = request.headers().get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let patience = Duration::from_secs(query.wait).min(LONGEST_WAIT);
    let takes_deltas = request.headers().get_all(A_IM).any(|value| value.to_str().is_ok_and(is_named));
    let mut waiter = api.statements.waiter(tenant, site, known).taking_deltas(takes_deltas);
    if !waiter.is_served().await.map_err(|error| fault(&error))? {
        api.statements.bring_up_to_date(tenant).await.map_err(|error| fault(&error))?;
        waiter.look_again();
    }
    let _poll = api.polls.begin(peer.identity.agent).ok_or_else(|| too_many(LOOK_EVERY))?;
    let until = Instant::now() + patience;
    let newer = loop {
        let left = until.saturating_duration_since(Instant::now());
        let newer = tokio::select! {
            newer = waiter.newer(left.min(LOOK_EVERY)) => newer.map_err(|error| fault(&error))?,
            () = api.stopping.cancelled() => break None,
        };
        // An agent that was revoked while it waited learns nothing more.
        api.still(&shown).await?;
        if newer.is_some() || left <= LOOK_EVERY {
            break newer;
        }
    };
    match newer {
        Some(served) => Ok(answer(served)),
        None if known.is_some() => Ok(HttpResponse::NotModified().insert_header((ETAG, known.unwrap_or_default().to_owned())).finish()),
        None => Err(Problem::new(
            503,
            "statements_not_ready",
            "Statements not ready",
            "nothing was published for this site yet; ask again in a second",
        )
        .into()),
    }
}

/// The whole set, or what is lacked of it (RFC 3229). Nobody who keeps answers for others stands in between, and one that does not know
/// status 226 keeps none: nothing is said about keeping.
fn answer(served: Served) -> HttpResponse {
    let (form, mut answer) = match served.base {
        None => ("whole", HttpResponse::Ok()),
        Some(base) => {
            let mut answer = HttpResponse::build(StatusCode::IM_USED);
            answer.insert_header((IM, MANIPULATION)).insert_header((DELTA_BASE, base));
            ("delta", answer)
        }
    };
    metrics::counter!("freehold_statements_served_total", "form" => form).increment(1);
    metrics::counter!("freehold_statements_served_bytes_total", "form" => form).increment(served.body.len() as u64);
    answer.insert_header((ETAG, served.etag)).content_type("application/json").body(served.body)
}

/// `<counter>.<hash>`
fn ratchet_position(text: &str) -> Option<(u64, Digest)> {
    let (counter, hash) = text.split_once('.')?;
    Some((counter.parse().ok()?, hash.parse().ok()?))
}

/// The long polls that wait, by agent.
#[derive(Clone, Default)]
pub(super) struct Polls(Arc<Mutex<HashMap<AgentId, usize>>>);

/// A long poll that waits, until it is dropped.
struct Poll {
    polls: Polls,
    agent: AgentId,
}

impl Polls {
    /// Nothing when the agent has enough of them already.
    fn begin(&self, agent: AgentId) -> Option<Poll> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.entry(agent).or_default();
        if *count >= POLLS_PER_AGENT {
            return None;
        }
        *count += 1;
        Some(Poll { polls: self.clone(), agent })
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        let mut waiting = self.polls.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = waiting.entry(self.agent) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}
