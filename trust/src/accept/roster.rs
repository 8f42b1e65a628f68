//! Check 9, agents: which pairs are agents of the site. An entry counts only with a vouch; one without is carried, so that
//! others can see and vouch for it, but believed by nobody.

use std::collections::{BTreeMap, BTreeSet};

use schema::{
    encoding::{Base64, Digest},
    id::{AgentId, SiteId},
};

use super::{
    Confirmed, Identity, Rejection,
    memory::{Memory, PairMemory},
    roots::RoleSigners,
};
use crate::{
    document::AgentVouch,
    dsse,
    pair::{PublicPair, Signers},
    statement::{
        policy::VouchingRule,
        state::{RosterSlot, State, Subject, Vouch},
    },
};

/// The agents of a site: those believed, those that wait for a vouch, and every pair ever believed.
#[derive(Debug, Clone, Default)]
pub(super) struct Roster {
    pub(super) believed: BTreeMap<AgentId, PublicPair>,
    pub(super) waiting: BTreeMap<AgentId, Digest>,
    past: BTreeMap<Digest, (AgentId, PublicPair)>,
    /// Of agents that had left before this one came.
    former: BTreeMap<AgentId, PublicPair>,
}

/// What a roster is judged by.
pub(super) struct RosterRules<'a> {
    pub(super) identity: &'a Identity,
    pub(super) confirmed: &'a Confirmed,
    pub(super) vouching: &'a VouchingRule,
    /// Those who may vouch as the tenant: its policy signers, when it holds them itself.
    pub(super) tenant_signers: Option<&'a RoleSigners>,
}

impl Roster {
    /// Every pair that was ever believed to be this agent's, the current one among them: what they signed counts.
    pub(super) fn pairs_of(&self, agent: AgentId) -> impl Iterator<Item = &PublicPair> {
        let current = self.believed.get(&agent);
        let past = self.past.values().filter(move |(owner, pair)| *owner == agent && current != Some(pair));
        current.into_iter().chain(past.map(|(_, pair)| pair)).chain(self.former.get(&agent))
    }
}

/// Judges the roster of a state; remembers the pairs it believes.
pub(super) fn judge(state: &State, rules: &RosterRules<'_>, memory: &mut Memory) -> Result<Roster, Rejection> {
    let used = u32::try_from(state.roster.len()).unwrap_or(u32::MAX).max(memory.slots_used);
    if state.slots_used < used {
        return Err(Rejection::SlotsForgotten { found: state.slots_used, held: used });
    }
    memory.slots_used = state.slots_used;

    let mut past = BTreeMap::new();
    for (keyid, pair) in &memory.pairs {
        if let Ok(public) = PublicPair::parse(pair.ed25519.as_slice(), pair.ml_dsa_65.as_slice()) {
            past.insert(*keyid, (pair.agent, public));
        }
    }
    let mut entries = BTreeMap::new();
    for (agent, slot) in &state.roster {
        let pair = entry(*agent, slot, rules.identity, rules.identity.site)?;
        if *agent == rules.identity.agent && pair.keyid() != rules.identity.keyid {
            return Err(Rejection::Impostor(*agent));
        }
        entries.insert(*agent, (pair, slot));
    }

    let mut roster = Roster { past, ..Roster::default() };
    // Agents vouch for agents: whoever is believed may make others believed, until nobody new is.
    loop {
        let before = roster.believed.len();
        for (agent, (pair, slot)) in &entries {
            if !roster.believed.contains_key(agent) && counts(*agent, pair, slot, &roster, rules, memory) {
                roster.believed.insert(*agent, pair.clone());
            }
        }
        if roster.believed.len() == before {
            break;
        }
    }
    for (agent, (pair, _)) in &entries {
        let keyid = pair.keyid();
        if rules.confirmed.former.get(agent) == Some(&keyid) || memory.former.get(&keyid).is_some_and(|held| held.agent == *agent) {
            let (ed25519, ml_dsa_65) = (pair.ed25519().as_slice().into(), pair.ml_dsa_65().into());
            memory.former.insert(keyid, PairMemory { agent: *agent, ed25519, ml_dsa_65 });
            roster.former.insert(*agent, pair.clone());
        }
        if roster.believed.contains_key(agent) {
            let (ed25519, ml_dsa_65) = (pair.ed25519().as_slice().into(), pair.ml_dsa_65().into());
            memory.pairs.insert(pair.keyid(), PairMemory { agent: *agent, ed25519, ml_dsa_65 });
        } else {
            roster.waiting.insert(*agent, pair.keyid());
        }
    }
    Ok(roster)
}

/// The pair an entry names, when the pair itself signed it and it is of that site.
pub(super) fn entry(agent: AgentId, slot: &RosterSlot, identity: &Identity, site: SiteId) -> Result<PublicPair, Rejection> {
    let refused = |detail: String| Rejection::RosterEntry { agent, detail };
    let (entry, pair) = crate::document::open_roster_entry(slot.entry.as_slice()).map_err(|error| refused(error.to_string()))?;
    if (entry.tenant, entry.site, entry.agent) != (identity.tenant, site, agent) {
        return Err(refused("it is of another tenant, site or agent".to_owned()));
    }
    Ok(pair)
}

fn counts(agent: AgentId, pair: &PublicPair, slot: &RosterSlot, roster: &Roster, rules: &RosterRules<'_>, memory: &Memory) -> bool {
    let keyid = pair.keyid();
    if roster.past.get(&keyid).is_some_and(|(owner, _)| *owner == agent) {
        return true;
    }
    if agent == rules.identity.agent || rules.confirmed.agents.get(&agent) == Some(&keyid) {
        return true;
    }
    let is_held = |voucher| memory.restrictions.contains_key(&Subject::Agent(voucher));
    let evidence = Evidence {
        is_founder: rules.identity.founder == Some(keyid),
        voucher: |voucher| roster.believed.get(&voucher).filter(|_| !is_held(voucher)),
        previous: |previous: &Digest| roster.past.get(previous).filter(|(owner, _)| *owner == agent).map(|(_, pair)| pair),
    };
    evidence.suffices(slot, (rules.identity.site, agent, keyid), rules)
}

/// Whose word for a pair counts, beside that of the tenant's signers.
pub(super) struct Evidence<V, P> {
    /// Whether the pair is that of the site's first agent, as the enrolment file named it.
    pub(super) is_founder: bool,
    /// The pair of an agent that is believed, that nothing holds back and that may speak for this one.
    pub(super) voucher: V,
    /// An earlier pair of the same agent.
    pub(super) previous: P,
}

impl<'p, V: Fn(AgentId) -> Option<&'p PublicPair>, P: Fn(&Digest) -> Option<&'p PublicPair>> Evidence<V, P> {
    /// Whether enough was said for the pair of this agent of that site.
    pub(super) fn suffices(&self, slot: &RosterSlot, about: (SiteId, AgentId, Digest), rules: &RosterRules<'_>) -> bool {
        let by = |pair: &PublicPair, vouch: &Base64| vouches(vouch.as_slice(), &Signers::one(pair.clone()), 1, about, rules);
        let mut vouching_agents = BTreeSet::new();
        for vouch in &slot.vouches {
            match vouch {
                Vouch::Enrolment if self.is_founder => return true,
                Vouch::Enrolment => {}
                Vouch::Agent { agent: voucher, vouch } => {
                    let may = rules.vouching.agents && *voucher != about.1;
                    if may && (self.voucher)(*voucher).is_some_and(|pair| by(pair, vouch)) {
                        vouching_agents.insert(*voucher);
                    }
                }
                Vouch::Signers { vouch } => {
                    let signers = rules.tenant_signers.filter(|_| rules.vouching.signers);
                    if signers.is_some_and(|role| vouches(vouch.as_slice(), &role.signers, role.threshold, about, rules)) {
                        return true;
                    }
                }
                Vouch::Previous { keyid, vouch } => {
                    if (self.previous)(keyid).is_some_and(|pair| by(pair, vouch)) {
                        return true;
                    }
                }
            }
        }
        rules.vouching.agents && vouching_agents.len() >= rules.vouching.agents_needed.max(1) as usize
    }
}

/// Whether these signers say that the pair of this agent of that site is this one.
fn vouches(
    bytes: &[u8],
    signers: &Signers,
    threshold: u32,
    (site, agent, keyid): (SiteId, AgentId, Digest),
    rules: &RosterRules<'_>,
) -> bool {
    dsse::open_document::<AgentVouch>(bytes, signers, threshold).is_ok_and(|vouch| {
        let vouch = vouch.payload;
        (vouch.tenant, vouch.site, vouch.agent, vouch.keyid) == (rules.identity.tenant, site, agent, keyid)
    })
}
