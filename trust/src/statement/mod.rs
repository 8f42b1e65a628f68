//! The five kinds of statement, after TUF's roles. Each is a DSSE envelope over the exact bytes of its JSON payload.

pub mod heartbeat;
pub mod lease;
pub mod policy;
pub mod root;
pub mod state;

pub use schema::rule::Scope;
use schema::{
    clock::Timestamp,
    encoding::{Digest, u64_string},
    id::{AgentId, ProjectId, SiteId, TenantId},
    key::words,
};
use serde::{Deserialize, Serialize};

words! {
    /// Which kind of statement.
    Kind {
        /// Signers and thresholds; one per tenant.
        Root = "root",
        /// What is allowed; per tenant, project or site.
        Policy = "policy",
        /// What has happened to keys; per site.
        State = "state",
        /// What is current; per site.
        Heartbeat = "heartbeat",
        /// Ranges of budgets; per agent.
        Lease = "lease",
    }
}

impl Kind {
    /// The DSSE payload type, which is also `format` inside the payload.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Root => "application/vnd.freehold.root+json",
            Self::Policy => "application/vnd.freehold.policy+json",
            Self::State => "application/vnd.freehold.state+json",
            Self::Heartbeat => "application/vnd.freehold.heartbeat+json",
            Self::Lease => "application/vnd.freehold.lease+json",
        }
    }

    /// The ML-DSA context of signatures over this kind: `freehold/<kind>/v1`.
    pub const fn context(self) -> &'static str {
        match self {
            Self::Root => "freehold/root/v1",
            Self::Policy => "freehold/policy/v1",
            Self::State => "freehold/state/v1",
            Self::Heartbeat => "freehold/heartbeat/v1",
            Self::Lease => "freehold/lease/v1",
        }
    }

    /// The most bytes of an envelope of this kind; checked before parsing.
    pub const fn max_bytes(self) -> usize {
        match self {
            Self::Root => 256 * 1024,
            Self::Policy => 64 * 1024 * 1024,
            Self::State => 64 * 1024 * 1024,
            Self::Heartbeat => 64 * 1024,
            Self::Lease => 1024 * 1024,
        }
    }
}

/// What every statement begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The DSSE payload type again.
    pub format: String,
    /// What a reader must understand, beyond the format itself.
    pub requires: Vec<String>,
    /// The tenant.
    pub tenant: TenantId,
    /// The site it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteId>,
    /// The project it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    /// The agent it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// Begins anew only by recovery.
    #[serde(with = "u64_string")]
    pub epoch: u64,
    /// Rises by one with each statement of this kind for this scope.
    #[serde(with = "u64_string")]
    pub serial: u64,
    /// When it was signed.
    pub issued: Timestamp,
    /// The first moment it may be accepted.
    pub not_before: Timestamp,
    /// The last moment it may be accepted.
    pub expires: Timestamp,
    /// The serial of the root it was signed under (of a root: its own serial).
    #[serde(with = "u64_string")]
    pub root_serial: u64,
}

/// A payload with a head.
pub trait Statement: Serialize + for<'de> Deserialize<'de> + Clone + PartialEq + std::fmt::Debug {
    /// Which kind.
    const KIND: Kind;

    /// The head.
    fn head(&self) -> &Head;

    /// What this program understands of `requires`, for this kind.
    const UNDERSTOOD: &'static [&'static str] = &[];
}

/// Names one statement exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Its serial.
    #[serde(with = "u64_string")]
    pub serial: u64,
    /// SHA-256 of its payload bytes.
    pub sha256: Digest,
}
