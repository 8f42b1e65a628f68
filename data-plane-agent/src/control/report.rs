//! Tells the control plane what the agent made, what it holds and what it enforces.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use schema::{
    clock::{Ids, Timestamp},
    encoding::Base64,
    wire::agent::{Finding, KNOWS_LESS, RatchetClaim, Rejected, Report, ReportAnswer},
};
use tokio::sync::{Mutex, Notify, watch};
use tokio_util::sync::CancellationToken;
use trust::accept::AcceptedSet;

use super::{
    Backoff,
    client::{CallError, Connection},
    directory::KeepError,
    ratchet::RatchetKeeper,
};

/// A report is sent at least this often, so that the control plane knows what is enforced.
const AT_LEAST_EVERY: Duration = Duration::from_secs(300);
/// The first pause after a failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// The most documents of one report.
const MAX_DOCUMENTS: usize = 500;

/// Signed documents for the control plane.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Documents {
    /// Records of versions that were made here.
    pub version_records: Vec<Base64>,
    /// What the vault holds, and what is gone from it.
    pub holder_reports: Vec<Base64>,
    /// Vouches for other agents of the site.
    pub vouches: Vec<Base64>,
    /// Versions that are in sealed backups.
    pub backup_reports: Vec<Base64>,
    /// The recovery key that was made here.
    pub recovery_key: Option<Base64>,
    /// What the self-tests found.
    pub self_tests: Option<Base64>,
    /// What keeps the agent from what its site asks.
    pub findings: Vec<Finding>,
    /// Whether something that is asked for failed, and is to be tried again soon.
    pub unfinished: bool,
}

/// Whoever makes and destroys key material, and says so in signed documents.
#[async_trait]
pub trait Work: Send + 'static {
    /// Does what the set in force asks; gives what the control plane does not know yet.
    async fn documents(&mut self) -> Documents;

    /// The control plane took these holder reports, and whatever went with them, but for what it refused.
    fn delivered(&mut self, holder_reports: &[Base64], answer: &ReportAnswer);
}

/// A report, as it is sent or written down.
pub struct Prepared {
    /// The report.
    pub report: Report,
    /// Whether it says all there is to say.
    pub whole: bool,
    /// Whether something that is asked for failed, and is to be tried again soon.
    pub unfinished: bool,
}

/// Puts reports together, for the connection and for files.
#[async_trait]
pub trait Reporting: Send + Sync {
    /// Does what there is to do, and says it.
    async fn prepare(&self) -> Result<Prepared, KeepError>;

    /// The control plane took a report.
    async fn answered(&self, prepared: &Prepared, answer: &ReportAnswer);
}

/// What reports are made of.
pub struct Reports<W> {
    /// The accepted set, and every one that follows (`StatementSync::follow`).
    pub accepted: watch::Receiver<Option<Arc<AcceptedSet>>>,
    /// The serials of heartbeat and state whose policies are enforced.
    pub enforced: Box<dyn Fn() -> Option<(u64, u64)> + Send + Sync>,
    /// Why the newest set was not accepted or cannot be used, if so.
    pub rejection: Box<dyn Fn() -> Option<Rejected> + Send + Sync>,
    /// Makes what there is to say.
    pub work: Mutex<W>,
    /// What its vault is: `file`, …
    pub vault: String,
    /// Proves that every report is of the same agent as the one before.
    pub ratchet: Arc<RatchetKeeper>,
    /// The name of this host, for people.
    pub host: String,
    /// When this process began.
    pub started: Timestamp,
}

/// Sends reports.
pub struct Reporter {
    /// The control plane.
    pub connection: Arc<Connection>,
    /// The accepted set, and every one that follows.
    pub accepted: watch::Receiver<Option<Arc<AcceptedSet>>>,
    /// Puts them together.
    pub reports: Arc<dyn Reporting>,
    /// Counts the rounds of self-tests (`SelfTests::follow`).
    pub tested: watch::Receiver<u64>,
    /// Counts arrivals of material from other agents.
    pub arrived: watch::Receiver<u64>,
    /// Rung when there is something new to say.
    pub to_report: Arc<Notify>,
    /// Randomness, for pauses.
    pub ids: Arc<dyn Ids>,
}

/// Why a report was not sent or not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The control plane said no, or nothing.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What must be kept before it is sent could not be.
    #[error("nothing can be reported before the agent's ratchet is kept")]
    Keep(#[from] KeepError),
}

impl Reporter {
    /// Reports after each accepted set, each round of self-tests and each arrival of material, and now and then, until
    /// `stopping` is cancelled.
    pub async fn run(mut self, stopping: CancellationToken) {
        let (first, longest) = PAUSES;
        let mut backoff = Backoff::new(first, longest);
        loop {
            // Whatever changes from here on is looked at again.
            self.accepted.borrow_and_update();
            self.tested.borrow_and_update();
            self.arrived.borrow_and_update();
            let reported = tokio::select! {
                () = stopping.cancelled() => return,
                reported = self.once() => reported,
            };
            let pause = match reported {
                Ok(false) => {
                    backoff.reset();
                    AT_LEAST_EVERY
                }
                // Nobody says when a vault is back that was gone for a moment.
                Ok(true) => backoff.pause(&*self.ids),
                Err(error) => {
                    metrics::counter!("freehold_report_failures_total").increment(1);
                    tracing::warn!(error = &error as &dyn std::error::Error, "the agent's report was not taken");
                    let least = match &error {
                        ReportError::Call(error) => error.retry_after(),
                        ReportError::Keep(_) => None,
                    };
                    least.unwrap_or_default().max(backoff.pause(&*self.ids))
                }
            };
            tokio::select! {
                () = stopping.cancelled() => return,
                changed = self.accepted.changed() => if changed.is_err() { return },
                changed = self.tested.changed() => if changed.is_err() { return },
                changed = self.arrived.changed() => if changed.is_err() { return },
                () = self.to_report.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Does what there is to do, and reports it once; whether some of it failed. An agent that is connected to nothing says it in its
    /// next outbox.
    pub async fn once(&mut self) -> Result<bool, ReportError> {
        let prepared = self.reports.prepare().await?;
        if self.connection.is_apart() {
            return Ok(prepared.unfinished);
        }
        let answer = self.connection.client().report(&prepared.report).await?;
        self.reports.answered(&prepared, &answer).await;
        Ok(prepared.unfinished)
    }
}

#[async_trait]
impl<W: Work> Reporting for Reports<W> {
    async fn prepare(&self) -> Result<Prepared, KeepError> {
        let mut documents = self.work.lock().await.documents().await;
        // More than one request may hold is said in the next ones: what was not delivered is given again.
        let lists = [&documents.version_records, &documents.holder_reports, &documents.backup_reports];
        let whole = lists.iter().all(|list| list.len() <= MAX_DOCUMENTS);
        documents.version_records.truncate(MAX_DOCUMENTS);
        documents.holder_reports.truncate(MAX_DOCUMENTS);
        documents.backup_reports.truncate(MAX_DOCUMENTS);
        let unfinished = documents.unfinished;
        let claim = self.ratchet.claim()?;
        Ok(Prepared { report: self.report(documents, claim), whole, unfinished })
    }

    async fn answered(&self, prepared: &Prepared, answer: &ReportAnswer) {
        if let Some(claim) = &prepared.report.ratchet {
            self.ratchet.was_answered(claim);
        }
        for refused in &answer.refused {
            tracing::error!(
                list = refused.list,
                code = refused.code,
                detail = refused.detail,
                "the control plane refused a signed document"
            );
        }
        if prepared.whole {
            self.work.lock().await.delivered(&prepared.report.holder_reports, answer);
        }
    }
}

impl<W: Work> Reports<W> {
    fn report(&self, documents: Documents, claim: RatchetClaim) -> Report {
        let accepted = self.accepted.borrow().clone();
        let (enforced, rejection) = ((self.enforced)(), (self.rejection)());
        // The control plane knows less than this agent: it is shown what it has forgotten.
        let knows_less = rejection.as_ref().is_some_and(|rejected| KNOWS_LESS.contains(&rejected.code.as_str()));
        let holds = accepted.as_ref().filter(|_| knows_less).map(|set| set.statements());
        Report {
            version_records: documents.version_records,
            holder_reports: documents.holder_reports,
            vouches: documents.vouches,
            backup_reports: documents.backup_reports,
            recovery_key: documents.recovery_key,
            enforced_heartbeat: enforced.map(|(heartbeat, _)| heartbeat),
            enforced_state: enforced.map(|(_, state)| state),
            epoch: accepted.as_ref().map(|set| set.root().head.epoch),
            rejection,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            vault: self.vault.clone(),
            self_tests: documents.self_tests,
            ratchet: Some(claim),
            host: Some(self.host.clone()),
            started: Some(self.started),
            findings: documents.findings,
            holds,
        }
    }
}
