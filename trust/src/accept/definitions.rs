//! Check 9, policies and templates: what every key is, and that each policy speaks only of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use schema::{
    id::{KeyId, ProjectId, SiteId},
    key::{RotationRule, fingerprint},
    name::Name,
};

use super::{
    Rejection, composites,
    memory::{KeyMemory, Memory, scope_name},
};
use crate::statement::{
    Scope,
    policy::{ExternalVersion, KeyDefinition, KeyTemplate, Policy},
    state::{State, TemplatedKey},
};

/// Every key there is, by policy or from a template.
pub(super) fn judge(
    policies: &BTreeMap<Scope, &Policy>,
    state: &State,
    site: SiteId,
    memory: &mut Memory,
) -> Result<BTreeMap<KeyId, KeyDefinition>, Rejection> {
    let mut definitions = BTreeMap::new();
    for (scope, policy) in policies {
        in_scope(scope, policy)?;
        definitions.extend(policy.keys.iter().map(|(key, definition)| (*key, definition.clone())));
    }
    // Templates of two projects may have one name.
    let mut from_template = BTreeMap::<(ProjectId, &Name), u64>::new();
    for (key, templated) in &state.templated {
        // What policy defines, policy defines; the template has served its time.
        if definitions.contains_key(key) {
            continue;
        }
        let template =
            template(policies, templated).ok_or_else(|| outside(*key, format!("there is no template {:?}", templated.template)))?;
        fits(*key, &templated.definition, template, site)?;
        let count = from_template.entry((template.project, &templated.template)).or_default();
        *count += 1;
        if template.max_keys.is_some_and(|most| *count > most) {
            return Err(outside(*key, format!("the template {} allows no more keys", templated.template)));
        }
    }
    // Names are judged with the keys and composites of policy first: what state makes may not take a name from them.
    let mut names = Names::default();
    for (key, definition) in &definitions {
        names.take(*key, definition)?;
    }
    for policy in policies.values() {
        composites::judge(policy, &mut names, memory)?;
    }
    for (key, templated) in &state.templated {
        if !definitions.contains_key(key) {
            names.take(*key, &templated.definition)?;
            definitions.insert(*key, templated.definition.clone());
        }
    }
    for (key, definition) in &definitions {
        remember(*key, definition, memory)?;
    }
    Ok(definitions)
}

/// How a key rotates, as one policy says it.
pub(super) struct Rotation<'a> {
    pub(super) scope: Scope,
    pub(super) policy: &'a Policy,
    pub(super) min_interval: Duration,
}

/// The rule a key rotates by: its project's policy says it, or the one with the template it follows.
pub(super) fn rotation<'a>(key: KeyId, project: ProjectId, policies: &BTreeMap<Scope, &'a Policy>, state: &State) -> Option<Rotation<'a>> {
    let of = |scope: Scope, policy: &'a Policy, rule: &RotationRule| Rotation { scope, policy, min_interval: rule.min_interval() };
    let own = Scope::Project(project);
    let defined = policies.get(&own).and_then(|policy| Some(of(own, policy, &policy.keys.get(&key)?.rotation)));
    let templated = || {
        let name = &state.templated.get(&key)?.template;
        policies.iter().find_map(|(scope, policy)| {
            let template = policy.templates.get(name).filter(|template| template.project == project)?;
            Some(of(*scope, policy, &template.rotation))
        })
    };
    defined.or_else(templated)
}

/// A project's policy reaches only its own resources; keys and callers are defined by projects only.
fn in_scope(scope: &Scope, policy: &Policy) -> Result<(), Rejection> {
    let out = |about: String| Rejection::PolicyOutOfScope { policy: scope_name(scope), about };
    let own = |project: ProjectId| *scope == Scope::Project(project);
    if let Some((key, _)) = policy.keys.iter().find(|(_, definition)| !own(definition.project)) {
        return Err(out(key.to_string()));
    }
    if let Some((composite, _)) = policy.composites.iter().find(|(_, definition)| !own(definition.project)) {
        return Err(out(composite.to_string()));
    }
    if let Some((caller, _)) = policy.callers.iter().find(|(_, definition)| !own(definition.project)) {
        return Err(out(caller.to_string()));
    }
    let foreign = |template: &&KeyTemplate| matches!(scope, Scope::Project(_)) && !own(template.project);
    if let Some(template) = policy.templates.values().find(foreign) {
        return Err(out(template.project.to_string()));
    }
    if let Some((key, _)) = policy.keys.iter().find(|(_, definition)| !definition.algorithm.serves(definition.purpose)) {
        return Err(out(format!("{key}, whose algorithm does not serve its purpose")));
    }
    policy.keys.iter().try_for_each(|(key, definition)| external(*key, definition))
}

/// A partner's key has public keys that are what they say, and nothing that makes or holds material; other keys have none.
fn external(key: KeyId, definition: &KeyDefinition) -> Result<(), Rejection> {
    let unsound = |detail| Err(Rejection::ExternalKey { key, detail });
    if !definition.is_external() {
        return if definition.external.is_empty() { Ok(()) } else { unsound("it is no partner's, and has a partner's public keys") };
    }
    let genuine = |version: &ExternalVersion| fingerprint(definition.algorithm, version.public_key.as_slice()) == version.fingerprint;
    if !definition.algorithm.entry().asymmetric {
        return unsound("its algorithm has no public keys");
    }
    if definition.exportable || !definition.eligible_generators.is_empty() {
        return unsound("nobody here makes or moves its material");
    }
    if definition.external.is_empty() {
        return unsound("it has no public key");
    }
    if !definition.external.iter().all(genuine) {
        return unsound("a public key is not the one of its fingerprint");
    }
    Ok(())
}

fn template<'a>(policies: &BTreeMap<Scope, &'a Policy>, key: &TemplatedKey) -> Option<&'a KeyTemplate> {
    let mut templates = policies.values().filter_map(|policy| policy.templates.get(&key.template));
    templates.find(|template| template.project == key.definition.project)
}

fn outside(key: KeyId, detail: String) -> Rejection {
    Rejection::OutsideTemplate { key, detail }
}

fn fits(key: KeyId, definition: &KeyDefinition, template: &KeyTemplate, site: SiteId) -> Result<(), Rejection> {
    let elsewhere = || (!definition.placement.contains(&site)).then_some("it is not placed at this site");
    match definition.outside(template).or_else(elsewhere) {
        Some(detail) => Err(outside(key, detail.to_owned())),
        None => Ok(()),
    }
}

/// Which key or composite a name means, and which project a project's name. Neither may mean two.
#[derive(Default)]
pub(super) struct Names {
    keys: BTreeMap<(ProjectId, Name), KeyId>,
    composites: BTreeSet<(ProjectId, Name)>,
    projects: BTreeMap<Name, ProjectId>,
    project_names: BTreeMap<ProjectId, Name>,
}

impl Names {
    fn take(&mut self, key: KeyId, definition: &KeyDefinition) -> Result<(), Rejection> {
        let taken = |name: &Name| Rejection::NameTaken { key, name: name.to_string() };
        let project = *self.projects.entry(definition.project_name.clone()).or_insert(definition.project);
        let name = self.project_names.entry(definition.project).or_insert_with(|| definition.project_name.clone());
        if project != definition.project || *name != definition.project_name {
            return Err(taken(&definition.project_name));
        }
        let names: BTreeSet<&Name> = std::iter::once(&definition.name).chain(&definition.aliases).collect();
        for name in names {
            let place = (definition.project, name.clone());
            if self.composites.contains(&place) || self.keys.insert(place, key).is_some_and(|other| other != key) {
                return Err(taken(name));
            }
        }
        Ok(())
    }

    /// Whether a composite may have this name: no key has it, nor another composite.
    pub(super) fn take_for_composite(&mut self, project: ProjectId, name: &Name) -> bool {
        let place = (project, name.clone());
        !self.keys.contains_key(&place) && self.composites.insert(place)
    }
}

/// Fixed at creation: algorithm, purpose, exportable, origin.
fn remember(key: KeyId, definition: &KeyDefinition, memory: &mut Memory) -> Result<(), Rejection> {
    let held = memory.keys.entry(key).or_insert_with(|| KeyMemory {
        algorithm: definition.algorithm,
        purpose: definition.purpose,
        exportable: definition.exportable,
        origin: definition.origin,
        primary: 0,
    });
    let fixed = [
        (held.algorithm == definition.algorithm, "algorithm"),
        (held.purpose == definition.purpose, "purpose"),
        (held.exportable == definition.exportable, "exportable"),
        (held.origin == definition.origin, "origin"),
    ];
    match fixed.into_iter().find(|(same, _)| !same) {
        Some((_, what)) => Err(Rejection::KeyRedefined { key, what }),
        None => Ok(()),
    }
}
