//! Rules and facts that events record and statements carry: who may join, what keys may be made, what goes on offline.

use serde::{Deserialize, Serialize};

use crate::{
    catalogue::Algorithm,
    clock::Timestamp,
    encoding::{Base64, Digest, opt_u64_string, u64_string},
    id::{AgentId, ProjectId, SiteId},
    key::{Durability, Limits, Protection, Purpose, RotationRule, words},
    name::Labels,
};

/// What a policy statement is for: the whole tenant, one project, or one site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The whole tenant.
    Tenant,
    /// One project: reaches only its own resources.
    Project(ProjectId),
    /// One site.
    Site(SiteId),
}

words! {
    /// How a caller proves who it is.
    CallerKind {
        /// A token whose hash only the agent has.
        Token = "token",
        /// A client certificate.
        Mtls = "mtls",
    }
}

/// What keys state may make by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyTemplate {
    /// The project.
    pub project: ProjectId,
    /// Algorithms allowed.
    pub algorithms: Vec<Algorithm>,
    /// Purposes allowed.
    pub purposes: Vec<Purpose>,
    /// Sites allowed.
    pub placement: Vec<SiteId>,
    /// Labels every key has, exactly.
    pub labels: Labels,
    /// Durabilities allowed.
    pub durabilities: Vec<Durability>,
    /// The lowest protection a key may demand of the vaults that hold it.
    #[serde(default, skip_serializing_if = "Protection::is_least")]
    pub protection: Protection,
    /// Whether keys may be exportable.
    pub exportable: bool,
    /// The rotation rule every key has.
    pub rotation: RotationRule,
    /// The limits every key has.
    pub limits: Limits,
    /// The most keys made from it; absent means no limit.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    pub max_keys: Option<u64>,
}

/// Who may vouch for an agent that joins a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VouchingRule {
    /// Whether rostered agents may (whose operator compared the join code).
    pub agents: bool,
    /// How many rostered agents must.
    pub agents_needed: u32,
    /// Whether the tenant's policy signers may.
    pub signers: bool,
}

impl Default for VouchingRule {
    fn default() -> Self {
        Self { agents: true, agents_needed: 1, signers: true }
    }
}

/// Degradation by the heartbeat's age, in seconds, and what is allowed in grace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfflineRule {
    /// From this age: warnings. Default 600.
    #[serde(with = "u64_string")]
    pub stale_seconds: u64,
    /// From this age: only `grace_operations`. Default 86 400.
    #[serde(with = "u64_string")]
    pub grace_seconds: u64,
    /// From this age: nothing. Default 604 800.
    #[serde(with = "u64_string")]
    pub expired_seconds: u64,
    /// What is allowed in grace.
    pub grace_operations: Vec<crate::key::Operation>,
}

impl OfflineRule {
    /// Whether the ages are in order and the first is above 0.
    pub const fn is_sound(&self) -> bool {
        0 < self.stale_seconds && self.stale_seconds <= self.grace_seconds && self.grace_seconds <= self.expired_seconds
    }
}

impl Default for OfflineRule {
    fn default() -> Self {
        use crate::key::Operation;
        Self {
            stale_seconds: 600,
            grace_seconds: 86_400,
            expired_seconds: 604_800,
            grace_operations: vec![Operation::Decrypt, Operation::Verify, Operation::PublicKey],
        }
    }
}

/// Somebody who came with an agent's identity, for people to tell which host it was.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sighting {
    /// The name of its host, as it said itself.
    pub host: String,
    /// The address it came from.
    pub address: String,
    /// When its process began, by its own clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it was last heard.
    pub at: Timestamp,
}

impl std::fmt::Display for Sighting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = if self.host.is_empty() { "an unnamed host" } else { &self.host };
        write!(f, "{host} at {}", self.address)?;
        if let Some(started) = self.started {
            write!(f, ", started {started}")?;
        }
        write!(f, ", heard {}", self.at)
    }
}

/// Why a roster entry counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Vouch {
    /// The site's first agent came with an enrolment token. Others believe it because their own enrolment named it as the
    /// founder; the agent itself because the pair is its own.
    Enrolment,
    /// A rostered agent whose operator compared the join code (`document::AgentVouch`, DSSE by that agent's pair).
    Agent {
        /// Which agent.
        agent: AgentId,
        /// The signed vouch, exact bytes.
        vouch: Base64,
    },
    /// The tenant's policy signers (`document::AgentVouch`, DSSE by a threshold of them).
    Signers {
        /// The signed vouch, exact bytes.
        vouch: Base64,
    },
    /// The agent's own previous pair (`document::AgentVouch`, DSSE by that pair).
    Previous {
        /// The previous pair.
        keyid: Digest,
        /// The signed vouch, exact bytes.
        vouch: Base64,
    },
}
