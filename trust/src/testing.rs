//! A tenant in memory that signs valid sets of statements: one project, one site, one agent, one key with one active
//! version. Tests change what they like and sign again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use schema::{
    catalogue::Algorithm,
    clock::{ManualIds, Timestamp},
    encoding::{Base64, Digest},
    id::{AgentId, CallerId, KeyId, KeyVersion, ProjectId, SiteId, TenantId, VaultId},
    key::{Durability, Origin, Protection, Purpose, VersionState},
    name::Name,
    wire::agent::StatementSet,
};

use crate::{
    accept::Identity,
    document::{self, AgentVouch, HolderReport, HolderStatus, VersionRecord},
    dsse,
    pair::Pair,
    statement::{
        Head, Kind, Pin, Scope, Statement,
        heartbeat::Heartbeat,
        lease::Lease,
        policy::{CallerDefinition, CallerKind, KeyDefinition, KeyTemplate, Policy, VouchingRule},
        root::{LedgerRule, Role, Root},
        state::{KeyState, NEIGHBOUR_SITES, Neighbour, RosterSlot, State, VersionEntry, Vouch},
    },
    time::Moment,
};

/// The tenant.
pub const TENANT: TenantId = TenantId::from_bits(1);
/// Its site.
pub const SITE: SiteId = SiteId::from_bits(2);
/// Its project.
pub const PROJECT: ProjectId = ProjectId::from_bits(3);
/// The agent of the site.
pub const AGENT: AgentId = AgentId::from_bits(4);
/// Another agent, that may join.
pub const OTHER_AGENT: AgentId = AgentId::from_bits(5);
/// Another site of the tenant.
pub const OTHER_SITE: SiteId = SiteId::from_bits(8);
/// An agent of the other site.
pub const NEIGHBOUR: AgentId = AgentId::from_bits(9);
/// The key `payments/card-data`.
pub const KEY: KeyId = KeyId::from_bits(6);
/// The caller `payments/billing`.
pub const CALLER: CallerId = CallerId::from_bits(7);

/// When the first set is signed: 2026-01-01T00:00:00Z.
pub const START: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

/// Everything a site's statements say, and the pairs that sign them.
pub struct World {
    /// Signs root.
    pub root_pairs: Vec<Pair>,
    /// Signs policy.
    pub policy_pairs: Vec<Pair>,
    /// Signs state.
    pub state_pairs: Vec<Pair>,
    /// Signs heartbeats.
    pub heartbeat_pairs: Vec<Pair>,
    /// The agent's pair.
    pub agent: Pair,
    /// The other agent's pair.
    pub other_agent: Pair,
    /// The pair of the agent of the other site.
    pub neighbour: Pair,
    /// Every root, signed.
    pub roots: Vec<Base64>,
    /// The newest root.
    pub root: Root,
    /// Policies by scope.
    pub policies: BTreeMap<Scope, Policy>,
    /// The state.
    pub state: State,
    /// The heartbeat; [`World::set`] fills in its pins.
    pub heartbeat: Heartbeat,
    /// SHA-256 of the first root.
    pub pinned: Digest,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A tenant whose statements the control plane signs.
    pub fn new() -> Self {
        Self::with(false)
    }

    /// A tenant that holds the pairs of root and policy itself.
    pub fn tenant_held() -> Self {
        Self::with(true)
    }

    fn with(tenant_held: bool) -> Self {
        let pairs = |seed| vec![pair(seed)];
        let (agent, other_agent) = (pair(100), pair(101));
        let mut world = Self {
            root: empty_root(),
            roots: Vec::new(),
            policies: BTreeMap::from([(Scope::Tenant, policy(Scope::Tenant)), (Scope::Project(PROJECT), project_policy())]),
            state: empty_state(),
            heartbeat: empty_heartbeat(),
            pinned: Digest([0; 32]),
            root_pairs: pairs(1),
            policy_pairs: pairs(2),
            state_pairs: pairs(3),
            heartbeat_pairs: pairs(4),
            agent,
            other_agent,
            neighbour: pair(102),
        };
        world.name_signers(tenant_held);
        let (bytes, pinned) = dsse::sign_statement(&world.root, &refs(&world.root_pairs));
        (world.roots, world.pinned) = (vec![bytes.into()], pinned);
        let entry = document::sign_roster_entry(&world.agent, TENANT, SITE, AGENT, pinned, START);
        world.state.roster.insert(AGENT, RosterSlot { entry, vouches: vec![Vouch::Enrolment] });
        world.state.slots_used = 1;
        let version = world.version(1, VersionState::Active, START);
        world.state.keys.insert(KEY, KeyState { primary: 1, versions: BTreeMap::from([(1, version)]) });
        world
    }

    /// Puts the pairs into the newest root, each list with a threshold of all.
    pub fn name_signers(&mut self, tenant_held: bool) {
        let lists = [
            (Kind::Root, &self.root_pairs, tenant_held),
            (Kind::Policy, &self.policy_pairs, tenant_held),
            (Kind::State, &self.state_pairs, false),
            (Kind::Heartbeat, &self.heartbeat_pairs, false),
        ];
        self.root.signers =
            lists.iter().flat_map(|(_, pairs, held)| pairs.iter().map(|pair| (pair.keyid(), pair.public().to_signer(*held)))).collect();
        let role = |pairs: &Vec<Pair>| Role {
            threshold: u32::try_from(pairs.len()).unwrap_or(u32::MAX),
            signers: pairs.iter().map(Pair::keyid).collect(),
        };
        self.root.roles = lists.iter().map(|(kind, pairs, _)| (*kind, role(pairs))).collect();
    }

    /// The next root: serial one higher, signed by these pairs (those of the old and of the new root).
    pub fn next_root(&mut self, pairs: &[&Pair]) {
        self.root.head.serial += 1;
        self.root.head.root_serial = self.root.head.serial;
        self.roots.push(dsse::sign_statement(&self.root, pairs).0.into());
    }

    /// The next state and heartbeat, a minute later.
    pub fn tick(&mut self) {
        for head in [&mut self.state.head, &mut self.heartbeat.head] {
            head.serial += 1;
            for time in [&mut head.issued, &mut head.not_before, &mut head.expires] {
                *time = time.plus(Duration::from_secs(60));
            }
        }
    }

    /// The next serial of a policy.
    pub fn tick_policy(&mut self, scope: Scope) {
        if let Some(policy) = self.policies.get_mut(&scope) {
            policy.head.serial += 1;
        }
    }

    /// The project's policy.
    #[allow(clippy::expect_used, reason = "a builder for tests")]
    pub fn project_policy(&mut self) -> &mut Policy {
        self.policies.get_mut(&Scope::Project(PROJECT)).expect("the world has a project")
    }

    /// The key's state.
    #[allow(clippy::expect_used, reason = "a builder for tests")]
    pub fn key(&mut self) -> &mut KeyState {
        self.state.keys.get_mut(&KEY).expect("the world has a key")
    }

    /// What the agent pinned at enrolment.
    pub fn identity(&self) -> Identity {
        let keyid = self.agent.keyid();
        Identity { tenant: TENANT, site: SITE, agent: AGENT, root: self.pinned, founder: None, keyid }
    }

    /// Both clocks at the heartbeat's time.
    pub fn now(&self) -> Moment {
        let now = self.heartbeat.head.issued;
        Moment { signed: now, wall: now }
    }

    /// The set as it stands, signed, with a heartbeat that pins it.
    pub fn set(&self) -> StatementSet {
        self.set_pinning(|_| {})
    }

    /// The set as it stands, with a heartbeat that was changed after its pins were filled in.
    pub fn set_pinning(&self, change: impl FnOnce(&mut Heartbeat)) -> StatementSet {
        let signed: BTreeMap<Scope, (Vec<u8>, Digest)> =
            self.policies.iter().map(|(scope, policy)| (*scope, dsse::sign_statement(policy, &refs(&self.policy_pairs)))).collect();
        let (state, state_hash) = dsse::sign_statement(&self.state, &refs(&self.state_pairs));
        let mut heartbeat = self.heartbeat.clone();
        heartbeat.root = pin(&self.root);
        heartbeat.state = Pin { serial: self.state.head.serial, sha256: state_hash };
        heartbeat.project_policies.clear();
        heartbeat.site_policy = None;
        for (scope, policy) in &self.policies {
            match scope {
                Scope::Tenant => heartbeat.tenant_policy = pin(policy),
                Scope::Project(project) => drop(heartbeat.project_policies.insert(*project, pin(policy))),
                Scope::Site(_) => heartbeat.site_policy = Some(pin(policy)),
            }
        }
        change(&mut heartbeat);
        StatementSet {
            roots: self.roots.clone(),
            policies: signed.into_values().map(|(bytes, _)| bytes.into()).collect(),
            state: Some(state.into()),
            heartbeat: Some(dsse::sign_statement(&heartbeat, &refs(&self.heartbeat_pairs)).0.into()),
        }
    }

    /// A version of the key that the agent made and holds.
    pub fn version(&self, number: u32, state: VersionState, created: Timestamp) -> VersionEntry {
        let record = self.record(number, fingerprint(number));
        VersionEntry {
            state,
            created,
            activated: Some(created),
            generator: Some(AGENT),
            record: Some(document::sign(&record, &self.agent)),
            ready: BTreeMap::from([(AGENT, document::sign(&self.report(number, fingerprint(number)), &self.agent))]),
            backup: None,
        }
    }

    /// What the agent says of a version it made.
    pub fn record(&self, number: u32, fingerprint: Digest) -> VersionRecord {
        VersionRecord {
            tenant: TENANT,
            site: SITE,
            version: KeyVersion::new(KEY, number),
            algorithm: algorithm(),
            origin: Origin::Generated,
            fingerprint,
            public_key: None,
            generator: AGENT,
            issued: START,
        }
    }

    /// What the agent says of a version it holds.
    pub fn report(&self, number: u32, fingerprint: Digest) -> HolderReport {
        let version = KeyVersion::new(KEY, number);
        let (holder, vault, status) = (AGENT, VaultId::from_bits(1), HolderStatus::Ready);
        HolderReport { tenant: TENANT, site: SITE, version, fingerprint, holder, vault, status, protection: None, issued: START }
    }

    /// Puts the other agent into the roster with these vouches.
    pub fn join(&mut self, vouches: Vec<Vouch>) {
        let entry = document::sign_roster_entry(&self.other_agent, TENANT, SITE, OTHER_AGENT, self.pinned, START);
        self.state.roster.insert(OTHER_AGENT, RosterSlot { entry, vouches });
        self.state.slots_used = 2;
    }

    /// What somebody says who vouches for the other agent.
    pub fn vouch(&self) -> AgentVouch {
        AgentVouch { tenant: TENANT, site: SITE, agent: OTHER_AGENT, keyid: self.other_agent.keyid(), issued: START }
    }

    /// The key is placed at the other site too, whose agent stands in the state with these vouches.
    pub fn adjoin(&mut self, vouches: Vec<Vouch>) {
        let entry = document::sign_roster_entry(&self.neighbour, TENANT, OTHER_SITE, NEIGHBOUR, self.pinned, START);
        let roster = BTreeMap::from([(NEIGHBOUR, RosterSlot { entry, vouches })]);
        self.state.neighbours.insert(OTHER_SITE, Neighbour { roster });
        self.state.head.requires = vec![NEIGHBOUR_SITES.to_owned()];
        if let Some(definition) = self.project_policy().keys.get_mut(&KEY) {
            definition.placement = vec![SITE, OTHER_SITE];
        }
    }

    /// What somebody says who vouches for the agent of the other site.
    pub fn bridge(&self) -> AgentVouch {
        AgentVouch { tenant: TENANT, site: OTHER_SITE, agent: NEIGHBOUR, keyid: self.neighbour.keyid(), issued: START }
    }

    /// A vouch by the agent of this site for the one of the other.
    pub fn bridged(&self) -> Vouch {
        Vouch::Agent { agent: AGENT, vouch: document::sign(&self.bridge(), &self.agent) }
    }

    /// A lease for the agent, number `serial`, signed; what it gives, `change` fills in.
    pub fn lease(&self, serial: u64, change: impl FnOnce(&mut Lease)) -> Base64 {
        let mut head = Head { site: Some(SITE), agent: Some(AGENT), ..head(Kind::Lease, Duration::from_secs(7 * DAY)) };
        head.serial = serial;
        let mut lease = Lease { head, number: serial, answers: None, budgets: BTreeMap::new() };
        change(&mut lease);
        dsse::sign_statement(&lease, &refs(&self.state_pairs)).0.into()
    }

    /// A second key, as state would make it from the template `cards`.
    pub fn templated(&self) -> KeyDefinition {
        KeyDefinition { name: name("made"), ..definition() }
    }
}

/// A pair that is always the same for the same seed.
pub fn pair(seed: u64) -> Pair {
    Pair::generate(&ManualIds::seeded(seed))
}

/// Pairs as a list of references.
pub fn refs(pairs: &[Pair]) -> Vec<&Pair> {
    pairs.iter().collect()
}

/// The fingerprint of a version's material.
pub fn fingerprint(number: u32) -> Digest {
    Digest::labelled("test-material", &[&number.to_be_bytes()])
}

#[allow(clippy::expect_used, reason = "a builder for tests")]
fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

#[allow(clippy::expect_used, reason = "a builder for tests")]
fn algorithm() -> Algorithm {
    "A256KW+A256GCM".parse().expect("an algorithm of the catalogue")
}

#[allow(clippy::expect_used, reason = "a builder for tests")]
fn pin<S: Statement>(statement: &S) -> Pin {
    let payload = serde_json::to_vec(statement).expect("statements are JSON");
    Pin { serial: statement.head().serial, sha256: Digest::of(&payload) }
}

fn head(kind: Kind, life: Duration) -> Head {
    Head {
        format: kind.media_type().to_owned(),
        requires: Vec::new(),
        tenant: TENANT,
        site: None,
        project: None,
        agent: None,
        epoch: 1,
        serial: 1,
        issued: START,
        not_before: START,
        expires: START.plus(life),
        root_serial: 1,
    }
}

const DAY: u64 = 86_400;

fn empty_root() -> Root {
    let head = head(Kind::Root, Duration::from_secs(5 * 365 * DAY));
    Root { head, signers: BTreeMap::new(), roles: BTreeMap::new(), ledger: LedgerRule::default() }
}

/// A policy that allows nothing.
pub fn policy(scope: Scope) -> Policy {
    let mut head = head(Kind::Policy, Duration::from_secs(180 * DAY));
    match scope {
        Scope::Tenant => {}
        Scope::Project(project) => head.project = Some(project),
        Scope::Site(site) => head.site = Some(site),
    }
    Policy {
        head,
        cedar_version: "4.5".to_owned(),
        cedar: BTreeMap::new(),
        callers: BTreeMap::new(),
        caller_authorities: Vec::new(),
        keys: BTreeMap::new(),
        templates: BTreeMap::new(),
        vouching: VouchingRule::default(),
        offline: None,
        composites: BTreeMap::new(),
        recovery: None,
        resumptions: Vec::new(),
        compromises: Vec::new(),
        destructions: Vec::new(),
    }
}

fn project_policy() -> Policy {
    let definition = definition();
    let caller = CallerDefinition {
        name: name("billing"),
        project: PROJECT,
        kind: CallerKind::Token,
        issuer: SITE.to_string(),
        subject: "billing".to_owned(),
        labels: BTreeMap::new(),
    };
    let template = KeyTemplate {
        project: PROJECT,
        algorithms: vec![definition.algorithm],
        purposes: vec![definition.purpose],
        placement: vec![SITE],
        labels: BTreeMap::new(),
        durabilities: vec![Durability::SingleCopy],
        protection: Protection::Software,
        exportable: false,
        rotation: Default::default(),
        limits: Default::default(),
        max_keys: Some(1),
    };
    Policy {
        cedar: BTreeMap::from([("pol_test/0".to_owned(), "permit (principal, action, resource);".to_owned())]),
        callers: BTreeMap::from([(CALLER, caller)]),
        keys: BTreeMap::from([(KEY, definition)]),
        templates: BTreeMap::from([(name("cards"), template)]),
        ..policy(Scope::Project(PROJECT))
    }
}

/// What the key is.
pub fn definition() -> KeyDefinition {
    KeyDefinition {
        name: name("card-data"),
        aliases: Vec::new(),
        project: PROJECT,
        project_name: name("payments"),
        algorithm: algorithm(),
        purpose: Purpose::Encrypt,
        placement: vec![SITE],
        labels: BTreeMap::new(),
        durability: Durability::SingleCopy,
        protection: Protection::Software,
        exportable: false,
        origin: Origin::Generated,
        eligible_generators: Vec::new(),
        rotation: Default::default(),
        limits: Default::default(),
        minimum_versions: Default::default(),
        external: Default::default(),
    }
}

fn empty_state() -> State {
    State {
        head: Head { site: Some(SITE), ..head(Kind::State, Duration::from_secs(7 * DAY)) },
        templated: BTreeMap::new(),
        keys: BTreeMap::new(),
        roster: BTreeMap::new(),
        neighbours: BTreeMap::new(),
        slots_used: 0,
        revocations: Vec::new(),
        suspensions: Vec::new(),
    }
}

fn empty_heartbeat() -> Heartbeat {
    let nothing = Pin { serial: 0, sha256: Digest([0; 32]) };
    Heartbeat {
        head: Head { site: Some(SITE), ..head(Kind::Heartbeat, Duration::from_secs(3600)) },
        root: nothing,
        tenant_policy: nothing,
        project_policies: BTreeMap::new(),
        site_policy: None,
        state: nothing,
        checkpoint: None,
        authorities: BTreeSet::new(),
    }
}
