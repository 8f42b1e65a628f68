//! Keys of persons, and what was erased: applied again where an older backup brought it back.

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
-- Keys of persons, sealed under a data key of their tenant.
CREATE TABLE person_keys (
    tenant   TEXT NOT NULL,
    person   TEXT NOT NULL,
    id       TEXT NOT NULL,
    data_key TEXT NOT NULL,
    sealed   {bytes} NOT NULL,
    created  {bigint} NOT NULL,
    PRIMARY KEY (tenant, person, id)
);

-- What was erased: a person, or with an empty one the whole tenant. Ids only.
CREATE TABLE tombstones (
    tenant TEXT NOT NULL,
    person TEXT NOT NULL,
    erased {bigint} NOT NULL,
    PRIMARY KEY (tenant, person)
);
INSERT INTO tombstones (tenant, person, erased) SELECT tenant, '', MAX(created) FROM tenant_keys WHERE role = 'destroyed' GROUP BY tenant
";
