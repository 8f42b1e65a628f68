//! The event store, as everything else sees it: append with the expected revision, read a stream, read all, follow.
//!
//! [`super::sql`] keeps it in SQLite or PostgreSQL, [`super::kurrent`] in KurrentDB. Another engine is another implementation of
//! [`EventStore`] and passes the same conformance suite (`tests/tests/store.rs`).

use std::{error::Error, fmt, str::FromStr};

use async_trait::async_trait;
use schema::{
    encoding::Digest,
    event::{InvalidRecord, Record, StreamId},
    id::{EventId, TenantId},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::sealing::SealingError;

/// A place in the order of all records of a deployment: opaque, totally ordered, and prefix-complete, which means that
/// whoever has seen a cursor has seen everything before it. Its text sorts as it does. Tenants never see one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cursor(u64);

impl Cursor {
    /// Before the first record.
    pub const START: Self = Self(0);

    /// For engines: the cursor of a position.
    pub const fn at(position: u64) -> Self {
        Self(position)
    }

    /// For engines: the position.
    pub const fn position(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a cursor of this event store")]
pub struct InvalidCursor;

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let plain = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let position = u64::from_str_radix(text, 16).ok().filter(|_| plain).ok_or(InvalidCursor)?;
        Ok(Self(position))
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Records to append to one stream.
#[derive(Debug, Clone)]
pub struct Append {
    /// The tenant, from the caller's proof.
    pub tenant: TenantId,
    /// The stream.
    pub stream: StreamId,
    /// The revision the stream must have now; 0 when there must be no such stream yet.
    pub expected: u64,
    /// The records, of revisions `expected + 1` onward, at least one.
    pub records: Vec<Record>,
    /// Bodies the records name by SHA-256, kept before the records are.
    pub blobs: Vec<Vec<u8>>,
}

/// What was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The stream's revision now.
    pub revision: u64,
    /// The place of the last record.
    pub cursor: Cursor,
}

/// A record and its place.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The record, in its exact bytes.
    pub record: Record,
    /// Its place in the order of all records.
    pub cursor: Cursor,
}

/// A stretch of the order of all records.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Its records, in order. Those of erased tenants are left out: nobody can read them.
    pub records: Vec<Stored>,
    /// Where to go on; the cursor that was asked for when there is nothing beyond it.
    pub upto: Cursor,
}

/// A cause that belongs to an engine.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Why nothing was appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Somebody else was first.
    #[error("the stream {stream} has revision {actual}, expected was {expected}")]
    WrongRevision {
        /// The stream.
        stream: StreamId,
        /// What the writer expected.
        expected: u64,
        /// What it is.
        actual: u64,
    },
    /// The records do not belong to this append.
    #[error("the append to {stream} is malformed: {reason}")]
    Malformed {
        /// The stream.
        stream: StreamId,
        /// What does not fit.
        reason: &'static str,
    },
    /// Sealing failed.
    #[error("sealing records failed")]
    Sealing(#[from] SealingError),
    /// The database could not be asked. Nothing was appended, or, when `unknown`, perhaps everything was.
    #[error("appending to the event store failed{}", if *.unknown { ", and it is unknown whether the records were kept" } else { "" })]
    Unavailable {
        /// Whether the records may have been kept all the same: a retry under the same idempotency key is safe.
        unknown: bool,
        /// What the engine said.
        #[source]
        source: Cause,
    },
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The database could not be asked.
    #[error("{act} failed")]
    Unavailable {
        /// What was tried.
        act: &'static str,
        /// What the engine said.
        #[source]
        source: Cause,
    },
    /// What is stored cannot be opened under the tenant's key.
    #[error("opening what is stored at {place} failed")]
    Sealing {
        /// Stream and revision, or the blob.
        place: String,
        /// Why.
        #[source]
        source: SealingError,
    },
    /// What is stored is not a record, or not the one that belongs there.
    #[error("the record at {place} is damaged")]
    Damaged {
        /// Stream and revision.
        place: String,
        /// What did not fit.
        #[source]
        source: InvalidRecord,
    },
}

/// Keeps records for ever. Every function that reads or writes inside one tenant takes that tenant.
#[async_trait]
pub trait EventStore: Send + Sync + 'static {
    /// Appends all of the records, or none. When the outcome of a commit is unknown it is read back before answering.
    async fn append(&self, append: Append) -> Result<Appended, AppendError>;

    /// The records of one stream beyond `after_revision` (0: from the first), at most `limit`.
    async fn read_stream(&self, tenant: TenantId, stream: &StreamId, after_revision: u64, limit: usize) -> Result<Vec<Stored>, ReadError>;

    /// The records of all tenants beyond `after`, in order, at most `limit`. For the deployment's own followers only.
    async fn read_all(&self, after: Cursor, limit: usize) -> Result<Batch, ReadError>;

    /// The records of one tenant in the order of its own ledger, from the index `from` (0: the first), at most `limit`.
    async fn read_tenant(&self, tenant: TenantId, from: u64, limit: usize) -> Result<Vec<Stored>, ReadError>;

    /// The record of this event, with its index in the tenant's own ledger.
    async fn tenant_record(&self, tenant: TenantId, event: EventId) -> Result<Option<(u64, Stored)>, ReadError>;

    /// How many records a tenant has.
    async fn tenant_length(&self, tenant: TenantId) -> Result<u64, ReadError>;

    /// The place of the last record, or [`Cursor::START`].
    async fn head(&self) -> Result<Cursor, ReadError>;

    /// Waits until there is something beyond `after`, and returns the head.
    async fn follow(&self, after: Cursor) -> Result<Cursor, ReadError>;

    /// Keeps a body, sealed, under its SHA-256 inside the tenant. Keeping the same body again changes nothing.
    async fn put_blob(&self, tenant: TenantId, body: &[u8]) -> Result<Digest, AppendError>;

    /// A kept body.
    async fn blob(&self, tenant: TenantId, name: Digest) -> Result<Option<Vec<u8>>, ReadError>;

    /// Waits for appends that are under way; later ones are refused.
    async fn close(&self);
}

impl Append {
    /// Whether the records belong to this append: one tenant, one stream, consecutive revisions.
    pub fn check(&self) -> Result<(), AppendError> {
        let malformed = |reason| Err(AppendError::Malformed { stream: self.stream.clone(), reason });
        if self.records.is_empty() {
            return malformed("there is no record in it");
        }
        for (revision, record) in (self.expected + 1..).zip(&self.records) {
            let envelope = record.envelope();
            if envelope.tenant != self.tenant {
                return malformed("a record belongs to another tenant");
            }
            if envelope.stream != self.stream {
                return malformed("a record belongs to another stream");
            }
            if envelope.revision != revision {
                return malformed("the revisions of the records do not follow the expected one");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn cursors_survive_their_text_and_sort_like_it(a: u64, b: u64) {
            let (a, b) = (Cursor::at(a), Cursor::at(b));
            prop_assert_eq!(a.to_string().parse::<Cursor>().unwrap(), a);
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }
    }
}
