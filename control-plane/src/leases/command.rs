//! What may be asked of the budgets of a key.

use schema::{
    encoding::Digest,
    id::{AgentId, KeyId},
    ranges::{LimitKind, Ranges},
};
use serde::Serialize;

/// A parsed intent. What was looked up beforehand is left out of the request's hash.
#[derive(Debug, Clone, Serialize)]
pub enum BudgetCommand {
    /// An agent accounts for what it holds, and wants more.
    Settle {
        /// The key.
        key: KeyId,
        /// Who asks.
        agent: AgentId,
        /// The agent's number for the request.
        number: u64,
        /// SHA-256 of the request's payload.
        request: Digest,
        /// By version and what is counted; none twice.
        parts: Vec<Part>,
    },
}

/// One limit of one version.
#[derive(Debug, Clone, Serialize)]
pub struct Part {
    /// The number of the version.
    pub version: u32,
    /// What is counted.
    pub limit: LimitKind,
    /// What the agent held and has spent.
    pub spent: Ranges,
    /// What it held, has not spent, and gives back.
    pub returned: Ranges,
    /// How much more it wants.
    pub wanted: u64,
    /// Looked up: the hard limit, or as much as there is; 0 when nothing is given of this version any more.
    #[serde(skip)]
    pub ceiling: u64,
    /// Looked up: among how many agents what is left is to be shared; at least 1.
    #[serde(skip)]
    pub among: u64,
}
