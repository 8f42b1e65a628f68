//! The log of a deployment: read as it is kept, written as it was read, compared.

use sea_orm::{ConnectionTrait, DbErr, Value};
use sha2::{Digest as _, Sha256};

use super::{MoveError, asking};
use crate::{
    database::Database,
    eventing::{
        kurrent::{KurrentSettings, SealedLog},
        sealed::SealedRecord,
        sql::{COLUMNS, sealed_record},
        store::{Cursor, ReadError},
    },
};

/// Records read and written at once.
const BATCH: usize = 500;

/// Where records are.
pub(super) enum Log {
    Sql(Database),
    Kurrent(Box<SealedLog>),
}

/// What comparing found.
pub(super) struct Compared {
    pub(super) count: u64,
    pub(super) sha256: String,
    /// Their names, and the target's positions of the records that they had reached in the source.
    pub(super) reactors: Vec<(String, u64)>,
}

impl Log {
    pub(super) fn kurrent(settings: KurrentSettings) -> Self {
        Self::Kurrent(Box::new(SealedLog::new(settings)))
    }

    /// Whether a record's position is its number.
    pub(super) fn has_dense_positions(&self) -> bool {
        matches!(self, Self::Sql(_))
    }

    pub(super) async fn head(&self) -> Result<Cursor, MoveError> {
        match self {
            Self::Sql(database) => {
                let sql = "SELECT position FROM log_head WHERE id = 1";
                let row = database.write().query_one_raw(database.sql(sql, vec![])).await.map_err(asking("reading the head of a log"))?;
                let position: Option<i64> =
                    row.map(|row| row.try_get_by_index(0)).transpose().map_err(asking("reading the head of a log"))?;
                Ok(Cursor::at(position.unwrap_or(0).unsigned_abs()))
            }
            Self::Kurrent(log) => Ok(log.head().await?),
        }
    }

    /// The next records, in order; none at the end.
    async fn after(&self, after: Cursor) -> Result<Vec<SealedRecord>, MoveError> {
        match self {
            Self::Kurrent(log) => Ok(log.after(after, BATCH).await?),
            Self::Sql(database) => {
                let sql = format!("SELECT {COLUMNS} FROM records WHERE position > $1 ORDER BY position LIMIT $2");
                let values = vec![number(after.position()).into(), number(BATCH as u64).into()];
                let rows = database.write().query_all_raw(database.sql(sql, values)).await.map_err(asking("reading a log"))?;
                Ok(rows.iter().map(sealed_record).collect::<Result<_, ReadError>>()?)
            }
        }
    }

    /// Appends records that follow what is there.
    async fn append(&self, records: &[SealedRecord]) -> Result<(), MoveError> {
        match self {
            Self::Kurrent(log) => {
                for run in records.chunk_by(|a, b| a.tenant == b.tenant && a.stream == b.stream && a.revision + 1 == b.revision) {
                    let expected = run.first().map_or(0, |record| record.revision - 1);
                    log.append(expected, run).await?;
                }
                Ok(())
            }
            Self::Sql(database) => insert(database, records).await.map_err(asking("writing a log")),
        }
    }
}

async fn insert(database: &Database, records: &[SealedRecord]) -> Result<(), DbErr> {
    let transaction = database.begin().await?;
    let sql = format!("SELECT position FROM log_head WHERE id = 1{}", database.for_update());
    let row = transaction.query_one_raw(database.sql(sql, vec![])).await?;
    let mut position: i64 = row.map(|row| row.try_get_by_index(0)).transpose()?.unwrap_or(0);
    for records in records.chunks(64) {
        let mut values: Vec<Value> = Vec::with_capacity(records.len() * 7);
        for record in records {
            position += 1;
            values.extend([
                position.into(),
                record.tenant.to_string().into(),
                record.stream.as_str().into(),
                number(record.revision).into(),
                record.event.to_string().into(),
                record.data_key.to_string().into(),
                record.sealed.clone().into(),
            ]);
        }
        let sql = format!("INSERT INTO records ({COLUMNS}) VALUES {}", super::tables::places(records.len(), 7));
        transaction.execute_raw(database.sql(sql, values)).await?;
    }
    transaction.execute_raw(database.sql("UPDATE log_head SET position = $1 WHERE id = 1", vec![position.into()])).await?;
    transaction.commit().await
}

/// Copies every record of one log to another, beginning behind those that are there.
pub(super) async fn copy(from: &Log, to: &Log) -> Result<(), MoveError> {
    let mut there = count(to).await?;
    let mut cursor = Cursor::START;
    loop {
        let records = from.after(cursor).await?;
        let Some(last) = records.last() else { return Ok(()) };
        cursor = last.cursor;
        let known = usize::try_from(there).unwrap_or(usize::MAX).min(records.len());
        there -= known as u64;
        if known < records.len() {
            to.append(&records[known..]).await?;
            tracing::debug!(at = %cursor, "moved records");
        }
    }
}

async fn count(log: &Log) -> Result<u64, MoveError> {
    if log.has_dense_positions() {
        return Ok(log.head().await?.position());
    }
    let (mut count, mut cursor) = (0, Cursor::START);
    loop {
        let records = log.after(cursor).await?;
        let Some(last) = records.last() else { return Ok(count) };
        cursor = last.cursor;
        count += records.len() as u64;
    }
}

/// Reads both logs from the first record to the last.
pub(super) async fn compare(one: &Log, other: &Log, reactors: Vec<(String, u64)>) -> Result<Compared, MoveError> {
    let mut hash = Sha256::new();
    let mut compared = Compared { count: 0, sha256: String::new(), reactors: Vec::new() };
    for (name, _) in &reactors {
        compared.reactors.push((name.clone(), 0));
    }
    let (mut here, mut there) = (Cursor::START, Cursor::START);
    loop {
        let (ours, theirs) = (one.after(here).await?, other.after(there).await?);
        if ours.len() != theirs.len() {
            let what = format!("behind record {} one side has {} more, the other {}", compared.count, ours.len(), theirs.len());
            return Err(MoveError::Differs { what });
        }
        for (at, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            if (SealedRecord { cursor: Cursor::START, ..a.clone() }) != (SealedRecord { cursor: Cursor::START, ..b.clone() }) {
                return Err(MoveError::Differs {
                    what: format!("record {} ({} {} revision {})", compared.count + at as u64 + 1, a.tenant, a.stream, a.revision),
                });
            }
            for ((_, reached), (_, wanted)) in compared.reactors.iter_mut().zip(&reactors) {
                if a.cursor.position() <= *wanted {
                    *reached = b.cursor.position();
                }
            }
            for part in [a.tenant.to_string().as_bytes(), a.stream.as_str().as_bytes(), a.event.to_string().as_bytes(), &a.sealed] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
            hash.update(a.revision.to_be_bytes());
        }
        compared.count += ours.len() as u64;
        let (Some(ours), Some(theirs)) = (ours.last(), theirs.last()) else { break };
        (here, there) = (ours.cursor, theirs.cursor);
    }
    compared.sha256 = hex::encode(hash.finalize());
    Ok(compared)
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
