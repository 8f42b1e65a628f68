//! The pairs that sign a tenant's statements, and its first root.

use std::{collections::BTreeMap, time::Duration};

use schema::{
    clock::{Ids, Timestamp},
    id::TenantId,
};
use trust::{
    pair::{Pair, SEEDS_BYTES},
    statement::{
        Head, Kind,
        root::{LedgerRule, Role, Root},
    },
};
use zeroize::Zeroizing;

use super::compile::blank_head;

/// How long each kind of statement may be accepted after it was signed.
pub const fn life(kind: Kind) -> Duration {
    const DAY: u64 = 86_400;
    Duration::from_secs(match kind {
        Kind::Root => 5 * 365 * DAY,
        Kind::Policy => 180 * DAY,
        Kind::State => 7 * DAY,
        Kind::Heartbeat => 3600,
        Kind::Lease => 7 * DAY,
    })
}

/// A statement is signed anew when less than this is left of its life.
pub const fn renew_before(kind: Kind) -> Duration {
    const DAY: u64 = 86_400;
    Duration::from_secs(match kind {
        // A root is not signed in its place: the next one follows it (`bundles/waiting.rs`), or people propose it.
        Kind::Root => 0,
        Kind::Policy => 45 * DAY,
        Kind::State | Kind::Lease => 4 * DAY,
        Kind::Heartbeat => 3000,
    })
}

/// Statements begin this much before they are signed, for agents whose clock runs behind.
const BACKDATE: Duration = Duration::from_secs(300);

/// One 1-of-1 pair for each kind that is signed here. Secret; does not print.
pub struct TenantSigners {
    root: Pair,
    policy: Pair,
    state: Pair,
    heartbeat: Pair,
}

/// What was sealed is not four pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed signing keys of the tenant are not {} bytes", 4 * SEEDS_BYTES)]
pub struct InvalidSigners;

impl TenantSigners {
    /// Makes four new pairs.
    pub fn generate(ids: &dyn Ids) -> Self {
        Self { root: Pair::generate(ids), policy: Pair::generate(ids), state: Pair::generate(ids), heartbeat: Pair::generate(ids) }
    }

    /// The seeds of root, policy, state and heartbeat pair, one after the other; to be sealed.
    pub fn to_secret(&self) -> Zeroizing<Vec<u8>> {
        let mut secret = Zeroizing::new(Vec::with_capacity(4 * SEEDS_BYTES));
        for pair in [&self.root, &self.policy, &self.state, &self.heartbeat] {
            secret.extend_from_slice(pair.to_seeds().as_slice());
        }
        secret
    }

    /// Reads what [`Self::to_secret`] wrote.
    pub fn from_secret(secret: &[u8]) -> Result<Self, InvalidSigners> {
        let (seeds, rest) = secret.as_chunks::<SEEDS_BYTES>();
        let [root, policy, state, heartbeat] = seeds else { return Err(InvalidSigners) };
        if !rest.is_empty() {
            return Err(InvalidSigners);
        }
        let [root, policy, state, heartbeat] = [root, policy, state, heartbeat].map(Pair::from_seeds);
        Ok(Self { root, policy, state, heartbeat })
    }

    /// The pair that signs a kind.
    pub fn pair(&self, kind: Kind) -> &Pair {
        match kind {
            Kind::Root => &self.root,
            Kind::Policy => &self.policy,
            // Root names nobody for leases: they are signed like state.
            Kind::State | Kind::Lease => &self.state,
            Kind::Heartbeat => &self.heartbeat,
        }
    }

    /// The content of the tenant's first root: each pair alone for its kind.
    pub fn first_root(&self, tenant: TenantId) -> Root {
        let kinds = [Kind::Root, Kind::Policy, Kind::State, Kind::Heartbeat];
        Root {
            head: blank_head(Kind::Root, tenant),
            signers: kinds.iter().map(|kind| (self.pair(*kind).keyid(), self.pair(*kind).public().to_signer(false))).collect(),
            roles: kinds
                .iter()
                .map(|kind| (*kind, Role { threshold: 1, signers: vec![self.pair(*kind).keyid()] }))
                .collect::<BTreeMap<_, _>>(),
            ledger: LedgerRule::default(),
        }
    }
}

/// Fills in what publishing knows: when, which, and under which root.
pub fn fill(head: &mut Head, kind: Kind, epoch: u64, serial: u64, root_serial: u64, now: Timestamp) {
    (head.epoch, head.serial, head.root_serial) = (epoch, serial, root_serial);
    head.issued = now;
    head.not_before = now.minus(BACKDATE);
    head.expires = now.plus(life(kind));
}
