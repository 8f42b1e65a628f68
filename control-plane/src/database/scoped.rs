//! Reading inside one tenant. Every such query names its tenant; where the database has a role for readers, the transaction
//! names it too, and rows of another are not there for it.

use schema::id::TenantId;
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, QueryResult, Statement, TransactionTrait};

use super::{Database, roles::TENANT_SETTING};

/// Reads rows of one tenant.
#[derive(Debug, Clone, Copy)]
pub struct Scoped<'a> {
    database: &'a Database,
    tenant: TenantId,
}

impl Database {
    /// For reads inside one tenant.
    pub fn of(&self, tenant: TenantId) -> Scoped<'_> {
        Scoped { database: self, tenant }
    }
}

impl Scoped<'_> {
    /// Every row.
    pub async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let Some(transaction) = self.enter().await? else { return self.database.read().query_all_raw(statement).await };
        let rows = transaction.query_all_raw(statement).await?;
        transaction.commit().await?;
        Ok(rows)
    }

    /// The first row.
    pub async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let Some(transaction) = self.enter().await? else { return self.database.read().query_one_raw(statement).await };
        let row = transaction.query_one_raw(statement).await?;
        transaction.commit().await?;
        Ok(row)
    }

    /// A transaction of the reader inside the tenant; none when there is no such role. The setting ends with it.
    async fn enter(&self) -> Result<Option<DatabaseTransaction>, DbErr> {
        let Some(reader) = self.database.reader() else { return Ok(None) };
        let transaction = reader.begin().await?;
        let sql = format!("SELECT set_config('{TENANT_SETTING}', $1, true)");
        transaction.query_one_raw(self.database.sql(sql, vec![self.tenant.to_string().into()])).await?;
        Ok(Some(transaction))
    }
}
