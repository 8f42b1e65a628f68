//! Rules that sites and policies share.

use async_graphql::{InputObject, SimpleObject};
use schema::rule;

use super::scalar::{Operation, UInt64};

/// What goes on without the control plane, by the age of the last heartbeat.
#[derive(Debug, Clone, SimpleObject)]
pub struct OfflineRule {
    /// From this age: warnings.
    pub stale_seconds: UInt64,
    /// From this age: only `graceOperations`.
    pub grace_seconds: UInt64,
    /// From this age: nothing.
    pub expired_seconds: UInt64,
    /// What is allowed in grace.
    pub grace_operations: Vec<Operation>,
}

impl From<&rule::OfflineRule> for OfflineRule {
    fn from(rule: &rule::OfflineRule) -> Self {
        Self {
            stale_seconds: UInt64(rule.stale_seconds),
            grace_seconds: UInt64(rule.grace_seconds),
            expired_seconds: UInt64(rule.expired_seconds),
            grace_operations: rule.grace_operations.iter().copied().map(Into::into).collect(),
        }
    }
}

/// What goes on without the control plane, by the age of the last heartbeat.
#[derive(Debug, Clone, InputObject)]
pub struct OfflineRuleInput {
    /// From this age: warnings.
    stale_seconds: UInt64,
    /// From this age: only `graceOperations`.
    grace_seconds: UInt64,
    /// From this age: nothing.
    expired_seconds: UInt64,
    /// What is allowed in grace.
    grace_operations: Vec<Operation>,
}

impl From<OfflineRuleInput> for rule::OfflineRule {
    fn from(input: OfflineRuleInput) -> Self {
        Self {
            stale_seconds: input.stale_seconds.0,
            grace_seconds: input.grace_seconds.0,
            expired_seconds: input.expired_seconds.0,
            grace_operations: input.grace_operations.into_iter().map(Into::into).collect(),
        }
    }
}
