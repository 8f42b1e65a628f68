//! What was published last for one tenant, what waits for its signers, and whose signatures count.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use schema::{
    encoding::Digest,
    id::{ProjectId, SiteId},
};
use trust::{
    signing::{Authority, Need, Part},
    statement::{Kind, Scope, policy::Policy, state::State},
};

use super::{compile::Published, heartbeat::Member, stream::Pending};

/// What the keys of those who sign under a root take once they are ready to verify with: some 38 KiB each.
const AUTHORITY_BYTES: usize = 160 << 10;
/// What is known of a statement.
const MEMBER_BYTES: usize = 1 << 10;
/// A key, a caller, or another thing that policy defines.
const DEFINITION_BYTES: usize = 1 << 10;
/// A signed document of an agent.
const VOUCH_BYTES: usize = 6 << 10;

/// What was published last for one tenant, and what waits.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    pub(super) roots: Vec<Member>,
    /// Who signs what under the newest root.
    pub(super) authority: Arc<Authority>,
    pub(super) policies: BTreeMap<Scope, (Policy, Member)>,
    pub(super) states: BTreeMap<SiteId, (State, Member)>,
    /// The root that waits for signatures, and who would sign what under it.
    pub(super) waiting_root: Option<(Arc<Authority>, Waiting)>,
    /// The policies that wait for signatures.
    pub(super) waiting: BTreeMap<Scope, (Policy, Waiting)>,
    /// Whether enough signers of a root signed an envelope: both by SHA-256.
    pub(super) verified: HashMap<(Digest, Digest), bool>,
    /// Whether no pairs are kept that the newest root does not name.
    pub(super) tidy: bool,
}

/// A statement that waits, and what it has gathered.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) pending: Pending,
    /// The exact bytes.
    pub(super) payload: Arc<[u8]>,
    /// The genuine parts of those who may sign it, now or under the root that waits.
    pub(super) parts: BTreeMap<Digest, Part>,
}

impl Waiting {
    /// What it needs of a role, and has.
    pub(super) fn need(&self, authority: &Authority, kind: Kind) -> Option<Need> {
        authority.role(kind).ok().map(|role| Need::of(role, &self.parts))
    }

    /// Whether it has enough.
    pub(super) fn is_met(&self, authority: &Authority, kind: Kind) -> bool {
        self.need(authority, kind).is_some_and(|need| need.is_met())
    }

    /// Its parts by those whose signatures count under a root.
    pub(super) fn parts_of(&self, authority: &Authority, kind: Kind) -> Vec<Part> {
        let counts = |keyid: &Digest| authority.role(kind).is_ok_and(|role| role.signers.find(keyid).is_some());
        self.parts.values().filter(|part| counts(&part.keyid)).cloned().collect()
    }
}

impl Shelf {
    pub(super) fn of(roots: Vec<Member>, authority: Arc<Authority>) -> Self {
        Self {
            roots,
            authority,
            policies: BTreeMap::new(),
            states: BTreeMap::new(),
            waiting_root: None,
            waiting: BTreeMap::new(),
            verified: HashMap::new(),
            tidy: false,
        }
    }

    /// Whether the control plane may not sign policies, because the tenant's own signers do.
    pub(super) fn is_tenant_held(&self) -> bool {
        self.authority.is_tenant_held(Kind::Policy)
    }

    /// The serial of the newest root.
    pub(super) fn newest_root(&self) -> u64 {
        self.authority.root().head.serial
    }

    /// The present epoch.
    pub(super) fn epoch(&self) -> u64 {
        self.authority.root().head.epoch
    }

    /// About how many bytes of memory it takes: enough to keep no more of them than there is room for.
    pub(super) fn weight(&self) -> usize {
        let mut weight = AUTHORITY_BYTES + self.waiting_root.iter().count() * AUTHORITY_BYTES + self.roots.len() * MEMBER_BYTES;
        for policy in self.policies.values().map(|(policy, _)| policy).chain(self.waiting.values().map(|(policy, _)| policy)) {
            weight += MEMBER_BYTES + policy.cedar.values().map(String::len).sum::<usize>();
            weight += (policy.keys.len() + policy.callers.len() + policy.composites.len() + policy.templates.len()) * DEFINITION_BYTES;
            weight += policy.caller_authorities.iter().map(|authority| authority.as_slice().len()).sum::<usize>();
        }
        weight += self.waiting.values().map(|(_, waiting)| waiting.payload.len()).sum::<usize>();
        for (state, _) in self.states.values() {
            weight += MEMBER_BYTES + (state.keys.len() + state.templated.len() + state.revocations.len()) * DEFINITION_BYTES;
            let slots = state.roster.values().chain(state.neighbours.values().flat_map(|neighbour| neighbour.roster.values()));
            weight += slots.map(|slot| slot.entry.as_slice().len() + slot.vouches.len() * VOUCH_BYTES).sum::<usize>();
            let versions = state.keys.values().flat_map(|key| key.versions.values());
            weight += versions.map(|version| (1 + version.ready.len()) * VOUCH_BYTES).sum::<usize>();
        }
        weight
    }

    pub(super) fn as_published(&self) -> Published {
        Published {
            epoch: self.epoch(),
            policies: self.policies.iter().map(|(scope, (policy, _))| (*scope, policy.clone())).collect(),
            states: self.states.iter().map(|(site, (state, _))| (*site, state.clone())).collect(),
            waiting: self.waiting.iter().map(|(scope, (policy, _))| (*scope, policy.clone())).collect(),
        }
    }

    /// What a site's heartbeat pins: every root, the tenant's policy, those of its projects, its own, its state.
    pub(super) fn members(&self, site: SiteId, has_keys_here: impl Fn(&ProjectId) -> bool) -> Vec<Member> {
        let reaches = |scope: &Scope| reaches(scope, site, &has_keys_here);
        let policies = self.policies.iter().filter(|(scope, _)| reaches(scope)).map(|(_, (_, member))| member.clone());
        self.roots.iter().cloned().chain(policies).chain(self.states.get(&site).map(|(_, member)| member.clone())).collect()
    }

    /// The policies in force that reach a site.
    pub(super) fn reaching(&self, site: SiteId, has_keys_here: impl Fn(&ProjectId) -> bool) -> BTreeMap<Scope, &Policy> {
        self.policies
            .iter()
            .filter(|(scope, _)| reaches(scope, site, &has_keys_here))
            .map(|(scope, (policy, _))| (*scope, policy))
            .collect()
    }
}

fn reaches(scope: &Scope, site: SiteId, has_keys_here: impl Fn(&ProjectId) -> bool) -> bool {
    match scope {
        Scope::Tenant => true,
        Scope::Project(project) => has_keys_here(project),
        Scope::Site(other) => *other == site,
    }
}
