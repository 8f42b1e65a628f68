//! What an agent holds, as far as it proves itself: a control plane that was restored from an older backup learns from it what it
//! signed itself and has forgotten. Nothing is believed of it that is not signed by those who may.

use std::collections::BTreeMap;

use schema::{
    encoding::{Base64, Digest},
    wire::agent::StatementSet,
};

use crate::{
    accept::{
        Order, Rejection,
        read::{Read, formats, sizes},
        roots::Chain,
    },
    statement::{Head, Kind, Scope, Statement, heartbeat::Heartbeat, policy::Policy, root::Root, state::State},
};

/// A statement that is signed by those who may, as the exact bytes.
#[derive(Debug, Clone)]
pub struct Proved<T> {
    /// Its content.
    pub payload: T,
    /// SHA-256 of its payload.
    pub sha256: Digest,
    /// Its envelope.
    pub bytes: Base64,
}

impl<T: Statement> Proved<T> {
    fn of(read: Read<T>) -> Self {
        Self { payload: read.payload, sha256: read.sha256, bytes: read.bytes }
    }

    /// Its place in the order of its kind.
    pub fn order(&self) -> Order {
        Order { epoch: self.payload.head().epoch, serial: self.payload.head().serial }
    }
}

/// The set that an agent holds.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// Every root, from the first that is known to the newest.
    pub roots: Vec<Proved<Root>>,
    /// Policies by what they are for.
    pub policies: BTreeMap<Scope, Proved<Policy>>,
    /// The state of the agent's site.
    pub state: Proved<State>,
    /// The heartbeat of the agent's site.
    pub heartbeat: Proved<Heartbeat>,
}

/// Reads a set: its roots follow from those that are known already (the first of them is the pinned one), and everything in it is
/// signed by those who may under the newest of them.
pub fn prove(known: &[Base64], set: &StatementSet, pinned: Digest) -> Result<Evidence, Rejection> {
    sizes(set)?;
    let offered = formats(set)?;
    let mut roots = known.iter().map(Read::new).collect::<Result<Vec<Read<Root>>, _>>()?;
    roots.extend(offered.roots);
    let chain = Chain::build(Vec::new(), roots, pinned)?;
    chain.gaps()?;
    let missing = |what: &str| Rejection::Incomplete(what.to_owned());
    let state = offered.state.ok_or_else(|| missing("state"))?;
    let heartbeat = offered.heartbeat.ok_or_else(|| missing("heartbeat"))?;
    chain.roles.verify(&state)?;
    chain.roles.verify(&heartbeat)?;
    let root = chain.roots.last().ok_or(Rejection::RootNotPinned { pinned })?;
    let place = |head: &Head| (head.tenant, head.site);
    if place(state.payload.head()) != place(heartbeat.payload.head()) {
        return Err(Rejection::OtherSite(Kind::State));
    }
    if heartbeat.payload.head.tenant != root.payload.head.tenant {
        return Err(Rejection::OtherTenant(Kind::Heartbeat));
    }
    let mut policies = BTreeMap::new();
    for policy in offered.policies {
        chain.roles.verify(&policy)?;
        if policy.payload.head.tenant != root.payload.head.tenant {
            return Err(Rejection::OtherTenant(Kind::Policy));
        }
        policies.insert(policy.payload.scope(), Proved::of(policy));
    }
    let roots = chain.roots.into_iter().map(Proved::of).collect();
    Ok(Evidence { roots, policies, state: Proved::of(state), heartbeat: Proved::of(heartbeat) })
}
