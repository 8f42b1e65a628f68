//! What an accepted set says, with everything that holds something back taken into account.

use std::collections::BTreeMap;

use schema::{
    clock::Timestamp,
    encoding::Digest,
    id::{AgentId, CallerId, KeyId, KeyVersion, SiteId},
    key::{KeyReference, RevocationReason, VersionState},
};

use super::{AcceptedSet, Identity, Memory, RecoveryMemory, Restriction, keys::settles};
use crate::{
    pair::PublicPair,
    statement::{
        Scope,
        heartbeat::Heartbeat,
        policy::{CallerDefinition, KeyDefinition, OfflineRule, Policy, VouchingRule},
        root::Root,
        state::{KeyState, State, Subject},
    },
};

/// What holds something back, in words for people and receipts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It is suspended.
    Suspended,
    /// It was revoked.
    Revoked(RevocationReason),
    /// An irreversible state that policy has not confirmed.
    Unconfirmed(VersionState),
}

impl AcceptedSet {
    /// Whom it was accepted for.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The newest root.
    #[allow(clippy::expect_used, reason = "a set is built only from a chain that has a root")]
    pub fn root(&self) -> &Root {
        &self.roots.last().expect("an accepted set has a root").payload
    }

    /// Every policy, by scope: the tenant's, those of projects, the site's.
    pub fn policies(&self) -> impl Iterator<Item = (Scope, &Policy)> {
        self.policies.iter().map(|(scope, policy)| (*scope, &policy.payload))
    }

    /// The site's state, as it was said, but for what agents of neighbours say that nobody here believes. What it means is in [`Self::version_state`] and [`Self::held`].
    pub fn state(&self) -> &State {
        &self.state.payload
    }

    /// The heartbeat.
    pub fn heartbeat(&self) -> &Heartbeat {
        &self.heartbeat.payload
    }

    /// The last signed time.
    pub fn told(&self) -> Timestamp {
        self.heartbeat.payload.time()
    }

    /// What must never be forgotten.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// SHA-256 over every statement in force: changes exactly when one of them does.
    pub fn digest(&self) -> Digest {
        let policies = self.policies.values().map(|policy| policy.sha256);
        let roots = self.roots.last().map(|root| root.sha256);
        let all: Vec<Digest> = roots.into_iter().chain(policies).chain([self.state.sha256, self.heartbeat.sha256]).collect();
        Digest::labelled("freehold-accepted-set-v1", &all.iter().map(|digest| digest.0.as_slice()).collect::<Vec<_>>())
    }

    /// Whether it is the same set of statements, and the same agents are believed: a person here may have confirmed one since.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let believed_alike = self.roster.believed == other.roster.believed && self.neighbours.believed == other.neighbours.believed;
        self.digest() == other.digest() && believed_alike
    }

    /// The serials in force, for receipts: `r1.h42.s7.t3`, then `p<serial>` for each project's policy and `l<serial>` for the
    /// site's.
    pub fn serials(&self) -> String {
        let (root, heartbeat, state) = (self.root().head.serial, self.heartbeat().head.serial, self.state().head.serial);
        let mut text = format!("r{root}.h{heartbeat}.s{state}");
        for (scope, policy) in &self.policies {
            let letter = match scope {
                Scope::Tenant => 't',
                Scope::Project(_) => 'p',
                Scope::Site(_) => 'l',
            };
            text.push_str(&format!(".{letter}{}", policy.head().serial));
        }
        text
    }

    /// Every key there is: defined by policy, or made from a template.
    pub fn keys(&self) -> &BTreeMap<KeyId, KeyDefinition> {
        &self.definitions
    }

    /// The definition and the versions of a key; none when it has no versions at this site yet.
    pub fn key(&self, key: KeyId) -> Option<(&KeyDefinition, &KeyState)> {
        Some((self.definitions.get(&key)?, self.state.payload.keys.get(&key)?))
    }

    /// The key a reference means, and the version when it names one.
    pub fn resolve(&self, reference: &KeyReference) -> Option<(KeyId, Option<u32>)> {
        match reference {
            KeyReference::Id(key) => self.definitions.contains_key(key).then_some((*key, None)),
            KeyReference::Version(version) => self.definitions.contains_key(&version.key).then_some((version.key, Some(version.number))),
            KeyReference::Composite(_) => None,
            KeyReference::Named { project, name } => {
                let named = |definition: &KeyDefinition| {
                    definition.project_name == *project && (definition.name == *name || definition.aliases.contains(name))
                };
                self.definitions.iter().find(|(_, definition)| named(definition)).map(|(key, _)| (*key, None))
            }
        }
    }

    /// Callers that agents let in, and whether something holds them back is [`Self::held`]'s.
    pub fn caller(&self, caller: CallerId) -> Option<&CallerDefinition> {
        self.policies.values().find_map(|policy| policy.payload.callers.get(&caller))
    }

    /// Every caller.
    pub fn callers(&self) -> impl Iterator<Item = (CallerId, &CallerDefinition)> {
        self.policies.values().flat_map(|policy| policy.payload.callers.iter().map(|(caller, definition)| (*caller, definition)))
    }

    /// What holds a subject back, if anything does.
    pub fn held(&self, subject: Subject) -> Option<Held> {
        self.memory.restrictions.get(&subject).map(|restriction| match restriction {
            Restriction { revoked: Some(reason), .. } => Held::Revoked(reason.what),
            Restriction { unsettled: Some(state), suspended: None, .. } => Held::Unconfirmed(state.what),
            _ => Held::Suspended,
        })
    }

    /// The state a version is treated as: what state says, unless something holds the version, its key, its project or
    /// the site back.
    /// None when there is no such version.
    pub fn version_state(&self, version: KeyVersion) -> Option<VersionState> {
        let (definition, key) = self.key(version.key)?;
        let entry = key.versions.get(&version.number)?;
        let settled = self.memory.versions.get(&version).map_or(VersionState::PreActivation, |held| held.settled);
        let said = settles(version, entry.state, key.primary, &self.confirmations, &self.memory).unwrap_or(settled);
        let site = Subject::Site(self.identity.site);
        let subjects = [Subject::Version(version), Subject::Key(version.key), Subject::Project(definition.project), site];
        let held = subjects.iter().filter_map(|subject| self.memory.restrictions.get(subject));
        Some(held.fold(said, restricted))
    }

    /// The state with every version in the state it is treated as: see [`Self::version_state`].
    pub fn effective_state(&self) -> State {
        let mut state = self.state.payload.clone();
        for (key, key_state) in &mut state.keys {
            for (number, entry) in &mut key_state.versions {
                entry.state = self.version_state(KeyVersion::new(*key, *number)).unwrap_or(VersionState::Suspended);
            }
        }
        state
    }

    /// Everything but versions that is suspended or revoked; versions stand in their effective state.
    pub fn restricted(&self) -> std::collections::BTreeSet<Subject> {
        let subjects = self.memory.restrictions.keys().copied();
        subjects.filter(|subject| !matches!(subject, Subject::Version(_))).collect()
    }

    /// The version to use when none is named: none while no version may protect.
    pub fn primary(&self, key: KeyId) -> Option<KeyVersion> {
        let (_, state) = self.key(key)?;
        (state.primary != 0).then(|| KeyVersion::new(key, state.primary))
    }

    /// The fingerprint of a version; the first seen is final.
    pub fn fingerprint(&self, version: KeyVersion) -> Option<Digest> {
        self.memory.versions.get(&version)?.fingerprint
    }

    /// Whether policy has confirmed that a version is to be destroyed: only then may material be wiped.
    pub fn destruction_confirmed(&self, version: KeyVersion) -> bool {
        self.memory.versions.get(&version).is_some_and(|held| held.settled == VersionState::Destroyed)
    }

    /// The agents of the site that are believed, with their current pairs.
    pub fn agents(&self) -> &BTreeMap<AgentId, PublicPair> {
        &self.roster.believed
    }

    /// Agents that wait for a vouch, and the key ids of their pairs.
    pub fn waiting_agents(&self) -> &BTreeMap<AgentId, Digest> {
        &self.roster.waiting
    }

    /// Agents of other sites that are believed as to the keys which policy places there and here: their sites and current pairs.
    pub fn neighbours(&self) -> &BTreeMap<AgentId, (SiteId, PublicPair)> {
        &self.neighbours.believed
    }

    /// Agents of other sites that wait for a vouch, their sites and the key ids of their pairs.
    pub fn waiting_neighbours(&self) -> &BTreeMap<AgentId, (SiteId, Digest)> {
        &self.neighbours.waiting
    }

    /// The key that backups are sealed to: the first that an agent of the site signed, until a person here confirms another.
    pub fn recovery_key(&self) -> Option<&RecoveryMemory> {
        self.memory.recovery.as_ref()
    }

    /// The recovery key that the site tells of, believed or not.
    pub fn told_recovery_key(&self) -> Option<&RecoveryMemory> {
        self.recovery_told.as_ref()
    }

    /// The recovery key that the site tells of, when it is not believed: nothing is sealed to it before a person here has
    /// confirmed it. One that had its time does not wait.
    pub fn waiting_recovery_key(&self) -> Option<&RecoveryMemory> {
        let known = self.recovery_key();
        self.told_recovery_key().filter(|told| known.is_none_or(|known| known.number < told.number))
    }

    /// What may go on without the control plane: the site's rule, else the tenant's, else the defaults.
    pub fn offline_rule(&self) -> OfflineRule {
        let rule = |scope: Scope| self.policies.get(&scope).and_then(|policy| policy.payload.offline.clone());
        rule(Scope::Site(self.identity.site)).or_else(|| rule(Scope::Tenant)).unwrap_or_default()
    }
}

/// A state under a restriction: never more than it was, but that a deactivated version still opens what it sealed, also
/// at an agent that never saw it active.
fn restricted(said: VersionState, restriction: &Restriction) -> VersionState {
    use VersionState::{Active, Compromised, Deactivated, PreActivation, Suspended};
    let mut state = said;
    // Deactivation undoes nothing; it may be obeyed at once. State names it only with the record of who made the version.
    if restriction.unsettled.is_some_and(|unsettled| unsettled.what == Deactivated) && matches!(state, PreActivation | Active) {
        state = Deactivated;
    } else if restriction.unsettled.is_some_and(|unsettled| unsettled.what != Deactivated) {
        state = most(state, Suspended);
    }
    if let Some(revoked) = restriction.revoked {
        state = match (revoked.what.state(), state) {
            // Policy has confirmed it: it may still open what it sealed.
            (Compromised, Compromised) => Compromised,
            (Deactivated, Active) => Deactivated,
            (Deactivated, state) => state,
            _ => most(state, Suspended),
        };
    }
    if restriction.suspended.is_some() { most(state, Suspended) } else { state }
}

/// Suspended, unless the version can do nothing anyway.
fn most(state: VersionState, suspended: VersionState) -> VersionState {
    if matches!(state, VersionState::Destroyed | VersionState::PreActivation) { state } else { suspended }
}

/// Who may vouch: the site's rule, else the tenant's.
pub(super) fn vouching(policies: &BTreeMap<Scope, &Policy>, site: SiteId) -> VouchingRule {
    let rule = |scope: Scope| policies.get(&scope).map(|policy| policy.vouching.clone());
    rule(Scope::Site(site)).or_else(|| rule(Scope::Tenant)).unwrap_or_default()
}
