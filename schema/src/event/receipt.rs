//! What happens to the receipts of one agent's journal. The receipts themselves are rows; their hashes are here.

use crate::{
    encoding::{Digest, u64_string},
    events,
    id::{AgentId, SiteId},
};

events! {
    /// What happens to the receipts of one incarnation of an agent's journal.
    ReceiptEvent {
        /// A run of receipts was stored and acknowledged.
        ReceiptsAccepted 1 {
            /// The site.
            site: SiteId,
            /// The agent.
            agent: AgentId,
            /// The first receipt of the run.
            #[serde(with = "u64_string")]
            first_seq: u64,
            /// The last one.
            #[serde(with = "u64_string")]
            last_seq: u64,
            /// The chain hash after the last one: it covers every receipt since the incarnation began.
            chain: Digest,
            /// SHA-256 of the signed head of the batch.
            head_sha256: Digest,
        },
        /// The agent sent another receipt under a number that is taken: two histories of one journal.
        ReceiptsForked 1 {
            /// The site.
            site: SiteId,
            /// The agent.
            agent: AgentId,
            /// The first number of the refused batch.
            #[serde(with = "u64_string")]
            first_seq: u64,
            /// The chain hash that is stored for the entry before the fork, or at the number in question.
            expected: Digest,
            /// What the agent claimed instead.
            found: Digest,
            /// SHA-256 of the signed head of the refused batch.
            head_sha256: Digest,
        },
    }
}
