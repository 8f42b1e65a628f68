//! Puts the rows of a batch into one copy of the read model, in the transaction that moves its checkpoint.

use schema::{clock::Timestamp, event::StreamId, id::TenantId};
use sea_orm::{ConnectionTrait, DbErr, Value};

use super::projector::ProjectError;
use crate::{database::Database, eventing::store::Cursor};

/// The tables of one copy of the read model, and the name of its checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tables {
    pub(super) views: &'static str,
    pub(super) terms: &'static str,
    pub(super) handles: &'static str,
    pub(super) checkpoint: &'static str,
}

/// The row of checkpoints that counts how often the served copy was replaced: whoever remembers rows of a former one forgets them.
pub(super) const COPIES: &str = "views_copies";
/// The copy that questions are answered from.
pub(super) const SERVED: Tables = Tables { views: "views", terms: "view_terms", handles: "view_handles", checkpoint: "views" };

const INSERT_ROWS: usize = 64;

/// What a batch changes, row by row, as columns.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) ended: Vec<Ended>,
    pub(super) views: Vec<Vec<Value>>,
    pub(super) terms: Vec<Vec<Value>>,
    pub(super) handles: Vec<Vec<Value>>,
}

/// A row that was there before the batch, and when it ends.
pub(super) struct Ended {
    pub(super) tenant: TenantId,
    pub(super) kind: &'static str,
    pub(super) stream: StreamId,
    pub(super) revision: u64,
    pub(super) at: Timestamp,
}

/// Where rows go.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) database: Database,
    pub(super) tables: Tables,
}

impl Target {
    /// Writes a batch that was computed where this copy of the read model stood; false when it stands elsewhere now, because another
    /// replica was first.
    pub(super) async fn write(self, (position, copy): (Cursor, Option<i64>), rows: Rows, upto: Cursor) -> Result<bool, ProjectError> {
        let Rows { ended, views, terms, handles } = rows;
        let transaction = self.database.begin().await?;
        let here = self.lock_checkpoint(&transaction).await? == position;
        if !here || Some(self.copies(&transaction).await?) != copy {
            transaction.rollback().await?;
            return Ok(false);
        }
        for Ended { tenant, kind, stream, revision, at } in ended {
            let views = self.tables.views;
            let sql = format!("UPDATE {views} SET valid_to = $1 WHERE tenant = $2 AND kind = $3 AND id = $4 AND revision = $5");
            let values = vec![at.micros().into(), tenant.to_string().into(), kind.into(), stream.as_str().into(), number(revision).into()];
            transaction.execute_raw(self.database.sql(sql, values)).await?;
        }
        let columns = "tenant, kind, id, revision, position, valid_from, valid_to, parent, name, state, data_key, sealed";
        self.insert(&transaction, self.tables.views, columns, "", views).await?;
        self.insert(&transaction, self.tables.terms, "tenant, kind, term, id, revision", "", terms).await?;
        let (table, columns) = (self.tables.handles, "handle, tenant, kind, id");
        self.insert(&transaction, table, columns, " ON CONFLICT (handle) DO NOTHING", handles).await?;
        self.move_checkpoint(&transaction, upto).await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn insert(
        &self,
        connection: &impl ConnectionTrait,
        table: &str,
        columns: &str,
        on_conflict: &str,
        rows: Vec<Vec<Value>>,
    ) -> Result<(), DbErr> {
        for rows in rows.chunks(INSERT_ROWS) {
            let mut n = 0;
            let mut places = Vec::with_capacity(rows.len());
            for row in rows {
                let row: Vec<_> = row
                    .iter()
                    .map(|_| {
                        n += 1;
                        format!("${n}")
                    })
                    .collect();
                places.push(format!("({})", row.join(", ")));
            }
            let sql = format!("INSERT INTO {table} ({columns}) VALUES {}{on_conflict}", places.join(", "));
            connection.execute_raw(self.database.sql(sql, rows.iter().flatten().cloned().collect())).await?;
        }
        Ok(())
    }

    /// How often the served copy was replaced.
    pub(super) async fn copies(&self, connection: &impl ConnectionTrait) -> Result<i64, DbErr> {
        let sql = "SELECT position FROM checkpoints WHERE name = $1";
        let row = connection.query_one_raw(self.database.sql(sql, vec![COPIES.into()])).await?;
        Ok(row.map(|row| row.try_get_by_index(0)).transpose()?.unwrap_or(0))
    }

    /// Where the copy stands, which nobody moves until the transaction ends.
    pub(super) async fn lock_checkpoint(&self, connection: &impl ConnectionTrait) -> Result<Cursor, DbErr> {
        let sql = "INSERT INTO checkpoints (name, position) VALUES ($1, 0) ON CONFLICT (name) DO NOTHING";
        connection.execute_raw(self.database.sql(sql, vec![self.tables.checkpoint.into()])).await?;
        let sql = format!("SELECT position FROM checkpoints WHERE name = $1{}", self.database.for_update());
        let row = connection.query_one_raw(self.database.sql(sql, vec![self.tables.checkpoint.into()])).await?;
        let position: Option<i64> = row.map(|row| row.try_get_by_index(0)).transpose()?;
        Ok(Cursor::at(position.unwrap_or(0).unsigned_abs()))
    }

    async fn move_checkpoint(&self, connection: &impl ConnectionTrait, to: Cursor) -> Result<(), DbErr> {
        let sql = "UPDATE checkpoints SET position = $1 WHERE name = $2";
        connection.execute_raw(self.database.sql(sql, vec![number(to.position()).into(), self.tables.checkpoint.into()])).await.map(drop)
    }
}

/// As SQL has it: signed.
pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
