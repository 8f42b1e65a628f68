//! What the agent remembers of every operation. The intent is durable before a key is used; no journal, no operation.
//!
//! The pipeline sees only [`Journal`] and [`Ticket`]. Behind them:
//!
//! - [`durable`]: the journal on disk: shared buffer, admission, waiting.
//! - `writer`, `caretaker`: its two threads: what is urgent, and what is not.
//! - [`segment`], [`recover`]: the files, and what is found in them at start.
//! - [`record`]: entries as text; `refusals`: counted refusals; `wait`: one wake-up per worker thread and group.
//! - [`ship`]: batches to the control plane.

mod caretaker;
pub mod durable;
mod record;
pub mod recover;
mod refusals;
pub mod segment;
pub mod ship;
#[cfg(test)]
mod tests;
mod wait;
mod writer;

pub use durable::{DurableJournal, JournalConfig};

use std::{fmt, io, sync::Arc};

use async_trait::async_trait;
use schema::{
    clock::Timestamp,
    id::IncarnationId,
    wire::agent::{HostAct, Intent, OutcomeResult},
};

/// Receipts of intents, outcomes and refusals, hash-chained in the order of their sequence numbers.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Records that an operation is about to happen. Durable before it returns. Dropping the future before it is ready
    /// records the operation as aborted.
    async fn intent(&self, intent: Intent) -> Result<Ticket, JournalError>;

    /// Records several intents and waits once, until all are durable. When one cannot be recorded, none is: nothing may happen.
    async fn intents(&self, intents: Vec<Intent>) -> Result<Vec<Ticket>, JournalError>;

    /// Records what came of it. Rides with the next group; lost only in a crash, after which the intent is closed as
    /// `unknown`. `size` is in bytes of plaintext.
    fn outcome(&self, ticket: Ticket, result: OutcomeResult, code: Option<&str>, size: Option<u64>) {
        ticket.finish(result, code, size);
    }

    /// Records that somebody was turned down. The first of a caller with this code is written at once, repetitions are
    /// counted into one entry per interval.
    fn refusal(&self, intent: Intent, code: &str);

    /// Records what somebody did on the host. Durable before it returns.
    async fn host(&self, act: &HostAct) -> Result<(), JournalError>;

    /// How the journal is doing, for readiness and metrics.
    fn status(&self) -> Status;
}

/// Takes what came of an intent. Never blocks.
pub trait Outcomes: Send + Sync {
    /// Records the outcome of the intent with this number.
    fn record(&self, intent: u64, result: OutcomeResult, code: Option<&str>, size: Option<u64>);
}

/// An intent that is durable. Dropped without an outcome it counts as aborted.
#[must_use = "an operation ends with an outcome; dropping the ticket records it as aborted"]
pub struct Ticket {
    intent: u64,
    outcomes: Option<Arc<dyn Outcomes>>,
}

impl Ticket {
    /// A ticket for the intent with this number.
    pub fn new(intent: u64, outcomes: Arc<dyn Outcomes>) -> Self {
        Self { intent, outcomes: Some(outcomes) }
    }

    /// The intent's sequence number.
    pub fn intent(&self) -> u64 {
        self.intent
    }

    /// Records what came of it.
    pub fn finish(mut self, result: OutcomeResult, code: Option<&str>, size: Option<u64>) {
        if let Some(outcomes) = self.outcomes.take() {
            outcomes.record(self.intent, result, code, size);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(outcomes) = self.outcomes.take() {
            outcomes.record(self.intent, OutcomeResult::Aborted, None, None);
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("intent", &self.intent).finish_non_exhaustive()
    }
}

/// How the journal is doing.
#[derive(Debug, Clone)]
pub struct Status {
    /// The journal's life.
    pub incarnation: IncarnationId,
    /// The highest number that is durable; 0 before the first entry.
    pub durable: u64,
    /// The highest number the control plane has durably taken.
    pub acknowledged: u64,
    /// Bytes on disk that hold entries which may not be freed yet.
    pub used_bytes: u64,
    /// The most bytes it may hold.
    pub limit_bytes: u64,
    /// At the present rate, seconds until it is full; none while it does not grow.
    pub seconds_to_full: Option<f64>,
    /// When the oldest entry was written that the control plane has not taken.
    pub oldest_unacknowledged: Option<Timestamp>,
    /// Why somebody should look at it before it is full.
    pub alarm: Option<String>,
    /// Why new intents are refused, when they are.
    pub fault: Option<JournalError>,
}

/// Why an intent was not recorded, so that the operation may not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// Too much waits for the control plane.
    #[error(
        "the journal is full: {used_bytes} of {limit_bytes} bytes wait to be taken by the control plane; restore the \
         connection to it, or raise journal.limit"
    )]
    Full {
        /// Bytes in use.
        used_bytes: u64,
        /// The most bytes it may hold.
        limit_bytes: u64,
    },
    /// The file system has no room.
    #[error("the disk under the journal is full; free space on it, or move journal.directory")]
    DiskFull(#[source] Arc<io::Error>),
    /// The file system takes no writes.
    #[error("the journal cannot be written: its file system is read-only; remount it writable and restart the agent")]
    ReadOnly(#[source] Arc<io::Error>),
    /// A write takes longer than is bearable.
    #[error("the disk under the journal has not finished a write for {millis} ms; look at the disk")]
    Slow {
        /// For how long, in milliseconds.
        millis: u64,
    },
    /// A write failed; what is on disk is not known until the journal is opened anew.
    #[error("the journal failed to {act}; look at the disk and restart the agent")]
    Failed {
        /// What was attempted.
        act: &'static str,
        /// Why it failed.
        #[source]
        source: Arc<io::Error>,
    },
    /// The entry is larger than an entry may be.
    #[error("a journal entry of {size} bytes is larger than the {limit} allowed; send a smaller encryption context")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The most bytes of an entry.
        limit: usize,
    },
    /// The agent is shutting down.
    #[error("the journal is closed: the agent is shutting down")]
    Closed,
}

impl JournalError {
    /// A stable code in snake case, listed in `docs/errors.md`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Full { .. } => "journal_full",
            Self::DiskFull(_) => "journal_disk_full",
            Self::ReadOnly(_) => "journal_read_only",
            Self::Slow { .. } => "journal_slow",
            Self::Failed { .. } => "journal_failed",
            Self::TooLarge { .. } => "journal_entry_too_large",
            Self::Closed => "journal_closed",
        }
    }
}
