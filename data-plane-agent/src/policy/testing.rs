//! Callers, keys and whole sets for tests.

use std::collections::{BTreeMap, BTreeSet};

use schema::{
    clock::Timestamp,
    composite::VerificationRule,
    encoding::Digest,
    id::{AgentId, CallerId, CompositeId, KeyId, KeyVersion, ProjectId, SiteId, TenantId},
    key::{Durability, Limits, MinimumVersions, Origin, Protection, Purpose, RotationRule, VersionState},
    name::Labels,
};
use trust::{
    accept::RecoveryMemory,
    statement::{
        Head, Kind, Pin,
        heartbeat::Heartbeat,
        policy::{CallerDefinition, CallerKind, CompositeDefinition, KeyDefinition, OfflineRule, Policy, VouchingRule},
        state::{KeyState, State, Subject, VersionEntry},
    },
};

use super::in_force::{Believed, InForce};

pub(crate) const TENANT: TenantId = TenantId::from_bits(1);
pub(crate) const SITE: SiteId = SiteId::from_bits(2);
pub(crate) const AGENT: AgentId = AgentId::from_bits(3);
pub(crate) const PROJECT: ProjectId = ProjectId::from_bits(4);
pub(crate) const CALLER: CallerId = CallerId::from_bits(5);
pub(crate) const KEY: KeyId = KeyId::from_bits(6);
pub(crate) const COMPOSITE: CompositeId = CompositeId::from_bits(7);
pub(crate) const CLASSICAL: KeyId = KeyId::from_bits(8);
pub(crate) const POST_QUANTUM: KeyId = KeyId::from_bits(9);
pub(crate) const SEALED: KeyId = KeyId::from_bits(10);
pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_750_000_000_000_000);

pub(crate) fn caller(project: ProjectId, name: &str, kind: CallerKind) -> CallerDefinition {
    CallerDefinition {
        name: name.parse().unwrap(),
        project,
        kind,
        issuer: SITE.to_string(),
        subject: name.to_owned(),
        labels: Labels::new(),
    }
}

pub(crate) fn key(project: ProjectId, name: &str, placement: &[SiteId]) -> KeyDefinition {
    KeyDefinition {
        name: name.parse().unwrap(),
        aliases: vec![],
        project,
        project_name: "billing".parse().unwrap(),
        algorithm: "A256KW+A256GCM".parse().unwrap(),
        purpose: Purpose::Encrypt,
        placement: placement.to_vec(),
        labels: Labels::new(),
        durability: Durability::SingleCopy,
        protection: Protection::Software,
        exportable: false,
        origin: Origin::Generated,
        eligible_generators: vec![],
        rotation: RotationRule::default(),
        limits: Limits::default(),
        minimum_versions: MinimumVersions::default(),
        external: vec![],
    }
}

/// A set that can be changed before it is put in force.
pub(crate) struct SetBuilder {
    pub(crate) policies: Vec<Policy>,
    pub(crate) state: State,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) held: BTreeSet<Subject>,
    pub(crate) versions: BTreeMap<KeyVersion, (VersionState, bool)>,
    pub(crate) recovery: Option<RecoveryMemory>,
}

impl SetBuilder {
    /// One caller, and one key with versions 1 (deactivated) and 2 (active, primary).
    pub(crate) fn new(cedar: &str) -> Self {
        let policy = Policy {
            head: head(Kind::Policy),
            cedar_version: "4.5".to_owned(),
            cedar: [("pol/0".to_owned(), cedar.to_owned())].into(),
            callers: [(CALLER, caller(PROJECT, "checkout", CallerKind::Token))].into(),
            caller_authorities: vec![],
            keys: [(KEY, key(PROJECT, "cards", &[SITE]))].into(),
            templates: BTreeMap::new(),
            vouching: VouchingRule::default(),
            offline: None,
            composites: BTreeMap::new(),
            recovery: None,
            resumptions: vec![],
            compromises: vec![],
            destructions: vec![],
        };
        let versions = [(1, version(VersionState::Deactivated)), (2, version(VersionState::Active))].into();
        let state = State {
            head: head(Kind::State),
            templated: BTreeMap::new(),
            keys: [(KEY, KeyState { primary: 2, versions })].into(),
            roster: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            slots_used: 1,
            revocations: vec![],
            suspensions: vec![],
        };
        let pin = Pin { serial: 1, sha256: Digest::of(b"") };
        let heartbeat = Heartbeat {
            head: head(Kind::Heartbeat),
            root: pin,
            tenant_policy: pin,
            project_policies: BTreeMap::new(),
            site_policy: None,
            state: pin,
            checkpoint: None,
            authorities: BTreeSet::new(),
        };
        let treated = [(1, VersionState::Deactivated), (2, VersionState::Active)];
        let versions = treated.into_iter().map(|(number, state)| (KeyVersion::new(KEY, number), (state, false))).collect();
        Self { policies: vec![policy], state, heartbeat, held: BTreeSet::new(), versions, recovery: None }
    }

    pub(crate) fn key(&mut self) -> &mut KeyDefinition {
        self.policies[0].keys.get_mut(&KEY).unwrap()
    }

    /// The composite `billing/contracts` with keys in one active version each, and a hybrid one of this algorithm.
    pub(crate) fn composite(&mut self, encryption: Option<&str>) -> &mut CompositeDefinition {
        let signing = [(CLASSICAL, "Ed25519", Purpose::Sign), (POST_QUANTUM, "ML-DSA-65", Purpose::Sign)];
        let members = signing.into_iter().chain(encryption.map(|algorithm| (SEALED, algorithm, Purpose::Encrypt)));
        for (id, algorithm, purpose) in members {
            let mut member = key(PROJECT, &format!("contracts-{}", algorithm.to_lowercase()), &[SITE]);
            (member.algorithm, member.purpose) = (algorithm.parse().unwrap(), purpose);
            self.policies[0].keys.insert(id, member);
            self.state.keys.insert(id, KeyState { primary: 1, versions: [(1, version(VersionState::Active))].into() });
            self.versions.insert(KeyVersion::new(id, 1), (VersionState::Active, false));
        }
        let composite = CompositeDefinition {
            name: "contracts".parse().unwrap(),
            project: PROJECT,
            classical: CLASSICAL,
            post_quantum: POST_QUANTUM,
            encryption: encryption.map(|_| SEALED),
            rule: VerificationRule::All,
        };
        self.policies[0].composites.insert(COMPOSITE, composite);
        self.policies[0].composites.get_mut(&COMPOSITE).unwrap()
    }

    pub(crate) fn compile(&self) -> InForce {
        InForce::compile(self.believed()).unwrap()
    }

    pub(crate) fn believed(&self) -> Believed<'_> {
        Believed {
            tenant: TENANT,
            site: SITE,
            agent: AGENT,
            policies: self.policies.iter().collect(),
            keys: &self.policies[0].keys,
            state: &self.state,
            heartbeat: &self.heartbeat,
            serials: "h7.s7.t7".to_owned(),
            offline: OfflineRule::default(),
            held: self.held.clone(),
            versions: self.versions.clone(),
            recovery: self.recovery.as_ref(),
        }
    }
}

fn version(state: VersionState) -> VersionEntry {
    VersionEntry { state, created: NOW, activated: Some(NOW), generator: Some(AGENT), record: None, ready: BTreeMap::new(), backup: None }
}

fn head(kind: Kind) -> Head {
    Head {
        format: kind.media_type().to_owned(),
        requires: vec![],
        tenant: TENANT,
        site: None,
        project: None,
        agent: None,
        epoch: 1,
        serial: 7,
        issued: NOW,
        not_before: NOW,
        expires: NOW,
        root_serial: 1,
    }
}
