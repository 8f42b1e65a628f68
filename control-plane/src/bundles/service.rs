//! Publishing: facts are compiled, what changed is signed and recorded, a heartbeat pins it, agents get it ([`super::serve`]).
//!
//! Order, always: sign -> record with the expected serial, envelope beside it -> pin in a heartbeat that is kept -> serve.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use schema::{
    clock::{Clock, Ids, Timestamp, new_id},
    encoding::Digest,
    event::statement::StatementKind,
    id::{AgentId, KeyId, PrincipalId, SiteId, TenantId},
    key::Limits,
};
use trust::{
    accept::Rejection,
    dsse::{Envelope, EnvelopeError, sign_statement},
    signing::{Authority, UnreadablePayload},
    statement::{
        Head, Kind, Scope, Statement,
        lease::Lease,
        policy::Policy,
        root::Root,
        state::{State, Subject},
    },
};

use super::{
    compile::{Content, Headed, blank_head, compile, projects_at_sites, states},
    containment::restricts,
    ending::Ending,
    facts::Facts,
    heartbeat::{Current, HeartbeatError, Heartbeats, Member},
    pairs::InUse,
    read::{FactsError, FactsReader},
    recovery::Behind,
    serve::Serving,
    shelf::Shelf,
    signers::{InvalidSigners, TenantSigners, fill, renew_before},
    stream::{StatementCommand, StatementRefusal, StatementStream, stream_id},
    together::{Shared, Together},
    trouble::Trouble,
    within,
};
use crate::{
    access::{context::OpContext, permit::Question},
    bounded::Bounded,
    eventing::{
        handler::{CommandError, Handler, Options},
        store::ReadError,
    },
    sealing::{SealingError, Secrets},
};

/// The principal that publishes.
const PRINCIPAL: PrincipalId = PrincipalId::System("statements");
/// The epoch of a tenant's first root. Others begin by recovery only.
pub(super) const FIRST_EPOCH: u64 = 1;
/// How often a compilation starts over when another replica was first.
const ATTEMPTS: usize = 5;
/// Sites whose heartbeats are signed and kept side by side: each waits for the database, and many wait no longer than one.
const PINNED_TOGETHER: usize = 8;
/// Envelopes kept in memory, at most so many bytes.
const ENVELOPES_BYTES: usize = 32 << 20;
/// What was published last, kept for tenants that nobody compiles now, at most so many bytes: some two hundred small tenants.
const SHELVES_BYTES: usize = 48 << 20;

/// Why statements were not published or served.
#[derive(Debug, thiserror::Error)]
pub enum StatementsError {
    /// The facts could not be read.
    #[error("reading what statements are compiled from failed")]
    Facts(#[from] FactsError),
    /// Recording a statement failed.
    #[error("recording a statement failed")]
    Record(#[source] Box<CommandError<StatementRefusal>>),
    /// A key did not come as far again as it was.
    #[error("recovering a key failed")]
    Recover(#[source] Box<CommandError<crate::keys::KeyRefusal>>),
    /// The tenant's pairs could not be read.
    #[error("the tenant's signing keys could not be used")]
    Sealing(#[from] SealingError),
    /// What was sealed is not the tenant's pairs.
    #[error("the tenant's signing keys are damaged")]
    Signers(#[from] InvalidSigners),
    /// A root names pairs that are not kept here.
    #[error(
        "the pairs that root {serial} names are not kept here, as in a backup from before they were made: restore a newer one, or \
         have the tenant's signers sign a root with others (freehold root rotate-pairs)"
    )]
    PairsMissing {
        /// The root.
        serial: u64,
    },
    /// The heartbeat could not be read, signed or kept.
    #[error("the site's heartbeat failed")]
    Heartbeat(#[from] HeartbeatError),
    /// A published statement could not be read.
    #[error("reading a published statement failed")]
    Read(#[from] ReadError),
    /// A published statement is gone.
    #[error("a published statement is missing")]
    Missing,
    /// A published statement does not parse.
    #[error("a published statement is damaged")]
    Damaged(#[source] EnvelopeError),
    /// A root that was recorded, or waits, says what no root may say.
    #[error("a recorded root is not sound")]
    Root(#[source] Rejection),
    /// What waits for signatures cannot be read.
    #[error("a proposal is damaged")]
    Unreadable(#[source] UnreadablePayload),
    /// Agents would not even read it.
    #[error("the {kind} of {scope} would have {bytes} bytes, and agents take {max} at most")]
    Oversized {
        /// Of which kind it is.
        kind: Kind,
        /// What it is for: the id of a tenant, project or site.
        scope: String,
        /// Bytes of its envelope.
        bytes: usize,
        /// The most there may be.
        max: usize,
    },
    /// The tenant's own signers sign this, and nobody else.
    #[error("the tenant's own signers sign the {0}, the control plane does not")]
    TenantHeld(Kind),
    /// Other replicas were first, time and again.
    #[error("other replicas keep publishing for this tenant at the same moment")]
    Contended,
    /// What several waited for failed, for all of them.
    #[error(transparent)]
    Shared(Arc<StatementsError>),
}

impl StatementsError {
    /// Whether somebody else was first: tried again, it may succeed.
    pub fn is_race(&self) -> bool {
        match self {
            Self::Record(error) => matches!(**error, CommandError::Refused(_) | CommandError::Contended),
            Self::Heartbeat(HeartbeatError::Behind) => true,
            Self::Shared(error) => error.is_race(),
            _ => false,
        }
    }

    /// Whether it is about what one tenant has, so that others need not wait until it is mended.
    pub fn is_of_tenant(&self) -> bool {
        match self {
            Self::Signers(_)
            | Self::PairsMissing { .. }
            | Self::Missing
            | Self::Damaged(_)
            | Self::Root(_)
            | Self::Unreadable(_)
            | Self::Oversized { .. }
            | Self::TenantHeld(_)
            | Self::Facts(FactsError::Text(_)) => true,
            Self::Shared(error) => error.is_of_tenant(),
            _ => false,
        }
    }
}

/// The statements of every tenant. Clones share it.
#[derive(Clone)]
pub struct Statements(Arc<Inner>);

struct Inner {
    handler: Handler,
    facts: FactsReader,
    secrets: Secrets,
    heartbeats: Heartbeats,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    in_use: InUse,
    /// What was published last, by tenant; the lock also keeps two compilations of a tenant apart.
    published: Shared<TenantId, tokio::sync::Mutex<Option<Shelf>>>,
    /// Those of them that stay when nobody uses them: of the tenants that were compiled last.
    shelves: Mutex<Bounded<TenantId, Arc<tokio::sync::Mutex<Option<Shelf>>>>>,
    compiling: Shared<TenantId, Together<Result<(), Arc<StatementsError>>>>,
    /// How often something was compiled.
    compilations: AtomicU64,
    serving: Serving,
    envelopes: Mutex<Bounded<Digest, Arc<[u8]>>>,
    ending: Ending,
    trouble: Trouble,
    behind: Behind,
}

/// The tenant's current root, by what agents pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootPin {
    /// Its epoch.
    pub epoch: u64,
    /// Its serial.
    pub serial: u64,
    /// SHA-256 of its payload.
    pub sha256: Digest,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Statements {
    /// Puts the parts together.
    pub fn new(
        handler: Handler,
        facts: FactsReader,
        secrets: Secrets,
        heartbeats: Heartbeats,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Self {
        Self(Arc::new(Inner {
            handler,
            facts,
            secrets,
            heartbeats,
            clock,
            ids,
            in_use: InUse::default(),
            published: Shared::default(),
            shelves: Mutex::new(Bounded::new(SHELVES_BYTES)),
            compiling: Shared::default(),
            compilations: AtomicU64::new(0),
            serving: Serving::default(),
            envelopes: Mutex::new(Bounded::new(ENVELOPES_BYTES)),
            ending: Ending::default(),
            trouble: Trouble::default(),
            behind: Behind::default(),
        }))
    }

    /// The tenant's current root; the first one is made when there is none.
    pub async fn root(&self, tenant: TenantId) -> Result<RootPin, StatementsError> {
        for _ in 0..ATTEMPTS {
            let place = self.shelf(tenant);
            let mut shelf = place.lock().await;
            match self.roots(tenant, &mut shelf).await {
                Ok(roots) => {
                    self.keep_shelf(tenant, &place, shelf.as_ref());
                    let last = roots.last().ok_or(StatementsError::Missing)?;
                    return Ok(RootPin { epoch: last.epoch, serial: last.serial, sha256: last.sha256 });
                }
                Err(error) if error.is_race() => *shelf = None,
                Err(error) => return Err(error),
            }
        }
        Err(StatementsError::Contended)
    }

    /// Brings everything of a tenant up to date: compiles, publishes what changed or is about to end, and pins it. Once for all who
    /// ask for it while it is done: the next time begins after the last of them has asked.
    pub async fn bring_up_to_date(&self, tenant: TenantId) -> Result<(), StatementsError> {
        let compiling = self.0.compiling.of(tenant);
        let compile = |_| async move { self.compile_and_publish(tenant).await.map_err(Arc::new) };
        compiling.ask(Instant::now(), compile).await.map_err(StatementsError::Shared)
    }

    async fn compile_and_publish(&self, tenant: TenantId) -> Result<(), StatementsError> {
        for _ in 0..ATTEMPTS {
            let place = self.shelf(tenant);
            let mut shelf = place.lock().await;
            match self.publish_all(tenant, &mut shelf).await {
                // Another replica was first: what it published is read anew.
                Err(error) if error.is_race() => *shelf = None,
                answer => {
                    self.keep_shelf(tenant, &place, shelf.as_ref());
                    self.tell(tenant, &answer);
                    return answer.map(drop);
                }
            }
        }
        Err(StatementsError::Contended)
    }

    /// Says once what became of a compilation, where that is not what it should be.
    fn tell(&self, tenant: TenantId, outcome: &Result<Vec<StatementsError>, StatementsError>) {
        let trouble = &self.0.trouble;
        match outcome {
            Ok(held_back) => match held_back.first() {
                None => trouble.cleared(tenant),
                Some(first) if trouble.held_back(tenant, first.to_string()) => tracing::error!(
                    %tenant,
                    statements = held_back.len(),
                    error = first as &dyn std::error::Error,
                    "not everything was published: sites keep what they have of it"
                ),
                Some(_) => {}
            },
            Err(error) if error.is_of_tenant() && trouble.failed(tenant, error.to_string()) => {
                tracing::error!(%tenant, error = error as &dyn std::error::Error, "the statements of a tenant cannot be compiled: its sites keep what they have");
            }
            Err(_) => {}
        }
        trouble.measure();
    }

    /// Tenants whose statements are not up to date.
    pub fn trouble(&self) -> &Trouble {
        &self.0.trouble
    }

    /// How often the statements of a tenant, whichever, were compiled since the start.
    pub fn compilations(&self) -> u64 {
        self.0.compilations.load(Ordering::Relaxed)
    }

    /// Signs a new heartbeat of a site that pins what the last one did.
    pub async fn beat(&self, tenant: TenantId, site: SiteId) -> Result<(), StatementsError> {
        self.beat_lasting(tenant, site, Duration::ZERO).await
    }

    /// The same; it may be accepted for so long at least.
    pub(super) async fn beat_lasting(&self, tenant: TenantId, site: SiteId, life: Duration) -> Result<(), StatementsError> {
        let epoch = self.0.heartbeats.latest(tenant, site).await?.map_or(FIRST_EPOCH, |current| current.epoch);
        if self.is_behind(tenant, epoch).await? {
            return Ok(());
        }
        self.issue(tenant, site, None, life).await
    }

    /// Signs a site's next heartbeat; it pins these, or what the last one did.
    async fn issue(&self, tenant: TenantId, site: SiteId, members: Option<&[Member]>, life: Duration) -> Result<(), StatementsError> {
        let now = self.0.clock.now();
        // Of two that are signed at once one is kept, and the other is signed again after it.
        let current = loop {
            let (last, pinned) = self.0.heartbeats.next(tenant, site, members).await?;
            let signers = self.signers_pinned(tenant, &pinned).await?;
            if let Some(kept) = self.0.heartbeats.issue(&signers, tenant, site, (last, pinned), (now, life)).await? {
                break kept;
            }
        };
        self.0.ending.look_at(tenant, site, &current.members, now);
        self.wake(tenant, site);
        Ok(())
    }

    /// Whether there is nobody left to publish for.
    pub async fn is_erased(&self, tenant: TenantId) -> Result<bool, SealingError> {
        self.0.handler.keyring().is_buried(tenant, None).await
    }

    /// What ends soon, and only the tenants' signers can renew.
    pub fn ending(&self) -> &Ending {
        &self.0.ending
    }

    /// Sites whose heartbeat is at least this old.
    pub async fn sites_due(&self, age: Duration) -> Result<Vec<(TenantId, SiteId)>, StatementsError> {
        Ok(self.0.heartbeats.older_than(self.0.clock.now().minus(age)).await?)
    }

    /// Whether a statement that the site's heartbeat pins should be signed anew.
    pub async fn is_ending(&self, tenant: TenantId, site: SiteId) -> Result<bool, StatementsError> {
        let now = self.0.clock.now();
        let Some(current) = self.0.heartbeats.current(tenant, site).await? else { return Ok(false) };
        let ending: Vec<&Member> = current.members.iter().filter(|member| is_ending(member.kind, member.expires, now)).collect();
        if ending.is_empty() {
            return Ok(false);
        }
        // What waits for signatures already needs no second proposal.
        let shelf = self.shelf(tenant);
        let shelf = shelf.lock().await;
        let waits = |member: &&Member| {
            let waiting = shelf.as_ref().and_then(|shelf| shelf.waiting.get(&member.scope)).filter(|_| member.kind == Kind::Policy);
            waiting.is_some_and(|(policy, _)| !is_ending(Kind::Policy, policy.head.expires, now))
        };
        Ok(!ending.iter().all(waits))
    }

    /// What is in force at a site: what its current heartbeat pins.
    pub async fn in_force(&self, tenant: TenantId, site: SiteId) -> Result<Option<Current>, StatementsError> {
        Ok(self.0.heartbeats.current(tenant, site).await?)
    }

    /// The sites that are to hold something back, each with the first heartbeat that tells its agents so; none where nothing
    /// was published yet that does.
    pub async fn restricting(&self, tenant: TenantId, subject: Subject) -> Result<Vec<(SiteId, Option<u64>)>, StatementsError> {
        let facts = self.0.facts.facts(tenant).await?;
        let mut sites = Vec::new();
        for (site, _) in states(&facts).into_iter().filter(|(_, state)| restricts(state, subject)) {
            let current = self.0.heartbeats.current(tenant, site).await?;
            let member = current.and_then(|current| current.members.into_iter().find(|member| member.kind == Kind::State));
            let since = match member {
                Some(member) => {
                    let (state, _) = self.open::<State>(tenant, Scope::Site(site), member.envelope).await?;
                    restricts(&state, subject).then_some(member.since)
                }
                None => None,
            };
            sites.push((site, since));
        }
        Ok(sites)
    }

    /// Signs and records a lease for one agent. Only that agent is served it.
    pub async fn lease(
        &self,
        tenant: TenantId,
        site: SiteId,
        agent: AgentId,
        lease: impl FnOnce(Head) -> Lease,
    ) -> Result<Vec<u8>, StatementsError> {
        let (authority, _) = self.authorities(tenant).await?;
        let (root, signers) = (&authority.root().head, self.signers_under(tenant, &authority).await?);
        let last = self.stream(tenant, StatementKind::Lease, &agent.to_string()).await?;
        let mut head = Head { site: Some(site), agent: Some(agent), ..blank_head(Kind::Lease, tenant) };
        fill(&mut head, Kind::Lease, root.epoch, last.serial + 1, root.serial, self.0.clock.now());
        let (epoch, serial) = (head.epoch, head.serial);
        let (bytes, sha256) = sign_statement(&lease(head), &[&signers.pair(Kind::Lease)]);
        let recorded = Recorded { kind: StatementKind::Lease, scope: agent.to_string(), epoch, serial, sha256 };
        self.record(tenant, recorded, bytes.clone()).await?;
        Ok(bytes)
    }

    /// The limits of a key that agents of a site go by, where the tenant's own signers sign policy: a change of them waits, and
    /// a lease above what is in force would be refused. None where the control plane's present is what is in force.
    pub async fn limits_in_force(&self, tenant: TenantId, site: SiteId, key: KeyId) -> Result<Option<Limits>, StatementsError> {
        let Some(current) = self.0.heartbeats.current(tenant, site).await? else { return Ok(None) };
        let Some(root) = current.members.iter().rev().find(|member| member.kind == Kind::Root) else { return Ok(None) };
        let (root, _) = self.open::<Root>(tenant, Scope::Tenant, root.envelope).await?;
        let authority = Authority::of(&payload_of(&root)).map_err(StatementsError::Root)?;
        if !authority.is_tenant_held(Kind::Policy) {
            return Ok(None);
        }
        for member in &current.members {
            let limits = match member.kind {
                Kind::Policy => self.open::<Policy>(tenant, member.scope, member.envelope).await?.0.keys.remove(&key).map(|key| key.limits),
                Kind::State => {
                    let (mut state, _) = self.open::<State>(tenant, member.scope, member.envelope).await?;
                    state.templated.remove(&key).map(|key| key.definition.limits)
                }
                _ => None,
            };
            if limits.is_some() {
                return Ok(limits);
            }
        }
        Ok(None)
    }

    /// Gives what is too large to be published. What is in force instead goes on, and everything else with it.
    async fn publish_all(&self, tenant: TenantId, shelf: &mut Option<Shelf>) -> Result<Vec<StatementsError>, StatementsError> {
        let started = Instant::now();
        self.0.compilations.fetch_add(1, Ordering::Relaxed);
        self.roots(tenant, shelf).await?;
        let asked = self.0.clock.now();
        let facts = self.0.facts.facts(tenant).await?;
        let Some(shelf) = shelf else { return Err(StatementsError::Missing) };
        if shelf.policies.is_empty() {
            self.fetch(tenant, &facts, shelf).await?;
        }
        self.refresh_waiting(tenant, shelf).await?;
        self.renew_own_root(tenant, shelf).await?;
        self.settle(tenant, shelf).await?;
        if self.is_behind(tenant, shelf.epoch()).await? {
            tracing::warn!(%tenant, "nothing is published: agents know newer statements than this control plane (freehold recovery status)");
            return Ok(Vec::new());
        }
        let signers = self.signers_under(tenant, &shelf.authority).await?;
        let Content { policies, states } = compile(&facts, &shelf.as_published());
        // Agents judge the time of a version by policy and state: a policy is not older than what it was compiled from, and a
        // state not younger.
        let newest = states.values().map(Headed::newest).max().unwrap_or_default();
        let compiled = self.0.clock.now().max(newest);
        let (mut count, mut held_back) = (0, Vec::new());
        for (scope, content) in policies {
            if !shelf.is_tenant_held() {
                let last = shelf.policies.get(&scope);
                let root = (shelf.epoch(), shelf.newest_root(), &*signers);
                let published = self.publish_or_renew(tenant, scope, content.clone(), last, root, compiled, &mut held_back).await?;
                if let Some(next) = published {
                    shelf.policies.insert(scope, next);
                    count += 1;
                }
            }
            if shelf.is_tenant_held() || shelf.waiting_root.is_some() || shelf.waiting.contains_key(&scope) {
                match self.propose_changed(tenant, scope, content, shelf, compiled).await {
                    Err(oversized @ StatementsError::Oversized { .. }) => held_back.push(oversized),
                    proposed => drop(proposed?),
                }
            }
        }
        let placed = projects_at_sites(&facts);
        for (site, content) in states {
            let content = if shelf.is_tenant_held() || !held_back.is_empty() {
                let here = placed.get(&site);
                let policies = shelf.reaching(site, |project| here.is_some_and(|projects| projects.contains(project)));
                within::policy(content, &policies, shelf.states.get(&site).map(|(state, _)| state), site)
            } else {
                content
            };
            let last = shelf.states.get(&site);
            let root = (shelf.epoch(), shelf.newest_root(), &*signers);
            if let Some(next) = self.publish_or_renew(tenant, Scope::Site(site), content, last, root, asked, &mut held_back).await? {
                shelf.states.insert(site, next);
                count += 1;
            }
        }
        let mut pinned = Vec::new();
        for site in facts.sites.keys() {
            let projects = placed.get(site);
            let members = shelf.members(*site, |project| projects.is_some_and(|projects| projects.contains(project)));
            if self.hangs_together(tenant, shelf, &members).await? {
                pinned.push((*site, members));
            } else {
                tracing::warn!(%tenant, %site, "policies lack signatures of the newest root's signers: the site keeps what it has until they are there");
            }
        }
        for some in pinned.chunks(PINNED_TOGETHER) {
            try_join_all(some.iter().map(|(site, members)| self.pin(tenant, *site, members))).await?;
        }
        self.forget_former(tenant, facts.sites.keys().copied(), shelf).await?;
        if count > 0 {
            tracing::info!(%tenant, statements = count, millis = started.elapsed().as_millis() as u64, "statements were published");
        }
        Ok(held_back)
    }

    /// A new heartbeat, unless the present one pins these already.
    async fn pin(&self, tenant: TenantId, site: SiteId, members: &[Member]) -> Result<(), StatementsError> {
        let current = self.0.heartbeats.current(tenant, site).await?;
        if current.is_some_and(|current| current.pins(members)) {
            return Ok(());
        }
        self.issue(tenant, site, Some(members), Duration::ZERO).await
    }

    /// Publishes what changed. Where that is too large, what was published last goes on, and is renewed in time.
    #[allow(clippy::too_many_arguments, reason = "those of publishing, and where what was held back is noted")]
    async fn publish_or_renew<S: Statement + Headed>(
        &self,
        tenant: TenantId,
        scope: Scope,
        content: S,
        last: Option<&(S, Member)>,
        root: (u64, u64, &TenantSigners),
        now: Timestamp,
        held_back: &mut Vec<StatementsError>,
    ) -> Result<Option<(S, Member)>, StatementsError> {
        match self.publish_changed(tenant, scope, content, last, root, now).await {
            Err(oversized @ StatementsError::Oversized { .. }) => {
                held_back.push(oversized);
                let Some((before, _)) = last else { return Ok(None) };
                self.publish_changed(tenant, scope, before.blank(), last, root, now).await
            }
            published => published,
        }
    }

    async fn publish_changed<S: Statement + Headed>(
        &self,
        tenant: TenantId,
        scope: Scope,
        content: S,
        last: Option<&(S, Member)>,
        (epoch, root_serial, signers): (u64, u64, &TenantSigners),
        now: Timestamp,
    ) -> Result<Option<(S, Member)>, StatementsError> {
        if let Some((last, member)) = last
            && last.blank() == content
            && last.head().root_serial == root_serial
            && !is_ending(S::KIND, member.expires, now)
        {
            return Ok(None);
        }
        let serial = last.map_or(1, |(_, member)| member.serial + 1);
        self.publish(tenant, scope, content, serial, (epoch, root_serial, signers), now).await.map(Some)
    }

    /// Signs and records one statement.
    async fn publish<S: Statement + Headed>(
        &self,
        tenant: TenantId,
        scope: Scope,
        content: S,
        serial: u64,
        (epoch, root_serial, signers): (u64, u64, &TenantSigners),
        now: Timestamp,
    ) -> Result<(S, Member), StatementsError> {
        let kind = recorded(S::KIND).ok_or(StatementsError::Missing)?;
        if S::KIND == Kind::Root && serial != 1 {
            return Err(StatementsError::TenantHeld(S::KIND));
        }
        let mut statement = content;
        let now = now.max(statement.newest());
        fill(statement.head_mut(), S::KIND, epoch, serial, root_serial, now);
        let (bytes, sha256) = sign_statement(&statement, &[&signers.pair(S::KIND)]);
        check_size(S::KIND, &scope_text(tenant, scope), bytes.len())?;
        let recorded = Recorded { kind, scope: scope_text(tenant, scope), epoch, serial, sha256 };
        let envelope = self.record(tenant, recorded, bytes.clone()).await?;
        self.keep_envelope(envelope, bytes.into());
        let expires = statement.head().expires;
        let member = Member { kind: S::KIND, scope, epoch, serial, sha256, envelope, issued: now, expires, since: 0 };
        Ok((statement, member))
    }

    /// Records a statement that was signed, its envelope beside it; gives the envelope's digest.
    pub(super) async fn record(&self, tenant: TenantId, recorded: Recorded, envelope: Vec<u8>) -> Result<Digest, StatementsError> {
        let Recorded { kind, scope, epoch, serial, sha256 } = recorded;
        let envelope_sha256 = Digest::of(&envelope);
        let id = stream_id(&*self.0.handler.keys(tenant).await?, kind, &scope);
        let command = StatementCommand::Publish { kind, scope, epoch, serial, sha256, envelope_sha256 };
        let options = Options { blobs: vec![envelope], ..Options::default() };
        let question = Question::new("publishStatement", "Statements", id);
        let ctx = self.context(tenant);
        let handled = self.0.handler.handle::<StatementStream>(&ctx, question, id, options, command).await;
        handled.map_err(|error| StatementsError::Record(Box::new(error)))?;
        Ok(envelope_sha256)
    }

    /// The roots, the first one made when there is none. Asked of the log each time: who signs policies may have changed
    /// by another replica's hand.
    async fn roots(&self, tenant: TenantId, shelf: &mut Option<Shelf>) -> Result<Vec<Member>, StatementsError> {
        let stream = self.stream(tenant, StatementKind::Root, &scope_text(tenant, Scope::Tenant)).await?;
        let known = |shelf: &Shelf| shelf.roots.iter().map(|root| root.envelope).eq(stream.envelopes.iter().copied());
        if let Some(shelf) = shelf.as_ref().filter(|shelf| !stream.envelopes.is_empty() && known(shelf)) {
            return Ok(shelf.roots.clone());
        }
        let (mut roots, mut newest) = (Vec::with_capacity(stream.envelopes.len()), None);
        for envelope in &stream.envelopes {
            let (root, member) = self.open::<Root>(tenant, Scope::Tenant, *envelope).await?;
            roots.push(member);
            newest = Some(root);
        }
        let newest = match newest {
            Some(root) => root,
            None => {
                let (signers, now) = (self.first_signers(tenant).await?, self.0.clock.now());
                let first = signers.first_root(tenant);
                let (root, member) = self.publish(tenant, Scope::Tenant, first, 1, (FIRST_EPOCH, 1, &signers), now).await?;
                roots.push(member);
                root
            }
        };
        let authority = Authority::of(&payload_of(&newest)).map_err(StatementsError::Root)?;
        *shelf = Some(Shelf::of(roots.clone(), Arc::new(authority)));
        Ok(roots)
    }

    /// Reads what was published last for every scope there is.
    async fn fetch(&self, tenant: TenantId, facts: &Facts, shelf: &mut Shelf) -> Result<(), StatementsError> {
        let scopes = std::iter::once(Scope::Tenant)
            .chain(facts.projects.keys().copied().map(Scope::Project))
            .chain(facts.sites.keys().copied().map(Scope::Site));
        for scope in scopes {
            let stream = self.stream(tenant, StatementKind::Policy, &scope_text(tenant, scope)).await?;
            if let Some(envelope) = stream.envelopes.last() {
                shelf.policies.insert(scope, self.open(tenant, scope, *envelope).await?);
            }
            self.take_waiting(tenant, scope, stream.pending, shelf).await?;
        }
        for site in facts.sites.keys() {
            let stream = self.stream(tenant, StatementKind::State, &scope_text(tenant, Scope::Site(*site))).await?;
            if let Some(envelope) = stream.envelopes.last() {
                shelf.states.insert(*site, self.open(tenant, Scope::Site(*site), *envelope).await?);
            }
        }
        Ok(())
    }

    pub(super) async fn stream(&self, tenant: TenantId, kind: StatementKind, scope: &str) -> Result<StatementStream, StatementsError> {
        let id = stream_id(&*self.0.handler.keys(tenant).await?, kind, scope);
        let loaded = self.0.handler.load::<StatementStream>(tenant, id).await;
        Ok(loaded.map_err(|error| StatementsError::Record(Box::new(error)))?.state)
    }

    /// A statement of our own that was recorded before.
    pub(super) async fn open<S: Statement>(&self, tenant: TenantId, scope: Scope, digest: Digest) -> Result<(S, Member), StatementsError> {
        let bytes = self.envelope(tenant, digest).await?;
        let envelope = Envelope::parse(&bytes, S::KIND.max_bytes()).map_err(StatementsError::Damaged)?;
        let parsed: S =
            serde_json::from_slice(&envelope.payload).map_err(|error| StatementsError::Damaged(EnvelopeError::Payload(error)))?;
        let head = parsed.head();
        let member = Member {
            kind: S::KIND,
            scope,
            epoch: head.epoch,
            serial: head.serial,
            sha256: Digest::of(&envelope.payload),
            envelope: digest,
            issued: head.issued,
            expires: head.expires,
            since: 0,
        };
        Ok((parsed, member))
    }

    pub(super) async fn envelope(&self, tenant: TenantId, digest: Digest) -> Result<Arc<[u8]>, StatementsError> {
        if let Some(bytes) = locked(&self.0.envelopes).get(&digest) {
            return Ok(Arc::clone(bytes));
        }
        let bytes: Arc<[u8]> = self.0.handler.store().blob(tenant, digest).await?.ok_or(StatementsError::Missing)?.into();
        self.keep_envelope(digest, Arc::clone(&bytes));
        Ok(bytes)
    }

    fn keep_envelope(&self, digest: Digest, bytes: Arc<[u8]>) {
        let weight = bytes.len();
        locked(&self.0.envelopes).put(digest, bytes, weight);
    }

    pub(super) fn serving(&self) -> &Serving {
        &self.0.serving
    }

    pub(super) fn shelf(&self, tenant: TenantId) -> Arc<tokio::sync::Mutex<Option<Shelf>>> {
        self.0.published.of(tenant)
    }

    /// Keeps what was published last, so that it is not read again soon.
    fn keep_shelf(&self, tenant: TenantId, place: &Arc<tokio::sync::Mutex<Option<Shelf>>>, shelf: Option<&Shelf>) {
        if let Some(shelf) = shelf {
            locked(&self.0.shelves).put(tenant, Arc::clone(place), shelf.weight());
        }
    }

    pub(super) fn in_use(&self) -> &InUse {
        &self.0.in_use
    }

    pub(super) fn secrets(&self) -> &Secrets {
        &self.0.secrets
    }

    pub(super) fn ids(&self) -> &dyn Ids {
        &*self.0.ids
    }

    pub(super) fn handler(&self) -> &Handler {
        &self.0.handler
    }

    pub(super) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    pub(super) fn heartbeats(&self) -> &Heartbeats {
        &self.0.heartbeats
    }

    pub(super) fn behind(&self) -> &Behind {
        &self.0.behind
    }

    pub(super) fn facts(&self) -> &FactsReader {
        &self.0.facts
    }

    pub(super) fn context(&self, tenant: TenantId) -> OpContext {
        let request = new_id(&*self.0.ids, self.0.clock.now());
        OpContext { tenant, principal: PRINCIPAL, scopes: Vec::new(), via: None, request }
    }
}

/// What is recorded of a statement.
pub(super) struct Recorded {
    pub(super) kind: StatementKind,
    /// What it is for: the id of a tenant, project, site or agent, as text.
    pub(super) scope: String,
    pub(super) epoch: u64,
    pub(super) serial: u64,
    pub(super) sha256: Digest,
}

pub(super) fn is_ending(kind: Kind, expires: Timestamp, now: Timestamp) -> bool {
    expires.since(now) < renew_before(kind)
}

/// Agents refuse what is larger before they read it.
pub(super) fn check_size(kind: Kind, scope: &str, bytes: usize) -> Result<(), StatementsError> {
    let max = kind.max_bytes();
    if bytes > max { Err(StatementsError::Oversized { kind, scope: scope.to_owned(), bytes, max }) } else { Ok(()) }
}

/// The exact bytes that are signed.
#[allow(clippy::expect_used, reason = "our own types: their map keys are all text, and writing to memory cannot fail")]
pub(super) fn payload_of<S: Statement>(statement: &S) -> Vec<u8> {
    serde_json::to_vec(statement).expect("statements are JSON")
}

const fn recorded(kind: Kind) -> Option<StatementKind> {
    match kind {
        Kind::Root => Some(StatementKind::Root),
        Kind::Policy => Some(StatementKind::Policy),
        Kind::State => Some(StatementKind::State),
        Kind::Heartbeat | Kind::Lease => None,
    }
}

/// What a stream of statements is for, as text: the id of the tenant, project or site.
pub(super) fn scope_text(tenant: TenantId, scope: Scope) -> String {
    match scope {
        Scope::Tenant => tenant.to_string(),
        Scope::Project(project) => project.to_string(),
        Scope::Site(site) => site.to_string(),
    }
}

#[cfg(test)]
mod tests;
