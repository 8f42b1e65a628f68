//! Statements: fetched by long poll, judged by `accept`, kept as the exact bytes, and only then put in force, whole. Verified
//! again at every start.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use schema::{
    clock::{Clock, Ids},
    encoding::Base64,
    wire::agent::{KNOWS_LESS, Rejected},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trust::accept::{AcceptedSet, Identity, Rejection, accept, restore};

use super::{
    Backoff,
    carried::{self, Taken},
    client::{CallError, Connection, Served},
    directory::{ControlDirectory, KeepError},
    ratchet::RatchetKeeper,
    time::AgentClock,
};

/// How long one poll waits for something new.
const WAIT: Duration = Duration::from_secs(50);
/// The first pause after a failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// How often the time is kept on disk.
const KEEP_TIME_EVERY: Duration = Duration::from_secs(60);
/// How often it is looked whether a person here confirmed something.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The least time between two polls, when the control plane answers at once with nothing.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

/// Puts an accepted set in force; or says why its policies cannot be used, and then only what it restricts takes effect.
pub type PutInForce = Box<dyn Fn(&AcceptedSet) -> Result<(), Rejected> + Send + Sync>;

/// Notes why the newest set was not accepted, for status and reports.
pub type NoteRejection = Box<dyn Fn(Rejected) + Send + Sync>;

/// Notes whether the control plane says that this agent is no longer one.
pub type NoteCutOff = Box<dyn Fn(bool) + Send + Sync>;

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
    /// What happens when the control plane says that this agent is no longer one, and when it is one again.
    pub note_cut_off: NoteCutOff,
    /// Where the agent's ratchet is.
    pub ratchet: Arc<RatchetKeeper>,
    /// Where sets are left that are carried by hand.
    pub carried: PathBuf,
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
    /// Whether the accepted set has every statement that was served under this tag: then what comes next may be a delta to it.
    is_base: bool,
    accepted: watch::Sender<Option<Arc<AcceptedSet>>>,
    /// The set whose policies grant: the accepted one, unless they cannot be used.
    granting: Option<Arc<AcceptedSet>>,
    /// Why the control plane says that this agent is no longer one.
    cut_off: Option<String>,
}

impl StatementSync {
    /// Begins with what was kept: verified again, and put in force if it still holds. A cache that does not hold is not used,
    /// and the next set is judged as if there were none.
    pub fn start(parts: SyncParts) -> Result<Self, KeepError> {
        let cut_off = parts.directory.cut_off()?;
        (parts.note_cut_off)(cut_off.is_some());
        let mut sync = Self { parts, etag: None, is_base: false, accepted: watch::Sender::new(None), granting: None, cut_off };
        sync.resume_granting()?;
        if let Some(bytes) = sync.parts.directory.statements()? {
            match restore(&bytes, &sync.parts.identity) {
                Ok(set) => {
                    sync.parts.clock.heard(set.told());
                    match sync.enforce(set) {
                        Err(SyncError::Keep(error)) => return Err(error),
                        Err(SyncError::Unusable(rejected)) => {
                            tracing::error!(
                                code = rejected.code,
                                detail = rejected.detail,
                                "the policies of the kept statements cannot be used"
                            );
                        }
                        _ => {}
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
            let folder = self.parts.carried.clone();
            if self.parts.connection.is_apart() {
                tokio::select! {
                    () = stopping.cancelled() => break,
                    path = carried::next(folder) => self.carry(&path),
                }
                continue;
            }
            let outcome = tokio::select! {
                () = stopping.cancelled() => break,
                path = carried::next(folder.clone()) => {
                    self.carry(&path);
                    continue;
                }
                outcome = self.once(WAIT) => outcome,
            };
            let pause = match outcome {
                Ok(_) => {
                    self.cut_off(None);
                    if last_failure.take().is_some() {
                        tracing::info!("statements are current again");
                    }
                    backoff.reset();
                    LEAST_PAUSE
                }
                Err(error) => {
                    if let SyncError::Call(error) = &error
                        && let Some(code) = error.cut_off()
                    {
                        self.cut_off(Some(code));
                    }
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
                path = carried::next(folder) => self.carry(&path),
                // What was refused may be believed now.
                () = confirmed_anew(self.parts.directory.clone()) => backoff.reset(),
                () = tokio::time::sleep(pause) => {}
            }
        }
        keeping.abort();
        if let Err(error) = self.parts.directory.keep_time(&self.parts.clock.stored()) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the time could not be kept");
        }
    }

    /// Takes a set that was carried by hand, and says what came of it.
    fn carry(&mut self, path: &Path) {
        let taken = match carried::read(path) {
            None => Taken::Refused(Rejected {
                code: "unreadable".to_owned(),
                detail: "it cannot be read".to_owned(),
                at: self.parts.clock.now(),
            }),
            // What is served next is compared with this by its content.
            Some(set) => match self.take(Served { etag: None, set, is_completed: false }) {
                Ok(new) => Taken::InForce { new },
                Err(SyncError::Rejected(rejection)) => Taken::Refused(self.rejected(&rejection)),
                Err(SyncError::Unusable(rejected)) => Taken::Refused(rejected),
                Err(error) => Taken::Failed { detail: whole(&error) },
            },
        };
        carried::answer(path, &taken);
    }

    /// Polls once. Gives whether another set is in force now.
    pub async fn once(&mut self, wait: Duration) -> Result<bool, SyncError> {
        let client = self.parts.connection.client();
        let base = self.accepted.borrow().clone().filter(|_| self.is_base);
        match client.statements(self.etag.as_deref(), base.as_deref(), wait, self.parts.ratchet.position()).await? {
            None => Ok(false),
            Some(served) => self.take(served),
        }
    }

    /// Whoever is no longer an agent of its site does nothing more, also after a start without the control plane.
    fn cut_off(&mut self, code: Option<&'static str>) {
        if self.cut_off.as_deref() == code {
            return;
        }
        match code {
            Some(code) => {
                tracing::error!(code, "the control plane says that this agent is no longer one of its site: it does nothing more")
            }
            None => tracing::warn!("this agent is one of its site again"),
        }
        (self.parts.note_cut_off)(code.is_some());
        self.cut_off = code.map(str::to_owned);
        if let Err(error) = self.parts.directory.keep_cut_off(code) {
            tracing::error!(error = &error as &dyn std::error::Error, "that this agent was cut off could not be kept");
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
            // If it is the delta that was wrong, the whole set is not.
            self.is_base &= !served.is_completed;
        })?;
        if current.is_some_and(|current| current.says_the_same(&set)) {
            self.know(served);
            return Ok(false);
        }
        self.parts.directory.keep_statements(&set.to_bytes())?;
        self.parts.clock.heard(set.told());
        self.parts.directory.keep_time(&self.parts.clock.stored())?;
        self.enforce(set)?;
        self.know(served);
        Ok(true)
    }

    /// Only a set in force is not asked for again. What was accepted may stand there in other bytes than those that were served.
    fn know(&mut self, Served { etag, set, .. }: Served) {
        let accepted = self.accepted.borrow().as_ref().map(|accepted| accepted.statements()).unwrap_or_default();
        let held: HashSet<&Base64> = accepted.envelopes().collect();
        self.is_base = set.envelopes().all(|envelope| held.contains(envelope));
        self.etag = etag;
    }

    /// What was accepted is remembered even when its policies cannot be used: nothing older may follow it. Then the set before
    /// it goes on granting, under what this one restricts, also after a start.
    fn enforce(&mut self, set: AcceptedSet) -> Result<(), SyncError> {
        let set = Arc::new(set);
        let usable = (self.parts.put_in_force)(&set);
        tracing::debug!(statements = set.serials(), usable = usable.is_ok(), "statements were accepted");
        let was_granting = self.accepted.send_replace(Some(set.clone())).is_some_and(|accepted| self.grants(&accepted));
        match usable {
            Ok(()) => {
                if !was_granting {
                    self.parts.directory.keep_granting(None)?;
                }
                self.granting = Some(set);
                Ok(())
            }
            Err(rejected) => {
                (self.parts.note_rejection)(rejected.clone());
                if let Some(granting) = self.granting.as_ref().filter(|_| was_granting) {
                    self.parts.directory.keep_granting(Some(&granting.to_bytes()))?;
                }
                Err(SyncError::Unusable(rejected))
            }
        }
    }

    fn grants(&self, set: &AcceptedSet) -> bool {
        self.granting.as_ref().is_some_and(|granting| granting.digest() == set.digest())
    }

    /// Puts the set in force that granted when the agent stopped, if that was not the accepted one: what the accepted one
    /// restricts is applied to it next.
    fn resume_granting(&mut self) -> Result<(), KeepError> {
        let Some(bytes) = self.parts.directory.granting()? else { return Ok(()) };
        match restore(&bytes, &self.parts.identity) {
            Ok(set) if (self.parts.put_in_force)(&set).is_ok() => self.granting = Some(Arc::new(set)),
            Ok(_) => {}
            Err(rejection) => {
                tracing::error!(code = rejection.code(), "the set that granted before the newest does not hold and is not used");
            }
        }
        Ok(())
    }

    fn rejected(&self, rejection: &Rejection) -> Rejected {
        let code = rejection.code();
        let advice = if KNOWS_LESS.contains(&code) {
            "; this agent knows more than the control plane, which may have been restored from an older backup: it has been told (docs/control-plane-recovery.md)"
        } else if let Rejection::EpochNotConfirmed(epoch) = rejection {
            return Rejected {
                code: code.to_owned(),
                detail: format!(
                    "{}; when whoever runs the control plane says so: freehold-agent statements confirm-epoch {epoch}",
                    whole(rejection)
                ),
                at: self.parts.clock.now(),
            };
        } else {
            ""
        };
        Rejected { code: code.to_owned(), detail: format!("{}{advice}", whole(rejection)), at: self.parts.clock.now() }
    }
}

/// The message of an error and of what caused it, in one line.
fn whole(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", whole(source)),
        None => error.to_string(),
    }
}

/// Waits until a person here confirmed something.
async fn confirmed_anew(directory: ControlDirectory) {
    let known = directory.told_at();
    while directory.told_at() == known {
        tokio::time::sleep(LOOK_EVERY).await;
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

#[cfg(test)]
mod tests;
