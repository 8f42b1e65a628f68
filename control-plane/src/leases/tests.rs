use schema::{
    encoding::Digest,
    event::budget::{BudgetEvent, BudgetGranted, BudgetReturned, BudgetSpent, LeaseRequested},
    id::{AgentId, BudgetId, KeyId},
    ranges::{LimitKind, Ranges},
};

use super::{Budget, BudgetCommand, Part};
use crate::eventing::scenario::Scenario;

const KEY: KeyId = KeyId::from_bits(1);
const A: AgentId = AgentId::from_bits(1);
const B: AgentId = AgentId::from_bits(2);

fn budgets() -> Scenario<Budget> {
    Scenario::of(BudgetId::from_bits(1))
}

fn request(number: u64) -> Digest {
    Digest::of(&number.to_be_bytes())
}

fn settle(agent: AgentId, number: u64, part: Part) -> BudgetCommand {
    BudgetCommand::Settle { key: KEY, agent, number, request: request(number), parts: vec![part] }
}

/// Of a limit of 100 uses.
fn wants(wanted: u64, among: u64) -> Part {
    let (spent, returned) = Default::default();
    Part { version: 1, limit: LimitKind::Uses, spent, returned, wanted, ceiling: 100, among }
}

fn asked(agent: AgentId, number: u64) -> BudgetEvent {
    LeaseRequested { key: KEY, agent, number, request: request(number) }.into()
}

fn granted(agent: AgentId, ranges: Ranges) -> BudgetEvent {
    BudgetGranted { agent, version: 1, limit: LimitKind::Uses, ranges }.into()
}

#[test]
fn what_is_left_is_shared_out_and_no_more() {
    budgets()
        .when(&settle(A, 1, wants(40, 1)))
        .then([asked(A, 1), granted(A, Ranges::of(0, 40))])
        .when(&settle(B, 1, wants(100, 2)))
        .then([asked(B, 1), granted(B, Ranges::of(40, 70))])
        .when(&settle(A, 2, wants(100, 1)))
        .then([asked(A, 2), granted(A, Ranges::of(70, 100))])
        .when(&settle(B, 2, wants(1, 1)))
        .then([]);
}

#[test]
fn what_is_given_back_is_given_again_and_what_is_spent_is_not() {
    let returned = Part { spent: Ranges::of(0, 10), returned: Ranges::of(30, 40), ..wants(0, 1) };
    budgets()
        .given([asked(A, 1), granted(A, Ranges::of(0, 40))])
        .when(&settle(A, 2, returned.clone()))
        .then([
            asked(A, 2),
            BudgetSpent { agent: A, version: 1, limit: LimitKind::Uses, ranges: Ranges::of(0, 10) }.into(),
            BudgetReturned { agent: A, version: 1, limit: LimitKind::Uses, ranges: Ranges::of(30, 40) }.into(),
        ])
        .when(&settle(B, 1, wants(20, 1)))
        .then([asked(B, 1), granted(B, Ranges::of(30, 50))])
        // Said again later, it is no longer A's to give back.
        .when(&settle(A, 3, returned))
        .then([]);
}

#[test]
fn a_request_counts_once_and_none_that_is_older() {
    budgets()
        .given([asked(A, 5), granted(A, Ranges::of(0, 40))])
        .when(&settle(A, 5, wants(40, 1)))
        .then([])
        .when(&settle(A, 4, Part { returned: Ranges::of(0, 40), ..wants(40, 1) }))
        .then([])
        .when(&settle(A, 6, wants(10, 1)))
        .then([asked(A, 6), granted(A, Ranges::of(40, 50))]);
}

#[test]
fn a_lower_limit_gives_nothing_above_it() {
    budgets()
        .given([asked(A, 1), granted(A, Ranges::of(0, 40)), granted(A, Ranges::of(60, 90))])
        .when(&settle(B, 1, Part { ceiling: 50, ..wants(100, 1) }))
        .then([]);
}

#[test]
fn nobody_gives_back_what_it_spent_or_what_is_not_its_own() {
    let both = Part { spent: Ranges::of(0, 10), returned: Ranges::of(9, 12), ..wants(0, 1) };
    budgets()
        .given([asked(A, 1), granted(A, Ranges::of(0, 40))])
        .when(&settle(A, 2, both))
        .then_refused("lease_request_contradicts")
        .when(&settle(B, 1, Part { spent: Ranges::of(0, 5), returned: Ranges::of(10, 40), ..wants(0, 1) }))
        .then([]);
}
