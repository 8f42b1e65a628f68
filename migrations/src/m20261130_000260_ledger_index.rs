//! For stores whose log has no index of each tenant's own ledger; and whether this database is being moved.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    #[allow(elided_lifetimes_in_paths, reason = "the trait's own signature elides it")]
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run(manager, STATEMENTS).await
    }
}

const STATEMENTS: &str = "
-- The place of every record in its tenant's ledger, from 0 without gaps. Empty where the log itself is in SQL.
CREATE TABLE ledger_index (
    tenant   TEXT NOT NULL,
    leaf     {bigint} NOT NULL,
    event    TEXT NOT NULL,
    position {bigint} NOT NULL,
    PRIMARY KEY (tenant, leaf)
);
CREATE UNIQUE INDEX ledger_index_by_event ON ledger_index (tenant, event);

-- One row while and after a deployment is moved. State: arriving (not complete, must not be served), moved (elsewhere now).
CREATE TABLE deployment_move (
    id      {bigint} NOT NULL PRIMARY KEY CHECK (id = 1),
    state   TEXT NOT NULL,
    place   TEXT NOT NULL
)
";
