//! The event store in SQLite and PostgreSQL.
//!
//! Positions are dense numbers, given out under the lock of one head row that is held until the commit: whoever can see
//! a position can see all before it. [`writer`] commits the appends of many in one transaction. [`marks`] say where in the log
//! the records of a tenant are, so that the last of them are found as fast as the first.

mod marks;
mod writer;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use schema::{
    encoding::Digest,
    event::StreamId,
    id::{EventId, TenantId},
};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult};
use service::telemetry::TARGET;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Instrument as _;

use super::{
    sealed::{Blobs, SealedRecord},
    store::{Append, AppendError, Appended, Batch, Cursor, EventStore, ReadError, Stored},
};
use crate::{
    database::Database,
    sealing::{Keyring, SealingError},
};
use marks::Marks;
use writer::{Request, Row, Writer};

/// How often a follower looks for what other replicas have appended, when nobody tells it.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How often it looks all the same, when it is told.
const LISTENING_INTERVAL: Duration = Duration::from_secs(2);
/// As many appends wait for the writer; further ones wait to be queued.
const QUEUE_LENGTH: usize = 4096;

/// Records in a SQL database. Clones share it.
#[derive(Clone)]
pub struct SqlStore {
    database: Database,
    keyring: Arc<Keyring>,
    blobs: Blobs,
    marks: Marks,
    requests: mpsc::Sender<Request>,
    head: watch::Sender<Cursor>,
    listening: Arc<AtomicBool>,
}

impl SqlStore {
    /// Starts the writer.
    pub async fn open(database: Database, keyring: Arc<Keyring>) -> Result<Self, ReadError> {
        let (requests, queue) = mpsc::channel(QUEUE_LENGTH);
        let blobs = Blobs::new(database.clone(), keyring.clone());
        let (marks, head) = (Marks::new(&database), watch::Sender::new(Cursor::START));
        let store = Self { database, keyring, blobs, marks, requests, head, listening: Arc::default() };
        store.announce(store.head().await?);
        let writer = Writer::new(store.database.clone(), store.head.clone());
        tokio::spawn(writer.run(queue));
        Ok(store)
    }

    /// Another replica has appended up to here.
    pub fn heard(&self, head: Cursor) {
        self.announce(head);
    }

    /// Whether this process is told of what others append; while it is not, followers look often.
    pub fn listening(&self, told: bool) {
        self.listening.store(told, Ordering::Relaxed);
    }

    fn announce(&self, head: Cursor) {
        self.head.send_if_modified(|known| {
            let newer = head > *known;
            *known = head.max(*known);
            newer
        });
    }

    async fn stored(&self, row: &QueryResult) -> Result<Option<Stored>, ReadError> {
        sealed_record(row)?.open(&self.keyring).await
    }
}

impl SqlStore {
    async fn append_now(&self, append: Append) -> Result<Appended, AppendError> {
        append.check()?;
        let Append { tenant, stream, expected, records, blobs } = append;
        for blob in &blobs {
            self.put_blob(tenant, blob).await?;
        }
        let keys = self.keyring.tenant(tenant).await?;
        let row =
            |record: SealedRecord| Row { event: record.event.to_string(), data_key: record.data_key.to_string(), sealed: record.sealed };
        let rows = records.iter().map(|record| SealedRecord::seal(&keys, record).map(row)).collect::<Result<Vec<_>, SealingError>>()?;
        let (answer, answered) = oneshot::channel();
        let request = Request::Append { tenant, stream, expected, rows, answer };
        let stopped = || AppendError::Unavailable { unknown: false, source: "the event store is closed".into() };
        self.requests.send(request).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

impl SqlStore {
    /// How many records of a tenant are between two positions, the second not included.
    async fn count(&self, tenant: TenantId, from: i64, to: i64) -> Result<u64, DbErr> {
        let sql = "SELECT COUNT(*) FROM records WHERE tenant = $1 AND position >= $2 AND position < $3";
        let values = vec![tenant.to_string().into(), from.into(), to.into()];
        let row = self.database.of(tenant).query_one_raw(self.database.sql(sql, values)).await?;
        let count: Option<i64> = row.map(|row| row.try_get_by_index(0)).transpose()?;
        Ok(count.unwrap_or(0).unsigned_abs())
    }
}

/// What OpenTelemetry calls the engine (semantic conventions, `db.system.name`).
fn system_name(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Sqlite => "sqlite",
        _ => "postgresql",
    }
}

#[async_trait]
impl EventStore for SqlStore {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let span = tracing::info_span!(
            target: TARGET, "append", otel.name = "INSERT records", otel.kind = "client",
            db.system.name = system_name(self.database.backend()), db.operation.name = "INSERT", db.collection.name = "records",
            db.operation.batch.size = append.records.len()
        );
        self.append_now(append).instrument(span).await
    }

    async fn read_stream(&self, tenant: TenantId, stream: &StreamId, after_revision: u64, limit: usize) -> Result<Vec<Stored>, ReadError> {
        let sql = format!("SELECT {COLUMNS} FROM records WHERE tenant = $1 AND stream = $2 AND revision > $3 ORDER BY revision LIMIT $4");
        let values = vec![tenant.to_string().into(), stream.as_str().into(), number(after_revision).into(), number(limit as u64).into()];
        let rows = self.database.of(tenant).query_all_raw(self.database.sql(sql, values)).await;
        let rows = rows.map_err(|source| ReadError::Unavailable { act: "reading a stream", source: source.into() })?;
        let mut records = Vec::with_capacity(rows.len());
        for row in &rows {
            match self.stored(row).await? {
                Some(stored) => records.push(stored),
                None => return Err(ReadError::Sealing { place: stream.to_string(), source: SealingError::TenantErased(tenant) }),
            }
        }
        Ok(records)
    }

    async fn read_all(&self, after: Cursor, limit: usize) -> Result<Batch, ReadError> {
        let sql = format!("SELECT {COLUMNS} FROM records WHERE position > $1 ORDER BY position LIMIT $2");
        let values = vec![number(after.position()).into(), number(limit as u64).into()];
        let rows = self.database.read().query_all_raw(self.database.sql(sql, values)).await;
        let unavailable = |source: DbErr| ReadError::Unavailable { act: "reading the log", source: source.into() };
        let rows = rows.map_err(unavailable)?;
        let mut batch = Batch { records: Vec::with_capacity(rows.len()), upto: after };
        for row in &rows {
            let position: i64 = row.try_get_by_index(0).map_err(unavailable)?;
            batch.upto = Cursor::at(position.unsigned_abs());
            batch.records.extend(self.stored(row).await?);
        }
        Ok(batch)
    }

    async fn read_tenant(&self, tenant: TenantId, from: u64, limit: usize) -> Result<Vec<Stored>, ReadError> {
        let unavailable = |source: DbErr| ReadError::Unavailable { act: "reading a tenant's records", source: source.into() };
        let mark = self.marks.before(tenant, from).await.map_err(unavailable)?;
        let sql = format!("SELECT {COLUMNS} FROM records WHERE tenant = $1 AND position >= $2 ORDER BY position LIMIT $3 OFFSET $4");
        let values = vec![tenant.to_string().into(), mark.position.into(), number(limit as u64).into(), number(from - mark.leaf).into()];
        let rows = self.database.of(tenant).query_all_raw(self.database.sql(sql, values)).await.map_err(unavailable)?;
        let mut records = Vec::with_capacity(rows.len());
        for row in &rows {
            records.extend(self.stored(row).await?);
        }
        Ok(records)
    }

    async fn tenant_record(&self, tenant: TenantId, event: EventId) -> Result<Option<(u64, Stored)>, ReadError> {
        let unavailable = |source: DbErr| ReadError::Unavailable { act: "reading a tenant's record", source: source.into() };
        let sql = format!("SELECT {COLUMNS} FROM records WHERE tenant = $1 AND event = $2");
        let values = vec![tenant.to_string().into(), event.to_string().into()];
        let row = self.database.of(tenant).query_one_raw(self.database.sql(sql, values)).await.map_err(unavailable)?;
        let Some(row) = row else { return Ok(None) };
        let Some(stored) = self.stored(&row).await? else { return Ok(None) };
        let position: i64 = row.try_get_by_index(0).map_err(unavailable)?;
        let mark = self.marks.before_position(tenant, position).await.map_err(unavailable)?;
        Ok(Some((mark.leaf + self.count(tenant, mark.position, position).await.map_err(unavailable)?, stored)))
    }

    async fn tenant_length(&self, tenant: TenantId) -> Result<u64, ReadError> {
        let unavailable = |source: DbErr| ReadError::Unavailable { act: "counting a tenant's records", source: source.into() };
        let mark = self.marks.newest(tenant).await.map_err(unavailable)?;
        Ok(mark.leaf + self.count(tenant, mark.position, i64::MAX).await.map_err(unavailable)?)
    }

    async fn head(&self) -> Result<Cursor, ReadError> {
        let unavailable = |source: DbErr| ReadError::Unavailable { act: "reading the head of the log", source: source.into() };
        let row = self.database.read().query_one_raw(self.database.sql("SELECT position FROM log_head WHERE id = 1", vec![])).await;
        let position: Option<i64> = row.map_err(unavailable)?.map(|row| row.try_get_by_index(0)).transpose().map_err(unavailable)?;
        Ok(Cursor::at(position.unwrap_or(0).unsigned_abs()))
    }

    async fn follow(&self, after: Cursor) -> Result<Cursor, ReadError> {
        let mut head = self.head.subscribe();
        loop {
            let known = *head.borrow_and_update();
            if known > after {
                return Ok(known);
            }
            let shared = self.database.backend() != DbBackend::Sqlite;
            let interval = if self.listening.load(Ordering::Relaxed) { LISTENING_INTERVAL } else { POLL_INTERVAL };
            tokio::select! {
                changed = head.changed() => if changed.is_err() {
                    return Err(ReadError::Unavailable { act: "following the log", source: "the event store is closed".into() });
                },
                () = tokio::time::sleep(interval), if shared => self.announce(self.head().await?),
            }
        }
    }

    async fn put_blob(&self, tenant: TenantId, body: &[u8]) -> Result<Digest, AppendError> {
        self.blobs.put(tenant, body).await
    }

    async fn blob(&self, tenant: TenantId, name: Digest) -> Result<Option<Vec<u8>>, ReadError> {
        self.blobs.find(tenant, name).await
    }

    async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.requests.send(Request::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }
}

/// The columns that [`sealed_record`] reads.
pub(crate) const COLUMNS: &str = "position, tenant, stream, revision, event, data_key, sealed";

/// A row of `records`.
pub(crate) fn sealed_record(row: &QueryResult) -> Result<SealedRecord, ReadError> {
    let unavailable = |source: DbErr| ReadError::Unavailable { act: "reading a record's columns", source: source.into() };
    let position: i64 = row.try_get_by_index(0).map_err(unavailable)?;
    let tenant: String = row.try_get_by_index(1).map_err(unavailable)?;
    let stream: String = row.try_get_by_index(2).map_err(unavailable)?;
    let revision: i64 = row.try_get_by_index(3).map_err(unavailable)?;
    let event: String = row.try_get_by_index(4).map_err(unavailable)?;
    let data_key: String = row.try_get_by_index(5).map_err(unavailable)?;
    let sealed: Vec<u8> = row.try_get_by_index(6).map_err(unavailable)?;
    let place = || format!("{tenant} {stream} revision {revision}");
    let wrong = |_| ReadError::Sealing { place: place(), source: SealingError::DoesNotOpen };
    Ok(SealedRecord {
        cursor: Cursor::at(position.unsigned_abs()),
        tenant: tenant.parse().map_err(wrong)?,
        stream: stream.parse().map_err(|source| ReadError::Damaged { place: place(), source })?,
        revision: revision.unsigned_abs(),
        event: event.parse().map_err(wrong)?,
        data_key: data_key.parse().map_err(wrong)?,
        sealed,
    })
}

/// As SQL has it: signed.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
