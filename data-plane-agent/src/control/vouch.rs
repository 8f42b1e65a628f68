//! An agent of the site vouches for one that joins: a person here compares the join code that the newcomer's enrolment
//! printed with the pair the site tells of. From then on this agent believes that pair, and says so in a signed document,
//! so that the others of the site may believe it too.
//!
//! The same for an agent of another site that shares a key with this one: it becomes no agent of this site, but is sent material of
//! such keys, and versions of them that it made are believed.

use std::{sync::Arc, time::Duration};

use schema::{
    clock::Timestamp,
    encoding::{Base64, Digest},
    id::{AgentId, SiteId},
};
use tokio::sync::Notify;
use trust::{
    accept::{AcceptedSet, Confirmed, Identity, Rejection, restore},
    document::{self, AgentVouch},
    pair::Pair,
    statement::state::Vouch,
};

use super::directory::{ControlDirectory, KeepError};

/// Why nobody was vouched for.
#[derive(Debug, thiserror::Error)]
pub enum VouchError {
    /// This agent is nobody itself.
    #[error("this agent has not joined a site: run freehold-agent enrol first")]
    NotEnrolled,
    /// It has nothing to compare with.
    #[error("this agent has no statements of its site yet: start it, and try again when it is ready")]
    NoStatements,
    /// What it has does not hold.
    #[error("the kept statements do not hold: start the agent, and try again when it is ready")]
    Rejected(#[source] Rejection),
    /// There is nobody of that id.
    #[error(
        "neither this site nor one that shares a key with it tells of an agent {0}: has it enrolled, and has this agent heard of it since? Try again in a minute"
    )]
    Unknown(AgentId),
    /// Somebody else's pair goes by that id.
    #[error("the site tells of another pair as {agent}, with the join code {found}: do not vouch for it, and find out whose that is")]
    OtherPair {
        /// Who.
        agent: AgentId,
        /// The key id of the pair.
        found: Digest,
    },
    /// Reading or keeping failed.
    #[error(transparent)]
    Keep(#[from] KeepError),
}

/// How often it is looked whether a person here did something that the site is to be told.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Rings when a person here confirmed something or made a recovery key, which is then said with the next report. Never ends.
pub async fn ring(directory: ControlDirectory, to_report: Arc<Notify>) {
    let mut known = directory.told_at();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let present = directory.told_at();
        if present != known {
            known = present;
            to_report.notify_one();
        }
    }
}

/// Whom a person here confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// An agent of this site.
    Own,
    /// One of another site, that shares a key with this one.
    Neighbour(SiteId),
}

/// Keeps that a person here compared the join code of a newcomer. A running agent acts on it within seconds.
pub fn confirm(directory: &ControlDirectory, agent: AgentId, code: Digest) -> Result<Whom, VouchError> {
    let identity = directory.identity()?.ok_or(VouchError::NotEnrolled)?.identity;
    let statements = directory.statements()?.ok_or(VouchError::NoStatements)?;
    let set = restore(&statements, &identity).map_err(VouchError::Rejected)?;
    let (whom, found) = pair_of(&set, agent).ok_or(VouchError::Unknown(agent))?;
    if found != code {
        return Err(VouchError::OtherPair { agent, found });
    }
    let mut confirmed = directory.confirmed()?;
    match whom {
        Whom::Own => confirmed.agents.insert(agent, code),
        Whom::Neighbour(_) => confirmed.neighbours.insert(agent, code),
    };
    directory.keep_confirmed(&confirmed)?;
    Ok(whom)
}

/// What this agent says of those a person here confirmed, as far as the site does not know it yet.
pub fn vouches(set: &AcceptedSet, confirmed: &Confirmed, by: &Identity, pair: &Pair, now: Timestamp) -> Vec<Base64> {
    let mut vouches = Vec::new();
    for (agent, keyid) in confirmed.agents.iter().chain(&confirmed.neighbours) {
        let Some((whom, _)) = pair_of(set, *agent).filter(|(_, found)| found == keyid) else { continue };
        let (site, slot, confirmed) = match whom {
            Whom::Own => (by.site, set.state().roster.get(agent), &confirmed.agents),
            Whom::Neighbour(site) => {
                (site, set.state().neighbours.get(&site).and_then(|neighbour| neighbour.roster.get(agent)), &confirmed.neighbours)
            }
        };
        let said = |vouch: &Vouch| matches!(vouch, Vouch::Agent { agent, .. } if *agent == by.agent);
        let is_known = slot.is_some_and(|slot| slot.vouches.iter().any(said));
        if confirmed.contains_key(agent) && !is_known {
            vouches.push(document::sign(&AgentVouch { tenant: by.tenant, site, agent: *agent, keyid: *keyid, issued: now }, pair));
        }
    }
    vouches
}

/// The key id of the pair that is told of as this agent's, believed or waiting for a vouch, and what it is to this site.
fn pair_of(set: &AcceptedSet, agent: AgentId) -> Option<(Whom, Digest)> {
    let believed = set.agents().get(&agent).map(|pair| pair.keyid());
    let own = believed.or_else(|| set.waiting_agents().get(&agent).copied()).map(|keyid| (Whom::Own, keyid));
    let neighbour = || {
        let believed = set.neighbours().get(&agent).map(|(site, pair)| (*site, pair.keyid()));
        believed.or_else(|| set.waiting_neighbours().get(&agent).copied()).map(|(site, keyid)| (Whom::Neighbour(site), keyid))
    };
    own.or_else(neighbour)
}
