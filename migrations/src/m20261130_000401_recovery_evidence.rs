//! What agents showed that they hold and this control plane does not know, after it was restored from an older backup.

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
-- The newest set of a site, by its heartbeat's epoch and serial: exact bytes of statements, sealed.
CREATE TABLE recovery_evidence (
    tenant   TEXT NOT NULL,
    site     TEXT NOT NULL,
    agent    TEXT,
    at       {bigint} NOT NULL,
    epoch    {bigint} NOT NULL,
    serial   {bigint} NOT NULL,
    data_key TEXT NOT NULL,
    sealed   {bytes} NOT NULL,
    PRIMARY KEY (tenant, site)
)
";
