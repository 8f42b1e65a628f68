//! Templates in force, and the keys that a change of them would leave outside. An agent refuses a whole set in which one key
//! does not fit its template, so that such a change is not published. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use schema::{
    id::{KeyId, ProjectId},
    name::Name,
    rule::{KeyTemplate, Scope},
};

use super::{compile::following_its_template, facts::Facts};

/// The template of this name for keys of a project, as agents find it: the tenant's policy before the project's, and of
/// documents of one scope the last.
pub fn in_force<'a, D>(documents: D, project: ProjectId, name: &Name) -> Option<&'a KeyTemplate>
where
    D: Iterator<Item = (Scope, &'a BTreeMap<Name, KeyTemplate>)> + Clone,
{
    let last = |scope| documents.clone().filter(|(of, _)| *of == scope).filter_map(|(_, templates)| templates.get(name)).last();
    [Scope::Tenant, Scope::Project(project)].into_iter().filter_map(last).find(|template| template.project == project)
}

/// A key that does not fit the template it was made from, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outside {
    /// `project/name` of the key.
    pub key: String,
    /// The template's name.
    pub template: Name,
    /// What does not fit.
    pub detail: &'static str,
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (template {}: {})", self.key, self.template, self.detail)
    }
}

/// The keys that fit their templates before and not after. What was outside already stops no change: it may be the first
/// half of a remedy.
pub fn left_outside(before: &Facts, after: &Facts) -> Vec<Outside> {
    let already: BTreeSet<KeyId> = outside(before).into_keys().collect();
    outside(after).into_iter().filter(|(key, _)| !already.contains(key)).map(|(_, outside)| outside).collect()
}

/// Every key that does not fit the template it was made from.
pub fn outside(facts: &Facts) -> BTreeMap<KeyId, Outside> {
    let documents = facts.policies.iter().map(|document| (document.scope, &document.templates));
    // Agents count the keys of their own site, in the order of ids.
    let mut made = BTreeMap::<_, u64>::new();
    let mut found = BTreeMap::new();
    for (id, key) in &facts.keys {
        let Some(name) = &key.template else { continue };
        let definition = following_its_template(key, facts);
        let detail = match in_force(documents.clone(), definition.project, name) {
            None => Some("it is no longer there"),
            Some(template) => definition.outside(template).or_else(|| {
                let counts = definition.placement.iter().map(|site| {
                    let count = made.entry((*site, definition.project, name)).or_default();
                    *count += 1;
                    *count
                });
                let most = counts.max().unwrap_or(0);
                template.max_keys.is_some_and(|max| most > max).then_some("it allows fewer keys than there are")
            }),
        };
        if let Some(detail) = detail {
            let key = format!("{}/{}", definition.project_name, definition.name);
            found.insert(*id, Outside { key, template: name.clone(), detail });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use schema::{
        id::{SiteId, TenantId},
        key::{Durability, Origin, Purpose, RotationRule},
    };
    use trust::statement::{policy::KeyDefinition, state::KeyState};

    use super::*;
    use crate::bundles::facts::{KeyFacts, PolicyFacts};

    const PROJECT: ProjectId = ProjectId::from_bits(1);
    const OTHER: ProjectId = ProjectId::from_bits(2);
    const SITES: [SiteId; 2] = [SiteId::from_bits(1), SiteId::from_bits(2)];

    fn wide() -> KeyTemplate {
        KeyTemplate {
            project: PROJECT,
            algorithms: vec!["A256KW+A256GCM".parse().unwrap(), "HMAC-SHA-256".parse().unwrap()],
            purposes: vec![Purpose::Encrypt, Purpose::Mac],
            placement: SITES.to_vec(),
            labels: BTreeMap::new(),
            durabilities: vec![Durability::SingleCopy, Durability::TwoHolders],
            protection: schema::key::Protection::Software,
            exportable: true,
            rotation: RotationRule::default(),
            limits: Default::default(),
            max_keys: None,
        }
    }

    fn document(scope: Scope, name: &str, template: KeyTemplate) -> PolicyFacts {
        let templates = BTreeMap::from([(name.parse().unwrap(), template)]);
        PolicyFacts { scope, cedar: BTreeMap::new(), templates, vouching: None, offline: None }
    }

    /// A tenant with an exportable key `pay/k1` at the first site and `pay/k2` at both, made from the template `cards`.
    fn facts(policies: Vec<PolicyFacts>) -> Facts {
        let mut facts = Facts { policies, ..Facts::of(TenantId::from_bits(1)) };
        for (number, placement) in [(1, &SITES[..1]), (2, &SITES[..])] {
            let definition = KeyDefinition {
                name: format!("k{number}").parse().unwrap(),
                aliases: vec![],
                project: PROJECT,
                project_name: "pay".parse().unwrap(),
                algorithm: "A256KW+A256GCM".parse().unwrap(),
                purpose: Purpose::Encrypt,
                placement: placement.to_vec(),
                labels: BTreeMap::new(),
                durability: Durability::SingleCopy,
                protection: schema::key::Protection::Software,
                exportable: number == 1,
                origin: Origin::Generated,
                eligible_generators: vec![],
                rotation: RotationRule::default(),
                limits: Default::default(),
                minimum_versions: Default::default(),
                external: Default::default(),
            };
            let state = KeyState { primary: 0, versions: BTreeMap::new() };
            let template = Some("cards".parse().unwrap());
            let key =
                KeyFacts { definition, template, suspended: false, state, revoked_versions: BTreeMap::new(), backups: BTreeMap::new() };
            facts.keys.insert(KeyId::from_bits(number), key);
        }
        facts
    }

    const SCOPE: Scope = Scope::Project(PROJECT);

    /// What a change of the template leaves outside, in words.
    fn told(after: Vec<PolicyFacts>) -> Vec<String> {
        left_outside(&facts(vec![document(SCOPE, "cards", wide())]), &facts(after)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_narrower_template_leaves_out_the_keys_it_no_longer_allows() {
        let with = |change: fn(&mut KeyTemplate)| {
            let mut template = wide();
            change(&mut template);
            told(vec![document(SCOPE, "cards", template)])
        };
        let both = |detail: &str| ["k1", "k2"].map(|key| format!("pay/{key} (template cards: {detail})")).to_vec();
        assert_eq!(with(|template| template.algorithms = template.algorithms.split_off(1)), both("its algorithm is not allowed"));
        assert_eq!(with(|template| template.purposes = template.purposes.split_off(1)), both("its purpose is not allowed"));
        assert_eq!(with(|template| template.durabilities = template.durabilities.split_off(1)), both("its durability is not allowed"));
        assert_eq!(with(|template| template.placement.truncate(1)), both("its placement is not allowed")[1..]);
        assert_eq!(with(|template| template.exportable = false), both("it may not be exportable")[..1]);
        assert_eq!(with(|template| template.max_keys = Some(1)), both("it allows fewer keys than there are")[1..]);
        assert_eq!(told(vec![]), both("it is no longer there"));
        assert_eq!(told(vec![document(SCOPE, "other", wide())]), both("it is no longer there"));
    }

    #[test]
    fn what_every_key_of_a_template_follows_may_change() {
        let with = |change: fn(&mut KeyTemplate)| {
            let mut template = wide();
            change(&mut template);
            told(vec![document(SCOPE, "cards", template)])
        };
        let none = Vec::<String>::new();
        assert_eq!(with(|_| ()), none);
        assert_eq!(with(|template| template.labels = [("a".parse().unwrap(), "b".parse().unwrap())].into()), none);
        assert_eq!(with(|template| template.rotation.min_interval_seconds = Some(7)), none);
        assert_eq!(with(|template| template.limits.hard_uses = Some(7)), none);
        assert_eq!(with(|template| template.max_keys = Some(2)), none);
        assert_eq!(with(|template| template.algorithms.truncate(1)), none);
        assert_eq!(told(vec![document(Scope::Tenant, "cards", wide())]), none, "another document may have it");
    }

    #[test]
    fn a_template_is_found_where_agents_find_it() {
        let narrow = || KeyTemplate { exportable: false, ..wide() };
        let outside = ["pay/k1 (template cards: it may not be exportable)"];
        let here = |template| document(SCOPE, "cards", template);
        assert_eq!(told(vec![here(wide()), document(Scope::Tenant, "cards", narrow())]), outside, "the tenant's comes first");
        assert_eq!(told(vec![here(wide()), here(narrow())]), outside, "the last document of a scope says what there is");
        // Of another project, it is none of this one, but hides what stands beside it in its scope.
        let foreign = || document(Scope::Tenant, "cards", KeyTemplate { project: OTHER, ..narrow() });
        assert_eq!(told(vec![here(wide()), foreign()]), Vec::<String>::new());
        assert_eq!(told(vec![document(Scope::Tenant, "cards", wide()), foreign()]).len(), 2);
    }

    #[test]
    fn what_was_outside_before_stops_no_change() {
        let broken = facts(vec![]);
        assert_eq!(left_outside(&broken, &facts(vec![document(SCOPE, "other", wide())])), []);
        assert_eq!(left_outside(&broken, &facts(vec![document(SCOPE, "cards", wide())])), []);
    }
}
