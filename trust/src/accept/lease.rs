//! A lease is judged by itself, under the set that is in force: the same checks in the same order, as far as they are about
//! one statement, and then that it gives nothing away twice.

use std::collections::BTreeMap;

use schema::{
    encoding::Base64,
    id::KeyVersion,
    ranges::{LimitKind, Ranges},
};
use serde::{Deserialize, Serialize};

use super::{
    AcceptedSet, Order, Rejection, Seen, exactly, in_time, is_for,
    read::{Read, size},
    roots::Roles,
};
use crate::{
    statement::{
        Kind,
        lease::{Lease, Share},
    },
    time::Moment,
};

/// What an agent never forgets of leases, whatever it is shown later.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LeaseMemory {
    /// The newest lease it accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
    /// What that one gave it.
    pub held: BTreeMap<KeyVersion, Share>,
    /// Everything it ever spent.
    pub spent: BTreeMap<KeyVersion, Share>,
}

/// A lease that is believed, and its exact bytes.
#[derive(Debug, Clone)]
pub struct AcceptedLease {
    bytes: Base64,
    seen: Seen,
    lease: Lease,
}

impl AcceptedLease {
    /// What it says.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The exact bytes that came.
    pub fn bytes(&self) -> &Base64 {
        &self.bytes
    }

    /// Its place in the order.
    pub fn seen(&self) -> Seen {
        self.seen
    }
}

/// Whether a lease may be spent from. Pure. Without a time, as at a start, all is judged but whether it has expired: what is
/// spent looks at that each time.
pub fn accept_lease(set: &AcceptedSet, bytes: &Base64, memory: &LeaseMemory, now: Option<Moment>) -> Result<AcceptedLease, Rejection> {
    size::<Lease>(bytes)?; // 1
    let read = Read::<Lease>::new(bytes)?; // 2
    Roles::of(set.root())?.verify(&read)?; // 3
    is_for(Kind::Lease, read.head(), set.identity())?; // 4

    // 5
    exactly(Kind::Lease, read.head(), set.root().head.epoch)?;
    let seen = Seen { order: read.order(), sha256: read.sha256 };
    if let Some(held) = memory.seen {
        follows(held, seen)?;
    }

    // 7
    if let Some(now) = now {
        in_time(Kind::Lease, read.head(), now.latest())?;
    }

    // 9
    let lease = &read.payload;
    for (version, leased) in &lease.budgets {
        let (definition, key) = set.key(version.key).ok_or(Rejection::LeaseOfUnknown(*version))?;
        if !key.versions.contains_key(&version.number) {
            return Err(Rejection::LeaseOfUnknown(*version));
        }
        for kind in LimitKind::ALL {
            let given = leased.share.of(*kind);
            let (_, hard) = definition.limits.of(*kind);
            if let Some(ceiling) = hard.filter(|ceiling| given.end() > *ceiling) {
                return Err(Rejection::AboveCeiling { version: *version, limit: *kind, found: given.end(), ceiling });
            }
            let share = |shares: &BTreeMap<KeyVersion, Share>| shares.get(version).map_or(Ranges::new(), |share| share.of(*kind).clone());
            // What was held before may have been spent since it was reported; what is new may not.
            if !given.without(&share(&memory.held)).is_disjoint(&share(&memory.spent)) {
                return Err(Rejection::SpentBefore { version: *version, limit: *kind });
            }
        }
    }
    Ok(AcceptedLease { bytes: bytes.clone(), seen, lease: read.payload })
}

fn follows(held: Seen, found: Seen) -> Result<(), Rejection> {
    let text = |order: Order| order.to_string();
    if found.order < held.order {
        return Err(Rejection::Older { what: Kind::Lease.to_string(), found: text(found.order), held: text(held.order) });
    }
    if found.order == held.order && found.sha256 != held.sha256 {
        return Err(Rejection::Equivocation { what: Kind::Lease.to_string(), serial: text(found.order) });
    }
    Ok(())
}
