//! What this agent holds of budgets and what it has spent, as it stands on disk. Pure.
//!
//! A number counts as spent from the moment it is reserved, and is reserved on disk before it is used: what a crash leaves
//! unused is lost, and nothing is used twice. What is given back is given up on disk before anybody hears of it.

use std::collections::BTreeMap;

use schema::{
    clock::Timestamp,
    encoding::{Base64, Digest, u64_string},
    id::KeyVersion,
    ranges::{LimitKind, Ranges},
};
use serde::{Deserialize, Serialize};
use trust::{
    accept::{AcceptedLease, Identity, LeaseMemory},
    document::{self, BudgetRequest, LeaseRequest},
    pair::Pair,
    statement::lease::Share,
};

/// The ledger; `v` = 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    v: u32,
    /// The number of the last request that was made, or is known to have counted.
    #[serde(with = "u64_string")]
    number: u64,
    /// The request that was not answered yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pending: Option<Pending>,
    /// The newest accepted lease, exact bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<Base64>,
    /// What it gave, and everything ever spent.
    #[serde(flatten)]
    memory: LeaseMemory,
}

/// A request on its way. It is sent again, the very same, until it is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Pending {
    request: Base64,
    sha256: Digest,
    /// What it gives back.
    returned: BTreeMap<KeyVersion, Share>,
}

/// What to ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// How many uses more.
    pub uses: u64,
    /// How many bytes more.
    pub bytes: u64,
    /// Whether everything unspent is given back.
    pub give_back: bool,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { v: 1, number: 0, pending: None, lease: None, memory: LeaseMemory::default() }
    }
}

impl Ledger {
    /// What must not be forgotten of leases, to judge the next by.
    pub fn memory(&self) -> &LeaseMemory {
        &self.memory
    }

    /// The newest accepted lease, exact bytes.
    pub fn lease(&self) -> Option<&Base64> {
        self.lease.as_ref()
    }

    /// The request that waits for its answer, exact bytes.
    pub fn pending(&self) -> Option<&Base64> {
        self.pending.as_ref().map(|pending| &pending.request)
    }

    /// Versions it holds anything of.
    pub fn versions(&self) -> impl Iterator<Item = KeyVersion> {
        self.memory.held.keys().copied()
    }

    /// What may still be reserved.
    pub fn available(&self, version: KeyVersion, kind: LimitKind) -> Ranges {
        let held = part(&self.memory.held, version, kind);
        let returned = self.pending.as_ref().map_or_else(Ranges::new, |pending| part(&pending.returned, version, kind));
        held.without(&part(&self.memory.spent, version, kind)).without(&returned)
    }

    /// Reserves the lowest so many numbers below a bound, or as many as there are.
    #[must_use = "what is reserved and not used is lost"]
    pub fn reserve(&mut self, version: KeyVersion, kind: LimitKind, count: u64, bound: u64) -> Ranges {
        let block = self.available(version, kind).below(bound).lowest(count);
        self.spend(version, kind, &block);
        block
    }

    /// Makes the next request, unless one waits for its answer. It accounts for everything held.
    pub fn request(&mut self, wishes: &BTreeMap<KeyVersion, Wish>, by: &Identity, pair: &Pair, nonce: [u8; 16], now: Timestamp) {
        if self.pending.is_some() {
            return;
        }
        let mut budgets = BTreeMap::new();
        let mut returned = BTreeMap::<KeyVersion, Share>::new();
        let versions: std::collections::BTreeSet<KeyVersion> = self.versions().chain(wishes.keys().copied()).collect();
        for version in versions {
            let wish = wishes.get(&version).cloned().unwrap_or_default();
            let mut budget = BudgetRequest { uses_wanted: wish.uses, bytes_wanted: wish.bytes, ..BudgetRequest::default() };
            for kind in LimitKind::ALL {
                let (held, spent) = (part(&self.memory.held, version, *kind), part(&self.memory.spent, version, *kind));
                *budget.spent.of_mut(*kind) = held.common(&spent);
                if wish.give_back {
                    *budget.returned.of_mut(*kind) = held.without(&spent);
                }
            }
            if budget.returned != Share::default() {
                returned.insert(version, budget.returned.clone());
            }
            budgets.insert(version, budget);
        }
        self.number += 1;
        let Identity { tenant, site, agent, .. } = *by;
        let request = LeaseRequest { tenant, site, agent, number: self.number, nonce: nonce.into(), budgets, issued: now };
        let bytes = document::sign(&request, pair);
        let sha256 = document::open::<LeaseRequest>(bytes.as_slice(), pair.public()).map(|signed| signed.sha256);
        if let Ok(sha256) = sha256 {
            self.pending = Some(Pending { request: bytes, sha256, returned });
        }
    }

    /// Takes a lease that is believed. What it gives anew may be spent only when it answers the request that waits: else this
    /// agent may have had it before, in a life it has forgotten.
    pub fn accept(&mut self, accepted: &AcceptedLease) {
        let lease = accepted.lease();
        let pending = self.pending.take();
        let is_answer = pending.as_ref().is_some_and(|pending| lease.answers == Some(pending.sha256));
        let held: BTreeMap<KeyVersion, Share> = lease.budgets.iter().map(|(version, leased)| (*version, leased.share.clone())).collect();
        if !is_answer {
            for version in held.keys().copied() {
                for kind in LimitKind::ALL {
                    let fresh = part(&held, version, *kind).without(&part(&self.memory.held, version, *kind));
                    let returned = pending.as_ref().map_or_else(Ranges::new, |pending| part(&pending.returned, version, *kind));
                    self.spend(version, *kind, &fresh.union(&returned));
                }
            }
        }
        self.number = self.number.max(lease.number);
        self.memory.held = held;
        self.memory.seen = Some(accepted.seen());
        self.lease = Some(accepted.bytes().clone());
    }

    fn spend(&mut self, version: KeyVersion, kind: LimitKind, ranges: &Ranges) {
        if !ranges.is_empty() {
            let spent = self.memory.spent.entry(version).or_default().of_mut(kind);
            *spent = spent.union(ranges);
        }
    }
}

fn part(shares: &BTreeMap<KeyVersion, Share>, version: KeyVersion, kind: LimitKind) -> Ranges {
    shares.get(&version).map_or_else(Ranges::new, |share| share.of(kind).clone())
}
