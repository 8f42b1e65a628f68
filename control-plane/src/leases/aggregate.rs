//! Who holds which part of a key's limits, and how more is given.

use std::collections::BTreeMap;

use schema::{
    encoding::{Digest, u64_string},
    event::budget::{BudgetEvent, BudgetGranted, BudgetReturned, BudgetSpent, LeaseRequested},
    id::{AgentId, BudgetId, KeyId},
    ranges::{LimitKind, Ranges},
};
use serde::{Deserialize, Serialize};

use super::{BudgetCommand, BudgetRefusal, Part};
use crate::{
    eventing::aggregate::{Aggregate, Deciding, EventMeta, Index},
    sealing::TenantKeys,
};

/// The budgets of one key; no key while nobody asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// The key.
    pub key: Option<KeyId>,
    /// By number of the version.
    pub versions: BTreeMap<u32, VersionBudget>,
    /// The last request of each agent that counted.
    pub requests: BTreeMap<AgentId, LastRequest>,
}

/// A request that counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRequest {
    /// The agent's number for it.
    #[serde(with = "u64_string")]
    pub number: u64,
    /// SHA-256 of its payload.
    pub request: Digest,
}

/// The budgets of one version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionBudget {
    /// Of uses.
    pub uses: Pool,
    /// Of bytes.
    pub bytes: Pool,
}

/// One limit, shared out. Every number is at any time with nobody yet, given back, held by one agent, or spent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// From here on, numbers were never given to anybody.
    #[serde(with = "u64_string")]
    pub next: u64,
    /// Given back.
    pub returned: Ranges,
    /// Held, by agent.
    pub held: BTreeMap<AgentId, Ranges>,
    /// How many were spent, as far as agents have said.
    #[serde(with = "u64_string")]
    pub spent: u64,
}

impl Budget {
    /// The id of the budgets of a key.
    pub fn id(keys: &TenantKeys, key: KeyId) -> BudgetId {
        keys.derived_id("budget", &[&key.to_string()])
    }

    /// Whether what an agent holds now is the answer to this request of it: not so when another, later one counted, which it
    /// then has forgotten.
    pub fn answers(&self, agent: AgentId, number: u64, request: Digest) -> bool {
        self.requests.get(&agent).is_none_or(|last| last.number < number || last.request == request)
    }

    /// What is shared out of one limit of one version.
    pub fn pool(&self, version: u32, limit: LimitKind) -> Option<&Pool> {
        self.versions.get(&version).map(|budget| budget.of(limit))
    }

    fn pool_mut(&mut self, version: u32, limit: LimitKind) -> &mut Pool {
        let budget = self.versions.entry(version).or_default();
        match limit {
            LimitKind::Uses => &mut budget.uses,
            LimitKind::Bytes => &mut budget.bytes,
        }
    }
}

impl VersionBudget {
    /// What is counted as this.
    pub const fn of(&self, limit: LimitKind) -> &Pool {
        match limit {
            LimitKind::Uses => &self.uses,
            LimitKind::Bytes => &self.bytes,
        }
    }
}

impl Pool {
    /// What an agent holds.
    pub fn held_by(&self, agent: AgentId) -> Ranges {
        self.held.get(&agent).cloned().unwrap_or_default()
    }

    /// How much nobody holds, below a ceiling.
    pub fn left(&self, ceiling: u64) -> u64 {
        self.returned.below(ceiling).count().saturating_add(ceiling.saturating_sub(self.next))
    }

    /// The lowest numbers nobody holds: so many, or as many as there are below a ceiling.
    fn lowest(&self, count: u64, ceiling: u64) -> Ranges {
        let returned = self.returned.below(ceiling).lowest(count);
        let fresh = (count - returned.count()).min(ceiling.saturating_sub(self.next));
        returned.union(&Ranges::of(self.next, self.next.saturating_add(fresh)))
    }
}

impl Aggregate for Budget {
    type Id = BudgetId;
    type Command = BudgetCommand;
    type Event = BudgetEvent;
    type Refusal = BudgetRefusal;
    const KIND: &'static str = "budget";

    fn decide(&self, command: &BudgetCommand, _: &Deciding<'_>) -> Result<Vec<BudgetEvent>, BudgetRefusal> {
        let BudgetCommand::Settle { key, agent, number, request, parts } = command;
        // What counted once does not count again, and nothing that is older.
        if self.requests.get(agent).is_some_and(|last| *number <= last.number) {
            return Ok(Vec::new());
        }
        let mut events = Vec::new();
        for part in parts {
            if !part.spent.is_disjoint(&part.returned) {
                return Err(BudgetRefusal::Contradicts { version: part.version });
            }
            events.extend(self.settle(*agent, part));
        }
        if !events.is_empty() {
            events.insert(0, LeaseRequested { key: *key, agent: *agent, number: *number, request: *request }.into());
        }
        Ok(events)
    }

    fn evolve(&mut self, event: &BudgetEvent, _: &EventMeta) {
        match event {
            BudgetEvent::LeaseRequested(event) => {
                self.key = Some(event.key);
                self.requests.insert(event.agent, LastRequest { number: event.number, request: event.request });
            }
            BudgetEvent::BudgetSpent(event) => {
                let pool = self.pool_mut(event.version, event.limit);
                pool.spent = pool.spent.saturating_add(event.ranges.count());
                let held = pool.held.entry(event.agent).or_default();
                *held = held.without(&event.ranges);
            }
            BudgetEvent::BudgetReturned(event) => {
                let pool = self.pool_mut(event.version, event.limit);
                let held = pool.held.entry(event.agent).or_default();
                *held = held.without(&event.ranges);
                pool.returned = pool.returned.union(&event.ranges);
            }
            BudgetEvent::BudgetGranted(event) => {
                let pool = self.pool_mut(event.version, event.limit);
                let held = pool.held.entry(event.agent).or_default();
                *held = held.union(&event.ranges);
                pool.returned = pool.returned.without(&event.ranges);
                pool.next = pool.next.max(event.ranges.end());
            }
        }
    }

    fn index(&self) -> Index {
        Index::default()
    }
}

impl Budget {
    /// What an agent spent and gives back of what it holds, and what it is given. Only what it holds can be either.
    fn settle(&self, agent: AgentId, part: &Part) -> impl Iterator<Item = BudgetEvent> + use<> {
        let (version, limit) = (part.version, part.limit);
        let pool = self.pool(version, limit).cloned().unwrap_or_default();
        let held = pool.held_by(agent);
        let (spent, returned) = (part.spent.common(&held), part.returned.common(&held));
        let share = pool.left(part.ceiling).div_ceil(part.among.max(1));
        let granted = pool.lowest(part.wanted.min(share), part.ceiling);
        let spent = (!spent.is_empty()).then(|| BudgetSpent { agent, version, limit, ranges: spent }.into());
        let returned = (!returned.is_empty()).then(|| BudgetReturned { agent, version, limit, ranges: returned }.into());
        let granted = (!granted.is_empty()).then(|| BudgetGranted { agent, version, limit, ranges: granted }.into());
        spent.into_iter().chain(returned).chain(granted)
    }
}
