//! The event store in SQLite and PostgreSQL.
//!
//! Positions are dense numbers, given out under the lock of one head row that is held until the commit: whoever can see
//! a position can see all before it. [`writer`] commits the appends of many in one transaction.

mod writer;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use schema::{
    encoding::Digest,
    event::{Record, StreamId},
    id::{DataKeyId, EventId, TenantId},
};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult};
use tokio::sync::{mpsc, oneshot, watch};

use super::store::{Append, AppendError, Appended, Batch, Cursor, EventStore, ReadError, Stored};
use crate::{
    database::Database,
    sealing::{Keyring, Place, SealingError},
};
use writer::{Request, Row, Writer};

/// How often a follower looks for what other replicas have appended.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// As many appends wait for the writer; further ones wait to be queued.
const QUEUE_LENGTH: usize = 4096;

/// Records in a SQL database. Clones share it.
#[derive(Clone)]
pub struct SqlStore {
    database: Database,
    keyring: Arc<Keyring>,
    requests: mpsc::Sender<Request>,
    head: watch::Sender<Cursor>,
}

impl SqlStore {
    /// Starts the writer.
    pub async fn open(database: Database, keyring: Arc<Keyring>) -> Result<Self, ReadError> {
        let (requests, queue) = mpsc::channel(QUEUE_LENGTH);
        let store = Self { database, keyring, requests, head: watch::Sender::new(Cursor::START) };
        store.announce(store.head().await?);
        let writer = Writer::new(store.database.clone(), store.head.clone());
        tokio::spawn(writer.run(queue));
        Ok(store)
    }

    /// Waits for appends that are under way; later ones are refused.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.requests.send(Request::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }

    fn announce(&self, head: Cursor) {
        self.head.send_if_modified(|known| {
            let newer = head > *known;
            *known = head.max(*known);
            newer
        });
    }

    async fn stored(&self, row: &QueryResult) -> Result<Option<Stored>, ReadError> {
        let unavailable = |source: DbErr| ReadError::Unavailable { act: "reading a record's columns", source: source.into() };
        let position: i64 = row.try_get_by_index(0).map_err(unavailable)?;
        let tenant: String = row.try_get_by_index(1).map_err(unavailable)?;
        let stream: String = row.try_get_by_index(2).map_err(unavailable)?;
        let revision: i64 = row.try_get_by_index(3).map_err(unavailable)?;
        let data_key: String = row.try_get_by_index(4).map_err(unavailable)?;
        let sealed: Vec<u8> = row.try_get_by_index(5).map_err(unavailable)?;
        let place = || format!("{tenant} {stream} revision {revision}");
        let damaged = |source| ReadError::Damaged { place: place(), source };
        let sealing = |source| ReadError::Sealing { place: place(), source };
        let stream_id: StreamId = stream.parse().map_err(damaged)?;
        let tenant_id: TenantId = tenant.parse().map_err(|_| sealing(SealingError::DoesNotOpen))?;
        let data_key: DataKeyId = data_key.parse().map_err(|_| sealing(SealingError::DoesNotOpen))?;
        let at = Place::Record { stream: &stream_id, revision: revision.unsigned_abs() };
        match self.keyring.open_sealed(tenant_id, at, data_key, &sealed).await {
            Ok(bytes) => Ok(Some(Stored { record: Record::read(bytes).map_err(damaged)?, cursor: Cursor::at(position.unsigned_abs()) })),
            Err(SealingError::TenantErased(_)) => Ok(None),
            Err(source) => Err(sealing(source)),
        }
    }
}

#[async_trait]
impl EventStore for SqlStore {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        append.check()?;
        let Append { tenant, stream, expected, records, blobs } = append;
        for blob in &blobs {
            self.put_blob(tenant, blob).await?;
        }
        let keys = self.keyring.tenant(tenant).await?;
        let seal = |record: &Record| {
            let envelope = record.envelope();
            let sealed = keys.seal(Place::Record { stream: &stream, revision: envelope.revision }, record.bytes())?;
            Ok(Row { event: envelope.id.to_string(), data_key: sealed.data_key.to_string(), sealed: sealed.bytes })
        };
        let rows = records.iter().map(seal).collect::<Result<Vec<_>, SealingError>>()?;
        let (answer, answered) = oneshot::channel();
        let request = Request::Append { tenant, stream, expected, rows, answer };
        let stopped = || AppendError::Unavailable { unknown: false, source: "the event store is closed".into() };
        self.requests.send(request).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }

    async fn read_stream(&self, tenant: TenantId, stream: &StreamId, after_revision: u64, limit: usize) -> Result<Vec<Stored>, ReadError> {
        let sql = "SELECT position, tenant, stream, revision, data_key, sealed FROM records \
                   WHERE tenant = $1 AND stream = $2 AND revision > $3 ORDER BY revision LIMIT $4";
        let values = vec![tenant.to_string().into(), stream.as_str().into(), number(after_revision).into(), number(limit as u64).into()];
        let rows = self.database.read().query_all_raw(self.database.sql(sql, values)).await;
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
        let sql = "SELECT position, tenant, stream, revision, data_key, sealed FROM records WHERE position > $1 ORDER BY position LIMIT $2";
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
        let sql = "SELECT position, tenant, stream, revision, data_key, sealed FROM records \
                   WHERE tenant = $1 ORDER BY position LIMIT $2 OFFSET $3";
        let values = vec![tenant.to_string().into(), number(limit as u64).into(), number(from).into()];
        let rows = self.database.read().query_all_raw(self.database.sql(sql, values)).await;
        let rows = rows.map_err(|source| ReadError::Unavailable { act: "reading a tenant's records", source: source.into() })?;
        let mut records = Vec::with_capacity(rows.len());
        for row in &rows {
            records.extend(self.stored(row).await?);
        }
        Ok(records)
    }

    async fn tenant_record(&self, tenant: TenantId, event: EventId) -> Result<Option<(u64, Stored)>, ReadError> {
        let unavailable = |source: DbErr| ReadError::Unavailable { act: "reading a tenant's record", source: source.into() };
        let sql = "SELECT position, tenant, stream, revision, data_key, sealed FROM records WHERE tenant = $1 AND event = $2";
        let values = vec![tenant.to_string().into(), event.to_string().into()];
        let row = self.database.read().query_one_raw(self.database.sql(sql, values)).await.map_err(unavailable)?;
        let Some(row) = row else { return Ok(None) };
        let Some(stored) = self.stored(&row).await? else { return Ok(None) };
        let sql = "SELECT COUNT(*) FROM records WHERE tenant = $1 AND position < $2";
        let position: i64 = row.try_get_by_index(0).map_err(unavailable)?;
        let before = self.database.read().query_one_raw(self.database.sql(sql, vec![tenant.to_string().into(), position.into()])).await;
        let before: Option<i64> = before.map_err(unavailable)?.map(|row| row.try_get_by_index(0)).transpose().map_err(unavailable)?;
        Ok(Some((before.unwrap_or(0).unsigned_abs(), stored)))
    }

    async fn tenant_length(&self, tenant: TenantId) -> Result<u64, ReadError> {
        let unavailable = |source: DbErr| ReadError::Unavailable { act: "counting a tenant's records", source: source.into() };
        let sql = "SELECT COUNT(*) FROM records WHERE tenant = $1";
        let row = self.database.read().query_one_raw(self.database.sql(sql, vec![tenant.to_string().into()])).await;
        let count: Option<i64> = row.map_err(unavailable)?.map(|row| row.try_get_by_index(0)).transpose().map_err(unavailable)?;
        Ok(count.unwrap_or(0).unsigned_abs())
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
            tokio::select! {
                changed = head.changed() => if changed.is_err() {
                    return Err(ReadError::Unavailable { act: "following the log", source: "the event store is closed".into() });
                },
                () = tokio::time::sleep(POLL_INTERVAL), if shared => self.announce(self.head().await?),
            }
        }
    }

    async fn put_blob(&self, tenant: TenantId, body: &[u8]) -> Result<Digest, AppendError> {
        let name = Digest::of(body);
        let keys = self.keyring.tenant(tenant).await?;
        let sealed = keys.seal(Place::Blob(name), body)?;
        let sql = "INSERT INTO blobs (tenant, name, data_key, sealed) VALUES ($1, $2, $3, $4) ON CONFLICT (tenant, name) DO NOTHING";
        let values = vec![
            tenant.to_string().into(),
            keys.blind("blobs.name", &[&name.to_string()]).into(),
            sealed.data_key.to_string().into(),
            sealed.bytes.into(),
        ];
        let outcome = self.database.write().execute_raw(self.database.sql(sql, values)).await;
        outcome.map_err(|source| AppendError::Unavailable { unknown: false, source: source.into() })?;
        Ok(name)
    }

    async fn blob(&self, tenant: TenantId, name: Digest) -> Result<Option<Vec<u8>>, ReadError> {
        let unavailable = |source: DbErr| ReadError::Unavailable { act: "reading a blob", source: source.into() };
        let sealing = |source| ReadError::Sealing { place: format!("blob {name}"), source };
        let keys = self.keyring.tenant(tenant).await.map_err(sealing)?;
        let values = vec![tenant.to_string().into(), keys.blind("blobs.name", &[&name.to_string()]).into()];
        let sql = "SELECT data_key, sealed FROM blobs WHERE tenant = $1 AND name = $2";
        let row = self.database.read().query_one_raw(self.database.sql(sql, values)).await.map_err(unavailable)?;
        let Some(row) = row else { return Ok(None) };
        let data_key: String = row.try_get_by_index(0).map_err(unavailable)?;
        let data_key: DataKeyId = data_key.parse().map_err(|_| sealing(SealingError::DoesNotOpen))?;
        let sealed: Vec<u8> = row.try_get_by_index(1).map_err(unavailable)?;
        self.keyring.open_sealed(tenant, Place::Blob(name), data_key, &sealed).await.map(Some).map_err(sealing)
    }
}

/// As SQL has it: signed.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
