//! Cedar policies of a set, indexed when the set is accepted, so that a request is decided on those that could match it.
//!
//! Cedar evaluates every policy it is given. A policy whose scope (`principal`, `action`, `resource`) cannot match can
//! never be satisfied, so leaving it out changes no answer; a policy without scope is in every slice. A policy of a project
//! reaches only that project's resources: it is left out everywhere else.

use std::{
    collections::{BTreeMap, HashMap},
    str::FromStr,
    sync::{
        Arc, OnceLock, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use cedar_policy::{
    ActionConstraint, Authorizer, Context, Decision, Effect, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy, PolicyId,
    PolicySet, PrincipalConstraint, Request, ResourceConstraint, RestrictedExpression,
};
use schema::{
    id::{CallerId, KeyId, ProjectId, SiteId},
    key::Operation,
    name::Labels,
    obligation::{InvalidObligation, Obligations},
};
use trust::statement::{
    Scope,
    policy::{CallerDefinition, KeyDefinition},
};

use super::{
    explain::{self, Nearest},
    kept::{KeptDecisions, looked_at},
    looks::Looks,
};

/// The most slices kept; when there are more, all are forgotten and built again as they are asked for.
const MAX_SLICES: usize = 8192;

/// Why the policies of a set cannot be used. The whole set is refused: a `forbid` left out would allow.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UnusablePolicy {
    /// The text is not one Cedar policy.
    #[error("policy {id} is not a Cedar policy: {detail}")]
    Syntax {
        /// Which.
        id: String,
        /// What Cedar says.
        detail: String,
    },
    /// Two policies have one id.
    #[error("policy {id} stands twice in the set")]
    Twice {
        /// Which.
        id: String,
    },
    /// A caller or key cannot be written as an entity.
    #[error("{id} cannot be given to Cedar: {detail}")]
    Entity {
        /// Which.
        id: String,
        /// What Cedar says.
        detail: String,
    },
}

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// A key.
    Key(KeyId),
    /// The site itself: random bytes.
    Site(SiteId),
}

/// Every Cedar policy of a set, indexed by what its scope can match.
pub struct PolicyIndex {
    rules: Vec<Rule>,
    shelves: HashMap<Operation, Shelf>,
    slices: RwLock<HashMap<(CallerId, Operation, Resource), Arc<Slice>>>,
    /// Numbers slices, so that a decision is never taken for that of another.
    next_slice: AtomicU64,
    kept: KeptDecisions,
}

struct Rule {
    policy: Policy,
    scope: Scope,
    /// What it demands of what it permits. A permit whose demands are not understood permits nothing.
    obligations: Result<Obligations, InvalidObligation>,
}

/// Where the rules of one action stand: under their resource, else under their principal, else under `rest`.
#[derive(Default)]
struct Shelf {
    by_resource: HashMap<EntityUid, Vec<u32>>,
    by_principal: HashMap<EntityUid, Vec<u32>>,
    by_project: HashMap<ProjectId, Vec<u32>>,
    rest: Vec<u32>,
}

impl PolicyIndex {
    /// Parses and indexes. `policies` are Cedar texts by id, with the scope of the statement each stands in.
    pub fn compile<'a>(policies: impl IntoIterator<Item = (Scope, &'a BTreeMap<String, String>)>) -> Result<Self, UnusablePolicy> {
        let mut rules = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for (scope, texts) in policies {
            for (id, text) in texts {
                if !seen.insert(id.clone()) {
                    return Err(UnusablePolicy::Twice { id: id.clone() });
                }
                let policy = Policy::parse(Some(PolicyId::new(id)), text)
                    .map_err(|error| UnusablePolicy::Syntax { id: id.clone(), detail: error.to_string() })?;
                let obligations = Obligations::read(policy.effect() == Effect::Permit, policy.annotations());
                if let Err(error) = &obligations {
                    tracing::warn!(
                        policy = id,
                        error = error as &dyn std::error::Error,
                        "a policy has an annotation that is not understood"
                    );
                }
                rules.push(Rule { policy, scope, obligations });
            }
        }
        let mut shelves = HashMap::new();
        for operation in Operation::ALL {
            let action = entity("Action", operation.as_str());
            let mut shelf = Shelf::default();
            for (place, rule) in (0u32..).zip(&rules).filter(|(_, rule)| action_matches(&rule.policy.action_constraint(), &action)) {
                let (resource, principal) = (resource_anchor(&rule.policy), principal_anchor(&rule.policy));
                match (resource, principal, rule.scope) {
                    (Some(resource), _, _) => shelf.by_resource.entry(resource).or_default().push(place),
                    (None, Some(principal), _) => shelf.by_principal.entry(principal).or_default().push(place),
                    (None, None, Scope::Project(project)) => shelf.by_project.entry(project).or_default().push(place),
                    (None, None, Scope::Tenant | Scope::Site(_)) => shelf.rest.push(place),
                }
            }
            shelves.insert(*operation, shelf);
        }
        Ok(Self { rules, shelves, slices: RwLock::default(), next_slice: AtomicU64::new(0), kept: KeptDecisions::new() })
    }

    /// How many policies there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What the policies say. An answer that cannot differ from one given before is given again.
    pub(crate) fn decide(
        &self,
        caller: (CallerId, &CallerDefinition),
        operation: Operation,
        resource: Target<'_>,
        moment: &Moment<'_>,
    ) -> Result<Arc<Verdict>, UnusablePolicy> {
        let slice = self.slice(caller, operation, resource)?;
        if slice.looks.passing() {
            return slice.decide(moment).map(Arc::new);
        }
        if !slice.looks.anywhere() {
            if let Some(verdict) = slice.only.get() {
                return Ok(verdict.clone());
            }
            let verdict = Arc::new(slice.decide(moment)?);
            return Ok(slice.only.get_or_init(|| verdict).clone());
        }
        if let Some(verdict) = self.kept.find(slice.number, &slice.looks, moment) {
            return Ok(verdict);
        }
        let verdict = Arc::new(slice.decide(moment)?);
        self.kept.keep(slice.number, &slice.looks, moment, verdict.clone());
        Ok(verdict)
    }

    /// What the policies say of one moment, and whether they might say something else at another. Nothing is kept: this is for
    /// looking at many resources once.
    pub(crate) fn look(
        &self,
        caller: (CallerId, &CallerDefinition),
        operation: Operation,
        resource: Target<'_>,
        moment: &Moment<'_>,
    ) -> Result<(Verdict, bool), UnusablePolicy> {
        let slice = self.cut(caller, operation, resource)?;
        Ok((slice.decide(moment)?, slice.looks.anywhere()))
    }

    /// The policies that could match this caller, operation and resource, ready to be evaluated; kept for the next time.
    pub(crate) fn slice(
        &self,
        caller: (CallerId, &CallerDefinition),
        operation: Operation,
        resource: Target<'_>,
    ) -> Result<Arc<Slice>, UnusablePolicy> {
        let place = (caller.0, operation, resource.resource());
        if let Some(slice) = self.slices.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(&place) {
            return Ok(slice.clone());
        }
        let slice = Arc::new(self.cut(caller, operation, resource)?);
        let mut slices = self.slices.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if slices.len() >= MAX_SLICES {
            slices.clear();
        }
        slices.insert(place, slice.clone());
        Ok(slice)
    }

    fn cut(&self, caller: (CallerId, &CallerDefinition), operation: Operation, resource: Target<'_>) -> Result<Slice, UnusablePolicy> {
        let scene = Scene::of(caller, operation, resource)?;
        let project = resource.project();
        let mut places = Vec::new();
        if let Some(shelf) = self.shelves.get(&operation) {
            let project_uid = project.map(|project| entity("Project", &project.to_string()));
            let of_caller = entity("Project", &caller.1.project.to_string());
            let resources = std::iter::once(&scene.resource).chain(&project_uid).filter_map(|uid| shelf.by_resource.get(uid));
            let principals = [&scene.principal, &of_caller].into_iter().filter_map(|uid| shelf.by_principal.get(uid));
            let projects = project.as_ref().and_then(|project| shelf.by_project.get(project));
            places.extend(resources.chain(principals).chain(projects).chain([&shelf.rest]).flatten().copied());
        }
        places.sort_unstable();
        let reaches = |rule: &&Rule| match rule.scope {
            Scope::Tenant | Scope::Site(_) => true,
            Scope::Project(of) => project == Some(of),
        };
        let rules = places.iter().map(|place| &self.rules[*place as usize]).filter(reaches);
        let matching: Vec<&Rule> = rules.filter(|rule| scene.matches(&rule.policy)).collect();
        Slice::new(self.next_slice.fetch_add(1, Ordering::Relaxed), &matching, scene)
    }
}

/// What a request is about, with what policy may know of it.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// A key.
    Key(KeyId, &'a KeyDefinition),
    /// The site.
    Site(SiteId),
}

impl Target<'_> {
    fn resource(self) -> Resource {
        match self {
            Self::Key(id, _) => Resource::Key(id),
            Self::Site(id) => Resource::Site(id),
        }
    }

    fn project(self) -> Option<ProjectId> {
        match self {
            Self::Key(_, definition) => Some(definition.project),
            Self::Site(_) => None,
        }
    }
}

/// The entities of one caller, operation and resource.
pub(crate) struct Scene {
    pub(crate) principal: EntityUid,
    pub(crate) action: EntityUid,
    pub(crate) resource: EntityUid,
    encryption: EntityUid,
    entities: Entities,
    principal_parent: EntityUid,
    resource_parent: Option<EntityUid>,
}

impl Scene {
    fn of(caller: (CallerId, &CallerDefinition), operation: Operation, target: Target<'_>) -> Result<Self, UnusablePolicy> {
        let (id, definition) = caller;
        let principal = entity("Caller", &id.to_string());
        let principal_parent = entity("Project", &definition.project.to_string());
        let fault =
            |id: String| move |error: cedar_policy::EntityAttrEvaluationError| UnusablePolicy::Entity { id, detail: error.to_string() };
        let mut entities = vec![
            Entity::new_with_tags(
                principal.clone(),
                [
                    ("name".to_owned(), RestrictedExpression::new_string(definition.name.to_string())),
                    ("kind".to_owned(), RestrictedExpression::new_string(definition.kind.to_string())),
                ],
                [principal_parent.clone()],
                tags(&definition.labels),
            )
            .map_err(fault(id.to_string()))?,
            Entity::with_uid(principal_parent.clone()),
        ];
        let (resource, resource_parent) = match target {
            Target::Key(id, key) => {
                let (uid, parent) = (entity("Key", &id.to_string()), entity("Project", &key.project.to_string()));
                let attributes = [
                    ("name".to_owned(), RestrictedExpression::new_string(key.name.to_string())),
                    ("algorithm".to_owned(), RestrictedExpression::new_string(key.algorithm.name().to_owned())),
                    ("purpose".to_owned(), RestrictedExpression::new_string(key.purpose.to_string())),
                    ("durability".to_owned(), RestrictedExpression::new_string(key.durability.to_string())),
                    ("exportable".to_owned(), RestrictedExpression::new_bool(key.exportable)),
                ];
                entities.push(
                    Entity::new_with_tags(uid.clone(), attributes, [parent.clone()], tags(&key.labels)).map_err(fault(id.to_string()))?,
                );
                if parent != principal_parent {
                    entities.push(Entity::with_uid(parent.clone()));
                }
                (uid, Some(parent))
            }
            Target::Site(id) => {
                let uid = entity("Site", &id.to_string());
                entities.push(Entity::with_uid(uid.clone()));
                (uid, None)
            }
        };
        let entities = Entities::from_entities(entities, None)
            .map_err(|error| UnusablePolicy::Entity { id: resource.to_string(), detail: error.to_string() })?;
        Ok(Self {
            principal,
            action: entity("Action", operation.as_str()),
            resource,
            encryption: entity("EncryptionContext", "request"),
            entities,
            principal_parent,
            resource_parent,
        })
    }

    /// Whether the policy's scope matches, by Cedar's rules over the parents that these entities have.
    fn matches(&self, policy: &Policy) -> bool {
        let principal = match policy.principal_constraint() {
            PrincipalConstraint::Any => true,
            PrincipalConstraint::Eq(uid) => uid == self.principal,
            PrincipalConstraint::In(uid) => self.principal_in(&uid),
            PrincipalConstraint::Is(kind) => kind == *self.principal.type_name(),
            PrincipalConstraint::IsIn(kind, uid) => kind == *self.principal.type_name() && self.principal_in(&uid),
        };
        let resource = match policy.resource_constraint() {
            ResourceConstraint::Any => true,
            ResourceConstraint::Eq(uid) => uid == self.resource,
            ResourceConstraint::In(uid) => self.resource_in(&uid),
            ResourceConstraint::Is(kind) => kind == *self.resource.type_name(),
            ResourceConstraint::IsIn(kind, uid) => kind == *self.resource.type_name() && self.resource_in(&uid),
        };
        principal && resource && action_matches(&policy.action_constraint(), &self.action)
    }

    fn principal_in(&self, uid: &EntityUid) -> bool {
        *uid == self.principal || *uid == self.principal_parent
    }

    fn resource_in(&self, uid: &EntityUid) -> bool {
        *uid == self.resource || self.resource_parent.as_ref() == Some(uid)
    }
}

/// What only one request knows.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// The encryption context.
    pub context: &'a schema::context::EncryptionContext,
    /// When, by agent time.
    pub time: schema::clock::Timestamp,
    /// Where the caller comes from.
    pub address: std::net::IpAddr,
    /// Bytes of plaintext or ciphertext, when known beforehand.
    pub size: Option<u64>,
    /// The key version that would be used.
    pub version: Option<u32>,
    /// `fresh`, `stale` or `grace`.
    pub statements: &'static str,
    /// How many keys a message or file is for, where it is for keys.
    pub recipients: Option<u32>,
}

/// The policies that could match, and their entities.
pub struct Slice {
    number: u64,
    policies: PolicySet,
    scene: Scene,
    looks: Looks,
    /// What the permits demand, where they do.
    obligations: BTreeMap<String, Obligations>,
    /// Permits left out because their demands are not understood.
    not_understood: Vec<Nearest>,
    /// The verdict, when it is always the same.
    only: OnceLock<Arc<Verdict>>,
    permits: OnceLock<Vec<explain::Permit>>,
}

/// What Cedar says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// These policies allow it, and none forbids it; and what they demand, together.
    Allowed(Vec<String>, Obligations),
    /// These policies forbid it, or failed while they were asked whether they do.
    Forbidden(Vec<String>),
    /// Nothing allows it; the nearest policy, when one's scope matches.
    NothingAllows(Option<Nearest>),
}

impl Slice {
    fn new(number: u64, rules: &[&Rule], scene: Scene) -> Result<Self, UnusablePolicy> {
        let (mut policies, mut obligations, mut not_understood) = (PolicySet::new(), BTreeMap::new(), Vec::new());
        for rule in rules {
            let id = rule.policy.id().to_string();
            match &rule.obligations {
                Err(error) if rule.policy.effect() == Effect::Permit => {
                    let condition = "its annotations".to_owned();
                    not_understood.push(Nearest { policy: id, condition, error: Some(error.to_string()) });
                    continue;
                }
                Ok(demands) if !demands.is_empty() => drop(obligations.insert(id.clone(), demands.clone())),
                _ => {}
            }
            policies.add(rule.policy.clone()).map_err(|error| UnusablePolicy::Syntax { id, detail: error.to_string() })?;
        }
        let looks = Looks::of(policies.policies());
        Ok(Self { number, policies, scene, looks, obligations, not_understood, only: OnceLock::new(), permits: OnceLock::new() })
    }

    /// How many policies could match.
    pub fn len(&self) -> usize {
        self.policies.num_of_policies()
    }

    /// Whether none could.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// Asks Cedar. An error in a `forbid` forbids; an error in a `permit` does not permit.
    pub fn decide(&self, moment: &Moment<'_>) -> Result<Verdict, UnusablePolicy> {
        let (request, entities) = self.question(moment)?;
        let response = Authorizer::new().is_authorized(&request, &self.policies, &entities);
        let failed_forbids: Vec<String> = response
            .diagnostics()
            .errors()
            .map(|cedar_policy::AuthorizationError::PolicyEvaluationError(error)| error.policy_id())
            .filter(|id| self.policies.policy(id).is_none_or(|policy| policy.effect() == Effect::Forbid))
            .map(ToString::to_string)
            .collect();
        let mut reasons: Vec<String> = response.diagnostics().reason().map(ToString::to_string).collect();
        if !failed_forbids.is_empty() {
            if response.decision() == Decision::Allow {
                reasons.clear();
            }
            reasons.extend(failed_forbids);
        } else if response.decision() == Decision::Allow {
            reasons.sort_unstable();
            let mut obligations = Obligations::default();
            reasons.iter().filter_map(|id| self.obligations.get(id)).for_each(|demands| obligations.add(demands.clone()));
            return Ok(Verdict::Allowed(reasons, obligations));
        }
        if reasons.is_empty() {
            let permits = self.permits.get_or_init(|| self.policies.policies().filter_map(explain::Permit::read).collect());
            let nearest = explain::nearest(permits, &request, &entities);
            return Ok(Verdict::NothingAllows(nearest.or_else(|| self.not_understood.first().cloned())));
        }
        reasons.sort_unstable();
        Ok(Verdict::Forbidden(reasons))
    }

    /// The request as far as the policies look at it: nothing else can take part in the answer.
    fn question(&self, moment: &Moment<'_>) -> Result<(Request, Entities), UnusablePolicy> {
        let scene = &self.scene;
        let fault = |detail: String| UnusablePolicy::Entity { id: "the request".to_owned(), detail };
        let looks = &self.looks;
        let mut pairs = Vec::with_capacity(7);
        if looks.anywhere() {
            pairs.push(("encryption".to_owned(), RestrictedExpression::new_entity_uid(scene.encryption.clone())));
        }
        if looks.time {
            pairs.push(("time".to_owned(), RestrictedExpression::new_datetime(cedar_time(moment.time))));
        }
        if looks.address {
            pairs.push(("address".to_owned(), RestrictedExpression::new_ip(moment.address.to_canonical().to_string())));
        }
        if looks.statements {
            pairs.push(("statements".to_owned(), RestrictedExpression::new_string(moment.statements.to_owned())));
        }
        if let Some(size) = moment.size.filter(|_| looks.size) {
            pairs.push(("size".to_owned(), RestrictedExpression::new_long(i64::try_from(size).unwrap_or(i64::MAX))));
        }
        if let Some(version) = moment.version.filter(|_| looks.version) {
            pairs.push(("version".to_owned(), RestrictedExpression::new_long(version.into())));
        }
        if let Some(recipients) = moment.recipients.filter(|_| looks.recipients) {
            pairs.push(("recipients".to_owned(), RestrictedExpression::new_long(recipients.into())));
        }
        let context = Context::from_pairs(pairs).map_err(|error| fault(error.to_string()))?;
        let mut tags = looked_at(looks, moment).peekable();
        let entities = if tags.peek().is_none() {
            scene.entities.clone()
        } else {
            let tags = tags.map(|(key, value)| (key.to_owned(), RestrictedExpression::new_string(value.to_owned())));
            let encryption = Entity::new_with_tags(scene.encryption.clone(), [], [], tags).map_err(|error| fault(error.to_string()))?;
            scene.entities.clone().add_entities([encryption], None).map_err(|error| fault(error.to_string()))?
        };
        let request = Request::new(scene.principal.clone(), scene.action.clone(), scene.resource.clone(), context, None)
            .map_err(|error| fault(error.to_string()))?;
        Ok((request, entities))
    }
}

/// Cedar's `datetime` has milliseconds.
fn cedar_time(time: schema::clock::Timestamp) -> String {
    let text = time.to_string();
    match text.split_at_checked(text.len().saturating_sub(4)) {
        Some((to_millis, _)) => format!("{to_millis}Z"),
        None => text,
    }
}

fn tags(labels: &Labels) -> impl Iterator<Item = (String, RestrictedExpression)> + '_ {
    labels.iter().map(|(key, value)| (key.to_string(), RestrictedExpression::new_string(value.to_string())))
}

fn action_matches(constraint: &ActionConstraint, action: &EntityUid) -> bool {
    match constraint {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => uid == action,
        ActionConstraint::In(uids) => uids.contains(action),
    }
}

fn principal_anchor(policy: &Policy) -> Option<EntityUid> {
    match policy.principal_constraint() {
        PrincipalConstraint::Eq(uid) | PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => Some(uid),
        PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
    }
}

fn resource_anchor(policy: &Policy) -> Option<EntityUid> {
    match policy.resource_constraint() {
        ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => Some(uid),
        ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
    }
}

/// The types are parsed once.
fn entity(kind: &'static str, id: &str) -> EntityUid {
    static TYPES: OnceLock<HashMap<&'static str, EntityTypeName>> = OnceLock::new();
    let types = TYPES.get_or_init(|| {
        ["Action", "Caller", "EncryptionContext", "Key", "Project", "Site"]
            .into_iter()
            .filter_map(|kind| Some((kind, EntityTypeName::from_str(kind).ok()?)))
            .collect()
    });
    EntityUid::from_type_name_and_id(types[kind].clone(), EntityId::new(id))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;
    use schema::{clock::Timestamp, context::EncryptionContext};
    use trust::statement::policy::CallerKind;

    use super::*;
    use crate::policy::testing::{caller, key};

    const PROJECTS: [ProjectId; 2] = [ProjectId::from_bits(1), ProjectId::from_bits(2)];
    const SITE: SiteId = SiteId::from_bits(9);

    fn moment(context: &EncryptionContext) -> Moment<'_> {
        let time = Timestamp::from_micros(1_750_000_000_123_456);
        Moment {
            context,
            time,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            size: Some(100),
            version: Some(1),
            statements: "fresh",
            recipients: Some(1),
        }
    }

    /// Moments that differ from this one in one fact each.
    fn others<'a>(moment: &Moment<'a>) -> [Moment<'a>; 6] {
        static OTHER: OnceLock<EncryptionContext> = OnceLock::new();
        let context = OTHER.get_or_init(|| EncryptionContext::new([("tenant".to_owned(), "8".to_owned())].into()).unwrap());
        [
            Moment { context, ..*moment },
            Moment { time: Timestamp::from_micros(1), ..*moment },
            Moment { address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), ..*moment },
            Moment { size: Some(10), ..*moment },
            Moment { statements: "stale", ..*moment },
            Moment { recipients: Some(2), ..*moment },
        ]
    }

    fn some_scope() -> impl Strategy<Value = Scope> {
        prop_oneof![Just(Scope::Tenant), Just(Scope::Site(SITE)), Just(Scope::Project(PROJECTS[0])), Just(Scope::Project(PROJECTS[1])),]
    }

    fn some_policy() -> impl Strategy<Value = String> {
        let principal = prop_oneof![
            3 => Just("principal".to_owned()),
            3 => (0u128..3).prop_map(|n| format!("principal == Caller::\"{}\"", CallerId::from_bits(n))),
            1 => (1u128..3).prop_map(|n| format!("principal in Project::\"{}\"", ProjectId::from_bits(n))),
            1 => Just("principal is Caller".to_owned()),
            1 => (1u128..3).prop_map(|n| format!("principal is Caller in Project::\"{}\"", ProjectId::from_bits(n))),
        ];
        let action = prop_oneof![
            2 => Just("action".to_owned()),
            2 => Just("action == Action::\"encrypt\"".to_owned()),
            1 => Just("action in [Action::\"encrypt\", Action::\"decrypt\"]".to_owned()),
            1 => Just("action == Action::\"random\"".to_owned()),
        ];
        let resource = prop_oneof![
            3 => Just("resource".to_owned()),
            3 => (0u128..3).prop_map(|n| format!("resource == Key::\"{}\"", KeyId::from_bits(n))),
            2 => (1u128..3).prop_map(|n| format!("resource in Project::\"{}\"", ProjectId::from_bits(n))),
            1 => Just("resource is Key".to_owned()),
            1 => Just("resource is Site".to_owned()),
            1 => (1u128..3).prop_map(|n| format!("resource is Key in Project::\"{}\"", ProjectId::from_bits(n))),
        ];
        let condition = prop_oneof![
            4 => Just(String::new()),
            1 => Just("when { context.size < 50 }".to_owned()),
            1 => Just("unless { context has recipients && context.recipients > 1 }".to_owned()),
            1 => Just("when { context.encryption.hasTag(\"tenant\") && context.encryption.getTag(\"tenant\") == \"7\" }".to_owned()),
            1 => Just("unless { principal.name == \"app-1\" || context.statements != \"fresh\" }".to_owned()),
            1 => Just("when { context.encryption.getTag(\"tenant\") == \"7\" }".to_owned()),
            1 => Just("when { context.time > datetime(\"2020-01-01\") && context.address.isLoopback() }".to_owned()),
        ];
        (prop_oneof![Just("permit"), Just("permit"), Just("forbid")], principal, action, resource, condition).prop_map(
            |(effect, principal, action, resource, condition)| format!("{effect} ({principal}, {action}, {resource}) {condition};"),
        )
    }

    proptest! {
        #[test]
        fn a_slice_answers_like_the_whole_set(
            policies in proptest::collection::vec((some_scope(), some_policy()), 0..24),
            caller_bits in 0u128..3, caller_project in 0usize..2,
            key_bits in 0u128..3, key_project in 0usize..2,
            about_key: bool, decrypts: bool, tagged: bool,
        ) {
            let mut by_scope: BTreeMap<Scope, BTreeMap<String, String>> = BTreeMap::new();
            for (place, (scope, text)) in policies.iter().enumerate() {
                by_scope.entry(*scope).or_default().insert(format!("pol/{place:02}"), text.clone());
            }
            let index = PolicyIndex::compile(by_scope.iter().map(|(scope, texts)| (*scope, texts))).unwrap();
            let caller = caller(PROJECTS[caller_project], &format!("app-{caller_bits}"), CallerKind::Token);
            let key = key(PROJECTS[key_project], "k", &[SITE]);
            let (target, project) = if about_key {
                (Target::Key(KeyId::from_bits(key_bits), &key), Some(PROJECTS[key_project]))
            } else {
                (Target::Site(SITE), None)
            };
            let operation = match (about_key, decrypts) {
                (false, _) => Operation::Random,
                (true, true) => Operation::Decrypt,
                (true, false) => Operation::Encrypt,
            };
            let id = CallerId::from_bits(caller_bits);
            let context = EncryptionContext::new(if tagged { [("tenant".to_owned(), "7".to_owned())].into() } else { BTreeMap::new() }).unwrap();
            let found = index.slice((id, &caller), operation, target).unwrap().decide(&moment(&context)).unwrap();

            // The whole set: every policy that reaches the resource, none left out for its scope.
            let whole: Vec<&Rule> =
                index.rules.iter().filter(|rule| !matches!(rule.scope, Scope::Project(of) if project != Some(of))).collect();
            let scene = Scene::of((id, &caller), operation, target).unwrap();
            let mut expected = Slice::new(0, &whole, scene).unwrap();
            expected.looks = Looks::EVERYWHERE;
            let expected = expected.decide(&moment(&context)).unwrap();
            match (&found, &expected) {
                // The whole set also holds permits whose scope does not match: they explain nothing.
                (Verdict::NothingAllows(_), Verdict::NothingAllows(_)) => {}
                _ => prop_assert_eq!(&found, &expected),
            }
            // And once more: made, and kept, with other requests in between.
            for _ in 0..2 {
                prop_assert_eq!(&*index.decide((id, &caller), operation, target, &moment(&context)).unwrap(), &found);
                for other in others(&moment(&context)) {
                    let fresh = index.slice((id, &caller), operation, target).unwrap().decide(&other).unwrap();
                    prop_assert_eq!(&*index.decide((id, &caller), operation, target, &other).unwrap(), &fresh);
                }
            }
        }
    }

    fn decide(policies: &[&str], context: &EncryptionContext) -> Verdict {
        let texts = policies.iter().enumerate().map(|(place, text)| (format!("pol/{place}"), (*text).to_owned())).collect();
        let index = PolicyIndex::compile([(Scope::Tenant, &texts)]).unwrap();
        let (caller, key) = (caller(PROJECTS[0], "billing", CallerKind::Token), key(PROJECTS[0], "cards", &[SITE]));
        let slice = index.slice((CallerId::from_bits(1), &caller), Operation::Encrypt, Target::Key(KeyId::from_bits(1), &key)).unwrap();
        slice.decide(&moment(context)).unwrap()
    }

    #[test]
    fn only_the_matching_of_a_thousand_are_evaluated() {
        let policies: BTreeMap<String, String> = (0..1000u128)
            .map(|n| {
                (format!("pol/{n:04}"), format!("permit (principal == Caller::\"{}\", action, resource);", CallerId::from_bits(n / 10)))
            })
            .collect();
        let index = PolicyIndex::compile([(Scope::Tenant, &policies)]).unwrap();
        let (caller, key) = (caller(PROJECTS[0], "a", CallerKind::Token), key(PROJECTS[0], "k", &[SITE]));
        let slice = index.slice((CallerId::from_bits(7), &caller), Operation::Encrypt, Target::Key(KeyId::from_bits(1), &key)).unwrap();
        assert_eq!(slice.len(), 10);
    }

    #[test]
    fn a_refusal_names_the_nearest_policy_and_its_first_failed_condition() {
        let none = EncryptionContext::default();
        let far = "permit (principal, action, resource) when { context.size < 10 && context.version == 9 };";
        let near = "permit (principal, action, resource) when { resource.algorithm == \"A256KW+A256GCM\" && context.size < 50 } unless { principal.name == \"x\" };";
        let Verdict::NothingAllows(Some(nearest)) = decide(&[far, near], &none) else { panic!("expected a nearest policy") };
        assert_eq!((nearest.policy.as_str(), nearest.condition.as_str(), nearest.error), ("pol/1", "when { context.size < 50 }", None));

        let unless = "permit (principal, action, resource) unless { context.statements == \"grace\" || principal.name == \"billing\" };";
        let Verdict::NothingAllows(Some(nearest)) = decide(&[unless], &none) else { panic!("expected a nearest policy") };
        assert_eq!(nearest.condition, "unless { principal.name == \"billing\" }");

        let Verdict::NothingAllows(Some(nearest)) =
            decide(&["permit (principal, action, resource) when { context.encryption.getTag(\"tenant\") == \"7\" };"], &none)
        else {
            panic!("expected a nearest policy")
        };
        assert!(nearest.error.is_some());
        assert_eq!(decide(&["permit (principal == Caller::\"clr_other\", action, resource);"], &none), Verdict::NothingAllows(None));
    }

    #[test]
    fn a_forbid_that_fails_forbids() {
        let permit = "permit (principal, action, resource);";
        let broken = "forbid (principal, action, resource) when { context.encryption.getTag(\"tenant\") == \"7\" };";
        assert_eq!(decide(&[permit, broken], &EncryptionContext::default()), Verdict::Forbidden(vec!["pol/1".to_owned()]));
    }

    #[test]
    fn one_bad_policy_makes_the_set_unusable() {
        let texts = [("pol/0".to_owned(), "permit (principal, action".to_owned())].into();
        assert!(matches!(PolicyIndex::compile([(Scope::Tenant, &texts)]), Err(UnusablePolicy::Syntax { .. })));
        let texts = [("pol/0".to_owned(), "permit (principal, action, resource);".to_owned())].into();
        let twice = [(Scope::Tenant, &texts), (Scope::Site(SITE), &texts)];
        assert!(matches!(PolicyIndex::compile(twice), Err(UnusablePolicy::Twice { .. })));
    }
}
