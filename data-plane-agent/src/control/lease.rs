//! Leases: asked for before they run out, judged by `accept_lease`, kept, and only then spent from.

use std::{sync::Arc, time::Duration};

use schema::{
    clock::{Ids, random},
    wire::agent::{LeaseAnswer, LeaseAsk},
};
use service::files::FileError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trust::{
    accept::{AcceptedSet, Identity, accept_lease},
    pair::Pair,
};

use super::{
    Backoff,
    client::{CallError, Connection},
    time::AgentClock,
};
use crate::{
    budgets::{Budgets, TakeError},
    policy::current::Current,
};

/// How often budgets are looked at when nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The first pause after a failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));

/// Why there is no newer lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// No lease came.
    #[error("asking for a lease failed")]
    Call(#[from] CallError),
    /// What came is not used.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// The request could not be kept, and so was not sent.
    #[error("the request for a lease could not be kept, and so was not sent")]
    Keep(#[from] FileError),
}

/// Keeps the leases of the agent current.
#[derive(Clone)]
pub struct LeaseKeeper {
    /// The control plane.
    pub connection: Arc<Connection>,
    /// The accepted set, and every one that follows.
    pub accepted: watch::Receiver<Option<Arc<AcceptedSet>>>,
    /// The set in force.
    pub current: Arc<Current>,
    /// What is spent.
    pub budgets: Arc<Budgets>,
    /// Who the agent is.
    pub identity: Identity,
    /// Signs requests.
    pub pair: Arc<Pair>,
    /// The time.
    pub clock: Arc<AgentClock>,
    /// Randomness.
    pub ids: Arc<dyn Ids>,
}

impl LeaseKeeper {
    /// Asks whenever there is something to ask for, until `stopping` is cancelled.
    pub async fn run(mut self, stopping: CancellationToken) {
        let (first, longest) = PAUSES;
        let mut backoff = Backoff::new(first, longest);
        loop {
            let set = self.accepted.borrow_and_update().clone();
            let outcome = match set {
                Some(set) => tokio::select! {
                    () = stopping.cancelled() => return,
                    outcome = self.once(&set) => outcome,
                },
                None => Ok(()),
            };
            let pause = match outcome {
                Ok(()) => {
                    backoff.reset();
                    None
                }
                Err(error) => {
                    metrics::counter!("freehold_lease_failures_total").increment(1);
                    tracing::warn!(error = &error as &dyn std::error::Error, "there is no newer lease");
                    let least = if let LeaseError::Call(error) = &error { error.retry_after() } else { None };
                    Some(least.unwrap_or_default().max(backoff.pause(&*self.ids)))
                }
            };
            // After a failure nobody is heard before the pause is over: who waits does not make it shorter.
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(pause.unwrap_or(LOOK_EVERY)) => {}
                changed = self.accepted.changed(), if pause.is_none() => if changed.is_err() { return },
                () = self.budgets.wanted(), if pause.is_none() => {}
            }
        }
    }

    /// Asks once, if there is something to ask for.
    pub async fn once(&self, set: &AcceptedSet) -> Result<(), LeaseError> {
        let Some(ask) = self.ask(set).await? else { return Ok(()) };
        if self.connection.is_apart() {
            return Ok(()); // the next outbox asks
        }
        let answer = self.connection.client().lease(&ask).await?;
        self.take(set, &answer).await
    }

    /// What there is to ask for, kept before it is sent.
    pub async fn ask(&self, set: &AcceptedSet) -> Result<Option<LeaseAsk>, LeaseError> {
        if let Err(rejection) = self.budgets.activate(set) {
            tracing::error!(code = rejection.code(), "the kept lease does not hold and is not used: a new one is asked for");
        }
        let Some(in_force) = self.current.load() else { return Ok(None) };
        let Some(wishes) = self.budgets.wishes(&in_force) else { return Ok(None) };
        let (nonce, now) = (random::<16>(&*self.ids), self.clock.moment().latest());
        let request = self.budgets.request(&wishes, |ledger| ledger.request(&wishes, &self.identity, &self.pair, nonce, now)).await?;
        Ok(request.map(|request| LeaseAsk { request }))
    }

    /// Judges what was answered, and keeps it.
    pub async fn take(&self, set: &AcceptedSet, answer: &LeaseAnswer) -> Result<(), LeaseError> {
        let now = self.clock.moment();
        Ok(self.budgets.take_lease(|ledger| accept_lease(set, &answer.lease, ledger.memory(), Some(now))).await?)
    }
}
