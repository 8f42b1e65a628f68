//! Check 3 and 6 for roots: the chain from the pinned root to the newest, and who may sign what under it.

use std::collections::BTreeMap;

use schema::encoding::Digest;

use super::{Rejection, read::Read};
use crate::{
    pair::{PublicPair, Signers},
    statement::{
        Kind, Statement,
        root::{Role, Root},
    },
};

/// Signers and thresholds of one root, checked.
#[derive(Debug, Clone)]
pub(crate) struct Roles(BTreeMap<Kind, RoleSigners>);

#[derive(Debug, Clone)]
pub(crate) struct RoleSigners {
    pub(crate) signers: Signers,
    pub(crate) threshold: u32,
    /// Whether the tenant, and nobody else, holds the pairs.
    pub(crate) tenant_held: bool,
}

impl Roles {
    /// Checks what a root says of signers.
    pub(crate) fn of(root: &Root) -> Result<Self, Rejection> {
        let serial = root.head.serial;
        let unsound = |detail: String| Rejection::RootUnsound { serial, detail };
        let mut pairs = BTreeMap::new();
        for (keyid, signer) in &root.signers {
            let pair = PublicPair::from_signer(signer).map_err(|source| Rejection::RootSigner { serial, source })?;
            if pair.keyid() != *keyid {
                return Err(unsound(format!("the pair {} stands under the key id {keyid}", pair.keyid())));
            }
            pairs.insert(*keyid, pair);
        }
        Signers::new(pairs.values().cloned()).map_err(|source| Rejection::SharedKey { serial, source })?;
        let mut roles = BTreeMap::new();
        for (kind, role) in &root.roles {
            roles.insert(*kind, role_signers(root, *kind, role, &pairs).map_err(unsound)?);
        }
        for kind in [Kind::Root, Kind::Policy, Kind::State, Kind::Heartbeat] {
            if !roles.contains_key(&kind) {
                return Err(unsound(format!("nobody may sign the {kind}")));
            }
        }
        Ok(Self(roles))
    }

    /// The role of a kind. Leases are signed like state where a root names nobody for them.
    pub(crate) fn role(&self, kind: Kind) -> Result<&RoleSigners, Rejection> {
        let kind = if kind == Kind::Lease && !self.0.contains_key(&kind) { Kind::State } else { kind };
        let nobody = || Rejection::RootUnsound { serial: 0, detail: format!("nobody may sign the {kind}") };
        self.0.get(&kind).ok_or_else(nobody)
    }

    /// Check 3: enough pairs of the kind's role signed.
    pub(crate) fn verify<T: Statement>(&self, read: &Read<T>) -> Result<(), Rejection> {
        let role = self.role(T::KIND)?;
        let verified = read.envelope.verify(T::KIND.context(), &role.signers, role.threshold);
        verified.map(|_| ()).map_err(|source| Rejection::Signature { kind: T::KIND, source })
    }
}

fn role_signers(root: &Root, kind: Kind, role: &Role, pairs: &BTreeMap<Digest, PublicPair>) -> Result<RoleSigners, String> {
    let mut chosen = BTreeMap::new();
    let mut held = 0;
    for keyid in &role.signers {
        let pair = pairs.get(keyid).ok_or_else(|| format!("the {kind} role names {keyid}, which is no signer"))?;
        if chosen.insert(*keyid, pair.clone()).is_none() && root.signers.get(keyid).is_some_and(|signer| signer.tenant_held) {
            held += 1;
        }
    }
    if role.threshold == 0 || role.threshold as usize > chosen.len() {
        return Err(format!("{} of {} pairs are to sign the {kind}", role.threshold, chosen.len()));
    }
    // Once the tenant holds pairs of root or policy, no pair of the control plane counts for it.
    if matches!(kind, Kind::Root | Kind::Policy) && held != 0 && held != chosen.len() {
        return Err(format!("the {kind} role mixes pairs of the tenant with pairs of the control plane"));
    }
    let signers = Signers::new(chosen.into_values()).map_err(|error| error.to_string())?;
    Ok(RoleSigners { signers, threshold: role.threshold, tenant_held: held != 0 })
}

/// The chain from the first root that is trusted by itself. Never empty.
pub(crate) struct Chain {
    pub(crate) roots: Vec<Read<Root>>,
    pub(crate) roles: Roles,
}

impl Chain {
    /// Check 3 for roots: each new one by a threshold of the old and of its own signers. `held` are trusted already; without
    /// any, the root with the pinned hash is. Gaps are left to [`Chain::gaps`]: across one, nobody knows the old signers.
    pub(crate) fn build(held: Vec<Read<Root>>, offered: Vec<Read<Root>>, pinned: Digest) -> Result<Self, Rejection> {
        let mut roots = held;
        let mut offered = offered.into_iter();
        if roots.is_empty() {
            let first = offered.find(|root| root.sha256 == pinned).ok_or(Rejection::RootNotPinned { pinned })?;
            Roles::of(&first.payload)?.verify(&first)?;
            roots.push(first);
        }
        for next in offered {
            let known = roots.iter().find(|root| root.order().serial == next.order().serial);
            if let Some(known) = known {
                if known.sha256 != next.sha256 {
                    return Err(Rejection::Equivocation { what: "root".to_owned(), serial: next.order().to_string() });
                }
                continue;
            }
            let Some(last) = roots.last() else { continue };
            if next.order().serial < last.order().serial {
                // From before the pinned root: nothing follows from it.
                continue;
            }
            if next.order().serial == last.order().serial + 1 {
                Roles::of(&last.payload)?.verify(&next)?;
            }
            Roles::of(&next.payload)?.verify(&next)?;
            roots.push(next);
        }
        let last = roots.last().ok_or(Rejection::RootNotPinned { pinned })?;
        Ok(Self { roles: Roles::of(&last.payload)?, roots })
    }

    /// Check 6.
    pub(crate) fn gaps(&self) -> Result<(), Rejection> {
        for pair in self.roots.windows(2) {
            let (held, found) = (pair[0].order(), pair[1].order());
            if found.serial != held.serial + 1 {
                return Err(Rejection::RootGap { found: found.serial, held: held.serial });
            }
            if found.epoch != held.epoch && found.epoch != held.epoch + 1 {
                let (found, held) = (found.to_string(), held.to_string());
                return Err(Rejection::Older { what: "root".to_owned(), found, held });
            }
        }
        Ok(())
    }
}
