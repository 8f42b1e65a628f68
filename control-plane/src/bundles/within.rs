//! State under policies that lag behind: while a change of policy waits for the tenant's signers, agents go on with the one in
//! force, and refuse a whole set whose state goes beyond it. So state tells only of what the policies in force allow; the
//! rest follows with their signature. Restrictions never wait. Pure.

use std::collections::{BTreeMap, BTreeSet};

use schema::{
    id::{KeyId, ProjectId, SiteId},
    key::{RotationRule, VersionState},
    name::Name,
    rule::KeyTemplate,
};
use trust::statement::{
    Scope,
    policy::{KeyDefinition, Policy},
    state::{KeyState, State, TemplatedKey, VersionEntry},
};

/// A state, without what these policies do not allow yet. `last` is the one that was published last: what stands in it was
/// allowed once, and is not told to go.
pub(super) fn policy(desired: State, policies: &BTreeMap<Scope, &Policy>, last: Option<&State>, site: SiteId) -> State {
    let mut state = desired;
    let defined: BTreeMap<KeyId, &KeyDefinition> =
        policies.values().flat_map(|policy| policy.keys.iter().map(|(key, definition)| (*key, definition))).collect();
    state.templated = templated(state.templated, policies, &defined, last, site);
    let templates = &state.templated;
    state.keys.retain(|key, key_state| {
        let definition = defined.get(key).copied().or_else(|| templates.get(key).map(|key| &key.definition));
        let Some(definition) = definition.filter(|definition| definition.placement.contains(&site)) else { return false };
        let rule = rotation(*key, definition.project, policies, templates);
        versions(key_state, definition, rule, last.and_then(|last| last.keys.get(key)));
        true
    });
    state
}

/// Keys of templates, as the templates in force have them.
fn templated(
    desired: BTreeMap<KeyId, TemplatedKey>,
    policies: &BTreeMap<Scope, &Policy>,
    defined: &BTreeMap<KeyId, &KeyDefinition>,
    last: Option<&State>,
    site: SiteId,
) -> BTreeMap<KeyId, TemplatedKey> {
    let mut taken: BTreeSet<(ProjectId, Name)> = BTreeSet::new();
    let mut projects: BTreeMap<ProjectId, Name> = BTreeMap::new();
    for definition in defined.values() {
        taken.extend(names(definition).map(|name| (definition.project, name.clone())));
        projects.insert(definition.project, definition.project_name.clone());
    }
    taken.extend(
        policies.values().flat_map(|policy| policy.composites.values()).map(|composite| (composite.project, composite.name.clone())),
    );
    let told = |key: &KeyId| last.is_some_and(|last| last.templated.contains_key(key));
    // What was told before comes first: a limit on their number keeps out the newcomers.
    let (before, new): (Vec<_>, Vec<_>) = desired.into_iter().partition(|(key, _)| told(key));
    let mut count = BTreeMap::<(ProjectId, Name), u64>::new();
    let mut kept = BTreeMap::new();
    for (id, mut key) in before.into_iter().chain(new) {
        if defined.contains_key(&id) {
            kept.insert(id, key);
            continue;
        }
        let Some(template) = template(policies, key.definition.project, &key.template) else { continue };
        let definition = &mut key.definition;
        (definition.labels, definition.rotation, definition.limits) =
            (template.labels.clone(), template.rotation.clone(), template.limits.clone());
        if definition.outside(template).is_some() || !definition.placement.contains(&site) {
            continue;
        }
        let project = definition.project;
        let count = count.entry((project, key.template.clone())).or_default();
        if template.max_keys.is_some_and(|most| *count >= most) {
            continue;
        }
        let name = (project, definition.name.clone());
        let named = projects.entry(project).or_insert_with(|| definition.project_name.clone());
        if *named != definition.project_name || taken.contains(&name) {
            continue;
        }
        taken.insert(name);
        // An alias that policy still gives to another key is that key's.
        definition.aliases.retain(|alias| taken.insert((project, alias.clone())));
        *count += 1;
        kept.insert(id, key);
    }
    kept
}

fn names(definition: &KeyDefinition) -> impl Iterator<Item = &Name> {
    std::iter::once(&definition.name).chain(&definition.aliases)
}

/// The template that agents find.
fn template<'a>(policies: &BTreeMap<Scope, &'a Policy>, project: ProjectId, name: &Name) -> Option<&'a KeyTemplate> {
    policies.values().filter_map(|policy| policy.templates.get(name)).find(|template| template.project == project)
}

/// The rule in force by which a key rotates, and the policy that says it.
fn rotation<'a>(
    key: KeyId,
    project: ProjectId,
    policies: &BTreeMap<Scope, &'a Policy>,
    templated: &BTreeMap<KeyId, TemplatedKey>,
) -> Option<(&'a Policy, &'a RotationRule)> {
    let defined = policies.get(&Scope::Project(project)).and_then(|policy| Some((*policy, &policy.keys.get(&key)?.rotation)));
    defined.or_else(|| {
        let name = &templated.get(&key)?.template;
        policies.values().find_map(|policy| {
            let template = policy.templates.get(name).filter(|template| template.project == project)?;
            Some((*policy, &template.rotation))
        })
    })
}

/// The versions that the definition and the rule in force allow: those told before, and what follows them without a gap.
fn versions(state: &mut KeyState, definition: &KeyDefinition, rule: Option<(&Policy, &RotationRule)>, last: Option<&KeyState>) {
    let told = |number: &u32| last.is_some_and(|last| last.versions.contains_key(number));
    let mut before: Option<&VersionEntry> = None;
    let mut allowed = 0;
    for (number, entry) in &state.versions {
        let named = !definition.is_external() || definition.external_version(*number).is_some();
        // What was asked for before the rule in force was told, was asked for under an earlier one.
        let too_soon = before.zip(rule).is_some_and(|(before, (policy, rule))| {
            entry.created > policy.head.issued && entry.created < before.created.plus(rule.min_interval())
        });
        if !told(number) && (!named || too_soon) {
            break;
        }
        (allowed, before) = (*number, Some(entry));
    }
    state.versions.retain(|number, _| *number <= allowed);
    let usable = |(_, version): &(&u32, &VersionEntry)| {
        version.state != VersionState::PreActivation && (version.record.is_some() || definition.is_external())
    };
    state.primary = state.versions.range(..=state.primary).filter(usable).map(|(number, _)| *number).max().unwrap_or(0);
}

#[cfg(test)]
mod tests {
    use schema::{
        clock::Timestamp,
        encoding::{Base64, Digest},
        id::{AgentId, TenantId},
        key::{Durability, Limits, Origin, Purpose},
    };
    use trust::statement::{Kind, policy::ExternalVersion, state::Subject};

    use super::*;
    use crate::bundles::{
        compile::{Published, blank_head, compile},
        facts::{Facts, KeyFacts, PolicyFacts, ProjectFacts, SiteFacts},
    };

    const SITE: SiteId = SiteId::from_bits(1);
    const PROJECT: ProjectId = ProjectId::from_bits(1);
    const SCOPE: Scope = Scope::Project(PROJECT);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default().plus(std::time::Duration::from_secs(seconds))
    }

    fn key(name: &str, template: Option<&str>) -> KeyFacts {
        let definition = KeyDefinition {
            name: name.parse().unwrap(),
            aliases: vec![],
            project: PROJECT,
            project_name: "payments".parse().unwrap(),
            algorithm: "A256KW+A256GCM".parse().unwrap(),
            purpose: Purpose::Encrypt,
            placement: vec![SITE],
            labels: BTreeMap::new(),
            durability: Durability::SingleCopy,
            protection: schema::key::Protection::Software,
            exportable: false,
            origin: Origin::Generated,
            eligible_generators: vec![],
            rotation: RotationRule::default(),
            limits: Limits::default(),
            minimum_versions: Default::default(),
            external: vec![],
        };
        let state = KeyState { primary: 1, versions: [(1, version(0, VersionState::Active))].into() };
        let template = template.map(|template| template.parse().unwrap());
        KeyFacts { definition, template, suspended: false, state, revoked_versions: BTreeMap::new(), backups: BTreeMap::new() }
    }

    fn version(created: u64, state: VersionState) -> VersionEntry {
        let record = Some(Base64(vec![1]));
        VersionEntry {
            state,
            created: at(created),
            activated: None,
            generator: Some(AgentId::from_bits(1)),
            record,
            ready: BTreeMap::new(),
            backup: None,
        }
    }

    fn template() -> KeyTemplate {
        KeyTemplate {
            project: PROJECT,
            algorithms: vec!["A256KW+A256GCM".parse().unwrap()],
            purposes: vec![Purpose::Encrypt],
            placement: vec![SITE],
            labels: BTreeMap::new(),
            durabilities: vec![Durability::SingleCopy],
            protection: schema::key::Protection::Software,
            exportable: false,
            rotation: RotationRule::default(),
            limits: Limits::default(),
            max_keys: None,
        }
    }

    fn facts(keys: Vec<(u128, KeyFacts)>, template: KeyTemplate) -> Facts {
        let mut facts = Facts::of(TenantId::from_bits(1));
        facts.projects.insert(PROJECT, ProjectFacts { suspended: false });
        facts.sites.insert(SITE, SiteFacts { offline: None, recovery: None, suspended: false });
        facts.agents.insert(
            AgentId::from_bits(1),
            crate::bundles::facts::AgentFacts {
                site: SITE,
                roster_entry: Base64(vec![]),
                vouches: vec![trust::statement::state::Vouch::Enrolment],
                suspended: false,
                revoked: None,
            },
        );
        facts.keys = keys.into_iter().map(|(id, key)| (KeyId::from_bits(id), key)).collect();
        let templates = [("cards".parse().unwrap(), template)].into();
        facts.policies = vec![PolicyFacts { scope: SCOPE, cedar: BTreeMap::new(), templates, vouching: None, offline: None }];
        facts
    }

    /// A policy of the project in force that defines one key of its own and this template.
    fn signed(template: KeyTemplate) -> Facts {
        facts(vec![(9, key("z", None))], template)
    }

    /// The state that these facts come to, while the policy of those is in force, signed at this second.
    fn cut(wanted: &Facts, in_force: &Facts, signed: u64, last: Option<&State>) -> State {
        let mut policies = compile(in_force, &Published::default()).policies;
        policies.values_mut().for_each(|policy| policy.head.issued = at(signed));
        let policies = policies.iter().map(|(scope, policy)| (*scope, policy)).collect();
        let state = compile(wanted, &Published::default()).states.remove(&SITE).unwrap();
        policy(state, &policies, last, SITE)
    }

    #[test]
    fn what_is_signed_passes_unchanged() {
        let facts = facts(vec![(1, key("a", None)), (2, key("b", Some("cards")))], template());
        let whole = compile(&facts, &Published::default()).states.remove(&SITE).unwrap();
        assert_eq!(cut(&facts, &facts, 0, None), whole);
        assert_eq!(blank_head(Kind::State, facts.tenant).tenant, whole.head.tenant);
    }

    #[test]
    fn keys_that_policy_does_not_define_yet_wait_and_restrictions_do_not() {
        let in_force = facts(vec![(1, key("a", None))], template());
        let mut wanted = facts(vec![(1, key("a", None)), (2, key("b", None)), (3, key("c", Some("cards")))], template());
        wanted.keys.get_mut(&KeyId::from_bits(1)).unwrap().suspended = true;
        let state = cut(&wanted, &in_force, 0, None);
        assert_eq!(state.keys.keys().copied().collect::<Vec<_>>(), [KeyId::from_bits(1), KeyId::from_bits(3)]);
        assert_eq!(state.suspensions, [Subject::Key(KeyId::from_bits(1))]);
    }

    #[test]
    fn keys_of_templates_are_as_the_template_in_force_has_them() {
        let changed = KeyTemplate { limits: Limits { hard_uses: Some(9), ..Limits::default() }, exportable: true, ..template() };
        let mut exportable = key("new", Some("cards"));
        exportable.definition.exportable = true;
        let wanted = facts(vec![(1, key("old", Some("cards"))), (2, exportable)], changed);
        let state = cut(&wanted, &signed(template()), 0, None);
        assert_eq!(state.templated.keys().copied().collect::<Vec<_>>(), [KeyId::from_bits(1)], "a wider template waits");
        assert_eq!(state.templated[&KeyId::from_bits(1)].definition.limits, Limits::default());

        // As many as it allows; those that were told of before first.
        let wanted = facts(vec![(1, key("new", Some("cards"))), (2, key("old", Some("cards")))], template());
        let one = signed(KeyTemplate { max_keys: Some(1), ..template() });
        let before = cut(&facts(vec![(2, key("old", Some("cards")))], template()), &one, 0, None);
        let state = cut(&wanted, &one, 0, Some(&before));
        assert_eq!(state.templated.keys().copied().collect::<Vec<_>>(), [KeyId::from_bits(2)]);
    }

    #[test]
    fn names_that_policy_still_gives_to_others_wait() {
        let mut old = key("a", None);
        old.definition.aliases = vec!["current".parse().unwrap()];
        let in_force = facts(vec![(1, old)], template());
        let mut new = key("b", Some("cards"));
        new.definition.aliases = vec!["current".parse().unwrap(), "mine".parse().unwrap()];
        let state = cut(&facts(vec![(1, key("a", None)), (2, new)], template()), &in_force, 0, None);
        assert_eq!(state.templated[&KeyId::from_bits(2)].definition.aliases, ["mine".parse().unwrap()]);
    }

    #[test]
    fn versions_wait_for_the_rule_that_allows_them_so_soon() {
        let rule = |seconds| RotationRule { min_interval_seconds: Some(seconds), ..RotationRule::default() };
        let with = |seconds: u64, created: &[u64]| {
            let mut key = key("a", None);
            key.definition.rotation = rule(seconds);
            for (number, created) in (2..).zip(created) {
                key.state.versions.insert(number, version(*created, VersionState::Active));
                key.state.primary = number;
            }
            facts(vec![(1, key)], template())
        };
        let numbers = |state: &State| {
            let key = &state.keys[&KeyId::from_bits(1)];
            (key.versions.keys().copied().collect::<Vec<_>>(), key.primary)
        };
        let slow = with(1000, &[]);
        assert_eq!(numbers(&cut(&with(10, &[20, 1500]), &slow, 5, None)), (vec![1], 1), "and what follows waits with it");
        assert_eq!(numbers(&cut(&with(10, &[1000]), &slow, 5, None)), (vec![1, 2], 2));
        // Asked for before that rule was told: an earlier one allowed it.
        assert_eq!(numbers(&cut(&with(10, &[20]), &slow, 30, None)), (vec![1, 2], 2));
        // What was told of is not told to go.
        let before = cut(&with(10, &[20]), &with(10, &[]), 5, None);
        assert_eq!(numbers(&cut(&with(10, &[20, 1500]), &slow, 5, Some(&before))), (vec![1, 2, 3], 3));
    }

    #[test]
    fn versions_of_partners_wait_for_the_policy_that_names_them() {
        let partner = |count: u8| {
            let mut key = key("bank", None);
            key.definition.origin = Origin::External;
            let external = (0..count).map(|number| ExternalVersion { public_key: Base64(vec![number]), fingerprint: Digest([number; 32]) });
            key.definition.external = external.collect();
            key.state.versions = (1..=u32::from(count))
                .map(|number| (number, VersionEntry { generator: None, record: None, ..version(0, VersionState::Active) }))
                .collect();
            key.state.primary = u32::from(count);
            facts(vec![(1, key)], template())
        };
        let state = cut(&partner(2), &partner(1), 0, None);
        let key = &state.keys[&KeyId::from_bits(1)];
        assert_eq!((key.versions.len(), key.primary), (1, 1));
    }
}
