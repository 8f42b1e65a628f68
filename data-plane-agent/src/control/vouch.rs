//! An agent of the site vouches for one that joins: a person here compares the join code that the newcomer's enrolment
//! printed with the pair the site tells of. From then on this agent believes that pair, and says so in a signed document,
//! so that the others of the site may believe it too.

use std::{sync::Arc, time::Duration};

use schema::{
    clock::Timestamp,
    encoding::{Base64, Digest},
    id::AgentId,
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
    #[error("the site tells of no agent {0}: has it enrolled, and has this agent heard of it since? Try again in a minute")]
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

/// Keeps that a person here compared the join code of a newcomer. A running agent acts on it within seconds.
pub fn confirm(directory: &ControlDirectory, agent: AgentId, code: Digest) -> Result<(), VouchError> {
    let identity = directory.identity()?.ok_or(VouchError::NotEnrolled)?.identity;
    let statements = directory.statements()?.ok_or(VouchError::NoStatements)?;
    let set = restore(&statements, &identity).map_err(VouchError::Rejected)?;
    let found = pair_of(&set, agent).ok_or(VouchError::Unknown(agent))?;
    if found != code {
        return Err(VouchError::OtherPair { agent, found });
    }
    let mut confirmed = directory.confirmed()?;
    confirmed.agents.insert(agent, code);
    Ok(directory.keep_confirmed(&confirmed)?)
}

/// What this agent says of those a person here confirmed, as far as the site does not know it yet.
pub fn vouches(set: &AcceptedSet, confirmed: &Confirmed, by: &Identity, pair: &Pair, now: Timestamp) -> Vec<Base64> {
    let is_known = |agent: &AgentId| {
        let slot = set.state().roster.get(agent);
        slot.is_some_and(|slot| slot.vouches.iter().any(|vouch| matches!(vouch, Vouch::Agent { agent, .. } if *agent == by.agent)))
    };
    let unsaid = confirmed.agents.iter().filter(|(agent, keyid)| pair_of(set, **agent) == Some(**keyid) && !is_known(agent));
    let vouch = |(agent, keyid): (&AgentId, &Digest)| {
        document::sign(&AgentVouch { tenant: by.tenant, site: by.site, agent: *agent, keyid: *keyid, issued: now }, pair)
    };
    unsaid.map(vouch).collect()
}

/// The key id of the pair that the site tells of as this agent's, believed or waiting for a vouch.
fn pair_of(set: &AcceptedSet, agent: AgentId) -> Option<Digest> {
    let believed = set.agents().get(&agent).map(|pair| pair.keyid());
    believed.or_else(|| set.waiting_agents().get(&agent).copied())
}
