//! Facts give the content of every policy and state of a tenant. Pure and repeatable: the same facts after the same
//! statements give the same content, so that "changed?" is a comparison.
//!
//! Content is a statement under [`blank_head`]; publishing fills the head in.

use std::collections::{BTreeMap, BTreeSet};

use schema::{
    clock::Timestamp,
    encoding::Base64,
    id::{AgentId, KeyId, KeyVersion, ProjectId, SiteId, TenantId},
    key::{Durability, VersionState},
};
use trust::statement::{
    Head, Kind, Scope,
    policy::{COMPOSITE_KEYS, EXTERNAL_KEYS, KeyDefinition, Policy, Resumption, SerialText},
    root::Root,
    state::{KeyState, NEIGHBOUR_SITES, Neighbour, Revocation, State, Subject, TemplatedKey, VersionEntry},
};

use super::{
    facts::{Facts, KeyFacts, PolicyFacts, Revoked},
    neighbours,
    templates::{self, Outside},
};

/// The version of the Cedar language our policies are written in.
pub const CEDAR_VERSION: &str = "4.5";

/// The content of every policy and state of one tenant.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Content {
    /// By scope: the tenant, each project with keys at a site, each site with rules of its own.
    pub policies: BTreeMap<Scope, Policy>,
    /// By site.
    pub states: BTreeMap<SiteId, State>,
}

/// What was published last, heads included.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Published {
    /// The present epoch. What was lifted in an earlier one is not lifted again: the numbers it names are of that epoch.
    pub epoch: u64,
    /// By scope.
    pub policies: BTreeMap<Scope, Policy>,
    /// By site.
    pub states: BTreeMap<SiteId, State>,
    /// Policies that wait for the tenant's signers, by scope.
    pub waiting: BTreeMap<Scope, Policy>,
}

/// Compiles everything.
pub fn compile(facts: &Facts, published: &Published) -> Content {
    let placed = projects_at_sites(facts);
    let outside = templates::outside(facts);
    for left_out in outside.values() {
        tracing::warn!(key = %left_out, "a key does not fit its template: agents are not told of it until a wider one is published");
    }
    let states: BTreeMap<_, _> =
        facts.sites.keys().map(|site| (*site, state(facts, *site, placed.get(site), &outside, published.states.get(site)))).collect();
    let mut resumptions = resumptions(facts, published, &states);
    let projects = placed.values().flatten().copied().collect::<BTreeSet<_>>();
    let scopes = std::iter::once(Scope::Tenant)
        .chain(projects.into_iter().map(Scope::Project))
        .chain(facts.sites.iter().filter(|(_, site)| site.offline.is_some() || site.recovery.is_some()).map(|(id, _)| Scope::Site(*id)))
        .chain(facts.policies.iter().map(|document| document.scope).filter(|scope| matches!(scope, Scope::Site(_))))
        // What was ever published stays: an agent that pinned a scope is told of its present, not left with its past.
        .chain(published.policies.keys().chain(published.waiting.keys()).copied());
    // Sorted once: with many projects, looking through all keys for each would take the product of both.
    let mut keys = BTreeMap::<_, Vec<_>>::new();
    for (id, key) in &facts.keys {
        keys.entry(Scope::Project(key.definition.project)).or_default().push((*id, key));
    }
    let policies = scopes
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(|scope| {
            let own = keys.get(&scope).map_or(&[][..], Vec::as_slice);
            (scope, policy(facts, scope, own, resumptions.remove(&scope).unwrap_or_default()))
        })
        .collect();
    Content { policies, states }
}

/// The projects with keys at each site.
pub fn projects_at_sites(facts: &Facts) -> BTreeMap<SiteId, BTreeSet<ProjectId>> {
    let mut placed = BTreeMap::<_, BTreeSet<_>>::new();
    for key in facts.keys.values() {
        for site in &key.definition.placement {
            placed.entry(*site).or_default().insert(key.definition.project);
        }
    }
    placed
}

/// The states of every site as facts have them now, before anything was published.
pub fn states(facts: &Facts) -> BTreeMap<SiteId, State> {
    let (placed, outside) = (projects_at_sites(facts), templates::outside(facts));
    facts.sites.keys().map(|site| (*site, state(facts, *site, placed.get(site), &outside, None))).collect()
}

fn policy(facts: &Facts, scope: Scope, keys: &[(KeyId, &KeyFacts)], resumptions: Vec<Resumption>) -> Policy {
    let (project, site) = match scope {
        Scope::Tenant => (None, None),
        Scope::Project(project) => (Some(project), None),
        Scope::Site(site) => (None, Some(site)),
    };
    let documents: Vec<&PolicyFacts> = facts.policies.iter().filter(|document| document.scope == scope).collect();
    let in_state = |state: VersionState| {
        let versions = keys.iter().flat_map(move |(id, key)| {
            key.state.versions.iter().filter(move |(_, entry)| entry.state == state).map(|(number, _)| KeyVersion::new(*id, *number))
        });
        versions.collect::<Vec<_>>()
    };
    // Revoked callers are let in by nobody: their authority stays only as long as others need it.
    let at_work = facts.callers.values().filter(|caller| Some(caller.definition.project) == project && caller.revoked.is_none());
    let authorities: BTreeSet<&Base64> = at_work.filter_map(|caller| caller.authority.as_ref()).collect();
    let vouching = |scope| facts.policies.iter().filter(|document| document.scope == scope).find_map(|document| document.vouching.clone());
    let external = keys.iter().any(|(_, key)| key.definition.is_external());
    let composites: BTreeMap<_, _> = facts
        .composites
        .iter()
        .filter(|(_, composite)| Some(composite.project) == project)
        .map(|(id, composite)| (*id, composite.clone()))
        .collect();
    let needs = [(external, EXTERNAL_KEYS), (!composites.is_empty(), COMPOSITE_KEYS)];
    let requires = needs.into_iter().filter(|(needed, _)| *needed).map(|(_, word)| word.to_owned()).collect();
    Policy {
        head: Head { project, site, requires, ..blank_head(Kind::Policy, facts.tenant) },
        cedar_version: CEDAR_VERSION.to_owned(),
        cedar: documents.iter().flat_map(|document| document.cedar.clone()).collect(),
        callers: facts
            .callers
            .iter()
            .filter(|(_, caller)| Some(caller.definition.project) == project)
            .map(|(id, caller)| (*id, caller.definition.clone()))
            .collect(),
        caller_authorities: authorities.into_iter().cloned().collect(),
        keys: keys.iter().filter(|(_, key)| key.template.is_none()).map(|(id, key)| (*id, key.definition.clone())).collect(),
        composites,
        templates: documents.iter().flat_map(|document| document.templates.clone()).collect(),
        // A site's policy repeats the tenant's rule on vouching, unless it has its own: one rule of its own loosens no other.
        vouching: if project.is_some() { None } else { vouching(scope).or_else(|| vouching(Scope::Tenant)) }.unwrap_or_default(),
        offline: site
            .and_then(|site| facts.sites.get(&site)?.offline.clone())
            .or_else(|| documents.iter().find_map(|document| document.offline.clone())),
        recovery: site.and_then(|site| facts.sites.get(&site)?.recovery.clone()),
        resumptions,
        compromises: in_state(VersionState::Compromised),
        destructions: in_state(VersionState::Destroyed),
    }
}

/// Keys outside their template are left out, not what restricts them: agents would refuse the whole set for one such key.
fn state(
    facts: &Facts,
    site: SiteId,
    projects: Option<&BTreeSet<ProjectId>>,
    outside: &BTreeMap<KeyId, Outside>,
    last: Option<&State>,
) -> State {
    let keys: BTreeMap<_, _> = facts.keys.iter().filter(|(_, key)| key.definition.placement.contains(&site)).collect();
    let agents: BTreeMap<_, _> = facts.agents.iter().filter(|(_, agent)| agent.site == site).collect();
    let here = |project: &ProjectId| projects.is_some_and(|projects| projects.contains(project));
    let callers = || facts.callers.iter().filter(|(_, caller)| here(&caller.definition.project));
    let others = neighbours::sites(site, &keys, facts);
    let neighbours = neighbours::neighbours(site, &others, &keys, facts);

    let suspensions = callers()
        .filter(|(_, caller)| caller.suspended)
        .map(|(id, _)| Subject::Caller(*id))
        .chain(agents.iter().filter(|(_, agent)| agent.suspended).map(|(id, _)| Subject::Agent(**id)))
        .chain(keys.iter().filter(|(_, key)| key.suspended).map(|(id, _)| Subject::Key(**id)))
        .chain(keys.iter().flat_map(|(id, key)| {
            let suspended = key.state.versions.iter().filter(|(_, entry)| entry.state == VersionState::Suspended);
            suspended.map(|(number, _)| Subject::Version(KeyVersion::new(**id, *number)))
        }))
        .chain(facts.projects.iter().filter(|(id, project)| project.suspended && here(id)).map(|(id, _)| Subject::Project(*id)))
        .chain(facts.sites.get(&site).filter(|here| here.suspended).map(|_| Subject::Site(site)))
        .chain(neighbours::suspended(&others, facts))
        .collect::<BTreeSet<_>>();

    let revocation = |subject, Revoked { reason, at }| (subject, Revocation { subject, reason, at });
    let mut revocations: BTreeMap<Subject, Revocation> = callers()
        .filter_map(|(id, caller)| Some(revocation(Subject::Caller(*id), caller.revoked?)))
        .chain(agents.iter().filter_map(|(id, agent)| Some(revocation(Subject::Agent(**id), agent.revoked?))))
        .chain(neighbours::revoked(&others, facts).map(|(subject, revoked)| revocation(subject, revoked)))
        .chain(keys.iter().flat_map(|(id, key)| {
            key.revoked_versions.iter().map(|(number, revoked)| revocation(Subject::Version(KeyVersion::new(**id, *number)), *revoked))
        }))
        .collect();
    // Revocations only grow, whatever becomes of the facts they came from.
    for revoked in last.iter().flat_map(|last| &last.revocations) {
        revocations.entry(revoked.subject).or_insert_with(|| revoked.clone());
    }

    State {
        head: Head {
            site: Some(site),
            requires: if neighbours.is_empty() { Vec::new() } else { vec![NEIGHBOUR_SITES.to_owned()] },
            ..blank_head(Kind::State, facts.tenant)
        },
        templated: keys
            .iter()
            .filter(|(id, _)| !outside.contains_key(id))
            .filter_map(|(id, key)| {
                Some((**id, TemplatedKey { template: key.template.clone()?, definition: following_its_template(key, facts) }))
            })
            .collect(),
        keys: keys
            .iter()
            .filter(|(id, _)| !outside.contains_key(id))
            .map(|(id, key)| (**id, seen_from(site, key, &neighbours, facts)))
            .collect(),
        roster: agents.iter().map(|(id, agent)| (**id, neighbours::slot(site, agent, facts))).collect(),
        neighbours,
        slots_used: u32::try_from(agents.len()).unwrap_or(u32::MAX),
        revocations: revocations.into_values().collect(),
        suspensions: suspensions.into_iter().collect(),
    }
}

/// A key that was made from a template goes on following it: agents refuse one whose labels, rotation rule or limits are not
/// its template's, so a template that changed after the key was made would keep every later set from the site.
pub(super) fn following_its_template(key: &KeyFacts, facts: &Facts) -> KeyDefinition {
    let mut definition = key.definition.clone();
    let documents = facts.policies.iter().map(|document| (document.scope, &document.templates));
    let template = key.template.as_ref().and_then(|name| templates::in_force(documents, definition.project, name));
    if let Some(template) = template.cloned() {
        (definition.labels, definition.rotation, definition.limits) = (template.labels, template.rotation, template.limits);
    }
    definition
}

/// The versions of a key as one site may believe them: made and held by agents of its own, or of a neighbour at which the key is placed
/// too; to be made by one of its own at work. What was made elsewhere is used here once an agent here has it. Whether its maker is
/// believed, agents decide: one that nobody of the site vouched for they pass over.
fn seen_from(site: SiteId, key: &KeyFacts, neighbours: &BTreeMap<SiteId, Neighbour>, facts: &Facts) -> KeyState {
    let is_of_site = |agent: &AgentId| facts.agents.get(agent).is_some_and(|agent| agent.site == site && !agent.vouches.is_empty());
    let is_at_work =
        |agent: &AgentId| is_of_site(agent) && facts.agents.get(agent).is_some_and(|agent| !agent.suspended && agent.revoked.is_none());
    let is_neighbour = |agent: &AgentId| {
        let mut told = neighbours.iter().filter(|(other, _)| key.definition.placement.contains(other));
        told.any(|(_, neighbour)| neighbour.roster.contains_key(agent))
    };
    let mut state = key.state.clone();
    // Who has a partner's key, policy says.
    if key.definition.is_external() {
        return state;
    }
    let must_be_backed_up = key.definition.durability == Durability::SealedBackup;
    let mut here = BTreeSet::new();
    for (number, version) in &mut state.versions {
        version.ready.retain(|holder, _| is_of_site(holder) || is_neighbour(holder));
        let backups = key.backups.get(number).map_or(&[][..], Vec::as_slice);
        version.backup = backups.iter().find(|(holder, _)| is_of_site(holder)).map(|(_, report)| report.clone());
        let was_made = version.record.is_some();
        let is_here = version.generator.as_ref().is_some_and(is_of_site) || version.ready.keys().any(is_of_site);
        if is_here {
            here.insert(*number);
        }
        let is_lacking = !is_here || (must_be_backed_up && version.backup.is_none());
        if was_made && is_lacking && version.state == VersionState::Active {
            (version.state, version.activated) = (VersionState::PreActivation, None);
        }
        let believed = |agent: &AgentId| if was_made { is_of_site(agent) || is_neighbour(agent) } else { is_at_work(agent) };
        if version.generator.as_ref().is_some_and(believed) {
            continue;
        }
        (version.generator, version.record, version.activated, version.backup) = (None, None, None, None);
        version.ready.clear();
        if matches!(version.state, VersionState::Active | VersionState::Deactivated) {
            version.state = VersionState::PreActivation;
        }
    }
    // Nobody has what was destroyed any more: it stays the primary where it was, which never goes back.
    let usable = |(number, version): &(&u32, &VersionEntry)| {
        (here.contains(*number) || version.state == VersionState::Destroyed)
            && version.record.is_some()
            && version.state != VersionState::PreActivation
    };
    state.primary = state.versions.range(..=state.primary).filter(usable).map(|(number, _)| *number).max().unwrap_or(0);
    state
}

/// What policy lifts: everything it lifted before, or will when what waits is signed, and whatever a published state restricted and the facts no longer do.
fn resumptions(facts: &Facts, published: &Published, states: &BTreeMap<SiteId, State>) -> BTreeMap<Scope, Vec<Resumption>> {
    let mut lifted = BTreeMap::<Scope, BTreeMap<Subject, BTreeMap<SiteId, SerialText>>>::new();
    let present = |head: &Head| head.epoch == published.epoch;
    for (scope, policy) in published.policies.iter().chain(&published.waiting).filter(|(_, policy)| present(&policy.head)) {
        for resumption in &policy.resumptions {
            let serials = lifted.entry(*scope).or_default().entry(resumption.subject).or_default();
            for (site, up_to) in &resumption.up_to_state_serial {
                let serial = serials.entry(*site).or_insert(SerialText(0));
                *serial = (*serial).max(*up_to);
            }
        }
    }
    for (site, last) in published.states.iter().filter(|(_, last)| present(&last.head)) {
        let still: BTreeSet<_> = states.get(site).into_iter().flat_map(|state| &state.suspensions).collect();
        let revoked: BTreeSet<_> =
            states.get(site).into_iter().flat_map(|state| &state.revocations).map(|revoked| revoked.subject).collect();
        // A version's revocation is a state of its own that goes on restricting it; what else is revoked stays suspended too.
        let is_over =
            |subject: &&Subject| !still.contains(subject) && (matches!(subject, Subject::Version(_)) || !revoked.contains(subject));
        for subject in last.suspensions.iter().filter(is_over) {
            let Some(scope) = scope_of(facts, *subject) else { continue };
            let serial = lifted.entry(scope).or_default().entry(*subject).or_default().entry(*site).or_insert(SerialText(0));
            *serial = (*serial).max(SerialText(last.head.serial));
        }
    }
    let list = |by_subject: BTreeMap<_, _>| {
        by_subject.into_iter().map(|(subject, up_to_state_serial)| Resumption { subject, up_to_state_serial }).collect()
    };
    lifted.into_iter().map(|(scope, by_subject)| (scope, list(by_subject))).collect()
}

/// Whose policy speaks for a subject.
fn scope_of(facts: &Facts, subject: Subject) -> Option<Scope> {
    let of_key = |key| facts.keys.get(&key).map(|key| Scope::Project(key.definition.project));
    match subject {
        Subject::Caller(caller) => facts.callers.get(&caller).map(|caller| Scope::Project(caller.definition.project)),
        Subject::Agent(_) | Subject::Site(_) => Some(Scope::Tenant),
        Subject::Key(key) => of_key(key),
        Subject::Version(version) => of_key(version.key),
        Subject::Project(project) => Some(Scope::Project(project)),
    }
}

/// The head of content: everything that publishing fills in is empty.
pub fn blank_head(kind: Kind, tenant: TenantId) -> Head {
    Head {
        format: kind.media_type().to_owned(),
        requires: Vec::new(),
        tenant,
        site: None,
        project: None,
        agent: None,
        epoch: 0,
        serial: 0,
        issued: Timestamp::default(),
        not_before: Timestamp::default(),
        expires: Timestamp::default(),
        root_serial: 0,
    }
}

/// Something with a head that publishing fills in.
pub trait Headed: Clone + PartialEq {
    /// The head.
    fn head_mut(&mut self) -> &mut Head;

    /// The newest moment it tells of: clocks of replicas differ, and a statement is not signed before what it tells.
    fn newest(&self) -> Timestamp {
        Timestamp::default()
    }

    /// Without what publishing filled in.
    #[must_use]
    fn blank(&self) -> Self {
        let mut blank = self.clone();
        let head = blank.head_mut();
        (head.epoch, head.serial, head.root_serial) = (0, 0, 0);
        (head.issued, head.not_before, head.expires) = Default::default();
        blank
    }
}

impl Headed for Root {
    fn head_mut(&mut self) -> &mut Head {
        &mut self.head
    }
}

impl Headed for Policy {
    fn head_mut(&mut self) -> &mut Head {
        &mut self.head
    }
}

impl Headed for State {
    fn head_mut(&mut self) -> &mut Head {
        &mut self.head
    }

    fn newest(&self) -> Timestamp {
        self.keys.values().flat_map(|key| key.versions.values()).map(|version| version.created).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use schema::{
        id::CallerId,
        key::{Origin, Purpose, RevocationReason, RotationRule},
        name::Labels,
        rule::{CallerKind, OfflineRule},
    };
    use trust::statement::{
        policy::{CallerDefinition, CompositeDefinition, ExternalVersion, KeyTemplate},
        state::{KeyState, VersionEntry, Vouch},
    };

    use super::*;
    use crate::bundles::facts::{AgentFacts, CallerFacts, ProjectFacts, SiteFacts};

    const SITE: SiteId = SiteId::from_bits(1);
    const OTHER_SITE: SiteId = SiteId::from_bits(2);
    const PROJECT: ProjectId = ProjectId::from_bits(1);
    const KEY: KeyId = KeyId::from_bits(1);
    const CALLER: CallerId = CallerId::from_bits(1);
    const AGENT: AgentId = AgentId::from_bits(1);

    fn facts() -> Facts {
        let mut facts = Facts::of(TenantId::from_bits(1));
        facts.projects.insert(PROJECT, ProjectFacts { suspended: false });
        facts.projects.insert(ProjectId::from_bits(2), ProjectFacts { suspended: false });
        facts.sites.insert(SITE, SiteFacts { offline: None, suspended: false, recovery: None });
        facts.sites.insert(OTHER_SITE, SiteFacts { offline: Some(OfflineRule::default()), suspended: false, recovery: None });
        let agent =
            AgentFacts { site: SITE, roster_entry: Base64(vec![1]), vouches: vec![Vouch::Enrolment], suspended: false, revoked: None };
        facts.agents.insert(AGENT, agent);
        let definition = CallerDefinition {
            name: "billing".parse().unwrap(),
            project: PROJECT,
            kind: CallerKind::Token,
            issuer: SITE.to_string(),
            subject: "billing".to_owned(),
            labels: Labels::new(),
        };
        facts.callers.insert(CALLER, CallerFacts { definition, authority: None, suspended: false, revoked: None });
        let definition = KeyDefinition {
            name: "card-data".parse().unwrap(),
            aliases: vec![],
            project: PROJECT,
            project_name: "payments".parse().unwrap(),
            algorithm: "A256KW+A256GCM".parse().unwrap(),
            purpose: Purpose::Encrypt,
            placement: vec![SITE],
            labels: Labels::new(),
            durability: Durability::SingleCopy,
            protection: schema::key::Protection::Software,
            exportable: false,
            origin: Origin::Generated,
            eligible_generators: vec![],
            rotation: Default::default(),
            limits: Default::default(),
            minimum_versions: Default::default(),
            external: Default::default(),
        };
        let entry = VersionEntry {
            state: VersionState::Active,
            created: Timestamp::default(),
            activated: None,
            generator: Some(AGENT),
            record: Some(Base64(vec![4])),
            ready: [(AGENT, Base64(vec![2])), (AgentId::from_bits(9), Base64(vec![3]))].into(),
            backup: None,
        };
        let state = KeyState { primary: 1, versions: [(1, entry)].into() };
        facts.keys.insert(
            KEY,
            KeyFacts { definition, template: None, suspended: false, state, revoked_versions: BTreeMap::new(), backups: BTreeMap::new() },
        );
        facts
    }

    /// As if the content had been published as each scope's statement number `serial`.
    fn publish(content: &Content, serial: u64) -> Published {
        let mut published = Published { policies: content.policies.clone(), states: content.states.clone(), ..Published::default() };
        published.policies.values_mut().for_each(|policy| policy.head.serial = serial);
        published.states.values_mut().for_each(|state| state.head.serial = serial);
        published
    }

    #[test]
    fn what_is_published_compiles_to_itself() {
        let mut facts = facts();
        let first = compile(&facts, &Published::default());
        assert_eq!(first.policies.keys().copied().collect::<Vec<_>>(), [Scope::Tenant, Scope::Project(PROJECT), Scope::Site(OTHER_SITE)]);
        facts.callers.get_mut(&CALLER).unwrap().suspended = true;
        facts.projects.get_mut(&PROJECT).unwrap().suspended = true;
        let suspended = compile(&facts, &publish(&first, 1));
        facts.callers.get_mut(&CALLER).unwrap().suspended = false;
        let resumed = compile(&facts, &publish(&suspended, 2));
        for content in [&first, &suspended, &resumed] {
            let published = publish(content, 7);
            assert!(published.policies.iter().all(|(scope, policy)| policy.blank() == content.policies[scope]));
        }
        assert_eq!(compile(&facts, &publish(&resumed, 3)), resumed);
    }

    #[test]
    fn a_site_hears_only_of_what_is_its_own() {
        let content = compile(&facts(), &Published::default());
        assert!(content.states[&OTHER_SITE].keys.is_empty() && content.states[&OTHER_SITE].roster.is_empty());
        let here = &content.states[&SITE];
        assert_eq!(here.keys[&KEY].versions[&1].ready.keys().copied().collect::<Vec<_>>(), [AGENT]);
        assert_eq!((here.roster.len(), here.slots_used), (1, 1));
    }

    #[test]
    fn lifting_a_suspension_names_the_state_it_entered_with() {
        let mut facts = facts();
        facts.callers.get_mut(&CALLER).unwrap().suspended = true;
        facts.keys.get_mut(&KEY).unwrap().state.versions.get_mut(&1).unwrap().state = VersionState::Suspended;
        let suspended = compile(&facts, &Published::default());
        let version = Subject::Version(KeyVersion::new(KEY, 1));
        assert_eq!(suspended.states[&SITE].suspensions, [Subject::Caller(CALLER), version]);
        assert!(suspended.policies[&Scope::Project(PROJECT)].resumptions.is_empty());

        facts.callers.get_mut(&CALLER).unwrap().suspended = false;
        let published = publish(&suspended, 5);
        let resumed = compile(&facts, &published);
        assert_eq!(resumed.states[&SITE].suspensions, [version]);
        let lifted = &resumed.policies[&Scope::Project(PROJECT)].resumptions;
        assert_eq!(lifted, &[Resumption { subject: Subject::Caller(CALLER), up_to_state_serial: [(SITE, SerialText(5))].into() }]);

        // Suspended anew under a later state, the old resumption does not reach it.
        facts.callers.get_mut(&CALLER).unwrap().suspended = true;
        let again = compile(&facts, &publish(&resumed, 6));
        assert_eq!(&again.policies[&Scope::Project(PROJECT)].resumptions, lifted);
        assert_eq!(again.states[&SITE].suspensions.len(), 2);
    }

    #[test]
    fn a_suspended_site_hears_of_it_alone_and_the_tenants_policy_lifts_it() {
        let mut facts = facts();
        facts.sites.get_mut(&OTHER_SITE).unwrap().suspended = true;
        let suspended = compile(&facts, &Published::default());
        assert_eq!(suspended.states[&OTHER_SITE].suspensions, [Subject::Site(OTHER_SITE)]);
        assert!(suspended.states[&SITE].suspensions.is_empty());
        facts.sites.get_mut(&OTHER_SITE).unwrap().suspended = false;
        let resumed = compile(&facts, &publish(&suspended, 4));
        let lifted = &resumed.policies[&Scope::Tenant].resumptions;
        assert_eq!(lifted, &[Resumption { subject: Subject::Site(OTHER_SITE), up_to_state_serial: [(OTHER_SITE, SerialText(4))].into() }]);
    }

    #[test]
    fn revocations_only_grow() {
        let mut facts = facts();
        facts.callers.get_mut(&CALLER).unwrap().revoked = Some(Revoked { reason: RevocationReason::Superseded, at: Timestamp::default() });
        let revoked = compile(&facts, &Published::default());
        facts.callers.remove(&CALLER);
        let later = compile(&facts, &publish(&revoked, 1));
        assert_eq!(later.states[&SITE].revocations, revoked.states[&SITE].revocations);
        assert_eq!(later.states[&SITE].revocations.len(), 1);
    }

    #[test]
    fn destroyed_and_compromised_versions_are_confirmed() {
        let mut facts = facts();
        let version = |facts: &mut Facts, state| facts.keys.get_mut(&KEY).unwrap().state.versions.get_mut(&1).unwrap().state = state;
        version(&mut facts, VersionState::Compromised);
        let policy = |facts: &Facts| compile(facts, &Published::default()).policies.remove(&Scope::Project(PROJECT)).unwrap();
        assert_eq!(policy(&facts).compromises, [KeyVersion::new(KEY, 1)]);
        version(&mut facts, VersionState::Destroyed);
        assert_eq!((policy(&facts).compromises.len(), policy(&facts).destructions), (0, vec![KeyVersion::new(KEY, 1)]));
    }

    #[test]
    fn what_came_after_a_suspension_of_a_version_stays_when_the_suspension_is_lifted() {
        let mut facts = facts();
        let become_state = |facts: &mut Facts, state| facts.keys.get_mut(&KEY).unwrap().state.versions.get_mut(&1).unwrap().state = state;
        become_state(&mut facts, VersionState::Suspended);
        let suspended = publish(&compile(&facts, &Published::default()), 5);
        become_state(&mut facts, VersionState::Compromised);
        let revoked = Revoked { reason: RevocationReason::KeyCompromise, at: Timestamp::default() };
        facts.keys.get_mut(&KEY).unwrap().revoked_versions.insert(1, revoked);
        let content = compile(&facts, &suspended);
        let subject = Subject::Version(KeyVersion::new(KEY, 1));
        let lifted = &content.policies[&Scope::Project(PROJECT)].resumptions;
        assert_eq!(lifted, &[Resumption { subject, up_to_state_serial: [(SITE, SerialText(5))].into() }]);
        assert_eq!(content.states[&SITE].revocations[0].subject, subject);
    }

    #[test]
    fn authorities_of_callers_stand_in_their_projects_policy_once() {
        let mut facts = facts();
        for (number, authority, project) in [(2, 7, PROJECT), (3, 7, PROJECT), (4, 8, PROJECT), (5, 9, ProjectId::from_bits(2))] {
            let mut caller = facts.callers[&CALLER].clone();
            caller.authority = Some(Base64(vec![authority]));
            caller.definition.project = project;
            facts.callers.insert(CallerId::from_bits(number), caller);
        }
        let authorities = |facts: &Facts, scope| compile(facts, &Published::default()).policies[&scope].caller_authorities.clone();
        assert_eq!(authorities(&facts, Scope::Project(PROJECT)), [Base64(vec![7]), Base64(vec![8])]);
        assert!(authorities(&facts, Scope::Tenant).is_empty());
        let revoked = Some(Revoked { reason: RevocationReason::Superseded, at: Timestamp::default() });
        for number in [2, 4] {
            facts.callers.get_mut(&CallerId::from_bits(number)).unwrap().revoked = revoked;
        }
        assert_eq!(authorities(&facts, Scope::Project(PROJECT)), [Base64(vec![7])]);
    }

    #[test]
    fn a_partners_key_stands_whole_in_policy_and_as_it_is_in_state() {
        let mut facts = facts();
        assert!(compile(&facts, &Published::default()).policies[&Scope::Project(PROJECT)].head.requires.is_empty());
        let key = facts.keys.get_mut(&KEY).unwrap();
        let external = ExternalVersion { public_key: Base64(vec![1]), fingerprint: schema::encoding::Digest::of(b"1") };
        (key.definition.origin, key.definition.external) = (Origin::External, vec![external.clone()]);
        let version = key.state.versions.get_mut(&1).unwrap();
        (version.generator, version.record) = (None, None);
        version.ready.clear();
        let content = compile(&facts, &Published::default());
        let policy = &content.policies[&Scope::Project(PROJECT)];
        assert_eq!((&policy.head.requires, &policy.keys[&KEY].external), (&vec![EXTERNAL_KEYS.to_owned()], &vec![external]));
        let here = &content.states[&SITE].keys[&KEY];
        assert_eq!((here.primary, here.versions[&1].state), (1, VersionState::Active));
        assert_eq!(policy.blank(), *policy, "what is published compiles to itself");
    }

    #[test]
    fn composites_stand_in_their_projects_policy_which_says_that_there_are_some() {
        let mut facts = facts();
        let composite = CompositeDefinition {
            name: "contracts".parse().unwrap(),
            project: PROJECT,
            classical: KEY,
            post_quantum: KeyId::from_bits(77),
            encryption: None,
            rule: schema::composite::VerificationRule::All,
        };
        let id = schema::id::CompositeId::from_bits(1);
        facts.composites.insert(id, composite.clone());
        let content = compile(&facts, &Published::default());
        let policy = &content.policies[&Scope::Project(PROJECT)];
        assert_eq!((&policy.head.requires, &policy.composites[&id]), (&vec![COMPOSITE_KEYS.to_owned()], &composite));
        assert!(content.policies[&Scope::Tenant].composites.is_empty() && content.policies[&Scope::Tenant].head.requires.is_empty());
        assert_eq!(policy.blank(), *policy, "what is published compiles to itself");
    }

    #[test]
    fn keys_of_a_template_stand_in_state_and_not_in_policy() {
        let facts = templated(|_| {});
        let content = compile(&facts, &Published::default());
        assert!(content.policies[&Scope::Project(PROJECT)].keys.is_empty());
        assert_eq!(content.states[&SITE].templated[&KEY].template.as_str(), "any");
    }

    /// The key was made from a template, which was changed since.
    fn templated(change: impl FnOnce(&mut KeyTemplate)) -> Facts {
        let mut facts = facts();
        let definition = &facts.keys[&KEY].definition;
        let mut template = KeyTemplate {
            project: PROJECT,
            algorithms: vec![definition.algorithm],
            purposes: vec![definition.purpose],
            placement: definition.placement.clone(),
            labels: BTreeMap::new(),
            durabilities: vec![definition.durability],
            protection: definition.protection,
            exportable: definition.exportable,
            rotation: Default::default(),
            limits: Default::default(),
            max_keys: None,
        };
        change(&mut template);
        let templates = BTreeMap::from([("any".parse().unwrap(), template)]);
        let scope = Scope::Project(PROJECT);
        facts.policies.push(PolicyFacts { scope, cedar: BTreeMap::new(), templates, vouching: None, offline: None });
        facts.keys.get_mut(&KEY).unwrap().template = Some("any".parse().unwrap());
        facts
    }

    #[test]
    fn a_key_goes_on_following_its_template() {
        let rotation = RotationRule { every_seconds: None, min_interval_seconds: Some(3600), ..Default::default() };
        let facts = templated(|template| template.rotation = rotation.clone());
        assert_ne!(facts.keys[&KEY].definition.rotation, rotation);
        let content = compile(&facts, &Published::default());
        assert_eq!(content.states[&SITE].templated[&KEY].definition.rotation, rotation);
    }

    #[test]
    fn a_key_that_slipped_out_of_its_template_is_left_out_and_stays_restricted() {
        let mut facts = templated(|template| template.durabilities.clear());
        facts.keys.get_mut(&KEY).unwrap().suspended = true;
        let suspended = [Subject::Key(KEY)];
        let mut before = templated(|_| {});
        before.keys.get_mut(&KEY).unwrap().suspended = true;
        let before = compile(&before, &Published::default());
        let published = Published { policies: before.policies, states: before.states, ..Published::default() };

        let content = compile(&facts, &published);
        let state = &content.states[&SITE];
        assert!(state.templated.is_empty() && state.keys.is_empty(), "one key that does not fit stops nobody else");
        assert_eq!(state.suspensions, suspended);
        assert!(content.policies.values().all(|policy| policy.resumptions.is_empty()), "leaving it out lifts nothing");
    }

    #[test]
    fn a_site_is_told_of_no_generator_it_may_not_believe() {
        let mut facts = facts();
        let key = facts.keys.get_mut(&KEY).unwrap();
        key.definition.placement.push(OTHER_SITE);
        let mut next = key.state.versions[&1].clone();
        (next.state, next.record, next.ready) = (VersionState::PreActivation, None, BTreeMap::new());
        key.state.versions.insert(2, next);
        let seen = |facts: &Facts, site| compile(facts, &Published::default()).states[&site].keys[&KEY].clone();
        assert_eq!((seen(&facts, SITE).primary, seen(&facts, SITE).versions[&2].generator), (1, Some(AGENT)));
        // The material has not come to the other site, which is told who made it; and not who is to make the next.
        let there = seen(&facts, OTHER_SITE);
        let first = &there.versions[&1];
        assert_eq!((there.primary, first.state, &first.record), (0, VersionState::PreActivation, &Some(Base64(vec![4]))));
        assert_eq!((first.generator, first.ready.keys().copied().collect()), (Some(AGENT), vec![AGENT]));
        assert_eq!(there.versions[&2].generator, None);

        facts.agents.get_mut(&AGENT).unwrap().suspended = true;
        let here = seen(&facts, SITE);
        assert_eq!((here.primary, here.versions[&1].generator, here.versions[&2].generator), (1, Some(AGENT), None));
    }

    /// The key is placed at both sites; the other has an agent that is said to have the first version.
    fn at_two_sites() -> (Facts, AgentId) {
        let (mut facts, there) = (facts(), AgentId::from_bits(2));
        let agent = AgentFacts { site: OTHER_SITE, roster_entry: Base64(vec![7]), ..facts.agents[&AGENT].clone() };
        facts.agents.insert(there, agent);
        let key = facts.keys.get_mut(&KEY).unwrap();
        key.definition.placement.push(OTHER_SITE);
        key.state.versions.get_mut(&1).unwrap().ready.insert(there, Base64(vec![5]));
        (facts, there)
    }

    #[test]
    fn sites_that_share_a_key_hear_of_each_others_agents_and_use_what_has_come_to_them() {
        let (mut facts, there) = at_two_sites();
        let by = |agent| Vouch::Agent { agent, vouch: Base64(vec![agent.bits() as u8]) };
        // By its own site, by the other one, by a third.
        let third = AgentId::from_bits(3);
        facts.sites.insert(SiteId::from_bits(3), SiteFacts { offline: None, suspended: false, recovery: None });
        facts.agents.insert(third, AgentFacts { site: SiteId::from_bits(3), ..facts.agents[&AGENT].clone() });
        facts.agents.get_mut(&AGENT).unwrap().vouches = vec![Vouch::Enrolment, by(third), by(there)];
        let content = compile(&facts, &Published::default());
        let (here, other) = (&content.states[&SITE], &content.states[&OTHER_SITE]);
        assert_eq!(here.roster[&AGENT].vouches, [Vouch::Enrolment]);
        assert_eq!(other.neighbours[&SITE].roster[&AGENT].vouches, [by(there), Vouch::Enrolment]);
        assert_eq!(here.neighbours[&OTHER_SITE].roster.keys().collect::<Vec<_>>(), [&there]);
        assert_eq!((&here.head.requires, other.slots_used), (&vec![NEIGHBOUR_SITES.to_owned()], 1));
        assert!(
            content.states[&SiteId::from_bits(3)].neighbours.is_empty() && content.states[&SiteId::from_bits(3)].head.requires.is_empty()
        );
        for state in [here, other] {
            let key = &state.keys[&KEY];
            assert_eq!((key.primary, key.versions[&1].state, key.versions[&1].ready.len()), (1, VersionState::Active, 2));
        }
        // Until it has come there it is not used there.
        facts.keys.get_mut(&KEY).unwrap().state.versions.get_mut(&1).unwrap().ready.remove(&there);
        let waiting = &compile(&facts, &Published::default()).states[&OTHER_SITE].keys[&KEY];
        assert_eq!((waiting.primary, waiting.versions[&1].state), (0, VersionState::PreActivation));
        // Once it was destroyed, and is gone from there, the primary does not go back.
        facts.keys.get_mut(&KEY).unwrap().state.versions.get_mut(&1).unwrap().state = VersionState::Destroyed;
        let destroyed = &compile(&facts, &Published::default()).states[&OTHER_SITE].keys[&KEY];
        assert_eq!((destroyed.primary, destroyed.versions[&1].state), (1, VersionState::Destroyed));
    }

    #[test]
    fn what_holds_an_agent_back_is_told_at_neighbouring_sites_too_and_lifted_there() {
        let (mut facts, there) = at_two_sites();
        facts.agents.get_mut(&there).unwrap().suspended = true;
        facts.sites.get_mut(&OTHER_SITE).unwrap().suspended = true;
        let suspended = compile(&facts, &Published::default());
        assert_eq!(suspended.states[&SITE].suspensions, [Subject::Agent(there), Subject::Site(OTHER_SITE)]);
        facts.agents.get_mut(&there).unwrap().suspended = false;
        facts.sites.get_mut(&OTHER_SITE).unwrap().suspended = false;
        let resumed = compile(&facts, &publish(&suspended, 4));
        let lifted = &resumed.policies[&Scope::Tenant].resumptions;
        let up_to = |subject| Resumption { subject, up_to_state_serial: [(SITE, SerialText(4)), (OTHER_SITE, SerialText(4))].into() };
        assert_eq!(lifted, &[up_to(Subject::Agent(there)), up_to(Subject::Site(OTHER_SITE))]);
        // Who is revoked is told of for as long as it made or has something.
        let revoked = Revoked { reason: RevocationReason::KeyCompromise, at: Timestamp::default() };
        facts.agents.get_mut(&there).unwrap().revoked = Some(revoked);
        let state = |facts: &Facts| compile(facts, &Published::default()).states.remove(&SITE).unwrap();
        assert_eq!((state(&facts).revocations[0].subject, state(&facts).neighbours.len()), (Subject::Agent(there), 1));
        facts.keys.get_mut(&KEY).unwrap().state.versions.get_mut(&1).unwrap().ready.remove(&there);
        assert_eq!((state(&facts).revocations.len(), state(&facts).neighbours.len()), (1, 0));
    }

    #[test]
    fn more_agents_of_other_sites_than_may_be_told_of_are_left_out_with_what_they_made() {
        let (mut facts, there) = at_two_sites();
        for number in 1000..1000 + trust::statement::state::MAX_NEIGHBOUR_AGENTS as u128 {
            facts.agents.insert(AgentId::from_bits(number), facts.agents[&there].clone());
        }
        let state = &compile(&facts, &Published::default()).states[&SITE];
        let told = &state.neighbours[&OTHER_SITE].roster;
        assert_eq!((told.len(), told.contains_key(&there)), (trust::statement::state::MAX_NEIGHBOUR_AGENTS, true));
    }

    #[test]
    fn a_site_with_a_rule_of_its_own_keeps_the_tenants_rule_on_vouching() {
        let mut facts = facts();
        let strict = schema::rule::VouchingRule { agents: false, agents_needed: 1, signers: true };
        facts.policies.push(PolicyFacts {
            scope: Scope::Tenant,
            cedar: BTreeMap::new(),
            templates: BTreeMap::new(),
            vouching: Some(strict.clone()),
            offline: None,
        });
        let content = compile(&facts, &Published::default());
        assert_eq!(content.policies[&Scope::Site(OTHER_SITE)].vouching, strict);
        assert_eq!(content.policies[&Scope::Tenant].vouching, strict);
    }
}
