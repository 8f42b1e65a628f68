//! Budgets in GraphQL.

use async_graphql::SimpleObject;
use schema::{key::Limits, ranges::LimitKind};

use super::Budget;
use crate::graphql::scalar::UInt64;

/// How far a limit of one version is used up, as far as agents have said.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(name = "KeyBudget")]
pub struct BudgetNode {
    /// What is counted: `uses` or `bytes`.
    pub counts: &'static str,
    /// Agents refuse after this.
    pub hard: Option<UInt64>,
    /// Agents warn after this.
    pub soft: Option<UInt64>,
    /// What agents have said they used. They say so when they ask for more, or renew their lease.
    pub used: UInt64,
    /// What agents hold and may use at any time, also offline.
    pub held: UInt64,
    /// What nobody holds; absent when there is no hard limit.
    pub left: Option<UInt64>,
}

/// The budgets of one version: one for each limit that is counted.
pub fn budgets(limits: &Limits, budget: &Budget, version: u32) -> Vec<BudgetNode> {
    let counted = LimitKind::ALL.iter().filter(|limit| limits.of(**limit) != (None, None));
    let node = |limit: &LimitKind| {
        let pool = budget.pool(version, *limit).cloned().unwrap_or_default();
        let (soft, hard) = limits.of(*limit);
        let held = pool.held.values().fold(0_u64, |sum, ranges| sum.saturating_add(ranges.count()));
        BudgetNode {
            counts: limit.as_str(),
            hard: hard.map(UInt64),
            soft: soft.map(UInt64),
            used: UInt64(pool.spent),
            held: UInt64(held),
            left: hard.map(|hard| UInt64(pool.left(hard))),
        }
    };
    counted.map(node).collect()
}
