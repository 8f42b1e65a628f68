//! Which sealing key each key of a tenant hangs from, so that the sealing key can be replaced while everything runs. A
//! tenant's key that does not say (an older program made it) is under any of them.

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
-- Sealing keys in use, by fingerprint. Wrapped: what the source gave us to keep, when it wraps the key; never the key.
CREATE TABLE sealing_keys (
    fingerprint TEXT NOT NULL PRIMARY KEY,
    source      TEXT NOT NULL,
    wrapped     {bytes},
    created     {bigint} NOT NULL
);
INSERT INTO sealing_keys (fingerprint, source, created) SELECT sealing_key, 'file', created FROM deployment;
ALTER TABLE tenant_keys ADD COLUMN sealing_key TEXT;
UPDATE tenant_keys SET sealing_key = (SELECT sealing_key FROM deployment WHERE id = 1);
-- Grows when keys of tenants are replaced or destroyed: other processes then read theirs again.
ALTER TABLE deployment ADD COLUMN keys_changed {bigint} NOT NULL DEFAULT 0
";
