//! Check 9, keys: versions come, become primary and end only as policy allows, and prove who made them.

use std::collections::{BTreeMap, BTreeSet};

use schema::{
    clock::Timestamp,
    encoding::Digest,
    id::{AgentId, KeyId, KeyVersion, SiteId},
    key::{Durability, VersionState},
};

use super::{
    AcceptedSet, Identity, Rejection,
    definitions::{self, Rotation},
    memory::{Memory, VersionMemory},
    neighbours::Neighbours,
    pins,
    roster::Roster,
};
use crate::{
    document::{self, Document, HolderReport, HolderStatus, VersionRecord},
    dsse,
    pair::PublicPair,
    recovery::BackupReport,
    statement::{
        Scope,
        policy::{KeyDefinition, Policy},
        state::{KeyState, State, Subject, VersionEntry},
    },
};

/// What keys are judged by.
pub(super) struct KeyRules<'a> {
    pub(super) identity: &'a Identity,
    /// The policies that the heartbeat pins, by which the control plane goes: a newer one that came by another path may be
    /// in force without its knowing.
    pub(super) pinned: &'a BTreeMap<Scope, &'a Policy>,
    /// Whether policy is signed elsewhere, at any time before the control plane has it.
    pub(super) tenant_held: bool,
    pub(super) definitions: &'a BTreeMap<KeyId, KeyDefinition>,
    pub(super) roster: &'a Roster,
    /// Agents of other sites, for keys that policy places there too.
    pub(super) neighbours: &'a Neighbours,
    /// Versions whose compromise or destruction policy has confirmed.
    pub(super) confirmed: &'a Confirmations,
    /// Whether nothing was ever accepted before: then versions made before this agent came cannot be held to rules of
    /// timing and eligibility that may have changed since.
    pub(super) newcomer: bool,
    /// The set this one follows: what was known of rotation rules before.
    pub(super) previous: Option<&'a AcceptedSet>,
}

/// What policy says of irreversible states.
#[derive(Debug, Clone, Default)]
pub(super) struct Confirmations {
    pub(super) compromises: BTreeSet<KeyVersion>,
    pub(super) destructions: BTreeSet<KeyVersion>,
}

impl KeyRules<'_> {
    /// The site for which an agent may speak of a key: this one, or a neighbour at which policy places the key too.
    fn site_of(&self, agent: AgentId, definition: &KeyDefinition) -> Option<SiteId> {
        let elsewhere = if self.roster.pairs_of(agent).next().is_some() { None } else { self.neighbours.site_of(agent) };
        let site = elsewhere.unwrap_or(self.identity.site);
        definition.placement.contains(&site).then_some(site)
    }
}

/// How many vaults must have a version before it is used.
pub(super) fn homes_needed(definition: &KeyDefinition) -> usize {
    if definition.durability == Durability::TwoHolders { 2 } else { 1 }
}

/// Judges every key of a state, and remembers what must not be forgotten.
pub(super) fn judge(state: &State, rules: &KeyRules<'_>, memory: &mut Memory) -> Result<(), Rejection> {
    for (key, key_state) in &state.keys {
        let definition = rules.definitions.get(key).ok_or(Rejection::InventedKey(*key))?;
        if !definition.placement.contains(&rules.identity.site) {
            return Err(Rejection::NotPlacedHere(*key));
        }
        numbers(*key, key_state, definition, memory)?;
        let mut before: Option<&VersionEntry> = None;
        for (number, entry) in &key_state.versions {
            let version = KeyVersion::new(*key, *number);
            if !rules.newcomer && !memory.versions.contains_key(&version) {
                interval(version, entry, before, definition, state, rules)?;
            }
            let fingerprint = if definition.is_external() {
                external(version, entry, definition, memory)?
            } else {
                generator(version, entry, definition, rules, memory)?;
                proofs(version, entry, definition, rules, memory)?
            };
            settle(version, entry, key_state.primary, fingerprint, rules, memory)?;
            before = Some(entry);
        }
    }
    Ok(())
}

/// Versions are numbered from 1 without gaps and never fewer; the primary is one of them and moves forward only.
fn numbers(key: KeyId, state: &KeyState, definition: &KeyDefinition, memory: &mut Memory) -> Result<(), Rejection> {
    let contiguous = state.versions.keys().zip(1..).all(|(number, expected)| *number == expected);
    let highest = state.versions.keys().next_back().copied().unwrap_or(0);
    let held = memory.versions.range(KeyVersion::new(key, 0)..=KeyVersion::new(key, u32::MAX)).next_back();
    if !contiguous || held.is_some_and(|(version, _)| version.number > highest) {
        return Err(Rejection::VersionsMissing(key));
    }
    let held = memory.keys.get(&key).map_or(0, |held| held.primary);
    if state.primary < held {
        return Err(Rejection::PrimaryWentBack { key, held, found: state.primary });
    }
    if state.primary != 0 {
        let primary = KeyVersion::new(key, state.primary);
        let entry = state.versions.get(&state.primary).ok_or(Rejection::PrimaryNotMade(primary))?;
        let made = entry.record.is_some() || definition.is_external();
        if !made || entry.state == VersionState::PreActivation {
            return Err(Rejection::PrimaryNotMade(primary));
        }
    }
    if let Some(held) = memory.keys.get_mut(&key) {
        held.primary = state.primary;
    }
    Ok(())
}

/// A new version is not younger than the state that names it, and not sooner after the last than the rule of its time allows:
///
/// - made since the control plane goes by the policy it tells of now: the rule of that policy. It signed that policy itself
///   and goes by it ever since; or the tenant did, and it goes by it since it first told of it;
/// - made before the state that was accepted last was signed: the rule of then, or the one of now when that is shorter;
/// - made in between, while this agent may have missed any number of rules: not judged by when it came.
fn interval(
    version: KeyVersion,
    entry: &VersionEntry,
    before: Option<&VersionEntry>,
    definition: &KeyDefinition,
    state: &State,
    rules: &KeyRules<'_>,
) -> Result<(), Rejection> {
    if entry.created > state.head.issued {
        return Err(Rejection::TooSoon(version));
    }
    let Some(before) = before else { return Ok(()) };
    let rule = definitions::rotation(version.key, definition.project, rules.pinned, state);
    let present = rule.as_ref().map_or(definition.rotation.min_interval(), |rule| rule.min_interval);
    let told_before = |rule: &Rotation<'_>| {
        rules.previous.is_some_and(|previous| {
            pins(&previous.heartbeat.payload, rules.identity.site).get(&rule.scope).is_some_and(|pin| pin.serial == rule.policy.head.serial)
        })
    };
    let since = match &rule {
        None => Some(Timestamp::default()),
        Some(rule) => (!rules.tenant_held || told_before(rule)).then_some(rule.policy.head.issued),
    };
    // What was in force here then, the control plane may not have known.
    let went_by_it = |previous: &&AcceptedSet| rule.as_ref().is_none_or(|rule| !previous.ahead.contains(&rule.scope));
    let earlier = rules.previous.filter(|previous| entry.created < previous.state().head.issued).filter(went_by_it);
    let least = if since.is_some_and(|since| entry.created > since) {
        present
    } else if let Some(earlier) = earlier {
        earlier.definitions.get(&version.key).map_or(present, |held| held.rotation.min_interval().min(present))
    } else {
        return Ok(());
    };
    if entry.created < before.created.plus(least) { Err(Rejection::TooSoon(version)) } else { Ok(()) }
}

/// A version that is yet to be made, or that others made since, is made by an eligible agent of the site; one that was made, also by
/// one of a neighbour.
fn generator(
    version: KeyVersion,
    entry: &VersionEntry,
    definition: &KeyDefinition,
    rules: &KeyRules<'_>,
    memory: &Memory,
) -> Result<(), Rejection> {
    let Some(agent) = entry.generator else { return Ok(()) };
    let seen = memory.versions.get(&version).is_some_and(|held| held.fingerprint.is_some());
    if seen || (rules.newcomer && entry.record.is_some()) {
        return Ok(());
    }
    // Nothing is made for a version that is already at its end.
    if entry.record.is_none() && entry.state != VersionState::PreActivation {
        return Ok(());
    }
    let eligible = definition.eligible_generators.is_empty() || definition.eligible_generators.contains(&agent);
    // Whether what agents of neighbours made is believed was asked before ([`Neighbours::hide`]).
    if entry.record.is_some() && rules.neighbours.believed.contains_key(&agent) {
        return if eligible { Ok(()) } else { Err(Rejection::IneligibleGenerator { version, agent }) };
    }
    let rostered = rules.roster.believed.contains_key(&agent);
    // What an agent made before it was restricted stays, also for who hears of both at once: versions do not go away.
    let restrictions = match rules.previous {
        Some(previous) if entry.record.is_some() => &previous.memory.restrictions,
        _ => &memory.restrictions,
    };
    let revoked = restrictions.contains_key(&Subject::Agent(agent));
    if eligible && rostered && !revoked { Ok(()) } else { Err(Rejection::IneligibleGenerator { version, agent }) }
}

/// A version of a partner's key is one that policy names: state says how it stands, and nothing of what it is or who has it.
fn external(version: KeyVersion, entry: &VersionEntry, definition: &KeyDefinition, memory: &Memory) -> Result<Option<Digest>, Rejection> {
    let named =
        definition.external_version(version.number).ok_or(Rejection::ExternalVersion { version, detail: "policy does not name it" })?;
    if entry.generator.is_some() || entry.record.is_some() || !entry.ready.is_empty() {
        return Err(Rejection::ExternalVersion { version, detail: "state says that somebody here made or holds it" });
    }
    let held = memory.versions.get(&version).and_then(|held| held.fingerprint);
    match held.filter(|held| *held != named.fingerprint) {
        Some(held) => Err(Rejection::SecondFingerprint { version, held, found: named.fingerprint }),
        None => Ok(Some(named.fingerprint)),
    }
}

/// The version record and the ready reports hold; gives the fingerprint.
fn proofs(
    version: KeyVersion,
    entry: &VersionEntry,
    definition: &KeyDefinition,
    rules: &KeyRules<'_>,
    memory: &Memory,
) -> Result<Option<Digest>, Rejection> {
    let held = memory.versions.get(&version).and_then(|held| held.fingerprint);
    let Some(record) = &entry.record else {
        return match entry.state {
            VersionState::Active | VersionState::Deactivated => Err(Rejection::RecordMissing(version)),
            _ => Ok(held),
        };
    };
    let what = "version record";
    let refused = |detail: &str| Rejection::DocumentRefused { what, version, detail: detail.to_owned() };
    let agent = entry.generator.ok_or_else(|| refused("the state names no generator"))?;
    let site = rules.site_of(agent, definition).ok_or(Rejection::IneligibleGenerator { version, agent })?;
    let record: VersionRecord = by_agent(record.as_slice(), what, version, agent, rules)?;
    if (record.tenant, record.site, record.version, record.generator) != (rules.identity.tenant, site, version, agent) {
        return Err(refused("it is of another tenant, site, version or generator"));
    }
    if record.algorithm != definition.algorithm || record.origin != definition.origin {
        return Err(refused("it is of another algorithm or origin than the key"));
    }
    if let Some(held) = held.filter(|held| *held != record.fingerprint) {
        return Err(Rejection::SecondFingerprint { version, held, found: record.fingerprint });
    }
    let what = "ready report";
    let refused = |detail: &str| Rejection::DocumentRefused { what, version, detail: detail.to_owned() };
    let (mut homes, mut is_here) = (BTreeSet::new(), false);
    for (agent, report) in &entry.ready {
        let site = rules.site_of(*agent, definition).ok_or_else(|| refused("the key is not placed at its holder's site"))?;
        let report: HolderReport = by_agent(report.as_slice(), what, version, *agent, rules)?;
        if (report.tenant, report.site, report.version, report.holder) != (rules.identity.tenant, site, version, *agent) {
            return Err(refused("it is of another tenant, site, version or holder"));
        }
        if report.status != HolderStatus::Ready {
            return Err(refused("it does not say that the version is ready"));
        }
        if report.fingerprint != record.fingerprint {
            return Err(Rejection::SecondFingerprint { version, held: record.fingerprint, found: report.fingerprint });
        }
        homes.insert(report.vault);
        is_here |= site == rules.identity.site;
    }
    // Copies elsewhere are homes; but what is in use here is here.
    let needed = homes_needed(definition);
    if entry.state == VersionState::Active && (homes.len() < needed || !is_here) {
        return Err(Rejection::NotReady { version, ready: homes.len(), needed });
    }
    backup(version, entry, definition, record.fingerprint, rules)?;
    Ok(Some(record.fingerprint))
}

/// A version that is to be backed up before its first use was: a holder signed that it is.
fn backup(
    version: KeyVersion,
    entry: &VersionEntry,
    definition: &KeyDefinition,
    fingerprint: Digest,
    rules: &KeyRules<'_>,
) -> Result<(), Rejection> {
    let what = "backup report";
    let refused = |detail: &str| Rejection::DocumentRefused { what, version, detail: detail.to_owned() };
    let Some(bytes) = &entry.backup else {
        let needed = definition.durability == Durability::SealedBackup && entry.state == VersionState::Active;
        return if needed { Err(Rejection::NotBackedUp(version)) } else { Ok(()) };
    };
    let claimed: BackupReport = dsse::peek_document(bytes.as_slice()).map_err(|error| refused(&with_source(&error)))?;
    // Where its holder is, so is the backup.
    if rules.roster.pairs_of(claimed.holder).next().is_none() {
        return Err(Rejection::NotRostered { what, version, agent: claimed.holder });
    }
    let report: BackupReport = by_agent(bytes.as_slice(), what, version, claimed.holder, rules)?;
    if (report.tenant, report.site, report.version) != (rules.identity.tenant, rules.identity.site, version) {
        return Err(refused("it is of another tenant, site or version"));
    }
    if report.fingerprint != fingerprint {
        return Err(Rejection::SecondFingerprint { version, held: fingerprint, found: report.fingerprint });
    }
    Ok(())
}

/// A document that any pair believed to be this agent's, now or earlier, signed: of this site, or of a neighbour.
fn by_agent<D: Document>(
    bytes: &[u8],
    what: &'static str,
    version: KeyVersion,
    agent: AgentId,
    rules: &KeyRules<'_>,
) -> Result<D, Rejection> {
    let mut failure = None;
    let pairs: Vec<&PublicPair> = rules.roster.pairs_of(agent).collect();
    let pairs = if pairs.is_empty() { rules.neighbours.pairs_of(agent).collect() } else { pairs };
    for pair in pairs {
        match document::open::<D>(bytes, pair) {
            Ok(signed) => return Ok(signed.payload),
            Err(error) => failure = Some(error),
        }
    }
    Err(match failure {
        None => Rejection::NotRostered { what, version, agent },
        Some(error) => Rejection::DocumentRefused { what, version, detail: with_source(&error) },
    })
}

fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", with_source(source)),
        None => error.to_string(),
    }
}

/// The state a version settles in; none when it is held back for now: suspended, or in an irreversible state that nothing
/// foresaw (rotation foresees that a version it has replaced is deactivated) and policy has not confirmed.
pub(super) fn settles(
    version: KeyVersion,
    state: VersionState,
    primary: u32,
    confirmed: &Confirmations,
    memory: &Memory,
) -> Option<VersionState> {
    let already = memory.versions.get(&version).is_some_and(|held| held.settled == state);
    let settles = match state {
        VersionState::PreActivation | VersionState::Active => true,
        VersionState::Suspended => false,
        VersionState::Deactivated => version.number < primary,
        VersionState::Compromised => confirmed.compromises.contains(&version),
        VersionState::Destroyed => confirmed.destructions.contains(&version),
    };
    (already || settles).then_some(state)
}

/// States never go back; only what has settled is remembered as a state, the rest as a restriction.
fn settle(
    version: KeyVersion,
    entry: &VersionEntry,
    primary: u32,
    fingerprint: Option<Digest>,
    rules: &KeyRules<'_>,
    memory: &mut Memory,
) -> Result<(), Rejection> {
    let found = entry.state;
    let held = memory.versions.get(&version).map_or(VersionState::PreActivation, |held| held.settled);
    let settled = settles(version, found, primary, rules.confirmed, memory);
    let back = match found {
        // Whatever is not at its end may be suspended, and comes back to where it was.
        VersionState::Suspended => held.rank() >= VersionState::Compromised.rank(),
        _ => found.rank() < held.rank(),
    };
    if back {
        return Err(Rejection::VersionWentBack { version, held, found });
    }
    let settled = settled.unwrap_or(held);
    let remembered = memory.versions.entry(version).or_insert(VersionMemory { settled, fingerprint });
    remembered.settled = settled;
    remembered.fingerprint = remembered.fingerprint.or(fingerprint);
    Ok(())
}
