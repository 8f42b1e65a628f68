//! Ids of what has a name: derived under the tenant's index key, so that a name can be taken once, on every engine, and an
//! id tells nobody the name. The labels are for ever.

use schema::{
    id::{AliasId, CallerId, CompositeId, KeyId, PolicyId, ProjectId, SiteId, TenantId},
    name::Name,
    rule::{CallerKind, Scope},
};

use crate::sealing::TenantKeys;

/// The tenant of this name; under the deployment's own keys.
pub fn tenant_id(deployment: &TenantKeys, name: &Name) -> TenantId {
    deployment.derived_id("tenant", &[name.as_str()])
}

/// The project of this name.
pub fn project_id(keys: &TenantKeys, name: &Name) -> ProjectId {
    keys.derived_id("project", &[name.as_str()])
}

/// The site of this name.
pub fn site_id(keys: &TenantKeys, name: &Name) -> SiteId {
    keys.derived_id("site", &[name.as_str()])
}

/// The key of this name in the project.
pub fn key_id(keys: &TenantKeys, project: ProjectId, name: &Name) -> KeyId {
    keys.derived_id("key", &[&project.to_string(), name.as_str()])
}

/// The alias of this name in the project.
pub fn alias_id(keys: &TenantKeys, project: ProjectId, name: &Name) -> AliasId {
    keys.derived_id("alias", &[&project.to_string(), name.as_str()])
}

/// The composite of this name in the project.
pub fn composite_id(keys: &TenantKeys, project: ProjectId, name: &Name) -> CompositeId {
    keys.derived_id("composite", &[&project.to_string(), name.as_str()])
}

/// The caller that proves itself like this in the project.
pub fn caller_id(keys: &TenantKeys, kind: CallerKind, issuer: &str, subject: &str) -> CallerId {
    keys.derived_id("caller", &[kind.as_str(), issuer, subject])
}

/// The policy document of this name in its scope.
pub fn policy_id(keys: &TenantKeys, scope: Scope, name: &Name) -> PolicyId {
    let (kind, of) = match scope {
        Scope::Tenant => ("tenant", String::new()),
        Scope::Project(project) => ("project", project.to_string()),
        Scope::Site(site) => ("site", site.to_string()),
    };
    keys.derived_id("policy", &[kind, &of, name.as_str()])
}
