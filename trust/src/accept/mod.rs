//! `accept`: the one function that decides whether a set of statements is believed. It judges whole sets, in this order:
//!
//! 1. size before parsing
//! 2. known format, and nothing in `requires` that it does not understand
//! 3. signatures and threshold against pinned signers (distinct pairs that share no key)
//! 4. right tenant, site, agent
//! 5. (epoch, serial) newer, or the same with the same hash
//! 6. no gap in roots
//! 7. not expired
//! 8. the set is exactly what the heartbeat pins
//! 9. state within policy
//! 10. ledger proof, when root demands one
//!
//! A lease is asked for by its agent, and judged by itself under the set in force ([`accept_lease`]). So is what the control plane answers an agent
//! that is connected to nothing ([`accept_inbox`]).
//!
//! Whatever fails, fails by a name of its own ([`Rejection`]), and nothing of the set is used.

mod authorities;
mod composites;
mod definitions;
mod inbox;
mod keys;
mod lease;
mod memory;
mod neighbours;
pub(crate) mod read;
mod recovery;
mod rejection;
mod restrictions;
pub(crate) mod roots;
mod roster;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use schema::{
    clock::Timestamp,
    encoding::Digest,
    id::{AgentId, KeyId, SiteId, TenantId},
    wire::agent::StatementSet,
};
use serde::{Deserialize, Serialize};

pub use self::{
    authorities::authorities,
    inbox::{InboxRejection, accept_inbox},
    lease::{AcceptedLease, LeaseMemory, accept_lease},
    memory::{
        Asked, CompositeMemory, KeyMemory, Memory, NeighbourMemory, Order, PairMemory, RecoveryMemory, Restriction, Seen, Slot,
        VersionMemory,
    },
    rejection::Rejection,
    view::Held,
};
use self::{
    keys::Confirmations,
    memory::scope_name,
    neighbours::Neighbours,
    read::{Read, ReadSet},
    roots::Chain,
    roster::Roster,
};
use crate::{
    statement::{
        Head, Kind, Pin, Scope, Statement,
        heartbeat::Heartbeat,
        policy::{KeyDefinition, Policy},
        root::Root,
        state::State,
    },
    time::{FAR_AHEAD, Moment},
};

/// Who the agent is and what it pinned when it was enrolled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its site.
    pub site: SiteId,
    /// Itself.
    pub agent: AgentId,
    /// SHA-256 of the payload of the tenant's root, from the enrolment token.
    pub root: Digest,
    /// The key id of the pair of the site's first agent, from the enrolment token; none at the first agent itself.
    pub founder: Option<Digest>,
    /// The key id of its own pair.
    pub keyid: Digest,
}

/// What a person at the agent confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Confirmed {
    /// Agents whose join code was compared, and the key id of the pair it stands for.
    pub agents: BTreeMap<AgentId, Digest>,
    /// Agents of other sites of the tenant whose join code was compared here: they never count as agents of this one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub neighbours: BTreeMap<AgentId, Digest>,
    /// Agents that were revoked before this one came, and the key ids of their pairs, as its invitation named them: what they
    /// signed of versions and backups goes on counting, and nothing else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub former: BTreeMap<AgentId, Digest>,
    /// The epoch that may begin by recovery.
    pub epoch: Option<u64>,
    /// The key id of the recovery key that backups may be sealed to instead of the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Digest>,
}

/// A set of statements that is believed, as the exact bytes that came, and all that must never be forgotten.
#[derive(Debug, Clone)]
pub struct AcceptedSet {
    identity: Identity,
    roots: Vec<Read<Root>>,
    policies: BTreeMap<Scope, Read<Policy>>,
    state: Read<State>,
    heartbeat: Read<Heartbeat>,
    /// Policies that came by another path and are newer than the heartbeat's.
    ahead: BTreeSet<Scope>,
    definitions: BTreeMap<KeyId, KeyDefinition>,
    confirmations: Confirmations,
    roster: Roster,
    neighbours: Neighbours,
    /// The recovery key that the site tells of; what is believed stands in the memory.
    recovery_told: Option<RecoveryMemory>,
    memory: Memory,
}

/// Whether a set may be used from now on instead of the current one. Pure: the same input gives the same answer.
///
/// `now` is what the agent knows of time; see [`crate::time`].
pub fn accept(
    current: Option<&AcceptedSet>,
    candidate: &StatementSet,
    pinned: &Identity,
    confirmed: &Confirmed,
    now: Moment,
) -> Result<AcceptedSet, Rejection> {
    judge(current, candidate, pinned, confirmed, Some(now), current.map(|current| current.memory.clone()), BTreeSet::new())
}

/// The accepted set that [`AcceptedSet::to_bytes`] wrote, verified again by every check but those of time: how old it is
/// now decides what it still allows, not whether it was ever right.
pub fn restore(bytes: &[u8], pinned: &Identity) -> Result<AcceptedSet, Rejection> {
    let cache: Cache = serde_json::from_slice(bytes).map_err(Rejection::Cache)?;
    let epoch = cache.memory.seen.get(&Slot::Root).map(|seen| seen.order.epoch);
    let confirmed = Confirmed { epoch, ..Confirmed::default() };
    judge(None, &cache.statements, pinned, &confirmed, None, Some(cache.memory), cache.ahead.into_iter().collect())
}

#[derive(Serialize, Deserialize)]
struct Cache {
    v: u32,
    statements: StatementSet,
    memory: Memory,
    ahead: Vec<Scope>,
}

impl AcceptedSet {
    /// Everything needed to [`restore`] it: the exact bytes of the statements, and what must not be forgotten.
    #[allow(clippy::expect_used, reason = "lists of our own types, written to memory")]
    pub fn to_bytes(&self) -> Vec<u8> {
        let cache = Cache { v: 1, statements: self.statements(), memory: self.memory.clone(), ahead: self.ahead.iter().copied().collect() };
        serde_json::to_vec(&cache).expect("an accepted set is JSON")
    }

    /// The exact bytes of every statement.
    pub fn statements(&self) -> StatementSet {
        StatementSet {
            roots: self.roots.iter().map(|root| root.bytes.clone()).collect(),
            policies: self.policies.values().map(|policy| policy.bytes.clone()).collect(),
            state: Some(self.state.bytes.clone()),
            heartbeat: Some(self.heartbeat.bytes.clone()),
        }
    }
}

fn judge(
    current: Option<&AcceptedSet>,
    candidate: &StatementSet,
    identity: &Identity,
    confirmed: &Confirmed,
    now: Option<Moment>,
    memory: Option<Memory>,
    mut ahead: BTreeSet<Scope>,
) -> Result<AcceptedSet, Rejection> {
    let newcomer = memory.is_none();
    let mut memory = memory.unwrap_or_default();
    read::sizes(candidate)?; // 1
    let offered = read::formats(candidate)?; // 2
    let whole = offered.heartbeat.is_some() && offered.state.is_some();
    let mut candidate = Candidate::of(offered, current, &mut ahead)?;

    // 3
    let held = current.map(|current| current.roots.clone()).unwrap_or_default();
    let chain = Chain::build(held, candidate.roots, identity.root)?;
    let root = chain.roots.last().ok_or(Rejection::RootNotPinned { pinned: identity.root })?;
    for policy in candidate.policies.values() {
        chain.roles.verify(policy)?;
    }
    chain.roles.verify(&candidate.state)?;
    chain.roles.verify(&candidate.heartbeat)?;
    let tenant_held = chain.roles.role(Kind::Policy)?.tenant_held;

    // 4
    chain.roots.iter().try_for_each(|root| is_for(Kind::Root, root.head(), identity))?;
    candidate.policies.values().try_for_each(|policy| is_for(Kind::Policy, policy.head(), identity))?;
    is_for(Kind::State, candidate.state.head(), identity)?;
    is_for(Kind::Heartbeat, candidate.heartbeat.head(), identity)?;

    // 5
    let epoch = root.order().epoch;
    let seen_epoch = memory.seen.get(&Slot::Root).map_or(root.order().epoch, |seen| seen.order.epoch);
    let mut policies = candidate.policies;
    let mut overtaken = BTreeMap::new();
    for (scope, policy) in &mut policies {
        let held = current.and_then(|current| current.policies.get(scope));
        let ahead_of_heartbeat = ahead.contains(scope) && tenant_held;
        if let Some(held) = held.filter(|held| ahead_of_heartbeat && whole && policy.order() < held.order()) {
            // The control plane does not know yet what the tenant signed since; what is newer stays.
            overtaken.insert(*scope, std::mem::replace(policy, held.clone()));
        }
    }
    newer(Slot::Root, root, &mut memory)?;
    for (scope, policy) in &policies {
        newer(Slot::Policy(*scope), policy, &mut memory)?;
        at_most(Kind::Policy, policy.head(), epoch)?;
    }
    newer(Slot::State, &candidate.state, &mut memory)?;
    newer(Slot::Heartbeat, &candidate.heartbeat, &mut memory)?;
    exactly(Kind::State, candidate.state.head(), epoch)?;
    exactly(Kind::Heartbeat, candidate.heartbeat.head(), epoch)?;
    for scope in memory.seen.keys() {
        if let Slot::Policy(scope @ (Scope::Site(_) | Scope::Tenant)) = scope
            && !policies.contains_key(scope)
        {
            return Err(Rejection::PolicyForgotten(scope_name(scope)));
        }
    }
    if epoch > seen_epoch && confirmed.epoch != Some(epoch) {
        return Err(Rejection::EpochNotConfirmed(epoch));
    }

    chain.gaps()?; // 6

    // 7
    if let Some(now) = now {
        let told = candidate.heartbeat.payload.time();
        if whole && told > now.latest().plus(FAR_AHEAD) {
            return Err(Rejection::FarAhead { told, now: now.latest() });
        }
        let moment = if whole { now.latest().max(told) } else { now.latest() };
        in_time(Kind::Root, root.head(), moment)?;
        policies.values().try_for_each(|policy| in_time(Kind::Policy, policy.head(), moment))?;
        if whole {
            in_time(Kind::State, candidate.state.head(), moment)?;
            in_time(Kind::Heartbeat, candidate.heartbeat.head(), moment)?;
        }
    }

    // 8
    let pinned = pins(&candidate.heartbeat.payload, identity.site);
    matches_pin(&candidate.heartbeat.payload.root, root, Kind::Root.to_string(), ahead.is_empty())?;
    matches_pin(&candidate.heartbeat.payload.state, &candidate.state, Kind::State.to_string(), true)?;
    for (scope, pin) in &pinned {
        let name = format!("policy of {}", scope_name(scope));
        let Some(policy) = policies.get(scope) else { return Err(Rejection::Incomplete(name)) };
        if let Some(overtaken) = overtaken.get(scope) {
            matches_pin(pin, overtaken, name, true)?;
        } else if ahead.contains(scope) && tenant_held && policy.order().serial > pin.serial {
            continue;
        } else {
            matches_pin(pin, policy, name, true)?;
            ahead.remove(scope);
        }
    }
    if let Some(scope) = policies.keys().find(|scope| !pinned.contains_key(scope) && !ahead.contains(scope)) {
        return Err(Rejection::NotPinned(scope_name(scope)));
    }

    // 9
    let by_scope: BTreeMap<Scope, &Policy> = policies.iter().map(|(scope, policy)| (*scope, &policy.payload)).collect();
    let state = &candidate.state.payload;
    let definitions = definitions::judge(&by_scope, state, identity.site, &mut memory)?;
    let confirmations = restrictions::confirmations(&by_scope, &definitions);
    restrictions::apply(state, &by_scope, &definitions, &confirmations, identity.site, &mut memory);
    let vouching = view::vouching(&by_scope, identity.site);
    let policy_role = chain.roles.role(Kind::Policy)?;
    let rules =
        roster::RosterRules { identity, confirmed, vouching: &vouching, tenant_signers: Some(policy_role).filter(|role| role.tenant_held) };
    let roster = roster::judge(state, &rules, &mut memory)?;
    let neighbours = neighbours::judge(state, &rules, &roster, &mut memory)?;
    let recovery_told = recovery::judge(&by_scope, &rules, &roster, &mut memory)?;
    let mut told = by_scope.clone();
    told.extend(overtaken.iter().map(|(scope, policy)| (*scope, &policy.payload)));
    let rules = keys::KeyRules {
        identity,
        pinned: &told,
        tenant_held,
        definitions: &definitions,
        roster: &roster,
        neighbours: &neighbours,
        confirmed: &confirmations,
        newcomer,
        previous: current,
    };
    let restricted = current.map(|current| &current.memory.restrictions).or((!newcomer).then_some(&memory.restrictions));
    let known = neighbours::Known { site: identity.site, own: &roster, versions: &memory.versions, restricted };
    neighbours.hide(&mut candidate.state.payload, &definitions, &known);
    keys::judge(&candidate.state.payload, &rules, &mut memory)?;

    // 10
    if chain.roots.iter().any(|root| root.payload.ledger.required) {
        return Err(Rejection::LedgerRequired);
    }
    Ok(AcceptedSet {
        identity: identity.clone(),
        roots: chain.roots,
        policies,
        state: candidate.state,
        heartbeat: candidate.heartbeat,
        ahead,
        definitions,
        confirmations,
        roster,
        neighbours,
        recovery_told,
        memory,
    })
}

/// A set with nothing missing: what was offered, or policy on top of what is held.
struct Candidate {
    roots: Vec<Read<Root>>,
    policies: BTreeMap<Scope, Read<Policy>>,
    state: Read<State>,
    heartbeat: Read<Heartbeat>,
}

impl Candidate {
    /// A set without heartbeat and state refreshes nothing; but policy in it that the tenant itself signed may be newer than
    /// what is held, by whatever path it came.
    fn of(offered: ReadSet, current: Option<&AcceptedSet>, ahead: &mut BTreeSet<Scope>) -> Result<Self, Rejection> {
        let mut policies = BTreeMap::new();
        for policy in offered.policies {
            let scope = policy.payload.scope();
            if policies.insert(scope, policy).is_some() {
                return Err(Rejection::NotPinned(scope_name(&scope)));
            }
        }
        let roots = offered.roots;
        match (offered.state, offered.heartbeat, current) {
            (Some(state), Some(heartbeat), current) => {
                ahead.extend(current.iter().flat_map(|current| current.ahead.iter().copied()));
                Ok(Self { roots, policies, state, heartbeat })
            }
            (None, None, Some(current)) => {
                let newest = roots.last().map_or_else(|| current.root(), |root| &root.payload);
                let tenant_held = roots::Roles::of(newest)?.role(Kind::Policy)?.tenant_held;
                let is_newer = |scope: &Scope, policy: &Read<Policy>| {
                    current.policies.get(scope).is_none_or(|held| (policy.order(), policy.sha256) != (held.order(), held.sha256))
                };
                let newer: BTreeSet<Scope> =
                    policies.iter().filter(|(scope, policy)| is_newer(scope, policy)).map(|(scope, _)| *scope).collect();
                if !tenant_held || newer.is_empty() {
                    return Err(Rejection::Incomplete("heartbeat and state".to_owned()));
                }
                ahead.extend(current.ahead.iter().copied());
                ahead.extend(newer);
                let mut merged = current.policies.clone();
                merged.extend(policies);
                Ok(Self { roots, policies: merged, state: current.state.clone(), heartbeat: current.heartbeat.clone() })
            }
            (None, _, _) => Err(Rejection::Incomplete("state".to_owned())),
            (_, None, _) => Err(Rejection::Incomplete("heartbeat".to_owned())),
        }
    }
}

/// Check 4: the head names this tenant, and of site, project and agent exactly what its kind is for.
fn is_for(kind: Kind, head: &Head, identity: &Identity) -> Result<(), Rejection> {
    if head.tenant != identity.tenant {
        return Err(Rejection::OtherTenant(kind));
    }
    if head.site.is_some_and(|site| site != identity.site) {
        return Err(Rejection::OtherSite(kind));
    }
    if head.agent.is_some_and(|agent| agent != identity.agent) {
        return Err(Rejection::OtherAgent(kind));
    }
    let plain = match kind {
        Kind::Root => head.site.is_none() && head.project.is_none() && head.agent.is_none(),
        Kind::Policy => (head.site.is_none() || head.project.is_none()) && head.agent.is_none(),
        Kind::State | Kind::Heartbeat => head.site.is_some() && head.project.is_none() && head.agent.is_none(),
        Kind::Lease => head.site.is_some() && head.project.is_none() && head.agent.is_some(),
    };
    if plain { Ok(()) } else { Err(Rejection::OtherScope(kind)) }
}

/// Check 5: newer than what was seen in this place, or exactly the same. The serial of a policy never falls, not even in a
/// new epoch: what the tenant has decided is not undone by a recovery.
fn newer<T: Statement>(slot: Slot, read: &Read<T>, memory: &mut Memory) -> Result<(), Rejection> {
    let found = read.order();
    if let Some(held) = memory.seen.get(&slot) {
        let fell = matches!(slot, Slot::Policy(_) | Slot::Root) && found.serial < held.order.serial;
        if found < held.order || fell {
            let (found, held) = (found.to_string(), held.order.to_string());
            return Err(Rejection::Older { what: slot.to_string(), found, held });
        }
        if found == held.order && read.sha256 != held.sha256 {
            return Err(Rejection::Equivocation { what: slot.to_string(), serial: found.to_string() });
        }
    }
    memory.seen.insert(slot, Seen { order: found, sha256: read.sha256 });
    Ok(())
}

fn exactly(kind: Kind, head: &Head, root: u64) -> Result<(), Rejection> {
    if head.epoch == root { Ok(()) } else { Err(Rejection::WrongEpoch { kind, found: head.epoch, root }) }
}

fn at_most(kind: Kind, head: &Head, root: u64) -> Result<(), Rejection> {
    if head.epoch <= root { Ok(()) } else { Err(Rejection::WrongEpoch { kind, found: head.epoch, root }) }
}

/// Check 7. `expires` is the last moment at which a statement may be accepted.
fn in_time(kind: Kind, head: &Head, now: Timestamp) -> Result<(), Rejection> {
    if now > head.expires {
        return Err(Rejection::Expired { kind, expires: head.expires, now });
    }
    if now < head.not_before {
        return Err(Rejection::NotYet { kind, not_before: head.not_before, now });
    }
    Ok(())
}

fn pins(heartbeat: &Heartbeat, site: SiteId) -> BTreeMap<Scope, Pin> {
    let projects = heartbeat.project_policies.iter().map(|(project, pin)| (Scope::Project(*project), *pin));
    let site = heartbeat.site_policy.iter().map(|pin| (Scope::Site(site), *pin));
    std::iter::once((Scope::Tenant, heartbeat.tenant_policy)).chain(projects).chain(site).collect()
}

/// Check 8. When policy came alone, the root may be newer than the heartbeat that is held (`exactly` is false).
fn matches_pin<T: Statement>(pin: &Pin, read: &Read<T>, what: String, exactly: bool) -> Result<(), Rejection> {
    let serial = read.order().serial;
    if (serial == pin.serial && read.sha256 == pin.sha256) || (!exactly && serial > pin.serial) {
        return Ok(());
    }
    Err(Rejection::PinnedOther(what))
}
