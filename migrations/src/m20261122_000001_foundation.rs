//! Records, keys at rest, read models, reactors.
//!
//! Every table of tenants' data begins with the tenant, so that row-level security is a policy on a column that is
//! there. Text that people wrote stands in `sealed` columns only; other columns hold ids, times, numbers, plain words
//! of ours, and keyed blind indexes.

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
-- One row: which sealing key this database hangs from.
CREATE TABLE deployment (
    id          {bigint} NOT NULL PRIMARY KEY CHECK (id = 1),
    sealing_key TEXT NOT NULL,
    created     {bigint} NOT NULL
);

-- Keys of tenants, sealed under the sealing key. Role: data, index, destroyed.
CREATE TABLE tenant_keys (
    tenant  TEXT NOT NULL,
    id      TEXT NOT NULL,
    role    TEXT NOT NULL,
    sealed  {bytes} NOT NULL,
    created {bigint} NOT NULL,
    PRIMARY KEY (tenant, id)
);

-- One row: the last position given out. Locking it orders the writers.
CREATE TABLE log_head (
    id       {bigint} NOT NULL PRIMARY KEY CHECK (id = 1),
    position {bigint} NOT NULL
);
INSERT INTO log_head (id, position) VALUES (1, 0);

-- The records, for ever. Positions are dense, from 1.
CREATE TABLE records (
    position {bigint} NOT NULL PRIMARY KEY,
    tenant   TEXT NOT NULL,
    stream   TEXT NOT NULL,
    revision {bigint} NOT NULL,
    event    TEXT NOT NULL,
    data_key TEXT NOT NULL,
    sealed   {bytes} NOT NULL,
    UNIQUE (tenant, stream, revision)
);

-- Bodies too large for a record. Name: a keyed hash of the SHA-256 that the record names.
CREATE TABLE blobs (
    tenant   TEXT NOT NULL,
    name     {bytes} NOT NULL,
    data_key TEXT NOT NULL,
    sealed   {bytes} NOT NULL,
    PRIMARY KEY (tenant, name)
);

-- The control plane's own signing pairs and keys of certificate authorities.
CREATE TABLE secrets (
    tenant   TEXT NOT NULL,
    name     {bytes} NOT NULL,
    data_key TEXT NOT NULL,
    sealed   {bytes} NOT NULL,
    created  {bigint} NOT NULL,
    PRIMARY KEY (tenant, name)
);

-- The read model: one row per aggregate and change. The present one has no valid_to.
CREATE TABLE views (
    tenant     TEXT NOT NULL,
    kind       TEXT NOT NULL,
    id         TEXT NOT NULL,
    revision   {bigint} NOT NULL,
    position   {bigint} NOT NULL,
    valid_from {bigint} NOT NULL,
    valid_to   {bigint},
    parent     {bytes},
    name       {bytes},
    state      TEXT,
    data_key   TEXT NOT NULL,
    sealed     {bytes} NOT NULL,
    PRIMARY KEY (tenant, kind, id, revision)
);
CREATE UNIQUE INDEX views_present ON views (tenant, kind, id) WHERE valid_to IS NULL;
CREATE INDEX views_by_parent ON views (tenant, kind, parent, id) WHERE valid_to IS NULL;
CREATE INDEX views_by_name ON views (tenant, kind, parent, name) WHERE valid_to IS NULL;

-- What else listings filter by, as keyed hashes of (term, value).
CREATE TABLE view_terms (
    tenant   TEXT NOT NULL,
    kind     TEXT NOT NULL,
    term     {bytes} NOT NULL,
    id       TEXT NOT NULL,
    revision {bigint} NOT NULL,
    PRIMARY KEY (tenant, kind, term, id, revision)
);

-- SHA-256 of secrets that somebody proves who they are by, in the whole deployment.
CREATE TABLE view_handles (
    handle TEXT NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    kind   TEXT NOT NULL,
    id     TEXT NOT NULL
);

-- How far projectors have come, moved in the transaction that writes their rows.
CREATE TABLE checkpoints (
    name     TEXT NOT NULL PRIMARY KEY,
    position {bigint} NOT NULL
);

-- Who leads what. A new leader has the next token, and what an old one writes under its token is refused.
CREATE TABLE leaders (
    name    TEXT NOT NULL PRIMARY KEY,
    holder  TEXT NOT NULL,
    token   {bigint} NOT NULL,
    expires {bigint} NOT NULL
);

-- How far reactors have come.
CREATE TABLE reactors (
    name     TEXT NOT NULL PRIMARY KEY,
    position {bigint} NOT NULL,
    token    {bigint} NOT NULL
)
";
