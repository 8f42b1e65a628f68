//! What a site is told of others that share a key with it: their agents and all that was said for those, so that its own agents can
//! judge whose versions and material they believe. Pure.

use std::collections::{BTreeMap, BTreeSet};

use schema::id::{AgentId, KeyId, SiteId};
use trust::statement::state::{MAX_NEIGHBOUR_AGENTS, MAX_NEIGHBOUR_VOUCHES, MAX_NEIGHBOURS, Neighbour, RosterSlot, Subject, Vouch};

use super::facts::{AgentFacts, Facts, KeyFacts, Revoked};

/// An agent of a site, with what was said for it there and at the site that is told of it: what a third site said counts at neither.
pub(super) fn slot(viewer: SiteId, agent: &AgentFacts, facts: &Facts) -> RosterSlot {
    let said_here = |vouch: &&Vouch| match vouch {
        Vouch::Agent { agent: voucher, .. } => {
            let by = facts.agents.get(voucher).map(|voucher| voucher.site);
            by.is_none_or(|site| site == agent.site || site == viewer)
        }
        Vouch::Enrolment | Vouch::Signers { .. } | Vouch::Previous { .. } => true,
    };
    RosterSlot { entry: agent.roster_entry.clone(), vouches: agent.vouches.iter().filter(said_here).cloned().collect() }
}

/// The other sites at which a key of this one is placed.
pub(super) fn sites(site: SiteId, keys: &BTreeMap<&KeyId, &KeyFacts>, facts: &Facts) -> BTreeSet<SiteId> {
    let shared = keys.values().filter(|key| !key.definition.is_external()).flat_map(|key| &key.definition.placement).copied();
    let others: BTreeSet<SiteId> = shared.filter(|other| *other != site && facts.sites.contains_key(other)).collect();
    if others.len() > MAX_NEIGHBOURS {
        tracing::warn!(%site, count = others.len(), "this site shares keys with more sites than its agents can be told of: those beyond {MAX_NEIGHBOURS} are left out");
    }
    others.into_iter().take(MAX_NEIGHBOURS).collect()
}

/// Their agents: those that made or hold a version of a shared key, and all that are neither revoked nor unknown to their own site.
pub(super) fn neighbours(
    site: SiteId,
    others: &BTreeSet<SiteId>,
    keys: &BTreeMap<&KeyId, &KeyFacts>,
    facts: &Facts,
) -> BTreeMap<SiteId, Neighbour> {
    let versions = keys.values().filter(|key| key.definition.placement.len() > 1).flat_map(|key| key.state.versions.values());
    let spoke: BTreeSet<&AgentId> = versions.flat_map(|version| version.generator.iter().chain(version.ready.keys())).collect();
    let theirs = || facts.agents.iter().filter(|(_, agent)| others.contains(&agent.site) && !agent.vouches.is_empty());
    let (first, then): (Vec<_>, Vec<_>) = theirs().partition(|(id, _)| spoke.contains(id));
    let told = first.into_iter().chain(then.into_iter().filter(|(_, agent)| agent.revoked.is_none()));
    let mut neighbours = BTreeMap::<SiteId, Neighbour>::new();
    for (id, agent) in told.take(MAX_NEIGHBOUR_AGENTS) {
        let mut slot = slot(site, agent, facts);
        // What agents of this site said is what lets anybody here believe it.
        let by_own =
            |vouch: &Vouch| matches!(vouch, Vouch::Agent { agent, .. } if facts.agents.get(agent).is_some_and(|by| by.site == site));
        slot.vouches.sort_by_key(|vouch| !by_own(vouch));
        slot.vouches.truncate(MAX_NEIGHBOUR_VOUCHES);
        neighbours.entry(agent.site).or_default().roster.insert(*id, slot);
    }
    neighbours
}

/// What holds agents of these sites back.
pub(super) fn suspended<'a>(others: &'a BTreeSet<SiteId>, facts: &'a Facts) -> impl Iterator<Item = Subject> + 'a {
    let sites = facts.sites.iter().filter(|(id, site)| others.contains(id) && site.suspended).map(|(id, _)| Subject::Site(*id));
    let agents = facts.agents.iter().filter(|(_, agent)| others.contains(&agent.site) && agent.suspended);
    sites.chain(agents.map(|(id, _)| Subject::Agent(*id)))
}

/// Those of them that are revoked.
pub(super) fn revoked<'a>(others: &'a BTreeSet<SiteId>, facts: &'a Facts) -> impl Iterator<Item = (Subject, Revoked)> + 'a {
    let agents = facts.agents.iter().filter(|(_, agent)| others.contains(&agent.site));
    agents.filter_map(|(id, agent)| Some((Subject::Agent(*id), agent.revoked?)))
}
