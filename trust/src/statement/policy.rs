//! Policy: what is allowed. Signed by the tenant's own signers when it has any, else by the control plane.

use std::collections::BTreeMap;

pub use schema::rule::{CallerKind, KeyTemplate, OfflineRule, VouchingRule};
use schema::{
    catalogue::Algorithm,
    composite::{Member, VerificationRule},
    encoding::{Base64, Digest, u64_string},
    id::{AgentId, CallerId, CompositeId, KeyId, KeyVersion, ProjectId, SiteId},
    key::{Durability, Limits, MinimumVersions, Origin, Protection, Purpose, RotationRule},
    name::{Labels, Name},
};
use serde::{Deserialize, Serialize};

use super::{Head, Kind, Scope, Statement};

/// What is allowed in one scope. A project's policy reaches only its own resources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Common head; `project` or `site` say the scope, neither means the tenant.
    #[serde(flatten)]
    pub head: Head,
    /// The version of the Cedar language, e.g. `4.5`.
    pub cedar_version: String,
    /// Cedar policies by id (`<policy id>/<name or index>`), one policy each. Sorted.
    pub cedar: BTreeMap<String, String>,
    /// Callers that agents let in.
    pub callers: BTreeMap<CallerId, CallerDefinition>,
    /// Certificate authorities of callers that come with a certificate, DER.
    pub caller_authorities: Vec<Base64>,
    /// Key definitions of the project (empty in a tenant's policy).
    pub keys: BTreeMap<KeyId, KeyDefinition>,
    /// Keys of this policy that work together under one name. A policy with any requires [`COMPOSITE_KEYS`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub composites: BTreeMap<CompositeId, CompositeDefinition>,
    /// Templates that state may make keys from.
    pub templates: BTreeMap<Name, KeyTemplate>,
    /// Who may vouch for agents (tenant and site scope).
    pub vouching: VouchingRule,
    /// What may go on without the control plane; absent: the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline: Option<OfflineRule>,
    /// The recovery key of the site (site scope): a signed `recovery::RecoveryKey`, exact bytes. Whether backups are sealed to
    /// it, each agent decides by who signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Base64>,
    /// What may act again after a suspension or revocation.
    pub resumptions: Vec<Resumption>,
    /// Versions whose compromise is confirmed.
    pub compromises: Vec<KeyVersion>,
    /// Versions whose destruction is confirmed.
    pub destructions: Vec<KeyVersion>,
}

impl Policy {
    /// What it is for.
    pub fn scope(&self) -> Scope {
        match (self.head.project, self.head.site) {
            (Some(project), _) => Scope::Project(project),
            (None, Some(site)) => Scope::Site(site),
            (None, None) => Scope::Tenant,
        }
    }
}

impl Statement for Policy {
    const KIND: Kind = Kind::Policy;
    const UNDERSTOOD: &'static [&'static str] = &[EXTERNAL_KEYS, COMPOSITE_KEYS];

    fn head(&self) -> &Head {
        &self.head
    }
}

/// One application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerDefinition {
    /// Its name inside the project.
    pub name: Name,
    /// The project it belongs to.
    pub project: ProjectId,
    /// How it proves who it is.
    pub kind: CallerKind,
    /// Of a certificate: SHA-256 of the authority's certificate, base64url; of a token: the site it is local to.
    pub issuer: String,
    /// Of a certificate: the subject alternative name (URI or DNS) that names it; of a token: its name again.
    pub subject: String,
    /// Labels, given to policy.
    pub labels: Labels,
}

/// What is fixed about a key, and the rules its versions follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyDefinition {
    /// Its name inside the project.
    pub name: Name,
    /// Other names inside the project.
    pub aliases: Vec<Name>,
    /// The project.
    pub project: ProjectId,
    /// The project's name.
    pub project_name: Name,
    /// Exactly one algorithm.
    pub algorithm: Algorithm,
    /// Exactly one purpose.
    pub purpose: Purpose,
    /// Where its material may be.
    pub placement: Vec<SiteId>,
    /// Labels, given to policy.
    pub labels: Labels,
    /// How many homes a version needs.
    pub durability: Durability,
    /// How well a vault must guard its material; one that does not never gets it.
    #[serde(default, skip_serializing_if = "Protection::is_least")]
    pub protection: Protection,
    /// Whether material may leave the vault, wrapped.
    pub exportable: bool,
    /// Where its material was made.
    pub origin: Origin,
    /// Agents that may make its material; empty means any rostered agent of its sites.
    pub eligible_generators: Vec<AgentId>,
    /// How new versions may come about.
    pub rotation: RotationRule,
    /// Soft and hard limits; hard limits are ceilings that leases stay under.
    pub limits: Limits,
    /// The lowest versions that may still be used.
    pub minimum_versions: MinimumVersions,
    /// The partner's public keys, version 1 first, of a key whose origin is `external`: policy alone names them. Such a
    /// policy requires [`EXTERNAL_KEYS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external: Vec<ExternalVersion>,
}

impl KeyDefinition {
    /// Whether a partner alone has the private half.
    pub fn is_external(&self) -> bool {
        self.origin == Origin::External
    }

    /// What keeps it from following this template; nothing when it may. Agents ask before they believe a key, the control
    /// plane before it publishes what would leave one outside.
    pub fn outside(&self, template: &KeyTemplate) -> Option<&'static str> {
        let rules = [
            (template.algorithms.contains(&self.algorithm), "its algorithm is not allowed"),
            (template.purposes.contains(&self.purpose), "its purpose is not allowed"),
            (self.algorithm.serves(self.purpose), "its algorithm does not serve its purpose"),
            (self.placement.iter().all(|site| template.placement.contains(site)), "its placement is not allowed"),
            (self.labels == template.labels, "its labels are not the template's"),
            (template.durabilities.contains(&self.durability), "its durability is not allowed"),
            (self.protection >= template.protection, "it demands less protection than is allowed"),
            (template.exportable || !self.exportable, "it may not be exportable"),
            (self.origin == Origin::Generated, "its material was not made at the site"),
            (self.external.is_empty(), "public keys of partners stand in policy only"),
            (self.rotation == template.rotation, "its rotation rule is not the template's"),
            (self.limits == template.limits, "its limits are not the template's"),
        ];
        rules.into_iter().find(|(holds, _)| !holds).map(|(_, detail)| detail)
    }

    /// The partner's public key in this version, when policy names one.
    pub fn external_version(&self, number: u32) -> Option<&ExternalVersion> {
        self.external.get(usize::try_from(number.checked_sub(1)?).ok()?)
    }
}

/// A reader must know that a partner's key has no private half here.
pub const EXTERNAL_KEYS: &str = "external-keys";

/// A partner's public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalVersion {
    /// The public key as the algorithm's standard encodes it.
    pub public_key: Base64,
    /// Identifies it: [`schema::key::fingerprint`].
    pub fingerprint: Digest,
}

/// One name for keys that work together: two that sign, and one that is sealed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompositeDefinition {
    /// Its name inside the project; no key's.
    pub name: Name,
    /// The project.
    pub project: ProjectId,
    /// The key that signs classically.
    pub classical: KeyId,
    /// The key that signs so that quantum computers do not help to forge.
    pub post_quantum: KeyId,
    /// The hybrid key for what is sealed to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<KeyId>,
    /// Which of its signatures must be genuine. Policies may demand more, by `@require_signatures`.
    pub rule: VerificationRule,
}

impl CompositeDefinition {
    /// Its keys, each with its place.
    pub fn members(&self) -> impl Iterator<Item = (Member, KeyId)> {
        let signing = [(Member::Classical, self.classical), (Member::PostQuantum, self.post_quantum)];
        signing.into_iter().chain(self.encryption.map(|key| (Member::Encryption, key)))
    }
}

/// A reader must know that a composite's name means several keys and a rule.
pub const COMPOSITE_KEYS: &str = "composite-keys";

/// Lifts every restriction on a subject up to a state serial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumption {
    /// What may act again.
    pub subject: super::state::Subject,
    /// Restrictions that entered with a state of this serial or lower are lifted, by site.
    pub up_to_state_serial: BTreeMap<SiteId, SerialText>,
}

/// A serial inside a map, as a decimal string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SerialText(#[serde(with = "u64_string")] pub u64);
