//! What agents are told and what they tell: heartbeats, reports, receipts.

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
-- The current heartbeat of each site. A serial is kept here before anybody is served it, so none is ever used twice.
-- Members: what the heartbeat pins, as JSON of ids, serials, hashes and times.
CREATE TABLE heartbeats (
    tenant   TEXT NOT NULL,
    site     TEXT NOT NULL,
    epoch    {bigint} NOT NULL,
    serial   {bigint} NOT NULL,
    issued   {bigint} NOT NULL,
    envelope {bytes} NOT NULL,
    members  TEXT NOT NULL,
    PRIMARY KEY (tenant, site)
);
CREATE INDEX heartbeats_by_age ON heartbeats (issued);

-- What each agent said of itself last.
CREATE TABLE agent_reports (
    tenant    TEXT NOT NULL,
    agent     TEXT NOT NULL,
    site      TEXT NOT NULL,
    at        {bigint} NOT NULL,
    heartbeat {bigint},
    data_key  TEXT NOT NULL,
    sealed    {bytes} NOT NULL,
    PRIMARY KEY (tenant, agent)
);
CREATE INDEX agent_reports_by_site ON agent_reports (tenant, site);

-- Receipts, exact bytes sealed. Outcome: of intents and refusals only. Outcome_seq: the entry that told it.
CREATE TABLE receipts (
    tenant      TEXT NOT NULL,
    agent       TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    seq         {bigint} NOT NULL,
    id          TEXT NOT NULL,
    site        TEXT NOT NULL,
    time        {bigint} NOT NULL,
    chain       {bytes} NOT NULL,
    caller      {bytes},
    key         {bytes},
    key_version {bytes},
    operation   {bytes},
    outcome     TEXT,
    outcome_seq {bigint},
    data_key    TEXT NOT NULL,
    sealed      {bytes} NOT NULL,
    PRIMARY KEY (tenant, agent, incarnation, seq)
);
CREATE UNIQUE INDEX receipts_by_id ON receipts (tenant, id);
CREATE INDEX receipts_by_time ON receipts (tenant, time, id) WHERE outcome IS NOT NULL;
CREATE INDEX receipts_by_caller ON receipts (tenant, caller, time) WHERE outcome IS NOT NULL;
CREATE INDEX receipts_by_key ON receipts (tenant, key, time) WHERE outcome IS NOT NULL
";
