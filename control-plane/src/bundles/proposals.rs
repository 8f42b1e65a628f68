//! What signers and administrators do about statements that wait: look at them, sign them, and propose the next root.

use std::collections::BTreeMap;

use schema::{
    encoding::{Base64, Digest},
    event::statement::StatementKind,
    id::TenantId,
};
use trust::{
    accept::Rejection,
    pair::PublicPair,
    signing::{Authority, Need, Part},
    statement::{
        Head, Kind, Scope,
        root::{Role, Root},
    },
};

use super::{
    service::{Statements, StatementsError, payload_of, scope_text},
    shelf::Waiting,
    signers::fill,
    stream::{Pending, Proposal, StatementCommand, Verdict, stream_id},
    waiting::signer,
};

/// A statement that waits for signatures.
#[derive(Debug, Clone)]
pub struct WaitingStatement {
    /// Its kind: root or policy.
    pub kind: Kind,
    /// What it is for.
    pub scope: Scope,
    /// What the log says of it.
    pub pending: Pending,
    /// The exact bytes to sign.
    pub payload: Vec<u8>,
    /// The envelope of what is in force for this scope; none while nothing is.
    pub in_force: Option<Vec<u8>>,
    /// Of whom it needs signatures: of those who sign now, and of those who will under the root that waits.
    pub needs: Vec<Needed>,
}

/// Whose signatures a statement needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// The serial of the root that names them.
    pub root_serial: u64,
    /// Them, and those of them that signed.
    pub need: Need,
}

/// Who shall sign root and policy from now on.
#[derive(Debug, Clone)]
pub struct NewSigners {
    /// Those who sign root.
    pub root: Vec<PublicPair>,
    /// How many of them must.
    pub root_threshold: u32,
    /// Those who sign policy.
    pub policy: Vec<PublicPair>,
    /// How many of them must.
    pub policy_threshold: u32,
}

/// Where a statement waits, and what to do there.
pub type Act = (schema::id::StatementStreamId, StatementCommand, Vec<Vec<u8>>);

impl Statements {
    /// Everything that waits for signatures: a root first, then policies.
    pub async fn all_waiting(&self, tenant: TenantId) -> Result<Vec<WaitingStatement>, StatementsError> {
        let (authority, next) = self.authorities(tenant).await?;
        if next.is_none() && !authority.is_tenant_held(Kind::Policy) {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        let policies = self.facts().scopes(tenant).await?.into_iter().map(|scope| (Kind::Policy, scope));
        for (kind, scope) in std::iter::once((Kind::Root, Scope::Tenant)).chain(policies) {
            found.extend(self.one_waiting(tenant, kind, scope, &authority, next.as_ref()).await?);
        }
        Ok(found)
    }

    async fn one_waiting(
        &self,
        tenant: TenantId,
        kind: Kind,
        scope: Scope,
        authority: &Authority,
        next: Option<&Authority>,
    ) -> Result<Option<WaitingStatement>, StatementsError> {
        let stream = self.stream(tenant, recorded(kind), &scope_text(tenant, scope)).await?;
        let Some(pending) = stream.pending else { return Ok(None) };
        let authorities: Vec<&Authority> = std::iter::once(authority).chain(next).collect();
        let Waiting { pending, payload, parts } = self.waiting(tenant, kind, pending, &authorities).await?;
        let in_force = match stream.envelopes.last() {
            Some(envelope) => Some(self.envelope(tenant, *envelope).await?.to_vec()),
            None => None,
        };
        let needs = needs(kind, &pending, &authorities, &parts);
        Ok(Some(WaitingStatement { kind, scope, pending, payload: payload.to_vec(), in_force, needs }))
    }

    /// The envelopes of every root, the first one first.
    pub async fn root_envelopes(&self, tenant: TenantId) -> Result<Vec<Vec<u8>>, StatementsError> {
        // Made when there is none.
        self.root(tenant).await?;
        let stream = self.stream(tenant, StatementKind::Root, &scope_text(tenant, Scope::Tenant)).await?;
        let mut envelopes = Vec::with_capacity(stream.envelopes.len());
        for envelope in stream.envelopes {
            envelopes.push(self.envelope(tenant, envelope).await?.to_vec());
        }
        Ok(envelopes)
    }

    /// Who signs what now, and under the root that waits.
    pub async fn authorities(&self, tenant: TenantId) -> Result<(Authority, Option<Authority>), StatementsError> {
        self.root(tenant).await?;
        let stream = self.stream(tenant, StatementKind::Root, &scope_text(tenant, Scope::Tenant)).await?;
        let newest = stream.envelopes.last().ok_or(StatementsError::Missing)?;
        let (root, _) = self.open::<Root>(tenant, Scope::Tenant, *newest).await?;
        let authority = Authority::of(&payload_of(&root)).map_err(StatementsError::Root)?;
        let next = match stream.pending {
            Some(pending) => Some(Authority::of(&self.envelope(tenant, pending.sha256).await?).map_err(StatementsError::Root)?),
            None => None,
        };
        Ok((authority, next))
    }

    /// How to add a signer's part to what waits, with what was found about it.
    pub async fn sign(&self, tenant: TenantId, kind: Kind, scope: Scope, sha256: Digest, part: Part) -> Result<Act, StatementsError> {
        let (authority, next) = self.authorities(tenant).await?;
        let authorities: Vec<&Authority> = std::iter::once(&authority).chain(next.as_ref()).collect();
        let text = scope_text(tenant, scope);
        let waits = self.stream(tenant, recorded(kind), &text).await?.pending.is_some_and(|pending| pending.sha256 == sha256);
        let verdict = match signer(&authorities, kind, &part.keyid) {
            None => Verdict::Stranger,
            // What does not wait any more is refused as such, whoever signed it.
            Some(_) if !waits => Verdict::Genuine,
            Some(pair) if part.is_genuine(kind, &self.envelope(tenant, sha256).await?, pair) => Verdict::Genuine,
            Some(_) => Verdict::NotGenuine,
        };
        let id = stream_id(&*self.handler().keys(tenant).await?, recorded(kind), &text);
        let command = StatementCommand::Sign { sha256, keyid: part.keyid, signatures_sha256: Digest::of(&part.bytes), verdict };
        Ok((id, command, vec![part.bytes]))
    }

    /// How to let a root wait that hands root and policy to these signers; the reason when no root may say so.
    pub async fn propose_root(&self, tenant: TenantId, signers: &NewSigners) -> Result<Result<Act, Rejection>, StatementsError> {
        let (authority, _) = self.authorities(tenant).await?;
        let present = authority.root();
        let ours = |pair: &&PublicPair| present.signers.get(&pair.keyid()).is_some_and(|signer| !signer.tenant_held);
        if let Some(pair) = signers.root.iter().chain(&signers.policy).find(ours) {
            let detail = format!("the pair {} is the control plane's own", pair.keyid());
            return Ok(Err(Rejection::RootUnsound { serial: present.head.serial + 1, detail }));
        }
        self.propose(tenant, next_root(present, signers)).await
    }

    /// How to let a root wait that gives root and policy back to the control plane; nothing where it has them.
    pub async fn propose_return(&self, tenant: TenantId) -> Result<Option<Act>, StatementsError> {
        let (authority, _) = self.authorities(tenant).await?;
        if !authority.is_tenant_held(Kind::Root) && !authority.is_tenant_held(Kind::Policy) {
            return Ok(None);
        }
        let ours = self.signers_under(tenant, &authority).await?;
        let [root, policy] = [Kind::Root, Kind::Policy].map(|kind| vec![ours.pair(kind).public().clone()]);
        let mut root = next_root(authority.root(), &NewSigners { root, root_threshold: 1, policy, policy_threshold: 1 });
        for kind in [Kind::Root, Kind::Policy] {
            root.signers.insert(ours.pair(kind).keyid(), ours.pair(kind).public().to_signer(false));
        }
        self.propose(tenant, root).await?.map(Some).map_err(StatementsError::Root)
    }

    /// How to let this root wait, as the next one.
    pub(super) async fn propose(&self, tenant: TenantId, mut root: Root) -> Result<Result<Act, Rejection>, StatementsError> {
        let (epoch, serial) = (root.head.epoch, root.head.serial + 1);
        fill(&mut root.head, Kind::Root, epoch, serial, serial, self.now());
        let payload = payload_of(&root);
        if let Err(rejection) = Authority::of(&payload) {
            return Ok(Err(rejection));
        }
        let sha256 = Digest::of(&payload);
        let scope = scope_text(tenant, Scope::Tenant);
        let id = stream_id(&*self.handler().keys(tenant).await?, StatementKind::Root, &scope);
        let proposal = Proposal { kind: StatementKind::Root, scope, epoch, serial, root_serial: serial, sha256 };
        Ok(Ok((id, StatementCommand::Propose(proposal), vec![payload])))
    }
}

/// The present root with other signers of root and policy; everything else stays.
fn next_root(present: &Root, new: &NewSigners) -> Root {
    let mut roles: BTreeMap<Kind, Role> = present.roles.clone();
    let role = |pairs: &[PublicPair], threshold| Role { threshold, signers: pairs.iter().map(PublicPair::keyid).collect() };
    roles.insert(Kind::Root, role(&new.root, new.root_threshold));
    roles.insert(Kind::Policy, role(&new.policy, new.policy_threshold));
    let still =
        |keyid: &Digest| roles.iter().any(|(kind, role)| !matches!(kind, Kind::Root | Kind::Policy) && role.signers.contains(keyid));
    let mut signers: BTreeMap<_, _> =
        present.signers.iter().filter(|(keyid, _)| still(keyid)).map(|(keyid, signer)| (*keyid, signer.clone())).collect();
    for pair in new.root.iter().chain(&new.policy) {
        signers.entry(pair.keyid()).or_insert_with(|| pair.to_signer(true));
    }
    Root { head: Head { ..present.head.clone() }, signers, roles, ledger: present.ledger.clone() }
}

/// Whose signatures count: of a root those of the old and the new one; of a policy those under the root there is, and when
/// it was proposed for the root that waits, those under that.
fn needs(kind: Kind, pending: &Pending, authorities: &[&Authority], parts: &BTreeMap<Digest, Part>) -> Vec<Needed> {
    let counts = |authority: &&&Authority| {
        let held = authority.is_tenant_held(kind);
        held && (kind == Kind::Root || authority.root().head.serial == pending.root_serial)
    };
    let needed = |authority: &&Authority| {
        let role = authority.role(kind).ok()?;
        Some(Needed { root_serial: authority.root().head.serial, need: Need::of(role, parts) })
    };
    authorities.iter().filter(counts).filter_map(needed).collect()
}

const fn recorded(kind: Kind) -> StatementKind {
    match kind {
        Kind::Root => StatementKind::Root,
        _ => StatementKind::Policy,
    }
}

/// The bytes as GraphQL carries them.
pub fn as_text(bytes: &[u8]) -> String {
    Base64::from(bytes).to_string()
}
