//! A tenant's record by the id of its event.

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

// Ids of events begin with the time: new ones go to the end of the index, which costs appends little.
const STATEMENTS: &str = "
CREATE INDEX records_by_event ON records (tenant, event)
";
