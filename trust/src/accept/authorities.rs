//! Whose certificates the control plane shows, told by a heartbeat alone: for an agent that was away so long that it knows
//! none of its authorities any more, and so cannot yet fetch a whole set.

use std::collections::BTreeSet;

use schema::{
    encoding::{Base64, Digest},
    wire::agent::MAX_STATEMENTS,
};

use super::{
    AcceptedSet, FAR_AHEAD, Identity, Rejection, exactly, in_time, is_for, matches_pin, newer,
    read::{self, Read},
    roots::Chain,
};
use crate::{
    statement::{Kind, heartbeat::Heartbeat, root::Root},
    time::Moment,
};

/// The authorities that a heartbeat names, by SHA-256 of their certificates, when the heartbeat is believed: by the same checks
/// as in a whole set, from the pinned root on, and after what was accepted last. Nothing else follows from it, and nothing is
/// remembered of it.
pub fn authorities(
    current: Option<&AcceptedSet>,
    roots: &[Base64],
    heartbeat: &Base64,
    identity: &Identity,
    now: Moment,
) -> Result<BTreeSet<Digest>, Rejection> {
    // 1, 2
    if roots.len() > MAX_STATEMENTS {
        return Err(Rejection::TooMany(roots.len()));
    }
    roots.iter().try_for_each(read::size::<Root>)?;
    read::size::<Heartbeat>(heartbeat)?;
    let offered = roots.iter().map(Read::new).collect::<Result<_, _>>()?;
    let heartbeat = Read::<Heartbeat>::new(heartbeat)?;

    // 3
    let held = current.map(|current| current.roots.clone()).unwrap_or_default();
    let chain = Chain::build(held, offered, identity.root)?;
    let root = chain.roots.last().ok_or(Rejection::RootNotPinned { pinned: identity.root })?;
    chain.roles.verify(&heartbeat)?;

    // 4
    chain.roots.iter().try_for_each(|root| is_for(Kind::Root, root.head(), identity))?;
    is_for(Kind::Heartbeat, heartbeat.head(), identity)?;

    // 5
    let mut memory = current.map(|current| current.memory.clone()).unwrap_or_default();
    let epoch = root.order().epoch;
    newer(super::Slot::Root, root, &mut memory)?;
    newer(super::Slot::Heartbeat, &heartbeat, &mut memory)?;
    exactly(Kind::Heartbeat, heartbeat.head(), epoch)?;

    chain.gaps()?; // 6

    // 7
    let told = heartbeat.payload.time();
    if told > now.latest().plus(FAR_AHEAD) {
        return Err(Rejection::FarAhead { told, now: now.latest() });
    }
    let moment = now.latest().max(told);
    in_time(Kind::Root, root.head(), moment)?;
    in_time(Kind::Heartbeat, heartbeat.head(), moment)?;

    // 8: no other root than the one that is pinned.
    matches_pin(&heartbeat.payload.root, root, Kind::Root.to_string(), true)?;
    Ok(heartbeat.payload.authorities)
}
