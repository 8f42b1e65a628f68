//! The event store in KurrentDB (once EventStoreDB), with read models, keys, secrets and bodies in the SQL database beside it.
//!
//! - [`connection`]: where the server is, and the client, made anew when it has failed.
//! - [`log`]: records as events: append, read back, read.
//! - [`follower`]: hears of what others append, by a catch-up subscription.
//! - [`ledger_index`]: the dense index of each tenant's own ledger, which KurrentDB does not have.
//!
//! Cursors are commit positions of `$all` as the leader has it: totally ordered, with gaps, and prefix-complete, as the server
//! shows a record only after all before it. Events of others, the server's own among them, are filtered out there.

mod connection;
mod follower;
mod ledger_index;
mod log;

use std::sync::Arc;

use async_trait::async_trait;
use schema::{
    encoding::Digest,
    event::StreamId,
    id::{EventId, TenantId},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    sealed::{Blobs, SealedRecord},
    store::{Append, AppendError, Appended, Batch, Cursor, EventStore, ReadError, Stored},
};
use crate::{
    database::Database,
    sealing::{Keyring, SealingError},
};
pub use connection::{InvalidSettings, KurrentSettings};
pub use log::Log as SealedLog;

use ledger_index::LedgerIndex;
use log::Log;

/// Records in KurrentDB.
pub struct KurrentStore {
    log: Arc<Log>,
    index: LedgerIndex,
    blobs: Blobs,
    keyring: Arc<Keyring>,
    head: watch::Sender<Cursor>,
    stop: CancellationToken,
}

impl KurrentStore {
    /// Asks the server for its head, and starts following it.
    pub async fn open(settings: KurrentSettings, database: Database, keyring: Arc<Keyring>) -> Result<Self, ReadError> {
        let log = Arc::new(Log::new(settings));
        let head = watch::Sender::new(log.head().await?);
        let stop = CancellationToken::new();
        follower::start(Arc::clone(&log), head.clone(), stop.clone());
        let index = LedgerIndex::new(database.projecting(), Arc::clone(&log));
        let blobs = Blobs::new(database, keyring.clone());
        Ok(Self { log, index, blobs, keyring, head, stop })
    }

    async fn opened(&self, sealed: &[SealedRecord]) -> Result<Vec<Stored>, ReadError> {
        let mut records = Vec::with_capacity(sealed.len());
        for record in sealed {
            records.extend(record.open(&self.keyring).await?);
        }
        Ok(records)
    }
}

impl Drop for KurrentStore {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn announce(known: &watch::Sender<Cursor>, head: Cursor) {
    known.send_if_modified(|known| {
        let newer = head > *known;
        *known = head.max(*known);
        newer
    });
}

#[async_trait]
impl EventStore for KurrentStore {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        append.check()?;
        for blob in &append.blobs {
            self.blobs.put(append.tenant, blob).await?;
        }
        let keys = self.keyring.tenant(append.tenant).await?;
        let sealed = append.records.iter().map(|record| SealedRecord::seal(&keys, record)).collect::<Result<Vec<_>, SealingError>>()?;
        let appended = self.log.append(append.expected, &sealed).await?;
        announce(&self.head, appended.cursor);
        Ok(appended)
    }

    async fn read_stream(&self, tenant: TenantId, stream: &StreamId, after_revision: u64, limit: usize) -> Result<Vec<Stored>, ReadError> {
        let sealed = self.log.stream(tenant, stream, after_revision, limit).await?;
        let records = self.opened(&sealed).await?;
        if records.len() < sealed.len() {
            return Err(ReadError::Sealing { place: stream.to_string(), source: SealingError::TenantErased(tenant) });
        }
        Ok(records)
    }

    async fn read_all(&self, after: Cursor, limit: usize) -> Result<Batch, ReadError> {
        let sealed = self.log.after(after, limit).await?;
        let upto = sealed.last().map_or(after, |record| record.cursor);
        Ok(Batch { records: self.opened(&sealed).await?, upto })
    }

    async fn read_tenant(&self, tenant: TenantId, from: u64, limit: usize) -> Result<Vec<Stored>, ReadError> {
        self.index.catch_up().await?;
        let Some(start) = self.index.place(tenant, from).await? else { return Ok(Vec::new()) };
        let sealed = self.log.all(Some(tenant), start, limit).await?;
        self.opened(&sealed).await
    }

    async fn tenant_record(&self, tenant: TenantId, event: EventId) -> Result<Option<(u64, Stored)>, ReadError> {
        self.index.catch_up().await?;
        let Some((index, place)) = self.index.find(tenant, event).await? else { return Ok(None) };
        let sealed = self.log.all(Some(tenant), place, 1).await?;
        Ok(self.opened(&sealed).await?.pop().map(|stored| (index, stored)))
    }

    async fn tenant_length(&self, tenant: TenantId) -> Result<u64, ReadError> {
        self.index.catch_up().await?;
        self.index.length(tenant).await
    }

    async fn head(&self) -> Result<Cursor, ReadError> {
        let head = self.log.head().await?;
        announce(&self.head, head);
        Ok(head)
    }

    async fn follow(&self, after: Cursor) -> Result<Cursor, ReadError> {
        let mut head = self.head.subscribe();
        let closed = || ReadError::Unavailable { act: "following the log", source: "the event store is closed".into() };
        tokio::select! {
            known = head.wait_for(|known| *known > after) => known.map(|known| *known).map_err(|_| closed()),
            () = self.stop.cancelled() => Err(closed()),
        }
    }

    async fn put_blob(&self, tenant: TenantId, body: &[u8]) -> Result<Digest, AppendError> {
        self.blobs.put(tenant, body).await
    }

    async fn blob(&self, tenant: TenantId, name: Digest) -> Result<Option<Vec<u8>>, ReadError> {
        self.blobs.find(tenant, name).await
    }

    async fn close(&self) {
        self.log.close().await;
        self.stop.cancel();
    }
}
