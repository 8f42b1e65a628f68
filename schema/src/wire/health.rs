//! How an agent is: what its self-tests found, and what its journal has to say.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    clock::Timestamp,
    encoding::{opt_u64_string, u64_string},
};

/// What came of a round of self-tests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SelfTestAnswer {
    /// When the round began.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// Whether every algorithm passed, in this round and those before it.
    pub passed: bool,
    /// Every algorithm of the catalogue.
    pub algorithms: Vec<SelfTestResult>,
}

/// What came of testing one algorithm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SelfTestResult {
    /// The algorithm.
    pub algorithm: String,
    /// Whether it passed and is served.
    pub passed: bool,
    /// How long its tests took, in microseconds.
    #[serde(with = "u64_string")]
    #[schema(value_type = String)]
    pub micros: u64,
    /// What was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// When that was found: it stays off until the agent is started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub failed_at: Option<Timestamp>,
}

/// How the journal is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JournalHealth {
    /// The highest entry that is on disk.
    #[serde(with = "u64_string")]
    #[schema(value_type = String)]
    pub durable: u64,
    /// The highest entry that the control plane has taken.
    #[serde(with = "u64_string")]
    #[schema(value_type = String)]
    pub acknowledged: u64,
    /// Bytes that wait for the control plane.
    #[serde(with = "u64_string")]
    #[schema(value_type = String)]
    pub used_bytes: u64,
    /// The most bytes that may wait.
    #[serde(with = "u64_string")]
    #[schema(value_type = String)]
    pub limit_bytes: u64,
    /// Seconds until it is full at the present rate; absent while it does not grow.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub seconds_to_full: Option<u64>,
    /// When the oldest entry was written that waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub oldest_unacknowledged: Option<Timestamp>,
    /// Why somebody should look at it before it is full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarm: Option<String>,
    /// Why operations are refused: the code that callers are answered, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<JournalFault>,
}

/// Why the vault cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultFault {
    /// The stable code.
    pub code: String,
    /// What is wrong, and what to do.
    pub detail: String,
}

/// Why the journal takes no intents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JournalFault {
    /// The stable code.
    pub code: String,
    /// What is wrong, and what to do.
    pub detail: String,
}
