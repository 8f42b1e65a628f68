//! The control plane's own pairs of a tenant: where they are kept, which of them a root names, and how fresh ones take their
//! place.
//!
//! A tenant's first pairs are kept under one name; those that a later root brought under that name and the SHA-256 of its
//! payload. Whoever signs under a root asks for the pairs that it names, so replicas cannot sign with others. Pairs that are
//! replaced are erased once every site goes by the root that no longer names them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use schema::{
    encoding::Digest,
    event::statement::StatementKind,
    id::{SiteId, TenantId},
};
use trust::{
    signing::Authority,
    statement::{
        Kind, Scope,
        root::{Role, Root},
    },
};

use super::{
    heartbeat::Member,
    proposals::Act,
    service::{Statements, StatementsError, scope_text},
    shelf::Shelf,
    signers::TenantSigners,
    stream::{StatementCommand, StatementRefusal},
};
use crate::{bounded::Bounded, sealing::Secret};

/// The name of the sealed secret that holds a tenant's first pairs.
pub(crate) const SIGNERS_SECRET: &str = "statement-signers";

/// Under which name the pairs are kept that the root with this payload brought.
pub(crate) fn secret_name(root: &Digest) -> String {
    format!("{SIGNERS_SECRET}/{root}")
}

/// Tenants whose pairs are kept open: those that signed last.
const OPEN: usize = 10_000;

/// The pairs in use, by tenant.
pub(super) struct InUse(Mutex<Bounded<TenantId, Known>>);

impl Default for InUse {
    fn default() -> Self {
        Self(Mutex::new(Bounded::new(OPEN)))
    }
}

#[derive(Clone)]
struct Known {
    /// SHA-256 of the root they were asked for under last.
    root: Digest,
    /// What they are told by.
    keyid: Digest,
    signers: Arc<TenantSigners>,
}

impl InUse {
    fn of(&self, tenant: TenantId, fits: impl FnOnce(&Known) -> bool) -> Option<Arc<TenantSigners>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&tenant).filter(|known| fits(known)).map(|known| Arc::clone(&known.signers))
    }

    fn put(&self, tenant: TenantId, known: Known) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(tenant, known, 1);
    }
}

/// The key id by which our pairs are told apart: state is always ours to sign.
fn told_by(root: &Root) -> Option<Digest> {
    root.roles.get(&Kind::State)?.signers.first().copied()
}

impl Statements {
    /// The pairs of ours that a root names.
    pub(super) async fn signers_of(&self, tenant: TenantId, root: &Root, sha256: Digest) -> Result<Arc<TenantSigners>, StatementsError> {
        let keyid = told_by(root).ok_or(StatementsError::Missing)?;
        let signers = match self.in_use().of(tenant, |known| known.keyid == keyid) {
            Some(signers) => signers,
            None => {
                let serial = root.head.serial;
                self.kept(tenant, keyid).await?.ok_or(StatementsError::PairsMissing { serial })?.1
            }
        };
        self.in_use().put(tenant, Known { root: sha256, keyid, signers: Arc::clone(&signers) });
        Ok(signers)
    }

    /// The same, of whoever signs under an authority.
    pub(super) async fn signers_under(&self, tenant: TenantId, authority: &Authority) -> Result<Arc<TenantSigners>, StatementsError> {
        self.signers_of(tenant, authority.root(), authority.sha256()).await
    }

    /// The same, of the newest root that these pin.
    pub(super) async fn signers_pinned(&self, tenant: TenantId, members: &[Member]) -> Result<Arc<TenantSigners>, StatementsError> {
        let root = members.iter().rev().find(|member| member.kind == Kind::Root).ok_or(StatementsError::Missing)?;
        if let Some(signers) = self.in_use().of(tenant, |known| known.root == root.sha256) {
            return Ok(signers);
        }
        let (parsed, _) = self.open::<Root>(tenant, Scope::Tenant, root.envelope).await?;
        self.signers_of(tenant, &parsed, root.sha256).await
    }

    /// The pairs of a tenant that has no root yet; made when there are none. Of several replicas that make them at once, all use
    /// the first.
    pub(super) async fn first_signers(&self, tenant: TenantId) -> Result<TenantSigners, StatementsError> {
        let secret = match self.secrets().secret(tenant, SIGNERS_SECRET).await? {
            Some(secret) => secret,
            None => self.secrets().keep_first(tenant, SIGNERS_SECRET, &sealed(&TenantSigners::generate(self.ids()))).await?,
        };
        Ok(TenantSigners::from_secret(secret.reveal())?)
    }

    /// The kept pairs with this key id, and their name.
    async fn kept(&self, tenant: TenantId, keyid: Digest) -> Result<Option<(String, Arc<TenantSigners>)>, StatementsError> {
        let stream = self.stream(tenant, StatementKind::Root, &scope_text(tenant, Scope::Tenant)).await?;
        let mut names = vec![SIGNERS_SECRET.to_owned()];
        for envelope in &stream.envelopes {
            names.push(secret_name(&self.open::<Root>(tenant, Scope::Tenant, *envelope).await?.1.sha256));
        }
        names.extend(stream.pending.map(|pending| secret_name(&pending.sha256)));
        for name in names.into_iter().rev() {
            let Some(secret) = self.secrets().secret(tenant, &name).await? else { continue };
            let signers = TenantSigners::from_secret(secret.reveal())?;
            if signers.pair(Kind::State).keyid() == keyid {
                return Ok(Some((name, Arc::new(signers))));
            }
        }
        Ok(None)
    }

    /// How to let the root wait that names fresh pairs in place of ours and leaves everything else; the reason when none can.
    /// The pairs are kept already. With it, the digest of the root.
    pub async fn propose_pairs(&self, tenant: TenantId) -> Result<Result<(Act, Digest), StatementRefusal>, StatementsError> {
        let (authority, _) = self.authorities(tenant).await?;
        if self.is_behind(tenant, authority.root().head.epoch).await? {
            return Ok(Err(StatementRefusal::Behind));
        }
        // What we sign ourselves, those who are replaced sign too.
        if !authority.is_tenant_held(Kind::Root) {
            match self.signers_under(tenant, &authority).await {
                Err(StatementsError::PairsMissing { serial }) => return Ok(Err(StatementRefusal::PairsMissing { serial })),
                signers => drop(signers?),
            }
        }
        let fresh = TenantSigners::generate(self.ids());
        let proposed = self.propose(tenant, with_pairs(&authority, &fresh)).await?.map_err(StatementsError::Root)?;
        let (id, command, blobs) = proposed;
        let StatementCommand::Propose(proposal) = command else { return Err(StatementsError::Missing) };
        let root = proposal.sha256;
        self.secrets().put_secret(tenant, &secret_name(&root), &sealed(&fresh)).await?;
        Ok(Ok(((id, StatementCommand::ProposePairs { proposal }, blobs), root)))
    }

    /// What was proposed and does not wait any more brought pairs that nobody will use.
    pub async fn forget_proposed(&self, tenant: TenantId, root: Digest) -> Result<(), StatementsError> {
        Ok(self.secrets().destroy(tenant, &secret_name(&root)).await?)
    }

    /// Erases the pairs that the newest root does not name any more, once every site goes by it.
    pub(super) async fn forget_former(
        &self,
        tenant: TenantId,
        sites: impl Iterator<Item = SiteId>,
        shelf: &mut Shelf,
    ) -> Result<(), StatementsError> {
        if shelf.tidy {
            return Ok(());
        }
        let newest = shelf.newest_root();
        for site in sites {
            let current = self.heartbeats().latest(tenant, site).await?;
            let pinned = current.iter().flat_map(|current| &current.members).filter(|member| member.kind == Kind::Root);
            if current.is_some() && pinned.map(|member| member.serial).max() != Some(newest) {
                return Ok(());
            }
        }
        if shelf.roots.len() > 1 {
            let keyid = told_by(shelf.authority.root()).ok_or(StatementsError::Missing)?;
            let Some((kept, _)) = self.kept(tenant, keyid).await? else { return Ok(()) };
            let of_roots = shelf.roots.iter().map(|root| secret_name(&root.sha256));
            let former = std::iter::once(SIGNERS_SECRET.to_owned()).chain(of_roots).filter(|name| *name != kept);
            for name in former {
                if self.secrets().secret(tenant, &name).await?.is_some() {
                    self.secrets().destroy(tenant, &name).await?;
                    tracing::warn!(%tenant, root = newest, "the pairs that were replaced are erased: backups from before cannot sign for this tenant");
                }
            }
        }
        shelf.tidy = true;
        Ok(())
    }
}

fn sealed(signers: &TenantSigners) -> Secret {
    Secret::new(signers.to_secret().to_vec())
}

/// The present root, with these pairs in every role that the control plane holds.
fn with_pairs(present: &Authority, fresh: &TenantSigners) -> Root {
    let mut root = present.root().clone();
    let mut roles: BTreeMap<Kind, Role> = root.roles.clone();
    let mut ours = Vec::new();
    for (kind, role) in roles.iter_mut().filter(|(kind, _)| !present.is_tenant_held(**kind)) {
        let pair = fresh.pair(*kind);
        *role = Role { threshold: 1, signers: vec![pair.keyid()] };
        ours.push(pair);
    }
    let named = |keyid: &Digest| roles.values().any(|role| role.signers.contains(keyid));
    root.signers.retain(|keyid, _| named(keyid));
    root.signers.extend(ours.iter().map(|pair| (pair.keyid(), pair.public().to_signer(false))));
    root.roles = roles;
    root
}
