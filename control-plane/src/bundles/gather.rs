//! Aggregates to facts: what each has come to, as far as statements speak of it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use schema::{
    encoding::Base64,
    id::{AgentId, CallerId, CompositeId, KeyId, ProjectId, SiteId, TenantId},
    key::Origin,
    name::Name,
};
use trust::statement::{
    policy::{CallerDefinition, CompositeDefinition, ExternalVersion, KeyDefinition},
    state::{KeyState, VersionEntry},
};

use super::facts::{AgentFacts, CallerFacts, Facts, KeyFacts, PolicyFacts, ProjectFacts, Revoked, SiteFacts};
use crate::{
    agents::Agent,
    aliases::Alias,
    callers::Caller,
    composites::Composite,
    keys::{Key, Version},
    projects::Project,
    sites::Site,
};

/// Every aggregate of a tenant that statements speak of.
#[derive(Debug, Clone, Default)]
pub struct Aggregates {
    /// Projects.
    pub projects: Vec<Project>,
    /// Sites.
    pub sites: Vec<Site>,
    /// Agents, also those that were only invited.
    pub agents: Vec<Agent>,
    /// Callers.
    pub callers: Vec<Caller>,
    /// Keys.
    pub keys: Vec<Key>,
    /// Aliases.
    pub aliases: Vec<Alias>,
    /// Composites.
    pub composites: Vec<Composite>,
    /// Published policy documents, read.
    pub policies: Vec<PolicyFacts>,
}

/// The facts of a tenant.
pub fn facts(tenant: TenantId, aggregates: Aggregates) -> Facts {
    let names: BTreeMap<ProjectId, Name> =
        aggregates.projects.iter().filter_map(|project| project.fixed.as_ref().map(|fixed| (fixed.id, fixed.name.clone()))).collect();
    let mut aliases = BTreeMap::<KeyId, Vec<Name>>::new();
    for alias in &aggregates.aliases {
        if let (Some(fixed), Some(key)) = (&alias.fixed, alias.key) {
            aliases.entry(key).or_default().push(fixed.name.clone());
        }
    }
    aliases.values_mut().for_each(|names| names.sort());
    let composites = composites(&aggregates);
    Facts {
        tenant,
        projects: aggregates.projects.iter().filter_map(project).collect(),
        sites: aggregates.sites.iter().filter_map(site).collect(),
        agents: aggregates.agents.iter().filter_map(agent).collect(),
        callers: aggregates.callers.iter().filter_map(caller).collect(),
        keys: aggregates.keys.iter().filter_map(|found| key(found, &names, &mut aliases)).collect(),
        composites,
        policies: aggregates.policies,
    }
}

fn project(project: &Project) -> Option<(ProjectId, ProjectFacts)> {
    Some((project.fixed.as_ref()?.id, ProjectFacts { suspended: project.suspended.is_some() }))
}

fn site(site: &Site) -> Option<(SiteId, SiteFacts)> {
    Some((site.fixed.as_ref()?.id, site_facts(site)))
}

fn site_facts(site: &Site) -> SiteFacts {
    SiteFacts {
        offline: site.offline.clone(),
        suspended: site.suspended.is_some(),
        recovery: site.recovery.as_ref().map(|recovery| recovery.document.clone()),
    }
}

/// An agent counts from its enrolment on, for ever.
fn agent(agent: &Agent) -> Option<(AgentId, AgentFacts)> {
    let (fixed, enrolment) = (agent.fixed.as_ref()?, agent.enrolment.as_ref()?);
    let facts = AgentFacts {
        site: fixed.site,
        roster_entry: enrolment.roster_entry.clone(),
        vouches: agent.vouches.clone(),
        // Nobody lifts that of an agent that was cut off.
        suspended: agent.suspended.is_some() || agent.quarantined.is_some(),
        revoked: agent.revoked.as_ref().map(|revoked| Revoked { reason: revoked.reason, at: revoked.at }),
    };
    Some((fixed.id, facts))
}

fn caller(caller: &Caller) -> Option<(CallerId, CallerFacts)> {
    let fixed = caller.fixed.as_ref()?;
    let definition = CallerDefinition {
        name: fixed.name.clone(),
        project: fixed.project,
        kind: fixed.kind,
        issuer: fixed.issuer.clone(),
        subject: fixed.subject.clone(),
        labels: caller.labels.clone(),
    };
    let revoked = caller.revoked.as_ref().map(|revoked| Revoked { reason: revoked.reason, at: revoked.at });
    Some((fixed.id, CallerFacts { definition, authority: fixed.authority.clone(), suspended: caller.suspended.is_some(), revoked }))
}

fn key(key: &Key, projects: &BTreeMap<ProjectId, Name>, aliases: &mut BTreeMap<KeyId, Vec<Name>>) -> Option<(KeyId, KeyFacts)> {
    let fixed = key.fixed.as_ref()?;
    let definition = KeyDefinition {
        name: fixed.name.clone(),
        aliases: aliases.remove(&fixed.id).unwrap_or_default(),
        project: fixed.project,
        project_name: projects.get(&fixed.project)?.clone(),
        algorithm: fixed.algorithm,
        purpose: fixed.purpose,
        placement: fixed.placement.clone(),
        labels: key.labels.clone(),
        durability: fixed.durability,
        protection: fixed.protection,
        exportable: fixed.exportable,
        origin: fixed.origin,
        eligible_generators: fixed.eligible_generators.clone(),
        rotation: key.rotation.clone(),
        limits: key.limits.within(fixed.algorithm),
        minimum_versions: key.minimum_versions,
        external: if fixed.origin == Origin::External { key.versions.values().filter_map(external).collect() } else { Vec::new() },
    };
    let revoked = |(number, version): (&u32, &Version)| {
        version.revoked.as_ref().map(|revoked| (*number, Revoked { reason: revoked.reason, at: revoked.at }))
    };
    let facts = KeyFacts {
        definition,
        template: fixed.template.clone(),
        suspended: key.suspended.is_some(),
        state: KeyState {
            primary: key.primary,
            versions: key.versions.iter().map(|(number, version)| (*number, version_entry(version))).collect(),
        },
        revoked_versions: key.versions.iter().filter_map(revoked).collect(),
        backups: key
            .versions
            .iter()
            .map(|(number, version)| (*number, backups(version)))
            .filter(|(_, backups)| !backups.is_empty())
            .collect(),
    };
    Some((fixed.id, facts))
}

/// Reports of the backups of a version, the oldest first.
fn backups(version: &Version) -> Vec<(AgentId, Base64)> {
    let mut backups: Vec<_> = version.backups.iter().collect();
    backups.sort_by_key(|(_, backup)| backup.at);
    backups.into_iter().map(|(holder, backup)| (*holder, backup.report.clone())).collect()
}

/// Names are looked up before a composite is made, not locked: one that lost its name to a key in that moment is left out,
/// or agents would refuse the whole policy.
fn composites(aggregates: &Aggregates) -> BTreeMap<CompositeId, CompositeDefinition> {
    let keys = aggregates.keys.iter().filter_map(|key| key.fixed.as_ref()).map(|fixed| (fixed.project, &fixed.name));
    let in_use = aggregates.aliases.iter().filter(|alias| alias.key.is_some());
    let aliases = in_use.filter_map(|alias| alias.fixed.as_ref()).map(|fixed| (fixed.project, &fixed.name));
    let taken: BTreeSet<(ProjectId, &Name)> = keys.chain(aliases).collect();
    let free = |composite: &&Composite| composite.fixed.as_ref().is_some_and(|fixed| !taken.contains(&(fixed.project, &fixed.name)));
    aggregates.composites.iter().filter(free).filter_map(composite).collect()
}

fn composite(composite: &Composite) -> Option<(CompositeId, CompositeDefinition)> {
    let fixed = composite.fixed.as_ref()?;
    let definition = CompositeDefinition {
        name: fixed.name.clone(),
        project: fixed.project,
        classical: fixed.classical,
        post_quantum: fixed.post_quantum,
        encryption: fixed.encryption,
        rule: composite.rule?,
    };
    composite.retired.is_none().then_some((fixed.id, definition))
}

/// Versions of a partner's key are numbered from 1 without gaps, and each has its public key.
fn external(version: &Version) -> Option<ExternalVersion> {
    let made = version.made.as_ref()?;
    Some(ExternalVersion { public_key: made.public_key.clone()?, fingerprint: made.fingerprint })
}

fn version_entry(version: &Version) -> VersionEntry {
    let ready = version.holders.iter().filter(|(_, holder)| holder.gone.is_none());
    VersionEntry {
        state: version.state,
        created: version.requested,
        activated: version.activated,
        generator: version.generator,
        record: version.made.as_ref().and_then(|made| made.record.clone()),
        ready: ready.filter_map(|(agent, holder)| Some((*agent, holder.ready.as_ref()?.report.clone()))).collect(),
        backup: None, // chosen for each site: by a holder of its own
    }
}

#[cfg(test)]
mod tests {
    use schema::{
        clock::Timestamp,
        composite::VerificationRule,
        id::{AliasId, CompositeId},
    };

    use super::*;
    use crate::{aliases, composites};

    const PROJECT: ProjectId = ProjectId::from_bits(1);

    fn named(number: u128, name: &str) -> Composite {
        let fixed = composites::Fixed {
            id: CompositeId::from_bits(number),
            project: PROJECT,
            name: name.parse().unwrap(),
            classical: KeyId::from_bits(1),
            post_quantum: KeyId::from_bits(2),
            encryption: None,
            created: Timestamp::default(),
        };
        Composite { fixed: Some(fixed), rule: Some(VerificationRule::All), ..Composite::default() }
    }

    #[test]
    fn a_composite_that_lost_its_name_or_was_retired_is_left_out() {
        let alias = |project, key| Alias {
            fixed: Some(aliases::Fixed {
                id: AliasId::from_bits(1),
                project,
                name: "taken".parse().unwrap(),
                created: Timestamp::default(),
            }),
            key,
        };
        let retired = Some(composites::Retired { at: Timestamp::default(), reason: None });
        let composites = vec![named(1, "contracts"), named(2, "taken"), Composite { retired, ..named(3, "former") }, Composite::default()];
        let of = |alias: Alias| {
            let aggregates = Aggregates { composites: composites.clone(), aliases: vec![alias], ..Aggregates::default() };
            let facts = facts(TenantId::from_bits(1), aggregates);
            facts.composites.keys().copied().map(CompositeId::bits).collect::<Vec<_>>()
        };
        assert_eq!(of(alias(PROJECT, Some(KeyId::from_bits(1)))), [1]);
        // A retired alias has given its name back, and another project's is another name.
        assert_eq!(of(alias(PROJECT, None)), [1, 2]);
        assert_eq!(of(alias(ProjectId::from_bits(2), Some(KeyId::from_bits(1)))), [1, 2]);
    }
}
