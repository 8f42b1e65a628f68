//! What every engine keeps in the same way: records as sealed bytes beside what finds them, and bodies in SQL.

use std::sync::Arc;

use schema::{
    encoding::Digest,
    event::{Record, StreamId},
    id::{DataKeyId, EventId, TenantId},
    personal::persons,
};
use sea_orm::{ConnectionTrait, DbErr};

use super::store::{AppendError, Cursor, ReadError, Stored};
use crate::{
    database::Database,
    sealing::{Keyring, Place, SealingError, TenantKeys},
};

/// A record as an engine keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedRecord {
    /// Its place in the order of all records.
    pub cursor: Cursor,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its stream.
    pub stream: StreamId,
    /// Its revision, from 1.
    pub revision: u64,
    /// The event's id.
    pub event: EventId,
    /// The data key it is sealed under.
    pub data_key: DataKeyId,
    /// Nonce, ciphertext and tag.
    pub sealed: Vec<u8>,
}

impl SealedRecord {
    /// A record of these keys' tenant, sealed for its place; an engine gives it its cursor.
    pub(super) fn seal(keys: &TenantKeys, record: &Record) -> Result<Self, SealingError> {
        let envelope = record.envelope();
        let sealed = keys.seal(Place::Record { stream: &envelope.stream, revision: envelope.revision }, record.bytes())?;
        Ok(Self {
            cursor: Cursor::START,
            tenant: envelope.tenant,
            stream: envelope.stream.clone(),
            revision: envelope.revision,
            event: envelope.id,
            data_key: sealed.data_key,
            sealed: sealed.bytes,
        })
    }

    /// The record; none when its tenant was erased.
    pub(super) async fn open(&self, keyring: &Keyring) -> Result<Option<Stored>, ReadError> {
        let place = || format!("{} {} revision {}", self.tenant, self.stream, self.revision);
        let at = Place::Record { stream: &self.stream, revision: self.revision };
        match keyring.open_sealed(self.tenant, at, self.data_key, &self.sealed).await {
            Ok(bytes) => {
                let record = Record::read(bytes).map_err(|source| ReadError::Damaged { place: place(), source })?;
                let record = match persons(&record.envelope().data).is_empty() {
                    true => record,
                    false => {
                        let mut data = record.envelope().data.clone();
                        let opened = keyring.open_personal(self.tenant, &mut data).await;
                        opened.map_err(|source| ReadError::Sealing { place: place(), source })?;
                        record.opened(data)
                    }
                };
                Ok(Some(Stored { record, cursor: self.cursor }))
            }
            Err(SealingError::TenantErased(_)) => Ok(None),
            Err(source) => Err(ReadError::Sealing { place: place(), source }),
        }
    }
}

/// Bodies that records name by their SHA-256, sealed, in the SQL database.
#[derive(Clone)]
pub(super) struct Blobs {
    database: Database,
    keyring: Arc<Keyring>,
}

impl Blobs {
    pub(super) fn new(database: Database, keyring: Arc<Keyring>) -> Self {
        Self { database, keyring }
    }

    pub(super) async fn put(&self, tenant: TenantId, body: &[u8]) -> Result<Digest, AppendError> {
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

    pub(super) async fn find(&self, tenant: TenantId, name: Digest) -> Result<Option<Vec<u8>>, ReadError> {
        let unavailable = |source: DbErr| ReadError::Unavailable { act: "reading a blob", source: source.into() };
        let sealing = |source| ReadError::Sealing { place: format!("blob {name}"), source };
        let keys = self.keyring.tenant(tenant).await.map_err(sealing)?;
        let values = vec![tenant.to_string().into(), keys.blind("blobs.name", &[&name.to_string()]).into()];
        let sql = "SELECT data_key, sealed FROM blobs WHERE tenant = $1 AND name = $2";
        let row = self.database.of(tenant).query_one_raw(self.database.sql(sql, values)).await.map_err(unavailable)?;
        let Some(row) = row else { return Ok(None) };
        let data_key: String = row.try_get_by_index(0).map_err(unavailable)?;
        let data_key: DataKeyId = data_key.parse().map_err(|_| sealing(SealingError::DoesNotOpen))?;
        let sealed: Vec<u8> = row.try_get_by_index(1).map_err(unavailable)?;
        self.keyring.open_sealed(tenant, Place::Blob(name), data_key, &sealed).await.map(Some).map_err(sealing)
    }
}
