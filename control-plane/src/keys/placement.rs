//! Which agent makes the material of a version. Pure.

use schema::id::{AgentId, SiteId};

use crate::agents::Agent;

/// The agent that is to make a version: at work at one of the key's sites (the first site that has one), among the
/// eligible ones where the key names some. Of several the one that joined first.
pub fn choose_generator<'a>(
    placement: &[SiteId],
    eligible: &[AgentId],
    agents: impl IntoIterator<Item = &'a Agent> + Clone,
) -> Option<(AgentId, SiteId)> {
    placement.iter().find_map(|site| {
        let fits = agents.clone().into_iter().filter(|agent| agent.is_at_work()).filter_map(|agent| {
            let fixed = agent.fixed.as_ref()?;
            let is_eligible = eligible.is_empty() || eligible.contains(&fixed.id);
            (fixed.site == *site && is_eligible).then_some((agent.rostered, fixed.id))
        });
        fits.min().map(|(_, agent)| (agent, *site))
    })
}
