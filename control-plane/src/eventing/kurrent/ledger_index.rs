//! The place of every record in its tenant's own ledger: a table beside the read models, written in the order of the log and
//! moved forward in the transaction that writes it. Any number of replicas may write it: the checkpoint's lock makes them take
//! turns. It holds nothing that the log does not: dropped with its checkpoint, it is written again.
//!
//! Whoever asks brings it up to the head first, so answers are never behind an append that was acknowledged before.

use std::{collections::HashMap, sync::Arc};

use schema::id::{EventId, TenantId};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, Value};
use tokio::sync::Mutex;

use super::{
    super::{
        sealed::SealedRecord,
        store::{Cursor, ReadError},
    },
    log::Log,
};
use crate::database::Database;

const CHECKPOINT: &str = "ledger_index";
const BATCH: usize = 500;
const COLUMNS: usize = 4;

pub(super) struct LedgerIndex {
    database: Database,
    log: Arc<Log>,
    /// Held while it is brought up to date, by one of this process at a time.
    gate: Mutex<()>,
}

fn unavailable(source: DbErr) -> ReadError {
    ReadError::Unavailable { act: "asking the index of tenants' ledgers", source: source.into() }
}

impl LedgerIndex {
    pub(super) fn new(database: Database, log: Arc<Log>) -> Self {
        Self { database, log, gate: Mutex::new(()) }
    }

    /// Brings it up to the head of the log.
    pub(super) async fn catch_up(&self) -> Result<(), ReadError> {
        let head = self.log.head().await?;
        let _gate = self.gate.lock().await;
        loop {
            let checkpoint = self.checkpoint().await.map_err(unavailable)?;
            if checkpoint >= head {
                return Ok(());
            }
            let records = self.log.after(checkpoint, BATCH).await?;
            if records.is_empty() {
                return Ok(());
            }
            self.write(checkpoint, &records).await.map_err(unavailable)?;
        }
    }

    /// How many records a tenant has.
    pub(super) async fn length(&self, tenant: TenantId) -> Result<u64, ReadError> {
        next(self.database.write(), &self.database, tenant).await.map_err(unavailable)
    }

    /// The place of a tenant's record with this index.
    pub(super) async fn place(&self, tenant: TenantId, index: u64) -> Result<Option<Cursor>, ReadError> {
        let sql = "SELECT position FROM ledger_index WHERE tenant = $1 AND leaf = $2";
        let values = vec![tenant.to_string().into(), number(index).into()];
        let row = self.database.write().query_one_raw(self.database.sql(sql, values)).await.map_err(unavailable)?;
        let position: Option<i64> = row.map(|row| row.try_get_by_index(0)).transpose().map_err(unavailable)?;
        Ok(position.map(|position| Cursor::at(position.unsigned_abs())))
    }

    /// The index and the place of the record of an event.
    pub(super) async fn find(&self, tenant: TenantId, event: EventId) -> Result<Option<(u64, Cursor)>, ReadError> {
        let sql = "SELECT leaf, position FROM ledger_index WHERE tenant = $1 AND event = $2";
        let values = vec![tenant.to_string().into(), event.to_string().into()];
        let Some(row) = self.database.write().query_one_raw(self.database.sql(sql, values)).await.map_err(unavailable)? else {
            return Ok(None);
        };
        let (leaf, position): (i64, i64) = (row.try_get_by_index(0).map_err(unavailable)?, row.try_get_by_index(1).map_err(unavailable)?);
        Ok(Some((leaf.unsigned_abs(), Cursor::at(position.unsigned_abs()))))
    }

    async fn checkpoint(&self) -> Result<Cursor, DbErr> {
        let sql = "SELECT position FROM checkpoints WHERE name = $1";
        let row = self.database.write().query_one_raw(self.database.sql(sql, vec![CHECKPOINT.into()])).await?;
        let position: Option<i64> = row.map(|row| row.try_get_by_index(0)).transpose()?;
        Ok(Cursor::at(position.unwrap_or(0).unsigned_abs()))
    }

    /// Writes what follows the checkpoint, unless another replica was first.
    async fn write(&self, after: Cursor, records: &[SealedRecord]) -> Result<(), DbErr> {
        let transaction = self.database.begin().await?;
        if self.lock_checkpoint(&transaction).await? != after {
            return transaction.rollback().await;
        }
        let mut leaves: HashMap<TenantId, u64> = HashMap::new();
        let mut values: Vec<Value> = Vec::with_capacity(records.len() * COLUMNS);
        for record in records {
            let leaf = match leaves.get(&record.tenant) {
                Some(leaf) => *leaf,
                None => next(&transaction, &self.database, record.tenant).await?,
            };
            leaves.insert(record.tenant, leaf + 1);
            values.extend([
                record.tenant.to_string().into(),
                number(leaf).into(),
                record.event.to_string().into(),
                number(record.cursor.position()).into(),
            ]);
        }
        let places: Vec<_> = (0..records.len())
            .map(|row| row * COLUMNS)
            .map(|first| format!("(${}, ${}, ${}, ${})", first + 1, first + 2, first + 3, first + 4))
            .collect();
        let sql = format!("INSERT INTO ledger_index (tenant, leaf, event, position) VALUES {}", places.join(", "));
        transaction.execute_raw(self.database.sql(sql, values)).await?;
        if let Some(last) = records.last() {
            let sql = "UPDATE checkpoints SET position = $1 WHERE name = $2";
            let values = vec![number(last.cursor.position()).into(), CHECKPOINT.into()];
            transaction.execute_raw(self.database.sql(sql, values)).await?;
        }
        transaction.commit().await
    }

    async fn lock_checkpoint(&self, transaction: &DatabaseTransaction) -> Result<Cursor, DbErr> {
        let sql = "INSERT INTO checkpoints (name, position) VALUES ($1, 0) ON CONFLICT (name) DO NOTHING";
        transaction.execute_raw(self.database.sql(sql, vec![CHECKPOINT.into()])).await?;
        let sql = format!("SELECT position FROM checkpoints WHERE name = $1{}", self.database.for_update());
        let row = transaction.query_one_raw(self.database.sql(sql, vec![CHECKPOINT.into()])).await?;
        let position: Option<i64> = row.map(|row| row.try_get_by_index(0)).transpose()?;
        Ok(Cursor::at(position.unwrap_or(0).unsigned_abs()))
    }
}

/// The index of the tenant's next record.
async fn next(connection: &impl ConnectionTrait, database: &Database, tenant: TenantId) -> Result<u64, DbErr> {
    let sql = "SELECT MAX(leaf) FROM ledger_index WHERE tenant = $1";
    let row = connection.query_one_raw(database.sql(sql, vec![tenant.to_string().into()])).await?;
    let last: Option<i64> = row.map(|row| row.try_get_by_index::<Option<i64>>(0)).transpose()?.flatten();
    Ok(last.map_or(0, |last| last.unsigned_abs() + 1))
}

/// As SQL has it: signed.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
