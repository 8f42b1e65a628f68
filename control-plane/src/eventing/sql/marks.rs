//! Marks in each tenant's ledger: where every five hundredth record of it is. Counting a tenant's records, or passing over them to
//! reach the last, begins at a mark and not at the first record.
//!
//! They are rows of `ledger_index`, which holds every record where the log is elsewhere. What a mark says never changes, so whoever
//! misses one writes it, as many as want to; without any, everything is found all the same, and takes longer.

use std::time::Duration;

use schema::id::TenantId;
use sea_orm::{ConnectionTrait, DbErr};

use super::number;
use crate::database::Database;

/// Records from one mark to the next.
pub(super) const EVERY: u64 = 500;
/// Marks that are written together.
const TOGETHER: usize = 64;
/// How long who reads waits for marks to be written.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where a record of a tenant's ledger is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Its index in the ledger.
    pub(super) leaf: u64,
    /// Its position in the log; anything before the first record, for the first one.
    pub(super) position: i64,
}

const FIRST: Mark = Mark { leaf: 0, position: 0 };

/// The marks of all tenants.
#[derive(Clone)]
pub(super) struct Marks {
    database: Database,
}

impl Marks {
    pub(super) fn new(database: &Database) -> Self {
        Self { database: database.projecting() }
    }

    /// The last mark that is not after this index: less than [`EVERY`] records before it, unless the ledger ends.
    pub(super) async fn before(&self, tenant: TenantId, index: u64) -> Result<Mark, DbErr> {
        let mark = self.last(tenant, "leaf", number(index)).await?;
        if index - mark.leaf < EVERY { Ok(mark) } else { self.go_on(tenant, mark, index).await }
    }

    /// The last mark that is not after this position in the log.
    pub(super) async fn before_position(&self, tenant: TenantId, position: i64) -> Result<Mark, DbErr> {
        self.newest(tenant).await?;
        self.last(tenant, "position", position).await
    }

    /// The last mark there is.
    pub(super) async fn newest(&self, tenant: TenantId) -> Result<Mark, DbErr> {
        self.before(tenant, u64::MAX).await
    }

    async fn last(&self, tenant: TenantId, column: &str, most: i64) -> Result<Mark, DbErr> {
        let sql = format!("SELECT leaf, position FROM ledger_index WHERE tenant = $1 AND {column} <= $2 ORDER BY leaf DESC LIMIT 1");
        let row = self.database.of(tenant).query_one_raw(self.database.sql(sql, vec![tenant.to_string().into(), most.into()])).await?;
        let Some(row) = row else { return Ok(FIRST) };
        Ok(Mark { leaf: row.try_get_by_index::<i64>(0)?.unsigned_abs(), position: row.try_get_by_index(1)? })
    }

    /// Finds the marks behind one up to an index, or to the end of the ledger, and keeps them.
    async fn go_on(&self, tenant: TenantId, mut mark: Mark, index: u64) -> Result<Mark, DbErr> {
        let mut found = Vec::new();
        while index - mark.leaf >= EVERY {
            let sql = "SELECT position FROM records WHERE tenant = $1 AND position >= $2 ORDER BY position LIMIT 1 OFFSET $3";
            let values = vec![tenant.to_string().into(), mark.position.into(), number(EVERY).into()];
            let Some(row) = self.database.of(tenant).query_one_raw(self.database.sql(sql, values)).await? else { break };
            mark = Mark { leaf: mark.leaf + EVERY, position: row.try_get_by_index(0)? };
            found.push(mark);
            if found.len() == TOGETHER {
                self.keep(tenant, &std::mem::take(&mut found)).await;
            }
        }
        self.keep(tenant, &found).await;
        Ok(mark)
    }

    /// What is found is right, kept or not: who reads is not to fail because nothing can be written now.
    async fn keep(&self, tenant: TenantId, marks: &[Mark]) {
        if marks.is_empty() {
            return;
        }
        let mut values = vec![tenant.to_string().into()];
        for mark in marks {
            values.extend([number(mark.leaf).into(), mark.position.into()]);
        }
        let each: Vec<_> = (0..marks.len())
            .map(|mark| (2 * mark + 2, 2 * mark + 3))
            .map(|(leaf, position)| {
                format!("SELECT tenant, CAST(${leaf} AS BIGINT), event, position FROM records WHERE tenant = $1 AND position = ${position}")
            })
            .collect();
        let sql = format!("INSERT INTO ledger_index (tenant, leaf, event, position) {} ON CONFLICT DO NOTHING", each.join(" UNION ALL "));
        let kept = tokio::time::timeout(PATIENCE, self.database.write().execute_raw(self.database.sql(sql, values))).await;
        if let Ok(Err(error)) = kept {
            tracing::debug!(%tenant, error = &error as &dyn std::error::Error, "marks in a tenant's ledger could not be kept");
        }
    }
}
