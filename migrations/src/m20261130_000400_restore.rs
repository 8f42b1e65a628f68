//! Whether this database was restored from a backup, and what was done of scheduled backups.

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
-- One row in a database that was restored: which backup, when it was made, when it was restored.
CREATE TABLE deployment_restore (
    id       {bigint} NOT NULL PRIMARY KEY CHECK (id = 1),
    backup   TEXT NOT NULL,
    created  {bigint} NOT NULL,
    restored {bigint} NOT NULL
);

-- One row. Slot: the time of the calendar that a replica took last. Failure: a code, until one succeeds.
CREATE TABLE backup_runs (
    id        {bigint} NOT NULL PRIMARY KEY CHECK (id = 1),
    slot      {bigint} NOT NULL,
    succeeded {bigint} NOT NULL,
    failure   TEXT
)
";
