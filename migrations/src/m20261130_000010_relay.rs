//! What agents have for each other, until it is fetched.

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
-- Prekeys of agents (recipient: whose it is) and transfers to them, exact bytes sealed, until the prekey ends.
-- Id: SHA-256 of the bytes. Sender and version: of transfers only.
CREATE TABLE relay (
    tenant    TEXT NOT NULL,
    recipient TEXT NOT NULL,
    id        TEXT NOT NULL,
    site      TEXT NOT NULL,
    prekey    TEXT NOT NULL,
    sender    TEXT,
    version   TEXT,
    at        {bigint} NOT NULL,
    expires   {bigint} NOT NULL,
    data_key  TEXT NOT NULL,
    sealed    {bytes} NOT NULL,
    PRIMARY KEY (tenant, recipient, id)
);
CREATE INDEX relay_by_site ON relay (tenant, site)
";
