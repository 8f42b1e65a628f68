//! What waits for the tenant's own signers: proposed when the content changes or ends soon, given up when it does not matter
//! any more, and published once enough of them signed. The control plane signs none of it.
//!
//! A root that names signers takes effect together with the policies: agents judge every policy by the newest root, so it is
//! published only when every policy in force has signatures that count under it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use schema::{clock::Timestamp, encoding::Digest, event::statement::StatementKind, id::TenantId};
use trust::{
    pair::PublicPair,
    signing::{Authority, Part, assemble, read_payload},
    statement::{Kind, Scope, policy::Policy, root::Root},
};

use super::{
    compile::Headed,
    heartbeat::Member,
    service::{Recorded, Statements, StatementsError, check_size, is_ending, payload_of, scope_text},
    shelf::{Shelf, Waiting},
    signers::fill,
    stream::{Pending, Proposal, StatementCommand, StatementStream, stream_id},
};
use crate::{access::permit::Question, eventing::handler::Options};

/// A root of the control plane's own is renewed when less than this is left. Somebody looks at least when policies are renewed.
const OWN_ROOT_RENEWAL: Duration = Duration::from_secs(365 * 86_400);

/// Room in an envelope for the signatures that are yet to come, as many as there may be.
const SIGNATURES_BYTES: usize = 640 << 10;

/// Characters of base64 for so many bytes.
const fn base64_bytes(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

impl Statements {
    /// What a stream has waiting, with the genuine parts of those who may sign it under one of these roots.
    pub(super) async fn waiting(
        &self,
        tenant: TenantId,
        kind: Kind,
        pending: Pending,
        authorities: &[&Authority],
    ) -> Result<Waiting, StatementsError> {
        let payload = self.envelope(tenant, pending.sha256).await?;
        let mut parts = BTreeMap::new();
        for (keyid, signatures) in &pending.signed {
            let Some(pair) = signer(authorities, kind, keyid) else { continue };
            let part = Part { keyid: *keyid, bytes: self.envelope(tenant, *signatures).await?.to_vec() };
            if part.is_genuine(kind, &payload, pair) {
                parts.insert(*keyid, part);
            }
        }
        Ok(Waiting { pending, payload, parts })
    }

    /// Reads anew what waits: others may have signed.
    pub(super) async fn refresh_waiting(&self, tenant: TenantId, shelf: &mut Shelf) -> Result<(), StatementsError> {
        let root = self.stream(tenant, StatementKind::Root, &scope_text(tenant, Scope::Tenant)).await?;
        shelf.waiting_root = match root.pending {
            None => None,
            Some(pending) => {
                let payload = self.envelope(tenant, pending.sha256).await?;
                let next = Arc::new(Authority::of(&payload).map_err(StatementsError::Root)?);
                let waiting = self.waiting(tenant, Kind::Root, pending, &[&shelf.authority, &next]).await?;
                Some((next, waiting))
            }
        };
        let scopes: Vec<Scope> = shelf.waiting.keys().copied().collect();
        for scope in scopes {
            let stream = self.stream(tenant, StatementKind::Policy, &scope_text(tenant, scope)).await?;
            self.take_waiting(tenant, scope, stream.pending, shelf).await?;
        }
        Ok(())
    }

    pub(super) async fn take_waiting(
        &self,
        tenant: TenantId,
        scope: Scope,
        pending: Option<Pending>,
        shelf: &mut Shelf,
    ) -> Result<(), StatementsError> {
        let Some(pending) = pending else {
            shelf.waiting.remove(&scope);
            return Ok(());
        };
        let waiting = {
            let next = shelf.waiting_root.as_ref().map(|(next, _)| &**next);
            let authorities: Vec<&Authority> = std::iter::once(&*shelf.authority).chain(next).collect();
            self.waiting(tenant, Kind::Policy, pending, &authorities).await?
        };
        let policy: Policy = read_payload(&waiting.payload).map_err(StatementsError::Unreadable)?;
        shelf.waiting.insert(scope, (policy, waiting));
        Ok(())
    }

    /// A root that the control plane signs alone is renewed by itself, long before its end: agents follow from the one they know.
    pub(super) async fn renew_own_root(&self, tenant: TenantId, shelf: &mut Shelf) -> Result<(), StatementsError> {
        let root = shelf.authority.root();
        let has_time = root.head.expires.since(self.now()) > OWN_ROOT_RENEWAL;
        if has_time || shelf.authority.is_tenant_held(Kind::Root) || shelf.waiting_root.is_some() {
            return Ok(());
        }
        let (_, command, blobs) = self.propose(tenant, root.clone()).await?.map_err(StatementsError::Root)?;
        self.change(tenant, StatementKind::Root, Scope::Tenant, "proposeStatement", command, blobs).await?;
        self.refresh_waiting(tenant, shelf).await
    }

    /// Publishes what has gathered enough: the root with the policies that it needs, and policies under the root there is.
    pub(super) async fn settle(&self, tenant: TenantId, shelf: &mut Shelf) -> Result<(), StatementsError> {
        if let Some((next, waiting)) = shelf.waiting_root.clone()
            && self.root_is_ready(tenant, shelf, &next, &waiting).await?
        {
            let mut parts = waiting.parts_of(&shelf.authority, Kind::Root);
            let known: BTreeSet<Digest> = parts.iter().map(|part| part.keyid).collect();
            parts.extend(waiting.parts_of(&next, Kind::Root).into_iter().filter(|part| !known.contains(&part.keyid)));
            // The first time the control plane hands root over; when it is given back, it takes it; and when its own pairs are
            // replaced, both sign.
            for authority in [&shelf.authority, &next].into_iter().filter(|authority| !authority.is_tenant_held(Kind::Root)) {
                let signers = self.signers_under(tenant, authority).await?;
                let pair = signers.pair(Kind::Root);
                if parts.iter().all(|part| part.keyid != pair.keyid()) {
                    parts.push(Part::sign(Kind::Root, &waiting.payload, &pair));
                }
            }
            let member = self.publish_gathered(tenant, Kind::Root, Scope::Tenant, &waiting, &parts).await?;
            let who = if next.is_tenant_held(Kind::Root) { "its signers sign" } else { "the control plane signs" };
            tracing::info!(%tenant, serial = member.serial, "a new root is in force: {who} root and policy from now on");
            shelf.roots.push(member);
            (shelf.authority, shelf.waiting_root, shelf.tidy) = (next, None, false);
        }
        if !shelf.is_tenant_held() {
            return Ok(());
        }
        let met = |waiting: &Waiting| waiting.is_met(&shelf.authority, Kind::Policy);
        let scopes: Vec<Scope> = shelf.waiting.iter().filter(|(_, (_, waiting))| met(waiting)).map(|(scope, _)| *scope).collect();
        for scope in scopes {
            let Some((policy, waiting)) = shelf.waiting.remove(&scope) else { continue };
            let parts = waiting.parts_of(&shelf.authority, Kind::Policy);
            let member = self.publish_gathered(tenant, Kind::Policy, scope, &waiting, &parts).await?;
            shelf.policies.insert(scope, (policy, member));
        }
        Ok(())
    }

    /// Whether a root has the signatures of old and new signers, and every policy in force has those of its new ones.
    async fn root_is_ready(
        &self,
        tenant: TenantId,
        shelf: &mut Shelf,
        next: &Authority,
        waiting: &Waiting,
    ) -> Result<bool, StatementsError> {
        let old = !shelf.authority.is_tenant_held(Kind::Root) || waiting.is_met(&shelf.authority, Kind::Root);
        let new = !next.is_tenant_held(Kind::Root) || waiting.is_met(next, Kind::Root);
        if !old || !new {
            return Ok(false);
        }
        if !next.is_tenant_held(Kind::Policy) {
            // Its policies are ours to sign, at once.
            return Ok(true);
        }
        let members: Vec<(Scope, Member)> = shelf.policies.iter().map(|(scope, (_, member))| (*scope, member.clone())).collect();
        for (scope, member) in members {
            let waits = shelf.waiting.get(&scope).is_some_and(|(_, waiting)| waiting.is_met(next, Kind::Policy));
            if !waits && !self.counts(tenant, shelf, next, &member).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether enough of those who sign policies under a root signed one that was published.
    pub(super) async fn counts(
        &self,
        tenant: TenantId,
        shelf: &mut Shelf,
        under: &Authority,
        member: &Member,
    ) -> Result<bool, StatementsError> {
        let place = (member.envelope, under.sha256());
        if let Some(known) = shelf.verified.get(&place) {
            return Ok(*known);
        }
        let counts = under.policy(&self.envelope(tenant, member.envelope).await?).is_ok();
        shelf.verified.insert(place, counts);
        Ok(counts)
    }

    /// Whether agents would believe what a heartbeat is about to pin: every policy has signatures that count under the root.
    pub(super) async fn hangs_together(&self, tenant: TenantId, shelf: &mut Shelf, members: &[Member]) -> Result<bool, StatementsError> {
        // What the control plane signs itself, it signed under this very root: another root makes it sign anew.
        if !shelf.is_tenant_held() {
            return Ok(true);
        }
        let authority = Arc::clone(&shelf.authority);
        for member in members.iter().filter(|member| member.kind == Kind::Policy) {
            if !self.counts(tenant, shelf, &authority, member).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn publish_gathered(
        &self,
        tenant: TenantId,
        kind: Kind,
        scope: Scope,
        waiting: &Waiting,
        parts: &[Part],
    ) -> Result<Member, StatementsError> {
        let envelope = assemble(kind, waiting.payload.to_vec(), parts).to_bytes();
        let recorded = Recorded {
            kind: if kind == Kind::Root { StatementKind::Root } else { StatementKind::Policy },
            scope: scope_text(tenant, scope),
            epoch: waiting.pending.epoch,
            serial: waiting.pending.serial,
            sha256: waiting.pending.sha256,
        };
        let digest = self.record(tenant, recorded, envelope).await?;
        match kind {
            Kind::Root => Ok(self.open::<Root>(tenant, scope, digest).await?.1),
            _ => Ok(self.open::<Policy>(tenant, scope, digest).await?.1),
        }
    }

    /// Lets the content of a scope wait for signatures where it needs them, and nothing where it does not. Gives whether
    /// something new waits.
    pub(super) async fn propose_changed(
        &self,
        tenant: TenantId,
        scope: Scope,
        content: Policy,
        shelf: &mut Shelf,
        now: Timestamp,
    ) -> Result<bool, StatementsError> {
        let last = shelf.policies.get(&scope).cloned();
        let (serial, mut wanted) = match &last {
            None => (1, shelf.is_tenant_held()),
            Some((policy, member)) => {
                let changed = policy.blank() != content || is_ending(Kind::Policy, member.expires, now);
                (member.serial + 1, changed && shelf.is_tenant_held())
            }
        };
        let (epoch, mut root_serial) = (shelf.epoch(), shelf.newest_root());
        let next = shelf.waiting_root.as_ref().map(|(next, _)| Arc::clone(next));
        let current = Arc::clone(&shelf.authority);
        if let (Some(next), Some((_, member))) = (next, &last)
            && next.is_tenant_held(Kind::Policy)
            && !self.counts(tenant, shelf, &next, member).await?
        {
            (wanted, root_serial) = (true, next.root().head.serial);
        }
        if let Some((_, member)) = &last
            && shelf.is_tenant_held()
            && !self.counts(tenant, shelf, &current, member).await?
        {
            wanted = true;
        }
        let waits = shelf.waiting.get(&scope);
        if !wanted {
            if let Some((_, waiting)) = waits {
                let sha256 = waiting.pending.sha256;
                self.change(
                    tenant,
                    StatementKind::Policy,
                    scope,
                    "withdrawStatement",
                    StatementCommand::Withdraw { sha256, reason: None },
                    vec![],
                )
                .await?;
                shelf.waiting.remove(&scope);
            }
            return Ok(false);
        }
        if let Some((policy, waiting)) = waits
            && policy.blank() == content
            && (waiting.pending.serial, waiting.pending.root_serial) == (serial, root_serial)
            && !is_ending(Kind::Policy, policy.head.expires, now)
        {
            return Ok(false);
        }
        let mut policy = content;
        fill(policy.head_mut(), Kind::Policy, epoch, serial, root_serial, now);
        let payload = payload_of(&policy);
        let sha256 = Digest::of(&payload);
        let text = scope_text(tenant, scope);
        check_size(Kind::Policy, &text, base64_bytes(payload.len()) + SIGNATURES_BYTES)?;
        let proposal = Proposal { kind: StatementKind::Policy, scope: text, epoch, serial, root_serial, sha256 };
        let command = StatementCommand::Propose(proposal);
        let state = self.change(tenant, StatementKind::Policy, scope, "proposeStatement", command, vec![payload]).await?;
        self.take_waiting(tenant, scope, state.pending, shelf).await?;
        Ok(true)
    }

    async fn change(
        &self,
        tenant: TenantId,
        kind: StatementKind,
        scope: Scope,
        action: &'static str,
        command: StatementCommand,
        blobs: Vec<Vec<u8>>,
    ) -> Result<StatementStream, StatementsError> {
        let id = stream_id(&*self.handler().keys(tenant).await?, kind, &scope_text(tenant, scope));
        let options = Options { blobs, ..Options::default() };
        let ctx = self.context(tenant);
        let handled = self.handler().handle::<StatementStream>(&ctx, Question::new(action, "Statements", id), id, options, command).await;
        Ok(handled.map_err(|error| StatementsError::Record(Box::new(error)))?.state)
    }
}

/// The pair of this key id, when it may sign this kind under one of these roots.
pub(super) fn signer<'a>(authorities: &[&'a Authority], kind: Kind, keyid: &Digest) -> Option<&'a PublicPair> {
    authorities.iter().find_map(|authority| {
        let role = authority.role(kind).ok().filter(|role| role.tenant_held)?;
        role.signers.find(keyid)
    })
}
