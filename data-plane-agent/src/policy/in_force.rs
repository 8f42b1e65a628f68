//! A set of statements as requests see it: looked up by id and name, with its policies indexed. Built once per set and
//! never changed, so that a request sees one set or the next, never a mix.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use schema::{
    catalogue::Algorithm,
    clock::Timestamp,
    composite::Member,
    encoding::Digest,
    id::{AgentId, CallerId, CompositeId, KeyId, KeyVersion, ProjectId, SiteId, TenantId},
    key::{KeyReference, Operation, Origin, Protection, VersionState},
    name::Name,
    wire::operation::{RootInForce, StatementSerial},
};
use trust::{
    accept::{AcceptedSet, RecoveryMemory},
    document::VersionRecord,
    statement::{
        Scope,
        heartbeat::Heartbeat,
        policy::{CallerDefinition, CallerKind, CompositeDefinition, KeyDefinition, OfflineRule, Policy},
        state::{State, Subject},
    },
};

use super::slice::{PolicyIndex, UnusablePolicy};
use crate::vault::Held;

/// What was accepted, as a decision needs it: a narrow view, so that decisions can be tested without signatures.
#[derive(Debug, Clone)]
pub struct Believed<'a> {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// This agent.
    pub agent: AgentId,
    /// Every policy statement of the set.
    pub policies: Vec<&'a Policy>,
    /// Every key: of policy, or made from a template.
    pub keys: &'a BTreeMap<KeyId, KeyDefinition>,
    /// The site's state.
    pub state: &'a State,
    /// The site's heartbeat.
    pub heartbeat: &'a Heartbeat,
    /// The serials in force, for receipts.
    pub serials: String,
    /// Degradation by the heartbeat's age.
    pub offline: OfflineRule,
    /// Callers, agents and projects that are suspended or revoked.
    pub held: BTreeSet<Subject>,
    /// What each version is treated as, with everything that holds it back, and whether its material is to be wiped.
    pub versions: BTreeMap<KeyVersion, (VersionState, bool)>,
    /// The key that backups are sealed to.
    pub recovery: Option<&'a RecoveryMemory>,
}

impl<'a> Believed<'a> {
    /// What `trust` accepted.
    pub fn of(set: &'a AcceptedSet) -> Self {
        let identity = set.identity();
        let versions = set.state().keys.iter().flat_map(|(key, state)| state.versions.keys().map(|number| KeyVersion::new(*key, *number)));
        Self {
            tenant: identity.tenant,
            site: identity.site,
            agent: identity.agent,
            policies: set.policies().map(|(_, policy)| policy).collect(),
            keys: set.keys(),
            state: set.state(),
            heartbeat: set.heartbeat(),
            serials: set.serials(),
            offline: set.offline_rule(),
            held: set.memory().restrictions.keys().copied().collect(),
            versions: versions
                .filter_map(|version| Some((version, (set.version_state(version)?, set.destruction_confirmed(version)))))
                .collect(),
            recovery: set.recovery_key(),
        }
    }
}

/// A set of statements in force.
#[derive(Clone)]
pub struct InForce {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// This agent.
    pub agent: AgentId,
    /// The time of the heartbeat.
    pub heartbeat_time: Timestamp,
    /// The serial of the heartbeat.
    pub heartbeat_serial: u64,
    /// The serial of the state.
    pub state_serial: u64,
    /// The root.
    pub root: RootInForce,
    /// The policies' scopes and serials.
    pub policy_serials: Vec<StatementSerial>,
    /// The serials as receipts name them: `h42.s7.t3…`
    pub serials: Arc<str>,
    /// Degradation by the heartbeat's age.
    pub offline: OfflineRule,
    /// Certificate authorities of callers, DER, by the SHA-256 that caller definitions name.
    pub caller_authorities: BTreeMap<Digest, Vec<u8>>,
    /// The Cedar policies.
    pub policies: Arc<PolicyIndex>,
    pub(super) keys: HashMap<KeyId, Arc<KeyInForce>>,
    pub(super) names: HashMap<(Name, Name), KeyId>,
    pub(super) composites: BTreeMap<CompositeId, Arc<CompositeInForce>>,
    pub(super) composite_names: HashMap<(Name, Name), CompositeId>,
    pub(super) callers: HashMap<CallerId, CallerDefinition>,
    pub(super) certificates: HashMap<(String, String), CallerId>,
    pub(super) caller_names: HashMap<(ProjectId, Name), CallerId>,
    pub(super) projects: HashMap<Name, ProjectId>,
    pub(super) held: BTreeSet<Subject>,
    pub(super) recovery: Option<Arc<RecoveryMemory>>,
}

/// A key that is placed at this site, and its versions.
#[derive(Debug, Clone)]
pub struct KeyInForce {
    /// Its id.
    pub id: KeyId,
    /// What is fixed about it.
    pub definition: KeyDefinition,
    /// The version used when none is named; 0 while there is none.
    pub primary: u32,
    /// Every version ever.
    pub versions: BTreeMap<u32, VersionInForce>,
}

/// One version.
#[derive(Debug, Clone)]
pub struct VersionInForce {
    /// What it is treated as, with everything that holds it back.
    pub state: VersionState,
    /// Whether policy has confirmed that its material is to be wiped.
    pub wipe: bool,
    /// When it became active.
    pub activated: Option<Timestamp>,
    /// The agent that is to make it, or made it.
    pub generator: Option<AgentId>,
    /// What its generator signed; none until it was made.
    pub record: Option<VersionRecord>,
    /// Whether this agent's ready report stands in the state.
    pub reported_ready: bool,
    /// Whether a holder's report of a sealed backup does.
    pub backed_up: bool,
    /// Of a partner's key: its public half, as policy names it.
    pub external: Option<Arc<Held>>,
}

/// A composite whose keys are placed at this site.
#[derive(Debug, Clone)]
pub struct CompositeInForce {
    /// Its id.
    pub id: CompositeId,
    /// Its project's name.
    pub project_name: Name,
    /// Its keys and its rule.
    pub definition: CompositeDefinition,
}

impl CompositeInForce {
    /// The key that does this by the composite's name alone: what is sealed is the hybrid key's. Signatures are made and judged
    /// together, and everything else is asked of a key by its own name.
    pub fn member_for(&self, operation: Operation) -> Option<KeyId> {
        let seals = matches!(
            operation,
            Operation::Encrypt | Operation::Decrypt | Operation::GenerateDataKey | Operation::Rewrap | Operation::ReEncrypt
        );
        self.definition.encryption.filter(|_| seals)
    }

    /// The keys that take part in this.
    pub fn members_for(&self, operation: Operation) -> Vec<(Member, KeyId)> {
        match operation {
            Operation::Sign | Operation::Verify | Operation::ReSign => {
                self.definition.members().filter(|(member, _)| *member != Member::Encryption).collect()
            }
            Operation::PublicKey => self.definition.members().collect(),
            operation => self.member_for(operation).map(|key| (Member::Encryption, key)).into_iter().collect(),
        }
    }

    /// `project/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.project_name, self.definition.name)
    }
}

impl KeyInForce {
    /// The key's only algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.definition.algorithm
    }

    /// The public half of a version, as the algorithm's standard encodes it.
    pub fn public_key(&self, number: u32) -> Option<&[u8]> {
        let version = self.versions.get(&number)?;
        match &version.external {
            Some(external) => external.public_key.as_deref(),
            None => version.record.as_ref()?.public_key.as_ref().map(|key| key.as_slice()),
        }
    }

    /// The version that waits for material that was made elsewhere.
    pub fn awaited(&self) -> Option<u32> {
        let waits = |version: &VersionInForce| version.state == VersionState::PreActivation && version.record.is_none();
        self.versions.iter().find(|(_, version)| waits(version)).map(|(number, _)| *number)
    }

    /// The public half of a version of a partner's key.
    pub fn external(&self, number: u32) -> Option<&Arc<Held>> {
        self.versions.get(&number)?.external.as_ref()
    }
}

impl InForce {
    /// Builds the view. Fails when a Cedar policy cannot be used: then nothing of the set may grant anything, and what it
    /// restricts is applied to the set before it ([`Self::restricted_by`]).
    pub fn compile(believed: Believed<'_>) -> Result<Self, UnusablePolicy> {
        let mut view = Self {
            tenant: believed.tenant,
            site: believed.site,
            agent: believed.agent,
            heartbeat_time: believed.heartbeat.time(),
            heartbeat_serial: believed.heartbeat.head.serial,
            state_serial: believed.state.head.serial,
            root: RootInForce { serial: believed.heartbeat.root.serial, sha256: believed.heartbeat.root.sha256 },
            policy_serials: believed.policies.iter().map(|policy| serial_of(policy)).collect(),
            serials: believed.serials.as_str().into(),
            offline: believed.offline.clone(),
            caller_authorities: BTreeMap::new(),
            policies: Arc::new(PolicyIndex::compile(believed.policies.iter().map(|policy| (policy.scope(), &policy.cedar)))?),
            keys: HashMap::new(),
            names: HashMap::new(),
            composites: BTreeMap::new(),
            composite_names: HashMap::new(),
            callers: HashMap::new(),
            certificates: HashMap::new(),
            caller_names: HashMap::new(),
            projects: HashMap::new(),
            held: believed.held.clone(),
            recovery: believed.recovery.cloned().map(Arc::new),
        };
        for policy in &believed.policies {
            view.add_callers(policy);
        }
        for (id, definition) in believed.keys {
            view.add_key(*id, definition, &believed);
        }
        for (id, definition) in believed.policies.iter().flat_map(|policy| &policy.composites) {
            view.add_composite(*id, definition);
        }
        Ok(view)
    }

    /// The key a caller means, if it is placed here.
    pub fn key(&self, reference: &KeyReference) -> Option<&Arc<KeyInForce>> {
        let id = match reference {
            KeyReference::Id(id) => *id,
            KeyReference::Version(version) => version.key,
            KeyReference::Composite(_) => return None,
            KeyReference::Named { project, name } => *self.names.get(&(project.clone(), name.clone()))?,
        };
        self.keys.get(&id)
    }

    /// The composite a caller means, if its keys are placed here.
    pub fn composite(&self, reference: &KeyReference) -> Option<&Arc<CompositeInForce>> {
        if self.composites.is_empty() {
            return None;
        }
        let id = match reference {
            KeyReference::Composite(id) => *id,
            KeyReference::Named { project, name } => *self.composite_names.get(&(project.clone(), name.clone()))?,
            KeyReference::Id(_) | KeyReference::Version(_) => return None,
        };
        self.composites.get(&id)
    }

    /// Every composite whose keys are placed here, in order of their ids.
    pub fn composites(&self) -> impl Iterator<Item = &Arc<CompositeInForce>> {
        self.composites.values()
    }

    /// Every key placed here.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<KeyInForce>> {
        self.keys.values()
    }

    /// How many keys are placed here.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// A caller of the policies, restricted or not.
    pub fn caller(&self, id: CallerId) -> Option<&CallerDefinition> {
        self.callers.get(&id)
    }

    /// How many callers the policies let in.
    pub fn caller_count(&self) -> usize {
        self.callers.len()
    }

    /// The caller of this name in this project; projects are known by name through their keys here.
    pub fn caller_named(&self, project: &Name, name: &Name) -> Option<CallerId> {
        self.caller_names.get(&(*self.projects.get(project)?, name.clone())).copied()
    }

    /// The caller that comes with a certificate of this authority (SHA-256, base64url) and this subject alternative name.
    pub fn caller_with_certificate(&self, issuer: &str, subject: &str) -> Option<CallerId> {
        self.certificates.get(&(issuer.to_owned(), subject.to_owned())).copied()
    }

    /// Whether this was suspended or revoked.
    pub fn is_held(&self, subject: Subject) -> bool {
        self.held.contains(&subject)
    }

    /// How old the heartbeat is.
    pub fn age_seconds(&self, now: Timestamp) -> u64 {
        now.since(self.heartbeat_time).as_secs()
    }

    fn add_callers(&mut self, policy: &Policy) {
        for authority in &policy.caller_authorities {
            self.caller_authorities.insert(Digest::of(authority.as_slice()), authority.0.clone());
        }
        for (id, caller) in &policy.callers {
            if matches!(policy.scope(), Scope::Project(project) if project != caller.project) {
                continue;
            }
            if caller.kind == CallerKind::Mtls {
                self.certificates.insert((caller.issuer.clone(), caller.subject.clone()), *id);
            }
            self.caller_names.insert((caller.project, caller.name.clone()), *id);
            self.callers.insert(*id, caller.clone());
        }
    }

    fn add_key(&mut self, id: KeyId, definition: &KeyDefinition, believed: &Believed<'_>) {
        if !definition.placement.contains(&self.site) {
            return;
        }
        let key_state = believed.state.keys.get(&id);
        let versions = key_state.into_iter().flat_map(|key| &key.versions).map(|(number, entry)| {
            // A version nobody vouches for does nothing.
            let treated = believed.versions.get(&KeyVersion::new(id, *number)).copied();
            let (state, wipe) = treated.unwrap_or((VersionState::Suspended, false));
            let view = VersionInForce {
                state,
                wipe,
                activated: entry.activated,
                generator: entry.generator,
                record: entry.record.as_ref().and_then(|bytes| trust::dsse::peek_document(bytes.as_slice()).ok()),
                reported_ready: entry.ready.contains_key(&self.agent),
                backed_up: entry.backup.is_some(),
                external: external(definition, KeyVersion::new(id, *number)),
            };
            (*number, view)
        });
        let key = KeyInForce {
            id,
            definition: definition.clone(),
            primary: key_state.map_or(0, |key| key.primary),
            versions: versions.collect(),
        };
        self.projects.insert(definition.project_name.clone(), definition.project);
        for alias in &definition.aliases {
            self.names.entry((definition.project_name.clone(), alias.clone())).or_insert(id);
        }
        // A name wins over an alias of another key.
        self.names.insert((definition.project_name.clone(), definition.name.clone()), id);
        self.keys.insert(id, Arc::new(key));
    }

    fn add_composite(&mut self, id: CompositeId, definition: &CompositeDefinition) {
        let here = definition.members().all(|(_, key)| self.keys.contains_key(&key));
        let Some(key) = self.keys.get(&definition.classical).filter(|_| here) else { return };
        let project_name = key.definition.project_name.clone();
        self.composite_names.insert((project_name.clone(), definition.name.clone()), id);
        self.composites.insert(id, Arc::new(CompositeInForce { id, project_name, definition: definition.clone() }));
    }
}

/// A partner's key as if a vault held its public half.
fn external(definition: &KeyDefinition, version: KeyVersion) -> Option<Arc<Held>> {
    let external = definition.external_version(version.number).filter(|_| definition.is_external())?;
    let public_key = Some(external.public_key.0.clone());
    // How the partner guards the private half, nobody here knows.
    let protection = Protection::Software;
    Some(Arc::new(Held { version, algorithm: definition.algorithm, fingerprint: external.fingerprint, public_key, protection }))
}

fn serial_of(policy: &Policy) -> StatementSerial {
    let scope = match policy.scope() {
        Scope::Tenant => "tenant".to_owned(),
        Scope::Project(id) => format!("project {id}"),
        Scope::Site(id) => format!("site {id}"),
    };
    StatementSerial { scope, serial: policy.head.serial }
}

/// Whether a key does this at all: its algorithm and its one purpose say so, of a partner's key the public half is enough,
/// and material comes and goes only as it was said when the key was created.
pub(crate) fn serves(definition: &KeyDefinition, operation: Operation) -> bool {
    let here = !definition.is_external() || operation.needs_only_public_half();
    let fixed = match operation {
        Operation::Import => definition.origin == Origin::Imported,
        Operation::Export => definition.exportable,
        _ => true,
    };
    here && fixed && definition.algorithm.does(definition.purpose, operation)
}
