//! Material on its way between agents, as the control plane relays it: sealed and signed documents that it cannot open. Who is
//! sent anything, agents decide; the relay only keeps what one of them has for another, for as long as the other waits.

use serde::{Deserialize, Serialize};

use super::agent::{RefusedDocument, at_most};
use crate::{
    encoding::{Base64, Digest},
    id::{AgentId, KeyVersion, PrekeyId, SiteId},
};

/// The most prekeys that an agent shows at a time: the one that is good, and those whose ends are near.
pub const MAX_PREKEYS: usize = 4;
/// The most transfers of one request or answer: the rest follows in the next.
pub const MAX_TRANSFERS: usize = 100;
/// The most context keys of one request or answer.
pub const MAX_CONTEXT_KEYS: usize = 100;
/// The most other sites of which an agent asks for prekeys.
pub const MAX_NEIGHBOURS: usize = 64;
/// The most transfers that are reported done at a time.
pub const MAX_DONE: usize = 1_000;

/// What an agent has for others, and what it needs of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RelayAsk {
    /// Every live prekey of the agent (`trust::document::Prekey`), exact bytes. What waits for another one is dropped.
    #[serde(deserialize_with = "at_most::<MAX_PREKEYS, _, _>")]
    pub prekeys: Vec<Base64>,
    /// Material for others (`trust::document::Transfer`), exact bytes.
    #[serde(deserialize_with = "at_most::<MAX_TRANSFERS, _, _>")]
    pub transfers: Vec<Base64>,
    /// Context keys for others (`trust::document::ContextKeyTransfer`), exact bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "at_most::<MAX_CONTEXT_KEYS, _, _>")]
    pub context_keys: Vec<Base64>,
    /// Other sites whose agents this one has material for. Those that share no key with its own are passed over.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "at_most::<MAX_NEIGHBOURS, _, _>")]
    pub neighbours: Vec<SiteId>,
    /// What was for it and need not be kept: taken, or of no use. SHA-256 of the bytes.
    #[serde(deserialize_with = "at_most::<MAX_DONE, _, _>")]
    pub done: Vec<Digest>,
}

/// What others have for the agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RelayAnswer {
    /// Prekeys of the other agents of its site, and of those of the neighbours it asked for.
    pub prekeys: Vec<Base64>,
    /// Transfers that are for it, the oldest first.
    pub transfers: Vec<Base64>,
    /// Context keys that are for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context_keys: Vec<Base64>,
    /// What waits for others already, whoever sent it: nobody needs to send it again.
    pub waiting: Vec<Waiting>,
    /// Documents that were not taken: `prekeys`, `transfers` or `context_keys`.
    pub refused: Vec<RefusedDocument>,
}

/// A transfer that waits for its recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Waiting {
    /// Whom it is for.
    pub recipient: AgentId,
    /// The prekey it is sealed to.
    pub prekey: PrekeyId,
    /// What it is.
    pub version: KeyVersion,
}
