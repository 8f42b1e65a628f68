//! What happens to the budgets of one key: which agent holds which part of the limits of which version.

use crate::{
    encoding::{Digest, u64_string},
    events,
    id::{AgentId, KeyId},
    ranges::{LimitKind, Ranges},
};

events! {
    /// What happens to the budgets of a key.
    BudgetEvent {
        /// An agent asked for another lease. Everything of the same request carries its number.
        LeaseRequested 1 {
            /// The key.
            key: KeyId,
            /// Who asked.
            agent: AgentId,
            /// The agent's number for the request; with each one more.
            #[serde(with = "u64_string")]
            number: u64,
            /// SHA-256 of the request's payload.
            request: Digest,
        },
        /// An agent said that it has spent what it held.
        BudgetSpent 1 {
            /// Who.
            agent: AgentId,
            /// The number of the version.
            version: u32,
            /// What is counted.
            limit: LimitKind,
            /// Which part.
            ranges: Ranges,
        },
        /// An agent gave back what it held and has not spent.
        BudgetReturned 1 {
            /// Who.
            agent: AgentId,
            /// The number of the version.
            version: u32,
            /// What is counted.
            limit: LimitKind,
            /// Which part.
            ranges: Ranges,
        },
        /// An agent was given a part that nobody else holds.
        BudgetGranted 1 {
            /// Who.
            agent: AgentId,
            /// The number of the version.
            version: u32,
            /// What is counted.
            limit: LimitKind,
            /// Which part.
            ranges: Ranges,
        },
    }
}
