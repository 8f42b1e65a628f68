//! An agent's request to a signed lease: what it accounts for is settled, key by key; what it then holds is signed, recorded,
//! and handed to it alone.

use std::{collections::BTreeMap, sync::Arc};

use schema::{
    clock::{Clock, Ids},
    encoding::Digest,
    id::{AgentId, KeyId, KeyVersion},
    key::{Limits, VersionState},
    ranges::LimitKind,
    wire::agent::{LeaseAnswer, LeaseAsk},
};
use trust::{
    document::{BudgetRequest, LeaseRequest},
    dsse::{EnvelopeError, open_document},
    pair::{PublicPair, Signers},
    statement::lease::{Lease, Leased, Share},
};

use super::{Budget, BudgetCommand, BudgetRefusal, Part};
use crate::{
    access::permit::Question,
    agents::{Agent, enrolment::agent_context},
    bundles::service::{Statements, StatementsError},
    eventing::handler::{CommandError, Handler, Options},
    keys::{Holder, Key, KeyRefusal},
    pki::identity::AgentIdentity,
    sealing::SealingError,
};

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The agent may do nothing for now.
    #[error("an agent gets a lease once somebody has vouched for it, and while it is not suspended")]
    NotAtWork,
    /// The request is not the agent's own.
    #[error("the request is not signed by this agent")]
    NotGenuine(#[source] EnvelopeError),
    /// The request names somebody else.
    #[error("the request names another tenant, site or agent than its sender")]
    OfAnother,
    /// The command was refused, or broke.
    #[error("settling what an agent holds failed")]
    Settle(#[source] Box<CommandError<BudgetRefusal>>),
    /// The key could not be read.
    #[error("reading a key failed")]
    Key(#[source] Box<CommandError<KeyRefusal>>),
    /// The lease could not be signed or recorded.
    #[error("signing a lease failed")]
    Statements(#[from] StatementsError),
    /// The tenant's keys could not be used.
    #[error("opening the tenant's keys failed")]
    Sealing(#[from] SealingError),
    /// What is stored does not read.
    #[error("what is stored of the agent is damaged")]
    Damaged,
}

impl LeaseError {
    /// A stable code; none for faults.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::NotAtWork => Some("agent_not_rostered"),
            Self::NotGenuine(_) => Some("document_not_genuine"),
            Self::OfAnother => Some("document_of_another_site"),
            Self::Settle(error) => error.code(),
            Self::Statements(error) if error.is_race() => Some("contended"),
            _ => None,
        }
    }
}

/// Shares budgets out.
#[derive(Clone)]
pub struct Leases {
    handler: Handler,
    statements: Statements,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

impl Leases {
    /// Puts the parts together.
    pub fn new(handler: Handler, statements: Statements, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Self { handler, statements, clock, ids }
    }

    /// Settles what an agent says, and gives it a lease of all that it holds then. The same request again gives another
    /// lease of the same.
    pub async fn take(&self, identity: &AgentIdentity, agent: &Agent, ask: &LeaseAsk) -> Result<LeaseAnswer, LeaseError> {
        if !agent.is_at_work() {
            return Err(LeaseError::NotAtWork);
        }
        let enrolment = agent.enrolment.as_ref().ok_or(LeaseError::Damaged)?;
        let pair = PublicPair::parse(enrolment.ed25519.as_slice(), enrolment.ml_dsa_65.as_slice()).map_err(|_| LeaseError::Damaged)?;
        let signed = open_document::<LeaseRequest>(ask.request.as_slice(), &Signers::one(pair), 1).map_err(LeaseError::NotGenuine)?;
        let (request, sha256) = (signed.payload, signed.sha256);
        if (request.tenant, request.site, request.agent) != (identity.tenant, identity.site, identity.agent) {
            return Err(LeaseError::OfAnother);
        }
        let mut by_key = BTreeMap::<KeyId, BTreeMap<u32, BudgetRequest>>::new();
        for (version, budget) in request.budgets {
            by_key.entry(version.key).or_default().insert(version.number, budget);
        }
        let mut lease = Given { number: request.number, answers: Some(sha256), budgets: BTreeMap::new() };
        for (key, versions) in by_key {
            self.settle(identity, key, versions, sha256, &mut lease).await?;
        }
        let lease = self.statements.lease(identity.tenant, identity.site, identity.agent, |head| Lease {
            head,
            number: lease.number,
            answers: lease.answers,
            budgets: lease.budgets,
        });
        Ok(LeaseAnswer { lease: lease.await?.into() })
    }

    async fn settle(
        &self,
        identity: &AgentIdentity,
        key: KeyId,
        versions: BTreeMap<u32, BudgetRequest>,
        request: Digest,
        given: &mut Given,
    ) -> Result<(), LeaseError> {
        let AgentIdentity { tenant, site, agent } = *identity;
        let state = self.handler.load::<Key>(tenant, key).await.map_err(|error| LeaseError::Key(Box::new(error)))?.state;
        let is_here = state.fixed.as_ref().is_some_and(|fixed| fixed.placement.contains(&site));
        if !is_here {
            return Ok(());
        }
        let mut state = state;
        if let Some(told) = self.statements.limits_in_force(tenant, site, key).await? {
            state.limits = strictest(&state.limits, &told);
        }
        let number = given.number;
        let parts = versions
            .iter()
            .filter(|(number, _)| state.versions.contains_key(number))
            .flat_map(|(number, asked)| LimitKind::ALL.iter().map(|limit| part(&state, agent, *number, *limit, asked)));
        let command = BudgetCommand::Settle { key, agent, number, request, parts: parts.collect() };
        let id = Budget::id(&*self.handler.keys(tenant).await?, key);
        let ctx = agent_context(identity, &*self.ids, self.clock.now());
        let question = Question::new("settleBudget", "Key", key);
        let handled = self.handler.handle::<Budget>(&ctx, question, id, Options::default(), command).await;
        let budget = handled.map_err(|error| LeaseError::Settle(Box::new(error)))?.state;
        given.answers = given.answers.filter(|_| budget.answers(agent, number, request));
        given.number = given.number.max(budget.requests.get(&agent).map_or(0, |last| last.number));
        for (number, version) in &budget.versions {
            let mut leased = Leased::default();
            for limit in LimitKind::ALL {
                let (pool, ceiling) = (version.of(*limit), ceiling(&state, *limit));
                *leased.share.of_mut(*limit) = pool.held_by(agent).below(ceiling.unwrap_or(u64::MAX));
                let left = ceiling.map(|ceiling| pool.left(ceiling));
                match limit {
                    LimitKind::Uses => leased.uses_left = left,
                    LimitKind::Bytes => leased.bytes_left = left,
                }
            }
            // Of the others this agent need not even have heard.
            if versions.contains_key(number) || leased.share != Share::default() {
                given.budgets.insert(KeyVersion::new(key, *number), leased);
            }
        }
        Ok(())
    }
}

/// What goes into the lease.
struct Given {
    number: u64,
    answers: Option<Digest>,
    budgets: BTreeMap<KeyVersion, Leased>,
}

/// The hard limits of both: a raised one holds once its policy is signed, a lowered one at once.
fn strictest(wanted: &Limits, told: &Limits) -> Limits {
    let lower = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    Limits { hard_uses: lower(wanted.hard_uses, told.hard_uses), hard_bytes: lower(wanted.hard_bytes, told.hard_bytes), ..wanted.clone() }
}

/// The soft and the hard limit in force: the key's own, within what its algorithm allows.
fn limits(key: &Key, limit: LimitKind) -> (Option<u64>, Option<u64>) {
    match &key.fixed {
        Some(fixed) => key.limits.within(fixed.algorithm).of(limit),
        None => key.limits.of(limit),
    }
}

/// The hard limit; none when there is none.
fn ceiling(key: &Key, limit: LimitKind) -> Option<u64> {
    limits(key, limit).1
}

fn part(key: &Key, agent: AgentId, number: u32, limit: LimitKind, asked: &BudgetRequest) -> Part {
    let version = key.versions.get(&number);
    let has_it = |holder: &&Holder| holder.ready.is_some() && holder.gone.is_none();
    let holders = version.map_or(0, |version| version.holders.values().filter(has_it).count());
    // Nobody else has a use for it.
    let asker_has_it = version.and_then(|version| version.holders.get(&agent)).filter(has_it).is_some();
    let active = version.is_some_and(|version| version.state == VersionState::Active);
    let gives = active && asker_has_it && limits(key, limit) != (None, None);
    Part {
        version: number,
        limit,
        spent: asked.spent.of(limit).clone(),
        returned: asked.returned.of(limit).clone(),
        wanted: if gives { asked.wanted(limit) } else { 0 },
        ceiling: ceiling(key, limit).unwrap_or(u64::MAX),
        among: holders.max(1) as u64,
    }
}
