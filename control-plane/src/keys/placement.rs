//! Which agent makes the material of a version. Pure.

use std::{collections::BTreeSet, time::Duration};

use schema::id::{AgentId, SiteId};

use crate::agents::Agent;

/// An agent that was heard of within this time is there: it reports after every heartbeat, and those come every minute.
pub const HEARD_WITHIN: Duration = Duration::from_secs(180);

/// The agent that is to make a version: at work at one of the key's sites (the first site that has one), among the
/// eligible ones where the key names some. Of several one that was heard of lately, and of those the one that joined first:
/// a dead agent makes nothing.
pub fn choose_generator<'a>(
    placement: &[SiteId],
    eligible: &[AgentId],
    agents: impl IntoIterator<Item = &'a Agent> + Clone,
    heard: &BTreeSet<AgentId>,
) -> Option<(AgentId, SiteId)> {
    placement.iter().find_map(|site| {
        let fits = agents.clone().into_iter().filter(|agent| agent.is_at_work()).filter_map(|agent| {
            let fixed = agent.fixed.as_ref()?;
            let is_eligible = eligible.is_empty() || eligible.contains(&fixed.id);
            (fixed.site == *site && is_eligible).then_some((!heard.contains(&fixed.id), agent.rostered, fixed.id))
        });
        fits.min().map(|(_, _, agent)| (agent, *site))
    })
}
