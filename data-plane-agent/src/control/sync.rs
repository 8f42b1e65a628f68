//! Statements: fetched by long poll, judged by `accept`, kept as the exact bytes, and only then put in force, whole. Verified
//! again at every start.

use std::{sync::Arc, time::Duration};

use schema::{
    clock::{Clock, Ids},
    wire::agent::Rejected,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trust::accept::{AcceptedSet, Identity, Rejection, accept, restore};

use super::{
    Backoff,
    client::{CallError, Connection, Served},
    directory::{ControlDirectory, KeepError},
    time::AgentClock,
};

/// How long one poll waits for something new.
const WAIT: Duration = Duration::from_secs(50);
/// The first pause after a failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// How often the time is kept on disk.
const KEEP_TIME_EVERY: Duration = Duration::from_secs(60);
/// The least time between two polls, when the control plane answers at once with nothing.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

/// Puts an accepted set in force; or says why its policies cannot be used, and then the former set stays.
pub type PutInForce = Box<dyn Fn(&AcceptedSet) -> Result<(), Rejected> + Send + Sync>;

/// Notes why the newest set was not accepted, for status and reports.
pub type NoteRejection = Box<dyn Fn(Rejected) + Send + Sync>;

/// What fetching statements needs.
pub struct SyncParts {
    /// The control plane.
    pub connection: Arc<Connection>,
    /// Where sets and time are kept.
    pub directory: ControlDirectory,
    /// Who the agent is, and what it pinned.
    pub identity: Identity,
    /// The time.
    pub clock: Arc<AgentClock>,
    /// Randomness, for pauses.
    pub ids: Arc<dyn Ids>,
    /// What happens with an accepted set.
    pub put_in_force: PutInForce,
    /// What happens with a rejection.
    pub note_rejection: NoteRejection,
}

/// Why a poll changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// No set came.
    #[error("fetching statements failed")]
    Call(#[from] CallError),
    /// A set came and is not believed.
    #[error("the newest statements are not believed")]
    Rejected(#[from] Rejection),
    /// It is believed, but its policies cannot be used.
    #[error("the newest statements cannot be used ({}): {}", .0.code, .0.detail)]
    Unusable(Rejected),
    /// It could not be kept, and so was not used.
    #[error("the newest statements could not be kept, and so are not used")]
    Keep(#[from] KeepError),
}

/// Keeps the statements of the agent current.
pub struct StatementSync {
    parts: SyncParts,
    etag: Option<String>,
    accepted: watch::Sender<Option<Arc<AcceptedSet>>>,
}

impl StatementSync {
    /// Begins with what was kept: verified again, and put in force if it still holds. A cache that does not hold is not used,
    /// and the next set is judged as if there were none.
    pub fn start(parts: SyncParts) -> Result<Self, KeepError> {
        let sync = Self { parts, etag: None, accepted: watch::Sender::new(None) };
        if let Some(bytes) = sync.parts.directory.statements()? {
            match restore(&bytes, &sync.parts.identity) {
                Ok(set) => {
                    sync.parts.clock.heard(set.told());
                    if let Err(rejected) = sync.enforce(set) {
                        tracing::error!(code = rejected.code, detail = rejected.detail, "the kept statements cannot be used");
                    }
                }
                Err(rejection) => {
                    tracing::error!(
                        code = rejection.code(),
                        error = &rejection as &dyn std::error::Error,
                        "the kept statements do not hold and are not used: new ones are fetched as soon as the control plane is reached"
                    );
                    (sync.parts.note_rejection)(sync.rejected(&rejection));
                }
            }
        }
        Ok(sync)
    }

    /// The accepted set, and every one that follows.
    pub fn follow(&self) -> watch::Receiver<Option<Arc<AcceptedSet>>> {
        self.accepted.subscribe()
    }

    /// Polls until `stopping` is cancelled, and keeps the time meanwhile.
    pub async fn run(mut self, stopping: CancellationToken) {
        let keeping = tokio::spawn(keep_time(self.parts.directory.clone(), self.parts.clock.clone(), stopping.clone()));
        let (first, longest) = PAUSES;
        let mut backoff = Backoff::new(first, longest);
        let mut last_failure = None::<String>;
        while !stopping.is_cancelled() {
            let outcome = tokio::select! {
                () = stopping.cancelled() => break,
                outcome = self.once(WAIT) => outcome,
            };
            let pause = match outcome {
                Ok(_) => {
                    if last_failure.take().is_some() {
                        tracing::info!("statements are current again");
                    }
                    backoff.reset();
                    LEAST_PAUSE
                }
                Err(error) => {
                    let text = error.to_string();
                    metrics::counter!("freehold_sync_failures_total").increment(1);
                    // Once for each kind of failure: an outage of a day is not a line every minute.
                    if last_failure.as_ref() != Some(&text) {
                        tracing::warn!(error = &error as &dyn std::error::Error, "statements could not be refreshed");
                        last_failure = Some(text);
                    }
                    let pause = backoff.pause(&*self.parts.ids);
                    match &error {
                        SyncError::Call(error) => error.retry_after().map_or(pause, |least| pause.max(least)),
                        _ => pause,
                    }
                }
            };
            tokio::select! {
                () = stopping.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        keeping.abort();
        if let Err(error) = self.parts.directory.keep_time(&self.parts.clock.stored()) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the time could not be kept");
        }
    }

    /// Polls once. Gives whether another set is in force now.
    pub async fn once(&mut self, wait: Duration) -> Result<bool, SyncError> {
        let client = self.parts.connection.client();
        match client.statements(self.etag.as_deref(), wait).await? {
            None => Ok(false),
            Some(served) => self.take(served),
        }
    }

    /// Judges a set, keeps it, and puts it in force, in this order.
    fn take(&mut self, served: Served) -> Result<bool, SyncError> {
        let current = self.accepted.borrow().clone();
        let confirmed = self.parts.directory.confirmed()?;
        let now = self.parts.clock.moment();
        let judged = accept(current.as_deref(), &served.set, &self.parts.identity, &confirmed, now);
        let set = judged.inspect_err(|rejection| {
            metrics::counter!("freehold_statements_rejected_total", "code" => rejection.code()).increment(1);
            (self.parts.note_rejection)(self.rejected(rejection));
        })?;
        if current.is_some_and(|current| current.digest() == set.digest()) {
            self.etag = served.etag;
            return Ok(false);
        }
        self.parts.directory.keep_statements(&set.to_bytes())?;
        self.parts.clock.heard(set.told());
        self.parts.directory.keep_time(&self.parts.clock.stored())?;
        self.enforce(set).map_err(SyncError::Unusable)?;
        // Only a set in force is not asked for again.
        self.etag = served.etag;
        Ok(true)
    }

    /// What was accepted is remembered even when its policies cannot be used: nothing older may follow it.
    fn enforce(&self, set: AcceptedSet) -> Result<(), Rejected> {
        let set = Arc::new(set);
        let usable = (self.parts.put_in_force)(&set);
        if let Err(rejected) = &usable {
            (self.parts.note_rejection)(rejected.clone());
        }
        tracing::debug!(statements = set.serials(), usable = usable.is_ok(), "statements were accepted");
        self.accepted.send_replace(Some(set));
        usable
    }

    fn rejected(&self, rejection: &Rejection) -> Rejected {
        Rejected { code: rejection.code().to_owned(), detail: whole(rejection), at: self.parts.clock.now() }
    }
}

/// The message of an error and of what caused it, in one line.
fn whole(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", whole(source)),
        None => error.to_string(),
    }
}

async fn keep_time(directory: ControlDirectory, clock: Arc<AgentClock>, stopping: CancellationToken) {
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(KEEP_TIME_EVERY) => {}
        }
        if let Err(error) = directory.keep_time(&clock.stored()) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the time could not be kept");
        }
    }
}
