//! What is known of the ratchet of each agent: how a copy of it shows.

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
-- Counter: the number of the newest report that followed. A change names the one it follows, so that of two at once one wins.
CREATE TABLE agent_ratchets (
    tenant   TEXT NOT NULL,
    agent    TEXT NOT NULL,
    counter  {bigint} NOT NULL,
    data_key TEXT NOT NULL,
    sealed   {bytes} NOT NULL,
    PRIMARY KEY (tenant, agent)
)
";
