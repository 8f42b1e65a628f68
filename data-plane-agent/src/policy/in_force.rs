//! A set of statements as requests see it: looked up by id and name, with its policies indexed. Built once per set and
//! never changed, so that a request sees one set or the next, never a mix.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use schema::{
    catalogue::Algorithm,
    clock::Timestamp,
    encoding::Digest,
    id::{AgentId, CallerId, KeyId, KeyVersion, ProjectId, SiteId, TenantId},
    key::{KeyReference, Operation, VersionState},
    name::Name,
    wire::operation::StatementSerial,
};
use trust::{
    document::VersionRecord,
    statement::{
        Scope,
        heartbeat::Heartbeat,
        policy::{CallerDefinition, CallerKind, KeyDefinition, OfflineRule, Policy},
        state::{State, Subject},
    },
};

use super::slice::{PolicyIndex, UnusablePolicy};

/// What was accepted, as a decision needs it.
#[derive(Debug, Clone, Copy)]
pub struct Believed<'a> {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// This agent.
    pub agent: AgentId,
    /// Every policy statement of the set.
    pub policies: &'a [Policy],
    /// The site's state.
    pub state: &'a State,
    /// The site's heartbeat.
    pub heartbeat: &'a Heartbeat,
    /// Everything ever suspended or revoked and not lifted by policy since.
    pub restricted: &'a BTreeSet<Subject>,
}

/// A set of statements in force.
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
    /// The policies' scopes and serials.
    pub policy_serials: Vec<StatementSerial>,
    /// The serials as receipts name them: `h42.s7.t3…`
    pub serials: Arc<str>,
    /// Degradation by the heartbeat's age.
    pub offline: OfflineRule,
    /// Certificate authorities of callers, DER, by the SHA-256 that caller definitions name.
    pub caller_authorities: BTreeMap<Digest, Vec<u8>>,
    /// The Cedar policies.
    pub policies: PolicyIndex,
    keys: HashMap<KeyId, Arc<KeyInForce>>,
    names: HashMap<(Name, Name), KeyId>,
    callers: HashMap<CallerId, CallerDefinition>,
    certificates: HashMap<(String, String), CallerId>,
    caller_names: HashMap<(ProjectId, Name), CallerId>,
    projects: HashMap<Name, ProjectId>,
    restricted: BTreeSet<Subject>,
}

/// A key that is placed at this site, and its versions.
#[derive(Debug)]
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
#[derive(Debug)]
pub struct VersionInForce {
    /// Its state, with what policy confirmed.
    pub state: VersionState,
    /// When it became active.
    pub activated: Option<Timestamp>,
    /// The agent that is to make it, or made it.
    pub generator: Option<AgentId>,
    /// What its generator signed; none until it was made.
    pub record: Option<VersionRecord>,
    /// Whether this agent's ready report stands in the state.
    pub reported_ready: bool,
}

impl KeyInForce {
    /// The key's only algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.definition.algorithm
    }

    /// The public half of a version, as the algorithm's standard encodes it.
    pub fn public_key(&self, number: u32) -> Option<&[u8]> {
        self.versions.get(&number)?.record.as_ref()?.public_key.as_ref().map(|key| key.as_slice())
    }
}

impl InForce {
    /// Builds the view. Fails when a Cedar policy cannot be used: then the whole set must be refused.
    pub fn compile(believed: Believed<'_>) -> Result<Self, UnusablePolicy> {
        let Believed { tenant, site, agent, policies, state, heartbeat, restricted } = believed;
        let mut view = Self {
            tenant,
            site,
            agent,
            heartbeat_time: heartbeat.time(),
            heartbeat_serial: heartbeat.head.serial,
            state_serial: state.head.serial,
            policy_serials: policies.iter().map(serial_of).collect(),
            serials: serials(policies, state, heartbeat).into(),
            offline: offline_rule(policies),
            caller_authorities: BTreeMap::new(),
            policies: PolicyIndex::compile(policies.iter().map(|policy| (policy.scope(), &policy.cedar)))?,
            keys: HashMap::new(),
            names: HashMap::new(),
            callers: HashMap::new(),
            certificates: HashMap::new(),
            caller_names: HashMap::new(),
            projects: HashMap::new(),
            restricted: restricted.clone(),
        };
        for policy in policies {
            view.add_callers(policy);
            // A project's policy defines keys of that project only; a tenant's or site's may define any.
            let of = |definition: &KeyDefinition| !matches!(policy.scope(), Scope::Project(project) if project != definition.project);
            for (id, definition) in policy.keys.iter().filter(|(_, definition)| of(definition)) {
                view.add_key(*id, definition, state, policies);
            }
        }
        for (id, templated) in &state.templated {
            if !view.keys.contains_key(id) {
                view.add_key(*id, &templated.definition, state, policies);
            }
        }
        Ok(view)
    }

    /// The key a caller means, if it is placed here.
    pub fn key(&self, reference: &KeyReference) -> Option<&Arc<KeyInForce>> {
        let id = match reference {
            KeyReference::Id(id) => *id,
            KeyReference::Version(version) => version.key,
            KeyReference::Named { project, name } => *self.names.get(&(project.clone(), name.clone()))?,
        };
        self.keys.get(&id)
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
    pub fn is_restricted(&self, subject: Subject) -> bool {
        self.restricted.contains(&subject)
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

    fn add_key(&mut self, id: KeyId, definition: &KeyDefinition, state: &State, policies: &[Policy]) {
        if !definition.placement.contains(&self.site) {
            return;
        }
        let key_state = state.keys.get(&id);
        let versions = key_state.into_iter().flat_map(|key| &key.versions).map(|(number, entry)| {
            let version = KeyVersion::new(id, *number);
            let confirmed = |list: fn(&Policy) -> &Vec<KeyVersion>| policies.iter().any(|policy| list(policy).contains(&version));
            let state = if confirmed(|policy| &policy.destructions) {
                VersionState::Destroyed
            } else if confirmed(|policy| &policy.compromises) && entry.state.rank() < VersionState::Compromised.rank() {
                VersionState::Compromised
            } else {
                entry.state
            };
            let view = VersionInForce {
                state,
                activated: entry.activated,
                generator: entry.generator,
                record: entry.record.as_ref().and_then(|bytes| trust::dsse::peek_document(bytes.as_slice()).ok()),
                reported_ready: entry.ready.contains_key(&self.agent),
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
}

fn serial_of(policy: &Policy) -> StatementSerial {
    let scope = match policy.scope() {
        Scope::Tenant => "tenant".to_owned(),
        Scope::Project(id) => format!("project {id}"),
        Scope::Site(id) => format!("site {id}"),
    };
    StatementSerial { scope, serial: policy.head.serial }
}

fn serials(policies: &[Policy], state: &State, heartbeat: &Heartbeat) -> String {
    use std::fmt::Write;
    let mut text = format!("h{}.s{}", heartbeat.head.serial, state.head.serial);
    for policy in policies {
        let letter = match policy.scope() {
            Scope::Tenant => 't',
            Scope::Project(_) => 'p',
            Scope::Site(_) => 'l',
        };
        // Writing to a string does not fail.
        let _ = write!(text, ".{letter}{}", policy.head.serial);
    }
    text
}

/// The site's rule, else the tenant's, else the defaults.
fn offline_rule(policies: &[Policy]) -> OfflineRule {
    let of = |wanted: fn(Scope) -> bool| policies.iter().find(|policy| wanted(policy.scope())).and_then(|policy| policy.offline.clone());
    of(|scope| matches!(scope, Scope::Site(_))).or_else(|| of(|scope| scope == Scope::Tenant)).unwrap_or_default()
}

/// The operations that a purpose serves.
pub(crate) fn serves(definition: &KeyDefinition, operation: Operation) -> bool {
    use schema::key::Purpose;
    match operation {
        Operation::Encrypt | Operation::Decrypt | Operation::GenerateDataKey => definition.purpose == Purpose::Encrypt,
        Operation::Sign | Operation::Verify => definition.purpose == Purpose::Sign,
        Operation::PublicKey => definition.algorithm.entry().asymmetric,
        Operation::Random => false,
    }
}
