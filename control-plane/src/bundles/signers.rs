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

/// One 1-of-1 pair for each kind that is signed here, as the seeds they come from: a pair that is ready to sign takes a hundred
/// kilobytes, and most tenants sign a heartbeat a minute. Secret; does not print.
pub struct TenantSigners(Zeroizing<[u8; 4 * SEEDS_BYTES]>);

/// What was sealed is not four pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed signing keys of the tenant are not {} bytes", 4 * SEEDS_BYTES)]
pub struct InvalidSigners;

impl TenantSigners {
    /// Makes four new pairs.
    pub fn generate(ids: &dyn Ids) -> Self {
        let mut seeds = Zeroizing::new([0; 4 * SEEDS_BYTES]);
        seeds.chunks_mut(SEEDS_BYTES).for_each(|pair| ids.fill(pair));
        Self(seeds)
    }

    /// The seeds of root, policy, state and heartbeat pair, one after the other; to be sealed.
    pub fn to_secret(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.to_vec())
    }

    /// Reads what [`Self::to_secret`] wrote.
    pub fn from_secret(secret: &[u8]) -> Result<Self, InvalidSigners> {
        let mut seeds = Zeroizing::new([0; 4 * SEEDS_BYTES]);
        if secret.len() != seeds.len() {
            return Err(InvalidSigners);
        }
        seeds.copy_from_slice(secret);
        Ok(Self(seeds))
    }

    /// The pair that signs a kind.
    pub fn pair(&self, kind: Kind) -> Pair {
        let place = match kind {
            Kind::Root => 0,
            Kind::Policy => 1,
            // Root names nobody for leases: they are signed like state.
            Kind::State | Kind::Lease => 2,
            Kind::Heartbeat => 3,
        };
        let (seeds, _) = self.0.as_chunks::<SEEDS_BYTES>();
        Pair::from_seeds(&seeds[place])
    }

    /// The content of the tenant's first root: each pair alone for its kind.
    pub fn first_root(&self, tenant: TenantId) -> Root {
        let pairs = [Kind::Root, Kind::Policy, Kind::State, Kind::Heartbeat].map(|kind| (kind, self.pair(kind)));
        Root {
            head: blank_head(Kind::Root, tenant),
            signers: pairs.iter().map(|(_, pair)| (pair.keyid(), pair.public().to_signer(false))).collect(),
            roles: pairs.iter().map(|(kind, pair)| (*kind, Role { threshold: 1, signers: vec![pair.keyid()] })).collect::<BTreeMap<_, _>>(),
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
