//! What statements are compiled from: the present of one tenant, as its aggregates have it.

use std::collections::BTreeMap;

use schema::{
    clock::Timestamp,
    encoding::Base64,
    id::{AgentId, CallerId, CompositeId, KeyId, ProjectId, SiteId, TenantId},
    key::RevocationReason,
    name::Name,
    rule::{KeyTemplate, OfflineRule, VouchingRule},
};
use trust::statement::{
    Scope,
    policy::{CallerDefinition, CompositeDefinition, KeyDefinition},
    state::{KeyState, Vouch},
};

/// One tenant, now.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The tenant.
    pub tenant: TenantId,
    /// Its projects.
    pub projects: BTreeMap<ProjectId, ProjectFacts>,
    /// Its sites.
    pub sites: BTreeMap<SiteId, SiteFacts>,
    /// Every agent that ever enrolled.
    pub agents: BTreeMap<AgentId, AgentFacts>,
    /// Every caller ever registered.
    pub callers: BTreeMap<CallerId, CallerFacts>,
    /// Every key.
    pub keys: BTreeMap<KeyId, KeyFacts>,
    /// Every composite that is not retired.
    pub composites: BTreeMap<CompositeId, CompositeDefinition>,
    /// The published policy documents.
    pub policies: Vec<PolicyFacts>,
}

impl Facts {
    /// A tenant with nothing in it.
    pub fn of(tenant: TenantId) -> Self {
        Self {
            tenant,
            projects: BTreeMap::new(),
            sites: BTreeMap::new(),
            agents: BTreeMap::new(),
            callers: BTreeMap::new(),
            keys: BTreeMap::new(),
            composites: BTreeMap::new(),
            policies: Vec::new(),
        }
    }
}

/// A project.
#[derive(Debug, Clone, PartialEq)]
pub struct ProjectFacts {
    /// Whether no key of it may be used.
    pub suspended: bool,
}

/// A site.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteFacts {
    /// What goes on there without the control plane; none: the tenant's rule.
    pub offline: Option<OfflineRule>,
    /// The signed recovery key, exact bytes.
    pub recovery: Option<Base64>,
    /// Whether none of its agents may do anything.
    pub suspended: bool,
}

/// When and why something was revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// Why (RFC 5280).
    pub reason: RevocationReason,
    /// When.
    pub at: Timestamp,
}

/// An agent that enrolled.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentFacts {
    /// Its site.
    pub site: SiteId,
    /// Its signed roster entry, exact bytes.
    pub roster_entry: Base64,
    /// Why the entry counts.
    pub vouches: Vec<Vouch>,
    /// Whether it may do nothing for now.
    pub suspended: bool,
    /// Whether and why it is no longer one.
    pub revoked: Option<Revoked>,
}

/// A caller.
#[derive(Debug, Clone, PartialEq)]
pub struct CallerFacts {
    /// What agents are told of it.
    pub definition: CallerDefinition,
    /// The authority of its certificates, DER, when it comes with one.
    pub authority: Option<Base64>,
    /// Whether it may do nothing for now.
    pub suspended: bool,
    /// Whether and why it may never do anything again.
    pub revoked: Option<Revoked>,
}

/// A key.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyFacts {
    /// What is fixed about it, and its rules.
    pub definition: KeyDefinition,
    /// The template of policy it follows.
    pub template: Option<Name>,
    /// Whether all its versions may do nothing for now.
    pub suspended: bool,
    /// Its versions.
    pub state: KeyState,
    /// Versions that were revoked.
    pub revoked_versions: BTreeMap<u32, Revoked>,
    /// Signed reports of the sealed backups of each version, by holder, the oldest first.
    pub backups: BTreeMap<u32, Vec<(AgentId, Base64)>>,
}

/// A published policy document.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyFacts {
    /// What it is for.
    pub scope: Scope,
    /// Its single Cedar policies by id.
    pub cedar: BTreeMap<String, String>,
    /// What keys the control plane may make by itself.
    pub templates: BTreeMap<Name, KeyTemplate>,
    /// Who may vouch for agents.
    pub vouching: Option<VouchingRule>,
    /// What goes on without the control plane.
    pub offline: Option<OfflineRule>,
}
