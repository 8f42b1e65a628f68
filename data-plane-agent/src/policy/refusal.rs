//! The reasons a request is turned down. Each has a stable code and says what to do.

use schema::{
    id::{AgentId, CallerId, KeyVersion},
    key::{KeyReference, Operation, Purpose, VersionState},
    wire::problem::Problem,
};

use super::{explain::Nearest, slice::UnusablePolicy};
use crate::budgets::BudgetRefusal;

/// Why a request is turned down.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// No set was ever accepted.
    #[error("this agent has no policy yet: enrol it and wait until it is ready (GET /readyz says why it is not)")]
    NoStatements,
    /// The set in force is too old for anything.
    #[error("the policy in force is {age_seconds} s old, and nothing is allowed any more: restore the connection to the control plane")]
    StatementsExpired {
        /// The heartbeat's age.
        age_seconds: u64,
    },
    /// The set in force is too old for this.
    #[error(
        "the policy in force is {age_seconds} s old, and policy does not allow {operation} offline: restore the connection to the control plane"
    )]
    NotOffline {
        /// What was asked.
        operation: Operation,
        /// The heartbeat's age.
        age_seconds: u64,
    },
    /// This agent was suspended or revoked.
    #[error("this agent was suspended or revoked at the control plane, or cut off there because another process came with its identity")]
    AgentSuspended,
    /// The whole site was suspended.
    #[error("this site was suspended at the control plane: it is resumed there (freehold site resume)")]
    SiteSuspended,
    /// The caller proved who it is, but no policy lets it in.
    #[error("caller {caller} is not registered in the policy in force: create it at the control plane and publish")]
    CallerUnknown {
        /// Who: an id, or `project/name`.
        caller: String,
    },
    /// The caller was suspended or revoked.
    #[error("caller {caller} was suspended or revoked")]
    CallerSuspended {
        /// Who.
        caller: CallerId,
    },
    /// There is no such key here.
    #[error("there is no key {reference} at this site: look at its name and at the sites it is placed at")]
    KeyNotFound {
        /// What was asked for.
        reference: KeyReference,
    },
    /// The key has no such version.
    #[error("there is no version {version}")]
    VersionNotFound {
        /// What was asked for.
        version: KeyVersion,
    },
    /// The key's first version is not active yet.
    #[error("the key has no active version yet: its generator has still to report it ready")]
    NoPrimaryVersion,
    /// The key is for something else.
    #[error("this key is for {purpose}, not for {operation}: use another key")]
    WrongPurpose {
        /// What it is for.
        purpose: Purpose,
        /// What was asked.
        operation: Operation,
    },
    /// The key is a partner's, who alone has its private half.
    #[error("this key is a partner's: only its public half is known here, and that cannot {operation}")]
    ExternalKey {
        /// What was asked.
        operation: Operation,
    },
    /// The name is a composite's, and none of its keys does this by that name.
    #[error("this is a composite, which does not {operation} by its own name: name one of its keys (GET /v1/keys lists them)")]
    Composite {
        /// What was asked.
        operation: Operation,
    },
    /// The key has no public half.
    #[error("this key is symmetric: it has no public half")]
    NoPublicKey,
    /// The key's material is made by agents.
    #[error("this key's material is made at its site: a key takes material from elsewhere only when it was created for that")]
    NotImported,
    /// Nothing waits for material.
    #[error("no version of this key waits for material: rotate the key to bring the next one")]
    NothingAwaited,
    /// The version has its material.
    #[error("version {version} has its material already, and the first is final: rotate the key to bring the next one")]
    AlreadyImported {
        /// Which.
        version: KeyVersion,
    },
    /// Another agent is to take the material.
    #[error("{} is to take the material of version {version}, not this agent: send it there", .generator.map_or("another agent".to_owned(), |agent| agent.to_string()))]
    AwaitedElsewhere {
        /// Which.
        version: KeyVersion,
        /// Where it is to go.
        generator: Option<AgentId>,
    },
    /// The key never leaves its vaults.
    #[error("this key was not created exportable, and that cannot be changed: its material never leaves the vaults of its site")]
    NotExportable,
    /// The version's state does not allow it.
    #[error("version {version} is {state}: it does not {operation}")]
    VersionState {
        /// Which.
        version: KeyVersion,
        /// Its state.
        state: VersionState,
        /// What was asked.
        operation: Operation,
    },
    /// The version is older than policy allows.
    #[error("version {version} is below the key's minimum version {minimum}: protect the data again under a newer one")]
    BelowMinimumVersion {
        /// Which.
        version: KeyVersion,
        /// The lowest allowed.
        minimum: u32,
    },
    /// The version has protected data for too long.
    #[error("version {version} has been active longer than its hard limit of {limit_seconds} s: rotate the key")]
    HardTimeLimit {
        /// Which.
        version: KeyVersion,
        /// The limit.
        limit_seconds: u64,
    },
    /// A limit on uses or bytes.
    #[error(transparent)]
    Budget(BudgetRefusal),
    /// The self-tests of the algorithm did not pass at start.
    #[error("{algorithm} is switched off: its self-test failed when this agent started; look at the log and replace the agent")]
    AlgorithmDisabled {
        /// Which.
        algorithm: &'static str,
    },
    /// Policies forbid it.
    #[error("forbidden by {}", .policies.join(", "))]
    Forbidden {
        /// Which.
        policies: Vec<String>,
    },
    /// No policy allows it.
    #[error("{}", nothing_allows(.nearest.as_ref()))]
    NothingAllows {
        /// The nearest that would, had its conditions held.
        nearest: Option<Nearest>,
    },
    /// The policies that would allow it demand something that the request does not do.
    #[error("{} allows this on a condition: {demand}", .policies.join(", "))]
    Obligation {
        /// Which.
        policies: Vec<String>,
        /// What is demanded.
        demand: String,
    },
    /// The question could not be put to Cedar.
    #[error("the request could not be decided")]
    Undecidable(#[source] UnusablePolicy),
}

fn nothing_allows(nearest: Option<&Nearest>) -> String {
    match nearest {
        Some(Nearest { policy, condition, error: None }) => {
            format!("nothing allows this; the nearest policy is {policy}, whose condition failed: {condition}")
        }
        Some(Nearest { policy, condition, error: Some(error) }) => {
            format!("nothing allows this; the nearest policy is {policy}, whose condition could not be evaluated: {condition}: {error}")
        }
        None => "nothing allows this: no policy's scope matches this caller, operation and key".to_owned(),
    }
}

impl Refusal {
    /// The stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoStatements => "no_policy_yet",
            Self::StatementsExpired { .. } => "statements_expired",
            Self::NotOffline { .. } => "not_allowed_offline",
            Self::AgentSuspended => "agent_suspended",
            Self::SiteSuspended => "site_suspended",
            Self::CallerUnknown { .. } => "caller_unknown",
            Self::CallerSuspended { .. } => "caller_suspended",
            Self::KeyNotFound { .. } => "key_not_found",
            Self::VersionNotFound { .. } => "version_not_found",
            Self::NoPrimaryVersion => "no_active_version",
            Self::WrongPurpose { .. } => "wrong_purpose",
            Self::ExternalKey { .. } => "external_key",
            Self::Composite { .. } => "composite_does_not",
            Self::NoPublicKey => "no_public_key",
            Self::NotImported => "key_not_imported",
            Self::NothingAwaited => "no_version_awaited",
            Self::AlreadyImported { .. } => "version_already_made",
            Self::AwaitedElsewhere { .. } => "awaited_elsewhere",
            Self::NotExportable => "key_not_exportable",
            Self::VersionState { .. } => "version_state",
            Self::BelowMinimumVersion { .. } => "below_minimum_version",
            Self::HardTimeLimit { .. } => "hard_limit_time",
            Self::Budget(refusal) => refusal.code(),
            Self::AlgorithmDisabled { .. } => "algorithm_disabled",
            Self::Forbidden { .. } => "forbidden_by_policy",
            Self::NothingAllows { .. } => "not_allowed_by_policy",
            Self::Obligation { .. } => "obligation_not_met",
            Self::Undecidable(_) => "undecidable",
        }
    }

    /// As it is shown to the caller.
    pub fn problem(&self) -> Problem {
        let (status, title) = match self {
            Self::NoStatements => (503, "There is no policy yet"),
            Self::StatementsExpired { .. } => (503, "The policy is too old"),
            Self::NotOffline { .. } => (403, "Not allowed offline"),
            Self::AgentSuspended => (403, "The agent is suspended"),
            Self::SiteSuspended => (403, "The site is suspended"),
            Self::CallerUnknown { .. } => (403, "The caller is not registered"),
            Self::CallerSuspended { .. } => (403, "The caller is suspended"),
            Self::KeyNotFound { .. } => (404, "There is no such key here"),
            Self::VersionNotFound { .. } => (404, "There is no such version"),
            Self::NoPrimaryVersion => (409, "The key has no active version"),
            Self::WrongPurpose { .. } => (400, "The key is for something else"),
            Self::ExternalKey { .. } => (400, "The key is a partner's"),
            Self::Composite { .. } => (400, "The composite does not do this"),
            Self::NoPublicKey => (400, "The key has no public half"),
            Self::NotImported => (400, "The key is not an imported one"),
            Self::NothingAwaited => (409, "No version waits for material"),
            Self::AlreadyImported { .. } => (409, "The version has its material"),
            Self::AwaitedElsewhere { .. } => (409, "The material goes to another agent"),
            Self::NotExportable => (403, "The key is not exportable"),
            Self::VersionState { .. } => (409, "The version's state does not allow it"),
            Self::BelowMinimumVersion { .. } => (409, "The version is too old"),
            Self::HardTimeLimit { .. } => (409, "A hard limit was reached"),
            Self::Budget(refusal) => refusal.status(),
            Self::AlgorithmDisabled { .. } => (503, "The algorithm is switched off"),
            Self::Forbidden { .. } => (403, "Policy forbids it"),
            Self::NothingAllows { .. } => (403, "Policy does not allow it"),
            Self::Obligation { .. } => (403, "Policy allows it on a condition"),
            Self::Undecidable(_) => (500, "The request could not be decided"),
        };
        let problem = Problem::new(status, self.code(), title, self.to_string());
        match self {
            Self::Forbidden { policies } | Self::Obligation { policies, .. } => problem.fact("policies", policies.clone()),
            Self::NothingAllows { nearest: Some(nearest) } => match serde_json::to_value(nearest) {
                Ok(nearest) => problem.fact("nearest", nearest),
                Err(_) => problem,
            },
            Self::Budget(refusal) => match refusal.limit() {
                Some(limit) => problem.fact("limit", limit),
                None => problem,
            },
            Self::AwaitedElsewhere { generator: Some(agent), .. } => problem.fact("generator", agent.to_string()),
            Self::KeyNotFound { .. }
            | Self::NotImported
            | Self::WrongPurpose { .. }
            | Self::ExternalKey { .. }
            | Self::Composite { .. }
            | Self::NoPublicKey => problem.field("key"),
            _ => problem,
        }
    }
}
