//! Check 9, neighbours: agents of other sites that share a key with this one. They are judged like the site's own, but that the
//! control plane enrolled one says nothing here: the founder of a site is known to that site alone. One is believed when the
//! tenant's signers vouch for it, or agents of *this* site whose operators compared its join code; from then on agents of its own
//! site are believed that it vouches for.
//!
//! What such an agent is believed in is little: that it made versions of keys which policy places at both sites, that it has them,
//! and that material of theirs is from it or for it. It is no agent of this site, vouches for none, and says nothing else.
//!
//! What an agent made that nobody here believes yet is as if it had not been made here ([`Neighbours::hide`]); so it is at every site
//! that the makers' site has not been joined with, and at an agent that comes later and lacks a vouch that others have seen.

use std::collections::{BTreeMap, BTreeSet};

use schema::{
    encoding::Digest,
    id::{AgentId, KeyId, KeyVersion, SiteId},
    key::VersionState,
};

use super::{
    Rejection,
    keys::homes_needed,
    memory::{Memory, NeighbourMemory, PairMemory, Restriction, VersionMemory},
    roster::{Evidence, Roster, RosterRules, entry},
};
use crate::{
    document::HolderReport,
    dsse,
    pair::PublicPair,
    statement::{
        policy::KeyDefinition,
        state::{KeyState, MAX_NEIGHBOUR_AGENTS, MAX_NEIGHBOUR_VOUCHES, MAX_NEIGHBOURS, RosterSlot, State, Subject, VersionEntry},
    },
};

/// The agents of other sites.
#[derive(Debug, Clone, Default)]
pub(super) struct Neighbours {
    pub(super) believed: BTreeMap<AgentId, (SiteId, PublicPair)>,
    pub(super) waiting: BTreeMap<AgentId, (SiteId, Digest)>,
    past: BTreeMap<Digest, (SiteId, AgentId, PublicPair)>,
}

impl Neighbours {
    /// Every pair that was ever believed to be this agent's: what they signed counts.
    pub(super) fn pairs_of(&self, agent: AgentId) -> impl Iterator<Item = &PublicPair> {
        let current = self.believed.get(&agent).map(|(_, pair)| pair);
        let past = self.past.values().filter(move |(_, owner, pair)| *owner == agent && current != Some(pair));
        current.into_iter().chain(past.map(|(_, _, pair)| pair))
    }

    /// The site of an agent that is believed, or was.
    pub(super) fn site_of(&self, agent: AgentId) -> Option<SiteId> {
        let current = self.believed.get(&agent).map(|(site, _)| *site);
        current.or_else(|| self.past.values().find(|(_, owner, _)| *owner == agent).map(|(site, _, _)| *site))
    }

    /// Whether this is an agent of a neighbour, and nothing that it signed was ever believed.
    fn is_stranger(&self, agent: AgentId) -> bool {
        self.waiting.contains_key(&agent) && self.pairs_of(agent).next().is_none()
    }

    /// Takes out of a state what agents of neighbours say whom nobody here believes: their versions are yet to be made here, their
    /// copies are none. What a state may not say at all stays in it, to be refused.
    pub(super) fn hide(&self, state: &mut State, definitions: &BTreeMap<KeyId, KeyDefinition>, known: &Known<'_>) {
        for (key, key_state) in &mut state.keys {
            let Some(definition) = definitions.get(key).filter(|definition| definition.placement.len() > 1) else { continue };
            let mut hidden = false;
            for (number, entry) in &mut key_state.versions {
                hidden |= self.hide_in(KeyVersion::new(*key, *number), entry, definition, known);
            }
            if hidden {
                let usable = |(_, entry): &(&u32, &VersionEntry)| entry.record.is_some() && entry.state != VersionState::PreActivation;
                let KeyState { primary, versions } = key_state;
                *primary = versions.range(..=*primary).filter(usable).map(|(number, _)| *number).max().unwrap_or(0);
            }
        }
    }

    /// Whether there was something to hide.
    fn hide_in(&self, version: KeyVersion, entry: &mut VersionEntry, definition: &KeyDefinition, known: &Known<'_>) -> bool {
        let count = entry.ready.len();
        entry.ready.retain(|holder, _| !self.is_stranger(*holder));
        let mut hidden = entry.ready.len() < count;
        if entry.record.is_some() && entry.generator.is_some_and(|maker| self.is_doubtful(version, entry, maker, definition, known)) {
            (entry.generator, entry.record, entry.activated, entry.backup) = (None, None, None, None);
            entry.ready.clear();
            if matches!(entry.state, VersionState::Active | VersionState::Deactivated) {
                entry.state = VersionState::PreActivation;
            }
            hidden = true;
        }
        // Without the copies of strangers it may have too few homes to be in use.
        if hidden && entry.state == VersionState::Active && !has_its_homes(entry, definition, known.own) {
            (entry.state, entry.activated) = (VersionState::PreActivation, None);
        }
        hidden
    }

    /// Whether a version was made by an agent of a neighbour at which policy places the key, and that is not believed here: nobody
    /// vouches for the agent; or it was restricted before the version was heard of, and no other that is believed has it.
    fn is_doubtful(
        &self,
        version: KeyVersion,
        entry: &VersionEntry,
        maker: AgentId,
        definition: &KeyDefinition,
        known: &Known<'_>,
    ) -> bool {
        let told = self.waiting.get(&maker).map(|(site, _)| *site);
        let Some(site) = told.or_else(|| self.site_of(maker)).filter(|site| definition.placement.contains(site)) else { return false };
        if known.own.pairs_of(maker).next().is_some() || site == known.site {
            return false;
        }
        let is_new = known.versions.get(&version).is_none_or(|held| held.fingerprint.is_none());
        let restricted = |agent| known.restricted.is_some_and(|restricted| restricted.contains_key(&Subject::Agent(agent)));
        let is_believed = |agent: &AgentId| known.own.believed.contains_key(agent) || self.believed.contains_key(agent);
        let attested = || entry.ready.keys().any(|holder| is_believed(holder) && !restricted(*holder));
        self.is_stranger(maker) || (is_new && restricted(maker) && !attested())
    }
}

/// What is known beside the rosters.
pub(super) struct Known<'a> {
    pub(super) site: SiteId,
    /// The agents of this site.
    pub(super) own: &'a Roster,
    pub(super) versions: &'a BTreeMap<KeyVersion, VersionMemory>,
    /// What was restricted before this state came; none for whoever hears of everything at once.
    pub(super) restricted: Option<&'a BTreeMap<Subject, Restriction>>,
}

/// Whether as many vaults say that they have it as the key's durability asks. What they signed is judged elsewhere.
fn has_its_homes(entry: &VersionEntry, definition: &KeyDefinition, own: &Roster) -> bool {
    let home = |bytes: &schema::encoding::Base64| dsse::peek_document::<HolderReport>(bytes.as_slice()).ok().map(|report| report.vault);
    let homes: BTreeSet<_> = entry.ready.values().filter_map(home).collect();
    entry.ready.keys().any(|holder| own.pairs_of(*holder).next().is_some()) && homes.len() >= homes_needed(definition)
}

/// Judges the rosters of neighbours; remembers the pairs it believes.
pub(super) fn judge(state: &State, rules: &RosterRules<'_>, own: &Roster, memory: &mut Memory) -> Result<Neighbours, Rejection> {
    sizes(state)?;
    let mut neighbours = Neighbours::default();
    for (keyid, held) in &memory.neighbours {
        let PairMemory { agent, ed25519, ml_dsa_65 } = &held.pair;
        if let Ok(public) = PublicPair::parse(ed25519.as_slice(), ml_dsa_65.as_slice()) {
            neighbours.past.insert(*keyid, (held.site, *agent, public));
        }
    }
    let mut entries = BTreeMap::new();
    for (site, neighbour) in &state.neighbours {
        let unsound = |detail: String| Rejection::Neighbour { site: *site, detail };
        if *site == rules.identity.site {
            return Err(unsound("it is this site itself".to_owned()));
        }
        for (agent, slot) in &neighbour.roster {
            let pair = entry(*agent, slot, rules.identity, *site)?;
            let is_own = state.roster.contains_key(agent) || own.pairs_of(*agent).next().is_some();
            let elsewhere = neighbours.past.values().any(|(before, owner, _)| owner == agent && before != site);
            if is_own || elsewhere || entries.insert(*agent, (*site, pair, slot)).is_some() {
                return Err(unsound(format!("{agent} is an agent of another site")));
            }
        }
    }
    // Agents of a site vouch for agents of it: whoever is believed may make others believed, until nobody new is.
    loop {
        let before = neighbours.believed.len();
        for (agent, (site, pair, slot)) in &entries {
            if !neighbours.believed.contains_key(agent) && counts((*site, *agent, pair), slot, (&neighbours, own), rules, memory) {
                neighbours.believed.insert(*agent, (*site, pair.clone()));
            }
        }
        if neighbours.believed.len() == before {
            break;
        }
    }
    for (agent, (site, pair, _)) in entries {
        let keyid = pair.keyid();
        if neighbours.believed.contains_key(&agent) {
            let (ed25519, ml_dsa_65) = (pair.ed25519().as_slice().into(), pair.ml_dsa_65().into());
            memory.neighbours.insert(keyid, NeighbourMemory { site, pair: PairMemory { agent, ed25519, ml_dsa_65 } });
        } else {
            neighbours.waiting.insert(agent, (site, keyid));
        }
    }
    Ok(neighbours)
}

/// How much of other sites a state may tell of.
fn sizes(state: &State) -> Result<(), Rejection> {
    let slots = || state.neighbours.values().flat_map(|neighbour| neighbour.roster.values());
    let bounds = [
        (state.neighbours.len() > MAX_NEIGHBOURS, "there are too many of them"),
        (slots().count() > MAX_NEIGHBOUR_AGENTS, "they have too many agents"),
        (slots().any(|slot| slot.vouches.len() > MAX_NEIGHBOUR_VOUCHES), "too much is said for one of their agents"),
    ];
    match bounds.into_iter().find(|(exceeded, _)| *exceeded) {
        Some((_, what)) => Err(Rejection::NeighboursOversized(what)),
        None => Ok(()),
    }
}

fn counts(
    (site, agent, pair): (SiteId, AgentId, &PublicPair),
    slot: &RosterSlot,
    (neighbours, own): (&Neighbours, &Roster),
    rules: &RosterRules<'_>,
    memory: &Memory,
) -> bool {
    let keyid = pair.keyid();
    let was_its = |keyid: &Digest| neighbours.past.get(keyid).filter(|(_, owner, _)| *owner == agent);
    if was_its(&keyid).is_some() || rules.confirmed.neighbours.get(&agent) == Some(&keyid) {
        return true;
    }
    let is_held = |subject: Subject| memory.restrictions.contains_key(&subject);
    let of_its_site = |voucher: &AgentId| {
        let (_, pair) = neighbours.believed.get(voucher).filter(|(home, _)| *home == site && !is_held(Subject::Site(*home)))?;
        Some(pair)
    };
    let evidence = Evidence {
        // Whom a site began with is known there.
        is_founder: false,
        voucher: |voucher: AgentId| {
            let believed = own.believed.get(&voucher).or_else(|| of_its_site(&voucher));
            believed.filter(|_| !is_held(Subject::Agent(voucher)))
        },
        previous: |previous: &Digest| was_its(previous).map(|(_, _, pair)| pair),
    };
    evidence.suffices(slot, (site, agent, keyid), rules)
}
